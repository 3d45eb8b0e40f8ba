"""Random changes of feature sequences in training: a little earlier, slower or stronger, and still the same thing."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from datasets import Dataset

from ..data.labels import LabelKind
from ..modalities import FEATURES_END
from .statistics import mean_length

_LEAST_STEPS = 8


@dataclass(frozen=True)
class SequenceAugmentation:
    """
    Crop and smooth warp in time, scale, offset and noise of sequences `(T, D)`, in units of each column's spread.

    All sequences of a row share the crop and the warp, so that what happened at one time still does. Holds no random
    state: each call takes a generator.

    Args:
        crop: least share of the time that is kept.
        warp: largest bend of the time axis, as a share of it.
        scale: standard deviation of the factor of each sequence, around 1.
        offset, noise: standard deviations of one number a column and of one a value.

    Raises:
        ValueError: a crop outside (0, 1], or a negative number.
    """

    crop: float = 0.7
    warp: float = 0.05
    scale: float = 0.1
    offset: float = 0.1
    noise: float = 0.05

    def __post_init__(self) -> None:
        if not 0 < self.crop <= 1:
            raise ValueError(f"crop must lie in (0, 1], got {self.crop}")
        for name in ("warp", "scale", "offset", "noise"):
            if getattr(self, name) < 0:
                raise ValueError(f"{name} must not be negative, got {getattr(self, name)}")

    def augment(
        self, row: Mapping[str, np.ndarray], spreads: Mapping[str, np.ndarray], rng: np.random.Generator
    ) -> dict[str, np.ndarray]:
        """
        Changed copies, of the same shapes and dtypes.

        Args:
            row: `(T, D)` of each modality, real steps alone. spreads: `(D,)` of each modality's columns.
        """
        kept = rng.uniform(self.crop, 1.0)
        start = rng.uniform(0.0, 1.0 - kept)
        bend, phase = rng.uniform(-self.warp, self.warp), rng.uniform(0.0, 2 * np.pi)
        changed = {}
        for name, value in row.items():
            steps = len(value)
            if not steps:
                changed[name] = value
                continue
            time = np.linspace(0.0, 1.0, steps)
            curve = time + bend * (np.sin(2 * np.pi * time + phase) - np.sin(phase))
            moved = interpolate(value, (start + kept * np.clip(curve, 0.0, 1.0)) * (steps - 1))
            spread = np.asarray(spreads[name], dtype=np.float64)
            moved = moved * (1 + self.scale * rng.standard_normal())
            moved = moved + self.offset * spread * rng.standard_normal(value.shape[1])
            moved = moved + self.noise * spread * rng.standard_normal(value.shape)
            changed[name] = moved.astype(value.dtype)
        return changed


def augments_unasked(rows: Dataset, columns: Mapping[str, str], labels: LabelKind) -> bool:
    """
    Whether a run changes sequences where nobody said so: where that was measured to help (docs/results/utd_mhad.md),
    one class a row told from ready features of at least 8 steps, text not among them.

    Args:
        rows: the training split. columns: the column that each modality is read from.
    """
    one_class = labels.problem_type == "single_label_classification" and not labels.per_segment
    ready = all(column.endswith(FEATURES_END) for column in columns.values())
    if not (one_class and ready) or "text" in columns:
        return False
    return max(mean_length(rows, column) for column in columns.values()) >= _LEAST_STEPS


def interpolate(value: np.ndarray, place: np.ndarray) -> np.ndarray:
    """A sequence `(T, D)` at places `(N,)` between its first step, 0, and its last, T - 1: `(N, D)`, linear between."""
    below = np.floor(place).astype(int)
    share = (place - below)[:, None]
    return (1 - share) * value[below] + share * value[np.minimum(below + 1, len(value) - 1)]


__all__ = ["SequenceAugmentation", "augments_unasked", "interpolate"]
