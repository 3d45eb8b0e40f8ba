"""The three differentiable operators CLCR is built on: token budget, subspaces, whitened cross-correlation.

All are pure functions of tensors. None loops over rows or tokens, none waits for the device (no ``.item()``), all
work under ``torch.compile(fullgraph=True)`` and inside autocast, where they compute in
float32 (float64 inputs stay float64).
"""

import math
from collections.abc import Iterable, Sequence

import torch
import torch.distributed as dist
from torch import Tensor
from torch.autograd.function import once_differentiable

__all__ = [
    "in_step",
    "init_orthonormal",
    "orthonormal_bases",
    "pairwise_whitened_cross_correlation",
    "project_capped_simplex",
    "several_ranks",
    "whitened_cross_correlation",
]


def _compute_dtype(*dtypes: torch.dtype) -> torch.dtype:
    """float64 if any input is float64, else float32."""
    return torch.float64 if torch.float64 in dtypes else torch.float32


def _wide(tensor: Tensor) -> Tensor:
    """In float64, for sums and products that must not lose digits; unchanged on Apple GPUs, which lack float64."""
    return tensor if tensor.device.type == "mps" else tensor.double()


def _full_precision(tensor: Tensor) -> torch.autocast:
    """Context in which autocast is off for the tensor's device (the meta device knows no autocast)."""
    kind = tensor.device.type
    return torch.autocast(device_type="cpu" if kind == "meta" else kind, enabled=False)


# ---------------------------------------------------------------------------------------------------------------------
# Token budget: projection onto the capped simplex
# ---------------------------------------------------------------------------------------------------------------------


def _bisect(scores: Tensor, level: Tensor) -> tuple[Tensor, Tensor]:
    """Threshold of binding rows without sorting: the faster way on a CPU. Returns ``scores - c`` and ``tau - c``.

    Floats from 0 up are ordered like their bit patterns, so the largest one with ``sum clip(scores - x, 0, 1) > level``
    is built bit by bit (a trial pattern of inf or NaN fails the comparison). c is the next float; just below it the sum
    is a straight line, which ``_polish`` solves.
    """
    bits, integer = (31, torch.int32) if scores.dtype == torch.float32 else (63, torch.int64)
    goal = level.unsqueeze(-1)
    below = torch.zeros_like(goal, dtype=integer)
    for bit in reversed(range(bits)):
        trial = below | (1 << bit)
        over = (scores - trial.view(scores.dtype)).clamp(0, 1).sum(-1, keepdim=True, dtype=goal.dtype) > goal
        below = torch.where(over, trial, below)
    shifted = (scores - (below + 1).view(scores.dtype)).clamp(-3, 2)
    return _wide(shifted), torch.zeros_like(goal)


def _sort(scores: Tensor, level: Tensor) -> tuple[Tensor, Tensor]:
    """Threshold of binding rows by sorting: few operations, for accelerators and compilers. Returns as ``_bisect``.

    With c the ceil(B)-th largest score a threshold lies in [c - 2, c], so scores may be clipped to [c - 3, c + 2] (with
    room for rounding), which keeps full precision at any scale. g(tau) = sum clip(. - tau, 0, 1) falls with tau,
    piecewise linear with breaks at x_j and x_j - 1. Counting the breaks where g is below or up to B gives q tokens
    above 0 and p tokens at 1, and between these breaks g is a straight line.
    """
    size = scores.shape[-1]
    ordered = scores.sort(dim=-1, descending=True).values
    pivot = ordered.gather(-1, level.ceil().clamp(1, size).long().unsqueeze(-1) - 1)
    shifted, x = _wide((scores - pivot).clamp(-3, 2)), _wide((ordered - pivot).clamp(-3, 2))
    sums = torch.nn.functional.pad(x.cumsum(-1), (1, 0))
    above_next = torch.searchsorted(-x, -(x + 1))  # how many exceed x_j + 1
    above_last = torch.searchsorted(-x, -(x - 1), right=True)  # how many reach x_j - 1
    place = torch.arange(1, size + 1, device=x.device)
    goal = level.unsqueeze(-1)
    ranked = sums[..., 1:] - place * x
    g_zero = ranked - (sums.gather(-1, above_next) - above_next * (x + 1))  # g(x_j)
    g_one = (sums.gather(-1, above_last) - above_last * (x - 1)) - ranked  # g(x_j - 1)
    positive = (g_zero < goal).sum(-1, keepdim=True)
    capped = (g_one <= goal).sum(-1, keepdim=True)
    free = positive - capped
    line = (sums.gather(-1, positive) - sums.gather(-1, capped) + capped - goal) / free.clamp(min=1)
    # No free token: the budget is a whole number and any tau between x_{p+1} and x_p - 1 does.
    step = x.gather(-1, capped.clamp(max=size - 1))
    return shifted, torch.where(free > 0, line, step)


