"""`CLCRPipeline`, task "multimodal-sentiment": a clip with speech to a score or label, and what decided it."""

import itertools
import os
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset
from transformers import Pipeline
from transformers.pipelines import PIPELINE_REGISTRY
from transformers.pipelines.pt_utils import PipelineDataset, PipelineIterator
from transformers.utils import logging

from .collator import CLCRDataCollator
from .errors import CLCRError, InputError, in_one_line, is_plain
from .modalities import modality
from .modeling_clcr import CLCRPreTrainedModel
from .objective import labels_that_hold, probabilities
from .onnx_graph import GraphModel
from .pipeline_inputs import SampleReader
from .pipeline_windows import SampleWindows, placed, segment_place
from .samples import is_file

TASK = "multimodal-sentiment"
_ON_ERROR = ("raise", "skip")
_AT_ONCE = 8  # windows of a recording in a forward pass, where no batch_size is given

logger = logging.get_logger(__name__)


class CLCRPipeline(Pipeline):
    r"""
    Reads clips with a CLCR model that has a head, and its processor.

    ```python
    pipe = pipeline("multimodal-sentiment", model="path/to/model")
    pipe({"media": "clip.mp4", "text": "what a lovely day"}, return_explanation=True)
    ```

    An input is one of:

    - a media file, read for its frames and its audio: its path, an http(s) address, its bytes, an open binary file, a
      data URI, or base64 text (where no such path exists and the text cannot be taken for anything else);
    - a dict with any of `media` (as above), `video` (as above, or uint8 frames `(F, H, W, 3)`), `audio` (as above, or a
      float waveform `(samples,)` at the dict's `sampling_rate`, by default the feature extractor's), `images` (a list
      of images, one a frame), `flow` (array or path), `text` (str), ready features `<modality>_features (T, D)`, and
      token ids (`input_ids`). Undecoded media of `datasets` (`{"path", "bytes"}`) will do, and columns that only
      training reads (id, label, labels, words, intervals) are left alone: a row of a data set is an input. What is
      left out, None or "" counts as missing, and what the model does not read is passed over.

    A list gives a list. A stream (`datasets.Dataset` or `IterableDataset`, `KeyDataset`, a generator or other iterator)
    gives an iterator that reads as it goes. With `batch_size=`, so many clips share a forward pass; results do not
    depend on it.

    A long recording is read in windows: `pipe(sample, window=10, every=5)` reads ten seconds from every fifth on, over
    the whole file, and never holds more of it than the windows that are open. Its result has `seconds` (of the file)
    and `windows`, a result each with `start` and `end` in seconds, `text` (of `words` with `word_intervals`, where the
    sample has them), and `error` where the window holds nothing that the model reads. Without `window`, what is longer
    than is read (`max_audio_seconds` of the processor, `max_seconds`) is cut: a warning says so, and the result then
    has `seconds` and `read_seconds`.

    A result is a dict:

    - regression: `score` (float, kept in `score_range`) and `label`: on the scale of sentiment (`config.label_scale`)
      `"negative"`, `"neutral"` (within a sixth of the half range around its middle: [-0.5, 0.5] for [-3, 3]) or
      `"positive"`; on no scale, or without a range, the name of the output. Several outputs: `scores` by name. Where
      training found how wide it is (`config.score_interval`), `interval`, `[low, high]` in the same range that should
      hold the true score in nine of ten cases (`config.interval_coverage`); of several outputs `intervals` by name;
    - one label: `label`, `score` (its probability) and `probabilities` (all labels);
    - several labels: `label` and `score` of the likeliest, `labels` (those above `config.label_thresholds`, or 0.5) and
      `probabilities`. Probabilities are calibrated where training found a `config.logit_temperature`;
    - a label a segment ([`CLCRForTokenClassification`]): `segments`, a list of dicts with `start` and `end` in seconds
      (`index` where the length is not known, as with features) and `label` and `score` as above;
    - with `on_error="skip"`, for an input that cannot be read: `error`, the reason.

    `pipeline(..., backend="onnx")` answers by onnxruntime, on the CPU, from the graph that `clcr export` left as
    `model.onnx` beside the weights, in the folder or on the Hub: the same answers and explanations. PyTorch then
    computes nothing: input for a modality that was not exported is an error, and so is a graph that was made of other
    weights or of another configuration.

    Parameters, of the pipeline or of a call:

    - `return_explanation` (bool): adds `level_weights` (one float a level, shallow first), `modality_weights` and
      `private_gates` (by modality); where the model has evidence of each modality by itself, `modality_logits` (by
      modality), `joint_logits` and `logit_bias` (a number each, of several labels one a label), which add up to the
      answer's logits, or to a score before `score_range`; all these in each segment where there are segments; and
      `tokens`: by modality a list of dicts
      with `budget` (one float a level, how much of the token was exchanged), and `token` (text), `time` in seconds
      (frames, audio) or `index` (features);
    - `window`, `every` (seconds, of a call): see above; each is as long as the other by default;
    - `top_k` (int): `probabilities` holds so many labels, likeliest first; segments get them too;
    - `score_range` (two numbers or None): of a regression. Default: `config.label_range`;
    - `on_error` (`"raise"` or `"skip"`): what an input that cannot be read does: ends the call, or only itself fails;
    - `max_seconds` (float): only so much of the beginning of a file is read;
    - `max_bytes` (int), `timeout` (seconds): limits for addresses and base64, see [`~clcr_hf.fetch.fetch`];
    - `local_files` (bool): False refuses paths, for input from strangers. A string alone is then text, unless it is an
      address, a data URI or a media file in base64. What one input may cost is then bounded (`limits.py`): characters
      of a text, numbers and steps of features, bytes and seconds of a file, pixels of its frames.

    Raises:
        ImportError, FileNotFoundError: `backend="onnx"` without onnxruntime, or without a graph.
        ValueError: an input of another kind or with unknown keys, one with nothing to read in it, a file or an address
            that cannot be read (`MediaError`, `FetchError`), an unknown parameter.
    """

    _load_processor = True
    _load_tokenizer = False
    _load_feature_extractor = False
    _load_image_processor = False
    _load_video_processor = False
    _backends: tuple[str, ...] = ("torch", "onnx")
    model: Any  # CLCRPreTrainedModel, or its GraphModel

    def __init__(self, *args: Any, backend: str = "torch", **kwargs: Any) -> None:
        if backend not in self._backends:
            raise ValueError(f"{type(self).__name__} has the backend {' or '.join(self._backends)}, got {backend!r}")
        if backend == "onnx":
            kwargs["device"] = _check_cpu(kwargs.get("device"))
        super().__init__(*args, **kwargs)
        if self.processor is None:
            raise ValueError(
                f"{type(self).__name__} needs a processor: pass processor=CLCRProcessor(...) beside the model"
            )
        self._check_model()
        self.model.eval()  # one that was just built or trained still has its dropout on
        pad = getattr(self.processor.tokenizer, "pad_token_id", None)
        self._collator = CLCRDataCollator(tokenizer_pad_id=pad or 0)
        self._reader = SampleReader(self.processor, self.model.config.modalities)
        self._same_length = _inputs_that_padding_reaches(self.model)
        if backend == "onnx":
            self.model = GraphModel(self.model)

    def _check_model(self) -> None:
        """ValueError for a model that this pipeline cannot read with."""
        if not hasattr(self.model, "classifier"):
            raise ValueError(
                f"{type(self.model).__name__} has no head; load CLCRForSequenceClassification, for example"
            )

    def _parameters(self) -> dict[str, tuple[Any, str, tuple[int, ...]]]:
        """What the pipeline takes; see `PARAMETERS`."""
        return PARAMETERS

    def save_pretrained(self, save_directory: str | os.PathLike, **kwargs: Any) -> None:
        """Saves model and processor. (transformers' own would leave the processor out and ask for remote code.)"""
        self.model.save_pretrained(save_directory, **kwargs)
        self.processor.save_pretrained(save_directory, **kwargs)

    def __call__(
        self,
        inputs: Any,
        *args: Any,
        num_workers: int | None = None,
        batch_size: int | None = None,
        window: float | None = None,
        every: float | None = None,
        **kwargs: Any,
    ) -> Any:
        """Results of one input, a list or a stream; see the class. `num_workers` processes read ahead."""
        for name, value, least in (("batch_size", batch_size, 1), ("num_workers", num_workers, 0)):
            if value is not None and (not isinstance(value, int) or value < least):
                raise ValueError(f"{name} must be a whole number of {least} or more, got {value!r}")
        if window is not None or every is not None:
            if not isinstance(inputs, list | tuple) and not _is_stream(inputs):
                return self._timeline(inputs, window, every, batch_size, kwargs)
            timelines = (self._timeline(each, window, every, batch_size, kwargs) for each in inputs)
            return list(timelines) if isinstance(inputs, list | tuple) else timelines
        given = self._sanitize_parameters(**kwargs)
        kept = (self._preprocess_params, self._forward_params, self._postprocess_params)
        parameters = [{**old, **new} for old, new in zip(kept, given, strict=True)]
        several = isinstance(inputs, list | tuple)
        if not several and not _is_stream(inputs):
            return self.run_single(inputs, *parameters)
        workers = num_workers if num_workers is not None else self._num_workers or 0
        results = self.get_iterator(inputs, workers, batch_size or self._batch_size or 1, *parameters)
        return list(results) if several else results

    def windows(
        self, sample: Any, window: float | None = None, every: float | None = None, **reading: Any
    ) -> SampleWindows:
        """The windows of a long recording, read as they are asked for; see [`SampleWindows`].

        Args:
            sample: an input with a media file; see the class.
            window, every: seconds; each is as long as the other by default.
            reading: `local_files`, `max_bytes`, `timeout`; `sampling_rate` of audio that the model does not hear.
        """
        length = window if window is not None else every
        if length is None:
            raise ValueError("give window, every, or both, in seconds")
        return self._reader.windows(sample, length, every, **reading)

    def _timeline(
        self, sample: Any, window: float | None, every: float | None, batch_size: int | None, options: dict[str, Any]
    ) -> dict[str, Any]:
        """The result of a recording read in windows; see the class."""
        self._sanitize_parameters(**options)
        if "max_seconds" in options:
            raise ValueError("max_seconds and window contradict each other; give the sample an end instead")
        reading = {key: options[key] for key in ("local_files", "max_bytes", "timeout") if key in options}
        windows = self.windows(sample, window, every, **reading)
        answering = {key: value for key, value in options.items() if key not in reading}
        stream, answers = iter(windows), []
        while group := list(itertools.islice(stream, batch_size or self._batch_size or _AT_ONCE)):
            answers += self.read_windows(group, **answering)
        return {"seconds": windows.seconds, "windows": answers}

    def read_windows(self, windows: Sequence[Mapping[str, Any]], **options: Any) -> list[dict[str, Any]]:
        """Results of some windows of `self.windows()`, in one forward pass; `options` as of a call. A dict with a
        `sample` alone stands for a whole input; what an `error` beside it says is the result where `sample` is None."""
        full = [window["sample"] for window in windows if window["sample"] is not None]
        results = iter(self(full, batch_size=len(full), **options))
        return [placed(None if window["sample"] is None else next(results), window) for window in windows]

    def get_iterator(
        self,
        inputs: Any,
        num_workers: int,
        batch_size: int,
        preprocess_params: dict[str, Any],
        forward_params: dict[str, Any],
        postprocess_params: dict[str, Any],
    ) -> Iterator[dict[str, Any]]:
        """Results in the order of the inputs, made as they are asked for. (transformers' own has its own padding.)"""
        if hasattr(inputs, "__len__") and hasattr(inputs, "__getitem__"):
            dataset: Any = PipelineDataset(inputs, self.preprocess, preprocess_params)
        else:
            dataset, num_workers = PipelineIterator(inputs, self.preprocess, preprocess_params), min(num_workers, 1)
        for batch in DataLoader(dataset, batch_size=batch_size, num_workers=num_workers, collate_fn=_joined):
            for output in self.forward(batch, **forward_params)["outputs"]:
                yield self.postprocess({"outputs": [output]}, **postprocess_params)

    def _sanitize_parameters(self, **given: Any) -> tuple[dict[str, Any], dict[str, Any], dict[str, Any]]:
        known = self._parameters()
        unknown = sorted(set(given) - set(known))
        if unknown:
            raise ValueError(f"{type(self).__name__} has no parameter {unknown}; it takes {', '.join(sorted(known))}")
        steps: tuple[dict[str, Any], ...] = ({}, {}, {})
        for name, value in given.items():
            check, wanted, places = known[name]
            if not check(value):
                raise ValueError(f"{name} must be {wanted}, got {repr(value)[:60]}")
            for place in places:
                steps[place][name] = value
        return steps[0], steps[1], steps[2]

    # -- one input -----------------------------------------------------------------------------------------------

    def preprocess(self, input_: Any, on_error: str = "raise", **reading: Any) -> dict[str, Any]:
        """Decodes and processes one input: its arrays without a batch axis and its times, or the reason why not."""
        try:
            return {"samples": [self._reader(input_, **reading)]}
        except ImportError:
            raise  # a missing package, not a bad input
        except Exception as error:
            if on_error == "skip":
                return {"samples": [{"error": _reason(error)}]}
            if isinstance(error, CLCRError) or (isinstance(error, ValueError) and is_plain(error)):
                raise
            raise InputError(f"the input cannot be read: {in_one_line(error)}") from error

    def _forward(self, model_inputs: dict[str, Any], on_error: str = "raise", **options: Any) -> dict[str, Any]:
        """Of each sample its `logits (C,)` or `(G, C)`, times and explanation, made in batches in which padding changes
        nothing; errors are passed on."""
        samples = model_inputs["samples"]
        outputs: list[dict[str, Any]] = list(samples)
        alike: dict[Any, list[int]] = {}
        for place, sample in enumerate(samples):
            if "error" not in sample:
                shapes = tuple(np.shape(sample["arrays"].get(name)) for name in self._same_length)
                alike.setdefault(shapes, []).append(place)
        for places in alike.values():
            made = self._run_or_skip([samples[place] for place in places], on_error, options)
            for place, output in zip(places, made, strict=True):
                outputs[place] = output
        return {"outputs": outputs}

    def _run_or_skip(
        self, samples: list[dict[str, Any]], on_error: str, options: dict[str, Any]
    ) -> list[dict[str, Any]]:
        try:
            return self._run_batch(samples, **options)
        except Exception as error:
            if on_error == "raise":
                raise
            if len(samples) == 1:
                return [{"error": _reason(error)}]
        return [output for sample in samples for output in self._run_or_skip([sample], on_error, options)]

    def _model_inputs(self, samples: list[dict[str, Any]]) -> dict[str, torch.Tensor]:
        """The samples as one batch, where the model is."""
        inputs = self._collator([sample["arrays"] for sample in samples])
        floats = {"dtype": self.model.dtype}
        return {
            name: value.to(self.device, **(floats if value.is_floating_point() else {}))
            for name, value in inputs.items()
        }

    def _run_batch(self, samples: list[dict[str, Any]], **options: Any) -> list[dict[str, Any]]:
        """What the model says of some samples: of each its `cut`, and what `_result` reads."""
        inputs, explain = self._model_inputs(samples), options.get("return_explanation", False)
        one_a_step = self.model.per_segment and self.model.config.num_segments is None
        outputs = self.model(**inputs)
        logits = outputs.logits.float().cpu()
        counts = dict(zip(self.model.config.modalities, outputs.token_counts.T.tolist(), strict=True))
        made = []
        for row, sample in enumerate(samples):
            own, real = logits[row], {name: count[row] for name, count in counts.items()}
            if one_a_step:
                own = own[: max(real.values())]
            explanation = self._explain(outputs, inputs, row, sample, real) if explain else None
            made.append({"logits": own, "seconds": sample["seconds"], "cut": sample["cut"], "explanation": explanation})
        return made

    # -- results -------------------------------------------------------------------------------------------------

    def postprocess(self, model_outputs: dict[str, Any], **options: Any) -> dict[str, Any]:
        """Plain Python numbers and strings for one sample."""
        (output,) = model_outputs["outputs"]
        if "error" in output:
            return output
        return {**self._result(output, **options), **_what_was_cut(output)}

    def _result(self, output: dict[str, Any], **options: Any) -> dict[str, Any]:
        """What was found of one sample, for people."""
        top_k, score_range = options.get("top_k"), options.get("score_range", "default")
        logits, explanation = output["logits"], dict(output["explanation"] or {})
        if logits.dim() == 1:
            return {**self._read_logits(logits, top_k, score_range), **explanation}
        weights = explanation.pop("segments", [{}] * len(logits))[: len(logits)]
        segments = []
        for index, (row, own) in enumerate(zip(logits, weights, strict=True)):
            read = self._read_logits(row, top_k, score_range)
            if top_k is None:
                read.pop("probabilities", None)
            segments.append({**segment_place(index, len(logits), output["seconds"]), **read, **own})
        return {"segments": segments, **explanation}

    def _read_logits(self, logits: torch.Tensor, top_k: int | None, score_range: Any) -> dict:
        config = self.model.config
        problem = config.effective_problem_type
        names = [config.id2label[index] for index in range(logits.numel())]
        if problem == "regression":
            ranges = config.score_ranges() if isinstance(score_range, str) else [score_range] * len(names)
            limits = [(-np.inf, np.inf) if pair is None else pair for pair in ranges]
            scores = [min(max(x, low), high) for x, (low, high) in zip(logits.tolist(), limits, strict=True)]
            spans = [
                [max(score - width, low), min(score + width, high)]
                for score, width, (low, high) in zip(scores, config.score_interval or (), limits, strict=False)
            ]
            if len(scores) > 1:
                found = {"scores": scores, **({"intervals": spans} if spans else {})}
                return {key: dict(zip(names, values, strict=True)) for key, values in found.items()}
            label = names[0]
            if config.label_scale == "sentiment" and ranges[0] is not None:
                low, high = limits[0]
                side = round(3 * (2 * scores[0] - low - high) / (high - low))
                label = ("neutral", "positive", "negative")[int(np.sign(side))]
            return {"label": label, "score": scores[0], **({"interval": spans[0]} if spans else {})}
        values = probabilities(config, logits)
        likely = dict(zip(names, values.tolist(), strict=True))
        ranked = sorted(names, key=likely.__getitem__, reverse=True)
        shown = likely if top_k is None else {name: likely[name] for name in ranked[:top_k]}
        result = {"label": ranked[0], "score": likely[ranked[0]], "probabilities": shown}
        if problem == "multi_label_classification":
            holding = labels_that_hold(config, values).tolist()
            result["labels"] = [name for name, holds in zip(names, holding, strict=True) if holds]
        return result

    def _explain(
        self, outputs: Any, inputs: dict[str, torch.Tensor], row: int, sample: dict[str, Any], real: dict[str, int]
    ) -> dict[str, Any]:
        """What decided sample `row` of a batch, which has so many real tokens of each modality; see the class."""
        tokens = {}
        for name, count in real.items():
            if not count or outputs.token_budgets is None:  # without a joint path no token is exchanged
                continue
            budgets = torch.stack([level[name][row, :count] for level in outputs.token_budgets]).float()  # (L, T)
            described = self._describe_tokens(name, count, inputs, row, sample)
            tokens[name] = [
                {**what, "budget": column} for what, column in zip(described, budgets.T.tolist(), strict=True)
            ]
        parts = 1 if outputs.logits.dim() == 2 else outputs.logits.shape[1]
        decided = [self._weights(outputs, row, part if outputs.logits.dim() == 3 else None) for part in range(parts)]
        if outputs.logits.dim() == 2:
            return {**decided[0], "tokens": tokens}
        return {"segments": decided, "tokens": tokens}

    def _weights(self, outputs: Any, row: int, part: int | None) -> dict[str, Any]:
        """What decided sample `row`, or segment `part` of it; without a joint path the weights are empty."""

        def of(field: torch.Tensor | None) -> Any:
            if field is None:
                return []
            return (field[row] if part is None else field[row, part]).float().tolist()

        config, own = self.model.config, of(outputs.modality_logits)
        weights = {name: of(getattr(outputs, name)) for name in ("level_weights", "modality_weights", "private_gates")}
        found = {
            name: value if name == "level_weights" else dict(zip(config.modalities, value, strict=False))
            for name, value in weights.items()
        }
        if own:
            labels = [config.id2label[number] for number in range(config.num_labels)]

            def named(values: list[float]) -> Any:
                return values[0] if len(values) == 1 else dict(zip(labels, values, strict=True))

            parts = zip(config.modalities, own, strict=True)
            found["modality_logits"] = {name: named(values) for name, values in parts}
            found["joint_logits"] = named(of(outputs.joint_logits))
            found["logit_bias"] = named(self.model.logit_bias().float().tolist())
        return found

    def _describe_tokens(
        self, name: str, count: int, inputs: dict[str, torch.Tensor], row: int, sample: dict[str, Any]
    ) -> list[dict[str, Any]]:
        """What each of the first `count` tokens of modality `name` is."""
        if name == "text" and "input_ids" in inputs and self.processor.tokenizer is not None:
            ids = inputs["input_ids"][row, :count].tolist()
            return [{"token": token} for token in self.processor.tokenizer.convert_ids_to_tokens(ids)]
        times, duration = sample["frame_times"], sample["sound_seconds"]
        if name == "vision" and times is not None and count:
            return [{"time": float(times[index * len(times) // count])} for index in range(count)]
        if name == "audio" and duration is not None:
            return [{"time": (index + 0.5) * duration / count} for index in range(count)]
        return [{"index": index} for index in range(count)]


# -- batches and results ---------------------------------------------------------------------------------------------


def _is_stream(value: Any) -> bool:
    """Whether this is many inputs, one after the other."""
    if isinstance(value, Mapping | np.ndarray | torch.Tensor) or is_file(value):
        return False
    return isinstance(value, Dataset) or hasattr(value, "__iter__")


def _joined(samples: list[dict[str, Any]]) -> dict[str, Any]:
    """The samples of one batch."""
    return {"samples": [one for sample in samples for one in sample["samples"]]}


def _what_was_cut(output: Mapping[str, Any]) -> dict[str, float]:
    """`seconds` and `read_seconds` of a file that lasts longer than the model reads, and a warning."""
    if output["cut"] is None:
        return {}
    read, seconds = output["cut"]
    logger.warning("%.1f of %.1f s are read; window= reads the whole in windows", read, seconds)
    return {"seconds": seconds, "read_seconds": read}


def _inputs_that_padding_reaches(model: Any) -> list[str]:
    """Raw inputs whose backbone sees the padding behind a short sample: waveforms that are normalised
    over time (wav2vec 2.0 base) or read without a mask (spectrograms), frames that are read as whole clips."""
    names = []
    for name, encoder in model.base_model.hierarchy.encoders.items():
        reader = getattr(encoder, "reader", None)
        if reader is None or name == "text":
            continue
        if name == "audio":
            normalised = any(isinstance(part, torch.nn.GroupNorm) for part in reader.backbone.modules())
            if normalised or not reader.accepts_mask or reader.input_name != "input_values":
                names.append("input_values")
        elif reader.reads_clips:
            names.append(modality(name).inputs[0])
    return names


def _reason(error: Exception) -> str:
    """One line that says what was wrong."""
    text = " ".join(str(error).split()) or type(error).__name__
    return text if isinstance(error, ValueError) else f"{type(error).__name__}: {text}"


def _check_cpu(device: Any) -> str:
    """The device of a graph; ValueError where another was asked for."""
    if device is not None and device != -1 and torch.device(device).type != "cpu":
        raise ValueError(f"backend='onnx' runs on the CPU, got device={device!r}: leave it out, or use backend='torch'")
    return "cpu"


# -- parameters and registration -------------------------------------------------------------------------------------


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def is_flag(value: Any) -> bool:
    return isinstance(value, bool)


def _is_count(value: Any) -> bool:
    return _is_number(value) and isinstance(value, int) and value > 0


def _is_positive(value: Any) -> bool:
    return _is_number(value) and 0 < value < float("inf")


def _is_range(value: Any) -> bool:
    pair = isinstance(value, list | tuple) and len(value) == 2 and all(map(_is_number, value))
    return value is None or (pair and value[0] < value[1])


# Of each parameter: its check, what it must be, and the steps (0 reading, 1 model, 2 result) that take it.
PARAMETERS: dict[str, tuple[Any, str, tuple[int, ...]]] = {
    "return_explanation": (is_flag, "true or false", (1,)),
    "top_k": (_is_count, "a whole number of at least 1", (2,)),
    "score_range": (_is_range, "two rising numbers or None", (2,)),
    "on_error": (lambda value: value in _ON_ERROR, "'raise' or 'skip'", (0, 1)),
    "local_files": (is_flag, "true or false", (0,)),
    "max_bytes": (_is_count, "a whole number of at least 1", (0,)),
    "timeout": (_is_positive, "a positive number of seconds", (0,)),
    "max_seconds": (_is_positive, "a positive number of seconds", (0,)),
}


class _HeadOfConfig:
    """Stands where transformers asks for an Auto class."""

    from_pretrained = CLCRPreTrainedModel.load_with_head


def register() -> None:
    """Makes `pipeline("multimodal-sentiment")` known to transformers; called when `clcr_hf` is imported."""
    PIPELINE_REGISTRY.register_pipeline(TASK, pipeline_class=CLCRPipeline, pt_model=_HeadOfConfig, type="multimodal")
