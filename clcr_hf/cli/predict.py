"""`clcr predict`: clips, folders, tables and long recordings to answers."""

import hashlib
import json
import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.table import Table

from .app import SPELLING, app, quiet
from .device import Device, choose_device
from .model import check_model
from .read import Features, Model, Text, load_reader, print_result, sample_of

_FIGURES = (".png", ".svg", ".pdf")
_DEFAULT_OUTPUT = "predictions.csv"


@app.command(context_settings=SPELLING)
def predict(
    sources: Annotated[
        list[str] | None,
        typer.Argument(
            help="A clip (file or http(s) address), several, a folder, a pattern in quotes, or a table "
            "(CSV, TSV, JSONL, Parquet; docs/manifest.md).",
            show_default=False,
        ),
    ] = None,
    text: Text = None,
    features: Features = None,
    model: Model = "runs/talking_faces",
    output: Annotated[
        list[str] | None,
        typer.Option(
            help="Table to write: csv, jsonl or parquet; of a recording in windows also a figure: png, svg or pdf. "
            "May be given twice. Default for more than one clip: predictions.csv.",
            show_default=False,
        ),
    ] = None,
    window: Annotated[str | None, typer.Option(help="Read long recordings in windows of so long: 10s, 1m.")] = None,
    every: Annotated[str | None, typer.Option(help="A window begins each so often. Default: --window.")] = None,
    subtitles: Annotated[
        Path | None, typer.Option(help="Words of a recording with their times: srt, vtt, or json of a recogniser.")
    ] = None,
    transcribe: Annotated[
        str | None, typer.Option(help="Speech recogniser for what has no text: Whisper or CTC.")
    ] = None,
    language: Annotated[str | None, typer.Option(help="Language for Whisper, such as en.")] = None,
    split: Annotated[str | None, typer.Option(help="Of a table: the rows of this split alone.")] = None,
    batch_size: Annotated[int, typer.Option(help="Clips or windows a forward pass.", min=1)] = 8,
    on_error: Annotated[
        str | None,
        typer.Option(
            help="A clip that cannot be read: skip (its row says why) or raise. Default: raise for one, else skip.",
        ),
    ] = None,
    top: Annotated[int, typer.Option(help="Of one clip: most exchanged tokens to show a modality.", min=0)] = 5,
    device: Device = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON for machines.")] = False,
) -> None:
    """Score clips, or windows of a recording, and say what decided. A table that was not finished is continued by the
    same command."""
    if on_error not in (None, "skip", "raise"):
        raise ValueError(f"--on_error takes skip or raise, got {on_error!r}")
    windows = {"window": _seconds(window, "--window"), "every": _seconds(every, "--every")}
    asked = _Asked(
        sources or [], text, features or [], split, windows, subtitles, transcribe, language, batch_size, on_error
    )
    asked.outputs = [Path(name) for name in output or []]
    if asked.one_clip and not asked.outputs and not asked.in_windows:
        asked.check()
        pipe, sample = load_reader(next(iter(asked.sources), None), text, features, model, device)
        _print_one(pipe, asked.completed(sample, pipe), top, as_json)
        return
    _predict_many(asked, model, device, as_json)


