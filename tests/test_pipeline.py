"""CLCRPipeline: every kind of input and problem, explanations, batches, saving."""

import math

import numpy as np
import pytest
import torch
from transformers import BertConfig, SeamlessM4TFeatureExtractor, pipeline, set_seed
from transformers.models.vit.image_processing_pil_vit import ViTImageProcessorPil

from clcr_hf import CLCRConfig, CLCRForSequenceClassification, CLCRPipeline, CLCRProcessor
from clcr_hf.media import MediaError, write_video
from clcr_hf.training import train_tokenizer

SECONDS, FPS, RATE, FRAMES = 1.0, 8, 16_000, 4
NAMES = ("text", "vision", "audio")


@pytest.fixture(scope="module")
def clip(tmp_path_factory):
    """An mp4 of one second: noise to see, a tone to hear."""
    rng = np.random.default_rng(0)
    frames = rng.integers(0, 255, (int(FPS * SECONDS), 32, 32, 3), dtype=np.uint8)
    sound = np.sin(2 * np.pi * 220 * np.arange(int(RATE * SECONDS)) / RATE).astype(np.float32) / 2
    return str(write_video(tmp_path_factory.mktemp("clip") / "clip.mp4", frames, FPS, sound, RATE))


@pytest.fixture(scope="module")
def processor() -> CLCRProcessor:
    return CLCRProcessor(
        tokenizer=train_tokenizer(["a lovely day", "a dreadful day"] * 2, 100, 32),
        feature_extractor=SeamlessM4TFeatureExtractor(feature_size=16, num_mel_bins=16, sampling_rate=RATE),
        image_processor=ViTImageProcessorPil(size={"height": 16, "width": 16}),
        video_num_frames=FRAMES,
    )


def make_model(processor: CLCRProcessor, **fields) -> CLCRForSequenceClassification:
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
    return CLCRForSequenceClassification(config)


@pytest.fixture(scope="module")
def pipe(processor) -> CLCRPipeline:
    return pipeline("multimodal-sentiment", model=make_model(processor), processor=processor, device="cpu")


def test_regression_gives_score_and_label(pipe, clip):
    result = pipe({"media": clip, "text": "a lovely day"})
    assert set(result) == {"label", "score"}
    assert -3 <= result["score"] <= 3
    expected = {-1: "negative", 0: "neutral", 1: "positive"}[int(np.sign(round(result["score"])))]
    assert result["label"] == expected


@pytest.mark.parametrize(
    ("value", "score", "label"), [(-7.0, -3.0, "negative"), (0.4, 0.4, "neutral"), (0.6, 0.6, "positive")]
)
def test_score_is_kept_in_range_and_named(processor, value, score, label):
    model = make_model(processor)
    torch.nn.init.zeros_(model.classifier.out_proj.weight)
    torch.nn.init.constant_(model.classifier.out_proj.bias, value)
    result = CLCRPipeline(model=model, processor=processor, device="cpu")({"text": "a day"})
    assert result["score"] == pytest.approx(score)
    assert result["label"] == label


def test_path_bytes_and_dict_agree(pipe, clip):
    from_path = pipe(clip)["score"]
    with open(clip, "rb") as file:
        assert pipe(file.read())["score"] == pytest.approx(from_path, abs=1e-6)
    assert pipe({"media": clip})["score"] == pytest.approx(from_path, abs=1e-6)
    assert pipe({"video": clip, "audio": clip})["score"] == pytest.approx(from_path, abs=1e-6)


def test_same_answer_as_model_and_processor(pipe, processor, clip):
    batch = processor(text=["a lovely day"], media=[clip], return_tensors="pt")
    with torch.no_grad():
        expected = pipe.model.eval()(**batch).logits.item()
    assert pipe({"media": clip, "text": "a lovely day"})["score"] == pytest.approx(expected, abs=1e-5)


def test_explanation_says_what_decided(pipe, clip):
    result = pipe({"media": clip, "text": "a lovely day"}, return_explanation=True)
    assert len(result["level_weights"]) == 3
    assert math.isclose(sum(result["level_weights"]), 1, abs_tol=1e-4)
    assert tuple(result["modality_weights"]) == NAMES
    assert math.isclose(sum(result["modality_weights"].values()), 1, abs_tol=1e-4)
    assert all(0 <= gate <= 1 for gate in result["private_gates"].values())
    tokens = result["tokens"]
    assert [token["token"] for token in tokens["text"]] == ["[CLS]", "a", "lovely", "day", "[SEP]"]
    times = [token["time"] for token in tokens["vision"]]
    assert len(times) == FRAMES and times == sorted(times) and times[-1] < SECONDS
    sounds = [token["time"] for token in tokens["audio"]]
    assert sounds == sorted(sounds) and sounds[0] > 0 and sounds[-1] < SECONDS + 0.1
    for part in tokens.values():
        for token in part:
            assert len(token["budget"]) == 3
            assert all(0 <= value <= 1 for value in token["budget"])


