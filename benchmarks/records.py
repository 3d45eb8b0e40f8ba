"""Runs of a benchmark on record: JSON lines, one a run, written when it is done."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any


def read_runs(path: Path | None) -> list[dict[str, Any]]:
    """Runs of a file of results; none where it does not exist."""
    if path is None or not path.exists():
        return []
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines() if line.strip()]


def add_run(path: Path | None, record: Mapping[str, Any]) -> None:
    """Appends a run; nothing without a path."""
    if path is None:
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a", encoding="utf-8") as file:
        file.write(json.dumps(record) + "\n")
