"""Log spectrograms of the benchmarks' protocols (paper, section on protocols) as a transformers feature extractor.

A waveform becomes an image of `F` frequencies by `T` frames, which `CLCRModel` shows to an image backbone such as
ResNet as one channel, `(B, 1, F, T)`. For 128 mel bins by 1024 frames, as AST reads them, transformers' own
`ASTFeatureExtractor` is the one to take.
"""

from typing import Any, Literal

import numpy as np
from transformers import BatchFeature
from transformers.audio_utils import mel_filter_bank, window_function
from transformers.feature_extraction_sequence_utils import SequenceFeatureExtractor

_CHUNK = 4096  # frames transformed at once, so that an hour of audio needs no more memory than its spectrogram
_MOST = 2**20  # of samples a second and in a frame
_MOST_SAMPLES = 2**28  # that a waveform may be brought to
_TUKEY_SHARE = 0.25  # of the window that is tapered, as scipy.signal.spectrogram has it

# librosa.stft for CREMA-D and Kinetics-Sounds, scipy.signal.spectrogram for AVE, each followed by log(abs + 1e-7).
_PRESETS: dict[str, dict[str, Any]] = {
    "cremad": {"sampling_rate": 22_050, "n_fft": 512, "hop_length": 353, "duration": 3.0},
    "kinetics_sounds": {"sampling_rate": 16_000, "n_fft": 256, "hop_length": 128, "duration": 5.0},
    "ave": {
        "sampling_rate": 16_000,
        "n_fft": 512,
        "hop_length": 159,
        "duration": 10.0,
        "center": False,
        "power": 2.0,
        "window_name": "tukey",
        "detrend": True,
        "density": True,
    },
}


