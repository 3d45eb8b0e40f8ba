"""The recipes, run on small copies of the real layouts: they train, measure, save, reload and describe themselves."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from huggingface_hub import ModelCard
from layouts.ave import make_ave, make_ave_h5
from layouts.cremad import make_cremad
from layouts.csd import make_csd
from layouts.kinetics_sounds import make_kinetics_sounds
from layouts.mmsa import make_mmsa
from layouts.ucf101 import make_ucf101
from transformers import BertConfig, BertModel

from clcr_hf.cli.main import main as clcr
from clcr_hf.training.arguments import DataArguments, parse_args
from clcr_hf.training.build import train_tokenizer
from clcr_hf.training.run import evaluate_model, main
from clcr_hf.training.trainer import CLCRTrainer

REPO = Path(__file__).resolve().parent.parent
RECIPES = REPO / "examples" / "recipes"
SCRIPTS = {
    "mosi": "run_sentiment",
    "mosei": "run_sentiment",
    "mosei_emotions": "run_emotion",
    "cremad": "run_emotion",
    "kinetics_sounds": "run_action_recognition",
    "ave": "run_event_localization",
    "ave_h5": "run_event_localization",
    "ucf101": "run_action_recognition",
}
PAPER = {
    "optim": "sgd",
    "learning_rate": 1e-3,
    "momentum": 0.9,
    "weight_decay": 1e-4,
    "per_device_train_batch_size": 64,
    "num_train_epochs": 100,
}
MODALITIES = {
    "cremad": ["vision", "audio"],
    "kinetics_sounds": ["vision", "audio"],
    "ave": ["vision", "audio"],
    "ave_h5": ["vision", "audio"],
    "ucf101": ["vision", "flow"],
}
SMALL = [
    *("--max_steps", "2", "--per_device_train_batch_size", "4", "--per_device_eval_batch_size", "4"),
    *("--hidden_size", "16", "--backbone_size", "16", "--image_size", "32", "--logging_steps", "1"),
    *("--dataloader_num_workers", "0", "--dataloader_persistent_workers", "False"),
    *("--disable_tqdm", "True", "--use_cpu"),
]
CHECKS = {  # metrics of each, and the highest value they may have
    "regression": {"mae": 6.0, "corr": 1.0, "acc_2_has0": 1.0, "acc_2_non0": 1.0, "acc_5": 1.0, "acc_7": 1.0},
    "single_label_classification": {"accuracy": 1.0, "macro_f1": 1.0, "map": 1.0},
    "multi_label_classification": {"accuracy": 1.0, "weighted_f1": 1.0, "macro_f1": 1.0, "map": 1.0},
    "segments": {"segment_accuracy": 1.0, "segment_macro_f1": 1.0},
}


@pytest.fixture(scope="module")
def bert(tmp_path_factory) -> Path:
    """A folder with a BERT of three tiny layers and its tokenizer, in the place of the one from the Hub."""
    folder = tmp_path_factory.mktemp("bert")
    tokenizer = train_tokenizer(["great film", "bad film", "the um was there"] * 2, 200, 64)
    tokenizer.save_pretrained(folder)
    config = BertConfig(
        vocab_size=200, hidden_size=16, num_hidden_layers=3, num_attention_heads=2, intermediate_size=16
    )
    BertModel(config).save_pretrained(folder)
    return folder


def copy_of(name: str, root: Path) -> list[str]:
    """Writes the data set's copy, and the arguments that say where it is."""
    if name in ("mosi", "mosei"):
        return ["--data_file", str(make_mmsa(root, dataset=name, vocab_size=200))]
    if name == "mosei_emotions":
        return ["--dataset_dir", str(make_csd(root, dataset="mosei"))]
    makers = {
        "cremad": make_cremad,
        "kinetics_sounds": make_kinetics_sounds,
        "ave": make_ave,
        "ave_h5": make_ave_h5,
        "ucf101": make_ucf101,
    }
    places = ["--dataset_dir", str(makers[name](root))]
    return [*places, "--flow_cache_dir", str(root / "flow")] if name == "ucf101" else places


@pytest.mark.parametrize("name", SCRIPTS)
def test_recipe(name, bert, tmp_path):
    """Trains, measures, saves what measures the same again, and describes itself. One test, so that it runs once."""
    arguments = copy_of(name, tmp_path / "data")
    if name in ("mosi", "mosei", "mosei_emotions"):
        arguments += ["--text_model_name_or_path", str(bert)]
    folder = tmp_path / "run"
    metrics = main([str(RECIPES / f"{name}.yaml"), *arguments, *SMALL, "--output_dir", str(folder)])
    record = json.loads((folder / "run.json").read_text())
    assert record["modalities"] == MODALITIES.get(name, ["text", "vision", "audio"])
    assert record["generated"] is False
    assert set(record["num_examples"]) == {"train", "validation", "test"}
    check_metrics(metrics, record)
    check_reload(folder, metrics, record)
    check_card(folder, metrics, record)


