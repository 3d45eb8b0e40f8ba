"""Labels of a table: what kind they are, from one pass over them, and each as the number that a model learns.

What fits nothing is refused, with its row: one odd cell never turns scores into classes, nor classes into scores.
"""

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from datasets import ClassLabel, List, Value

from ..columns import IGNORED, DataFormatError, check_choice, logger
from .values import class_word, is_absent, is_almost_number, is_missing_word, parse_list, parse_number, short

TASKS = ("auto", "regression", "classification", "multi_label", "segments")
MISSING_LABELS = ("error", "drop", "keep")
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
    # How many cells or items there are of each kind, and where the first is: "absent"; "gaps", items without a value
    # inside lists; "scalars"; "numbers", and those "outside" [0, 1]; "almost" numbers; "booleans"; "texts".
    count: Counter[str] = field(default_factory=Counter)
    first: dict[str, str] = field(default_factory=dict)
    lengths: dict[int, str] = field(default_factory=dict)
    words: dict[str, str] = field(default_factory=dict)  # with the first place of each
    fractions: bool = False
    num_missing: int = 0  # rows without a label, once `finish` has said what labels are

    def __post_init__(self) -> None:
        check_choice("task", self.task, TASKS)
        check_choice("missing_labels", self.missing, MISSING_LABELS)
        if self.label_names is not None:
            self.label_names = [str(name).strip() for name in self.label_names]
            if len(set(self.label_names)) < len(self.label_names):
                raise DataFormatError(f"label_names holds a name twice: {', '.join(self.label_names)}")

    # -- one cell ----------------------------------------------------------------------------------------------------

    def add(self, value: Any, where: str) -> None:
        """Take note of one cell, at `where` (such as "row 3")."""
        if self._is_missing(value):
            self._note("absent", where, value)
            return
        many = self._split(value, where)
        if many is None:
            self._note("scalars", where, value)
            self._add_item(value, where, scalar=True)
            return
        self.lengths.setdefault(len(many), where)
        if any(map(self._is_gap, many)):
            self._note("gaps", where, value)
        for item in many:
            if not self._is_gap(item):
                self._add_item(item, where, scalar=False)

    def _fault(self, text: str) -> DataFormatError:
        return DataFormatError(f"{self.source}: {text}")

    def _note(self, kind: str, where: str, item: Any) -> None:
        if kind not in self.first:
            self.first[kind] = where if is_absent(item) else f"{where}: {short(item)}"
        self.count[kind] += 1

    def _add_item(self, item: Any, where: str, scalar: bool) -> None:
        if not isinstance(item, str | int | float | np.number | np.bool_):
            raise self._fault(f"{where}: the label {short(item)} is no name or number")
        number = parse_number(item)
        word = None if number is not None and self._only_scores(scalar) else class_word(item)
        if number is not None and abs(number) <= _FLOAT32_MAX:
            self._note("numbers", where, item)
            self.fractions = self.fractions or not number.is_integer()
            if not 0 <= number <= 1:
                self._note("outside", where, item)
        elif word in ("True", "False"):
            self._note("booleans", where, item)
        elif number is not None or is_almost_number(item):
            self._note("almost", where, item)
        else:
            self._note("texts", where, item)
        if word is not None:
            self.words.setdefault(word, where)

    def _only_scores(self, scalar: bool) -> bool:
        """Whether a number can be nothing but a score, so that it need not be kept in mind as a class."""
        return self.task == "regression" or (scalar and self.task == "auto" and self.label_names is None)

    def _is_missing(self, value: Any) -> bool:
        if self.separator is not None and isinstance(value, str) and not value.strip():
            return False  # none of several classes
        return all(map(self._is_gap, value)) if self.columns else self._is_gap(value)

    def _is_gap(self, item: Any) -> bool:
        """Whether a cell or item says nothing, be it in words that name no class."""
        return is_absent(item) or (is_missing_word(item) and str(item).strip() not in (self.label_names or ()))

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
        if self.count["scalars"] and self.lengths:
            raise self._fault(f"some labels are lists and others are not (first: {self.first['scalars']})")
        task = self._task()
        self._report_missing(task)
        if task in ("multi_label", "segments") and self.count["scalars"]:
            raise self._fault(f"task={task!r} wants a list in every row: lists ([1, 0]) or a label_separator")
        if task == "classification" and self.lengths:
            raise self._fault(f"task={task!r}, but the labels are lists")
        if task == "regression":
            return self._scores()
        numeric = self.count["numbers"] + self.count["booleans"] > 0 and not self.count["texts"] and not self.separator
        if task == "multi_label" and numeric:
            return self._vectors()
        return self._classes(task)

    def _report_missing(self, task: str) -> None:
        """Say how many labels are missing, or stop there."""
        if self.count["gaps"] and task == "segments":
            text = "%s: %d rows have segments without a label (first: %s); these segments count for nothing"
            logger.warning(text, self.source, self.count["gaps"], self.first["gaps"])
        elif self.count["gaps"] and self.count["texts"]:
            raise self._fault(f"a list of classes has an empty place ({self.first['gaps']})")
        self.num_missing = missing = self.count["absent"] + (self.count["gaps"] if task != "segments" else 0)
        if not missing or self.missing == "keep":
            return
        first = self.first.get("absent") or self.first["gaps"]
        text = f"{self.source}: {missing} rows have no label (first: {first})"
        if self.missing == "error":
            raise DataFormatError(f"{text}. Fill them in, or leave these rows out with missing_labels='drop'")
        logger.warning("%s; they are left out", text)

    def _task(self) -> str:
        if self.task != "auto":
            return self.task
        if self.count["almost"] and self.label_names is None:
            raise self._fault(
                f"{self.count['almost']} labels are almost numbers (first: {self.first['almost']}). "
                "Write 1234.5 for a score; name the classes with label_names or say task='classification'; several in "
                "one cell want a label_separator"
            )
        named = self.count["texts"] + self.count["booleans"]
        if not self.lengths:
            if self.label_names is not None:
                return "classification"
            if named and self.count["numbers"]:
                few = "numbers" if self.count["numbers"] < named else "texts" if self.count["texts"] else "booleans"
                raise self._fault(
                    f"some labels are numbers ({self.count['numbers']}) and others names ({named}; the "
                    f"odd one out: {self.first[few]}). Mend it, or say task='classification' if numbers are names too"
                )
            return "classification" if named else "regression"
        if self.columns:
            return self._task_of_columns()
        binary = not self.count["texts"] and not self.fractions and not self.count["outside"] and len(self.lengths) == 1
        whole = not named and not self.fractions
        return "segments" if whole and not binary and not self.separator else "multi_label"

    def _task_of_columns(self) -> str:
        if self.count["texts"]:
            raise self._fault(f"several label columns hold scores, or 0 and 1; {self.first['texts']} is neither")
        if not self.fractions and not self.count["outside"]:
            raise self._fault(
                "the label columns hold 0 and 1 alone: say task='multi_label' for classes, or "
                "task='regression' for scores"
            )
        return "regression"

    def _scores(self) -> TableLabels:
        """One score a row, or several."""
        odd = [kind for kind in ("texts", "almost", "booleans") if self.count[kind]]
        if odd:
            count, first = sum(self.count[kind] for kind in odd), self.first[odd[0]]
            raise self._fault(f"{count} labels are not finite numbers (first: {first})")
        names = self._row_names()
        if not self.lengths or set(self.lengths) == {1}:
            if names is not None and len(names) != 1:
                raise self._fault(f"{len(names)} scores are named, and a row has one number")

            def read_one(cell: Any) -> Any:
                found = self._read_numbers(cell)
                return None if found is None else np.float32(found[0])

            return TableLabels("label", Value("float32"), names, "regression", read_one)
        kind = List(Value("float32"), length=self._one_length())
        return TableLabels("label", kind, names, "regression", self._read_numbers)

    def _vectors(self) -> TableLabels:
        """Multi-label given as one number a class."""
        length, names = self._one_length(), self._row_names()
        odd = self.first.get("outside") or self.first.get("almost")
        if odd is not None:
            raise self._fault(
                f"the numbers of a multi-label row must lie in [0, 1] ({odd}); for scores say task='regression'"
            )
        return TableLabels("label", List(Value("float32"), length=length), names, "multi_label", self._read_numbers)

    def _read_numbers(self, cell: Any) -> list[float] | None:
        if self._is_missing(cell):
            return None
        many = self._split(cell)
        items = [cell] if many is None else many
        return None if not items or any(map(self._is_gap, items)) else [self._number(item) for item in items]

    @staticmethod
    def _number(item: Any) -> float:
        number = parse_number(item)
        return float(class_word(item) == "True") if number is None else number

    def _one_length(self) -> int:
        """How many numbers every row has."""
        names = self._row_names()
        if len(self.lengths) > 1 or (names is not None and set(self.lengths) != {len(names)}):
            wanted = f"; {len(names)} {'classes' if self.task != 'regression' else 'scores'} are named" if names else ""
            places = ", ".join(f"{length} in {place}" for length, place in list(self.lengths.items())[:3])
            raise self._fault(f"labels have {sorted(self.lengths)[:5]} numbers (first {places}){wanted}")
        return next(iter(self.lengths), 0)

    def _row_names(self) -> tuple[str, ...] | None:
        names = self.label_names or self.columns
        return tuple(names) if names else None

    def _classes(self, task: str) -> TableLabels:
        names, position = self._positions(task)

        def number(item: Any) -> int:
            if self._is_gap(item):
                return IGNORED
            text = str(item).strip()
            return position[text if text in position else class_word(item)]

        def read(cell: Any) -> Any:
            if self._is_missing(cell):
                return None
            if task == "classification":
                return number(cell)
            found = [number(part) for part in self._split(cell) or []]
            return found if task == "segments" else [float(i in found) for i in range(len(names))]

        one, several = ClassLabel(names=names), List(Value("float32"), length=len(names))
        kinds = {"classification": one, "segments": List(one), "multi_label": several}
        return TableLabels("labels" if task == "segments" else "label", kinds[task], tuple(names), task, read)

    def _positions(self, task: str) -> tuple[list[str], dict[str, int]]:
        """Class names in order, and the number of each word that occurs."""
        words = {word: place for word, place in self.words.items() if task != "segments" or word != str(IGNORED)}
        if self.label_names is None:
            # Numbers in their order (10 after 9), names in the alphabet's.
            names = sorted(words, key=lambda word: (parse_number(word) or 0.0 if self._all_numbers else 0.0, word))
            position = {name: i for i, name in enumerate(names)}
        else:
            names = list(self.label_names)
            position = {class_word(name): i for i, name in enumerate(names)} | {name: i for i, name in enumerate(names)}
            if self._all_numbers and not set(words) <= set(position):
                position = {str(i): i for i in range(len(names))}  # some are no names, so all are numbers of classes
            unknown = next((word for word in words if word not in position), None)
            if unknown is not None:
                raise self._fault(f"{words[unknown]}: label {unknown!r} is none of the classes {', '.join(names)}")
        if not names:
            raise self._fault("no row has a class")
        if task == "segments":
            position[str(IGNORED)] = IGNORED
        return names, position

    @property
    def _all_numbers(self) -> bool:
        return not (self.count["texts"] or self.count["booleans"] or self.count["almost"])
