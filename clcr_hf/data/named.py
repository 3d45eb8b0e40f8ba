"""Data sets by name: what `datasets.load_dataset` gives, of the Hub or of a local folder, with our columns.

What a column is for is told by its type (Video, Audio, Image) or, of texts, labels and ids, by its name. Where two
would do, both are named and none is taken.
"""

import os
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from datasets import Audio, ClassLabel, Dataset, DatasetInfo, Features, Image, List, Value, Video, concatenate_datasets
from datasets.config import DOWNLOADED_DATASETS_PATH
from datasets.exceptions import DatasetsError
from datasets.packaged_modules import _PACKAGED_DATASETS_MODULES
from datasets.table import table_cast
from huggingface_hub.constants import HF_HUB_CACHE
from huggingface_hub.file_download import repo_folder_name

from .arrow import make_dataset
from .columns import SPLIT_ALIASES, SPLITS, DataFormatError, carve_split, logger, ordered_splits
from .feature_arrays import feature_sequence, feature_type, features_like
from .files import Roots
from .source import Rows, Source
from .streamed import StreamedRows
from .table.cells import FEATURES_SUFFIX, MEDIA_TYPES, RowIds
from .table.choose import ID_COLUMNS, TEXT_COLUMNS, pick, pick_label, require
from .table.labels import LabelScan, TableLabels

_BATCH_ROWS = 64
_Shape = tuple[int, int]  # axes and width of a column of features
_KINDS = {"video": Video, "audio": Audio, "images": Image}


def load_named(
    name: str | os.PathLike[str],
    *,
    config_name: str | None = None,
    data_dir: str | None = None,
    revision: str | None = None,
    media_root: str | os.PathLike[str] | None = None,
    streamed: bool = False,
    **options: Any,
) -> Rows:
    """Load a data set by its name.

    Args:
        name: `org/name` on the Hub, a local folder, or `videofolder`, `audiofolder` or `imagefolder` with `data_dir`.
        config_name: which configuration, of a data set that has several.
        data_dir: the folder of files; of a data set on the Hub a folder in it.
        revision: branch, tag or commit on the Hub.
        media_root: a further folder in which media files may lie. Those of a data set from the Hub must lie in what was
            downloaded of it, links followed; those of a local one may lie anywhere, unless this is given.
        streamed: read rows where they lie, as [`StreamedRows`]: nothing is downloaded but what is read. Parquet alone.
        options: of [`typed_rows`].

    Raises:
        DataFormatError: no such data set, configuration or revision, a file that lies elsewhere (with its row; when
            streaming, once it is read), `streamed` of other files than Parquet, or as
            `typed_rows`.
    """
    from datasets import load_dataset, load_dataset_builder

    name = os.fspath(name).replace(os.sep, "/")
    try:
        with _audio_without_torchcodec():
            load: Any = load_dataset_builder if streamed else load_dataset
            splits = load(name, config_name, data_dir=data_dir, revision=revision)
    except (DatasetsError, OSError, ValueError) as error:  # the Hub's own errors are OSErrors
        told = error.__cause__ if isinstance(error, DatasetsError) and error.__cause__ else error
        reason = " ".join(str(told).split()) or type(told).__name__
        raise DataFormatError(f"{name}: the data set cannot be loaded: {reason[:500]}") from error
    rows = typed_rows(_streamed(splits, name) if streamed else splits, name=name, **options)
    if media_root is not None or not _is_local(name, data_dir):
        roots, splits = Roots(*media_folders(name, data_dir), media_root), rows.load()
        for split, part in splits.items():
            place = _Placed(f"{name}: {split}", roots)
            splits[split] = part.apply(place) if isinstance(part, StreamedRows) else place(part)
    rows.title = name if data_dir is None else data_dir
    return rows


def _is_local(name: str, data_dir: str | None) -> bool:
    """Whether `datasets` reads a folder of this machine: one of that name, or that of a builder of its own."""
    return os.path.exists(name) or (name in _PACKAGED_DATASETS_MODULES and os.path.exists(data_dir or ""))


def media_folders(name: str, data_dir: str | None = None) -> list[str | os.PathLike[str]]:
    """The folders that the media of a data set lie in, of that name: its own, or where it was downloaded to."""
    if _is_local(name, data_dir):
        return [name if os.path.exists(name) else data_dir or name]
    downloaded = os.path.join(HF_HUB_CACHE, repo_folder_name(repo_id=name, repo_type="dataset"))
    return [downloaded, DOWNLOADED_DATASETS_PATH]


