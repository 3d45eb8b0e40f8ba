"""InterCAD, the Inter-Level Co-Aggregation Domain (paper): summaries of each level and modality are brought onto one
scale by learned anchors, weighted by level, selected by modality (shared path) and gated (private path).

Works on any leading axes: `(B, L, M, d)` for clips, `(B, G, L, M, d)` for segments.
"""

from dataclasses import dataclass

import torch
from torch import nn
from torch.nn import functional as F
from transformers import initialization as init

from .configuration_clcr import CLCRConfig


@dataclass
class AggregationOutput:
    """Attributes:
    pooled: `(..., d)` or `(..., 2 d)`: `z_sh`, followed by `u_pr` when there is a private path.
    level_weights: `(..., L)`, sum 1. modality_weights: `(..., M)`, sum 1 over present modalities, exactly 0 for
    missing ones. private_gates: `(..., M)` in [0, 1], exactly 0 for missing ones.
    """

    pooled: torch.Tensor
    level_weights: torch.Tensor
    modality_weights: torch.Tensor
    private_gates: torch.Tensor


def masked_softmax(scores: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    """Softmax over the last axis of the entries where `mask`; the others are exactly 0, and so is an empty row."""
    weights = scores.masked_fill(~mask, torch.finfo(scores.dtype).min).softmax(dim=-1)
    return weights * mask


def present_weights(present: torch.Tensor) -> torch.Tensor:
    """Weights `(..., M)` float32 of the plain mean over the modalities that `present (..., M)` marks; 0 for none."""
    return present / present.sum(dim=-1, keepdim=True).clamp(min=1)


def present_mean(values: torch.Tensor, present: torch.Tensor) -> torch.Tensor:
    """Mean over the modality axis (second last) of `values (..., M, d)` where `present (..., M)`; 0 for none."""
    return (present_weights(present).to(values.dtype)[..., None] * values).sum(dim=-2)


class InterLevelAggregation(nn.Module):
    """InterCAD. `use_intercad=False` (ablation) takes plain means over levels and modalities instead."""

    def __init__(self, config: CLCRConfig):
        super().__init__()
        self.config = config
        width, levels = config.hidden_size, config.effective_num_levels
        self.has_private = config.has_private_path
        self.shared_norms = LevelNorm(levels, width, config.layer_norm_eps)
        if self.has_private:
            self.private_norms = LevelNorm(levels, width, config.layer_norm_eps)
        self.learned = config.use_intercad
        self.weighs_levels = self.learned and levels > 1
        self.weighs_modalities = self.learned and len(config.modalities) > 1
        if self.weighs_levels:
            self.anchors = nn.Parameter(torch.empty(levels, width))
            self.context_proj = nn.Linear(width * (2 if self.has_private else 1), width)
            self.context_norm = nn.LayerNorm(width, eps=config.layer_norm_eps)
            self.scorer = nn.Sequential(nn.Linear(2 * width + 1, width), nn.GELU(), nn.Linear(width, 1, bias=False))
            if config.uses_level_evidence:
                self.evidence_gain = nn.Parameter(torch.empty(1))  # a scalar could not be sharded
        self.reset_anchors()
        if self.learned:
            self.value = nn.Linear(width, width)
        if self.weighs_modalities:
            # No bias for the key (and the scorer's last map): a softmax would cancel it.
            self.query, self.key = nn.Linear(width, width), nn.Linear(width, width, bias=False)
        if self.learned and self.has_private:
            self.gate_proj = nn.Linear(width, width)
            self.gate_norm = nn.LayerNorm(width, eps=config.layer_norm_eps)
            self.gate_score = nn.Linear(width, 1, bias=False)

    def reset_anchors(self):
        """Anchors start at unit scale, the scale of the normalised context they are compared with."""
        if not self.weighs_levels:
            return
        init.normal_(self.anchors)
        if self.config.uses_level_evidence:
            init.ones_(self.evidence_gain)

    def forward(
        self,
        shared: torch.Tensor,
        private: torch.Tensor | None,
        present: torch.Tensor,
        level_evidence: torch.Tensor | None = None,
    ) -> AggregationOutput:
        """`shared`, `private`: mean-pooled tokens `(..., L, M, d)`; `present (..., M)` bool; `level_evidence (..., L)`
        float32, added to the levels' scores after centring and by a learned gain (our extension)."""
        shared = self.shared_norms(shared)
        private = self.private_norms(private) if self.has_private else None
        level_weights = self.weigh_levels(shared, private, present, level_evidence)
        mix = level_weights.to(shared.dtype)[..., None, None]
        shared_summary = (mix * shared).sum(dim=-3)  # s_bar (..., M, d)
        pooled, modality_weights = self.select_modalities(shared_summary, present)
        private_gates = torch.zeros_like(modality_weights)
        if private is not None:
            private_summary = (mix * private).sum(dim=-3)
            private_gates = self.gate_private(private_summary, present)
            gated = (private_gates.to(private.dtype)[..., None] * private_summary).sum(dim=-2)
            pooled = torch.cat((pooled, gated), dim=-1)
        return AggregationOutput(pooled, level_weights, modality_weights, private_gates)

    def weigh_levels(
        self,
        shared: torch.Tensor,
        private: torch.Tensor | None,
        present: torch.Tensor,
        evidence: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """`omega (..., L) = softmax_l MLP([c_l ; anchor_l ; cos(c_l, anchor_l)])` (our reconstruction), float32."""
        levels = shared.shape[-3]
        if not self.weighs_levels:
            return torch.full(shared.shape[:-2], 1.0 / levels, device=shared.device)
        context = present_mean(shared, present[..., None, :])
        if private is not None:
            context = torch.cat((context, present_mean(private, present[..., None, :])), dim=-1)
        context = self.context_norm(self.context_proj(context))
        anchors = self.anchors.to(context.dtype).expand_as(context)
        similarity = F.cosine_similarity(context, anchors, dim=-1).to(context.dtype)[..., None]
        scores = self.scorer(torch.cat((context, anchors, similarity), dim=-1)).squeeze(-1)
        scores = scores.float()
        if evidence is not None:
            scores = scores + self.evidence_gain.float() * (evidence - evidence.mean(dim=-1, keepdim=True))
        return scores.softmax(dim=-1)

    def select_modalities(self, summary: torch.Tensor, present: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Shared path: `z_sh (..., d)` and `pi (..., M)`; the mean `g_bar` asks, each modality's summary answers."""
        if not self.learned:
            return present_mean(summary, present), present_weights(present)
        if self.weighs_modalities:
            query = self.query(present_mean(summary, present))[..., None, :]
            scores = (query * self.key(summary)).sum(dim=-1) / summary.shape[-1] ** 0.5
            weights = masked_softmax(scores.float(), present)
        else:
            weights = present.float()
        value = self.value(summary)
        return (weights.to(value.dtype)[..., None] * value).sum(dim=-2), weights

    def gate_private(self, summary: torch.Tensor, present: torch.Tensor) -> torch.Tensor:
        """Private path: `eta_m = sigmoid(w_p^T LN(W_p p_bar^(m)))` (paper), `(..., M)` float32, 0 for missing
        modalities. Ours: `private_gate_start` is added before the sigmoid, and the gate keeps a least opening of
        `private_gate_floor`; both 0 is the paper's. In the ablation without InterCAD: the plain mean's weights."""
        if not self.learned:
            return present_weights(present)
        scores = self.gate_score(self.gate_norm(self.gate_proj(summary))).squeeze(-1)
        floor = float(self.config.private_gate_floor)
        opening = (scores.float() + float(self.config.private_gate_start)).sigmoid()
        return (floor + (1 - floor) * opening) * present


def level_evidence(agreement: torch.Tensor, groups: torch.Tensor) -> torch.Tensor:
    """
    Log-sum-exp over all pairs of tokens of different modalities, level by level (our extension).

    Args:
        agreement: `(B, L, S)` float32, each token's log-sum-exp over the tokens it meets.
        groups: bool `(B, M, G, S)`, the tokens of each segment (`G = 1`: of the clip).

    Returns:
        `(B, G, L)` float32; 0 for a segment without tokens.
    """
    member = groups.any(dim=1)[:, :, None]  # (B, G, 1, S)
    lowest = torch.finfo(agreement.dtype).min
    total = agreement[:, None].masked_fill(~member, lowest).logsumexp(dim=-1)
    return torch.where(member.any(dim=-1), total, 0)


class LevelNorm(nn.Module):
    """Layer norm over the last axis with its own gain and bias a level, for `(..., L, M, d)`."""

    def __init__(self, num_levels: int, width: int, eps: float):
        super().__init__()
        self.eps = eps
        self.weight = nn.Parameter(torch.ones(num_levels, 1, width))
        self.bias = nn.Parameter(torch.zeros(num_levels, 1, width))

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        normed = F.layer_norm(inputs, inputs.shape[-1:], eps=self.eps)
        return (normed * self.weight + self.bias).to(inputs.dtype)
