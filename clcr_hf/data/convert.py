"""`clcr convert`: any of the data sets' layouts, turned once into shards that training reads from then on.

Rows are read and written one after the other, so memory does not grow with the data, and a conversion that was stopped
goes on where its last whole shard ends.
"""

import inspect
import json
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

from datasets import DatasetDict, Features, List

from .. import data as loaders
from .columns import SPLITS, DataFormatError
from .files import report_missing
from .shards import (
    ROWS_PER_SHARD,
    ShardWriter,
    TensorShardWriter,
    count_rows,
    is_media,
    replace_durably,
    shard_files,
    shard_ids,
)
from .table.cells import cell_paths

RECORD = "convert.json"
PARTIAL = "convert.partial.json"
FORMATS: dict[str, type[ShardWriter]] = {"parquet": ShardWriter, "safetensors": TensorShardWriter}
# Options that need the whole table at once, and what streams it without them.
_WHOLE_TABLE = {"validation_fraction", "seed", "group_column", "dialogue_column", "turn_column"}
# Arrow counts the bytes of a column's batch in 32 bits.
_MOST_MEDIA_BYTES = 2**31 - 2**20

Row = dict[str, Any]
Progress = Callable[[int, int | None], None]


@dataclass
class RowSource:
    """Rows to convert.

    Attributes:
        features: types of the columns.
        rows: called for a fresh iterator of (split, row), in the same order each time.
        total: how many rows, where that is known beforehand.
        label_names: names of several labels, whose column cannot hold them.
    """

    features: Features
    rows: Callable[[], Iterator[tuple[str, Row]]]
    total: int | None = None
    label_names: Sequence[str] | None = None


def convert(
    layout: str,
    source: str | os.PathLike,
    out: str | os.PathLike,
    *,
    options: Mapping[str, Any] | None = None,
    format: str = "parquet",
    embed_media: bool = False,
    rows_per_shard: int = ROWS_PER_SHARD,
    progress: Progress | None = None,
) -> dict[str, Any]:
    """Turn a data set into shards; `load_shards` reads them.

    A run that was stopped, even killed, is continued by the same call; until it is done `load_shards` refuses the
    folder. A finished folder is left as it is.

    Args:
        layout: one of `LAYOUTS`.
        source: the file or folder that the layout's loader takes.
        out: folder of the shards, new or of an earlier run of the same call.
        options: more arguments of the loader (`clcr_hf.data.load_<layout>`). Tables (layout manifest) are streamed in
            the splits that they name, and files of theirs are looked for; to carve validation, or to put dialogues
            together, give validation_fraction, seed, group_column, dialogue_column or turn_column: the table is then
            read as a whole.
        format: "parquet", or "safetensors" for layouts without media.
        embed_media: put the bytes of videos, sounds and pictures into the shards, so that these can be moved. By
            default the shards hold absolute paths. Files of optical flow stay outside.
        rows_per_shard: rows a file.
        progress: called with the rows done and the rows in all (None where unknown) after each row.

    Returns:
        The record that is kept in `convert.json`: layout, source, options, rows of each split, names of several
        labels, versions.

    Raises:
        DataFormatError: an unknown layout, format or option, a folder with other content, a source that changed since
            it was begun, or a fault of the data as its loader reports it.
        FileNotFoundError: no such source, or no such media file to embed.
    """
    given = dict(options or {})
    _check_arguments(layout, source, given, format, rows_per_shard)
    folder = Path(out)
    task = {
        "layout": layout,
        "source": os.path.abspath(source),
        "options": given,
        "format": format,
        "embed_media": embed_media,
        "rows_per_shard": rows_per_shard,
    }
    task = json.loads(json.dumps(task, default=str))
    finished = _finished(folder, task)
    if finished is not None:
        return finished
    rows = LAYOUTS[layout](source, given)
    if format == "safetensors" and (media := [name for name, kind in rows.features.items() if is_media(kind)]):
        raise DataFormatError(f"{layout} has media ({', '.join(media)}); safetensors hold features. Use parquet")
    folder.mkdir(parents=True, exist_ok=True)
    _write_json(folder / PARTIAL, task)
    _write_rows(folder, rows, task, progress)
    record = task | {
        "rows": {split: count for split in SPLITS if (count := count_rows(folder, split))},
        "label_names": None if rows.label_names is None else list(rows.label_names),
        "versions": {name: version(name) for name in ("clcr-hf", "datasets", "pyarrow", "numpy")},
    }
    if not record["rows"]:
        raise DataFormatError(f"{source}: no rows")
    _write_json(folder / RECORD, record)
    (folder / PARTIAL).unlink()
    return record


