"""What is done for speed gives what the plain way gives: short convolutions, agreement compiled and in bfloat16."""

import copy

import pytest
import torch
from model_utils import batch, feature_config

from clcr_hf import CLCRForSequenceClassification
from clcr_hf.cross_modal import product_logsumexp
from clcr_hf.hierarchy import DilatedConv1d

AGREEMENT = {"evidence": "agreement", "alignment_coef": 0.1, "dropout": 0.0}


@pytest.mark.parametrize("steps", [1, 50, 200])  # 200: past what torch loops over
@pytest.mark.parametrize("dilation", [1, 4, 32])
def test_a_convolution_of_few_tokens_is_torchs(dilation, steps):
    torch.manual_seed(0)
    conv = DilatedConv1d(128, 128, 3, padding=dilation, dilation=dilation).double()
    inputs = torch.randn(1, 128, steps, dtype=torch.float64, requires_grad=True)
    expected, found = torch.nn.Conv1d.forward(conv, inputs), conv(inputs)
    with torch.no_grad():
        torch.testing.assert_close(conv(inputs), expected)
    torch.testing.assert_close(found, expected)
    grad, of = torch.randn_like(expected), (inputs, conv.weight, conv.bias)
    torch.testing.assert_close(torch.autograd.grad(found, of, grad), torch.autograd.grad(expected, of, grad))


@pytest.mark.parametrize("size", [0.0, 1e-30, 1.0])
def test_gradient_of_the_log_sum_exp_by_masked_and_far_keys(size):
    """Keys that are masked may fit far better than all others; gradients may be 0, tiny and of either sign."""
    torch.manual_seed(0)
    query, key = torch.randn(2, 3, 7, 4, requires_grad=True), torch.randn(2, 3, 9, 4) * 30
    mask = torch.arange(9).expand(2, 1, 1, 9) < 5
    key = (key * torch.where(mask[..., 0, :, None], 1, 20)).requires_grad_()
    grad = size * torch.randn(2, 3, 7) * torch.tensor([1.0, 0, 1, 1, 0, 1, 1])
    scores = (query.double() @ key.double().mT).masked_fill(~mask, -torch.inf)
    expected = torch.autograd.grad(scores.logsumexp(-1), (query, key), grad.double())
    found = torch.autograd.grad(product_logsumexp(query, key, mask), (query, key), grad)
    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(one, other, atol=1e-4 * size, rtol=1e-4)


def _step(model, inputs, **autocast):
    """Logits and gradients of one step, the gradients as one vector."""
    with torch.autocast("cpu", dtype=torch.bfloat16, **autocast):
        out = model(**inputs)
    out.loss.backward()
    parameters = dict(model.named_parameters())
    assert all(each.grad is not None and each.grad.isfinite().all() for each in parameters.values())
    return out.logits.detach().float(), torch.cat([each.grad.flatten() for each in parameters.values()])


def _agreeing():
    torch.manual_seed(0)
    model = CLCRForSequenceClassification(feature_config(**AGREEMENT)).train()
    return model, copy.deepcopy(model), batch(text=False)


def test_agreement_compiles():
    model, twin, inputs = _agreeing()
    expected = _step(twin, inputs, enabled=False)
    found = _step(torch.compile(model, backend="aot_eager"), inputs, enabled=False)
    torch.testing.assert_close(found[0], expected[0], atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(found[1], expected[1], atol=1e-5, rtol=1e-3)


def test_agreement_in_bfloat16_is_near_float32():
    model, twin, inputs = _agreeing()
    logits, grads = _step(twin, inputs, enabled=False)
    half_logits, half_grads = _step(model, inputs)
    torch.testing.assert_close(half_logits, logits, atol=0.05, rtol=0.05)
    assert (half_grads - grads).norm() < 0.05 * grads.norm()