def test_missing_modalities_weigh_nothing(pipe):
    result = pipe({"text": "a lovely day"}, return_explanation=True)
    assert result["modality_weights"]["text"] == pytest.approx(1)
    assert result["modality_weights"]["vision"] == 0 == result["private_gates"]["audio"]
    assert set(result["tokens"]) == {"text"}


def test_batch_equals_one_by_one(pipe, clip):
    inputs = [{"media": clip, "text": "a lovely day"}, {"text": "a dreadful day"}, clip]
    alone = [pipe(value, return_explanation=True) for value in inputs]
    for size in (1, 2, 3):
        together = pipe(inputs, batch_size=size, return_explanation=True)
        assert [one["score"] for one in together] == pytest.approx([one["score"] for one in alone], abs=1e-4)
        for one, other in zip(together, alone, strict=True):
            for name, tokens in other["tokens"].items():
                assert len(one["tokens"][name]) == len(tokens)
                for found, token in zip(one["tokens"][name], tokens, strict=True):
                    assert found["budget"] == pytest.approx(token["budget"], abs=1e-4)


def test_waveform_and_frames(pipe):
    sound = np.zeros(RATE, np.float32)
    frames = np.zeros((FRAMES, 32, 32, 3), np.uint8)
    result = pipe({"video": frames, "audio": sound, "sampling_rate": RATE}, return_explanation=True)
    assert [token["index"] for token in result["tokens"]["vision"]] == list(range(FRAMES))
    halved = pipe({"audio": sound[::2], "sampling_rate": RATE // 2}, return_explanation=True)
    assert halved["tokens"]["audio"][-1]["time"] == pytest.approx(result["tokens"]["audio"][-1]["time"], abs=0.1)


def test_classes_give_probabilities(processor, clip):
    names = {0: "bad", 1: "so so", 2: "good"}
    model = make_model(processor, num_labels=3, problem_type="single_label_classification", id2label=names)
    result = CLCRPipeline(model=model, processor=processor, device="cpu")({"media": clip, "text": "a day"})
    assert set(result["probabilities"]) == set(names.values())
    assert sum(result["probabilities"].values()) == pytest.approx(1, abs=1e-5)
    assert result["score"] == max(result["probabilities"].values()) == result["probabilities"][result["label"]]


def test_several_labels_at_once(processor):
    names = {0: "happy", 1: "sad", 2: "angry"}
    model = make_model(processor, num_labels=3, problem_type="multi_label_classification", id2label=names)
    torch.nn.init.zeros_(model.classifier.out_proj.weight)
    model.classifier.out_proj.bias.data = torch.tensor([2.0, -1.0, 1.0])
    result = CLCRPipeline(model=model, processor=processor, device="cpu")({"text": "a day"})
    assert result["labels"] == ["happy", "angry"]
    assert result["label"] == "happy"


def test_features_without_any_processor_part():
    set_seed(0)
    config = CLCRConfig(
        text_config={"feature_size": 4},
        audio_config={"feature_size": 3},
        hidden_size=16,
        num_attention_heads=2,
        num_labels=1,
        problem_type="regression",
    )
    pipe = CLCRPipeline(model=CLCRForSequenceClassification(config), processor=CLCRProcessor(), device="cpu")
    result = pipe(
        {"text_features": np.ones((5, 4), np.float32), "audio_features": np.ones((7, 3), np.float32)},
        return_explanation=True,
    )
    assert len(result["tokens"]["text"]) == 5 and len(result["tokens"]["audio"]) == 7


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (3, "a path, an address, bytes or a dict"),
        ({"smell": 1}, "smell"),
        ({}, "nothing to read"),
        ({"text": None}, "nothing to read"),
    ],
)
def test_inputs_of_another_kind_are_refused(pipe, value, message):
    with pytest.raises(ValueError, match=message):
        pipe(value)


def test_unknown_parameter_is_refused(pipe):
    with pytest.raises(ValueError, match="top_p"):
        pipe({"text": "a"}, top_p=1)


def test_unreadable_file_is_named(pipe, tmp_path):
    broken = tmp_path / "broken.mp4"
    broken.write_bytes(b"no video")
    with pytest.raises(MediaError, match="broken.mp4"):
        pipe(str(broken))


def test_saved_pipeline_reloads_by_task(pipe, clip, tmp_path):
    pipe.save_pretrained(tmp_path)
    again = pipeline("multimodal-sentiment", model=str(tmp_path), device="cpu")
    assert isinstance(again, CLCRPipeline)
    sample = {"media": clip, "text": "a lovely day"}
    assert again(sample)["score"] == pytest.approx(pipe(sample)["score"], abs=1e-6)
