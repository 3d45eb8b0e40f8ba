"""The `clcr` command; each part of it in a file of its own."""

from .app import app

__all__ = ["app"]
