"""What the loaders share: typed columns of sequences, seeded grouped splits, split names."""

import logging
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
from datasets import Dataset, DatasetDict, Features, List, Value

from .errors import DataFormatError, raise_problems

logger = logging.getLogger("clcr_hf.data")

SPLITS = ("train", "validation", "test")
SPLIT_ALIASES = {
    "train": "train",
    "training": "train",
    "tr": "train",
    "validation": "validation",
    "valid": "validation",
    "val": "validation",
    "dev": "validation",
    "test": "test",
    "testing": "test",
    "te": "test",
}


def split_name(name: object) -> str:
    """The standard name (train, validation, test) of a split called `name`; DataFormatError if it has none."""
    try:
        return SPLIT_ALIASES[str(name).strip().lower()]
    except KeyError:
        raise DataFormatError(f"split {str(name)!r} is none of {', '.join(sorted(SPLIT_ALIASES))}") from None


def replace_non_finite(array: np.ndarray) -> tuple[np.ndarray, int]:
    """`array` as float32 with NaN, inf and -inf set to 0, and how many there were.

    Values too large for float32 count as infinite. The input is never written to.
    """
    with np.errstate(over="ignore"):
        values = np.asarray(array, dtype=np.float32)
    bad = ~np.isfinite(values)
    count = int(bad.sum())
    return (np.where(bad, np.float32(0), values) if count else values), count


def sequence_feature(dtype: str, width: int | None = None) -> List:
    """The `datasets` type of a sequence (T,) or, with `width`, (T, width)."""
    return List(Value(dtype)) if width is None else List(List(Value(dtype), length=width))


def ragged_column(flat: np.ndarray, lengths: Sequence[int] | np.ndarray) -> pa.Array:
    """Arrow column of sequences from their concatenation (sum of lengths,) or (sum of lengths, D)."""
    offsets = np.concatenate([[0], np.cumsum(lengths, dtype=np.int64)])
    if offsets[-1] > np.iinfo(np.int32).max:
        raise DataFormatError(f"{offsets[-1]} time steps in one split; at most 2**31 - 1 are supported")
    values = pa.array(np.ascontiguousarray(flat).reshape(-1))
    if flat.ndim == 2:
        values = pa.FixedSizeListArray.from_arrays(values, flat.shape[1])
    return pa.ListArray.from_arrays(pa.array(offsets, pa.int32()), values)


def make_dataset(columns: Mapping[str, Any], features: Features) -> Dataset:
    """A typed `Dataset` in memory; Arrow columns are taken without a copy through Python objects."""
    schema = features.arrow_schema
    arrays = [
        column.cast(schema.field(name).type)
        if isinstance(column, pa.Array)
        else pa.array(column, schema.field(name).type)
        for name, column in columns.items()
    ]
    fields = [schema.field(name) for name in columns]
    return Dataset(pa.Table.from_arrays(arrays, schema=pa.schema(fields, metadata=schema.metadata)))


def typed_splits(types: Mapping[str, Any], parts: Mapping[str, Sequence[Mapping[str, Any]]]) -> DatasetDict:
    """Rows by split, each a dict of the columns of `types` (and others, which are left), as data sets in memory."""
    features = Features(types)
    return ordered_splits(
        {
            split: make_dataset({name: [row[name] for row in rows] for name in types}, features)
            for split, rows in parts.items()
        }
    )


def carve_split(
    parts: Mapping[str, list[Any]], group_of: Callable[[Any], str], fraction: float, seed: int, new: str = "validation"
) -> dict[str, list[Any]]:
    """Rows by split, of which whole groups of train make up the split `new`; unchanged for a fraction of 0."""
    if not fraction:
        return dict(parts)
    train = parts["train"]
    picked = carve_groups(map(group_of, train), fraction=fraction, seed=seed, split=new)
    kept = [row for row, taken in zip(train, picked, strict=True) if not taken]
    return {**parts, "train": kept, new: [row for row, taken in zip(train, picked, strict=True) if taken]}


def media_file(path: str | None) -> dict[str, Any] | None:
    """A file as an undecoded column of media holds it."""
    return None if path is None else {"path": path, "bytes": None}


def carve_groups(
    groups: Iterable[Any],
    *,
    fraction: float | None = None,
    num_groups: int | None = None,
    seed: int = 0,
    split: str = "validation",
) -> np.ndarray:
    """Pick whole groups of train at random for another split, and say so at the level INFO.

    The distinct groups are sorted, shuffled by `seed`, and taken until `num_groups` groups, or at least
    `fraction` of the rows, are reached; one group is always left behind. So the pick depends on the set of groups
    and the seed, not on the order of rows.

    Args:
        groups: (N,) one label a row; rows of one group (video, speaker, actor) stay together.
        split: the name of the new split.

    Returns:
        bool (N,), True for the rows picked.

    Raises:
        DataFormatError: fewer than two groups, or a number out of range.
    """
    names, index, counts = np.unique(np.asarray(list(groups), dtype=str), return_inverse=True, return_counts=True)
    if num_groups is None:
        if fraction is None or not 0 < fraction < 1:
            raise DataFormatError(f"validation_fraction must lie strictly between 0 and 1, not {fraction}")
    elif not 0 < num_groups < len(names):
        raise DataFormatError(f"cannot take {num_groups} groups for validation: training has {len(names)}")
    if len(names) < 2:
        raise DataFormatError(
            f"cannot carve a split from train, all of which is one group ({', '.join(names) or 'no rows'}). A fraction "
            "of 0 leaves that split out"
        )
    order = np.random.default_rng(seed).permutation(len(names))
    if num_groups is None:
        reached = np.cumsum(counts[order])
        num_groups = int(np.searchsorted(reached, float(fraction or 0) * counts.sum() - 1e-9)) + 1
        num_groups = min(num_groups, len(names) - 1)
    picked = np.isin(index, order[:num_groups])
    told = "%s is %d of the %d rows of train, by whole groups (%d of %d)"
    logger.info(told, split, picked.sum(), len(picked), num_groups, len(names), extra={"carved": split})
    return picked


def ordered_splits(datasets: Mapping[str, Dataset]) -> DatasetDict:
    """A `DatasetDict` of the non-empty splits in the order train, validation, test."""
    return DatasetDict({name: datasets[name] for name in SPLITS if name in datasets and len(datasets[name])})


__all__ = [
    "SPLITS",
    "SPLIT_ALIASES",
    "DataFormatError",
    "carve_groups",
    "carve_split",
    "logger",
    "make_dataset",
    "media_file",
    "ordered_splits",
    "ragged_column",
    "raise_problems",
    "replace_non_finite",
    "sequence_feature",
    "split_name",
    "typed_splits",
]
