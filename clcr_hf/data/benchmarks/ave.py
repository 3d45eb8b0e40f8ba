"""AVE (Audio-Visual Event): 4,143 annotated stretches of ten-second clips, 28 kinds of event that are seen and heard.

The folder as its authors share it (paper section 9):

    AVE/<VideoID>.mp4                           4,097 of them: several videos have more than one annotation
    Annotations.txt                             lines `Category&VideoID&Quality&StartTime&EndTime`, perhaps a header
    trainSet.txt, valSet.txt, testSet.txt       lines of the same form: 3,339, 402 and 402

and the features that go with it, where row i is line i of `Annotations.txt`:

    visual_feature.h5   `avadataset` (N, 10, 7, 7, 512), VGG-19 `pool5` of each second, averaged over 16 frames
    audio_feature.h5    `avadataset` (N, 10, 128), VGGish of each second
    labels.h5           `avadataset` (N, 10, 29), one class a second; the last class is the background
    train_order.h5, val_order.h5, test_order.h5     `order`, the rows of each split

Two tasks are set on it: which event a clip holds (28 classes), and which event, or none, each of its ten seconds
holds (29 classes). Figures of one cannot be compared with figures of the other.
"""

import os
from collections import Counter, defaultdict
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from datasets import ClassLabel, DatasetDict, Features, List, Value

from ..columns import check_choice, in_two_splits, logger, raise_problems, replace_non_finite, sequence_feature, warn_of
from ..errors import DataFormatError, format_error
from ..files import find_file, folder_with
from ..source import Row, Rows, Source, find_source, has_files
from ..untrusted.arrays import open_h5, read_h5
from . import class_names
from .lists import clip_splits, file_column, parsed_lines, present_rows

if TYPE_CHECKING:
    import h5py

NUM_SEGMENTS = 10
# In the order of `Annotations.txt`, which is that of the columns of `labels.h5`.
AVE_EVENTS = class_names("ave")
BACKGROUND = len(AVE_EVENTS)
AVE_SEGMENT_CLASSES = (*AVE_EVENTS, "Background")
LISTS = {"train": "trainSet.txt", "validation": "valSet.txt", "test": "testSet.txt"}
ORDERS = {"train": "train_order.h5", "validation": "val_order.h5", "test": "test_order.h5"}
H5_FEATURES = Features(
    id=Value("string"),
    vision_features=sequence_feature("float32", 512),
    audio_features=sequence_feature("float32", 128),
    labels=List(ClassLabel(names=list(AVE_SEGMENT_CLASSES))),
)


class Annotation(NamedTuple):
    """One line of the lists: the event `category` (number in `AVE_EVENTS`) from `start` to `end` seconds."""

    category: int
    video: str
    start: float
    end: float


# ---------------------------------------------------------------------------------------------------------------------
# Videos


def load_ave(root: str | os.PathLike, *, task: str = "segment", skip_missing: bool = False) -> DatasetDict:
    """Load AVE from its videos and lists, on the authors' split.

    A line of the lists is a row. A video with two annotations gives two rows, `<VideoID>` and `<VideoID>#2`, each with
    its own event alone: that is the data set's own convention, and the scores of published work count it so.

    Args:
        root: the folder that holds `trainSet.txt` and `AVE`, or one above it (`AVE_Dataset`).
        task: "segment", a class for each second, or "clip", the event of the clip.
        skip_missing: drop rows whose video is absent or empty, with a warning, where the default is an error.

    Returns:
        DatasetDict with columns
            id (str),
            media (`Video(decode=False)`, frames and audio; some clips have no audio track),
            labels (task "segment": list of 10 ClassLabel, 28 events and Background; second i has the event where its
                middle lies between start and end) or label (task "clip": ClassLabel, 28 events),
            event_start, event_end (float32, seconds, as annotated).

    Raises:
        DataFormatError: no such layout, unreadable lines (numbered), unknown categories, times that are no stretch of
            the clip, the same annotation in two lists, absent videos (counted, the first five named).
    """
    check_choice("task", task, ("segment", "clip"))
    advice = f"give the folder that holds {', '.join(LISTS.values())} and the folder AVE"
    folder = folder_with(Path(root), ["AVE_Dataset"], LISTS["train"], advice)
    lists = {split: read_annotations(folder / name) for split, name in LISTS.items()}
    _check_splits(folder, lists)
    videos, uses = folder / "AVE", Counter[str]()
    parts = {split: [_video_row(videos, each, uses) for each in annotations] for split, annotations in lists.items()}
    parts = present_rows(videos, parts, skip_missing, "Put the videos into the folder AVE as <VideoID>.mp4")
    labels = {"labels": H5_FEATURES["labels"]} if task == "segment" else {"label": ClassLabel(names=list(AVE_EVENTS))}
    types = {**labels, **dict.fromkeys(("event_start", "event_end"), Value("float32"))}
    return clip_splits(parts, ("id", "media", *types), **types)


