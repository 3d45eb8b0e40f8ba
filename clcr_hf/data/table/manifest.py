"""A table (CSV, TSV, JSONL or Parquet) of clips, features or dialogues, with transcript, label and split."""

import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from datasets import Dataset, DatasetDict, Features, Value

from ..columns import DataFormatError, carve_groups, logger, make_dataset, ordered_splits, split_name
from ..dialogues import as_dialogues
from ..feature_arrays import feature_column, feature_sequence, feature_type, read_feature_file
from ..files import report_missing
from .cells import (
    FEATURES_SUFFIX,
    MEDIA_TYPES,
    RowIds,
    cell_paths,
    first_fault,
    located,
)
from .labels import TASKS, LabelScan, TableLabels, is_absent
from .read import Row, Table, column_names, find_tables, read_rows
from .scan import TableScan, feature_shape, kept_type

MEDIA_COLUMNS = ("file_name", "file", "path", "media")
VIDEO_COLUMNS = ("video",)
AUDIO_COLUMNS = ("audio",)
IMAGES_COLUMNS = ("images", "frames")
FLOW_COLUMNS = ("flow",)
TEXT_COLUMNS = ("text", "transcript", "transcription", "sentence")
LABEL_COLUMNS = ("label", "labels", "score", "sentiment")
ID_COLUMNS = ("id", "clip_id")


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
    label_separator: str | None = None,
    task: str = "auto",
    dialogue_column: str | None = None,
    turn_column: str | None = None,
    validation_fraction: float = 0.1,
    seed: int = 0,
    skip_missing: bool = False,
    require_label: bool = True,
    keep_columns: Sequence[str] = (),
) -> DatasetDict:
    """Load clips, features or dialogues listed in a table.

    `source` is one of
        a table (`.csv`, `.tsv`, `.jsonl`, `.parquet`) with a split column, or without one: then all of it is train;
        a folder with one such table, named `metadata` or `manifest` where there are several;
        a folder with a folder for each split (`train/metadata.csv`, ...), as `datasets`' videofolder has it;
        a dict of split name to table.
    File names in a table are relative to the table's folder. Splits may be called train, valid, val, dev,
    validation or test. Without a validation split one is carved from train by whole groups and a seed; 0 for
    `validation_fraction` leaves it out.

    What a row may have, each in a column of its own:
        one file with frames and sound: `MEDIA_COLUMNS`, or `video` where there is no `audio` beside it;
        `video` (its frames alone are meant) and `audio` (a sound file);
        `images`: frames in order, as a list of files, a folder, or a pattern such as `frames/7/*.jpg`;
        `flow`: an `.npz` of optical flow (`clcr_hf.data.flow`);
        `<modality>_features`: numbers (Parquet or JSONL lists), or a `.npy`, `.npz` or `.safetensors` file of shape
            (T, D), (D,), or (L, T, D) for taps of L levels;
        a text. At least one of these. An empty cell means that the row lacks that modality.

    Args:
        media_column, text_column, label_column, id_column: names; by default the first present of `MEDIA_COLUMNS`,
            `TEXT_COLUMNS`, `LABEL_COLUMNS`, `ID_COLUMNS`.
        group_column: speaker, actor or source video. Rows of one group stay on one side when validation is carved.
            Without it rows of one dialogue, or else of one file, stay together.
        label_names: class names in the order of their numbers; labels are then names or numbers of these classes.
        label_separator: cells hold several names, as `happy|sad` with "|": multi-label.
        task: "regression" (labels are floats), "classification" (names, or numbers taken as names), "multi_label"
            (lists of names, or one number in [0, 1] for each class), "segments" (a list with a class for each segment
            of the row), or "auto": regression when every label is a number and no `label_names` are given; lists are
            multi-label unless they hold whole numbers beyond 0 and 1.
        dialogue_column, turn_column: rows are utterances of the dialogues that `dialogue_column` names, in the order of
            `turn_column` (default: of the table); the result has a row a dialogue, see `as_dialogues`. Utterances
            without a label are ignored in training.
        skip_missing: drop rows whose file is absent, with a warning, where the default is an error.
        require_label: False for a table without labels, or with some (prediction).
        keep_columns: further columns of the table to keep, as strings or as the table's JSON or Parquet types.

    Returns:
        DatasetDict with columns id (str); media, video, audio, images, flow and `<modality>_features` as the table has
        them (`Video`, `Audio` and `Image` with `decode=False`; features float32; None where a row lacks one); text;
        label (float32, ClassLabel, or a list of floats) or labels (list of ClassLabel); and `keep_columns`.

    Raises:
        DataFormatError: no or several tables, unreadable rows, absent columns, absent files (counted, the first five
            named), features of several widths, labels that fit no task, one file in two splits, ids that come twice.
    """
    utterance_columns = [name for name in (dialogue_column, turn_column) if name is not None]
    manifest = open_manifest(
        source,
        media_column=media_column,
        text_column=text_column,
        label_column=label_column,
        id_column=id_column,
        split_column=split_column,
        label_names=label_names,
        label_separator=label_separator,
        task=task,
        require_label=require_label and dialogue_column is None,
        keep_columns=[*dict.fromkeys([*keep_columns, *utterance_columns])],
        group_column=group_column or dialogue_column,
    )
    missing: list[str] = []
    rows = list(manifest.rows(missing))
    advice = "Give paths relative to the table"
    report_missing(source, missing, len(rows) + len(missing), skip_missing, advice)
    splits = [row["split"] for row in rows]
    _carve(source, rows, splits, validation_fraction, seed)
    _check_leaks(source, rows, splits)
    parts = {}
    for split in sorted(set(splits)):
        parts[split] = manifest.dataset([row for row, name in zip(rows, splits, strict=True) if name == split])
    data = ordered_splits(parts)
    if dialogue_column is None:
        return data
    return as_dialogues(data, dialogue_column=dialogue_column, turn_column=turn_column)


