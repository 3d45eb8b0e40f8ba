"""Training from the command line: what `examples/run_sentiment.py` and `clcr train` run."""

import json
import os
import platform
import shlex
import sys
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from importlib.metadata import version
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import torch
from datasets import DatasetDict
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors
from transformers import (
    AutoFeatureExtractor,
    AutoImageProcessor,
    AutoProcessor,
    AutoTokenizer,
    BertConfig,
    EarlyStoppingCallback,
    HfArgumentParser,
    PreTrainedModel,
    PreTrainedTokenizerFast,
    ResNetConfig,
    SeamlessM4TFeatureExtractor,
    set_seed,
)
from transformers.models.vit.image_processing_pil_vit import ViTImageProcessorPil
from transformers.trainer_utils import EvalPrediction, IntervalStrategy, get_last_checkpoint

from .configuration_clcr import CLCRConfig
from .data import CLCRDataCollator
from .metrics import classification_metrics, segment_metrics, sentiment_metrics
from .model_card import RUN_FILE, write_model_card
from .modeling_clcr import CLCRForSequenceClassification, CLCRForTokenClassification
from .processing_clcr import CLCRProcessor
from .trainer import CLCRTrainer, CLCRTrainingArguments
from .training_data import DataArguments, LabelKind, feature_sizes, label_kind, load_splits, prepare

# The paper's ablation study, each variant as fields of `CLCRConfig`.
ABLATIONS: dict[str, dict[str, Any]] = {
    "without_hierarchy": {"use_hierarchy": False},
    "without_intraced": {"use_intraced": False},
    "without_intercad": {"use_intercad": False},
    "full_mix": {"level_mixing": "full_mix"},
    "without_intra_loss": {"lambda_intra": 0.0},
    "without_inter_loss": {"lambda_inter": 0.0},
    "without_regularisers": {"lambda_intra": 0.0, "lambda_inter": 0.0},
    "dense_budget": {"dense_budget": True},
    "without_private": {"use_private_path": False},
}
_MEL_BINS, _MEL_STRIDE = 40, 2
_BERT_VOCABULARY = 30_522
_VERSIONED = ("clcr-hf", "torch", "transformers", "datasets", "accelerate", "numpy")


@dataclass
class ModelArguments:
    """Which model to train: from scratch (small), around pretrained backbones, or a saved CLCR."""

    model_name_or_path: str | None = field(default=None, metadata={"help": "Go on from this saved CLCR model."})
    text_model_name_or_path: str | None = field(
        default=None, metadata={"help": "Pretrained text backbone and tokenizer, e.g. bert-base-uncased."}
    )
    vision_model_name_or_path: str | None = field(
        default=None, metadata={"help": "Pretrained image backbone and its processor, e.g. microsoft/resnet-18."}
    )
    audio_model_name_or_path: str | None = field(
        default=None, metadata={"help": "Pretrained audio backbone and its extractor, e.g. facebook/wav2vec2-base."}
    )
    freeze_backbones: bool = field(default=False, metadata={"help": "Keep the pretrained backbones as they are."})
    modalities: list[str] = field(
        default_factory=lambda: ["text", "vision", "audio"],
        metadata={"help": "Which of text, vision and audio the model reads."},
    )
    ablation: str | None = field(
        default=None, metadata={"help": "Train a variant of the paper's ablation study.", "choices": list(ABLATIONS)}
    )
    hidden_size: int = field(default=64, metadata={"help": "Width of the fusion."})
    backbone_size: int = field(default=64, metadata={"help": "Width of backbones trained from scratch."})
    vocab_size: int = field(default=2000, metadata={"help": "Most entries of a tokenizer trained from scratch."})
    dropout: float = field(default=0.1, metadata={"help": "Dropout of the fusion."})
    config_overrides: str | None = field(
        default=None, metadata={"help": "More fields of CLCRConfig, e.g. 'num_levels=3,lambda_intra=0.1'."}
    )

    def __post_init__(self) -> None:
        unknown = set(self.modalities) - {"text", "vision", "audio"}
        if unknown or not self.modalities or len(set(self.modalities)) < len(self.modalities):
            raise ValueError(f"--modalities takes each of text, vision, audio at most once, got {self.modalities}")
        if self.ablation is not None and self.ablation not in ABLATIONS:
            raise ValueError(f"--ablation must be one of {', '.join(ABLATIONS)}, got {self.ablation!r}")

    @property
    def backbones(self) -> dict[str, str]:
        """Pretrained backbones, by modality in use."""
        named = {name: getattr(self, f"{name}_model_name_or_path") for name in self.modalities}
        return {name: source for name, source in named.items() if source is not None}

    def fusion_fields(self) -> dict[str, Any]:
        """Fields of `CLCRConfig` that these arguments set, the ablation's and the overrides among them."""
        fields = {"hidden_size": self.hidden_size, "dropout": self.dropout, **ABLATIONS.get(self.ablation or "", {})}
        for pair in filter(None, (self.config_overrides or "").split(",")):
            name, separator, value = pair.partition("=")
            if not separator:
                raise ValueError(f"--config_overrides wants name=value pairs with commas between them, got {pair!r}")
            fields[name.strip()] = _parsed(value.strip())
        return fields


