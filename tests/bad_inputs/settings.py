"""`CLCRConfig`: values of its fields, of its sub-configurations, and files of it."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from clcr_hf import CLCRConfig, CLCRForSequenceClassification, CLCRModalityConfig, CLCRModel

from .case import Case, each
from .files import broken

_COUNTS = ("hidden_size", "num_levels", "num_attention_heads", "shared_rank", "num_segments", "alignment_negatives")
_NUMBERS = (
    *("dropout", "attention_dropout", "modality_dropout", "label_smoothing", "budget_ratio", "lambda_intra"),
    *("lambda_inter", "private_gate_floor", "correlation_shrinkage", "own_share", "alignment_coef", "focal_gamma"),
    *("layer_norm_eps", "unimodal_loss_weight", "logit_temperature"),
)
_LISTS = ("label_mean", "label_std", "class_weights", "label_thresholds", "score_interval", "label_range")
_BAD_COUNTS = {"-1": -1, "0": 0, "half": 1.5, "word": "four", "list": [4], "huge": 10**12, "NaN": float("nan")}
_BAD_NUMBERS = {"NaN": float("nan"), "infinity": float("inf"), "word": "much", "list": [0.1], "-2": -2.0, "huge": 1e300}
_BAD_LISTS = {"NaN": [float("nan")], "word": "wide", "words": ["a"], "too long": [1.0] * 7, "nested": [[[1]]]}
_BAD_PARTS: dict[str, Any] = {
    "empty": {},
    "number": 7,
    "word": "seven",
    "list": [7],
    "no width": {"feature_size": None},
    "width 0": {"feature_size": 0},
    "width -1": {"feature_size": -1},
    "width word": {"feature_size": "seven"},
    "width huge": {"feature_size": 10**15},
    "misspelt": {"feature_sice": 7},
    "source": {"feature_size": 7, "source": "magic"},
    "norm": {"feature_size": 7, "feature_norm": "much"},
    "dilations": {"feature_size": 7, "tcn_dilations": [[1]]},
    "dilation words": {"feature_size": 7, "tcn_dilations": ["a", "b", "c"]},
    "stride 0": {"feature_size": 7, "tcn_stride": 0},
    "taps": {"feature_size": 7, "source": "taps", "taps": [1, 2]},
    "unknown backbone": {"backbone_config": {"model_type": "no_such_model"}},
    "backbone without type": {"backbone_config": {"hidden_size": 4}},
    "backbone word": {"backbone_config": "bert"},
}
_BAD_FIELDS: dict[str, dict[str, Any]] = {
    "misspelt": {"hiden_size": 4},
    "misspelt part": {"vison_config": {"feature_size": 4}},
    "labels 0": {"num_labels": 0},
    "labels -3": {"num_labels": -3},
    "labels word": {"num_labels": "two"},
    "labels huge": {"num_labels": 10**9},
    "gap": {"id2label": {0: "a", 2: "b"}},
    "no labels": {"id2label": {}},
    "labels of words": {"id2label": {"a": "b"}},
    "problem": {"problem_type": "regresion"},
    "heads": {"num_attention_heads": 5},
    "ranks": {"shared_rank": 30, "private_rank": 30},
    "evidence": {"evidence": "magic"},
    "mixing": {"level_mixing": "magic"},
    "nothing left": {"use_joint_path": False, "unimodal_evidence": False},
    "statistics": {"unimodal_statistics": ["meen"]},
    "range": {"label_range": [3, -3]},
    "own modality": {"extra_configs": {"text": {"feature_size": 3}}},
    "own name": {"extra_configs": {"a b": {"feature_size": 3}}},
    "own of no dict": {"extra_configs": [1]},
}


def _build(**fields: Any) -> Any:
    given = {"vision_config": {"feature_size": 7}, "audio_config": {"feature_size": 5}, "hidden_size": 32}
    return CLCRForSequenceClassification(CLCRConfig(**{**given, **fields}))


def cases(folder: Path) -> Iterator[Case]:
    for names, values in ((_COUNTS, _BAD_COUNTS), (_NUMBERS, _BAD_NUMBERS), (_LISTS, _BAD_LISTS)):
        for name in names:
            yield from each(f"CLCRConfig({name})", values, lambda value, name=name: _build(**{name: value}))
    yield from each("CLCRConfig(vision_config)", _BAD_PARTS, lambda value: _build(vision_config=value))
    yield from each("CLCRConfig(extra_configs)", _BAD_PARTS, lambda value: _build(extra_configs={"gaze": value}))
    yield from each("CLCRConfig", _BAD_FIELDS, lambda value: _build(**value))
    slips = {"misspelt": {"feature_sice": 4}, "word": {"feature_size": "x"}, "source": {"source": "x"}}
    yield from each("CLCRModalityConfig", slips, lambda value: CLCRModalityConfig(**value))
    yield from _files(folder)


def _files(folder: Path) -> Iterator[Case]:
    """`config.json` that is damaged, or holds something else."""
    _build().save_pretrained(folder / "whole")
    whole = (folder / "whole" / "config.json").read_bytes()
    content = json.loads(whole)
    other = {
        "a list": [1, 2],
        "a word": "config",
        "null": None,
        "levels 0": {**content, "num_levels": 0},
        "width word": {**content, "hidden_size": "wide"},
        "part a list": {**content, "vision_config": [1]},
        "labels a list": {**content, "id2label": ["a"]},
    }
    files = {**broken(whole), **{name: json.dumps(value).encode() for name, value in other.items()}}
    for name, written in files.items():
        place = folder / f"config_{name.replace(' ', '_')}"
        place.mkdir()
        (place / "config.json").write_bytes(written)
        yield Case(f"config.json: {name}", lambda place=place: CLCRConfig.from_pretrained(place))
    directory = folder / "config_folder" / "config.json"
    directory.mkdir(parents=True)
    yield Case("config.json: a folder", lambda: CLCRConfig.from_pretrained(directory.parent))
    yield Case("config.json: absent", lambda: CLCRConfig.from_pretrained(folder / "absent"))
    for name in ("hiden_size", "num_lables", "vision_conifg"):
        yield Case(
            f"CLCRConfig.from_pretrained({name})",
            lambda name=name: CLCRConfig.from_pretrained(folder / "whole", **{name: 4}),
        )
        yield Case(
            f"CLCRModel.from_pretrained({name})",
            lambda name=name: CLCRModel.from_pretrained(folder / "whole", **{name: 4}),
        )
