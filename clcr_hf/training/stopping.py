"""Why a run ends before its time: a scheduler or a user asks it to, or its loss or weights are no numbers any more."""

import signal
import threading
from collections.abc import Iterable, Mapping
from types import FrameType
from typing import Any

import torch
import torch.distributed as dist
from accelerate.utils import gather, gather_object

_ASKING = (signal.SIGTERM, signal.SIGINT, *((signal.SIGUSR1,) if hasattr(signal, "SIGUSR1") else ()))
_NEVER = 2**62


class TrainingStopped(SystemExit):
    """A signal asked the run to stop, and it did, after a checkpoint. Unless it is caught the process ends with
    `code`, 128 and the signal's number as in a shell: 143 SIGTERM, 138 SIGUSR1, 130 Ctrl-C."""

    def __init__(self, number: int):
        super().__init__(128 + number)


class StopSignals:
    """
    A context in which SIGTERM, SIGUSR1 and Ctrl-C are noted in place of ending the process. Python gives signals to
    the main thread alone: in another one nothing is noted.

    A second Ctrl-C ends a lone process at once; where there are several, launchers pass on what they get, so that one
    Ctrl-C may come twice.
    """

    def __enter__(self) -> "StopSignals":
        self._asked = 0
        self._several = dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1
        # The answer is a number on the host: over NCCL each step would wait for the device.
        self._group = dist.new_group(backend="gloo") if self._several and "gloo" not in dist.get_backend() else None
        here = threading.current_thread() is threading.main_thread()
        self._before = {each: signal.signal(each, self._note) for each in _ASKING} if here else {}
        return self

    def __exit__(self, kind: Any, *_: Any) -> None:
        for each, handler in self._before.items():
            signal.signal(each, signal.SIG_DFL if handler is None else handler)
        if self._asked and kind is None:  # it came too late to be asked for
            signal.raise_signal(self._asked)

    def _note(self, number: int, frame: FrameType | None) -> None:
        if number == self._asked == signal.SIGINT and not self._several:
            raise KeyboardInterrupt
        self._asked = self._asked or number

    def agreed(self) -> int:
        """The signal that any process of the run got, 0 for none; all processes must ask."""
        if not self._several:
            return self._asked
        number = torch.tensor(self._asked)
        dist.all_reduce(number, dist.ReduceOp.MAX, self._group)
        return int(number)


def spare_worker(number: int, frame: FrameType | None) -> None:
    """Handler of SIGTERM in a data loader's worker: a scheduler that signals every process of a run must not take the
    rows from the step that is to be finished. The second one ends it, as PyTorch wants where a worker hangs."""
    signal.signal(signal.SIGTERM, signal.SIG_DFL)


class FiniteWatch:
    """Notes, on the device, the first step at which each part of a loss was not finite. Nothing is copied to the host
    before [`check`]."""

    def __init__(self) -> None:
        self._first: dict[tuple[str, ...], torch.Tensor] = {}

    def see(self, parts: Mapping[str, torch.Tensor], step: int) -> None:
        """Takes the parts of a loss, in the order in which they are named, and the step that they belong to."""
        names = tuple(parts)
        values = torch.stack([value.detach().float().mean() for value in parts.values()])
        first = torch.where(values.isfinite(), _NEVER, step)
        self._first[names] = torch.minimum(self._first[names], first) if names in self._first else first

    def check(self, step: int, weights: Iterable[tuple[str, torch.Tensor]], device: torch.device) -> None:
        """
        Raises where something was not finite, in all processes alike; all must call.

        Args:
            step: the steps done.
            weights: names and parameters to look at besides.

        Raises:
            FloatingPointError: names the step, and the first part of the loss or the first weight.
        """
        found = min((each for each in self._steps() if each[0] < _NEVER), default=None, key=lambda each: each[0])
        if found is None:
            name = _first_broken(weights, device)
            found = None if name is None else (step, f"the weights are not finite, {name} the first of them")
        own = torch.tensor([_NEVER if found is None else found[0]], device=device)
        if int(gather(own).min()) == _NEVER:
            return
        where, text = min((each for each in gather_object([found]) if each is not None), key=lambda each: each[0])
        raise FloatingPointError(
            f"step {where}: {text}. Nothing was saved since then; lower --learning_rate, or look for rows with NaN or "
            "infinity in them"
        )

    def _steps(self) -> list[tuple[int, str]]:
        return [
            (step, f"the loss is not finite, {name!r} the first of its parts")
            for names, steps in self._first.items()
            for name, step in zip(names, steps.tolist(), strict=True)
        ]


def _first_broken(weights: Iterable[tuple[str, torch.Tensor]], device: torch.device) -> str | None:
    """The name of the first parameter that is not finite. Of one that is spread over processes, the own share is
    looked at."""
    named = [(name, each.to_local() if hasattr(each, "to_local") else each) for name, each in weights]
    named = [(name, each.detach()) for name, each in named if each.is_floating_point() and each.numel()]
    if not named:
        return None
    finite = torch.stack([each.isfinite().all().to(device) for _, each in named]).tolist()
    return next((name for (name, _), fine in zip(named, finite, strict=True) if not fine), None)


__all__ = ["FiniteWatch", "StopSignals", "TrainingStopped", "spare_worker"]
