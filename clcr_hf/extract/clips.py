"""What `clcr extract` reads of each clip: which stretches of its file, and these decoded and prepared by threads.

A clip no longer than a window is read in one go. A longer one is cut, frames and audio each in their own way, so that
no more than a window of either is in memory at a time.
"""

import math
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import Any, TypeVar

import numpy as np
import torch

from ..media import resample_audio, track_lengths
from ..samples import Reading, read_sample
from .backbones import AudioBackbone, VisionBackbone
from .sources import Clip
from .speech import OpenSmile

# What may be wrong with one clip, without a fault of ours or of the installation. MediaError and UnicodeDecodeError are
# ValueErrors; PyAV's errors are OSErrors, ValueErrors or RuntimeErrors.
CLIP_ERRORS = (ValueError, OSError, RuntimeError, ArithmeticError, LookupError)
# Runtime errors that are no clip's fault: a device that is out of memory, or that gave up.
DEVICE_ERRORS = (torch.cuda.OutOfMemoryError, getattr(torch, "AcceleratorError", torch.cuda.OutOfMemoryError))
DEFAULT_FRAMES = 16
DEFAULT_WINDOW = 20.0
_FRAMES_AT_ONCE = 64
_SOUND_RATE = 16_000
_CLOSE = 1e-3

_In = TypeVar("_In")
_Out = TypeVar("_Out")


@dataclass
class Job:
    """A stretch of a clip's file to read, in seconds of the file; `end=None` is the file's end.

    Attributes:
        frames: arguments of `load_video` that say which frames; None reads none. `frames_end` is where the stretch
            ends, in seconds of the clip.
        sound: whether its audio is read, and no more than `sound_limit` seconds of it (compressed audio may end a
            little later than its file states); `keep` is where the part begins (seconds of the clip) that the window
            before did not hold.
        speech: whether the audio goes to the recogniser.
        last: whether the clip is complete with it.
        error: what was wrong with the clip already.
    """

    clip: Clip
    begin: float = 0.0
    end: float | None = None
    frames: dict[str, Any] | None = None
    frames_end: float = 0.0
    sound: bool = False
    sound_limit: float | None = None
    keep: float = 0.0
    speech: bool = False
    last: bool = False
    error: Exception | None = None


@dataclass
class Piece:
    """What a job gave, ready for the backbones. Times are seconds from the clip's start.

    Attributes:
        pixels, num_frames, frame_times, frame_end, longest: see `VisionBackbone`.
        sound: the extractor's values of a window; it begins at `sound_begin`, its audio ends at `sound_end`.
        smile: openSMILE's features `(T, D)` and the seconds of each.
        speech: the whole audio at the recogniser's rate.
        vision_taps, audio_taps: the tokens `(L, T, D)` that the backbones gave for it, later.
    """

    job: Job
    pixels: np.ndarray | None = None
    num_frames: int = 0
    frame_times: np.ndarray | None = None
    frame_end: float = 0.0
    longest: float = math.inf
    sound: np.ndarray | None = None
    sound_begin: float = 0.0
    sound_end: float = 0.0
    smile: tuple[np.ndarray, float] | None = None
    speech: np.ndarray | None = None
    vision_taps: np.ndarray | None = None
    audio_taps: np.ndarray | None = None
    error: Exception | None = None


