"""`clcr train`, `clcr study` and `clcr evaluate`."""

import json
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.table import Column, Table

from .app import PASS_ON, app, documented
from .errors import one_line
from .model import check_model


def run_script(*, pretraining: bool = False, **defaults: Any) -> None:
    """What the scripts in `examples/` run: `clcr train` with other defaults, by name, and the process's arguments.
    `pretraining`: its alignment stage alone."""
    with one_line():
        if pretraining:
            from ..training.pretraining import main
        else:
            from ..training.run import main

        main(**defaults)


@app.command(context_settings=PASS_ON, add_help_option=False)
def train(context: typer.Context) -> None:
    """Train a model: `clcr train [recipe.yaml] --dataset NAME ...`; `clcr train --help` lists the arguments."""
    from ..training.run import main as train_main

    train_main(context.args)


@app.command()
@documented
def study(file: str, output_dir: str | None = None, plan: bool = False) -> None:
    """
    Compare models: all runs that a YAML file states, and a page of what they say. A study that was stopped goes on
    where it was.

    Args:
        file: The study; see docs/studies.md.
        output_dir: Where runs and report go; default: studies/NAME of the file.
        plan: Say which runs it takes, and do none.
    """
    from ..study import located, read_study, run_study, write_report

    stated = read_study(file)
    folder = Path(output_dir or Path("studies") / Path(file).stem)
    if plan:
        stated = located(stated, folder)
        for run in [*stated.choices(), *stated.runs({})]:
            typer.echo(run.folder)
        return
    records = run_study(stated, folder, say=lambda line: typer.echo(line))
    typer.echo(f"report:  {write_report(stated, records, folder)}")


@app.command(context_settings=PASS_ON)
@documented
def evaluate(
    context: typer.Context,
    model: Annotated[str, typer.Option()],
    dataset: str | None = None,
    dataset_dir: str | None = None,
    data_file: str | None = None,
    split: str = "test",
    batch_size: int = 16,
    as_json: Annotated[bool, typer.Option("--json")] = False,
) -> None:
    """
    Measure a trained model on one split of a data set. Data arguments of `clcr train` may follow, such as
    `--dataset_options fold=2`; those of the model's own training hold where its data set is measured.

    Args:
        model: Folder or Hub name of a trained model.
        dataset: A name as in `clcr train`; default: what it learned.
        dataset_dir: Folder of the data set.
        data_file: The pickle, table or npz.
        split: train, validation or test.
        batch_size: Examples a forward pass.
        as_json: Print JSON for machines.
    """
    check_model(model)
    from ..training.groups import told
    from ..training.run import evaluate_model, evaluation_data

    given = {"dataset": dataset, "dataset_dir": dataset_dir, "data_file": data_file}
    words = [word for name, value in given.items() if value is not None for word in (f"--{name}", value)]
    data = evaluation_data(model, [*words, *context.args])
    metrics = evaluate_model(model, data, split=split, batch_size=batch_size)
    if as_json:
        typer.echo(json.dumps(metrics, indent=2))
        return
    groups = metrics.pop("groups", {})
    table = Table("metric", Column("value", justify="right"), title=f"{model} on {data.dataset}, {split}")
    for name, value in metrics.items():
        table.add_row(name, f"{value:.4f}" if isinstance(value, float) else str(value))
    Console().print(table)
    typer.echo(told(groups, split), nl=False)
