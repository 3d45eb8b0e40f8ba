"""Scores of a user's own from table to answer: range, scale, names and metrics; and a new head for other labels."""

import json
import logging
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import pipeline

from clcr_hf import CLCRConfig, CLCRForSequenceClassification, CLCRForTokenClassification, CLCRProcessor
from clcr_hf.data.convert import convert
from clcr_hf.data.labels import label_kind
from clcr_hf.data.table.manifest import load_manifest
from clcr_hf.errors import ModelFileError, SettingsError
from clcr_hf.training import evaluate_model, main
from clcr_hf.training.arguments import DataArguments

FEW = ["--num_train_epochs", "1", "--hidden_size", "16", "--report_to", "none", "--use_cpu", "True", "--seed", "1"]
FEATURES = {"audio_config": {"feature_size": 3}, "text_config": {"feature_size": 2}, "hidden_size": 16}


def table(folder: Path, **labels: list) -> Path:
    """Rows of features, six a split, with further columns that repeat `labels`."""
    rng = np.random.default_rng(0)
    rows = []
    for split in ("train", "valid", "test"):
        for number in range(6):
            row = {"id": f"{split}{number}", "split": split, "audio_features": rng.normal(size=(4, 3)).tolist()}
            row |= {"text_features": rng.normal(size=(3, 2)).tolist()}
            rows.append(row | {name: values[number % len(values)] for name, values in labels.items()})
    path = folder / "table.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def read(folder: Path, score_range: object = "default") -> dict:
    pipe = pipeline("multimodal-sentiment", model=str(folder), device="cpu")
    pipe.model.classifier.out_proj.bias.data += 1e4  # whatever was learned lies above every range
    given = {} if score_range == "default" else {"score_range": score_range}
    return pipe({"audio_features": np.ones((4, 3), np.float32)}, **given)


@pytest.mark.parametrize("through_shards", [False, True])
def test_several_scores_keep_their_names_and_ranges(tmp_path, through_shards):
    path = table(tmp_path, calm=[1, 7, 3.5], warm=[0, 100, 20])
    data = ["--data_file", str(path), "--label_columns", "calm", "warm"]
    if through_shards:
        convert("manifest", path, tmp_path / "shards", options={"label_columns": ["calm", "warm"]})
        data = ["--dataset_dir", str(tmp_path / "shards")]
    out = tmp_path / "run"
    metrics = main([*data, *FEW, "--output_dir", str(out)])
    assert {"test_mae", "test_mae_calm", "test_mae_warm", "test_spearman", "test_r2_warm"} <= metrics.keys()
    assert metrics["test_mae"] == pytest.approx((metrics["test_mae_calm"] + metrics["test_mae_warm"]) / 2)
    assert not any("acc" in name for name in metrics)
    config = CLCRConfig.from_pretrained(out)
    assert config.problem_type == "regression" and config.id2label == {0: "calm", 1: "warm"}
    assert config.label_range == [[1.0, 7.0], [0.0, 100.0]] and config.label_scale is None
    assert read(out) == {"scores": {"calm": 7.0, "warm": 100.0}}
    record = json.loads((out / "run.json").read_text())
    assert record["label_range"] == [[1.0, 7.0], [0.0, 100.0]]
    card = (out / "README.md").read_text()
    assert "returns 2 scores" in card and "| MAE, calm |" in card and "sentiment score" not in card


def test_a_score_of_ones_own(tmp_path):
    path = table(tmp_path, anxiety=[2, 40, 21])
    out = tmp_path / "run"
    metrics = main(["--data_file", str(path), "--label_column", "anxiety", *FEW, "--output_dir", str(out)])
    assert {"test_mae", "test_corr", "test_spearman", "test_r2"} <= metrics.keys() and "test_acc_7" not in metrics
    assert read(out) == {"label": "anxiety", "score": 40.0}
    assert read(out, (0, 5)) == {"label": "anxiety", "score": 5.0} and read(out, None)["score"] > 1000
    again = evaluate_model(str(out), DataArguments(data_file=str(path), label_column="anxiety"))
    assert again["mae"] == pytest.approx(metrics["test_mae"], rel=1e-5)


