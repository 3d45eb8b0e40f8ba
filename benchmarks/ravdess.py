"""RAVDESS: acted emotion from face and voice, tested on actors that the model has never met.

1,440 clips, 24 actors, 8 emotions. Six folds of four actors (1-4, 5-8, ...); each is tested once by a model trained on
the other twenty actors, on a fixed schedule: nothing looks at the test actors. `--select` picks the settings of each
fold by cross-validation inside its twenty training actors.

    python benchmarks/ravdess.py                                  # baselines and CLCR, all seeds
    python benchmarks/ravdess.py --parts baselines clcr subsets ablations --output benchmarks/results/ravdess.json
    python benchmarks/ravdess.py --select --output benchmarks/results/ravdess_selection.json

Data: `ravdess_av.npz` and `ravdess_logmel32.npz` under `--data` (`$CLCR_REAL_DATA/ravdess`). Modalities of the model:
`vision` (35 facial action units, mean of the clip: one token), `audio` (log-mel) and `speech` (a user-named modality:
speech embeddings). Of the two sounds, silence before and after the sentence is cut off and the rest divided into equal
segments, each a token of the segment's mean and standard deviation over time.
"""

import argparse
import json
import multiprocessing
import os
import platform
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import Executor, ProcessPoolExecutor
from dataclasses import asdict, dataclass, replace
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
import sklearn
import torch
import transformers
from scipy.special import log_softmax
from sklearn.discriminant_analysis import LinearDiscriminantAnalysis
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import f1_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from tables import DATA, MEL_RATE, SPEECH_RATE, cut, segment, sounding_part, summarise, trim
from torch.nn import functional as F

from clcr_hf import CLCRConfig, CLCRForSequenceClassification
from clcr_hf.training.shares import parts_of

PARTS = ("baselines", "clcr", "help", "subsets", "ablations", "transductive")
EMOTIONS = ("neutral", "calm", "happy", "sad", "angry", "fearful", "disgust", "surprised")
SHRINKAGES = (0.01, 0.03, 0.1, 0.2, 0.3, 0.5, 0.7, 0.9)
NUM_FOLDS = 6
ACTORS_PER_FOLD = 4
MODALITIES = ("vision", "audio", "speech")
ANSWER = "answer"


@dataclass(frozen=True)
class Settings:
    """What `train` needs besides the data. Chosen on training actors only (`--select`)."""

    modalities: tuple[str, ...] = MODALITIES
    hidden_size: int = 128
    tcn_dilations: tuple[tuple[int, ...], ...] = ((1,), (1,), (1,))
    dropout: float = 0.3
    modality_dropout: float = 0.2
    label_smoothing: float = 0.1
    lambda_intra: float = 0.001
    lambda_inter: float = 0.001
    epochs: int = 20
    batch_size: int = 128
    learning_rate: float = 4e-3
    weight_decay: float = 0.05
    mixup: float = 0.4  # both parameters of the Beta distribution; 0 switches it off
    noise: float = 0.3  # standard deviation, in units of the standardised features
    overrides: tuple[tuple[str, Any], ...] = ()  # further fields of CLCRConfig: the ablations


@dataclass(frozen=True)
class Clips:
    """All clips: `values[m] (N, T, D)` float32, what CLCR reads, `vectors[m] (N, D)` float32, what the baselines read,
    `labels` and `actors` (1 to 24), `(N,)` int64."""

    values: dict[str, np.ndarray]
    vectors: dict[str, np.ndarray]
    labels: np.ndarray
    actors: np.ndarray

    @property
    def folds(self) -> np.ndarray:
        """Fold of each clip, 0 to 5."""
        return (self.actors - 1) // ACTORS_PER_FOLD


