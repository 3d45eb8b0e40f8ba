"""Labels of a table: what kind they are, from one pass over them, and each as the number that a model learns.

What fits nothing is refused, with its row: one odd cell never turns scores into classes, nor classes into scores.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from datasets import ClassLabel, List, Value

from ..columns import DataFormatError, logger
from .values import class_word, is_absent, is_almost_number, is_missing_word, parse_list, parse_number, short

TASKS = ("auto", "regression", "classification", "multi_label", "segments")
MISSING_LABELS = ("error", "drop", "keep")
IGNORED = -100  # a segment without a label; losses and metrics pass over it
_FLOAT32_MAX = float(np.finfo(np.float32).max)


@dataclass(frozen=True)
class TableLabels:
    """How the labels of a table are read.

    Attributes:
        column: "label", or "labels" for a class for each segment.
        type: the `datasets` type of that column.
        names: class names, or names of several scores; None for one score, and for several numbers without names.
        task: one of `TASKS`, never "auto".
        read: turns a cell (or the cells of several columns) into the value of the column; None where the label is
            missing.
    """

    column: str
    type: Any
    names: tuple[str, ...] | None
    task: str
    read: Callable[[Any], Any]


@dataclass
class _Kind:
    """How many items of one kind there are, and where the first is."""

    count: int = 0
    first: str = ""

    def add(self, where: str, item: Any) -> None:
        if not self.count:
            self.first = where if is_absent(item) else f"{where}: {short(item)}"
        self.count += 1


@dataclass
class LabelScan:
    """Looks at the labels of a table, one at a time, and then says what they are.

    Args:
        source: named in errors.
        label_names: class names in the order of their numbers, or None. Of several scores: their names.
        task: one of `TASKS`.
        separator: between the names of several classes in one cell; None for one class a cell.
        missing: what a row without a label means: "error", "drop" or "keep".
        columns: where labels are spread over several columns, the names of these.
    """

    source: object
    label_names: Sequence[str] | None
    task: str
    separator: str | None
    missing: str
    columns: Sequence[str] = ()
    absent: _Kind = field(default_factory=_Kind)
    gaps: _Kind = field(default_factory=_Kind)  # items without a value inside lists
    scalars: _Kind = field(default_factory=_Kind)
    numbers: _Kind = field(default_factory=_Kind)
    almost: _Kind = field(default_factory=_Kind)
    texts: _Kind = field(default_factory=_Kind)
    booleans: _Kind = field(default_factory=_Kind)
    outside: _Kind = field(default_factory=_Kind)  # numbers beyond [0, 1]
    lengths: dict[int, str] = field(default_factory=dict)
    words: dict[str, str] = field(default_factory=dict)  # with the first place of each
    fractions: bool = False
    num_missing: int = 0  # rows without a label, once `finish` has said what labels are

    def __post_init__(self) -> None:
        for name, value, known in (("task", self.task, TASKS), ("missing_labels", self.missing, MISSING_LABELS)):
            if value not in known:
                raise DataFormatError(f"{name}={value!r}; choose {', '.join(known)}")
        if self.label_names is not None:
            self.label_names = [str(name).strip() for name in self.label_names]
            if len(set(self.label_names)) < len(self.label_names):
                raise DataFormatError(f"label_names holds a name twice: {', '.join(self.label_names)}")

    # -- one cell ----------------------------------------------------------------------------------------------------

    def add(self, value: Any, where: str) -> None:
        """Take note of one cell, at `where` (such as "row 3")."""
        if self._is_missing(value):
            self.absent.add(where, value)
            return
        many = self._split(value, where)
        if many is None:
            self.scalars.add(where, value)
            self._add_item(value, where, scalar=True)
            return
        self.lengths.setdefault(len(many), where)
        if self._has_gaps(many):
            self.gaps.add(where, value)
        for item in many:
            if not (is_absent(item) or self._is_missing_word(item)):
                self._add_item(item, where, scalar=False)

    def _add_item(self, item: Any, where: str, scalar: bool) -> None:
        if not isinstance(item, str | int | float | np.number | np.bool_):
            raise DataFormatError(f"{self.source}: {where}: the label {short(item)} is no name or number")
        number = parse_number(item)
        word = None if number is not None and self._only_scores(scalar) else class_word(item)
        if number is not None and abs(number) <= _FLOAT32_MAX:
            self.numbers.add(where, item)
            self.fractions = self.fractions or not number.is_integer()
            if not 0 <= number <= 1:
                self.outside.add(where, item)
        elif word in ("True", "False"):
            self.booleans.add(where, item)
        elif number is not None or is_almost_number(item):
            self.almost.add(where, item)
        else:
            self.texts.add(where, item)
        if word is not None:
            self.words.setdefault(word, where)

    def _only_scores(self, scalar: bool) -> bool:
        """Whether a number can be nothing but a score, so that it need not be kept in mind as a class."""
        return self.task == "regression" or (scalar and self.task == "auto" and self.label_names is None)

    def _is_missing(self, value: Any) -> bool:
        if self.separator is not None and isinstance(value, str) and not value.strip():
            return False  # none of several classes
        if self.columns:
            return all(is_absent(item) or self._is_missing_word(item) for item in value)
        return is_absent(value) or self._is_missing_word(value)

    def _is_missing_word(self, value: Any) -> bool:
        return is_missing_word(value) and str(value).strip() not in (self.label_names or ())

    def _split(self, value: Any, where: str = "") -> list[Any] | None:
        if self.separator is not None and isinstance(value, str):
            return [part.strip() for part in value.split(self.separator) if part.strip()]
        if isinstance(value, str) and value.strip() in (self.label_names or ()):
            return None
        return parse_list(value, f"{self.source}: {where}")

    # -- all of them ---------------------------------------------------------------------------------------------------

    def finish(self) -> TableLabels:
        """What the labels are.

        Raises:
            DataFormatError: labels that are missing, of no one kind, or none of `label_names`.
        """
        if self.scalars.count and self.lengths:
            raise DataFormatError(
                f"{self.source}: some labels are lists and others are not (first: {self.scalars.first})"
            )
        task = self._task()
        self._report_missing(task)
        if task in ("multi_label", "segments") and self.scalars.count:
            raise DataFormatError(
                f"{self.source}: task={task!r} wants a list in every row: lists ([1, 0]) or a label_separator"
            )
        if task == "classification" and self.lengths:
            raise DataFormatError(f"{self.source}: task={task!r}, but the labels are lists")
        if task == "regression":
            return self._scores()
        numeric = self.numbers.count + self.booleans.count > 0 and not self.texts.count and not self.separator
        if task == "multi_label" and numeric:
            return self._vectors()
        return self._classes(task)

    def _report_missing(self, task: str) -> None:
        """Say how many labels are missing, or stop there."""
        if self.gaps.count and task == "segments":
            text = "%s: %d rows have segments without a label (first: %s); these segments count for nothing"
            logger.warning(text, self.source, self.gaps.count, self.gaps.first)
        elif self.gaps.count and self.texts.count:
            raise DataFormatError(f"{self.source}: a list of classes has an empty place ({self.gaps.first})")
        self.num_missing = missing = self.absent.count + (self.gaps.count if task != "segments" else 0)
        if not missing or self.missing == "keep":
            return
        first = self.absent.first or self.gaps.first
        text = f"{self.source}: {missing} rows have no label (first: {first})"
        if self.missing == "error":
            raise DataFormatError(f"{text}. Fill them in, or leave these rows out with missing_labels='drop'")
        logger.warning("%s; they are left out", text)

    def _task(self) -> str:
        if self.task != "auto":
            return self.task
        if self.almost.count and self.label_names is None:
            raise DataFormatError(
                f"{self.source}: {self.almost.count} labels are almost numbers (first: {self.almost.first}). Write "
                "1234.5 for a score; name the classes with label_names or say task='classification'; several in one "
                "cell want a label_separator"
            )
        named = self.texts.count + self.booleans.count
        if not self.lengths:
            if self.label_names is not None:
                return "classification"
            if named and self.numbers.count:
                few = self.numbers if self.numbers.count < named else self.texts if self.texts.count else self.booleans
                raise DataFormatError(
                    f"{self.source}: some labels are numbers ({self.numbers.count}) and others names ({named}; the odd "
                    f"one out: {few.first}). Mend it, or say task='classification' if numbers are names too"
                )
            return "classification" if named else "regression"
        if self.columns:
            return self._task_of_columns()
        binary = not self.texts.count and not self.fractions and not self.outside.count and len(self.lengths) == 1
        whole = not named and not self.fractions
        return "segments" if whole and not binary and not self.separator else "multi_label"

    def _task_of_columns(self) -> str:
        if self.texts.count:
            raise DataFormatError(
                f"{self.source}: several label columns hold scores, or 0 and 1; {self.texts.first} is neither"
            )
        if not self.fractions and not self.outside.count:
            raise DataFormatError(
                f"{self.source}: the label columns hold 0 and 1 alone: say task='multi_label' for classes, or "
                "task='regression' for scores"
            )
        return "regression"

    def _scores(self) -> TableLabels:
        """One score a row, or several."""
        odd = [kind for kind in (self.texts, self.almost, self.booleans) if kind.count]
        if odd:
            count = sum(kind.count for kind in odd)
            raise DataFormatError(f"{self.source}: {count} labels are not finite numbers (first: {odd[0].first})")
        names = self._row_names()
        if not self.lengths or set(self.lengths) == {1}:
            if names is not None and len(names) != 1:
                raise DataFormatError(f"{self.source}: {len(names)} scores are named, and a row has one number")

            def read_one(cell: Any) -> Any:
                items = [] if self._is_missing(cell) else self._split(cell) or [cell]
                return np.float32(self._number(items[0])) if items and not self._has_gaps(items) else None

            return TableLabels("label", Value("float32"), names, "regression", read_one)
        kind = List(Value("float32"), length=self._one_length())
        return TableLabels("label", kind, names, "regression", self._read_numbers)

    def _vectors(self) -> TableLabels:
        """Multi-label given as one number a class."""
        length, names = self._one_length(), self._row_names()
        odd = self.outside if self.outside.count else self.almost
        if odd.count:
            raise DataFormatError(
                f"{self.source}: the numbers of a multi-label row must lie in [0, 1] ({odd.first}); for scores say "
                "task='regression'"
            )
        return TableLabels("label", List(Value("float32"), length=length), names, "multi_label", self._read_numbers)

    def _read_numbers(self, cell: Any) -> Any:
        items = [] if self._is_missing(cell) else self._split(cell) or []
        return None if not items or self._has_gaps(items) else [self._number(item) for item in items]

    @staticmethod
    def _number(item: Any) -> float:
        number = parse_number(item)
        return float(class_word(item) == "True") if number is None else number

    def _has_gaps(self, items: Sequence[Any]) -> bool:
        return any(is_absent(item) or self._is_missing_word(item) for item in items)

    def _one_length(self) -> int:
        """How many numbers every row has."""
        names = self._row_names()
        if len(self.lengths) > 1 or (names is not None and set(self.lengths) != {len(names)}):
            wanted = f"; {len(names)} {'classes' if self.task != 'regression' else 'scores'} are named" if names else ""
            places = ", ".join(f"{length} in {place}" for length, place in list(self.lengths.items())[:3])
            raise DataFormatError(
                f"{self.source}: labels have {sorted(self.lengths)[:5]} numbers (first {places}){wanted}"
            )
        return next(iter(self.lengths), 0)

    def _row_names(self) -> tuple[str, ...] | None:
        names = self.label_names or self.columns
        return tuple(names) if names else None

    def _classes(self, task: str) -> TableLabels:
        names, position = self._positions(task)

        def number(item: Any) -> int:
            if is_absent(item) or self._is_missing_word(item):
                return IGNORED
            text = str(item).strip()
            return position[text if text in position else class_word(item)]

        def read_one(cell: Any) -> Any:
            return None if self._is_missing(cell) else number(cell)

        def read_segments(cell: Any) -> Any:
            return None if self._is_missing(cell) else [number(part) for part in self._split(cell) or []]

        def read_many(cell: Any) -> Any:
            if self._is_missing(cell):
                return None
            chosen = {number(part) for part in self._split(cell) or []}
            return [float(i in chosen) for i in range(len(names))]

        if task == "classification":
            return TableLabels("label", ClassLabel(names=names), tuple(names), task, read_one)
        if task == "segments":
            return TableLabels("labels", List(ClassLabel(names=names)), tuple(names), task, read_segments)
        return TableLabels("label", List(Value("float32"), length=len(names)), tuple(names), task, read_many)

    def _positions(self, task: str) -> tuple[list[str], dict[str, int]]:
        """Class names in order, and the number of each word that occurs."""
        words = {word: place for word, place in self.words.items() if task != "segments" or word != str(IGNORED)}
        if self.label_names is None:
            # Numbers in their order (10 after 9), names in the alphabet's.
            numeric = not self.texts.count and not self.booleans.count and not self.almost.count
            names = sorted(words, key=lambda word: (parse_number(word) or 0.0 if numeric else 0.0, word))
            position = {name: i for i, name in enumerate(names)}
        else:
            names = list(self.label_names)
            position = self._given_positions(words, names)
            unknown = next((word for word in words if word not in position), None)
            if unknown is not None:
                raise DataFormatError(
                    f"{self.source}: {words[unknown]}: label {unknown!r} is none of the classes {', '.join(names)}"
                )
        if not names:
            raise DataFormatError(f"{self.source}: no row has a class")
        if task == "segments":
            position[str(IGNORED)] = IGNORED
        return names, position

    def _given_positions(self, words: dict[str, str], names: list[str]) -> dict[str, int]:
        """By the names of the classes; or by their numbers, where all labels are numbers and some of them no names."""
        by_name = {class_word(name): i for i, name in enumerate(names)} | {name: i for i, name in enumerate(names)}
        if self.texts.count or self.booleans.count or self.almost.count or set(words) <= set(by_name):
            return by_name
        return {str(i): i for i in range(len(names))}


__all__ = ["IGNORED", "MISSING_LABELS", "TASKS", "LabelScan", "TableLabels"]
