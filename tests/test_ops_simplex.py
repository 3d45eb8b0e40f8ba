"""Projection onto the capped simplex: against independent solvers, and its derivative."""

import math

import numpy as np
import pytest
import scipy.optimize
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from clcr_hf import ops
from clcr_hf.ops import project_capped_simplex

CLOSE = {torch.float32: 1e-6, torch.float64: 1e-12}


@pytest.fixture(params=["bisection", "sorting", "sorting of breaks"])
def algorithm(request, monkeypatch):
    """All ways to the threshold; a CPU would else never take those of accelerators and of exported graphs."""
    if request.param != "bisection":
        monkeypatch.setattr(ops, "_bisect", ops._sort if request.param == "sorting" else ops._sort_breaks)
    return request.param


def reference(scores: torch.Tensor, budget: float) -> np.ndarray:
    """One row by bisection on the threshold in extended precision."""
    z = scores.detach().numpy().astype(np.longdouble)
    if np.clip(z, 0, 1).sum() <= budget:
        return np.clip(z, 0, 1).astype(np.float64)
    low, high = np.longdouble(0), z.max()
    for _ in range(80):
        middle = (low + high) / 2
        low, high = (middle, high) if np.clip(z - middle, 0, 1).sum() > budget else (low, middle)
    return np.clip(z - high, 0, 1).astype(np.float64)


def assert_projection(scores: torch.Tensor, budget: float, tolerance: float) -> None:
    got = project_capped_simplex(scores, budget)
    assert got.dtype == scores.dtype
    np.testing.assert_allclose(got.detach().numpy(), reference(scores, budget), rtol=0, atol=tolerance)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("size", [1, 2, 5, 64, 1000, 100_000])
def test_equals_the_reference_at_every_length(size, dtype, algorithm):
    torch.manual_seed(size)
    for scale in (1.0,) if size > 1000 else (0.1, 1.0, 20.0):
        for budget in (1.0, 0.3 * size) if size > 1000 else (0.3, 1.0, 0.68 * size, size - 0.5):
            assert_projection(torch.randn(size, dtype=dtype) * scale, budget, CLOSE[dtype])


@settings(max_examples=120, deadline=None)
@given(st.lists(st.integers(-8, 12), min_size=1, max_size=12), st.integers(0, 40), st.sampled_from([0.25, 0.5, 0.1]))
def test_equals_the_reference_with_ties_and_kinks(values, budget, step):
    """A coarse grid of scores and budgets: many ties, whole-number gaps, scores exactly on the kinks."""
    scores = torch.tensor(values, dtype=torch.float64) * step
    assert_projection(scores, budget * step, 1e-12)
    assert_projection(scores.float(), budget * step, 1e-6)


@settings(max_examples=80, deadline=None)
@given(st.lists(st.integers(-8, 12), min_size=1, max_size=12), st.integers(0, 40))
def test_all_algorithms_agree(values, budget):
    real, level = torch.tensor([values], dtype=torch.float64) / 4, torch.tensor([budget / 4.0], dtype=torch.float64)
    if real.clamp(0, 1).sum() <= level:
        return
    results = []
    for algorithm in (ops._bisect, ops._sort, ops._sort_breaks):
        shifted, tau = algorithm(real, level)
        results.append((shifted - ops._polish(shifted, tau, level)).clamp(0, 1))
    for other in results[1:]:
        torch.testing.assert_close(other, results[0], rtol=0, atol=1e-12)


@pytest.mark.parametrize("seed", range(5))
def test_solves_the_quadratic_programme(seed, algorithm):
    """Against a general solver that knows nothing of thresholds."""
    generator = np.random.default_rng(seed)
    z, budget = generator.normal(0.6, 0.7, 9), generator.uniform(0.5, 5)
    solution = scipy.optimize.minimize(
        lambda a: 0.5 * ((a - z) ** 2).sum(),
        np.full(9, 0.01),
        jac=lambda a: a - z,
        bounds=[(0, 1)] * 9,
        constraints={"type": "ineq", "fun": lambda a: budget - a.sum(), "jac": lambda a: -np.ones(9)},
        method="SLSQP",
        options={"ftol": 1e-15, "maxiter": 500},
    )
    got = project_capped_simplex(torch.tensor(z), budget).numpy()
    np.testing.assert_allclose(got, solution.x, atol=1e-7)


