"""Frozen transformers backbones for `clcr extract`: frames, audio or text to tokens at several layers.

Each reader has two halves. `prepare` is work for the processor's threads (frames to pixels, audio to the extractor's
values); `read` is one forward pass, whose hidden states at `taps` come out as one array `(L, T, D)` a clip.

The layers are read by [`~clcr_hf.hierarchy.BackboneReader`], the one that a model with backbones inside uses, so
features made here equal what such a model sees.
"""

import logging
import math
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from transformers import AutoConfig, AutoFeatureExtractor, AutoImageProcessor, AutoTokenizer, PreTrainedConfig
from transformers.image_processing_base import ImageProcessingMixin
from transformers.image_utils import IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD

from ..configuration_clcr import CLCRModalityConfig
from ..errors import ModelFileError, plainly
from ..hierarchy import BackboneReader, backbone_depth, default_taps, tap_width, tower_config
from ..processing_clcr import NO_LIMIT, CLCRProcessor

logger = logging.getLogger("clcr_hf.extract")

_TAP_NAMES = ("auto", "early-middle-late", "last")


def choose_taps(config: PreTrainedConfig, taps: str | Sequence[int], num_levels: int) -> list[int]:
    """Hidden states to read off a backbone.

    Args:
        config: the backbone's.
        taps: `"auto"` or `"early-middle-late"` (evenly spaced and ending at the last layer), `"last"`, or indices
            into the hidden states (0 is the embedding).
        num_levels: how many, for the first two.

    Raises:
        ValueError: an unknown name, or indices that the backbone does not have.
    """
    depth = backbone_depth(config)
    if isinstance(taps, str):
        if taps not in _TAP_NAMES:
            raise ValueError(f"taps are {', '.join(_TAP_NAMES)} or a list of layers, not {taps!r}")
        return [depth] if taps == "last" else default_taps(config, num_levels)
    if not taps or any(not 0 <= tap <= depth for tap in taps):
        raise ValueError(f"taps {list(taps)} must lie in 0..{depth}, the hidden states of {config.model_type}")
    return list(taps)


class FrozenBackbone:
    """A pretrained backbone in evaluation mode that gives its hidden states at some layers.

    Args:
        modality: `"text"`, `"vision"` or `"audio"`.
        source: hub name or local folder of the weights. Of a model with several towers (CLIP, SigLIP) the tower of
            the modality is taken, of an encoder-decoder (Whisper) the encoder.
        taps, num_levels: see [`choose_taps`].
        device, dtype: where and in which type it runs.
        token_grid: vision alone, see `CLCRModalityConfig`.

    Attributes:
        taps: the layers read.
        width: `D` of the features: the widest tap (narrower ones, of staged backbones such as ResNet, are filled up
            with zeros).
        num_levels: `L`, or None with `taps="last"`, where features have no axis of levels.

    Raises:
        OSError: no such model. ValueError: a kind of model that transformers' `AutoModel` does not know.
    """

    def __init__(
        self,
        modality: str,
        source: str,
        *,
        taps: str | Sequence[int] = "auto",
        num_levels: int = 3,
        device: torch.device | str = "cpu",
        dtype: torch.dtype = torch.float32,
        token_grid: int = 1,
    ):
        self.source = source
        with plainly(f"{source} cannot be read as a backbone for {modality}", ModelFileError):
            self.config = tower_config(AutoConfig.from_pretrained(source), modality)
            self.taps = choose_taps(self.config, taps, num_levels)
        self.num_levels = None if taps == "last" else len(self.taps)
        self.width = max(tap_width(self.config, tap) for tap in self.taps)
        self.device = torch.device(device)
        modality_config = CLCRModalityConfig(
            backbone_config=self.config, token_grid=token_grid, freeze_backbone=True, source="taps"
        )
        self.reader = BackboneReader(modality, modality_config, self.taps)
        self.reader.load_pretrained(source)
        self.reader.eval().to(self.device, dtype)

    @property
    def about(self) -> dict[str, Any]:
        """What made the features, for the record."""
        kind = self.config.model_type
        return {"backbone": self.source, "model_type": kind, "layers": self.taps, "width": self.width}

    @torch.inference_mode()
    def forward(self, inputs: dict[str, np.ndarray], mask: np.ndarray | None = None) -> np.ndarray:
        """Taps of a batch, float32 `(B, L, T, D)`; `mask (B, steps)` is all ones by default."""
        tensors = {name: torch.from_numpy(value).to(self.device) for name, value in inputs.items()}
        first = next(iter(tensors.values()))
        if mask is None:
            mask = np.ones((len(first), first.shape[self.reader.time_axis]), bool)
        levels, _ = self.reader(tensors, torch.from_numpy(mask).bool().to(self.device))
        padded = [torch.nn.functional.pad(level, (0, self.width - level.shape[-1])) for level in levels]
        return torch.stack(padded, dim=1).float().cpu().numpy()

    def forward_items(self, items: Sequence[np.ndarray], batch_size: int) -> list[np.ndarray]:
        """Taps `(L, T, D)` of each item. Items of one shape share a forward pass, at most `batch_size` of them, so
        none is padded and none depends on its neighbours."""
        groups: dict[tuple[int, ...], list[int]] = defaultdict(list)
        for index, item in enumerate(items):
            groups[item.shape].append(index)
        outputs: list[Any] = [None] * len(items)
        for group in groups.values():
            for begin in range(0, len(group), batch_size):
                part = group[begin : begin + batch_size]
                taps = self.forward({"values": np.stack([items[index] for index in part])})
                for index, value in zip(part, taps, strict=True):
                    outputs[index] = value
        return outputs


