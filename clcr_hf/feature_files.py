"""Features that a sample names by their file."""

import os
from collections.abc import Mapping
from typing import Any

import numpy as np

_END = "_features"


def with_feature_files(sample: Mapping[str, Any], local_files: bool = True) -> dict[str, Any]:
    """
    The sample with the arrays that its `<modality>_features` name by path, float32 `(T, D)` or `(L, T, D)`.

    `.npy` is read with NumPy alone; `.npz`, `.safetensors`, `.pt`, `.csv` and `.mat` by the package `clcr_hf`. Nothing
    is unpickled.

    Raises:
        ValueError: no such file, a file that holds no such array, or a path where `local_files` is False.
        ImportError: the package is not installed.
    """
    read = dict(sample)
    for key, value in sample.items():
        if str(key).endswith(_END) and isinstance(value, str | os.PathLike):
            if not local_files:
                raise ValueError(f"{key} is a path; files are not read here, send the numbers")
            try:
                read[key] = _load(os.path.expanduser(value), key)
            except ValueError as error:
                raise ValueError(f"{key}: {error}") from error
    return read


def _load(path: str, key: str) -> np.ndarray:
    try:
        from clcr_hf.data.feature_arrays import feature_sequence, read_feature_file
    except ImportError as error:
        if not path.lower().endswith(".npy"):
            raise ImportError(f"{path}: only .npy is read without the package clcr-hf and its extra train") from error
    else:
        return feature_sequence(read_feature_file(path, key), path)[0]
    try:
        array = np.asarray(np.load(path, allow_pickle=False), np.float32)
    except (OSError, ValueError, EOFError) as error:
        raise ValueError(f"{path}: not a plain .npy array ({error})") from error
    return np.nan_to_num(array[None] if array.ndim == 1 else array, nan=0.0, posinf=0.0, neginf=0.0)


__all__ = ["with_feature_files"]
