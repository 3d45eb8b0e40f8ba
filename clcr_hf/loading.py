"""Weights from files: found under the names that wrappers give them, and never left out in silence."""

# No `from __future__ import annotations` here: `modeling_clcr.py` imports this.

import os
from collections.abc import Collection, Sequence

# DistributedDataParallel saves `x` as `module.x`, torch.compile as `_orig_mod.x`, both together in either order. The
# option `key_mapping` of transformers' `from_pretrained`, in a form that `save_original_format=True` can turn round.
WRAPPERS = {r"^_orig_mod\.module\.": "", r"^module\.": "", r"^_orig_mod\.": ""}
_NAMED = 5


def refuse_missing(source: str | os.PathLike | None, missing: Sequence[str], others: Collection[str] = ()):
    """
    Refuses a model of which some weights were not read, and so are noise.

    Args:
        source: where its files are, for the message.
        missing: names of weights that the files lack.
        others: names in the files that the model has no place for.

    Raises:
        ValueError: any weight is missing; the first ones are named.
    """
    if not missing:
        return
    named = ", ".join(sorted(missing)[:_NAMED]) + f" and {len(missing) - _NAMED} more" * (len(missing) > _NAMED)
    instead = f"; they hold {len(others)} that the model has not (first: {min(others)})" if others else ""
    raise ValueError(f"{source}: its files lack {len(missing)} weights ({named}){instead}")


__all__ = ["WRAPPERS", "refuse_missing"]
