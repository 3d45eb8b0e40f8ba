"""Training: arguments, data, model, rows, trainer and record of a run. `run.py` puts them together."""

from ..modeling_clcr import CLCRPreTrainedModel
from .arguments import ABLATIONS, ModelArguments, RunArguments, parse_args, read_recipe
from .build import build_model, build_processor, train_tokenizer
from .run import (
    best_metric,
    build_trainer,
    choose_columns,
    evaluate_model,
    evaluation_data,
    main,
    metrics_function,
    run_training,
)

load_model = CLCRPreTrainedModel.load_with_head

__all__ = [
    "ABLATIONS",
    "ModelArguments",
    "RunArguments",
    "best_metric",
    "build_model",
    "build_processor",
    "build_trainer",
    "choose_columns",
    "evaluate_model",
    "evaluation_data",
    "load_model",
    "main",
    "metrics_function",
    "parse_args",
    "read_recipe",
    "run_training",
    "train_tokenizer",
]
