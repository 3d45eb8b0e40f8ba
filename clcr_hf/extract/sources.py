"""Where `clcr extract` takes its clips from: a folder, a table, or a benchmark. All are read as streams."""

import os
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from datasets import DatasetDict, Features, Value

from ..data.columns import SPLIT_ALIASES, DataFormatError, split_name
from ..data.files import files_below, place_names
from ..data.source import Row, Rows, find_source
from ..data.table.manifest import open_manifest
from ..data.table.read import TABLE_SUFFIXES, column_names, find_tables, named_table, read_rows
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
    """A stream of clips that can be gone through more than once, in the same order each time.

    Attributes:
        name: what the clips come from, as it is recorded.
        rows: what they are made of.
        made: modalities that are extracted; ready features of others are carried over.
    """

    name: str
    rows: Rows
    made: Collection[str] = ()

    @property
    def kept(self) -> Features:
        """Types of the columns carried over (`Clip.kept`)."""
        left = {*_READ_COLUMNS, *(f"{name}_{what}" for name in self.made for what in ("features", "intervals"))}
        return Features({name: each for name, each in self.rows.features.items() if name not in left})

    @property
    def total(self) -> int | None:
        """How many clips, where that is known."""
        return self.rows.total

    def has(self, *columns: str) -> bool:
        """Whether clips bring their transcript (`text`); its words with times (`words` and `word_intervals`)."""
        return set(self.rows.features).issuperset(columns)

    def __iter__(self) -> Iterator[Clip]:
        columns = self.kept
        return (_row_clip(row, split, columns) for split, row in self.rows)


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
        return ClipSource("rows", Rows.of(source))
    path = Path(source)
    if dataset is not None:
        _refuse(f"the data set {dataset}", given, ("dataset_options",))
        rows = find_source(dataset).open(path, streaming=True, **(dataset_options or {}))
        return ClipSource(str(path.absolute() if path.exists() else path), rows)
    if path.is_dir() and named_table(path) is None:
        _refuse("a folder of clips", given, ("split",))
        return ClipSource(str(path.absolute()), Rows(Features({}), lambda: _walk(path, split_name(split or "train"))))
    if not path.exists():
        raise DataFormatError(f"{path} is neither a folder nor a table ({', '.join(TABLE_SUFFIXES)}) of clips")
    _refuse("a table", given, table_options)
    return ClipSource(os.path.abspath(path), _table_rows(path, table_options))


def _refuse(kind: str, given: Mapping[str, Any], used: Iterable[str]) -> None:
    unused = [name for name, value in given.items() if value and name not in used]
    if unused:
        raise ValueError(f"{kind} does not use {', '.join(unused)}")


# --- a folder --------------------------------------------------------------------------------------------------------


def _walk(root: Path, split: str) -> Iterator[tuple[str, Row]]:
    """Clips of a folder and those below it, in the order of their paths."""
    paths = sorted(files_below(root.absolute(), _SUFFIXES, follow_links=False), key=lambda path: path.split(os.sep))
    if not paths:
        raise DataFormatError(f"{root} holds no clips ({', '.join(_SUFFIXES)})")
    for path, name in zip(paths, place_names(root, paths), strict=True):
        top = name.split("/")[0].lower() if "/" in name else ""
        kind = "audio" if path.lower().endswith(SOUND_SUFFIXES) else "media"
        yield SPLIT_ALIASES.get(top, split), {"id": name, kind: path}


# --- tables and benchmarks -------------------------------------------------------------------------------------------


def _table_rows(path: Path, options: Mapping[str, Any]) -> Rows:
    tables = find_tables(path)
    present = {name for table in tables for name in column_names(table)}
    manifest = open_manifest(path, **{"require_label": False, **options}, ignore_columns=_WORDS)
    words = dict.fromkeys(_WORDS, Value("string")) if present.issuperset(_WORDS) else {}

    def stream() -> Iterator[tuple[str, Row]]:
        # What a manifest does not know is read beside it: both give every row, in the same order.
        beside = (row for table in tables for row in read_rows(table, _WORDS))
        for row, raw in zip(manifest.rows(), beside, strict=True):
            yield row["split"], {**row, **{name: raw.get(name) for name in _WORDS}}

    return Rows(Features({**manifest.features, **words}), stream, len(manifest), **manifest.about_labels)


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
    return value.get("bytes") or value.get("path") if isinstance(value, Mapping) else value


def _words(value: Sequence[str] | np.ndarray | None) -> list[str] | None:
    return None if value is None or isinstance(value, str) else [str(word) for word in value] or None
