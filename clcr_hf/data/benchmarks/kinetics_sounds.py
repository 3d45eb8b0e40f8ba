"""Kinetics-Sounds: the clips of about 31 classes of Kinetics-400 that can be told by their sound.

The folder (paper sections 8 and 9) holds MP4 files named `<youtube id>_<start>_<end>.mp4`, start and end in seconds of
six digits, anywhere down to three folders deep, and says which clips belong to it in one of three ways:

    my_train.txt, my_test.txt       lines `-3Mwkq-7TV4_000002_000012,10,23`: name, seconds, class number
    train.csv, val.csv              Kinetics' own lists, `label,youtube_id,time_start,time_end,split`
    train/<class>/*.mp4, val/...    nothing but folders

The sets that go by this name differ: the authors' list has 34 classes, of which Kinetics-400 has since renamed or lost
some, and public codes use 31, 32 or 33. The usual lists (14,799 and 2,597 lines) number 31 classes and do not name
them.
"""

import csv
import os
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from itertools import chain
from pathlib import Path

from datasets import ClassLabel, DatasetDict

from ..columns import SPLIT_ALIASES, carve_split, in_two_splits, logger, name_some, raise_problems, warn_of
from ..errors import DataFormatError
from ..files import files_below, find_file, list_lines
from ..source import Row, Source
from . import class_names
from .lists import clip_splits, file_column, present_rows, read_clips, split_lists

KINETICS_SOUNDS_CLASSES = class_names("kinetics_sounds")
LISTS = {
    "train": ("my_train.txt", "train.txt", "train.csv", "kinetics_train.csv"),
    "validation": (
        "my_val.txt",
        "val.txt",
        "validation.txt",
        "val.csv",
        "validate.csv",
        "validation.csv",
        "kinetics_val.csv",
    ),
    "test": ("my_test.txt", "test.txt", "test.csv", "kinetics_test.csv"),
}
CLASS_FILES = ("class.txt", "classes.txt", "class_list.txt")
_SUFFIXES = (".mp4", ".mkv", ".webm", ".avi", ".mov", ".flv")
# A YouTube id has 11 characters, of which some may be _ and -, also the first.
_STARTED = re.compile(r"(.{11})_(\d{1,6})", re.ASCII)
_TIMED = re.compile(r"(.+)_(\d{6})_(\d{6})", re.ASCII)
_DEPTH = 3


def load_kinetics_sounds(
    root: str | os.PathLike,
    *,
    train_list: str | os.PathLike | None = None,
    validation_list: str | os.PathLike | None = None,
    test_list: str | os.PathLike | None = None,
    class_list: str | os.PathLike | None = None,
    label_names: Sequence[str] | None = None,
    validation_fraction: float = 0.1,
    seed: int = 0,
    skip_missing: bool = False,
) -> DatasetDict:
    """Load Kinetics-Sounds.

    Args:
        root: the folder, see above.
        train_list, validation_list, test_list: lists in either form; by default those named in `LISTS`, else the
            folders. Where there is a list (or folder) of validation and none of test, it is taken as test: that is how
            the set is used, as Kinetics' test clips came without labels.
        class_list: file of class names in the order of their numbers, one a line or all on one line between commas;
            by default one of `CLASS_FILES` in `root`.
        label_names: the same, given at once. Without either, numbered lists get the numbers as names, as many as the
            largest number in them asks for, and named lists get `KINETICS_SOUNDS_CLASSES`.
        validation_fraction: share of the training clips, by whole source videos, that becomes validation where there
            is none; 0 leaves validation out.
        seed: of that choice.
        skip_missing: drop clips whose file is absent, with a warning, where the default is an error. Nobody has all
            clips: videos vanish from YouTube.

    Returns:
        DatasetDict with columns id (str, `<youtube id>_<start>_<end>`), media (`Video(decode=False)`: frames and
        sound), label (ClassLabel), youtube_id (str). Rows of named lists and folders whose class is none of the names
        (the rest of Kinetics-400) are left out.

    Raises:
        DataFormatError: no lists and no folders of classes, unreadable list lines (numbered), class numbers beyond the
            names, a clip with two classes or in two splits, absent files (counted, the first five named; 0 bytes
            count).
    """
    folder = Path(root)
    if not folder.is_dir():
        raise DataFormatError(f"{folder}: no such folder")
    files = _index(folder)
    lists = _find_lists(folder, {"train": train_list, "validation": validation_list, "test": test_list})
    parts = {name: _read_list(path) for name, path in lists.items()} if lists else _read_folders(folder, files)
    if not parts.get("train"):
        raise DataFormatError(
            f"{folder}: no list of training clips ({', '.join(LISTS['train'])}) and no folders train/<class>; name "
            "the list with train_list"
        )
    if "test" not in parts and "validation" in parts:
        parts["test"] = parts.pop("validation")
    _check_leaks(folder, parts)
    given = list(label_names) if label_names is not None else _read_classes(folder, class_list)
    names, numbers = _number_classes(folder, parts, given)
    for split, rows in parts.items():
        rows[:] = [_with_file(folder, files, split, row, numbers) for row in rows if row["label"] in numbers]
    parts = present_rows(folder, parts, skip_missing, "Download them into this folder as mp4")
    parts = carve_split(parts, lambda rows: [row["youtube_id"] for row in rows], validation_fraction, seed)
    return clip_splits(parts, ("id", "media", "label", "youtube_id"), label=ClassLabel(names=names))


