"""What `CLCRPipeline` is given, to arrays for the model: files, addresses, bytes, base64, rows of data sets."""

import os
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from .feature_files import with_feature_files
from .fetch import MAX_BYTES, TIMEOUT, fetch, is_base64_media, is_url, read_base64, read_data_uri
from .limits import MAX_SECONDS, STRANGERS, check_steps, check_stranger
from .media import MediaError, media_duration
from .modalities import (
    FILE_COLUMNS,
    INTERVALS_END,
    MASK_END,
    RAW_COLUMNS,
    STANDARD,
    TOKEN_COLUMNS,
    modality,
)
from .pipeline_windows import SampleWindows
from .samples import Reading, Sample, is_file, is_missing, read_sample, source_of, window_of

_SLACK = 0.1  # seconds of a file that may be left out without a word
_MEDIA_KEYS = tuple(name for name in RAW_COLUMNS if name != "text")
_KNOWN_KEYS = (*RAW_COLUMNS, "sampling_rate", "start", "end", *TOKEN_COLUMNS)
_SETTINGS = {"sampling_rate", "start", "end"}  # keys that are nothing to read by themselves
_REFERENCE = {"path", "bytes", "start", "end"}  # keys of a dict that is one file, or a stretch of it
# Columns of the data sets that answers do not need.
_IGNORED_KEYS = ("id", "label", "labels", "words")


class SampleReader:
    """Any accepted input to arrays for the model (no batch axis) and its times; see [`CLCRPipeline`]."""

    def __init__(self, processor: Any, modalities: list[str]) -> None:
        self.processor, self.modalities = processor, modalities
        sees = processor.image_processor is not None or processor.video_processor is not None
        wanted = {"vision": sees and "vision" in modalities, "audio": "audio" in modalities}
        # The audio is read whole, for its length; the processor cuts it.
        self.reading = Reading.of(processor, **wanted, max_audio_seconds=None)

    def __call__(self, value: Any, max_seconds: float | None = None, **access: Any) -> dict[str, Any]:
        """`arrays` by the model's argument names; `frame_times (F,)`, `sound_seconds` and `seconds` (of the whole clip)
        where they are known, else None. `access`: `local_files`, `max_bytes`, `timeout`, see [`CLCRPipeline`]."""
        source = _Source(**access)
        sample = self._checked(_as_sample(value, source))
        reading = self.reading
        if not source.local_files:
            check_stranger(sample, source.max_bytes)
            reading = replace(reading, limits=STRANGERS)
            max_seconds = MAX_SECONDS if max_seconds is None else max_seconds
        sample = with_feature_files(sample, source.local_files)
        if not source.local_files and set(sample) & set(TOKEN_COLUMNS):
            raise ValueError("token ids are not read here; send text")  # a wrong id ends all work of a GPU
        for key in _MEDIA_KEYS:
            if key in sample:
                several = key == "images" and isinstance(sample[key], list | tuple)
                sample[key] = [source(each) for each in sample[key]] if several else source(sample[key])
        raw = {key: value for key, value in sample.items() if self._reads(key, sample)}
        raw = {"sampling_rate": self.reading.sampling_rate, **raw}
        read = read_sample(raw, replace(reading, max_seconds=max_seconds))
        if not source.local_files:
            for key, features in read.features.items():
                check_steps(features.shape, key)
        read.features = {key: np.atleast_2d(value) for key, value in read.features.items()}  # one vector a clip
        arguments = read.arguments()
        for each in STANDARD.values():  # what is raw goes before features of the same modality
            if any(name in arguments for name in each.arguments):
                arguments.pop(each.features, None)
        batch = self.processor(**arguments, face_crop=False, return_tensors="np") if arguments else {}
        arrays = {key: value[0] for key, value in batch.items()}
        ready = (key for key in sample if key in TOKEN_COLUMNS or key.endswith(MASK_END))
        arrays |= {key: _whole_numbers(sample[key], key) for key in ready}
        if not arrays:
            raise ValueError(f"nothing in the input is read by this model, which reads {', '.join(self.modalities)}")
        most = self.processor.max_audio_seconds or float("inf")
        heard = None if read.audio_seconds is None else min(read.audio_seconds, most)
        times = {"frame_times": read.frame_times, "sound_seconds": heard, "seconds": read.seconds}
        return {"arrays": arrays, **times, "cut": self._cut(sample, heard, read, max_seconds)}

    def _cut(
        self, sample: Mapping[str, Any], heard: float | None, read: Sample, max_seconds: float | None
    ) -> tuple[float, float] | None:
        """Seconds that are read, and seconds there are, of a file of which a part is left out; None of all others."""
        cut = None
        if heard is not None and read.audio_seconds is not None and read.audio_seconds - heard > _SLACK:
            cut = (heard, read.audio_seconds)
        if max_seconds is not None and read.seconds is not None and read.seconds > max_seconds - _SLACK:
            files = [source_of(sample[key], key) for key in FILE_COLUMNS if key in sample]
            start, end = window_of([sample], "the input")
            whole = max((media_duration(file) for file in files if is_file(file)), default=0.0)
            whole = (whole if end is None else min(whole, end)) - start
            if whole - read.seconds > _SLACK:
                cut = (read.seconds if heard is None else min(heard, read.seconds), whole)
        return cut

    def windows(
        self, value: Any, window: float, every: float | None = None, sampling_rate: int | None = None, **access: Any
    ) -> SampleWindows:
        """Any accepted input with a media file, in windows. `sampling_rate`: of audio that the model does not hear;
        `access`: as of a call."""
        source = _Source(**access)
        sample = _as_sample(value, source)
        if not source.local_files:
            check_stranger(sample, source.max_bytes)
        if self.processor.tokenizer is None:
            sample = {key: each for key, each in sample.items() if key not in ("text", "words", "word_intervals")}
        sample |= {key: source(sample[key]) for key in FILE_COLUMNS if sample.get(key) is not None}
        frames = self.reading.frames if self.reading.vision else None
        return SampleWindows(sample, window, every, frames, self.reading.sampling_rate or sampling_rate)

    def _checked(self, sample: dict[str, Any]) -> dict[str, Any]:
        """The sample without what is missing or not for us; ValueError for unknown keys."""
        known = dict.fromkeys((*STANDARD, *self.modalities))
        of_key = {key: name for name in known for key in (modality(name).features, modality(name).mask)}
        passed_over = {key for key in sample if key in _IGNORED_KEYS or str(key).endswith(INTERVALS_END)}
        unknown = [key for key in sample if key not in (*_KNOWN_KEYS, *of_key, *passed_over)]
        if unknown:
            listed = ", ".join((*_KNOWN_KEYS, "<modality>_features"))
            told = [str(key)[:40] for key in unknown[:5]] + ["..."] * (len(unknown) > 5)
            raise ValueError(f"unknown keys {told} in the input; known: {listed}")
        wanted = {
            key: value
            for key, value in sample.items()
            if key not in passed_over
            and not is_missing(value)
            and of_key.get(key, self.modalities[0]) in self.modalities
        }
        if not set(wanted) - _SETTINGS:
            raise ValueError("the input is empty, there is nothing to read: give media, video, audio, text or features")
        return wanted

    def _reads(self, key: str, sample: Mapping[str, Any]) -> bool:
        """Whether a key is read here; token ids and masks are ready for the model."""
        if key == "text":
            return "text" in self.modalities and self.processor.tokenizer is not None and "input_ids" not in sample
        return key != "flow" or "flow" in self.modalities