def load(folder: Path) -> Clips:
    """Read both files; their rows are the same clips in the same order."""
    faces, mels = np.load(folder / "ravdess_av.npz"), np.load(folder / "ravdess_logmel32.npz")
    if not np.array_equal(faces["name"], mels["name"]):
        raise ValueError(f"ravdess_av.npz and ravdess_logmel32.npz in {folder} list different clips")
    speech = cut(faces["oww_emb"], faces["oww_len"])
    mel = cut(mels["mel"], mels["mel_len"])
    parts = [sounding_part(clip) for clip in mel]
    mel = [trim(clip, MEL_RATE, part) for clip, part in zip(mel, parts, strict=True)]
    speech = [trim(clip, SPEECH_RATE, part) for clip, part in zip(speech, parts, strict=True)]
    units = faces["au35"].astype(np.float32)
    return Clips(
        values={
            "vision": units[:, None],
            "audio": np.stack([segment(clip) for clip in mel]),
            "speech": np.stack([segment(clip) for clip in speech]),
        },
        vectors={
            "vision": units,
            "audio": np.stack([summarise(clip) for clip in mel]),
            "speech": np.stack([summarise(clip) for clip in speech]),
        },
        labels=faces["emotion"].astype(np.int64),
        actors=faces["actor"].astype(np.int64),
    )


def normalise_by_actor(clips: Clips) -> Clips:
    """Every feature standardised within its actor's own clips. Transductive: it needs many unlabelled clips of a test
    actor at once, so its figures stand in rows of their own."""

    def normalise(array: np.ndarray) -> np.ndarray:
        result = np.empty_like(array)
        for actor in np.unique(clips.actors):
            rows = clips.actors == actor
            result[rows] = scale(array[rows], array[rows])
        return result

    values = {name: normalise(array) for name, array in clips.values.items()}
    return replace(clips, values=values, vectors={name: normalise(array) for name, array in clips.vectors.items()})


def scale(array: np.ndarray, reference: np.ndarray) -> np.ndarray:
    """`array (..., D)` less the column means of `reference`, over its column spreads."""
    columns = reference.reshape(-1, reference.shape[-1])
    return (array - columns.mean(axis=0)) / (columns.std(axis=0) + 1e-3)


# -- CLCR ------------------------------------------------------------------------------------------------------------


def make_config(settings: Settings, widths: dict[str, int]) -> CLCRConfig:
    """The model's configuration. The face is one vector a clip, so it needs no TCN: it goes to every level as it is."""
    parts: dict[str, dict[str, Any]] = {}
    for name in settings.modalities:
        # `standardise` has scaled the features; a layer norm would take away how loud a token is.
        parts[name] = {"feature_size": widths[name], "feature_norm": "none"}
        if name == "vision":
            parts[name]["source"] = "taps"
        else:
            parts[name]["tcn_dilations"] = [list(stage) for stage in settings.tcn_dilations]
    return CLCRConfig(
        vision_config=parts.get("vision"),
        audio_config=parts.get("audio"),
        extra_configs={name: parts[name] for name in parts if name == "speech"},
        hidden_size=settings.hidden_size,
        dropout=settings.dropout,
        modality_dropout=settings.modality_dropout,
        label_smoothing=settings.label_smoothing,
        lambda_intra=settings.lambda_intra,
        lambda_inter=settings.lambda_inter,
        num_labels=len(EMOTIONS),
        problem_type="single_label_classification",
        **dict(settings.overrides),
    )


def to_inputs(values: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Keyword arguments of the model; the face's vector `(B, 1, D)` becomes its three levels `(B, 3, 1, D)`."""
    return {
        f"{name}_features": array[:, None].expand(-1, 3, -1, -1) if name == "vision" else array
        for name, array in values.items()
    }


def train(clips: Clips, rows: np.ndarray, settings: Settings, seed: int) -> tuple[CLCRForSequenceClassification, dict]:
    """A model trained on `rows` for a fixed number of epochs (AdamW, one-cycle schedule, mixup, noise), and the inputs
    of all clips `{modality: (N, T, D)}`, standardised by the training rows."""
    torch.manual_seed(seed)
    rng = np.random.default_rng(seed)
    data = {name: torch.from_numpy(scale(clips.values[name], clips.values[name][rows])) for name in settings.modalities}
    labels = torch.from_numpy(clips.labels)
    widths = {name: values.shape[-1] for name, values in data.items()}
    model = CLCRForSequenceClassification(make_config(settings, widths)).train()
    optimizer = torch.optim.AdamW(model.parameters(), settings.learning_rate, weight_decay=settings.weight_decay)
    steps = len(rows) // settings.batch_size
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, settings.learning_rate, total_steps=steps * settings.epochs, pct_start=0.1
    )
    for _ in range(settings.epochs):
        shuffled = rng.permutation(rows)
        for step in range(steps):
            batch = shuffled[step * settings.batch_size : (step + 1) * settings.batch_size]
            share = float(rng.beta(settings.mixup, settings.mixup)) if settings.mixup else 1.0
            share, order = max(share, 1.0 - share), torch.randperm(len(batch))
            mixed = {}
            for name, values in data.items():
                here = share * values[batch] + (1.0 - share) * values[batch][order]
                mixed[name] = here + settings.noise * torch.randn_like(here)
            classes = F.one_hot(labels[batch], len(EMOTIONS)).float()
            target = share * classes + (1.0 - share) * classes[order]
            loss = model(**to_inputs(mixed), labels=target).loss
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
    return model.eval(), data


