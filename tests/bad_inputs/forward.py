"""`model(...)` of each head: shapes, types, ids and labels that do not fit."""

import sys
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import torch

import clcr_hf

from .case import Case

sys.path.insert(0, str(Path(__file__).parents[1]))
from model_utils import batch, tiny_config  # noqa: E402

_CLASSES = {"num_labels": 3, "problem_type": "single_label_classification"}
_HEADS: dict[str, tuple[str, dict[str, Any], Any]] = {
    "bare": ("CLCRModel", {}, None),
    "score": ("CLCRForSequenceClassification", {}, torch.randn(3)),
    "scores": (
        "CLCRForSequenceClassification",
        {"num_labels": 3, "problem_type": "regression"},
        torch.randn(3, 3),
    ),
    "class": ("CLCRForSequenceClassification", _CLASSES, torch.tensor([0, 1, 2])),
    "labels": (
        "CLCRForSequenceClassification",
        {"num_labels": 3, "problem_type": "multi_label_classification"},
        torch.ones(3, 3),
    ),
    "segments": ("CLCRForTokenClassification", {**_CLASSES, "num_segments": 4}, torch.ones(3, 4, dtype=torch.long)),
    "alignment": ("CLCRForPreTraining", {}, None),
}


def _bad_inputs(good: dict[str, Any]) -> Iterator[tuple[str, dict[str, Any], bool]]:
    """Name, inputs, and whether a right result may come of them."""

    def changed(**some: Any) -> dict[str, Any]:
        return {name: value for name, value in {**good, **some}.items() if value is not None}

    ids, vision, mask = good["input_ids"], good["vision_features"], good["vision_attention_mask"]
    yield "nothing", {}, False
    yield "ids beyond the vocabulary", changed(input_ids=ids + 100), False
    yield "ids negative", changed(input_ids=ids - 200), False
    yield "ids float", changed(input_ids=ids.float()), False
    yield "ids one row", changed(input_ids=ids[0], attention_mask=None), False
    yield "ids 3-D", changed(input_ids=ids[..., None], attention_mask=None), False
    yield "ids a list", changed(input_ids=ids.tolist()), False
    yield "ids a word", changed(input_ids="a lovely day", attention_mask=None), False
    yield "ids numpy", changed(input_ids=ids.numpy()), False
    yield "ids too long", changed(input_ids=ids.repeat(1, 50), attention_mask=None), False
    yield "ids of length 0", changed(input_ids=ids[:, :0], attention_mask=None), False
    yield "token types beyond", changed(token_type_ids=ids.clamp(min=5)), False
    yield "token types short", changed(token_type_ids=ids[:, :2] * 0), False
    yield "ids and embeddings", changed(inputs_embeds=torch.randn(3, 6, 32)), False
    yield "embeddings too wide", changed(input_ids=None, inputs_embeds=torch.randn(3, 6, 7)), False
    yield "features too wide", changed(vision_features=torch.randn(3, 9, 8)), False
    yield "features 2-D", changed(vision_features=vision[0]), False
    yield "features 4-D", changed(vision_features=vision[:, None]), False
    yield "features of whole numbers", changed(vision_features=vision.long()), True
    yield "features of truth values", changed(vision_features=vision > 0), True
    yield "features complex", changed(vision_features=vision.to(torch.complex64)), False
    yield "features double", changed(vision_features=vision.double()), True
    yield "features half", changed(vision_features=vision.half()), True
    yield "features a list", changed(vision_features=vision.tolist()), False
    yield "features numpy", changed(vision_features=vision.numpy()), False
    yield "features sparse", changed(vision_features=vision.to_sparse()), False
    yield "features of length 0", changed(vision_features=vision[:, :0], vision_attention_mask=mask[:, :0]), False
    yield "batch of 0", {name: value[:0] for name, value in good.items()}, False
    yield "batch sizes differ", changed(vision_features=vision[:2], vision_attention_mask=mask[:2]), False
    yield "mask too short", changed(vision_attention_mask=mask[:, :4]), False
    yield "mask 3-D", changed(vision_attention_mask=mask[..., None]), False
    yield "mask a list", changed(vision_attention_mask=mask.tolist()), False
    yield "mask all zero", changed(vision_attention_mask=mask * 0), True
    yield "all masks zero", {n: v * 0 if n.endswith("mask") else v for n, v in good.items()}, True
    yield "mask alone", changed(vision_features=None), False
    yield "misspelt", changed(vision_fetures=vision), False
    yield "unknown modality", changed(gaze_features=vision), False
    yield "raw without backbone", changed(pixel_values=torch.randn(3, 2, 3, 8, 8)), False
    yield "flow not there", changed(flow_features=vision), False


def _bad_labels(good: torch.Tensor, kind: str) -> Iterator[tuple[str, Any]]:
    yield "too many", torch.cat([good, good])
    yield "too few", good[:1]
    yield "none", good[:0]
    yield "a list", good.tolist()
    yield "a word", "positive"
    yield "complex", good.to(torch.complex64)
    yield "4-D", good[..., None, None, None].expand(*good.shape, 2, 2, 2)
    if kind in ("class", "segments"):
        yield "out of range", good + 3
        yield "negative", good - 7
        yield "float", good.float()
        yield "truth values", good > 0
    if kind in ("scores", "labels"):
        yield "too wide", torch.ones(3, 5)
        yield "one a row", torch.ones(3)
    if kind == "labels":
        yield "out of range", good + 3
        yield "negative", good - 7


def cases(folder: Path) -> Iterator[Case]:
    for kind, (head, fields, labels) in _HEADS.items():
        model = getattr(clcr_hf, head)(tiny_config(**fields)).eval()
        good = {name: value for name, value in batch(3).items() if name != "labels"}
        for name, inputs, may in _bad_inputs(good):
            yield Case(f"{kind}: {name}", partial(_answer, model, inputs), may)
        if labels is not None:
            for name, value in _bad_labels(labels, kind):
                yield Case(f"{kind}: labels {name}", partial(_answer, model, {**good, "labels": value}))
                yield Case(f"{kind}: labels {name}, in training", partial(_learn, model, {**good, "labels": value}))


def _answer(model: Any, inputs: dict[str, Any]) -> Any:
    with torch.no_grad():
        outputs = model(**inputs)
    return {name: value for name, value in outputs.items() if isinstance(value, torch.Tensor)}


def _learn(model: Any, inputs: dict[str, Any]) -> Any:
    try:
        return model.train()(**inputs).loss
    finally:
        model.eval()
