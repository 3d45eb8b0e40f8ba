"""Moved to `clcr_hf.hub.publish`; this name goes with version 0.2."""

from .hub.publish import *  # noqa: F403
