"""HDF5 and npz readers: plain files come back as they are; tests/test_hostile_files.py has the hostile ones."""

import io
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from clcr_hf.data.columns import DataFormatError
from clcr_hf.data.untrusted.arrays import UnsafeFileError, load_npz_safely, open_h5, read_h5

h5py = pytest.importorskip("h5py")

PLAIN = st.one_of(
    hnp.arrays(dtype, hnp.array_shapes(min_dims=0, max_dims=3, min_side=0, max_side=4))
    for dtype in ("f2", "<f4", ">f8", "i1", "<u2", ">i8", "?", "c8", "S3", "U4")
)


def same(a: np.ndarray, b: np.ndarray) -> bool:
    return a.dtype == b.dtype and a.shape == b.shape and a.tobytes() == b.tobytes()


# -- HDF5 --------------------------------------------------------------------------------------------------------------


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "data.h5"
    with h5py.File(path, "w") as made:
        made["root/data/a[0]/features"] = np.arange(12, dtype=np.float32).reshape(4, 3)
        made["root/data/a[0]/words"] = np.array([b"sp", b"hello"], dtype="S32")
        made["root/metadata"] = ['{"a": 1}', "é"]  # strings of variable length
        made["root/flag"] = np.array([True, False])
        made["root/none"] = h5py.Empty("f4")
        made["root/compressed"] = np.zeros((100, 100), dtype=np.float32)
        made.create_dataset("zip", data=np.arange(9000.0).reshape(90, 100), compression="gzip", shuffle=True)
        made.create_dataset("lzf", data=np.arange(90.0), compression="lzf", fletcher32=True)
        made.create_dataset("zeros", data=np.zeros((3000, 1000)), compression="gzip", chunks=(3000, 1000))
    return path


def test_reads_what_h5py_reads(file):
    with h5py.File(file) as plain, open_h5(file) as guarded:
        for name in ("root/data/a[0]/features", "root/data/a[0]/words", "root/flag", "zip", "lzf", "zeros"):
            assert same(read_h5(guarded[name]), plain[name][()])
        assert read_h5(guarded["/root/metadata"]).tolist() == ['{"a": 1}', "é"]
        assert list(guarded) == list(plain) and list(guarded["root"].keys()) == list(plain["root"].keys())
        assert [name for name, _ in guarded["root/data"].items()] == ["a[0]"]
        assert "root/data/a[0]" in guarded and "root/data/b" not in guarded and "zip/x" not in guarded
        assert guarded.get("nothing") is None and guarded.get("zip").shape == (90, 100)
        seen: list[str] = []
        guarded.visititems(lambda name, value: seen.append(name))
        assert "root/data/a[0]/words" in seen


def test_rows(file):
    with open_h5(file) as guarded:
        whole = read_h5(guarded["zip"])
        assert same(read_h5(guarded["zip"], rows=slice(80, 200)), whole[80:])
        assert same(read_h5(guarded["zip"], rows=3), whole[3])
        assert read_h5(guarded["root/metadata"], rows=slice(1, None)).tolist() == ["é"]
        assert read_h5(guarded["root/metadata"], rows=0).item() == '{"a": 1}'


def test_limit_is_on_what_is_read(file):
    with open_h5(file) as guarded:
        assert read_h5(guarded["zip"], 80_000, rows=slice(10)).shape == (10, 100)
        with pytest.raises(UnsafeFileError, match="zip declares 72,000 bytes, more than the 71,999 allowed"):
            read_h5(guarded["zip"], 71_999)


def test_absent_and_empty(file):
    with open_h5(file) as guarded:
        for name in ("nothing", "root/nothing/deeper", "zip/inside"):
            with pytest.raises(KeyError, match="does not exist"):
                guarded[name]
        with pytest.raises(DataFormatError, match="no shape"):
            read_h5(guarded["root/none"])


def test_not_hdf5(tmp_path):
    with pytest.raises(FileNotFoundError):
        open_h5(tmp_path / "absent.h5").__enter__()
    for content in (b"", b"text", b"\x89HDF\r\n\x1a\n" + b"\xff" * 100):
        path = tmp_path / "bad.h5"
        path.write_bytes(content)
        with pytest.raises(DataFormatError, match="not a readable HDF5 file"), open_h5(path):
            pass


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(array=PLAIN)
def test_any_plain_array_through_h5(array, tmp_path):
    if array.dtype.kind == "U":
        array = array.astype("S8", casting="unsafe") if array.tobytes().isascii() else np.zeros(1)
    path = tmp_path / "one.h5"
    with h5py.File(path, "w") as made:
        made["x"] = array
    with open_h5(path) as guarded:
        assert same(read_h5(guarded["x"]), array)


# -- npz ---------------------------------------------------------------------------------------------------------------


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(arrays=st.lists(PLAIN, max_size=3), fortran=st.booleans(), compressed=st.booleans())
def test_any_plain_array_through_npz(arrays, fortran, compressed, tmp_path):
    given_arrays = {f"a{i}": np.asarray(x, order="F" if fortran else "C") for i, x in enumerate(arrays)}
    path = tmp_path / "x.npz"
    (np.savez_compressed if compressed else np.savez)(path, **given_arrays)
    result = load_npz_safely(path)
    assert list(result) == list(given_arrays)
    assert all(same(result[name], given_arrays[name]) for name in result)


def test_names_and_limit(tmp_path):
    path = tmp_path / "x.npz"
    np.savez(path, a=np.zeros(10), b=np.zeros(1000))
    assert list(load_npz_safely(path, 500, names=["a", "absent"])) == ["a"]
    with pytest.raises(UnsafeFileError, match="more than the 500 allowed"):
        load_npz_safely(path, 500)


def test_sparse_arrays_compress_well_and_are_read(tmp_path):
    path = tmp_path / "x.npz"
    np.savez_compressed(path, a=np.zeros((1000, 5000)))
    assert load_npz_safely(path)["a"].sum() == 0


def test_not_an_npz(tmp_path):
    with pytest.raises(FileNotFoundError):
        load_npz_safely(tmp_path / "absent.npz")
    single = io.BytesIO()
    np.save(single, np.zeros(3))
    for content in (b"", b"PK\x03\x04", b"text", single.getvalue()):
        path = tmp_path / "bad.npz"
        path.write_bytes(content)
        with pytest.raises(DataFormatError, match="not a readable .npz file"):
            load_npz_safely(path)


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_a_damaged_archive_gives_one_error(data, tmp_path):
    buffer = io.BytesIO()
    np.savez_compressed(buffer, a=np.arange(50.0), b=np.array(["x", "yz"]))
    content = bytearray(buffer.getvalue())
    for _ in range(data.draw(st.integers(1, 3))):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    path = tmp_path / "bad.npz"
    path.write_bytes(content[: data.draw(st.integers(0, len(content)))] if data.draw(st.booleans()) else content)
    try:
        result = load_npz_safely(path)
    except DataFormatError:
        return
    assert all(value.dtype.kind in "biufcSU" for value in result.values())