@dataclass
class _Source:
    """Makes what stands for a media file into what can be opened: bytes, a path or an open file. All else (arrays)
    stays as it is. Without local files, what comes out names no file, however deep it is nested."""

    local_files: bool = True
    max_bytes: int = MAX_BYTES
    timeout: float = TIMEOUT

    def __call__(self, value: Any) -> Any:
        stretch: dict[str, Any] = {}
        if isinstance(value, Mapping) and "array" not in value:
            unknown = set(value) - _REFERENCE
            if unknown:
                raise ValueError(f"a media file in a dict has the keys path and bytes, got {sorted(unknown)}")
            stretch = {name: value[name] for name in ("start", "end") if name in value}
            value = value.get("bytes") if value.get("bytes") is not None else value.get("path")
        if isinstance(value, str | os.PathLike):
            value = self._from_string(os.fspath(value))
        elif isinstance(value, Mapping) and not self.local_files:
            value = {"array": _numbers(value["array"]), "sampling_rate": value.get("sampling_rate")}
        elif not (self.local_files or value is None or isinstance(value, bytes | bytearray | memoryview)):
            value = _numbers(value)
        return {"path" if isinstance(value, str) else "bytes": value, **stretch} if stretch else value

    def _from_string(self, value: str) -> bytes | str:
        remote = self.remote(value)
        if remote is not None:
            return remote
        if not self.local_files:
            return read_base64(value, max_bytes=self.max_bytes)
        if os.path.exists(os.path.expanduser(value)):
            return value
        if is_base64_media(value):
            return read_base64(value, max_bytes=self.max_bytes)
        shown = value if len(value) <= 200 else f"{value[:80]}... ({len(value)} characters)"
        raise MediaError(f"{shown!r} does not exist; give the path of a media file, or text as {{'text': ...}}")

    def remote(self, value: str) -> bytes | None:
        """What an address or a data URI holds; None where `value` is neither."""
        if is_url(value):
            return fetch(value, max_bytes=self.max_bytes, timeout=self.timeout)
        if value[:5].lower() == "data:":
            return read_data_uri(value, max_bytes=self.max_bytes)
        return None


def _numbers(value: Any) -> np.ndarray:
    """`value` as an array of numbers, and of nothing that could name a file."""
    array = np.asarray(value)
    if array.dtype.kind not in "buif":
        raise ValueError(f"a media file is bytes, base64 or an address, or else an array, got {type(value).__name__}")
    return array


def _whole_numbers(value: Any, key: str) -> np.ndarray:
    """Token ids, or a mask of ready input, `(T,)`."""
    array = np.asarray(value)
    if array.dtype.kind not in "iub" or array.ndim != 1 or not array.size:
        raise ValueError(f"{key} must be a list of whole numbers, got {array.dtype} of shape {array.shape}")
    return array


def _as_sample(value: Any, source: _Source) -> dict[str, Any]:
    """Any accepted input as a dict; see [`CLCRPipeline`]."""
    if isinstance(value, Mapping):
        # What `datasets` gives for a column of undecoded media, alone.
        return {"media": value} if {"path", "bytes"} & set(value) and set(value) <= _REFERENCE else dict(value)
    if isinstance(value, str) and not source.local_files:
        media = source.remote(value)
        if media is not None or is_base64_media(value):
            return {"media": value if media is None else media}
        return {"text": value}
    if is_file(value):
        return {"media": value}
    raise ValueError(f"an input must be a path, an address, bytes or a dict, got {type(value).__name__}")
