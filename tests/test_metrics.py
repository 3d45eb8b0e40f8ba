"""Metrics against numbers worked out by hand and by definition, and as `evaluate` modules without a network."""

import importlib
import os
import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from clcr_hf.metrics import (
    METRICS,
    classification_metrics,
    load_metric,
    regression_metrics,
    score_metrics,
    segment_metrics,
    sentiment_metrics,
    sims_metrics,
)

scores = st.floats(-5, 5).map(lambda x: round(x, 2))


# -- the definitions, written out; the package asks scikit-learn and SciPy ---------------------------------------------


def pearson(pred, true):
    return np.corrcoef(pred, true)[0, 1]


def ranks(values):
    """Equal values share the mean of their ranks."""
    values = np.asarray(values)
    return [(values < value).sum() + (values == value).sum() / 2 for value in values]


def f1_by_class(pred, true):
    """F1 and number of references of each class that occurs."""
    pred, true = np.asarray(pred), np.asarray(true)
    found = []
    for each in np.union1d(pred, true):
        hits = ((pred == each) & (true == each)).sum()
        found.append((2 * hits / ((pred == each).sum() + (true == each).sum()), (true == each).sum()))
    return np.transpose(found)


def weighted_f1(pred, true):
    f1, counts = f1_by_class(pred, true)
    return f1 @ counts / counts.sum()


def average_precision(values, positives):
    """Sum over thresholds of (rise in recall) * precision; samples of equal score enter together."""
    area = recall = 0.0
    for threshold in sorted(set(values), reverse=True):
        chosen = values >= threshold
        before, recall = recall, positives[chosen].sum() / positives.sum()
        area += (recall - before) * positives[chosen].mean()
    return area


def test_sentiment_by_hand():
    pred = [1.2, -0.4, 0.0, 2.6, -3.4]
    true = [1.0, 0.6, 0.0, 3.0, -3.0]
    result = sentiment_metrics(pred, true)
    assert result["mae"] == pytest.approx((0.2 + 1.0 + 0 + 0.4 + 0.4) / 5)
    assert result["corr"] == pytest.approx(pearson(pred, true))
    assert result["acc_7"] == pytest.approx(4 / 5)  # 1 0 0 3 -3 against 1 1 0 3 -3
    assert result["acc_5"] == pytest.approx(4 / 5)
    assert result["acc_2_has0"] == pytest.approx(4 / 5)  # + - + + - against + + + + -
    # F1 of + is 2*3/(3+4), of - is 2*1/(2+1); weights 4/5 and 1/5.
    assert result["f1_has0"] == pytest.approx(0.8 * 6 / 7 + 0.2 * 2 / 3)
    assert result["acc_2_non0"] == pytest.approx(3 / 4)  # the zero label is left out
    assert result["f1_non0"] == pytest.approx(0.75 * 4 / 5 + 0.25 * 2 / 3)


def test_rounding_is_half_to_even_and_clips_first():
    assert sentiment_metrics([0.5, 1.5, 2.5, -0.5], [0, 2, 2, 0])["acc_7"] == 1.0
    assert sentiment_metrics([9.0, -9.0], [3, -3])["acc_7"] == 1.0
    assert sentiment_metrics([9.0, -2.0], [2, -3])["acc_5"] == 1.0
    assert sentiment_metrics([9.0, -2.0], [2, -3])["acc_7"] == 0.0


def test_zero_predictions_in_the_two_conventions():
    result = sentiment_metrics([0.0, 0.0], [1.0, -1.0])
    assert result["acc_2_has0"] == 0.5 and result["acc_2_non0"] == 0.5
    result = sentiment_metrics([0.0], [2.0])
    assert result["acc_2_has0"] == 1.0 and result["acc_2_non0"] == 0.0


