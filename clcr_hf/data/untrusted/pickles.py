"""Pickles read without running anything that they contain, and without copying the large arrays in them.

A pickle is a program, and data sets are passed around as pickles on file hosts. `RestrictedUnpickler` interprets the
opcodes itself, knows a dozen global names, and never calls any object that the file names: arrays are rebuilt here from
their bytes, with only plain dtypes. Large arrays are views of the mapped file, so a file of many gigabytes costs no
memory until its rows are used.
"""

import io
import math
import mmap
import os
import pickle
from collections.abc import Callable
from functools import partial
from typing import Any, BinaryIO

import numpy as np

from . import pickled_values as values
from .pickled_values import UnsafePickleError

MAX_PICKLE_BYTES = 32 * 2**30
MAX_PICKLE_OBJECTS = 25_000_000
_MAX_DEPTH = 50
_VIEW_BYTES = 2**16
# What other files that are often taken for pickles begin with.
_OTHER_FORMATS = {
    b"PK": "a zip archive, as torch.save and numpy.savez write; a torch checkpoint is no data set, and an .npz is read "
    "by load_utterances",
    b"\x89HDF": "an HDF5 file",
    b"\x93NUMPY": "a .npy array",
    b"\x1f\x8b": "gzip-compressed; unpack it first",
    b"PAR1": "a Parquet file",
    b"version https://git-lfs": "a Git LFS pointer; fetch the file itself with git lfs pull",
    b"<": "a web page or XML; the download went wrong",
}
_TORCH_MAGIC = 0x1950A86A20F9469CFC6C


# ---------------------------------------------------------------------------------------------------------------------
# Reading


class _Source:
    """The bytes of the pickle. Reads never allocate more than is left, whatever length an opcode claims."""

    def __init__(self, file: BinaryIO):
        self.start = self.position = file.tell()
        self.data: mmap.mmap | bytes
        try:
            self.data = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        except (OSError, ValueError):  # no file of the system's, or an empty one
            file.seek(0)
            self.data = file.read()
        self.size = len(self.data)

    def _advance(self, size: int) -> int:
        start = self.position
        if not 0 <= size <= self.size - start:
            raise UnsafePickleError(f"the pickle ends early: {size} bytes wanted, {max(0, self.size - start)} left")
        self.position = start + size
        return start

    def read(self, size: int) -> bytes:
        start = self._advance(size)
        return self.data[start : start + size]

    def view(self, size: int) -> memoryview:
        start = self._advance(size)
        return memoryview(self.data)[start : start + size]

    def readline(self) -> bytes:
        end = self.data.find(b"\n", self.position)
        return self.read((self.size if end < 0 else end + 1) - self.position)


class _Budget:
    """What a pickle may still make.

    Opcodes of one or two bytes make objects of a hundred, and a call can copy one large string again and again; so a
    small file could fill the memory.
    """

    def __init__(self, objects: int, size: int):
        self.objects = objects
        self.copied = size + 2**20  # an honest pickle converts each of its bytes once

    def pay(self, objects: int = 0, copied: int = 0) -> None:
        self.objects -= objects
        self.copied -= copied
        if self.objects < 0:
            raise UnsafePickleError("more objects than max_objects; data are kept in arrays, not in so many lists")
        if self.copied < 0:
            raise UnsafePickleError("the pickle copies its own parts over and over")


# What an opcode weighs, in about 40 bytes of memory, where that is not 1.
_COSTS = dict.fromkeys((pickle.PUT, pickle.BINPUT, pickle.LONG_BINPUT, pickle.MEMOIZE), 3)
_COSTS |= dict.fromkeys((pickle.TUPLE, pickle.TUPLE1, pickle.TUPLE2, pickle.TUPLE3), 2)
_COSTS |= dict.fromkeys((pickle.MARK, pickle.EMPTY_LIST, pickle.EMPTY_DICT, pickle.EMPTY_SET), 8)
_COSTS |= dict.fromkeys((pickle.LIST, pickle.DICT, pickle.FROZENSET, pickle.REDUCE), 8)


