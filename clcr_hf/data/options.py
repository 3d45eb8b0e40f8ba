"""Options given as text: `name=value`, one a word or several with commas between them."""

import json
import re
from collections.abc import Iterable
from typing import Any

from .columns import DataFormatError

# A comma between two options, and none inside a list or a mapping.
_BETWEEN = re.compile(r",(?=\s*[^\W\d]\w*\s*=)")


def read_options(pairs: Iterable[str]) -> dict[str, Any]:
    """Options from texts `name=value`; values are read as JSON where they are JSON, else as text.

    Raises:
        DataFormatError: no name, no `=`, or a name that comes twice.
    """
    found: dict[str, Any] = {}
    for pair in pairs:
        name, separator, value = pair.partition("=")
        name = name.strip()
        if not separator or not name or name in found:
            raise DataFormatError(f"option {pair!r}; options are name=value, each once")
        try:
            found[name] = json.loads(value)
        except ValueError:
            found[name] = value.strip()
    return found


def split_options(text: str | None, flag: str) -> dict[str, Any]:
    """
    Options of one text: `name=value,name=value`, or a JSON mapping (which a recipe's YAML may hold).

    Args:
        flag: the argument that the text was given to, named in errors.

    Raises:
        ValueError: as in [`read_options`], or JSON that is no mapping of names.
    """
    text = (text or "").strip()
    if not text:
        return {}
    try:
        return json.loads(text) if text.startswith("{") else read_options(_BETWEEN.split(text))
    except ValueError as error:
        raise ValueError(f"{flag} wants name=value pairs with commas between them, got {text!r} ({error})") from error
