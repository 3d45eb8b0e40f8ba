"""The processor: what goes in, what the batch holds, how it is saved."""

import json
import pickle
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import (
    ASTFeatureExtractor,
    AutoProcessor,
    EncodecFeatureExtractor,
    PreTrainedTokenizerFast,
    SeamlessM4TFeatureExtractor,
    VideoMAEImageProcessor,
    ViTImageProcessor,
    ViTImageProcessorPil,
    Wav2Vec2FeatureExtractor,
    WhisperFeatureExtractor,
)
from transformers.video_processing_utils import VideoProcessorMixin

from clcr_hf import CLCRFeatureExtractor
from clcr_hf.media import MediaError, write_video
from clcr_hf.processing_clcr import CLCRProcessor

WORDS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "this", "film", "is", "not", "good", "bad", "at", "all"]
RATE = 16_000
SIDE = 32
rng = np.random.default_rng(0)


def make_tokenizer(**options: Any) -> PreTrainedTokenizerFast:
    inner = Tokenizer(models.WordLevel({word: i for i, word in enumerate(WORDS)}, unk_token="[UNK]"))
    inner.pre_tokenizer = pre_tokenizers.Whitespace()
    inner.post_processor = processors.BertProcessing(("[SEP]", 3), ("[CLS]", 2))
    names = {"pad_token": "[PAD]", "unk_token": "[UNK]", "cls_token": "[CLS]", "sep_token": "[SEP]"}
    return PreTrainedTokenizerFast(tokenizer_object=inner, **names, **options)


def make_images() -> Any:
    return ViTImageProcessor(size={"height": SIDE, "width": SIDE})


def make_waves(**options: Any) -> Wav2Vec2FeatureExtractor:
    return Wav2Vec2FeatureExtractor(sampling_rate=RATE, **options)


def make_mel() -> SeamlessM4TFeatureExtractor:
    return SeamlessM4TFeatureExtractor(feature_size=16, num_mel_bins=16, sampling_rate=RATE)


PARTS = {"tokenizer": make_tokenizer, "feature_extractor": make_mel, "image_processor": make_images}


def tone(seconds: float, rate: int = RATE, pitch: float = 440.0) -> np.ndarray:
    return (0.5 * np.sin(2 * np.pi * pitch * np.arange(round(seconds * rate)) / rate)).astype(np.float32)


def pictures(count: int, height: int = 24, width: int = 40) -> np.ndarray:
    return rng.integers(0, 256, (count, height, width, 3), dtype=np.uint8)


@pytest.fixture(scope="module")
def processor() -> CLCRProcessor:
    return CLCRProcessor(make_tokenizer(), make_mel(), make_images(), video_num_frames=4)


@pytest.fixture(scope="module")
def waves() -> CLCRProcessor:
    return CLCRProcessor(feature_extractor=make_waves())


