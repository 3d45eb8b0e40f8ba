"""CMU-MOSI and CMU-MOSEI as the CMU-MultimodalSDK publishes them: `.csd` files, one a stream.

Layout: paper notes, section 9. A computational sequence is an HDF5 file with one root group; under `data` a group for
each video (or segment, `video[3]`) with `features` (T, D) and `intervals` (T, 2) in seconds; under `metadata` strings
that should be JSON. Read with h5py through `safe_files`; the SDK is not needed.

What is done with them follows the SDK's own example: streams are averaged over each word, then segments are cut by
the intervals of the label file (`alignment` says what overlap is). Ours are the counts of what does not fit, the
masks, and the order: values that are not finite become 0 before they are averaged.
"""

import csv
import json
import math
import os
import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from importlib.resources import files as package_files
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import pyarrow as pa
from datasets import Dataset, DatasetDict, Features, List, Value

from .alignment import average_over, overlapping, usable_intervals
from .columns import (
    SPLITS,
    DataFormatError,
    logger,
    make_dataset,
    ordered_splits,
    ragged_column,
    raise_problems,
    replace_non_finite,
    sequence_feature,
    split_name,
)
from .safe_files import UnsafeFileError, open_h5, read_h5

if TYPE_CHECKING:
    import h5py

MOSEI_EMOTIONS = ("happy", "sad", "anger", "surprise", "disgust", "fear")
# The 5 of COVAREP's 74 and 20 of FACET 4.1's 47 columns that the small feature sets of CMU-MOSI keep.
COVAREP_5 = (1, 3, 6, 25, 60)
FACET_20 = (0, 2, 5, 10, 11, 12, 14, 17, 20, 21, 22, 24, 25, 29, 30, 31, 32, 36, 37, 40)
PAUSE = "sp"
MAX_ENTRY_BYTES = 2 * 2**30

MODALITIES = ("text", "vision", "audio")
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


class ComputationalSequence(Mapping[str, CsdEntry]):
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
        self._stack = ExitStack()
        try:
            file = self._stack.enter_context(open_h5(path))
            names = list(file)
            if len(names) != 1 or not hasattr(file[names[0]], "keys") or "data" not in file[names[0]]:
                found = ", ".join(map(repr, names[:5])) or "nothing"
                raise DataFormatError(f"{path}: wanted one root group that holds 'data'; the file has {found}")
            self.root_name: str = names[0]
            self._root = file[names[0]]
            self._data = self._root["data"]
            if not hasattr(self._data, "keys"):
                raise DataFormatError(f"{path}: {self.root_name}/data is no group")
            self._names = dict.fromkeys(self._data)
        except BaseException:
            self._stack.close()
            raise

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

    def __enter__(self) -> "ComputationalSequence":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def read_csd(path: str | os.PathLike, *, max_bytes: int = MAX_ENTRY_BYTES) -> ComputationalSequence:
    """Open one `.csd` file; see `ComputationalSequence`."""
    return ComputationalSequence(path, max_bytes=max_bytes)


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
    text = (package_files(__package__) / "folds" / f"cmu_{dataset}.json").read_text("utf-8")
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
    found = [path for path in sorted(folder.rglob("*.csd")) if path.is_file()]
    families = {path: _family(path.stem) for path in found}
    mixed = {families[path] for path in found} - {None}
    if dataset == "auto" and len(mixed) > 1:
        raise DataFormatError(f"{folder}: holds files of MOSI and of MOSEI; say which with dataset=")
    found = [path for path in found if dataset == "auto" or families[path] in (None, dataset)]
    names = {path: _plain_name(path.stem) for path in found}
    for path in found:
        if not any(re.fullmatch(p, names[path]) for patterns in _NAMES.values() for p in patterns):
            names[path] = _root_name(path)
    roles = {}
    for role in _ROLES:
        patterns = _NAMES[labels if role == "labels" else role]
        chosen = list(dict.fromkeys(path for p in patterns for path in found if re.fullmatch(p, names[path])))
        if role in given:
            roles[role] = given[role]
        elif chosen:
            roles[role] = chosen[0]
            if len(chosen) > 1:
                logger.info("%s: %s taken for %s; also there: %s", folder, chosen[0].name, role, _some(chosen[1:]))
    return roles


