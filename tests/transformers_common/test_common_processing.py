"""transformers' shared processor tests on CLCR: saving and loading, parts, defaults and overriding arguments."""

import unittest
from unittest import mock

import numpy as np
from shared_tests import load, skipping
from transformers import BertTokenizer, ViTImageProcessor, Wav2Vec2FeatureExtractor

from clcr_hf import CLCRProcessor

common = load("test_processing_common")

WORDS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "lower", "newer", "upper", "older", "longer", "string"]

# What the shared tests take for granted and CLCR's processor does otherwise, on purpose.
OTHERWISE = {
    "test_apply_chat_template_*": "no chat template: CLCR classifies, it does not converse",
    "test_chat_template_audio_*": "no chat template: CLCR classifies, it does not converse",
    "test_chat_template_jinja_kwargs": "no chat template: CLCR classifies, it does not converse",
    "test_get_num_multimodal_tokens_*": "text holds no placeholder tokens for the other modalities",
    "test_if_input_has_mismatching_tokens_and_mm_data": "text holds no placeholder tokens for the other modalities",
    "test_replacement_offsets": "text holds no placeholder tokens for the other modalities",
    "test_processor_text_has_no_visual": "pictures and clips are one modality; a missing sample is None, not []",
    "test_call_arguments_*": "arguments are spelt out, not typed dicts, and may have defaults",
    "test_doubly_passed_kwargs_*": "an image processor's own arguments go into images_kwargs alone; others are refused",
    "test_structured_kwargs_nested_from_dict_*": "no common_kwargs: what all parts share is given directly",
    "test_flat_kwarg_applied_when_modality_dict_lacks_it": "gives pictures and clips together: both are vision",
    "test_subprocessor_defaults_1_images": "a picture becomes a clip of one frame: one axis more",
    "test_subprocessor_defaults_2_videos": "frames go through the image processor one by one",
    "test_subprocessor_defaults_preserved_by_kwargs_*": "padding is an argument of the call, not of the tokenizer",
}


@skipping(OTHERWISE)
class CLCRProcessorTest(common.ProcessorTesterMixin, unittest.TestCase):
    processor_class = CLCRProcessor
    videos_input_name = "pixel_values"
    audio_input_name = "input_values"

    @classmethod
    def setUpClass(cls):
        # An image processor's own arguments have a dict of their own, and serve clips, too.
        specs = common.MODALITY_TEST_SPECS
        images = {**specs["images"], "init_time_kwargs": {"images_kwargs": specs["images"]["init_time_kwargs"]}}
        audio = {**specs["audio"], "call_time_kwargs": {"return_tensors": "pt", "sampling_rate": 16_000}}
        patch = mock.patch.dict(specs, images=images, videos=images, audio=audio)
        patch.start()
        cls.addClassCleanup(patch.stop)
        super().setUpClass()

    @classmethod
    def _setup_tokenizer(cls):
        return BertTokenizer(vocab={word: number for number, word in enumerate(WORDS)})

    @classmethod
    def _setup_image_processor(cls):
        return ViTImageProcessor(size={"height": 16, "width": 16})

    @classmethod
    def _setup_feature_extractor(cls):
        return Wav2Vec2FeatureExtractor()

    @classmethod
    def _setup_video_processor(cls):
        return None  # in place of an image processor, never beside one

    def get_component(self, attribute, *args, **kwargs):
        return None if attribute == "video_processor" else super().get_component(attribute, *args, **kwargs)

    def prepare_videos_inputs(self, batch_size=None):
        clip = np.random.default_rng(0).integers(0, 256, (8, 30, 40, 3), dtype=np.uint8)
        return clip if batch_size is None else [clip] * batch_size

    def test_model_input_names(self):
        processor = self.get_processor()
        batch = processor(
            text=self.prepare_text_inputs(1),
            videos=self.prepare_videos_inputs(1),
            audio=self.prepare_audio_inputs(1),
            sampling_rate=16_000,
        )
        self.assertEqual(set(batch), set(processor.model_input_names))

    def test_processor_with_multiple_inputs(self):
        for vision in ("images", "videos"):
            given = {vision: getattr(self, f"prepare_{vision}_inputs")(2)}
            batch = self.get_processor()(
                text=self.prepare_text_inputs(2), audio=self.prepare_audio_inputs(2), sampling_rate=16_000, **given
            )
            for name in ("input_ids", "pixel_values", "input_values"):
                self.assertEqual(len(batch[name]), 2)
        with self.assertRaises(ValueError):
            self.get_processor()()

    def test_save_load_pretrained_additional_features(self):
        processor = CLCRProcessor.from_pretrained(
            self.tmpdirname, cls_token="(CLS)", sep_token="(SEP)", do_normalize=False
        )
        self.assertEqual((processor.tokenizer.cls_token, processor.tokenizer.sep_token), ("(CLS)", "(SEP)"))
        self.assertIs(processor.image_processor.do_normalize, False)
        self.assertIs(processor.feature_extractor.do_normalize, False)
