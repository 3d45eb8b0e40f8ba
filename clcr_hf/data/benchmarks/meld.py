"""MELD: 13,708 utterances of 1,433 dialogues from the series Friends, with one of seven emotions and a sentiment each.

The folder as its authors' archive `MELD.Raw.tar.gz` and the three inside it unpack:

    train_sent_emo.csv, dev_sent_emo.csv, test_sent_emo.csv     9,989, 1,109 and 2,610 rows
    train_splits/dia0_utt0.mp4
    dev_splits_complete/dia0_utt0.mp4
    output_repeated_splits_test/dia0_utt0.mp4

Each part may also lie in a folder of its split (`train/train_splits`, `train/train_sent_emo.csv`). Dialogues are
counted anew in every split.
"""

import os
from pathlib import Path

from datasets import ClassLabel, DatasetDict, Value

from ..columns import DataFormatError, check_choice, logger
from ..files import find_file
from ..source import Row, Source, has_files
from .lists import clip_splits, file_column, present_rows, read_records

MELD_EMOTIONS = ("neutral", "surprise", "fear", "sadness", "joy", "disgust", "anger")
MELD_SENTIMENTS = ("neutral", "positive", "negative")
CLASSES = {"emotion": MELD_EMOTIONS, "sentiment": MELD_SENTIMENTS}
# Split to its name in the archive and its folder of clips.
PARTS = {
    "train": ("train", "train_splits"),
    "validation": ("dev", "dev_splits_complete"),
    "test": ("test", "output_repeated_splits_test"),
}
# The first cannot be decoded in the release, the second is not in it.
KNOWN_GAPS = ("train/dia125_utt3", "validation/dia110_utt7")
COLUMNS = ("Utterance", "Speaker", "Emotion", "Sentiment", "Dialogue_ID", "Utterance_ID", "Season", "Episode")
_TIMES = {"episode_start": "StartTime", "episode_end": "EndTime"}
# The lists hold characters of Windows-1252 that were taken for Latin-1 (an apostrophe as U+0092).
_MENDED = {code: bytes([code]).decode("cp1252", "ignore") for code in range(0x80, 0xA0)}
_ADVICE = "Unpack train.tar.gz, dev.tar.gz and test.tar.gz there"


def load_meld(root: str | os.PathLike, *, labels: str = "emotion", skip_missing: bool = False) -> DatasetDict:
    """Load MELD on the authors' splits.

    Args:
        root: the folder, see above, or the one that holds it as `MELD.Raw`.
        labels: "emotion" (seven classes) or "sentiment" (three).
        skip_missing: drop utterances whose clip is absent or empty, with a warning, where the default is an error.
            The two of `KNOWN_GAPS` are kept without their clip in any case: published figures count their texts.

    Returns:
        DatasetDict with columns
            id (str, `train/dia0_utt0`),
            text (str),
            media (`Video(decode=False)`; None for `KNOWN_GAPS`),
            label (ClassLabel),
            emotion or sentiment (str, the other of the two),
            dialogue (str, `train/dia0`) and utterance (int64), for `as_dialogues`,
            speaker, season, episode (str),
            episode_start, episode_end (str, `00:16:16,059`: where the clip lies in the episode).

    Raises:
        DataFormatError: no such layout, columns absent, rows with unknown classes or numbers (numbered), an utterance
            twice, absent clips (counted, the first five named).
    """
    check_choice("labels", labels, CLASSES)
    folder = Path(os.path.abspath(root))
    folder = folder / "MELD.Raw" if (folder / "MELD.Raw").is_dir() else folder
    parts = {split: _read_list(folder, split, labels) for split in PARTS}
    gaps = [row for rows in parts.values() for row in rows if row["id"] in KNOWN_GAPS]
    for row in gaps:
        row |= {"media": None, "fault": None}
    if gaps:
        names = ", ".join(row["id"] for row in gaps)
        logger.warning("%s: the release has no clip that plays of %s; their texts are kept", folder, names)
    parts = present_rows(folder, parts, skip_missing, _ADVICE)
    other = "sentiment" if labels == "emotion" else "emotion"
    columns = ("id", "text", "media", "label", other, "dialogue", "utterance", "speaker", "season", "episode", *_TIMES)
    classes = ClassLabel(names=list(CLASSES[labels]))
    return clip_splits(parts, columns, label=classes, utterance=Value("int64"))


def _read_list(folder: Path, split: str, labels: str) -> list[Row]:
    name, place = PARTS[split]
    path = find_file(folder, (f"{name}_sent_emo.csv", f"{name}/{name}_sent_emo.csv"))
    if path is None:
        raise DataFormatError(f"{folder}: no {name}_sent_emo.csv; give the folder MELD.Raw")
    rows = read_records(path, (*COLUMNS, *_TIMES.values()), lambda line: _row(split, labels, line))
    clips = folder / name / place if (folder / name / place).is_dir() else folder / place
    return [row | file_column("media", clips / row["clip"], folder=folder) for row in rows]


def _row(split: str, labels: str, line: dict[str, str]) -> Row:
    dialogue, utterance = int(line["Dialogue_ID"]), int(line["Utterance_ID"])
    row: Row = {"id": f"{split}/dia{dialogue}_utt{utterance}", "clip": f"dia{dialogue}_utt{utterance}.mp4"}
    row |= {"dialogue": f"{split}/dia{dialogue}", "utterance": utterance}
    row |= {"text": line["Utterance"].translate(_MENDED).strip() or None}
    row |= {name: line[name.capitalize()] for name in ("speaker", "season", "episode")}
    row |= {name: line[column] for name, column in _TIMES.items()}
    for kind, classes in CLASSES.items():
        row[kind] = line[kind.capitalize()].strip().lower()
        if row[kind] not in classes:
            raise ValueError(f"{kind} {row[kind]!r} is none of {', '.join(classes)}")
    return row | {"label": CLASSES[labels].index(row[labels])}


SOURCE = Source(
    title="MELD {labels}",
    about="MELD: clips of utterances and lists",
    read=load_meld,
    recognise=lambda path: has_files("dev_sent_emo.csv")(path) or has_files("MELD.Raw")(path),
)
