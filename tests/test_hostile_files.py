"""Hostile files of every format that is read: each is refused by our own error, runs nothing, and takes little memory.

tests/test_safe_pickle.py has the catalogue of calls and opcodes; here are whole files as they would be handed over.
"""

import builtins
import copyreg
import functools
import io
import operator
import os
import pickle
import shutil
import struct
import subprocess
import tracemalloc
import types
import zipfile
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from clcr_hf.data import load_mmsa, load_npz_safely, load_pickle_safely, load_utterances, open_h5, read_h5
from clcr_hf.data.columns import DataFormatError
from clcr_hf.data.untrusted.arrays import UnsafeFileError
from clcr_hf.data.untrusted.pickled_values import UnsafePickleError

h5py = pytest.importorskip("h5py")

MOST_BYTES = 64 * 2**20


@pytest.fixture
def canary(tmp_path: Path) -> Path:
    return tmp_path / "canary"


@contextmanager
def little_memory(most: int = MOST_BYTES) -> Iterator[None]:
    """Fails if Python and NumPy take more than `most` bytes at a time within."""
    tracemalloc.start()
    try:
        yield
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < most, f"{peak:,} bytes"


def refuse(
    read: Callable[[], Any], canary: Path, error: type[Exception] = UnsafeFileError, match: str | None = None
) -> None:
    with little_memory(), pytest.raises(error, match=match):
        read()
    assert not canary.exists()


# -- pickles: calls ----------------------------------------------------------------------------------------------------


class Reduce:
    """Pickles to what `__reduce_ex__` is told to give."""

    def __init__(self, *parts: Any):
        self.parts = parts

    def __reduce_ex__(self, protocol: int) -> tuple[Any, ...]:
        return self.parts


class Holder:
    """An ordinary instance, which pickles by NEWOBJ and BUILD."""

    def __init__(self, value: Any):
        self.value = value


def calls(canary: Path) -> dict[str, Any]:
    command, code = f"touch {canary}", f"open({str(canary)!r}, 'w').close()"
    return {
        "os.system": Reduce(os.system, (command,)),
        "os.popen": Reduce(os.popen, (command,)),
        "subprocess.Popen": Reduce(subprocess.Popen, (["touch", str(canary)],)),
        "subprocess.check_output": Reduce(subprocess.check_output, (["touch", str(canary)],)),
        "eval": Reduce(builtins.eval, (code,)),
        "exec": Reduce(builtins.exec, (code,)),
        "compile": Reduce(builtins.compile, (code, "x", "exec")),
        "open": Reduce(builtins.open, (str(canary), "w")),
        "__import__": Reduce(builtins.__import__, ("os",)),
        "getattr": Reduce(builtins.getattr, (Reduce(builtins.__import__, ("os",)), "system")),
        "partial": Reduce(functools.partial, (os.system, command)),
        "reduce": Reduce(functools.reduce, (operator.add, [[1], [2]])),
        "attrgetter": Reduce(operator.attrgetter, ("system",)),
        "methodcaller": Reduce(operator.methodcaller, ("system", command)),
        "attrgetter chain": Reduce(operator.attrgetter("__globals__"), (functools.partial,)),
        "shutil.rmtree": Reduce(shutil.rmtree, (str(canary.parent / "nothing"), True)),
        "numpy.load": Reduce(np.load, (str(canary), None, True)),
        "numpy.fromfile": Reduce(np.fromfile, ("/etc/passwd", "u1")),
        "numpy.memmap": Reduce(np.memmap, (str(canary), "u1", "w+", 0, (4,))),
        "numpy.ctypeslib": Reduce(np.ctypeslib.load_library, ("libc.so.6", "/")),
        "zlib bomb": Reduce(zlib.decompress, (zlib.compress(bytes(10**6)),)),
        "io.open": Reduce(io.open, (str(canary), "w")),
        "copyreg": Reduce(copyreg.__newobj__, (Reduce,)),
        "copyreg._reconstructor": Reduce(copyreg._reconstructor, (Holder, object, None)),
        "instance": Holder(1),
        "state setter": Reduce(list, (), None, None, None, operator.setitem),
        "list items": Reduce(list, (), None, iter([1])),
        "type": Reduce(type, ("X", (object,), {})),
        "types": Reduce(types.SimpleNamespace, ()),
        "torch storage": torch.zeros(2).untyped_storage(),
        "torch tensor": torch.zeros(2),
        "torch rebuild": Reduce(
            torch._utils._rebuild_tensor_v2, (torch.zeros(2).untyped_storage(), 0, (2,), (1,), False, {})
        ),
        "torch.load": Reduce(torch.load, (str(canary),)),
        "in an object array": np.array([Reduce(os.system, (command,)), 1], dtype=object),
        "deep in containers": {"train": [{"audio": (Reduce(os.system, (command,)),)}]},
    }


