"""What the scripts set for data that nobody tuned them to: scales of features and scores, the alignment stage."""

import json
import logging
import re
import runpy
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from datasets import Dataset
from hypothesis import given, settings
from hypothesis import strategies as st

from clcr_hf import CLCRForPreTraining, CLCRForTokenClassification, CLCRModel
from clcr_hf.modeling_clcr import CLCRPreTrainedModel
from clcr_hf.training import pretraining
from clcr_hf.training.arguments import DataArguments
from clcr_hf.training.run import evaluate_model, main
from clcr_hf.training.statistics import column_statistics, label_statistics

REPO = Path(__file__).resolve().parent.parent


def assert_equal(first, second):
    """Two dicts of tensors hold the same."""
    assert first.keys() == second.keys() and all(torch.equal(first[name], second[name]) for name in first)


def _rows(values: list[np.ndarray], masks: list[np.ndarray] | None = None) -> Dataset:
    columns = {"gaze_features": [value.tolist() for value in values]}
    if masks is not None:
        columns["gaze_attention_mask"] = [mask.tolist() for mask in masks]
    return Dataset.from_dict(columns)


def test_statistics_are_those_of_real_steps():
    rng = np.random.default_rng(0)
    values = [rng.normal([3, -200], [0.01, 100], (length, 2)) for length in (400, 900, 50)]
    masks = [np.ones(len(value), dtype=int) for value in values]
    values[0][200:] = 1e9
    masks[0][200:] = 0
    mean, std = column_statistics(_rows(values, masks), "gaze_features", "gaze_attention_mask")
    real = np.concatenate([values[0][:200], *values[1:]])
    np.testing.assert_allclose(mean, real.mean(0), rtol=0.02)
    np.testing.assert_allclose(std, real.std(0), rtol=0.05)


def test_wild_constant_and_missing_values_do_not_set_the_scale():
    rng = np.random.default_rng(0)
    value = np.column_stack([rng.normal(0, 1, 5000), np.full(5000, 7.0), np.full(5000, np.nan), rng.normal(0, 1, 5000)])
    value[::1000, 0], value[5, 3] = 1e12, np.inf
    mean, std = column_statistics(_rows([value]), "gaze_features", "gaze_attention_mask")
    assert np.isfinite(mean).all() and np.isfinite(std).all()
    assert abs(mean[0]) < 0.1 and abs(std[0] - 1) < 0.1 and abs(std[3] - 1) < 0.1
    assert mean[1] == 7 and std[1] == 0


@settings(max_examples=30, deadline=None)
@given(st.integers(1, 6), st.integers(1, 30), st.integers(0, 2**32 - 1))
def test_statistics_of_any_rows_are_finite(columns, length, seed):
    rng = np.random.default_rng(seed)
    value = rng.normal(size=(length, columns)) * 10.0 ** rng.integers(-6, 6, columns)
    value[rng.random(value.shape) < 0.2] = np.nan
    mean, std = column_statistics(_rows([value]), "gaze_features", "gaze_attention_mask")
    assert mean.shape == std.shape == (columns,)
    assert np.isfinite(mean).all() and np.isfinite(std).all() and (std >= 0).all()


def test_label_statistics_leave_missing_ones_out():
    found = label_statistics(Dataset.from_dict({"labels": [[1.0, 5.0], [3.0, float("nan")], [2.0, 5.0]]}))
    assert found["label_mean"] == [2.0, 5.0] and found["label_std"] == [pytest.approx(0.8165, rel=1e-3), 1.0]


PARTS = ((2, "gaze"), (3, "pose"))  # cells of a line


