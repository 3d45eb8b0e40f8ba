"""Writing clips as MP4."""

from fractions import Fraction
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np


def encode(
    av: ModuleType, path: Path, frames: np.ndarray, fps: float, wave: np.ndarray | None, sampling_rate: int | None
) -> None:
    # bitexact keeps the encoder's version and the date out of the file: same clip, same bytes.
    with av.open(str(path), mode="w", format="mp4", options={"fflags": "+bitexact", "movflags": "+faststart"}) as box:
        codec, options = _video_codec(av)
        video = box.add_stream(codec, rate=Fraction(fps).limit_denominator(100_000), options=options)
        video.height, video.width = frames.shape[1:3]
        video.pix_fmt = "yuv420p"
        video.codec_context.thread_count = 1
        sound = box.add_stream("aac", rate=sampling_rate, layout="mono") if wave is not None else None
        for picture in frames:
            box.mux(video.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
        box.mux(video.encode())
        if sound is not None and wave is not None:
            if wave.size:
                frame = av.AudioFrame.from_ndarray(wave[None], format="fltp", layout="mono")
                frame.sample_rate, frame.pts = sampling_rate, 0
                box.mux(sound.encode(frame))
            box.mux(sound.encode())


def _video_codec(av: ModuleType) -> tuple[str, dict[str, str]]:
    try:
        av.codec.Codec("libx264", "w")
    except ValueError:  # UnknownCodecError: a wheel built without x264
        return "mpeg4", {"qscale": "3"}
    # x264's macroblock tree gives other bytes from run to run on small frames, even on one thread: it stays off.
    return "libx264", {"crf": "18", "preset": "veryfast", "x264-params": "mbtree=0"}


def check_frames(frames: Any) -> np.ndarray:
    pictures = np.asarray(frames)
    if pictures.dtype != np.uint8 or pictures.ndim != 4 or pictures.shape[-1] != 3 or 0 in pictures.shape:
        raise ValueError(f"frames must be uint8 (F, H, W, 3), got {pictures.dtype} {pictures.shape}")
    odd = [(0, 0), (0, pictures.shape[1] % 2), (0, pictures.shape[2] % 2), (0, 0)]
    return np.ascontiguousarray(np.pad(pictures, odd, mode="edge"))
