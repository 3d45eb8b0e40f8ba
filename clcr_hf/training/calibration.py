"""What the answers of a trained model are worth, found on validation when the weights stand and kept in the model's
configuration: the temperature of probabilities, the thresholds of several labels, the intervals of scores."""

import copy
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from accelerate.utils import broadcast_object_list
from scipy.optimize import minimize_scalar
from sklearn.metrics import f1_score
from torch.nn import functional as F
from transformers.trainer_utils import PredictionOutput

from ..configuration_clcr import CALIBRATED, CLCRConfig
from ..metrics import expected_calibration_error
from ..objective import labels_that_hold, probabilities
from .log import listed

if TYPE_CHECKING:
    from .trainer import CLCRTrainer

_LEAST_ROWS = 20  # that a temperature is found on
_LEAST_OF_A_KIND = 5  # rows with a label, and rows without, that its threshold is found on
_STEEPEST = 20.0  # temperatures from 1/20 to 20; what wants to go further has no temperature


@dataclass
class Calibration:
    """
    What was found.

    Args:
        fields: of `CLCRConfig`.
        said: for people, a line each.
        metrics: `ece` and `nll` (nats a decision) of the rows that it was found on, `_before` and `_after`.
    """

    fields: dict[str, Any] = field(default_factory=dict)
    said: list[str] = field(default_factory=list)
    metrics: dict[str, float] = field(default_factory=dict)


def calibrate(trainer: "CLCRTrainer", rows: Any) -> dict[str, float]:
    """
    Finds what [`find_calibration`] finds on validation rows, sets it in the configuration of the trainer's model and
    says so. All processes must call it: they predict together, and what the first one found holds for all.

    Args:
        rows: a data set with labels; None where there is no validation.

    Returns:
        Its metrics, named `calibration_...`.
    """
    config = trainer.accelerator.unwrap_model(trainer.model).config
    forget_calibration(config)
    found = Calibration(said=["none, for there are no validation rows"])
    if rows is not None and len(rows):
        logits, labels = predict_rows(trainer, rows)
        shared: list[Any] = [None]
        if trainer.is_world_process_zero():
            shared = [find_calibration(config, logits, labels)]
        found = broadcast_object_list(shared)[0]
    for name, value in found.fields.items():
        setattr(config, name, value)
    if trainer.is_world_process_zero():
        print("\n".join(f"calibration: {line}" for line in found.said), flush=True)
    return {f"calibration_{name}": value for name, value in found.metrics.items()}


def predict_rows(trainer: "CLCRTrainer", rows: Any, *more: str) -> tuple[Any, Any]:
    """Logits and labels of all rows, as of [`predict_all`]."""
    predicted = predict_all(trainer, rows, *more)
    return predicted.predictions, predicted.label_ids


def predict_all(trainer: "CLCRTrainer", rows: Any, *more: str, prefix: str = "test") -> PredictionOutput:
    """Logits and labels of all rows, in their order, in every process, and metrics named `prefix_...`. `more`: other
    fields of the model's output, which then come in a tuple with the logits."""
    by_batch, trainer.args.batch_eval_metrics = trainer.args.batch_eval_metrics, False  # it keeps no predictions
    config = trainer.accelerator.unwrap_model(trainer.model).config
    try:
        ignored = [name for name in config.keys_to_ignore_at_inference if name not in more]
        return trainer.predict(rows, ignored, metric_key_prefix=prefix)
    finally:
        trainer.args.batch_eval_metrics = by_batch


def forget_calibration(config: CLCRConfig) -> None:
    """Takes back what was found for other weights."""
    for name in CALIBRATED:
        setattr(config, name, None)


