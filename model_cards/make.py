"""Writes the cards of this folder anew, from the recipes and from what is known of the benchmarks.

    python model_cards/make.py            # writes them
    python model_cards/make.py --check    # writes nothing; fails where one is not what it would write
"""

import argparse
import sys
from pathlib import Path

from benchmark_card import benchmark_card, template_card

from clcr_hf.hub.benchmarks import BENCHMARKS

FOLDER = Path(__file__).resolve().parent
RECIPES = FOLDER.parent / "examples" / "recipes"
RESULTS = FOLDER.parent / "benchmarks" / "results"


def cards() -> dict[str, str]:
    """The text of every file of this folder, by its name."""
    made = {"template.md": str(template_card())}
    for key in BENCHMARKS:
        measured = RESULTS / f"{key}_text.json"
        made[f"{key}.md"] = str(
            benchmark_card(key, RECIPES / f"{key}.yaml", measured if measured.is_file() else None)
        )
    return {name: text.rstrip("\n") + "\n" for name, text in made.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true", help="write nothing, and fail where a card is out of date")
    check = parser.parse_args().check
    stale = []
    for name, text in cards().items():
        path = FOLDER / name
        if path.is_file() and path.read_text(encoding="utf-8") == text:
            continue
        stale.append(name)
        if not check:
            path.write_text(text, encoding="utf-8")
    if check and stale:
        sys.exit(f"out of date: {', '.join(stale)}; run python model_cards/make.py")


if __name__ == "__main__":
    main()
