"""Training from the command line: what the scripts in `examples/` and `clcr train` run."""

import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import torch
from datasets import DatasetDict
from transformers import AutoProcessor, EarlyStoppingCallback, PreTrainedModel, set_seed
from transformers.trainer_utils import EvalPrediction, IntervalStrategy

from ..configuration_clcr import CLCRConfig
from ..data import CLCRDataCollator
from ..data.columns import logger
from ..data.folders import write_json
from ..data.labels import LabelKind, filled_columns, modality_columns
from ..data.source import find_source, recognise
from ..data.talking_faces.source import corpus_folder
from ..faces import allow_detector, find_detector
from ..hub.card import write_model_card
from ..hub.run_folder import RUN_FILE, read_run
from ..metrics import (
    classification_metrics,
    expected_calibration_error,
    lower_is_better,
    score_metrics,
    segment_metrics,
)
from ..modalities import FEATURES_END
from ..modeling_clcr import CLCRForTokenClassification, CLCRPreTrainedModel
from ..objective import labels_that_hold, probabilities
from ..processing_clcr import CLCRProcessor
from .alignment_stage import align, warn_without_alignment
from .arguments import (
    LOADER_ARGUMENTS,
    DataArguments,
    ModelArguments,
    as_words,
    named_data,
    parse_args,
    used_arguments,
)
from .baselines import Baselines, compare, comparison
from .before import check_metric
from .build import build_model, build_processor, has_head, label_fault, load_processor
from .calibration import calibrate, counted
from .checkpoints import find_checkpoint
from .data import LoadedData, fill_flow, load_data, unlabelled_rows
from .groups import check_groups, measure_rows, told
from .length import fit_length
from .log import CarvedSplits, outcome, plan
from .one_writer import alone_in_output_dir
from .parser import RunParser
from .read_ahead import read_ahead
from .record import plain, record, report
from .rows import ClipRows, prepare
from .sequence_augmentation import augments_unasked
from .shares import set_shares
from .trainer import CLCRTrainer, CLCRTrainingArguments

# What asks for a split to be measured at the end, the split, and how its metrics begin.
_MEASURED = (("do_eval", "validation", "eval"), ("do_predict", "test", "test"))


def main(argv: Sequence[str] | None = None, **defaults: Any) -> dict[str, float]:
    """Parses the arguments and runs; returns the metrics. Arguments as in [`parse_args`]."""
    return run_training(*parse_args(argv, **defaults))


