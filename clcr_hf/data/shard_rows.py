"""Shards as a source of rows: with labels from folders, validation carved, and dialogues put together."""

import os
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any

import pyarrow.compute as pc
from datasets import ClassLabel, Dataset, Features, concatenate_datasets

from ..modalities import FILE_COLUMNS, TOKEN_COLUMNS
from .arrow import make_dataset
from .columns import SPLIT_ALIASES, DataFormatError, carve_split, logger, ordered_splits
from .dialogues import as_dialogues
from .folders import RECORDS, read_json
from .shards import load_shards, stream_shards
from .source import Rows, Source
from .streamed import StreamedRows

_UNFINISHED = ("convert.partial.json", "extract.partial.json")


def read_shards(
    folder: str | os.PathLike,
    *,
    verify: bool = False,
    mmsa_text: str = "text_bert",
    validation_fraction: float = 0.0,
    group_column: str | None = None,
    dialogue_column: str | None = None,
    turn_column: str | None = None,
    keep_columns: Sequence[str] = (),
    streamed: bool = False,
) -> Rows:
    """Rows of shards.

    Args:
        folder, verify: see `load_shards`.
        mmsa_text: "raw" leaves out ready token ids, so that the transcripts are read.
        validation_fraction: share of train that becomes validation where there is none; 0 for none.
        group_column: rows of one group stay together then; by default those of one file.
        dialogue_column, turn_column: rows are utterances of these dialogues, see `as_dialogues`.
        keep_columns: columns that dialogues keep too, a list each, see `as_dialogues`; other rows keep all.
        streamed: read rows where they lie, as [`StreamedRows`].

    Raises:
        DataFormatError, FileNotFoundError: as `load_shards`; a column that there is not; `streamed` with dialogues.
    """
    splits: dict[str, Any] = dict((stream_shards if streamed else load_shards)(folder, verify=verify))
    if (read_json(Path(folder) / "convert.json") or {}).get("layout") == "ave":  # as version 0.1 called its event
        if streamed:
            raise DataFormatError(f"{folder}: shards of version 0.1 are not streamed; convert anew")
        names = {"start": "event_start", "end": "event_end"}
        splits = {split: rows.rename_columns(names) for split, rows in splits.items()}
    if streamed and dialogue_column is not None:
        raise DataFormatError(f"{folder}: dialogues are put together in memory; leave out --streaming")
    present = next(iter(splits.values())).column_names
    left_out = [name for name in TOKEN_COLUMNS if name in present and mmsa_text == "raw"]
    if left_out:
        splits = {split: rows.remove_columns(left_out) for split, rows in splits.items()}
    if not {"label", "labels"} & set(present):
        splits = _label_by_folder(splits)
    group = dialogue_column or group_column
    found = ordered_splits(carve_split(splits, lambda train: _groups_of(train, group), validation_fraction))
    if dialogue_column is not None:
        found = as_dialogues(found, dialogue_column=dialogue_column, turn_column=turn_column, keep_columns=keep_columns)
    return Rows.of(found, **_recorded_labels(Path(folder)))


def _recorded_labels(folder: Path) -> dict[str, Any]:
    """What the column of the labels cannot hold of them, where the source of the shards had it."""
    found = [record for name in RECORDS if (record := read_json(folder / name)) is not None]
    known = ("label_names", "scores", "label_scale", "label_range")
    return {name: record[name] for record in found for name in known if record.get(name)}


def _label_by_folder(splits: dict[str, Any]) -> dict[str, Any]:
    """Adds the class of each clip: the name of the folder it lay in, which is part of its id (`train/happy/clip7`).
    Unchanged where some clip lay in no folder but that of its split."""
    names = sorted({_class_of(str(name)) for rows in splits.values() for name in rows["id"]})
    if "" in names or len(names) < 2:
        return splits
    logger.warning("the clips have no labels; their folders are taken for classes: %s", ", ".join(names))
    label = _FolderLabel(tuple(names))
    return {
        split: rows.apply(label) if isinstance(rows, StreamedRows) else label(rows) for split, rows in splits.items()
    }


@dataclass(frozen=True)
class _FolderLabel:
    """Adds the column `label`, the number of an id's folder among `names`; as a step of [`StreamedRows`] too."""

    names: tuple[str, ...]

    def __call__(self, rows: Dataset, first: int = 0) -> Dataset:
        if "id" not in rows.column_names:
            return rows
        number = {name: at for at, name in enumerate(self.names)}
        numbers = [number.get(_class_of(str(name))) for name in rows["id"]]
        column = make_dataset({"label": numbers}, Features({"label": ClassLabel(names=list(self.names))}))
        return concatenate_datasets([rows, column], axis=1)

    def needs(self, columns: Collection[str]) -> Collection[str]:
        return {*columns, "id"} - {"label"} if "label" in columns else columns


def _class_of(name: str) -> str:
    """The folder next to a clip in its id; empty where that is its split's, or there is none."""
    folders = name.split("/")[:-1]
    return "" if not folders or (len(folders) == 1 and folders[0].lower() in SPLIT_ALIASES) else folders[-1]


def _groups_of(train: Any, group_column: str | None) -> Sequence[Any]:
    """What must stay together when validation is carved: rows of one value of a column, or else of one file."""
    if group_column is None:
        return _files_of(train)
    if group_column not in train.column_names:
        raise DataFormatError(
            f"no column {group_column!r} to carve validation by; the rows have {', '.join(train.column_names)}"
        )
    return train[group_column]


def _files_of(rows: Any, first: int = 0) -> list[str]:
    """The file that each row comes from, or else its id. A file inside a row is told by its name and size, for its
    folder is not known; its bytes are not read."""
    column = next((name for name in ("path", *FILE_COLUMNS) if name in rows.column_names), "id")
    if isinstance(rows, StreamedRows):
        parts = zip(rows.select_columns([column]).parts(), rows.part_starts(), strict=True)
        return list(chain.from_iterable(_files_of(part, start) for part, start in parts))
    values = rows.with_format("arrow")[column][:]
    if column in FILE_COLUMNS:
        paths, sizes = pc.struct_field(values, "path"), pc.binary_length(pc.struct_field(values, "bytes"))
        names = [
            path and f"{path} {size or ''}" for path, size in zip(paths.to_pylist(), sizes.to_pylist(), strict=True)
        ]
    else:
        names = values.to_pylist()
    return [name or f"row {number}" for number, name in enumerate(names, first)]


SOURCE = Source(
    about="shards that `clcr extract` or `clcr convert` wrote",
    read=read_shards,
    recognise=lambda path: any((path / name).is_file() for name in (*RECORDS, *_UNFINISHED)),
    arguments={"streaming": "streamed"},
    segments=True,
)
