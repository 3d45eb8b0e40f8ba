"""Checks of what a user sets: names that nobody knows, and numbers that no model can be built of."""

# No `from __future__ import annotations` here: it silently switches off the strict validation of transformers 5.

import difflib
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import fields
from numbers import Real
from typing import Any

from transformers import GenerationConfig, PreTrainedConfig

# Beyond the largest model anybody has built; a slip of the keyboard is told at once, where building it would hang.
MOST = {"num_levels": 64, "tcn_dilations": 2**16, "token_grid": 256, "feature_size": 10**6, "num_labels": 10**5}
MOST_MODALITIES = 64
_MOST = 2**16
# Of a backbone's configuration, by the end of a name; the first that fits.
_MOST_OF_BACKBONE = {
    **dict.fromkeys(("layers", "depths", "heads"), 2**12),
    **dict.fromkeys(("hidden_size", "hidden_sizes", "d_model", "channels", "dim"), 2**16),
    **dict.fromkeys(("size", "position_embeddings"), 10**7),
}
_LARGEST = 3.4e38  # of float32
# What transformers 4 and 5 keep in a `config.json` beside their fields, and what remote code and quantisation add.
_OF_TRANSFORMERS = {
    *("model_type", "attn_implementation", "experts_implementation", "per_layer_config", "auto_map"),
    *("custom_pipelines", "quantization_config", "torchscript", "pruned_heads", "tie_word_embeddings"),
    *("tokenizer_class", "prefix", "sep_token_id", "task_specific_params", "finetuning_task", "use_bfloat16"),
    *("tf_legacy_loss", "is_decoder", "add_cross_attention", "cross_attention_hidden_size", "tie_encoder_decoder"),
}


def did_you_mean(word: Any, known: Iterable[str]) -> str:
    """The end of an error that names what is nearest to a word; empty where nothing is near."""
    near = difflib.get_close_matches(str(word), list(known), n=1)
    return f"; did you mean {near[0]}?" if near else ""


def split_unknown_settings(
    config: type[PreTrainedConfig], given: Mapping[str, Any]
) -> tuple[dict[str, Any], list[str]]:
    """What is given without the names that are neither settings of a class of configurations nor transformers' own, and
    those names."""
    names = [name for name in given if name not in config.__dataclass_fields__ and not name.startswith("_")]
    if names:
        base = {name for name, kind in vars(PreTrainedConfig).items() if isinstance(kind, property) and kind.fset}
        known = {*base, *_OF_TRANSFORMERS, *GenerationConfig().to_dict()}
        names = [name for name in names if name not in known]
    return {name: value for name, value in given.items() if name not in names}, names


def refuse_unknown_settings(config: type[PreTrainedConfig], given: Mapping[str, Any], where: str = "") -> None:
    """
    Args:
        where: what holds the settings, the beginning of the error.

    Raises:
        ValueError: a name that is neither a setting of this class nor transformers' own, with the nearest one.
    """
    _, unknown = split_unknown_settings(config, given)
    if unknown:
        hint = did_you_mean(unknown[0], ["num_labels", *config.__dataclass_fields__])
        raise ValueError(f"{where}{config.__name__} has no setting {' or '.join(map(repr, unknown))}{hint}")


def check(config: PreTrainedConfig, names: Sequence[str], is_right: Callable[[Any], bool], wanted: str) -> None:
    """ValueError for the first of these fields that is set and not right."""
    for name in names:
        value = getattr(config, name)
        if value is not None and not is_right(value):
            raise ValueError(f"`{name}` must {wanted}, got {value}")


def check_counts(config: PreTrainedConfig, names: Sequence[str]) -> None:
    """ValueError for the first of these fields that is set and no count that a model could be built of."""
    for name in names:
        check_count(name, getattr(config, name))


def check_count(name: str, value: Any) -> None:
    """ValueError for a value that is set and no count that a model could be built of."""
    most = MOST.get(name, _MOST)
    if value is not None and (not isinstance(value, int) or isinstance(value, bool) or not 1 <= value <= most):
        raise ValueError(f"`{name}` must be a positive integer, at most {most}, got {value}")


def check_backbone(config: PreTrainedConfig, where: str = "backbone_config") -> None:
    """ValueError for the first count of a backbone, or of a configuration in it, that no model could be built of."""
    for name, value in vars(config).items():
        if isinstance(value, PreTrainedConfig):
            check_backbone(value, f"{where}.{name}")
            continue
        most = next((limit for end, limit in _MOST_OF_BACKBONE.items() if name.endswith(end)), None)
        numbers = [item for item in _flat(value) if isinstance(item, int)] if most is not None else []
        if most is not None and (len(numbers) > _MOST or max(numbers, default=0) > most):
            raise ValueError(f"`{where}.{name}` must be at most {most}, got {str(value)[:60]}")


def check_label_names(id2label: Any) -> None:
    """ValueError for names of labels that are not told by their numbers."""
    named = isinstance(id2label, Mapping) and all(str(index).isdecimal() for index in id2label)
    if id2label is not None and not named:
        raise ValueError(f"`id2label` must name the labels 0, 1, ... in turn, as {{0: 'no', 1: 'yes'}}, got {id2label}")


def check_finite(config: PreTrainedConfig) -> None:
    """ValueError for the first field that holds, by itself or in lists, a number that is not finite in float32."""
    for field in fields(config):
        value = getattr(config, field.name)
        if not all(_is_finite(item) for item in _flat(value) if isinstance(item, Real)):
            raise ValueError(f"`{field.name}` must be finite, got {value}")


def is_pair(value: Any) -> bool:
    """Whether a value is two rising numbers."""
    return isinstance(value, list | tuple) and is_numbers(value) and len(value) == 2 and value[0] < value[1]


def is_numbers(value: Any) -> bool:
    """Whether a value is a list of numbers, or a number."""
    items = value if isinstance(value, list | tuple) else [value]
    return all(isinstance(item, Real) and not isinstance(item, bool) for item in items)


def _is_finite(number: Any) -> bool:
    return abs(number) <= _LARGEST  # of NaN that is False too


def _flat(value: Any) -> list[Any]:
    return [part for item in value for part in _flat(item)] if isinstance(value, list | tuple) else [value]


__all__ = [
    "MOST",
    "MOST_MODALITIES",
    "check",
    "check_backbone",
    "check_count",
    "check_counts",
    "check_finite",
    "check_label_names",
    "did_you_mean",
    "is_numbers",
    "is_pair",
    "refuse_unknown_settings",
    "split_unknown_settings",
]
