"""Rows as shards of Parquet: written a few megabytes at a time, safe to interrupt, read back memory-mapped.

A folder of shards is the form that `clcr extract` and `clcr convert` write and that training reads:
`<folder>/<split>/<split>-<rank>-<index>.parquet`, the types of the columns in each file's metadata. A shard appears
under its name only when it is whole. A `<name>.partial.json` in the folder says that its writer has not finished; in
`<name>.json` it leaves the rows, the bytes and a hash of each shard, which are compared when the folder is read.
"""

import glob
import os
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from contextlib import AbstractContextManager, ExitStack
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from datasets import DatasetDict, Features, IterableDatasetDict, load_dataset
from datasets.exceptions import DatasetGenerationError
from datasets.packaged_modules.parquet.parquet import Parquet
from pyarrow.dataset import ParquetFragmentScanOptions

from .arrow import is_numbers, rows_table
from .columns import SPLITS, DataFormatError
from .errors import format_error
from .folders import RECORDS, check_finished, file_sum, read_json, replace_durably
from .registry import ROWS_PER_SHARD
from .streamed import StreamedRows

# A row group is held in memory while it is written, some four times over, and when a row of it is read in streaming.
_GROUP_BYTES = 4 * 2**20
_DAMAGED = ". To mend it, remove the file and run `clcr extract` again, or `clcr convert` into a new folder"
_NAME = re.compile(r"(?P<split>.+)-(?P<rank>\d{3,})-(?P<index>\d{5,})\.parquet")


class ShardWriter(AbstractContextManager["ShardWriter"]):
    """Writes the rows of one split as shards; one writer a process.

    Memory stays at some tens of megabytes and one row, whatever `rows_per_shard`. A writer opened on a folder that has
    shards goes on after them, and removes what an interrupted one of its rank left behind. As a context manager it
    closes the last shard also when an exception ends the block, unless a write failed: the rows before it are whole.

    Args:
        folder: root of all splits; made when absent.
        split: train, validation or test.
        features: the columns, an `id` string among them.
        rank: of this process; processes with different ranks may write to one folder at the same time.
        rows_per_shard: rows a file.

    Raises:
        DataFormatError: a split or rank that cannot be, no `id` column, or shards of other columns in the folder.
    """

    def __init__(
        self,
        folder: str | os.PathLike,
        split: str,
        features: Features,
        *,
        rank: int = 0,
        rows_per_shard: int = ROWS_PER_SHARD,
    ):
        if split not in SPLITS:
            raise DataFormatError(f"split {split!r} is none of {', '.join(SPLITS)}")
        if "id" not in features or getattr(features["id"], "dtype", None) != "string":
            raise DataFormatError("shards need a column 'id' of strings")
        if rank < 0 or rows_per_shard < 1:
            raise DataFormatError(f"rank is {rank} and rows_per_shard {rows_per_shard}; at least 0 and 1 are wanted")
        self.folder = Path(folder) / split
        self.split = split
        self.features = features
        self.rank = rank
        self.rows_per_shard = rows_per_shard
        self._schema: pa.Schema = features.arrow_schema
        self._waiting: list[pa.Table] = []
        self._bytes = 0
        self._rows = 0
        self._broken = False
        self._file: pq.ParquetWriter | None = None
        self.folder.mkdir(parents=True, exist_ok=True)
        for leftover in self.folder.glob(f"{split}-{rank:03d}-*.tmp"):
            leftover.unlink()
        shards = shard_files(folder, split)
        if shards:
            _check_features(shards[-1], features)
        mine = [path for path in shards if path.name.startswith(f"{split}-{rank:03d}-")]
        self._index = 1 + int(mine[-1].stem.rpartition("-")[2]) if mine else 0

    def write(self, row: Mapping[str, Any]) -> None:
        """Add a row; what it may hold, and the errors, are those of `arrow.rows_table`."""
        table = rows_table([row], self.features, self._schema, self.split)
        self._waiting.append(table)
        self._bytes += table.nbytes
        self._rows += 1
        try:
            if self._bytes >= _GROUP_BYTES:
                self._write_group()
            if self._rows >= self.rows_per_shard:
                self._finish_shard()
        except BaseException:
            self._broken = True
            raise

    def close(self) -> None:
        """Write what is left as the last shard; after a failed write, give up the shard that was being written."""
        if self._broken:
            self._rows, self._waiting = 0, []
        if self._rows:
            self._finish_shard()

    def __exit__(self, *exception: object) -> None:
        self.close()

    def _target(self) -> Path:
        return self.folder / f"{self.split}-{self.rank:03d}-{self._index:05d}.parquet"

    def _write_group(self) -> None:
        if self._file is None:
            # Measurements hardly repeat: a dictionary of them is work for nothing.
            repeated = [name for name in self._schema.names if not is_numbers(self._schema.field(name).type)]
            options = {"use_dictionary": repeated, "write_page_checksum": True}
            self._file = pq.ParquetWriter(f"{self._target()}.tmp", self._schema, **options)
        self._file.write_table(pa.concat_tables(self._waiting))
        self._waiting, self._bytes = [], 0

    def _finish_shard(self) -> None:
        if self._waiting:
            self._write_group()
        assert self._file is not None
        self._file.close()
        target = self._target()
        replace_durably(f"{target}.tmp", target)
        self._file, self._rows = None, 0
        self._index += 1


