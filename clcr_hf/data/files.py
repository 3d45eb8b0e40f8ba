"""Files and lists of a data set on disk: what is absent, what a list holds, which frames a folder holds."""

import os
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path

from .columns import DataFormatError, logger, name_some
from .errors import format_error

IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".webp")
_LFS = b"version https://git-lfs"


def file_fault(path: str | os.PathLike[str]) -> str | None:
    """Why `path` cannot be used, or None: "absent", "empty" (0 bytes), or "a Git LFS pointer" (of a clone without LFS).

    The content is not decoded.
    """
    if not os.path.isfile(path):
        return "absent"
    size = os.path.getsize(path)
    if size == 0:
        return "empty"
    if size < 300:  # a pointer is three short lines
        with open(path, "rb") as file:
            if file.read(len(_LFS)) == _LFS:
                return "a Git LFS pointer"
    return None


def report_missing(where: object, missing: Sequence[str], total: int, skip_missing: bool, advice: str) -> None:
    """Deal with rows whose files cannot be used.

    Args:
        missing: one text for each such row, as `path` or `path (empty)`.
        total: rows in all.
        skip_missing: warn where the default is an error.

    Raises:
        DataFormatError: there are some and `skip_missing` is False, or none would be left.
    """
    if not missing:
        return
    text = f"{where}: {len(missing)} of {total} files are missing: {name_some(missing)}"
    if not skip_missing or len(missing) >= total:
        raise DataFormatError(f"{text}. {advice}, or pass skip_missing=True")
    logger.warning("%s; their rows are skipped", text)


def named_fault(path: str | os.PathLike[str], folder: str | os.PathLike[str] | None = None) -> str | None:
    """The name of a file that cannot be used, and why unless it is absent, as `path (empty)`; None where it can.

    Args:
        folder: the name is relative to this.
    """
    fault = file_fault(path)
    if fault is None:
        return None
    name = os.fspath(path) if folder is None else os.path.relpath(path, folder)
    return name if fault == "absent" else f"{name} ({fault})"


class Roots:
    """The folders beneath which every file of a table must lie that is a stranger's, or whose files leave the machine.

    Args:
        folders: the table's own, and further ones (None is passed over).
    """

    def __init__(self, *folders: str | os.PathLike[str] | None):
        self.folders = [os.path.abspath(folder) for folder in folders if folder is not None]
        self._real = [os.path.realpath(folder) for folder in self.folders]

    def check(self, path: str | os.PathLike[str], where: str) -> None:
        """DataFormatError for a file that lies elsewhere once links are followed; it need not exist."""
        real = Path(os.path.realpath(path))
        if not any(map(real.is_relative_to, self._real)):
            raise DataFormatError(
                f"{where}: {path} lies outside of {' and '.join(self.folders)}{self._by_link(path, real)}, and files "
                "are read from there alone; say with media_root (--media_root) in which folder they may lie"
            )

    def _by_link(self, path: str | os.PathLike[str], real: Path) -> str:
        inside = any(map(Path(os.path.abspath(path)).is_relative_to, self.folders))
        return f" by a link to {real}" if inside else ""


def list_lines(path: str | os.PathLike[str]) -> Iterator[tuple[int, str]]:
    """Line number (from 1) and text of each non-blank line of a list; CRLF, a byte order mark and outer spaces go.

    Raises:
        DataFormatError: no such file, or not UTF-8.
    """
    if not os.path.exists(path):
        raise DataFormatError(f"{path}: no such list")
    damage = format_error(f"{path}: cannot be read as UTF-8 text", OSError, UnicodeDecodeError)
    with damage, open(path, encoding="utf-8-sig") as file:
        for number, line in enumerate(file, 1):
            if line.strip():
                yield number, line.strip()


def frame_files(folder: str | os.PathLike[str]) -> list[str]:
    """Paths of the images in a folder in the order of the numbers in their names (2 before 10).

    Hidden files (macOS leaves `._00000.jpg`) and files of 0 bytes are left out; an absent folder has none.
    """
    try:
        entries = [entry for entry in os.scandir(folder) if entry.name.lower().endswith(IMAGE_SUFFIXES)]
    except (FileNotFoundError, NotADirectoryError):
        return []
    kept = [entry.path for entry in entries if not entry.name.startswith(".") and entry.stat().st_size]
    return sorted(kept, key=natural_order)


def files_below(
    folder: str | os.PathLike[str],
    suffixes: Sequence[str],
    *,
    depth: int | None = None,
    leave_out: Sequence[str] = (),
    follow_links: bool = True,
) -> Iterator[str]:
    """Paths of the files in a folder, and in those inside it, whose names end in one of `suffixes` (in small letters).

    Hidden files and folders are left out. In the order of names.

    Args:
        depth: how many folders down; None for no limit.
        leave_out: beginnings of the names of folders that are not entered.
        follow_links: whether linked folders are entered; each place once, so that a link to a folder above does no
            harm.

    Raises:
        PermissionError: a folder that may not be read.
    """
    unwanted = (".", *leave_out)
    seen: set[tuple[int, int]] = set()
    for place, folders, names in os.walk(folder, onerror=_refused, followlinks=follow_links):
        status = os.stat(place)
        if (status.st_dev, status.st_ino) in seen:
            folders.clear()
            continue
        seen.add((status.st_dev, status.st_ino))
        down = len(Path(os.path.relpath(place, folder)).parts)
        deep = depth is not None and down >= depth
        folders[:] = [] if deep else sorted(name for name in folders if not name.startswith(unwanted))
        for name in sorted(names):
            path = os.path.join(place, name)
            if name[0] != "." and name.lower().endswith(tuple(suffixes)) and os.path.isfile(path):
                yield path


def _refused(error: OSError) -> None:
    if isinstance(error, PermissionError):
        raise error


def place_names(root: str | os.PathLike[str], paths: Sequence[str]) -> list[str]:
    """Names of files by their place below `root`, without the suffix where none differs in that alone."""
    places = [os.path.relpath(path, root).replace(os.sep, "/") for path in paths]
    stems = [os.path.splitext(place)[0] for place in places]
    counts = Counter(stems)
    return [stem if counts[stem] == 1 else place for stem, place in zip(stems, places, strict=True)]


def folder_with(root: Path, folders: Sequence[str], name: str, advice: str) -> Path:
    """`root`, or the first of `folders` in it, that holds a file; DataFormatError with `advice` where none does."""
    for folder in (root, *(root / each for each in folders)):
        if (folder / name).is_file():
            return folder
    raise DataFormatError(f"{root}: no {name}; {advice}")


def find_file(folder: Path, names: Sequence[str]) -> Path | None:
    """The first of `names` that is a file in `folder`; None when there is none."""
    return next((folder / name for name in names if (folder / name).is_file()), None)


def natural_order(path: str) -> list[tuple[int, str]]:
    """Sort key of a path: the numbers in its file name count as numbers (2 before 10)."""
    parts = re.split(r"(\d+)", os.path.basename(path).lower())
    return [(int(part), "") if part.isascii() and part.isdigit() else (-1, part) for part in parts]
