"""CLCR for PyTorch: `CLCRModel` and its heads. The parts of the paper live in files of their own: `hierarchy.py`,
`intraced.py`, `intercad.py`, `objective.py`; the exact operators in `ops.py`; what is ours beside them in `unimodal.py`
and `alignment.py`."""

# No `from __future__ import annotations` here: it breaks `from_pretrained` of transformers 5.

import os
import re
from importlib import import_module
from typing import Any

import torch
from torch import nn
from transformers import AutoConfig, PreTrainedModel
from transformers import initialization as init
from transformers.utils import can_return_tuple

from .alignment import alignment_loss
from .checks import refuse_unknown_settings
from .configuration_clcr import STATISTICS, CLCRConfig, CLCRModalityConfig
from .errors import InputError, ModelFileError, plainly
from .hierarchy import FeatureScaling, HierarchyTokens, ModalityEncoder, SemanticHierarchyEncoder, TemporalBlock
from .intercad import InterLevelAggregation, LevelNorm, level_evidence
from .intraced import ExchangeOutput, IntraLevelExchange, LevelLinear, TokenBudget
from .linear_evidence import LinearEvidence, feature_statistics
from .loading import WRAPPERS, refuse_missing
from .modalities import STANDARD_MODALITIES
from .modeling_inputs import check_labels, collect_inputs, own_features
from .modeling_outputs import (
    CLCRModelOutput,
    CLCRPreTrainingOutput,
    CLCRSequenceClassifierOutput,
    CLCRTokenClassifierOutput,
)
from .objective import combine, correlations, label_scale, regularisers, task_loss, total_loss, unimodal_loss
from .remote_code import add_remote_code
from .summaries import budget_statistics, budgets_by_modality, deepest_tokens, mean_summaries, segment_groups
from .unimodal import UnimodalReadout, token_statistics

# Options of a download, which hold for the configuration too.
_HUB_OPTIONS = ("cache_dir", "force_download", "local_files_only", "revision", "subfolder", "token")


