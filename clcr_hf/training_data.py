"""What `training.py` trains on: one function for each `--dataset`, and rows turned into the model's inputs."""

import inspect
import io
import json
import os
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from datasets import ClassLabel, Dataset, DatasetDict, List
from PIL import Image

from .augmentation import FrameAugmentation
from .configuration_clcr import STANDARD_MODALITIES
from .data import load_manifest, load_mmsa, load_utterances
from .data.columns import logger
from .data.talking_faces import GENERATOR_VERSION, MARKER, generate_talking_faces
from .flow import add_flow, load_flow
from .media import MediaError, VideoClip, load_audio, load_media, load_video
from .processing_clcr import CLCRProcessor

# Columns that a modality may be read from, the one that says most about it first.
_RAW_COLUMNS = {
    "text": ("text",),
    "vision": ("images", "video", "media"),
    "audio": ("audio", "media"),
    "flow": ("flow",),
}
_FILE_COLUMNS = ("media", "video", "audio")
_TOKEN_COLUMNS = ("input_ids", "attention_mask", "token_type_ids")
_LABEL_COLUMNS = ("label", "labels")
_FEATURES = "_features"
_CHECK_SECONDS = 0.04  # of a clip that are decoded to see whether it opens
_CHECK_THREADS = 8
_NAMED = 10  # clips in a warning


@dataclass
class DataArguments:
    """Which data to train on, and how clips are read."""

    dataset: str = field(
        default="talking_faces",
        metadata={
            "help": "talking_faces (generated clips); from --data_file: manifest (a table of clips), mmsa (a pickle), "
            "utterances (an npz of dialogues); from --dataset_dir: csd (CMU-MultimodalSDK), cremad, kinetics_sounds, "
            "ave, ave_h5, ucf101, shards (what `clcr extract` and `clcr convert` write)."
        },
    )
    dataset_dir: str | None = field(
        default=None,
        metadata={"help": "Folder of the data set. talking_faces: made when absent; default: a cache folder."},
    )
    data_file: str | None = field(default=None, metadata={"help": "The pickle, table or npz to read."})
    dataset_options: str | None = field(
        default=None,
        metadata={"help": "More arguments of the data set's loader (clcr_hf.data.load_...), e.g. 'fold=2'."},
    )
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
    skip_missing: bool = field(
        default=False, metadata={"help": "Leave out rows whose files are absent, with a warning, in place of an error."}
    )
    standardise: bool = field(default=True, metadata={"help": "utterances: scale features by train's mean and spread."})
    max_train_samples: int | None = field(default=None, metadata={"help": "Use the first so many only."})
    max_eval_samples: int | None = field(default=None, metadata={"help": "The same for validation."})
    max_test_samples: int | None = field(default=None, metadata={"help": "The same for test."})
    max_text_length: int = field(default=64, metadata={"help": "Tokens of a transcript that are read."})
    video_frames: int = field(default=10, metadata={"help": "Frames of a clip that are read, evenly spread."})
    video_fps: float | None = field(default=None, metadata={"help": "Frames a second in place of --video_frames."})
    image_size: int = field(default=48, metadata={"help": "Frames are scaled to this side (backbones from scratch)."})
    augment: bool = field(default=False, metadata={"help": "Random crops and flips of the training frames."})
    compute_flow: bool = field(
        default=False, metadata={"help": "Compute the clips' optical flow where the data hold none; cached."}
    )
    flow_cache_dir: str | None = field(default=None, metadata={"help": "Where computed flow is kept."})
    sampling_rate: int = field(default=16_000, metadata={"help": "Samples of sound a second (audio from scratch)."})
    audio_preset: str | None = field(
        default=None,
        metadata={
            "help": "Read sound as the spectrogram of this benchmark's protocol, by an image backbone of one channel.",
            "choices": ["cremad", "kinetics_sounds", "ave"],
        },
    )
    max_audio_seconds: float | None = field(default=None, metadata={"help": "Sounds are cut after this long."})
    check_media: bool = field(
        default=True, metadata={"help": "Open every clip before training; leave out and list those that do not open."}
    )
    strict_media: bool = field(default=False, metadata={"help": "Stop at a clip that cannot be read."})
    cache_gb: float = field(
        default=2.0, metadata={"help": "Memory for decoded clips in each process; those beyond are read every epoch."}
    )

    def __post_init__(self) -> None:
        if self.dataset not in SOURCES:
            raise ValueError(f"--dataset must be one of {', '.join(SOURCES)}, got {self.dataset!r}")
        if self.dataset in _NEED_FILE and self.source is None:
            raise ValueError(f"--dataset {self.dataset} needs --data_file (or --dataset_dir, the folder it lies in)")
        if self.dataset not in (*_NEED_FILE, "talking_faces") and self.dataset_dir is None:
            raise ValueError(f"--dataset {self.dataset} needs --dataset_dir, the folder of the data set")

    @property
    def source(self) -> str | None:
        """The file to read, or else the folder."""
        return self.data_file if self.data_file is not None else self.dataset_dir

    def options(self) -> dict[str, Any]:
        """`dataset_options` as arguments of the loader; ValueError where they are no `name=value` pairs."""
        found = {}
        for pair in filter(None, (self.dataset_options or "").split(",")):
            name, separator, value = pair.partition("=")
            if not separator:
                raise ValueError(f"--dataset_options wants name=value pairs with commas between them, got {pair!r}")
            try:
                found[name.strip()] = json.loads(value)
            except json.JSONDecodeError:
                found[name.strip()] = value.strip()
        return found


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