# ---------------------------------------------------------------------------------------------------------------------
# Lists


def _find_lists(folder: Path, given: Mapping[str, str | os.PathLike | None]) -> dict[str, Path]:
    lists = split_lists(given, LISTS, folder)
    for name, path in list(lists.items()):
        columns = _header(path)[1]
        if given[name] is None and "youtube_id" in columns and "label" not in columns:
            logger.warning("%s: Kinetics' list of %s clips has no labels and is passed over", path, name)
            del lists[name]
    return lists


def _header(path: Path) -> tuple[str, list[str]]:
    """The first line of a list, and its fields in small letters."""
    line = next((line for _, line in list_lines(path)), "")
    return line, [field.strip().lower() for field in next(csv.reader([line]), [])]


def _read_list(path: Path) -> list[Row]:
    """Clips of a list in either form, each once."""
    first, columns = _header(path)
    named = "youtube_id" in columns

    def parse(number: int, line: str) -> Row | None:
        row = _kinetics_line(columns, line) if named else _numbered_line(line)
        if line == first if named else number == 1 and row is None and not any(map(str.isdigit, line)):
            return None  # a header
        if row is None:
            raise ValueError(f"{line[:80]!r} is not of the form name,10,class number")
        return row

    return read_clips(path, parse)


def _numbered_line(line: str) -> Row | None:
    """Clip of `name,10,3`, `name,3` or `name 3`; the name with or without suffix; None for any other line."""
    name, *numbers = [field.strip() for field in (line.split(",") if "," in line else line.split())]
    if len(numbers) not in (1, 2) or not (numbers[-1].isascii() and numbers[-1].isdigit()) or not name:
        return None
    if name.lower().endswith(_SUFFIXES):
        name = os.path.splitext(name)[0]
    seconds = int(numbers[0]) if len(numbers) == 2 and numbers[0].isdigit() else 10
    return _clip(os.path.basename(name), str(int(numbers[-1])), seconds)


def _kinetics_line(columns: Sequence[str], line: str) -> Row | None:
    """Clip of a line of Kinetics' own lists; None where fields are missing or the times are not numbers."""
    try:
        values = dict(zip(columns, next(csv.reader([line], strict=True)), strict=True))
        start, end = int(float(values["time_start"])), int(float(values["time_end"]))
    except (ValueError, KeyError, OverflowError, StopIteration, csv.Error):
        return None
    name = values["youtube_id"].strip()
    return _clip(f"{name}_{start:06d}_{end:06d}", _plain(values.get("label", ""))) if name else None


def _clip(name: str, label: str, seconds: int = 10) -> Row:
    """A clip of a file name, with the stems that its file may have. Ids hold `_` and may begin with `-` or `_`, so it
    is not split at them."""
    video, stems = name, [name]
    if match := _STARTED.fullmatch(name):
        # Lists of the OGM-GE code give the start alone, as a plain number.
        video, start = match[1], int(match[2])
        stems = [f"{video}_{start:06d}_{start + seconds:06d}", name, f"{video}_{start:06d}"]
    elif match := _TIMED.fullmatch(name):
        video = match[1]
    return {"id": stems[0], "youtube_id": video, "label": label, "stems": stems}


def _plain(name: str) -> str:
    """A class name as Kinetics writes it: `Playing_Piano` is `playing piano`."""
    return " ".join(name.replace("_", " ").strip().strip('"').lower().split())


def _read_classes(folder: Path, class_list: str | os.PathLike | None) -> list[str] | None:
    path = Path(class_list) if class_list is not None else find_file(folder, CLASS_FILES)
    if path is None:
        return None
    lines = [line for _, line in list_lines(path)]
    return [_plain(name) for name in (lines[0].split(",") if len(lines) == 1 else lines) if name.strip()]


# ---------------------------------------------------------------------------------------------------------------------
# Files


