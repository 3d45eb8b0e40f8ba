"""What a model is given, sorted by modality and checked."""

import inspect
from collections.abc import Callable
from typing import Any

import torch
from torch import nn

from .checks import did_you_mean
from .configuration_clcr import CLCRConfig
from .errors import InputError
from .objective import infer_problem_type

Given = dict[str, tuple[Any, Any]]
_WHOLE = (torch.int64, torch.uint8)


def own_features(config: CLCRConfig, given: dict[str, Any], forward: Callable) -> Given:
    """
    Features and masks of the user's own modalities.

    Args:
        given: `<name>_features` and `<name>_attention_mask` of them.
        forward: whose other arguments a misspelt name may mean.

    Raises:
        InputError: any other name, with the nearest one that there is.
    """
    pairs = {name: (f"{name}_features", f"{name}_attention_mask") for name in config.extra_configs or {}}
    own = {key for pair in pairs.values() for key in pair}
    for key in given:
        if key not in own:
            hint = did_you_mean(key, [*inspect.signature(forward).parameters, *own])
            raise InputError(f"The model takes no input {key!r}; its modalities are {config.modalities}{hint}")
    return {name: (given.get(features), given.get(mask)) for name, (features, mask) in pairs.items()}


def collect_inputs(
    config: CLCRConfig,
    encoders: nn.ModuleDict,
    raw: Given,
    features: Given,
    token_type_ids: torch.Tensor | None,
    embeds: bool,
) -> tuple[dict[str, dict[str, Any]], dict[str, torch.Tensor]]:
    """
    Inputs and bool masks `(B, T)` of the modalities given, checked.

    Args:
        encoders: one [`~hierarchy.ModalityEncoder`] a modality.
        raw, features: `{modality: (value, mask)}`; None where nothing was given.
        embeds: text comes as `inputs_embeds`.

    Raises:
        InputError: no modality given, one that the model does not have, widths or batch sizes that do not fit, a mask
            without its input.
    """
    inputs: dict[str, dict[str, Any]] = {}
    masks: dict[str, torch.Tensor] = {}
    for name in dict.fromkeys((*raw, *features)):
        value, mask = raw.get(name, (None, None))
        ready, ready_mask = features.get(name, (None, None))
        _refuse_lone_masks(name, value, mask, ready, ready_mask)
        if value is None and ready is None:
            continue
        for each in (value, mask, ready, ready_mask):
            _check_tensor(name, each)
        if name not in config.modalities:
            raise InputError(f"Input for modality {name!r}, but this model has {config.modalities} alone")
        if value is not None and ready is not None:
            raise InputError(f"Modality {name!r} was given both raw and as features; give one of them")
        encoder: Any = encoders[name]
        if name == "audio" and value is not None and encoder.reader is None and value.dim() == 3:
            value, ready, ready_mask = None, value, mask
        if ready is not None:
            _check_features(config, name, encoder, ready)
            inputs[name], mask, time_axis = {"features": ready}, ready_mask, -2
            value = ready
        elif encoder.reader is None:
            raise InputError(f"Modality {name!r} has no backbone in this model: give `{name}_features`, not raw input")
        elif name == "text":
            time_axis = 1
            key = "inputs_embeds" if embeds else "input_ids"
            _check_words(value, token_type_ids, embeds)
            inputs[name] = {key: value, "token_type_ids": token_type_ids}
        else:
            inputs[name], time_axis = {"values": value}, encoder.reader.time_axis
        _check_size(name, value, time_axis)
        masks[name] = _checked_mask(name, mask, value, time_axis)
    if not inputs:
        raise InputError(f"No input: give at least one modality of {config.modalities}")
    sizes = {name: mask.shape[0] for name, mask in masks.items()}
    first = next(iter(sizes.values()))
    if any(size != first for size in sizes.values()):  # no set: sizes are symbols under torch.export
        raise InputError(f"Batch sizes differ between modalities: {sizes}")
    return inputs, masks


def _refuse_lone_masks(name: str, value: Any, mask: Any, ready: Any, ready_mask: Any) -> None:
    if mask is ready_mask and (value is not None or ready is not None):
        return  # one argument for both forms
    if (value is None and mask is not None) or (ready is None and ready_mask is not None):
        which = "; `attention_mask` goes with `input_ids`, `text_attention_mask` with `text_features`"
        raise InputError(f"A mask of modality {name!r} was given without its input{which if name == 'text' else ''}")


