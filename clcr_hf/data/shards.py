"""Rows as shards of Parquet: written a few megabytes at a time, safe to interrupt, read back memory-mapped.

A folder of shards is the form that `clcr extract` and `clcr convert` write and that training reads:
`<folder>/<split>/<split>-<rank>-<index>.parquet`, the types of the columns in each file's metadata. A shard appears
under its name only when it is whole. A `<name>.partial.json` in the folder says that its writer has not finished.

Features alone may lie in `.safetensors` shards instead, for tools outside this package; see `TensorShardWriter`.
"""

import glob
import json
import os
import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from datasets import (
    Audio,
    Dataset,
    DatasetDict,
    Features,
    Image,
    IterableDataset,
    IterableDatasetDict,
    List,
    Video,
    concatenate_datasets,
    load_dataset,
)
from datasets.features.features import cast_to_python_objects, encode_nested_example
from safetensors.numpy import save_file

from .columns import SPLITS, DataFormatError, raise_problems

ROWS_PER_SHARD = 256
# A row group is held in memory while it is written, some four times over, and when a row of it is read in streaming.
_GROUP_BYTES = 4 * 2**20
_TENSOR_SHARD_BYTES = 32 * 2**20
_NAME = re.compile(r"(?P<split>.+)-(?P<rank>\d{3,})-(?P<index>\d{5,})\.(parquet|safetensors)")
_TENSOR_TYPES = {"F32": "float32", "F64": "float64", "F16": "float16", "I64": "int64", "I32": "int32", "U8": "uint8"}


class ShardWriter:
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

    suffix = "parquet"

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
        self._batches: list[pa.RecordBatch] = []
        self._bytes = 0
        self._rows = 0
        self._broken = False
        self._file: pq.ParquetWriter | None = None
        self.folder.mkdir(parents=True, exist_ok=True)
        for leftover in self.folder.glob(f"{split}-{rank:03d}-*.tmp"):
            leftover.unlink()
        shards = shard_files(folder, split)
        if shards:
            if shards[-1].suffix != f".{self.suffix}":
                raise DataFormatError(f"{folder} holds {shards[-1].suffix} shards; a folder has one kind")
            _check_features(shards[-1], features)
        mine = [int(_index(path)["index"]) for path in shards if int(_index(path)["rank"]) == rank]
        self._index = max(mine, default=-1) + 1

    def write(self, row: Mapping[str, Any]) -> None:
        """Add a row.

        Args:
            row: a value or None for each column. Sequences may be lists or NumPy arrays (which are much faster),
                media a path or `{"path": ..., "bytes": ...}`, classes a name or number.

        Raises:
            DataFormatError: columns absent or unknown, an empty id, or a value that is not of its column's type.
        """
        if row.keys() != self.features.keys():
            differ = sorted(row.keys() ^ self.features.keys())
            raise DataFormatError(f"a row of {self.split} lacks or adds the columns {', '.join(differ)}")
        if not isinstance(row["id"], str) or not row["id"]:
            raise DataFormatError(f"a row of {self.split} has the id {row['id']!r}; ids are non-empty strings")
        cells = [self._cell(name, row) for name in self.features]
        batch = pa.RecordBatch.from_arrays(cells, schema=self._schema)
        self._batches.append(batch)
        self._bytes += batch.nbytes
        self._rows += 1
        try:
            if self._bytes >= self._most_bytes():
                self._write_group()
            if self._rows >= self.rows_per_shard:
                self._finish_shard()
        except BaseException:
            self._broken = True
            raise

    def close(self) -> None:
        """Write what is left as the last shard; after a failed write, give up the shard that was being written."""
        if self._broken:
            self._rows, self._batches = 0, []
        if self._rows:
            self._finish_shard()

    def __enter__(self) -> "ShardWriter":
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def _cell(self, name: str, row: Mapping[str, Any]) -> pa.Array:
        try:
            return _to_arrow(row[name], self.features[name], self._schema.field(name).type)
        except (ValueError, TypeError, KeyError, OverflowError, AttributeError, pa.ArrowException) as error:
            raise DataFormatError(
                f"row {row['id']!r} of {self.split}: column {name!r} does not hold {self.features[name]} ({error})"
            ) from error

    def _most_bytes(self) -> int:
        return _GROUP_BYTES

    def _target(self) -> Path:
        return self.folder / f"{self.split}-{self.rank:03d}-{self._index:05d}.{self.suffix}"

    def _write_group(self) -> None:
        if self._file is None:
            # Measurements hardly repeat: a dictionary of them is work for nothing.
            repeated = [name for name in self._schema.names if not is_numbers(self._schema.field(name).type)]
            self._file = pq.ParquetWriter(f"{self._target()}.tmp", self._schema, use_dictionary=repeated)
        self._file.write_table(pa.Table.from_batches(self._batches, self._schema))
        self._batches, self._bytes = [], 0

    def _finish_shard(self) -> None:
        if self._batches:
            self._write_group()
        assert self._file is not None
        self._file.close()
        target = self._target()
        replace_durably(f"{target}.tmp", target)
        self._file, self._rows = None, 0
        self._index += 1


