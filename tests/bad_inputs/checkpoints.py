"""Files of a saved model: weights and configuration, damaged or of another model."""

import json
import shutil
import struct
import sys
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForSequenceClassification

from clcr_hf import CLCRConfig, CLCRForSequenceClassification, CLCRModel
from clcr_hf.modeling_clcr import CLCRPreTrainedModel
from clcr_hf.training.checkpoints import find_checkpoint

from .case import Case
from .files import broken_files

sys.path.insert(0, str(Path(__file__).parents[1]))
from model_utils import feature_config  # noqa: E402

_WEIGHTS = "model.safetensors"
_DOORS: dict[str, Callable[[Path], Any]] = {
    "from_pretrained": CLCRForSequenceClassification.from_pretrained,
    "load_with_head": CLCRPreTrainedModel.load_with_head,
    "AutoModel": AutoModelForSequenceClassification.from_pretrained,
}


def _headers() -> dict[str, bytes]:
    """Headers of safetensors that claim what cannot be."""

    def made(header: Any, body: bytes = b"", size: int | None = None) -> bytes:
        text = json.dumps(header).encode()
        return struct.pack("<Q", len(text) if size is None else size) + text + body

    tensor = {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]}
    return {
        "huge header": made({}, size=2**62),
        "header beyond the file": made({}, size=10_000),
        "header a list": made([1]),
        "offsets beyond": made({"a": {**tensor, "data_offsets": [0, 10**12]}}, bytes(8)),
        "offsets overlap": made({"a": tensor, "b": tensor}, bytes(8)),
        "shape negative": made({"a": {**tensor, "shape": [-2]}}, bytes(8)),
        "shape huge": made({"a": {**tensor, "shape": [10**18]}}, bytes(8)),
        "unknown dtype": made({"a": {**tensor, "dtype": "F7"}}, bytes(8)),
        "no tensors": made({}),
        "another tensor": made({"a": tensor}, bytes(8)),
    }


def _altered(whole: Path) -> dict[str, dict[str, torch.Tensor]]:
    """Weights that open but are not the model's."""
    weights = load_file(whole)
    first = next(name for name, value in weights.items() if value.dim() == 2)
    return {
        "one missing": {name: value for name, value in weights.items() if name != first},
        "one too wide": {**weights, first: torch.zeros(weights[first].shape[0], weights[first].shape[1] + 1)},
        "one flat": {**weights, first: weights[first].flatten()},
        "other names": {f"other.{name}": value for name, value in weights.items()},
    }


def cases(folder: Path) -> Iterator[Case]:
    saved = folder / "saved"
    CLCRForSequenceClassification(feature_config()).save_pretrained(saved)
    whole = (saved / _WEIGHTS).read_bytes()
    files = dict(broken_files(folder / "weights", _WEIGHTS, whole))
    for name, content in _headers().items():
        files[name] = folder / f"header_{name.replace(' ', '_')}" / _WEIGHTS
        files[name].parent.mkdir()
        files[name].write_bytes(content)
    for name, weights in _altered(saved / _WEIGHTS).items():
        files[name] = folder / f"altered_{name.replace(' ', '_')}" / _WEIGHTS
        files[name].parent.mkdir()
        save_file({key: value.contiguous() for key, value in weights.items()}, files[name], {"format": "pt"})
    for what, path in files.items():
        shutil.copyfile(saved / "config.json", path.parent / "config.json") if path.parent.exists() else None
        for door, load in _DOORS.items():
            # A file of weights says nothing of its numbers: noise among them is found by their hash alone.
            yield Case(f"{door}: weights {what}", partial(_load, load, path.parent), what == "noise inside")
    yield from _indexes(folder, saved)
    for name in ("7", "", "no/such", str(saved), str(saved / _WEIGHTS)):
        yield Case(f"--resume_from_checkpoint {name[-20:]!r}", partial(_resume, folder, name))
    (folder / "empty").mkdir()
    for door, load in _DOORS.items():
        if door == "AutoModel":
            continue  # transformers itself speaks before our code is asked
        yield Case(f"{door}: an empty folder", partial(load, folder / "empty"))
        yield Case(f"{door}: a file", partial(load, saved / _WEIGHTS))
        yield Case(f"{door}: an option misspelt", partial(load, saved, hiden_size=4))
        yield Case(f"{door}: another width", partial(load, saved, hidden_size=64))
        yield Case(f"{door}: dtype", partial(load, saved, dtype="float7"))
        yield Case(f"{door}: a name no Hub has", partial(load, "a/b/c"))
        yield Case(f"{door}: a name not at hand", partial(load, "no-such-org/no-such-model"))
    yield Case("from_backbones: modality", partial(CLCRModel.from_backbones, {"smell": "bert"}))
    yield Case("from_backbones: absent", partial(CLCRModel.from_backbones, {"text": str(folder / "absent")}))
    yield Case("CLCRConfig: weights for it", partial(CLCRConfig.from_pretrained, saved / _WEIGHTS))


def _load(load: Callable[[Path], Any], folder: Path) -> str:
    load(folder)
    return "loaded"


def _resume(folder: Path, name: str) -> Any:
    found = find_checkpoint(str(folder / "runs"), name, 1, True)
    if not name:
        raise OSError("an empty name is none: a new run")
    return found


def _indexes(folder: Path, saved: Path) -> Iterator[Case]:
    """Weights in several files, whose index is damaged."""
    index = {
        "a list": [1],
        "no map": {"metadata": {}},
        "map a list": {"metadata": {}, "weight_map": [1]},
        "files absent": {"metadata": {}, "weight_map": {"a": "model-00001-of-00002.safetensors"}},
        "files above": {"metadata": {}, "weight_map": {"a": "../../../../etc/passwd"}},
        "files empty": {"metadata": {}, "weight_map": {}},
    }
    for what, content in {**{name: json.dumps(value) for name, value in index.items()}, "cut": '{"metadata"'}.items():
        place = folder / f"index_{what.replace(' ', '_')}"
        place.mkdir()
        shutil.copyfile(saved / "config.json", place / "config.json")
        (place / f"{_WEIGHTS}.index.json").write_text(content)
        for door, load in _DOORS.items():
            yield Case(f"{door}: index {what}", partial(load, place))
