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
import torch.distributed.nn  # noqa: F401  (gives `dist.nn`)
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
            Sizes of the ranks' batches are exchanged first, for which the host waits.
    """
    query = coordinates.float() * (scale.float() / coordinates.shape[-1] ** 0.5)[:, None, None]
    keys, key_membership, key_lengths, first = coordinates.float(), membership, list(lengths), 0
    if gather and several_ranks():
        keys, key_membership, key_lengths, first = _gather(keys, membership, key_lengths)
    batch, everyone = query.shape[0], keys.shape[0]
    shifts = min(num_negatives, everyone - 1) + 1
    rows = torch.arange(batch, device=query.device)
    scores, valid = [], []
    together = max(_AT_ONCE // max(query.numel(), 1), 1)
    for start in range(0, shifts, together):
        moved = torch.arange(start, min(start + together, shifts), device=query.device)
        chosen = ((first + rows + moved[:, None]) % everyone).flatten()
        copies = len(moved)
        score, has_pair = pair_score(
            query.repeat(copies, 1, 1, 1),
            membership.repeat(copies, 1, 1),
            keys[chosen],
            key_membership[chosen],
            lengths,
            key_lengths,
        )
        scores.append(score.view(copies, batch))
        valid.append(has_pair.view(copies, batch))
    logits = torch.cat(scores).masked_fill(~torch.cat(valid), torch.finfo(torch.float32).min)
    real = torch.cat(valid)
    forth = _contrast(logits, real)
    if everyone != batch:  # who compares themselves with this rank's samples is known on other ranks alone
        return forth
    # The other way: sample j against those that have j among their negatives. The score itself is symmetric.
    back = torch.stack([row.roll(shift) for shift, row in enumerate(logits.unbind(0))])
    return (forth + _contrast(back, torch.stack([row.roll(n) for n, row in enumerate(real.unbind(0))]))) / 2


def _contrast(logits: Tensor, real: Tensor) -> Tensor:
    """Cross-entropy of row 0 of `logits (1 + negatives, B)`, over samples with a score of their own and a negative."""
    counted = (real[0] & real[1:].any(dim=0)).float()
    losses = -F.log_softmax(logits, dim=0)[0]
    return torch.where(counted > 0, losses, 0).sum() / counted.sum().clamp(min=1)


def _gather(
    coordinates: Tensor, membership: Tensor, lengths: list[int]
) -> tuple[Tensor, Tensor, list[int], int]:  # pragma: no cover  (runs in the processes of tests)
    """All ranks' samples, padded to common lengths, and the place of this rank's first among them."""
    sizes = coordinates.new_tensor([coordinates.shape[0], *lengths], dtype=torch.long)
    everyone = [torch.empty_like(sizes) for _ in range(dist.get_world_size())]
    dist.all_gather(everyone, sizes)
    table = torch.stack(everyone).tolist()
    rows = max(row[0] for row in table)
    common = [max(column) for column in list(zip(*table, strict=True))[1:]]

    def padded(tensor: Tensor, dim: int) -> Tensor:
        parts = tensor.split(lengths, dim=dim)
        grown = [_grow(part, dim, length) for part, length in zip(parts, common, strict=True)]
        return _grow(torch.cat(grown, dim=dim), 0, rows)

    parts = dist.nn.all_gather(padded(coordinates, 2).contiguous())
    member = padded(membership, 2).to(torch.uint8).contiguous()
    members = [torch.empty_like(member) for _ in table]
    dist.all_gather(members, member)
    kept = [part[: row[0]] for part, row in zip(parts, table, strict=True)]
    kept_members = [part[: row[0]].bool() for part, row in zip(members, table, strict=True)]
    first = sum(row[0] for row in table[: dist.get_rank()])
    return torch.cat(kept), torch.cat(kept_members), common, first


def _grow(tensor: Tensor, dim: int, size: int) -> Tensor:
    """`tensor` with zeros behind, up to `size` along `dim`."""
    missing = size - tensor.shape[dim]
    if not missing:
        return tensor
    shape = list(tensor.shape)
    shape[dim] = missing
    return torch.cat((tensor, tensor.new_zeros(shape)), dim=dim)


__all__ = ["alignment_loss", "pair_score"]
