"""A folder of clips with a table (CSV, TSV, JSONL or Parquet) that gives transcript, label and split."""

import csv
import json
import math
import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
from datasets import ClassLabel, DatasetDict, Features, Value

from .columns import SPLIT_ALIASES, DataFormatError, carve_groups, logger, make_dataset, ordered_splits, split_name

MEDIA_COLUMNS = ("file_name", "file", "path", "media", "video", "audio")
TEXT_COLUMNS = ("text", "transcript", "transcription", "sentence")
LABEL_COLUMNS = ("label", "labels", "score", "sentiment")
ID_COLUMNS = ("id", "clip_id")
TABLE_SUFFIXES = (".csv", ".tsv", ".jsonl", ".parquet")
TABLE_NAMES = ("metadata", "manifest")

_Row = dict[str, Any]


def load_manifest(
    source: str | os.PathLike | Mapping[str, str | os.PathLike],
    *,
    media_column: str | None = None,
    text_column: str | None = None,
    label_column: str | None = None,
    id_column: str | None = None,
    split_column: str = "split",
    group_column: str | None = None,
    label_names: Sequence[str] | None = None,
    task: str = "auto",
    validation_fraction: float = 0.1,
    seed: int = 0,
    skip_missing: bool = False,
    require_label: bool = True,
    keep_columns: Sequence[str] = (),
) -> DatasetDict:
    """Load clips listed in a table.

    `source` is one of
        a table (`.csv`, `.tsv`, `.jsonl`, `.parquet`) with a split column, or without one: then all of it is train;
        a folder with one such table, named `metadata` or `manifest` where there are several;
        a folder with a folder for each split (`train/metadata.csv`, ...), as `datasets`' videofolder has it;
        a dict of split name to table.
    File names in a table are relative to the table's folder. Splits may be called train, valid, val, dev,
    validation or test. Without a validation split one is carved from train by whole groups and a seed; 0 for
    `validation_fraction` leaves it out.

    Args:
        media_column, text_column, label_column, id_column: names; by default the first present of `MEDIA_COLUMNS`,
            `TEXT_COLUMNS`, `LABEL_COLUMNS`, `ID_COLUMNS`. A row needs a clip, a text, or both.
        group_column: speaker, actor or source video. Rows of one group stay on one side when validation is carved.
            Without it rows of one media file stay together.
        label_names: class names in the order of their numbers; labels are then names or numbers of these classes.
        task: "regression" (labels are floats), "classification" (names, or numbers taken as names), or "auto":
            regression when every label is a number and no `label_names` are given.
        skip_missing: drop rows whose file is absent, with a warning, where the default is an error.
        require_label: False for a table without labels (prediction).
        keep_columns: further columns of the table to keep, as strings or as the table's JSON or Parquet types.

    Returns:
        DatasetDict with columns id (str), media (str, absolute path; absent when no clip column), text (str; absent
        when no text column), label (float32 or ClassLabel; absent when no label), and `keep_columns`.

    Raises:
        DataFormatError: no or several tables, unreadable rows, absent columns, absent files (counted, the first five
            named), labels that fit no task, one media file in two splits, ids that come twice.
    """
    if task not in ("auto", "regression", "classification"):
        raise DataFormatError(f"task={task!r}; choose auto, regression or classification")
    rows, has_split = _read_source(source, split_column)
    if not rows:
        raise DataFormatError(f"{source}: the table has no rows")
    columns = {
        "media": _pick(source, rows, media_column, MEDIA_COLUMNS),
        "text": _pick(source, rows, text_column, TEXT_COLUMNS),
        "label": _pick(source, rows, label_column, LABEL_COLUMNS),
        "id": _pick(source, rows, id_column, ID_COLUMNS),
    }
    for name in [*keep_columns, *([group_column] if group_column else [])]:
        _require(source, rows, name)
    if columns["media"] is None and columns["text"] is None:
        raise DataFormatError(
            f"{source}: no column of clips ({', '.join(MEDIA_COLUMNS)}) or texts; it has {_names(rows)}"
        )
    if columns["label"] is None and require_label:
        raise DataFormatError(f"{source}: no label column ({', '.join(LABEL_COLUMNS)}); it has {_names(rows)}")
    if columns["media"] is not None:
        rows = _find_media(source, rows, columns["media"], skip_missing)
    splits = [split_name(row["__split__"]) for row in rows] if has_split else ["train"] * len(rows)
    _carve(rows, splits, columns["media"], group_column, validation_fraction, seed)
    _check_leaks(source, rows, splits, columns["media"])
    table, types = _make_columns(source, rows, columns, label_names, task)
    for name in keep_columns:
        table[name] = [row.get(name) for row in rows]
        types[name] = _kept_type(table[name])
    features = Features(types)
    parts = {}
    for split in sorted(set(splits)):
        index = [i for i, name in enumerate(splits) if name == split]
        parts[split] = make_dataset({key: [values[i] for i in index] for key, values in table.items()}, features)
    return ordered_splits(parts)


