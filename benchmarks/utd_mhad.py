"""UTD-MHAD: 27 actions from skeletons and an inertial sensor, tested on subjects that the model has never met.

    python benchmarks/utd_mhad.py --output benchmarks/results/utd_mhad.jsonl
    python benchmarks/utd_mhad.py --table benchmarks/results/utd_mhad.jsonl

861 clips of eight subjects (Chen, Jafari and Kehtarnavaz, ICIP 2015). Test: subjects 2, 4, 6, 8. The model trains on
1, 3, 5 for a fixed number of steps and its last state counts; subject 7 chooses the shares of joint path and own
evidence in the answer. Skeletons are taken relative to the spine of the first frame; differences between neighbouring
steps are appended, columns standardised on the training clips, sequences brought to 40 steps. Data: `utd_mhad.npz`
under `--data` (`$CLCR_REAL_DATA/utd-mhad`).
"""

import argparse
import shlex
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from records import add_run, read_runs
from tables import DATA, motions
from torch import nn
from torch.nn import functional as F

from clcr_hf import CLCRConfig, CLCRForSequenceClassification
from clcr_hf.configuration_clcr import VERSION_01
from clcr_hf.data.folders import versions
from clcr_hf.training.sequence_augmentation import SequenceAugmentation
from clcr_hf.training.shares import find_shares, parts_of

TRAIN, VALIDATION, TEST = (1, 3, 5), (7,), (2, 4, 6, 8)
NAMES = ("skeleton", "inertial")
# Rows of the table: fields of the configuration, and whether sequences are augmented.
FIRST = {**VERSION_01, "private_rank": 64}
DROPPING = {"modality_dropout": 0.15}
VARIANTS: dict[str, tuple[dict[str, Any], bool]] = {
    "version 0.1": (FIRST, False),
    "0.1 with augmentation": (FIRST, True),
    "default": ({}, False),
    "default with augmentation": (DROPPING, True),
    "own evidence alone, with augmentation": ({"use_joint_path": False, **DROPPING}, True),
    "two plain TCNs, summed, with augmentation": ({}, True),
}


def load(path: Path) -> tuple[dict[str, np.ndarray], np.ndarray, np.ndarray]:
    """Sequences `(N, 40, D)` float32 of each modality, standardised on the training clips; actions from 0; subjects."""
    with np.load(path, allow_pickle=False) as content:
        data = dict(content)
    subjects, train = data["subject"], np.isin(data["subject"], TRAIN)
    found = {}
    for name in NAMES:
        clips = np.split(data[name].astype(np.float64), np.cumsum(data[f"{name}_length"])[:-1])
        values = motions(clips, skeletons=name == "skeleton")
        mean, std = values[train].mean((0, 1)), values[train].std((0, 1))
        found[name] = ((values - mean) / np.maximum(std, 1e-6)).astype(np.float32)
    return found, data["action"].astype(np.int64) - 1, subjects


class LateTCNs(nn.Module):
    """A plain TCN a modality, read out by mean, spread and maximum over time; their logits are summed, and each has a
    loss of its own beside that of the sum."""

    def __init__(self, widths: Sequence[int], hidden: int = 128, classes: int = 27):
        super().__init__()
        self.inputs = nn.ModuleList(nn.Linear(width, hidden) for width in widths)
        self.blocks = nn.ModuleList(
            nn.ModuleList(
                nn.Conv1d(hidden, hidden, 3, padding=dilation, dilation=dilation) for dilation in (1, 2, 4, 8)
            )
            for _ in widths
        )
        self.norms = nn.ModuleList(nn.ModuleList(nn.LayerNorm(hidden) for _ in range(5)) for _ in widths)
        self.heads = nn.ModuleList(nn.Linear(3 * hidden, classes) for _ in widths)
        self.dropout = nn.Dropout(0.1)

    def forward(self, labels: torch.Tensor | None = None, **inputs: torch.Tensor) -> Any:
        parts = []
        for name, first, blocks, norms, head in zip(
            NAMES, self.inputs, self.blocks, self.norms, self.heads, strict=True
        ):
            hidden = self.dropout(first(inputs[f"{name}_features"]))
            for block, norm in zip(blocks, norms, strict=False):
                hidden = hidden + self.dropout(F.gelu(block(norm(hidden).transpose(1, 2)).transpose(1, 2)))
            hidden = norms[-1](hidden)
            read = torch.cat((hidden.mean(1), hidden.std(1), hidden.amax(1)), dim=-1)
            parts.append(head(self.dropout(read)))
        logits = torch.stack(parts).sum(0)
        if labels is None:
            return {"logits": logits}
        alone = torch.stack([F.cross_entropy(part, labels) for part in parts]).mean()
        return {"logits": logits, "loss": F.cross_entropy(logits, labels) + 0.5 * alone}


def build(variant: str, widths: Sequence[int]) -> nn.Module:
    """A new model of one row of the table."""
    if variant.startswith("two plain"):
        return LateTCNs(widths)
    parts = {name: {"feature_size": width, "feature_norm": "none"} for name, width in zip(NAMES, widths, strict=True)}
    fields = VARIANTS[variant][0]
    return CLCRForSequenceClassification(
        CLCRConfig(extra_configs=parts, num_labels=27, hidden_size=128, shared_rank=64, **fields)
    )


