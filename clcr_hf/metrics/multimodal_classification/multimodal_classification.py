"""`evaluate` module: classes (CREMA-D, Kinetics-Sounds, AVE clips, UCF101), one a sample or multi-label."""

from typing import Any

import datasets
import evaluate

from clcr_hf.metrics import classification_metrics

_MULTILABEL = "multilabel"


class MultimodalClassification(evaluate.Metric):
    """`compute(predictions=, references=, scores=None, probabilities=None)`, as `classification_metrics` takes them.

    `evaluate.load(path, "multilabel")` takes (N, C) of 0 and 1 for predictions and references.
    """

    _compute = staticmethod(classification_metrics)

    def _info(self) -> evaluate.MetricInfo:
        kind: Any = datasets.Value("int64")
        if self.config_name == _MULTILABEL:
            kind = datasets.List(kind)
        return evaluate.MetricInfo(
            description="Accuracy, macro F1 and, with scores, mean average precision.",
            citation="",
            inputs_description=classification_metrics.__doc__ or "",
            features=datasets.Features({"predictions": kind, "references": kind}),
        )
