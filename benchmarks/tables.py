"""Real sets as a user's own table holds them: columns of features, `label`, `split`, and `person`, of whom nobody is in
two splits. Where the files are, and whose: docs/results.md.

    python benchmarks/tables.py utd_mhad_prepared tables/utd_mhad_prepared.parquet
    clcr study benchmarks/studies/utd_mhad.yaml

    python benchmarks/tables.py planted_tokens "tables/planted_tokens_{seed}.parquet" --seeds 0 1 2 3 4
    clcr study benchmarks/studies/planted_tokens.yaml

The sets are as they were published; those called prepared are what a user who knows such data would make of them, by
one clip at a time and without a label. The data are under `--data` (`$CLCR_REAL_DATA`).
"""

import argparse
import csv
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import planted_task
import pyarrow as pa
import pyarrow.parquet as pq

from clcr_hf.data.benchmarks.utterances import load_utterances
from clcr_hf.training.sequence_augmentation import interpolate

Columns = dict[str, list[Any]]
DATA = Path(os.environ.get("CLCR_REAL_DATA", Path(__file__).resolve().parent.parent.parent / "shared" / "data"))
STEPS = 40  # of a prepared clip of UTD-MHAD
MEL_RATE, SPEECH_RATE = 100.0, 12.5  # steps a second
SEGMENTS = 3
SILENCE = 4.0  # quieter than the clip's loudest moment by this much (mean log-mel)


def _read(path: Path) -> dict[str, np.ndarray]:
    with np.load(path, allow_pickle=False) as content:
        return dict(content)


def cut(rows: np.ndarray, lengths: np.ndarray) -> list[np.ndarray]:
    """Clips that lie one behind the other, `(sum T, D)`."""
    return np.split(rows.astype(np.float32), np.cumsum(lengths)[:-1])


def utd_mhad(root: Path) -> Columns:
    """27 actions; skeletons in metres and an inertial sensor. People 2, 4, 6 and 8 test."""
    data = _read(root / "utd-mhad" / "utd_mhad.npz")
    columns: Columns = {
        f"{name}_features": cut(data[name], data[f"{name}_length"]) for name in ("skeleton", "inertial")
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
        "mel_features": cut(sounds["mel"], sounds["mel_len"]),
        "speech_features": cut(faces["oww_emb"], faces["oww_len"]),
        "label": [f"emotion {number}" for number in faces["emotion"]],
        "person": [int(number) for number in faces["actor"]],
        "split": ["train" if number <= 20 else "test" for number in faces["actor"]],
    }


def utd_mhad_prepared(root: Path) -> Columns:
    """The same clips: skeletons relative to the spine of their first frame, differences between neighbouring steps
    appended, 40 steps. Person 7 validates."""
    columns = utd_mhad(root)
    for name in ("skeleton_features", "inertial_features"):
        clips = [clip.astype(np.float64) for clip in columns[name]]
        columns[name] = list(motions(clips, skeletons=name == "skeleton_features").astype(np.float32))
    columns["split"] = [
        "validation" if person == 7 else split
        for person, split in zip(columns["person"], columns["split"], strict=True)
    ]
    return columns


def motions(clips: list[np.ndarray], skeletons: bool) -> np.ndarray:
    """`(N, 40, 2 D)` of clips `(T, D)`: as steps lie in time, and their differences; skeletons relative to the spine of
    the first frame."""
    if skeletons:
        clips = [clip - np.tile(clip[0, 9:12], 20) for clip in clips]
    values = np.stack([interpolate(clip, np.linspace(0, len(clip) - 1, STEPS)) for clip in clips])
    return np.concatenate((values, np.gradient(values, axis=1)), axis=-1)


