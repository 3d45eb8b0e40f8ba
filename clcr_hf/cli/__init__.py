"""The `clcr` command; each part of it in a file of its own."""

from .app import app, main

__all__ = ["app", "main"]
