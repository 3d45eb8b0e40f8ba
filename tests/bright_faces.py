"""Face detectors named as users name theirs: one takes the bright square of a frame for a face, one guesses."""

import numpy as np


def find(frames: np.ndarray) -> list[list[tuple[int, int, int, int]]]:
    """Frames `(F, H, W, 3)` to the boxes of each."""
    return [_box(frame[..., 1] > 130) for frame in frames]


def _box(bright: np.ndarray) -> list[tuple[int, int, int, int]]:
    rows, columns = np.nonzero(bright.any(1))[0], np.nonzero(bright.any(0))[0]
    if not rows.size:
        return []
    return [(int(columns[0]), int(rows[0]), int(columns[-1]) + 1, int(rows[-1]) + 1)]


def guess(frames: np.ndarray) -> list[list[tuple[int, int, int, int]]]:
    """A box that depends on the pixels alone; none in every third frame or so."""
    sums = [int(frame.sum()) for frame in frames]
    return [[(n % 5, n % 4, n % 5 + 12, n % 4 + 12)] if n % 3 else [] for n in sums]
