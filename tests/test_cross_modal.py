"""Attention and agreement over the other modalities, against plain formulas over all pairs of tokens."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from clcr_hf import cross_modal
from clcr_hf.cross_modal import agreement, attend_to_others, others_of, product_logsumexp


def _pairs(lengths, key_lengths, mask):
    """Bool `(B, S, S')`: tokens of different modalities, the key real."""
    ids = torch.repeat_interleave(torch.arange(len(lengths)), torch.tensor(lengths))
    key_ids = torch.repeat_interleave(torch.arange(len(key_lengths)), torch.tensor(key_lengths))
    return (ids[:, None] != key_ids)[None] & mask[:, None]


@settings(max_examples=40, deadline=None)
@given(st.lists(st.integers(0, 4), min_size=1, max_size=4).filter(any), st.integers(0, 2**32 - 1))
def test_agreement_is_the_plain_formula(lengths, seed):
    torch.manual_seed(seed)
    key_lengths = [int(torch.randint(0, 4, ())) if length else length for length in lengths]
    size, other = sum(lengths), sum(key_lengths)
    if not other:
        return
    query, key = torch.randn(3, 2, size, 5), torch.randn(3, 2, other, 5)
    mask = torch.rand(3, other) > 0.3
    pairs = _pairs(lengths, key_lengths, mask)[:, None]
    expected = (query @ key.mT).masked_fill(~pairs, -torch.inf).logsumexp(-1)
    expected = torch.where(pairs.any(-1), expected, 0.0)
    found = agreement(query, key, mask, lengths, key_lengths)
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-5)


@settings(max_examples=40, deadline=None)
@given(st.lists(st.integers(0, 4), min_size=1, max_size=4).filter(any), st.integers(0, 2**32 - 1))
def test_attention_is_the_plain_formula(lengths, seed):
    torch.manual_seed(seed)
    size = sum(lengths)
    query, key, value = torch.randn(3, 3, 2, size, 5)
    mask = torch.rand(3, 1, size) > 0.3
    pairs = _pairs(lengths, lengths, mask[:, 0])[:, None]
    weights = torch.nan_to_num((query @ key.mT).masked_fill(~pairs, -torch.inf).softmax(-1))

    def attend(q, k, v, allowed):
        return (q @ k.mT).masked_fill(~allowed, -torch.inf).softmax(-1) @ v

    found, reachable = attend_to_others(query, key, value, mask, lengths, attend)
    torch.testing.assert_close(found, weights @ value, atol=1e-5, rtol=1e-5)
    assert torch.equal(reachable, pairs.any(-1))


def test_others_are_all_but_ones_own():
    tokens = torch.arange(6.0)[:, None]
    found = others_of(tokens, [1, 2, 3])
    assert [sorted(part.flatten().tolist()) for part in found] == [[1, 2, 3, 4, 5], [0, 3, 4, 5], [0, 1, 2]]


@pytest.mark.parametrize("operator", ["fused", "blocked"])
def test_gradient_of_the_log_sum_exp(operator, monkeypatch):
    torch.manual_seed(0)
    query = torch.randn(2, 3, 7, 4, dtype=torch.float64, requires_grad=True)
    key = torch.randn(2, 3, 9, 4, dtype=torch.float64, requires_grad=True)
    mask = torch.rand(2, 1, 1, 9) > 0.3
    if operator == "blocked":
        monkeypatch.setattr(cross_modal, "_FusedLogSumExp", cross_modal._BlockedLogSumExp)
        monkeypatch.setattr(cross_modal, "_BLOCK", 2 * 3 * 9 * 2)  # two queries at a time
    assert torch.autograd.gradcheck(lambda q, k: product_logsumexp(q, k, mask), (query, key))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_keeps_the_sum_in_float32(dtype):
    torch.manual_seed(0)
    query, key = torch.randn(2, 2, 50, 8), torch.randn(2, 2, 60, 8)
    mask = torch.rand(2, 1, 1, 60) > 0.3
    found = product_logsumexp(query.to(dtype), key.to(dtype), mask)
    assert found.dtype == torch.float32
    torch.testing.assert_close(found, product_logsumexp(query, key, mask), atol=0.1, rtol=0.05)