def ravdess_prepared(root: Path) -> Columns:
    """The same clips: of the two sounds, silence before and after the sentence is cut off, and the rest divided into
    three equal segments, each a step of the segment's mean and standard deviation over time."""
    columns = ravdess(root)
    parts = [sounding_part(clip) for clip in columns["mel_features"]]
    for name, rate in (("mel_features", MEL_RATE), ("speech_features", SPEECH_RATE)):
        clips = [trim(clip, rate, part) for clip, part in zip(columns[name], parts, strict=True)]
        columns[name] = [segment(clip) for clip in clips]
    return columns


def sounding_part(mel: np.ndarray) -> tuple[float, float]:
    """Start and end in seconds of what lies between the silences of a log-mel `(T, 32)`; a tenth of a second more on
    both sides."""
    loudness = np.convolve(mel.mean(axis=1), np.ones(5) / 5, mode="same")
    loud = np.flatnonzero(loudness > loudness.max() - SILENCE)
    return max(loud[0] / MEL_RATE - 0.1, 0.0), (loud[-1] + 1) / MEL_RATE + 0.1


def trim(sequence: np.ndarray, rate: float, part: tuple[float, float]) -> np.ndarray:
    """The steps of `sequence`, `rate` a second, that lie in `part` (seconds)."""
    return sequence[int(part[0] * rate) : int(np.ceil(part[1] * rate))]


def summarise(sequence: np.ndarray) -> np.ndarray:
    """Mean and standard deviation over time: `(T, D)` to `(2 D,)`."""
    return np.concatenate((sequence.mean(axis=0), sequence.std(axis=0)))


