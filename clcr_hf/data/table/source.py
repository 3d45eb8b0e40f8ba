"""A user's own table as a source of rows: whole for training, streamed for conversion."""

import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from datasets import List

from ..files import report_missing
from ..source import Row, Rows, Source
from ..talking_faces.factors import MARKER
from .choose import LABEL_COLUMNS
from .manifest import Manifest, check_leak, open_manifest, read_manifest
from .read import TABLE_SUFFIXES, named_table

# Options that need the whole table at once.
_WHOLE_TABLE = ("validation_fraction", "seed", "group_column", "dialogue_column", "turn_column")


def read_table(source: str | os.PathLike, **options: Any) -> Rows:
    """All rows of a table, by `read_manifest`."""
    manifest, splits = read_manifest(source, **options)
    return Rows.of(splits, **about_labels(manifest))


def about_labels(manifest: Manifest) -> dict[str, Any]:
    """Fields of `Rows`: the names of several numbers, or of a score, which their column cannot hold, and which these
    are. A score without a name goes by that of its column, unless that is no more than "label" or the like."""
    scores = manifest.labels is not None and manifest.labels.task == "regression"
    several = isinstance(manifest.features.get("label"), List)
    names: Sequence[str] | None = manifest.label_names if several or scores else None
    if scores and not several and names is None and manifest.label_columns[0] not in LABEL_COLUMNS:
        names = manifest.label_columns
    return {"label_names": names, "scores": scores and several}


def stream_table(source: str | os.PathLike, *, skip_missing: bool = False, **options: Any) -> Rows:
    """Rows of a table in the splits that it names, one at a time; the table is read whole where options want that."""
    if any(name in options for name in _WHOLE_TABLE):
        return read_table(source, skip_missing=skip_missing, **options)
    manifest = open_manifest(source, **options)

    def stream() -> Iterator[tuple[str, Row]]:
        missing: list[str] = []
        owner: dict[int, str] = {}
        for row in manifest.rows(missing):
            check_leak(source, owner, row, row["split"])
            if skip_missing or not missing:  # else the rest is looked through to count what else is missing
                yield row["split"], {name: row[name] for name in manifest.features}
        report_missing(source, missing, len(manifest), skip_missing, "Give paths relative to the table")

    return Rows(manifest.features, stream, len(manifest), **about_labels(manifest))


def _is_table(path: Path) -> bool:
    if path.is_file():
        return path.suffix.lower() in TABLE_SUFFIXES
    return any(map(named_table, (path, *path.glob("*/")))) and not (path / MARKER).is_file()


SOURCE = Source(
    about="your own table (CSV, TSV, JSONL, Parquet or XLSX) of clips, features or dialogues",
    read=read_table,
    stream=stream_table,
    parameters_of=(read_manifest, open_manifest),
    is_file=True,
    recognise=_is_table,
    segments=True,
)