@dataclass
class _Asked:
    """What the command was asked for."""

    sources: Sequence[str]
    text: str | None
    features: Sequence[str]
    split: str | None
    windows: dict[str, float | None]
    subtitles: Path | None
    transcribe: str | None
    language: str | None
    batch_size: int
    on_error: str | None
    outputs: list[Path] = field(default_factory=list)
    recogniser: Any = None

    @property
    def in_windows(self) -> bool:
        return any(value is not None for value in self.windows.values())

    @property
    def one_clip(self) -> bool:
        """Whether it is about one sample, not a table, a folder or a pattern."""
        if len(self.sources) != 1:
            return not self.sources
        from ..data.table.read import TABLE_SUFFIXES
        from ..fetch import is_url

        path = Path(self.sources[0]).expanduser()
        if is_url(self.sources[0]):
            return True
        listed = path.is_dir() or path.suffix.lower() in TABLE_SUFFIXES
        return not listed and (path.is_file() or not re.search(r"[*?\[]", str(path)))

    def check(self) -> None:
        """Options that contradict each other, or that nothing here uses."""
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
        if self.split is not None and self.one_clip:
            raise ValueError("--split is for a table with a column of splits")
        figures = [path for path in self.outputs if path.suffix.lower() in _FIGURES]
        if figures and not (self.one_clip and self.in_windows):
            raise ValueError(f"{figures[0]}: a figure shows one recording with --window; clcr explain draws one clip")
        if len(self.outputs) - len(figures) > 1 or len(figures) > 1:
            raise ValueError("--output is given at most twice: a table and a figure")

    @property
    def figure(self) -> Path | None:
        return next((path for path in self.outputs if path.suffix.lower() in _FIGURES), None)

    @property
    def on_errors(self) -> str:
        return self.on_error or ("raise" if self.one_clip and not self.in_windows else "skip")

    def table(self, as_json: bool) -> Path | None:
        """The table to write; of more than one clip there is one unless JSON is printed."""
        from ..predict.output import TABLE_FORMATS

        table = next((path for path in self.outputs if path != self.figure), None)
        if table is not None and table.suffix.lower() not in TABLE_FORMATS:
            raise ValueError(f"--output {table}: a table of predictions ends in {', '.join(TABLE_FORMATS)}")
        return Path(_DEFAULT_OUTPUT) if table is None and not self.one_clip and not as_json else table

    @property
    def settings(self) -> dict[str, Any]:
        """What answers depend on besides the model and its input."""
        words = None if self.subtitles is None else hashlib.sha256(self.subtitles.read_bytes()).hexdigest()[:16]
        made = {**self.windows, "text": self.text, "subtitles": words, "transcribe": self.transcribe}
        return {name: value for name, value in {**made, "language": self.language}.items() if value is not None}

    def load_recogniser(self, pipe: Any) -> None:
        if self.transcribe is None:
            return
        if pipe.processor.tokenizer is None:
            raise ValueError("--transcribe: this model reads no text")
        from ..extract.speech import SpeechRecogniser

        self.recogniser = SpeechRecogniser(self.transcribe, language=self.language, device=pipe.device)

    def completed(self, sample: dict[str, Any], pipe: Any) -> dict[str, Any]:
        """One sample with its words."""
        if self.subtitles is not None:
            from ..predict.subtitles import read_subtitles

            if pipe.processor.tokenizer is None:
                raise ValueError("--subtitles: this model reads no text")
            words, intervals = read_subtitles(self.subtitles)
            if self.in_windows:
                return {**sample, "words": words, "word_intervals": intervals}
            return {**sample, "text": " ".join(words)}
        if self.transcribe is not None and not self.in_windows and "text" not in sample and "media" in sample:
            self.load_recogniser(pipe)
            from ..media import load_audio

            heard = self.recogniser(load_audio(sample["media"], sampling_rate=self.recogniser.sampling_rate))
            return {**sample, "text": heard.text}
        return sample

    def items(self) -> Any:
        """The items to read; of one clip with its text and features."""
        from ..predict.sources import Item, Items, open_items

        if self.sources:
            found = open_items(self.sources, self.split)
        else:
            found = Items("--text and --features", "", lambda: iter([Item("sample", None, {})]), 1)
        if self.one_clip:
            (item,) = found
            given = sample_of(None, self.text, self.features)
            item.sample = {**(item.sample or {}), **given}
            files = [_stamp(value) for key, value in given.items() if key.endswith("_features")]
            found = Items(found.name, json.dumps([found.digest, *files]), lambda: iter([item]), 1)
        return found

    def with_words(self, items: Any, pipe: Any) -> Any:
        """The items, a single one with the words of its subtitles."""
        if not self.one_clip:
            return items
        (item,) = items
        item.sample = self.completed(item.sample, pipe)
        return replace(items, open=lambda: iter([item]))


def _stamp(path: str) -> str:
    return hashlib.sha256(Path(path).expanduser().read_bytes()).hexdigest()[:16]


def _seconds(value: str | None, option: str) -> float | None:
    """`10`, `10s`, `500ms`, `1.5m` or `1h` as seconds."""
    if value is None:
        return None
    found = re.fullmatch(r"\s*(\d+(?:\.\d*)?|\.\d+)\s*(ms|s|m|min|h)?\s*", value)
    seconds = float(found[1]) * {"ms": 0.001, "m": 60, "min": 60, "h": 3600}.get(found[2], 1) if found else 0.0
    if not seconds:
        raise ValueError(f"{option} takes a length such as 10s, 500ms or 1m, got {value!r}")
    return seconds


# -- one clip ----------------------------------------------------------------------------------------------------------


def _print_one(pipe: Any, sample: dict[str, Any], top: int, as_json: bool) -> None:
    result = pipe(sample, return_explanation=True)
    if "read_seconds" in result:
        _say(_cut_line(sample.get("media", "the clip"), result["read_seconds"], result["seconds"]))
    if as_json:
        typer.echo(json.dumps(result, indent=2))
    else:
        print_result(Console(), result, top)


def _cut_line(name: str, read: float, seconds: float) -> str:
    return f"{name}: {read:.1f} of {seconds:.1f} s are read; --window 10s reads the whole in windows"


def _say(line: str) -> None:
    """A line for people, beside the answer."""
    Console(stderr=True, highlight=False).print(line, markup=False, soft_wrap=True)


# -- many clips, and recordings in windows -----------------------------------------------------------------------------


