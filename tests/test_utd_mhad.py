"""Real motion (UTD-MHAD): the whole is no worse than what the modalities say by themselves."""

import sys
from pathlib import Path

import pytest

sys.path.append(str(Path(__file__).resolve().parent.parent / "benchmarks"))

import utd_mhad


@pytest.mark.slow
@pytest.mark.starts_at_zero
def test_the_whole_is_not_below_the_sum_of_its_own_evidence(real_data):
    """430 clips of people never met: one standard error is about 2 points. A third of the steps of the study."""
    file = real_data / "utd-mhad" / "utd_mhad.npz"
    record = utd_mhad.run("default with augmentation", seed=0, path=file, steps=200, learning_rate=2e-3)
    assert record["accuracy"] > 0.8  # chance is 1 in 27, late LDA .928 after all that it can learn
    assert record["accuracy"] >= record["accuracy_own_evidence"] - 0.03
