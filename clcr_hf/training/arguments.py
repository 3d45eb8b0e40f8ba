"""The arguments of a training run: data, model and training, from words, recipes and defaults."""

import argparse
import json
import math
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import torch
import yaml

from ..checks import did_you_mean, refuse_unknown_settings
from ..configuration_clcr import CLCRConfig
from ..data.options import read_options
from ..data.registry import SOURCE_NAMES
from ..data.source import Source, find_source, recognise
from ..errors import in_one_line
from ..modalities import FILE_COLUMNS, STANDARD_MODALITIES
from .length import MIN_STEPS, UNSAID
from .parser import RunParser
from .trainer import CLCRTrainingArguments

# Of [`DataArguments`], those that must be positive.
_COUNTS = (
    *("num_train_clips", "num_validation_clips", "num_test_clips", "max_train_samples", "max_eval_samples"),
    *("max_test_samples", "max_text_length", "video_frames", "video_fps", "image_size", "sampling_rate"),
    "max_audio_seconds",
)
_OUR_COLUMNS = {"id", "label", "labels", "split", *FILE_COLUMNS}  # that nothing can be grouped by


@dataclass
class DataArguments:
    """
    Which data to train on, and how clips are read.

    Args:
        dataset_dir: Folder of the data set. talking_faces: made when absent; default: a cache folder.
        dataset_name: A data set by name: org/name on the Hub, a local folder that `datasets` can load, or videofolder,
            audiofolder or imagefolder with --dataset_dir.
        dataset_config_name: --dataset_name: which configuration.
        data_file: The pickle, table or npz to read.
        dataset_options: More arguments of the data set's loader (clcr_hf.data.load_...), with commas between them, e.g.
            'fold=2'; values may be JSON.
        class_names: Names of several labels (emotions) where the data hold numbers alone.
        num_train_clips: talking_faces: clips to generate for training.
        num_validation_clips: talking_faces: the same for validation.
        num_test_clips: talking_faces: the same for test.
        corpus_seed: talking_faces: seed of the generator.
        label_column: manifest, utterances: name of the labels.
        label_columns: manifest: columns of several scores a row (regression on all of them).
        missing_labels: manifest: a row without a label is an error, or left out.
        label_scale: sentiment: a score from negative to positive, measured by Acc-2, Acc-7 and F1; none: a number, by
            MAE, correlations and R2. Left out: as the data set declares, a table none.
        label_range: Lowest and highest score; left out: the data set's, or the training labels'.
        text_column: manifest: column of the transcripts.
        media_column: manifest: column of the clips' files.
        media_root: manifest, --dataset_name: a further folder in which files may lie. Given, no file may lie elsewhere
            than there and beneath the table; left out, those of a table of your own may.
        group_column: manifest, shards: speaker or source video; validation is carved by whole groups, and the linear
            model is chosen by them. Left out: by
            whole files.
        dialogue_column: manifest, shards: rows are utterances of these dialogues; each dialogue becomes one row.
        turn_column: manifest, shards: an utterance's place in its dialogue; default: row order.
        streaming: shards, --dataset_name: read rows where they lie, a few at a time, in place of a copy of all.
        mmsa_text: mmsa: text_bert (token ids of bert-base-uncased), text (embeddings) or raw (the transcripts, for any
            other text backbone; of shards too).
        verify: shards: compare the hash of every shard with what its writer recorded, before anything is read.
        validation_fraction: Share of train to validate on where the data has no validation split.
        skip_missing: Leave out rows whose files are absent, with a warning, in place of an error.
        standardise: utterances: scale features by train's mean and spread.
        metrics_by: Columns, such as speaker or gender, for whose groups every metric is given too, with the worst group
            and the gap to the best. Tables, and data sets by name, keep them.
        max_train_samples: Use the first so many only.
        max_eval_samples: The same for validation.
        max_test_samples: The same for test.
        max_text_length: Tokens of a transcript that are read.
        video_frames: Frames of a clip that are read, evenly spread.
        video_fps: Frames a second in place of --video_frames.
        face_crop: Cut frames to the speaker's face by this detector: dlib, or your own as module:function.
        image_size: Frames are scaled to this side (backbones from scratch).
        augment: Random crops and flips of the training frames.
        augment_features: Random crop and warp in time, scale, offset and noise of ready features in training, and
            modalities left out (modality_dropout 0.15). Left out: where one class a row is told from sequences of at
            least 8 steps and no text.
        compute_flow: Compute the clips' optical flow where the data hold none; cached.
        flow_cache_dir: Where computed flow is kept.
        sampling_rate: Samples of audio a second (audio from scratch).
        audio_preset: Read audio as the spectrogram of this benchmark's protocol, by an image backbone of one channel.
        max_audio_seconds: Audio is cut after this long.
        check_media: Open every clip before training; leave out and list those that do not open.
        strict_media: Stop at a clip that cannot be read.
        cache_gb: Memory for rows as they were read or decoded, in each process; those beyond are read every epoch.
    """

    dataset: str | None = field(
        default=None,
        metadata={
            "help": f"One of {', '.join(SOURCE_NAMES)}. Left out: found from --data_file (a table is manifest) or "
            "--dataset_dir where that is certain, else talking_faces (generated clips)."
        },
    )
    dataset_dir: str | None = None
    dataset_name: str | None = None
    dataset_config_name: str | None = None
    data_file: str | None = None
    dataset_options: str | None = None
    class_names: list[str] | None = None
    num_train_clips: int = 1000
    num_validation_clips: int = 100
    num_test_clips: int = 200
    corpus_seed: int = 0
    label_column: str | None = None
    label_columns: list[str] | None = None
    missing_labels: Literal["error", "drop"] = "error"
    label_scale: Literal["sentiment", "none"] | None = None
    label_range: list[float] | None = None
    text_column: str | None = None
    media_column: str | None = None
    media_root: str | None = None
    group_column: str | None = None
    dialogue_column: str | None = None
    turn_column: str | None = None
    streaming: bool = False
    mmsa_text: Literal["text_bert", "text", "raw"] = "text_bert"
    verify: bool = False
    validation_fraction: float = 0.1
    skip_missing: bool = False
    standardise: bool = True
    metrics_by: list[str] | None = None
    max_train_samples: int | None = None
    max_eval_samples: int | None = None
    max_test_samples: int | None = None
    max_text_length: int = 64
    video_frames: int = 10
    video_fps: float | None = None
    face_crop: str | None = None
    image_size: int = 48
    augment: bool = False
    augment_features: bool | None = None
    compute_flow: bool = False
    flow_cache_dir: str | None = None
    sampling_rate: int = 16_000
    audio_preset: Literal["cremad", "kinetics_sounds", "ave"] | None = None
    max_audio_seconds: float | None = None
    check_media: bool = True
    strict_media: bool = False
    cache_gb: float = 2.0

    def __post_init__(self) -> None:
        limits = self.label_range
        if limits is not None and (len(limits) != 2 or not limits[0] < limits[1]):
            raise ValueError(f"--label_range takes the lowest and the highest score, got {limits}")
        if self.data_file is not None and self.dataset_dir is not None:
            raise ValueError("give --data_file or --dataset_dir, not both")
        if self.dataset_name is not None and (self.dataset not in (None, "hub") or self.data_file is not None):
            raise ValueError("--dataset_name says which data set it is; leave out --dataset and --data_file")
        named = find_dataset(self.dataset, self.data_file, self.dataset_dir, self.dataset_name)
        folder = Path(self.dataset_dir or "")
        if named is None and self.dataset_dir is not None and folder.is_dir() and any(folder.iterdir()):
            raise ValueError(f"{self.dataset_dir}: what kind of data this is is not certain; say it with --dataset")
        self.dataset = named or "talking_faces"
        source = self.reader
        if self.data_file is not None and not source.is_file:
            raise ValueError(f"--dataset {self.dataset} does not use --data_file; its folder is given by --dataset_dir")
        if self.source is None and not source.generated:
            place = "--data_file (or --dataset_dir, the folder it lies in)" if source.is_file else "--dataset_dir"
            place = "--dataset_name" if source.by_name else place
            raise ValueError(f"--dataset {self.dataset} needs {place}")
        for name in _COUNTS:
            value = getattr(self, name)
            if value is not None and not 0 < value < math.inf:
                raise ValueError(f"--{name} must be positive, got {value}")
        used = used_arguments(self.dataset)
        unused = [name for name, usual in LOADER_ARGUMENTS.items() if name not in used and getattr(self, name) != usual]
        if unused:
            raise ValueError(f"--dataset {self.dataset} does not use {', '.join(f'--{name}' for name in unused)}")
        own = [name for name in self.metrics_by or () if name in _OUR_COLUMNS]
        if own:
            raise ValueError(f"--metrics_by {own[0]}: that is a row's name, label or input, and no group")
        if self.streaming and self.compute_flow:
            raise ValueError("--compute_flow keeps the flow of all rows; with --streaming have it in the shards")

    @property
    def reader(self) -> Source:
        """What reads the data set."""
        return find_source(str(self.dataset))

    @property
    def source(self) -> str | None:
        """The name, or else the file, or else the folder, that is read."""
        given = (self.dataset_name, self.data_file, self.dataset_dir)
        return next((place for place in given if place is not None), None)

    def options(self) -> dict[str, Any]:
        """`dataset_options` as arguments of the loader; ValueError where they are no `name=value` pairs."""
        return read_options(self.dataset_options, "--dataset_options")

    @property
    def groups(self) -> list[str]:
        """The columns that group rows, of which something is measured or by which rows are kept together."""
        together = [self.group_column] if self.group_column not in (None, *_OUR_COLUMNS) else []
        return [*dict.fromkeys([*(self.metrics_by or ()), *map(str, together)])]

    def loader_options(self) -> dict[str, Any]:
        """All that the loader is called with: the arguments that it uses, and `dataset_options`.

        Raises:
            ValueError: an option that is given as an argument too, with another value.
        """
        named, options = used_arguments(str(self.dataset)), self.options()
        for name, option in named.items():
            value = getattr(self, name)
            if option in options and value not in (LOADER_ARGUMENTS[name], options[option]):
                raise ValueError(f"--{name} and --dataset_options {option}={options[option]} say two things")
        kept, wanted = options.get("keep_columns", []), self.groups
        if wanted and "keep_columns" in self.reader.options and isinstance(kept, list):
            options["keep_columns"] = [*dict.fromkeys([*kept, *wanted])]
        general = {option: getattr(self, name) for name, option in named.items() if getattr(self, name) is not None}
        if self.dataset_name is not None and self.dataset_dir is not None:
            general["data_dir"] = self.dataset_dir
        return general | options


