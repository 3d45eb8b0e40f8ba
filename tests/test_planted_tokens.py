"""The task of planted tokens holds what its truth says, and its study neither loses nor repeats a run."""

import sys
from pathlib import Path

import numpy as np
import pytest

sys.path.append(str(Path(__file__).resolve().parent.parent / "benchmarks"))

import planted_tokens
from planted_task import LEVELS, MODALITIES, PLANTED, TOKENS, WIDTH, generate, oracle_scores
from planted_tokens import Job, Settings, auc, paired, study, table, variants


def test_samples_follow_from_the_seed_and_know_their_truth():
    (first, other), (again, _) = generate(3, (50, 20)), generate(3, (50, 20))
    for name in MODALITIES:
        assert first.features[name].shape == (50, LEVELS, TOKENS, WIDTH)
        np.testing.assert_array_equal(first.features[name], again.features[name])
    assert (first.planted.sum(axis=-1) == PLANTED).all()
    assert (first.agreeing.sum(axis=(1, 2, 3)) == PLANTED * len(MODALITIES)).all()
    assert not np.array_equal(first.labels[:20], other.labels)


def test_planted_tokens_of_the_active_level_alone_say_the_same():
    """Between the two planted tokens of two modalities, up to the rotations, which a linear map finds."""
    samples, _ = generate(0, (3000, 1))
    text, vision = (samples.features[name] for name in MODALITIES[:2])
    fits = {}
    for active in (True, False):
        for level in range(LEVELS):
            rows = np.flatnonzero((samples.active == level) == active)
            x, y = (
                np.stack([part[row, level][samples.planted[row, each, level]].mean(axis=0) for row in rows])
                for each, part in enumerate((text, vision))
            )
            x, y = x - x.mean(0), y - y.mean(0)
            weights = np.linalg.lstsq(x, y, rcond=None)[0]
            fits[active, level] = 1 - np.square(y - x @ weights).sum() / np.square(y).sum()
    assert min(fits[True, level] for level in range(LEVELS)) > 0.3
    assert max(fits[False, level] for level in range(LEVELS)) < 0.1


def test_oracles_are_ordered():
    found = oracle_scores(0, 1024, (512, 512))
    assert found["all tokens"] < found["oracle tokens"] < found["oracle tokens and level"]
    assert found["oracle level"] < found["oracle tokens and level"] and found["oracle tokens and level"] > 0.85


def test_auc_counts_ties_half():
    assert auc(np.array([1.0, 1.0]), np.array([0.0, 1.0])) == pytest.approx(0.75)


def test_a_study_goes_on_where_it_stopped(tmp_path, monkeypatch):
    monkeypatch.setattr(planted_tokens, "VALIDATION", 64)
    monkeypatch.setattr(planted_tokens, "TEST", 64)
    few = Settings(hidden_size=16, heads=2, alignment_epochs=1, epochs=1, batch_size=64)
    done: list[str] = []

    class Pool:
        """Runs here, and tells what it runs."""

        def __init__(self, workers):
            pass

        def __enter__(self):
            return self

        def __exit__(self, *_):
            pass

        def imap_unordered(self, function, jobs):
            for job in jobs:
                done.append(job.variant)
                yield function(job)

    monkeypatch.setattr(planted_tokens.multiprocessing, "get_context", lambda kind: type("C", (), {"Pool": Pool}))
    path = tmp_path / "runs.jsonl"
    names = ["agreement", "transformer"]
    jobs = [Job(name, 128, 0, few) for name in names]
    study(jobs[:1], 1, path)
    runs = study(jobs, 1, path)
    study(jobs, 1, path)
    assert done == names and len(path.read_text().splitlines()) == 2
    assert "| agreement | 1 |" in table(runs) and "| transformer | 1 |" in table(runs)
    with pytest.raises(ValueError, match="several runs"):
        table([*runs, runs[0]])


def test_paired_difference_by_hand():
    mean, half, count = paired({0: 0.5, 1: 0.4, 2: 0.6}, {0: 0.4, 1: 0.2, 2: 0.5, 7: 9.0})
    assert mean == pytest.approx(-0.4 / 3) and count == 3
    assert half == pytest.approx(4.302653 * np.std([-0.1, -0.2, -0.1], ddof=1) / 3**0.5, rel=1e-5)


def test_rows_are_the_ablations_of_the_paper():
    assert {"agreement", "version 0.1", "default", "agreement, dense budget"} <= variants().keys()
