"""CLCR on the generated corpus of talking faces: against single modalities, plain concatenation and its own ablations.

    python benchmarks/talking_faces.py --output benchmarks/results/talking_faces.json

Everything is trained from nothing on generated clips, with the settings of `examples/run_sentiment.py`; the epoch is
chosen on validation, test is read once at the end of each run. Prints a Markdown table and writes every run's figures.
"""

import argparse
import json
import multiprocessing
import os
import shlex
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers
from torch import nn

from clcr_hf import CLCRConfig, CLCRPreTrainedModel, CLCRSequenceClassifierOutput
from clcr_hf.data.folders import versions
from clcr_hf.data.talking_faces.factors import bayes_scores
from clcr_hf.hierarchy import SemanticHierarchyEncoder
from clcr_hf.objective import label_scale, task_loss
from clcr_hf.training import run as recipe
from clcr_hf.training.data import load_data
from clcr_hf.training.rows import prepare

MODALITIES = ("text", "vision", "audio")
INPUTS = {
    "text": ("input_ids", "attention_mask", "token_type_ids"),
    "vision": ("pixel_values", "vision_attention_mask"),
    "audio": ("input_values", "audio_attention_mask"),
}
METRICS = ("mae", "corr", "acc_2_has0", "acc_2_non0", "acc_7")
MAIN = ("CLCR", "text alone", "audio alone", "vision alone", "concatenation")
_DATA: dict[str, Any] = {}


class Concatenation(CLCRPreTrainedModel):
    """Baseline: the same encoders, the mean of each modality's deepest level, side by side, and a head of one hidden
    layer."""

    def __init__(self, config: CLCRConfig):
        super().__init__(config)
        self.hierarchy = SemanticHierarchyEncoder(config)
        self.dropout = nn.Dropout(float(config.dropout))  # of tokens, as in CLCR
        width = config.hidden_size
        self.head = nn.Sequential(
            nn.Dropout(float(config.dropout)),
            nn.Linear(width * len(config.modalities), width),
            nn.GELU(),
            nn.Dropout(float(config.dropout)),
            nn.Linear(width, config.num_labels),
        )
        self.post_init()

    def forward(self, labels: torch.Tensor | None = None, **inputs: torch.Tensor) -> CLCRSequenceClassifierOutput:
        """Inputs as in `CLCRModel`; all modalities must be there."""
        given: dict[str, dict[str, torch.Tensor]] = {}
        masks = {}
        for name in self.config.modalities:
            value, mask = inputs[INPUTS[name][0]], inputs[INPUTS[name][1]].bool()
            key = "input_ids" if name == "text" else "features" if name == "audio" else "values"
            given[name], masks[name] = {key: value}, mask
        encoded = self.hierarchy(given, masks)
        parts = self.dropout(encoded.tokens[:, -1]).split(encoded.lengths, dim=1)
        counts = encoded.mask.split(encoded.lengths, dim=1)
        means = [part.sum(1) / mask.sum(1, keepdim=True) for part, mask in zip(parts, counts, strict=True)]
        logits = self.head(torch.cat(means, dim=-1))
        loss = None if labels is None else task_loss(self.config, logits, labels)
        mean, std = label_scale(self.config, logits)
        return CLCRSequenceClassifierOutput(loss=loss, logits=mean + std * logits)


def variants() -> dict[str, dict[str, Any]]:
    """Name of each row, and the arguments of `examples/run_sentiment.py` behind it."""
    rows: dict[str, dict[str, Any]] = {"CLCR": {}}
    rows |= {f"{name} alone": {"modalities": [name]} for name in ("text", "audio", "vision")}
    rows["concatenation"] = {"model": "concatenation"}
    pairs = [("text", "audio"), ("text", "vision"), ("audio", "vision")]
    rows |= {f"{first} and {second}": {"modalities": [first, second]} for first, second in pairs}
    rows |= {name.replace("_", " "): {"ablation": name} for name in recipe.ABLATIONS}
    return rows


def load(options: argparse.Namespace) -> None:
    """Generates, decodes and keeps the clips, once for all runs."""
    model_args, data_args, run_args = arguments(options, {}, 0)
    data = load_data(data_args, model_args.modalities)
    columns = recipe.choose_columns(model_args, data)
    processor = recipe.build_processor(model_args, data_args, data, columns)
    rows = prepare(data.splits, columns, data_args, processor)
    kept = {name: [items[index] for index in range(len(items))] for name, items in rows.items()}
    _DATA.update(data=data, processor=processor, rows=kept)


def arguments(options: argparse.Namespace, variant: dict[str, Any], seed: int) -> tuple[Any, Any, Any]:
    """What `examples/run_sentiment.py` would parse for this run."""
    words = ["--dataset_dir", str(options.dataset_dir), "--seed", str(seed), "--disable_tqdm", "True"]
    sizes = (options.num_train_clips, options.num_validation_clips, options.num_test_clips)
    for name, size in zip(("train", "validation", "test"), sizes, strict=True):
        words += [f"--num_{name}_clips", str(size)]
    words += ["--modalities", *variant.get("modalities", MODALITIES)]
    if "ablation" in variant:
        words += ["--ablation", variant["ablation"]]
    return recipe.parse_args([*words, *options.extra])


