"""HDF5 and `.npz` files from strangers, read without following them anywhere and without believing their sizes.

Both formats can name other files, hold pickled objects, and declare far more data than they hold. What is read here is
plain arrays of numbers and strings that lie in the file itself; everything else is refused before memory is taken.
"""

import functools
import math
import os
import re
import zipfile
import zlib
from collections import Counter
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from typing import IO, TYPE_CHECKING, Any

import numpy as np

from ..errors import DataFormatError, format_error, optional_package

if TYPE_CHECKING:
    import h5py

MAX_ARRAY_BYTES = 8 * 2**30
MAX_NPZ_BYTES = 8 * 2**30
# Sizes that any machine can hold; a higher one must also be plausible for the file's own size.
_HARMLESS_BYTES = 256 * 2**20
_PLAUSIBLE_RATIO = 100
_MAX_DEFLATE_RATIO = 1032  # deflate cannot do better
_MAX_NPZ_ENTRIES = 10_000
_UNSTORED_BYTES = 2**20  # of a dataset that HDF5 may make up of its fill value
_PLAIN_KINDS = "biufcSU"
_DEFLATE, _SHUFFLE, _FLETCHER32, _LZF = 1, 2, 3, 32000


class UnsafeFileError(DataFormatError):
    """A data file that reaches outside itself, holds objects, or declares sizes that it cannot have."""


def check_plausible(path: str | os.PathLike, total: int, advice: str) -> None:
    """UnsafeFileError where arrays of so many bytes together, beyond what is harmless, are said to be in a file that is
    less than a hundredth of that; `advice`: what whoever trusts the file may do."""
    size = os.path.getsize(path)
    if total > max(_HARMLESS_BYTES, _PLAUSIBLE_RATIO * size):
        raise UnsafeFileError(
            f"{path}: {size:,} bytes that unpack to {total:,}, as files made to fill the memory do. If you trust the "
            f"file, {advice}"
        )


# ---------------------------------------------------------------------------------------------------------------------
# HDF5


@contextmanager
def open_h5(path: str | os.PathLike, user_block: int = 0) -> "Iterator[h5py.File]":
    """Open an HDF5 file for reading; nothing outside the file is reached through it.

    Every object is checked when it is fetched (`file[name]`, `get`, `items`, `visititems`), not before, so opening a
    file of many thousand groups costs nothing. Read datasets with `read_h5`, which also checks sizes.

    Args:
        path: the file.
        user_block: bytes of another format that may stand before the HDF5 part (512 in MATLAB's files).

    Yields:
        An `h5py.File` in mode "r". Fetching raises `UnsafeFileError` for soft and external links, external storage,
        virtual datasets and named types; KeyError for absent names, as usual.

    Raises:
        FileNotFoundError: no such file.
        DataFormatError: not an HDF5 file, or a damaged one.
        UnsafeFileError: another user block.
        ImportError: h5py is not installed.
    """
    if not os.path.isfile(path):
        raise FileNotFoundError(f"{path}: no such file")
    h5py = optional_package("h5py", "reading HDF5 files needs h5py", "h5")
    with format_error(f"{path}: not a readable HDF5 file", OSError, RuntimeError, ValueError):
        file = _guarded(h5py.File)(os.fspath(path), "r")
    with file:
        if file.userblock_size not in (0, user_block):
            raise UnsafeFileError(f"{path}: {file.userblock_size} bytes of something else stand before the HDF5 data")
        yield file


class _Guarded:
    """The part of `h5py.Group` that fetches objects, with a check of each step of the path."""

    def __getitem__(self, name: Any) -> Any:
        if isinstance(name, bytes):
            name = name.decode()
        if not isinstance(name, str):
            raise UnsafeFileError("objects are fetched by name; references are refused")
        here: Any = self.file["/"] if name.startswith("/") and self.name != "/" else self  # type: ignore[attr-defined]
        for step in name.split("/"):
            if step not in ("", "."):
                here = _fetch(here, step)
        return here

    def get(self, name: Any, default: Any = None) -> Any:
        try:
            return self[name]
        except KeyError:
            return default

    def __contains__(self, name: Any) -> bool:
        return self.get(name) is not None

    @property
    def parent(self) -> Any:
        raise UnsafeFileError("go down from the file, not up")


