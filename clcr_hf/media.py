"""Reading and writing clips: frames with exact times, audio at the rate asked for.

Everything goes through PyAV, whose wheel carries its own FFmpeg, so no system package is needed. PyAV is imported on
first use; `pip install av pillow` brings it.

Times are seconds from the beginning of the clip (the container's own start when it has one after zero), the same
clock for video and audio: sample `i` of a waveform loaded from `start` is heard at `start + i / sampling_rate`.
Files are decoded in order and only what is asked for is kept, so memory does not grow with the length of the clip
(except where every frame is asked for). What a file claims about itself is not believed: an image of more than
`MAX_PIXELS` pixels, a video of more than `OWN` allows, or a result of more than `MAX_BYTES`, is refused before memory
is taken for it (`limits.py`). Frames beyond 2K are scaled down as they are decoded where a clip's would take more than
128 MiB together.
"""

import os
import uuid
import warnings
import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from .errors import in_one_line
from .limits import MAX_BYTES, MAX_FLOW_BYTES, MAX_PIXELS, OWN, VideoLimits, kept_size
from .media_audio import Samples, resample_audio
from .media_decode import Tracks
from .media_files import MediaError, MediaSource, damaged, import_av, name_of, openable, opening, optional
from .media_scan import Plan, Scan, scan_packets
from .media_video import Frames, VideoClip, WrongEndError
from .media_write import check_frames, encode

# Still images we open. PostScript stays out: Pillow hands it to another program.
_IMAGE_FORMATS = ("JPEG", "PNG", "WEBP", "BMP", "GIF", "TIFF", "PPM")


@dataclass
class MediaClip:
    """Frames and audio of one file.

    Attributes:
        video: the frames, or None where the file has no video track.
        audio: float32 `(samples,)`, or `(channels, samples)` with `mono=False`; None where there is no audio track.
        sampling_rate: samples a second of `audio`; None without audio.
        duration: seconds of the clip inside the window: from `start` to `end` or, where that comes first, to the end
            of the longer of its two tracks.
    """

    video: VideoClip | None
    audio: np.ndarray | None
    sampling_rate: int | None
    duration: float = 0.0


def load_video(
    source: MediaSource,
    *,
    num_frames: int | None = None,
    fps: float | None = None,
    start: float = 0.0,
    end: float | None = None,
) -> VideoClip:
    """Reads the frames of a clip.

    Args:
        source: path, bytes, or binary file object of MP4, WebM, AVI, MOV, MKV and the like.
        num_frames: this many frames, spread evenly: the window is cut into `num_frames` equal parts and the frame
            on screen at the middle of each is taken. A clip with fewer frames repeats some.
        fps: one frame each `1 / fps` seconds from `start`: the one on screen at that moment. With neither
            `num_frames` nor `fps`, every frame.
        start, end: window in seconds; `end=None` reads to the end.

    Returns:
        `VideoClip`: frames uint8 `(F, H, W, 3)` RGB, timestamps float64 `(F,)` in seconds.

    Raises:
        MediaError: the file is missing, empty, broken, cut short, too large for `MAX_PIXELS` or `MAX_BYTES`, or has
            no video track or no frame in the window.
        ValueError: arguments that contradict each other.
        ImportError: PyAV is not installed.
    """
    clip = load_media(source, num_frames=num_frames, fps=fps, start=start, end=end, audio=False)
    if clip.video is None:
        raise MediaError(f"{name_of(source)} has no video track; for its audio alone use load_audio")
    return clip.video


def load_audio(
    source: MediaSource,
    *,
    sampling_rate: int,
    mono: bool = True,
    start: float = 0.0,
    end: float | None = None,
) -> np.ndarray:
    """Reads the audio of a clip or audio file (WAV, MP3, FLAC, OGG, M4A, MP4, WebM and the like).

    Args:
        source: path, bytes, or binary file object.
        sampling_rate: samples a second wanted; the audio is resampled to it.
        mono: mix the channels as `ffmpeg -ac 1` does (two: their mean; 5.1: the front ones louder, no bass channel),
            scaled so that full scale stays [-1, 1]; False keeps them.
        start, end: window in seconds; `end=None` reads to the end. It gives the samples from
            `round(start * sampling_rate)` to `round(end * sampling_rate)` of the whole.

    Returns:
        float32 `(samples,)`, or `(channels, samples)` with `mono=False`; full scale is [-1, 1].

    Raises:
        MediaError: the file is missing, empty, broken, cut short, or has no audio track.
        ValueError: arguments that contradict each other.
        ImportError: PyAV is not installed.
    """
    clip = load_media(source, sampling_rate=sampling_rate, mono=mono, start=start, end=end, video=False)
    if clip.audio is None:
        raise MediaError(f"{name_of(source)} has no audio track; for its frames use load_video")
    return clip.audio


