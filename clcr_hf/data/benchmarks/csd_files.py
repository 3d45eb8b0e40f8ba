"""Files of the CMU-MultimodalSDK: reading one `.csd`, finding the one for each part, and the folds.

Layout: paper notes, section 9. A computational sequence is an HDF5 file with one root group; under `data` a group for
each video (or segment, `video[3]`) with `features` (T, D) and `intervals` (T, 2) in seconds; under `metadata` strings
that should be JSON. Read with h5py through `safe_files`; the SDK is not needed.
"""

import csv
import json
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from ..columns import DataFormatError, in_two_splits, logger, name_some, raise_problems, split_name
from ..errors import format_error
from ..files import files_below
from ..untrusted.arrays import open_h5, read_h5

if TYPE_CHECKING:
    import h5py

MAX_ENTRY_BYTES = 2 * 2**30

_ROLES = ("labels", "words", "word_vectors", "vision", "audio")
# File names without `CMU_MOSI_` and root names, in small letters and digits; the first that is found is taken.
_NAMES: dict[str, tuple[str, ...]] = {
    "sentiment": ("(opinion|opinionsegment|all)?labels", "labelssentiment|sentimentlabels"),
    "emotion": ("(all)?labels", "labelsemotions|emotionlabels"),
    "words": ("modifiedtimestampedwords", "(timestamped)?words"),
    "word_vectors": ("timestampedwordvectors(11)?", "(timestamped)?(glove|word)vectors"),
    "vision": ("(visual)?facet42", "(visual)?facet41", "(visual)?openface(20?)?", "(visual)?openface10?"),
    "audio": ("covarep", "opensmileis09", "opensmile(eb10|emobase2010)?"),
}


# ---------------------------------------------------------------------------------------------------------------------
# One file


class CsdEntry(NamedTuple):
    """One video or segment: `features` (T, D) or strings (T,), and `intervals` float64 (T, 2) in seconds."""

    features: np.ndarray
    intervals: np.ndarray


class ComputationalSequence(Mapping[str, CsdEntry], AbstractContextManager["ComputationalSequence"]):
    """One `.csd` file as a read-only mapping of names to entries, which are read when asked for.

    A context manager; `close` it otherwise. `keys()` reads nothing but names.

    Args:
        path: the file.
        max_bytes: most bytes that one array of it may take.

    Raises:
        FileNotFoundError, DataFormatError: no such file; not HDF5; not exactly one root group with `data`.
        UnsafeFileError: see `safe_files`. On access too.
    """

    def __init__(self, path: str | os.PathLike, *, max_bytes: int = MAX_ENTRY_BYTES):
        self.path = Path(path)
        self.max_bytes = max_bytes
        with ExitStack() as stack:
            file = stack.enter_context(open_h5(path))
            names = list(file)
            if len(names) != 1 or not hasattr(file[names[0]], "keys") or "data" not in file[names[0]]:
                found = ", ".join(map(repr, names[:5])) or "nothing"
                raise DataFormatError(f"{path}: wanted one root group that holds 'data'; the file has {found}")
            self.root_name: str = names[0]
            self._root = file[self.root_name]
            self._data = self._root["data"]
            if not hasattr(self._data, "keys"):
                raise DataFormatError(f"{path}: {self.root_name}/data is no group")
            self._names = dict.fromkeys(self._data)
            self._stack = stack.pop_all()

    @property
    def metadata(self) -> dict[str, Any]:
        """The metadata, parsed where they are JSON; published files also hold plain text."""
        if "metadata" not in self._root or not hasattr(self._root["metadata"], "keys"):
            return {}
        group = self._root["metadata"]
        return {name: _metadata_value(group[name]) for name in group}

    def datasets(self, name: str) -> "tuple[h5py.Dataset, h5py.Dataset]":
        """Features and intervals of an entry, unread; DataFormatError when either is absent."""
        if name not in self._names:
            raise KeyError(name)
        entry = self._data[name]
        missing = [part for part in ("features", "intervals") if not hasattr(entry, "keys") or part not in entry]
        if missing:
            raise DataFormatError(f"{self.path}: entry {name!r} has no {' and no '.join(missing)}")
        return entry["features"], entry["intervals"]

    def __getitem__(self, name: str) -> CsdEntry:
        features, intervals = (read_h5(part, self.max_bytes) for part in self.datasets(name))
        if features.dtype.kind == "S":
            features = np.char.decode(features, "utf-8", "replace")
        if features.dtype.kind in "OU":
            features = features.reshape(len(features), -1)[:, 0] if features.size else features.reshape(-1)
        return CsdEntry(features, np.asarray(intervals, dtype=np.float64))

    def __iter__(self) -> Iterator[str]:
        return iter(self._names)

    def __len__(self) -> int:
        return len(self._names)

    def __contains__(self, name: object) -> bool:
        return name in self._names

    def close(self) -> None:
        self._stack.close()

    def __exit__(self, *_: object) -> None:
        self.close()


read_csd = ComputationalSequence


def _metadata_value(dataset: Any) -> Any:
    if hasattr(dataset, "keys"):
        return {name: _metadata_value(dataset[name]) for name in dataset}
    values = read_h5(dataset, 2**24).reshape(-1)
    if not len(values):
        return None
    value = values[0].decode("utf-8", "replace") if isinstance(values[0], bytes) else values[0]
    try:
        return json.loads(value)
    except (TypeError, ValueError):
        return value.item() if isinstance(value, np.generic) else value


