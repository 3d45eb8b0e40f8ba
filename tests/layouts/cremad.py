"""A small folder in the layout of CREMA-D: the class decides the pitch of the sound and the colour of the picture."""

import wave
from pathlib import Path

import av
import numpy as np
from PIL import Image

RATE = 16_000
SIDE = 32
FPS = 10
NUM_FRAMES = 12
EMOTIONS = ("NEU", "HAP", "SAD", "FEA", "DIS", "ANG")
SENTENCES = ("IEO", "TIE", "IOM", "IWW", "TAI", "MTI", "IWL", "ITH", "DFA", "ITS", "TSI", "WSI")
COLOURS = ((200, 30, 30), (30, 200, 30), (30, 30, 200), (200, 200, 30), (30, 200, 200), (200, 30, 200))


def clip_names(clips: int) -> list[str]:
    """Names as in the real set: four actors who take the emotions in turn; levels only for the sentence IEO."""
    names = []
    for i in range(clips):
        block = i // 6
        sentence = SENTENCES[(block + block // 4) % 12]
        emotion = EMOTIONS[i % 6]
        level = ("LO", "MD", "HI")[i % 3] if sentence == "IEO" and emotion != "NEU" else "XX"
        names.append(f"{1001 + block % 4 + i // 288 * 4}_{sentence}_{emotion}_{level}")
    return names


def write_flv(path: Path, frames: np.ndarray, fps: int = FPS) -> None:
    """Sorenson H.263 in Flash, as in `VideoFlash`; frames uint8 (F, H, W, 3)."""
    with av.open(str(path), "w", format="flv") as container:
        stream = container.add_stream("flv", rate=fps)
        stream.width, stream.height, stream.pix_fmt = frames.shape[2], frames.shape[1], "yuv420p"
        for frame in [*(av.VideoFrame.from_ndarray(picture, format="rgb24") for picture in frames), None]:
            container.mux(stream.encode(frame))


def write_wav(path: Path, samples: np.ndarray, rate: int = RATE) -> None:
    """16-bit mono; samples (S,) in [-1, 1]."""
    with wave.open(str(path), "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(rate)
        file.writeframes((np.clip(samples, -1, 1) * 32767).astype("<i2").tobytes())


def make_cremad(root: Path, *, clips: int = 24, lists: bool = True, images: bool = True, videos: bool = True) -> Path:
    """Write `AudioWAV`, `VideoFlash`, `Image-01-FPS` (two frames a clip), `train.csv` and `test.csv`; return `root`.

    About a sixth of the clips is test, with actors that train has too, as in the lists in use.
    """
    root = Path(root)
    for folder in ("AudioWAV", *(["VideoFlash"] if videos else []), *(["Image-01-FPS"] if images else [])):
        (root / folder).mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(0)
    names = clip_names(clips)
    time = np.arange(RATE) / RATE
    for name in names:
        label = EMOTIONS.index(name.split("_")[2])
        sound = 0.4 * np.sin(2 * np.pi * 200 * (label + 1) * time) + 0.01 * rng.standard_normal(RATE)
        write_wav(root / "AudioWAV" / f"{name}.wav", sound)
        noise = rng.integers(-20, 21, (NUM_FRAMES, SIDE, SIDE, 3))
        frames = np.clip(np.array(COLOURS[label]) + noise, 0, 255).astype(np.uint8)
        if videos:
            write_flv(root / "VideoFlash" / f"{name}.flv", frames)
        if images:
            folder = root / "Image-01-FPS" / name
            folder.mkdir(exist_ok=True)
            for i, frame in enumerate(frames[::FPS]):
                Image.fromarray(frame).save(folder / f"{i:05d}.jpg")
    if lists:
        test = [name for i, name in enumerate(names) if i % 6 == i // 6 % 6]
        for split, wanted in (("train", [name for name in names if name not in test]), ("test", test)):
            lines = [f"{name},{name.split('_')[2]}\n" for name in wanted]
            (root / f"{split}.csv").write_text("".join(lines), encoding="utf-8")
    return root
