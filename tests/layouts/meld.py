"""A small folder in the layout of MELD.Raw: utterances of dialogues as MP4, and the lists of three splits."""

import csv
from pathlib import Path

import numpy as np

from clcr_hf.media import write_video

HEADER = [
    *("Sr No.", "Utterance", "Speaker", "Emotion", "Sentiment", "Dialogue_ID", "Utterance_ID"),
    *("Season", "Episode", "StartTime", "EndTime"),
]
FOLDERS = {"train": "train_splits", "dev": "dev_splits_complete", "test": "output_repeated_splits_test"}
# Emotion, its sentiment and the brightness and loudness of the clip, which give it away.
KINDS = (("neutral", "neutral", 40, 0.02), ("joy", "positive", 200, 0.3), ("anger", "negative", 110, 0.15))
RATE, FRAMES, FPS = 16_000, 4, 8


def make_meld(root: Path, *, dialogues: tuple[int, int, int] = (3, 2, 2), nested: bool = False) -> Path:
    """Dialogues of three utterances each; `nested` puts each split's clips into a folder of the split."""
    for (split, folder), count in zip(FOLDERS.items(), dialogues, strict=True):
        place = root / split / folder if nested else root / folder
        place.mkdir(parents=True)
        rows = []
        for dialogue in range(count):
            for utterance, (emotion, sentiment, brightness, loudness) in enumerate(KINDS):
                write_clip(place / f"dia{dialogue}_utt{utterance}.mp4", brightness, loudness, seed=10 * dialogue)
                times = [f"00:0{dialogue}:0{utterance},125", f"0:0{dialogue}:0{utterance + 1},250"]
                said = f"It\x92s {emotion}, number {dialogue}"
                number = len(rows) + 1
                rows.append([number, said, "Ross", emotion, sentiment, dialogue, utterance, 4, 7, *times])
        write_list(root / f"{split}_sent_emo.csv", rows)
    return root


def write_list(path: Path, rows: list[list]) -> None:
    with open(path, "w", encoding="utf-8", newline="") as file:
        csv.writer(file).writerows([HEADER, *rows])


def write_clip(path: Path, brightness: int, loudness: float, seed: int) -> None:
    rng = np.random.default_rng(seed)
    frames = np.full((FRAMES, 32, 32, 3), brightness, np.uint8)
    sound = (loudness * rng.normal(size=RATE * FRAMES // FPS)).astype(np.float32)
    write_video(path, frames, FPS, sound, RATE)
