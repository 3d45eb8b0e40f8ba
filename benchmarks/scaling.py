"""What a training step costs, as formulas of batch, lengths, width and modalities, and how far they are off.

    OMP_NUM_THREADS=1 python -m benchmarks.scaling --output benchmarks/results/scaling.json

Each point is a step (forward, backward, AdamW) of the default model on ready features, in a process of its own, forked
when all is imported. Measured are the peak of resident memory over what was there before the step, the products that
torch counts (`FlopCounterMode`, no noise), and CPU seconds of one thread (the least of the repeats). The coefficients
are found on the points of `FITTED` alone; those of `HELD_OUT` only check them. It runs on Linux: the peak is reset by
/proc/self/clear_refs.
"""

import argparse
import json
import multiprocessing
import os
import platform
import sys
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from scipy.optimize import nnls
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from clcr_hf import CLCRConfig, CLCRForSequenceClassification

FEATURES = 64  # numbers a step of each modality has
NAMES = ("text", "vision", "audio", "gaze", "pose")
MALLOC = "MALLOC_MMAP_THRESHOLD_"  # so that freed blocks go back at once and the peak is the step's own


@dataclass(frozen=True)
class Point:
    """A training step: rows of a batch, steps of time of each modality, width of the model."""

    batch: int
    lengths: tuple[int, ...]
    width: int

    @property
    def tokens(self) -> int:
        """Tokens of the batch, B S."""
        return self.batch * sum(self.lengths)

    @property
    def pairs(self) -> int:
        """Pairs of a token and one of another modality, B sum_m T_m (S - T_m)."""
        return self.batch * sum(length * (sum(self.lengths) - length) for length in self.lengths)

    def terms(self, what: str) -> list[float]:
        """The terms of the formula of `"bytes"`, `"products"` or `"seconds"`, in the order of `TERMS`."""
        tokens, pairs, width = self.tokens, self.pairs, self.width
        if what == "bytes":
            return [1.0, tokens * width, tokens, pairs, len(self.lengths) * width**2]
        return [float(what == "seconds"), tokens * width**2, tokens * width, pairs * width, pairs]


TERMS = {
    "bytes": ["1", "B S d", "B S", "B P", "M d^2"],
    "products": ["(none)", "B S d^2", "B S d", "B P d", "B P"],
    "seconds": ["1", "B S d^2", "B S d", "B P d", "B P"],
}
FITTED = [
    Point(8, (50, 50, 50), 128),
    Point(64, (50, 50, 50), 128),
    Point(16, (200, 200, 200), 128),
    Point(4, (800, 800, 800), 128),
    Point(32, (50, 50, 50), 64),
    Point(16, (50, 50, 50), 256),
    Point(8, (300, 300, 300), 64),
    Point(4, (200, 200, 200), 256),
    Point(32, (100, 100), 128),
    Point(16, (50, 50, 50, 50, 50), 128),
    Point(2, (1500, 1500), 64),
    Point(8, (400, 400, 400), 32),
]
HELD_OUT = [
    Point(32, (50, 50, 50), 128),
    Point(16, (50, 500, 375), 128),
    Point(8, (100, 100, 100), 192),
    Point(48, (30, 60, 90), 96),
    Point(4, (600, 600, 600), 64),
    Point(2, (1000, 1000, 1000), 128),
    Point(16, (120, 120, 120, 120), 96),
    Point(24, (40, 40, 40, 40, 40), 64),
    Point(64, (80, 20), 128),
    Point(8, (250, 250), 256),
    Point(6, (50, 700, 700), 96),
    Point(12, (150, 150, 150), 160),
    Point(1, (2000, 500, 1000), 64),
    Point(20, (100, 200), 192),
]


