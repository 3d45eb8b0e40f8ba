"""Twelve generated sets that nobody tuned the defaults to: is a model trained as a user would train it ever worse than
a constant, or than ridge or logistic regression on mean features?

    python benchmarks/stress_sets.py --output benchmarks/results/stress_sets.jsonl
    python benchmarks/stress_sets.py --quick                   # three sets
    python benchmarks/stress_sets.py --sets UTD-MHAD RAVDESS "CMU-MOSI utterances"     # real, as published
    python benchmarks/stress_sets.py --table benchmarks/results/stress_sets.jsonl

Each set is written as a Parquet table with columns `<modality>_features`, `label` and `split`, and trained on by what
`examples/run_sentiment.py --data_file TABLE` runs, with all defaults; validation is carved from its training rows. The
figure is the mean absolute error of scores and the share of wrong classes, on 1,000 test rows, and of the difference to
each baseline a bootstrap interval over these rows (95 %). A set fails where that interval lies above 0.
"""

import argparse
import shlex
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
from records import add_run, read_runs
from tables import DATA, REAL, write

from clcr_hf.data.folders import versions
from clcr_hf.modeling_clcr import CLCRPreTrainedModel
from clcr_hf.training.arguments import parse_args
from clcr_hf.training.baselines import Baselines
from clcr_hf.training.build import load_processor
from clcr_hf.training.data import load_data
from clcr_hf.training.rows import prepare
from clcr_hf.training.run import build_trainer, choose_columns, run_training

TEST_ROWS = 1000
# None of it changes the model.
QUIET = {"do_predict": False, "baselines": False, "disable_tqdm": True, "use_cpu": True, "report_to": "none"}
QUICK = ("mixed units", "classes 1 to 20", "sixty rows")


@dataclass(frozen=True)
class StressSet:
    """
    How a set is drawn. Each clip has a latent vector (12-d, standard normal); the columns of each modality are a random
    mix of its own half of that vector, plus noise at each step; the label is a function of a weighted sum.

    Args:
        label: of the weighted sum `(N,)` (standard normal, 10 % of its variance noise) and a generator.
        widths: columns of each modality.
        rows: of training. steps: fewest and most steps, drawn evenly over their logarithm.
        noise: spread of each step, where that of a column's means is about 1.
        units: powers of ten that columns are scaled by, and shifted in these units.
        informative: share of columns that hold anything; the others are noise alone.
        silent: modalities that are noise alone. missing: share of clips that lack a modality.
        wild: constant and heavy-tailed columns beside the others.
    """

    label: Callable[[np.ndarray, np.random.Generator], np.ndarray] = lambda score, rng: score
    widths: Mapping[str, int] = field(default_factory=lambda: {"gaze": 8, "pose": 12})
    rows: int = 400
    steps: tuple[int, int] = (10, 30)
    noise: float = 1.0
    units: tuple[float, float] = (0.0, 0.0)
    informative: float = 1.0
    silent: tuple[str, ...] = ()
    missing: float = 0.0
    wild: bool = False