@pytest.mark.parametrize(("widest", "limit", "metric"), [(0.8, 1.0, "test_acc_3"), (2.4, 3.0, "test_acc_7")])
def test_the_scale_of_sentiment_is_asked_for(tmp_path, widest, limit, metric):
    path = table(tmp_path, label=[-0.6, widest, 0.2])
    out = tmp_path / "run"
    metrics = main(["--data_file", str(path), "--label_scale", "sentiment", *FEW, "--output_dir", str(out)])
    config = CLCRConfig.from_pretrained(out)
    assert (config.label_scale, config.label_range) == ("sentiment", [-limit, limit]) and metric in metrics
    assert read(out) == {"label": "positive", "score": limit}


def test_a_range_is_given(tmp_path):
    path = table(tmp_path, label=[1, 4, 2])
    out = tmp_path / "run"
    main(["--data_file", str(path), "--label_range", "0", "5", *FEW, "--output_dir", str(out)])
    assert CLCRConfig.from_pretrained(out).label_range == [0.0, 5.0] and read(out) == {"label": "score", "score": 5.0}
    with pytest.raises(ValueError, match="--label_range takes the lowest and the highest score"):
        main(["--data_file", str(path), "--label_range", "5", "0", *FEW, "--output_dir", str(out)])


def test_ranges_of_labels(tmp_path):
    def kind(labels, **options):
        return label_kind(load_manifest(table(tmp_path, label=labels)), **options)

    assert kind([0.5, 2, 9]).label_range == [0.5, 9.0] and kind([0.5]).label_range is None
    assert kind([-4.2, 0, 1.5], label_scale="sentiment").label_range == [-5.0, 5.0]
    with pytest.raises(ValueError, match="is for one score a row"):
        data = load_manifest(table(tmp_path, label=[[0.5, 2], [1, 4]]), task="regression")
        label_kind(data, scores=True, label_scale="sentiment")


# -- configurations of version 0.1 and of Python ----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("fields", "scale", "limits"),
    [
        ({"num_labels": 1}, "sentiment", [-3.0, 3.0]),
        ({"num_labels": 1, "id2label": {0: "sentiment"}}, "sentiment", [-3.0, 3.0]),
        ({"num_labels": 1, "id2label": {0: "stars"}}, None, None),
        ({"num_labels": 3, "problem_type": "regression"}, None, None),
        ({"num_labels": 3}, None, None),
        ({"num_labels": 1, "label_range": [-1, 1]}, "sentiment", [-1, 1]),
        ({"num_labels": 1, "label_range": [0, 10]}, None, [0, 10]),
        ({"num_labels": 1, "label_scale": None}, None, None),
    ],
)
def test_what_is_left_out_is_as_version_0_1_had_it(tmp_path, fields, scale, limits):
    config = CLCRConfig(**FEATURES, **fields)
    assert (config.label_scale, config.label_range) == (scale, limits)
    config.save_pretrained(tmp_path)
    again = CLCRConfig.from_pretrained(tmp_path)
    assert (again.label_scale, again.label_range) == (scale, limits)
    if not {"label_scale", "label_range"} & set(fields):
        written = json.loads((tmp_path / "config.json").read_text())
        old = {name: value for name, value in written.items() if name not in ("label_scale", "label_range")}
        (tmp_path / "config.json").write_text(json.dumps(old))
        assert CLCRConfig.from_pretrained(tmp_path).label_range == limits


@pytest.mark.parametrize("limits", [[3, 1], "wide", [1], [[0, 1], [3, 2]], [None, 1]])
def test_ranges_that_are_none(limits):
    with pytest.raises(SettingsError, match="label_range` must be"):
        CLCRConfig(**FEATURES, label_range=limits)


