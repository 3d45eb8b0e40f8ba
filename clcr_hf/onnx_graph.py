"""An exported model (`clcr export`) in onnxruntime: called as the PyTorch model is, or in its place in a pipeline."""

import hashlib
import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers.utils import cached_file

from .errors import CLCRError, InputError, ModelFileError, plainly
from .media_files import optional
from .modalities import modality

GRAPH_FILE = "model.onnx"  # beside the weights
METADATA = "clcr"
# What an explanation needs is an output of every graph; these are not.
_NOT_IN_GRAPHS = ("output_attentions", "output_hidden_states", "output_alignment_loss")
# Of a configuration, what says how a model was saved and not what it computes.
_NOT_OF_THE_MODEL = ("architectures", "auto_map", "custom_pipelines", "dtype", "transformers_version")


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

    def missing(self, batch: int, steps: int | None = None) -> dict[str, np.ndarray]:
        """What stands for the modality in a batch without it: zeros under a mask of zeros, as few as may be unless
        `steps` are asked for."""
        length = (steps or self.shortest) if isinstance(self.shape[self.time], str) else self.steps
        shape = (batch, *(length if isinstance(size, str) else size for size in self.shape))
        values = np.zeros(shape, dtype=np.int64 if self.vocabulary else np.float32)
        return {self.name: values, self.mask: np.zeros((batch, length), dtype=np.int64)}

    def given(self, inputs: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        """Values and mask of `inputs` as the graph takes them; the mask is all ones where there is none."""
        values = inputs[self.name].astype(np.int64 if self.vocabulary else np.float32, copy=False)
        mask = inputs.get(self.mask)
        if mask is None:
            mask = np.ones((len(values), values.shape[1 + self.time]), dtype=np.int64)
        return {self.name: values, self.mask: mask.astype(np.int64, copy=False)}


class ONNXModel:
    """
    An exported CLCR in onnxruntime, called as the PyTorch model is.

    Args:
        path: a file that [`~export.export_onnx`] or [`~export.quantise`] wrote.
        threads: of onnxruntime; its own choice by default.
        providers: onnxruntime's execution providers; the CPU by default.

    Attributes:
        inputs: [`GraphInput`] of each modality it takes.
        description: what the file says of its model: `part`, `modalities`, `problem_type`, `id2label`, `made_from`.

    Raises:
        ImportError: onnxruntime is not installed.
        ValueError: a file that cannot be read as ONNX, or that is no exported CLCR.
    """

    def __init__(
        self, path: str | os.PathLike[str], threads: int | None = None, providers: Sequence[str] | None = None
    ):
        advice = "running an exported model needs onnxruntime, which is not installed: pip install onnxruntime"
        onnxruntime = optional("onnxruntime", advice)
        options = onnxruntime.SessionOptions()
        options.log_severity_level = 3
        if threads is not None:
            options.intra_op_num_threads = threads
        names = list(providers or ["CPUExecutionProvider"])
        self.path = os.fspath(path)
        with plainly(f"{path}: onnxruntime cannot load it", ModelFileError):
            self.session = onnxruntime.InferenceSession(self.path, options, providers=names)
        found = self.session.get_modelmeta().custom_metadata_map.get(METADATA)
        if found is None:
            raise ValueError(f"{path} was not written by clcr_hf: it does not say what it takes")
        self.description = json.loads(found)
        self.inputs = [GraphInput(**{**each, "shape": tuple(each["shape"])}) for each in self.description["inputs"]]
        self.outputs = [output.name for output in self.session.get_outputs()]
        self._names = {name for each in self.inputs for name in (each.name, each.mask)}

    def __call__(self, **inputs: Any) -> dict[str, np.ndarray]:
        """
        Outputs by name, see [`~export.named_outputs`].

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
        if "token_type_ids" in given and not given["token_type_ids"].any():
            del given["token_type_ids"]
        unknown = set(given) - self._names
        if unknown:
            raise ValueError(f"the graph does not take {sorted(unknown)}, but {sorted(self._names)}")
        feed: dict[str, np.ndarray] = {}
        for each in self.inputs:
            feed |= each.given(given) if each.name in given else {}
        shapes = {each.modality: feed[each.mask].shape for each in self.inputs if each.name in given}
        if not shapes:
            raise ValueError(f"no input: give at least one of {[each.name for each in self.inputs]}")
        lengths = {name: length for name, (_, length) in shapes.items()}
        batch, steps = next(iter(shapes.values()))
        one_length = self.description.get("one_length")  # labels of each step
        if one_length and len(set(lengths.values())) > 1:
            raise InputError(f"the model labels each step, so all modalities must have as many, got {lengths}")
        for each in self.inputs:
            feed |= {} if each.name in given else each.missing(batch, steps if one_length else None)
        with plainly(f"{Path(self.path).name} cannot read this input", InputError):
            return dict(zip(self.outputs, self.session.run(None, feed), strict=True))


# -- which weights a graph was made of ---------------------------------------------------------------------------------


def made_from(model: Any) -> dict[str, Any]:
    """What a graph of `model` is made of: the `dtype` of its weights, its `config` (but for how it was saved), and a
    SHA-256 sum of its `weights` (names, kinds, shapes, values: the same in whatever files they lie)."""
    return {
        "dtype": str(model.dtype).removeprefix("torch."),
        "config": _settings(model.config),
        "weights": weights_digest(model),
    }


def _settings(config: Any) -> dict[str, Any]:
    """A configuration as JSON has it."""
    return json.loads(json.dumps(_of_the_model(config.to_dict()), sort_keys=True, default=str))


def _of_the_model(value: Any) -> Any:
    if isinstance(value, dict):
        kept = {str(key): each for key, each in value.items() if not str(key).startswith("_")}
        return {key: _of_the_model(each) for key, each in kept.items() if key not in _NOT_OF_THE_MODEL}
    return value


def weights_digest(model: Any) -> str:
    """SHA-256 of a model's weights; of a [`GraphModel`] that of the weights it was made of."""
    if isinstance(model, GraphModel):
        return str(model.graph.description["made_from"]["weights"])
    found = hashlib.sha256()
    for name, value in sorted(model.state_dict().items()):
        found.update(f"{name} {value.dtype} {tuple(value.shape)}\n".encode())
        found.update(value.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().data)
    return found.hexdigest()


def check_graph(graph: ONNXModel, model: Any) -> None:
    """
    Whether `graph` is `model`, whole.

    Raises:
        ModelFileError: it holds the fusion alone, says not what it was made of, or was made with other settings, of
            other weights or of weights of another kind.
    """
    again = "export it again (clcr export)"
    made = graph.description.get("made_from")
    if graph.description["part"] != "whole":
        raise ModelFileError(f"{graph.path} holds the fusion alone, which reads no clip: export the whole model")
    if made is None:
        raise ModelFileError(f"{graph.path} does not say which weights it was made of: {again}")
    now = made_from(model)
    if made["dtype"] != now["dtype"]:
        kinds = f"{made['dtype']} weights, and these are {now['dtype']}"
        raise ModelFileError(f"{graph.path} was made of {kinds}: leave `dtype` out, or {again}")
    # A setting that came with a newer version of this package has its default in models that were there before.
    before = {**_settings(type(model.config)()), **made["config"]}
    changed = sorted(name for name, value in now["config"].items() if before.get(name) != value)
    if changed:
        raise ModelFileError(f"{graph.path} was made with other settings ({', '.join(changed)}): {again}")
    if made["weights"] != now["weights"]:
        raise ModelFileError(f"{graph.path} was made of other weights than those beside it: {again}")


def find_graph(model: Any) -> str:
    """
    Path of `model.onnx` beside the weights of `model`: in its folder, or fetched from its repository on the Hub.

    Raises:
        FileNotFoundError: there is none.
    """
    source, revision = model.name_or_path, getattr(model.config, "_commit_hash", None)
    if source:
        quiet = {"revision": revision, "_raise_exceptions_for_missing_entries": False}
        path = cached_file(source, GRAPH_FILE, **quiet)
        if path is not None:
            if not os.path.isdir(source):
                # Weights beyond 2 GB lie in a file of their own; without the network, one that is not there may be.
                cached_file(source, GRAPH_FILE + ".data", **quiet, _raise_exceptions_for_connection_errors=False)
            return str(path)
    place = source or "a model that was not loaded from a folder"
    raise FileNotFoundError(f"{place} has no {GRAPH_FILE}: write it by `clcr export`, or leave backend='onnx' out")


# -- in a pipeline -----------------------------------------------------------------------------------------------------


class GraphModel:
    """
    The graph of a model in the model's place. Nothing here runs in PyTorch: what the graph lacks is refused.

    Args:
        model: the model, with a head, loaded from where the graph is; not kept.
        threads: of onnxruntime; as many as PyTorch uses by default.

    Attributes:
        config, per_segment: the model's. device, dtype: of what it takes, the CPU and float32.

    Raises:
        ImportError: onnxruntime is not installed.
        FileNotFoundError: there is no graph beside the model's weights.
        ValueError: see [`check_graph`].
    """

    device = torch.device("cpu")
    dtype = torch.float32

    def __init__(self, model: Any, threads: int | None = None):
        self.graph = ONNXModel(find_graph(model), threads or torch.get_num_threads())
        check_graph(self.graph, model)
        self.config, self.per_segment, self._output = model.config, model.per_segment, model.output_class
        self._bias = model.logit_bias().detach().float().clone()
        taken = {each.modality for each in self.graph.inputs}
        self._left_out = {
            key: name
            for name in self.config.modalities
            if name not in taken
            for key in (modality(name).features, *modality(name).inputs)
        }

    def eval(self) -> "GraphModel":
        """A graph is in evaluation always."""
        return self

    def logit_bias(self) -> torch.Tensor:
        """As of the model."""
        return self._bias

    def __call__(self, **inputs: Any) -> Any:
        """
        What the model returns, of what the graph gives: logits, weights, gates, budgets, own evidence, counts.

        Raises:
            InputError: input for a modality that was not exported, what no graph gives (attention weights, hidden
                states), labels, or what onnxruntime refuses.
        """
        name = Path(self.graph.path).name
        asked = [key for key in _NOT_IN_GRAPHS if inputs.pop(key, None)]
        if asked:
            raise InputError(f"{name} has no {asked[0].removeprefix('output_')}: use backend='torch' for it")
        gone = [self._left_out[key] for key, value in inputs.items() if key in self._left_out and value is not None]
        if gone:
            raise InputError(f"{name} was exported without {gone[0]}: leave it out of the input, or export it too")
        found = {key: torch.from_numpy(value) for key, value in self.graph(**inputs).items()}
        levels: dict[int, dict[str, torch.Tensor]] = {}
        for key in [key for key in found if key.startswith("token_budgets_")]:
            level, _, part = key.removeprefix("token_budgets_").partition("_")
            levels.setdefault(int(level), {})[part] = found.pop(key)
        budgets = tuple(levels[level] for level in sorted(levels)) or None
        return self._output(token_budgets=budgets, **found)

    def save_pretrained(self, *args: Any, **kwargs: Any) -> None:
        """Refused."""
        raise CLCRError("a graph has no weights to save: load the model without backend='onnx', and save that")


__all__ = ["GRAPH_FILE", "GraphInput", "GraphModel", "ONNXModel", "check_graph", "find_graph", "made_from"]
