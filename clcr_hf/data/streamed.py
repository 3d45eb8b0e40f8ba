"""Rows of Parquet files where they lie, on a disk or on the Hub: row groups are read when they are asked for, and no
copy of them is made."""

from bisect import bisect_right
from collections import OrderedDict
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from itertools import chain, islice
from typing import Any

import dill
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from datasets import Dataset, DatasetInfo, Features
from datasets.table import table_cast
from huggingface_hub import HfFileSystem

from .errors import DataFormatError, format_error

# What of the row groups is held at once, and what rows are shuffled within; at least one row group.
WINDOW_GROUPS, WINDOW_BYTES = 64, 64 * 2**20

Step = Callable[[Dataset, int], Dataset]


class StreamedRows:
    """
    Rows of Parquet files, with what training uses of `datasets.Dataset`: rows by number, columns that are gone through
    row by row, `select`, `select_columns`, `remove_columns` and `with_format`.

    At most 64 row groups, and about 64 MiB of them (or else one), are in memory. Only the columns that are wanted are
    read. Rows that lie near each other should be asked for together, see [`order_windows`].

    Args:
        files: paths, or addresses on the Hub (`hf://datasets/...`), in order.
        features: types of their columns; those of the first file if left out.

    Raises:
        DataFormatError: a file that is no Parquet, or has other columns than the first; when rows are read, a damaged
            file, by its name.
    """

    def __init__(self, files: Sequence[str], features: Features | None = None):
        self._files = list(map(str, files))
        self._steps: tuple[Step, ...] = ()
        self._kept: dict[int, np.ndarray] = {}
        groups: list[tuple[int, int, int, int]] = []
        for number, file in enumerate(self._files):
            footer = _footer(file)
            with _named(file):
                found = Features.from_arrow_schema(footer.schema.to_arrow_schema())
            features = features or found
            if missing := features.keys() - found.keys():
                raise DataFormatError(f"{file}: no column {min(missing)!r}, which {self._files[0]} has")
            for each in range(footer.num_row_groups):
                group = footer.row_group(each)
                groups.append((number, each, group.num_rows, group.total_byte_size))
        self._columns: tuple[str, ...] = tuple(features or ())
        self._stored = features or Features()
        # Of each row group: its file, its number there, its rows and its bytes.
        self._groups = np.array(groups, dtype=np.int64).reshape(-1, 4)
        self._first = np.concatenate([[0], self._groups[:, 2].cumsum()])
        self._begin()

    def _begin(self) -> None:
        counts = self._groups[:, 2].copy()
        for group, rows in self._kept.items():
            counts[group] = len(rows)
        self.starts = np.concatenate([[0], counts.cumsum()])
        self._cache: OrderedDict[int, Dataset] = OrderedDict()
        self._features: Features | None = None

    def _with(self, **changes: Any) -> "StreamedRows":
        made = object.__new__(StreamedRows)
        vars(made).update({**vars(self), **changes})
        made._begin()
        return made

    def __getstate__(self) -> dict[str, Any]:
        return {**vars(self), "_cache": OrderedDict(), "_steps": dill.dumps(self._steps)}  # some hold local functions

    def __setstate__(self, state: dict[str, Any]) -> None:
        vars(self).update({**state, "_steps": dill.loads(state["_steps"])})

    # -- what it is --------------------------------------------------------------------------------------------------

    def __len__(self) -> int:
        return int(self.starts[-1])

    @property
    def features(self) -> Features:
        """Types of the columns."""
        if self._features is None:
            types = Features({name: self._stored[name] for name in self._columns})
            schema = types.arrow_schema  # of no row at all `datasets` would forget columns
            nothing = pa.Table.from_arrays([pa.nulls(1, field.type) for field in schema], schema=schema)
            self._features = self._made(nothing, 0).features
        return self._features

    @property
    def column_names(self) -> list[str]:
        return list(self.features)

    def filled_columns(self) -> list[str]:
        """Columns of which some row is not None; no more is read than tells that."""
        found: set[str] = set()
        for group in range(len(self._groups)):
            part = self.select_columns([name for name in self.column_names if name not in found])
            if not part.column_names:
                break
            rows = part._read(group)
            found |= {n for n in rows.column_names if rows.with_format("arrow")[n][:].null_count < len(rows)}
        return [name for name in self.column_names if name in found]

    # -- rows --------------------------------------------------------------------------------------------------------

    def __getitem__(self, key: int | str) -> Any:
        if isinstance(key, str):
            return StreamedColumn(self.select_columns([key]), key)
        number = key + len(self) if key < 0 else key
        if not 0 <= number < len(self):
            raise IndexError(f"row {key} of {len(self)}")
        group = bisect_right(self.starts, number) - 1
        return self._group(group)[number - int(self.starts[group])]

    def __iter__(self) -> Iterator[dict[str, Any]]:
        return chain.from_iterable(self.parts())

    def parts(self) -> Iterator[Dataset]:
        """The rows as data sets in memory, a row group each."""
        return (self._read(group) for group in range(len(self._groups)) if self.starts[group] < self.starts[group + 1])

    def part_starts(self) -> list[int]:
        """The number of the first row of each of [`parts`]."""
        return self.starts[:-1][np.diff(self.starts) > 0].tolist()

    def _group(self, group: int) -> Dataset:
        found = self._cache.pop(group, None)
        self._cache[group] = rows = self._read(group) if found is None else found
        while not _fits(self._groups[list(self._cache), 3]):
            self._cache.popitem(last=False)
        return rows

    def _read(self, group: int) -> Dataset:
        number, index = self._groups[group, :2].tolist()
        with _named(self._files[number]), _opened(self._files[number]) as file:
            table = file.read_row_group(index, columns=list(self._columns)).select(self._columns)
            types = Features({name: self._stored[name] for name in self._columns})
            table = table_cast(table, types.arrow_schema)
        rows = self._made(table, int(self._first[group]))
        return rows.select(self._kept[group]) if group in self._kept else rows

    def _made(self, table: pa.Table, first: int) -> Dataset:
        """A row group, the first of whose rows has this number in the files, after all steps."""
        types = Features({name: self._stored[name] for name in self._columns})
        rows = Dataset(table, info=DatasetInfo(features=types), fingerprint="streamed")
        for step in self._steps:
            rows = step(rows, first)
        return rows

    # -- other rows of the same files ----------------------------------------------------------------------------------

    def apply(self, step: Step) -> "StreamedRows":
        """These rows after a step, which is given each row group and the number of its first row. With a method
        `needs(columns)` the step says which columns it reads to make these; it does without the others."""
        return self._with(_steps=(*self._steps, step))

    def select(self, numbers: Sequence[int] | np.ndarray) -> "StreamedRows":
        """The rows of these numbers, which must rise."""
        wanted = np.asarray(numbers, dtype=np.int64)
        if (np.diff(wanted) <= 0).any():
            raise ValueError("streamed rows keep their order: select takes numbers that rise")
        cuts, kept = np.searchsorted(wanted, self.starts), {}
        for group, (start, stop) in enumerate(zip(cuts[:-1], cuts[1:], strict=True)):
            inside = (wanted[start:stop] - self.starts[group]).astype(np.int32)
            if len(inside) < self.starts[group + 1] - self.starts[group] or group in self._kept:
                kept[group] = self._kept[group][inside] if group in self._kept else inside
        return self._with(_kept=kept)

    def select_columns(self, names: Sequence[str]) -> "StreamedRows":
        """Without the other columns, which are not read then."""
        needed: Collection[str] = list(names)
        for step in reversed(self._steps):
            needed = step.needs(needed) if hasattr(step, "needs") else self._columns
        kept = tuple(name for name in self._columns if name in needed)
        return self._with(_columns=kept, _steps=(*self._steps, _Select(tuple(names))))

    def remove_columns(self, names: Sequence[str]) -> "StreamedRows":
        return self.select_columns([name for name in self.column_names if name not in names])

    def with_format(
        self, kind: str | None, columns: Sequence[str] | None = None, output_all_columns: bool = False
    ) -> "StreamedRows":
        """As of a `Dataset`."""
        return self.apply(_Format(kind, None if columns is None else tuple(columns), output_all_columns))

    # -- in which order ------------------------------------------------------------------------------------------------

    def order_windows(self, *seed: int) -> Iterator[tuple[int, Callable[[], np.ndarray]]]:
        """
        All rows once, in an order that `seed` alone decides: row groups are shuffled, cut into windows as large as may
        be in memory, and the rows of a window shuffled.

        Returns:
            Of each window how many rows it has, and what gives their numbers, int64.
        """
        groups = np.random.default_rng(seed).permutation(np.flatnonzero(np.diff(self.starts)))
        window, number = 0, 0
        while window < len(groups):
            stop = window + 1
            while stop < len(groups) and _fits(self._groups[groups[window : stop + 1], 3]):
                stop += 1
            inside = groups[window:stop]

            def rows(inside: np.ndarray = inside, number: int = number) -> np.ndarray:
                found = np.concatenate([np.arange(self.starts[each], self.starts[each + 1]) for each in inside])
                return np.random.default_rng((*seed, number)).permutation(found)

            yield int((self.starts[inside + 1] - self.starts[inside]).sum()), rows
            window, number = stop, number + 1


