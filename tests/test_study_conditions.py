"""Conditions of a study: each changes what it says and nothing else; what they are none for is said; worst groups."""

import json
import logging

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from datasets import ClassLabel, Dataset, DatasetDict, Features, List, Value
from model_utils import batch, feature_config
from study_runs import QUICK, run_here, study_file

from clcr_hf.study import read_study, run_study, write_report
from clcr_hf.study.changes import CHANGES, Change, changed
from clcr_hf.study.fusions import FUSIONS, head_of
from clcr_hf.study.report import compare, worst_groups
from clcr_hf.training.data import LoadedData

SPLITS = ("train", "validation", "test")


@pytest.fixture(autouse=True)
def quiet():
    logging.getLogger("clcr_hf.data").setLevel(logging.ERROR)
    yield
    logging.getLogger("clcr_hf.data").setLevel(logging.NOTSET)


def _rows(count: int, seed: int, segments: bool = False) -> Dataset:
    rng = np.random.default_rng(seed)
    kind = ClassLabel(names=["a", "b", "c"])
    features = {"gaze_features": List(List(Value("float32"))), "pose_features": List(List(Value("float32")))}
    features |= {"pose_attention_mask": List(Value("int64")), "labels" if segments else "label": kind}
    columns = {
        "gaze_features": [rng.normal(size=(int(rng.integers(4, 30)), 2)).tolist() for _ in range(count)],
        "pose_features": [rng.normal(size=(12, 2)).tolist() if n % 9 else None for n in range(count)],
        "pose_attention_mask": [[1] * 8 + [0] * 4 for _ in range(count)],
    }
    if segments:
        columns["labels"] = [[int(x) for x in rng.integers(0, 3, n % 4)] + [-100] for n in range(count)]
        features["labels"] = List(kind)
    else:
        columns["label"] = rng.integers(0, 3, count).tolist()
    return Dataset.from_dict(columns, Features(features))


def _data(segments: bool = False) -> LoadedData:
    sizes = dict(zip(SPLITS, (210, 60, 70), strict=True))
    splits = {name: _rows(count, seed, segments) for seed, (name, count) in enumerate(sizes.items())}
    return LoadedData(DatasetDict(splits), "rows")


def _differing(one: Dataset, other: Dataset) -> set[str]:
    assert one.features == other.features and len(one) == len(other)
    return {name for name in one.column_names if one[name][:] != other[name][:]}


@pytest.mark.parametrize(
    ("change", "column", "splits"),
    [
        (Change("missing", "gaze", 0.5), "gaze_features", SPLITS),
        (Change("missing_in_train", "gaze", 0.5), "gaze_features", SPLITS[:2]),
        (Change("missing_in_test", "pose", 0.5), "pose_features", SPLITS[2:]),
        (Change("noise", "pose", 3), "pose_features", SPLITS),
        (Change("noise_in_test", "gaze", 3), "gaze_features", SPLITS[2:]),
        (Change("noise_in_train", "gaze", 3), "gaze_features", SPLITS[:2]),
        (Change("shift", "gaze", 5), "gaze_features", SPLITS),
        (Change("shift_in_test", "pose", 3), "pose_features", SPLITS[2:]),
        (Change("shift_in_train", "pose", 3), "pose_features", SPLITS[:2]),
        (Change("label_noise", None, 0.3), "label", SPLITS[:1]),
        (Change("budget_scales", None, 2), None, ()),
    ],
)
def test_a_change_is_of_what_it_says_and_of_nothing_else(change, column, splits):
    before, after = _data().splits, changed(_data(), change, None, None, 3).splits
    assert list(after) == list(SPLITS)
    found = {name: _differing(before[name], after[name]) for name in SPLITS}
    assert found == {name: {column} if name in splits else set() for name in SPLITS}
    again, other = (changed(_data(), change, None, None, seed).splits for seed in (3, 4))
    assert not any(_differing(after[name], again[name]) for name in SPLITS)
    assert not splits or any(_differing(after[name], other[name]) for name in splits)


