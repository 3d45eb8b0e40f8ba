"""A long clip in windows: decoded once, from its beginning to its end, and never more of it in memory than the windows
that are open at one time. A window is what `load_media` gives for its `start` and `end`."""

import math
from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from .media import MAX_BYTES, MAX_PIXELS, MediaClip, load_video
from .media_audio import Samples
from .media_files import MediaError, MediaSource, damaged, import_av, name_of, open_container, openable, tracks_of
from .media_scan import Plan, Scan, scan_packets
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
    name = name_of(source)
    options: dict[str, Any] = {"num_frames": num_frames, "fps": fps, "sampling_rate": sampling_rate}
    plan = Plan(MAX_PIXELS, MAX_BYTES, **options, video=video, audio=audio)
    stream = openable(source, name)
    av = import_av()
    try:
        with open_container(av, stream) as container:
            scan = scan_packets(container, plan, name)
        with open_container(av, stream) as container:
            tracks = _Tracks(container, plan, spans, scan, name)
            for index, (start, end) in enumerate(spans):
                try:
                    yield tracks.take(index)
                except WrongEndError:  # packets do not tell when the video ends: the window is read by itself
                    clip = load_video(source, num_frames=num_frames, fps=fps, start=start, end=end)
                    yield tracks.take(index, clip)
    except (av.error.FFmpegError, EOFError) as error:
        raise damaged(name, getattr(error, "strerror", None) or str(error)) from error


class _Tracks:
    """Decodes an open file as far as each window needs."""

    def __init__(self, container: Any, plan: Plan, spans: Sequence[Span], scan: Scan, name: str):
        video, audio = tracks_of(container)
        self.spans, self.origin, self.length = spans, scan.origin, max(scan.ends, default=0.0)
        self.video: _WindowFrames | None = None
        self.audio: _WindowAudio | None = None
        for track, wanted in ((video, plan.video), (audio, plan.audio)):
            if wanted and track is not None and track.codec_context is None:
                raise damaged(name, f"its {track.type} track has an unknown codec")
        tracks = {}
        if plan.video and video is not None and scan.video is not None:
            tracks[video.index] = video
            self.video = _WindowFrames(spans, plan, FrameClock(video, scan.video, scan.origin), scan.video.end, name)
        if plan.audio and audio is not None:
            tracks[audio.index] = audio
            self.audio = _WindowAudio(spans, plan, plan.sampling_rate or audio.rate, name)
        if self.video is not None and video is not None:
            # A stream may change its size half way, where only the decoder sees it.
            video.codec_context.options = {"max_pixels": str(plan.max_pixels)}
        self.packets = container.demux(list(tracks.values())) if tracks else iter(())
        self.video_index = video.index if video is not None else None

    def take(self, index: int, video: VideoClip | None = None) -> MediaClip:
        """Window `index`, which is forgotten with it; `video` where its frames were read already."""
        sinks = [sink for sink in (self.video, self.audio) if sink is not None]
        while not all(sink.ready(index) for sink in sinks):
            packet = next(self.packets, None)
            if packet is None:
                for sink in sinks:
                    sink.end()
                break
            self._decode(packet)
        if self.video is not None and video is None:
            video = self.video.take(index)
        start, end = self.spans[index]
        duration = max(min(end, self.length) - start, 0.0)
        if self.audio is None:
            return MediaClip(video, None, None, duration)
        return MediaClip(video, self.audio.take(index), self.audio.rate, duration)

    def _decode(self, packet: Any) -> None:
        for frame in packet.decode():
            if packet.stream.index == self.video_index:
                assert self.video is not None
                self.video.add(frame, packet)
            else:
                assert self.audio is not None
                self.audio.add(frame, None if frame.pts is None else float(frame.pts * frame.time_base) - self.origin)


class _WindowFrames:
    """The frames of the windows that are open."""

    def __init__(self, spans: Sequence[Span], plan: Plan, clock: FrameClock, video_end: float, name: str):
        self.spans, self.plan, self.clock, self.video_end, self.name = spans, plan, clock, video_end, name
        self.open: dict[int, Frames] = {}
        self.begun = 0  # windows that were opened
        self.last: tuple[Any, float] | None = None
        self.ended = False

    def ready(self, index: int) -> bool:
        return self.ended or (index < self.begun and (index not in self.open or self.open[index].done))

    def add(self, frame: Any, packet: Any) -> None:
        time = self.clock(frame, packet)
        self._begin(time)
        for sink in self.open.values():
            if not sink.done:
                sink.add(frame, packet)
        self.last = (frame, time)

    def _begin(self, time: float) -> None:
        """Opens the windows that begin no later than `time`; each knows the frame that is on screen as it begins."""
        while self.begun < len(self.spans) and self.spans[self.begun][0] <= time:
            start, end = self.spans[self.begun]
            if start < self.video_end:
                plan = replace(self.plan, start=start, end=end)
                sink = Frames(plan, _Told(self.clock), self.video_end, False, self.name)  # type: ignore[arg-type]
                sink.last = self.last
                self.open[self.begun] = sink
            self.begun += 1

    def end(self) -> None:
        if not self.ended:
            self._begin(math.inf)
        self.ended = True

    def take(self, index: int) -> VideoClip | None:
        sink = self.open.pop(index, None)
        try:
            return None if sink is None else sink.close()
        except MediaError:  # no frame in the window
            return None


class _Told:
    """The clock of all windows, for one of them: the time of the frame that it was asked for last."""

    def __init__(self, clock: FrameClock):
        self.clock, self.step, self.unit = clock, clock.step, clock.unit

    @property
    def sure(self) -> bool:
        return self.clock.sure

    def __call__(self, frame: Any, packet: Any) -> float | None:
        return self.clock.last


class _WindowAudio:
    """The audio from the beginning of the oldest window that is open, resampled as one piece."""

    def __init__(self, spans: Sequence[Span], plan: Plan, rate: int, name: str):
        self.rate = rate
        self.bounds = [(round(begin * rate), round(end * rate)) for begin, end in spans]
        self.samples = Samples(replace(plan, start=0.0, end=None, mono=True), rate, name)
        self.parts: deque[np.ndarray] = deque()
        self.first = 0  # sample of the clip with which `parts` begin
        self.ended = False

    def ready(self, index: int) -> bool:
        return self.ended or (self.samples.position or 0) >= self.bounds[index][1]

    def add(self, frame: Any, time: float | None) -> None:
        self.samples.add(frame, time)
        self._collect()

    def end(self) -> None:
        if not self.ended:
            total = self.samples.finish()
            self._collect()
            missing = total - self.first - sum(map(len, self.parts))
            self.parts.append(np.zeros(max(missing, 0), np.float32))
            self.bounds = [(begin, min(end, total)) for begin, end in self.bounds]
        self.ended = True

    def _collect(self) -> None:
        self.parts.extend(part[0] for part in self.samples.parts if part.shape[1])
        self.samples.parts.clear()

    def take(self, index: int) -> np.ndarray | None:
        begin, end = self.bounds[index]
        while self.parts and self.first + len(self.parts[0]) <= begin:  # windows begin later and later
            self.first += len(self.parts.popleft())
        whole = np.concatenate(self.parts) if self.parts else np.zeros(0, np.float32)
        piece = whole[max(begin - self.first, 0) : max(end - self.first, 0)]
        return np.array(piece, np.float32) if piece.size else None


__all__ = ["read_windows", "window_spans"]
