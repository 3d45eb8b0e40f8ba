"""Linear models of statistics: each is what it is called, and that one is taken which does best on other rows."""

import numpy as np
import pytest
import torch
from datasets import ClassLabel, Dataset, Features
from scipy.special import log_softmax
from sklearn.discriminant_analysis import LinearDiscriminantAnalysis
from sklearn.preprocessing import StandardScaler

from clcr_hf import CLCRConfig, CLCRForSequenceClassification
from clcr_hf.data import CLCRDataCollator
from clcr_hf.data.labels import label_kind
from clcr_hf.training.baselines import Baselines
from clcr_hf.training.linear_models import MEANS, UNASKED, LinearModel
from clcr_hf.training.shares import laid_out

COLUMNS = {"gaze": "gaze_features", "pose": "pose_features"}
NAMES = ["low", "middle", "high"]


def rows_of(kind: str, count: int = 240, seed: int = 0, missing: bool = False, steps: int = 12) -> Dataset:
    """Three classes, or a score, that the mean, the spread or the maximum over time of one column tells."""
    rng = np.random.default_rng(seed)
    classes = rng.integers(0, 3, count)
    gaze, pose = rng.standard_normal((2, count, steps, 3))
    if kind == "mean":
        gaze += 0.8 * classes[:, None, None]
    elif kind == "spread":
        gaze *= 1 + 0.7 * classes[:, None, None]
        pose *= 1 + 0.7 * classes[:, None, None]
    elif kind == "max":
        gaze[:, 0] += 4 * classes[:, None] - gaze.mean(1)
    columns = {"gaze_features": [(100 + 0.1 * each).tolist() for each in gaze], "pose_features": pose.tolist()}
    if missing:
        columns["pose_features"] = [None if n % 4 == 0 else each for n, each in enumerate(columns["pose_features"])]
    rows = Dataset.from_dict({**columns, "label": classes.tolist()})
    return rows.cast(Features({**rows.features, "label": ClassLabel(names=NAMES)}))


def fitted(rows: Dataset, candidates=UNASKED) -> Baselines:
    return Baselines(rows, COLUMNS, label_kind({"train": rows}), candidates)


@pytest.mark.parametrize("kind", ["mean", "spread"])
def test_the_training_rows_choose_what_is_read(kind):
    rows, right = rows_of(kind, 400, seed=1), {}
    for name, candidates in {"means": [MEANS], "all": [LinearModel()], "chosen": UNASKED}.items():
        answers, truth = fitted(rows_of(kind), candidates).answers(rows)
        right[name] = (answers["linear"].argmax(1) == truth).mean()
    assert right["chosen"] > max(right["means"], right["all"]) - 0.03 and right["chosen"] > 0.75
    assert right["means"] < 0.5 or kind == "mean"  # of spreads, means tell nothing


def test_a_score_that_spreads_tell():
    rows, others = (rows_of("spread", 200, seed) for seed in (0, 1))
    rows, others = (each.cast_column("label", Dataset.from_dict({"a": [0.5]}).features["a"]) for each in (rows, others))
    error = {}
    for name, candidates in {"means": [MEANS], "all": UNASKED}.items():
        answers, truth = fitted(rows, candidates).answers(others)
        error[name] = np.abs(answers["linear"][:, 0] - truth).mean()
    assert error["all"] < 0.6 * error["means"]


def test_discriminants_of_each_modality_are_summed_over_those_that_are_there():
    """Against scikit-learn, modality by modality; how common classes are counts once."""
    train = rows_of("spread", 300, missing=True)
    test = rows_of("spread", 90, seed=1, missing=True)
    baselines = fitted(train, [LinearModel("lda", late=True)])
    assert baselines.linear.startswith("linear discriminants of each modality, summed,")
    stated = log_softmax(baselines.answers(test)[0]["linear"], axis=1)
    labels = np.array(train["label"])
    prior = np.log(np.bincount(labels) / len(labels))
    nearest = []
    for first in (0.01, 0.03, 0.1, 0.3, 0.5, 0.7, 0.9):
        for second in (0.01, 0.03, 0.1, 0.3, 0.5, 0.7, 0.9):
            total = np.tile(prior, (len(test), 1))
            for column, shrinkage in zip(COLUMNS.values(), (first, second), strict=True):
                found = {}
                for name, rows in (("train", train), ("test", test)):
                    there = np.array([value is not None for value in rows[column]])
                    steps = np.array([value for value in rows[column] if value is not None])
                    found[name] = there, np.hstack((steps.mean(1), steps.std(1), steps.max(1)))
                there, vectors = found["train"]
                scaler = StandardScaler().fit(vectors)
                model = LinearDiscriminantAnalysis(solver="lsqr", shrinkage=shrinkage)
                model.fit(scaler.transform(vectors), labels[there])
                there, vectors = found["test"]
                total[there] += model.decision_function(scaler.transform(vectors)) - np.log(model.priors_)
            nearest.append(np.abs(log_softmax(total, axis=1) - stated).max())
    assert min(nearest) < 2e-3


@pytest.mark.parametrize("kind", ["mean", "spread", "max"])
@pytest.mark.parametrize("model", [LinearModel(), LinearModel("lda", late=True), LinearModel("lda")])
@torch.no_grad()
def test_in_the_model_it_answers_as_it_does_alone(kind, model):
    """Padded, with modalities missing, columns far from zero."""
    rows = rows_of(kind, 120, missing=True, steps=5)
    rows = rows.map(lambda row, n: {"gaze_features": row["gaze_features"][: 2 + n % 4]}, with_indices=True)
    baselines = fitted(rows, [model])
    config = CLCRConfig(
        extra_configs={name: {"feature_size": 3} for name in COLUMNS},
        hidden_size=16,
        num_labels=3,
        problem_type="single_label_classification",
    )
    clcr = CLCRForSequenceClassification(config).eval()
    clcr.add_linear_evidence()
    clcr.set_linear_evidence(1.0, **laid_out(config, baselines))
    present = [{name: value for name, value in row.items() if value is not None} for row in rows]
    batch = CLCRDataCollator()([{**row, "labels": row.pop("label")} for row in present])
    expected = baselines.answers(rows)[0]["linear"]
    np.testing.assert_allclose(clcr(**batch).logits.softmax(-1), torch.tensor(expected).softmax(-1), atol=2e-3)


def test_an_older_model_reads_means_alone():
    config = CLCRConfig(extra_configs={"gaze": {"feature_size": 3}}, hidden_size=16, linear_share=0.5)
    assert CLCRForSequenceClassification(config).classifier.linear.weight.shape[0] == 3
