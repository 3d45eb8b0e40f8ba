"""Rows decoded by a second process while the first one trains, so that the first pass over clips uses two cores."""

import ctypes
import logging
import multiprocessing
import os
import pickle
import signal
import sys
import threading
import weakref
from collections import deque
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext, suppress
from typing import TYPE_CHECKING, Any

import torch

if TYPE_CHECKING:
    from .rows import ClipRows

_PARENT_DIES = 1  # PR_SET_PDEATHSIG of Linux


class ReadAhead:
    """
    A process that reads the rows of some data sets before they are asked for; at the end of `with`, or when all is
    read, it is gone.

    What comes out is what would have come out without it, to the bit: nothing is drawn while a row is read, and each
    row is read by whichever process comes to it first. A row that cannot be read, or of which anything is to be said,
    is left to the process that trains, which says it when it comes to it. Should the helper die, all rows are left.

    Args:
        datasets: in the order in which they will be needed. Their memory for rows bounds what is read.
    """

    def __init__(self, datasets: Sequence["ClipRows"]):
        context = multiprocessing.get_context("fork")
        begun = [torch.zeros(len(rows), dtype=torch.bool).share_memory_() for rows in datasets]
        receiver, sender = context.Pipe(duplex=False)
        # A fork sees the rows as they are, whatever they hold; a data loader's workers begin in the same way.
        self._process = context.Process(target=_read, args=(datasets, begun, receiver, sender), daemon=True)
        self._process.start()
        self._end = weakref.finalize(self, _kill, self._process)
        sender.close()
        parts = [Ahead(each) for each in begun]
        for rows, part in zip(datasets, parts, strict=True):
            rows.ahead = part
        self._thread = threading.Thread(target=_receive, args=(receiver, parts), daemon=True)
        self._thread.start()

    def __enter__(self) -> "ReadAhead":
        return self

    def __exit__(self, *_: Any) -> None:
        self._end()


class Ahead:
    """What a data set knows of the process that reads ahead: `begun`, bool `(rows,)`, the rows that either of them
    began to read; and what has arrived."""

    def __init__(self, begun: torch.Tensor):
        self.begun = begun
        self._arrived: deque[tuple[int, Any]] = deque()

    def put(self, index: int, found: Any) -> None:
        self._arrived.append((index, found))

    def take(self) -> list[tuple[int, Any]]:
        """Rows that have arrived since the last call, with their numbers."""
        return [self._arrived.popleft() for _ in range(len(self._arrived))]


def read_ahead(datasets: Sequence["ClipRows"], processes: int, workers: int) -> AbstractContextManager[Any]:
    """
    Begins to read, where that is of use: rows have files to decode and a place to be kept, and there is a core for it.

    Args:
        processes: of the run. Several read different rows at a time, and each has a core of its own.
        workers: of data loaders; they read ahead by themselves.
    """
    wanted = [rows for rows in datasets if rows.decodes and rows.room > 0]
    if sys.platform != "linux" or processes > 1 or workers or not wanted or len(os.sched_getaffinity(0)) < 2:
        return nullcontext()
    if multiprocessing.current_process().daemon:  # which may have no children
        return nullcontext()
    return ReadAhead(wanted)


def _read(datasets: Sequence["ClipRows"], begun: Sequence[torch.Tensor], receiver: Any, sender: Any) -> None:
    """In the process that reads: sends each row's place, and the row, until all are read or nobody listens."""
    ctypes.CDLL(None).prctl(_PARENT_DIES, signal.SIGKILL)  # a run that was killed holds its folder no longer
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1):
        signal.signal(number, signal.SIG_DFL)  # of a signal to the whole run it dies, and the rest is read without it
    receiver.close()
    torch.set_num_threads(1)
    said = _Said.alone()
    with suppress(BrokenPipeError):  # the process that trains wants no more rows; it reads what it lacks by itself
        for place, (rows, taken) in enumerate(zip(datasets, begun, strict=True)):
            room = rows.room
            # From the end, for the process that trains may go through them from the beginning.
            for index in reversed(range(len(rows))):
                if taken[index]:
                    continue
                taken[index] = True
                found = _quietly(rows, index, said)
                if found is None:
                    continue
                room -= rows.size_of(found)
                if room < 0:
                    break
                sender.send_bytes(pickle.dumps((place, index, _packed(found)), protocol=5))


def _quietly(rows: "ClipRows", index: int, said: "_Said") -> Any:
    """A row, None where it cannot be read without a word."""
    said.anything = False
    try:
        found = rows.read(index)
    except Exception:  # whatever it is, the process that trains will meet it too, and raise it where it belongs
        return None
    return None if said.anything else found


class _Said(logging.Handler):
    """Notes that something was said, in place of saying it."""

    anything = False

    @classmethod
    def alone(cls) -> "_Said":
        """One that hears all loggers of this process, and warnings, which nothing else hears any more."""
        said = cls()
        for name in list(logging.root.manager.loggerDict):
            logger = logging.getLogger(name)
            logger.handlers, logger.propagate = [], True
        logging.root.handlers = [said]
        logging.captureWarnings(True)
        return said

    def emit(self, record: logging.LogRecord) -> None:
        self.anything = self.anything or record.levelno >= logging.WARNING


def _receive(receiver: Any, parts: Sequence[Ahead]) -> None:
    """In a thread of the process that trains: takes rows off the pipe until it ends."""
    with suppress(EOFError, OSError), receiver:  # the pipe ended; rows that did not come are read by who asks for them
        while True:
            place, index, found = pickle.loads(receiver.recv_bytes())
            parts[place].put(index, _unpacked(found))


# Tensors travel as arrays: torch's own pickling of them takes longer than a row may keep the interpreter from training.
def _packed(found: Sequence[dict[str, Any]]) -> list[dict[str, tuple[bool, Any]]]:
    return [
        {name: (True, each.numpy()) if isinstance(each, torch.Tensor) else (False, each) for name, each in part.items()}
        for part in found
    ]


def _unpacked(packed: Sequence[dict[str, tuple[bool, Any]]]) -> Any:
    return tuple(
        {name: torch.from_numpy(each) if tensor else each for name, (tensor, each) in part.items()} for part in packed
    )


def _kill(process: Any) -> None:
    process.kill()
    process.join()


__all__ = ["Ahead", "ReadAhead", "read_ahead"]
