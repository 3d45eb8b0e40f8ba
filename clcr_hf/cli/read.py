"""`clcr predict`, `clcr explain` and `clcr demo`: a clip goes in, an answer and its reasons come out."""

import json
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.table import Table

from .app import app, quiet

_BAR = 24


@app.command()
def predict(
    clip: Annotated[
        str | None, typer.Argument(help="Video with speech, a file or an http(s) address: frames and sound are read.")
    ] = None,
    text: Annotated[str | None, typer.Option(help="What is said in the clip.")] = None,
    model: Annotated[str, typer.Option(help="Folder or Hub name of a trained model.")] = "runs/talking_faces",
    top: Annotated[int, typer.Option(help="Most exchanged tokens to show for each modality.", min=0)] = 5,
    device: Annotated[str, typer.Option(help="cpu, cuda, cuda:1.")] = "cpu",
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON for machines.")] = False,
) -> None:
    """Score a clip, or each of its segments, and say what decided it."""
    pipe, sample = _reader(clip, text, model, device)
    result = pipe(sample, return_explanation=True)
    if as_json:
        typer.echo(json.dumps(result, indent=2))
    else:
        _print_result(Console(), result, top)


@app.command()
def explain(
    clip: Annotated[
        str | None, typer.Argument(help="Video with speech, a file or an http(s) address: frames and sound are read.")
    ] = None,
    text: Annotated[str | None, typer.Option(help="What is said in the clip.")] = None,
    model: Annotated[str, typer.Option(help="Folder or Hub name of a trained model.")] = "runs/talking_faces",
    output: Annotated[
        Path | None, typer.Option(help="Picture to write: png, svg or pdf. Default: explanation.png; none with --json.")
    ] = None,
    device: Annotated[str, typer.Option(help="cpu, cuda, cuda:1.")] = "cpu",
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON for machines.")] = False,
) -> None:
    """Draw what decided the score of a clip: weights, tokens over time, and what changes without each modality."""
    pipe, sample = _reader(clip, text, model, device)
    from ..explain.decision import explain as read_and_compare

    decision = read_and_compare(pipe, sample)
    if output is not None or not as_json:
        from ..explain.plot import draw_decision

        title = ": ".join(filter(None, (clip and Path(clip).name, text and f"“{text}”")))
        path = draw_decision(decision, output or "explanation.png", title)
        if not as_json:
            typer.echo(str(path))
    if as_json:
        typer.echo(json.dumps(decision.to_dict(), indent=2))


@app.command()
def demo(
    model: Annotated[str, typer.Option(help="Folder or Hub name of a trained model.")] = "runs/talking_faces",
    host: Annotated[str, typer.Option(help="Address to listen at; 0.0.0.0 lets other machines in.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(help="Port to listen at.", min=1, max=65535)] = 7860,
    share: Annotated[bool, typer.Option("--share", help="Make a public address through gradio's servers.")] = False,
    max_size: Annotated[float, typer.Option(help="Most megabytes of an upload.")] = 50.0,
    max_seconds: Annotated[float, typer.Option(help="Length of the longest clip that is read.")] = 60.0,
    transcribe: Annotated[str | None, typer.Option(help="Speech recogniser for transcripts: Whisper or CTC.")] = None,
    trust_remote_code: Annotated[
        bool, typer.Option("--trust-remote-code", help="Run code that comes with the model.")
    ] = False,
) -> None:
    """Serve a page that scores a clip and shows what decided it. Ctrl-C ends it."""
    quiet()
    from ..demo import serve

    serve(
        model,
        host=host,
        port=port,
        share=share,
        max_size=max_size,
        max_seconds=max_seconds,
        transcribe=transcribe,
        trust_remote_code=trust_remote_code,
    )


def _reader(clip: str | None, text: str | None, model: str, device: str) -> tuple[Any, dict[str, str]]:
    """A pipeline, and an input of it."""
    if clip is None and text is None:
        raise ValueError("nothing to read: give a clip, or --text, or both")
    from ..fetch import is_url

    if clip is not None and not is_url(clip) and not Path(clip).is_file():
        raise FileNotFoundError(f"{clip} is not a file")
    _check_device(device)
    quiet()
    from transformers import pipeline

    from ..pipeline_clcr import TASK

    sample = {key: value for key, value in (("media", clip), ("text", text)) if value is not None}
    return pipeline(TASK, model=model, device=device), sample


def _check_device(device: str) -> None:
    """One clear line for a name that is none, and for a GPU that is not there."""
    import torch

    try:
        kind = torch.device(device).type
    except RuntimeError as error:
        raise ValueError(f"--device takes cpu, cuda or cuda:1, got {device!r}") from error
    if kind == "cuda" and not torch.cuda.is_available():
        raise ValueError(f"--device {device}: torch finds no GPU here; use --device cpu")


def _print_result(console: Console, result: dict[str, Any], top: int) -> None:
    if "segments" in result:
        console.print(_segment_table(result["segments"]))
        _print_tokens(console, result["tokens"], top)
        return
    if "score" in result:
        console.print(f"[bold]score[/bold] {result['score']:+.3f}   [bold]label[/bold] {result['label']}")
    for name, value in result.get("probabilities", result.get("scores", {})).items():
        console.print(f"  {name:<16} {value:.3f}")
    levels = {f"level {level}": weight for level, weight in enumerate(result["level_weights"], start=1)}
    console.print(_bars("which level decided (1 is the shallowest)", levels))
    console.print(_bars("which modality decided, shared", result["modality_weights"]))
    console.print(_bars("how far private cues were let through", result["private_gates"]))
    _print_tokens(console, result["tokens"], top)


def _print_tokens(console: Console, by_modality: dict[str, list[dict[str, Any]]], top: int) -> None:
    for name, tokens in by_modality.items():
        best = sorted(tokens, key=lambda token: -sum(token["budget"]))[:top]
        if best:
            console.print(_token_table(name, best))


def _segment_table(segments: list[dict[str, Any]]) -> Table:
    """A line a segment: when, what, and which modality decided most."""
    table = Table(title="segments", title_justify="left", box=None)
    for name in ("time", "label", "score", "decided most by"):
        table.add_column(name, justify="left" if name in ("label", "decided most by") else "right")
    for one in segments:
        time = f"{one['start']:.2f}-{one['end']:.2f} s" if "start" in one else str(one["index"])
        label = ", ".join(one["labels"]) if one.get("labels") else one.get("label", "")
        scores = one.get("scores") or {"": one["score"]}
        score = " ".join(f"{value:.3f}" for value in scores.values())
        name, weight = max(one["modality_weights"].items(), key=lambda item: item[1])
        table.add_row(time, label.replace("[", r"\["), score, f"{name} ({weight:.2f})")
    return table


def _bars(title: str, values: dict[str, float]) -> Table:
    table = Table(title=title, title_justify="left", show_header=False, box=None)
    for name, value in values.items():
        table.add_row(name, f"{value:.3f}", "█" * round(_BAR * value))
    return table


def _token_table(name: str, tokens: list[dict[str, Any]]) -> Table:
    table = Table(title=f"{name}: most exchanged tokens", title_justify="left", box=None)
    table.add_column("token")
    for level in range(1, len(tokens[0]["budget"]) + 1):
        table.add_column(f"level {level}", justify="right")
    for token in tokens:
        what = f"{token['time']:.2f} s" if "time" in token else str(token.get("token", token.get("index")))
        table.add_row(what.replace("[", r"\["), *(f"{value:.2f}" for value in token["budget"]))
    return table
