"""A small folder in the layout of CH-SIMS v2: `meta.csv` and the videos in `Raw`."""

import csv
from pathlib import Path

from .meld import write_clip

HEADER = ["video_id", "clip_id", "text", "label", "label_T", "label_A", "label_V", "annotation", "mode"]


def make_sims2(root: Path, *, clips: tuple[int, int, int] = (6, 3, 3), labelled: bool = True) -> Path:
    """Clips whose brightness and loudness rise with the label; two of each video."""
    rows = []
    for split, count in zip(("train", "valid", "test"), clips, strict=True):
        for number in range(count):
            video, clip = f"aqgy_{split}_{number // 2:04d}", f"{number % 2:04d}"
            label = round(-1 + 2 * (number % 3) / 2, 1)
            path = root / "Raw" / video / f"{clip}.mp4"
            path.parent.mkdir(parents=True, exist_ok=True)
            write_clip(path, 120 + int(100 * label), 0.15 + 0.1 * label, seed=number)
            labels = [label, round(label / 2, 1), label, 0.0] if labelled else [""] * 4
            kind = ("Negative", "Neutral", "Positive")[number % 3]
            rows.append([video, clip, f"这是第{number}句", *labels, kind if labelled else "", split])
    write_meta(root, rows)
    return root


def write_meta(root: Path, rows: list[list]) -> None:
    with open(root / "meta.csv", "w", encoding="utf-8", newline="") as file:
        csv.writer(file).writerows([HEADER, *rows])