def _sort_breaks(scores: Tensor, level: Tensor) -> tuple[Tensor, Tensor]:
    """Threshold of binding rows by sorting all breaks, with operations that ONNX has too. Returns as ``_bisect``.

    As ``_sort``, but x_j and x_j - 1 are sorted together: going down from one break to the next, g grows by their
    distance times the number of free tokens between them, which is one more below each x_j and one less below each
    x_j - 1. No place has to be searched, for the price of a second and longer sort.
    """
    size = scores.shape[-1]
    pivot = scores.sort(dim=-1, descending=True).values.gather(-1, level.ceil().clamp(1, size).long().unsqueeze(-1) - 1)
    shifted = _wide((scores - pivot).clamp(-3, 2))
    breaks, order = torch.cat((shifted, shifted - 1), dim=-1).sort(dim=-1, descending=True)
    free = torch.where(order < size, 1, -1).cumsum(-1)  # tokens strictly between 0 and 1 just below each break
    # g at each break
    grown = torch.nn.functional.pad((breaks[..., :-1] - breaks[..., 1:]) * free[..., :-1], (1, 0)).cumsum(-1)
    goal = level.unsqueeze(-1)
    place = (grown <= goal).sum(-1, keepdim=True) - 1
    tau, slope = breaks.gather(-1, place), free.gather(-1, place)
    return shifted, torch.where(slope > 0, tau - (goal - grown.gather(-1, place)) / slope.clamp(min=1), tau)


def _polish(shifted: Tensor, tau: Tensor, level: Tensor) -> Tensor:
    """One Newton step on the free set at ``tau``: exact on its straight line, and free of long sums' rounding."""
    value = shifted - tau
    inside = (value >= 0) & (value < 1)
    count = inside.sum(-1, keepdim=True)
    total = torch.where(inside, value, 0).sum(-1, keepdim=True)
    left = level.unsqueeze(-1) - (value >= 1).sum(-1, keepdim=True)
    return torch.where(count > 0, tau + (total - left) / count.clamp(min=1), tau)


def _threshold(scores: Tensor, level: Tensor) -> tuple[Tensor, Tensor]:
    """The way to the threshold that suits: all three are exact."""
    if torch.compiler.is_exporting():
        return _sort_breaks(scores, level)
    # Unrolled under torch.compile the bisection would take minutes to compile.
    bisect = scores.device.type == "cpu" and not torch.compiler.is_compiling()
    return (_bisect if bisect else _sort)(scores, level)