@pytest.fixture(scope="module")
def table(tmp_path_factory):
    """Scores from 0 to 100, linear in the mean of one column among columns of other units."""
    folder = tmp_path_factory.mktemp("scores")
    rng = np.random.default_rng(0)
    units = np.array([1e-2, 1.0, 1e2])
    lines = ["id,split,gaze_features,pose_features,label"]
    for number in range(160):
        split = "train" if number < 100 else "validation" if number < 130 else "test"
        gaze = rng.normal(size=(rng.integers(4, 9), 3)) + rng.normal(size=3)
        for name, value in (("gaze", gaze * units), ("pose", rng.normal(size=(5, 2)))):
            np.save(folder / f"{name}{number}.npy", value.astype(np.float32))
        score = 50 + 12 * gaze.mean(0)[0]
        lines.append(f"c{number},{split},gaze{number}.npy,pose{number}.npy,{score:.3f}")
    path = folder / "table.csv"
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path


@pytest.fixture(scope="module")
def unlabelled(table):
    """The same rows without a column of labels."""
    lines = [line.rsplit(",", 1)[0] for line in table.read_text(encoding="utf-8").splitlines()]
    path = table.with_name("unlabelled.csv")
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path


FEW = ["--hidden_size", "32", "--num_train_epochs", "12", "--logging_steps", "7", "--report_to", "none"]


def test_scores_of_any_unit_are_learned(table, tmp_path):
    metrics = main(["--data_file", str(table), "--output_dir", str(tmp_path), *FEW, "--learning_rate", "3e-3"])
    model = CLCRPreTrainedModel.load_with_head(tmp_path)
    assert model.config.label_mean[0] == pytest.approx(50, abs=5) and 8 < model.config.label_std[0] < 20
    scaling = model.clcr.hierarchy.encoders["gaze"].scaling
    assert scaling.standardises and 0.005 < scaling.std[0] < 0.05 and 50 < scaling.std[2] < 500
    assert metrics["test_mae"] < 6  # the constant has about 9.6


def test_both_stages_in_one_command(table, tmp_path, caplog, capsys):
    words = ["--data_file", str(table), *FEW, "--num_train_epochs", "1", "--evidence", "agreement"]
    with caplog.at_level(logging.WARNING, "clcr_hf.data"):
        main([*words, "--output_dir", str(tmp_path / "a")])
    assert "without an alignment stage" in caplog.text
    caplog.clear()
    assert max(_rates(capsys)) <= 1e-3
    stage = ["--pretrain_epochs", "2", "--pretrain_learning_rate", "0.02"]
    metrics = main([*words, "--output_dir", str(tmp_path / "b"), *stage])
    assert max(_rates(capsys)) > 5e-3
    assert "without an alignment stage" not in caplog.text
    assert np.isfinite(metrics["pretrain_loss"])
    first, second = (CLCRPreTrainedModel.load_with_head(tmp_path / name) for name in "ab")
    assert first.config.alignment_coef == second.config.alignment_coef == 0.1
    assert not torch.equal(first.clcr.exchange.raw_shared, second.clcr.exchange.raw_shared)


def _rates(capsys):
    """The learning rates that the log states."""
    return [float(each) for each in re.findall(r"'learning_rate': '?([\d.e-]+)", capsys.readouterr().out)]


@pytest.mark.parametrize("source", ["manifest", "named"])
def test_rows_without_a_label_are_in_the_alignment_stage(table, tmp_path, caplog, source):
    """Those of train alone."""
    lines = table.read_text(encoding="utf-8").splitlines()
    halves = [line if number % 2 else line.rsplit(",", 1)[0] + "," for number, line in enumerate(lines[1:])]
    folder = table.parent / f"halves_{source}"
    folder.mkdir()
    if source == "manifest":
        given = ["--data_file", str(table.with_name("halves.csv"))]
        table.with_name("halves.csv").write_text("\n".join([lines[0], *halves]) + "\n", encoding="utf-8")
    else:
        for split in ("train", "validation", "test"):
            cells = [line.split(",") for line in halves if line.split(",")[1] == split]
            read = {f"{name}_features": [np.load(table.parent / c[at]).tolist() for c in cells] for at, name in PARTS}
            read["label"] = [float(c[-1]) if c[-1] else None for c in cells]
            Dataset.from_dict(read).to_parquet(folder / f"{split}.parquet")
        given = ["--dataset_name", str(folder)]
    words = [*given, *FEW, "--num_train_epochs", "1", "--evidence", "agreement", "--missing_labels", "drop"]
    with caplog.at_level(logging.WARNING, "clcr_hf.data"):
        metrics = main([*words, "--pretrain_epochs", "1", "--output_dir", str(tmp_path / "run")])
    assert "alignment stage: 50 rows with a label and 50 without" in caplog.text
    assert metrics["pretrain_samples"] == 100 and metrics["train_samples"] == 50 and metrics["test_samples"] == 15


