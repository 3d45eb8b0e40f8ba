"""Model cards: from the record of a run, from the recipes, and as the Hub reads them."""

import json
import math
import re
import runpy
from pathlib import Path
from typing import Any

import pytest
import yaml
from benchmark_card import benchmark_card, text_table
from huggingface_hub import ModelCard, ModelCardData, constants, metadata_load, parse_eval_result_entries
from huggingface_hub.repocard_data import EvalResult
from stand_in_hub import StandInHub

from clcr_hf.hub.benchmarks import BENCHMARKS, benchmark_of
from clcr_hf.hub.card import base_models, card_from_run, check_card, pipeline_tag, write_model_card
from clcr_hf.hub.run_folder import copy_card_files, read_card_options, run_mark, set_card_options

REPO = Path(__file__).resolve().parent.parent
CARDS = REPO / "model_cards"
RUN: dict[str, Any] = {
    "command": "clcr train --dataset manifest --data_file clips.csv",
    "seed": 7,
    "versions": {"python": "3.11", "torch": "2"},
    "dataset": "manifest",
    "dataset_title": "clips.csv",
    "generated": False,
    "modalities": ["text", "vision", "audio"],
    "problem_type": "regression",
    "per_segment": False,
    "inputs": {"text": "text", "vision": "media", "audio": "media"},
    "selected_by": "mae",
    "num_examples": {"train": 80, "validation": 10, "test": 12},
    "settings": {"variant": "full", "device": "cuda:0", "processes": 2},
    "model_arguments": {},
    "data_arguments": {"dataset_options": None},
    "metrics": {
        "train_runtime": 5400.0,
        "eval_mae": 0.9111,
        "test_mae": 0.71234,
        "test_corr": 0.61,
        "test_acc_7": 0.4,
        "test_loss": 3.3,
        "test_runtime": 2.2,
        "test_samples": 12,
    },
}


def run_folder(root: Path, **changes: Any) -> Path:
    root.mkdir(parents=True, exist_ok=True)
    (root / "run.json").write_text(json.dumps({**RUN, **changes}))
    return root


def section(card: ModelCard, title: str) -> str:
    """The text below a heading, up to the next of its rank or above."""
    rank = len(title) - len(title.lstrip("#"))
    found = re.search(rf"^{re.escape(title)}\n(.*?)(?=^#{{1,{rank}}} |\Z)", card.text, re.MULTILINE | re.DOTALL)
    assert found, title
    return found[1]


# -- the card of a run -------------------------------------------------------------------------------------------------


def test_only_measured_figures_are_stated(tmp_path):
    card = card_from_run(run_folder(tmp_path / "mine"), "org/mine")
    stated = {result.metric_name: result.metric_value for result in card.data.eval_results}
    assert stated == {"MAE": 0.7123, "Pearson correlation": 0.61, "Acc-7": 0.4}
    assert {result.dataset_split for result in card.data.eval_results} == {"test"}
    results = section(card, "## Results")
    assert set(re.findall(r"\d+\.\d{2,}", results)) == {"0.7123", "0.6100", "0.4000"}
    assert "12 examples" in results and "one seed (7)" in results
    assert "0.9111" not in card.text and "3.3" not in results  # validation, and the loss


def test_validation_figures_are_called_so_where_test_was_not_measured(tmp_path):
    card = card_from_run(run_folder(tmp_path, metrics={"eval_mae": 0.9}))
    assert {result.dataset_split for result in card.data.eval_results} == {"validation"}
    assert "on its validation split (10 examples)" in card.text


def test_a_card_reads_back_as_it_was_written(tmp_path):
    path = write_model_card(run_folder(tmp_path, generated=True), "org/faces")
    card = card_from_run(tmp_path, "org/faces")
    assert str(ModelCard.load(path)) == str(card)
    metadata = metadata_load(path)
    assert metadata["license"] == "apache-2.0" and metadata["language"] == "en"
    assert metadata["library_name"] == "transformers" and metadata["pipeline_tag"] == "video-classification"
    assert metadata["model-index"][0]["name"] == "org/faces"
    assert "data is generated" in card.text and "never seen a person" in card.text


