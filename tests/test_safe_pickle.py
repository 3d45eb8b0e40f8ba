"""Pickles: what is read back, what is refused, and what reading costs."""

import builtins
import collections
import contextlib
import copyreg
import functools
import io
import mmap
import os
import pickle
import struct
import tracemalloc
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from clcr_hf.data import RestrictedUnpickler, UnsafePickleError, load_pickle_safely
from clcr_hf.data.untrusted.pickles import release_pages


def read(data: bytes, **options):
    return RestrictedUnpickler(io.BytesIO(data), **options).load()


def same(a, b) -> bool:
    """Equality of nested containers that may hold arrays, types included."""
    if isinstance(a, np.ndarray) or isinstance(b, np.ndarray):
        if not (isinstance(a, np.ndarray) and isinstance(b, np.ndarray)) or a.dtype != b.dtype or a.shape != b.shape:
            return False
        if a.dtype.hasobject:
            return all(same(x, y) for x, y in zip(a.ravel(), b.ravel(), strict=True))
        return a.tobytes() == b.tobytes()
    if type(a) is not type(b):
        return False
    if isinstance(a, dict):
        return list(a) == list(b) and all(same(a[k], b[k]) for k in a)
    if isinstance(a, (list, tuple)):
        return len(a) == len(b) and all(same(x, y) for x, y in zip(a, b, strict=True))
    return a == b or (a != a and b != b)


# -- what may be read --------------------------------------------------------------------------------------------------

ARRAYS = [
    np.arange(6, dtype=np.float32).reshape(2, 3),
    np.asfortranarray(np.arange(6.0).reshape(2, 3)),
    np.arange(24, dtype=np.int16).reshape(2, 3, 4)[:, ::2],
    np.array([1, 2], dtype=">i4"),
    np.array([True, False]),
    np.array([1 + 2j]),
    np.array(["a", "longer", "é"]),
    np.array([b"x", b"yz"]),
    np.array(5.0),
    np.zeros((0, 3)),
    np.array(["text", None, 3, [1.5, "x"], ("t", 2)], dtype=object),
    np.empty((0,), dtype=object),
]


@pytest.mark.parametrize("protocol", range(6))
@pytest.mark.parametrize("array", ARRAYS, ids=lambda a: f"{a.dtype}{a.shape}")
def test_reads_every_plain_array(array, protocol):
    result = read(pickle.dumps({"x": array, "again": array}, protocol))
    assert same(result["x"], array)
    assert result["again"] is result["x"]  # shared parts stay shared


@pytest.mark.parametrize("protocol", range(6))
def test_reads_scalars_dtypes_and_containers(protocol):
    value = {
        "scalar": np.float32(1.5),
        "int": np.int64(-3),
        "string": np.str_("word"),
        "empty": np.str_(""),
        "dtype": np.dtype(">f8"),
        "bytes": b"\x00\xff",
        "no bytes": b"",
        "bytearray": bytearray(b"ab"),
        "set": {1, 2},
        "frozen": frozenset({"a"}),
        "deep": [(1, [2, (3, {"k": None})])],
        "flags": (True, False, None, 2**80, -1.5),
    }
    result = read(pickle.dumps(value, protocol))
    assert same(result, value)


def test_nested_object_arrays_hold_arrays():
    inner = np.arange(3)
    outer = np.empty(2, dtype=object)
    outer[0], outer[1] = inner, [inner]
    result = read(pickle.dumps(outer, 4))
    assert same(result[0], inner) and same(result[1][0], inner)


@pytest.mark.parametrize("core", ["numpy.core", "numpy._core"])
def test_both_numpy_module_names(core):
    data = pickle.dumps(np.arange(3.0), 2)
    renamed = data.replace(b"numpy._core.", core.encode() + b".").replace(b"numpy.core.", core.encode() + b".")
    assert same(read(renamed), np.arange(3.0))


def test_reads_a_python_2_pickle():
    # As Python 2 and NumPy 1 wrote it: protocol 2, bytes as 8-bit strings.
    raw = struct.pack("<2d", 1.0, -2.5)
    data = (
        b"\x80\x02}U\x05audio"
        b"cnumpy.core.multiarray\n_reconstruct\ncnumpy\nndarray\nK\x00\x85U\x01b\x87R"
        b"(K\x01K\x02\x85cnumpy\ndtype\nU\x02f8K\x00K\x01\x87R(K\x03U\x01<NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00tb"
        b"\x89U\x10" + raw + b"tbs."
    )
    assert same(read(data), {"audio": np.array([1.0, -2.5])})


