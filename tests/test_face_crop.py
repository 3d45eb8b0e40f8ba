"""Crops of the speaker's face at every door: the processor, training, the pipeline, extraction, saving and loading."""

import json

import numpy as np
import pytest
from datasets import Dataset, Features, Value, Video
from extract_backbones import save_vision
from transformers import AutoProcessor, SeamlessM4TFeatureExtractor
from transformers.models.vit.image_processing_pil_vit import ViTImageProcessorPil

from clcr_hf import CLCRProcessor, faces
from clcr_hf.data.columns import DataFormatError
from clcr_hf.extract import extract_features
from clcr_hf.faces import ALLOWED, crop_faces
from clcr_hf.media import load_video, write_video
from clcr_hf.pipeline_inputs import SampleReader
from clcr_hf.training.arguments import DataArguments
from clcr_hf.training.build import load_processor
from clcr_hf.training.rows import ClipRows

DETECTOR = "bright_faces:find"
RATE, FPS, FRAMES = 16_000, 8, 16


@pytest.fixture(autouse=True)
def allowed(monkeypatch):
    monkeypatch.setenv(ALLOWED, DETECTOR)
    monkeypatch.setattr(faces, "_said", [])


def write_clip(path, seen):
    """Two seconds with sound; where `seen`, a bright square goes to the right."""
    frames = np.full((FRAMES, 96, 128, 3), 50, np.uint8)
    for k in range(FRAMES):
        if seen(k):
            frames[k, 30:62, 10 + 5 * k : 42 + 5 * k] = 200
            frames[k, 40:50, 20 + 5 * k : 30 + 5 * k, 0] = 30 + 10 * k
    tone = np.sin(np.arange(RATE * 2) / 20).astype(np.float32) / 2
    return str(write_video(path, frames, FPS, tone, RATE))


@pytest.fixture(scope="module")
def clip(tmp_path_factory):
    """The speaker is away from the sixth to the eighth of sixteen frames."""
    return write_clip(tmp_path_factory.mktemp("clips") / "clip.mp4", lambda k: not 5 <= k <= 7)


@pytest.fixture(scope="module")
def empty(tmp_path_factory):
    return write_clip(tmp_path_factory.mktemp("clips") / "empty.mp4", lambda k: False)


def made(face_crop=DETECTOR, sound=True, **options):
    extractor = SeamlessM4TFeatureExtractor(feature_size=16, num_mel_bins=16, sampling_rate=RATE) if sound else None
    pictures = ViTImageProcessorPil(size={"height": 16, "width": 16})
    options = {"video_num_frames": 8} | options
    return CLCRProcessor(feature_extractor=extractor, image_processor=pictures, face_crop=face_crop, **options)


def by_hand(path, processor):
    """Pixels of the crops, made from the frames of the file, and the times of those that are left."""
    clip = load_video(path, num_frames=8)
    crops, kept = crop_faces(clip.frames, DETECTOR)
    return processor(videos=[crops], face_crop=False)["pixel_values"].numpy(), clip.timestamps[kept]


def test_every_door_cuts_alike(clip):
    processor = made()
    expected, times = by_hand(clip, processor)
    assert 5 <= expected.shape[1] <= 7 and expected.std() > 0.1
    frames = load_video(clip, num_frames=8).frames
    with open(clip, "rb") as file:
        content = file.read()
    forms = [{"videos": [clip]}, {"videos": [content]}, {"videos": [{"path": clip, "bytes": None}]}, {"media": [clip]}]
    forms += [{"videos": [frames]}, {"images": [list(frames)]}, {"images": [frames]}]
    for form in forms:
        batch = processor(**form)
        np.testing.assert_array_equal(batch["pixel_values"].numpy(), expected)
        assert batch["vision_attention_mask"].tolist() == [[1] * expected.shape[1]]
    reader = SampleReader(processor, ["vision", "audio"])
    for value in ({"video": clip}, {"media": content}, clip, {"video": frames}):
        read = reader(value)
        np.testing.assert_array_equal(read["arrays"]["pixel_values"], expected[0])
        if not isinstance(value, dict) or "media" in value:
            np.testing.assert_allclose(read["frame_times"], times)
            assert read["seconds"] == pytest.approx(2, abs=0.1)
    for column in ("media", "video"):
        features = Features({"id": Value("string"), column: Video(decode=False)})
        rows = Dataset.from_dict({"id": ["a"], column: [{"path": clip, "bytes": None}]}, features=features)
        row = ClipRows(rows, {"vision": column, "audio": "audio"}, processor)[0]
        np.testing.assert_array_equal(row["pixel_values"].numpy(), expected[0])


def test_a_frame_without_the_face_is_padding_beside_a_longer_clip(clip, tmp_path):
    whole = write_clip(tmp_path / "whole.mp4", lambda k: True)
    batch = made()(videos=[clip, whole])
    left = batch["vision_attention_mask"].sum(1).tolist()
    assert left[0] < left[1] == 8
    assert batch["vision_attention_mask"][0].tolist() == [1] * left[0] + [0] * (8 - left[0])
    assert not batch["pixel_values"][0, left[0] :].any()


