"""The errors of the loaders, in a file that needs nothing."""

from collections.abc import Sequence
from importlib import import_module
from types import ModuleType


class DataFormatError(ValueError):
    """A data file that cannot be read as the layout it claims to have; the message lists every fault found."""


def raise_problems(where: object, problems: Sequence[str], advice: str = "") -> None:
    """Raise one `DataFormatError` that lists `problems` (at most 10 in full); do nothing when there are none."""
    if not problems:
        return
    lines = list(problems[:10])
    if len(problems) > 10:
        lines.append(f"and {len(problems) - 10} more")
    raise DataFormatError(f"{where}: " + "; ".join(lines) + (f". {advice}" if advice else ""))


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
