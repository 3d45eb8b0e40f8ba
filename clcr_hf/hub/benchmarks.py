"""The six benchmarks of the paper as a model card tells of them; the facts themselves are in `benchmarks.yaml`."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml


@dataclass(frozen=True)
class Benchmark:
    """
    One benchmark.

    Args:
        key: name of its recipe and its page.
        sources: names of `--dataset` that may hold it.
        title: what people call it.
        output: what a model of it gives, as in "gives a sentiment score".
        content: one or two sentences on what the data are.
        terms: what is known of their licence.
        people: who is in them, as far as their authors say.
        problem_type: what the paper's task is, as in a model's configuration.
        subject: `"sentiment"`, `"acted emotion"`, `"events"` or `"actions"`: what the labels are about.
        figures: name of each figure of the paper's and its values by method, as printed; CLCR is the last.
        note: what to know before comparing.
        citations: BibTeX.
        counts: examples in training and test of the usual split.
        language: of the speech, where the model reads any.
    """

    key: str
    sources: list[str]
    title: str
    output: str
    content: str
    terms: str
    people: str
    problem_type: str
    subject: str
    figures: dict[str, dict[str, str]]
    note: str
    citations: list[str]
    counts: list[int]
    language: str | None = None


_FACTS = yaml.safe_load(Path(__file__).with_suffix(".yaml").read_text(encoding="utf-8"))
PAPER_CITATION: str = _FACTS["paper_citation"]
BENCHMARKS = {key: Benchmark(key=key, **facts) for key, facts in _FACTS["benchmarks"].items()}


def benchmark_of(run: dict[str, Any]) -> Benchmark | None:
    """
    The benchmark that a run's record is of, or None where that is not certain: files of CMU-MOSI and CMU-MOSEI are
    told apart by what the user said, else by the exact numbers of the usual split's examples.
    """
    found = [benchmark for benchmark in BENCHMARKS.values() if run.get("dataset") in benchmark.sources]
    if len(found) > 1:
        options = (run.get("data_arguments") or {}).get("dataset_options") or ""
        named = [benchmark for benchmark in found if f"dataset={benchmark.key}" in options.split(",")]
        examples = run.get("num_examples") or {}
        counts = [examples.get("train"), examples.get("test")]
        found = named or [benchmark for benchmark in found if benchmark.counts == counts]
    return found[0] if found else None


__all__ = ["BENCHMARKS", "PAPER_CITATION", "Benchmark", "benchmark_of"]
