"""One bad input, and whether what came of it holds: an error of one line that says what to do, or a right result."""

import math
import os
import signal
import traceback
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

import clcr_hf

SECONDS = 60  # of this process's own time
LONGEST = 1000  # characters of a message
_TYPED = (ValueError, OSError, TypeError, ImportError)
# transformers' check of a processor's parts.
_DOCUMENTED = ("check_argument_for_proper_class",)
_OURS = str(Path(clcr_hf.__file__).parent)


@dataclass
class Case:
    """
    Args:
        name: unique in its group.
        run: gives the input to its door.
        may: a right result, all of whose numbers are finite, will do as well as an error.
    """

    name: str
    run: Callable[[], Any]
    may: bool = False


class TookTooLong(BaseException):
    """No error that a door could take for one of the input."""


def verdict(case: Case) -> tuple[bool, str, str]:
    """Whether a case holds, what came of it (the kind of error, or "result"), and its message."""
    signal.signal(signal.SIGPROF, _stop)
    signal.setitimer(signal.ITIMER_PROF, SECONDS)
    try:
        result = case.run()
    except SystemExit as error:
        return error.code not in (None, 0), "SystemExit", str(error.code)
    except (Exception, TookTooLong) as error:
        if os.environ.get("CLCR_TRACEBACK"):
            traceback.print_exc()
        return _is_told(error), type(error).__name__, str(error)
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)
    return case.may and is_finite(result), "result", repr(result)[:200]


def _stop(*_: Any) -> None:
    raise TookTooLong(f"more than {SECONDS} s of computing")


def _is_told(error: BaseException) -> bool:
    """One line, in an error of a kind that a caller expects, raised by this package or by Python about a path."""
    text = str(error)
    one_line = 10 <= len(text) <= LONGEST and "\n" not in text.strip()
    return one_line and isinstance(error, _TYPED) and (_is_ours(error) or _is_about_path(error))


def _is_ours(error: BaseException) -> bool:
    last = traceback.extract_tb(error.__traceback__)[-1]
    return last.filename.startswith(_OURS) or last.name in _DOCUMENTED


def _is_about_path(error: BaseException) -> bool:
    return isinstance(error, OSError)


def is_finite(value: Any) -> bool:
    """Whether all numbers in a result are finite."""
    if isinstance(value, torch.Tensor):
        return not value.is_floating_point() or bool(torch.isfinite(value).all())
    if isinstance(value, np.ndarray):
        return value.dtype.kind not in "fc" or bool(np.isfinite(value).all())
    if isinstance(value, Mapping):
        return all(map(is_finite, value.values()))
    if isinstance(value, list | tuple):
        return all(map(is_finite, value))
    return not isinstance(value, float) or math.isfinite(value)


def each(group: str, values: Mapping[str, Any], run: Callable[[Any], Any], may: Iterable[str] = ()) -> Iterator[Case]:
    """A case for each of some values, by name; `may`: names of those that may have a right result."""
    allowed = set(may)
    for name, value in values.items():
        yield Case(f"{group}: {name}", lambda value=value: run(value), may=name in allowed)
