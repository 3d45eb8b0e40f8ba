"""A small copy of CMU-MOSI or CMU-MOSEI as the CMU-MultimodalSDK publishes them, with the quirks of the real files."""

import json
from pathlib import Path
from typing import Any

import numpy as np

from clcr_hf.data.benchmarks.csd_files import standard_folds

WORD = 0.25  # seconds; every third word is followed by a pause of this length
WORDS_A_SEGMENT = 6
POSITIVE = ("great", "loved", "fun", "brilliant")
NEGATIVE = ("bad", "boring", "hated", "weak")
NEUTRAL = ("um", "the", "film", "was", "there", "it's")
RATES = {"COVAREP": 100.0, "FACET": 30.0}
OUTSIDE = "-NFrJFQijFE"  # a video that has labels and is in none of today's folds


def write_csd(
    path: Path, root: str, entries: dict[str, tuple[Any, Any]], metadata: dict[str, Any] | None = None
) -> Path:
    """`entries`: name to (features, intervals). Metadata are written as they are, so JSON must be JSON already."""
    import h5py

    path.parent.mkdir(parents=True, exist_ok=True)
    if metadata is None:
        metadata = {"root name": json.dumps(root), "md5": "null", "computational sequence version": "1.0"}
    with h5py.File(path, "w") as file:
        group = file.create_group(root)
        for name, value in metadata.items():
            group.create_dataset(f"metadata/{name}", data=np.array([value], dtype=object), dtype=h5py.string_dtype())
        group.require_group("data")
        for name, (features, intervals) in entries.items():
            entry = group.create_group(f"data/{name}")
            options = {"compression": "gzip"} if np.asarray(features).dtype.kind == "f" and np.size(features) else {}
            entry.create_dataset("features", data=features, **options)
            entry.create_dataset("intervals", data=intervals)
    return path


def make_csd(root: Path, *, dataset: str = "mosi", videos: tuple[int, int, int] = (4, 2, 2), segments: int = 3) -> Path:
    """Write labels, words, word vectors, COVAREP and FACET under `root` with real video ids, and return `root`.

    Each video has `segments` good segments of six words with their pauses; what it has beyond these:
        the first video of train: a segment without length, one that repeats an interval, one without a word;
        the second: no FACET at all (the file lacks the video);
        the third: COVAREP with -inf and NaN, and a word without FACET frames;
        MOSEI: a segment that starts before 0, and a labelled video that is in no fold.
    Videos are in the files that have no label; metadata of the words are no JSON; words are bytes.
    """
    rng = np.random.default_rng(7)
    folds = standard_folds(dataset)
    ids = [video for split, count in zip(folds, videos, strict=True) for video in folds[split][:count]]
    files: dict[str, dict[str, tuple[Any, Any]]] = {name: {} for name in ("labels", "words", "vectors", *RATES)}
    for number, video in enumerate([*ids, *([OUTSIDE] if dataset == "mosei" else [])]):
        _add_video(files, video, number, dataset, segments, rng)
    files["FACET"].pop(ids[1], None)
    covarep = files["COVAREP"][ids[2 % len(ids)]][0]
    covarep[3, 1], covarep[5, 2], covarep[7, 0] = -np.inf, np.nan, np.inf
    features, times = files["FACET"][ids[2 % len(ids)]]
    blind = (times[:, 1] > 0.5 + WORD) & (times[:, 0] < 0.5 + 2 * WORD)  # the second word
    files["FACET"][ids[2 % len(ids)]] = features[~blind], times[~blind]
    files["COVAREP"]["unlabelled00"] = np.zeros((4, 74), np.float32), _frames(4, 100.0)
    for name, (file, root_name) in _names(dataset).items():
        metadata = {"root name": root_name, "md5": "None", "creator": "asdf"} if name == "words" else None
        write_csd(root / file, root_name, files[name], metadata)
    return root


def _names(dataset: str) -> dict[str, tuple[str, str]]:
    if dataset == "mosei":
        names = {
            "labels": ("Labels", "All Labels"),
            "words": ("TimestampedWords", "words"),
            "vectors": ("TimestampedWordVectors", "glove_vectors"),
            "COVAREP": ("COVAREP", "COVAREP"),
            "FACET": ("VisualFacet42", "FACET 4.2"),
        }
    else:
        names = {
            "labels": ("Opinion_Labels", "Opinion Segment Labels"),
            "words": ("ModifiedTimestampedWords", "CMU_MOSI_ModifiedTimestampedWords"),
            "vectors": ("TimestampedWordVectors_1.1", "CMU_MOSI_TimestampedWordVectors_1.1"),
            "COVAREP": ("COVAREP", "COVAREP"),
            "FACET": ("Visual_Facet_41", "CMU_MOSI_VisualFacet_4.1"),
        }
    return {name: (f"CMU_{dataset.upper()}_{file}.csd", root) for name, (file, root) in names.items()}


def _frames(count: int, rate: float) -> np.ndarray:
    return np.stack([np.arange(count), np.arange(1, count + 1)], axis=1) / rate


def _add_video(
    files: dict[str, dict[str, tuple[Any, Any]]],
    video: str,
    number: int,
    dataset: str,
    segments: int,
    rng: np.random.Generator,
) -> None:
    emotional = dataset == "mosei"
    words, times, spans, scores = [], [], [], []
    clock = 0.5  # nothing is said at first
    for i in range(segments):
        score = float(np.round(rng.uniform(0.4, 3), 1)) * (-1) ** (i + number)
        start = clock
        for j in range(WORDS_A_SEGMENT):
            words.append(str(rng.choice(NEUTRAL if j % 2 else POSITIVE if score > 0 else NEGATIVE)))
            times.append((clock, clock + WORD))
            clock += WORD
            if j % 3 == 2:
                words.append("sp")
                times.append((clock, clock + WORD))
                clock += WORD
        spans.append((start, clock))
        scores.append(score)
    if emotional and number == 1:
        spans[0] = (-0.4, spans[0][1])
    if number == 0:
        spans += [(clock, clock), spans[0], (clock, clock + 1.0)]  # no length, repeated, no word
        scores += [0.2, scores[0], 0.0]
    labels = np.array(scores, np.float32)[:, None]
    if emotional:
        # Ratings in thirds, most of them 0.
        ratings = rng.integers(0, 10, (len(labels), 6)) / 3 * (rng.random((len(labels), 6)) < 0.3)
        labels = np.concatenate([labels, ratings.astype(np.float32)], axis=1)
    end = clock + 1.5
    mood = np.array(scores[:segments])
    facet_width = 35 if emotional else 47
    files["labels"][video] = labels, np.array(spans, np.float32)
    files["words"][video] = np.array(words, "S")[:, None], np.array(times)
    files["vectors"][video] = rng.normal(size=(len(words), 300)).astype(np.float32), np.array(times)
    for name, width in (("COVAREP", 74), ("FACET", facet_width)):
        count = int(end * RATES[name])
        values = rng.normal(size=(count, width)).astype(np.float32)
        which = np.clip(((np.arange(count) / RATES[name] - 0.5) // (8 * WORD)).astype(int), 0, segments - 1)
        values[:, 0] += mood[which]
        files[name][video] = values, _frames(count, RATES[name])