@settings(max_examples=80, deadline=None)
@given(st.integers(0, 2**31), st.integers(1, 40), st.floats(-2, 50))
def test_result_is_feasible_and_optimal(seed, size, budget):
    """The conditions of optimality: in the set, and no closer point along any feasible direction."""
    generator = torch.Generator().manual_seed(seed)
    z = torch.randn(3, size, generator=generator, dtype=torch.float64) * 2
    a = project_capped_simplex(z, budget)
    assert bool(((a >= 0) & (a <= 1)).all()) and bool((a.sum(-1) <= max(budget, 0) + 1e-9).all())
    vertices = torch.rand(50, 1, size, generator=generator, dtype=torch.float64)
    scale = (max(budget, 0) / vertices.sum(-1, keepdim=True)).clamp(max=1)
    assert bool((((z - a) * (vertices * scale - a)).sum(-1) <= 1e-9).all())
    torch.testing.assert_close(project_capped_simplex(a, budget), a, rtol=0, atol=1e-12)


def test_limits_of_the_budget(algorithm):
    z = torch.tensor([[0.4, 2.0, -1.0, 0.9]], requires_grad=True)
    for budget in (0.0, -3.0, -math.inf):
        assert project_capped_simplex(z, budget).tolist() == [[0.0] * 4]
    for budget in (2.3001, 4.0, 9.0, math.inf):
        torch.testing.assert_close(project_capped_simplex(z, budget), z.clamp(0, 1))
    assert project_capped_simplex(z, math.nan).isnan().all()
    level = torch.tensor([-1.0], requires_grad=True)
    project_capped_simplex(z, level).sum().backward()
    assert level.grad.tolist() == [0.0] and z.grad.tolist() == [[0.0] * 4]


def test_infinite_and_enormous_scores(algorithm):
    inf = math.inf
    z = torch.tensor([[inf, inf, 0.5, -inf], [1e30, 1e30, 0.5, 3e30], [1e8, 1e8 + 8, 0.5, 1e8]])
    expected = torch.tensor([[0.75, 0.75, 0, 0], [0.25, 0.25, 0, 1], [0.25, 1, 0, 0.25]])
    torch.testing.assert_close(project_capped_simplex(z, 1.5), expected)
    small = torch.tensor([[inf, 0.5, 0.4, -inf]])
    torch.testing.assert_close(project_capped_simplex(small, 1.3), torch.tensor([[1.0, 0.2, 0.1, 0.0]]))
    torch.testing.assert_close(project_capped_simplex(torch.tensor([-inf, -inf]), 1.0), torch.zeros(2))


def test_nan_stays_in_its_row_and_masked_nan_is_ignored():
    z = torch.tensor([[math.nan, 0.5, 0.9], [0.2, 0.5, 0.9], [math.nan, 0.5, 0.9]], requires_grad=True)
    mask = torch.tensor([[True, True, False], [True, True, True], [False, True, True]])
    got = project_capped_simplex(z, 1.0, mask)
    assert got.isnan().tolist() == [[True, True, False], [False] * 3, [False] * 3]
    torch.testing.assert_close(got[2], torch.tensor([0.0, 0.3, 0.7]))
    got.sum().backward()
    assert z.grad.isfinite().all()


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 2**31), st.integers(1, 12), st.integers(0, 12), st.floats(0, 8))
def test_padding_changes_nothing(seed, size, padding, budget):
    generator = torch.Generator().manual_seed(seed)
    z = torch.randn(4, size, generator=generator)
    longer = torch.cat([z, torch.randn(4, padding, generator=generator) * 100], dim=-1).requires_grad_()
    mask = (torch.arange(size + padding) < size).expand(4, -1)
    got = project_capped_simplex(longer, budget, mask)
    torch.testing.assert_close(got[:, :size], project_capped_simplex(z, budget), rtol=0, atol=1e-6)
    assert bool((got[:, size:] == 0).all())
    got.square().sum().backward()
    assert bool((longer.grad[:, size:] == 0).all())


def test_masked_rows_and_empty_shapes():
    z = torch.randn(2, 3, requires_grad=True)
    got = project_capped_simplex(z, 1.0, torch.tensor([[False] * 3, [True] * 3]))
    assert got[0].tolist() == [0, 0, 0]
    got.sum().backward()
    assert z.grad[0].tolist() == [0, 0, 0]
    assert project_capped_simplex(torch.randn(4, 0), 1.0).shape == (4, 0)
    assert project_capped_simplex(torch.randn(0, 4), 1.0).shape == (0, 4)


def test_budget_broadcasts_over_rows():
    z, budget = torch.rand(2, 3, 5), torch.tensor([[0.5], [2.0]], requires_grad=True)
    got = project_capped_simplex(z, budget)
    for row in range(2):
        torch.testing.assert_close(got[row], project_capped_simplex(z[row], budget[row].item()))
    got.square().sum().backward()
    assert budget.grad.shape == budget.shape and bool((budget.grad > 0).all())


