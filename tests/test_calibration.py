"""Calibration after training: temperature, thresholds of several labels, intervals of scores."""

import json
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import f1_score
from test_run_sentiment import REPO, launcher, run
from transformers import EvalPrediction

from clcr_hf import CLCRConfig, CLCRForSequenceClassification, CLCRPipeline, CLCRProcessor
from clcr_hf.demo.html import draw_answer
from clcr_hf.errors import SettingsError
from clcr_hf.metrics import expected_calibration_error
from clcr_hf.modeling_clcr import CLCRPreTrainedModel
from clcr_hf.objective import labels_that_hold, probabilities
from clcr_hf.predict.output import column_types, result_rows
from clcr_hf.training.calibration import (
    calibrate,
    find_calibration,
    find_temperature,
    find_thresholds,
    forget_calibration,
    interval_width,
)
from clcr_hf.training.run import evaluate_model, evaluation_data, main, metrics_function

FEATURES = {"text_config": {"feature_size": 4}, "audio_config": {"feature_size": 3}}
SINGLE, MULTI = "single_label_classification", "multi_label_classification"


def config_of(problem: str, labels: int = 3, **fields) -> CLCRConfig:
    sizes = {"hidden_size": 16, "num_attention_heads": 2, "num_labels": labels, **FEATURES}
    return CLCRConfig(problem_type=problem, **sizes, **fields)


