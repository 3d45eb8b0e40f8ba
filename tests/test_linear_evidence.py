"""A linear model on statistics of the features has its share of the answer."""

import numpy as np
import pytest
import torch
from datasets import ClassLabel, Dataset, Features
from sklearn.linear_model import LogisticRegression, RidgeCV
from sklearn.preprocessing import StandardScaler

from clcr_hf import CLCRConfig, CLCRForSequenceClassification, CLCRForTokenClassification
from clcr_hf.data import CLCRDataCollator
from clcr_hf.data.labels import label_kind
from clcr_hf.errors import SettingsError
from clcr_hf.modeling_clcr import CLCRPreTrainedModel
from clcr_hf.training.baselines import Baselines
from clcr_hf.training.run import main
from clcr_hf.training.shares import find_shares, laid_out
from clcr_hf.training.trainer import CLCRTrainer, CLCRTrainingArguments

WIDTHS = {"gaze": 3, "pose": 4}
COLUMNS = {name: f"{name}_features" for name in WIDTHS}
UNITS = {"gaze": [0.01, 1, 100], "pose": [1, 5, 0.1, 20]}


def planted(rows: int, seed: int = 0, missing: bool = True) -> tuple[dict[str, list], np.ndarray]:
    """Sequences of 2 to 7 steps in mixed units, every fourth clip without a pose, and a score linear in their means."""
    rng = np.random.default_rng(seed)
    means, found, start = rng.standard_normal((rows, 7)), {}, 0
    for name, width in WIDTHS.items():
        own = means[:, start : start + width]
        steps = [each + 0.3 * rng.standard_normal((rng.integers(2, 8), width)) for each in own]
        found[COLUMNS[name]] = [((each + 7) * UNITS[name]).tolist() for each in steps]
        start += width
    if missing:
        found["pose_features"] = [None if row % 4 == 0 else value for row, value in enumerate(found["pose_features"])]
        means[::4, 3:] = 0
    return found, 2 + means @ np.arange(1, 8) + 0.1 * rng.standard_normal(rows)


def classes_of(score: np.ndarray, count: int) -> list[int]:
    return np.digitize(score, np.quantile(score, np.arange(1, count) / count)).tolist()


def model_for(baselines: Baselines, share: float, **fields) -> CLCRForSequenceClassification:
    torch.manual_seed(0)
    config = CLCRConfig(
        extra_configs={name: {"feature_size": width} for name, width in WIDTHS.items()}, hidden_size=16, **fields
    )
    model = CLCRForSequenceClassification(config).eval()
    model.add_linear_evidence()
    model.set_linear_evidence(share, **laid_out(config, baselines))
    return model


def batch_of(rows: Dataset) -> dict[str, torch.Tensor]:
    present = [{name: value for name, value in row.items() if value is not None} for row in rows]
    return CLCRDataCollator()([{**row, "labels": row.pop("label")} for row in present])


@pytest.fixture(scope="module")
def scores() -> tuple[Baselines, Dataset]:
    columns, score = planted(120)
    rows = Dataset.from_dict({**columns, "label": score.tolist()})
    return Baselines(rows, COLUMNS, label_kind({"train": rows})), rows


REGRESSION = {"num_labels": 1, "problem_type": "regression", "label_mean": 2.0, "label_std": 9.0}


@torch.no_grad()
def test_with_a_share_of_one_the_answer_is_that_of_ridge_regression(scores):
    """Padded, with modalities missing, and in the data's units; the reference is written out by hand."""
    baselines, rows = scores
    means = np.full((len(rows), 9), np.nan)
    for row, values in enumerate(rows):
        means[row, [3, 8]] = 1, float(values["pose_features"] is not None)
        means[row, :3] = np.mean(values["gaze_features"], axis=0)
        if values["pose_features"] is not None:
            means[row, 4:8] = np.mean(values["pose_features"], axis=0)
    scaled = np.nan_to_num(StandardScaler().fit_transform(means))
    ridge = RidgeCV(np.logspace(-2, 5, 15)).fit(scaled, rows["label"])
    model = model_for(baselines, 1.0, **REGRESSION)
    logits = model(**batch_of(rows)).logits[:, 0].numpy()
    np.testing.assert_allclose(logits, ridge.predict(scaled), rtol=2e-4, atol=2e-4)