def load_media(
    source: MediaSource,
    *,
    num_frames: int | None = None,
    fps: float | None = None,
    sampling_rate: int | None = None,
    mono: bool = True,
    start: float = 0.0,
    end: float | None = None,
    video: bool = True,
    audio: bool = True,
    limits: VideoLimits | None = None,
) -> MediaClip:
    """Reads frames and audio of one file together; arguments as in `load_video` and `load_audio`.

    `sampling_rate=None` keeps the rate of the file. A track that is not there gives None, as does one that is not
    wanted (`video`, `audio`). `limits`: what decoding may cost; `OWN` by default.

    Raises:
        MediaError: the file is missing, empty, broken, cut short, too large, or has neither track.
        ValueError: arguments that contradict each other.
        ImportError: PyAV is not installed.
    """
    wanted: dict[str, Any] = {"num_frames": num_frames, "fps": fps, "sampling_rate": sampling_rate, "mono": mono}
    return _read(source, _plan(limits or OWN, **wanted, start=start, end=end, video=video, audio=audio))


def load_image(source: MediaSource, count: int = 1) -> np.ndarray:
    """Reads a still image (JPEG, PNG, WebP, BMP, GIF, TIFF, PPM); of an animated one, the first.

    Args:
        source: path, bytes, or binary file object.
        count: of how many frames it is one; a large one of many is scaled down (see [`~limits.kept_size`]).

    Returns:
        uint8 `(H, W, 3)`, RGB, upright where the file carries an orientation (EXIF).

    Raises:
        MediaError: the file is missing, empty, broken, no image, or has more than `MAX_PIXELS` pixels.
        ImportError: Pillow is not installed.
    """
    Image = optional("PIL.Image", "reading images needs Pillow: pip install av pillow")
    name = name_of(source)
    stream = openable(source, name)
    if hasattr(stream, "seek"):
        stream.seek(0)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)  # we check the size ourselves
            with Image.open(stream, formats=_IMAGE_FORMATS) as image:
                return upright_image(image, name, count)
    except MediaError:
        raise
    except Image.DecompressionBombError as error:
        raise MediaError(f"{name} claims too many pixels: {error}; make it smaller") from error
    except Exception as error:  # Pillow's readers raise whatever a damaged file makes them stumble over
        raise damaged(name, str(error)) from error


def upright_image(image: Any, name: str = "an image", count: int = 1) -> np.ndarray:
    """A PIL image as `load_image` gives one, uint8 `(H, W, 3)`; MediaError where it is too large or damaged."""
    try:
        from PIL import ExifTags, ImageOps
        from PIL.Image import Resampling

        Plan(MAX_PIXELS, MAX_BYTES).check_pixels(image.width, image.height, name)
        size = kept_size(image.width, image.height, count)
        if size != image.size:
            image.draft("RGB", size)  # a JPEG is then decoded at a smaller size
            image.load()  # a TIFF then turns itself
            size = size if (image.width > image.height) == (size[0] > size[1]) else size[::-1]
            turned = image.getexif().get(ExifTags.Base.Orientation, 1)
            image = (image if image.mode == "RGB" else image.convert("RGB")).resize(size, Resampling.BOX)
            image.getexif()[ExifTags.Base.Orientation] = turned
        return np.array(ImageOps.exif_transpose(image).convert("RGB"))
    except OSError as error:
        raise damaged(name, str(error)) from error