@torch.no_grad()
def predict(
    model: CLCRForSequenceClassification, data: dict[str, torch.Tensor], rows: np.ndarray
) -> dict[str, np.ndarray]:
    """Log probabilities `(len(rows), 8)`: of the answer (`ANSWER`), and of joint path and own evidence each by itself
    where the model has both. Both have equal shares in the answer, for there is no validation that could say."""
    found = model(**to_inputs({name: values[rows] for name, values in data.items()}))
    parts = {ANSWER: found.logits.numpy()}
    if model.config.effective_own_share not in (0, 1):
        parts |= parts_of(model, found.logits.numpy(), found.joint_logits.numpy())
    return {name: log_softmax(logits, axis=-1) for name, logits in parts.items()}


def score(log_probabilities: np.ndarray, labels: np.ndarray) -> dict[str, float]:
    """Accuracy, macro F1 and mean negative log-likelihood."""
    predicted = log_probabilities.argmax(axis=1)
    return {
        "accuracy": float((predicted == labels).mean()),
        "macro_f1": float(f1_score(labels, predicted, average="macro")),
        "nll": float(-log_probabilities[np.arange(len(labels)), labels].mean()),
    }


def run_clcr(
    clips: Clips, train_rows: np.ndarray, test_rows: np.ndarray, settings: Settings, seed: int
) -> dict[str, np.ndarray]:
    """Train on `train_rows`, [`predict`] `test_rows`. On one thread, so that workers do not fight."""
    torch.set_num_threads(1)
    model, data = train(clips, train_rows, settings, seed)
    return predict(model, data, test_rows)


# -- protocol --------------------------------------------------------------------------------------------------------


