"""A table (CSV, TSV, JSONL, Parquet or XLSX) of clips, features or dialogues, with transcript, label and split."""

import functools
import os
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from datasets import Dataset, DatasetDict, Features, List, Value

from ...samples import window_of
from ..arrow import make_dataset
from ..columns import DataFormatError, carve_split, logger, name_some, ordered_splits, split_name
from ..dialogues import as_dialogues
from ..feature_arrays import feature_sequence, feature_type, features_like, read_feature_file
from ..files import Roots, file_fault, report_missing
from ..source import Row, Rows, Source
from ..talking_faces.factors import MARKER
from . import choose
from .cells import FEATURES_SUFFIX, MEDIA_TYPES, RowIds, absolute_path, cell_paths, first_fault, located
from .labels import LabelScan
from .read import TABLE_SUFFIXES, Table, column_names, find_tables, named_table, read_rows
from .values import is_absent, is_missing_word

_MOST_NAMED = 50  # unused columns, in their warning
# Columns of the result that hold files with times.
_TIMED = {"media", "video", "audio", "flow"}
# What a column to keep may hold to be of a type, the narrowest first.
_KEPT: dict[str, set[type]] = {"bool": {bool}, "int64": {int, bool}, "float64": {int, float, bool}, "string": {str}}


def load_manifest(source: str | os.PathLike | Mapping[str, str | os.PathLike], **options: Any) -> DatasetDict:
    """Load clips, features or dialogues listed in a table.

    `source` is one of
        a table (`.csv`, `.tsv`, `.jsonl`, `.parquet`, `.xlsx`) with a split column, or without one: then all of it is
            train;
        a folder with one such table, named `metadata` or `manifest` where there are several;
        a folder with a folder for each split (`train/metadata.csv`, ...), as `datasets`' videofolder has it;
        a dict of split name to table.
    File names in a table are relative to the table's folder. Splits may be called train, valid, val, dev,
    validation or test. Without a validation split one is carved from train by whole groups and a seed; 0 for
    `validation_fraction` leaves it out.

    What a row may have, each in a column of its own:
        one file with frames and sound: `MEDIA_COLUMNS`, or `video` where there is no `audio` beside it;
        `video` (its frames alone are meant) and `audio` (an audio file);
        `images`: frames in order, as a list of files, a folder, or a pattern such as `frames/7/*.jpg`;
        `flow`: an `.npz` of optical flow (`clcr_hf.data.flow`);
        `<modality>_features`: numbers (Parquet or JSONL lists), or a file (`FEATURE_SUFFIXES`) of shape (T, D), (D,),
            or (L, T, D) for taps of L levels. `text`, `vision` or `audio` whose cells name such files are features too;
        a text;
        `start` and `end`: the row is this stretch of its files, in seconds; empty cells mean the file's own beginning
            and end. Images have no times, so a row of images has no stretch. Texts and features are of the stretch.
        At least one of these but the last. An empty cell means that the row lacks that modality.
    Columns that are none of these nor named by an argument are said to be unused. A column without a name (pandas
    writes its index so) is never taken for anything.

    Args:
        media_column, text_column, label_column, id_column: names; by default the first present of `MEDIA_COLUMNS`,
            `TEXT_COLUMNS`, `LABEL_COLUMNS`, `ID_COLUMNS`.
        label_columns: several columns, a score each (or 0 and 1 each, with `task="multi_label"`); they name the scores.
        group_column: speaker, actor or source video. Rows of one group stay on one side when validation is carved.
            Without it rows of one dialogue, or else of one file, stay together.
        label_names: class names in the order of their numbers; labels are then names or numbers of these classes. With
            `task="regression"`: names of the scores.
        label_separator: cells hold several names, as `happy|sad` with "|": multi-label.
        task: "regression" (labels are floats, or lists of so many scores), "classification" (names, or numbers taken
            as names: `3` and `3.0` are one), "multi_label" (lists of names, or one number in [0, 1] for each class),
            "segments" (a list with a class for each segment of the row), or "auto": regression when every label is a
            number and no `label_names` are given; lists are multi-label unless they hold whole numbers beyond 0 and 1.
            Lists may be written into a cell as JSON or pandas do (`[1, 0]`). Labels of which some are numbers and some
            are not fit no task.
        dialogue_column, turn_column: rows are utterances of the dialogues that `dialogue_column` names, in the order of
            `turn_column` (default: of the table); the result has a row a dialogue, see `as_dialogues`. Utterances
            without a label are ignored in training.
        validation_fraction, seed: share of train that becomes validation where there is none, and what picks it.
        skip_missing: drop rows whose file is absent, with a warning, where the default is an error.
        require_label: False for a table without labels, or with some (prediction).
        missing_labels: what a row means whose label is empty, NaN, or a word such as `nan`, `NA` or `None` that is none
            of `label_names`: "error", or "drop" to leave it out with a warning that counts.
        keep_columns: further columns of the table to keep, as strings or as the table's JSON or Parquet types.
        ignore_columns: columns that are not read, and not named as unused either.
        media_root: for a table of a stranger's: a file must lie beneath the table's folder or this one, links followed.
            By default files may lie anywhere.

    Returns:
        DatasetDict with columns id (str); media, video, audio, images, flow and `<modality>_features` as the table has
        them (`Video`, `Audio` and `Image` with `decode=False`; features float32; None where a row lacks one); text;
        label (float32, ClassLabel, or a list of floats for several classes or scores) or labels (list of ClassLabel);
        and `keep_columns`.

    Raises:
        DataFormatError: no or several tables, unreadable rows, absent columns, absent files (counted, the first five
            named), features of several widths, labels that fit no task (with the row), one file in two splits, ids that
            come twice.
    """
    return read_manifest(source, **options).load()


