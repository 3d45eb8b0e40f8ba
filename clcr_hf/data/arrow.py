"""Rows to Arrow: one row as a record batch; columns, and a stream of rows, as data sets in memory."""

import os
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
from datasets import Audio, Dataset, DatasetDict, Features, Image, List, Video
from datasets.features.features import cast_to_python_objects, encode_nested_example

from .columns import DataFormatError, ordered_splits

# Rows are gathered to blocks of about so many bytes, so that a column has few pieces.
_BLOCK_BYTES = 16 * 2**20


def make_dataset(columns: Mapping[str, Sequence[Any]], features: Features) -> Dataset:
    """A typed `Dataset` in memory. Sequences of numbers may be arrays, which are taken without Python objects."""
    schema = features.arrow_schema
    arrays = []
    for name, values in columns.items():
        kind = schema.field(name).type
        made = number_column(values, kind)
        arrays.append(pa.array(values, kind) if made is None else made)
    fields = [schema.field(name) for name in columns]
    return Dataset(pa.Table.from_arrays(arrays, schema=pa.schema(fields, metadata=schema.metadata)))


def typed_splits(types: Mapping[str, Any], parts: Mapping[str, Sequence[Mapping[str, Any]]]) -> DatasetDict:
    """Rows by split, each a dict of the columns of `types` (and others, which are left), as data sets in memory."""
    features = Features(types)
    return ordered_splits(
        {
            split: make_dataset({name: [row[name] for row in rows] for name in types}, features)
            for split, rows in parts.items()
        }
    )


def number_column(values: Sequence[Any], kind: pa.DataType) -> pa.Array | None:
    """Arrays of numbers (or lists of these), of lengths of their own, as a column of lists, one axis a level, without
    Python objects; None in `values` for an absent one. None where there are no arrays, or something else among them."""
    present = [value for value in values if value is not None]
    if (
        not present
        or not pa.types.is_list(kind)
        or not all(_is_numbers(value) or _is_list_of_arrays(value) for value in present)
    ):
        return None
    offsets = np.cumsum([0, *(0 if value is None else len(value) for value in values)], dtype=np.int64)
    if offsets[-1] > np.iinfo(np.int32).max:
        raise DataFormatError(f"{offsets[-1]} time steps in one split; at most 2**31 - 1 are supported")
    inner = None
    if pa.types.is_list(kind.value_type):
        inner = number_column([item for value in present for item in value], kind.value_type)
    if inner is None:
        inner = _nested(np.concatenate(present), kind.value_type)
    mask = pa.array([value is None for value in values]) if len(present) < len(values) else None
    return pa.ListArray.from_arrays(pa.array(offsets, pa.int32()), inner, type=kind, mask=mask)


def row_batch(row: Mapping[str, Any], features: Features, schema: pa.Schema, split: str) -> pa.RecordBatch:
    """A row as a record batch of one.

    Args:
        row: a value or None for each column. Sequences may be lists or NumPy arrays (which are much faster), media a
            path or `{"path": ..., "bytes": ...}`, classes a name or number.
        features: types of the columns.
        schema: `features.arrow_schema`, which is slow to make.
        split: of the row, for messages.

    Raises:
        DataFormatError: columns absent or unknown, an empty id, or a value that is not of its column's type.
    """
    if row.keys() != features.keys():
        differ = sorted(row.keys() ^ features.keys())
        raise DataFormatError(f"a row of {split} lacks or adds the columns {', '.join(differ)}")
    if not isinstance(row["id"], str) or not row["id"]:
        raise DataFormatError(f"a row of {split} has the id {row['id']!r}; ids are non-empty strings")
    cells = []
    for name, kind in features.items():
        try:
            cells.append(column([row[name]], kind, schema.field(name).type))
        except (ValueError, TypeError, KeyError, OverflowError, AttributeError, pa.ArrowException) as error:
            raise DataFormatError(
                f"row {row['id']!r} of {split}: column {name!r} does not hold {kind} ({error})"
            ) from error
    return pa.RecordBatch.from_arrays(cells, schema=schema)


