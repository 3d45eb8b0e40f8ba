"""The pipeline, the feature pipeline and the endpoint's handler."""

import sys
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from transformers import pipeline

from clcr_hf.hub.handler import EndpointHandler

from .case import Case, each

sys.path.insert(0, str(Path(__file__).parents[1]))
from model_utils import save_clip_model, write_clip  # noqa: E402

_TEXT = {"text": "a lovely day"}
_SAMPLES: dict[str, Any] = {
    "None": None,
    "number": 7,
    "empty dict": {},
    "nothing in it": {"text": None, "media": ""},
    "unknown key": {"txt": "a lovely day"},
    "key no word": {7: "a"},
    "text number": {"text": 7},
    "text bytes": {"text": b"a"},
    "text list": {"text": ["a"]},
    "media number": {"media": 7},
    "media absent": {"media": "no/such.mp4"},
    "media a folder": {"media": "/"},
    "media NUL": {"media": "a\0b.mp4"},
    "media empty bytes": {"media": b""},
    "media short bytes": {"media": b"abc"},
    "media HTML": {"media": b"<html>" * 100},
    "media bad base64": {"media": "data:video/mp4;base64,@@@@"},
    "media data without comma": {"media": "data:video/mp4;base64"},
    "media other scheme": {"media": "ftp://example.invalid/x.mp4"},
    "media file scheme": {"media": "file:///etc/passwd"},
    "media no host": {"media": "http:///x.mp4"},
    "media port": {"media": "http://example.invalid:99999/x.mp4"},
    "video and media": {"video": b"abc", "media": b"abc"},
    "audio NaN": {"audio": np.full(4000, np.nan, np.float32)},
    "audio 3-D": {"audio": np.zeros((2, 2, 100), np.float32)},
    "audio rate 0": {"audio": np.zeros(4000, np.float32), "sampling_rate": 0},
    "audio rate word": {"audio": np.zeros(4000, np.float32), "sampling_rate": "fast"},
    "images number": {"images": 7},
    "images words": {"images": ["a"]},
    "features of no modality": {"gaze_features": [[1.0]]},
    "features ragged": {"audio_features": [[1.0], [1.0, 2.0]]},
    "features words": {"audio_features": [["a"]]},
    "features deep": {"audio_features": [[[[[1.0]]]]]},
    "features path absent": {"audio_features": "no_such.npy"},
    "start after end": {**_TEXT, "media": b"abc", "start": 2, "end": 1},
    "start NaN": {"media": b"abc", "start": float("nan")},
    "start word": {"media": b"abc", "start": "one"},
    "ids beyond": {"input_ids": [10**6]},
    "ids negative": {"input_ids": [-5]},
    "ids words": {"input_ids": ["a"]},
    "ids float": {"input_ids": [0.5]},
    "ids empty": {"input_ids": []},
    "ids nested": {"input_ids": [[[1]]]},
    "ids huge": {"input_ids": [10**30]},
    "intervals without words": {**_TEXT, "word_intervals": "x"},
}
_PARAMETERS: dict[str, dict[str, Any]] = {
    "unknown": {"topk": 1},
    "top_k 0": {"top_k": 0},
    "top_k word": {"top_k": "all"},
    "top_k negative": {"top_k": -1},
    "top_k half": {"top_k": 0.5},
    "range one number": {"score_range": [1]},
    "range falling": {"score_range": [3, -3]},
    "range NaN": {"score_range": [float("nan"), 1]},
    "range words": {"score_range": ["a", "b"]},
    "on_error": {"on_error": "ignore"},
    "explanation word": {"return_explanation": "yes"},
    "max_seconds 0": {"max_seconds": 0},
    "max_seconds NaN": {"max_seconds": float("nan")},
    "max_bytes negative": {"max_bytes": -1},
    "max_bytes word": {"max_bytes": "10M"},
    "timeout 0": {"timeout": 0},
    "timeout word": {"timeout": "soon"},
    "local_files word": {"local_files": "no"},
}
_CALLS: dict[str, dict[str, Any]] = {
    "batch_size 0": {"batch_size": 0},
    "batch_size negative": {"batch_size": -2},
    "batch_size word": {"batch_size": "two"},
    "workers negative": {"num_workers": -1},
    "window 0": {"window": 0},
    "window negative": {"window": -1.0},
    "window NaN": {"window": float("nan")},
    "window infinite": {"window": float("inf")},
    "window word": {"window": "ten"},
    "every 0": {"window": 1, "every": 0},
    "every NaN": {"window": 1, "every": float("nan")},
}
_REQUESTS: dict[str, Any] = {
    "None": None,
    "list": [],
    "word": "a",
    "empty": {},
    "inputs None": {"inputs": None},
    "inputs number": {"inputs": 7},
    "inputs empty list": {"inputs": []},
    "inputs many": {"inputs": ["a"] * 33},
    "inputs nested": {"inputs": [["a"]]},
    "inputs truth": {"inputs": True},
    "unknown key": {"inputs": "a", "input": "b"},
    "parameters list": {"inputs": "a", "parameters": [1]},
    "parameters unknown": {"inputs": "a", "parameters": {"max_bytes": 10}},
    "local_files": {"inputs": "a", "parameters": {"local_files": True}},
    "path": {"inputs": {"media": "/etc/passwd"}},
    "path of features": {"inputs": {"audio_features": "/etc/passwd"}},
    "features word": {"inputs": {"audio_features": "x"}},
    "features number": {"inputs": {"audio_features": 7}},
    "features nested None": {"inputs": {"audio_features": [[None]]}},
    "start list": {"inputs": {"media": b"abc", "start": [1]}},
    "empty bytes": {"inputs": b""},
    "text too long": {"inputs": {"text": "a" * 100_001}},
}
# Columns that only training reads are passed over.
_MAY = ("intervals without words",)


def cases(folder: Path) -> Iterator[Case]:
    path = save_clip_model(folder / "model")
    clip = write_clip(folder / "clip.mp4")
    for task in ("multimodal-sentiment", "multimodal-feature-extraction"):
        pipe = pipeline(task, model=path, device="cpu")
        for name, value in _SAMPLES.items():
            yield Case(f"{task}: {name}", partial(pipe, value), name in _MAY)
        yield from each(f"{task}: on a stretch", {"start beyond": {"media": clip, "start": 99.0}}, pipe)
    pipe = pipeline("multimodal-sentiment", model=path, device="cpu")
    for name, value in _SAMPLES.items():
        yield Case(f"skip: {name}", partial(_skipped, pipe, value), name in _MAY)
    yield from each("parameters", _PARAMETERS, lambda value: pipe(_TEXT, **value), _MAY)
    yield from each("call", _CALLS, lambda value: pipe([{"media": clip}], **value), _MAY)
    yield Case("a window of text alone", lambda: pipe(_TEXT, window=1))
    handler = EndpointHandler(path)
    yield from each("handler", _REQUESTS, handler)
    for name, value in _SAMPLES.items():
        yield Case(f"handler: sample {name}", partial(handler, {"inputs": value}))


def _skipped(pipe: Any, sample: Any) -> Any:
    """`on_error="skip"` says of a sample why it was not read, and that as one line."""
    result = pipe(sample, on_error="skip")
    error = result.get("error")
    if error is None:
        return result
    if "\n" in error or len(error) < 10:
        return float("nan")
    raise _Skipped(error)


class _Skipped(OSError):
    """The reason that a result gave."""
