"""Metrics of multimodal sentiment, classification and segment labelling (paper notes, section 7).

Plain functions of NumPy arrays, and the same as `evaluate` modules that load from this package without a network:
`load_metric("multimodal_sentiment")`, `"multimodal_classification"`, `"segment_accuracy"`.
"""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import ArrayLike
from pandas import DataFrame
from scipy.stats import pearsonr, spearmanr
from sklearn.metrics import accuracy_score, average_precision_score, f1_score, mean_absolute_error, r2_score

if TYPE_CHECKING:
    import evaluate

__all__ = [
    "METRICS",
    "classification_metrics",
    "expected_calibration_error",
    "load_metric",
    "lower_is_better",
    "regression_metrics",
    "score_metrics",
    "segment_metrics",
    "sentiment_metrics",
    "sims_metrics",
]

_MIN_CORRELATED = 3  # samples; through two points there is always a line
_LOWER_IS_BETTER = ("loss", "mae", "ece", "segment_ece")
METRICS = ("multimodal_sentiment", "multimodal_classification", "segment_accuracy")


def lower_is_better(metric: str) -> bool:
    """Whether less of a metric is better: `mae`, `eval_mae`, the `mae_<name>` of one score of several, `ece`."""
    name = metric.removeprefix("eval_")
    return name in _LOWER_IS_BETTER or name.startswith("mae_")


def sentiment_metrics(predictions: ArrayLike, references: ArrayLike) -> dict[str, float]:
    """Metrics of sentiment scores in [-3, 3], as the MOSI and MOSEI literature computes them.

    Args:
        predictions, references: (N,) or (N, 1) real numbers, N >= 1.

    Returns:
        mae: mean absolute error, of unclipped predictions.
        corr: Pearson correlation; 0.0 where either side is constant (it is undefined there), and left out for fewer
            than 3 samples, of which it says nothing.
        acc_7, acc_5: both sides clipped to [-3, 3] or [-2, 2], rounded half to even (0.5 to 0, 1.5 to 2), equal.
        acc_2_has0, f1_has0: negative against non-negative, all samples (0 counts as non-negative).
        acc_2_non0, f1_non0: negative against positive; samples labelled exactly 0 are left out, and a prediction of
            exactly 0 counts as negative, as MMSA has it. 0.0 where every label is 0.
        F1 is weighted by the number of references of each class. All but mae lie in [0, 1] (corr in [-1, 1]).

    Raises:
        ValueError: no samples, sizes that differ, NaN or infinite values.
    """
    pred, true = _pair(predictions, references)
    kept = true != 0
    found = _error_and_correlations(pred, true, {"corr": pearsonr})
    for name, limit in (("acc_7", 3), ("acc_5", 2)):
        found[name] = accuracy_score(*(np.round(np.clip(values, -limit, limit)) for values in (true, pred)))
    for name, classes in (("has0", (true >= 0, pred >= 0)), ("non0", (true[kept] > 0, pred[kept] > 0))):
        found[f"acc_2_{name}"] = accuracy_score(*classes) if len(classes[0]) else 0.0
        found[f"f1_{name}"] = f1_score(*classes, average="weighted") if len(classes[0]) else 0.0
    return found


def sims_metrics(predictions: ArrayLike, references: ArrayLike) -> dict[str, float]:
    """Metrics of sentiment scores in [-1, 1], as the literature of CH-SIMS computes them (MMSA toolkit).

    Args:
        predictions, references: (N,) or (N, 1) real numbers, N >= 1; both are clipped to [-1, 1] first.

    Returns:
        mae, corr: as of `sentiment_metrics`, of clipped values.
        acc_2, f1: above 0 or not, F1 weighted by the references of each class.
        acc_3: cut at -0.1 and 0.1. acc_5: at -0.7, -0.1, 0.1 and 0.7; a value on a cut belongs to the lower class.

    Raises:
        ValueError: as `sentiment_metrics`.
    """
    pred, true = (np.clip(values, -1.0, 1.0) for values in _pair(predictions, references))
    cuts = {"acc_2": [0.0], "acc_3": [-0.1, 0.1], "acc_5": [-0.7, -0.1, 0.1, 0.7]}
    found = _error_and_correlations(pred, true, {"corr": pearsonr})
    for name, edges in cuts.items():
        found[name] = accuracy_score(*(np.digitize(values, edges, right=True) for values in (true, pred)))
    return {**found, "f1": f1_score(true > 0, pred > 0, average="weighted")}


