"""The parser of training's arguments: help in groups, and an error in one line."""

import argparse
from dataclasses import Field
from typing import Any, NoReturn

from transformers import HfArgumentParser, TrainingArguments

from ..checks import did_you_mean
from ..data.options import argument_help

_GROUPS = {
    "data": "data",
    "model": "model",
    "training": "training",
    "more": "more of training (transformers' own; see TrainingArguments)",
}
# Of transformers' own arguments, those that are wanted most.
_COMMON = (
    *("output_dir", "num_train_epochs", "per_device_train_batch_size", "gradient_accumulation_steps"),
    *("learning_rate", "seed", "use_cpu", "bf16", "dataloader_num_workers", "resume_from_checkpoint"),
    *("report_to", "push_to_hub", "hub_model_id"),
)


class _Help(argparse.ArgumentDefaultsHelpFormatter):
    """Each argument under one spelling, with its default where that says something."""

    def _format_action_invocation(self, action: argparse.Action) -> str:
        if not action.option_strings:
            return super()._format_action_invocation(action)
        name = action.option_strings[-1 if action.dest == "help" else 0]
        metavar = "" if action.nargs == 0 else f" {self._format_args(action, 'VALUE')}"
        return name + metavar

    def _get_help_string(self, action: argparse.Action) -> str:
        plain = action.default in (None, argparse.SUPPRESS, [])
        return (action.help or "") if plain else super()._get_help_string(action) or ""


class RunParser(HfArgumentParser):
    """
    `HfArgumentParser` whose help comes in groups, the common arguments first, and that takes whole names alone. Of an
    argument, help says what the docstring of its dataclass does.

    Raises, when it parses:
        ValueError: an argument that there is not, or a value that does not fit.
    """

    def __init__(self, dataclass_types: Any, **kwargs: Any) -> None:
        usage = "%(prog)s [RECIPE.yaml] [--NAME VALUE ...]"
        note = "--NAME-LIKE-THIS is --NAME_LIKE_THIS; --no_NAME switches off what is on."
        self._groups: dict[str, Any] = {}
        self._kind = "training"
        super().__init__(dataclass_types, usage=usage, epilog=note, formatter_class=_Help, allow_abbrev=False, **kwargs)

    def _add_dataclass_arguments(self, dtype: Any) -> None:
        for key, title in _GROUPS.items():
            self._groups.setdefault(key, self.add_argument_group(title) if key not in self._groups else None)
        kinds = {"DataArguments": "data", "ModelArguments": "model"}
        self._kind = kinds.get(dtype.__name__, "training")
        self._help = argument_help(dtype)
        super()._add_dataclass_arguments(dtype)

    def _parse_dataclass_field(self, parser: Any, field: Field) -> None:
        theirs = self._kind == "training" and field.name in TrainingArguments.__dataclass_fields__
        group = self._groups["more" if theirs and field.name not in _COMMON else self._kind]
        before = len(self._actions)
        HfArgumentParser._parse_dataclass_field(group, field)
        for action in self._actions[before:]:
            action.help = self._help.get(field.name, action.help)
            if action.option_strings[0].startswith("--no_"):
                action.help = argparse.SUPPRESS

    def parse_known_args(self, args: Any = None, namespace: Any = None) -> tuple[Any, list[str]]:
        found, left = super().parse_known_args(args, namespace)
        if left:
            known = [name for action in self._actions for name in action.option_strings]
            hint = did_you_mean(left[0].split("=")[0], known)
            raise ValueError(f"{left[0]} is no argument{hint}; --help lists them")
        return found, left

    def error(self, message: str) -> NoReturn:
        """One line, where argparse prints the usage of all arguments."""
        raise ValueError(message)


__all__ = ["RunParser"]