@pytest.mark.parametrize("protocol", [0, 2, 4, 5])
@pytest.mark.parametrize("name", sorted(calls(Path("canary"))))
def test_pickled_calls(tmp_path, canary, name, protocol):
    file = tmp_path / "data.pkl"
    try:
        file.write_bytes(pickle.dumps(calls(canary)[name], protocol))
    except (pickle.PicklingError, TypeError, AttributeError) as error:
        pytest.skip(f"protocol {protocol} cannot hold it: {error}")
    for load in (load_pickle_safely, load_mmsa):
        refuse(lambda load=load: load(file), canary, UnsafePickleError)


def text(word: str) -> bytes:
    return b"X" + struct.pack("<I", len(word)) + word.encode()


@pytest.mark.parametrize(
    "body",
    [
        b"(S'touch CANARY'\nios\nsystem\n.",
        b"(cos\nsystem\nS'touch CANARY'\no.",
        b"cos\nsystem\nS'touch CANARY'\n\x85R.",
        b"\x80\x04\x8c\x02os\x8c\x06system\x93\x8c\x0ctouch CANARY\x85R.",
        b"cbuiltins\ngetattr\ncos\nenviron\nS'clear'\n\x86R.",
        b"cnumpy\nndarray\n(K\x02\x85t\x81.",
        b"cnumpy\nndarray\n)}\x92.",
        b"Pos.system\n.",
        text("x") + b"Q.",
        b"\x80\x02\x82\xf0.",
        b"\x80\x02\x83\xf0\x00.",
        b"\x80\x02\x84\xf0\x00\x00\x00.",
        b"\x80\x05\x97.",
        b"\x80\x05]\x98.",
    ],
)
def test_handmade_opcodes(tmp_path, canary, body):
    file = tmp_path / "data.pkl"
    file.write_bytes(body.replace(b"CANARY", str(canary).encode()))
    refuse(lambda: load_pickle_safely(file), canary, UnsafePickleError)


def test_registered_extension(tmp_path, canary):
    copyreg.add_extension("os", "system", 0xF3)
    try:
        file = tmp_path / "data.pkl"
        file.write_bytes(b"\x80\x02\x82\xf3" + text(f"touch {canary}") + b"\x85R.")
        refuse(lambda: load_pickle_safely(file), canary, UnsafePickleError, "EXT1")
    finally:
        copyreg.remove_extension("os", "system", 0xF3)


# -- pickles: memory and time ------------------------------------------------------------------------------------------

ARRAY = b"cnumpy.core.multiarray\n_reconstruct\ncnumpy\nndarray\nK\x00\x85U\x01b\x87R"
OBJECT = b"cnumpy\ndtype\nU\x02O8K\x00K\x01\x87R"
MEGA = 2**20


def nested(opener: bytes, closer: bytes, levels: int) -> bytes:
    """x0 = 1, then x(k+1) = a container of x(k) twice: 2**levels leaves if they were gone through."""
    body = b"K\x01q\x000"
    for level in range(levels):
        body += opener + b"h" + bytes([level]) + b"h" + bytes([level]) + closer + b"q" + bytes([level + 1]) + b"0"
    return body + b"h" + bytes([levels])


