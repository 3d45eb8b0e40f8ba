"""Checkpoints that a run goes on from: which of them are whole, which is the newest of those, which may go."""

import json
import os
import re
import shutil
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open

from ..data.columns import logger
from ..data.folders import write_json

# Says, once all of a checkpoint is on the disk, which files it has and how long they are; before that, that it is being
# written. Checkpoints of versions before 0.2 and of other trainers have none and are judged by their parts.
MARK = "checkpoint.json"
_NAME = re.compile(r"checkpoint-(\d+)")
# The parts of a checkpoint and what may hold them: of one process, FSDP, PEFT, DeepSpeed.
_PARTS = {
    "model.safetensors": ("model.safetensors*", "pytorch_model.bin*", "pytorch_model_fsdp*", "adapter_model.*"),
    "optimizer.pt": ("optimizer.pt", "optimizer.bin", "optimizer_*"),
    "scheduler.pt": ("scheduler.pt",),
}
_DEEPSPEED = "global_step*"
_STATE = "trainer_state.json"
_TORCH_WRITER = ("inline_container", "iostream")  # of its errors, which are plain RuntimeErrors
_ZIPPED = (".pt", ".pth", ".bin")  # as torch.save writes


def find_checkpoint(
    folder: str | os.PathLike, wanted: Any, processes: int = 1, says: bool = True, workers: int | None = None
) -> str | None:
    """
    The checkpoint that a run goes on from; None where it starts anew.

    Args:
        folder: the run's `output_dir`.
        wanted: `"last"` (or true) for the newest whole checkpoint in `folder`; `"auto"` for the same, or None where
            there is none; else the path of a checkpoint, or None.
        processes: how many the run has.
        says: whether this process is the one that warns.
        workers: data loaders' in each; those that wrote a checkpoint decided the order of rows that were streamed.

    Raises:
        ValueError: a checkpoint by path that lacks a part, which is named; `"last"` where no checkpoint is whole.
    """
    word, found = str(wanted).lower(), _newest_first(folder)
    warn = logger.warning if says else logger.debug
    if wanted is None or word == "false":
        if found:
            text = "%s holds %s of an earlier run, and this one starts anew; --resume_from_checkpoint auto would go on"
            warn(text, folder, found[0].name)
        return None
    if word not in ("last", "true", "auto"):
        reason = fault(wanted, processes)
        if reason is not None:
            raise ValueError(f"--resume_from_checkpoint {wanted}: {reason}; no run can go on from it")
        return _chosen(Path(wanted), processes, workers, warn)
    for checkpoint in found:
        reason = fault(checkpoint, processes)
        if reason is None:
            return _chosen(checkpoint, processes, workers, warn)
        warn("%s is not whole and is passed over: %s", checkpoint, reason)
    if word == "auto":
        return None
    what = "whole checkpoint" if found else "checkpoint"
    raise ValueError(f"--resume_from_checkpoint {wanted}: there is no {what} in {folder}; auto starts anew there")


def _chosen(checkpoint: Path, processes: int, workers: int | None, warn: Callable[..., None]) -> str:
    """The path; says so where another number of processes, or of workers that streamed, wrote it."""
    wrote = _processes(checkpoint)
    if wrote != processes:
        text = "%s was written by %d processes and goes on in %d: with the same weights, but other random numbers"
        warn(text, checkpoint, wrote, processes)
    streamed = (_mark(checkpoint) or {}).get("workers")
    if streamed is not None and (wrote != processes or workers not in (None, streamed)):
        text = "%s: the rest of this epoch is streamed in another order, in which rows may come twice or not at all; "
        warn(text + "%d processes of %d dataloader_num_workers go on exactly", checkpoint, wrote, streamed)
    return str(checkpoint)


def fault(checkpoint: str | os.PathLike, processes: int = 1) -> str | None:
    """Why a run of so many processes cannot go on from a checkpoint; None where it can."""
    folder = Path(checkpoint)
    if not folder.is_dir():
        return "there is no such folder"
    mark = _mark(folder)
    if mark is not None and not isinstance(mark.get("files"), dict):
        return "the run ended while it was being written"
    for name, size in (mark or {}).get("files", {}).items():
        file = folder / name
        if not file.is_file():
            return f"{name} is missing"
        if file.stat().st_size != size:
            return f"{name} has {file.stat().st_size} bytes of {size}"
    parts = {} if any(folder.glob(_DEEPSPEED)) else _PARTS
    missing = [part for part, names in parts.items() if not any(map(list, map(folder.glob, names)))]
    files = [_STATE, *_random_states(folder, mark, processes)]
    files += [name for index in sorted(folder.glob("*.index.json")) for name in _shards(index)]
    missing += [name for name in files if not (folder / name).is_file()]
    if missing:
        return f"{missing[0]} is missing"
    return next((f"{file.name} cannot be read" for file in sorted(folder.iterdir()) if not _readable(file)), None)


