"""Sets that nobody tuned the defaults to: they are what they say, and a model is no worse than a constant or a line."""

import sys
from pathlib import Path

import numpy as np
import pytest

sys.path.append(str(Path(__file__).resolve().parent.parent / "benchmarks"))

import stress_sets
from stress_sets import SETS, bootstrap, draw, fails, table


def test_sets_follow_from_their_seed_and_are_what_they_are_called():
    drawn = {name: draw(name, 20) for name in SETS}
    assert len(drawn) == 12 and len(drawn["sixty rows"]["split"]) == 60 + 20
    for name, spec in SETS.items():
        again, columns = draw(name, 20), drawn[name]
        first = f"{next(iter(spec.widths))}_features"
        there = next(row for row, value in enumerate(columns[first]) if value is not None)
        np.testing.assert_array_equal(columns[first][there], again[first][there])
        assert list(columns["label"]) == list(again["label"])
    assert drawn["700 columns"]["face_features"][0].shape[1] == 700
    lengths = [len(value) for value in drawn["lengths 1 to 1,000"]["gaze_features"]]
    assert min(lengths) < 5 and max(lengths) > 700
    labels, counts = np.unique(drawn["classes 1 to 20"]["label"], return_counts=True)
    assert len(labels) == 2 and counts.max() / counts.min() == pytest.approx(20, rel=0.1)
    assert set(drawn["scores 1 to 5"]["label"]) <= set(np.arange(1, 5.5, 0.5))
    scales = np.std(drawn["mixed units"]["gaze_features"][0], axis=0)
    assert scales.max() > 100 * scales.min()
    missing = [value is None for name in ("gaze", "pose") for value in drawn["missing modalities"][f"{name}_features"]]
    assert 0.1 < np.mean(missing) < 0.3


def test_an_interval_tells_worse_from_as_good():
    rng = np.random.default_rng(0)
    worse, same = (bootstrap(rng.normal(mean, 1, 400)) for mean in (0.5, 0.0))
    assert worse[1] > 0.3 and worse[1] < worse[0] < worse[2] and same[1] < 0 < same[2]
    record = {"set": "a", "seed": 0, "metric": "mae", "model": 1.0, "constant": 0.5, "linear": 1.0}
    record |= {"to_constant": worse, "to_linear": same}
    assert fails(record) == ["constant"] and table([record]).endswith("| constant |")


@pytest.mark.slow
@pytest.mark.parametrize("name", ["skewed scores", "700 columns"])
def test_defaults_serve(name):
    """With a shorter training, for time."""
    record = stress_sets.run(name, seed=0, extra=["--num_train_epochs", "12"], test_rows=300)
    assert fails(record) == [] and record["to_constant"][2] < 0
