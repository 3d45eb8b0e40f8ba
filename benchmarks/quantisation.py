"""What export and 8-bit weights cost a trained model: size, quality on its test split, time, side by side.

    python benchmarks/quantisation.py MODEL --output benchmarks/results/quantisation.json

MODEL is a folder that `clcr train` left, of a model with one score (regression) that reads clips; the test split is
that of its training (`--dataset_dir` where it lies elsewhere). Nothing is trained. Each clip is decoded once; all
variants get the same tensors, and take turns on each clip and batch when times are taken, on one thread, so that a busy
machine slows them alike.
"""

import argparse
import json
import statistics
import tempfile
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers import AutoProcessor

from clcr_hf import CLCRConfig
from clcr_hf.collator import CLCRDataCollator
from clcr_hf.data.folders import versions
from clcr_hf.export.graph import load_for_export, named_outputs
from clcr_hf.export.onnx import ONNXModel, export_onnx, quantise
from clcr_hf.metrics import sentiment_metrics
from clcr_hf.training.arguments import ModelArguments
from clcr_hf.training.data import load_data
from clcr_hf.training.rows import prepare
from clcr_hf.training.run import choose_columns, evaluation_data

Variant = Callable[..., Mapping[str, Any]]
METRICS = ("mae", "corr", "acc_2_has0", "acc_2_non0")


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=Path)
    parser.add_argument("--dataset_dir")
    parser.add_argument("--batch_size", type=int, default=16)
    parser.add_argument("--rounds", type=int, default=60, help="runs of each variant that are timed")
    parser.add_argument("--output", type=Path)
    options = parser.parse_args()
    torch.set_num_threads(1)
    model = load_for_export(options.model).eval().fold_bases()
    batches = read_batches(options)

    def eager(**inputs: torch.Tensor) -> Mapping[str, Any]:
        with torch.no_grad():
            return named_outputs(model(**inputs))

    with tempfile.TemporaryDirectory() as folder:
        exported = export_onnx(model, Path(folder) / "float32.onnx")
        quantised = quantise(exported, Path(folder) / "int8.onnx")
        sizes = [options.model / "model.safetensors", exported, quantised]
        graphs: list[Variant] = [ONNXModel(path, threads=1) for path in (exported, quantised)]
        names = ("PyTorch, float32", "ONNX, float32", "ONNX, 8-bit weights")
        variants = dict(zip(names, [eager, *graphs], strict=True))
        rows = {name: {"megabytes": size.stat().st_size / 1e6} for name, size in zip(names, sizes, strict=True)}
        measure_quality(variants, batches, rows)
        measure_time(variants, batches, options.rounds, rows)
    lines = table(rows, options.batch_size)
    print("\n".join(lines))
    if options.output is not None:
        record = {
            "command": "python benchmarks/quantisation.py MODEL --output benchmarks/results/quantisation.json",
            "machine": f"{torch.get_num_threads()} thread of a shared CPU",
            "model": described(options.model),
            "versions": versions("clcr-hf", "torch", "transformers", "onnx", "onnxruntime"),
            "test_examples": sum(len(batch["labels"]) for batch in batches),
            "batch_size": options.batch_size,
            "rounds": options.rounds,
            "variants": rows,
            "table": lines,
        }
        options.output.parent.mkdir(parents=True, exist_ok=True)
        options.output.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")


def described(folder: Path) -> dict[str, Any]:
    """What the run's own record says of the model."""
    run = json.loads((folder / "run.json").read_text(encoding="utf-8"))
    return {key: run.get(key) for key in ("dataset", "seed", "num_examples", "modalities", "settings")}


def read_batches(options: argparse.Namespace) -> list[dict[str, torch.Tensor]]:
    """The test split, decoded and collated, with labels."""
    words = [] if options.dataset_dir is None else ["--dataset_dir", options.dataset_dir]
    arguments = evaluation_data(str(options.model), words)
    processor = AutoProcessor.from_pretrained(options.model)
    data = load_data(arguments, CLCRConfig.from_pretrained(options.model).modalities)
    columns = choose_columns(ModelArguments(model_name_or_path=str(options.model)), data)
    rows = prepare(data.splits, columns, arguments, processor, training=False)["test"]
    collate = CLCRDataCollator(tokenizer_pad_id=processor.tokenizer.pad_token_id if processor.tokenizer else 0)
    size = options.batch_size
    examples = [rows[index] for index in range(len(rows))]
    return [collate(examples[start : start + size]) for start in range(0, len(examples), size)]


def without_labels(batch: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """The inputs alone."""
    return {name: value for name, value in batch.items() if name != "labels"}


def measure_quality(variants: Mapping[str, Variant], batches: list[dict[str, torch.Tensor]], rows: dict) -> None:
    """Metrics of each variant, and how far its scores and token budgets lie from those of the first."""
    labels = np.concatenate([batch["labels"].numpy() for batch in batches])
    scores: dict[str, np.ndarray] = {}
    budgets: dict[str, list[np.ndarray]] = {}
    for name, variant in variants.items():
        outputs = [variant(**without_labels(batch)) for batch in batches]
        scores[name] = np.concatenate([np.asarray(output["logits"])[:, 0] for output in outputs])
        budgets[name] = [
            np.asarray(value).ravel() for output in outputs for key, value in output.items() if "budgets" in key
        ]
        metrics = sentiment_metrics(scores[name], labels)
        rows[name] |= {key: metrics[key] for key in METRICS}
        first = next(iter(scores))
        rows[name]["largest_score_difference"] = float(np.abs(scores[name] - scores[first]).max())
        rows[name]["mean_score_difference"] = float(np.abs(scores[name] - scores[first]).mean())
        rows[name]["largest_budget_difference"] = max(
            float(np.abs(a - b).max()) for a, b in zip(budgets[name], budgets[first], strict=True)
        )


def measure_time(
    variants: Mapping[str, Variant], batches: list[dict[str, torch.Tensor]], rounds: int, rows: dict
) -> None:
    """Median milliseconds of one clip and of a batch; the variants take turns."""
    full = without_labels(batches[0])
    for key, inputs in (("ms_clip", {name: value[:1] for name, value in full.items()}), ("ms_batch", full)):
        taken: dict[str, list[float]] = {name: [] for name in variants}
        for turn in range(rounds + 3):
            for name, variant in variants.items():
                start = time.perf_counter()
                variant(**inputs)
                if turn >= 3:  # the first runs allocate
                    taken[name].append(time.perf_counter() - start)
        for name, seconds in taken.items():
            rows[name][key] = 1000 * statistics.median(seconds)


def table(rows: Mapping[str, Mapping[str, float]], batch_size: int) -> list[str]:
    """Markdown, a row for each variant."""
    heads = ["", "MB", "MAE", "Corr", "Acc-2 (has0)", "Acc-2 (non0)", "score, largest difference"]
    heads += ["token budget, largest difference", "ms, one clip", f"ms, {batch_size} clips"]
    lines = ["| " + " | ".join(heads) + " |", "|---" * len(heads) + "|"]
    for name, row in rows.items():
        cells = [name, f"{row['megabytes']:.2f}", f"{row['mae']:.4f}", f"{row['corr']:.4f}"]
        cells += [f"{100 * row[key]:.1f}" for key in METRICS[2:]]
        cells += [f"{row['largest_score_difference']:.1e}", f"{row['largest_budget_difference']:.1e}"]
        cells += [f"{row['ms_clip']:.1f}", f"{row['ms_batch']:.1f}"]
        lines.append("| " + " | ".join(cells) + " |")
    return lines


if __name__ == "__main__":
    main()
