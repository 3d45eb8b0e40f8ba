"""Whitened cross-correlation: against canonical correlations, masks, tiny batches, and two real processes."""

import math
import os

import numpy as np
import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn.parallel import DistributedDataParallel

from clcr_hf.ops import pairwise_whitened_cross_correlation, whitened_cross_correlation

FLOAT64 = torch.float64


def reference(x: np.ndarray, y: np.ndarray, shrinkage: float | str = "auto", eps: float = 1e-6) -> float:
    """The definition with symmetric inverse square roots, in float64."""

    def inverse_root(covariance: np.ndarray, rows: int) -> np.ndarray:
        k = len(covariance)
        weight = k / (k + rows - 1) if isinstance(shrinkage, str) else shrinkage
        shrunk = (1 - weight) * covariance + (weight * np.trace(covariance) / k + eps) * np.eye(k)
        values, vectors = np.linalg.eigh(shrunk)
        return vectors @ np.diag(values**-0.5) @ vectors.T

    rows = len(x)
    x, y = x - x.mean(0), y - y.mean(0)
    left, right = inverse_root(x.T @ x / (rows - 1), rows), inverse_root(y.T @ y / (rows - 1), rows)
    return (np.linalg.norm(left @ (x.T @ y / (rows - 1)) @ right) ** 2) / min(x.shape[1], y.shape[1])


def draw(seed: int, rows: int, *widths: int) -> list[torch.Tensor]:
    """Correlated random streams, far from centred."""
    generator = torch.Generator().manual_seed(seed)
    common = torch.randn(rows, 2, generator=generator, dtype=FLOAT64)
    return [
        torch.randn(rows, width, generator=generator, dtype=FLOAT64)
        + common @ torch.randn(2, width, generator=generator, dtype=FLOAT64)
        + 3
        for width in widths
    ]


@settings(max_examples=60, deadline=None)
@given(
    st.integers(0, 2**31),
    st.integers(4, 30),
    st.integers(1, 8),
    st.integers(1, 8),
    st.sampled_from(["auto", 0.1, 0.9, 1.0]),
)
def test_is_the_definition(seed, rows, wide, narrow, shrinkage):
    x, y = draw(seed, rows, wide, narrow)
    expected = reference(x.numpy(), y.numpy(), shrinkage)
    assert whitened_cross_correlation(x, y, shrinkage=shrinkage).item() == pytest.approx(expected, rel=1e-9)
    single = whitened_cross_correlation(x.float(), y.float(), shrinkage=shrinkage)
    assert single.dtype == torch.float32 and single.item() == pytest.approx(expected, rel=1e-3, abs=1e-5)


def test_without_shrinkage_it_is_the_mean_squared_canonical_correlation():
    x, y = draw(0, 60, 4, 3)
    basis = [np.linalg.qr((part - part.mean(0)).numpy())[0] for part in (x, y)]
    canonical = np.linalg.svd(basis[0].T @ basis[1], compute_uv=False)
    got = whitened_cross_correlation(x, y, shrinkage=0.0, eps=0.0)
    assert got.item() == pytest.approx((canonical**2).mean(), rel=1e-6)
    moved = whitened_cross_correlation(x @ torch.randn(4, 4, dtype=FLOAT64) + 5, y, shrinkage=0.0, eps=0.0)
    assert moved.item() == pytest.approx(got.item(), rel=1e-6)
    assert whitened_cross_correlation(x, x, shrinkage=0.0, eps=0.0).item() == pytest.approx(1.0, rel=1e-6)


def test_tells_redundant_streams_from_independent_ones():
    torch.manual_seed(0)
    x, noise = torch.randn(2000, 8), torch.randn(2000, 8)
    assert whitened_cross_correlation(x, noise) < 0.02
    assert whitened_cross_correlation(x, x @ torch.linalg.qr(torch.randn(8, 8))[0]) > 0.98


@settings(max_examples=50, deadline=None)
@given(st.integers(0, 2**31), st.integers(4, 12), st.integers(0, 9))
def test_masked_rows_have_no_influence(seed, rows, padding):
    x, y = draw(seed, rows, 3, 2)
    junk = [
        torch.full((padding, part.shape[1]), value, dtype=FLOAT64) for part, value in ((x, math.nan), (y, math.inf))
    ]
    longer = [torch.cat([part, extra]).requires_grad_() for part, extra in zip((x, y), junk, strict=True)]
    order = torch.randperm(rows + padding, generator=torch.Generator().manual_seed(seed))
    mask = (torch.arange(rows + padding) < rows)[order]
    got = whitened_cross_correlation(longer[0][order], longer[1][order], mask)
    torch.testing.assert_close(got, whitened_cross_correlation(x, y), rtol=1e-9, atol=1e-12)
    got.backward()
    for part in longer:
        assert part.grad.isfinite().all() and bool((part.grad[rows:] == 0).all())


