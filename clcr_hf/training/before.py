"""What can be known to be wrong before data are read or a model is built."""

import math
import warnings
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from transformers.integrations.integration_utils import (
    INTEGRATION_TO_CALLBACK,
    get_available_reporting_integrations,
)
from transformers.trainer_utils import EvalPrediction, SaveStrategy

from ..checks import did_you_mean
from ..configuration_clcr import CLCRConfig
from ..hub.run_folder import check_hub_id
from ..metrics import classification_metrics, score_metrics, segment_metrics
from .arguments import DataArguments, ModelArguments
from .trainer import CLCRTrainingArguments

_AT_LEAST_1 = ("per_device_train_batch_size", "per_device_eval_batch_size", "gradient_accumulation_steps")
_NOT_NEGATIVE = (
    *("weight_decay", "max_grad_norm", "early_stopping_patience", "warmup_steps", "momentum"),
    *("learning_rate", "backbone_learning_rate"),  # 0 leaves the weights as they are
)


def check_before(model_args: ModelArguments, data_args: DataArguments, args: CLCRTrainingArguments) -> None:
    """
    ValueError for numbers that no run can have, a metric, tracker or name on the Hub that there is not, settings of the
    model that none can be built of, options of the loader that are none, and a model to go on from that is not there;
    ImportError for a tracker that is not installed.
    """
    _check_numbers(args)
    if args.metric_for_best_model not in (None, "auto"):
        _check_metric(args.metric_for_best_model, _all_metrics(), several=True)
    for tracker in args.report_to or ():
        if tracker not in INTEGRATION_TO_CALLBACK:
            hint = did_you_mean(tracker, INTEGRATION_TO_CALLBACK)
            raise ValueError(f"--report_to {tracker}: transformers knows no such tracker{hint}")
        if tracker not in (*get_available_reporting_integrations(), "flyte"):
            raise ImportError(f"--report_to {tracker}: it is not installed; pip install it, or --report_to none")
    if args.push_to_hub and args.hub_model_id is not None:
        check_hub_id("--hub_model_id", args.hub_model_id)
    data_args.reader.check(data_args.options())
    if model_args.model_name_or_path is not None:
        CLCRConfig.from_pretrained(model_args.model_name_or_path)
    else:
        one = {"feature_size": 1, "source": "taps"}
        fields = model_args.fusion_fields().items()  # lists go with the labels, which are not known yet
        given = {name: value for name, value in fields if not isinstance(value, list | dict)}
        CLCRConfig(**{"vision_config": one, "audio_config": one, **given})


def _check_numbers(args: CLCRTrainingArguments) -> None:
    def check(names: Sequence[str], is_right: Callable[[float], bool], wanted: str) -> None:
        for name in names:
            value = getattr(args, name, None)
            if isinstance(value, int | float) and not (math.isfinite(value) and is_right(value)):
                raise ValueError(f"--{name} must be {wanted}, got {value}")

    check(_AT_LEAST_1, lambda value: value >= 1, "1 or more")
    check(_NOT_NEGATIVE, lambda value: value >= 0, "0 or more")
    if args.do_train and args.max_steps <= 0:
        check(("num_train_epochs",), lambda value: value > 0, "positive")
    if args.save_strategy == SaveStrategy.STEPS:
        check(("save_steps",), lambda value: value > 0, "positive")


def check_metric(args: CLCRTrainingArguments, model: Any, measure: Callable[[EvalPrediction], dict[str, Any]]) -> None:
    """ValueError for a `metric_for_best_model` that is not measured of this model.

    Args:
        measure: `compute_metrics` of its trainer.
    """
    if args.metric_for_best_model is None or not args.do_train:
        return
    config, rows = model.config, 8 * model.config.num_labels
    logits = np.linspace(-1, 1, rows * config.num_labels, dtype=np.float32).reshape(rows, -1)
    labels: Any = np.arange(rows) % config.num_labels
    if config.effective_problem_type != "single_label_classification":
        labels = (logits > 0).astype(np.float32)
    if getattr(model, "per_segment", False):
        logits, labels = logits[:, None], labels[:, None]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        _check_metric(args.metric_for_best_model, measure(EvalPrediction(logits, labels)))


def _check_metric(asked: str, known: Any, several: bool = False) -> None:
    """`several`: a metric may be of one of several scores, whose names are not known yet."""
    name = asked.removeprefix("eval_")
    if name == "loss" or name in known or (several and any(name.startswith(f"{each}_") for each in known)):
        return
    hint = did_you_mean(name, known)
    raise ValueError(f"--metric_for_best_model {asked}: measured are loss, {', '.join(known)}{hint}")


def _all_metrics() -> dict[str, Any]:
    """Every metric that some kind of labels has."""
    scores, classes = np.linspace(-1, 1, 8), np.arange(8) % 2
    several = np.stack([classes, 1 - classes], axis=1)
    found: dict[str, Any] = {}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for scale, limits in (("sentiment", [-3, 3]), ("sentiment", [-1, 1]), (None, None)):
            found |= score_metrics(scores, scores, label_scale=scale, label_range=limits)
        found |= classification_metrics(several, several, several, several)
        found |= segment_metrics(classes[:, None], classes[:, None])
    return {**found, "segment_ece": 0.0}


__all__ = ["check_before", "check_metric"]
