"""Rows of the data sets to one padded, masked batch for the model."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from .modalities import MASK_END, STANDARD, TOKEN_COLUMNS, of_features
from .samples import is_missing

# Raw inputs already turned into arrays, and their mask.
_RAW_INPUTS = {each.inputs[0]: each.mask for each in STANDARD.values() if each.channels}


@dataclass
class CLCRDataCollator:
    """Turns rows (dicts) into the batch that CLCR models take.

    What a row may hold, by column:
        text, media: a string, and the path of a clip or `{"path", "bytes"}` as `datasets` has it undecoded; `processor`
            makes them into tokens, frames and audio. `start` and `end` beside `media`: the stretch of it, in seconds.
            Without a processor they are left out, as are all other columns not named here (ids, transcripts).
        input_ids, attention_mask, token_type_ids: (T,) ints.
        <modality>_features: (T, D), (D,) for one vector a clip, or (L, T, D) for taps of L levels.
        <modality>_attention_mask: (T,), optional; all ones by default.
        pixel_values (F, C, H, W), flow_pixel_values (F, 2, H, W), input_values (samples,) or (T, mel).
        label or labels: float (regression), int (class), list of floats (multi-label), list of ints (a class for each
            token, -100 = ignored). A whole sequence of float labels of unequal lengths is refused.

    The batch: values float32, ids and masks int64 with 1 = real, labels float32 or int64; token labels padded with
    -100. A modality that is None or empty in a row gets an all-zero mask row; one that no row has is left out.

    With `Trainer`, rows need `remove_unused_columns=False` where text and media are columns.

    Args:
        processor: called as `processor(text=[...], return_tensors="pt")` and `processor(media=[...],
            return_tensors="pt")`, each with the rows that have that input; e.g. a `CLCRProcessor`.
        tokenizer_pad_id: padding of `input_ids`.
        label_pad_id: padding of token labels.
        pad_to_multiple_of: round the length of tokens, features and token labels up to a multiple (not frames or
            samples).

    Raises (on call):
        ValueError: no rows, widths that differ, a label in some rows only, masks of another length.
    """

    processor: Callable[..., Mapping[str, Any]] | None = None
    tokenizer_pad_id: int = 0
    label_pad_id: int = -100
    pad_to_multiple_of: int | None = None

    def __call__(self, rows: Sequence[Mapping[str, Any]]) -> dict[str, torch.Tensor]:
        if not rows:
            raise ValueError("no rows to collate")
        batch: dict[str, torch.Tensor] = {}
        if self.processor is not None:
            for key in ("text", "media"):
                batch.update(self._process(key, rows))
        batch.update(self._token_ids(rows))
        names = sorted({key for row in rows for key in row})
        for name in names:
            modality = of_features(name)
            if modality is not None:
                batch.update(self._pad(name, modality + MASK_END, rows, axis=-2, multiple=self.pad_to_multiple_of))
            elif name in _RAW_INPUTS:
                batch.update(self._pad(name, _RAW_INPUTS[name], rows, axis=0))
        labels = self._labels(rows)
        if labels is not None:
            batch["labels"] = labels
        return batch

    # -- raw text and media ------------------------------------------------------------------------------------------

    def _process(self, key: str, rows: Sequence[Mapping[str, Any]]) -> dict[str, torch.Tensor]:
        """Run the processor on the rows that have `key`; rows that lack it become zeros with a zero mask."""
        present = [i for i, row in enumerate(rows) if not is_missing(row.get(key))]
        if not present:
            return {}
        assert self.processor is not None
        given = {key: [rows[i][key] for i in present]}
        if key == "media":
            windows = {name: [rows[i].get(name) for i in present] for name in ("start", "end")}
            given |= {name: values for name, values in windows.items() if not all(map(is_missing, values))}
        encoded = self.processor(**given, return_tensors="pt")
        tensors = {name: value for name, value in encoded.items() if isinstance(value, torch.Tensor)}
        if len(present) == len(rows):
            return tensors
        index = torch.tensor(present)
        full = {}
        for name, value in tensors.items():
            fill = self.tokenizer_pad_id if name == "input_ids" else 0
            full[name] = value.new_full((len(rows), *value.shape[1:]), fill)
            full[name][index] = value
        return full

    # -- arrays ------------------------------------------------------------------------------------------------------

    def _token_ids(self, rows: Sequence[Mapping[str, Any]]) -> dict[str, torch.Tensor]:
        ids = [_array(row.get("input_ids"), np.int64) for row in rows]
        length = _padded_length([0 if x is None else len(x) for x in ids], self.pad_to_multiple_of)
        if not length:
            return {}
        batch = {}
        for key in TOKEN_COLUMNS:
            if key == "token_type_ids" and not any(row.get(key) is not None for row in rows):
                continue
            fill = self.tokenizer_pad_id if key == "input_ids" else 0
            padded = np.full((len(rows), length), fill, dtype=np.int64)
            for i, (row, tokens) in enumerate(zip(rows, ids, strict=True)):
                if tokens is not None:
                    values = _array(row.get(key), np.int64)
                    if values is None:
                        values = np.full(len(tokens), int(key == "attention_mask"))
                    padded[i, : len(tokens)] = _same_length(key, values, tokens, i)
            batch[key] = torch.from_numpy(padded)
        return batch

    def _pad(
        self, name: str, mask_name: str, rows: Sequence[Mapping[str, Any]], axis: int, multiple: int | None = None
    ) -> dict[str, torch.Tensor]:
        """A column of arrays padded along `axis`, and its mask; a vector alone is one step."""
        arrays = [_array(row.get(name), np.float32) for row in rows]
        if axis == -2:
            arrays = [x[None] if x is not None and x.ndim == 1 else x for x in arrays]
        known = [x for x in arrays if x is not None]
        if not known:
            return {}
        shapes = {tuple(np.delete(x.shape, axis)) for x in known}
        if len(shapes) > 1 or len({x.ndim for x in known}) > 1:
            raise ValueError(f"{name}: rows of one batch differ in shape: {sorted({x.shape for x in known})[:5]}")
        length = _padded_length([x.shape[axis] for x in known], multiple)
        shape = list(known[0].shape)
        shape[axis] = length
        values = np.zeros((len(rows), *shape), dtype=np.float32)
        mask = np.zeros((len(rows), length), dtype=np.int64)
        for i, (row, array) in enumerate(zip(rows, arrays, strict=True)):
            if array is None:
                continue
            steps = array.shape[axis]
            np.moveaxis(values[i], axis, 0)[:steps] = np.moveaxis(array, axis, 0)
            given = _array(row.get(mask_name), np.int64)
            mask[i, :steps] = 1 if given is None else _same_length(mask_name, given, np.empty(steps), i)
        return {name: torch.from_numpy(values), mask_name: torch.from_numpy(mask)}

    # -- labels ------------------------------------------------------------------------------------------------------

    def _labels(self, rows: Sequence[Mapping[str, Any]]) -> torch.Tensor | None:
        values = [row["labels"] if row.get("labels") is not None else row.get("label") for row in rows]
        absent = [i for i, value in enumerate(values) if value is None]
        if len(absent) == len(rows):
            return None
        if absent:
            raise ValueError(f"{len(absent)} of {len(rows)} rows have no label (first: row {absent[0]} of the batch)")
        arrays = [np.asarray(value) for value in values]
        if any(x.dtype.kind not in "biuf" for x in arrays) or len({x.ndim for x in arrays}) > 1 or arrays[0].ndim > 1:
            raise ValueError("labels must be numbers or flat lists of numbers, the same in every row")
        floating = any(x.dtype.kind == "f" and x.size for x in arrays)  # an empty list has no type
        dtype = torch.float32 if floating else torch.int64
        if arrays[0].ndim == 0 or floating:
            if len({x.shape for x in arrays}) > 1:
                raise ValueError("lists of float labels (multi-label) must have one length; token labels must be ints")
            return torch.as_tensor(np.stack(arrays), dtype=dtype)
        length = _padded_length([len(x) for x in arrays], self.pad_to_multiple_of)
        labels = torch.full((len(rows), length), self.label_pad_id, dtype=dtype)
        for i, x in enumerate(arrays):
            labels[i, : len(x)] = torch.tensor(x, dtype=dtype)
        return labels


def _array(value: Any, dtype: type) -> np.ndarray | None:
    """`value` as an array; None where it is missing."""
    if is_missing(value):
        return None
    array = value.detach().cpu().numpy() if isinstance(value, torch.Tensor) else np.asarray(value)
    return array.astype(dtype, copy=False) if array.size else None


def _same_length(name: str, values: np.ndarray, like: np.ndarray, row: int) -> np.ndarray:
    if len(values) != len(like):
        raise ValueError(f"{name} of row {row} of the batch has {len(values)} entries for {len(like)} tokens")
    return values


def _padded_length(lengths: Sequence[int], multiple: int | None) -> int:
    length = max(lengths, default=0)
    return -(-length // multiple) * multiple if multiple else length