@dataclass
class LoadedData:
    """
    A data set as its loader gave it.

    Args:
        splits: train, validation and test; columns as the loaders in `clcr_hf.data` state them.
        title: what people call it, for the model card.
        label_names: names of the outputs of multi-label data, whose column cannot hold them.
        num_segments: labels of a clip where each has equally many segments of equal length; None: one a time step.
        generated: whether the clips were drawn by this package.
    """

    splits: DatasetDict
    title: str
    label_names: Sequence[str] | None = None
    num_segments: int | None = None
    generated: bool = False

    @property
    def labels(self) -> LabelKind:
        """The kind of labels; ValueError as in [`label_kind`]."""
        return label_kind(self.splits, self.label_names)


# -- sources --------------------------------------------------------------------------------------------------------


def load_data(args: DataArguments, modalities: Sequence[str] | None = None) -> LoadedData:
    """
    The data set that the arguments name.

    Args:
        modalities: those wanted, so that others need not be loaded; None for all.

    Raises:
        DataFormatError: see the loaders in `clcr_hf.data`.
        ValueError: an option that the loader does not have.
    """
    data = SOURCES[args.dataset](args, modalities)
    if args.compute_flow and (modalities is None or "flow" in modalities):
        cache = args.flow_cache_dir or _cache_folder() / "flow"
        workers = os.cpu_count() or 1
        data.splits = add_flow(
            data.splits, cache, num_workers=workers, num_frames=args.video_frames, size=args.image_size
        )
    splits = data.splits
    limits = {"train": args.max_train_samples, "validation": args.max_eval_samples, "test": args.max_test_samples}
    for name, limit in limits.items():
        if limit is not None and name in splits:
            splits[name] = splits[name].select(range(min(limit, len(splits[name]))))
    return data


def _call(load: Callable[..., DatasetDict], args: DataArguments, *positional: Any, **named: Any) -> DatasetDict:
    """`load` with the general options that it takes and those that the user names."""
    known = inspect.signature(load).parameters
    general = {"validation_fraction": args.validation_fraction, "skip_missing": args.skip_missing}
    options = args.options()
    unknown = [name for name in options if name not in known or known[name].kind is not inspect.Parameter.KEYWORD_ONLY]
    if unknown:
        takes = [name for name, value in known.items() if value.kind is inspect.Parameter.KEYWORD_ONLY]
        raise ValueError(f"--dataset_options: {args.dataset} has no option {unknown[0]!r}; it takes {', '.join(takes)}")
    return load(*positional, **{k: v for k, v in general.items() if k in known}, **named | options)


def _talking_faces(args: DataArguments, modalities: Sequence[str] | None) -> LoadedData:
    return LoadedData(load_manifest(generated_corpus(args)), "talking faces (generated)", generated=True)