def _five(score: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    return np.clip(np.round(2 * (3 + score)) / 2, 1, 5)


def _hundred(score: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    return 100 / (1 + np.exp(-1.5 * score))


def _classes(*shares: float) -> Callable[[np.ndarray, np.random.Generator], np.ndarray]:
    """Class names by the quantiles of the score; the last class is the highest."""
    edges = np.cumsum(shares)[:-1] / np.sum(shares)
    return lambda score, rng: np.array([f"class {number}" for number in np.digitize(score, np.quantile(score, edges))])


SETS: dict[str, StressSet] = {
    "mixed units": StressSet(units=(-2, 2)),
    "scores 1 to 5": StressSet(_five),
    "scores 0 to 100": StressSet(_hundred, units=(-1, 1)),
    "skewed scores": StressSet(lambda score, rng: np.exp(1.2 * score)),
    "classes 1 to 20": StressSet(_classes(20, 1), rows=600),
    "three columns": StressSet(_classes(1, 1, 1, 1), widths={"gaze": 3}),
    "700 columns": StressSet(widths={"face": 700}, steps=(5, 15), informative=0.05, rows=300),
    "lengths 1 to 1,000": StressSet(_classes(1, 1), steps=(1, 1000), rows=300),
    "a modality of noise": StressSet(widths={"gaze": 8, "pose": 12, "pulse": 64}, silent=("pulse",)),
    "sixty rows": StressSet(rows=60),
    "missing modalities": StressSet(_classes(1, 1, 1), missing=0.4),
    "constant and wild columns": StressSet(wild=True, units=(-2, 2)),
}


def draw(name: str, test_rows: int = TEST_ROWS) -> dict[str, list[Any]]:
    """The columns of the set: `<modality>_features` (float32 `(T, D)` or None), `label`, `split`."""
    spec, number = SETS[name], list(SETS).index(name)
    world, rng = np.random.default_rng([number, 0]), np.random.default_rng([number, 1])
    count, names = spec.rows + test_rows, list(spec.widths)
    latent = rng.standard_normal((count, 12))
    weights = world.standard_normal(12)
    score = latent @ weights / np.linalg.norm(weights)
    score = np.sqrt(0.9) * score + np.sqrt(0.1) * rng.standard_normal(count)
    low, high = np.log(spec.steps)
    steps = np.exp(rng.uniform(low, high, count)).round().astype(int)
    absent = rng.random((count, len(names))) < spec.missing
    absent[np.arange(count), rng.integers(0, len(names), count)] = False
    columns: dict[str, list[Any]] = {}
    for place, (modality, width) in enumerate(spec.widths.items()):
        own = latent[:, place :: len(names)] if modality not in spec.silent else 0 * latent
        mix = world.standard_normal((own.shape[1], width)) / np.sqrt(own.shape[1])
        mix[:, world.random(width) >= spec.informative] = 0
        unit = 10.0 ** world.uniform(*spec.units, width)
        shift = world.standard_normal(width)
        values = []
        for row in range(count):
            clip = own[row] @ mix + shift + spec.noise * rng.standard_normal((steps[row], width))
            if spec.wild:
                clip = np.hstack((clip, np.full((len(clip), 2), 7.0), rng.standard_t(1, (len(clip), 4))))
            clip[:, :width] *= unit
            values.append(None if absent[row, place] else clip.astype(np.float32))
        columns[f"{modality}_features"] = values
    columns["label"] = list(spec.label(score, rng))
    columns["split"] = ["train"] * spec.rows + ["test"] * test_rows
    return columns


def columns_of(name: str, root: Path, test_rows: int) -> dict[str, list[Any]]:
    """The columns of a set, drawn with so many test rows, or read from the folder of real data."""
    return REAL[name](root) if name in REAL else draw(name, test_rows)


def run(
    name: str, seed: int, extra: Sequence[str] = (), test_rows: int = TEST_ROWS, root: Path = DATA
) -> dict[str, Any]:
    """Trains on one set as a user would and measures it on the test rows. `extra`: more arguments of the script."""
    started, columns_of_set = time.perf_counter(), columns_of(name, root, test_rows)
    with TemporaryDirectory() as folder:
        table, output = Path(folder) / "set.parquet", str(Path(folder) / "model")
        write(columns_of_set, table)
        words = ["--data_file", str(table), "--output_dir", output, "--seed", str(seed), *extra]
        words += ["--group_column", "person"] if "person" in columns_of_set else []
        words += [f"--{name}={value}" for name, value in QUIET.items()]
        model_args, data_args, training_args = parse_args(words)
        run_training(model_args, data_args, training_args)
        data = load_data(data_args)
        columns, labels = choose_columns(model_args, data), data.labels
        model, processor = CLCRPreTrainedModel.load_with_head(output), load_processor(output, data_args)
        datasets = prepare(data.splits, columns, data_args, processor, training=False)
        found = build_trainer(model, processor, {}, labels, training_args).predict(datasets["test"])
        baselines = Baselines(data.splits["train"], columns, labels, group_column=data_args.group_column)
        answers, truth = baselines.answers(data.splits["test"])
    answers["model"] = found.predictions[0] if isinstance(found.predictions, tuple) else found.predictions
    losses = {each: _losses(logits, truth, labels.problem_type) for each, logits in answers.items()}
    record = {
        "set": name,
        "seed": seed,
        "metric": "mae" if labels.problem_type == "regression" else "error",
        **{each: float(values.mean()) for each, values in losses.items()},
        "baseline": baselines.linear,
        "seconds": round(time.perf_counter() - started, 1),
        "versions": versions("clcr-hf", "torch", "transformers", "numpy", "scikit-learn"),
        "command": shlex.join(["python", "benchmarks/stress_sets.py", *sys.argv[1:]]),
    }
    for each in ("constant", "linear"):
        record[f"to_{each}"] = bootstrap(losses["model"] - losses[each])
    return record


def _losses(logits: np.ndarray, truth: np.ndarray, problem_type: str) -> np.ndarray:
    if problem_type == "regression":
        return np.abs(logits.reshape(-1) - truth)
    return (logits.argmax(-1) != truth).astype(float)


def bootstrap(differences: np.ndarray, draws: int = 2000) -> list[float]:
    """Mean of the differences, and its 95 % interval over rows drawn anew: `[mean, lowest, highest]`."""
    rng = np.random.default_rng(0)
    means = [differences[rng.integers(0, len(differences), len(differences))].mean() for _ in range(draws)]
    return [float(differences.mean()), *map(float, np.quantile(means, [0.025, 0.975]))]


def fails(record: Mapping[str, Any]) -> list[str]:
    """The baselines that the model is worse than, by more than the interval."""
    return [each for each in ("constant", "linear") if record[f"to_{each}"][1] > 0]


def table(records: Sequence[Mapping[str, Any]]) -> str:
    """Markdown, a line a run."""
    lines = [
        "| set | seed | metric | model | constant | linear | model - constant | model - linear | worse than |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for each in records:
        gaps = ["{:+.3f} ({:+.3f} to {:+.3f})".format(*each[f"to_{one}"]) for one in ("constant", "linear")]
        values = [f"{each[one]:.3f}" for one in ("model", "constant", "linear")]
        cells = [each["set"], str(each["seed"]), each["metric"], *values, *gaps, ", ".join(fails(each))]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sets", nargs="+", choices=[*SETS, *REAL], default=None, metavar="NAME")
    parser.add_argument("--data", type=Path, default=DATA, help="folder of real data")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--quick", action="store_true", help=f"the sets {', '.join(QUICK)} alone")
    parser.add_argument("--arguments", default="", help="more arguments of the training script, to try others")
    parser.add_argument("--output", type=Path, help="JSON lines; runs that it holds are not done again")
    parser.add_argument("--table", type=Path, help="print the table of this file; nothing is trained")
    options = parser.parse_args()
    records = read_runs(options.table or options.output)
    if options.table is None:
        done = {(each["set"], each["seed"]) for each in records}
        for seed in options.seeds:
            for name in options.sets or (QUICK if options.quick else SETS):
                if (name, seed) in done:
                    continue
                records.append(run(name, seed, shlex.split(options.arguments), root=options.data))
                add_run(options.output, records[-1])
                print(table(records[-1:]).splitlines()[-1], flush=True)
    print(table(records))


if __name__ == "__main__":
    main()
