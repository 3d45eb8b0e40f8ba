"""Shared and private bases: orthonormal whatever the raw values, safe to train, save and copy."""

import copy
import io
import pickle

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from clcr_hf.ops import init_orthonormal, orthonormal_bases


def error(shared: torch.Tensor, private: torch.Tensor) -> float:
    """Largest deviation of ``[U_sh | U_pr_m]^T [U_sh | U_pr_m]`` from the identity."""
    modalities = private.shape[-3]
    wide = shared.unsqueeze(-3).expand(*shared.shape[:-2], modalities, *shared.shape[-2:])
    joint = torch.cat([wide, private], dim=-1).double()
    gram = joint.mT @ joint
    return (gram - torch.eye(gram.shape[-1], dtype=gram.dtype)).abs().max().item()


def direct(raw_shared: torch.Tensor, raw_private: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """The definition, by torch's QR of ``[shared | private_m]``."""
    modalities, rank = raw_private.shape[-3], raw_shared.shape[-1]
    wide = raw_shared.unsqueeze(-3).expand(*raw_shared.shape[:-2], modalities, *raw_shared.shape[-2:])
    basis, upper = torch.linalg.qr(torch.cat([wide, raw_private], dim=-1))
    signs = torch.where(upper.diagonal(dim1=-2, dim2=-1) < 0, -1.0, 1.0)
    basis = basis * signs.unsqueeze(-2)
    return basis[..., 0, :, :rank], basis[..., rank:]


@settings(max_examples=40, deadline=None)
@given(st.data())
def test_is_the_qr_of_shared_and_private_with_its_gradient(data):
    width = data.draw(st.integers(2, 9))
    rank = data.draw(st.integers(1, width - 1))
    private_rank = data.draw(st.integers(1, width - rank))
    lead = data.draw(st.sampled_from([(), (2,), (2, 3)]))
    generator = torch.Generator().manual_seed(data.draw(st.integers(0, 2**31)))
    shapes = (*lead, width, rank), (*lead, data.draw(st.integers(1, 3)), width, private_rank)
    raw = [torch.randn(shape, generator=generator, dtype=torch.float64) for shape in shapes]
    weights = [torch.randn(shape, generator=generator, dtype=torch.float64) for shape in shapes]
    results = []
    for function in (orthonormal_bases, direct):
        leaves = [part.clone().requires_grad_() for part in raw]
        bases = function(*leaves)
        sum((base * weight).sum() for base, weight in zip(bases, weights, strict=True)).backward()
        results.append([*(base.detach() for base in bases), *(leaf.grad for leaf in leaves)])
    for ours, theirs in zip(*results, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-6, atol=1e-8)
    assert error(*results[0][:2]) < 1e-12


def test_gradcheck():
    torch.manual_seed(0)
    shared = torch.randn(2, 5, 2, dtype=torch.float64, requires_grad=True)
    private = torch.randn(2, 2, 5, 3, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(orthonormal_bases, (shared, private))


def hard_cases() -> dict[str, tuple[torch.Tensor, torch.Tensor]]:
    generator = torch.Generator().manual_seed(0)
    shared, private = torch.randn(16, 8, generator=generator), torch.randn(3, 16, 8, generator=generator)
    scales = torch.logspace(0, -12, 8)
    chain = torch.eye(16, 8) * 1e-3 + torch.eye(17, 8)[1:]  # each column nearly in the span of those before it
    return {
        "zeros": (torch.zeros(16, 8), torch.zeros(3, 16, 8)),
        "ones": (torch.ones(16, 8), torch.ones(3, 16, 8)),
        "private equals shared": (shared, shared.expand(3, -1, -1)),
        "private almost shared": (shared, shared + 1e-6 * private),
        "scaled columns": (shared * scales, private * scales),
        "ill-conditioned": (shared @ torch.diag(scales) @ torch.randn(8, 8, generator=generator), private),
        "huge": (shared * 1e30, private * 1e30),
        "tiny": (shared * 1e-30, private * 1e-30),
        "denormal": (shared * 1e-42, private * 1e-42),
        "chain": (chain, chain.flip(0).expand(3, -1, -1)),
        "one zero column": (torch.cat([shared[:, :7], torch.zeros(16, 1)], -1), private),
    }


@pytest.mark.parametrize("name", hard_cases())
def test_stays_orthonormal_with_finite_gradients_on_hard_cases(name):
    shared, private = (part.clone().requires_grad_() for part in hard_cases()[name])
    bases = orthonormal_bases(shared, private)
    assert error(*(base.detach() for base in bases)) < 1e-5
    weights = torch.randn(16, 8, generator=torch.Generator().manual_seed(1))
    ((bases[0] * weights).sum() + (bases[1] * weights).sum()).backward()
    assert shared.grad.isfinite().all() and private.grad.isfinite().all()


def test_column_scale_and_cross_talk_do_not_matter():
    """Positive rescaling of raw columns, or adding shared columns to private ones, leaves the bases alone."""
    torch.manual_seed(0)
    shared, private = torch.randn(12, 5), torch.randn(2, 12, 4)
    expected = orthonormal_bases(shared, private)
    moved = orthonormal_bases(shared * torch.rand(5).add(0.1), private * 7 + shared @ torch.randn(5, 4))
    for ours, theirs in zip(moved, expected, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-5)


@pytest.mark.parametrize("optimiser", [torch.optim.SGD, torch.optim.Adam])
def test_stays_orthonormal_over_a_thousand_steps(optimiser):
    torch.manual_seed(0)
    raw = [torch.nn.Parameter(part) for part in init_orthonormal(torch.empty(12, 6), torch.empty(2, 12, 6))]
    optimizer = optimiser(raw, lr=0.1)
    target = torch.randn(12, 12)
    worst = 0.0
    for step in range(1000):
        shared, private = orthonormal_bases(*raw)
        optimizer.zero_grad()
        loss = (shared.mT @ target @ shared).square().sum() + (private.mT @ target @ private)[..., 0].sum()
        loss.backward()
        optimizer.step()
        if step % 5 == 4:
            worst = max(worst, error(shared.detach(), private.detach()))
    assert worst < 1e-5
    assert all(part.isfinite().all() for part in raw)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_weights_and_autocast_give_float32_bases(dtype):
    torch.manual_seed(0)
    raw = [torch.randn(10, 4).to(dtype).requires_grad_(), torch.randn(2, 10, 4).to(dtype).requires_grad_()]
    with torch.autocast("cpu", dtype=torch.bfloat16):
        bases = orthonormal_bases(*raw)
        sum(base[..., 0].sum() for base in bases).backward()
    assert all(base.dtype == torch.float32 for base in bases) and error(*(base.detach() for base in bases)) < 1e-5
    assert all(part.grad.dtype == dtype and part.grad.isfinite().all() for part in raw)


def test_float64_stays_float64():
    bases = orthonormal_bases(torch.randn(6, 2, dtype=torch.float64), torch.randn(2, 6, 2))
    assert all(base.dtype == torch.float64 for base in bases)


def test_reduced_matmul_precision_does_not_reach_the_bases():
    before = torch.get_float32_matmul_precision()
    try:
        torch.set_float32_matmul_precision("medium")
        torch.manual_seed(0)
        assert error(*orthonormal_bases(torch.randn(64, 32), torch.randn(3, 64, 32))) < 1e-5
    finally:
        torch.set_float32_matmul_precision(before)


@pytest.mark.parametrize(
    ("modalities", "rank", "private_rank"), [(0, 3, 2), (2, 3, 0), (0, 3, 0), (2, 0, 3), (1, 5, 0)]
)
def test_empty_parts(modalities, rank, private_rank):
    raw = torch.randn(2, 5, rank, requires_grad=True), torch.randn(2, modalities, 5, private_rank, requires_grad=True)
    shared, private = orthonormal_bases(*raw)
    assert shared.shape == raw[0].shape and private.shape == raw[1].shape
    (shared.sum() + private.sum()).backward()
    assert raw[0].grad.isfinite().all() and raw[1].grad.shape == raw[1].shape
    torch.testing.assert_close((shared.mT @ shared).detach(), torch.eye(rank).expand(2, rank, rank), atol=1e-5, rtol=0)


@pytest.mark.parametrize(
    ("shared", "private", "message"),
    [
        ((5, 3), (2, 5, 3), "do not fit"),
        ((5, 3), (5, 2), "must be"),
        ((5, 3), (2, 6, 2), "differ"),
        ((2, 5, 3), (3, 2, 5, 2), "differ"),
    ],
)
def test_wrong_shapes_are_refused(shared, private, message):
    with pytest.raises(ValueError, match=message):
        orthonormal_bases(torch.randn(shared), torch.randn(private))
    with pytest.raises(ValueError, match=message):
        init_orthonormal(torch.randn(shared), torch.randn(private))


def test_start_values_are_their_own_bases_and_follow_the_seed():
    empty = torch.empty(3, 12, 6, dtype=torch.bfloat16), torch.empty(3, 2, 12, 6)
    torch.manual_seed(5)
    first = init_orthonormal(*empty)
    torch.manual_seed(5)
    again = init_orthonormal(*empty)
    assert all(torch.equal(a, b) for a, b in zip(first, again, strict=True))
    assert [part.dtype for part in first] == [torch.bfloat16, torch.float32]
    other = init_orthonormal(*empty)
    assert not torch.equal(first[0], other[0])
    shared, private = init_orthonormal(*(part.float() for part in empty))
    for ours, theirs in zip(orthonormal_bases(shared, private), (shared, private), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-5)


class Subspaces(torch.nn.Module):
    """The least module around the operator."""

    def __init__(self) -> None:
        super().__init__()
        self.shared = torch.nn.Parameter(torch.empty(8, 4))
        self.private = torch.nn.Parameter(torch.empty(2, 8, 4))

    def reset(self) -> "Subspaces":
        with torch.no_grad():
            for parameter, start in zip(self.parameters(), init_orthonormal(*self.parameters()), strict=True):
                parameter.copy_(start)
        return self

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        shared, private = orthonormal_bases(self.shared, self.private)
        return x @ shared + (x @ private).sum(0)


def test_module_survives_copy_pickle_saving_and_meta():
    module, x = Subspaces().reset(), torch.randn(5, 8)
    module(x).sum().backward()
    expected = module(x).detach()
    assert torch.equal(copy.deepcopy(module)(x), expected)
    assert torch.equal(pickle.loads(pickle.dumps(module))(x), expected)
    buffer = io.BytesIO()
    torch.save(module.state_dict(), buffer)
    buffer.seek(0)
    with torch.device("meta"):
        empty = Subspaces().reset()
        assert empty(torch.empty(5, 8)).shape == (5, 4)
    empty.to_empty(device="cpu").load_state_dict(torch.load(buffer))
    assert torch.equal(empty(x), expected)
    half = copy.deepcopy(module).bfloat16()
    assert (half(x) - expected).abs().max() < 0.2


def test_compiles_to_one_graph_forward_and_backward():
    torch.manual_seed(0)
    module, x = Subspaces().reset(), torch.randn(5, 8)
    compiled = torch.compile(copy.deepcopy(module), fullgraph=True, backend="aot_eager")
    for each in (module, compiled):
        each(x).square()[:, 0].sum().backward()
    torch.testing.assert_close(compiled(x), module(x))
    for ours, theirs in zip(compiled.parameters(), module.parameters(), strict=True):
        torch.testing.assert_close(ours.grad, theirs.grad)


def test_exports():
    module, x = Subspaces().reset().eval(), torch.randn(5, 8)
    with torch.no_grad():
        program = torch.export.export(module, (x,))
    torch.testing.assert_close(program.module()(x), module(x))


def test_second_derivative_is_refused_not_wrong():
    raw = torch.randn(6, 2, requires_grad=True), torch.randn(1, 6, 2, requires_grad=True)
    loss = orthonormal_bases(*raw)[0][..., 0].pow(3).sum()
    (gradient,) = torch.autograd.grad(loss, raw[:1], create_graph=True)
    with pytest.raises(RuntimeError, match="differentiate twice"):
        gradient.sum().backward()