class CLCRPreTrainedModel(PreTrainedModel):
    """Weights, loading and saving common to all CLCR models."""

    config: CLCRConfig
    config_class = CLCRConfig
    base_model_prefix = "clcr"
    main_input_name = "input_ids"
    input_modalities = ("text", "image", "video", "audio")
    supports_gradient_checkpointing = True
    # What modules hand on is put together between them: all runs on one device, to which what is offloaded is fetched.
    _no_split_modules = ("CLCRModel", "IntraLevelExchange")
    _supports_sdpa = True
    _supports_attention_backend = True
    # A forward with **kwargs makes Trainer believe that the loss takes `num_items_in_batch`, which ours does not.
    accepts_loss_kwargs = False

    @torch.no_grad()
    def _init_weights(self, module: nn.Module):
        """Glorot for linear maps: the fusion starts from nothing, where transformers' 0.02 would start it near zero."""
        if isinstance(module, nn.Linear | nn.Conv1d):
            init.xavier_uniform_(module.weight)
            if module.bias is not None:
                init.zeros_(module.bias)
        elif isinstance(module, nn.LayerNorm | LevelNorm):
            init.ones_(module.weight)
            init.zeros_(module.bias)
        elif isinstance(module, LevelLinear | LinearEvidence | TokenBudget | UnimodalReadout):
            module.reset_parameters()
        elif isinstance(module, IntraLevelExchange):
            module.reset_bases()
            module.reset_scale()
        elif isinstance(module, CLCRClassificationHead):
            module.reset_parameters()
        elif isinstance(module, InterLevelAggregation):
            module.reset_anchors()
        elif isinstance(module, TemporalBlock):
            # Each block starts close to the identity: deep levels then learn about as fast as shallow ones.
            init.xavier_uniform_(module.proj.weight, gain=0.1)
        elif isinstance(module, FeatureScaling):
            module.reset_statistics()
        elif isinstance(module, ModalityEncoder):
            init.constant_(module.position_scale, float(self.config.position_scale))

    @classmethod
    def is_custom_code(cls) -> bool:
        """`False`: to be initialised as transformers' own models are: `_init_weights` spares loaded weights. In custom
        code, transformers passes over modules without weights of their own, in which some backbones (wav2vec 2.0)
        initialise their children: what a checkpoint lacks would start from wrong values."""
        return False

    @classmethod
    def from_pretrained(
        cls,
        pretrained_model_name_or_path: str | os.PathLike | None,
        *model_args,
        key_mapping: dict[str, str] | None = None,
        output_loading_info: bool = False,
        **kwargs,
    ):
        """
        As [`~transformers.PreTrainedModel.from_pretrained`], but weights that the files lack are an error, unless
        `output_loading_info` asks for the report, or `state_dict` takes the files' place. A head may start anew on the
        files of a model that has none of its weights and does not claim to. Names that begin with `module.` or
        `_orig_mod.`, as DistributedDataParallel and `torch.compile` write them, are read without.

        Raises:
            ValueError: weights that the files lack, which would be left as noise; files that cannot be read or do not
                fit (`ModelFileError`); an option that there is not.
        """
        source = pretrained_model_name_or_path
        names = {**WRAPPERS, **(key_mapping or {})}
        kwargs |= {"key_mapping": names, "output_loading_info": True}
        with plainly(f"{source}: the model cannot be loaded", ModelFileError):
            try:
                model, report = super().from_pretrained(source, *model_args, **kwargs)
            except TypeError as error:  # what is no option of loading reaches the constructor
                slips = re.findall(r"unexpected keyword argument '(\w+)'", str(error))
                refuse_unknown_settings(CLCRConfig, dict.fromkeys(slips))
                raise
        if output_loading_info:
            return model, report
        missing = set(report["missing_keys"])
        head = {name for name in model.state_dict() if name.startswith("classifier.")}
        if head <= missing and cls.__name__ not in (model.config.architectures or ()):
            missing -= head
            if model.config.linear_share:
                model.config.linear_share = 0.0  # of the head that is not there
        refuse_missing(source, [] if source is None else sorted(missing), report["unexpected_keys"])
        return model

    @staticmethod
    def load_with_head(source: str | os.PathLike, **kwargs: Any) -> "CLCRPreTrainedModel":
        """
        The model saved in `source`, a folder or a name on the Hub, in the class that its configuration names. (An Auto
        class puts its own head on the weights, whose names are the same for all heads.)

        Args:
            kwargs: as of [`~transformers.PreTrainedModel.from_pretrained`].

        Raises:
            ValueError: weights that the files lack, which would be left as noise, or that are there under other names.
        """
        options = {name: kwargs[name] for name in _HUB_OPTIONS if name in kwargs}
        head = head_class(CLCRConfig.from_pretrained(source, **options))
        model, report = head.from_pretrained(source, **{**kwargs, "output_loading_info": True})
        refuse_missing(source, sorted(report["missing_keys"]), report["unexpected_keys"])
        return model

    def save_pretrained(self, *args, save_original_format: bool = False, **kwargs):
        """As [`~transformers.PreTrainedModel.save_pretrained`]. Weights are written under their plain names unless
        `save_original_format`: with some backbones (ViT, AST, VideoMAE) the legacy names of transformers' default are
        not read back by Trainer, whose resume and best-model loading would silently skip those weights."""
        return super().save_pretrained(*args, save_original_format=save_original_format, **kwargs)

    def _upload_modified_files(self, working_dir, *args, **kwargs):
        # What `push_to_hub` sends also loads with `trust_remote_code=True` alone.
        add_remote_code(working_dir)
        return super()._upload_modified_files(working_dir, *args, **kwargs)

    def get_input_embeddings(self) -> nn.Module | None:
        """The text backbone's word embeddings; None without one, where transformers' own models raise: accelerate asks
        for them before it shards a model, and PEFT before it saves one."""
        encoder = self.base_model.hierarchy.encoders["text"] if "text" in self.config.modalities else None
        return None if encoder is None or encoder.reader is None else encoder.reader.backbone.get_input_embeddings()

    def set_input_embeddings(self, value: nn.Module):
        """Replace the text backbone's word embeddings; NotImplementedError without one."""
        self._refuse_without_words()
        self.base_model.hierarchy.encoders["text"].reader.backbone.set_input_embeddings(value)

    def resize_token_embeddings(self, *args, **kwargs) -> nn.Module:
        """As [`~transformers.PreTrainedModel.resize_token_embeddings`]; NotImplementedError without a text backbone."""
        self._refuse_without_words()
        return super().resize_token_embeddings(*args, **kwargs)

    def _refuse_without_words(self):
        if self.get_input_embeddings() is None:
            raise NotImplementedError("This CLCR model has no text backbone (`text_config.backbone_config`)")

    def fold_bases(self):
        """Compute the orthonormal bases once and fold them into the maps they feed. In `eval()` without gradients the
        model does so by itself, and again when a weight has changed; this is for export, which sees no change of
        weights, and for weights written through `.data`. Under torch.compile nothing is folded. `train()` undoes it.
        Returns the model."""
        if self.config.use_joint_path:
            self.base_model.exchange.fold_bases()
        return self

    @torch.no_grad()
    def set_feature_statistics(self, name: str, mean: torch.Tensor, std: torch.Tensor):
        """
        Sets what modality `name` subtracts from its features and divides them by; saved with the weights, so that a
        user of the model gives features as they come.

        Args:
            name: a modality whose configuration has `feature_norm="standardise"`.
            mean, std: `(D,)`, of the training data. Columns with a spread below 1e-6 are only shifted.

        Raises:
            ValueError: another modality, a wrong shape or values that are not finite.
        """
        encoders = self.base_model.hierarchy.encoders
        scaling = encoders[name].scaling if name in encoders else None
        if scaling is None or not scaling.standardises:
            raise ValueError(f"Modality {name!r} does not standardise: set `feature_norm` in its configuration")
        for label, value in (("mean", mean), ("std", std)):
            if value.shape != scaling.mean.shape or not torch.isfinite(value).all():
                shape = tuple(scaling.mean.shape)
                raise ValueError(f"`{label}` of modality {name!r} must be {shape} and finite, got {tuple(value.shape)}")
        scaling.mean.copy_(mean)
        scaling.std.copy_(torch.where(std < 1e-6, torch.ones_like(std), std))

    @classmethod
    def from_backbones(cls, backbones: dict[str, str], **config_kwargs):
        """
        A CLCR model around pretrained transformers backbones; the fusion starts from random weights.

        Args:
            backbones: hub name or folder of a backbone for each modality, e.g.
                `{"text": "bert-base-uncased", "audio": "facebook/wav2vec2-base"}`. Modalities without a backbone are
                given as usual, e.g. `vision_config={"feature_size": 35}`.
            config_kwargs: fields of [`CLCRConfig`]. A `<modality>_config` dict here is merged with the backbone found;
                `source` is `"taps"` unless it says otherwise.

        Raises:
            ValueError: a backbone for a modality that is not one of text, vision, audio, flow.
        """
        for name, source in backbones.items():
            if name not in STANDARD_MODALITIES:
                raise ValueError(f"`backbones` may hold {list(STANDARD_MODALITIES)}, got {name!r}")
            given = dict(config_kwargs.get(f"{name}_config") or {})
            backbone_config = AutoConfig.from_pretrained(source)
            # A two-tower model such as CLIP: its tower for this modality.
            backbone_config = getattr(backbone_config, f"{name}_config", backbone_config)
            fields = {"source": "taps", "backbone_config": backbone_config, **given}
            config_kwargs[f"{name}_config"] = CLCRModalityConfig(**fields)
        model = cls(CLCRConfig(**config_kwargs))
        for name, source in backbones.items():
            model.base_model.hierarchy.encoders[name].reader.load_pretrained(source)
        return model


