"""The errors of the loaders."""

from collections.abc import Iterator
from contextlib import contextmanager
from importlib import import_module
from types import ModuleType

from ..errors import CLCRError, in_one_line


class DataFormatError(CLCRError):
    """A data file that cannot be read as the layout it claims to have; the message lists every fault found."""


@contextmanager
def format_error(message: str, *errors: type[Exception], advice: str = "") -> Iterator[None]:
    """What is raised within comes out as a `DataFormatError`: `message`, and what was raised in brackets, in one line.

    A `DataFormatError` goes through as it is, and so does want of memory.

    Args:
        errors: the kinds that are told so.
        advice: the end of the message.
    """
    try:
        yield
    except (DataFormatError, MemoryError):
        raise
    except errors as error:
        raise DataFormatError(f"{message} ({in_one_line(error)}){advice}") from error


def optional_package(module: str, need: str, extra: str) -> ModuleType:
    """A module of an optional package.

    Args:
        need: what the package is wanted for, as "optical flow needs OpenCV".
        extra: of ours, that installs it.

    Raises:
        ImportError: it is not installed; the message says how to do that.
    """
    try:
        return import_module(module)
    except ImportError as error:
        raise ImportError(f'{need}: pip install ".[{extra}]" in a clone of clcr-hf') from error