def _check_arguments(
    layout: str, source: str | os.PathLike, options: Mapping[str, Any], format: str, rows_per_shard: int
) -> None:
    if layout not in LAYOUTS:
        raise DataFormatError(f"layout {layout!r} is none of {', '.join(LAYOUTS)}")
    if format not in FORMATS:
        raise DataFormatError(f"format {format!r} is none of {', '.join(FORMATS)}")
    if rows_per_shard < 1:
        raise DataFormatError(f"rows_per_shard is {rows_per_shard}; at least 1 is wanted")
    if not os.path.exists(source):
        raise FileNotFoundError(f"{source}: no such file or folder")
    known = [
        name
        for name, parameter in inspect.signature(getattr(loaders, f"load_{layout}")).parameters.items()
        if parameter.kind is parameter.KEYWORD_ONLY
    ]
    unknown = sorted(options.keys() - set(known))
    if unknown:
        raise DataFormatError(f"{layout} has no option {', '.join(unknown)}; it has {', '.join(known)}")


def _finished(folder: Path, task: Mapping[str, Any]) -> dict[str, Any] | None:
    """The record of an earlier run that is done; DataFormatError if the folder holds something else."""
    record, partial = _read_json(folder / RECORD), _read_json(folder / PARTIAL)
    found = record if record is not None else partial
    if found is None:
        if any(shard_files(folder, split) for split in SPLITS):
            raise DataFormatError(f"{folder} holds shards that `clcr convert` did not write. Use a new folder")
        return None
    differ = [name for name, value in task.items() if found.get(name) != value]
    if differ:
        told = "; ".join(f"{name} was {found.get(name)!r}, now {task[name]!r}" for name in differ)
        raise DataFormatError(f"{folder} holds another conversion ({told}). Use a new folder")
    if record is not None:
        (folder / PARTIAL).unlink(missing_ok=True)  # stopped between its last two steps
    return record


def _read_json(path: Path) -> dict[str, Any] | None:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None
    except (OSError, ValueError) as error:
        raise DataFormatError(f"{path}: cannot be read ({error}). Remove the folder and convert anew") from error
    if not isinstance(content, dict):
        raise DataFormatError(f"{path}: not a record of `clcr convert`. Remove the folder and convert anew")
    return content


def _write_json(path: Path, content: Mapping[str, Any]) -> None:
    temporary = path.with_name(f"{path.name}.tmp")
    temporary.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
    replace_durably(temporary, path)


def _write_rows(folder: Path, source: RowSource, task: Mapping[str, Any], progress: Progress | None) -> None:
    media = [name for name, kind in source.features.items() if is_media(kind)] if task["embed_media"] else []
    done = {split: shard_ids(folder, split) for split in SPLITS}
    writers: dict[str, ShardWriter] = {}
    with ExitStack() as stack:
        for number, (split, row) in enumerate(source.rows(), 1):
            if not _is_written(folder, done[split], split, row):
                if split not in writers:
                    writer = FORMATS[task["format"]](
                        folder, split, source.features, rows_per_shard=task["rows_per_shard"]
                    )
                    writers[split] = stack.enter_context(writer)
                writers[split].write(row | {name: _embedded(row[name]) for name in media})
            if progress is not None:
                progress(number, source.total)
    for split, ids in done.items():
        if next(ids, None) is not None:
            raise DataFormatError(f"{folder}: {split} holds more rows than {task['source']} has now. Use a new folder")


def _is_written(folder: Path, done: Iterator[str], split: str, row: Row) -> bool:
    """Whether the shards hold this row. They hold the first rows of the source, in its order."""
    expected = next(done, None)
    if expected is None:
        return False
    if expected != row["id"]:
        raise DataFormatError(
            f"{folder}: {split} was begun with {expected!r} where the source now has {row['id']!r}: it changed. "
            "Use a new folder"
        )
    return True


