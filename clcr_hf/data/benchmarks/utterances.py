"""Utterances with features and a label each, one sequence a video: dialogue and monologue sentiment.

Reads any `.npz` of one row an utterance. CMU-MOSI's published context models use this form (train on 62 videos, test
on 31): the label of an utterance is read from its neighbours too, so the task is token classification.
"""

import os
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from datasets import DatasetDict, Value

from ..arrow import typed_splits
from ..columns import (
    SPLITS,
    DataFormatError,
    carve_groups,
    in_two_splits,
    logger,
    raise_problems,
    replace_non_finite,
    sequence_feature,
    split_name,
)
from ..source import Source
from ..untrusted.arrays import load_npz_safely

ORDER_COLUMNS = ("utterance", "start")


def load_utterances(
    path: str | os.PathLike,
    *,
    label: str = "label",
    split_column: str | None = "split",
    modalities: Sequence[str] | None = None,
    group_column: str = "video_id",
    order_column: str | None = None,
    validation_fraction: float = 0.0,
    num_validation_videos: int | None = None,
    seed: int = 0,
    standardise: bool = False,
) -> DatasetDict:
    """Load rows of utterances as sequences.

    Args:
        path: `.npz` with, for N utterances, one float array (N, D) a modality, a label (N,), a video id (N,), and
            maybe an order and a split (N,). Object arrays are refused: nothing is unpickled.
        label: array of labels; integers become int64, others float32. A missing label is -100 for integers.
        split_column: array that names each row's split; None puts all in train.
        modalities: arrays to read; by default every two-dimensional float array with N rows.
        group_column: array that says which rows form one sequence.
        order_column: array to sort a sequence by; by default `utterance`, else `start`, else the file's order.
        validation_fraction, num_validation_videos: carve validation from the training videos when the file has none:
            at least this share of the utterances, or this many videos. Both 0 or None: no validation split. Mind that
            features which were themselves learned with the training labels make any such split look too good.
        seed: of that choice.
        standardise: subtract the mean and divide by the standard deviation of the training rows (those left after
            carving); a constant feature is only centred.

    Returns:
        DatasetDict with one example a video and columns
            id: str, the video
            rows: int64 (T,), each utterance's row in the file
            <modality>_features: float32 (T, D)
            labels: int64 or float32 (T,)
        NaN and infinite features become 0 (before standardising), with a warning that counts them.

    Raises:
        DataFormatError: not an npz, arrays absent, object arrays, wrong shapes, labels not finite, a video in two
            splits.
    """
    arrays = load_npz_safely(path)
    if order_column is None:
        order_column = next((name for name in ORDER_COLUMNS if name in arrays), None)
    named = {"label": label, "split": split_column, "group": group_column, "order": order_column}
    found, features = _choose(path, arrays, {key: name for key, name in named.items() if name is not None}, modalities)
    groups, labels = found["group"], found["label"]
    splits = np.array(list(map(split_name, found["split"]))) if "split" in found else np.full(len(groups), "train")
    _check_groups(path, groups, splits)
    if (validation_fraction or num_validation_videos) and "validation" not in splits:
        train = np.flatnonzero(splits == "train")
        picked = carve_groups(groups[train], fraction=validation_fraction, num_groups=num_validation_videos, seed=seed)
        splits = splits.astype("<U10")
        splits[train[picked]] = "validation"
    features = _clean(path, features, splits == "train" if standardise else None)
    label_type = "int64" if labels.dtype.kind in "biu" else "float32"
    columns = {f"{name}_features": array for name, array in features.items()} | {"labels": labels.astype(label_type)}
    types: dict[str, Any] = {"id": Value("string"), "rows": sequence_feature("int64")}
    types |= {f"{name}_features": sequence_feature("float32", array.shape[1]) for name, array in features.items()}
    parts = {name: _sequences(np.flatnonzero(splits == name), groups, found.get("order"), columns) for name in SPLITS}
    return typed_splits({**types, "labels": sequence_feature(label_type)}, parts)


def _choose(
    path: object, arrays: Mapping[str, np.ndarray], named: Mapping[str, str], modalities: Sequence[str] | None
) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
    """The arrays that are `named`, by what they are for, and the features of each modality, all checked."""
    absent = [name for name in [*named.values(), *(modalities or ())] if name not in arrays]
    if absent:
        raise DataFormatError(f"{path}: no array {', '.join(absent)}; it has {', '.join(arrays)}")
    found = {key: arrays[name] for key, name in named.items()}
    labels = found["label"]
    size = len(labels) if labels.ndim else 0
    if modalities is None:
        others = {name: array for name, array in arrays.items() if name not in named.values()}
        features = {k: v for k, v in others.items() if v.ndim == 2 and v.dtype.kind == "f" and len(v) == size}
    else:
        features = {name: arrays[name] for name in modalities}
    problems = []
    for key, array in found.items():
        if array.shape != (size,):
            problems.append(f"the {key} array has shape {array.shape}, not ({size or 'N'},)")
    for name, array in features.items():
        if array.ndim != 2 or len(array) != size or not array.shape[1] or array.dtype.kind not in "biuf":
            problems.append(f"modality {name!r} is {array.dtype} {array.shape}, not numbers of shape ({size}, D)")
    if not features:
        problems.append("no modality: no two-dimensional float array with a row an utterance")
    if not size:
        problems.append("no rows")
    if labels.dtype.kind not in "biuf":
        problems.append(f"labels are {labels.dtype}, not numbers")
    elif not np.isfinite(labels).all():
        problems.append(f"{(~np.isfinite(labels)).sum()} labels are not finite")
    raise_problems(path, problems)
    return found, features


def _check_groups(path: object, groups: np.ndarray, splits: np.ndarray) -> None:
    parts = {split: groups[splits == split].tolist() for split in sorted(set(splits.tolist()))}
    shared = in_two_splits(parts)
    problems = [f"video {video!r} is in both {one} and {two}" for video, (one, two) in shared.items()]
    raise_problems(path, problems, "A video belongs to one split")


def _clean(path: object, features: Mapping[str, np.ndarray], train: np.ndarray | None) -> dict[str, np.ndarray]:
    """Finite float32 features, standardised on the rows `train` unless that is None."""
    result = {}
    for name, array in features.items():
        values, bad = replace_non_finite(array)
        if bad:
            logger.warning("%s: %d non-finite values of %s set to 0", path, bad, name)
        if train is not None:
            if not train.any():
                raise DataFormatError(f"{path}: no training rows to standardise on")
            known = values[train].astype(np.float64)
            scale = known.std(axis=0)
            values = ((values - known.mean(axis=0)) / np.where(scale > 0, scale, 1.0)).astype(np.float32)
        result[name] = values
    return result


def _sequences(
    rows: np.ndarray, groups: np.ndarray, order: np.ndarray | None, columns: Mapping[str, np.ndarray]
) -> list[dict[str, Any]]:
    """One row a group, with its utterances in order."""
    members: dict[Any, list[int]] = {}
    for row in rows:
        members.setdefault(groups[row].item(), []).append(int(row))
    if order is not None:
        for index in members.values():
            index.sort(key=lambda row: order[row])
    return [
        {"id": str(group), "rows": np.array(index), **{name: array[index] for name, array in columns.items()}}
        for group, index in members.items()
    ]


SOURCE = Source(
    about="an .npz with one row an utterance, as one sequence a video",
    read=load_utterances,
    is_file=True,
    files=("utterances.npz",),
    recognise=lambda path: path.suffix == ".npz",
    arguments={"label_column": "label"},
)
