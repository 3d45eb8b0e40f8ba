"""CMU-MOSI and CMU-MOSEI as the CMU-MultimodalSDK publishes them: `.csd` files, one a stream.

`csd_files` reads the files and knows the folds; here the streams are aligned and the segments cut, one video in memory
at a time.

What is done with them follows the SDK's own example: streams are averaged over each word, then segments are cut by
the intervals of the label file (`alignment` says what overlap is). Ours are the counts of what does not fit, the
masks, and the order: values that are not finite become 0 before they are averaged.
"""

import math
import os
import re
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from datasets import DatasetDict, Features, List, Value

from ..alignment import average_over, overlapping, usable_intervals
from ..columns import check_choice, logger, name_some, raise_problems, replace_non_finite, sequence_feature
from ..errors import DataFormatError
from ..source import Row, Source, find_source, has_files
from ..untrusted.arrays import UnsafeFileError
from .csd_files import (
    MAX_ENTRY_BYTES,
    ComputationalSequence,
    CsdEntry,
    all_csd_files,
    find_csd_files,
    read_csd,
    read_folds,
    standard_folds,
)
from .lists import noted

if TYPE_CHECKING:
    import h5py

MOSEI_EMOTIONS = ("happy", "sad", "anger", "surprise", "disgust", "fear")
MODALITIES = ("text", "vision", "audio")
PAUSE = "sp"
_DAMAGED = "damaged entries, taken for missing"
_NO_WORDS = CsdEntry(np.empty(0, dtype=object), np.empty((0, 2)))
# The 5 of COVAREP's 74 and 20 of FACET 4.1's 47 columns that the small feature sets of CMU-MOSI keep.
COVAREP_5 = (1, 3, 6, 25, 60)
FACET_20 = (0, 2, 5, 10, 11, 12, 14, 17, 20, 21, 22, 24, 25, 29, 30, 31, 32, 36, 37, 40)


# What did not fit: the names, with how often, of each kind.
_Tally = defaultdict[str, Counter[str]]
_Sequences = Mapping[str, ComputationalSequence]  # by the part that each plays


class _Segment(NamedTuple):
    name: str
    start: float
    end: float
    label: np.ndarray


class _Material(NamedTuple):
    """What the segments of one video are cut from: the words, or what else is aligned to, and streams by modality, all
    sorted by time. With word alignment these have the words' intervals, and `counts` how many frames each is of."""

    words: CsdEntry
    tracks: dict[str, CsdEntry]
    counts: dict[str, np.ndarray]


