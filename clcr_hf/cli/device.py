"""Where a model runs: chosen alike by all commands."""

from typing import Annotated

import typer

Device = Annotated[str | None, typer.Option(help="cpu, cuda, cuda:1, mps. Default: a GPU if there is one.")]


def choose_device(device: str | None) -> str:
    """
    The device that was asked for, or a GPU where there is one, or the CPU.

    Raises:
        ValueError: a name that is none, or a GPU that is not there.
    """
    import torch

    if device is None:
        return "cuda" if torch.cuda.is_available() else "mps" if torch.backends.mps.is_available() else "cpu"
    try:
        found = torch.device(device)
    except RuntimeError as error:
        raise ValueError(f"--device takes cpu, cuda or cuda:1, got {device!r}") from error
    if found.type == "meta":
        raise ValueError("--device meta: nothing is computed there; --device takes cpu, cuda or cuda:1")
    count = {"cpu": 1, "cuda": torch.cuda.device_count(), "mps": int(torch.backends.mps.is_available())}
    if (found.index or 0) >= count.get(found.type, 1):
        number = count[found.type]
        known = "no such GPU" if not number else f"{number} GPU{'s' * (number > 1)}, counted from 0,"
        raise ValueError(f"--device {device}: torch finds {known} here; use --device cpu")
    return device