@dataclass
class RunArguments(CLCRTrainingArguments):
    """`CLCRTrainingArguments` with defaults that train the generated corpus in two to three minutes on two cores."""

    output_dir: str = field(default="runs/talking_faces", metadata={"help": "Where checkpoints and the model go."})
    do_train: bool = field(default=True, metadata={"help": "Train."})
    do_eval: bool = field(default=True, metadata={"help": "Measure on validation at the end."})
    do_predict: bool = field(default=True, metadata={"help": "Measure on test at the end."})
    weight_decay: float = field(default=0.05, metadata={"help": "Weight decay of AdamW (the paper's, for SGD: 1e-4)."})
    num_train_epochs: float = field(default=20, metadata={"help": "Passes over the training data."})
    per_device_train_batch_size: int = field(default=16, metadata={"help": "Examples a step and device."})
    per_device_eval_batch_size: int = field(default=32, metadata={"help": "The same in evaluation."})
    lr_scheduler_type: str = field(default="cosine", metadata={"help": "How the learning rate falls."})
    warmup_steps: float = field(default=0.1, metadata={"help": "Steps of rising learning rate; below 1, a share."})
    eval_strategy: str = field(default="epoch", metadata={"help": "When to measure on validation."})
    save_strategy: str = field(default="epoch", metadata={"help": "When to write a checkpoint."})
    save_total_limit: int | None = field(default=2, metadata={"help": "Checkpoints kept, the best among them."})
    load_best_model_at_end: bool = field(default=True, metadata={"help": "Keep the epoch best on validation."})
    metric_for_best_model: str | None = field(
        default="auto", metadata={"help": "auto: mae for scores, accuracy for classes."}
    )
    logging_steps: float = field(default=10, metadata={"help": "Steps between two lines of the log."})
    dataloader_pin_memory: bool = field(
        default_factory=torch.cuda.is_available, metadata={"help": "Pin the batches' memory; of use with a GPU only."}
    )
    early_stopping_patience: int = field(
        default=8, metadata={"help": "Stop after so many measurements without improvement; 0 never."}
    )


def parse_args(argv: Sequence[str] | None = None) -> tuple[ModelArguments, DataArguments, RunArguments]:
    """The three groups of arguments from `argv` (the process's own by default), or from one JSON or YAML file."""
    parser = HfArgumentParser((ModelArguments, DataArguments, RunArguments))
    arguments = list(sys.argv[1:] if argv is None else argv)
    if len(arguments) == 1 and arguments[0].endswith(".json"):
        return parser.parse_json_file(json_file=arguments[0])
    if len(arguments) == 1 and arguments[0].endswith((".yaml", ".yml")):
        return parser.parse_yaml_file(yaml_file=arguments[0])
    return parser.parse_args_into_dataclasses(args=arguments)


def main(argv: Sequence[str] | None = None) -> dict[str, float]:
    """Parses the arguments and runs; returns the metrics."""
    return run_sentiment(*parse_args(argv))