def test_every_example_of_code_names_the_model_and_is_python(tmp_path):
    card = card_from_run(run_folder(tmp_path), "org/mine")
    blocks = re.findall(r"```python\n(.*?)```", card.text, re.DOTALL)
    assert len(blocks) == 2 and all("org/mine" in block for block in blocks)
    assert "trust_remote_code=True" in blocks[1]
    for block in blocks:
        compile(block, "card", "exec")


def test_figures_that_are_not_defined_are_said_to_be_so(tmp_path):
    card = card_from_run(run_folder(tmp_path, metrics={"test_mae": 1.0, "test_corr": math.nan}))
    assert [result.metric_name for result in card.data.eval_results] == ["MAE"]
    assert "| Pearson correlation | not defined |" in card.text
    assert "nan" not in yaml.safe_dump(card.data.to_dict()).lower()


@pytest.mark.parametrize("modalities, tag", [
    (["text", "vision", "audio"], "video-classification"),
    (["vision", "flow"], "video-classification"),
    (["text", "audio"], "audio-classification"),
    (["text"], "text-classification"),
    (["gaze"], None),
])  # fmt: skip
def test_the_nearest_task_of_the_hub(modalities, tag, tmp_path):
    assert pipeline_tag(modalities) == tag
    card = card_from_run(run_folder(tmp_path, modalities=modalities))
    assert card.data.pipeline_tag == tag
    assert ("multimodal" in card.data.tags) == (len(modalities) > 1)
    assert ("Transcripts:" in card.text) == ("text" in modalities)


def test_backbones_from_the_hub_are_base_models_and_folders_are_not(tmp_path):
    named = {
        "text_model_name_or_path": "google-bert/bert-base-uncased",
        "vision_model_name_or_path": "microsoft/resnet-18",
        "audio_model_name_or_path": str(tmp_path),
    }
    assert base_models(named) == ["google-bert/bert-base-uncased", "microsoft/resnet-18"]
    assert base_models({**named, "modalities": ["vision"]}) == ["microsoft/resnet-18"]
    assert base_models({"text_model_name_or_path": "../bert"}) == []
    card = card_from_run(run_folder(tmp_path, model_arguments=named))
    assert card.data.base_model == ["google-bert/bert-base-uncased", "microsoft/resnet-18"]
    assert card.data.base_model_relation == "finetune"  # of two bases the Hub would think of a merge
    assert not hasattr(card_from_run(run_folder(tmp_path / "none")).data, "base_model_relation")


def test_segments_and_features_are_loaded_by_their_own_classes(tmp_path):
    segments = card_from_run(run_folder(tmp_path / "segments", per_segment=True, problem_type=None))
    assert "AutoModelForTokenClassification" in segments.text and "each segment" in segments.text
    inputs = {"text": "input_ids", "vision": "vision_features"}
    features = card_from_run(run_folder(tmp_path / "features", inputs=inputs, modalities=["text", "vision"]))
    assert "`input_ids`, `vision_features`" in features.text and "clip.mp4" not in features.text
    mixed = card_from_run(run_folder(tmp_path / "mixed", inputs={"text": "text", "vision": "vision_features"}))
    assert "`input_ids`, `vision_features`" in mixed.text


def test_a_run_that_measured_nothing_says_so(tmp_path):
    card = card_from_run(run_folder(tmp_path, metrics={"train_loss": 0.1}))
    assert "measured nothing" in section(card, "## Results") and card.data.eval_results is None


# -- compute and carbon ------------------------------------------------------------------------------------------------


def test_compute_is_stated_and_carbon_is_not_invented(tmp_path):
    card = card_from_run(run_folder(tmp_path))
    assert "90 min in 2 processes on `cuda:0` (3 process hours)" in section(card, "## Compute and carbon")
    assert "not measured" in section(card, "## Compute and carbon") and "co2_eq_emissions" not in card.data.to_dict()
    assert "not recorded" in card_from_run(run_folder(tmp_path, metrics={"test_mae": 1.0})).text


def test_emissions_of_codecarbon_are_taken_over(tmp_path):
    run_folder(tmp_path)
    rows = ("timestamp,emissions,country_name,gpu_model,cpu_model", "a,0.0015,France,A,B", "b,0.0005,France,A,B")
    (tmp_path / "emissions.csv").write_text("\n".join(rows))
    found = card_from_run(tmp_path).data.co2_eq_emissions
    assert found["emissions"] == pytest.approx(2.0)  # grams, of kilograms
    assert found["source"] == "codecarbon" and found["geographical_location"] == "France"
    assert found["hardware_used"] == "A, B"
    (tmp_path / "emissions.csv").write_text("timestamp,emissions\na,much\n")
    with pytest.raises(ValueError, match="kilograms"):
        card_from_run(tmp_path)


