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
from transformers import SeamlessM4TFeatureExtractor
from transformers.models.vit.image_processing_pil_vit import ViTImageProcessorPil

from clcr_hf import CLCRProcessor
from clcr_hf.collator import CLCRDataCollator
from clcr_hf.data import load_manifest
from clcr_hf.data.flow import save_flow
from clcr_hf.data.labels import filled_columns, modality_columns
from clcr_hf.extract.clips import ClipReader
from clcr_hf.extract.sources import open_source
from clcr_hf.media import write_video
from clcr_hf.pipeline_inputs import SampleReader
from clcr_hf.training.arguments import DataArguments
from clcr_hf.training.build import train_tokenizer
from clcr_hf.training.rows import prepare

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
    reader = ClipReader(vision, audio, fps=fps, num_frames=number, window_seconds=60.0)  # type: ignore[arg-type]
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
def test_every_door_gives_the_same(files, parts, tmp_path, sample, options, form):
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
