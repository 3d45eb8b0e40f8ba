"""What a single cell of a table says: nothing, a number, the name of a class, or a list of these."""

import ast
import json
import math
import re
import unicodedata
from decimal import Decimal
from typing import Any

import numpy as np

from ..columns import DataFormatError

# Words for "no value" in tables; those that pandas, R and spreadsheets write. In any case, but for Python's `None`:
# "none" may well be a class.
_MISSING = frozenset({"nan", "na", "n/a", "#n/a", "<na>", "null"})
_NUMBER = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?", re.ASCII)
_ALMOST = re.compile(r"[+-]?[\d.,']*\d[\d.,']*(e[+-]?\d+)?%?|[+-]?inf(inity)?", re.IGNORECASE)
_MINUS = "\N{MINUS SIGN}"
_DASHES = dict.fromkeys(map(ord, "\u2010\u2011\u2012\u2013\u2014\u2212"), "-")  # hyphens, dashes, minus
_MAX_LIST = 2**20  # characters of a list written in a cell


def is_absent(value: Any) -> bool:
    """Whether a cell is empty: None, NaN, or text without anything but blanks."""
    if isinstance(value, str):
        return not value.strip()
    return value is None or (isinstance(value, float | np.floating) and math.isnan(value))


def is_missing_word(value: Any) -> bool:
    """Whether a cell says in words that nothing is known: `nan`, `NA`, `n/a`, `null`, `None` and their like."""
    return isinstance(value, str) and (value.strip().lower() in _MISSING or value.strip() == "None")


def parse_number(value: Any) -> float | None:
    """A cell as a float; None where it is no finite number.

    Text must be a plain number: ASCII digits, a point, an exponent, outer blanks; U+2212 will do for a minus. `1_2`,
    `1,5` and `inf` are no numbers, and neither are booleans.
    """
    if isinstance(value, str):
        text = value.strip().replace(_MINUS, "-")
        number = float(text) if _NUMBER.fullmatch(text) else math.nan
    elif isinstance(value, int | float | np.integer | np.floating) and not isinstance(value, bool):
        try:
            number = float(value)
        except OverflowError:
            return None
    else:
        return None
    return number if math.isfinite(number) else None


def is_almost_number(value: Any) -> bool:
    """Whether a cell that is no number seems to be meant for one: another dash, a decimal comma, digits of another
    script, thousands, a percent sign, infinity. Letters or underscores (`1_2`) make it a name."""
    if isinstance(value, str):
        text = unicodedata.normalize("NFKC", value.translate(_DASHES)).strip("'\" \t")
        return parse_number(value) is None and _ALMOST.fullmatch("".join(text.split())) is not None
    return isinstance(value, int | float | np.floating) and not isinstance(value, bool) and parse_number(value) is None


def class_word(value: Any) -> str:
    """The name of a class: text without outer blanks; numbers of one value by one name (`3` for 3.0 and "3.0"), but
    with leading zeros as they are written ("03"); `True` and `False` for booleans and these words in any case."""
    text = str(value).strip()
    if isinstance(value, bool | np.bool_) or text.lower() in ("true", "false"):
        return text.capitalize()
    plain = text.replace(_MINUS, "-")
    if not _NUMBER.fullmatch(plain) or re.match(r"[+-]?0\d", plain):
        return text
    number = Decimal(plain)
    if abs(number.adjusted()) > 30:
        return text
    if number == number.to_integral_value():
        return str(int(number))
    return format(number.normalize(), "f")


def parse_list(value: Any, where: str) -> list[Any] | None:
    """A cell as a list: a list or array, or text such as `[1, 0]` or `['a', 'b']`, as JSON and pandas write lists. None
    for any other cell.

    Raises:
        DataFormatError: text in square brackets that is no such list.
    """
    if isinstance(value, list | tuple | np.ndarray):
        return list(value)
    text = value.strip() if isinstance(value, str) else ""
    if not (text.startswith("[") and text.endswith("]")):
        return None
    for read in (json.loads, ast.literal_eval):
        try:
            found = read(text) if len(text) <= _MAX_LIST else None
        except (ValueError, SyntaxError, RecursionError, MemoryError):
            continue
        if isinstance(found, list):
            return found
    raise DataFormatError(
        f'{where}: {short(value)} is no list that can be read; write it as in JSON ([1, 0], ["a", "b"]), or names '
        "with a label_separator between them"
    )


def short(cell: Any) -> str:
    """A cell for a message, cut after 60 characters."""
    return repr(cell)[:60]