def find_calibration(config: CLCRConfig, logits: Any, labels: Any) -> Calibration:
    """
    Classes, one a row or a segment: `logit_temperature`. Several labels a row: the same, and `label_thresholds` on the
    probabilities that it gives. Regression: `score_interval` for `config.interval_coverage`.

    Args:
        config: of the model; it is left as it is.
        logits: as the model gives them, `(N, C)`, or `(N, G, C)` of segments.
        labels: `(N,)` class numbers, `(N, G)` of segments (-100 does not count), `(N, C)` of 0 and 1, or scores `(N,)`
            or `(N, C)`.
    """
    problem, segments = config.effective_problem_type, np.ndim(logits[0]) > 1
    if segments and problem != "single_label_classification":
        return Calibration(said=[f"none: {problem.replace('_', ' ')} of segments has none"])
    values, true = counted(logits, labels)
    if problem == "regression":
        return _of_scores(config, values.astype(np.float64), true)
    if len(values) < _LEAST_ROWS:
        return Calibration(said=[f"none: {len(values)} validation rows, at least {_LEAST_ROWS} are needed"])
    found, several = _of_probabilities(config, values, true), problem == "multi_label_classification"
    if several:
        stated = probabilities(_with(config, found.fields), torch.from_numpy(values))
        thresholds, unsure = find_thresholds(stated.numpy(), true)
        found.fields["label_thresholds"] = thresholds
        after = _with(config, found.fields)
        scores = [
            f1_score(true > 0.5, labels_that_hold(each, stated).numpy(), average="macro", zero_division=0)
            for each in (_with(config, {"label_thresholds": None}), after)
        ]
        names = [config.id2label[index] for index in range(config.num_labels)]
        shown = [f"{name} {limit:.2f}" for name, limit in zip(names, thresholds, strict=True)]
        found.said.append(f"thresholds {listed(shown)}; macro F1 {scores[0]:.3f} to {scores[1]:.3f}")
        if unsure:
            few = f"fewer than {_LEAST_OF_A_KIND} validation rows with or without them"
            found.said.append(f"0.5 stays for {listed([names[index] for index in unsure])}: {few}")
    return found


def counted(logits: Any, labels: Any) -> tuple[np.ndarray, np.ndarray]:
    """
    The rows that are measured.

    Args:
        logits, labels: `(N, C)` and their labels; or clips of segments `(G, C)` and `(G,)`, of any length, the logits
            at least as long, where a label of -100 does not count.

    Returns:
        `(R, C)` float32 and `(R, ...)`.
    """
    if np.ndim(logits[0]) < 2:
        return np.asarray(logits, np.float32), np.asarray(labels)
    pairs = [(np.asarray(given)[: len(true)], np.asarray(true)) for given, true in zip(logits, labels, strict=True)]
    kept = [(given[true != -100], true[true != -100]) for given, true in pairs]
    return np.concatenate([one for one, _ in kept]).astype(np.float32), np.concatenate([two for _, two in kept])


def _of_probabilities(config: CLCRConfig, logits: np.ndarray, labels: np.ndarray) -> Calibration:
    temperature = find_temperature(logits, labels)
    if temperature is None:
        why = "validation is answered too well, or too badly, to tell"
        return Calibration(said=[f"no temperature: {why} how sure the model should be"])
    fields = {"logit_temperature": temperature}
    metrics = {}
    for when, value in (("before", 1.0), ("after", temperature)):
        stated = probabilities(_with(config, {"logit_temperature": value}), torch.from_numpy(logits))
        metrics[f"ece_{when}"] = expected_calibration_error(stated.numpy(), labels)
        metrics[f"nll_{when}"] = negative_log_likelihood(logits, labels, value)
    shown = {name: f"{metrics[f'{name}_before']:.4f} to {metrics[f'{name}_after']:.4f}" for name in ("ece", "nll")}
    said = f"temperature {temperature:.3f}; on validation expected calibration error {shown['ece']}, NLL {shown['nll']}"
    return Calibration(fields, [said], metrics)


def find_temperature(logits: np.ndarray, labels: np.ndarray) -> float | None:
    """
    The temperature of least negative log-likelihood (Guo et al. 2017, section 4.2), one for all classes or labels.

    Args:
        logits: `(N, C)`. labels: `(N,)` class numbers, or `(N, C)` of 0 and 1.

    Returns:
        None where it would lie outside 1/20 to 20: every row is right, say, and the colder the better.
    """
    limit = float(np.log(_STEEPEST))
    found = best_temperature(logits, labels, limit)
    return found if abs(np.log(found)) < 0.99 * limit else None


