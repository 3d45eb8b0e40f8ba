"""One run an output folder."""

from collections.abc import Callable
from contextlib import nullcontext
from functools import wraps
from typing import Any

from ..data.folders import check_writable, only_writer
from .arguments import DataArguments, ModelArguments
from .before import check_before
from .trainer import CLCRTrainingArguments

_Run = Callable[..., dict[str, float]]


def alone_in_output_dir(run: _Run) -> _Run:
    """A run that has its output folder to itself, from before its data are read to its end; what is wrong with its
    arguments, or the folder, is said first. Of many processes the one that writes holds the lock: the first of all, or
    with `save_on_each_node` the first of each machine."""

    @wraps(run)
    def alone(
        model_args: ModelArguments, data_args: DataArguments, training_args: CLCRTrainingArguments, *more: Any
    ) -> dict[str, float]:
        writes = training_args.should_save
        if writes:
            check_writable(str(training_args.output_dir), folder=True)
        check_before(model_args, data_args, training_args)
        with only_writer(str(training_args.output_dir)) if writes else nullcontext():
            return run(model_args, data_args, training_args, *more)

    return alone
