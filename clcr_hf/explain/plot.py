"""Pictures of what decided, drawn with matplotlib: of one clip, and of means over a data set. See `explain.py`."""

import os
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ..data.errors import optional_package
from ..data.folders import replacing
from ..modalities import modality
from .decision import Decision, change, token_spans, word

# Of what is no modality; for levels greys.
_OTHER_COLOUR = modality("").colour
_LABEL_COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
_LEVEL_COLOUR, _GATE_ALPHA = "#6b7280", 0.45
_WIDTH, _BARS_HEIGHT, _LEVEL_HEIGHT = 11.0, 1.75, 0.24
_LEAST_RANGE = 0.1  # budgets that differ by less are drawn as nearly alike
_UPRIGHT_WORDS = 14  # more tokens than this have their words turned
_LONGEST_TITLE = 100


def draw_decision(decision: Decision, path: str | os.PathLike, title: str = "") -> Path:
    """
    Draws one decision: the answer; weights of levels and modalities and private gates; how the answer changes without
    each modality; and how much of each token crossed over at each level, over seconds or words.

    Args:
        decision: of `explain`.
        path: file to write; its suffix says the format (png, svg, pdf).
        title: what is explained, such as the clip's name and its words.

    Raises:
        ImportError: matplotlib is not there.
        ValueError: a format that matplotlib does not write.
    """
    shown = {name: tokens for name, tokens in decision.result["tokens"].items() if tokens}
    strips = [_strip_height(tokens) for tokens in shown.values()]
    segments = [0.5] if "segments" in decision.result else []
    heights = [_BARS_HEIGHT, *segments, *strips]
    figure = _figure(_WIDTH, sum(heights) + 0.62 * len(heights) + 0.85)
    grid = figure.add_gridspec(len(heights), 3, height_ratios=heights)
    _headline(figure, _answer(decision.result), title)
    _draw_bars([figure.add_subplot(grid[0, column]) for column in range(3)], decision)
    row = 1
    if segments:
        _draw_segments(figure.add_subplot(grid[row, :]), decision)
        row += 1
    axes = [figure.add_subplot(grid[row + index, :]) for index in range(len(shown))]
    _draw_strips(figure, axes, shown, decision.seconds)
    return _save(figure, path)


def draw_mean_weights(measured: Mapping[str, Any], path: str | os.PathLike) -> Path:
    """
    Draws means over a data set as bars, with the standard deviation between examples as whiskers.

    Args:
        measured: of `mean_weights`, with `split`.
        path: file to write.
    """
    figure = _figure(8.5, 2.5)
    left, right = figure.subplots(1, 2)
    _headline(figure, "", f"means over {measured['rows']} examples of the {measured['split']} split; lines: ± 1 s.d.")
    levels = {_level(number): value for number, value in enumerate(measured["level_weights"], start=1)}
    _bars(left, "weight of each level", levels, [_LEVEL_COLOUR] * len(levels))
    _pairs(right, measured["modality_weights"], measured["private_gates"])
    return _save(figure, path)


def draw_timeline(rows: Iterable[Mapping[str, Any]], path: str | os.PathLike, title: str = "") -> Path:
    """
    Draws the answers to the windows of a recording over its time: the score (or the probability of each label), and
    below it the weights of modalities and levels. A window stands at its middle; one without an answer leaves a gap.

    Args:
        rows: of `clcr_hf.predict`: dicts with `start`, `end`, and columns as `column_types` names them.
        path: file to write; its suffix says the format (png, svg, pdf).
        title: name of the recording.

    Raises:
        ValueError: no window has an answer, or a format that matplotlib does not write.
        ImportError: matplotlib is not there.
    """
    windows = sorted((row for row in rows if row.get("start") is not None), key=lambda row: row["start"])
    if all(row.get("error") for row in windows):
        raise ValueError("no window has an answer: there is nothing to draw")
    middles = np.array([(row["start"] + row["end"]) / 2 for row in windows])
    figure = _figure(_WIDTH, 6.4)
    axes = figure.subplots(3, 1, sharex=True, height_ratios=(2.2, 1, 1))
    answered = sum(not row.get("error") for row in windows)
    missing = f", {len(windows) - answered} of them without an answer" if answered < len(windows) else ""
    _headline(figure, f"{len(windows)} window{'s' * (len(windows) > 1)}{missing}", title)
    _draw_answers(axes[0], windows, middles)
    for drawn, start, what in ((axes[1], "modality_weight_", "modality"), (axes[2], "level_weight_", "level")):
        shares = _columns(windows, start)
        colours = [modality(name).colour if what == "modality" else _grey(int(name), len(shares)) for name in shares]
        names = [name if what == "modality" else _level(int(name)) for name in shares]
        _stack(drawn, middles, shares, names, colours)
        _plain(drawn, f"weight of each {what}", grid=False)
    axes[2].set_xlim(min(row["start"] for row in windows), max(row["end"] for row in windows))
    axes[2].set_xlabel("seconds", fontsize=9)
    return _save(figure, path)


