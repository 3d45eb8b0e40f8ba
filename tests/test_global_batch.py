"""Many processes and micro-batches are one: they learn what one process learns from the whole batch."""

from typing import Any

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from ranked_runs import HEADS, QUIET, train, worker

NEEDS_GLOO = pytest.mark.skipif(
    not dist.is_available() or not dist.is_gloo_available(), reason="needs torch.distributed with gloo"
)
LABELLED = [head for head in HEADS if head != "pretraining"]


def _same(found: dict[str, Any], expected: dict[str, Any]) -> None:
    assert len(expected["steps"]) == 30 and torch.isfinite(expected["steps"]).all()
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        torch.testing.assert_close(found[name], value, rtol=1e-5, atol=1e-5, msg=lambda said, name=name: f"{name} {said}")


@NEEDS_GLOO
@pytest.mark.parametrize("world", [2, 4])
def test_processes_learn_as_one(tmp_path, world):
    """Loss, its parts, gradients, `eval_loss` and weights over 30 steps, all regularisers on."""
    heads = list(HEADS)
    runs: list[tuple[str, dict[str, Any]]] = [(head, {}) for head in heads]
    both = [(head, {"accumulation": 2, **QUIET}) for head in LABELLED] if world == 2 else []
    mp.spawn(worker, args=(world, str(tmp_path), runs + both), nprocs=world)
    found = torch.load(tmp_path / f"{world}.pt")
    for (head, options), each in zip(runs + both, found, strict=True):
        options.pop("accumulation", None)
        _same(each, train(head, str(tmp_path), **options))


@pytest.mark.parametrize("head", LABELLED)
def test_accumulated_micro_batches_learn_as_one(tmp_path, head):
    whole = train(head, str(tmp_path), **QUIET)
    for steps in (2, 4):
        _same(train(head, str(tmp_path), accumulation=steps, **QUIET), whole)
