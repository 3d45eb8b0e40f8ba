"""MMSA pickles (MOSI, MOSEI, SIMS) and MulT's older ones, read without running anything that they contain.

Layouts: paper notes, section 9. A pickle is a program; these files are passed around on file hosts, so they are read
by `RestrictedUnpickler`, which interprets the opcodes itself, knows a dozen global names, and never calls any object
that the file names: arrays are rebuilt here from their bytes, with only plain dtypes.
"""

import io
import os
import pickle
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any, BinaryIO

import numpy as np
from datasets import Dataset, DatasetDict, Features, Value

from .columns import (
    SPLIT_ALIASES,
    SPLITS,
    DataFormatError,
    logger,
    make_dataset,
    ordered_splits,
    raise_problems,
    replace_non_finite,
    sequence_column,
    sequence_feature,
)

MAX_PICKLE_BYTES = 32 * 2**30
_MAX_DEPTH = 50
_PLAIN_DTYPE = re.compile(r"[<>|=]?([biufcSU]\d{1,9}|O8?|[?])")


class UnsafePickleError(pickle.UnpicklingError):
    """A pickle that asks for more than arrays and plain containers, or that is damaged. Nothing in it was run."""


# ---------------------------------------------------------------------------------------------------------------------
# Restricted unpickling


class _Global:
    """Stands for a global name on the unpickler's stack. It cannot be called, built upon or left in the result."""

    __slots__ = ("build", "name")
    __hash__ = None  # type: ignore[assignment]

    def __init__(self, name: str, build: Callable[..., Any] | None):
        self.name = name
        self.build = build


class _DType:
    """A dtype being read; `value` is one of NumPy's plain ones."""

    __slots__ = ("value",)
    __hash__ = None  # type: ignore[assignment]

    def __init__(self, value: np.dtype):
        self.value = value

    def set_state(self, state: Any) -> None:
        # (version, byte order, subarray, names, fields, itemsize, alignment, flags[, metadata]). Only the byte order
        # matters to a plain dtype. The flags say whether memory holds object pointers: never taken from a file.
        if (
            not isinstance(state, tuple)
            or len(state) not in (8, 9)
            or any(x is not None for x in state[2:5] + state[8:])
        ):
            raise UnsafePickleError("a structured dtype or a malformed dtype state; only plain dtypes are read")
        order = _text(state[1])
        if order not in ("<", ">", "|", "="):
            raise UnsafePickleError(f"unknown byte order {order!r} in a dtype")
        if order in "<>":
            self.value = self.value.newbyteorder(order)  # type: ignore[arg-type]


class _Array:
    """An array being read; `build` makes it once its parts are known."""

    __slots__ = ("parts",)
    __hash__ = None  # type: ignore[assignment]

    def __init__(self, parts: tuple[Any, ...] | None = None):
        self.parts = parts

    def set_state(self, state: Any) -> None:
        if not isinstance(state, tuple) or len(state) != 5:
            raise UnsafePickleError("malformed array state")
        _, shape, dtype, fortran, data = state
        self.parts = (shape, dtype, "F" if fortran else "C", data)


def _text(value: Any) -> str:
    return value.decode("latin1") if isinstance(value, bytes) else str(value)


def _raw(value: Any) -> Any:
    # Python 2 wrote array bytes as a str, which arrives decoded.
    return value.encode("latin1") if isinstance(value, str) else value


def _plain_dtype(code: Any, *_: Any) -> _DType:
    name = _text(code) if isinstance(code, (str, bytes)) else repr(code)
    if not _PLAIN_DTYPE.fullmatch(name):
        raise UnsafePickleError(f"dtype {name[:60]!r}; only bool, numbers, strings and object are read")
    return _DType(np.dtype(object) if name.strip("<>|=") in ("O", "O8") else np.dtype(name))


def _dtype_of(value: Any) -> np.dtype:
    if not isinstance(value, _DType):
        raise UnsafePickleError("an array or scalar whose dtype is not a dtype")
    return value.value


