"""One sample gives the same tensors at every door: a table in training, the processor, the pipeline, requests from
strangers, the collator and feature extraction."""

import io
import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from PIL import Image
from transformers import SeamlessM4TFeatureExtractor, Wav2Vec2FeatureExtractor, pipeline
from transformers.models.vit.image_processing_pil_vit import ViTImageProcessorPil

from clcr_hf import CLCRConfig, CLCRProcessor
from clcr_hf.collator import CLCRDataCollator
from clcr_hf.data import load_manifest
from clcr_hf.data.convert import convert
from clcr_hf.data.flow import add_flow, save_flow
from clcr_hf.data.labels import filled_columns, modality_columns
from clcr_hf.explain import explain
from clcr_hf.extract.clips import ClipReader
from clcr_hf.extract.readers import Readers
from clcr_hf.extract.settings import ExtractSettings
from clcr_hf.extract.sources import open_source
from clcr_hf.faces import ALLOWED
from clcr_hf.media import MediaError, load_audio, load_flow, load_image, load_media, load_video, write_video
from clcr_hf.pipeline_inputs import SampleReader
from clcr_hf.samples import is_missing
from clcr_hf.training.arguments import DataArguments
from clcr_hf.training.build import train_tokenizer
from clcr_hf.training.rows import prepare
from clcr_hf.training.run import evaluate_model, evaluation_data, main

DETECTOR = "bright_faces:guess"
RATE, FPS, SECONDS, SIDE = 8_000, 10, 1.5, 24
MEDIA = Path(__file__).parent / "media"
WORDS = ["one", "two", "three", "four", "five"]
TEXTS = [
    "one two",
    "nan",
    "None",
    " ".join(WORDS * 8),
    None,
    float("nan"),
    "",
    "  \t\n",
    "\u200b\u200d\ufeff",
    "\u2800",
]
KEYS = {
    "input_ids": "attention_mask",
    "pixel_values": "vision_attention_mask",
    "input_values": "audio_attention_mask",
    "flow_pixel_values": "flow_attention_mask",
    "gaze_features": "gaze_attention_mask",
}


@pytest.fixture(scope="module")
def files(tmp_path_factory) -> dict[str, Path]:
    """Clips with and without sound, with frames out of order, sounds, images turned by EXIF, flow and features."""
    folder = tmp_path_factory.mktemp("files")
    rng = np.random.default_rng(0)
    frames = rng.integers(0, 255, (round(FPS * SECONDS), SIDE, 32, 3), dtype=np.uint8)
    wave = rng.normal(0, 0.1, round(2 * RATE * SECONDS)).astype(np.float32)
    made = {
        "both": write_video(folder / "both.mp4", frames, FPS, wave, 2 * RATE),
        "silent": write_video(folder / "silent.mp4", frames, FPS),
        "reordered": MEDIA / "files" / "xvid_mp3.avi",
        "flow": save_flow(folder / "flow.npz", rng.normal(size=(6, 8, 12, 2)), np.arange(6) / 4),
    }
    for turn in (1, 3, 6, 7):
        exif = Image.Exif()
        exif[0x0112] = turn
        path = folder / f"turned{turn}.jpg"
        Image.fromarray(frames[turn]).save(path, exif=exif, quality=95)
        made[path.stem] = path
    np.save(folder / "gaze.npy", rng.normal(size=(5, 3)).astype(np.float32))
    return made | {"gaze": folder / "gaze.npy"}


@pytest.fixture(scope="module")
def parts() -> dict[str, Any]:
    return {
        "tokenizer": train_tokenizer(WORDS * 2, 100, 512),
        "feature_extractor": SeamlessM4TFeatureExtractor(feature_size=8, num_mel_bins=8, sampling_rate=RATE),
        "image_processor": ViTImageProcessorPil(size={"height": 8, "width": 8}),
    }


def referred(path: Path, form: str) -> Any:
    """A file in one of the forms that files come in."""
    if form == "path":
        return str(path)
    if form == "bytes":
        return path.read_bytes()
    if form == "object":
        return io.BytesIO(path.read_bytes())
    inside = form == "reference with bytes"
    return {"path": "gone" if inside else str(path), "bytes": path.read_bytes() if inside else None}


# -- the doors ------------------------------------------------------------------------------------------------------