class CLCRModel(CLCRPreTrainedModel):
    """
    The bare CLCR model: hierarchy encoder, IntraCED at each level, InterCAD over the levels (arXiv 2602.19605).

    Args:
        config: [`CLCRConfig`].
        per_segment: aggregate each segment on its own (see `config.num_segments`) instead of the whole clip.
    """

    align_tokens = staticmethod(alignment_loss)  # as `correlate` of the heads
    gathers = False  # whether the alignment loss sees all ranks in evaluation too; all of them must then call it

    def __init__(self, config: CLCRConfig, per_segment: bool = False):
        super().__init__(config)
        self.per_segment = per_segment
        self.hierarchy = SemanticHierarchyEncoder(config)
        self.dropout = nn.Dropout(float(config.dropout))
        if config.use_joint_path:
            self.exchange = IntraLevelExchange(config)
            self.aggregation = InterLevelAggregation(config)
        self.post_init()

    @can_return_tuple
    def forward(
        self,
        input_ids: torch.Tensor | None = None,
        attention_mask: torch.Tensor | None = None,
        token_type_ids: torch.Tensor | None = None,
        inputs_embeds: torch.Tensor | None = None,
        text_features: torch.Tensor | None = None,
        text_attention_mask: torch.Tensor | None = None,
        pixel_values: torch.Tensor | None = None,
        vision_features: torch.Tensor | None = None,
        vision_attention_mask: torch.Tensor | None = None,
        input_values: torch.Tensor | None = None,
        audio_features: torch.Tensor | None = None,
        audio_attention_mask: torch.Tensor | None = None,
        flow_pixel_values: torch.Tensor | None = None,
        flow_features: torch.Tensor | None = None,
        flow_attention_mask: torch.Tensor | None = None,
        output_attentions: bool | None = None,
        output_hidden_states: bool | None = None,
        output_last_hidden_state: bool = True,
        output_alignment_loss: bool = False,
        **kwargs,
    ) -> CLCRModelOutput:
        r"""
        Each modality comes either raw or as features, with a mask of its real steps (1 = real; all real by default). A
        modality may be left out of the batch, or of a sample (its mask row all zero).

        Args:
            input_ids (`(B, T)` int64), attention_mask (`(B, T)`), token_type_ids (`(B, T)` int64): words, for a text
                backbone; `inputs_embeds (B, T, D)` in place of ids.
            pixel_values (`(B, F, C, H, W)`): frames, for a vision backbone; mask `vision_attention_mask (B, F)`.
            input_values (`(B, samples)` or `(B, T, mel)`): audio, for an audio backbone; without a backbone the
                `(B, T, mel)` form counts as features. Mask `audio_attention_mask` over its time axis.
            flow_pixel_values (`(B, F, 2, H, W)`): optical flow, for a flow backbone; mask `flow_attention_mask (B, F)`.
            text_features, vision_features, audio_features, flow_features (`(B, T, D)`): ready features, `D` the
                modality's `feature_size`; `(B, L, T, D)` with `source="taps"`. Masks are
                `<modality>_attention_mask (B, T)`.
            output_last_hidden_state: `False` spares the deepest level's tokens.
            output_alignment_loss: compute the alignment loss (see [`CLCRForPreTraining`]).
            **kwargs: `<name>_features` and `<name>_attention_mask` of the user's own modalities (`extra_configs`).

        Raises:
            InputError: no modality given, one that the model does not have, widths or batch sizes that do not fit, none
                of a batch or of a length, a mask without its input, a name that is none of these, what the backbone
                cannot read. (On the CPU ids and labels out of range too; a GPU is not made to wait for their check.)
        """
        if input_ids is not None and inputs_embeds is not None:
            raise InputError("Text was given twice, as `input_ids` and as `inputs_embeds`; give one of them")
        raw = {
            "text": (input_ids if input_ids is not None else inputs_embeds, attention_mask),
            "vision": (pixel_values, vision_attention_mask),
            "audio": (input_values, audio_attention_mask),
            "flow": (flow_pixel_values, flow_attention_mask),
        }
        features = {
            "text": (text_features, text_attention_mask),
            "vision": (vision_features, vision_attention_mask),
            "audio": (audio_features, audio_attention_mask),
            "flow": (flow_features, flow_attention_mask),
        }
        features |= own_features(self.config, kwargs, CLCRModel.forward)
        inputs, masks = collect_inputs(
            self.config, self.hierarchy.encoders, raw, features, token_type_ids, embeds=input_ids is None
        )
        linear = self.config.linear_share and not self.training
        summaries = feature_statistics(self.config, inputs, masks) if linear else None
        encoded = self.hierarchy(inputs, masks)
        if self.training and self.config.modality_dropout:
            self._drop_modalities(encoded)

        attend = self.config.output_attentions if output_attentions is None else output_attentions
        keep = self.config.output_hidden_states if output_hidden_states is None else output_hidden_states
        hidden_states = encoded.tokens.unbind(1) if keep else None
        if hidden_states is not None:  # what follows goes through the tensors handed out, so that they get gradients
            encoded.tokens = torch.stack(hidden_states, dim=1)

        groups = segment_groups(self.config, encoded, self.per_segment)  # (B, M, G, S)
        present = self._squeeze(groups.any(dim=-1).transpose(1, 2))  # (B, [G,] M)
        statistics = None
        if self.config.unimodal_evidence:
            steps = self.per_segment and self.config.num_segments is None
            kinds = self.config.unimodal_statistics or STATISTICS
            statistics = self._squeeze(token_statistics(encoded.tokens, groups, encoded.lengths, steps, kinds))
        fused: dict[str, Any] = {}
        if self.config.use_joint_path:
            fused = self._fuse(encoded, groups, present, bool(attend), output_last_hidden_state, output_alignment_loss)
        return CLCRModelOutput(
            modality_statistics=statistics,
            feature_statistics=summaries,
            present=present,
            token_counts=encoded.membership.sum(dim=-1),
            hidden_states=hidden_states,
            **fused,
        )

    def _fuse(
        self,
        encoded: HierarchyTokens,
        groups: torch.Tensor,
        present: torch.Tensor,
        attend: bool,
        output_last_hidden_state: bool,
        output_alignment_loss: bool,
    ) -> dict[str, Any]:
        """IntraCED and InterCAD: fields of the output."""
        encoded.tokens = self.dropout(encoded.tokens)
        # Checkpointing hands back a bare tuple.
        exchanged = ExchangeOutput(*self.exchange(encoded.tokens, encoded.membership, encoded.lengths, attend))
        summaries = mean_summaries(encoded, exchanged, groups)
        shared, private, lifted, lifted_private = (None if each is None else self._squeeze(each) for each in summaries)
        evidence = None
        if exchanged.agreement is not None and self.config.uses_level_evidence:
            evidence = self._squeeze(level_evidence(exchanged.agreement, groups))
        aggregated = self.aggregation(lifted, lifted_private, present, evidence)
        return {
            "last_hidden_state": deepest_tokens(encoded, exchanged) if output_last_hidden_state else None,
            "pooler_output": aggregated.pooled,
            "level_weights": aggregated.level_weights,
            "modality_weights": aggregated.modality_weights,
            "private_gates": aggregated.private_gates,
            "token_budgets": budgets_by_modality(self.config, encoded, exchanged),
            "budget_statistics": budget_statistics(encoded, exchanged) if self.training else None,
            "shared_summaries": shared,
            "private_summaries": private,
            "common_summaries": lifted,
            "attentions": exchanged.attentions,
            "alignment_loss": self._align(
                exchanged.before, self.exchange.scale() if exchanged.scale is None else exchanged.scale, encoded
            )
            if output_alignment_loss
            else None,
        }

    def _align(self, coordinates: torch.Tensor, scale: torch.Tensor, encoded: HierarchyTokens) -> torch.Tensor:
        return self.align_tokens(
            coordinates,
            scale,
            encoded.membership,
            encoded.lengths,
            self.config.alignment_negatives,
            gather=self.training or self.gathers,
        )

    def _squeeze(self, values: torch.Tensor) -> torch.Tensor:
        """`(B, G, ...)` as it is by segments, `(B, ...)` where the clip is the only one."""
        return values if self.per_segment else values.squeeze(1)

    def _drop_modalities(self, encoded: HierarchyTokens):
        """Modality dropout: in place, each sample loses modalities at random and keeps at least one."""
        present = encoded.membership.any(dim=-1)
        kept = present & (torch.rand(present.shape, device=present.device) >= self.config.modality_dropout)
        kept = torch.where(kept.any(dim=-1, keepdim=True), kept, present)
        encoded.membership = encoded.membership & kept[..., None]
        encoded.tokens = encoded.tokens * encoded.mask[:, None, :, None].to(encoded.tokens.dtype)


