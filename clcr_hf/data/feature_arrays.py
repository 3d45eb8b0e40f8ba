"""Feature sequences of rows: read from files, brought to one shape, and turned into typed columns."""

import csv
import os
import zipfile
from typing import Any

import numpy as np
from datasets import List

from .columns import DataFormatError, replace_non_finite, sequence_feature
from .errors import format_error
from .untrusted.arrays import check_plausible, load_npz_safely
from .untrusted.sheets import load_mat_safely

FEATURE_SUFFIXES = (".npy", ".npz", ".safetensors", ".pt", ".csv", ".mat")
_ARRAY_NAMES = ("features", "feature", "arr_0")


def read_feature_file(path: str | os.PathLike, name: str) -> np.ndarray:
    """The array of features in a `.npy`, `.npz`, `.safetensors`, `.pt` (a tensor, or a dict of tensors), `.mat`
    (MATLAB) or `.csv` file (a row a step, a column a number, with or without a header).

    Args:
        name: of the array where a file has several, e.g. "audio_features"; else "features", "feature" or "arr_0".

    Raises:
        DataFormatError: no such file, none or several arrays, object arrays (nothing is unpickled), damaged files.
    """
    suffix = os.path.splitext(os.fspath(path))[1].lower()
    if suffix not in FEATURE_SUFFIXES:
        raise DataFormatError(f"{path}: features are read from {', '.join(FEATURE_SUFFIXES)} files")
    if not os.path.isfile(path):
        raise DataFormatError(f"{path}: no such file")
    if suffix in (".npy", ".csv"):
        return (_read_npy if suffix == ".npy" else _read_csv)(path)
    readers = {".npz": load_npz_safely, ".pt": _read_tensors, ".mat": load_mat_safely}
    arrays = readers.get(suffix, _read_safetensors)(path)
    wanted = [key for key in (name, *_ARRAY_NAMES) if key in arrays] or (list(arrays) if len(arrays) == 1 else [])
    if not wanted:
        raise DataFormatError(f"{path}: no array {name!r}; it has {', '.join(sorted(arrays)) or 'none'}")
    return arrays[wanted[0]]


def feature_sequence(value: Any, where: str) -> tuple[np.ndarray, int]:
    """Features of one row as float32 `(T, D)` or, for taps of L levels, `(L, T, D)`, and how many were not finite.

    NaN and infinity become 0. One vector `(D,)` becomes `(1, D)`.

    Raises:
        DataFormatError: not numbers, inner lists of different lengths, no or more than three axes.
    """
    with format_error(f"{where}: features must be numbers in lists of equal lengths", TypeError, ValueError):
        array = np.asarray(value)
        if array.dtype.kind not in "biuf":
            array = np.asarray(value, dtype=np.float32)  # None within lists is NaN
    if array.ndim not in (1, 2, 3) or (array.size and not array.shape[-1]):
        raise DataFormatError(f"{where}: features have shape {array.shape}, not (D,), (T, D) or (L, T, D)")
    array, bad = replace_non_finite(array)
    return (array[None] if array.ndim == 1 else array), bad


def feature_type(ndim: int, width: int) -> List:
    """The `datasets` type of `(T, width)` (ndim 2) or `(L, T, width)` (ndim 3) features."""
    inner = sequence_feature("float32", width)
    return List(inner) if ndim == 3 else inner


def features_like(shape: tuple[int, int], value: Any, where: str) -> tuple[np.ndarray | None, int]:
    """As `feature_sequence`, None for what is empty or None; DataFormatError for another number of axes or width than
    `shape` says."""
    if value is None:
        return None, 0
    array, bad = feature_sequence(value, where)
    if not array.size:
        return None, bad
    if (array.ndim, array.shape[-1]) != shape:
        raise DataFormatError(
            f"{where}: features of shape {array.shape}, where the first row has {shape[0]} axes and width {shape[1]}"
        )
    return array, bad


def _read_npy(path: str | os.PathLike) -> np.ndarray:
    # NumPy reads the header as Python, which may stumble anywhere.
    with format_error(f"{path}: not a plain .npy array", Exception):
        # A memory map is refused where the file is shorter than its header says, before memory is taken.
        return np.array(np.load(path, mmap_mode="r", allow_pickle=False))


def _read_safetensors(path: str | os.PathLike) -> dict[str, np.ndarray]:
    from safetensors import SafetensorError, safe_open

    damage = format_error(f"{path}: not a readable .safetensors file", SafetensorError, OSError, ValueError)
    with damage, safe_open(os.fspath(path), framework="pt") as file:  # NumPy knows no bfloat16
        return {name: file.get_tensor(name).float().numpy() for name in file.keys()}  # noqa: SIM118


def _read_tensors(path: str | os.PathLike) -> dict[str, np.ndarray]:
    """Tensors of a `.pt` file; torch's own reader, which runs nothing that the file asks for."""
    import warnings

    import torch

    damage = (zipfile.BadZipFile, OSError, ValueError, NotImplementedError)
    with format_error(f"{path}: damaged", *damage):  # already to ask whether it is a ZIP may fail
        size = 0
        if zipfile.is_zipfile(path):
            with zipfile.ZipFile(path) as archive:
                size = sum(entry.file_size for entry in archive.infolist())
    check_plausible(path, size, "save it again with torch.save")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)  # of how the file was pickled
            found = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # its unpickler stumbles over damage anywhere
        raise DataFormatError(f"{path}: damaged, or it holds something else than plain tensors") from error
    named = found if isinstance(found, dict) else {_ARRAY_NAMES[0]: found}
    tensors = {str(name): value for name, value in named.items() if isinstance(value, torch.Tensor)}
    if len(tensors) < len(named):
        raise DataFormatError(f"{path}: it holds something else than tensors; save a tensor, or a dict of tensors")
    check_plausible(path, sum(4 * value.numel() for value in tensors.values()), "save its tensors with .clone()")
    return {name: value.detach().float().numpy() for name, value in tensors.items()}


def _read_csv(path: str | os.PathLike) -> np.ndarray:
    """Numbers `(T, D)`; a first line without a number is a header."""
    damage = format_error(f"{path}: cannot be read as CSV", OSError, UnicodeDecodeError, csv.Error)
    with damage, open(path, newline="", encoding="utf-8-sig") as file:
        rows = [row for row in csv.reader(file) if row]
    header = bool(rows) and not any(_is_number(cell) for cell in rows[0])
    for number, row in enumerate(rows[header:], 1 + header):
        if len(row) != len(rows[0]):
            raise DataFormatError(f"{path}: row {number} has {len(row)} cells and the first has {len(rows[0])}")
        wrong = next((cell for cell in row if cell.strip() and not _is_number(cell)), None)
        if wrong is not None:
            raise DataFormatError(f"{path}: row {number}: {wrong[:40]!r} is no number")
    if not rows[header:]:
        raise DataFormatError(f"{path}: no numbers in it")
    return np.array([[float(cell) if cell.strip() else np.nan for cell in row] for row in rows[header:]], np.float32)


def _is_number(cell: str) -> bool:
    try:
        float(cell)
    except ValueError:
        return False
    return True
