"""The code that travels with a published model, for machines that have transformers and torch but not `clcr_hf`.

The files are this package's own, found through their relative imports and copied as they are: there is no second copy
to keep by hand. They may import each other by flat relative imports only (`from .ops import x`), which is what
transformers can follow. A model loaded this way brings its files along when it is published again.
"""

import json
import os
import shutil
from pathlib import Path
from typing import Any

from transformers.dynamic_module_utils import get_relative_import_files


def auto_classes() -> dict[str, type]:
    """
    The class behind each Auto class of transformers, and the pipelines by their tasks.

    transformers reads the import lines below as text and fetches their files with any one of them, so that the code
    arrives whole and can be published again from where it arrived.
    """
    from .configuration_clcr import CLCRConfig
    from .feature_extraction_clcr import CLCRFeatureExtractor
    from .modeling_clcr import (
        CLCRForPreTraining,
        CLCRForSequenceClassification,
        CLCRForTokenClassification,
        CLCRModel,
    )
    from .pipeline_clcr import TASK, CLCRPipeline
    from .pipeline_features import TASK as FEATURES
    from .pipeline_features import CLCRFeaturePipeline
    from .processing_clcr import CLCRProcessor

    return {
        "AutoConfig": CLCRConfig,
        "AutoModel": CLCRModel,
        "AutoModelForPreTraining": CLCRForPreTraining,
        "AutoModelForSequenceClassification": CLCRForSequenceClassification,
        "AutoModelForTokenClassification": CLCRForTokenClassification,
        "AutoFeatureExtractor": CLCRFeatureExtractor,
        "AutoProcessor": CLCRProcessor,
        TASK: CLCRPipeline,
        FEATURES: CLCRFeaturePipeline,
    }


def _references(architecture: str | None) -> tuple[dict[str, str], dict[str, Any]]:
    """`auto_map` and `custom_pipelines` of `config.json`: classes as `file.Class`, the pipelines with the Auto class of
    the model's own head, or of none."""
    names = {key: f"{each.__module__.split('.')[-1]}.{each.__name__}" for key, each in auto_classes().items()}
    own = next((key for key, name in names.items() if name.split(".")[-1] == architecture), None)
    answering, features = (key for key in names if not key.startswith("Auto"))
    loaders = {answering: own or "AutoModelForSequenceClassification", features: "AutoModel"}
    pipelines = {task: {"impl": names.pop(task), "pt": [auto], "type": "multimodal"} for task, auto in loaders.items()}
    return names, pipelines


def remote_code_files() -> list[Path]:
    """The files that travel: those of the classes that transformers asks for, and all that they import from here."""
    return sorted({Path(__file__), *map(Path, get_relative_import_files(__file__))})


def add_remote_code(folder: str | os.PathLike) -> list[Path]:
    """
    Makes a saved model or processor loadable with `trust_remote_code=True` alone: copies the code beside it and names
    it in `config.json` and `processor_config.json`, those of them that are there. Doing it twice changes nothing.

    Args:
        folder: Where `save_pretrained` wrote a CLCR model, a processor, or both.

    Returns:
        The files copied.

    Raises:
        FileNotFoundError: `folder` holds neither file.
        ValueError: it is the configuration of another kind of model.
    """
    folder = Path(folder)
    config, processor = folder / "config.json", folder / "processor_config.json"
    if not config.is_file() and not processor.is_file():
        raise FileNotFoundError(f"{folder} holds no config.json: save a CLCR model there first")
    if config.is_file():
        content = json.loads(config.read_text(encoding="utf-8"))
        if content.get("model_type") != "clcr":
            raise ValueError(f"{config} is of a model of type {content.get('model_type')!r}, not 'clcr'")
        auto_map, custom_pipelines = _references(next(iter(content.get("architectures") or ()), None))
        _write(config, {**content, "auto_map": auto_map, "custom_pipelines": custom_pipelines})
    if processor.is_file():
        auto_map, _ = _references(None)
        _write(processor, _with_auto_map(json.loads(processor.read_text(encoding="utf-8")), auto_map))
    return [Path(shutil.copyfile(file, folder / file.name)) for file in remote_code_files()]


def _with_auto_map(processor: dict[str, Any], auto_map: dict[str, str]) -> dict[str, Any]:
    """The content of `processor_config.json`, naming the processor's class and that of an extractor of ours inside."""
    processor = {**processor, "auto_map": {"AutoProcessor": auto_map["AutoProcessor"]}}
    extractor = processor.get("feature_extractor")
    name = "AutoFeatureExtractor"
    if isinstance(extractor, dict) and auto_map[name].endswith("." + str(extractor.get("feature_extractor_type"))):
        processor["feature_extractor"] = {**extractor, "auto_map": {name: auto_map[name]}}
    return processor


def _write(path: Path, content: dict[str, Any]) -> None:
    """Whole or not at all: a crash in between leaves the old file."""
    temporary = path.with_name(path.name + ".tmp")
    temporary.write_text(json.dumps(content, indent=2, sort_keys=True) + "\n", encoding="utf-8")
    os.replace(temporary, path)


__all__ = ["add_remote_code", "auto_classes", "remote_code_files"]
