"""Which column of a table is read for what."""

from collections.abc import Sequence

from ...checks import did_you_mean
from ..columns import DataFormatError
from .cells import FEATURES_SUFFIX, names_features
from .read import Table, read_rows
from .values import is_absent

MEDIA_COLUMNS = ("file_name", "file", "path", "media")
TEXT_COLUMNS = ("text", "transcript", "transcription", "sentence")
LABEL_COLUMNS = ("label", "labels", "score", "sentiment")
ID_COLUMNS = ("id", "clip_id")
# The stretch of its files that a row is, in seconds; where a table has files with times.
WINDOW_COLUMNS = ("start", "end")
# Names of the other columns of files.
_KNOWN = {"video": ("video",), "audio": ("audio",), "images": ("images", "frames"), "flow": ("flow",)}
# Columns that may name files of features in place of what they usually hold, and the modality of these.
_FEATURES_OF = {"text": "text", "vision": "vision", "audio": "audio"}


def choose_columns(
    source: object, tables: Sequence[Table], present: Sequence[str], media: str | None, text: str | None
) -> dict[str, str]:
    """Column of the result to column of the table: everything that a model may read.

    Raises:
        DataFormatError: a column that is named and absent, or two columns of features for one modality.
    """
    chosen: dict[str, str | None] = {"media": pick(source, present, media, MEDIA_COLUMNS)}
    for name, names in _KNOWN.items():
        found = pick(source, present, None, names)
        chosen[name] = found if found != chosen["media"] else None
    if chosen["media"] is None and chosen["audio"] is None:
        chosen["media"], chosen["video"] = chosen["video"], None
    chosen["text"] = pick(source, present, text, TEXT_COLUMNS)
    chosen["vision"] = pick(source, present, None, ("vision",))
    features = {name: name for name in present if name.endswith(FEATURES_SUFFIX) and name != FEATURES_SUFFIX}
    for name, modality in _FEATURES_OF.items():
        column = chosen[name]
        if column is not None and _holds_features(tables, column):
            wanted = modality + FEATURES_SUFFIX
            if wanted in features:
                raise DataFormatError(f"{source}: {column!r} and {wanted!r} both name features; leave one of them out")
            features[wanted], chosen[name] = column, None
    del chosen["vision"]  # of numbers or features alone; of images and videos other columns speak
    return {name: column for name, column in (chosen | features).items() if column is not None}


def _holds_features(tables: Sequence[Table], column: str) -> bool:
    """Whether the first cell of a column that is not empty names a file of features."""
    for table in tables:
        for row in read_rows(table, [column]):
            if not is_absent(row.get(column)):
                return names_features(row[column], table.path.parent)
    return False


def listed(present: Sequence[str]) -> str:
    """Names of columns, for a message."""
    return ", ".join(sorted(name for name in present if name)) or "no columns"


def require(source: object, present: Sequence[str], name: str) -> None:
    """DataFormatError where a table lacks a column that is named."""
    if not name or name not in present:
        raise DataFormatError(f"{source}: no column {name!r}; it has {listed(present)}{did_you_mean(name, present)}")


def pick(
    source: object, present: Sequence[str], wanted: str | None, known: Sequence[str], option: str | None = None
) -> str | None:
    """The column that is named, or else the first that is known; None where there is none.

    Args:
        option: the argument that names one; two that are known are then refused.

    Raises:
        DataFormatError: the column that is named is absent, or two are known.
    """
    if wanted is not None:
        require(source, present, wanted)
        return wanted
    found = [name for name in known if name in present]
    if option is not None and len(found) > 1:
        raise DataFormatError(f"{source}: it may be {' or '.join(found)}; say which with {option}")
    return found[0] if found else None


def pick_label(source: object, present: Sequence[str], wanted: str | None, option: str | None = None) -> str:
    """As [`pick`], the column of the labels; DataFormatError where there is none."""
    found = pick(source, present, wanted, LABEL_COLUMNS, option)
    if found is None:
        raise DataFormatError(f"{source}: no label column ({', '.join(LABEL_COLUMNS)}); it has {listed(present)}")
    return found