# What is passed on to the loader that has it, with the value that stands for nothing said.
LOADER_ARGUMENTS: dict[str, Any] = {
    name: DataArguments.__dataclass_fields__[name].default
    for name in (
        *("num_train_clips", "num_validation_clips", "num_test_clips", "corpus_seed", "mmsa_text", "standardise"),
        *("label_column", "label_columns", "missing_labels", "text_column", "media_column", "media_root"),
        *("group_column", "dialogue_column", "turn_column", "dataset_config_name", "streaming"),
        *("verify", "validation_fraction", "skip_missing"),
    )
}
PATH_ARGUMENTS = ("dataset_dir", "data_file", "flow_cache_dir", "media_root")


def used_arguments(dataset: str) -> dict[str, str]:
    """Those of `LOADER_ARGUMENTS` that a data set's loader uses, and what it calls them."""
    source = find_source(dataset)
    named = {name: source.arguments.get(name, name) for name in LOADER_ARGUMENTS}
    return {name: option for name, option in named.items() if option in source.options}


def find_dataset(
    dataset: str | None, data_file: str | None, dataset_dir: str | None, dataset_name: str | None = None
) -> str | None:
    """The data set that is meant: as named, or what the file or folder is; None where that is not certain.

    Raises:
        DataFormatError: a folder of two kinds.
    """
    if dataset is not None or dataset_name is not None:
        return dataset or "hub"
    if data_file is not None:
        return recognise(data_file) or "manifest"
    return None if dataset_dir is None else recognise(dataset_dir)


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
IMAGE_BACKBONES = ("small", "resnet18")
FEATURE_NORMS = ("standardise", "layer_norm", "none")
EVIDENCE = ("norm", "agreement")
_SMALL_WIDTH, _RESNET18_WIDTH = 64, 512


