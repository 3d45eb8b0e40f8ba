"""One graph of a trained model by `torch.export`, and what its outputs are called."""

import copy
import inspect
import os
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.export import Dim, ExportedProgram
from torch.nn import functional as F

from ..data.folders import replacing
from ..modalities import modality
from ..modeling_clcr import CLCRPreTrainedModel
from ..onnx_graph import GraphInput
from .inputs import Part, example_batch, graph_inputs, labels_each_step

AnyModel = CLCRPreTrainedModel | str | os.PathLike[str]  # or where one is saved
_OUTPUTS = (
    *("logits", "modality_logits", "joint_logits"),
    *("level_weights", "modality_weights", "private_gates", "token_counts"),
)


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
    """A model's output as an exported graph names it: `logits`, `modality_logits`, `joint_logits` (`pooler_output` of a
    model without head), `level_weights`, `modality_weights`, `private_gates`, `token_counts` and
    `token_budgets_<level>_<modality>` with levels from 1; without what the model does not have."""
    named = {name: value for name in _OUTPUTS if (value := getattr(outputs, name, None)) is not None}
    if "logits" not in named:
        named = {"pooler_output": outputs.pooler_output, **named}
    for level, budgets in enumerate(outputs.token_budgets or (), start=1):
        named |= {f"token_budgets_{level}_{name}": budget for name, budget in budgets.items()}
    return named


@torch.no_grad()
def _prepared(model: CLCRPreTrainedModel, part: Part) -> CLCRPreTrainedModel:
    """A copy of `model` ready for tracing: float32, evaluation, constant bases, without backbones for the fusion."""
    readers = [encoder.reader for encoder in model.base_model.hierarchy.encoders.values()] if part == "fusion" else []
    prepared = copy.deepcopy(model, {id(reader): None for reader in readers if reader is not None})
    prepared = prepared.float().cpu().eval()
    if part == "fusion":
        for encoder in prepared.base_model.hierarchy.encoders.values():
            _widen_taps(encoder)
    if not prepared.config.use_joint_path:
        return prepared
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
    with ExitStack() as hooks:
        for name, encoder in model.base_model.hierarchy.encoders.items():
            if encoder.reader is not None:
                hooks.enter_context(
                    encoder.reader.register_forward_hook(lambda _, given, found, name=name: read.update({name: found}))
                )
        model(**inputs)
    replaced = {"inputs_embeds", *(key for name in read for key in (*modality(name).inputs, *modality(name).tokens))}
    features = {name: value for name, value in inputs.items() if name not in replaced}
    for name, (levels, mask) in read.items():
        width = max(level.shape[-1] for level in levels)
        stacked = torch.stack([F.pad(level, (0, width - level.shape[-1])) for level in levels], dim=1)
        tapped = model.base_model.hierarchy.encoders[name].source == "taps"
        features[f"{name}_features"] = stacked if tapped else stacked[:, 0]
        features[f"{name}_attention_mask"] = mask.long()
    return features


def load_for_export(model: AnyModel) -> CLCRPreTrainedModel:
    """The model given, or the one saved in a folder (or on the Hub), with its own head."""
    if isinstance(model, CLCRPreTrainedModel):
        return model
    return CLCRPreTrainedModel.load_with_head(os.fspath(model))


def export_program(model: AnyModel, out: str | os.PathLike[str] | None = None, **options: Any) -> ExportedProgram:
    """
    The model as a `torch.export` program with free batch and lengths; `program.module()(**batch)` runs it and gives
    the outputs by name, see [`named_outputs`].

    Args:
        model: a CLCR model, a folder that one was saved in, or a name on the Hub.
        out: file to save it in (`.pt2`), read back by `torch.export.load`. Not saved by default.
        options: `part`, `modalities`, `image_size`, `mel_bins`, see [`graph_inputs`].

    Raises:
        ValueError: as [`graph_inputs`].
    """
    loaded = load_for_export(model)
    program = trace(loaded, graph_inputs(loaded, **options), options.get("part", "whole"))
    if out is not None:
        with replacing(Path(out)) as unfinished:
            torch.export.save(program, unfinished)
    return program


def trace(model: CLCRPreTrainedModel, inputs: Sequence[GraphInput], part: Part) -> ExportedProgram:
    batch = Dim("batch")
    shapes: dict[str, dict[int, Any]] = {}
    shared = Dim("length") if labels_each_step(model) else None
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
