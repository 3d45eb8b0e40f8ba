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
from dataclasses import dataclass
from pathlib import Path

from datasets import ClassLabel, DatasetDict, Value, Video

from ..arrow import typed_splits
from ..columns import DataFormatError, carve_split, media_file, raise_problems
from ..files import file_fault, folder_with, list_lines, named_fault, present_rows, read_clips
from ..source import Source, has_files

FOLDS = (1, 2, 3)
_LIST_FOLDERS = ("ucfTrainTestlist", "UCF101TrainTestSplits-RecognitionTask/ucfTrainTestlist")
_VIDEO_FOLDERS = ("UCF-101", "UCF101", ".")
_FILE = re.compile(r"v_(\w+)_(g\d+)_c\d+\.\w+", re.ASCII)


@dataclass(frozen=True)
class _Clip:
    path: str  # as in the list: class/file.avi
    label: int
    group: str

    @property
    def name(self) -> str:
        return self.path.rsplit("/", 1)[1].rsplit(".", 1)[0]


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
    parts = {
        "train": _read_list(lists / f"trainlist{fold:02d}.txt", names, labelled=True),
        "test": _read_list(lists / f"testlist{fold:02d}.txt", names, labelled=False),
    }
    _check_groups(lists, parts)
    files = _ClipFiles(Path(root))

    def clip_fault(clip: _Clip) -> str | None:
        return named_fault(files.path(clip.path), files.folder)

    def flow_fault(clip: _Clip) -> str | None:
        return None if flows[clip.name] else f"{clip.name}.npz"

    parts = present_rows(files.folder, parts, clip_fault, skip_missing, "Unpack UCF101.rar there")
    flows: dict[str, str | None] = {}
    if flow is not None:
        flows = {clip.name: _flow_file(Path(flow), clip) for clips in parts.values() for clip in clips}
        advice = "Compute it with clcr_hf.data.flow.add_flow"
        parts = present_rows(flow, parts, flow_fault, skip_missing, advice)
    parts = carve_split(parts, lambda clip: clip.group, validation_fraction, seed)
    types = {
        "id": Value("string"),
        "video": Video(decode=False),
        "flow": Value("string"),
        "label": ClassLabel(names=names),
        "group": Value("string"),
    }
    rows = {
        split: [
            {"id": clip.name, "video": media_file(files.path(clip.path)), "flow": flows.get(clip.name)}
            | {"label": clip.label, "group": clip.group}
            for clip in clips
        ]
        for split, clips in parts.items()
    }
    return typed_splits(types, rows)


# ---------------------------------------------------------------------------------------------------------------------
# Lists


def _read_classes(path: Path) -> list[str]:
    names: list[str] = []
    problems = []
    for number, line in list_lines(path):
        fields = line.split()
        if len(fields) != 2 or fields[0] != str(len(names) + 1):
            problems.append(f"line {number}: {line!r} is not `{len(names) + 1} <class>`")
        else:
            names.append(fields[1])
    if not names or len({name.lower() for name in names}) < len(names):
        problems.append("the classes are not distinct")
    raise_problems(path, problems)
    return names


def _read_list(path: Path, names: list[str], labelled: bool) -> list[_Clip]:
    """The clips of a list. Classes are found without regard to case: `HandstandPushups` is written in two ways."""
    numbers = {name.lower(): i for i, name in enumerate(names)}
    form = "class/v_class_gNN_cNN.avi" + (" number" if labelled else "")

    def parse(number: int, line: str) -> _Clip:
        fields = line.replace("\\", "/").split()
        folder, _, file = fields[0].rpartition("/")
        label, parts = numbers.get(folder.lower()), _FILE.fullmatch(file)
        if len(fields) > 2 or (labelled and len(fields) != 2) or parts is None:
            raise ValueError(f"{line!r} is not of the form {form}")
        if label is None:
            raise ValueError(f"{folder!r} is no class of classInd.txt")
        if parts[1].lower() != folder.lower():
            raise ValueError(f"{file} is named after another class than its folder {folder}")
        if len(fields) == 2 and fields[1] != str(label + 1):
            raise ValueError(f"{fields[1]} is not the number of {folder}, which is {label + 1}")
        return _Clip(fields[0], label, parts[2])

    return read_clips(path, parse, repeats=False)


def _check_groups(where: Path, parts: dict[str, list[_Clip]]) -> None:
    train = {(clip.label, clip.group) for clip in parts["train"]}
    shared = [clip.name for clip in parts["test"] if (clip.label, clip.group) in train]
    if shared:
        raise DataFormatError(
            f"{where}: {len(shared)} test clips are of a group that is also in train (first: {', '.join(shared[:5])}); "
            "take both lists of one split, as they came"
        )


# ---------------------------------------------------------------------------------------------------------------------
# Files


class _ClipFiles:
    """Finds clips without regard to case, listing each class folder once."""

    def __init__(self, root: Path):
        self.folder = next((root / name for name in _VIDEO_FOLDERS[:-1] if (root / name).is_dir()), root)
        self.classes = self._list(self.folder)
        self.clips: dict[str, dict[str, str]] = {}

    def path(self, name: str) -> str:
        """Absolute path of `class/file.avi`; of an absent clip, where it should be."""
        folder, _, file = name.rpartition("/")
        there = self.classes.get(folder.lower(), folder)
        if there not in self.clips:
            self.clips[there] = self._list(self.folder / there)
        return os.path.abspath(self.folder / there / self.clips[there].get(file.lower(), file))

    @staticmethod
    def _list(folder: Path) -> dict[str, str]:
        return {name.lower(): name for name in sorted(os.listdir(folder))} if folder.is_dir() else {}


def _flow_file(folder: Path, clip: _Clip) -> str | None:
    """The flow file of a clip; None where it cannot be used."""
    places = (folder / f"{clip.name}.npz", folder / clip.path.rpartition("/")[0] / f"{clip.name}.npz")
    return next((os.path.abspath(place) for place in places if file_fault(place) is None), None)


SOURCE = Source(
    "ucf101",
    title="UCF101, split {fold}",
    about="UCF101: clips, lists of the three splits, optical flow",
    read=load_ucf101,
    recognise=has_files("ucfTrainTestlist"),
)
