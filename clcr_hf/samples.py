"""The one reader of a sample: from any form that text, frames, audio, flow and features come in, to arrays.

Training, the processor, the pipeline and feature extraction all read through [`read_sample`], so that a model is served
what it learned from. [`is_missing`] says for all of them what counts as not there.
"""

import math
import numbers
import os
import unicodedata
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

import numpy as np

from .faces import crop_faces, say_no_face
from .limits import OWN, VideoLimits
from .media import (
    MediaClip,
    MediaError,
    VideoClip,
    load_audio,
    load_flow,
    load_image,
    load_media,
    name_of,
    resample_audio,
    upright_image,
)
from .modalities import of_features

# Categories of characters that leave no mark by themselves, and letters and symbols that are blank all the same.
_UNSEEN = {"Cc", "Cf", "Cs", "Cn", "Zs", "Zl", "Zp", "Mn", "Me"}
_BLANKS = "\u115f\u1160\u2800\u3164\uffa0"
_ABSENT_TYPES = ("NAType", "NaTType")  # pandas' own, without pandas


def is_missing(value: Any) -> bool:
    """Whether a value stands for nothing: None, NaN, a text without a visible character, an empty list, array or bytes,
    and a reference of `datasets` (`{"path", "bytes"}`, `{"array", ...}`) to nothing."""
    if value is None or type(value).__name__ in _ABSENT_TYPES:
        return True
    if isinstance(value, str):
        return all(unicodedata.category(letter) in _UNSEEN or letter in _BLANKS for letter in value)
    if isinstance(value, Mapping):
        content = [value.get(name) for name in ("bytes", "path", "array") if name in value]
        return all(map(is_missing, content)) if content else not value
    if isinstance(value, bytes | bytearray | memoryview):
        return not len(value)
    if hasattr(value, "shape"):
        return 0 in value.shape or (len(value.shape) == 0 and bool(value != value))
    if isinstance(value, list | tuple):
        return all(item is None or (isinstance(item, Mapping | str) and is_missing(item)) for item in value)
    return isinstance(value, numbers.Real) and bool(value != value)


def text_or_none(value: Any, where: str = "text") -> str | None:
    """A text, or None where it is missing; ValueError for what is no str."""
    if is_missing(value):
        return None
    if not isinstance(value, str):
        raise ValueError(f"{where} is a {type(value).__name__}; pass a str, or None if missing")
    return value


@dataclass(frozen=True)
class Reading:
    """
    What is read of samples, and how.

    Args:
        vision: whether frames are read.
        num_frames: most frames of a clip, spread evenly; those that a short clip repeats are left out.
        fps: frames a second of a file in their place, each at its moment: above the file's own rate they repeat.
        repeats: keep the repeats of `num_frames` too, for backbones that read so many frames together.
        sampling_rate: of the audio that is wanted, samples a second; None reads none.
        max_audio_seconds: how much of the audio is kept, from its beginning.
        max_seconds: how much of a file is read, from the beginning of the sample.
        limits: what decoding a video may cost.
        face_crop: the detector by which frames are cut to the speaker's face ([`~faces.find_detector`]); frames without
            it are left out. None takes them whole.
    """

    vision: bool = True
    num_frames: int | None = None
    fps: float | None = None
    repeats: bool = False
    sampling_rate: int | None = None
    max_audio_seconds: float | None = None
    max_seconds: float | None = None
    limits: VideoLimits = OWN
    face_crop: str | None = None

    @classmethod
    def of(cls, processor: Any, vision: bool = True, audio: bool = True, **options: Any) -> "Reading":
        """As a `CLCRProcessor` reads: its frames a second before their number. `vision` and `audio`: whether they are
        wanted. `options` go before what the processor says."""
        fps, extractor = getattr(processor, "video_fps", None), getattr(processor, "feature_extractor", None)
        given = {
            "vision": vision,
            "num_frames": getattr(processor, "video_num_frames", None) if fps is None else None,
            "fps": fps,
            "sampling_rate": getattr(extractor, "sampling_rate", None) if audio else None,
            "max_audio_seconds": getattr(processor, "max_audio_seconds", None),
            "face_crop": getattr(processor, "face_crop", None),
        }
        return cls(**{**given, **options})

    @property
    def frames(self) -> dict[str, Any]:
        """Arguments of `load_video` that say which frames."""
        return {"num_frames": self.num_frames} if self.fps is None else {"fps": self.fps}


