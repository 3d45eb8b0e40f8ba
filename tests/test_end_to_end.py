"""Backbones inside the model, trained with the fusion or frozen: gradients, modes, memory, learning rates."""

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from transformers import BertConfig, ResNetConfig, ViTConfig, Wav2Vec2Config

from clcr_hf import CLCRConfig, CLCRForSequenceClassification
from clcr_hf.training.trainer import CLCRTrainer, CLCRTrainingArguments

BATCH = 3
ATTENTION = {"hidden_size": 16, "num_attention_heads": 2, "intermediate_size": 32}


def bert(depth: int) -> BertConfig:
    return BertConfig(vocab_size=50, num_hidden_layers=depth, max_position_embeddings=20, **ATTENTION)


def vit(depth: int) -> ViTConfig:
    return ViTConfig(image_size=16, patch_size=4, num_hidden_layers=depth, hidden_dropout_prob=0.1, **ATTENTION)


def wav2vec2(depth: int) -> Wav2Vec2Config:
    convolutions = {"conv_dim": (8, 8), "conv_stride": (8, 4), "conv_kernel": (10, 4), "num_feat_extract_layers": 2}
    positions = {"num_conv_pos_embeddings": 4, "num_conv_pos_embedding_groups": 2}
    return Wav2Vec2Config(num_hidden_layers=depth, mask_time_prob=0.0, **convolutions, **positions, **ATTENTION)


