"""UCF101: 13,320 clips of 101 actions.

The folder as its authors' two archives unpack (paper section 9):

    UCF-101/ApplyEyeMakeup/v_ApplyEyeMakeup_g08_c01.avi
    ucfTrainTestlist/classInd.txt               `1 ApplyEyeMakeup`
    ucfTrainTestlist/trainlist01.txt            `ApplyEyeMakeup/v_ApplyEyeMakeup_g08_c01.avi 1`, 9,537 lines
    ucfTrainTestlist/testlist01.txt             the same without the number, 3,783 lines
    ... lists 02 and 03

The clips of one class and group (`g08`) were cut from one video, with the same people in the same place; the lists
keep groups whole, and so does the validation carved here.
"""

import os
import re
from collections.abc import Callable
from functools import cache
from pathlib import Path

from datasets import ClassLabel, DatasetDict

from ..columns import DataFormatError, carve_split, in_two_splits, name_some
from ..files import file_fault, folder_with
from ..source import Row, Source, has_files
from .lists import clip_splits, file_column, parsed_lines, present_rows, read_clips

FOLDS = (1, 2, 3)
_LIST_FOLDERS = ("ucfTrainTestlist", "UCF101TrainTestSplits-RecognitionTask/ucfTrainTestlist")
_VIDEO_FOLDERS = ("UCF-101", "UCF101")
_FILE = re.compile(r"v_(\w+)_(g\d+)_c\d+\.\w+", re.ASCII)


def load_ucf101(
    root: str | os.PathLike,
    *,
    fold: int = 1,
    validation_fraction: float = 0.1,
    seed: int = 0,
    flow: str | os.PathLike | None = None,
    skip_missing: bool = False,
) -> DatasetDict:
    """Load UCF101 on one of its three splits.

    The lists have no validation, so it is carved from train: groups of one number are drawn by `seed` in all classes
    together, so that every class is in it (as the authors' own test split takes groups 1 to 7 of every class).

    Args:
        root: the folder of `UCF-101` and `ucfTrainTestlist`.
        fold: 1, 2 or 3.
        validation_fraction: share of the training clips; 0 leaves validation out.
        flow: folder of flow files `<clip>.npz` as `clcr_hf.data.flow` writes them, here or in a folder for each
            class. Without it the column is None throughout; `clcr_hf.data.flow.add_flow` fills it from the videos.
        skip_missing: drop clips whose file (or flow) is absent or empty, with a warning, where the default is an error.

    Returns:
        DatasetDict with columns
            id (str, the clip's name without ending),
            video (`Video(decode=False)`),
            flow (str, path of an .npz, or None),
            label (ClassLabel, the classes of `classInd.txt`),
            group (str, `g08`; the numbers are counted anew in every class).

    Raises:
        DataFormatError: no such layout, unreadable lines (numbered), unknown classes, a number in the training list
            that is another class's than the folder's, a clip twice or in both lists, a group in both lists, absent
            files (counted, the first five named).
    """
    if fold not in FOLDS:
        raise DataFormatError(f"fold={fold!r}; UCF101 has splits 1, 2 and 3")
    advice = f"give the folder that holds {_LIST_FOLDERS[0]}"
    lists = folder_with(Path(root), _LIST_FOLDERS, "classInd.txt", advice)
    names = _read_classes(lists / "classInd.txt")
    files = {split: lists / f"{split}list{fold:02d}.txt" for split in ("train", "test")}
    parts = {split: _read_list(file, names, labelled=split == "train") for split, file in files.items()}
    _check_groups(lists, parts)
    videos = next((path for name in _VIDEO_FOLDERS if (path := Path(root) / name).is_dir()), Path(root))
    find = _finder(videos)
    for row in [*parts["train"], *parts["test"]]:
        row |= file_column("video", find(row["path"]), folder=videos)
    parts = present_rows(videos, parts, skip_missing, "Unpack UCF101.rar there")
    if flow is not None:
        for row in [*parts["train"], *parts["test"]]:
            row["flow"] = _flow_file(Path(flow), row)
            row["fault"] = None if row["flow"] else f"{row['id']}.npz"
        parts = present_rows(flow, parts, skip_missing, "Compute it with clcr_hf.data.flow.add_flow")
    parts = carve_split(parts, lambda rows: [row["group"] for row in rows], validation_fraction, seed)
    return clip_splits(parts, ("id", "video", "flow", "label", "group"), label=ClassLabel(names=names))


