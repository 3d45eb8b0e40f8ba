"""The `clcr` command."""

import json
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.table import Table

app = typer.Typer(
    help="CLCR: multimodal models that say what decided their answer.", no_args_is_help=True, add_completion=False
)

_PASS_ON = {"allow_extra_args": True, "ignore_unknown_options": True}
_BAR = 24


@app.command(context_settings=_PASS_ON, add_help_option=False)
def train(context: typer.Context) -> None:
    """Train a model: `clcr train [recipe.yaml] --dataset NAME ...`; `clcr train --help` lists the arguments."""
    from .training import main as train_main

    train_main(context.args)


@app.command(context_settings=_PASS_ON)
def evaluate(
    context: typer.Context,
    model: Annotated[str, typer.Option(help="Folder or Hub name of a trained model.")],
    dataset: Annotated[str | None, typer.Option(help="A name as in `clcr train`; default: what it learned.")] = None,
    dataset_dir: Annotated[str | None, typer.Option(help="Folder of the data set.")] = None,
    data_file: Annotated[str | None, typer.Option(help="The pickle, table or npz.")] = None,
    split: Annotated[str, typer.Option(help="train, validation or test.")] = "test",
    batch_size: Annotated[int, typer.Option(help="Examples a forward pass.")] = 16,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON for machines.")] = False,
) -> None:
    """Measure a trained model on one split of a data set. Data arguments of `clcr train` may follow, such as
    `--dataset_options fold=2`; those of the model's own training hold where its data set is measured."""
    from .training import evaluate_model, evaluation_data

    given = {"dataset": dataset, "dataset_dir": dataset_dir, "data_file": data_file}
    words = [word for name, value in given.items() if value is not None for word in (f"--{name}", value)]
    data = evaluation_data(model, [*words, *context.args])
    metrics = evaluate_model(model, data, split=split, batch_size=batch_size)
    if as_json:
        typer.echo(json.dumps(metrics, indent=2))
        return
    table = Table(title=f"{model} on {data.dataset}, {split}")
    table.add_column("metric")
    table.add_column("value", justify="right")
    for name, value in metrics.items():
        table.add_row(name, f"{value:.4f}" if isinstance(value, float) else str(value))
    Console().print(table)


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
    from .explain import explain as read_and_compare

    decision = read_and_compare(pipe, sample)
    if output is not None or not as_json:
        from .pictures import draw_decision

        title = ": ".join(filter(None, (clip and Path(clip).name, text and f"“{text}”")))
        path = draw_decision(decision, output or "explanation.png", title)
        if not as_json:
            typer.echo(str(path))
    if as_json:
        typer.echo(json.dumps(decision.to_dict(), indent=2))


@app.command()
def card(
    folder: Annotated[Path, typer.Argument(help="Where training left the model and run.json.")],
    model_id: Annotated[str | None, typer.Option(help="org/name that the card's examples load.")] = None,
    pictures: Annotated[
        bool, typer.Option("--pictures", help="Measure on the run's data how the model decides, and draw it.")
    ] = False,
    split: Annotated[str, typer.Option(help="Where to measure that: train, validation or test.")] = "test",
    limit: Annotated[int, typer.Option(help="On how many examples.", min=1)] = 200,
    license: Annotated[str | None, typer.Option(help="The weights' licence, as the Hub names it.")] = None,
    benchmark: Annotated[
        str | None, typer.Option(help="What it learned: mosi, mosei, cremad, kinetics_sounds, ave or ucf101.")
    ] = None,
    dataset_id: Annotated[str | None, typer.Option(help="The data set's name on the Hub.")] = None,
    example: Annotated[Path | None, typer.Option(help="A clip to publish as example for the widget.")] = None,
    text: Annotated[str | None, typer.Option(help="What is said in it; or an example without a clip.")] = None,
) -> None:
    """Write a trained model's card anew. What is said here is kept in card.json beside it."""
    _quiet()
    from .model_card import read_run, set_card_options, write_model_card

    read_run(folder)
    set_card_options(folder, license=license, benchmark=benchmark, dataset_id=dataset_id)
    if example is not None or text is not None:
        from .explain import add_example

        add_example(folder, example, text)
    if pictures:
        from .explain import build_card_pictures

        build_card_pictures(folder, split=split, limit=limit)
    typer.echo(str(write_model_card(folder, model_id)))