def resnet(depth: int, channels: int = 2) -> ResNetConfig:
    sizes = {"embedding_size": 8, "hidden_sizes": [8, 12, 16], "depths": [depth // 3] * 3, "layer_type": "basic"}
    return ResNetConfig(num_channels=channels, **sizes)


# One backbone a modality; depths are multiples of three, so that three taps are spread alike.
BACKBONES: dict[str, Callable[[int], Any]] = {"text": bert, "vision": vit, "audio": wav2vec2, "flow": resnet}
INPUTS: dict[str, Callable[[], dict[str, torch.Tensor]]] = {
    "text": lambda: {"input_ids": torch.randint(1, 50, (BATCH, 7)), "attention_mask": ones(7)},
    "vision": lambda: {"pixel_values": torch.randn(BATCH, 2, 3, 16, 16), "vision_attention_mask": ones(2)},
    "audio": lambda: {"input_values": torch.randn(BATCH, 400), "audio_attention_mask": ones(400)},
    "flow": lambda: {"flow_pixel_values": torch.randn(BATCH, 2, 2, 32, 32), "flow_attention_mask": ones(2)},
}


def ones(steps: int) -> torch.Tensor:
    return torch.ones(BATCH, steps, dtype=torch.long)


def make_model(frozen: set[str], names: tuple[str, ...] = tuple(BACKBONES), depth: int = 3) -> Any:
    torch.manual_seed(0)
    parts = {
        f"{name}_config": {
            "backbone_config": BACKBONES[name](depth),
            "source": "taps",
            "freeze_backbone": name in frozen,
        }
        for name in names
    }
    config = CLCRConfig(
        **parts, hidden_size=16, num_attention_heads=2, num_labels=3, lambda_intra=0.1, lambda_inter=0.1
    )
    return CLCRForSequenceClassification(config).train()


def make_batch(names: tuple[str, ...] = tuple(BACKBONES)) -> dict[str, torch.Tensor]:
    torch.manual_seed(1)
    inputs: dict[str, torch.Tensor] = {"labels": torch.tensor([0, 1, 2])}
    for name in names:
        inputs |= INPUTS[name]()
    return inputs


def reader(model: Any, name: str) -> nn.Module:
    return model.clcr.hierarchy.encoders[name].reader


# --- gradients ---


@pytest.mark.parametrize("frozen", [(), ("text",), ("vision", "flow"), tuple(BACKBONES)], ids=str)
def test_gradients_reach_the_backbones_that_train_and_no_other(frozen: tuple[str, ...]) -> None:
    model = make_model(set(frozen))
    model(**make_batch()).loss.backward()
    for name in BACKBONES:
        backbone = reader(model, name).backbone
        without = {key for key, weight in backbone.named_parameters() if weight.grad is None}
        everything = {key for key, _ in backbone.named_parameters()}
        assert without == (everything if name in frozen else set()), name
        if name not in frozen:  # the first layer gets one too, through every level
            assert next(w.grad for w in backbone.parameters() if w.grad is not None).abs().sum() > 0
    elsewhere = [key for key, weight in model.named_parameters() if "backbone" not in key and weight.grad is None]
    assert not elsewhere


@pytest.mark.parametrize("name", BACKBONES)
def test_each_level_is_the_tapped_layer_itself(name: str) -> None:
    """A level depends on the layers up to its tap and on none above."""
    model = make_model(set(), (name,)).eval()
    backbone, taps = reader(model, name).backbone, reader(model, name).taps
    assert taps == [1, 2, 3]
    inputs = {key: value for key, value in make_batch((name,)).items() if key != "labels"}
    before = model.clcr(**inputs, output_hidden_states=True).hidden_states
    deepest = [w for key, w in backbone.named_parameters() if re.search(r"(layers?|stages)\.2\.", key)]
    with torch.no_grad():
        for weight in deepest:
            weight.add_(torch.randn_like(weight))
    after = model.clcr(**inputs, output_hidden_states=True).hidden_states
    changed = [not torch.allclose(one, other) for one, other in zip(before, after, strict=True)]
    assert deepest and changed == [False, False, True]


def test_no_layer_of_a_trained_backbone_is_dropped_as_a_whole() -> None:
    """Layer drop would leave a level without its tap, and its layer without a gradient."""
    config = wav2vec2(3)
    config.layerdrop = 0.9
    audio = {"backbone_config": config, "source": "taps"}
    model = CLCRForSequenceClassification(CLCRConfig(audio_config=audio, hidden_size=16, num_labels=3)).train()
    for _ in range(5):
        model(**make_batch(("audio",))).loss.backward()
        assert all(weight.grad is not None for weight in reader(model, "audio").backbone.parameters())
        model.zero_grad()


# --- modes ---


def test_frozen_backbones_stay_in_evaluation_mode() -> None:
    model = make_model({"vision", "flow", "text"})
    for name in BACKBONES:
        modes = {module.training for module in reader(model, name).backbone.modules()}
        assert modes == ({True} if name == "audio" else {False})
    statistics = {key: value.clone() for key, value in reader(model, "flow").backbone.named_buffers()}
    model(**make_batch())
    for key, value in reader(model, "flow").backbone.named_buffers():
        assert torch.equal(value, statistics[key]), key  # batch norm neither counts nor averages
    model.eval()
    assert not any(module.training for module in model.modules())
    assert reader(model.train(), "audio").backbone.training


@pytest.mark.parametrize("name", BACKBONES)
def test_a_frozen_backbone_gives_in_training_what_it_gives_in_evaluation(name: str) -> None:
    model = make_model({name}, (name,))
    inputs = make_batch((name,))
    key = next(key for key in inputs if key not in ("labels", "attention_mask") and "mask" not in key)
    values = {"input_ids": inputs[key]} if name == "text" else {"values": inputs[key]}
    mask = next(value for other, value in inputs.items() if other.endswith("attention_mask")).bool()
    training = [level for level in reader(model, name)(values, mask)[0]]
    evaluation = [level for level in reader(model.eval(), name)(values, mask)[0]]
    for one, other in zip(training, evaluation, strict=True):
        assert torch.equal(one, other) and not one.requires_grad


def test_a_trained_batch_norm_counts() -> None:
    model = make_model(set(), ("flow",))
    counts = {key: value for key, value in reader(model, "flow").backbone.named_buffers() if "num_batches" in key}
    before = {key: int(value) for key, value in counts.items()}
    model(**make_batch(("flow",)))
    assert counts and all(int(value) == before[key] + 1 for key, value in counts.items())


# --- memory ---


def bytes_kept(model: Any, inputs: dict[str, torch.Tensor]) -> int:
    """Bytes of activations that the forward pass keeps for the backward pass; weights do not count."""
    weights = {weight.untyped_storage().data_ptr() for weight in model.parameters()}
    kept: dict[int, int] = {}

    def pack(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in weights:
            kept[storage.data_ptr()] = storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        output = model(**inputs)
    assert output.loss.requires_grad  # and the graph, with what it keeps, is alive until here
    return sum(kept.values())


@pytest.mark.parametrize("name", BACKBONES)
def test_a_frozen_backbone_keeps_no_activations(name: str) -> None:
    inputs = make_batch((name,))
    kept = {
        (is_frozen, depth): bytes_kept(make_model({name} if is_frozen else set(), (name,), depth), inputs)
        for is_frozen in (True, False)
        for depth in (3, 9)
    }
    assert abs(kept[True, 9] - kept[True, 3]) < 0.02 * kept[True, 3]
    assert kept[False, 9] - kept[False, 3] > 0.5 * (kept[False, 3] - kept[True, 3]) > 0


# --- learning rates ---


class Rows(torch.utils.data.Dataset):
    def __len__(self) -> int:
        return 6

    def __getitem__(self, index: int) -> dict[str, torch.Tensor]:
        return {key: value[index % BATCH] for key, value in make_batch().items()}


def test_two_learning_rates_and_frozen_text(tmp_path: Path) -> None:
    model = make_model({"text"})
    arguments = CLCRTrainingArguments(
        output_dir=str(tmp_path),
        learning_rate=1e-2,
        backbone_learning_rate=1e-4,
        lr_scheduler_type="constant",
        optim="adamw_torch",
        weight_decay=0.0,
        max_steps=1,
        max_grad_norm=0.0,
        per_device_train_batch_size=BATCH,
        use_cpu=True,
        disable_tqdm=True,
        dataloader_pin_memory=False,
        save_strategy="no",
    )
    before = {key: weight.detach().clone() for key, weight in model.named_parameters()}
    trainer = CLCRTrainer(model=model, args=arguments, train_dataset=Rows())
    trainer.train()
    rates = {}
    for group in trainer.optimizer.param_groups:
        rates |= {id(weight): group["lr"] for weight in group["params"]}
    for key, weight in model.named_parameters():
        moved = float((weight.detach() - before[key]).abs().max())
        if "encoders.text.reader.backbone" in key:
            assert id(weight) not in rates and moved == 0, key
        else:
            rate = 1e-4 if "backbone" in key else 1e-2
            assert rates[id(weight)] == rate
            # Adam's first step is the rate wherever there is a gradient.
            assert moved <= rate * 1.01, key
    moves = {
        inside: max(
            float((weight.detach() - before[key]).abs().max())
            for key, weight in model.named_parameters()
            if ("backbone" in key) is inside
        )
        for inside in (True, False)
    }
    assert moves[True] == pytest.approx(1e-4, rel=0.05) and moves[False] == pytest.approx(1e-2, rel=0.05)
