"""Statistics of the training split that a new model keeps: of features and of scores."""

from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
import torch
from datasets import Dataset
from transformers import PreTrainedModel

from ..data.streamed import StreamedRows, some_at_a_time
from ..modalities import FEATURES_END, modality

_STEPS = 200_000  # of a modality that are looked at, from rows spread evenly over the split
_TAIL = 0.005  # at each end of a column, what lies further out counts as lying there


def standardise_features(model: PreTrainedModel, rows: Dataset, columns: Mapping[str, str]) -> None:
    """
    Gives the model the mean and spread of each column of the features that it standardises.

    Args:
        rows: the training split. columns: the column that each modality is read from.
    """
    own = model.config.modality_config
    wanted = {name: column for name, column in columns.items() if own(name).feature_norm == "standardise"}
    for name, found in feature_statistics(rows, wanted).items():
        model.set_feature_statistics(name, *map(torch.from_numpy, found))


def feature_statistics(rows: Dataset, columns: Mapping[str, str]) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """The [`column_statistics`] of every modality that is read from ready features, and has any."""
    ready = {name: column for name, column in columns.items() if column.endswith(FEATURES_END)}
    found = {name: column_statistics(rows, column, modality(name).mask) for name, column in ready.items()}
    return {name: statistics for name, statistics in found.items() if statistics is not None}


def column_statistics(rows: Dataset, column: str, mask: str) -> tuple[np.ndarray, np.ndarray] | None:
    """
    Mean and standard deviation `(D,)` float32 of each column of features, over real steps; None where there are none.

    Robust: values that are not finite are left out, and the outermost half per cent at each end is drawn in to its
    border, so that a few wild values do not set the scale. A constant column has spread 0, which
    `set_feature_statistics` takes for "only shift".

    Args:
        rows: with `column`, lists `(T, D)` or `(L, T, D)`, and maybe `mask (T,)`.
    """
    kept = [name for name in (column, mask) if name in rows.column_names]
    part = rows.select_columns(kept).with_format("numpy")
    steps: list[np.ndarray] = []
    room = _STEPS
    # A few rows tell how many may be looked at.
    step = max(len(part) * mean_length(part, column) // _STEPS, 1)
    for number in range(0, len(part), step):
        row = part[number]
        if np.ndim(row[column]) < 2:  # a row that lacks the modality
            continue
        values = np.asarray(row[column], dtype=np.float64)
        real = np.asarray(row[mask], dtype=bool) if np.ndim(row.get(mask)) else None
        values = values if real is None else values[..., real, :]
        values = values.reshape(-1, values.shape[-1])[:room]
        room -= len(values)
        steps.append(values)
        if room <= 0:
            break
    found = np.concatenate(steps) if steps else np.zeros((0, 0))
    if not found.size:
        return None
    found[~np.isfinite(found)] = np.nan
    known = ~np.isnan(found).all(axis=0)
    mean, std = np.zeros(found.shape[1]), np.ones(found.shape[1])
    if known.any():
        low, high = np.nanquantile(found[:, known], [_TAIL, 1 - _TAIL], axis=0)
        drawn = np.clip(found[:, known], low, high)
        mean[known], std[known] = np.nanmean(drawn, axis=0), np.nanstd(drawn, axis=0)
    return mean.astype(np.float32), std.astype(np.float32)


def mean_length(rows: Dataset, column: str) -> int:
    """Steps of a row of features, the mean of some rows that hold any; of layers tapped, all count."""
    some = [rows[number][column] for number in range(0, len(rows), max(len(rows) // 16, 1))]
    lengths = [np.size(value) // np.shape(value)[-1] for value in some if np.ndim(value) > 1 and np.size(value)]
    return int(np.mean(lengths)) if lengths else 1


def label_statistics(rows: Dataset) -> dict[str, Any]:
    """`label_mean` and `label_std` of `CLCRConfig`, one number a score, from the training labels; missing ones (NaN) do
    not count. A constant score has spread 1."""
    column = "label" if "label" in rows.column_names else "labels"
    if isinstance(rows, StreamedRows):
        mean, std = _moments(
            np.asarray(part, np.float64).reshape(len(part), -1) for part in some_at_a_time(rows[column])
        )
    else:
        values = np.asarray(rows[column][:] if len(rows) else [0.0], dtype=np.float64).reshape(len(rows) or 1, -1)
        mean, std = np.nanmean(values, axis=0), np.nanstd(values, axis=0)
    return {"label_mean": mean.tolist(), "label_std": np.where(std > 1e-8, std, 1.0).tolist()}


def _moments(parts: Iterable[np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
    """Mean and standard deviation `(K,)` of the columns of `(N, K)`, which come in parts; NaN does not count."""
    count, mean, square = np.zeros(1), np.zeros(1), np.zeros(1)
    for values in parts:
        own = (~np.isnan(values)).sum(axis=0)
        centre = np.nansum(values, axis=0) / np.maximum(own, 1)
        share = own / np.maximum(count + own, 1)
        square = square + np.nansum((values - centre) ** 2, axis=0) + (centre - mean) ** 2 * count * share
        count, mean = count + own, mean + (centre - mean) * share
    return mean, np.sqrt(square / np.maximum(count, 1))


__all__ = ["column_statistics", "feature_statistics", "label_statistics", "mean_length", "standardise_features"]