@pytest.fixture(scope="module")
def clips(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Three mp4 files: with sound, silent film, and two frames only. Frame k is a flat grey of 20 k."""
    folder = tmp_path_factory.mktemp("clips")
    grey = np.repeat(np.arange(10, dtype=np.uint8)[:, None, None, None] * 20, 32, 1).repeat(48, 2).repeat(3, 3)
    return {
        "sound": write_video(folder / "sound.mp4", grey, 10, tone(1.0, 44_100), 44_100),
        "mute": write_video(folder / "mute.mp4", grey, 10),
        "short": write_video(folder / "short.mp4", grey[:2], 10, tone(0.2, 44_100), 44_100),
    }


# --- one modality at a time ------------------------------------------------------------------------------------------


def test_text_is_padded_and_a_missing_text_is_an_empty_row(processor: CLCRProcessor) -> None:
    batch = processor(text=["this film is good", None, "bad"])
    assert batch["input_ids"].tolist()[0] == [2, 4, 5, 6, 8, 3]
    assert batch["input_ids"].tolist()[2] == [2, 9, 3, 0, 0, 0]
    assert batch["attention_mask"].sum(1).tolist() == [6, 0, 3]
    assert batch["input_ids"].dtype == batch["attention_mask"].dtype == torch.int64


def test_one_text_is_a_batch_of_one(processor: CLCRProcessor) -> None:
    assert processor(text="not bad at all")["input_ids"].shape == (1, 6)


def test_all_texts_missing_give_one_masked_step(processor: CLCRProcessor) -> None:
    batch = processor(text=[None, None], text_features=None)
    assert batch["input_ids"].shape == (2, 1) and batch["attention_mask"].sum() == 0


def test_text_limits(processor: CLCRProcessor) -> None:
    long = "not bad at all " * 5
    assert processor(text=long, max_length=7)["input_ids"].shape == (1, 7)
    padded = processor(text="bad", max_length=7, padding="max_length")
    assert padded["input_ids"].shape == (1, 7) and padded["attention_mask"].sum() == 3
    limited = CLCRProcessor(make_tokenizer(model_max_length=5))
    assert limited(text=long)["input_ids"].shape == (1, 5)
    assert limited(text=long, truncation=False)["input_ids"].shape == (1, 22)


def test_text_kwargs_reach_the_tokenizer(processor: CLCRProcessor) -> None:
    batch = processor(text=["bad", None], text_kwargs={"add_special_tokens": False, "return_offsets_mapping": True})
    assert batch["input_ids"].tolist() == [[9], [0]]
    assert batch["offset_mapping"].shape == (2, 1, 2)


def test_waveforms_keep_their_lengths(waves: CLCRProcessor) -> None:
    batch = waves(audio=[tone(0.3), None, tone(0.5)], sampling_rate=RATE)
    assert batch["input_values"].shape == (3, 8000) and batch["input_values"].dtype == torch.float32
    assert batch["audio_attention_mask"].sum(1).tolist() == [4800, 0, 8000]
    assert batch["input_values"][1].abs().sum() == 0 and batch["input_values"][0, 4800:].abs().sum() == 0


def test_log_mel_is_emitted_as_input_values(processor: CLCRProcessor) -> None:
    batch = processor(audio=[tone(1.0), tone(0.5)], sampling_rate=RATE)
    assert "input_features" not in batch and "attention_mask" not in batch
    assert batch["input_values"].shape == (2, 49, 32)
    assert batch["audio_attention_mask"].sum(1).tolist() == [49, 24]


@pytest.mark.parametrize("layout", ["channels first", "channels last", "int16", "list", "tensor"])
def test_stereo_at_44100_becomes_mono_at_16000(layout: str) -> None:
    """The pitch survives: the strongest frequency of the output is that of the input."""
    plain = CLCRProcessor(feature_extractor=make_waves(do_normalize=False))
    wave = tone(1.0, 44_100, 1000.0)
    sound: Any = np.stack([wave, 0 * wave])
    if layout == "channels last":
        sound = sound.T
    elif layout == "int16":
        sound = (sound * 32767).astype(np.int16)
    elif layout == "list":
        sound = (wave / 2).tolist()
    elif layout == "tensor":
        sound = torch.from_numpy(sound)
    out = plain(audio=sound, sampling_rate=44_100)["input_values"].numpy()
    assert out.shape == (1, RATE)
    assert np.abs(np.fft.rfft(out[0])).argmax() == 1000
    assert np.abs(out[0, 2000:14000]).max() == pytest.approx(0.25, abs=0.01)


def test_every_sound_may_have_its_own_rate(waves: CLCRProcessor) -> None:
    sounds = [tone(0.5, 44_100), None, tone(0.5, 8_000), {"array": tone(0.5, 22_050), "sampling_rate": 22_050}]
    batch = waves(audio=sounds, sampling_rate=[44_100, None, 8_000, None])
    assert batch["audio_attention_mask"].sum(1).tolist() == [8000, 0, 8000, 8000]


def test_sound_from_files_bytes_and_dataset_rows(waves: CLCRProcessor, clips: dict[str, Path]) -> None:
    path = clips["sound"]
    content = path.read_bytes()
    rows = [path, str(path), content, {"path": None, "bytes": content}, {"path": str(path), "bytes": None}]
    batch = waves(audio=rows)
    assert batch["audio_attention_mask"].sum(1).tolist() == pytest.approx([RATE] * 5, rel=0.1)
    assert (batch["input_values"] == batch["input_values"][:1]).all()


def test_long_sounds_are_bounded(clips: dict[str, Path]) -> None:
    bounded = CLCRProcessor(feature_extractor=make_waves(), max_audio_seconds=0.25)
    batch = bounded(audio=[tone(1.0), clips["sound"], tone(0.1)], sampling_rate=RATE)
    assert batch["audio_attention_mask"].sum(1).tolist() == [4000, 4000, 1600]
    assert bounded(media=clips["sound"])["input_values"].shape == (1, 4000)
    assert bounded(audio=tone(1.0), sampling_rate=RATE, max_audio_seconds=0.5)["input_values"].shape == (1, 8000)


def test_empty_and_very_short_sounds(processor: CLCRProcessor) -> None:
    batch = processor(audio=[tone(0.5), np.zeros(0), tone(0.001)], sampling_rate=RATE)
    assert batch["audio_attention_mask"].sum(1).tolist() == [24, 0, 1]
    assert torch.isfinite(batch["input_values"]).all()


@pytest.mark.parametrize("make", [make_waves, make_mel])
def test_all_sounds_missing(make: Any) -> None:
    batch = CLCRProcessor(feature_extractor=make())(audio=[None, None])
    assert len(batch["input_values"]) == 2 and batch["input_values"].abs().sum() == 0
    assert batch["audio_attention_mask"].shape == batch["input_values"].shape[:2]
    assert batch["audio_attention_mask"].sum() == 0


def test_other_extractors_keep_their_layout() -> None:
    sounds = [tone(0.5), None]
    whisper = CLCRProcessor(feature_extractor=WhisperFeatureExtractor(feature_size=8))(audio=sounds, sampling_rate=RATE)
    assert whisper["input_values"].shape == (2, 8, 3000)
    assert whisper["audio_attention_mask"].sum(1).tolist() == [50, 0]
    extractor = ASTFeatureExtractor(num_mel_bins=16, max_length=64)
    ast = CLCRProcessor(feature_extractor=extractor)(audio=sounds, sampling_rate=RATE)
    assert ast["input_values"].shape == (2, 64, 16)
    assert ast["audio_attention_mask"].sum(1).tolist() == [64, 0]
    encodec = CLCRProcessor(feature_extractor=EncodecFeatureExtractor())(audio=sounds, sampling_rate=24_000)
    assert encodec["input_values"].shape == (2, 8000)
    assert encodec["audio_attention_mask"].sum(1).tolist() == [8000, 0]


def test_clips_of_every_kind(processor: CLCRProcessor, clips: dict[str, Path]) -> None:
    frames = pictures(3)
    images = [Image.fromarray(frame) for frame in frames]
    kinds = [frames, torch.from_numpy(frames), images, list(frames), None, clips["mute"], clips["mute"].read_bytes()]
    batch = processor(videos=kinds)
    assert batch["pixel_values"].shape == (7, 4, 3, SIDE, SIDE) and batch["pixel_values"].dtype == torch.float32
    assert batch["vision_attention_mask"].sum(1).tolist() == [3, 3, 3, 3, 0, 4, 4]
    for row in range(1, 4):
        assert torch.equal(batch["pixel_values"][row], batch["pixel_values"][0])
    assert batch["pixel_values"][4].abs().sum() == 0 and batch["pixel_values"][0, 3].abs().sum() == 0
    direct = make_images()(images, return_tensors="pt")["pixel_values"]
    assert torch.equal(batch["pixel_values"][0, :3], direct)


def test_one_clip_and_a_batch_of_clips_are_told_apart(processor: CLCRProcessor) -> None:
    frames = pictures(3)
    images = [Image.fromarray(frame) for frame in frames]
    for single in (frames, images, list(frames), [images], [frames]):
        assert processor(videos=single)["pixel_values"].shape[:2] == (1, 3)
    assert processor(videos=np.stack([frames, frames]))["pixel_values"].shape[:2] == (2, 3)
    assert processor(videos=[images, images[:2]])["vision_attention_mask"].sum(1).tolist() == [3, 2]


def test_pictures_become_clips_of_one_frame(processor: CLCRProcessor) -> None:
    frames = pictures(2)
    image = Image.fromarray(frames[0])
    assert processor(images=image)["pixel_values"].shape[:2] == (1, 1)
    assert processor(images=frames)["pixel_values"].shape[:2] == (2, 1)
    assert processor(images=[image, None])["vision_attention_mask"].tolist() == [[1], [0]]


def grey_levels(batch: Any) -> list[int]:
    """Which frames of the grey clip these are (ViT's pixels are (x / 255 - 0.5) / 0.5)."""
    means = batch["pixel_values"][0].mean((1, 2, 3)).numpy()
    return [round(float((mean * 0.5 + 0.5) * 255 / 20)) for mean in means]


def test_frames_are_spread_over_the_clip(processor: CLCRProcessor, clips: dict[str, Path]) -> None:
    """Ten frames, four wanted: the middles of four equal parts, from file and from memory alike."""
    grey = np.repeat(np.arange(10, dtype=np.uint8)[:, None, None, None] * 20, 32, 1).repeat(48, 2).repeat(3, 3)
    assert grey_levels(processor(videos=grey)) == [1, 3, 6, 8]
    assert grey_levels(processor(videos=clips["mute"])) == [1, 3, 6, 8]
    assert grey_levels(processor(videos=clips["mute"], num_frames=2)) == [2, 7]
    assert grey_levels(processor(videos=clips["mute"], fps=5)) == [0, 2, 4, 6, 8]
    assert grey_levels(processor(videos=clips["short"])) == [0, 1]
    assert processor(videos=grey, fps=5)["pixel_values"].shape[1] == 10
    by_rate = CLCRProcessor(image_processor=make_images(), video_fps=2)
    assert grey_levels(by_rate(videos=clips["mute"])) == [0, 5]
    assert len(grey_levels(by_rate(videos=clips["mute"], num_frames=3))) == 3


def test_all_clips_missing(processor: CLCRProcessor) -> None:
    batch = processor(videos=[None, None])
    assert batch["pixel_values"].shape == (2, 1, 3, SIDE, SIDE) and batch["pixel_values"].abs().sum() == 0
    assert batch["vision_attention_mask"].tolist() == [[0], [0]]


def test_an_image_processor_that_takes_clips() -> None:
    options = {"size": {"shortest_edge": SIDE}, "crop_size": {"height": SIDE, "width": SIDE}}
    videomae = CLCRProcessor(image_processor=VideoMAEImageProcessor(**options))
    assert videomae(videos=[pictures(3), pictures(2)])["pixel_values"].shape == (2, 3, 3, SIDE, SIDE)


class HalvingVideoProcessor(VideoProcessorMixin):
    """A video processor that needs no torchvision: every second pixel, channels first."""

    model_input_names = ["pixel_values_videos"]

    def __call__(self, videos: Any, do_sample_frames: bool = True, **options: Any) -> Any:
        assert not do_sample_frames
        halved = np.stack([clip[:, ::2, ::2].transpose(0, 3, 1, 2) for clip in videos])
        return {"pixel_values_videos": torch.from_numpy(halved)}


def test_a_video_processor_takes_the_place_of_the_image_processor(monkeypatch: pytest.MonkeyPatch) -> None:
    # Without torchvision transformers cannot even look up the class that it wants here.
    monkeypatch.setattr(CLCRProcessor, "check_argument_for_proper_class", lambda *_: None)
    frames = pictures(3)
    batch = CLCRProcessor(video_processor=HalvingVideoProcessor())(videos=frames)
    assert batch["pixel_values"].shape == (1, 3, 3, 12, 20)
    assert np.array_equal(batch["pixel_values"][0, 0, 0].numpy(), frames[0, ::2, ::2, 0])


def test_media_gives_frames_and_sound(processor: CLCRProcessor, clips: dict[str, Path]) -> None:
    batch = processor(media=[clips["sound"], clips["mute"], None, clips["short"].read_bytes()], text=["bad"] * 4)
    assert set(batch) == set(processor.model_input_names)
    assert batch["vision_attention_mask"].sum(1).tolist() == [4, 4, 0, 2]
    assert (batch["audio_attention_mask"].sum(1) > 0).tolist() == [True, False, False, True]
    apart = processor(videos=clips["sound"], audio=clips["sound"])
    together = processor(media=clips["sound"])
    for key in ("pixel_values", "input_values", "audio_attention_mask"):
        assert torch.equal(apart[key], together[key])


def test_media_fills_only_what_there_are_parts_for(clips: dict[str, Path]) -> None:
    assert set(CLCRProcessor(image_processor=make_images())(media=clips["sound"])) == {
        "pixel_values",
        "vision_attention_mask",
    }
    only_sound = CLCRProcessor(feature_extractor=make_mel())
    batch = only_sound(media=clips["sound"], vision_features=np.ones((3, 2)))
    assert set(batch) == {"input_values", "audio_attention_mask", "vision_features", "vision_attention_mask"}


def test_a_list_among_the_images_is_a_clip(processor: CLCRProcessor, tmp_path: Path) -> None:
    frames = pictures(6)
    paths = [tmp_path / f"{index:05d}.png" for index in range(6)]
    for frame, path in zip(frames, paths, strict=True):
        Image.fromarray(frame).save(path)
    undecoded = [{"path": str(path), "bytes": None} for path in paths]
    in_memory = [{"path": None, "bytes": path.read_bytes()} for path in paths]
    clips: list[Any] = [frames, list(frames), [Image.open(path) for path in paths], paths, undecoded, in_memory]
    clips += [tuple(str(path) for path in paths), [path.read_bytes() for path in paths]]
    batch = processor(images=[*clips, None, [], undecoded[:1], paths[0]])
    assert batch["vision_attention_mask"].sum(1).tolist() == [4] * len(clips) + [0, 0, 1, 1]
    expected = processor(videos=frames)["pixel_values"][0]  # four of six, evenly
    for index in range(len(clips)):
        assert torch.equal(batch["pixel_values"][index], expected)
    assert torch.equal(batch["pixel_values"][-1, 0], batch["pixel_values"][-2, 0])
    assert processor(images=[paths], num_frames=2)["pixel_values"].shape[1] == 2
    assert processor(images=[paths], fps=1)["pixel_values"].shape[1] == 6
    assert processor(images=paths[0])["pixel_values"].shape[:2] == (1, 1)
    assert processor(images=paths)["pixel_values"].shape[:2] == (6, 1)  # a flat list is a batch


def test_only_the_kept_frames_are_opened(processor: CLCRProcessor, tmp_path: Path) -> None:
    Image.fromarray(pictures(1)[0]).save(tmp_path / "a.png")
    good, absent = tmp_path / "a.png", tmp_path / "absent.png"
    assert processor(images=[[absent, good, absent]], num_frames=1)["pixel_values"].shape[1] == 1
    with pytest.raises(MediaError, match=r"images: sample 1: .*absent\.png does not exist"):
        processor(images=[good, [good, absent]])
    with pytest.raises(ValueError, match="images: sample 0 has a frame that is None"):
        processor(images=[[good, None]])
    with pytest.raises(ValueError, match="images: sample 0: a frame is float32"):
        processor(images=[[np.zeros((4, 4, 3), np.float32)]])


def test_cremad_protocol(tmp_path: Path) -> None:
    """One frame a second at 224 x 224 with ImageNet's statistics, and the log spectrogram of three seconds."""
    mean, std = [0.485, 0.456, 0.406], [0.229, 0.224, 0.225]
    looking = ViTImageProcessorPil(size={"height": 224, "width": 224}, image_mean=mean, image_std=std)
    cremad = CLCRProcessor(
        feature_extractor=CLCRFeatureExtractor.preset("cremad"), image_processor=looking, video_fps=1
    )
    cremad.save_pretrained(tmp_path / "processor")
    path = write_video(tmp_path / "clip.mp4", np.full((25, 48, 64, 3), 128, np.uint8), 10, tone(2.5), RATE)
    for processor in (cremad, AutoProcessor.from_pretrained(tmp_path / "processor")):
        batch = processor(media=[path])
        assert batch["pixel_values"].shape == (1, 3, 3, 224, 224) and batch["input_values"].shape == (1, 188, 257)
        expected = (128 / 255 - torch.tensor(mean)) / torch.tensor(std)
        assert torch.allclose(batch["pixel_values"][0, 0, :, 100, 100], expected, atol=0.05)
        frames = [Image.fromarray(picture) for picture in pictures(3)]
        assert processor(images=[frames])["pixel_values"].shape == (1, 3, 3, 224, 224)


def test_flow(processor: CLCRProcessor) -> None:
    flow = rng.normal(size=(3, 2, 5, 6)).astype(np.float32)
    batch = processor(flow=[flow, None, flow.transpose(0, 2, 3, 1)[:2]])
    assert batch["flow_pixel_values"].shape == (3, 3, 2, 5, 6)
    assert batch["flow_attention_mask"].sum(1).tolist() == [3, 0, 2]
    assert np.array_equal(batch["flow_pixel_values"][2, :2].numpy(), flow[:2])
    assert processor(flow=np.zeros((9, 2, 4, 4)))["flow_pixel_values"].shape[1] == 4


def test_flow_of_a_file(processor: CLCRProcessor, tmp_path: Path) -> None:
    flow = rng.normal(size=(3, 4, 6, 2)).astype(np.float16)
    path = tmp_path / "flow.npz"
    np.savez(path, flow=flow, timestamps=np.arange(3) / 10)
    expected = processor(flow=flow.astype(np.float32))
    for source in (path, str(path), [path], [str(path)]):
        batch = processor(flow=source)
        assert batch["flow_pixel_values"].shape == (1, 3, 2, 4, 6)
        assert torch.equal(batch["flow_pixel_values"], expected["flow_pixel_values"])
    path.write_bytes(path.read_bytes()[:50])
    with pytest.raises(MediaError, match=r"flow: sample 1: .*flow\.npz"):
        processor(flow=[flow.astype(np.float32), path])


@pytest.mark.parametrize("size", [8, [8, 8], (12, 3)])
def test_flow_is_resized_with_its_vectors(size: Any, tmp_path: Path) -> None:
    height, width = (size, size) if isinstance(size, int) else size
    flows = [np.ones((2, 2, 4, 6), np.float32), np.ones((1, 2, 16, 2), np.float32), None]
    sized = CLCRProcessor(flow_size=size)
    sized.save_pretrained(tmp_path)
    for processor in (sized, CLCRProcessor.from_pretrained(tmp_path)):
        values = processor(flow=flows)["flow_pixel_values"]
        assert values.shape == (3, 2, 2, height, width)
        for index, (high, wide) in enumerate([(4, 6), (16, 2)]):
            assert torch.allclose(values[index, 0, 0], torch.tensor(width / wide))
            assert torch.allclose(values[index, 0, 1], torch.tensor(height / high))
        assert not values[2].any()


@pytest.mark.parametrize("size", [0, [8], [8, 0], "big", [1.5, 2]])
def test_impossible_flow_sizes(size: Any) -> None:
    with pytest.raises(ValueError, match="flow_size"):
        CLCRProcessor(flow_size=size)


def test_features_of_any_name() -> None:
    features = CLCRProcessor()
    batch = features(
        text_features=[np.ones((2, 3)), None, np.ones((4, 3))],
        pulse_features=[torch.ones(5, 1, dtype=torch.bfloat16), [[1], [2]], np.zeros((0, 1))],
    )
    assert batch["text_features"].shape == (3, 4, 3) and batch["text_features"].dtype == torch.float32
    assert batch["text_attention_mask"].sum(1).tolist() == [2, 0, 4]
    assert batch["pulse_features"].shape == (3, 5, 1)
    assert batch["pulse_attention_mask"].sum(1).tolist() == [5, 2, 0]


def test_features_given_as_arrays_and_with_levels() -> None:
    features = CLCRProcessor()
    assert features(audio_features=np.ones((4, 3)))["audio_features"].shape == (1, 4, 3)
    assert features(audio_features=np.ones((2, 4, 3)))["audio_features"].shape == (2, 4, 3)
    taps = features(audio_features=[np.ones((3, 2, 5)), np.ones((3, 4, 5)), None])
    assert taps["audio_features"].shape == (3, 3, 4, 5)
    assert taps["audio_attention_mask"].sum(1).tolist() == [2, 4, 0]
    assert taps["audio_features"][0, :, 2:].sum() == 0 and taps["audio_features"][0, :, :2].min() == 1


def test_features_missing_everywhere_are_left_out() -> None:
    features = CLCRProcessor()
    batch = features(audio_features=[None, None], vision_features=[np.zeros((0, 4)), None])
    assert set(batch) == {"vision_features", "vision_attention_mask"}
    assert batch["vision_features"].shape == (2, 1, 4) and batch["vision_attention_mask"].sum() == 0


def test_tensor_types(processor: CLCRProcessor) -> None:
    arrays = processor(text="bad", return_tensors="np")
    assert isinstance(arrays["input_ids"], np.ndarray)
    assert isinstance(processor(text="bad", return_tensors=None)["input_ids"], np.ndarray)


# --- padding ---------------------------------------------------------------------------------------------------------


@settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data(), size=st.integers(1, 4))
def test_a_sample_does_not_depend_on_its_neighbours(data: st.DataObject, size: int) -> None:
    """What the mask keeps of a sample is the same alone and in any batch, for every modality and extractor."""
    seed = data.draw(st.integers(0, 2**16))
    draws = np.random.default_rng(seed)

    def some(make: Any) -> list[Any]:
        return [make() if data.draw(st.booleans()) else None for _ in range(size)]

    batch = {
        "text": some(lambda: " ".join(draws.choice(WORDS[4:], draws.integers(0, 6)))),
        "videos": some(lambda: pictures(int(draws.integers(0, 6)), 9, 7)),
        "audio": some(lambda: draws.normal(size=draws.integers(0, 4000)).astype(np.float32)),
        "pulse_features": some(lambda: draws.normal(size=(draws.integers(0, 5), 2)).astype(np.float32)),
    }
    extractor = data.draw(st.sampled_from([make_waves, make_mel]))()
    whole = CLCRProcessor(make_tokenizer(), extractor, make_images(), video_num_frames=3)
    together = whole(**batch, sampling_rate=RATE, return_tensors="np")
    masks = {"input_ids": "attention_mask", "pixel_values": "vision_attention_mask"}
    masks |= {"input_values": "audio_attention_mask", "pulse_features": "pulse_attention_mask"}
    for index in range(size):
        alone = whole(**{k: [v[index]] for k, v in batch.items()}, sampling_rate=RATE, return_tensors="np")
        for key, mask in masks.items():
            if key not in alone:  # features that are None in the whole batch
                assert key not in together or not together[mask][index].any()
                continue
            kept = together[mask][index].astype(bool)
            assert np.array_equal(together[key][index][kept], alone[key][0][alone[mask][0].astype(bool)])
            if batch["audio"][index] is None or key != "input_values":
                assert not np.any(together[key][index][~kept])


def test_padding_can_be_refused(processor: CLCRProcessor) -> None:
    assert processor(text=["bad", "good"], padding=False)["input_ids"].shape == (2, 3)
    with pytest.raises(ValueError, match=r"text: samples have the lengths \[3, 4\] and padding=False"):
        processor(text=["bad", "not good"], padding=False)


# --- what it refuses -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_features_that_are_not_finite_name_their_sample(bad: float) -> None:
    broken = np.ones((3, 2))
    broken[1, 0] = bad
    with pytest.raises(ValueError, match=r"vision_features: sample 1 holds NaN or infinite values \(first at \(1, 0\)"):
        CLCRProcessor()(vision_features=[np.ones((2, 2)), broken])


REFUSALS: list[tuple[dict[str, Any], str]] = [
    ({}, "nothing to process"),
    ({"text": []}, "batch is empty"),
    ({"text": ["a", "b"], "audio": [tone(0.1)]}, "text has 2, audio has 1"),
    ({"text": ["a"], "vision_features": np.ones((2, 3, 4))}, "text has 1, vision_features has 2"),
    ({"text": ["a", 3]}, "text: sample 1 is a int"),
    ({"audio": tone(0.1)}, "audio: sample 0 is a waveform of unknown rate; pass sampling_rate="),
    ({"audio": [tone(0.1)], "sampling_rate": [1, 2]}, "sampling_rate has 2 entries for 1 samples"),
    ({"audio": [None, np.full(99, np.nan)], "sampling_rate": RATE}, "audio: sample 1: .*NaN"),
    ({"audio": [np.zeros((40, 50))], "sampling_rate": RATE}, "audio: sample 0: "),
    ({"audio": {"wave": 1}}, "keys \\['wave'\\]"),
    ({"videos": [None, "absent.mp4"]}, "videos: sample 1: absent.mp4 does not exist"),
    ({"media": ["absent.mp4"]}, "media: sample 0: absent.mp4 does not exist"),
    ({"audio": b"no media"}, "audio: sample 0: "),
    ({"videos": np.zeros((2, 8, 8, 3))}, "sample 0: a frame is float64 .*uint8 RGB"),
    ({"videos": np.zeros((2, 3, 8, 8), np.uint8)}, "channels last"),
    ({"videos": pictures(1), "num_frames": 2, "fps": 2}, "num_frames and fps were both given"),
    ({"videos": pictures(1), "num_frames": 0}, "num_frames must be positive"),
    ({"videos": pictures(1), "images": pictures(1)}, r"vision was given more than once \(videos, images\)"),
    ({"media": "a.mp4", "audio": "a.mp4"}, r"audio was given more than once \(audio, media\)"),
    ({"text": "a", "text_features": np.ones((2, 2))}, r"text was given more than once \(text, text_features\)"),
    ({"text": "a", "padding": "max_length"}, "needs max_length"),
    ({"text": "a", "padding": "always"}, "padding must be"),
    ({"flow": np.zeros((2, 3, 8, 8))}, r"flow: sample 0 has shape \(2, 3, 8, 8\)"),
    ({"pulse_features": [np.ones(3)]}, r"pulse_features: sample 0 has shape \(3,\); expected \(T, D\)"),
    ({"pulse_features": [np.ones((2, 3)), np.ones((2, 4))]}, r"sample 1 has shape \(2, 4\) and sample 0 \(2, 3\)"),
    ({"pulse_features": [[[1, 2], [3]]]}, "pulse_features: sample 0 is no array of numbers"),
    ({"pulse_features": [None]}, "no sample of the batch has any input"),
]


@pytest.mark.parametrize(("inputs", "message"), REFUSALS, ids=[message[:40] for _, message in REFUSALS])
def test_refusals_say_what_and_where(processor: CLCRProcessor, inputs: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        processor(**inputs)


def test_unknown_arguments_are_refused(processor: CLCRProcessor) -> None:
    with pytest.raises(TypeError, match="unknown argument 'vidoes'; features .* as NAME_features="):
        processor(vidoes=None, text="bad")


def test_a_film_without_sound_as_audio_is_a_media_error(processor: CLCRProcessor, clips: dict[str, Path]) -> None:
    with pytest.raises(MediaError, match="audio: sample 0: .*no audio track"):
        processor(audio=clips["mute"])


@pytest.mark.parametrize(
    ("inputs", "part"),
    [
        ({"text": "bad"}, "tokenizer"),
        ({"audio": tone(0.1), "sampling_rate": RATE}, "feature_extractor"),
        ({"videos": pictures(1)}, "image_processor"),
        ({"media": "clip.mp4"}, "image_processor"),
    ],
)
def test_a_modality_without_its_part_says_what_to_pass(inputs: dict[str, Any], part: str) -> None:
    with pytest.raises(ValueError, match=rf"needs the processor's {part}.*CLCRProcessor\({part}=\.\.\.\)"):
        CLCRProcessor()(**inputs)


def test_bad_construction() -> None:
    with pytest.raises(TypeError, match="feature_extractor"):
        CLCRProcessor(feature_extractor=make_tokenizer())
    with pytest.raises(ValueError, match="video_num_frames must be positive"):
        CLCRProcessor(video_num_frames=0)
    with pytest.raises(ValueError, match="both an image_processor and a video_processor"):
        CLCRProcessor(image_processor=make_images(), video_processor=make_images())
    naflex = CLCRProcessor(image_processor=make_images())
    naflex.image_processor = lambda frames, **_: {"pixel_values": torch.zeros(1, 16, 768)}
    with pytest.raises(ValueError, match="use an image processor that gives"):
        naflex(videos=pictures(1))


# --- saving and loading ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("held", [[], ["tokenizer"], ["feature_extractor"], ["image_processor"], [*PARTS]], ids=str)
@pytest.mark.parametrize("loader", [CLCRProcessor, AutoProcessor])
def test_round_trip_with_any_part_absent(tmp_path: Path, held: list[str], loader: Any) -> None:
    first = CLCRProcessor(**{name: PARTS[name]() for name in held}, video_num_frames=None, video_fps=2.5)
    first.save_pretrained(tmp_path)
    again = loader.from_pretrained(tmp_path)
    assert isinstance(again, CLCRProcessor)
    assert again.get_attributes() == held and again.model_input_names == first.model_input_names
    assert (again.video_num_frames, again.video_fps, again.max_audio_seconds) == (None, 2.5, None)
    for name in PARTS:
        assert (getattr(again, name) is None) == (name not in held)
    assert again.to_dict() == first.to_dict()
    assert repr(again)


def test_reloaded_processor_gives_the_same_batch(
    tmp_path: Path, processor: CLCRProcessor, clips: dict[str, Path]
) -> None:
    processor.save_pretrained(tmp_path)
    assert [path.name for path in tmp_path.glob("*processor*")] == ["processor_config.json"]
    inputs: dict[str, Any] = {"text": ["not bad", None], "media": [clips["sound"], clips["mute"]]}
    first, again = processor(**inputs), CLCRProcessor.from_pretrained(tmp_path)(**inputs)
    assert set(first) == set(again)
    assert all(torch.equal(first[key], again[key]) for key in first)


def test_options_and_parts_can_be_changed_while_loading(tmp_path: Path, processor: CLCRProcessor) -> None:
    processor.save_pretrained(tmp_path)
    changed = CLCRProcessor.from_pretrained(tmp_path, video_num_frames=7, feature_extractor=make_waves())
    assert changed.video_num_frames == 7
    assert isinstance(changed.feature_extractor, Wav2Vec2FeatureExtractor)
    assert "video_num_frames" not in changed.tokenizer.init_kwargs


def test_a_folder_without_processor_says_how_to_build_one(tmp_path: Path) -> None:
    make_tokenizer().save_pretrained(tmp_path)
    with pytest.raises(OSError, match="holds no processor_config.json of a CLCRProcessor; build one from its parts"):
        CLCRProcessor.from_pretrained(tmp_path)


def test_remote_code(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A saved folder that carries its code loads in a process that never imports the package."""
    folder, script = tmp_path / "model", tmp_path / "load.py"
    monkeypatch.setattr(CLCRProcessor, "_auto_class", None)
    CLCRProcessor.register_for_auto_class()
    images = ViTImageProcessor(size={"height": 8, "width": 8})
    CLCRProcessor(make_tokenizer(), image_processor=images).save_pretrained(folder)
    assert {"processing_clcr.py", "media.py"} <= {path.name for path in folder.iterdir()}
    script.write_text(
        "import sys, os, numpy as np\n"
        f"os.environ['HF_MODULES_CACHE'] = {str(tmp_path / 'modules')!r}\n"
        "from transformers import AutoProcessor\n"
        "p = AutoProcessor.from_pretrained(sys.argv[1], trust_remote_code=True)\n"
        "assert 'clcr_hf' not in sys.modules, 'the package was imported'\n"
        "print(tuple(p(videos=np.zeros((2, 9, 9, 3), np.uint8))['pixel_values'].shape))\n"
    )
    loaded = subprocess.run([sys.executable, str(script), str(folder)], capture_output=True, text=True)
    assert loaded.stdout.strip() == "(1, 2, 3, 8, 8)", loaded.stderr


def test_torchvision_is_not_imported() -> None:
    code = (
        "import sys; from clcr_hf.processing_clcr import CLCRProcessor; CLCRProcessor()\n"
        "assert 'torchvision' not in sys.modules and 'av' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_pickle_and_json(processor: CLCRProcessor) -> None:
    again = pickle.loads(pickle.dumps(processor))
    assert torch.equal(again(text="bad")["input_ids"], processor(text="bad")["input_ids"])
    saved = json.loads(processor.to_json_string())
    assert saved["sub_processors"] == list(PARTS) and saved["processor_class"] == "CLCRProcessor"


def test_decoding(processor: CLCRProcessor) -> None:
    ids = processor(text=["not bad"])["input_ids"]
    assert processor.batch_decode(ids, skip_special_tokens=True) == ["not bad"]
    assert processor.decode(ids[0], skip_special_tokens=True) == "not bad"
    for method in ("decode", "batch_decode"):
        with pytest.raises(ValueError, match="decoding needs the processor's tokenizer"):
            getattr(CLCRProcessor(), method)(ids)