def _predict_many(asked: _Asked, model: str, device: str | None, as_json: bool) -> None:
    asked.check()
    table, figure = asked.table(as_json), asked.figure
    where, items = choose_device(device), asked.items()
    quiet()
    from transformers import pipeline

    from ..pipeline_clcr import TASK
    from ..predict import PredictionFile, Predictor, RowList, column_types, model_digest

    pipe = pipeline(TASK, model=check_model(model), device=where)
    items = asked.with_words(items, pipe)
    asked.load_recogniser(pipe)
    if items.unread:
        _say(f"columns that are not read: {', '.join(items.unread)}")
    columns = column_types(pipe.model.config, per_segment=pipe.model.per_segment, windows=asked.in_windows)
    if table is None:
        rows: PredictionFile | RowList = RowList(columns)
    else:
        identity = {"model": model_digest(pipe.model, pipe.processor), "input": items.digest, **asked.settings}
        about = {"model_name": model, "input_name": items.name}
        rows = PredictionFile(table, {**identity, "columns": list(columns)}, columns, about)
    options: dict[str, Any] = dict(asked.windows)
    predictor = Predictor(pipe, asked.batch_size, asked.on_errors, recogniser=asked.recogniser, **options)
    if rows.complete:
        _say(f"{table} is complete already: nothing is read again")
    else:
        _run(predictor, items, rows, asked.in_windows)
    counts = rows.finish()
    if as_json:
        _print_json(rows.rows(), asked.one_clip and asked.in_windows)
    elif table is None:
        Console().print(_timeline(rows.rows()) if asked.in_windows else _answers(rows.rows()))
    if figure is not None:
        from ..explain.plot import draw_timeline

        _say(f"wrote {draw_timeline(rows.rows(), figure, items.name)}")
    for line in _report(predictor, items.name, asked.windows):
        _say(line)
    if table is not None:
        _say(f"{table}: {counts['rows']} rows, {counts['errors']} of them with an error")


def _run(predictor: Any, items: Any, rows: Any, in_windows: bool) -> None:
    """Reads all items with a progress bar; what is done stays where the run is ended."""
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    if rows.done:
        _say(f"{rows.path}: going on after {rows.done} {'windows' if in_windows else 'clips'}")
    parts = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*parts, console=Console(stderr=True), transient=True) as progress:
        bar = progress.add_task("windows" if in_windows else "clips", total=None if in_windows else items.total)
        progress.update(bar, completed=rows.done)
        expected = 0

        def expect(count: int) -> None:
            nonlocal expected
            expected += count
            progress.update(bar, total=expected)

        predictor.expect = expect
        try:
            predictor.write(items, rows, lambda count: progress.advance(bar, count))
        except BaseException:
            rows.close()
            raise


def _report(predictor: Any, name: str, windows: dict[str, float | None]) -> list[str]:
    """What was read, and what was not."""
    found, cut, lines = predictor.recordings, predictor.cut, []
    if found:
        read, seconds, count = (sum(column) for column in zip(*found.values(), strict=True))
        length = windows["window"] or windows["every"]
        part = f"{read:.1f} s" if seconds - read < 0.1 else f"{read:.1f} of {seconds:.1f} s"
        what = Path(name).name if len(found) == 1 else f"{len(found)} recordings"
        lines.append(f"read {part} of {what} in {count} window{'s' * (count != 1)} of {length:g} s")
    if len(cut) == 1:
        ((which, (read, seconds)),) = cut.items()
        lines.append(_cut_line(which, read, seconds))
    elif cut:
        longest = max(read for read, _ in cut.values())
        lines.append(f"{len(cut)} clips last longer than the {longest:g} s that are read; --window reads them whole")
    return lines


def _print_json(rows: Iterable[dict[str, Any]], one_recording: bool) -> None:
    """A line a row; of one recording one object."""
    if not one_recording:
        for row in rows:
            typer.echo(json.dumps(row, ensure_ascii=False))
        return
    windows = list(rows)
    path = windows[0]["path"] if windows else None
    plain = [{key: value for key, value in row.items() if key not in ("id", "path")} for row in windows]
    seconds = max((row["end"] for row in plain if row["end"] is not None), default=None)
    typer.echo(json.dumps({"path": path, "seconds": seconds, "windows": plain}, indent=2, ensure_ascii=False))


def _timeline(rows: Iterable[dict[str, Any]]) -> Table:
    """A line a window: when, what, and which modality decided most."""
    return _table(rows, "timeline", "time", lambda row: f"{row['start']:.1f}-{row['end']:.1f} s")


def _answers(rows: Iterable[dict[str, Any]]) -> Table:
    return _table(rows, "answers", "clip", lambda row: str(row["id"]))


def _table(rows: Iterable[dict[str, Any]], title: str, first: str, name: Callable[[dict[str, Any]], str]) -> Table:
    table = Table(title=title, title_justify="left", box=None)
    for head in (first, "label", "score", "decided most by", "text"):
        table.add_column(head, justify="right" if head in (first, "score") else "left")
    for row in rows:
        scores = [row["score"]] if "score" in row else [row[key] for key in row if key.startswith("score_")]
        shown = " ".join(f"{value:.3f}" for value in scores if value is not None)
        start = "modality_weight_"
        weights = {key.removeprefix(start): row[key] for key in row if key.startswith(start) and row[key] is not None}
        best = max(weights, key=weights.__getitem__, default=None)
        decided = f"{best} ({weights[best]:.2f})" if best is not None else ""
        where = name(row) if row.get("start", 0) is not None else str(row["id"])
        label = row["error"] or row.get("labels") or row.get("label") or ""
        table.add_row(where, label.replace("[", r"\["), shown, decided, (row.get("text") or "").replace("[", r"\["))
    return table
