"""Semantic-hierarchy encoder (paper, section "Semantic-Hierarchy Encoder"; details are our reconstruction).

Each modality `m` becomes `L` aligned levels `H_l^(m) = LN(Z_l^(m) W_l^(m) + P_l^(m))`, shape `(B, T_m, d)`. The source
`Z_l` is a hidden state of a transformers backbone ("taps") or a stage of a temporal convolutional network ("tcn").
The levels of all modalities are then laid side by side on one token axis, so that what follows needs no loop over
modalities, levels or tokens: `tokens (B, L, S, d)` with `S = sum_m T_m`.
"""

import inspect
import math
from dataclasses import dataclass

import torch
from torch import nn
from torch.nn import functional as F
from transformers import AutoModel, PreTrainedConfig
from transformers import initialization as init
from transformers.modeling_layers import GradientCheckpointingLayer

from .configuration_clcr import CLCRConfig, CLCRModalityConfig
from .cross_modal import modality_ids
from .errors import InputError, in_one_line
from .loading import WRAPPERS, refuse_missing
from .ops import in_step

try:  # internal to transformers: without it everything works but torch.compile(fullgraph=True) before a first call
    from transformers.utils.output_capturing import maybe_install_capturing_hooks
except ImportError:  # pragma: no cover

    def maybe_install_capturing_hooks(model: nn.Module) -> None:
        """Nothing to install."""


# Backbones that read a whole clip `(B, F, C, H, W)`; every other vision backbone reads frames one by one.
VIDEO_MODEL_TYPES = ("videomae", "vivit")
# Parts of backbones that no token depends on (the embedding is of masked frames in training), often not in the files.
_UNUSED_WEIGHTS = ("pooler", "masked_spec_embed")


@dataclass
class HierarchyTokens:
    """Tokens of all modalities on one axis.

    Attributes:
        tokens: `(B, L, S, d)`, exactly zero where they are not real; before dropout.
        membership: `(B, M, S)` bool, the real tokens of each modality, in the order of `config.modalities`.
        lengths: number of token positions `T_m` of each modality in the batch (0 when left out), in order.
    """

    tokens: torch.Tensor
    membership: torch.Tensor
    lengths: list[int]

    @property
    def mask(self) -> torch.Tensor:
        """`(B, S)` bool, true for real tokens."""
        return self.membership.any(dim=1)


def sinusoidal_positions(length: int, width: int, device: torch.device) -> torch.Tensor:
    """Sinusoidal positions `(length, width)`, float32, of unit mean square; any length works (Vaswani et al. 2017)."""
    half = (width + 1) // 2
    frequencies = torch.exp(torch.arange(half, device=device, dtype=torch.float32) * (-math.log(10000.0) / half))
    angles = torch.arange(length, device=device, dtype=torch.float32)[:, None] * frequencies
    return math.sqrt(2.0) * torch.stack((angles.sin(), angles.cos()), dim=-1).flatten(1)[:, :width]


class FeatureScaling(nn.Module):
    """Brings features `(..., D)` to a common scale before anything learns from them (our extension).

    `kind` is `feature_norm` of the modality's configuration: `"layer_norm"` (within each token), `"standardise"` (by
    the mean and spread of each column, kept with the weights; see `set_feature_statistics` of the model) or `"none"`.
    """

    def __init__(self, kind: str, width: int, eps: float):
        super().__init__()
        self.mean: torch.Tensor
        self.std: torch.Tensor
        self.norm = nn.LayerNorm(width, eps=eps) if kind == "layer_norm" else None
        self.standardises = kind == "standardise"
        if self.standardises:
            self.register_buffer("mean", torch.zeros(width))
            self.register_buffer("std", torch.ones(width))

    def reset_statistics(self):
        """No shift and no scale until `set_feature_statistics` says otherwise."""
        if self.standardises:
            init.zeros_(self.mean)
            init.ones_(self.std)

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        if self.norm is not None:
            return self.norm(features)
        if self.standardises:
            return ((features - self.mean) / self.std).to(features.dtype)
        return features


