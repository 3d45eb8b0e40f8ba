"""Each modality's tokens against those of all other modalities, without a tensor of all pairs of tokens.

One modality's queries at a time meet the others' keys, so that a mask of keys alone is enough: memory grows with the
number of tokens and not with its square. Two operators: attention (the exchange of IntraCED, paper) and the log-sum-exp
of the products of coordinates (agreement and alignment, our extensions).
"""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

# Products computed at once where no fused kernel gives a log-sum-exp: 16 MB in float32.
_BLOCK = 2**22


def others_of(tokens: Tensor, lengths: Sequence[int]) -> list[Tensor | None]:
    """
    For each modality the tokens of all others.

    Args:
        tokens: `(..., S, k)` with the modalities side by side on the second last axis.
        lengths: tokens of each modality, in that order; 0 for one that was left out.

    Returns:
        One entry a modality: `(..., S - T_m, k)`, those after it and then those before it; None where no other
        modality has any. Where one other has all of them it is a view.
    """
    # Joined anew for each modality: the gradients of stretches of one copy would each be as large as that copy.
    parts = tokens.split(list(lengths), dim=-2)
    found: list[Tensor | None] = []
    for number in range(len(parts)):
        order = (*range(number + 1, len(parts)), *range(number))
        others = [parts[place] for place in order if not _is_zero(lengths[place])]
        found.append(torch.cat(others, dim=-2) if len(others) > 1 else others[0] if others else None)
    return found


def _is_zero(length: int) -> bool:
    """Whether a modality was left out; its length is then a plain 0 (under torch.export the others are symbols)."""
    return isinstance(length, int) and length == 0


def modality_ids(lengths: Sequence[int], device: torch.device) -> Tensor:
    """`(S,)` int64: of which modality each place on the token axis is."""
    modalities = torch.arange(len(lengths), device=device)
    return torch.cat([modalities[number].expand(length) for number, length in enumerate(lengths)])


_Meeting = tuple[Tensor, tuple[Tensor, ...] | None, Tensor, Tensor]


def _meetings(
    query: Tensor, contents: Sequence[Tensor], mask: Tensor, lengths: Sequence[int], key_lengths: Sequence[int]
) -> list[_Meeting]:
    """
    Each modality's own tokens of `query`, and of all others: their `contents` (None where there is nothing to meet), a
    mask `(B, 1 or H, 1, K)` that a softmax may be taken over, and whether there is any key, `(B, 1 or H, 1, 1)`.

    A row without keys would be NaN: it meets all, and what comes of it is to be multiplied by zero.
    """
    others = [others_of(each, key_lengths) for each in (*contents, mask[..., None])]
    found: list[_Meeting] = []
    for own, *parts in zip(query.split(list(lengths), dim=-2), *others, strict=True):
        if parts[-1] is None or own.shape[-2] == 0:
            nobody = mask.new_zeros(*mask.shape[:2], 1, 1)
            found.append((own, None, nobody, nobody))
            continue
        keep = parts[-1].transpose(-1, -2)
        has_key = keep.any(dim=-1, keepdim=True)
        found.append((own, tuple(parts[:-1]), keep | ~has_key, has_key))
    return found


def attend_to_others(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    mask: Tensor,
    lengths: Sequence[int],
    attend: Callable[..., Tensor],
) -> tuple[Tensor, Tensor]:
    """
    Attention of each modality's tokens over all others' tokens.

    Args:
        query, key, value: `(B, H, S, k)`; any heads.
        mask: bool `(B, 1 or H, S)`, true for a key that may be attended to.
        lengths: tokens of each modality.
        attend: `(query, key, value, mask)` to `(B, H, T, k)`, with a mask `(B, 1 or H, 1, K)` of keys alone.

    Returns:
        `(B, H, S, k)`, and bool `(B, 1 or H, S)`: which tokens had any key. The others' values are exactly 0.
    """
    contexts, reachable = [], []
    for own, others, allowed, has_key in _meetings(query, (key, value), mask, lengths, lengths):
        contexts.append(torch.zeros_like(own) if others is None else attend(own, *others, allowed))
        reachable.append(has_key.squeeze(-1).expand(*mask.shape[:2], own.shape[2]))
    reached = torch.cat(reachable, dim=2)
    # Kernels give `(B, T, H, k)`, seen the other way round: joined as it lies.
    context = torch.cat([each.transpose(1, 2) for each in contexts], dim=1).transpose(1, 2)
    return context * reached[..., None].to(context.dtype), reached


def agreement(query: Tensor, key: Tensor, mask: Tensor, lengths: Sequence[int], key_lengths: Sequence[int]) -> Tensor:
    """
    `log sum_t' exp <q_t, k_t'>` over the real tokens `t'` of all modalities but the token's own (our extension).

    Args:
        query: `(B, H, S, k)`, scaled by the caller. key: `(B, H, S', k)`, of the same samples or of others.
        mask: bool `(B, S')`, real tokens among the keys.
        lengths, key_lengths: tokens of each modality among queries and keys; 0 for one that was left out.

    Returns:
        `(B, H, S)` float32 (float64 for such inputs); exactly 0 where no other modality is present.
    """
    found = []
    for own, others, allowed, has_key in _meetings(query, (key,), mask[:, None], lengths, key_lengths):
        if others is None:
            found.append(own.new_zeros(own.shape[:-1], dtype=_wide(own.dtype)))
        else:
            found.append(product_logsumexp(own, others[0], allowed) * has_key.squeeze(-1))
    return torch.cat(found, dim=-1)


