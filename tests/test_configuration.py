"""The configuration: defaults, round trips, and errors that name the field."""

import copy

import pytest
import torch
from model_utils import TINY_BERT, tiny_config
from transformers import AutoConfig, BertConfig

from clcr_hf import CLCRConfig, CLCRForSequenceClassification, CLCRModalityConfig


def test_default_is_mosei():
    config = CLCRConfig()
    assert config.modalities == ["text", "vision", "audio"]
    assert config.text_config.backbone_config.model_type == "bert"
    assert (config.vision_config.feature_size, config.audio_config.feature_size) == (35, 74)
    assert (config.shared_rank, config.private_rank) == (64, 32)


def test_round_trip_through_auto_config(tmp_path):
    config = tiny_config(
        extra_configs={"speech": {"feature_size": 4, "tcn_stride": 2}},
        lambda_intra=0.25,
        num_labels=3,
        id2label={0: "sad", 1: "glad", 2: "flat"},
        flow_config={"feature_size": 3, "source": "taps"},
    )
    config.save_pretrained(tmp_path)
    loaded = AutoConfig.from_pretrained(tmp_path)
    assert isinstance(loaded, CLCRConfig)
    assert loaded.to_diff_dict() == config.to_diff_dict()
    assert loaded.modalities == ["text", "vision", "audio", "flow", "speech"]
    assert isinstance(loaded.text_config.backbone_config, BertConfig)
    assert loaded.modality_config("speech").tcn_stride == 2


def test_left_out_modalities_stay_out(tmp_path):
    config = CLCRConfig(vision_config={"feature_size": 3}, audio_config={"feature_size": 3})
    config.save_pretrained(tmp_path)
    assert CLCRConfig.from_pretrained(tmp_path).modalities == ["vision", "audio"]


def test_own_modalities_in_any_order_are_saved_as_they_learned(tmp_path):
    torch.manual_seed(0)
    own = {"voice": {"feature_size": 3}, "gaze": {"feature_size": 4}}
    config = CLCRConfig(extra_configs=own, hidden_size=16, num_attention_heads=2, num_labels=3)
    model = CLCRForSequenceClassification(config).eval()
    inputs = {f"{name}_features": torch.randn(2, 5, part["feature_size"]) for name, part in own.items()}
    model.save_pretrained(tmp_path)
    again = CLCRForSequenceClassification.from_pretrained(tmp_path).eval()
    assert again.config.modalities == config.modalities
    torch.testing.assert_close(again(**inputs).logits, model(**inputs).logits)


def test_parts_given_as_objects_equal_parts_given_as_dicts():
    as_objects = tiny_config(
        text_config=CLCRModalityConfig(
            backbone_config=BertConfig(**{k: v for k, v in TINY_BERT.items()}), source="taps"
        )
    )
    assert as_objects.to_dict() == tiny_config().to_dict()
    assert copy.deepcopy(as_objects).to_dict() == as_objects.to_dict()


def test_text_config_is_the_one_with_the_vocabulary():
    assert tiny_config().get_text_config().vocab_size == 100
    features_only = CLCRConfig(vision_config={"feature_size": 3}, audio_config={"feature_size": 3})
    assert features_only.get_text_config() is features_only


@pytest.mark.parametrize(
    ("fields", "named"),
    [
        ({"hidden_size": "wide"}, "hidden_size"),
        ({"hidden_size": 0}, "hidden_size"),
        ({"dropout": 1.5}, "dropout"),
        ({"modality_dropout": -0.1}, "modality_dropout"),
        ({"budget_ratio": 1.0}, "budget_ratio"),
        ({"budget_scale": -1.0}, "budget_scale"),
        ({"lambda_inter": -1.0}, "lambda_inter"),
        ({"shared_rank": 30, "private_rank": 30}, "shared_rank"),
        ({"num_attention_heads": 5}, "num_attention_heads"),
        ({"level_mixing": "random"}, "level_mixing"),
        ({"regression_loss": "huber"}, "regression_loss"),
        ({"correlation_shrinkage": "much"}, "correlation_shrinkage"),
        ({"correlation_shrinkage": 2.0}, "correlation_shrinkage"),
        ({"num_segments": 0}, "num_segments"),
        ({"vision_config": {}}, "vision_config"),
        ({"vision_config": 7}, "vision_config"),
        ({"vision_config": {"feature_size": -1}}, "feature_size"),
        ({"vision_config": {"feature_size": 3, "tcn_kernel_size": 4}}, "tcn_kernel_size"),
        ({"vision_config": {"feature_size": 3, "tcn_dilations": [[1], [2]]}}, "vision_config.tcn_dilations"),
        ({"text_config": {"backbone_config": dict(TINY_BERT), "taps": [1, 2]}}, "text_config.taps"),
        ({"text_config": {"backbone_config": {"hidden_size": 3}}}, "backbone_config"),
        ({"extra_configs": {"text": {"feature_size": 3}}}, "extra_configs"),
        ({"extra_configs": {"not a name": {"feature_size": 3}}}, "extra_configs"),
        ({"extra_configs": {"gaze": {}}}, "extra_configs"),
    ],
)
def test_errors_name_the_field(fields, named):
    with pytest.raises((TypeError, ValueError), match=named.replace(".", r"\.")):
        tiny_config(**fields)


def test_unknown_modality_is_named():
    with pytest.raises(KeyError, match="smell"):
        tiny_config().modality_config("smell")
