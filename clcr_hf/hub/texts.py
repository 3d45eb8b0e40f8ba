"""Sentences and names of the model cards, as `texts.yaml` holds them."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml

TEXTS: dict[str, Any] = yaml.safe_load(Path(__file__).with_suffix(".yaml").read_text(encoding="utf-8"))
# By what a model's labels are about: `intended`, `out_of_scope`, `limits` and `tags`.
SUBJECTS: dict[str, dict[str, Any]] = TEXTS["subjects"]


def limits(subject: str, modalities: Sequence[str], trained: str) -> list[str]:
    """What to beware of, one sentence or two each; `trained` says on what, as in "Trained on CREMA-D"."""
    found = [f"{trained}; expect worse on anything unlike it.", *SUBJECTS[subject]["limits"]]
    found += [TEXTS["transcripts"]] if "text" in modalities else []
    return found + ([TEXTS["missing"]] if len(modalities) > 1 else [])


__all__ = ["SUBJECTS", "TEXTS", "limits"]
