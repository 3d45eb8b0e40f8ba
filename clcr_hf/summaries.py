"""Summaries of tokens: means of each modality and segment, and what an output tells of tokens and budgets."""

import torch

from .configuration_clcr import CLCRConfig
from .hierarchy import HierarchyTokens
from .intraced import ExchangeOutput


def mean_summaries(
    encoded: HierarchyTokens, exchanged: ExchangeOutput, groups: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor | None, torch.Tensor, torch.Tensor | None]:
    """Masked means a modality and segment: shared and private coordinates, the same lifted to the common space, each
    `(B, G, L, M, k or d)`. `groups (B, M, G, S)` bool."""
    modalities, segments = groups.shape[1:3]
    counts = groups.sum(dim=-1)
    weights = groups.flatten(1, 2)[:, None].to(encoded.tokens.dtype)  # (B, 1, M * G, S)
    scale = counts.clamp(min=1).to(encoded.tokens.dtype)[:, None, ..., None]  # (B, 1, M, G, 1)

    def pool(tokens: torch.Tensor) -> torch.Tensor:
        pooled = torch.matmul(weights, tokens).unflatten(2, (modalities, segments)) / scale
        return pooled.permute(0, 3, 1, 2, 4)  # (B, G, L, M, k)

    shared = pool(exchanged.shared)
    dtype = shared.dtype
    lifted = shared
    if exchanged.shared_basis is not None:
        lifted = torch.matmul(shared, exchanged.shared_basis.to(dtype).mT)
    if exchanged.private_bases is None:
        return shared, None, lifted, None
    # The projection is linear: pooling first and projecting the mean is the same, and far cheaper.
    bases = exchanged.private_bases.to(dtype)
    private = torch.matmul(pool(encoded.tokens)[..., None, :], bases)
    lifted_private = torch.matmul(private, bases.mT).squeeze(-2)
    private = private.squeeze(-2)
    return shared, private, lifted, lifted_private


def segment_groups(config: CLCRConfig, encoded: HierarchyTokens, per_segment: bool) -> torch.Tensor:
    """`(B, M, G, S)` bool: which tokens each modality's (and segment's) summary takes in; `G = 1` is the clip."""
    member = encoded.membership
    if not per_segment:
        return member[:, :, None]
    number = config.num_segments
    if number is None:
        return _one_segment_a_step(config, encoded, member)
    # Token number r of n covers [r, r + 1) / n of the clip, segment g covers [g, g + 1) / G: they meet when they
    # overlap, whichever of n and G is larger.
    rank = member.cumsum(dim=-1)[:, :, None] - 1
    count = member.sum(dim=-1)[:, :, None, None]
    segment = torch.arange(number, device=member.device)[:, None]
    overlap = (rank * number < (segment + 1) * count) & ((rank + 1) * number > segment * count)
    return overlap & member[:, :, None]


def _one_segment_a_step(config: CLCRConfig, encoded: HierarchyTokens, member: torch.Tensor) -> torch.Tensor:
    steps = [length for length in encoded.lengths if length]
    if any(length != steps[0] for length in steps):
        lengths = dict(zip(config.modalities, encoded.lengths, strict=True))
        raise ValueError(
            f"`num_segments=None` labels each time step, so all modalities must have as many steps, got {lengths}; "
            "set `config.num_segments`"
        )
    step = torch.arange(steps[0], device=member.device)
    return member[:, :, None] & (torch.cat([step] * len(steps)) == step[:, None])


def deepest_tokens(encoded: HierarchyTokens, exchanged: ExchangeOutput) -> torch.Tensor:
    """Deepest level after the exchange: its shared part replaced, the rest of the token kept."""
    tokens, shared = encoded.tokens[:, -1], exchanged.shared[:, -1]
    if exchanged.shared_basis is None:
        return shared
    basis = exchanged.shared_basis[-1].to(tokens.dtype)
    return tokens + (shared - tokens @ basis) @ basis.T


def budgets_by_modality(
    config: CLCRConfig, encoded: HierarchyTokens, exchanged: ExchangeOutput
) -> tuple[dict[str, torch.Tensor], ...]:
    """Activations of each level by modality, `(B, T)`."""
    names = config.modalities
    return tuple(
        {name: part for name, part in zip(names, level.split(encoded.lengths, dim=1), strict=True) if part.shape[1]}
        for level in exchanged.activations.unbind(1)
    )


def budget_statistics(encoded: HierarchyTokens, exchanged: ExchangeOutput) -> dict[str, torch.Tensor]:
    """Means over the batch of what the budgets did, `(L,)` each; see [`CLCRModelOutput`]."""
    counts = encoded.membership.sum(dim=-1).float()[:, None]  # (B, 1, M)
    present = (counts > 0).float()
    samples = present.sum().clamp(min=1.0)
    real = counts.sum().clamp(min=1.0)
    return {
        "participation": (exchanged.activations.detach() > 0).float().sum(dim=(0, 2)) / real,
        "slack": (exchanged.slack * present).sum(dim=(0, 2)) / samples,
        "budget": (exchanged.budget.detach() * present / counts.clamp(min=1.0)).sum(dim=(0, 2)) / samples,
    }


__all__ = ["budget_statistics", "budgets_by_modality", "deepest_tokens", "mean_summaries", "segment_groups"]