def _check_features(config: CLCRConfig, name: str, encoder: Any, features: torch.Tensor) -> None:
    width, levels = encoder.feature_width, config.num_levels
    if encoder.source == "taps" and encoder.reader is not None:
        raise InputError(f"Modality {name!r} taps its backbone's layers: give raw input, not `{name}_features`")
    layers = [levels] if encoder.source == "taps" else []
    if features.dim() != 3 + len(layers) or [*features.shape[1:-2], features.shape[-1]] != [*layers, width]:
        form = ", ".join(map(str, ["B", *layers, "T", width]))
        raise InputError(f"`{name}_features` must be ({form}), got {tuple(features.shape)}")


def _check_tensor(name: str, value: Any) -> None:
    if value is None or (isinstance(value, torch.Tensor) and value.layout == torch.strided and not value.is_complex()):
        return
    kind = f"a tensor of {value.dtype}, {value.layout}" if isinstance(value, torch.Tensor) else type(value).__name__
    raise InputError(f"Inputs of modality {name!r} must be dense tensors of numbers, got {kind}")


def _check_words(value: torch.Tensor, token_type_ids: Any, embeds: bool) -> None:
    _check_tensor("text", token_type_ids)
    if value.dim() != 2 + embeds or (not embeds and (value.is_floating_point() or value.dtype == torch.bool)):
        wanted = "`inputs_embeds` must be (B, T, D)" if embeds else "`input_ids` must be (B, T) of whole numbers"
        raise InputError(f"{wanted}, got {tuple(value.shape)} of {value.dtype}")


def _check_size(name: str, value: torch.Tensor, time_axis: int) -> None:
    if torch.compiler.is_compiling():
        return  # sizes are symbols
    if value.dim() <= max(time_axis, 0):
        raise InputError(f"The input of modality {name!r} lacks its batch or time axis, got {tuple(value.shape)}")
    if 0 in value.shape:
        advice = "leave a missing modality out, or give it one step that its mask hides"
        raise InputError(f"The input of modality {name!r} is empty, got {tuple(value.shape)}; {advice}")


def check_labels(config: CLCRConfig, logits: torch.Tensor, labels: Any) -> None:
    """
    Labels of a kind and in a range that the head has. (Values are looked at on the CPU alone.)

    Args:
        logits: `(B, C)` or `(B, G, C)`.
        labels: see the head's forward.

    Raises:
        InputError: no tensor, classes that are no whole numbers or beyond the last, shares outside [0, 1].
    """
    if not isinstance(labels, torch.Tensor) or labels.is_complex():
        kind = labels.dtype if isinstance(labels, torch.Tensor) else type(labels).__name__
        raise InputError(f"`labels` must be a tensor of numbers, got {kind}")
    problem = infer_problem_type(config, labels)
    shares = labels.is_floating_point() and labels.shape == logits.shape
    if problem == "single_label_classification" and not shares and labels.dtype not in _WHOLE:
        form = f"whole numbers (int64), or probabilities {tuple(logits.shape)}"
        raise InputError(f"`labels` of classes must be {form}, got {tuple(labels.shape)} of {labels.dtype}")
    if labels.device.type != "cpu" or torch.compiler.is_compiling() or not labels.numel():
        return
    if problem == "single_label_classification" and not shares:
        known = labels[labels != -100]
        if known.numel() and not 0 <= known.min() <= known.max() < config.num_labels:
            spread = f"{int(known.min())} to {int(known.max())}"
            raise InputError(f"`labels` must lie in 0 to {config.num_labels - 1} (-100 for none), got {spread}")
    elif problem != "regression" and ((labels < 0) | (labels > 1)).any():  # of NaN neither is true
        raise InputError(f"`labels` must lie in [0, 1] for problem_type={problem!r}, got values beyond")


def _checked_mask(name: str, mask: torch.Tensor | None, value: torch.Tensor, time_axis: int) -> torch.Tensor:
    shape = (value.shape[0], value.shape[time_axis])
    if mask is None:
        return torch.ones(shape, dtype=torch.bool, device=value.device)
    if tuple(mask.shape) != shape:
        raise InputError(
            f"The attention mask of modality {name!r} must be {shape}, its input's batch and time axes, "
            f"got {tuple(mask.shape)}"
        )
    return mask.bool()


__all__ = ["check_labels", "collect_inputs", "own_features"]
