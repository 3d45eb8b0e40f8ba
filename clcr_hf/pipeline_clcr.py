"""`CLCRPipeline`, task "multimodal-sentiment": a clip with speech to a score or label, and what decided it."""

import os
from typing import Any

import numpy as np
import torch
from transformers import AutoModelForSequenceClassification, Pipeline
from transformers.pipelines import PIPELINE_REGISTRY

from .collator import CLCRDataCollator
from .media import VideoClip, load_audio, load_media, load_video

TASK = "multimodal-sentiment"
_SENTIMENT_RANGE = 3.0
_RAW_KEYS = ("media", "video", "audio", "text", "sampling_rate")


class CLCRPipeline(Pipeline):
    r"""
    Reads a clip with [`CLCRForSequenceClassification`] and its processor.

    ```python
    pipe = pipeline("multimodal-sentiment", model="path/to/model")
    pipe({"media": "clip.mp4", "text": "what a lovely day"}, return_explanation=True)
    ```

    An input is one of, or a list of:

    - a path to a media file, or its bytes: its frames and its sound;
    - a dict with any of `media` (path or bytes, frames and sound), `video` (path, bytes, or uint8 frames
      `(F, H, W, 3)`), `audio` (path, bytes, or float waveform `(samples,)` at the dict's `sampling_rate`, by default
      the feature extractor's), `text` (str), and ready features `<modality>_features (T, D)`. What is left out counts
      as a missing modality.

    A result is a dict:

    - regression: `score` (float, kept in [-3, 3]) and `label`: `"negative"`, `"neutral"` (the score rounds to 0) or
      `"positive"`;
    - one label: `label`, `score` (its probability) and `probabilities` (all labels);
    - several labels: `label` and `score` of the likeliest, `labels` (those above 0.5) and `probabilities`.

    With `return_explanation=True` it also holds `level_weights` (one float a level, shallow first),
    `modality_weights` and `private_gates` (by modality), and `tokens`: by modality a list of dicts with `budget` (one
    float a level, how much of the token was exchanged), and `token` (text), `time` in seconds (frames, sound) or
    `index` (features).

    Raises:
        ValueError: an input of another kind or with unknown keys, or one with nothing to read in it.
        MediaError: a file that cannot be read.
    """

    _load_processor = True
    _load_tokenizer = False
    _load_feature_extractor = False
    _load_image_processor = False
    _load_video_processor = False

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        if self.processor is None:
            raise ValueError("CLCRPipeline needs a processor: pass processor=CLCRProcessor(...) beside the model")
        self.model.eval()  # one that was just built or trained still has its dropout on
        self._collator = CLCRDataCollator()

    def save_pretrained(self, save_directory: str | os.PathLike, **kwargs: Any) -> None:
        """Saves model and processor. (transformers' own would leave the processor out and ask for remote code.)"""
        self.model.save_pretrained(save_directory, **kwargs)
        self.processor.save_pretrained(save_directory, **kwargs)

    def _sanitize_parameters(
        self, return_explanation: bool | None = None, **unknown: Any
    ) -> tuple[dict[str, Any], dict[str, Any], dict[str, Any]]:
        if unknown:
            raise ValueError(f"CLCRPipeline has no parameter {sorted(unknown)}; it takes return_explanation")
        forward = {} if return_explanation is None else {"return_explanation": return_explanation}
        return {}, forward, {}

    def preprocess(self, input_: Any) -> dict[str, Any]:
        """Decodes and processes one input; no batch axis in the result's tensors."""
        sample = self._decode(_as_sample(input_))
        frame_times, duration = sample.pop("frame_times", None), sample.pop("duration", None)
        batch = self.processor(**sample, return_tensors="pt")
        features = {key: value[0] for key, value in batch.items()}
        # A nested dict, so that transformers' own padding, which knows other keys, leaves it alone.
        return {"sample": {"features": features, "frame_times": frame_times, "duration": duration}}

    def _decode(self, sample: dict[str, Any]) -> dict[str, Any]:
        """Arguments of the processor, plus `frame_times (F,)` and `duration`, both in seconds, where known."""
        decoded: dict[str, Any] = {
            key: [np.asarray(value)] for key, value in sample.items() if key.endswith("_features")
        }
        if sample.get("text") is not None:
            decoded["text"] = [sample["text"]]
        video, audio = sample.get("video"), sample.get("audio")
        extractor = getattr(self.processor, "feature_extractor", None)
        own_rate: int = getattr(extractor, "sampling_rate", 16_000)
        rate = int(sample.get("sampling_rate", own_rate) or own_rate)
        sees = getattr(self.processor, "image_processor", None) or getattr(self.processor, "video_processor", None)
        if sample.get("media") is not None:
            frames = self._frames() if sees else {"num_frames": 1}
            clip = load_media(sample["media"], sampling_rate=rate, **frames)
            video = clip.video if video is None else video
            audio = clip.audio if audio is None else audio
        if video is not None and sees:
            video = load_video(video, **self._frames()) if _is_file(video) else video
            decoded |= _distinct_frames(video) if isinstance(video, VideoClip) else {"videos": [video]}
        if audio is not None and extractor is not None:
            audio = load_audio(audio, sampling_rate=rate) if _is_file(audio) else np.asarray(audio, dtype=np.float32)
            longest = self.processor.max_audio_seconds or float("inf")
            decoded |= {"audio": [audio], "sampling_rate": rate, "duration": min(len(audio) / rate, longest)}
        return decoded

    def _frames(self) -> dict[str, Any]:
        """How the processor samples frames of a file."""
        fps = self.processor.video_fps
        return {"num_frames": self.processor.video_num_frames} if fps is None else {"fps": fps}

    def _forward(self, model_inputs: dict[str, Any], return_explanation: bool = False) -> dict[str, Any]:
        """Logits `(B, C)` and, for each sample, its explanation or None."""
        samples = model_inputs["sample"]
        single = isinstance(samples, dict)
        samples = [samples] if single else samples
        inputs = self._collator([sample["features"] for sample in samples])
        inputs = {name: value.to(self.device) for name, value in inputs.items()}
        outputs = self.model(**inputs)
        explanations: list[dict[str, Any] | None] = [None] * len(samples)
        if return_explanation:
            explanations = [self._explain(outputs, inputs, row, sample) for row, sample in enumerate(samples)]
        return {"logits": outputs.logits, "explanation": explanations[0] if single else explanations}

    def postprocess(self, model_outputs: dict[str, Any]) -> dict[str, Any]:
        """Plain Python numbers and strings for one sample."""
        logits = model_outputs["logits"][0].float()
        return {**self._read_logits(logits), **(model_outputs["explanation"] or {})}

    def _read_logits(self, logits: torch.Tensor) -> dict[str, Any]:
        config = self.model.config
        problem = config.problem_type or ("regression" if config.num_labels == 1 else "single_label_classification")
        if problem == "regression" and logits.numel() == 1:
            score = min(max(logits.item(), -_SENTIMENT_RANGE), _SENTIMENT_RANGE)
            return {"label": ("neutral", "positive", "negative")[int(np.sign(round(score)))], "score": score}
        names = [config.id2label[index] for index in range(logits.numel())]
        if problem == "regression":
            return {"scores": dict(zip(names, logits.tolist(), strict=True))}
        several = problem == "multi_label_classification"
        values = (logits.sigmoid() if several else logits.softmax(-1)).tolist()
        probabilities = dict(zip(names, values, strict=True))
        best = max(probabilities, key=probabilities.__getitem__)
        result = {"label": best, "score": probabilities[best], "probabilities": probabilities}
        return {**result, "labels": [name for name in names if probabilities[name] > 0.5]} if several else result

    def _explain(self, outputs: Any, inputs: dict[str, torch.Tensor], row: int, sample: dict[str, Any]) -> dict:
        """What decided sample `row` of a batch; see the class."""
        names = self.model.config.modalities
        tokens = {}
        for name in names:
            mask = inputs.get(_mask_key(name, inputs))
            if mask is None or name not in outputs.token_budgets[0]:
                continue
            budgets = torch.stack([level[name][row] for level in outputs.token_budgets]).float()  # (L, T)
            # Strides and grids keep proportions, so the share of real input steps is the share of real tokens.
            real = int(np.ceil(budgets.shape[1] * mask[row].float().mean().item()))
            described = self._describe_tokens(name, real, inputs, row, sample)
            columns = budgets[:, :real].T.tolist()
            tokens[name] = [{**what, "budget": column} for what, column in zip(described, columns, strict=True)]
        return {
            "level_weights": outputs.level_weights[row].float().tolist(),
            "modality_weights": dict(zip(names, outputs.modality_weights[row].float().tolist(), strict=True)),
            "private_gates": dict(zip(names, outputs.private_gates[row].float().tolist(), strict=True)),
            "tokens": tokens,
        }

    def _describe_tokens(
        self, name: str, count: int, inputs: dict[str, torch.Tensor], row: int, sample: dict[str, Any]
    ) -> list[dict[str, Any]]:
        """What each of the first `count` tokens of modality `name` is."""
        if name == "text" and "input_ids" in inputs:
            ids = inputs["input_ids"][row, :count].tolist()
            return [{"token": token} for token in self.processor.tokenizer.convert_ids_to_tokens(ids)]
        times, duration = sample["frame_times"], sample["duration"]
        if name == "vision" and times is not None and count:
            return [{"time": float(times[index * len(times) // count])} for index in range(count)]
        if name == "audio" and duration is not None:
            return [{"time": (index + 0.5) * duration / count} for index in range(count)]
        return [{"index": index} for index in range(count)]


def _as_sample(value: Any) -> dict[str, Any]:
    """Any accepted input as a dict; see [`CLCRPipeline`]."""
    if _is_file(value):
        return {"media": value}
    if not isinstance(value, dict):
        raise ValueError(f"an input must be a path, bytes or a dict, got {type(value).__name__}")
    unknown = [key for key in value if key not in _RAW_KEYS and not key.endswith("_features")]
    if unknown:
        raise ValueError(f"unknown keys {unknown} in the input; known: {', '.join(_RAW_KEYS)}, <modality>_features")
    if not any(value.get(key) is not None for key in value if key != "sampling_rate"):
        raise ValueError("the input holds nothing to read: give media, video, audio, text or features")
    return value


def _is_file(value: Any) -> bool:
    return isinstance(value, (str, os.PathLike, bytes))


def _distinct_frames(clip: VideoClip) -> dict[str, Any]:
    """Frames without the repeats of a clip with fewer frames than were asked for, as the processor reads files."""
    times, index = np.unique(clip.timestamps, return_index=True)
    return {"videos": [clip.frames[index]], "frame_times": times}


def _mask_key(name: str, inputs: dict[str, torch.Tensor]) -> str:
    return "attention_mask" if name == "text" and "input_ids" in inputs else f"{name}_attention_mask"


def register() -> None:
    """Makes `pipeline("multimodal-sentiment")` known to transformers; called when `clcr_hf` is imported."""
    PIPELINE_REGISTRY.register_pipeline(
        TASK, pipeline_class=CLCRPipeline, pt_model=AutoModelForSequenceClassification, type="multimodal"
    )


__all__ = ["TASK", "CLCRPipeline", "register"]
