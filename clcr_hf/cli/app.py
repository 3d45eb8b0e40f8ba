"""The command that the parts of `clcr` hang on, and what they share. No heavy import stands here at the top."""

import inspect
import os
from collections.abc import Callable, Sequence
from typing import Annotated, Any, get_args, get_origin

import typer

from .. import __version__
from ..data.options import argument_help
from .errors import one_line

app = typer.Typer(
    help="CLCR: multimodal models that say what decided their answer.",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,
)
# `--batch_size` is `--batch-size`, as in `clcr train`.
SPELLING = {"token_normalize_func": lambda word: word.replace("_", "-")}
PASS_ON = {"allow_extra_args": True, "ignore_unknown_options": True}


def documented(command: Callable[..., None]) -> Callable[..., None]:
    """A command whose arguments are told by its docstring: help for each that stands below `Args:`."""
    what, signature = argument_help(command), inspect.signature(command)
    given = signature.parameters.values()
    parameters = [with_help(each, what[each.name]) if each.name in what else each for each in given]
    command.__signature__ = signature.replace(parameters=parameters)  # type: ignore[attr-defined]
    command.__doc__ = (inspect.getdoc(command) or "").partition("\nArgs:\n")[0]
    return command


def with_help(parameter: inspect.Parameter, text: str) -> inspect.Parameter:
    """A parameter of a command with its help; an argument where it has no default, else an option."""
    annotated = get_origin(parameter.annotation) is Annotated
    kind, *infos = get_args(parameter.annotation) if annotated else [parameter.annotation]
    info = infos[0] if infos else typer.Argument() if parameter.default is parameter.empty else typer.Option()
    info.help = text
    return parameter.replace(annotation=Annotated[kind, info])


def main(argv: Sequence[str] | None = None) -> None:
    """Entry point; `argv` is the process's own by default. An error that a user can mend is one line."""
    from . import learn, predict, read, rows, share  # noqa: F401  (each adds its commands)

    with one_line():
        app(None if argv is None else list(argv))


def _print_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"clcr-hf {__version__}")
        raise typer.Exit


_Version = Annotated[bool, typer.Option("--version", help="Print the version.", callback=_print_version, is_eager=True)]


@app.callback()
def _options(version: _Version = False) -> None:
    """CLCR: multimodal models that say what decided their answer."""


def progress_bar(**options: Any) -> Any:
    """A bar on the standard error."""
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    parts = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    return Progress(*parts, console=Console(stderr=True), **options)


def quiet() -> None:
    """No progress bars of libraries. What transformers warns of, weights above all, is shown."""
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    from transformers.utils import logging

    logging.disable_progress_bar()