def _family(stem: str) -> str | None:
    match = re.search("mosei|mosi", stem.lower())
    return match[0] if match else None


def _plain_name(name: str) -> str:
    return re.sub("[^a-z0-9]", "", re.sub("^(cmu_?)?(mosei|mosi)_", "", name.lower()))


def _root_name(path: Path) -> str:
    try:
        with read_csd(path) as sequence:
            return _plain_name(sequence.root_name)
    except DataFormatError as error:
        logger.warning("%s; the file is passed over", error)
        return ""


def _some(names: Sequence[object]) -> str:
    shown = ", ".join(name.name if isinstance(name, Path) else str(name) for name in names[:5])
    return shown + (", ..." if len(names) > 5 else "")


def read_folds(source: Mapping[str, Sequence[str]] | str | os.PathLike) -> dict[str, str]:
    """Video id to split (train, validation, test).

    Args:
        source: split name to video ids; a JSON file of that; or a CSV with a column `video_id` (or video, id) and a
            column `split` (or mode, fold), one or more lines a video.

    Raises:
        DataFormatError: unreadable, an unknown split name, a video in two splits.
    """
    pairs: list[tuple[str, object]] = []
    if isinstance(source, Mapping):
        pairs = [(str(video), split) for split, videos in source.items() for video in videos]
    else:
        path = Path(source)
        try:
            text = path.read_text("utf-8-sig")
            if path.suffix.lower() == ".json":
                return read_folds(dict(json.loads(text)))
            rows = list(csv.DictReader(text.splitlines()))
            video, split = (
                next(name for name in names if rows and name in rows[0])
                for names in (("video_id", "video", "id"), ("split", "mode", "fold"))
            )
        except (OSError, ValueError, TypeError, RuntimeError, csv.Error) as error:
            raise DataFormatError(
                f"{path}: no folds can be read ({error}); wanted JSON of split to video ids, or CSV with the columns "
                "video_id and split"
            ) from error
        pairs = [(row[video], row[split]) for row in rows]
    folds: dict[str, str] = {}
    twice = []
    for name, value in pairs:
        if folds.setdefault(name, split_name(value)) != split_name(value):
            twice.append(name)
    if twice:
        raise DataFormatError(f"folds: {len(twice)} videos are in two splits: {_some(twice)}")
    return folds


# ---------------------------------------------------------------------------------------------------------------------
# Segments


class _Segment(NamedTuple):
    name: str
    start: float
    end: float
    values: np.ndarray


class _Track(NamedTuple):
    """One stream of one video or segment, sorted by time: `features` (T, D) or strings (T,), `intervals` (T, 2)."""

    features: np.ndarray
    intervals: np.ndarray


class _Material(NamedTuple):
    """What the segments of one video are cut from. With word alignment all share the words' intervals."""

    words: _Track | None
    clock: np.ndarray | None
    tracks: dict[str, _Track]
    counts: dict[str, np.ndarray]


class _Tally:
    """Counts of what did not fit, each with a few names."""

    def __init__(self) -> None:
        self._names: dict[str, list[str]] = {}
        self._counts: Counter[str] = Counter()

    def add(self, what: str, name: str, count: int = 1) -> None:
        self._counts[what] += count
        names = self._names.setdefault(what, [])
        if len(names) < 6 and name not in names:
            names.append(name)

    def warn(self, where: object) -> None:
        for what, names in self._names.items():
            logger.warning("%s: %s: %d (%s)", where, what, self._counts[what], _some(names))