def begin(checkpoint: Path) -> None:
    """Make the folder of a checkpoint, empty, with the mark that it is being written."""
    if checkpoint.exists():
        shutil.rmtree(checkpoint)
    checkpoint.mkdir(parents=True)
    write_json(checkpoint / MARK, {"files": None})


def finish(checkpoint: Path, processes: int, workers: int | None = None) -> None:
    """Mark a checkpoint as whole, once its files are on the disk. `workers`: see [`find_checkpoint`]; None where rows
    are not streamed."""
    sizes = {}
    for file in sorted(checkpoint.rglob("*")):
        if file.is_file() and file.name != MARK:
            with open(file, "rb+") as opened:
                os.fsync(opened.fileno())
            sizes[file.relative_to(checkpoint).as_posix()] = file.stat().st_size
    streamed = {} if workers is None else {"workers": workers}
    write_json(checkpoint / MARK, {"processes": processes, **streamed, "files": sizes})


def rotate(new: Path, limit: int | None, best: str | None) -> None:
    """Delete the oldest checkpoints beside a whole new one, down to `limit`; not the best one, and what is not whole
    first."""
    if not limit or limit < 0:
        return
    kept = {new.name} | ({Path(best).name} if best is not None else set())
    others = [each for each in _newest_first(new.parent) if each.name not in kept]
    broken = [each for each in others if (_mark(each) or {}).get("files", {}) is None]
    others = sorted((each for each in others if each not in broken), key=lambda each: each.stat().st_mtime)
    surplus = len(others) + len(kept) - max(limit, len(kept))
    for each in broken + others[: max(surplus, 0)]:
        shutil.rmtree(each, ignore_errors=True)


@contextmanager
def told_in_one_line(checkpoint: Path) -> Iterator[None]:
    """OSError where a file of the checkpoint cannot be written, whichever library was writing it."""
    try:
        yield
    except (OSError, RuntimeError, SafetensorError) as error:
        text = " ".join(str(error).partition("frame #")[0].split())
        if isinstance(error, RuntimeError) and not any(word in text for word in _TORCH_WRITER):
            raise
        free = shutil.disk_usage(checkpoint.parent).free / 1e6
        raise OSError(
            f"{checkpoint} could not be written, {free:.1f} MB are free there ({text}); the one before it is as it was"
        ) from error


def _newest_first(folder: str | os.PathLike) -> list[Path]:
    """The checkpoints in the folder of a run, that of the last step first."""
    named = {path: _NAME.fullmatch(path.name) for path in Path(folder).glob("checkpoint-*") if path.is_dir()}
    steps = {path: int(match[1]) for path, match in named.items() if match}
    return sorted(steps, key=lambda path: steps[path], reverse=True)


def _json(file: Path) -> Any:
    try:
        return json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None


def _mark(folder: Path) -> dict[str, Any] | None:
    """What the mark says; nothing of files where it cannot be read; None without one."""
    content = _json(folder / MARK)
    return content if isinstance(content, dict) else {"files": None} if (folder / MARK).exists() else None


def _processes(folder: Path) -> int:
    """How many processes wrote a checkpoint."""
    return (_mark(folder) or {}).get("processes") or max(len(list(folder.glob("rng_state_*.pth"))), 1)


def _random_states(folder: Path, mark: dict[str, Any] | None, processes: int) -> list[str]:
    """Files of random numbers that must be there. A checkpoint of another number of processes goes without them."""
    several = [f"rng_state_{each}.pth" for each in range(processes)]
    if mark is not None and mark.get("processes") != processes:
        return []
    alone = "rng_state.pth"
    if processes == 1:
        return [] if (folder / "rng_state_0.pth").is_file() else [alone]
    return [] if (folder / alone).is_file() else several


def _shards(index: Path) -> list[str]:
    content = _json(index)
    weights = content.get("weight_map") if isinstance(content, dict) else None
    return sorted(set(weights.values())) if isinstance(weights, dict) else []


def _readable(file: Path) -> bool:
    """Whether the end of a file is there, as far as its kind shows that."""
    if file.name == _STATE or file.name.endswith(".index.json"):
        return isinstance(_json(file), dict)
    if file.suffix == ".safetensors":
        try:
            with safe_open(file, "pt"):
                return True
        except (SafetensorError, OSError):
            return False
    try:
        return file.is_dir() or file.suffix not in _ZIPPED or zipfile.is_zipfile(file)
    except zipfile.BadZipFile:  # it has the end of an archive, with nonsense in it
        return False


__all__ = ["MARK", "begin", "fault", "find_checkpoint", "finish", "rotate", "told_in_one_line"]
