"""`evaluate` module: classes (CREMA-D, Kinetics-Sounds, AVE clips, UCF101), one a sample or multi-label."""

import datasets
import evaluate

from clcr_hf.metrics import classification_metrics, module_info


class MultimodalClassification(evaluate.Metric):
    """`compute(predictions=, references=, scores=None, probabilities=None)`, as `classification_metrics` takes them.

    `evaluate.load(path, "multilabel")` takes (N, C) of 0 and 1 for predictions and references.
    """

    _compute = staticmethod(classification_metrics)

    def _info(self) -> evaluate.MetricInfo:
        about = "Accuracy, macro F1 and, with scores, mean average precision."
        number = datasets.Value("int64")
        kind = datasets.List(number) if self.config_name == "multilabel" else number
        return module_info(classification_metrics, about, kind)
