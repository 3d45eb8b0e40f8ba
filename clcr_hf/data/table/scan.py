"""One pass over a table, before its rows are read: labels, ids, splits, widths of features, types of other columns."""

from collections.abc import Sequence
from typing import Any

from datasets import Value

from ..columns import DataFormatError, split_name
from ..feature_arrays import feature_sequence, read_feature_file
from ..files import file_fault
from .cells import absolute_path
from .labels import LabelScan
from .read import Row, Table, read_rows
from .values import is_absent


class TableScan:
    """One pass over a table: labels, ids, splits, and the types of the columns to keep."""

    def __init__(self, labels: LabelScan, keep: Sequence[str]):
        self.labels = labels
        self.kinds: dict[str, set[type]] = {name: set() for name in keep}
        self.num_rows = 0
        self.has_split = False

    def read(self, tables: Sequence[Table], labels: Sequence[str], identity: str | None, split: str) -> None:
        """Read all rows.

        Args:
            labels: the column of the labels; none, or several where a row's scores are spread over columns.

        Raises:
            DataFormatError: no rows, unknown splits, a row without split or id, ids that come twice.
        """
        wanted = [name for name in (*labels, identity, split, *self.kinds) if name is not None]
        seen: set[str] = set()
        twice: dict[str, None] = {}
        unsplit: list[str] = []
        for table in tables:
            for number, row in enumerate(read_rows(table, wanted), 1):
                self.num_rows += 1
                if table.split is None:
                    self._split(f"{table.path}: row {number}", row.get(split), unsplit)
                if identity is not None:
                    name = row.get(identity)
                    if is_absent(name):
                        raise DataFormatError(f"{table.path}: row {number} has no {identity}")
                    name = str(name).strip()
                    if name in seen:
                        twice[name] = None
                    seen.add(name)
                if labels:
                    at = f"row {number}" if len(tables) == 1 else f"{table.path}, row {number}"
                    self.labels.add(label_cell(row, labels, bool(self.labels.columns)), at)
                for key, kinds in self.kinds.items():
                    if row.get(key) is not None:
                        kinds.add(type(row[key]))
        source = self.labels.source
        if not self.num_rows:
            raise DataFormatError(f"{source}: the table has no rows")
        if twice:
            raise DataFormatError(f"{source}: {len(twice)} ids come twice (first: {next(iter(twice))!r})")
        if self.has_split and unsplit:
            raise DataFormatError(f"{unsplit[0]} has no {split}")

    def _split(self, where: str, value: Any, unsplit: list[str]) -> None:
        if is_absent(value):
            if not unsplit:  # the first is enough
                unsplit.append(where)
        else:
            split_name(value)
            self.has_split = True


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
    if kinds <= {bool}:
        return Value("bool")
    if kinds <= {int, bool}:
        return Value("int64")
    if kinds <= {int, float, bool}:
        return Value("float64")
    if kinds <= {str}:
        return Value("string")
    found = ", ".join(sorted(kind.__name__ for kind in kinds))
    raise DataFormatError(f"the kept column {name!r} holds {found}; text, or numbers, can be kept")
