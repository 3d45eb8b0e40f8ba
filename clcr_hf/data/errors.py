"""The errors of the loaders, in a file that needs nothing."""

from importlib import import_module
from types import ModuleType


class DataFormatError(ValueError):
    """A data file that cannot be read as the layout it claims to have; the message lists every fault found."""


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
