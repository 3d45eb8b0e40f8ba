"""A model card written from a training run's own files: no figure in it that the run did not measure.

Beside `run.json`, the record of the run, these files of its folder are read where they are there: `card.json` (what
the user says of it: licence, benchmark, examples; see [`set_card_options`]), `how_it_decides.json` and `.png` (see
`clcr_hf.hub.means.build_card_figures`) and `emissions.csv` (written by codecarbon, if the user ran it).
"""

import json
import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from huggingface_hub import EvalResult, EvalResultEntry, ModelCard, ModelCardData, eval_result_entries_to_yaml

from ..data.folders import read_json, write_text
from ..modalities import RAW_COLUMNS, STANDARD_MODALITIES, modality
from . import run_folder
from .benchmarks import BENCHMARKS, PAPER_CITATION, Benchmark, benchmark_of

_TEMPLATE = Path(__file__).parent / "model_card.md"
# Sentences and names of the cards.
TEXTS: dict[str, Any] = yaml.safe_load(Path(__file__).with_name("texts.yaml").read_text(encoding="utf-8"))
# The Hub's tasks by the modalities they stand for; it has none for several modalities at once.
_PIPELINE_TAGS = {
    "video-classification": {"vision", "flow"},
    "audio-classification": {"audio"},
    "text-classification": {"text"},
}
_GROUPS_SHOWN = 30
DATA_LICENSE = {"license": "other", "license_name": "terms-of-the-training-data"}


# -- the card of a run ------------------------------------------------------------------------------------------------


def card_from_run(folder: str | Path, model_id: str | None = None) -> ModelCard:
    """
    The card of the run in `folder`.

    Args:
        folder: Where [`~clcr_hf.training.run.run_training`] saved its model.
        model_id: What the card's examples load; default the folder's name.

    Raises:
        FileNotFoundError, ValueError: see [`read_run`], [`read_card_options`] and [`check_card`].
    """
    facts = _Facts.read(Path(folder), model_id)
    run = facts.run
    columns = run.get("inputs", {})
    split, figures = run_folder.measured_figures(run)
    examples = run["num_examples"].get("train")
    card = render_card(
        _card_data(facts),
        model_id=facts.model_id,
        modalities=run["modalities"],
        subject=facts.subject,
        output=facts.output,
        run=run,
        per_segment=facts.kind == "segments",
        features=any(column.endswith("_features") or column == "input_ids" for column in columns.values()),
        inputs=[modality(name).inputs[0] if column in RAW_COLUMNS else column for name, column in columns.items()],
        split=split,
        results={_named(key)[0]: f"{value:.4f}" if math.isfinite(value) else None for key, value in figures.items()},
        compared=_compared(run, split),
        by_group=[_by_group(*each) for each in run.get("groups", {}).get(split, {}).items()],
        settings=run["settings"],
        command=run["command"],
        emissions=run_folder.read_emissions(facts.folder),
        **_weights_fields(facts),
        paper=facts.paper,
        dataset=facts.benchmark or TEXTS["data"]["generated" if run["generated"] else "unknown"],
        dataset_title=facts.title,
        examples=len(facts.options.examples),
        trained=f"Trained on {facts.title}" + (f" ({examples:,} examples)" if examples else ""),
        citations=[PAPER_CITATION, *(facts.benchmark.citations if facts.benchmark else ())],
    )
    check_card(card)
    return card