def _refuse(opcode: str) -> Callable[[Any], None]:
    def load(self: Any) -> None:
        raise UnsafePickleError(f"opcode {opcode} is refused: it names code or objects outside the file")

    return load


# All the other opcodes that can make objects or fetch them from elsewhere.
_REFUSED_OPCODES = ["PERSID", "BINPERSID", "INST", "OBJ", "NEWOBJ", "NEWOBJ_EX", "EXT1", "EXT2", "EXT4"]
_REFUSED_OPCODES += ["NEXT_BUFFER", "READONLY_BUFFER"]


_BaseUnpickler: Any = pickle._Unpickler  # the one written in Python; type stubs leave out most of it

# Opcodes that make or fill dicts and sets, and which of what lies on the stack then become keys.
_KEYS_ON_STACK = {
    "SETITEM": slice(-2, -1),
    "SETITEMS": slice(None, None, 2),
    "DICT": slice(None, None, 2),
    "ADDITEMS": slice(None),
    "FROZENSET": slice(None),
}


def _with_checked_keys(opcode: str, keys: slice) -> Callable[[Any], None]:
    plain = getattr(_BaseUnpickler, f"load_{opcode.lower()}")

    def load(self: Any) -> None:
        values.check_keys(self.stack[keys])
        plain(self)

    return load


