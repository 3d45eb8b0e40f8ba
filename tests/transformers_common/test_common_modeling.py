"""transformers' shared model tests on CLCR: saving, initialisation, gradients, attention back ends, embeddings."""

import unittest
from contextlib import nullcontext
from unittest import mock

import pytest
import torch
from shared_tests import load, only, skipping

from clcr_hf import CLCRConfig, CLCRForSequenceClassification, CLCRForTokenClassification, CLCRModel

common = load("test_modeling_common")


# What the shared tests hold for other kinds of model, or for other machines.
NOT_OURS = {
    "test_can_load_from_already_mapped_keys": "CLCR has no legacy weight names to map",
    "test_reverse_loading_mapping": "CLCR has no legacy weight names; save_pretrained writes plain names on purpose",
    "test_causal_lm_loss_honors_shift_labels": "not a language model",
    "test_encoder_decoder_loss_no_double_shift": "not an encoder-decoder",
    "test_generation_tester_mixin_inheritance": "generates no text",
    "test_eager_matches_batched_and_grouped_inference_*": "no mixture of experts",
    "test_moe_models_record_router_logits": "no mixture of experts",
    "test_output_router_logits_from_config": "no mixture of experts",
    "test_keep_in_fp32_modules*": "no module is kept in float32: bases and budgets compute in it by themselves",
    "test_model_rope_*": "no rotary positions",
    "test_vision_axial_rope": "no rotary positions",
    "test_resize_position_vector_embeddings": "positions are sinusoids of any length",
    "test_sliding_window_mask": "no sliding window",
    "test_sdpa_can_dispatch_non_composite_models": "a composite model, see test_attn_implementation_composite_models",
    "test_sdpa_can_dispatch_composite_models": "for models with a `language_model` and a vision tower",
    "test_tied_head_has_a_tp_plan_entry": "no tensor-parallel plan",
    "test_tp_plan_matches_params": "no tensor-parallel plan",
    "test_flash_attn_*": "FlashAttention takes no mask of pairs of tokens, which the exchange needs",
    "test_flex_attention_with_grads": "FlexAttention is not declared: its block masks do not fit the exchange",
    "test_kernels_can_load_without_crashing": "no layer with a kernel from the hub",
    "test_disk_offload_*": "needs an accelerator; tests/test_headless.py offloads on the CPU",
    "test_cpu_offload": "needs an accelerator; tests/test_headless.py offloads on the CPU",
    "test_model_parallelism": "needs several accelerators",
    "test_resize_*_with_deepspeed*": "needs DeepSpeed",
    "test_can_load_ignoring_mismatched_shapes": "looks for nn.Linear alone; tests/test_scores.py asks the same of ours",
}


TEXT = {
    "model_type": "bert",
    "vocab_size": 99,
    "hidden_size": 24,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 16,
    "max_position_embeddings": 64,
}
PICTURES = {
    "model_type": "vit",
    "image_size": 8,
    "patch_size": 4,
    "hidden_size": 16,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 16,
}
SOUND = {
    "model_type": "wav2vec2",
    "hidden_size": 16,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 16,
    "conv_dim": [8, 8],
    "conv_stride": [4, 4],
    "conv_kernel": [4, 4],
    "num_conv_pos_embeddings": 4,
    "num_conv_pos_embedding_groups": 2,
    "layerdrop": 0.0,  # a layer left out gets no gradient
    "mask_time_prob": 0.5,
    "mask_time_length": 1,
}


class CLCRModelTester:
    """A tiny CLCR: BERT taps for text, TCNs over vision and audio features of lengths of their own."""

    batch_size = 6
    seq_length = 7  # text tokens, and segments of the token head
    vision_length, audio_length = 5, 6
    key_length = encoder_seq_length = seq_length + vision_length + audio_length
    vision_width, audio_width = 5, 4
    vocab_size = TEXT["vocab_size"]
    hidden_size = 16
    num_attention_heads = 2
    num_hidden_layers = expected_num_hidden_layers = 2  # levels
    is_training = True

    def __init__(self, parent: unittest.TestCase):
        self.parent = parent

    def modality_configs(self) -> dict[str, dict]:
        return {
            "text_config": {"backbone_config": TEXT, "source": "taps"},
            "vision_config": {"feature_size": self.vision_width, "feature_norm": "standardise"},
            "audio_config": {"feature_size": self.audio_width},
        }

    def get_config(self) -> CLCRConfig:
        return CLCRConfig(
            **self.modality_configs(),
            hidden_size=self.hidden_size,
            num_levels=self.num_hidden_layers,
            num_attention_heads=self.num_attention_heads,
            num_segments=self.seq_length,
        )

    def prepare_config_and_inputs_for_common(self):
        size, length = self.batch_size, self.seq_length
        inputs = {
            "input_ids": common.ids_tensor([size, length], self.vocab_size),
            "attention_mask": common.random_attention_mask([size, length]),
            "vision_features": common.floats_tensor([size, self.vision_length, self.vision_width]),
            "audio_features": common.floats_tensor([size, self.audio_length, self.audio_width]),
        }
        return self.get_config(), inputs