class ShardSet(ExitStack):
    """A `ShardWriter` for each split, opened when its first row comes. Arguments as there."""

    def __init__(self, folder: str | os.PathLike, features: Features, **options: Any):
        super().__init__()
        self.folder, self.features, self._options = folder, features, options
        self._writers: dict[str, ShardWriter] = {}

    def write(self, split: str, row: Mapping[str, Any]) -> None:
        """Add a row to its split."""
        if split not in self._writers:
            writer = ShardWriter(self.folder, split, self.features, **self._options)
            self._writers[split] = self.enter_context(writer)
        self._writers[split].write(row)


# ---------------------------------------------------------------------------------------------------------------------
# Reading


def shard_files(folder: str | os.PathLike, split: str) -> list[Path]:
    """The complete shards of a split, by rank, then in the order written; empty when there are none."""
    found = []
    for path in (Path(folder) / split).glob(f"{glob.escape(split)}-*"):
        name = _NAME.fullmatch(path.name)
        if name is not None and name["split"] == split:
            found.append((int(name["rank"]), int(name["index"]), path))
    return [path for *_, path in sorted(found)]


def _read_metadata(path: Path) -> pq.FileMetaData:
    with format_error(f"{path}: not a Parquet file", OSError, ValueError, advice=_DAMAGED):
        return pq.read_metadata(path)


def _shard_features(path: Path) -> Features:
    schema = _read_metadata(path).schema.to_arrow_schema()
    if not schema.metadata or b"huggingface" not in schema.metadata:
        raise DataFormatError(f"{path}: no column types in its metadata; it was not written as a shard")
    with format_error(f"{path}: its column types cannot be read", ValueError, LookupError, TypeError, advice=_DAMAGED):
        return Features.from_arrow_schema(schema)


def _check_features(path: Path, features: Features) -> None:
    found = _shard_features(path)
    if found != features:
        differ = sorted(name for name in {*found, *features} if found.get(name) != features.get(name))
        raise DataFormatError(
            f"{path}: other column types than wanted ({', '.join(differ) or 'their order'}). Use a new folder"
        )


def _read_ids(path: Path) -> list[str]:
    with format_error(f"{path}: not a shard", OSError, ValueError, KeyError, advice=_DAMAGED):
        return pq.read_table(path, columns=["id"], page_checksum_verification=True)["id"].to_pylist()


def written_ids(folder: str | os.PathLike, split: str) -> set[str]:
    """Ids of the rows in the complete shards of a split, of all ranks; only that column is read.

    Raises:
        DataFormatError: a damaged shard, named.
    """
    return set(shard_ids(folder, split))


def count_rows(folder: str | os.PathLike, split: str) -> int:
    """Rows in the complete shards of a split."""
    return sum(_read_metadata(path).num_rows for path in shard_files(folder, split))


def shard_ids(folder: str | os.PathLike, split: str) -> Iterator[str]:
    """Ids of the rows in the complete shards of a split, in the order of writing, a shard at a time."""
    for path in shard_files(folder, split):
        yield from _read_ids(path)


def record_shards(folder: str | os.PathLike) -> dict[str, dict[str, Any]]:
    """What a writer that has finished records of its shards: `rows`, `bytes` and `sha256` by path in the folder.

    Raises:
        DataFormatError: an id comes twice, or a shard is damaged.
    """
    paths = [path for split in SPLITS for path in shard_files(folder, split)]
    _check_ids(folder, paths)
    sums = {path: {"rows": _read_metadata(path).num_rows, **file_sum(path)} for path in paths}
    return {path.relative_to(folder).as_posix(): found for path, found in sums.items()}


def check_shards(folder: str | os.PathLike, *, verify: bool = False) -> None:
    """Compares the shards of a finished folder with what its writer recorded. Folders of older versions have no such
    record and pass.

    Args:
        verify: compare the hashes too, for which every byte is read.

    Raises:
        DataFormatError: a shard that is missing, altered or not in the record, named; `verify` without a record.
    """
    found = {path.relative_to(folder).as_posix(): path for split in SPLITS for path in shard_files(folder, split)}
    place = next((path for name in RECORDS if "shards" in (read_json(path := Path(folder) / name) or {})), None)
    if place is None:
        if verify:
            raise DataFormatError(f"{folder}: no hashes to verify; they are recorded since version 0.2, convert anew")
        return
    known = (read_json(place) or {})["shards"]
    with format_error(
        f"{place}: `shards` is not as it was written", ValueError, LookupError, TypeError, AttributeError
    ):
        for name in found.keys() - known.keys():
            raise DataFormatError(f"{found[name]}: not of this folder, its record does not name it. Remove it")
        for name, wanted in known.items():
            fault = _fault(found.get(name), wanted, verify)
            if fault is not None:
                raise DataFormatError(f"{Path(folder) / name}: {fault}{_DAMAGED}")