@dataclass
class ModelArguments:
    """
    Which model to train: from scratch (small), around pretrained backbones, or a saved CLCR.

    Args:
        model_name_or_path: Go on from this saved CLCR model.
        ignore_mismatched_sizes: Where the labels are not those of --model_name_or_path, build a new head for them.
        text_model_name_or_path: Pretrained text backbone and tokenizer, e.g. bert-base-uncased.
        vision_model_name_or_path: Pretrained image backbone and its processor, e.g. microsoft/resnet-18.
        audio_model_name_or_path: Pretrained audio backbone and its extractor, e.g. facebook/wav2vec2-base.
        flow_model_name_or_path: Image backbone with two input channels, for optical flow.
        freeze_backbones: Keep the pretrained backbones as they are.
        modalities: What the model reads: text, vision, audio, flow, or NAME where the data hold NAME_features; left
            out: all that the data hold.
        ablation: Train a variant of the paper's ablation study.
        hidden_size: Width of the fusion.
        image_backbone: What reads frames, flow and spectrograms where no pretrained backbone is named: a small residual
            network, or ResNet-18 tapped at its last stages.
        backbone_size: Width of the last layer of backbones from scratch; left out: 64, and 512 for resnet18.
        vocab_size: Most entries of a tokenizer trained from scratch.
        dropout: Dropout of the fusion.
        feature_norm: How ready-made features are scaled: standardise (by each column's mean and spread in the training
            split, kept with the model), layer_norm (within each step) or none.
        evidence: What makes a token worth exchanging: norm (the paper's) or agreement, which wants --pretrain_epochs.
        pretrain_epochs: Passes of the alignment stage, before training, over the training rows without their labels and
            those that --missing_labels drop leaves out.
        pretrain_learning_rate: Learning rate of that stage; left out: --learning_rate.
        config_overrides: More fields of CLCRConfig, e.g. 'num_levels=3,lambda_intra=0.1'.
    """

    model_name_or_path: str | None = None
    ignore_mismatched_sizes: bool = False
    text_model_name_or_path: str | None = None
    vision_model_name_or_path: str | None = None
    audio_model_name_or_path: str | None = None
    flow_model_name_or_path: str | None = None
    freeze_backbones: bool = False
    modalities: list[str] | None = None
    ablation: str | None = field(default=None, metadata={"choices": list(ABLATIONS)})
    hidden_size: int = 64
    image_backbone: str = field(default="small", metadata={"choices": list(IMAGE_BACKBONES)})
    backbone_size: int | None = None
    vocab_size: int = 2000
    dropout: float = 0.1
    feature_norm: str = field(default="standardise", metadata={"choices": list(FEATURE_NORMS)})
    evidence: str = field(default="norm", metadata={"choices": list(EVIDENCE)})
    pretrain_epochs: float = 0.0
    pretrain_learning_rate: float | None = None
    config_overrides: str | None = None

    def __post_init__(self) -> None:
        names = self.modalities
        if names is not None and (not names or len(set(names)) < len(names) or not all(map(str.isidentifier, names))):
            known = ", ".join(STANDARD_MODALITIES)
            raise ValueError(f"--modalities takes {known} and names of your own, each at most once, got {names}")
        if self.ablation is not None and self.ablation not in ABLATIONS:
            raise ValueError(f"--ablation must be one of {', '.join(ABLATIONS)}, got {self.ablation!r}")
        if self.image_backbone not in IMAGE_BACKBONES:
            known = ", ".join(IMAGE_BACKBONES)
            raise ValueError(f"--image_backbone must be one of {known}, got {self.image_backbone!r}")
        if not 0 <= self.pretrain_epochs < math.inf:
            raise ValueError(f"--pretrain_epochs must not be negative, got {self.pretrain_epochs}")
        rate = self.pretrain_learning_rate
        if rate is not None and not 0 <= rate < math.inf:
            raise ValueError(f"--pretrain_learning_rate must not be negative, got {rate}")
        refuse_unknown_settings(CLCRConfig, self._overrides(), "--config_overrides: ")

    def _overrides(self) -> dict[str, Any]:
        return read_options(self.config_overrides, "--config_overrides")

    @property
    def backbones(self) -> dict[str, str]:
        """Pretrained backbones named for a modality in use, by modality; an empty name is none."""
        names = STANDARD_MODALITIES if self.modalities is None else self.modalities
        named = {name: getattr(self, f"{name}_model_name_or_path", None) for name in names}
        return {name: source for name, source in named.items() if source}

    def fusion_fields(self) -> dict[str, Any]:
        """Fields of `CLCRConfig` that these arguments set, the ablation's and the overrides among them."""
        known: dict[str, Any] = {"hidden_size": self.hidden_size, "dropout": self.dropout, "evidence": self.evidence}
        known |= ABLATIONS.get(self.ablation or "", {})
        return known | self._overrides()

    def width(self, kind: str) -> int:
        """Width of the last layer of a backbone from scratch; `kind` is `"small"` or `"resnet18"`."""
        return self.backbone_size or (_RESNET18_WIDTH if kind == "resnet18" else _SMALL_WIDTH)