class CLCRRawModelTester(CLCRModelTester):
    """A tiny CLCR with a backbone for every modality, one of them (the sound's) below a TCN."""

    vision_length, audio_length = 3, 6  # frames; 16 samples a step
    key_length = encoder_seq_length = CLCRModelTester.seq_length + vision_length + audio_length

    def modality_configs(self):
        return {
            "text_config": {"backbone_config": TEXT, "source": "taps"},
            "vision_config": {"backbone_config": PICTURES, "source": "taps"},
            "audio_config": {"backbone_config": SOUND, "source": "tcn"},
        }

    def prepare_config_and_inputs_for_common(self):
        config, inputs = super().prepare_config_and_inputs_for_common()
        del inputs["vision_features"], inputs["audio_features"]
        inputs["pixel_values"] = common.floats_tensor([self.batch_size, self.vision_length, 3, 8, 8])
        inputs["input_values"] = common.floats_tensor([self.batch_size, 16 * self.audio_length + 4])
        return config, inputs


@pytest.mark.usefixtures("known_to_transformers")
@skipping(NOT_OURS)
class CLCRModelTest(common.ModelTesterMixin, unittest.TestCase):
    all_model_classes = (CLCRModel, CLCRForSequenceClassification, CLCRForTokenClassification)
    additional_model_inputs = ["vision_features", "audio_features"]
    test_can_init_all_missing_weights_before_2023 = True  # decided by a copyright line, which our files do not have
    _is_composite = True

    def setUp(self):
        self.model_tester = CLCRModelTester(self)

    def subTest(self, *args, **kwargs):
        """No subtests: pytest reports each of some 5,000 (one a parameter), which takes longer than the tests."""
        return nullcontext()

    def test_bc_torch_dtype(self):
        # It writes out every weight, several times over, for messages that nobody reads.
        with mock.patch.object(torch.Tensor, "__format__", lambda tensor, _: f"tensor {tuple(tensor.shape)}"):
            super().test_bc_torch_dtype()

    def test_model_outputs_equivalence(self):
        """The shared test subtracts outputs from one another, which bool ones (`present`) do not allow."""
        config, inputs = self.model_tester.prepare_config_and_inputs_for_common()
        options = [{}, {"output_hidden_states": True}, {"output_attentions": True}]
        for model_class in self.all_model_classes:
            model = model_class(config).eval()
            for labelled in (False, True):
                prepared = self._prepare_for_class(inputs, model_class, return_labels=labelled)
                for option in [*options, {**options[1], **options[2]}]:
                    with torch.no_grad():
                        as_dict = model(**prepared, **option, return_dict=True)
                        as_tuple = model(**prepared, **option, return_dict=False)
                    torch.testing.assert_close(as_tuple, as_dict.to_tuple(), equal_nan=True)
                    self.assertEqual("loss" in as_dict, labelled and model_class is not CLCRModel)
                    self.assertEqual("hidden_states" in as_dict, "output_hidden_states" in option)
                    self.assertEqual("attentions" in as_dict, "output_attentions" in option)


@only(
    "test_attention_outputs",
    "test_attn_implementation_composite_models",
    "test_batching_equivalence",
    "test_can_be_initialized_on_meta",
    "test_can_init_all_missing_weights",
    "test_can_set_attention_dynamically_composite_model",
    "test_correct_missing_keys",
    "test_determinism",
    "test_eager_matches_sdpa_inference_*_fp32_pad_right*",
    "test_eager_matches_sdpa_inference_*_bf16_pad_right",
    "test_enable_input_require_grads*",
    "test_hidden_states_output",
    "test_init_weights_can_init_buffers",
    "test_resize_tokens_embeddings",
    "test_retain_grad_hidden_states_attentions",
    "test_save_load",
    "test_torch_save_load",
    "test_training*",
)
class CLCRRawModelTest(CLCRModelTest):
    """What depends on the backbones, with one for every modality."""

    additional_model_inputs = ["pixel_values", "input_values"]

    def setUp(self):
        self.model_tester = CLCRRawModelTester(self)