class TensorShardWriter(ShardWriter):
    """Writes rows as `.safetensors` shards with a `.json` beside each, which holds what is no sequence of numbers.

    A sequence column `x` becomes the tensors `x.values` (all rows end to end), `x.offsets` (where each row starts, and
    the end; `x.1.offsets` for the sequences inside those, if they differ in length) and `x.absent` (1 where the row
    has none), the last only if one is absent. A shard is held in memory until it is written: it ends after
    `rows_per_shard` rows or 32 MiB.

    Args:
        as for `ShardWriter`; columns of media are refused.
    """

    suffix = "safetensors"

    def __init__(self, folder: str | os.PathLike, split: str, features: Features, **options: Any):
        media = [name for name, feature in features.items() if is_media(feature)]
        if media:
            raise DataFormatError(f"columns of media ({', '.join(media)}) need Parquet; safetensors hold features")
        super().__init__(folder, split, features, **options)

    def _most_bytes(self) -> int:
        return _TENSOR_SHARD_BYTES

    def _write_group(self) -> None:
        self._finish_shard()

    def _finish_shard(self) -> None:
        table = pa.Table.from_batches(self._batches, self._schema).combine_chunks()
        tensors: dict[str, np.ndarray] = {}
        plain: dict[str, list[Any]] = {}
        for name in table.column_names:
            column = table[name].combine_chunks()
            if is_numbers(column.type):
                _take_apart(name, column, tensors)
            else:
                plain[name] = column.to_pylist()
        self._write_files(tensors, {"features": self.features.to_dict(), "rows": table.num_rows, "columns": plain})
        self._batches, self._bytes, self._rows = [], 0, 0
        self._index += 1

    def _write_files(self, tensors: dict[str, np.ndarray], rest: dict[str, Any]) -> None:
        target = self._target()
        temporary, sidecar = Path(f"{target}.tmp"), target.with_suffix(".json")
        Path(f"{sidecar}.tmp").write_text(json.dumps(rest), encoding="utf-8")
        replace_durably(f"{sidecar}.tmp", sidecar)
        save_file(tensors, temporary)
        replace_durably(temporary, target)  # last: with it the shard is there


def replace_durably(temporary: str | os.PathLike, target: str | os.PathLike) -> None:
    """Give a finished file its name, after its bytes are on the disk: a power cut leaves the whole file or none."""
    with open(temporary, "rb+") as file:
        os.fsync(file.fileno())
    os.replace(temporary, target)