class CsdRows:
    """The segments of a folder of `.csd` files, one video in memory at a time.

    Iterating gives (split, row), videos in the order of their names; a row is a dict whose sequences are arrays. It can
    be iterated again. What was left out or replaced is counted in warnings at the end. Arguments: `load_csd`'s.

    Attributes:
        features: the `datasets` types of a row's columns.
        num_segments: segments that lie in a fold and can be cut; rows can be fewer (see `load_csd`).
        files: the file that plays each part.
    """

    def __init__(
        self,
        root: str | os.PathLike,
        *,
        dataset: str = "auto",
        modalities: Sequence[str] | None = None,
        text: str = "words",
        labels: str = "sentiment",
        align: str = "words",
        keep_pauses: bool = False,
        missing: str = "none",
        skip_damaged: bool = False,
        columns: Mapping[str, Sequence[int]] | None = None,
        files: Mapping[str, str | os.PathLike] | None = None,
        folds: Mapping[str, Sequence[str]] | str | os.PathLike | None = None,
        label_range: tuple[float, float] | None = (-3.0, 3.0),
        max_bytes: int = MAX_ENTRY_BYTES,
    ):
        _check_choice("dataset", dataset, ("auto", "mosi", "mosei"))
        _check_choice("text", text, ("words", "vectors"))
        _check_choice("labels", labels, ("sentiment", "emotion"))
        _check_choice("align", align, ("words", "none"))
        _check_choice("missing", missing, ("none", "drop"))
        self.root = Path(root)
        self._labels, self._text, self._align, self._missing = labels, text, align, missing
        self._keep_pauses, self._skip_damaged, self._max_bytes = keep_pauses, skip_damaged, max_bytes
        self.files = find_csd_files(root, dataset=dataset, labels=labels, files=files)
        self.modalities = self._choose_modalities(modalities)
        self._streams = self._choose_streams()
        self._featured = [name for name in MODALITIES if name in self._streams]
        self._start = _Tally()
        problems: list[str] = []
        damaged: list[str] = []
        with ExitStack() as stack:
            sequences = self._open(stack)
            self._videos = self._read_labels(sequences["labels"], label_range, problems)
            scans = {role: self._scan(role, sequences[role], damaged) for role in dict.fromkeys(self._streams.values())}
        self._index = {role: index for role, (index, _) in scans.items()}
        self._widths = {role: width for role, (_, width) in scans.items()}
        if not skip_damaged:
            problems += damaged
        problems += [
            f"{self.files[role].name}: has none of the videos that the labels are for"
            for role, index in self._index.items()
            if not index and self._videos
        ]
        raise_problems(self.root, problems, "skip_damaged=True takes damaged entries for missing." if damaged else "")
        for fault in damaged:
            self._start.add("damaged entries, taken for missing", fault)
        self._columns = self._choose_columns(columns)
        self._splits = self._assign_folds(dataset, folds)
        self.num_segments = sum(len(self._videos[video]) for video in self._splits)

    # -- what is asked for -------------------------------------------------------------------------------------------

    def _choose_modalities(self, wanted: Sequence[str] | None) -> tuple[str, ...]:
        text_files = ("words", "word_vectors") if self._text == "words" else ("word_vectors",)
        found: list[str] = [name for name in ("vision", "audio") if name in self.files]
        if any(role in self.files for role in text_files):
            found.insert(0, "text")
        known = "CMU_MOSEI_Labels.csd" + (", CMU_MOSI_Opinion_Labels.csd" if self._labels == "sentiment" else "")
        problems = [] if "labels" in self.files else [f"no file of {self._labels} labels ({known})"]
        unknown = sorted(set(wanted or ()) - set(MODALITIES))
        if unknown:
            problems.append(f"modalities={tuple(wanted or ())}; choose from {', '.join(MODALITIES)}")
        elif wanted is not None:
            problems += [f"no file for {name}" for name in wanted if name not in found]
        elif not found:
            problems.append("no file of words, vision or audio")
        if self._align == "words" and not {"words", "word_vectors"} & set(self.files):
            problems.append('no file of words to align to (align="none" needs none)')
        here = _some(sorted(self.root.rglob("*.csd"))) or "none"
        raise_problems(self.root, problems, f"The .csd files there are: {here}. files= names them by part.")
        return tuple(name for name in MODALITIES if name in (found if wanted is None else wanted))

    def _choose_streams(self) -> dict[str, str]:
        """Use (words, text, vision, audio) to file. `words` gives the words, or the intervals to align to, or both."""
        streams: dict[str, str] = {name: name for name in ("vision", "audio") if name in self.modalities}
        if "words" in self.files and ("text" in self.modalities or self._align == "words"):
            streams["words"] = "words"
        elif self._align == "words":
            streams["clock"] = "word_vectors"
        if "text" in self.modalities and (self._text == "vectors" or "words" not in self.files):
            streams["text"] = "word_vectors"
        return streams

    def _open(self, stack: ExitStack) -> dict[str, ComputationalSequence]:
        roles = {"labels", *self._streams.values()}
        return {role: stack.enter_context(read_csd(self.files[role], max_bytes=self._max_bytes)) for role in roles}

    # -- checks before the first row ---------------------------------------------------------------------------------

    def _read_labels(
        self, sequence: ComputationalSequence, label_range: tuple[float, float] | None, problems: list[str]
    ) -> dict[str, list[_Segment]]:
        videos: dict[str, list[_Segment]] = {}
        for key in sorted(sequence, key=_natural_order):
            try:
                if _is_empty(*sequence.datasets(key)):
                    continue
                entry = sequence[key]
                fault = self._label_fault(entry, label_range)
            except UnsafeFileError:
                raise
            except DataFormatError as error:
                fault = str(error)
            if fault:
                problems.append(f"{self.files['labels'].name}: {key}: {fault}")
                continue
            self._check_segments(key, entry.intervals)
            for i, keep in enumerate(usable_intervals(entry.intervals)):
                name = key if "[" in key and len(entry.features) == 1 else f"{key}[{i}]"
                if not keep:
                    self._start.add("segments without length, left out", name)
                    continue
                start, end = map(float, entry.intervals[i])
                videos.setdefault(_video(key), []).append(_Segment(name, start, end, entry.features[i]))
        twice = [name for name, count in Counter(s.name for part in videos.values() for s in part).items() if count > 1]
        if twice:
            problems.append(f"{self.files['labels'].name}: {len(twice)} segments come twice: {_some(twice)}")
        if not videos and not problems:
            problems.append(f"{self.files['labels'].name}: holds no segment")
        return videos

    def _label_fault(self, entry: CsdEntry, label_range: tuple[float, float] | None) -> str | None:
        values, intervals = entry
        widths = (1, 7) if self._labels == "sentiment" else (6, 7)
        if values.ndim != 2 or values.dtype.kind not in "biuf" or values.shape[1] not in widths:
            kinds = " or ".join(map(str, widths))
            return f"labels are {values.dtype} {values.shape}; {self._labels} wants {kinds} numbers a segment"
        if intervals.shape != (len(values), 2):
            return f"{len(values)} labels, but intervals {intervals.shape}"
        if self._labels == "sentiment":
            values, bounds = values[:, :1], label_range
        else:
            values, bounds = values[:, -6:], (0.0, 3.0) if label_range is not None else None
        if not np.isfinite(values).all():
            return f"{int((~np.isfinite(values)).sum())} labels are not finite"
        outside = np.zeros(0) if bounds is None else values[(values < bounds[0] - 1e-6) | (values > bounds[1] + 1e-6)]
        return f"{len(outside)} labels lie outside {bounds}, e.g. {outside.flat[0]:g}" if outside.size else None

    def _check_segments(self, key: str, intervals: np.ndarray) -> None:
        repeats = len(intervals) - len(np.unique(intervals, axis=0))
        if repeats:
            self._start.add("segments that repeat an interval of their video, kept", key, repeats)

    def _scan(self, role: str, sequence: ComputationalSequence, damaged: list[str]) -> tuple[dict[str, list[str]], int]:
        """Video to names of its entries, without the damaged ones, and their width; reads shapes and types alone."""
        sound: list[tuple[str, int]] = []
        for key in sequence:
            if _video(key) not in self._videos:
                continue
            try:
                features, intervals = sequence.datasets(key)
                if _is_empty(features, intervals):
                    continue
                fault = _entry_fault(role, features, intervals)
                width = features.shape[1] if features.shape and len(features.shape) > 1 else 1
            except UnsafeFileError:
                raise
            except DataFormatError as error:
                fault, width = str(error), 0
            if fault:
                damaged.append(f"{self.files[role].name}: {key}: {fault}")
            else:
                sound.append((key, width))
        index: dict[str, list[str]] = {}
        usual = Counter(width for _, width in sound).most_common(1)[0][0] if sound else 0
        for key, width in sound:
            if width != usual:
                damaged.append(f"{self.files[role].name}: {key}: {width} features where most entries have {usual}")
            else:
                index.setdefault(_video(key), []).append(key)
        return {video: sorted(keys, key=_natural_order) for video, keys in index.items()}, usual

    def _choose_columns(self, wanted: Mapping[str, Sequence[int]] | None) -> dict[str, np.ndarray]:
        problems, chosen = [], {}
        for name, numbers in (wanted or {}).items():
            width = self._widths.get(self._streams.get(name, ""))
            if width is None:
                problems.append(f"columns: there are no features of {name!r}")
            elif not len(numbers) or not all(0 <= number < width for number in numbers):
                problems.append(f"columns: {name} has {width} features; {tuple(numbers)} are not all among them")
            else:
                chosen[name] = np.asarray(numbers, dtype=np.int64)
        raise_problems(self.root, problems)
        return chosen

    def _assign_folds(
        self, dataset: str, folds: Mapping[str, Sequence[str]] | str | os.PathLike | None
    ) -> dict[str, str]:
        """Video to split for the labelled videos that are in a fold."""
        if folds is None:
            known = [dataset] if dataset != "auto" else ["mosi", "mosei"]
            candidates = [read_folds(standard_folds(name)) for name in known]
            # No video is in both data sets.
            split_of = max(candidates, key=lambda table: len(table.keys() & self._videos.keys()))
        else:
            split_of = read_folds(folds)
        outside = [video for video in self._videos if video not in split_of]
        if len(outside) == len(self._videos):
            raise DataFormatError(
                f"{self.root}: none of the {len(outside)} labelled videos ({_some(outside)}) is in a fold; "
                "folds= takes a mapping or a file of other folds"
            )
        for video in outside:
            self._start.add("videos in no fold, left out", video)
        unlabelled = sorted(split_of.keys() - self._videos.keys())
        if unlabelled:
            logger.info("%s: %d videos of the folds have no label: %s", self.root, len(unlabelled), _some(unlabelled))
        return {video: split_of[video] for video in self._videos if video in split_of}

    # -- rows --------------------------------------------------------------------------------------------------------

    @property
    def features(self) -> Features:
        types: dict[str, Any] = {"id": Value("string")}
        if "words" in self._streams and "text" in self.modalities:
            types |= {"text": Value("string"), "words": List(Value("string"))}
        if "words" in self._streams or self._align == "words":
            types["word_intervals"] = sequence_feature("float32", 2)
        for name in self._featured:
            width = len(self._columns[name]) if name in self._columns else self._widths[self._streams[name]]
            types[f"{name}_features"] = sequence_feature("float32", width)
            if self._align == "words":
                types[f"{name}_attention_mask"] = sequence_feature("int64")
            else:
                types[f"{name}_intervals"] = sequence_feature("float32", 2)
        emotion = self._labels == "emotion"
        types["label"] = List(Value("float32"), length=len(MOSEI_EMOTIONS)) if emotion else Value("float32")
        return Features(types | {"video": Value("string"), "start": Value("float64"), "end": Value("float64")})

    def __iter__(self) -> Iterator[tuple[str, dict[str, Any]]]:
        tally = _Tally()
        with ExitStack() as stack:
            sequences = self._open(stack)
            for video, split in self._splits.items():
                for row in self._video_rows(sequences, video, tally):
                    yield split, row
        self._start.warn(self.root)
        tally.warn(self.root)

    def _video_rows(
        self, sequences: Mapping[str, ComputationalSequence], video: str, tally: _Tally
    ) -> Iterator[dict[str, Any]]:
        material, made_from = None, None
        for segment in self._videos[video]:
            # Files aligned before have entries named as the segment; raw ones one a video.
            keys = {
                role: [segment.name] if segment.name in (names := index.get(video, [])) else names
                for role, index in self._index.items()
            }
            if material is None or keys != made_from:
                material, made_from = self._material(sequences, video, keys, tally), keys
            row = self._row(video, segment, material, tally)
            if row is not None:
                yield row

    def _material(
        self,
        sequences: Mapping[str, ComputationalSequence],
        video: str,
        keys: Mapping[str, Sequence[str]],
        tally: _Tally,
    ) -> _Material:
        tracks: dict[str, _Track] = {}
        for use, role in self._streams.items():
            track = self._track(sequences[role], role, keys[role], tally)
            if track is not None and len(track.features):
                tracks[use] = track
        for name in self._columns.keys() & tracks.keys():
            tracks[name] = _Track(tracks[name].features[:, self._columns[name]], tracks[name].intervals)
        words, clock_track = tracks.pop("words", None), tracks.pop("clock", None)
        if words is not None and not self._keep_pauses:
            real = np.array([word != PAUSE for word in words.features])
            words = _Track(words.features[real], words.intervals[real])
        if self._align == "none":
            return _Material(words, None, tracks, {})
        source = words if words is not None else clock_track
        clock = np.zeros((0, 2)) if source is None else source.intervals
        counts = {}
        for name, track in tracks.items():
            if self._streams[name] == self._streams.get("clock"):
                counts[name] = np.ones(len(clock), dtype=np.int64)  # the vectors are the words themselves
            else:
                means, counts[name] = average_over(clock, track.intervals, track.features)
                tracks[name] = _Track(means, clock)
        return _Material(words, clock, tracks, counts)

    def _track(self, sequence: ComputationalSequence, role: str, keys: Sequence[str], tally: _Tally) -> _Track | None:
        try:
            entries = [sequence[key] for key in keys]
        except UnsafeFileError:
            raise
        except DataFormatError as error:
            if not self._skip_damaged:
                raise
            tally.add("damaged entries, taken for missing", str(error))
            entries = []
        if not entries:
            return None
        features = np.concatenate([entry.features for entry in entries])
        intervals = np.concatenate([entry.intervals for entry in entries])
        usable = usable_intervals(intervals)
        if not usable.all():
            what = "words" if role.startswith("word") else f"frames of {role}"
            tally.add(f"{what} without length, left out", keys[0], int((~usable).sum()))
        order = np.flatnonzero(usable)
        order = order[np.argsort(intervals[order, 0], kind="stable")]
        features, intervals = features[order], intervals[order]
        if role != "words":
            features, bad = replace_non_finite(features)
            if bad:
                tally.add(f"non-finite values of {role}, set to 0", keys[0], bad)
        return _Track(features, intervals)

    def _row(self, video: str, segment: _Segment, material: _Material, tally: _Tally) -> dict[str, Any] | None:
        row: dict[str, Any] = {"id": segment.name}
        words = material.words
        inside = overlapping(segment.start, segment.end, material.clock) if material.clock is not None else None
        if inside is not None and not len(inside):
            tally.add("segments without a word, left out", segment.name)
            return None
        of_words = np.empty(0, np.int64) if words is None else overlapping(segment.start, segment.end, words.intervals)
        if "words" in self._streams and "text" in self.modalities:
            spoken = [] if words is None else [str(word) for word in words.features[of_words]]
            row |= {"text": " ".join(spoken), "words": spoken}
        if material.clock is not None:
            row["word_intervals"] = material.clock[inside].astype(np.float32)
        elif "words" in self._streams:
            row["word_intervals"] = np.zeros((0, 2)) if words is None else words.intervals[of_words].astype(np.float32)
        for name in self._featured:
            row |= self._modality(name, segment, material, inside)
        absent = [name for name in self.modalities if _is_absent(name, row)]
        if len(absent) == len(self.modalities) or (absent and self._missing == "drop"):
            tally.add(f"segments without {' and '.join(absent)}, left out", segment.name)
            return None
        for name in absent:
            tally.add(f"segments without {name}, kept", segment.name)
        values = segment.values[-6:] > 0 if self._labels == "emotion" else segment.values[0]
        label = values.astype(np.float32)
        return row | {"label": label, "video": video, "start": segment.start, "end": segment.end}

    def _modality(
        self, name: str, segment: _Segment, material: _Material, inside: np.ndarray | None
    ) -> dict[str, np.ndarray | None]:
        extra = f"{name}_intervals" if inside is None else f"{name}_attention_mask"
        track = material.tracks.get(name)
        if track is None:
            return {f"{name}_features": None, extra: None}
        if inside is not None:
            mask = (material.counts[name][inside] > 0).astype(np.int64)
            values = (track.features[inside], mask) if mask.any() else (None, None)
        else:
            picked = overlapping(segment.start, segment.end, track.intervals)
            frames = (track.features[picked], track.intervals[picked].astype(np.float32))
            values = frames if len(picked) else (None, None)
        return dict(zip((f"{name}_features", extra), values, strict=True))