def segment(sequence: np.ndarray) -> np.ndarray:
    """`(T, D)` to `(3, 2 D)`: equal segments of at least two steps, each summarised."""
    length = len(sequence)
    starts = [index * length // SEGMENTS for index in range(SEGMENTS)]
    ends = [max(-(-(index + 1) * length // SEGMENTS), start + 2) for index, start in enumerate(starts)]
    return np.stack([summarise(sequence[start:end]) for start, end in zip(starts, ends, strict=True)])


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


def mosi_videos_prepared(root: Path) -> Columns:
    """The same utterances, a row a video, a step an utterance with a label of its own; heavy tails of sound and face
    compressed. No validation split: on videos of train the leak makes any figure too good."""
    parts = load_utterances(root / "mosi-utterances" / "features.npz", modalities=("text", "audio", "vision"))
    videos = [{**row, "split": split} for split, rows in parts.items() for row in rows]
    columns: Columns = {
        f"{name}_features": [np.array(video[f"{name}_features"], dtype=np.float32) for video in videos]
        for name in ("text", "audio", "vision")
    }
    for name in ("audio_features", "vision_features"):
        columns[name] = [np.sign(steps) * np.log1p(np.abs(steps)) for steps in columns[name]]
    columns["label"] = [[("negative", "positive")[label] for label in video["labels"]] for video in videos]
    columns["person"] = [video["id"] for video in videos]
    columns["split"] = [video["split"] for video in videos]
    return columns


def mosi_text(root: Path) -> Columns:
    """Sentences with sentiment from -3 to 3, the SDK's folds; the words' timing as sound."""
    rows = _read_csv(root / "mosi-utterances" / "mosi.csv")
    videos = [row["video"] for row in rows]
    timing = word_timing(_read(root / "mosi-utterances" / "word_timing.npz"), videos)
    columns = _sentences(rows, [row["split_sdk"] for row in rows])
    return {**columns, "audio_features": timing, "person": videos}


def mosei_text(root: Path) -> Columns:
    """Sentences with sentiment from -3 to 3, the folds of the file. Text alone."""
    rows = _read_csv(root / "mosei-text" / "label.csv")
    return _sentences(rows, [row["mode"] for row in rows])


def _sentences(rows: list[dict[str, str]], folds: list[str]) -> Columns:
    split = {"train": "train", "valid": "validation", "test": "test"}
    return {
        "text": [row["text"] for row in rows],
        "label": [float(row["label"]) for row in rows],
        "split": [split[fold] for fold in folds],
    }


def _read_csv(path: Path) -> list[dict[str, str]]:
    with open(path, newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def word_timing(timing: Mapping[str, np.ndarray], videos: list[str]) -> list[np.ndarray]:
    """For each sentence `(words, 7)`: log duration, log pause before, log letters a second, the three less their mean
    over the video (how that speaker speaks; no label takes part), and the word's place in the sentence."""
    owner = np.repeat(np.arange(len(videos)), timing["n_words"])
    letters = np.char.str_len(timing["word"])
    said = np.log(np.maximum(timing["dur"], 0.01))
    raw = np.stack([said, np.log1p(np.maximum(timing["pause_before"], 0.0)), np.log(letters + 1.0) - said], axis=1)
    video = np.unique(videos, return_inverse=True)[1][owner]
    counts = np.bincount(video, minlength=video.max() + 1)
    means = np.stack([np.bincount(video, column) for column in raw.T], axis=1) / np.maximum(counts, 1)[:, None]
    first = np.cumsum(timing["n_words"]) - timing["n_words"]
    place = (np.arange(len(owner)) - first[owner]) / np.maximum(timing["n_words"][owner] - 1, 1)
    values = np.concatenate([raw, raw - means[video], place[:, None]], axis=1).astype(np.float32)
    return np.split(values, np.cumsum(timing["n_words"])[:-1])


def planted_tokens(seed: int, size: int = 2048, held_out: tuple[int, int] = (1024, 4096)) -> Columns:
    """The generated task of `planted_task.py`, in the world of `seed`: three modalities `(3, 8, 12)`, levels as taps,
    and a score. `size`: training samples; `held_out`: validation and test samples."""
    parts = planted_task.generate(seed, (size, *held_out))
    columns: Columns = {
        f"{name}_features": [each for part in parts for each in part.features[name]] for name in planted_task.MODALITIES
    }
    columns["label"] = [float(score) for part in parts for score in part.labels]
    columns["split"] = [
        name for name, part in zip(("train", "validation", "test"), parts, strict=True) for _ in part.labels
    ]
    return columns


REAL: Mapping[str, Callable[[Path], Columns]] = {
    "UTD-MHAD": utd_mhad,
    "RAVDESS": ravdess,
    "CMU-MOSI utterances": mosi_utterances,
}

TABLES: Mapping[str, Callable[[Path], Columns]] = {
    each.__name__: each
    for each in (
        *(utd_mhad, utd_mhad_prepared, ravdess, ravdess_prepared),
        *(mosi_utterances, mosi_videos_prepared, mosi_text, mosei_text),
    )
}

GENERATED: Mapping[str, Callable[[int], Columns]] = {"planted_tokens": planted_tokens}


def write(columns: Mapping[str, list[Any]], path: Path) -> None:
    """The columns as a Parquet table."""
    plain = {
        name: pa.array([None if each is None else _nested(each) for each in values] if "_features" in name else values)
        for name, values in columns.items()
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.table(plain), path)


def _nested(values: np.ndarray) -> list[Any]:
    """`(T, D)` or `(L, T, D)` as lists of rows, which Arrow takes as they are."""
    return list(values) if values.ndim < 3 else [_nested(each) for each in values]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("table", choices=[*TABLES, *GENERATED])
    parser.add_argument(
        "output", type=Path, help="the Parquet file to write; {seed} in it stands for each of the seeds"
    )
    parser.add_argument("--data", type=Path, default=DATA, help="folder of real data")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0], help="worlds of generated data, a table each")
    options = parser.parse_args()
    if options.table in TABLES:
        write(TABLES[options.table](options.data), options.output)
        return
    if len({str(options.output).format(seed=seed) for seed in options.seeds}) < len(options.seeds):
        parser.error("several seeds want {seed} in the name of the output")
    for seed in options.seeds:
        write(GENERATED[options.table](seed), Path(str(options.output).format(seed=seed)))


if __name__ == "__main__":
    main()
