"""What `training.py` trains on: one function to load any of the sources, and clips that are decoded once."""

import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from datasets import ClassLabel, Dataset, DatasetDict

from .data import load_manifest, load_mmsa, load_utterances
from .data.talking_faces import GENERATOR_VERSION, MARKER, generate_talking_faces
from .processing_clcr import CLCRProcessor

SOURCES = ("talking_faces", "mmsa", "manifest", "utterances")
CLIP_SOURCES = ("talking_faces", "manifest")
_FEATURES = "_features"


@dataclass
class DataArguments:
    """Which data to train on, and how clips are read."""

    dataset: str = field(
        default="talking_faces",
        metadata={
            "help": "talking_faces (generated clips), mmsa (--data_file x.pkl), manifest (--data_file, a table of "
            "clips or its folder), utterances (--data_file features.npz, dialogues).",
            "choices": list(SOURCES),
        },
    )
    dataset_dir: str | None = field(
        default=None,
        metadata={"help": "talking_faces: folder of the clips, made when absent. Default: a cache folder."},
    )
    data_file: str | None = field(default=None, metadata={"help": "The pickle, table, folder or npz to read."})
    num_train_clips: int = field(default=1000, metadata={"help": "talking_faces: clips to generate for training."})
    num_validation_clips: int = field(default=100, metadata={"help": "talking_faces: the same for validation."})
    num_test_clips: int = field(default=200, metadata={"help": "talking_faces: the same for test."})
    corpus_seed: int = field(default=0, metadata={"help": "talking_faces: seed of the generator."})
    label_column: str | None = field(default=None, metadata={"help": "manifest, utterances: name of the labels."})
    text_column: str | None = field(default=None, metadata={"help": "manifest: column of the transcripts."})
    media_column: str | None = field(default=None, metadata={"help": "manifest: column of the clips' files."})
    group_column: str | None = field(
        default=None, metadata={"help": "manifest: speaker or source video; validation is carved by whole groups."}
    )
    mmsa_text: str = field(
        default="text_bert",
        metadata={"help": "mmsa: text_bert (token ids) or text (embeddings).", "choices": ["text_bert", "text"]},
    )
    validation_fraction: float = field(
        default=0.1, metadata={"help": "Share of train to validate on where the data has no validation split."}
    )
    standardise: bool = field(default=True, metadata={"help": "utterances: scale features by train's mean and spread."})
    max_train_samples: int | None = field(default=None, metadata={"help": "Use the first so many only."})
    max_eval_samples: int | None = field(default=None, metadata={"help": "The same for validation."})
    max_test_samples: int | None = field(default=None, metadata={"help": "The same for test."})
    max_text_length: int = field(default=64, metadata={"help": "Tokens of a transcript that are read."})
    video_frames: int = field(default=10, metadata={"help": "Frames of a clip that are read, evenly spread."})
    image_size: int = field(default=48, metadata={"help": "Frames are scaled to this side (backbones from scratch)."})
    sampling_rate: int = field(default=16_000, metadata={"help": "Samples of sound a second (audio from scratch)."})
    max_audio_seconds: float | None = field(default=None, metadata={"help": "Sounds are cut after this long."})
    cache_gb: float = field(
        default=2.0, metadata={"help": "Memory for decoded clips in each process; those beyond are read every epoch."}
    )

    def __post_init__(self) -> None:
        if self.dataset not in SOURCES:
            raise ValueError(f"--dataset must be one of {', '.join(SOURCES)}, got {self.dataset!r}")
        if self.dataset != "talking_faces" and self.data_file is None:
            raise ValueError(f"--dataset {self.dataset} needs --data_file")

    @property
    def reads_clips(self) -> bool:
        """Whether the source gives media files and text rather than features."""
        return self.dataset in CLIP_SOURCES


@dataclass
class LabelKind:
    """What the labels of a data set are: a problem type of transformers, class names, one a clip or one a segment."""

    problem_type: str
    names: list[str] | None
    per_segment: bool

    @property
    def num_labels(self) -> int:
        """Outputs that a model needs."""
        return 1 if self.names is None else len(self.names)


def load_splits(args: DataArguments, modalities: list[str]) -> DatasetDict:
    """
    Train, validation and test of a source.

    Columns: `media` (path) and `text` for clips, `<modality>_features (T, D)` and `input_ids` for features; `label`, or
    `labels` where a sequence has one a step.

    Raises:
        DataFormatError: see the loaders in `clcr_hf.data`.
    """
    source = args.data_file or ""  # given for every source but the generated one: `DataArguments` sees to it
    if args.dataset == "talking_faces":
        splits = load_manifest(generated_corpus(args))
    elif args.dataset == "manifest":
        splits = load_manifest(
            source,
            media_column=args.media_column,
            text_column=args.text_column,
            label_column=args.label_column,
            group_column=args.group_column,
            validation_fraction=args.validation_fraction,
        )
    elif args.dataset == "mmsa":
        splits = load_mmsa(source, text=args.mmsa_text, modalities=modalities)
    else:
        splits = load_utterances(
            source,
            label=args.label_column or "label",
            modalities=modalities,
            validation_fraction=args.validation_fraction,
            standardise=args.standardise,
        )
    limits = {"train": args.max_train_samples, "validation": args.max_eval_samples, "test": args.max_test_samples}
    for name, limit in limits.items():
        if limit is not None and name in splits:
            splits[name] = splits[name].select(range(min(limit, len(splits[name]))))
    return splits