class RestrictedUnpickler(_BaseUnpickler):
    """Unpickler for arrays, NumPy scalars, dtypes, dict, list, tuple, set, str, bytes, int, float, bool and None.

    Built on the standard library's unpickler in Python, not the one in C, because only there each opcode can be
    replaced: REDUCE calls constructors of this module alone, BUILD works on arrays and dtypes alone, and INST, OBJ,
    NEWOBJ, persistent ids, the extension registry and out-of-band buffers are refused.

    Protocols 0 to 5; pickles of Python 2 and of NumPy 1 and 2. Object arrays may hold what the list above allows. An
    array whose bytes the pickle holds as they are (protocol 3 and later, or Python 2's protocol 2) is a read-only view
    of the mapped file from 64 KiB on, maybe not aligned in memory; the file must not be shortened while it is in use.

    Args:
        file: binary file, seekable. A real file is mapped into memory, another is read whole.
        encoding: of Python 2 strings.
        max_bytes: longest pickle read.
        max_objects: most objects made, where a container counts as 8; 25 million take about 1 GB. Arrays count by
            number, not by size.

    Raises:
        UnsafePickleError: on `load`, for anything else, a damaged file, or one beyond `max_bytes` or `max_objects`.
    """

    dispatch: dict[int, Callable[[Any], None]] = dict(_BaseUnpickler.dispatch)
    for _name in _REFUSED_OPCODES:
        dispatch[getattr(pickle, _name)[0]] = _refuse(_name)

    def __init__(
        self,
        file: BinaryIO,
        *,
        encoding: str = "latin1",
        max_bytes: int = MAX_PICKLE_BYTES,
        max_objects: int = MAX_PICKLE_OBJECTS,
    ):
        start = file.tell()
        size = file.seek(0, io.SEEK_END) - start
        file.seek(start)
        if size > max_bytes:
            raise UnsafePickleError(f"the pickle has {size} bytes, more than max_bytes={max_bytes}")
        super().__init__(file, fix_imports=False, encoding=encoding)
        self._file = file
        self._source = _Source(file)
        self._budget = _Budget(max_objects, size)

    def load(self) -> Any:
        try:
            value = _Resolver(self._budget).resolve(self._interpret(), 0)
        except UnsafePickleError:
            raise
        except Exception as error:
            # Opcodes out of place end in any exception at all; for the caller they are one thing, a bad file.
            raise UnsafePickleError(f"damaged pickle ({type(error).__name__}: {str(error)[:120]})") from error
        self._file.seek(self._source.position)
        return value

    @property
    def consumed(self) -> int:
        """Bytes read so far."""
        return self._source.position - self._source.start

    def _interpret(self) -> Any:
        # The standard loop, with its prices. Frames need no buffer: the whole file is at hand.
        self.read, self.readline = self._source.read, self._source.readline
        self.metastack: list[Any] = []
        self.stack: list[Any] = []
        self.append = self.stack.append
        self.proto = 0
        pay, dispatch, read = self._budget.pay, self.dispatch, self.read
        try:
            while True:
                opcode = read(1)
                pay(_COSTS.get(opcode, 1))
                dispatch[opcode[0]](self)
        except pickle._Stop as stop:  # type: ignore[attr-defined]
            return stop.value

    def find_class(self, module: str, name: str) -> values.Global:
        try:
            return values.GLOBALS[module, name]
        except KeyError:
            raise UnsafePickleError(
                f"the pickle names the global {module[:100]}.{name[:100]}, which is refused: only NumPy arrays and "
                "plain containers are read. Nothing was run. If you trust the file, convert it yourself to such a "
                "pickle."
            ) from None

    def load_reduce(self) -> None:
        args = self.stack.pop()
        function = self.stack[-1]
        if not isinstance(function, values.Global) or function.build is None or type(args) is not tuple:
            what = function.name if isinstance(function, values.Global) else f"a {type(function).__name__}"
            raise UnsafePickleError(f"the pickle calls {what}, which is refused")
        result = function.build(*args)
        if isinstance(result, (bytes, bytearray)):
            self._budget.pay(copied=len(result))
        elif isinstance(result, np.generic):
            self._budget.pay(copied=result.nbytes)
        elif isinstance(result, (set, frozenset)):
            self._budget.pay(2 * len(result))
        self.stack[-1] = result

    dispatch[pickle.REDUCE[0]] = load_reduce

    def load_build(self) -> None:
        state = self.stack.pop()
        target = self.stack[-1]
        if not isinstance(target, (values.Array, values.DType)):
            raise UnsafePickleError(f"the pickle sets the state of a {type(target).__name__}, which is refused")
        target.set_state(state)

    dispatch[pickle.BUILD[0]] = load_build

    def load_frame(self) -> None:
        size = int.from_bytes(self.read(8), "little")
        self._source._advance(size)
        self._source.position -= size

    dispatch[pickle.FRAME[0]] = load_frame

    def load_payload(self, width: int, make: Callable[[memoryview], Any]) -> None:
        size = int.from_bytes(self.read(width), "little")
        data = self._source.view(size)
        self.append(values.View(data, make) if size >= _VIEW_BYTES else make(data))

    for _name, _width, _make in (("BINBYTES", 4, bytes), ("BINBYTES8", 8, bytes), ("BYTEARRAY8", 8, bytearray)):
        dispatch[getattr(pickle, _name)[0]] = partial(load_payload, width=_width, make=_make)

    def load_binstring(self) -> None:
        # Python 2's str: text or, in arrays, bytes. A size with the top bit set was negative; it exceeds any such file.
        self.load_payload(4, lambda data: self._decode_string(bytes(data)))

    dispatch[pickle.BINSTRING[0]] = load_binstring
    for _name, _keys in _KEYS_ON_STACK.items():
        dispatch[getattr(pickle, _name)[0]] = _with_checked_keys(_name, _keys)
    del _name, _width, _make, _keys


_BUSY = object()