@alone_in_output_dir
def run_training(
    model_args: ModelArguments,
    data_args: DataArguments,
    training_args: CLCRTrainingArguments,
    change: Callable[[LoadedData], LoadedData] | None = None,
    heads: Callable[[bool], type[CLCRPreTrainedModel]] | None = None,
) -> dict[str, float]:
    """
    Trains, measures and saves. Writes to `training_args.output_dir`: model, processor, `README.md` (the card),
    `run.json` (seed, versions, command, settings, metrics), `all_results.json` and one JSON a split.

    Args:
        change: what is made of the data once they are loaded. heads: as of [`build_model`].

    Returns:
        All metrics, prefixed with `train_`, `eval_` (validation), `test_` or `calibration_` (see [`calibrate`]).

    Raises:
        ValueError, DataFormatError: arguments or data that do not fit together; the message says which. Another run
            writes to `output_dir`.
        MediaError: with `strict_media`, a clip that cannot be read.
        TrainingStopped: a signal asked training to stop; a checkpoint was saved, and what follows training was not run.
        FloatingPointError: the loss or the weights are not finite; nothing was saved since.
    """
    checkpoint = last_checkpoint(training_args) if training_args.do_train else None
    data, columns, processor, carved = open_data(model_args, data_args, training_args, change=change)
    model = build_model(model_args, data_args, data, columns, processor, heads=heads)
    datasets = prepare(data.splits, columns, data_args, processor)
    labels = data.labels
    baselines, linear = None, _takes_linear_part(training_args, columns, labels)
    if linear:
        model.add_linear_evidence()
    seen, measured = (len(datasets.get(name, ())) for name in ("train", "validation"))
    length = fit_length(training_args, seen, measured, scores=labels.problem_type == "regression")
    trainer = build_trainer(model, processor, datasets, labels, training_args, pretrained=bool(model_args.backbones))
    if trainer.is_world_process_zero():
        print(plan(data.title, datasets, carved, columns, model, training_args, length), flush=True)

    metrics: dict[str, float] = {}
    shares: dict[str, Any] = {}
    with read_ahead(list(datasets.values()), training_args.world_size, training_args.dataloader_num_workers):
        if training_args.do_train:
            warn_without_alignment(model, model_args.pretrain_epochs, model_args.model_name_or_path is None)
            if model_args.pretrain_epochs and checkpoint is None:
                rows = _rows_to_align(datasets["train"], columns, processor, model_args, data_args, training_args)
                epochs, rate = model_args.pretrain_epochs, model_args.pretrain_learning_rate
                loss = align(model, rows, trainer.data_collator, training_args, epochs, learning_rate=rate)
                metrics["pretrain_loss"], metrics["pretrain_samples"] = loss, len(rows)
            result = trainer.train(resume_from_checkpoint=checkpoint)
            metrics |= report(trainer, "train", {**result.metrics, "train_samples": len(datasets["train"])})
            trainer.save_state()
            if (linear or training_args.baselines) and trainer.is_world_process_zero():
                baselines = Baselines(datasets["train"].rows, columns, labels, group_column=data_args.group_column)
            shares = set_shares(trainer, baselines, datasets.get("validation"))
            if shares and trainer.is_world_process_zero():
                print(f"shares:  {shares['words']}", flush=True)
            if getattr(training_args, "calibrate", False):
                metrics |= calibrate(trainer, datasets.get("validation"))
        found, groups = _measure(trainer, datasets, data_args.metrics_by, best_metric(labels))
        metrics |= found
    trainer.save_model(_internal_call=True)  # what is sent to the Hub goes at the end, with the record
    if trainer.is_world_process_zero():
        entry = record(model_args, data_args, training_args, data, columns, datasets, trainer, metrics)
        entry |= _compared(datasets, baselines, best_metric(labels), trainer, metrics)
        entry |= {name: value for name, value in (("shares", shares), ("groups", groups)) if value}
        write_json(Path(training_args.output_dir) / RUN_FILE, entry, plain)
        write_model_card(training_args.output_dir)
        print("".join(told(tables, split) for split, tables in groups.items()), end="")
        print(comparison(entry), end="", flush=True)
        print(outcome(training_args.output_dir, columns), flush=True)
    if training_args.push_to_hub:
        trainer.push_to_hub()
    return metrics


def _measure(
    trainer: CLCRTrainer, datasets: Mapping[str, ClipRows], columns: Sequence[str] | None, metric: str
) -> tuple[dict[str, float], dict[str, Any]]:
    """The metrics of the splits that are wanted, and by split those per group of `columns`, see [`measure_rows`]."""
    metrics: dict[str, float] = {}
    groups: dict[str, Any] = {}
    for wanted, split, prefix in _MEASURED:
        if getattr(trainer.args, wanted) and split in datasets:
            found, tables = measure_rows(trainer, datasets[split], prefix, columns, metric)
            metrics |= report(trainer, prefix, {**found, f"{prefix}_samples": len(datasets[split])})
            groups |= {split: tables} if tables else {}
    return metrics, groups


def _takes_linear_part(args: CLCRTrainingArguments, columns: Mapping[str, str], labels: LabelKind) -> bool:
    """Whether a linear model of the features is to have its share of the answer."""
    ready = any(column.endswith(FEATURES_END) for column in columns.values())
    return args.do_train and getattr(args, "linear_evidence", False) and ready and not labels.per_segment


def _compared(
    datasets: dict[str, Any],
    baselines: Baselines | None,
    metric: str,
    trainer: CLCRTrainer,
    metrics: dict[str, float],
) -> dict[str, Any]:
    """What the record keeps of the comparison with baselines; empty without. No other process waits for it."""
    measured = {
        split: metrics[f"{prefix}_{metric}"]
        for split, prefix in (("validation", "eval"), ("test", "test"))
        if f"{prefix}_{metric}" in metrics
    }
    if baselines is None or not getattr(trainer.args, "baselines", False) or not measured:
        return {}
    rows = {split: datasets[split].rows for split in measured}
    return {"baselines": compare(baselines, rows, trainer.compute_metrics, metric, measured)}


