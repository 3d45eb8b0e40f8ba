"""Where `clcr extract` takes its clips from: a folder, a table, or a benchmark. All are read as streams."""

import os
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from datasets import DatasetDict, Features

from ..data.columns import SPLIT_ALIASES, DataFormatError, split_name
from ..data.source import Rows, find_source
from ..data.table.manifest import open_manifest
from ..data.table.read import TABLE_NAMES, TABLE_SUFFIXES, column_names, find_tables, read_rows
from ..data.table.source import about_labels
from ..modalities import RAW_COLUMNS, STANDARD
from ..samples import text_or_none

VIDEO_SUFFIXES, SOUND_SUFFIXES = STANDARD["vision"].suffixes, STANDARD["audio"].suffixes
_SUFFIXES = VIDEO_SUFFIXES + SOUND_SUFFIXES
# Columns that the extraction reads; all others are carried over.
_WORDS = ("words", "word_intervals")
_READ_COLUMNS = (*RAW_COLUMNS, *_WORDS, "id", "path", "split", "start", "end")


@dataclass
class Clip:
    """One row to come.

    Attributes:
        id, split: as in the rows written.
        video, audio: file (path or bytes) with the frames, with the audio; the same one for most clips. None: the row
            has no such modality.
        images: frames already taken, paths or bytes in order, where there is no video.
        start, end: seconds of the file that are the clip; `end=None` is the file's end.
        text, words, word_intervals: transcript, and its words with their seconds from the clip's start.
        kept: label and other columns, carried over as they are.
    """

    id: str
    split: str
    video: Any = None
    audio: Any = None
    images: list[Any] | None = None
    start: float = 0.0
    end: float | None = None
    text: str | None = None
    words: list[str] | None = None
    word_intervals: Any = None
    kept: dict[str, Any] = field(default_factory=dict)

    @property
    def path(self) -> str | None:
        """The clip's file, for messages and the column `path`."""
        sources = (self.video, self.audio, self.images[0] if self.images else None)
        return next((source for source in sources if isinstance(source, str)), None)


@dataclass
class ClipSource:
    """A stream of clips that can be gone through more than once.

    Attributes:
        name: what the clips come from, as it is recorded.
        open: gives a fresh iterator of clips, in the same order each time.
        kept: types of the columns carried over (`Clip.kept`).
        total: how many clips, where that is known.
        has_text, has_words: whether clips bring their transcript; its words with times.
        about_labels: what the column of the labels cannot hold of them; see `Rows`.
    """

    name: str
    open: Callable[[], Iterator[Clip]]
    kept: Features
    total: int | None = None
    has_text: bool = False
    has_words: bool = False
    about_labels: Mapping[str, Any] = field(default_factory=lambda: {"label_names": None})

    def __iter__(self) -> Iterator[Clip]:
        return self.open()


def open_source(
    source: str | os.PathLike[str] | DatasetDict,
    *,
    dataset: str | None = None,
    dataset_options: Mapping[str, Any] | None = None,
    split: str | None = None,
    **table_options: Any,
) -> ClipSource:
    """The clips of `source`.

    Args:
        source: a folder of clips; a table of clips (`.csv`, `.tsv`, `.jsonl`, `.parquet`), or a folder that holds one
            called `metadata` or `manifest`; the folder of a benchmark, with `dataset`; or rows already loaded, a
            `DatasetDict`.
        dataset, dataset_options: name of a benchmark (`"cremad"`, see `clcr_hf.data.source`), and its loader's options.
        split: of clips of a folder, where no folder called train, valid, val, dev, validation or test at its top tells;
            by default train.
        table_options: for `open_manifest`. A table's columns `start` and `end`, in seconds, say
            which stretch of the file a clip is; `words` and `word_intervals` (from the clip's start) are read too.

    A folder's clips are named by their path in it without the suffix. Hidden files, and folders that are links, are
    passed over.

    Raises:
        DataFormatError: nothing of that kind there, or a table that cannot be read.
        ValueError: an option that this kind of source does not use.
    """
    given = {"dataset_options": dataset_options, "split": split, **table_options}
    if isinstance(source, Mapping):
        _refuse("loaded rows", given | {"dataset": dataset}, ())
        return _rows_source("rows", Rows.of(source))
    path = Path(source)
    if dataset is not None:
        _refuse(f"the data set {dataset}", given, ("dataset_options",))
        rows = find_source(dataset).open(path, streaming=True, **(dataset_options or {}))
        return _rows_source(str(path.absolute() if path.exists() else path), rows)
    if path.is_dir() and not _named_tables(path):
        _refuse("a folder of clips", given, ("split",))
        return ClipSource(str(path.absolute()), lambda: _walk(path, split_name(split or "train")), Features({}))
    if not path.exists():
        raise DataFormatError(f"{path} is neither a folder nor a table ({', '.join(TABLE_SUFFIXES)}) of clips")
    _refuse("a table", given, table_options)
    return _table_source(path, table_options)


