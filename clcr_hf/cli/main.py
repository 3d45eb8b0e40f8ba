"""Entry point of the `clcr` command."""

from .app import main

__all__ = ["main"]

if __name__ == "__main__":
    main()
