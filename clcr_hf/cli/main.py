"""The `clcr` command."""

import sys
from collections.abc import Sequence

from rich.console import Console

from . import learn, predict, read, rows, share  # noqa: F401  (each adds its commands)
from .app import app


def main(argv: Sequence[str] | None = None) -> None:
    """Entry point: an error that a user can mend is one line on the standard error, with exit code 1."""
    try:
        app(None if argv is None else list(argv))
    except (ValueError, OSError, ImportError) as error:
        Console(stderr=True, highlight=False).print("error:", str(error), markup=False, soft_wrap=True)
        sys.exit(1)


if __name__ == "__main__":
    main()
