"""Planted tokens: few moments of different modalities agree, and only they tell. Does CLCR find them, and does it pay?

    python benchmarks/planted_tokens.py --quick                   # two minutes: agreement against version 0.1
    python benchmarks/planted_tokens.py --oracles                 # what ridge regression reaches if told the truth
    python benchmarks/planted_tokens.py --output benchmarks/results/planted_tokens.jsonl
    python benchmarks/planted_tokens.py --table benchmarks/results/planted_tokens.jsonl

The task is generated, so its truth is known (`planted_task.py`). Every model learns on `--sizes` samples with the same
settings, its epoch is chosen on a validation set, and the test set is read once. A run is one line of `--output`; what
is there already is not run again.
"""

import argparse
import copy
import hashlib
import json
import multiprocessing
import shlex
import sys
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers
from planted_task import LEVELS, MODALITIES, WIDTH, Samples, generate, oracle_scores, r_squared
from records import add_run, read_runs
from scipy import stats
from torch import nn
from torch.nn import functional as F

from clcr_hf import CLCRConfig, CLCRForSequenceClassification
from clcr_hf.alignment import alignment_loss
from clcr_hf.configuration_clcr import VERSION_01
from clcr_hf.data.folders import versions
from clcr_hf.hierarchy import SemanticHierarchyEncoder
from clcr_hf.modeling_clcr import CLCRForPreTraining, CLCRPreTrainedModel
from clcr_hf.training.shares import OWN, find_shares, parts_of

VALIDATION, TEST = 1024, 4096
Batch = dict[str, torch.Tensor]


# -- models ----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Settings:
    """How a model is built and trained, the same for every row (`--set` changes it)."""

    hidden_size: int = 32
    heads: int = 4
    dropout: float = 0.1
    feature_norm: str = "none"
    alignment_epochs: int = 10
    alignment_lr: float = 1e-2
    negatives: int = 8
    epochs: int = 20
    lr: float = 3e-3
    weight_decay: float = 0.05
    batch_size: int = 128
    transformer_layers: int = 2


# Longer training sets need fewer epochs.
SETTINGS = {2048: Settings(), 8192: Settings(alignment_epochs=4, epochs=15)}


@dataclass(frozen=True)
class Variant:
    """A row of the table: the configuration's fields, whether it has the alignment stage, and the kind of model."""

    overrides: dict[str, Any]
    aligned: bool = True
    transformer: bool = False


def variants() -> dict[str, Variant]:
    """All rows; the first is what the others are compared with."""
    agreement: dict[str, Any] = {"evidence": "agreement"}
    rows = {
        "agreement": Variant(agreement),
        "version 0.1": Variant({**VERSION_01, "private_rank": "half"}, aligned=False),
        "default": Variant({}, aligned=False),
        "default, gates of the paper": Variant({"private_gate_start": 0.0, "private_gate_floor": 0.0}, aligned=False),
        "transformer": Variant({}, aligned=False, transformer=True),
        "transformer, aligned": Variant({}, transformer=True),
        "norm, aligned": Variant({"unimodal_evidence": False, "alignment_coef": 0.1}),
    }
    changes: dict[str, dict[str, Any]] = {
        "dense budget": {"dense_budget": True},
        "without InterCAD": {"use_intercad": False},
        "without IntraCED": {"use_intraced": False},
        "full mix": {"level_mixing": "full_mix"},
        "without hierarchy": {"use_hierarchy": False},
        "without private path": {"use_private_path": False},
        "with own evidence": {"unimodal_evidence": True},
        "without level evidence": {"level_evidence": False},
        "with sigmoid scores": {"token_scores": "sigmoid"},
        "private rank d/2": {"private_rank": "half"},
    }
    rows |= {f"agreement, {name}": Variant({**agreement, **change}) for name, change in changes.items()}
    rows["agreement, without alignment stage"] = Variant(agreement, aligned=False)
    rows["agreement, without alignment at all"] = Variant({**agreement, "alignment_coef": 0.0}, aligned=False)
    for gamma in (0.25, 0.5, 0.75, 1.25, 1.5):
        rows[f"agreement, gamma {gamma:g}"] = Variant({**agreement, "budget_scale": gamma})
    return rows


