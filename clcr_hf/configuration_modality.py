"""Configuration of one modality of a CLCR model."""

# No `from __future__ import annotations` here: it silently switches off the strict validation of transformers 5.

from typing import Any, Literal

from huggingface_hub.dataclasses import strict
from transformers import CONFIG_MAPPING, AutoConfig, PreTrainedConfig
from transformers.configuration_utils import SubConfigSpec

from .checks import (
    MOST,
    check,
    check_backbone,
    check_count,
    check_counts,
    check_finite,
    did_you_mean,
    refuse_unknown_settings,
)
from .errors import SettingsError, plain_settings


@plain_settings
@strict
class CLCRModalityConfig(PreTrainedConfig):
    r"""
    How one modality becomes `num_levels` levels of tokens (paper, semantic-hierarchy encoder).

    Args:
        feature_size (`int`, *optional*):
            Width `D` of ready-made features `(B, T, D)`. Needed when there is no backbone.
        backbone_config (`dict` or `PreTrainedConfig`, *optional*):
            Configuration of a transformers backbone that reads the raw input. A dict must hold `model_type`.
        source (`"tcn"` or `"taps"`, defaults to `"tcn"`):
            `"tcn"`: a three-stage temporal convolutional network over features or over the backbone's last state.
            `"taps"`: the backbone's hidden states (or stages) at `taps`; without a backbone, features `(B, L, T, D)`
            already taken at `L` layers.
        taps (`list[int]`, *optional*):
            Indices into the backbone's `hidden_states` (0 is the embedding), one a level. Default: evenly spaced and
            ending at the last (`N/3, 2N/3, N` for three levels, our reconstruction); for staged backbones such as
            ResNet, the last stages.
        freeze_backbone (`bool`, defaults to `False`):
            Run the backbone in evaluation mode under `no_grad`.
        feature_norm (`"layer_norm"`, `"standardise"` or `"none"`, defaults to `"layer_norm"`):
            How features (or a backbone's last state) are scaled before the TCN. `"standardise"` uses the mean and
            spread of each column, kept with the weights; see `set_feature_statistics` of the model. Our extension.
        token_grid (`int`, defaults to 1):
            Image backbones only: each frame gives `token_grid ** 2` tokens (spatial average pooling). 1 is one
            token a frame.
        tcn_channels (`int`, *optional*): Width of the TCN; default `hidden_size` of the model.
        tcn_kernel_size (`int`, defaults to 3): Odd kernel length of the TCN.
        tcn_dilations (`list[list[int]]`, *optional*):
            Dilations of the residual blocks of each stage, one stage a level. Default (our reconstruction):
            `[[1, 2], [4, 8], [16, 32]]` for three levels, and on in powers of two for more.
        tcn_stride (`int`, defaults to 1):
            Stride of the TCN's input layer: shortens long sequences such as spectrograms. Our extension.
    """

    model_type = "clcr_modality"
    sub_configs_defaults = {"backbone_config": SubConfigSpec(config_class=AutoConfig, model_type="bert", optional=True)}

    feature_size: int | None = None
    backbone_config: dict | PreTrainedConfig | None = None
    source: Literal["tcn", "taps"] = "tcn"
    taps: list[int] | None = None
    freeze_backbone: bool = False
    feature_norm: Literal["layer_norm", "standardise", "none"] = "layer_norm"
    token_grid: int = 1
    tcn_channels: int | None = None
    tcn_kernel_size: int = 3
    tcn_dilations: list[list[int]] | None = None
    tcn_stride: int = 1

    def __post_init__(self, **kwargs):
        if isinstance(self.backbone_config, dict) and "model_type" not in self.backbone_config:
            raise ValueError("`backbone_config` given as a dict must hold `model_type`, e.g. {'model_type': 'bert'}")
        if isinstance(self.backbone_config, dict) and self.backbone_config["model_type"] not in CONFIG_MAPPING:
            kind = self.backbone_config["model_type"]
            hint = did_you_mean(kind, CONFIG_MAPPING)
            raise SettingsError(f"`backbone_config`: transformers has no model_type {kind!r}{hint}")
        refuse_unknown_settings(type(self), kwargs)
        super().__post_init__(**kwargs)

    def stage_dilations(self, num_levels: int) -> list[list[int]]:
        """Dilations of the TCN's stages for a model of `num_levels` levels."""
        return self.tcn_dilations or [[4**level, 2 * 4**level] for level in range(num_levels)]

    def validate_sizes(self):
        """Sizes must be positive and no larger than can be built, the kernel odd."""
        for name in ("taps", "tcn_dilations"):  # before any of it is looked through
            lists = [getattr(self, name) or [], *(getattr(self, name) or [])]
            if any(len(each) > MOST["num_levels"] for each in lists[:66] if isinstance(each, list)):
                raise ValueError(f"`{name}` must hold at most {MOST['num_levels']} entries in each list")
        if isinstance(self.backbone_config, PreTrainedConfig):
            check_backbone(self.backbone_config)
        check_finite(self)
        check_counts(self, ("feature_size", "token_grid", "tcn_channels", "tcn_kernel_size", "tcn_stride"))
        check(self, ("tcn_kernel_size",), lambda size: size % 2 == 1, "be odd")
        if not all(self.tcn_dilations or [[1]]):
            raise ValueError(f"`tcn_dilations` must hold a non-empty list for each stage, got {self.tcn_dilations}")
        for dilation in (each for stage in self.tcn_dilations or [] for each in stage):
            check_count("tcn_dilations", dilation)


def as_modality_config(field: str, value: Any) -> "CLCRModalityConfig":
    """`value` (dict or config) as a `CLCRModalityConfig`, or an error that names `field`."""
    if isinstance(value, CLCRModalityConfig):
        return value
    if isinstance(value, dict):
        refuse_unknown_settings(CLCRModalityConfig, value, f"`{field}`: ")
        return CLCRModalityConfig(**{key: item for key, item in value.items() if key != "model_type"})
    raise TypeError(f"`{field}` must be a dict or a CLCRModalityConfig, got {type(value).__name__}")


__all__ = ["CLCRModalityConfig", "as_modality_config"]