def _fault(path: Path | None, wanted: Mapping[str, Any], verify: bool) -> str | None:
    """In what a shard differs from the record."""
    if path is None:
        return "missing"
    size = path.stat().st_size
    if size != wanted["bytes"]:
        return f"altered, it has {size:,} bytes and {wanted['bytes']:,} were written"
    rows = _read_metadata(path).num_rows
    if rows != wanted["rows"]:
        return f"altered, it has {rows} rows and {wanted['rows']} were written"
    if verify and not file_sum(path).items() <= wanted.items():
        return "altered, its hash is not that of what was written"
    return None


def _check_ids(folder: str | os.PathLike, paths: Iterable[Path]) -> None:
    uses = Counter(name for path in paths for name in _read_ids(path))
    twice = [name for name, count in uses.items() if count > 1]
    if twice:
        told = f"{len(twice)} ids come twice (first: {twice[0]!r}). Were two runs written into one folder?"
        raise DataFormatError(f"{folder}: {told}")


def load_shards(
    folder: str | os.PathLike, *, streaming: bool = False, verify: bool = False
) -> DatasetDict | IterableDatasetDict:
    """Read a folder of shards with the column types that it was written with.

    Args:
        folder: holds train, validation and test, or some of them.
        streaming: read row group by row group instead of through a memory-mapped copy in the cache of `datasets`.
        verify: as of [`check_shards`], without which rows and bytes alone are compared. (Pages with other bytes than
            were written are refused when they are read, where shards have checksums, as all since version 0.2.)

    Returns:
        DatasetDict (IterableDatasetDict when streaming) of the splits present.

    Raises:
        FileNotFoundError: no such folder.
        DataFormatError: no shards, a writer that has not finished, shards that are damaged or not as recorded, column
            types that differ between shards, or an id that comes twice. When streaming, damage inside a shard comes
            out when its rows are read.
    """
    files, features = _opened(folder, verify)
    everything = [path for paths in files.values() for path in paths]
    _check_ids(folder, everything)
    patterns = {split: [glob.escape(os.path.abspath(path)) for path in paths] for split, paths in files.items()}
    options = {
        "data_files": patterns,
        "features": features,
        "fragment_scan_options": ParquetFragmentScanOptions(page_checksum_verification=True),
    }
    if streaming:
        return _Shards(**options).as_streaming_dataset()
    try:
        return load_dataset("parquet", **options)
    except DatasetGenerationError:
        for path in everything:
            _check_pages(path)
        raise


def stream_shards(folder: str | os.PathLike, *, verify: bool = False) -> dict[str, StreamedRows]:
    """
    A folder of shards as rows that are read where they lie; what memory it takes does not grow with them.

    Args:
        folder, verify: as of [`load_shards`].

    Raises:
        FileNotFoundError, DataFormatError: as `load_shards`. Ids are compared where no record says that they were.
    """
    files, features = _opened(folder, verify)
    if not any("shards" in (read_json(Path(folder) / name) or {}) for name in RECORDS):
        _check_ids(folder, [path for paths in files.values() for path in paths])
    return {split: StreamedRows([str(path) for path in paths], features) for split, paths in files.items()}


def _opened(folder: str | os.PathLike, verify: bool) -> tuple[dict[str, list[Path]], Features]:
    """The shards of a finished folder by split, and their one set of columns."""
    if not os.path.isdir(folder):
        raise FileNotFoundError(f"{folder} is not a folder")
    check_finished(folder)
    check_shards(folder, verify=verify)
    files = {split: paths for split in SPLITS if (paths := shard_files(folder, split))}
    if not files:
        old = next(Path(folder).glob("*/*-*.safetensors"), None)
        told = f"; {old.name} is of version 0.1, convert anew" if old is not None else ""
        raise DataFormatError(f"{folder}: no shards such as train/train-000-00000.parquet{told}")
    everything = [path for paths in files.values() for path in paths]
    features = _shard_features(everything[0])
    for path in everything[1:]:
        _check_features(path, features)
    return files, features


class _Shards(Parquet):
    """As `datasets`', which names no file where its pages are damaged."""

    def _generate_tables(self, files: Any, row_groups_list: Any) -> Iterator[Any]:
        for file, groups in zip(files, row_groups_list, strict=True):
            with format_error(f"{file}: damaged", OSError, ValueError, advice=_DAMAGED):
                yield from super()._generate_tables([file], [groups])


def _check_pages(path: Path) -> None:
    """DataFormatError for a shard that does not read to its end."""
    with format_error(f"{path}: damaged", OSError, ValueError, advice=_DAMAGED):
        for _ in pq.ParquetFile(path, page_checksum_verification=True).iter_batches():
            pass
