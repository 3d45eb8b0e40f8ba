"""The folder of a training run: `run.json`, what the user adds in `card.json`, and what else a model card shows."""

import csv
import hashlib
import json
import math
import os
import re
import shutil
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from ..data.folders import file_sum, read_json, write_json
from .benchmarks import BENCHMARKS

RUN_FILE = "run.json"
OPTIONS_FILE = "card.json"
WEIGHTS_FILE = "how_it_decides.json"
FIGURE_FILE = "how_it_decides.png"
EMISSIONS_FILE = "emissions.csv"
EXAMPLES_FOLDER = "examples"
EVAL_RESULTS = ".eval_results/results.yaml"
_TIMINGS = ("runtime", "samples_per_second", "steps_per_second", "model_preparation_time")
_NOT_METRICS = (*_TIMINGS, "loss", "epoch", "samples", "segments")
_HUB_ID = re.compile(r"[\w.-]+(/[\w.-]+)?")


@dataclass
class CardOptions:
    """
    What a run cannot know of itself.

    Args:
        license: identifier of the weights' licence on the Hub, as `"apache-2.0"`; `"other"`: the terms of the data.
            Default: Apache-2.0 for a model of the drawn clips, the terms of the data for one of a benchmark, none
            otherwise.
        benchmark: key of `BENCHMARKS`, where the record does not show which it is.
        dataset_id: name of the data set on the Hub, only where it is known to be the same data.
        examples: for the Hub's widget, each a dict of `title`, `file` (in the folder) and `text` where there are such,
            and `output`, a list of `{"label", "score"}` that holds for the run of that `mark` (see [`run_mark`]).
    """

    license: str | None = None
    benchmark: str | None = None
    dataset_id: str | None = None
    examples: list[dict[str, Any]] = field(default_factory=list)

    def __post_init__(self) -> None:
        if self.benchmark is not None and self.benchmark not in BENCHMARKS:
            raise ValueError(f"benchmark must be one of {', '.join(BENCHMARKS)}, got {self.benchmark!r}")
        if self.dataset_id is not None:
            check_hub_id("dataset_id", self.dataset_id)
        for example in self.examples:
            name = example.get("file")
            if name is not None and name != f"{EXAMPLES_FOLDER}/{Path(name).name}":
                raise ValueError(f"an example's file must lie in {EXAMPLES_FOLDER}/, got {name!r}")


def read_run(folder: str | Path) -> dict[str, Any]:
    """
    The record that a training run left in `folder`.

    Raises:
        FileNotFoundError: `folder` holds no `run.json`.
        ValueError: the file is not a JSON object.
    """
    path = Path(folder) / RUN_FILE
    found = read_json(path)
    if found is None:
        raise FileNotFoundError(f"{path} does not exist: a card is written from the record of a training run")
    return found


def weight_sums(folder: str | Path) -> dict[str, dict[str, Any]]:
    """`bytes` and `sha256` of each file of weights, as the record keeps them under `weights`."""
    return {path.name: file_sum(path) for path in sorted(Path(folder).glob("*.safetensors"))}


def run_mark(run: dict[str, Any]) -> str:
    """Twelve letters that tell one run from another by what it measured, running times among it: what was found out
    about a model must not end up in the card of the one trained next in its folder."""
    return hashlib.sha256(json.dumps(run["metrics"], sort_keys=True).encode()).hexdigest()[:12]


def read_card_options(folder: str | os.PathLike) -> CardOptions:
    """What `card.json` in `folder` says, or the defaults; ValueError where it holds anything else."""
    path = Path(folder) / OPTIONS_FILE
    given = read_json(path) or {}
    unknown = set(given) - set(CardOptions.__dataclass_fields__)
    if unknown:
        raise ValueError(f"{path} holds {', '.join(sorted(unknown))}, which a card has no use for")
    return CardOptions(**given)


def set_card_options(folder: str | Path, **options: Any) -> CardOptions:
    """Adds to `card.json` in `folder`; None leaves what it says. Fields as of [`CardOptions`]; ValueError as there."""
    kept = asdict(read_card_options(folder))
    chosen = CardOptions(**kept | {name: value for name, value in options.items() if value is not None})
    content = {name: value for name, value in asdict(chosen).items() if value}
    if content:
        write_json(Path(folder) / OPTIONS_FILE, content)
    return chosen


def measured_figures(run: dict[str, Any]) -> tuple[str, dict[str, float]]:
    """The split that a card states figures of ("test" where it was measured, else "validation"), and its figures
    without prefix, loss and timings."""

    def of(prefix: str) -> dict[str, float]:
        named = {key.removeprefix(prefix): value for key, value in run["metrics"].items() if key.startswith(prefix)}
        kept = {key: value for key, value in named.items() if key not in _NOT_METRICS}
        return {key: float(value) for key, value in kept.items() if isinstance(value, (int, float))}

    figures = of("test_")
    return ("test", figures) if figures else ("validation", of("eval_"))


def card_files(folder: str | os.PathLike) -> list[str]:
    """What a card is made of or shows, beside `run.json`, of a folder: the names of the files that are there."""
    names = [OPTIONS_FILE, WEIGHTS_FILE, FIGURE_FILE, EMISSIONS_FILE, EVAL_RESULTS]
    options = read_card_options(folder)
    names += [example["file"] for example in options.examples if example.get("file")]
    return [name for name in names if (Path(folder) / name).is_file()]


def copy_card_files(folder: str | os.PathLike, target: str | os.PathLike) -> list[Path]:
    """Copies [`card_files`] from one folder to another; returns the copies."""
    folder, target = Path(folder), Path(target)
    copies = []
    for name in card_files(folder):
        (target / name).parent.mkdir(parents=True, exist_ok=True)
        copies.append(Path(shutil.copyfile(folder / name, target / name)))
    return copies


def is_hub_id(name: str) -> bool:
    return _HUB_ID.fullmatch(name) is not None and ".." not in name and not name.startswith((".", "-"))


def check_hub_id(what: str, name: str) -> None:
    """ValueError for what cannot be the name of a repository."""
    if not is_hub_id(name):
        raise ValueError(f"{what} must be a name on the Hub such as org/name, got {name!r}")


def read_emissions(folder: Path) -> dict[str, Any] | None:
    """What codecarbon wrote to `emissions.csv`, all rows together, as the Hub's metadata have it (emissions in grams);
    None without the file or without a figure in it."""
    path = folder / EMISSIONS_FILE
    if not path.is_file():
        return None
    with path.open(encoding="utf-8", newline="") as file:
        rows = [row for row in csv.DictReader(file) if row.get("emissions")]
    try:
        grams = 1000 * sum(float(row["emissions"]) for row in rows)
    except ValueError as error:
        raise ValueError(f"{path}: the column `emissions` must hold kilograms: {error}") from error
    if not rows or not math.isfinite(grams):
        return None
    last = rows[-1]
    told = {
        "geographical_location": last.get("country_name") or last.get("country_iso_code"),
        "hardware_used": ", ".join(filter(None, (last.get("gpu_model"), last.get("cpu_model")))),
    }
    return {"emissions": grams, "source": "codecarbon", **{name: value for name, value in told.items() if value}}
