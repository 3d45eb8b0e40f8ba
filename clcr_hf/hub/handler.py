"""Inference Endpoints: `publish` copies this file beside the model; the endpoint's server imports `EndpointHandler`.

It uses the code in its own folder alone, so `clcr_hf` need not be installed there. Every mistake in a request is a
`ValueError` with one clear line, which the server turns into status 400 and `{"error": ...}`.
"""

import logging
import os
from importlib.util import find_spec
from typing import Any

import torch
from transformers import pipeline

GRAPH_FILE = "model.onnx"
MAX_INPUTS = 32  # of one request
_BODY = ("inputs", "parameters", "options")
_PARAMETERS = ("return_explanation", "top_k", "score_range", "on_error")
_KEYS = ("text", "media", "video", "audio")
_STRETCH = ("start", "end")

logger = logging.getLogger(__name__)


class EndpointHandler:
    """
    Answers requests to an endpoint: on a GPU where there is one, else by onnxruntime where it is installed and the
    folder holds a graph (`clcr publish --graph`), else by PyTorch on the CPU. The log says which, and why.

    Args:
        path: Folder of the model's repository. Its code is run.

    Attributes:
        limits: Your own in place of those of `limits.py`, as `{"max_seconds": 60}`: `max_bytes`, `max_seconds`,
            `timeout`, as of `CLCRPipeline`.
        backend: `"onnx"` or `"torch"`.

    Raises (on construction):
        ValueError: a graph that was made of other weights than those in the folder.
    """

    limits: dict[str, Any] = {}

    def __init__(self, path: str = "") -> None:
        self.backend, device, why = _choose(os.fspath(path))
        logger.info("answers come from %s on %s: %s", self.backend, device, why)
        options = {"device": device, "backend": self.backend, "trust_remote_code": True}
        self.pipeline = pipeline("multimodal-sentiment", model=os.fspath(path), **options)

    def __call__(self, data: dict[str, Any]) -> Any:
        """
        Args:
            data: `{"inputs": ..., "parameters": {...}}`.

                `inputs`: a dict with any of `text`, `media` (frames and audio), `video`, `audio` and ready features
                (`<modality>_features`, nested lists of numbers), and `start` and `end`, the stretch of the media in
                seconds; a string alone: an http(s) address, a data URI or
                base64 of a media file, otherwise text; the bytes of a media file (a body of type audio/* or video/*);
                or a list of these. Media in a dict are addresses, data URIs, base64 or bytes. Files of the server are
                never read.

                `parameters`: `return_explanation`, `top_k`, `score_range`, `on_error`, as of `CLCRPipeline`.

        Returns:
            What `CLCRPipeline` returns, a list for a list: dicts, lists, strings and numbers.

        Raises:
            ValueError: a request of another form, an unknown parameter, media that cannot be had or read, or too much
                at once.
        """
        inputs, parameters = _checked(data)
        return self.pipeline(inputs, **self.limits, local_files=False, **parameters)


def _choose(folder: str) -> tuple[str, str, str]:
    """Backend, device, and why."""
    if torch.cuda.is_available():
        return "torch", "cuda:0", "there is a GPU"
    if not os.path.isfile(os.path.join(folder, GRAPH_FILE)):
        return "torch", "cpu", f"there is no {GRAPH_FILE}"
    if find_spec("onnxruntime") is None:
        return "torch", "cpu", f"onnxruntime, which {GRAPH_FILE} needs, is not installed"
    return "onnx", "cpu", f"there is a {GRAPH_FILE}"


def _checked(data: Any) -> tuple[Any, dict[str, Any]]:
    """Inputs and parameters of a request."""
    if not isinstance(data, dict) or data.get("inputs") is None:
        raise ValueError('a request has the form {"inputs": ..., "parameters": {...}}')
    _refuse_unknown("keys of the request", data, _BODY)
    parameters = data.get("parameters") or {}
    if not isinstance(parameters, dict):
        raise ValueError(f"parameters must be an object, got {type(parameters).__name__}")
    _refuse_unknown("parameters", parameters, _PARAMETERS)
    inputs = data["inputs"]
    if isinstance(inputs, list) and not 0 < len(inputs) <= MAX_INPUTS:
        raise ValueError(f"a request holds 1 to {MAX_INPUTS} inputs, got {len(inputs)}")
    for one in inputs if isinstance(inputs, list) else [inputs]:
        _check_input(one)
    return inputs, parameters


def _check_input(value: Any) -> None:
    """Only what a request can mean; what the strings and features hold, and how much of it, is checked where they are
    read: the pipeline takes no more of a stranger than `limits.py` says."""
    if not isinstance(value, dict):
        _check_part("an input alone", value, (str, bytes))
        return
    features = [key for key in value if isinstance(key, str) and key.endswith("_features")]
    _refuse_unknown("keys in inputs", value, (*_KEYS, *_STRETCH, *features))
    for key in _KEYS:
        if value.get(key) is not None:
            _check_part(key, value[key], (str,) if key == "text" else (str, bytes))


def _check_part(name: str, value: Any, kinds: tuple[type, ...]) -> None:
    if not isinstance(value, kinds):
        wanted = "a string" if kinds == (str,) else "a string or the bytes of a file"
        raise ValueError(f"{name} must be {wanted}, got {type(value).__name__}")


def _refuse_unknown(what: str, given: dict[str, Any], known: tuple[str, ...]) -> None:
    unknown = [str(key)[:40] for key in given if key not in known]
    if unknown:
        raise ValueError(f"unknown {what}: {', '.join(unknown[:5])}; known: {', '.join(known)}")
