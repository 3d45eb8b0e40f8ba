"""Labels of a table: what kind they are, from one pass over them, and each as the number that a model learns."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from datasets import ClassLabel, List, Value

from ..columns import DataFormatError

TASKS = ("auto", "regression", "classification", "multi_label", "segments")
IGNORED = -100  # a segment without a label; losses and metrics pass over it


@dataclass(frozen=True)
class TableLabels:
    """How the labels of a table are read.

    Attributes:
        column: "label", or "labels" for a class for each segment.
        type: the `datasets` type of that column.
        names: class names; None for regression, and for multi-label numbers without names.
        read: turns a cell into the value of the column; None where the cell is empty.
    """

    column: str
    type: Any
    names: tuple[str, ...] | None
    read: Callable[[Any], Any]


@dataclass
class LabelScan:
    """Looks at the labels of a table, one at a time, and then says what they are.

    Args:
        source: named in errors.
        label_names: class names in the order of their numbers, or None.
        task: one of `TASKS`.
        separator: between the names of several classes in one cell; None for one class a cell.
        required: whether every row must have a label.
    """

    source: object
    label_names: Sequence[str] | None
    task: str
    separator: str | None
    required: bool
    rows: int = 0
    absent: list[int] = field(default_factory=list)
    scalars: int = 0
    unusable: int = 0
    first_unusable: str = ""
    texts: int = 0
    lengths: set[int] = field(default_factory=set)
    words: set[str] = field(default_factory=set)

    def add(self, value: Any) -> None:
        """Take note of one cell."""
        self.rows += 1
        if is_absent(value) and not (self.separator and value == ""):
            self.absent.append(self.rows)
            return
        many = self._split(value)
        if many is None:
            self.scalars += 1
            many = [value]
        else:
            self.lengths.add(len(many))
        for item in many:
            if not isinstance(item, str | int | float | np.number | np.bool_):
                raise DataFormatError(
                    f"{self.source}: row {self.rows}: the label {repr(value)[:60]} is no name or number"
                )
            number = as_number(item)
            self.texts += number is None
            if number is None or not math.isfinite(number):
                self.first_unusable = self.first_unusable or repr(item)
                self.unusable += 1
            self.words.add(_word(item))

    def finish(self) -> TableLabels:
        """What the labels are.

        Raises:
            DataFormatError: labels that are absent, of no one kind, or none of `label_names`.
        """
        if self.absent and self.required:
            raise DataFormatError(f"{self.source}: {len(self.absent)} rows have no label (first: row {self.absent[0]})")
        if self.scalars and self.lengths:
            raise DataFormatError(f"{self.source}: some labels are lists and others are not")
        kind = self._kind()
        if kind in ("multi_label", "segments") and self.scalars:
            raise DataFormatError(
                f"{self.source}: task={kind!r} wants a list in every row: lists (JSONL, Parquet) or a label_separator"
            )
        if kind in ("regression", "classification") and self.lengths:
            raise DataFormatError(f"{self.source}: task={kind!r}, but the labels are lists")
        if kind == "regression":
            if self.unusable:
                raise DataFormatError(
                    f"{self.source}: {self.unusable} labels are not finite numbers (first: {self.first_unusable})"
                )
            return TableLabels("label", Value("float32"), None, lambda cell: _or_none(cell, np.float32))
        if kind == "multi_label" and not self.texts and self.words and not self.separator:
            return self._vectors()
        return self._classes(kind)

    def _kind(self) -> str:
        if self.task != "auto":
            return self.task
        if not self.lengths:
            return "regression" if self.label_names is None and not self.texts else "classification"
        whole = not self.texts and all(word.lstrip("-").isdigit() for word in self.words)
        binary = self.words <= {"0", "1", "True", "False"} and len(self.lengths) == 1
        return "segments" if whole and not binary and not self.separator else "multi_label"

    def _split(self, value: Any) -> list[Any] | None:
        if isinstance(value, list | tuple | np.ndarray):
            return list(value)
        if self.separator is None:
            return None
        return [part.strip() for part in str(value).split(self.separator) if part.strip()]

    def _vectors(self) -> TableLabels:
        """Multi-label given as one number a class."""
        if len(self.lengths) > 1 or (self.label_names is not None and self.lengths != {len(self.label_names)}):
            wanted = f"; {len(self.label_names)} classes are named" if self.label_names is not None else ""
            raise DataFormatError(f"{self.source}: labels have {sorted(self.lengths)[:5]} numbers{wanted}")
        if self.unusable or any(not 0 <= float(as_number(word) or 0) <= 1 for word in self.words):
            raise DataFormatError(f"{self.source}: the numbers of a multi-label row must lie in [0, 1]")
        names = None if self.label_names is None else tuple(map(str, self.label_names))
        kind = List(Value("float32"), length=next(iter(self.lengths)))

        def read(cell: Any) -> Any:
            return None if is_absent(cell) else [float(as_number(item) or 0) for item in cell]

        return TableLabels("label", kind, names, read)

    def _classes(self, kind: str) -> TableLabels:
        numeric = not self.texts
        words = self.words - {str(IGNORED)} if kind == "segments" else self.words
        if self.label_names is None:
            # Numbers in their order (10 after 9), names in the alphabet's.
            names = sorted(words, key=lambda word: (as_number(word) or 0.0 if numeric else 0.0, word))
        else:
            names = [str(name) for name in self.label_names]
        by_number = self.label_names is not None and numeric and not words <= set(names)
        position = {str(i) if by_number else name: i for i, name in enumerate(names)}
        unknown = sorted({_key(word, by_number) for word in words} - set(position))
        if unknown:
            raise DataFormatError(f"{self.source}: label {unknown[0]!r} is none of the classes {', '.join(names)}")
        if kind == "segments":
            position[str(IGNORED)] = IGNORED

        def number(item: Any) -> int:
            return position[_key(_word(item), by_number)]

        def read_one(cell: Any) -> Any:
            return None if is_absent(cell) else number(cell)

        def read_segments(cell: Any) -> Any:
            return None if is_absent(cell) else [number(part) for part in self._split(cell) or []]

        def read_many(cell: Any) -> Any:
            if is_absent(cell) and not (self.separator and cell == ""):
                return None
            chosen = {number(part) for part in self._split(cell) or []}
            return [float(i in chosen) for i in range(len(names))]

        if kind == "classification":
            return TableLabels("label", ClassLabel(names=names), tuple(names), read_one)
        if kind == "segments":
            return TableLabels("labels", List(ClassLabel(names=names)), tuple(names), read_segments)
        return TableLabels("label", List(Value("float32"), length=len(names)), tuple(names), read_many)


def is_absent(value: Any) -> bool:
    """Whether a cell is empty: None, or the empty string."""
    return value is None or (isinstance(value, str) and value == "")


def as_number(value: Any) -> float | None:
    """`value` as a float; None where it is no number."""
    try:
        return float(value)
    except (TypeError, ValueError, OverflowError):
        return None


def _word(value: Any) -> str:
    """A class name; a whole number is written without a point."""
    whole = isinstance(value, float | np.floating) and float(value).is_integer()
    return str(int(value)) if whole else str(value)


def _key(word: str, by_number: bool) -> str:
    """What to look `word` up by: itself, or where names are given and labels are numbers of them, that number."""
    number = as_number(word) if by_number else None
    return str(int(number)) if number is not None and number.is_integer() else word


def _or_none(value: Any, kind: type) -> Any:
    return None if is_absent(value) else kind(float(value))
