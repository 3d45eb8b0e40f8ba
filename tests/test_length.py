"""How long a run is, and which of its states is kept, where nobody said so."""

import json

import pytest

from clcr_hf.training.arguments import RunArguments, parse_args
from clcr_hf.training.length import fit_length


def arguments(*words: str) -> RunArguments:
    return parse_args(["--output_dir", "unused", "--report_to", "none", "--use_cpu", "True", *words])[2]


def test_few_rows_are_passed_over_more_often():
    args = arguments("--per_device_train_batch_size", "16")
    said = fit_length(args, train_rows=60, validation_rows=5000)
    assert args.num_train_epochs == 150  # 4 steps a pass
    assert args.eval_strategy == args.save_strategy == "steps" and args.eval_steps == args.save_steps == 30
    assert said.startswith("600 steps, 150 passes") and args.load_best_model_at_end


def test_many_rows_are_passed_over_as_said():
    args = arguments()
    fit_length(args, train_rows=16_000, validation_rows=5000)
    assert args.num_train_epochs == 20 and args.eval_strategy == "epoch"


@pytest.mark.parametrize("words", [["--num_train_epochs", "2"], ["--num-train-epochs=2"], ["--max_steps", "7"]])
def test_what_the_command_line_says_holds(words):
    args = arguments(*words)
    said = fit_length(args, train_rows=60, validation_rows=5000)
    assert (args.num_train_epochs, args.max_steps) in ((2, -1), (20, 7))
    assert said.startswith("8 steps, 2 passes" if args.max_steps < 0 else "7 steps")


def test_a_recipe_says_it_too(tmp_path):
    (tmp_path / "recipe.json").write_text(json.dumps({"num_train_epochs": 3}))
    args = parse_args([str(tmp_path / "recipe.json"), "--output_dir", "unused"])[2]
    fit_length(args, 60, 5000)
    assert args.num_train_epochs == 3


def test_both_said_hold_both():
    args = arguments("--num_train_epochs", "2", "--min_steps", "40")
    fit_length(args, 60, 5000)
    assert args.num_train_epochs == 10


def test_arguments_made_in_python_are_as_given():
    args = RunArguments("unused", num_train_epochs=2, report_to="none", use_cpu=True)
    fit_length(args, 60, 5000)
    assert args.num_train_epochs == 2


def test_on_few_rows_of_validation_the_last_state_is_kept():
    args = arguments()
    assert "validation has 499 rows" in fit_length(args, 1000, 499)
    assert not args.load_best_model_at_end and args.early_stopping_patience == 0
    args = arguments()
    assert "best on validation" in fit_length(args, 1000, 100, scores=True)
    assert "validation has 99 rows" in fit_length(args, 1000, 99, scores=True) and args.small_validation == 100
    args = arguments("--small_validation", "500")
    assert "validation has 499 rows" in fit_length(args, 1000, 499, scores=True)
    args = arguments("--small_validation", "0")
    assert "best on validation" in fit_length(args, 1000, 499)
    assert args.load_best_model_at_end and args.early_stopping_patience == 8


@pytest.mark.parametrize(
    "words",
    ["--load_best_model_at_end True", "--early_stopping_patience 3", "--metric_for_best_model loss"],
)
def test_who_asks_for_the_best_state_gets_it(words):
    args = arguments(*words.split())
    assert "best on validation" in fit_length(args, 1000, 99) and args.early_stopping_patience


def test_batches_of_several_steps_count_as_one():
    args = arguments("--gradient_accumulation_steps", "4", "--per_device_train_batch_size", "4")
    fit_length(args, train_rows=60, validation_rows=5000)
    assert args.num_train_epochs == 150