plain = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text() | st.binary(),
    lambda inner: (
        st.lists(inner, max_size=4) | st.tuples(inner, inner) | st.dictionaries(st.text(max_size=4), inner, max_size=4)
    ),
    max_leaves=20,
)


@settings(max_examples=100, deadline=None)
@given(plain, st.integers(0, 5))
def test_plain_values_survive(value, protocol):
    assert same(read(pickle.dumps(value, protocol)), value)


# -- what is refused ---------------------------------------------------------------------------------------------------


class Call:
    """Pickles to a call of `function` with `args`."""

    def __init__(self, function, *args, state=None):
        self.parts = (function, args) if state is None else (function, args, state)

    def __reduce__(self):
        return self.parts

    def __call__(self):
        """Lets a call's result be called in turn; the pickler wants a callable there."""


def touch(path: Path) -> str:
    return f"open({str(path)!r}, 'w').close()"


def text(word: str) -> bytes:
    return b"X" + struct.pack("<I", len(word.encode())) + word.encode()


def stack_global(module: str, name: str) -> bytes:
    return text(module) + text(name) + b"\x93"


def gadgets(path: Path) -> dict[str, bytes]:
    """Pickles that each write `path` when read by `pickle.loads`, or would by some weaker reader."""
    command = f"touch {path}"
    evil_dtype = Call(np.dtype, "f8", state=(3, "<", None, ("a",), {"a": (np.dtype("O"), 0)}, 8, 8, 27))
    array = np.arange(2.0)
    reconstruct = array.__reduce__()[0]
    objects = {
        "os.system": Call(os.system, command),
        "eval": Call(builtins.eval, touch(path)),
        "exec in a list": [1, {"k": (Call(builtins.exec, touch(path)),)}],
        "partial": Call(functools.partial(os.system, command)),
        "partial as a value": functools.partial(os.system, command),
        "getattr chain": Call(Call(builtins.getattr, Call(builtins.__import__, "os"), "system"), command),
        "map": Call(list, Call(map, os.system, [command])),
        "numpy.load": Call(np.load, str(path), None, True),
        "numpy.save": Call(np.save, str(path), [1]),
        "numpy.savetxt": Call(np.savetxt, str(path), [1]),
        "memmap": Call(np.memmap, str(path), "uint8", "w+", 0, (4,)),
        "numpy.testing": Call(np.testing.assert_raises, ZeroDivisionError, os.system, command),
        "numpy.vectorize": Call(np.vectorize, os.system),
        "in an object array": np.array([Call(os.system, command), 1], dtype=object),
        "as a dict key": {Call(os.system, command): 1},
        "reconstruct of another class": Call(reconstruct, collections.OrderedDict, (0,), b"b"),
        "reconstruct of a subclass": Call(reconstruct, np.memmap, (0,), b"b"),
        "state on a dtype": evil_dtype,
        "structured array": np.zeros(2, dtype=[("a", "O")]),
        "a class as a value": [os.system],
        "ordered dict": collections.OrderedDict(a=1),
        "instance": Path(path),
        "slice": slice(1, 2),
    }
    pickles = {f"{name}, protocol {p}": pickle.dumps(value, p) for name, value in objects.items() for p in (0, 2, 4)}
    cmd = text(command)
    pickles |= {
        "INST": b"(S'" + command.encode() + b"'\nios\nsystem\n.",
        "OBJ": b"(cos\nsystem\n" + cmd + b"o.",
        "NEWOBJ of an allowed type": b"cnumpy\nndarray\n(K\x02\x85t\x81.",
        "dotted name": b"\x80\x04" + stack_global("numpy", "f2py.os.system") + cmd + b"\x85R.",
        "dotted name from an allowed one": b"\x80\x04" + stack_global("numpy", "ndarray.__class__") + b".",
        "module in the name": b"\x80\x04" + stack_global("builtins", "set.__init__.__globals__") + b".",
        "name that is no string": b"\x80\x04" + text("os") + b"K\x01\x93.",
        "call of a string": cmd + cmd + b"\x85R.",
        "call of ndarray": b"cnumpy\nndarray\nK\x02\x85R.",
        "arguments that are a list": b"cbuiltins\nset\n]R.",
        "state on a global": b"cnumpy.core.multiarray\n_reconstruct\n}" + text("build") + b"cnumpy\ndtype\nsb.",
        "slot state on a global": b"cnumpy.core.multiarray\nscalar\nN}" + text("name") + text("x") + b"s\x86b.",
        "__setstate__ on a list": b"]}" + text("__class__") + cmd + b"sb.",
        "global as a value": b"cnumpy\ndtype\n.",
        "global in a list": b"]cbuiltins\nset\na.",
        "global in a set": b"\x80\x04\x8f(cbuiltins\nset\n\x90.",
        "persistent id, text": b"Pos.system\n.",
        "persistent id, binary": cmd + b"Q.",
        "extension 1": b"\x80\x02\x82\xf0.",
        "out-of-band buffer": b"\x80\x05\x97.",
        "set of text": b"cbuiltins\nset\n" + cmd + b"\x85R.",
        "codecs": b"c_codecs\nencode\n" + text("a") + text("rot13") + b"\x86R.",
        "bytes of a number": b"cbuiltins\nbytes\nJ\xff\xff\xff\x7f\x85R.",
        "bytearray of a number": b"cbuiltins\nbytearray\nJ\xff\xff\xff\x7f\x85R.",
    }
    return pickles