_RECIPES = (".json", ".yaml", ".yml")
_LENGTHS = ("num_train_epochs", "max_steps")
_KEPT = ("load_best_model_at_end", "metric_for_best_model", "early_stopping_patience")  # each asks for the best state


@dataclass
class RunArguments(CLCRTrainingArguments):
    """
    `CLCRTrainingArguments` with defaults that train the generated corpus in two to three minutes on two cores.

    Args:
        output_dir: Where checkpoints and the model go.
        do_train: Train.
        do_eval: Measure on validation at the end.
        do_predict: Measure on test at the end.
        weight_decay: Weight decay of AdamW (the paper's, for SGD: 1e-4).
        num_train_epochs: Passes over the training data.
        min_steps: Least number of steps; more passes are made over few rows. Left out: 600, or none where
            --num_train_epochs or --max_steps is given.
        per_device_train_batch_size: Examples a step and device.
        per_device_eval_batch_size: The same in evaluation.
        lr_scheduler_type: How the learning rate falls.
        warmup_steps: Steps of rising learning rate; below 1, a share.
        eval_strategy: When to measure on validation.
        save_strategy: When to write a checkpoint.
        save_total_limit: Checkpoints kept, the best among them.
        resume_from_checkpoint: auto: go on from the newest whole checkpoint of --output_dir, or start anew where there
            is none; last: the same, an error where there is none; or the path of a checkpoint.
        load_best_model_at_end: Keep the epoch best on validation.
        metric_for_best_model: auto: mae for scores, accuracy for classes, map for several labels.
        logging_steps: Steps between two lines of the log.
        dataloader_pin_memory: Pin the batches' memory; of use with a GPU only.
        early_stopping_patience: Stop after so many measurements without improvement; 0 never.
        small_validation: With fewer validation rows than this the last state is kept, not the best measured one. Left
            out: 500 for classes and 100 for scores, or none where --load_best_model_at_end, --metric_for_best_model or
            --early_stopping_patience is given.
        baselines: At the end, measure a constant and a linear model on statistics of the features beside the model.
        linear_evidence: After training, give a linear model on mean, or mean, spread and maximum of the features over
            time (ridge, logistic regression, discriminants: the best inside the training rows) the share of the answer
            at which validation is answered best. For labels of clips, where a modality is ready-made features.
        calibrate: After training, find on validation the temperature of probabilities, the thresholds of several
            labels and the intervals of scores, and keep them with the model.
    """

    output_dir: str = "runs/talking_faces"
    do_train: bool = True
    do_eval: bool = True
    do_predict: bool = True
    weight_decay: float = 0.05
    num_train_epochs: float = 20
    min_steps: int | None = None
    per_device_train_batch_size: int = 16
    per_device_eval_batch_size: int = 32
    lr_scheduler_type: str = "cosine"
    warmup_steps: float = 0.1
    eval_strategy: str = "epoch"
    save_strategy: str = "epoch"
    save_total_limit: int | None = 2
    load_best_model_at_end: bool = True
    metric_for_best_model: str | None = "auto"
    logging_steps: float = 10
    dataloader_pin_memory: bool = field(default_factory=torch.cuda.is_available)
    early_stopping_patience: int = 8
    small_validation: int | None = None
    baselines: bool = True
    linear_evidence: bool = True
    calibrate: bool = True

    def __post_init__(self) -> None:
        if not self.dataloader_num_workers:  # a recipe's workers live on; without any, PyTorch takes that for a fault
            self.dataloader_persistent_workers = False
        super().__post_init__()


