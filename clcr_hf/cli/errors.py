"""How an error that a user can mend is told: one line on the standard error, and an exit code that is not 0."""

import logging
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from ..errors import library_of

# Set it to see where an error came from.
TRACEBACK = "CLCR_TRACEBACK"
_USER = (ValueError, OSError, ImportError, OverflowError, FloatingPointError, EOFError, MemoryError)
# Libraries that read files, check settings or use the network: their own errors are about those, not about our code.
_EDGE = {
    *("av", "datasets", "gradio", "h5py", "httpx", "httpx2", "huggingface_hub", "onnxruntime", "PIL", "pyarrow"),
    *("requests", "safetensors", "yaml", "_lzma", "_pickle", "lzma", "pickle", "struct", "tarfile", "zipfile", "zlib"),
}


@contextmanager
def one_line() -> Iterator[None]:
    """
    Ends the process with one line where something inside raises an error that a user can mend. Every other error passes
    with its traceback, and so do all of them where the environment has `CLCR_TRACEBACK=1`.
    """
    # Eleven lines about retries, where the Hub cannot be reached; the error that follows says so once.
    logging.getLogger("huggingface_hub.utils._http").setLevel(logging.ERROR)
    try:
        yield
    except KeyboardInterrupt:
        _end("interrupted", 130)
    except SystemExit as stop:
        if stop.code not in (None, 0):
            _end_launcher()
        raise
    except Exception as error:
        if os.environ.get(TRACEBACK) or not can_be_mended(error):
            raise
        _end(told(error), 1)


def can_be_mended(error: BaseException) -> bool:
    """Whether an error is about what a user gave (a file, a setting, an address, too little memory), not about code."""
    if isinstance(error, _USER):
        return True
    kinds = type(error).__mro__
    if any(kind.__module__.partition(".")[0] in _EDGE or kind.__name__ == "OutOfMemoryError" for kind in kinds):
        return True
    # HDF5's own errors come as RuntimeError and KeyError.
    return isinstance(error, RuntimeError | KeyError) and library_of(error) == "h5py"


def told(error: BaseException) -> str:
    """An error's message without line breaks, after the kind of error where the message alone says little."""
    text = str(error.args[0]) if isinstance(error, KeyError) and error.args else str(error)
    if "Traceback (most recent call last)" in text:  # handed on by a worker of a data loader
        text = text.strip().splitlines()[-1].partition(": ")[2] or text
    text = " ".join(text.split())
    return text if text and isinstance(error, _USER) else f"{type(error).__name__}: {text}".removesuffix(": ")


def _end(text: str, code: int) -> None:
    """Prints the line, of which process it is where there are several, and leaves."""
    count, rank = os.environ.get("WORLD_SIZE", "1"), os.environ.get("RANK", "0")
    who = f" (process {rank} of {count})" if count != "1" else ""
    print(f"error{who}: {text}", file=sys.stderr, flush=True)
    _end_launcher()
    sys.exit(code)


def _end_launcher() -> None:
    """
    Ends an `accelerate launch` that does nothing but wait for this process. It would answer an exit code with a
    traceback of its own under our line; so it leaves by a signal (exit code 143 in a shell), which is not 0 either.
    """
    try:
        import psutil  # accelerate's own requirement
    except ImportError:
        return
    with suppress(psutil.Error):
        launcher = psutil.Process().parent()
        if launcher is not None and _waits_for_us(launcher.cmdline()):
            launcher.terminate()


def _waits_for_us(command: list[str]) -> bool:
    """Whether a command line is that of `accelerate launch` with this process as its only one, and not `--quiet`."""
    names, own = [Path(word).stem for word in command[:4]], sys.argv[1:]
    launches = any(name.startswith("accelerate") for name in names) and any(name.endswith("launch") for name in names)
    alone = "LOCAL_RANK" not in os.environ and command[len(command) - len(own) :] == own
    return launches and alone and not {"-q", "--quiet"} & set(command)
