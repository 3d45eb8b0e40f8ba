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
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from datasets import Audio, ClassLabel, DatasetDict, Image, List, Value, Video

from ..arrow import typed_splits
from ..columns import (
    DataFormatError,
    carve_split,
    check_choice,
    in_two_splits,
    logger,
    media_file,
    name_some,
    warn_of,
)
from ..files import find_file, frame_files, named_fault, present_rows, read_clips
from ..source import Source, has_files

CREMAD_EMOTIONS = ("NEU", "HAP", "SAD", "FEA", "DIS", "ANG")
CREMAD_SENTENCES = ("IEO", "TIE", "IOM", "IWW", "TAI", "MTI", "IWL", "ITH", "DFA", "ITS", "TSI", "WSI")
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
_CLIP = re.compile(r"(\d{4})_([A-Z]{3})_([A-Z]{3})_([A-Z]{1,2})", re.ASCII)
_VIDEO_SUFFIXES = (".flv", ".mp4", ".avi", ".mov", ".mkv")
_ADVICE = "Check the folder (a clone needs Git LFS for the media)"


@dataclass(frozen=True)
class _Clip:
    """One clip: its name, the parts of it, the label (an emotion), where its files are and what is wrong with them."""

    name: str
    actor: str
    sentence: str
    emotion: str
    level: str
    label: str
    audio: str | None = None
    mute: bool = False
    video: str | None = None
    images: tuple[str, ...] = ()
    fault: str | None = None


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
    lists = _find_lists(folder, {"train": train_list, "validation": validation_list, "test": test_list}, split)
    parts = _read_lists(lists) if lists else {"train": _clips_on_disk(folder)}
    found = {name: [_with_files(folder, source, clip) for clip in clips] for name, clips in parts.items()}
    parts = present_rows(folder, found, lambda clip: clip.fault, skip_missing, _ADVICE)
    _warn_of_sound(folder, [clip for clips in parts.values() for clip in clips])
    if split == "actors" or not lists:
        if split != "actors":
            text = "%s: no train.csv and test.csv; actors are split by seed %d, not the split that papers report on"
            logger.warning(text, folder, seed)
        whole = {"train": [clip for clips in parts.values() for clip in clips]}
        parts = carve_split(whole, lambda clip: clip.actor, test_fraction, seed, new="test")
    if "validation" not in parts:
        parts = carve_split(parts, lambda clip: clip.actor, validation_fraction, seed)
    types: dict[str, Any] = {"id": Value("string"), "audio": Audio(decode=False)}
    videos = source.name == "VideoFlash"
    types |= {"video": Video(decode=False)} if videos else {"images": List(Image(decode=False))}
    types |= {"label": ClassLabel(names=list(CREMAD_EMOTIONS))}
    types |= dict.fromkeys(("actor", "sentence", "level"), Value("string"))
    return typed_splits(types, {name: list(map(_row, clips)) for name, clips in parts.items()})


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


def _find_lists(folder: Path, given: Mapping[str, str | os.PathLike | None], split: str) -> dict[str, Path]:
    lists = {name: Path(path) for name, path in given.items() if path is not None}
    if not lists:
        for place in (folder, folder / "CREMAD"):
            found = {name: find_file(place, names) for name, names in LISTS.items()}
            lists = lists or {name: path for name, path in found.items() if path is not None}
    if split == "lists" and not lists:
        raise DataFormatError(f"{folder}: no train.csv and test.csv; name the lists, or take split='actors'")
    if lists and "train" not in lists:
        raise DataFormatError(f"{folder}: a list of {', '.join(lists)} but none of train; name it with train_list")
    return lists


def _read_lists(lists: Mapping[str, Path]) -> dict[str, list[_Clip]]:
    parts = {name: read_clips(path, _listed) for name, path in lists.items()}
    leaks = in_two_splits({name: [clip.name for clip in clips] for name, clips in parts.items()})
    places = ", ".join(map(str, lists.values()))
    if leaks:
        raise DataFormatError(f"{places}: {len(leaks)} clips are in two lists: {name_some(leaks)}")
    listed = [clip for clips in parts.values() for clip in clips]
    differing = [f"{clip.name} as {clip.label}" for clip in listed if clip.label != clip.emotion]
    warn_of(places, "clips have another emotion in the list than in their name, and the list's is taken", differing)
    return parts


