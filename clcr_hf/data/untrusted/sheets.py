"""Excel workbooks and MATLAB files from strangers, read through openpyxl, SciPy and h5py within limits.

Only values are taken: of a workbook the cells of its one sheet, of a MATLAB file its arrays of numbers. No formula is
worked out, no link followed, no object built.
"""

import math
import os
import zipfile
from collections.abc import Iterator
from contextlib import closing
from typing import Any

import numpy as np

from ..errors import DataFormatError, format_error, optional_package
from .arrays import MAX_ARRAY_BYTES, UnsafeFileError, check_plausible, open_h5, read_h5

MAX_WORKBOOK_BYTES = 2**30  # of XML, unpacked
_MATLAB_BLOCK = 512  # bytes of MATLAB's own header before the HDF5 part of a file of version 7.3
_NUMBERS = {"double", "single", "logical"} | {f"{sign}int{bits}" for sign in ("", "u") for bits in (8, 16, 32, 64)}


def read_sheet(path: str | os.PathLike) -> Iterator[tuple[Any, ...]]:
    """Rows of the one sheet of an `.xlsx` workbook that holds anything, as tuples of plain values.

    Formulas give the values that were saved with them.

    Raises:
        DataFormatError: not a workbook, or several sheets with cells.
        UnsafeFileError: more than `MAX_WORKBOOK_BYTES` unpacked, or XML with a document type of its own.
        ImportError: openpyxl is not installed.
    """
    openpyxl = optional_package("openpyxl", f"{path}: reading .xlsx needs openpyxl", "tables")
    _check_workbook(path)
    # A damaged workbook raises whatever the XML leads openpyxl to.
    with format_error(f"{path}: not a readable .xlsx workbook", Exception):
        book = openpyxl.load_workbook(path, read_only=True, data_only=True, keep_links=False)
    with closing(book), format_error(f"{path}: a damaged .xlsx workbook", Exception):
        filled = []
        for sheet in book.worksheets:
            sheet.reset_dimensions()  # what the file states of its size may be false
            if any(cell is not None for row in sheet.iter_rows(values_only=True) for cell in row):
                filled.append(sheet)
        if len(filled) > 1:
            names = ", ".join(repr(sheet.title) for sheet in filled)
            raise DataFormatError(f"{path}: several sheets hold cells ({names}); keep one a file")
        for sheet in filled:
            yield from sheet.iter_rows(values_only=True)


def _check_workbook(path: str | os.PathLike) -> None:
    # Damaged archives raise a dozen kinds.
    with format_error(f"{path}: not an .xlsx workbook", Exception), zipfile.ZipFile(path) as archive:
        size = sum(info.file_size for info in archive.infolist())
        if size > MAX_WORKBOOK_BYTES:
            raise UnsafeFileError(f"{path}: {size:,} bytes unpacked; at most {MAX_WORKBOOK_BYTES:,} are read")
        for info in archive.infolist():
            with archive.open(info) as file:
                if b"<!DOCTYPE" in file.read(4096).replace(b"\0", b"").upper():
                    raise UnsafeFileError(f"{path}: {info.filename} declares a document type; no workbook does")


def load_mat_safely(path: str | os.PathLike, *, max_bytes: int = MAX_ARRAY_BYTES) -> dict[str, np.ndarray]:
    """The arrays of numbers in a MATLAB file by name, in MATLAB's order of axes: `features(t, d)` is `(T, D)`.

    Structs, cells, text, objects and sparse matrices are passed over.

    Args:
        max_bytes: the largest sum of the arrays' sizes.

    Raises:
        FileNotFoundError: no such file.
        DataFormatError: not a MATLAB file, or a damaged one, or no array of numbers in it.
        UnsafeFileError: arrays larger than `max_bytes`, and as `open_h5` and `read_h5`.
        ImportError: SciPy, or for version 7.3 h5py, is not installed.
    """
    with open(path, "rb") as file:
        head = file.read(_MATLAB_BLOCK + 8)
    arrays = _load_v73(path, max_bytes) if head[_MATLAB_BLOCK:].startswith(b"\x89HDF") else _load_v5(path, max_bytes)
    if not arrays:
        raise DataFormatError(f"{path}: no array of numbers in it; structs and cells are not read")
    return arrays


def _load_v5(path: str | os.PathLike, max_bytes: int) -> dict[str, np.ndarray]:
    scipy_io = optional_package("scipy.io", f"{path}: reading .mat needs SciPy", "tables")
    # SciPy meets damage with whatever the bytes lead it to.
    with format_error(f"{path}: not a readable MATLAB file", Exception):
        wanted = {name: shape for name, shape, kind in scipy_io.whosmat(path, appendmat=False) if kind in _NUMBERS}
        size = 8 * sum(math.prod(shape) for shape in wanted.values())
        if size > max_bytes:
            raise UnsafeFileError(f"{path}: its arrays declare {size:,} bytes; at most {max_bytes:,} are read")
        check_plausible(path, size, "save its arrays again, uncompressed")
        found = scipy_io.loadmat(path, appendmat=False, variable_names=list(wanted)) if wanted else {}
        arrays = {name: found[name] for name in wanted if isinstance(found.get(name), np.ndarray)}
    return {name: array for name, array in arrays.items() if array.dtype.kind in "biuf"}


def _load_v73(path: str | os.PathLike, max_bytes: int) -> dict[str, np.ndarray]:
    arrays = {}
    with open_h5(path, user_block=_MATLAB_BLOCK) as file:
        for name in file:
            item = file[name]
            kind = item.attrs.get("MATLAB_class", b"") if hasattr(item, "dtype") else b""
            if bytes(kind).decode("ascii", "replace") in _NUMBERS and item.dtype.kind in "biuf":
                arrays[name] = read_h5(item, max_bytes=max_bytes).T
                max_bytes -= arrays[name].nbytes
    return arrays