def _check_choice(name: str, value: str, choices: Sequence[str]) -> None:
    if value not in choices:
        raise DataFormatError(f"{name}={value!r}; choose from {', '.join(choices)}")


def _video(key: str) -> str:
    return key.split("[")[0]


def _natural_order(key: str) -> tuple[str, int, str]:
    """`video[10]` after `video[2]`."""
    match = re.fullmatch(r"(.*)\[(\d+)\]", key)
    return (match[1], int(match[2]), key) if match else (key, -1, key)


def _is_absent(name: str, row: Mapping[str, Any]) -> bool:
    keys = ("text_features", "text") if name == "text" else (f"{name}_features",)
    return all(row.get(key) is None or not len(row[key]) for key in keys)


def _is_empty(features: "h5py.Dataset", intervals: "h5py.Dataset") -> bool:
    """Whether an entry holds nothing, in whatever shape; such entries are as if absent."""
    return not features.size and not intervals.size


def _entry_fault(role: str, features: "h5py.Dataset", intervals: "h5py.Dataset") -> str | None:
    shape, times = features.shape, intervals.shape
    if shape is None or times is None or len(times) != 2 or times[1] != 2 or intervals.dtype.kind not in "iuf":
        return f"intervals are {intervals.dtype} {times}; wanted numbers (T, 2)"
    if role == "words":
        good = features.dtype.kind in "SO" and (len(shape) == 1 or math.prod(shape[1:]) == 1)
        wanted = "one string a row"
    else:
        good = features.dtype.kind in "biuf" and len(shape) == 2 and shape[1] > 0
        wanted = "numbers (T, D)"
    if not good:
        return f"features are {features.dtype} {shape}; wanted {wanted}"
    return None if shape[0] == times[0] else f"{shape[0]} rows of features for {times[0]} intervals"