def test_degenerate_sentiment():
    constant = sentiment_metrics([0.3, 0.3, 0.3], [1.0, -1.0, 1.0])
    assert constant["corr"] == 0.0 and constant["mae"] == pytest.approx(2.7 / 3)
    zeros = sentiment_metrics([0.3, -0.3], [0.0, 0.0])
    assert zeros["acc_2_non0"] == 0.0 and zeros["f1_non0"] == 0.0 and zeros["acc_2_has0"] == 0.5
    assert sentiment_metrics([[1.0], [2.0], [4.0]], [[1.0], [2.0], [4.0]])["corr"] == pytest.approx(1.0)
    huge, small = (factor * np.array([1.0, 2.0, 4.0]) for factor in (1e200, 1e-200))
    assert sentiment_metrics(huge, small)["corr"] == pytest.approx(1.0)  # squares neither overflow nor vanish
    assert "corr" not in sentiment_metrics([1.0, 2.0], [1.0, 2.0])  # a line goes through any two points


@pytest.mark.parametrize(
    ("pred", "true", "message"),
    [
        ([], [], "N >= 1"),
        ([1.0, 2.0], [1.0], "2 predictions for 1 references"),
        ([np.nan, 1.0], [1.0, 1.0], "1 of 2 predictions are NaN"),
        ([1.0, 1.0], [np.inf, 1.0], "1 of 2 references are NaN"),
        ([[1.0, 2.0]], [[1.0, 2.0]], r"predictions have shape \(1, 2\)"),
    ],
)
def test_bad_sentiment(pred, true, message):
    with pytest.raises(ValueError, match=message):
        sentiment_metrics(pred, true)


@settings(max_examples=100, deadline=None)
@given(st.lists(st.tuples(scores, scores), min_size=2, max_size=30))
def test_sentiment_as_the_usual_code_has_it(pairs):
    pred, true = np.array(pairs).T
    result = sentiment_metrics(pred, true)
    assert result["mae"] == pytest.approx(np.mean(np.absolute(pred - true)))
    for name, limit in (("acc_7", 3), ("acc_5", 2)):
        a, b = np.clip(pred, -limit, limit), np.clip(true, -limit, limit)
        assert result[name] == pytest.approx(np.sum(np.round(a) == np.round(b)) / len(b))
    assert result["acc_2_has0"] == pytest.approx(np.mean((true >= 0) == (pred >= 0)))
    assert result["f1_has0"] == pytest.approx(weighted_f1(pred >= 0, true >= 0))
    kept = true != 0
    if kept.any():
        assert result["acc_2_non0"] == pytest.approx(np.mean((true[kept] > 0) == (pred[kept] > 0)))
        assert result["f1_non0"] == pytest.approx(weighted_f1(pred[kept] > 0, true[kept] > 0))
    if len(pred) > 2 and np.ptp(pred) and np.ptp(true):
        assert result["corr"] == pytest.approx(pearson(pred, true), abs=1e-9)
    assert ("corr" in result) == (len(pred) > 2) and -1 <= result.get("corr", 0) <= 1
    assert all(0 <= v <= 1 for k, v in result.items() if k not in ("mae", "corr"))


@settings(max_examples=100, deadline=None)
@given(st.lists(st.tuples(scores, scores), min_size=3, max_size=30))
def test_regression_by_definition(pairs):
    pred, true = np.array(pairs).T
    result = regression_metrics(pred, true)
    assert result["mae"] == pytest.approx(np.mean(np.absolute(pred - true)))
    if np.ptp(pred) and np.ptp(true):
        assert result["corr"] == pytest.approx(pearson(pred, true), abs=1e-9)
        assert result["spearman"] == pytest.approx(pearson(ranks(pred), ranks(true)), abs=1e-9)
    assert ("r2" in result) == (np.ptp(true) > 0)
    if "r2" in result:
        expected = 1 - np.sum((pred - true) ** 2) / np.sum((true - np.mean(true)) ** 2)
        assert result["r2"] == pytest.approx(expected, rel=1e-6, abs=1e-6)
    assert set(regression_metrics(pred[:2], true[:2])) == {"mae"}


