"""What `clcr extract` reads of each clip: which stretches of its file, and these decoded and prepared by threads.

A clip no longer than a window is read in one go. A longer one is cut, frames and audio each in their own way, so that
no more than a window of either is in memory at a time.
"""

import math
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from itertools import pairwise
from typing import Any, TypeVar

import numpy as np
import torch

from ..media import resample_audio, track_lengths
from ..samples import Reading, Sample, read_sample
from .readers import Readers
from .settings import ExtractSettings
from .sources import Clip
from .speech import Transcript

# What may be wrong with one clip, without a fault of ours or of the installation. MediaError and UnicodeDecodeError are
# ValueErrors; PyAV's errors are OSErrors, ValueErrors or RuntimeErrors; a value of the wrong kind is a TypeError.
CLIP_ERRORS = (ValueError, TypeError, OSError, RuntimeError, ArithmeticError, LookupError)
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
class Piece:
    """A stretch of a clip's file, and what it gave. Times are seconds from the clip's start, unless said.

    Attributes:
        begin, end: of the stretch, in seconds of the file; `end=None` is the file's end.
        sees: whether its frames are read; `frames_end` is where these end.
        hears: whether its audio is read; `keep` is where the part begins that the window before did not hold.
        transcribes: whether the audio goes to the recogniser.
        last: whether the clip is complete with it.
        error: what is wrong with the clip.
        pixels, frame_times, longest: see `VisionBackbone`.
        sound: the extractor's values of a window of audio, which ends at `sound_end`.
        smile: openSMILE's features `(T, D)` and the seconds of each.
        speech: the whole audio at the recogniser's rate.
        tokens: by modality, what the backbones gave for it: taps `(L, T, D)` and their seconds `(T, 2)`.
        transcript: what the recogniser heard.
    """

    clip: Clip
    begin: float = 0.0
    end: float | None = None
    sees: bool = False
    frames_end: float = 0.0
    hears: bool = False
    keep: float = 0.0
    transcribes: bool = False
    last: bool = False
    error: Exception | None = None
    pixels: Any = None
    frame_times: np.ndarray = field(default_factory=lambda: np.zeros(0))
    longest: float = math.inf
    sound: Any = None
    sound_end: float = 0.0
    smile: tuple[np.ndarray, float] | None = None
    speech: np.ndarray | None = None
    tokens: dict[str, tuple[np.ndarray, np.ndarray]] = field(default_factory=dict)
    transcript: Transcript | None = None

    @property
    def offset(self) -> float:
        """Where the stretch begins."""
        return self.begin - self.clip.start

    @property
    def sound_seconds(self) -> float:
        """How long the window of audio is."""
        return max(self.sound_end - self.offset, 0.0)

    @property
    def sound_span(self) -> dict[str, float]:
        """Where the window of audio lies, as `pool_to_rate` takes it."""
        return {"begin": self.offset, "keep": self.keep, "end": self.sound_end}


def fault(step: Callable[..., None], *arguments: Any) -> Exception | None:
    """What is wrong with a clip that a step fails on; None where it does not. What the device is at fault for is
    raised."""
    try:
        step(*arguments)
    except DEVICE_ERRORS:
        raise
    except CLIP_ERRORS as error:
        return error
    return None


