"""What a run makes of the data before it learns: folds, fewer labels, missing modalities, noise."""

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from datasets import Dataset, DatasetDict, concatenate_datasets

from ..data.columns import carve_split
from ..modalities import FEATURES_END, modality
from ..training.data import LABEL_COLUMNS, LoadedData
from ..training.statistics import column_statistics

# Kind of change: whether it is of a modality, and what its values are.
CHANGES: dict[str, tuple[bool, str]] = {
    "label_fractions": (False, "shares of the training rows, above 0 and up to 1"),
    "missing": (True, "shares of the rows that lack the modality, 0 to 1"),
    "noise": (True, "signal-to-noise ratios in decibels"),
}


@dataclass(frozen=True)
class Change:
    """
    A condition: the data as they are, or with one thing about them changed, the same for all variants.

    Args:
        kind: of `CHANGES`; empty for none. modality: which one loses rows or gains noise. value: how much.
    """

    kind: str = ""
    modality: str | None = None
    value: float = 0.0

    @property
    def name(self) -> str:
        """As the report has it; empty for the data as they are."""
        if not self.kind:
            return ""
        if self.kind == "label_fractions":
            return f"{self.value:g} of the labels"
        unit = "{} missing {:g}" if self.kind == "missing" else "{} {:g} dB"
        return unit.format(self.modality, self.value)

    @classmethod
    def read(cls, where: str, kind: str, given: Any) -> Iterator["Change"]:
        """The changes that a study's file states; ValueError for what cannot be."""
        of_modality, values_are = CHANGES[kind]
        if given is None:
            return
        if of_modality and not isinstance(given, Mapping):
            raise ValueError(f"{where}: {kind} must be modalities with lists of {values_are}, got {given!r}")
        for name, values in given.items() if of_modality else [(None, given)]:
            for value in values if isinstance(values, list) else [values]:
                if isinstance(value, bool) or not isinstance(value, int | float) or not _possible(kind, value):
                    raise ValueError(f"{where}: {kind} takes {values_are}, got {value!r}")
                yield cls(kind, name, float(value))


def _possible(kind: str, value: float) -> bool:
    if kind == "noise":
        return math.isfinite(value)
    return 0 < value <= 1 if kind == "label_fractions" else 0 <= value <= 1


def changed(
    data: LoadedData, change: Change, fold: int | None, folds: Mapping[str, Any] | None, seed: int
) -> LoadedData:
    """
    The data of a run. What is drawn is drawn by `seed`, the same for all variants.

    Raises:
        ValueError: no such column or modality; too few groups.
    """
    if folds is not None and fold is not None:
        data.splits = _dealt(data.splits, folds["column"], folds["number"], fold)
    rng = np.random.default_rng([seed, 17])
    if change.kind == "label_fractions":
        data.splits["train"] = _fewer(data.splits["train"], change.value, rng)
    elif change.kind:
        column = f"{change.modality}{FEATURES_END}"
        if column not in data.splits["train"].column_names:
            raise ValueError(f"{change.name}: the data have no column {column}")
        make = _without if change.kind == "missing" else _noisy(data.splits["train"], column)
        data.splits = DatasetDict({name: make(rows, column, change.value, rng) for name, rows in data.splits.items()})
    return data


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


def _noisy(train: Dataset, column: str) -> Any:
    """Noise of the power that makes the ratio, by each column's spread in train."""
    found = column_statistics(train, column, modality(column.removesuffix(FEATURES_END)).mask)
    spread = np.zeros(1) if found is None else found[1]

    def make(rows: Dataset, column: str, decibels: float, rng: np.random.Generator) -> Dataset:
        scale = spread * 10 ** (-decibels / 20)
        seeds = rng.integers(2**62, size=len(rows))

        def one(row: dict[str, Any], number: int) -> dict[str, Any]:
            if row[column] is None:
                return {column: None}
            value = np.asarray(row[column], dtype=np.float32)
            return {column: value + scale * np.random.default_rng(seeds[number]).standard_normal(value.shape)}

        return rows.map(one, with_indices=True, features=rows.features)

    return make


__all__ = ["CHANGES", "Change", "changed"]