# ---------------------------------------------------------------------------------------------------------------------
# Reading tables


def _read_source(source: Any, split_column: str) -> tuple[list[_Row], bool]:
    """All rows, each with `__folder__` and, when the second value is True, `__split__`."""
    if isinstance(source, Mapping):
        return _read_split_tables({name: Path(path) for name, path in source.items()}), True
    path = Path(source)
    if path.is_dir():
        folders = {child.name: child for child in sorted(path.iterdir()) if child.is_dir()}
        by_split = {name: child for name, child in folders.items() if name.lower() in SPLIT_ALIASES and _tables(child)}
        if not _tables(path) and by_split:
            return _read_split_tables({name: _one_table(child) for name, child in by_split.items()}), True
        path = _one_table(path)
    rows = list(_read_table(path))
    has_split = bool(rows) and any(row.get(split_column) not in (None, "") for row in rows)
    for number, row in enumerate(rows, 1):
        if has_split and row.get(split_column) in (None, ""):
            raise DataFormatError(f"{path}: row {number} has no {split_column}")
        row["__split__"] = row.get(split_column)
    return rows, has_split


def _read_split_tables(tables: Mapping[str, Path]) -> list[_Row]:
    names = [split_name(name) for name in tables]
    if len(set(names)) < len(names):
        raise DataFormatError(f"two tables for one split: {', '.join(tables)}")
    rows = []
    for name, path in tables.items():
        for row in _read_table(path):
            row["__split__"] = name
            rows.append(row)
    return rows


def _tables(folder: Path) -> list[Path]:
    return sorted(p for p in folder.iterdir() if p.suffix.lower() in TABLE_SUFFIXES and p.is_file())


def _one_table(folder: Path) -> Path:
    tables = _tables(folder)
    named = [table for table in tables if table.stem.lower() in TABLE_NAMES]
    chosen = named or tables
    if len(chosen) != 1:
        found = ", ".join(table.name for table in chosen) or "none"
        raise DataFormatError(f"{folder}: wanted one table ({', '.join(TABLE_SUFFIXES)}), found {found}; name the file")
    return chosen[0]


def _read_table(path: Path) -> Iterator[_Row]:
    if not path.is_file():
        raise DataFormatError(f"{path}: no such table")
    readers = {".csv": _read_csv, ".tsv": _read_csv, ".jsonl": _read_jsonl, ".parquet": _read_parquet}
    if path.suffix.lower() not in readers:
        raise DataFormatError(f"{path}: a table ends in {', '.join(TABLE_SUFFIXES)}")
    try:
        for row in readers[path.suffix.lower()](path):
            row["__folder__"] = path.parent
            yield row
    except UnicodeDecodeError as error:
        raise DataFormatError(f"{path}: not UTF-8 ({error})") from error