class _Resolver:
    """Puts arrays, dtypes and large byte strings in place of their placeholders.

    Lists and dicts are changed in place. Shared parts stay shared; a structure that contains itself, or is nested
    deeper than 50, is refused.
    """

    def __init__(self, budget: _Budget):
        self._budget = budget
        # id to (original, result); the original is kept so that its id stays its own
        self._done: dict[int, tuple[Any, Any]] = {}

    def resolve(self, value: Any, depth: int) -> Any:
        kind = type(value)
        plain = (str, bytes, int, float, bool, type(None), set, frozenset, bytearray)
        if kind in plain or isinstance(value, np.generic):
            return value  # placeholders cannot be hashed, so sets hold none
        if kind is values.DType:
            return value.value
        if kind not in (dict, list, tuple, values.Array, values.View):
            what = f"the global {value.name}" if kind is values.Global else f"a {kind.__name__}"
            raise UnsafePickleError(f"the pickle holds {what} as a value, which is refused")
        if depth > _MAX_DEPTH:
            raise UnsafePickleError(f"containers nested deeper than {_MAX_DEPTH}")
        key = id(value)
        if key not in self._done:
            self._done[key] = (value, _BUSY)
            self._done[key] = (value, self._fill(value, depth + 1))
        result = self._done[key][1]
        if result is _BUSY:
            raise UnsafePickleError("a container that holds itself")
        return result

    def _fill(self, value: Any, depth: int) -> Any:
        if type(value) is dict:
            for key in value:
                value[key] = self.resolve(value[key], depth)
            return value
        if type(value) is list:
            value[:] = [self.resolve(item, depth) for item in value]
            return value
        if type(value) is tuple:
            return tuple(self.resolve(item, depth) for item in value)
        if type(value) is values.View:
            self._budget.pay(copied=len(value.data))
            return value.make(value.data)
        return self._array(value, depth)

    def _array(self, value: values.Array, depth: int) -> np.ndarray:
        if value.parts is None:
            raise UnsafePickleError("an array without its data")
        shape, dtype, order, data = value.parts
        shape, dtype = values.checked_shape(shape), values.dtype_of(dtype)
        count = math.prod(shape)  # of Python's integers: no overflow
        if not dtype.hasobject:
            if isinstance(data, str):
                self._budget.pay(copied=len(data))
            return values.flat_values(dtype, count, data).reshape(shape, order=order)
        if type(data) is not list or len(data) != count:
            raise UnsafePickleError("an object array whose elements are not a list of its size")
        self._budget.pay(count)
        flat = np.empty(count, dtype=object)
        for position, item in enumerate(data):
            flat[position] = self.resolve(item, depth)
        return flat.reshape(shape, order=order)


def load_pickle_safely(path: str | os.PathLike, **options: Any) -> Any:
    """Read a pickle of arrays and plain containers. Large arrays are views of the file.

    Args:
        options: `encoding`, `max_bytes` and `max_objects`, as of [`RestrictedUnpickler`].

    Raises:
        UnsafePickleError: the file names the refused global, is damaged, is of another format, holds more than one
            pickle, or exceeds `max_bytes` or `max_objects`.
        FileNotFoundError: no such file.
    """
    with open(path, "rb") as file:
        head = file.read(max(map(len, _OTHER_FORMATS)))
        file.seek(0)
        for magic, what in _OTHER_FORMATS.items():
            if head.startswith(magic):
                raise UnsafePickleError(f"{path}: not a pickle but {what}")
        try:
            unpickler = RestrictedUnpickler(file, **options)
            value = unpickler.load()
        except UnsafePickleError as error:
            raise UnsafePickleError(f"{path}: {error}") from error
        if type(value) is int and value == _TORCH_MAGIC:
            raise UnsafePickleError(f"{path}: a torch checkpoint of the old format, which is no data set")
        left = os.fstat(file.fileno()).st_size - unpickler.consumed
        if left:
            raise UnsafePickleError(f"{path}: {left} bytes follow the pickle; only files of one pickle are read")
        return value


def release_pages(array: np.ndarray) -> None:
    """Let the system take back the memory of the mapped file that an array lies in; what is used again is read from
    the file again. Arrays that own their memory are left alone."""
    base: Any = array
    while isinstance(base, np.ndarray):
        base = base.base
    mapped = base.obj if isinstance(base, memoryview) else None
    if isinstance(mapped, mmap.mmap) and hasattr(mapped, "madvise"):
        mapped.madvise(mmap.MADV_DONTNEED)