@dataclass
class Sample:
    """
    A sample as arrays; what it lacks is None.

    Attributes:
        text: a str with something to see in it.
        frames: uint8 `(F, H, W, 3)`.
        frame_times: float64 `(F,)`, when each is shown, in seconds from the sample's beginning; None where not known.
        frame_places: int64 `(F,)`, of images and frames in memory: which of them these are.
        audio: float32 `(samples,)` at `sampling_rate`.
        flow: float32 `(F, 2, H, W)`.
        features: by key `<modality>_features`, float32 `(T, D)` or `(L, T, D)`.
        seconds: how long the sample lasts (the longer of its tracks); `audio_seconds` how much of it `audio` is.
    """

    text: str | None = None
    frames: np.ndarray | None = None
    frame_times: np.ndarray | None = None
    frame_places: np.ndarray | None = None
    audio: np.ndarray | None = None
    sampling_rate: int | None = None
    flow: np.ndarray | None = None
    features: dict[str, np.ndarray] = field(default_factory=dict)
    seconds: float | None = None

    @property
    def audio_seconds(self) -> float | None:
        return None if self.audio is None or self.sampling_rate is None else len(self.audio) / self.sampling_rate

    def arguments(self) -> dict[str, list[Any]]:
        """What is there, as arguments of `CLCRProcessor`; a batch of one."""
        audio = None if self.audio is None else {"array": self.audio, "sampling_rate": self.sampling_rate}
        raw = {"text": self.text, "videos": self.frames, "audio": audio, "flow": self.flow}
        return {name: [value] for name, value in (raw | self.features).items() if value is not None}


def read_sample(
    sample: Mapping[str, Any],
    reading: Reading,
    label: Callable[[str], str] = str,
    unreadable: Callable[[str, MediaError], None] | None = None,
) -> Sample:
    """
    A sample in any form as arrays.

    Args:
        sample: any of `text` (str); `images` (an image, or a list of them in order: PIL, `(H, W, 3)` uint8 or a file);
            `video` (a file, frames as `images`, or a `VideoClip`); `audio` (a file, a waveform at `sampling_rate`, or
            `{"array", "sampling_rate"}`); `media` (a file with frames and audio); `flow` (an array or a flow file);
            `<modality>_features` (arrays). A file is a path, bytes, a binary file object or `{"path", "bytes"}`.
            `images` go before `video`, and each before `media`, whichever the sample has. `start` and `end`: the
            stretch of the files that the sample is, in seconds; they may also stand in the dict of one file. Ready
            features and texts are of the stretch already. Other keys are not looked at.
        reading: what to read.
        label: what errors call a key.
        unreadable: called with a key and the error of a file that cannot be read, which is missing then; without it
            the error is raised.

    Raises:
        MediaError: a file that cannot be read.
        ValueError: wrong types, shapes or values; a stretch of something without times.
    """
    parts = _Parts(sample, reading, label, unreadable)
    found = Sample(text=text_or_none(sample.get("text"), label("text")), sampling_rate=reading.sampling_rate)
    parts.read_tracks(found)
    flow = parts.read("flow", parts.flow)
    found.flow = flow if flow is not None and len(flow) else None
    for key in sample:
        if of_features(key) is not None and sample[key] is not None:
            features = floats(sample[key], label(key))
            if features.shape != (0,):
                found.features[key] = features
    return found