@functools.cache
def _guarded(kind: type) -> Any:
    """A class of h5py that fetches objects as [`_Guarded`] does."""
    return type(f"Guarded{kind.__name__}", (_Guarded, kind), {})


def _fetch(group: Any, name: str) -> Any:
    """The object one step below a group: a group, guarded too, or a dataset whose data lie in this file."""
    import h5py

    where = f"{group.file.filename}: {group.name.rstrip('/')}/{name}"
    if not isinstance(group, h5py.Group):
        raise KeyError(f"{where} does not exist")
    key = name.encode()
    with format_error(f"{where} cannot be read", OSError, RuntimeError):
        if not group.id.links.exists(key):
            raise KeyError(f"{where} does not exist")
        if group.id.links.get_info(key).type != h5py.h5l.TYPE_HARD:
            raise UnsafeFileError(f"{where} is a link to elsewhere; links are not followed")
        value = h5py.Group.__getitem__(group, name)
    if isinstance(value, h5py.Group):
        return _guarded(h5py.Group)(value.id)
    if not isinstance(value, h5py.Dataset):
        raise UnsafeFileError(f"{where} is neither a group nor a dataset")
    if value.is_virtual or value.external is not None:
        raise UnsafeFileError(f"{where} keeps its data in other files; they are not read")
    return value


def read_h5(
    dataset: "h5py.Dataset", max_bytes: int = MAX_ARRAY_BYTES, *, rows: slice | int | None = None
) -> np.ndarray:
    """Read a dataset, or some of its rows, after checking what it claims to be.

    Args:
        dataset: of a file opened by `open_h5`.
        max_bytes: most memory that the result may take. Strings of variable length count with their characters.
        rows: of the first axis; None for all.

    Returns:
        Array of bool, numbers or fixed strings, shape as declared; strings of variable length become an object array
        of `str`.

    Raises:
        UnsafeFileError: more than `max_bytes`, or than its storage or a file of this size can hold; references,
            compounds or sequences of variable length; filters other than gzip, lzf, shuffle and fletcher32; chunks that
            unpack to more than they should.
        DataFormatError: the data cannot be read.
    """
    import h5py

    where = f"{dataset.file.filename}: {dataset.name}"
    if dataset.is_virtual or dataset.external is not None:
        raise UnsafeFileError(f"{where} keeps its data in other files; they are not read")
    if dataset.shape is None:
        raise DataFormatError(f"{where} is empty: it has no shape")
    text = h5py.check_string_dtype(dataset.dtype)
    if dataset.dtype.kind not in _PLAIN_KINDS and text is None:
        raise UnsafeFileError(f"{where} holds {dataset.dtype}; only numbers and strings are read")
    wanted = _selected_shape(dataset.shape, rows)
    declared = math.prod(wanted) * dataset.dtype.itemsize
    _check_size(where, declared, max_bytes)
    whole, stored = math.prod(dataset.shape) * dataset.dtype.itemsize, dataset.id.get_storage_size()
    if whole > max(_UNSTORED_BYTES, _MAX_DEFLATE_RATIO * stored):
        raise UnsafeFileError(f"{where} declares {whole:,} bytes, of which the file stores {stored:,}; write it whole")
    check_plausible(dataset.file.filename, declared, f"write {dataset.name} again, uncompressed")
    with format_error(f"{where} cannot be read", OSError, RuntimeError, ValueError, MemoryError):
        _check_chunks(dataset, where, max_bytes)
        if text is not None and text.length is None:
            return _read_strings(dataset, where, rows, wanted, max_bytes)
        return np.asarray(dataset[... if rows is None else rows])


def _selected_shape(shape: tuple[int, ...], rows: slice | int | None) -> tuple[int, ...]:
    if rows is None:
        return shape
    if isinstance(rows, int):
        return shape[1:]
    return (len(range(*rows.indices(shape[0]))), *shape[1:])


def _check_size(where: str, size: int, max_bytes: int) -> None:
    if size > max_bytes:
        raise UnsafeFileError(f"{where} declares {size:,} bytes, more than the {max_bytes:,} allowed")


