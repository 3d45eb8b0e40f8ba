"""What is asked of a prediction: which clips, their words, windows, and the files to write."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from ..data.folders import check_writable
from ..explain.plot import FIGURE_FORMATS, check_figure
from ..pipeline_clcr import CLCRPipeline
from .output import TABLE_FORMATS, PredictionFile, column_types, model_digest
from .sources import Item, Items, file_digest, is_one_clip, open_items, sample_of
from .subtitles import read_subtitles


@dataclass
class Request:
    """
    What `clcr predict` is asked for. In Python: `items()` to read, `Predictor(request, pipe)` to read them with.

    Args:
        sources, split: see [`open_items`].
        text, features: what is said in a single clip; its ready features, each as NAME=FILE.
        window, every: seconds; None reads each item as one.
        subtitles: words of a single recording with their times, see [`read_subtitles`].
        transcribe, language: speech recogniser for what has no text, and its language.
        outputs: a table, a figure of a single recording in windows, or both.
        batch_size: clips or windows a forward pass.
        on_error: "skip" records what cannot be read with the reason, "raise" ends with it; None skips where there are
            several, or windows.

    Raises:
        ValueError: options that contradict each other, or that nothing here uses.
    """

    sources: Sequence[str] = ()
    text: str | None = None
    features: Sequence[str] = ()
    split: str | None = None
    window: float | None = None
    every: float | None = None
    subtitles: Path | None = None
    transcribe: str | None = None
    language: str | None = None
    outputs: Sequence[Path] = ()
    batch_size: int = 8
    on_error: str | None = None

    def __post_init__(self) -> None:
        self.in_windows = self.window is not None or self.every is not None
        self.one_clip = is_one_clip(self.sources)
        figures = [path for path in self.outputs if path.suffix.lower() in FIGURE_FORMATS]
        tables = [path for path in self.outputs if path not in figures]
        self.figure, self.table = next(iter(figures), None), next(iter(tables), None)
        self._check_words()
        self.on_error = self.on_error or ("raise" if self.one_clip and not self.in_windows else "skip")
        if self.on_error not in ("skip", "raise"):
            raise ValueError(f"--on_error takes skip or raise, got {self.on_error!r}")
        if self.split is not None and self.one_clip:
            raise ValueError("--split is for a table with a column of splits")
        if figures and not (self.one_clip and self.in_windows):
            raise ValueError(f"{figures[0]}: a figure shows one recording with --window; clcr explain draws one clip")
        if len(tables) > 1 or len(figures) > 1:
            raise ValueError("--output is given at most twice: a table and a figure")
        if self.table is not None and self.table.suffix.lower() not in TABLE_FORMATS:
            raise ValueError(f"--output {self.table}: a table of predictions ends in {', '.join(TABLE_FORMATS)}")
        for path in self.outputs:
            (check_figure if path in figures else check_writable)(path)

    def _check_words(self) -> None:
        """Texts, features, subtitles and recogniser."""
        if not self.sources and self.text is None and not self.features:
            raise ValueError("nothing to read: give a clip, a folder or a table, or --text, or --features")
        own = [name for name, given in (("--text", self.text), ("--features", self.features)) if given]
        if own and not self.one_clip:
            raise ValueError(f"{own[0]} is of one clip; for several give a table with such a column (docs/manifest.md)")
        if own and self.in_windows:
            advice = "--subtitles or --transcribe" if self.text else "windows are cut of media files alone"
            raise ValueError(f"{own[0]} of the whole does not go with --window; {advice}")
        if self.subtitles is not None and not (self.one_clip and self.sources):
            raise ValueError("--subtitles are of one recording; for several give a table with words and word_intervals")
        if self.subtitles is not None and (self.text is not None or self.transcribe is not None):
            raise ValueError("--subtitles, --text and --transcribe each give the words; choose one")
        if self.language is not None and self.transcribe is None:
            raise ValueError("--language is of the recogniser: give --transcribe too")

    def items(self) -> Items:
        """The items to read; a single clip with its text, features and words."""
        own = sample_of(None, self.text, self.features)
        if self.subtitles is not None:
            words, times = read_subtitles(self.subtitles)
            own |= {"words": words, "word_intervals": times} if self.in_windows else {"text": " ".join(words)}
        if not self.sources:
            return Items("--text and --features", "", lambda: iter([Item("sample", None, own)]), 1)
        found = open_items(self.sources, self.split)
        if not self.one_clip:
            return found
        (item,) = found
        whole = replace(item, sample={**(item.sample or {}), **own})
        return replace(found, open=lambda: iter([whole]))

    def file(self, path: Path, pipe: CLCRPipeline, items: Items, model_name: str) -> PredictionFile:
        """The table that the answers are written to; refused where it holds those to another request."""
        config = pipe.model.config
        columns = column_types(config, per_segment=pipe.model.per_segment, windows=self.in_windows)
        made: dict[str, Any] = {name: getattr(self, name) for name in ("window", "every", "text", "transcribe")}
        made |= {"language": self.language, "subtitles": self.subtitles and file_digest(self.subtitles)}
        made["features"] = [file_digest(given.partition("=")[2]) for given in self.features] or None
        settings = {name: value for name, value in made.items() if value is not None}
        identity = {"model": model_digest(pipe.model, pipe.processor), "input": items.digest, **settings}
        about = {"model_name": model_name, "input_name": items.name}
        return PredictionFile(path, {**identity, "columns": list(columns)}, columns, about)
