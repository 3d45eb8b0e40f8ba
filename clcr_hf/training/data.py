"""What `training.py` trains on: one function for each `--dataset`."""

import inspect
import json
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.compute as pc
from datasets import ClassLabel, Dataset, DatasetDict, Features, concatenate_datasets

from ..data import load_manifest, load_mmsa, load_utterances
from ..data.columns import SPLIT_ALIASES, DataFormatError, carve_groups, logger, make_dataset, ordered_splits
from ..data.flow import add_flow
from ..data.labels import TOKEN_COLUMNS, LabelKind, is_multi_label, label_kind
from ..data.talking_faces.factors import GENERATOR_VERSION
from ..data.talking_faces.render import MARKER, generate_talking_faces
from .arguments import DataArguments

_FILE_COLUMNS = ("media", "video", "audio")


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


def load_data(args: DataArguments, modalities: Sequence[str] | None = None, *, flow: bool = True) -> LoadedData:
    """
    The data set that the arguments name.

    Args:
        modalities: those wanted, so that others need not be loaded; None for all.
        flow: whether optical flow is computed where `args` ask for it; else [`fill_flow`] does it.

    Raises:
        DataFormatError: see the loaders in `clcr_hf.data`.
        ValueError: an option that the loader does not have.
    """
    data = SOURCES[args.dataset](args, modalities)
    data.label_names = args.class_names or data.label_names
    splits = data.splits
    limits = {"train": args.max_train_samples, "validation": args.max_eval_samples, "test": args.max_test_samples}
    for name, limit in limits.items():
        if limit is not None and name in splits:
            splits[name] = splits[name].select(range(min(limit, len(splits[name]))))
    if flow:
        data.splits = fill_flow(splits, args, modalities)
    return data