# ---------------------------------------------------------------------------------------------------------------------
# Which files, which folds


def standard_folds(dataset: str) -> dict[str, tuple[str, ...]]:
    """The SDK's folds: video ids of train, validation and test (MOSI 52 / 10 / 31, MOSEI 2249 / 300 / 678)."""
    if dataset not in ("mosi", "mosei"):
        raise DataFormatError(f"no standard folds for {dataset!r}; they are known for mosi and mosei")
    text = (Path(__file__).parent / "folds" / f"cmu_{dataset}.json").read_text("utf-8")
    return {split: tuple(videos) for split, videos in json.loads(text).items()}


def find_csd_files(
    root: str | os.PathLike,
    *,
    dataset: str = "auto",
    labels: str = "sentiment",
    files: Mapping[str, str | os.PathLike] | None = None,
) -> dict[str, Path]:
    """Which `.csd` file under `root` (at any depth) plays which part.

    By file name, else by the name of the root group. Where several fit, FACET 4.2 goes before 4.1 and OpenFace, and
    COVAREP before openSMILE; the log says which were passed over.

    Args:
        root: folder.
        dataset: "mosi" or "mosei" leaves out files named after the other; "auto" refuses a mixture.
        labels: "sentiment" or "emotion", which chooses among MOSEI's label files.
        files: paths, from `root` or absolute, by part: labels, words, word_vectors, vision, audio. They go first.

    Returns:
        Part to path, for the parts that were found.

    Raises:
        DataFormatError: no such folder or file, an unknown part, two data sets mixed.
    """
    folder = Path(root)
    if not folder.is_dir():
        raise DataFormatError(f"{folder}: no such folder; it should hold the .csd files")
    given = {role: folder / path for role, path in (files or {}).items()}
    problems = [f"unknown part {role!r} (known: {', '.join(_ROLES)})" for role in given if role not in _ROLES]
    problems += [f"no such file: {path}" for path in given.values() if not path.is_file()]
    raise_problems(folder, problems)
    found = [path for path in all_csd_files(folder) if dataset == "auto" or _family(path) in (None, dataset)]
    if len({_family(path) for path in found} - {None}) > 1:
        raise DataFormatError(f"{folder}: holds files of MOSI and of MOSEI; say which with dataset=")
    names = {path: _name(path) for path in found}
    roles = {}
    for role in _ROLES:
        patterns = _NAMES[labels if role == "labels" else role]
        chosen = list(dict.fromkeys(path for p in patterns for path in found if re.fullmatch(p, names[path])))
        if role in given:
            roles[role] = given[role]
        elif chosen:
            roles[role] = chosen[0]
            others = name_some(path.name for path in chosen[1:])
            if others:
                logger.info("%s: %s taken for %s; also there: %s", folder, chosen[0].name, role, others)
    return roles


def all_csd_files(folder: str | os.PathLike) -> list[Path]:
    """The `.csd` files in a folder, at any depth."""
    return sorted(map(Path, files_below(folder, (".csd",))))


def _family(path: Path) -> str | None:
    match = re.search("mosei|mosi", path.stem.lower())
    return match[0] if match else None


def _name(path: Path) -> str:
    """The name of a file, or of its root group where that of the file is not known."""
    name = _plain(path.stem)
    if any(re.fullmatch(pattern, name) for patterns in _NAMES.values() for pattern in patterns):
        return name
    try:
        with read_csd(path) as sequence:
            return _plain(sequence.root_name)
    except DataFormatError as error:
        logger.warning("%s; the file is passed over", error)
        return ""


def _plain(name: str) -> str:
    return re.sub("[^a-z0-9]", "", re.sub("^(cmu_?)?(mosei|mosi)_", "", name.lower()))


def read_folds(source: Mapping[str, Sequence[str]] | str | os.PathLike) -> dict[str, str]:
    """Video id to split (train, validation, test).

    Args:
        source: split name to video ids; a JSON file of that; or a CSV with a column `video_id` (or video, id) and a
            column `split` (or mode, fold), one or more lines a video.

    Raises:
        DataFormatError: unreadable, an unknown split name, a video in two splits.
    """
    parts: dict[str, list[str]] = {}
    for split, videos in (source if isinstance(source, Mapping) else _read_fold_file(Path(source))).items():
        parts.setdefault(split_name(split), []).extend(map(str, videos))
    twice = in_two_splits(parts)
    if twice:
        raise DataFormatError(f"folds: {len(twice)} videos are in two splits: {name_some(twice)}")
    return {video: split for split, videos in parts.items() for video in videos}


def _read_fold_file(path: Path) -> dict[str, list[str]]:
    advice = "; wanted JSON of split to video ids, or CSV with the columns video_id and split"
    kinds = (OSError, ValueError, TypeError, RuntimeError, csv.Error)
    with format_error(f"{path}: no folds can be read", *kinds, advice=advice):
        text = path.read_text("utf-8-sig")
        if path.suffix.lower() == ".json":
            return {split: list(videos) for split, videos in dict(json.loads(text)).items()}
        rows = list(csv.DictReader(text.splitlines()))
        video, split = (
            next(name for name in names if rows and name in rows[0])
            for names in (("video_id", "video", "id"), ("split", "mode", "fold"))
        )
    names = dict.fromkeys(row[split] for row in rows)
    return {name: [row[video] for row in rows if row[split] == name] for name in names}