def test_a_shift_moves_real_steps_by_so_many_and_loses_none():
    before, after = _data().splits["test"], changed(_data(), Change("shift", "gaze", 5), None, None, 0).splits["test"]
    signs = set()
    for old, new in zip(before["gaze_features"], after["gaze_features"], strict=True):
        by = min(5, len(old) // 2)
        moved = [sign for sign in (-1, 1) if np.array_equal(np.roll(old, sign * by, axis=0), new)]
        assert moved and by > 0 and not np.array_equal(old, new)
        signs |= set(moved) if len(moved) == 1 else set()
    assert signs == {-1, 1}
    after = changed(_data(), Change("shift", "pose", 3), None, None, 0).splits["test"]
    for old, new in zip(before["pose_features"], after["pose_features"], strict=True):
        assert (old is None) == (new is None)
        if old is not None:
            assert new[8:] == old[8:] and new[:8] in [np.roll(old[:8], by, axis=0).tolist() for by in (-3, 3)]
    flat = Dataset.from_dict({"gaze_features": [[1.0, 2.0]], "label": [0]})
    with pytest.raises(ValueError, match="no steps in time"):
        changed(LoadedData(DatasetDict(train=flat), "rows"), Change("shift", "gaze", 1), None, None, 0)


def test_mixed_up_labels_are_so_many_and_those_of_others():
    before, after = (
        _data().splits["train"]["label"][:],
        changed(_data(), Change("label_noise", None, 1.0), None, None, 0),
    )
    after = after.splits["train"]["label"][:]
    # Of three classes about a third of the labels drawn are the same by chance.
    assert 0.55 < np.mean(np.array(before) != np.array(after)) < 0.78
    third = changed(_data(), Change("label_noise", None, 0.3), None, None, 0).splits["train"]["label"][:]
    assert 0.1 < np.mean(np.array(before) != np.array(third)) <= 0.3
    old = _data(True).splits["train"]["labels"][:]
    new = changed(_data(True), Change("label_noise", None, 1.0), None, None, 0).splits["train"]["labels"][:]
    assert [[x == -100 for x in row] for row in old] == [[x == -100 for x in row] for row in new]
    pairs = [pair for one, two in zip(old, new, strict=True) for pair in zip(one, two, strict=True) if pair[0] != -100]
    assert 0.55 < np.mean([one != two for one, two in pairs]) < 0.78


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("label_noise: [1.5]", "shares of the training labels"),
        ("shift: {gaze: [0.5]}", "whole numbers of steps"),
        ("shift: {gaze: [.inf]}", "whole numbers of steps"),
        ("shift: [3]", "modalities with lists"),
        ("budget_scales: [-1]", "0 or more"),
        ("budget_scale: [1]", "did you mean budget_scales"),
        ("noise_in_tests: {gaze: [1]}", "did you mean noise_in_test"),
        ("budget_scales: [2]\nvariants: {a: {model: linear}}", "no variant has a token budget"),
    ],
)
def test_conditions_that_cannot_be_are_refused_in_one_line(tmp_path, text, said):
    path = study_file(tmp_path, text if "variants" in text else f"variants: {{a: {{}}}}\n{text}")
    with pytest.raises(ValueError, match="study.yaml") as refused:
        read_study(path)
    assert said in str(refused.value) and "\n" not in str(refused.value)


