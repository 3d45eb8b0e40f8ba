"""Configuration of CLCR: the single source of truth for every size, switch and weight of the model."""

# No `from __future__ import annotations` here: it silently switches off the strict validation of transformers 5.

from typing import Any, Literal

from huggingface_hub.dataclasses import strict
from transformers import PreTrainedConfig
from transformers.configuration_utils import SubConfigSpec
from transformers.utils import logging

from .checks import (
    MOST,
    MOST_MODALITIES,
    check,
    check_count,
    check_counts,
    check_finite,
    check_label_names,
    did_you_mean,
    is_numbers,
    is_pair,
    refuse_unknown_settings,
    split_unknown_settings,
)
from .configuration_modality import CLCRModalityConfig, as_modality_config
from .errors import ModelFileError, plain_settings, plainly
from .modalities import STANDARD_MODALITIES

logger = logging.get_logger(__name__)

# What version 0.1, whose files do not name these, did; its default of `private_rank` was `hidden_size // 2`.
VERSION_01 = {"unimodal_evidence": False, "private_gate_start": 0.0, "private_gate_floor": 0.0}
STATISTICS = ("mean", "spread", "max")  # over time, of which own evidence and the linear model may be read
# What training finds on validation when the weights stand.
CALIBRATED = ("logit_temperature", "label_thresholds", "score_interval")
_STORED = "_stored"  # marks what is read from a file, for `__post_init__`


def _names_statistics(value: list) -> bool:
    return bool(value) and set(value) <= set(STATISTICS) and len(set(value)) == len(value)


def _default_modalities() -> dict[str, dict[str, Any]]:
    """CMU-MOSEI as the MMSA toolkit ships it: BERT on the words, 35-d vision and 74-d audio features."""
    return {
        "text_config": {"backbone_config": {"model_type": "bert"}, "source": "taps"},
        "vision_config": {"feature_size": 35},
        "audio_config": {"feature_size": 74},
    }


