"""What a run leaves on record: settings, versions, the command and the metrics."""

import os
import shlex
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ..data.folders import versions
from ..hub.run_folder import weight_sums
from .arguments import DataArguments, ModelArguments
from .data import LoadedData, recorded_arguments
from .trainer import CLCRTrainer, CLCRTrainingArguments

_VERSIONED = ("clcr-hf", "torch", "transformers", "datasets", "accelerate", "numpy")


def report(trainer: CLCRTrainer, split: str, metrics: dict[str, float]) -> dict[str, float]:
    trainer.log_metrics(split, metrics)
    trainer.save_metrics(split, metrics)
    return metrics


def record(
    model_args: ModelArguments,
    data_args: DataArguments,
    args: CLCRTrainingArguments,
    data: LoadedData,
    columns: dict[str, str],
    datasets: dict[str, Any],
    trainer: CLCRTrainer,
    metrics: dict[str, float],
) -> dict[str, Any]:
    """What a reader needs to repeat the run, and what it measured."""
    labels = data.labels if hasattr(trainer.model, "classifier") else None  # the alignment stage looks at none
    settings = {
        "variant": model_args.ablation or "full",
        **({"data options": data_args.dataset_options} if data_args.dataset_options else {}),
        "parameters": sum(parameter.numel() for parameter in trainer.model.parameters()),
        "optimiser": _optimiser(args),
        "learning rate": args.learning_rate,
        "backbone learning rate": args.backbone_learning_rate or args.learning_rate,
        "learning rate schedule": str(getattr(args.lr_scheduler_type, "value", args.lr_scheduler_type)),
        "weight decay": args.weight_decay,
        "batch size": args.train_batch_size * args.world_size * args.gradient_accumulation_steps,
        "epochs run": round(trainer.state.epoch or 0, 2),
        "seed": args.seed,
        "device": str(args.device),
        "processes": args.world_size,
    }
    return {
        "command": _command(),
        "seed": args.seed,
        "versions": versions(*_VERSIONED),
        "dataset": data_args.dataset,
        "dataset_title": data.title,
        "generated": data.generated,
        "modalities": trainer.model.config.modalities,
        "problem_type": labels and labels.problem_type,
        "per_segment": labels and labels.per_segment,
        "label_scale": trainer.model.config.label_scale,
        "label_range": trainer.model.config.label_range,
        "inputs": columns,
        "selected_by": args.metric_for_best_model if args.load_best_model_at_end else None,
        "num_examples": {name: len(rows) for name, rows in datasets.items()},
        "clips_left_out": {name: rows.left_out for name, rows in datasets.items()},
        "settings": settings,
        "model_arguments": asdict(model_args),
        "data_arguments": recorded_arguments(data_args),
        "metrics": metrics,
        "weights": weight_sums(str(args.output_dir)),
    }


def _optimiser(args: CLCRTrainingArguments) -> str:
    name = str(getattr(args.optim, "value", args.optim))
    return f"{name} ({args.optim_args})" if args.optim_args else name


def _command() -> str:
    """The command line of this process, with the program's path as seen from the working folder."""
    program = Path(sys.argv[0])
    name = ["clcr"] if program.name == "clcr" else ["python", os.path.relpath(program)]
    return shlex.join([*name, *sys.argv[1:]])


def plain(value: Any) -> Any:
    """What JSON has no form for, as it has one."""
    if isinstance(value, np.generic | torch.Tensor):
        return value.item()
    return str(value)