def open_data(
    model_args: ModelArguments,
    data_args: DataArguments,
    args: CLCRTrainingArguments,
    labelled: bool = True,
    change: Callable[[LoadedData], LoadedData] | None = None,
) -> tuple[LoadedData, dict[str, str], CLCRProcessor, dict[str, str]]:
    """The data of a run, the column of each modality, the processor, and sentences about splits that were carved. The
    run's seed is set. `labelled`: whether labels are wanted, see `load_data`. `change`: as of [`run_training`]."""
    set_seed(args.seed)
    if data_args.face_crop is not None:
        allow_detector(data_args.face_crop)
        find_detector(data_args.face_crop)  # what is not installed is said at once
    with CarvedSplits() as carved, args.main_process_first(desc="loading the data"):
        data = load_data(data_args, model_args.modalities, flow=False, labelled=labelled)
        data = data if change is None else change(data)
        measured = [split for wanted, split, _ in _MEASURED if getattr(args, wanted)]
        check_groups(data.splits, data_args.metrics_by, measured)
    data.splits = fill_flow(data.splits, data_args, model_args.modalities, *_division(args))
    columns = choose_columns(model_args, data, labelled)
    if data_args.augment_features is None:
        data_args.augment_features = labelled and augments_unasked(data.splits["train"], columns, data.labels)
    return data, columns, build_processor(model_args, data_args, data, columns), carved.found


def _rows_to_align(
    labelled: ClipRows,
    columns: Mapping[str, str],
    processor: CLCRProcessor,
    model_args: ModelArguments,
    data_args: DataArguments,
    args: CLCRTrainingArguments,
) -> ClipRows | torch.utils.data.ConcatDataset:
    """The rows of the alignment stage: those of training, and those that were left out of it for want of a label."""
    with args.main_process_first(desc="loading the rows without labels"):
        others = unlabelled_rows(data_args, model_args.modalities)
    if not others:
        return labelled
    splits = fill_flow(DatasetDict({"train": others}), data_args, model_args.modalities, *_division(args))
    others = prepare(splits, columns, data_args, processor)["train"]
    logger.warning("alignment stage: %d rows with a label and %d without", len(labelled), len(others))
    return torch.utils.data.ConcatDataset([labelled, others])


def _division(args: CLCRTrainingArguments) -> tuple[tuple[int, int], Callable[[], None] | None]:
    """Which share of work this process has among those of its machine, and what waits for all processes."""
    count = int(os.environ.get("LOCAL_WORLD_SIZE", 1)) if args.world_size > 1 else 1
    return (args.local_process_index % count, count), getattr(args.distributed_state, "wait_for_everyone", None)


def choose_columns(model_args: ModelArguments, data: LoadedData, labelled: bool = True) -> dict[str, str]:
    """The column that each modality is read from; those of the saved model where the run goes on from one.
    `labelled`: whether its head must suit the labels."""
    if model_args.model_name_or_path is not None:
        config = CLCRConfig.from_pretrained(model_args.model_name_or_path)
        fault = label_fault(config, data.labels) if labelled and has_head(config) else None
        if fault is not None and not model_args.ignore_mismatched_sizes:
            raise ValueError(f"{fault}; --ignore_mismatched_sizes True trains a new head for them")
        return _columns_of(config, AutoProcessor.from_pretrained(model_args.model_name_or_path), data)
    return modality_columns(filled_columns(data.splits), model_args.modalities, raw=model_args.backbones)


def _columns_of(config: CLCRConfig, processor: CLCRProcessor, data: LoadedData) -> dict[str, str]:
    """The column that each modality of a saved model is read from; ValueError where the data do not suit the model."""
    raw = [name for name in config.modalities if config.modality_config(name).backbone_config is not None]
    raw += ["audio"] if processor.feature_extractor is not None else []
    columns = modality_columns(filled_columns(data.splits), config.modalities, raw=raw)
    for name, column in columns.items():
        if (name in raw) == column.endswith("_features"):
            wanted = "raw input" if name in raw else f"a column {name}_features"
            raise ValueError(f"this model wants {wanted}, and the data hold {column} for {name}")
    return columns


