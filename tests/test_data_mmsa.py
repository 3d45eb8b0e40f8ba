"""MMSA pickles: what they may hold, what is refused, and what the loader makes of the two layouts."""

import builtins
import collections
import contextlib
import copyreg
import functools
import io
import logging
import os
import pickle
import struct
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from clcr_hf.data import RestrictedUnpickler, UnsafePickleError, load_mmsa, load_pickle_safely
from clcr_hf.data.columns import DataFormatError


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


# -- the loader --------------------------------------------------------------------------------------------------------

LENGTHS = {"train": [3, 5, 2], "valid": [4], "test": [1, 5]}
STEPS, AUDIO, VISION = 5, 2, 3


def mmsa(aligned: bool = True) -> dict:
    """A pickle's content in exactly MMSA's layout, sized small: text lengths as `LENGTHS`, labels in thirds."""
    rng = np.random.default_rng(0)
    content = {}
    for name, lengths in LENGTHS.items():
        n = len(lengths)
        real = np.arange(STEPS) < np.array(lengths)[:, None]
        tokens = np.stack([np.where(real, rng.integers(5, 99, (n, STEPS)), 0), real, np.zeros((n, STEPS))], axis=1)
        split = {
            "raw_text": np.array([f"{name} sentence {i}" for i in range(n)], dtype=object),
            "audio": rng.normal(size=(n, STEPS, AUDIO)) * real[..., None],
            "vision": rng.normal(size=(n, STEPS, VISION)) * real[..., None],
            "text": rng.normal(size=(n, STEPS, 4)).astype(np.float32),
            "text_bert": tokens.astype(np.float32),
            "id": [f"{name}video$_${i}" for i in range(n)],
            "annotations": ["Positive"] * n,
            "classification_labels": np.ones(n),
            "regression_labels": np.linspace(-3, 3, n + 2, dtype=np.float32)[1:-1],
        }
        if not aligned:
            split["audio"] = rng.normal(size=(n, 7, AUDIO))
            split["audio_lengths"] = [7 - i for i in range(n)]
            split["vision_lengths"] = [0] + [2] * (n - 1)
        content[name] = split
    return content


def save(tmp_path: Path, content, protocol: int = 4) -> Path:
    path = tmp_path / "data.pkl"
    path.write_bytes(pickle.dumps(content, protocol))
    return path


@pytest.mark.parametrize("protocol", [2, 4, 5])
def test_aligned(tmp_path, protocol):
    content = mmsa()
    data = load_mmsa(save(tmp_path, content, protocol))
    assert list(data) == ["train", "validation", "test"]
    assert data["train"].column_names == [
        "id",
        "text",
        "input_ids",
        "attention_mask",
        "token_type_ids",
        "vision_features",
        "audio_features",
        "label",
    ]
    for name, split in (("train", "train"), ("validation", "valid"), ("test", "test")):
        for i, length in enumerate(LENGTHS[split]):
            row, source = data[name][i], content[split]
            assert row["id"] == source["id"][i] and row["text"] == source["raw_text"][i]
            assert row["input_ids"] == source["text_bert"][i, 0, :length].tolist()
            assert row["attention_mask"] == [1] * length and row["token_type_ids"] == [0] * length
            for modality in ("vision", "audio"):
                expected = source[modality][i, :length].astype(np.float32)
                np.testing.assert_array_equal(np.asarray(row[f"{modality}_features"], dtype=np.float32), expected)
            assert row["label"] == pytest.approx(source["regression_labels"][i])
    features = data["train"].features
    assert features["label"].dtype == "float32" and features["input_ids"].feature.dtype == "int64"
    assert features["audio_features"].feature.length == AUDIO


def test_unaligned_uses_the_lengths(tmp_path):
    content = mmsa(aligned=False)
    data = load_mmsa(save(tmp_path, content), modalities=("audio", "vision"))
    assert "input_ids" not in data["train"].column_names
    assert [len(row) for row in data["train"]["audio_features"]] == [7, 6, 5]
    assert [len(row) for row in data["train"]["vision_features"]] == [0, 2, 2]
    np.testing.assert_allclose(data["test"][1]["audio_features"], content["test"]["audio"][1, :6], rtol=1e-6)


def test_text_embeddings(tmp_path):
    content = mmsa()
    data = load_mmsa(save(tmp_path, content), text="text")
    assert "input_ids" not in data["train"].column_names
    assert [len(row) for row in data["train"]["text_features"]] == LENGTHS["train"]
    np.testing.assert_array_equal(data["test"][1]["text_features"], content["test"]["text"][1])


def test_no_real_frame_is_lost_where_the_text_mask_is_shorter(tmp_path):
    content = mmsa()
    content["train"]["audio"][0, 4] = 1.0  # text of this row ends at 3
    data = load_mmsa(save(tmp_path, content))
    assert [len(row) for row in data["train"]["audio_features"]] == [5, 5, 2]
    assert [len(row) for row in data["train"]["vision_features"]] == [3, 5, 2]


