"""Rows to Arrow: rows as a table; columns, and a stream of rows, as data sets in memory."""

import os
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
from datasets import Audio, ClassLabel, Dataset, DatasetDict, Features, Image, List, Video
from datasets.features.features import (
    any_np_array_to_pyarrow_listarray,
    cast_to_python_objects,
    encode_nested_example,
)
from datasets.table import array_cast

from .columns import IGNORED, DataFormatError, ordered_splits

# Rows are gathered to blocks of about so many bytes, so that a column has few pieces.
_BLOCK_BYTES = 16 * 2**20


def make_dataset(columns: Mapping[str, Sequence[Any]], features: Features) -> Dataset:
    """A typed `Dataset` in memory; values as [`rows_table`] takes them."""
    schema = features.arrow_schema
    fields = [schema.field(name) for name in columns]
    arrays = [column(columns[field.name], features[field.name], field.type) for field in fields]
    return Dataset(pa.Table.from_arrays(arrays, schema=pa.schema(fields, metadata=schema.metadata)))


def typed_splits(types: Mapping[str, Any], parts: Mapping[str, Sequence[Mapping[str, Any]]]) -> DatasetDict:
    """Rows by split, each a dict of the columns of `types` (and others, which are left), as data sets in memory."""
    rows = ((split, {name: row[name] for name in types}) for split, part in parts.items() for row in part)
    return gather_rows(Features(types), rows)


def rows_table(rows: Sequence[Mapping[str, Any]], features: Features, schema: pa.Schema, split: str) -> pa.Table:
    """Rows as a table.

    Args:
        rows: a value or None for each column. Sequences may be lists or NumPy arrays (which are much faster), media a
            path or `{"path": ..., "bytes": ...}`, classes a name or number.
        features: types of the columns.
        schema: `features.arrow_schema`, which is slow to make.
        split: of the rows, for messages.

    Raises:
        DataFormatError: columns absent or unknown, an empty id, or a value that is not of its column's type.
    """
    for row in rows:
        if row.keys() != features.keys():
            differ = sorted(row.keys() ^ features.keys())
            raise DataFormatError(f"a row of {split} lacks or adds the columns {', '.join(differ)}")
        if not isinstance(row["id"], str) or not row["id"]:
            raise DataFormatError(f"a row of {split} has the id {row['id']!r}; ids are non-empty strings")
    columns = []
    for name, kind in features.items():
        try:
            columns.append(column([row[name] for row in rows], kind, schema.field(name).type))
        except (ValueError, TypeError, KeyError, OverflowError, AttributeError, pa.ArrowException) as error:
            if len(rows) > 1:  # which of them it is, is told one by one
                return pa.concat_tables([rows_table([row], features, schema, split) for row in rows])
            raise DataFormatError(
                f"row {rows[0]['id']!r} of {split}: column {name!r} does not hold {kind} ({error})"
            ) from error
    return pa.Table.from_arrays(columns, schema=schema)


def gather_rows(features: Features, rows: Iterable[tuple[str, Mapping[str, Any]]]) -> DatasetDict:
    """Rows, each with its split, as data sets in memory; see [`rows_table`] for what a row may hold."""
    schema = features.arrow_schema
    blocks: dict[str, list[pa.Table]] = {}
    waiting: dict[str, list[Mapping[str, Any]]] = {}
    size: Counter[str] = Counter()
    for split, row in rows:
        waiting.setdefault(split, []).append(row)
        size[split] += sum(value.nbytes for value in row.values() if isinstance(value, np.ndarray))
        if size[split] >= _BLOCK_BYTES:
            blocks.setdefault(split, []).append(rows_table(waiting.pop(split), features, schema, split))
            size[split] = 0
    for split, rest in waiting.items():
        blocks.setdefault(split, []).append(rows_table(rest, features, schema, split))
    return ordered_splits({split: Dataset(pa.concat_tables(tables)) for split, tables in blocks.items()})


def column(values: Sequence[Any], feature: Any, kind: pa.DataType) -> pa.Array:
    """Values, each as [`rows_table`] takes it, as an Arrow array. Arrays of numbers (or lists of these), of lengths of
    their own, become lists, one axis a level, without Python objects."""
    present = [value for value in values if value is not None]
    if present and all(map(_is_numbers, present)):
        return array_cast(any_np_array_to_pyarrow_listarray(list(values)), kind)
    return pa.array([_encode(value, feature) for value in values], kind)


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
    if isinstance(feature, ClassLabel) and value == IGNORED:
        return value
    return encode_nested_example(feature, cast_to_python_objects(value))


def _is_numbers(value: Any) -> bool:
    """Whether a value is an array of numbers, or a list of such."""
    if isinstance(value, list):
        return bool(value) and all(map(_is_numbers, value))
    return isinstance(value, np.ndarray) and value.ndim > 0 and value.dtype.kind in "biuf"


def is_list(kind: pa.DataType) -> bool:
    """Whether a column holds lists."""
    return pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind)
