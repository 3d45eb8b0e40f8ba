"""The error of the loaders, in a file that needs nothing."""

from collections.abc import Sequence


class DataFormatError(ValueError):
    """A data file that cannot be read as the layout it claims to have; the message lists every fault found."""


def raise_problems(where: object, problems: Sequence[str], advice: str = "") -> None:
    """Raise one `DataFormatError` that lists `problems` (at most 10 in full); do nothing when there are none."""
    if not problems:
        return
    lines = list(problems[:10])
    if len(problems) > 10:
        lines.append(f"and {len(problems) - 10} more")
    raise DataFormatError(f"{where}: " + "; ".join(lines) + (f". {advice}" if advice else ""))
