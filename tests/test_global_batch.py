"""Many processes and micro-batches are one: they learn what one process learns from the whole batch."""

from typing import Any

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from ranked_runs import HEADS, QUIET, sharded, sharded_worker, train, worker

from clcr_hf.training import trainer, whole_batch

pytestmark = pytest.mark.starts_at_zero  # as models of the processes that are spawned
NEEDS_GLOO = pytest.mark.skipif(
    not dist.is_available() or not dist.is_gloo_available(), reason="needs torch.distributed with gloo"
)
LABELLED = [head for head in HEADS if head not in ("pretraining", "rare")]


def _same(found: dict[str, Any], expected: dict[str, Any], steps: int = 30) -> None:
    assert len(expected["steps"]) == steps and torch.isfinite(expected["steps"]).all()
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        torch.testing.assert_close(
            found[name], value, rtol=1e-5, atol=1e-5, msg=lambda said, name=name: f"{name} {said}"
        )


@pytest.mark.slow
@NEEDS_GLOO
@pytest.mark.parametrize("world", [2, 4])
def test_processes_learn_as_one(tmp_path, world):
    """Loss, its parts, gradients, `eval_loss` and weights over 30 steps, all regularisers on."""
    runs: list[tuple[str, dict[str, Any]]] = [(head, {}) for head in HEADS if head != "rare"]
    exact = {"accumulation": 2, "options": {"exact_accumulation": True}}
    both = [(head, exact) for head in HEADS if head != "rare"] if world == 2 else []
    mp.spawn(worker, args=(world, str(tmp_path), runs + both), nprocs=world)
    found = torch.load(tmp_path / f"{world}.pt")
    for (head, _), each in zip(runs + both, found, strict=True):
        _same(each, train(head, str(tmp_path)))


@pytest.mark.parametrize("head", LABELLED)
def test_accumulated_micro_batches_learn_as_one(tmp_path, head):
    _same(train(head, str(tmp_path), accumulation=4, **QUIET), train(head, str(tmp_path), **QUIET))


@pytest.mark.parametrize("head", [head for head in HEADS if head != "rare"])
def test_micro_batches_learn_as_one_with_all_regularisers(tmp_path, head):
    whole = train(head, str(tmp_path))
    for steps in (2, 4):
        _same(train(head, str(tmp_path), accumulation=steps, options={"exact_accumulation": True}), whole)


def test_without_it_they_do_not(tmp_path):
    whole, parts = (train("one class", str(tmp_path), accumulation=steps) for steps in (1, 4))
    with pytest.raises(AssertionError):
        _same(parts, whole)


def test_the_second_pass_draws_what_the_first_drew(tmp_path, monkeypatch):
    """Dropout and modality dropout: a gradient gathered for other numbers than are learned from would be wrong."""
    drawn: list[list[torch.Tensor]] = [[], []]

    class Watched(whole_batch.WholeBatch):
        def _note_correlated(self, *given):
            drawn[0].append(given[1].detach())
            return super()._note_correlated(*given)

        def _answer_with(self, correlate, align):
            super()._answer_with(correlate, align)
            if correlate == self._note_correlated:
                return

            def watched(config, shared, *rest):
                drawn[1].append(shared.detach())
                return correlate(config, shared, *rest)

            vars(self.model)["correlate"] = watched

    monkeypatch.setattr(trainer, "WholeBatch", Watched)
    train("rare", str(tmp_path), 1, 2, {"exact_accumulation": True}, dropout=0.3, modality_dropout=0.3)
    assert len(drawn[0]) == len(drawn[1]) >= 30
    for first, second in zip(*drawn, strict=True):
        assert torch.equal(first, second)


@pytest.mark.slow
@NEEDS_GLOO
def test_a_modality_that_one_process_lacks_keeps_no_other_waiting(tmp_path):
    """With DistributedDataParallel, and with gradient checkpointing or `torch.compile` beside it."""
    ways: list[dict[str, Any]] = [
        {},
        {"gradient_checkpointing": True},
        {"torch_compile": True, "torch_compile_backend": "eager", "num_train_epochs": 1},
    ]
    mp.spawn(worker, args=(2, str(tmp_path), [("rare", {"options": way}) for way in ways]), nprocs=2)
    for way, found in zip(ways, torch.load(tmp_path / "2.pt"), strict=True):
        plain = {name: value for name, value in way.items() if name == "num_train_epochs"}
        _same(found, train("rare", str(tmp_path), options=plain), steps=3 if plain else 30)


@NEEDS_GLOO
def test_sharded_weights_learn_alike(tmp_path):
    """FSDP2 on CPUs, the model as one and by parts: where one process lacks a modality, and the alignment stage."""
    heads = ["rare", "pretraining"]
    mp.spawn(sharded_worker, args=(2, str(tmp_path), heads), nprocs=2)
    found = torch.load(tmp_path / "sharded.pt")
    for head in heads:
        expected = sharded(0, 1, head, whole=True)
        assert expected["losses"][1] < expected["losses"][0]
        for each in found[head]:
            torch.testing.assert_close(each, expected, rtol=1e-5, atol=1e-6)
