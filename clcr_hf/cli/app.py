"""The command that the parts of `clcr` hang on, and what they share. No heavy import stands here at the top."""

import os
from collections.abc import Sequence
from typing import Annotated

import typer

from .. import __version__
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


def main(argv: Sequence[str] | None = None) -> None:
    """Entry point; `argv` is the process's own by default. An error that a user can mend is one line."""
    from . import learn, predict, read, rows, share  # noqa: F401  (each adds its commands)

    with one_line():
        app(None if argv is None else list(argv))


def _print_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"clcr-hf {__version__}")
        raise typer.Exit


@app.callback()
def _options(
    version: Annotated[
        bool, typer.Option("--version", help="Print the version.", callback=_print_version, is_eager=True)
    ] = False,
) -> None:
    """CLCR: multimodal models that say what decided their answer."""


def quiet() -> None:
    """Nothing but the answer on the terminal."""
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    from transformers.utils import logging

    logging.set_verbosity_error()
    logging.disable_progress_bar()
