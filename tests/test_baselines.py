"""What a run is measured against: a constant, and a linear model on statistics of the features."""

import json
import warnings

import numpy as np
import pytest
from datasets import ClassLabel, Dataset, Features, List, Value
from huggingface_hub import ModelCard
from transformers.trainer_utils import EvalPrediction

from clcr_hf.data.labels import LabelKind, label_kind
from clcr_hf.hub.card import card_from_run
from clcr_hf.modeling_clcr import CLCRPreTrainedModel
from clcr_hf.training.arguments import parse_args
from clcr_hf.training.baselines import Baselines, compare, comparison
from clcr_hf.training.run import main, metrics_function

COLUMNS = {"gaze": "gaze_features", "pose": "pose_features"}
WIDTHS = {"gaze": 3, "pose": 4}
UNITS = {"gaze": [0.01, 1, 100], "pose": [1, 5, 0.1, 20]}


def planted(rows: int = 120, seed: int = 0, steps: int = 5) -> tuple[dict[str, list], np.ndarray]:
    """Feature sequences in mixed units, and the standardised means of their columns, `(N, 7)`."""
    rng = np.random.default_rng(seed)
    means = rng.standard_normal((rows, 7))
    found, start = {}, 0
    for name, width in WIDTHS.items():
        noise = rng.standard_normal((rows, steps, width))
        noise -= noise.mean(1, keepdims=True)
        part = (means[:, None, start : start + width] + noise) * UNITS[name] + 7
        found[f"{name}_features"], start = part.tolist(), start + width
    return found, means


def learn(columns: dict[str, list], features: Features | None = None, **more) -> tuple[Baselines, Dataset, LabelKind]:
    rows = Dataset.from_dict(columns)
    rows = rows if features is None else rows.cast(Features({**rows.features, **features}))
    labels = label_kind({"train": rows}, **more)
    return Baselines(rows, COLUMNS, labels), rows, labels


def test_ridge_finds_what_is_linear_and_the_constant_is_the_median():
    columns, means = planted()
    baselines, rows, _ = learn({**columns, "label": (3 + means @ np.arange(7)).tolist()})
    answers, truth = baselines.answers(rows)
    assert (baselines.linear, baselines.reads) == ("ridge regression on means", ["gaze", "pose"])
    assert np.abs(answers["linear"][:, 0] - truth).mean() < 0.02 * np.abs(truth - np.median(truth)).mean()
    assert answers["constant"].shape == (120, 1) and np.unique(answers["constant"]) == np.median(truth)


def test_scores_and_rows_without_a_label_do_not_count():
    columns, means = planted()
    scores = np.stack([means @ np.arange(7), 5 - means[:, 0]], axis=1)
    known = scores.copy()
    known[::3, 0], known[1::3, 1] = np.nan, np.nan
    values = [None if number == 4 else row for number, row in enumerate(known.tolist())]
    rows = Dataset.from_dict({**columns, "label": values})
    baselines = Baselines(rows, COLUMNS, LabelKind("regression", ["a", "b"], False))
    answers, _ = baselines.answers(rows)
    known[4] = np.nan
    np.testing.assert_allclose(answers["constant"][0], np.nanmedian(known, axis=0))
    assert np.abs(answers["linear"] - scores).mean() < 0.05


def test_a_class_is_read_off_the_means_and_the_constant_is_the_commonest():
    columns, means = planted(200)
    classes = np.digitize(means @ np.ones(7), [-4, 2])
    names = ClassLabel(names=["low", "middle", "high", "never"])
    baselines, rows, _ = learn({**columns, "label": classes.tolist()}, Features({"label": names}))
    answers, truth = baselines.answers(rows)
    assert (baselines.linear, baselines.constant) == ("logistic regression on means", "the commonest class")
    assert answers["linear"].shape == (200, 4) and np.isfinite(answers["linear"]).all()
    assert (answers["linear"].argmax(-1) == truth).mean() > 0.93
    assert set(answers["constant"].argmax(-1)) == {np.bincount(classes).argmax()}
    np.testing.assert_allclose(np.exp(answers["constant"][0, :3]), np.bincount(classes) / 200)


def test_several_labels_and_one_that_nobody_has():
    columns, means = planted(200)
    several = np.stack([means[:, 0] > 0, means[:, 5] > 1, np.zeros(200)], axis=1).astype(float)
    baselines, rows, labels = learn({**columns, "label": several.tolist()}, Features({"label": List(Value("float32"))}))
    assert labels.problem_type == "multi_label_classification"
    answers, truth = baselines.answers(rows)
    measured = metrics_function(labels.problem_type, False)(EvalPrediction(answers["linear"], truth))
    assert measured["accuracy"] > 0.97 and measured["map"] > 0.97
    shares = 1 / (1 + np.exp(-answers["constant"][0]))
    np.testing.assert_allclose(shares, several.mean(0), atol=1e-6)


