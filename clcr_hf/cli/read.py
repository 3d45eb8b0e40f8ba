"""`clcr explain` and `clcr demo`: a clip to its answer and the reasons; and what `clcr predict` shares."""

import json
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.table import Column, Table

from .app import SPELLING, app, documented, quiet
from .device import Device, choose_device
from .model import check_model

_BAR = 24


@app.command(context_settings=SPELLING)
@documented
def explain(
    clip: Annotated[str | None, typer.Argument()] = None,
    text: str | None = None,
    features: list[str] | None = None,
    model: str = "runs/talking_faces",
    output: Path | None = None,
    device: Device = None,
    as_json: Annotated[bool, typer.Option("--json")] = False,
) -> None:
    """
    Draw what decided the score of a clip: weights, tokens over time, and what changes without each modality.

    Args:
        clip: Video with speech, a file or an http(s) address: frames and audio are read.
        text: What is said in the clip.
        features: Ready features of a modality, as gaze=gaze.npy (.npy, .npz, .safetensors, .pt, .csv); may be repeated.
        model: Folder or Hub name of a trained model.
        output: Figure to write: png, svg or pdf. Default: explanation.png; none with --json.
        as_json: Print JSON for machines.
    """
    from ..fetch import is_url
    from ..predict.sources import sample_of

    sample = sample_of(clip, text, features)
    if not sample:
        raise ValueError("nothing to read: give a clip, or --text, or --features")
    if clip is not None and not is_url(clip) and not Path(clip).is_file():
        raise FileNotFoundError(f"{clip} is not a file")
    if output is not None or not as_json:
        from ..explain.plot import check_figure

        check_figure(output or "explanation.png")
    pipe = load_pipe(model, device)
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


@app.command(context_settings=SPELLING)
@documented
def demo(
    context: typer.Context,
    model: str = "runs/talking_faces",
    host: str = "127.0.0.1",
    port: Annotated[int, typer.Option(min=1, max=65535)] = 7860,
    share: Annotated[bool, typer.Option("--share")] = False,
    max_size: float = 50.0,
    max_seconds: float = 60.0,
    transcribe: str | None = None,
    device: Device = None,
    trust_remote_code: Annotated[bool, typer.Option("--trust-remote-code")] = False,
) -> None:
    """
    Serve a page that scores a clip and shows what decided it. Ctrl-C ends it.

    Args:
        model: Folder or Hub name of a trained model.
        host: Address to listen at; 0.0.0.0 lets other machines in.
        port: Port to listen at.
        share: Make a public address through gradio's servers.
        max_size: Most megabytes of an upload.
        max_seconds: Length of the longest clip that is read.
        transcribe: Speech recogniser for transcripts: Whisper or CTC.
        trust_remote_code: Run code that comes with the model.
    """
    check_model(model)
    quiet()
    from ..demo import serve

    serve(**{**context.params, "device": choose_device(device)})


def load_pipe(model: str, device: str | None) -> Any:
    """A pipeline of a model that was asked for."""
    where = choose_device(device)
    check_model(model)
    quiet()
    from transformers import pipeline

    from ..pipeline_clcr import TASK

    return pipeline(TASK, model=model, device=where)


def print_result(console: Console, result: dict[str, Any], top: int) -> None:
    """One answer of the pipeline with its explanation, for people; `top` tokens of each modality."""
    if "segments" in result:
        console.print(_segment_table(result["segments"]))
        _print_tokens(console, result["tokens"], top)
        return
    if "score" in result:
        span = " ({:+.3f} to {:+.3f})".format(*result["interval"]) if "interval" in result else ""
        console.print(f"[bold]score[/bold] {result['score']:+.3f}{span}   [bold]label[/bold] {result['label']}")
    for name, value in result.get("probabilities", result.get("scores", {})).items():
        console.print(f"  {name:<16} {value:.3f}")
    if result["level_weights"]:
        _print_weights(console, result)
    _print_own_evidence(console, result)
    _print_tokens(console, result["tokens"], top)


def _print_weights(console: Console, result: dict[str, Any]) -> None:
    levels = {f"level {level}": weight for level, weight in enumerate(result["level_weights"], start=1)}
    console.print(_bars("which level decided (1 is the shallowest)", levels))
    console.print(_bars("which modality decided, shared", result["modality_weights"]))
    console.print(_bars("how far private cues were let through", result["private_gates"]))


def _print_own_evidence(console: Console, result: dict[str, Any]) -> None:
    """What the answer's logits are the sum of, or the score."""
    from ..explain.decision import BIAS, JOINT

    if "modality_logits" not in result:
        return
    title = "what each modality adds by itself, and all together; the sum is the answer"
    table = Table(title=title, title_justify="left", show_header=False, box=None)
    parts = {**result["modality_logits"], JOINT: result["joint_logits"], BIAS: result["logit_bias"]}
    for name, value in parts.items():
        named = value if isinstance(value, dict) else {"": value}
        if not any(named.values()):  # a missing modality, or a part without a share of the answer
            continue
        table.add_row(name, "   ".join(f"{label} {number:+.3f}".strip() for label, number in named.items()))
    console.print(table)


def _print_tokens(console: Console, by_modality: dict[str, list[dict[str, Any]]], top: int) -> None:
    for name, tokens in by_modality.items():
        best = sorted(tokens, key=lambda token: -sum(token["budget"]))[:top]
        if best:
            console.print(_token_table(name, best))


def _segment_table(segments: list[dict[str, Any]]) -> Table:
    """A line a segment: when, what, and which modality decided most."""
    from ..explain.decision import evidence

    heads = (Column("time", justify="right"), "label", Column("score", justify="right"), "decided most by")
    table = Table(*heads, title="segments", title_justify="left", box=None)
    for one in segments:
        time = f"{one['start']:.2f}-{one['end']:.2f} s" if "start" in one else str(one["index"])
        label = ", ".join(one["labels"]) if one.get("labels") else one.get("label", "")
        scores = one.get("scores") or {"": one["score"]}
        score = " ".join(f"{value:.3f}" for value in scores.values())
        weights = one["modality_weights"]
        if not weights:  # without a joint path
            own = evidence(one)[1]
            weights = {name: abs(own.get(name, 0.0)) for name in one["modality_logits"]}
        name, weight = max(weights.items(), key=lambda item: item[1])
        table.add_row(time, label.replace("[", r"\["), score, f"{name} ({weight:.2f})")
    return table


def _bars(title: str, values: dict[str, float]) -> Table:
    table = Table(title=title, title_justify="left", show_header=False, box=None)
    for name, value in values.items():
        table.add_row(name, f"{value:.3f}", "█" * round(_BAR * value))
    return table


def _token_table(name: str, tokens: list[dict[str, Any]]) -> Table:
    levels = (Column(f"level {level}", justify="right") for level in range(1, len(tokens[0]["budget"]) + 1))
    table = Table("token", *levels, title=f"{name}: most exchanged tokens", title_justify="left", box=None)
    for token in tokens:
        what = f"{token['time']:.2f} s" if "time" in token else str(token.get("token", token.get("index")))
        table.add_row(what.replace("[", r"\["), *(f"{value:.2f}" for value in token["budget"]))
    return table
