"""`CLCRProcessor`: its options, and what it is given of each modality."""

import sys
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

from clcr_hf import CLCRProcessor

from .case import Case, each
from .files import broken_files

sys.path.insert(0, str(Path(__file__).parents[1]))
from model_utils import clip_processor, write_clip  # noqa: E402

_RNG = np.random.default_rng(0)
_PICTURE = np.zeros((8, 8, 3), np.uint8)
_SOUND = np.zeros(4000, np.float32)
_OPTIONS = {
    "video_num_frames": (0, -1, "many", float("nan"), 1.5, [4]),
    "video_fps": (0, -1, float("nan"), float("inf"), "fast"),
    "max_audio_seconds": (0, -1, float("nan"), "long"),
    "max_text_length": (0, -1, "long", float("nan")),
    "flow_size": (0, -1, "big", [1], [1, 2, 3], [0, 4]),
    "face_crop": (7, ["dlib"], ""),
    "tokenizer": ("bert", 7),
    "feature_extractor": ("mel", 7),
    "image_processor": ("vit", 7),
}
_TEXT = {"number": 7, "bytes": b"day", "dict": {"text": "day"}, "list of numbers": [1], "nested": [["a"]], "empty": []}
_VIDEOS = {
    "number": 7,
    "2-D": np.zeros((8, 8), np.uint8),
    "no frames": np.zeros((0, 8, 8, 3), np.uint8),
    "no rows": np.zeros((2, 0, 8, 3), np.uint8),
    "two channels": np.zeros((2, 8, 8, 2), np.uint8),
    "6-D": np.zeros((1, 1, 2, 8, 8, 3), np.uint8),
    "floats": np.zeros((2, 8, 8, 3), np.float32),
    "objects": np.array([[object()]]),
    "sizes differ": [[_PICTURE, np.zeros((4, 8, 3), np.uint8)]],
    "words": [["a", "b"]],
    "dict without path": {"file": "x.mp4"},
    "path None": {"path": None, "bytes": None},
    "address": "https://example.invalid/x.mp4",
    "absent": "no/such/file.mp4",
    "NUL": "a\0b.mp4",
    "very long": "x" * 100_000,
    "empty bytes": b"",
    "short bytes": b"abc",
}
_AUDIO = {
    "number": 7,
    "NaN": np.full(4000, np.nan, np.float32),
    "infinity": np.full(4000, np.inf, np.float32),
    "3-D": np.zeros((2, 2, 4000), np.float32),
    "objects": np.array([object()]),
    "complex": np.zeros(4000, np.complex64),
    "words": np.array(["a", "b"]),
    "dict without rate": {"array": _SOUND},
    "dict rate 0": {"array": _SOUND, "sampling_rate": 0},
    "dict rate negative": {"array": _SOUND, "sampling_rate": -1},
    "dict rate NaN": {"array": _SOUND, "sampling_rate": float("nan")},
    "dict rate word": {"array": _SOUND, "sampling_rate": "fast"},
    "absent": "no/such/file.wav",
    "short bytes": b"abc",
}
_IMAGES = {
    "number": 7,
    "two channels": np.zeros((8, 8, 2), np.uint8),
    "no rows": np.zeros((0, 8, 3), np.uint8),
    "word": "no_such.png",
    "objects": np.array([object()]),
    "short bytes": b"abc",
}
_FLOW = {
    "number": 7,
    "three channels": np.zeros((2, 3, 8, 8), np.float32),
    "3-D": np.zeros((2, 8, 8), np.float32),
    "NaN": np.full((2, 2, 8, 8), np.nan, np.float32),
    "words": "no_such.npz",
    "objects": np.array([object()]),
}
_FEATURES = {
    "number": 7,
    "word": "gaze",
    "4-D": np.zeros((1, 2, 3, 4, 5), np.float32),
    "NaN": np.full((2, 3), np.nan, np.float32),
    "infinity": np.full((2, 3), np.inf, np.float32),
    "words": [[["a", "b"]]],
    "ragged": [[[1, 2], [3]]],
    "widths differ": [np.zeros((2, 3)), np.zeros((2, 4))],
    "levels differ": [np.zeros((2, 3)), np.zeros((3, 2, 3))],
    "no width": np.zeros((1, 2, 0), np.float32),
    "objects": np.array([[[object()]]]),
    "complex": np.zeros((1, 2, 3), np.complex64),
    "too large for float32": np.full((1, 2, 3), 1e300),
    "meta": torch.zeros(1, 2, 3, device="meta"),
    "sparse": torch.eye(3).to_sparse(),
}
_CALLS: dict[str, dict[str, Any]] = {
    "nothing": {},
    "misspelt": {"txt": "a"},
    "misspelt features": {"gaze_fetures": np.zeros((2, 3))},
    "sizes differ": {"text": ["a", "b"], "audio": [_SOUND]},
    "padding": {"text": "a", "padding": "long"},
    "max_length 0": {"text": "a", "max_length": 0, "truncation": True},
    "max_length negative": {"text": "a", "max_length": -4, "truncation": True},
    "max_length word": {"text": "a", "max_length": "ten", "truncation": True},
    "max_length alone": {"text": "a", "padding": "max_length"},
    "truncation": {"text": "a", "truncation": "much"},
    "tensors": {"text": "a", "return_tensors": "tensorflow"},
    "text_kwargs": {"text": "a", "text_kwargs": {"no_such": 1}},
    "text_kwargs a list": {"text": "a", "text_kwargs": [1]},
    "audio_kwargs": {"audio": _SOUND, "sampling_rate": 16000, "audio_kwargs": {"no_such": 1}},
    "rate 0": {"audio": _SOUND, "sampling_rate": 0},
    "rate negative": {"audio": _SOUND, "sampling_rate": -8000},
    "rate NaN": {"audio": _SOUND, "sampling_rate": float("nan")},
    "rate word": {"audio": _SOUND, "sampling_rate": "fast"},
    "rates too many": {"audio": [_SOUND], "sampling_rate": [16000, 16000]},
    "frames 0": {"videos": _PICTURE[None], "num_frames": 0},
    "frames word": {"videos": _PICTURE[None], "num_frames": "many"},
    "fps NaN": {"videos": _PICTURE[None], "fps": float("nan")},
    "frames and fps": {"videos": _PICTURE[None], "num_frames": 2, "fps": 2},
    "seconds NaN": {"audio": _SOUND, "sampling_rate": 16000, "max_audio_seconds": float("nan")},
    "images and videos": {"images": [_PICTURE], "videos": [_PICTURE[None]]},
    "padding off, lengths differ": {"text": ["a", "a lovely day"], "padding": False},
}
_STRETCHES = {"negative": -1.0, "NaN time": float("nan"), "word": "one", "list": [1.0, 2.0], "beyond": 99.0}
# Nothing of a modality, and types that are taken as what they must mean, give a batch.
_MAY = ("empty", "path None", "no frames", "no rows", "text_kwargs", "audio_kwargs", "empty bytes", "NaN time")