def generated_corpus(args: DataArguments) -> Path:
    """Folder of the generated clips. `dataset_dir` is taken as it is when it holds a corpus; what is absent is made,
    by default in a cache folder, kept between runs."""
    if args.dataset_dir is not None and (Path(args.dataset_dir) / MARKER).is_file():
        return Path(args.dataset_dir)
    sizes = (args.num_train_clips, args.num_validation_clips, args.num_test_clips)
    name = "-".join(str(number) for number in (f"v{GENERATOR_VERSION}", args.corpus_seed, *sizes))
    folder = args.dataset_dir or _cache_folder() / f"talking_faces-{name}"
    return generate_talking_faces(folder, args.corpus_seed, *sizes)


def _cache_folder() -> Path:
    return Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "clcr_hf"


def _manifest(args: DataArguments, modalities: Sequence[str] | None) -> LoadedData:
    splits = _call(
        load_manifest,
        args,
        args.source,
        media_column=args.media_column,
        text_column=args.text_column,
        label_column=args.label_column,
        group_column=args.group_column,
    )
    return LoadedData(splits, Path(args.source or "").name)


def _mmsa(args: DataArguments, modalities: Sequence[str] | None) -> LoadedData:
    path = _first_file(args.source or "", ("aligned_50.pkl", "Processed/aligned_50.pkl", "unaligned_50.pkl"))
    return LoadedData(_call(load_mmsa, args, path, text=args.mmsa_text, **_wanted(modalities)), path.name)


def _wanted(modalities: Sequence[str] | None) -> dict[str, Any]:
    """The argument `modalities` of a loader, or none where all are wanted."""
    return {} if modalities is None else {"modalities": list(modalities)}


def _first_file(source: str, names: Iterable[str]) -> Path:
    """`source` itself, or the first of `names` that lies in it where it is a folder."""
    path = Path(source)
    return next((path / name for name in names if (path / name).is_file()), path) if path.is_dir() else path


def _utterances(args: DataArguments, modalities: Sequence[str] | None) -> LoadedData:
    splits = _call(
        load_utterances,
        args,
        args.source,
        label=args.label_column or "label",
        modalities=modalities,
        standardise=args.standardise,
    )
    return LoadedData(splits, Path(args.source or "").name)


def _csd(args: DataArguments, modalities: Sequence[str] | None) -> LoadedData:
    from .data.csd import MOSEI_EMOTIONS, load_csd

    splits = _call(load_csd, args, args.dataset_dir, **_wanted(modalities))
    emotions = _is_multi_label(splits)
    title = "CMU-MOSEI emotions" if emotions else "CMU-MultimodalSDK sentiment"
    return LoadedData(splits, title, label_names=MOSEI_EMOTIONS if emotions else None)


def _cremad(args: DataArguments, modalities: Sequence[str] | None) -> LoadedData:
    from .data.cremad import load_cremad

    return LoadedData(_call(load_cremad, args, args.dataset_dir), "CREMA-D")


def _kinetics_sounds(args: DataArguments, modalities: Sequence[str] | None) -> LoadedData:
    from .data.kinetics_sounds import load_kinetics_sounds

    return LoadedData(_call(load_kinetics_sounds, args, args.dataset_dir), "Kinetics-Sounds")


def _ave(args: DataArguments, modalities: Sequence[str] | None) -> LoadedData:
    from .data.ave import NUM_SEGMENTS, load_ave

    return LoadedData(_call(load_ave, args, args.dataset_dir), "AVE", num_segments=NUM_SEGMENTS)


def _ave_h5(args: DataArguments, modalities: Sequence[str] | None) -> LoadedData:
    from .data.ave import NUM_SEGMENTS, load_ave_h5

    return LoadedData(_call(load_ave_h5, args, args.dataset_dir), "AVE features", num_segments=NUM_SEGMENTS)


def _ucf101(args: DataArguments, modalities: Sequence[str] | None) -> LoadedData:
    from .data.ucf101 import load_ucf101

    fold = args.options().get("fold", 1)
    return LoadedData(_call(load_ucf101, args, args.dataset_dir), f"UCF101, split {fold}")


def _shards(args: DataArguments, modalities: Sequence[str] | None) -> LoadedData:
    from .data.shards import load_shards

    splits = _call(load_shards, args, args.dataset_dir)
    lengths = {len(row) for part in splits.values() if "labels" in part.column_names for row in part["labels"]}
    segments = lengths.pop() if len(lengths) == 1 else None
    return LoadedData(splits, Path(args.dataset_dir or "").resolve().name, num_segments=segments)


