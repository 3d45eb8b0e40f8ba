"""A model card written from a training run's own files: no figure in it that the run did not measure.

Beside `run.json`, the record of the run, these files of its folder are read where they are there: `card.json` (what
the user says of it: licence, benchmark, examples; see [`set_card_options`]), `how_it_decides.json` and `.png` (see
`clcr_hf.hub.means.build_card_pictures`) and `emissions.csv` (written by codecarbon, if the user ran it).
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
from .benchmarks import BENCHMARKS, PAPER_CITATION, Benchmark, benchmark_of
from .run_folder import (
    EVAL_RESULTS,
    PICTURE_FILE,
    WEIGHTS_FILE,
    CardOptions,
    is_hub_id,
    measured_figures,
    read_card_options,
    read_emissions,
    read_run,
    run_mark,
)
from .texts import SUBJECTS, TEXTS, limits

TEMPLATE = Path(__file__).parent / "model_card.md"

_METRICS: dict[str, list[str]] = TEXTS["metrics"]
_PIPELINE_TAGS = ("video-classification", "audio-classification", "text-classification")
DATA_LICENSE = {"license": "other", "license_name": "terms-of-the-training-data"}
LICENSE_NOTE: str = TEXTS["license_note"]


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
    run, modalities = facts.run, facts.run["modalities"]
    data = _card_data(facts)
    card = render_card(
        data,
        model_id=facts.model_id,
        modalities=modalities,
        subject=facts.subject,
        output=facts.output,
        measured=True,
        **_run_fields(facts),
        **_weights_fields(facts),
        paper=paper_table(facts.benchmark) if facts.benchmark and facts.is_papers_task else None,
        dataset=_data_texts(facts),
        examples=len(facts.options.examples),
        license_note=LICENSE_NOTE if getattr(data, "license", None) == "other" else None,
        limits=limits(facts.subject, modalities, f"Trained on {facts.title}{_count(run['num_examples'].get('train'))}"),
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
    options: CardOptions
    benchmark: Benchmark | None

    @classmethod
    def read(cls, folder: Path, model_id: str | None) -> "_Facts":
        run, options = read_run(folder), read_card_options(folder)
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
    def is_papers_task(self) -> bool:
        """Whether the benchmark's labels were learned that the paper reports; MOSEI has emotions too, AVE seconds."""
        return self.benchmark is not None and self.kind == self.benchmark.problem_type

    @property
    def output(self) -> str:
        if self.benchmark is not None and self.is_papers_task:
            return self.benchmark.output
        limits = self.run.get("label_range") if self.kind == "scores" else None
        if not limits:
            return TEXTS["tasks"][self.kind][0]
        if isinstance(limits[0], list):
            return f"{len(limits)} scores"
        return f"a score from {limits[0]:g} to {limits[1]:g}"

    @property
    def subject(self) -> str:
        """What the labels are about; see `card_texts`."""
        if self.benchmark is not None:
            emotions = self.benchmark.subject == "sentiment" and not self.is_papers_task
            return "emotion" if emotions else self.benchmark.subject
        if self.run["generated"]:
            return "drawn faces"
        return "sentiment" if self.kind == "regression" else "labels"


def _run_fields(facts: _Facts) -> dict[str, Any]:
    """Of the template: what was run and measured."""
    run = facts.run
    columns = run.get("inputs", {})
    split, figures = measured_figures(run)
    return {
        "generated": run["generated"],
        "per_segment": facts.kind == "segments",
        "features": any(column.endswith("_features") or column == "input_ids" for column in columns.values()),
        "inputs": [modality(name).inputs[0] if column in RAW_COLUMNS else column for name, column in columns.items()],
        "selected": run.get("selected_by", True),
        "split": split,
        "seed": run["seed"],
        "num_test": run["num_examples"].get(split),
        "results": [(_named(key)[0], _figure(value)) for key, value in figures.items()],
        "settings": list(run["settings"].items()),
        "command": run["command"],
        "versions": ", ".join(f"{name} {version}" for name, version in run["versions"].items()),
        "compute": _compute(run, read_emissions(facts.folder)),
    }


def render_card(
    data: ModelCardData, *, model_id: str, modalities: Sequence[str], subject: str, **fields: Any
) -> ModelCard:
    """
    The template filled in.

    Args:
        data: the metadata.
        model_id: what the examples load.
        modalities, subject: what the model reads and what its labels are about; see `clcr_hf.hub.texts`.
        fields: the rest of the template's names.
    """
    text, media = "text" in modalities, set(modalities) & {"vision", "audio", "flow"}
    sample = {"media": "clip.mp4" if media else None, "text": "what is said in it" if text else None}
    sample["flow"] = "flow.npz" if "flow" in modalities else None
    own = [name for name in modalities if name not in STANDARD_MODALITIES]
    sample |= {modality(name).features: f"{name}.npy" for name in own}
    shell = [*(["clip.mp4"] if media else []), *(['--text "what is said in it"'] if text else [])]
    per_segment = fields.get("per_segment")
    return ModelCard.from_template(
        data,
        template_path=str(TEMPLATE),
        title=model_id,
        model_id=model_id,
        modalities=_listed(modalities),
        head="AutoModelForTokenClassification" if per_segment else "AutoModelForSequenceClassification",
        example=json.dumps({name: value for name, value in sample.items() if value is not None}),
        shell_example="" if own or "flow" in modalities else "".join(f"{word} " for word in shell),
        reads_files=bool(media),
        intended=SUBJECTS[subject]["intended"],
        out_of_scope=SUBJECTS[subject]["out_of_scope"],
        **fields,
    )