@dataclass(frozen=True)
class _Placed:
    """The rows as they are; DataFormatError for one that names a file outside of `roots`. What an address names is
    never opened. As a step of [`StreamedRows`] too."""

    where: str
    roots: Roots

    def __call__(self, rows: Dataset, first: int = 0) -> Dataset:
        for column in set(rows.column_names) & set(MEDIA_TYPES):
            many, start = isinstance(rows.features[column], List), first
            kept = [name for name in ("id", column) if name in rows.column_names]
            for batch in rows.select_columns(kept).with_format("arrow").iter(_BATCH_ROWS):
                cells = batch[column].combine_chunks()
                ids = batch["id"].to_pylist() if "id" in kept else range(start, start + len(cells))
                start += len(cells)
                owners = pc.list_parent_indices(cells).to_pylist() if many else range(len(cells))
                cells = pc.list_flatten(cells) if many else cells
                here = pc.if_else(pc.is_null(pc.struct_field(cells, "bytes")), pc.struct_field(cells, "path"), None)
                for owner, path in zip(owners, here.to_pylist(), strict=True):
                    if path and "://" not in path:
                        self.roots.check(path, f"{self.where}, row {ids[owner]!r}, {column}")
        return rows

    def needs(self, columns: Collection[str]) -> Collection[str]:
        return columns


def _streamed(builder: Any, name: str) -> dict[str, StreamedRows]:
    """The Parquet files that a builder of `datasets` would read, by split."""
    from datasets.packaged_modules.parquet.parquet import Parquet

    if not isinstance(builder, Parquet) or not builder.config.data_files:
        raise DataFormatError(
            f"{name}: Parquet is streamed, and this is {builder.dataset_name or type(builder).__name__} of "
            f"another kind ({type(builder).__name__}); leave out --streaming, or make shards of it by clcr convert"
        )
    features = builder.info.features
    return {str(split): StreamedRows(files, features) for split, files in builder.config.data_files.items()}


@contextmanager
def _audio_without_torchcodec() -> Iterator[None]:
    """`datasets` asks for torchcodec even to note down the path of an audio file; within this it does without."""
    usual = Audio.encode_example

    def encode(self: Audio, value: Any) -> Any:
        if isinstance(value, dict) and "array" not in value:
            return {"path": value.get("path"), "bytes": value.get("bytes")}
        return {"path": value, "bytes": None} if isinstance(value, str) else usual(self, value)

    Audio.encode_example = encode
    try:
        yield
    finally:
        Audio.encode_example = usual


def typed_rows(
    data: Mapping[str, Any],
    *,
    name: str = "the data set",
    splits: Mapping[str, str] | None = None,
    media_column: str | None = None,
    text_column: str | None = None,
    label_column: str | None = None,
    id_column: str | None = None,
    start_column: str | None = None,
    end_column: str | None = None,
    group_column: str | None = None,
    label_names: Sequence[str] | None = None,
    label_separator: str | None = None,
    task: str = "auto",
    missing_labels: str = "error",
    keep_columns: Sequence[str] = (),
    validation_fraction: float = 0.1,
    seed: int = 0,
) -> Rows:
    """Rows of a `DatasetDict`, or of [`StreamedRows`] by split, whatever its columns are called, as the loaders of
    `clcr_hf.data` have them.

    One Video column is `media` (frames and audio), or `video` (frames) where an Audio column is beside it; one Audio
    column is `audio`; one column of an Image or of a list of them is `images`, the frames of the row. `text`,
    `transcript`, `transcription` or `sentence` is the text, a column of numbers called `<modality>_features` features,
    `label`, `labels`, `score` or `sentiment` the label, `id` or `clip_id` the id. Other columns are not used, which one
    line says.

    Args:
        name: of the data set, for messages.
        splits: train, validation and test to the splits that they are, where names do not tell.
        media_column: the column to take where several are of its type.
        start_column, end_column: seconds that cut a clip out of its file.
        group_column: speaker or source video; validation is carved by whole groups.
        keep_columns: further columns to keep, as they are.
        text_column, label_column, id_column, label_names, label_separator, task, missing_labels, validation_fraction,
            seed: as in `load_manifest`. The names of a `ClassLabel` column, and their order, are kept.

    Returns:
        Rows with the columns id (str); media, video, audio, images (undecoded); start, end; text; label or labels;
        `<modality>_features` (float32).

    Raises:
        DataFormatError: two columns or splits for one thing, a column that is named and absent, none that a model
            reads, no train or test split, labels that fit no task, features of several shapes.
    """
    parts = _named_splits(name, data, splits)
    first = next(iter(parts.values()))
    for split, rows in parts.items():
        if rows.column_names != first.column_names:
            raise DataFormatError(f"{name}: the columns of {split} are not those of the other splits")
    chosen = _choose(name, first.features, media_column, text_column)
    windows = {"start": start_column, "end": end_column}
    chosen |= {key: _number_column(name, first.features, column) for key, column in windows.items() if column}
    label = pick_label(name, first.column_names, label_column, "label_column")
    identity = pick(name, first.column_names, id_column, ID_COLUMNS, "id_column")
    for column in (*keep_columns, *([] if group_column is None else [group_column])):
        require(name, first.column_names, column)
    chosen |= {each: each for each in keep_columns if each not in {*chosen.values(), label, identity}}
    used = {*chosen.values(), label, identity, group_column}
    unused = [n for n in first.column_names if n not in used]
    if unused:
        logger.warning("%s: columns that are not used: %s", name, ", ".join(unused))
    labels = _labels(name, parts, label, LabelScan(name, label_names, task, label_separator, missing_labels))
    chosen |= {labels.column: label} | ({} if identity is None else {"id": identity})
    if missing_labels == "drop":
        for split, rows in parts.items():
            present = [at for at, value in enumerate(rows[label]) if labels.read(value) is not None]
            parts[split] = rows.select(present)

    def groups_of(train: Dataset) -> Sequence[Any]:
        return train[group_column] if group_column is not None else _files(train, chosen)

    parts = carve_split(parts, groups_of, validation_fraction, seed)
    shapes = {key: _shape(name, parts, key) for key in chosen if key.endswith(FEATURES_SUFFIX)}
    typed = {}
    for split, rows in parts.items():
        step = _Typed(name, split, chosen, labels, shapes)
        typed[split] = rows.apply(step) if isinstance(rows, StreamedRows) else step(rows)
    names = labels.names if isinstance(labels.type, List) and labels.column == "label" else None
    return Rows.of(ordered_splits(typed), label_names=names)


