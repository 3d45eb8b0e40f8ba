"""CREMA-D: 7,442 clips of 91 actors who say one of twelve sentences in one of six emotions.

The folder, as the authors' repository has it, with frames beside it as the preprocessing of the usual audio-visual
codes leaves them (paper section 8):

    AudioWAV/1001_DFA_ANG_XX.wav
    VideoFlash/1001_DFA_ANG_XX.flv
    Image-01-FPS/1001_DFA_ANG_XX/00000.jpg
    train.csv, test.csv                             lines `1001_DFA_ANG_XX,ANG`, 6,698 and 744 of them

The lists are not the authors' but those that the line of work on balanced audio-visual learning shares. Their actors
are the same in train and test, so figures on them say little about a new speaker; `split="actors"` keeps actors apart.
"""

import os
import re
import wave
from itertools import chain
from pathlib import Path

from datasets import ClassLabel, DatasetDict

from ..columns import DataFormatError, carve_split, check_choice, in_two_splits, logger, media_file, name_some, warn_of
from ..files import frame_files
from ..source import Row, Source, has_files
from .lists import clip_splits, file_column, present_rows, read_clips, split_lists

CREMAD_EMOTIONS = ("NEU", "HAP", "SAD", "FEA", "DIS", "ANG")
CREMAD_LEVELS = ("LO", "MD", "HI", "XX")
# Clips of the real set that exist and decode, but not to what their name says.
KNOWN_FAULTS = {
    "1076_MTI_SAD_XX": "no audio",
    "1076_MTI_NEU_XX": "nearly no audio",
    "1064_TIE_SAD_XX": "no duration",
    "1064_IEO_DIS_MD": "a minute long, with every emotion",
}
LISTS = {
    "train": ("train.csv", "train.txt"),
    "validation": ("val.csv", "valid.csv", "validation.csv", "val.txt", "valid.txt"),
    "test": ("test.csv", "test.txt"),
}
_CLIP = re.compile(
    rf"(?P<actor>\d{{4}})_(?P<sentence>[A-Z]{{3}})_(?P<emotion>{'|'.join(CREMAD_EMOTIONS)})"
    rf"_(?P<level>{'|'.join(CREMAD_LEVELS)})",
    re.ASCII,
)
_VIDEO_SUFFIXES = (".flv", ".mp4", ".avi", ".mov", ".mkv")
_ADVICE = "Check the folder (a clone needs Git LFS for the media)"


def load_cremad(
    root: str | os.PathLike,
    *,
    train_list: str | os.PathLike | None = None,
    validation_list: str | os.PathLike | None = None,
    test_list: str | os.PathLike | None = None,
    split: str = "auto",
    validation_fraction: float = 0.1,
    test_fraction: float = 0.1,
    seed: int = 0,
    skip_missing: bool = False,
    frames: str = "auto",
    fps: int = 1,
) -> DatasetDict:
    """Load CREMA-D.

    Args:
        root: the folder, see above.
        train_list, validation_list, test_list: files with lines `clip,EMOTION`; by default `LISTS` in `root` or in its
            folder `CREMAD`.
        split: "lists" takes the lists' split; "actors" keeps every actor on one side, drawn by `seed` (our own split:
            the authors give none); "auto" is "lists" where there are lists, else "actors" with a warning.
        validation_fraction: share of the training clips, by whole actors, that becomes validation where no list gives
            one; 0 leaves validation out.
        test_fraction: the same for test, with `split="actors"`.
        skip_missing: drop clips whose audio or frames are absent, with a warning, where the default is an error.
        frames: "video" (`VideoFlash`), "images" (`Image-<fps>-FPS`), or "auto": images where their folder is there.
        fps: which folder of frames, as the number in its name.

    Returns:
        DatasetDict with columns
            id (str, the clip's name),
            audio (`Audio(decode=False)`; None where the WAV holds a header and no samples),
            video (`Video(decode=False)`, of which only the frames are meant) or images (list of
                `Image(decode=False)`, in order),
            label (ClassLabel NEU HAP SAD FEA DIS ANG),
            actor, sentence, level (str; level LO, MD, HI or XX).

    Raises:
        DataFormatError: no such layout, unreadable list lines (numbered), unknown emotions, a clip with two labels or
            in two lists, absent files (counted, the first five named; 0 bytes and Git LFS pointers count).
    """
    check_choice("split", split, ("auto", "lists", "actors"))
    folder = Path(os.path.abspath(root))
    if not (folder / "AudioWAV").is_dir():
        raise DataFormatError(f"{folder}: no folder AudioWAV; give the folder that holds AudioWAV and VideoFlash")
    source = _frame_source(folder, frames, fps)
    given = {"train": train_list, "validation": validation_list, "test": test_list}
    lists = split_lists(given, LISTS, folder, folder / "CREMAD")
    if split == "lists" and not lists:
        raise DataFormatError(f"{folder}: no train.csv and test.csv; name the lists, or take split='actors'")
    if lists and "train" not in lists:
        raise DataFormatError(f"{folder}: a list of {', '.join(lists)} but none of train; name it with train_list")
    parts = _read_lists(lists) if lists else {"train": _clips_on_disk(folder)}
    parts = {name: [_with_files(folder, source, row) for row in rows] for name, rows in parts.items()}
    parts = present_rows(folder, parts, skip_missing, _ADVICE)
    rows = list(chain(*parts.values()))
    _look_at_sound(folder, rows)
    if split == "actors" or not lists:
        if split != "actors":
            text = "%s: no train.csv and test.csv; actors are split by seed %d, not the split that papers report on"
            logger.warning(text, folder, seed)
        parts = carve_split({"train": rows}, _actors, test_fraction, seed, new="test")
    parts = carve_split(parts, _actors, validation_fraction, seed)
    seen = "video" if source.name == "VideoFlash" else "images"
    columns = ("id", "audio", seen, "label", "actor", "sentence", "level")
    return clip_splits(parts, columns, label=ClassLabel(names=list(CREMAD_EMOTIONS)))