def folds(clips: Clips) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Training and test rows of each fold: no actor in both."""
    for fold in range(NUM_FOLDS):
        yield np.flatnonzero(clips.folds != fold), np.flatnonzero(clips.folds == fold)


def mean_over_folds(scores: Sequence[dict[str, float]]) -> dict[str, Any]:
    means = {key: float(np.mean([fold[key] for fold in scores])) for key in scores[0]}
    return {**means, "folds": [fold["accuracy"] for fold in scores]}


def logistic_regression(vectors: np.ndarray, clips: Clips, rows: np.ndarray, strength: float) -> Any:
    """Fitted on the standardised `vectors` of `rows`; `strength` is the inverse penalty C."""
    model = make_pipeline(StandardScaler(), LogisticRegression(C=strength, max_iter=3000))
    return model.fit(vectors[rows], clips.labels[rows])


def baselines(clips: Clips) -> dict[str, dict[str, Any]]:
    """Logistic regression on one vector a clip: action units, and mean and standard deviation over time of the other
    two. C is 0.1, and in rows of their own chosen for each fold as `select` does it."""
    table = {}
    for size in range(1, len(MODALITIES) + 1):
        for names in combinations(MODALITIES, size):
            vectors = np.concatenate([clips.vectors[name] for name in names], axis=1)
            title = "logistic regression, " + " + ".join(names)
            for name, strengths in ((title, [0.1]), (f"{title} (C chosen)", [0.001, 0.01, 0.1, 1.0])):
                scores = []
                for fold, (train_rows, test_rows) in enumerate(folds(clips)):
                    strength = choose_strength(vectors, clips, fold, strengths)
                    model = logistic_regression(vectors, clips, train_rows, strength)
                    scores.append(score(model.predict_log_proba(vectors[test_rows]), clips.labels[test_rows]))
                table[name] = mean_over_folds(scores)
    return table


def late_lda(clips: Clips) -> dict[str, Any]:
    """Linear discriminant analysis of each modality, log probabilities summed; shrinkage chosen for each modality and
    fold as `choose_strength` does it."""
    scores = []
    for fold, (train_rows, test_rows) in enumerate(folds(clips)):
        total = np.zeros((len(test_rows), len(EMOTIONS)))
        for vectors in clips.vectors.values():

            def fitted(shrinkage: float, rows: np.ndarray, vectors: np.ndarray = vectors) -> Any:
                model = make_pipeline(StandardScaler(), LinearDiscriminantAnalysis(solver="lsqr", shrinkage=shrinkage))
                return model.fit(vectors[rows], clips.labels[rows])

            rows, inner = inner_rows(clips, fold)
            likelihoods = {
                each: score(fitted(each, rows).predict_log_proba(vectors[inner]), clips.labels[inner])["nll"]
                for each in SHRINKAGES
            }
            model = fitted(min(SHRINKAGES, key=likelihoods.__getitem__), train_rows)
            total += model.predict_log_proba(vectors[test_rows])
        scores.append(score(log_softmax(total, axis=1), clips.labels[test_rows]))
    return mean_over_folds(scores)


def inner_rows(clips: Clips, fold: int) -> tuple[np.ndarray, np.ndarray]:
    """Rows to fit and to choose on for `fold`: sixteen actors, and the four of the fold paired with it."""
    partner = fold ^ 1
    return np.flatnonzero(~np.isin(clips.folds, (fold, partner))), np.flatnonzero(clips.folds == partner)


def choose_strength(vectors: np.ndarray, clips: Clips, fold: int, strengths: Sequence[float]) -> float:
    """The C with the best likelihood on the fold paired with `fold`, fitted on the other sixteen actors."""
    rows, inner = inner_rows(clips, fold)

    def likelihood(strength: float) -> float:
        model = logistic_regression(vectors, clips, rows, strength)
        return score(model.predict_log_proba(vectors[inner]), clips.labels[inner])["nll"]

    return strengths[0] if len(strengths) == 1 else min(strengths, key=likelihood)


def evaluate(
    clips: Clips, settings: Sequence[Settings], seeds: Sequence[int], title: str, pool: Executor
) -> dict[str, Any]:
    """CLCR over the six folds, `settings[f]` for fold f; mean and standard deviation over seeds of the mean over folds,
    and the accuracy of the seeds' averaged probabilities."""
    start = time.perf_counter()
    runs, total = [], []
    jobs = [
        [pool.submit(run_clcr, clips, *rows, settings[fold], seed) for fold, rows in enumerate(folds(clips))]
        for seed in seeds
    ]
    for seed, seed_jobs in zip(seeds, jobs, strict=True):
        scores, rows = [], np.zeros((len(clips.labels), len(EMOTIONS)))
        for (_, test_rows), job in zip(folds(clips), seed_jobs, strict=True):
            found = job.result()
            rows[test_rows] = found.pop(ANSWER)
            scores.append(score(rows[test_rows], clips.labels[test_rows]))
            for name, part in found.items():
                scores[-1][f"accuracy_{name.replace(' ', '_')}"] = score(part, clips.labels[test_rows])["accuracy"]
        runs.append({"seed": seed, **mean_over_folds(scores)})
        total.append(np.exp(rows))
        print(f"  {title}, seed {seed}: {runs[-1]['accuracy']:.4f}", flush=True)
    summary = {key: float(np.mean([run[key] for run in runs])) for key in runs[0] if key not in ("seed", "folds")}
    spread = float(np.std([run["accuracy"] for run in runs], ddof=1)) if len(runs) > 1 else None
    averaged = np.mean(total, axis=0)
    confusion = np.zeros((len(EMOTIONS), len(EMOTIONS)), dtype=int)
    for probabilities in total:
        np.add.at(confusion, (clips.labels, probabilities.argmax(axis=1)), 1)
    return {
        **summary,
        "accuracy_std": spread,
        "ensemble_accuracy": score(np.log(averaged), clips.labels)["accuracy"],
        "runs": runs,
        "confusion_all_seeds": confusion.tolist(),
        "seconds": round(time.perf_counter() - start, 1),
    }