def gather_rows(features: Features, rows: Iterable[tuple[str, Mapping[str, Any]]]) -> DatasetDict:
    """Rows, each with its split, as data sets in memory; see [`row_batch`] for what a row may hold."""
    schema = features.arrow_schema
    blocks: dict[str, list[pa.Table]] = {}
    waiting: dict[str, list[Mapping[str, Any]]] = {}
    size: Counter[str] = Counter()
    for split, row in rows:
        waiting.setdefault(split, []).append(row)
        size[split] += sum(value.nbytes for value in row.values() if isinstance(value, np.ndarray))
        if size[split] >= _BLOCK_BYTES:
            blocks.setdefault(split, []).append(_block(waiting.pop(split), features, schema, split))
            size[split] = 0
    for split, rest in waiting.items():
        blocks.setdefault(split, []).append(_block(rest, features, schema, split))
    return ordered_splits({split: Dataset(pa.concat_tables(tables)) for split, tables in blocks.items()})


def _block(rows: list[Mapping[str, Any]], features: Features, schema: pa.Schema, split: str) -> pa.Table:
    """Rows as a table, a column at a time, which is much faster than row by row; that is left to what does not fit, for
    its message."""
    try:
        if not all(row.keys() == features.keys() and row["id"] for row in rows):
            raise ValueError("rows of other columns, or without an id")
        columns = [
            column([row[name] for row in rows], kind, schema.field(name).type) for name, kind in features.items()
        ]
    except (ValueError, TypeError, KeyError, OverflowError, AttributeError, pa.ArrowException):
        return pa.Table.from_batches([row_batch(row, features, schema, split) for row in rows], schema)
    return pa.Table.from_arrays(columns, schema=schema)


def column(values: list[Any], feature: Any, kind: pa.DataType) -> pa.Array:
    """Values, each as [`row_batch`] takes it, as an Arrow array."""
    made = number_column(values, kind)
    return pa.array([_encode(value, feature) for value in values], kind) if made is None else made


def is_media(feature: Any) -> bool:
    """Whether a column holds files: videos, audio, images, or lists of them."""
    return isinstance(feature, (Audio, Image, Video)) or (isinstance(feature, List) and is_media(feature.feature))


def is_numbers(kind: pa.DataType) -> bool:
    """Whether a column holds sequences (of sequences) of numbers."""
    leaf = kind
    while is_list(leaf):
        leaf = leaf.value_type
    return is_list(kind) and (pa.types.is_floating(leaf) or pa.types.is_integer(leaf))


def _encode(value: Any, feature: Any) -> Any:
    """`value` as Arrow takes it. Media are not given to `datasets`, which would want torchcodec for a mere path."""
    if isinstance(feature, (Audio, Image, Video)):
        if value is None or (isinstance(value, dict) and value.keys() == {"path", "bytes"}):
            return value
        return {"path": os.fspath(value), "bytes": None}
    if isinstance(feature, List) and isinstance(value, (list, tuple)):
        return [_encode(item, feature.feature) for item in value]
    return encode_nested_example(feature, cast_to_python_objects(value))


def _is_list_of_arrays(value: Any) -> bool:
    return isinstance(value, (list, tuple)) and bool(value) and all(_is_numbers(item) for item in value)


def _is_numbers(value: Any) -> bool:
    return isinstance(value, np.ndarray) and value.ndim > 0 and value.dtype.kind in "biuf"


def is_list(kind: pa.DataType) -> bool:
    """Whether a column holds lists."""
    return pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind)


def _nested(array: np.ndarray, kind: pa.DataType) -> pa.Array:
    """Numbers (N, ...) as an Arrow array of N lists of lists, one axis a level."""
    if array.ndim == 1:
        if is_list(kind):
            raise ValueError("an array of too few axes")
        return pa.array(np.ascontiguousarray(array, dtype=kind.to_pandas_dtype()), kind)
    if not is_list(kind):
        raise ValueError("an array of too many axes")
    inner = _nested(array.reshape(array.shape[0] * array.shape[1], *array.shape[2:]), kind.value_type)
    if pa.types.is_fixed_size_list(kind):
        if array.shape[1] != kind.list_size:
            raise ValueError(f"an axis of {array.shape[1]} where {kind.list_size} is the length")
        return pa.FixedSizeListArray.from_arrays(inner, type=kind)
    offsets = pa.array(np.arange(len(array) + 1) * array.shape[1], pa.int32())
    return pa.ListArray.from_arrays(offsets, inner, type=kind)