def iter_csd(root: str | os.PathLike, **options: Any) -> CsdRows:
    """(split, row) of each segment, one video in memory at a time; `.features` holds the types.

    Args:
        root: folder of the `.csd` files.
        options: those of `load_csd`.
    """
    return CsdRows(root, **options)


def load_csd(
    root: str | os.PathLike,
    *,
    dataset: str = "auto",
    modalities: Sequence[str] | None = None,
    text: str = "words",
    labels: str = "sentiment",
    align: str = "words",
    keep_pauses: bool = False,
    missing: str = "none",
    skip_damaged: bool = False,
    columns: Mapping[str, Sequence[int]] | None = None,
    files: Mapping[str, str | os.PathLike] | None = None,
    folds: Mapping[str, Sequence[str]] | str | os.PathLike | None = None,
    label_range: tuple[float, float] | None = (-3.0, 3.0),
    max_bytes: int = MAX_ENTRY_BYTES,
) -> DatasetDict:
    """Load CMU-MOSI or CMU-MOSEI from a folder of `.csd` files, into memory (`iter_csd` needs only a video's worth).

    Alignment: each frame that overlaps a word counts equally in the word's mean, however long the overlap, as in the
    SDK's example. A word that overlaps a segment belongs to it, so one that crosses a border is in both. A word
    without frames gets zeros, and 0 in the modality's attention mask (the SDK has zeros alone).

    Args:
        root: folder of the files, at any depth; see `find_csd_files` for how each is recognised.
        dataset: "mosi", "mosei" or "auto": by the names of the files and the videos' ids.
        modalities: of text, vision, audio; None for all whose files are there.
        text: "words" for transcripts; "vectors" to have the word vectors as `text_features` too. Without a file of
            words the vectors serve for both: as text and as what to align to.
        labels: "sentiment", or "emotion": a list of 6, 1 where the rating of that emotion (`MOSEI_EMOTIONS`) is
            above 0.
        align: "words" brings every stream to the words; "none" keeps the frames of the segment with their own times.
        keep_pauses: keep the pause tokens `sp` among the words; they are dropped by default.
        missing: what becomes of a segment for which some modality has no frame: "none" keeps it with None there,
            "drop" leaves it out. Both count it.
        skip_damaged: take entries of wrong shape (rows of features and intervals that differ, another width, other
            types) for missing, with a warning, where the default is an error.
        columns: modality to the numbers of the features to keep, e.g. {"audio": COVAREP_5, "vision": FACET_20}.
        files: paths of files by part (labels, words, word_vectors, vision, audio), instead of recognition by name.
        folds: other folds than the standard ones; see `read_folds`.
        label_range: lowest and highest sentiment allowed; None for no check, of emotions (0 to 3) neither.
        max_bytes: most bytes of one array in a file.

    Returns:
        DatasetDict of train, validation, test with columns
            id: str, `video[3]`, the number being the row in the label file
            text: str, words: list of str (T,); with a file of words
            word_intervals: float32 (T, 2)
            text_features, vision_features, audio_features: float32 (T, D) or None
            text_attention_mask, ...: int64 (T,), with align="words"
            text_intervals, ...: float32 (T, 2), with align="none"
            label: float32, or float32 (6,) of 0 and 1
            video: str; start, end: float64
        Times are seconds from the start of the video. Left out, and counted in warnings: segments without length,
        segments in whose interval there is no word (align="words") or nothing at all, videos in no fold, words and
        frames without length. NaN and infinite features become 0 before averaging, with a count.

    Raises:
        DataFormatError: lists every fault: files not found, damaged entries, labels of wrong shape, not finite or
            out of range, no labelled video in any fold.
        UnsafeFileError, ImportError: see `safe_files.open_h5`.
    """
    rows = CsdRows(
        root,
        dataset=dataset,
        modalities=modalities,
        text=text,
        labels=labels,
        align=align,
        keep_pauses=keep_pauses,
        missing=missing,
        skip_damaged=skip_damaged,
        columns=columns,
        files=files,
        folds=folds,
        label_range=label_range,
        max_bytes=max_bytes,
    )
    parts: dict[str, list[dict[str, Any]]] = {split: [] for split in SPLITS}
    for split, row in rows:
        parts[split].append(row)
    if not any(parts.values()):
        raise DataFormatError(f"{root}: no segment is left; the warnings say why")
    return ordered_splits({split: _to_dataset(part, rows.features) for split, part in parts.items() if part})


