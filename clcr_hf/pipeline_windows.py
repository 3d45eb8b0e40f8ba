"""A long recording as one sample a window: what is seen, heard and said from `start` to `end`."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from .media import MediaClip, VideoClip, media_duration
from .media_windows import Span, read_windows, window_spans
from .modalities import FILE_COLUMNS
from .samples import is_missing, source_of, window_of

# Keys of a sample that go along with the files that are cut into windows.
_BESIDE = ("words", "word_intervals", "start", "end")
_PASSED_OVER = ("id", "label", "labels", "split")


class SampleWindows:
    """
    The windows of a sample, in order, read as they are asked for: dicts with `start` and `end` in seconds of the file,
    and `sample`, an input of [`CLCRPipeline`] (None where the window holds nothing).

    Args:
        sample: `media`, or `video` and `audio`: files as a path, bytes or an open file. `words` with `word_intervals`
            `(W, 2)` in seconds are its transcript: a window's text is the words whose middle lies in it. `start` and
            `end` leave out what is before and after.
        window, every: seconds, see [`window_spans`].
        frames: which frames of a window, see `load_media`; None sees nothing.
        sampling_rate: of its audio; None hears nothing.

    Attributes:
        seconds: where the windows end.
        spans: begin and end of each.
        covered: seconds that lie in one window or more.

    Raises:
        ValueError: no file, or something that cannot be cut into windows.
        MediaError: a file that cannot be read.
    """

    def __init__(
        self,
        sample: Mapping[str, Any],
        window: float,
        every: float | None,
        frames: Mapping[str, Any] | None,
        sampling_rate: int | None,
    ) -> None:
        given = {key: value for key, value in sample.items() if value is not None and key not in _PASSED_OVER}
        self.sample = {key: value for key, value in given.items() if key not in FILE_COLUMNS or not is_missing(value)}
        self._check()
        self.frames, self.sampling_rate = frames, sampling_rate
        files = [key for key in FILE_COLUMNS if key in self.sample]
        start, last = window_of([self.sample, *(self.sample[key] for key in files)], "the input")
        for key in files:
            source = source_of(self.sample[key], key)
            # A stream becomes bytes, as frames and audio are read apart.
            self.sample[key] = source.read() if hasattr(source, "read") else source
        whole = max(media_duration(self.sample[key]) for key in files)
        self.seconds = whole if last is None else min(whole, last)
        self.spans: list[Span] = window_spans(self.seconds, window, every, start)

    @property
    def covered(self) -> float:
        ends = [self.spans[0][0], *(end for _, end in self.spans)]
        return sum(end - max(start, before) for (start, end), before in zip(self.spans, ends, strict=False))

    def __len__(self) -> int:
        return len(self.spans)

    def __iter__(self) -> Iterator[dict[str, Any]]:
        for (start, end), seen, heard in zip(self.spans, self._read("video"), self._read("audio"), strict=True):
            found: dict[str, Any] = {}
            if seen.video is not None:
                found["video"] = VideoClip(seen.video.frames, seen.video.timestamps - start)
            if heard.audio is not None and heard.audio.size:
                found["audio"] = {"array": heard.audio, "sampling_rate": heard.sampling_rate}
            if text := self._text(start, end):
                found["text"] = text
            yield {"start": start, "end": end, "sample": found or None}

    def _check(self) -> None:
        files = [key for key in FILE_COLUMNS if key in self.sample]
        if not files:
            raise ValueError(f"windows are cut of a file: give one of {', '.join(FILE_COLUMNS)}")
        if "text" in self.sample and "words" not in self.sample:
            raise ValueError(
                "a text of the whole recording does not say what is said in each window: give words and word_intervals "
                "(on the command line --subtitles or --transcribe)"
            )
        other = set(self.sample) - {*FILE_COLUMNS, *_BESIDE, "text"}
        if other:
            raise ValueError(f"{', '.join(sorted(other))} cannot be cut into windows; leave it out, or give no window")
        if ("words" in self.sample) != ("word_intervals" in self.sample):
            raise ValueError("words and word_intervals go together")

    def _read(self, track: str) -> Iterator[MediaClip]:
        """A track of each window, read beside the other one where both come from one file."""
        wanted = self.frames if track == "video" else self.sampling_rate
        source = self.sample.get(track, self.sample.get("media"))
        if wanted is None or source is None:
            return (MediaClip(None, None, None) for _ in self.spans)
        tracks = {each: each == track for each in ("video", "audio")}
        return read_windows(source, self.spans, **(self.frames or {}), sampling_rate=self.sampling_rate, **tracks)

    def _text(self, start: float, end: float) -> str:
        words: Sequence[str] = self.sample.get("words", ())
        if not len(words):
            return ""
        middles = np.asarray(self.sample["word_intervals"], np.float64).reshape(-1, 2).mean(axis=1)
        return " ".join(word for word, middle in zip(words, middles, strict=True) if start <= middle < end)


def placed(result: dict[str, Any] | None, window: Mapping[str, Any]) -> dict[str, Any]:
    """The pipeline's answer for a window, with its `start`, `end` and `text`, and all times in seconds of the file;
    None where there was nothing to answer."""
    moved = dict(result or {"error": window.get("error", "nothing in this window is read by the model")})
    if "start" not in window:  # no window, but the whole
        return moved
    begin = window["start"]
    if "segments" in moved:
        parts, length = moved["segments"], window["end"] - begin
        untimed = [segment_place(index, len(parts), length) for index in range(len(parts))]
        moved["segments"] = [_later({**each, **part}, begin) for each, part in zip(untimed, parts, strict=True)]
    if "tokens" in moved:
        moved["tokens"] = {name: [_later(token, begin) for token in each] for name, each in moved["tokens"].items()}
    text = (window["sample"] or {}).get("text")
    return {"start": begin, "end": window["end"], **({"text": text} if text else {}), **moved}


def segment_place(index: int, count: int, seconds: float | None) -> dict[str, Any]:
    """Where segment `index` of `count` lies in a clip of so many seconds."""
    if seconds is None:
        return {"index": index}
    return {"start": index * seconds / count, "end": (index + 1) * seconds / count}


def _later(part: Mapping[str, Any], seconds: float) -> dict[str, Any]:
    times = {key: part[key] + seconds for key in ("time", "start", "end") if key in part}
    return {**part, **times}