def _index(folder: Path) -> dict[str, list[str]]:
    """Stem to paths of every media file down to `_DEPTH` folders, MP4 first."""
    found: dict[str, list[str]] = {}
    for path in files_below(folder, _SUFFIXES, depth=_DEPTH, leave_out=("Image-",)):
        found.setdefault(os.path.splitext(os.path.basename(path))[0], []).append(path)
    for paths in found.values():
        paths.sort(key=lambda path: _SUFFIXES.index(os.path.splitext(path)[1].lower()))
    return found


def _read_folders(folder: Path, files: Mapping[str, Sequence[str]]) -> dict[str, list[Row]]:
    """Clips of `<split>/<class>/<clip>.mp4`."""
    parts: dict[str, dict[str, Row]] = {}
    problems: list[str] = []
    for stem, path in ((stem, path) for stem, paths in sorted(files.items()) for path in paths):
        place = Path(path).relative_to(folder).parts
        split = SPLIT_ALIASES.get(place[0].lower()) if len(place) == 3 else None
        if split is not None:
            row = _clip(stem, _plain(place[1]))
            if parts.setdefault(split, {}).setdefault(row["id"], row)["label"] != row["label"]:
                problems.append(f"{row['id']} is in two folders of {split}, one of them {place[1]}")
    raise_problems(folder, problems)
    return {split: list(rows.values()) for split, rows in parts.items()}


def _with_file(
    folder: Path, files: Mapping[str, Sequence[str]], split: str, row: Row, numbers: Mapping[str, int]
) -> Row:
    """The clip with the number of its class and its file, preferably in the folder of its split, or with its fault."""
    paths = [path for stem in row["stems"] for path in files.get(stem, ())] or [str(folder / f"{row['id']}.mp4")]
    paths.sort(key=lambda path: SPLIT_ALIASES.get(Path(path).relative_to(folder).parts[0].lower()) != split)
    return row | {"label": numbers[row["label"]]} | file_column("media", *paths, folder=folder)


# ---------------------------------------------------------------------------------------------------------------------
# Classes and columns


def _number_classes(
    folder: Path, parts: Mapping[str, Sequence[Row]], given: Sequence[str] | None
) -> tuple[list[str], dict[str, int]]:
    """The names of the classes in order, and the number of each label of the lists that is one of them, be the labels
    names or numbers; what looks wrong is warned of."""
    counts = Counter(row["label"] for row in chain(*parts.values()))
    digits = {label.isdigit() for label in counts}
    if len(digits) > 1:
        raise DataFormatError(f"{folder}: some lists number their classes and others name them")
    if digits == {True}:
        size = max(map(int, counts)) + 1
        names = list(map(str, range(size))) if given is None else list(given)
        if size > len(names):
            raise DataFormatError(
                f"{folder}: class number {size - 1}, but {len(names)} class names (0 to {len(names) - 1})"
            )
        if "0" not in counts:
            logger.warning("%s: no clip is of class 0; are the numbers counted from 1?", folder)
        labels = list(map(str, range(len(names))))
    else:
        labels = names = [_plain(name) for name in (KINETICS_SOUNDS_CLASSES if given is None else given)]
    if len(set(names)) < len(names):
        raise DataFormatError(f"{folder}: a class name comes twice")
    empty = [name for name, label in zip(names, labels, strict=True) if label not in counts]
    if len(empty) == len(names):
        raise DataFormatError(
            f"{folder}: no clip is of a class of Kinetics-Sounds; the classes are {sorted(counts)[:5]}"
        )
    warn_of(folder, "classes have no clips", empty)
    if len(names) != len(KINETICS_SOUNDS_CLASSES):
        logger.warning("%s: %d classes; the usual lists have 31, so figures do not compare", folder, len(names))
    return names, {label: number for number, label in enumerate(labels)}


def _check_leaks(folder: Path, parts: Mapping[str, Sequence[Row]]) -> None:
    clips = in_two_splits({split: [row["id"] for row in rows] for split, rows in parts.items()})
    if clips:
        raise DataFormatError(f"{folder}: {len(clips)} clips are in two splits: {name_some(clips)}")
    shared = in_two_splits({split: [row["youtube_id"] for row in rows] for split, rows in parts.items()})
    videos = ((split, row["youtube_id"]) for split, rows in parts.items() for row in rows)
    again = [video for split, video in videos if video in shared and shared[video][0] != split]
    warn_of(folder, "clips are cut from videos of another split", again)


SOURCE = Source(
    title="Kinetics-Sounds",
    about="Kinetics-Sounds: clips and lists, Kinetics' own lists, or folders of classes",
    read=load_kinetics_sounds,
)
