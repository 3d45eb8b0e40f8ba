"""How much one input may cost: the one home of the limits of media, and of what strangers may send.

What a file says of itself costs nothing; what is decoded, unpacked or computed does. So sizes are checked where they
are known, before memory or time is taken for them.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

MAX_PIXELS = 89_478_485  # of one image; Pillow's own limit, 256 MiB as RGB
MAX_BYTES = 4 * 2**30  # of the frames, and of the audio, that one reading returns
MAX_FLOW_BYTES = 2**30  # of the arrays in one flow file, unpacked
MAX_FILE_BYTES = 200_000_000  # of one file from an address, a data URI, base64 or a body
MAX_WINDOWS = 10**6  # of one recording
MAX_SECONDS = 600.0  # of a stranger's clip that are read
MAX_TEXT = 100_000  # characters of a stranger's text
MAX_STEPS = 10_000  # of a stranger's features: tokens attend to each other
MAX_NUMBERS = 2**23  # in the features, or in another list, of a stranger's input

# Frames of up to so many pixels (1920 x 1080, 2048 x 1152) are kept as they are, whatever their number.
_FULL_PIXELS = 2048 * 1152
# Larger ones are scaled down as they are decoded, until those of a clip take no more than this together.
_KEPT_BYTES = 2**27
_DEEPEST = 8  # lists in lists


@dataclass(frozen=True)
class VideoLimits:
    """
    What decoding a video may cost, by its packets, before it begins.

    Args:
        frame_pixels: of one frame.
        decoded_pixels: of all frames that are decoded together.
    """

    frame_pixels: int
    decoded_pixels: int


OWN = VideoLimits(2**25, 2**42)  # 8K; twenty hours of 1920 x 1080 at 30 frames a second
STRANGERS = VideoLimits(4096 * 2304, 2**38)  # 4K; ten minutes of it at 48 frames a second


def kept_size(width: int, height: int, count: float) -> tuple[int, int]:
    """The width and height at which a frame is kept where a clip has so many: its own, unless it is larger than 2K and
    the frames would take more than 128 MiB together."""
    most = max(_FULL_PIXELS, _KEPT_BYTES / 3 / max(count, 1))
    scale = math.sqrt(most / (width * height)) if width * height > most else 1.0
    return max(1, int(width * scale)), max(1, int(height * scale))


def check_text(text: Any, name: str = "text") -> None:
    """ValueError for a text of more than `MAX_TEXT` characters."""
    if isinstance(text, str) and len(text) > MAX_TEXT:
        raise ValueError(f"{name} has {len(text)} characters; at most {MAX_TEXT} are read")


def check_numbers(value: Any, name: str, max_bytes: int = MAX_FILE_BYTES) -> None:
    """ValueError for lists of more than `MAX_NUMBERS` entries together, or nested deeper than any input is, and for
    arrays of more than `max_bytes`; counted before an array is made of them."""
    waiting, count, size = [(value, 0)], 0, 0
    while waiting:
        each, depth = waiting.pop()
        size += getattr(each, "nbytes", 0)
        if isinstance(each, list | tuple):
            if depth == _DEEPEST:
                raise ValueError(f"{name} has lists nested deeper than {_DEEPEST}")
            count += len(each)
            waiting += [(item, depth + 1) for item in each if isinstance(item, list | tuple) or hasattr(item, "nbytes")]
        if count > MAX_NUMBERS:
            raise ValueError(f"{name} holds more than {MAX_NUMBERS} numbers, the most that is read in lists")
        if size > max_bytes:
            raise ValueError(f"{name} has {size} bytes; at most {max_bytes} are read")


def check_stranger(sample: Mapping[str, Any], max_bytes: int) -> None:
    """ValueError for a sample of a stranger's that would cost too much: texts, numbers, steps, bytes of files."""
    for key, value in sample.items():
        name = str(key)[:40]
        if isinstance(value, bytes | bytearray | memoryview) and len(value) > max_bytes:
            raise ValueError(f"{name} has {len(value)} bytes; at most {max_bytes} are read")
        if key == "text":
            check_text(value)
        elif not isinstance(value, str | bytes | bytearray | memoryview):
            array = value["array"] if isinstance(value, Mapping) and "array" in value else value
            check_numbers(array, name, max_bytes)


def check_steps(shape: tuple[int, ...], name: str) -> None:
    """ValueError for features `(..., T, D)` of more than `MAX_STEPS` steps."""
    if len(shape) > 1 and shape[-2] > MAX_STEPS:
        raise ValueError(f"{name} has {shape[-2]} steps; at most {MAX_STEPS} are read")


__all__ = [
    "MAX_BYTES",
    "MAX_FILE_BYTES",
    "MAX_FLOW_BYTES",
    "MAX_NUMBERS",
    "MAX_PIXELS",
    "MAX_SECONDS",
    "MAX_STEPS",
    "MAX_TEXT",
    "MAX_WINDOWS",
    "OWN",
    "STRANGERS",
    "VideoLimits",
    "check_numbers",
    "check_steps",
    "check_stranger",
    "check_text",
    "kept_size",
]