def test_budget_scales_are_for_models_with_a_budget(tmp_path, monkeypatch):
    run_here(monkeypatch)
    path = study_file(
        tmp_path,
        """
seeds: [0]
reference: linear
variants:
  clcr: {}
  wide: {config_overrides: {num_attention_heads: 2, use_hierarchy: false}}
  dense: {ablation: dense_budget}
  own: {config_overrides: 'use_joint_path=False'}
  linear: {model: linear}
  tcn: {model: tcn}
  gaze alone: {modalities: [gaze]}
budget_scales: [0, 2]
""",
    )
    study = read_study(path)
    runs = study.runs({})
    scaled = [run for run in runs if run.change.kind]
    assert {(run.variant, run.change.value) for run in scaled} == {(v, s) for v in ("clcr", "wide") for s in (0, 2)}
    for run in runs:
        text = json.dumps(run.arguments["config_overrides"])
        assert ("budget_scale" in text) == bool(run.change.kind)
    wide = next(run for run in scaled if run.variant == "wide" and run.change.value == 2)
    assert wide.arguments["config_overrides"] == {"num_attention_heads": 2, "use_hierarchy": False, "budget_scale": 2.0}
    kept = [run for run in runs if run.variant in ("clcr", "linear")]
    monkeypatch.setattr(type(study), "runs", lambda self, chosen: kept)
    records = run_study(study, tmp_path / "out", lambda line: None)
    found = {(row.condition, row.variant): row for row in compare(study, records)[1]}
    assert set(found) == {("", "clcr"), ("", "linear"), ("budget scale 0", "clcr"), ("budget scale 2", "clcr")}
    row, reference = found["budget scale 2", "clcr"], found["", "linear"]
    assert row.difference == pytest.approx(row.mean - reference.mean)
    page = write_report(study, records, tmp_path / "out").read_text(encoding="utf-8")
    assert "Not run, for they have no token budget: dense, own, linear, tcn, gaze alone. What linear measured" in page


def test_worst_groups_are_those_of_the_runs(tmp_path, monkeypatch):
    run_here(monkeypatch)
    path = study_file(
        tmp_path,
        "seeds: [0, 1]\nmissing_in_test: {pose: [1]}\nvariants: {clcr: {}, linear: {model: linear}, lda: {model: lda}}",
    )
    table = pq.read_table(tmp_path / "table.parquet")
    camera = pa.array(["left" if number % 2 else "right" for number in range(len(table))])
    pq.write_table(table.append_column("camera", camera), tmp_path / "table.parquet")
    text = path.read_text(encoding="utf-8").replace(
        "baselines: false", "baselines: false, metrics_by: [camera, person]"
    )
    path.write_text(text, encoding="utf-8")
    study = read_study(path)
    records = run_study(study, tmp_path / "out", lambda line: None)
    rows = {(row.column, row.condition, row.variant): row for row in worst_groups(study, records, "accuracy")}
    assert len(rows) == 6 and {key[0] for key in rows} == {"camera"}  # of persons there are three rows each
    for (_, condition, variant), row in rows.items():
        own = [each for each in records if each["variant"] == variant and Change(**each["change"]).name == condition]
        values = [
            [group["metrics"]["accuracy"] for group in each["groups"]["camera"]["groups"].values()] for each in own
        ]
        assert row.runs == 2 and row.value == pytest.approx(np.mean([min(pair) for pair in values]))
        assert row.gap == pytest.approx(np.mean([max(pair) - min(pair) for pair in values]))
        for each, pair in zip(own, values, strict=True):
            assert np.mean(pair) == pytest.approx(each["metrics"]["test_accuracy"])  # 15 rows each
    page = write_report(study, records, tmp_path / "out").read_text(encoding="utf-8")
    assert "## Worst groups" in page and "| camera | pose missing 1 in test | lda |" in page


def test_groups_of_folds_are_put_together(tmp_path):
    study = read_study(study_file(tmp_path, "seeds: [0]\nfolds: {column: person, number: 2}\nvariants: {a: {}}\n"))

    def record(fold, **groups):
        table = {
            name: {"labels": count, "few": count < 10, "metrics": {"accuracy": value}}
            for name, (count, value) in groups.items()
        }
        own = {"variant": "a", "seed": 0, "fold": fold, "change": {"kind": "", "modality": None, "value": 0.0}}
        return {**own, "groups": {"who": {"groups": table}}}

    records = [record(0, x=(6, 0.5), y=(20, 0.9)), record(1, x=(18, 0.9), z=(4, 0.0))]
    (row,) = worst_groups(study, records, "accuracy")
    assert row.value == pytest.approx(0.8) and row.gap == pytest.approx(0.1) and row.named == "x"


