"""Alignment of the modalities' shared subspaces by what they say at the same time, without labels (our extension).

Nothing in the paper's objective pulls the shared streams of two modalities together, so that "shared" is a name alone.
Two samples are scored by the log-sum-exp, over levels and pairs of tokens of different modalities, of
`gamma_l <c_t, c_t'> / sqrt(k)` in shared coordinates; the tokens of a sample must fit each other better than those of
other samples of the batch (a symmetric contrastive loss). Scores of tokens are what makes it work: contrasts of pooled
summaries and correlations of summaries did not.
"""

from collections.abc import Sequence

import torch
import torch.distributed as dist
from torch import Tensor
from torch.nn import functional as F

from .cross_modal import agreement
from .ops import several_ranks

# Numbers of queries, keys and values held at once; more shifts than fit are done one after another.
_AT_ONCE = 2**25


def pair_score(
    query: Tensor,
    query_membership: Tensor,
    key: Tensor,
    key_membership: Tensor,
    lengths: Sequence[int],
    key_lengths: Sequence[int],
) -> tuple[Tensor, Tensor]:
    """
    How well sample `i`'s tokens fit sample `j`'s, row by row.

    Args:
        query: `(B, L, S, k)` shared coordinates of samples `i`, scaled by `gamma_l / sqrt(k)`.
        key: `(B, L, S', k)` those of samples `j`, not scaled.
        query_membership, key_membership: bool `(B, M, S)` and `(B, M, S')`, real tokens of each modality.
        lengths, key_lengths: tokens of each modality on the token axes.

    Returns:
        Scores `(B,)` float32, the log of the mean over all pairs; and bool `(B,)`, whether there is any pair.
    """
    totals = agreement(query, key, key_membership.any(dim=1), lengths, key_lengths)
    keys = key_membership.sum(dim=-1)
    others = keys.sum(dim=-1, keepdim=True) - keys  # (B, M): whom each modality of `i` meets
    pairs = (query_membership.sum(dim=-1) * others).sum(dim=-1)
    meets = (query_membership & (others > 0)[..., None]).any(dim=1)
    totals = totals.masked_fill(~meets[:, None], float("-inf")).flatten(1)
    has_pair = pairs > 0
    score = torch.where(has_pair[:, None], totals, 0).logsumexp(dim=-1)
    return score - (pairs.clamp(min=1) * query.shape[1]).log(), has_pair