def status(field: str) -> int:
    """Bytes that /proc/self/status gives for a field."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(field + ":"):
            return int(line.split()[1]) * 1024
    raise RuntimeError(f"/proc/self/status has no {field}: the peak of memory is measured on Linux alone")


def measure(point: Point, repeats: int) -> dict[str, Any]:
    """Parameters, bytes, products and seconds of a step."""
    torch.manual_seed(0)
    names = NAMES[: len(point.lengths)]
    standard = {f"{name}_config": {"feature_size": FEATURES} for name in names[:3]}
    extra = {name: {"feature_size": FEATURES} for name in names[3:]}
    config = CLCRConfig(**standard, extra_configs=extra or None, hidden_size=point.width, num_labels=1)
    model = CLCRForSequenceClassification(config).train()
    optimiser = torch.optim.AdamW(model.parameters(), lr=1e-5)

    def step(batch: int) -> None:
        inputs = {
            f"{name}_features": torch.randn(batch, length, FEATURES)
            for name, length in zip(names, point.lengths, strict=True)
        }
        model(**inputs, labels=torch.randn(batch)).loss.backward()
        optimiser.step()
        optimiser.zero_grad()

    step(1)  # the optimiser's state, and what a first step brings along
    Path("/proc/self/clear_refs").write_text("5")
    before, seconds = status("VmRSS"), []
    step(point.batch)
    grown = status("VmHWM") - before
    for _ in range(repeats):
        started = time.process_time()
        step(point.batch)
        seconds.append(time.process_time() - started)
    counts = []
    for batch in (1, 2):  # attention with its scores in memory, or torch would not count it: few rows tell the rest
        with FlopCounterMode(display=False) as counter, sdpa_kernel(SDPBackend.MATH):
            step(batch)
        counts.append(counter.get_total_flops() // 2)
    products = counts[0] + (point.batch - 1) * (counts[1] - counts[0])
    parameters = sum(each.numel() for each in model.parameters())
    found = {"parameters": parameters, "bytes": grown, "products": products}
    return found | {"seconds": min(seconds)}


def _child(pipe: Any, point: Point, repeats: int) -> None:
    torch.set_num_threads(1)
    pipe.send(measure(point, repeats))
    pipe.close()


def in_a_child(point: Point, repeats: int) -> dict[str, Any]:
    """[`measure`] in a forked process."""
    forks = multiprocessing.get_context("fork")
    ours, theirs = forks.Pipe()
    child = forks.Process(target=_child, args=(theirs, point, repeats))
    child.start()
    theirs.close()
    found = ours.recv()
    child.join()
    return found


def fit(points: list[Point], measured: list[dict[str, Any]], what: str) -> list[float]:
    """Coefficients, none below 0, with the least squares of relative errors."""
    values = np.array([each[what] for each in measured], dtype=float)
    terms = np.array([point.terms(what) for point in points]) / values[:, None]
    scale = np.linalg.norm(terms, axis=0)
    scale[scale == 0] = 1
    return (nnls(terms / scale, np.ones(len(points)))[0] / scale).tolist()


def predict(point: Point, coefficients: list[float], what: str) -> float:
    """What a formula gives for a point."""
    return float(np.dot(point.terms(what), coefficients))


def record(repeats: int) -> dict[str, Any]:
    """All that is measured, the coefficients, and the relative error of each point."""
    points = FITTED + HELD_OUT
    measured = []
    for point in points:
        measured.append(in_a_child(point, repeats))
        print(point, measured[-1], flush=True)
    formulas = {what: fit(FITTED, measured[: len(FITTED)], what) for what in TERMS}
    rows = []
    for number, (point, found) in enumerate(zip(points, measured, strict=True)):
        off = {what: predict(point, each, what) / found[what] - 1 for what, each in formulas.items()}
        rows.append({**asdict(point), "held_out": number >= len(FITTED), "measured": found, "off": off})
    worst = {what: max(abs(row["off"][what]) for row in rows if row["held_out"]) for what in TERMS}
    formulas_by_term = {what: dict(zip(TERMS[what], each, strict=True)) for what, each in formulas.items()}
    versions = {"torch": torch.__version__, "python": platform.python_version(), "machine": platform.machine()}
    return {"versions": versions, "coefficients": formulas_by_term, "worst_held_out": worst, "points": rows}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--output", type=Path, help="JSON file")
    arguments = parser.parse_args()
    if MALLOC not in os.environ:  # glibc reads it when a process starts
        os.environ[MALLOC] = "200000"
        os.execv(sys.executable, [sys.executable, "-m", "benchmarks.scaling", *sys.argv[1:]])
    found = record(arguments.repeats)
    print(json.dumps({name: found[name] for name in ("coefficients", "worst_held_out")}, indent=1))
    if arguments.output:
        arguments.output.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
