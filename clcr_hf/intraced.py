"""IntraCED, the Intra-Level Co-Exchange Domain (paper): at each level, features split into orthogonal shared and
private subspaces, and a budget of shared tokens crosses between modalities.

Tokens lie on one axis `S`, levels become attention heads, and each modality in turn asks the tokens of the others. We
work in coordinates `c = h U` (equal norms, less arithmetic; our reconstruction).
"""

import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch
from torch import nn
from torch.nn import functional as F
from transformers import initialization as init
from transformers.modeling_layers import GradientCheckpointingLayer
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from .configuration_clcr import CLCRConfig
from .cross_modal import agreement, attend_to_others, modality_ids
from .ops import in_step, init_orthonormal, orthonormal_bases, project_capped_simplex


class ExchangeOutput(NamedTuple):
    """What IntraCED hands on. A tuple, since reentrant gradient checkpointing tracks tensors in nothing else.

    Attributes:
        shared: `(B, L, S, k_sh)` shared coordinates after the exchange, zero where padded.
        before: the same before it.
        shared_basis: `(L, d, k_sh)` orthonormal columns; `None` without factorisation (coordinates are the tokens).
        private_bases: `(L, M, d, k_pr)` orthonormal columns; `None` without a private path.
        activations: `(B, L, S)` float32 in [0, 1], the token budget's `a`.
        slack: `(B, L, M)` bool, true where the budget did not bind.
        budget: `(B, L, M)` float32, tokens allowed.
        agreement: `(B, L, S)` float32, how well each token fits those of other modalities; `None` where not measured.
        attentions: `L` tensors `(B, heads, S, S)`, when asked for.
        scale: `gamma_l (L,)`; `None` where it is not learned. Handed on, since a sharded or offloaded weight is there
            during the call alone.
    """

    shared: torch.Tensor
    before: torch.Tensor
    shared_basis: torch.Tensor | None
    private_bases: torch.Tensor | None
    activations: torch.Tensor
    slack: torch.Tensor
    budget: torch.Tensor
    agreement: torch.Tensor | None
    attentions: tuple[torch.Tensor, ...] | None
    scale: torch.Tensor | None