def evaluate_model(
    model_dir: str, data_args: DataArguments, split: str = "test", batch_size: int = 32
) -> dict[str, Any]:
    """
    Metrics of a saved model on one split of a source, without prefix; with `data_args.metrics_by` also `groups`, by
    column what [`~clcr_hf.training.groups.by_group`] gives.

    Raises:
        ValueError: the source has no such split, or data and model do not fit together.
    """
    model = CLCRPreTrainedModel.load_with_head(model_dir)
    data = load_data(data_args, model.config.modalities, flow=False)
    if split not in data.splits:
        raise ValueError(f"the data have no split {split!r}, only {', '.join(data.splits)}")
    check_groups(data.splits, data_args.metrics_by, [split])
    measured = fill_flow(DatasetDict({split: data.splits[split]}), data_args, model.config.modalities)
    data.splits = DatasetDict({**measured, **{name: rows for name, rows in data.splits.items() if name != split}})
    processor = load_processor(model_dir, data_args)
    columns = _columns_of(model.config, processor, data)
    fault = label_fault(model.config, data.labels)
    if fault is not None:
        raise ValueError(fault)
    datasets = prepare(measured, columns, data_args, processor, training=False)
    with TemporaryDirectory() as scratch:  # Trainer wants a folder, though nothing is saved
        args = CLCRTrainingArguments(
            output_dir=scratch, per_device_eval_batch_size=batch_size, dataloader_pin_memory=torch.cuda.is_available()
        )
        trainer = build_trainer(model, processor, {}, data.labels, args)
        metric = best_metric(data.labels)
        metrics, groups = measure_rows(trainer, datasets[split], "test", data_args.metrics_by, metric)
    found = {name.removeprefix("test_"): value for name, value in metrics.items()}
    return {**found, "groups": groups} if groups else found


def evaluation_data(model_dir: str, argv: Sequence[str]) -> DataArguments:
    """
    Which data to measure a saved model on.

    Args:
        argv: data arguments. Without `--dataset`, or with that of the model's own training, the arguments of the
            training (in the model's `run.json`) hold where `argv` says nothing.

    Raises:
        ValueError: an unknown argument; no data named and none recorded, or those recorded are gone. Clips are never
            generated unasked.
    """
    asked = named_data(argv)
    place = asked["dataset_name"] or asked["data_file"] or asked["dataset_dir"]
    wanted = asked["dataset"] or ("hub" if asked["dataset_name"] else None if place is None else recognise(place))
    path = Path(model_dir) / RUN_FILE
    own = read_run(model_dir).get("data_arguments", {}) if path.is_file() else {}
    if "dataset" not in own and wanted is None and place is None:
        raise ValueError(f"{model_dir} does not say which data it learned from; name data with --dataset")
    if "dataset" not in own or wanted not in (None, own["dataset"]):
        own = {}
    elif place is None:
        _check_place(path, own)
    else:
        left = ("dataset_name", "data_file", "dataset_dir", "metrics_by")  # other data may have no such groups
        own = {name: value for name, value in own.items() if name not in left}
    if own:
        idle = LOADER_ARGUMENTS.keys() - used_arguments(own["dataset"]).keys()
        own = {name: value for name, value in own.items() if name not in idle}
    given = [word for name, value in own.items() if value is not None for word in as_words(name, value)]
    return RunParser(DataArguments).parse_args_into_dataclasses(args=[*given, *argv])[0]


def _check_place(path: Path, own: Mapping[str, Any]) -> None:
    """ValueError where the data that a run was on are gone."""
    source = find_source(own["dataset"])
    if source.by_name:
        return  # its loader says whether it is there
    place = own.get("data_file") or own.get("dataset_dir")
    if place is None and source.generated:
        place = corpus_folder(**{name: own[name] for name in source.options if name in own})
    there = place is not None and (source.recognise(Path(place)) if source.generated else os.path.exists(place))
    if not there:
        raise ValueError(
            f"the data of {path} ({own['dataset']}, {place}) are not there; say where with --dataset_dir or --data_file"
        )


# -- trainer --------------------------------------------------------------------------------------------------------


def build_trainer(
    model: PreTrainedModel,
    processor: CLCRProcessor,
    datasets: dict[str, Any],
    labels: LabelKind,
    args: CLCRTrainingArguments,
    pretrained: bool = False,
) -> CLCRTrainer:
    """
    A trainer with the metrics of the labels' kind and early stopping.

    Args:
        args: an unknown `metric_for_best_model` is a ValueError where there is to be training; `"auto"` becomes that of
            [`best_metric`] here; `backbone_learning_rate` becomes 2e-5 where left out with `pretrained` backbones.
    """
    if args.metric_for_best_model == "auto":
        args.metric_for_best_model = best_metric(labels)
    if args.metric_for_best_model is not None and lower_is_better(args.metric_for_best_model):
        args.greater_is_better = False  # transformers takes every metric but a loss for one that should rise
    if pretrained and args.backbone_learning_rate is None:
        args.backbone_learning_rate = 2e-5
    if "validation" not in datasets:
        args.eval_strategy, args.load_best_model_at_end = IntervalStrategy.NO, False
    check_metric(args, model, metrics_of(model))
    patience = getattr(args, "early_stopping_patience", 0)
    stopping = [EarlyStoppingCallback(patience)] if patience and args.load_best_model_at_end else []
    return CLCRTrainer(
        model=model,
        args=args,
        data_collator=CLCRDataCollator(getattr(processor.tokenizer, "pad_token_id", None) or 0),
        train_dataset=datasets.get("train"),
        eval_dataset=datasets.get("validation"),
        processing_class=processor,
        compute_metrics=metrics_of(model),
        callbacks=stopping,
    )


