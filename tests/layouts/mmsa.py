"""Small pickles in the MMSA toolkit's layout: its keys, widths and lengths, a few clips each."""

import pickle
from pathlib import Path
from typing import Any

import numpy as np

from clcr_hf.data.benchmarks.csd_files import standard_folds

WIDTHS = {"mosi": {"audio": 5, "vision": 20}, "mosei": {"audio": 74, "vision": 35}}
UNALIGNED_STEPS = {"mosi": {"audio": 375, "vision": 500}, "mosei": {"audio": 500, "vision": 500}}
STEPS = 50


def make_mmsa(
    root: Path,
    *,
    unaligned: bool = False,
    dataset: str = "mosi",
    clips: tuple[int, int, int] = (8, 4, 4),
    vocab_size: int = 30522,
) -> Path:
    """Write `aligned_50.pkl` or `unaligned_50.pkl` under `root` and return its path.

    Quirks: an id with a suffix that is no number, -inf in the sound, one clip without a single frame of vision, one
    transcript of 50 tokens and one of none but its two marks.

    Args:
        vocab_size: token ids stay below it.
    """
    rng = np.random.default_rng(11)
    folds = standard_folds(dataset)
    content = {}
    for name, split, count in zip(("train", "valid", "test"), folds, clips, strict=True):
        ids = [f"{folds[split][i // 3]}$_${i % 3 + 1}" for i in range(count)]
        ids[-1] += "_xls"
        content[name] = _split(rng, name, ids, dataset, unaligned, vocab_size)
    root.mkdir(parents=True, exist_ok=True)
    path = root / ("unaligned_50.pkl" if unaligned else "aligned_50.pkl")
    path.write_bytes(pickle.dumps(content, 4))
    return path


def _split(
    rng: np.random.Generator, name: str, ids: list[str], dataset: str, unaligned: bool, vocab_size: int
) -> dict[str, Any]:
    count = len(ids)
    lengths = rng.integers(4, 30, count)
    lengths[0] = STEPS
    lengths[1] = 2
    real = np.arange(STEPS) < lengths[:, None]
    cls, sep = min(101, vocab_size - 2), min(102, vocab_size - 1)
    tokens = rng.integers(min(1000, cls // 2), vocab_size, (count, STEPS))
    tokens[:, 0] = cls
    tokens[np.arange(count), lengths - 1] = sep
    labels = np.round(rng.uniform(-3, 3, count) * 3) / 3
    split: dict[str, Any] = {
        "raw_text": np.array([f"{name} sentence {i}" for i in range(count)], dtype=object),
        "id": ids,
        "text": (rng.normal(size=(count, STEPS, 768)) * real[..., None]).astype(np.float32),
        "text_bert": np.stack([tokens * real, real, np.zeros_like(tokens)], axis=1).astype(np.float32),
        "annotations": [("Negative", "Neutral", "Positive")[int(np.sign(label)) + 1] for label in labels],
        "classification_labels": np.sign(labels) + 1,
        "regression_labels": labels.astype(np.float32),
    }
    for modality, width in WIDTHS[dataset].items():
        steps = UNALIGNED_STEPS[dataset][modality] if unaligned else STEPS
        ends = rng.integers(1, steps + 1, count) if unaligned else lengths
        mask = np.arange(steps) < ends[:, None]
        split[modality] = (rng.normal(size=(count, steps, width)) + labels[:, None, None]) * mask[..., None]
        if unaligned:
            split[f"{modality}_lengths"] = ends.tolist()
    split["audio"][0, 0, -1] = -np.inf
    split["vision"][1] = 0
    return split
