"""A decision as HTML: answer, weights, timeline, and what each modality contributes.

Plain HTML and SVG with the page's own text sizes, so that it reads as well on a telephone, in dark mode, and by a
screen reader (each drawing says in words what it shows). Everything that comes from outside is escaped. The styles
are in `style.css`.
"""

from html import escape
from itertools import pairwise
from typing import Any

from ..explain.decision import Decision, change, token_spans
from ..modalities import modality

_SENTIMENTS = ("negative", "neutral", "positive")
_TICKS = 5


def draw_reading(decision: Decision) -> tuple[str, str]:
    """The answer, and the reasons for it, as HTML."""
    reasons = (
        draw_left_out(decision),
        draw_timeline(decision.result["tokens"], decision.seconds),
        draw_weights(decision.weights),
    )
    return (
        f'<div class="clcr">{draw_answer(decision.result, decision.score_range)}</div>',
        f'<div class="clcr">{"".join(reasons)}</div>',
    )


def draw_answer(result: dict[str, Any], score_range: tuple[float, float] | None = None) -> str:
    """Score on its scale (drawn where its range is known), label and probabilities, or a table of segments."""
    if "segments" in result:
        rows = "".join(f"<tr>{_head(_when(part))}<td>{escape(_short(part))}</td></tr>" for part in result["segments"])
        return _section("Answer", _table("Each segment", rows))
    if "scores" in result:
        rows = "".join(f"<tr>{_head(name)}<td>{value:+.2f}</td></tr>" for name, value in result["scores"].items())
        return _section("Answer", _table("Score of each quantity", rows))
    if "probabilities" in result:
        several = ", ".join(result.get("labels", ())) or "none above 0.5"
        head = several if "labels" in result else result["label"]
        body = _bars("Probability of each label", result["probabilities"])
        return _section("Answer", f'<p class="clcr-score">{escape(head)}</p>{body}')
    scale = "" if score_range is None else _scale(result["score"], *score_range, result["label"] in _SENTIMENTS)
    return _section("Answer", f'<p class="clcr-score">{_signed(result)} <b>{escape(result["label"])}</b></p>{scale}')


def _scale(score: float, low: float, high: float, sentiment: bool) -> str:
    place = 100 * (min(max(score, low), high) - low) / (high - low)
    ends = (f"{low:g} negative", f"{(low + high) / 2:g}", f"positive {high:+g}")
    if not sentiment:
        ends = (f"{low:g}", f"{(low + high) / 2:g}", f"{high:g}")
    return (
        f'<div class="clcr-scale" role="img" aria-label="{score:+.2f} on a scale from {low:g} to {high:g}">'
        f'<i style="left:{place:.1f}%"></i></div>'
        f'<div class="clcr-ends">{"".join(f"<span>{end}</span>" for end in ends)}</div>'
    )


def draw_left_out(decision: Decision) -> str:
    """Table of the answers without each modality."""
    title = "What changes when a modality is taken away"
    if not decision.without:
        return _section(title, "<p>There is one modality alone, so none can be taken away.</p>")
    largest = max(map(abs, decision.changes.values())) or 1.0
    what = change(decision.result, next(iter(decision.without.values())))[0]
    rows = "".join(
        f"<tr>{_head(_name(gone))}<td>{escape(_short(decision.without[gone]))}</td>"
        f'<td>{value:+.3f}</td><td class="clcr-drawn">{_signed_bar(value / largest)}</td></tr>'
        for gone, value in decision.changes.items()
    )
    heads = f"<tr><th>Without</th><th>Answer</th><th>{escape(what[:1].upper() + what[1:])}</th><th></th></tr>"
    return _section(title, _table("Answers with one modality left out", rows, heads))


def draw_timeline(tokens: dict[str, list[dict[str, Any]]], seconds: float | None) -> str:
    """How much of each token was let across at each level, modality by modality, over the time of the clip."""
    drawn = [_lanes(name, found, seconds) for name, found in tokens.items() if found]
    note = "The higher a bar, the more that moment took part in the exchange; level 1 is the shallowest."
    if tokens.get("text") and seconds:
        note += " When each word was said is not known: they are spread evenly."
    axis = ""
    if seconds:
        marks = [seconds * index / _TICKS for index in range(_TICKS + 1)]
        axis = "".join(f"<span>{mark:.1f}{' s' if mark == marks[-1] else ''}</span>" for mark in marks)
        axis = f'<div class="clcr-lane"><span></span><div class="clcr-axis" aria-hidden="true">{axis}</div></div>'
    return _section("What was let across, and when", f"<p>{note}</p>{''.join(drawn)}{axis}")