def present(arrays: dict[str, Any]) -> dict[str, np.ndarray]:
    """What of a sample is there: the steps that its masks keep. A modality under a mask of zeros is missing."""
    found = {}
    for key, mask in KEYS.items():
        if key in arrays:
            kept = np.asarray(arrays.get(mask, np.ones(len(arrays[key])))).astype(bool)
            if kept.any():
                found[key] = np.asarray(arrays[key])[kept]
    return found


def by_processor(processor: CLCRProcessor, sample: dict[str, Any]) -> dict[str, Any]:
    names = {"video": "videos"}
    given = {names.get(key, key): value if key in ("start", "end") else [value] for key, value in sample.items()}
    return {key: value[0] for key, value in processor(**given, return_tensors="np").items()}


def by_pipeline(processor: CLCRProcessor, sample: dict[str, Any], **options: Any) -> dict[str, Any]:
    names = ["text", "vision", "audio", "flow", "gaze"]
    return SampleReader(processor, names)(dict(sample), **options)["arrays"]


def by_collator(processor: CLCRProcessor, sample: dict[str, Any]) -> dict[str, Any]:
    return {key: value[0] for key, value in CLCRDataCollator(processor)([sample]).items()}


def by_training(processor: CLCRProcessor, sample: dict[str, Any], folder: Path, learns: bool) -> dict[str, Any]:
    """The sample as the row of a JSONL table."""
    row = {key: value for key, value in sample.items() if key != "gaze_features"}
    if sample.get("gaze_features") is not None:
        row["gaze_features"] = sample["gaze_features"].tolist()
    table = folder / "table.jsonl"
    table.write_text(json.dumps({**row, "id": "one", "label": 0.5, "split": "train"}) + "\n")
    data = load_manifest(table, validation_fraction=0)
    columns = modality_columns(filled_columns(data))
    return prepare(data, columns, DataArguments(check_media=False, strict_media=True), processor, learns)["train"][0]


def by_extraction(processor: CLCRProcessor, sample: dict[str, Any], folder: Path) -> dict[str, Any]:
    """What frozen backbones would be given of the row of a table: pixels and values of the extractor."""
    table = folder / "table.jsonl"
    table.write_text(json.dumps({**{k: v for k, v in sample.items() if k != "gaze_features"}, "id": "one"}) + "\n")
    eyes = CLCRProcessor(image_processor=processor.image_processor, video_num_frames=None)
    ears = CLCRProcessor(feature_extractor=processor.feature_extractor)

    def hear(wave: np.ndarray) -> np.ndarray:
        return ears(audio=[{"array": wave, "sampling_rate": RATE}], return_tensors="np")["input_values"][0]

    vision = SimpleNamespace(clip_frames=1, prepare=lambda frames: eyes(videos=[frames])["pixel_values"][0])
    audio = SimpleNamespace(sampling_rate=RATE, max_seconds=60.0, prepare=hear)
    fps = processor.video_fps
    number = processor.video_num_frames if fps is None else None
    wanted: dict[str, Any] = {"fps": fps, "num_frames": number, "face_crop": processor.face_crop}
    how = ExtractSettings(vision="frames", audio="sound", window_seconds=60.0, audio_rate=None, **wanted)
    reader = ClipReader(Readers(vision=vision, audio=audio), how)  # type: ignore[arg-type]
    (clip,) = open_source(table)
    found: dict[str, Any] = {}
    for job in reader.plan(clip):
        piece = reader.load(job)
        if piece.error is not None:
            raise piece.error
        found |= {} if piece.pixels is None else {"pixel_values": piece.pixels}
        found |= {} if piece.sound is None else {"input_values": piece.sound}
    return found


def assert_same(found: dict[str, Any], expected: dict[str, Any], door: str, keys: Any = KEYS) -> None:
    one, two = present(found), {key: value for key, value in present(expected).items() if key in keys}
    assert set(one) == set(two), door
    for key, value in two.items():
        np.testing.assert_array_equal(one[key], value, err_msg=f"{door}: {key}")


# -- samples --------------------------------------------------------------------------------------------------------