class CsdRows:
    """The segments of CMU-MOSI or CMU-MOSEI in a folder of `.csd` files, one video in memory at a time.

    Iterating gives (split, row), videos in the order of their names; a row is a dict whose sequences are arrays. It can
    be iterated again. What was left out or replaced is counted in warnings at the end.

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

    Yields:
        split (train, validation, test) and a row with
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

    Attributes:
        features: the `datasets` types of a row's columns.
        num_segments: segments that lie in a fold and can be cut; rows can be fewer.
        files: the file that plays each part.
        title: what people call these data.
        label_names: the emotions, of `labels="emotion"`.
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
        check_choice("dataset", dataset, ("auto", "mosi", "mosei"))
        check_choice("text", text, ("words", "vectors"))
        check_choice("labels", labels, ("sentiment", "emotion"))
        check_choice("align", align, ("words", "none"))
        check_choice("missing", missing, ("none", "drop"))
        self.root = Path(root)
        self.title = "CMU-MOSEI emotions" if labels == "emotion" else ""
        self.label_names = MOSEI_EMOTIONS if labels == "emotion" else None
        self._labels, self._text, self._align, self._missing = labels, text, align, missing
        self._keep_pauses, self._skip_damaged, self._max_bytes = keep_pauses, skip_damaged, max_bytes
        self.files = find_csd_files(root, dataset=dataset, labels=labels, files=files)
        self.modalities = self._choose_modalities(modalities)
        self._streams = self._choose_streams()
        self._beside = "attention_mask" if align == "words" else "intervals"
        self._featured = [name for name in MODALITIES if name in self._streams]
        self._start: _Tally = defaultdict(Counter)
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
        for role, index in self._index.items():
            if self._videos and not index:
                problems.append(f"{self.files[role].name}: has none of the videos that the labels are for")
        raise_problems(self.root, problems, "skip_damaged=True takes damaged entries for missing." if damaged else "")
        self._start[_DAMAGED].update(damaged)
        self._columns = self._choose_columns(columns)
        self._splits = self._assign_folds(dataset, folds)
        self.num_segments = sum(len(self._videos[video]) for video in self._splits)

    # -- what is asked for -------------------------------------------------------------------------------------------

    def _choose_modalities(self, wanted: Sequence[str] | None) -> tuple[str, ...]:
        files = {"text": {"word_vectors", "words"} if self._text == "words" else {"word_vectors"}}
        files |= {name: {name} for name in ("vision", "audio")}
        found = [name for name in MODALITIES if files[name] & self.files.keys()]
        known = "CMU_MOSEI_Labels.csd" + (", CMU_MOSI_Opinion_Labels.csd" if self._labels == "sentiment" else "")
        problems = [] if "labels" in self.files else [f"no file of {self._labels} labels ({known})"]
        unknown = sorted(set(wanted or ()) - set(MODALITIES))
        if unknown:
            problems.append(f"modalities={tuple(wanted or ())}; choose from {', '.join(MODALITIES)}")
        elif wanted is not None:
            problems += [f"no file for {name}" for name in wanted if name not in found]
        elif not found:
            problems.append("no file of words, vision or audio")
        if self._align == "words" and not {"words", "word_vectors"} & self.files.keys():
            problems.append('no file of words to align to (align="none" needs none)')
        if problems:
            here = name_some(path.name for path in all_csd_files(self.root)) or "none"
            raise_problems(self.root, problems, f"The .csd files there are: {here}. files= names them by part.")
        return tuple(name for name in MODALITIES if name in (found if wanted is None else wanted))

    def _choose_streams(self) -> dict[str, str]:
        """Use (words, text, vision, audio) to file. `words` gives the words, or the intervals to align to, or both."""
        streams: dict[str, str] = {name: name for name in ("vision", "audio") if name in self.modalities}
        wants_text, has_words = "text" in self.modalities, "words" in self.files
        if self._align == "words" or (wants_text and has_words):
            streams["words"] = "words" if has_words else "word_vectors"
        if wants_text and (self._text == "vectors" or not has_words):
            streams["text"] = "word_vectors"
        return streams

    @property
    def _spoken(self) -> bool:
        """Whether rows have a transcript."""
        return self._streams.get("words") == "words" and "text" in self.modalities

    def _open(self, stack: ExitStack) -> _Sequences:
        roles = {"labels", *self._streams.values()}
        return {role: stack.enter_context(read_csd(self.files[role], max_bytes=self._max_bytes)) for role in roles}

    # -- checks before the first row ---------------------------------------------------------------------------------

    def _read_labels(
        self, sequence: ComputationalSequence, label_range: tuple[float, float] | None, problems: list[str]
    ) -> dict[str, list[_Segment]]:
        videos: dict[str, list[_Segment]] = {}
        file = self.files["labels"].name
        for key in sorted(sequence, key=_natural_order):
            with noted(problems, f"{file}: {key}"):
                if _is_empty(*sequence.datasets(key)):
                    continue
                entry = sequence[key]
                labels = self._labels_of(entry, label_range)
                repeats = len(entry.intervals) - len(np.unique(entry.intervals, axis=0))
                if repeats:
                    self._start["segments that repeat an interval of their video, kept"][key] += repeats
                for i, keep in enumerate(usable_intervals(entry.intervals)):
                    name = key if "[" in key and len(labels) == 1 else f"{key}[{i}]"
                    if keep:
                        start, end = map(float, entry.intervals[i])
                        videos.setdefault(_video(key), []).append(_Segment(name, start, end, labels[i]))
                    else:
                        self._start["segments without length, left out"][name] += 1
        twice = [name for name, count in Counter(s.name for part in videos.values() for s in part).items() if count > 1]
        if twice:
            problems.append(f"{file}: {len(twice)} segments come twice: {name_some(twice)}")
        if not videos and not problems:
            problems.append(f"{file}: holds no segment")
        return videos

    def _labels_of(self, entry: CsdEntry, label_range: tuple[float, float] | None) -> np.ndarray:
        """The labels of some segments: float32 (N,), or of emotions (N, 6) of 0 and 1."""
        values, intervals = entry
        emotion = self._labels == "emotion"
        widths = (6, 7) if emotion else (1, 7)
        if values.ndim != 2 or values.dtype.kind not in "biuf" or values.shape[1] not in widths:
            kinds = " or ".join(map(str, widths))
            raise DataFormatError(
                f"labels are {values.dtype} {values.shape}; {self._labels} wants {kinds} numbers a segment"
            )
        if intervals.shape != (len(values), 2):
            raise DataFormatError(f"{len(values)} labels, but intervals {intervals.shape}")
        values = values[:, -6:] if emotion else values[:, 0]
        if not np.isfinite(values).all():
            raise DataFormatError(f"{int((~np.isfinite(values)).sum())} labels are not finite")
        if label_range is not None:
            low, high = bounds = (0.0, 3.0) if emotion else label_range
            outside = values[(values < low - 1e-6) | (values > high + 1e-6)]
            if outside.size:
                raise DataFormatError(f"{outside.size} labels lie outside {bounds}, e.g. {outside[0]:g}")
        return (values > 0 if emotion else values).astype(np.float32)

    def _scan(self, role: str, sequence: ComputationalSequence, damaged: list[str]) -> tuple[dict[str, list[str]], int]:
        """Video to names of its entries, without the damaged ones, and their width; reads shapes and types alone."""
        file = self.files[role].name
        widths: dict[str, int] = {}
        for key in sorted(sequence, key=_natural_order):
            with noted(damaged, f"{file}: {key}"):
                datasets = sequence.datasets(key) if _video(key) in self._videos else None
                if datasets is not None and not _is_empty(*datasets):
                    widths[key] = _entry_width(role, *datasets)
        index: dict[str, list[str]] = {}
        usual = Counter(widths.values()).most_common(1)[0][0] if widths else 0
        for key, width in widths.items():
            if width == usual:
                index.setdefault(_video(key), []).append(key)
            else:
                damaged.append(f"{file}: {key}: {width} features where most entries have {usual}")
        return index, usual

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
        known = [standard_folds(name) for name in ("mosi", "mosei") if dataset in ("auto", name)]
        tables = map(read_folds, known if folds is None else [folds])
        # No video is in both data sets.
        split_of = max(tables, key=lambda table: len(table.keys() & self._videos.keys()))
        outside = [video for video in self._videos if video not in split_of]
        if len(outside) == len(self._videos):
            raise DataFormatError(
                f"{self.root}: none of the {len(outside)} labelled videos ({name_some(outside)}) is in a fold; "
                "folds= takes a mapping or a file of other folds"
            )
        self._start["videos in no fold, left out"].update(outside)
        unlabelled = sorted(split_of.keys() - self._videos.keys())
        if unlabelled:
            told = "%s: %d videos of the folds have no label: %s"
            logger.info(told, self.root, len(unlabelled), name_some(unlabelled))
        return {video: split_of[video] for video in self._videos if video in split_of}

    # -- rows --------------------------------------------------------------------------------------------------------

    @property
    def features(self) -> Features:
        types: dict[str, Any] = {"id": Value("string")}
        if self._spoken:
            types |= {"text": Value("string"), "words": List(Value("string"))}
        if "words" in self._streams:
            types["word_intervals"] = sequence_feature("float32", 2)
        for name in self._featured:
            width = len(self._columns[name]) if name in self._columns else self._widths[self._streams[name]]
            types[f"{name}_features"] = sequence_feature("float32", width)
            beside = sequence_feature("int64") if self._align == "words" else sequence_feature("float32", 2)
            types[f"{name}_{self._beside}"] = beside
        emotion = self._labels == "emotion"
        types["label"] = List(Value("float32"), length=len(MOSEI_EMOTIONS)) if emotion else Value("float32")
        return Features(types | {"video": Value("string"), "start": Value("float64"), "end": Value("float64")})

    def __iter__(self) -> Iterator[tuple[str, Row]]:
        tally: _Tally = defaultdict(Counter)
        with ExitStack() as stack:
            sequences = self._open(stack)
            for video, split in self._splits.items():
                for row in self._video_rows(sequences, video, tally):
                    yield split, row
        for what, names in [*self._start.items(), *tally.items()]:
            if names:
                logger.warning("%s: %s: %d (%s)", self.root, what, names.total(), name_some(names))

    def _video_rows(self, sequences: _Sequences, video: str, tally: _Tally) -> Iterator[Row]:
        material, made_from = None, None
        entries = {role: index.get(video, []) for role, index in self._index.items()}
        for segment in self._videos[video]:
            # Files aligned before have entries named as the segment; raw ones one a video.
            keys = {role: [segment.name] if segment.name in names else names for role, names in entries.items()}
            if material is None or keys != made_from:
                material, made_from = self._material(sequences, keys, tally), keys
            row = self._row(video, segment, material, tally)
            if row is not None:
                yield row

    def _material(self, sequences: _Sequences, keys: Mapping[str, Sequence[str]], tally: _Tally) -> _Material:
        tracks: dict[str, CsdEntry] = {}
        for use, role in self._streams.items():
            track = self._track(sequences[role], role, keys[role], tally)
            if track is not None and len(track.features):
                tracks[use] = track
        for name in self._columns.keys() & tracks.keys():
            tracks[name] = CsdEntry(tracks[name].features[:, self._columns[name]], tracks[name].intervals)
        words = tracks.pop("words", _NO_WORDS)
        if self._streams.get("words") == "words" and not self._keep_pauses:
            real = words.features != PAUSE
            words = CsdEntry(words.features[real], words.intervals[real])
        counts = {}
        for name, track in tracks.items() if self._align == "words" else ():
            if self._streams[name] == self._streams["words"]:
                counts[name] = np.ones(len(track.intervals), dtype=np.int64)  # the vectors are the words themselves
            else:
                means, counts[name] = average_over(words.intervals, track.intervals, track.features)
                tracks[name] = CsdEntry(means, words.intervals)
        return _Material(words, tracks, counts)

    def _track(self, sequence: ComputationalSequence, role: str, keys: Sequence[str], tally: _Tally) -> CsdEntry | None:
        try:
            entries = [sequence[key] for key in keys]
        except DataFormatError as error:
            if not self._skip_damaged or isinstance(error, UnsafeFileError):
                raise
            tally[_DAMAGED][str(error)] += 1
            return None
        if not entries:
            return None
        features = np.concatenate([entry.features for entry in entries])
        intervals = np.concatenate([entry.intervals for entry in entries])
        usable = usable_intervals(intervals)
        if not usable.all():
            what = "words" if role.startswith("word") else f"frames of {role}"
            tally[f"{what} without length, left out"][keys[0]] += int((~usable).sum())
        order = np.flatnonzero(usable)
        order = order[np.argsort(intervals[order, 0], kind="stable")]
        features, intervals = features[order], intervals[order]
        if role != "words":
            features, bad = replace_non_finite(features)
            if bad:
                tally[f"non-finite values of {role}, set to 0"][keys[0]] += bad
        return CsdEntry(features, intervals)

    def _row(self, video: str, segment: _Segment, material: _Material, tally: _Tally) -> Row | None:
        inside = overlapping(segment.start, segment.end, material.words.intervals)
        if self._align == "words" and not len(inside):
            tally["segments without a word, left out"][segment.name] += 1
            return None
        row: Row = {"id": segment.name}
        if self._spoken:
            spoken = list(map(str, material.words.features[inside]))
            row |= {"text": " ".join(spoken), "words": spoken}
        if "words" in self._streams:
            row["word_intervals"] = material.words.intervals[inside].astype(np.float32)
        for name in self._featured:
            row |= self._modality(name, segment, material, inside)
        absent = [name for name in self.modalities if _is_absent(name, row)]
        if len(absent) == len(self.modalities) or (absent and self._missing == "drop"):
            tally[f"segments without {' and '.join(absent)}, left out"][segment.name] += 1
            return None
        for name in absent:
            tally[f"segments without {name}, kept"][segment.name] += 1
        return row | {"label": segment.label, "video": video, "start": segment.start, "end": segment.end}

    def _modality(self, name: str, segment: _Segment, material: _Material, inside: np.ndarray) -> Row:
        track = material.tracks.get(name)
        features, beside = None, None
        if track is not None and self._align == "words":
            mask = (material.counts[name][inside] > 0).astype(np.int64)
            if mask.any():
                features, beside = track.features[inside], mask
        elif track is not None:
            picked = overlapping(segment.start, segment.end, track.intervals)
            if len(picked):
                features, beside = track.features[picked], track.intervals[picked].astype(np.float32)
        return {f"{name}_features": features, f"{name}_{self._beside}": beside}


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


def _entry_width(role: str, features: "h5py.Dataset", intervals: "h5py.Dataset") -> int:
    """How many numbers a row of an entry has; DataFormatError where it is none of its role."""
    shape, times = features.shape, intervals.shape
    if shape is None or times is None or len(times) != 2 or times[1] != 2 or intervals.dtype.kind not in "iuf":
        raise DataFormatError(f"intervals are {intervals.dtype} {times}; wanted numbers (T, 2)")
    width = math.prod(shape[1:])
    if role == "words":
        good, wanted = features.dtype.kind in "SO" and shape and width == 1, "one string a row"
    else:
        good, wanted = features.dtype.kind in "biuf" and len(shape) == 2 and width, "numbers (T, D)"
    if not good:
        raise DataFormatError(f"features are {features.dtype} {shape}; wanted {wanted}")
    if shape[0] != times[0]:
        raise DataFormatError(f"{shape[0]} rows of features for {times[0]} intervals")
    return width


iter_csd = CsdRows


def load_csd(root: str | os.PathLike, **options: Any) -> DatasetDict:
    """CMU-MOSI or CMU-MOSEI in memory: the rows of [`CsdRows`], whose options these are."""
    return find_source("csd").open(root, **options).load()


SOURCE = Source(
    title="CMU-MultimodalSDK sentiment",
    about="CMU-MOSI and CMU-MOSEI, the .csd files of CMU-MultimodalSDK",
    read=CsdRows,
    recognise=has_files("*.csd"),
    label_scale="sentiment",
)
