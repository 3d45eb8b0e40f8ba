"""What `clcr predict` reads: a clip, several, a folder, a pattern or a table; each as a stream of items."""

import glob
import hashlib
import json
import os
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ..data.columns import DataFormatError, split_name
from ..data.files import files_below, place_names
from ..data.table.cells import RowIds, located
from ..data.table.choose import ID_COLUMNS, WINDOW_COLUMNS, choose_columns, listed, pick
from ..data.table.read import TABLE_SUFFIXES, Table, column_names, find_tables, named_table, read_rows
from ..data.table.values import is_absent, parse_list
from ..fetch import is_url
from ..modalities import STANDARD
from ..samples import is_missing, window_of

CLIP_SUFFIXES = (*STANDARD["vision"].suffixes, *STANDARD["audio"].suffixes)
_WORDS = ("words", "word_intervals")


@dataclass
class Item:
    """One clip to predict.

    Attributes:
        id: names its rows.
        path: its file, for people; None for a sample without one.
        sample: an input of the pipeline; None where the table's row is faulty, which `error` then says.
    """

    id: str
    path: str | None
    sample: dict[str, Any] | None
    error: str | None = None


@dataclass
class Items:
    """A stream of items that can be gone through more than once.

    Attributes:
        name: what they come from.
        digest: of what they come from, by which a later run knows the same input.
        open: a fresh iterator, in the same order each time.
        total: how many.
        unread: columns of a table that are not read.
    """

    name: str
    digest: str
    open: Callable[[], Iterator[Item]]
    total: int
    unread: list[str] = field(default_factory=list)

    def __iter__(self) -> Iterator[Item]:
        return self.open()


def is_one_clip(sources: Sequence[str]) -> bool:
    """Whether that is one file or address, or none at all: no table, folder, pattern or several of them."""
    if len(sources) != 1 or is_url(sources[0]):
        return len(sources) < 2
    path = Path(sources[0]).expanduser()
    listed = path.is_dir() or path.suffix.lower() in TABLE_SUFFIXES
    return not listed and (path.is_file() or not glob.has_magic(str(path)))


def sample_of(clip: str | None, text: str | None, features: Sequence[str] | None) -> dict[str, Any]:
    """An input of the pipeline from what a command line gives.

    Raises:
        ValueError: features that are not NAME=FILE, or given twice.
        FileNotFoundError: no such file.
    """
    sample = {key: value for key, value in (("media", clip), ("text", text)) if value is not None}
    for given in features or ():
        name, equals, path = given.partition("=")
        key = f"{name.strip().removesuffix('_features')}_features"
        if not equals or not name.strip() or not path:
            raise ValueError(f"--features takes a modality and a file, as gaze=gaze.npy, got {given!r}")
        if key in sample:
            raise ValueError(f"--features {name}: given twice")
        if not Path(path).expanduser().is_file():
            raise FileNotFoundError(f"--features {name}: {path} is not a file")
        sample[key] = path
    return sample


def open_items(sources: Sequence[str], split: str | None = None) -> Items:
    """
    Args:
        sources: one folder, table, pattern, file or address; or several files and addresses. A folder is a table where
            it holds one that is called `metadata` or `manifest`, and else its clips and those of the folders below.
        split: of a table, the rows of this split alone.

    Raises:
        DataFormatError, FileNotFoundError: nothing of that kind there.
    """
    if len(sources) == 1 and not is_url(sources[0]):
        path = Path(sources[0]).expanduser()
        if path.suffix.lower() in TABLE_SUFFIXES or (path.is_dir() and _holds_a_table(path)):
            return _table_items(path, split)
        if split is not None:
            raise ValueError("--split is for a table with a column of splits")
        if path.is_dir():
            files = list(files_below(path, CLIP_SUFFIXES))
            if not files:
                raise DataFormatError(f"{path} holds neither clips ({', '.join(CLIP_SUFFIXES)}) nor a table of them")
            return _file_items(str(path), files, str(path))
        if glob.has_magic(sources[0]) and not path.exists():
            files = sorted(glob.glob(str(path), recursive=True))
            files = [name for name in files if name.lower().endswith(CLIP_SUFFIXES) and os.path.isfile(name)]
            if not files:
                raise FileNotFoundError(f"{sources[0]} matches no clip ({', '.join(CLIP_SUFFIXES)})")
            return _file_items(sources[0], files)
    for name in sources:
        if not is_url(name) and not Path(name).expanduser().is_file():
            raise FileNotFoundError(f"{name} is not a file")
    return _file_items(", ".join(sources[:3]) + (", ..." if len(sources) > 3 else ""), list(sources))


