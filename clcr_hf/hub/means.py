"""What a model card shows beside the figures: how the model decides on average, and an example."""

import os
import shutil
from collections import defaultdict
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from transformers import pipeline

from ..data.folders import write_json
from ..explain.decision import BIAS, JOINT, decided_by, evidence
from ..pipeline_clcr import TASK
from . import run_folder


def mean_weights(results: Iterable[Mapping[str, Any]]) -> dict[str, Any]:
    """
    Means and standard deviations over the pipeline's results with explanations; those with an `error` are passed over.

    Returns:
        `rows` (int) and `level_weights` (a list), `modality_weights` and `private_gates` (by modality), each value a
        dict of `mean` and `std`; of a modality, over the results in which it is present. And `evidence`, of a model
        that has evidence of each modality by itself: so too the size of what each part adds, see [`evidence`].

    Raises:
        ValueError: no result without an error.
    """
    levels: list[list[float]] = []
    kinds = ("modality_weights", "private_gates", "evidence")
    found: dict[str, defaultdict[str, list[float]]] = {kind: defaultdict(list) for kind in kinds}
    for result in results:
        if "error" in result:
            continue
        weights = decided_by(result)
        levels.append(weights["level_weights"])
        for kind in ("modality_weights", "private_gates"):
            for name, value in weights[kind].items():
                found[kind][name] += [value] if result["tokens"].get(name) else []
        for part in result.get("segments", [result]):
            added = evidence(part)[1]
            for name in (*part.get("modality_logits", ()), JOINT, BIAS):
                found["evidence"][name] += [abs(added[name])] if name in added else []
    if not levels:
        raise ValueError("there is no result to take means of")
    means: dict[str, Any] = {"level_weights": [_mean_and_std(column) for column in np.transpose(levels)]}
    for kind, named in found.items():
        means[kind] = {name: _mean_and_std(values) for name, values in named.items() if values}
    if not means["evidence"]:
        del means["evidence"]
    return {"rows": len(levels), **means}


def build_card_figures(
    folder: str | os.PathLike,
    rows: Iterable[Any],
    *,
    split: str = "test",
    batch_size: int = 8,
    device: str | None = None,
) -> dict[str, Any]:
    """
    Measures how a trained model decides, and writes `how_it_decides.json` and `.png` into its folder, where the model
    card shows them.

    Args:
        folder: of a training run.
        rows: inputs of [`CLCRPipeline`]; `clcr card --figure` takes those of the run's own data set.
        split: what the card calls them.
        batch_size: inputs in a forward pass.
        device: as of `pipeline`; default the processor, or the first GPU where there is one.

    Returns:
        What was written, see [`mean_weights`].

    Raises:
        ImportError: matplotlib is not there.
        FileNotFoundError: `folder` holds no `run.json`.
        ValueError: no row that could be read.
    """
    from ..explain.plot import draw_mean_weights

    folder = Path(folder)
    mark = run_folder.run_mark(run_folder.read_run(folder))
    pipe = pipeline(TASK, model=str(folder), device=device)
    chosen = rows if hasattr(rows, "__getitem__") else list(rows)  # a data set stays one, and is read as it goes
    results = pipe(chosen, batch_size=batch_size, return_explanation=True, on_error="skip")
    measured = {"split": split, "mark": mark, **mean_weights(results)}
    draw_mean_weights(measured, folder / run_folder.FIGURE_FILE)
    write_json(folder / run_folder.WEIGHTS_FILE, measured)
    return measured


def add_example(
    folder: str | os.PathLike, clip: str | os.PathLike | None = None, text: str | None = None, title: str | None = None
) -> dict[str, Any]:
    """
    Adds an example for the Hub's widget: copies the clip to `examples/` and notes what the model answers.

    Publish only clips that you may publish, and no person who did not agree.

    Args:
        folder: of a training run.
        clip: a media file.
        text: what is said.
        title: what the widget calls it; default the file's name, or the text's first words.

    Returns:
        The example, as `card.json` holds it.

    Raises:
        ValueError, MediaError: as the pipeline.
    """
    folder = Path(folder)
    given = {"media": None if clip is None else str(clip), "text": text}
    answer = pipeline(TASK, model=str(folder), device="cpu")({key: value for key, value in given.items() if value})
    example: dict[str, Any] = {"title": title or (Path(clip).stem if clip else " ".join((text or "").split()[:6]))}
    if clip is not None:
        target = folder / run_folder.EXAMPLES_FOLDER / Path(clip).name
        target.parent.mkdir(exist_ok=True)
        shutil.copyfile(clip, target)
        example["file"] = f"{run_folder.EXAMPLES_FOLDER}/{target.name}"
    example |= {"text": text} if text else {}
    example |= {"output": _labels(answer), "mark": run_folder.run_mark(run_folder.read_run(folder))}
    kept = [each for each in run_folder.read_card_options(folder).examples if each.get("title") != example["title"]]
    run_folder.set_card_options(folder, examples=[*kept, example])
    return example


def _labels(result: Mapping[str, Any]) -> list[dict[str, Any]]:
    """A result as the Hub's widgets show it."""
    if "segments" in result:
        return [{"label": part["label"], "score": round(part["score"], 4)} for part in result["segments"]]
    values = result.get("probabilities") or result.get("scores") or {result["label"]: result["score"]}
    ranked = sorted(values.items(), key=lambda item: -item[1])
    return [{"label": name, "score": round(value, 4)} for name, value in ranked]


def _mean_and_std(values: Any) -> dict[str, float]:
    return {"mean": float(np.mean(values)), "std": float(np.std(values))}