def run_sentiment(
    model_args: ModelArguments, data_args: DataArguments, training_args: CLCRTrainingArguments
) -> dict[str, float]:
    """
    Trains, measures and saves. Writes to `training_args.output_dir`: model, processor, `README.md` (the card),
    `run.json` (seed, versions, command, settings, metrics), `all_results.json` and one JSON a split.

    Returns:
        All metrics, prefixed with `train_`, `eval_` (validation) or `test_`.

    Raises:
        ValueError, DataFormatError: arguments or data that do not fit together; the message says which.
    """
    set_seed(training_args.seed)
    with training_args.main_process_first(desc="loading the data"):
        splits = load_splits(data_args, model_args.modalities)
    labels = label_kind(splits)
    processor = build_processor(model_args, data_args, splits)
    model = build_model(model_args, data_args, splits, labels, processor)
    datasets = prepare(splits, data_args, processor)
    trainer = build_trainer(model, processor, datasets, labels, training_args, pretrained=bool(model_args.backbones))

    metrics: dict[str, float] = {}
    if training_args.do_train:
        result = trainer.train(resume_from_checkpoint=_checkpoint(training_args))
        metrics |= _report(trainer, "train", {**result.metrics, "train_samples": len(datasets["train"])})
        trainer.save_state()
    for wanted, split, prefix in (
        (training_args.do_eval, "validation", "eval"),
        (training_args.do_predict, "test", "test"),
    ):
        if wanted and split in datasets:
            measured = trainer.predict(datasets[split], metric_key_prefix=prefix).metrics
            metrics |= _report(trainer, prefix, {**measured, f"{prefix}_samples": len(datasets[split])})
    trainer.save_model()
    if trainer.is_world_process_zero():
        record = _record(model_args, data_args, training_args, labels, datasets, trainer, metrics)
        _write_json(Path(training_args.output_dir) / RUN_FILE, record)
        write_model_card(training_args.output_dir)
    return metrics


def evaluate_model(
    model_dir: str, data_args: DataArguments, split: str = "test", batch_size: int = 32
) -> dict[str, float]:
    """
    Metrics of a saved model on one split of a source, without prefix.

    Raises:
        ValueError: the source has no such split.
    """
    model = load_model(model_dir)
    splits = load_splits(data_args, [name for name in model.config.modalities if name in ("text", "vision", "audio")])
    if split not in splits:
        raise ValueError(f"the data have no split {split!r}, only {', '.join(splits)}")
    splits = DatasetDict({split: splits[split]})
    processor = AutoProcessor.from_pretrained(model_dir)
    datasets = prepare(splits, data_args, processor)
    compute = metrics_function(model.config.problem_type, isinstance(model, CLCRForTokenClassification))
    with TemporaryDirectory() as scratch:  # Trainer wants a folder, though nothing is saved
        args = CLCRTrainingArguments(
            output_dir=scratch, per_device_eval_batch_size=batch_size, dataloader_pin_memory=torch.cuda.is_available()
        )
        trainer = CLCRTrainer(model=model, args=args, data_collator=CLCRDataCollator(), compute_metrics=compute)
        metrics = trainer.predict(datasets[split]).metrics
    return {name.removeprefix("test_"): value for name, value in metrics.items()}


# -- model ----------------------------------------------------------------------------------------------------------


def load_model(path: str) -> PreTrainedModel:
    """The saved CLCR model with its own head."""
    architectures = CLCRConfig.from_pretrained(path).architectures or []
    segment = CLCRForTokenClassification.__name__ in architectures
    return (CLCRForTokenClassification if segment else CLCRForSequenceClassification).from_pretrained(path)


