"""Frames of a clip: when each is shown, which are wanted, and how they are turned upright."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from .limits import kept_size
from .media_files import MediaError, import_av, seconds
from .media_scan import CLOSE, RESTART, Plan, Track

_TICK = 1e-3  # seconds; a moment this shortly before a frame is the frame's, where stamps are rounded to it (Matroska)
_LEAST_FRAME_BYTES = 1024  # a kept frame counts as this much at least: its time and its place in a list weigh too


@dataclass
class VideoClip:
    """Frames of a clip.

    Attributes:
        frames: uint8 `(F, H, W, 3)`, RGB, turned and mirrored as the file asks for.
        timestamps: float64 `(F,)`, the presentation time of each frame in seconds, in rising order (equal where a
            frame is repeated).
    """

    frames: np.ndarray
    timestamps: np.ndarray

    def __len__(self) -> int:
        return len(self.frames)

    def distinct(self) -> "VideoClip":
        """The clip with each frame once: a repeat, known by its timestamp, is dropped; the order stays."""
        first = np.sort(np.unique(self.timestamps, return_index=True)[1])
        if len(first) == len(self):
            return self
        return VideoClip(self.frames[first], self.timestamps[first])


class WrongEndError(Exception):
    """The frames that were wanted were chosen for a video of another length; it ends at `seconds`."""

    def __init__(self, seconds: float):
        self.seconds = seconds


class FrameClock:
    """When decoded frames are shown, in seconds from the clip's beginning. Decoders give frames in that order, so
    times rise, whatever the stamps say.

    AVI has no presentation times: there a frame is shown as much later than the first as the packet that brought it
    out of the decoder came after the packet that brought out the first.

    Attributes:
        sure: whether all stamps so far were taken as they are.
        last: time of the last frame; None before the first.
        end: when the last frame's time on screen ends, as far as packets tell.
        step: seconds between frames by the rate that the file states, 1 / 25 where it states none.
    """

    def __init__(self, stream: Any, track: Track, origin: float):
        self.by_packets, self.sure = track.by_packets, not track.by_packets
        self.begin, self.end = track.begin or 0.0, track.end
        self.unit, self.shift = stream.time_base, -origin
        rate = stream.average_rate or getattr(stream, "guessed_rate", None)
        self.step = 1 / float(rate) if rate else 1 / 25
        self.last: float | None = None

    def __call__(self, frame: Any, packet: Any) -> float:
        stamp = packet.dts if self.by_packets else frame.pts
        time = None if stamp is None else seconds(stamp, self.unit) + self.shift
        if self.last is None:
            if time is None or self.by_packets:
                self.shift += self.begin - (self.begin if time is None else time)
                time = self.begin
        elif time is None:
            time, self.sure = self.last + self.step, False
        elif time <= self.last:
            again = time < self.last - RESTART  # what follows was a file of its own
            self.shift += self.last + self.step - time if again else 0.0
            time, self.sure = self.last + (self.step if again else float(self.unit)), False
        self.last = time
        return time


class Frames:
    """Chooses frames while they pass: of each wanted moment, the frame on screen then.

    Args:
        plan: what is wanted.
        clock: times of the frames.
        certain: whether the video's end was found by decoding.
        name: of the file.
    """

    def __init__(self, plan: Plan, clock: FrameClock, certain: bool, name: str):
        self.plan, self.clock, self.certain, self.name = plan, clock, certain, name
        self.end = plan.end if plan.end is not None else float("inf")
        self.close_by = CLOSE + min(float(clock.unit), _TICK)
        self.count, self.moments = _moments(plan, clock.end, name)
        self.moment = next(self.moments, None) if self.moments is not None else None
        self.last: tuple[Any, float] | None = None
        self.colours = import_av().video.reformatter.VideoReformatter()
        self.frames: list[np.ndarray] = []
        self.times: list[float] = []
        self.done = False

    def add(self, frame: Any, time: float) -> None:
        if self.moments is None:
            if self.plan.start <= time < self.end:
                self._keep(frame, time)
        else:
            self._settle(time)
        self.last = (frame, time)
        # Where the end is not sure it is waited for.
        settled = self.moments is not None and self.moment is None and (self.certain or self.clock.sure)
        self.done = time >= self.end or settled

    def _settle(self, now: float) -> None:
        """Moments before `now` show the frame before it; a moment before the first frame waits for that frame."""
        picture: np.ndarray | None = None
        while self.last is not None and self.moment is not None and self.moment < now - self.close_by:
            picture = self._keep(*self.last, picture)
            self.moment = next(self.moments, None) if self.moments is not None else None

    def _keep(self, frame: Any, time: float, picture: np.ndarray | None = None) -> np.ndarray:
        if picture is None:
            self.plan.check_pixels(frame.width, frame.height, self.name)
            picture = upright(frame, self.colours, self.count)
        count = max(len(self.frames) + 1, self.plan.num_frames or 0)
        self.plan.check_bytes(count * max(picture.nbytes, _LEAST_FRAME_BYTES), "frames", self.name)
        if self.frames and picture.shape != self.frames[0].shape:
            raise MediaError(f"{self.name} changes its frame size at {time:.2f} s; export it at one size")
        self.frames.append(picture)
        self.times.append(time)
        return picture

    def close(self) -> VideoClip:
        if self.moments is not None and self.last is not None and not (self.done or self.certain or self.clock.sure):
            found = self.last[1] + self.clock.step
            if abs(min(found, self.end) - min(self.clock.end, self.end)) > self.clock.step / 2:
                raise WrongEndError(found)
        if self.moments is not None:
            self._settle(float("inf"))
        if not self.frames:
            end = "its end" if self.plan.end is None else f"{self.plan.end} s"
            raise MediaError(
                f"{self.name} has no video frame from {self.plan.start} s to {end}; widen the window, or copy it again"
            )
        frames = np.empty((len(self.frames), *self.frames[0].shape), np.uint8)
        for place in reversed(range(len(frames))):  # each goes as it is copied, so that memory holds them once
            frames[place] = self.frames.pop()
        return VideoClip(frames, np.array(self.times, dtype=np.float64))


def _moments(plan: Plan, video_end: float, name: str) -> tuple[float, Iterator[float] | None]:
    """The moments whose frames are wanted, in seconds, and how many; infinitely many and None for every frame."""
    if plan.num_frames is None and plan.fps is None:
        return float("inf"), None
    end = video_end if plan.end is None else min(plan.end, video_end)
    length = end - plan.start
    if length <= 0:
        raise MediaError(f"{name} has no video after {end:.2f} s, asked to start at {plan.start} s")
    if plan.num_frames is not None:
        count, step, first = plan.num_frames, length / plan.num_frames, length / plan.num_frames / 2
    else:
        step = 1 / float(plan.fps or 1)
        count, first = max(1, int(np.ceil(round(length / step, 6)))), 0.0
    return count, (plan.start + first + step * k for k in range(count))


def upright(frame: Any, colours: Any, count: float = 1) -> np.ndarray:
    """RGB image uint8 `(H, W, 3)`, turned and mirrored by the display matrix of the file; an odd angle counts as the
    right angle next to it. A large one of a clip of `count` is scaled down (see [`~limits.kept_size`]) as its colours
    are made, so that it is never in memory at its own size. `colours`: PyAV's reformatter, one for all frames of a
    clip: to set one up takes longer than to convert a small frame."""
    size = kept_size(frame.width, frame.height, count)
    options = {} if size == (frame.width, frame.height) else {"interpolation": "AREA"}
    image = colours.reformat(frame, *size, format="rgb24", **options).to_ndarray()
    # `frame.side_data` is kept by the frame and holds it in turn: frames would then pile up until Python looks for
    # such circles.
    beside = import_av().sidedata.sidedata.SideDataContainer(frame)
    matrix = next((bytes(data) for data in beside if data.type.name == "DISPLAYMATRIX"), None)
    if matrix is None:
        return image
    # A stored pixel (x, y) is shown at (a x + c y, b x + d y), and then shifted into view.
    a, b, _, c, d = np.frombuffer(matrix, np.int32)[:5].astype(np.int64)
    if abs(b) + abs(c) > abs(a) + abs(d):
        image, a, d = image.transpose(1, 0, 2), c, b
    return np.ascontiguousarray(image[:: -1 if d < 0 else 1, :: -1 if a < 0 else 1])
