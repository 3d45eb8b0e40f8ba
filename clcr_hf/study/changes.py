"""What a run makes of the data before it learns (folds, fewer or wrong labels, missing modalities, noise, shifts), and
of its settings (another budget)."""

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from datasets import Dataset, DatasetDict, concatenate_datasets

from ..data.columns import IGNORED, SPLITS, carve_split
from ..data.options import read_options
from ..modalities import FEATURES_END, modality
from ..training.data import LABEL_COLUMNS, LoadedData
from ..training.statistics import column_statistics


@dataclass(frozen=True)
class Kind:
    """
    A kind of change.

    Args:
        values: what its values are, for people. possible: whether a value can be. said: how the report names it.
        of_modality: whether it is of one modality. splits: which splits it changes; none where it changes settings.
    """

    values: str
    possible: Callable[[float], bool]
    said: str
    of_modality: bool = False
    splits: tuple[str, ...] = ("train",)


_SHARE = "shares of the training {}, above 0 and up to 1"
_OF_MODALITY = {
    "missing": Kind(
        "shares of the rows that lack the modality, 0 to 1",
        lambda value: 0 <= value <= 1,
        "{modality} missing {value:g}",
        True,
        SPLITS,
    ),
    "noise": Kind("signal-to-noise ratios in decibels", math.isfinite, "{modality} {value:g} dB", True, SPLITS),
    "shift": Kind(
        "whole numbers of steps from 1",
        lambda value: value >= 1 and value == int(value),
        "{modality} {value:g} steps off",
        True,
        SPLITS,
    ),
}
CHANGES: dict[str, Kind] = {
    "label_fractions": Kind(_SHARE.format("rows"), lambda value: 0 < value <= 1, "{value:g} of the labels"),
    "label_noise": Kind(_SHARE.format("labels"), lambda value: 0 < value <= 1, "{value:g} of the labels mixed up"),
    **_OF_MODALITY,
    **{
        f"{name}_in_{word}": replace(kind, said=f"{kind.said} in {word}", splits=splits)
        for name, kind in _OF_MODALITY.items()
        for word, splits in (("train", ("train", "validation")), ("test", ("test",)))
    },
    "budget_scales": Kind(
        "scales of the token budget, 0 or more",
        lambda value: 0 <= value < math.inf,
        "budget scale {value:g}",
        splits=(),
    ),
}


@dataclass(frozen=True)
class Change:
    """
    A condition: data and settings as they are, or with one thing about them changed, the same for all variants.

    Args:
        kind: of `CHANGES`; empty for none. modality: which one loses rows, gains noise or is shifted. value: how much.
    """

    kind: str = ""
    modality: str | None = None
    value: float = 0.0

    @property
    def name(self) -> str:
        """As the report has it; empty for the data as they are."""
        return CHANGES[self.kind].said.format(modality=self.modality, value=self.value) if self.kind else ""

    @property
    def of_data(self) -> bool:
        """Whether it changes rows."""
        return bool(self.kind and CHANGES[self.kind].splits)

    @property
    def of_settings(self) -> bool:
        """Whether it changes the settings of CLCR, so that models without these have nothing to do with it."""
        return bool(self.kind) and not self.of_data

    def settings(self, arguments: Mapping[str, Any]) -> dict[str, Any]:
        """Arguments of `clcr train` under this condition."""
        if not self.of_settings:
            return dict(arguments)
        return {**arguments, "config_overrides": {**overrides(arguments), "budget_scale": self.value}}

    @classmethod
    def read(cls, where: str, kind: str, given: Any) -> Iterator["Change"]:
        """The changes that a study's file states; ValueError for what cannot be."""
        known = CHANGES[kind]
        if given is None:
            return
        if known.of_modality and not isinstance(given, Mapping):
            raise ValueError(f"{where}: {kind} must be modalities with lists of {known.values}, got {given!r}")
        for name, values in given.items() if known.of_modality else [(None, given)]:
            for value in values if isinstance(values, list) else [values]:
                number = isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
                if not number or not known.possible(value):
                    raise ValueError(f"{where}: {kind} takes {known.values}, got {value!r}")
                yield cls(kind, name, float(value))


def overrides(arguments: Mapping[str, Any]) -> Mapping[str, Any]:
    """The fields of `CLCRConfig` that arguments of `clcr train` name; ValueError for what are none."""
    given = arguments.get("config_overrides")
    return given if isinstance(given, Mapping) else read_options(given, "config_overrides")


def changed(
    data: LoadedData, change: Change, fold: int | None, folds: Mapping[str, Any] | None, seed: int
) -> LoadedData:
    """
    The data of a run. What is drawn is drawn by `seed`, the same for all variants.

    Raises:
        ValueError: no such column or modality; too few groups; a shift of features that have no steps.
    """
    if folds is not None and fold is not None:
        data.splits = _dealt(data.splits, folds["column"], folds["number"], fold)
    if not change.of_data:
        return data
    make, rng = _maker(data.splits["train"], change), np.random.default_rng([seed, 17])
    inside = CHANGES[change.kind].splits
    data.splits = DatasetDict({name: make(rows, rng) if name in inside else rows for name, rows in data.splits.items()})
    return data


Make = Callable[[Dataset, np.random.Generator], Dataset]