def _to_arrow(value: Any, feature: Any, kind: pa.DataType) -> pa.Array:
    """`value` as an Arrow array of one element; arrays of numbers go in without Python objects."""
    if _is_numbers(value) and _is_list(kind):
        return _nested(value[None], kind)
    if _is_list_of_arrays(value) and pa.types.is_list(kind) and _is_list(kind.value_type):
        inner = pa.concat_arrays([_nested(item[None], kind.value_type) for item in value])
        return pa.ListArray.from_arrays(pa.array([0, len(value)], pa.int32()), inner, type=kind)
    return pa.array([_encode(value, feature)], kind)


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


def _is_list(kind: pa.DataType) -> bool:
    return pa.types.is_list(kind) or pa.types.is_fixed_size_list(kind)


def _nested(array: np.ndarray, kind: pa.DataType) -> pa.Array:
    """Numbers (N, ...) as an Arrow array of N lists of lists, one axis a level."""
    if array.ndim == 1:
        if _is_list(kind):
            raise ValueError("an array of too few axes")
        return pa.array(np.ascontiguousarray(array, dtype=kind.to_pandas_dtype()), kind)
    if not _is_list(kind):
        raise ValueError("an array of too many axes")
    inner = _nested(array.reshape(array.shape[0] * array.shape[1], *array.shape[2:]), kind.value_type)
    if pa.types.is_fixed_size_list(kind):
        if array.shape[1] != kind.list_size:
            raise ValueError(f"an axis of {array.shape[1]} where {kind.list_size} is the length")
        return pa.FixedSizeListArray.from_arrays(inner, type=kind)
    offsets = pa.array(np.arange(len(array) + 1) * array.shape[1], pa.int32())
    return pa.ListArray.from_arrays(offsets, inner, type=kind)


# ---------------------------------------------------------------------------------------------------------------------
# Reading


def _index(path: Path) -> re.Match[str]:
    found = _NAME.fullmatch(path.name)
    assert found is not None
    return found


def shard_files(folder: str | os.PathLike, split: str) -> list[Path]:
    """The complete shards of a split, by rank, then in the order written; empty when there are none."""
    found = []
    for path in (Path(folder) / split).glob(f"{glob.escape(split)}-*"):
        name = _NAME.fullmatch(path.name)
        if name is not None and name["split"] == split:
            found.append((int(name["rank"]), int(name["index"]), path))
    return [path for *_, path in sorted(found)]


def _read_metadata(path: Path) -> pq.FileMetaData:
    try:
        return pq.read_metadata(path)
    except (OSError, ValueError) as error:
        raise DataFormatError(f"{path}: not a Parquet file ({error}). Remove it and run its writer again") from error


def _read_sidecar(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.with_suffix(".json").read_text(encoding="utf-8"))
        if not isinstance(content, dict) or not {"features", "rows", "columns"} <= content.keys():
            raise ValueError("not what a shard writer writes")
        return content
    except (OSError, ValueError) as error:
        raise DataFormatError(
            f"{path}: its .json cannot be read ({error}). Remove both and run its writer again"
        ) from error


def _shard_features(path: Path) -> Features:
    if _is_tensors(path):
        return Features.from_dict(_read_sidecar(path)["features"])
    schema = _read_metadata(path).schema.to_arrow_schema()
    if not schema.metadata or b"huggingface" not in schema.metadata:
        raise DataFormatError(f"{path}: no column types in its metadata; it was not written as a shard")
    return Features.from_arrow_schema(schema)


def _is_tensors(path: Path) -> bool:
    return path.suffix == ".safetensors"


def _check_features(path: Path, features: Features) -> None:
    found = _shard_features(path)
    if found != features:
        differ = sorted(name for name in {*found, *features} if found.get(name) != features.get(name))
        raise DataFormatError(
            f"{path}: other column types than wanted ({', '.join(differ) or 'their order'}). Use a new folder"
        )


def _read_ids(path: Path) -> list[str]:
    if _is_tensors(path):
        return _read_sidecar(path)["columns"]["id"]
    try:
        return pq.read_table(path, columns=["id"])["id"].to_pylist()
    except (OSError, ValueError, KeyError) as error:
        raise DataFormatError(f"{path}: not a shard ({error}). Remove it and run its writer again") from error


