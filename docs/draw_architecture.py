"""Draws docs/architecture.svg, the data flow of CLCR: `python docs/draw_architecture.py`."""

from pathlib import Path

import matplotlib

matplotlib.use("svg")
matplotlib.rcParams["svg.hashsalt"] = "clcr"
matplotlib.rcParams["svg.fonttype"] = "none"

from matplotlib import pyplot as plt  # noqa: E402
from matplotlib.patches import FancyArrowPatch, FancyBboxPatch  # noqa: E402

INK, MUTED, RULE = "#1f2933", "#52606d", "#9aa5b1"
MODALITY = {"text": "#dbeafe", "vision": "#dcfce7", "audio": "#ffedd5"}
STAGE, SHARED, PRIVATE = "#f5f7fa", "#ede9fe", "#fce7f3"


def box(axes, x, y, width, height, title, lines=(), color=STAGE, size=10):
    """A rounded box with a bold title and smaller lines under it; x, y is its lower left corner."""
    shape = FancyBboxPatch((x, y), width, height, boxstyle="round,pad=0,rounding_size=0.09", fc=color, ec=RULE, lw=1)
    axes.add_patch(shape)
    top = y + height - 0.21 if lines else y + height / 2
    axes.text(x + width / 2, top, title, ha="center", va="center", fontsize=size, weight="bold", color=INK)
    for number, line in enumerate(lines):
        place = top - 0.25 * (number + 1)
        axes.text(x + width / 2, place, line, ha="center", va="center", fontsize=8.3, color=MUTED)


def arrow(axes, start, end, dashed=False):
    """An arrow between two points."""
    style = "--" if dashed else "-"
    axes.add_patch(
        FancyArrowPatch(start, end, arrowstyle="-|>", mutation_scale=11, color=MUTED, lw=1.1, linestyle=style)
    )


def draw(path: Path) -> None:
    """The whole picture."""
    figure, axes = plt.subplots(figsize=(12.4, 5.5))
    axes.set_xlim(0, 12.4)
    axes.set_ylim(0, 5.5)
    axes.axis("off")
    headings = [(1.05, "Input"), (3.5, "1. Hierarchy encoder"), (6.55, "2. IntraCED, a level")]
    headings += [(9.55, "3. InterCAD"), (11.7, "Head")]
    for x, title in headings:
        axes.text(x, 5.25, title, ha="center", fontsize=11.5, weight="bold", color=INK)
    inputs = {"text": "words", "vision": "frames", "audio": "sound"}
    for row, (name, raw) in enumerate(inputs.items()):
        y = 3.75 - 1.35 * row
        box(axes, 0.2, y, 1.7, 0.95, name, [raw, "or features (B, T, D)"], MODALITY[name])
        box(
            axes,
            2.35,
            y,
            2.3,
            0.95,
            "shallow · mid · deep",
            ["taps of a backbone, or a TCN", "H = LN(Z W + P)   (B, T, d)"],
            MODALITY[name],
        )
        arrow(axes, (1.9, y + 0.47), (2.35, y + 0.47))
        axes.plot([4.65, 4.88], [y + 0.47, y + 0.47], color=MUTED, lw=1.1)
    # Every modality goes to both subspaces.
    axes.plot([4.88, 4.88], [1.52, 4.22], color=MUTED, lw=1.1)
    arrow(axes, (4.86, 3.4), (5.15, 3.4))
    arrow(axes, (4.86, 1.7), (5.15, 1.7))
    box(
        axes,
        5.15,
        2.45,
        2.8,
        2.25,
        "shared  h U",
        color=SHARED,
        lines=[
            "one orthonormal basis a level",
            "evidence, then a token budget:",
            "a in {0 ≤ a ≤ 1, sum a ≤ B}",
            "each modality asks the others:",
            "h + a · Attn(Q, K others, V others)",
            "no modality asks itself",
        ],
    )
    box(
        axes,
        5.15,
        1.05,
        2.8,
        1.2,
        "private  h U'",
        color=PRIVATE,
        lines=["one basis a level and modality,", "orthogonal to the shared one", "never crosses (gradient exactly 0)"],
    )
    box(
        axes,
        8.45,
        3.55,
        2.2,
        1.15,
        "level weights ω",
        ["anchors put the levels", "on one scale", "softmax over levels"],
    )
    box(axes, 8.45, 2.45, 2.2, 0.9, "modality weights π", ["mean asks, modalities", "answer: z"], SHARED)
    box(axes, 8.45, 1.05, 2.2, 1.2, "private gates η", ["sigmoid, a modality", "gated sum: u"], PRIVATE)
    arrow(axes, (7.95, 3.9), (8.45, 4.1))
    arrow(axes, (7.95, 2.95), (8.45, 2.9))
    arrow(axes, (7.95, 1.65), (8.45, 1.65))
    box(axes, 11.05, 2.0, 1.2, 1.3, "f( z ; u )", ["score, class", "or a label", "a segment"])
    arrow(axes, (10.65, 2.9), (11.05, 2.8))
    arrow(axes, (10.65, 1.65), (11.05, 2.3))
    box(
        axes,
        2.35,
        0.1,
        8.3,
        0.62,
        "objective   L = L task + λ L Intra + λ L Inter",
        color="#ffffff",
        size=9.5,
        lines=[
            "whitened cross-correlations keep private apart from private and shared, within a level and across levels"
        ],
    )
    arrow(axes, (6.55, 1.05), (6.55, 0.72), dashed=True)
    arrow(axes, (9.55, 1.05), (9.55, 0.72), dashed=True)
    figure.savefig(path, bbox_inches="tight", pad_inches=0.05, metadata={"Date": None})
    plt.close(figure)


if __name__ == "__main__":
    draw(Path(__file__).with_name("architecture.svg"))