# -- which benchmark ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("changes, key", [
    ({"dataset": "cremad"}, "cremad"),
    ({"dataset": "ave_h5"}, "ave"),
    ({"dataset": "mmsa", "num_examples": {"train": 1284, "test": 686}}, "mosi"),
    ({"dataset": "mmsa", "num_examples": {"train": 16326, "test": 4659}}, "mosei"),
    ({"dataset": "mmsa", "num_examples": {"train": 1284, "test": 12}}, None),
    ({"dataset": "csd", "data_arguments": {"dataset_options": "dataset=mosei,labels=emotion"}}, "mosei"),
    ({"dataset": "manifest", "num_examples": {"train": 1284, "test": 686}}, None),
])  # fmt: skip
def test_a_benchmark_is_named_only_where_it_is_certain(changes, key):
    found = benchmark_of({**RUN, **changes})
    assert (found and found.key) == key


def test_the_paper_s_figures_stand_apart_from_ours(tmp_path):
    card = card_from_run(run_folder(tmp_path, dataset="cremad", problem_type="single_label_classification",
                                    modalities=["vision", "audio"], metrics={"test_accuracy": 0.5}))  # fmt: skip
    assert "| CLCR | 77.92 |" in section(card, "### The paper's figures, not ours")
    assert "77.92" not in section(card, "## Results").split("### The paper")[0]
    assert [result.metric_value for result in card.data.eval_results] == [0.5]
    assert "ODbL" in section(card, "## Training data") and "cao2014cremad" in section(card, "## Citation")
    assert card.data.license == "other" and card.data.license_name == "terms-of-the-training-data"
    assert "Acting" in section(card, "## Limits and bias")


@pytest.mark.parametrize("changes", [
    {"dataset": "csd", "data_arguments": {"dataset_options": "dataset=mosei,labels=emotion"},
     "problem_type": "multi_label_classification"},
    {"dataset": "ave", "per_segment": True},
])  # fmt: skip
def test_another_task_on_a_benchmark_is_not_set_beside_the_paper_s(changes, tmp_path):
    card = card_from_run(run_folder(tmp_path, **changes))
    assert "paper's figures" not in card.text and "sentiment-analysis" not in card.data.tags
    assert BENCHMARKS["mosei" if changes["dataset"] == "csd" else "ave"].title in section(card, "## Training data")


def test_of_other_data_nothing_is_claimed(tmp_path):
    card = card_from_run(run_folder(tmp_path))
    assert "paper's figures" not in card.text and card.data.license is None and card.data.datasets is None
    assert "does not state them" in section(card, "## Training data")


# -- what the user says ------------------------------------------------------------------------------------------------


def test_what_the_user_says_is_kept(tmp_path):
    run_folder(tmp_path)
    set_card_options(tmp_path, license="cc-by-nc-4.0", benchmark="mosi")
    set_card_options(tmp_path, license=None, dataset_id="org/data")
    options = read_card_options(tmp_path)
    assert (options.license, options.benchmark, options.dataset_id) == ("cc-by-nc-4.0", "mosi", "org/data")
    card = card_from_run(tmp_path)
    assert card.data.license == "cc-by-nc-4.0" and card.data.datasets == ["org/data"]
    assert "zadeh2016mosi" in card.text and not (tmp_path / "card.json.tmp").exists()


@pytest.mark.parametrize("given, stated", [(None, None), ("mit", "mit"), ("other", "other")])
def test_the_licence_is_what_the_user_says(given, stated, tmp_path):
    set_card_options(run_folder(tmp_path), license=given)
    card = card_from_run(tmp_path)
    assert card.data.license == stated
    assert ("given under the terms of the data" in card.text) == (stated == "other")