def _read_csv(path: Path) -> Iterator[_Row]:
    with open(path, newline="", encoding="utf-8-sig") as file:
        reader = csv.DictReader(file, delimiter="\t" if path.suffix.lower() == ".tsv" else ",", strict=True)
        try:
            for row in reader:
                if None in row or None in row.values():
                    raise DataFormatError(f"{path}, line {reader.line_num}: as many fields as the header wanted")
                yield {str(key).strip(): value for key, value in row.items()}
        except csv.Error as error:
            raise DataFormatError(f"{path}, line {reader.line_num}: {error}") from error


def _read_jsonl(path: Path) -> Iterator[_Row]:
    with open(path, encoding="utf-8-sig") as file:
        for number, line in enumerate(file, 1):
            if not line.strip():
                continue
            try:
                row = json.loads(line)
            except ValueError as error:
                raise DataFormatError(f"{path}, line {number}: {error}") from error
            if not isinstance(row, dict):
                raise DataFormatError(f"{path}, line {number}: not a JSON object")
            yield row


def _read_parquet(path: Path) -> Iterator[_Row]:
    try:
        table = pq.read_table(path)
    except (OSError, ValueError) as error:
        raise DataFormatError(f"{path}: not a Parquet file ({error})") from error
    for row in table.to_pylist():
        # A video or audio column of `datasets` is a struct; its path is what is wanted.
        yield {key: value.get("path") if isinstance(value, dict) else value for key, value in row.items()}


def _names(rows: Sequence[_Row]) -> str:
    return ", ".join(sorted({key for row in rows for key in row if not key.startswith("__")})) or "no columns"


def _require(source: object, rows: Sequence[_Row], name: str) -> None:
    if not any(name in row for row in rows):
        raise DataFormatError(f"{source}: no column {name!r}; it has {_names(rows)}")


def _pick(source: object, rows: Sequence[_Row], wanted: str | None, known: Sequence[str]) -> str | None:
    if wanted is not None:
        _require(source, rows, wanted)
        return wanted
    return next((name for name in known if any(name in row for row in rows)), None)


# ---------------------------------------------------------------------------------------------------------------------
# Rows to columns


def _find_media(source: object, rows: list[_Row], column: str, skip_missing: bool) -> list[_Row]:
    """Put the absolute path (or "" where the table names no file) into `__media__`; deal with absent files."""
    kept, missing = [], []
    for row in rows:
        name = row.get(column)
        if name in (None, ""):
            row["__media__"] = ""  # a row without a clip: the modality is missing
            kept.append(row)
            continue
        path = os.path.abspath(os.path.join(row["__folder__"], str(name)))
        row["__media__"] = path
        if os.path.isfile(path):
            kept.append(row)
        else:
            missing.append(path)
    if missing:
        text = f"{source}: {len(missing)} of {len(rows)} files are missing: {', '.join(missing[:5])}"
        text += ", ..." if len(missing) > 5 else ""
        if not skip_missing or not kept:
            raise DataFormatError(f"{text}. Give paths relative to the table, or pass skip_missing=True")
        logger.warning("%s; their rows are skipped", text)
    return kept


def _carve(
    rows: Sequence[_Row], splits: list[str], media: str | None, group: str | None, fraction: float, seed: int
) -> None:
    """Turn some train rows of `splits` into validation rows, in place, when there are none."""
    if fraction == 0 or "validation" in splits or "train" not in splits:
        return
    train = [i for i, name in enumerate(splits) if name == "train"]
    groups = []
    for i in train:
        key = rows[i].get(group) if group else (rows[i]["__media__"] if media else None)
        if group and key in (None, ""):
            raise DataFormatError(f"row {i + 1} has no {group}, which groups rows for the validation split")
        groups.append(str(key) if key else f"row {i}")
    picked = carve_groups(groups, fraction=fraction, seed=seed)
    for i, take in zip(train, picked, strict=True):
        if take:
            splits[i] = "validation"


def _check_leaks(source: object, rows: Sequence[_Row], splits: Sequence[str], media: str | None) -> None:
    owner: dict[str, str] = {}
    for row, split in zip(rows, splits, strict=True):
        path = row["__media__"] if media else ""
        if path and owner.setdefault(path, split) != split:
            raise DataFormatError(f"{source}: {path} is in both {owner[path]} and {split}; a clip belongs to one split")