def write_model_card(folder: str | Path, model_id: str | None = None) -> Path:
    """Writes the card of the run in `folder` to its `README.md` and returns that path; see [`card_from_run`]. With a
    `dataset_id` in the options, the figures go to `.eval_results/results.yaml` too, see [`eval_result_entries`]."""
    folder = Path(folder)
    card_from_run(folder, model_id).save(folder / "README.md")
    dataset_id = read_card_options(folder).dataset_id
    if dataset_id is not None:
        entries = eval_result_entries_to_yaml(eval_result_entries(folder, dataset_id))
        write_text(folder / EVAL_RESULTS, yaml.safe_dump(entries, sort_keys=False))
    return folder / "README.md"


def eval_result_entries(folder: str | Path, dataset_id: str) -> list[EvalResultEntry]:
    """
    The measured figures in the form that the Hub reads from `.eval_results/*.yaml`, one entry a metric.

    Args:
        folder: of the run.
        dataset_id: name on the Hub of the data set that was measured on. The run does not know it.
    """
    run = read_run(folder)
    split, figures = measured_figures(run)
    return [
        EvalResultEntry(
            dataset_id=dataset_id,
            task_id=key,
            value=round(value, 4),
            notes=f"{_named(key)[0]}, {split} split, seed {run['seed']}",
        )
        for key, value in figures.items()
        if math.isfinite(value)
    ]


# -- metadata ---------------------------------------------------------------------------------------------------------


def pipeline_tag(modalities: Sequence[str]) -> str | None:
    """The Hub's nearest task: it has none for several modalities at once. None for modalities of a user's own."""
    for tag, names in zip(_PIPELINE_TAGS, ({"vision", "flow"}, {"audio"}, {"text"}), strict=True):
        if names & set(modalities):
            return tag
    return None


def card_tags(modalities: Sequence[str], subject: str) -> list[str]:
    """What to find the model by."""
    several = ["multimodal"] if len(modalities) > 1 else []
    return ["clcr", *several, *SUBJECTS[subject]["tags"], *modalities]


def _card_data(facts: _Facts) -> ModelCardData:
    run, options = facts.run, facts.options
    modalities = run["modalities"]
    bases = base_models(run.get("model_arguments") or {})
    emissions = read_emissions(facts.folder)
    if emissions is not None:
        emissions["metadata"]["training_type"] = "fine-tuning" if bases else "pre-training"
    results = _eval_results(facts)
    return ModelCardData(
        language=_language(run, facts.benchmark),
        **_license(run, options, facts.benchmark),
        library_name="transformers",
        pipeline_tag=pipeline_tag(modalities),
        tags=card_tags(modalities, facts.subject),
        datasets=[options.dataset_id] if options.dataset_id else None,
        base_model=bases or None,
        model_name=facts.model_id if results else None,  # the Hub keeps it in the list of results
        eval_results=results,
        base_model_relation="finetune" if bases else None,
        widget=_widget(options.examples, facts.model_id, run_mark(run)) or None,
        # What an endpoint's widget sends along with an input; see handler.py.
        inference={"parameters": {"return_explanation": True}} if facts.kind != "segments" else None,
        co2_eq_emissions=emissions["metadata"] if emissions else None,
    )


def _language(run: dict[str, Any], benchmark: Benchmark | None) -> str | None:
    if benchmark is not None:
        return benchmark.language if {"text", "audio"} & set(run["modalities"]) else None
    return "en" if run["generated"] else None


def _license(run: dict[str, Any], options: CardOptions, benchmark: Benchmark | None) -> dict[str, str]:
    if options.license is not None:
        return dict(DATA_LICENSE) if options.license == "other" else {"license": options.license}
    if run["generated"]:
        return {"license": "apache-2.0"}
    return dict(DATA_LICENSE) if benchmark is not None else {}


def base_models(model_arguments: dict[str, Any]) -> list[str]:
    """Names on the Hub of the pretrained backbones; folders of the user's own are none."""
    modalities = model_arguments.get("modalities") or STANDARD_MODALITIES
    named = [model_arguments.get(f"{name}_model_name_or_path") for name in modalities]
    return list(dict.fromkeys(name for name in named if name and is_hub_id(name) and not Path(name).exists()))


def _widget(examples: Sequence[dict[str, Any]], model_id: str, mark: str) -> list[dict[str, Any]]:
    """Examples as the Hub reads them: `src` and `text`, and the output that this model gave."""
    address = f"https://huggingface.co/{model_id}/resolve/main"
    widget = []
    for example in examples:
        entry = {"example_title": example.get("title"), "text": example.get("text")}
        entry["output"] = example.get("output") if example.get("mark") == mark else None
        entry["src"] = f"{address}/{example['file']}" if example.get("file") else None
        widget.append({name: value for name, value in entry.items() if value})
    return widget