@dataclass(frozen=True)
class _Facts:
    """A run's folder, and what follows from it."""

    folder: Path
    model_id: str
    run: dict[str, Any]
    options: run_folder.CardOptions
    benchmark: Benchmark | None

    @classmethod
    def read(cls, folder: Path, model_id: str | None) -> "_Facts":
        run, options = run_folder.read_run(folder), run_folder.read_card_options(folder)
        benchmark = BENCHMARKS[options.benchmark] if options.benchmark else benchmark_of(run)
        return cls(folder, model_id or folder.resolve().name, run, options, benchmark)

    @property
    def title(self) -> str:
        return self.run.get("dataset_title", self.run["dataset"])

    @property
    def kind(self) -> str:
        """A key of the texts' `tasks`."""
        if self.run["problem_type"] == "regression" and self.run.get("label_scale", "sentiment") is None:
            return "scores"
        return "segments" if self.run.get("per_segment") else self.run["problem_type"]

    @property
    def paper(self) -> Benchmark | None:
        """The benchmark, where its labels were learned that the paper reports; MOSEI has emotions too, AVE seconds."""
        return self.benchmark if self.benchmark is not None and self.kind == self.benchmark.problem_type else None

    @property
    def output(self) -> str:
        if self.paper is not None:
            return self.paper.output
        limits = self.run.get("label_range") if self.kind == "scores" else None
        if not limits:
            return TEXTS["tasks"][self.kind][0]
        if isinstance(limits[0], list):
            return f"{len(limits)} scores"
        return f"a score from {limits[0]:g} to {limits[1]:g}"

    @property
    def subject(self) -> str:
        """What the labels are about, a key of the texts' `subjects`."""
        if self.benchmark is not None:
            emotions = self.benchmark.subject == "sentiment" and self.paper is None
            return "emotion" if emotions else self.benchmark.subject
        if self.run["generated"]:
            return "drawn faces"
        return "sentiment" if self.kind == "regression" else "labels"


def render_card(
    data: ModelCardData, *, model_id: str, modalities: Sequence[str], subject: str, **fields: Any
) -> ModelCard:
    """
    The template filled in.

    Args:
        data: the metadata.
        model_id: what the examples load.
        modalities, subject: what the model reads and what its labels are about, a key of the texts' `subjects`.
        fields: the rest of the template's names.
    """
    sample = {"media": "clip.mp4"} if {"vision", "audio", "flow"} & set(modalities) else {}
    sample |= {"text": "what is said in it"} if "text" in modalities else {}
    sample |= {"flow": "flow.npz"} if "flow" in modalities else {}
    sample |= {modality(name).features: f"{name}.npy" for name in modalities if name not in STANDARD_MODALITIES}
    return ModelCard.from_template(
        data,
        template_path=str(_TEMPLATE),
        texts=TEXTS,
        model_id=model_id,
        modalities=modalities,
        subject=TEXTS["subjects"][subject],
        sample=sample,
        example=json.dumps(sample),
        **fields,
    )


def write_model_card(folder: str | Path, model_id: str | None = None) -> Path:
    """Writes the card of the run in `folder` to its `README.md` and returns that path; see [`card_from_run`]. With a
    `dataset_id` in the options, the figures go to `.eval_results/results.yaml` too, where the Hub reads them."""
    folder = Path(folder)
    card_from_run(folder, model_id).save(folder / "README.md")
    dataset_id = run_folder.read_card_options(folder).dataset_id
    if dataset_id is not None:  # the run does not know it
        entries = eval_result_entries_to_yaml(_eval_result_entries(run_folder.read_run(folder), dataset_id))
        write_text(folder / run_folder.EVAL_RESULTS, yaml.safe_dump(entries, sort_keys=False))
    return folder / "README.md"


def _eval_result_entries(run: dict[str, Any], dataset_id: str) -> list[EvalResultEntry]:
    """The measured figures in the form that the Hub reads from `.eval_results/*.yaml`, one entry a metric."""
    split, figures = _stated_figures(run)
    return [
        EvalResultEntry(dataset_id, key, value, notes=f"{_named(key)[0]}, {split} split, seed {run['seed']}")
        for key, value in figures.items()
    ]


# -- metadata ---------------------------------------------------------------------------------------------------------


def pipeline_tag(modalities: Sequence[str]) -> str | None:
    """The Hub's nearest task: it has none for several modalities at once. None for modalities of a user's own."""
    return next((tag for tag, names in _PIPELINE_TAGS.items() if names & set(modalities)), None)


def card_tags(modalities: Sequence[str], subject: str) -> list[str]:
    """What to find the model by."""
    several = ["multimodal"] if len(modalities) > 1 else []
    return ["clcr", *several, *TEXTS["subjects"][subject]["tags"], *modalities]


