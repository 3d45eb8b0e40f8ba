"""A long clip in windows: decoded once, from its beginning to its end, and never more of it in memory than the windows
that are open at one time. A window is what `load_media` gives for its `start` and `end`."""

import math
from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from .media import (
    MAX_PIXELS,
    MediaClip,
    MediaError,
    MediaSource,
    VideoClip,
    _damaged,
    _Frames,
    _import_av,
    _name,
    _open,
    _openable,
    _Plan,
    _Samples,
    _Scan,
    _scan,
    _tracks,
)

# A rest of the clip shorter than this many seconds has no window of its own: it joins the last one.
_SHORTEST = 0.1

Span = tuple[float, float]


def window_spans(seconds: float, window: float, every: float | None = None, start: float = 0.0) -> list[Span]:
    """
    Where windows lie in a clip, in seconds: one begins each `every` seconds, until one reaches the clip's end.

    Args:
        seconds: where the clip ends.
        window: length of a window. The last one is as long as the clip lasts; a rest of less than a tenth of a second
            joins the window before it.
        every: from the beginning of a window to that of the next; default: `window`.
        start: where the first window begins.

    Raises:
        ValueError: lengths that are not positive, or a start behind the clip's end.
    """
    every = window if every is None else every
    if not (0 < window < math.inf and 0 < every < math.inf):
        raise ValueError(f"window and every are positive seconds, got {window:g} and {every:g}")
    if start >= seconds:
        raise ValueError(f"the first window is to start at {start:g} s and the clip ends at {seconds:.2f} s")
    spans: list[Span] = []
    while True:
        begin = start + len(spans) * every
        if spans and (begin > seconds - _SHORTEST or spans[-1][1] >= seconds):
            break
        end = begin + window
        spans.append((begin, seconds if end > seconds - _SHORTEST else end))
    return spans


def read_windows(
    source: MediaSource,
    spans: Sequence[Span],
    *,
    num_frames: int | None = None,
    fps: float | None = None,
    sampling_rate: int | None = None,
    video: bool = True,
    audio: bool = True,
) -> Iterator[MediaClip]:
    """
    Frames and audio of each window of a clip, in order.

    The file is decoded once, in order, whatever its container, so that time grows with its length and memory does not:
    at any moment only windows that have begun and have not ended are held.

    Args:
        source: path, bytes, or binary file object.
        spans: begin and end of each window in seconds; begins rise, and so do ends.
        num_frames, fps, sampling_rate: of each window, see `load_media`.
        video, audio: False leaves a track alone.

    Yields:
        A `MediaClip` a window: frames with their times in the clip (not in the window), and the audio. None for a track
        that is not there or has nothing in the window.

    Raises:
        MediaError: as `load_media`.
    """
    name = _name(source)
    reading = _Plan(num_frames=num_frames, fps=fps, sampling_rate=sampling_rate, video=video, audio=audio)
    stream = _openable(source, name)
    av = _import_av()
    try:
        scan = _scan(av, stream, reading, name)
        with _open(av, stream) as container:
            tracks = _WindowTracks(container, reading, spans, scan, name)
            for index in range(len(spans)):
                yield tracks.take(index)
    except (av.error.FFmpegError, EOFError) as error:
        raise _damaged(name, getattr(error, "strerror", None) or str(error)) from error


