"""CMU-MOSI and CMU-MOSEI as the CMU-MultimodalSDK publishes them: `.csd` files, one a stream.

`csd_files` reads the files and knows the folds; `csd_rows` aligns the streams and cuts the segments; here they become
a data set.
"""

import os
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
from datasets import Dataset, DatasetDict, Features, List, Value

from ..columns import SPLITS, DataFormatError, make_dataset, ordered_splits, ragged_column
from .csd_files import (
    MAX_ENTRY_BYTES,
    ComputationalSequence,
    CsdEntry,
    find_csd_files,
    read_csd,
    read_folds,
    standard_folds,
)
from .csd_rows import MOSEI_EMOTIONS, CsdRows

# The 5 of COVAREP's 74 and 20 of FACET 4.1's 47 columns that the small feature sets of CMU-MOSI keep.
COVAREP_5 = (1, 3, 6, 25, 60)
FACET_20 = (0, 2, 5, 10, 11, 12, 14, 17, 20, 21, 22, 24, 25, 29, 30, 31, 32, 36, 37, 40)


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


__all__ = [
    "COVAREP_5",
    "FACET_20",
    "MOSEI_EMOTIONS",
    "ComputationalSequence",
    "CsdEntry",
    "CsdRows",
    "find_csd_files",
    "iter_csd",
    "load_csd",
    "read_csd",
    "read_folds",
    "standard_folds",
]
