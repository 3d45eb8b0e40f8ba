"""What reading a clip costs: PyAV by itself, `load_media`, and the processor, in turn on the same generated clips.

    python -m benchmarks.reading

PyAV by itself opens a clip once, decodes both tracks, converts the wanted frames with one reformatter and resamples
the audio: the least that the same arrays can be had for. `load_media` finds out besides where the tracks end and
whether the file is whole. Times are the process's own CPU milliseconds a clip, the median over rounds.
"""

import argparse
import json
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import av
import numpy as np
from transformers import SeamlessM4TFeatureExtractor, ViTImageProcessorPil

from clcr_hf import CLCRProcessor
from clcr_hf.data.talking_faces import generate_talking_faces
from clcr_hf.data.talking_faces.render import NUM_FRAMES
from clcr_hf.media import load_media

FRAMES, RATE = 10, 16_000


def bare(path: Path) -> tuple[np.ndarray, np.ndarray]:
    """Frames uint8 `(FRAMES, H, W, 3)` and the waveform float32 `(samples,)`, with nothing checked."""
    wanted = {int((part + 0.5) * NUM_FRAMES / FRAMES) for part in range(FRAMES)}
    frames, parts, number = [], [], 0
    with av.open(str(path)) as container:
        video, audio = container.streams.video[0], container.streams.audio[0]
        colours, resampler = av.video.reformatter.VideoReformatter(), av.AudioResampler("flt", "mono", RATE)
        for packet in container.demux(video, audio):
            for frame in packet.decode():
                if packet.stream_index == audio.index:
                    parts += [part.to_ndarray()[0] for part in resampler.resample(frame)]
                    continue
                if number in wanted:
                    frames.append(colours.reformat(frame, format="rgb24").to_ndarray())
                number += 1
        parts += [part.to_ndarray()[0] for part in resampler.resample(None)]
    return np.stack(frames), np.concatenate(parts)


def measure(clips: list[Path], rounds: int) -> dict[str, Any]:
    """CPU milliseconds a clip of each way to read it."""
    processor = CLCRProcessor(
        image_processor=ViTImageProcessorPil(size={"height": 48, "width": 48}),
        feature_extractor=SeamlessM4TFeatureExtractor(feature_size=40, num_mel_bins=40, sampling_rate=RATE),
        video_num_frames=FRAMES,
    )
    ways: dict[str, Callable[[Path], Any]] = {
        "PyAV": bare,
        "load_media": lambda path: load_media(path, num_frames=FRAMES, sampling_rate=RATE),
        "processor": lambda path: processor(media=str(path)),
    }
    frames, wave = bare(clips[0])
    clip = ways["load_media"](clips[0])
    assert np.array_equal(frames, clip.video.frames) and np.array_equal(wave[: len(clip.audio)], clip.audio)
    times: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(rounds):
        for name, read in ways.items():
            begin = time.process_time()
            for path in clips:
                read(path)
            times[name].append((time.process_time() - begin) / len(clips) * 1000)
    ratio = statistics.median(map(np.divide, times["load_media"], times["PyAV"]))
    return {name: round(statistics.median(each), 2) for name, each in times.items()} | {"ratio": round(float(ratio), 2)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--clips", type=int, default=50)
    parser.add_argument("--rounds", type=int, default=9)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        corpus = generate_talking_faces(Path(folder) / "clips", num_train=args.clips, num_validation=0, num_test=0)
        print(json.dumps(measure(sorted(corpus.rglob("*.mp4")), args.rounds)))


if __name__ == "__main__":
    main()
