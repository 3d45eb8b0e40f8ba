"""`clcr card`, `clcr publish` and `clcr export`: a trained model for others."""

import json
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console

from .app import app, documented, quiet
from .model import check_model


@app.command()
@documented
def card(
    folder: Path,
    model_id: str | None = None,
    figure: Annotated[bool, typer.Option("--figure", "--pictures")] = False,
    split: str = "test",
    limit: Annotated[int, typer.Option(min=1)] = 200,
    license: str | None = None,
    benchmark: str | None = None,
    dataset_id: str | None = None,
    example: Path | None = None,
    text: str | None = None,
) -> None:
    """
    Write a trained model's card anew. What is said here is kept in card.json beside it.

    Args:
        folder: Where training left the model and run.json.
        model_id: org/name that the card's examples load.
        figure: Measure on the run's data how the model decides, and draw it.
        split: Where to measure that: train, validation or test.
        limit: On how many examples.
        license: The weights' licence, as the Hub names it.
        benchmark: What it learned: mosi, mosei, cremad, kinetics_sounds, ave or ucf101.
        dataset_id: The data set's name on the Hub.
        example: A clip to publish as example for the widget.
        text: What is said in it; or an example without a clip.
    """
    check_model(str(folder), on_hub=False)
    quiet()
    from ..hub.card import write_model_card
    from ..hub.run_folder import CardOptions, check_hub_id, read_run, set_card_options
    from ..modeling_clcr import CLCRPreTrainedModel

    read_run(folder)
    CardOptions(license=license, benchmark=benchmark, dataset_id=dataset_id)
    if model_id is not None:
        check_hub_id("model_id", model_id)
    if example is not None and not example.is_file():
        raise FileNotFoundError(f"--example: {example} is not a file")
    if figure:
        from ..explain.plot import check_figure

        check_figure(folder / "how_it_decides.png")
    CLCRPreTrainedModel.load_with_head(folder)  # no card of a model that lacks weights
    set_card_options(folder, license=license, benchmark=benchmark, dataset_id=dataset_id)
    if example is not None or text is not None:
        from ..hub.means import add_example

        add_example(folder, example, text)
    if figure:
        from ..hub.means import build_card_figures

        build_card_figures(folder, _own_rows(folder, split, limit), split=split)
    typer.echo(str(write_model_card(folder, model_id)))


def _own_rows(folder: Path, split: str, limit: int) -> Any:
    """At most `limit` rows of the data that a run learned from, spread evenly over the split."""
    import numpy as np

    from ..training.data import load_data
    from ..training.run import evaluation_data

    splits = load_data(evaluation_data(str(folder), [])).splits
    if split not in splits:
        raise ValueError(f"the data have no split {split!r}, only {', '.join(splits)}")
    rows = splits[split]
    return rows.select(np.linspace(0, len(rows) - 1, min(limit, len(rows))).round().astype(int))


@app.command()
@documented
def publish(
    context: typer.Context,
    folder: Path,
    repo_id: str,
    private: bool = False,
    revision: str | None = None,
    create_pr: bool = False,
    commit_message: Annotated[str | None, typer.Option("--message")] = None,
    max_shard_size: str = "5GB",
    media_root: Path | None = None,
    graph: Annotated[bool, typer.Option("--graph")] = False,
    to_folder: Path | None = None,
) -> None:
    """
    Send a trained model to the Hub: weights, processor, code, card, results. Takes the token of `hf auth login`.

    Args:
        folder: Where training left the model, its processor and run.json.
        repo_id: org/name on the Hub; made when it does not exist.
        private: Make a new repository private.
        revision: Branch to commit to.
        create_pr: Open a pull request instead.
        commit_message: Message of the commit.
        max_shard_size: Weights beyond this are cut into files.
        media_root: A further folder in which files may lie that links in the folder lead to.
        graph: Send model.onnx too, which clcr export left in the folder; the handler then answers by onnxruntime.
        to_folder: Write what would be sent to this folder, and send nothing.
    """
    check_model(str(folder), on_hub=False)
    quiet()
    from ..hub.publish import build_release
    from ..hub.publish import publish as send

    if to_folder is not None:
        kept = {name: context.params[name] for name in ("max_shard_size", "media_root", "graph")}
        typer.echo(str(build_release(folder, to_folder, repo_id, **kept)))
        return
    options = {name: value for name, value in context.params.items() if name != "to_folder"}
    typer.echo(send(**{**options, "private": private or None}))


@app.command()
@documented
def export(
    folder: str,
    out: Annotated[Path | None, typer.Argument()] = None,
    format: str = "onnx",
    part: str = "whole",
    modalities: str | None = None,
    opset: int | None = None,
    image_size: int | None = None,
    as_json: Annotated[bool, typer.Option("--json")] = False,
) -> None:
    """
    Write a trained model as one graph for other runtimes, and compare its outputs with the model's.

    Args:
        folder: Folder or Hub name of a trained model.
        out: File to write: .onnx, or .pt2 for torch. Default: model.onnx in the folder, where pipelines find it.
        format: onnx, int8 (ONNX with 8-bit weights) or torch (torch.export).
        part: whole, or fusion: what follows the backbones.
        modalities: Those it takes, as text,audio. Default: all.
        opset: Version of the ONNX operators.
        image_size: Rows and columns of a frame. Default: as trained.
        as_json: Print JSON for machines.
    """
    check_model(folder)
    quiet()
    from ..export.onnx import export_model
    from ..onnx_graph import GRAPH_FILE

    if out is None:
        if format != "onnx" or not Path(folder).is_dir():
            raise ValueError("name the file to write; only ONNX of a model in a folder has a place of its own")
        out = Path(folder) / GRAPH_FILE
    names = modalities.split(",") if modalities else None
    largest = export_model(folder, out, format=format, part=part, modalities=names, opset=opset, image_size=image_size)
    if as_json:
        typer.echo(json.dumps({"file": str(out), "bytes": out.stat().st_size, "largest_difference": largest}))
        return
    size = f"{out.stat().st_size / 1e6:.1f} MB"
    Console().print(f"{out}: {size}; largest difference to the model {largest:.1e}", highlight=False)
