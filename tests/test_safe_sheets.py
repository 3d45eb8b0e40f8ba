"""Excel workbooks and MATLAB files: values come back as they are, and nothing hostile does harm."""

import io
import zipfile
from pathlib import Path

import h5py
import numpy as np
import openpyxl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.io import savemat

from clcr_hf.data.columns import DataFormatError
from clcr_hf.data.feature_arrays import read_feature_file
from clcr_hf.data.untrusted import sheets
from clcr_hf.data.untrusted.arrays import UnsafeFileError
from clcr_hf.data.untrusted.sheets import load_mat_safely, read_sheet

FEATURES = np.arange(12, dtype=np.float64).reshape(4, 3) / 7


def mat_v73(path: Path, **arrays: np.ndarray) -> Path:
    """A file as MATLAB's `save -v7.3` writes it: HDF5 behind 512 bytes, axes in reverse."""
    with h5py.File(path, "w", userblock_size=512) as file:
        for name, array in arrays.items():
            file.create_dataset(name, data=array.T).attrs["MATLAB_class"] = np.bytes_(
                {"f": "double" if array.dtype.itemsize == 8 else "single", "i": "int32"}[array.dtype.kind]
            )
        file.create_group("settings").attrs["MATLAB_class"] = np.bytes_("struct")
        file.create_dataset("words", data=np.array([65, 66], np.uint16)).attrs["MATLAB_class"] = np.bytes_("char")
    with open(path, "r+b") as raw:
        raw.write(b"MATLAB 7.3 MAT-file".ljust(124) + b"\x00\x02IM")
    return path


@pytest.mark.parametrize("compressed", [False, True])
def test_numbers_of_a_matlab_file(tmp_path, compressed):
    path = tmp_path / "a.mat"
    content = {"features": FEATURES, "other": np.eye(2), "settings": {"rate": 16.0}, "words": "text"}
    savemat(path, content | {"cells": np.array([1, "a"], dtype=object)}, do_compression=compressed)
    assert set(load_mat_safely(path)) == {"features", "other"}
    assert np.array_equal(read_feature_file(path, "audio_features"), FEATURES)
    with pytest.raises(UnsafeFileError, match="its arrays declare 128 bytes"):
        load_mat_safely(path, max_bytes=100)
    savemat(path, {"settings": {"rate": 16.0}})
    with pytest.raises(DataFormatError, match="no array of numbers in it"):
        load_mat_safely(path)


def test_numbers_of_a_matlab_file_of_version_7_3(tmp_path):
    path = mat_v73(tmp_path / "a.mat", features=FEATURES, counts=np.arange(3, dtype=np.int32)[None])
    found = load_mat_safely(path)
    assert set(found) == {"features", "counts"} and np.array_equal(found["features"], FEATURES)
    assert np.array_equal(read_feature_file(path, "features"), FEATURES)
    with pytest.raises(UnsafeFileError):
        load_mat_safely(path, max_bytes=50)


@settings(max_examples=80, deadline=None)
@given(st.integers(0, 400), st.binary(min_size=1, max_size=8), st.booleans())
def test_damaged_matlab_files_give_one_error(tmp_path_factory, place, noise, cut):
    path = tmp_path_factory.mktemp("mat") / "a.mat"
    buffer = io.BytesIO()
    savemat(buffer, {"features": FEATURES}, do_compression=bool(place % 2))
    content = bytearray(buffer.getvalue())
    place %= len(content)
    content = content[:place] if cut else content[:place] + noise + content[place + len(noise) :]
    path.write_bytes(bytes(content))
    try:
        found = load_mat_safely(path, max_bytes=2**20)
    except DataFormatError as error:
        assert "a.mat" in str(error)
    else:
        assert all(array.dtype.kind in "biuf" for array in found.values())


def workbook(path: Path) -> Path:
    book = openpyxl.Workbook()
    for row in (["text", "label"], ["a", 1], [None, None], ["b", True], ["c", "=1+1"]):
        book.active.append(row)
    book.create_sheet("empty")
    book.save(path)
    return path


def test_values_of_a_workbook(tmp_path):
    rows = [row for row in read_sheet(workbook(tmp_path / "a.xlsx")) if any(cell is not None for cell in row)]
    assert rows == [("text", "label"), ("a", 1), ("b", True), ("c", None)]  # the formula was never worked out


def test_hostile_workbooks(tmp_path, monkeypatch):
    path = workbook(tmp_path / "a.xlsx")
    with zipfile.ZipFile(path) as archive:
        parts = {info.filename: archive.read(info) for info in archive.infolist()}
    entity = b'<?xml version="1.0"?><!DOCTYPE x [<!ENTITY a "aaaa">]>'
    with zipfile.ZipFile(tmp_path / "entities.xlsx", "w") as archive:
        for name, content in parts.items():
            archive.writestr(name, entity + content if name.endswith("sheet1.xml") else content)
    with pytest.raises(UnsafeFileError, match="declares a document type"):
        list(read_sheet(tmp_path / "entities.xlsx"))
    monkeypatch.setattr(sheets, "MAX_WORKBOOK_BYTES", 1000)
    with pytest.raises(UnsafeFileError, match="bytes unpacked; at most 1,000"):
        list(read_sheet(path))


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 6000), st.binary(min_size=1, max_size=8))
def test_damaged_workbooks_give_one_error(tmp_path_factory, place, noise):
    path = workbook(tmp_path_factory.mktemp("book") / "a.xlsx")
    content = path.read_bytes()
    place %= len(content)
    path.write_bytes(content[:place] + noise + content[place + len(noise) :])
    try:
        list(read_sheet(path))
    except DataFormatError as error:
        assert "a.xlsx" in str(error)