def _maker(train: Dataset, change: Change) -> Make:
    """What changes the rows of a split."""
    value = change.value
    if not CHANGES[change.kind].of_modality:
        of_labels = {"label_fractions": _fewer, "label_noise": _mixed_up}[change.kind]
        return lambda rows, rng: of_labels(rows, value, rng)
    column, mask = f"{change.modality}{FEATURES_END}", modality(str(change.modality)).mask
    if column not in train.column_names:
        raise ValueError(f"{change.name}: the data have no column {column}")
    kind = change.kind.partition("_in_")[0]
    if kind == "missing":
        return lambda rows, rng: _without(rows, column, value, rng)
    if kind == "shift":
        return lambda rows, rng: _shifted(rows, column, mask, int(value), rng)
    found = column_statistics(train, column, mask)
    scale = (np.zeros(1) if found is None else found[1]) * 10 ** (-value / 20)
    return lambda rows, rng: _noisy(rows, column, scale, rng)


def _dealt(splits: DatasetDict, column: str, number: int, fold: int) -> DatasetDict:
    """One fold of groups is test; of the others validation is carved by whole groups."""
    rows = concatenate_datasets(list(splits.values()))
    if column not in rows.column_names:
        raise ValueError(f"folds: the data have no column {column!r}; a table keeps it by dataset_options keep_columns")
    names, index = np.unique(np.asarray(rows[column][:], dtype=str), return_inverse=True)
    if len(names) < number:
        raise ValueError(f"folds: {column!r} names {len(names)} groups, fewer than {number} folds")
    fold_of = np.empty(len(names), dtype=int)
    fold_of[np.random.default_rng(0).permutation(len(names))] = np.arange(len(names)) % number
    inside = fold_of[index] == fold
    parts = {"train": rows.select(np.flatnonzero(~inside)), "test": rows.select(np.flatnonzero(inside))}
    parts = carve_split(parts, lambda train: train[column], 1 / number, seed=fold)
    return DatasetDict({name: parts[name] for name in ("train", "validation", "test")})


def _fewer(rows: Dataset, share: float, rng: np.random.Generator) -> Dataset:
    """Some rows of each class, or of all."""
    labels = next((rows[name][:] for name in LABEL_COLUMNS if name in rows.column_names), [0] * len(rows))
    classes = np.array([value if isinstance(value, int) else 0 for value in labels])
    kept: list[int] = []
    for each in np.unique(classes):
        inside = np.flatnonzero(classes == each)
        kept += rng.permutation(inside)[: max(math.ceil(share * len(inside)), 1)].tolist()
    return rows.select(sorted(kept))


def _without(rows: Dataset, column: str, share: float, rng: np.random.Generator) -> Dataset:
    absent = rng.random(len(rows)) < share
    return rows.map(
        lambda row, number: {column: None if absent[number] else row[column]}, with_indices=True, features=rows.features
    )


def _noisy(rows: Dataset, column: str, scale: np.ndarray, rng: np.random.Generator) -> Dataset:
    """White noise; `scale`: its standard deviation in each column."""
    seeds = rng.integers(2**62, size=len(rows))

    def one(row: dict[str, Any], number: int) -> dict[str, Any]:
        if row[column] is None:
            return {column: None}
        value = np.asarray(row[column], dtype=np.float32)
        return {column: value + scale * np.random.default_rng(seeds[number]).standard_normal(value.shape)}

    return rows.map(one, with_indices=True, features=rows.features)


def _shifted(rows: Dataset, column: str, mask: str, steps: int, rng: np.random.Generator) -> Dataset:
    """Real steps moved on or back, by half of a row at most. What leaves a row at one end comes in at the other, so
    that nothing is lost apart from which steps of the modalities belong together."""
    signs = rng.choice((-1, 1), size=len(rows))

    def one(row: dict[str, Any], number: int) -> dict[str, Any]:
        if row[column] is None or not np.size(row[column]):
            return {column: row[column]}
        value = np.asarray(row[column], dtype=np.float32)
        if value.ndim < 2:
            raise ValueError(f"shift: {column} has no steps in time")
        real = np.ones(value.shape[-2], dtype=bool) if row.get(mask) is None else np.asarray(row[mask], dtype=bool)
        by = signs[number] * min(steps, int(real.sum()) // 2)
        value[..., real, :] = np.roll(value[..., real, :], by, axis=-2)
        return {column: value}

    return rows.map(one, with_indices=True, features=rows.features)


def _mixed_up(rows: Dataset, share: float, rng: np.random.Generator) -> Dataset:
    """A share of labels, those of rows or of segments, replaced by that of another row or segment, drawn at random."""
    column = next(name for name in LABEL_COLUMNS if name in rows.column_names)
    values = rows[column][:]
    counts = [len(each) for each in values] if column == "labels" else None
    labels = values if counts is None else [label for each in values for label in each]
    known = rng.permutation([at for at, label in enumerate(labels) if label is not None and label != IGNORED])
    wrong = list(labels)
    for place in range(round(share * len(known)) if len(known) > 1 else 0):
        other = (place + rng.integers(1, len(known))) % len(known)
        wrong[known[place]] = labels[known[other]]
    if counts is not None:
        ends = np.cumsum(counts)
        wrong = [wrong[end - count : end] for end, count in zip(ends, counts, strict=True)]
    return rows.map(lambda _, number: {column: wrong[number]}, with_indices=True, features=rows.features)


__all__ = ["CHANGES", "Change", "changed", "overrides"]
