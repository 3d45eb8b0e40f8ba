"""Tables (CSV, TSV, JSONL, Parquet, XLSX) read row by row, so that one of any length takes the memory of a few rows."""

import csv
import json
import os
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice, zip_longest
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from ..arrow import is_list, is_numbers
from ..columns import SPLIT_ALIASES, DataFormatError, name_some, split_name
from ..errors import format_error
from ..files import find_file
from ..source import Row
from ..untrusted.sheets import read_sheet

TABLE_SUFFIXES = (".csv", ".tsv", ".jsonl", ".parquet", ".xlsx")
TABLE_NAMES = ("metadata", "manifest")
_BATCH_ROWS = 64


@dataclass(frozen=True)
class Table:
    """A table and, where its place says so, the split that all of its rows belong to (by the name found there)."""

    path: Path
    split: str | None = None


def find_tables(source: str | os.PathLike | Mapping[str, str | os.PathLike]) -> list[Table]:
    """The tables that `source` stands for: a table, a folder with one, a folder for each split, or a dict of splits.

    Raises:
        DataFormatError: none or several where one is wanted, an absent file, an unknown suffix, two for one split.
    """
    if isinstance(source, Mapping):
        tables = [Table(Path(path), name) for name, path in source.items()]
    else:
        path = Path(source)
        tables = _tables_of_folder(path) if path.is_dir() else [Table(path)]
    names = [split_name(table.split) for table in tables if table.split is not None]
    if len(set(names)) < len(names):
        raise DataFormatError(f"two tables for one split: {', '.join(str(table.split) for table in tables)}")
    for table in tables:
        if not table.path.is_file():
            raise DataFormatError(f"{table.path}: no such table")
        if table.path.suffix.lower() not in TABLE_SUFFIXES:
            raise DataFormatError(f"{table.path}: a table ends in {', '.join(TABLE_SUFFIXES)}")
    return tables


def named_table(folder: Path) -> Path | None:
    """The table in a folder that goes by one of `TABLE_NAMES`; None where there is none."""
    return find_file(folder, [name + suffix for name in TABLE_NAMES for suffix in TABLE_SUFFIXES])


def read_rows(table: Table, columns: Sequence[str] | None = None) -> Iterator[Row]:
    """Rows of a table, one at a time.

    Args:
        columns: read only these, where the format allows it (Parquet); names that the table lacks are passed over.

    Yields:
        dicts of column to value. CSV and TSV give strings. Lists of numbers in Parquet come as arrays. Of a workbook
        (.xlsx) the one sheet with cells is read, its first row the header; empty rows are passed over.

    Raises:
        DataFormatError: a file that is not what its suffix says; the message has the line.
    """
    suffix = table.path.suffix.lower()
    with format_error(f"{table.path}: not UTF-8", UnicodeDecodeError, advice="; save it as UTF-8"):
        readers = {".csv": _read_csv, ".tsv": _read_csv, ".jsonl": _read_jsonl, ".xlsx": _read_xlsx}
        yield from _read_parquet(table.path, columns) if suffix == ".parquet" else readers[suffix](table.path)


def column_names(table: Table) -> list[str]:
    """The columns of a table; for JSONL all keys of all rows."""
    suffix = table.path.suffix.lower()
    if suffix == ".parquet":
        return list(_parquet_file(table.path).schema_arrow.names)
    rows = islice(read_rows(table), None if suffix == ".jsonl" else 1)
    return list(dict.fromkeys(name for row in rows for name in row))


def _tables_of_folder(folder: Path) -> list[Table]:
    splits = [child for child in sorted(folder.iterdir()) if child.is_dir() and child.name.lower() in SPLIT_ALIASES]
    own = [] if _tables(folder) else filter(_tables, splits)
    return [Table(_one_table(child), child.name) for child in own] or [Table(_one_table(folder))]


def _tables(folder: Path) -> list[Path]:
    return sorted(p for p in folder.iterdir() if p.suffix.lower() in TABLE_SUFFIXES and p.is_file())