# -- other labels than those of a saved model -------------------------------------------------------------------------


@pytest.fixture
def saved(tmp_path) -> Path:
    """A regression on features, saved with its processor."""
    torch.manual_seed(0)
    folder = tmp_path / "saved"
    config = CLCRConfig(**FEATURES, num_labels=1, problem_type="regression")
    CLCRForSequenceClassification(config).save_pretrained(folder)
    CLCRProcessor().save_pretrained(folder)
    return folder


def test_another_number_of_classes_in_python(saved):
    old = CLCRForSequenceClassification.from_pretrained(saved)
    with pytest.raises(ModelFileError, match="ignore_mismatched_sizes"):
        CLCRForSequenceClassification.from_pretrained(saved, num_labels=5)
    new = CLCRForSequenceClassification.from_pretrained(saved, num_labels=5, ignore_mismatched_sizes=True)
    assert new.config.num_labels == 5 and new.config.problem_type is None and new.config.label_scale is None
    batch = {"audio_features": torch.randn(4, 4, 3), "labels": torch.tensor([0, 4, 2, 1])}
    output = new(**batch)
    assert output.logits.shape == (4, 5) and output.loss.isfinite()
    kept = {
        name: value for name, value in new.state_dict().items() if "out_proj" not in name and "unimodal" not in name
    }
    assert all(torch.equal(value, old.state_dict()[name]) for name, value in kept.items())
    named = CLCRForSequenceClassification.from_pretrained(
        saved, id2label={0: "a", 1: "b"}, ignore_mismatched_sizes=True
    )
    assert named.config.label2id == {"a": 0, "b": 1} and named.config.num_labels == 2
    same = CLCRForSequenceClassification.from_pretrained(saved, num_labels=1)
    assert same.config.problem_type == "regression" and same.config.label_scale == "sentiment"


def test_another_number_of_classes_from_the_command_line(saved, tmp_path, caplog):
    path = table(tmp_path, label=["a", "b", "c"])
    words = ["--data_file", str(path), "--model_name_or_path", str(saved), *FEW, "--output_dir", str(tmp_path / "run")]
    with pytest.raises(ValueError, match="this model learned regression, .*--ignore_mismatched_sizes"):
        main(words)
    with caplog.at_level(logging.WARNING, "clcr_hf.data"):
        metrics = main([*words, "--ignore_mismatched_sizes", "True"])
    assert "its head is replaced by a new one" in caplog.text and "test_accuracy" in metrics
    config = CLCRConfig.from_pretrained(tmp_path / "run")
    assert config.id2label == {0: "a", 1: "b", 2: "c"} and config.problem_type == "single_label_classification"
    other = table(tmp_path, label=["x", "y", "z"])
    again = [*words[:2], "--model_name_or_path", str(tmp_path / "run"), *words[4:-1], str(tmp_path / "second")]
    assert str(other) == words[1]
    with pytest.raises(ValueError, match="the classes of the data, x, y, z, are not those of this model .a, b, c"):
        main(again)
    main([*again, "--ignore_mismatched_sizes", "True"])
    assert CLCRConfig.from_pretrained(tmp_path / "second").id2label == {0: "x", 1: "y", 2: "z"}


def test_a_label_a_segment_after_one_a_clip(saved, tmp_path):
    path = table(tmp_path, labels=[["a", "b"], ["b", "b"]])
    words = ["--data_file", str(path), "--dataset_options", "task=segments", "--model_name_or_path", str(saved), *FEW]
    main([*words, "--ignore_mismatched_sizes", "True", "--output_dir", str(tmp_path / "run")])
    model = CLCRForTokenClassification.from_pretrained(tmp_path / "run")
    assert model.config.architectures == ["CLCRForTokenClassification"] and model.config.num_segments == 2