NAMES = sorted(gadgets(Path("sentinel")))


@pytest.mark.parametrize("name", NAMES)
def test_gadgets_are_refused_and_nothing_runs(name, tmp_path):
    sentinel = tmp_path / "sentinel"
    file = tmp_path / "data.pkl"
    file.write_bytes(gadgets(sentinel)[name])
    with pytest.raises(UnsafePickleError):
        load_pickle_safely(file)
    assert not sentinel.exists()


def test_the_sentinel_would_be_written_by_pickle(tmp_path):
    # The gadgets are live: the standard unpickler does run them.
    for name in ("os.system, protocol 4", "eval, protocol 2", "getattr chain, protocol 4", "INST"):
        sentinel = tmp_path / name.replace(" ", "_")
        pickle.loads(gadgets(sentinel)[name])
        assert sentinel.exists()


@pytest.mark.parametrize("protocol", range(6))
def test_the_refusal_names_the_global(protocol):
    with pytest.raises(UnsafePickleError, match=r"builtins__?\.eval|__builtin__\.eval|builtins\.eval") as caught:
        read(pickle.dumps(Call(builtins.eval, "1"), protocol))
    assert isinstance(caught.value, pickle.UnpicklingError)
    with pytest.raises(UnsafePickleError, match=r"collections\.OrderedDict"):
        read(pickle.dumps(collections.OrderedDict(), protocol))


def test_registered_extensions_are_refused_even_when_cached():
    copyreg.add_extension("os", "getcwd", 0xF1)
    try:
        data = b"\x80\x02\x82\xf1)R."
        assert pickle.loads(data) == os.getcwd()  # now in copyreg's cache
        with pytest.raises(UnsafePickleError, match="EXT1"):
            read(data)
    finally:
        copyreg.remove_extension("os", "getcwd", 0xF1)


DTYPE = b"cnumpy\ndtype\n"


@pytest.mark.parametrize(
    "code", ["V8", "O8,O8", "f8,f8", "(2,)f8", "M8[s]", "U999999999999", "object", "i4;", "", "f3", "w4"]
)
def test_dtypes_are_plain(code):
    with pytest.raises(UnsafePickleError):
        read(DTYPE + text(code) + b"K\x00K\x01\x87R.")


def build_array(shape: tuple, dtype: np.dtype, data) -> bytes:
    """An array's pickle with a state of our own."""
    function, args, state = np.zeros(1).__reduce__()
    return pickle.dumps(Call(function, *args, state=(1, shape, dtype, False, data)), 4)


@pytest.mark.parametrize(
    ("shape", "dtype", "data"),
    [
        ((3,), "f8", b"\0" * 16),  # too short
        ((1,), "f8", b"\0" * 16),  # too long
        ((-1,), "f8", b"\0" * 8),
        ((2**62, 2**62), "f8", b""),
        ((True,), "f8", b"\0" * 8),
        ([1], "f8", b"\0" * 8),
        ((1,), "f8", [1.0]),
        ((1,), "O", b"\0" * 8),  # bytes as object pointers
        ((2,), "O", [1]),
        ((1,), "O", {"a": 1}),
        ((1,), "U0", b""),
        ((1,) * 40, "f8", b"\0" * 8),
    ],
)
def test_hostile_array_states(shape, dtype, data):
    with pytest.raises(UnsafePickleError):
        read(build_array(shape, np.dtype(dtype), data))


def test_an_array_in_itself_is_refused():
    array = np.empty(1, dtype=object)
    array[0] = [array]
    with pytest.raises(UnsafePickleError, match="itself"):
        read(pickle.dumps(array, 4))
    loop: list = []
    loop.append(loop)
    with pytest.raises(UnsafePickleError, match="itself"):
        read(pickle.dumps(loop, 4))


