"""Options given as text: `name=value`, several with commas between them; and what a docstring says of each option."""

import inspect
import json
import re
from typing import Any

# A comma between two options, and none inside a list or a mapping.
_BETWEEN = re.compile(r",(?=\s*[^\W\d]\w*\s*=)")
_PYTHON = {"True": True, "False": False, "None": None}


def argument_help(documented: Any) -> dict[str, str]:
    """What the docstring of a class or function says below `Args:`, a line by the name of each argument."""
    _, _, after = (inspect.getdoc(documented) or "").partition("\nArgs:\n")
    section = re.split(r"^(?=\S)", after, maxsplit=1, flags=re.MULTILINE)[0]
    entries = (entry.partition(":") for entry in re.split(r"^    (?=\S)", section, flags=re.MULTILINE))
    return {
        name.strip(): " ".join(text.split()) for names, colon, text in entries if colon for name in names.split(",")
    }


def read_options(text: str | None, flag: str) -> dict[str, Any]:
    """
    Options of one text: `name=value,name=value`, or a JSON mapping (which a recipe's YAML may hold).

    Values are read as JSON where they are JSON, True, False and None as Python's, all else as text.

    Args:
        flag: the argument that the text was given to, named in errors.

    Raises:
        ValueError: no name, no `=`, a name that comes twice, or JSON that is no mapping of names.
    """
    text = (text or "").strip()
    found: dict[str, Any] = {}
    try:
        if text.startswith("{"):
            return json.loads(text)
        for pair in _BETWEEN.split(text) if text else ():
            name, separator, value = pair.partition("=")
            name = name.strip()
            if not separator or not name or name in found:
                raise ValueError(f"{pair!r} is no option, or comes twice")
            try:
                found[name] = json.loads(value)
            except ValueError:
                found[name] = _PYTHON.get(value.strip(), value.strip())
    except ValueError as error:
        raise ValueError(f"{flag} wants name=value pairs with commas between them, got {text!r} ({error})") from error
    return found