def check_metrics(metrics: dict[str, float], record: dict[str, Any]) -> None:
    for name, highest in CHECKS[kind_of(record)].items():
        for split in ("eval", "test"):
            assert (-1 if name == "corr" else 0) <= metrics[f"{split}_{name}"] <= highest, name
    assert np.isfinite(metrics["train_loss"])


def check_reload(folder: Path, metrics: dict[str, float], record: dict[str, Any]) -> None:
    found = evaluate_model(str(folder), DataArguments(**record["data_arguments"]), batch_size=3)
    for name in CHECKS[kind_of(record)]:
        assert found[name] == pytest.approx(metrics[f"test_{name}"], abs=1e-4), name


def check_card(folder: Path, metrics: dict[str, float], record: dict[str, Any]) -> None:
    card = ModelCard.load(folder / "README.md")
    stated = [result.metric_value for result in card.data.eval_results]
    for name in CHECKS[kind_of(record)]:
        value = metrics[f"test_{name}"]
        assert any(figure == pytest.approx(value, abs=1e-4) for figure in stated), name
        assert f"{value:.4f}" in card.text
    assert all(result.dataset_name == record["dataset_title"] for result in card.data.eval_results)
    assert "generated" not in card.text
    assert ("sentiment-analysis" in card.data.tags) == (record["problem_type"] == "regression")


def kind_of(record: dict[str, Any]) -> str:
    return "segments" if record["per_segment"] else record["problem_type"]


def variant(name: str, root: Path, bert: Path) -> list[str]:
    """Other ways through the same data sets."""
    if name == "ave segments":
        place = ["--dataset_dir", str(make_ave(root)), "--dataset_options", "task=segment"]
        return [str(RECIPES / "ave.yaml"), *place, "--video_frames", "4"]
    if name == "ucf101 fold 2":
        place = ["--dataset_dir", str(make_ucf101(root)), "--dataset_options", "fold=2"]
        return [str(RECIPES / "ucf101.yaml"), *place, "--modalities", "vision", "--compute_flow", "False"]
    if name == "cremad videos":
        place = ["--dataset_dir", str(make_cremad(root, images=False)), "--dataset_options", "split=actors"]
        return [str(RECIPES / "cremad.yaml"), *place, "--video_fps", "4"]
    if name == "mosi csd":
        place = ["--dataset", "csd", "--dataset_dir", str(make_csd(root)), "--text_model_name_or_path", str(bert)]
        return [str(RECIPES / "mosi.yaml"), *place]
    place = ["--dataset_dir", str(make_mmsa(root, unaligned=True, vocab_size=200).parent)]
    return [str(RECIPES / "mosi.yaml"), *place, "--text_model_name_or_path", str(bert)]


@pytest.mark.parametrize(
    ("name", "metric"),
    [
        ("ave segments", "segment_accuracy"),
        ("ucf101 fold 2", "accuracy"),
        ("cremad videos", "accuracy"),
        ("mosi csd", "acc_7"),
        ("mosi unaligned", "acc_7"),
    ],
)
def test_variants_of_the_recipes(name, metric, tmp_path, bert):
    out = tmp_path / "run"
    metrics = main([*variant(name, tmp_path / "data", bert), *SMALL, "--output_dir", str(out)])
    assert 0 <= metrics[f"test_{metric}"] <= 1
    record = json.loads((out / "run.json").read_text())
    assert record["per_segment"] == (metric == "segment_accuracy")
    assert record["selected_by"] == ("mae" if name.startswith("mosi") else metric)


def test_clcr_train_and_evaluate_know_the_data(tmp_path, monkeypatch, capsys):
    root, out = make_cremad(tmp_path / "data", clips=12, videos=False), tmp_path / "run"
    words = ["train", str(RECIPES / "cremad.yaml"), "--dataset_dir", str(root), "--output_dir", str(out), *SMALL]
    for command in (words, ["evaluate", "--model", str(out), "--json", "--max_test_samples", "2"]):
        monkeypatch.setattr(sys, "argv", ["clcr", *command])
        capsys.readouterr()
        with pytest.raises(SystemExit) as stop:
            clcr()
        assert not stop.value.code
    found = json.loads(capsys.readouterr().out)
    assert found["accuracy"] in (0, 0.5, 1)


# -- the recipes as files -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", SCRIPTS)
def test_recipe_has_the_papers_settings(name):
    text = (RECIPES / f"{name}.yaml").read_text()
    recipe = yaml.safe_load(text)
    assert {key: recipe[key] for key in PAPER} == PAPER
    _, _, training = parse_args([str(RECIPES / f"{name}.yaml"), "--dataset_dir", "data", "--use_cpu"])
    assert training.optim == "sgd"
    assert "momentum=0.9" in training.optim_args
    assert training.learning_rate == 1e-3
    # Every setting but those about the machine says whose it is.
    for line in text.splitlines():
        if line and not line.startswith(("#", " ", "output_dir", "cache_gb", "dataloader")):
            assert "# [paper]" in line or "# [our reconstruction]" in line, line