def _make_columns(
    source: object,
    rows: Sequence[_Row],
    columns: Mapping[str, str | None],
    label_names: Sequence[str] | None,
    task: str,
) -> tuple[dict[str, list], dict[str, Any]]:
    table: dict[str, list] = {"id": _make_ids(source, rows, columns)}
    types: dict[str, Any] = {"id": Value("string")}
    if columns["media"] is not None:
        table["media"] = [row["__media__"] for row in rows]
        types["media"] = Value("string")
    if columns["text"] is not None:
        texts = [row.get(columns["text"]) for row in rows]
        table["text"] = ["" if text is None else str(text) for text in texts]
        types["text"] = Value("string")
    if columns["label"] is not None:
        labels = [row.get(columns["label"]) for row in rows]
        table["label"], types["label"] = _make_labels(source, labels, label_names, task)
    return table, types


def _make_ids(source: object, rows: Sequence[_Row], columns: Mapping[str, str | None]) -> list[str]:
    if columns["id"] is not None:
        ids = [str(row.get(columns["id"])) for row in rows]
        twice = sorted({name for name in ids if ids.count(name) > 1}) if len(set(ids)) < len(ids) else []
        if twice:
            raise DataFormatError(f"{source}: {len(twice)} ids come twice (first: {twice[0]!r})")
        return ids
    ids, uses = [], {}  # type: ignore[var-annotated]
    for row in rows:
        name = row.get(columns["media"]) if columns["media"] else None
        split = row["__split__"]
        stem = "/".join(str(part) for part in (split, os.path.splitext(str(name))[0] if name else "row") if part)
        uses[stem] = uses.get(stem, 0) + 1
        ids.append(stem if uses[stem] == 1 and name else f"{stem}#{uses[stem]}")
    return ids


def _number(value: Any) -> float | None:
    try:
        return float(value)
    except (TypeError, ValueError):
        return None


def _make_labels(
    source: object, labels: Sequence[Any], label_names: Sequence[str] | None, task: str
) -> tuple[list, Value | ClassLabel]:
    absent = [i for i, label in enumerate(labels, 1) if label is None or label == ""]
    if absent:
        raise DataFormatError(f"{source}: {len(absent)} rows have no label (first: row {absent[0]})")
    numbers = [_number(label) for label in labels]
    numeric = all(number is not None for number in numbers)
    if task == "regression" or (task == "auto" and label_names is None and numeric):
        bad = [i for i, number in enumerate(numbers) if number is None or not math.isfinite(number)]
        if bad:
            raise DataFormatError(f"{source}: {len(bad)} labels are not finite numbers (first: {labels[bad[0]]!r})")
        return list(np.asarray(numbers, dtype=np.float32)), Value("float32")
    words = [str(label) for label in labels]
    if label_names is None:
        # Numbers in their order (10 after 9), names in the alphabet's.
        names = sorted(set(words), key=lambda word: (_number(word) if numeric else 0.0, word))
    else:
        names = [str(name) for name in label_names]
    position = {name: i for i, name in enumerate(names)}
    if label_names is not None and numeric and not set(words) <= set(names):
        position = {str(i): i for i in range(len(names))}
        words = [f"{number:g}" for number in numbers if number is not None]
    unknown = sorted(set(words) - set(position))
    if unknown:
        raise DataFormatError(f"{source}: label {unknown[0]!r} is none of the classes {', '.join(names)}")
    return [position[word] for word in words], ClassLabel(names=names)


def _kept_type(values: Sequence[Any]) -> Value:
    kinds = {type(value) for value in values if value is not None}
    if kinds <= {bool}:
        return Value("bool")
    if kinds <= {int, bool}:
        return Value("int64")
    if kinds <= {int, float, bool}:
        return Value("float64")
    if kinds <= {str}:
        return Value("string")
    raise DataFormatError(f"a kept column mixes {', '.join(sorted(kind.__name__ for kind in kinds))}")
