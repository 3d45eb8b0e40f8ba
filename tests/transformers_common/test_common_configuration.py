"""transformers' shared configuration tests on CLCR: JSON, saving and loading, parts, labels."""

import unittest

from shared_tests import load

from clcr_hf import CLCRConfig, CLCRModalityConfig

common = load("test_configuration_common")

BERT = {"model_type": "bert", "vocab_size": 30, "hidden_size": 16, "num_attention_heads": 2, "num_hidden_layers": 2}


class CLCRConfigTester(common.ConfigTester):
    def create_and_test_config_from_and_save_pretrained_composite(self):
        """All modalities have configurations of one class, which cannot tell whose is meant when it is loaded from the
        folder of a CLCR: the shared test holds for a CLCR of one modality."""
        given = self.inputs_dict
        self.inputs_dict = {**given, "text_config": {"backbone_config": BERT, "source": "taps"}}
        try:
            super().create_and_test_config_from_and_save_pretrained_composite()
        finally:
            self.inputs_dict = given


class CLCRConfigTest(unittest.TestCase):
    model_tester = None

    def test_common(self):
        CLCRConfigTester(
            self,
            config_class=CLCRConfig,
            has_text_modality=False,  # the vocabulary's size belongs to the text backbone
            common_properties=["hidden_size", "num_attention_heads", "num_levels"],
            hidden_size=24,
            num_levels=4,
            lambda_intra=0.5,
        ).run_common_tests()

    def test_common_with_every_kind_of_modality(self):
        tester = common.ConfigTester(
            self,
            config_class=CLCRConfig,
            text_config={"backbone_config": BERT, "source": "taps"},
            vision_config={"backbone_config": {"model_type": "resnet", "hidden_sizes": [4, 8], "depths": [1, 1]}},
            flow_config={"feature_size": 9, "tcn_stride": 2, "tcn_dilations": [[1], [2]]},
            extra_configs={"gaze": {"feature_size": 3}},
            num_levels=2,
        )
        # Not `to_json_string`: parts are written in full, and not as they were given.
        tester.create_and_test_config_to_json_file()
        tester.create_and_test_config_from_and_save_pretrained()
        tester.create_and_test_config_from_and_save_pretrained_subfolder()
        tester.create_and_test_config_with_num_labels()
        tester.check_config_can_be_init_without_params()

    def test_common_of_a_modality(self):
        common.ConfigTester(
            self,
            config_class=CLCRModalityConfig,
            has_text_modality=False,
            common_properties=["feature_size", "source", "taps"],
            feature_size=7,
            tcn_kernel_size=5,
        ).run_common_tests()
