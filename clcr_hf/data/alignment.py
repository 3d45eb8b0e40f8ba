"""Streams with times of their own brought onto one: frames averaged over words, and cut by segments.

What counts as overlap, and the plain mean over it, are the CMU-MultimodalSDK's: a frame belongs to a word when the two
share more than `EPSILON` seconds, and then counts fully, however little they share.
"""

import numpy as np

EPSILON = 1e-5
_BLOCK = 2**21  # candidate pairs of word and frame looked at together


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
    if not len(order) or not len(intervals):
        return means, counts
    order = order[np.argsort(frame_intervals[order, 0], kind="stable")]
    starts, ends = frame_intervals[order].T
    after, before = intervals[:, 0] + EPSILON, intervals[:, 1] - EPSILON
    # Frames of a word lie in first:last of the sorted ones; where frames are nested some in between end too early.
    first = np.searchsorted(np.maximum.accumulate(ends), after, side="right")
    last = np.searchsorted(starts, before, side="left")
    sizes = np.where(usable_intervals(intervals), np.maximum(last - first, 0), 0)
    bounds = np.searchsorted(np.cumsum(sizes), np.arange(_BLOCK, sizes.sum() + _BLOCK, _BLOCK), side="right")
    low = 0
    for high in [*np.unique(np.clip(bounds, 1, len(sizes))), len(sizes)]:
        if high <= low:
            continue
        owner = np.repeat(np.arange(low, high), sizes[low:high])
        shift = np.cumsum(sizes[low:high]) - sizes[low:high]
        rows = np.arange(len(owner)) + np.repeat(first[low:high] - shift, sizes[low:high])
        hit = ends[rows] > after[owner]
        _average_block(means, counts, order[rows[hit]], owner[hit], frames)
        low = int(high)
    return means, counts


def _average_block(
    means: np.ndarray, counts: np.ndarray, rows: np.ndarray, owner: np.ndarray, frames: np.ndarray
) -> None:
    """Write the mean of `frames[rows]` for each run of equal, ascending `owner`."""
    if not len(rows):
        return
    words, offsets, lengths = np.unique(owner, return_index=True, return_counts=True)
    sums = np.add.reduceat(frames[rows].astype(np.float64), offsets, axis=0)
    means[words] = sums / lengths[:, None]
    counts[words] = lengths
