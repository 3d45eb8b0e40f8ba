"""What `CLCRPipeline` is given, to arrays for the model: files, addresses, bytes, base64, rows of data sets."""

import os
from collections.abc import Mapping
from typing import Any

import numpy as np

from .configuration_clcr import STANDARD_MODALITIES
from .feature_files import with_feature_files
from .fetch import MAX_BYTES, TIMEOUT, fetch, is_base64_media, is_url, read_base64, read_data_uri
from .media import MediaError, VideoClip, load_audio, load_media, load_video
from .pipeline_windows import SampleWindows
from .processing_clcr import CLCRProcessor

_MEDIA_KEYS = ("media", "video", "audio", "images", "flow")
_TOKEN_KEYS = ("input_ids", "attention_mask", "token_type_ids")
_KNOWN_KEYS = (*_MEDIA_KEYS, "text", "sampling_rate", *_TOKEN_KEYS)
# Columns of the data sets that answers do not need.
_IGNORED_KEYS = ("id", "label", "labels", "words")


class SampleReader:
    """Any accepted input to arrays for the model (no batch axis) and its times; see [`CLCRPipeline`]."""

    def __init__(self, processor: CLCRProcessor, modalities: list[str]) -> None:
        self.processor, self.modalities = processor, modalities
        extractor = processor.feature_extractor
        self.rate: int | None = None if extractor is None else getattr(extractor, "sampling_rate", 16_000)
        self.sees = processor.image_processor is not None or processor.video_processor is not None
        fps = processor.video_fps
        self.frames = {"num_frames": processor.video_num_frames} if fps is None else {"fps": fps}

    def __call__(
        self,
        value: Any,
        local_files: bool = True,
        max_bytes: int = MAX_BYTES,
        timeout: float = TIMEOUT,
        max_seconds: float | None = None,
    ) -> dict[str, Any]:
        """`arrays` by the model's argument names; `frame_times (F,)`, `sound_seconds` and `seconds` (of the whole clip)
        where they are known, else None."""
        source = _Source(local_files, max_bytes, timeout)
        sample = with_feature_files(self._checked(_as_sample(value, source)), local_files)
        if not local_files and set(sample) & set(_TOKEN_KEYS):
            raise ValueError("token ids are not read here; send text")  # a wrong id ends all work of a GPU
        for key in _MEDIA_KEYS:
            if sample.get(key) is not None:
                sample[key] = [source(each) for each in sample[key]] if key == "images" else source(sample[key])
        times: dict[str, Any] = {"frame_times": None, "sound_seconds": None, "seconds": None}
        arguments = self._decode(sample, times, max_seconds)
        batch = self.processor(**arguments, return_tensors="np") if arguments else {}
        arrays = {key: value[0] for key, value in batch.items()}
        arrays |= {
            key: np.asarray(each)
            for key, each in sample.items()
            if (key in _TOKEN_KEYS or key.endswith("_attention_mask")) and each is not None
        }
        if not arrays:
            raise ValueError(f"nothing in the input is read by this model, which reads {', '.join(self.modalities)}")
        return {"arrays": arrays, **times}

    def windows(
        self,
        value: Any,
        window: float,
        every: float | None = None,
        local_files: bool = True,
        max_bytes: int = MAX_BYTES,
        timeout: float = TIMEOUT,
        sampling_rate: int | None = None,
    ) -> SampleWindows:
        """Any accepted input with a media file, in windows. `sampling_rate`: of audio that the model does not hear."""
        source = _Source(local_files, max_bytes, timeout)
        sample = _as_sample(value, source)
        if self.processor.tokenizer is None:
            sample = {key: each for key, each in sample.items() if key not in ("text", "words", "word_intervals")}
        sample |= {key: source(sample[key]) for key in ("media", "video", "audio") if sample.get(key) is not None}
        return SampleWindows(sample, window, every, self.frames if self.sees else None, self.rate or sampling_rate)

    def _checked(self, sample: dict[str, Any]) -> dict[str, Any]:
        """The sample without what is absent or not for us; ValueError for unknown keys."""
        named = {*STANDARD_MODALITIES, *self.modalities}
        wide = {f"{name}{end}": name for name in named for end in ("_features", "_attention_mask")}
        sample = {
            key: value
            for key, value in sample.items()
            if key not in _IGNORED_KEYS and not str(key).endswith("_intervals")
        }
        unknown = [key for key in sample if key not in (*_KNOWN_KEYS, *wide)]
        if unknown:
            known = ", ".join((*_KNOWN_KEYS, "<modality>_features"))
            raise ValueError(f"unknown keys {unknown} in the input; known: {known}")
        wanted = {
            key: value
            for key, value in sample.items()
            if value is not None and wide.get(key, self.modalities[0]) in self.modalities
        }
        if isinstance(wanted.get("text"), str) and not wanted["text"].strip():
            del wanted["text"]
        if not set(wanted) - {"sampling_rate"}:
            raise ValueError("the input holds nothing to read: give media, video, audio, text or features")
        return wanted

    def _decode(self, sample: dict[str, Any], times: dict[str, Any], max_seconds: float | None) -> dict[str, Any]:
        """Arguments of the processor; what is raw goes before features of the same modality."""
        decoded: dict[str, Any] = {}
        text = sample.get("text")
        if text is not None and self.processor.tokenizer is not None and "input_ids" not in sample:
            decoded["text"] = [text]
        video, audio = sample.get("video"), sample.get("audio")
        sees, hears = self.sees and "images" not in sample, self.rate is not None
        if sample.get("media") is not None and ((sees and video is None) or (hears and audio is None)):
            frames = self.frames if sees else {"num_frames": 1}
            clip = load_media(sample["media"], sampling_rate=self.rate, end=max_seconds, **frames)
            video = clip.video if video is None else video
            if audio is None and clip.audio is not None:
                audio = {"array": clip.audio, "sampling_rate": clip.sampling_rate}
        if "images" in sample and self.sees:
            decoded["images"] = [sample["images"]]
        elif video is not None and sees:
            video = load_video(video, end=max_seconds, **self.frames) if is_file(video) else video
            decoded |= self._pictures(video, times)
        if audio is not None and hears:
            decoded |= self._sound(audio, sample.get("sampling_rate"), times, max_seconds)
        if sample.get("flow") is not None and "flow" in self.modalities:
            decoded["flow"] = [sample["flow"]]
        raw = {"text": "text", "vision": "videos", "audio": "audio", "flow": "flow"}
        for key, value in sample.items():
            modality = key.removesuffix("_features")
            given = raw.get(modality) in decoded or (modality == "vision" and "images" in decoded)
            if key.endswith("_features") and not given:
                decoded[key] = [np.asarray(value)]
        return decoded

    def _pictures(self, video: Any, times: dict[str, Any]) -> dict[str, Any]:
        """Frames as the processor takes them of a file: by number, those that a short clip repeats are dropped."""
        if not isinstance(video, VideoClip):
            return {"videos": [video["array"] if isinstance(video, Mapping) else video]}
        moments, frames = video.timestamps, video.frames
        if "fps" not in self.frames:
            moments, index = np.unique(moments, return_index=True)
            frames = frames[index]
        times["frame_times"] = moments
        if len(moments) > 1:  # until the sound says better
            step = (moments[-1] - moments[0]) / (len(moments) - 1)
            times["seconds"] = float(moments[-1] + (step if "fps" in self.frames else step / 2))
        return {"videos": [frames]}

    def _sound(self, audio: Any, rate: Any, times: dict[str, Any], max_seconds: float | None) -> dict[str, Any]:
        assert self.rate is not None
        if isinstance(audio, Mapping):  # decoded by `datasets`
            audio, rate = np.asarray(audio["array"]), audio.get("sampling_rate") or rate
        rate = int(rate or self.rate)
        if is_file(audio):
            rate = self.rate
            audio = load_audio(audio, sampling_rate=rate, end=max_seconds)
        wave = np.asarray(audio, dtype=np.float32 if isinstance(audio, list | tuple) else None)
        if wave.ndim and wave.size:
            times["seconds"] = max(wave.shape) / rate
            times["sound_seconds"] = min(times["seconds"], self.processor.max_audio_seconds or float("inf"))
        return {"audio": [wave], "sampling_rate": rate}