# --- frames ----------------------------------------------------------------------------------------------------------


class VisionBackbone(FrozenBackbone):
    """Frames to tokens: `token_grid ** 2` a frame for image backbones; a token a tubelet of frames (times
    `token_grid ** 2`) for those that read clips (VideoMAE, ViViT).

    Attributes:
        clip_frames: frames that the backbone reads together; 1 for image backbones.
        tubelet: frames of one token.
    """

    def __init__(self, source: str, **options: Any):
        super().__init__("vision", source, **options)
        self.processor = CLCRProcessor(image_processor=load_image_processor(source), video_num_frames=None)
        tubelet = getattr(self.config, "tubelet_size", 1) if self.reader.reads_clips else 1
        self.tubelet = tubelet if isinstance(tubelet, int) else tubelet[0]
        self.clip_frames = self.config.num_frames if self.reader.reads_clips else 1

    def prepare(self, frames: np.ndarray) -> np.ndarray:
        """Pixels float32 `(F', C, H, W)` of frames uint8 `(F, H, W, 3)`; where the backbone reads clips, F' is F
        rounded up to whole clips, by repeating the last frame."""
        frames = np.concatenate([frames, np.repeat(frames[-1:], -len(frames) % self.clip_frames, axis=0)])
        return self.processor(videos=[frames], return_tensors="np")["pixel_values"][0]

    def read(self, pixels: Sequence[np.ndarray], num_frames: Sequence[int], batch_size: int) -> list[np.ndarray]:
        """Tokens `(L, T, D)` of each clip's pixels; what stands for frames beyond `num_frames` is left out."""
        clips = [clip for whole in pixels for clip in np.split(whole, len(whole) // self.clip_frames)]
        taps = iter(self.forward_items(clips, max(1, batch_size // self.clip_frames)))
        outputs = []
        for whole, count in zip(pixels, num_frames, strict=True):
            parts = [next(taps) for _ in range(len(whole) // self.clip_frames)]
            tokens = math.ceil(count / self.tubelet) * self.reader.grid**2
            outputs.append(np.concatenate(parts, axis=1)[:, :tokens])
        return outputs

    def intervals(self, times: np.ndarray, end: float, longest: float = math.inf) -> np.ndarray:
        """Seconds `(T, 2)` that each token stands for: from its first frame's time to the next token's, or `end`; at
        most `longest` seconds a frame."""
        begins = np.asarray(times)[:: self.tubelet]
        ends = np.minimum(np.append(begins[1:], max(end, float(times[-1]))), begins + longest * self.tubelet)
        return np.repeat(np.stack([begins, ends], axis=1), self.reader.grid**2, axis=0)


def load_image_processor(source: str) -> Any:
    """The image processor saved with a backbone. Where its class needs torchvision and that is not installed
    (DINOv3), the same steps are done by Pillow."""
    try:
        return AutoImageProcessor.from_pretrained(source)
    except ImportError as error:
        if "orchvision" not in str(error):
            raise
    from transformers import ViTImageProcessorPil

    settings, _ = ImageProcessingMixin.get_image_processor_dict(source)
    names = ("size", "do_resize", "resample", "do_rescale", "rescale_factor", "do_normalize", "image_mean", "image_std")
    given = {name: settings[name] for name in names if settings.get(name) is not None}
    logger.warning("%s: its image processor needs torchvision; its steps are done by Pillow instead", source)
    return ViTImageProcessorPil(**{"image_mean": IMAGENET_DEFAULT_MEAN, "image_std": IMAGENET_DEFAULT_STD, **given})


# --- audio -----------------------------------------------------------------------------------------------------------


class AudioBackbone(FrozenBackbone):
    """Audio to tokens, one window at a time: waveform models (wav2vec2, HuBERT, WavLM), Whisper's encoder, AST.

    Attributes:
        sampling_rate: samples a second wanted.
        max_seconds: longest window that the backbone reads; None without such a limit.
    """

    def __init__(self, source: str, **options: Any):
        super().__init__("audio", source, **options)
        extractor = AutoFeatureExtractor.from_pretrained(source)
        self.processor = CLCRProcessor(feature_extractor=extractor)
        self.sampling_rate = int(extractor.sampling_rate)
        self.max_seconds: float | None = None
        if getattr(extractor, "n_samples", None):  # Whisper
            self.max_seconds = extractor.n_samples / self.sampling_rate
        elif hasattr(self.config, "time_stride"):  # AST: frames of 10 ms
            self.max_seconds = extractor.max_length * 0.01

    def prepare(self, wave: np.ndarray) -> np.ndarray:
        """The extractor's values, `(samples,)`, `(steps, mel)` or `(mel, steps)`, of one window `(samples,)`."""
        sound = {"array": wave, "sampling_rate": self.sampling_rate}
        return self.processor(audio=[sound], return_tensors="np")["input_values"][0]

    def step_seconds(self, tokens: int, seconds: float) -> float:
        """Seconds from one token to the next, of a window of `seconds` that gave `tokens`."""
        if getattr(self.config, "conv_stride", None) is not None:
            return math.prod(self.config.conv_stride) / self.sampling_rate
        if hasattr(self.config, "time_stride"):
            return self.config.time_stride * 0.01
        return (self.max_seconds or seconds) / tokens


# --- text ------------------------------------------------------------------------------------------------------------


@dataclass
class TextTokens:
    """Tokens of one text.

    Attributes:
        taps: `(L, T, D)` float32, special tokens included.
        spans: `(T, 2)` int, where each token lies in the text, in characters; -1 for special tokens, and for all
            tokens with a tokenizer that does not tell (slow ones).
        truncated: whether the end of the text was cut off.
    """

    taps: np.ndarray
    spans: np.ndarray
    truncated: bool


class TextBackbone(FrozenBackbone):
    """Text to tokens. Attributes: max_tokens, the longest text read."""

    def __init__(self, source: str, **options: Any):
        super().__init__("text", source, **options)
        self.tokenizer = AutoTokenizer.from_pretrained(source)
        limit = self.tokenizer.model_max_length
        if limit > NO_LIMIT:
            limit = getattr(self.config, "max_position_embeddings", None) or 512
        self.max_tokens = int(limit)
        if self.tokenizer.pad_token is None:
            self.tokenizer.pad_token = self.tokenizer.eos_token

    def read(self, texts: Sequence[str], batch_size: int) -> list[TextTokens]:
        """[`TextTokens`] of each text; padded within a batch, under a mask."""
        batches = (list(texts[begin : begin + batch_size]) for begin in range(0, len(texts), batch_size))
        return [tokens for batch in batches for tokens in self._read_batch(batch)]

    def _read_batch(self, texts: list[str]) -> list[TextTokens]:
        whole = self.tokenizer(texts, verbose=False)["input_ids"]
        encoded = self.tokenizer(
            texts,
            truncation=True,
            max_length=self.max_tokens,
            padding=True,
            padding_side="right",
            return_tensors="np",
            return_attention_mask=True,
            return_special_tokens_mask=True,
            return_offsets_mapping=self.tokenizer.is_fast,
        )
        mask = encoded["attention_mask"].astype(bool)
        inputs = {key: encoded[key] for key in ("input_ids", "token_type_ids") if key in encoded}
        taps = self.forward(inputs, mask)
        outputs = []
        for row, ids in enumerate(whole):
            count = int(mask[row].sum())
            spans = np.full((count, 2), -1)
            if self.tokenizer.is_fast:
                plain = ~encoded["special_tokens_mask"][row, :count].astype(bool)
                spans[plain] = encoded["offset_mapping"][row, :count][plain]
            outputs.append(TextTokens(taps[row, :, :count], spans, len(ids) > self.max_tokens))
        return outputs


# --- over time -------------------------------------------------------------------------------------------------------


def pool_to_rate(
    taps: np.ndarray, step: float, rate: float | None, *, begin: float, keep: float, end: float
) -> tuple[np.ndarray, np.ndarray]:
    """Tokens of one window of audio averaged to `rate` a second.

    Args:
        taps: `(L, n, D)`; token i stands for the seconds from `begin + i * step` to `begin + (i + 1) * step`.
        step: seconds of a token.
        rate: tokens a second wanted, on the grid `k / rate` from the clip's start. None, or a rate that is not below
            the tokens' own, keeps them.
        begin: where the window begins in the clip.
        keep, end: tokens whose middle lies before `keep` (read already, with the window before) or after `end` (the
            end of the sound: what follows is the extractor's padding) are left out.

    Returns:
        `(L, T, D)` and seconds `(T, 2)`.
    """
    starts = begin + step * np.arange(taps.shape[1])
    middles = starts + step / 2
    inside = (middles >= keep - 1e-6) & (middles < end)
    if not inside.any():  # a waveform shorter than half a token
        inside[np.argmin(np.abs(middles - end))] = True
    taps, starts, middles = taps[:, inside], starts[inside], middles[inside]
    if not rate or step >= 1 / rate:
        return taps, np.stack([starts, np.maximum(np.minimum(starts + step, end), starts)], axis=1)
    bins = np.floor(middles * rate + 1e-6).astype(np.int64)
    names, first, counts = np.unique(bins, return_index=True, return_counts=True)
    pooled = (np.add.reduceat(taps.astype(np.float64), first, axis=1) / counts[:, None]).astype(np.float32)
    return pooled, np.stack([names / rate, np.minimum((names + 1) / rate, max(end, begin))], axis=1)