def cases(folder: Path) -> Iterator[Case]:
    processor = clip_processor()
    for name, values in _OPTIONS.items():
        for value in values:
            yield Case(f"CLCRProcessor({name}={value!r})", partial(_build, **{name: value}))
    kinds = {"text": _TEXT, "videos": _VIDEOS, "images": _IMAGES, "flow": _FLOW, "gaze_features": _FEATURES}
    for kind, values in kinds.items():
        yield from each(kind, values, lambda value, kind=kind: dict(processor(**{kind: value})), _MAY)
    yield from each("audio", _AUDIO, lambda value: dict(processor(audio=value, sampling_rate=_rate(value))), _MAY)
    yield from each("call", _CALLS, lambda value: dict(processor(**value)), _MAY)
    clip = write_clip(folder / "whole.mp4")
    for name in ("start", "end"):
        may = ("NaN time", "beyond") if name == "end" else ("NaN time",)
        yield from each(name, _STRETCHES, lambda value, name=name: dict(processor(media=clip, **{name: value})), may)
    yield Case("end before start", lambda: dict(processor(media=clip, start=0.6, end=0.2)))
    processor.save_pretrained(folder / "saved")
    for name in ("processor_config.json", "tokenizer.json"):
        whole = (folder / "saved" / name).read_bytes()
        for what, path in broken_files(folder / "broken", name, whole):
            yield Case(f"{name}: {what}", partial(_load, folder / "saved", path))


def _build(**options: Any) -> dict[str, Any]:
    """An option may be refused when it is given, or where it is used."""
    return dict(CLCRProcessor(**options)(gaze_features=[np.zeros((2, 3))]))


def _rate(value: Any) -> int | None:
    return None if isinstance(value, dict) else 16000


def _load(saved: Path, broken: Path) -> dict[str, Any]:
    import shutil

    target = broken.parent / "processor"
    shutil.copytree(saved, target, dirs_exist_ok=True)
    (target / broken.name).unlink()
    if broken.is_dir():
        (target / broken.name).mkdir()
    elif broken.exists():
        shutil.copyfile(broken, target / broken.name)
    return dict(CLCRProcessor.from_pretrained(target)(text="a lovely day"))
