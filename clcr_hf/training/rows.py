"""Rows of a data set as the model's inputs, decoded when they are asked for."""

from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from datasets import Dataset, DatasetDict

from ..data.columns import logger
from ..data.labels import is_raw
from ..data.streamed import StreamedRows
from ..media import MediaError, load_media
from ..modalities import FEATURES_END, FILE_COLUMNS, MASK_END, TOKEN_COLUMNS, modality
from ..processing_clcr import CLCRProcessor
from ..samples import Reading, is_missing, read_sample, source_of
from .arguments import DataArguments
from .augmentation import FrameAugmentation
from .data import LABEL_COLUMNS
from .read_ahead import Ahead
from .sequence_augmentation import SequenceAugmentation
from .statistics import feature_statistics

_CHECK_SECONDS = 0.04  # of a clip that are decoded to see whether it opens
_CHECK_THREADS = 8
_NAMED = 10  # clips in a warning
_NUMBER = 36  # bytes of a number in a list


class ClipRows(torch.utils.data.Dataset):
    """
    Rows as the model's inputs; what is decoded or read of a row when it is first asked for is then kept in memory,
    ready features too: to make arrays of a table's lists takes about as long as a small model's step.

    A file that cannot be read counts as a modality that is missing from its row, and is named in a warning. In
    training, a row with nothing left is replaced by the next one that has something; in evaluation it stays, and
    counts.

    Args:
        rows: the columns that `columns` names, and `label` or `labels`.
        columns: the column of each modality, see [`modality_columns`].
        processor: makes inputs of raw columns.
        cache_gb: how much to keep; rows beyond are decoded or read every time, as all that are streamed.
        augment: crops and flips frames and flow afresh each time a row is asked for. Then the decoded frames are
            kept, not the inputs made of them.
        sequences: changes ready features afresh each time a row is asked for, in step with one another; where
            other modalities are raw or token ids, in strength alone and not in time.
        spreads: `(D,)` of the columns of each modality that `sequences` changes.
        training: whether rows with nothing to read are replaced.
        strict: raise on a file that cannot be read.
        left_out: ids of clips that were found unreadable before; kept for the record of the run.

    Each item is a dict of tensors and arrays without batch axis, and `label` or `labels`.

    What is drawn for a row is another each time; after [`set_epoch`] the same for all of an epoch, so that a run that
    goes on in its midst draws what it would have drawn.
    """

    def __init__(
        self,
        rows: Dataset | StreamedRows,
        columns: Mapping[str, str],
        processor: CLCRProcessor,
        *,
        cache_gb: float = 0.0,
        augment: FrameAugmentation | None = None,
        sequences: SequenceAugmentation | None = None,
        spreads: Mapping[str, np.ndarray] | None = None,
        training: bool = False,
        strict: bool = False,
        left_out: Sequence[str] = (),
    ):
        arrays = [name for name in rows.column_names if name.endswith((FEATURES_END, MASK_END))]
        self.rows = rows.with_format("numpy", columns=arrays, output_all_columns=True)
        raw = [name for name, column in columns.items() if is_raw(column)]
        self._ready = ready_columns(columns)
        self._raw = raw_columns(columns)
        self._absent = {modality(name).arguments[0]: [None] for name in raw if name != "flow"}
        self._reading = Reading.of(processor, vision="vision" in raw, audio="audio" in raw)
        self.processor = processor
        self.augment = augment
        if sequences is not None and (raw or "input_ids" in columns.values()):
            sequences = replace(sequences, crop=1.0, warp=0.0)
        self.sequences = sequences
        self.spreads = spreads or {}
        self.training = training
        self.strict = strict
        self.left_out = list(left_out)
        self.unreadable: set[str] = set()
        self._kept: dict[int, tuple[dict[str, Any], dict[str, np.ndarray]]] = {}
        self.room = -1 if isinstance(rows, StreamedRows) else cache_gb * 2**30  # bytes for more rows
        self.ahead: Ahead | None = None  # what another process reads, see `read_ahead.py`
        self._seed = torch.initial_seed()
        self._epoch = torch.full((), -1).share_memory_()  # seen by workers that live on from epoch to epoch

    def __len__(self) -> int:
        return len(self.rows)

    @property
    def decodes(self) -> bool:
        """Whether a row has files to decode."""
        return bool(set(self._raw) & set(FILE_COLUMNS))

    def set_epoch(self, epoch: int) -> None:
        """From now on what is drawn for a row is decided by the seed of the run, `epoch` and the row's number."""
        self._epoch.fill_(epoch)

    def __getitem__(self, index: int) -> dict[str, Any]:
        item = self._item(index)
        for step in range(1, len(self) if self.training else 1):
            if _holds_something(item):
                break
            item = self._item((index + step) % len(self))
        return item

    def _item(self, index: int) -> dict[str, Any]:
        for number, found in [] if self.ahead is None else self.ahead.take():
            self._keep(number, found)
        kept = self._kept.get(index)
        if kept is None:
            if self.ahead is not None:
                self.ahead.begun[index] = True
            kept = self._read(self.rows[index])
            self._keep(index, kept)
        item, changing = dict(kept[0]), kept[1]
        if changing and self.augment is not None:
            changed = self._changed(changing, self._generator(index, 0))
            item |= self._encode({name: [value] for name, value in changed.items()})
        return item if self.sequences is None else item | self._changed_sequences(item, self._generator(index, 1))

    def _generator(self, index: int, use: int) -> np.random.Generator:
        """Of a row and one use of it; seeded by torch's generator, which workers seed apart, where no epoch is set."""
        epoch = int(self._epoch)
        return np.random.default_rng(
            int(torch.randint(2**62, ())) if epoch < 0 else (self._seed % 2**63, epoch, index, use)
        )

    def read(self, index: int) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
        """What is kept of a row: see [`_read`]."""
        return self._read(self.rows[index])

    @staticmethod
    def size_of(kept: tuple[dict[str, Any], dict[str, np.ndarray]]) -> int:
        """Bytes of what is kept of a row; a list, as of token ids, counts as so many Python numbers."""
        values = [value for part in kept for value in part.values()]
        return sum(_NUMBER * len(value) if isinstance(value, list) else getattr(value, "nbytes", 0) for value in values)

    def _keep(self, index: int, found: tuple[dict[str, Any], dict[str, np.ndarray]]) -> None:
        size = self.size_of(found)
        if index not in self._kept and size <= self.room:
            self.room -= size
            self._kept[index] = found

    def _read(self, row: dict[str, Any]) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
        """A row's label and inputs, ready ones and those made of raw columns, and what of it is augmented."""
        item = {name: row[name] for name in (*LABEL_COLUMNS, *self._ready) if row.get(name) is not None}
        raw = self._open(row)
        changing = {}
        if self.augment is not None:
            changing = {name: raw.pop(name)[0] for name in ("videos", "flow") if raw.get(name, [None])[0] is not None}
        if raw:
            item |= self._encode(raw)
        return item, changing

    def _changed(self, clip: dict[str, np.ndarray], rng: np.random.Generator) -> dict[str, np.ndarray]:
        """Frames and flow under one random crop and flip."""
        assert self.augment is not None
        if len(clip) == 2:
            return dict(zip(clip, self.augment.augment_pair(clip["videos"], clip["flow"], rng), strict=True))
        ((name, value),) = clip.items()
        augment = self.augment.augment if name == "videos" else self.augment.augment_flow
        return {name: augment(value, rng)}

    def _changed_sequences(self, item: Mapping[str, Any], rng: np.random.Generator) -> dict[str, np.ndarray]:
        """Ready features `(T, D)` or `(L, T, D)`, their real steps changed; all layers of a modality alike in time."""
        assert self.sequences is not None
        real, steps, wholes = {}, {}, {}
        for name in self.spreads:
            value = np.asarray(item.get(name + FEATURES_END, ()))
            if value.ndim >= 2 and value.size:
                mask = item.get(name + MASK_END)
                real[name] = np.ones(value.shape[-2], dtype=bool) if mask is None else np.asarray(mask, dtype=bool)
                wholes[name] = np.moveaxis(value, -2, 0).copy()  # time first
                steps[name] = wholes[name][real[name]].reshape(int(real[name].sum()), -1)
        spreads = {name: np.tile(self.spreads[name], steps[name].shape[1] // len(self.spreads[name])) for name in steps}
        changed = self.sequences.augment(steps, spreads, rng)
        for name, value in changed.items():
            wholes[name][real[name]] = value.reshape(-1, *wholes[name].shape[1:])
        return {name + FEATURES_END: np.moveaxis(whole, 0, -2) for name, whole in wholes.items()}

    def _encode(self, inputs: dict[str, Any]) -> dict[str, Any]:
        return {key: value[0] for key, value in self.processor(**inputs, face_crop=False, return_tensors="pt").items()}

    def _open(self, row: dict[str, Any]) -> dict[str, list[Any]]:
        """A row's text, frames, audio and flow as arguments of the processor; a batch of one, None where missing."""

        def unreadable(column: str, error: MediaError) -> None:
            if self.strict:
                raise error
            name = str(row.get("id", error))
            if name not in self.unreadable:
                logger.warning("clip %s cannot be read and counts as missing: %s", name, error)
            self.unreadable.add(name)

        sample = read_sample({name: row[name] for name in self._raw if name in row}, self._reading, str, unreadable)
        return self._absent | sample.arguments()


def raw_columns(columns: Mapping[str, str]) -> list[str]:
    """The columns that the reader of samples needs for modalities that are read raw: all those of a modality, for a
    row may lack the first of them; and the stretch of the files that the row is."""
    raw = [modality(name) for name, column in columns.items() if is_raw(column)]
    return [*(column for each in raw for column in each.columns), "start", "end"] if raw else []


def ready_columns(columns: Mapping[str, str]) -> set[str]:
    """The columns that are inputs of the model as they are: features, token ids, and their masks."""
    ready = {name: column for name, column in columns.items() if not is_raw(column)}
    tokens = TOKEN_COLUMNS if "input_ids" in ready.values() else ()
    return {*ready.values(), *(modality(name).mask for name in ready), *tokens}


def _holds_something(item: Mapping[str, Any]) -> bool:
    """Whether any modality of a row is there."""
    for name, value in item.items():
        mask = name.removesuffix(FEATURES_END) + MASK_END
        if name.endswith("attention_mask") and np.asarray(value).any():
            return True
        if name.endswith(FEATURES_END) and mask not in item and np.size(value):
            return True
    return False


def prepare(
    splits: DatasetDict,
    columns: Mapping[str, str],
    args: DataArguments,
    processor: CLCRProcessor,
    training: bool = True,
) -> dict[str, ClipRows]:
    """
    Each split as a data set whose rows `CLCRDataCollator` can batch.

    Args:
        columns: the column of each modality, see [`modality_columns`].
        training: whether `train` is learned from (augmented, unreadable rows replaced) or measured like the others.

    Raises:
        MediaError: clips that do not open, with `strict_media`.
        ValueError: a split of which no clip opens; `augment_features` without ready features.
    """
    wanted = {*ready_columns(columns), *raw_columns(columns), *LABEL_COLUMNS, "id", *args.groups}
    datasets = {}
    augments = training and args.augment_features and "train" in splits
    statistics = feature_statistics(splits["train"], columns) if augments else {}
    spreads = {name: std for name, (_, std) in statistics.items()}
    if augments and not spreads:
        raise ValueError(f"--augment_features: the data hold no ready features, only {', '.join(columns.values())}")
    total = sum(map(len, splits.values()))
    for split, rows in splits.items():
        learns = training and split == "train"
        rows = rows.select_columns([name for name in rows.column_names if name in wanted])
        left_out: list[str] = []
        if args.check_media and isinstance(rows, StreamedRows):
            if learns and set(raw_columns(columns)) & set(FILE_COLUMNS) & set(rows.column_names):
                logger.warning("clips are streamed and not opened before training; what cannot be read is named then")
        elif args.check_media:
            rows, left_out = _openable_rows(rows, columns, split, args.strict_media)
        datasets[split] = ClipRows(
            rows,
            columns,
            processor,
            cache_gb=args.cache_gb * len(rows) / total,
            augment=FrameAugmentation() if args.augment and learns else None,
            sequences=SequenceAugmentation() if spreads and learns else None,
            spreads=spreads,
            training=learns,
            strict=args.strict_media,
            left_out=left_out,
        )
    return datasets


def _openable_rows(rows: Dataset, columns: Mapping[str, str], split: str, strict: bool) -> tuple[Dataset, list[str]]:
    """The rows that have something to read, and the ids of the others, whose modalities all lie in files that do not
    open. A row with another modality stays: what cannot be read counts as missing."""
    files = sorted(set(raw_columns(columns)) & set(FILE_COLUMNS) & set(rows.column_names))
    if not files or (not strict and set(columns.values()) - set(files)):
        return rows, []
    part = rows.select_columns(files)
    with ThreadPoolExecutor(_CHECK_THREADS) as pool:
        # By number, for the pool takes its whole input at once, which may be the files themselves.
        faults = list(pool.map(lambda row: [_fault(value) for value in part[row].values()], range(len(rows))))
    bad = [row for row, found in enumerate(faults) if (any(found) if strict else None not in found)]
    if not bad:
        return rows, []
    names = [str(rows[row]["id"]) if "id" in rows.column_names else f"row {row}" for row in bad]
    why = next(fault for fault in faults[bad[0]] if fault is not None)
    text = f"{len(bad)} of {len(rows)} clips of {split} cannot be read: {', '.join(names[:_NAMED])}"
    text += f"{', ...' if len(bad) > _NAMED else ''} (the first: {why or 'no file'})"
    if strict:
        raise MediaError(text)
    if len(bad) == len(rows):
        raise ValueError(text)
    logger.warning("%s; they are left out", text)
    taken = set(bad)
    return rows.select([row for row in range(len(rows)) if row not in taken]), names


def _fault(value: Any) -> str | None:
    """Why a file does not open; empty where the row names none; None where it opens."""
    if is_missing(value):
        return ""
    try:
        load_media(source_of(value, "the clip"), num_frames=1, end=_CHECK_SECONDS)
    except MediaError as error:
        return str(error)
    return None


__all__ = ["ClipRows", "prepare"]