SOURCES: dict[str, Callable[[DataArguments, Sequence[str] | None], LoadedData]] = {
    "talking_faces": _talking_faces,
    "manifest": _manifest,
    "mmsa": _mmsa,
    "utterances": _utterances,
    "csd": _csd,
    "cremad": _cremad,
    "kinetics_sounds": _kinetics_sounds,
    "ave": _ave,
    "ave_h5": _ave_h5,
    "ucf101": _ucf101,
    "shards": _shards,
}
_NEED_FILE = ("manifest", "mmsa", "utterances")


# -- what the columns hold ------------------------------------------------------------------------------------------


def label_kind(splits: DatasetDict, names: Sequence[str] | None = None) -> LabelKind:
    """
    Reads the kind of labels off the column's type: floats mean regression, classes one label, lists of floats several
    labels; `labels` (a sequence) one class a segment.

    Args:
        names: names of several labels; their numbers when left out.

    Raises:
        ValueError: no column of labels, or a float for each segment, which no head of ours learns.
    """
    train = next(iter(splits.values()))
    if "label" in train.features:
        kind = train.features["label"]
        if isinstance(kind, ClassLabel):
            return LabelKind("single_label_classification", list(kind.names), False)
        if _is_multi_label(splits):
            count = len(train["label"][0])
            return LabelKind("multi_label_classification", list(names or map(str, range(count))), False)
        return LabelKind("regression", None, False)
    if "labels" not in train.features:
        raise ValueError(f"the data hold no labels; their columns are {train.column_names}")
    kind = train.features["labels"].feature
    if isinstance(kind, ClassLabel):
        return LabelKind("single_label_classification", list(kind.names), True)
    if "float" in str(kind.dtype):
        raise ValueError("one float a segment cannot be learned; name an array of classes with --label_column")
    found = {int(value) for split in splits.values() for row in split["labels"] for value in row if value != -100}
    return LabelKind("single_label_classification", [str(value) for value in range(max(found) + 1)], True)


def _is_multi_label(splits: DatasetDict) -> bool:
    return isinstance(next(iter(splits.values())).features.get("label"), List)


def modality_columns(
    available: Collection[str], modalities: Sequence[str] | None = None, raw: Collection[str] = ()
) -> dict[str, str]:
    """
    The column that each modality is read from.

    Ready features go first, then token ids, then raw text and media; `images` before `video` before `media`.

    Args:
        available: columns of the data.
        modalities: those wanted; None for all that the data hold.
        raw: modalities with a backbone, for which token ids and raw columns go before features.

    Raises:
        ValueError: a wanted modality without a column, or none at all.
    """
    found = {}
    for name in STANDARD_MODALITIES if modalities is None else modalities:
        ready, rest = [name + _FEATURES], ["input_ids"] * (name == "text") + list(_RAW_COLUMNS[name])
        choices = rest + ready if name in raw else ready + rest
        column = next((column for column in choices if column in available), None)
        if column is not None:
            found[name] = column
        elif modalities is not None:
            raise ValueError(
                f"the data have no column for {name} ({', '.join(choices)}): leave {name} out of --modalities; "
                f"they have {', '.join(sorted(available))}"
            )
    if not found:
        raise ValueError(f"no column of the data holds a modality; they have {', '.join(sorted(available))}")
    return found


def filled_columns(splits: DatasetDict) -> list[str]:
    """Columns of the first split of which some row is not None."""
    rows = next(iter(splits.values()))
    return [name for name in rows.column_names if rows.data.column(name).null_count < len(rows.data)]


def is_raw(column: str) -> bool:
    """Whether a column holds text or files, which a processor has to read, rather than numbers."""
    return not column.endswith(_FEATURES) and column != "input_ids"


def feature_shapes(dataset: Dataset) -> dict[str, tuple[int, ...]]:
    """
    Shape of each modality's features in the columns `<modality>_features`: `(T, D)` or `(L, T, D)`, of the first row
    that has any; a modality that no row has is left out.
    """
    shapes = {}
    for name in (name for name in dataset.column_names if name.endswith(_FEATURES)):
        rows = dataset.select_columns([name])
        first = next((np.asarray(row[name]) for row in rows if row[name] is not None and len(row[name])), None)
        if first is not None:
            shapes[name.removesuffix(_FEATURES)] = first.shape
    return shapes


