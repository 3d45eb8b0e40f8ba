"""Training: arguments, data, model, rows, trainer and record of a run. `run.py` puts them together."""

from .arguments import parse_args
from .build import build_model, build_processor, load_model
from .run import evaluate_model, main, run_training

__all__ = ["build_model", "build_processor", "evaluate_model", "load_model", "main", "parse_args", "run_training"]