def best_temperature(logits: np.ndarray, labels: np.ndarray, limit: float = 4.0) -> float:
    """The temperature, its logarithm from `-limit` to `limit`, of least negative log-likelihood."""
    best = minimize_scalar(
        lambda log: negative_log_likelihood(logits, labels, float(np.exp(log))),
        bounds=(-limit, limit),
        method="bounded",
    )
    return float(np.exp(best.x))


def negative_log_likelihood(logits: np.ndarray, labels: np.ndarray, temperature: float) -> float:
    """Mean negative log-likelihood in nats."""
    scaled = torch.from_numpy(logits).double() / temperature
    true = torch.from_numpy(labels)
    if true.dim() == 1:
        return F.cross_entropy(scaled, true.long()).item()
    return F.binary_cross_entropy_with_logits(scaled, true.double()).item()


def find_thresholds(stated: np.ndarray, labels: np.ndarray) -> tuple[list[float], list[int]]:
    """
    Of each label the threshold of highest F1; of several as high the one nearest to 0.5. A label that fewer than five
    rows have, or lack, keeps 0.5.

    Args:
        stated: probabilities `(N, C)` float32; a label holds above its threshold. labels: `(N, C)` of 0 and 1.

    Returns:
        The thresholds, and the numbers of the labels that kept 0.5 for want of rows.
    """
    found, unsure = [], []
    for index, (column, true) in enumerate(zip(stated.T.astype(np.float64), labels.T > 0.5, strict=True)):
        if min(true.sum(), (~true).sum()) < _LEAST_OF_A_KIND:
            unsure.append(index)
            found.append(0.5)
            continue
        edges = np.unique(np.append(column, 0.0))
        limits = np.append(0.5, (edges[1:] + edges[:-1]) / 2)
        # How many rows lie above each limit, and how many of them have the label.
        above, hits = (len(part) - np.searchsorted(np.sort(part), limits, "right") for part in (column, column[true]))
        scores = 2 * hits / (above + true.sum())
        best = limits[scores == scores.max()]
        found.append(float(best[np.abs(best - 0.5).argmin()]))
    return found, unsure


def _of_scores(config: CLCRConfig, scores: np.ndarray, labels: np.ndarray) -> Calibration:
    """Intervals, each as wide on either side of the answer, which is kept in its range."""
    true = labels.reshape(scores.shape).astype(np.float64)
    ranges = [(-np.inf, np.inf) if pair is None else pair for pair in config.score_ranges()]
    residuals = np.abs(true - np.clip(scores, *np.transpose(ranges)))
    columns = [column[np.isfinite(column)] for column in residuals.T]
    widths = [interval_width(column, config.interval_coverage) for column in columns]
    share = f"{100 * config.interval_coverage:g} %"
    if None in widths:
        few = min(map(len, columns))
        return Calibration(said=[f"no intervals: {few} validation rows are too few for intervals of {share}"])
    shown = [f"± {width:.4g}" for width in widths]
    if len(widths) > 1:
        shown = [f"{config.id2label[index]} {text}" for index, text in enumerate(shown)]
    return Calibration({"score_interval": widths}, [f"intervals that hold {share} of true scores: {listed(shown)}"])


def interval_width(residuals: np.ndarray, coverage: float) -> float | None:
    """
    Half the width of split conformal intervals (Lei et al. 2018, algorithm 2): of `n` absolute residuals `(n,)` the
    `ceil((n + 1) coverage)`-th smallest; None where there are not so many.
    """
    rank = int(np.ceil((len(residuals) + 1) * coverage - 1e-9))  # 0.9 * 10 is 9, whatever a float makes of it
    return float(np.sort(residuals)[rank - 1]) if rank <= len(residuals) else None


def _with(config: CLCRConfig, fields: dict[str, Any]) -> CLCRConfig:
    """The configuration with other calibration; the given one stays."""
    changed = copy.copy(config)
    for name, value in fields.items():
        setattr(changed, name, value)
    return changed


__all__ = [
    "Calibration",
    "best_temperature",
    "calibrate",
    "counted",
    "find_calibration",
    "find_temperature",
    "find_thresholds",
    "forget_calibration",
    "interval_width",
    "negative_log_likelihood",
    "predict_all",
    "predict_rows",
]