def load_flow(path: str | os.PathLike[str], *, start: float = 0.0, end: float | None = None) -> np.ndarray:
    """Reads a file of optical flow that `clcr_hf.data.flow` wrote.

    Args:
        path: the file.
        start, end: window in seconds of the clip that the flow is of; `end=None` reads to the end.

    Returns:
        float32 `(F, 2, H, W)`: pixels to the right, pixels down.

    Raises:
        MediaError: absent, damaged, no flow file, more than `MAX_FLOW_BYTES`, no flow in the window. Nothing is
            unpickled.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            size = sum(entry.file_size for entry in archive.infolist())
        if size > MAX_FLOW_BYTES:
            raise MediaError(f"{path} unpacks to {size:,} bytes; a flow file has at most {MAX_FLOW_BYTES:,}")
        with np.load(path, allow_pickle=False) as arrays:
            flow, times = arrays["flow"], arrays["timestamps"]
    except MediaError:
        raise
    except Exception as error:  # both readers stumble over damage anywhere
        said = in_one_line(error)
        raise MediaError(f"{path} cannot be read as a flow file: {said}; delete it and compute it again") from error
    if flow.dtype.kind != "f" or flow.ndim != 4 or flow.shape[3] != 2 or times.shape != flow.shape[:1]:
        raise MediaError(f"{path} is no flow file: flow is {flow.dtype} {flow.shape}, timestamps {times.shape}")
    if not np.isfinite(flow).all():
        raise MediaError(f"{path} holds NaN or infinite flow; delete it and compute it again")
    inside = (times >= start) & (times < (np.inf if end is None else end))
    if len(flow) and not inside.any():
        raise MediaError(f"{path} holds no flow between {start:g} s and {'the end' if end is None else f'{end:g} s'}")
    flow = flow[inside]
    return np.ascontiguousarray(flow.transpose(0, 3, 1, 2), dtype=np.float32)


def media_duration(source: MediaSource, limits: VideoLimits = OWN) -> float:
    """Seconds from the beginning of a clip or audio to the end of its last track, told from its packets: nothing is
    decoded, and the length that its header states is not believed.

    Args:
        source: path, bytes, or binary file object.
        limits: what decoding it may cost.

    Raises:
        MediaError: the file is missing, empty, broken, cut short, too large for `limits`, or has neither a video nor an
            audio track.
        ImportError: PyAV is not installed.
    """
    lengths = [length for length in track_lengths(source, limits) if length is not None]
    if not lengths:
        raise MediaError(f"{name_of(source)} has neither a video nor an audio track")
    return max(lengths)


def track_lengths(source: MediaSource, limits: VideoLimits = OWN) -> tuple[float | None, float | None]:
    """Where the video and the audio track end, in seconds from the clip's beginning; None for a track not there.

    Told from the packets, as `media_duration`.

    Raises:
        MediaError: the file is missing, empty, broken or cut short.
        ImportError: PyAV is not installed.
    """
    with opening(source) as (name, open_container), open_container() as container:
        scan = scan_packets(container, _plan(limits), name)
    video, audio = (None if track is None else track.end for track in (scan.video, scan.audio))
    return video, audio


def write_video(
    path: str | os.PathLike[str],
    frames: Any,
    fps: float,
    audio: Any | None = None,
    sampling_rate: int | None = None,
) -> Path:
    """Writes an MP4: H.264 (or MPEG-4 where the wheel has no H.264 encoder) and AAC.

    The file appears whole or not at all: it is written beside `path` under another name and then renamed.

    Args:
        path: where to write; its folder is created.
        frames: uint8 `(F, H, W, 3)` RGB; an odd height or width is made even by repeating the last row or column.
        fps: frames a second.
        audio: `(samples,)`, `(channels, samples)` or `(samples, channels)`, mixed to mono; full scale [-1, 1].
        sampling_rate: samples a second of `audio`; one that AAC knows (8000 to 96000).

    Returns:
        The path written.

    Raises:
        ValueError: wrong shapes or types.
        MediaError: the encoder refused.
        ImportError: PyAV is not installed.
    """
    pictures = check_frames(frames)
    if not fps > 0:
        raise ValueError(f"fps must be positive, got {fps}")
    wave = None
    if audio is not None:
        if sampling_rate is None:
            raise ValueError("sampling_rate is needed with audio")
        wave = resample_audio(audio, sampling_rate, sampling_rate)
    target = Path(path)
    target.parent.mkdir(parents=True, exist_ok=True)
    draft = target.with_name(f".{target.name}.{uuid.uuid4().hex}.mp4")
    av = import_av()
    try:
        encode(av, draft, pictures, fps, wave, sampling_rate)
        os.replace(draft, target)
    except av.error.FFmpegError as error:
        raise MediaError(f"cannot write {target}: {error}; check fps, frame size and sampling_rate") from error
    finally:
        draft.unlink(missing_ok=True)
    return target


def _plan(limits: VideoLimits, **wanted: Any) -> Plan:
    return Plan(min(MAX_PIXELS, limits.frame_pixels), MAX_BYTES, **wanted, max_decoded=limits.decoded_pixels)


def _read(source: MediaSource, plan: Plan) -> MediaClip:
    with opening(source) as (name, open_container):
        with open_container() as container:
            scan = scan_packets(container, plan, name)
        if not scan.ends:
            raise MediaError(f"{name} has neither a video nor an audio track")
        with open_container() as container:
            try:
                return _decode(container, plan, scan, name)
            except WrongEndError as found:
                assert scan.video is not None
                scan.video.end = found.seconds
        with open_container() as container:
            return _decode(container, plan, scan, name, certain=True)


def _decode(container: Any, plan: Plan, scan: Scan, name: str, certain: bool = False) -> MediaClip:
    """One pass over the file; `certain`: the end of the video was found by decoding."""
    tracks = Tracks(container, plan, scan, name)
    frames = None if tracks.clock is None else Frames(plan, tracks.clock, certain, name)
    samples: Samples | None = None
    if tracks.rate is not None and scan.audio is not None:
        length = scan.audio.length if plan.end is None else min(scan.audio.length, plan.end)
        channels = 1 if plan.mono else tracks.audio.channels
        plan.check_bytes(4 * (length - plan.start) * tracks.rate * channels, "audio", name)
        samples = Samples(plan, tracks.rate, name)
    for _ in tracks.decode(frames, samples):
        pass
    whole = max(scan.ends, default=0.0)
    return MediaClip(
        video=None if frames is None else frames.close(),
        audio=None if samples is None else samples.close(),
        sampling_rate=tracks.rate,
        duration=max((whole if plan.end is None else min(plan.end, whole)) - plan.start, 0.0),
    )