def _check_chunks(dataset: "h5py.Dataset", where: str, max_bytes: int) -> None:
    """Refuse filters and chunks that could make HDF5 take much more memory than the dataset declares.

    HDF5's gzip filter doubles its buffer until the stream ends, whatever the chunk should hold.
    """
    if dataset.chunks is None:
        return
    plist = dataset.id.get_create_plist()
    filters = [plist.get_filter(i) for i in range(plist.get_nfilters())]
    codes = [code for code, *_ in filters]
    used = set(codes)
    if len(used) < len(codes) or used - {_DEFLATE, _SHUFFLE, _FLETCHER32, _LZF} or {_DEFLATE, _LZF} <= used:
        raise UnsafeFileError(f"{where} has the filters {codes}; only one of gzip and lzf, and checksums, are read")
    nominal = math.prod(dataset.chunks) * dataset.dtype.itemsize
    _check_size(f"{where} (one chunk)", nominal, max_bytes)
    for code, _, values, _ in filters:
        if code == _LZF and len(values) > 2 and values[2] > max(nominal, _HARMLESS_BYTES):
            raise UnsafeFileError(f"{where} declares lzf chunks of {values[2]:,} bytes; they hold {nominal:,}")
    if not codes:
        return
    limit = max(nominal, _HARMLESS_BYTES)
    suspects: list[tuple[int, ...]] = []

    def note(chunk: Any) -> None:
        if chunk.size * _MAX_DEFLATE_RATIO > limit:
            suspects.append(chunk.chunk_offset)

    dataset.id.chunk_iter(note)
    file_size = os.path.getsize(dataset.file.filename)
    for offset in suspects:
        _check_chunk(dataset, where, offset, nominal, file_size, _DEFLATE in codes)


def _check_chunk(
    dataset: "h5py.Dataset", where: str, offset: tuple[int, ...], nominal: int, file_size: int, deflated: bool
) -> None:
    stored = dataset.id.get_chunk_info_by_coord(offset)
    if stored.size > file_size:
        raise UnsafeFileError(f"{where}: a chunk declares {stored.size:,} bytes; the file has {file_size:,}")
    if not deflated or stored.size > nominal + nominal // 1000 + 1024:
        # Incompressible data grow by less than a thousandth; lzf's best is far below gzip's.
        if stored.size > nominal + nominal // 10 + 1024:
            raise UnsafeFileError(f"{where}: a chunk of {stored.size:,} bytes; unpacked it should have {nominal:,}")
        return
    _, raw = dataset.id.read_direct_chunk(offset)
    stream, size = zlib.decompressobj(), 0
    while raw and not stream.eof:
        size += len(stream.decompress(raw, 2**20))
        raw = stream.unconsumed_tail
        if size > nominal + 1024:
            raise UnsafeFileError(f"{where}: a chunk unpacks to more than the {nominal:,} bytes that it should hold")


def _read_strings(
    dataset: "h5py.Dataset", where: str, rows: slice | int | None, shape: tuple[int, ...], max_bytes: int
) -> np.ndarray:
    """Strings of variable length, a row at a time: many may point at one long text in the file."""
    result = np.empty(shape, dtype=object)
    total = 0
    chosen = range(dataset.shape[0])[rows] if rows is not None and dataset.shape else None
    for index in np.ndindex(shape):
        if chosen is None:
            place: tuple[int, ...] = index
        elif isinstance(chosen, int):
            place = (chosen, *index)
        else:
            place = (chosen[index[0]], *index[1:])
        value = dataset[place]
        total += len(value)
        _check_size(where, total, max_bytes)
        result[index] = value.decode("utf-8", "replace") if isinstance(value, bytes) else str(value)
    return result


# ---------------------------------------------------------------------------------------------------------------------
# npz


def load_npz_safely(
    path: str | os.PathLike, max_bytes: int = MAX_NPZ_BYTES, *, names: Collection[str] | None = None
) -> dict[str, np.ndarray]:
    """Read the arrays of an `.npz`; nothing is unpickled and nothing is written.

    Args:
        path: the archive, as `numpy.savez` or `savez_compressed` wrote it.
        max_bytes: most bytes that the arrays read may have together.
        names: arrays to read; None for all. Names that the archive lacks are left out.

    Returns:
        Name to array of bool, numbers or fixed strings, in the archive's order.

    Raises:
        FileNotFoundError: no such file.
        DataFormatError: not an archive of arrays, or a damaged one.
        UnsafeFileError: object or structured arrays, more than `max_bytes`, sizes that the file cannot hold, a
            compression that only bombs reach, names that are paths, encrypted or repeated entries.
    """
    if not os.path.isfile(path):
        raise FileNotFoundError(f"{path}: no such file")
    with open(path, "rb") as file:
        if file.read(6) == b"\x93NUMPY":
            raise DataFormatError(f"{path}: not a readable .npz file (it is a single array; an archive is wanted)")
    damage = (zipfile.BadZipFile, EOFError, zlib.error, OSError, ValueError, NotImplementedError, RuntimeError)
    with format_error(f"{path}: not a readable .npz file", *damage), zipfile.ZipFile(path) as archive:
        entries = _checked_entries(path, archive, names, max_bytes)
        return {name: _read_npy(path, archive, entry, name) for name, entry in entries.items()}


