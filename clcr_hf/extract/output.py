"""What `clcr extract` leaves in its folder beside and in the shards: failures, settings, counts."""

import json
import logging
import os
import platform
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from accelerate import PartialState
from datasets import Features

from ..data.columns import SPLITS, DataFormatError
from ..data.shards import ShardWriter, count_rows, written_ids
from .sources import Clip

logger = logging.getLogger("clcr_hf.extract")

RECORD = "extract.json"
UNFINISHED = "extract.partial.json"


class ShardSet:
    """A `ShardWriter` for each split, opened when its first row comes."""

    def __init__(self, folder: Path, features: Features, rank: int, rows_per_shard: int):
        self.folder, self.features = folder, features
        self._options = {"rank": rank, "rows_per_shard": rows_per_shard}
        self._writers: dict[str, ShardWriter] = {}
        self._stack = ExitStack()

    def write(self, split: str, row: Mapping[str, Any]) -> None:
        """Adds a row to its split."""
        if split not in self._writers:
            writer = ShardWriter(self.folder, split, self.features, **self._options)
            self._writers[split] = self._stack.enter_context(writer)
        self._writers[split].write(row)

    def __enter__(self) -> "ShardSet":
        return self

    def __exit__(self, *exception: Any) -> None:
        self._stack.__exit__(*exception)


@dataclass
class FailureList:
    """`failures-<process>.jsonl`: a line for each clip that was skipped, and for each row that lacks something.

    A line has `id`, `split`, `path`, `error` (class), `message`, and `written` (whether there is a row all the same).
    """

    folder: Path
    rank: int
    _file: Any = field(default=None, repr=False)

    def __enter__(self) -> "FailureList":
        self._file = open(self.folder / f"failures-{self.rank:03d}.jsonl", "a", encoding="utf-8")  # noqa: SIM115
        return self

    def __exit__(self, *exception: object) -> None:
        self._file.close()

    def add(self, clip: Clip, error: BaseException) -> None:
        """A clip is skipped."""
        logger.warning("%s is skipped: %s: %s", clip.id, type(error).__name__, error)
        logger.debug("where %s failed", clip.id, exc_info=error)
        self._line(clip, type(error).__name__, str(error), written=False)

    def note(self, clip: Clip, error: str, message: str) -> None:
        """A row is written, but lacks something."""
        self._line(clip, error, message, written=True)

    def _line(self, clip: Clip, error: str, message: str, *, written: bool) -> None:
        line = {"id": clip.id, "split": clip.split, "path": clip.path, "error": error, "message": message}
        self._file.write(json.dumps({**line, "written": written}, ensure_ascii=False) + "\n")
        self._file.flush()

    def failed_ids(self) -> set[str]:
        """Ids of all processes' clips that were skipped in earlier runs."""
        return {line["id"] for path in _failure_files(self.folder) for line in _lines(path) if not line["written"]}


def _failure_files(folder: Path) -> list[Path]:
    return sorted(folder.glob("failures-*.jsonl"))


def _lines(path: Path) -> Iterator[dict[str, Any]]:
    with open(path, encoding="utf-8") as file:
        for text in file:
            try:
                yield json.loads(text)
            except ValueError:  # the last line of a killed run
                continue


def _tidy_failures(folder: Path, done: set[str]) -> tuple[int, dict[str, int]]:
    """Keeps one line a clip and reason, the latest, and none of clips that a later run could read (or lost, when it
    was killed before their shard was whole).

    Returns:
        How many clips failed, and how many rows lack something, by reason.
    """
    latest: dict[tuple[str, str], tuple[Path, dict[str, Any]]] = {}
    for path in _failure_files(folder):
        for line in _lines(path):
            if line["written"] == (line["id"] in done):
                latest[line["id"], line["error"] if line["written"] else ""] = (path, line)
    for path in _failure_files(folder):
        kept = [line for home, line in latest.values() if home == path]
        if not kept:
            path.unlink()
            continue
        _write_text(path, "".join(json.dumps(line, ensure_ascii=False) + "\n" for line in kept))
    lacks = Counter(line["error"] for _, line in latest.values() if line["written"])
    return sum(not line["written"] for _, line in latest.values()), dict(sorted(lacks.items()))


def done_ids(folder: Path) -> set[str]:
    """Ids of the rows in the complete shards of all splits."""
    return {name for split in SPLITS for name in written_ids(folder, split)}


def claim(folder: Path, identity: dict[str, Any], state: PartialState) -> None:
    """Marks the folder as being written with these settings; refuses one that was begun with others."""
    for name in (UNFINISHED, RECORD):
        if not (folder / name).is_file():
            continue
        found = json.loads((folder / name).read_text(encoding="utf-8"))
        if differ := _differences(found, identity):
            raise DataFormatError(
                f"{folder} holds features of other settings ({'; '.join(differ)}). Use a new folder, or these settings"
            )
    state.wait_for_everyone()
    if state.is_main_process:
        folder.mkdir(parents=True, exist_ok=True)
        _write_text(folder / UNFINISHED, json.dumps(identity, indent=2))
    state.wait_for_everyone()


def _differences(found: Mapping[str, Any], wanted: Mapping[str, Any]) -> list[str]:
    problems = []
    if found.get("source") != wanted["source"]:
        problems.append(f"source is {found.get('source')} there and {wanted['source']} here")
    for name, value in wanted["settings"].items():
        other = found.get("settings", {}).get(name)
        if other != value:
            problems.append(f"{name} is {other!r} there and {value!r} here")
    if not problems and any(found.get(name) != wanted[name] for name in ("features", "label_names")):
        problems.append("the columns or class names differ")
    return problems


def finish(
    folder: Path, identity: dict[str, Any], columns: dict[str, Any], seconds: float, processes: int
) -> dict[str, Any]:
    """Writes the record, and takes the mark of unfinished work away."""
    for leftover in folder.glob("*/*.parquet.tmp"):  # of a killed run with more processes
        leftover.unlink()
    failed, lacks = _tidy_failures(folder, done_ids(folder))
    rows = {split: count for split in SPLITS if (count := count_rows(folder, split))}
    summary = {
        **identity,
        "columns": columns,
        "versions": _versions(),
        "counts": {"rows": rows, "failed": failed, "lacking": lacks},
        "last_run": {"seconds": seconds, "processes": processes},
    }
    _write_text(folder / RECORD, json.dumps(summary, indent=2))
    (folder / UNFINISHED).unlink()
    return summary


def _versions() -> dict[str, str]:
    import datasets
    import transformers

    found = {"clcr_hf": version("clcr-hf"), "torch": torch.__version__, "transformers": transformers.__version__}
    return {**found, "datasets": datasets.__version__, "python": platform.python_version()}


def _write_text(path: Path, text: str) -> None:
    draft = path.with_name(path.name + ".tmp")
    draft.write_text(text, encoding="utf-8")
    os.replace(draft, path)
