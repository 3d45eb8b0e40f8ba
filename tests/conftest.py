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


@pytest.fixture(autouse=True, scope="session")
def as_if_trained():
    """Readouts start at random, not at zero: a new model answers its bias whatever it is given, and a test that
    compares two answers of it could not fail. Tests of the start itself are marked `starts_at_zero`."""
    from transformers import initialization as init

    from clcr_hf.modeling_clcr import CLCRClassificationHead
    from clcr_hf.unimodal import UnimodalReadout

    classes = (CLCRClassificationHead, UnimodalReadout)
    originals = {each: each.reset_parameters for each in classes}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(CLCRClassificationHead, "reset_parameters", lambda head: None)
        patch.setattr(UnimodalReadout, "reset_parameters", lambda readout: init.normal_(readout.weight, std=0.02))
        yield originals


@pytest.fixture(autouse=True)
def start_of_readouts(request, as_if_trained):
    """Takes the above back for tests marked `starts_at_zero`."""
    if not request.node.get_closest_marker("starts_at_zero"):
        yield
        return
    with pytest.MonkeyPatch.context() as patch:
        for each, original in as_if_trained.items():
            patch.setattr(each, "reset_parameters", original)
        yield
