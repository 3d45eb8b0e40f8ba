"""A small folder in the layout of UCF101: AVI clips with their three pairs of lists.

Learnable: the class decides which way the picture moves, so flow tells the classes apart (frames alone hardly do).
"""

from pathlib import Path

import numpy as np

# Folder, name inside the files (one class writes itself in two ways), and the motion in pixels a frame (right, down).
CLASSES = (
    ("ApplyEyeMakeup", "ApplyEyeMakeup", (0, 2)),
    ("HandstandPushups", "HandStandPushups", (0, -2)),
    ("YoYo", "YoYo", (2, 0)),
    ("Archery", "Archery", (-2, 0)),
    ("Biking", "Biking", (0, 0)),
)
CLIPS_A_GROUP = 2
HEIGHT, WIDTH = 48, 64
NUM_FRAMES = 10
FPS = 25


def make_ucf101(root: Path, *, classes: int = 3, groups: int = 4) -> Path:
    """`classes` x `groups` x 2 clips; list k has group k for test and the other groups for training."""
    chosen = sorted(CLASSES[:classes])
    lists = root / "ucfTrainTestlist"
    lists.mkdir(parents=True)
    (lists / "classInd.txt").write_text("".join(f"{i} {name[0]}\r\n" for i, name in enumerate(chosen, 1)), newline="")
    clips = []
    for number, (folder, name, motion) in enumerate(chosen, 1):
        for group in range(1, groups + 1):
            for clip in range(1, CLIPS_A_GROUP + 1):
                file = f"{folder}/v_{name}_g{group:02d}_c{clip:02d}.avi"
                write_avi(root / "UCF-101" / file, moving_picture(motion, seed=1000 * number + 10 * group + clip))
                clips.append((group, number, file))
    for fold in (1, 2, 3):
        train = [f"{file} {number}\n" for group, number, file in clips if group != fold]
        test = [f"{file}\n" for group, _, file in clips if group == fold]
        (lists / f"trainlist0{fold}.txt").write_text("".join(train))
        (lists / f"testlist0{fold}.txt").write_text("".join(test))
    return root


def moving_picture(motion: tuple[int, int], seed: int, frames: int = NUM_FRAMES) -> np.ndarray:
    """uint8 (F, 48, 64, 3): a smooth random texture that moves by `motion` (right, down) pixels a frame."""
    rng = np.random.default_rng(seed)
    texture = rng.random((HEIGHT // 4, WIDTH // 4, 3))
    texture = np.kron(texture, np.ones((4, 4, 1)))
    for axis in (0, 1):
        texture = sum(np.roll(texture, k, axis) for k in range(-2, 3)) / 5
    texture = (255 * (texture - texture.min()) / np.ptp(texture)).astype(np.uint8)
    right, down = motion
    return np.stack([np.roll(texture, (k * down, k * right), (0, 1)) for k in range(frames)])


def write_avi(path: Path, frames: np.ndarray, fps: int = FPS) -> None:
    """MPEG-4 in AVI without sound, as the real clips are."""
    import av

    path.parent.mkdir(parents=True, exist_ok=True)
    with av.open(str(path), mode="w", format="avi") as box:
        stream = box.add_stream("mpeg4", rate=fps, options={"qscale": "2"})
        stream.height, stream.width = frames.shape[1:3]
        stream.pix_fmt = "yuv420p"
        for picture in frames:
            box.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
        box.mux(stream.encode())