def _flat_values(dtype: np.dtype, count: int, data: Any) -> np.ndarray:
    data = _raw(data)
    if not isinstance(data, (bytes, bytearray)) or len(data) != count * dtype.itemsize or not dtype.itemsize:
        raise UnsafePickleError(f"array data do not fill {count} elements of {dtype}")
    return np.frombuffer(data, dtype=dtype)


def _checked_shape(shape: Any) -> tuple[int, ...]:
    if not isinstance(shape, tuple) or len(shape) > 32 or not all(type(n) is int and 0 <= n < 2**48 for n in shape):
        raise UnsafePickleError(f"array shape {str(shape)[:60]}")
    return shape


def _count(shape: tuple[int, ...]) -> int:
    count = 1
    for size in shape:  # Python ints: no overflow
        count *= size
    return count


def _reconstruct(kind: Any, shape: Any, code: Any) -> _Array:
    if not (isinstance(kind, _Global) and kind.name == "numpy.ndarray"):
        raise UnsafePickleError("_reconstruct of something else than numpy.ndarray")
    return _Array()


def _frombuffer(data: Any, dtype: Any, shape: Any, order: Any) -> _Array:
    if order not in ("C", "F"):
        raise UnsafePickleError(f"array order {str(order)[:20]!r}")
    return _Array((shape, dtype, order, data))


def _scalar(dtype: Any, data: Any = None) -> Any:
    kind = _dtype_of(dtype)
    if kind.hasobject:
        raise UnsafePickleError("a NumPy scalar of dtype object")
    if not kind.itemsize:
        return kind.type()  # an empty string
    return _flat_values(kind, 1, data)[0]


def _encode(value: Any, encoding: Any = "latin1") -> bytes:
    # How protocols 0 to 2 write bytes.
    if not isinstance(value, str) or encoding not in ("latin1", "latin-1"):
        raise UnsafePickleError("_codecs.encode with anything but text and latin1")
    return value.encode("latin1")


def _bytes(*args: Any) -> bytes:
    if args:
        raise UnsafePickleError("bytes() with arguments")
    return b""


def _bytearray(*args: Any) -> bytearray:
    if len(args) == 2 and isinstance(args[0], str):
        return bytearray(_encode(*args))
    if not args or (len(args) == 1 and isinstance(args[0], bytes)):
        return bytearray(*args)
    raise UnsafePickleError("bytearray() of something else than bytes")


def _collection(kind: type) -> Callable[..., Any]:
    def build(*args: Any) -> Any:
        if len(args) > 1 or not all(type(arg) in (list, tuple, set) for arg in args):
            raise UnsafePickleError(f"{kind.__name__}() of something else than a list")
        return kind(*args)

    return build


def _known_globals() -> dict[tuple[str, str], _Global]:
    makers: dict[str, Callable[..., Any] | None] = {"numpy.ndarray": None, "numpy.dtype": _plain_dtype}
    for core in ("numpy.core", "numpy._core"):  # NumPy 1 and 2
        makers[f"{core}.multiarray._reconstruct"] = _reconstruct
        makers[f"{core}.multiarray.scalar"] = _scalar
        makers[f"{core}.numeric._frombuffer"] = _frombuffer
    makers["_codecs.encode"] = _encode
    for module in ("builtins", "__builtin__"):
        makers[f"{module}.bytes"] = _bytes
        makers[f"{module}.bytearray"] = _bytearray
        makers[f"{module}.set"] = _collection(set)
        makers[f"{module}.frozenset"] = _collection(frozenset)
    return {tuple(name.rsplit(".", 1)): _Global(name, maker) for name, maker in makers.items()}  # type: ignore[misc]


_GLOBALS = _known_globals()


class _BoundedFile:
    """Reads that never allocate more than the file has left, whatever length an opcode claims."""

    def __init__(self, file: BinaryIO, size: int):
        self._file = file
        self._left = size

    def read(self, size: int) -> bytes:
        if not 0 <= size <= self._left:
            raise UnsafePickleError(f"the pickle ends early: {size} bytes wanted, {self._left} left")
        self._left -= size
        return self._file.read(size)

    def readline(self) -> bytes:
        line = self._file.readline()
        self._left -= len(line)
        return line