def _listed(number: int, line: str) -> _Clip | None:
    """The clip of a line `1001_DFA_ANG_XX,ANG`."""
    fields = [field.strip().strip('"') for field in line.split(",")]
    clip = _parse(fields[0].removesuffix(".wav").removesuffix(".flv"))
    if clip is None and number == 1:
        return None  # a header
    if clip is None or len(fields) != 2:
        raise ValueError(f"{line!r} is not of the form 1001_DFA_ANG_XX,ANG")
    if fields[1].upper() not in CREMAD_EMOTIONS:
        raise ValueError(f"{fields[1]!r} is none of {' '.join(CREMAD_EMOTIONS)}")
    return replace(clip, label=fields[1].upper())


def _parse(name: str) -> _Clip | None:
    """Clip of a name such as 1001_DFA_ANG_XX; None for any other. The real set once had a level X for XX."""
    match = _CLIP.fullmatch(name)
    if match is None:
        return None
    actor, sentence, emotion, level = match.groups()
    level = "XX" if level == "X" else level
    if emotion not in CREMAD_EMOTIONS or level not in CREMAD_LEVELS:
        return None
    return _Clip(f"{actor}_{sentence}_{emotion}_{level}", actor, sentence, emotion, level, emotion)


def _clips_on_disk(folder: Path) -> list[_Clip]:
    """Every clip that has an audio file, with the label of its name."""
    files = sorted(path.stem for path in (folder / "AudioWAV").glob("*.wav") if not path.name.startswith("."))
    parsed = {name: _parse(name) for name in files}
    odd = [name for name, clip in parsed.items() if clip is None]
    warn_of(folder, "names are not those of CREMA-D and are passed over", odd)
    clips = {clip.name: clip for clip in parsed.values() if clip is not None}
    if not clips:
        raise DataFormatError(f"{folder / 'AudioWAV'}: no files named like 1001_DFA_ANG_XX.wav")
    return list(clips.values())


# ---------------------------------------------------------------------------------------------------------------------
# Their files


def _with_files(folder: Path, source: Path, clip: _Clip) -> _Clip:
    names = [clip.name, clip.name[:-1]] if clip.level == "XX" else [clip.name]
    audio, fault = _first([str(folder / "AudioWAV" / f"{name}.wav") for name in names])
    clip = replace(clip, audio=audio, mute=_has_no_samples(audio), fault=fault)
    if source.name == "VideoFlash":
        video, fault = _first([str(source / f"{name}{suffix}") for name in names for suffix in _VIDEO_SUFFIXES])
        return replace(clip, video=video, fault=clip.fault or fault)
    images = next(filter(None, (frame_files(source / name) for name in names)), [])
    fault = None if images else f"{source / clip.name} (no frames)"
    return replace(clip, images=tuple(images), fault=clip.fault or fault)


def _first(paths: Sequence[str]) -> tuple[str | None, str | None]:
    """The first path that can be used and None; or None and the path and fault of one that cannot, if possible one
    that is there."""
    faults = {path: named_fault(path) for path in paths}
    usable = next((path for path, fault in faults.items() if fault is None), None)
    return usable, None if usable else next((fault for path, fault in faults.items() if fault != path), paths[0])


def _warn_of_sound(folder: Path, clips: Sequence[_Clip]) -> None:
    known = [f"{clip.name} ({KNOWN_FAULTS[clip.name]})" for clip in clips if clip.name in KNOWN_FAULTS]
    warn_of(folder, "clips are known to be faulty and are kept", known)
    mute = [clip.name for clip in clips if clip.mute]
    warn_of(folder, "audio files hold a header and no samples; their audio is None", mute)


def _has_no_samples(path: str | None) -> bool:
    if path is None or os.path.getsize(path) > 200:  # more than any header
        return False
    try:
        with wave.open(path) as file:
            return file.getnframes() == 0
    except (wave.Error, EOFError):
        return False  # broken in another way, which whoever decodes it will say


def _row(clip: _Clip) -> dict[str, Any]:
    row = {name: getattr(clip, name) for name in ("actor", "sentence", "level")}
    row |= {"id": clip.name, "audio": None if clip.mute else media_file(clip.audio), "video": media_file(clip.video)}
    images = [media_file(path) for path in clip.images]
    return row | {"images": images, "label": CREMAD_EMOTIONS.index(clip.label)}


SOURCE = Source(
    "cremad",
    title="CREMA-D",
    about="CREMA-D: audio, videos or frames, and lists",
    read=load_cremad,
    recognise=has_files("AudioWAV"),
)
