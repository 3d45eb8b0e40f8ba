"""What `clcr extract` leaves in its folder beside and in the shards: failures, settings, counts."""

import json
import logging
from collections import Counter
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..data.columns import SPLITS
from ..data.folders import OutputFolder, versions, write_text
from ..data.shards import count_rows, record_shards, written_ids
from .sources import Clip

logger = logging.getLogger("clcr_hf.extract")


@dataclass
class FailureList:
    """`failures-<process>.jsonl`: a line for each clip that was skipped, and for each row that lacks something.

    A line has `id`, `split`, `path`, `error` (class), `message`, and `written` (whether there is a row all the same).
    """

    folder: Path
    rank: int

    def __post_init__(self) -> None:
        self.path = self.folder / f"failures-{self.rank:03d}.jsonl"
        self.path.touch()

    def add(self, clip: Clip, error: BaseException) -> None:
        """A clip is skipped."""
        logger.warning("%s is skipped: %s: %s", clip.id, type(error).__name__, error)
        logger.debug("where %s failed", clip.id, exc_info=error)
        self.note(clip, type(error).__name__, str(error), written=False)

    def note(self, clip: Clip, error: str, message: str, written: bool = True) -> None:
        """A row is written, but lacks something."""
        line = {"id": clip.id, "split": clip.split, "path": clip.path, "error": error, "message": message}
        with open(self.path, "a", encoding="utf-8") as file:
            file.write(json.dumps({**line, "written": written}, ensure_ascii=False) + "\n")

    def failed_ids(self) -> set[str]:
        """Ids of all processes' clips that were skipped in earlier runs."""
        return {line["id"] for _, line in _failures(self.folder) if not line["written"]}


def _failures(folder: Path) -> Iterator[tuple[Path, dict[str, Any]]]:
    """The lines of all processes, each with the file that it is in."""
    for path in sorted(folder.glob("failures-*.jsonl")):
        with open(path, encoding="utf-8") as file:
            for text in file:
                with suppress(ValueError):  # the last line of a killed run
                    yield path, json.loads(text)


def _tidy_failures(folder: Path, done: set[str]) -> tuple[int, dict[str, int]]:
    """Keeps one line a clip and reason, the latest, and none of clips that a later run could read (or lost, when it
    was killed before their shard was whole).

    Returns:
        How many clips failed, and how many rows lack something, by reason.
    """
    latest: dict[tuple[str, str], tuple[Path, dict[str, Any]]] = {}
    for path, line in _failures(folder):
        if line["written"] == (line["id"] in done):
            latest[line["id"], line["error"] if line["written"] else ""] = (path, line)
    for path in folder.glob("failures-*.jsonl"):
        kept = [json.dumps(line, ensure_ascii=False) + "\n" for home, line in latest.values() if home == path]
        write_text(path, "".join(kept)) if kept else path.unlink()
    lacks = Counter(line["error"] for _, line in latest.values() if line["written"])
    return len(latest) - lacks.total(), dict(sorted(lacks.items()))


def done_ids(folder: Path) -> set[str]:
    """Ids of the rows in the complete shards of all splits."""
    return {name for split in SPLITS for name in written_ids(folder, split)}


def finish(folder: OutputFolder, task: dict[str, Any], columns: dict[str, Any], seconds: float, processes: int) -> None:
    """Writes the record, and takes the mark of unfinished work away."""
    for leftover in folder.path.glob("*/*.parquet.tmp"):  # of a killed run with more processes
        leftover.unlink()
    failed, lacks = _tidy_failures(folder.path, done_ids(folder.path))
    rows = {split: count for split in SPLITS if (count := count_rows(folder.path, split))}
    folder.finish(
        {
            **task,
            "columns": columns,
            "versions": versions("clcr-hf", "torch", "transformers", "datasets"),
            "shards": record_shards(folder.path),
            "counts": {"rows": rows, "failed": failed, "lacking": lacks},
            "last_run": {"seconds": seconds, "processes": processes},
        }
    )
