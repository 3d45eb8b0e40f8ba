"""The formulas of docs/scaling.md: on record, in the docs as on record, and true of a step that is measured anew."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

REPO = Path(__file__).resolve().parent.parent
RECORD = REPO / "benchmarks" / "results" / "scaling.json"
MOST = 0.2
MEASURE = """
import json, torch
from benchmarks.scaling import Point, TERMS, measure, predict
torch.set_num_threads(1)
point = Point(24, (70, 50, 90), 96)
record = json.load(open("benchmarks/results/scaling.json"))["coefficients"]
found = measure(point, 1)
print(json.dumps({what: predict(point, list(record[what].values()), what) / found[what] - 1 for what in TERMS}))
"""


@pytest.fixture(scope="module")
def record() -> dict:
    return json.loads(RECORD.read_text())


def test_twelve_points_that_no_coefficient_saw(record):
    held_out = [point for point in record["points"] if point["held_out"]]
    assert len(held_out) >= 12
    for point in held_out:
        assert all(abs(off) <= MOST for off in point["off"].values()), point


def test_the_docs_hold_the_record(record):
    """Coefficients to three digits, in the order of the terms, and the worst of the errors."""
    text = (REPO / "docs" / "scaling.md").read_text(encoding="utf-8")
    for what, coefficients in record["coefficients"].items():
        line = next(line for line in text.splitlines() if line.startswith(f"| {what} |"))
        found = [float(number) for number in re.findall(r"(?<!\^)\b\d[\d.]*(?:e-?\d+)?(?= )", line.split("|")[2])]
        assert found == [pytest.approx(value, rel=6e-3) for value in coefficients.values() if value]
        assert f"{record['worst_held_out'][what]:.0%}".replace("%", " %") in line.split("|")[3]


@pytest.mark.skipif(sys.platform != "linux", reason="the peak of memory is measured on Linux alone")
def test_a_step_measured_anew_costs_what_they_say():
    """Memory and products; time is no matter for a test."""
    one_thread = {"OMP_NUM_THREADS": "1", "MALLOC_MMAP_THRESHOLD_": "200000", "PYTHONPATH": str(REPO)}
    command = [sys.executable, "-c", MEASURE]
    done = subprocess.run(
        command, env={**os.environ, **one_thread}, cwd=REPO, capture_output=True, text=True, timeout=600
    )
    assert done.returncode == 0, done.stderr[-3000:]
    off = json.loads(done.stdout)
    assert abs(off["bytes"]) <= MOST and abs(off["products"]) <= MOST, off