def select(clips: Clips, candidates: dict[str, Settings], seed: int, pool: Executor) -> dict[str, Any]:
    """One candidate a fold, on inner validation actors. Folds go in pairs (1-2, 3-4, 5-6): a model trained on the
    sixteen actors outside a pair is validated on one fold of it to choose for the other. So the choice for a fold rests
    on a model and a score that never met its actors."""
    likelihood = {name: [0.0] * NUM_FOLDS for name in candidates}
    accuracy = {name: [0.0] * NUM_FOLDS for name in candidates}
    pairs = [np.isin(clips.folds, (first, first + 1)) for first in range(0, NUM_FOLDS, 2)]
    jobs = {
        name: [
            pool.submit(run_clcr, clips, np.flatnonzero(~pair), np.flatnonzero(pair), settings, seed) for pair in pairs
        ]
        for name, settings in candidates.items()
    }
    for name in candidates:
        for number, job in enumerate(jobs[name]):
            first, rows, predictions = 2 * number, np.flatnonzero(pairs[number]), job.result()
            for validation, chosen_for in ((first, first + 1), (first + 1, first)):
                inside = clips.folds[rows] == validation
                result = score(predictions[inside], clips.labels[rows[inside]])
                likelihood[name][chosen_for], accuracy[name][chosen_for] = result["nll"], result["accuracy"]
        print(f"  {name}: accuracy {np.mean(accuracy[name]):.4f}, nll {np.mean(likelihood[name]):.4f}", flush=True)
    chosen = [min(candidates, key=lambda name: likelihood[name][fold]) for fold in range(NUM_FOLDS)]
    return {"chosen": chosen, "validation_nll": likelihood, "validation_accuracy": accuracy}


CANDIDATES = {
    "default": Settings(),
    "regularised": Settings(lambda_intra=0.01, lambda_inter=0.01),
    "more noise": Settings(noise=0.6, epochs=30),
    "narrow": Settings(hidden_size=64, epochs=40, noise=0.5),
    "narrow, more noise": Settings(hidden_size=64, epochs=40, noise=0.9),
    "narrow, regularised": Settings(hidden_size=64, epochs=40, noise=0.9, lambda_intra=0.01, lambda_inter=0.01),
}

# What `--select` chose for folds 1 to 6 (benchmarks/results/ravdess_selection.json).
CHOSEN = ("more noise", "more noise", "regularised", "narrow", "narrow", "more noise")

ABLATIONS: dict[str, dict[str, Any]] = {
    "without hierarchy": {"use_hierarchy": False},
    "without IntraCED": {"use_intraced": False},
    "without InterCAD": {"use_intercad": False},
    "full mix": {"level_mixing": "full_mix"},
    "without L_Intra": {"lambda_intra": 0.0},
    "without L_Inter": {"lambda_inter": 0.0},
    "without both": {"lambda_intra": 0.0, "lambda_inter": 0.0},
    "dense budget": {"dense_budget": True},
    "without private path": {"use_private_path": False},
}


# What the model is given beside the paper's fusion, taken away.
HELP: dict[str, dict[str, Any]] = {
    "without own evidence": {"unimodal_evidence": False},
    "own evidence alone": {"use_joint_path": False},
    "own evidence of means alone": {"unimodal_statistics": ["mean"]},
    "without augmentation": {"mixup": 0.0, "noise": 0.0},
}


def ablate(settings: Settings, switches: dict[str, Any]) -> Settings:
    """`settings` with fields of its own replaced and the rest handed to CLCRConfig."""
    own = {key: value for key, value in switches.items() if key in Settings.__dataclass_fields__}
    return replace(settings, overrides=tuple((k, v) for k, v in switches.items() if k not in own), **own)


def subsets() -> list[tuple[str, ...]]:
    """Every proper subset of the modalities, small ones first."""
    return [names for size in (1, 2) for names in combinations(MODALITIES, size)]


