"""What the runs of a study say: means and spreads, paired differences with intervals, figures."""

import csv
import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from io import StringIO
from pathlib import Path
from typing import Any

import numpy as np
from scipy import stats

from ..data.folders import replacing, write_text
from ..metrics import lower_is_better
from ..training.groups import FEW, spread_of
from .changes import Change
from .plan import Study


@dataclass(frozen=True)
class Row:
    """
    A variant under one condition.

    Args:
        runs: how many. mean, spread: of the metric on test, the spread over seeds (over runs with one seed).
        difference, margin: to the reference under the same condition, paired by seed and fold, and half the width of
            its interval; None for the reference, and the margin NaN for a single pair, or pairs that are all alike.
    """

    condition: str
    variant: str
    runs: int
    mean: float
    spread: float
    difference: float | None
    margin: float | None


def compare(study: Study, records: Sequence[Mapping[str, Any]]) -> tuple[str, list[Row]]:
    """
    The metric, and the rows of the table.

    Differences are paired by seed and fold. The interval is a t interval; over folds, whose training rows overlap, its
    variance is that of Nadeau and Bengio (2003), larger by the ratio of test to training rows. Together the intervals
    of one condition hold with 95 %: each is at the level 1 - 0.05 / K for K comparisons (Bonferroni).
    """
    metric = study.metric or records[0]["metric"]
    values: dict[tuple[str, str], dict[tuple[int, Any], float]] = {}
    ratios = []
    for each in records:
        if f"test_{metric}" not in each["metrics"]:
            known = ", ".join(sorted(name[5:] for name in each["metrics"] if name.startswith("test_")))
            raise ValueError(
                f"the runs did not measure {metric!r} on test, only {known or 'nothing: there is no test split'}"
            )
        key = Change(**each["change"]).name, each["variant"]
        values.setdefault(key, {})[each["seed"], each["fold"]] = each["metrics"][f"test_{metric}"]
        ratios.append(each["num_examples"]["test"] / each["num_examples"]["train"])
    overlap = float(np.mean(ratios)) if study.folds else 0.0
    compared = max(len(study.variants) - 1, 1)
    rows = []
    for (condition, variant), found in values.items():
        seeds = sorted({seed for seed, _ in found})
        by_seed = [np.mean([value for (seed, _), value in found.items() if seed == one]) for one in seeds]
        spread_over = by_seed if len(by_seed) > 1 else list(found.values())
        spread = float(np.std(spread_over, ddof=1)) if len(spread_over) > 1 else math.nan
        difference = margin = None
        if variant != study.first:
            # A reference without a budget is the same whatever its scale.
            reference = values.get((condition, study.first)) or values["", study.first]
            gaps = np.array([value - reference[pair] for pair, value in found.items() if pair in reference])
            difference, margin = float(gaps.mean()), _margin(gaps, overlap, compared)
        rows.append(Row(condition, variant, len(found), float(np.mean(by_seed)), spread, difference, margin))
    return metric, rows


def _margin(gaps: np.ndarray, overlap: float, compared: int) -> float:
    count = len(gaps)
    if count < 2 or np.ptp(gaps) < 1e-12:  # of models without a seed the differences say nothing of chance
        return math.nan
    quantile = stats.t.ppf(1 - 0.025 / compared, count - 1)
    return float(quantile * gaps.std(ddof=1) * math.sqrt(1 / count + overlap))


def write_report(study: Study, records: Sequence[Mapping[str, Any]], folder: str | Path) -> Path:
    """Writes `report.md`, `report.csv` and `report.png` into `folder`; returns the first."""
    folder = Path(folder)
    metric, rows = compare(study, records)
    write_text(folder / "report.csv", _csv(metric, rows))
    _draw(metric, rows, study.first, folder / "report.png")
    write_text(folder / "report.md", _markdown(study, metric, rows, records))
    return folder / "report.md"


def _csv(metric: str, rows: Sequence[Row]) -> str:
    text = StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["condition", "variant", "runs", metric, "spread", "difference", "margin"])
    for row in rows:
        writer.writerow([row.condition, row.variant, row.runs, row.mean, row.spread, row.difference, row.margin])
    return text.getvalue()


def _markdown(study: Study, metric: str, rows: Sequence[Row], records: Sequence[Mapping[str, Any]]) -> str:
    compared = max(len(study.variants) - 1, 1)
    lines = [
        f"# {metric} of {len(records)} runs",
        "",
        f"Mean and standard deviation over seeds {', '.join(map(str, study.seeds))}"
        + (f"; {study.folds['number']} folds by {study.folds['column']}" if study.folds else "")
        + f". Differences to {study.first} are paired by run; the {compared} intervals of a condition hold together "
        "with 95 % (t, Bonferroni" + (", variance over folds by Nadeau and Bengio)." if study.folds else ")."),
        "",
    ]
    for condition in dict.fromkeys(row.condition for row in rows):
        lines += [f"## {condition}", ""] if condition else []
        lines += [f"| variant | runs | {metric} | difference | |", "|---|---|---|---|---|"]
        lines += [_line(row, metric) for row in rows if row.condition == condition] + [""]
        lines += _left_out(study, condition)
    asked = any(each.get("groups") for each in records)
    lines += _worst_table(study, metric, worst_groups(study, records, metric), asked)
    seconds = sum(each["seconds"] for each in records)
    found = ", ".join(f"{name} {value}" for name, value in records[0]["versions"].items())
    lines += ["![differences](report.png)", "", f"All runs together took {seconds / 60:.1f} minutes. {found}.", ""]
    return "\n".join(lines)