def _lanes(name: str, tokens: list[dict[str, Any]], seconds: float | None) -> str:
    edges, budgets = token_spans(tokens, seconds)
    spans = list(pairwise(edges / edges[-1]))  # as shares of the whole
    lanes = []
    for level, values in enumerate(budgets.T):
        bars = [(begin, end, value) for (begin, end), value in zip(spans, values, strict=True)]
        rects = "".join(
            f'<rect x="{1000 * begin:.1f}" y="{100 - 100 * value:.1f}" width="{1000 * (end - begin) - 2:.1f}" '
            f'height="{100 * value:.1f}"/>'
            for begin, end, value in bars
        )
        lanes.append(
            f'<div class="clcr-lane"><span>level {level + 1}</span>'
            f'<svg viewBox="0 0 1000 100" preserveAspectRatio="none" role="img" '
            f'aria-label="{escape(_spoken(name, level, bars, seconds))}">{rects}</svg></div>'
        )
    words = _words(tokens) if name == "text" else ""
    return f'<h3>{_name(name)}</h3><div class="clcr-{escape(name)}">{"".join(lanes)}{words}</div>'


def _spoken(name: str, level: int, bars: list[tuple[float, float, float]], seconds: float | None) -> str:
    """A lane in words."""
    mean = sum((end - begin) * value for begin, end, value in bars)
    begin, end, most = max(bars, key=lambda bar: bar[2])
    place = f"{(begin + end) / 2 * seconds:.1f} s" if seconds else f"{50 * (begin + end):.0f} % of the way"
    return f"{_name(name)}, level {level + 1}: {mean:.2f} on average, most at {place} ({most:.2f})"


def _words(tokens: list[dict[str, Any]]) -> str:
    """The tokens as text, each underlined as thickly as it was let across (mean of its levels)."""
    spans = []
    for token in tokens:
        shown = str(token.get("token", token.get("index")))
        joined = shown.startswith("##")
        shown = shown.removeprefix("##").lstrip("Ġ▁")
        share = sum(token["budget"]) / len(token["budget"])
        spans.append(f'{"" if joined else " "}<span style="--share:{share:.2f}">{escape(shown)}</span>')
    return f'<p class="clcr-words">{"".join(spans)}</p>'


def draw_weights(weights: dict[str, Any]) -> str:
    """Which level and which modality decided, and how far private cues were let through."""
    levels = {f"level {level}": weight for level, weight in enumerate(weights["level_weights"], start=1)}
    return _section(
        "What decided",
        _bars("Weight of each level (1 is the shallowest)", levels)
        + _bars("Weight of each modality, of what they share", _named(weights["modality_weights"]))
        + _bars("Gate of each modality's private part (0 shut, 1 open)", _named(weights["private_gates"])),
    )


def _short(result: dict[str, Any]) -> str:
    """An answer in a table's cell."""
    if "segments" in result:
        return ", ".join(dict.fromkeys(part["label"] for part in result["segments"]))
    if "scores" in result:
        return ", ".join(f"{name} {value:+.2f}" for name, value in result["scores"].items())
    return f"{_signed(result)} {result['label']}"


def _signed(result: dict[str, Any]) -> str:
    """The score; with its sign where that means something."""
    return f"{result['score']:{'+' if result['label'] in _SENTIMENTS else ''}.2f}"


def _when(segment: dict[str, Any]) -> str:
    if "start" in segment:
        return f"{segment['start']:.1f} to {segment['end']:.1f} s"
    return f"segment {segment['index'] + 1}"


def _bars(caption: str, values: dict[str, float]) -> str:
    rows = "".join(
        f'<tr>{_head(name)}<td>{value:.3f}</td><td class="clcr-drawn">'
        f'<div class="clcr-bar"><i style="width:{100 * value:.1f}%"></i></div></td></tr>'
        for name, value in values.items()
    )
    return _table(caption, rows)


def _signed_bar(share: float) -> str:
    """A bar to the right of the middle for a gain, to the left for a loss; `share` in [-1, 1]."""
    left, width = min(50.0, 50 + 50 * share), 50 * abs(share)
    return f'<div class="clcr-bar clcr-signed"><i style="left:{left:.1f}%;width:{width:.1f}%"></i></div>'


def _table(caption: str, rows: str, heads: str = "") -> str:
    return f"<table><caption>{escape(caption)}</caption>{heads}{rows}</table>"


def _section(title: str, body: str) -> str:
    return f'<section aria-label="{escape(title)}"><h2>{escape(title)}</h2>{body}</section>'


def _head(name: str) -> str:
    return f'<th scope="row">{escape(name)}</th>'


def _name(name: str) -> str:
    return escape(modality(name).title)


def _named(values: dict[str, float]) -> dict[str, float]:
    return {_name(name): value for name, value in values.items()}