def test_segments_are_read_at_their_own_time():
    rng = np.random.default_rng(0)
    classes = [rng.integers(0, 2, rng.integers(2, 5)) for _ in range(80)]
    gaze = [(np.repeat(each, 3)[:, None] + 0.1 * rng.standard_normal((3 * len(each), 3))).tolist() for each in classes]
    labels = [each.tolist() for each in classes]
    labels[0][0] = -100
    baselines, rows, kind = learn(
        {"gaze_features": gaze, "labels": labels}, Features({"labels": List(ClassLabel(names=["no", "yes"]))})
    )
    answers, truth = baselines.answers(rows)
    assert kind.per_segment and truth.shape == (80, 4) and answers["linear"].shape == (80, 4, 2)
    counted = truth >= 0
    assert counted.sum() == sum(map(len, classes)) - 1
    assert (answers["linear"].argmax(-1) == truth)[counted].mean() == 1


@pytest.mark.parametrize("levels", [False, True])
def test_missing_masked_and_tapped_features(levels):
    columns, means = planted()
    score = means @ np.arange(7)
    score[::4] = 50 + means[::4, 0]  # without pose, the score is another one
    columns["pose_features"] = [None if n % 4 == 0 else value for n, value in enumerate(columns["pose_features"])]
    gaze = np.array(columns["gaze_features"])
    gaze[:, 3:] = 1e6
    columns["gaze_features"] = (np.stack([gaze, gaze[:, ::-1]], 1) if levels else gaze).tolist()
    columns["gaze_attention_mask"] = [[0, 0, 1, 0, 0] if levels else [1, 1, 1, 0, 0]] * len(score)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        baselines, rows, _ = learn({**columns, "label": score.tolist()})
        answers, truth = baselines.answers(rows)
    residue = np.abs(answers["linear"][:, 0] - truth)
    assert residue.mean() < 0.3 * np.abs(truth - np.median(truth)).mean()


def test_too_little_to_learn_from_is_the_constant():
    columns, _ = planted(6)
    names = Features({"label": ClassLabel(names=["a", "b"])})
    baselines, rows, _ = learn({**columns, "label": [0, 0, 0, 0, 1, 1]}, names)
    answers, _ = baselines.answers(rows)
    np.testing.assert_array_equal(answers["linear"], answers["constant"])


def test_no_more_is_read_than_the_line_says(monkeypatch):
    monkeypatch.setattr("clcr_hf.training.baselines._ROWS", 50)
    columns, means = planted()
    rows = Dataset.from_dict({**columns, "label": means[:, 0].tolist()})
    labels = label_kind({"train": rows})
    measure = metrics_function("regression", False, None)
    found = compare(Baselines(rows, COLUMNS, labels), {"test": rows}, measure, "mae", {"test": 0.1})
    assert (found["rows"], found["total"]) == (50, 120)
    line = comparison({"baselines": found})
    assert "they read 50 of 120 training rows" in line and "worse than ridge regression on means\n" in line
    assert line.count("\n") == 1


# -- a run -------------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def table(tmp_path_factory):
    columns, means = planted(60)
    split = ["train"] * 40 + ["validation"] * 10 + ["test"] * 10
    path = tmp_path_factory.mktemp("table") / "table.parquet"
    Dataset.from_dict({**columns, "label": (means @ np.arange(7)).tolist(), "split": split}).to_parquet(path)
    return path


SHORT = ["--num_train_epochs", "1", "--hidden_size", "16", "--report_to", "none", "--use_cpu", "True"]


def test_a_run_says_records_and_shows_what_it_was_compared_with(table, tmp_path, capsys):
    metrics = main(["--data_file", str(table), "--output_dir", str(tmp_path), *SHORT])
    run = json.loads((tmp_path / "run.json").read_text())
    found = run["baselines"]
    assert list(found["figures"]) == ["validation", "test"] and found["reads"] == ["gaze", "pose"]
    figures = found["figures"]["test"]
    assert figures["model"] == metrics["test_mae"]
    assert max(figures["linear"], figures["model"]) < figures["constant"] / 2  # of which the linear part takes care
    said = [line for line in capsys.readouterr().out.splitlines() if line.startswith("compare:")]
    assert len(said) == 1
    assert f"ridge regression on means of gaze, pose {figures['linear']:.4g}" in said[0] and "on test" in said[0]
    shares = run["shares"]
    assert list(shares["shares"]) == ["joint path", "own evidence", "linear model"]
    assert shares["together"] <= max(shares["alone"].values())
    config = CLCRPreTrainedModel.load_with_head(tmp_path).config
    assert config.linear_share == pytest.approx(shares["shares"]["linear model"])
    kept = 1 - config.linear_share
    assert config.own_share * kept == pytest.approx(shares["shares"]["own evidence"]) or not kept
    text = card_from_run(tmp_path).text
    assert f"the median {figures['constant']:.4f}, ridge regression on means of gaze, pose" in text
    assert f"Shares of its answer: {shares['words']}." in text
    assert ModelCard.load(tmp_path / "README.md").text == text


def test_a_run_without_baselines(table, tmp_path, capsys):
    words = ["--data_file", str(table), "--output_dir", str(tmp_path), *SHORT, "--baselines", "False"]
    main([*words, "--config_overrides", "unimodal_evidence=false"])
    run = json.loads((tmp_path / "run.json").read_text())
    assert "baselines" not in run and "shares" in run  # the linear model still takes its part
    assert "compare:" not in capsys.readouterr().out
    assert "learned from the same training split" not in (tmp_path / "README.md").read_text()
    assert parse_args(["--data_file", str(table)])[2].baselines
