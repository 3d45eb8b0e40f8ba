"""A decision as HTML: answer, weights, timeline, and what each modality contributes.

Plain HTML and SVG with the page's own text sizes, so that it reads as well on a telephone, in dark mode, and by a
screen reader (each drawing says in words what it shows). The markup is in `reading.html`, which escapes everything
that comes from outside; the styles are in `style.css`.
"""

from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader
from markupsafe import Markup

from ..explain.decision import Decision, change, token_spans, word
from ..modalities import modality


def _title(name: str) -> str:
    return modality(name).title


_FILES = FileSystemLoader(Path(__file__).parent)
_ENVIRONMENT = Environment(loader=_FILES, autoescape=True, trim_blocks=True, lstrip_blocks=True)
_MACROS: Any = _ENVIRONMENT.get_template("reading.html", globals={"title": _title, "word": word}).module


def draw_reading(decision: Decision) -> tuple[str, str]:
    """The answer, and the reasons for it, as HTML."""
    what = [change(decision.result, other)[0] for other in decision.without.values()]
    answer = draw_answer(decision.result, decision.score_range)
    added = _MACROS.added(*decision.evidence)
    left_out = _MACROS.left_out(decision, what[0] if what else "")
    timeline = draw_timeline(decision.result["tokens"], decision.seconds)
    reasons = added + left_out + timeline + _MACROS.weights(decision.weights)
    return f'<div class="clcr">{answer}</div>', f'<div class="clcr">{reasons}</div>'


def draw_answer(result: dict[str, Any], score_range: tuple[float, float] | None = None) -> Markup:
    """Score on its scale (drawn where its range is known), label and probabilities, or a table of segments."""
    return _MACROS.answer(result, score_range)


def draw_timeline(tokens: dict[str, list[dict[str, Any]]], seconds: float | None) -> Markup:
    """How much of each token was let across at each level, modality by modality, over the time of the clip."""
    if not tokens:  # without a joint path no token is exchanged
        return Markup()
    lanes = {name: _lanes(name, found, seconds) for name, found in tokens.items() if found}
    return _MACROS.timeline(lanes, tokens.get("text", []), seconds)


def _lanes(name: str, tokens: Sequence[dict[str, Any]], seconds: float | None) -> list[dict[str, Any]]:
    """For each level its bars, as (begin, end, budget) in shares of the whole, and what they show in words."""
    edges, budgets = token_spans(tokens, seconds)
    lanes = []
    for level, values in enumerate(budgets.T, start=1):
        bars = [(begin, end, value) for (begin, end), value in zip(pairwise(edges / edges[-1]), values, strict=True)]
        mean = sum((end - begin) * value for begin, end, value in bars)
        begin, end, most = max(bars, key=lambda bar: bar[2])
        place = f"{(begin + end) / 2 * seconds:.1f} s" if seconds else f"{50 * (begin + end):.0f} % of the way"
        spoken = f"{_title(name)}, level {level}: {mean:.2f} on average, most at {place} ({most:.2f})"
        lanes.append({"bars": bars, "spoken": spoken})
    return lanes
