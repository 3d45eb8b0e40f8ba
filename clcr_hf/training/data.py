"""What `training.py` trains on: a source of rows, its labels, and the optical flow of its clips."""

import json
import os
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from datasets import Dataset, DatasetDict

from ..data.columns import logger
from ..data.flow import add_flow
from ..data.labels import LabelKind, is_multi_label, label_kind
from ..data.source import Rows
from ..data.talking_faces.source import corpus_folder
from .arguments import PATH_ARGUMENTS, DataArguments

LABEL_COLUMNS = ("label", "labels")
_SCALES = {"sentiment": "sentiment", "none": None}
_ANYHOW = {"require_label": False, "missing_labels": "keep"}  # rows whether they have a label or not


@dataclass
class LoadedData:
    """
    A data set as its loader gave it.

    Args:
        splits: train, validation and test; columns as the loaders in `clcr_hf.data` state them.
        title: what people call it, for the model card.
        label_names: names of several labels or scores, whose column cannot hold them.
        scores, label_scale, label_range: as of [`~data.source.Rows`].
        num_segments: labels of a clip where each has equally many segments of equal length; None: one a time step.
        generated: whether the clips were drawn by this package.
    """

    splits: DatasetDict
    title: str
    label_names: Sequence[str] | None = None
    scores: bool = False
    label_scale: str | None = None
    label_range: Sequence[float] | None = None
    num_segments: int | None = None
    generated: bool = False

    @property
    def labels(self) -> LabelKind:
        """The kind of labels; ValueError as in [`label_kind`]."""
        return label_kind(self.splits, self.label_names, self.scores, self.label_scale, self.label_range)


def load_data(
    args: DataArguments, modalities: Sequence[str] | None = None, *, flow: bool = True, labelled: bool = True
) -> LoadedData:
    """
    The data set that the arguments name.

    Args:
        modalities: those wanted, so that others need not be loaded; None for all.
        flow: whether optical flow is computed where `args` ask for it; else [`fill_flow`] does it.
        labelled: False for rows without their labels, and for tables that have none.

    Raises:
        DataFormatError: see the loaders in `clcr_hf.data`; an option that the loader does not have.
        ValueError: names of classes that the data do not have.
    """
    source, rows = args.reader, _open(args, modalities, **({} if labelled else _ANYHOW))
    splits = rows.load()
    if not labelled:
        present = next(iter(splits.values())).column_names
        labels = [name for name in LABEL_COLUMNS if name in present]
        splits = DatasetDict({name: part.remove_columns(labels) for name, part in splits.items()}) if labels else splits
    elif args.class_names and not is_multi_label(splits):
        raise ValueError("--class_names names several labels of a row; these data have one label, named in the data")
    segments = _constant_segments(splits) if labelled and source.segments and not args.dialogue_column else None
    names = args.class_names or rows.label_names
    data = LoadedData(
        splits,
        rows.title,
        label_names=names,
        scores=rows.scores,
        label_scale=rows.label_scale if args.label_scale is None else _SCALES[args.label_scale],
        label_range=rows.label_range if args.label_range is None else args.label_range,
        num_segments=segments,
        generated=source.generated,
    )
    limits = {"train": args.max_train_samples, "validation": args.max_eval_samples, "test": args.max_test_samples}
    for name, limit in limits.items():
        if limit is not None and name in splits:
            splits[name] = splits[name].select(range(min(limit, len(splits[name]))))
    if flow:
        data.splits = fill_flow(splits, args, modalities)
    return data


def unlabelled_rows(args: DataArguments, modalities: Sequence[str] | None = None) -> Dataset | None:
    """The training rows that `missing_labels="drop"` leaves out of [`load_data`]; None where it leaves out none."""
    if args.loader_options().get("missing_labels") != "drop":
        return None
    if args.streaming:
        logger.warning("alignment stage: rows without a label take no part where rows are streamed")
        return None
    train = _open(args, modalities, **_ANYHOW, validation_fraction=0.0).load()["train"]
    (label,) = set(LABEL_COLUMNS).intersection(train.column_names)
    return train.filter(lambda value: value is None, input_columns=label).remove_columns(label)


def _open(args: DataArguments, modalities: Sequence[str] | None, **changes: Any) -> Rows:
    """The data set's rows, with `changes` to those options that its loader has."""
    source, options = args.reader, args.loader_options()
    if modalities is not None and "modalities" in source.options:
        options.setdefault("modalities", list(modalities))
    options |= {name: value for name, value in changes.items() if name in source.options}
    return source.open(args.source, **options)


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
        args.flow_cache_dir or corpus_folder().parent / "flow",
        num_workers=max((os.cpu_count() or 1) // share[1], 1),
        num_frames=args.video_frames,
        size=args.image_size,
        share=share,
        wait=wait,
    )


def _constant_segments(splits: DatasetDict) -> int | None:
    """How many labels every row has; None where rows differ or have one each."""
    parts = [part.select_columns(["labels"]) for part in splits.values() if "labels" in part.column_names]
    lengths = {len(row["labels"]) for part in parts for row in part}
    return lengths.pop() if len(lengths) == 1 else None


def recorded_arguments(args: DataArguments) -> dict[str, Any]:
    """The arguments by name as `run.json` keeps them: paths are absolute, so that they are found from anywhere."""
    kept = asdict(args)
    for name in PATH_ARGUMENTS:
        if kept[name] is not None and (os.path.exists(kept[name]) or name == "flow_cache_dir"):
            kept[name] = os.path.abspath(kept[name])
    kept["dataset_name"] = _absolute(args.dataset_name)
    if args.reader.generated:
        kept["dataset_dir"] = os.path.abspath(corpus_folder(args.dataset_dir, **args.loader_options()))
    known, given = args.reader.options, args.options()
    found = {n: _absolute(value) if "PathLike" in str(known[n].annotation) else value for n, value in given.items()}
    if found != given:
        kept["dataset_options"] = json.dumps(found)
    return kept


def _absolute(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _absolute(item) for key, item in value.items()}
    return os.path.abspath(value) if isinstance(value, str) and os.path.exists(value) else value


__all__ = ["DataArguments", "LoadedData", "fill_flow", "load_data", "recorded_arguments", "unlabelled_rows"]