def iter_manifest(source: str | os.PathLike | Mapping[str, str | os.PathLike], **options: Any) -> Iterator[Row]:
    """Rows of a table one at a time, in constant memory but for their ids; see `open_manifest` for the options.

    Files are not looked at: whoever opens them says what is wrong with them.
    """
    return open_manifest(source, **options).rows()


def open_manifest(
    source: str | os.PathLike | Mapping[str, str | os.PathLike],
    *,
    media_column: str | None = None,
    text_column: str | None = None,
    label_column: str | None = None,
    id_column: str | None = None,
    split_column: str = "split",
    label_names: Sequence[str] | None = None,
    label_separator: str | None = None,
    task: str = "auto",
    require_label: bool = True,
    keep_columns: Sequence[str] = (),
    group_column: str | None = None,
) -> "Manifest":
    """Look through a table once, keeping nothing of it but the ids, and say what its rows are.

    Args:
        as in `load_manifest`.

    Returns:
        A `Manifest`, whose `rows()` reads the table anew each time.

    Raises:
        DataFormatError: as in `load_manifest`, apart from files, which are not looked at.
    """
    if task not in TASKS:
        raise DataFormatError(f"task={task!r}; choose {', '.join(TASKS)}")
    tables = find_tables(source)
    present = list(dict.fromkeys(name for table in tables for name in column_names(table)))
    if not present:
        raise DataFormatError(f"{source}: the table has no rows")
    columns = choose_columns(source, present, media_column, text_column)
    label = _pick(source, present, label_column, LABEL_COLUMNS)
    identity = _pick(source, present, id_column, ID_COLUMNS)
    for name in (*keep_columns, *([group_column] if group_column else [])):
        _require(source, present, name)
    scan = TableScan(LabelScan(source, label_names, task, label_separator, require_label), keep_columns)
    scan.read(tables, label, identity, split_column)
    if not columns:
        raise DataFormatError(
            f"{source}: no column of clips ({', '.join((*MEDIA_COLUMNS, *VIDEO_COLUMNS, *AUDIO_COLUMNS))}), features "
            f"(..._features) or texts; it has {_names(present)}"
        )
    if label is None and require_label:
        raise DataFormatError(f"{source}: no label column ({', '.join(LABEL_COLUMNS)}); it has {_names(present)}")
    types: dict[str, Any] = {"id": Value("string")}
    shapes = {}
    for name, column in columns.items():
        if name.endswith(FEATURES_SUFFIX):
            shapes[name] = feature_shape(tables, column)
            types[name] = feature_type(*shapes[name])
        else:
            types[name] = MEDIA_TYPES.get(name, Value("string"))
    labels = scan.labels.finish() if label is not None else None
    if labels is not None:
        types[labels.column] = labels.type
    for name in keep_columns:
        types[name] = kept_type(name, scan.kinds[name])
    features = Features({**{name: kind for name, kind in types.items() if not name.endswith(FEATURES_SUFFIX)}, **types})
    return Manifest(
        source=source,
        features=features,
        num_rows=scan.num_rows,
        label_names=None if labels is None else labels.names,
        tables=tuple(tables),
        columns=columns,
        label_column=label,
        labels=labels,
        id_column=identity,
        split_column=split_column if scan.has_split else None,
        keep_columns=tuple(keep_columns),
        group_column=group_column,
        shapes=shapes,
    )