class StreamedColumn:
    """The values of a column, read as they are gone through; `[:]` gives all of them."""

    def __init__(self, rows: StreamedRows, name: str):
        self._rows, self._name = rows, name

    def __len__(self) -> int:
        return len(self._rows)

    def __iter__(self) -> Iterator[Any]:
        return (value for part in self._rows.parts() for value in part[self._name])

    def __getitem__(self, key: int | slice) -> Any:
        return list(self)[key] if isinstance(key, slice) else self._rows[key][self._name]


def some_at_a_time(values: Iterable[Any], count: int = 10_000) -> Iterator[list[Any]]:
    """Values in lists of so many."""
    source = iter(values)
    while part := list(islice(source, count)):
        yield part


@dataclass(frozen=True)
class _Select:
    names: tuple[str, ...]

    def __call__(self, rows: Dataset, first: int) -> Dataset:
        return rows.select_columns([name for name in self.names if name in rows.column_names])

    def needs(self, columns: Collection[str]) -> Collection[str]:
        return columns


@dataclass(frozen=True)
class _Format:
    kind: str | None
    columns: tuple[str, ...] | None
    all_columns: bool

    def __call__(self, rows: Dataset, first: int) -> Dataset:
        columns = self.columns and [name for name in self.columns if name in rows.column_names]
        if self.columns is not None and not columns:
            return rows
        return rows.with_format(self.kind, columns=columns or None, output_all_columns=self.all_columns)

    def needs(self, columns: Collection[str]) -> Collection[str]:
        return columns


def _fits(sizes: np.ndarray) -> bool:
    """Whether row groups of so many bytes may be in memory together."""
    return len(sizes) <= 1 or (len(sizes) <= WINDOW_GROUPS and int(sizes.sum()) <= WINDOW_BYTES)


def _named(file: str) -> Any:
    """What comes of reading a file, as one error that names it."""
    return format_error(f"{file}: cannot be read", Exception, advice="" if "://" in file else ". It is damaged")


@contextmanager
def _opened(file: str) -> Iterator[pq.ParquetFile]:
    with ExitStack() as stack:
        place = stack.enter_context(HfFileSystem().open(file, "rb")) if "://" in file else file
        yield stack.enter_context(pq.ParquetFile(place, page_checksum_verification=True))


def _footer(file: str) -> pq.FileMetaData:
    with _named(file), _opened(file) as opened:
        return opened.metadata


__all__ = ["WINDOW_BYTES", "WINDOW_GROUPS", "StreamedColumn", "StreamedRows", "some_at_a_time"]