def run(variant: str, seed: int, path: Path, steps: int, learning_rate: float) -> dict[str, Any]:
    """Trains one model and measures it on the test subjects."""
    torch.set_num_threads(1)
    torch.manual_seed(seed)
    values, labels, subjects = load(path)
    train = np.flatnonzero(np.isin(subjects, TRAIN))
    model = build(variant, [values[name].shape[-1] for name in NAMES])
    optimiser = torch.optim.AdamW(model.parameters(), learning_rate, weight_decay=0.05)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, learning_rate, total_steps=steps, pct_start=0.1)
    augmentation, rng = SequenceAugmentation(), np.random.default_rng(seed)
    ones = {name: np.ones(values[name].shape[-1]) for name in NAMES}
    started, order = time.perf_counter(), np.array([], dtype=int)
    model.train()
    for _ in range(steps):
        if len(order) < 32:
            order = np.concatenate((order, rng.permutation(train)))
        rows, order = order[:32], order[32:]
        clips = [{name: values[name][row] for name in NAMES} for row in rows]
        if VARIANTS[variant][1]:
            clips = [augmentation.augment(clip, ones, rng) for clip in clips]
        batch = {f"{name}_features": torch.from_numpy(np.stack([clip[name] for clip in clips])) for name in NAMES}
        loss = model(**batch, labels=torch.from_numpy(labels[rows]))["loss"]
        optimiser.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimiser.step()
        schedule.step()
    record = {"variant": variant, "seed": seed, **measure(model.eval(), values, labels, subjects)}
    record |= {
        "steps": steps,
        "learning_rate": learning_rate,
        "seconds": round(time.perf_counter() - started, 1),
        "versions": versions("clcr-hf", "torch", "transformers", "numpy"),
        "command": shlex.join(["python", "benchmarks/utd_mhad.py", *sys.argv[1:]]),
    }
    return record


@torch.no_grad()
def measure(
    model: nn.Module, values: dict[str, np.ndarray], labels: np.ndarray, subjects: np.ndarray
) -> dict[str, Any]:
    """Accuracy on the test subjects; of CLCR at the shares that are best for subject 7, and of each part alone."""

    def answer(who: Sequence[int]) -> tuple[dict[str, np.ndarray], np.ndarray]:
        rows = np.flatnonzero(np.isin(subjects, who))
        found = model(**{f"{name}_features": torch.from_numpy(values[name][rows]) for name in NAMES})
        logits = found["logits"].numpy()
        clcr = isinstance(model, CLCRForSequenceClassification)
        return parts_of(model, logits, found.joint_logits.numpy()) if clcr else {"": logits}, labels[rows]

    parts, truth = answer(TEST)
    shares = {name: 1.0 for name in parts}
    if len(parts) > 1:
        shares = find_shares(model.config, *answer(VALIDATION))["shares"]
    accuracy = {name: float((part.argmax(-1) == truth).mean()) for name, part in parts.items()}
    mixed = sum(shares[name] * part for name, part in parts.items())
    found = {"accuracy": float((mixed.argmax(-1) == truth).mean()), "shares": shares}
    return found | {f"accuracy_{name.replace(' ', '_')}": value for name, value in accuracy.items() if len(parts) > 1}


def table(records: Sequence[dict[str, Any]]) -> str:
    """Markdown: mean and standard deviation over seeds."""
    lines = ["| model | runs | test accuracy | own evidence alone | joint path alone |", "|---|---|---|---|---|"]
    for variant in VARIANTS:
        runs = [each for each in records if each["variant"] == variant]
        if runs:
            columns = ("accuracy", "accuracy_own_evidence", "accuracy_joint_path")
            lines.append(f"| {variant} | {len(runs)} | {' | '.join(_spread(runs, each) for each in columns)} |")
    return "\n".join(lines)


def _spread(runs: Sequence[dict[str, Any]], name: str) -> str:
    values = np.array([each[name] for each in runs if name in each])
    if not len(values):
        return ""
    return f"{values.mean():.3f}" + (f" ± {values.std(ddof=1):.3f}" if len(values) > 1 else "")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=DATA / "utd-mhad" / "utd_mhad.npz")
    parser.add_argument("--variants", nargs="+", choices=list(VARIANTS), default=list(VARIANTS), metavar="NAME")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2, 3, 4])
    parser.add_argument("--steps", type=int, default=600)
    parser.add_argument("--learning-rate", type=float, default=2e-3)
    parser.add_argument("--output", type=Path, help="JSON lines; runs that it holds are not done again")
    parser.add_argument("--table", type=Path, help="print the table of this file; nothing is trained")
    options = parser.parse_args()
    records = read_runs(options.table or options.output)
    if options.table is None:
        done = {(each["variant"], each["seed"]) for each in records}
        for seed in options.seeds:
            for variant in options.variants:
                if (variant, seed) in done:
                    continue
                records.append(run(variant, seed, options.data, options.steps, options.learning_rate))
                print(
                    {name: value for name, value in records[-1].items() if name not in ("versions", "command")},
                    flush=True,
                )
                add_run(options.output, records[-1])
    print(table(records))


if __name__ == "__main__":
    main()
