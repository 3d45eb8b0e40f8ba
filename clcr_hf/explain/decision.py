"""What decided an answer: weights, token budgets, and the answer with each modality left out; for one clip, or as means
over a data set for the model card. Made of what [`CLCRPipeline`] returns with `return_explanation=True`; the figures
are drawn by `plot.py`, and as HTML by `demo/html.py`, which does without matplotlib."""

import os
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any

import numpy as np

from ..media import MediaError, media_duration
from ..modalities import STANDARD
from ..modalities import modality as named
from ..pipeline_clcr import CLCRPipeline

# What of a `media` file is left for when one of its two is taken away.
_REST_OF_MEDIA = {"vision": "audio", "audio": "video"}
# What stands beside the modalities in the sum that is an answer's logit.
JOINT, BIAS = "joint path", "bias (no input)"


@dataclass
class Decision:
    """
    One answer and what decided it.

    Args:
        result: the pipeline's, with its explanation.
        without: its results without explanation, by the modality left out; empty where there is one modality alone.
        seconds: how long the clip lasts, where that is known.
        score_range: lowest and highest score of a regression of one score, where the model knows them.
    """

    result: dict[str, Any]
    without: dict[str, dict[str, Any]] = field(default_factory=dict)
    seconds: float | None = None
    score_range: tuple[float, float] | None = None

    @property
    def weights(self) -> dict[str, Any]:
        """`level_weights`, `modality_weights` and `private_gates`; of a model with segments, the means over them."""
        return decided_by(self.result)

    @property
    def evidence(self) -> tuple[str, dict[str, float]]:
        """What the answer is the sum of; see [`evidence`]."""
        return evidence(self.result)

    @property
    def changes(self) -> dict[str, float]:
        """How the answer changes without each modality; see [`change`]."""
        return {name: change(self.result, other)[1] for name, other in self.without.items()}

    def to_dict(self) -> dict[str, Any]:
        """Plain numbers and strings: the result, and `without` with the answer and the `change` for each modality."""
        without = {name: {**other, "change": self.changes[name]} for name, other in self.without.items()}
        return {**self.result, "seconds": self.seconds, "without": without}


def explain(pipe: CLCRPipeline, sample: Any) -> Decision:
    """
    Reads `sample` once as it is, and once without each modality that the model found in it.

    Args:
        pipe: a pipeline "multimodal-sentiment".
        sample: one of its inputs.

    Raises:
        ValueError, MediaError: as the pipeline.
    """
    result = pipe(sample, return_explanation=True)
    given = dict(sample) if isinstance(sample, Mapping) else {"media": sample}
    present = [name for name, tokens in result["tokens"].items() if tokens]
    if not result["tokens"]:  # without a joint path no token is exchanged
        present = [name for name in evidence(result)[1] if name not in (JOINT, BIAS)]
    rest = given
    for name in STANDARD.keys() - present:  # such as the audio of a clip that has none
        rest = leave_out(rest, name)
    without = {name: pipe(leave_out(rest, name)) for name in present} if len(present) > 1 else {}
    config = pipe.model.config
    limits = config.score_ranges()[0] if config.num_labels == 1 else None
    return Decision(result, without, _seconds(given, result), limits)


def leave_out(sample: Mapping[str, Any], modality: str) -> dict[str, Any]:
    """
    The input without one modality: of a `media` file, the other track stays.

    Args:
        sample: a dict as [`CLCRPipeline`] takes it.
        modality: text, vision, audio, flow, or a name of your own.
    """
    gone = named(modality).keys
    rest = {name: value for name, value in sample.items() if name not in gone}
    if rest.get("media") is not None and modality in _REST_OF_MEDIA:
        media, other = rest.pop("media"), _REST_OF_MEDIA[modality]
        columns = named("vision" if other == "video" else other).columns
        if all(rest.get(name) is None for name in columns):
            rest[other] = media
    return rest


def change(full: Mapping[str, Any], other: Mapping[str, Any]) -> tuple[str, float]:
    """
    What differs between two results, in words, and by how much: the score; the probability of `full`'s label; of
    several scores the one that moves most; of segments the share whose label is another.
    """
    if "segments" in full:
        pairs = list(zip(full["segments"], other["segments"], strict=False))  # the other may have fewer
        moved = sum(one["label"] != two["label"] for one, two in pairs)
        return "segments with another answer", moved / max(len(pairs), 1)
    if "probabilities" in full:
        label = full["label"]
        return f"change of P({label})", other["probabilities"][label] - full["probabilities"][label]
    if "scores" in full:
        changes = (other["scores"][name] - value for name, value in full["scores"].items())
        return "largest change of a score", max(changes, key=abs)
    return "change of the score", other["score"] - full["score"]


