"""What the loaders share: typed columns of sequences, seeded grouped splits, split names."""

import itertools
import logging
from collections.abc import Callable, Collection, Hashable, Iterable, Mapping, Sequence
from typing import Any, TypeVar

import numpy as np
from datasets import Dataset, DatasetDict, List, Value

from .errors import DataFormatError

logger = logging.getLogger("clcr_hf.data")
Key = TypeVar("Key", bound=Hashable)

IGNORED = -100  # a segment without a label; losses and metrics pass over it
SPLITS = ("train", "validation", "test")
_SPLIT_NAMES = (
    ("train", "training", "tr"),
    ("validation", "validate", "valid", "val", "dev"),
    ("test", "testing", "te"),
)
SPLIT_ALIASES = {alias: names[0] for names in _SPLIT_NAMES for alias in names}


def split_name(name: object) -> str:
    """The standard name (train, validation, test) of a split called `name`; DataFormatError if it has none."""
    try:
        return SPLIT_ALIASES[str(name).strip().lower()]
    except KeyError:
        raise DataFormatError(f"split {str(name)!r} is none of {', '.join(sorted(SPLIT_ALIASES))}") from None


def check_choice(name: str, value: Any, choices: Collection[str]) -> None:
    """DataFormatError where an option has none of its values."""
    if value not in choices:
        raise DataFormatError(f"{name}={value!r}; choose {(' or ' if len(choices) == 2 else ', ').join(choices)}")


def raise_problems(where: object, problems: Sequence[str], advice: str = "") -> None:
    """Raise one `DataFormatError` that lists `problems` (at most 10 in full); do nothing when there are none."""
    if not problems:
        return
    lines = list(problems[:10])
    if len(problems) > 10:
        lines.append(f"and {len(problems) - 10} more")
    raise DataFormatError(f"{where}: " + "; ".join(lines) + (f". {advice}" if advice else ""))


def name_some(names: Iterable[object]) -> str:
    """The first five, for a message."""
    shown = [str(name) for name in itertools.islice(names, 6)]
    return ", ".join(shown[:5]) + (", ..." if len(shown) > 5 else "")


def warn_of(where: object, what: str, names: Collection[Any]) -> None:
    """One warning of all that `what` is true of, with how many there are and some names; none where there are none."""
    if names:
        logger.warning("%s: %d %s: %s", where, len(names), what, name_some(names))


def in_two_splits(parts: Mapping[str, Iterable[Key]]) -> dict[Key, tuple[str, str]]:
    """What more than one split holds, each with the first two of these."""
    owner: dict[Key, str] = {}
    found: dict[Key, tuple[str, str]] = {}
    for split, keys in parts.items():
        for key in keys:
            if owner.setdefault(key, split) != split:
                found.setdefault(key, (owner[key], split))
    return found


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


def carve_split(
    parts: Mapping[str, Any],
    groups_of: Callable[[Any], Iterable[Any]],
    fraction: float,
    seed: int = 0,
    new: str = "validation",
) -> dict[str, Any]:
    """Lists of rows, or data sets, by split, of which whole groups of train make up the split `new`; unchanged for a
    fraction of 0, and where that split is there already, or no train.

    Args:
        groups_of: given train, the group of each of its rows; see [`carve_groups`].
    """
    if new in parts or "train" not in parts or not fraction:
        return dict(parts)
    train = parts["train"]
    picked = carve_groups(groups_of(train), fraction=fraction, seed=seed, split=new)
    select = getattr(train, "select", lambda numbers: [train[i] for i in numbers])
    rest, taken = (select(np.flatnonzero(rows)) for rows in (~picked, picked))
    return {**parts, "train": rest, new: taken}


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
    if not isinstance(seed, int | np.integer) or seed < 0:
        raise DataFormatError(f"seed must be a whole number, not negative, got {seed!r}")
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
