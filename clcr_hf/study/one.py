"""One run of a study in a process of its own: `python -m clcr_hf.study.one FOLDER`, whose `task.json` says which."""

import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from ..data.folders import read_json, versions, write_json
from ..training.data import LoadedData
from ..training.groups import by_group, groups_of
from ..training.record import plain
from ..training.run import best_metric, metrics_function, open_data, run_training
from .changes import Change, changed
from .fusions import head_of
from .others import linear_answers
from .plan import LINEAR, Run, filled, words_of

TASK, RESULT, LOG = "task.json", "result.json", "log.txt"


def do(folder: Path) -> None:
    """Does the run and writes its record, `result.json`: what was measured, settings, versions."""
    content = read_json(folder / TASK) or {}
    arguments = filled(content["arguments"], "study", folder.parent.parent)
    run = Run(**{**content, "arguments": arguments, "change": Change(**content["change"])})
    started = time.perf_counter()

    def change(data: LoadedData) -> LoadedData:
        return changed(data, run.change, run.fold, run.folds, run.seed)

    with TemporaryDirectory(dir=folder, prefix="model-") as model:
        measured = _linear(run, model, change) if run.model in LINEAR else _clcr(run, model, change)
    record = {**content, **measured, "seconds": round(time.perf_counter() - started, 1)}
    record["versions"] = versions("clcr-hf", "torch", "transformers", "numpy", "scikit-learn")
    write_json(folder / RESULT, record, plain)


def _clcr(run: Run, output_dir: str, change: Callable[[LoadedData], LoadedData]) -> dict[str, Any]:
    model_args, data_args, training_args = words_of(run, output_dir, "the study")
    heads = None if run.model is None else partial(head_of, run.model)
    metrics = run_training(model_args, data_args, training_args, change, heads)
    record = read_json(Path(output_dir) / "run.json") or {}
    return {
        "metric": str(training_args.metric_for_best_model).removeprefix("eval_"),
        "metrics": metrics,
        "shares": record.get("shares"),
        "parameters": record["settings"]["parameters"],
        "num_examples": record["num_examples"],
        "groups": record.get("groups", {}).get("test", {}),
    }


def _linear(run: Run, output_dir: str, change: Callable[[LoadedData], LoadedData]) -> dict[str, Any]:
    arguments = words_of(run, output_dir, "the study")
    data, columns, _, _ = open_data(*arguments, change=change)
    labels = data.labels
    kind = labels.problem_type, labels.per_segment, labels.label_scale, labels.label_range, labels.names
    measure = metrics_function(*kind)
    group_column = arguments[1].group_column
    answers = linear_answers(str(run.model), run.join, data.splits, columns, labels, group_column)
    prefixes = {"validation": "eval", "test": "test"} if run.candidate is None else {"validation": "eval"}
    metrics = {
        f"{prefix}_{name}": value
        for split, prefix in prefixes.items()
        if split in answers
        for name, value in measure(answers[split]).items()
    }
    sizes = {name: len(rows) for name, rows in data.splits.items()}
    wanted = arguments[1].metrics_by if run.candidate is None and "test" in answers else None
    groups = {
        each: by_group(measure, answers["test"], groups_of(data.splits["test"], each), best_metric(labels))
        for each in wanted or ()
    }
    return {"metric": best_metric(labels), "metrics": metrics, "num_examples": sizes, "groups": groups}


if __name__ == "__main__":
    do(Path(sys.argv[1]))
