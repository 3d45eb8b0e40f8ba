"""Audio of a clip: placed by its time stamps, mixed, resampled; and waveforms that come as arrays."""

import math
from collections.abc import Iterator
from functools import lru_cache
from typing import Any

import numpy as np

from .media_files import damaged, import_av
from .media_scan import HOLE, Plan, check_rate

_MAX_CHANNELS = 32
_TAPS = 64  # samples around one, at the lower of both rates, that the resampler looks at; FFmpeg's filter has 32
_AT_ONCE = 0.5  # seconds of audio that are resampled together


class Samples:
    """Collects the audio inside the window.

    Samples are counted from the clip's beginning, at the file's rate. A hole between them is filled with silence;
    stamps that are off by less than `HOLE` are jitter, and stamps that fall back begin anew. The resampler begins at a
    sample of the file that is one of the result's too, so that a window has the very samples of the whole.

    Args:
        plan: what is wanted.
        rate: samples a second of the result.
        name: of the file.
    """

    def __init__(self, plan: Plan, rate: int, name: str):
        self.plan, self.rate, self.name = plan, rate, name
        self.first = round(plan.start * rate)
        self.length = None if plan.end is None else round(plan.end * rate) - self.first
        self.form: tuple[int, str, str] | None = None  # of the file: rate, layout, format
        self.file_rate = 0
        self.shift = 0  # of the stamps, in samples of the file
        self.heard = 0  # the sample of the file that comes next
        self.waiting: list[np.ndarray] = []  # (samples, channels) at the file's rate, not resampled yet
        self.parts: list[np.ndarray] = []  # (channels, samples) of the result
        self.position: int | None = None  # of the result's next sample, from the window's beginning
        self.done = False

    def add(self, frame: Any, time: float | None) -> None:
        form = (frame.sample_rate, frame.layout.name, frame.format.name)
        if self.form is None:
            self._open(*form)
            self.heard = 0 if time is None else round(time * frame.sample_rate)
        elif form != self.form:
            raise damaged(self.name, f"its audio changes its form at {time or 0:.2f} s, from {self.form} to {form}")
        elif time is not None:
            hole = round(time * frame.sample_rate) + self.shift - self.heard
            if hole < -HOLE * frame.sample_rate:
                self.shift -= hole
            elif hole > HOLE * frame.sample_rate:
                self._check_room(hole)
                for begin in range(0, hole, frame.sample_rate):
                    self._take(np.zeros((min(hole - begin, frame.sample_rate), self.channels), np.float32))
        self._check_room(frame.samples)
        for data in self._interleaved(frame):
            self._take(data if self.weights is None else data @ self.weights)

    def _interleaved(self, frame: Any) -> Iterator[np.ndarray]:
        """Samples of a frame, float32 `(samples, channels)`."""
        # Of eight channels or more in planes, PyAV (18.1 at least) reads planes that are not there.
        if frame.format.name == "fltp" and frame.layout.nb_channels < 8:
            yield np.ascontiguousarray(frame.to_ndarray().T)
            return
        frame.pts = None
        for part in self.unpack.resample(frame):
            yield part.to_ndarray().reshape(part.samples, part.layout.nb_channels)

    def _open(self, rate: int, layout: str, sample_format: str) -> None:
        av = import_av()
        self.form, self.file_rate = (rate, layout, sample_format), rate
        self.unpack = av.AudioResampler(format="flt", layout=layout, rate=rate)
        self.weights = mono_weights(layout)[:, None] if self.plan.mono else None
        self.channels = 1 if self.plan.mono else av.AudioLayout(layout).nb_channels
        shared = math.gcd(rate, self.rate)
        self.unit, self.unit_out = rate // shared, self.rate // shared
        # The first sample of the file that the window needs.
        cut = int(self.plan.start * rate) - math.ceil(_TAPS * max(1.0, rate / self.rate))
        self.cut = cut // self.unit * self.unit
        self.layout = "mono" if self.plan.mono else layout
        self.resampler = None if rate == self.rate else av.AudioResampler("flt", self.layout, self.rate)

    def _check_room(self, samples: int) -> None:
        """Refuses what `samples` more would make of the audio kept; a file may state any rate and any start."""
        end = (self.heard + samples) * self.rate / self.file_rate - self.first
        end = end if self.length is None else min(end, self.length)
        self.plan.check_bytes(4 * self.channels * max(end, 0), "audio", self.name)
        self.plan.check_bytes(4 * self.channels * samples * self.rate / self.file_rate, "audio", self.name)

    def _take(self, data: np.ndarray) -> None:
        """Takes in what comes next, `(samples, channels)` at the file's rate."""
        begin, self.heard = self.heard, self.heard + len(data)
        if self.done or self.heard <= self.cut:
            return
        if self.position is None:
            base = max(begin, self.cut) // self.unit * self.unit
            data = np.pad(data, ((begin - base, 0), (0, 0))) if base < begin else data[base - begin :]
            self.position = base // self.unit * self.unit_out - self.first
            if self.position > 0:
                self.parts.append(np.zeros((self.channels, self.position), np.float32))
        self.waiting.append(data)
        if sum(map(len, self.waiting)) >= _AT_ONCE * self.file_rate:
            self._resample()

    def _resample(self) -> None:
        """Resamples what waits; with nothing waiting, what is left in the resampler."""
        data = np.concatenate(self.waiting) if self.waiting else None
        self.waiting = []
        parts = _through(self.resampler, data, self.layout, self.file_rate)
        for part in parts:
            before = self.position or 0
            self.position = before + len(part)
            self.parts.append(part[min(max(-before, 0), len(part)) :].T)
        self.done = self.length is not None and (self.position or 0) >= self.length

    def finish(self) -> int:
        """Resamples what waits; returns how many samples the window has."""
        if self.form is None:
            return 0
        while self.position is not None and not self.done and self.waiting:
            self._resample()
        if self.position is not None and not self.done:
            self._resample()
        end = max(round(self.heard * self.rate / self.file_rate) - self.first, 0)
        return end if self.length is None else min(end, self.length)

    def close(self) -> np.ndarray:
        """float32 `(samples,)` for mono, else `(channels, samples)`."""
        if self.form is None:
            return np.zeros(0 if self.plan.mono else (1, 0), np.float32)
        end = self.finish()
        whole = np.concatenate([np.zeros((self.channels, 0), np.float32), *self.parts], axis=1)[:, :end]
        whole = np.ascontiguousarray(np.pad(whole, ((0, 0), (0, end - whole.shape[1]))), dtype=np.float32)
        return whole[0] if self.plan.mono else whole


