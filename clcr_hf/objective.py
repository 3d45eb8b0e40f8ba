"""The objective (paper): `L = L_task + lambda_inter L_Inter + lambda_intra L_Intra`; ours may add the task loss of the
modalities' own evidence (`unimodal.py`) and the alignment loss (`alignment.py`).

Both regularisers come from one matrix of whitened cross-correlations between all streams, a stream being the shared or
the private summary of one level and modality, in the coordinates of its subspace (our reconstruction).
"""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch.nn import functional as F

from .configuration_clcr import CLCRConfig
from .intercad import present_weights
from .ops import pairwise_whitened_cross_correlation, several_ranks

CORRELATED = ("intra", "inter_private", "inter_leakage")  # parts of the loss that are told from all rows at once
MIN_ROWS = 4  # of a batch, over all ranks, for correlations to be estimated


def constants(values: Sequence[float], like: torch.Tensor) -> torch.Tensor:
    """Numbers of the configuration as a tensor beside `like`, in its dtype. Each is filled in on the device: to copy a
    list there would have the host wait."""
    return torch.stack([like.new_full((), value) for value in values])


def infer_problem_type(config: CLCRConfig, labels: torch.Tensor) -> str:
    """`config.problem_type`, or what transformers would take it for from the labels' dtype and `num_labels`."""
    if config.problem_type is not None:
        return config.problem_type
    if config.num_labels == 1:
        return "regression"
    return "multi_label_classification" if labels.is_floating_point() else "single_label_classification"


def label_scale(config: CLCRConfig, like: torch.Tensor) -> tuple[Any, Any]:
    """Centre and spread of a regression's scores, `(num_labels,)` beside `like`; 0 and 1 where none were set."""
    if config.label_mean is None and config.label_std is None:
        return 0.0, 1.0
    mean, std = config.label_statistics()
    return constants(mean, like), constants(std, like)


def label_weights(config: CLCRConfig, labels: torch.Tensor) -> torch.Tensor:
    """The weight of each row in the mean of the task loss, `(N,)` float32, which labels as of [`task_losses`] say: that
    of its class, 0 without one; of several scores or labels, the share that is there."""
    if infer_problem_type(config, labels) != "single_label_classification":
        return _there(config, labels.reshape(-1, config.num_labels)).float().mean(dim=-1)
    if labels.is_floating_point():  # probabilities
        shares = labels.reshape(-1, config.num_labels).float()
        return shares.sum(dim=-1) if config.class_weights is None else shares @ constants(config.class_weights, shares)
    known = labels.reshape(-1) != -100
    weights = known.float()
    if config.class_weights is not None:
        weights = weights * constants(config.class_weights, weights)[labels.reshape(-1).where(known, 0)]
    return weights


def _there(config: CLCRConfig, labels: torch.Tensor) -> torch.Tensor:
    """Which of several scores or labels are not NaN. (A row's only one has to be there: its NaN is a fault.)"""
    return ~labels.isnan() if config.num_labels > 1 else torch.ones_like(labels, dtype=torch.bool)


