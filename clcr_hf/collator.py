"""Rows of the data sets to one padded, masked batch for the model."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from .modalities import MASK_END, STANDARD, of_features
from .samples import is_missing, to_numpy

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
                batch.update(self._steps(name, {modality + MASK_END: 1}, rows, -2, self.pad_to_multiple_of))
            elif name in _RAW_INPUTS:
                batch.update(self._steps(name, {_RAW_INPUTS[name]: 1}, rows, 0, None))
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
        beside = {"attention_mask": 1}
        if any(row.get("token_type_ids") is not None for row in rows):
            beside["token_type_ids"] = 0
        return self._steps("input_ids", beside, rows, 0, self.pad_to_multiple_of)

    def _steps(
        self, name: str, beside: Mapping[str, int], rows: Sequence[Mapping[str, Any]], axis: int, multiple: int | None
    ) -> dict[str, torch.Tensor]:
        """Token ids, features, frames or audio of all rows; and what the rows give for each step `beside` them, such as
        their mask, with the value of a real step where they give nothing."""
        ids = name == "input_ids"
        arrays = [_array(row.get(name), np.int64 if ids else np.float32) for row in rows]
        if axis == -2:
            arrays = [x[None] if x is not None and x.ndim == 1 else x for x in arrays]
        if all(x is None for x in arrays):
            return {}
        values, real = stacked(arrays, name, axis, self.tokenizer_pad_id if ids else 0, multiple=multiple)
        batch = {name: torch.from_numpy(values)}
        for key, default in beside.items():
            steps = default * real
            for i, (row, array) in enumerate(zip(rows, arrays, strict=True)):
                given = _array(row.get(key), np.int64)
                if array is not None and given is not None:
                    steps[i, : array.shape[axis]] = _same_length(key, given, array.shape[axis], i)
            batch[key] = torch.from_numpy(steps)
        return batch

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
        arrays = [x.astype(np.int64) for x in arrays]
        options: dict[str, Any] = {"fill": self.label_pad_id, "length": 0, "multiple": self.pad_to_multiple_of}
        return torch.from_numpy(stacked(arrays, "labels", **options)[0])


def stacked(
    rows: Sequence[np.ndarray | None],
    name: str,
    axis: int = 0,
    fill: int = 0,
    length: int = 1,
    multiple: int | None = None,
    pad: bool = True,
) -> tuple[np.ndarray, np.ndarray]:
    """
    Rows padded on the right of their time axis, and stacked.

    Args:
        rows: arrays of one rank and dtype, at least one; None is a row without steps.
        name: of the input, for errors.
        axis: the time axis.
        fill: what padding holds.
        length: pad to at least so many steps; `multiple`: and to a multiple of so many.
        pad: False refuses rows of different lengths.

    Returns:
        The stack `(B, ...)` in the dtype of the rows and its mask `(B, T)` int64.

    Raises:
        ValueError: shapes that differ on another axis than the time, or lengths that differ without `pad`.
    """
    like = next(row for row in rows if row is not None)
    axis = axis % like.ndim
    empty = like.take([], axis)
    full = [empty if row is None else row for row in rows]
    for index, row in enumerate(full):
        if row.ndim != like.ndim or row.take([], axis).shape != empty.shape:
            raise ValueError(
                f"{name}: rows of one batch differ in shape: sample {index} has shape {row.shape} and sample 0 "
                f"{full[0].shape}; only axis {axis}, the time, may differ"
            )
    lengths = [row.shape[axis] for row in full]
    if not pad and len(set(lengths)) > 1:
        raise ValueError(f"{name}: samples have the lengths {lengths} and padding=False; pass padding=True")
    longest = max(length, *lengths)
    longest = -(-longest // multiple) * multiple if multiple else longest
    shape = list(like.shape)
    shape[axis] = longest
    values = np.full((len(full), *shape), fill, like.dtype)
    for out, row in zip(values, full, strict=True):
        out.swapaxes(0, axis)[: row.shape[axis]] = row.swapaxes(0, axis)
    return values, (np.arange(longest) < np.array(lengths)[:, None]).astype(np.int64)


def _array(value: Any, dtype: type) -> np.ndarray | None:
    """`value` as an array; None where it is missing."""
    array = None if is_missing(value) else to_numpy(value)
    return array.astype(dtype, copy=False) if array is not None and array.size else None


def _same_length(name: str, values: np.ndarray, length: int, row: int) -> np.ndarray:
    if len(values) != length:
        raise ValueError(f"{name} of row {row} of the batch has {len(values)} entries for {length} tokens")
    return values