@pytest.mark.parametrize("content", [
    '{"licence": "mit"}',
    '{"benchmark": "imagenet"}',
    '{"dataset_id": "../../data"}',
    '{"examples": [{"title": "x", "file": "../../etc/passwd"}]}',
    '{"examples": [{"title": "x", "file": "examples/../secret"}]}',
    "[]",
    "{",
])  # fmt: skip
def test_card_options_that_make_no_sense_are_refused(content, tmp_path):
    run_folder(tmp_path)
    (tmp_path / "card.json").write_text(content)
    with pytest.raises(ValueError):
        card_from_run(tmp_path)
    with pytest.raises(ValueError):
        copy_card_files(tmp_path, tmp_path / "release")


def test_the_widget_shows_files_of_the_repository_and_what_the_model_said(tmp_path):
    run_folder(tmp_path)
    output = [{"label": "positive", "score": 1.5}]
    example = {"title": "A clip", "file": "examples/a.mp4", "text": "fine", "output": output, "mark": run_mark(RUN)}
    set_card_options(tmp_path, examples=[example])
    (entry,) = card_from_run(tmp_path, "org/mine").data.widget
    source = "https://huggingface.co/org/mine/resolve/main/examples/a.mp4"
    assert entry == {"example_title": "A clip", "src": source, "text": "fine", "output": output}
    assert "but the clips in `examples/`" in card_from_run(tmp_path).text
    (trained_again,) = card_from_run(run_folder(tmp_path, metrics={"test_mae": 0.5})).data.widget
    assert "output" not in trained_again  # what another model said


def test_eval_results_are_written_for_a_known_data_set_alone(tmp_path):
    write_model_card(run_folder(tmp_path))
    assert not (tmp_path / ".eval_results").exists()
    set_card_options(tmp_path, dataset_id="org/data")
    write_model_card(tmp_path)
    entries = parse_eval_result_entries(yaml.safe_load((tmp_path / ".eval_results" / "results.yaml").read_text()))
    assert {(entry.dataset_id, entry.task_id, entry.value) for entry in entries} == {
        ("org/data", "mae", 0.7123), ("org/data", "corr", 0.61), ("org/data", "acc_7", 0.4)
    }  # fmt: skip
    assert all("test split, seed 7" in entry.notes for entry in entries)


def test_what_a_card_shows_is_copied_with_it(tmp_path):
    folder = run_folder(tmp_path / "run")
    (folder / "examples").mkdir()
    for name in ("examples/a.mp4", "examples/not_named.mp4", "how_it_decides.png", "secret.txt"):
        (folder / name).write_bytes(b"x")
    set_card_options(folder, examples=[{"title": "A", "file": "examples/a.mp4"}])
    copies = copy_card_files(folder, tmp_path / "release")
    found = {path.relative_to(tmp_path / "release").as_posix() for path in copies}
    assert found == {"card.json", "examples/a.mp4", "how_it_decides.png"}


# -- validation --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("changes, problem", [
    ({"pipeline_tag": "multimodal-sentiment"}, "pipeline_tag"),
    ({"base_model": "/home/someone/bert"}, "no name on the Hub"),
    ({"license": "other"}, "license_name"),
])  # fmt: skip
def test_metadata_that_the_hub_cannot_use_is_refused(changes, problem):
    card = ModelCard.from_template(ModelCardData(**changes), template_str="---\n{{ card_data }}\n---\ntext")
    with pytest.raises(ValueError, match=problem):
        check_card(card)


@pytest.mark.parametrize("value", [math.nan, math.inf, "0.5 ± 0.1", True])
def test_figures_that_are_no_finite_numbers_are_refused(value):
    result = EvalResult("video-classification", "data", "data", "mae", value)
    data = ModelCardData(model_name="m", eval_results=[result])
    with pytest.raises(ValueError, match="no finite number"):
        check_card(ModelCard.from_template(data, template_str="---\n{{ card_data }}\n---\ntext"))


def test_the_hub_s_own_check_is_asked(tmp_path, monkeypatch):
    with StandInHub() as hub:
        monkeypatch.setattr(constants, "ENDPOINT", hub.url)
        monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)  # loopback is no hub
        for path in [write_model_card(run_folder(tmp_path)), *sorted(CARDS.glob("*.md"))]:
            ModelCard.load(path).validate()
        assert hub.requests == ["POST /api/validate-yaml"] * 8


# -- the cards in model_cards/ -----------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def maker() -> dict[str, Any]:
    return runpy.run_path(str(CARDS / "make.py"))