def test_the_stage_alone_needs_no_labels_and_every_head_goes_on_from_it(
    table, unlabelled, tmp_path, caplog, monkeypatch, capsys
):
    words = ["--data_file", str(unlabelled), *FEW, "--use_cpu", "--num_train_epochs", "2"]
    monkeypatch.setattr(sys, "argv", ["run_pretraining.py", *words, "--output_dir", str(tmp_path / "aligned")])
    runpy.run_path(str(REPO / "examples/run_pretraining.py"), run_name="__main__")
    assert "none are looked at" in capsys.readouterr().out
    aligned = CLCRPreTrainedModel.load_with_head(tmp_path / "aligned")
    assert isinstance(aligned, CLCRForPreTraining) and aligned.config.evidence == "agreement"
    assert aligned.clcr.hierarchy.encoders["gaze"].scaling.std[2] > 50  # statistics of the unlabelled rows
    record = json.loads((tmp_path / "aligned" / "pretraining.json").read_text())
    assert record["num_examples"] == {"train": 100} and record["problem_type"] is None
    weights = aligned.clcr.state_dict()
    for head in (CLCRModel, CLCRForTokenClassification):
        loaded = head.from_pretrained(tmp_path / "aligned")
        assert_equal(weights, loaded.base_model.state_dict())

    words = ["--data_file", str(table), *FEW, "--model_name_or_path", str(tmp_path / "aligned")]
    main([*words, "--output_dir", str(tmp_path / "start"), "--do_train", "False"])  # before training starts
    started = CLCRPreTrainedModel.load_with_head(tmp_path / "start")
    assert_equal(weights, started.clcr.state_dict())
    assert started.config.num_labels == 1 and started.config.label_mean[0] == pytest.approx(50, abs=5)
    with caplog.at_level(logging.WARNING, "clcr_hf.data"):
        metrics = main([*words, "--output_dir", str(tmp_path / "trained"), "--num_train_epochs", "2"])
    assert "alignment stage" not in caplog.text and "its head is replaced" not in caplog.text
    assert np.isfinite(metrics["test_mae"])
    trained = CLCRPreTrainedModel.load_with_head(tmp_path / "trained")
    assert not torch.equal(trained.clcr.exchange.raw_shared, weights["exchange.raw_shared"])


def test_the_stage_does_not_look_at_labels(table, unlabelled, tmp_path):
    """With labels, with some, or without: the same model."""
    lines = table.read_text(encoding="utf-8").splitlines()
    some = [line if number % 2 else line.rsplit(",", 1)[0] + "," for number, line in enumerate(lines, 1)]
    (half := table.with_name("half.csv")).write_text("\n".join(some) + "\n", encoding="utf-8")
    words = [*FEW, "--num_train_epochs", "1", "--evidence", "agreement"]
    losses = [
        pretraining.main(["--data_file", str(path), *words, "--output_dir", str(tmp_path / path.stem)])["train_loss"]
        for path in (table, half, unlabelled)
    ]
    assert losses[0] == losses[1] == losses[2]
    with pytest.raises(ValueError, match="no head"):
        evaluate_model(str(tmp_path / "half"), DataArguments(data_file=str(table)))


def test_one_modality_has_nothing_to_align(table, tmp_path):
    words = [*FEW, "--num_train_epochs", "1", "--output_dir", str(tmp_path), "--modalities", "gaze"]
    with pytest.raises(ValueError, match="two modalities or more"):
        pretraining.main(["--data_file", str(table), *words])
