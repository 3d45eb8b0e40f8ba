"""CH-SIMS v2: clips of Chinese films, series and shows with a sentiment from -1 to 1, as a whole and by modality.

The folder as its authors' archives unpack, `ch-simsv2s` (4,403 clips with labels) or `ch-simsv2u` (without):

    meta.csv                    video_id, clip_id, text, label, label_T, label_A, label_V, annotation, mode
    Raw/<video_id>/<clip_id>.mp4        clip_id with zeros in front

`mode` is train, valid or test. Features that go with it (`ch-simsv2s.pkl`) are a pickle of the MMSA toolkit: `mmsa`.
"""

import os
from pathlib import Path

from datasets import DatasetDict, Value

from ..columns import DataFormatError, check_choice, split_name
from ..source import Row, Source, has_files
from ..table.values import parse_number
from .lists import clip_splits, file_column, present_rows, read_records

# What each label of the list is of.
LABELS = {"all": "label", "text": "label_T", "audio": "label_A", "vision": "label_V"}
_ADVICE = "Unpack the videos into the folder Raw there"


def load_sims2(root: str | os.PathLike, *, labels: str = "all", skip_missing: bool = False) -> DatasetDict:
    """Load CH-SIMS v2 on the authors' splits.

    Args:
        root: the folder that holds `meta.csv` and `Raw`.
        labels: what `label` is: the sentiment of the clip ("all"), or as annotators felt it from "text", "audio" or
            "vision" alone. The other three are columns of their own.
        skip_missing: drop clips whose file is absent or empty, with a warning, where the default is an error.

    Returns:
        DatasetDict with columns
            id (str, `<video_id>/<clip_id>`),
            text (str),
            media (`Video(decode=False)`, frames and audio),
            label (float32, -1 to 1; absent where no clip has one, as in `ch-simsv2u`),
            label_all, label_text, label_audio, label_vision (float32 or None), those that `label` is not,
            annotation (str: Negative, Weakly Negative, Neutral, ...),
            video (str).

    Raises:
        DataFormatError: no such layout, columns absent, labels that are no numbers of -1 to 1 (numbered), some clips
            labelled and some not, a clip twice, absent files (counted, the first five named).
    """
    check_choice("labels", labels, LABELS)
    folder = Path(os.path.abspath(root))
    wanted = ("video_id", "clip_id", "text", "mode", *LABELS.values())
    rows = read_records(folder / "meta.csv", wanted, lambda line: _row(line, labels))
    unlabelled = sum(row["label"] is None for row in rows)
    if 0 < unlabelled < len(rows):
        raise DataFormatError(f"{folder / 'meta.csv'}: {unlabelled} of {len(rows)} clips have no {LABELS[labels]}")
    parts: dict[str, list[Row]] = {}
    for row in rows:
        # Some tools write the number of a clip without the zeros in front of it.
        files = (folder / "Raw" / row["video"] / f"{row['clip'].zfill(width)}.mp4" for width in (1, 4, 5))
        parts.setdefault(row["split"], []).append(row | file_column("media", *files, folder=folder))
    parts = present_rows(folder, parts, skip_missing, _ADVICE)
    others = [f"label_{name}" for name in LABELS if name != labels]
    label = ["label"] if rows[0]["label"] is not None else []
    scores = dict.fromkeys((*label, *others), Value("float32"))
    return clip_splits(parts, ("id", "text", "media", *scores, "annotation", "video"), **scores, video=Value("string"))


def _row(line: dict[str, str], labels: str) -> Row:
    video, clip = line["video_id"].strip(), line["clip_id"].strip()
    if not video or not clip or {"/", "\\"} & {*video, *clip}:
        raise ValueError(f"{video}/{clip} names no clip")
    row: Row = {"id": f"{video}/{clip}", "video": video, "clip": clip, "split": split_name(line["mode"])}
    row |= {"text": line["text"].strip() or None, "annotation": line.get("annotation") or None}
    scores = {name: _score(column, line[column]) for name, column in LABELS.items()}
    return row | {"label": scores[labels], **{f"label_{name}": score for name, score in scores.items()}}


def _score(column: str, cell: str) -> float | None:
    """The number in a cell, None where it is empty."""
    if not cell or not cell.strip():
        return None
    value = parse_number(cell)
    if value is None or not -1 <= value <= 1:
        raise ValueError(f"{column} {cell!r} is no number between -1 and 1")
    return value


SOURCE = Source(
    title="CH-SIMS v2",
    about="CH-SIMS v2: videos and meta.csv",
    read=load_sims2,
    recognise=has_files("meta.csv", "Raw"),
    label_scale="sentiment",
    label_range=(-1.0, 1.0),
)
