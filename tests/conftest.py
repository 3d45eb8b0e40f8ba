"""Shared fixtures."""

import os
from pathlib import Path

import pytest

# One thread a test process, and a subprocess: several workers that each take all cores are slower than one.
os.environ.setdefault("OMP_NUM_THREADS", "1")

REPO = Path(__file__).resolve().parent.parent


@pytest.fixture(scope="session")
def real_data() -> Path:
    """Folder of real research data (CLCR_REAL_DATA, or ../shared/data beside the repository); skips when absent."""
    folder = Path(os.environ.get("CLCR_REAL_DATA", REPO.parent / "shared" / "data"))
    if not folder.is_dir():
        pytest.skip(f"REAL DATA ABSENT: {folder} is not a folder; set CLCR_REAL_DATA to run this check")
    return folder


@pytest.fixture(autouse=True)
def transformers_verbosity():
    """Every test starts from transformers' default verbosity: benchmarks lower it for their whole process."""
    from transformers.utils import logging

    before = logging.get_verbosity()
    yield
    logging.set_verbosity(before)


@pytest.fixture(autouse=True, scope="session")
def as_if_trained():
    """Readouts of own evidence start at random, not at zero: of a new model they say nothing, and a test that compares
    two answers of them could not fail. Tests of the start itself are marked `starts_at_zero`."""
    from transformers import initialization as init

    from clcr_hf.unimodal import UnimodalReadout

    original = UnimodalReadout.reset_parameters
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(UnimodalReadout, "reset_parameters", lambda readout: init.normal_(readout.weight, std=0.02))
        yield original


@pytest.fixture(autouse=True)
def start_of_readouts(request, as_if_trained):
    """Takes the above back for tests marked `starts_at_zero`."""
    if not request.node.get_closest_marker("starts_at_zero"):
        yield
        return
    from clcr_hf.unimodal import UnimodalReadout

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(UnimodalReadout, "reset_parameters", as_if_trained)
        yield


@pytest.fixture(scope="module")
def forge(tmp_path_factory):
    """What starts training scripts that can be killed, see `killed_runs.py`."""
    from killed_runs import Forge

    forge = Forge(tmp_path_factory.mktemp("runs"))
    yield forge
    forge.close()