def _refuse(opcode: str) -> Callable[[Any], None]:
    def load(self: Any) -> None:
        raise UnsafePickleError(f"opcode {opcode} is refused: it names code or objects outside the file")

    return load


# All the other opcodes that can make objects or fetch them from elsewhere.
_REFUSED_OPCODES = ["PERSID", "BINPERSID", "INST", "OBJ", "NEWOBJ", "NEWOBJ_EX", "EXT1", "EXT2", "EXT4"]
_REFUSED_OPCODES += ["NEXT_BUFFER", "READONLY_BUFFER"]


_BaseUnpickler: Any = pickle._Unpickler  # the one written in Python; type stubs leave out most of it


class RestrictedUnpickler(_BaseUnpickler):
    """Unpickler for arrays, NumPy scalars, dtypes, dict, list, tuple, set, str, bytes, int, float, bool and None.

    Built on the standard library's unpickler in Python, not the one in C, because only there each opcode can be
    replaced: REDUCE calls constructors of this module alone, BUILD works on arrays and dtypes alone, and INST, OBJ,
    NEWOBJ, persistent ids, the extension registry and out-of-band buffers are refused.

    Protocols 0 to 5; pickles of Python 2 and of NumPy 1 and 2. Arrays come back read-only where they share the bytes
    read. Object arrays may hold what the list above allows.

    Args:
        file: binary file, seekable.
        encoding: of Python 2 strings.
        max_bytes: longest pickle read.

    Raises:
        UnsafePickleError: on `load`, for anything else, a damaged file, or one larger than `max_bytes`.
    """

    dispatch: dict[int, Callable[[Any], None]] = dict(_BaseUnpickler.dispatch)
    for _name in _REFUSED_OPCODES:
        dispatch[getattr(pickle, _name)[0]] = _refuse(_name)
    del _name

    def __init__(self, file: BinaryIO, *, encoding: str = "latin1", max_bytes: int = MAX_PICKLE_BYTES):
        start = file.tell()
        size = file.seek(0, io.SEEK_END) - start
        file.seek(start)
        if size > max_bytes:
            raise UnsafePickleError(f"the pickle has {size} bytes, more than max_bytes={max_bytes}")
        super().__init__(_BoundedFile(file, size), fix_imports=False, encoding=encoding)

    def load(self) -> Any:
        try:
            return _resolve(super().load(), {}, 0)
        except UnsafePickleError:
            raise
        except Exception as error:
            # Opcodes out of place end in any exception at all; for the caller they are one thing, a bad file.
            raise UnsafePickleError(f"damaged pickle ({type(error).__name__}: {str(error)[:120]})") from error

    def find_class(self, module: str, name: str) -> _Global:
        try:
            return _GLOBALS[module, name]
        except KeyError:
            raise UnsafePickleError(
                f"the pickle names the global {module}.{name}, which is refused: only NumPy arrays and plain "
                "containers are read. Nothing was run. If you trust the file, convert it yourself to such a pickle."
            ) from None

    def get_extension(self, code: int) -> None:
        raise UnsafePickleError(f"extension code {code} is refused")

    def persistent_load(self, pid: Any) -> Any:
        raise UnsafePickleError("a persistent id is refused")

    def load_reduce(self) -> None:
        args = self.stack.pop()
        function = self.stack[-1]
        if not isinstance(function, _Global) or function.build is None or type(args) is not tuple:
            what = function.name if isinstance(function, _Global) else f"a {type(function).__name__}"
            raise UnsafePickleError(f"the pickle calls {what}, which is refused")
        self.stack[-1] = function.build(*args)

    dispatch[pickle.REDUCE[0]] = load_reduce

    def load_build(self) -> None:
        state = self.stack.pop()
        target = self.stack[-1]
        if not isinstance(target, (_Array, _DType)):
            raise UnsafePickleError(f"the pickle sets the state of a {type(target).__name__}, which is refused")
        target.set_state(state)

    dispatch[pickle.BUILD[0]] = load_build

    def load_bytearray8(self) -> None:
        # The standard one allocates the claimed length before it reads.
        size = int.from_bytes(self.read(8), "little")
        self.append(bytearray(self.read(size)))

    dispatch[pickle.BYTEARRAY8[0]] = load_bytearray8