def test_sims_by_hand():
    # MMSA's classes: (-1.01, 0] (0, 1]; cuts at -0.1, 0.1; at -0.7, -0.1, 0.1, 0.7, each closed above.
    pred = [0.05, -0.05, 0.9, -2.0, 0.0]
    true = [0.2, 0.0, 0.8, -0.8, 0.4]
    result = sims_metrics(pred, true)
    assert result["mae"] == pytest.approx((0.15 + 0.05 + 0.1 + 0.2 + 0.4) / 5)  # -2 counts as -1
    assert result["acc_2"] == pytest.approx(4 / 5)  # + - + - - against + - + - +
    assert result["acc_3"] == pytest.approx(3 / 5)  # 0 0 + - 0 against + 0 + - +
    assert result["acc_5"] == pytest.approx(3 / 5)
    assert result["f1"] == pytest.approx(0.6 * 4 / 5 + 0.4 * 4 / 5)
    assert result["corr"] == pytest.approx(pearson(np.clip(pred, -1, 1), true))


def test_metrics_follow_the_scale():
    rng = np.random.default_rng(0)
    pred, true = rng.normal(size=(2, 9))
    assert score_metrics(pred, true, label_scale="sentiment") == sentiment_metrics(pred, true)
    assert score_metrics(pred, true, label_scale="sentiment", label_range=[-1, 1]) == sims_metrics(pred, true)
    wide = score_metrics(pred, true, label_scale="sentiment", label_range=[-5, 5])
    assert set(sentiment_metrics(pred, true)) - set(wide) == {"acc_5", "acc_7"}
    assert score_metrics(pred[:, None], true, label_range=[0, 9]) == regression_metrics(pred, true)
    several = score_metrics(rng.normal(size=(9, 3)), np.stack([true, pred, 0 * true], 1), names=["a", "b", "c"])
    assert several["mae"] == pytest.approx(np.mean([several[f"mae_{name}"] for name in "abc"]))
    assert "r2_c" not in several and several["r2"] == pytest.approx((several["r2_a"] + several["r2_b"]) / 2)
    with pytest.raises(ValueError, match="shape"):
        score_metrics(np.zeros((9, 2)), np.zeros((9, 3)))


def test_classification_by_hand():
    result = classification_metrics([0, 1, 1, 2], [0, 0, 1, 1], [[3, 1, 0], [0, 2, 1], [0, 3, 1], [1, 2, 4]])
    assert result["accuracy"] == 0.5
    assert result["macro_f1"] == pytest.approx((2 / 3 + 1 / 2 + 0) / 3)
    # Class 0: scores 3 0 0 1, positives rows 0 and 1: precision 1 at the first, 2/4 where the tie of rows 1, 2 enters.
    # Class 1: scores 1 2 3 2, positives rows 2 and 3: 1 at the first, 2/3 where rows 1 and 3 enter together.
    assert result["map"] == pytest.approx(((0.5 * 1 + 0.5 * 2 / 4) + (0.5 * 1 + 0.5 * 2 / 3)) / 2)
    assert "map" not in classification_metrics([0], [0])


def test_multilabel_by_hand():
    result = classification_metrics([[1, 0, 0], [1, 1, 0]], [[1, 0, 0], [0, 1, 0]], [[0.9, 0.1, 0], [0.8, 0.7, 0]])
    assert result["accuracy"] == pytest.approx(5 / 6)
    assert result["macro_f1"] == pytest.approx((2 / 3 + 1 + 0) / 3)
    assert result["map"] == 1.0  # the third class has no positive and is left out
    one = classification_metrics([[1], [0]], [[1], [1]])
    assert one["macro_f1"] == pytest.approx(2 / 3) and one["weighted_f1"] == pytest.approx(2 / 3)  # of one label alone
    # First label: F1 of 2/3 for present, 0 for absent, half the references each; the others are all right.
    assert result["weighted_f1"] == pytest.approx((1 / 3 + 1 + 1) / 3)


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 3), st.integers(0, 3), st.lists(scores, min_size=4, max_size=4)), min_size=1))
def test_classification_by_definition(rows):
    pred, true = [r[0] for r in rows], np.array([r[1] for r in rows])
    logits = np.array([r[2] for r in rows])
    result = classification_metrics(pred, true, logits)
    assert result["accuracy"] == pytest.approx(np.mean(true == pred))
    assert result["macro_f1"] == pytest.approx(f1_by_class(pred, true)[0].mean())
    expected = [average_precision(logits[:, c], true == c) for c in range(4) if (true == c).any()]
    assert result["map"] == pytest.approx(np.mean(expected))


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (([], []), "no predictions"),
        (([0, 1], [0]), "shape"),
        (([0.5], [0]), "whole class numbers"),
        (([[2]], [[1]]), "must be 0 or 1"),
        (([0], [3], [[0.1, 0.2]]), "references reach"),
        (([0], [0], [[np.nan, 0.2]]), "finite"),
        (([0], [0], [0.5]), "scores have shape"),
        (([[1, 0]], [[1, 0]], [[0.5]]), "scores have 1 classes, references 2"),
    ],
)
def test_bad_classification(args, message):
    with pytest.raises(ValueError, match=message):
        classification_metrics(*args)


