"""A trained CLCR as one graph for other runtimes: ONNX, `torch.export`, and ONNX with 8-bit weights.

The graph is the model in evaluation, float32, with its bases computed once and folded into the maps they feed. Batch
and lengths are free; a modality may be missing from a sample (its mask row all zero). See docs/export.md.
"""

import json
import logging
import os
import tempfile
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ..configuration_clcr import CLCRConfig
from ..data.errors import optional_package
from ..data.folders import check_writable, replacing
from ..modeling_clcr import CLCRPreTrainedModel
from .graph import AnyModel, export_program, fusion_inputs, load_for_export, named_outputs, trace
from .inputs import GraphInput, Part, check_choice, example_batch, graph_inputs

_METADATA = "clcr"
_LEAST_OPSET = 18  # of the exporter


def export_onnx(
    model: AnyModel,
    out: str | os.PathLike[str],
    *,
    part: Part = "whole",
    opset: int | None = None,
    **options: Any,
) -> Path:
    """
    Writes the model as ONNX with free batch and lengths. Inputs are those of [`graph_inputs`], outputs those of
    [`named_outputs`]; what the graph takes is described in its metadata, which [`ONNXModel`] reads.

    Args:
        model: a CLCR model, a folder that one was saved in, or a name on the Hub.
        out: the `.onnx` file; weights beyond 2 GB go to `<out>.data` beside it.
        opset: version of the ONNX operators; PyTorch's default otherwise.
        part, options (`modalities`, `image_size`, `mel_bins`): see [`graph_inputs`].

    Returns:
        `out`.

    Raises:
        ImportError: the extra `export` is not installed.
        ValueError: as [`graph_inputs`].
    """
    _require("onnx", "onnxscript")
    loaded = load_for_export(model)
    inputs = graph_inputs(loaded, part=part, **options)
    program = trace(loaded, inputs, part)
    with _warnings_off("torch.onnx"):  # of torchvision, which nothing here needs
        written = torch.onnx.export(
            program,
            dynamo=True,
            input_names=[name for each in inputs for name in (each.name, each.mask)],
            output_names=list(program.module()(**example_batch(inputs))),
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
    with replacing(Path(out)) as unfinished:
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

    with replacing(Path(out)) as unfinished, _warnings_off("root"):  # it would have shapes inferred that are there
        quantize_dynamic(
            os.fspath(source),
            unfinished,
            op_types_to_quantize=["MatMul", "Gemm"],
            weight_type=QuantType.QInt8,
            reduce_range=True,  # 7 bits: with 8, processors without VNNI add up in 16 bits and lose what does not fit
        )
    return Path(out)


def export_model(
    model: AnyModel,
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
        ValueError: an unknown format, `opset` for another than ONNX or beyond it, or as [`graph_inputs`].
        OSError: `out` cannot be written.
        ImportError: the extra `export` is not installed.
    """
    if format not in ("onnx", "int8", "torch"):
        raise ValueError(f"the format must be onnx, int8 or torch, got {format!r}")
    if format == "torch" and opset is not None:
        raise ValueError("`opset` is a version of ONNX, and the format torch has none")
    _check_before(model, out, format, opset, options)
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


def _check_before(
    model: AnyModel, out: str | os.PathLike[str], format: str, opset: int | None, options: Mapping[str, Any]
) -> None:
    """What can be wrong before the model is read: the file, the extra, and what the graph is to take."""
    check_writable(out)
    if format != "torch":
        _require("onnx", "onnxscript", "onnxruntime")
        from onnx.defs import onnx_opset_version

        if opset is not None and not _LEAST_OPSET <= opset <= onnx_opset_version():
            raise ValueError(f"`opset` must lie in {_LEAST_OPSET} to {onnx_opset_version()}, got {opset}")
    size = options.get("image_size")
    if size is not None and min(size if isinstance(size, tuple | list) else [size]) < 1:
        raise ValueError(f"`image_size` must be positive, got {size}")
    config = CLCRConfig.from_pretrained(model) if isinstance(model, str | os.PathLike) else model.config
    check_choice(config, options.get("part", "whole"), options.get("modalities"))


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
        optional_package(package, f"this needs {package}", "export")


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
        mask = given.get(each.mask, np.ones((batch, values.shape[1 + each.time])))
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