_BUSY = object()
_Done = dict[int, tuple[Any, Any]]  # id to (original, result); the original is kept so that its id stays its own


def _resolve(value: Any, done: _Done, depth: int) -> Any:
    """`value` with arrays and dtypes in place of their placeholders; lists and dicts are changed in place.

    Shared parts stay shared; a structure that contains itself, or is nested deeper than 50, is refused.
    """
    kind = type(value)
    if kind in (str, bytes, int, float, bool, type(None), set, frozenset, bytearray) or isinstance(value, np.generic):
        return value  # placeholders cannot be hashed, so sets hold none
    if kind is _DType:
        return value.value
    if kind not in (dict, list, tuple, _Array):
        what = f"the global {value.name}" if kind is _Global else f"a {kind.__name__}"
        raise UnsafePickleError(f"the pickle holds {what} as a value, which is refused")
    if depth > _MAX_DEPTH:
        raise UnsafePickleError(f"containers nested deeper than {_MAX_DEPTH}")
    key = id(value)
    if key not in done:
        done[key] = (value, _BUSY)
        done[key] = (value, _resolve_container(value, done, depth + 1))
    result = done[key][1]
    if result is _BUSY:
        raise UnsafePickleError("a container that holds itself")
    return result


def _resolve_container(value: Any, done: _Done, depth: int) -> Any:
    if type(value) is dict:
        for key in value:
            value[key] = _resolve(value[key], done, depth)
        return value
    if type(value) is list:
        value[:] = [_resolve(item, done, depth) for item in value]
        return value
    if type(value) is tuple:
        return tuple(_resolve(item, done, depth) for item in value)
    return _build_array(value, done, depth)


def _build_array(value: _Array, done: _Done, depth: int) -> np.ndarray:
    if value.parts is None:
        raise UnsafePickleError("an array without its data")
    shape, dtype, order, data = value.parts
    shape, dtype = _checked_shape(shape), _dtype_of(dtype)
    count = _count(shape)
    if not dtype.hasobject:
        return _flat_values(dtype, count, data).reshape(shape, order=order)
    if type(data) is not list or len(data) != count:
        raise UnsafePickleError("an object array whose elements are not a list of its size")
    flat = np.empty(count, dtype=object)
    for position, item in enumerate(data):
        flat[position] = _resolve(item, done, depth)
    return flat.reshape(shape, order=order)


def load_pickle_safely(path: str | os.PathLike, *, encoding: str = "latin1", max_bytes: int = MAX_PICKLE_BYTES) -> Any:
    """Read a pickle of arrays and plain containers; see `RestrictedUnpickler`.

    Raises:
        UnsafePickleError: the file names the refused global, is damaged, or exceeds `max_bytes`.
        FileNotFoundError: no such file.
    """
    with open(path, "rb") as file:
        try:
            return RestrictedUnpickler(file, encoding=encoding, max_bytes=max_bytes).load()
        except UnsafePickleError as error:
            raise UnsafePickleError(f"{path}: {error}") from error


# ---------------------------------------------------------------------------------------------------------------------
# The data sets