@dataclass(frozen=True)
class Manifest:
    """A table that was looked through.

    Attributes:
        source: what was opened.
        features: types of the rows, apart from their `split`.
        num_rows: rows in all.
        label_names: class names, where labels are classes with names.
    """

    source: object
    features: Features
    num_rows: int
    label_names: tuple[str, ...] | None
    tables: tuple[Table, ...]
    columns: Mapping[str, str]
    label_column: str | None
    labels: TableLabels | None
    id_column: str | None
    split_column: str | None
    keep_columns: tuple[str, ...]
    group_column: str | None
    shapes: Mapping[str, tuple[int, int]]

    def __iter__(self) -> Iterator[Row]:
        return self.rows()

    def __len__(self) -> int:
        return self.num_rows

    def rows(self, missing: list[str] | None = None) -> Iterator[Row]:
        """Rows as dicts of the columns of `features`, `split` (train, validation or test) and, with a group column,
        `__group__`.

        Args:
            missing: a list that takes the names of absent or empty files, whose rows are then left out. Without it
                files are not looked at, apart from features in files, which are read.

        Yields:
            media, video, audio: `{"path": absolute path, "bytes": None}` or None; images: a list of such; flow: an
            absolute path; `<modality>_features`: float32 arrays `(T, D)` or `(L, T, D)`, or None.
        """
        make_id = RowIds()
        replaced: dict[str, int] = {}
        for table in self.tables:
            for number, raw in enumerate(read_rows(table), 1):
                where = f"{table.path}, row {number}"
                cells = {
                    name: located(name, raw.get(column), table.path.parent, f"{where}, {column}")
                    for name, column in self.columns.items()
                }
                split = table.split if table.split is not None else raw.get(self.split_column or "")
                identity = raw[self.id_column] if self.id_column else make_id(raw.get(self._naming_column()), split)
                fault = None if missing is None else first_fault(cells)
                if fault is not None and missing is not None:
                    missing.append(fault)
                    continue
                row: Row = {"id": str(identity)}
                for name, cell in cells.items():
                    is_features = name.endswith(FEATURES_SUFFIX)
                    row[name] = self._features(name, cell, f"{where}, {name}", replaced) if is_features else cell
                if self.labels is not None and self.label_column is not None:
                    row[self.labels.column] = self.labels.read(raw.get(self.label_column))
                row |= {name: raw.get(name) for name in self.keep_columns}
                if self.group_column is not None:
                    row["__group__"] = raw.get(self.group_column)
                yield {**row, "split": "train" if split is None else split_name(split)}
        for name, count in replaced.items():
            logger.warning("%s: %d NaN or infinite values in %s were replaced by 0", self.source, count, name)

    def dataset(self, rows: Sequence[Row]) -> Dataset:
        """A typed `Dataset` in memory of some of the rows."""
        columns: dict[str, Any] = {name: [row[name] for row in rows] for name in self.features}
        for name, (ndim, width) in self.shapes.items():
            columns[name] = feature_column(columns[name], ndim, width)
        return make_dataset(columns, self.features)

    def _naming_column(self) -> str:
        """The column of the table whose file names make ids."""
        return next((self.columns[name] for name in MEDIA_TYPES if name in self.columns), "")

    def _features(self, name: str, cell: Any, where: str, replaced: dict[str, int]) -> Any:
        if cell is None:
            return None
        value = read_feature_file(cell, name) if isinstance(cell, str) else cell
        array, bad = feature_sequence(value, where)
        ndim, width = self.shapes[name]
        if (array.ndim, array.shape[-1]) != (ndim, width) and array.size:
            raise DataFormatError(
                f"{where}: features of shape {array.shape}, where the first row has {ndim} axes and width {width}"
            )
        if bad:
            replaced[name] = replaced.get(name, 0) + bad
        return array if array.size else None


