"""What is estimated over all rows of an optimiser's step, where micro-batches share it (`exact_accumulation`): the
regularisers' correlations and the alignment loss.

Gradient caching (Gao et al. 2021): all micro-batches pass the model without gradients, and what they say is gathered;
its loss and gradient are those of the whole batch; then each micro-batch passes again, and hands its share of that
gradient on to the weights.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from itertools import pairwise
from typing import Any

import torch
from torch import nn

from ..alignment import alignment_loss, same_lengths
from ..objective import CORRELATED, correlations

Parts = dict[str, torch.Tensor]


class WholeBatch:
    """
    Takes the place of `correlate` and `align_tokens` in a model.

    Args:
        model: one of CLCR's with a loss, unwrapped.
    """

    def __init__(self, model: nn.Module) -> None:
        self.model: Any = model
        self._seen: list[dict[str, Any]] = []
        self._shares: Iterator[dict[str, Parts]] = iter(())

    def gather(
        self, model: nn.Module, batches: Sequence[Mapping[str, Any]], context: Callable[[], AbstractContextManager]
    ) -> None:
        """
        The first passes; those that follow draw the same random numbers, and must come in the same order.

        Args:
            model: as it is called, wrapped. batches: those of this process. context: in which the loss is computed.
        """
        device = next(iter(batches[0].values())).device
        self._seen = []
        with torch.random.fork_rng([device] if device.type == "cuda" else []), torch.no_grad():
            for batch in batches:
                self._seen.append({})
                self._answer_with(self._note_correlated, self._note_aligned)
                with context():
                    model(**batch)
        shares = [dict(each) for each in self._seen]
        for name, of_whole in (("correlated", _correlated), ("aligned", _aligned)):
            if all(name in each for each in self._seen):
                for share, found in zip(shares, of_whole([each[name] for each in self._seen]), strict=True):
                    share[name] = found
        self._shares, self._seen = iter(shares), []

    def prepare(self) -> None:
        """Before the second pass of each micro-batch."""
        share = next(self._shares)
        self._answer_with(
            lambda config, shared, private, *_: _handed_on(share["correlated"], [shared, private]),
            lambda coordinates, scale, *_, **__: _handed_on(share["aligned"], [coordinates, scale])["alignment"],
        )

    def release(self) -> None:
        """The model's own functions again."""
        for holder, name in ((self.model, "correlate"), (self.model.base_model, "align_tokens")):
            vars(holder).pop(name, None)

    def _answer_with(self, correlate: Callable[..., Any], align: Callable[..., Any]) -> None:
        vars(self.model)["correlate"], vars(self.model.base_model)["align_tokens"] = correlate, align

    def _note_correlated(self, *given: Any) -> Parts:
        self._seen[-1]["correlated"] = given
        return dict.fromkeys(CORRELATED, given[1].new_zeros(()))

    def _note_aligned(self, *given: Any, **options: Any) -> torch.Tensor:
        self._seen[-1]["aligned"] = (*given, options)
        return given[0].new_zeros(())


def _correlated(seen: Sequence[tuple[Any, ...]]) -> list[Parts]:
    """Of each micro-batch its share of the correlations of all of them; `seen`: what each gave [`correlations`]."""
    config, _, _, _, sync = seen[0]
    shared, private = ([each[at].detach().requires_grad_() for each in seen] for at in (1, 2))
    present = torch.cat([each[3] for each in seen])
    found = correlations(config, torch.cat(shared), torch.cat(private), present, sync)
    return _shares(found, list(zip(shared, private, strict=True)))


def _aligned(seen: Sequence[tuple[Any, ...]]) -> list[Parts]:
    """As [`_correlated`], of the alignment loss."""
    coordinates, scales = ([each[at].detach().requires_grad_() for each in seen] for at in (0, 1))
    *_, negatives, options = seen[0]
    everyone, lengths = same_lengths(coordinates, [each[3] for each in seen])
    membership, _ = same_lengths([each[2].to(coordinates[0].dtype) for each in seen], [each[3] for each in seen])
    scale = torch.stack(scales).mean(dim=0)  # all are the same
    loss = alignment_loss(torch.cat(everyone), scale, torch.cat(membership) > 0, lengths, negatives, **options)
    return _shares({"alignment": loss}, list(zip(coordinates, scales, strict=True)))


def _shares(found: Parts, leaves: Sequence[tuple[torch.Tensor, ...]]) -> list[dict[str, Any]]:
    """Of each micro-batch, for each part of the loss: its value, and its gradient by what the micro-batch gave, times
    the number of micro-batches, over whose losses a mean is taken."""
    flat = [leaf for each in leaves for leaf in each]
    ends = range(0, len(flat) + 1, len(leaves[0]))
    shares: list[dict[str, Any]] = [{} for _ in leaves]
    for name, value in found.items():
        grads: Sequence[Any] = [None] * len(flat)
        if value.requires_grad:
            grads = torch.autograd.grad(value, flat, retain_graph=True, allow_unused=True)
        grads = [None if grad is None else len(leaves) * grad for grad in grads]
        for share, (start, end) in zip(shares, pairwise(ends), strict=True):
            share[name] = (value.detach(), grads[start:end])
    return shares


def _handed_on(share: Mapping[str, Any], live: Sequence[torch.Tensor]) -> Parts:
    """The parts of the loss by their values, with these gradients by `live`."""
    return {name: _HandOn.apply(value, list(grads), *live) for name, (value, grads) in share.items()}


class _HandOn(torch.autograd.Function):
    """A number whose gradients are known."""

    @staticmethod
    def forward(ctx: Any, value: torch.Tensor, grads: list[torch.Tensor | None], *live: torch.Tensor) -> torch.Tensor:
        ctx.grads = grads
        return value.clone()

    @staticmethod
    def backward(ctx: Any, grad: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        return None, None, *(None if each is None else grad * each for each in ctx.grads)


__all__ = ["WholeBatch"]