def load_mmsa(
    path: str | os.PathLike,
    *,
    text: str = "text_bert",
    modalities: Sequence[str] = ("text", "vision", "audio"),
    label_range: tuple[float, float] | None = (-3.0, 3.0),
    label_index: int = 0,
    max_bytes: int = MAX_PICKLE_BYTES,
) -> DatasetDict:
    """Load `aligned_50.pkl`, `unaligned_50.pkl` or one of MulT's pickles.

    Padding is cut off. Unaligned files give their lengths; in aligned ones (no `audio_lengths`) a row of vision and
    audio ends with the text mask or with its last non-zero frame, whichever is later, so no frame is lost; without
    a text mask, all-zero frames at both ends go (MulT pads in front). NaN and infinite feature values become 0, and
    a warning counts them.

    Args:
        path: the pickle, read by `load_pickle_safely`.
        text: "text_bert" for token ids (the only form a BERT hierarchy can read) or "text" for the embeddings of
            one BERT layer (or GloVe vectors in MulT's pickles).
        modalities: which of text, vision, audio to return.
        label_range: lowest and highest label allowed; None for no check. SIMS uses (-1, 1).
        label_index: which label of MulT's `labels (N, 1, k)`.
        max_bytes: see `load_pickle_safely`.

    Returns:
        DatasetDict of train, validation, test with columns
            id: str, `video$_$clip`
            text: str, the raw transcript (when the file has it)
            input_ids, attention_mask, token_type_ids: int64 (T,), with text="text_bert"
            text_features: float32 (T, D), with text="text"
            vision_features, audio_features: float32 (T, D)
            label: float32

    Raises:
        UnsafePickleError: see `load_pickle_safely`.
        DataFormatError: lists every fault: splits or fields missing, shapes or counts that differ, ids twice in a
            split or in two, labels not finite or out of range, lengths longer than the arrays.
    """
    if text not in ("text_bert", "text"):
        raise DataFormatError(f"text={text!r}; choose 'text_bert' (token ids) or 'text' (embeddings)")
    unknown = sorted(set(modalities) - {"text", "vision", "audio"})
    if unknown or not modalities:
        raise DataFormatError(f"modalities={tuple(modalities)}; choose from text, vision, audio")
    content = load_pickle_safely(path, max_bytes=max_bytes)
    splits = _find_splits(path, content)
    problems: list[str] = []
    tables: dict[str, dict[str, Any]] = {}
    for name, split in splits.items():
        reader = _SplitReader(f"split {name!r}", split, problems)
        tables[name] = reader.read(text, modalities, label_range, label_index)
    _check_ids(tables, problems)
    _check_widths(tables, problems)
    raise_problems(path, problems, "The file does not hold the layout of MMSA or MulT.")
    return ordered_splits({name: _to_dataset(name, table) for name, table in tables.items()})


def _find_splits(path: object, content: Any) -> dict[str, Mapping[str, Any]]:
    if not isinstance(content, dict):
        raise DataFormatError(f"{path}: holds a {type(content).__name__}, not a dict of train, valid and test")
    found = {SPLIT_ALIASES[str(key)]: value for key, value in content.items() if str(key) in SPLIT_ALIASES}
    missing = [name for name in SPLITS if not isinstance(found.get(name), dict)]
    if missing:
        keys = [str(key) for key in content][:10]
        raise DataFormatError(f"{path}: no split {' and '.join(missing)} among the keys {keys}")
    return found