def _fetched(module: nn.Module, name: str) -> torch.Tensor:
    """A weight that is read outside its module's own call, from where `device_map` has offloaded it to."""
    weight = getattr(module, name)
    if not weight.is_meta:
        return weight
    # By name: who loads this code alone, and offloads nothing, needs no accelerate.
    with import_module("accelerate.utils").align_module_device(module):
        return getattr(module, name)


class CLCRClassificationHead(nn.Module):
    """`f(z_sh concat u_pr)` (paper): one hidden layer and the output map (our reconstruction). Beside it, ours: the
    modalities' own evidence (`unimodal.py`) and a linear model on statistics of features (`linear_evidence.py`)."""

    def __init__(self, config: CLCRConfig):
        super().__init__()
        dropout = config.dropout if config.classifier_dropout is None else config.classifier_dropout
        self.unimodal = UnimodalReadout(config) if config.unimodal_evidence else None
        self.linear = LinearEvidence(config) if config.linear_share is not None else None
        self.has_joint = config.use_joint_path
        if self.has_joint:
            self.dense = nn.Linear(config.pooled_size, config.hidden_size)
            self.activation = nn.GELU()
            self.dropout = nn.Dropout(float(dropout))
            self.out_proj = nn.Linear(config.hidden_size, config.num_labels)
        else:
            self.own_bias = nn.Parameter(torch.zeros(config.num_labels))

    def reset_parameters(self):
        """The bias that no linear map has."""
        if not self.has_joint:
            init.zeros_(self.own_bias)

    @torch.no_grad()
    def start_anew(self):
        """For other labels than those that were learned: readouts as of a new model."""
        nn.init.zeros_(self.bias())
        if self.unimodal is not None:
            nn.init.zeros_(self.unimodal.weight)
        if self.has_joint:
            nn.init.xavier_uniform_(self.out_proj.weight)

    def bias(self) -> torch.Tensor:
        """`(num_labels,)`, the answer to nothing of the joint path and of own evidence."""
        return _fetched(self.out_proj, "bias") if self.has_joint else _fetched(self, "own_bias")

    def forward(
        self, pooled: torch.Tensor | None, statistics: torch.Tensor | None
    ) -> tuple[torch.Tensor | None, torch.Tensor | None]:
        """
        Args:
            pooled: `(..., pooled_size)`, None without a joint path.
            statistics: `(..., M, K L d)`, None without unimodal evidence.

        Returns:
            What the joint path says, `(..., C)` or None, and the modalities by themselves, `(..., M, C)` or None;
            either is an answer once the bias is added.
        """
        own = None if self.unimodal is None else self.unimodal(statistics)
        if pooled is None:
            return None, own
        hidden_states = self.activation(self.dense(self.dropout(pooled)))
        return nn.functional.linear(self.dropout(hidden_states), _fetched(self.out_proj, "weight")), own


