"""What a trained model is measured against: a constant, and a linear model on mean features.

The linear model is scikit-learn's ridge or logistic regression on the mean over time of each column of ready-made
features; the strength of its penalty is chosen inside the training data. It reads no token ids, and nothing raw (text,
frames, sound).
"""

import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from datasets import Dataset
from scipy.special import logsumexp
from sklearn.decomposition import PCA
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression, RidgeCV
from sklearn.model_selection import GridSearchCV, StratifiedKFold
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from transformers.trainer_utils import EvalPrediction

from ..data.labels import LabelKind, feature_shapes
from ..metrics import lower_is_better
from ..modalities import FEATURES_END, modality

Measure = Callable[[EvalPrediction], dict[str, float]]
_ROWS, _CELLS = 10_000, 4_000_000  # most lines and numbers of the training data that are read
_FOLDS = 3
_PENALTIES, _INVERSE_PENALTIES = np.logspace(-2, 5, 15), np.logspace(-4, 1, 6)
_IGNORED = -100  # a segment without a label


@dataclass(frozen=True)
class LinearMap:
    """
    An affine map of mean features.

    Args:
        center: `(F,)`, taken off first; what is NaN then counts as 0. weight: `(F, C)`. bias: `(C,)`. All float64.
    """

    center: np.ndarray
    weight: np.ndarray
    bias: np.ndarray

    def __call__(self, inputs: np.ndarray) -> np.ndarray:
        """`(N, F)` to `(N, C)`."""
        return np.nan_to_num(inputs - self.center) @ self.weight + self.bias


