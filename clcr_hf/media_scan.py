"""What is to be read of a clip, and what its packets tell before anything is decoded: lengths, tails, where to begin.

What a header states is not believed. Packets that an edit list takes out ("discard") count for nothing.
"""

from dataclasses import dataclass
from typing import Any

from .limits import OWN
from .media_files import MediaError, damaged, is_format, seconds, tracks_of

CLOSE = 1e-6  # seconds; moments nearer than this are the same moment
RESTART = 1.0  # seconds; stamps that fall by more begin anew (files put end to end): they go on from where they were
HOLE = 0.08  # seconds; stamps of audio that are off by less are jitter or rounding, by more there is a hole

# Containers whose header states the true length, so that a missing tail can be told.
_STATE_LENGTH = {"mov", "matroska", "flac", "wav"}
# Containers that mark each frame from which decoding may begin: those before the window need not be decoded.
_MARK_KEYFRAMES = {"mov", "matroska"}
# Containers whose edit lists may end within a packet.
_CUT_PACKETS = {"mov"}
# Containers that do not say when a frame is shown, only which comes next to the decoder.
_NO_PRESENTATION_TIMES = {"avi"}
_PREROLL = 0.5  # seconds of video decoded before `start` at least
# Seconds of audio decoded before `start` at least, where stamps are exact: decoders carry something over, and some make
# up noise, so that within this stretch of the beginning a window has the very samples of the whole.
_SETTLE = 30.0


@dataclass
class Plan:
    """What one reading is to return, at most how much, and at most at what cost."""

    max_pixels: int
    max_bytes: int
    num_frames: int | None = None
    fps: float | None = None
    sampling_rate: int | None = None
    mono: bool = True
    start: float = 0.0
    end: float | None = None
    video: bool = True
    audio: bool = True
    max_decoded: int = OWN.decoded_pixels

    def __post_init__(self) -> None:
        if self.num_frames is not None and self.fps is not None:
            raise ValueError("give num_frames or fps, not both")
        if self.num_frames is not None and self.num_frames < 1:
            raise ValueError(f"num_frames must be at least 1, got {self.num_frames}")
        if self.fps is not None and not self.fps > 0:
            raise ValueError(f"fps must be positive, got {self.fps}")
        if self.sampling_rate is not None:
            check_rate(self.sampling_rate, "sampling_rate")
        if not 0 <= self.start < float("inf"):
            raise ValueError(f"start must be zero or more seconds, got {self.start}")
        if self.end is not None and not self.end > self.start:
            raise ValueError(f"end ({self.end}) must come after start ({self.start})")

    def check_pixels(self, width: int, height: int, name: str) -> None:
        if width * height > self.max_pixels:
            raise MediaError(
                f"{name} claims frames of {width} x {height}, more than {self.max_pixels} pixels; "
                "export it at a smaller size"
            )

    def check_work(self, frames: int, width: int, height: int, name: str) -> None:
        if frames * width * height > self.max_decoded:
            raise MediaError(
                f"{name} has {frames} packets of {width} x {height} to decode, more than {self.max_decoded:.3g} "
                "pixels together; take a part of it (start, end) or export it at a smaller size"
            )

    def check_bytes(self, size: float, what: str, name: str) -> None:
        if size > self.max_bytes:
            raise MediaError(
                f"{name} would give more than {self.max_bytes / 2**30:.3g} GiB of {what}; take fewer frames or a lower "
                "rate (num_frames, fps, sampling_rate) or a part (start, end). If it should not be that long, it is "
                "damaged"
            )


def check_rate(rate: Any, name: str) -> None:
    if not hasattr(rate, "__index__") or not 1 <= rate <= 1_000_000:
        raise ValueError(f"{name} must be a whole number of samples a second, got {rate!r}")


@dataclass
class Track:
    """A track by its packets, in seconds from the clip's beginning; discarded packets count for nothing.

    Attributes:
        begin: of its first packet in the file, when it is to be decoded.
        end: when the last of its packets ends.
        length: how long all packets are together.
        packets, keyframes: how many there are, discarded ones included; how many of them are marked as keyframes.
        skip: this many packets of the file need not be decoded for the window.
        exact: whether each packet begins where the one before it ended, to the sample, or after a hole.
        last: how long the packet is that ends last.
        shift: by how much its stamps began anew.
        by_packets: whether the file says only when packets are decoded, not when they are shown.
        unit: the fraction of a second that its stamps count.
    """

    by_packets: bool
    unit: Any
    begin: float | None = None
    end: float = 0.0
    length: float = 0.0
    packets: int = 0
    keyframes: int = 0
    skip: int = 0
    exact: bool = True
    last: float = 0.0
    shift: float = 0.0
    _latest: float = -float("inf")

    def add(self, packet: Any, origin: float) -> tuple[float, float] | None:
        """Takes a packet in; returns when it begins and ends, None for one that does not count."""
        self.packets += 1
        self.keyframes += packet.is_keyframe
        stamp = packet.dts if packet.pts is None or self.by_packets else packet.pts
        if stamp is None or packet.is_discard:
            return None
        dts = packet.dts
        decoded = seconds(stamp if dts is None else dts, self.unit) - origin + self.shift
        if dts is not None and decoded < self._latest - RESTART:
            self.shift += self.end - decoded
            decoded = self.end
        self._latest = decoded
        begin = seconds(stamp, self.unit) - origin + self.shift
        end = begin + seconds(packet.duration or 0, self.unit)
        if self.begin is None:
            self.begin = decoded
        self.length += end - begin
        if end > self.end:
            self.end, self.last = end, end - begin
        return begin, end


