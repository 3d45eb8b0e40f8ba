"""Random changes of feature sequences: what may change, what may not, and when a run makes them."""

import numpy as np
import pytest
import torch
from datasets import Dataset, DatasetDict
from hypothesis import given, settings
from hypothesis import strategies as st

from clcr_hf.data.labels import LabelKind
from clcr_hf.training.arguments import DataArguments
from clcr_hf.training.rows import prepare
from clcr_hf.training.sequence_augmentation import SequenceAugmentation, augments_unasked, interpolate

STILL = {"crop": 1.0, "warp": 0.0, "scale": 0.0, "offset": 0.0, "noise": 0.0}


@settings(max_examples=50, deadline=None)
@given(st.integers(0, 30), st.integers(1, 5), st.integers(0, 2**32 - 1), st.sampled_from(["float32", "float64"]))
def test_shape_type_and_input_stay(steps, width, seed, kind):
    rng = np.random.default_rng(seed)
    row = {"pose": rng.normal(size=(steps, width)).astype(kind)}
    before = row["pose"].copy()
    changed = SequenceAugmentation().augment(row, {"pose": np.ones(width)}, rng)["pose"]
    assert changed.shape == before.shape and changed.dtype == before.dtype and np.isfinite(changed).all()
    np.testing.assert_array_equal(row["pose"], before)


def test_modalities_stay_in_step():
    """What rises with time in both is bent alike, at two rates."""
    fast, slow = np.linspace(0, 1, 101)[:, None], np.linspace(0, 1, 21)[:, None]
    only_time = SequenceAugmentation(scale=0.0, offset=0.0, noise=0.0, crop=0.5, warp=0.1)
    ones = {"fast": np.ones(1), "slow": np.ones(1)}
    moved = 0.0
    for seed in range(20):
        changed = only_time.augment({"fast": fast, "slow": slow}, ones, np.random.default_rng(seed))
        np.testing.assert_allclose(changed["fast"][::5], changed["slow"], atol=1e-6)
        assert (np.diff(changed["fast"][:, 0]) >= 0).all()  # time does not run backwards
        moved = max(moved, np.abs(changed["fast"] - fast).max())
    assert moved > 0.2


def test_strength_is_in_units_of_each_column():
    row, spreads = {"pose": np.zeros((50, 2))}, {"pose": np.array([1.0, 100.0])}
    draws = np.stack(
        [
            SequenceAugmentation(**{**STILL, "offset": 0.1}).augment(row, spreads, np.random.default_rng(seed))["pose"]
            for seed in range(400)
        ]
    )
    np.testing.assert_allclose(draws[:, 0].std(axis=0), [0.1, 10.0], rtol=0.15)
    np.testing.assert_array_equal(draws, np.repeat(draws[:, :1], 50, axis=1))  # one number a column
    noisy = SequenceAugmentation(**{**STILL, "noise": 0.05}).augment(row, spreads, np.random.default_rng(0))["pose"]
    np.testing.assert_allclose(noisy.std(axis=0), [0.05, 5.0], rtol=0.3)


def test_nothing_switched_on_changes_nothing():
    row = {"pose": np.random.default_rng(0).normal(size=(9, 3))}
    changed = SequenceAugmentation(**STILL).augment(row, {"pose": np.ones(3)}, np.random.default_rng(1))
    np.testing.assert_allclose(changed["pose"], row["pose"], atol=1e-12)


@pytest.mark.parametrize("wrong", [{"crop": 0.0}, {"crop": 1.5}, {"noise": -1.0}])
def test_settings_that_mean_nothing_are_refused(wrong):
    with pytest.raises(ValueError, match=next(iter(wrong))):
        SequenceAugmentation(**wrong)


def test_interpolation_is_linear():
    value = np.array([[0.0, 10.0], [2.0, 30.0]])
    np.testing.assert_allclose(interpolate(value, np.array([0.0, 0.25, 1.0])), [[0, 10], [0.5, 15], [2, 30]])


# -- in a run ---------------------------------------------------------------------------------------------------------


def splits(steps: int = 12, layers: int = 0) -> DatasetDict:
    rng = np.random.default_rng(0)
    shape = (layers, steps, 2) if layers else (steps, 2)
    values = [rng.normal(size=shape).astype("float32") for _ in range(6)]
    mask = [1] * (steps - 3) + [0] * 3
    rows = Dataset.from_dict(
        {
            "pose_features": [value.tolist() for value in values],
            "pose_attention_mask": [mask] * 6,
            "label": [0, 1] * 3,
        }
    )
    return DatasetDict(train=rows, test=rows)


@pytest.mark.parametrize("layers", [0, 3])
def test_training_rows_change_afresh_and_test_rows_never(layers):
    data, columns = splits(layers=layers), {"pose": "pose_features"}
    datasets = prepare(data, columns, DataArguments(augment_features=True), None)
    torch.manual_seed(0)
    first, second = (np.asarray(datasets["train"][0]["pose_features"]) for _ in range(2))
    whole = np.asarray(data["train"][0]["pose_features"], dtype="float32")
    assert first.shape == whole.shape
    assert np.abs(first - second)[..., :9, :].max() > 1e-3
    np.testing.assert_array_equal(first[..., 9:, :], whole[..., 9:, :])  # padding is left alone
    np.testing.assert_array_equal(np.asarray(datasets["test"][0]["pose_features"]), whole)
    torch.manual_seed(0)
    np.testing.assert_array_equal(np.asarray(datasets["train"][0]["pose_features"]), first)
    plain = prepare(data, columns, DataArguments(augment_features=False), None)
    np.testing.assert_array_equal(np.asarray(plain["train"][0]["pose_features"]), whole)


def test_beside_token_ids_time_is_left_alone():
    rows = splits()["train"].add_column("input_ids", [[1, 2, 3]] * 6)
    columns = {"text": "input_ids", "pose": "pose_features"}
    datasets = prepare(DatasetDict(train=rows), columns, DataArguments(augment_features=True), None)
    assert (datasets["train"].sequences.crop, datasets["train"].sequences.warp) == (1.0, 0.0)
    assert datasets["train"].sequences.noise > 0


def test_asked_for_without_ready_features_is_refused():
    rows = DatasetDict(train=Dataset.from_dict({"input_ids": [[1, 2]], "label": [0]}))
    with pytest.raises(ValueError, match="augment_features.*no ready features"):
        prepare(rows, {"text": "input_ids"}, DataArguments(augment_features=True), None)


@pytest.mark.parametrize(
    ("kind", "steps", "column", "expected"),
    [
        ("single_label_classification", 12, "pose", True),
        ("single_label_classification", 3, "pose", False),
        ("regression", 12, "pose", False),
        ("single_label_classification", 12, "text", False),
    ],
)
def test_unasked_where_it_was_measured_to_help(kind, steps, column, expected):
    rows = splits(steps)["train"].select_columns(["pose_features", "label"])
    labels = LabelKind(kind, ["a", "b"], False)
    assert augments_unasked(rows, {column: "pose_features"}, labels) is expected
