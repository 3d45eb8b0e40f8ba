"""IntraCED, the Intra-Level Co-Exchange Domain (paper): at each level, features split into orthogonal shared and
private subspaces, and a budget of shared tokens crosses between modalities.

All levels and modalities run at once: tokens lie on one axis `S`, levels become attention heads, and a mask keeps a
modality from attending to itself. We work in coordinates `c = h U` (equal norms, less arithmetic; our reconstruction).
"""

import math
from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import nn
from torch.nn import functional as F
from transformers import initialization as init
from transformers.modeling_layers import GradientCheckpointingLayer
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from .configuration_clcr import CLCRConfig
from .ops import init_orthonormal, orthonormal_bases, project_capped_simplex


class ExchangeOutput(NamedTuple):
    """What IntraCED hands on. A tuple, since reentrant gradient checkpointing tracks tensors in nothing else.

    Attributes:
        shared: `(B, L, S, k_sh)` shared coordinates after the exchange, zero where padded.
        shared_basis: `(L, d, k_sh)` orthonormal columns; `None` without factorisation (coordinates are the tokens).
        private_bases: `(L, M, d, k_pr)` orthonormal columns; `None` without a private path.
        activations: `(B, L, S)` float32 in [0, 1], the token budget's `a`.
        slack: `(B, L, M)` bool, true where the budget did not bind.
        budget: `(B, L, M)` float32, tokens allowed.
        attentions: `L` tensors `(B, heads, S, S)`, when asked for.
    """

    shared: torch.Tensor
    shared_basis: torch.Tensor | None
    private_bases: torch.Tensor | None
    activations: torch.Tensor
    slack: torch.Tensor
    budget: torch.Tensor
    attentions: tuple[torch.Tensor, ...] | None


def eager_attention_forward(
    module: nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    scaling: float,
    dropout: float = 0.0,
    **kwargs,
) -> tuple[torch.Tensor, tuple[torch.Tensor, ...]]:
    """Plain attention with a bool mask, the form transformers' attention interface asks for; also gives the weights, a
    tensor `(B, heads, S, S)` a level, through which gradients pass."""
    scores = torch.matmul(query, key.transpose(-1, -2)) * scaling
    if attention_mask is not None:
        scores = scores.masked_fill(~attention_mask, torch.finfo(scores.dtype).min)
    weights = F.softmax(scores, dim=-1, dtype=torch.float32).to(query.dtype)
    levels = weights.unflatten(1, (-1, module.num_heads)).unbind(1)
    dropped = F.dropout(torch.stack(levels, dim=1).flatten(1, 2), p=dropout, training=module.training)
    return torch.matmul(dropped, value).transpose(1, 2).contiguous(), levels


class LevelLinear(nn.Module):
    """One linear map a level, in one batched product: `(B, L, S, in)` to `(B, L, S, out)`."""

    def __init__(self, num_levels: int, in_features: int, out_features: int):
        super().__init__()
        self.weight = nn.Parameter(torch.empty(num_levels, in_features, out_features))
        self.bias = nn.Parameter(torch.empty(num_levels, out_features))
        self.reset_parameters()

    def reset_parameters(self):
        """Uniform Glorot start, level by level."""
        bound = math.sqrt(6.0 / (self.weight.shape[1] + self.weight.shape[2]))
        init.uniform_(self.weight, -bound, bound)
        init.zeros_(self.bias)

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        return torch.matmul(inputs, self.weight) + self.bias[:, None]