@pytest.mark.parametrize(
    ("scores", "budget", "mask", "error"),
    [
        (torch.ones(3, dtype=torch.long), 1.0, None, TypeError),
        (torch.ones(()), 1.0, None, ValueError),
        (torch.ones(2, 3), torch.ones(3), None, ValueError),
        (torch.ones(2, 3), torch.ones(1, 2, 1), None, ValueError),
        (torch.ones(2, 3), 1.0, torch.ones(2, 2, dtype=torch.bool), ValueError),
        (torch.ones(2, 3), 1.0, torch.ones(2, 3), TypeError),
    ],
)
def test_wrong_arguments_are_refused(scores, budget, mask, error):
    with pytest.raises(error, match=r"scores|budget|mask"):
        project_capped_simplex(scores, budget, mask)


def test_gradcheck_of_scores_and_budget(algorithm):
    torch.manual_seed(3)
    z = torch.randn(6, 7, dtype=torch.float64, requires_grad=True)
    budget = torch.tensor([0.3, 0.9, 1.7, 2.4, 3.3, 50.0], dtype=torch.float64, requires_grad=True)
    mask = torch.rand(6, 7) > 0.2
    assert torch.autograd.gradcheck(lambda z, b: project_capped_simplex(z, b, mask), (z, budget))
    assert torch.autograd.gradgradcheck(lambda z, b: project_capped_simplex(z, b, mask), (z, budget))


def test_derivative_is_the_formula_of_the_paper():
    z = torch.tensor([[0.4, 0.8, 1.9, -0.5]] * 2, dtype=torch.float64, requires_grad=True)
    budget = torch.tensor([1.6, 9.0], dtype=torch.float64, requires_grad=True)
    upstream = torch.tensor([[1.0, 2.0, 4.0, 8.0]] * 2, dtype=torch.float64)
    got = project_capped_simplex(z, budget)  # the first row binds, the second is slack
    expected = torch.tensor([[0.1, 0.5, 1.0, 0.0], [0.4, 0.8, 1.0, 0.0]], dtype=torch.float64)
    torch.testing.assert_close(got, expected)
    got.backward(upstream)
    assert z.grad.tolist() == [[-0.5, 0.5, 0, 0], [1, 2, 0, 0]]
    assert budget.grad.tolist() == [1.5, 0.0]


def test_budget_derivative_on_long_rows():
    """dB is shared by the free tokens, so the total moves one for one."""
    torch.manual_seed(0)
    budget = torch.tensor([20_000.0], requires_grad=True)
    got = project_capped_simplex(torch.rand(1, 100_000), budget)
    assert got.double().sum().item() == pytest.approx(20_000, rel=1e-6)
    got.sum().backward()
    assert budget.grad.item() == pytest.approx(1.0, rel=1e-4)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_is_computed_in_float32(dtype):
    torch.manual_seed(0)
    z = torch.rand(4, 300).to(dtype).requires_grad_()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        got = project_capped_simplex(z, 51.7)
    assert got.dtype == dtype
    torch.testing.assert_close(got, project_capped_simplex(z.detach().float(), 51.7).to(dtype), rtol=0, atol=0)
    got.float().square().sum().backward()
    assert z.grad.dtype == dtype and z.grad.isfinite().all()


def test_compiles_to_one_graph_forward_and_backward():
    torch.manual_seed(0)
    z, budget = torch.rand(3, 11), torch.tensor([0.5, 3.0, 40.0])
    mask = torch.rand(3, 11) > 0.3
    results = []
    compiled = torch.compile(project_capped_simplex, fullgraph=True, backend="aot_eager")
    for function in (project_capped_simplex, compiled):
        leaves = z.clone().requires_grad_(), budget.clone().requires_grad_()
        got = function(*leaves, mask)
        got.square().sum().backward()
        results.append([got.detach(), *(leaf.grad for leaf in leaves)])
    for eager, traced in zip(*results, strict=True):
        torch.testing.assert_close(traced, eager)


def test_vmap_equals_batching():
    z, budget = torch.rand(5, 2, 9), torch.rand(5, 2) * 4
    mask = torch.rand(5, 2, 9) > 0.2
    torch.testing.assert_close(
        torch.func.vmap(project_capped_simplex)(z, budget, mask), project_capped_simplex(z, budget, mask)
    )


def test_runs_on_meta_tensors():
    assert project_capped_simplex(torch.empty(2, 5, device="meta"), 1.0).shape == (2, 5)