class _WindowTracks:
    """Decodes an open file as far as each window needs."""

    def __init__(self, container: Any, plan: _Plan, spans: Sequence[Span], scan: _Scan, name: str):
        video, audio = _tracks(container)
        self.video = _WindowFrames(spans, plan, scan.video_end, name) if plan.video and video is not None else None
        rate = plan.sampling_rate or (audio.rate if audio is not None else 0)
        self.audio = _WindowAudio(spans, rate, name) if plan.audio and audio is not None else None
        sinks = {video: self.video, audio: self.audio}
        self.sinks = {track.index: sink for track, sink in sinks.items() if track is not None and sink is not None}
        for track in (video, audio):
            if track is not None and track.index in self.sinks and track.codec_context is None:
                raise _damaged(name, f"its {track.type} track has an unknown codec")
        if self.video is not None and video is not None:
            video.codec_context.options = {"max_pixels": str(MAX_PIXELS)}
        self.origin = scan.origin
        self.packets = container.demux([container.streams[index] for index in self.sinks]) if self.sinks else iter(())

    def take(self, index: int) -> MediaClip:
        """Window `index`, which is forgotten with it."""
        while not all(sink.ready(index) for sink in self.sinks.values()):
            packet = next(self.packets, None)
            if packet is None:
                for sink in self.sinks.values():
                    sink.end()
                break
            sink = self.sinks[packet.stream.index]
            for frame in packet.decode():
                time = None if frame.time is None else float(frame.pts * frame.time_base) - self.origin
                sink.add(frame, time)
        video = self.video.take(index) if self.video is not None else None
        if self.audio is None:
            return MediaClip(video, None, None)
        return MediaClip(video, self.audio.take(index), self.audio.rate)


class _WindowFrames:
    """The frames of the windows that are open."""

    def __init__(self, spans: Sequence[Span], plan: _Plan, video_end: float, name: str):
        self.spans, self.plan, self.video_end, self.name = spans, plan, video_end, name
        self.open: dict[int, _Frames] = {}
        self.begun = 0  # windows that were opened
        self.last: tuple[Any, float] | None = None
        self.ended = False

    def ready(self, index: int) -> bool:
        return self.ended or (index < self.begun and (index not in self.open or self.open[index].done))

    def add(self, frame: Any, time: float | None) -> None:
        if time is None:  # raw streams without time stamps: as many frames later as there were frames
            time = self.last[1] + 1 / 25 if self.last is not None else 0.0
        self._begin(time)
        for sink in self.open.values():
            if not sink.done:
                sink.add(frame, time)
        self.last = (frame, time)

    def _begin(self, time: float) -> None:
        """Opens the windows that begin no later than `time`; each knows the frame that is on screen as it begins."""
        while self.begun < len(self.spans) and self.spans[self.begun][0] <= time:
            start, end = self.spans[self.begun]
            if start < self.video_end:
                sink = _Frames(replace(self.plan, start=start, end=end), self.video_end, self.name)
                sink.last = self.last
                self.open[self.begun] = sink
            self.begun += 1

    def end(self) -> None:
        if not self.ended:
            self._begin(math.inf)
        self.ended = True

    def take(self, index: int) -> VideoClip | None:
        sink = self.open.pop(index, None)
        if sink is None:
            return None
        try:
            return sink.close()
        except MediaError:
            return None


class _WindowAudio:
    """The audio from the beginning of the oldest window that is open, resampled as one piece."""

    def __init__(self, spans: Sequence[Span], rate: int, name: str):
        self.rate = rate
        self.bounds = [(round(begin * rate), round(begin * rate) + round((end - begin) * rate)) for begin, end in spans]
        self.samples = _Samples(_Plan(sampling_rate=rate, video=False), rate, name)
        self.parts: deque[np.ndarray] = deque()
        self.begin = 0  # sample of the clip with which `parts` begin
        self.ended = False

    def ready(self, index: int) -> bool:
        return self.ended or self.samples.position >= self.bounds[index][1]

    def add(self, frame: Any, time: float | None) -> None:
        self.samples.add(frame, time)
        self._collect()

    def end(self) -> None:
        if not self.ended:
            rest = self.samples.close()
            self.parts.append(rest)
        self.ended = True

    def _collect(self) -> None:
        self.parts.extend(part[0] for part in self.samples.parts if part.shape[1])
        self.samples.parts.clear()

    def take(self, index: int) -> np.ndarray | None:
        first, last = self.bounds[index]
        self._forget(first)
        whole = np.concatenate(self.parts) if self.parts else np.zeros(0, np.float32)
        piece = whole[max(first - self.begin, 0) : max(last - self.begin, 0)]
        return np.array(piece, np.float32) if piece.size else None

    def _forget(self, first: int) -> None:
        """Drops what lies before sample `first`: windows begin later and later."""
        while self.parts and self.begin + len(self.parts[0]) <= first:
            self.begin += len(self.parts.popleft())


__all__ = ["read_windows", "window_spans"]