# -- rows as inputs -------------------------------------------------------------------------------------------------


class ClipRows(torch.utils.data.Dataset):
    """
    Rows as the model's inputs; files are decoded when first asked for and then kept in memory.

    A file that cannot be read counts as a modality that is missing from its row, and is named in a warning. In
    training, a row with nothing left is stood in for by the next one that has something; in evaluation it stays, and
    counts.

    Args:
        rows: the columns that `columns` names, and `label` or `labels`.
        columns: the column of each modality, see [`modality_columns`].
        processor: makes inputs of raw columns.
        max_text_length: tokens of a transcript that are kept.
        cache_gb: how much to keep; rows beyond are decoded every time.
        augment: crops and flips frames and flow afresh each time a row is asked for. Then the decoded frames are
            kept, not the inputs made of them.
        flow_size: flow is scaled to this side (its vectors stay pixels of the clip); None leaves it.
        training: whether rows with nothing to read are stood in for.
        strict: raise on a file that cannot be read.

    Each item is a dict of tensors and arrays without batch axis, and `label` or `labels`.
    """

    def __init__(
        self,
        rows: Dataset,
        columns: Mapping[str, str],
        processor: CLCRProcessor,
        *,
        max_text_length: int = 64,
        cache_gb: float = 0.0,
        augment: FrameAugmentation | None = None,
        flow_size: int | None = None,
        training: bool = False,
        strict: bool = False,
    ):
        ready = [name for name in rows.column_names if name.endswith((_FEATURES, "_attention_mask"))]
        self.rows = rows.with_format("numpy", columns=ready, output_all_columns=True)
        self.columns = dict(columns)
        self.processor = processor
        self.max_text_length = max_text_length
        self.augment = augment
        self.flow_size = flow_size
        self.training = training
        self.strict = strict
        self.unreadable: set[str] = set()
        self._kept: dict[int, tuple[dict[str, Any], dict[str, np.ndarray]]] = {}
        self._room = cache_gb * 2**30

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int) -> dict[str, Any]:
        item = self._item(index)
        for step in range(1, len(self) if self.training else 1):
            if _holds_something(item):
                break
            item = self._item((index + step) % len(self))
        return item

    def _item(self, index: int) -> dict[str, Any]:
        kept = self._kept.get(index)
        if kept is None:
            kept = self._read(self.rows[index])
            size = sum(getattr(value, "nbytes", 0) for part in kept for value in part.values())
            if size <= self._room:
                self._room -= size
                self._kept[index] = kept
        item, changing = kept
        if changing and self.augment is not None:
            item = {**item, **self._encode({name: [value] for name, value in self._changed(**changing).items()})}
        return item

    def _read(self, row: dict[str, Any]) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
        """Inputs of a row that never change, and its frames and flow where they are augmented."""
        raw = self._open(row)
        changing = {}
        if self.augment is not None:
            changing = {name: raw.pop(name)[0] for name in ("videos", "flow") if raw.get(name, [None])[0] is not None}
        elif "flow" in raw:
            raw["flow"] = [_resized(raw["flow"][0], self.flow_size)]
        limit = {"max_length": self.max_text_length} if "text" in raw else {}
        item = {name: row[name] for name in _LABEL_COLUMNS if row.get(name) is not None}
        for name, column in self.columns.items():
            if not is_raw(column):
                names = _TOKEN_COLUMNS if column == "input_ids" else (column, f"{name}_attention_mask")
                item |= {key: row[key] for key in names if row.get(key) is not None}
        return item | (self._encode({**raw, **limit}) if raw else {}), changing

    def _changed(self, videos: np.ndarray | None = None, flow: np.ndarray | None = None) -> dict[str, np.ndarray]:
        """Frames and flow under one random crop and flip; drawn from torch's generator, which workers seed apart."""
        assert self.augment is not None
        rng = np.random.default_rng(int(torch.randint(2**62, ())))
        if videos is not None and flow is not None:
            videos, flow = self.augment.augment_pair(videos, flow, rng)
        elif videos is not None:
            videos = self.augment.augment(videos, rng)
        elif flow is not None:
            flow = self.augment.augment_flow(flow, rng)
        changed = {"videos": videos, "flow": None if flow is None else _resized(flow, self.flow_size)}
        return {name: value for name, value in changed.items() if value is not None}

    def _encode(self, inputs: dict[str, Any]) -> dict[str, Any]:
        return {key: value[0] for key, value in self.processor(**inputs, return_tensors="pt").items()}

    def _open(self, row: dict[str, Any]) -> dict[str, list[Any]]:
        """A row's text, frames, sound and flow as arguments of the processor; a batch of one, None where missing."""
        opened: dict[str, list[Any]] = {}
        columns = {name: column for name, column in self.columns.items() if is_raw(column)}
        if "text" in columns:
            opened["text"] = [row.get("text")]
        if columns.get("vision") == columns.get("audio") == "media":
            frames, sound = self._try(row, "media", self._clip) or (None, None)
            return opened | {"videos": [frames], "audio": [sound]} | self._flow(row)
        if "vision" in columns:
            read = self._pictures if columns["vision"] == "images" else self._frames
            opened["videos"] = [self._try(row, columns["vision"], read)]
        if "audio" in columns:
            opened["audio"] = [self._try(row, columns["audio"], self._sound)]
        return opened | self._flow(row)

    def _try(self, row: dict[str, Any], column: str, read: Callable[[Any], Any]) -> Any:
        """What `read` makes of a column; None where the row has nothing there, or nothing readable."""
        value = row.get(column)
        if not value:
            return None
        try:
            return read(value)
        except MediaError as error:
            if self.strict:
                raise
            name = str(row.get("id", error))
            if name not in self.unreadable:
                logger.warning("clip %s cannot be read and counts as missing: %s", name, error)
            self.unreadable.add(name)
            return None

    def _clip(self, value: Any) -> tuple[np.ndarray | None, dict[str, Any] | None]:
        rate = self.processor.feature_extractor.sampling_rate
        clip = load_media(_source(value), sampling_rate=rate, **self._sampling())
        sound = None if clip.audio is None else {"array": clip.audio, "sampling_rate": rate}
        return None if clip.video is None else _distinct(clip.video), sound

    def _frames(self, value: Any) -> np.ndarray:
        return _distinct(load_video(_source(value), **self._sampling()))

    def _pictures(self, value: Any) -> np.ndarray:
        return np.stack([_picture(value[index]) for index in _even(len(value), self.processor.video_num_frames)])

    def _sound(self, value: Any) -> dict[str, Any]:
        rate = self.processor.feature_extractor.sampling_rate
        wave = load_audio(_source(value), sampling_rate=rate, end=self.processor.max_audio_seconds)
        return {"array": wave, "sampling_rate": rate}

    def _flow(self, row: dict[str, Any]) -> dict[str, list[Any]]:
        """Optical flow `(F, 2, H, W)`, thinned as frames are; nothing where the row has none."""
        flow = self._try(row, "flow", load_flow) if "flow" in self.columns else None
        return {} if flow is None else {"flow": [flow[_even(len(flow), self.processor.video_num_frames)]]}

    def _sampling(self) -> dict[str, Any]:
        fps = self.processor.video_fps
        return {"num_frames": self.processor.video_num_frames} if fps is None else {"fps": fps}


