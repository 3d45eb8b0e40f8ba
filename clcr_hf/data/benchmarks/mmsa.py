"""MMSA pickles (MOSI, MOSEI, SIMS) and MulT's older ones.

Layouts: paper notes, section 9. The pickles are read by `safe_pickle`, which runs nothing that they contain; their
arrays stay in the mapped file, and rows are cleaned a few megabytes at a time.
"""

import os
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from datasets import DatasetDict, Features, Value

from ...samples import is_missing
from ..columns import (
    SPLIT_ALIASES,
    SPLITS,
    DataFormatError,
    check_choice,
    in_two_splits,
    logger,
    raise_problems,
    replace_non_finite,
    sequence_feature,
)
from ..source import Row, Source, find_source
from ..untrusted.pickles import MAX_PICKLE_BYTES, load_pickle_safely, release_pages
from .lists import noted

_BLOCK_BYTES = 4 * 2**20
_MOST_STEPS = 2**24
_LONGEST_ID = 1000
_MOST_CHARACTERS = 2**30


class MmsaRows:
    """The rows of `aligned_50.pkl`, `unaligned_50.pkl` or one of MulT's pickles, a few megabytes in memory at a time.

    All is checked before the first row. Iterating gives (split, row); it can be iterated again.

    Padding is cut off. Unaligned files give their lengths; in aligned ones (no `audio_lengths`) a row of vision and
    audio ends with the text mask or with its last non-zero frame, whichever is later, so no frame is lost; without
    a text mask, all-zero frames at both ends go (MulT pads in front). NaN and infinite feature values become 0, and
    a warning counts them.

    Args:
        path: the pickle, read by `load_pickle_safely`.
        text: "text_bert" for token ids (the only form a BERT hierarchy can read) or "text" for the embeddings of
            one BERT layer (or GloVe vectors in MulT's pickles), or "raw" for the transcripts alone.
        modalities: which of text, vision, audio to return.
        label_range: lowest and highest label allowed; None for no check. SIMS uses (-1, 1).
        label_index: which label of MulT's `labels (N, 1, k)`.
        max_bytes: see `load_pickle_safely`.

    Yields:
        split (train, validation, test) and a row with
            id: str, `video$_$clip`
            text: str, the raw transcript (when the file has it)
            input_ids, attention_mask, token_type_ids: int64 (T,), with text="text_bert"
            text_features: float32 (T, D), with text="text"
            vision_features, audio_features: float32 (T, D)
            label: float32

    Raises:
        UnsafePickleError: see `load_pickle_safely`.
        DataFormatError: lists every fault: splits or fields missing, shapes or counts that differ, ids twice in a
            split or in two, labels not finite or out of range, lengths longer than the arrays.

    Attributes:
        features: types of the columns.
        counts: rows of each split that has any; total: of all.
    """

    def __init__(
        self,
        path: str | os.PathLike,
        *,
        text: str = "text_bert",
        modalities: Sequence[str] = ("text", "vision", "audio"),
        label_range: tuple[float, float] | None = (-3.0, 3.0),
        label_index: int = 0,
        max_bytes: int = MAX_PICKLE_BYTES,
    ):
        check_choice("text", text, ("text_bert", "text", "raw"))
        unknown = sorted(set(modalities) - {"text", "vision", "audio"})
        if unknown or not modalities:
            raise DataFormatError(f"modalities={tuple(modalities)}; choose from text, vision, audio")
        splits = _find_splits(path, load_pickle_safely(path, max_bytes=max_bytes))
        problems: list[str] = []
        readers = {name: _SplitReader(f"split {name!r}", split, problems) for name, split in splits.items()}
        tables = {name: each.read(text, modalities, label_range, label_index) for name, each in readers.items()}
        _check_ids(tables, problems)
        _check_widths(tables, problems)
        if len({"raw_text" in split for split in splits.values()}) > 1:
            problems.append("raw_text is in some splits alone")
        raise_problems(path, problems, "The file does not hold the layout of MMSA or MulT.")
        self._tables = {name: tables[name] for name in SPLITS if tables[name]["id"]}
        if not self._tables:
            raise DataFormatError(f"{path}: no rows")
        self.counts = {name: len(table["id"]) for name, table in self._tables.items()}
        self.total = sum(self.counts.values())
        first = next(iter(self._tables.values()))
        self.features = Features({key: _feature(key, value) for key, value in first.items()})

    def __iter__(self) -> Iterator[tuple[str, Row]]:
        for split, table in self._tables.items():
            sequences = [value[0] for value in table.values() if isinstance(value, tuple)]
            for rows in _blocks(self.counts[split], sequences):
                columns = [_cells(value, rows) for value in table.values()]
                for cells in zip(*columns, strict=True):
                    yield split, dict(zip(table, cells, strict=True))
                for array in sequences:
                    release_pages(array)


