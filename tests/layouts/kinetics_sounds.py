"""A small folder in the layout of Kinetics-Sounds: the class decides the pitch of the sound and the colour."""

from pathlib import Path

import numpy as np

from clcr_hf.media import write_video

RATE = 16_000
SIDE = 32
FPS = 8
# Starts of ids as YouTube has them: any of A-Z, a-z, 0-9, _ and - in any place.
STARTS = ("-", "_", "a_", "0_000", "B-", "z9")


def clip_name(i: int) -> str:
    """`<11 characters>_<start>_<end>`; every third clip is of one video with the one before it."""
    source = i - (i % 3 == 2)
    start = STARTS[source % len(STARTS)]
    return f"{start}{source:0{11 - len(start)}d}_{i * 10:06d}_{i * 10 + 10:06d}"


def make_kinetics_sounds(root: Path, *, clips: int = 24, classes: int = 3) -> Path:
    """Write `my_train.txt`, `my_test.txt` and the clips in `train/` and `test/`; return `root`.

    A quarter of the clips is test; clips of one video are in one list.
    """
    root = Path(root)
    rng = np.random.default_rng(0)
    time = np.arange(RATE) / RATE
    lines: dict[str, list[str]] = {"train": [], "test": []}
    for i in range(clips):
        split = "test" if i // 3 % 4 == 3 else "train"
        label = (i + i // 3) % classes
        shade = 255 * (label + 1) // (classes + 1)
        noise = rng.integers(-10, 11, (FPS, SIDE, SIDE, 3))
        frames = np.clip(np.array([shade, 255 - shade, 40]) + noise, 0, 255).astype(np.uint8)
        sound = 0.4 * np.sin(2 * np.pi * 200 * (label + 1) * time) + 0.01 * rng.standard_normal(RATE)
        write_video(root / split / f"{clip_name(i)}.mp4", frames, FPS, sound.astype(np.float32), RATE)
        lines[split].append(f"{clip_name(i)},10,{label}\n")
    for split, text in lines.items():
        (root / f"my_{split}.txt").write_text("".join(text), encoding="utf-8")
    return root