@plain_settings
@strict
class CLCRConfig(PreTrainedConfig):
    r"""
    Configuration of a CLCR model (arXiv 2602.19605).

    A modality is part of the model when its `<modality>_config` is given. With none given at all, the CMU-MOSEI
    set-up is built: BERT for text, 35-d vision features, 74-d audio features.

    Args:
        text_config, vision_config, audio_config, flow_config (`dict` or `CLCRModalityConfig`, *optional*):
            One sub-configuration a modality.
        extra_configs (`dict[str, dict]`, *optional*):
            Modalities under a user's own name; inputs are then `<name>_features` and `<name>_attention_mask`.
        hidden_size (`int`, defaults to 128): Common width `d`.
        num_levels (`int`, defaults to 3): Levels of the hierarchy. The paper has three.
        shared_rank (`int`, *optional*): `k_sh`; `hidden_size // 2` by default.
        private_rank (`int`, *optional*): `k_pr`; `hidden_size // 4` by default. With all the rest of the width
            (`hidden_size - shared_rank`, version 0.1's default) every modality's private subspace is the same one.
        num_attention_heads (`int`, defaults to 4): Heads of the exchange; must divide `shared_rank`.
        dropout, attention_dropout (`float`): Dropout of the fusion and of the exchange's attention weights.
        modality_dropout (`float`, defaults to 0.0):
            In training, the chance that a sample loses a modality (one always stays). Our extension.
        position_scale (`float`, defaults to 0.1): Start of the learned weight of the sinusoidal positions.
        budget_scale (`float`, defaults to 1.0): `gamma` of the token budget.
        budget_ratio (`float`, defaults to 0.68): Start of `sigmoid(b_l)`, the share of tokens the budget allows.
        evidence (`"norm"` or `"agreement"`, defaults to `"norm"`):
            What makes a token worth exchanging. `"norm"`: the length of its shared part, the paper's. `"agreement"`:
            how well it fits the tokens of the other modalities, the log-sum-exp of the products of their shared
            coordinates; ours, for sequences in which few moments of different modalities agree. It needs an alignment
            stage first ([`CLCRForPreTraining`]) and is worse than `"norm"` without. It sets the defaults of
            `token_scores`, `budget_gates_pool`, `level_evidence`, `unimodal_evidence` and `alignment_coef`.
        token_scores (`"sigmoid"` or `"standardised"`, *optional*):
            `"sigmoid"` by default with `evidence="norm"`, `"standardised"` with `"agreement"`.
            How a token's evidence becomes its score. `"sigmoid"` of the evidence itself: tokens of much the same norm
            get much the same score, and the budget takes a little from each of them. `"standardised"`: linear in the
            evidence after standardising it over the sample's tokens of one modality, so that the budget leaves the
            weakest out.
        evidence_threshold (`float`, *optional*):
            Start of the level threshold `tau_l`; by default where the budget binds: 0 for `"sigmoid"`, -1.5 for
            `"standardised"`; -0.5 for `"standardised"` agreement, which leaves tokens out by itself.
        budget_gates_pool (`bool` or `"weighted"`, *optional*):
            `True`: tokens with `a = 0` also leave the pool that other modalities attend to. `"weighted"`: tokens of the
            pool count `a` times (`log a` is added to their scores), the default with `evidence="agreement"`. `False`:
            the budget gates queries alone, the paper's formula, the default with `"norm"`.
        level_evidence (`bool`, *optional*):
            Adds to a level's score how well its tokens agree, by a learned gain. Ours; by default with
            `evidence="agreement"`, which it needs.
        alignment_coef (`float`, *optional*):
            Weight in fine-tuning of the alignment loss (see [`CLCRForPreTraining`]). Ours; 0.1 by default with
            `evidence="agreement"`, else 0.
        alignment_negatives (`int`, defaults to 8): With how many other samples of a batch each is compared there.
        unimodal_evidence (`bool`, *optional*):
            Beside the joint path, a linear readout of each modality by itself, before the exchange, with a loss of its
            own. Ours; on by default with `evidence="norm"`, off with `"agreement"`.
        own_share (`float`, defaults to 0.5):
            Share of that evidence in the answer, 0 to 1; the rest is the joint path's. Training by the scripts finds it
            on validation.
        unimodal_statistics (`list[str]`, *optional*, `["mean", "spread", "max"]` by default):
            What that evidence reads of a modality's tokens over time. Spread and maximum tell motions apart that have
            the same mean. Where readers of raw input are trained, `["mean"]` is better, which the scripts take:
            dropout in the readers raises spread and maximum in training alone.
        unimodal_loss_weight (`float`, defaults to 0.5): Weight of the loss of that evidence.
        use_joint_path (`bool`, defaults to `True`):
            `False` leaves the fusion out: the answer is the sum of the modalities' own evidence.
        linear_share (`float`, *optional*):
            Share of the answer, 0 to 1, that a linear model on statistics of the features has (see
            `linear_evidence.py`); it takes part outside of training. Ours; training finds it on validation. None: the
            model has no such part.
        linear_statistics (`list[str]`, *optional*, `["mean"]` by default):
            What that model reads of the features over time; some of mean, spread and max.
        private_gate_start, private_gate_floor (`float`, default to 2.0 and 0.1):
            Added to the private gates before their sigmoid, and their least opening: gates start open and do not die.
            Ours; 0 and 0 is the paper's formula.
        num_segments (`int`, *optional*):
            `CLCRForTokenClassification` only: how many equal segments a clip is cut into (10 for AVE). `None`: one
            segment a time step, for which all modalities must have the same number of steps (dialogues).
        classifier_dropout (`float`, *optional*): Dropout before and inside the head; `dropout` by default.
        regression_loss (`"l1"` or `"mse"`, defaults to `"l1"`): Task loss of regression, in units of `label_std`.
        label_mean, label_std (`float` or `list[float]`, *optional*):
            Centre and spread of a regression's scores, of several scores one each: the model learns
            `(label - label_mean) / label_std` and answers in the data's units. The scripts set them from the training
            labels. None: 0 and 1.
        class_weights (`list[float]`, *optional*):
            Weight of each class in the task loss; of several labels a row, the weight of a label that holds.
        focal_gamma (`float`, defaults to 0.0):
            Focal loss: each row's cross-entropy times `(1 - p)^gamma`, `p` the probability given to the truth.
        label_smoothing (`float`, defaults to 0.0): Of the cross-entropy.
        logit_temperature (`float`, *optional*):
            Probabilities are those of `logits / logit_temperature` ([`~clcr_hf.objective.probabilities`]); the model's
            own logits stay as they are. Ours, as the next three; training finds them on validation. None: 1.
        label_thresholds (`list[float]`, *optional*):
            Of several labels a row: the probability above which each holds. None: 0.5.
        score_interval (`list[float]`, *optional*):
            Of a regression: half the width of each score's interval, in the data's units. None: no interval is given.
        interval_coverage (`float`, defaults to 0.9): Share of true scores that these intervals should hold.
        label_scale (`"sentiment"`, `"auto"` or `None`, defaults to `"auto"`):
            What a regression's score means. `"sentiment"`: from negative over neutral to positive, symmetric around 0;
            it is measured by the accuracies of that literature and put into these words. `None`: a number. `"auto"`
            becomes `"sentiment"` for a single score without a name of its own (as version 0.1 had it) or a range that
            is not even around 0, else `None`.
        label_range (`list[float]`, `list[list[float]]` or `"auto"`, *optional*, defaults to `"auto"`):
            `[lowest, highest]` score of a regression, of several scores one such pair each; answers are kept in it.
            `None`: no limits. `"auto"`: [-3, 3] on the scale of sentiment, else `None`. Training from the command line
            sets it from the training labels.
        lambda_intra, lambda_inter (`float`, default to 1e-3): Weights of `L_Intra` and `L_Inter`; 0 leaves a term out.
            Found on data: at 0.01 and small batches their gradient drowned the task's (see docs/results.md).
        weight_inter_private, weight_inter_leakage, weight_inter_mix (`float`): Weights of `L_pr`, `L_sp`, `L_mix`
            inside `L_Inter`.
        correlation_shrinkage (`"auto"` or `float`): Shrinkage of the whitening, see
            [`~clcr_hf.ops.whitened_cross_correlation`].
        use_hierarchy, use_intraced, use_intercad, use_private_path, dense_budget, level_mixing:
            The ablations of the paper: `use_hierarchy=False` keeps the deepest level alone; `use_intraced=False`
            exchanges whole tokens densely without factorisation; `use_intercad=False` takes plain means;
            `use_private_path=False` drops the private summary; `dense_budget=True` sets every activation to 1;
            `level_mixing="full_mix"` pairs different levels of different modalities.
    """

    model_type = "clcr"
    sub_configs_defaults = {
        f"{name}_config": SubConfigSpec(config_class=CLCRModalityConfig, optional=True) for name in STANDARD_MODALITIES
    }

    text_config: dict | PreTrainedConfig | None = None
    vision_config: dict | PreTrainedConfig | None = None
    audio_config: dict | PreTrainedConfig | None = None
    flow_config: dict | PreTrainedConfig | None = None
    extra_configs: dict | None = None

    hidden_size: int = 128
    num_levels: int = 3
    shared_rank: int | None = None
    private_rank: int | None = None
    num_attention_heads: int = 4
    dropout: float | int = 0.1
    attention_dropout: float | int = 0.0
    modality_dropout: float | int = 0.0
    position_scale: float | int = 0.1
    layer_norm_eps: float = 1e-5

    budget_scale: float | int = 1.0
    budget_ratio: float | int = 0.68
    evidence: Literal["norm", "agreement"] = "norm"
    token_scores: Literal["sigmoid", "standardised"] | None = None
    evidence_threshold: float | int | None = None
    budget_gates_pool: bool | Literal["weighted"] | None = None
    level_evidence: bool | None = None
    alignment_coef: float | int | None = None
    alignment_negatives: int = 8
    unimodal_evidence: bool | None = None
    unimodal_statistics: list | None = None
    unimodal_loss_weight: float | int = 0.5
    own_share: float | int = 0.5
    use_joint_path: bool = True
    linear_share: float | int | None = None
    linear_statistics: list | None = None
    private_gate_start: float | int = 2.0
    private_gate_floor: float | int = 0.1

    num_segments: int | None = None
    classifier_dropout: float | int | None = None
    regression_loss: Literal["l1", "mse"] = "l1"
    label_smoothing: float | int = 0.0
    label_mean: float | int | list | None = None
    label_std: float | int | list | None = None
    class_weights: list | None = None
    logit_temperature: float | int | None = None
    label_thresholds: list | None = None
    score_interval: list | None = None
    interval_coverage: float = 0.9
    focal_gamma: float | int = 0.0
    label_scale: Literal["sentiment", "auto"] | None = "auto"
    label_range: list | str | None = "auto"
    # Here again: of what transformers declares it checks no types.
    problem_type: Literal["regression", "single_label_classification", "multi_label_classification"] | None = None

    lambda_intra: float | int = 0.001
    lambda_inter: float | int = 0.001
    weight_inter_private: float | int = 1.0
    weight_inter_leakage: float | int = 1.0
    weight_inter_mix: float | int = 1.0
    correlation_shrinkage: str | float | int = "auto"

    use_hierarchy: bool = True
    use_intraced: bool = True
    use_intercad: bool = True
    use_private_path: bool = True
    dense_budget: bool = False
    level_mixing: Literal["aligned", "full_mix"] = "aligned"

    keys_to_ignore_at_inference = [
        "last_hidden_state",
        "pooler_output",
        "modality_logits",
        "joint_logits",
        "loss_components",
        "level_weights",
        "modality_weights",
        "private_gates",
        "token_budgets",
        "budget_statistics",
        "shared_summaries",
        "private_summaries",
        "common_summaries",
        "present",
        "token_counts",
        "hidden_states",
        "attentions",
    ]

    def __post_init__(self, **kwargs):
        if not __name__.startswith("transformers_modules."):
            # That of the installed package is registered; for a published model's own, transformers asks for trust.
            kwargs.pop("custom_pipelines", None)
        stored = kwargs.pop(_STORED, False)
        refuse_unknown_settings(type(self), kwargs)
        check_label_names(self.id2label)
        count = kwargs.pop("num_labels", None)
        kwargs |= {} if count is None else {"num_labels": count}
        if count is not None and self.id2label is not None and count != len(self.id2label):
            raise ValueError(f"`num_labels` is {count}, but `id2label` names {len(self.id2label)}: {self.id2label}")
        fields = [f"{name}_config" for name in STANDARD_MODALITIES]
        if all(getattr(self, field) is None for field in fields) and not self.extra_configs:
            for field, value in _default_modalities().items():
                setattr(self, field, value)
        for field in fields:
            if getattr(self, field) is not None:
                setattr(self, field, as_modality_config(field, getattr(self, field)))
        # Plain dicts, so that the JSON form needs no special care; `modality_config` makes objects of them. By name, as
        # JSON has them: weights are told apart by a modality's number.
        self.extra_configs = {
            name: as_modality_config(f"extra_configs[{name!r}]", value).to_dict()
            for name, value in sorted((self.extra_configs or {}).items())
        }
        if self.shared_rank is None:
            self.shared_rank = self.hidden_size // 2
        if self.private_rank is None:
            self.private_rank = self.hidden_size // 4
        self._set_defaults_of_evidence()
        super().__post_init__(**kwargs)
        if self.label_scale == "auto":
            scored = self.num_labels == 1 and self.problem_type in (None, "regression")
            limits: Any = self.label_range
            even = limits == "auto" or (is_pair(limits) and limits[0] == -limits[1])
            named = self.id2label.get(0) not in ("LABEL_0", "sentiment")
            self.label_scale = "sentiment" if scored and even and not named else None
        if self.label_range == "auto":
            self.label_range = [-3.0, 3.0] if self.label_scale == "sentiment" else None
        if not stored:
            self._warn_of_one_private_space()

    def _set_defaults_of_evidence(self):
        """What is left out goes with the kind of evidence."""
        agrees = self.evidence == "agreement"
        defaults = {
            "token_scores": "standardised" if agrees else "sigmoid",
            "budget_gates_pool": "weighted" if agrees else False,
            "level_evidence": agrees,
            "alignment_coef": 0.1 if agrees else 0.0,
            "unimodal_evidence": not agrees,
            "unimodal_statistics": list(STATISTICS),
        }
        for name, value in defaults.items():
            if getattr(self, name) is None:
                setattr(self, name, value)

    def _warn_of_one_private_space(self):
        several = len(self.modalities) > 1 and self.has_private_path
        if several and (self.shared_rank or 0) + (self.private_rank or 0) == self.hidden_size:
            logger.warning(
                "shared_rank %s + private_rank %s fill hidden_size %s, so that all modalities have the same private "
                "subspace. Lower private_rank, e.g. to %s",
                self.shared_rank,
                self.private_rank,
                self.hidden_size,
                self.hidden_size // 4,
            )

    @classmethod
    def from_dict(cls, config_dict: dict[str, Any], **kwargs):
        """As [`~transformers.PreTrainedConfig.from_dict`]. Another number of labels (`num_labels` or `id2label` among
        `kwargs`) also takes back what was stored of the old ones: their names, their range and the problem type. What a
        file of version 0.1 does not name has that version's value."""
        if "transformers_version" in config_dict:  # written by `save_pretrained`
            added = VERSION_01 if "unimodal_evidence" not in config_dict else {}
            absent = {name: value for name, value in added.items() if name not in {*config_dict, *kwargs}}
            config_dict = {**cls._without_unknown(config_dict), **absent, _STORED: True}
        stored = config_dict.get("id2label")
        count = kwargs.get("num_labels", len(kwargs["id2label"]) if kwargs.get("id2label") else None)
        if count is not None and count != (2 if stored is None else len(stored)):
            old = ["id2label", "label2id", "problem_type", "label_scale", "label_range"]
            old += ["label_mean", "label_std", "class_weights", "linear_share", *CALIBRATED]
            config_dict = {name: value for name, value in config_dict.items() if name not in old}
            names = {name: kwargs.pop(name) for name in (*old, "num_labels") if name in kwargs}
            if names.get("id2label"):
                names.pop("num_labels", None)
                names.setdefault("label2id", {name: int(index) for index, name in names["id2label"].items()})
            config_dict |= names
        wants_unused = kwargs.pop("return_unused_kwargs", False)
        config, unused = super().from_dict(config_dict, return_unused_kwargs=True, **kwargs)
        config.validate()  # with the settings among `kwargs`
        if wants_unused:
            return config, unused
        # Pipelines hand on what is for the model: a slip is what looks like a setting.
        refuse_unknown_settings(cls, {n: v for n, v in unused.items() if did_you_mean(n, cls.__dataclass_fields__)})
        return config

    @classmethod
    def get_config_dict(cls, pretrained_model_name_or_path, **kwargs):
        """As transformers', but `ModelFileError` for a file that is damaged or not there, where it gives defaults."""
        source = pretrained_model_name_or_path
        with plainly(f"{source}: its config.json cannot be read", ModelFileError):
            found, rest = super().get_config_dict(source, **kwargs)
        if not isinstance(found, dict) or not found:
            raise ModelFileError(f"{source} holds no config.json of a model; save one there first")
        return found, rest

    @classmethod
    def _without_unknown(cls, stored: dict[str, Any]) -> dict[str, Any]:
        """A stored configuration without what only a newer version knows, of which one warning tells."""
        kept, left_out = split_unknown_settings(cls, stored)
        own = dict(kept.get("extra_configs") or {})
        places = {f"{name}_config": kept for name in STANDARD_MODALITIES} | dict.fromkeys(own, own)
        for name, place in places.items():
            if isinstance(place.get(name), dict):
                place[name], unknown = split_unknown_settings(CLCRModalityConfig, place[name])
                left_out += [f"{name}.{each}" for each in unknown]
        kept |= {"extra_configs": own} if own else {}
        if left_out:
            logger.warning_once(
                "The configuration is of a newer version of clcr-hf, or not ours: what is not known here is left out "
                f"({', '.join(left_out)}). Update clcr-hf, or expect other answers"
            )
        return kept

    def __setattr__(self, name, value):
        if name == "num_labels":
            check_count(name, value)
        super().__setattr__(name, value)

    # -- what the rest of the package asks for ------------------------------------------------------------------

    @property
    def modalities(self) -> list[str]:
        """Names of the model's modalities in their fixed order; the `M` axis of every output follows it."""
        standard = [name for name in STANDARD_MODALITIES if getattr(self, f"{name}_config") is not None]
        return standard + list(self.extra_configs or {})

    def modality_config(self, name: str) -> CLCRModalityConfig:
        """The sub-configuration of modality `name`; `KeyError` when the model has none of that name."""
        if self.extra_configs and name in self.extra_configs:
            return as_modality_config(f"extra_configs[{name!r}]", self.extra_configs[name])
        config = getattr(self, f"{name}_config", None) if name in STANDARD_MODALITIES else None
        if config is None:
            raise KeyError(f"This CLCR model has no modality {name!r}; it has {self.modalities}")
        return config

    @property
    def effective_num_levels(self) -> int:
        """Levels that the fusion sees: 1 in the ablation without hierarchy."""
        return self.num_levels if self.use_hierarchy else 1

    @property
    def effective_problem_type(self) -> str:
        """What the head learns: `problem_type`, or where that is left out what transformers takes the labels for."""
        return self.problem_type or ("regression" if self.num_labels == 1 else "single_label_classification")

    @property
    def effective_shared_rank(self) -> int:
        """Width of the tokens that cross modalities: the whole `hidden_size` without factorisation."""
        return self.shared_rank if self.use_intraced and self.shared_rank else self.hidden_size

    @property
    def has_exchange(self) -> bool:
        """Whether there is anybody to exchange with."""
        return len(self.modalities) > 1

    @property
    def has_budget(self) -> bool:
        """Whether a token budget is learned."""
        return self.has_exchange and self.use_intraced and not self.dense_budget

    @property
    def uses_level_evidence(self) -> bool:
        """Whether agreement of a level's tokens is added to its score."""
        weighed = self.use_intercad and self.effective_num_levels > 1
        return bool(self.level_evidence) and weighed and self.has_exchange and self.use_intraced

    @property
    def measures_agreement(self) -> bool:
        """Whether agreement of tokens is needed for the answer."""
        return (self.evidence == "agreement" and self.has_budget) or self.uses_level_evidence

    @property
    def has_agreement_scale(self) -> bool:
        """Whether the scale `gamma_l` of agreement and alignment is learned."""
        return self.measures_agreement or (self.has_exchange and bool(self.alignment_coef))

    @property
    def pooled_size(self) -> int:
        """Width of `pooler_output`: `z_sh` and, with a private path, `u_pr` beside it."""
        return self.hidden_size * (2 if self.has_private_path else 1)

    @property
    def effective_own_share(self) -> float:
        """Share of own evidence in the answer beside that of the joint path; either may be all there is."""
        return float(self.own_share if self.use_joint_path else 1) if self.unimodal_evidence else 0.0

    @property
    def has_modality_logits(self) -> bool:
        """Whether part of the answer is said modality by modality."""
        return bool(self.unimodal_evidence or self.linear_share)

    @property
    def has_private_path(self) -> bool:
        """Whether private summaries reach the output."""
        return self.use_private_path and self.use_intraced and bool(self.private_rank)

    def label_statistics(self) -> tuple[list[float], list[float]]:
        """Centre and spread of each score of a regression; 0 and 1 where none were set."""
        spread = []
        for value, default in ((self.label_mean, 0.0), (self.label_std, 1.0)):
            given = value if isinstance(value, list) else [default if value is None else value] * self.num_labels
            spread.append([float(number) for number in given])
        return spread[0], spread[1]

    def score_ranges(self) -> list[tuple[float, float] | None]:
        """Lowest and highest value of each score of a regression; None where there are no limits."""
        limits = self.label_range
        if not isinstance(limits, list):
            return [None] * self.num_labels
        pairs = limits if isinstance(limits[0], list | tuple) else [limits] * self.num_labels
        return [(float(low), float(high)) for low, high in pairs]

    def get_text_config(self, decoder=None, encoder=None):
        """The text backbone's configuration (it holds the vocabulary), or this one when there is none."""
        backbone = getattr(getattr(self, "text_config", None), "backbone_config", None)
        return self if backbone is None else backbone

    # -- validation (collected by @strict) ----------------------------------------------------------------------

    def validate_widths(self):
        """Ranks must fit into `hidden_size`, heads must divide the shared rank."""
        counts = (
            "hidden_size",
            "num_levels",
            "num_attention_heads",
            "shared_rank",
            "num_segments",
            "alignment_negatives",
        )
        check_counts(self, counts)
        if self.shared_rank is None or self.private_rank is None:
            return  # filled in `__post_init__`
        if self.private_rank < 0 or self.shared_rank + self.private_rank > self.hidden_size:
            raise ValueError(
                f"`shared_rank` + `private_rank` must not exceed `hidden_size`: orthogonal subspaces of ranks "
                f"{self.shared_rank} and {self.private_rank} do not fit into {self.hidden_size} dimensions"
            )
        if self.effective_shared_rank % self.num_attention_heads:
            raise ValueError(
                f"`num_attention_heads` ({self.num_attention_heads}) must divide the width of the exchanged tokens "
                f"({self.effective_shared_rank})"
            )

    def validate_fractions(self):
        """Numbers must be finite, dropouts and shares probabilities, weights not negative."""
        check_finite(self)
        shares = ("dropout", "attention_dropout", "modality_dropout", "classifier_dropout", "label_smoothing")
        check(self, shares, lambda share: 0.0 <= share < 1.0, "lie in [0, 1)")
        if not 0.0 < self.budget_ratio < 1.0:
            raise ValueError(f"`budget_ratio` must lie in (0, 1), got {self.budget_ratio}; see `dense_budget` for 1")
        weights = ["lambda_intra", "lambda_inter", "weight_inter_private", "weight_inter_leakage", "weight_inter_mix"]
        weights += ["budget_scale", "unimodal_loss_weight", "alignment_coef", "focal_gamma", "layer_norm_eps"]
        check(self, weights, lambda weight: weight >= 0, "not be negative")
        check(self, ("private_gate_floor",), lambda floor: 0.0 <= floor < 1.0, "lie in [0, 1)")
        shrinkage = self.correlation_shrinkage
        if shrinkage != "auto" and (isinstance(shrinkage, str) or not 0.0 <= shrinkage <= 1.0):
            raise ValueError(f"`correlation_shrinkage` must be 'auto' or lie in [0, 1], got {shrinkage!r}")

    def validate_evidence(self):
        """Evidence must be of a kind that is measured, and some path must lead to the answer."""
        if self.level_evidence and self.evidence != "agreement":
            raise ValueError('`level_evidence` measures agreement: set `evidence="agreement"` too')
        if not self.use_joint_path and self.unimodal_evidence is False:
            raise ValueError("`use_joint_path=False` leaves no answer without `unimodal_evidence=True`")

    def validate_label_statistics(self):
        """One centre and one positive spread a score; one weight a class; what was calibrated likewise."""
        lists = ("label_mean", "label_std", "class_weights", "label_thresholds", "score_interval")
        check(self, lists, is_numbers, "hold numbers")
        for name in lists:
            value = getattr(self, name)
            if isinstance(value, list) and len(value) != self.num_labels:
                raise ValueError(f"`{name}` must hold one number for each of {self.num_labels} labels, got {value}")
        check(self, ("label_thresholds",), lambda limits: all(0 < limit < 1 for limit in limits), "lie in (0, 1)")
        check(self, ("score_interval",), lambda widths: min(widths) >= 0, "not be negative")
        check(self, ("interval_coverage",), lambda share: 0 < share < 1, "lie in (0, 1)")
        check(self, ("unimodal_statistics", "linear_statistics"), _names_statistics, f"be some of {list(STATISTICS)}")
        check(self, ("own_share", "linear_share"), lambda share: 0 <= share <= 1, "lie in [0, 1]")
        for name in ("label_std", "class_weights", "logit_temperature"):
            value = getattr(self, name)
            if value is not None and min(value if isinstance(value, list) else [value]) <= 0:
                raise ValueError(f"`{name}` must be positive, got {value}")

    def validate_labels(self):
        """Labels are numbered from 0; a range is a pair of rising numbers, or as many as there are scores."""
        check_count("num_labels", len(self.id2label) if self.id2label else None)
        if not self.id2label or sorted(self.id2label) != list(range(len(self.id2label))):
            raise ValueError(f"`id2label` must name the labels 0, 1, ... in turn, one at least, got {self.id2label}")
        limits = self.label_range
        if limits is None or limits == "auto":
            return
        several = isinstance(limits, list) and limits and isinstance(limits[0], list | tuple)
        pairs = limits if several else [limits]
        for pair in pairs:
            if not is_pair(pair) or (several and len(pairs) != self.num_labels):
                raise ValueError(f"`label_range` must be [lowest, highest], or one such pair a score, got {limits}")

    def validate_modalities(self):
        """Each modality must have a source, a tap or a stage for each level, and a usable name."""
        check_count("num_levels", self.num_levels)
        extra = self.extra_configs or {}
        if len(extra) > MOST_MODALITIES:
            raise ValueError(f"`extra_configs` must name at most {MOST_MODALITIES} modalities, got {len(extra)}")
        for name in extra:
            if name in STANDARD_MODALITIES or not name.isidentifier():
                raise ValueError(
                    f"`extra_configs` name {name!r} must be an identifier other than {list(STANDARD_MODALITIES)}"
                )
        for name in self.modalities:
            field = f"extra_configs[{name!r}]" if name in extra else f"{name}_config"
            self._validate_modality(field, as_modality_config(field, self.modality_config(name)))

    def _validate_modality(self, field: str, config: CLCRModalityConfig):
        if config.feature_size is None and config.backbone_config is None:
            raise ValueError(f"`{field}` needs `feature_size` (ready features) or `backbone_config` (raw input)")
        if config.source == "tcn" and max(map(max, config.stage_dilations(self.num_levels))) > MOST["tcn_dilations"]:
            raise ValueError(
                f"`{field}.tcn_dilations` must be given for {self.num_levels} levels: it grows as 4**level"
            )
        for name, what in (("taps", "name one layer"), ("tcn_dilations", "hold one stage")):
            value = getattr(config, name)
            if value is not None and len(value) != self.num_levels:
                raise ValueError(f"`{field}.{name}` must {what} for each of {self.num_levels} levels, got {value}")


__all__ = ["CLCRConfig", "CLCRModalityConfig"]
