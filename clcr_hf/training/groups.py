"""Metrics per group: of the rows, or segments, that share a value of a column, such as speaker, gender or language."""

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from itertools import islice
from typing import TYPE_CHECKING, Any

import numpy as np
from datasets import ClassLabel, List
from transformers.trainer_utils import EvalPrediction

from ..checks import did_you_mean
from ..data.columns import IGNORED
from ..data.table.values import is_absent
from ..metrics import lower_is_better
from .calibration import predict_all

if TYPE_CHECKING:
    from .trainer import CLCRTrainer

FEW = 10  # labels below which a group says too little to be called the worst
MOST = 100  # groups; what has more is an id or a measured number
NOT_SAID = "(not said)"
_SHOWN = 30  # groups in a table for people
_COUNTS = ("segments",)  # of what is measured, how much it was

Group = str | list[str]


def check_groups(splits: Mapping[str, Any], columns: Sequence[str] | None, measured: Iterable[str]) -> None:
    """
    Looks at the columns that metrics are wanted by, before anything else is done.

    Args:
        splits: rows by split. columns: as `DataArguments.metrics_by`. measured: the splits that will be measured; those
            that are not there do not count.

    Raises:
        ValueError: a column that is not there, with the nearest name; one with more than 100 groups in a split; a list
            in a row, where rows have not a label for each of its items.
    """
    for column in columns or ():
        for split in (name for name in measured if name in splits):
            rows = splits[split]
            if column not in rows.column_names:
                known = ", ".join(sorted(rows.column_names))
                hint = did_you_mean(column, rows.column_names)
                raise ValueError(f"--metrics_by {column}: {split} has no such column, only {known}{hint}")
            groups = groups_of(rows, column)
            _check_lists(rows, column, split, groups)
            count = len(_names(groups))
            if count > MOST:
                raise ValueError(
                    f"--metrics_by {column}: it has {count:,} values in {split}, more than {MOST}, so most would have "
                    "hardly a row; give a column of few values, such as bands of age in place of age"
                )


def _check_lists(rows: Any, column: str, split: str, groups: Sequence[Group]) -> None:
    """ValueError where a row names several groups and has not a label for each."""
    if not any(isinstance(each, list) for each in groups):
        return
    if "labels" not in rows.column_names:
        raise ValueError(
            f"--metrics_by {column}: rows of {split} hold a list there, and have not a label for each item"
        )
    for number, (group, labels) in enumerate(zip(groups, rows["labels"], strict=True), 1):
        if isinstance(group, list) and len(group) != len(labels):
            raise ValueError(
                f"--metrics_by {column}: row {number} of {split} names {len(group)} groups for {len(labels)} labels"
            )


def groups_of(rows: Any, column: str) -> list[Group]:
    """The group of each row, or, where a row holds a list, of each of its segments, as people call it; `NOT_SAID` for
    what is empty."""
    kind = rows.features[column]
    inside = kind.feature if isinstance(kind, List) else kind

    def name(value: Any) -> str:
        if isinstance(inside, ClassLabel) and value is not None:
            value = None if value < 0 else inside.int2str(value)
        if is_absent(value):
            return NOT_SAID
        return f"{value:g}" if isinstance(value, float) else str(value).strip()

    return [[name(item) for item in value] if isinstance(value, list) else name(value) for value in rows[column]]


def _names(groups: Iterable[Group]) -> list[str]:
    """All groups in order, what is not said at the end."""
    found = {name for each in groups for name in (each if isinstance(each, list) else [each])}
    return sorted(found, key=lambda name: (name == NOT_SAID, name))


def measure_rows(
    trainer: "CLCRTrainer", rows: Any, prefix: str, columns: Sequence[str] | None, metric: str
) -> tuple[dict[str, float], dict[str, Any]]:
    """
    What a trainer measures on rows, and, in the first process, the same per group; all processes must call it.

    Args:
        rows: as the trainer reads them, `rows.rows` with the columns. prefix: of the metrics' names. columns: those to
            go by; without any no predictions are kept. metric: see [`by_group`].

    Returns:
        The metrics, and of each column what [`by_group`] gives.
    """
    if not columns:
        return trainer.predict(rows, metric_key_prefix=prefix).metrics or {}, {}
    found = predict_all(trainer, rows, prefix=prefix)
    if not trainer.is_world_process_zero():
        return found.metrics, {}
    logits = found.predictions[0] if isinstance(found.predictions, tuple) else found.predictions
    answers, measure = EvalPrediction(logits, found.label_ids), trainer.compute_metrics
    tables = {each: by_group(measure, answers, groups_of(rows.rows, each), metric) for each in columns}
    return found.metrics, tables


