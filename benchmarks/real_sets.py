"""Real sets as a user's own table would hold them, for `stress_sets.py`: columns of features as they were published,
`label`, `split`, and `person`, of whom nobody is in two splits. Where the files are, and whose: docs/results.md."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

Columns = dict[str, list[Any]]


def _read(path: Path) -> dict[str, np.ndarray]:
    with np.load(path, allow_pickle=False) as content:
        return dict(content)


def _cut(rows: np.ndarray, lengths: np.ndarray) -> list[np.ndarray]:
    """Clips that lie one behind the other, `(sum T, D)`."""
    return np.split(rows.astype(np.float32), np.cumsum(lengths)[:-1])


def utd_mhad(root: Path) -> Columns:
    """27 actions; skeletons in metres and an inertial sensor. People 2, 4, 6 and 8 test."""
    data = _read(root / "utd-mhad" / "utd_mhad.npz")
    columns: Columns = {
        f"{name}_features": _cut(data[name], data[f"{name}_length"]) for name in ("skeleton", "inertial")
    }
    columns["label"] = [f"action {number}" for number in data["action"]]
    columns["person"] = [int(number) for number in data["subject"]]
    columns["split"] = ["train" if number % 2 or number == 7 else "test" for number in data["subject"]]
    return columns


def ravdess(root: Path) -> Columns:
    """Eight acted emotions; action units of the clip's face, log-mel, speech embeddings. Actors 21 to 24 test."""
    faces, sounds = _read(root / "ravdess" / "ravdess_av.npz"), _read(root / "ravdess" / "ravdess_logmel32.npz")
    if not np.array_equal(faces["name"], sounds["name"]):
        raise ValueError(f"the two files in {root / 'ravdess'} list different clips")
    return {
        "face_features": list(faces["au35"].astype(np.float32)[:, None]),
        "mel_features": _cut(sounds["mel"], sounds["mel_len"]),
        "speech_features": _cut(faces["oww_emb"], faces["oww_len"]),
        "label": [f"emotion {number}" for number in faces["emotion"]],
        "person": [int(number) for number in faces["actor"]],
        "split": ["train" if number <= 20 else "test" for number in faces["actor"]],
    }


def mosi_utterances(root: Path) -> Columns:
    """Sentiment from -3 to 3; published vectors of utterances, of which text and vision were learned with the labels of
    train: there they tell more than on test. The split of 62 and 31 videos."""
    data = _read(root / "mosi-utterances" / "features.npz")
    columns: Columns = {
        f"{name}_features": list(data[name].astype(np.float32)[:, None]) for name in ("text", "audio", "vision")
    }
    columns["label"] = [float(score) for score in data["score"]]
    columns["person"] = [str(video) for video in data["video_id"]]
    columns["split"] = [str(split) for split in data["split"]]
    return columns


REAL: Mapping[str, Callable[[Path], Columns]] = {
    "UTD-MHAD": utd_mhad,
    "RAVDESS": ravdess,
    "CMU-MOSI utterances": mosi_utterances,
}
