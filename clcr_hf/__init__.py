"""CLCR (Cross-Level Co-Representation, arXiv 2602.19605) for the Hugging Face ecosystem.

Importing this package registers the model with transformers' Auto classes and its pipeline with the pipeline registry.
"""

from typing import TYPE_CHECKING

from transformers import (
    AutoConfig,
    AutoFeatureExtractor,
    AutoModel,
    AutoModelForSequenceClassification,
    AutoModelForTokenClassification,
    AutoProcessor,
)

from .configuration_clcr import CLCRConfig, CLCRModalityConfig
from .feature_extraction_clcr import CLCRFeatureExtractor
from .modeling_clcr import (
    CLCRForSequenceClassification,
    CLCRForTokenClassification,
    CLCRModel,
    CLCRModelOutput,
    CLCRPreTrainedModel,
    CLCRSequenceClassifierOutput,
    CLCRTokenClassifierOutput,
)
from .pipeline_clcr import CLCRPipeline, register
from .processing_clcr import CLCRProcessor

if TYPE_CHECKING:
    from .training.trainer import CLCRTrainer, CLCRTrainingArguments

__version__ = "0.1.0"

AutoConfig.register(CLCRConfig.model_type, CLCRConfig, exist_ok=True)
AutoConfig.register(CLCRModalityConfig.model_type, CLCRModalityConfig, exist_ok=True)
AutoModel.register(CLCRConfig, CLCRModel, exist_ok=True)
AutoModelForSequenceClassification.register(CLCRConfig, CLCRForSequenceClassification, exist_ok=True)
AutoModelForTokenClassification.register(CLCRConfig, CLCRForTokenClassification, exist_ok=True)
AutoFeatureExtractor.register(CLCRConfig, CLCRFeatureExtractor, exist_ok=True)
AutoProcessor.register(CLCRConfig, CLCRProcessor, exist_ok=True)
register()

# The trainer needs accelerate, an extra: it is imported when asked for.
_LAZY = {"CLCRTrainer": "training.trainer", "CLCRTrainingArguments": "training.trainer"}


def __getattr__(name: str):
    if name in _LAZY:
        from importlib import import_module

        return getattr(import_module(f".{_LAZY[name]}", __name__), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


__all__ = [
    "CLCRConfig",
    "CLCRFeatureExtractor",
    "CLCRForSequenceClassification",
    "CLCRForTokenClassification",
    "CLCRModalityConfig",
    "CLCRModel",
    "CLCRModelOutput",
    "CLCRPipeline",
    "CLCRPreTrainedModel",
    "CLCRProcessor",
    "CLCRSequenceClassifierOutput",
    "CLCRTokenClassifierOutput",
    "CLCRTrainer",
    "CLCRTrainingArguments",
    "__version__",
]
