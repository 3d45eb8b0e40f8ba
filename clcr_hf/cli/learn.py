"""`clcr train` and `clcr evaluate`."""

import json
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.table import Table

from .app import PASS_ON, app
from .errors import one_line
from .model import check_model


def run_script(**defaults: Any) -> None:
    """What the scripts in `examples/` run: `clcr train` with other defaults, by name, and the process's arguments."""
    with one_line():
        from ..training.run import main

        main(**defaults)


@app.command(context_settings=PASS_ON, add_help_option=False)
def train(context: typer.Context) -> None:
    """Train a model: `clcr train [recipe.yaml] --dataset NAME ...`; `clcr train --help` lists the arguments."""
    from ..training.run import main as train_main

    train_main(context.args)


@app.command(context_settings=PASS_ON)
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
    check_model(model)
    from ..training.run import evaluate_model, evaluation_data

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
