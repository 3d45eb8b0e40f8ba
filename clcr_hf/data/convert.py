"""`clcr convert`: any data set turned once into shards that training reads from then on.

Rows are read and written one after the other, so memory does not grow with the data, and a conversion that was stopped
goes on where its last whole shard ends.
"""

import json
import os
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from .arrow import is_media
from .columns import SPLITS, DataFormatError
from .files import Roots
from .folders import OutputFolder, check_writable, versions
from .registry import ROWS_PER_SHARD
from .shards import ShardSet, check_shards, count_rows, record_shards, shard_ids
from .source import Row, Rows, Source, find_source

# Arrow counts the bytes of a column's batch in 32 bits.
_MOST_MEDIA_BYTES = 2**31 - 2**20

Progress = Callable[[int, int | None], None]


def convert(
    dataset: str,
    source: str | os.PathLike,
    out: str | os.PathLike,
    *,
    options: Mapping[str, Any] | None = None,
    embed_media: bool = False,
    media_root: str | os.PathLike | None = None,
    rows_per_shard: int = ROWS_PER_SHARD,
    progress: Progress | None = None,
) -> dict[str, Any]:
    """Turn a data set into shards; `load_shards` reads them.

    A run that was stopped, even killed, is continued by the same call; until it is done `load_shards` refuses the
    folder. A finished folder is left as it is.

    Args:
        dataset: a name of `clcr_hf.data.source`.
        source: the file or folder of the data set.
        out: folder of the shards, new or of an earlier run of the same call.
        options: of the data set's reader (`clcr_hf.data.load_<dataset>`). Tables (manifest) are streamed in the splits
            that they name, and files of theirs are looked for; to carve validation, or to put dialogues together, give
            validation_fraction, seed, group_column, dialogue_column or turn_column: the table is then read whole.
        embed_media: put the bytes of videos, audio and images into the shards, so that these can be moved. By default
            the shards hold absolute paths. Files of optical flow stay outside. As bytes then leave their place, every
            file that a row names must lie beneath the folder of the data set, links followed.
        media_root: a further folder in which the files may lie.
        rows_per_shard: rows a file.
        progress: called with the rows done and the rows in all (None where unknown) after each row.

    Returns:
        The record that is kept in `convert.json`: dataset, source, options, rows of each split, names of several
        labels, rows, bytes and hash of each shard, versions.

    Raises:
        DataFormatError: an unknown data set or option, a file to embed that lies elsewhere (with its row), a folder
            with other content, or that is being written, a source that changed since it was begun, shards altered since
            they were written, or a fault of the data as its reader reports it.
        FileNotFoundError: no such source, or no such media file to embed.
    """
    given = dict(options or {})
    reader = find_source(dataset)
    reader.check(given)
    if rows_per_shard < 1:
        raise DataFormatError(f"rows_per_shard is {rows_per_shard}; at least 1 is wanted")
    if not reader.by_name and not os.path.exists(source):
        raise FileNotFoundError(f"{source}: no such file or folder")
    check_writable(out, folder=True)
    place = os.path.abspath(source) if os.path.exists(source) else os.fspath(source)
    task = {"dataset": dataset, "source": place, "options": given}
    task |= {"embed_media": embed_media, "rows_per_shard": rows_per_shard}
    task = json.loads(json.dumps(task, default=str))
    folder = OutputFolder(out, "convert")
    finished = folder.finished(task)
    if finished is not None:
        folder.mark.unlink(missing_ok=True)  # stopped between its last two steps
        check_shards(out)
        return finished
    roots = _roots(reader, place, given, media_root) if embed_media else None
    if "media_root" in reader.options and not reader.by_name and embed_media:
        given = {"media_root": _folder_of(place), **given}  # files of features too
    if media_root is not None and ("media_root" in reader.options or not embed_media):
        given["media_root"] = os.fspath(media_root)
    rows = reader.open(source, streaming=True, **given)
    with folder.writing(task):
        _write_rows(folder.path, rows, task, roots, progress)
        record = task | {
            "rows": {split: count for split in SPLITS if (count := count_rows(folder.path, split))},
            **rows.about_labels,
            "shards": record_shards(folder.path),
            "versions": versions("clcr-hf", "datasets", "pyarrow", "numpy"),
        }
        if not record["rows"]:
            raise DataFormatError(f"{source}: no rows")
        folder.finish(record)
    return record


def _folder_of(place: str) -> str:
    return place if os.path.isdir(place) else os.path.dirname(place)


def _roots(reader: Source, place: str, options: Mapping[str, Any], media_root: str | os.PathLike | None) -> Roots:
    """Where the files must lie whose bytes are put into the shards."""
    if not reader.by_name:
        return Roots(_folder_of(place), media_root)
    from .named import media_folders

    return Roots(*media_folders(place, options.get("data_dir")), media_root)


def _write_rows(
    folder: Path, rows: Rows, task: Mapping[str, Any], roots: Roots | None, progress: Progress | None
) -> None:
    """Args: roots: where the media must lie that are put into the shards; None puts in none."""
    media = [] if roots is None else [name for name, kind in rows.features.items() if is_media(kind)]
    done = {split: shard_ids(folder, split) for split in SPLITS}
    with ShardSet(folder, rows.features, rows_per_shard=task["rows_per_shard"]) as shards:
        for number, (split, row) in enumerate(rows, 1):
            if not _is_written(folder, done[split], split, row):
                where = f"{task['source']}, {split}, row {row['id']!r}"
                shards.write(split, row | {name: _embedded(row[name], roots, where) for name in media})
            if progress is not None:
                progress(number, rows.total)
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


def _embedded(value: Any, roots: Roots | None, where: str) -> Any:
    """Media with their bytes in place of their path; the file's name is kept, its ending says what it is."""
    if isinstance(value, (list, tuple)):
        return [_embedded(item, roots, where) for item in value]
    if value is None or value["bytes"] is not None or value["path"] is None:
        return value
    path = value["path"]
    if roots is not None:
        roots.check(path, where)
    size = os.path.getsize(path)
    if size > _MOST_MEDIA_BYTES:
        raise DataFormatError(f"{path}: {size:,} bytes are too many to put into a shard; leave out embed_media")
    return {"path": os.path.basename(path), "bytes": Path(path).read_bytes()}
