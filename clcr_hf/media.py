"""Reading and writing clips: pictures with exact times, sound at the rate asked for.

Everything goes through PyAV, whose wheel carries its own FFmpeg, so no system package is needed. PyAV is imported on
first use; `pip install "clcr-hf[media]"` brings it.

Times are seconds from the beginning of the clip (the container's own start when it has one after zero), the same
clock for pictures and sound: sample `i` of a waveform loaded from `start` is heard at `start + i / sampling_rate`.
Files are decoded in order and only what is asked for is kept, so memory does not grow with the length of the clip
(except where every frame is asked for). What a file claims about itself is not believed: a picture of more than
`MAX_PIXELS` pixels, or a result of more than `MAX_BYTES`, is refused before memory is taken for it.

Pictures can be decoded on a GPU by torchcodec (`device="cuda"`; `pip install "clcr-hf[gpu-media]"`, and FFmpeg's
libraries on the system).
"""

import io
import itertools
import os
import uuid
import warnings
import zipfile
import zlib
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from fractions import Fraction
from pathlib import Path
from types import ModuleType
from typing import Any, BinaryIO, Literal

import numpy as np

MediaSource = str | os.PathLike[str] | bytes | bytearray | memoryview | BinaryIO
Backend = Literal["auto", "pyav", "torchcodec"]

MAX_PIXELS = 89_478_485  # of one picture; Pillow's own limit, 256 MiB as RGB
MAX_FLOW_BYTES = 2**30  # of the arrays in one flow file, unpacked
MAX_BYTES = 4 * 2**30  # of the pictures, and of the sound, that one reading returns

# Containers we open. Playlists (HLS, DASH, concat) stay out: they make FFmpeg open whatever files they name.
_FORMATS = (
    "mov,mp4,m4a,matroska,webm,avi,mpegts,mpeg,mpegvideo,flv,asf,ogg,wav,w64,mp3,aac,flac,aiff,au,caf,gif,amr,ac3,wv"
)
# Containers whose time stamps stay exact to the sample after a seek (Matroska rounds to 1 ms, MP3 guesses); the others
# are read from the beginning.
_SEEKABLE = {"mov"}
# Containers whose header states the true length, so that a missing tail can be told.
_STATE_LENGTH = {"mov", "matroska", "flac", "wav"}
_PREROLL = 0.5  # seconds decoded before `start`, so that audio codecs have settled by then
_CLOSE = 1e-6  # seconds; moments nearer than this are the same moment
_MAX_CHANNELS = 32
_LEAST_FRAME_BYTES = 1024  # a kept frame counts as this much at least: its time and its place in a list weigh too
# Still pictures we open. PostScript stays out: Pillow hands it to another program.
_IMAGE_FORMATS = ("JPEG", "PNG", "WEBP", "BMP", "GIF", "TIFF", "PPM")


class MediaError(ValueError):
    """A clip that cannot be read or holds no such track; the message names it and says what to do."""


@dataclass
class VideoClip:
    """Pictures of a clip.

    Attributes:
        frames: uint8 `(F, H, W, 3)`, RGB, turned upright where the file carries a rotation.
        timestamps: float64 `(F,)`, the presentation time of each frame in seconds.
    """

    frames: np.ndarray
    timestamps: np.ndarray

    def __len__(self) -> int:
        return len(self.frames)

    def distinct(self) -> "VideoClip":
        """The clip with each frame once: a repeat, known by its timestamp, is dropped; the order stays."""
        first = np.sort(np.unique(self.timestamps, return_index=True)[1])
        return VideoClip(self.frames[first], self.timestamps[first])