@pytest.mark.parametrize("rows", [0, 1, 2, 3])
def test_too_few_rows_give_exactly_zero(rows):
    x, y = torch.randn(6, 5, requires_grad=True), torch.randn(6, 4, requires_grad=True)
    got = whitened_cross_correlation(x, y, torch.arange(6) < rows)
    assert got.item() == 0.0
    got.backward()
    assert x.grad.abs().sum() == 0 and y.grad.abs().sum() == 0
    assert whitened_cross_correlation(torch.empty(0, 3), torch.empty(0, 3)).item() == 0.0
    if rows >= 2:
        assert whitened_cross_correlation(x, y, torch.arange(6) < rows, min_rows=rows).item() > 0


@pytest.mark.parametrize("shrinkage", ["auto", 0.0])
def test_constant_and_degenerate_streams_are_finite(shrinkage):
    torch.manual_seed(0)
    noise = torch.randn(10, 4)
    cases = {
        "constant": torch.full((10, 4), 1e4),
        "rank one": noise[:, :1].expand(10, 4),
        "wide": torch.randn(10, 40),
        "large": noise * 1e6,
        "small": noise * 1e-8,
    }
    for name, x in cases.items():
        x = x.clone().requires_grad_()
        got = whitened_cross_correlation(x, noise, shrinkage=shrinkage)
        got.backward()
        assert 0 <= got.item() < math.inf and x.grad.isfinite().all(), name
        if name == "constant":
            assert got.item() == 0.0


def test_gradcheck():
    x, y = (part.requires_grad_() for part in draw(1, 7, 3, 2))
    mask = torch.tensor([True] * 6 + [False])
    for shrinkage in ("auto", 0.3):
        assert torch.autograd.gradcheck(
            lambda x, y, s=shrinkage: whitened_cross_correlation(x, y, mask, shrinkage=s), (x, y)
        )
    # A stream against itself reaches the same leaf twice.
    assert torch.autograd.gradcheck(lambda x: whitened_cross_correlation(x, x), (x,))


def test_leading_dimensions_are_independent():
    torch.manual_seed(0)
    x, y, mask = torch.randn(2, 3, 12, 4), torch.randn(3, 12, 2), torch.rand(2, 3, 12) > 0.2
    got = whitened_cross_correlation(x, y, mask)
    assert got.shape == (2, 3)
    for i in range(2):
        for j in range(3):
            torch.testing.assert_close(got[i, j], whitened_cross_correlation(x[i, j], y[j], mask[i, j]))


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 2**31), st.integers(2, 14))
def test_pairwise_equals_each_pair_on_its_own(seed, rows):
    generator = torch.Generator().manual_seed(seed)
    ranks = [4, 2, 3]
    streams = torch.stack(draw(seed, rows, 4, 4, 4)).requires_grad_()
    mask = torch.rand(3, rows, generator=generator) > 0.25
    got = pairwise_whitened_cross_correlation(streams, mask, ranks)
    torch.testing.assert_close(got, got.T, rtol=0, atol=0)
    for i in range(3):
        for j in range(3):
            one = whitened_cross_correlation(streams[i, :, : ranks[i]], streams[j, :, : ranks[j]], mask[i] & mask[j])
            torch.testing.assert_close(got[i, j], one, rtol=1e-9, atol=1e-12)
    got.sum().backward()
    assert streams.grad.isfinite().all() and bool((streams.grad[1, :, 2:] == 0).all())


def test_pairwise_without_mask_and_with_chosen_pairs():
    torch.manual_seed(0)
    streams = torch.randn(4, 20, 3)
    full = pairwise_whitened_cross_correlation(streams)
    torch.testing.assert_close(full, pairwise_whitened_cross_correlation(streams, torch.ones(4, 20, dtype=torch.bool)))
    some = pairwise_whitened_cross_correlation(streams, pairs=[(0, 2), (3, 1)])
    kept = torch.zeros(4, 4, dtype=torch.bool)
    for i, j in [(0, 2), (2, 0), (1, 3), (3, 1)]:
        kept[i, j] = True
    torch.testing.assert_close(some, torch.where(kept, full, 0))
    assert pairwise_whitened_cross_correlation(streams, pairs=[]).abs().sum() == 0


def test_autocast_computes_in_float32():
    torch.manual_seed(0)
    x, y = torch.randn(16, 6), torch.randn(16, 6)
    expected = whitened_cross_correlation(x.bfloat16().float(), y.bfloat16().float())
    with torch.autocast("cpu", dtype=torch.bfloat16):
        got = whitened_cross_correlation(x.bfloat16(), y.bfloat16())
        both = pairwise_whitened_cross_correlation(torch.stack([x, y]).bfloat16())
    assert got.dtype == both.dtype == torch.float32
    torch.testing.assert_close(got, expected)
    torch.testing.assert_close(both[0, 1], expected)