# -- parts ------------------------------------------------------------------------------------------------------------


def _draw_bars(axes: Sequence[Any], decision: Decision) -> None:
    weights = decision.weights
    levels = {_level(number): value for number, value in enumerate(weights["level_weights"], start=1)}
    _bars(axes[0], "weight of each level", levels, [_LEVEL_COLOUR] * len(levels))
    present = [name for name, tokens in decision.result["tokens"].items() if tokens]
    shared, gates = ({name: weights[kind][name] for name in present} for kind in ("modality_weights", "private_gates"))
    _pairs(axes[1], shared, gates)
    _changes(axes[2], decision)


def _bars(axes: Any, title: str, values: Mapping[str, Any], colours: Sequence[str]) -> None:
    """Horizontal bars from 0 to 1, a number at each; a value may be a dict of mean and std."""
    means = [_mean(value) for value in values.values()]
    axes.barh(list(values), means, color=colours, xerr=_errors(values), error_kw=_WHISKER, height=0.62)
    for row, value in enumerate(means):
        axes.text(1.02, row, f"{value:.2f}", va="center", fontsize=9)
    _unit_axis(axes, title)


def _pairs(axes: Any, shared: Mapping[str, Any], gates: Mapping[str, Any]) -> None:
    """Two bars for each modality: its weight in what is shared, and the gate of what it keeps to itself."""
    places = np.arange(len(shared))
    colours = [modality(name).colour for name in shared]
    for offset, values, alpha in ((-0.19, shared, 1.0), (0.19, gates, _GATE_ALPHA)):
        means = [_mean(value) for value in values.values()]
        axes.barh(places + offset, means, 0.36, color=colours, alpha=alpha, xerr=_errors(values), error_kw=_WHISKER)
        for place, value in zip(places, means, strict=True):
            axes.text(1.02, place + offset, f"{value:.2f}", va="center", fontsize=8)
    axes.set_yticks(places, list(shared))
    _unit_axis(axes, "modality: weight of what is shared (dark),\ngate of what is private (light)")


def _changes(axes: Any, decision: Decision) -> None:
    """How the answer moves without each modality."""
    if not decision.without:
        axes.axis("off")
        axes.text(0.5, 0.5, "one modality alone:\nnone can be left out", ha="center", va="center", color="#555555")
        return
    changes = decision.changes
    places = np.arange(len(changes))
    axes.barh(places, list(changes.values()), 0.62, color=[modality(name).colour for name in changes])
    axes.set_yticks(places, [f"without {name}" for name in changes])
    reach = 1.75 * max(max(abs(value) for value in changes.values()), 0.05)
    signed = "segments" not in decision.result
    axes.set_xlim(-reach if signed else 0, reach)
    for place, value in zip(places, changes.values(), strict=True):
        label = f"{value:+.2f}" if signed else f"{100 * value:.0f}%"
        side, where = ("left", 0.03) if value >= 0 else ("right", -0.03)
        axes.text(value + where * reach, place, label, va="center", ha=side, fontsize=9)
    axes.axvline(0, color="#333333", linewidth=0.8)
    what = change(decision.result, next(iter(decision.without.values())))[0]
    axes.invert_yaxis()
    _plain(axes, f"{what}\nwhen a modality is left out")


