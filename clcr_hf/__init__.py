"""CLCR (Cross-Level Semantic Collaborative Representation, arXiv 2602.19605) for the Hugging Face ecosystem.

Importing this package registers the model with transformers' Auto classes and its pipeline with the pipeline registry.
The import itself is cheap: a class is read when it is asked for, and the registration waits for transformers.
"""

import sys
from collections.abc import Callable
from functools import partial
from importlib import import_module
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec
from importlib.util import find_spec
from types import ModuleType
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .configuration_clcr import CLCRConfig, CLCRModalityConfig
    from .feature_extraction_clcr import CLCRFeatureExtractor
    from .modeling_clcr import (
        CLCRForPreTraining,
        CLCRForSequenceClassification,
        CLCRForTokenClassification,
        CLCRModel,
        CLCRModelOutput,
        CLCRPreTrainedModel,
        CLCRPreTrainingOutput,
        CLCRSequenceClassifierOutput,
        CLCRTokenClassifierOutput,
    )
    from .pipeline_clcr import CLCRPipeline
    from .pipeline_features import CLCRFeaturePipeline
    from .processing_clcr import CLCRProcessor
    from .training.trainer import CLCRTrainer, CLCRTrainingArguments

__version__ = "0.2.0.dev0"

_HOME_OF = {  # all other names of `__all__` live in modeling_clcr
    "CLCRConfig": "configuration_clcr",
    "CLCRFeatureExtractor": "feature_extraction_clcr",
    "CLCRModalityConfig": "configuration_clcr",
    "CLCRFeaturePipeline": "pipeline_features",
    "CLCRPipeline": "pipeline_clcr",
    "CLCRProcessor": "processing_clcr",
    "CLCRTrainer": "training.trainer",
    "CLCRTrainingArguments": "training.trainer",
}


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(import_module(f".{_HOME_OF.get(name, 'modeling_clcr')}", __name__), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})


def _register(auto: str, name: str) -> None:
    import transformers

    getattr(transformers, auto).register(__getattr__("CLCRConfig"), __getattr__(name), exist_ok=True)


def _register_models() -> None:
    import transformers

    from .configuration_clcr import CLCRConfig, CLCRModalityConfig

    for each in (CLCRConfig, CLCRModalityConfig):
        transformers.AutoConfig.register(each.model_type, each, exist_ok=True)
    _register("AutoModel", "CLCRModel")
    _register("AutoModelForPreTraining", "CLCRForPreTraining")
    _register("AutoModelForSequenceClassification", "CLCRForSequenceClassification")
    _register("AutoModelForTokenClassification", "CLCRForTokenClassification")


def _register_pipelines() -> None:
    for part in ("pipeline_clcr", "pipeline_features"):
        import_module(f".{part}", __name__).register()


class _Registration(MetaPathFinder):
    """
    Makes transformers know CLCR: each part of transformers named in `waiting` is told when it has been imported, and no
    module of this package or of `waiting` is half-way through its own import.

    Finds nothing itself: it has the other finders find those modules, and looks when they have run.
    """

    def __init__(self) -> None:
        self.waiting: dict[str, Callable[[], None]] = {
            "transformers": _register_models,
            "transformers.models.auto.feature_extraction_auto": partial(
                _register, "AutoFeatureExtractor", "CLCRFeatureExtractor"
            ),
            "transformers.models.auto.processing_auto": partial(_register, "AutoProcessor", "CLCRProcessor"),
            "transformers.pipelines": _register_pipelines,
        }
        self.seeking: set[str] = set()
        self.running = 0

    def find_spec(self, name: str, path: Any = None, target: Any = None) -> ModuleSpec | None:
        if (name not in self.waiting and not name.startswith(f"{__name__}.")) or name in self.seeking:
            return None
        self.seeking.add(name)
        try:
            spec = find_spec(name)
        finally:
            self.seeking.discard(name)
        if spec is not None and spec.loader is not None:
            spec.loader.exec_module = partial(self._run, spec.loader.exec_module)  # type: ignore[method-assign]
        return spec

    def _run(self, exec_module: Callable[[ModuleType], None], module: ModuleType) -> None:
        self.running += 1
        try:
            exec_module(module)
        finally:
            self.running -= 1
        if not self.running:
            self.register()

    def register(self) -> None:
        """Tells the parts of transformers that are there."""
        while ready := [name for name in self.waiting if name in sys.modules]:
            self.waiting.pop(ready[0])()


__all__ = [
    "CLCRConfig",
    "CLCRFeatureExtractor",
    "CLCRFeaturePipeline",
    "CLCRForPreTraining",
    "CLCRForSequenceClassification",
    "CLCRForTokenClassification",
    "CLCRModalityConfig",
    "CLCRModel",
    "CLCRModelOutput",
    "CLCRPipeline",
    "CLCRPreTrainedModel",
    "CLCRPreTrainingOutput",
    "CLCRProcessor",
    "CLCRSequenceClassifierOutput",
    "CLCRTokenClassifierOutput",
    "CLCRTrainer",
    "CLCRTrainingArguments",
    "__version__",
]

_registration = _Registration()
sys.meta_path.insert(0, _registration)
_registration.register()
