"""Predicts a stream of items, batch by batch, whole or in windows."""

import itertools
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

from ..extract.clips import CLIP_ERRORS
from ..extract.speech import SpeechRecogniser
from ..pipeline_clcr import CLCRPipeline
from ..samples import Reading, read_sample
from .output import PredictionFile, result_rows
from .request import Request
from .sources import Item

# What gets one answer: a window of an item as of `CLCRPipeline.windows`, or a whole item, the `sample` alone; with
# `error` where it cannot be read.
Unit = tuple[Item, dict[str, Any]]


class Predictor:
    """
    Reads items with a model.

    Args:
        request: what is asked for.
        pipe: a pipeline "multimodal-sentiment".

    Attributes:
        expect: called with how many windows an item has, when they are about to be read.
        cut: by item, `(read, seconds)` of what lasts longer than the model reads.
        recordings: by item, `(read, seconds, windows)` of what was read in windows.

    Raises:
        ValueError: words are given to a model that reads none.
    """

    def __init__(self, request: Request, pipe: CLCRPipeline) -> None:
        for name in ("subtitles", "transcribe"):
            if getattr(request, name) is not None and pipe.processor.tokenizer is None:
                raise ValueError(f"--{name}: this model reads no text")
        self.request, self.pipe = request, pipe
        self.recogniser: SpeechRecogniser | None = None
        if request.transcribe is not None:
            self.recogniser = SpeechRecogniser(request.transcribe, language=request.language, device=pipe.device)
        self.expect: Callable[[int], Any] = lambda count: None
        self.cut: dict[str, tuple[float, float]] = {}
        self.recordings: dict[str, tuple[float, float, int]] = {}

    def write(self, items: Iterable[Item], rows: PredictionFile, done: Callable[[int], None]) -> None:
        """Adds to `rows` what they lack, a batch at a time and in order; `done` is called with how many answers came
        with each batch."""
        units = itertools.islice(self._units(items), rows.done, None)
        while group := list(itertools.islice(units, self.request.batch_size)):
            rows.add([result_rows(item.id, item.path, result) for item, result in self._answers(group)])
            done(len(group))

    def _units(self, items: Iterable[Item]) -> Iterator[Unit]:
        for item in items:
            if item.sample is None:
                yield item, self._failed(ValueError(item.error))
            elif self.request.in_windows:
                yield from self._windows(item)
            else:
                yield item, {"sample": item.sample}

    def _windows(self, item: Item) -> Iterator[Unit]:
        rate = None if self.recogniser is None else self.recogniser.sampling_rate
        try:
            windows = self.pipe.windows(item.sample, self.request.window, self.request.every, sampling_rate=rate)
            self.expect(len(windows))
            self.recordings[item.id] = (windows.covered, windows.seconds, len(windows))
            yield from ((item, window) for window in windows)
        except CLIP_ERRORS as error:
            yield item, self._failed(error)

    def _failed(self, error: Exception) -> dict[str, Any]:
        """What stands for a sample that cannot be read."""
        if self.request.on_error == "raise":
            raise error
        return {"sample": None, "error": " ".join(str(error).split())}

    def _answers(self, units: list[Unit]) -> list[tuple[Item, dict[str, Any]]]:
        options: dict[str, Any] = {"on_error": self.request.on_error, "return_explanation": True}
        options["top_k"] = self.pipe.model.config.num_labels  # all: segments have their probabilities then too
        results = self.pipe.read_windows([self._transcribed(window) for _, window in units], **options)
        answers = [(item, result) for (item, _), result in zip(units, results, strict=True)]
        for item, result in answers:
            if "read_seconds" in result and not self.request.in_windows:
                self.cut[item.id] = (result["read_seconds"], result["seconds"])
        return answers

    def _transcribed(self, window: dict[str, Any]) -> dict[str, Any]:
        if window["sample"] is None:
            return window
        try:
            return {**window, "sample": self.heard(window["sample"])}
        except CLIP_ERRORS as error:
            return {**window, **self._failed(error)}

    def heard(self, sample: Mapping[str, Any]) -> dict[str, Any]:
        """The sample, and where it has no text what the recogniser hears in it."""
        if self.recogniser is None or sample.get("text"):
            return dict(sample)
        file = {key: sample[key] for key in ("audio", "media", "sampling_rate", "start", "end") if key in sample}
        wave = read_sample(file, Reading(vision=False, sampling_rate=self.recogniser.sampling_rate)).audio
        text = None if wave is None else self.recogniser(wave).text
        return {**sample, **({"text": text} if text else {})}
