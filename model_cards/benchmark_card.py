"""Cards of the six benchmark models, made from their recipes: what a model trained by them will be, and what is known
of the data. They hold no figure of such a model, for none has been trained on the real data."""

import json
import re
from pathlib import Path
from typing import Any

import yaml
from huggingface_hub import ModelCard, ModelCardData

from clcr_hf.hub.benchmarks import BENCHMARKS, PAPER_CITATION, Benchmark
from clcr_hf.hub.card import DATA_LICENSE, base_models, card_tags, check_card, pipeline_tag, render_card

_SETTING = re.compile(r"^(?P<name>\w+):.*?#\s*\[(?P<whose>paper|our reconstruction)\]", re.MULTILINE)
_COMMAND = re.compile(r"^#\s+(?P<command>accelerate launch .*)$", re.MULTILINE)
_UNMEASURED = (
    "No weights have been trained on the real data by us yet; this page says how they are to be trained and what is "
    "known of the data. A run writes a card of its own, with its own figures, in this one's place."
)
_TEXT_METRICS = {
    "mae": "MAE",
    "corr": "Corr",
    "acc_2_has0": "Acc-2 (has0)",
    "acc_2_non0": "Acc-2 (non0)",
    "acc_7": "Acc-7",
}
_PERCENT = ("acc_2_has0", "acc_2_non0", "acc_7")


def benchmark_card(key: str, recipe: Path, text_results: Path | None = None) -> ModelCard:
    """
    The card of one benchmark's model.

    Args:
        key: of `BENCHMARKS`.
        recipe: its YAML file; its comments say whose each setting is.
        text_results: what `benchmarks/text_sentiment.py` measured on the data's text alone, if it did.

    Raises:
        ValueError: a recipe without modalities, a command, or comments that say whose the settings are.
    """
    benchmark, source = BENCHMARKS[key], recipe.read_text(encoding="utf-8")
    values = yaml.safe_load(source)
    whose = {found["name"]: found["whose"] for found in _SETTING.finditer(source)}
    command = _COMMAND.search(source)
    if not values.get("modalities") or command is None or not whose:
        raise ValueError(f"{recipe} must name its modalities and its command, and say whose its settings are")
    modalities = values["modalities"]
    model_id = f"org/clcr-{key.replace('_', '-')}"
    bases = base_models(values)
    data = ModelCardData(
        language=benchmark.language if {"text", "audio"} & set(modalities) else None,
        **DATA_LICENSE,
        library_name="transformers",
        pipeline_tag=pipeline_tag(modalities),
        tags=card_tags(modalities, benchmark.subject),
        base_model=bases or None,
        **({"base_model_relation": "finetune"} if bases else {}),
        inference={"parameters": {"return_explanation": True}},
    )
    features = values["dataset"] in ("mmsa", "csd")
    card = render_card(
        data,
        model_id=model_id,
        modalities=modalities,
        subject=benchmark.subject,
        output=benchmark.output,
        unmeasured=_UNMEASURED,
        features=features,
        inputs=_inputs(values) if features else [],
        paper=benchmark,
        text_results=text_table(text_results) if text_results is not None else None,
        levels=3,
        dataset=benchmark,
        recipe=f"examples/recipes/{recipe.name}",
        settings=[(name, _shown(value), _whose(whose[name])) for name, value in values.items() if name in whose],
        command=command["command"],
        compute=_compute(benchmark),
        trained=f"To be trained on {benchmark.title}",
        citations=[PAPER_CITATION, *benchmark.citations],
    )
    check_card(card)
    return card


