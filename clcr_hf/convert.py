"""Moved to `clcr_hf.data.convert`; this name goes with version 0.2."""

from .data.convert import *  # noqa: F403