def decided_by(result: Mapping[str, Any]) -> dict[str, Any]:
    """`level_weights` (list), `modality_weights` and `private_gates` (by modality) of a pipeline's result; of one with
    segments, the means over them."""
    parts = result.get("segments", [result])
    means: dict[str, Any] = {"level_weights": np.mean([part["level_weights"] for part in parts], axis=0).tolist()}
    for kind in ("modality_weights", "private_gates"):
        means[kind] = {name: float(np.mean([part[kind][name] for part in parts])) for name in parts[0][kind]}
    return means


def evidence(result: Mapping[str, Any]) -> tuple[str, dict[str, float]]:
    """
    What an answer is the sum of: parts of each modality by itself, of all together (`JOINT`), and the bias (`BIAS`).

    Args:
        result: of the pipeline, with its explanation; or a segment of one.

    Returns:
        What the sum is, in words: of a label its logit (see [`evidence_for`]), or the score before it is kept in its
        range (of several, that which the modalities move most); of segments means over them. And the parts, without
        those that are exactly 0, as of a missing modality. Both are empty for a model without such evidence.
    """
    if "segments" in result:
        found = [evidence(part)[1] for part in result["segments"]]
        names = dict.fromkeys(name for parts in found for name in parts)
        means = {name: float(np.mean([parts.get(name, 0.0) for parts in found])) for name in names}
        return ("mean logit of the segments' labels" if means else "", means)
    own = result.get("modality_logits")
    if own is None:
        return "", {}
    chosen, what = result.get("label", ""), "score"
    if "scores" in result:
        chosen = max(result["scores"], key=lambda name: sum(abs(values[name]) for values in own.values()))
        what = f"score {chosen}"
    elif isinstance(result["logit_bias"], Mapping):
        what = f"logit of {chosen}" if "labels" in result else f"logit of {chosen} above the labels' mean"
    return what, {name: value for name, value in evidence_for(result, chosen).items() if value}


def evidence_for(answer: Mapping[str, Any], name: str) -> dict[str, float]:
    """Parts of an answer (see [`evidence`]) for its label or score `name`. Of one label of several, less their means
    over the labels, which no probability depends on."""
    parts = {**answer["modality_logits"], JOINT: answer["joint_logits"], BIAS: answer["logit_bias"]}
    centred = "scores" not in answer and "labels" not in answer
    return {
        part: value[name] - centred * float(np.mean(list(value.values()))) if isinstance(value, Mapping) else value
        for part, value in parts.items()
    }


def token_spans(tokens: Sequence[Mapping[str, Any]], seconds: float | None) -> tuple[np.ndarray, np.ndarray]:
    """
    Stretches that tokens stand for, side by side; between two moments the border is half-way.

    Args:
        tokens: as `CLCRPipeline` gives them. Those of one moment (patches of one frame) become one stretch, with
            their mean.
        seconds: where the last stretch ends; default: as long after the last moment as before it.

    Returns:
        Borders `(N + 1,)` from 0, in seconds, or in tokens where some have no `time`; and budgets `(N, L)`.
    """
    if any("time" not in token for token in tokens):
        return np.arange(len(tokens) + 1.0), np.array([token["budget"] for token in tokens])
    moments: dict[float, list[Any]] = {}
    for token in tokens:
        moments.setdefault(min(token["time"], seconds or token["time"]), []).append(token["budget"])
    times = sorted(moments)
    middles = [(one + two) / 2 for one, two in pairwise(times)]
    end = seconds or times[-1] + (times[-1] - middles[-1] if middles else 0.5)
    return np.array([0.0, *middles, end]), np.array([np.mean(moments[time], axis=0) for time in times])


def _seconds(sample: Mapping[str, Any], result: Mapping[str, Any]) -> float | None:
    """Length of the longest file in the sample; else a little more than the last moment that is named."""
    found = [part["end"] for part in result.get("segments", []) if "end" in part]
    for source in (sample.get(name) for name in ("media", "video", "audio")):
        if isinstance(source, str | os.PathLike) and os.path.isfile(source):
            with suppress(MediaError):  # a file without a stated length
                found.append(media_duration(source))
    if found:
        return max(found)
    times = [token["time"] for tokens in result["tokens"].values() for token in tokens if "time" in token]
    return max(times) + (times[-1] - times[-2] if len(times) > 1 else 1.0) / 2 if times else None


def word(token: str) -> str:
    """A token as people read it, without the marks of tokenizers."""
    return token.removeprefix("##").lstrip("Ġ▁")