def run(job: tuple[argparse.Namespace, str, int]) -> dict[str, Any]:
    """Trains and measures one row with one seed."""
    options, name, seed = job
    torch.set_num_threads(1)
    variant = variants()[name]
    with tempfile.TemporaryDirectory() as scratch:
        model_args, data_args, run_args = arguments(options, variant, seed)
        run_args.output_dir, run_args.save_only_model = scratch, True
        transformers.set_seed(seed)
        data = _DATA["data"]
        columns = recipe.choose_columns(model_args, data)
        model = recipe.build_model(model_args, data_args, data, columns, _DATA["processor"])
        if variant.get("model") == "concatenation":
            model = Concatenation(model.config)
        keys = {"label"} | {key for each in model_args.modalities for key in INPUTS[each]}
        rows = {
            split: [{key: value for key, value in row.items() if key in keys} for row in items]
            for split, items in _DATA["rows"].items()
        }
        trainer = recipe.build_trainer(model, _DATA["processor"], rows, data.labels, run_args)
        trainer.remove_callback(transformers.PrinterCallback)
        trainer.train()
        measured = trainer.predict(rows["test"]).metrics
        validation = trainer.predict(rows["validation"]).metrics["test_mae"]
        weights = _mean_weights(trainer, rows["test"]) if hasattr(model, "clcr") else {}
    result = {key: float(measured[f"test_{key}"]) for key in METRICS}
    result |= {"variant": name, "seed": seed, "validation_mae": float(validation), "epochs": trainer.state.epoch}
    print(f"{name:24s} seed {seed}  MAE {result['mae']:.3f}  Corr {result['corr']:.3f}", flush=True)
    return result | weights


@torch.no_grad()
def _mean_weights(trainer: Any, rows: list[dict[str, Any]]) -> dict[str, list[float]]:
    """Mean level and modality weights and participation over the test clips."""
    model = trainer.model.eval()
    sums: dict[str, list[torch.Tensor]] = {"level_weights": [], "modality_weights": [], "private_gates": []}
    participation = []
    for start in range(0, len(rows), 50):
        batch = trainer.data_collator(rows[start : start + 50])
        batch.pop("labels")
        out = model(**batch)
        for name, found in sums.items():
            found.append(out[name])
        participation.append(out.budget_statistics["participation"])
    means = {name: torch.cat(found).mean(0).tolist() for name, found in sums.items()}
    return {**means, "participation": torch.stack(participation).mean(0).tolist()}


def table(runs: list[dict[str, Any]]) -> str:
    """Markdown: mean and standard deviation over the seeds, a row a variant."""
    lines = ["| model | runs | MAE | Corr | Acc-2 (has0) | Acc-2 (non0) | Acc-7 |", "|---|---|---|---|---|---|---|"]
    for name in variants():
        found = [item for item in runs if item["variant"] == name]
        if not found:
            continue
        cells = []
        for metric in METRICS:
            values = np.array([item[metric] for item in found])
            scale, digits = (1, 3) if metric in ("mae", "corr") else (100, 1)
            spread = f" ± {values.std(ddof=1) * scale:.{digits}f}" if len(values) > 1 else ""
            cells.append(f"{values.mean() * scale:.{digits}f}{spread}")
        lines.append(f"| {name} | {len(found)} | {' | '.join(cells)} |")
    return "\n".join(lines)


def main() -> None:
    """Command line; unknown arguments go to the training recipe, e.g. `--num_train_epochs 3`."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--dataset_dir", type=Path, default=Path("runs/talking_faces_benchmark"))
    parser.add_argument("--num_train_clips", type=int, default=1000)
    parser.add_argument("--num_validation_clips", type=int, default=200)
    parser.add_argument("--num_test_clips", type=int, default=400)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--variants", nargs="+", help="rows to run; default: all")
    parser.add_argument("--workers", type=int, default=2, help="runs at a time, one thread each")
    parser.add_argument("--output", type=Path)
    options, options.extra = parser.parse_known_args()
    transformers.utils.logging.disable_progress_bar()
    transformers.utils.logging.set_verbosity_error()
    os.environ["TOKENIZERS_PARALLELISM"] = "false"
    load(options)
    torch.set_num_threads(1)
    wanted = options.variants or list(variants())
    # The main rows of all seeds first: a run that is cut short still holds the comparison.
    order = [name for name in variants() if name in wanted]
    jobs = [(options, name, seed) for seed in options.seeds for name in order if name in MAIN]
    jobs += [(options, name, seed) for seed in options.seeds for name in order if name not in MAIN]
    runs: list[dict[str, Any]] = []
    with multiprocessing.get_context("fork").Pool(options.workers) as pool:
        for result in pool.imap_unordered(run, jobs):
            runs.append(result)
            if options.output is not None:
                _write(options, runs)
    print(table(runs))
    print("\nBest possible, knowing the factors of these modalities exactly:")
    for names in (["text"], ["audio"], ["vision"], list(MODALITIES)):
        print("  ", " + ".join(names), {key: round(value, 3) for key, value in bayes_scores(names).items()})


def _write(options: argparse.Namespace, runs: list[dict[str, Any]]) -> None:
    record = {
        "settings": {key: value for key, value in vars(options).items() if key not in ("dataset_dir", "output")},
        "versions": versions("clcr-hf", "torch", "transformers", "numpy", "av"),
        "command": shlex.join(["python", "benchmarks/talking_faces.py", *sys.argv[1:]]),
        "runs": sorted(runs, key=lambda item: (item["seed"], item["variant"])),
        "table": table(runs).splitlines(),
    }
    options.output.parent.mkdir(parents=True, exist_ok=True)
    options.output.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
