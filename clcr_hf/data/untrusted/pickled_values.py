"""What a pickle may stand for: arrays, dtypes and plain containers, each made by code of our own."""

import pickle
import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from .arrays import UnsafeFileError

_MAX_KEY_ITEMS = 100
_PLAIN_DTYPE = re.compile(r"[<>|=]?([biufcSU]\d{1,9}|O8?|[?])")
_KEY_TYPES = (str, bytes, int, float, bool, type(None), frozenset)


class UnsafePickleError(UnsafeFileError, pickle.UnpicklingError):
    """A pickle that asks for more than arrays and plain containers, or that is damaged. Nothing in it was run."""


# ---------------------------------------------------------------------------------------------------------------------
# What stands on the stack for things that are not there yet. None can be a key: dataclasses that can be compared and
# are not frozen cannot be hashed


@dataclass(slots=True)
class Global:
    """Stands for a global name on the unpickler's stack. It cannot be called, built upon or left in the result."""

    name: str
    build: Callable[..., Any] | None


@dataclass(slots=True)
class View:
    """A large byte string left where it lies in the file; `make` turns it into what the pickle says it is."""

    data: memoryview
    make: Callable[[memoryview], Any]


@dataclass(slots=True)
class DType:
    """A dtype being read; `value` is one of NumPy's plain ones."""

    value: np.dtype

    def set_state(self, state: Any) -> None:
        # (version, byte order, subarray, names, fields, itemsize, alignment, flags[, metadata]). Only the byte order
        # matters to a plain dtype. The flags say whether memory holds object pointers: never taken from a file.
        well_formed = isinstance(state, tuple) and len(state) in (8, 9)
        if not well_formed or any(x is not None for x in state[2:5] + state[8:]):
            raise UnsafePickleError("a structured dtype or a malformed dtype state; only plain dtypes are read")
        order = _text(state[1])
        if order not in ("<", ">", "|", "="):
            raise UnsafePickleError(f"unknown byte order {order[:20]!r} in a dtype")
        if order in "<>":
            self.value = self.value.newbyteorder(order)  # type: ignore[arg-type]


@dataclass(slots=True)
class Array:
    """An array being read; `parts` are known once its state was set."""

    parts: tuple[Any, ...] | None = None

    def set_state(self, state: Any) -> None:
        if not isinstance(state, tuple) or len(state) != 5:
            raise UnsafePickleError("malformed array state")
        _, shape, dtype, fortran, data = state
        self.parts = (shape, dtype, "F" if fortran is True or fortran == 1 else "C", data)


# ---------------------------------------------------------------------------------------------------------------------
# The only things that a pickle can call


def _text(value: Any) -> str:
    """A name that Python 2 may have written as bytes. Anything else is refused, not printed: it may be endless."""
    if isinstance(value, bytes):
        return value.decode("latin1")
    if isinstance(value, str):
        return value
    raise UnsafePickleError(f"a {type(value).__name__} where a name is wanted")


def _plain_dtype(code: Any, *_: Any) -> DType:
    name = _text(code)
    if not _PLAIN_DTYPE.fullmatch(name):
        raise UnsafePickleError(f"dtype {name[:60]!r}; only bool, numbers, strings and object are read")
    return DType(np.dtype(object) if name.strip("<>|=") in ("O", "O8") else np.dtype(name))


def dtype_of(value: Any) -> np.dtype:
    if not isinstance(value, DType):
        raise UnsafePickleError("an array or scalar whose dtype is not a dtype")
    return value.value


def flat_values(dtype: np.dtype, count: int, data: Any) -> np.ndarray:
    if isinstance(data, str):
        data = data.encode("latin1")  # Python 2 wrote array bytes as a str, which arrives decoded
    elif isinstance(data, View):
        data = data.data
    if not isinstance(data, (bytes, bytearray, memoryview)) or len(data) != count * dtype.itemsize:
        raise UnsafePickleError(f"array data do not fill {count} elements of {dtype}")
    if not dtype.itemsize:
        raise UnsafePickleError(f"an array of {dtype}, whose elements have no size")
    return np.frombuffer(data, dtype=dtype)


def checked_shape(shape: Any) -> tuple[int, ...]:
    if not isinstance(shape, tuple) or len(shape) > 32 or not all(type(n) is int and 0 <= n < 2**48 for n in shape):
        raise UnsafePickleError("an array shape that is no tuple of at most 32 sizes")
    return shape


def _reconstruct(kind: Any, shape: Any, code: Any) -> Array:
    if not (isinstance(kind, Global) and kind.name == "numpy.ndarray"):
        raise UnsafePickleError("_reconstruct of something else than numpy.ndarray")
    return Array()


def _frombuffer(data: Any, dtype: Any, shape: Any, order: Any) -> Array:
    if _text(order) not in ("C", "F"):
        raise UnsafePickleError("an array order that is neither C nor F")
    return Array((shape, dtype, _text(order), data))


def _scalar(dtype: Any, data: Any = None) -> Any:
    kind = dtype_of(dtype)
    if kind.hasobject:
        raise UnsafePickleError("a NumPy scalar of dtype object")
    if not kind.itemsize:
        return kind.type()  # an empty string
    return flat_values(kind, 1, data)[0]


def _encode(value: Any, encoding: Any = "latin1") -> bytes:
    # How protocols 0 to 2 write bytes.
    if not isinstance(value, str) or _text(encoding) not in ("latin1", "latin-1"):
        raise UnsafePickleError("_codecs.encode with anything but text and latin1")
    return value.encode("latin1")


def _bytes(*args: Any) -> bytes:
    if args:
        raise UnsafePickleError("bytes() with arguments")
    return b""


def _bytearray(*args: Any) -> Any:
    if len(args) == 2 and isinstance(args[0], str):
        return bytearray(_encode(*args))
    if len(args) == 1 and isinstance(args[0], View) and args[0].make is bytes:
        return View(args[0].data, bytearray)
    if not args or (len(args) == 1 and isinstance(args[0], bytes)):
        return bytearray(*args)
    raise UnsafePickleError("bytearray() of something else than bytes")


def _collection(kind: type) -> Callable[..., Any]:
    def build(*args: Any) -> Any:
        if len(args) > 1 or not all(type(arg) in (list, tuple, set) for arg in args):
            raise UnsafePickleError(f"{kind.__name__}() of something else than a list")
        for arg in args:
            check_keys(arg)
        return kind(*args)

    return build


def check_keys(keys: Any) -> None:
    """Refuse keys that take long to hash: of nested tuples Python hashes each part anew, however often it is shared."""
    for key in keys:
        if isinstance(key, (*_KEY_TYPES, np.generic)):
            continue
        plain = type(key) is tuple and len(key) <= _MAX_KEY_ITEMS
        if not plain or not all(isinstance(item, (*_KEY_TYPES, np.generic)) for item in key):
            raise UnsafePickleError(f"a {type(key).__name__} as a key; only plain values and short tuples are read")


def _known_globals() -> dict[tuple[str, str], Global]:
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
    return {tuple(name.rsplit(".", 1)): Global(name, maker) for name, maker in makers.items()}  # type: ignore[misc]


GLOBALS = _known_globals()
