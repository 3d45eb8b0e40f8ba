"""Utterances to dialogues: one row a dialogue, one step an utterance, one label a step."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from datasets import ClassLabel, Dataset, DatasetDict, Features, List, Value

from ..modalities import FEATURES_END, MASK_END
from .arrow import make_dataset
from .columns import IGNORED, DataFormatError, in_two_splits, ordered_splits, raise_problems, sequence_feature
from .feature_arrays import feature_type
from .table.values import parse_number


def as_dialogues(
    splits: DatasetDict, *, dialogue_column: str, turn_column: str | None = None, keep_columns: Sequence[str] = ()
) -> DatasetDict:
    """Join rows that are utterances into rows that are dialogues, for `CLCRForTokenClassification`.

    Each utterance becomes one step: features (T, D) of an utterance are averaged over its time, as taps (L, T, D) are
    within each level. How a dialogue is laid out is our own choice; the paper has clips alone.

    Args:
        splits: rows with `id`, a class (`label`), `<modality>_features` (T, D) or (L, T, D) and `dialogue_column`, e.g.
            of `load_manifest` or of the shards that `clcr extract` wrote.
        turn_column: place of an utterance in its dialogue, a number; None for the order of the rows.
        keep_columns: further columns to keep, such as the speaker: a list of the utterances' values.

    Returns:
        DatasetDict with columns id (the dialogue), `<modality>_features` (U, D) or (L, U, D) for U utterances,
        labels (U,) (list of ClassLabel; -100 where an utterance has none), utterance_ids (list of str), texts (list of
        str; where rows had `text`), and, where some utterances lack a modality, `<modality>_attention_mask` (U,).
        `keep_columns` are lists (U,).

    Raises:
        DataFormatError: an absent column, no features, labels that are not classes, a dialogue in two splits, one turn
            twice.
    """
    types = next(iter(splits.values())).features if splits else Features()
    names = [name for name in types if name.endswith(FEATURES_END)]
    if not names:
        raise DataFormatError(
            "dialogues need a column <modality>_features with the features of each utterance; extract them first "
            "(`clcr extract`)"
        )
    if "label" in types and not isinstance(types["label"], ClassLabel):
        raise DataFormatError(
            "a dialogue's utterances need classes as labels; give label_names or task='classification'"
        )
    groups = {split: _group(rows, dialogue_column, turn_column, keep_columns) for split, rows in splits.items()}
    leaks = [f"dialogue {name} is in {one} and {two}" for name, (one, two) in in_two_splits(groups).items()]
    raise_problems(dialogue_column, leaks, "A dialogue belongs to one split")
    masked = [name for name in names if any(rows.data.column(name).null_count for rows in splits.values())]
    kept = [name for name in keep_columns if name not in (dialogue_column, turn_column)]
    parts = {split: _join(splits[split], members, names, masked, kept) for split, members in groups.items()}
    return ordered_splits(parts)


def _group(
    rows: Dataset, dialogue_column: str, turn_column: str | None, keep_columns: Sequence[str]
) -> dict[str, list[int]]:
    """Dialogue to the numbers of its rows, in order."""
    for name in (dialogue_column, turn_column, *keep_columns):
        if name is not None and name not in rows.column_names:
            raise DataFormatError(f"no column {name!r}; the rows have {', '.join(rows.column_names)}")
    groups: dict[str, list[int]] = {}
    for i, name in enumerate(rows[dialogue_column]):
        groups.setdefault(str(name), []).append(i)
    if turn_column is None:
        return groups
    turns = [parse_number(value) for value in rows[turn_column]]
    problems = []
    for name, members in groups.items():
        given = [turns[i] for i in members]
        if None in given or len(set(given)) < len(given):
            problems.append(f"dialogue {name} has turns that are not numbers, or one turn twice")
        else:
            members.sort(key=lambda i: turns[i] or 0.0)
    raise_problems(turn_column, problems)
    return groups


def _join(
    rows: Dataset, groups: dict[str, list[int]], names: Sequence[str], masked: Sequence[str], kept: Sequence[str]
) -> Dataset:
    columns: dict[str, Any] = {"id": list(groups)}
    types: dict[str, Any] = {"id": Value("string")}
    for name in names:
        ndim, width = _shape(rows.features[name])
        vectors = [_vector(value) for value in rows[name]]
        levels = {len(vector) for vector in vectors if vector is not None and ndim == 3}
        if len(levels) > 1:
            raise DataFormatError(f"{name}: utterances have {sorted(levels)} levels")
        blank = np.zeros((*levels, width) if ndim == 3 else (width,), np.float32)
        stacks = [
            np.stack([blank if (vector := vectors[i]) is None else vector for i in members], axis=-2)
            for members in groups.values()
        ]
        columns[name], types[name] = stacks, feature_type(ndim, width)
        if name in masked:
            mask = name.removesuffix(FEATURES_END) + MASK_END
            columns[mask] = [[int(vectors[i] is not None) for i in members] for members in groups.values()]
            types[mask] = sequence_feature("int64")
    if "label" in rows.features:
        labels = [IGNORED if label is None else label for label in rows["label"]]
        columns["labels"] = [[labels[i] for i in members] for members in groups.values()]
        types["labels"] = List(rows.features["label"])
    for name, column in (("utterance_ids", "id"), ("texts", "text"), *zip(kept, kept, strict=True)):
        if column in rows.features:
            values = rows[column][:]
            columns[name] = [[values[i] for i in members] for members in groups.values()]
            types[name] = List(rows.features[column] if column in kept else Value("string"))
    return make_dataset(columns, Features(types))


def _vector(value: Any) -> np.ndarray | None:
    """(D,) or (L, D): the mean over time; None for an absent modality."""
    array = None if value is None else np.asarray(value, dtype=np.float32)
    return None if array is None or not array.size else array.mean(axis=-2)


def _shape(kind: Any) -> tuple[int, int]:
    """Number of axes, and width, of a column of features."""
    ndim = 1
    while isinstance(kind.feature, List):
        kind, ndim = kind.feature, ndim + 1
    if ndim not in (2, 3) or kind.length < 1:
        raise DataFormatError(f"features of the type {kind} are no sequences of vectors of one width")
    return ndim, kind.length
