"""Crops and flips: one for the whole clip, the same for pictures and flow, reproducible."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from clcr_hf.training.augmentation import FrameAugmentation


def places(count: int, height: int, width: int) -> np.ndarray:
    """Frames whose pixel (y, x) of frame k is (y, x, k): a crop tells where it came from."""
    frames = np.zeros((count, height, width, 3), np.uint8)
    frames[..., 0] = np.arange(height)[:, None]
    frames[..., 1] = np.arange(width)
    frames[..., 2] = np.arange(count)[:, None, None]
    return frames


def flow_of(frames: np.ndarray) -> np.ndarray:
    """Flow that points right by its column and down by its row."""
    return np.stack([frames[..., 1], frames[..., 0]], axis=1).astype(np.float32)


sizes = st.tuples(st.integers(1, 5), st.integers(1, 60), st.integers(1, 60))


@settings(max_examples=80, deadline=None)
@given(size=sizes, seed=st.integers(0, 2**32), least=st.floats(0.05, 1), flip=st.sampled_from([0.0, 0.5, 1.0]))
def test_one_window_for_all_frames(size: tuple[int, int, int], seed: int, least: float, flip: float) -> None:
    frames = places(*size)
    before = frames.copy()
    out = FrameAugmentation(scale=(least, 1.0), flip=flip).augment(frames, np.random.default_rng(seed))
    count, height, width, channels = out.shape
    assert (count, channels) == (size[0], 3) and 1 <= height <= size[1] and 1 <= width <= size[2]
    assert out.dtype == np.uint8 and out.flags["C_CONTIGUOUS"] and not np.shares_memory(out, frames)
    np.testing.assert_array_equal(frames, before)
    np.testing.assert_array_equal(out[..., 2], np.broadcast_to(np.arange(count)[:, None, None], out.shape[:3]))
    np.testing.assert_array_equal(out[..., :2], np.broadcast_to(out[:1, ..., :2], (*out.shape[:3], 2)))
    assert (np.diff(out[0, :, 0, 0].astype(int)) == 1).all()  # neighbouring rows, never upside down
    steps = set(np.diff(out[0, 0, :, 1].astype(int)).tolist())
    assert steps <= ({1} if flip == 0 else {-1} if flip == 1 else {-1, 1}) and len(steps) <= 1


@settings(max_examples=60, deadline=None)
@given(size=sizes, seed=st.integers(0, 2**32))
def test_pictures_and_flow_share_the_window(size: tuple[int, int, int], seed: int) -> None:
    frames = places(*size)
    pictures, flow = FrameAugmentation().augment_pair(frames, flow_of(frames)[:1], np.random.default_rng(seed))
    turned = pictures.shape[2] > 1 and pictures[0, 0, 0, 1] > pictures[0, 0, 1, 1]
    if pictures.shape[2] > 1:
        np.testing.assert_array_equal(flow[0, 0], pictures[0, ..., 1].astype(float) * (-1 if turned else 1))
    np.testing.assert_array_equal(flow[0, 1], pictures[0, ..., 0])


def test_pictures_and_flow_of_other_sizes_show_the_same_part() -> None:
    frames = places(2, 100, 200)
    flow = flow_of(places(3, 50, 100))
    for seed in range(20):
        pictures, part = FrameAugmentation(flip=0.0).augment_pair(frames, flow, np.random.default_rng(seed))
        corner = pictures[0, 0, 0, :2].astype(float)
        assert np.abs(part[0, ::-1, 0, 0] - corner / 2).max() <= 1
        assert abs(part.shape[2] - pictures.shape[1] / 2) <= 1 and abs(part.shape[3] - pictures.shape[2] / 2) <= 1


def test_a_flip_turns_the_horizontal_flow_alone() -> None:
    flow = flow_of(places(2, 4, 6)) + 1
    whole = FrameAugmentation(scale=(1.0, 1.0), ratio=(1.5, 1.5), flip=1.0)
    out = whole.augment_flow(flow.astype(np.float16), np.random.default_rng(0))
    assert out.dtype == np.float16
    np.testing.assert_array_equal(out[:, 0], -flow[:, 0, :, ::-1])
    np.testing.assert_array_equal(out[:, 1], flow[:, 1, :, ::-1])


def test_same_seed_same_clip_and_the_shares_asked_for() -> None:
    frames, augmentation = places(1, 100, 120), FrameAugmentation(scale=(0.25, 0.5))
    first, second = (augmentation.augment(frames, np.random.default_rng(3)) for _ in range(2))
    np.testing.assert_array_equal(first, second)
    rng = np.random.default_rng(0)
    parts = [augmentation.augment(frames, rng).shape for _ in range(300)]
    shares = np.array([height * width / 12_000 for _, height, width, _ in parts])
    ratios = np.array([width / height for _, height, width, _ in parts])
    assert shares.min() > 0.24 and shares.max() < 0.51 and np.ptp(shares) > 0.2
    assert ratios.min() > 0.72 and ratios.max() < 1.37 and np.ptp(ratios) > 0.4
    flips = [augmentation.augment(frames, rng)[0, 0, :2, 1] for _ in range(300)]
    assert 100 < sum(bool(left > right) for left, right in flips) < 200


def test_what_is_no_clip_is_refused() -> None:
    augmentation, rng = FrameAugmentation(), np.random.default_rng(0)
    with pytest.raises(ValueError, match="uint8"):
        augmentation.augment(np.zeros((2, 4, 4, 3)), rng)
    with pytest.raises(ValueError, match=r"\(F, 2, H, W\)"):
        augmentation.augment_flow(np.zeros((2, 4, 4, 2)), rng)
    for wrong in ({"scale": (0.0, 1.0)}, {"scale": (0.5, 0.2)}, {"ratio": (2.0, 1.0)}, {"flip": 1.5}):
        with pytest.raises(ValueError, match=next(iter(wrong))):
            FrameAugmentation(**wrong)  # type: ignore[arg-type]