@dataclass
class _Parts:
    """The parts of one sample; see [`read_sample`]. `lengths`: of its files, in seconds."""

    sample: Mapping[str, Any]
    reading: Reading
    label: Callable[[str], str]
    unreadable: Callable[[str, MediaError], None] | None
    lengths: list[float] = field(default_factory=list)

    def read_tracks(self, found: Sample) -> None:
        """Frames and audio with their times; a file that holds both is opened once."""
        reading = self.reading
        sees = self.first("images", "video", "media") if reading.vision else None
        hears = self.first("audio", "media") if reading.sampling_rate is not None else None
        video = None
        if "media" in (sees, hears):
            clip = self.read("media", partial(self.media, video=sees == "media", audio=hears == "media"))
            if clip is not None:
                video, found.audio = clip.video, clip.audio
        if sees != "media":
            video = self.read(sees, self.images if sees == "images" else self.video)
        if hears != "media":
            found.audio = self.read(hears, self.audio)
        if found.audio is not None:
            self.lengths.append(found.audio_seconds or 0.0)
            if reading.max_audio_seconds is not None:
                found.audio = found.audio[: round(reading.max_audio_seconds * (reading.sampling_rate or 1))]
            found.audio = found.audio if found.audio.size else None
        if video is not None and reading.face_crop is not None:
            video = self.crop(video, sees or "")
        if isinstance(video, _Images):
            found.frames, found.frame_places = video.frames, video.timestamps
        elif video is not None:
            found.frames, found.frame_times = video.frames, video.timestamps
        found.seconds = max(filter(None, self.lengths), default=None)

    def crop(self, video: VideoClip, key: str) -> VideoClip | None:
        """The speaker's face of the frames; None where it is in none of them."""
        crops, kept = crop_faces(video.frames, str(self.reading.face_crop))
        if not len(kept):
            say_no_face(self.sample.get(key), self.label(key))
            return None
        return replace(video, frames=crops, timestamps=video.timestamps[kept])

    def first(self, *keys: str) -> str | None:
        """The first of the keys that is there."""
        return next((key for key in keys if not is_missing(self.sample.get(key))), None)

    def read(self, key: str | None, how: Callable[..., Any]) -> Any:
        """What `how` makes of a part; None where that is missing or cannot be read."""
        value = self.sample.get(key) if key is not None else None
        if key is None or is_missing(value):
            return None
        where = self.label(key)
        start, end = window_of([value, self.sample], where)
        source = source_of(value, where)
        timed = key == "audio" or (is_file(source) and key != "images")
        if not timed and (start, end) != (0.0, None):
            raise ValueError(f"{where} has no times, so start and end cannot be cut out of it; give a file of the clip")
        if timed and self.reading.max_seconds is not None:
            end = min(start + self.reading.max_seconds, math.inf if end is None else end)
        try:
            return how(source, where, start, end)
        except MediaError as error:
            named = MediaError(f"{where}: {error}")
            if self.unreadable is None:
                raise named from error
            self.unreadable(key, named)
            return None

    def media(
        self, source: Any, where: str, start: float, end: float | None, video: bool = True, audio: bool = False
    ) -> MediaClip:
        reading = self.reading
        end = end if video else self._heard_until(start, end)
        options: dict[str, Any] = {**reading.frames, "sampling_rate": reading.sampling_rate, "start": start, "end": end}
        clip = load_media(_file(source, where), **options, video=video, audio=audio, limits=reading.limits)
        self.lengths.append(clip.duration)
        return replace(clip, video=None if clip.video is None else self._from(start, clip.video))

    def video(self, source: Any, where: str, start: float, end: float | None) -> Any:
        if isinstance(source, VideoClip):  # read already, such as a window of a recording
            return self._from(start, source)
        if not is_file(source):
            return self.images(source, where, start, end)
        clip = self.media(source, where, start, end)
        if clip.video is None:
            raise MediaError(f"{name_of(source)} has no video track; for its audio alone give it as audio")
        return clip.video

    def images(self, source: Any, where: str, start: float, end: float | None) -> "_Images":
        return read_images(source, where, self.reading.num_frames)

    def audio(self, source: Any, where: str, start: float, end: float | None) -> np.ndarray:
        rate = self.reading.sampling_rate
        assert rate is not None
        if is_file(source):
            return load_audio(source, sampling_rate=rate, start=start, end=self._heard_until(start, end))
        given = self.sample["audio"]
        own = given.get("sampling_rate") if isinstance(given, Mapping) else None
        wave = read_wave(source, own or self.sample.get("sampling_rate"), rate, where)
        return wave[round(start * rate) : None if end is None else round(end * rate)]

    def _heard_until(self, start: float, end: float | None) -> float | None:
        most = self.reading.max_audio_seconds
        return end if most is None else min(start + most, math.inf if end is None else end)

    def flow(self, source: Any, where: str, start: float, end: float | None) -> np.ndarray:
        if isinstance(source, str | os.PathLike):
            source = load_flow(source, start=start, end=end)
        flow = floats(source, where)
        if flow.ndim == 4 and flow.shape[1] != 2 and flow.shape[-1] == 2:
            flow = flow.transpose(0, 3, 1, 2)
        if flow.ndim != 4 or flow.shape[1] != 2:
            raise ValueError(f"{where} has shape {flow.shape}; expected (F, 2, H, W) or (F, H, W, 2)")
        return flow[even_indices(len(flow), self.reading.num_frames)]

    def _from(self, start: float, clip: VideoClip) -> VideoClip:
        """Frames with their seconds from the sample's beginning, without those that a short clip repeats."""
        if self.reading.fps is None and not self.reading.repeats:
            clip = clip.distinct()
        return VideoClip(clip.frames, np.maximum(clip.timestamps - start, 0.0))