def generated_corpus(args: DataArguments) -> Path:
    """Folder of the generated clips. `dataset_dir` is taken as it is when it holds a corpus; what is absent is made,
    by default in a cache folder, kept between runs."""
    if args.dataset_dir is not None and (Path(args.dataset_dir) / MARKER).is_file():
        return Path(args.dataset_dir)
    sizes = (args.num_train_clips, args.num_validation_clips, args.num_test_clips)
    cache = Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "clcr_hf"
    name = "-".join(str(number) for number in (f"v{GENERATOR_VERSION}", args.corpus_seed, *sizes))
    return generate_talking_faces(args.dataset_dir or cache / f"talking_faces-{name}", args.corpus_seed, *sizes)


def label_kind(splits: DatasetDict) -> LabelKind:
    """
    Reads the kind of labels off the column's type: floats mean regression, classes one label; `labels` (a sequence)
    one class a segment.

    Raises:
        ValueError: no column of labels, or a float for each segment, which no head of ours learns.
    """
    train = splits["train"]
    if "label" in train.features:
        kind = train.features["label"]
        if isinstance(kind, ClassLabel):
            return LabelKind("single_label_classification", list(kind.names), False)
        return LabelKind("regression", None, False)
    if "labels" not in train.features:
        raise ValueError(f"the data hold no labels; their columns are {train.column_names}")
    found = {int(value) for split in splits.values() for row in split["labels"] for value in row if value != -100}
    if "float" in str(train.features["labels"].feature.dtype):
        raise ValueError("one float a segment cannot be learned; name an array of classes with --label_column")
    return LabelKind("single_label_classification", [str(value) for value in range(max(found) + 1)], True)


def feature_sizes(dataset: Dataset) -> dict[str, int]:
    """Width `D` of each modality's features in the columns `<modality>_features`."""
    names = [name for name in dataset.column_names if name.endswith(_FEATURES)]
    row = dataset.select_columns(names)[0] if names else {}
    return {name.removesuffix(_FEATURES): int(np.asarray(row[name]).shape[-1]) for name in names}


class ClipRows(torch.utils.data.Dataset):
    """
    Rows of clips and texts as the model's inputs, decoded when first asked for and then kept in memory.

    Args:
        rows: columns `media` (path) and/or `text`, and `label`.
        processor: makes the inputs; parts that it does not have are not read.
        max_text_length: tokens of a transcript that are kept.
        cache_gb: how much to keep; rows beyond are decoded every time.

    Each item is a dict of tensors without batch axis, and `label`.
    """

    def __init__(self, rows: Dataset, processor: CLCRProcessor, max_text_length: int, cache_gb: float):
        self.rows = rows
        self.processor = processor
        self.max_text_length = max_text_length
        self._kept: dict[int, dict[str, Any]] = {}
        self._room = cache_gb * 2**30

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int) -> dict[str, Any]:
        if index in self._kept:
            return self._kept[index]
        item = self._process(self.rows[index])
        size = sum(value.nbytes for value in item.values() if isinstance(value, torch.Tensor))
        if size <= self._room:
            self._room -= size
            self._kept[index] = item
        return item

    def _process(self, row: dict[str, Any]) -> dict[str, Any]:
        inputs: dict[str, Any] = {}
        if self.processor.tokenizer is not None:
            inputs |= {"text": [row.get("text")], "max_length": self.max_text_length}
        if self.processor.feature_extractor is not None or self.processor.image_processor is not None:
            inputs["media"] = [row.get("media")]
        batch = self.processor(**inputs, return_tensors="pt")
        return {**{key: value[0] for key, value in batch.items()}, "label": row["label"]}


def prepare(splits: DatasetDict, args: DataArguments, processor: CLCRProcessor) -> dict[str, Any]:
    """Each split as a data set whose rows `CLCRDataCollator` can batch."""
    if args.reads_clips:
        return {name: ClipRows(rows, processor, args.max_text_length, args.cache_gb) for name, rows in splits.items()}
    return {name: rows.with_format("numpy") for name, rows in splits.items()}


__all__ = [
    "CLIP_SOURCES",
    "SOURCES",
    "ClipRows",
    "DataArguments",
    "LabelKind",
    "feature_sizes",
    "generated_corpus",
    "label_kind",
    "load_splits",
    "prepare",
]
