"""Generated clips of talking faces: `factors` says what is true of a clip, `render` makes its file."""

from .render import MARKER, generate_talking_faces

__all__ = ["MARKER", "generate_talking_faces"]
