"""Folders and files that a command leaves behind: written whole or not at all, by one writer, resumed, recorded."""

import json
import os
import platform
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from importlib.metadata import version
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout
from huggingface_hub.utils.sha import sha_fileobj

from .errors import DataFormatError, format_error

RECORDS = ("convert.json", "extract.json")
_PARTIAL = ".partial.json"
_LOCK = "_writing.lock"  # a name that uploads to the Hub pass over


def replace_durably(temporary: str | os.PathLike, target: str | os.PathLike) -> None:
    """Give a finished file its name, after its bytes are on the disk: a power cut leaves the whole file or none."""
    with open(temporary, "rb+") as file:
        os.fsync(file.fileno())
    os.replace(temporary, target)


def check_writable(path: str | os.PathLike, *, folder: bool = False) -> None:
    """
    Tries, before any work, whether a file (or with `folder` a folder) can be written at `path`; nothing is left there.

    Raises:
        OSError: it cannot; a folder is in the file's place, or a file in the folder's or above it.
    """
    place = Path(path).expanduser().absolute()
    if place.exists() and place.is_dir() != folder:
        what, wanted = ("folder", "file") if place.is_dir() else ("file", "folder")
        raise OSError(f"{path} is a {what}; name a {wanted} to write to")
    places = [place, *place.parents] if folder else list(place.parents)
    above = next(each for each in places if each.exists())
    if not above.is_dir():
        raise OSError(f"{path} cannot be written: {above} is a file, not a folder")
    try:
        with tempfile.TemporaryFile(dir=above):
            pass
    except OSError as error:
        raise OSError(f"{path} cannot be written: {error.strerror or error}") from error


@contextmanager
def replacing(path: str | os.PathLike) -> Iterator[Path]:
    """`with replacing(path) as draft`: files written there move to `path` and beside it once all went well."""
    target = Path(path)
    target.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=f".{target.name}.", dir=target.parent) as folder:
        yield Path(folder) / target.name
        for file in sorted(Path(folder).iterdir(), key=lambda file: file.name == target.name):  # the file itself last
            replace_durably(file, target.parent / file.name)


def write_text(path: str | os.PathLike, text: str) -> None:
    """Write a file whole or not at all; folders above it are made."""
    with replacing(path) as draft:
        draft.write_text(text, encoding="utf-8")


def write_json(path: str | os.PathLike, content: Any, default: Callable[[Any], Any] | None = None) -> None:
    """Write `content` as JSON, as [`write_text`]; `default` turns what JSON has no form for."""
    write_text(path, json.dumps(content, indent=2, default=default) + "\n")


def read_json(path: str | os.PathLike) -> dict[str, Any] | None:
    """The JSON object in a file; None without a file, DataFormatError where it holds anything else."""
    if not os.path.exists(path):
        return None
    with format_error(f"{path}: cannot be read as JSON", OSError, ValueError):
        content = json.loads(Path(path).read_text(encoding="utf-8"))
    if not isinstance(content, dict):
        raise DataFormatError(f"{path}: must hold a JSON object, got {type(content).__name__}")
    return content


def versions(*packages: str) -> dict[str, str]:
    """Versions of Python and of installed packages, for a record."""
    return {"python": platform.python_version(), **{name: version(name) for name in packages}}


def file_sum(path: str | os.PathLike) -> dict[str, Any]:
    """`bytes` and `sha256` of a file, for a record."""
    with open(path, "rb") as file:
        return {"bytes": os.path.getsize(path), "sha256": sha_fileobj(file).hex()}


def claim(target: str | os.PathLike, lock: str | os.PathLike) -> FileLock:
    """The lock of a file or folder that this process alone writes from now on; [`release`] it at the end.

    Args:
        target: what is written, named in the error.
        lock: a file of its own.

    Raises:
        DataFormatError: another process writes there.
    """
    held = FileLock(lock, timeout=0)
    try:
        held.acquire()
    except Timeout:
        raise DataFormatError(f"{target} is being written by another process; wait for it") from None
    return held


