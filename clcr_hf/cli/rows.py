"""`clcr extract` and `clcr convert`: clips and data sets to rows that training reads."""

import json
from typing import Annotated

import typer
from rich.console import Console

from .app import app, quiet
from .device import Device, choose_device


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
    device: Device = None,
    dtype: Annotated[str, typer.Option(help="float32, float16 or bfloat16, of the backbones.")] = "float32",
    rows_per_shard: Annotated[int, typer.Option(help="Rows a file.", min=1)] = 256,
    limit: Annotated[int | None, typer.Option(help="Only the first so many clips.")] = None,
    retry_failed: Annotated[bool, typer.Option(help="Try again what failed before.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON for machines.")] = False,
) -> None:
    """Turn clips into features by pretrained backbones. Goes on where it was stopped."""
    quiet()
    from ..extract import extract_features

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
        device=choose_device(device),
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

    from ..data.convert import convert as convert_rows
    from ..data.options import read_options

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
