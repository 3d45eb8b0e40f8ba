"""The benchmarks as their authors distribute them, one file each."""

import json
from pathlib import Path


def class_names(name: str) -> tuple[str, ...]:
    """The classes of a benchmark in the order of their numbers, from `classes.json`."""
    return tuple(json.loads(Path(__file__).with_name("classes.json").read_text("utf-8"))[name])
