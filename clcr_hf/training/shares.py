"""What has which share of a trained model's answer, found on validation: the joint path, the modalities' own evidence,
and a linear model on statistics of the features."""

import itertools
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
from accelerate.utils import broadcast_object_list
from transformers import PreTrainedModel

from ..configuration_clcr import CLCRConfig
from ..linear_evidence import ready_widths
from .baselines import Baselines
from .calibration import best_temperature, counted, negative_log_likelihood, predict_rows

if TYPE_CHECKING:
    from .trainer import CLCRTrainer

JOINT, OWN, LINEAR = "joint path", "own evidence", "linear model"
_STEPS = 20  # shares are tried in steps of 1/20
_PULL = 2.5  # towards equal shares, about as weak as that of one more row
_ROWS = 2_000  # most rows that are looked at


def set_shares(trainer: "CLCRTrainer", baselines: Baselines | None, rows: Any) -> dict[str, Any]:
    """
    Sets in the trainer's model what [`find_shares`] finds on validation. Without validation all have equal shares. All
    processes must call it: they predict together, and what the first one found holds for all.

    Args:
        baselines: the linear model, in the first process; it takes part where the model has room for it.
        rows: validation rows as the trainer reads them, with `rows.rows` as `baselines` does; None without.

    Returns:
        What was found, as the record of a run keeps it; empty where one part is the whole answer.
    """
    model = trainer.accelerator.unwrap_model(trainer.model)
    config = model.config
    names = [JOINT] * config.use_joint_path + [OWN] * bool(config.unimodal_evidence)
    names += [LINEAR] * (config.linear_share is not None)
    if len(names) < 2:
        return {}
    parts, labels = _parts(trainer, rows) if rows is not None and len(rows) else ({}, None)
    shared: list[Any] = [None]
    if trainer.is_world_process_zero():
        laid = None
        if baselines is not None and baselines.map is not None and LINEAR in names:
            laid = laid_out(config, baselines)
            parts |= {LINEAR: baselines.answers(rows.rows)[0]["linear"]} if parts else {}
        elif LINEAR in names:
            names.remove(LINEAR)
        equal: dict[str, Any] = {"shares": dict.fromkeys(names, 1 / len(names))}
        found = equal if labels is None else find_shares(config, parts, labels)
        found["words"] = in_words(found, baselines.linear if baselines is not None else None)
        shared = [(found, laid)]
    found, laid = broadcast_object_list(shared)[0]
    share = {JOINT: 0.0, OWN: 0.0, LINEAR: 0.0, **found["shares"]}
    config.own_share = share[OWN] / (share[JOINT] + share[OWN]) if share[JOINT] + share[OWN] else 0.5
    if laid is not None:
        model.set_linear_evidence(share[LINEAR], **laid)
    return found


def _parts(trainer: "CLCRTrainer", rows: Any) -> tuple[dict[str, np.ndarray], np.ndarray]:
    """[`parts_of`] all rows, and their labels."""
    model = trainer.accelerator.unwrap_model(trainer.model)
    model.config.own_share = 0.5
    (logits, joint), labels = predict_rows(trainer, rows, "joint_logits")
    whole, true = counted(logits, labels)
    return parts_of(model, whole, counted(joint, labels)[0]), true


def parts_of(model: PreTrainedModel, logits: np.ndarray, joint: np.ndarray) -> dict[str, np.ndarray]:
    """
    What the joint path and own evidence answer, each by itself.

    Args:
        model: with `own_share` 1/2 where it has both, and no share of a linear model.
        logits, joint: its `logits` and `joint_logits`, `(N, C)`.
    """
    if not model.config.unimodal_evidence:
        return {JOINT: logits}
    if not model.config.use_joint_path:
        return {OWN: logits}
    bias = model.logit_bias().detach().float().cpu().numpy()
    return {JOINT: bias + 2 * joint, OWN: bias + 2 * (logits - bias - joint)}