@app.command()
def extract(
    source: Annotated[str, typer.Argument(help="Folder of clips, table of clips, or a benchmark's folder (--layout).")],
    out: Annotated[str, typer.Argument(help="Folder of the features.")],
    vision: Annotated[str | None, typer.Option(help="Backbone for frames: hub name or folder.")] = None,
    audio: Annotated[str | None, typer.Option(help="Backbone for sound.")] = None,
    text: Annotated[str | None, typer.Option(help="Backbone for transcripts.")] = None,
    taps: Annotated[str, typer.Option(help="early-middle-late, last, or layers such as 4,8,12.")] = "early-middle-late",
    levels: Annotated[int, typer.Option(help="How many layers early-middle-late takes.")] = 3,
    fps: Annotated[float | None, typer.Option(help="Frames a second that are read.")] = None,
    num_frames: Annotated[int | None, typer.Option(help="Frames of a clip instead. Default: 16.")] = None,
    token_grid: Annotated[int, typer.Option(help="Tokens of a frame: the square of this.")] = 1,
    audio_rate: Annotated[float, typer.Option(help="Tokens of sound a second; 0 keeps the backbone's own.")] = 5.0,
    window_seconds: Annotated[float | None, typer.Option(help="Longest stretch of sound read at a time.")] = None,
    opensmile: Annotated[bool, typer.Option(help="eGeMAPS by openSMILE (licence: not commercial).")] = False,
    opensmile_level: Annotated[
        str, typer.Option(help="lld (25, each 10 ms) or functionals (88, each second).")
    ] = "lld",
    transcribe: Annotated[str | None, typer.Option(help="Speech recogniser for clips without text.")] = None,
    language: Annotated[str | None, typer.Option(help="Language for Whisper, such as en.")] = None,
    align: Annotated[str | None, typer.Option(help="words: one token a word in every modality.")] = None,
    layout: Annotated[str | None, typer.Option(help="Benchmark: cremad, kinetics_sounds, ave, ucf101.")] = None,
    layout_options: Annotated[str | None, typer.Option(help="JSON: options of its loader.")] = None,
    split: Annotated[str, typer.Option(help="Of clips in a folder that do not say.")] = "train",
    label_column: Annotated[str | None, typer.Option(help="Table: column of the labels.")] = None,
    label_names: Annotated[str | None, typer.Option(help="Table: classes in order, as happy,sad.")] = None,
    task: Annotated[str, typer.Option(help="Table: auto, regression, classification, multi_label, segments.")] = "auto",
    keep_columns: Annotated[str | None, typer.Option(help="Table: columns to carry over, as speaker,age.")] = None,
    batch_size: Annotated[int, typer.Option(help="Frames, seconds of sound or texts in a forward pass.")] = 64,
    num_workers: Annotated[int, typer.Option(help="Threads that decode.")] = 2,
    device: Annotated[str | None, typer.Option(help="cpu, cuda, cuda:1. Default: a GPU if there is one.")] = None,
    dtype: Annotated[str, typer.Option(help="float32, float16 or bfloat16, of the backbones.")] = "float32",
    rows_per_shard: Annotated[int, typer.Option(help="Rows a file.", min=1)] = 256,
    limit: Annotated[int | None, typer.Option(help="Only the first so many clips.")] = None,
    retry_failed: Annotated[bool, typer.Option(help="Try again what failed before.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON for machines.")] = False,
) -> None:
    """Turn clips into features by pretrained backbones. Goes on where it was stopped."""
    _quiet()
    from .extract import extract_features

    record = extract_features(
        source,
        out,
        text=text,
        vision=vision,
        audio=audio,
        taps=[int(layer) for layer in taps.split(",")] if taps[:1].isdigit() else taps,
        num_levels=levels,
        fps=fps,
        num_frames=num_frames,
        token_grid=token_grid,
        audio_rate=audio_rate or None,
        window_seconds=window_seconds,
        opensmile=opensmile_level if opensmile else False,
        transcribe=transcribe,
        language=language,
        align=align,
        layout=layout,
        layout_options=json.loads(layout_options) if layout_options else None,
        split=split,
        label_column=label_column,
        label_names=label_names.split(",") if label_names else None,
        task=task,
        keep_columns=keep_columns.split(",") if keep_columns else (),
        batch_size=batch_size,
        num_workers=num_workers,
        device=device,
        dtype=dtype,
        rows_per_shard=rows_per_shard,
        limit=limit,
        retry_failed=retry_failed,
        progress=not as_json,
    )
    if as_json:
        typer.echo(json.dumps(record, indent=2))
        return
    counts = record["counts"]
    rows = ", ".join(f"{name} {count}" for name, count in counts["rows"].items()) or "no rows"
    faults = {"clips that failed": counts["failed"], **counts["lacking"]}
    listed = ", ".join(f"{name} {count}" for name, count in faults.items() if count)
    typer.echo(f"{out}: {rows}" + (f"; {listed} (see failures-*.jsonl there)" if listed else ""))