class _CappedSimplexProjection(torch.autograd.Function):
    """Projection with the exact derivative of paper section 2; see :func:`project_capped_simplex`."""

    generate_vmap_rule = True

    @staticmethod
    def forward(scores: Tensor, budget: Tensor, mask: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        lost, no_budget = scores.isnan(), budget.isnan()
        invalid = ((lost & mask).any(-1) | no_budget).unsqueeze(-1)
        lowest, highest = torch.finfo(scores.dtype).min, torch.finfo(scores.dtype).max
        real = torch.where(mask & ~lost, scores.clamp(lowest, highest), lowest)
        level = _wide(torch.where(no_budget, 0, budget)).clamp(0, scores.shape[-1])
        clipped = real.clamp(0, 1)
        binding = _wide(clipped).sum(-1) > level
        shifted, tau = _threshold(real, level)
        bound = (shifted - _polish(shifted, tau, level)).clamp(0, 1).to(scores.dtype)
        result = torch.where(binding.unsqueeze(-1), bound, clipped)
        result = torch.where(mask, result, 0)
        free = (result > 0) & (result < 1)
        return torch.where(invalid & mask, math.nan, result), free & ~invalid, binding

    @staticmethod
    def setup_context(ctx, inputs, output) -> None:
        _, free, binding = output
        ctx.mark_non_differentiable(free, binding)
        ctx.save_for_backward(free, binding)

    @staticmethod
    def backward(ctx, grad: Tensor, *_: Tensor) -> tuple[Tensor, Tensor, None]:
        free, binding = ctx.saved_tensors
        inside = torch.where(free, grad, 0)
        mean = inside.sum(-1) / free.sum(-1).clamp(min=1)
        mean = torch.where(binding, mean, 0)
        return torch.where(free, grad - mean.unsqueeze(-1), 0), mean, None


def project_capped_simplex(scores: Tensor, budget: Tensor | float, mask: Tensor | None = None) -> Tensor:
    """Euclidean projection of each row onto ``{0 <= a_t <= 1, sum_t a_t <= B}`` (paper section 2, token budget).

    Exact: error below 1e-6 in float32 and 1e-12 in float64 against a quadratic programme, for any T and any scale of
    the scores. The threshold is found by bisection over floats on a CPU, else by sorting. The derivative is exact
    too: on the free set ``F = {0 < a_t < 1}``, ``da = dz`` where the sum is slack and ``da = dz - mean_F(dz) + dB/|F|``
    where it binds; 0 elsewhere.

    Args:
        scores: ``(..., T)``, floating. ``-inf`` and ``+inf`` count as the most negative and the largest finite number:
            the first gets 0, several of the second share the budget equally. A NaN at a real token makes the real
            tokens of its row NaN, as softmax would, with zero gradient.
        budget: number or tensor broadcastable to ``scores.shape[:-1]``; the same unit as a count of tokens. Negative
            counts as 0 (all zeros, no gradient); ``inf`` or more than T only clips the scores to [0, 1]; NaN gives NaN.
        mask: bool ``(..., T)`` broadcastable to ``scores``, True = real token. Others get exactly 0 and no gradient,
            whatever their score. A row without real tokens is 0.

    Returns:
        ``(..., T)`` in the dtype of ``scores``. float16 and bfloat16 are computed in float32 and rounded at the end, so
        their sum may pass the budget by that rounding.

    Raises:
        TypeError: ``scores`` is not floating, or ``mask`` is not bool.
        ValueError: ``scores`` has no token dimension, or ``budget`` or ``mask`` do not broadcast to it.
    """
    if not scores.is_floating_point():
        raise TypeError(f"scores must be floating, got {scores.dtype}; convert them first")
    if scores.dim() == 0:
        raise ValueError("scores needs a token dimension, got a 0-dimensional tensor")
    if mask is not None and mask.dtype != torch.bool:
        raise TypeError(f"mask must be bool with True = real token, got {mask.dtype}; use mask.bool()")
    dtype = _compute_dtype(scores.dtype)
    if not isinstance(budget, Tensor):
        budget = torch.full((), float(budget), dtype=dtype, device=scores.device)
    level = _expand(budget.to(dtype), scores.shape[:-1], "budget")
    keep = torch.ones_like(scores, dtype=torch.bool) if mask is None else _expand(mask, scores.shape, "mask")
    if scores.numel() == 0:
        return scores.clone()
    result, _, _ = _CappedSimplexProjection.apply(scores.to(dtype), level, keep)
    return result.to(scores.dtype)


def _expand(tensor: Tensor, shape: Sequence[int], name: str) -> Tensor:
    """``tensor.expand(shape)`` with an error that names the argument."""
    tail = tuple(shape)[len(shape) - tensor.dim() :] if tensor.dim() <= len(shape) else None
    if tail is None or any(have not in (1, want) for have, want in zip(tensor.shape, tail, strict=True)):
        raise ValueError(f"{name} of shape {tuple(tensor.shape)} does not broadcast to {tuple(shape)}")
    return tensor.expand(shape)


# ---------------------------------------------------------------------------------------------------------------------
# Shared and private subspaces
# ---------------------------------------------------------------------------------------------------------------------


def _exact_matmul(left: Tensor, right: Tensor) -> Tensor:
    """Matrix product in float64, rounded back: TF32 or bfloat16 matmul settings would cost the bases their 1e-5."""
    return (_wide(left) @ _wide(right)).to(left.dtype)


def _column_scale(raw: Tensor) -> Tensor:
    """Largest absolute entry of each column, ``(..., 1, k)``; 1 for a column of (nearly) nothing."""
    if raw.shape[-1] == 0:
        return raw.new_ones(*raw.shape[:-2], 1, 0)
    scale = raw.abs().amax(-2, keepdim=True)
    return torch.where(scale > math.sqrt(torch.finfo(raw.dtype).tiny), scale, 1)


def _signs(upper: Tensor) -> Tensor:
    """Signs ``(..., 1, k)`` that make the diagonal of R non-negative, so that QR is unique and continuous."""
    diagonal = upper.diagonal(dim1=-2, dim2=-1)
    return torch.where(diagonal < 0, -1.0, 1.0).to(upper.dtype).unsqueeze(-2)


def _solve_right(tangent: Tensor, upper: Tensor, norms: Tensor) -> Tensor:
    """``tangent @ upper^-T`` kept finite: the inverse of R is bounded where columns are (nearly) dependent.

    R is exact unless a column lies within ``sqrt(eps)`` radians of the span of those before it; there its diagonal is
    raised to that angle. Should the result still exceed ``|tangent| / sqrt(eps)`` the tangent itself is used.

    Args:
        tangent: ``(..., d, k)``; upper: ``(..., k, k)``; norms: ``(..., 1, k)`` lengths of the raw columns.
    """
    floor = math.sqrt(torch.finfo(upper.dtype).eps)
    upper = upper / norms  # unit columns: the floor is an angle
    diagonal = upper.diagonal(dim1=-2, dim2=-1)
    upper = upper + torch.diag_embed(diagonal.clamp(min=floor) - diagonal)
    solved = torch.linalg.solve_triangular(upper.mT, tangent, upper=False, left=False)
    bound = torch.linalg.vector_norm(tangent, dim=(-2, -1), keepdim=True) / floor
    good = torch.linalg.vector_norm(solved, dim=(-2, -1), keepdim=True) <= bound  # False for NaN too
    return torch.where(good, solved, tangent) / norms


class _OrthonormalBases(torch.autograd.Function):
    """QR of ``[shared | private_m]`` for all m at once, the shared part done once; see :func:`orthonormal_bases`."""

    @staticmethod
    def forward(raw_shared: Tensor, raw_private: Tensor) -> tuple[Tensor, ...]:
        rank = raw_shared.shape[-1]
        scale_shared, scale_private = _column_scale(raw_shared), _column_scale(raw_private)
        full, upper_shared = torch.linalg.qr(raw_shared / scale_shared, mode="complete")
        upper_shared = upper_shared[..., :rank, :]
        signs = _signs(upper_shared)
        shared = full[..., :rank] * signs
        rest = full[..., rank:].unsqueeze(-3)  # orthonormal basis of the complement: private bases are made inside it
        scaled = raw_private / scale_private
        inner, upper_private = torch.linalg.qr(_exact_matmul(rest.mT, scaled))
        signs_private = _signs(upper_private)
        private = _exact_matmul(rest, inner * signs_private)
        cross = shared.unsqueeze(-3).mT @ scaled  # R12 of the joint QR
        return (
            shared,
            private,
            signs.mT * upper_shared,
            signs_private.mT * upper_private,
            cross,
            scale_shared,
            scale_private,
        )

    @staticmethod
    def setup_context(ctx, inputs, output) -> None:
        ctx.mark_non_differentiable(*output[2:])
        ctx.save_for_backward(*output)

    @staticmethod
    @once_differentiable
    def backward(ctx, grad_shared: Tensor, grad_private: Tensor, *_: Tensor) -> tuple[Tensor, Tensor]:
        shared, private, upper_shared, upper_private, cross, scale_shared, scale_private = ctx.saved_tensors
        wide_shared = shared.unsqueeze(-3)
        # Derivative of QR: (G + Q sym(-Q^T G)) R^-T, sym mirroring the upper triangle, by blocks [shared | private].
        above = wide_shared.mT @ grad_private
        tangent = grad_private - wide_shared @ above - private @ _mirror_upper(private.mT @ grad_private)
        norms = torch.linalg.vector_norm(torch.cat([cross, upper_private], -2), dim=-2, keepdim=True)
        raw_private = _solve_right(tangent, upper_private, norms.clamp(min=torch.finfo(norms.dtype).eps))
        tangent = grad_shared - shared @ _mirror_upper(shared.mT @ grad_shared)
        tangent = tangent - (private @ above.mT + raw_private @ cross.mT).sum(-3)
        norms = torch.linalg.vector_norm(upper_shared, dim=-2, keepdim=True)
        raw_shared = _solve_right(tangent, upper_shared, norms.clamp(min=torch.finfo(norms.dtype).eps))
        return raw_shared / scale_shared, raw_private / scale_private


def _mirror_upper(matrix: Tensor) -> Tensor:
    """Symmetric matrix with the upper triangle of ``matrix``."""
    return matrix.triu() + matrix.triu(1).mT


def orthonormal_bases(raw_shared: Tensor, raw_private: Tensor) -> tuple[Tensor, Tensor]:
    """Raw parameters to orthonormal shared and private bases (paper section 2; the map is our reconstruction).

    Equals the QR decomposition of ``[raw_shared | raw_private_m]`` for each modality m, with R's diagonal non-negative,
    but factors the shared part once. Orthogonality holds to rounding (about 1e-6) for any raw values, dependent columns
    and zeros included. Gradients are exact until a column comes within sqrt(eps) radians of the span of those before it
    (3e-4 in float32) and stay finite beyond. There is no second derivative.

    Args:
        raw_shared: ``(..., d, k_sh)``, floating; leading dimensions are levels or anything else.
        raw_private: ``(..., M, d, k_pr)`` with the same leading dimensions; M and k_pr may be 0.

    Returns:
        ``U_sh (..., d, k_sh)`` and ``U_pr (..., M, d, k_pr)`` with ``U^T U = I`` and ``U_sh^T U_pr = 0``; float64 if
        either input is, else float32, also under autocast and for 16-bit weights.

    Raises:
        ValueError: shapes that do not fit together, or ``k_sh + k_pr > d``.
    """
    _check_bases(raw_shared, raw_private)
    dtype = _compute_dtype(raw_shared.dtype, raw_private.dtype)
    with _full_precision(raw_shared):
        bases = _OrthonormalBases.apply(raw_shared.to(dtype), raw_private.to(dtype))
    return bases[0], bases[1]


def _check_bases(raw_shared: Tensor, raw_private: Tensor) -> None:
    if raw_shared.dim() < 2 or raw_private.dim() != raw_shared.dim() + 1:
        raise ValueError(
            "raw_shared must be (..., d, k_sh) and raw_private (..., M, d, k_pr), "
            f"got {tuple(raw_shared.shape)} and {tuple(raw_private.shape)}"
        )
    lead, width, rank = raw_shared.shape[:-2], raw_shared.shape[-2], raw_shared.shape[-1]
    if raw_private.shape[:-3] != lead or raw_private.shape[-2] != width:
        raise ValueError(
            "raw_shared and raw_private differ in their leading dimensions or in d: "
            f"{tuple(raw_shared.shape)} and {tuple(raw_private.shape)}"
        )
    if rank + raw_private.shape[-1] > width:
        raise ValueError(
            f"shared rank {rank} and private rank {raw_private.shape[-1]} do not fit in width {width}; "
            "choose them so that their sum is at most the width"
        )


@torch.no_grad()
def init_orthonormal(raw_shared: Tensor, raw_private: Tensor) -> tuple[Tensor, Tensor]:
    """Random well-conditioned start values for the raw parameters: orthonormal bases, uniformly distributed.

    Reads only the shapes, dtypes and device of its arguments and returns new tensors of the same; the draw follows
    ``torch.manual_seed``. In a transformers ``_init_weights`` copy them with ``transformers.initialization.copy_``.

    Raises:
        ValueError: as :func:`orthonormal_bases`.
    """
    dtype = _compute_dtype(raw_shared.dtype, raw_private.dtype)
    shared, private = orthonormal_bases(
        torch.randn(raw_shared.shape, dtype=dtype, device=raw_shared.device),
        torch.randn(raw_private.shape, dtype=dtype, device=raw_private.device),
    )
    return shared.to(raw_shared.dtype), private.to(raw_private.dtype)


# ---------------------------------------------------------------------------------------------------------------------
# Whitened cross-correlation
# ---------------------------------------------------------------------------------------------------------------------


class _AllReduceSum(torch.autograd.Function):
    """Sum over ranks; the backward sums the gradient over ranks too, because every rank's loss saw the sum."""

    @staticmethod
    def forward(ctx, tensor: Tensor, group: "dist.ProcessGroup | None") -> Tensor:
        ctx.group = group
        total = tensor.clone(memory_format=torch.contiguous_format)
        dist.all_reduce(total, group=group)
        return total

    @staticmethod
    def backward(ctx, grad: Tensor) -> tuple[Tensor, None]:
        return _AllReduceSum.apply(grad, ctx.group), None


def several_ranks(group: "dist.ProcessGroup | None" = None) -> bool:
    """Whether torch.distributed runs with more than one rank."""
    return dist.is_available() and dist.is_initialized() and dist.get_world_size(group) > 1


def in_step(value: Tensor, parameters: Iterable[Tensor]) -> Tensor:
    """`value` as it is, through which the parameters, that nothing in this batch asked for, get a gradient of 0 in
    place of none: processes whose batches do ask for them wait for one."""
    return value + 0 * sum(each.sum() for each in parameters if each.requires_grad)


def _sum_over_ranks(parts: Sequence[Tensor], group: "dist.ProcessGroup | None", distributed: bool) -> list[Tensor]:
    """The tensors summed over ranks, in one message; unchanged in a single process."""
    if not (distributed and several_ranks(group)):
        return list(parts)
    total = _AllReduceSum.apply(torch.cat([part.reshape(-1) for part in parts]), group)
    pieces = total.split([part.numel() for part in parts])
    return [piece.view(part.shape) for piece, part in zip(pieces, parts, strict=True)]


class _SquaredCorrelation(torch.autograd.Function):
    """``trace(A^-1 C B^-1 C^T)`` of positive definite A, B and any C, batched, with its closed-form derivative.

    With ``W = A^-1 C B^-1``: ``2 W`` for C, ``-W B W^T`` for A, ``-W^T A W`` for B, several times cheaper than
    differentiating through Cholesky factors.
    """

    @staticmethod
    def forward(a: Tensor, b: Tensor, c: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        # The unchecked factorisation: the checked one waits for the device.
        left, right = torch.linalg.cholesky_ex(a).L, torch.linalg.cholesky_ex(b).L
        whitened = torch.linalg.solve_triangular(right.mT, c, upper=True, left=False)
        whitened = torch.linalg.solve_triangular(left, whitened, upper=False)
        return whitened.square().sum((-2, -1)), left, right, whitened

    @staticmethod
    def setup_context(ctx, inputs, output) -> None:
        ctx.mark_non_differentiable(*output[1:])
        ctx.save_for_backward(*output[1:])

    @staticmethod
    @once_differentiable
    def backward(ctx, grad: Tensor, *_: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        left, right, whitened = ctx.saved_tensors
        grad = grad[..., None, None]
        half_a = torch.linalg.solve_triangular(left.mT, whitened, upper=True)  # half_a half_a^T = W B W^T
        w = torch.linalg.solve_triangular(right, half_a, upper=False, left=False)
        half_b = w.mT @ left  # half_b half_b^T = W^T A W
        return -grad * (half_a @ half_a.mT), -grad * (half_b @ half_b.mT), 2 * grad * w


def whitened_cross_correlation(
    x: Tensor,
    y: Tensor,
    mask: Tensor | None = None,
    shrinkage: str | float = "auto",
    eps: float = 1e-6,
    min_rows: int = 4,
    group: "dist.ProcessGroup | None" = None,
    distributed: bool = True,
) -> Tensor:
    """Redundancy of two streams: ``C = ||Sxx^-1/2 Sxy Syy^-1/2||_F^2 / min(kx, ky)`` (paper section 4; form ours).

    The mean squared canonical correlation of the rows, 0 for uncorrelated streams and near 1 for one an invertible
    linear map of the other. Sxx and Syy are shrunk, ``(1 - lambda) S + lambda trace(S)/k I + eps I``; with few rows and
    many columns unshrunk correlations saturate at 1. Sxy is not shrunk, so C may pass 1, never ``1 / (1 - lambda)^2``.
    Whitening is by Cholesky factors: the norm is the same as with symmetric square roots.

    Args:
        x: ``(..., N, kx)``, floating; N samples. y: ``(..., N, ky)``, the same leading dimensions or broadcastable.
        mask: bool ``(..., N)``, True = use this row. Rows left out have no influence, NaN included.
        shrinkage: lambda in [0, 1], or "auto" for ``k / (k + n - 1)`` with n the rows used, each stream its own k.
        eps: variance added to every direction, in squared units of the streams; far smaller variances count as none.
        min_rows: with fewer rows (over all ranks) the result is exactly 0, its gradient too. At least 2.
        group: process group to sum the statistics over; None is the default group.
        distributed: with torch.distributed initialised, sum counts, means and covariances over the ranks, so that each
            gets the value of the whole batch; every rank must then call this. The backward sums gradients over ranks,
            so that DistributedDataParallel's mean over ranks is the gradient of one process with the whole batch.
            Pass False where ranks may not run in step (evaluation).

    Returns:
        ``(...)``, float64 if an input is, else float32, also under autocast. Constant streams give 0.

    Raises:
        ValueError: bad ``shrinkage`` or ``min_rows``, or numbers of rows that differ.
    """
    _check_statistics(shrinkage, min_rows)
    if x.dim() < 2 or y.dim() < 2 or x.shape[-2] != y.shape[-2]:
        raise ValueError(f"x and y must be (..., N, k) with one N, got {tuple(x.shape)} and {tuple(y.shape)}")
    with _full_precision(x):
        return _redundancy(x, y, mask, (x.shape[-1], y.shape[-1]), shrinkage, eps, min_rows, group, distributed)


def pairwise_whitened_cross_correlation(
    streams: Tensor,
    mask: Tensor | None = None,
    ranks: Sequence[int] | None = None,
    shrinkage: str | float = "auto",
    eps: float = 1e-6,
    min_rows: int = 4,
    group: "dist.ProcessGroup | None" = None,
    pairs: Sequence[tuple[int, int]] | None = None,
    distributed: bool = True,
) -> Tensor:
    """:func:`whitened_cross_correlation` of every pair of P streams, all at once.

    Args:
        streams: ``(P, N, k)``, floating; narrower streams are padded to k columns.
        mask: bool ``(P, N)``; pair (i, j) uses the rows present in both. None: all present, which is also cheaper.
        ranks: how many of the k columns are real, for each stream; the others are ignored. None: all.
        shrinkage, eps, min_rows, group, distributed: as for :func:`whitened_cross_correlation`.
        pairs: the pairs (i, j) wanted; the rest of the result is 0. None: all with i <= j. Asking for few saves time.

    Returns:
        ``(P, P)``, symmetric.

    Raises:
        ValueError: as above, or a shape, rank or pair that does not fit the streams.
    """
    _check_statistics(shrinkage, min_rows)
    if streams.dim() != 3 or (mask is not None and mask.shape != streams.shape[:2]):
        shape = None if mask is None else tuple(mask.shape)
        raise ValueError(f"streams must be (P, N, k) and mask (P, N), got {tuple(streams.shape)} and {shape}")
    number, _, width = streams.shape
    ranks = [width] * number if ranks is None else list(ranks)
    if len(ranks) != number or any(not 1 <= rank <= width for rank in ranks):
        raise ValueError(f"ranks must be {number} numbers from 1 to {width}, got {ranks}")
    wanted = [(i, j) for i in range(number) for j in range(i, number)] if pairs is None else list(pairs)
    if any(not (0 <= i < number and 0 <= j < number) for i, j in wanted):
        raise ValueError(f"pairs must index the {number} streams, got {wanted}")
    device = streams.device
    first = torch.tensor([i for i, _ in wanted], dtype=torch.long, device=device)
    second = torch.tensor([j for _, j in wanted], dtype=torch.long, device=device)
    real = torch.tensor(ranks, device=device)
    streams = torch.where(torch.arange(width, device=device) < real[:, None, None], streams, 0)
    both = None if mask is None else mask[first].bool() & mask[second].bool()
    widths = (real[first], real[second])
    with _full_precision(streams):
        values = _redundancy(
            streams[first], streams[second], both, widths, shrinkage, eps, min_rows, group, distributed
        )
    result = values.new_zeros(number, number).index_put((first, second), values)
    return result.index_put((second, first), values)


def _check_statistics(shrinkage: str | float, min_rows: int) -> None:
    if shrinkage != "auto" and (isinstance(shrinkage, str) or not 0.0 <= shrinkage <= 1.0):
        raise ValueError(f"shrinkage must be 'auto' or a number from 0 to 1, got {shrinkage!r}")
    if min_rows < 2:
        raise ValueError(f"min_rows must be at least 2, got {min_rows}: one row has no covariance")


def _redundancy(
    x: Tensor,
    y: Tensor,
    mask: Tensor | None,
    widths: tuple[int | Tensor, int | Tensor],
    shrinkage: str | float,
    eps: float,
    min_rows: int,
    group: "dist.ProcessGroup | None",
    distributed: bool,
) -> Tensor:
    """C of batches of stream pairs; ``widths`` are the true numbers of columns, as numbers or one for each pair."""
    dtype = _compute_dtype(x.dtype, y.dtype)
    lead = torch.broadcast_shapes(x.shape[:-2], y.shape[:-2])
    x, y = (part.to(dtype).expand(*lead, *part.shape[-2:]) for part in (x, y))
    rows = x.new_ones(x.shape[:-1], dtype=torch.bool) if mask is None else mask.bool().expand(x.shape[:-1])
    rows = rows.unsqueeze(-1)
    # Selecting, not multiplying, keeps a NaN out of values and gradients.
    x, y = torch.where(rows, x, 0), torch.where(rows, y, 0)
    sums = [rows.sum(-2).squeeze(-1).to(dtype), x.sum(-2), y.sum(-2)]
    count, sum_x, sum_y = _sum_over_ranks(sums, group, distributed)
    size = count.clamp(min=1)[..., None, None]
    x = torch.where(rows, x - sum_x.unsqueeze(-2) / size, 0)
    y = torch.where(rows, y - sum_y.unsqueeze(-2) / size, 0)
    degrees = (count - 1).clamp(min=1)[..., None, None]
    xx, yy, xy = _sum_over_ranks([x.mT @ x, y.mT @ y, x.mT @ y], group, distributed)
    xx = _shrink(xx / degrees, widths[0], count, shrinkage, eps)
    yy = _shrink(yy / degrees, widths[1], count, shrinkage, eps)
    total = _SquaredCorrelation.apply(xx, yy, xy / degrees)[0]
    narrow = torch.minimum(*(torch.as_tensor(width, device=x.device) for width in widths))
    return torch.where(count >= min_rows, total / narrow, 0)


def _shrink(covariance: Tensor, width: int | Tensor, count: Tensor, shrinkage: str | float, eps: float) -> Tensor:
    """Covariance ``(..., k, k)`` shrunk towards its mean variance; ``width`` of its columns are real."""
    size = covariance.shape[-1]
    variance = covariance.diagonal(dim1=-2, dim2=-1).sum(-1) / width
    if isinstance(shrinkage, str):
        weight = width / (width + (count - 1).clamp(min=1))
    else:
        weight = torch.full_like(count, shrinkage)
    # A few ulp of the mean variance more than asked for: the factorisation of a singular matrix can then not fail.
    ridge = weight * variance + eps + 4 * size * torch.finfo(covariance.dtype).eps * variance
    ridge = ridge.unsqueeze(-1).expand(*ridge.shape, size)
    return (1 - weight)[..., None, None] * covariance + torch.diag_embed(ridge)