def read_manifest(
    source: str | os.PathLike | Mapping[str, str | os.PathLike],
    *,
    dialogue_column: str | None = None,
    turn_column: str | None = None,
    validation_fraction: float = 0.1,
    seed: int = 0,
    skip_missing: bool = False,
    **options: Any,
) -> Rows:
    """All rows of a table; see [`load_manifest`]. `options` are those of [`open_manifest`]."""
    utterance_columns = [name for name in (dialogue_column, turn_column) if name is not None]
    if dialogue_column is not None:
        options["require_label"] = False
        options["group_column"] = options.get("group_column") or dialogue_column
    kept = [*options.get("keep_columns", ())]
    options["keep_columns"] = [*dict.fromkeys([*kept, *utterance_columns])]
    manifest = open_manifest(source, **options)
    missing: list[str] = []
    owner: dict[int, str] = {}
    parts: dict[str, list[Row]] = {}
    for number, row in enumerate(manifest.rows(missing)):
        parts.setdefault(row["split"], []).append({**row, "__number__": number})
    total = sum(map(len, parts.values())) + len(missing)
    report_missing(source, missing, total, skip_missing, "Give paths relative to the table")
    parts = carve_split(parts, lambda rows: [_group_of(source, row) for row in rows], validation_fraction, seed)
    for split, rows in parts.items():
        for row in rows:
            check_leak(source, owner, row, split)
    data = ordered_splits({split: manifest.dataset(rows) for split, rows in parts.items()})
    if dialogue_column is not None:
        data = as_dialogues(data, dialogue_column=dialogue_column, turn_column=turn_column, keep_columns=kept)
    return Rows.of(data, **manifest.about_labels)


def iter_manifest(source: str | os.PathLike | Mapping[str, str | os.PathLike], **options: Any) -> Iterator[Row]:
    """Rows of a table one at a time, in constant memory but for their ids; see `open_manifest` for the options.

    Files are not looked at: whoever opens them says what is wrong with them.
    """
    return open_manifest(source, **options).rows()