def test_depth_and_sharing_cost_nothing():
    with pytest.raises(UnsafePickleError, match="deeper"):
        read(b"]" * 200_000 + b"a" * 199_999 + b".")
    laughs: list = []
    for _ in range(40):
        laughs = [laughs] * 10  # 10**40 leaves if each were visited
    assert len(read(pickle.dumps(laughs, 4))) == 10


@pytest.mark.parametrize("opcode", [b"\x8e", b"\x8d", b"\x96", b"\x95"])
def test_lengths_beyond_the_file_are_refused_without_allocating(opcode):
    with pytest.raises(UnsafePickleError, match="ends early"):
        read(b"\x80\x05" + opcode + struct.pack("<Q", 2**45) + b"short.")


def test_size_guard(tmp_path):
    file = tmp_path / "big.pkl"
    file.write_bytes(pickle.dumps(b"x" * 1000))
    with pytest.raises(UnsafePickleError, match="max_bytes=100"):
        load_pickle_safely(file, max_bytes=100)
    assert load_pickle_safely(file) == b"x" * 1000


GOOD = pickle.dumps({"train": {"x": np.arange(4.0), "id": ["a", "b"]}, "s": {1}}, 4)


@settings(max_examples=300, deadline=None)
@given(st.integers(0, len(GOOD) - 1), st.integers(0, 255), st.integers(0, len(GOOD)))
def test_damaged_files_give_one_error(position, byte, end):
    damaged = bytearray(GOOD)
    damaged[position] = byte
    for data in (bytes(damaged), GOOD[:end]):
        with contextlib.suppress(UnsafePickleError):
            read(data)


@settings(max_examples=300, deadline=None)
@given(st.binary(max_size=60))
def test_noise_gives_one_error(data):
    with contextlib.suppress(UnsafePickleError):
        read(data)


# -- large arrays ------------------------------------------------------------------------------------------------------


def mapped(array: np.ndarray) -> bool:
    base = array
    while isinstance(base, np.ndarray):
        base = base.base
    return isinstance(base, memoryview) and isinstance(base.obj, mmap.mmap)


@pytest.mark.parametrize("protocol", [3, 4, 5])
def test_large_arrays_are_views_of_the_file(tmp_path, protocol):
    big = np.random.default_rng(0).normal(size=(100, 50, 40))
    value = {
        "big": big,
        "small": np.arange(3.0),
        "fortran": np.asfortranarray(big[0].repeat(10, 0)),
        "bytes": b"x" * 2**17,
    }
    value["bytearray"] = bytearray(b"y" * 2**17)
    file = tmp_path / "data.pkl"
    file.write_bytes(pickle.dumps(value, protocol))
    tracemalloc.start()
    try:
        result = load_pickle_safely(file)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert same(result, value)
    assert mapped(result["big"]) and mapped(result["fortran"]) and not mapped(result["small"])
    assert not result["big"].flags.writeable
    assert peak < big.nbytes // 2
    for array in (result["big"], result["big"][3:40], result["fortran"], result["small"], np.zeros(5)):
        before = array.copy()
        release_pages(array)
        assert same(array, before)


def test_large_text_of_python_2_is_an_array_too(tmp_path):
    raw = np.arange(20_000.0)
    head = b"cnumpy.core.multiarray\n_reconstruct\ncnumpy\nndarray\nK\x00\x85U\x01b\x87R(K\x01J" + struct.pack(
        "<i", 20_000
    )
    dtype = b"cnumpy\ndtype\nU\x02f8K\x00K\x01\x87R"
    file = tmp_path / "old.pkl"
    file.write_bytes(
        b"\x80\x02" + head + b"\x85" + dtype + b"\x89T" + struct.pack("<i", raw.nbytes) + raw.tobytes() + b"tb."
    )
    result = load_pickle_safely(file)
    assert same(result, raw) and mapped(result)
    file.write_bytes(b"\x80\x02T" + struct.pack("<i", 2**17) + b"a" * 2**17 + b".")
    assert load_pickle_safely(file) == "a" * 2**17


def test_one_pickle_a_stream_as_the_standard_reader(tmp_path):
    two = pickle.dumps([1], 4) + pickle.dumps([2], 4)
    stream = io.BytesIO(two)
    assert [RestrictedUnpickler(stream).load() for _ in range(2)] == [[1], [2]]
    file = tmp_path / "two.pkl"
    file.write_bytes(two)
    with open(file, "rb") as stream:
        assert [RestrictedUnpickler(stream).load() for _ in range(2)] == [[1], [2]]
    with pytest.raises(UnsafePickleError, match="follow the pickle"):
        load_pickle_safely(file)
