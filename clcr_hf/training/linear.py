"""A linear model on mean features takes its share of a trained model's answer (see `linear_evidence.py`)."""

from typing import TYPE_CHECKING, Any

import numpy as np
from accelerate.utils import broadcast_object_list
from scipy.optimize import minimize_scalar

from ..configuration_clcr import CLCRConfig
from ..linear_evidence import ready_widths
from .baselines import Baselines
from .calibration import negative_log_likelihood, predict_rows

if TYPE_CHECKING:
    from .trainer import CLCRTrainer

_HALF = 0.5  # without validation: the mean of two models
_PULL = 5.0  # towards it, as weak as that of one more row
# Shares that are tried; close to the ends too, for the logits of a deep model may be much larger.
_SHARES = np.concatenate(([0.0], 1 / (1 + np.exp(-np.linspace(-5, 5, 41))), [1.0]))


def add_linear_share(trainer: "CLCRTrainer", baselines: Baselines | None, rows: Any) -> None:
    """
    Gives the trained model the linear model of `baselines`, and of the answer the share at which validation is answered
    best (see [`find_share`]); without validation rows one half. All processes must call it.

    Args:
        baselines: with a linear model; None in all processes but the first, which finds the share.
        rows: validation rows as the trainer reads them, with `rows.rows` as `baselines` does; None without.
    """
    model = trainer.accelerator.unwrap_model(trainer.model)
    predicted = predict_rows(trainer, rows) if rows is not None and len(rows) else None
    shared: list[Any] = [None]
    if baselines is not None:
        share, said = _HALF, "there are no validation rows to choose by"
        if predicted is not None:
            share, said = find_share(
                model.config, predicted[0], baselines.answers(rows.rows)[0]["linear"], predicted[1]
            )
        shared = [{"share": share, **laid_out(model.config, baselines)}]
        print(f"linear:  {share:.0%} of the answer is {baselines.linear} on mean features; {said}", flush=True)
    model.set_linear_evidence(**broadcast_object_list(shared)[0])


def find_share(config: CLCRConfig, logits: np.ndarray, linear: np.ndarray, labels: np.ndarray) -> tuple[float, str]:
    """
    The share of a linear model in the answer at which rows are answered best, and what it is worth, in words.

    Best is the least mean absolute error of scores, in units of their spread, or negative log-likelihood of classes at
    the temperature that suits each share. Few rows say little: the cost is multiplied by `1 + 5 (share - 1/2)^2 / N`.

    Args:
        logits, linear: of the model and of the linear model, `(N, C)`. labels: `(N,)`, or `(N, C)`.
    """
    regression = config.effective_problem_type == "regression"
    spread = np.array(config.label_statistics()[1])

    def cost(share: float) -> float:
        mixed = (1 - share) * logits + share * linear
        if regression:
            return float(np.nanmean(np.abs(mixed - labels.reshape(mixed.shape)) / spread))
        return minimize_scalar(
            lambda log: negative_log_likelihood(mixed, labels, float(np.exp(log))), bounds=(-3, 3), method="bounded"
        ).fun

    costs = [cost(share) for share in _SHARES]
    best = int(np.argmin(np.array(costs) * (1 + _PULL * (_SHARES - _HALF) ** 2 / len(labels))))
    what = "absolute error in spreads" if regression else "NLL"
    return float(_SHARES[best]), f"{what} on validation {costs[0]:.4f} without it, {costs[best]:.4f} with it"


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


__all__ = ["add_linear_share", "find_share", "laid_out"]