def eager_attention_forward(
    module: "IntraLevelExchange",
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    scaling: float,
    dropout: float = 0.0,
    **kwargs,
) -> tuple[torch.Tensor, tuple[torch.Tensor, ...]]:
    """Plain attention with a bool mask, the form transformers' attention interface asks for; also gives the weights, a
    tensor `(B, heads, S, S)` a level, through which gradients pass. Levels are samples, the last running fastest."""
    scores = torch.matmul(query, key.transpose(-1, -2)) * scaling
    if attention_mask is not None:
        scores = scores.masked_fill(~attention_mask, torch.finfo(scores.dtype).min)
    weights = F.softmax(scores, dim=-1, dtype=torch.float32).to(query.dtype)
    levels = weights.unflatten(0, (-1, module.config.effective_num_levels)).unbind(1)
    dropped = F.dropout(torch.stack(levels, dim=1).flatten(0, 1), p=dropout, training=module.training)
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

    Activation `a = Proj{0 <= a <= 1, sum a <= B_l}(a~)` over the real tokens of one modality, with
    `B_l = clip(gamma sigmoid(b_l) n, 1, n)` for `n` real tokens. The evidence `e_t` of a token is, by `evidence`,
    `"norm"`: `||c_t|| / sqrt(k_sh)` (paper); `"agreement"`: the log-sum-exp of its products with the tokens of the
    other modalities (ours). The score `a~` has two forms (the paper names "a learnable scale and a level threshold";
    both are our reconstruction), by `token_scores`: `"sigmoid"`: `a~_t = sigmoid(softplus(kappa_l) (e_t - tau_l))`;
    `"standardised"`: `a~_t = softplus(kappa_l) (z_t - tau_l)`, where `z_t` is `e_t` less its mean over the sample's
    real tokens of that modality, over their spread. Float32 under any autocast.
    """

    # Of the sharpness and the threshold, by evidence and form of the score. With the norm as evidence the budget binds
    # at the start; agreement is to leave tokens out by itself.
    STARTS = {
        ("norm", "sigmoid"): (2.0, 0.0),
        ("norm", "standardised"): (2.0, -1.5),
        ("agreement", "sigmoid"): (1.0, 0.0),
        ("agreement", "standardised"): (1.0, -0.5),
    }
    # Spreads of the evidence far below this are rounding, not evidence.
    SMALLEST_SPREAD = 0.01

    def __init__(self, config: CLCRConfig):
        super().__init__()
        levels = config.effective_num_levels
        self.scale = float(config.budget_scale)
        self.start_logit = math.log(config.budget_ratio / (1.0 - config.budget_ratio))
        self.standardises = config.token_scores == "standardised"
        self.start_sharpness, threshold = self.STARTS[config.evidence, config.token_scores or "sigmoid"]
        given = config.evidence_threshold
        self.start_threshold = float(threshold if given is None else given)
        self.raw_sharpness = nn.Parameter(torch.empty(levels))
        self.threshold = nn.Parameter(torch.empty(levels))
        self.budget_logit = nn.Parameter(torch.empty(levels))
        self.reset_parameters()

    def reset_parameters(self):
        """Start values; see `STARTS`."""
        init.constant_(self.raw_sharpness, math.log(math.expm1(self.start_sharpness)))
        init.constant_(self.threshold, self.start_threshold)
        init.constant_(self.budget_logit, self.start_logit)

    def forward(
        self, evidence: torch.Tensor, membership: torch.Tensor, lengths: Sequence[int]
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Activations `(B, L, S)`, slack `(B, L, M)` bool and budget `(B, L, M)` of `evidence (B, L, S)` float32;
        `membership (B, M, S)` bool says which tokens are real and whose, `lengths` where they lie."""
        with torch.autocast(evidence.device.type, enabled=False):
            dtype = torch.promote_types(evidence.dtype, torch.float32)
            sharpness = F.softplus(self.raw_sharpness.to(dtype))[:, None]
            threshold = self.threshold.to(dtype)[:, None]
            if self.standardises:
                scores = sharpness * (self.standardise(evidence, membership) - threshold)
            else:
                scores = torch.sigmoid(sharpness * (evidence - threshold))
            member = membership.to(dtype)
            counts = member.sum(dim=-1)[:, None]  # (B, 1, M)
            budget = self.scale * torch.sigmoid(self.budget_logit.to(dtype))[:, None] * counts
            budget = torch.minimum(budget.clamp(min=1.0), counts)
            slack = scores.clamp(0, 1) @ member.transpose(1, 2) <= budget
            return self.project(scores, budget, membership, lengths), slack, budget

    @staticmethod
    def project(
        scores: torch.Tensor, budget: torch.Tensor, membership: torch.Tensor, lengths: Sequence[int]
    ) -> torch.Tensor:
        """Activations `(B, L, S)` of `scores (B, L, S)`, modality by modality, or all at once where they are of one
        length. `budget (B, L, M)`, `membership (B, M, S)` bool."""
        if torch.compiler.is_exporting():
            # Lengths are symbols. Each modality among all tokens: more to sort, but a third of a graph's operations.
            rows = scores[:, :, None].expand(-1, -1, len(lengths), -1)
            return project_capped_simplex(rows, budget, membership[:, None]).sum(dim=2)
        mask, size = membership.any(dim=1), (len(lengths), lengths[0])
        if all(length == lengths[0] for length in lengths):
            return project_capped_simplex(
                scores.unflatten(-1, size), budget, mask.unflatten(-1, size)[:, None]
            ).flatten(-2)
        parts = zip(
            scores.split(list(lengths), dim=-1),
            budget.unbind(dim=-1),
            mask[:, None].split(list(lengths), dim=-1),
            strict=True,
        )
        return torch.cat([project_capped_simplex(*part) for part in parts], dim=-1)

    def standardise(self, evidence: torch.Tensor, membership: torch.Tensor) -> torch.Tensor:
        """`evidence (B, L, S)` less its mean, over its spread, within the real tokens of each sample's modality;
        `membership (B, M, S)` bool. A token alone in its modality gets 0."""
        member = membership.to(evidence.dtype)
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
        self.measures_agreement = config.measures_agreement
        pool = config.budget_gates_pool if self.budgeted else False
        self.gates_pool, self.weighs_pool = pool is True, pool == "weighted"
        if self.factorised:
            self.raw_shared = nn.Parameter(torch.empty(levels, width, self.rank))
            if self.has_private:
                self.raw_private = nn.Parameter(torch.empty(levels, modalities, width, config.private_rank or 0))
            self.reset_bases()
        if config.has_agreement_scale:
            self.agreement_scale = nn.Parameter(torch.empty(levels))
        self.reset_scale()
        if self.budgeted:
            self.token_budget = TokenBudget(config)
        if self.exchanges:
            self.qkv = LevelLinear(levels, self.rank, 3 * self.rank)
            self.out = LevelLinear(levels, self.rank, self.rank)
        self._folded: _Folded | None = None

    def reset_scale(self):
        """`gamma_l` of agreement and alignment starts at 1."""
        if self.config.has_agreement_scale:
            init.ones_(self.agreement_scale)

    def scale(self) -> torch.Tensor:
        """`gamma_l (L,)`, with which products of coordinates are weighed."""
        if self.config.has_agreement_scale:
            return self.agreement_scale
        return torch.ones(self.config.effective_num_levels, device=self.qkv.weight.device)

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
        """Compute the bases once and fold them into the query, key and value maps, for inference; kept until `train()`
        or until a weight is another one. Without gradients `eval()` does so by itself."""
        shared_basis, private_bases = self.bases()
        if shared_basis is None or not self.exchanges:
            return
        weight = torch.cat((shared_basis, shared_basis @ self.qkv.weight.to(shared_basis.dtype)), dim=-1)
        bias = F.pad(self.qkv.bias, (self.rank, 0))
        dtype = self.qkv.weight.dtype
        self._folded = _Folded(self._state(), shared_basis, private_bases, weight.to(dtype), bias.to(dtype))

    def folded(self) -> "_Folded | None":
        """The folded maps, if they serve here: in evaluation without gradients. Folded anew when a weight has changed:
        torch counts the changes made to each tensor, and other memory means another one. (Writes through `.data`
        escape that count: call `fold_bases()` after such.)"""
        if self.training or not self.factorised or not self.exchanges:
            return None
        if torch.compiler.is_exporting():
            return self._folded  # of a copy made for it, whose weights change no more
        if torch.compiler.is_compiling() or torch.is_grad_enabled():
            return None  # a compiled graph cannot see whether a weight has changed
        state = self._state()
        if state is None:
            return None
        if self._folded is None or self._folded.state != state:
            self.fold_bases()
        return self._folded

    def _state(self) -> tuple[Any, ...] | None:
        """Which weights these are, and how often each was written to; None where torch does not count, or where some
        lie elsewhere until they are asked (`device_map`)."""
        weights = [self.raw_shared, self.qkv.weight, self.qkv.bias, *([self.raw_private] if self.has_private else [])]
        if any(weight.is_inference() or weight.is_meta for weight in weights):
            return None
        return tuple((id(each), each.data_ptr(), each._version, each.dtype, each.device) for each in weights)

    def train(self, mode: bool = True):
        if mode:
            self._folded = None
        return super().train(mode)

    def __getstate__(self):
        return {**self.__dict__, "_folded": None}

    # -- exchange ------------------------------------------------------------------------------------------------

    def forward(
        self,
        tokens: torch.Tensor,
        membership: torch.Tensor,
        lengths: Sequence[int],
        output_attentions: bool = False,
    ) -> ExchangeOutput:
        """`tokens (B, L, S, d)`; `membership (B, M, S)` bool, real tokens of each modality; `lengths`, how many places
        each modality has on the token axis."""
        coordinates, qkv, shared_basis, private_bases = self.project(tokens)
        mask = membership.any(dim=1)
        agreed = self.agreement(coordinates, mask, lengths) if self.measures_agreement else None
        if self.budgeted:
            evidence = self.norms(coordinates) if self.config.evidence == "norm" or agreed is None else agreed
            activations, slack, budget = self.token_budget(evidence, membership, lengths)
        else:  # dense: every real token, or none where a single modality has nobody to ask
            activations = (mask[:, None] & self.exchanges).expand(tokens.shape[:3]).float()
            budget = membership.sum(dim=-1).float()[:, None].expand(-1, tokens.shape[1], -1)
            slack = torch.zeros_like(budget, dtype=torch.bool)
        shared, attentions = coordinates, None
        if qkv is not None:
            exchanged, attentions = self.exchange(qkv, mask, lengths, activations, output_attentions)
            shared = coordinates + exchanged
        if self.training and sum(length > 0 for length in lengths) == 1:  # there was nobody to ask
            shared = in_step(shared, self.parameters())
        scale = self.agreement_scale.clone() if self.config.has_agreement_scale else None
        return ExchangeOutput(
            shared, coordinates, shared_basis, private_bases, activations, slack, budget, agreed, attentions, scale
        )

    @staticmethod
    def norms(coordinates: torch.Tensor) -> torch.Tensor:
        """`||c_t|| / sqrt(k)` (paper), float32, smoothed at zero: the plain norm has no derivative there."""
        return (coordinates.float().square().mean(dim=-1) + 1e-12).sqrt()

    def agreement(self, coordinates: torch.Tensor, mask: torch.Tensor, lengths: Sequence[int]) -> torch.Tensor:
        """`log sum_t' exp(gamma_l <c_t, c_t'> / sqrt(k))` over the other modalities' real tokens `t'` of the level
        (our extension), `(B, L, S)` float32; exactly 0 where no other modality is present and where padded."""
        scale = (self.scale() / self.rank**0.5).to(coordinates.dtype)
        found = agreement(coordinates * scale[:, None, None], coordinates, mask, lengths, lengths)
        return found * mask[:, None]

    def project(
        self, tokens: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor | None, torch.Tensor | None, torch.Tensor | None]:
        """Shared coordinates `(B, L, S, k)`, queries, keys and values `(B, L, S, 3 k)` (`None` for a single modality)
        and the two bases."""
        maps = self.folded()
        if maps is not None:
            folded = torch.matmul(tokens, maps.weight) + maps.bias[:, None]
            coordinates, qkv = folded.split((self.rank, 3 * self.rank), dim=-1)
            return coordinates, qkv, maps.shared_basis, maps.private_bases
        shared, private = self.bases()
        coordinates = tokens if shared is None else torch.matmul(tokens, shared.to(tokens.dtype))
        return coordinates, self.qkv(coordinates) if self.exchanges else None, shared, private

    def exchange(
        self,
        qkv: torch.Tensor,
        mask: torch.Tensor,
        lengths: Sequence[int],
        activations: torch.Tensor,
        output_attentions: bool,
    ) -> tuple[torch.Tensor, tuple[torch.Tensor, ...] | None]:
        """`h~_t = a_t Attn(Q_t^(m), K^(-m), V^(-m))`, `(B, L, S, k)`: each token asks the other modalities' shared
        tokens of its level. Exactly zero where nobody else is present and where `a_t = 0`."""
        size = qkv.shape[:3]  # (B, L, S)
        # Levels ride along as samples: queries, keys and values are then views.
        heads = qkv.flatten(0, 1).unflatten(-1, (3, self.num_heads, self.head_dim)).transpose(1, 3)
        query, key, value = heads.unbind(2)
        allowed = mask[:, None].expand(size).flatten(0, 1)[:, None]  # (B L, 1, S)
        if self.weighs_pool:
            query, key, value = self.weigh_pool(query, key, value, activations)
        elif self.gates_pool:
            allowed = allowed & (activations > 0).flatten(0, 1)[:, None]
        if output_attentions:
            context, reachable, weights = self.attend_visibly(query, key, value, allowed, lengths)
        else:
            weights = None
            context, reachable = attend_to_others(query, key, value, allowed, lengths, self.attend)
        context = context[..., : self.head_dim].transpose(1, 2).flatten(2).unflatten(0, size[:2])
        gate = (activations * reachable.view(size)).to(context.dtype)[..., None]
        return gate * self.out(context), weights

    def weigh_pool(
        self, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, activations: torch.Tensor
    ) -> tuple[torch.Tensor, ...]:
        """Adds `log a` to the keys' scores: as one more coordinate, so that a fused kernel needs no mask with a
        gradient."""
        weight = (activations + 1e-6).log().flatten(0, 1)[:, None, :, None] / self.scaling
        ones = torch.ones_like(query[..., :1])
        return (
            torch.cat((query, ones), dim=-1),
            torch.cat((key, weight.to(key.dtype).expand_as(ones)), dim=-1),
            torch.cat((value, torch.zeros_like(ones)), dim=-1),
        )

    def attend(self, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        """Attention by the implementation that the configuration names; `(B, H, T, k)`."""
        if torch.compiler.is_exporting():
            # In plain operations: the exporter's form of the fused kernel looks for rows without a key, and none is.
            scores = torch.matmul(query * self.scaling, key.transpose(-1, -2))
            return torch.matmul((scores + torch.where(mask, 0.0, -1e30)).softmax(dim=-1), value)
        attend: Callable = ALL_ATTENTION_FUNCTIONS.get_interface(
            self.config._attn_implementation, eager_attention_forward
        )
        return self._call(attend, query, key, value, mask)[0].transpose(1, 2)

    def attend_visibly(
        self,
        query: torch.Tensor,
        key: torch.Tensor,
        value: torch.Tensor,
        allowed: torch.Tensor,
        lengths: Sequence[int],
    ) -> tuple[torch.Tensor, torch.Tensor, tuple[torch.Tensor, ...]]:
        """As [`~cross_modal.attend_to_others`], with the weights of all pairs of tokens, a tensor `(B, heads, S, S)` a
        level: the one place that holds such."""
        ids = modality_ids(lengths, query.device)
        pairs = (ids[:, None] != ids) & allowed[:, :, None, :]
        has_key = pairs.any(dim=-1, keepdim=True)
        context, weights = self._call(eager_attention_forward, query, key, value, pairs | ~has_key)
        return context.transpose(1, 2) * has_key.to(context.dtype), has_key.squeeze(-1), weights

    def _call(
        self,
        attend: Callable,
        query: torch.Tensor,
        key: torch.Tensor,
        value: torch.Tensor,
        mask: torch.Tensor,
    ) -> tuple[torch.Tensor, Any]:
        return attend(
            self,
            query,
            key,
            value,
            attention_mask=mask,
            dropout=float(self.config.attention_dropout) if self.training else 0.0,
            scaling=self.scaling,
            is_causal=False,
        )


class _Folded(NamedTuple):
    """Maps with the bases in them, and the weights they were made of (see `IntraLevelExchange.folded`)."""

    state: Any
    shared_basis: torch.Tensor
    private_bases: torch.Tensor | None
    weight: torch.Tensor
    bias: torch.Tensor
