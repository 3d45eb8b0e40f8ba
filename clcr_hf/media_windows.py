"""A long clip in windows: decoded once, from its beginning to its end, and never more of it in memory than the windows
that are open at one time. A window is what `load_media` gives for its `start` and `end`."""

import math
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from .limits import MAX_WINDOWS, OWN
from .media import MAX_BYTES, MAX_PIXELS, MediaClip, load_video
from .media_audio import Samples
from .media_decode import Tracks
from .media_files import MediaError, MediaSource, opening
from .media_scan import Plan, scan_packets
from .media_video import FrameClock, Frames, VideoClip, WrongEndError

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
    if (seconds - start) / every > MAX_WINDOWS:
        raise ValueError(
            f"a window every {every:g} s makes more than {MAX_WINDOWS} of {seconds:.2f} s; take longer ones"
        )
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


def read_windows(source: MediaSource, spans: Sequence[Span], **wanted: Any) -> Iterator[MediaClip]:
    """
    Frames and audio of each window of a clip, in order.

    The file is decoded once, in order, whatever its container, so that time grows with its length and memory does not:
    at any moment only windows that have begun and have not ended are held.

    Args:
        source: path, bytes, or binary file object.
        spans: begin and end of each window in seconds; begins rise, and so do ends.
        wanted: of each window, as of `load_media`: `num_frames`, `fps`, `sampling_rate`, `video`, `audio`.

    Yields:
        A `MediaClip` a window: frames with their times in the clip (not in the window), and the audio. None for a track
        that is not there or has nothing in the window.

    Raises:
        MediaError: as `load_media`.
    """
    plan = Plan(min(MAX_PIXELS, OWN.frame_pixels), MAX_BYTES, **wanted)
    with opening(source) as (name, open_container):
        with open_container() as container:
            scan = scan_packets(container, plan, name)
        with open_container() as container:
            tracks = Tracks(container, plan, scan, name)
            frames = None if tracks.clock is None else _WindowFrames(spans, plan, tracks.clock, name)
            samples = None if tracks.rate is None else _WindowAudio(spans, plan, tracks.rate, name)
            sinks = [sink for sink in (frames, samples) if sink is not None]
            packets = tracks.decode(frames, samples)
            for index, (start, end) in enumerate(spans):
                while not all(sink.ready(index) for sink in sinks):
                    if not next(packets, False):
                        for sink in sinks:
                            sink.end()
                try:
                    seen = None if frames is None else frames.take(index)
                except WrongEndError:  # packets do not tell when the video ends: the window is read by itself
                    seen = load_video(source, num_frames=plan.num_frames, fps=plan.fps, start=start, end=end)
                heard = None if samples is None else samples.take(index)
                yield MediaClip(seen, heard, tracks.rate, max(min(end, max(scan.ends, default=0.0)) - start, 0.0))


class _WindowFrames:
    """The frames of the windows that are open."""

    done = False  # of the whole file

    def __init__(self, spans: Sequence[Span], plan: Plan, clock: FrameClock, name: str):
        self.spans, self.plan, self.clock, self.name = spans, plan, clock, name
        self.open: dict[int, Frames] = {}
        self.begun = 0  # windows that were opened
        self.last: tuple[Any, float] | None = None
        self.ended = False

    def ready(self, index: int) -> bool:
        return self.ended or (index < self.begun and (index not in self.open or self.open[index].done))

    def add(self, frame: Any, time: float) -> None:
        self._begin(time)
        for sink in self.open.values():
            if not sink.done:
                sink.add(frame, time)
        self.last = (frame, time)

    def _begin(self, time: float) -> None:
        """Opens the windows that begin no later than `time`; each knows the frame that is on screen as it begins."""
        while self.begun < len(self.spans) and self.spans[self.begun][0] <= time:
            start, end = self.spans[self.begun]
            if start < self.clock.end:
                plan = replace(self.plan, start=start, end=end)
                sink = Frames(plan, self.clock, False, self.name)
                sink.last = self.last
                self.open[self.begun] = sink
            self.begun += 1

    def end(self) -> None:
        self._begin(math.inf)
        self.ended = True

    def take(self, index: int) -> VideoClip | None:
        sink = self.open.pop(index, None)
        try:
            return None if sink is None else sink.close()
        except MediaError:  # no frame in the window
            return None


class _WindowAudio(Samples):
    """The audio from the beginning of the oldest window that is open, resampled as one piece."""

    def __init__(self, spans: Sequence[Span], plan: Plan, rate: int, name: str):
        super().__init__(replace(plan, start=0.0, end=None, mono=True), rate, name)
        self.bounds = [(round(begin * rate), round(end * rate)) for begin, end in spans]
        self.passed = 0  # samples of the clip before `parts`
        self.ended = False

    def ready(self, index: int) -> bool:
        return self.ended or (self.position or 0) >= self.bounds[index][1]

    def end(self) -> None:
        total = self.finish()
        missing = total - self.passed - sum(part.shape[1] for part in self.parts)
        self.parts.append(np.zeros((1, max(missing, 0)), np.float32))
        self.bounds = [(begin, min(end, total)) for begin, end in self.bounds]
        self.ended = True

    def take(self, index: int) -> np.ndarray | None:
        begin, end = self.bounds[index]
        while self.parts and self.passed + self.parts[0].shape[1] <= begin:  # windows begin later and later
            self.passed += self.parts.pop(0).shape[1]
        whole = np.concatenate([np.zeros((1, 0), np.float32), *self.parts], axis=1)[0]
        piece = whole[max(begin - self.passed, 0) : max(end - self.passed, 0)]
        return np.array(piece, np.float32) if piece.size else None
