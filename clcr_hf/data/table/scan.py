"""One pass over a table, before its rows are read: labels, ids, splits, widths of features, types of other columns."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from datasets import Value

from ..columns import DataFormatError, split_name
from ..feature_arrays import feature_sequence, read_feature_file
from ..files import file_fault
from ..source import Row
from .cells import absolute_path
from .labels import LabelScan
from .read import Table, read_rows
from .values import is_absent

# What a column to keep may hold to be of a type, the narrowest first.
_KEPT: dict[str, set[type]] = {"bool": {bool}, "int64": {int, bool}, "float64": {int, float, bool}, "string": {str}}


@dataclass
class TableScan:
    """What one pass over a table found, beside its labels: the number of rows, whether some name their split, and the
    types of the values in the columns to keep."""

    kinds: dict[str, set[type]]
    num_rows: int = 0
    has_split: bool = False


def scan_table(
    tables: Sequence[Table],
    labels: LabelScan,
    label_columns: Sequence[str],
    identity: str | None,
    split: str,
    keep: Sequence[str],
) -> TableScan:
    """Read all rows.

    Args:
        labels: takes note of each label.
        label_columns: the column of the labels; none, or several where a row's scores are spread over columns.
        identity, split: columns of the ids and splits.
        keep: columns to keep.

    Raises:
        DataFormatError: no rows, unknown splits, a row without split or id, ids that come twice.
    """
    found = TableScan({name: set() for name in keep})
    wanted = [name for name in (*label_columns, identity, split, *keep) if name is not None]
    seen: set[str] = set()
    twice: dict[str, None] = {}
    unsplit: str | None = None  # the first is enough
    for table in tables:
        for number, row in enumerate(read_rows(table, wanted), 1):
            found.num_rows += 1
            if table.split is None and is_absent(row.get(split)):
                unsplit = unsplit or f"{table.path}: row {number}"
            elif table.split is None:
                split_name(row[split])
                found.has_split = True
            if identity is not None:
                if is_absent(row.get(identity)):
                    raise DataFormatError(f"{table.path}: row {number} has no {identity}")
                name = str(row[identity]).strip()
                if name in seen:
                    twice[name] = None
                seen.add(name)
            if label_columns:
                at = f"row {number}" if len(tables) == 1 else f"{table.path}, row {number}"
                labels.add(label_cell(row, label_columns, bool(labels.columns)), at)
            for key, kinds in found.kinds.items():
                if row.get(key) is not None:
                    kinds.add(type(row[key]))
    if not found.num_rows:
        raise DataFormatError(f"{labels.source}: the table has no rows")
    if twice:
        raise DataFormatError(f"{labels.source}: {len(twice)} ids come twice (first: {next(iter(twice))!r})")
    if found.has_split and unsplit:
        raise DataFormatError(f"{unsplit} has no {split}")
    return found


def label_cell(row: Row, columns: Sequence[str], spread: bool) -> Any:
    """A row's label: the cell of its column, or the cells of all columns where a label is `spread` over them."""
    return [row.get(name) for name in columns] if spread else row.get(columns[0])


def feature_shape(tables: Sequence[Table], column: str) -> tuple[int, int]:
    """Number of axes and width of the first features of a column."""
    for table in tables:
        for row in read_rows(table, [column]):
            cell = row.get(column)
            if is_absent(cell):
                continue
            path = absolute_path(table.path.parent, cell) if isinstance(cell, str) else None
            if path is not None and file_fault(path) is not None:
                continue  # reported, or skipped, with the other absent files
            value = cell if path is None else read_feature_file(path, column)
            array = feature_sequence(value, f"{table.path}, {column}")[0]
            if array.size:
                return array.ndim, array.shape[-1]
    raise DataFormatError(f"{tables[0].path}: no row has {column}")


def kept_type(name: str, kinds: set[type]) -> Value:
    """The `datasets` type of a column to keep, from the types of its values."""
    for dtype, fitting in _KEPT.items():
        if kinds <= fitting:
            return Value(dtype)
    found = ", ".join(sorted(kind.__name__ for kind in kinds))
    raise DataFormatError(f"the kept column {name!r} holds {found}; text, or numbers, can be kept")