def task_losses(config: CLCRConfig, logits: torch.Tensor, labels: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """
    The task loss of each row, and the row's weight in the mean, both `(N,)` float32.

    Args:
        logits: `(B, C)`, or `(B, G, C)` with a label a segment; of a regression in units of `label_std`, as the head's
            maps give it.
        labels: regression `(B,)`, `(B, 1)` or `(B, C)` float in the data's units; single label `(B,)` or `(B, G)`
            int64, -100 ignored (weight 0), or float of the logits' shape, the probabilities of the classes (mixup);
            multi label `(B, C)` float in [0, 1]. NaN is one of several scores or labels that is not there; the mean is
            over those that are.

    Raises:
        ValueError: labels whose shape does not fit the logits.
    """
    problem = infer_problem_type(config, labels)
    logits, labels = logits.float(), labels.to(logits.device)
    if problem == "single_label_classification":
        if labels.shape == logits.shape and labels.is_floating_point():
            return _class_losses(config, logits.flatten(0, -2), labels.flatten(0, -2).float(), tuple(labels.shape))
        return _class_losses(config, logits.flatten(0, -2), labels.reshape(-1), tuple(labels.shape))
    if labels.numel() != logits.numel():
        raise ValueError(
            f"`labels` {tuple(labels.shape)} must have as many values as logits {tuple(logits.shape)} "
            f"for problem_type={problem!r}"
        )
    labels = labels.reshape(logits.shape).float()
    known = _there(config, labels)
    labels = labels.where(known, 0)
    if problem == "multi_label_classification":
        weights = None if config.class_weights is None else constants(config.class_weights, logits)
        losses = F.binary_cross_entropy_with_logits(logits, labels, pos_weight=weights, reduction="none")
        if config.focal_gamma:
            truth = labels * logits.sigmoid() + (1 - labels) * (-logits).sigmoid()
            losses = losses * (1 - truth) ** config.focal_gamma
    else:
        mean, spread = label_scale(config, logits)
        loss = F.l1_loss if config.regression_loss == "l1" else F.mse_loss
        losses = loss(logits, (labels - mean) / spread, reduction="none")
    losses = (losses * known).sum(dim=-1) / known.sum(dim=-1).clamp(min=1)
    return losses.flatten(), known.float().mean(dim=-1).flatten()


def _class_losses(
    config: CLCRConfig, logits: torch.Tensor, targets: torch.Tensor, shape: tuple[int, ...]
) -> tuple[torch.Tensor, torch.Tensor]:
    if targets.shape[0] != logits.shape[0]:
        raise ValueError(f"`labels` {shape} must hold one class for each of {logits.shape[0]} rows of logits")
    losses = F.cross_entropy(logits, targets, label_smoothing=float(config.label_smoothing), reduction="none")
    if config.focal_gamma:
        truth = logits.softmax(dim=-1)
        if targets.is_floating_point():
            truth = (truth * targets).sum(dim=-1)
        else:
            truth = truth.gather(-1, targets.where(targets != -100, 0)[:, None]).squeeze(-1)
        losses = losses * (1 - truth) ** config.focal_gamma
    return losses, label_weights(config, targets)


def probabilities(config: CLCRConfig, logits: torch.Tensor) -> torch.Tensor:
    """What a classification answers: calibrated probabilities `(..., C)` float32 of `logits (..., C)` divided by
    `config.logit_temperature`, each label's own where a row has several, else summing to 1."""
    logits = logits.float() / (config.logit_temperature or 1.0)
    return logits.sigmoid() if config.effective_problem_type == "multi_label_classification" else logits.softmax(-1)


def labels_that_hold(config: CLCRConfig, probabilities: torch.Tensor) -> torch.Tensor:
    """Which of several labels a row has, bool `(..., C)`: those of a probability above `config.label_thresholds`, or
    above 0.5 where none were found."""
    # float64: between two neighbouring float32 lies a threshold.
    limits = torch.tensor(config.label_thresholds or 0.5, dtype=torch.float64, device=probabilities.device)
    return probabilities.double() > limits


def weighted_mean(losses: torch.Tensor, weights: torch.Tensor) -> torch.Tensor:
    """Mean of `losses (..., N)` by `weights (..., N)`; a batch without any weight gives 0 and not NaN."""
    total = weights.sum(dim=-1)
    return (losses * weights).sum(dim=-1) / torch.where(total > 0, total, 1)


def task_loss(config: CLCRConfig, logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """`L_task`, a scalar in float32: the mean of [`task_losses`] by their weights."""
    return weighted_mean(*task_losses(config, logits, labels))


def unimodal_loss(
    config: CLCRConfig,
    bias: torch.Tensor,
    own: torch.Tensor,
    present: torch.Tensor,
    labels: torch.Tensor,
    loss_weights: torch.Tensor | None = None,
) -> torch.Tensor:
    """
    The task loss of the modalities' own evidence (our extension): of their sum, and for classes also of each modality
    alone, meaned over the rows that have it. (One modality alone has not to give the whole of a score.)

    Args:
        bias: `(C,)` the head's. own: `(B, M, C)` or `(B, G, M, C)` each modality's logits. present: `(B, [G,] M)` bool.
        labels: as of [`task_losses`].
        loss_weights: `(2 + M,)`, where the batch is a part of a larger one: what its means over labels, samples and
            labels of each modality count for.
    """
    summed = task_loss(config, bias + own.sum(dim=-2), labels)
    if loss_weights is not None:
        summed = summed * loss_weights[0]
    if infer_problem_type(config, labels) == "regression":
        return summed
    alone = []
    for logits, there in zip((bias + own).unbind(dim=-2), present.unbind(dim=-1), strict=True):
        losses, weights = task_losses(config, logits, labels)
        alone.append(weighted_mean(losses, weights * there.flatten()))
    alone_of_each = torch.stack(alone)
    return summed + (alone_of_each if loss_weights is None else alone_of_each * loss_weights[2:]).mean()


def stream_pairs(num_levels: int, num_modalities: int) -> dict[str, list[tuple[int, int]]]:
    """Which pairs of streams each term adds up; every unordered pair counts once.

    Streams are numbered kind (shared, private), level, modality, the last running fastest: `2 L M` in all. `intra`:
    private streams of two modalities, and private with shared of one modality, at one level. `inter_private`: private
    streams of one modality at two levels. `inter_leakage`: shared with private of one modality at two levels.
    """
    levels, modalities = range(num_levels), range(num_modalities)

    def shared(level: int, modality: int) -> int:
        return level * num_modalities + modality

    def private(level: int, modality: int) -> int:
        return (num_levels + level) * num_modalities + modality

    return {
        "intra": [(private(i, m), private(i, n)) for i in levels for m in modalities for n in modalities if m < n]
        + [(shared(i, m), private(i, m)) for i in levels for m in modalities],
        "inter_private": [(private(i, m), private(j, m)) for m in modalities for i in levels for j in levels if i < j],
        "inter_leakage": [(shared(i, m), private(j, m)) for m in modalities for i in levels for j in levels if i != j],
    }


def mixing_penalty(shared: torch.Tensor, level_weights: torch.Tensor, present: torch.Tensor) -> torch.Tensor:
    """`L_mix`: mean over the samples of `sum_{l<l'} (1 - max(0, cos(s_l, s_l'))) omega_l omega_l'`, the cosine without
    gradient. `shared (N, L, M, d)`, `level_weights (N, L)`, `present (N, M)` bool; samples without any modality do not
    count."""
    summary = torch.einsum("nm,nlmd->nld", present_weights(present), shared.detach().float())
    unit = F.normalize(summary, dim=-1, eps=1e-6)
    incompatible = 1.0 - (unit @ unit.transpose(-1, -2)).clamp(min=0.0)
    joint = level_weights[:, :, None] * level_weights[:, None]
    penalty = (incompatible * joint).triu(diagonal=1).sum(dim=(-1, -2))
    counted = present.any(dim=-1).float()
    return (penalty * counted).sum() / counted.sum().clamp(min=1.0)


def regularisers(
    config: CLCRConfig,
    shared: torch.Tensor,
    private: torch.Tensor | None,
    common: torch.Tensor,
    level_weights: torch.Tensor,
    present: torch.Tensor,
    sync: bool,
    correlate: Callable[..., dict[str, torch.Tensor]] | None = None,
) -> dict[str, torch.Tensor]:
    """`L_Intra` and the three parts of `L_Inter`, unweighted scalars in float32.

    Args:
        shared: `(N, L, M, k_sh)` mean-pooled shared coordinates; N counts samples (or segments).
        private: `(N, L, M, k_pr)` likewise, or `None` without a private path (the correlations are then 0).
        common: `(N, L, M, d)` the shared summaries in the common space, for the cosine between levels.
        level_weights: `(N, L)`. present: `(N, M)` bool.
        sync: gather statistics over the ranks of torch.distributed.
        correlate: in place of [`correlations`].
    """
    zero = common.new_zeros((), dtype=torch.float32)
    parts = dict.fromkeys((*CORRELATED, "inter_mix"), zero)
    if config.lambda_inter:
        parts["inter_mix"] = mixing_penalty(common, level_weights, present)
    if private is None or not (config.lambda_intra or config.lambda_inter):
        return parts
    return parts | (correlate or correlations)(config, shared, private, present, sync)


def correlations(
    config: CLCRConfig, shared: torch.Tensor, private: torch.Tensor, present: torch.Tensor, sync: bool
) -> dict[str, torch.Tensor]:
    """The parts of [`regularisers`] that are told from all rows at once, 0 where there are too few; same arguments."""
    found = dict.fromkeys(CORRELATED, shared.new_zeros((), dtype=torch.float32))
    if shared.shape[0] < MIN_ROWS and not (sync and several_ranks()):
        return found
    levels, modalities = shared.shape[1:3]
    width = max(shared.shape[-1], private.shape[-1])
    padded = [F.pad(stream.float(), (0, width - stream.shape[-1])) for stream in (shared, private)]
    streams = torch.stack(padded).flatten(2, 3).transpose(1, 2).flatten(0, 1)  # (2 L M, N, width)
    count = levels * modalities
    terms = stream_pairs(levels, modalities)
    switched_on = {"intra": config.lambda_intra, "inter_private": config.lambda_inter * config.weight_inter_private}
    switched_on["inter_leakage"] = config.lambda_inter * config.weight_inter_leakage
    terms = {name: pairs for name, pairs in terms.items() if pairs and switched_on[name]}
    if not terms:
        return found
    correlation = pairwise_whitened_cross_correlation(
        streams,
        present.T.repeat(2 * levels, 1),
        ranks=[shared.shape[-1]] * count + [private.shape[-1]] * count,
        shrinkage=config.correlation_shrinkage,
        min_rows=MIN_ROWS,
        pairs=[pair for pairs in terms.values() for pair in pairs],
        distributed=sync,
    )
    for name, pairs in terms.items():
        first, second = zip(*pairs, strict=True)
        found[name] = correlation[list(first), list(second)].sum()
    return found


def combine(config: CLCRConfig, task: torch.Tensor, parts: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """`loss_components` of an output: `task`, `intra`, `inter` (the weighted sum of its three parts) and the parts."""
    if "intra" not in parts:  # the regularisers were not asked for
        return {"task": task, **parts}
    inter = (
        config.weight_inter_private * parts["inter_private"]
        + config.weight_inter_leakage * parts["inter_leakage"]
        + config.weight_inter_mix * parts["inter_mix"]
    )
    return {"task": task, "inter": inter, **parts}


def total_loss(config: CLCRConfig, components: dict[str, torch.Tensor]) -> torch.Tensor:
    """`L_task + lambda_inter L_Inter + lambda_intra L_Intra` (paper), `+ unimodal_loss_weight L_unimodal
    + alignment_coef L_alignment` (ours); parts that were not computed are left out."""
    weights = {
        "inter": config.lambda_inter,
        "intra": config.lambda_intra,
        "unimodal": config.unimodal_loss_weight,
        "alignment": config.alignment_coef or 0.0,
    }
    terms = [weight * components[name] for name, weight in weights.items() if name in components]
    return components["task"] + sum(terms)
