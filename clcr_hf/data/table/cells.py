"""Cells of a table that name files: made absolute, checked, and turned into what `datasets` refers to files by."""

import glob
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from datasets import Audio, Image, List, Value, Video

from ...modalities import FEATURES_END as FEATURES_SUFFIX
from ...samples import is_missing
from ..columns import DataFormatError
from ..feature_arrays import FEATURE_SUFFIXES
from ..files import frame_files, named_fault, natural_order
from .values import is_absent, short

# Suffixes that transcripts may end in too; such a cell names features where there is such a file.
_COMMON_SUFFIXES = (".csv", ".pt", ".mat")
# Columns of files, in the order in which one is taken to name a row.
MEDIA_TYPES: dict[str, Any] = {
    "media": Video(decode=False),
    "video": Video(decode=False),
    "audio": Audio(decode=False),
    "images": List(Image(decode=False)),
    "flow": Value("string"),
}


def absolute_path(folder: Path, name: object) -> str:
    """A file named in a table of `folder`, as an absolute path."""
    return os.path.abspath(os.path.join(folder, str(name)))


def media_reference(folder: Path, cell: Any, where: str) -> dict[str, Any] | None:
    """A file as `datasets` refers to it; a struct of `datasets` may hold the file itself.

    Raises:
        DataFormatError: neither a name nor such a struct.
    """
    path, content = (cell.get("path"), cell.get("bytes")) if isinstance(cell, dict) else (cell, None)
    if not isinstance(path, str | None) or not isinstance(content, bytes | None):
        raise DataFormatError(f"{where}: {short(cell)} is no name of a file")
    if content is not None:
        return {"path": path, "bytes": content}
    return None if is_absent(path) else {"path": absolute_path(folder, path), "bytes": None}


def image_references(folder: Path, cell: Any, where: str) -> list[dict[str, Any]] | None:
    """The images that a cell names, as a list, a folder, a pattern, or one file; None for none.

    Raises:
        DataFormatError: something else.
    """
    names = cell if isinstance(cell, list | tuple) else [cell]
    if isinstance(cell, str) and not is_absent(cell):
        path = absolute_path(folder, cell)
        if os.path.isdir(path):
            names = frame_files(path) or names
        elif glob.has_magic(cell) and not os.path.exists(path):
            pattern = os.path.join(glob.escape(os.path.abspath(folder)), cell)
            names = sorted(glob.glob(pattern), key=natural_order) or names
    found = [media_reference(folder, name, where) for name in names]
    return [reference for reference in found if reference is not None] or None


def located(name: str, cell: Any, folder: Path, where: str) -> Any:
    """A cell of the column of `name` (media, text, gaze_features, ...), with the paths in it made absolute; None for an
    empty one.

    Raises:
        DataFormatError: what cannot stand in such a column.
    """
    if name == "text":
        if names_features(cell, folder):
            raise DataFormatError(f"{where}: {short(cell)} names features, and the rows before it hold transcripts")
        return text_of(cell, where)
    if is_absent(cell):
        return None
    if name == "images":
        return image_references(folder, cell, where)
    if name.endswith(FEATURES_SUFFIX):
        return absolute_path(folder, cell) if isinstance(cell, str) else cell
    reference = media_reference(folder, cell, where)
    if name != "flow" or reference is None:
        return reference
    if reference["bytes"] is not None:
        raise DataFormatError(f"{where}: optical flow is given as the name of a file")
    return reference["path"]


def names_features(cell: object, folder: Path) -> bool:
    """Whether a cell is the name of a file of features."""
    if not isinstance(cell, str) or not cell.lower().endswith(FEATURE_SUFFIXES):
        return False
    return not cell.lower().endswith(_COMMON_SUFFIXES) or os.path.isfile(absolute_path(folder, cell))


def text_of(cell: Any, where: str) -> str | None:
    """A text; None for a cell that is missing, and numbers as they are written."""
    if is_missing(cell):
        return None
    if not isinstance(cell, str | int | float):
        raise DataFormatError(f"{where}: {short(cell)} is no text")
    return str(cell)


def cell_paths(cells: Mapping[str, Any]) -> Iterator[str]:
    """Every file that a row names."""
    for name, cell in cells.items():
        if cell is None or name == "text":
            continue
        if name == "flow" or (name.endswith(FEATURES_SUFFIX) and isinstance(cell, str)):
            yield cell
        elif name in MEDIA_TYPES:
            items = cell if isinstance(cell, list) else [cell]
            yield from (item["path"] for item in items if item["bytes"] is None)


def first_fault(cells: Mapping[str, Any]) -> str | None:
    """The first file of a row that is absent or empty, with the reason unless it is absent; None when all are there."""
    return next(filter(None, map(named_fault, cell_paths(cells))), None)


class RowIds:
    """Makes ids of rows that have none: the split and the file's name, with a number where that came before."""

    def __init__(self) -> None:
        self._uses: dict[str, int] = {}
        self._given: set[str] = set()

    def __call__(self, cell: Any, split: object) -> str:
        name = cell.get("path") if isinstance(cell, dict) else cell if isinstance(cell, str) else None
        stem = "/".join(str(part) for part in (split, os.path.splitext(str(name))[0] if name else "row") if part)
        made = ""
        while not made or made in self._given:
            self._uses[stem] = uses = self._uses.get(stem, 0) + 1
            made = stem if uses == 1 and name else f"{stem}#{uses}"
        self._given.add(made)
        return made