class CLCRFeatureExtractor(SequenceFeatureExtractor):
    """Mono waveforms to log spectrograms `(B, T, F)`, float32, with an attention mask `(B, T)` over the frames.

    A frame is `n_fft` samples under a window; its spectrum's absolute value to the `power`, by frequency (or summed
    into mel bands), gives `log(value + log_offset)`. With `duration`, every waveform is first brought to that length;
    samples are clipped to [-1, 1].

    Args:
        sampling_rate: samples a second that the waveforms must have.
        n_fft: samples in a frame, an even number; `F = n_fft // 2 + 1` without mel bands.
        hop_length: samples between the starts of two frames.
        center: frames are centred on multiples of `hop_length`, with silence beyond both ends, so that
            `T = 1 + samples // hop_length`; else they lie inside the audio, `T = 1 + (samples - n_fft) // hop_length`.
        duration: seconds every waveform is brought to; None leaves lengths alone.
        fit: how short waveforms reach `duration`: "repeat" plays them again (masked in throughout), "pad" adds silence
            (masked out). Long ones are cut.
        power: 1 for the amplitude, 2 for the energy.
        log_offset: added before the logarithm.
        num_mel_bins: bands of a mel filter bank (Slaney's, from 0 Hz to half the rate) in place of frequencies.
        window_name: "hann", or "tukey" (a quarter of it tapered).
        detrend: take the mean off every frame first.
        density: scale to energy per hertz of a one-sided spectrum; needs `power=2`.
        padding_value: what `__call__` fills shorter spectrograms of a batch with.

    Raises:
        ValueError: an option out of range.
    """

    model_input_names = ["input_values", "attention_mask"]

    def __init__(
        self,
        sampling_rate: int = 16_000,
        n_fft: int = 512,
        hop_length: int = 160,
        center: bool = True,
        duration: float | None = None,
        fit: Literal["repeat", "pad"] = "repeat",
        power: float = 1.0,
        log_offset: float = 1e-7,
        num_mel_bins: int | None = None,
        window_name: Literal["hann", "tukey"] = "hann",
        detrend: bool = False,
        density: bool = False,
        padding_value: float = 0.0,
        **kwargs: Any,
    ):
        self.sampling_rate = sampling_rate
        self.n_fft = n_fft
        self.hop_length = hop_length
        self.center = center
        self.duration = duration
        self.fit = fit
        self.power = power
        self.log_offset = log_offset
        self.num_mel_bins = num_mel_bins
        self.window_name = window_name
        self.detrend = detrend
        self.density = density
        self._check_options()
        kwargs.pop("feature_size", None)  # stated by a saved file; it follows from the other options
        super().__init__(num_mel_bins or n_fft // 2 + 1, sampling_rate, padding_value, **kwargs)

    def _check_options(self) -> None:
        for name in ("sampling_rate", "n_fft", "hop_length", "num_mel_bins"):
            value = getattr(self, name)
            if value is not None and (not isinstance(value, int) or isinstance(value, bool) or not 1 <= value <= _MOST):
                raise ValueError(f"`{name}` must be a positive whole number, at most {_MOST}, got {value!r}")
        if self.n_fft % 2:
            raise ValueError(f"`n_fft` must be even, got {self.n_fft}")
        for name in ("duration", "power", "log_offset"):
            number = getattr(self, name)
            if number is not None and not 0 < number < float("inf"):
                raise ValueError(f"`{name}` must be positive, got {number!r}")
        if self.duration is not None and round(self.duration * self.sampling_rate) < 1:
            raise ValueError(f"`duration` ({self.duration} s) is shorter than one sample at {self.sampling_rate} Hz")
        if self.duration is not None and self.duration * self.sampling_rate > _MOST_SAMPLES:
            raise ValueError(f"`duration` ({self.duration} s) is more than {_MOST_SAMPLES} samples")
        for name, allowed in (("fit", ("repeat", "pad")), ("window_name", ("hann", "tukey"))):
            if getattr(self, name) not in allowed:
                raise ValueError(f"`{name}` must be one of {', '.join(allowed)}, got {getattr(self, name)!r}")
        if self.density and self.power != 2:
            raise ValueError(f"`density` is energy per hertz and needs `power=2`, got power={self.power}")

    @classmethod
    def preset(cls, name: Literal["cremad", "kinetics_sounds", "ave"], **options: Any) -> "CLCRFeatureExtractor":
        """The spectrogram of a benchmark's protocol (paper, section on protocols); `options` override.

        - "cremad": 22,050 Hz, 3 s, frames of 512 each 353 samples: `(188, 257)`;
        - "kinetics_sounds": 16 kHz, 5 s, frames of 256 each 128 samples: `(626, 129)`;
        - "ave": 16 kHz, 10 s, frames of 512 that share 353 samples, as `scipy.signal.spectrogram`: `(1004, 257)`.

        Raises:
            ValueError: no such preset.
        """
        if name not in _PRESETS:
            raise ValueError(f"no preset {name!r}; there are {', '.join(_PRESETS)}")
        return cls(**{**_PRESETS[name], **options})

    def __call__(
        self,
        raw_speech: Any,
        sampling_rate: int | None = None,
        padding: bool | str = True,
        **batching: Any,
    ) -> BatchFeature:
        """Spectrograms of one waveform or of a batch.

        Args:
            raw_speech: a mono waveform `(samples,)`, full scale [-1, 1] (array, tensor or list of numbers), or a list
                of such. A waveform without samples gives silence that is masked out.
            sampling_rate: rate of the waveforms; checked against the extractor's.
            padding, batching (`max_length`, `truncation`, `pad_to_multiple_of`, `return_attention_mask`,
                `return_tensors`): as in every transformers extractor; lengths are counted in frames.

        Returns:
            BatchFeature: `input_values` `(B, T, F)` float32 and `attention_mask` `(B, T)` int32.

        Raises:
            ValueError: another rate, more than one channel, NaN or infinite samples, no audio at all.
        """
        if sampling_rate is not None and sampling_rate != self.sampling_rate:
            raise ValueError(
                f"the waveform has {sampling_rate} samples a second, this extractor is for {self.sampling_rate}; "
                "resample it first (clcr_hf.media.resample_audio)"
            )
        encoded: dict[str, list[np.ndarray]] = {"input_values": [], "attention_mask": []}
        for index, wave in enumerate(_as_waves(raw_speech)):
            wave, real = self._fitted(_checked(wave, index))
            values = self._log_spectrogram(wave)
            encoded["input_values"].append(values)
            encoded["attention_mask"].append((np.arange(len(values)) < self._frames(real)).astype(np.int32))
        return self.pad(encoded, padding=padding, **batching)

    def _fitted(self, wave: np.ndarray) -> tuple[np.ndarray, int]:
        """The waveform at its final length, clipped, and how many of its samples are not padding."""
        real = wave.size
        if self.duration is not None:
            length = round(self.duration * self.sampling_rate)
            if self.fit == "repeat" and real:
                wave = np.resize(wave, length)
                real = length
            real = min(real, length)
            wave = np.pad(wave[:length], (0, length - real))
        return np.clip(wave, -1.0, 1.0), real

    def _frames(self, samples: int) -> int:
        """How many frames `samples` samples fill; a waveform shorter than a frame has one."""
        if samples == 0:
            return 0
        return 1 + (samples if self.center else max(samples - self.n_fft, 0)) // self.hop_length

    def _log_spectrogram(self, wave: np.ndarray) -> np.ndarray:
        if self.center:
            wave = np.pad(wave, self.n_fft // 2)
        wave = np.pad(wave, (0, max(0, self.n_fft - wave.size)))
        frames = np.lib.stride_tricks.sliding_window_view(wave, self.n_fft)[:: self.hop_length]
        parts = [self._transform(frames[begin : begin + _CHUNK]) for begin in range(0, len(frames), _CHUNK)]
        return np.concatenate(parts)

    def _transform(self, frames: np.ndarray) -> np.ndarray:
        """Frames `(T, n_fft)` to their log spectra `(T, F)`, float32."""
        window = _window(self.window_name, self.n_fft)
        if self.detrend:
            frames = frames - frames.mean(axis=1, keepdims=True)
        values = np.abs(np.fft.rfft(frames * window)) ** self.power
        if self.density:
            values /= self.sampling_rate * (window**2).sum()
            values[:, 1:-1] *= 2  # what the other half of the spectrum holds
        if self.num_mel_bins is not None:
            values = values @ self._mel_filters()
        return np.log(values + self.log_offset).astype(np.float32)

    def _mel_filters(self) -> np.ndarray:
        return mel_filter_bank(
            num_frequency_bins=self.n_fft // 2 + 1,
            num_mel_filters=self.num_mel_bins,
            min_frequency=0.0,
            max_frequency=self.sampling_rate / 2,
            sampling_rate=self.sampling_rate,
            norm="slaney",
            mel_scale="slaney",
        )


def _as_waves(raw_speech: Any) -> list[Any]:
    """A list of waveforms: a list of numbers is one waveform, a list of sequences is a batch."""
    if isinstance(raw_speech, list | tuple):
        if not raw_speech:
            raise ValueError("no audio was given")
        return list(raw_speech) if np.ndim(raw_speech[0]) else [raw_speech]
    return [raw_speech]


def _checked(wave: Any, index: int) -> np.ndarray:
    array = np.asarray(wave.detach().cpu() if hasattr(wave, "detach") else wave)
    if array.ndim != 1:
        raise ValueError(f"waveform {index} has shape {array.shape}; pass mono waveforms (samples,), one a list entry")
    if array.size and not np.issubdtype(array.dtype, np.floating):
        raise ValueError(f"waveform {index} is {array.dtype}; pass floats with full scale [-1, 1]")
    array = array.astype(np.float64)
    if not np.isfinite(array).all():
        raise ValueError(f"waveform {index} holds NaN or infinite samples; repair it, or leave it out")
    return array


def _window(name: str, length: int) -> np.ndarray:
    """Periodic window `(length,)`, float64."""
    if name == "hann":
        return window_function(length, "hann")
    steps = np.arange(length)
    taper = _TUKEY_SHARE * length / 2
    distance = np.minimum(steps, length - steps)  # from the nearer end
    return np.where(distance < taper, 0.5 - 0.5 * np.cos(np.pi * distance / taper), 1.0)
