"""A reading as HTML: answer, weights, timeline, and what each modality contributes.

Plain HTML and SVG with the page's own text sizes, so that it reads as well on a telephone, in dark mode, and by a
screen reader (each drawing says in words what it shows). Everything that comes from outside is escaped. The styles
are in `style.css`.
"""

from html import escape
from itertools import pairwise
from typing import Any

from .reading import Reading

_NAMES = {"text": "Text", "vision": "Vision", "audio": "Audio", "flow": "Motion"}
_SENTIMENTS = ("negative", "neutral", "positive")
_SCALE = 3.0  # the answers of a sentiment model lie in [-3, 3]
_TICKS = 5


def draw_reading(reading: Reading) -> tuple[str, str]:
    """The answer, and the reasons for it, as HTML."""
    result = reading.result
    reasons = (
        draw_left_out(reading),
        draw_timeline(result["tokens"], reading.seconds),
        draw_weights(mean_weights(result)),
    )
    return f'<div class="clcr">{draw_answer(result)}</div>', f'<div class="clcr">{"".join(reasons)}</div>'


def draw_answer(result: dict[str, Any]) -> str:
    """Score on its scale, label and probabilities, or a table of segments."""
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
    scale = _scale(result["score"]) if result["label"] in _SENTIMENTS else ""
    return _section(
        "Answer", f'<p class="clcr-score">{result["score"]:+.2f} <b>{escape(result["label"])}</b></p>{scale}'
    )


def _scale(score: float) -> str:
    place = 50 * (1 + max(-_SCALE, min(_SCALE, score)) / _SCALE)
    return (
        f'<div class="clcr-scale" role="img" aria-label="{score:+.2f} on a scale from -3 to 3">'
        f'<i style="left:{place:.1f}%"></i></div>'
        '<div class="clcr-ends"><span>-3 negative</span><span>0</span><span>positive +3</span></div>'
    )


def draw_left_out(reading: Reading) -> str:
    """Table of the answers without each modality."""
    title = "What changes when a modality is taken away"
    if not reading.without:
        return _section(title, "<p>There is one modality alone, so none can be taken away.</p>")
    compared = {gone: change(reading.result, other) for gone, other in reading.without.items()}
    largest = max(abs(value) for _, value in compared.values()) or 1.0
    what = next(iter(compared.values()))[0]
    rows = "".join(
        f"<tr>{_head(_name(gone))}<td>{escape(_short(reading.without[gone]))}</td>"
        f'<td>{value:+.3f}</td><td class="clcr-drawn">{_signed_bar(value / largest)}</td></tr>'
        for gone, (_, value) in compared.items()
    )
    heads = f"<tr><th>Without</th><th>Answer</th><th>{escape(what)}</th><th></th></tr>"
    return _section(title, _table("Answers with one modality left out", rows, heads))


def change(full: dict[str, Any], other: dict[str, Any]) -> tuple[str, float]:
    """What differs, in words, and by how much from `full` to `other`: the score, the probability of `full`'s label,
    of several scores the one that moves most, or of segments the share whose label becomes another."""
    if "segments" in full:
        pairs = list(zip(full["segments"], other["segments"], strict=False))
        return "Share of labels changed", sum(a["label"] != b["label"] for a, b in pairs) / max(len(pairs), 1)
    if "probabilities" in full:
        label = full["label"]
        return f"Change of P({label})", other["probabilities"][label] - full["probabilities"][label]
    if "scores" in full:
        moved = {name: other["scores"][name] - value for name, value in full["scores"].items()}
        return "Largest change", max(moved.values(), key=abs)
    return "Change of score", other["score"] - full["score"]


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
    spans = token_spans(tokens, seconds)
    lanes = []
    for level in range(len(tokens[0]["budget"])):
        bars = [(begin, end, budget[level]) for begin, end, budget in spans]
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


def token_spans(tokens: list[dict[str, Any]], seconds: float | None) -> list[tuple[float, float, list[float]]]:
    """Begin and end of each stretch as shares of the whole, and its budget by level. Tokens of one moment (patches of
    one frame) become one stretch, with their mean; tokens without a time are spread evenly."""
    levels = len(tokens[0]["budget"])
    if not seconds or any("time" not in token for token in tokens):
        return [(i / len(tokens), (i + 1) / len(tokens), token["budget"]) for i, token in enumerate(tokens)]
    moments: dict[float, list[list[float]]] = {}
    for token in tokens:
        moments.setdefault(min(max(token["time"] / seconds, 0.0), 1.0), []).append(token["budget"])
    times = sorted(moments)
    edges = [0.0, *((left + right) / 2 for left, right in pairwise(times)), 1.0]
    means = [
        [sum(budget[level] for budget in moments[time]) / len(moments[time]) for level in range(levels)]
        for time in times
    ]
    return [(*edge, mean) for edge, mean in zip(pairwise(edges), means, strict=True)]


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


def mean_weights(result: dict[str, Any]) -> dict[str, Any]:
    """`level_weights`, `modality_weights` and `private_gates` of a result; of segments, their means."""
    parts = result.get("segments", [result])
    weights: dict[str, Any] = {
        name: {key: sum(part[name][key] for part in parts) / len(parts) for key in parts[0][name]}
        for name in ("modality_weights", "private_gates")
    }
    levels = zip(*(part["level_weights"] for part in parts), strict=True)
    return {"level_weights": [sum(level) / len(parts) for level in levels], **weights}


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
    sign = "+" if result["label"] in _SENTIMENTS else ""
    return f"{result['score']:{sign}.2f} {result['label']}"


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


def _name(modality: str) -> str:
    return _NAMES.get(modality, escape(modality))


def _named(values: dict[str, float]) -> dict[str, float]:
    return {_name(name): value for name, value in values.items()}
