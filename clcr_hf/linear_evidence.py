"""A linear model on mean features inside CLCR: a share of the answer is its (our extension).

Where labels follow the means of ready-made features, ridge or logistic regression is hard to beat: it fits less noise
than any deep model. The answer is `(1 - share) * (bias + joint + own) + share * (linear bias + linear)`. Training finds
the linear model on its training rows and the share on validation (see `training/linear.py`), when all else stands.
"""

from collections.abc import Mapping
from typing import Any

import torch
from torch import nn
from transformers import initialization as init

from .configuration_clcr import CLCRConfig


def ready_widths(config: CLCRConfig) -> dict[str, int]:
    """Of each modality that is read as ready-made features, the columns `D`; `L D` where layers were tapped."""
    found = {name: config.modality_config(name) for name in config.modalities}
    levels = {name: config.num_levels if own.source == "taps" else 1 for name, own in found.items()}
    return {name: levels[name] * (own.feature_size or 0) for name, own in found.items() if own.backbone_config is None}


def feature_means(
    config: CLCRConfig, inputs: Mapping[str, Mapping[str, Any]], masks: Mapping[str, torch.Tensor]
) -> dict[str, torch.Tensor]:
    """
    Means over the real steps of each modality's ready-made features, float32.

    Args:
        inputs: `{modality: {"features": (B, T, D) or (B, L, T, D)}}`; others are passed over.
        masks: bool `(B, T)`.

    Returns:
        `{modality: (B, D) or (B, L D)}`, 0 for a row without real steps.
    """
    found = {}
    for name in ready_widths(config).keys() & inputs.keys():
        features, share = inputs[name]["features"].float(), masks[name].float()
        share = share / share.sum(dim=-1, keepdim=True).clamp(min=1)
        share = share if features.dim() == 3 else share[:, None]
        # What is padded may be anything, and no product of it.
        found[name] = (features * share[..., None]).masked_fill(share[..., None] == 0, 0).sum(dim=-2).flatten(1)
    return found


class LinearEvidence(nn.Module):
    """An affine map of the mean features of all modalities: buffers, which no optimiser moves."""

    def __init__(self, config: CLCRConfig):
        super().__init__()
        self.center: torch.Tensor
        self.weight: torch.Tensor
        self.offset: torch.Tensor
        self.bias: torch.Tensor
        self.widths = ready_widths(config)
        self.places = {name: config.modalities.index(name) for name in self.widths}
        total, modalities, labels = sum(self.widths.values()), len(config.modalities), config.num_labels
        self.register_buffer("center", torch.zeros(total))
        self.register_buffer("weight", torch.zeros(total, labels))
        self.register_buffer("offset", torch.zeros(modalities, labels))
        self.register_buffer("bias", torch.zeros(labels))

    def reset_parameters(self):
        """Says nothing until it is set."""
        for buffer in self.buffers():
            init.zeros_(buffer)

    @torch.no_grad()
    def set(self, weight: Any, center: Any, offset: Any, bias: Any):
        """
        Args:
            weight: `(sum of D, C)`, of the columns of all ready-made features in the order of the modalities.
            center: `(sum of D,)`, taken off the mean features. offset: `(M, C)`, added where a modality is there.
            bias: `(C,)`.

        Raises:
            ValueError: other shapes.
        """
        for name, value in (("weight", weight), ("center", center), ("offset", offset), ("bias", bias)):
            buffer, given = getattr(self, name), torch.as_tensor(value)
            if buffer.shape != given.shape:
                raise ValueError(f"`{name}` must be {tuple(buffer.shape)}, got {tuple(given.shape)}")
            buffer.copy_(given)

    def forward(
        self,
        share: float,
        answer: tuple[torch.Tensor, torch.Tensor, torch.Tensor | None],
        means: Mapping[str, torch.Tensor],
        present: torch.Tensor,
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """
        Args:
            share: of the linear model in the answer, 0 to 1.
            answer: logits `(B, C)`, of them the joint part `(B, C)` and the modalities' own `(B, M, C)` or None.
            means: as of [`feature_means`]; a modality that was left out of the batch is not in it.
            present: bool `(B, M)`.

        Returns:
            The same three with the linear model's share; own evidence is exactly 0 for a missing modality.
        """
        logits, joint, own = answer
        linear = self._of_modalities(means, present)
        own = share * linear if own is None else (1 - share) * own + share * linear
        logits = (1 - share) * logits + share * (self.bias.float() + linear.sum(dim=1))
        return logits, (1 - share) * joint, own

    def _of_modalities(self, means: Mapping[str, torch.Tensor], present: torch.Tensor) -> torch.Tensor:
        """`(B, M, C)` float32, under any autocast."""
        parts = [self.offset.new_zeros(present.shape[0], self.offset.shape[1]).float()] * len(self.offset)
        cuts = list(self.widths.values())
        slices = zip(self.widths, self.center.split(cuts), self.weight.split(cuts), strict=True)
        with torch.autocast("cpu" if present.is_meta else present.device.type, enabled=False):
            for name, center, weight in slices:
                if name in means:
                    parts[self.places[name]] = (means[name] - center.float()) @ weight.float()
        return (torch.stack(parts, dim=1) + self.offset.float()) * present[..., None]


__all__ = ["LinearEvidence", "feature_means", "ready_widths"]
