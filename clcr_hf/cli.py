"""The `clcr` command: train, evaluate, predict."""

import json
import os
import sys
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
    """Train a model. Takes the arguments of examples/run_sentiment.py; `clcr train --help` lists them."""
    from .training import main as train_main

    train_main(context.args)


@app.command()
def evaluate(
    model: Annotated[str, typer.Option(help="Folder or Hub name of a trained model.")],
    dataset: Annotated[str, typer.Option(help="talking_faces, mmsa, manifest or utterances.")] = "talking_faces",
    dataset_dir: Annotated[str | None, typer.Option(help="Folder of the generated corpus.")] = None,
    data_file: Annotated[str | None, typer.Option(help="The pickle, manifest or npz file.")] = None,
    split: Annotated[str, typer.Option(help="train, validation or test.")] = "test",
    batch_size: Annotated[int, typer.Option(help="Examples a forward pass.")] = 16,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON for machines.")] = False,
) -> None:
    """Measure a trained model on one split of a data set."""
    from .training import DataArguments, evaluate_model

    data = DataArguments(dataset=dataset, dataset_dir=dataset_dir, data_file=data_file)
    metrics = evaluate_model(model, data, split=split, batch_size=batch_size)
    if as_json:
        typer.echo(json.dumps(metrics, indent=2))
        return
    table = Table(title=f"{model} on {dataset}, {split}")
    table.add_column("metric")
    table.add_column("value", justify="right")
    for name, value in metrics.items():
        table.add_row(name, f"{value:.4f}" if isinstance(value, float) else str(value))
    Console().print(table)


@app.command()
def predict(
    clip: Annotated[Path | None, typer.Argument(help="Video with speech: its frames and its sound are read.")] = None,
    text: Annotated[str | None, typer.Option(help="What is said in the clip.")] = None,
    model: Annotated[str, typer.Option(help="Folder or Hub name of a trained model.")] = "runs/talking_faces",
    top: Annotated[int, typer.Option(help="Most exchanged tokens to show for each modality.", min=0)] = 5,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON for machines.")] = False,
) -> None:
    """Score a clip, and say what decided it."""
    if clip is None and text is None:
        raise ValueError("nothing to read: give a clip, or --text, or both")
    if clip is not None and not clip.is_file():
        raise FileNotFoundError(f"{clip} is not a file")
    _quiet()
    from transformers import pipeline

    from .pipeline_clcr import TASK

    sample = {"media": None if clip is None else str(clip), "text": text}
    result = pipeline(TASK, model=model, device="cpu")(
        {key: value for key, value in sample.items() if value is not None}, return_explanation=True
    )
    if as_json:
        typer.echo(json.dumps(result, indent=2))
    else:
        _print_result(Console(), result, top)


def _quiet() -> None:
    """Nothing but the answer on the terminal."""
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    from transformers.utils import logging

    logging.set_verbosity_error()
    logging.disable_progress_bar()


def _print_result(console: Console, result: dict[str, Any], top: int) -> None:
    if "score" in result:
        console.print(f"[bold]score[/bold] {result['score']:+.3f}   [bold]label[/bold] {result['label']}")
    for name, value in result.get("probabilities", result.get("scores", {})).items():
        console.print(f"  {name:<16} {value:.3f}")
    levels = {f"level {level}": weight for level, weight in enumerate(result["level_weights"], start=1)}
    console.print(_bars("which level decided (1 is the shallowest)", levels))
    console.print(_bars("which modality decided, shared", result["modality_weights"]))
    console.print(_bars("how far private cues were let through", result["private_gates"]))
    for name, tokens in result["tokens"].items():
        best = sorted(tokens, key=lambda token: -sum(token["budget"]))[:top]
        if best:
            console.print(_token_table(name, best))


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


def main() -> None:
    """Entry point: an error that a user can mend is one line on the standard error, with exit code 1."""
    try:
        app()
    except (ValueError, OSError) as error:
        Console(stderr=True, highlight=False).print("error:", str(error), markup=False, soft_wrap=True)
        sys.exit(1)


if __name__ == "__main__":
    main()