class Baselines:
    """
    A constant and a linear model, learned from the training split.

    Args:
        train: the training split, columns as the loaders in `clcr_hf.data` state them. Rows without a label and scores
            that are NaN do not count.
        columns: the column that each modality is read from.
        labels: what the labels are.

    Attributes:
        constant, linear: what they are called; `linear` is None where no modality is ready-made features.
        map: the linear model, of the mean features of `reads`, those of each modality followed by whether it is there.
        reads: the modalities that it reads, `widths` how many columns of each.
        rows, total: of the training split, how many rows were read and how many there are.
    """

    def __init__(self, train: Dataset, columns: Mapping[str, str], labels: LabelKind):
        shapes = feature_shapes(train)
        self.labels, self.total = labels, len(train)
        self.reads = [name for name, column in columns.items() if column.endswith(FEATURES_END) and name in shapes]
        # (D,), (T, D) or (L, T, D): a number for each column of each level.
        self.widths = {name: int(np.prod((*shapes[name][:-2], shapes[name][-1]))) for name in self.reads}
        train = _evenly(train, self._most(train))
        self.rows = len(train)
        target, counts = self._targets(train)
        known = target >= 0 if self._single else ~np.isnan(target)
        self._constant = self._answer_without_input(target, known)
        self.map = self._fit(self._means(train, counts).astype(np.float64), target, known) if self.reads else None
        scores = labels.problem_type == "regression"
        several = labels.problem_type == "multi_label_classification"
        self.constant = "the median" if scores else "the labels' shares" if several else "the commonest class"
        self.linear = ("ridge" if scores else "logistic") + " regression" if self.map else None

    def answers(self, rows: Dataset) -> tuple[dict[str, np.ndarray], np.ndarray]:
        """
        What each answers to all rows, and the labels.

        Returns:
            `{"constant": ..., "linear": ...}`, as a model's logits: scores `(N, K)`, logits of classes or of several
            labels `(N, C)`, or `(N, G, C)` of segments, rows of fewer filled up; and labels as the collator batches
            them.
        """
        target, counts = self._targets(rows)
        found = {"constant": np.repeat(self._constant, len(target), axis=0)}
        if self.map is not None:
            found["linear"] = self.map(self._means(rows, counts))
        if not self.labels.per_segment:
            return found, target[:, 0] if target.shape[1] == 1 else target
        return {name: _padded(value, counts, 0.0) for name, value in found.items()}, _padded(
            target[:, 0], counts, _IGNORED
        )

    @property
    def _single(self) -> bool:
        """Whether one class is right."""
        return self.labels.problem_type == "single_label_classification"

    def _most(self, train: Dataset) -> int:
        """How many rows are read."""
        lines = len(train["labels"][0]) if self.labels.per_segment and len(train) else 1
        width = sum(self.widths.values()) + len(self.reads)
        return max(min(_ROWS, _CELLS // max(width, 1)) // max(lines, 1), 1)

    def _targets(self, rows: Dataset) -> tuple[np.ndarray, np.ndarray]:
        """Labels `(lines, K)`, unknown ones NaN or -100, and the number of lines, which are segments, of each row."""
        if self.labels.per_segment:
            parts = [np.asarray(each, dtype=np.int64) for each in rows["labels"][:]]
            return np.concatenate([*parts, np.zeros(0, np.int64)])[:, None], np.array(list(map(len, parts)), dtype=int)
        column = "label" if "label" in rows.column_names else "labels"
        width = 1 if self._single else self.labels.num_labels
        nothing = np.nan if width == 1 else [np.nan] * width
        values = [nothing if each is None else each for each in rows[column][:]]
        return np.asarray(values, dtype=np.float64).reshape(-1, width), np.ones(len(values), dtype=int)

    def _means(self, rows: Dataset, counts: np.ndarray) -> np.ndarray:
        """`(lines, sum of widths + modalities)` float32: means over time, NaN where a modality is missing, and after
        those of each modality whether it is there."""
        names = [modality(name) for name in self.reads]
        wanted = [column for each in names for column in (each.features, each.mask) if column in rows.column_names]
        part = rows.select_columns(wanted).with_format("numpy")
        lines = []
        for number, count in enumerate(counts):
            row = part[number]
            found = [
                _mean_over_time(row.get(each.features), row.get(each.mask), count, width)
                for each, width in zip(names, self.widths.values(), strict=True)
            ]
            lines.append(np.hstack(found))
        return np.concatenate([*lines, np.zeros((0, sum(self.widths.values()) + len(names)), np.float32)])

    def _answer_without_input(self, target: np.ndarray, known: np.ndarray) -> np.ndarray:
        """`(1, K)` or `(1, C)`."""
        each = [target[kept, number] for number, kept in enumerate(known.T)]
        if self._single:
            return _log(np.bincount(each[0].astype(int), minlength=self.labels.num_labels) / max(len(each[0]), 1))[None]
        if self.labels.problem_type == "regression":
            return np.array([[np.median(values) if len(values) else 0.0 for values in each]])
        shares = np.array([(values > 0.5).mean() if len(values) else 0.0 for values in each])
        return (_log(shares) - _log(1 - shares))[None]

    def _fit(self, inputs: np.ndarray, target: np.ndarray, known: np.ndarray) -> LinearMap:
        """The linear model of inputs `(N, F)` and targets `(N, K)`; the constant where nothing can be learned."""
        scaler = StandardScaler().fit(inputs)
        scaled = np.nan_to_num(scaler.transform(inputs))  # what is missing counts as the mean
        weight, bias = np.zeros((scaled.shape[1], self._constant.shape[1])), self._constant[0].astype(np.float64)
        for number, (values, kept) in enumerate(zip(target.T, known.T, strict=True)):
            if self._single:
                weight, bias = _logits(scaled[kept], values[kept].astype(int), bias)
            elif self.labels.problem_type == "regression" and kept.sum() > 1:
                ridge = RidgeCV(_PENALTIES).fit(scaled[kept], values[kept])
                weight[:, number], bias[number] = ridge.coef_, ridge.intercept_
            elif self.labels.problem_type == "multi_label_classification":
                found = _logits(scaled[kept], (values[kept] > 0.5).astype(int), np.array([0.0, bias[number]]))
                weight[:, number], bias[number] = (part[..., 1] - part[..., 0] for part in found)
        return LinearMap(np.nan_to_num(scaler.mean_), weight / scaler.scale_[:, None], bias)


def _logits(inputs: np.ndarray, classes: np.ndarray, constant: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """
    Logistic regression of inputs `(N, F)`: weights `(F, C)` and biases `(C,)`.

    Args:
        classes: `(N,)`. One that has not an example in each fold has the same logit whatever the input: its share is
            then about right.
        constant: `(C,)`, the logits where nothing can be learned.
    """
    weight, bias = np.zeros((inputs.shape[1], len(constant))), constant.copy()
    counts = np.bincount(classes, minlength=len(constant))
    common = np.flatnonzero(counts >= _FOLDS)
    if len(common) < 2:
        return weight, bias
    kept = np.isin(classes, common)
    search = GridSearchCV(
        LogisticRegression(), {"C": _INVERSE_PENALTIES}, cv=StratifiedKFold(_FOLDS), scoring="neg_log_loss"
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)  # of penalties too weak to be chosen
        # Turned, which the penalty does not notice, there are no more columns than rows.
        turned, found = make_pipeline(PCA(), search).fit(inputs[kept], classes[kept])
    coefficients = found.best_estimator_.coef_ @ turned.components_
    intercepts = found.best_estimator_.intercept_ - coefficients @ turned.mean_
    if len(common) == 2:  # one row, of the log-odds
        coefficients, intercepts = (np.stack((-one / 2, one / 2)).squeeze() for one in (coefficients, intercepts))
    weight[:, common], bias[common] = coefficients.T, intercepts
    if len(common) < len(bias):
        rare = np.setdiff1d(np.arange(len(bias)), common)
        level = logsumexp(inputs[kept] @ coefficients.T + intercepts, axis=1).mean()
        bias[rare] = level + np.log(np.maximum(counts[rare], 0.5) / kept.sum())
    return weight, bias


def _mean_over_time(value: Any, mask: Any, count: int, width: int) -> np.ndarray:
    """`(count, width + 1)` float32: means of the real steps of each of `count` equal stretches, and 1; NaN and 0 for a
    stretch without any."""
    found = np.full((count, width + 1), np.nan, dtype=np.float32)
    found[:, -1] = 0
    if value is None or not np.size(value):
        return found
    steps = np.asarray(value, dtype=np.float64)
    steps = steps[None] if steps.ndim == 1 else steps
    real = np.ones(steps.shape[-2], dtype=bool) if not np.ndim(mask) else np.asarray(mask, dtype=bool)
    length = len(real)
    for each in range(count):
        inside = slice(each * length // count, -(-(each + 1) * length // count))
        kept = steps[..., inside, :][..., real[inside], :]
        if kept.shape[-2]:
            found[each] = [*kept.mean(axis=-2).ravel(), 1]
    found[~np.isfinite(found)] = np.nan
    return found


def _evenly(rows: Dataset, most: int) -> Dataset:
    """At most so many rows, spread over all."""
    return rows if len(rows) <= most else rows.select(np.linspace(0, len(rows) - 1, most).astype(int))


def _log(shares: np.ndarray) -> np.ndarray:
    return np.log(np.maximum(shares, 1e-12))


def _padded(values: np.ndarray, counts: np.ndarray, fill: float) -> np.ndarray:
    """Lines as `(rows, most of a row, ...)`."""
    found = np.full((len(counts), counts.max(initial=0), *values.shape[1:]), fill, dtype=values.dtype)
    found[np.arange(found.shape[1]) < counts[:, None]] = values
    return found


# -- the comparison of a run ------------------------------------------------------------------------------------------


def compare(
    baselines: Baselines,
    datasets: Mapping[str, Dataset],
    measure: Measure,
    metric: str,
    measured: Mapping[str, float],
) -> dict[str, Any]:
    """
    The metric of the baselines beside that of the model, by split, as the record of a run keeps it.

    Args:
        datasets: the rows of each split that is compared.
        measure: metrics of logits and labels. metric: the one that is compared.
        measured: the metric of the model on each split that is compared.
    """
    figures = {}
    for split, value in measured.items():
        answers, truth = baselines.answers(datasets[split])
        found = {name: measure(EvalPrediction(logits, truth))[metric] for name, logits in answers.items()}
        figures[split] = {"model": value, **found}
    names = ("constant", "linear", "reads", "rows", "total")
    return {"metric": metric, **{name: getattr(baselines, name) for name in names}, "figures": figures}


def comparison(record: Mapping[str, Any]) -> str:
    """The comparison in the record of a run, as the run says it; empty where there is none."""
    baselines = record.get("baselines")
    if not baselines:
        return ""
    split, figures = list(baselines["figures"].items())[-1]
    metric, linear = baselines["metric"], baselines["linear"]
    named = {"constant": baselines["constant"], "linear": f"{linear} on means of {', '.join(baselines['reads'])}"}
    parts = [f"{name} {figures[each]:.4g}" for each, name in named.items() if each in figures]
    worse = [baselines[each] for each in named if _beats(metric, figures.get(each), figures["model"])]
    notes = [] if linear else ["no modality is ready-made features, which a linear model could read"]
    if baselines["rows"] < baselines["total"]:
        notes.append(f"they read {baselines['rows']:,} of {baselines['total']:,} training rows")
    notes += [f"the model is worse than {' and '.join(worse)}"] if worse else []
    text = f"compare: {metric} on {split}: this model {figures['model']:.4g}, {', '.join(parts)}"
    return "; ".join([text, *notes]) + "\n"


def _beats(metric: str, one: float | None, other: float) -> bool:
    return one is not None and (one < other if lower_is_better(metric) else one > other)


__all__ = ["Baselines", "LinearMap", "compare", "comparison"]
