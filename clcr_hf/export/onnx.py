"""A trained CLCR as one graph for other runtimes: ONNX, `torch.export`, and ONNX with 8-bit weights.

The graph is the model in evaluation, float32, with its bases computed once and folded into the maps they feed. Batch
and lengths are free; a modality may be missing from a sample (its mask row all zero). See docs/export.md.
"""

import json
import logging
import os
import tempfile
import warnings
from collections.abc import Callable, Iterator, Mapping
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
from ..onnx_graph import METADATA, ONNXModel, made_from
from .graph import AnyModel, export_program, fusion_inputs, load_for_export, named_outputs, trace
from .inputs import Part, check_choice, example_batch, graph_inputs, labels_each_step

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
        "one_length": labels_each_step(loaded),
        "made_from": made_from(loaded),
    }
    # The exporter notes down for each operator where in the source it came from: that belongs to this machine.
    for node in written.model.graph.all_nodes():
        node.metadata_props.clear()
        for value in node.outputs:
            value.metadata_props.clear()
    written.model.metadata_props[METADATA] = json.dumps(description)
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
