"""Figures of what decided, drawn with matplotlib: of one clip, and of means over a data set. See `decision.py`."""

import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np

from ..data.errors import optional_package
from ..data.folders import check_writable, replacing
from ..modalities import modality
from .decision import Decision, change, token_spans, word

FIGURE_FORMATS = (".png", ".svg", ".pdf")
# Of what is no modality; for levels greys.
_OTHER_COLOUR = modality("").colour
_LABEL_COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
_LEVEL_COLOUR, _PALE = "#6b7280", 0.45
_WHISKER = {"ecolor": "#222222", "elinewidth": 1.0, "capsize": 2.5}
_STYLE = Path(__file__).with_name("figures.mplstyle")
_WIDTH, _BARS_HEIGHT, _LEVEL_HEIGHT = 11.0, 1.75, 0.24
_LEAST_RANGE = 0.1  # budgets that differ by less are drawn as nearly alike
_UPRIGHT_WORDS = 14  # more tokens than this have their words turned
_LONGEST_TITLE = 100


def draw_decision(decision: Decision, path: str | os.PathLike, title: str = "") -> Path:
    """
    Draws one decision: the answer; what each modality by itself, the joint path and the bias add to it, where the model
    has such evidence; weights of levels and modalities and private gates; how the answer changes without each
    modality; and how much of each token crossed over at each level, over seconds or words.

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
    weighed = ["levels", "modalities"] if decision.weights["level_weights"] else []
    bars = [["evidence", "changes"], weighed] if decision.evidence[1] else [[*weighed, "changes"]]
    bars = [row for row in bars if row]
    rows = [*bars, *(["segments"] for _ in segments), *([f"tokens of {name}"] for name in shown)]
    heights = [*(_BARS_HEIGHT for _ in bars), *segments, *strips]
    mosaic = [[name for name in row for _ in range(6 // len(row))] for row in rows]
    with _figure(path, _WIDTH, sum(heights) + 0.62 * len(heights) + 0.85, _answer(decision.result), title) as figure:
        axes = figure.subplot_mosaic(mosaic, height_ratios=heights)
        _draw_changes(axes["changes"], decision)
        if "evidence" in axes:
            _draw_evidence(axes["evidence"], decision)
        if weighed:
            _draw_weights([axes[name] for name in weighed], decision.weights, shown)
        if segments:
            _draw_segments(axes["segments"], decision)
        _draw_strips(figure, [axes[f"tokens of {name}"] for name in shown], shown, decision.seconds)
    return Path(path)


def draw_mean_weights(measured: Mapping[str, Any], path: str | os.PathLike) -> Path:
    """
    Draws means over a data set as bars, with the standard deviation between examples as whiskers.

    Args:
        measured: of `mean_weights`, with `split`.
        path: file to write.
    """
    title = f"means over {measured['rows']} examples of the {measured['split']} split; lines: ± 1 s.d."
    weighed, own = bool(measured["level_weights"]), measured.get("evidence")
    count = 2 * weighed + bool(own)
    with _figure(path, 4.25 * count, 2.5, "", title) as figure:
        axes = list(figure.subplots(1, count, squeeze=False)[0])
        if own:
            reach = max(value["mean"] + value["std"] for value in own.values())
            colours = [modality(name).colour for name in own]
            _bars(axes.pop(), "how much each part adds, to either side", [own], colours, reach)
        if weighed:
            _draw_weights(axes, measured, measured["modality_weights"])
    return Path(path)


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
    answered = sum(not row.get("error") for row in windows)
    missing = f", {len(windows) - answered} of them without an answer" if answered < len(windows) else ""
    answer = f"{len(windows)} window{'s' * (len(windows) > 1)}{missing}"
    shares = _columns(windows, "modality_weight_")
    ratios = (2.2, 1, 1) if shares else (2.2,)  # without a joint path there are no weights
    with _figure(path, _WIDTH, 1.0 + 1.3 * sum(ratios), answer, title) as figure:
        axes = figure.subplots(len(ratios), 1, sharex=True, height_ratios=ratios, squeeze=False)[:, 0]
        _draw_answers(axes[0], windows, middles)
        if shares:
            _stack(axes[1], "weight of each modality", middles, shares, [modality(name).colour for name in shares])
            shares = {_level(int(number)): values for number, values in _columns(windows, "level_weight_").items()}
            greys = np.linspace(0.85, 0.2, len(shares)).astype(str).tolist()  # the deepest the darkest
            _stack(axes[2], "weight of each level", middles, shares, greys)
        axes[-1].set_xlim(min(row["start"] for row in windows), max(row["end"] for row in windows))
        axes[-1].set_xlabel("seconds")
    return Path(path)


# -- parts ------------------------------------------------------------------------------------------------------------


def _draw_weights(axes: Sequence[Any], weights: Mapping[str, Any], shown: Iterable[str]) -> None:
    """The weight of each level; and for each modality its weight in what is shared and the gate of what it keeps."""
    named = {_level(number): value for number, value in enumerate(weights["level_weights"], start=1)}
    _bars(axes[0], "weight of each level", [named], [_LEVEL_COLOUR] * len(named))
    pairs = [{name: weights[kind][name] for name in shown} for kind in ("modality_weights", "private_gates")]
    title = "modality: weight of what is shared (dark),\ngate of what is private (light)"
    _bars(axes[1], title, pairs, [modality(name).colour for name in shown])


def _bars(
    axes: Any, title: str, series: Sequence[Mapping[str, Any]], colours: Sequence[str], reach: float = 1.0
) -> None:
    """Horizontal bars from 0 to `reach`, a number at each; a second series is pale. Values may be dicts of mean and
    std."""
    height = 0.76 / len(series)
    for index, values in enumerate(series):
        places = np.arange(len(values)) + height * (index - (len(series) - 1) / 2)
        means = [value["mean"] if isinstance(value, Mapping) else value for value in values.values()]
        spreads = [value["std"] for value in values.values() if isinstance(value, Mapping)] or None
        alpha = _PALE if index else 1.0
        axes.barh(places, means, 0.94 * height, color=colours, alpha=alpha, xerr=spreads, error_kw=_WHISKER)
        for place, value in zip(places, means, strict=True):
            axes.text(1.02 * reach, place, f"{value:.2f}", va="center", fontsize=8)
    axes.set(xlim=(0, reach), title=title)
    axes.set_yticks(range(len(series[0])), list(series[0]))
    axes.invert_yaxis()
    axes.grid(axis="x")


def _draw_changes(axes: Any, decision: Decision) -> None:
    """How the answer moves without each modality."""
    if not decision.without:
        axes.axis("off")
        axes.text(0.5, 0.5, "one modality alone:\nnone can be left out", ha="center", va="center", color="#555555")
        return
    changes = {f"without {name}": value for name, value in decision.changes.items()}
    colours = [modality(name).colour for name in decision.changes]
    _signed_bars(axes, changes, colours, signed="segments" not in decision.result)
    what = change(decision.result, next(iter(decision.without.values())))[0]
    axes.set_title(f"{what}\nwhen a modality is left out")


def _draw_evidence(axes: Any, decision: Decision) -> None:
    """What the answer is the sum of."""
    what, parts = decision.evidence
    _signed_bars(axes, parts, [modality(name).colour for name in parts])
    axes.set_title(f"what each part adds;\nthe sum, {sum(parts.values()):+.2f}, is the {what}")


def _signed_bars(axes: Any, values: Mapping[str, float], colours: Sequence[str], signed: bool = True) -> None:
    """Horizontal bars from 0 to both sides, a number at each; where not `signed`, shares in percent."""
    bars = axes.barh(list(values), list(values.values()), 0.62, color=colours)
    labels = [f"{value:+.2f}" if signed else f"{100 * value:.0f}%" for value in values.values()]
    axes.bar_label(bars, labels, padding=3, fontsize=9)
    reach = 1.75 * max(max(abs(value) for value in values.values()), 0.05)
    axes.set_xlim(-reach if signed else 0, reach)
    axes.axvline(0, color="#333333", linewidth=0.8)
    axes.invert_yaxis()
    axes.grid(axis="x")


def _draw_answers(axes: Any, windows: Sequence[Mapping[str, Any]], middles: np.ndarray) -> None:
    """Lines of what the model answered: probabilities, several scores, or one."""
    titles = {"probability_": "probability of each label", "score_": "scores", "score": "score"}
    start = next(start for start in titles if start == "score" or _columns(windows, start))
    lines = _columns(windows, start)
    for index, (name, values) in enumerate(lines.items()):
        colour = _LABEL_COLOURS[index % len(_LABEL_COLOURS)]
        style = ("-", "--", ":")[index // len(_LABEL_COLOURS) % 3]
        axes.plot(middles, values, style, color=colour, label=name, marker="o", markersize=3, linewidth=1.4)
    if start == "probability_":
        axes.set_ylim(0, 1.02)
    elif min(map(np.nanmin, lines.values())) < 0 < max(map(np.nanmax, lines.values())):
        axes.axhline(0, color="#999999", linewidth=0.8)
    if len(lines) > 1:
        axes.legend(loc="center left", bbox_to_anchor=(1.0, 0.5))
    axes.set_title(titles[start])
    axes.grid(axis="x")


def _columns(windows: Sequence[Mapping[str, Any]], start: str) -> dict[str, np.ndarray]:
    """Columns whose names begin so, by the rest of their names; NaN where a window has no value."""
    names = [name for name in windows[0] if name.startswith(start)]
    return {name[len(start) :]: np.array([row.get(name) for row in windows], dtype=float) for name in names}


def _stack(
    axes: Any, title: str, middles: np.ndarray, shares: Mapping[str, np.ndarray], colours: Sequence[str]
) -> None:
    """Shares of one, one on top of the other."""
    if len(middles) == 1:  # an area needs two moments
        middles, shares = middles + [-0.5, 0.5], {name: np.repeat(values, 2) for name, values in shares.items()}
    axes.stackplot(middles, *shares.values(), labels=list(shares), colors=colours, linewidth=0)
    axes.set(ylim=(0, 1), title=title)
    axes.legend(loc="center left", bbox_to_anchor=(1.0, 0.5), reverse=True)


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
    axes.set_title("answer for each segment" + (", seconds" if "start" in parts[0] else ""))


def _draw_strips(
    figure: Any, axes: Sequence[Any], shown: Mapping[str, list[dict[str, Any]]], seconds: float | None
) -> None:
    """A strip for each modality: columns are moments or tokens, rows are levels, the deepest on top."""
    if not shown:
        return
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
        title = f"{name}: how much of each token crossed over, by {unit}{note}"
        drawn.set_title(title, color=modality(name).colour)
        drawn.tick_params(length=0)
        note = ""
    bar = figure.colorbar(image, ax=list(axes), fraction=0.012, pad=0.01)
    bar.set_label("budget", fontsize=8)
    bar.ax.tick_params(labelsize=8)


# -- small things -----------------------------------------------------------------------------------------------------


def check_figure(path: str | os.PathLike) -> None:
    """
    Whether a figure can be drawn to `path`, before any work.

    Raises:
        ImportError: matplotlib is not there.
        ValueError: another format.
        OSError: nothing can be written there.
    """
    _import_matplotlib()
    if Path(path).suffix.lower() not in (*FIGURE_FORMATS, ""):
        raise ValueError(f"{path}: a figure ends in {', '.join(FIGURE_FORMATS)}")
    check_writable(path)


def _import_matplotlib() -> tuple[ModuleType, ModuleType]:
    need = "figures need matplotlib"
    drawing, whole = (optional_package(name, need, "explain") for name in ("matplotlib.figure", "matplotlib"))
    return drawing, whole


@contextmanager
def _figure(path: str | os.PathLike, width: float, height: float, answer: str, title: str) -> Iterator[Any]:
    """`with _figure(...) as figure`: what is drawn there is written to `path`, whole or not at all."""
    drawing, matplotlib = _import_matplotlib()
    short = title if len(title) <= _LONGEST_TITLE else title[: _LONGEST_TITLE - 1] + "…"
    with matplotlib.rc_context(fname=_STYLE):
        figure = drawing.Figure(figsize=(width, height), layout="constrained")
        figure.suptitle("\n".join(filter(None, (answer, short))), fontsize=11, x=0.01, ha="left")
        yield figure
        with replacing(path) as draft:
            figure.savefig(draft, format=Path(path).suffix[1:] or "png")


def _answer(result: Mapping[str, Any]) -> str:
    if "segments" in result:
        names = list(dict.fromkeys(part["label"] for part in result["segments"]))
        return f"{len(result['segments'])} segments: {', '.join(names)}"
    if "scores" in result:
        return ", ".join(f"{name} {value:+.2f}" for name, value in result["scores"].items())
    if "probabilities" in result:
        named = ", ".join(result["labels"]) or "no label above its threshold" if "labels" in result else result["label"]
        return f"{named} (likeliest: {result['label']}, {result['score']:.2f})"
    span = " ({:+.2f} to {:+.2f})".format(*result["interval"]) if "interval" in result else ""
    return f"score {result['score']:+.2f}{span}: {result['label']}"


def _strip_height(tokens: Sequence[Mapping[str, Any]]) -> float:
    words = [word(token["token"]) for token in tokens if "token" in token]
    turned = 0.07 * max(map(len, words), default=0) if len(words) > _UPRIGHT_WORDS else 0.0
    return _LEVEL_HEIGHT * len(tokens[0]["budget"]) + turned


def _shades(budgets: np.ndarray) -> tuple[float, float]:
    """What the darkest and the lightest colour stand for."""
    low, high = float(budgets.min()), float(budgets.max())
    missing = max(_LEAST_RANGE - (high - low), 0.0)
    return max(low - missing / 2, 0.0), min(high + missing / 2, 1.0)


def _level(number: int) -> str:
    return f"level {number}" + (" (shallow)" if number == 1 else "")