# --- one value -------------------------------------------------------------------------------------------------------


def is_file(value: Any) -> bool:
    """Whether a value is a file: its path, its bytes, or a binary file object."""
    return isinstance(value, str | os.PathLike | bytes | bytearray | memoryview) or hasattr(value, "read")


def _file(value: Any, where: str) -> Any:
    if not is_file(value):
        raise ValueError(
            f"{where} is a {type(value).__name__}, which cannot be read; give a path, bytes or binary file"
        )
    return value


def source_of(value: Any, where: str) -> Any:
    """What a reference of `datasets` refers to: an array, bytes (the path may be gone) or a path. File objects are read
    from their beginning."""
    if isinstance(value, Mapping):
        unknown = set(value) - {"path", "bytes", "array", "sampling_rate", "start", "end"}
        if unknown:
            raise ValueError(f"{where} has the keys {sorted(map(str, value))}; expected 'bytes', 'path' or 'array'")
        value = next(value[name] for name in ("array", "bytes", "path") if not is_missing(value.get(name)))
    if hasattr(value, "seekable") and value.seekable():
        value.seek(0)
    return value


def window_of(cells: Sequence[Any], where: str) -> tuple[float, float | None]:
    """`start` (0 where missing) and `end` of the first of some dicts that has either, in seconds.

    Raises:
        ValueError: no numbers, or out of order.
    """
    for cell in cells:
        given = [cell.get("start"), cell.get("end")] if isinstance(cell, Mapping) else [None, None]
        if all(map(is_missing, given)):
            continue
        start, end = (_seconds(value, name, where) for name, value in zip(("start", "end"), given, strict=True))
        if end is not None and end <= (start or 0.0):
            raise ValueError(f"{where}: end ({end:g}) does not come after start ({start or 0.0:g})")
        return start or 0.0, end
    return 0.0, None


def _seconds(value: Any, name: str, where: str) -> float | None:
    if is_missing(value):
        return None
    try:
        seconds = math.nan if isinstance(value, bool) else float(value)
    except (TypeError, ValueError):
        seconds = math.nan
    if not 0 <= seconds < math.inf:
        raise ValueError(f"{where}: {name} is {value!r}, not a number of seconds")
    return seconds


