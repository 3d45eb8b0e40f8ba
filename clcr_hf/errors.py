"""The errors of this package, and how what a library raises becomes one of them.

What a caller gave and can mend is a `ValueError` (mostly a [`CLCRError`]), an `OSError` about a path, a `TypeError` of
our own about an argument's kind, or an `ImportError` that names the extra to install; each says in one line what was
wrong, where, and what to do.
"""

# No `from __future__ import annotations` here: `modeling_clcr.py` imports this.

import functools
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

_PACKAGE = __name__.rpartition(".")[0]
_LONGEST = 400  # characters of what a library says


class CLCRError(ValueError):
    """Something given to this package that it cannot use."""


class SettingsError(CLCRError):
    """A setting that there is not, or a value of one that no model can be built of."""


class InputError(CLCRError):
    """Inputs or labels of a model that do not fit it."""


class ModelFileError(CLCRError, RuntimeError):
    """Files of a model or processor that cannot be read. (transformers has RuntimeErrors for some of these.)"""


def in_one_line(error: BaseException) -> str:
    """What an error says, without line breaks and not too long; its kind where it says nothing."""
    text = " ".join(str(error.args[0] if isinstance(error, KeyError) and error.args else error).split())
    text = text if len(text) <= _LONGEST else text[:_LONGEST] + " ..."
    if not text or isinstance(error, KeyError | AttributeError | IndexError):
        return f"{type(error).__name__}: {text}".removesuffix(": ")
    return text


def library_of(error: BaseException) -> str:
    """The package or module whose code raised an error, as `h5py`."""
    names = [str(frame.f_globals.get("__name__", "")) for frame, _ in traceback.walk_tb(error.__traceback__)]
    return names[-1].partition(".")[0] if names else ""


def is_plain(error: BaseException) -> bool:
    """Whether an error is as this package says it already: of a kind that callers expect, ours, and of one line."""
    if isinstance(error, CLCRError | ImportError):
        return True
    ours = library_of(error) == _PACKAGE.partition(".")[0] and isinstance(error, ValueError | TypeError)
    return (ours or isinstance(error, OSError)) and "\n" not in str(error)


@contextmanager
def plainly(what: str, kind: type[CLCRError] = CLCRError, advice: str = "") -> Iterator[None]:
    """
    For a door to files, settings or inputs: what a library raises within, of whatever kind, comes out as one of ours,
    `what` and its words in brackets. Ours, and the operating system's about a path, go through as they are; so does
    want of memory.

    Args:
        kind: of error.
        advice: the end of the message.
    """
    try:
        yield
    except MemoryError:
        raise
    except Exception as error:
        if is_plain(error) or type(error).__name__ == "OutOfMemoryError":
            raise
        text = f"{what} ({in_one_line(error)}){advice}"
        raise (OSError(text) if isinstance(error, OSError) else kind(text)) from error


def plain_settings(config: type) -> type:
    """A class under `@strict` whose errors are [`SettingsError`]s of one line. (Those of `@strict` have two lines and
    are no `ValueError`s.)"""
    for name in ("__init__", "__setattr__", "validate"):
        setattr(config, name, _plain(getattr(config, name)))
    return config


def _plain(method: Callable) -> Callable:
    @functools.wraps(method)
    def checked(*args: Any, **kwargs: Any) -> Any:
        try:
            return method(*args, **kwargs)
        except Exception as error:
            cause = error.__cause__
            if not type(error).__name__.startswith("StrictDataclass") or cause is None:
                raise
            raise SettingsError(in_one_line(cause).partition(". Errors: ")[0]) from error

    return checked


__all__ = [
    "CLCRError",
    "InputError",
    "ModelFileError",
    "SettingsError",
    "in_one_line",
    "is_plain",
    "library_of",
    "plain_settings",
    "plainly",
]