@pytest.mark.parametrize("name", SCRIPTS)
def test_recipe_says_how_to_run_it(name):
    text = (RECIPES / f"{name}.yaml").read_text()
    assert f"accelerate launch examples/{SCRIPTS[name]}.py examples/recipes/{name}.yaml" in text
    assert f"examples/recipes/{name}.yaml" in (REPO / "examples" / f"{SCRIPTS[name]}.py").read_text()


def test_optimiser_of_a_recipe_is_sgd_with_momentum(tmp_path):
    words = ["--dataset_dir", "data", "--use_cpu", "--output_dir", str(tmp_path)]
    words += ["--eval_strategy", "no", "--load_best_model_at_end", "False"]
    _, _, args = parse_args([str(RECIPES / "mosi.yaml"), *words])
    optimizer = CLCRTrainer(model=torch.nn.Linear(2, 2), args=args).create_optimizer()
    assert type(optimizer) is torch.optim.SGD
    assert {group["momentum"] for group in optimizer.param_groups} == {0.9}
    assert 1e-4 in {group["weight_decay"] for group in optimizer.param_groups}


# -- the command line -----------------------------------------------------------------------------------------------


def test_command_line_goes_before_the_recipe_and_that_before_defaults(tmp_path):
    recipe = tmp_path / "small.yaml"
    recipe.write_text("seed: 3\nmodalities: [text, audio]\nlearning_rate: 1e-4\nlr_scheduler_kwargs: {}\n")
    model, data, training = parse_args(
        [str(recipe), "--seed", "4", "--use_cpu"], output_dir=str(tmp_path), seed=5, corpus_seed=6
    )
    assert (training.seed, data.corpus_seed, training.output_dir) == (4, 6, str(tmp_path))
    assert model.modalities == ["text", "audio"]
    assert training.learning_rate == 1e-4
    assert parse_args([str(recipe), "--modalities", "vision", "--use_cpu"])[0].modalities == ["vision"]


def test_a_recipe_of_videos_can_run_without_workers(tmp_path):
    words = [str(RECIPES / "cremad.yaml"), "--dataset_dir", "data", "--use_cpu", "--output_dir", str(tmp_path)]
    assert parse_args(words)[2].dataloader_persistent_workers
    assert not parse_args([*words, "--dataloader_num_workers", "0"])[2].dataloader_persistent_workers


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("learning_rat: 1", "learning_rat, which is no argument; did you mean learning_rate"),
        ("- seed", "must hold argument names"),
        ("seed: [", "cannot be read"),
        (None, "cannot be read"),
    ],
)
def test_recipe_that_cannot_be_used(tmp_path, text, message):
    recipe = tmp_path / "bad.yaml"
    if text is not None:
        recipe.write_text(text)
    with pytest.raises(ValueError, match=message):
        parse_args([str(recipe)])


def test_json_recipe(tmp_path):
    recipe = tmp_path / "small.json"
    recipe.write_text(json.dumps({"seed": 7, "use_cpu": True}))
    assert parse_args([str(recipe)])[2].seed == 7


def test_launched_script_with_a_recipe(tmp_path):
    root = make_cremad(tmp_path / "data", clips=12, videos=False)
    command = [sys.executable, "-m", "accelerate.commands.accelerate_cli", "launch", "--cpu", "--num_processes", "1"]
    command += ["--num_machines", "1", "--mixed_precision", "no", "--dynamo_backend", "no"]
    command += ["examples/run_emotion.py", "examples/recipes/cremad.yaml", "--dataset_dir", str(root), *SMALL]
    command += ["--dataloader_num_workers", "1"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
    done = subprocess.run(
        [*command, "--output_dir", str(tmp_path / "run")],
        cwd=REPO,
        env=environment,
        capture_output=True,
        text=True,
        timeout=900,
    )
    assert done.returncode == 0, done.stderr[-4000:]
    assert "test_accuracy" in json.loads((tmp_path / "run" / "all_results.json").read_text())
    assert "examples/recipes/cremad.yaml" in (tmp_path / "run" / "README.md").read_text()


def test_learns_what_is_there_to_learn(tmp_path):
    """The pitch of the copy's sounds gives the emotion away."""
    root = make_cremad(tmp_path / "data", clips=96, videos=False)
    metrics = main(
        [str(RECIPES / "cremad.yaml"), "--dataset_dir", str(root), *SMALL, "--modalities", "audio"]
        + ["--image_backbone", "small", "--backbone_size", "32", "--max_steps", "30", "--hidden_size", "32"]
        + ["--optim", "adamw_torch", "--learning_rate", "3e-3", "--per_device_train_batch_size", "16"]
        + ["--eval_strategy", "no", "--save_strategy", "no", "--load_best_model_at_end", "False"]
        + ["--output_dir", str(tmp_path / "run")]
    )
    assert metrics["test_accuracy"] > 0.6  # chance is one in six