def find_shares(config: CLCRConfig, parts: Mapping[str, np.ndarray], labels: np.ndarray) -> dict[str, Any]:
    """
    The shares of several answers at which rows are answered best.

    Best is the least mean absolute error of scores, in units of their spread, or negative log-likelihood of classes at
    the temperature that suits it. Few rows say little: the cost is multiplied by `1 + 2.5 |w - 1/K|^2 / N`, where `w`
    are the shares once each answer is as sure of itself as it should be.

    Args:
        parts: logits `(N, C)`. labels: `(N,)`, or `(N, C)`.

    Returns:
        `shares` that add up to 1, what each part costs `alone` and all `together`, and the `measure` of these.
    """
    some = np.linspace(0, len(labels) - 1, min(len(labels), _ROWS)).astype(int)
    labels, values = labels[some], [part[some].astype(np.float64) for part in parts.values()]
    regression = config.effective_problem_type == "regression"
    spread = np.array(config.label_statistics()[1])

    def cost(mixed: np.ndarray) -> float:
        if regression:
            return float(np.nanmean(np.abs(mixed - labels.reshape(mixed.shape)) / spread))
        return negative_log_likelihood(mixed, labels, best_temperature(mixed, labels))

    scales = np.array([1.0 if regression else 1 / best_temperature(value, labels) for value in values])
    values = [value * scale for value, scale in zip(values, scales, strict=True)]
    simplex = [each for each in itertools.product(range(_STEPS + 1), repeat=len(values)) if sum(each) == _STEPS]
    weights = np.array(simplex) / _STEPS
    costs = np.array([cost(sum(map(np.multiply, each, values))) for each in weights])
    pulled = costs * (1 + _PULL * np.square(weights - 1 / len(values)).sum(axis=1) / len(labels))
    best = int(pulled.argmin())
    shares = weights[best] * scales / (weights[best] * scales).sum()
    alone = [float(costs[simplex.index(tuple(each))]) for each in (_STEPS * np.eye(len(values), dtype=int)).tolist()]
    return {
        "shares": dict(zip(parts, map(float, shares), strict=True)),
        "alone": dict(zip(parts, alone, strict=True)),
        "together": float(costs[best]),
        "measure": "mean absolute error in spreads" if regression else "negative log-likelihood",
    }


def in_words(found: Mapping[str, Any], linear: str | None) -> str:
    """What [`set_shares`] found, for people. `linear`: what the linear model is."""
    names = {LINEAR: f"{linear} of the features"}
    shares = ", ".join(f"{share:.0%} {names.get(name, name)}" for name, share in found["shares"].items())
    if "alone" not in found:
        return f"{shares}, for there are no validation rows to choose by"
    alone = ", ".join(f"{value:.4f}" for value in found["alone"].values())
    return f"{shares}; {found['measure']} on validation {alone} alone, {found['together']:.4f} together"


def laid_out(config: CLCRConfig, baselines: Baselines) -> dict[str, np.ndarray]:
    """What [`~modeling_clcr._CLCRWithHead.set_linear_evidence`] takes: the linear model modality by modality; all 0 for
    one that it does not read."""
    linear = baselines.map
    if linear is None:
        raise ValueError("no modality is ready-made features, which a linear model could read")
    labels, widths = len(linear.bias), ready_widths(config)
    weight = {name: np.zeros((width, labels)) for name, width in widths.items()}
    center = {name: np.zeros(width) for name, width in widths.items()}
    offset, bias, start = np.zeros((len(config.modalities), labels)), linear.bias.copy(), 0
    for name, width in baselines.widths.items():
        own = slice(start, start + width)
        weight[name], center[name] = linear.weight[own], linear.center[own]
        there = start + width  # the column that is 1 where the modality is
        offset[config.modalities.index(name)] = linear.weight[there]
        bias -= linear.center[there] * linear.weight[there]
        start = there + 1
    joined = {"weight": np.concatenate(list(weight.values())), "center": np.concatenate(list(center.values()))}
    return {**joined, "offset": offset, "bias": bias}


__all__ = ["JOINT", "LINEAR", "OWN", "find_shares", "laid_out", "parts_of", "set_shares"]