def build_model(
    model_args: ModelArguments,
    data_args: DataArguments,
    splits: DatasetDict,
    labels: LabelKind,
    processor: CLCRProcessor,
) -> PreTrainedModel:
    """The model that the arguments ask for; see [`ModelArguments`]."""
    if model_args.model_name_or_path is not None:
        return load_model(model_args.model_name_or_path)
    fields = model_args.fusion_fields()
    fields |= {"problem_type": labels.problem_type, "num_labels": labels.num_labels}
    if labels.names is not None:
        fields["id2label"] = dict(enumerate(labels.names))
        fields["label2id"] = {name: index for index, name in enumerate(labels.names)}
    sizes = feature_sizes(splits["train"])
    backbones = _backbones_in_use(model_args, data_args)
    for name in model_args.modalities:
        given = fields.get(f"{name}_config") or {}
        if name in backbones:
            fields[f"{name}_config"] = {"freeze_backbone": model_args.freeze_backbones, **given}
        elif name in sizes:
            fields[f"{name}_config"] = {"feature_size": sizes[name], **given}
        else:
            fields[f"{name}_config"] = {**_scratch_config(name, model_args, data_args, processor), **given}
    head = CLCRForTokenClassification if labels.per_segment else CLCRForSequenceClassification
    return head.from_backbones(backbones, **fields)


def _backbones_in_use(model_args: ModelArguments, data_args: DataArguments) -> dict[str, str]:
    """Pretrained backbones that the data can feed: all with clips, the text one with token ids."""
    if data_args.reads_clips:
        return model_args.backbones
    fed = {"text"} if data_args.dataset == "mmsa" and data_args.mmsa_text == "text_bert" else set()
    starved = set(model_args.backbones) - fed
    if starved:
        raise ValueError(f"--dataset {data_args.dataset} gives features of {sorted(starved)}, which no backbone reads")
    return model_args.backbones