def make_config(variant: Variant, settings: Settings) -> CLCRConfig:
    """The model's configuration; `private_rank` "half" stands for half the width, version 0.1's."""
    modality = {"feature_size": WIDTH, "source": "taps", "feature_norm": settings.feature_norm}
    overrides = dict(variant.overrides)
    if overrides.get("private_rank") == "half":
        overrides["private_rank"] = settings.hidden_size // 2
    return CLCRConfig(
        **{f"{name}_config": dict(modality) for name in MODALITIES},
        hidden_size=settings.hidden_size,
        num_attention_heads=settings.heads,
        dropout=settings.dropout,
        num_labels=1,
        problem_type="regression",
        regression_loss="mse",
        label_scale=None,
        alignment_negatives=settings.negatives,
        **overrides,
    )


class TransformerBaseline(CLCRPreTrainedModel):
    """A transformer over the tokens of all modalities and levels side by side, on CLCR's own token encoders; with
    `aligned`, given the same contrastive loss between projections of its tokens as CLCR's shared coordinates have."""

    def __init__(self, config: CLCRConfig, layers: int, hidden: int, aligned: bool):
        super().__init__(config)
        width, rank = config.hidden_size, config.hidden_size // 2
        self.hierarchy = SemanticHierarchyEncoder(config)
        self.places = nn.Parameter(0.1 * torch.randn(LEVELS, len(MODALITIES), 1, width))
        self.dropout = nn.Dropout(float(config.dropout))
        layer = nn.TransformerEncoderLayer(
            width, config.num_attention_heads, hidden, float(config.dropout), "gelu", batch_first=True, norm_first=True
        )
        self.encoder = nn.TransformerEncoder(layer, layers, nn.LayerNorm(width), enable_nested_tensor=False)
        self.head = nn.Sequential(
            nn.Linear(width, width), nn.GELU(), nn.Dropout(float(config.dropout)), nn.Linear(width, 1)
        )
        self.aligned = aligned
        if aligned:
            self.to_shared = nn.Parameter(torch.linalg.qr(torch.randn(LEVELS, width, rank))[0])
            self.scale = nn.Parameter(torch.ones(LEVELS))
        self.post_init()

    def alignment(self, tokens: torch.Tensor, membership: torch.Tensor, lengths: list[int]) -> torch.Tensor:
        """CLCR's alignment loss of `tokens (B, L, S, d)`."""
        return alignment_loss(tokens @ self.to_shared, self.scale, membership, lengths, self.config.alignment_negatives)

    def forward(self, labels: torch.Tensor | None = None, align_only: bool = False, **inputs: torch.Tensor) -> Any:
        """Inputs as of `CLCRModel`."""
        given = {name: {"features": inputs[f"{name}_features"]} for name in MODALITIES}
        shape = next(iter(inputs.values())).shape
        masks = {name: torch.ones(shape[0], shape[2], dtype=torch.bool, device=self.device) for name in MODALITIES}
        encoded = self.hierarchy(given, masks)
        tokens = self.dropout(encoded.tokens)
        contrast = torch.zeros((), device=tokens.device)
        if self.aligned and self.training:
            contrast = self.alignment(tokens, encoded.membership, encoded.lengths)
        if align_only:
            return transformers.utils.ModelOutput(loss=contrast)
        tokens = tokens.unflatten(2, (len(MODALITIES), -1)) + self.places
        logits = self.head(self.encoder(tokens.flatten(1, 3)).mean(dim=1))
        loss = None if labels is None else F.mse_loss(logits.squeeze(-1), labels) + 0.1 * contrast
        return transformers.utils.ModelOutput(loss=loss, logits=logits)


def build(variant: Variant, settings: Settings) -> nn.Module:
    """A model with new weights; the transformer's hidden layer is as wide as makes it as large as CLCR."""
    config = make_config(variant, settings)
    if not variant.transformer:
        return CLCRForSequenceClassification(config)
    wanted = count(CLCRForSequenceClassification(make_config(variants()["agreement"], settings)))

    def made(hidden: int) -> TransformerBaseline:
        return TransformerBaseline(config, settings.transformer_layers, hidden, variant.aligned)

    each = count(made(17)) - count(made(16))
    return made(max(round((wanted - count(made(16))) / each) + 16, 16))