def _refuse(kind: str, given: Mapping[str, Any], used: Iterable[str]) -> None:
    unused = [name for name, value in given.items() if value and name not in used]
    if unused:
        raise ValueError(f"{kind} does not use {', '.join(unused)}")


# --- a folder --------------------------------------------------------------------------------------------------------


def _named_tables(folder: Path) -> bool:
    return any((folder / (name + suffix)).is_file() for name in TABLE_NAMES for suffix in TABLE_SUFFIXES)


def _walk(root: Path, split: str) -> Iterator[Clip]:
    """Clips of a folder and those below it, one folder's names in memory at a time."""
    found = False
    for path, shares_name in _media_files(root):
        found = True
        name = os.path.relpath(path, root).replace(os.sep, "/")
        top = name.split("/")[0].lower() if "/" in name else ""
        stem, suffix = os.path.splitext(name)
        video = None if suffix.lower() in SOUND_SUFFIXES else path
        yield Clip(name if shares_name else stem, SPLIT_ALIASES.get(top, split), video=video, audio=path)
    if not found:
        raise DataFormatError(f"{root} holds no clips ({', '.join(_SUFFIXES)})")


def _media_files(folder: Path) -> Iterator[tuple[str, bool]]:
    """Path of each clip, and whether another one beside it differs in its suffix alone (clip.mp4 and clip.wav)."""
    with os.scandir(folder) as scan:
        # Sorted, so that every process and every run sees the same order.
        entries = sorted((entry.name, entry.is_dir(follow_symlinks=False)) for entry in scan)
    entries = [entry for entry in entries if not entry[0].startswith(".")]
    wanted = {name for name, is_folder in entries if not is_folder and name.lower().endswith(_SUFFIXES)}
    stems = Counter(os.path.splitext(name)[0] for name in wanted)
    for name, is_folder in entries:
        if is_folder:
            yield from _media_files(folder / name)
        elif name in wanted:
            yield os.path.abspath(folder / name), stems[os.path.splitext(name)[0]] > 1


# --- tables and benchmarks -------------------------------------------------------------------------------------------


def _table_source(path: Path, options: Mapping[str, Any]) -> ClipSource:
    tables = find_tables(path)
    present = {name for table in tables for name in column_names(table)}
    manifest = open_manifest(path, **{"require_label": False, **options}, ignore_columns=_WORDS)
    columns = _carried(manifest.features)

    def clips() -> Iterator[Clip]:
        # What a manifest does not know is read beside it: both give every row, in the same order.
        beside = (row for table in tables for row in read_rows(table, _WORDS))
        for row, raw in zip(manifest.rows(), beside, strict=True):
            yield _row_clip({**row, **{name: raw.get(name) for name in _WORDS}}, row["split"], columns)

    return ClipSource(
        name=os.path.abspath(path),
        open=clips,
        kept=columns,
        total=len(manifest),
        has_text="text" in manifest.features,
        has_words=present.issuperset(_WORDS),
        about_labels=Rows(manifest.features, lambda: iter(()), **about_labels(manifest)).about_labels,
    )


def _rows_source(name: str, rows: Rows) -> ClipSource:
    columns = _carried(rows.features)
    return ClipSource(
        name=name,
        open=lambda: (_row_clip(row, split, columns) for split, row in rows),
        kept=columns,
        total=rows.total,
        has_text="text" in rows.features,
        has_words=set(rows.features).issuperset(_WORDS),
        about_labels=rows.about_labels,
    )


def _carried(features: Mapping[str, Any]) -> Features:
    made = ("_features", "_intervals")
    return Features(
        {name: kind for name, kind in features.items() if name not in _READ_COLUMNS and not name.endswith(made)}
    )


def _row_clip(row: Mapping[str, Any], split: str, carried: Iterable[str]) -> Clip:
    media = _file(row.get("media"))
    images = row.get("images")
    return Clip(
        id=row["id"],
        split=split,
        video=_file(row.get("video")) or media,
        audio=_file(row.get("audio")) or media,
        images=[_file(image) for image in images] if images else None,
        start=row.get("start") or 0.0,
        end=row.get("end"),
        text=text_or_none(row.get("text")),
        words=_words(row.get("words")),
        word_intervals=row.get("word_intervals"),
        kept={name: row[name] for name in carried},
    )


def _file(value: Any) -> Any:
    """Path or bytes of an undecoded media column."""
    if isinstance(value, Mapping):
        return value.get("bytes") or value.get("path")
    return value


def _words(value: Sequence[str] | np.ndarray | None) -> list[str] | None:
    return None if value is None or isinstance(value, str) else [str(word) for word in value] or None
