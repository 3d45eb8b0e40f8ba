"""Moved to `clcr_hf.data.flow`; this name goes with version 0.2."""

from .data.flow import *  # noqa: F403
