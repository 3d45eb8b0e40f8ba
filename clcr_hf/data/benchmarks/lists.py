"""What the lists of benchmarks have in common: lines to rows, the lists and the files that are there.

A row is a dict of the columns that it will have in the data set, and of others, which are left behind.
"""

import csv
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from datasets import DatasetDict, Value

from ..arrow import typed_splits
from ..columns import DataFormatError, media_file, raise_problems, warn_of
from ..errors import format_error
from ..files import find_file, list_lines, named_fault, report_missing
from ..source import Row
from ..table.cells import MEDIA_TYPES
from ..untrusted.arrays import UnsafeFileError


@contextmanager
def noted(problems: list[str], where: object) -> Iterator[None]:
    """A ValueError (and so a DataFormatError) of the block joins `problems`, and what follows goes on, so that all
    faults are told at once. A file that is unsafe is refused there and then."""
    try:
        yield
    except UnsafeFileError:
        raise
    except ValueError as error:
        problems.append(f"{where}: {error}")


def split_lists(
    given: Mapping[str, str | os.PathLike | None], names: Mapping[str, Sequence[str]], *folders: Path
) -> dict[str, Path]:
    """Split to its list: those that are `given`, else those found by their `names` in the first folder that has any."""
    lists = {split: Path(path) for split, path in given.items() if path is not None}
    for folder in folders:
        found = {split: find_file(folder, each) for split, each in names.items()}
        lists = lists or {split: path for split, path in found.items() if path is not None}
    return lists


def parsed_lines(path: str | os.PathLike, parse: Callable[[int, str], Any], advice: str = "") -> list[Any]:
    """What `parse` makes of each line of a list.

    Args:
        parse: called with the number and the text of a line; None passes over it, ValueError is a fault.
        advice: the end of the message.

    Raises:
        DataFormatError: faulty lines, with their numbers.
    """
    found: list[Any] = []
    problems: list[str] = []
    for number, line in list_lines(path):
        with noted(problems, f"line {number}"):
            found.append(parse(number, line))
    raise_problems(path, problems, advice)
    return [each for each in found if each is not None]


def read_clips(path: str | os.PathLike, parse: Callable[[int, str], Row | None], *, repeats: bool = True) -> list[Row]:
    """The clips of a list, each once.

    Args:
        parse: as of [`parsed_lines`], gives the row of a line, with `id` and `label`.
        repeats: whether a clip may come again with the same label, which is reported; else that is a fault.

    Raises:
        DataFormatError: faulty lines (numbered), a clip with two labels, or no clip at all.
    """
    clips: dict[str, Row] = {}
    twice = []

    def add(number: int, line: str) -> None:
        row = parse(number, line)
        if row is None or (first := clips.setdefault(row["id"], row)) is row:
            return
        if first["label"] != row["label"]:
            raise ValueError(f"{row['id']} is {row['label']} here and {first['label']} above")
        if not repeats:
            raise ValueError(f"{row['id']} comes twice")
        twice.append(row["id"])

    parsed_lines(path, add)
    if not clips:
        raise DataFormatError(f"{path}: the list has no clips")
    warn_of(path, "clips are listed twice and kept once", twice)
    return list(clips.values())


def read_records(path: str | os.PathLike, columns: Sequence[str], parse: Callable[[dict[str, str]], Row]) -> list[Row]:
    """The rows of a CSV file with a header.

    Args:
        columns: those that must be there.
        parse: gives the row of a record (its cells by column), with an `id`; ValueError for a fault.

    Raises:
        DataFormatError: no such file, columns absent, faulty rows (their lines numbered), an id twice, or no rows.
    """
    found: dict[str, Row] = {}
    problems: list[str] = []
    damage = format_error(f"{path}: cannot be read", OSError, UnicodeDecodeError)
    with damage, open(path, encoding="utf-8-sig", newline="") as file:
        records = csv.DictReader(file, restval="")
        absent = [name for name in columns if name not in (records.fieldnames or ())]
        if absent:
            raise DataFormatError(f"{path}: no column {', '.join(absent)}")
        for record in records:
            with noted(problems, f"line {records.line_num}"):
                row = parse(record)
                if found.setdefault(row["id"], row) is not row:
                    raise ValueError(f"{row['id']} comes twice")
    raise_problems(path, problems if found or problems else ["no rows"])
    return list(found.values())


def file_column(name: str, *paths: str | os.PathLike, folder: str | os.PathLike | None = None) -> Row:
    """The column of media `name` with the first of some files that can be used, and `fault`: None, or where none can,
    what is wrong with one, if possible one that is there (as of `named_fault`, from `folder`)."""
    faults: dict[str, bool] = {}
    for path in map(os.path.abspath, paths):
        fault = named_fault(path, folder)
        if fault is None:
            return {name: media_file(path), "fault": None}
        faults[fault] = os.path.exists(path)
    return {name: None, "fault": max(faults, key=faults.__getitem__)}


def present_rows(
    where: object, parts: Mapping[str, Sequence[Row]], skip_missing: bool, advice: str
) -> dict[str, list[Row]]:
    """The rows of each split whose `fault` is None. What becomes of the others: `report_missing`."""
    missing = [row["fault"] for rows in parts.values() for row in rows if row["fault"] is not None]
    report_missing(where, missing, sum(map(len, parts.values())), skip_missing, advice)
    return {split: [row for row in rows if row["fault"] is None] for split, rows in parts.items()}


def clip_splits(parts: Mapping[str, Sequence[Row]], columns: Sequence[str], **types: Any) -> DatasetDict:
    """Rows by split as data sets in memory.

    Args:
        columns: of the rows, those to keep, in order.
        types: of these. Without one, columns of files have that of `MEDIA_TYPES`, and all others are texts.
    """
    known = {**MEDIA_TYPES, **types}
    return typed_splits({name: known.get(name, Value("string")) for name in columns}, parts)