@pytest.mark.parametrize("count", [2, 3])
@torch.no_grad()
def test_with_a_share_of_one_classes_are_those_of_logistic_regression(count):
    columns, score = planted(300, missing=False)
    names = Features({"label": ClassLabel(names=[f"class {each}" for each in range(count)])})
    rows = Dataset.from_dict({**columns, "label": classes_of(score, count)})
    rows = rows.cast(Features({**rows.features, **names}))
    baselines = Baselines(rows, COLUMNS, label_kind({"train": rows}))
    model = model_for(baselines, 1.0, num_labels=count, problem_type="single_label_classification")
    stated = model(**batch_of(rows)).logits.softmax(-1).numpy()
    parts = [np.array([np.mean(value, axis=0) for value in rows[column]]) for column in COLUMNS.values()]
    scaled = StandardScaler().fit_transform(np.hstack(parts))
    references = [LogisticRegression(C=c).fit(scaled, rows["label"]) for c in np.logspace(-4, 1, 6)]
    nearest = min(np.abs(each.predict_proba(scaled) - stated).max() for each in references)
    assert nearest < 2e-3


def test_a_class_too_rare_to_learn_keeps_its_share():
    columns, score = planted(200, missing=False)
    labels = classes_of(score, 2)
    labels[:2] = [2, 2]
    names = Features({"label": ClassLabel(names=["low", "high", "rare", "never"])})
    rows = Dataset.from_dict({**columns, "label": labels})
    rows = rows.cast(Features({**rows.features, **names}))
    logits = Baselines(rows, COLUMNS, label_kind({"train": rows})).answers(rows)[0]["linear"]
    stated = torch.from_numpy(logits).softmax(-1).mean(0)
    assert 0.003 < stated[2] < 0.05 and 0 < stated[3] < 0.015


@pytest.mark.parametrize("fields", [{}, {"unimodal_evidence": False}, {"use_joint_path": False}])
@torch.no_grad()
def test_the_parts_add_up_and_a_missing_modality_says_nothing(scores, fields):
    baselines, rows = scores
    model = model_for(baselines, 0.4, **REGRESSION, **fields)
    outputs = model(**batch_of(rows))
    whole = model.logit_bias() + outputs.joint_logits + outputs.modality_logits.sum(1)
    torch.testing.assert_close(outputs.logits, whole, rtol=1e-5, atol=1e-5)
    absent = torch.tensor([value is None for value in rows["pose_features"]])
    assert outputs.modality_logits[absent, 1].eq(0).all() and outputs.modality_logits[~absent, 1].ne(0).all()
    bare = model_for(baselines, 0.0, **REGRESSION, **fields)
    linear = model_for(baselines, 1.0, **REGRESSION, **fields)
    mixed = 0.6 * bare(**batch_of(rows)).logits + 0.4 * linear(**batch_of(rows)).logits
    torch.testing.assert_close(outputs.logits, mixed, rtol=1e-4, atol=1e-4)


def test_a_batch_without_a_modality_and_training_leave_it_out(scores):
    baselines, rows = scores
    model = model_for(baselines, 0.4, **REGRESSION, dropout=0.0)
    batch = batch_of(rows)
    alone = {name: value for name, value in batch.items() if not name.startswith("pose")}
    with torch.no_grad():
        absent = {
            **alone,
            "pose_features": batch["pose_features"],
            "pose_attention_mask": batch["pose_attention_mask"] * 0,
        }
        torch.testing.assert_close(model(**alone).logits, model(**absent).logits, rtol=1e-4, atol=1e-4)
    model.train()
    trained = model(**batch).logits
    model.config.linear_share = 0.0
    torch.testing.assert_close(trained, model(**batch).logits)
    assert not list(model.classifier.linear.parameters())


def test_it_is_saved_loaded_and_forgotten_by_further_training(scores, tmp_path):
    baselines, rows = scores
    model = model_for(baselines, 0.4, **REGRESSION)
    batch = batch_of(rows)
    model.save_pretrained(tmp_path)
    loaded = CLCRPreTrainedModel.load_with_head(tmp_path)
    assert loaded.config.linear_share == 0.4
    with torch.no_grad():
        torch.testing.assert_close(loaded(**batch).logits, model(**batch).logits, rtol=0, atol=0)
    args = CLCRTrainingArguments(output_dir=str(tmp_path / "run"), max_steps=1, use_cpu=True, report_to="none")
    data = [{name: value for name, value in row.items() if value is not None} for row in rows]
    data = [{**row, "labels": row.pop("label")} for row in data]
    CLCRTrainer(model=loaded, args=args, train_dataset=data, data_collator=CLCRDataCollator()).train()
    assert loaded.config.linear_share == 0.0
    # Other labels make a new model: nothing of the old line is kept.
    other = CLCRForSequenceClassification.from_pretrained(tmp_path, num_labels=5, ignore_mismatched_sizes=True)
    assert other.config.linear_share is None


