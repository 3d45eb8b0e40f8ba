"""The task of planted tokens: generated samples in which few moments of different modalities agree, and only they tell.

Three modalities, three levels given as taps, eight tokens each. The truth behind each sample is known: which level is
in agreement and which tokens carry something. `planted_tokens.py` trains on it; explanations can be tested on it.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

MODALITIES = ("text", "vision", "audio")
LEVELS, TOKENS, WIDTH = 3, 8, 12
SHARED, PRIVATE, PLANTED = 4, 3, 2


@dataclass(frozen=True)
class Samples:
    """`features[m] (N, L, T, 12)` float32 of each modality, `labels (N,)` float32, and the truth behind them:
    `active (N,)` int64, the level in agreement; `planted (N, M, L, T)` bool, the two tokens of each modality and level
    that carry something strong; those of the active level carry the same."""

    features: dict[str, np.ndarray]
    labels: np.ndarray
    active: np.ndarray
    planted: np.ndarray

    @property
    def agreeing(self) -> np.ndarray:
        """`(N, M, L, T)` bool: the planted tokens of the active level."""
        return self.planted & (self.active[:, None, None, None] == np.arange(LEVELS)[:, None])


def generate(seed: int, counts: Sequence[int], noise: float = 0.5) -> list[Samples]:
    """
    Sets of samples of one world, `counts` of them each; the world (rotations, weights) and the samples follow from
    `seed`.

    At one level of each sample, the active one, two tokens of every modality carry the same vector `s` (4-d, length 2,
    jitter 0.3); at the others each modality's two tokens carry a vector of its own, of the same length. All further
    tokens carry weaker ones (0.7 a dimension) in the same four dimensions. Modality `m` has a private 3-d part in all
    its tokens of level `m mod 3`. Each modality and level is turned by a random rotation of its 12 dimensions and gets
    white noise of spread `noise`. The label is `w.s + 0.6 v.q`, `q` all private parts, `w` and `v` unit vectors,
    brought to unit variance.
    """
    world, rng = np.random.default_rng([seed, 0]), np.random.default_rng([seed, 1])
    number = len(MODALITIES)
    turns = np.linalg.qr(world.standard_normal((number, LEVELS, WIDTH, WIDTH)))[0]
    w, v = _unit(world.standard_normal(SHARED)), _unit(world.standard_normal(number * PRIVATE))
    return [_draw(rng, count, turns, w, v.reshape(number, PRIVATE), noise) for count in counts]


def _draw(
    rng: np.random.Generator, count: int, turns: np.ndarray, w: np.ndarray, v: np.ndarray, noise: float
) -> Samples:
    number = len(MODALITIES)
    grid = (count, number, LEVELS, TOKENS)
    shared = 2.0 * _unit(rng.standard_normal((count, SHARED)))
    active = rng.integers(0, LEVELS, count)
    own = 2.0 * _unit(rng.standard_normal((count, number, LEVELS, SHARED)))
    agrees = active[:, None, None] == np.arange(LEVELS)
    carried = np.where(agrees[..., None], shared[:, None, None], own)
    planted = rng.random(grid).argsort(axis=-1) < PLANTED
    strong = carried[:, :, :, None] + 0.3 * rng.standard_normal((*grid, SHARED))
    inside = np.zeros((*grid, WIDTH))
    inside[..., :SHARED] = np.where(planted[..., None], strong, 0.7 * rng.standard_normal((*grid, SHARED)))
    private = rng.standard_normal((count, number, PRIVATE))
    for each in range(number):
        inside[:, each, each % LEVELS, :, SHARED : SHARED + PRIVATE] = private[:, each, None]
    seen = np.einsum("nmltd,mlde->nmlte", inside, turns) + noise * rng.standard_normal(inside.shape)
    labels = (shared @ w + 0.6 * np.einsum("nmp,mp->n", private, v)) / (1.0 + 0.6**2) ** 0.5
    features = {name: seen[:, each].astype(np.float32) for each, name in enumerate(MODALITIES)}
    return Samples(features, labels.astype(np.float32), active, planted)


def _unit(vectors: np.ndarray) -> np.ndarray:
    return vectors / np.linalg.norm(vectors, axis=-1, keepdims=True)


def oracle_scores(seed: int, size: int, held_out: tuple[int, int] = (1024, 4096)) -> dict[str, float]:
    """Test R2 of ridge regression on `size` samples: on all tokens, and on the means of what an oracle points
    at. `held_out`: numbers of validation and test samples."""
    samples = generate(seed, (size, *held_out))
    views = [_oracle_views(each) for each in samples]
    labels = [each.labels.astype(float) for each in samples]
    return {name: _ridge([each[name] for each in views], labels) for name in views[0]}


def _oracle_views(samples: Samples) -> dict[str, np.ndarray]:
    seen = np.stack(list(samples.features.values()), axis=1).astype(float)  # (N, M, L, T, D)
    pooled = seen.mean(axis=3)
    picked = (seen * samples.planted[..., None]).sum(axis=3) / PLANTED
    at_level = np.eye(LEVELS)[samples.active][:, None, :, None]
    views = {
        "all tokens": [seen],
        "oracle tokens": [picked],
        "oracle level": [at_level * pooled, pooled],
        "oracle tokens and level": [at_level * picked, pooled],
    }
    return {name: np.hstack([part.reshape(len(seen), -1) for part in parts]) for name, parts in views.items()}


def _ridge(inputs: list[np.ndarray], labels: list[np.ndarray]) -> float:
    """Test R2; the penalty is chosen on validation. `inputs`, `labels`: training, validation, test."""
    mean, centre = inputs[0].mean(axis=0), labels[0].mean()
    train, validation, test = (each - mean for each in inputs)
    gram, moment = train.T @ train, train.T @ (labels[0] - centre)
    scored = []
    for penalty in 10.0 ** np.arange(0, 5, 0.5):
        weights = np.linalg.solve(gram + penalty * np.eye(len(gram)), moment)
        fits = [
            r_squared(part @ weights + centre, truth) for part, truth in ((validation, labels[1]), (test, labels[2]))
        ]
        scored.append(fits)
    return max(scored)[1]


def r_squared(predicted: np.ndarray, labels: np.ndarray) -> float:
    """Share of the labels' variance that is explained."""
    return float(1.0 - np.square(predicted - labels).mean() / labels.var())