class _CLCRWithHead(CLCRPreTrainedModel):
    """What the two heads share: model, readouts, objective."""

    per_segment = False
    output_class = CLCRSequenceClassifierOutput
    correlate = staticmethod(correlations)  # a trainer whose batch comes in parts puts its own in its place

    def __init__(self, config: CLCRConfig):
        super().__init__(config)
        self.num_labels = config.num_labels
        self.clcr = CLCRModel(config, per_segment=self.per_segment)
        self.classifier = CLCRClassificationHead(config)
        if self.per_segment and config.linear_share is not None:
            raise ValueError("`linear_share` is for labels of clips, not of segments")
        self.post_init()

    @can_return_tuple
    def forward(
        self,
        input_ids: torch.Tensor | None = None,
        attention_mask: torch.Tensor | None = None,
        token_type_ids: torch.Tensor | None = None,
        inputs_embeds: torch.Tensor | None = None,
        text_features: torch.Tensor | None = None,
        text_attention_mask: torch.Tensor | None = None,
        pixel_values: torch.Tensor | None = None,
        vision_features: torch.Tensor | None = None,
        vision_attention_mask: torch.Tensor | None = None,
        input_values: torch.Tensor | None = None,
        audio_features: torch.Tensor | None = None,
        audio_attention_mask: torch.Tensor | None = None,
        flow_pixel_values: torch.Tensor | None = None,
        flow_features: torch.Tensor | None = None,
        flow_attention_mask: torch.Tensor | None = None,
        labels: torch.Tensor | None = None,
        loss_weights: torch.Tensor | None = None,
        output_attentions: bool | None = None,
        output_hidden_states: bool | None = None,
        **kwargs,
    ):
        r"""
        Inputs as in [`CLCRModel.forward`], and:

        Args:
            labels: sequence head: `(B,)` or `(B, C)` float for regression, `(B,)` int64 for one class, `(B, C)` float
                in [0, 1] for several; token head: `(B, G)` int64, -100 where a segment has no label; NaN where one of
                several scores or labels is not there. Of one class also probabilities, float of the logits' shape, as
                mixup makes them.
            loss_weights: `(2 + M,)` float, of a batch that is a part of a larger one: what its means over labels,
                samples and labels of each modality's samples count for in the loss (see `training/global_batch.py`).
        """
        outputs = self.clcr(
            input_ids=input_ids,
            attention_mask=attention_mask,
            token_type_ids=token_type_ids,
            inputs_embeds=inputs_embeds,
            text_features=text_features,
            text_attention_mask=text_attention_mask,
            pixel_values=pixel_values,
            vision_features=vision_features,
            vision_attention_mask=vision_attention_mask,
            input_values=input_values,
            audio_features=audio_features,
            audio_attention_mask=audio_attention_mask,
            flow_pixel_values=flow_pixel_values,
            flow_features=flow_features,
            flow_attention_mask=flow_attention_mask,
            output_attentions=output_attentions,
            output_hidden_states=output_hidden_states,
            output_last_hidden_state=False,
            output_alignment_loss=self.training and labels is not None and bool(self.config.alignment_coef),
            return_dict=True,
            **kwargs,
        )
        joint, own = self.classifier(outputs.pooler_output, outputs.modality_statistics)
        logits, joint_part, own_part = self._answer(outputs, joint, own)
        loss, components = None, None
        if labels is not None:
            check_labels(self.config, logits, labels)
            loss, components = self._objective(outputs, logits, joint, own, labels, loss_weights)
        mean, std = label_scale(self.config, logits)
        return self.output_class(
            loss=loss,
            logits=mean + std * logits,
            modality_logits=None if own_part is None else std * own_part,
            joint_logits=std * joint_part,
            pooler_output=outputs.pooler_output,
            loss_components=components,
            level_weights=outputs.level_weights,
            modality_weights=outputs.modality_weights,
            private_gates=outputs.private_gates,
            token_budgets=outputs.token_budgets,
            token_counts=outputs.token_counts,
            budget_statistics=outputs.budget_statistics,
            hidden_states=outputs.hidden_states,
            attentions=outputs.attentions,
        )

    def _answer(
        self, outputs: CLCRModelOutput, joint: torch.Tensor | None, own: torch.Tensor | None
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor | None]:
        """Logits `(..., C)`, and of them, each with its share, the joint part `(..., C)` and the modalities' own
        `(..., M, C)` or None."""
        share, bias = self.config.effective_own_share, self.classifier.bias()
        own = None if own is None else share * own
        summed = 0 if own is None else own.sum(dim=-2)
        joint = summed * torch.zeros_like(bias) if joint is None else (1 - share) * joint
        logits = bias + joint + summed
        if outputs.feature_statistics is None or self.classifier.linear is None:
            return logits, joint, own
        answer = (logits, joint, own)
        return self.classifier.linear(self.config.linear_share, answer, outputs.feature_statistics, outputs.present)

    def logit_bias(self) -> torch.Tensor:
        """`(num_labels,)`, in the units of the logits: what the model answers without any evidence."""
        bias, share = self.classifier.bias(), self.config.linear_share
        if share and self.classifier.linear is not None:
            bias = (1 - share) * bias + share * _fetched(self.classifier.linear, "bias")
        mean, std = label_scale(self.config, bias)
        return mean + std * bias

    def add_linear_evidence(self):
        """Makes room for a linear model on mean, spread and maximum of the features over time, of which
        [`set_linear_evidence`] then says what it is; until then it says nothing."""
        self.config.linear_share, self.config.linear_statistics = 0.0, list(STATISTICS)
        self.classifier.linear = LinearEvidence(self.config).to(self.device)

    def set_linear_evidence(self, share: float, weight: Any, center: Any, offset: Any, bias: Any):
        """
        Sets the linear model that [`add_linear_evidence`] made room for (see `linear_evidence.py`).

        Args:
            share: of it in the answer, 0 to 1.
            weight, center, offset, bias: as of [`~linear_evidence.LinearEvidence.set`], arrays that give the data's
                units.

        Raises:
            ValueError: a share outside 0 to 1, other shapes, or no room.
        """
        if self.classifier.linear is None or not 0 <= share <= 1:
            raise ValueError(f"add_linear_evidence comes first, and the share lies in [0, 1]; got {share}")
        weight, offset, bias = (torch.as_tensor(each, dtype=torch.float64) for each in (weight, offset, bias))
        mean, std = label_scale(self.config, bias)
        self.classifier.linear.set(weight / std, center, offset / std, (bias - mean) / std)
        self.config.linear_share = float(share)

    def _objective(
        self,
        outputs: CLCRModelOutput,
        logits: torch.Tensor,
        joint: torch.Tensor | None,
        own: torch.Tensor | None,
        labels: torch.Tensor,
        weights: torch.Tensor | None,
    ):
        """In evaluation the loss of the answer. In training the joint path has its loss and own evidence has its: were
        their sum to fit the labels, own evidence would soon know the training rows by heart, and leave the joint path
        nothing to learn from."""
        config = self.config
        parts: dict[str, torch.Tensor] = {}
        if self._regularises(outputs):
            parts = regularisers(
                config,
                shared=self._rows(outputs.shared_summaries),
                private=self._rows(outputs.private_summaries),
                common=self._rows(outputs.common_summaries),
                level_weights=self._rows(outputs.level_weights),
                present=self._rows(outputs.present),
                sync=True,
                correlate=self.correlate,
            )
            if weights is not None:
                parts["inter_mix"] = parts["inter_mix"] * weights[1]
        if self.training and own is not None and outputs.present is not None:
            parts["unimodal"] = unimodal_loss(config, self.classifier.bias(), own, outputs.present, labels, weights)
            logits = logits if joint is None else self.classifier.bias() + joint
        if outputs.alignment_loss is not None:
            parts["alignment"] = outputs.alignment_loss
        task = task_loss(config, logits, labels)
        components = combine(config, task if weights is None else task * weights[0], parts)
        return total_loss(config, components), components

    def _regularises(self, outputs: CLCRModelOutput) -> bool:
        """In training alone. (A batch too small for the correlations gives 0 for them; see `regularisers`.)"""
        wanted = self.config.lambda_intra or self.config.lambda_inter
        return bool(self.training and wanted and outputs.common_summaries is not None)

    def _rows(self, summaries: torch.Tensor | None) -> Any:
        """One row of the statistics a sample, or a segment where the model works by segments."""
        return summaries.flatten(0, 1) if self.per_segment and summaries is not None else summaries