def regression_metrics(predictions: ArrayLike, references: ArrayLike) -> dict[str, float]:
    """Metrics of a score of any kind.

    Args:
        predictions, references: (N,) or (N, 1) real numbers, N >= 1.

    Returns:
        mae: mean absolute error.
        corr, spearman: correlation of the values (Pearson) and of their ranks; 0.0 where either side is constant, left
            out for fewer than 3 samples.
        r2: 1 - squared error / variance of the references; left out where these are constant or fewer than 3.

    Raises:
        ValueError: no samples, sizes that differ, NaN or infinite values.
    """
    pred, true = _pair(predictions, references)
    found = _error_and_correlations(pred, true, {"corr": pearsonr, "spearman": spearmanr})
    if len(true) >= _MIN_CORRELATED and np.ptp(true) > 0:
        found["r2"] = r2_score(true, pred)
    return found


def score_metrics(
    predictions: ArrayLike,
    references: ArrayLike,
    *,
    label_scale: str | None = None,
    label_range: Sequence[Any] | None = None,
    names: Sequence[str] | None = None,
) -> dict[str, float]:
    """Metrics of a regression by what its scores mean, see `label_scale` and `label_range` of `CLCRConfig`.

    Args:
        predictions, references: (N,), (N, 1), or (N, K) for K scores a row.
        names: of the K scores.

    Returns:
        On the scale of sentiment `sims_metrics` for [-1, 1], else `sentiment_metrics` (without `acc_7` and `acc_5` for
        ranges other than [-3, 3]); on no scale `regression_metrics`. Of several scores each of these as
        `<metric>_<name>`, and as `<metric>` its mean over the scores that have it.

    Raises:
        ValueError: as these.
    """
    pred, true = np.asarray(predictions), np.asarray(references)
    if label_scale == "sentiment":
        if label_range is not None and list(label_range) == [-1, 1]:
            return sims_metrics(pred, true)
        found = sentiment_metrics(pred, true)
        usual = label_range is None or list(label_range) == [-3, 3]
        return found if usual else {name: value for name, value in found.items() if name not in ("acc_7", "acc_5")}
    if true.ndim < 2 or true.shape[1] == 1:
        return regression_metrics(pred, true)
    if pred.shape != true.shape:
        raise ValueError(f"predictions have shape {pred.shape}, references {true.shape}")
    known = list(names) if names is not None else list(map(str, range(true.shape[1])))
    each = {name: regression_metrics(pred[:, k], true[:, k]) for k, name in enumerate(known)}
    means = DataFrame(each).mean(axis="columns").to_dict()  # over the scores that have the metric
    return means | {f"{metric}_{name}": value for name, found in each.items() for metric, value in found.items()}