class _Images(VideoClip):
    """Images in order; in place of their times, which of them they are, int64 `(F,)`."""


def read_images(source: Any, where: str, num_frames: int | None = None) -> _Images:
    """Images as frames, at most `num_frames` of them spread evenly, of which alone the files are opened.

    Raises:
        MediaError, ValueError: as `read_image`; MediaError where they differ in size.
    """
    entries = source if isinstance(source, list | tuple) or getattr(source, "ndim", 0) == 4 else [source]
    places = even_indices(len(entries), num_frames)
    images = [read_image(entries[index], where, len(places)) for index in places]
    sizes = sorted({image.shape[:2] for image in images})
    if len(sizes) > 1:
        raise MediaError(f"its images have several sizes (height, width): {sizes[:3]}; scale them to one")
    return _Images(np.stack(images), np.array(places))


def read_image(image: Any, where: str, count: int = 1) -> np.ndarray:
    """An image (PIL, array or file) as `(H, W, 3)` uint8, upright.

    Args:
        count: of how many frames it is one; see `load_image`.

    Raises:
        MediaError: a file or image that cannot be read, or is too large.
        ValueError: None, or an array that is no RGB image.
    """
    if is_missing(image):
        raise ValueError(f"{where} has a frame that is None; leave the frame out")
    source = source_of(image, where)
    if is_file(source):
        return load_image(source, count)
    array = upright_image(source, count=count) if hasattr(source, "convert") else to_numpy(source)
    if array.ndim != 3 or array.shape[-1] != 3 or array.dtype != np.uint8:
        raise ValueError(
            f"{where}: a frame is {array.dtype} of shape {array.shape}; "
            "pass uint8 RGB frames (H, W, 3), channels last, values 0 to 255"
        )
    return array


def read_wave(value: Any, given_rate: Any, rate: int, where: str) -> np.ndarray:
    """A waveform as float32 `(samples,)` at `rate`."""
    if given_rate is None:
        raise ValueError(f"{where} is a waveform of unknown rate; pass sampling_rate= (samples a second)")
    try:
        wave = to_numpy(value)
        if isinstance(value, list | tuple) and wave.dtype.kind in "iu":  # numbers of JSON: full scale is 1, no PCM
            if np.abs(wave).max() > 1:
                raise ValueError("a list of whole numbers beyond 1; pass floats in [-1, 1], or PCM as an integer array")
            wave = wave.astype(np.float32)
        return resample_audio(wave, int(given_rate), rate) if wave.size else np.zeros(0, np.float32)
    except (ValueError, TypeError) as error:
        raise ValueError(f"{where}: {error}") from error


def floats(value: Any, where: str) -> np.ndarray:
    """An array as float32; ValueError where it is no array of finite numbers."""
    try:
        array = to_numpy(value)
        if array.dtype.kind == "c":
            raise TypeError("complex numbers")
        array = array.astype(np.float32, copy=False)
    except (ValueError, TypeError) as error:
        raise ValueError(f"{where} is no array of numbers: {error}") from error
    if not np.isfinite(array).all():
        place = tuple(int(i) for i in np.argwhere(~np.isfinite(array))[0])
        raise ValueError(
            f"{where} holds NaN or infinite values (first at {place}); "
            "repair them, or pass None if the sample lacks this modality"
        )
    return array


def to_numpy(value: Any) -> np.ndarray:
    """An array or tensor (bfloat16 too) in numpy."""
    if hasattr(value, "detach"):
        value = value.detach().cpu()
        value = value.float() if value.is_floating_point() else value
    return np.asarray(value)


def even_indices(total: int, wanted: int | None) -> list[int]:
    """At most `wanted` of `total` frames: the middles of equal parts, as `load_video` takes them."""
    if wanted is None or total <= wanted:
        return list(range(total))
    return [int((part + 0.5) * total / wanted) for part in range(wanted)]
