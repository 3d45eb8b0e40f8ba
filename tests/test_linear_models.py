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
from clcr_hf.training.linear_models import MEANS, UNASKED, LinearModel, _deal
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


def test_whole_speakers_are_set_apart_where_each_class_stays_in_both_parts():
    rng = np.random.default_rng(0)
    classes, speakers = rng.integers(0, 3, 90), np.repeat(np.arange(9), 10)
    for labels in (classes, None):
        folds = _deal(90, labels, speakers)
        assert sorted(np.concatenate([asked for _, asked in folds])) == list(range(90))
        assert all(not set(speakers[learned]) & set(speakers[asked]) for learned, asked in folds)
    own = speakers % 3  # each speaker has one class: whole speakers cannot be apart
    folds = _deal(90, own, own)
    assert all(len(np.unique(own[part])) == 3 for pair in folds for part in pair)


def test_what_tells_speakers_apart_is_not_taken_for_what_tells_classes():
    """The spread tells the class within a speaker, and nothing of another speaker; the mean does a little."""
    rng = np.random.default_rng(0)
    speakers, classes = np.repeat(np.arange(12), 20), np.tile(np.repeat([0, 1], 10), 12)
    voice = np.exp(rng.standard_normal((12, 2, 6)))[speakers, classes]
    gaze = voice[:, None] * rng.standard_normal((240, 12, 6)) + 0.6 * classes[:, None, None]
    columns = {"gaze_features": gaze.tolist(), "label": classes.tolist(), "person": speakers.tolist()}
    rows = Dataset.from_dict(columns)
    rows = rows.cast(Features({**rows.features, "label": ClassLabel(names=["no", "yes"])}))
    labels, candidates = label_kind({"train": rows}), [MEANS, LinearModel()]
    apart = Baselines(rows, {"gaze": "gaze_features"}, labels, candidates, group_column="person")
    mixed = Baselines(rows, {"gaze": "gaze_features"}, labels, candidates)
    assert (apart.linear.endswith("on means"), mixed.linear.endswith("on means")) == (True, False)


def test_discriminants_that_were_chosen_are_as_sure_as_they_should_be():
    """Two modalities that say the same: their sum is twice as sure of it."""

    def drawn(seed: int, count: int) -> Dataset:
        rows = rows_of("spread", count, seed, steps=4)
        return rows.remove_columns("pose_features").add_column("pose_features", rows["gaze_features"][:])

    rows, others, loss = drawn(0, 240), drawn(1, 600), {}
    late = LinearModel("lda", late=True)
    for name, candidates in {
        "chosen": [late, LinearModel("lda", late=True, statistics=("mean",))],
        "as they are": [late],
    }.items():
        baselines = fitted(rows, candidates)
        assert baselines.linear.startswith("linear discriminants")
        answers, truth = baselines.answers(others)
        loss[name] = -log_softmax(answers["linear"], axis=1)[np.arange(len(truth)), truth.astype(int)].mean()
    assert loss["chosen"] < loss["as they are"] - 0.02


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