@st.composite
def samples(draw: st.DrawFn) -> dict[str, Any]:
    """Names of files and their forms, texts, stretches and features; files are put in by the test."""
    seen = draw(st.sampled_from(["media", "video", "images", "nothing"]))
    sample: dict[str, Any] = {}
    if seen in ("media", "video"):
        sample[seen] = draw(st.sampled_from(["both", "silent", "reordered"] if seen == "media" else ["both", "silent"]))
    elif seen == "images":
        sample["images"] = draw(st.lists(st.sampled_from(["turned1", "turned3"]), min_size=1, max_size=6))
        sample["images"] = draw(st.sampled_from([sample["images"], ["turned6", "turned7"]]))
    if draw(st.booleans()):
        sample["text"] = draw(st.sampled_from(TEXTS))
    if draw(st.booleans()):
        sample["gaze_features"] = draw(st.sampled_from([None, 1, 4]))
    if seen != "images" and draw(st.booleans()):
        sample["flow"] = "flow"
    if seen in ("media", "video") and draw(st.booleans()):
        sample["start"] = draw(st.sampled_from([None, 0.0, 0.25, 0.7]))
        sample["end"] = draw(st.sampled_from([None, 0.9, 1.2, 60.0]))
    if seen == "video" or (seen != "media" and draw(st.booleans())):
        sample["audio"] = "both"  # beside a video always: in a table a video alone stands for its audio too
        if seen == "images":
            sample.pop("flow", None)
    return sample


SETTINGS = st.fixed_dictionaries(
    {
        "video_fps": st.sampled_from([None, 3.0, 2.5 * FPS]),
        "video_num_frames": st.sampled_from([None, 4, 40]),
        "max_audio_seconds": st.sampled_from([None, 0.5]),
        "max_text_length": st.sampled_from([None, 6]),
        "face_crop": st.sampled_from([None, DETECTOR]),
    }
)


def filled(sample: dict[str, Any], files: dict[str, Path], form: str) -> dict[str, Any]:
    """The sample with its files in one form."""
    full = dict(sample)
    for key in ("media", "video", "audio"):
        if key in full:
            full[key] = referred(files[full[key]], form)
    if "images" in full:
        full["images"] = [referred(files[name], form) for name in full["images"]]
    if "flow" in full:
        full["flow"] = str(files["flow"])
    if full.get("gaze_features") is not None:
        full["gaze_features"] = np.load(files["gaze"])[: full["gaze_features"]]
    return full


def answer(door: Any, *args: Any, **options: Any) -> dict[str, Any] | None:
    """What a door gives; None where there is nothing to read, or no such track."""
    try:
        return door(*args, **options)
    except ValueError as error:
        nothing = (
            "nothing",
            "no sample of the batch has any input",
            "no column",
            "no row has",
            "no rows",
            "has none of",
        )
        if any(words in str(error) for words in nothing):
            return None
        raise