def written_ids(folder: str | os.PathLike, split: str) -> set[str]:
    """Ids of the rows in the complete shards of a split, of all ranks; only that column is read.

    Raises:
        DataFormatError: a damaged shard, named.
    """
    return {name for path in shard_files(folder, split) for name in _read_ids(path)}


def count_rows(folder: str | os.PathLike, split: str) -> int:
    """Rows in the complete shards of a split."""
    return sum(
        _read_sidecar(path)["rows"] if _is_tensors(path) else _read_metadata(path).num_rows
        for path in shard_files(folder, split)
    )


def shard_ids(folder: str | os.PathLike, split: str) -> Iterator[str]:
    """Ids of the rows in the complete shards of a split, in the order of writing, a shard at a time."""
    for path in shard_files(folder, split):
        yield from _read_ids(path)


def load_shards(folder: str | os.PathLike, *, streaming: bool = False) -> DatasetDict | IterableDatasetDict:
    """Read a folder of shards with the column types that it was written with.

    Args:
        folder: holds train, validation and test, or some of them.
        streaming: read row group by row group instead of through a memory-mapped copy in the cache of `datasets`.

    Returns:
        DatasetDict (IterableDatasetDict when streaming) of the splits present.

    Raises:
        FileNotFoundError: no such folder.
        DataFormatError: no shards, a writer that has not finished, damaged shards, column types that differ between
            shards, or an id that comes twice.
    """
    if not os.path.isdir(folder):
        raise FileNotFoundError(f"{folder} is not a folder")
    check_finished(folder)
    files = {split: paths for split in SPLITS if (paths := shard_files(folder, split))}
    if not files:
        raise DataFormatError(f"{folder}: no shards such as train/train-000-00000.parquet")
    everything = [path for paths in files.values() for path in paths]
    features = _shard_features(everything[0])
    for path in everything[1:]:
        _check_features(path, features)
    _check_ids(folder, {split: [name for path in paths for name in _read_ids(path)] for split, paths in files.items()})
    if any(map(_is_tensors, everything)):
        return _load_tensors(files, features, streaming)
    patterns = {split: [glob.escape(os.path.abspath(path)) for path in paths] for split, paths in files.items()}
    return load_dataset("parquet", data_files=patterns, features=features, streaming=streaming)


def check_finished(folder: str | os.PathLike) -> None:
    """DataFormatError if a writer of this folder left its mark of unfinished work."""
    for mark in sorted(Path(folder).glob("*.partial.json")):
        name = mark.name.removesuffix(".partial.json")
        raise DataFormatError(f"{folder}: `clcr {name}` has not finished here. Run the same command again to go on")


def _check_ids(folder: str | os.PathLike, ids: Mapping[str, Sequence[str]]) -> None:
    uses = Counter(name for names in ids.values() for name in names)
    twice = [name for name, count in uses.items() if count > 1]
    problems = [f"{len(twice)} ids come twice (first: {twice[0]!r})"] if twice else []
    raise_problems(folder, problems, "Were two runs written into one folder?")


# ---------------------------------------------------------------------------------------------------------------------
# Columns as tensors


def is_media(feature: Any) -> bool:
    """Whether a column holds files: videos, sounds, pictures, or lists of them."""
    return isinstance(feature, (Audio, Image, Video)) or (isinstance(feature, List) and is_media(feature.feature))


def is_numbers(kind: pa.DataType) -> bool:
    """Whether a column holds sequences (of sequences) of numbers."""
    if not _is_list(kind):
        return False
    while _is_list(kind):
        kind = kind.value_type
    return pa.types.is_floating(kind) or pa.types.is_integer(kind)