@app.command()
def convert(
    layout: Annotated[
        str, typer.Argument(help="mmsa, csd, cremad, kinetics_sounds, ave, ave_h5, ucf101, manifest or utterances.")
    ],
    source: Annotated[str, typer.Argument(help="The data set: its folder, pickle, table or npz.")],
    out: Annotated[str, typer.Argument(help="Folder of the shards.")],
    option: Annotated[
        list[str] | None, typer.Option(help="Argument of the loader as name=value; may be given several times.")
    ] = None,
    format: Annotated[str, typer.Option(help="parquet, or safetensors for features.")] = "parquet",
    embed_media: Annotated[bool, typer.Option(help="Put videos, sounds and pictures into the shards.")] = False,
    rows_per_shard: Annotated[int, typer.Option(help="Rows a file.", min=1)] = 256,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON for machines.")] = False,
) -> None:
    """Turn a data set into shards, once; train with `--dataset shards`. Goes on where it was stopped."""
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    from .convert import convert as convert_rows
    from .options import read_options

    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=Console(stderr=True)) as bar:
        rows = bar.add_task("rows", total=None)
        record = convert_rows(
            layout,
            source,
            out,
            options=read_options(option or ()),
            format=format,
            embed_media=embed_media,
            rows_per_shard=rows_per_shard,
            progress=lambda done, total: bar.update(rows, completed=done, total=total),
        )
    if as_json:
        typer.echo(json.dumps(record, indent=2))
        return
    counts = ", ".join(f"{name} {count}" for name, count in record["rows"].items())
    typer.echo(f"{out}: {counts}")


@app.command()
def publish(
    folder: Annotated[Path, typer.Argument(help="Where training left the model, its processor and run.json.")],
    repo_id: Annotated[str, typer.Argument(help="org/name on the Hub; made when it does not exist.")],
    private: Annotated[bool, typer.Option(help="Make a new repository private.")] = False,
    revision: Annotated[str | None, typer.Option(help="Branch to commit to.")] = None,
    create_pr: Annotated[bool, typer.Option(help="Open a pull request instead.")] = False,
    message: Annotated[str | None, typer.Option(help="Message of the commit.")] = None,
    max_shard_size: Annotated[str, typer.Option(help="Weights beyond this are cut into files.")] = "5GB",
    to_folder: Annotated[
        Path | None, typer.Option(help="Write what would be sent to this folder, and send nothing.")
    ] = None,
) -> None:
    """Send a trained model to the Hub: weights, processor, code, card, results. Takes the token of `hf auth login`."""
    _quiet()
    from .publish import build_release
    from .publish import publish as send

    if to_folder is not None:
        typer.echo(str(build_release(folder, to_folder, repo_id, max_shard_size=max_shard_size)))
        return
    address = send(
        folder,
        repo_id,
        private=private or None,
        revision=revision,
        create_pr=create_pr,
        commit_message=message,
        max_shard_size=max_shard_size,
    )
    typer.echo(address)


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
    _quiet()
    from .demo import serve

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


@app.command()
def export(
    folder: Annotated[str, typer.Argument(help="Folder or Hub name of a trained model.")],
    out: Annotated[Path, typer.Argument(help="File to write: .onnx, or .pt2 for torch.")],
    format: Annotated[str, typer.Option(help="onnx, int8 (ONNX with 8-bit weights) or torch (torch.export).")] = "onnx",
    part: Annotated[str, typer.Option(help="whole, or fusion: what follows the backbones.")] = "whole",
    modalities: Annotated[str | None, typer.Option(help="Those it takes, as text,audio. Default: all.")] = None,
    opset: Annotated[int | None, typer.Option(help="Version of the ONNX operators.")] = None,
    image_size: Annotated[int | None, typer.Option(help="Rows and columns of a frame. Default: as trained.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON for machines.")] = False,
) -> None:
    """Write a trained model as one graph for other runtimes, and compare its outputs with the model's."""
    _quiet()
    from .export import export_model

    names = modalities.split(",") if modalities else None
    difference = export_model(
        folder, out, format=format, part=part, modalities=names, opset=opset, image_size=image_size
    )
    if as_json:
        typer.echo(json.dumps({"file": str(out), "bytes": out.stat().st_size, "largest_difference": difference}))
        return
    size = f"{out.stat().st_size / 1e6:.1f} MB"
    Console().print(f"{out}: {size}; largest difference to the model {difference:.1e}", highlight=False)


def _quiet() -> None:
    """Nothing but the answer on the terminal."""
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    from transformers.utils import logging

    logging.set_verbosity_error()
    logging.disable_progress_bar()


def _reader(clip: str | None, text: str | None, model: str, device: str) -> tuple[Any, dict[str, str]]:
    """A pipeline, and an input of it."""
    if clip is None and text is None:
        raise ValueError("nothing to read: give a clip, or --text, or both")
    from .fetch import is_url

    if clip is not None and not is_url(clip) and not Path(clip).is_file():
        raise FileNotFoundError(f"{clip} is not a file")
    _check_device(device)
    _quiet()
    from transformers import pipeline

    from .pipeline_clcr import TASK

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


def main(argv: Sequence[str] | None = None) -> None:
    """Entry point: an error that a user can mend is one line on the standard error, with exit code 1."""
    try:
        app(None if argv is None else list(argv))
    except (ValueError, OSError, ImportError) as error:
        Console(stderr=True, highlight=False).print("error:", str(error), markup=False, soft_wrap=True)
        sys.exit(1)


if __name__ == "__main__":
    main()
