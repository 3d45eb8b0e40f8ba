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

# Each Auto class, and who answers for it. transformers reads them from `config.json` and `processor_config.json`.
AUTO_MAP = {
    "AutoConfig": "configuration_clcr.CLCRConfig",
    "AutoModel": "modeling_clcr.CLCRModel",
    "AutoModelForSequenceClassification": "modeling_clcr.CLCRForSequenceClassification",
    "AutoModelForTokenClassification": "modeling_clcr.CLCRForTokenClassification",
    "AutoFeatureExtractor": "feature_extraction_clcr.CLCRFeatureExtractor",
    "AutoProcessor": "processing_clcr.CLCRProcessor",
}
CUSTOM_PIPELINES = {
    "multimodal-sentiment": {
        "impl": "pipeline_clcr.CLCRPipeline",
        "pt": ["AutoModelForSequenceClassification"],
        "type": "multimodal",
    }
}
_ENTRY_FILES = sorted({f"{name.split('.')[0]}.py" for name in AUTO_MAP.values()} | {"pipeline_clcr.py"})


def remote_code_files() -> list[Path]:
    """The files that travel: those of `AUTO_MAP` and the pipeline, and all that they import from this package."""
    folder = Path(__file__).parent
    files = {folder / name for name in _ENTRY_FILES}
    for entry in list(files):
        files |= {Path(name) for name in get_relative_import_files(str(entry))}
    return sorted(files)


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
        _write(config, {**content, "auto_map": AUTO_MAP, "custom_pipelines": CUSTOM_PIPELINES})
    if processor.is_file():
        _write(processor, _with_processor_map(json.loads(processor.read_text(encoding="utf-8"))))
    return [Path(shutil.copyfile(file, folder / file.name)) for file in remote_code_files()]


def _with_processor_map(content: dict[str, Any]) -> dict[str, Any]:
    extractor = content.get("feature_extractor")
    if isinstance(extractor, dict) and extractor.get("feature_extractor_type") == "CLCRFeatureExtractor":
        extractor = {**extractor, "auto_map": {"AutoFeatureExtractor": AUTO_MAP["AutoFeatureExtractor"]}}
        content = {**content, "feature_extractor": extractor}
    return {**content, "auto_map": {"AutoProcessor": AUTO_MAP["AutoProcessor"]}}


def _write(path: Path, content: dict[str, Any]) -> None:
    """Whole or not at all: a crash in between leaves the old file."""
    temporary = path.with_name(path.name + ".tmp")
    temporary.write_text(json.dumps(content, indent=2, sort_keys=True) + "\n", encoding="utf-8")
    os.replace(temporary, path)


__all__ = ["AUTO_MAP", "CUSTOM_PIPELINES", "add_remote_code", "remote_code_files"]
