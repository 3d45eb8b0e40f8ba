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
        CLCRForSequenceClassification,
        CLCRForTokenClassification,
        CLCRModel,
        CLCRModelOutput,
        CLCRPreTrainedModel,
        CLCRSequenceClassifierOutput,
        CLCRTokenClassifierOutput,
    )
    from .pipeline_clcr import CLCRPipeline
    from .processing_clcr import CLCRProcessor
    from .training.trainer import CLCRTrainer, CLCRTrainingArguments

__version__ = "0.1.0"

_HOME_OF = {  # all other names of `__all__` live in modeling_clcr
    "CLCRConfig": "configuration_clcr",
    "CLCRFeatureExtractor": "feature_extraction_clcr",
    "CLCRModalityConfig": "configuration_clcr",
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


def _register() -> None:
    """Makes transformers' Auto classes and `pipeline` know CLCR."""
    import transformers

    from .configuration_clcr import CLCRConfig, CLCRModalityConfig
    from .pipeline_clcr import register
    from .remote_code import auto_classes

    transformers.AutoConfig.register(CLCRConfig.model_type, CLCRConfig, exist_ok=True)
    transformers.AutoConfig.register(CLCRModalityConfig.model_type, CLCRModalityConfig, exist_ok=True)
    for name, each in auto_classes().items():
        if name.startswith("Auto") and name != "AutoConfig":
            getattr(transformers, name).register(CLCRConfig, each, exist_ok=True)
    register()


class _RegisterLater(MetaPathFinder):
    """
    Calls `_register` once transformers has been imported and no module of this package is half-way through its import.

    Finds nothing itself: it has the other finders find transformers and our modules, and looks when they have run.
    """

    def __init__(self) -> None:
        self.seeking: set[str] = set()
        self.running = 0

    def find_spec(self, name: str, path: Any = None, target: Any = None) -> ModuleSpec | None:
        if (name != "transformers" and not name.startswith(f"{__name__}.")) or name in self.seeking:
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
        if not self.running and "transformers" in sys.modules and self in sys.meta_path:
            sys.meta_path.remove(self)
            _register()


if "transformers" in sys.modules:
    _register()
else:
    sys.meta_path.insert(0, _RegisterLater())

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
