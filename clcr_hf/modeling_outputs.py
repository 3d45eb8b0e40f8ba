"""What CLCR's models return."""

from dataclasses import dataclass

import torch
from transformers.utils import ModelOutput


@dataclass
class CLCRModelOutput(ModelOutput):
    """
    Output of [`CLCRModel`]. `B` samples, `L` levels, `M` modalities in the order of `config.modalities`, `S` tokens of
    all modalities side by side in that order, `d` the hidden size. Per-segment models have `(B, G, ...)` where
    `(B, ...)` stands for the clip.

    Args:
        last_hidden_state (`(B, S, d)`): deepest level's tokens after the exchange; zero where padded.
        pooler_output (`(B, 2 d)`): shared summary `z_sh` and private summary `u_pr` (`(B, d)` without private path).
        modality_statistics (`(B, M, K L d)`): the `K` `config.unimodal_statistics` over time of each modality's tokens
            before the exchange, with `config.unimodal_evidence`; exactly 0 for a missing one.
        feature_statistics (`{modality: (B, K D)}`): `config.linear_statistics` of the features over time, outside of
            training with `config.linear_share`.
        level_weights (`(B, L)`): `omega`, sum 1. This and all that follows from the fusion is `None` with
            `config.use_joint_path=False`.
        modality_weights (`(B, M)`): `pi`, sum 1 over the modalities present, exactly 0 for a missing one.
        private_gates (`(B, M)`): `eta` in [0, 1], exactly 0 for a missing modality.
        token_budgets (tuple over levels of `{modality: (B, T)}`): activation `a` of each token, in [0, 1], float32.
        budget_statistics (`{name: (L,)}`): in training, over the batch, `participation` (share of real tokens with
            `a > 0`), `slack` (share of budgets that did not bind), `budget` (mean share of tokens allowed).
        shared_summaries (`(B, L, M, k_sh)`), private_summaries (`(B, L, M, k_pr)`): mean-pooled coordinates, what the
            regularisers look at.
        common_summaries (`(B, L, M, d)`): the shared ones lifted to the space common to all levels.
        present (`(B, M)` bool): which modalities each sample has.
        token_counts (`(B, M)` int64): real tokens of each modality, which come before its padding; of the whole clip in
            per-segment models too.
        hidden_states (tuple of `L` `(B, S, d)`): the levels' tokens `H_l` before the exchange.
        attentions (tuple of `L` `(B, heads, S, S)`): who asked whom in the exchange.
        alignment_loss (scalar): when asked for.
    """

    last_hidden_state: torch.Tensor | None = None
    pooler_output: torch.Tensor | None = None
    modality_statistics: torch.Tensor | None = None
    feature_statistics: dict[str, torch.Tensor] | None = None
    level_weights: torch.Tensor | None = None
    modality_weights: torch.Tensor | None = None
    private_gates: torch.Tensor | None = None
    token_budgets: tuple[dict[str, torch.Tensor], ...] | None = None
    budget_statistics: dict[str, torch.Tensor] | None = None
    shared_summaries: torch.Tensor | None = None
    private_summaries: torch.Tensor | None = None
    common_summaries: torch.Tensor | None = None
    present: torch.Tensor | None = None
    token_counts: torch.Tensor | None = None
    hidden_states: tuple[torch.Tensor, ...] | None = None
    attentions: tuple[torch.Tensor, ...] | None = None
    alignment_loss: torch.Tensor | None = None


@dataclass
class CLCRPreTrainingOutput(ModelOutput):
    """
    Output of [`CLCRForPreTraining`]; other fields as in [`CLCRModelOutput`].

    Args:
        loss (scalar): the alignment loss.
        loss_components (`{"alignment": scalar}`): the same, for the log.
    """

    loss: torch.Tensor | None = None
    loss_components: dict[str, torch.Tensor] | None = None
    pooler_output: torch.Tensor | None = None
    level_weights: torch.Tensor | None = None
    token_budgets: tuple[dict[str, torch.Tensor], ...] | None = None
    budget_statistics: dict[str, torch.Tensor] | None = None


@dataclass
class CLCRSequenceClassifierOutput(ModelOutput):
    """
    Output of [`CLCRForSequenceClassification`]; fields as in [`CLCRModelOutput`], and:

    Args:
        loss (scalar): when labels are given: in training `L_task + lambda_inter L_Inter + lambda_intra L_Intra`, where
            with unimodal evidence `L_task` is the joint path's, and `unimodal_loss_weight` times that of the evidence
            is added, with alignment `alignment_coef` times its loss; in evaluation the task loss of `logits` alone.
        logits (`(B, num_labels)`): scores; for regression the prediction itself, in the data's units.
        modality_logits (`(B, M, num_labels)`): each modality's own evidence with its share, exactly 0 for a missing
            one. `logits = bias + joint_logits + modality_logits.sum(1)`, all in the units of `logits`; the bias is the
            model's `logit_bias()`. `None` without `config.unimodal_evidence` and `config.linear_share`.
        joint_logits (`(B, num_labels)`): what the fusion adds, with its share; 0 with `use_joint_path=False`.
        loss_components (`{name: scalar}`): `task`; `intra`, `inter` and the latter's unweighted parts `inter_private`,
            `inter_leakage`, `inter_mix`; `unimodal`; `alignment`; those that were computed.
    """

    loss: torch.Tensor | None = None
    logits: torch.Tensor | None = None
    modality_logits: torch.Tensor | None = None
    joint_logits: torch.Tensor | None = None
    pooler_output: torch.Tensor | None = None
    loss_components: dict[str, torch.Tensor] | None = None
    level_weights: torch.Tensor | None = None
    modality_weights: torch.Tensor | None = None
    private_gates: torch.Tensor | None = None
    token_budgets: tuple[dict[str, torch.Tensor], ...] | None = None
    token_counts: torch.Tensor | None = None
    budget_statistics: dict[str, torch.Tensor] | None = None
    hidden_states: tuple[torch.Tensor, ...] | None = None
    attentions: tuple[torch.Tensor, ...] | None = None


@dataclass
class CLCRTokenClassifierOutput(CLCRSequenceClassifierOutput):
    """Output of [`CLCRForTokenClassification`]: as [`CLCRSequenceClassifierOutput`] with a segment axis `G` after `B`
    in `logits`, `pooler_output`, `level_weights`, `modality_weights` and `private_gates`."""


__all__ = [
    "CLCRModelOutput",
    "CLCRPreTrainingOutput",
    "CLCRSequenceClassifierOutput",
    "CLCRTokenClassifierOutput",
]