def classification_metrics(
    predictions: ArrayLike,
    references: ArrayLike,
    scores: ArrayLike | None = None,
    probabilities: ArrayLike | None = None,
) -> dict[str, float]:
    """Metrics of classes, one a sample or several (multi-label).

    Args:
        predictions, references: (N,) class numbers, or (N, C) of 0 and 1 for multi-label.
        scores: (N, C) real, higher = more likely (logits or probabilities); gives `map`.
        probabilities: (N, C) in [0, 1]; gives `ece`.

    Returns:
        accuracy: share of samples right; for multi-label, share of the N * C decisions.
        macro_f1: mean F1 of the classes that occur in predictions or references (multi-label: of all C; a class that
            neither has counts 0).
        weighted_f1: multi-label only: mean over the C of the F1 of present and absent, each weighted by its share of
            the references (as MOSEI's emotions are reported).
        map: mean over the classes that have a reference of scikit-learn's `average_precision_score` (samples of equal
            score enter together); 0.0 where none has one. Only with `scores`.
        ece: `expected_calibration_error`. Only with `probabilities`.

    Raises:
        ValueError: no samples, shapes that differ, values that are no classes, scores not finite.
    """
    pred, true = _classes("predictions", predictions), _classes("references", references)
    if pred.shape != true.shape or pred.ndim not in (1, 2):
        raise ValueError(f"predictions have shape {pred.shape}, references {true.shape}; wanted (N,) or (N, C)")
    result = {"accuracy": float((pred == true).mean())}
    if pred.ndim == 2:
        if not (np.isin(pred, (0, 1)).all() and np.isin(true, (0, 1)).all()):
            raise ValueError("multi-label predictions and references must be 0 or 1")
        for name, average in (("macro_f1", "binary"), ("weighted_f1", "weighted")):
            each = [f1_score(*column, average=average, zero_division=0) for column in zip(true.T, pred.T, strict=True)]
            result[name] = float(np.mean(each))
    else:
        result["macro_f1"] = f1_score(true, pred, average="macro")
    if scores is not None:
        result["map"] = _mean_average_precision(np.asarray(scores, dtype=np.float64), true)
    if probabilities is not None:
        result["ece"] = expected_calibration_error(probabilities, true)
    return result


def expected_calibration_error(probabilities: ArrayLike, references: ArrayLike, bins: int = 15) -> float:
    """How far probabilities are from how often they come true (Guo et al. 2017, equation 3).

    Args:
        probabilities: (N, C) in [0, 1].
        references: (N,) class numbers: the probability of the likeliest class against how often it is the right one;
            or (N, C) of 0 and 1 for multi-label: each of the N * C against how often its label holds.
        bins: of equal width over [0, 1]; a probability on a border belongs to the lower one.

    Returns:
        Mean over the probabilities of the distance, in their bin, of mean probability and share that came true; in
        [0, 1], 0 is best. Few samples alone make it larger than 0.

    Raises:
        ValueError: no samples, shapes that differ, values that are no classes or no probabilities.
    """
    stated, true = np.asarray(probabilities, dtype=np.float64), _classes("references", references)
    if stated.ndim != 2 or true.shape not in (stated.shape, stated.shape[:1]):
        raise ValueError(f"probabilities have shape {stated.shape}, references {true.shape}; wanted (N, C) and (N,)")
    if not ((stated >= 0) & (stated <= 1)).all():
        raise ValueError("probabilities must lie in [0, 1]")
    if true.ndim == 1:
        stated, right = stated.max(axis=1), stated.argmax(axis=1) == true
    else:
        stated, right = stated.ravel(), true.ravel() == 1
    places = np.maximum(np.ceil(stated * bins).astype(int) - 1, 0)
    return float(np.abs(np.bincount(places, right - stated)).sum() / len(stated))


def segment_metrics(
    predictions: ArrayLike | Sequence[Sequence[int]],
    references: ArrayLike | Sequence[Sequence[int]],
    *,
    ignore_index: int = -100,
) -> dict[str, float]:
    """Metrics of a class for each segment (AVE: 10 one-second segments, background one of 29 classes).

    Args:
        predictions, references: (N, G) class numbers, or N lists of any length. Where predictions are longer than
            references (padding), the rest is left out.
        ignore_index: references that do not count.

    Returns:
        segment_accuracy: share of the counted segments that are right, every segment equal.
        segment_macro_f1: mean F1 of the classes that occur among them.
        segments: how many were counted.

    Raises:
        ValueError: no counted segment, clip counts that differ, fewer predictions than references in a clip.
    """
    pred_rows, true_rows = list(np.asarray(p) for p in predictions), list(np.asarray(r) for r in references)  # type: ignore[union-attr]
    if len(pred_rows) != len(true_rows):
        raise ValueError(f"{len(pred_rows)} clips predicted for {len(true_rows)} references")
    kept_pred, kept_true = [], []
    for i, (pred, true) in enumerate(zip(pred_rows, true_rows, strict=True)):
        if pred.ndim != 1 or true.ndim != 1 or len(pred) < len(true):
            raise ValueError(f"clip {i}: predictions of shape {pred.shape} for references of shape {true.shape}")
        keep = true != ignore_index
        kept_pred.append(pred[: len(true)][keep])
        kept_true.append(true[keep])
    flat_pred, flat_true = np.concatenate([*kept_pred, np.empty(0)]), np.concatenate([*kept_true, np.empty(0)])
    if not len(flat_true):
        raise ValueError(f"no segment to count: every reference is {ignore_index}")
    return {
        "segment_accuracy": accuracy_score(flat_true, flat_pred),
        "segment_macro_f1": f1_score(flat_true, flat_pred, average="macro"),
        "segments": float(len(flat_true)),
    }