def fill_flow(
    splits: DatasetDict,
    args: DataArguments,
    modalities: Sequence[str] | None = None,
    share: tuple[int, int] = (0, 1),
    wait: Callable[[], None] | None = None,
) -> DatasetDict:
    """
    The rows with their optical flow, computed by [`~data.flow.add_flow`] where they have none and `args` ask for it.

    Args:
        modalities: those wanted; nothing is computed where flow is none of them.
        share, wait: of several processes on this machine, as in `add_flow`.
    """
    if not args.compute_flow or (modalities is not None and "flow" not in modalities):
        return splits
    return add_flow(
        splits,
        args.flow_cache_dir or _cache_folder() / "flow",
        num_workers=max((os.cpu_count() or 1) // share[1], 1),
        num_frames=args.video_frames,
        size=args.image_size,
        share=share,
        wait=wait,
    )


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
    from ..data.table.manifest import open_manifest

    columns = {name: getattr(args, name) for name in ("media_column", "text_column", "label_column", "group_column")}
    dialogues = {"dialogue_column": args.dialogue_column, "turn_column": args.turn_column}
    splits = _call(load_manifest, args, args.source, **columns, **dialogues)
    names = None
    if is_multi_label(splits):  # a column of numbers cannot hold their names
        known = inspect.signature(open_manifest).parameters
        options = {name: value for name, value in (columns | args.options()).items() if name in known}
        names = open_manifest(args.source or "", **options).label_names
    segments = None if args.dialogue_column else _constant_segments(splits)
    return LoadedData(splits, Path(args.source or "").name, label_names=names, num_segments=segments)


def _constant_segments(splits: DatasetDict) -> int | None:
    """How many labels every row has; None where rows differ or have one each."""
    parts = [part.select_columns(["labels"]) for part in splits.values() if "labels" in part.column_names]
    lengths = {len(row["labels"]) for part in parts for row in part}
    return lengths.pop() if len(lengths) == 1 else None


def _mmsa(args: DataArguments, modalities: Sequence[str] | None) -> LoadedData:
    path = _first_file(args.source or "", ("aligned_50.pkl", "Processed/aligned_50.pkl", "unaligned_50.pkl"))
    text = "text_bert" if args.mmsa_text == "raw" else args.mmsa_text
    splits = _call(load_mmsa, args, path, text=text, **_wanted(modalities))
    return LoadedData(_with_text(splits, args), path.name)


def _with_text(splits: DatasetDict, args: DataArguments) -> DatasetDict:
    """The rows without ready token ids where the transcripts are wanted."""
    present = next(iter(splits.values())).column_names
    return splits.remove_columns([name for name in TOKEN_COLUMNS if name in present and args.mmsa_text == "raw"])


def _wanted(modalities: Sequence[str] | None) -> dict[str, Any]:
    """The argument `modalities` of a loader, or none where all are wanted."""
    return {} if modalities is None else {"modalities": list(modalities)}


def _first_file(source: str, names: Sequence[str]) -> Path:
    """`source` itself, or the first of `names` that lies in it where it is a folder."""
    path = Path(source)
    if not path.is_dir():
        return path
    found = next((path / name for name in names if (path / name).is_file()), None)
    if found is None:
        raise DataFormatError(f"{path}: no {' or '.join(names)} here; name it with --data_file")
    return found


def _utterances(args: DataArguments, modalities: Sequence[str] | None) -> LoadedData:
    splits = _call(
        load_utterances,
        args,
        _first_file(args.source or "", ("utterances.npz",)),
        label=args.label_column or "label",
        modalities=modalities,
        standardise=args.standardise,
    )
    return LoadedData(splits, Path(args.source or "").name)


def _csd(args: DataArguments, modalities: Sequence[str] | None) -> LoadedData:
    from ..data.benchmarks.csd import MOSEI_EMOTIONS, load_csd

    splits = _call(load_csd, args, args.dataset_dir, **_wanted(modalities))
    emotions = is_multi_label(splits)
    title = "CMU-MOSEI emotions" if emotions else "CMU-MultimodalSDK sentiment"
    return LoadedData(splits, title, label_names=MOSEI_EMOTIONS if emotions else None)


def _cremad(args: DataArguments, modalities: Sequence[str] | None) -> LoadedData:
    from ..data.benchmarks.cremad import load_cremad

    return LoadedData(_call(load_cremad, args, args.dataset_dir), "CREMA-D")


def _kinetics_sounds(args: DataArguments, modalities: Sequence[str] | None) -> LoadedData:
    from ..data.benchmarks.kinetics_sounds import load_kinetics_sounds

    return LoadedData(_call(load_kinetics_sounds, args, args.dataset_dir), "Kinetics-Sounds")


def _ave(args: DataArguments, modalities: Sequence[str] | None) -> LoadedData:
    from ..data.benchmarks.ave import NUM_SEGMENTS, load_ave

    return LoadedData(_call(load_ave, args, args.dataset_dir), "AVE", num_segments=NUM_SEGMENTS)


def _ave_h5(args: DataArguments, modalities: Sequence[str] | None) -> LoadedData:
    from ..data.benchmarks.ave import NUM_SEGMENTS, load_ave_h5

    return LoadedData(_call(load_ave_h5, args, args.dataset_dir), "AVE features", num_segments=NUM_SEGMENTS)


def _ucf101(args: DataArguments, modalities: Sequence[str] | None) -> LoadedData:
    from ..data.benchmarks.ucf101 import load_ucf101

    fold = args.options().get("fold", 1)
    return LoadedData(_call(load_ucf101, args, args.dataset_dir), f"UCF101, split {fold}")


def _shards(args: DataArguments, modalities: Sequence[str] | None) -> LoadedData:
    from ..data.dialogues import as_dialogues
    from ..data.shards import load_shards

    splits = _with_text(_call(load_shards, args, args.dataset_dir), args)
    if not any(name in part.column_names for part in splits.values() for name in ("label", "labels")):
        splits = _label_by_folder(splits)
    if "validation" not in splits and args.validation_fraction:
        splits = _carve_validation(splits, args.dialogue_column or args.group_column, args.validation_fraction)
    if args.dialogue_column is not None:
        splits = as_dialogues(splits, dialogue_column=args.dialogue_column, turn_column=args.turn_column)
    segments = None if args.dialogue_column else _constant_segments(splits)
    folder = Path(args.dataset_dir or "").resolve()
    names = _recorded_label_names(folder) if is_multi_label(splits) else None
    return LoadedData(splits, folder.name, label_names=names, num_segments=segments)


def _recorded_label_names(folder: Path) -> Sequence[str] | None:
    """Names of several labels, where `clcr convert` or `clcr extract` made the shards and its source had them."""
    from ..data.convert import RECORD as CONVERTED
    from ..extract.output import RECORD as EXTRACTED

    records = (folder / name for name in (CONVERTED, EXTRACTED))
    found = (json.loads(record.read_text(encoding="utf-8")) for record in records if record.is_file())
    return next((record["label_names"] for record in found if record.get("label_names")), None)


def _label_by_folder(splits: DatasetDict) -> DatasetDict:
    """Adds the class of each clip: the name of the folder it lay in, which is part of its id (`train/happy/clip7`).
    Unchanged where some clip lay in no folder but that of its split."""
    classes = {}
    for split, rows in splits.items():
        classes[split] = [_class_of(str(name)) for name in rows["id"]]
    names = sorted({name for part in classes.values() for name in part})
    if "" in names or len(names) < 2:
        return splits
    logger.warning("the clips have no labels; their folders are taken for classes: %s", ", ".join(names))
    kind = Features({"label": ClassLabel(names=names)})
    parts = {}
    for split, rows in splits.items():
        column = make_dataset({"label": [names.index(name) for name in classes[split]]}, kind)
        parts[split] = concatenate_datasets([rows, column], axis=1)
    return DatasetDict(parts)


def _class_of(name: str) -> str:
    """The folder next to a clip in its id; empty where that is its split's, or there is none."""
    folders = name.split("/")[:-1]
    return "" if not folders or (len(folders) == 1 and folders[0].lower() in SPLIT_ALIASES) else folders[-1]


def _carve_validation(splits: DatasetDict, group_column: str | None, fraction: float) -> DatasetDict:
    """Validation from train by whole groups: those of a column, or else the rows of one file."""
    train = splits["train"]
    if group_column is not None and group_column not in train.column_names:
        raise ValueError(
            f"no column {group_column!r} to carve validation by; the rows have {', '.join(train.column_names)}"
        )
    groups = train[group_column] if group_column is not None else _files_of(train)
    picked = carve_groups(groups, fraction=fraction)
    parts = {"train": train.select(np.flatnonzero(~picked)), "validation": train.select(np.flatnonzero(picked))}
    return ordered_splits({**splits, **parts})


def _files_of(rows: Dataset) -> list[str]:
    """The file that each row comes from, or else its id. A file inside a row is told by its name and size, for its
    folder is not known; its bytes are not read."""
    column = next((name for name in ("path", *_FILE_COLUMNS) if name in rows.column_names), "id")
    values = rows.with_format("arrow")[column][:]
    if column in _FILE_COLUMNS:
        paths, sizes = pc.struct_field(values, "path"), pc.binary_length(pc.struct_field(values, "bytes"))
        names = [
            path and f"{path} {size or ''}" for path, size in zip(paths.to_pylist(), sizes.to_pylist(), strict=True)
        ]
    else:
        names = values.to_pylist()
    return [name or f"row {number}" for number, name in enumerate(names)]


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


__all__ = ["SOURCES", "DataArguments", "LoadedData", "fill_flow", "generated_corpus", "load_data"]