def test_non_finite_values_become_zero_and_are_counted(tmp_path, caplog):
    content = mmsa()
    content["train"]["audio"][1, 0, 0] = -np.inf
    content["train"]["audio"][1, 1, 1] = np.nan
    content["train"]["audio"][2, 0, 0] = 1e300  # infinite in float32
    with caplog.at_level(logging.WARNING, "clcr_hf.data"):
        data = load_mmsa(save(tmp_path, content))
    audio = np.asarray(data["train"][1]["audio_features"])
    assert audio[0, 0] == 0 and audio[1, 1] == 0 and np.isfinite(audio).all() and audio[0, 1] != 0
    assert "3 non-finite values of audio" in caplog.text


def test_mult_layout(tmp_path):
    rng = np.random.default_rng(1)
    content = {}
    for name, n in (("train", 3), ("valid", 2), ("test", 2)):
        audio = rng.normal(size=(n, 4, 2)) + 5
        audio[0, :2] = 0  # padded in front
        content[name] = {
            "text": rng.normal(size=(n, 4, 3)) + 5,
            "vision": rng.normal(size=(n, 4, 2)) + 5,
            "audio": audio,
            "labels": rng.uniform(-3, 3, (n, 1, 2)),
            "id": np.array([[f"{name}{i}", "0.5", "1.5"] for i in range(n)]),
        }
    path = save(tmp_path, content)
    data = load_mmsa(path, text="text", label_index=1)
    assert data["train"][0]["id"] == "train0$_$0.5$_$1.5"
    assert [len(row) for row in data["train"]["audio_features"]] == [2, 4, 4]
    np.testing.assert_allclose(data["train"][0]["audio_features"], content["train"]["audio"][0, 2:], rtol=1e-6)
    np.testing.assert_allclose(data["test"]["label"], content["test"]["labels"][:, 0, 1], rtol=1e-6)
    with pytest.raises(DataFormatError, match="no field 'text_bert'"):
        load_mmsa(path)
    with pytest.raises(DataFormatError, match="label_index is 2"):
        load_mmsa(path, text="text", label_index=2)


def broken(change) -> dict:
    content = mmsa()
    change(content)
    return content


FAULTS = {
    "ids come twice": lambda c: c["train"].update(id=["a", "a", "b"]),
    "ids of split 'test' are also in 'train'": lambda c: c["test"].update(id=["trainvideo$_$0", "x"]),
    r"audio is float64 \(3, 5\)": lambda c: c["train"].update(audio=np.zeros((3, 5))),
    r"vision is .* wanted 3 axes of numbers and 3 rows": lambda c: c["train"].update(vision=np.zeros((2, 5, 3))),
    "audio_features differs in width": lambda c: c["test"].update(audio=np.ones((2, 5, 9))),
    r"1 labels lie outside \(-3.0, 3.0\) \(first: row 2, 3.5\)": lambda c: c["train"].update(
        regression_labels=np.array([0, 1, 3.5])
    ),
    "2 labels are not finite": lambda c: c["train"].update(regression_labels=np.array([0, np.nan, np.inf])),
    "id has 3 rows": lambda c: c["train"].update(regression_labels=np.zeros(2)),
    r"no split validation among the keys": lambda c: c.pop("valid"),
    "no field 'id'": lambda c: c["train"].pop("id"),
    "no field 'vision'": lambda c: c["valid"].pop("vision"),
    "no field 'regression_labels' or 'labels'": lambda c: c["valid"].pop("regression_labels"),
    "raw_text has 1 rows": lambda c: c["train"].update(raw_text=["x"]),
    r"wanted \(N, 3, T\)": lambda c: c["train"].update(text_bert=np.zeros((3, 2, 5))),
    "something else than token ids": lambda c: c["train"].update(text_bert=np.full((3, 3, 5), 0.5)),
    "audio_lengths reach 9": lambda c: c["train"].update(audio_lengths=[9, 1, 1]),
}


@pytest.mark.parametrize("message", FAULTS)
def test_faults_are_named(tmp_path, message):
    with pytest.raises(DataFormatError, match=message):
        load_mmsa(save(tmp_path, broken(FAULTS[message])))


def test_all_faults_come_in_one_error(tmp_path):
    content = mmsa()
    content["train"]["id"] = ["a", "a", "b"]
    content["test"]["regression_labels"] = np.array([9.0, 0.0])
    with pytest.raises(DataFormatError, match="ids come twice") as caught:
        load_mmsa(save(tmp_path, content))
    assert "1 labels lie outside" in str(caught.value)


def test_other_label_ranges(tmp_path):
    content = broken(lambda c: c["train"].update(regression_labels=np.array([0, 1, 3.5])))
    path = save(tmp_path, content)
    assert load_mmsa(path, label_range=None)["train"]["label"][2] == 3.5
    with pytest.raises(DataFormatError, match="text='bert'"):
        load_mmsa(path, text="bert")
    with pytest.raises(DataFormatError, match="modalities"):
        load_mmsa(path, modalities=("smell",))


def test_not_a_dict_of_splits(tmp_path):
    with pytest.raises(DataFormatError, match="holds a list"):
        load_mmsa(save(tmp_path, [1]))