def _source(value: Any) -> Any:
    """Bytes or path of an undecoded media column; the path itself where the column holds plain strings."""
    if not isinstance(value, Mapping):
        return value
    return value["bytes"] if value.get("bytes") is not None else value["path"]


def _distinct(clip: VideoClip) -> np.ndarray:
    """Frames without the repeats of a clip that has fewer than were asked for."""
    return clip.frames[np.unique(clip.timestamps, return_index=True)[1]]


def _picture(value: Any) -> np.ndarray:
    """An undecoded image as `(H, W, 3)` uint8; MediaError where it is none."""
    source = _source(value)
    try:
        with Image.open(io.BytesIO(source) if isinstance(source, bytes) else source) as picture:
            return np.asarray(picture.convert("RGB"))
    except (OSError, ValueError, Image.DecompressionBombError) as error:
        raise MediaError(f"an image cannot be read: {error}") from error


def _even(total: int, wanted: int | None) -> list[int]:
    """Indices of at most `wanted` of `total` steps: the middles of equal parts, as `load_video` takes them."""
    if wanted is None or total <= wanted:
        return list(range(total))
    return [int((part + 0.5) * total / wanted) for part in range(wanted)]


def _resized(flow: np.ndarray, side: int | None) -> np.ndarray:
    """Flow `(F, 2, H, W)` at another size; the vectors keep their lengths."""
    if side is None:
        return flow
    values = torch.from_numpy(np.ascontiguousarray(flow, dtype=np.float32))
    return torch.nn.functional.interpolate(values, size=(side, side), mode="bilinear", antialias=True).numpy()