class ClipReader:
    """Plans and reads clips for the models at hand; both methods may run in several threads at once.

    Args:
        readers: the models.
        settings: their `fps`, `num_frames` (with neither it is 16, or what a backbone that reads clips takes),
            `face_crop`, `window_seconds` and `audio_rate` (windows hold a whole number of its tokens).
    """

    def __init__(self, readers: Readers, settings: ExtractSettings):
        self.vision, self.audio, self.smile = readers.vision, readers.audio, readers.smile
        self.speech_rate = None if readers.recogniser is None else readers.recogniser.sampling_rate
        fps, num_frames = settings.fps, settings.num_frames
        clip_frames = 1 if self.vision is None else self.vision.clip_frames
        if fps is None and num_frames is None:
            num_frames = clip_frames if clip_frames > 1 else DEFAULT_FRAMES
        # A backbone that reads clips wants so many frames; else one token a frame is enough.
        self.reading = Reading(num_frames=num_frames, fps=fps, repeats=clip_frames > 1, face_crop=settings.face_crop)
        self.stretch = max(_FRAMES_AT_ONCE // clip_frames, 1) * clip_frames / fps if fps is not None else math.inf
        longest = None if self.audio is None else self.audio.max_seconds
        self.window = min(settings.window_seconds or longest or DEFAULT_WINDOW, longest or math.inf)
        if settings.audio_rate:
            self.window = max(1, int(self.window * settings.audio_rate + _CLOSE)) / settings.audio_rate
        self.reads_sound = self.audio is not None or self.smile is not None
        self.sound_rate = _SOUND_RATE if self.audio is None else self.audio.sampling_rate

    # --- which stretches ---------------------------------------------------------------------------------------------

    def plan(self, clip: Clip) -> list[Piece]:
        """The clip's pieces, in order, to be read; one at least. A clip that cannot be read has one with the error."""
        try:
            pieces = self._plan(clip) or [Piece(clip)]
        except CLIP_ERRORS as error:
            pieces = [Piece(clip, error=error)]
        pieces[-1].last = True
        return pieces

    def _plan(self, clip: Clip) -> list[Piece]:
        wants_speech = self.speech_rate is not None and clip.text is None and not clip.words
        wants_sound = self.reads_sound or wants_speech
        sources = (clip.video if self.vision is not None else None, clip.audio if wants_sound else None)
        files = {id(source): source for source in sources if source is not None}
        lengths = {key: track_lengths(source) for key, source in files.items()}
        frames = self._frame_pieces(clip, lengths.get(id(clip.video), (None, None))[0])
        sounds = self._sound_pieces(clip, lengths.get(id(clip.audio), (None, None))[1]) if wants_sound else []
        if wants_speech and len(sounds) > 1:  # the recogniser goes through long audio by itself
            frames = [Piece(clip, clip.start, clip.end, transcribes=True), *frames]
        elif wants_speech and sounds:
            sounds[0].transcribes = True
        # A short clip's one file is opened once for both.
        if len(frames) == len(sounds) == 1 and clip.video is clip.audio:
            return [replace(sounds[0], sees=True, frames_end=frames[0].frames_end)]
        return frames + sounds

    def _frame_pieces(self, clip: Clip, length: float | None) -> list[Piece]:
        if self.vision is None:
            return []
        if clip.video is None:
            return [Piece(clip, clip.start, clip.end, sees=True)] if clip.images else []
        total = _stretch(clip, length)
        if total <= 0:
            return []
        edges = [*(i * self.stretch for i in range(1, math.ceil(total / self.stretch - _CLOSE))), total]
        pieces = [
            Piece(clip, clip.start + begin, clip.start + end, sees=True, frames_end=end)
            for begin, end in pairwise([0.0, *edges])
        ]
        pieces[-1].end = clip.end
        return pieces

    def _sound_pieces(self, clip: Clip, length: float | None) -> list[Piece]:
        total = _stretch(clip, length)
        if total <= 0:
            return []
        if not self.reads_sound or total <= self.window + _CLOSE:
            return [Piece(clip, clip.start, clip.end, hears=self.reads_sound)]
        keeps = np.arange(0, total - _CLOSE, self.window).tolist()
        # The last window reaches back, so that all are of one length.
        begins = [*keeps[:-1], total - self.window]
        ends = [*(clip.start + keep for keep in keeps[1:]), clip.end]
        return [
            Piece(clip, clip.start + begin, end, hears=True, keep=keep)
            for begin, end, keep in zip(begins, ends, keeps, strict=True)
        ]

    # --- reading them ------------------------------------------------------------------------------------------------

    def load(self, piece: Piece) -> Piece:
        """Decodes and prepares a piece; what goes wrong with the clip is in its `error`."""
        piece.error = piece.error or fault(self._load, piece)
        return piece

    def _load(self, piece: Piece) -> None:
        clip = piece.clip
        rate = self.sound_rate if piece.hears else self.speech_rate if piece.transcribes else None
        if not piece.sees:
            file = {"audio": clip.audio}
        elif clip.video is None:
            file = {"images": clip.images}
        else:
            file = {"video" if rate is None else "media": clip.video}
        reading = replace(self.reading, vision=piece.sees, sampling_rate=rate)
        sample = read_sample({**file, "start": piece.begin, "end": piece.end}, reading)
        if sample.frames is not None:
            self._use_frames(piece, sample)
        if sample.audio is not None and rate is not None:
            self._use_sound(piece, sample.audio, rate)

    def _use_frames(self, piece: Piece, sample: Sample) -> None:
        assert self.vision is not None and sample.frames is not None
        fps, num_frames = self.reading.fps, self.reading.num_frames
        if sample.frame_times is not None:
            times = sample.frame_times + piece.offset
        else:  # images, taken `fps` a second (1 by default)
            step = 1 / (fps or 1.0)
            times, piece.frames_end = step * np.asarray(sample.frame_places), step * len(piece.clip.images or [])
        if self.reading.face_crop is not None:  # a frame that is left out leaves a gap, which is no other frame's time
            step = 1 / fps if fps else (piece.frames_end - piece.offset) / (num_frames or 1)
            piece.longest = max(step, float(np.diff(times).min(initial=np.inf)) if len(times) > 1 else 0.0)
        piece.pixels, piece.frame_times = self.vision.prepare(sample.frames), np.maximum(times, 0.0)

    def _use_sound(self, piece: Piece, wave: np.ndarray, rate: int) -> None:
        if piece.transcribes:
            piece.speech = resample_audio(wave, rate, self.speech_rate or rate)
        if not piece.hears:
            return
        wave = wave[: round(self.window * rate)]  # compressed audio may end a little later than its file states
        piece.sound_end = piece.offset + len(wave) / rate
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
        pieces = (piece for group in planned for piece in group)
        yield from _ordered_map(pool, reader.load, pieces, 2 * num_workers)


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
