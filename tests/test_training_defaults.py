"""What the scripts set for data that nobody tuned them to: scales of features and scores, the alignment stage."""

import logging

import numpy as np
import pytest
import torch
from datasets import Dataset
from hypothesis import given, settings
from hypothesis import strategies as st

from clcr_hf.modeling_clcr import CLCRPreTrainedModel
from clcr_hf.training.run import main
from clcr_hf.training.statistics import column_statistics, label_statistics


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


FEW = ["--hidden_size", "32", "--num_train_epochs", "12", "--logging_steps", "7", "--report_to", "none"]


def test_scores_of_any_unit_are_learned(table, tmp_path):
    metrics = main(["--data_file", str(table), "--output_dir", str(tmp_path), *FEW, "--learning_rate", "3e-3"])
    model = CLCRPreTrainedModel.load_with_head(tmp_path)
    assert model.config.label_mean[0] == pytest.approx(50, abs=5) and 8 < model.config.label_std[0] < 20
    scaling = model.clcr.hierarchy.encoders["gaze"].scaling
    assert scaling.standardises and 0.005 < scaling.std[0] < 0.05 and 50 < scaling.std[2] < 500
    assert metrics["test_mae"] < 6  # the constant has about 9.6


def test_both_stages_in_one_command(table, tmp_path, caplog):
    words = ["--data_file", str(table), *FEW, "--num_train_epochs", "1", "--evidence", "agreement"]
    with caplog.at_level(logging.WARNING, "clcr_hf.data"):
        main([*words, "--output_dir", str(tmp_path / "a")])
    assert "without an alignment stage" in caplog.text
    caplog.clear()
    metrics = main([*words, "--output_dir", str(tmp_path / "b"), "--pretrain_epochs", "2"])
    assert "without an alignment stage" not in caplog.text
    assert np.isfinite(metrics["pretrain_loss"])
    first, second = (CLCRPreTrainedModel.load_with_head(tmp_path / name) for name in "ab")
    assert first.config.alignment_coef == second.config.alignment_coef == 0.1
    assert not torch.equal(first.clcr.exchange.raw_shared, second.clcr.exchange.raw_shared)