class TokenBudget(nn.Module):
    """Which shared tokens may ask the other modalities, and how strongly (paper, "token budget").

    Evidence `e_t = ||c_t|| / sqrt(k_sh)`; activation `a = Proj{0 <= a <= 1, sum a <= B_l}(a~)` over the real tokens of
    one modality, with `B_l = clip(gamma sigmoid(b_l) n, 1, n)` for `n` real tokens. Two forms of the score `a~` (the
    paper names "a learnable scale and a level threshold"; both are our reconstruction), by `token_scores`:
    `"sigmoid"`: `a~_t = sigmoid(softplus(kappa_l) (e_t - tau_l))`;
    `"standardised"`: `a~_t = softplus(kappa_l) (z_t - tau_l)`, where `z_t` is `e_t` less its mean over the sample's
    real tokens of that modality, over their spread. Float32 under any autocast.
    """

    START_SHARPNESS = 2.0
    START_THRESHOLD = {"sigmoid": 0.0, "standardised": -1.5}
    # Spreads of the evidence far below this are rounding, not evidence.
    SMALLEST_SPREAD = 0.01

    def __init__(self, config: CLCRConfig):
        super().__init__()
        levels = config.effective_num_levels
        self.scale = float(config.budget_scale)
        self.start_logit = math.log(config.budget_ratio / (1.0 - config.budget_ratio))
        self.standardises = config.token_scores == "standardised"
        threshold = config.evidence_threshold
        self.start_threshold = float(self.START_THRESHOLD[config.token_scores] if threshold is None else threshold)
        self.raw_sharpness = nn.Parameter(torch.empty(levels))
        self.threshold = nn.Parameter(torch.empty(levels))
        self.budget_logit = nn.Parameter(torch.empty(levels))
        self.reset_parameters()

    def reset_parameters(self):
        """Start where the budget binds: scores above it, so that `b_l` gets a gradient."""
        init.constant_(self.raw_sharpness, math.log(math.expm1(self.START_SHARPNESS)))
        init.constant_(self.threshold, self.start_threshold)
        init.constant_(self.budget_logit, self.start_logit)

    def forward(
        self, shared: torch.Tensor, membership: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Activations `(B, L, S)`, slack `(B, L, M)` bool and budget `(B, L, M)` of `shared (B, L, S, k)`;
        `membership (B, M, S)` bool says which tokens are real and whose."""
        with torch.autocast(shared.device.type, enabled=False):
            shared = shared.float()
            # Smoothed at zero: the plain norm has no derivative there.
            evidence = (shared.square().mean(dim=-1) + 1e-12).sqrt()
            sharpness = F.softplus(self.raw_sharpness.float())[:, None]
            if self.standardises:
                scores = sharpness * (self.standardise(evidence, membership) - self.threshold.float()[:, None])
            else:
                scores = torch.sigmoid(sharpness * (evidence - self.threshold.float()[:, None]))
            counts = membership.sum(dim=-1).float()[:, None]  # (B, 1, M)
            budget = self.scale * torch.sigmoid(self.budget_logit.float())[:, None] * counts
            budget = torch.minimum(budget.clamp(min=1.0), counts)
            member = membership[:, None].expand(-1, shared.shape[1], -1, -1)  # (B, L, M, S)
            activations = project_capped_simplex(scores[:, :, None].expand(member.shape), budget, member)
            slack = (scores.clamp(0, 1)[:, :, None] * member).sum(dim=-1) <= budget
            # Each token belongs to one modality: the sum over modalities picks its own value.
            return activations.sum(dim=2), slack, budget

    def standardise(self, evidence: torch.Tensor, membership: torch.Tensor) -> torch.Tensor:
        """`evidence (B, L, S)` less its mean, over its spread, within the real tokens of each sample's modality;
        `membership (B, M, S)` bool. A token alone in its modality gets 0."""
        member = membership.float()
        share = (member / member.sum(dim=-1, keepdim=True).clamp(min=1)).transpose(1, 2)  # (B, S, M)
        centred = evidence - evidence @ share @ member  # the mean, to the modality and back to its tokens
        variance = centred.square() @ share @ member
        return centred / (variance + self.SMALLEST_SPREAD**2).sqrt()


class IntraLevelExchange(GradientCheckpointingLayer):
    """IntraCED. See the module's head; `use_intraced=False` (ablation) exchanges whole tokens densely."""

    def __init__(self, config: CLCRConfig):
        super().__init__()
        self.config = config
        levels, modalities, width = config.effective_num_levels, len(config.modalities), config.hidden_size
        self.rank = config.effective_shared_rank
        self.num_heads = config.num_attention_heads
        self.head_dim = self.rank // self.num_heads
        self.scaling = self.head_dim**-0.5
        self.factorised = config.use_intraced
        self.exchanges = config.has_exchange
        self.budgeted = self.exchanges and config.use_intraced and not config.dense_budget
        self.has_private = config.has_private_path
        if self.factorised:
            self.raw_shared = nn.Parameter(torch.empty(levels, width, self.rank))
            if self.has_private:
                self.raw_private = nn.Parameter(torch.empty(levels, modalities, width, config.private_rank or 0))
            self.reset_bases()
        if self.budgeted:
            self.token_budget = TokenBudget(config)
        if self.exchanges:
            self.qkv = LevelLinear(levels, self.rank, 3 * self.rank)
            self.out = LevelLinear(levels, self.rank, self.rank)
        self._folded: tuple[torch.Tensor, torch.Tensor | None, torch.Tensor, torch.Tensor] | None = None

    # -- bases ---------------------------------------------------------------------------------------------------

    def reset_bases(self):
        """Orthonormal start values: the QR of the first step is then well conditioned."""
        raw = [self.raw_shared, self.raw_private_or_nothing()] if self.factorised else []
        if not raw or self.raw_shared.is_meta:
            return
        if all(getattr(part, "_is_hf_initialized", False) for part in raw if part.numel()):
            return  # loaded weights: spare the factorisation
        for part, value in zip(raw, init_orthonormal(*raw), strict=True):
            init.copy_(part, value)

    def raw_private_or_nothing(self) -> torch.Tensor:
        """Raw private parameters `(L, M, d, k_pr)`, or an empty stand-in without a private path."""
        if self.has_private:
            return self.raw_private
        levels, width, _ = self.raw_shared.shape
        return self.raw_shared.new_empty(levels, 0, width, 0)

    def bases(self) -> tuple[torch.Tensor | None, torch.Tensor | None]:
        """Orthonormal `U^sh (L, d, k_sh)` and `U^pr (L, M, d, k_pr)`, float32; `None` where there is none."""
        if not self.factorised:
            return None, None
        shared, private = orthonormal_bases(self.raw_shared, self.raw_private_or_nothing())
        return shared, private if self.has_private else None

    @torch.no_grad()
    def fold_bases(self):
        """Compute the bases once and fold them into the query, key and value maps, for inference. Undone by `train()`,
        by loading weights and by moving the module."""
        shared_basis, private_bases = self.bases()
        if shared_basis is None or not self.exchanges:
            return
        weight = torch.cat((shared_basis, shared_basis @ self.qkv.weight.float()), dim=-1)
        bias = F.pad(self.qkv.bias.float(), (self.rank, 0))
        dtype = self.qkv.weight.dtype
        self._folded = (shared_basis, private_bases, weight.to(dtype), bias.to(dtype))

    def train(self, mode: bool = True):
        if mode:
            self._folded = None
        return super().train(mode)

    def _apply(self, fn, recurse: bool = True):
        self._folded = None
        return super()._apply(fn, recurse)

    def _load_from_state_dict(self, *args, **kwargs):
        self._folded = None
        return super()._load_from_state_dict(*args, **kwargs)

    def __getstate__(self):
        return {**self.__dict__, "_folded": None}

    # -- exchange ------------------------------------------------------------------------------------------------

    def forward(
        self,
        tokens: torch.Tensor,
        mask: torch.Tensor,
        modality_ids: torch.Tensor,
        output_attentions: bool = False,
    ) -> ExchangeOutput:
        """`tokens (B, L, S, d)`, `mask (B, S)` bool, `modality_ids (S,)` int64."""
        coordinates, qkv, shared_basis, private_bases = self.project(tokens)
        membership = self.membership(mask, modality_ids)
        if self.budgeted:
            activations, slack, budget = self.token_budget(coordinates, membership)
        else:  # dense: every real token, or none where a single modality has nobody to ask
            activations = (mask[:, None] & self.exchanges).expand(tokens.shape[:3]).float()
            budget = membership.sum(dim=-1).float()[:, None].expand(-1, tokens.shape[1], -1)
            slack = torch.zeros_like(budget, dtype=torch.bool)
        shared, attentions = coordinates, None
        if qkv is not None:
            exchanged, attentions = self.exchange(qkv, mask, modality_ids, activations, output_attentions)
            shared = coordinates + exchanged
        return ExchangeOutput(shared, shared_basis, private_bases, activations, slack, budget, attentions)

    def project(
        self, tokens: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor | None, torch.Tensor | None, torch.Tensor | None]:
        """Shared coordinates `(B, L, S, k)`, queries, keys and values `(B, L, S, 3 k)` (`None` for a single modality)
        and the two bases."""
        if self._folded is not None and not self.training:
            folded_shared, folded_private, weight, bias = self._folded
            folded = torch.matmul(tokens, weight) + bias[:, None]
            coordinates, qkv = folded.split((self.rank, 3 * self.rank), dim=-1)
            return coordinates, qkv, folded_shared, folded_private
        shared, private = self.bases()
        coordinates = tokens if shared is None else torch.matmul(tokens, shared.to(tokens.dtype))
        return coordinates, self.qkv(coordinates) if self.exchanges else None, shared, private

    def membership(self, mask: torch.Tensor, modality_ids: torch.Tensor) -> torch.Tensor:
        """`(B, M, S)` bool: real tokens of each modality."""
        modalities = torch.arange(len(self.config.modalities), device=mask.device)
        return (modality_ids == modalities[:, None])[None] & mask[:, None]

    def exchange(
        self,
        qkv: torch.Tensor,
        mask: torch.Tensor,
        modality_ids: torch.Tensor,
        activations: torch.Tensor,
        output_attentions: bool,
    ) -> tuple[torch.Tensor, tuple[torch.Tensor, ...] | None]:
        """`h~_t = a_t Attn(Q_t^(m), K^(-m), V^(-m))`, `(B, L, S, k)`: each token asks the other modalities' shared
        tokens of its level. Exactly zero where nobody else is present and where `a_t = 0`."""
        batch, levels, tokens, _ = qkv.shape
        # Levels ride along as heads: one attention call, one mask for all of them.
        query, key, value = (
            part.unflatten(-1, (self.num_heads, self.head_dim)).transpose(2, 3).flatten(1, 2)
            for part in qkv.chunk(3, dim=-1)
        )
        allowed = (modality_ids[:, None] != modality_ids)[None] & mask[:, None, :]  # (B, S, S)
        allowed = allowed[:, None]
        if self.budgeted and self.config.budget_gates_pool:
            pool = (activations > 0)[:, :, None, None, :].expand(-1, -1, self.num_heads, -1, -1).flatten(1, 2)
            allowed = allowed & pool
        has_key = allowed.any(dim=-1, keepdim=True)  # (B, 1 or L * heads, S, 1)
        attend: Callable = eager_attention_forward
        if not output_attentions:
            attend = ALL_ATTENTION_FUNCTIONS.get_interface(self.config._attn_implementation, eager_attention_forward)
        # A row without keys would be NaN: it attends everywhere and is then multiplied by zero.
        context, weights = attend(
            self,
            query,
            key,
            value,
            attention_mask=allowed | ~has_key,
            dropout=float(self.config.attention_dropout) if self.training else 0.0,
            scaling=self.scaling,
            is_causal=False,
        )
        context = context.transpose(1, 2) * has_key.to(context.dtype)
        context = context.unflatten(1, (levels, self.num_heads)).transpose(2, 3).flatten(3)
        reachable = has_key.expand(-1, levels * self.num_heads, -1, -1)[:, :: self.num_heads, :, 0]  # (B, L, S)
        gate = (activations * reachable).to(context.dtype)[..., None]
        return gate * self.out(context), weights if output_attentions else None