def _checked_entries(
    path: str | os.PathLike, archive: zipfile.ZipFile, names: Collection[str] | None, max_bytes: int
) -> dict[str, zipfile.ZipInfo]:
    infos = archive.infolist()
    if len(infos) > _MAX_NPZ_ENTRIES:
        raise UnsafeFileError(f"{path}: {len(infos)} entries, more than {_MAX_NPZ_ENTRIES}")
    problems = [fault for info in infos if (fault := _entry_fault(info))]
    uses = Counter(info.filename for info in infos)
    problems += [f"entry {name!r} comes twice" for name in sorted(uses) if uses[name] > 1]
    if problems:
        raise UnsafeFileError(f"{path}: {'; '.join(problems[:5])}")
    entries = {info.filename[:-4]: info for info in infos if info.filename.endswith(".npy")}
    if len(entries) < len(infos):
        raise DataFormatError(f"{path}: not an .npz file: it holds entries that are not .npy arrays")
    if names is not None:
        entries = {name: info for name, info in entries.items() if name in names}
    stored, size = sum(info.compress_size for info in infos), os.path.getsize(path)
    if stored > size:
        raise UnsafeFileError(f"{path}: the entries claim {stored:,} bytes of the file's {size:,}; they overlap")
    total = sum(info.file_size for info in entries.values())
    _check_size(str(path), total, max_bytes)
    check_plausible(path, total, "save its arrays again with numpy.savez, uncompressed")
    return entries


def _entry_fault(info: zipfile.ZipInfo) -> str | None:
    name = info.orig_filename
    if re.search(r"^[/\\]|^[A-Za-z]:|\\|\x00|(^|/)\.\.(/|$)", name):
        return f"entry {name[:80]!r} is a path that leads elsewhere"
    if info.flag_bits & 1:
        return f"entry {name[:80]!r} is encrypted"
    if info.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        return f"entry {name[:80]!r} is compressed by method {info.compress_type}; only deflate is read"
    if info.file_size > _MAX_DEFLATE_RATIO * info.compress_size + 1024:
        return f"entry {name[:80]!r} claims {info.file_size:,} bytes from {info.compress_size:,}"
    return None


def _read_npy(path: str | os.PathLike, archive: zipfile.ZipFile, info: zipfile.ZipInfo, name: str) -> np.ndarray:
    where = f"{path}: array {name!r}"
    with archive.open(info) as file:
        try:
            shape, dtype = _npy_header(file)
        except Exception as error:
            # NumPy parses the header as Python text; tokenizer, parser and checks each have errors of their own.
            raise DataFormatError(f"{where} has no readable header ({str(error)[:200]})") from error
        if dtype.hasobject:
            raise UnsafeFileError(f"{where} is an object array. Object arrays are never unpickled: save plain ones")
        if dtype.kind not in _PLAIN_KINDS or dtype.subdtype is not None:
            raise UnsafeFileError(f"{where} holds {dtype}; only numbers and strings are read")
        size = math.prod(shape) * dtype.itemsize
        left = info.file_size - file.tell()
        if size != left:
            raise UnsafeFileError(f"{where} declares {size:,} bytes of data; its entry has {left:,}")
    with archive.open(info) as file, format_error(f"{where} cannot be read", ValueError):
        return np.lib.format.read_array(file, allow_pickle=False)


def _npy_header(file: IO[bytes]) -> tuple[tuple[int, ...], np.dtype]:
    version = np.lib.format.read_magic(file)
    readers = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}
    if version not in readers:
        raise ValueError(f"version {version} of the .npy format; 1.0 and 2.0 are read")
    shape, _, dtype = readers[version](file)
    if any(size < 0 for size in shape):
        raise ValueError(f"shape {shape}")
    return shape, dtype