def parse_args(
    argv: Sequence[str] | None = None, **defaults: Any
) -> tuple[ModelArguments, DataArguments, RunArguments]:
    """
    The three groups of arguments.

    Args:
        argv: the process's own by default. Its first word may be a recipe, a YAML or JSON file of arguments by name;
            what follows on the command line goes before the recipe.
        defaults: values where neither says anything, by name. With a `dataset` among them they are that data set's: a
            run on another one leaves them.

    Raises:
        ValueError: a recipe that cannot be read or holds a name that is no argument; an unknown argument.
    """
    parser = RunParser((ModelArguments, DataArguments, RunArguments), prog=None if argv is None else "clcr train")
    words = list(sys.argv[1:] if argv is None else argv)
    recipe = read_recipe(words.pop(0)) if words and words[0].endswith(_RECIPES) else {}
    known = {action.dest for action in parser._actions}
    unknown = [name for name in recipe if name not in known]
    if unknown:
        hint = did_you_mean(unknown[0], known)
        raise ValueError(f"the recipe holds {', '.join(map(str, unknown))}, which is no argument{hint}")
    asked = named_data(words)
    chosen = find_dataset(*(value or recipe.get(name) for name, value in asked.items()))
    if chosen is not None and chosen != defaults.get("dataset", chosen):
        defaults = {}
    chosen = chosen or defaults.get("dataset")
    defaults = ({} if chosen is None else {"output_dir": f"runs/{chosen}"}) | defaults
    # What is None stands for the default, which a word on the command line cannot say.
    given = [word for name, value in (defaults | recipe).items() if value is not None for word in as_words(name, value)]
    model_args, data_args, run_args = parser.parse_args_into_dataclasses(args=[*given, *words])
    said = {name for name, value in _named([*given, *words], _LENGTHS + _KEPT).items() if value is not None}
    if run_args.min_steps is None and not said & {*_LENGTHS}:
        run_args.min_steps = MIN_STEPS
    if run_args.small_validation is None and not said & {*_KEPT}:
        run_args.small_validation = UNSAID
    return model_args, data_args, run_args