def product_logsumexp(query: Tensor, key: Tensor, mask: Tensor) -> Tensor:
    """
    `log sum_j exp <q_i, k_j>` over the keys that `mask` marks, with its gradient, in memory linear in the tokens.

    A fused attention kernel computes this sum on its way, but torch gives no gradient through it. With the keys as
    values, the kernel's output is the gradient by the query. The gradient by key `j`, `sum_i g_i p_ij q_i`, is a second
    attention, of the keys over the queries: `p_ij = exp(<q_i, k_j> - total_i)`, so that `log |g_i| - total_i` is added
    to its scores, the sign of `g_i` goes to its values, and its own sum undoes the norming. (The kernel's gradient by
    its values would give the same, at more than twice the cost.)

    Args:
        query: `(B, H, T, k)`. key: `(B, H, K, k)`. mask: bool `(B, 1 or H, 1, K)` with a true entry in each row.

    Returns:
        `(B, H, T)` float32, float64 for such inputs.
    """
    if torch.compiler.is_compiling() or torch.compiler.is_exporting():
        # A compiler fuses this; it would not see through the operator below.
        scores = torch.matmul(query, key.transpose(-1, -2)).to(_wide(query.dtype))
        return scores.masked_fill(~mask, float("-inf")).logsumexp(dim=-1)
    bias = torch.zeros_like(mask, dtype=query.dtype).masked_fill_(~mask, float("-inf"))
    operator = _FusedLogSumExp if query.device.type == "cpu" else _BlockedLogSumExp
    return operator.apply(query, key.to(query.dtype), bias)


def _wide(dtype: torch.dtype) -> torch.dtype:
    return torch.float64 if dtype == torch.float64 else torch.float32


class _FusedLogSumExp(torch.autograd.Function):
    """Around the CPU's fused attention kernel; see [`product_logsumexp`]."""

    @staticmethod
    def forward(ctx, query: Tensor, key: Tensor, bias: Tensor) -> Tensor:
        output, total = _attend(query, key, key, bias)
        ctx.save_for_backward(query, key, bias, output, total)
        return total

    @staticmethod
    @once_differentiable
    def backward(ctx, grad: Tensor) -> tuple[Tensor, Tensor, None]:
        query, key, bias, output, total = ctx.saved_tensors
        weight = grad.abs().clamp(min=torch.finfo(grad.dtype).tiny).log() - total
        grad_key, norm = _attend(key, query, grad.sign()[..., None].to(query.dtype) * query, weight[..., None, :])
        norm = (norm + bias.squeeze(-2)).exp()  # 0 for keys that are masked
        return grad[..., None].to(query.dtype) * output, norm[..., None].to(key.dtype) * grad_key, None


def _attend(query: Tensor, key: Tensor, value: Tensor, bias: Tensor) -> tuple[Tensor, Tensor]:
    return torch.ops.aten._scaled_dot_product_flash_attention_for_cpu(query, key, value, attn_mask=bias, scale=1.0)


class _BlockedLogSumExp(torch.autograd.Function):
    """In plain torch, some queries at a time; products are computed again for the gradient."""

    @staticmethod
    def forward(ctx, query: Tensor, key: Tensor, bias: Tensor) -> Tensor:
        total = torch.cat([_scores(part, key, bias).logsumexp(dim=-1) for part in _blocks(query, key)], dim=-1)
        ctx.save_for_backward(query, key, bias, total)
        return total

    @staticmethod
    @once_differentiable
    def backward(ctx, grad: Tensor) -> tuple[Tensor, Tensor, None]:
        query, key, bias, total = ctx.saved_tensors
        grad_query, grad_key, start = [], torch.zeros_like(key), 0
        for part in _blocks(query, key):
            rows = slice(start, start + part.shape[-2])
            start = rows.stop
            share = (_scores(part, key, bias) - total[..., rows, None]).exp().to(query.dtype)
            scale = grad[..., rows, None].to(query.dtype)
            grad_query.append(scale * (share @ key))
            grad_key += share.mT @ (scale * part)
        return torch.cat(grad_query, dim=-2), grad_key, None


def _blocks(query: Tensor, key: Tensor) -> Sequence[Tensor]:
    rows = max(_BLOCK // max(query.shape[0] * query.shape[1] * key.shape[-2], 1), 1)
    return query.split(rows, dim=-2)


def _scores(query: Tensor, key: Tensor, bias: Tensor) -> Tensor:
    return (query @ key.mT).to(_wide(query.dtype)) + bias.to(_wide(query.dtype))


__all__ = ["agreement", "attend_to_others", "modality_ids", "others_of", "product_logsumexp"]