def test_committed_cards_are_what_the_recipes_make(maker):
    made = maker["cards"]()
    assert set(made) == {"template.md", *(f"{key}.md" for key in BENCHMARKS)}
    assert set(made) == {path.name for path in CARDS.glob("*.md")}
    stale = [name for name, text in made.items() if (CARDS / name).read_text(encoding="utf-8") != text]
    assert not stale, f"{stale}: run python model_cards/make.py"


@pytest.mark.parametrize("key, figures", [
    ("mosi", ["| CLCR | 0.678 | 88.05 |", "| DLF | 0.731 | 85.06 |", "| EMOE | 0.710 | 85.4 |"]),
    ("mosei", ["| CLCR | 0.511 | 87.96 |", "| DLF | 0.536 | 85.42 |", "| EMOE | 0.536 | 85.3 |"]),
    ("cremad", ["| CLCR | 77.92 |", "| ARL | 76.46 |", "| D&R | 73.52 |"]),
    ("kinetics_sounds", ["| CLCR | 75.41 |", "| ARL | 74.09 |", "| D&R | 69.10 |"]),
    ("ave", ["| CLCR | 73.82 |", "| ARL | 72.61 |", "| D&R | 69.62 |"]),
    ("ucf101", ["| CLCR | 83.64 |", "| ARL | 83.06 |", "| D&R | 82.11 |"]),
])  # fmt: skip
def test_a_benchmark_s_card_claims_no_figure_of_its_own(key, figures):
    path = CARDS / f"{key}.md"
    card = ModelCard.load(path)
    recipe = yaml.safe_load((REPO / "examples" / "recipes" / f"{key}.yaml").read_text())
    assert "model-index" not in metadata_load(path) and card.data.eval_results is None
    assert "No weights have been trained on the real data by us yet" in section(card, "## Results")
    paper = section(card, "### The paper's figures, not ours")
    assert all(row in paper for row in figures)
    for name in ("learning_rate", "weight_decay", "per_device_train_batch_size"):
        assert f"| {name} | {recipe[name]} | paper |" in section(card, "## Training")
    assert set(recipe["modalities"]) <= set(card.data.tags)
    assert all(citation in card.text for citation in BENCHMARKS[key].citations)
    check_card(card)


def test_stale_cards_are_found_and_mended(maker, tmp_path, monkeypatch):
    monkeypatch.setitem(maker["main"].__globals__, "FOLDER", tmp_path)
    monkeypatch.setattr("sys.argv", ["make.py", "--check"])
    with pytest.raises(SystemExit, match="template.md"):
        maker["main"]()
    assert not list(tmp_path.iterdir())
    monkeypatch.setattr("sys.argv", ["make.py"])
    maker["main"]()
    monkeypatch.setattr("sys.argv", ["make.py", "--check"])
    maker["main"]()


def test_figures_of_the_text_alone_are_called_so(tmp_path):
    figures = {"mae": 0.7, "corr": 0.8, "acc_2_has0": 0.85, "acc_2_non0": 0.8666, "acc_7": 0.45}
    row = {"mean": figures, "std": {"mae": 0.0104}, "runs": [figures, figures], "settings": {"streams": ["audio"]}}
    row["fits"] = [{"seed": 0, "started_from": "clcr-0"}, {"seed": 3, "started_from": None}]
    content = {"dataset": "mosi", "figures_of": "test", "versions": {"torch": "2.13"}, "rows": {"clcr": row}}
    path = tmp_path / "mosi_text.json"
    path.write_text(json.dumps(content))
    assert text_table(path)["rows"] == [["clcr", "2", "0.700 ± 0.010", "0.800", "85.0", "86.7", "45.0"]]
    card = benchmark_card("mosi", REPO / "examples" / "recipes" / "mosi.yaml", path)
    told = section(card, "### Measured on the text alone, with a small backbone")
    assert "not the model of this page" in told and "timing of the words" in told
    assert "seeds 0, 3 (with `--start` for: clcr); torch 2.13" in told
    assert card.data.eval_results is None


def test_a_recipe_that_says_too_little_is_refused(tmp_path):
    recipe = tmp_path / "mosi.yaml"
    recipe.write_text("modalities: [text]\n")
    with pytest.raises(ValueError, match="command"):
        benchmark_card("mosi", recipe)