def named_data(words: Sequence[str]) -> dict[str, str | None]:
    """`dataset`, `data_file`, `dataset_dir` and `dataset_name` among words of a command line; None for what they do not
    say."""
    return _named(words, ("dataset", "data_file", "dataset_dir", "dataset_name"))


def _named(words: Sequence[str], names: Sequence[str]) -> dict[str, str | None]:
    """The values of some arguments among words of a command line, empty where none follows; None for what they do not
    say."""
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    for name in names:
        parser.add_argument(f"--{name}", *([f"--{name.replace('_', '-')}"] if "_" in name else []), nargs="?", const="")
    return vars(parser.parse_known_args(list(words))[0])


def read_recipe(path: str) -> dict[str, Any]:
    """
    Arguments by name from a YAML or JSON file.

    Raises:
        ValueError: no such file, not YAML or JSON, or not a mapping of names to values.
    """
    try:
        text = Path(path).read_text(encoding="utf-8")
        content = json.loads(text) if path.endswith(".json") else yaml.safe_load(text)
    except (OSError, ValueError, yaml.YAMLError) as error:
        raise ValueError(f"the recipe {path} cannot be read: {in_one_line(error)}") from error
    if not isinstance(content, dict):
        raise ValueError(f"the recipe {path} must hold argument names and values, one a line, as in `seed: 1`")
    return content


def as_words(name: str, value: Any) -> list[str]:
    """An argument as the command line has it."""
    if isinstance(value, list):
        return [f"--{name}", *map(str, value)]
    return [f"--{name}={json.dumps(value) if isinstance(value, dict) else value}"]