class _SplitReader:
    """Reads and checks one split; faults are added to `problems`, and reading goes on as far as it can."""

    def __init__(self, where: str, split: Mapping[str, Any], problems: list[str]):
        self.where = where
        self.split = split
        self.problems = problems
        self.size = 0

    def fault(self, text: str) -> None:
        self.problems.append(f"{self.where}: {text}")

    def numbers(self, key: str, ndim: int, *, required: bool = True) -> np.ndarray | None:
        """Field `key` as a numeric array of `ndim` axes and `size` rows."""
        if key not in self.split:
            if required:
                self.fault(f"no field {key!r} (it has {', '.join(sorted(map(str, self.split)))})")
            return None
        try:
            array = np.asarray(self.split[key])
        except ValueError:
            array = np.empty(0, dtype=object)
        if array.dtype.kind not in "biuf" or array.ndim != ndim or len(array) != self.size:
            self.fault(f"{key} is {array.dtype} {array.shape}; wanted {ndim} axes of numbers and {self.size} rows")
            return None
        return array

    def read(self, text: str, modalities: Sequence[str], label_range: Any, label_index: int) -> dict[str, Any]:
        columns: dict[str, Any] = {"id": self.ids()}
        columns["label"] = self.labels(label_range, label_index)
        if "raw_text" in self.split:
            columns["text"] = self.strings("raw_text")
        tokens = self.tokens(required=text == "text_bert" and "text" in modalities)
        text_stops = None if tokens is None else _last_true(tokens[:, 1] != 0)
        for modality in modalities:
            if modality == "text" and text == "text_bert":
                if tokens is not None and text_stops is not None:
                    starts = np.zeros_like(text_stops)
                    for row, key in enumerate(("input_ids", "attention_mask", "token_type_ids")):
                        columns[key] = (tokens[:, row], starts, text_stops)
            else:
                columns[f"{modality}_features"] = self.frames(modality, text_stops)
        return columns

    def ids(self) -> list[str]:
        key = "id" if "id" in self.split else "ids"
        if key not in self.split:
            self.fault("no field 'id'")
            labels = self.split.get("regression_labels", self.split.get("labels", ()))
            self.size = len(labels) if hasattr(labels, "__len__") else 0
            return [str(i) for i in range(self.size)]
        value = self.split[key]
        rows = value.tolist() if isinstance(value, np.ndarray) else list(value)
        self.size = len(rows)
        # MulT keeps (video, start, end) in a row of its own.
        return ["$_$".join(map(_text, row)) if isinstance(row, (list, tuple)) else _text(row) for row in rows]

    def strings(self, key: str) -> list[str]:
        value = self.split[key]
        rows = [_text(item) for item in (value.ravel() if isinstance(value, np.ndarray) else value)]
        if len(rows) != self.size:
            self.fault(f"{key} has {len(rows)} rows; id has {self.size}")
        return rows

    def labels(self, label_range: tuple[float, float] | None, label_index: int) -> np.ndarray:
        key = "regression_labels" if "regression_labels" in self.split else "labels"
        if key not in self.split:
            self.fault("no field 'regression_labels' or 'labels'")
            return np.zeros(self.size, dtype=np.float32)
        try:
            values = np.asarray(self.split[key], dtype=np.float64)
        except (TypeError, ValueError):
            self.fault(f"{key} does not hold numbers of one shape")
            return np.zeros(self.size, dtype=np.float32)
        if values.ndim == 0 or len(values) != self.size:
            self.fault(f"{key} has shape {values.shape}; id has {self.size} rows")
            return np.zeros(self.size, dtype=np.float32)
        values = values.reshape(self.size, -1) if self.size else values.reshape(0, label_index + 1)
        if not 0 <= label_index < values.shape[1]:
            self.fault(f"{key} has {values.shape[1]} values a row; label_index is {label_index}")
            return np.zeros(self.size, dtype=np.float32)
        values = values[:, label_index]
        finite = np.isfinite(values)
        if not finite.all():
            self.fault(f"{(~finite).sum()} labels are not finite (first: row {int(np.argmin(finite))})")
        elif label_range is not None:
            outside = (values < label_range[0] - 1e-6) | (values > label_range[1] + 1e-6)
            if outside.any():
                row = int(np.argmax(outside))
                self.fault(f"{outside.sum()} labels lie outside {label_range} (first: row {row}, {values[row]:g})")
        return values.astype(np.float32)

    def tokens(self, *, required: bool) -> np.ndarray | None:
        """`text_bert` as int64 (N, 3, T)."""
        array = self.numbers("text_bert", 3, required=required)
        if array is None:
            return None
        if array.shape[1] != 3:
            self.fault(f"text_bert has shape {array.shape}; wanted (N, 3, T): ids, mask, segments")
            return None
        with np.errstate(invalid="ignore"):
            ids = array.astype(np.int64)
        if not np.array_equal(ids, array) or (ids < 0).any() or not np.isin(ids[:, 1], (0, 1)).all():
            self.fault("text_bert holds something else than token ids and a mask of 0 and 1")
            return None
        return ids

    def frames(self, modality: str, text_stops: np.ndarray | None) -> tuple[np.ndarray, np.ndarray, np.ndarray] | None:
        """(N, T, D) float32 and where each row starts and stops."""
        array = self.numbers(modality, 3)
        if array is None:
            return None
        if array.shape[2] == 0:
            self.fault(f"{modality} has shape {array.shape}: no feature")
            return None
        values, bad = replace_non_finite(array)
        if bad:
            logger.warning("%s: %d non-finite values of %s set to 0", self.where, bad, modality)
        steps = values.shape[1]
        starts, stops = self.extent(modality, values, text_stops)
        if (stops > steps).any() or (stops < 0).any():
            self.fault(f"{modality}_lengths reach {int(stops.max())}; {modality} has {steps} steps")
            return None
        return values, starts, stops

    def extent(self, modality: str, values: np.ndarray, text_stops: np.ndarray | None) -> tuple[np.ndarray, np.ndarray]:
        zeros = np.zeros(len(values), dtype=np.int64)
        if f"{modality}_lengths" in self.split:
            lengths = self.numbers(f"{modality}_lengths", 1)
            return zeros, zeros if lengths is None else lengths.astype(np.int64)
        if modality == "text" and text_stops is not None and len(text_stops) == len(values):
            return zeros, np.minimum(text_stops, values.shape[1])
        real = np.any(values != 0, axis=2)
        last = _last_true(real)
        unaligned = "audio_lengths" in self.split or "vision_lengths" in self.split
        if text_stops is None or len(text_stops) != len(last) or unaligned:
            first = np.where(real.any(axis=1), real.argmax(axis=1), 0) if real.shape[1] else zeros
            return first, last
        return zeros, np.maximum(last, np.minimum(text_stops, values.shape[1]))