def test_segments_by_hand():
    pred = [[1, 1, 0], [2, 2, 9]]
    true = [[1, 0, -100], [2, 2]]  # padded, and shorter
    result = segment_metrics(pred, true)
    assert result == pytest.approx(
        {"segment_accuracy": 3 / 4, "segment_macro_f1": (2 / 3 + 0 + 1) / 3, "segments": 4.0}
    )
    assert segment_metrics(np.array(pred), np.array([[1, 0, 7], [7, 7, 7]]), ignore_index=7)["segments"] == 2


@pytest.mark.parametrize(
    ("pred", "true", "message"),
    [
        ([[1]], [[-100]], "no segment to count"),
        ([], [], "no segment to count"),
        ([[1]], [[1], [2]], "1 clips predicted for 2"),
        ([[1]], [[1, 2]], "clip 0"),
        ([1], [1], "clip 0"),
    ],
)
def test_bad_segments(pred, true, message):
    with pytest.raises(ValueError, match=message):
        segment_metrics(pred, true)


def test_modules_load_and_agree_with_the_functions():
    metric = load_metric("multimodal_sentiment")
    pred, true = [1.25, -0.5, 0.0], [1.0, 0.5, 0.0]
    assert metric.compute(predictions=pred, references=true) == sentiment_metrics(pred, true)
    metric.add_batch(predictions=np.array(pred[:2]), references=np.array(true[:2]))
    metric.add(prediction=pred[2], reference=true[2])
    assert metric.compute() == sentiment_metrics(pred, true)
    logits = [[0.1, 0.9], [0.4, 0.6]]
    metric = load_metric("multimodal_classification")
    assert metric.compute(predictions=[1, 1], references=[1, 0]) == classification_metrics([1, 1], [1, 0])
    expected = classification_metrics([1, 1], [1, 0], logits)
    assert metric.compute(predictions=[1, 1], references=[1, 0], scores=logits) == expected
    many = load_metric("multimodal_classification", "multilabel")
    assert many.compute(predictions=[[1, 0]], references=[[1, 1]]) == classification_metrics([[1, 0]], [[1, 1]])
    segments = load_metric("segment_accuracy")
    assert segments.compute(predictions=[[1, 0], [2]], references=[[1, -100], [1]])["segment_accuracy"] == 0.5
    with pytest.raises(ValueError, match="no metric 'bleu'"):
        load_metric("bleu")


def test_modules_load_offline_in_a_fresh_process_and_cache(tmp_path):
    code = (
        "import socket\n"
        "def refuse(*a, **k): raise OSError('network')\n"
        "socket.socket.connect = refuse\n"
        "from clcr_hf.metrics import METRICS, load_metric\n"
        "print(*[load_metric(name).name for name in METRICS])\n"
    )
    offline = {"HF_HOME": str(tmp_path), "HF_HUB_OFFLINE": "1", "HF_EVALUATE_OFFLINE": "1"}
    run = subprocess.run(
        [sys.executable, "-c", code], env={**os.environ, **offline}, capture_output=True, text=True, timeout=900
    )
    assert run.returncode == 0, run.stderr[-2000:]
    assert run.stdout.split() == list(METRICS)


def test_scripts_are_importable_modules():
    for name in METRICS:
        module = importlib.import_module(f"clcr_hf.metrics.{name}.{name}")
        assert module.__doc__
