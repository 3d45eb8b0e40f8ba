"""`evaluate` module: a class for each segment of a clip (AVE event localisation)."""

import datasets
import evaluate

from clcr_hf.metrics import module_info, segment_metrics


class SegmentAccuracy(evaluate.Metric):
    """`compute(predictions=, references=)` of lists of class numbers; see `clcr_hf.metrics.segment_metrics`."""

    _compute = staticmethod(segment_metrics)

    def _info(self) -> evaluate.MetricInfo:
        about = "Accuracy and macro F1 over segments; references of -100 are ignored."
        return module_info(segment_metrics, about, datasets.List(datasets.Value("int64")))