def _draw_answers(axes: Any, windows: Sequence[Mapping[str, Any]], middles: np.ndarray) -> None:
    """Lines of what the model answered: probabilities, several scores, or one."""
    found = next((_columns(windows, start) for start in ("probability_", "score_") if _columns(windows, start)), None)
    lines = found or {"score": np.array([_number(row.get("score")) for row in windows])}
    for index, (name, values) in enumerate(lines.items()):
        colour = _LABEL_COLOURS[index % len(_LABEL_COLOURS)]
        style = ("-", "--", ":")[index // len(_LABEL_COLOURS) % 3]
        axes.plot(middles, values, style, color=colour, label=name, marker="o", markersize=3, linewidth=1.4)
    if "probability_" in "".join(windows[0]):
        axes.set_ylim(0, 1.02)
    elif min(map(np.nanmin, lines.values())) < 0 < max(map(np.nanmax, lines.values())):
        axes.axhline(0, color="#999999", linewidth=0.8)
    if len(lines) > 1:
        axes.legend(loc="center left", bbox_to_anchor=(1.0, 0.5), fontsize=8, frameon=False)
    _plain(axes, "score" if not found else "probability of each label" if axes.get_ylim()[1] == 1.02 else "scores")


def _columns(windows: Sequence[Mapping[str, Any]], start: str) -> dict[str, np.ndarray]:
    """Columns whose names begin so, by the rest of their names; NaN where a window has no value."""
    names = [name for name in windows[0] if name.startswith(start)]
    return {name[len(start) :]: np.array([_number(row.get(name)) for row in windows]) for name in names}


def _number(value: float | None) -> float:
    return np.nan if value is None else value


def _stack(
    axes: Any, middles: np.ndarray, shares: Mapping[str, np.ndarray], names: Sequence[str], colours: Sequence[str]
) -> None:
    """Shares of one, one on top of the other."""
    if len(middles) == 1:  # an area needs two moments
        middles, shares = middles + [-0.5, 0.5], {name: np.repeat(values, 2) for name, values in shares.items()}
    axes.stackplot(middles, *shares.values(), labels=names, colors=colours, linewidth=0)
    axes.set_ylim(0, 1)
    axes.legend(loc="center left", bbox_to_anchor=(1.0, 0.5), fontsize=8, frameon=False, reverse=True)


def _draw_segments(axes: Any, decision: Decision) -> None:
    """The label of each segment, side by side."""
    parts = decision.result["segments"]
    edges = [(part.get("start", index), part.get("end", index + 1)) for index, part in enumerate(parts)]
    names = list(dict.fromkeys(part["label"] for part in parts))
    for (start, end), part in zip(edges, parts, strict=True):
        shade = 0.25 + 0.5 * names.index(part["label"]) / max(len(names) - 1, 1)
        axes.axvspan(start, end, color=_OTHER_COLOUR, alpha=shade, ec="white")
        label = f"{part['label']}\n{part['score']:.2f}"
        axes.text((start + end) / 2, 0.5, label, ha="center", va="center", fontsize=7, clip_on=True)
    axes.set_xlim(edges[0][0], edges[-1][1])
    axes.set_yticks([])
    _plain(axes, "answer for each segment" + (", seconds" if "start" in parts[0] else ""), grid=False)


def _draw_strips(
    figure: Any, axes: Sequence[Any], shown: Mapping[str, list[dict[str, Any]]], seconds: float | None
) -> None:
    """A strip for each modality: columns are moments or tokens, rows are levels, the deepest on top."""
    low, high = _shades(np.array([token["budget"] for tokens in shown.values() for token in tokens]))
    image, note = None, "" if (low, high) == (0, 1) else f" (the colours span {low:.2f} to {high:.2f} only)"
    for drawn, (name, tokens) in zip(axes, shown.items(), strict=True):
        timed = "time" in tokens[0]
        edges, values = token_spans(tokens, seconds)
        rows = np.arange(values.shape[1] + 1) + 0.5
        image = drawn.pcolormesh(edges, rows, values.T, cmap="viridis", vmin=low, vmax=high, edgecolors="white", lw=0.4)
        drawn.set_yticks(range(1, values.shape[1] + 1), map(_level, range(1, values.shape[1] + 1)), fontsize=8)
        if timed:
            drawn.set_xlim(0, seconds or edges[-1])
        elif "token" not in tokens[0]:
            drawn.xaxis.get_major_locator().set_params(integer=True)
        else:
            turned = 0 if len(tokens) <= _UPRIGHT_WORDS else 90
            words = [word(token["token"]) for token in tokens]
            drawn.set_xticks(np.arange(len(tokens)) + 0.5, words, rotation=turned, fontsize=8 if len(words) < 60 else 5)
        unit = "seconds" if timed else ("words and their pieces" if "token" in tokens[0] else "steps")
        _plain(drawn, f"{name}: how much of each token crossed over, by {unit}{note}", grid=False)
        drawn.title.set_color(modality(name).colour)
        drawn.tick_params(length=0)
        note = ""
    if image is not None:
        bar = figure.colorbar(image, ax=list(axes), fraction=0.012, pad=0.01)
        bar.set_label("budget", fontsize=8)
        bar.ax.tick_params(labelsize=8)


# -- small things -----------------------------------------------------------------------------------------------------

_WHISKER = {"ecolor": "#222222", "elinewidth": 1.0, "capsize": 2.5}


def _figure(width: float, height: float) -> Any:
    matplotlib = optional_package("matplotlib.figure", "pictures need matplotlib", "explain")
    return matplotlib.Figure(figsize=(width, height), layout="constrained")


def _headline(figure: Any, answer: str, title: str) -> None:
    short = title if len(title) <= _LONGEST_TITLE else title[: _LONGEST_TITLE - 1] + "…"
    figure.suptitle("\n".join(filter(None, (answer, short))), fontsize=11, x=0.01, ha="left")


def _save(figure: Any, path: str | os.PathLike) -> Path:
    """Writes the figure whole or not at all; words of the input are never read as formulas."""
    from matplotlib.text import Text

    path = Path(path)
    for text in figure.findobj(Text):
        text.set_parse_math(False)
    with replacing(path) as draft:
        figure.savefig(draft, dpi=150, facecolor="white", format=path.suffix[1:] or "png")
    return path


def _answer(result: Mapping[str, Any]) -> str:
    if "segments" in result:
        names = list(dict.fromkeys(part["label"] for part in result["segments"]))
        return f"{len(result['segments'])} segments: {', '.join(names)}"
    if "scores" in result:
        return ", ".join(f"{name} {value:+.2f}" for name, value in result["scores"].items())
    if "probabilities" in result:
        named = ", ".join(result["labels"]) or "no label above 0.5" if "labels" in result else result["label"]
        return f"{named} (likeliest: {result['label']}, {result['score']:.2f})"
    return f"score {result['score']:+.2f}: {result['label']}"


def _strip_height(tokens: Sequence[Mapping[str, Any]]) -> float:
    words = [word(token["token"]) for token in tokens if "token" in token]
    turned = 0.07 * max(map(len, words), default=0) if len(words) > _UPRIGHT_WORDS else 0.0
    return _LEVEL_HEIGHT * len(tokens[0]["budget"]) + turned


def _shades(budgets: np.ndarray) -> tuple[float, float]:
    """What the darkest and the lightest colour stand for."""
    low, high = float(budgets.min()), float(budgets.max())
    missing = max(_LEAST_RANGE - (high - low), 0.0)
    return max(low - missing / 2, 0.0), min(high + missing / 2, 1.0)


def _unit_axis(axes: Any, title: str) -> None:
    axes.set_xlim(0, 1)
    axes.invert_yaxis()
    _plain(axes, title)


def _plain(axes: Any, title: str, grid: bool = True) -> None:
    axes.set_title(title, fontsize=9, loc="left")
    axes.spines[["top", "right"]].set_visible(False)
    axes.tick_params(labelsize=8)
    axes.set_axisbelow(True)
    if grid:
        axes.grid(axis="x", color="#e5e5e5", linewidth=0.6)


def _level(number: int) -> str:
    return f"level {number}" + (" (shallow)" if number == 1 else "")


def _grey(number: int, count: int) -> str:
    """Of levels, the deepest the darkest."""
    return str(0.85 - 0.65 * (number - 1) / max(count - 1, 1))


def _mean(value: Any) -> float:
    return value["mean"] if isinstance(value, Mapping) else value


def _errors(values: Mapping[str, Any]) -> list[float] | None:
    spreads = [value["std"] for value in values.values() if isinstance(value, Mapping)]
    return spreads or None


__all__ = ["draw_decision", "draw_mean_weights", "draw_timeline"]