def test_a_clip_without_a_face_has_no_vision_and_is_named_once(clip, empty, caplog):
    batch = made()(media=[empty, clip])
    made()(media=[empty])
    assert [record.getMessage() for record in caplog.records] == [
        f"no face was found in {empty}, which has no vision then; other clips without a face are not named"
    ]
    assert batch["vision_attention_mask"].sum(1).tolist()[0] == 0 < batch["vision_attention_mask"].sum(1).tolist()[1]
    assert batch["audio_attention_mask"].sum(1).min() > 0
    read = SampleReader(made(), ["vision", "audio"])(empty)
    assert "pixel_values" not in read["arrays"] and "input_values" in read["arrays"] and read["frame_times"] is None


def test_the_option_is_saved_and_a_call_may_say_otherwise(clip, tmp_path):
    made().save_pretrained(tmp_path)
    assert json.loads((tmp_path / "processor_config.json").read_text())["face_crop"] == DETECTOR
    loaded = AutoProcessor.from_pretrained(tmp_path)
    expected, _ = by_hand(clip, loaded)
    np.testing.assert_array_equal(loaded(videos=[clip])["pixel_values"].numpy(), expected)
    assert loaded(videos=[clip], face_crop=False)["pixel_values"].shape[1] == 8
    whole = made(face_crop=None)
    assert whole(videos=[clip])["pixel_values"].shape[1] == 8
    np.testing.assert_array_equal(whole(videos=[clip], face_crop=DETECTOR)["pixel_values"].numpy(), expected)


def test_a_processor_of_before_takes_whole_frames(tmp_path):
    made().save_pretrained(tmp_path)
    path = tmp_path / "processor_config.json"
    content = json.loads(path.read_text())
    del content["face_crop"]
    path.write_text(json.dumps(content))
    assert AutoProcessor.from_pretrained(tmp_path).face_crop is None


@pytest.mark.parametrize(("given", "kept"), [(True, "dlib"), (False, None), (None, None), ("dlib", "dlib")])
def test_what_the_option_may_be(given, kept):
    assert made(given).face_crop == kept


@pytest.mark.parametrize("given", ["", 3, ["dlib"]])
def test_what_the_option_may_not_be(given):
    with pytest.raises(ValueError, match="face_crop is the name of a face detector"):
        made(given)


def test_a_model_that_names_code_does_not_run_it(clip, tmp_path, monkeypatch):
    made("json:loads").save_pretrained(tmp_path)
    loaded = AutoProcessor.from_pretrained(tmp_path)
    with pytest.raises(ValueError, match=f"'json:loads' is code of its own.*set {ALLOWED}=json:loads"):
        loaded(videos=[clip])


def test_training_may_go_on_with_another_choice(tmp_path):
    made(None).save_pretrained(tmp_path)
    assert load_processor(str(tmp_path), DataArguments()).face_crop is None
    assert load_processor(str(tmp_path), DataArguments(face_crop="dlib")).face_crop == "dlib"


@pytest.mark.parametrize("kind", ["vit", "videomae"])
def test_extraction_leaves_out_frames_without_the_face(clip, empty, tmp_path, kind):
    from clcr_hf.data import load_shards

    backbone = save_vision(tmp_path / "backbone", kind)
    (tmp_path / "clips").mkdir()
    for name, source in (("a", clip), ("b", empty)):
        (tmp_path / "clips" / f"{name}.mp4").symlink_to(source)
    settings = {"vision": backbone, "taps": "last", "num_workers": 0, "fps": 8.0, "device": "cpu"}
    record = extract_features(tmp_path / "clips", tmp_path / "out", face_crop=DETECTOR, progress=False, **settings)
    assert record["settings"]["face_crop"] == DETECTOR
    rows = {row["id"]: row for row in load_shards(tmp_path / "out")["train"]}
    times = np.array(rows["a"]["vision_intervals"])
    assert len(rows["a"]["vision_features"]) == len(times) == (13 if kind == "vit" else 7)
    if kind == "vit":
        gaps = np.flatnonzero(times[1:, 0] - times[:-1, 1] > 1e-3)
        assert gaps.tolist() == [4]  # nothing stands for the time without a face
        np.testing.assert_allclose(times[gaps[0]], [0.5, 0.625], atol=1e-3)
        np.testing.assert_allclose(times[gaps[0] + 1], [1.0, 1.125], atol=1e-3)
    assert not rows.get("b", {}).get("vision_features")
    whole = extract_features(tmp_path / "clips", tmp_path / "whole", progress=False, **settings)
    assert "face_crop" not in whole["settings"]
    with pytest.raises(DataFormatError):  # the same folder holds features of other settings
        extract_features(tmp_path / "clips", tmp_path / "out", progress=False, **settings)
