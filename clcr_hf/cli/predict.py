"""`clcr predict`: clips, folders, tables and long recordings to answers."""

import json
import re
from collections.abc import Iterable
from contextlib import ExitStack, closing
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.table import Column, Table

from .app import SPELLING, app, documented, progress_bar
from .device import Device
from .read import load_pipe, print_result

_DEFAULT_OUTPUT = "predictions.csv"


@app.command(context_settings=SPELLING)
@documented
def predict(
    context: typer.Context,
    sources: Annotated[list[str] | None, typer.Argument()] = None,
    text: str | None = None,
    features: list[str] | None = None,
    model: str = "runs/talking_faces",
    output: list[str] | None = None,
    window: str | None = None,
    every: str | None = None,
    subtitles: Path | None = None,
    transcribe: str | None = None,
    language: str | None = None,
    split: str | None = None,
    batch_size: Annotated[int, typer.Option(min=1)] = 8,
    on_error: str | None = None,
    top: Annotated[int, typer.Option(min=0)] = 5,
    device: Device = None,
    as_json: Annotated[bool, typer.Option("--json")] = False,
) -> None:
    """
    Score clips, or windows of a recording, and say what decided. A table that was not finished is continued by the same
    command.

    Args:
        sources: A clip (file or http(s) address), several, a folder, a pattern in quotes, or a table (CSV, TSV, JSONL,
            Parquet; docs/manifest.md).
        text: What is said in the clip.
        features: Ready features of a modality, as gaze=gaze.npy (.npy, .npz, .safetensors, .pt, .csv); may be repeated.
        model: Folder or Hub name of a trained model.
        output: Table to write: csv, jsonl or parquet; of a recording in windows also a figure: png, svg or pdf. May be
            given twice. Default for more than one clip: predictions.csv.
        window: Read long recordings in windows of so long: 10s, 1m.
        every: A window begins each so often. Default: --window.
        subtitles: Words of a recording with their times: srt, vtt, or json of a recogniser.
        transcribe: Speech recogniser for what has no text: Whisper or CTC.
        language: Language for Whisper, such as en.
        split: Of a table: the rows of this split alone.
        batch_size: Clips or windows a forward pass.
        on_error: A clip that cannot be read: skip (its row says why) or raise. Default: raise for one, else skip.
        top: Of one clip: most exchanged tokens to show a modality.
        as_json: Print JSON for machines.
    """
    from ..predict import Predictor, Request

    given = {name: value for name, value in context.params.items() if value is not None}
    given |= {name: _seconds(given[name], f"--{name}") for name in ("window", "every") if name in given}
    asked = {name: given[name] for name in Request.__dataclass_fields__ if name in given}  # parameters of those names
    request = Request(**asked, outputs=list(map(Path, output or ())))
    items = request.items()
    pipe = load_pipe(model, device)
    predictor = Predictor(request, pipe)
    if request.one_clip and not request.outputs and not request.in_windows:
        (item,) = items
        _print_one(pipe, predictor.heard(item.sample or {}), top, as_json)
        return
    table = request.table
    if table is None and not request.one_clip and not as_json:
        table = Path(_DEFAULT_OUTPUT)
    with ExitStack() as stack:
        scratch = Path(stack.enter_context(TemporaryDirectory()))
        rows = stack.enter_context(closing(request.file(table or scratch / "rows.jsonl", pipe, items, model)))
        _predict_many(predictor, items, rows)
        counts = rows.finish()
        if as_json:
            _print_json(rows.rows(), request.one_clip and request.in_windows)
        elif table is None:
            Console().print(_table(rows.rows(), request.in_windows))
        if request.figure is not None:
            from ..explain.plot import draw_timeline

            _say(f"wrote {draw_timeline(rows.rows(), request.figure, items.name)}")
    for line in _report(predictor, items.name):
        _say(line)
    if table is not None:
        _say(f"{table}: {counts['rows']} rows, {counts['errors']} of them with an error")


def _seconds(value: str, option: str) -> float:
    """`10`, `10s`, `500ms`, `1.5m` or `1h` as seconds."""
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


def _predict_many(predictor: Any, items: Any, rows: Any) -> None:
    """Reads all items with a progress bar."""
    if items.unread:
        _say(f"columns that are not read: {', '.join(items.unread)}")
    if rows.complete:
        _say(f"{rows.path} is complete already: nothing is read again")
        return
    what, total = ("windows", None) if predictor.request.in_windows else ("clips", items.total)
    if rows.done:
        _say(f"{rows.path}: going on after {rows.done} {what}")
    with progress_bar(transient=True) as progress:
        bar = progress.add_task(what, total=total, completed=rows.done)
        predictor.expect = lambda count: progress.update(bar, total=(progress.tasks[bar].total or 0) + count)
        predictor.write(items, rows, lambda count: progress.advance(bar, count))


def _report(predictor: Any, name: str) -> list[str]:
    """What was read, and what was not."""
    found, cut, lines = predictor.recordings, predictor.cut, []
    if found:
        read, seconds, count = (sum(column) for column in zip(*found.values(), strict=True))
        length = predictor.request.window or predictor.request.every
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


def _table(rows: Iterable[dict[str, Any]], in_windows: bool) -> Table:
    """A line a clip, or a window: which or when, what, and which modality decided most."""
    title, first = ("timeline", "time") if in_windows else ("answers", "clip")
    heads = (Column(first, justify="right"), "label", Column("score", justify="right"), "decided most by", "text")
    table = Table(*heads, title=title, title_justify="left", box=None)
    for row in rows:
        scores = [row["score"]] if "score" in row else [row[key] for key in row if key.startswith("score_")]
        shown = " ".join(f"{value:.3f}" for value in scores if value is not None)
        start = "modality_weight_"
        weights = {key.removeprefix(start): row[key] for key in row if key.startswith(start) and row[key] is not None}
        best = max(weights, key=weights.__getitem__, default=None)
        decided = f"{best} ({weights[best]:.2f})" if best is not None else ""
        timed = in_windows and row["start"] is not None
        where = f"{row['start']:.1f}-{row['end']:.1f} s" if timed else str(row["id"])
        label = row["error"] or row.get("labels") or row.get("label") or ""
        table.add_row(where, label.replace("[", r"\["), shown, decided, (row.get("text") or "").replace("[", r"\["))
    return table