@pytest.mark.parametrize(
    "call",
    [
        lambda x: whitened_cross_correlation(x, x[:-1]),
        lambda x: whitened_cross_correlation(x, x, shrinkage=1.5),
        lambda x: whitened_cross_correlation(x, x, shrinkage="oas"),
        lambda x: whitened_cross_correlation(x, x, min_rows=1),
        lambda x: pairwise_whitened_cross_correlation(x),
        lambda x: pairwise_whitened_cross_correlation(x[None], x[None] > 0),
        lambda x: pairwise_whitened_cross_correlation(x[None], ranks=[9]),
        lambda x: pairwise_whitened_cross_correlation(x[None], ranks=[1, 1]),
        lambda x: pairwise_whitened_cross_correlation(x[None], pairs=[(0, 1)]),
    ],
)
def test_wrong_arguments_are_refused(call):
    with pytest.raises(ValueError, match=r"must|got"):
        call(torch.randn(5, 3))


def test_compiles_to_one_graph_forward_and_backward():
    torch.manual_seed(0)
    streams, mask = torch.randn(3, 9, 4), torch.rand(3, 9) > 0.2

    def loss(streams: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        single = whitened_cross_correlation(streams[0], streams[1], mask[0])
        return pairwise_whitened_cross_correlation(streams, mask, [4, 3, 2]).sum() + single

    results = []
    for function in (loss, torch.compile(loss, fullgraph=True, backend="aot_eager")):
        leaf = streams.clone().requires_grad_()
        function(leaf, mask).backward()
        results.append(leaf.grad)
    torch.testing.assert_close(*results)


# ---- two processes -------------------------------------------------------------------------------------------------


def _batch() -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(7)
    return torch.randn(13, 6, generator=generator, dtype=FLOAT64), torch.rand(2, 13, generator=generator) > 0.2


def _network() -> torch.nn.Linear:
    generator = torch.Generator().manual_seed(8)
    network = torch.nn.Linear(6, 8).double()
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator, dtype=FLOAT64))
    return network


def _loss(network: torch.nn.Module, x: torch.Tensor, mask: torch.Tensor, distributed: bool = True) -> torch.Tensor:
    hidden = network(x).tanh()
    streams = torch.stack([hidden[:, :4], hidden[:, 4:]])
    pairs = pairwise_whitened_cross_correlation(streams, mask, [4, 3], distributed=distributed)
    single = whitened_cross_correlation(hidden[:, :3], hidden[:, 3:], mask[0], distributed=distributed)
    return pairs[0, 1] + 2 * pairs[1, 1] + single


def _worker(rank: int, folder: str) -> None:
    """Uneven shares: rank 0 holds 10 rows, rank 1 has 3, too few to estimate anything alone."""
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/store", rank=rank, world_size=2)
    try:
        x, mask = _batch()
        share = slice(0, 10) if rank == 0 else slice(10, 13)
        network = DistributedDataParallel(_network())
        loss = _loss(network, x[share], mask[:, share])
        loss.backward()
        gradients = [parameter.grad for parameter in network.parameters()]
        with torch.no_grad():
            alone = _loss(network.module, x[share], mask[:, share], distributed=False)
        torch.save((loss.detach(), gradients, alone), f"{folder}/{rank}.pt")
        # Straight out: with torch 2.13 DDP's reducer, freed after its gloo group, can deadlock on Python's global lock.
        os._exit(0)
    finally:
        dist.destroy_process_group()


@pytest.mark.skipif(not dist.is_available() or not dist.is_gloo_available(), reason="needs torch.distributed with gloo")
def test_two_processes_equal_one_with_the_whole_batch(tmp_path):
    """Loss and, after DistributedDataParallel's averaging, gradients."""
    mp.spawn(_worker, args=(str(tmp_path),), nprocs=2)
    (x, mask), network = _batch(), _network()
    expected = _loss(network, x, mask)
    expected.backward()
    for rank, share in ((0, slice(0, 10)), (1, slice(10, 13))):
        loss, gradients, alone = torch.load(tmp_path / f"{rank}.pt")
        torch.testing.assert_close(loss, expected.detach(), rtol=1e-10, atol=1e-12)
        for got, parameter in zip(gradients, network.parameters(), strict=True):
            torch.testing.assert_close(got, parameter.grad, rtol=1e-9, atol=1e-12)
        torch.testing.assert_close(alone, _loss(network, x[share], mask[:, share]).detach())
    assert loss.item() > 0
