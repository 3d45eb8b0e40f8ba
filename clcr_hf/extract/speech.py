"""Speech without a backbone of ours: words with their times by a recogniser, and openSMILE's eGeMAPS features."""

import logging
import threading
import warnings
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from ..loading import WRAPPERS, refuse_missing
from ..media_files import optional

logger = logging.getLogger("clcr_hf.extract")

# Widths of eGeMAPSv02: low-level descriptors (a frame each 10 ms), functionals (a window).
OPENSMILE_WIDTHS = {"lld": 25, "functionals": 88}
_OPENSMILE_STEP = 0.01
# Low-level descriptors look over frames of 60 ms.
_OPENSMILE_SHORTEST = 0.1
# CTC models read long waveforms in overlapping pieces of this many seconds; Whisper goes through them by itself.
_CTC_PIECE = 30.0


@dataclass
class Transcript:
    """What was said.

    Attributes:
        text: the whole.
        words: each word without outer spaces.
        intervals: float32 `(W, 2)`, seconds of each word from the beginning of the audio; each ends no earlier than
            it begins and lies within the audio.
    """

    text: str
    words: list[str]
    intervals: np.ndarray


class SpeechRecogniser:
    """Words and their times by a transformers speech recogniser (Whisper, or a CTC model such as wav2vec2).

    Args:
        source: hub name or local folder.
        language: Whisper alone, such as "en"; found by the model when None.
        device, dtype: where and in which type it runs.

    Raises:
        ValueError: weights that the files lack, such as the head of a model that was never taught to spell.

    Whisper needs the `alignment_heads` of its generation configuration for word times, as all of OpenAI's hold them.
    """

    def __init__(
        self,
        source: str,
        *,
        language: str | None = None,
        device: torch.device | str = "cpu",
        dtype: torch.dtype = torch.float32,
    ):
        from transformers import (
            AutoConfig,
            AutoFeatureExtractor,
            AutoModelForCTC,
            AutoModelForSpeechSeq2Seq,
            AutoTokenizer,
            pipeline,
        )

        spells = type(AutoConfig.from_pretrained(source)) in AutoModelForCTC._model_mapping
        kind = AutoModelForCTC if spells else AutoModelForSpeechSeq2Seq
        model, report = kind.from_pretrained(source, dtype=dtype, key_mapping=WRAPPERS, output_loading_info=True)
        refuse_missing(source, [name for name in report["missing_keys"] if "masked_spec_embed" not in name])
        parts = {"tokenizer": AutoTokenizer, "feature_extractor": AutoFeatureExtractor}
        loaded = {name: part.from_pretrained(source) for name, part in parts.items()}
        self.pipeline = pipeline("automatic-speech-recognition", model=model, device=device, **loaded)
        self.sampling_rate = int(self.pipeline.feature_extractor.sampling_rate)
        self.is_whisper = self.pipeline.type == "seq2seq_whisper"
        self.language = language

    def __call__(self, wave: np.ndarray) -> Transcript:
        """The [`Transcript`] of `wave (samples,)`, float32 at `sampling_rate`."""
        seconds = len(wave) / self.sampling_rate
        options: dict[str, Any] = {"return_timestamps": "word"}
        if self.is_whisper:
            options["generate_kwargs"] = {"task": "transcribe", "language": self.language} if self.language else {}
        elif seconds > _CTC_PIECE:
            options["chunk_length_s"] = _CTC_PIECE
        with torch.inference_mode(), warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)
            found = self.pipeline({"raw": wave, "sampling_rate": self.sampling_rate}, **options)
        return tidy_transcript(found, seconds)


def tidy_transcript(found: dict[str, Any], seconds: float) -> Transcript:
    """A recogniser's `{"text", "chunks": [{"text", "timestamp": (start, end)}]}` as a [`Transcript`].

    A time that is not given (Whisper leaves the last word's end open) becomes the next word's start or the end of the
    audio; times outside the audio are brought into it.
    """
    chunks = [chunk for chunk in found.get("chunks", []) if chunk["text"].strip()]
    starts = [chunk["timestamp"][0] for chunk in chunks]
    intervals, before = np.zeros((len(chunks), 2), np.float32), 0.0
    for index, chunk in enumerate(chunks):
        start, end = chunk["timestamp"]
        if end is None:
            end = next((later for later in starts[index + 1 :] if later is not None), seconds)
        start = min(max(before if start is None else start, 0.0), seconds)
        before = min(max(end, start), seconds)
        intervals[index] = start, before
    words = [chunk["text"].strip() for chunk in chunks]
    return Transcript(found["text"].strip(), words, intervals)


class OpenSmile:
    """eGeMAPSv02 features by openSMILE.

    openSMILE's licence allows research and private use, not products: a warning says so when this is made.

    Args:
        level: `"lld"` (25 low-level descriptors, one each 10 ms) or `"functionals"` (88, one for each window).
        window: seconds of a window of functionals.

    Raises:
        ImportError: the extra `opensmile` is not installed.
    """

    sampling_rate = 16_000
    num_levels = None  # its features have no axis of levels

    def __init__(self, level: str = "lld", window: float = 1.0):
        self._opensmile = optional(
            "opensmile",
            'eGeMAPS features need openSMILE: pip install ".[opensmile]" in a clone of clcr-hf '
            "(its licence allows research and private use, not commercial products)",
        )
        logger.warning("openSMILE is licensed for research and private use only, not for commercial products")
        self.level = level
        self.window = window
        self.width = OPENSMILE_WIDTHS[level]
        # Its objects are not made for several threads at a time: each thread has its own.
        self._local = threading.local()

    @property
    def about(self) -> dict[str, Any]:
        """What made the features, for the record."""
        return {"opensmile": f"eGeMAPSv02 {self.level}", "width": self.width}

    def __call__(self, wave: np.ndarray) -> tuple[np.ndarray, float]:
        """Features float32 `(T, 25)` or `(T, 88)` of `wave (samples,)` at 16 kHz, and the seconds from one to the
        next. Values that are not finite (a window without voice) are 0."""
        if self.level == "lld":
            return self._process(wave), _OPENSMILE_STEP
        shortest, length = (round(each * self.sampling_rate) for each in (_OPENSMILE_SHORTEST, self.window))
        parts = [wave[begin : begin + length] for begin in range(0, max(len(wave), 1), length)]
        if len(parts) > 1 and len(parts[-1]) < shortest:
            parts.pop()
        return np.concatenate([self._process(part) for part in parts]), self.window

    def _process(self, wave: np.ndarray) -> np.ndarray:
        if not hasattr(self._local, "smile"):
            level = "LowLevelDescriptors" if self.level == "lld" else "Functionals"
            self._local.smile = self._opensmile.Smile(
                feature_set=self._opensmile.FeatureSet.eGeMAPSv02,
                feature_level=getattr(self._opensmile.FeatureLevel, level),
            )
        wave = np.pad(wave, (0, max(0, round(_OPENSMILE_SHORTEST * self.sampling_rate) - len(wave))))
        table = self._local.smile.process_signal(wave, self.sampling_rate)
        return np.nan_to_num(table.to_numpy(np.float32), nan=0.0, posinf=0.0, neginf=0.0)