# Without shrinking: it takes minutes, and a sample is small as it is drawn.
@settings(
    max_examples=40,
    deadline=None,
    phases=[Phase.explicit, Phase.generate],
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(sample=samples(), options=SETTINGS, form=st.sampled_from(["bytes", "object", "reference with bytes"]))
def test_every_door_gives_the_same(files, parts, tmp_path, monkeypatch, sample, options, form):
    monkeypatch.setenv(ALLOWED, DETECTOR)
    processor = CLCRProcessor(**parts, **options)
    paths = filled(sample, files, "path")
    expected = answer(by_processor, processor, paths) or {}
    doors = {
        "processor, " + form: answer(by_processor, processor, filled(sample, files, form)),
        "pipeline": answer(by_pipeline, processor, paths),
        "pipeline, " + form: answer(by_pipeline, processor, filled(sample, files, form)),
        "training": answer(by_training, processor, paths, tmp_path, True),
        "evaluation": answer(by_training, processor, paths, tmp_path, False),
    }
    if "flow" not in sample:
        doors["strangers"] = answer(by_pipeline, processor, filled(sample, files, "bytes"), local_files=False)
    if not sample.keys() & {"video", "audio", "images", "flow"}:
        doors["collator"] = answer(by_collator, processor, paths)
    for door, found in doors.items():
        assert_same(found or {}, expected, door)
    if sample.keys() & {"media", "video", "audio", "images"} and extracted_alike(options):
        found = by_extraction(processor, paths, tmp_path)
        if "input_values" in found and "audio_attention_mask" in expected:  # it knows no masks
            found["audio_attention_mask"] = expected["audio_attention_mask"]
        assert_same(found, expected, "extraction", ("pixel_values", "input_values"))


def extracted_alike(options: dict[str, Any]) -> bool:
    """Whether `clcr extract` has these settings: it does not cut the audio, nor read every frame."""
    frames = options["video_num_frames"], options["video_fps"]
    return options["max_audio_seconds"] is None and frames != (None, None)


# -- one thing at a time --------------------------------------------------------------------------------------------

MISSING = [None, float("nan"), np.float32("nan"), "", " \n", "\u200b\u2060", "\ufe0f", "\u3164", b"", [], [None], {}]
MISSING += [
    np.zeros((0, 4)),
    {"path": None, "bytes": None},
    {"path": "", "bytes": b""},
    {"array": []},
    np.array(np.nan),
]
THERE = ["nan", "None", ".", "\u0928\u093f", "\N{SLIGHTLY SMILING FACE}", b"x", [0], np.zeros((1, 1)), 0, 0.0, False]
THERE += [{"path": "a.mp4", "bytes": None}, {"path": None, "bytes": b"x"}, {"array": [0.0], "sampling_rate": 8}]


@pytest.mark.parametrize("value", MISSING, ids=repr)
def test_what_is_missing(value):
    assert is_missing(value)


@pytest.mark.parametrize("value", THERE, ids=repr)
def test_what_is_there(value):
    assert not is_missing(value)


@pytest.mark.parametrize("blank", ["", "   ", "\u200b", float("nan"), None])
def test_an_empty_transcript_is_missing_in_training_too(files, parts, tmp_path, blank):
    """Version 0.1 read [CLS] [SEP] in training and nothing in the pipeline."""
    processor = CLCRProcessor(**parts)
    rows = [{"id": "a", "media": str(files["both"]), "text": blank}, {"id": "b", "media": None, "text": "one two"}]
    table = tmp_path / "table.jsonl"
    table.write_text("".join(json.dumps({**row, "label": 0.5, "split": "train"}) + "\n" for row in rows))
    data = load_manifest(table, validation_fraction=0)
    assert data["train"]["text"] == [None, "one two"]
    items = prepare(data, modality_columns(filled_columns(data)), DataArguments(), processor)["train"]
    assert not items[0]["attention_mask"].any() and items[1]["attention_mask"].sum() == 4
    if blank is not None:  # in a CSV, as pandas writes it
        table = tmp_path / "table.csv"
        table.write_text(f'id,media,text,label\na,{files["both"]},"{"" if blank != blank else blank}",0.5\n')
        assert load_manifest(table, validation_fraction=0)["train"]["text"] == [None]


def test_long_text_is_read_as_far_as_in_training(files, parts, tmp_path):
    """120 words and a tokenizer that takes 512: training read 64 tokens, and the saved model all."""
    words = " ".join(WORDS * 24)
    processor = CLCRProcessor(tokenizer=parts["tokenizer"], max_text_length=64)
    processor.save_pretrained(tmp_path)
    saved = CLCRProcessor.from_pretrained(tmp_path)
    assert saved.max_text_length == 64
    row = by_training(processor, {"text": words}, tmp_path, True)
    for found in (row, by_processor(saved, {"text": words}), by_pipeline(saved, {"text": words})):
        assert len(found["input_ids"]) == 64
        assert_same(found, row, "saved")
    assert len(saved(text=words, max_length=9)["input_ids"][0]) == 9
    assert len(saved(text=words, truncation=False)["input_ids"][0]) == 122
    content = json.loads((tmp_path / "processor_config.json").read_text())
    del content["max_text_length"]
    (tmp_path / "processor_config.json").write_text(json.dumps(content))
    assert len(by_pipeline(CLCRProcessor.from_pretrained(tmp_path), {"text": words})["input_ids"]) == 122


def test_a_limit_never_passes_the_tokenizer_s_own(parts):
    short = CLCRProcessor(tokenizer=train_tokenizer(WORDS * 2, 100, 16), max_text_length=64)
    assert short(text=" ".join(WORDS * 24))["input_ids"].shape == (1, 16)


def test_an_image_in_memory_is_read_as_its_file(files, parts):
    processor = CLCRProcessor(image_processor=parts["image_processor"])
    for name in ("turned1", "turned3", "turned6", "turned7"):
        with Image.open(files[name]) as image:
            turned = load_image(files[name])
            assert turned.shape[:2] == ((32, SIDE) if name in ("turned6", "turned7") else (SIDE, 32))
            expected = by_processor(processor, {"images": [turned]})
            assert_same(by_processor(processor, {"images": [image]}), expected, name)
            assert_same(by_pipeline(processor, {"images": [str(files[name])]}), expected, name)


@pytest.mark.parametrize("kind", ["tga", "several sizes", "too large"])
def test_images_that_no_door_reads(files, parts, tmp_path, kind, monkeypatch):
    processor = CLCRProcessor(image_processor=parts["image_processor"])
    path = tmp_path / ("one.tga" if kind == "tga" else "one.png")
    Image.new("RGB", (SIDE, SIDE)).save(path)
    if kind == "too large":
        monkeypatch.setattr("clcr_hf.media.MAX_PIXELS", SIDE * SIDE - 1)
    images = [str(path), str(files["turned6"])] if kind == "several sizes" else [str(path)]
    for door in (by_processor, by_pipeline):
        with pytest.raises(MediaError):
            door(processor, {"images": images})
    for learns in (True, False):
        with pytest.raises(MediaError):
            by_training(processor, {"images": images}, tmp_path, learns)
    if kind != "tga":  # in memory nobody knows what the file was
        with pytest.raises(MediaError):
            by_processor(processor, {"images": [Image.open(name) for name in images]})


def test_two_stretches_of_one_file_are_two_samples(files, parts, tmp_path):
    processor = CLCRProcessor(**parts, video_fps=5.0)
    table = tmp_path / "cuts.csv"
    rows = [f"{files['both']},{stretch},{label}" for label, stretch in enumerate(("0.2,0.7", "0.7,", ","))]
    table.write_text("\n".join(["file_name,start,end,label", *rows]))
    data = load_manifest(table, validation_fraction=0)
    assert len(set(data["train"]["id"])) == 3
    assert data["train"]["start"] == [0.2, 0.7, 0.0] and data["train"]["end"] == [0.7, None, None]
    items = prepare(data, modality_columns(filled_columns(data)), DataArguments(cache_gb=1.0), processor)["train"]
    for _ in range(2):  # decoded, and from memory
        for item, (start, end) in zip(items, [(0.2, 0.7), (0.7, None), (0.0, None)], strict=True):
            clip = load_media(files["both"], fps=5, sampling_rate=RATE, start=start, end=end)
            sound = [{"array": clip.audio, "sampling_rate": RATE}]
            assert_same(item, by_processor(processor, {"videos": clip.video.frames, "audio": sound[0]}), str(start))
    whole = load_audio(files["both"], sampling_rate=RATE)
    waves = CLCRProcessor(feature_extractor=Wav2Vec2FeatureExtractor(sampling_rate=RATE, do_normalize=False))
    cut = waves(audio=[str(files["both"])] * 2, start=[0.2, 0.7], end=[0.7, None])
    np.testing.assert_array_equal(cut["input_values"][0, : cut["audio_attention_mask"][0].sum()], whole[1600:5600])
    in_memory = waves(audio={"array": whole, "sampling_rate": RATE, "start": 0.2, "end": 0.7})
    np.testing.assert_array_equal(in_memory["input_values"][0], whole[1600:5600])


@pytest.mark.parametrize(
    ("cells", "message"),
    [
        ("soon,1", "start is 'soon'"),
        ("1,0.5", r"end \(0.5\) does not come after start \(1\)"),
        ("-1,", "start is '-1'"),
    ],
)
def test_stretches_that_are_none(files, tmp_path, cells, message):
    table = tmp_path / "cuts.csv"
    table.write_text(f"file_name,start,end,label\n{files['both']},,,0\n{files['both']},{cells},1\n")
    with pytest.raises(ValueError, match=f"cuts.csv, row 2: {message}"):
        load_manifest(table, validation_fraction=0)


def test_what_has_no_times_has_no_stretch(files, parts):
    processor = CLCRProcessor(**parts)
    for sample in ({"images": [str(files["turned1"])]}, {"video": load_video(files["both"]).frames}):
        with pytest.raises(ValueError, match="no times"):
            by_pipeline(processor, {**sample, "start": 0.5})
    with pytest.raises(ValueError, match="start is True"):
        by_pipeline(processor, {"media": str(files["both"]), "start": True})


def test_flow_of_a_stretch(files, parts, tmp_path):
    processor = CLCRProcessor(**parts, video_num_frames=None)
    flow = load_flow(files["flow"])  # a pair each quarter of a second
    sample = {"media": str(files["silent"]), "flow": str(files["flow"]), "start": 0.5, "end": 1.0}
    for found in (by_pipeline(processor, sample), by_training(processor, sample, tmp_path, False)):
        np.testing.assert_array_equal(found["flow_pixel_values"], flow[2:4])
    table = tmp_path / "cuts.csv"
    table.write_text(f"file_name,start,end,label\n{files['both']},0,0.5,0\n{files['both']},0.7,1.2,1\n")
    rows = add_flow(load_manifest(table, validation_fraction=0), tmp_path / "flow", size=None)["train"]
    for row, (start, end) in zip(rows, [(0, 0.5), (0.7, 1.2)], strict=True):
        with np.load(row["flow"]) as kept:
            assert start <= kept["timestamps"][0] and kept["timestamps"][-1] < end


def test_segments_last_as_long_as_the_longer_track(parts, tmp_path):
    frames = np.zeros((20, SIDE, 32, 3), np.uint8)
    path = write_video(tmp_path / "quiet_end.mp4", frames, FPS, np.zeros(RATE, np.float32) + 0.1, RATE)
    for held in (["image_processor", "feature_extractor"], ["image_processor"], ["feature_extractor"]):
        reader = SampleReader(CLCRProcessor(**{name: parts[name] for name in held}), ["vision", "audio"])
        assert reader({"media": str(path)})["seconds"] == pytest.approx(2.0, abs=0.1)
        half = reader({"media": str(path), "start": 0.5, "end": 0.75})["seconds"]
        assert half == pytest.approx(0.25, abs=0.01)


@pytest.mark.parametrize("through_shards", [False, True])
def test_modalities_of_a_user_s_own_name(tmp_path, through_shards):
    """From a table, or the shards made of it, to a model, its figures, an answer and the reasons for it."""
    rng = np.random.default_rng(0)
    rows = ["id,gaze_features,skeleton_features,label,split"]
    for number in range(24):
        split = ("train", "train", "validation", "test")[number % 4]
        np.save(tmp_path / f"gaze{number}.npy", rng.normal(size=(4 + number % 3, 3)).astype(np.float32))
        np.save(tmp_path / f"skeleton{number}.npy", rng.normal(size=(5, 6)).astype(np.float32))
        skeleton = "" if number == 5 else f"skeleton{number}.npy"
        rows.append(f"r{number},gaze{number}.npy,{skeleton},{number % 5 - 2}.5,{split}")
    table, out = tmp_path / "table.csv", str(tmp_path / "run")
    table.write_text("\n".join(rows))
    source = ["--dataset", "manifest", "--data_file", str(table)]
    if through_shards:
        convert("manifest", table, tmp_path / "shards")
        source = ["--dataset", "shards", "--dataset_dir", str(tmp_path / "shards")]
    small = ["--max_steps", "2", "--per_device_train_batch_size", "4", "--hidden_size", "16", "--disable_tqdm", "True"]
    metrics = main([*source, "--output_dir", out, "--use_cpu", *small])
    config = CLCRConfig.from_pretrained(out)
    assert config.modalities == ["gaze", "skeleton"]
    assert [config.modality_config(name).feature_size for name in config.modalities] == [3, 6]
    again = evaluate_model(out, evaluation_data(out, []))
    assert again["mae"] == pytest.approx(metrics["test_mae"], abs=1e-5)
    pipe = pipeline("multimodal-sentiment", model=out, device="cpu")
    row = load_manifest(table)["test"][0]
    decision = explain(pipe, row)
    assert set(decision.without) == set(decision.result["modality_weights"]) == {"gaze", "skeleton"}
    assert pipe({"gaze_features": row["gaze_features"]})["score"] == pytest.approx(
        decision.without["skeleton"]["score"]
    )
    with pytest.raises(ValueError, match="no column for pulse"):
        main([*source, "--output_dir", out, "--modalities", "gaze", "pulse", "--use_cpu", *small])
    card = (tmp_path / "run" / "README.md").read_text()
    assert "gaze" in card and "skeleton" in card
