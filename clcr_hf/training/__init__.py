"""Training: arguments, data, model, rows, trainer and record of a run. `run.py` puts them together."""

from ..modeling_clcr import CLCRPreTrainedModel
from .arguments import parse_args
from .build import build_model, build_processor
from .run import evaluate_model, main, run_training

load_model = CLCRPreTrainedModel.load_with_head

__all__ = ["build_model", "build_processor", "evaluate_model", "load_model", "main", "parse_args", "run_training"]
