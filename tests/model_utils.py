"""Small models and batches for the tests."""

from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers import BertConfig, SeamlessM4TFeatureExtractor, set_seed
from transformers.models.vit.image_processing_pil_vit import ViTImageProcessorPil

from clcr_hf import CLCRConfig, CLCRForSequenceClassification, CLCRProcessor
from clcr_hf.media import write_video
from clcr_hf.training.build import train_tokenizer

TINY_BERT = {
    "model_type": "bert",
    "hidden_size": 32,
    "num_hidden_layers": 3,
    "num_attention_heads": 2,
    "intermediate_size": 64,
    "vocab_size": 100,
    "max_position_embeddings": 40,
}


def tiny_config(**kwargs: Any) -> CLCRConfig:
    """Text through a BERT of three layers, vision and audio as features; width 32."""
    defaults: dict[str, Any] = {
        "text_config": {"backbone_config": dict(TINY_BERT), "source": "taps"},
        "vision_config": {"feature_size": 7},
        "audio_config": {"feature_size": 5},
        "hidden_size": 32,
        "num_labels": 1,
    }
    return CLCRConfig(**{**defaults, **kwargs})


def feature_config(**kwargs: Any) -> CLCRConfig:
    """Vision and audio features alone."""
    return tiny_config(**{"text_config": None, **kwargs})


def batch(size: int = 6, text: bool = True, seed: int = 1) -> dict[str, torch.Tensor]:
    """Inputs of `tiny_config`, of ragged lengths, with regression labels."""
    generator = torch.Generator().manual_seed(seed)

    def mask(steps: int) -> torch.Tensor:
        lengths = torch.randint(2, steps + 1, (size, 1), generator=generator)
        return (torch.arange(steps) < lengths).long()

    inputs = {
        "input_ids": torch.randint(1, 100, (size, 6), generator=generator),
        "attention_mask": mask(6),
        "vision_features": torch.randn(size, 9, 7, generator=generator),
        "vision_attention_mask": mask(9),
        "audio_features": torch.randn(size, 12, 5, generator=generator),
        "audio_attention_mask": mask(12),
        "labels": torch.randn(size, generator=generator),
    }
    if not text:
        del inputs["input_ids"], inputs["attention_mask"]
    return inputs


# -- a model that reads clips ------------------------------------------------------------------------------------------

RATE, FPS, FRAMES = 16_000, 8, 4  # what clips have a second, and frames that the model takes of each
PHRASES = ("a lovely day", "a dreadful day")


def clip_processor(**options: Any) -> CLCRProcessor:
    """Reads texts of `PHRASES`, frames of 16 x 16 and log-mel spectrograms."""
    return CLCRProcessor(
        tokenizer=train_tokenizer([*PHRASES] * 2, 100, 32),
        feature_extractor=SeamlessM4TFeatureExtractor(feature_size=16, num_mel_bins=16, sampling_rate=RATE),
        image_processor=ViTImageProcessorPil(size={"height": 16, "width": 16}),
        **{"video_num_frames": FRAMES, **options},
    )


def clip_model(processor: CLCRProcessor, head: Any = CLCRForSequenceClassification, **fields: Any) -> Any:
    """A tiny model of random weights (seed 0) that reads text, frames and audio; one score unless `fields` say else."""
    set_seed(0)
    backbone = BertConfig(
        vocab_size=len(processor.tokenizer),
        hidden_size=16,
        num_hidden_layers=3,
        num_attention_heads=2,
        intermediate_size=16,
        max_position_embeddings=32,
    )
    vision = {"model_type": "resnet", "embedding_size": 4, "hidden_sizes": [4, 8, 8, 8], "depths": [1, 1, 1, 1]}
    config = CLCRConfig(
        text_config={"backbone_config": backbone, "source": "taps"},
        vision_config={"backbone_config": {**vision, "layer_type": "basic"}, "source": "taps"},
        audio_config={"feature_size": 32, "tcn_stride": 2},
        hidden_size=16,
        num_attention_heads=2,
        **{"num_labels": 1, "problem_type": "regression", **fields},
    )
    return head(config)


def save_clip_model(folder: Path, head: Any = CLCRForSequenceClassification, **fields: Any) -> str:
    """`clip_model` and its processor in a folder, as training leaves them; its path."""
    processor = clip_processor()
    clip_model(processor, head, **fields).save_pretrained(folder)
    processor.save_pretrained(folder)
    return str(folder)


def write_clip(path: Path, seconds: float = 1.0, sound: bool = True, seed: int = 0) -> str:
    """An MP4 with noise to see and a tone to hear; its path."""
    frames = np.random.default_rng(seed).integers(0, 255, (int(FPS * seconds), 32, 32, 3), dtype=np.uint8)
    tone = np.sin(2 * np.pi * (220 + 30 * seed) * np.arange(int(RATE * seconds)) / RATE).astype(np.float32) / 2
    return str(write_video(path, frames, FPS, *((tone, RATE) if sound else ())))


def forget_evidence(model: CLCRForSequenceClassification) -> None:
    """The model answers its bias from now on."""
    torch.nn.init.zeros_(model.classifier.out_proj.weight)
    torch.nn.init.zeros_(model.classifier.unimodal.weight)
