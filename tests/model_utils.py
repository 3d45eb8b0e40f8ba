"""Small models and batches for the tests."""

from typing import Any

import torch

from clcr_hf import CLCRConfig

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
