"""A trained CLCR as one graph for other runtimes: ONNX, `torch.export`, and ONNX with 8-bit weights.

The graph is the model in evaluation, float32, with its bases computed once and folded into the maps they feed. Batch
and lengths are free; a modality may be missing from a sample (its mask row all zero). See docs/export.md.
"""

import copy
import inspect
import json
import logging
import os
import tempfile
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch import nn
from torch.export import Dim, ExportedProgram
from torch.nn import functional as F

from .configuration_clcr import CLCRConfig
from .modeling_clcr import CLCRPreTrainedModel, head_class

Part = Literal["whole", "fusion"]
_OUTPUTS = ("logits", "level_weights", "modality_weights", "private_gates")
_METADATA = "clcr"
_IMAGE_SIZE, _MEL_BINS = 224, 40
# Tokens of sound that a backbone gives for the traced waveform.
_AUDIO_TOKENS = 12


@dataclass
class GraphInput:
    """One modality's input to an exported graph.

    Attributes:
        modality: its name in the model's configuration.
        name, mask: names of the graph's inputs: the values and their mask `(B, steps)` int64 (1 = real).
        shape: of the values, without the batch; a string is an axis of any length.
        time: which axis of `shape` the mask runs along.
        steps: its length when the graph was traced.
        vocabulary: number of ids where the values are ids (int64); 0 where they are float32.
        shortest, longest: bounds of the axis of any length; `longest` is None where there is none.
    """

    modality: str
    name: str
    mask: str
    shape: tuple[str | int, ...]
    time: int
    steps: int
    vocabulary: int = 0
    shortest: int = 1
    longest: int | None = None

    def example(self, batch: int, steps: int | None, generator: np.random.Generator) -> dict[str, np.ndarray]:
        """Random values and a mask of ragged lengths, for `batch` samples of `steps` steps."""
        length = steps if steps is not None and isinstance(self.shape[self.time], str) else self.steps
        shape = (batch, *(length if isinstance(size, str) else size for size in self.shape))
        real = generator.integers(max(length // 2, 1), length + 1, (batch, 1))
        if self.vocabulary:
            values = generator.integers(1, self.vocabulary, shape)
        else:
            values = generator.standard_normal(shape).astype(np.float32)
        return {self.name: values, self.mask: (np.arange(length) < real).astype(np.int64)}

    def missing(self, batch: int) -> dict[str, np.ndarray]:
        """What stands for the modality in a batch without it: zeros under a mask of zeros."""
        shape = (batch, *(self.steps if isinstance(size, str) else size for size in self.shape))
        values = np.zeros(shape, dtype=np.int64 if self.vocabulary else np.float32)
        return {self.name: values, self.mask: np.zeros((batch, self.steps), dtype=np.int64)}


# -- what the graph takes -------------------------------------------------------------------------------------------


def graph_inputs(
    model: CLCRPreTrainedModel,
    *,
    part: Part = "whole",
    modalities: Sequence[str] | None = None,
    image_size: int | tuple[int, int] | None = None,
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
        mel_bins: bands of a spectrogram, where a network for pictures reads sound; likewise, else 40.

    Raises:
        ValueError: an unknown part, or a modality that the model does not have.
    """
    if part not in ("whole", "fusion"):
        raise ValueError(f"`part` must be 'whole' or 'fusion', got {part!r}")
    known = model.config.modalities
    names = list(known) if modalities is None else list(modalities)
    if not names or set(names) - set(known):
        raise ValueError(f"`modalities` must be some of {list(known)}, got {names}")
    saved = _saved_sizes(model.name_or_path)
    image_size = image_size or saved.get("image_size")
    mel_bins = mel_bins or saved.get("mel_bins")
    inputs = []
    for index, name in enumerate(known):
        if name not in names:
            continue
        if _labels_each_step(model):  # all modalities then have as many steps
            index = 0
        encoder: Any = model.base_model.hierarchy.encoders[name]
        if part == "fusion" or encoder.reader is None:
            inputs.append(_feature_input(model.config, name, encoder, steps=9 + 2 * index))
        else:
            inputs.append(_raw_input(name, encoder.reader, index, image_size, mel_bins))
    return inputs


def _labels_each_step(model: CLCRPreTrainedModel) -> bool:
    return bool(model.base_model.per_segment) and model.config.num_segments is None


def _feature_input(config: CLCRConfig, name: str, encoder: Any, steps: int) -> GraphInput:
    widths = [projection.in_features for projection in encoder.projections]
    taps = encoder.source == "taps"
    width = max(widths) if taps else encoder.feature_width
    levels = [config.num_levels] if taps else []
    shape = (*levels, f"{name}_length", width)
    # Two tokens at least: torch.export takes a single one for a constant.
    shortest = 1 if encoder.tcn is None else encoder.tcn.stride + 1
    return GraphInput(
        name,
        f"{name}_features",
        f"{name}_attention_mask",
        shape,
        len(levels),
        max(steps, 3 * shortest),
        shortest=shortest,
    )


def _raw_input(
    name: str, reader: Any, index: int, image_size: int | tuple[int, int] | None, mel_bins: int | None
) -> GraphInput:
    config = reader.backbone.config
    axis, mask = f"{name}_length", f"{name}_attention_mask"
    if name == "text":
        longest = getattr(config, "max_position_embeddings", None)
        return GraphInput(name, "input_ids", "attention_mask", (axis,), 0, 7, config.vocab_size, longest=longest)
    if name == "audio":
        return _sound_input(name, mask, reader, axis, mel_bins)
    size = getattr(config, "image_size", None) or image_size or _IMAGE_SIZE
    rows, columns = (size, size) if isinstance(size, int) else size
    frames = config.num_frames if reader.reads_clips else 3 + index
    shape = (frames if reader.reads_clips else axis, config.num_channels, rows, columns)
    return GraphInput(name, "flow_pixel_values" if name == "flow" else "pixel_values", mask, shape, 0, frames)


def _sound_input(name: str, mask: str, reader: Any, axis: str, mel_bins: int | None) -> GraphInput:
    config = reader.backbone.config
    if reader.time_axis == 2:  # Whisper: a spectrogram of fixed length
        steps = 2 * config.max_source_positions
        return GraphInput(name, "input_values", mask, (config.num_mel_bins, steps), 1, steps)
    if hasattr(config, "frequency_stride"):  # AST: likewise
        return GraphInput(name, "input_values", mask, (config.max_length, config.num_mel_bins), 0, config.max_length)
    # With fewer tokens than three torch.export would have to tell apart lengths that it cannot.
    if (
        reader.input_name == "pixel_values"
    ):  # a network for pictures, halved at the stem twice and at each stage but one
        stride = 2 ** (len(config.hidden_sizes) + 1)
        shape = (axis, mel_bins or _MEL_BINS)
        return GraphInput(name, "input_values", mask, shape, 0, stride * _AUDIO_TOKENS, shortest=3 * stride)

    def samples(tokens: int) -> int:
        for kernel, stride in zip(reversed(config.conv_kernel), reversed(config.conv_stride), strict=True):
            tokens = (tokens - 1) * stride + kernel
        return tokens

    return GraphInput(name, "input_values", mask, (axis,), 0, samples(_AUDIO_TOKENS), shortest=samples(3))


def _saved_sizes(folder: str) -> dict[str, Any]:
    """Sizes that the processor saved beside a model says its pictures and spectrograms have."""
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


# -- the module that is traced --------------------------------------------------------------------------------------


class _Graph(nn.Module):
    """`model` with the graph's inputs as keywords and its outputs under flat names."""

    def __init__(self, model: CLCRPreTrainedModel, names: Sequence[str]):
        super().__init__()
        self.model = model

        def forward(**inputs: torch.Tensor) -> dict[str, torch.Tensor]:
            return named_outputs(self.model(**inputs, return_dict=True))

        # torch.export reads the names of the inputs off the signature.
        keywords = [inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY) for name in names]
        forward.__signature__ = inspect.Signature(keywords)  # type: ignore[attr-defined]
        self.forward = forward


def named_outputs(outputs: Any) -> dict[str, torch.Tensor]:
    """A model's output as an exported graph names it: `logits` (`pooler_output` of a model without head),
    `level_weights`, `modality_weights`, `private_gates`, `token_budgets_<level>_<modality>` with levels from 1."""
    named = {name: value for name in _OUTPUTS if (value := getattr(outputs, name, None)) is not None}
    if "logits" not in named:
        named = {"pooler_output": outputs.pooler_output, **named}
    for level, budgets in enumerate(outputs.token_budgets, start=1):
        named |= {f"token_budgets_{level}_{name}": budget for name, budget in budgets.items()}
    return named


def output_names(model: CLCRPreTrainedModel, modalities: Sequence[str]) -> list[str]:
    """Names of the outputs of a graph that takes `modalities`, in order; see [`named_outputs`]."""
    head = ["logits"] if hasattr(model, "classifier") else ["pooler_output"]
    levels = range(1, model.config.effective_num_levels + 1)
    return [*head, *_OUTPUTS[1:], *(f"token_budgets_{level}_{name}" for level in levels for name in modalities)]


@torch.no_grad()
def _prepared(model: CLCRPreTrainedModel, part: Part) -> CLCRPreTrainedModel:
    """A copy of `model` ready for tracing: float32, evaluation, constant bases, without backbones for the fusion."""
    readers = [encoder.reader for encoder in model.base_model.hierarchy.encoders.values()] if part == "fusion" else []
    prepared = copy.deepcopy(model, {id(reader): None for reader in readers if reader is not None})
    prepared = prepared.float().cpu().eval()
    if part == "fusion":
        for encoder in prepared.base_model.hierarchy.encoders.values():
            _widen_taps(encoder)
    exchange = prepared.base_model.exchange
    exchange.fold_bases()
    bases = exchange.bases()
    # For what folding does not cover (a single modality): no factorisation in the graph.
    exchange.bases = lambda: bases
    return prepared


def _widen_taps(encoder: Any) -> None:
    """Lets all taps come in one tensor: columns beyond a layer's own width get weights of zero."""
    widths = [projection.in_features for projection in encoder.projections]
    if encoder.source != "taps" or len(set(widths)) == 1:
        return
    encoder.feature_width = max(widths)
    for projection, width in zip(encoder.projections, widths, strict=True):
        projection.weight = nn.Parameter(F.pad(projection.weight, (0, encoder.feature_width - width)))
        projection.in_features = encoder.feature_width


@torch.no_grad()
def fusion_inputs(model: CLCRPreTrainedModel, inputs: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """
    What the fusion of `model` (`part="fusion"`) takes in place of a raw batch: the backbones run here.

    Args:
        inputs: a batch as `model` takes it, without labels.

    Returns:
        `<modality>_features` and `<modality>_attention_mask (B, T)`; behind a tapped backbone `(B, L, T, C)`, where
        layers narrower than the widest are filled up with zeros, else `(B, T, C)`. Modalities without a backbone stay
        as they came.
    """
    read: dict[str, tuple[list[torch.Tensor], torch.Tensor]] = {}
    hooks = []
    for name, encoder in model.base_model.hierarchy.encoders.items():
        if encoder.reader is not None:

            def keep(module: nn.Module, given: Any, result: Any, name: str = name) -> None:
                read[name] = result

            hooks.append(encoder.reader.register_forward_hook(keep))
    try:
        model(**inputs)
    finally:
        for hook in hooks:
            hook.remove()
    raw = {"text": ("input_ids", "attention_mask", "token_type_ids", "inputs_embeds"), "vision": ("pixel_values",)}
    raw |= {"audio": ("input_values",), "flow": ("flow_pixel_values",)}
    replaced = {key for name in read for key in raw[name]}
    features = {name: value for name, value in inputs.items() if name not in replaced}
    for name, (levels, mask) in read.items():
        width = max(level.shape[-1] for level in levels)
        stacked = torch.stack([F.pad(level, (0, width - level.shape[-1])) for level in levels], dim=1)
        tapped = model.base_model.hierarchy.encoders[name].source == "taps"
        features[f"{name}_features"] = stacked if tapped else stacked[:, 0]
        features[f"{name}_attention_mask"] = mask.long()
    return features


# -- export ---------------------------------------------------------------------------------------------------------


def load_for_export(model: CLCRPreTrainedModel | str | os.PathLike[str]) -> CLCRPreTrainedModel:
    """The model given, or the one saved in a folder (or on the Hub), with its own head."""
    if isinstance(model, CLCRPreTrainedModel):
        return model
    name = os.fspath(model)
    return head_class(CLCRConfig.from_pretrained(name)).from_pretrained(name)


def export_program(
    model: CLCRPreTrainedModel | str | os.PathLike[str],
    out: str | os.PathLike[str] | None = None,
    *,
    part: Part = "whole",
    modalities: Sequence[str] | None = None,
    image_size: int | tuple[int, int] | None = None,
    mel_bins: int | None = None,
) -> ExportedProgram:
    """
    The model as a `torch.export` program with free batch and lengths; `program.module()(**batch)` runs it and gives
    the outputs by name, see [`named_outputs`].

    Args:
        model: a CLCR model, a folder that one was saved in, or a name on the Hub.
        out: file to save it in (`.pt2`), read back by `torch.export.load`. Not saved by default.
        part, modalities, image_size, mel_bins: see [`graph_inputs`].

    Raises:
        ValueError: as [`graph_inputs`].
    """
    loaded = load_for_export(model)
    inputs = graph_inputs(loaded, part=part, modalities=modalities, image_size=image_size, mel_bins=mel_bins)
    program = _trace(loaded, inputs, part)
    if out is not None:
        with _replacing(Path(out)) as unfinished:
            torch.export.save(program, unfinished)
    return program


def _trace(model: CLCRPreTrainedModel, inputs: Sequence[GraphInput], part: Part) -> ExportedProgram:
    batch = Dim("batch")
    shapes: dict[str, dict[int, Any]] = {}
    shared = Dim("length") if _labels_each_step(model) else None
    for each in inputs:
        shapes[each.name], shapes[each.mask] = {0: batch}, {0: batch}
        axis = each.shape[each.time]
        if isinstance(axis, str):
            length = shared or Dim(axis, min=each.shortest, max=each.longest)
            shapes[each.name][1 + each.time] = shapes[each.mask][1] = length
    example = example_batch(inputs)
    graph = _Graph(_prepared(model, part), list(example))
    with torch.no_grad():
        # Deferred: lengths that a stride divides give conditions that the solver of torch.export cannot settle.
        program = torch.export.export(
            graph, (), example, dynamic_shapes=shapes, strict=False, prefer_deferred_runtime_asserts_over_guards=True
        )
    _check_free(program, shapes)
    return program


def _check_free(program: ExportedProgram, shapes: Mapping[str, Mapping[int, Any]]) -> None:
    """Raises where tracing took an axis that ought to be free for a constant or for a function of another axis."""
    placeholders = {node.name: node.meta["val"] for node in program.graph.nodes if node.op == "placeholder"}
    for name, axes in shapes.items():
        for axis in axes:
            size = placeholders[name].shape[axis]
            if not (isinstance(size, torch.SymInt) and size.node.expr.is_Symbol):
                raise RuntimeError(f"axis {axis} of {name} is {size} in the graph, but it ought to be free")


def export_onnx(
    model: CLCRPreTrainedModel | str | os.PathLike[str],
    out: str | os.PathLike[str],
    *,
    part: Part = "whole",
    modalities: Sequence[str] | None = None,
    opset: int | None = None,
    image_size: int | tuple[int, int] | None = None,
    mel_bins: int | None = None,
) -> Path:
    """
    Writes the model as ONNX with free batch and lengths. Inputs are those of [`graph_inputs`], outputs those of
    [`named_outputs`]; what the graph takes is described in its metadata, which [`ONNXModel`] reads.

    Args:
        model: a CLCR model, a folder that one was saved in, or a name on the Hub.
        out: the `.onnx` file; weights beyond 2 GB go to `<out>.data` beside it.
        opset: version of the ONNX operators; PyTorch's default otherwise.
        part, modalities, image_size, mel_bins: see [`graph_inputs`].

    Returns:
        `out`.

    Raises:
        ImportError: the extra `export` is not installed.
        ValueError: as [`graph_inputs`].
    """
    _require("onnx", "onnxscript")
    loaded = load_for_export(model)
    inputs = graph_inputs(loaded, part=part, modalities=modalities, image_size=image_size, mel_bins=mel_bins)
    program = _trace(loaded, inputs, part)
    with _warnings_off("torch.onnx"):  # of torchvision, which nothing here needs
        written = torch.onnx.export(
            program,
            dynamo=True,
            input_names=[name for each in inputs for name in (each.name, each.mask)],
            output_names=output_names(loaded, [each.modality for each in inputs]),
            opset_version=opset,
            verbose=False,
        )
    if written is None:
        raise RuntimeError("torch.onnx.export gave no program")
    config = loaded.config
    description = {
        "part": part,
        "inputs": [asdict(each) for each in inputs],
        "modalities": list(config.modalities),
        "problem_type": config.problem_type,
        "id2label": config.id2label,
    }
    # The exporter notes down for each operator where in the source it came from: that belongs to this machine.
    for node in written.model.graph.all_nodes():
        node.metadata_props.clear()
        for value in node.outputs:
            value.metadata_props.clear()
    written.model.metadata_props[_METADATA] = json.dumps(description)
    with _replacing(Path(out)) as unfinished:
        written.save(unfinished)
    return Path(out)


def quantise(source: str | os.PathLike[str], out: str | os.PathLike[str]) -> Path:
    """
    Writes the ONNX file `source` with the weights of its linear maps as 8-bit integers (one scale a map); activations
    are quantised as they come, in each run. docs/export.md says what that costs.

    Returns:
        `out`.

    Raises:
        ImportError: the extra `export` is not installed.
    """
    _require("onnx", "onnxruntime")
    from onnxruntime.quantization import QuantType, quantize_dynamic

    with _replacing(Path(out)) as unfinished, _warnings_off("root"):  # it would have shapes inferred that are there
        quantize_dynamic(
            os.fspath(source), unfinished, op_types_to_quantize=["MatMul", "Gemm"], weight_type=QuantType.QInt8
        )
    return Path(out)


def export_model(
    model: CLCRPreTrainedModel | str | os.PathLike[str],
    out: str | os.PathLike[str],
    *,
    format: str = "onnx",
    opset: int | None = None,
    **options: Any,
) -> float:
    """
    Writes `model` in a format and compares the file, read back, with it on random input.

    Args:
        format: `"onnx"`, `"int8"` (ONNX through [`quantise`]) or `"torch"` ([`export_program`]).
        options: `part`, `modalities`, `image_size`, `mel_bins`, see [`graph_inputs`].

    Returns:
        The largest absolute difference of any output.

    Raises:
        ValueError: an unknown format, `opset` for another than ONNX, or as [`graph_inputs`].
    """
    if format not in ("onnx", "int8", "torch"):
        raise ValueError(f"the format must be onnx, int8 or torch, got {format!r}")
    if format == "torch" and opset is not None:
        raise ValueError("`opset` is a version of ONNX, and the format torch has none")
    loaded = load_for_export(model)
    exported: Callable[..., Mapping[str, Any]]
    if format == "torch":
        export_program(loaded, out, **options)
        exported = torch.export.load(out).module()
    elif format == "onnx":
        exported = ONNXModel(export_onnx(loaded, out, opset=opset, **options))
    else:
        with tempfile.TemporaryDirectory() as folder:
            exported = ONNXModel(quantise(export_onnx(loaded, Path(folder) / "m.onnx", opset=opset, **options), out))
    part = options.pop("part", "whole")
    batch = example_batch(graph_inputs(loaded, **options), batch=3)
    return largest_difference(loaded, exported, batch, part)


@contextmanager
def _replacing(path: Path) -> Iterator[Path]:
    """`with _replacing(path) as unfinished`: files written there move to `path` and beside it once all went well."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=f".{path.name}.", dir=path.parent) as folder:
        yield Path(folder) / path.name
        for file in sorted(Path(folder).iterdir(), reverse=True):  # the file itself last, after its data
            os.replace(file, path.parent / file.name)


@contextmanager
def _warnings_off(name: str) -> Iterator[None]:
    logger = logging.getLogger(name)
    before = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(before)


def _require(*packages: str) -> None:
    for package in packages:
        try:
            __import__(package)
        except ImportError as error:
            raise ImportError(f'this needs {package}: pip install "clcr-hf[export]"') from error


# -- running --------------------------------------------------------------------------------------------------------


class ONNXModel:
    """
    An exported CLCR in onnxruntime, called as the PyTorch model is.

    Args:
        path: a file that [`export_onnx`] or [`quantise`] wrote.
        threads: of onnxruntime; its own choice by default.
        providers: onnxruntime's execution providers; the CPU by default.

    Attributes:
        inputs: [`GraphInput`] of each modality it takes.
        description: what the file says of its model: `part`, `modalities`, `problem_type`, `id2label`.

    Raises:
        ImportError: the extra `export` is not installed.
        ValueError: an ONNX file that is no exported CLCR.
    """

    def __init__(
        self, path: str | os.PathLike[str], threads: int | None = None, providers: Sequence[str] | None = None
    ):
        _require("onnxruntime")
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.log_severity_level = 3
        if threads is not None:
            options.intra_op_num_threads = threads
        names = list(providers or ["CPUExecutionProvider"])
        self.session = onnxruntime.InferenceSession(os.fspath(path), options, providers=names)
        found = self.session.get_modelmeta().custom_metadata_map.get(_METADATA)
        if found is None:
            raise ValueError(f"{path} was not written by clcr_hf: it does not say what it takes")
        self.description = json.loads(found)
        self.inputs = [GraphInput(**{**each, "shape": tuple(each["shape"])}) for each in self.description["inputs"]]
        self.outputs = [output.name for output in self.session.get_outputs()]

    def __call__(self, **inputs: Any) -> dict[str, np.ndarray]:
        """
        Outputs by name, see [`named_outputs`].

        Args:
            **inputs: tensors or arrays as for the PyTorch model. A mask left out is all ones; a modality left out
                counts as missing. Without an audio backbone `input_values (B, T, mel)` is taken for `audio_features`.

        Raises:
            ValueError: no input, or one that the graph does not take.
        """
        given = {name: np.asarray(value) for name, value in inputs.items() if value is not None}
        if "audio_features" in self._names and "input_values" in given:
            given["audio_features"] = given.pop("input_values")
        # Segment ids are no input of the graph: all zero there, as they are for a single text.
        if not given.get("token_type_ids", np.zeros(1)).any():
            given.pop("token_type_ids", None)
        unknown = set(given) - self._names
        if unknown:
            raise ValueError(f"the graph does not take {sorted(unknown)}, but {sorted(self._names)}")
        batch = next((given[each.name].shape[0] for each in self.inputs if each.name in given), None)
        if batch is None:
            raise ValueError(f"no input: give at least one of {[each.name for each in self.inputs]}")
        feed: dict[str, np.ndarray] = {}
        for each in self.inputs:
            feed |= self._values(each, given, batch)
        return dict(zip(self.outputs, self.session.run(None, feed), strict=True))

    @property
    def _names(self) -> set[str]:
        return {name for each in self.inputs for name in (each.name, each.mask)}

    @staticmethod
    def _values(each: GraphInput, given: Mapping[str, np.ndarray], batch: int) -> dict[str, np.ndarray]:
        if each.name not in given:
            return each.missing(batch)
        values = given[each.name].astype(np.int64 if each.vocabulary else np.float32)
        mask = given.get(each.mask)
        if mask is None:
            mask = np.ones((batch, values.shape[1 + each.time]))
        return {each.name: values, each.mask: mask.astype(np.int64)}


@torch.no_grad()
def largest_difference(
    model: CLCRPreTrainedModel,
    exported: Callable[..., Mapping[str, Any]],
    inputs: Mapping[str, torch.Tensor],
    part: Part = "whole",
) -> float:
    """
    Largest absolute difference of any output of `model` and of its exported graph.

    Args:
        exported: an [`ONNXModel`], or `program.module()` of an exported program.
        inputs: a batch as `model` takes it, without labels; the graph of a fusion is given what the backbones make of
            it.
        part: what `exported` was made with.
    """
    want = named_outputs(model.eval()(**inputs, return_dict=True))
    got = exported(**(fusion_inputs(model, inputs) if part == "fusion" else inputs))
    return max(float(np.abs(np.asarray(got[name]) - value.float().numpy()).max()) for name, value in want.items())


__all__ = [
    "GraphInput",
    "ONNXModel",
    "example_batch",
    "export_model",
    "export_onnx",
    "export_program",
    "fusion_inputs",
    "graph_inputs",
    "largest_difference",
    "load_for_export",
    "named_outputs",
    "output_names",
    "quantise",
]