def alignment_loss(
    coordinates: Tensor,
    scale: Tensor,
    membership: Tensor,
    lengths: Sequence[int],
    num_negatives: int = 8,
    gather: bool = True,
) -> Tensor:
    """
    The symmetric contrastive loss, a scalar in float32; 0 where a batch has nothing to compare.

    Args:
        coordinates: `(B, L, S, k)` shared coordinates, zero where padded.
        scale: `(L,)`, `gamma_l` of each level.
        membership: bool `(B, M, S)`. lengths: tokens of each modality on the token axis.
        num_negatives: with how many others each sample is compared: the next ones of the batch, going round.
        gather: take the others from the batches of all ranks of torch.distributed; every rank must then call this.
            Sizes of the ranks' batches are exchanged first, for which the host waits. The mean over ranks is the loss
            of one process with all of them.
    """
    query = coordinates.float() * (scale.float() / coordinates.shape[-1] ** 0.5)[:, None, None]
    keys, key_membership, key_lengths = coordinates.float(), membership, list(lengths)
    sizes, rank = [len(query)], 0  # rows of each rank's batch
    if gather and several_ranks():
        keys, key_membership, key_lengths, sizes = _gather(keys, membership, key_lengths)
        rank = dist.get_rank()
    everyone, place = sum(sizes), sum(sizes[:rank]) + torch.arange(len(query), device=query.device)
    shifts = min(num_negatives, everyone - 1) + 1
    scores, valid = [], []
    together = max(_AT_ONCE // max(query.numel(), 1), 1)
    for start in range(0, shifts, together):
        moved = torch.arange(start, min(start + together, shifts), device=query.device)
        chosen = ((place + moved[:, None]) % everyone).flatten()
        score, has_pair = pair_score(
            query.repeat(len(moved), 1, 1, 1),
            membership.repeat(len(moved), 1, 1),
            keys[chosen],
            key_membership[chosen],
            lengths,
            key_lengths,
        )
        scores.append(score.unflatten(0, (len(moved), -1)))
        valid.append(has_pair.unflatten(0, (len(moved), -1)))
    logits, real = torch.cat(scores), torch.cat(valid)
    # The other way round: each sample against those that have it among their negatives. The score itself is symmetric.
    shift = torch.arange(shifts, device=query.device)[:, None]
    back = (place - shift) % everyone
    logits_back, real_back = _rows_of_all(logits, sizes)[shift, back], _rows_of_all(real.float(), sizes)[shift, back]
    ranks = len(sizes)
    return (_contrast(logits, real, ranks) + _contrast(logits_back, real_back > 0, ranks)) / 2


def _contrast(logits: Tensor, real: Tensor, ranks: int) -> Tensor:
    """Cross-entropy of row 0 of `logits (1 + negatives, B)`, over samples with a score of their own and a negative: a
    mean in which all ranks' samples count alike, once the mean over ranks is taken."""
    counted = (real[0] & real[1:].any(dim=0)).float()
    losses = -F.log_softmax(logits.masked_fill(~real, torch.finfo(logits.dtype).min), dim=0)[0]
    total = counted.sum()
    if ranks > 1:
        dist.all_reduce(total)
    return torch.where(counted > 0, losses, 0).sum() * ranks / total.clamp(min=1)


def _gather(coordinates: Tensor, membership: Tensor, lengths: list[int]) -> tuple[Tensor, Tensor, list[int], list[int]]:
    """All ranks' samples, padded to common lengths, these lengths, and how many rows each rank has."""
    sizes = torch.tensor([len(coordinates), *lengths], device=coordinates.device)
    everyone = [torch.empty_like(sizes) for _ in range(dist.get_world_size())]
    dist.all_gather(everyone, sizes)
    table = torch.stack(everyone).tolist()
    rows = [row[0] for row in table]
    common = [max(column) for column in list(zip(*table, strict=True))[1:]]
    member = _of_all(_padded(membership.to(coordinates.dtype), lengths, common), rows)
    return _of_all(_padded(coordinates, lengths, common), rows), member > 0, common, rows


def same_lengths(tensors: Sequence[Tensor], lengths: Sequence[Sequence[int]]) -> tuple[list[Tensor], list[int]]:
    """Tensors `(B, x, S)` or `(B, x, S, k)` of batches of different lengths, each modality padded to its longest, and
    these lengths. `lengths`: of each tensor, tokens of each modality on the axis S."""
    common = [max(column) for column in zip(*lengths, strict=True)]
    return [_padded(each, own, common) for each, own in zip(tensors, lengths, strict=True)], common


def _padded(tensor: Tensor, lengths: Sequence[int], common: Sequence[int]) -> Tensor:
    parts = tensor.split(list(lengths), dim=2)
    return torch.cat([_grow(part, 2, length) for part, length in zip(parts, common, strict=True)], dim=2)


def _of_all(tensor: Tensor, sizes: list[int]) -> Tensor:
    """The tensors of all ranks one behind the other, through which gradients pass; `sizes`, their rows."""
    if len(sizes) == 1:
        return tensor
    parts = _AllGather.apply(_grow(tensor, 0, max(sizes)).contiguous())
    return torch.cat([part[:size] for part, size in zip(parts, sizes, strict=True)])


class _AllGather(torch.autograd.Function):
    """The tensors of all ranks, stacked; the backward sums the gradient over ranks, because each used all of them."""

    @staticmethod
    def forward(ctx, tensor: Tensor) -> Tensor:
        parts = [torch.empty_like(tensor) for _ in range(dist.get_world_size())]
        dist.all_gather(parts, tensor)
        return torch.stack(parts)

    @staticmethod
    def backward(ctx, grad: Tensor) -> Tensor:
        total = grad.contiguous()
        dist.all_reduce(total)
        return total[dist.get_rank()]


def _rows_of_all(values: Tensor, sizes: list[int]) -> Tensor:
    """`values (shifts, rows)` of all ranks side by side."""
    return _of_all(values.T, sizes).T


def _grow(tensor: Tensor, dim: int, size: int) -> Tensor:
    """`tensor` with zeros behind, up to `size` along `dim`."""
    return F.pad(tensor, (0, 0) * (tensor.dim() - 1 - dim) + (0, size - tensor.shape[dim]))


__all__ = ["alignment_loss", "pair_score", "same_lengths"]