def _holds_something(item: Mapping[str, Any]) -> bool:
    """Whether any modality of a row is there."""
    for name, value in item.items():
        mask = f"{name.removesuffix(_FEATURES)}_attention_mask"
        if name.endswith("attention_mask") and np.asarray(value).any():
            return True
        if name.endswith(_FEATURES) and mask not in item and np.size(value):
            return True
    return False


# -- the whole ------------------------------------------------------------------------------------------------------


def prepare(
    splits: DatasetDict,
    columns: Mapping[str, str],
    args: DataArguments,
    processor: CLCRProcessor,
    training: bool = True,
) -> dict[str, ClipRows]:
    """
    Each split as a data set whose rows `CLCRDataCollator` can batch.

    Args:
        columns: the column of each modality, see [`modality_columns`].
        training: whether `train` is learned from (augmented, unreadable rows stood in for) or measured like the others.

    Raises:
        MediaError: clips that do not open, with `strict_media`.
        ValueError: a split of which no clip opens.
    """
    wanted = {*columns.values(), "id", *_LABEL_COLUMNS, *(f"{name}_attention_mask" for name in columns)}
    wanted |= set(_TOKEN_COLUMNS) if "input_ids" in columns.values() else set()
    datasets = {}
    for split, rows in splits.items():
        learns = training and split == "train"
        rows = rows.select_columns([name for name in rows.column_names if name in wanted])
        if args.check_media:
            rows = _openable_rows(rows, columns, split, args.strict_media)
        datasets[split] = ClipRows(
            rows,
            columns,
            processor,
            max_text_length=args.max_text_length,
            cache_gb=args.cache_gb,
            augment=FrameAugmentation() if args.augment and learns else None,
            flow_size=args.image_size,
            training=learns,
            strict=args.strict_media,
        )
    return datasets


def _openable_rows(rows: Dataset, columns: Mapping[str, str], split: str, strict: bool) -> Dataset:
    """The rows that have something to read: those whose modalities all lie in files of which none opens are left out
    and listed. A row with another modality stays: what cannot be read counts as missing."""
    files = sorted(set(columns.values()) & set(_FILE_COLUMNS))
    if not files or (not strict and set(columns.values()) - set(files)):
        return rows
    with ThreadPoolExecutor(_CHECK_THREADS) as pool:
        faults = {name: list(pool.map(_fault, rows[name])) for name in files}
    bad = [row for row in range(len(rows)) if all(faults[name][row] is not None for name in files)]
    if strict:
        bad = [row for row in range(len(rows)) if any(faults[name][row] for name in files)]
    if not bad:
        return rows
    names = [str(rows[row]["id"]) if "id" in rows.column_names else f"row {row}" for row in bad[:_NAMED]]
    why = next(faults[name][bad[0]] for name in files if faults[name][bad[0]] is not None)
    text = f"{len(bad)} of {len(rows)} clips of {split} cannot be read: {', '.join(names)}"
    text += f"{', ...' if len(bad) > _NAMED else ''} (the first: {why or 'no file'})"
    if strict:
        raise MediaError(text)
    if len(bad) == len(rows):
        raise ValueError(text)
    logger.warning("%s; they are left out", text)
    taken = set(bad)
    return rows.select([row for row in range(len(rows)) if row not in taken])


def _fault(value: Any) -> str | None:
    """Why a file does not open; empty where the row names none; None where it opens."""
    if not value or _source(value) is None:
        return ""
    try:
        load_media(_source(value), num_frames=1, end=_CHECK_SECONDS)
    except MediaError as error:
        return str(error)
    return None


__all__ = [
    "SOURCES",
    "ClipRows",
    "DataArguments",
    "LabelKind",
    "LoadedData",
    "feature_shapes",
    "filled_columns",
    "generated_corpus",
    "is_raw",
    "label_kind",
    "load_data",
    "modality_columns",
    "prepare",
]
