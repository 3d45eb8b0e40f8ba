"""What a trained model is measured against: a constant, and a linear model on statistics of features over time.

The linear model is one of scikit-learn's, on mean, or mean, spread and maximum over time of each column of ready-made
features; which one, and the strength of its penalty, is chosen inside the training data (`linear_models.py`). It reads
no token ids, and nothing raw (text, frames, sound).
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from datasets import Dataset
from transformers.trainer_utils import EvalPrediction

from ..configuration_clcr import STATISTICS
from ..data.labels import LabelKind, feature_shapes
from ..metrics import lower_is_better
from ..modalities import FEATURES_END, modality
from .linear_models import UNASKED, LinearModel, Problem, best

Measure = Callable[[EvalPrediction], dict[str, float]]
_ROWS, _CELLS = 10_000, 8_000_000  # most lines and numbers of the training data that are read
_IGNORED = -100  # a segment without a label


class Baselines:
    """
    A constant and a linear model, learned from the training split.

    Args:
        train: the training split, columns as the loaders in `clcr_hf.data` state them. Rows without a label and scores
            that are NaN do not count.
        columns: the column that each modality is read from.
        labels: what the labels are.
        candidates: linear models, of which the one is taken that does best inside the training split.
        group_column: the column of speakers, source videos or the like, where `train` has it: inside the training split
            too, a model is tried on groups that it did not learn from.

    Attributes:
        constant, linear: what they are called; `linear` is None where no modality is ready-made features.
        map: the linear model, of the statistics of `reads`, those of each modality followed by whether it is there.
        reads: the modalities that it reads, `widths` how many statistics of each.
        rows, total: of the training split, how many rows were read and how many there are.
    """

    def __init__(
        self,
        train: Dataset,
        columns: Mapping[str, str],
        labels: LabelKind,
        candidates: Sequence[LinearModel] = UNASKED,
        group_column: str | None = None,
    ):
        shapes = feature_shapes(train)
        self.labels, self.total = labels, len(train)
        self.reads = [name for name, column in columns.items() if column.endswith(FEATURES_END) and name in shapes]
        # (D,), (T, D) or (L, T, D): numbers for each column of each level.
        widths = {name: int(np.prod((*shapes[name][:-2], shapes[name][-1]))) for name in self.reads}
        self.widths = {name: len(STATISTICS) * width for name, width in widths.items()}
        train = _evenly(train, self._most(train))
        self.rows = len(train)
        target, counts = self._targets(train)
        known = target >= 0 if self._single else ~np.isnan(target)
        self._constant = self._answer_without_input(target, known)
        scores, self.map, self.linear = labels.problem_type == "regression", None, None
        if self.reads:
            inputs = self._statistics(train, counts).astype(np.float64)
            constant = self._constant[0].astype(np.float64)
            groups = None
            if group_column in train.column_names and not labels.per_segment:
                groups = np.unique([str(value) for value in train[group_column]], return_inverse=True)[1]
            sizes = list(self.widths.values())
            problem = Problem(inputs, target, known, sizes, labels.problem_type, constant, groups)
            model, self.map = best(problem, candidates)
            self.linear = model.named(scores)
        several = labels.problem_type == "multi_label_classification"
        self.constant = "the median" if scores else "the labels' shares" if several else "the commonest class"

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
            found["linear"] = self.map(self._statistics(rows, counts))
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

    def _statistics(self, rows: Dataset, counts: np.ndarray) -> np.ndarray:
        """`(lines, sum of widths + modalities)` float32: statistics over time, NaN where a modality is missing, and
        after those of each modality whether it is there."""
        names = [modality(name) for name in self.reads]
        wanted = [column for each in names for column in (each.features, each.mask) if column in rows.column_names]
        part = rows.select_columns(wanted).with_format("numpy")
        lines = []
        for number, count in enumerate(counts):
            row = part[number]
            found = [
                _over_time(row.get(each.features), row.get(each.mask), count, width)
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


def _over_time(value: Any, mask: Any, count: int, width: int) -> np.ndarray:
    """`(count, width + 1)` float32: mean, spread and maximum over the real steps of each of `count` equal stretches,
    and 1; NaN and 0 for a stretch without any."""
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
            parts = (kept.mean(axis=-2), kept.std(axis=-2), kept.max(axis=-2))
            found[each] = [*np.concatenate([part.ravel() for part in parts]), 1]
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
    named = {"constant": baselines["constant"], "linear": f"{linear} of {', '.join(baselines['reads'])}"}
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


__all__ = ["Baselines", "compare", "comparison"]