LAUGHS = nested(b"", b"\x86", 60)
BOMBS = {
    "lists by the million": b"]" * 3 * MEGA + b".",
    "marks by the million": b"(" * 3 * MEGA + b".",
    "sets by the million": b"\x80\x04" + b"\x8f" * 3 * MEGA + b".",
    "memo by the million": b"\x80\x04N" + b"\x94" * 10 * MEGA + b".",
    "deep nesting": b"]" * 100_000 + b"a" * 99_999 + b".",
    "laughs as a key": b"}" + LAUGHS + b"K\x01s.",
    "laughs in a set": b"\x80\x04\x8f(" + LAUGHS + b"\x90.",
    "laughs in a frozen set": b"\x80\x04(" + LAUGHS + b"\x91.",
    "laughs in set()": b"cbuiltins\nset\n](" + LAUGHS + b"e\x85R.",
    "laughs as a shape": ARRAY + b"(K\x01" + LAUGHS + OBJECT + b"\x89]tb.",
    "laughs as a dtype": b"cnumpy\ndtype\n" + LAUGHS + b"\x85R.",
    "laughs as a byte order": OBJECT + b"(K\x03" + LAUGHS + b"NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00tb.",
    "laughs as an array order": b"cnumpy.core.numeric\n_frombuffer\n(NN)" + LAUGHS + b"tR.",
    "laughs as an encoding": b"c_codecs\nencode\n" + text("x") + LAUGHS + b"\x86R.",
    "one text encoded again and again": b"c_codecs\nencode\nq\xf0"
    + text("x" * MEGA)
    + b"\x85q\xf10("
    + b"h\xf0h\xf1R" * 2000
    + b"l.",
    "one list in many object arrays": b"]("
    + b"N" * 100_000
    + b"eq\xf0"
    + b"("
    + (ARRAY + b"(K\x01J\xa0\x86\x01\x00\x85" + OBJECT + b"\x89h\xf0tb") * 500
    + b"l.",
    "one text in many arrays": text("x" * MEGA)
    + b"q\xf0cnumpy\ndtype\nU\x02u1K\x00K\x01\x87Rq\xf1"
    + b"("
    + (ARRAY + b"(K\x01J\x00\x00\x10\x00\x85h\xf1\x89h\xf0tb") * 500
    + b"l.",
    "bytes beyond the file": b"\x80\x04\x8e" + struct.pack("<Q", 2**50) + b"x.",
    "text beyond the file": b"\x80\x04\x8d" + struct.pack("<Q", 2**50) + b"x.",
    "bytearray beyond the file": b"\x80\x05\x96" + struct.pack("<Q", 2**50) + b"x.",
    "frame beyond the file": b"\x80\x04\x95" + struct.pack("<Q", 2**50) + b"N.",
    "negative size": b"T\xff\xff\xff\xffx.",
    "number beyond the file": b"\x8b\xff\xff\xff\x7fx.",
    "array beyond its data": ARRAY
    + b"(K\x01\x8a\x06\x00\x00\x00\x00\x00\x01\x85cnumpy\ndtype\nU\x02f8K\x00K\x01\x87R\x89U\x01xtb.",
    "bytes of a number": b"cbuiltins\nbytes\n\x8a\x06\x00\x00\x00\x00\x00\x01\x85R.",
    "no end": pickle.dumps(list(range(1000)), 4)[:-1],
    "nothing": b"",
}


@pytest.mark.parametrize("name", BOMBS)
def test_pickle_bombs(tmp_path, canary, name):
    file = tmp_path / "data.pkl"
    file.write_bytes(BOMBS[name])
    refuse(lambda: load_pickle_safely(file, max_objects=200_000), canary, UnsafePickleError)


def test_the_standing_limit_is_about_a_gigabyte(tmp_path, canary):
    # What the costliest small opcodes reach per unit of the budget, so 25 million units stay near a gigabyte.
    for opcode in (b"]", b"}", b"(", b"\x8f", b"N\x94"):
        file = tmp_path / "data.pkl"
        file.write_bytes(b"\x80\x04" + opcode * 100_000 + b".")
        with little_memory(200_000 * 55), pytest.raises(UnsafePickleError, match="max_objects"):
            load_pickle_safely(file, max_objects=200_000)


# -- torch checkpoints -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("new_format", [True, False])
def test_torch_checkpoints_are_no_data_sets(tmp_path, canary, new_format):
    file = tmp_path / "model.pt"
    payload = {"w": torch.zeros(3), "x": Reduce(os.system, (f"touch {canary}",))}
    torch.save(payload, file, _use_new_zipfile_serialization=new_format)
    told = "zip archive.*torch" if new_format else "torch checkpoint of the old format"
    for load in (load_pickle_safely, load_mmsa):
        refuse(lambda load=load: load(file), canary, UnsafePickleError, told)
    refuse(lambda: load_npz_safely(file), canary, DataFormatError)
    refuse(lambda: load_utterances(file), canary, DataFormatError)