def _eval_results(facts: _Facts) -> list[EvalResult] | None:
    split, figures = measured_figures(facts.run)
    results = [
        EvalResult(
            task_type=pipeline_tag(facts.run["modalities"]) or "other",
            task_name=TEXTS["tasks"][facts.kind][1],
            dataset_type=facts.run["dataset"],
            dataset_name=facts.title,
            dataset_split=split,
            metric_type=_named(key)[1],
            metric_name=_named(key)[0],
            metric_value=round(value, 4),
        )
        for key, value in figures.items()
        if math.isfinite(value)
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
    problems += [f"{name!r} is no name on the Hub" for name in [*bases, *(data.datasets or [])] if not is_hub_id(name)]
    if data.license == "other" and not getattr(data, "license_name", None):
        problems.append("the licence 'other' needs a license_name")
    if re.search(r"\{\{|\{%|\bUndefined\b", card.text):
        problems.append("the text holds pieces of the template")
    if problems:
        raise ValueError("the card is not fit to publish: " + "; ".join(problems))


# -- parts of the text ------------------------------------------------------------------------------------------------


def _named(key: str) -> Sequence[str]:
    if key in _METRICS:
        return _METRICS[key]
    metric, _, score = key.partition("_")  # of one score of several
    name, kind = _METRICS.get(metric, (key, key))
    return (f"{name}, {score}" if metric in _METRICS else name), kind


def _count(examples: int | None) -> str:
    return f" ({examples:,} examples)" if examples else ""


def _figure(value: float) -> str:
    return f"{value:.4f}" if math.isfinite(value) else "not defined"


def _listed(names: Sequence[str]) -> str:
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"


def paper_table(benchmark: Benchmark) -> dict[str, Any]:
    """The paper's figures as names of columns, rows and a note."""
    names = list(benchmark.figures)
    methods = list(next(iter(benchmark.figures.values())))
    rows = [[method, *(benchmark.figures[name][method] for name in names)] for method in methods]
    return {"names": names, "rows": rows, "note": benchmark.note}


def _data_texts(facts: _Facts) -> dict[str, str | None]:
    if facts.run["generated"]:
        return TEXTS["data"]["generated"]
    if facts.benchmark is None:
        unknown = TEXTS["data"]["unknown"]
        return unknown | {"content": unknown["content"].format(title=facts.title)}
    return benchmark_texts(facts.benchmark)


def benchmark_texts(benchmark: Benchmark) -> dict[str, str | None]:
    """Of a benchmark: its content, terms, people, and page in the documentation."""
    content = f"{benchmark.title}. {benchmark.content}"
    return {"content": content, "terms": benchmark.terms, "people": benchmark.people, "page": benchmark.key}


def _weights_fields(facts: _Facts) -> dict[str, Any]:
    """Of the template: how the model decides, as far as it was measured of this run's model."""
    config = read_json(facts.folder / "config.json")
    fields: dict[str, Any] = {"weights": None, "levels": None if config is None else config.get("num_levels", 3)}
    found = read_json(facts.folder / WEIGHTS_FILE) or {}
    if found.get("mark") != run_mark(facts.run):
        return fields
    named = {f"level {number}": value for number, value in enumerate(found["level_weights"], start=1)}
    named |= {f"{name}, shared": value for name, value in found["modality_weights"].items()}
    named |= {f"{name}, gate of what is private": value for name, value in found["private_gates"].items()}
    table = [(name, f"{value['mean']:.3f} ± {value['std']:.3f}") for name, value in named.items()]
    weights = {"rows": found["rows"], "split": found["split"], "table": table}
    return {**fields, "picture": (facts.folder / PICTURE_FILE).is_file(), "weights": weights}


def _compute(run: dict[str, Any], emissions: dict[str, Any] | None) -> str:
    """Hours and carbon, as far as they were measured."""
    seconds = run["metrics"].get("train_runtime")
    settings = run.get("settings") or {}
    parts = []
    if seconds is not None:
        device, processes = settings.get("device", "an unrecorded device"), int(settings.get("processes", 1))
        hours = seconds * processes / 3600
        parts.append(
            f"Training took {_duration(seconds)} in {processes} process{'es' if processes > 1 else ''} on `{device}` "
            f"({hours:.3g} process hours), trials before this run not counted."
        )
    else:
        parts.append("How long training took was not recorded.")
    if emissions is None:
        parts.append("Energy and emissions were not measured.")
    else:
        parts.append(f"codecarbon measured {emissions['grams']:.3g} g of CO2 equivalents{emissions['where']}.")
    return " ".join(parts)


def _duration(seconds: float) -> str:
    if seconds < 120:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 7200 else f"{seconds / 3600:.1f} h"


__all__ = [
    "base_models",
    "benchmark_texts",
    "card_from_run",
    "card_tags",
    "check_card",
    "eval_result_entries",
    "paper_table",
    "pipeline_tag",
    "render_card",
    "write_model_card",
]