def module_info(metrics: Callable[..., Any], description: str, kind: Any, citation: str = "") -> "evaluate.MetricInfo":
    """What an `evaluate` module says of itself; `kind` is the `datasets` type of predictions and references."""
    import evaluate
    from datasets import Features

    features = Features({"predictions": kind, "references": kind})
    return evaluate.MetricInfo(description, citation, features, metrics.__doc__ or "")


def load_metric(name: str, config_name: str | None = None) -> "evaluate.EvaluationModule":
    """The `evaluate` module `name` (one of `METRICS`) from this package's files; needs no network.

    Args:
        config_name: "multilabel" makes multimodal_classification take (N, C) of 0 and 1.

    Raises:
        ValueError: no such metric.
        ImportError: `evaluate` is not installed.
    """
    if name not in METRICS:
        raise ValueError(f"no metric {name!r}; there are {', '.join(METRICS)}")
    import evaluate

    return evaluate.load(str(Path(__file__).parent / name / f"{name}.py"), config_name)


def _flat(name: str, values: ArrayLike) -> np.ndarray:
    array = np.asarray(values, dtype=np.float64)
    if array.ndim == 2 and array.shape[1] == 1:
        array = array[:, 0]
    if array.ndim != 1 or not len(array):
        raise ValueError(f"{name} have shape {array.shape}; wanted (N,) or (N, 1) with N >= 1")
    if not np.isfinite(array).all():
        raise ValueError(f"{(~np.isfinite(array)).sum()} of {len(array)} {name} are NaN or infinite")
    return array


def _pair(predictions: ArrayLike, references: ArrayLike) -> tuple[np.ndarray, np.ndarray]:
    pred, true = _flat("predictions", predictions), _flat("references", references)
    if len(pred) != len(true):
        raise ValueError(f"{len(pred)} predictions for {len(true)} references")
    return pred, true


def _error_and_correlations(
    pred: np.ndarray, true: np.ndarray, correlations: Mapping[str, Callable[..., Any]]
) -> dict[str, float]:
    """`mae`, and of enough samples each of `correlations`."""
    found = {"mae": mean_absolute_error(true, pred)}
    if len(true) >= _MIN_CORRELATED:
        varied = np.ptp(pred) > 0 and np.ptp(true) > 0
        found |= {name: float(of(pred, true).statistic) if varied else 0.0 for name, of in correlations.items()}
    return found


def _classes(name: str, values: ArrayLike) -> np.ndarray:
    array = np.asarray(values)
    if not array.size:
        raise ValueError(f"no {name}")
    if array.dtype.kind not in "biuf" or not np.array_equal(array, np.floor(array)):
        raise ValueError(f"{name} are not whole class numbers")
    return array.astype(np.int64)


def _mean_average_precision(scores: np.ndarray, true: np.ndarray) -> float:
    if scores.ndim != 2 or len(scores) != len(true) or not np.isfinite(scores).all():
        raise ValueError(f"scores have shape {scores.shape}; wanted finite values ({len(true)}, C)")
    count = scores.shape[1]
    if true.ndim == 1:
        if true.min() < 0 or true.max() >= count:
            raise ValueError(f"references reach from {true.min()} to {true.max()}; scores have {count} classes")
        true = np.eye(count, dtype=np.int64)[true]
    elif true.shape[1] != count:
        raise ValueError(f"scores have {count} classes, references {true.shape[1]}")
    present = true.any(axis=0)
    return float(average_precision_score(true[:, present], scores[:, present])) if present.any() else 0.0