def _one_table(folder: Path) -> Path:
    tables = _tables(folder)
    named = [table for table in tables if table.stem.lower() in TABLE_NAMES]
    chosen = named or tables
    if len(chosen) != 1:
        found = ", ".join(table.name for table in chosen) or "none"
        raise DataFormatError(f"{folder}: wanted one table ({', '.join(TABLE_SUFFIXES)}), found {found}; name the file")
    return chosen[0]


def _read_csv(path: Path) -> Iterator[Row]:
    with open(path, newline="", encoding="utf-8-sig") as file:
        reader = csv.DictReader(file, delimiter="\t" if path.suffix.lower() == ".tsv" else ",", strict=True)
        try:
            _check_names(path, reader.fieldnames or ())
            for row in reader:
                if None in row or None in row.values():
                    raise DataFormatError(f"{path}, line {reader.line_num}: as many fields as the header wanted")
                yield {str(key).strip(): value for key, value in row.items()}
        except csv.Error as error:
            raise DataFormatError(f"{path}, line {reader.line_num}: {error}") from error


def _read_xlsx(path: Path) -> Iterator[Row]:
    names: list[str] | None = None
    for number, cells in enumerate(read_sheet(path), 1):
        filled = max((place for place, cell in enumerate(cells, 1) if cell not in (None, "")), default=0)
        if not filled:
            continue
        if names is None:
            names = ["" if cell is None else str(cell).strip() for cell in cells[:filled]]
            _check_names(path, names)
        elif filled > len(names):
            raise DataFormatError(f"{path}, row {number}: as many cells as the header wanted")
        else:
            yield dict(zip_longest(names, cells[: len(names)]))


def _check_names(path: Path, names: Sequence[str]) -> None:
    uses = Counter(str(name).strip() for name in names)
    twice = sorted(name for name, count in uses.items() if count > 1)
    if twice:
        raise DataFormatError(f"{path}: two columns are called {name_some(map(repr, twice))}")


def _read_jsonl(path: Path) -> Iterator[Row]:
    with open(path, encoding="utf-8-sig") as file:
        for number, line in enumerate(file, 1):
            if not line.strip():
                continue
            try:
                row = json.loads(line)
            except (ValueError, RecursionError) as error:
                raise DataFormatError(f"{path}, line {number}: {error}") from error
            if not isinstance(row, dict):
                raise DataFormatError(f"{path}, line {number}: not a JSON object")
            yield row


def _parquet_file(path: Path) -> pq.ParquetFile:
    with format_error(f"{path}: not a Parquet file", OSError, ValueError):
        return pq.ParquetFile(path)


def _read_parquet(path: Path, columns: Sequence[str] | None) -> Iterator[Row]:
    with _parquet_file(path) as file:
        _check_names(path, file.schema_arrow.names)
        wanted = None if columns is None else set(columns)
        names = [name for name in file.schema_arrow.names if wanted is None or name in wanted]
        with format_error(f"{path}: a damaged Parquet file", OSError, pa.ArrowException):
            for batch in file.iter_batches(batch_size=_BATCH_ROWS, columns=names):
                columns_read = zip(batch.schema.names, batch.columns, strict=True)  # by name each is looked for anew
                values = [_values(path, name, column) for name, column in columns_read]
                for i in range(batch.num_rows):
                    yield {name: column[i] for name, column in zip(batch.schema.names, values, strict=True)}


def _values(path: Path, name: str, column: pa.Array) -> list[Any]:
    if not is_numbers(column.type):
        return column.to_pylist()
    return [_array(path, name, value) if value.is_valid else None for value in column]


def _array(path: Path, name: str, value: Any) -> np.ndarray:
    """A list of numbers of any depth as an array; nulls are NaN."""
    values = value.values
    shape = [len(values)]
    while is_list(values.type):
        counts = pc.unique(pc.list_value_length(values)).to_pylist()
        if values.null_count or len(counts) > 1:
            raise DataFormatError(f"{path}: a list in the column {name} has inner lists of different lengths")
        shape.append(counts[0] if counts else 0)
        values = values.flatten()
    return values.to_numpy(zero_copy_only=False).reshape(shape)