class CLCRForSequenceClassification(_CLCRWithHead):
    """CLCR with one label a clip: regression, one class or several, by `config.problem_type` as in transformers."""


class CLCRForTokenClassification(_CLCRWithHead):
    """CLCR with one label a time segment: events in AVE (`config.num_segments=10`), utterances of a dialogue
    (`num_segments=None`, one a time step). The aggregation of InterCAD runs segment by segment (our reconstruction)."""

    per_segment = True
    output_class = CLCRTokenClassifierOutput


class CLCRForPreTraining(CLCRPreTrainedModel):
    """
    The alignment stage (our extension): [`CLCRModel`] trained without labels, so that tokens of different modalities of
    one sample fit each other better, in their shared coordinates, than those of other samples (see `alignment.py`).
    Every head loads the result through `from_pretrained`. `evidence="agreement"` needs it.

    Args:
        config: [`CLCRConfig`] with two modalities or more and `use_joint_path`.

    Raises:
        ValueError: another configuration, which has nothing to align.
    """

    def __init__(self, config: CLCRConfig):
        super().__init__(config)
        if not (config.has_exchange and config.use_joint_path):
            raise ValueError("The alignment stage needs two modalities or more, and `use_joint_path=True`")
        self.clcr = CLCRModel(config)
        self.post_init()

    @classmethod
    def around(cls, head: CLCRPreTrainedModel) -> "CLCRForPreTraining":
        """The stage of a model that is there: it learns in place, and no second set of weights is made."""
        with torch.device("meta"):
            stage = cls(head.config)
        stage.clcr = head.base_model
        return stage

    @can_return_tuple
    def forward(self, labels: torch.Tensor | None = None, **inputs) -> CLCRPreTrainingOutput:
        """`inputs` as of [`CLCRModel.forward`]; `labels` are not looked at, so that labelled rows serve too."""
        outputs = self.clcr(**inputs, output_last_hidden_state=False, output_alignment_loss=True)
        loss = outputs.alignment_loss
        return CLCRPreTrainingOutput(
            loss=loss,
            loss_components={"alignment": loss},
            pooler_output=outputs.pooler_output,
            level_weights=outputs.level_weights,
            token_budgets=outputs.token_budgets,
            budget_statistics=outputs.budget_statistics,
        )


def head_class(config: CLCRConfig) -> type[CLCRPreTrainedModel]:
    """The class that a saved configuration names in `architectures`; the one for clips where it names none of ours."""
    heads = (CLCRModel, CLCRForPreTraining, CLCRForSequenceClassification, CLCRForTokenClassification)
    classes = {each.__name__: each for each in heads}
    named = [classes[name] for name in config.architectures or [] if name in classes]
    return named[0] if named else CLCRForSequenceClassification


__all__ = [
    "CLCRForPreTraining",
    "CLCRForSequenceClassification",
    "CLCRForTokenClassification",
    "CLCRModel",
    "CLCRModelOutput",
    "CLCRPreTrainedModel",
    "CLCRPreTrainingOutput",
    "CLCRSequenceClassifierOutput",
    "CLCRTokenClassifierOutput",
    "head_class",
]