def _video_row(videos: Path, annotation: Annotation, uses: Counter[str]) -> Row:
    category, video, start, end = annotation
    uses[video] += 1
    # Further annotations of a video, in the order of the lists, are its #2, #3.
    row: Row = {"id": video if uses[video] == 1 else f"{video}#{uses[video]}", "label": category}
    row |= {"labels": segment_labels(start, end, category), "event_start": start, "event_end": end}
    return row | file_column("media", videos / f"{video}.mp4", folder=videos)


def read_annotations(path: str | os.PathLike) -> list[Annotation]:
    """Read one of the lists; a header, blank lines and CRLF are taken in.

    An event that ends where it starts is background throughout (the real list has some). An end after the tenth second
    is kept and reported.

    Raises:
        DataFormatError: lines that cannot be read, with their numbers.
    """
    lines = parsed_lines(path, _parse, "A line is Category&VideoID&Quality&StartTime&EndTime")
    if not lines:
        raise DataFormatError(f"{path}: the list has no annotations")
    annotations = [annotation for annotation, _ in lines]
    late = [each.video for each in annotations if each.end > NUM_SEGMENTS]
    warn_of(path, f"events end after the clip's {NUM_SEGMENTS} seconds; they are cut there", late)
    doubtful = [each.video for each, quality in lines if quality != "good"]
    warn_of(path, "rows have a quality other than good; they are kept", doubtful)
    return annotations


def segment_labels(start: float, end: float, category: int) -> list[int]:
    """The class of each of the ten seconds: `category` where the second's middle lies in [start, end)."""
    return [category if start <= second + 0.5 < end else BACKGROUND for second in range(NUM_SEGMENTS)]


def _parse(_: int, line: str) -> tuple[Annotation, str] | None:
    """An annotation and its quality; None for the header."""
    fields = [field.strip() for field in line.split("&")]
    if len(fields) != 5:
        raise ValueError(f"{len(fields)} fields, not 5")
    name, video, quality, start_text, end_text = fields
    if video == "VideoID":
        return None
    if name not in AVE_EVENTS:
        raise ValueError(f"category {name!r} is none of AVE's {len(AVE_EVENTS)}")
    if not video or "/" in video or "\\" in video:
        raise ValueError(f"{video!r} is no video id")
    start, end = float(start_text), float(end_text)
    if not 0 <= start <= end < float("inf") or start > NUM_SEGMENTS:
        raise ValueError(f"an event from {start_text} s to {end_text} s is no stretch of a {NUM_SEGMENTS} s clip")
    return Annotation(AVE_EVENTS.index(name), video, start, end), quality


def _check_splits(folder: Path, parts: dict[str, list[Annotation]]) -> None:
    leaks = in_two_splits(parts)
    told = [f"{each.video} ({AVE_EVENTS[each.category]}) in {one} and {two}" for each, (one, two) in leaks.items()]
    raise_problems(folder, told, "An annotation belongs to one of the lists")
    again = [each.video for lines in parts.values() for each, count in Counter(lines).items() for _ in range(count - 1)]
    warn_of(folder, "lines repeat a line of the same list; they are kept", again)
    shared = in_two_splits({split: [each.video for each in annotations] for split, annotations in parts.items()})
    warn_of(folder, "videos are in two splits, with different events but the same frames and audio", sorted(shared))