def _take_apart(name: str, column: pa.Array, tensors: dict[str, np.ndarray]) -> None:
    if column.null_count:
        tensors[f"{name}.absent"] = np.array(column.is_null().to_pylist(), dtype=np.uint8)
        column = column.fill_null(pa.scalar([0] * column.type.list_size if _is_fixed(column.type) else [], column.type))
    shape, level = [], 0
    while _is_list(column.type):
        if _is_fixed(column.type):
            shape.append(column.type.list_size)
        else:
            label = f"{name}.{level}" if level else name
            tensors[f"{label}.offsets"] = (column.offsets.to_numpy() - column.offsets[0].as_py()).astype(np.int64)
            shape = []
        column, level = column.flatten(), level + 1
    tensors[f"{name}.values"] = np.ascontiguousarray(column.to_numpy(zero_copy_only=False).reshape(-1, *shape))


def _is_fixed(kind: pa.DataType) -> bool:
    return pa.types.is_fixed_size_list(kind)


def _put_together(name: str, kind: pa.DataType, tensors: Mapping[str, np.ndarray]) -> pa.Array:
    def build(kind: pa.DataType, level: int) -> pa.Array:
        if not _is_list(kind):
            return pa.array(tensors[f"{name}.values"].reshape(-1), kind)
        inner = build(kind.value_type, level + 1)
        mask = pa.array(absent.astype(bool)) if level == 0 and absent is not None else None
        if _is_fixed(kind):
            return pa.FixedSizeListArray.from_arrays(inner, type=kind, mask=mask)
        offsets = tensors[f"{name}.{level}.offsets" if level else f"{name}.offsets"].astype(np.int32)
        return pa.ListArray.from_arrays(pa.array(offsets), inner, type=kind, mask=mask)

    absent = tensors.get(f"{name}.absent")
    column = build(kind, 0)
    column.validate(full=True)  # offsets of a damaged file must not lead outside its values
    return column


def _read_tensors(path: Path, features: Features) -> pa.Table:
    """A shard as a table whose numbers stay in the mapped file."""
    rest = _read_sidecar(path)
    schema = features.arrow_schema
    try:
        tensors = _mapped_tensors(path)
        columns = [
            _put_together(field.name, field.type, tensors)
            if is_numbers(field.type)
            else pa.array(rest["columns"][field.name], field.type)
            for field in schema
        ]
        if any(len(column) != rest["rows"] for column in columns):
            raise ValueError("columns of unequal length")
        return pa.Table.from_arrays(columns, schema=schema)
    except (OSError, ValueError, LookupError, TypeError, AttributeError, OverflowError, pa.ArrowException) as error:
        raise DataFormatError(f"{path}: not a shard ({error}). Remove it and run its writer again") from error


def _mapped_tensors(path: Path) -> dict[str, np.ndarray]:
    data = np.memmap(path, dtype=np.uint8, mode="r")
    size = int.from_bytes(data[:8].tobytes(), "little")
    if size > len(data) - 8:
        raise ValueError("its header is longer than the file")
    header = json.loads(data[8 : 8 + size].tobytes())
    tensors = {}
    for name, entry in header.items():
        if name != "__metadata__":
            start, stop = entry["data_offsets"]
            raw = data[8 + size + start : 8 + size + stop]
            tensors[name] = raw.view(_TENSOR_TYPES[entry["dtype"]]).reshape(entry["shape"])
    return tensors


def _load_tensors(
    files: Mapping[str, Sequence[Path]], features: Features, streaming: bool
) -> DatasetDict | IterableDatasetDict:
    if streaming:
        return IterableDatasetDict(
            {
                split: IterableDataset.from_generator(
                    _tensor_rows, features=features, gen_kwargs={"paths": list(paths), "features": features}
                )
                for split, paths in files.items()
            }
        )
    return DatasetDict(
        {
            split: concatenate_datasets([Dataset(_read_tensors(path, features)) for path in paths])
            for split, paths in files.items()
        }
    )


def _tensor_rows(paths: Sequence[Path], features: Features) -> Iterator[dict[str, Any]]:
    for path in paths:
        table = _read_tensors(path, features)
        for start in range(table.num_rows):
            yield table.slice(start, 1).to_pylist()[0]
