"""Streams with times of their own brought onto one: frames averaged over words, and cut by segments.

What counts as overlap, and the plain mean over it, are the CMU-MultimodalSDK's: a frame belongs to a word when the two
share more than `EPSILON` seconds, and then counts fully, however little they share.
"""

import numpy as np

EPSILON = 1e-5


def usable_intervals(intervals: np.ndarray) -> np.ndarray:
    """bool (T,): which of the intervals (T, 2), in seconds, are finite and last longer than `EPSILON`."""
    with np.errstate(invalid="ignore"):
        return np.isfinite(intervals).all(axis=1) & (intervals[:, 1] - intervals[:, 0] > EPSILON)


def overlapping(start: float, end: float, intervals: np.ndarray) -> np.ndarray:
    """Positions, in their order, of the intervals (T, 2) that share more than `EPSILON` seconds with [start, end]."""
    if not len(intervals) or not end - start > EPSILON:
        return np.empty(0, dtype=np.int64)
    inside = (intervals[:, 1] > start + EPSILON) & (intervals[:, 0] < end - EPSILON) & usable_intervals(intervals)
    return np.flatnonzero(inside)


def average_over(
    intervals: np.ndarray, frame_intervals: np.ndarray, frames: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Mean of the frames that overlap each interval.

    Intervals may come in any order, overlap, or be nested; unusable ones (see `usable_intervals`) match nothing. Sums
    are taken over each interval's own frames in float64, so no frame's rounding reaches another interval.

    Args:
        intervals: (W, 2) seconds, e.g. of words.
        frame_intervals: (T, 2) seconds.
        frames: (T, D) finite numbers.

    Returns:
        Means, float32 (W, D), zeros where no frame overlaps; and how many frames each was taken from, int64 (W,).

    Raises:
        ValueError: not as many intervals as frames.
    """
    if len(frame_intervals) != len(frames):
        raise ValueError(f"{len(frame_intervals)} intervals for {len(frames)} frames")
    means = np.zeros((len(intervals), frames.shape[1]), dtype=np.float32)
    counts = np.zeros(len(intervals), dtype=np.int64)
    order = np.flatnonzero(usable_intervals(frame_intervals))
    order = order[np.argsort(frame_intervals[order, 0], kind="stable")]
    times = frame_intervals[order]
    # Frames of a word lie in first:last of the sorted ones; where frames are nested some in between end too early.
    first = np.searchsorted(np.maximum.accumulate(times[:, 1]), intervals[:, 0], side="right")
    last = np.searchsorted(times[:, 0], intervals[:, 1])
    for word, (start, end) in enumerate(intervals):
        near = slice(first[word], last[word])
        picked = order[near][overlapping(start, end, times[near])]
        if len(picked):
            means[word], counts[word] = frames[picked].mean(axis=0, dtype=np.float64), len(picked)
    return means, counts