def release(held: FileLock) -> None:
    """Let others write."""
    Path(held.lock_file).unlink(missing_ok=True)
    held.release()


@contextmanager
def only_writer(folder: str | os.PathLike) -> Iterator[None]:
    """Keep other writers out of a folder, which is made when absent; DataFormatError where another one writes. A
    process that is killed holds no lock."""
    Path(folder).mkdir(parents=True, exist_ok=True)
    lock = claim(folder, Path(folder) / _LOCK)
    try:
        yield
    finally:
        release(lock)


def check_finished(folder: str | os.PathLike) -> None:
    """DataFormatError if a writer of this folder left its mark of unfinished work."""
    for mark in sorted(Path(folder).glob(f"*{_PARTIAL}")):
        name = mark.name.removesuffix(_PARTIAL)
        raise DataFormatError(f"{folder}: `clcr {name}` has not finished here. Run the same command again to go on")


class OutputFolder:
    """The folder that a command writes shards into.

    `<command>.partial.json` holds what is being written while it is, `<command>.json` what was, once all is there.

    Args:
        folder: new, or of an earlier run of the same command.
        command: `convert` or `extract`.
    """

    def __init__(self, folder: str | os.PathLike, command: str):
        self.path, self.command = Path(folder), command
        self.record, self.mark = self.path / f"{command}.json", self.path / f"{command}{_PARTIAL}"
        self._kept: dict[str, Any] = {}

    def finished(self, task: Mapping[str, Any]) -> dict[str, Any] | None:
        """
        The record of a finished run of this task; None where there is none.

        Args:
            task: what decides about the rows, as JSON has it.

        Raises:
            DataFormatError: the folder was begun with another task, or has shards of unknown origin.
        """
        record, mark = read_json(self.record), read_json(self.mark)
        found = record if mark is None else mark
        if found is not None and "layout" in found:  # as version 0.1 called a data set
            found = {"dataset": found["layout"], **found}
        if found is None:
            if next(self.path.glob("*/*-*.parquet"), None) is not None:
                raise DataFormatError(f"{self.path} holds shards that `clcr {self.command}` did not write. {_ADVICE}")
            return None
        differ = _differences(found, task)
        if differ:
            raise DataFormatError(f"{self.path} holds rows of other settings ({'; '.join(differ)}). {_ADVICE}")
        return record

    def finish(self, record: Mapping[str, Any]) -> None:
        """Write the record and take the mark away; DataFormatError where a file of an earlier one, by `shards`, is not
        as it was recorded."""
        for name, known in self._kept.items():
            if record["shards"].get(name) != known:
                raise DataFormatError(f"{self.path / name}: altered since it was written. Remove it and run this again")
        write_json(self.record, record)
        self.mark.unlink()

    @contextmanager
    def writing(self, task: Mapping[str, Any]) -> Iterator[None]:
        """Claim the folder for this process and mark it unfinished; DataFormatError where another one writes, or wrote
        another task meanwhile. Others may write at the end."""
        with only_writer(self.path):
            record = self.finished(task)
            if record is not None and "shards" in record:  # what was removed is to be written anew
                self._kept = {name: sums for name, sums in record["shards"].items() if (self.path / name).exists()}
                write_json(self.record, record | {"shards": self._kept})
            write_json(self.mark, task)
            yield


_ADVICE = "Use a new folder"


def _differences(found: Mapping[str, Any], wanted: Mapping[str, Any]) -> list[str]:
    problems = []
    for name, value in wanted.items():
        other = found.get(name)
        if name == "features" and other != value:
            problems.append("the columns differ")
        elif isinstance(value, dict) and isinstance(other, dict):
            problems += _differences(
                {key: other.get(key) for key in {*other, *value}}, {**dict.fromkeys(other), **value}
            )
        elif other != value:
            problems.append(f"{name} was {other!r}, now {value!r}")
    return problems