# ---------------------------------------------------------------------------------------------------------------------
# Features


def load_ave_h5(root: str | os.PathLike, **options: Any) -> DatasetDict:
    """The rows of `iter_ave_h5`, with its options, in memory (about 110 MB as means, 4.2 GB as tokens)."""
    return find_source("ave_h5").open(root, **options).load()


def iter_ave_h5(
    root: str | os.PathLike,
    *,
    visual: str = "mean",
    labels_file: str | None = None,
    settle_labels: bool = False,
) -> Iterator[tuple[str, dict[str, Any]]]:
    """The rows of AVE's ready features one at a time with their split, in constant memory; features are arrays.

    Args:
        root: the folder of the `.h5` files, or the one above its `data`.
        visual: "mean" averages the 7 x 7 cells of each second, giving 10 vectors; "tokens" keeps them, second by second
            and row by row, giving 490.
        labels_file: by default `labels.h5`, else `right_labels.h5` (a corrected file that later codes share).
        settle_labels: a second with two classes or none is an error by default. True takes the lowest class, as the
            published scoring does (`argmax`), and background where there is none.

    Yields:
        split and a row with
            id (str: the row's number, `00017`, or `00017_<VideoID>` where `Annotations.txt` lies beside with N lines),
            vision_features (10 or 490, 512) float32,
            audio_features (10, 128) float32,
            labels (list of 10 ClassLabel, 28 events and Background).
        NaN and infinity in features become 0 and are reported.

    Raises:
        DataFormatError: before the first row: absent files or keys, wrong shapes, rows out of range, in two splits or
            twice in one, seconds without one class.
        ImportError: h5py is not installed.
    """
    check_choice("visual", visual, ("mean", "tokens"))
    folder = folder_with(Path(root), ["data"], "visual_feature.h5", "give the folder that holds AVE's .h5 files")
    labels_path = folder / labels_file if labels_file else find_file(folder, ("labels.h5", "right_labels.h5"))
    if labels_path is None:
        raise DataFormatError(f"{folder}: no labels.h5; it has the classes of the seconds")
    with ExitStack() as stack:
        paths = (folder / "visual_feature.h5", folder / "audio_feature.h5", labels_path)
        frames, sounds, hot = (_dataset(stack, path, "avadataset") for path in paths)
        _check_shapes(folder, frames, sounds, hot)
        labels = _settled(labels_path, read_h5(hot), settle_labels)
        orders = _read_orders(folder, stack, len(labels))
        ids = _row_ids(folder, len(labels))
        replaced: Counter[str] = Counter()
        for split, index in ((split, index) for split, order in orders.items() for index in order):
            row: Row = {"id": ids[index]}
            for name, dataset in (("vision_features", frames), ("audio_features", sounds)):
                with format_error(f"{dataset.file.filename}: row {index} cannot be read", OSError, RuntimeError):
                    row[name], bad = replace_non_finite(dataset[index])
                replaced[name] += bad
            cells = row["vision_features"]
            row["vision_features"] = cells.mean((1, 2)) if visual == "mean" else cells.reshape(-1, 512)
            yield split, row | {"labels": labels[index].tolist()}
        for name, count in (+replaced).items():
            logger.warning("%s: %d values of %s are NaN or infinite; they are set to 0", folder, count, name)


def _dataset(stack: ExitStack, path: Path, key: str) -> "h5py.Dataset":
    if not path.is_file():
        raise DataFormatError(f"{path}: no such file")
    file = stack.enter_context(open_h5(path))
    if key not in file:
        raise DataFormatError(f"{path}: no dataset {key!r}; it has {', '.join(file) or 'nothing'}")
    dataset = file[key]
    if not hasattr(dataset, "shape"):
        raise DataFormatError(f"{path}: {key!r} is a group, not a dataset")
    return dataset