class DilatedConv1d(nn.Conv1d):
    """Convolution over time, `(B, C, T)` to the same. For a clip of few tokens on a CPU torch takes a slow loop over
    channels; there one product with all that a token sees is twice as fast."""

    FEW = 20480  # numbers in a clip, up to which torch loops

    def forward(self, input: torch.Tensor) -> torch.Tensor:
        (size,), (dilation,), padding = self.kernel_size, self.dilation, int(self.padding[0])
        loops = input.device.type == "cpu" and dilation > 1 and not torch.compiler.is_compiling()
        exporting = torch.compiler.is_exporting()
        if not exporting and (not loops or input.shape[0] > 1 or input.numel() > self.FEW):
            return super().forward(input)
        padded = F.pad(input.transpose(1, 2), (0, 0, padding, padding))
        if exporting:  # one product here too, of what lies in the order of memory; ends are counted from the end
            ends = [tap * dilation - dilation * (size - 1) or None for tap in range(size)]
            taps = [padded[:, tap * dilation : end] for tap, end in enumerate(ends)]
            taps[size // 2] = input.transpose(1, 2)
            return F.linear(torch.cat(taps, dim=-1), self.weight.transpose(1, 2).flatten(1), self.bias).transpose(1, 2)
        if torch.is_grad_enabled():  # the gradient of `unfold` is slow
            seen = torch.stack([padded[:, tap * dilation :][:, : input.shape[2]] for tap in range(size)], dim=-1)
        else:
            seen = padded.unfold(1, dilation * (size - 1) + 1, 1)[..., ::dilation]
        return F.linear(seen.flatten(2), self.weight.flatten(1), self.bias).transpose(1, 2)


class TemporalBlock(nn.Module):
    """Residual dilated convolution over time; `(B, T, C)` to `(B, T, C)`. Layer norm acts within a token, and the
    convolution sees zeros where padded: no padding has a say in real tokens. What comes out there means nothing."""

    def __init__(self, channels: int, kernel_size: int, dilation: int, dropout: float, eps: float):
        super().__init__()
        self.norm = nn.LayerNorm(channels, eps=eps)
        padding = dilation * (kernel_size - 1) // 2
        self.conv = DilatedConv1d(channels, channels, kernel_size, padding=padding, dilation=dilation)
        self.proj = nn.Linear(channels, channels)
        self.dropout = nn.Dropout(dropout)

    def forward(self, hidden_states: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        update = self.norm(hidden_states).to(hidden_states.dtype) * mask
        update = self.conv(update.transpose(1, 2)).transpose(1, 2)
        update = self.dropout(self.proj(F.gelu(update)))
        return hidden_states + update


class TemporalStage(GradientCheckpointingLayer):
    """One stage of the TCN: a residual block for each of its dilations."""

    def __init__(self, channels: int, kernel_size: int, dilations: list[int], dropout: float, eps: float):
        super().__init__()
        self.blocks = nn.ModuleList(TemporalBlock(channels, kernel_size, each, dropout, eps) for each in dilations)

    def forward(self, hidden_states: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        for block in self.blocks:
            hidden_states = block(hidden_states, mask)
        return hidden_states


class TemporalConvNet(nn.Module):
    """TCN of one stage a level with growing receptive fields (paper). `(B, T, D)` to `L` tensors `(B, T', C)`.

    `T' = ceil(T / stride)`: with a stride, that many neighbouring steps are projected together to one token.
    """

    def __init__(self, config: CLCRConfig, modality: CLCRModalityConfig, in_features: int):
        super().__init__()
        self.stride = modality.tcn_stride
        self.channels = modality.tcn_channels or config.hidden_size
        self.input_proj = nn.Linear(in_features * self.stride, self.channels)
        dropout = float(config.dropout)
        self.stages = nn.ModuleList(
            TemporalStage(self.channels, modality.tcn_kernel_size, dilations, dropout, config.layer_norm_eps)
            for dilations in modality.stage_dilations(config.num_levels)
        )
        self.dropout = nn.Dropout(dropout)

    def forward(self, features: torch.Tensor, mask: torch.Tensor) -> tuple[list[torch.Tensor], torch.Tensor]:
        """Levels `[(B, T', C)] * L` and their mask `(B, T')` bool, of `features (B, T, D)` and `mask (B, T)` bool."""
        hidden_states = features * mask[..., None].to(features.dtype)
        if self.stride > 1:
            hidden_states, mask = self._fold_steps(hidden_states, mask)
        keep = mask[..., None].to(hidden_states.dtype)
        hidden_states = self.dropout(self.input_proj(hidden_states)) * keep
        levels = []
        for stage in self.stages:
            hidden_states = stage(hidden_states, keep.to(hidden_states.dtype))
            levels.append(hidden_states)
        return levels, mask

    def _fold_steps(self, features: torch.Tensor, mask: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        # In this form torch.export keeps any length free.
        steps = (features.shape[1] + self.stride - 1) // self.stride
        missing = steps * self.stride - features.shape[1]
        features = F.pad(features, (0, 0, 0, missing)).unflatten(1, (steps, self.stride)).flatten(2)
        return features, F.pad(mask, (0, missing)).unflatten(1, (steps, self.stride)).any(dim=-1)


def backbone_depth(config: PreTrainedConfig) -> int:
    """Number of layers (or stages) of a backbone, that is, its hidden states less the embedding."""
    if getattr(config, "hidden_sizes", None) is not None:
        return len(config.hidden_sizes)
    return config.num_hidden_layers


def default_taps(config: PreTrainedConfig, num_levels: int) -> list[int]:
    """Indices of the hidden states that feed the levels: evenly spaced and ending at the last layer; the last stages
    for staged networks (our reconstruction)."""
    depth = backbone_depth(config)
    if getattr(config, "hidden_sizes", None) is not None:
        return [max(depth - num_levels + 1 + level, 1) for level in range(num_levels)]
    return [round((level + 1) * depth / num_levels) for level in range(num_levels)]


def tap_width(config: PreTrainedConfig, tap: int) -> int:
    """Width of hidden state number `tap` of a backbone."""
    if getattr(config, "hidden_sizes", None) is not None:
        return config.hidden_sizes[max(tap, 1) - 1]
    return config.hidden_size


def tower_config(config: PreTrainedConfig, modality: str) -> PreTrainedConfig:
    """The part of a two-tower model (CLIP, SigLIP, CLAP) that reads `modality`; any other configuration as it is."""
    tower = getattr(config, f"{modality}_config", None)
    return tower if isinstance(tower, PreTrainedConfig) else config


def resize_mask(mask: torch.Tensor, length: int) -> torch.Tensor:
    """`mask (B, T)` bool brought to `length` steps that cover the same time; a step is real when its first is."""
    if mask.shape[1] == length:
        return mask
    index = torch.arange(length, device=mask.device) * mask.shape[1] // length
    return mask[:, index]


class BackboneReader(nn.Module):
    """A transformers backbone whose hidden states come out as tokens `(B, T, C)`, one tensor a tap.

    Args:
        modality: `"text"`, `"vision"`, `"audio"` or `"flow"`.
        config: the modality's configuration, with `backbone_config`.
        taps: indices into the backbone's hidden states.

    Note: batch normalisation inside a backbone (ResNet) sees padded frames while it trains; in evaluation nothing
    depends on padding.
    """

    def __init__(self, modality: str, config: CLCRModalityConfig, taps: list[int]):
        super().__init__()
        self.modality = modality
        self.taps = taps
        self.grid = config.token_grid
        self.frozen = config.freeze_backbone
        backbone_config = config.backbone_config
        if not isinstance(backbone_config, PreTrainedConfig):
            raise TypeError(f"`{modality}_config.backbone_config` must be given to read raw {modality} input")
        # Layer drop (wav2vec2 and its kin, Whisper) would take away whole layers in training, taps among them.
        for option in ("layerdrop", "encoder_layerdrop"):
            if getattr(backbone_config, option, 0):
                setattr(backbone_config, option, 0.0)
        backbone = AutoModel.from_config(backbone_config, **self._unused_parts(backbone_config))
        if getattr(backbone_config, "is_encoder_decoder", False):
            backbone = backbone.get_encoder()
        # Backbones hook themselves at their first call, under a lock that torch.compile cannot trace: do it now.
        maybe_install_capturing_hooks(backbone)
        self.backbone = backbone
        self.reads_clips = backbone_config.model_type in VIDEO_MODEL_TYPES
        parameters = inspect.signature(backbone.forward).parameters
        self.accepts_token_types = "token_type_ids" in parameters
        self.accepts_mask = "attention_mask" in parameters
        self.input_name = next(
            (name for name in ("input_ids", "pixel_values", "input_values", "input_features") if name in parameters),
            backbone.main_input_name,
        )
        # Whisper's features are (B, mel, T), all other raw inputs have time behind the batch.
        self.time_axis = 2 if self.input_name == "input_features" else 1
        if self.frozen:
            self.backbone.requires_grad_(False)

    def load_pretrained(self, source: str):
        """Takes over the weights of the backbone saved at `source` (hub name or folder); ValueError where its files
        lack some that are used."""
        config = self.backbone.config
        options = {**self._unused_parts(config), "key_mapping": WRAPPERS, "output_loading_info": True}
        pretrained, report = AutoModel.from_pretrained(source, config=config, **options)
        unused = {*_UNUSED_WEIGHTS}
        if config.is_encoder_decoder:
            pretrained = pretrained.get_encoder()
            unused.add("decoder")
        missing = [name for name in report["missing_keys"] if not unused & set(name.split("."))]
        refuse_missing(source, missing, report["unexpected_keys"])
        self.backbone.load_state_dict(pretrained.state_dict())

    @staticmethod
    def _unused_parts(config: PreTrainedConfig) -> dict[str, bool]:
        """Leave out the pooler where the class lets us: its weights would never get a gradient."""
        model_class = AutoModel._model_mapping[type(config)]
        model_class = model_class[0] if isinstance(model_class, tuple) else model_class
        parameters = inspect.signature(model_class.__init__).parameters
        return {name: False for name in ("add_pooling_layer", "use_mask_token") if name in parameters}

    def train(self, mode: bool = True):
        super().train(mode)
        if self.frozen:
            self.backbone.eval()
        return self

    def forward(self, inputs: dict[str, torch.Tensor], mask: torch.Tensor) -> tuple[list[torch.Tensor], torch.Tensor]:
        """Tapped tokens `[(B, T, C_l)] * L` and their mask `(B, T)` bool; `mask` marks the raw input's real steps."""
        present = mask.any(dim=1, keepdim=True)
        # A wholly missing sample would give attention rows without keys: let it see one step, and mask it afterwards.
        first = torch.zeros_like(mask)
        first[:, 0] = True
        safe_mask = mask | (first & ~present)
        with torch.set_grad_enabled(torch.is_grad_enabled() and not self.frozen):
            if self.modality == "text":
                levels, token_mask = self._read_text(inputs, safe_mask)
            elif self.modality == "audio":
                levels, token_mask = self._read_audio(inputs["values"], safe_mask)
            else:
                levels, token_mask = self._read_frames(inputs["values"], safe_mask)
        return levels, token_mask & present

    def _tapped(self, **inputs) -> list[torch.Tensor]:
        outputs = self._run(inputs)
        hidden_states = list(outputs.hidden_states)
        # The last one with its final norm, which some backbones (ViT) leave out of `hidden_states`: this is what they
        # were trained to give, and the norm's weights get their gradient.
        if outputs.last_hidden_state.shape == hidden_states[-1].shape:
            hidden_states[-1] = outputs.last_hidden_state
        return [hidden_states[tap] for tap in self.taps]

    def _run(self, inputs):
        """What the backbone gives; `InputError` for ids beyond its vocabulary, a sequence too long for it."""
        arguments = {**inputs, "output_hidden_states": True, "return_dict": True}
        if torch.compiler.is_compiling():
            return self.backbone(**arguments)
        try:
            return self.backbone(**arguments)
        except (IndexError, RuntimeError, ValueError, TypeError) as error:
            if type(error) not in (IndexError, RuntimeError, ValueError, TypeError):
                raise  # a device's, want of memory, other processes
            shapes = {name: tuple(value.shape) for name, value in inputs.items() if hasattr(value, "shape")}
            config = self.backbone.config
            limits = {name: getattr(config, name, None) for name in ("vocab_size", "max_position_embeddings")}
            known = ", ".join(f"{name} {value}" for name, value in limits.items() if value is not None)
            known = f"; the backbone has {known}" if self.modality == "text" and known else ""
            what = f"the backbone of modality {self.modality!r} cannot read its input {shapes}"
            raise InputError(f"{what}: {in_one_line(error)}{known}") from error

    def _read_text(self, inputs, mask):
        arguments = {"attention_mask": mask.long()}
        if self.accepts_token_types and inputs.get("token_type_ids") is not None:
            arguments["token_type_ids"] = inputs["token_type_ids"]
        key = "inputs_embeds" if inputs.get("inputs_embeds") is not None else "input_ids"
        return self._tapped(**{key: inputs[key]}, **arguments), mask

    def _read_audio(self, values, mask):
        dtype = self.backbone.dtype
        if self.input_name == "pixel_values":  # spectrogram (B, T, mel) as an image with one channel
            maps = self._tapped(pixel_values=values.to(dtype).transpose(1, 2)[:, None])
            length = maps[-1].shape[-1]
            levels = [F.adaptive_avg_pool2d(level, (1, length))[:, :, 0].transpose(1, 2) for level in maps]
            return levels, resize_mask(mask, length)
        arguments = {"attention_mask": mask.long()} if self.accepts_mask and values.dim() == 2 else {}
        levels = self._tapped(**{self.input_name: values.to(dtype)}, **arguments)
        config = self.backbone.config
        if hasattr(config, "frequency_stride"):  # AST: a grid of frequency by time, behind two special tokens
            rows = (config.num_mel_bins - config.patch_size) // config.frequency_stride + 1
            levels = [level[:, 2:].unflatten(1, (rows, -1)).mean(dim=1) for level in levels]
        length = levels[-1].shape[1]
        if hasattr(self.backbone, "_get_feature_vector_attention_mask"):
            return levels, self.backbone._get_feature_vector_attention_mask(length, mask.long()).bool()
        return levels, resize_mask(mask, length)

    def _read_frames(self, values, mask):
        batch, frames = values.shape[:2]
        values = values.to(self.backbone.dtype)
        if self.reads_clips:
            levels = self._tapped(pixel_values=values)
            tubelet = self.backbone.config.tubelet_size
            frames = frames // (tubelet if isinstance(tubelet, int) else tubelet[0])
            levels = [level[:, level.shape[1] % frames :].unflatten(1, (frames, -1)).flatten(0, 1) for level in levels]
        else:
            levels = self._tapped(pixel_values=values.flatten(0, 1))
        sides = self._patch_grid(*values.shape[-2:])
        levels = [self._pool_grid(level, sides).unflatten(0, (batch, frames)).flatten(1, 2) for level in levels]
        mask = resize_mask(mask, frames)
        return levels, mask.repeat_interleave(self.grid**2, dim=1)

    def _patch_grid(self, height: int, width: int) -> tuple[int, int] | None:
        """Rows and columns of patches of an image; None for backbones that state no plain patch size."""
        patch = getattr(self.backbone.config, "patch_size", None)
        if isinstance(patch, int):
            return height // patch, width // patch
        return None

    def _pool_grid(self, level: torch.Tensor, sides: tuple[int, int] | None) -> torch.Tensor:
        """Patches `(N, P, C)` or a map `(N, C, H, W)` of one frame to `(N, grid ** 2, C)`."""
        if level.dim() == 3:
            if sides is None or not 0 < sides[0] * sides[1] <= level.shape[1]:  # merged patches: take them as a square
                sides = (math.isqrt(level.shape[1]),) * 2
            rows, columns = sides
            # Special tokens (class, registers) come first.
            level = level[:, level.shape[1] - rows * columns :].transpose(1, 2).unflatten(2, (rows, columns))
        return F.adaptive_avg_pool2d(level, self.grid).flatten(2).transpose(1, 2)


class ModalityEncoder(nn.Module):
    """One modality's input to its levels `(B, L, T, d)`; `H_l = LN(Z_l W_l + P_l)` (paper).

    With `use_hierarchy=False` the deepest level alone comes out (`L = 1`).
    """

    def __init__(self, config: CLCRConfig, name: str):
        super().__init__()
        modality = config.modality_config(name)
        self.hidden_size = config.hidden_size
        self.source = modality.source
        num_levels = config.num_levels
        self.reader = None
        widths = [modality.feature_size or 0] * num_levels
        if modality.backbone_config is not None:
            depth = backbone_depth(modality.backbone_config)
            taps = modality.taps or default_taps(modality.backbone_config, num_levels)
            if any(not 0 <= tap <= depth for tap in taps):
                raise ValueError(f"`{name}_config.taps` {taps} must lie in 0..{depth}, the backbone's hidden states")
            if self.source == "tcn":
                taps = [depth]
            self.reader = BackboneReader(name, modality, taps)
            widths = [tap_width(modality.backbone_config, tap) for tap in taps]
        self.feature_width = widths[0]
        # Tapped layers go straight to their own projection and norm.
        scales = self.reader is None or self.source == "tcn"
        kind = modality.feature_norm if scales else "none"
        self.scaling = FeatureScaling(kind, self.feature_width, config.layer_norm_eps)
        self.tcn = None
        if self.source == "tcn":
            self.tcn = TemporalConvNet(config, modality, widths[0])
            widths = [self.tcn.channels] * num_levels
        # The ablation without hierarchy keeps the deepest level; the others get no weights that would sit unused.
        self.kept_levels = list(range(num_levels)) if config.use_hierarchy else [num_levels - 1]
        self.projections = nn.ModuleList(nn.Linear(widths[level], config.hidden_size) for level in self.kept_levels)
        self.norms = nn.ModuleList(
            nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps) for _ in self.kept_levels
        )
        self.position_scale = nn.Parameter(torch.full((len(self.kept_levels),), float(config.position_scale)))

    def forward(self, inputs: dict[str, torch.Tensor], mask: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Levels `(B, L, T, d)`, zero where padded, and the mask `(B, T)` bool."""
        if "features" in inputs:
            levels, mask = self._levels_of_features(inputs["features"], mask)
        else:
            if self.reader is None:
                raise ValueError("Raw input for a modality without a backbone")
            levels, mask = self.reader(inputs, mask)
            if self.tcn is not None:
                levels, mask = self.tcn(self.scaling(levels[0]), mask)
        return self._project([levels[level] for level in self.kept_levels], mask), mask

    def _levels_of_features(self, features, mask):
        features = features.to(self.projections[0].weight.dtype)
        # Padding may hold anything, NaN included: it is replaced, not multiplied.
        keep = mask[..., None] if features.dim() == 3 else mask[:, None, :, None]
        features = torch.where(keep, features, torch.zeros((), dtype=features.dtype, device=features.device))
        features = self.scaling(features) * keep.to(features.dtype)
        if self.tcn is not None:
            return self.tcn(features, mask)
        return list(features.unbind(1)), mask

    def _project(self, levels: list[torch.Tensor], mask: torch.Tensor) -> torch.Tensor:
        positions = sinusoidal_positions(mask.shape[1], self.hidden_size, mask.device)
        outputs = []
        for level, scale, project, norm in zip(levels, self.position_scale, self.projections, self.norms, strict=True):
            hidden_states = project(level)
            outputs.append(norm(hidden_states + (scale * positions).to(hidden_states.dtype)))
        return torch.stack(outputs, dim=1) * mask[:, None, :, None].to(outputs[0].dtype)


class SemanticHierarchyEncoder(nn.Module):
    """All modalities to [`HierarchyTokens`]. Under `level_mixing="full_mix"` (ablation) modality number `m` has its
    levels turned by `m` places, so that tokens of different levels meet in the exchange."""

    def __init__(self, config: CLCRConfig):
        super().__init__()
        self.config = config
        self.encoders = nn.ModuleDict({name: ModalityEncoder(config, name) for name in config.modalities})

    def forward(self, inputs: dict[str, dict[str, torch.Tensor]], masks: dict[str, torch.Tensor]) -> HierarchyTokens:
        """`inputs[name]` holds `features (B, T, D)`, or raw `values` (or `input_ids` and friends); `masks[name]` is
        `(B, T)` bool over the raw input's steps. Modalities may be left out, not all."""
        tokens, token_masks, lengths = [], [], []
        for index, name in enumerate(self.config.modalities):
            if name not in inputs:
                lengths.append(0)
                continue
            levels, mask = self.encoders[name](inputs[name], masks[name])
            if self.config.level_mixing == "full_mix":
                levels = levels.roll(index, dims=1)
            tokens.append(levels)
            token_masks.append(mask)
            lengths.append(mask.shape[1])
        real = torch.cat(token_masks, dim=1)
        modalities = torch.arange(len(lengths), device=real.device)
        membership = (modality_ids(lengths, real.device) == modalities[:, None])[None] & real[:, None]
        joined = torch.cat(tokens, dim=2)
        absent = [self.encoders[name] for name in self.config.modalities if name not in inputs]
        if self.training and absent:
            joined = in_step(joined, (weight for encoder in absent for weight in encoder.parameters()))
        return HierarchyTokens(joined, membership, lengths)
