"""The `clcr` command; each part of it in a file of its own."""

from .app import app
from .main import main

__all__ = ["app", "main"]
