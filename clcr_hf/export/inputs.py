"""The inputs of an exported graph: names, shapes, and a batch to trace it with."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch

from ..configuration_clcr import CLCRConfig
from ..modalities import modality
from ..modeling_clcr import CLCRPreTrainedModel
from ..onnx_graph import GraphInput

Part = Literal["whole", "fusion"]
ImageSize = int | tuple[int, int] | None
_IMAGE_SIZE, _MEL_BINS = 224, 40
# Tokens of audio that a backbone gives for the traced waveform.
_AUDIO_TOKENS = 12


def check_choice(config: CLCRConfig, part: str, modalities: Sequence[str] | None) -> list[str]:
    """The modalities that a graph takes; ValueError for an unknown part, or a modality that the model does not have."""
    if part not in ("whole", "fusion"):
        raise ValueError(f"`part` must be 'whole' or 'fusion', got {part!r}")
    known = list(config.modalities)
    names = known if modalities is None else list(modalities)
    if not names or set(names) - set(known) or len(set(names)) < len(names):
        raise ValueError(f"`modalities` must be some of {known}, each once, got {names}")
    return names


def graph_inputs(
    model: CLCRPreTrainedModel,
    *,
    part: Part = "whole",
    modalities: Sequence[str] | None = None,
    image_size: ImageSize = None,
    mel_bins: int | None = None,
) -> list[GraphInput]:
    """
    Inputs of the graph of `model`, in the order of `config.modalities`.

    Args:
        part: `"whole"`: raw input (`input_ids`, `pixel_values`, `input_values`, `flow_pixel_values`) where the model
            has a backbone, features elsewhere. `"fusion"`: `<modality>_features` everywhere; behind a backbone that is
            tapped they are `(B, L, T, C)`, its tapped hidden states (see [`fusion_inputs`]), behind one that a TCN
            reads `(B, T, C)`, its last.
        modalities: which of the model's modalities the graph takes; all by default. The others count as missing.
        image_size: rows and columns of a frame; the backbone's own where its configuration says, else that of the
            processor saved beside the model, else 224.
        mel_bins: bands of a spectrogram, where a network for images reads audio; likewise, else 40.

    Raises:
        ValueError: an unknown part, or a modality that the model does not have.
    """
    names, known = check_choice(model.config, part, modalities), model.config.modalities
    saved = _saved_sizes(model.name_or_path)
    image_size = image_size or saved.get("image_size")
    mel_bins = mel_bins or saved.get("mel_bins")
    inputs = []
    for index, name in enumerate(known):
        if name not in names:
            continue
        if labels_each_step(model):  # all modalities then have as many steps
            index = 0
        encoder: Any = model.base_model.hierarchy.encoders[name]
        if part == "fusion" or encoder.reader is None:
            inputs.append(_feature_input(model.config, name, encoder, steps=9 + 2 * index))
        else:
            inputs.append(_raw_input(name, encoder.reader, index, image_size, mel_bins))
    return inputs


def labels_each_step(model: CLCRPreTrainedModel) -> bool:
    return bool(model.base_model.per_segment) and model.config.num_segments is None


def _feature_input(config: CLCRConfig, name: str, encoder: Any, steps: int) -> GraphInput:
    widths = [projection.in_features for projection in encoder.projections]
    taps = encoder.source == "taps"
    width = max(widths) if taps else encoder.feature_width
    levels = [config.num_levels] if taps else []
    shape = (*levels, f"{name}_length", width)
    # Two tokens at least: torch.export takes a single one for a constant.
    shortest = 1 if encoder.tcn is None else encoder.tcn.stride + 1
    own = modality(name)
    return GraphInput(name, own.features, own.mask, shape, len(levels), max(steps, 3 * shortest), shortest=shortest)


def _raw_input(name: str, reader: Any, index: int, image_size: ImageSize, mel_bins: int | None) -> GraphInput:
    config = reader.backbone.config
    axis, mask = f"{name}_length", f"{name}_attention_mask"
    if name == "text":
        longest = getattr(config, "max_position_embeddings", None)
        return GraphInput(name, "input_ids", "attention_mask", (axis,), 0, 7, config.vocab_size, longest=longest)
    if name == "audio":
        return _audio_input(name, mask, reader, axis, mel_bins)
    size = getattr(config, "image_size", None) or image_size or _IMAGE_SIZE
    rows, columns = (size, size) if isinstance(size, int) else size
    frames = config.num_frames if reader.reads_clips else 3 + index
    shape = (frames if reader.reads_clips else axis, config.num_channels, rows, columns)
    return GraphInput(name, modality(name).inputs[0], mask, shape, 0, frames)


def _audio_input(name: str, mask: str, reader: Any, axis: str, mel_bins: int | None) -> GraphInput:
    config = reader.backbone.config
    if reader.time_axis == 2:  # Whisper: a spectrogram of fixed length
        steps = 2 * config.max_source_positions
        return GraphInput(name, "input_values", mask, (config.num_mel_bins, steps), 1, steps)
    if hasattr(config, "frequency_stride"):  # AST: likewise
        return GraphInput(name, "input_values", mask, (config.max_length, config.num_mel_bins), 0, config.max_length)
    # With fewer tokens than three torch.export would have to tell apart lengths that it cannot.
    if reader.input_name == "pixel_values":  # a network for images, halved at the stem twice and at each stage but one
        stride = 2 ** (len(config.hidden_sizes) + 1)
        shape = (axis, mel_bins or _MEL_BINS)
        return GraphInput(name, "input_values", mask, shape, 0, stride * _AUDIO_TOKENS, shortest=3 * stride)

    def samples(tokens: int) -> int:
        for kernel, stride in zip(reversed(config.conv_kernel), reversed(config.conv_stride), strict=True):
            tokens = (tokens - 1) * stride + kernel
        return tokens

    return GraphInput(name, "input_values", mask, (axis,), 0, samples(_AUDIO_TOKENS), shortest=samples(3))


def _saved_sizes(folder: str) -> dict[str, Any]:
    """Sizes that the processor saved beside a model says its images and spectrograms have."""
    path = Path(folder or ".") / "processor_config.json"
    if not folder or not path.is_file():
        return {}
    parts = json.loads(path.read_text(encoding="utf-8"))
    size = (parts.get("image_processor") or {}).get("size") or {}
    crop = (parts.get("image_processor") or {}).get("crop_size") or size
    sizes: dict[str, Any] = {"mel_bins": (parts.get("feature_extractor") or {}).get("num_mel_bins")}
    if isinstance(crop, dict) and "height" in crop:
        sizes["image_size"] = (crop["height"], crop["width"])
    return sizes


def example_batch(
    inputs: Sequence[GraphInput], batch: int = 2, lengths: Mapping[str, int] | None = None, seed: int = 0
) -> dict[str, torch.Tensor]:
    """
    A random batch for a graph, with ragged lengths under its masks.

    Args:
        inputs: from [`graph_inputs`].
        batch: samples.
        lengths: steps of a modality, by name; those it was or will be traced with otherwise.
    """
    generator = np.random.default_rng(seed)
    arrays: dict[str, np.ndarray] = {}
    for each in inputs:
        arrays |= each.example(batch, (lengths or {}).get(each.modality), generator)
    return {name: torch.from_numpy(value) for name, value in arrays.items()}