def test_a_new_head_on_the_fusion_of_another_model_has_no_share(scores, tmp_path):
    model = model_for(scores[0], 0.4, **REGRESSION)
    model.clcr.save_pretrained(tmp_path)
    assert CLCRForSequenceClassification.from_pretrained(tmp_path).config.linear_share == 0.0


def test_an_older_configuration_has_no_such_part():
    assert CLCRForSequenceClassification(CLCRConfig(audio_config={"feature_size": 4})).classifier.linear is None


def test_what_cannot_be_is_refused(scores):
    baselines, _ = scores
    with pytest.raises(SettingsError, match="linear_share"):
        CLCRConfig(linear_share=1.5)
    with pytest.raises(ValueError, match="of clips"):
        CLCRForTokenClassification(CLCRConfig(audio_config={"feature_size": 4}, linear_share=0.0))
    model = model_for(baselines, 0.4, **REGRESSION)
    with pytest.raises(ValueError, match="share lies in"):
        model.set_linear_evidence(2.0, **laid_out(model.config, baselines))
    with pytest.raises(ValueError, match="`bias` must be"):
        model.set_linear_evidence(0.5, **{**laid_out(model.config, baselines), "bias": np.zeros(3)})


def test_the_better_answer_gets_the_larger_share():
    rng = np.random.default_rng(0)
    config = CLCRConfig(**REGRESSION)
    truth = 9 * rng.standard_normal(200)
    good, bad, other = truth + rng.standard_normal(200), 9 * rng.standard_normal(200), truth + rng.standard_normal(200)
    good, bad, other = good[:, None], bad[:, None], other[:, None]

    def found(config, labels, **parts):
        shares = find_shares(config, parts, labels)["shares"]
        assert sum(shares.values()) == pytest.approx(1) and list(shares) == list(parts)
        return list(shares.values())

    assert found(config, truth, a=good, b=bad)[1] < 0.1 < 0.9 < found(config, truth, a=bad, b=good)[1]
    assert 0.3 < found(config, truth, a=good, b=other)[1] < 0.7  # as good, with noise of its own
    shares = found(config, truth, a=good, b=bad, c=other)
    assert shares[1] < 0.1 and 0.3 < shares[0] < 0.7
    classes = CLCRConfig(num_labels=2, problem_type="single_label_classification")
    labels = (truth > 0).astype(int)
    right, wrong = (np.hstack((-each, each)) for each in (good, bad))
    assert found(classes, labels, a=wrong, b=right)[1] > 0.85
    assert found(classes, labels, a=right, b=wrong)[1] < 0.1
    # However sure of itself the other is: its share is one of logits.
    mixed = found(classes, labels, a=30 * wrong, b=right)
    answers = mixed[0] * 30 * wrong + mixed[1] * right
    assert (answers.argmax(1) == labels).mean() > (right.argmax(1) == labels).mean() - 0.03


def test_few_rows_say_little():
    config, truth = CLCRConfig(**REGRESSION), np.array([1.0, -2.0, 3.0])
    parts = {"a": truth[:, None] + 0.9, "b": truth[:, None] + 1.0}
    assert 0.5 < find_shares(config, parts, truth)["shares"]["a"] < 1
    many = {name: np.tile(value, (100, 1)) for name, value in parts.items()}
    assert find_shares(config, many, np.tile(truth, 100))["shares"]["a"] == 1


def test_a_run_is_not_worse_than_the_line_where_the_line_is_right(tmp_path, capsys):
    columns, score = planted(320)
    split = ["train"] * 100 + ["validation"] * 20 + ["test"] * 200
    Dataset.from_dict({**columns, "label": score.tolist(), "split": split}).to_parquet(tmp_path / "table.parquet")
    words = ["--data_file", str(tmp_path / "table.parquet"), "--num_train_epochs", "1", "--hidden_size", "16"]
    words += ["--report_to", "none", "--use_cpu", "True"]
    with_it = main([*words, "--output_dir", str(tmp_path / "with")])
    said = capsys.readouterr().out
    without = main([*words, "--output_dir", str(tmp_path / "without"), "--linear_evidence", "False"])
    assert "% ridge regression on means of the features" in said
    said = capsys.readouterr().out
    assert "shares:" in said and "ridge regression" not in said.split("shares:")[1].splitlines()[0]
    assert with_it["test_mae"] < 0.3 * without["test_mae"]
    model = CLCRPreTrainedModel.load_with_head(tmp_path / "with")
    assert model.config.linear_share > 0.8
    assert CLCRPreTrainedModel.load_with_head(tmp_path / "without").classifier.linear is None
