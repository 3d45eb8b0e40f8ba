"""Evidence of each modality by itself, beside what the fusion says (our extension).

A modality's own logits are a linear readout of the mean, spread and maximum over time (`config.unimodal_statistics`) of
its tokens before the exchange. Their sum is late fusion, with a loss of its own; the answer is `bias + (1 - own_share)
joint + own_share * sum of own`.
"""

from collections.abc import Sequence

import torch
from torch import nn
from transformers import initialization as init

from .configuration_clcr import STATISTICS, CLCRConfig

_TINY = 1e-5


def token_statistics(
    tokens: torch.Tensor, groups: torch.Tensor, lengths: Sequence[int], steps: bool, kinds: Sequence[str]
) -> torch.Tensor:
    """
    Statistics of each modality's tokens, over the tokens of each group (a clip, or its segments).

    Args:
        tokens: `(B, L, S, d)` before dropout. groups: bool `(B, M, G, S)`. lengths: tokens of each modality.
        steps: each group is one token, whose maximum is the token itself.
        kinds: `K` of "mean", "spread" (standard deviation) and "max".

    Returns:
        `(B, G, M, K L d)` float32; exactly 0 for a modality without tokens in a group.
    """
    parts = zip(tokens.split(list(lengths), dim=2), groups.split(list(lengths), dim=-1), strict=True)
    found = [_statistics_of_one(own.float(), each[:, number], steps, kinds) for number, (own, each) in enumerate(parts)]
    present = groups.any(dim=-1).transpose(1, 2)[..., None]
    return torch.stack(found, dim=2) * present


def _statistics_of_one(tokens: torch.Tensor, member: torch.Tensor, steps: bool, kinds: Sequence[str]) -> torch.Tensor:
    batch, levels, length, width = tokens.shape
    groups = member.shape[1]
    if isinstance(length, int) and length == 0:
        return tokens.new_zeros(batch, groups, len(kinds) * levels * width)
    share = member.float()
    share = (share / share.sum(dim=-1, keepdim=True).clamp(min=1))[:, None]  # (B, 1, G, T)
    mean = share @ tokens  # (B, L, G, d)
    found = {"mean": mean}
    if "spread" in kinds:
        variance = (share @ tokens.square() - mean.square()).clamp(min=0)
        found["spread"] = (variance + _TINY).sqrt() - _TINY**0.5
    if "max" in kinds:
        found["max"] = mean if steps else _highest(tokens, member)
    return torch.cat([found[kind] for kind in kinds], dim=-1).transpose(1, 2).flatten(2)


def _highest(tokens: torch.Tensor, member: torch.Tensor) -> torch.Tensor:
    """Maximum over the tokens of each group, `(B, L, G, d)`, the lowest number for one without tokens; groups, of which
    there are few, one after another."""
    lowest = torch.finfo(tokens.dtype).min
    parts = [tokens.masked_fill(~one[:, None, :, None], lowest).amax(dim=2) for one in member.unbind(dim=1)]
    return torch.stack(parts, dim=2)


class UnimodalReadout(nn.Module):
    """One linear map a modality, from its statistics to its logits; without a bias, which the head has."""

    def __init__(self, config: CLCRConfig):
        super().__init__()
        width = len(config.unimodal_statistics or STATISTICS) * config.effective_num_levels * config.hidden_size
        dropout = config.dropout if config.classifier_dropout is None else config.classifier_dropout
        self.dropout = nn.Dropout(float(dropout))
        self.weight = nn.Parameter(torch.empty(len(config.modalities), width, config.num_labels))
        self.reset_parameters()

    def reset_parameters(self):
        """Starts at zero: the first answer is the bias."""
        init.zeros_(self.weight)

    def forward(self, statistics: torch.Tensor) -> torch.Tensor:
        """`(..., M, F)` to `(..., M, C)`; exactly 0 where a modality is missing, whose statistics are 0."""
        statistics = self.dropout(statistics.to(self.weight.dtype))
        return torch.einsum("...mf,mfc->...mc", statistics, self.weight)


__all__ = ["UnimodalReadout", "token_statistics"]