iter_mmsa = MmsaRows


def load_mmsa(path: str | os.PathLike, **options: Any) -> DatasetDict:
    """A pickle in memory: the rows of [`MmsaRows`], whose options these are."""
    return find_source("mmsa").open(path, **options).load()


SOURCE = Source(
    about="MOSI, MOSEI and SIMS pickles of the MMSA toolkit, and MulT's older ones",
    read=MmsaRows,
    is_file=True,
    files=("aligned_50.pkl", "Processed/aligned_50.pkl", "unaligned_50.pkl"),
    recognise=lambda path: path.suffix == ".pkl",
    arguments={"mmsa_text": "text"},
    label_scale="sentiment",
)


def _blocks(size: int, arrays: Sequence[np.ndarray]) -> Iterator[slice]:
    """Slices of rows that together take about `_BLOCK_BYTES` of `arrays`."""
    step = max(1, _BLOCK_BYTES * size // max(1, sum(array.nbytes for array in arrays)))
    return (slice(start, min(start + step, size)) for start in range(0, size, step))


def _cells(value: Any, rows: slice) -> Sequence[Any]:
    if not isinstance(value, tuple):
        return value[rows]
    array, starts, stops = value
    part = array[rows] if array.ndim == 2 else replace_non_finite(array[rows])[0]  # token ids stay whole numbers
    return [steps[start:stop] for steps, start, stop in zip(part, starts[rows], stops[rows], strict=True)]


def _feature(key: str, value: Any) -> Any:
    if not isinstance(value, tuple):
        return Value("float32" if key == "label" else "string")
    array = value[0]
    return sequence_feature("float32", array.shape[2]) if array.ndim == 3 else sequence_feature("int64")


def _find_splits(path: object, content: Any) -> dict[str, Mapping[str, Any]]:
    if not isinstance(content, dict):
        raise DataFormatError(f"{path}: holds a {type(content).__name__}, not a dict of train, valid and test")
    found = {SPLIT_ALIASES[str(key)]: value for key, value in content.items() if str(key) in SPLIT_ALIASES}
    missing = [name for name in SPLITS if not isinstance(found.get(name), dict)]
    if missing:
        keys = [str(key) for key in content][:10]
        raise DataFormatError(f"{path}: no split {' and '.join(missing)} among the keys {keys}")
    return found


class _SplitReader:
    """Reads and checks one split. What cannot be read is left out, and its fault goes to `problems`."""

    def __init__(self, where: str, split: Mapping[str, Any], problems: list[str]):
        self.where = where
        self.split = split
        self.problems = problems
        self.size = 0

    def field(self, *names: str) -> tuple[str, Any]:
        """The first of some fields that is there, with its name."""
        for name in names:
            if name in self.split:
                return name, self.split[name]
        found = ", ".join(sorted(map(str, self.split)))
        raise ValueError(f"no field {' or '.join(map(repr, names))} (it has {found})")

    def numbers(self, key: str, ndim: int) -> np.ndarray:
        """Field `key` as a numeric array of `ndim` axes and `size` rows."""
        array = _as_array(self.field(key)[1])
        if array.dtype.kind not in "biuf" or array.ndim != ndim or len(array) != self.size:
            raise ValueError(
                f"{key} is {array.dtype} {array.shape}; wanted {ndim} axes of numbers and {self.size} rows"
            )
        if max(array.shape[1:], default=0) > _MOST_STEPS:
            raise ValueError(
                f"{key} has the shape {array.shape}; no axis but the first may be longer than {_MOST_STEPS}"
            )
        return array

    def read(self, text: str, modalities: Sequence[str], label_range: Any, label_index: int) -> dict[str, Any]:
        """The columns in their order. Sequences are an array with where each row starts and stops."""
        columns: dict[str, Any] = {}
        with noted(self.problems, self.where):
            columns["id"] = self.ids()
        columns.setdefault("id", list(map(str, range(self.size))))
        if "raw_text" in self.split or (text == "raw" and "text" in modalities):
            with noted(self.problems, self.where):
                columns["text"] = self.strings("raw_text")
        bert, stops = text == "text_bert" and "text" in modalities, None
        if bert or "text_bert" in self.split:
            with noted(self.problems, self.where):
                tokens = self.tokens()
                stops = _last_true(tokens[:, 1] != 0)
                names = ("input_ids", "attention_mask", "token_type_ids") if bert else ()
                columns |= {name: (tokens[:, row], np.zeros_like(stops), stops) for row, name in enumerate(names)}
        for modality in modalities:
            if modality != "text" or text == "text":
                with noted(self.problems, self.where):
                    columns[f"{modality}_features"] = self.frames(modality, stops)
        with noted(self.problems, self.where):
            columns["label"] = self.labels(label_range, label_index)
        return columns

    def ids(self) -> list[str]:
        if not {"id", "ids"} & self.split.keys():
            labels = self.split.get("regression_labels", self.split.get("labels", ()))
            self.size = len(labels) if hasattr(labels, "__len__") else 0
        value = self.field("id", "ids")[1]
        rows = value.tolist() if isinstance(value, np.ndarray) else list(value)
        self.size = len(rows)
        return [_id(row) for row in rows]

    def strings(self, key: str) -> list[str | None]:
        value = self.field(key)[1]
        try:
            items = value.ravel() if isinstance(value, np.ndarray) else value
            rows = [None if is_missing(item) else _text(item) for item in items]
        except (TypeError, ValueError) as error:
            raise ValueError(f"{key} does not hold texts ({error})") from error
        if len(rows) != self.size:
            raise ValueError(f"{key} has {len(rows)} rows; id has {self.size}")
        if sum(len(row or "") for row in rows) > _MOST_CHARACTERS:  # few distinct texts can be repeated to any length
            raise ValueError(f"{key} has more than {_MOST_CHARACTERS:,} characters")
        return rows

    def labels(self, label_range: tuple[float, float] | None, label_index: int) -> np.ndarray:
        key, value = self.field("regression_labels", "labels")
        try:
            values = _as_array(value).astype(np.float64)
        except (TypeError, ValueError):
            raise ValueError(f"{key} does not hold numbers of one shape") from None
        if values.ndim == 0 or len(values) != self.size:
            raise ValueError(f"{key} has shape {values.shape}; id has {self.size} rows")
        values = values.reshape(self.size, -1) if self.size else values.reshape(0, label_index + 1)
        if not 0 <= label_index < values.shape[1]:
            raise ValueError(f"{key} has {values.shape[1]} values a row; label_index is {label_index}")
        values = values[:, label_index]
        finite = np.isfinite(values)
        if not finite.all():
            raise ValueError(f"{(~finite).sum()} labels are not finite (first: row {int(np.argmin(finite))})")
        low, high = (-np.inf, np.inf) if label_range is None else label_range
        outside = (values < low - 1e-6) | (values > high + 1e-6)
        if outside.any():
            row = int(np.argmax(outside))
            raise ValueError(f"{outside.sum()} labels lie outside {label_range} (first: row {row}, {values[row]:g})")
        return values.astype(np.float32)

    def tokens(self) -> np.ndarray:
        """`text_bert` as int64 (N, 3, T)."""
        array = self.numbers("text_bert", 3)
        if array.shape[1] != 3:
            raise ValueError(f"text_bert has shape {array.shape}; wanted (N, 3, T): ids, mask, segments")
        with np.errstate(invalid="ignore"):
            ids = array.astype(np.int64)
        if not np.array_equal(ids, array) or (ids < 0).any() or not np.isin(ids[:, 1], (0, 1)).all():
            raise ValueError("text_bert holds something else than token ids and a mask of 0 and 1")
        return ids

    def frames(self, modality: str, text_stops: np.ndarray | None) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """(N, T, D) numbers and where the real steps of each row start and stop."""
        array = self.numbers(modality, 3)
        steps, width = array.shape[1:]
        if not width:
            raise ValueError(f"{modality} has shape {array.shape}: no feature")
        first, last = self.scan(modality, array)
        if f"{modality}_lengths" in self.split:
            stops = self.numbers(f"{modality}_lengths", 1).astype(np.int64)
            if (stops > steps).any() or (stops < 0).any():
                raise ValueError(f"{modality}_lengths reach {int(stops.max())}; {modality} has {steps} steps")
        elif text_stops is not None and modality == "text":
            stops = np.minimum(text_stops, steps)
        elif text_stops is not None and not {"audio_lengths", "vision_lengths"} & self.split.keys():
            stops = np.maximum(last, np.minimum(text_stops, steps))
        else:
            return array, first, last
        return array, np.zeros_like(stops), stops

    def scan(self, modality: str, array: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """First step of each row that is not all zero, and one past the last; 0 and 0 where all are. Values that are
        not finite are counted on the way."""
        first, last = np.zeros((2, len(array)), dtype=np.int64)
        bad = 0
        for rows in _blocks(len(array), [array]):
            values, count = replace_non_finite(array[rows])
            release_pages(array)
            bad += count
            if array.shape[1]:
                real = np.any(values != 0, axis=2)
                first[rows], last[rows] = real.argmax(axis=1), _last_true(real)
        if bad:
            logger.warning("%s: %d non-finite values of %s set to 0", self.where, bad, modality)
        return first, last


def _text(value: Any) -> str:
    if isinstance(value, bytes):
        return value.decode("latin1")
    if isinstance(value, (str, int, float, np.generic, type(None))):
        return str(value)
    raise DataFormatError(f"a {type(value).__name__} where a text is wanted")


def _id(row: Any) -> str:
    # MulT keeps (video, start, end) in a row of its own.
    parts = row if isinstance(row, (list, tuple)) else [row]
    if len(parts) > 10:
        raise DataFormatError(f"an id of {len(parts)} parts")
    texts = [_text(part) for part in parts]
    if sum(map(len, texts)) > _LONGEST_ID:
        raise DataFormatError(f"an id of more than {_LONGEST_ID} characters")
    return "$_$".join(texts)


def _as_array(value: Any) -> np.ndarray:
    """An array as it is, and a list of plain numbers as one.

    Lists of lists are not taken: a few bytes of a pickle can nest one list in itself many thousand times.
    """
    if isinstance(value, np.ndarray):
        return value
    if isinstance(value, (list, tuple)) and all(isinstance(item, (int, float, np.number)) for item in value):
        return np.asarray(value)
    return np.empty(0, dtype=object)


def _last_true(mask: np.ndarray) -> np.ndarray:
    """(N, T) bool to (N,): one past the last True, 0 where there is none."""
    positions = np.arange(1, mask.shape[1] + 1)
    return np.max(np.where(mask, positions, 0), axis=1, initial=0)


def _check_ids(tables: Mapping[str, Mapping[str, Any]], problems: list[str]) -> None:
    for name, table in tables.items():
        twice = [clip for clip, count in Counter(table["id"]).items() if count > 1]
        if twice:
            problems.append(f"split {name!r}: {len(twice)} ids come twice (first: {twice[0]!r})")
    shared: dict[tuple[str, str], list[str]] = {}
    for clip, pair in in_two_splits({name: table["id"] for name, table in tables.items()}).items():
        shared.setdefault(pair, []).append(clip)
    for (one, two), clips in shared.items():
        problems.append(f"{len(clips)} ids of split {two!r} are also in {one!r} (first: {min(clips)!r})")


def _check_widths(tables: Mapping[str, Mapping[str, Any]], problems: list[str]) -> None:
    for key in ("text_features", "vision_features", "audio_features"):
        widths = {name: table[key][0].shape[2] for name, table in tables.items() if key in table}
        if len(set(widths.values())) > 1:
            problems.append(f"{key} differs in width between splits: {widths}")