def _last_true(mask: np.ndarray) -> np.ndarray:
    """(N, T) bool to (N,): one past the last True, 0 where there is none."""
    positions = np.arange(1, mask.shape[1] + 1)
    return np.max(np.where(mask, positions, 0), axis=1, initial=0)


def _check_ids(tables: Mapping[str, Mapping[str, Any]], problems: list[str]) -> None:
    owner: dict[str, str] = {}
    for name, table in tables.items():
        seen: set[str] = set()
        twice = []
        for clip in table["id"]:
            if clip in seen:
                twice.append(clip)
            seen.add(clip)
        if twice:
            problems.append(f"split {name!r}: {len(twice)} ids come twice (first: {twice[0]!r})")
        shared = sorted(clip for clip in seen if clip in owner)
        if shared:
            problems.append(
                f"{len(shared)} ids of split {name!r} are also in {owner[shared[0]]!r} (first: {shared[0]!r})"
            )
        owner.update(dict.fromkeys(seen, name))


def _check_widths(tables: Mapping[str, Mapping[str, Any]], problems: list[str]) -> None:
    for key in ("text_features", "vision_features", "audio_features"):
        widths = {name: table[key][0].shape[2] for name, table in tables.items() if table.get(key) is not None}
        if len(set(widths.values())) > 1:
            problems.append(f"{key} differs in width between splits: {widths}")


def _to_dataset(name: str, table: Mapping[str, Any]) -> Dataset:
    columns: dict[str, Any] = {}
    types: dict[str, Any] = {}
    for key, value in table.items():
        if key in ("id", "text", "label"):
            columns[key], types[key] = value, Value("float32" if key == "label" else "string")
        else:
            array, starts, stops = value
            columns[key] = sequence_column(array, starts, stops)
            types[key] = sequence_feature(str(array.dtype), array.shape[2] if array.ndim == 3 else None)
    order: list[str] = [key for key in ("id", "text") if key in columns]
    order += [key for key in columns if key not in ("id", "text", "label")] + ["label"]
    return make_dataset({key: columns[key] for key in order}, Features({key: types[key] for key in order}))