class ClipReader:
    """Plans and reads clips for the backbones at hand; both methods may run in several threads at once.

    Args:
        vision, audio, smile: what reads frames and audio; None for what is not wanted.
        speech_rate: samples a second for the recogniser; None without one.
        fps, num_frames: frames of a clip, see `load_video`. With neither, `num_frames` is 16, or what a backbone that
            reads clips takes.
        face_crop: detector by which frames are cut to the speaker's face; None takes them whole.
        window_seconds: longest stretch of audio that a backbone reads at a time.
        audio_rate: tokens of audio a second; windows hold a whole number of them.
    """

    def __init__(
        self,
        vision: VisionBackbone | None = None,
        audio: AudioBackbone | None = None,
        smile: OpenSmile | None = None,
        speech_rate: int | None = None,
        *,
        fps: float | None = None,
        num_frames: int | None = None,
        face_crop: str | None = None,
        window_seconds: float | None = None,
        audio_rate: float | None = None,
    ):
        self.vision, self.audio, self.smile = vision, audio, smile
        self.speech_rate = speech_rate
        clip_frames = vision.clip_frames if vision is not None else 1
        if fps is None and num_frames is None:
            num_frames = clip_frames if clip_frames > 1 else DEFAULT_FRAMES
        self.fps, self.num_frames, self.face_crop = fps, num_frames, face_crop
        self.stretch = max(_FRAMES_AT_ONCE // clip_frames, 1) * clip_frames / fps if fps is not None else float("inf")
        window = window_seconds or (audio.max_seconds if audio is not None else None) or DEFAULT_WINDOW
        if audio is not None and audio.max_seconds is not None:
            window = min(window, audio.max_seconds)
        if audio_rate:
            window = max(1, int(window * audio_rate + _CLOSE)) / audio_rate
        self.window = window
        self.reads_sound = audio is not None or smile is not None
        self.sound_rate = audio.sampling_rate if audio is not None else _SOUND_RATE

    # --- which stretches ---------------------------------------------------------------------------------------------

    def plan(self, clip: Clip) -> list[Job]:
        """The clip's jobs, in order; one at least. A clip that cannot be read has one job with the error."""
        try:
            jobs = self._plan(clip) or [Job(clip)]
        except CLIP_ERRORS as error:
            return [Job(clip, last=True, error=error)]
        jobs[-1].last = True
        return jobs

    def _plan(self, clip: Clip) -> list[Job]:
        wants_speech = self.speech_rate is not None and clip.text is None and not clip.words
        wants_sound = self.reads_sound or wants_speech
        lengths: dict[int, tuple[float | None, float | None]] = {}
        for source in (clip.video if self.vision is not None else None, clip.audio if wants_sound else None):
            if source is not None and id(source) not in lengths:
                lengths[id(source)] = track_lengths(source)
        frames = self._frame_jobs(clip, lengths.get(id(clip.video), (None, None))[0])
        sounds = self._sound_jobs(clip, lengths.get(id(clip.audio), (None, None))[1], wants_sound)
        if wants_speech and sounds:
            if len(sounds) > 1:  # the recogniser goes through long audio by itself
                frames = [Job(clip, clip.start, clip.end, speech=True), *frames]
            else:
                sounds[0].speech = True
        # A short clip's one file is opened once for both.
        if len(frames) == len(sounds) == 1 and clip.video is clip.audio:
            return [replace(sounds[0], frames=frames[0].frames, frames_end=frames[0].frames_end)]
        return frames + sounds

    def _frame_jobs(self, clip: Clip, length: float | None) -> list[Job]:
        if self.vision is None:
            return []
        if clip.video is None:
            return [Job(clip, frames={})] if clip.images else []
        total = _stretch(clip, length)
        if total <= 0:
            return []
        if self.num_frames is not None:
            return [Job(clip, clip.start, clip.end, frames={"num_frames": self.num_frames}, frames_end=total)]
        begins = self.stretch * np.arange(max(1, np.ceil(total / self.stretch - _CLOSE)))
        ends = [*(float(begin) for begin in begins[1:]), None]
        return [
            Job(
                clip,
                clip.start + float(begin),
                clip.end if end is None else clip.start + end,
                frames={"fps": self.fps},
                frames_end=total if end is None else end,
            )
            for begin, end in zip(begins, ends, strict=True)
        ]

    def _sound_jobs(self, clip: Clip, length: float | None, wanted: bool) -> list[Job]:
        total = _stretch(clip, length)
        if not wanted or clip.audio is None or total <= 0:
            return []
        if not self.reads_sound or total <= self.window + _CLOSE:
            return [Job(clip, clip.start, clip.end, sound=self.reads_sound)]
        keeps = np.arange(0, total - _CLOSE, self.window)
        # The last window reaches back, so that all are of one length.
        begins = [*keeps[:-1], total - self.window]
        ends = [*(clip.start + keeps[1:]), clip.end]
        return [
            Job(clip, clip.start + float(b), e, sound=True, sound_limit=self.window, keep=float(k))
            for b, e, k in zip(begins, ends, keeps, strict=True)
        ]

    # --- reading them ------------------------------------------------------------------------------------------------

    def load(self, job: Job) -> Piece:
        """Decodes and prepares a job; what goes wrong with the clip is in the piece's `error`."""
        piece = Piece(job, error=job.error)
        if piece.error is not None:
            return piece
        try:
            self._load(job, piece)
        except CLIP_ERRORS as error:
            piece.error = error
        return piece

    def _load(self, job: Job, piece: Piece) -> None:
        clip, seconds = job.clip, job.begin - job.clip.start
        rate = (self.sound_rate if job.sound else self.speech_rate) if job.sound or job.speech else None
        if job.frames is not None and clip.video is None:
            self._use_images(piece, clip)
            return
        # A backbone that reads clips wants so many frames; else one token a frame is enough.
        repeats = self.vision is not None and self.vision.clip_frames > 1
        frames: dict[str, Any] = {"vision": job.frames is not None, "repeats": repeats, **(job.frames or {})}
        reading = Reading(**frames, face_crop=self.face_crop, sampling_rate=rate)
        file = {"audio": clip.audio} if job.frames is None else {"media" if rate else "video": clip.video}
        sample = read_sample({**file, "start": job.begin, "end": job.end}, reading)
        if sample.frames is not None and sample.frame_times is not None:
            self._use_frames(piece, sample.frames, sample.frame_times + seconds, job.frames_end)
        if sample.audio is not None and rate is not None:
            self._use_sound(piece, sample.audio, rate)

    def _use_images(self, piece: Piece, clip: Clip) -> None:
        """Images, taken `fps` a second (1 by default)."""
        sample = {"images": clip.images, "start": clip.start, "end": clip.end}
        read = read_sample(sample, Reading(num_frames=self.num_frames, face_crop=self.face_crop))
        if read.frames is not None and read.frame_places is not None:
            step = 1 / (self.fps or 1.0)
            self._use_frames(piece, read.frames, step * read.frame_places, step * len(clip.images or []))

    def _use_frames(self, piece: Piece, frames: np.ndarray, times: np.ndarray, end: float) -> None:
        assert self.vision is not None
        if self.face_crop is not None:  # a frame that is left out leaves a gap, which is no other frame's time
            begin = piece.job.begin - piece.job.clip.start
            step = 1 / self.fps if self.fps else (end - begin) / (self.num_frames or 1)
            piece.longest = max(step, float(np.diff(times).min(initial=np.inf)) if len(times) > 1 else 0.0)
        piece.pixels = self.vision.prepare(frames)
        piece.num_frames, piece.frame_times, piece.frame_end = len(frames), np.maximum(times, 0.0), end

    def _use_sound(self, piece: Piece, wave: np.ndarray, rate: int) -> None:
        if piece.job.speech:
            piece.speech = resample_audio(wave, rate, self.speech_rate or rate)
        if not piece.job.sound:
            return
        if piece.job.sound_limit is not None:
            wave = wave[: round(piece.job.sound_limit * rate)]
        piece.sound_begin = piece.job.begin - piece.job.clip.start
        piece.sound_end = piece.sound_begin + len(wave) / rate
        if self.audio is not None:
            piece.sound = self.audio.prepare(wave)
        if self.smile is not None:
            piece.smile = self.smile(resample_audio(wave, rate, self.smile.sampling_rate))


def _stretch(clip: Clip, length: float | None) -> float:
    """Seconds of a track of `length` that belong to the clip."""
    if length is None:
        return 0.0
    return (length if clip.end is None else min(clip.end, length)) - clip.start


# --- threads ---------------------------------------------------------------------------------------------------------


def read_ahead(reader: ClipReader, clips: Iterable[Clip], num_workers: int) -> Iterator[Piece]:
    """Pieces of all clips in order, decoded by `num_workers` threads while the backbones are busy; 0 decodes when
    asked. At most `2 * num_workers` pieces wait."""
    if num_workers == 0:
        for clip in clips:
            yield from map(reader.load, reader.plan(clip))
        return
    with ThreadPoolExecutor(num_workers, thread_name_prefix="clcr-extract") as pool:
        planned = _ordered_map(pool, reader.plan, clips, num_workers)
        jobs = (job for group in planned for job in group)
        yield from _ordered_map(pool, reader.load, jobs, 2 * num_workers)


def _ordered_map(
    pool: ThreadPoolExecutor, function: Callable[[_In], _Out], items: Iterable[_In], ahead: int
) -> Iterator[_Out]:
    """`map` by a pool's threads, with at most `ahead` results under way or waiting."""
    pending: deque[Future[_Out]] = deque()
    try:
        for item in items:
            pending.append(pool.submit(function, item))
            if len(pending) > ahead:
                yield pending.popleft().result()
        while pending:
            yield pending.popleft().result()
    finally:
        for future in pending:
            future.cancel()
