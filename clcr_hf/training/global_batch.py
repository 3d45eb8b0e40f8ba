"""The batch of one optimiser's step, which several processes and micro-batches share: its rows are dealt out, and what
each part of it counts for in the loss is found, so that the parts add up to the loss of the whole."""

import math
from collections.abc import Iterator, Mapping, Sequence
from itertools import islice
from typing import Any

import torch
from accelerate import Accelerator
from torch.utils.data import BatchSampler, DataLoader

from ..configuration_clcr import CLCRConfig
from ..modalities import modality
from ..objective import label_scale, label_weights, task_losses
from .stream_order import StreamOrder


class DealtBatches(BatchSampler):
    """
    One process's part of each batch of all processes. The last one, which is smaller, is dealt out as evenly as can be,
    where accelerate fills it up with rows that were learned from before.

    Args:
        batches: as of one process.
        processes, index: how many there are, and which of them this is.
    """

    def __init__(self, batches: BatchSampler, processes: int, index: int) -> None:
        super().__init__(batches.sampler, batches.batch_size, batches.drop_last)
        self.processes, self.index = processes, index
        if isinstance(self.sampler, StreamOrder):
            self.sampler.processes = processes

    @property
    def whole(self) -> int:
        """Rows of the processes together."""
        return self.batch_size * self.processes

    @property
    def ends_idle(self) -> bool:
        """Whether the last batch has no row for this process, which gets one that must not count."""
        return not self.drop_last and 0 < len(self.sampler) % self.whole <= self.index  # type: ignore[arg-type]

    def __iter__(self) -> Iterator[list[int]]:
        if isinstance(self.sampler, StreamOrder):
            own = islice(self.sampler.batches(self.index), len(self))
            yield from (part or [0] for part in own)
            return
        for rows in BatchSampler(self.sampler, self.whole, self.drop_last):
            share, more = divmod(len(rows), self.processes)
            start = self.index * share + min(self.index, more)
            yield rows[start : start + share + (self.index < more)] or rows[:1]

    def __len__(self) -> int:
        rows = len(self.sampler)  # type: ignore[arg-type]
        return rows // self.whole if self.drop_last else math.ceil(rows / self.whole)


def deal_out(loader: DataLoader) -> DealtBatches | None:
    """Has a loader that accelerate has prepared for one of several processes read [`DealtBatches`]; None where there
    is nothing to deal out, or rows come one after another without a number."""
    shard: Any = loader.batch_sampler
    if not isinstance(getattr(shard, "batch_sampler", None), BatchSampler) or shard.split_batches:
        return None
    dealt = DealtBatches(shard.batch_sampler, shard.num_processes, shard.process_index)
    # As transformers does with its own sampler that deals out: accelerate's hands on what it is given.
    shard.batch_sampler, shard.batch_size = dealt, None
    shard.num_processes, shard.process_index = 1, 0
    return dealt


def emptied(batch: Mapping[str, Any]) -> dict[str, Any]:
    """The batch without a real step of any modality: for the statistics of the regularisers it is not there."""
    return {
        name: torch.zeros_like(value) if name.endswith("attention_mask") else value for name, value in batch.items()
    }


def without_repeats(batch: Mapping[str, Any], accelerator: Accelerator) -> tuple[dict[str, Any], int]:
    """A process's part of a batch in evaluation, in which rows that accelerate repeated to fill it up have no real
    step; and how many other rows the batch of all processes has."""
    size = len(next(iter(batch.values())))
    state = accelerator.gradient_state
    whole = size * accelerator.num_processes
    rows = state.remainder if state.end_of_dataloader and 0 < state.remainder < whole else whole
    own = min(max(rows - size * accelerator.process_index, 0), size)
    hidden = {name: value for name, value in emptied(batch).items() if name.endswith("attention_mask")}
    masks = {name: torch.cat((batch[name][:own], value[own:])) for name, value in hidden.items()}
    return {**batch, **masks}, rows


def counts(config: CLCRConfig, batch: Mapping[str, Any]) -> torch.Tensor:
    """What of a batch the means of the loss are taken over, `(2 + M,)` float32: labels, samples (or segments) and, a
    modality, labels of those that have it; labels by their weights."""
    labels = batch["labels"]
    weights = label_weights(config, labels)
    present = torch.stack([_present(name, batch, labels, len(weights)) for name in config.modalities], dim=-1)
    rows = present.any(dim=-1).float().sum()
    return torch.stack([weights.sum(), rows, *(weights[:, None] * present).sum(dim=0)])


def _present(name: str, batch: Mapping[str, Any], labels: torch.Tensor, rows: int) -> torch.Tensor:
    """Bool `(N,)`: the samples or segments that have the modality."""
    known = modality(name)
    kinds = [(known.features, known.mask), *((key, known.raw_mask or known.mask) for key in known.inputs)]
    for key, mask_name in (*kinds, ("inputs_embeds", "attention_mask") if name == "text" else ("", "")):
        mask = batch.get(mask_name)
        if batch.get(key) is None:
            continue
        if mask is None:
            return labels.new_ones(rows, dtype=torch.bool)
        mask = mask.to(labels.device).bool()
        if rows > len(mask) and mask.shape == labels.shape:  # a label a step
            return mask.flatten()
        return mask.any(dim=-1).repeat_interleave(rows // len(mask))
    return labels.new_zeros(rows, dtype=torch.bool)


def loss_weights(
    config: CLCRConfig, batches: Sequence[Mapping[str, Any]], idle: bool, accelerator: Accelerator, device: torch.device
) -> list[torch.Tensor]:
    """
    What each of this process's micro-batches of a step counts for beside the mean one of all processes, `(2 + M,)` each
    as of [`counts`]: the mean of all losses, so weighed, is the loss of the whole batch. The host does not wait.

    Args:
        idle: the last one has nothing in it that counts.
    """
    own = torch.stack([counts(config, batch) for batch in batches]).to(device)
    if idle:
        own[-1] = 0
    mean = accelerator.gather(own).mean(dim=0)
    return list(torch.where(mean > 0, own / torch.where(mean > 0, mean, 1), 1))


def row_losses(config: CLCRConfig, logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """Of each row of a batch the sum of its task losses by weight, and of the weights, `(B, 2)`; logits in the data's
    units."""
    mean, std = label_scale(config, logits)
    losses, weights = task_losses(config, (logits - mean) / std, labels)
    return torch.stack([losses * weights, weights], dim=-1).reshape(len(labels), -1, 2).sum(dim=1)


__all__ = ["DealtBatches", "counts", "deal_out", "emptied", "loss_weights", "row_losses", "without_repeats"]