def best_metric(labels: LabelKind) -> str:
    """The metric of validation by which the best epoch is chosen."""
    if labels.per_segment:
        return "segment_accuracy"
    return {"regression": "mae", "multi_label_classification": "map"}.get(labels.problem_type, "accuracy")


def metrics_of(model: PreTrainedModel) -> Callable[[EvalPrediction], dict[str, float]]:
    """`compute_metrics` of Trainer for what a model learned."""
    config = model.config
    names = [config.id2label[index] for index in range(config.num_labels)]
    per_segment = isinstance(model, CLCRForTokenClassification)
    problem = config.effective_problem_type
    return metrics_function(problem, per_segment, config.label_scale, config.label_range, names, config)


def metrics_function(
    problem_type: str | None,
    per_segment: bool,
    label_scale: str | None = "sentiment",
    label_range: Sequence[Any] | None = None,
    names: Sequence[str] | None = None,
    config: CLCRConfig | None = None,
) -> Callable[[EvalPrediction], dict[str, float]]:
    """`compute_metrics` of Trainer for labels of this kind; see `clcr_hf.metrics`, of scores `score_metrics` there.
    With `batch_eval_metrics` it is called batch by batch, and at the last gives the metrics of all. What `config` holds
    of temperature and thresholds at that time is applied."""
    calibrated = CLCRConfig(problem_type=problem_type) if config is None else config
    batches: list[tuple[np.ndarray, np.ndarray]] = []

    def compute(prediction: EvalPrediction, compute_result: bool = True) -> dict[str, float]:
        found = prediction.predictions
        batches.append((_array(found[0] if isinstance(found, tuple) else found), _array(prediction.label_ids)))
        if not compute_result:
            return {}
        logits, labels = (_joined(parts) for parts in zip(*batches, strict=True))
        batches.clear()
        return measure(logits, labels)

    def measure(logits: Any, labels: Any) -> dict[str, float]:
        if problem_type == "regression":
            return score_metrics(logits, labels, label_scale=label_scale, label_range=label_range, names=names)
        if per_segment:
            found = segment_metrics([clip.argmax(-1) for clip in logits], labels)
            flat, true = counted(logits, labels)
            stated = probabilities(calibrated, torch.from_numpy(flat))
            return {**found, "segment_ece": expected_calibration_error(stated.numpy(), true)}
        stated = probabilities(calibrated, torch.as_tensor(logits))
        if problem_type == "multi_label_classification":
            holding = labels_that_hold(calibrated, stated).int().numpy()
            return classification_metrics(holding, labels, logits, stated.numpy())
        return classification_metrics(logits.argmax(-1), labels, logits, stated.numpy())

    return compute


def _array(value: Any) -> np.ndarray:
    if isinstance(value, torch.Tensor):
        value = value.detach().cpu()
        return (value.float() if value.is_floating_point() else value).numpy()
    return np.asarray(value)


def _joined(parts: Sequence[np.ndarray]) -> Any:
    """Batches as one array, or as rows where they are padded to different lengths."""
    if len({part.shape[1:] for part in parts}) == 1:
        return np.concatenate(parts) if len(parts) > 1 else parts[0]
    return [row for part in parts for row in part]


def last_checkpoint(args: CLCRTrainingArguments) -> str | None:
    """`--resume_from_checkpoint`: a folder, `last` (or `true`) or `auto`, see [`find_checkpoint`]."""
    run = args.output_dir, args.resume_from_checkpoint, args.world_size, args.process_index == 0
    return find_checkpoint(*run, workers=args.dataloader_num_workers)


__all__ = [
    "best_metric",
    "build_trainer",
    "choose_columns",
    "evaluate_model",
    "evaluation_data",
    "last_checkpoint",
    "main",
    "metrics_function",
    "metrics_of",
    "open_data",
    "run_training",
]
