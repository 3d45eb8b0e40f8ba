"""Words with their times from a subtitle file: `.srt`, `.vtt`, or `.json` of a recogniser."""

import html
import json
import os
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

SUBTITLE_SUFFIXES = (".srt", ".vtt", ".json")
Words = tuple[list[str], np.ndarray]
_TIME = r"(?:(\d+):)?(\d{1,2}):(\d{1,2})[.,](\d{1,3})"
_LINE = re.compile(rf"\s*{_TIME}\s*-->\s*{_TIME}")
_MARK = re.compile(r"<[^>]*>|\{\\[^}]*\}")
_STAMP = re.compile(rf"<{_TIME}>")


def read_subtitles(path: str | os.PathLike) -> Words:
    """
    Args:
        path: `.srt` or `.vtt`, whose words are spread evenly over the time of their caption (or begin at their own
            stamps, where a `.vtt` has them); or `.json`: Whisper's (`segments` with `words`), a transformers pipeline's
            (`chunks`), `{"words": [...], "word_intervals": [[start, end], ...]}`, or a list of `{"word", "start",
            "end"}`.

    Returns:
        Words, and float64 `(W, 2)`, seconds of each.

    Raises:
        ValueError: another format, no words, times that do not rise from start to end.
        FileNotFoundError: no such file.
    """
    path = Path(path)
    suffix = path.suffix.lower()
    if suffix not in SUBTITLE_SUFFIXES:
        raise ValueError(f"{path}: subtitles end in {', '.join(SUBTITLE_SUFFIXES)}")
    try:
        text = path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise ValueError(f"{path}: not UTF-8 ({error})") from error
    words, times = _from_json(path, text) if suffix == ".json" else _from_captions(path, text)
    if not words:
        raise ValueError(f"{path}: no words with times in it")
    spans = np.array(times, np.float64).reshape(-1, 2)
    wrong = np.flatnonzero(~(np.isfinite(spans).all(axis=1) & (spans[:, 0] >= 0) & (spans[:, 1] >= spans[:, 0])))
    if wrong.size:
        start, end = spans[wrong[0]]
        raise ValueError(f"{path}: the word {words[wrong[0]]!r} lasts from {start} to {end} s")
    return words, spans


def _from_captions(path: Path, text: str) -> tuple[list[str], list[tuple[float, float]]]:
    words: list[str] = []
    times: list[tuple[float, float]] = []
    for block in re.split(r"\n[ \t]*\n", text.replace("\r\n", "\n").replace("\r", "\n")):
        lines = block.strip("\n").split("\n")
        at = next((index for index, line in enumerate(lines) if "-->" in line), None)
        if at is None:  # the header of a .vtt, a note, a style
            continue
        found = _LINE.match(lines[at])
        if found is None:
            raise ValueError(f"{path}: no times in {lines[at][:60]!r}")
        start, end = _seconds(found.groups()[:4]), _seconds(found.groups()[4:])
        if end < start:
            raise ValueError(f"{path}: a caption ends before it begins: {lines[at][:60]!r}")
        for own, begin, finish in _caption(" ".join(lines[at + 1 :]), start, end):
            words += own
            borders = np.linspace(begin, finish, len(own) + 1).tolist()
            times += zip(borders, borders[1:], strict=False)
    return words, times


def _caption(text: str, start: float, end: float) -> list[tuple[list[str], float, float]]:
    """Stretches of a caption between its own stamps: their words, begin and end."""
    found = _STAMP.split(text)  # a part, the four numbers of a stamp, the next part, ...
    begins = [start]
    for at in range(1, len(found), 5):
        begins.append(min(max(_seconds(found[at : at + 4]), begins[-1]), end))
    ends = [*begins[1:], end]
    split = (html.unescape(_MARK.sub("", part)).split() for part in found[::5])
    return [each for each in zip(split, begins, ends, strict=True) if each[0]]


def _seconds(groups: Sequence[str | None]) -> float:
    hours, minutes, seconds, fraction = groups
    whole = 3600 * int(hours or 0) + 60 * int(minutes or 0) + int(seconds or 0)
    return whole + int((fraction or "0").ljust(3, "0")) / 1000


def _from_json(path: Path, text: str) -> tuple[list[str], list[tuple[float, float]]]:
    try:
        found = json.loads(text)
        if isinstance(found, Mapping) and "word_intervals" in found:
            return [str(word).strip() for word in found["words"]], _paired(found["words"], found["word_intervals"])
        entries = _entries(found)
        words = [str(entry.get("word", entry.get("text"))).strip() for entry in entries]
        times = [tuple(entry.get("timestamp") or (entry["start"], entry["end"])) for entry in entries]
        return words, [(float(start), float(end if end is not None else start)) for start, end in times]
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise ValueError(f"{path}: no words with times as we know them ({type(error).__name__}: {error})") from error


def _paired(words: list[Any], intervals: list[Any]) -> list[tuple[float, float]]:
    if len(words) != len(intervals):
        raise ValueError(f"{len(words)} words and {len(intervals)} intervals")
    return [(float(start), float(end)) for start, end in intervals]


def _entries(found: Any) -> list[Mapping[str, Any]]:
    """Entries of one word each."""
    if isinstance(found, Mapping) and "segments" in found:
        return [word for segment in found["segments"] for word in segment["words"]]
    if isinstance(found, Mapping):
        return found["chunks"] if "chunks" in found else found["words"]
    return list(found)