def by_group(
    measure: Callable[[EvalPrediction], dict[str, float]], answers: EvalPrediction, groups: Sequence[Group], metric: str
) -> dict[str, Any]:
    """
    Every metric per group.

    Args:
        measure: metrics of logits and labels. answers: logits `(N, ...)` and labels `(N, ...)`; where rows have a label
            a segment `(N, G)`, -100 where it does not count.
        groups: of each row; or, of labels of segments, a list with that of each segment.
        metric: the one that tables for people show, and by which groups are ordered, the worst first.

    Returns:
        `metric`; `few`, the number of labels below which a group is marked; `groups`: by name `rows`, `labels` (those
        that count), `few` and `metrics` (None where one is not defined); `spread`: by metric the `worst` and the `best`
        group, `worst_value` and `best_value`, and their distance, the `gap`. Groups marked `few` take no part in
        it, and with fewer than two others there is none.
    """
    logits, labels = np.asarray(answers.predictions), np.asarray(answers.label_ids)
    found: dict[str, dict[str, Any]] = {}
    for name in _names(groups):
        true, inside = _inside(labels, groups, name)
        count = _counted(true, logits)
        metrics = measure(EvalPrediction(logits[inside], true)) if count else {}
        found[name] = {
            "rows": int(inside.sum()),
            "labels": count,
            "few": count < FEW,
            "metrics": {
                key: float(value) if math.isfinite(value) else None
                for key, value in metrics.items()
                if key not in _COUNTS
            },
        }
    order = sorted(found, key=lambda name: _worth(metric, found[name]["metrics"].get(metric)))
    return {"metric": metric, "few": FEW, "groups": {name: found[name] for name in order}, "spread": spread_of(found)}


def _inside(labels: np.ndarray, groups: Sequence[Group], name: str) -> tuple[np.ndarray, np.ndarray]:
    """The labels of the rows of a group, other groups' segments ignored, and which rows these are, `(N,)` bool."""
    inside = np.array([name in each if isinstance(each, list) else name == each for each in groups], dtype=bool)
    true = labels[inside].copy()
    for row, number in zip(true, np.flatnonzero(inside), strict=True):
        each = groups[int(number)]
        if isinstance(each, list):
            other = np.array([one != name for one in each])
            row[: len(other)][other] = IGNORED
    return true, inside


def _counted(labels: np.ndarray, logits: np.ndarray) -> int:
    """How many labels there are: of rows, or of segments that count."""
    return int((labels != IGNORED).sum()) if logits.ndim == 3 else len(labels)


def spread_of(groups: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    """By metric the worst and the best of the groups that have enough labels; as in [`by_group`]."""
    large = {name: each["metrics"] for name, each in groups.items() if not each["few"]}
    spread = {}
    for metric in dict.fromkeys(key for each in large.values() for key in each):
        values = {name: each[metric] for name, each in large.items() if each.get(metric) is not None}
        if len(values) < 2:
            continue
        order = sorted(values, key=lambda name: values[name], reverse=lower_is_better(metric))
        worst, best = order[0], order[-1]
        gap = abs(values[best] - values[worst])
        spread[metric] = {
            "worst": worst,
            "worst_value": values[worst],
            "best": best,
            "best_value": values[best],
            "gap": gap,
        }
    return spread


def told(tables: Mapping[str, Mapping[str, Any]], split: str) -> str:
    """What was measured per group, as people read it: of each column a table of all metrics' worst and best groups, and
    one of all groups, the worst first. Empty without columns."""
    return "\n".join(line for column, table in tables.items() for line in [*_told(column, table, split), ""])


def _told(column: str, table: Mapping[str, Any], split: str) -> list[str]:
    metric, groups, spread = table["metric"], table["groups"], table["spread"]
    lines = [f"groups:  {split} by {column}"]
    if spread:
        rows = [
            [
                key,
                each["worst"],
                _shown(each["worst_value"]),
                each["best"],
                _shown(each["best_value"]),
                _shown(each["gap"]),
            ]
            for key, each in spread.items()
        ]
        lines += _aligned([["metric", "worst", "", "best", "", "gap"], *rows], left=(0, 1, 3))
    else:
        lines.append(f"         no worst group: fewer than two groups have {table['few']} labels")
    rows = [
        [
            name + " *" * each["few"],
            str(each["rows"]),
            str(each["labels"]),
            _shown(each["metrics"].get(metric)),
        ]
        for name, each in islice(groups.items(), _SHOWN)
    ]
    lines += _aligned([[column, "rows", "labels", metric], *rows], left=(0,))
    if len(groups) > _SHOWN:
        lines.append(f"         and {len(groups) - _SHOWN} groups more, which are better")
    if any(each["few"] for each in groups.values()):
        lines.append(f"         * fewer than {table['few']} labels: takes no part in worst, best and gap")
    return lines


def _worth(metric: str, value: float | None) -> float:
    """The worse the lower; what is not defined comes last."""
    return math.inf if value is None else -value if lower_is_better(metric) else value


def _shown(value: float | None) -> str:
    return "-" if value is None else f"{value:.4f}"


def _aligned(rows: Sequence[Sequence[str]], left: Sequence[int]) -> list[str]:
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return [
        "         "
        + "  ".join(
            cell.ljust(width) if at in left else cell.rjust(width)
            for at, (cell, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in rows
    ]


__all__ = ["FEW", "MOST", "NOT_SAID", "by_group", "check_groups", "groups_of", "measure_rows", "spread_of", "told"]