def text_table(path: Path) -> dict[str, Any]:
    """The rows that `benchmarks/text_sentiment.py` wrote to `path`, for the card: mean and spread over seeds."""
    content = json.loads(path.read_text(encoding="utf-8"))
    rows = []
    for name, row in content["rows"].items():
        cells = [_mean(row, key) for key in _TEXT_METRICS]
        rows.append([name, str(len(row["runs"])), *cells])
    seeds = sorted({fit["seed"] for row in content["rows"].values() for fit in row.get("fits", [])})
    versions = ", ".join(f"{name} {version}" for name, version in content["versions"].items())
    return {
        "about": f"Ours: models of the transcripts{_streams(content['rows'])} around a pretrained MiniLM of six "
        f"layers, on the {content['figures_of']} fold. They are not the model of this page, whose features of face and "
        "voice we do not have, and not to be compared with the paper's figures. Accuracies in percent; ± over runs.",
        "metrics": list(_TEXT_METRICS.values()),
        "rows": rows,
        "how": f"`python benchmarks/text_sentiment.py --dataset {content['dataset']}`, seeds "
        f"{', '.join(map(str, seeds))}{_start(content['rows'])}; {versions}. How the settings were chosen: "
        "`docs/results.md`.",
    }


def template_card() -> ModelCard:
    """A card to fill in by hand, for a model trained on data of one's own; what is to be filled in stands in square
    brackets."""
    modalities = ["text", "vision", "audio"]
    model_id = "org/clcr-name"
    address = f"https://huggingface.co/{model_id}/resolve/main/examples/clip.mp4"
    data = ModelCardData(
        language="en",
        **DATA_LICENSE,
        library_name="transformers",
        pipeline_tag=pipeline_tag(modalities),
        tags=card_tags(modalities, "sentiment"),
        widget=[{"example_title": "A clip with its words", "src": address, "text": "what is said in it"}],
        inference={"parameters": {"return_explanation": True}},
    )
    card = render_card(
        data,
        model_id=model_id,
        modalities=modalities,
        subject="sentiment",
        output="[a sentiment score from -3 to 3]",
        unmeasured="[Every training run writes a card with its own figures; put none here that was not measured.]",
        levels=3,
        dataset={
            "content": "[What the data are, how many examples, how they were gathered and labelled.]",
            "terms": "[the licence of the data, and what the people in it agreed to]",
            "people": "[how many; ages, sexes, languages, countries, as far as known, and who is missing]",
        },
        recipe="[your recipe]",
        settings=[("[setting]", "[value]", "[yours]")],
        command="accelerate launch examples/run_sentiment.py --dataset manifest --data_file [clips.csv]",
        compute="[Hours, number and kind of devices; emissions only if measured, for instance by codecarbon.]",
        trained="Trained on [your data]",
        citations=[PAPER_CITATION],
    )
    check_card(card)
    return card


def _inputs(values: dict[str, Any]) -> list[str]:
    """What a model of ready features takes, by the names of `forward`."""
    text = ["input_ids", "attention_mask"] if values.get("text_model_name_or_path") else ["text_features"]
    return [*text, *(f"{name}_features" for name in values["modalities"] if name != "text")]


def _shown(value: Any) -> str:
    return ", ".join(map(str, value)) if isinstance(value, list) else str(value)


def _whose(mark: str) -> str:
    return "paper" if mark == "paper" else "ours"


def _mean(row: dict[str, Any], key: str) -> str:
    factor, digits = (100, 1) if key in _PERCENT else (1, 3)
    mean = f"{factor * row['mean'][key]:.{digits}f}"
    return f"{mean} ± {factor * row['std'][key]:.{digits}f}" if key in row["std"] else mean


def _streams(rows: dict[str, Any]) -> str:
    """What the models read beside the words."""
    found = {stream for row in rows.values() for stream in row.get("settings", {}).get("streams", ())}
    return " and, as their audio, the timing of the words" if "audio" in found else ""


def _start(rows: dict[str, Any]) -> str:
    started = [name for name, row in rows.items() if any(fit.get("started_from") for fit in row.get("fits", []))]
    return f" (with `--start` for: {', '.join(started)})" if started else ""


def _compute(benchmark: Benchmark) -> str:
    return (
        f"Nothing was trained on {benchmark.title} by us, so there is nothing to state. The paper used one A100 for "
        "100 epochs and reports neither hours nor energy."
    )


__all__ = ["benchmark_card", "template_card", "text_table"]