Rows = Iterator[tuple[str, dict[str, Any]]]


def run_parts(clips: Clips, parts: Sequence[str], seeds: Sequence[int], fewer: Sequence[int], pool: Executor) -> Rows:
    """The rows of the table that `parts` asks for, one by one; `fewer` seeds for all but CLCR itself."""
    chosen = [CANDIDATES[name] for name in CHOSEN]
    if "baselines" in parts:
        yield from baselines(clips).items()
        yield "LDA of each modality, summed", late_lda(clips)
    if "clcr" in parts:
        yield "CLCR", evaluate(clips, chosen, seeds, "CLCR", pool)
    changes = (HELP if "help" in parts else {}) | (ABLATIONS if "ablations" in parts else {})
    for name, switches in changes.items():
        settings = [ablate(one, switches) for one in chosen]
        yield f"CLCR, {name}", evaluate(clips, settings, fewer, name, pool)
    if "subsets" in parts:
        for names in subsets():
            title = "CLCR, " + " + ".join(names)
            dropped: dict[str, Any] = {} if len(names) > 1 else {"modality_dropout": 0.0}
            settings = [replace(one, modalities=names, **dropped) for one in chosen]
            yield title, evaluate(clips, settings, fewer, title, pool)
    if "transductive" in parts:
        own = normalise_by_actor(clips)
        for title, row in baselines(own).items():
            if title.count("+") == 2:
                yield f"{title} (per actor)", row
        yield "CLCR (per actor)", evaluate(own, chosen, fewer, "CLCR (per actor)", pool)


def print_table(rows: dict[str, Any]) -> None:
    width = max(map(len, rows), default=0)
    print(f"{'':{width}}  accuracy           macro F1")
    for title, row in rows.items():
        spread = f" +- {row['accuracy_std']:.3f}" if row.get("accuracy_std") is not None else " " * 9
        print(f"{title:{width}}  {row['accuracy']:.3f}{spread}     {row['macro_f1']:.3f}")


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--data", type=Path, default=DATA / "ravdess", help="folder of the two npz files")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--ablation-seeds", type=int, nargs="+", default=[0], help="of all CLCR rows but the first")
    parser.add_argument("--parts", nargs="+", default=["baselines", "clcr"], choices=PARTS)
    parser.add_argument("--select", action="store_true", help="choose settings on inner validation actors and stop")
    parser.add_argument("--workers", type=int, default=os.cpu_count() or 1, help="trainings at a time, a core each")
    parser.add_argument("--output", type=Path, help="JSON file; rows already there under other titles are kept")
    options = parser.parse_args(arguments)
    clips = load(options.data)
    with ProcessPoolExecutor(options.workers, mp_context=multiprocessing.get_context("spawn")) as pool:
        if options.select:
            selection = select(clips, CANDIDATES, 0, pool)
            print("chosen for folds 1 to 6:", selection["chosen"])
            candidates = {name: asdict(settings) for name, settings in CANDIDATES.items()}
            write(options.output, {"selection": selection, "candidates": candidates})
            return
        rows = read_rows(options.output)
        new: dict[str, Any] = {}
        settings = {f"fold {fold + 1}": asdict(CANDIDATES[name]) for fold, name in enumerate(CHOSEN)}
        for title, row in run_parts(clips, options.parts, options.seeds, options.ablation_seeds, pool):
            new[title] = row
            write(options.output, {"settings": settings, "rows": {**rows, **new}})
    print_table(new)


def read_rows(path: Path | None) -> dict[str, Any]:
    """Rows of an earlier run in `path`, so that long runs may be done in parts."""
    return json.loads(path.read_text())["rows"] if path and path.exists() else {}


def write(path: Path | None, record: dict[str, Any]) -> None:
    """`record` and the versions of what made it, as JSON; nothing without a path."""
    if path is None:
        return
    versions = {
        "python": platform.python_version(),
        "torch": torch.__version__,
        "transformers": transformers.__version__,
        "scikit-learn": sklearn.__version__,
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps({"versions": versions, **record}, indent=1) + "\n")


if __name__ == "__main__":
    main()