def _card_data(facts: _Facts) -> ModelCardData:
    run, options = facts.run, facts.options
    modalities = run["modalities"]
    bases = base_models(run.get("model_arguments") or {})
    emissions = run_folder.read_emissions(facts.folder)
    if emissions is not None:
        emissions["emissions"] = round(emissions["emissions"], 3)
        emissions["training_type"] = "fine-tuning" if bases else "pre-training"
    license = options.license or ("apache-2.0" if run["generated"] else "other" if facts.benchmark else None)
    results = _eval_results(facts)
    return ModelCardData(
        language=_language(run, facts.benchmark),
        **DATA_LICENSE if license == "other" else {"license": license},
        library_name="transformers",
        pipeline_tag=pipeline_tag(modalities),
        tags=card_tags(modalities, facts.subject),
        datasets=[options.dataset_id] if options.dataset_id else None,
        base_model=bases or None,
        model_name=facts.model_id if results else None,  # the Hub keeps it in the list of results
        eval_results=results,
        base_model_relation="finetune" if bases else None,
        widget=_widget(options.examples, facts.model_id, run_folder.run_mark(run)) or None,
        # What an endpoint's widget sends along with an input; see handler.py.
        inference={"parameters": {"return_explanation": True}} if facts.kind != "segments" else None,
        co2_eq_emissions=emissions,
    )


def _language(run: dict[str, Any], benchmark: Benchmark | None) -> str | None:
    if benchmark is not None:
        return benchmark.language if {"text", "audio"} & set(run["modalities"]) else None
    return "en" if run["generated"] else None


def base_models(model_arguments: dict[str, Any]) -> list[str]:
    """Names on the Hub of the pretrained backbones; folders of the user's own are none."""
    modalities = model_arguments.get("modalities") or STANDARD_MODALITIES
    named = filter(None, (model_arguments.get(f"{name}_model_name_or_path") for name in modalities))
    return list(dict.fromkeys(name for name in named if run_folder.is_hub_id(name) and not Path(name).exists()))


def _widget(examples: Sequence[dict[str, Any]], model_id: str, mark: str) -> list[dict[str, Any]]:
    """Examples as the Hub reads them: `src` and `text`, and the output that this model gave."""
    address = f"https://huggingface.co/{model_id}/resolve/main"
    widget = []
    for example in examples:
        entry = {
            "example_title": example.get("title"),
            "text": example.get("text"),
            "output": example.get("output") if example.get("mark") == mark else None,
            "src": f"{address}/{example['file']}" if example.get("file") else None,
        }
        widget.append({name: value for name, value in entry.items() if value})
    return widget


def _stated_figures(run: dict[str, Any]) -> tuple[str, dict[str, float]]:
    """What the Hub is told: split, and the figures that are defined."""
    split, figures = run_folder.measured_figures(run)
    return split, {key: round(value, 4) for key, value in figures.items() if math.isfinite(value)}


def _eval_results(facts: _Facts) -> list[EvalResult] | None:
    split, figures = _stated_figures(facts.run)
    results = [
        EvalResult(
            task_type=pipeline_tag(facts.run["modalities"]) or "other",
            task_name=TEXTS["tasks"][facts.kind][1],
            dataset_type=facts.run["dataset"],
            dataset_name=facts.title,
            dataset_split=split,
            metric_type=_named(key)[1],
            metric_name=_named(key)[0],
            metric_value=value,
        )
        for key, value in figures.items()
    ]
    return results or None