# --- which split, which column ---------------------------------------------------------------------------------------


def _named_splits(name: str, data: Mapping[str, Any], given: Mapping[str, str] | None) -> dict[str, Any]:
    """The splits by our names, in the order train, validation, test."""
    there = ", ".join(map(str, data))
    if given is not None:
        wrong = [split for split in given if split not in SPLITS] + [s for s in given.values() if s not in data]
        if wrong:
            raise DataFormatError(
                f"{name}: splits={dict(given)} names {wrong[0]!r}; give some of {', '.join(SPLITS)} as some of {there}"
            )
        chosen = dict(given)
    else:
        chosen = {}
        for split in map(str, data):
            known = SPLIT_ALIASES.get(split.lower())
            if known in chosen:
                raise DataFormatError(f"{name}: the splits {chosen[known]} and {split} both mean {known}; say splits=")
            if known is not None:
                chosen[known] = split
    if not {"train", "test"} & set(chosen):
        raise DataFormatError(f"{name}: which of its splits {there} is train? Say it as splits={{'train': ...}}")
    unused = [split for split in data if split not in chosen.values()]
    if unused:
        logger.warning("%s: splits that are not used: %s", name, ", ".join(map(str, unused)))
    return {split: data[chosen[split]] for split in SPLITS if split in chosen}


def _choose(name: str, features: Features, media_column: str | None, text_column: str | None) -> dict[str, str]:
    """Our columns of what a model reads to the columns that they are; labels, ids and windows apart."""
    chosen = {}
    if media_column is not None:
        require(name, list(features), media_column)
        if _kind(features[media_column]) is None:
            raise DataFormatError(f"{name}: {media_column!r} holds no video, audio or images, but {_told(features)}")
    for kind in _KINDS:
        found = [column for column, feature in features.items() if _kind(feature) == kind]
        if media_column in found:
            found = [media_column]
        if len(found) > 1:
            told = " and ".join(found)
            raise DataFormatError(f"{name}: the columns {told} all hold {kind}; say which with media_column")
        if found:
            chosen[kind] = found[0]
    if {"video", "images"} <= set(chosen):
        if media_column not in (chosen["video"], chosen["images"]):
            raise DataFormatError(
                f"{name}: {chosen['video']} (video) and {chosen['images']} (images) may both be what is seen; say "
                "which with media_column"
            )
        del chosen["images" if media_column == chosen["video"] else "video"]
    if "video" in chosen and "audio" not in chosen:
        chosen = {"media": chosen.pop("video")}
    text = pick(name, list(features), text_column, TEXT_COLUMNS, "text_column")
    if text is not None:
        if _scalar(features[text]) not in ("string", "large_string"):
            raise DataFormatError(f"{name}: {text!r} holds no texts, but {features[text]}")
        chosen["text"] = text
    chosen |= {c: c for c in features if c.endswith(FEATURES_SUFFIX) and c != FEATURES_SUFFIX}
    if not chosen:
        raise DataFormatError(
            f"{name}: nothing that a model reads (video, audio, images, text, features) in its "
            f"columns: {_told(features)}"
        )
    return chosen


