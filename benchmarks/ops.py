"""Cost of the operators beside the plain ways to write them, in one process: ``python benchmarks/ops.py [--quick]``.

Every row is forward plus backward on one thread. The contenders of a row take turns, so that a busy machine slows them
alike, and the least processor time over the turns counts. Ratios are to CLCR's operator: 2.0 means twice as slow as it.
"""

import argparse
import time
from collections.abc import Callable

import torch
from torch import Tensor

from clcr_hf.ops import orthonormal_bases, pairwise_whitened_cross_correlation, project_capped_simplex

Contender = Callable[[], Tensor]


def bisected(scores: Tensor, budget: Tensor) -> Tensor:
    """Fifty halvings and autograd through none of them: inexact, and no gradient for the budget."""
    low, high = scores.detach().amin(-1, keepdim=True) - 1, scores.detach().amax(-1, keepdim=True)
    for _ in range(50):
        middle = (low + high) / 2
        over = (scores.detach() - middle).clamp(0, 1).sum(-1, keepdim=True) > budget.unsqueeze(-1)
        low, high = torch.where(over, middle, low), torch.where(over, high, middle)
    return (scores - high).clamp(0, 1)


def breakpoint_sorted(scores: Tensor, budget: Tensor) -> Tensor:
    """The textbook way: sort the 2T breakpoints in float64, walk down the slopes; gradient for the scores alone."""
    wide = scores.detach().double()
    points, order = torch.cat([wide - 1, wide], -1).sort(-1)
    slope = torch.where(order < scores.shape[-1], 1.0, -1.0).double().cumsum(-1)
    drop = (slope[..., :-1] * points.diff(dim=-1)).cumsum(-1)
    level = scores.shape[-1] - torch.nn.functional.pad(drop, (1, 0))
    last = (level >= budget.unsqueeze(-1)).sum(-1, keepdim=True) - 1
    rest = level.gather(-1, last) - budget.unsqueeze(-1)
    tau = points.gather(-1, last) + rest / slope.gather(-1, last).clamp(min=1)
    return (scores - tau.float()).clamp(0, 1)


def joint_qr(raw_shared: Tensor, raw_private: Tensor) -> Tensor:
    """One batched QR of ``[shared | private_m]`` with torch's own backward."""
    wide = raw_shared.unsqueeze(-3).expand(*raw_private.shape[:-1], raw_shared.shape[-1])
    basis, upper = torch.linalg.qr(torch.cat([wide, raw_private], -1))
    return basis * torch.where(upper.diagonal(dim1=-2, dim2=-1) < 0, -1.0, 1.0).unsqueeze(-2)


def exponential(raw: Tensor) -> Tensor:
    """A square orthogonal matrix for each modality as the exponential of a skew one."""
    return torch.linalg.matrix_exp(raw.triu(1) - raw.triu(1).mT)


def correlation_of_one_pair(x: Tensor, y: Tensor) -> Tensor:
    """Symmetric inverse square roots by eigendecomposition and autograd."""

    def whiten(stream: Tensor) -> Tensor:
        rows, width = stream.shape
        stream = stream - stream.mean(0)
        covariance = stream.mT @ stream / (rows - 1)
        weight = width / (width + rows - 1)
        shrunk = (1 - weight) * covariance + weight * covariance.diagonal().mean() * torch.eye(width)
        values, vectors = torch.linalg.eigh(shrunk)
        return stream @ (vectors * values.rsqrt()) @ vectors.mT

    cross = whiten(x).mT @ whiten(y) / (x.shape[0] - 1)
    return cross.square().sum() / min(x.shape[1], y.shape[1])


def measure(contenders: dict[str, Contender], turns: int) -> dict[str, float]:
    """Least seconds of processor time of each contender over turns, after one turn to warm up."""
    best = dict.fromkeys(contenders, float("inf"))
    for turn in range(turns + 1):
        for name, contender in contenders.items():
            start = time.process_time()
            contender().backward()
            if turn:
                best[name] = min(best[name], time.process_time() - start)
    return best


def report(title: str, contenders: dict[str, Contender], turns: int) -> None:
    best = measure(contenders, turns)
    first = next(iter(best.values()))
    cells = "  ".join(f"{name} {seconds / first:.2f}" for name, seconds in best.items())
    print(f"{title}: {cells}  (1.00 = {first * 1e3:.2f} ms)", flush=True)


def projection_row(rows: int, size: int, turns: int) -> None:
    scores = torch.rand(rows, size, requires_grad=True)
    learned = torch.full((rows,), 0.3 * size, requires_grad=True)
    fixed = learned.detach()
    contenders: dict[str, Contender] = {
        "clcr": lambda: project_capped_simplex(scores, learned).square().sum(),
        "50 bisections": lambda: bisected(scores, fixed).square().sum(),
        "breakpoint sort": lambda: breakpoint_sorted(scores, fixed).square().sum(),
        "softmax": lambda: scores.softmax(-1).square().sum(),
    }
    report(f"projection {rows} x {size}", contenders, turns)


def bases_row(width: int, turns: int) -> None:
    half = width // 2
    shared = torch.randn(3, width, half, requires_grad=True)
    private = torch.randn(3, 3, width, half, requires_grad=True)
    square = torch.randn(3, 3, width, width, requires_grad=True)
    weights = torch.randn(3, 3, width, width)

    def ours() -> Tensor:
        first, second = orthonormal_bases(shared, private)
        return (first * weights[:, 0, :, :half]).sum() + (second * weights[..., half:]).sum()

    contenders: dict[str, Contender] = {
        "clcr": ours,
        "joint QR": lambda: (joint_qr(shared, private) * weights).sum(),
        "matrix exponential": lambda: (exponential(square) * weights).sum(),
    }
    report(f"bases of 3 levels x 3 modalities, width {width}", contenders, turns)


def correlation_row(rows: int, width: int, turns: int) -> None:
    streams = torch.randn(18, rows, width, requires_grad=True)
    mask = torch.ones(18, rows, dtype=torch.bool)
    pairs = [(i, j) for i in range(18) for j in range(i)][:45]

    def ours() -> Tensor:
        return pairwise_whitened_cross_correlation(streams, mask, pairs=pairs).tril().sum()

    def loop() -> Tensor:
        return torch.stack([correlation_of_one_pair(streams[i], streams[j]) for i, j in pairs]).sum()

    report(f"correlation of 45 pairs, {rows} rows of {width}", {"clcr": ours, "loop over pairs": loop}, turns)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="three turns instead of twenty")
    options = parser.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    turns = 3 if options.quick else 20
    print(f"torch {torch.__version__}, one thread, minimum of {turns} turns")
    for rows, size in ((192, 50), (192, 500), (8, 100_000)):
        projection_row(rows, size, turns)
    for width in (64, 128, 256):
        bases_row(width, turns)
    for width in (32, 64):
        correlation_row(64, width, turns)


if __name__ == "__main__":
    main()