def _through(resampler: Any, data: np.ndarray | None, layout: str, rate: int) -> list[np.ndarray]:
    """What a resampler to "flt" gives, each `(samples, channels)`, for `data (samples, channels)` at `rate`; without
    data, what is left in it. Without a resampler, the data."""
    if resampler is None:
        return [] if data is None else [data]
    frame = None
    if data is not None:
        interleaved = np.ascontiguousarray(data, np.float32).reshape(1, -1)
        frame = import_av().AudioFrame.from_ndarray(interleaved, format="flt", layout=layout)
        frame.sample_rate = rate
    return [part.to_ndarray().reshape(part.samples, part.layout.nb_channels) for part in resampler.resample(frame)]


@lru_cache
def mono_weights(layout: str) -> np.ndarray:
    """What each channel of a layout adds to the mono mix of `ffmpeg -ac 1`: float32 `(channels,)`, scaled so that the
    mix of full-scale channels stays within [-1, 1]. Where FFmpeg does not know what the channels are, each adds alike.
    """
    av = import_av()
    channels = av.AudioLayout(layout).nb_channels
    try:
        parts = _through(av.AudioResampler("flt", "mono", 48_000), np.eye(channels), layout, 48_000)
        weights = np.concatenate(parts)[:, 0]
    except (av.error.FFmpegError, ValueError):
        weights = np.ones(channels, np.float32)
    return weights / max(1.0, float(np.abs(weights).sum()))


def resample_audio(array: Any, orig_sr: int, sampling_rate: int) -> np.ndarray:
    """Mixes a waveform to mono and resamples it (band-limited, FFmpeg's resampler).

    An array does not say which loudspeaker a channel is for, so the mix is the plain mean.

    Args:
        array: `(samples,)`, `(channels, samples)` or `(samples, channels)`; the shorter side counts as channels.
            Floats are taken as they are, integers as PCM of their width (full scale becomes [-1, 1]).
        orig_sr, sampling_rate: samples a second before and after.

    Returns:
        float32 `(round(samples * sampling_rate / orig_sr),)`.

    Raises:
        ValueError: wrong shape or rates, or values that are not finite.
        ImportError: the rates differ and PyAV is not installed.
    """
    check_rate(orig_sr, "orig_sr")
    check_rate(sampling_rate, "sampling_rate")
    wave = _mean(_as_float(np.asarray(array)))
    if not np.isfinite(wave).all():
        raise ValueError("the waveform holds NaN or infinite values; repair it before resampling")
    if orig_sr == sampling_rate or wave.size == 0:
        return wave
    resampler = import_av().AudioResampler("flt", "mono", int(sampling_rate))
    parts = [part[:, 0] for given in (wave, None) for part in _through(resampler, given, "mono", int(orig_sr))]
    length = round(wave.size * sampling_rate / orig_sr)
    out = np.concatenate(parts)[:length]
    return np.pad(out, (0, length - out.size))


def _as_float(array: np.ndarray) -> np.ndarray:
    if array.dtype == np.uint8:
        return (array.astype(np.float32) - 128) / 128
    if np.issubdtype(array.dtype, np.signedinteger):
        return (array / -float(np.iinfo(array.dtype).min)).astype(np.float32)
    if np.issubdtype(array.dtype, np.floating):
        return array.astype(np.float32)
    raise ValueError(f"a waveform holds floats or PCM integers, got {array.dtype}")


def _mean(wave: np.ndarray) -> np.ndarray:
    if wave.ndim == 1:
        return wave
    if wave.ndim != 2 or min(wave.shape) > _MAX_CHANNELS:
        raise ValueError(f"a waveform is (samples,), (channels, samples) or (samples, channels), got {wave.shape}")
    return wave.mean(axis=0 if wave.shape[0] <= wave.shape[1] else 1, dtype=np.float32)