class _Source:
    """Makes what stands for a media file into what can be opened: bytes, a path or an open file. All else (arrays)
    stays as it is. Without local files, what comes out names no file, however deep it is nested."""

    def __init__(self, local_files: bool, max_bytes: int, timeout: float) -> None:
        self.local_files, self.max_bytes, self.timeout = local_files, max_bytes, timeout

    def __call__(self, value: Any) -> Any:
        if isinstance(value, Mapping) and "array" not in value:
            unknown = set(value) - {"path", "bytes"}
            if unknown:
                raise ValueError(f"a media file in a dict has the keys path and bytes, got {sorted(unknown)}")
            value = value.get("bytes") if value.get("bytes") is not None else value.get("path")
        if isinstance(value, str | os.PathLike):
            return self._from_string(os.fspath(value))
        if self.local_files or value is None or isinstance(value, bytes | bytearray | memoryview):
            return value
        if isinstance(value, Mapping):
            return {"array": _numbers(value["array"]), "sampling_rate": value.get("sampling_rate")}
        return _numbers(value)

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


def _as_sample(value: Any, source: _Source) -> dict[str, Any]:
    """Any accepted input as a dict; see [`CLCRPipeline`]."""
    if isinstance(value, Mapping):
        # What `datasets` gives for a column of undecoded media, alone.
        return {"media": value} if value and set(value) <= {"path", "bytes"} else dict(value)
    if isinstance(value, str) and not source.local_files:
        media = source.remote(value)
        if media is not None or is_base64_media(value):
            return {"media": value if media is None else media}
        return {"text": value}
    if is_file(value):
        return {"media": value}
    raise ValueError(f"an input must be a path, an address, bytes or a dict, got {type(value).__name__}")


def is_file(value: Any) -> bool:
    return isinstance(value, str | os.PathLike | bytes | bytearray | memoryview) or hasattr(value, "read")


__all__ = ["SampleReader", "is_file"]
