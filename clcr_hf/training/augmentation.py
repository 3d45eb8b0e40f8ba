"""Random crops and mirror images of training clips (paper, section on protocols: crop and flip in training).

Acts on frames and optical flow before the processor resizes them, so it needs neither a target size nor torchvision.
All frames of a clip share one crop and one flip: what moves in the result moved in the clip.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

_TRIES = 10  # draws of a box before one is made to fit


@dataclass(frozen=True)
class FrameAugmentation:
    """Random resized crop (less the resizing) and horizontal flip of clips.

    Holds no random state: each call takes a generator, so that workers and restarts decide on their own seeds.

    Args:
        scale: least and greatest share of the frame's area that a crop keeps.
        ratio: least and greatest width over height of a crop, in pixels.
        flip: probability of mirroring left and right.

    Raises:
        ValueError: a range out of order or out of bounds.
    """

    scale: tuple[float, float] = (0.08, 1.0)
    ratio: tuple[float, float] = (3 / 4, 4 / 3)
    flip: float = 0.5

    def __post_init__(self) -> None:
        if not 0 < self.scale[0] <= self.scale[1] <= 1:
            raise ValueError(f"scale must hold 0 < least <= greatest <= 1, got {self.scale}")
        if not 0 < self.ratio[0] <= self.ratio[1] < math.inf:
            raise ValueError(f"ratio must hold 0 < least <= greatest, got {self.ratio}")
        if not 0 <= self.flip <= 1:
            raise ValueError(f"flip must be a probability, got {self.flip}")

    def augment(self, frames: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        """Frames `(F, H, W, 3)` uint8 to `(F, h, w, 3)`, a new array; ValueError for another shape or type."""
        _check_frames(frames)
        return self._draw(rng, frames.shape[1:3])(frames, 1)

    def augment_flow(self, flow: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        """Flow `(F, 2, H, W)` (horizontal, vertical; pixels) to `(F, 2, h, w)`, a new array of the same type.

        A crop leaves the vectors as they are; a flip turns the sign of the horizontal ones.

        Raises:
            ValueError: another shape, or no floats.
        """
        _check_flow(flow)
        return self._draw(rng, flow.shape[2:])(flow, 2)

    def augment_pair(
        self, frames: np.ndarray, flow: np.ndarray, rng: np.random.Generator
    ) -> tuple[np.ndarray, np.ndarray]:
        """The same part of frames `(F, H, W, 3)` and flow `(G, 2, H', W')`, and the same flip.

        Both show the same scene, each at its own resolution.

        Raises:
            ValueError: as in `augment` and `augment_flow`.
        """
        _check_frames(frames)
        _check_flow(flow)
        view = self._draw(rng, frames.shape[1:3])
        return view(frames, 1), view(flow, 2)

    def _draw(self, rng: np.random.Generator, size: tuple[int, ...]) -> Callable[[np.ndarray, int], np.ndarray]:
        """What takes one part, and one flip, of all that shows the scene; called with the axis of its rows."""
        share_high, share_wide = self._box(size[0], size[1], rng)
        top, left = rng.uniform(0, 1 - share_high), rng.uniform(0, 1 - share_wide)
        flipped = bool(rng.random() < self.flip)

        def view(clip: np.ndarray, axis: int) -> np.ndarray:
            rows, columns = _span(top, share_high, clip.shape[axis]), _span(left, share_wide, clip.shape[axis + 1])
            part = clip[:, rows, columns] if axis == 1 else clip[:, :, rows, columns]
            part = (np.flip(part, axis + 1) if flipped else part).copy()
            if flipped and axis == 2:  # flow to the left is now flow to the right
                part[:, 0] *= -1
            return part

        return view

    def _box(self, height: int, width: int, rng: np.random.Generator) -> tuple[float, float]:
        """Height and width of a crop as shares of the frame's."""
        for _ in range(_TRIES):
            area = rng.uniform(*self.scale)
            ratio = math.exp(rng.uniform(math.log(self.ratio[0]), math.log(self.ratio[1])))
            share_high = math.sqrt(area * width / (height * ratio))
            share_wide = math.sqrt(area * height * ratio / width)
            if share_high <= 1 and share_wide <= 1:
                break
        return min(share_high, 1.0), min(share_wide, 1.0)


def _span(begin: float, share: float, size: int) -> slice:
    length = min(max(round(share * size), 1), size)
    first = min(round(begin * size), size - length)
    return slice(first, first + length)


def _check_frames(frames: np.ndarray) -> None:
    if frames.ndim != 4 or frames.shape[-1] != 3 or frames.dtype != np.uint8 or 0 in frames.shape[1:]:
        raise ValueError(f"frames must be uint8 (F, H, W, 3), got {frames.dtype} {frames.shape}")


def _check_flow(flow: np.ndarray) -> None:
    if flow.ndim != 4 or flow.shape[1] != 2 or not np.issubdtype(flow.dtype, np.floating) or 0 in flow.shape[2:]:
        raise ValueError(f"flow must be floats (F, 2, H, W), got {flow.dtype} {flow.shape}")