@dataclass
class MediaClip:
    """Pictures and sound of one file.

    Attributes:
        video: the pictures, or None where the file has no video track.
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
    device: str = "cpu",
    backend: Backend = "auto",
) -> VideoClip:
    """Reads the pictures of a clip.

    Args:
        source: path, bytes, or binary file object of MP4, WebM, AVI, MOV, MKV and the like.
        num_frames: this many frames, spread evenly: the window is cut into `num_frames` equal parts and the frame
            on screen at the middle of each is taken. A clip with fewer frames repeats some.
        fps: one frame each `1 / fps` seconds from `start`: the one on screen at that moment. With neither
            `num_frames` nor `fps`, every frame.
        start, end: window in seconds; `end=None` reads to the end.
        device: where pictures are decoded, "cpu" or "cuda" (or "cuda:1"). They come back in ordinary memory.
        backend: "pyav", "torchcodec", or "auto": torchcodec for a GPU and PyAV for the CPU. Both choose the same
            frames. torchcodec on the CPU is tested against PyAV; on a GPU it is untested by us.

    Returns:
        `VideoClip`: frames uint8 `(F, H, W, 3)` RGB, timestamps float64 `(F,)` in seconds.

    Raises:
        MediaError: the file is missing, empty, broken, cut short, too large for `MAX_PIXELS` or `MAX_BYTES`, or has
            no video track or no frame in the window.
        ValueError: arguments that contradict each other, or a GPU that is not there.
        ImportError: PyAV, or torchcodec where it is asked for, is not installed.
    """
    plan = _Plan(num_frames=num_frames, fps=fps, start=start, end=end, audio=False, device=device, backend=backend)
    clip = _read(source, plan)
    if clip.video is None:
        raise MediaError(f"{_name(source)} has no video track; for its sound alone use load_audio")
    return clip.video


def load_audio(
    source: MediaSource,
    *,
    sampling_rate: int,
    mono: bool = True,
    start: float = 0.0,
    end: float | None = None,
) -> np.ndarray:
    """Reads the sound of a clip or sound file (WAV, MP3, FLAC, OGG, M4A, MP4, WebM and the like).

    Args:
        source: path, bytes, or binary file object.
        sampling_rate: samples a second wanted; the sound is resampled to it.
        mono: mean of the channels; False keeps them.
        start, end: window in seconds; `end=None` reads to the end.

    Returns:
        float32 `(samples,)`, or `(channels, samples)` with `mono=False`; full scale is [-1, 1].

    Raises:
        MediaError: the file is missing, empty, broken, cut short, or has no audio track.
        ValueError: arguments that contradict each other.
        ImportError: PyAV is not installed.
    """
    plan = _Plan(sampling_rate=sampling_rate, mono=mono, start=start, end=end, video=False)
    clip = _read(source, plan)
    if clip.audio is None:
        raise MediaError(f"{_name(source)} has no audio track; for its pictures use load_video")
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
    device: str = "cpu",
    backend: Backend = "auto",
) -> MediaClip:
    """Reads pictures and sound of one file together; arguments as in `load_video` and `load_audio`.

    `sampling_rate=None` keeps the rate of the file. A track that is not there gives None. `device` and `backend`
    are for the pictures.

    Raises:
        MediaError: the file is missing, empty, broken, cut short, too large, or has neither track.
        ValueError: arguments that contradict each other, or a GPU that is not there.
        ImportError: PyAV, or torchcodec where it is asked for, is not installed.
    """
    plan = _Plan(
        num_frames=num_frames,
        fps=fps,
        sampling_rate=sampling_rate,
        mono=mono,
        start=start,
        end=end,
        device=device,
        backend=backend,
    )
    clip = _read(source, plan)
    if clip.video is None and clip.audio is None:
        raise MediaError(f"{_name(source)} has neither a video nor an audio track")
    return clip


def load_image(source: MediaSource) -> np.ndarray:
    """Reads a still picture (JPEG, PNG, WebP, BMP, GIF, TIFF, PPM); of an animated one, the first.

    Args:
        source: path, bytes, or binary file object.

    Returns:
        uint8 `(H, W, 3)`, RGB, upright where the file carries an orientation (EXIF).

    Raises:
        MediaError: the file is missing, empty, broken, no picture, or has more than `MAX_PIXELS` pixels.
        ImportError: Pillow is not installed.
    """
    try:
        from PIL import Image, ImageOps
    except ImportError as error:
        raise ImportError('reading pictures needs Pillow: pip install "clcr-hf[media]"') from error
    name = _name(source)
    stream = _openable(source, name)
    if hasattr(stream, "seek"):
        stream.seek(0)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)  # we check the size ourselves
            with Image.open(stream, formats=_IMAGE_FORMATS) as image:
                _check_pixels(image.width, image.height, name)
                return np.array(ImageOps.exif_transpose(image).convert("RGB"))
    except MediaError:
        raise
    except Image.DecompressionBombError as error:
        raise MediaError(f"{name} claims too many pixels: {error}; make it smaller") from error
    except Exception as error:  # Pillow's readers raise whatever a damaged file makes them stumble over
        raise _damaged(name, str(error)) from error


def media_duration(source: MediaSource) -> float:
    """Seconds from the beginning of a clip or sound to the end of its last track, told from its packets: nothing is
    decoded, and the length that its header states is not believed.

    Args:
        source: path, bytes, or binary file object.

    Raises:
        MediaError: the file is missing, empty, broken, cut short, or has neither a video nor an audio track.
        ImportError: PyAV is not installed.
    """
    av = _import_av()
    name = _name(source)
    try:
        scan = _scan(av, _openable(source, name), _Plan(), name)
    except (av.error.FFmpegError, EOFError) as error:
        raise _damaged(name, getattr(error, "strerror", None) or str(error)) from error
    if scan.end is None:
        raise MediaError(f"{name} has neither a video nor an audio track")
    return scan.end


def resample_audio(array: Any, orig_sr: int, sampling_rate: int) -> np.ndarray:
    """Mixes a waveform to mono and resamples it (band-limited, FFmpeg's resampler).

    Args:
        array: `(samples,)`, `(channels, samples)` or `(samples, channels)`; the shorter side counts as channels.
            Floats are taken as they are, integers as PCM of their width (full scale becomes [-1, 1]).
        orig_sr, sampling_rate: samples a second before and after.

    Returns:
        float32 `(round(samples * sampling_rate / orig_sr),)`.

    Raises:
        ValueError: wrong shape or rates, or values that are not finite.
        ImportError: the rates differ and PyAV is not installed.
    """
    _check_rate(orig_sr, "orig_sr")
    _check_rate(sampling_rate, "sampling_rate")
    wave = _mono(_as_float(np.asarray(array)))
    if not np.isfinite(wave).all():
        raise ValueError("the waveform holds NaN or infinite values; repair it before resampling")
    if orig_sr == sampling_rate or wave.size == 0:
        return wave
    av = _import_av()
    resampler = av.AudioResampler(format="fltp", layout="mono", rate=int(sampling_rate))
    frame = av.AudioFrame.from_ndarray(wave[None], format="fltp", layout="mono")
    frame.sample_rate = int(orig_sr)
    parts = [part.to_ndarray()[0] for given in (frame, None) for part in resampler.resample(given)]
    length = round(wave.size * sampling_rate / orig_sr)
    out = np.concatenate(parts)[:length]
    return np.pad(out, (0, length - out.size))


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
    pictures = _check_frames(frames)
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
    av = _import_av()
    try:
        _encode(av, draft, pictures, fps, wave, sampling_rate)
        os.replace(draft, target)
    except av.error.FFmpegError as error:
        raise MediaError(f"cannot write {target}: {error}; check fps, frame size and sampling_rate") from error
    finally:
        draft.unlink(missing_ok=True)
    return target


def track_lengths(source: MediaSource) -> tuple[float | None, float | None]:
    """Where the video and the audio track end, in seconds from the clip's beginning; None for a track not there.

    The header states it; where it does not (Matroska, WebM), or may be wrong (WAV), packets are counted.

    Raises:
        MediaError: the file is missing, empty or no media file.
    """
    av = _import_av()
    name = _name(source)
    try:
        with _open(av, _openable(source, name)) as container:
            video, audio = _tracks(container)
            tracks = [track for track in (video, audio) if track is not None]
            told = all(track.duration is not None for track in tracks) and not _is(container, {"wav"})
            origin = _origin(container)
            ends = {track.index: _stated_end(track) - origin if told else 0.0 for track in tracks}
            for packet in container.demux(*tracks) if tracks and not told else ():
                if packet.pts is not None:
                    end = float((packet.pts + (packet.duration or 0)) * packet.time_base) - origin
                    ends[packet.stream.index] = max(ends[packet.stream.index], end)
            lengths = [None if track is None else ends[track.index] for track in (video, audio)]
    except (av.error.FFmpegError, EOFError) as error:
        raise MediaError(f"cannot read {name}: {error}; it is damaged, cut short or no media file") from error
    return lengths[0], lengths[1]


def _stated_end(track: Any) -> float:
    return float(((track.start_time or 0) + track.duration) * track.time_base)


def load_flow(path: str | os.PathLike[str]) -> np.ndarray:
    """Read a flow file.

    Returns:
        float32 `(F, 2, H, W)`: pixels to the right, pixels down.

    Raises:
        MediaError: absent, damaged, no flow file, more than `MAX_FLOW_BYTES`. Nothing is unpickled.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            size = sum(entry.file_size for entry in archive.infolist())
        if size > MAX_FLOW_BYTES:
            raise MediaError(f"{path} unpacks to {size:,} bytes; a flow file has at most {MAX_FLOW_BYTES:,}")
        with np.load(path, allow_pickle=False) as arrays:
            flow, times = arrays["flow"], arrays["timestamps"]
    except (OSError, EOFError, KeyError, MemoryError, ValueError, zipfile.BadZipFile, zlib.error) as error:
        if isinstance(error, MediaError):
            raise
        raise MediaError(f"{path} cannot be read as a flow file: {error}; delete it and compute it again") from error
    if flow.dtype.kind != "f" or flow.ndim != 4 or flow.shape[3] != 2 or times.shape != flow.shape[:1]:
        raise MediaError(f"{path} is no flow file: flow is {flow.dtype} {flow.shape}, timestamps {times.shape}")
    if not np.isfinite(flow).all():
        raise MediaError(f"{path} holds NaN or infinite flow; delete it and compute it again")
    return np.ascontiguousarray(flow.transpose(0, 3, 1, 2), dtype=np.float32)


# --- reading ---------------------------------------------------------------------------------------------------------


@dataclass
class _Plan:
    """What one reading is to return."""

    num_frames: int | None = None
    fps: float | None = None
    sampling_rate: int | None = None
    mono: bool = True
    start: float = 0.0
    end: float | None = None
    video: bool = True
    audio: bool = True
    device: str = "cpu"
    backend: Backend = "auto"

    def __post_init__(self) -> None:
        if self.backend not in ("auto", "pyav", "torchcodec"):
            raise ValueError(f"backend must be auto, pyav or torchcodec, got {self.backend!r}")
        if self.backend == "auto":
            self.backend = "pyav" if self.device == "cpu" else "torchcodec"
        if self.backend == "pyav" and self.device != "cpu":
            raise ValueError(f"PyAV decodes on the CPU, not on {self.device!r}; use backend='torchcodec'")
        if self.num_frames is not None and self.fps is not None:
            raise ValueError("give num_frames or fps, not both")
        if self.num_frames is not None and self.num_frames < 1:
            raise ValueError(f"num_frames must be at least 1, got {self.num_frames}")
        if self.fps is not None and not self.fps > 0:
            raise ValueError(f"fps must be positive, got {self.fps}")
        if self.sampling_rate is not None:
            _check_rate(self.sampling_rate, "sampling_rate")
        if not 0 <= self.start < float("inf"):
            raise ValueError(f"start must be zero or more seconds, got {self.start}")
        if self.end is not None and not self.end > self.start:
            raise ValueError(f"end ({self.end}) must come after start ({self.start})")


def _read(source: MediaSource, plan: _Plan) -> MediaClip:
    av = _import_av()
    name = _name(source)
    stream = _openable(source, name)
    try:
        scan = _scan(av, stream, plan, name)
        if plan.backend == "pyav" or not plan.video or scan.video_index is None:
            with _open(av, stream) as container:
                return _decode(container, plan, scan, name)
        video = _decode_by_torchcodec(stream, plan, scan, name)
        if not plan.audio:
            return MediaClip(video, None, None)
        with _open(av, stream) as container:
            return replace(_decode(container, replace(plan, video=False), scan, name), video=video)
    except (av.error.FFmpegError, EOFError) as error:
        raise _damaged(name, getattr(error, "strerror", None) or str(error)) from error


def _damaged(name: str, why: str) -> MediaError:
    return MediaError(
        f"cannot read {name}: {why}; it is damaged, cut short or no media file: "
        "play it to check, then copy or export it again"
    )


@dataclass
class _Scan:
    """What the packets of a file tell, in seconds: which track is its pictures' and when they end, how much sound
    there is, when the last track ends (None without a track), and (for torchcodec) when each frame is shown."""

    video_index: int | None
    origin: float = 0.0
    end: float | None = None
    video_end: float = 0.0
    sound: float = 0.0
    times: list[float] = field(default_factory=list)


def _scan(av: ModuleType, stream: Any, plan: _Plan, name: str) -> _Scan:
    """Reads the packets without decoding them; checks picture size and tail."""
    with _open(av, stream) as container:
        if not container.streams:
            raise _damaged(name, "no track in it")
        video, audio = _tracks(container)
        wanted = [track for track in (video, audio) if track is not None]
        scan = _Scan(None if video is None else video.index, _origin(container))
        if plan.video and video is not None and video.codec_context is not None:
            _check_pixels(video.codec_context.width, video.codec_context.height, name)
        ends = {track.index: 0.0 for track in wanted}
        in_full = plan.backend == "torchcodec"  # frames come by their number, which counts those before the window
        for packet in container.demux(wanted) if wanted else ():
            time = packet.pts if packet.pts is not None else packet.dts
            if time is not None:
                begin = float(time * packet.time_base) - scan.origin
                end = float((time + (packet.duration or 0)) * packet.time_base) - scan.origin
                ends[packet.stream.index] = max(ends[packet.stream.index], end)
                if packet.stream.index != scan.video_index:
                    scan.sound += end - begin
                elif in_full and not packet.is_discard:
                    scan.times.append(begin)
            if plan.end is not None and not in_full and ends and min(ends.values()) > plan.end:
                break
        else:
            _check_tail(container, max(ends.values(), default=0.0) + scan.origin, name)
        scan.end = max(ends.values(), default=None)
        scan.video_end = ends[video.index] if video is not None else 0.0
        return scan


def _check_pixels(width: int, height: int, name: str) -> None:
    if width * height > MAX_PIXELS:
        raise MediaError(
            f"{name} claims pictures of {width} x {height}, more than {MAX_PIXELS} pixels; export it at a smaller size"
        )


def _check_bytes(size: float, what: str, name: str) -> None:
    if size > MAX_BYTES:
        raise MediaError(
            f"{name} would give more than {MAX_BYTES / 2**30:.3g} GiB of {what}; take fewer frames or a lower rate "
            "(num_frames, fps, sampling_rate) or a part (start, end). If it should not be that long, it is damaged"
        )


def _check_tail(container: Any, found: float, name: str) -> None:
    stated = (container.duration or 0) / 1e6
    if container.start_time is not None:
        stated += max(container.start_time, 0) / 1e6
    # A WAV written to a pipe states the largest size there is: that is no length.
    stated_bytes = stated * (container.bit_rate or 0) / 8 if _is(container, {"wav"}) else 0
    if _is(container, _STATE_LENGTH) and stated_bytes < 2**31 - 2**16 and stated - found > max(0.25, 0.05 * stated):
        raise MediaError(
            f"{name} is cut short: it should last {stated:.2f} s but its data end at {found:.2f} s; copy it again"
        )


def _decode(container: Any, plan: _Plan, scan: _Scan, name: str) -> MediaClip:
    video, audio = _tracks(container)
    for track, wanted in ((video, plan.video), (audio, plan.audio)):
        if wanted and track is not None and track.codec_context is None:
            raise _damaged(name, f"its {track.type} track has an unknown codec")
    sinks: dict[int, _Frames | _Samples] = {}
    if plan.video and video is not None:
        # A stream may change its size half way, where only the decoder sees it.
        video.codec_context.options = {"max_pixels": str(MAX_PIXELS)}
        sinks[video.index] = _Frames(plan, scan.video_end, name)
    if plan.audio and audio is not None:
        rate = plan.sampling_rate or audio.rate
        length = (scan.sound if plan.end is None else min(scan.sound, plan.end)) - plan.start
        _check_bytes(4 * length * rate * (1 if plan.mono else audio.channels), "sound", name)
        sinks[audio.index] = _Samples(plan, rate, name)
    if sinks and plan.start > _PREROLL and _is(container, _SEEKABLE):
        container.seek(int((plan.start - _PREROLL + scan.origin) * 1e6), backward=True)
    for packet in container.demux([container.streams[index] for index in sinks]) if sinks else ():
        sink = sinks[packet.stream.index]
        if sink.done:
            if all(other.done for other in sinks.values()):
                break
            continue
        for frame in packet.decode():
            if not sink.done:
                sink.add(frame, None if frame.time is None else float(frame.pts * frame.time_base) - scan.origin)
    frames = next((sink.close() for sink in sinks.values() if isinstance(sink, _Frames)), None)
    samples = next((sink for sink in sinks.values() if isinstance(sink, _Samples)), None)
    whole = scan.end or 0.0
    duration = max((whole if plan.end is None else min(plan.end, whole)) - plan.start, 0.0)
    if samples is None:
        return MediaClip(frames, None, None, duration)
    return MediaClip(frames, samples.close(), samples.rate, duration)


def _decode_by_torchcodec(stream: Any, plan: _Plan, scan: _Scan, name: str) -> VideoClip:
    """Pictures as `_Frames` chooses them, decoded by torchcodec on `plan.device`."""
    decoder_class = _import_torchcodec(plan.device)
    if hasattr(stream, "seek"):
        stream.seek(0)
    options = {"stream_index": scan.video_index, "dimension_order": "NHWC", "num_ffmpeg_threads": 0}
    try:
        decoder = decoder_class(stream, device=plan.device, **options)
        size = (decoder.metadata.width or 1) * (decoder.metadata.height or 1) * 3
        chosen = _frame_numbers(plan, scan, size, name)
        if len(decoder) != len(scan.times):
            raise RuntimeError(f"it counts {len(decoder)} frames where there are {len(scan.times)}")
        batch = decoder.get_frames_at(chosen)
    except (RuntimeError, IndexError) as error:
        why = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise MediaError(f"torchcodec cannot read {name}: {why}; try backend='pyav'") from error
    times = batch.pts_seconds.cpu().numpy().astype(np.float64) - scan.origin
    return VideoClip(np.ascontiguousarray(batch.data.cpu().numpy()), times)


def _frame_numbers(plan: _Plan, scan: _Scan, frame_bytes: int, name: str) -> list[int]:
    """Places, in order of time, of the frames that `_Frames` would choose; each counts `frame_bytes`."""
    frame_bytes = max(frame_bytes, _LEAST_FRAME_BYTES)
    times = np.sort(np.array(scan.times))
    moments = _moments(plan, scan.video_end, name)
    if moments is None:
        end = np.inf if plan.end is None else plan.end
        chosen = np.flatnonzero((times >= plan.start) & (times < end))
    else:
        wanted = np.fromiter(itertools.islice(moments, MAX_BYTES // frame_bytes + 1), np.float64)
        chosen = np.maximum(np.searchsorted(times, wanted + _CLOSE, side="right") - 1, 0)
    if not len(chosen):
        raise _no_frame(plan, name)
    _check_bytes(len(chosen) * frame_bytes, "pictures", name)
    return chosen.tolist()


class _Frames:
    """Chooses frames while they pass: of each wanted moment, the frame on screen then."""

    def __init__(self, plan: _Plan, video_end: float, name: str):
        self.plan, self.name = plan, name
        self.end = plan.end if plan.end is not None else float("inf")
        self.moments = _moments(plan, video_end, name)
        self.moment = next(self.moments, None) if self.moments is not None else None
        self.last: tuple[Any, float] | None = None
        self.frames: list[np.ndarray] = []
        self.times: list[float] = []
        self.done = False

    def add(self, frame: Any, time: float | None) -> None:
        if time is None:  # raw streams without time stamps: as many frames later as there were frames
            time = self.last[1] + 1 / 25 if self.last is not None else 0.0
        if self.moments is None:
            if self.plan.start <= time < self.end:
                self._keep(frame, time)
        else:
            self._settle(time)
        self.last = (frame, time)
        self.done = time >= self.end or (self.moments is not None and self.moment is None)

    def _settle(self, now: float) -> None:
        """Moments before `now` show the frame before it; a moment before the first frame waits for that frame."""
        picture: np.ndarray | None = None
        while self.last is not None and self.moment is not None and self.moment < now - _CLOSE:
            picture = self._keep(*self.last, picture)
            self.moment = next(self.moments, None) if self.moments is not None else None

    def _keep(self, frame: Any, time: float, picture: np.ndarray | None = None) -> np.ndarray:
        if picture is None:
            _check_pixels(frame.width, frame.height, self.name)
            picture = _upright(frame)
        _check_bytes((len(self.frames) + 1) * max(picture.nbytes, _LEAST_FRAME_BYTES), "pictures", self.name)
        if self.frames and picture.shape != self.frames[0].shape:
            raise MediaError(f"{self.name} changes its picture size at {time:.2f} s; export it at one size")
        self.frames.append(picture)
        self.times.append(time)
        return picture

    def close(self) -> VideoClip:
        if self.moments is not None:
            self._settle(float("inf"))
        if not self.frames:
            raise _no_frame(self.plan, self.name)
        return VideoClip(np.stack(self.frames), np.array(self.times, dtype=np.float64))


def _no_frame(plan: _Plan, name: str) -> MediaError:
    end = "its end" if plan.end is None else f"{plan.end} s"
    return MediaError(f"{name} has no video frame from {plan.start} s to {end}; widen the window, or copy it again")


def _moments(plan: _Plan, video_end: float, name: str) -> Iterator[float] | None:
    """The moments whose frames are wanted, in seconds; None for every frame."""
    if plan.num_frames is None and plan.fps is None:
        return None
    end = video_end if plan.end is None else min(plan.end, video_end)
    length = end - plan.start
    if length <= 0:
        raise MediaError(f"{name} has no video after {end:.2f} s, asked to start at {plan.start} s")
    if plan.num_frames is not None:
        count, step, first = plan.num_frames, length / plan.num_frames, length / plan.num_frames / 2
    else:
        step = 1 / float(plan.fps or 1)
        count, first = max(1, int(np.ceil(round(length / step, 6)))), 0.0
    return (plan.start + first + step * k for k in range(count))


def _upright(frame: Any) -> np.ndarray:
    """RGB picture, turned by the file's display matrix (PyAV versions without `rotation` leave it as stored)."""
    turns = round((getattr(frame, "rotation", 0) or 0) / 90) % 4
    picture = frame.to_ndarray(format="rgb24")
    return np.ascontiguousarray(np.rot90(picture, turns)) if turns else picture


class _Samples:
    """Collects resampled sound inside the window, placed by its time stamps."""

    def __init__(self, plan: _Plan, rate: int, name: str):
        self.plan, self.rate, self.name = plan, rate, name
        self.resampler: Any = None
        self.parts: list[np.ndarray] = []
        self.position = 0  # of the next sample, counted from the start of the window; negative before it
        self.length = None if plan.end is None else round((plan.end - plan.start) * rate)
        self.done = False

    def add(self, frame: Any, time: float | None) -> None:
        if self.resampler is None:
            layout = frame.layout.name
            # Interleaved: of eight channels or more in planes, PyAV (18.1 at least) reads planes that are not there.
            self.resampler = _import_av().AudioResampler(format="flt", layout=layout, rate=self.rate)
            time = 0.0 if time is None else time
            self.position = round((time - self.plan.start) * self.rate)
            self._check_room(frame, 0)
            if self.position > 0:
                self.parts.append(np.zeros((len(frame.layout.channels), self.position), np.float32))
        self._check_room(frame, frame.samples * self.rate / frame.sample_rate)
        frame.pts = None  # the resampler would fill gaps by it; the sound is laid end to end
        try:
            parts = self.resampler.resample(frame)
        except ValueError as error:  # another rate or other channels than in the frames before
            raise _damaged(self.name, f"its sound changes its form at {time or 0:.2f} s ({error})") from error
        self._take(parts)

    def _check_room(self, frame: Any, samples: float) -> None:
        """Refuses what `samples` more would make of the sound kept; a file may state any rate and any start."""
        channels = 1 if self.plan.mono else len(frame.layout.channels)
        _check_bytes(4 * channels * max(self.position + samples, 0), "sound", self.name)
        _check_bytes(4 * len(frame.layout.channels) * samples, "sound", self.name)

    def _take(self, frames: list[Any]) -> None:
        for frame in frames:
            part = frame.to_ndarray().reshape(frame.samples, frame.layout.nb_channels).T
            begin = min(max(-self.position, 0), part.shape[1])
            self.position += part.shape[1]
            if self.plan.mono:
                part = part.mean(axis=0, keepdims=True)
            self.parts.append(part[:, begin:])
        self.done = self.length is not None and self.position >= self.length

    def close(self) -> np.ndarray:
        if self.resampler is not None and not self.done:
            self._take(self.resampler.resample(None))
        if self.plan.mono:
            self.parts = [part[:1] for part in self.parts]
        whole = np.concatenate(self.parts, axis=1) if self.parts else np.zeros((1, 0), np.float32)
        whole = np.ascontiguousarray(whole[:, : self.length], dtype=np.float32)
        return whole[0] if self.plan.mono else whole


def _open(av: ModuleType, stream: Any) -> Any:
    if hasattr(stream, "seek"):
        stream.seek(0)
    return av.open(stream, options={"format_whitelist": _FORMATS}, metadata_errors="replace")


def _tracks(container: Any) -> tuple[Any | None, Any | None]:
    """First video track that is not cover art, first audio track."""
    videos = [track for track in container.streams.video if not _is_cover(track)]
    audios = list(container.streams.audio)
    return (videos[0] if videos else None, audios[0] if audios else None)


def _is_cover(track: Any) -> bool:
    disposition = track.disposition
    return bool(disposition & type(disposition).attached_pic)


def _origin(container: Any) -> float:
    """Time of the clip's beginning; a start before zero is codec delay, which the decoder drops."""
    return max(container.start_time or 0, 0) / 1e6


def _is(container: Any, formats: set[str]) -> bool:
    return bool(formats & set(container.format.name.split(",")))


def _openable(source: MediaSource, name: str) -> Any:
    """A path that exists, or a binary stream that can be read twice from its beginning."""
    if isinstance(source, str | os.PathLike):
        return _existing_file(source, name)
    if isinstance(source, bytes | bytearray | memoryview):
        stream: Any = io.BytesIO(bytes(source))
    elif isinstance(source, io.TextIOBase):
        raise TypeError(f"{name} gives text; open it in binary mode ('rb')")
    elif hasattr(source, "read"):
        stream = source
        if not (hasattr(stream, "seekable") and stream.seekable() and stream.tell() == 0):
            stream = io.BytesIO(stream.read())
    else:
        raise TypeError(f"a clip is a path, bytes or a binary file object, got {type(source).__name__}")
    if not stream.read(1):
        raise MediaError(f"{name} is empty (0 bytes); copy or export it again")
    return stream


def _existing_file(source: str | os.PathLike[str], name: str) -> str:
    if "://" in str(source):
        raise MediaError(f"{name} is an address, not a file; download it and give the path or the bytes")
    path = Path(source).expanduser()
    if not path.is_file():
        raise MediaError(
            f"{name} {'is a folder' if path.is_dir() else 'does not exist'}; give the path of a media file"
        )
    if path.stat().st_size == 0:
        raise MediaError(f"{name} is empty (0 bytes); copy or export it again")
    return str(path)


def _name(source: MediaSource) -> str:
    if isinstance(source, str | os.PathLike):
        return str(source)
    if isinstance(source, bytes | bytearray | memoryview):
        return f"<{len(source)} bytes>"
    return str(getattr(source, "name", f"<{type(source).__name__}>"))


# --- writing ---------------------------------------------------------------------------------------------------------


def _encode(
    av: ModuleType, path: Path, frames: np.ndarray, fps: float, wave: np.ndarray | None, sampling_rate: int | None
) -> None:
    # bitexact keeps the encoder's version and the date out of the file: same clip, same bytes.
    with av.open(str(path), mode="w", format="mp4", options={"fflags": "+bitexact", "movflags": "+faststart"}) as box:
        codec, options = _video_codec(av)
        video = box.add_stream(codec, rate=Fraction(fps).limit_denominator(100_000), options=options)
        video.height, video.width = frames.shape[1:3]
        video.pix_fmt = "yuv420p"
        video.codec_context.thread_count = 1
        sound = box.add_stream("aac", rate=sampling_rate, layout="mono") if wave is not None else None
        for picture in frames:
            box.mux(video.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
        box.mux(video.encode())
        if sound is not None and wave is not None:
            if wave.size:
                frame = av.AudioFrame.from_ndarray(wave[None], format="fltp", layout="mono")
                frame.sample_rate, frame.pts = sampling_rate, 0
                box.mux(sound.encode(frame))
            box.mux(sound.encode())


def _video_codec(av: ModuleType) -> tuple[str, dict[str, str]]:
    try:
        av.codec.Codec("libx264", "w")
    except ValueError:  # UnknownCodecError: a wheel built without x264
        return "mpeg4", {"qscale": "3"}
    # x264's macroblock tree gives other bytes from run to run on small pictures, even on one thread: it stays off.
    return "libx264", {"crf": "18", "preset": "veryfast", "x264-params": "mbtree=0"}


def _check_frames(frames: Any) -> np.ndarray:
    pictures = np.asarray(frames)
    if pictures.dtype != np.uint8 or pictures.ndim != 4 or pictures.shape[-1] != 3 or 0 in pictures.shape:
        raise ValueError(f"frames must be uint8 (F, H, W, 3), got {pictures.dtype} {pictures.shape}")
    odd = [(0, 0), (0, pictures.shape[1] % 2), (0, pictures.shape[2] % 2), (0, 0)]
    return np.ascontiguousarray(np.pad(pictures, odd, mode="edge"))


# --- waveforms and imports -------------------------------------------------------------------------------------------


def _as_float(array: np.ndarray) -> np.ndarray:
    if array.dtype == np.uint8:
        return (array.astype(np.float32) - 128) / 128
    if np.issubdtype(array.dtype, np.signedinteger):
        return (array / -float(np.iinfo(array.dtype).min)).astype(np.float32)
    if np.issubdtype(array.dtype, np.floating):
        return array.astype(np.float32)
    raise ValueError(f"a waveform holds floats or PCM integers, got {array.dtype}")


def _mono(wave: np.ndarray) -> np.ndarray:
    if wave.ndim == 1:
        return wave
    if wave.ndim != 2 or min(wave.shape) > _MAX_CHANNELS:
        raise ValueError(f"a waveform is (samples,), (channels, samples) or (samples, channels), got {wave.shape}")
    return wave.mean(axis=0 if wave.shape[0] <= wave.shape[1] else 1, dtype=np.float32)


def _check_rate(rate: int, name: str) -> None:
    if not (isinstance(rate, int | np.integer) and 1 <= rate <= 1_000_000):
        raise ValueError(f"{name} must be a whole number of samples a second, got {rate!r}")


def _import_av() -> ModuleType:
    try:
        import av
        import av.error
    except ImportError as error:
        raise ImportError(
            'reading and writing clips needs PyAV, which is not installed: pip install "clcr-hf[media]"'
        ) from error
    return av


def _import_torchcodec(device: str) -> Any:
    """torchcodec's `VideoDecoder`."""
    try:
        from torchcodec.decoders import VideoDecoder
    except (ImportError, OSError, RuntimeError) as error:  # installed, but FFmpeg's libraries are not found
        why = "is not installed" if isinstance(error, ModuleNotFoundError) else f"does not load ({error})"
        raise ImportError(
            f'this backend needs torchcodec, which {why}: pip install "clcr-hf[gpu-media]", with the torchcodec that '
            "goes with your torch, and FFmpeg from your system's packages"
        ) from error
    import torch

    if device.startswith("cuda") and not torch.cuda.is_available():
        raise ValueError(f"device={device!r} was asked for and torch finds no CUDA device; use device='cpu'")
    return VideoDecoder
