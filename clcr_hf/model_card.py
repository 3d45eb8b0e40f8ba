"""A model card written from a training run's own files: no figure in it that the run did not measure."""

import json
from pathlib import Path
from typing import Any

from huggingface_hub import EvalResult, ModelCard, ModelCardData

TEMPLATE = Path(__file__).parent / "templates" / "model_card.md"
RUN_FILE = "run.json"

# What a metric is called in the card, and its type in the Hub's vocabulary. Names: clcr_hf.metrics.
_METRIC_NAMES = {
    "mae": ("MAE", "mae"),
    "corr": ("Pearson correlation", "pearsonr"),
    "acc_2_has0": ("Acc-2, negative / non-negative", "accuracy"),
    "acc_2_non0": ("Acc-2, negative / positive", "accuracy"),
    "f1_has0": ("weighted F1, negative / non-negative", "f1"),
    "f1_non0": ("weighted F1, negative / positive", "f1"),
    "acc_5": ("Acc-5", "accuracy"),
    "acc_7": ("Acc-7", "accuracy"),
    "accuracy": ("accuracy", "accuracy"),
    "macro_f1": ("macro F1", "f1"),
    "weighted_f1": ("weighted F1, mean over labels", "f1"),
    "map": ("mAP", "mean_average_precision"),
    "segment_accuracy": ("segment accuracy", "accuracy"),
    "segment_macro_f1": ("segment macro F1", "f1"),
}
_NOT_METRICS = ("runtime", "per_second", "loss", "epoch", "samples", "segments")
# What a model gives, and the name of its task.
_TASKS = {
    "regression": ("a sentiment score", "multimodal sentiment"),
    "single_label_classification": ("one label", "multimodal classification"),
    "multi_label_classification": ("any number of labels", "multimodal multi-label classification"),
    "segments": ("a label for each segment", "event localisation"),
}


def read_run(folder: str | Path) -> dict[str, Any]:
    """
    The record that a training run left in `folder`.

    Raises:
        FileNotFoundError: `folder` holds no `run.json`.
        ValueError: the file is not a JSON object.
    """
    path = Path(folder) / RUN_FILE
    if not path.is_file():
        raise FileNotFoundError(f"{path} does not exist: a card is written from the record of a training run")
    record = json.loads(path.read_text(encoding="utf-8"))
    if not isinstance(record, dict):
        raise ValueError(f"{path} must hold a JSON object, got {type(record).__name__}")
    return record


def measured_metrics(metrics: dict[str, Any], split: str) -> dict[str, float]:
    """The figures of `split` in a Trainer's metrics, without prefix, loss and timings."""
    prefix = f"{split}_"
    named = {key.removeprefix(prefix): value for key, value in metrics.items() if key.startswith(prefix)}
    return {
        key: float(value)
        for key, value in named.items()
        if isinstance(value, (int, float)) and not any(word in key for word in _NOT_METRICS)
    }


def card_from_run(folder: str | Path, model_id: str | None = None) -> ModelCard:
    """
    The card of the run in `folder`, from its `run.json`.

    Args:
        folder: Where [`~clcr_hf.training.run_training`] saved its model.
        model_id: What the card's examples load; default the folder's name.

    Raises:
        FileNotFoundError, ValueError: see [`read_run`].
    """
    run = read_run(folder)
    model_id = model_id or Path(folder).resolve().name
    split = "test" if measured_metrics(run["metrics"], "test") else "eval"
    figures = measured_metrics(run["metrics"], split)
    kind = "segments" if run.get("per_segment") else run["problem_type"]
    gives, task = _TASKS.get(kind, ("a label", "multimodal classification"))
    inputs = run.get("inputs", {})
    features = {name: column for name, column in inputs.items() if column.endswith("_features")}
    data = ModelCardData(
        language="en",
        license="apache-2.0" if run["generated"] else None,
        library_name="transformers",
        pipeline_tag="video-classification",
        tags=["clcr", "multimodal", *(["sentiment-analysis"] if kind == "regression" else []), *run["modalities"]],
        model_name=model_id,
        eval_results=_eval_results(run, task, figures, split),
    )
    return ModelCard.from_template(
        data,
        template_path=str(TEMPLATE),
        title=model_id,
        model_id=model_id,
        modalities=", ".join(run["modalities"]),
        task=gives,
        per_segment=kind == "segments",
        features=list(features.values()),
        reads_text="text" in run["modalities"],
        selected=run.get("selected_by", True),
        generated=run["generated"],
        split="validation" if split == "eval" else split,
        seed=run["seed"],
        num_train=run["num_examples"].get("train"),
        num_test=run["num_examples"].get("test" if split == "test" else "validation"),
        results=[(_METRIC_NAMES.get(key, (key, key))[0], f"{value:.4f}") for key, value in figures.items()],
        settings=list(run["settings"].items()),
        command=run["command"],
        versions=", ".join(f"{name} {version}" for name, version in run["versions"].items()),
        dataset=run.get("dataset_title", run["dataset"]),
    )


def _eval_results(run: dict[str, Any], task: str, figures: dict[str, float], split: str) -> list[EvalResult] | None:
    results = [
        EvalResult(
            task_type="video-classification",
            task_name=task,
            dataset_type=run["dataset"],
            dataset_name=run.get("dataset_title", run["dataset"]),
            dataset_split="validation" if split == "eval" else split,
            metric_type=_METRIC_NAMES.get(key, (key, key))[1],
            metric_name=_METRIC_NAMES.get(key, (key, key))[0],
            metric_value=round(value, 4),
        )
        for key, value in figures.items()
    ]
    return results or None


def write_model_card(folder: str | Path, model_id: str | None = None) -> Path:
    """Writes the card of the run in `folder` to its `README.md` and returns that path; see [`card_from_run`]."""
    path = Path(folder) / "README.md"
    card_from_run(folder, model_id).save(path)
    return path


__all__ = ["card_from_run", "measured_metrics", "read_run", "write_model_card"]