def segment_table(path, rows: int = 120):
    """Four segments of three steps; the mean of `gaze` in a segment tells its class."""
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 3, (rows, 4))
    gaze = [rng.normal(2.0 * np.repeat(each, 3)[:, None], 1, (12, 3)).astype(np.float32) for each in labels]
    pose = [rng.normal(size=(8, 2)).astype(np.float32) for _ in labels]
    columns = {
        "gaze_features": pa.array([list(each) for each in gaze]),
        "pose_features": pa.array([list(each) for each in pose]),
        "labels": [[("low", "middle", "high")[label] for label in each] for each in labels],
        "split": ["train" if number < rows * 2 // 3 else "test" for number in range(rows)],
    }
    pq.write_table(pa.table(columns), path)


def test_other_models_learn_labels_of_segments(tmp_path, monkeypatch):
    run_here(monkeypatch)
    segment_table(tmp_path / "table.parquet")
    quick = QUICK.replace("num_train_epochs: 1", "num_train_epochs: 12").replace("baselines: false", "baselines: true")
    path = tmp_path / "study.yaml"
    arguments = f"data_file: {tmp_path / 'table.parquet'}, dataset_options: task=segments, {quick}"
    text = f"arguments: {{{arguments}, learning_rate: 0.003}}\nseeds: [0]\n"
    variants = "{clcr: {}, other: {model: transformer}, linear: {model: linear, join: late}}"
    path.write_text(f"{text}variants: {variants}\n", encoding="utf-8")
    records = {each["variant"]: each for each in run_study(read_study(path), tmp_path / "out", lambda line: None)}
    assert {each["metric"] for each in records.values()} == {"segment_accuracy"}
    for name in ("other", "linear"):  # the commonest class is about a third
        assert records[name]["metrics"]["test_segment_accuracy"] > 0.6
    assert records["other"]["parameters"] != records["clcr"]["parameters"]


@pytest.mark.parametrize("name", [*FUSIONS])
@pytest.mark.parametrize("segments", [4, None])
def test_a_segment_is_read_from_its_own_tokens(name, segments):
    config = feature_config(num_segments=segments, unimodal_evidence=False, lambda_intra=0.0, lambda_inter=0.0)
    torch.manual_seed(0)
    model = head_of(name, per_segment=True)(config).eval()
    inputs = {key: value for key, value in batch(text=False).items() if key != "labels"}
    if segments is None:
        steps = min(value.shape[1] for key, value in inputs.items() if key.endswith("_features"))
        inputs = {key: value[:, :steps] for key, value in inputs.items()}
    logits = model(**inputs).logits
    assert logits.shape[1] == (segments or steps) and torch.isfinite(logits).all()
    # With a fusion that mixes nothing, only the segment of the token that was changed answers otherwise.
    model.clcr.fusion.forward = lambda tokens, mask: tokens
    before = model(**inputs).logits
    encoder, places = model.clcr.hierarchy.forward, []

    def changed_last(*args):
        encoded = encoder(*args)
        last = encoded.membership[0, config.modalities.index("audio")].nonzero().max()
        encoded.tokens[0, :, last] += 1.0
        places.append(segments - 1 if segments else int(last) % steps)
        return encoded

    model.clcr.hierarchy.forward = changed_last
    with torch.no_grad():
        differs = (model(**inputs).logits != before).any(dim=-1)
    assert differs[0, places[0]] and differs.sum() == 1


def test_kinds_have_names_of_their_own():
    names = [Change(kind, "gaze", 1.0).name for kind in CHANGES]
    assert len(set(names)) == len(CHANGES) and "gaze missing 1 in test" in names
