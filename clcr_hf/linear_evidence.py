"""A linear model on statistics of features inside CLCR: a share of the answer is its (our extension).

Where labels follow mean, spread or maximum over time of ready-made features, ridge regression, logistic regression or
linear discriminants are hard to beat: they fit less noise than any deep model. The answer is
`(1 - share) * (bias + joint + own) + share * (linear bias + linear)`. Training finds the linear model on its training
rows (`training/linear_models.py`) and the share on validation (`training/shares.py`), when all else stands.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import nn
from transformers import initialization as init

from .configuration_clcr import CLCRConfig


def ready_widths(config: CLCRConfig) -> dict[str, int]:
    """Of each modality that is read as ready-made features, the number of its statistics: `K D` of `D` columns and `K`
    statistics, `K L D` where layers were tapped."""
    kinds = len(linear_statistics(config))
    found = {name: config.modality_config(name) for name in config.modalities}
    levels = {name: config.num_levels if own.source == "taps" else 1 for name, own in found.items()}
    ready = {name: own.feature_size or 0 for name, own in found.items() if own.backbone_config is None}
    return {name: kinds * levels[name] * width for name, width in ready.items()}


def linear_statistics(config: CLCRConfig) -> list[str]:
    """What the linear model reads of the features over time."""
    return config.linear_statistics or ["mean"]


def feature_statistics(
    config: CLCRConfig, inputs: Mapping[str, Mapping[str, Any]], masks: Mapping[str, torch.Tensor]
) -> dict[str, torch.Tensor]:
    """
    Statistics over the real steps of each modality's ready-made features, float32.

    Args:
        inputs: `{modality: {"features": (B, T, D) or (B, L, T, D)}}`; others are passed over.
        masks: bool `(B, T)`.

    Returns:
        `{modality: (B, K D) or (B, K L D)}`, the columns of one of `linear_statistics` after those of another; 0 for a
        row without real steps.
    """
    found = {}
    for name in ready_widths(config).keys() & inputs.keys():
        features, real = inputs[name]["features"].float(), masks[name]
        real = (real if features.dim() == 3 else real[:, None])[..., None]
        found[name] = _over_time(features, real, linear_statistics(config))
    return found


def _over_time(features: torch.Tensor, real: torch.Tensor, kinds: Sequence[str]) -> torch.Tensor:
    """`(B, K D)` of `features (B, [L,] T, D)` where `real (B, [1,] T, 1)` is."""
    features = features.masked_fill(~real, 0)  # what is padded may be anything, and no product of it
    count = real.sum(dim=-2, keepdim=True).clamp(min=1)
    mean = features.sum(dim=-2, keepdim=True) / count
    found = {"mean": mean}
    if "spread" in kinds:
        found["spread"] = ((features - mean).masked_fill(~real, 0).square().sum(dim=-2, keepdim=True) / count).sqrt()
    if "max" in kinds:
        lowest = torch.finfo(features.dtype).min
        highest = features.masked_fill(~real, lowest).amax(dim=-2, keepdim=True)
        found["max"] = highest.masked_fill(~real.any(dim=-2, keepdim=True), 0)
    return torch.cat([found[kind].flatten(1) for kind in kinds], dim=1)


class LinearEvidence(nn.Module):
    """An affine map of the statistics of all modalities' features: buffers, which no optimiser moves."""

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
            weight: `(F, C)`, of the statistics of all ready-made features in the order of the modalities.
            center: `(F,)`, taken off the statistics. offset: `(M, C)`, added where a modality is there.
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
        statistics: Mapping[str, torch.Tensor],
        present: torch.Tensor,
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """
        Args:
            share: of the linear model in the answer, 0 to 1.
            answer: logits `(B, C)`, of them the joint part `(B, C)` and the modalities' own `(B, M, C)` or None.
            statistics: as of [`feature_statistics`]; a modality that was left out of the batch is not in it.
            present: bool `(B, M)`.

        Returns:
            The same three with the linear model's share; own evidence is exactly 0 for a missing modality.
        """
        logits, joint, own = answer
        linear = self._of_modalities(statistics, present)
        own = share * linear if own is None else (1 - share) * own + share * linear
        logits = (1 - share) * logits + share * (self.bias.float() + linear.sum(dim=1))
        return logits, (1 - share) * joint, own

    def _of_modalities(self, statistics: Mapping[str, torch.Tensor], present: torch.Tensor) -> torch.Tensor:
        """`(B, M, C)` float32, under any autocast."""
        parts = [self.offset.new_zeros(present.shape[0], self.offset.shape[1]).float()] * len(self.offset)
        cuts = list(self.widths.values())
        slices = zip(self.widths, self.center.split(cuts), self.weight.split(cuts), strict=True)
        with torch.autocast("cpu" if present.is_meta else present.device.type, enabled=False):
            for name, center, weight in slices:
                if name in statistics:
                    parts[self.places[name]] = (statistics[name] - center.float()) @ weight.float()
        return (torch.stack(parts, dim=1) + self.offset.float()) * present[..., None]


__all__ = ["LinearEvidence", "feature_statistics", "linear_statistics", "ready_widths"]