# ---------------------------------------------------------------------------------------------------------------------
# Which clips


def _frame_source(folder: Path, frames: str, fps: int) -> Path:
    """The folder of videos or of frames that is to be read."""
    images, videos = folder / f"Image-{fps:02d}-FPS", folder / "VideoFlash"
    choices = {"auto": (images, videos), "images": (images,), "video": (videos,)}
    check_choice("frames", frames, choices)
    source = next((path for path in choices[frames] if path.is_dir()), None)
    if source is None:
        raise DataFormatError(f"{folder}: no folder {' or '.join(path.name for path in choices[frames])}")
    return source


def _read_lists(lists: dict[str, Path]) -> dict[str, list[Row]]:
    parts = {name: read_clips(path, _listed) for name, path in lists.items()}
    leaks = in_two_splits({name: [row["id"] for row in rows] for name, rows in parts.items()})
    places = ", ".join(map(str, lists.values()))
    if leaks:
        raise DataFormatError(f"{places}: {len(leaks)} clips are in two lists: {name_some(leaks)}")
    differing = [f"{row['id']} as {row['label']}" for row in chain(*parts.values()) if row["label"] != row["emotion"]]
    warn_of(places, "clips have another emotion in the list than in their name, and the list's is taken", differing)
    return parts


def _listed(number: int, line: str) -> Row | None:
    """The clip of a line `1001_DFA_ANG_XX,ANG`."""
    fields = [field.strip().strip('"') for field in line.split(",")]
    row = _parse(fields[0].removesuffix(".wav").removesuffix(".flv"))
    if row is None and number == 1:
        return None  # a header
    if row is None or len(fields) != 2:
        raise ValueError(f"{line!r} is not of the form 1001_DFA_ANG_XX,ANG")
    if fields[1].upper() not in CREMAD_EMOTIONS:
        raise ValueError(f"{fields[1]!r} is none of {' '.join(CREMAD_EMOTIONS)}")
    return row | {"label": fields[1].upper()}


def _parse(name: str) -> Row | None:
    """Clip of a name such as 1001_DFA_ANG_XX; None for any other. The real set once had a level X for XX."""
    match = _CLIP.fullmatch(f"{name}X" if name.endswith("_X") else name)
    return None if match is None else match.groupdict() | {"id": match[0], "label": match["emotion"]}


def _clips_on_disk(folder: Path) -> list[Row]:
    """Every clip that has an audio file, with the label of its name."""
    files = sorted(path.stem for path in (folder / "AudioWAV").glob("*.wav") if not path.name.startswith("."))
    parsed = {name: _parse(name) for name in files}
    odd = [name for name, row in parsed.items() if row is None]
    warn_of(folder, "names are not those of CREMA-D and are passed over", odd)
    clips = {row["id"]: row for row in parsed.values() if row is not None}
    if not clips:
        raise DataFormatError(f"{folder / 'AudioWAV'}: no files named like 1001_DFA_ANG_XX.wav")
    return list(clips.values())


# ---------------------------------------------------------------------------------------------------------------------
# Their files


def _with_files(folder: Path, source: Path, row: Row) -> Row:
    names = [row["id"], row["id"][:-1]] if row["level"] == "XX" else [row["id"]]
    audio = file_column("audio", *(folder / "AudioWAV" / f"{name}.wav" for name in names))
    if source.name == "VideoFlash":
        seen = file_column("video", *(source / f"{name}{suffix}" for name in names for suffix in _VIDEO_SUFFIXES))
    else:
        images = next(filter(None, (frame_files(source / name) for name in names)), [])
        fault = None if images else f"{source / row['id']} (no frames)"
        seen = {"images": list(map(media_file, images)), "fault": fault}
    label = CREMAD_EMOTIONS.index(row["label"])
    return row | audio | seen | {"fault": audio["fault"] or seen["fault"], "label": label}


def _actors(rows: list[Row]) -> list[str]:
    return [row["actor"] for row in rows]


def _look_at_sound(folder: Path, rows: list[Row]) -> None:
    """Takes None for the audio of files without samples, and warns of these and of the known faults."""
    known = [f"{row['id']} ({KNOWN_FAULTS[row['id']]})" for row in rows if row["id"] in KNOWN_FAULTS]
    warn_of(folder, "clips are known to be faulty and are kept", known)
    mute = [row for row in rows if _has_no_samples(row["audio"]["path"])]
    for row in mute:
        row["audio"] = None
    warn_of(folder, "audio files hold a header and no samples; their audio is None", [row["id"] for row in mute])


def _has_no_samples(path: str) -> bool:
    if os.path.getsize(path) > 200:  # more than any header
        return False
    try:
        with wave.open(path) as file:
            return file.getnframes() == 0
    except (wave.Error, EOFError):
        return False  # broken in another way, which whoever decodes it will say


SOURCE = Source(
    title="CREMA-D",
    about="CREMA-D: audio, videos or frames, and lists",
    read=load_cremad,
    recognise=has_files("AudioWAV"),
)