# ---------------------------------------------------------------------------------------------------------------------
# Which columns


def choose_columns(source: object, present: Sequence[str], media: str | None, text: str | None) -> dict[str, str]:
    """Column of the result to column of the table: everything that a model may read."""
    chosen: dict[str, str | None] = {"media": _pick(source, present, media, MEDIA_COLUMNS)}
    known = {"video": VIDEO_COLUMNS, "audio": AUDIO_COLUMNS, "images": IMAGES_COLUMNS, "flow": FLOW_COLUMNS}
    for name, names in known.items():
        found = _pick(source, present, None, names)
        chosen[name] = found if found != chosen["media"] else None
    if chosen["media"] is None and chosen["audio"] is None:
        chosen["media"], chosen["video"] = chosen["video"], None
    chosen["text"] = _pick(source, present, text, TEXT_COLUMNS)
    chosen |= {name: name for name in present if name.endswith(FEATURES_SUFFIX) and name != FEATURES_SUFFIX}
    return {name: column for name, column in chosen.items() if column is not None}


def _names(present: Sequence[str]) -> str:
    return ", ".join(sorted(present)) or "no columns"


def _require(source: object, present: Sequence[str], name: str) -> None:
    if name not in present:
        raise DataFormatError(f"{source}: no column {name!r}; it has {_names(present)}")


def _pick(source: object, present: Sequence[str], wanted: str | None, known: Sequence[str]) -> str | None:
    if wanted is not None:
        _require(source, present, wanted)
        return wanted
    return next((name for name in known if name in present), None)


# ---------------------------------------------------------------------------------------------------------------------
# Splits


def _carve(source: object, rows: Sequence[Row], splits: list[str], fraction: float, seed: int) -> None:
    """Turn some train rows of `splits` into validation rows, in place, when there are none."""
    if fraction == 0 or "validation" in splits or "train" not in splits:
        return
    train = [i for i, name in enumerate(splits) if name == "train"]
    groups = []
    for i in train:
        group = rows[i].get("__group__")
        if "__group__" in rows[i] and is_absent(group):
            raise DataFormatError(
                f"{source}: the row {rows[i]['id']!r} has no group; validation is carved by whole groups"
            )
        groups.append(str(group) if group is not None else next(cell_paths(rows[i]), f"row {i}"))
    picked = carve_groups(groups, fraction=fraction, seed=seed)
    for i, take in zip(train, picked, strict=True):
        if take:
            splits[i] = "validation"


def _check_leaks(source: object, rows: Sequence[Row], splits: Sequence[str]) -> None:
    owner: dict[str, str] = {}
    for row, split in zip(rows, splits, strict=True):
        for path in cell_paths(row):
            if owner.setdefault(path, split) != split:
                raise DataFormatError(
                    f"{source}: {path} is in both {owner[path]} and {split}; a clip belongs to one split"
                )
