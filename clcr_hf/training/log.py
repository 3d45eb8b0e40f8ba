"""What a run says on the terminal: what it is about to do, a short line of the log, and what it left where."""

import logging
import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from transformers import PreTrainedModel, PrinterCallback, ProgressCallback, Trainer, TrainingArguments

from ..data.columns import logger as data_logger

_TRAINING = ("loss", "loss_task", "learning_rate", "epoch")
_NAMED = 12  # classes in a line


class CarvedSplits(logging.Filter):
    """A context that gathers what loaders carve from train while it is open: `found`, by the name of the new split."""

    def __init__(self) -> None:
        super().__init__()
        self.found: dict[str, str] = {}

    def filter(self, record: logging.LogRecord) -> bool:
        if hasattr(record, "carved"):
            self.found[record.carved] = record.getMessage()
        return record.levelno >= self._shown

    def __enter__(self) -> "CarvedSplits":
        self._level, self._shown = data_logger.level, data_logger.getEffectiveLevel()
        data_logger.setLevel(min(self._shown, logging.INFO))
        data_logger.addFilter(self)
        return self

    def __exit__(self, *_: Any) -> None:
        data_logger.removeFilter(self)
        data_logger.setLevel(self._level)


def plan(
    title: str,
    datasets: Mapping[str, Any],
    carved: Mapping[str, str],
    columns: Mapping[str, str],
    model: PreTrainedModel,
    args: TrainingArguments,
    length: str,
) -> str:
    """
    What a run is about to do, some lines.

    Args:
        title: what people call the data.
        datasets: rows by split, each with `left_out`.
        carved: sentences about splits that were carved from others, see [`CarvedSplits`].
        columns: the column that each modality is read from.
        length: what [`~clcr_hf.training.length.fit_length`] said.
    """
    left_out = {name: len(rows.left_out) for name, rows in datasets.items()}
    counts = [
        f"{name} {len(rows)}" + f" ({left_out[name]} left out)" * (left_out[name] > 0)
        for name, rows in datasets.items()
    ]
    weights = sum(each.numel() for each in model.parameters())
    learning = sum(each.numel() for each in model.parameters() if each.requires_grad)
    frozen = f", of which {learning:,} learn" if learning < weights else ""
    kind, names = model.config.problem_type or "regression", list(map(str, model.config.id2label.values()))
    if kind == "regression" and len(names) == 1:
        names = []
    labels = kind.replace("_", " ") + f": {listed(names)}" * bool(names)
    lines = {
        "data": f"{title}: {', '.join(counts)}",
        "carved": "; ".join(text for name, text in carved.items() if name in datasets),
        "inputs": ", ".join(f"{name} from {column}" for name, column in columns.items()),
        "labels": labels if hasattr(model, "classifier") else "none are looked at",
        "model": f"{type(model).__name__}, {weights:,} parameters{frozen}",
        "length": length if args.do_train else "",
        "device": f"{args.device}" + f", {args.world_size} processes" * (args.world_size > 1),
        "output": f"{args.output_dir}",
    }
    return "\n".join(f"{name + ':':<9}{text}" for name, text in lines.items() if text)


def listed(names: Sequence[str]) -> str:
    """The first dozen names, and how many there are."""
    return ", ".join(names[:_NAMED]) + f", ... ({len(names)})" * (len(names) > _NAMED)


def outcome(folder: str, columns: Mapping[str, str]) -> str:
    """What was saved where, and the commands to use it."""
    where = shlex.quote(folder)
    size = sum(path.stat().st_size for path in Path(folder).glob("*.safetensors")) / 1e6
    features = [name for name, column in columns.items() if column.endswith("_features")]
    words = ["CLIP.mp4"] if set(columns) - set(features) - {"text"} else []
    words += ['--text "WHAT IS SAID"'] if columns.get("text") == "text" else []
    words += [f"--features {name}=FILE.npy" for name in features]
    return "\n".join(
        (
            f"saved:   {folder}: the model ({size:.1f} MB) and its processor, README.md (the card), run.json (settings "
            "and figures), trainer_state.json (all curves)",
            f"use:     clcr predict {' '.join(words)} --model {where}",
            f"measure: clcr evaluate --model {where}",
        )
    )


def pretrained(folder: str) -> str:
    """What the alignment stage saved where, and how to go on from it."""
    where = shlex.quote(folder)
    return (
        f"saved:   {folder}: the model and its processor, pretraining.json (settings and loss)\n"
        f"go on:   clcr train --model_name_or_path {where} --dataset ..."
    )


def short(logs: Mapping[str, Any], metric: str | None) -> dict[str, Any]:
    """The entries of a log that are worth a line; the rest is in `trainer_state.json` and with the tracker.

    Args:
        metric: the one by which the best epoch is chosen.
    """
    if "loss" in logs:
        names: tuple[str, ...] = _TRAINING
    elif "eval_loss" in logs:
        names = ("eval_loss", f"eval_{(metric or 'loss').removeprefix('eval_')}", "epoch")
    else:
        return dict(logs)
    return {name: logs[name] for name in names if name in logs}


class _ShortProgress(ProgressCallback):
    def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **kwargs: Any) -> None:
        super().on_log(args, state, control, logs=short(logs or {}, args.metric_for_best_model), **kwargs)


class _ShortPrinter(PrinterCallback):
    def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **kwargs: Any) -> None:
        super().on_log(args, state, control, logs=short(logs or {}, args.metric_for_best_model), **kwargs)


def shorten_log(trainer: Trainer) -> None:
    """Has a trainer print [`short`] logs, where it prints transformers' own lines."""
    for long, brief in ((ProgressCallback, _ShortProgress), (PrinterCallback, _ShortPrinter)):
        if trainer.pop_callback(long) is not None:
            trainer.add_callback(brief)


__all__ = ["CarvedSplits", "listed", "outcome", "plan", "pretrained", "short", "shorten_log"]
