"""`clcr extract` and `clcr convert`: clips and data sets to rows that training reads."""

import inspect
import json
from collections.abc import Callable
from dataclasses import fields
from typing import Annotated, Any

import typer

from ..data.options import argument_help, read_options
from ..data.registry import SOURCE_NAMES
from ..extract.settings import ExtractSettings, flag_of
from .app import SPELLING, app, documented, progress_bar, quiet
from .device import choose_device


@documented
def _extract(source: str, out: str, as_json: Annotated[bool, typer.Option("--json")] = False, **words: Any) -> None:
    """
    Turn clips into features by pretrained backbones. Goes on where it was stopped.

    Args:
        source: Folder of clips, table of clips, or a benchmark's folder (--dataset).
        out: Folder of the features.
        as_json: Print JSON for machines.
    """
    quiet()
    words["device"] = choose_device(words["device"])
    settings = ExtractSettings.from_words(**words)
    from ..extract import extract_features

    record = extract_features(source, out, settings, progress=not as_json)
    counts = record["counts"]
    rows = ", ".join(f"{name} {count}" for name, count in counts["rows"].items()) or "no rows"
    faults = {"clips that failed": counts["failed"], **counts["lacking"]}
    listed = ", ".join(f"{name} {count}" for name, count in faults.items() if count)
    text = f"{out}: {rows}" + (f"; {listed} (see failures-*.jsonl there)" if listed else "")
    typer.echo(json.dumps(record, indent=2) if as_json else text)


def _with_settings(command: Callable[..., None]) -> Callable[..., None]:
    """The command with an option for each of `ExtractSettings`."""
    signature = inspect.signature(command)
    own = [each for each in signature.parameters.values() if each.kind is not each.VAR_KEYWORD]
    what = argument_help(ExtractSettings)
    made = []
    for each in fields(ExtractSettings):
        kind, default = each.metadata["word"] or each.type, None if each.default == () else each.default
        option = typer.Option(flag_of(each), help=what[each.name])
        where = inspect.Parameter.KEYWORD_ONLY
        made.append(inspect.Parameter(each.name, where, default=default, annotation=Annotated[kind, option]))
    command.__signature__ = signature.replace(parameters=[*own, *made])  # type: ignore[attr-defined]
    return command


app.command(name="extract", context_settings=SPELLING)(_with_settings(_extract))


@app.command(context_settings=SPELLING)
@documented
def convert(
    dataset: Annotated[str, typer.Argument(help=f"{', '.join(SOURCE_NAMES)}.")],
    source: str,
    out: str,
    dataset_options: str | None = None,
    embed_media: bool = False,
    media_root: str | None = None,
    rows_per_shard: Annotated[int, typer.Option(min=1)] = 256,
    as_json: Annotated[bool, typer.Option("--json")] = False,
) -> None:
    """
    Turn a data set into shards, once; train with `--dataset shards`. Goes on where it was stopped.

    Args:
        source: The data set: its folder, pickle, table or npz.
        out: Folder of the shards.
        dataset_options: Options of the loader, as fold=2,seed=1.
        embed_media: Put videos, audio and images into the shards; all must lie beneath the folder of the data set.
        media_root: A further folder in which files may lie; of a table from elsewhere.
        rows_per_shard: Rows a file.
        as_json: Print JSON for machines.
    """
    from ..data.convert import convert as convert_rows

    with progress_bar() as bar:
        rows = bar.add_task("rows", total=None)
        record = convert_rows(
            dataset,
            source,
            out,
            options=read_options(dataset_options, "--dataset-options"),
            embed_media=embed_media,
            media_root=media_root,
            rows_per_shard=rows_per_shard,
            progress=lambda done, total: bar.update(rows, completed=done, total=total),
        )
    counts = ", ".join(f"{name} {count}" for name, count in record["rows"].items())
    typer.echo(json.dumps(record, indent=2) if as_json else f"{out}: {counts}")
