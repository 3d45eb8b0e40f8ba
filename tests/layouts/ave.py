"""Small folders in the layouts of AVE: videos with their lists, and the ready features.

Learnable: while the event lasts the picture has the event's colour and the sound its pitch; else both are dull.
"""

from pathlib import Path

import numpy as np

from clcr_hf.media import write_video

RATE = 16_000
FPS = 2
SIDE = 32
EVENTS = (("Church bell", 0), ("Male speech, man speaking", 1), ("Frying (food)", 10))
COLOURS = ((220, 40, 40), (40, 220, 40), (40, 40, 220))
PITCHES = (250.0, 800.0, 2500.0)
TIMES = ((0, 10), (2, 7), (5, 10), (0, 4))
SPLITS = ("train", "train", "val", "test")
HEADER = "Category&VideoID&Quality&StartTime&EndTime"


def plan(clips: int) -> list[tuple[int, str, int, int, str]]:
    """(event, video id, start, end, split) of each clip; from 12 clips on every event is in every split."""
    rows = []
    a_turn = len(EVENTS) if clips >= len(EVENTS) * len(SPLITS) else 1
    for i in range(clips):
        event, block = i % len(EVENTS), i // len(EVENTS)
        start, end = TIMES[(event + block) % len(TIMES)]
        rows.append((event, f"-{i:03d}_aB-cDx", start, end, SPLITS[i // a_turn % len(SPLITS)]))
    return rows


def line(event: int, video: str, start: int, end: int) -> str:
    return f"{EVENTS[event][0]}&{video}&good&{start}&{end}"


def make_ave(root: Path, *, clips: int = 12, quirks: bool = False) -> Path:
    """Videos and lists. With `quirks`: clip 0 has a second event in its list, clip 1 has no sound, and an event of
    no length."""
    rows = plan(clips)
    lists: dict[str, list[str]] = {"train": [], "val": [], "test": []}
    for i, (event, video, start, end, split) in enumerate(rows):
        if quirks and i == 1:
            start, end = 3, 3
        lists[split].append(line(event, video, start, end))
        if quirks and i == 0:
            lists[split].append(line(2, video, 6, 8))
        _write_clip(root / "AVE" / f"{video}.mp4", event, start, end, seed=i, sound=not (quirks and i == 1))
    for split, lines in lists.items():
        (root / f"{split}Set.txt").write_text("".join(f"{text}\r\n" for text in lines), newline="")
    whole = [HEADER, *(text for lines in lists.values() for text in lines)]
    (root / "Annotations.txt").write_text("\n".join(whole) + "\n")
    return root


def make_ave_h5(root: Path, *, clips: int = 12) -> Path:
    """The features, with the full list beside them (without a header, as it lies beside the real ones)."""
    import h5py

    root.mkdir(parents=True, exist_ok=True)
    rows = plan(clips)
    rng = np.random.default_rng(0)
    visual = rng.random((clips, 10, 7, 7, 512), dtype=np.float32)
    audio = rng.random((clips, 10, 128), dtype=np.float32)
    labels = np.zeros((clips, 10, 29), dtype=np.int64)
    labels[:, :, 28] = 1
    for i, (event, _, start, end, _) in enumerate(rows):
        labels[i, start:end] = 0
        labels[i, start:end, EVENTS[event][1]] = 1
        visual[i, start:end, :, :, event * 8 : event * 8 + 8] += 3
        audio[i, start:end, event * 8 : event * 8 + 8] += 3
    for name, array in (("visual_feature", visual), ("audio_feature", audio), ("labels", labels)):
        with h5py.File(root / f"{name}.h5", "w") as file:
            file["avadataset"] = array
    for split in ("train", "val", "test"):
        with h5py.File(root / f"{split}_order.h5", "w") as file:
            file["order"] = np.array([i for i, row in enumerate(rows) if row[4] == split], dtype=np.int64)
    (root / "Annotations.txt").write_text("".join(line(*row[:4]) + "\n" for row in rows))
    return root


def _write_clip(path: Path, event: int, start: int, end: int, seed: int, sound: bool) -> None:
    rng = np.random.default_rng(seed)
    frames = rng.integers(60, 90, (10 * FPS, SIDE, SIDE, 3)).astype(np.uint8)
    frames[start * FPS : end * FPS] = COLOURS[event]
    seconds = np.arange(10 * RATE) / RATE
    heard = (seconds >= start) & (seconds < end)
    wave = 0.5 * heard * np.sin(2 * np.pi * PITCHES[event] * seconds) + 0.01 * rng.standard_normal(seconds.size)
    write_video(path, frames, FPS, wave if sound else None, RATE if sound else None)
