"""Costs of the core beside another state of the package, in one run.

    git worktree add ../clcr-0.1 e511797
    python -m benchmarks.core_speed --other ../clcr-0.1

Each state runs in a process of its own that waits between its turns; rounds alternate, so that a busy machine slows all
alike. Times are the process's own CPU seconds on one thread, the median over rounds; memory is the growth of the
process's peak over the state after a first small step, in a process that does nothing else. There glibc gives freed
blocks of half a megabyte and more back at once (MALLOC_MMAP_THRESHOLD_), or the peak would tell of what it keeps.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

# (batch, tokens of text, vision and audio features, mode, what is timed)
CASES: dict[str, tuple[int, tuple[int, int, int], str]] = {
    "forward, aligned, batch 1": (1, (50, 50, 50), "forward"),
    "step, aligned, batch 1": (1, (50, 50, 50), "step"),
    "forward, aligned, batch 64": (64, (50, 50, 50), "forward"),
    "step, aligned, batch 64": (64, (50, 50, 50), "step"),
    "step, unaligned, batch 4": (4, (50, 500, 375), "step"),
    "forward, T = 4,000 a modality, batch 1": (1, (4000, 4000, 4000), "forward"),
    "step, T = 4,000 a modality, batch 1": (1, (4000, 4000, 4000), "step"),
}
WIDTHS = (300, 20, 5)


def _build(fields: dict[str, Any]) -> Any:
    import torch

    import clcr_hf

    torch.manual_seed(0)
    parts = {f"{name}_config": {"feature_size": width} for name, width in zip(_NAMES, WIDTHS, strict=True)}
    return clcr_hf.CLCRForSequenceClassification(clcr_hf.CLCRConfig(**parts, num_labels=1, **fields))


_NAMES = ("text", "vision", "audio")


def _worker(fields: dict[str, Any]) -> None:
    """Answers each line `case` on stdin with the seconds of one repeat, and `memory case` with megabytes."""
    import resource

    import torch

    torch.set_num_threads(1)
    model = _build(fields)
    batches: dict[str, dict[str, Any]] = {}
    optimiser = torch.optim.SGD(model.parameters(), lr=1e-6)

    def run(case: str) -> None:
        size, lengths, kind = CASES[case]
        if case not in batches:
            torch.manual_seed(0)
            batches[case] = {
                f"{name}_features": torch.randn(size, length, width)
                for name, length, width in zip(_NAMES, lengths, WIDTHS, strict=True)
            } | {"labels": torch.randn(size)}
        if kind == "forward":
            model.eval()
            with torch.no_grad():
                model(**{key: value for key, value in batches[case].items() if key != "labels"})
            return
        model.train()(**batches[case]).loss.backward()
        optimiser.step()
        optimiser.zero_grad()

    for line in sys.stdin:
        word, _, case = line.strip().partition(" ")
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
        started = time.process_time()
        run(case)
        seconds = time.process_time() - started
        grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024 - before
        print(json.dumps(grown if word == "memory" else seconds), flush=True)


class _State:
    """One state of the package with one configuration, in a process of its own."""

    def __init__(self, folder: Path, fields: dict[str, Any], **more: str):
        command = [sys.executable, str(Path(__file__).resolve()), "--worker", json.dumps(fields)]
        more |= {"PYTHONPATH": str(folder), "OMP_NUM_THREADS": "1", "PYTHONWARNINGS": "ignore"}
        self.process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=os.environ | more, cwd=folder
        )

    def ask(self, word: str, case: str) -> float:
        assert self.process.stdin is not None and self.process.stdout is not None
        self.process.stdin.write(f"{word} {case}\n")
        self.process.stdin.flush()
        return float(json.loads(self.process.stdout.readline()))

    def close(self) -> None:
        assert self.process.stdin is not None
        self.process.stdin.close()
        self.process.wait()


def compare(other: Path, rounds: int, cases: list[str]) -> dict[str, Any]:
    """Median seconds and peak megabytes of each case and state."""
    from clcr_hf.configuration_clcr import VERSION_01  # here: the other state, which runs this file too, has it not

    here = Path(__file__).resolve().parent.parent
    old = {"shared_rank": 64, "private_rank": 64}
    new = old | VERSION_01  # the other state does not know these fields
    states = {
        "other": (other, old),
        "same configuration": (here, new),
        "default": (here, {}),
        "agreement": (here, {"evidence": "agreement", "alignment_coef": 0.0}),
        "agreement, aligned": (here, {"evidence": "agreement"}),
    }
    times: dict[str, dict[str, float]] = {}
    running = {name: _State(*each) for name, each in states.items()}
    for case in cases:
        repeats = 1 if "4,000" in case else 5 if "64" in case or "unaligned" in case else 20
        measured: dict[str, list[float]] = {name: [] for name in states}
        for state in running.values():
            state.ask("time", case)  # the first time is a slow one
        for _ in range(rounds):
            for name, state in running.items():
                measured[name].append(min(state.ask("time", case) for _ in range(repeats)))
        times[case] = {name: statistics.median(values) for name, values in measured.items()}
        print(case, {name: round(1000 * value, 1) for name, value in times[case].items()}, flush=True)
    for state in running.values():
        state.close()
    memory: dict[str, dict[str, float]] = {}
    for case in cases:
        if "4,000" in case or "unaligned" in case:
            memory[case] = {}
            for name, each in states.items():
                state = _State(*each, MALLOC_MMAP_THRESHOLD_="500000")
                state.ask("memory", "step, aligned, batch 1")  # what a first step brings along
                memory[case][name] = state.ask("memory", case)
                state.close()
            print("MB,", case, {name: round(value) for name, value in memory[case].items()}, flush=True)
    return {"seconds": times, "megabytes": memory}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--other", type=Path, help="folder of the other state, e.g. a worktree of version 0.1")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--cases", nargs="*", choices=list(CASES), default=list(CASES), metavar="CASE")
    parser.add_argument("--output", type=Path, help="JSON file")
    parser.add_argument("--worker", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.worker:
        _worker(json.loads(arguments.worker))
        return
    found = compare(arguments.other, arguments.rounds, arguments.cases)
    if arguments.output:
        arguments.output.write_text(json.dumps(found, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
