"""What an answer costs in PyTorch and in onnxruntime, from one exported model.

    python -m benchmarks.serving

The default model reads ready features of CMU-MOSI's aligned form: 50 steps of 300 (text), 35 (vision) and 74 (audio)
numbers. Both run in this process on one thread and take turns of ten runs, so that a busy machine slows them alike;
times are the process's own CPU milliseconds. PyTorch runs in evaluation, without gradients, its bases folded.
`pipeline` is a whole answer with its explanation, from arrays.
"""

import argparse
import json
import statistics
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

from clcr_hf import CLCRConfig, CLCRForSequenceClassification, CLCRPipeline, CLCRProcessor
from clcr_hf.data.folders import versions
from clcr_hf.export.onnx import export_onnx, largest_difference
from clcr_hf.onnx_graph import GRAPH_FILE, ONNXModel

WIDTHS = {"text": 300, "vision": 35, "audio": 74}
STEPS = 50
BATCHES = (1, 16)


def build() -> CLCRForSequenceClassification:
    """The default model for these features, away from its start values."""
    torch.manual_seed(0)
    parts = {f"{name}_config": {"feature_size": width} for name, width in WIDTHS.items()}
    model = CLCRForSequenceClassification(CLCRConfig(**parts, num_labels=1, label_range=[-3, 3]))
    with torch.no_grad():
        for value in model.parameters():
            value.add_(0.02 * torch.randn(value.shape))
    return model.eval()


def batch_of(size: int) -> dict[str, torch.Tensor]:
    """Features of `size` clips, of which none is padded."""
    generator = torch.Generator().manual_seed(size)
    return {f"{name}_features": torch.randn(size, STEPS, width, generator=generator) for name, width in WIDTHS.items()}


def in_turn(variants: dict[str, Callable[[], Any]], rounds: int) -> dict[str, float]:
    """Median CPU milliseconds of each, ten runs a turn; the first turn, which allocates, is left out."""
    taken: dict[str, list[float]] = {name: [] for name in variants}
    for turn in range(rounds + 1):
        for name, run in variants.items():
            for _ in range(10):
                start = time.process_time()
                run()
                if turn:
                    taken[name].append(1000 * (time.process_time() - start))
    return {name: statistics.median(values) for name, values in taken.items()}


def measure(folder: Path, rounds: int) -> dict[str, Any]:
    """Milliseconds by what is timed and by backend, and the largest difference of any output."""
    build().save_pretrained(folder)
    graph = ONNXModel(export_onnx(folder, folder / GRAPH_FILE), threads=1)
    model = CLCRForSequenceClassification.from_pretrained(folder).eval()
    found: dict[str, Any] = {}
    for size in BATCHES:
        batch = batch_of(size)
        variants = {"torch": partial(model, **batch), "onnx": partial(graph, **batch)}
        with torch.no_grad():
            found[f"forward, batch {size}"] = in_turn(variants, rounds if size == 1 else rounds // 4)
        found[f"forward, batch {size}"]["difference"] = largest_difference(model, graph, batch)
    sample = {name: value[0].numpy() for name, value in batch_of(1).items()}
    loaded = {name: CLCRForSequenceClassification.from_pretrained(folder) for name in ("torch", "onnx")}
    pipes = {
        name: CLCRPipeline(model=each, processor=CLCRProcessor(), device="cpu", backend=name)
        for name, each in loaded.items()
    }
    answers = {name: partial(pipe, sample, return_explanation=True) for name, pipe in pipes.items()}
    found["pipeline, one clip, explained"] = in_turn(answers, rounds)
    return found


def kernels(graph: Path, size: int, runs: int = 50) -> dict[str, tuple[float, int]]:
    """Of each operator in onnxruntime's own profile: microseconds a run (the sum of its nodes' medians), and nodes."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads, options.enable_profiling = 1, True
    options.profile_file_prefix = str(graph.parent / "profile")
    session = onnxruntime.InferenceSession(str(graph), options, providers=["CPUExecutionProvider"])
    feed = {name: value.numpy() for name, value in batch_of(size).items()}
    feed |= {f"{name}_attention_mask": np.ones((size, STEPS), np.int64) for name in WIDTHS}
    for _ in range(runs):
        session.run(None, feed)
    events = json.loads(Path(session.end_profiling()).read_text(encoding="utf-8"))
    taken: dict[tuple[str, str], list[int]] = {}
    for event in events:
        if event.get("cat") == "Node" and event["name"].endswith("kernel_time"):
            taken.setdefault((event["args"]["op_name"], event["name"]), []).append(event["dur"])
    found: dict[str, tuple[float, int]] = {}
    for (operator, _), times in taken.items():
        microseconds, nodes = found.get(operator, (0.0, 0))
        found[operator] = (microseconds + statistics.median(times), nodes + 1)
    return dict(sorted(found.items(), key=lambda item: -item[1][0]))


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=20, help="turns at batch 1, a quarter at batch 16")
    parser.add_argument("--profile", action="store_true", help="also onnxruntime's time by operator")
    parser.add_argument("--output", type=Path, help="JSON file")
    options = parser.parse_args()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        found = measure(Path(folder), options.rounds)
        profiles = {size: kernels(Path(folder) / GRAPH_FILE, size) for size in BATCHES if options.profile}
    for name, row in found.items():
        ratio = f"{row['onnx'] / row['torch']:.2f}"
        difference = f"  largest difference {row['difference']:.1e}" if "difference" in row else ""
        print(f"{name}: torch {row['torch']:.1f} ms, onnx {row['onnx']:.1f} ms, ratio {ratio}{difference}")
    for size, operators in profiles.items():
        total = sum(microseconds for microseconds, _ in operators.values())
        nodes = sum(count for _, count in operators.values())
        told = [f"{name} {value / total:.0%} ({count})" for name, (value, count) in list(operators.items())[:12]]
        print(f"batch {size}, {nodes} nodes, share of their time: {', '.join(told)}")
    if options.output is not None:
        record = {"milliseconds": found, "versions": versions("clcr-hf", "torch", "onnx", "onnxruntime")}
        options.output.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