# -- files -------------------------------------------------------------------------------------------------------------


def _file_items(name: str, files: list[str], root: str | None = None) -> Items:
    """Clips named by their place below `root`, without the suffix where that is enough."""
    local = [file for file in files if not is_url(file)]
    root = root or os.path.commonpath([os.path.dirname(os.path.abspath(file)) for file in local] or [""])
    named = dict(zip(local, place_names(root, local), strict=True))
    ids = [named.get(file, file) for file in files]
    twice = [each for each, count in Counter(ids).items() if count > 1]
    if twice:
        raise ValueError(f"{twice[0]} is given twice")
    sizes = [0 if is_url(file) else os.path.getsize(file) for file in files]

    def items() -> Iterator[Item]:
        return (Item(each, file, {"media": file}) for each, file in zip(ids, files, strict=True))

    return Items(name, _digest([ids, [os.path.basename(file) for file in files], sizes]), items, len(files))


# -- tables ------------------------------------------------------------------------------------------------------------


def _holds_a_table(folder: Path) -> bool:
    if named_table(folder) is not None:
        return True
    try:
        return bool(find_tables(folder)) and next(files_below(folder, CLIP_SUFFIXES, depth=0), None) is None
    except DataFormatError:
        return False


def _table_items(path: Path, split: str | None) -> Items:
    tables = find_tables(path)
    present = list(dict.fromkeys(name for table in tables for name in column_names(table)))
    columns = choose_columns(path, tables, present, None, None)
    if not columns:
        raise DataFormatError(f"{path}: no column of clips, features or texts; it has {listed(present)}")
    identity = pick(path, present, None, ID_COLUMNS)
    used = {*columns.values(), identity, *WINDOW_COLUMNS, *_WORDS, "split"}
    wanted = None if split is None else split_name(split)
    naming = next((columns[key] for key in ("media", "video", "audio", "images", "flow") if key in columns), "")

    def item_of(table: Table, number: int, row: Mapping[str, Any], make_id: RowIds) -> Item:
        where, folder = f"{table.path}, row {number}", table.path.parent
        made = make_id(row.get(naming), None)
        own = made if identity is None or is_absent(row.get(identity)) else str(row[identity])
        try:
            sample = {key: located(key, row.get(name), folder, f"{where}, {name}") for key, name in columns.items()}
            sample |= {key: parse_list(row[key], f"{where}, {key}") for key in _WORDS if not is_missing(row.get(key))}
            start, end = window_of([{key: row.get(key) for key in WINDOW_COLUMNS}], where)
        except ValueError as error:
            return Item(own, None, None, str(error))
        sample |= {"start": start or None, "end": end}
        sample = {key: value for key, value in sample.items() if value is not None and value != ""}
        return Item(own, _path_of(sample), sample)

    def items() -> Iterator[Item]:
        make_id = RowIds()
        for table in tables:
            for number, row in enumerate(read_rows(table), 1):
                found = table.split if table.split is not None else row.get("split")
                own = None if is_absent(found) else split_name(found)
                item = item_of(table, number, row, make_id)
                if wanted is None or own == wanted:
                    yield item

    total = sum(1 for _ in items())
    if not total:
        raise DataFormatError(f"{path}: no rows" + (f" of the split {split}" if split is not None else ""))
    digest = _digest([[file_digest(table.path) for table in tables], split])
    return Items(str(path), digest, items, total, [name for name in present if name not in used])


def _path_of(sample: Mapping[str, Any]) -> str | None:
    """The file that people know a row by."""
    for key in ("media", "video", "audio", "images", "flow"):
        value = sample.get(key)
        value = value[0] if isinstance(value, list) and value else value
        value = value.get("path") if isinstance(value, Mapping) else value
        if isinstance(value, str):
            return value
    return next((value for key, value in sample.items() if key.endswith("_features") and isinstance(value, str)), None)


# -- digests -----------------------------------------------------------------------------------------------------------


def _digest(value: Any) -> str:
    return hashlib.sha256(json.dumps(value).encode()).hexdigest()[:16]


def file_digest(path: str | os.PathLike[str]) -> str:
    """A digest of a file's content. (`hashlib.file_digest` came with Python 3.11.)"""
    found = hashlib.sha256()
    with open(os.path.expanduser(path), "rb") as file:
        while block := file.read(2**20):
            found.update(block)
    return found.hexdigest()[:16]
