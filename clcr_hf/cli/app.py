"""The command that the parts of `clcr` hang on, and what they share."""

import os

import typer

app = typer.Typer(
    help="CLCR: multimodal models that say what decided their answer.", no_args_is_help=True, add_completion=False
)
# `--batch_size` is `--batch-size`, as in `clcr train`.
SPELLING = {"token_normalize_func": lambda word: word.replace("_", "-") if word.startswith("--") else word}
PASS_ON = {"allow_extra_args": True, "ignore_unknown_options": True}


def quiet() -> None:
    """Nothing but the answer on the terminal."""
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    from transformers.utils import logging

    logging.set_verbosity_error()
    logging.disable_progress_bar()
