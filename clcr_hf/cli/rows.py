"""`clcr extract` and `clcr convert`: clips and data sets to rows that training reads."""

import inspect
import json
from collections.abc import Callable
from dataclasses import fields
from typing import Annotated, Any

import typer
from rich.console import Console

from ..data.options import argument_help, read_options
from ..data.registry import SOURCE_NAMES
from ..extract.settings import ExtractSettings, flag_of
from .app import SPELLING, app, quiet
from .device import choose_device


def _extract(
    source: Annotated[
        str, typer.Argument(help="Folder of clips, table of clips, or a benchmark's folder (--dataset).")
    ],
    out: Annotated[str, typer.Argument(help="Folder of the features.")],
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON for machines.")] = False,
    **words: Any,
) -> None:
    """Turn clips into features by pretrained backbones. Goes on where it was stopped."""
    quiet()
    words["device"] = choose_device(words["device"])
    settings = ExtractSettings.from_words(**words)
    from ..extract import extract_features

    record = extract_features(source, out, settings, progress=not as_json)
    if as_json:
        typer.echo(json.dumps(record, indent=2))
        return
    counts = record["counts"]
    rows = ", ".join(f"{name} {count}" for name, count in counts["rows"].items()) or "no rows"
    faults = {"clips that failed": counts["failed"], **counts["lacking"]}
    listed = ", ".join(f"{name} {count}" for name, count in faults.items() if count)
    typer.echo(f"{out}: {rows}" + (f"; {listed} (see failures-*.jsonl there)" if listed else ""))


def _with_settings(command: Callable[..., None]) -> Callable[..., None]:
    """The command with an option for each of `ExtractSettings`."""
    signature = inspect.signature(command)
    own = [each for each in signature.parameters.values() if each.kind is not each.VAR_KEYWORD]
    made, what = [], argument_help(ExtractSettings)
    for each in fields(ExtractSettings):
        kind = each.metadata["word"] or each.type
        option = typer.Option(flag_of(each), help=what[each.name])
        made.append(
            inspect.Parameter(
                each.name,
                inspect.Parameter.KEYWORD_ONLY,
                default=None if each.default == () else each.default,
                annotation=Annotated[kind, option],
            )
        )
    command.__signature__ = signature.replace(parameters=[*own, *made])  # type: ignore[attr-defined]
    return command


app.command(name="extract", context_settings=SPELLING)(_with_settings(_extract))


@app.command(context_settings=SPELLING)
def convert(
    dataset: Annotated[str, typer.Argument(help=f"{', '.join(SOURCE_NAMES)}.")],
    source: Annotated[str, typer.Argument(help="The data set: its folder, pickle, table or npz.")],
    out: Annotated[str, typer.Argument(help="Folder of the shards.")],
    dataset_options: Annotated[str | None, typer.Option(help="Options of the loader, as fold=2,seed=1.")] = None,
    embed_media: Annotated[bool, typer.Option(help="Put videos, audio and images into the shards.")] = False,
    rows_per_shard: Annotated[int, typer.Option(help="Rows a file.", min=1)] = 256,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON for machines.")] = False,
) -> None:
    """Turn a data set into shards, once; train with `--dataset shards`. Goes on where it was stopped."""
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    from ..data.convert import convert as convert_rows

    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=Console(stderr=True)) as bar:
        rows = bar.add_task("rows", total=None)
        record = convert_rows(
            dataset,
            source,
            out,
            options=read_options(dataset_options, "--dataset-options"),
            embed_media=embed_media,
            rows_per_shard=rows_per_shard,
            progress=lambda done, total: bar.update(rows, completed=done, total=total),
        )
    if as_json:
        typer.echo(json.dumps(record, indent=2))
        return
    counts = ", ".join(f"{name} {count}" for name, count in record["rows"].items())
    typer.echo(f"{out}: {counts}")