def check_card(card: ModelCard) -> None:
    """
    What the Hub's own check does not look at.

    Raises:
        ValueError: figures that are not finite, a task, a name or a licence that the Hub does not know the form of, a
            hole in the text; the message lists all.
    """
    data, problems = card.data, []
    for result in data.eval_results or []:
        value = result.metric_value
        if isinstance(value, bool) or not isinstance(value, (int, float)) or not math.isfinite(value):
            problems.append(f"{result.metric_name} is {value!r}, no finite number")
    if data.pipeline_tag not in (None, *_PIPELINE_TAGS):
        problems.append(f"pipeline_tag is {data.pipeline_tag!r}")
    bases = [data.base_model] if isinstance(data.base_model, str) else data.base_model or []
    names = [*bases, *(data.datasets or [])]
    problems += [f"{name!r} is no name on the Hub" for name in names if not run_folder.is_hub_id(name)]
    if data.license == "other" and not getattr(data, "license_name", None):
        problems.append("the licence 'other' needs a license_name")
    if re.search(r"\{\{|\{%|\bUndefined\b", card.text):
        problems.append("the text holds pieces of the template")
    if problems:
        raise ValueError("the card is not fit to publish: " + "; ".join(problems))


# -- parts of the text ------------------------------------------------------------------------------------------------


def _named(key: str) -> tuple[str, str]:
    """What the card calls a figure, and its type in the Hub's vocabulary."""
    known: dict[str, tuple[str, str]] = TEXTS["metrics"]
    metric, _, score = key.partition("_")
    of_several = key not in known and metric in known  # the metric of one score of several
    name, kind = known[metric] if of_several else known.get(key, (key, key))
    return f"{name}, {score}" if of_several else name, kind


def _compared(run: dict[str, Any], split: str) -> list[str]:
    """Sentences on what the run measured beside the model: baselines on the same split, and its parts by themselves."""
    lines = []
    found, shares = run.get("baselines") or {}, run.get("shares")
    if split in found.get("figures", {}):
        figures, name = found["figures"][split], _named(found["metric"])[0]
        text = "Beside it, learned from the same training split, by "
        text += f"{name}: {found['constant']} {figures['constant']:.4f}"
        if found["linear"]:
            text += f", {found['linear']} of {', '.join(found['reads'])} {figures['linear']:.4f}"
        lines.append(f"{text} (this model {figures['model']:.4f}).")
    if shares:
        lines.append(f"Shares of its answer: {shares['words']}.")
    return lines


def _by_group(column: str, measured: dict[str, Any]) -> dict[str, Any]:
    """Of the template: what the run measured per group of a column: a sentence, and rows."""
    key, groups, few = measured["metric"], measured["groups"], measured["few"]
    name, spread = _named(key)[0], measured["spread"].get(key)
    if spread is None:
        said = f"By {_cell(column)}, fewer than two groups have {few} labels: too few to say which is the worst."
    else:
        worst, best = ((spread[each], spread[f"{each}_value"]) for each in ("worst", "best"))
        said = f"By {_cell(column)}, {name} is worst for {_cell(worst[0])} ({worst[1]:.4f}) and best for "
        said += f"{_cell(best[0])} ({best[1]:.4f})."
    values = {group: each["metrics"].get(key) for group, each in groups.items()}
    marked = any(each["few"] for each in groups.values())
    return {
        "column": _cell(column),
        "metric": name,
        "said": said + f" A group marked * has fewer than {few} labels, too few to be compared." * marked,
        "more": max(len(groups) - _GROUPS_SHOWN, 0),
        "rows": [
            (
                _cell(group) + " *" * groups[group]["few"],
                groups[group]["labels"],
                "not defined" if values[group] is None else f"{values[group]:.4f}",
            )
            for group in list(groups)[:_GROUPS_SHOWN]
        ],
    }


def _cell(text: str) -> str:
    """A word of the data's own as a table of Markdown can hold it, and without what [`check_card`] takes for a hole."""
    plain = " ".join(text.split()).translate(str.maketrans("|{}<>", "/()()"))
    return re.sub(r"\bUndefined\b", "undefined", plain)


def _weights_fields(facts: _Facts) -> dict[str, Any]:
    """Of the template: how the model decides, as far as it was measured of this run's model."""
    config = read_json(facts.folder / "config.json")
    found = read_json(facts.folder / run_folder.WEIGHTS_FILE) or {}
    return {
        "levels": None if config is None else config.get("num_levels", 3),
        "weights": found if found.get("mark") == run_folder.run_mark(facts.run) else None,
        "figure": (facts.folder / run_folder.FIGURE_FILE).is_file(),
    }
