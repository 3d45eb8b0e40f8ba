"""All runs of a study, some at a time; what was done before is not done again."""

import json
import os
import subprocess
import sys
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict
from pathlib import Path
from typing import Any

from ..data.errors import DataFormatError
from ..data.folders import only_writer, read_json, write_json, write_text
from ..metrics import lower_is_better
from .features import located, make_features
from .one import LOG, RESULT, TASK
from .plan import LINEAR, Run, Study

RUNS, RECORDS = "runs", "records.jsonl"
Say = Callable[[str], None]


class Records:
    """
    The records of a study's runs: those of `runs/NAME/result.json`, which a run leaves, and those of `records.jsonl`,
    one a line under its `name`. That one file is enough for a study to go on elsewhere.

    Raises:
        DataFormatError: a file that is damaged.
    """

    def __init__(self, folder: Path):
        self.folder = folder
        self._kept: dict[str, dict[str, Any]] = {}
        path = folder / RECORDS
        for number, line in enumerate(path.read_text(encoding="utf-8").splitlines() if path.exists() else [], 1):
            try:
                record = json.loads(line)
                self._kept[record["name"]] = record
            except (ValueError, KeyError, TypeError) as error:
                raise DataFormatError(f"{path}: line {number} is no record of a run: {error!r}") from error

    def get(self, run: Run) -> dict[str, Any] | None:
        """The record of a run; None where it was not done."""
        if run.folder not in self._kept:
            found = read_json(self.folder / RUNS / run.folder / RESULT)
            if found is None:
                return None
            self._kept[run.folder] = {"name": run.folder, **found}
        return self._kept[run.folder]

    def of(self, runs: Sequence[Run]) -> list[dict[str, Any]]:
        """The records of those runs that were done, in order."""
        return [record for run in runs if (record := self.get(run)) is not None]

    def write(self) -> None:
        """Writes `records.jsonl`, with the records of runs that the study's file no longer states too."""
        write_text(self.folder / RECORDS, "".join(json.dumps(each) + "\n" for each in self._kept.values()))


class RunsFailed(ValueError):
    """Runs of a study ended without a result; the message names them and what the first one said."""


def run_study(study: Study, folder: str | Path, say: Say = print) -> list[dict[str, Any]]:
    """
    Does the runs that have no record in `folder` yet, and returns the records of those that are compared.

    A run is a process of its own with its part of the cores; it leaves its record, or nothing. So a study that was
    killed goes on where it was, and one whose file has got more variants does those alone. The first run is timed
    before others start, and what the study will cost is said.

    Args:
        folder: where `runs/NAME/` has the task, the log and the record of each run, and `records.jsonl` all records.
        say: takes each line for people.

    Raises:
        RunsFailed: some runs ended without a result; all others were done.
        ValueError: another process works in `folder`.
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    with only_writer(folder):
        records, study = Records(folder), located(study, folder)
        try:
            choices = _do_all(study, study.choices(), records, say, "to choose settings on validation")
            return _do_all(study, study.runs(choose(choices)), records, say, "to compare")
        finally:
            records.write()


def choose(records: Sequence[dict[str, Any]]) -> dict[tuple[str, int | None], str]:
    """Of each variant and fold the candidate that is best on validation; the first of equals."""
    best: dict[tuple[str, int | None], tuple[float, str]] = {}
    for each in records:
        value = each["metrics"][f"eval_{each['metric']}"] * (-1 if lower_is_better(each["metric"]) else 1)
        key = (each["variant"], each["fold"])
        if key not in best or value > best[key][0]:
            best[key] = (value, each["candidate"])
    return {key: name for key, (_, name) in best.items()}


def _do_all(study: Study, runs: Sequence[Run], records: Records, say: Say, purpose: str) -> list[dict[str, Any]]:
    waiting = [run for run in runs if records.get(run) is None]
    if runs:
        say(f"{len(runs)} runs {purpose}, {len(runs) - len(waiting)} of them done before")
    failed: dict[str, str] = {}
    # A CLCR run is the dear one: it goes first and is timed.
    waiting.sort(key=lambda run: run.model in LINEAR)
    if waiting:
        make_features(study, records.folder, say)
        failed |= _do(study, waiting[0], records.folder, say)
        record = records.get(waiting[0])
        dear = sum(run.model not in LINEAR for run in waiting[1:])
        if record is not None and dear:
            minutes = dear * record["seconds"] / 60 / study.workers
            say(
                f"the first took {record['seconds']:.0f} s; {dear} more like it, {study.workers} at a time: about "
                f"{minutes:.0f} minutes"
            )
    with ThreadPoolExecutor(study.workers) as pool:
        for found in pool.map(lambda run: _do(study, run, records.folder, say), waiting[1:]):
            failed |= found
    done = records.of(runs)
    if failed:
        name, why = next(iter(failed.items()))
        raise RunsFailed(
            f"{len(failed)} of {len(runs)} runs have no result; {name}: {why} (its log: "
            f"{records.folder / RUNS / name / LOG})"
        )
    return done


def _do(study: Study, run: Run, folder: Path, say: Say) -> dict[str, str]:
    """Does a run; its name and last words where it failed."""
    own = folder / RUNS / run.folder
    own.mkdir(parents=True, exist_ok=True)
    write_json(own / TASK, asdict(run))
    error = run_module(["clcr_hf.study.one", str(own)], own / LOG)
    record = read_json(own / RESULT)
    if record is None:
        say(f"failed: {run.folder}")
        return {run.folder: error or "no result"}
    split = "eval" if run.candidate else "test"
    value = record["metrics"].get(f"{split}_{study.metric or record['metric']}")
    say(f"{run.folder}: {study.metric or record['metric']} {value:.4f}" if value is not None else f"{run.folder}: done")
    return {}


def run_module(words: Sequence[str], log: Path, threads: int = 1) -> str | None:
    """Runs `python -m` with so many threads unless the environment says otherwise, all that is said to `log`; its last
    line where it failed. (Two threads of a training run wait for each other at each of its small operations: where the
    other core was not idle it took ten times as long.)"""
    number = os.environ.get("OMP_NUM_THREADS", str(threads))
    environment = {"OMP_NUM_THREADS": number, "MKL_NUM_THREADS": number, **os.environ}
    with open(log, "wb") as file:
        command = [sys.executable, "-m", *words]
        code = subprocess.run(command, stdout=file, stderr=subprocess.STDOUT, env=environment).returncode
    if not code:
        return None
    said = log.read_text(encoding="utf-8", errors="replace").strip().splitlines()
    return said[-1] if said else f"exit code {code}"


__all__ = ["Records", "RunsFailed", "choose", "run_module", "run_study"]