def _scratch_config(
    name: str, model_args: ModelArguments, data_args: DataArguments, processor: CLCRProcessor
) -> dict[str, Any]:
    """A small reader of raw input: BERT of three layers, ResNet of four stages, TCN over log-mel frames."""
    size = model_args.backbone_size
    if name == "text":
        tokenizer = processor.tokenizer
        backbone = BertConfig(
            vocab_size=_BERT_VOCABULARY if tokenizer is None else len(tokenizer),
            hidden_size=size,
            num_hidden_layers=3,
            num_attention_heads=max(size // 16, 1),
            intermediate_size=2 * size,
            max_position_embeddings=max(data_args.max_text_length, 64),
            initializer_range=0.1,  # BERT's 0.02 is meant for width 768; this small one learns sooner from here
        )
        return {"backbone_config": backbone, "source": "taps"}
    if name == "vision":
        stages = [size // 4, size // 2, size, size]
        backbone = ResNetConfig(
            embedding_size=size // 4, hidden_sizes=stages, depths=[1, 1, 1, 1], layer_type="basic"
        )
        return {"backbone_config": backbone, "source": "tcn"}
    # A token for every 80 ms: with one every 20 ms nothing was learned in the time given.
    return {"feature_size": _MEL_BINS * _MEL_STRIDE, "tcn_stride": 4}


# -- processor ------------------------------------------------------------------------------------------------------


def build_processor(model_args: ModelArguments, data_args: DataArguments, splits: DatasetDict) -> CLCRProcessor:
    """The saved model's processor, or one built of the backbones' parts and of small ones made here."""
    if model_args.model_name_or_path is not None:
        return AutoProcessor.from_pretrained(model_args.model_name_or_path)
    if not data_args.reads_clips:
        text = model_args.text_model_name_or_path
        return CLCRProcessor(tokenizer=AutoTokenizer.from_pretrained(text) if text else None)
    columns = splits["train"].column_names
    builders: dict[str, tuple[str, str, Callable[[], Any]]] = {
        "text": ("tokenizer", "text", lambda: _tokenizer(model_args, data_args, splits)),
        "vision": ("image_processor", "media", lambda: _image_processor(model_args, data_args)),
        "audio": ("feature_extractor", "media", lambda: _feature_extractor(model_args, data_args)),
    }
    parts = {}
    for name in model_args.modalities:
        part, column, build = builders[name]
        if column not in columns:
            raise ValueError(f"the data have no column {column!r} for {name}: leave {name} out of --modalities")
        parts[part] = build()
    return CLCRProcessor(
        **parts, video_num_frames=data_args.video_frames, max_audio_seconds=data_args.max_audio_seconds
    )


def _tokenizer(model_args: ModelArguments, data_args: DataArguments, splits: DatasetDict) -> Any:
    if model_args.text_model_name_or_path is not None:
        return AutoTokenizer.from_pretrained(model_args.text_model_name_or_path)
    texts = [text for text in splits["train"]["text"] if text]
    return train_tokenizer(texts, model_args.vocab_size, data_args.max_text_length)


def train_tokenizer(texts: Sequence[str], vocab_size: int, max_length: int) -> PreTrainedTokenizerFast:
    """
    A lower-casing tokenizer in BERT's form: the commonest words of `texts` whole, all others in letters.

    The same texts give the same tokenizer in every process. (The trainers of `tokenizers` break ties at random.)

    Args:
        texts: transcripts to take words from; a word seen once is left to letters, so that letters are trained too.
        vocab_size: most entries, letters and special tokens included.
        max_length: longest encoding.
    """
    special = {"pad_token": "[PAD]", "unk_token": "[UNK]", "cls_token": "[CLS]", "sep_token": "[SEP]"}
    normalizer, splitter = normalizers.BertNormalizer(lowercase=True), pre_tokenizers.BertPreTokenizer()
    counts = Counter(
        word for text in texts for word, _ in splitter.pre_tokenize_str(normalizer.normalize_str(text))
    )
    letters = sorted({letter for word in counts for letter in word})
    words = sorted((word for word, count in counts.items() if count > 1), key=lambda word: (-counts[word], word))
    entries = [*special.values(), *letters, *(f"##{letter}" for letter in letters), *words]
    entries = list(dict.fromkeys(entries))[:vocab_size]
    tokenizer = Tokenizer(
        models.WordPiece({entry: index for index, entry in enumerate(entries)}, unk_token=special["unk_token"])
    )
    tokenizer.normalizer, tokenizer.pre_tokenizer = normalizer, splitter
    ends = [(token, tokenizer.token_to_id(token)) for token in (special["cls_token"], special["sep_token"])]
    tokenizer.post_processor = processors.TemplateProcessing(single="[CLS] $A [SEP]", special_tokens=ends)
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, model_max_length=max_length, **special)


def _image_processor(model_args: ModelArguments, data_args: DataArguments) -> Any:
    if model_args.vision_model_name_or_path is not None:
        return AutoImageProcessor.from_pretrained(model_args.vision_model_name_or_path)
    return ViTImageProcessorPil(size={"height": data_args.image_size, "width": data_args.image_size})


def _feature_extractor(model_args: ModelArguments, data_args: DataArguments) -> Any:
    if model_args.audio_model_name_or_path is not None:
        return AutoFeatureExtractor.from_pretrained(model_args.audio_model_name_or_path)
    return SeamlessM4TFeatureExtractor(
        feature_size=_MEL_BINS, num_mel_bins=_MEL_BINS, sampling_rate=data_args.sampling_rate, stride=_MEL_STRIDE
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
        args: `metric_for_best_model="auto"` becomes `mae` or `accuracy` here; `backbone_learning_rate` becomes 2e-5
            where left out with `pretrained` backbones.
    """
    if args.metric_for_best_model == "auto":
        args.metric_for_best_model = best_metric(labels)
        args.greater_is_better = labels.problem_type != "regression"
    if pretrained and args.backbone_learning_rate is None:
        args.backbone_learning_rate = 2e-5
    if "validation" not in datasets:
        args.eval_strategy, args.load_best_model_at_end = IntervalStrategy.NO, False
    patience = getattr(args, "early_stopping_patience", 0)
    stopping = [EarlyStoppingCallback(patience)] if patience and args.load_best_model_at_end else []
    return CLCRTrainer(
        model=model,
        args=args,
        data_collator=CLCRDataCollator(),
        train_dataset=datasets.get("train"),
        eval_dataset=datasets.get("validation"),
        processing_class=processor,
        compute_metrics=metrics_function(labels.problem_type, labels.per_segment),
        callbacks=stopping,
    )


def best_metric(labels: LabelKind) -> str:
    """The metric of validation by which the best epoch is chosen."""
    if labels.per_segment:
        return "segment_accuracy"
    return "mae" if labels.problem_type == "regression" else "accuracy"


def metrics_function(problem_type: str | None, per_segment: bool) -> Callable[[EvalPrediction], dict[str, float]]:
    """`compute_metrics` of Trainer for labels of this kind; see `clcr_hf.metrics`."""

    def compute(prediction: EvalPrediction) -> dict[str, float]:
        logits, labels = prediction.predictions, prediction.label_ids
        logits = logits[0] if isinstance(logits, tuple) else logits
        if problem_type == "regression":
            return sentiment_metrics(logits, labels)
        if problem_type == "multi_label_classification":
            return classification_metrics((logits > 0).astype(int), labels, logits)
        if per_segment:
            return segment_metrics(logits.argmax(-1), labels)
        return classification_metrics(logits.argmax(-1), labels, logits)

    return compute


def _checkpoint(args: CLCRTrainingArguments) -> str | None:
    """`--resume_from_checkpoint`: a folder, or `last` (or `true`) for the newest one in the output folder."""
    wanted = args.resume_from_checkpoint
    if wanted is None or str(wanted).lower() not in ("last", "true"):
        return wanted
    last = get_last_checkpoint(args.output_dir) if Path(args.output_dir).is_dir() else None
    if last is None:
        raise ValueError(f"--resume_from_checkpoint {wanted}: there is no checkpoint in {args.output_dir}")
    return last


# -- records --------------------------------------------------------------------------------------------------------


def _report(trainer: CLCRTrainer, split: str, metrics: dict[str, float]) -> dict[str, float]:
    trainer.log_metrics(split, metrics)
    trainer.save_metrics(split, metrics)
    return metrics


def _record(
    model_args: ModelArguments,
    data_args: DataArguments,
    args: CLCRTrainingArguments,
    labels: LabelKind,
    datasets: dict[str, Any],
    trainer: CLCRTrainer,
    metrics: dict[str, float],
) -> dict[str, Any]:
    """What a reader needs to repeat the run, and what it measured."""
    source = data_args.dataset if data_args.data_file is None else Path(data_args.data_file).name
    settings = {
        "variant": model_args.ablation or "full",
        "parameters": sum(parameter.numel() for parameter in trainer.model.parameters()),
        "optimiser": str(getattr(args.optim, "value", args.optim)),
        "learning rate": args.learning_rate,
        "backbone learning rate": args.backbone_learning_rate or args.learning_rate,
        "weight decay": args.weight_decay,
        "batch size": args.train_batch_size * args.world_size * args.gradient_accumulation_steps,
        "epochs run": round(trainer.state.epoch or 0, 2),
        "seed": args.seed,
        "device": str(args.device),
        "processes": args.world_size,
    }
    return {
        "command": _command(),
        "seed": args.seed,
        "versions": {"python": platform.python_version(), **{name: version(name) for name in _VERSIONED}},
        "dataset": source,
        "generated": data_args.dataset == "talking_faces",
        "modalities": trainer.model.config.modalities,
        "problem_type": labels.problem_type,
        "num_examples": {name: len(rows) for name, rows in datasets.items()},
        "settings": settings,
        "model_arguments": asdict(model_args),
        "data_arguments": asdict(data_args),
        "metrics": metrics,
    }


def _command() -> str:
    """The command line of this process, with the program's path as seen from the working folder."""
    program = Path(sys.argv[0])
    name = ["clcr"] if program.name == "clcr" else ["python", os.path.relpath(program)]
    return shlex.join([*name, *sys.argv[1:]])


def _write_json(path: Path, content: dict[str, Any]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content, indent=2, default=_plain) + "\n", encoding="utf-8")


def _plain(value: Any) -> Any:
    if isinstance(value, np.generic | torch.Tensor):
        return value.item()
    return str(value)


def _parsed(text: str) -> Any:
    """A JSON value (number, true, null), or the text itself."""
    try:
        return json.loads(text)
    except json.JSONDecodeError:
        return text


__all__ = [
    "ABLATIONS",
    "ModelArguments",
    "RunArguments",
    "best_metric",
    "build_model",
    "build_processor",
    "build_trainer",
    "evaluate_model",
    "load_model",
    "main",
    "metrics_function",
    "parse_args",
    "run_sentiment",
    "train_tokenizer",
]