def _kind(feature: Any) -> str | None:
    inner = feature.feature if isinstance(feature, List) else feature
    found = next((kind for kind, which in _KINDS.items() if isinstance(inner, which)), None)
    return found if found == "images" or inner is feature else None


def _scalar(feature: Any) -> str:
    return feature.dtype if isinstance(feature, Value) else ""


def _told(features: Features) -> str:
    """Columns with what they hold, for a message."""
    kinds = {name: getattr(kind, "dtype", None) or type(kind).__name__ for name, kind in features.items()}
    return ", ".join(f"{name} ({kind})" for name, kind in kinds.items())


def _number_column(name: str, features: Features, column: str) -> str:
    require(name, list(features), column)
    if not _scalar(features[column]).startswith(("int", "uint", "float")):
        raise DataFormatError(f"{name}: {column!r} holds no seconds, but {features[column]}")
    return column


# --- what the columns hold -------------------------------------------------------------------------------------------


def _labels(name: str, parts: Mapping[str, Dataset], column: str, scan: LabelScan) -> TableLabels:
    """How the labels of a column are read. Classes are read by their names."""
    kinds = [rows.features[column] for rows in parts.values()]
    kind = kinds[0]
    inner = kind.feature if isinstance(kind, List) else kind
    classes = inner if isinstance(inner, ClassLabel) else None
    if any(other != kind for other in kinds):
        raise DataFormatError(f"{name}: the classes of {column!r} are not the same in all splits")
    if classes is not None and scan.label_names is None:
        scan.label_names = list(classes.names)
    for split, rows in parts.items():
        for number, value in enumerate(rows[column], 1):
            scan.add(_words(value, classes), f"{split}, row {number}, {column}")
    labels = scan.finish()
    return replace(labels, read=lambda value: labels.read(_words(value, classes)))


def _words(value: Any, classes: ClassLabel | None) -> Any:
    """A label with the names of its classes; -1 is how `datasets` writes a label that is missing."""
    if classes is None or value is None:
        return value
    if isinstance(value, list):
        return [_words(item, classes) for item in value]
    return None if value < 0 else classes.int2str(value)


def _shape(name: str, parts: Mapping[str, Dataset], column: str) -> _Shape:
    """Axes and width of a column of features, by its first row that has some."""
    for split, rows in parts.items():
        for number, value in enumerate(rows[column], 1):
            if value is not None and len(value):
                array, _ = feature_sequence(value, f"{name}: {split}, row {number}, {column}")
                return array.ndim, array.shape[-1]
    raise DataFormatError(f"{name}: {column} is empty in every row")


def _files(rows: Any, chosen: Mapping[str, str]) -> list[str]:
    """The file of each row. One whose bytes lie in the row is its own, for its name need not be."""
    column = next((chosen[name] for name in ("media", "video", "audio") if name in chosen), None)
    if column is None:
        return [f"row {at}" for at in range(len(rows))]
    rows = rows.select_columns([column])
    parts = rows.parts() if isinstance(rows, StreamedRows) else [rows]
    cells = (cell for part in parts for cell in _undecoded(part, column)[column])
    return [c["path"] if c and c["bytes"] is None and c["path"] else f"row {at}" for at, c in enumerate(cells)]


@dataclass(frozen=True)
class _Typed:
    """[`_typed`], as a step of [`StreamedRows`] too."""

    name: str
    split: str
    chosen: Mapping[str, str]
    labels: TableLabels
    shapes: Mapping[str, _Shape]

    def __call__(self, rows: Dataset, first: int | None = None) -> Dataset:
        chosen = {key: column for key, column in self.chosen.items() if column in rows.column_names}
        return _typed(self.name, self.split, rows, chosen, self.labels, self.shapes, first)

    def needs(self, columns: Collection[str]) -> Collection[str]:
        found = [self.chosen[key] for key in columns if key in self.chosen]
        return found or list(self.chosen.values())[:1]  # rows of no columns have no number


