"""One pass over an open file: its tracks decoded packet by packet, each frame with its time."""

from collections.abc import Iterator
from typing import Any, Protocol

from .media_files import damaged, seconds, tracks_of
from .media_scan import Plan, Scan
from .media_video import FrameClock


class Sink(Protocol):
    """What collects the frames of a track, until it is done."""

    done: bool

    def add(self, frame: Any, time: Any) -> None: ...


class Tracks:
    """
    The tracks of an open file that are wanted.

    Attributes:
        clock: of the video's frames; None without video.
        rate: samples a second of the audio, as wanted; None without audio.

    Raises:
        MediaError: a track of an unknown codec.
    """

    def __init__(self, container: Any, plan: Plan, scan: Scan, name: str):
        self.container, self.scan = container, scan
        self.video, self.audio = tracks_of(container)
        for track, wanted in ((self.video, plan.video), (self.audio, plan.audio)):
            if wanted and track is not None and track.codec_context is None:
                raise damaged(name, f"its {track.type} track has an unknown codec")
        self.clock: Any = None
        self.rate: int | None = None
        if plan.video and self.video is not None and scan.video is not None:
            # A stream may change its size half way, where only the decoder sees it.
            self.video.codec_context.options = {"max_pixels": str(plan.max_pixels)}
            self.clock = FrameClock(self.video, scan.video, scan.origin)
        if plan.audio and self.audio is not None:
            self.unit = self.audio.time_base
            self.rate = plan.sampling_rate or self.audio.rate

    def decode(self, frames: Sink | None, samples: Sink | None) -> Iterator[bool]:
        """Decodes the tracks that have a sink until all sinks are done; True after each packet."""
        given: Any = ((self.video, frames, self.scan.video), (self.audio, samples, self.scan.audio))
        tracks = [(stream, sink, track) for stream, sink, track in given if sink is not None]
        sinks = {stream.index: (sink, track.skip) for stream, sink, track in tracks}
        numbers = dict.fromkeys(sinks, 0)
        for packet in self.container.demux([stream for stream, _, _ in tracks]) if tracks else ():
            if all(sink.done for sink, _ in sinks.values()):
                break
            index = packet.stream.index
            sink, skip = sinks[index]
            numbers[index] += 1
            if sink.done or numbers[index] <= skip:
                continue
            for frame in packet.decode():
                if sink.done:
                    break
                sink.add(frame, self.clock(frame, packet) if sink is frames else self._heard(frame))
            yield True

    def _heard(self, frame: Any) -> float | None:
        """When audio is heard, in seconds from the clip's beginning."""
        return None if frame.pts is None else seconds(frame.pts, self.unit) - self.scan.origin