def _embedded(value: Any) -> Any:
    """Media with their bytes in place of their path; the file's name is kept, its ending says what it is."""
    if isinstance(value, (list, tuple)):
        return [_embedded(item) for item in value]
    if value is None or value["bytes"] is not None or value["path"] is None:
        return value
    path = value["path"]
    size = os.path.getsize(path)
    if size > _MOST_MEDIA_BYTES:
        raise DataFormatError(f"{path}: {size:,} bytes are too many to put into a shard; leave out embed_media")
    return {"path": os.path.basename(path), "bytes": Path(path).read_bytes()}


# ---------------------------------------------------------------------------------------------------------------------
# Layouts


def _loaded(layout: str) -> Callable[[str | os.PathLike, Mapping[str, Any]], RowSource]:
    """Rows of a loader whose result is small: paths, or one small file."""

    def open_source(source: str | os.PathLike, options: Mapping[str, Any]) -> RowSource:
        splits: DatasetDict = getattr(loaders, f"load_{layout}")(source, **options)
        features = next(iter(splits.values())).features
        return RowSource(
            features,
            lambda: ((split, row) for split in splits for row in splits[split]),
            sum(map(len, splits.values())),
        )

    return open_source


def _mmsa(source: str | os.PathLike, options: Mapping[str, Any]) -> RowSource:
    rows = loaders.iter_mmsa(source, **options)
    return RowSource(rows.features, lambda: iter(rows), sum(rows.counts.values()))


def _csd(source: str | os.PathLike, options: Mapping[str, Any]) -> RowSource:
    from .benchmarks.csd import MOSEI_EMOTIONS

    rows = loaders.iter_csd(source, **options)
    names = MOSEI_EMOTIONS if options.get("labels") == "emotion" else None
    return RowSource(rows.features, lambda: iter(rows), label_names=names)


def _ave_h5(source: str | os.PathLike, options: Mapping[str, Any]) -> RowSource:
    from .benchmarks.ave import H5_FEATURES

    return RowSource(H5_FEATURES, lambda: loaders.iter_ave_h5(source, **options))


def _manifest(source: str | os.PathLike, options: Mapping[str, Any]) -> RowSource:
    opened = {name: value for name, value in options.items() if name not in _WHOLE_TABLE | {"skip_missing"}}
    if _WHOLE_TABLE & options.keys():
        whole = _loaded("manifest")(source, options)
        several = isinstance(whole.features.get("label"), List)
        return replace(whole, label_names=loaders.open_manifest(source, **opened).label_names if several else None)
    manifest = loaders.open_manifest(source, **opened)
    skip = bool(options.get("skip_missing", False))

    def rows() -> Iterator[tuple[str, Row]]:
        missing: list[str] = []
        owner: dict[int, str] = {}
        for row in manifest.rows(missing):
            _check_leak(source, owner, row)
            if skip or not missing:  # else the rest is looked through to count what else is missing
                yield row["split"], {name: row[name] for name in manifest.features}
        report_missing(source, missing, len(manifest), skip, "Give paths relative to the table")

    several = isinstance(manifest.features.get("label"), List)
    return RowSource(manifest.features, rows, len(manifest), manifest.label_names if several else None)


def _check_leak(source: str | os.PathLike, owner: dict[int, str], row: Row) -> None:
    """Refuse one file in two splits; a number is kept of each path, for there may be many."""
    for path in cell_paths(row):
        if owner.setdefault(hash(path), row["split"]) != row["split"]:
            raise DataFormatError(
                f"{source}: {path} is in both {owner[hash(path)]} and {row['split']}; a clip belongs to one split"
            )


LAYOUTS: dict[str, Callable[[str | os.PathLike, Mapping[str, Any]], RowSource]] = {
    "mmsa": _mmsa,
    "csd": _csd,
    "cremad": _loaded("cremad"),
    "kinetics_sounds": _loaded("kinetics_sounds"),
    "ave": _loaded("ave"),
    "ave_h5": _ave_h5,
    "ucf101": _loaded("ucf101"),
    "manifest": _manifest,
    "utterances": _loaded("utterances"),
}