# ---------------------------------------------------------------------------------------------------------------------
# Lists


def _read_classes(path: Path) -> list[str]:
    names: list[str] = []

    def parse(_: int, line: str) -> None:
        fields = line.split()
        if len(fields) != 2 or fields[0] != str(len(names) + 1):
            raise ValueError(f"{line!r} is not `{len(names) + 1} <class>`")
        names.append(fields[1])

    parsed_lines(path, parse)
    if not names or len({name.lower() for name in names}) < len(names):
        raise DataFormatError(f"{path}: the classes are not distinct")
    return names


def _read_list(path: Path, names: list[str], labelled: bool) -> list[Row]:
    """The clips of a list. Classes are found without regard to case: `HandstandPushups` is written in two ways."""
    numbers = {name.lower(): i for i, name in enumerate(names)}
    form = "class/v_class_gNN_cNN.avi" + (" number" if labelled else "")

    def parse(_: int, line: str) -> Row:
        place, *number = line.replace("\\", "/").split()
        folder, file = os.path.split(place)
        label, parts = numbers.get(folder.lower()), _FILE.fullmatch(file)
        if len(number) > 1 or (labelled and not number) or parts is None:
            raise ValueError(f"{line!r} is not of the form {form}")
        if label is None:
            raise ValueError(f"{folder!r} is no class of classInd.txt")
        if parts[1].lower() != folder.lower():
            raise ValueError(f"{file} is named after another class than its folder {folder}")
        if number and number[0] != str(label + 1):
            raise ValueError(f"{number[0]} is not the number of {folder}, which is {label + 1}")
        return {"id": os.path.splitext(file)[0], "path": place, "label": label, "group": parts[2], "flow": None}

    return read_clips(path, parse, repeats=False)


def _check_groups(where: Path, parts: dict[str, list[Row]]) -> None:
    shared = in_two_splits({split: [(row["label"], row["group"]) for row in rows] for split, rows in parts.items()})
    clips = [row["id"] for row in parts["test"] if (row["label"], row["group"]) in shared]
    if clips:
        raise DataFormatError(
            f"{where}: {len(clips)} test clips are of a group that is also in train (first: {name_some(clips)}); take "
            "both lists of one split, as they came"
        )


# ---------------------------------------------------------------------------------------------------------------------
# Files


def _finder(folder: Path) -> Callable[[str], Path]:
    """Gives the path of `class/file.avi`, found without regard to case; of an absent clip, where it should be."""

    @cache
    def spellings(place: Path) -> dict[str, str]:
        return {name.lower(): name for name in sorted(os.listdir(place))} if place.is_dir() else {}

    def find(name: str) -> Path:
        place = folder
        for step in name.split("/"):
            place /= spellings(place).get(step.lower(), step)
        return place

    return find


def _flow_file(folder: Path, row: Row) -> str | None:
    """The flow file of a clip; None where it cannot be used."""
    places = (folder / f"{row['id']}.npz", folder / os.path.dirname(row["path"]) / f"{row['id']}.npz")
    return next((os.path.abspath(place) for place in places if file_fault(place) is None), None)


SOURCE = Source(
    title="UCF101, split {fold}",
    about="UCF101: clips, lists of the three splits, optical flow",
    read=load_ucf101,
    recognise=has_files("ucfTrainTestlist"),
)