@pytest.mark.parametrize(
    ("head", "told"),
    [
        (b"\x89HDF\r\n\x1a\n", "HDF5"),
        (b"\x93NUMPY\x01\x00", ".npy"),
        (b"\x1f\x8b\x08", "gzip"),
        (b"PAR1", "Parquet"),
        (b"version https://git-lfs.github.com/spec/v1\n", "git lfs pull"),
        (b"<!DOCTYPE html>", "web page"),
    ],
)
def test_other_formats_are_told_apart(tmp_path, canary, head, told):
    file = tmp_path / "data.pkl"
    file.write_bytes(head + b"\x00" * 100)
    refuse(lambda: load_mmsa(file), canary, UnsafePickleError, told)


# -- npy and npz -------------------------------------------------------------------------------------------------------


def npy(array: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    np.lib.format.write_array(buffer, array, allow_pickle=True)
    return buffer.getvalue()


def header(fields: str) -> bytes:
    return b"\x93NUMPY\x01\x00" + struct.pack("<H", len(fields)) + fields.encode()


def archive(path: Path, entries: dict[str, bytes], compression: int = zipfile.ZIP_DEFLATED) -> Path:
    with zipfile.ZipFile(path, "w", compression) as file:
        for name, content in entries.items():
            file.writestr(name, content)
    return path


def refuse_npz(path: Path, canary: Path, error: type[Exception] = UnsafeFileError, match: str | None = None) -> None:
    refuse(lambda: load_npz_safely(path), canary, error, match)
    refuse(lambda: load_utterances(path), canary, DataFormatError)


def test_object_arrays_in_npz_are_never_unpickled(tmp_path, canary):
    evil = np.array([Reduce(os.system, (f"touch {canary}",)), 1], dtype=object)
    single = tmp_path / "x.npy"
    single.write_bytes(npy(evil))
    refuse_npz(single, canary, DataFormatError, "single array")
    structured = header("{'descr': [('a', '|O')], 'fortran_order': False, 'shape': (1,)}") + b"\0" * 8
    for content in (npy(evil), structured):
        refuse_npz(archive(tmp_path / "x.npz", {"a.npy": content}), canary, match="never unpickled")
    np.load(archive(tmp_path / "live.npz", {"a.npy": npy(evil)}), allow_pickle=True)["a"]
    assert canary.exists()  # the file is live: this is what reading it with allow_pickle does


@pytest.mark.parametrize(
    "fields",
    [
        "{'descr': '<f8', 'fortran_order': False, 'shape': (1125899906842624,)}",
        "{'descr': '<f8', 'fortran_order': False, 'shape': (-1,)}",
        "{'descr': '<U99999999', 'fortran_order': False, 'shape': (9999999,)}",
        "{'descr': '<M8[s]', 'fortran_order': False, 'shape': (1,)}",
        "{'descr': '|V8', 'fortran_order': False, 'shape': (1,)}",
        "{'descr': __import__('os').system('touch CANARY'), 'fortran_order': False, 'shape': ()}",
        "(" * 9000,
        "{'descr': '<f8', 'fortran_order': False, 'shape': (" + "9" * 9000 + ",)}",
    ],
)
def test_npy_headers(tmp_path, canary, fields):
    content = header(fields.replace("CANARY", str(canary))) + b"\0" * 8
    refuse_npz(archive(tmp_path / "x.npz", {"a.npy": content}), canary, DataFormatError)


@pytest.mark.parametrize(
    "name", ["../a.npy", "/etc/a.npy", "a/../../b.npy", "..\\a.npy", "C:\\a.npy", "\\\\host\\a.npy"]
)
def test_paths_in_archives(tmp_path, canary, name):
    refuse_npz(archive(tmp_path / "x.npz", {name: npy(np.zeros(2))}), canary, match="leads elsewhere")


def test_zip_bombs(tmp_path, canary):
    size = 400 * MEGA
    content = header(f"{{'descr': '|u1', 'fortran_order': False, 'shape': ({size},)}}")
    path = tmp_path / "x.npz"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as file, file.open("a.npy", "w") as entry:
        entry.write(content)
        for _ in range(size // MEGA):
            entry.write(bytes(MEGA))
    assert path.stat().st_size < MEGA
    refuse_npz(path, canary, match="made to fill the memory")
    many = {f"{i}.npy": b"" for i in range(10_001)}
    refuse_npz(archive(tmp_path / "many.npz", many, zipfile.ZIP_STORED), canary, match="10001 entries")
    inner = archive(tmp_path / "inner.zip", {"a.npy": npy(np.zeros(9))}).read_bytes()
    refuse_npz(archive(tmp_path / "nested.npz", {"inner.zip": inner}), canary, DataFormatError, "not .npy arrays")


@pytest.mark.parametrize("claimed", [2**31, 5, 0])
def test_lying_sizes(tmp_path, canary, claimed):
    path = archive(tmp_path / "x.npz", {"a.npy": npy(np.arange(1000.0))})
    content = bytearray(path.read_bytes())
    for signature, offset in ((b"PK\x03\x04", 22), (b"PK\x01\x02", 24)):  # uncompressed size, local and central
        place = content.index(signature) + offset
        content[place : place + 4] = struct.pack("<I", claimed)
    path.write_bytes(content)
    refuse_npz(path, canary, DataFormatError)


def test_overlapping_entries(tmp_path, canary):
    path = archive(tmp_path / "x.npz", {f"{i}.npy": npy(np.random.default_rng(i).random(2000)) for i in range(3)})
    content = bytearray(path.read_bytes())
    start, first = content.index(b"PK\x01\x02"), None
    for _ in range(3):  # every entry points at the first one's data, and claims all of it
        first = content[start + 42 : start + 46] if first is None else first
        content[start + 42 : start + 46] = first
        content[start + 20 : start + 24] = struct.pack("<I", len(content) - 200)
        start = content.find(b"PK\x01\x02", start + 4)
    path.write_bytes(content)
    refuse_npz(path, canary, DataFormatError)


def test_encrypted_and_odd_compression(tmp_path, canary):
    path = archive(tmp_path / "x.npz", {"a.npy": npy(np.zeros(9))}, zipfile.ZIP_LZMA)
    refuse_npz(path, canary, match="compressed by method 14")
    content = bytearray(archive(path, {"a.npy": npy(np.zeros(9))}).read_bytes())
    content[content.index(b"PK\x01\x02") + 8] |= 1
    path.write_bytes(content)
    refuse_npz(path, canary, match="encrypted")


# -- HDF5 --------------------------------------------------------------------------------------------------------------


def first(path: Path, name: str = "x") -> np.ndarray:
    with open_h5(path) as file:
        return read_h5(file[name])


@pytest.fixture
def secret(tmp_path: Path) -> Path:
    path = tmp_path / "secret.h5"
    with h5py.File(path, "w") as file:
        file["x"] = np.arange(4)
    return path


def test_links_and_data_elsewhere(tmp_path, canary, secret):
    path = tmp_path / "x.h5"
    layout = h5py.VirtualLayout((4,), "i8")
    layout[:] = h5py.VirtualSource(str(secret), "x", (4,))
    with h5py.File(path, "w") as file:
        file["passwd"] = h5py.ExternalLink("/etc/passwd", "/")
        file["other"] = h5py.ExternalLink(str(secret), "/x")
        file["group/plain"] = np.zeros(2)
        file["soft"] = h5py.SoftLink("/group/plain")
        file["dangling"] = h5py.SoftLink("/nothing")
        file["group/loop"] = h5py.SoftLink("/group")
        file.create_dataset("raw", (10,), "u1", external=[("/etc/passwd", 0, 10)])
        file.create_virtual_dataset("virtual", layout)
        file["type"] = np.dtype("f8")
    for name in ("passwd", "other", "soft", "dangling", "group/loop/plain", "raw", "virtual", "type", "other/deeper"):
        refuse(lambda name=name: first(path, name), canary)
        with open_h5(path) as file, pytest.raises(UnsafeFileError):
            file.get(name)
        with open_h5(path) as file, pytest.raises(UnsafeFileError):
            assert name not in file
    with open_h5(path) as file:
        for walk in (lambda: list(file.values()), lambda: list(file["group"].items()), lambda: file["group"].parent):
            with pytest.raises(UnsafeFileError):
                walk()
    assert first(path, "group/plain").tolist() == [0, 0]
    with h5py.File(path) as file:  # even handed a dataset of a plain h5py file, read_h5 looks
        for name in ("raw", "virtual"):
            with pytest.raises(UnsafeFileError, match="other files"):
                read_h5(file[name])


def test_types_that_hold_pointers(tmp_path, canary):
    path = tmp_path / "x.h5"
    with h5py.File(path, "w") as file:
        file["a"] = np.zeros(3)
        file.create_dataset("reference", data=[file["a"].ref], dtype=h5py.ref_dtype)
        file.create_dataset("region", data=[file["a"].regionref[:2]], dtype=h5py.regionref_dtype)
        sequences = file.create_dataset("sequences", (2,), dtype=h5py.vlen_dtype("f8"))
        sequences[0] = [1.0, 2.0]
        file["compound"] = np.zeros(2, dtype=[("a", "f8"), ("b", "i4")])
        file["opaque"] = np.void(b"abc")
    for name in ("reference", "region", "sequences", "compound", "opaque"):
        refuse(lambda name=name: first(path, name), canary, match="only numbers and strings")
    with open_h5(path) as file, h5py.File(path) as plain, pytest.raises(UnsafeFileError, match="references"):
        file[plain["reference"][0]]


def test_declared_sizes(tmp_path, canary):
    path = tmp_path / "x.h5"
    with h5py.File(path, "w") as file:
        file.create_dataset("huge", (2**50,), "f8", chunks=(1024,))
        file.create_dataset("wide", (2**20, 2**20, 2**20), "u1", chunks=(1, 1, 1))
        file.create_dataset("chunk", (1,), "u1", maxshape=(None,), chunks=(2**31,))
    assert path.stat().st_size < 100_000
    for name in ("huge", "wide"):
        refuse(lambda name=name: first(path, name), canary, match="declares")
    with open_h5(path) as file, pytest.raises(UnsafeFileError, match=r"one chunk.* declares"):
        read_h5(file["chunk"], 2**20)


def test_gzip_bomb_in_a_chunk(tmp_path, canary):
    path = tmp_path / "x.h5"
    packer = zlib.compressobj(9)
    bomb = b"".join(packer.compress(bytes(MEGA)) for _ in range(600)) + packer.flush()
    with h5py.File(path, "w") as file:
        data = file.create_dataset("x", (1000,), "f8", chunks=(1000,), compression="gzip")
        data.id.write_direct_chunk((0,), bomb)
    before = peak_memory()
    refuse(lambda: first(path), canary, match="unpacks to more|should have")
    assert peak_memory() - before < 200 * MEGA  # HDF5's own memory, which tracemalloc does not see


def peak_memory() -> int:
    import resource

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def test_filters_that_stack(tmp_path, canary):
    path = tmp_path / "x.h5"
    plist = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
    plist.set_chunk((100,))
    plist.set_deflate(9)
    plist.set_deflate(9)
    with h5py.File(path, "w") as file:
        h5py.h5d.create(file.id, b"x", h5py.h5t.IEEE_F64LE, h5py.h5s.create_simple((100,)), plist)
        file.create_dataset("scaled", data=np.arange(100), chunks=(100,), scaleoffset=0)
    for name in ("x", "scaled"):
        refuse(lambda name=name: first(path, name), canary, match="filters")


def test_one_long_text_many_times(tmp_path, canary):
    path = tmp_path / "x.h5"
    with h5py.File(path, "w") as file:
        data = file.create_dataset("x", (4000,), dtype=h5py.string_dtype())
        data[0] = "y" * MEGA
        place = data.id.get_offset()
    content = bytearray(path.read_bytes())
    content[place : place + 4000 * 16] = content[place : place + 16] * 4000  # each element points at the first's text
    path.write_bytes(content)
    with open_h5(path) as file:
        refuse(lambda: read_h5(file["x"], 16 * MEGA), canary, match="declares")


def test_two_formats_in_one_file(tmp_path, canary):
    path = tmp_path / "x.h5"
    with h5py.File(path, "w", userblock_size=512) as file:
        file["x"] = np.zeros(3)
    with open(path, "r+b") as file:
        file.write(pickle.dumps(Reduce(os.system, (f"touch {canary}",))))
    refuse(lambda: first(path), canary, match="something else stand")


def test_damaged_hdf5(tmp_path, canary, secret):
    content = secret.read_bytes()
    rng = np.random.default_rng(0)
    for trial in range(60):
        damaged = bytearray(content[: rng.integers(8, len(content))] if trial % 2 else content)
        for _ in range(4):
            damaged[rng.integers(8, len(damaged))] = rng.integers(256)
        path = tmp_path / "damaged.h5"
        path.write_bytes(damaged)
        try:
            with little_memory():
                first(path)
        except (DataFormatError, KeyError):
            continue