def count(model: nn.Module) -> int:
    """Number of parameters."""
    return sum(parameter.numel() for parameter in model.parameters())


# -- training --------------------------------------------------------------------------------------------------------


def to_batches(samples: Samples, device: torch.device) -> Batch:
    """Features, as the model calls them, and labels."""
    batch = {f"{name}_features": torch.from_numpy(value).to(device) for name, value in samples.features.items()}
    return {**batch, "labels": torch.from_numpy(samples.labels).to(device)}


def shuffled(data: Batch, size: int, generator: torch.Generator) -> Iterator[Batch]:
    """Whole batches of one epoch, in random order."""
    number = len(data["labels"])
    order = torch.randperm(number, generator=generator).to(data["labels"].device)
    for start in range(0, number - size + 1, size):
        rows = order[start : start + size]
        yield {name: value[rows] for name, value in data.items()}


def fit(
    model: nn.Module, data: Batch, epochs: int, lr: float, settings: Settings, seed: int
) -> Iterator[dict[str, Any]]:
    """Trains in place with AdamW and a one-cycle schedule; yields after each epoch its number, mean loss and, of CLCR,
    the mean share of tokens that the budget allows and the share of budgets that did not bind, by level."""
    size = min(settings.batch_size, len(data["labels"]))
    generator = torch.Generator().manual_seed(seed)
    optimizer = torch.optim.AdamW(model.parameters(), lr, weight_decay=settings.weight_decay)
    steps = epochs * (len(data["labels"]) // size)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, lr, total_steps=steps, pct_start=0.1)
    for epoch in range(epochs):
        model.train()
        seen: dict[str, list[torch.Tensor]] = {"loss": [], "budget": [], "slack": []}
        for batch in shuffled(data, size, generator):
            output = model(**batch)
            optimizer.zero_grad()
            output.loss.backward()
            nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            schedule.step()
            seen["loss"].append(output.loss.detach())
            for name, value in (output.get("budget_statistics") or {}).items():
                seen.setdefault(name, []).append(value)
        means = {
            name: torch.stack(seen[name]).mean(dim=0).tolist() for name in ("loss", "budget", "slack") if seen[name]
        }
        yield {"epoch": epoch + 1, **means}


class _AlignmentStage(nn.Module):
    """The transformer's alignment stage: its loss alone."""

    def __init__(self, model: TransformerBaseline):
        super().__init__()
        self.model = model

    def forward(self, **batch: torch.Tensor) -> Any:
        return self.model(**batch, align_only=True)


def align(model: nn.Module, data: Batch, settings: Settings, seed: int) -> None:
    """The alignment stage, in place; the labels are not looked at."""
    if isinstance(model, TransformerBaseline):
        stage: nn.Module = _AlignmentStage(model)
    else:
        stage = CLCRForPreTraining.around(model)
    for _ in fit(stage, data, settings.alignment_epochs, settings.alignment_lr, settings, seed):
        pass


def train(
    variant: Variant, settings: Settings, sets: Sequence[Samples], seed: int, device: torch.device
) -> tuple[nn.Module, dict[str, Any]]:
    """A model of `variant`, of the epoch that is best on validation, and the record of its training. `sets`: training
    and validation samples, and any others."""
    torch.manual_seed(seed)
    model = build(variant, settings).to(device)
    data, start = to_batches(sets[0], device), time.perf_counter()
    if variant.aligned:
        align(model, data, settings, seed)
    aligned = time.perf_counter()
    curve, best, weights = [], -np.inf, None
    for state in fit(model, data, settings.epochs, settings.lr, settings, seed):
        curve.append({**state, **measure(model, sets[1], device)})
        if curve[-1]["r2"] > best:
            best, weights = curve[-1]["r2"], copy.deepcopy(model.state_dict())
    model.load_state_dict(weights)
    choose_shares(model, sets[1], device)
    record = {
        "parameters": count(model),
        "validation_r2": best,
        "own_share": model.config.own_share if isinstance(model, CLCRForSequenceClassification) else None,
        "curve": curve,
        "seconds_alignment": round(aligned - start, 1),
        "seconds": round(time.perf_counter() - start, 1),
    }
    return model.eval(), record


@torch.no_grad()
def choose_shares(model: nn.Module, samples: Samples, device: torch.device) -> None:
    """Of joint path and own evidence, where the model has both, the shares that are best on these samples."""
    if not isinstance(model, CLCRForSequenceClassification) or model.config.effective_own_share in (0, 1):
        return
    output = model.eval()(**{name: value for name, value in to_batches(samples, device).items() if name != "labels"})
    parts = parts_of(model, output.logits.cpu().numpy(), output.joint_logits.cpu().numpy())
    model.config.own_share = find_shares(model.config, parts, samples.labels)["shares"][OWN]


@torch.no_grad()
def measure(model: nn.Module, samples: Samples, device: torch.device) -> dict[str, Any]:
    """R2 on `samples`; of CLCR also what its budgets and level weights make of the truth."""
    model.eval()
    data = to_batches(samples, device)
    outputs = [
        model(**{name: value[start : start + 1024] for name, value in data.items() if name != "labels"})
        for start in range(0, len(samples.labels), 1024)
    ]
    predicted = torch.cat([output.logits for output in outputs]).squeeze(-1).cpu().numpy()
    found: dict[str, Any] = {"r2": r_squared(predicted, samples.labels)}
    levels = outputs[0].get("level_weights")
    if levels is not None and levels.shape[-1] == LEVELS:
        weights = torch.cat([output.level_weights for output in outputs]).cpu().numpy()
        rows = np.arange(len(weights))
        found["level_accuracy"] = float((weights.argmax(axis=1) == samples.active).mean())
        found["level_weight"] = float(weights[rows, samples.active].mean())
    budgets = outputs[0].get("token_budgets")
    if budgets is not None and len(budgets) == LEVELS:
        parts = [[torch.stack(list(level.values()), dim=1) for level in output.token_budgets] for output in outputs]
        found |= budget_figures(torch.cat([torch.stack(part, dim=2) for part in parts]).cpu().numpy(), samples)
    return found


def budget_figures(activations: np.ndarray, samples: Samples) -> dict[str, Any]:
    """Of `activations (N, M, L, T)`: `participation` (share above 0) and mean `budget_used` by level; mean activation
    of the tokens that agree and of all others; `auc`, the chance that a planted token of the active level has a higher
    one than another token of that level, and `auc_all`, than any other token."""
    agreeing = samples.agreeing
    at_active = np.broadcast_to((samples.active[:, None, None, None] == np.arange(LEVELS)[:, None]), activations.shape)
    return {
        "participation": (activations > 0).mean(axis=(0, 1, 3)).tolist(),
        "budget_used": activations.mean(axis=(0, 1, 3)).tolist(),
        "a_agreeing": float(activations[agreeing].mean()),
        "a_others": float(activations[~agreeing].mean()),
        "auc": auc(activations[agreeing], activations[at_active & ~agreeing]),
        "auc_all": auc(activations[agreeing], activations[~agreeing]),
    }


def auc(positive: np.ndarray, negative: np.ndarray) -> float:
    """Chance that a positive is above a negative; ties count half."""
    ranks = stats.rankdata(np.concatenate((positive, negative)))
    above = ranks[: len(positive)].sum() - len(positive) * (len(positive) + 1) / 2
    return float(above / (len(positive) * len(negative)))


# -- study -----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Job:
    """One run: what, on how many training samples, from which seed, with which settings."""

    variant: str
    size: int
    seed: int
    settings: Settings
    device: str = "cpu"

    @property
    def key(self) -> str:
        """Names the run in the file of results, so that it is not done twice."""
        told = json.dumps([self.variant, asdict(variants()[self.variant]), self.size, self.seed, asdict(self.settings)])
        return hashlib.sha256(told.encode()).hexdigest()[:12]


def run(job: Job) -> dict[str, Any]:
    """Trains and measures one model; what goes into the file of results."""
    torch.set_num_threads(1)
    # The ranks of version 0.1 are asked for on purpose here; they are warned of once a model.
    transformers.utils.logging.set_verbosity_error()
    device = torch.device(job.device)
    sets = generate(job.seed, (job.size, VALIDATION, TEST))
    model, record = train(variants()[job.variant], job.settings, sets, job.seed, device)
    return {
        "key": job.key,
        "variant": job.variant,
        "size": job.size,
        "seed": job.seed,
        "test": measure(model, sets[2], device),
        **record,
        "settings": asdict(job.settings),
        "overrides": variants()[job.variant].overrides,
        "device": torch.cuda.get_device_name() if device.type == "cuda" else "cpu",
        "versions": versions("clcr-hf", "torch", "transformers", "numpy", "scipy"),
        "command": shlex.join(["python", "benchmarks/planted_tokens.py", *sys.argv[1:]]),
    }


def study(jobs: Sequence[Job], workers: int, output: Path | None) -> list[dict[str, Any]]:
    """Runs what `output` does not hold yet, each appended when it is done; the records of all `jobs`."""
    wanted = {job.key for job in jobs}
    done = {each["key"]: each for each in read_runs(output) if each["key"] in wanted}
    missing = [job for job in jobs if job.key not in done]
    if not missing:
        return list(done.values())
    with multiprocessing.get_context("spawn").Pool(min(workers, len(missing))) as pool:
        for record in pool.imap_unordered(run, missing):
            done[record["key"]] = record
            print(_line(record), flush=True)
            add_run(output, _rounded(record))
    return list(done.values())


def _line(record: dict[str, Any]) -> str:
    test = record["test"]
    told = f"{record['variant']:36s} n {record['size']:5d} seed {record['seed']:3d}  R2 {test['r2']:.3f}"
    told += f" (validation {record['validation_r2']:.3f})"
    told += "".join(
        f"  {name} {test[name]:.2f}" for name in ("auc", "a_agreeing", "a_others", "level_accuracy") if name in test
    )
    return f"{told}  {record['parameters']} parameters, {record['seconds']:.0f} s"


def _rounded(value: Any) -> Any:
    """Floats with five digits: the file is read by people too."""
    if isinstance(value, float):
        return float(f"{value:.5g}")
    if isinstance(value, dict):
        return {name: _rounded(item) for name, item in value.items()}
    return [_rounded(item) for item in value] if isinstance(value, list) else value


def paired(first: dict[int, float], second: dict[int, float], level: float = 0.95) -> tuple[float, float, int]:
    """Mean difference `second - first` over the seeds that both have, half the width of its t interval (NaN for one
    seed), and the number of seeds."""
    seeds = sorted(first.keys() & second.keys())
    differences = np.array([second[seed] - first[seed] for seed in seeds])
    if len(seeds) < 2:
        return float(differences.mean()) if seeds else float("nan"), float("nan"), len(seeds)
    half = stats.t.ppf(0.5 + level / 2, len(seeds) - 1) * differences.std(ddof=1) / len(seeds) ** 0.5
    return float(differences.mean()), float(half), len(seeds)


def table(runs: Sequence[dict[str, Any]], reference: str = "agreement") -> str:
    """Markdown, a table a size of the training set: R2, the paired difference to `reference`, budgets and levels. One
    run of a variant, size and seed may be among `runs`, or a ValueError says which has more."""
    counts = Counter((each["variant"], each["size"], each["seed"]) for each in runs)
    twice = [name for name, number in counts.items() if number > 1]
    if twice:
        raise ValueError(f"several runs of one variant, size and seed, in other settings: {twice[0]}; keep them apart")
    blocks = []
    for size in sorted({each["size"] for each in runs}):
        here = [each for each in runs if each["size"] == size]
        scores = {
            name: {each["seed"]: each["test"]["r2"] for each in here if each["variant"] == name} for name in variants()
        }
        titles = ("model", "runs", "R2", "difference, 95 % interval", "participation", "a agreeing / others", "AUC")
        lines = [f"n = {size:,}", "", f"| {' | '.join(titles)} | level found |", "|---" * (len(titles) + 1) + "|"]
        for name, found in scores.items():
            if found:
                own = [each["test"] for each in here if each["variant"] == name]
                lines.append(_row(name, found, scores[reference] if name != reference else {}, own))
        blocks.append("\n".join(lines))
    return "\n\n".join(blocks)


def _row(name: str, found: dict[int, float], reference: dict[int, float], tests: list[dict[str, Any]]) -> str:
    values = np.array(list(found.values()))
    spread = f" ± {values.std(ddof=1):.3f}" if len(values) > 1 else ""
    difference, half, common = paired(reference, found)
    against = f"{difference:+.3f} ± {half:.3f}" if common > 1 else f"{difference:+.3f}" if common else ""

    def mean(key: str, digits: int = 2) -> str:
        given = [np.mean(test[key]) for test in tests if key in test]
        return f"{np.mean(given):.{digits}f}" if given else ""

    both = f"{mean('a_agreeing')} / {mean('a_others')}" if mean("a_others") else ""
    cells = [
        name,
        str(len(values)),
        f"{values.mean():.3f}{spread}",
        against,
        mean("participation"),
        both,
        mean("auc"),
        mean("level_accuracy"),
    ]
    return f"| {' | '.join(cells)} |"


QUICK = Settings()
QUICK_MARGIN = 0.08


def quick(device: str) -> int:
    """Agreement with its alignment stage against the configuration of version 0.1, one seed; 1 if it does not pay."""
    jobs = [Job(name, 2048, 0, QUICK, device) for name in ("agreement", "version 0.1")]
    scores = {}
    for job in jobs:
        record = run(job)
        scores[job.variant] = record["test"]["r2"]
        print(_line(record), flush=True)
    gain = scores["agreement"] - scores["version 0.1"]
    print(f"agreement is {gain:+.3f} of R2 from version 0.1; at least {QUICK_MARGIN:+.2f} is asked for")
    return int(gain < QUICK_MARGIN)


def _settings(words: Sequence[str], size: int) -> Settings:
    kinds = {field.name: type(getattr(Settings(), field.name)) for field in fields(Settings)}
    given = dict(word.split("=", 1) for word in words)
    unknown = sorted(given.keys() - kinds.keys())
    if unknown:
        raise SystemExit(f"--set: no setting named {unknown}; there are {sorted(kinds)}")
    return replace(SETTINGS.get(size, Settings()), **{name: kinds[name](value) for name, value in given.items()})


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="agreement against version 0.1; exit 1 if it does not pay")
    parser.add_argument("--oracles", action="store_true", help="ridge regression told the truth; nothing is trained")
    parser.add_argument(
        "--table", type=Path, help="print the Markdown tables of this file of results; nothing is trained"
    )
    parser.add_argument("--sizes", type=int, nargs="+", default=[2048, 8192], help="training samples")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2, 3, 4])
    parser.add_argument("--variants", nargs="+", choices=list(variants()), metavar="NAME", help="rows; default: all")
    parser.add_argument(
        "--set", nargs="+", default=[], metavar="NAME=VALUE", help="settings other than the chosen ones"
    )
    parser.add_argument("--workers", type=int, default=1, help="runs at a time, a core each")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument(
        "--output", type=Path, help="file of results, a line a run; runs that it holds are not done again"
    )
    options = parser.parse_args(arguments)
    if options.table is not None:
        print(table(read_runs(options.table)))
        return 0
    if options.oracles:
        for size in options.sizes:
            found = [oracle_scores(seed, size) for seed in options.seeds]
            means = {name: np.mean([each[name] for each in found]) for name in found[0]}
            print(f"n {size}: " + ", ".join(f"{name} {value:.3f}" for name, value in means.items()))
        return 0
    if options.quick:
        return quick(options.device)
    names = options.variants or list(variants())
    jobs = [
        Job(name, size, seed, _settings(options.set, size), options.device)
        for size in options.sizes
        for seed in options.seeds
        for name in names
    ]
    print(table(study(jobs, options.workers, options.output)))
    return 0


if __name__ == "__main__":
    sys.exit(main())
