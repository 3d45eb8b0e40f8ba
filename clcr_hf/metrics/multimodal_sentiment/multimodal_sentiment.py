"""`evaluate` module: sentiment scores in [-3, 3] (CMU-MOSI, CMU-MOSEI)."""

import datasets
import evaluate

from clcr_hf.metrics import module_info, sentiment_metrics

_CITATION = """\
@inproceedings{zadeh2018mosei, title={Multimodal Language Analysis in the Wild: CMU-MOSEI Dataset and Interpretable
Dynamic Fusion Graph}, author={Zadeh, AmirAli Bagher and others}, booktitle={ACL}, year={2018}}
"""


class MultimodalSentiment(evaluate.Metric):
    """`compute(predictions=, references=)` of floats; see `clcr_hf.metrics.sentiment_metrics`."""

    _compute = staticmethod(sentiment_metrics)

    def _info(self) -> evaluate.MetricInfo:
        about = "MAE, Pearson correlation, Acc-7, Acc-5, and Acc-2 and weighted F1 in both conventions."
        return module_info(sentiment_metrics, about, datasets.Value("float64"), _CITATION)