def _left_out(study: Study, condition: str) -> list[str]:
    """Which variants a condition is none for, where there are some."""
    change = next(each for each in study.changes if each.name == condition)
    names = [each.name for each in study.variants if not study.applies(change, each)]
    if not names:
        return []
    text = f"Not run, for they have no token budget: {', '.join(names)}."
    text += f" What {study.first} measured without the change is the reference." * (study.first in names)
    return [text, ""]


@dataclass(frozen=True)
class Worst:
    """
    The worst group of a variant under one condition.

    Args:
        column: whose groups. runs: seeds of which two groups or more have enough labels. value, gap: means over these
            of the worst group's metric, and of its distance to the best one's. named: the group that is worst most
            often.
    """

    condition: str
    variant: str
    column: str
    runs: int
    value: float
    gap: float
    named: str


def worst_groups(study: Study, records: Sequence[Mapping[str, Any]], metric: str) -> list[Worst]:
    """What the runs measured by `metrics_by`, by column, condition and variant; nothing where groups are small. Over
    folds a group's figure is the mean over those that have it, weighted by labels."""
    found: dict[tuple[str, str, str], dict[int, list[Mapping[str, Any]]]] = {}
    for each in records:
        for column, table in (each.get("groups") or {}).items():
            key = column, Change(**each["change"]).name, each["variant"]
            found.setdefault(key, {}).setdefault(each["seed"], []).append(table["groups"])
    rows = []
    for (column, condition, variant), seeds in sorted(found.items(), key=lambda item: item[0][0]):
        spreads = [spread_of(_pooled(parts, metric)).get(metric) for parts in seeds.values()]
        known = [each for each in spreads if each is not None]
        if known:
            value, gap = (float(np.mean([each[name] for each in known])) for name in ("worst_value", "gap"))
            named = Counter(each["worst"] for each in known).most_common(1)[0][0]
            rows.append(Worst(condition, variant, column, len(known), value, gap, named))
    return rows


def _pooled(parts: Sequence[Mapping[str, Any]], metric: str) -> dict[str, Any]:
    """The groups of several folds as one table."""
    pooled = {}
    for name in dict.fromkeys(name for part in parts for name in part):
        own = [part[name] for part in parts if name in part]
        known = [each for each in own if each["metrics"].get(metric) is not None]
        count = sum(each["labels"] for each in known)
        value = sum(each["labels"] * each["metrics"][metric] for each in known) / count if count else None
        pooled[name] = {"labels": count, "few": count < FEW, "metrics": {metric: value}}
    return pooled


def _worst_table(study: Study, metric: str, rows: Sequence[Worst], asked: bool) -> list[str]:
    if not rows:
        text = f"None: no two groups have {FEW} labels and {metric}."
        return ["## Worst groups", "", text, ""] if asked else []
    text = (
        f"Mean over seeds of the {metric} of the worst group, and of its distance to the best group's. Groups of fewer"
    )
    text += f" than {FEW} labels do not count."
    text += " Over folds a group's figure is the mean, weighted by labels." if study.folds else ""
    lines = [
        "## Worst groups",
        "",
        text,
        "",
        f"| groups of | condition | variant | worst {metric} | gap | most often |",
    ]
    lines.append("|---|---|---|---|---|---|")
    for each in rows:
        named = each.named.replace("|", "/")
        figures = f"{each.value:.4f} | {each.gap:.4f}"
        lines.append(f"| {each.column} | {each.condition or 'as they are'} | {each.variant} | {figures} | {named} |")
    return [*lines, ""]


def _line(row: Row, metric: str) -> str:
    spread = "" if math.isnan(row.spread) else f" ± {row.spread:.4f}"
    gap, verdict = "", ""
    if row.difference is not None:
        known = row.margin is not None and not math.isnan(row.margin)
        gap = f"{row.difference:+.4f}" + (f" ± {row.margin:.4f}" if known else "")
        if known and abs(row.difference) > row.margin:  # type: ignore[operator]
            verdict = "better" if (row.difference > 0) != lower_is_better(metric) else "worse"
    return f"| {row.variant} | {row.runs} | {row.mean:.4f}{spread} | {gap} | {verdict} |"


def _draw(metric: str, rows: Sequence[Row], reference: str, path: Path) -> None:
    """Differences to the reference with their intervals, a panel a condition."""
    from matplotlib.figure import Figure

    shown = [row for row in rows if row.difference is not None]
    conditions = list(dict.fromkeys(row.condition for row in shown)) or [""]
    most = max([sum(row.condition == one for row in shown) for one in conditions], default=1) or 1
    figure = Figure(figsize=(7, len(conditions) * (0.9 + 0.3 * most)), layout="constrained")
    for axes, condition in zip(
        np.atleast_1d(figure.subplots(len(conditions), 1, sharex=True)), conditions, strict=True
    ):
        here = [row for row in shown if row.condition == condition][::-1]
        margins = [0.0 if row.margin is None or math.isnan(row.margin) else row.margin for row in here]
        places = range(len(here))
        axes.errorbar([row.difference for row in here], places, xerr=margins, fmt="o", capsize=3, color="tab:blue")
        axes.axvline(0, color="black", linewidth=0.8)
        axes.set_yticks(places, [row.variant for row in here])
        axes.set_ylim(-0.6, max(len(here), 1) - 0.4)
        axes.set_title(condition, loc="left", fontsize="medium")
    axes.set_xlabel(f"{metric} less that of {reference}")
    with replacing(path) as draft:
        figure.savefig(draft, dpi=120, format="png")


__all__ = ["Row", "Worst", "compare", "worst_groups", "write_report"]