def _undecoded(rows: Dataset, column: str) -> Dataset:
    feature = rows.features[column]
    many = isinstance(feature, List)
    kind = type(feature.feature if many else feature)(decode=False)
    return _cast(rows, column, List(kind) if many else kind)


def _cast(rows: Dataset, column: str, kind: Any) -> Dataset:
    """With a column of another type; rows in memory stay there, where `datasets` would go over them bit by bit."""
    if rows.cache_files or rows._indices is not None:
        return rows.cast_column(column, kind)
    features = Features({**rows.features, column: kind})
    return Dataset(table_cast(rows.data.table, features.arrow_schema), info=DatasetInfo(features=features))


def _typed(
    name: str,
    split: str,
    rows: Dataset,
    chosen: Mapping[str, str],
    labels: TableLabels,
    shapes: Mapping[str, _Shape],
    first: int | None,
) -> Dataset:
    """A split with our columns, or of one that is streamed the part that begins with row `first`. Media stay where
    they are, in the files of `datasets`."""
    rows = rows.flatten_indices() if rows._indices is not None else rows
    plain = {key: column for key, column in chosen.items() if key not in {*shapes, labels.column, "id"}}
    typed = rows.select_columns(list(plain.values()))
    for column in plain.values():
        if _kind(rows.features[column]) is not None:
            typed = _undecoded(typed, column)
    typed = typed.rename_columns({column: key for key, column in plain.items()})
    if "images" in plain and not isinstance(typed.features["images"], List):
        frames = _each_in_a_list(typed.data.column("images"))
        typed = typed.rename_column("images", "image").add_column("images", frames, feature=MEDIA_TYPES["images"])
    for key, kind in {"text": "string", "start": "float64", "end": "float64"}.items():
        if key in plain and _scalar(typed.features[key]) != kind:
            typed = _cast(typed, key, Value(kind))
    made: dict[str, Sequence[Any]] = {"id": _ids(name, split, rows, typed, chosen.get("id"), first)}
    types = {"id": Value("string")}
    if labels.column in chosen:
        made[labels.column] = list(map(labels.read, rows[chosen[labels.column]]))
        types[labels.column] = labels.type
    there = {key: shape for key, shape in shapes.items() if key in chosen}
    made |= {key: _features(name, split, rows[key], key, shape) for key, shape in there.items()}
    types |= {key: feature_type(*shape) for key, shape in there.items()}
    media = [key for key in plain if key in typed.column_names]
    columns = make_dataset(made, Features(types))
    typed = concatenate_datasets([typed, columns], axis=1) if media else columns  # rows of no columns have no number
    return typed.select_columns(["id", *media, *[key for key in made if key != "id"]])


def _each_in_a_list(column: pa.ChunkedArray) -> pa.ChunkedArray:
    """Lists of one item; what is missing is missing."""
    chunks = []
    for chunk in column.chunks:
        offsets = pa.array(np.arange(len(chunk) + 1), pa.int32())
        chunks.append(pa.ListArray.from_arrays(offsets, chunk, mask=chunk.is_null()))
    return pa.chunked_array(chunks, pa.list_(column.type))


def _ids(name: str, split: str, rows: Dataset, typed: Dataset, identity: str | None, first: int | None) -> list[str]:
    if first is not None and identity is None:
        return [f"{split}/row#{number}" for number in range(first + 1, first + 1 + len(rows))]
    if identity is not None:
        given = [str(value).strip() for value in rows[identity]]
        if len(set(given)) < len(given):
            raise DataFormatError(f"{name}: ids of {identity!r} come twice in {split}; say another with id_column")
        return given
    make_id = RowIds()
    column = next((key for key in ("media", "video", "audio") if key in typed.column_names), None)
    return [make_id(cell, split) for cell in (typed[column] if column else [None] * len(rows))]


def _features(name: str, split: str, values: Sequence[Any], key: str, shape: _Shape) -> list[np.ndarray | None]:
    read = [features_like(shape, value, f"{name}: {split}, row {at}, {key}") for at, value in enumerate(values, 1)]
    replaced = sum(bad for _, bad in read)
    if replaced:
        logger.warning("%s: %d NaN or infinite values in %s of %s were replaced by 0", name, replaced, key, split)
    return [array for array, _ in read]


SOURCE = Source(
    about="a data set by name (--dataset_name): of the Hub, or a local folder that `datasets` can load",
    read=load_named,
    parameters_of=(typed_rows,),
    arguments={"dataset_config_name": "config_name", "streaming": "streamed"},
    segments=True,
    by_name=True,
)
