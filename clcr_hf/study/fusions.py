"""Other ways to join the modalities' tokens, in CLCR's place.

All else is CLCR's: encoders, own evidence and its loss, statistics, linear model, shares. So a difference is that of
the fusion alone.
"""

from collections.abc import Sequence
from functools import cache
from importlib import import_module
from typing import Any

import torch
from torch import nn
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence

from ..configuration_clcr import CLCRConfig
from ..hierarchy import HierarchyTokens, TemporalStage, sinusoidal_positions
from ..modeling_clcr import CLCRForSequenceClassification, CLCRForTokenClassification, CLCRModel, CLCRPreTrainedModel
from ..unimodal import token_statistics

_LAYERS, _KERNEL, _DILATIONS = 2, 3, [1, 2, 4, 8]


class Transformer(nn.Module):
    """Two layers of self-attention over the tokens of all modalities."""

    def __init__(self, config: CLCRConfig):
        super().__init__()
        width, dropout = config.hidden_size, float(config.dropout)
        layer = nn.TransformerEncoderLayer(
            width, config.num_attention_heads, 2 * width, dropout, "gelu", batch_first=True, norm_first=True
        )
        self.layers = nn.TransformerEncoder(layer, _LAYERS, nn.LayerNorm(width), enable_nested_tensor=False)

    def forward(self, tokens: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        open_mask = mask | ~mask.any(dim=1, keepdim=True)  # a row without a token attends to padding, not to nothing
        return self.layers(tokens, src_key_padding_mask=~open_mask)


class BiGRU(nn.Module):
    """A bidirectional GRU over the tokens of one modality after the other."""

    def __init__(self, config: CLCRConfig):
        super().__init__()
        self.gru = nn.GRU(config.hidden_size, config.hidden_size // 2, batch_first=True, bidirectional=True)

    def forward(self, tokens: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        lengths = mask.sum(dim=1).clamp(min=1).cpu()
        packed = pack_padded_sequence(tokens, lengths, batch_first=True, enforce_sorted=False)
        return pad_packed_sequence(self.gru(packed)[0], batch_first=True, total_length=tokens.shape[1])[0]


class TCN(nn.Module):
    """Dilated convolutions over the tokens of one modality after the other, CLCR's own blocks."""

    def __init__(self, config: CLCRConfig):
        super().__init__()
        dropout, eps = float(config.dropout), config.layer_norm_eps
        self.stage = TemporalStage(config.hidden_size, _KERNEL, _DILATIONS, dropout, eps)

    def forward(self, tokens: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        return self.stage(tokens, mask[..., None].to(tokens.dtype))


FUSIONS: dict[str, type[nn.Module]] = {"transformer": Transformer, "bigru": BiGRU, "tcn": TCN}


class OverTokens(CLCRModel):
    """CLCR with another fusion: of tokens `(B, S, d)`, real ones first, with marks of level, modality and time, and of
    their bool mask `(B, S)`, it makes `(B, S, d)`, of which mean and maximum are read, over the clip or each of its
    segments.

    The tokens are those of the deepest level, which an encoder makes of all others; where levels are layers tapped of a
    backbone, those of all levels, one after the other. With `alignment_coef` their projections have CLCR's alignment
    loss."""

    fusion_class: type[nn.Module]

    def __init__(self, config: CLCRConfig, per_segment: bool = False):
        super().__init__(config, per_segment)
        del self.exchange, self.aggregation
        width = config.hidden_size
        tapped = any(config.modality_config(name).source == "taps" for name in config.modalities)
        self.levels = config.effective_num_levels if tapped else 1
        self.marks = nn.Parameter(torch.zeros(self.levels, len(config.modalities), width))
        if config.has_exchange and config.alignment_coef:
            start = torch.randn(self.levels, width, config.effective_shared_rank)
            self.to_shared, self.scale = nn.Parameter(torch.linalg.qr(start)[0]), nn.Parameter(torch.ones(self.levels))
        self.fusion = self.fusion_class(config)
        self.readout = nn.Linear(2 * width, config.pooled_size)
        self.post_init()

    def _fuse(self, encoded: HierarchyTokens, groups: torch.Tensor, *flags: Any) -> dict[str, Any]:
        dropped = self.dropout(encoded.tokens)[:, -self.levels :]
        tokens = (dropped + self._marked(encoded.lengths, dropped)).flatten(1, 2)
        mask, order = encoded.mask.repeat(1, self.levels).sort(dim=1, descending=True, stable=True)
        tokens = tokens.gather(1, order[..., None].expand_as(tokens)) * mask[..., None]
        fused = self.fusion(tokens, mask)
        member = groups.any(dim=1).repeat(1, 1, self.levels)  # (B, G, S): the tokens of a clip or segment
        member = member.gather(2, order[:, None].expand_as(member))
        read = token_statistics(fused[:, None], member[:, None], [fused.shape[1]], False, ("mean", "max"))
        pooled = self._squeeze(self.readout(read[:, :, 0].to(fused.dtype)))
        return {"pooler_output": pooled, "alignment_loss": self._alignment(dropped, encoded) if flags[-1] else None}

    def _alignment(self, tokens: torch.Tensor, encoded: HierarchyTokens) -> torch.Tensor:
        """Of `tokens (B, L, S, d)`."""
        if not self.config.alignment_coef:
            raise ValueError("another fusion has an alignment stage where alignment_coef is above 0: set it")
        return self._align(tokens @ self.to_shared, self.scale, encoded)

    def _marked(self, lengths: Sequence[int], like: torch.Tensor) -> torch.Tensor:
        """`(L, S, d)`."""
        parts = [
            self.marks[:, number, None] + sinusoidal_positions(length, like.shape[-1], like.device).to(like.dtype)
            for number, length in enumerate(lengths)
        ]
        return torch.cat(parts, dim=1)


@cache
def head_of(name: str, per_segment: bool = False) -> type[CLCRPreTrainedModel]:
    """
    The head with another fusion.

    Args:
        name: of `FUSIONS`, or `module:class`, which is built with the configuration and called as those are.
        per_segment: for a label a segment, in place of one a clip.

    Raises:
        ValueError: no such fusion.
    """
    if name not in FUSIONS and ":" not in name:
        raise ValueError(f"{name!r} is no model: take {', '.join(FUSIONS)}, or your own as module:class")
    if name in FUSIONS:
        fusion = FUSIONS[name]
    else:
        module, _, attribute = name.partition(":")
        try:
            fusion = getattr(import_module(module), attribute)
        except (ImportError, AttributeError) as error:
            raise ValueError(f"{name} cannot be imported: {error}") from error

    class Fused(OverTokens):
        fusion_class = fusion

    base: Any = CLCRForTokenClassification if per_segment else CLCRForSequenceClassification

    class Head(base):
        def __init__(self, config: CLCRConfig):
            super().__init__(config)
            self.clcr = Fused(config, per_segment)
            self.post_init()

    return Head


__all__ = ["FUSIONS", "OverTokens", "head_of"]