def _to_dataset(rows: Sequence[Mapping[str, Any]], features: Features) -> Dataset:
    columns: dict[str, Any] = {}
    for name, kind in features.items():
        values = [row[name] for row in rows]
        # Strings and single values; sequences of numbers go to Arrow without Python objects in between.
        columns[name] = values if isinstance(kind, Value) or name == "words" else _sequences(values, kind)
    return make_dataset(columns, features)


def _sequences(values: Sequence[np.ndarray | None], kind: Any) -> pa.Array:
    """Arrow column of arrays (T, D) or (T,), null where a row has none."""
    if kind.length != -1:
        return pa.FixedSizeListArray.from_arrays(
            pa.array(np.stack([v for v in values if v is not None]).ravel()), kind.length
        )
    empty = np.zeros((0, kind.feature.length) if isinstance(kind.feature, List) else 0, dtype=_dtype(kind))
    arrays = [empty if value is None else value for value in values]
    column = ragged_column(np.concatenate(arrays).astype(empty.dtype, copy=False), [len(array) for array in arrays])
    absent = np.array([value is None for value in values])
    return pa.ListArray.from_arrays(column.offsets, column.values, mask=pa.array(absent)) if absent.any() else column


def _dtype(kind: Any) -> str:
    return _dtype(kind.feature) if isinstance(kind, List) else kind.dtype
