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
    """Every test starts from transformers' default verbosity: the `clcr` command lowers it for its whole process."""
    from transformers.utils import logging

    before = logging.get_verbosity()
    yield
    logging.set_verbosity(before)