def drawn(several: bool, overconfident: float, rows: int = 3000, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Logits that are too large by a factor, and labels drawn from the right ones."""
    rng = np.random.default_rng(seed)
    right = rng.normal(size=(rows, 3)) * 1.5
    if several:
        labels = (rng.random(right.shape) < 1 / (1 + np.exp(-right))).astype(np.float32)
    else:
        labels = (right + rng.gumbel(size=right.shape)).argmax(-1)
    return (overconfident * right).astype(np.float32), labels


# -- temperature -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("several", [False, True])
@pytest.mark.parametrize("factor", [3.0, 0.4])
def test_planted_miscalibration_is_mended(several, factor):
    config = config_of(MULTI if several else SINGLE)
    found = find_calibration(config, *drawn(several, factor))
    assert found.fields["logit_temperature"] == pytest.approx(factor, rel=0.1)
    assert config.logit_temperature is None  # it is for the caller to set
    measure = metrics_function(config.problem_type, per_segment=False, config=config)
    before = measure(EvalPrediction(*drawn(several, factor, seed=1)))
    config.logit_temperature = found.fields["logit_temperature"]
    after = measure(EvalPrediction(*drawn(several, factor, seed=1)))  # other rows than it was found on
    assert before["ece"] > 0.08 and after["ece"] < 0.03
    assert {**before, "ece": 0} == {**after, "ece": 0}  # accuracy, F1 and mAP are as they were
    assert found.metrics["ece_after"] < found.metrics["ece_before"]
    assert found.metrics["nll_after"] < found.metrics["nll_before"]
    assert f"{found.metrics['ece_before']:.4f} to {found.metrics['ece_after']:.4f}" in found.said[0]


def test_no_temperature_where_every_answer_is_right_or_rows_are_few():
    logits, labels = drawn(False, 1.0)
    assert find_temperature(logits, logits.argmax(-1)) is None
    found = find_calibration(config_of(SINGLE), logits, logits.argmax(-1))
    assert not found.fields and "no temperature" in found.said[0]
    few = find_calibration(config_of(SINGLE), logits[:19], labels[:19])
    assert not few.fields and "19 validation rows, at least 20" in few.said[0]


def test_segments_count_one_by_one_without_their_padding():
    logits, labels = drawn(False, 3.0, rows=1200)
    clips, marks = logits.reshape(300, 4, 3).copy(), labels.reshape(300, 4).copy()
    clips[::3, 2:], marks[::3, 2:] = -100, -100
    real = marks.ravel() != -100
    expected = find_temperature(logits[real], labels[real])
    found = find_calibration(config_of(SINGLE), clips, marks).fields["logit_temperature"]
    assert found == pytest.approx(expected)
    measure = metrics_function(SINGLE, per_segment=True, config=config_of(SINGLE, logit_temperature=found))
    stated = torch.from_numpy(logits[real] / found).softmax(-1)
    expected = expected_calibration_error(stated, labels[real])
    assert measure(EvalPrediction(clips, marks))["segment_ece"] == pytest.approx(expected, abs=1e-5)
    refused = find_calibration(config_of(MULTI), clips, np.ones_like(clips))
    assert not refused.fields and "multi label classification of segments" in refused.said[0]


# -- thresholds --------------------------------------------------------------------------------------------------------


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 2**32 - 1), st.integers(10, 40), st.sampled_from([3, 10, 10**6]))
def test_thresholds_are_those_of_a_brute_force(seed, rows, values):
    """With `values` 3 and 10 many probabilities are equal, 0 and 1 among them."""
    rng = np.random.default_rng(seed)
    stated = (rng.integers(0, values + 1, (rows, 3)) / values).astype(np.float32)
    labels = (rng.random((rows, 3)) < 0.2 + 0.6 * stated).astype(np.float32)
    thresholds, unsure = find_thresholds(stated, labels)
    config = config_of(MULTI, label_thresholds=thresholds)  # they are fit to be saved
    holding = labels_that_hold(config, torch.from_numpy(stated)).numpy()
    for index, threshold in enumerate(thresholds):
        column, true = stated[:, index], labels[:, index]
        if min(true.sum(), len(true) - true.sum()) < 5:
            assert threshold == 0.5 and index in unsure
            continue
        grid = [0.5, 1e-9, *(np.unique(column)[1:] + np.unique(column)[:-1]) / 2]
        scores = {limit: f1_score(true, column > limit, zero_division=0) for limit in grid if 0 < limit < 1}
        found = f1_score(true, holding[:, index], zero_division=0)
        assert found == max(scores.values())
        nearest = min(abs(limit - 0.5) for limit, score in scores.items() if score == found)
        assert abs(threshold - 0.5) <= nearest + 1e-6


def test_labels_without_enough_rows_keep_half_and_are_named():
    logits, labels = drawn(True, 1.0, rows=200)
    labels[:, 1], labels[:, 2] = 0, 1
    logits[:, 0] -= 2  # its probabilities are too small
    config = config_of(MULTI, id2label={0: "joy", 1: "fear", 2: "calm"})
    found = find_calibration(config, logits, labels)
    thresholds = found.fields["label_thresholds"]
    assert thresholds[0] < 0.45 and thresholds[1:] == [0.5, 0.5]
    assert any("0.5 stays for fear, calm: fewer than 5" in line for line in found.said)
    measure = metrics_function(MULTI, per_segment=False, config=config)
    before = measure(EvalPrediction(logits, labels))["macro_f1"]
    for name, value in found.fields.items():
        setattr(config, name, value)
    assert measure(EvalPrediction(logits, labels))["macro_f1"] > before + 0.05


# -- intervals ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("coverage", [0.8, 0.9])
def test_intervals_hold_their_share_of_new_scores(coverage):
    rng = np.random.default_rng(0)
    shares = []
    for _ in range(200):
        truth = rng.normal(size=(600, 2)) * [1, 30]
        answers = truth + rng.standard_t(3, size=truth.shape) * [0.5, 10]
        config = config_of("regression", 2, label_range=None, interval_coverage=coverage)
        widths = find_calibration(config, answers[:100], truth[:100]).fields["score_interval"]
        shares.append((np.abs(answers[100:] - truth[100:]) <= widths).mean(axis=0))
    np.testing.assert_allclose(np.mean(shares, axis=0), coverage, atol=0.015)


def test_too_few_rows_give_no_interval():
    assert interval_width(np.arange(9.0), 0.9) == 8 and interval_width(np.arange(8.0), 0.9) is None
    assert interval_width(np.arange(19.0), 0.9) == 17
    found = find_calibration(config_of("regression", 1), np.zeros((8, 1)), np.ones(8))
    assert not found.fields and "8 validation rows are too few for intervals of 90 %" in found.said[0]


def test_residuals_are_those_of_answers_in_their_range():
    answers, truth = np.full((20, 1), 50.0), np.full(20, 2.0)
    assert find_calibration(config_of("regression", 1), answers, truth).fields["score_interval"] == [1.0]


# -- answers -----------------------------------------------------------------------------------------------------------


def pipe_of(problem: str, labels: int, **fields) -> CLCRPipeline:
    torch.manual_seed(0)
    model = CLCRForSequenceClassification(config_of(problem, labels, **fields))
    return CLCRPipeline(model=model, processor=CLCRProcessor(), device="cpu")


SAMPLE = {"text_features": np.linspace(-2, 2, 20, dtype=np.float32).reshape(5, 4)}


@pytest.mark.parametrize("problem", [SINGLE, MULTI])
def test_probabilities_are_those_of_cooled_logits_and_logits_stay_raw(problem, tmp_path):
    pipe = pipe_of(problem, 3)
    inputs = {"text_features": torch.from_numpy(SAMPLE["text_features"])[None]}
    raw, plain = pipe.model(**inputs).logits[0], pipe(SAMPLE)
    pipe.model.config.logit_temperature = 2.5
    pipe.save_pretrained(tmp_path)
    again = CLCRPipeline(model=CLCRPreTrainedModel.load_with_head(tmp_path), processor=CLCRProcessor(), device="cpu")
    torch.testing.assert_close(again.model(**inputs).logits[0], raw)
    link = torch.sigmoid if problem == MULTI else lambda values: values.softmax(-1)
    found = list(again(SAMPLE)["probabilities"].values())
    assert found == pytest.approx(link(raw / 2.5).tolist(), abs=1e-6)
    assert list(plain["probabilities"].values()) == pytest.approx(link(raw).tolist(), abs=1e-6)
    assert found != pytest.approx(list(plain["probabilities"].values()), abs=1e-4)


def test_labels_go_by_their_thresholds():
    pipe = pipe_of(MULTI, 3)
    values = list(pipe(SAMPLE)["probabilities"].values())
    for number in range(3):
        limits = [value + (-1e-5 if index == number else 1e-5) for index, value in enumerate(values)]
        pipe.model.config.label_thresholds = limits
        assert pipe(SAMPLE)["labels"] == [f"LABEL_{number}"]


def test_intervals_are_answered_written_and_drawn():
    pipe = pipe_of("regression", 1)
    score = pipe(SAMPLE)["score"]
    assert "interval" not in pipe(SAMPLE) and "interval_low" not in column_types(pipe.model.config)
    pipe.model.config.score_interval = [0.25]
    answer = pipe(SAMPLE)
    assert answer["interval"] == pytest.approx([score - 0.25, score + 0.25])
    assert f"between {score - 0.25:.2f} and {score + 0.25:.2f}" in draw_answer(answer)
    (row,) = result_rows("a", None, answer)
    assert [row["interval_low"], row["interval_high"]] == answer["interval"]
    assert row.keys() <= column_types(pipe.model.config).keys()
    assert pipe(SAMPLE, score_range=[score - 0.1, 3])["interval"] == pytest.approx([score - 0.1, score + 0.25])


def test_intervals_of_several_scores_go_by_name():
    names = {0: "calm", 1: "warm"}
    pipe = pipe_of("regression", 2, id2label=names, label_range=[[-9, 9], [0, 100]], score_interval=[0.5, 200.0])
    answer = pipe(SAMPLE)
    calm = answer["scores"]["calm"]
    assert answer["intervals"] == {"calm": pytest.approx([calm - 0.5, calm + 0.5]), "warm": [0, 100]}
    (row,) = result_rows("a", None, answer)
    assert row["interval_high_warm"] == 100 and row.keys() <= column_types(pipe.model.config).keys()


# -- configuration -----------------------------------------------------------------------------------------------------


def test_what_was_found_is_saved_and_goes_with_other_labels_or_weights(tmp_path):
    found = {"logit_temperature": 1.7, "label_thresholds": [0.2, 0.5, 0.8]}
    config_of(MULTI, **found).save_pretrained(tmp_path)
    again = CLCRConfig.from_pretrained(tmp_path)
    assert {name: getattr(again, name) for name in found} == found
    other = CLCRConfig.from_pretrained(tmp_path, num_labels=5)
    assert other.logit_temperature is None and other.label_thresholds is None
    forget_calibration(again)
    assert again.logit_temperature is None and again.label_thresholds is None


@pytest.mark.parametrize(
    ("fields", "named"),
    [
        ({"label_thresholds": [0.5, 0.5]}, "label_thresholds"),
        ({"label_thresholds": [0.5, 0.5, 1.0]}, "label_thresholds"),
        ({"logit_temperature": 0.0}, "logit_temperature"),
        ({"score_interval": [1.0, 1.0, -1.0]}, "score_interval"),
        ({"interval_coverage": 1.0}, "interval_coverage"),
    ],
)
def test_wrong_values_are_refused(fields, named):
    with pytest.raises(SettingsError, match=named):
        config_of(MULTI, **fields)


# -- whole runs --------------------------------------------------------------------------------------------------------

SMALL = ["--hidden_size", "16", "--num_train_epochs", "2", "--use_cpu", "--disable_tqdm", "True", "--report_to", "none"]


def write_table(folder: Path, label) -> Path:
    """Features whose mean says something of the label, and a table of them: 60 rows to train, 40 and 20."""
    rng = np.random.default_rng(0)
    lines = ["id,split,gaze_features,label"]
    for number in range(120):
        split = "train" if number < 60 else "validation" if number < 100 else "test"
        mean = rng.normal(size=3)
        np.save(folder / f"{number}.npy", (mean + rng.normal(size=(6, 3))).astype(np.float32))
        lines.append(f"c{number},{split},{number}.npy,{label(mean + rng.normal(size=3))}")
    path = folder / "table.csv"
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path


def test_two_processes_of_the_script_find_and_save_a_temperature(tmp_path):
    table = write_table(tmp_path, lambda values: ("joy", "fear", "calm")[int(values.argmax())])
    command = [*launcher("torchrun"), "--nproc_per_node", "2", "--master_port", "29587"]
    command += [str(REPO / "examples" / "run_emotion.py"), "--data_file", str(table), *SMALL]
    said = run(*command, "--output_dir", str(tmp_path / "run"))
    record = json.loads((tmp_path / "run" / "run.json").read_text())
    model = CLCRPreTrainedModel.load_with_head(tmp_path / "run")
    temperature = model.config.logit_temperature
    assert said.count(f"calibration: temperature {temperature:.3f}") == 1
    assert record["metrics"]["calibration_nll_after"] <= record["metrics"]["calibration_nll_before"]
    assert record["metrics"]["eval_ece"] == pytest.approx(record["metrics"]["calibration_ece_after"], abs=1e-6)
    assert evaluate_model(str(tmp_path / "run"), evaluation_data(str(tmp_path / "run"), []))["ece"] == pytest.approx(
        record["metrics"]["test_ece"], abs=1e-5
    )


def test_a_run_on_several_labels_finds_thresholds_and_another_forgets_them(tmp_path, capsys):
    names = ("joy", "fear", "calm")
    table = write_table(tmp_path, lambda values: "|".join(n for n, v in zip(names, values, strict=True) if v > -0.5))
    table.write_text(table.read_text().replace(",\n", ",joy\n"))
    words = ["--data_file", str(table), "--dataset_options", "label_separator=|", *SMALL]
    main([*words, "--output_dir", str(tmp_path / "a"), "--batch_eval_metrics", "True"])
    assert "calibration: thresholds calm" in capsys.readouterr().out
    assert len(CLCRConfig.from_pretrained(tmp_path / "a").label_thresholds) == 3
    again = [*words, "--model_name_or_path", str(tmp_path / "a"), "--output_dir", str(tmp_path / "b")]
    main([*again, "--calibrate", "False"])
    found = CLCRConfig.from_pretrained(tmp_path / "b")
    assert found.label_thresholds is None and found.logit_temperature is None
    assert "calibration:" not in capsys.readouterr().out


def test_a_run_on_scores_finds_an_interval_and_says_where_it_cannot(tmp_path, capsys):
    table = write_table(tmp_path, lambda values: f"{50 + 10 * values[0]:.2f}")
    words = ["--data_file", str(table), *SMALL]
    main([*words, "--output_dir", str(tmp_path / "a")])
    config = CLCRConfig.from_pretrained(tmp_path / "a")
    assert 5 < config.score_interval[0] < 40
    assert f"intervals that hold 90 % of true scores: ± {config.score_interval[0]:.4g}" in capsys.readouterr().out
    main([*words, "--output_dir", str(tmp_path / "b"), "--config_overrides", "interval_coverage=0.99"])
    assert "40 validation rows are too few for intervals of 99 %" in capsys.readouterr().out
    assert CLCRConfig.from_pretrained(tmp_path / "b").score_interval is None


def test_nothing_is_found_without_validation(capsys):
    model = SimpleNamespace(config=config_of(SINGLE, logit_temperature=2.0))
    trainer = SimpleNamespace(
        model=model,
        accelerator=SimpleNamespace(unwrap_model=lambda model: model),
        is_world_process_zero=lambda: True,
    )
    assert calibrate(trainer, None) == {}
    assert model.config.logit_temperature is None
    assert capsys.readouterr().out == "calibration: none, for there are no validation rows\n"


def test_calibration_error_is_that_of_the_definition():
    rng = np.random.default_rng(0)
    stated = rng.dirichlet(np.ones(4), 500)
    true = rng.integers(0, 4, 500)
    sure, right = stated.max(1), stated.argmax(1) == true
    expected = 0.0
    for low in np.arange(15) / 15:
        inside = (sure > low) & (sure <= low + 1 / 15)
        if inside.any():
            expected += inside.mean() * abs(right[inside].mean() - sure[inside].mean())
    assert expected_calibration_error(stated, true) == pytest.approx(expected)
    assert expected_calibration_error([[1.0, 0.0], [0.0, 1.0]], [0, 1]) == 0
    assert expected_calibration_error([[1.0, 0.0]], [[0, 0]]) == 0.5
    for wrong in (([[0.5, 1.5]], [0]), ([[0.5, 0.5]], [0, 1]), ([0.5], [0])):
        with pytest.raises(ValueError, match="probabilities"):
            expected_calibration_error(*wrong)


def test_probabilities_of_a_half_precision_model_are_float32():
    logits = torch.tensor([[1.0, 2.0, 3.0]], dtype=torch.bfloat16)
    found = probabilities(config_of(SINGLE, logit_temperature=0.7), logits)
    torch.testing.assert_close(found, (logits.float() / 0.7).softmax(-1))