def _check_shapes(folder: Path, frames: "h5py.Dataset", sounds: "h5py.Dataset", hot: "h5py.Dataset") -> None:
    number = len(hot) if hot.ndim else 0
    problems = []
    for dataset, last in ((frames, (7, 7, 512)), (sounds, (128,)), (hot, (len(AVE_SEGMENT_CLASSES),))):
        if dataset.shape != (wanted := (number, NUM_SEGMENTS, *last)):
            problems.append(f"{Path(dataset.file.filename).name} is {dataset.shape}, not {wanted}")
    raise_problems(folder, problems)
    for dataset in (frames, sounds):
        read_h5(dataset, rows=slice(0, 1))  # checks storage, type and every chunk, so that rows can be taken one by one


def _settled(path: Path, hot: np.ndarray, settle: bool) -> np.ndarray:
    """(N, 10) classes from (N, 10, 29) zeros and ones."""
    if not np.isin(hot, (0, 1)).all():
        raise DataFormatError(f"{path}: values other than 0 and 1; each second should mark one class")
    counts = hot.sum(-1)
    faults = [f"row {i}, second {k}: {int(counts[i, k])} classes" for i, k in np.argwhere(counts != 1)[:100].tolist()]
    if faults and not settle:
        raise_problems(path, faults, "Pass settle_labels=True to take the lowest class, or background for none")
    if faults:
        text = "%s: %d seconds have several classes and %d none; the lowest class and background are taken"
        logger.warning(text, path, (counts > 1).sum(), (counts == 0).sum())
    return np.where(counts == 0, BACKGROUND, hot.argmax(-1)).astype(np.int64)


def _read_orders(folder: Path, stack: ExitStack, number: int) -> dict[str, list[int]]:
    orders: dict[str, list[int]] = {}
    for split, name in ORDERS.items():
        values = read_h5(_dataset(stack, folder / name, "order"))
        if values.dtype.kind not in "iuf" or values.ndim != 1:
            raise DataFormatError(f"{folder / name}: wanted row numbers (n,), found {values.dtype} {values.shape}")
        if not ((values >= 0) & (values < number) & (values == np.floor(values))).all():
            raise DataFormatError(f"{folder / name}: row numbers must be whole and below {number}, the rows there are")
        orders[split] = values.astype(np.int64).tolist()
    owners: dict[int, list[str]] = defaultdict(list)
    for split, index in ((split, index) for split, order in orders.items() for index in order):
        owners[index].append(split)
    problems = [f"row {index} is in {' and in '.join(found)}" for index, found in owners.items() if len(found) > 1]
    raise_problems(folder, problems, "A row belongs once to one split")
    return orders


def _row_ids(folder: Path, number: int) -> list[str]:
    """Row numbers, with the video's id where the full list lies beside and has as many lines."""
    path = folder / "Annotations.txt"
    annotations = read_annotations(path) if path.is_file() else []
    if len(annotations) == number:
        return [f"{i:05d}_{annotation.video}" for i, annotation in enumerate(annotations)]
    if annotations:
        logger.warning("%s: %d lines for %d rows of features; ids are row numbers", path, len(annotations), number)
    return [f"{i:05d}" for i in range(number)]


def _h5_rows(root: str | os.PathLike, **options: Any) -> Rows:
    return Rows(H5_FEATURES, lambda: iter_ave_h5(root, **options))


SOURCE = Source(
    title="AVE",
    about="AVE: videos and lists",
    read=load_ave,
    recognise=has_files("trainSet.txt", "valSet.txt", "testSet.txt"),
    segments=True,
)
H5_SOURCE = Source(
    title="AVE features",
    about="AVE: the ready .h5 features",
    read=_h5_rows,
    parameters_of=(iter_ave_h5,),
    recognise=has_files("visual_feature.h5"),
    segments=True,
)
