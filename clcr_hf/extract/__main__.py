"""`accelerate launch -m clcr_hf.extract`: the arguments of `clcr extract`, on several processes."""

import sys
from collections.abc import Sequence

import torch

from ..cli.main import main as command


def main(argv: Sequence[str] | None = None) -> None:
    """Runs `clcr extract` with `argv` (default: the words of the command line), and lets the other processes go."""
    try:
        command(["extract", *(sys.argv[1:] if argv is None else argv)])
    finally:
        if torch.distributed.is_initialized():
            torch.distributed.destroy_process_group()


if __name__ == "__main__":
    main()