@dataclass
class Scan:
    """What the packets of a file tell. `origin` is when the clip begins, in seconds of the container's clock; a start
    before zero is codec delay, which the decoder drops."""

    origin: float
    video: Track | None
    audio: Track | None

    @property
    def ends(self) -> list[float]:
        return [track.end for track in (self.video, self.audio) if track is not None]


def scan_packets(container: Any, plan: Plan, name: str) -> Scan:
    """Reads the packets without decoding them, up to the end of the window; checks frame size and tail."""
    if not container.streams:
        raise damaged(name, "no track in it")
    video, audio = tracks_of(container)
    by_packets = is_format(container, _NO_PRESENTATION_TIMES)
    found = [None if track is None else Track(by_packets, track.time_base) for track in (video, audio)]
    scan = Scan(max(container.start_time or 0, 0) / 1e6, *found)
    if plan.video and video is not None and video.codec_context is not None:
        plan.check_pixels(video.codec_context.width, video.codec_context.height, name)
    wanted = [track for track in (video, audio) if track is not None]
    keyed = is_format(container, _MARK_KEYFRAMES)
    rate = getattr(audio, "rate", None)  # a track of an unknown codec has none
    sample = 1 / rate if rate else 0.0
    number = None if video is None else video.index
    for packet in container.demux(wanted) if wanted else ():
        track = scan.video if packet.stream_index == number else scan.audio
        assert track is not None
        before = track.end if track.begin is not None else None
        span = track.add(packet, scan.origin)
        if span is None:
            continue
        if track is scan.audio:
            track.exact &= before is None or not sample / 2 < abs(span[0] - before) <= HOLE
            if span[1] < plan.start - _SETTLE:
                track.skip = track.packets
        elif packet.is_keyframe and span[0] <= plan.start - _PREROLL:
            track.skip = track.packets - 1
        if plan.end is not None and min(scan.ends) > plan.end:
            break
    else:
        _check_tail(container, max(scan.ends, default=0.0) + scan.origin, name)
    for stream, each in zip((video, audio), found, strict=True):
        if each is not None and is_format(container, _CUT_PACKETS):
            each.end = _cut_end(stream, each, scan.origin)
    if scan.video is not None and not (keyed and _marks_keyframes(video, scan.video)):
        scan.video.skip = 0
    if plan.video and scan.video is not None and video.codec_context is not None:
        size = video.codec_context.width, video.codec_context.height
        plan.check_work(scan.video.packets - scan.video.skip, *size, name)
    if scan.audio is not None and not (keyed and sample and _is_exact(audio, scan.audio)):
        scan.audio.skip = 0
    return scan


def _cut_end(stream: Any, track: Track, origin: float) -> float:
    """The end of a track whose last packet counts in part; that is told by the header alone."""
    if stream.duration is None:
        return track.end
    stated = float(((stream.start_time or 0) + stream.duration) * stream.time_base) - origin
    return stated if track.end - track.last < stated < track.end else track.end


def _marks_keyframes(stream: Any, track: Track) -> bool:
    """Whether decoding may begin at each frame marked so; where all are, that says nothing, save for codecs that know
    no other frames."""
    codec = getattr(stream.codec_context, "codec", None)
    return not track.shift and (track.keyframes < track.packets or bool(getattr(codec, "intra_only", False)))


def _is_exact(stream: Any, track: Track) -> bool:
    """Whether stamps tell the sample that a packet begins with."""
    return not track.shift and track.exact and stream.time_base.denominator % stream.rate == 0


def _check_tail(container: Any, found: float, name: str) -> None:
    stated = (container.duration or 0) / 1e6
    if container.start_time is not None:
        stated += max(container.start_time, 0) / 1e6
    # A WAV written to a pipe states the largest size there is: that is no length.
    stated_bytes = stated * (container.bit_rate or 0) / 8 if is_format(container, {"wav"}) else 0
    states_length = is_format(container, _STATE_LENGTH) and stated_bytes < 2**31 - 2**16
    if states_length and stated - found > max(0.25, 0.05 * stated):
        raise MediaError(
            f"{name} is cut short: it should last {stated:.2f} s but its data end at {found:.2f} s; copy it again"
        )