class Manifest:
    """A table that was looked through once, of which nothing is kept but the ids; `rows()` reads it anew each time.

    Args:
        as in `load_manifest`.

    Attributes:
        source: what was opened.
        features: types of the rows, apart from their `split`.
        num_rows: rows in all.
        labels: how labels are read, and what they are (their `task` and `names`); None for a table without.
        label_columns: the columns that they are read from.

    Raises:
        DataFormatError: as in `load_manifest`, apart from files, which are not looked at.
    """

    def __init__(
        self,
        source: str | os.PathLike | Mapping[str, str | os.PathLike],
        *,
        media_column: str | None = None,
        text_column: str | None = None,
        label_column: str | None = None,
        label_columns: Sequence[str] | None = None,
        id_column: str | None = None,
        split_column: str = "split",
        label_names: Sequence[str] | None = None,
        label_separator: str | None = None,
        task: str = "auto",
        require_label: bool = True,
        missing_labels: str = "error",
        keep_columns: Sequence[str] = (),
        group_column: str | None = None,
        ignore_columns: Sequence[str] = (),
        media_root: str | os.PathLike | None = None,
    ):
        self.source, self.keep_columns, self.group_column = source, tuple(keep_columns), group_column
        self.num_rows = 0
        self.split_column: str | None = None
        self.tables = find_tables(source)
        self.roots = None if media_root is None else _own_roots(source, self.tables, media_root)
        present = _present_columns(source, self.tables)
        self.columns = choose.choose_columns(source, self.tables, present, media_column, text_column)
        self.label_columns = _label_columns(source, present, label_column, label_columns, require_label)
        self.spread_labels = bool(label_columns)
        self.id_column = choose.pick(source, present, id_column, choose.ID_COLUMNS)
        for name in (*keep_columns, *([group_column] if group_column else [])):
            choose.require(source, present, name)
        missing = missing_labels if require_label else "keep"
        self.drop_unlabelled = missing == "drop"
        labels = LabelScan(source, label_names, task, label_separator, missing, label_columns or ())
        kinds = self._scan(labels, split_column)
        if not self.columns:
            raise DataFormatError(
                f"{source}: no column of clips ({', '.join((*choose.MEDIA_COLUMNS, 'video', 'audio'))}), "
                f"features (..._features) or texts; it has {choose.listed(present)}"
            )
        timed = self.columns.keys() & _TIMED
        self.window = tuple(name for name in choose.WINDOW_COLUMNS if name in present and timed)
        used = {*self.columns.values(), *self.window, *self.label_columns, self.id_column, split_column}
        used |= {*keep_columns, group_column, *ignore_columns}
        _name_unused(str(source), tuple(name for name in present if name not in used))
        self.labels = labels.finish() if self.label_columns else None
        self.num_rows -= labels.num_missing if self.drop_unlabelled else 0
        featured = [name for name in self.columns if name.endswith(FEATURES_SUFFIX)]
        shapes = self._feature_shapes([self.columns[name] for name in featured])
        self.shapes = {name: shapes[self.columns[name]] for name in featured}
        self.features = self._types({name: _kept_type(name, kinds[name]) for name in keep_columns})

    def _scan(self, labels: LabelScan, split_column: str) -> dict[str, set[type]]:
        """Look through all rows once: note each label, count the rows, see whether they name their split.

        Returns:
            The types of the values in the columns to keep.

        Raises:
            DataFormatError: no rows, unknown splits, a row without split or id, ids that come twice.
        """
        kinds: dict[str, set[type]] = {name: set() for name in self.keep_columns}
        wanted = [*self.label_columns, *([self.id_column] if self.id_column else []), split_column, *kinds]
        uses: Counter[str] = Counter()
        unsplit: str | None = None  # the first is enough
        for table in self.tables:
            for number, row in enumerate(read_rows(table, wanted), 1):
                self.num_rows += 1
                if table.split is None and is_absent(row.get(split_column)):
                    unsplit = unsplit or f"{table.path}: row {number}"
                elif table.split is None:
                    split_name(row[split_column])
                    self.split_column = split_column
                if self.id_column is not None:
                    if is_absent(row.get(self.id_column)):
                        raise DataFormatError(f"{table.path}: row {number} has no {self.id_column}")
                    uses[str(row[self.id_column]).strip()] += 1
                if self.label_columns:
                    at = f"row {number}" if len(self.tables) == 1 else f"{table.path}, row {number}"
                    labels.add(self._label_cell(row), at)
                for key, found in kinds.items():
                    if row.get(key) is not None:
                        found.add(type(row[key]))
        if not self.num_rows:
            raise DataFormatError(f"{self.source}: the table has no rows")
        twice = [name for name, count in uses.items() if count > 1]
        if twice:
            raise DataFormatError(f"{self.source}: {len(twice)} ids come twice (first: {twice[0]!r})")
        if self.split_column and unsplit:
            raise DataFormatError(f"{unsplit} has no {split_column}")
        return kinds

    def _label_cell(self, row: Row) -> Any:
        """A row's label: the cell of its column, or the cells of all columns where a label is spread over them."""
        cells = [row.get(name) for name in self.label_columns]
        return cells if self.spread_labels else cells[0]

    def _types(self, kept: dict[str, Any]) -> Features:
        """Types of the rows; features come last."""
        types: dict[str, Any] = {"id": Value("string")}
        types |= {name: MEDIA_TYPES.get(name, Value("string")) for name in self.columns if name not in self.shapes}
        types |= {} if self.labels is None else {self.labels.column: self.labels.type}
        types |= kept | dict.fromkeys(self.window, Value("float64"))
        return Features(types | {name: feature_type(*shape) for name, shape in self.shapes.items()})

    @property
    def label_names(self) -> tuple[str, ...] | None:
        """Class names, where labels are classes with names; of several scores their names."""
        return None if self.labels is None else self.labels.names

    @property
    def about_labels(self) -> dict[str, Any]:
        """Fields of `Rows`: the names of several numbers, or of a score, which their column cannot hold, and which
        these are. A score without a name goes by that of its column, unless that is no more than "label" or the
        like."""
        scores = self.labels is not None and self.labels.task == "regression"
        several = isinstance(self.features.get("label"), List)
        names: Sequence[str] | None = self.label_names if several or scores else None
        if scores and not several and names is None and self.label_columns[0] not in choose.LABEL_COLUMNS:
            names = self.label_columns
        return {"label_names": names, "scores": scores and several}

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
            absolute path; `<modality>_features`: float32 arrays `(T, D)` or `(L, T, D)`, or None; start, end: seconds,
            where the table has them (`end=None` is the file's end).
        """
        make_id = RowIds()
        replaced: Counter[str] = Counter()
        doubtful: list[str] = []  # texts that may mean "no text"
        for table in self.tables:
            for number, raw in enumerate(read_rows(table), 1):
                where = f"{table.path}, row {number}"
                label = {} if self.labels is None else {self.labels.column: self.labels.read(self._label_cell(raw))}
                if self.drop_unlabelled and None in label.values():
                    continue
                cells = {
                    name: located(name, raw.get(column), table.path.parent, f"{where}, {column}")
                    for name, column in self.columns.items()
                }
                self._check_places(cell_paths(cells), where)
                split = raw.get(self.split_column) if table.split is None and self.split_column else table.split
                identity = raw[self.id_column] if self.id_column else make_id(self._naming_cell(raw), split)
                fault = None if missing is None else first_fault(cells)
                if fault is not None and missing is not None:
                    missing.append(fault)
                    continue
                doubtful += [cells["text"]] if is_missing_word(cells.get("text")) else []
                row: Row = {"id": str(identity).strip()}
                for name, cell in cells.items():
                    is_features = name.endswith(FEATURES_SUFFIX)
                    row[name] = self._features(name, cell, f"{where}, {name}", replaced) if is_features else cell
                row |= label | {name: raw.get(name) for name in self.keep_columns} | self._stretch(raw, where)
                if self.group_column is not None:
                    row["__group__"] = raw.get(self.group_column)
                yield {**row, "split": "train" if split is None else split_name(split)}
        if doubtful:
            text = "%s: %d transcripts say nothing but %r or the like, and are read as that; leave such cells empty"
            logger.warning(text, self.source, len(doubtful), doubtful[0])
        for name, count in (+replaced).items():
            logger.warning("%s: %d NaN or infinite values in %s were replaced by 0", self.source, count, name)

    def _check_places(self, paths: Iterable[str], where: str) -> None:
        """DataFormatError for a row with a file that lies where none may be read."""
        if self.roots is not None:
            for path in paths:
                self.roots.check(path, where)

    def _stretch(self, raw: Row, where: str) -> dict[str, float | None]:
        """The columns `start` and `end` that the table has."""
        try:
            start, end = window_of([{name: raw.get(name) for name in self.window}], where)
        except ValueError as error:
            raise DataFormatError(str(error)) from error
        return {name: value for name, value in (("start", start), ("end", end)) if name in self.window}

    def _feature_shapes(self, columns: Sequence[str]) -> dict[str, tuple[int, int]]:
        """Number of axes and width of the first features of each column, all found in one pass."""
        missing, found = dict.fromkeys(columns), {}
        for table in self.tables:
            for number, row in enumerate(read_rows(table, columns) if missing else (), 1):
                for column in list(missing):
                    shape = self._shape_of(table, column, row.get(column), f"{table.path}, row {number}, {column}")
                    if shape is not None:
                        found[column] = shape
                        del missing[column]
                if not missing:
                    break
        if missing:
            raise DataFormatError(f"{self.tables[0].path}: no row has {name_some(missing)}")
        return found

    def _shape_of(self, table: Table, column: str, cell: Any, where: str) -> tuple[int, int] | None:
        """Number of axes and width of the features of a cell; None where there are none."""
        path = absolute_path(table.path.parent, cell) if isinstance(cell, str) and not is_absent(cell) else None
        self._check_places([] if path is None else [path], where)
        if is_absent(cell) or (path is not None and file_fault(path) is not None):
            return None  # absent files are reported, or skipped, together
        array = feature_sequence(cell if path is None else read_feature_file(path, column), where)[0]
        return (array.ndim, array.shape[-1]) if array.size else None

    def dataset(self, rows: Sequence[Row]) -> Dataset:
        """A typed `Dataset` in memory of some of the rows."""
        return make_dataset({name: [row[name] for row in rows] for name in self.features}, self.features)

    def _naming_cell(self, raw: Row) -> Any:
        """The cell whose file name makes the row's id; None where the table has no files."""
        return next((raw.get(self.columns[name]) for name in MEDIA_TYPES if name in self.columns), None)

    def _features(self, name: str, cell: Any, where: str, replaced: Counter[str]) -> Any:
        value = read_feature_file(cell, name) if isinstance(cell, str) else cell
        array, replaced_here = features_like(self.shapes[name], value, where)
        replaced[name] += replaced_here
        return array


open_manifest = Manifest


def _present_columns(source: object, tables: Sequence[Table]) -> list[str]:
    """Names of the columns of all tables. What has no name cannot be asked for."""
    found = list(dict.fromkeys(name for table in tables for name in column_names(table)))
    if not found:
        raise DataFormatError(f"{source}: the table has no rows")
    return found


def _label_columns(
    source: object, present: Sequence[str], one: str | None, several: Sequence[str] | None, required: bool
) -> tuple[str, ...]:
    """The columns that the labels are read from."""
    if several:
        if one is not None or len(set(several)) < len(several):
            raise DataFormatError(f"{source}: name one label_column, or label_columns that are all different")
        for name in several:
            choose.require(source, present, name)
        return tuple(several)
    if required:
        return (choose.pick_label(source, present, one),)
    label = choose.pick(source, present, one, choose.LABEL_COLUMNS)
    return () if label is None else (label,)


def _own_roots(
    source: str | os.PathLike | Mapping[str, str | os.PathLike], tables: Sequence[Table], media_root: str | os.PathLike
) -> Roots:
    """Where the files of a table may lie; in a folder that was named, the tables themselves too."""
    if isinstance(source, Mapping) or not os.path.isdir(source):
        return Roots(*{table.path.parent: None for table in tables}, media_root)
    roots = Roots(source, media_root)
    for table in tables:
        roots.check(table.path, str(source))
    return roots


def _kept_type(name: str, kinds: set[type]) -> Value:
    """The `datasets` type of a column to keep, from the types of its values."""
    for dtype, fitting in _KEPT.items():
        if kinds <= fitting:
            return Value(dtype)
    found = ", ".join(sorted(kind.__name__ for kind in kinds))
    raise DataFormatError(f"the kept column {name!r} holds {found}; text, or numbers, can be kept")


@functools.cache
def _name_unused(source: str, names: tuple[str, ...]) -> None:
    """Names the columns that nothing is read from, once in a process."""
    if names:
        told = ", ".join(name or "(no name)" for name in names[:_MOST_NAMED])
        more = f" and {len(names) - _MOST_NAMED} more" if len(names) > _MOST_NAMED else ""
        logger.warning("%s: columns that are not used: %s%s", source, told, more)


# ---------------------------------------------------------------------------------------------------------------------
# Splits


def _group_of(source: object, row: Row) -> str:
    """What must stay together with a row when validation is carved: its group, or else its file."""
    if "__group__" not in row:
        return next(cell_paths(row), f"row {row['__number__']}")
    if is_absent(row["__group__"]):
        raise DataFormatError(f"{source}: the row {row['id']!r} has no group; validation is carved by whole groups")
    return str(row["__group__"])


def check_leak(source: object, owner: dict[int, str], row: Row, split: str) -> None:
    """Refuse a file that is in another split too; `owner` keeps a number of each path, for there may be many."""
    for path in cell_paths(row):
        first = owner.setdefault(hash(path), split)
        if first != split:
            raise DataFormatError(f"{source}: {path} is in both {first} and {split}; a clip belongs to one split")


# ---------------------------------------------------------------------------------------------------------------------
# As a source of rows: whole for training, streamed for conversion

# Options that need the whole table at once.
_WHOLE_TABLE = ("validation_fraction", "seed", "group_column", "dialogue_column", "turn_column")


def stream_table(source: str | os.PathLike, *, skip_missing: bool = False, **options: Any) -> Rows:
    """Rows of a table in the splits that it names, one at a time; the table is read whole where options want that."""
    if any(name in options for name in _WHOLE_TABLE):
        return read_manifest(source, skip_missing=skip_missing, **options)
    manifest = open_manifest(source, **options)

    def stream() -> Iterator[tuple[str, Row]]:
        missing: list[str] = []
        owner: dict[int, str] = {}
        for row in manifest.rows(missing):
            check_leak(source, owner, row, row["split"])
            if skip_missing or not missing:  # else the rest is looked through to count what else is missing
                yield row["split"], {name: row[name] for name in manifest.features}
        report_missing(source, missing, len(manifest), skip_missing, "Give paths relative to the table")

    return Rows(manifest.features, stream, len(manifest), **manifest.about_labels)


def _is_table(path: Path) -> bool:
    if path.is_file():
        return path.suffix.lower() in TABLE_SUFFIXES
    return any(map(named_table, (path, *path.glob("*/")))) and not (path / MARKER).is_file()


SOURCE = Source(
    about="your own table (CSV, TSV, JSONL, Parquet or XLSX) of clips, features or dialogues",
    read=read_manifest,
    stream=stream_table,
    parameters_of=(open_manifest,),
    is_file=True,
    recognise=_is_table,
    segments=True,
)
