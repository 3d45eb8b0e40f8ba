"""Rows as inputs: which column a modality is read from, what happens to clips that cannot be read, augmentation."""

import json
import logging
import tracemalloc
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from datasets import Audio, ClassLabel, Dataset, DatasetDict, Features, Image, List, Value, Video
from extract_backbones import save_audio, save_vision
from hypothesis import given
from hypothesis import strategies as st
from layouts.csd import make_csd
from layouts.mmsa import make_mmsa
from PIL import Image as Picture

import clcr_hf.samples as module
from clcr_hf.collator import CLCRDataCollator
from clcr_hf.data.arrow import make_dataset
from clcr_hf.data.benchmarks.csd import MOSEI_EMOTIONS
from clcr_hf.data.convert import convert
from clcr_hf.data.flow import save_flow
from clcr_hf.data.labels import filled_columns, label_kind, modality_columns
from clcr_hf.data.shards import ShardWriter
from clcr_hf.extract import extract_features
from clcr_hf.media import MediaError, write_video
from clcr_hf.training.arguments import DataArguments, ModelArguments
from clcr_hf.training.augmentation import FrameAugmentation
from clcr_hf.training.build import build_model, build_processor, train_tokenizer
from clcr_hf.training.data import LoadedData, load_data
from clcr_hf.training.rows import ClipRows, prepare
from clcr_hf.training.run import main

SIDE = 24
SMALL = [
    *("--max_steps", "2", "--per_device_train_batch_size", "4", "--hidden_size", "16", "--backbone_size", "16"),
    *("--disable_tqdm", "True", "--use_cpu"),
]


def file(path: Path | None) -> dict[str, Any] | None:
    return None if path is None else {"path": str(path), "bytes": None}


@pytest.fixture(scope="module")
def clips(tmp_path_factory) -> list[Path]:
    """Four clips of half a second, of which number 1 is no video, and number 2 is empty."""
    folder = tmp_path_factory.mktemp("clips")
    rng = np.random.default_rng(0)
    paths = []
    for number in range(4):
        frames = rng.integers(0, 255, (8, SIDE, 32, 3), dtype=np.uint8)
        sound = rng.normal(0, 0.1, 8000).astype(np.float32)
        paths.append(write_video(folder / f"{number}.mp4", frames, 16, sound, 16_000))
    paths[1].write_bytes(b"this is no video" * 20)
    paths[2].write_bytes(b"")
    return paths


def rows_of(clips: list[Path | None], **more: list[Any]) -> Dataset:
    types: dict[str, Any] = {"id": Value("string"), "media": Video(decode=False), "label": ClassLabel(names=["a", "b"])}
    columns: dict[str, Any] = {
        "id": [f"clip{number}" for number in range(len(clips))],
        "media": [file(path) for path in clips],
        "label": [number % 2 for number in range(len(clips))],
    }
    if "text" in more:
        types["text"] = Value("string")
    return make_dataset(columns | more, Features(types))


def made(rows: Dataset, modalities: list[str], **options: Any) -> tuple[Any, Any, Any]:
    """Model, processor and data sets of rows, as a run makes them."""
    splits = DatasetDict({"train": rows, "test": rows})
    model_args = ModelArguments(modalities=modalities, hidden_size=16, backbone_size=16)
    data_args = DataArguments(image_size=16, video_frames=4, **options)
    data = LoadedData(splits, "test")
    columns = modality_columns(rows.column_names, modalities)
    processor = build_processor(model_args, data_args, data, columns)
    model = build_model(model_args, data_args, data, columns, processor)
    return model, processor, prepare(splits, columns, data_args, processor)


# -- clips that cannot be read --------------------------------------------------------------------------------------


def test_clips_that_do_not_open_are_left_out_and_listed(clips, caplog):
    with caplog.at_level(logging.WARNING, "clcr_hf.data"):
        _, _, datasets = made(rows_of(clips), ["vision", "audio"])
    assert len(datasets["train"]) == len(datasets["test"]) == 2
    assert datasets["train"].left_out == ["clip1", "clip2"]
    assert "2 of 4 clips of train cannot be read: clip1, clip2" in caplog.text


def test_what_cannot_be_read_is_missing_where_a_text_remains(clips, caplog):
    rows = rows_of(clips, text=["one two", "two three", "three one", "one two"])
    with caplog.at_level(logging.WARNING, "clcr_hf.data"):
        model, _, datasets = made(rows, ["text", "vision", "audio"])
        assert len(datasets["train"]) == 4
        items = [datasets["train"][number] for number in range(4)]
        again = datasets["train"][1]
    assert [bool(item["vision_attention_mask"].any()) for item in items] == [True, False, False, True]
    assert [bool(item["audio_attention_mask"].any()) for item in items] == [True, False, False, True]
    assert all(item["attention_mask"].any() for item in items)
    assert datasets["train"].unreadable == {"clip1", "clip2"}
    assert caplog.text.count("clip1") == 1  # told once, kept quiet about in later epochs
    assert not again["vision_attention_mask"].any()
    outputs = model.eval()(**CLCRDataCollator()(items))
    assert torch.isfinite(outputs.logits).all()
    assert outputs.modality_weights[1, 1:].tolist() == [0, 0]


def test_row_with_nothing_left_is_stood_in_for_in_training_alone(clips):
    model, _, datasets = made(rows_of(clips), ["vision", "audio"], check_media=False)
    assert len(datasets["train"]) == 4
    learned, measured = datasets["train"][1], datasets["test"][1]
    torch.testing.assert_close(learned["pixel_values"], datasets["train"][3]["pixel_values"])
    assert learned["label"] == 1
    assert not measured["vision_attention_mask"].any() and not measured["audio_attention_mask"].any()
    batch = CLCRDataCollator()([datasets["test"][number] for number in range(4)])
    assert torch.isfinite(model.eval()(**batch).logits).all()


def test_strict_media_stops(clips):
    with pytest.raises(MediaError, match="clip1, clip2"):
        made(rows_of(clips), ["vision", "audio"], strict_media=True)
    rows = rows_of(clips, text=["one two"] * 4)
    _, _, datasets = made(rows, ["text", "vision", "audio"], strict_media=True, check_media=False)
    with pytest.raises(MediaError):
        datasets["train"][1]


def test_no_readable_clip_at_all_is_an_error(clips):
    with pytest.raises(ValueError, match="2 of 2 clips of train"):
        made(rows_of(clips[1:3]), ["vision", "audio"])


def test_damaged_pictures_and_flow_are_missing(clips, tmp_path):
    Picture.new("RGB", (SIDE, SIDE), (200, 0, 0)).save(tmp_path / "good.jpg")
    (tmp_path / "bad.jpg").write_bytes(b"no picture")
    save_flow(tmp_path / "good.npz", np.ones((5, SIDE, SIDE, 2), np.float32), np.arange(5))
    (tmp_path / "bad.npz").write_bytes(b"no archive")
    names = ["good", "bad"]
    rows = make_dataset(
        {
            "id": names,
            "images": [[file(tmp_path / "good.jpg")] * 6, [file(tmp_path / "good.jpg"), file(tmp_path / "bad.jpg")]],
            "flow": [str(tmp_path / f"{name}.npz") for name in names],
            "audio": [file(clips[0]), None],
            "label": [0, 1],
        },
        Features(
            {
                "id": Value("string"),
                "images": List(Image(decode=False)),
                "flow": Value("string"),
                "audio": Audio(decode=False),
                "label": ClassLabel(names=["a", "b"]),
            }
        ),
    )
    model, _, datasets = made(rows, ["vision", "audio", "flow"])
    good, bad = datasets["test"][0], datasets["test"][1]
    assert good["pixel_values"].shape == (4, 3, 16, 16)
    assert good["flow_pixel_values"].shape == (4, 2, 16, 16)
    assert good["flow_pixel_values"].mean() == pytest.approx(16 / SIDE)  # a pixel of 24 is two thirds of one of 16
    assert not bad["vision_attention_mask"].any() and "flow_pixel_values" not in bad
    assert torch.isfinite(model.eval()(**CLCRDataCollator()([good, bad])).logits).all()


# -- augmentation ---------------------------------------------------------------------------------------------------


def test_augmentation_changes_training_alone_and_the_frames_stay_in_memory(clips, monkeypatch):
    opened: list[Any] = []
    load = module.load_media

    def counted(source: Any, **options: Any) -> Any:
        opened.append(source)
        return load(source, **options)

    monkeypatch.setattr(module, "load_media", counted)
    _, _, datasets = made(rows_of([clips[0], clips[3]]), ["vision", "audio"], augment=True, check_media=False)
    torch.manual_seed(0)
    first, second = datasets["train"][0], datasets["train"][0]
    assert first["pixel_values"].shape == second["pixel_values"].shape == (4, 3, 16, 16)
    assert not torch.equal(first["pixel_values"], second["pixel_values"])
    torch.testing.assert_close(first["input_values"], second["input_values"])
    torch.manual_seed(0)
    torch.testing.assert_close(datasets["train"][0]["pixel_values"], first["pixel_values"])
    torch.testing.assert_close(datasets["test"][0]["pixel_values"], datasets["test"][0]["pixel_values"])
    assert len(opened) == 2  # train and test, once each


def test_frames_and_flow_get_one_crop_and_flip(clips, tmp_path):
    """A picture whose brightness is its place from left to right, and a downward flow that says the same."""
    ramp = np.linspace(0, 255, 32, dtype=np.uint8)
    frames = np.broadcast_to(ramp[None, None, :, None], (4, SIDE, 32, 3))
    clip = write_video(tmp_path / "ramp.mp4", frames, 8)
    flow = np.zeros((4, SIDE, 32, 2), np.float32)
    flow[..., 1] = ramp / 255
    save_flow(tmp_path / "ramp.npz", flow, np.arange(4))

    class Reader:
        video_num_frames, video_fps, feature_extractor = 4, None, SimpleNamespace(sampling_rate=8000)

        def __call__(self, **inputs: Any) -> dict[str, torch.Tensor]:
            means = {"vision": inputs["videos"][0].mean() / 255, "flow": inputs["flow"][0][:, 1].mean()}
            return {name: torch.tensor([value]) for name, value in means.items()}

    rows = make_dataset(
        {"id": ["ramp"], "video": [file(clip)], "flow": [str(tmp_path / "ramp.npz")]},
        Features({"id": Value("string"), "video": Video(decode=False), "flow": Value("string")}),
    )
    data = ClipRows(rows, {"vision": "video", "flow": "flow"}, Reader(), cache_gb=1, augment=FrameAugmentation())
    torch.manual_seed(1)
    pairs = np.array([(float(item["vision"]), float(item["flow"])) for item in (data[0] for _ in range(12))])
    assert np.ptp(pairs[:, 0]) > 0.1
    np.testing.assert_allclose(pairs[:, 0], pairs[:, 1], atol=0.06)


# -- columns and labels ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("columns", "modalities", "raw", "expected"),
    [
        (["text", "media"], None, (), {"text": "text", "vision": "media", "audio": "media"}),
        (["media", "video", "images"], ["vision"], (), {"vision": "images"}),
        (["vision_features", "media"], None, (), {"vision": "vision_features", "audio": "media"}),
        (["text", "text_features"], None, ("text",), {"text": "text"}),
        (["text", "input_ids"], None, ("text",), {"text": "input_ids"}),
        (["video", "flow"], None, (), {"vision": "video", "flow": "flow"}),
    ],
)
def test_column_of_each_modality(columns, modalities, raw, expected):
    assert modality_columns(columns, modalities, raw) == expected


@given(
    st.sets(st.sampled_from(["text", "media", "video", "audio", "images", "flow", "input_ids", "audio_features"])),
    st.sets(st.sampled_from(["text", "vision", "audio", "flow"]), min_size=1),
)
def test_every_chosen_column_is_there(available, modalities):
    try:
        found = modality_columns(available, sorted(modalities))
    except ValueError as error:
        assert "no column" in str(error)
        return
    assert set(found) == modalities
    assert set(found.values()) <= available


def test_kinds_of_labels():
    def splits(column: str, kind: Any, values: list[Any]) -> DatasetDict:
        return DatasetDict({"train": make_dataset({column: values}, Features({column: kind}))})

    several = label_kind(splits("label", List(Value("float32"), length=2), [[0, 1], [1, 1]]), ["sad", "glad"])
    assert (several.problem_type, several.names) == ("multi_label_classification", ["sad", "glad"])
    assert label_kind(splits("label", List(Value("float32")), [[0, 1, 0]])).names == ["0", "1", "2"]
    with pytest.raises(ValueError, match="1 names for 3 labels"):
        label_kind(splits("label", List(Value("float32")), [[0, 1, 0]]), ["sad"])
    segments = label_kind(splits("labels", List(ClassLabel(names=["x", "y"])), [[0, 1, -100]]))
    assert segments.per_segment and segments.names == ["x", "y"]
    assert label_kind(splits("label", Value("float32"), [0.5])).num_labels == 1


def test_unknown_options_of_a_loader_are_refused(tmp_path):
    with pytest.raises(ValueError, match="no option 'folds'; it takes .*fold"):
        load_data(DataArguments(dataset="ucf101", dataset_dir=str(tmp_path), dataset_options="folds=2"))
    with pytest.raises(ValueError, match="name=value"):
        DataArguments(dataset_options="fold").options()
    with pytest.raises(ValueError, match="needs --dataset_dir"):
        DataArguments(dataset="cremad")


# -- shards ---------------------------------------------------------------------------------------------------------


def write_shards(folder: Path, taps: bool, splits: tuple[str, ...] = ("train", "test")) -> Path:
    rng = np.random.default_rng(0)
    steps = List(List(Value("float32"), length=6))
    features = Features(
        {
            "id": Value("string"),
            "text": Value("string"),
            "vision_features": List(steps) if taps else steps,
            "audio_features": steps,
            "group": Value("string"),
            "label": ClassLabel(names=["low", "high"]),
        }
    )
    for split in splits:
        with ShardWriter(folder, split, features, rows_per_shard=4) as writer:
            for number in range(12):
                shape = (3, 5, 6) if taps else (5, 6)
                vision = None if number == 3 else (rng.normal(size=shape) + number % 2).astype(np.float32)
                row = {"text": "some words", "vision_features": vision, "group": f"g{number // 2}"}
                audio = rng.normal(size=(4 + number % 3, 6)).astype(np.float32)
                writer.write({"id": f"{split}{number}", "audio_features": audio, "label": number % 2, **row})
    return folder


@pytest.mark.parametrize("taps", [False, True])
def test_training_from_shards(tmp_path, taps):
    folder = write_shards(tmp_path / "shards", taps)
    out = tmp_path / "run"
    source = ["--dataset", "shards", "--dataset_dir", str(folder), "--group_column", "group"]
    metrics = main([*source, "--output_dir", str(out), *SMALL])
    assert 0 <= metrics["test_accuracy"] <= 1
    assert metrics["eval_samples"] + metrics["train_samples"] == 12
    assert metrics["eval_samples"] % 2 == 0  # whole groups
    config = json.loads((out / "config.json").read_text())
    assert config["vision_config"]["source"] == ("taps" if taps else "tcn")
    assert config["audio_config"]["source"] == "tcn"
    assert config["vision_config"]["feature_size"] == config["audio_config"]["feature_size"] == 6
    assert json.loads((out / "run.json").read_text())["inputs"]["text"] == "text"


def test_from_a_folder_of_clips_by_extraction_to_a_model(tmp_path):
    """Nothing but mp4 files: their folders say split and class."""
    rng = np.random.default_rng(0)
    for split, count in (("train", 5), ("test", 2)):
        for label, name in enumerate(("calm", "loud")):
            for number in range(count):
                frames = np.full((6, SIDE, 32, 3), 60 + 120 * label, np.uint8)
                sound = rng.normal(0, 0.02 + 0.2 * label, 16_000).astype(np.float32)
                write_video(tmp_path / "clips" / split / name / f"{number}.mp4", frames, 6, sound, 16_000)
    vision, audio = save_vision(tmp_path / "clip", "clip"), save_audio(tmp_path / "wav2vec2", "wav2vec2")
    extract_features(
        tmp_path / "clips", tmp_path / "features", vision=vision, audio=audio, num_frames=3, device="cpu", num_workers=0
    )
    out = tmp_path / "run"
    metrics = main(
        ["--dataset", "shards", "--dataset_dir", str(tmp_path / "features"), "--output_dir", str(out), *SMALL]
    )
    assert 0 <= metrics["test_accuracy"] <= 1
    record = json.loads((out / "run.json").read_text())
    assert record["num_examples"] == {"train": 9, "validation": 1, "test": 4}
    config = json.loads((out / "config.json").read_text())
    assert config["id2label"] == {"0": "calm", "1": "loud"}
    assert config["vision_config"]["source"] == config["audio_config"]["source"] == "taps"


def test_extracted_clips_without_a_class_are_refused(tmp_path):
    features = Features({"id": Value("string"), "audio_features": List(List(Value("float32"), length=2))})
    with ShardWriter(tmp_path, "train", features) as writer:
        for name in ("train/a", "train/b"):
            writer.write({"id": name, "audio_features": np.ones((3, 2), np.float32)})
    data = DataArguments(dataset="shards", dataset_dir=str(tmp_path), validation_fraction=0)
    with pytest.raises(ValueError, match="a folder for each class"):
        load_data(data).labels  # noqa: B018


# -- tables of one's own --------------------------------------------------------------------------------------------


def test_several_labels_of_a_table_keep_their_names(tmp_path):
    lines = ["text,mood,split"]
    for split in ("train", "valid", "test"):
        lines += [f"some words {number},{('sad', 'sad|glad', 'glad', '')[number]},{split}" for number in range(4)]
    (tmp_path / "table.csv").write_text("\n".join(lines) + "\n")
    out = tmp_path / "run"
    source = ["--dataset", "manifest", "--data_file", str(tmp_path / "table.csv"), "--label_column", "mood"]
    metrics = main(
        [*source, "--dataset_options", "label_separator=|,task=multi_label", *SMALL, "--output_dir", str(out)]
    )
    assert {"test_weighted_f1", "test_map"} <= metrics.keys()
    config = json.loads((out / "config.json").read_text())
    assert config["problem_type"] == "multi_label_classification"
    assert sorted(config["id2label"].values()) == ["glad", "sad"]


@pytest.mark.parametrize("through_shards", [False, True])
def test_dialogues_of_a_table(tmp_path, through_shards):
    rng = np.random.default_rng(0)
    features = Features(
        {
            "id": Value("string"),
            "text_features": List(List(Value("float32"), length=4)),
            "audio_features": List(List(Value("float32"), length=4)),
            "talk": Value("string"),
            "turn": Value("int64"),
            "label": ClassLabel(names=["ask", "tell"]),
            "split": Value("string"),
        }
    )
    rows = []
    for number in range(8):
        for turn in range(2 + number % 3):
            step = {name: rng.normal(size=(3, 4)).astype(np.float32) for name in ("text_features", "audio_features")}
            place = {"talk": f"t{number}", "turn": turn, "split": "test" if number > 5 else "train"}
            rows.append({"id": f"{number}-{turn}", "label": turn % 2, **step, **place})
    if through_shards:
        kept = Features({name: kind for name, kind in features.items() if name != "split"})
        for split in ("train", "test"):
            with ShardWriter(tmp_path / "shards", split, kept) as writer:
                for row in rows:
                    if row["split"] == split:
                        writer.write({name: row[name] for name in kept})
        source = ["--dataset", "shards", "--dataset_dir", str(tmp_path / "shards")]
    else:
        plain = Features({**features, "label": Value("string")})
        columns = {name: [row[name] for row in rows] for name in features}
        columns["label"] = [("ask", "tell")[label] for label in columns["label"]]
        Dataset.from_dict(columns, features=plain).to_parquet(tmp_path / "table.parquet")
        source = ["--dataset", "manifest", "--data_file", str(tmp_path / "table.parquet")]
    out = tmp_path / "run"
    source += ["--dialogue_column", "talk", "--turn_column", "turn", "--validation_fraction", "0.2"]
    metrics = main([*source, *SMALL, "--output_dir", str(out)])
    assert 0 <= metrics["test_segment_accuracy"] <= 1
    assert metrics["test_samples"] == 2
    assert metrics["train_samples"] + metrics["eval_samples"] == 6
    assert json.loads((out / "config.json").read_text())["num_segments"] is None


@pytest.mark.parametrize("given", [[], ["--class_names", *"abcdef"]])
def test_converted_emotions_keep_their_names(tmp_path, given):
    folder = make_csd(tmp_path / "csd", dataset="mosei")
    convert("csd", folder, tmp_path / "shards", options={"labels": "emotion"})
    out = tmp_path / "run"
    source = ["--dataset", "shards", "--dataset_dir", str(tmp_path / "shards"), "--modalities", "vision", "audio"]
    metrics = main([*source, *given, *SMALL, "--output_dir", str(out)])
    assert 0 <= metrics["test_weighted_f1"] <= 1
    names = json.loads((out / "config.json").read_text())["id2label"]
    assert [names[str(number)] for number in range(6)] == list("abcdef" if given else MOSEI_EMOTIONS)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (None, {}),
        ("fold=2", {"fold": 2}),
        ("label_separator=|,task=multi_label", {"label_separator": "|", "task": "multi_label"}),
        (
            'columns={"audio": [1, 3], "vision": [0, 2]},align=none',
            {"columns": {"audio": [1, 3], "vision": [0, 2]}, "align": "none"},
        ),
        ("label_range=[-1, 1], text=text", {"label_range": [-1, 1], "text": "text"}),
        ('{"task": "clip", "skip_missing": true}', {"task": "clip", "skip_missing": True}),
    ],
)
def test_options_of_a_loader_may_be_lists_and_mappings(text, expected):
    assert DataArguments(dataset_options=text).options() == expected


@pytest.mark.parametrize("text", ["fold", "{fold: 2", "fold=1,fold=2"])
def test_options_of_a_loader_that_are_none(text):
    with pytest.raises(ValueError, match="--dataset_options wants name=value"):
        DataArguments(dataset_options=text).options()


@pytest.mark.parametrize("embed", [False, True])
def test_rows_of_one_file_stay_together_in_shards_as_in_the_table(tmp_path, monkeypatch, embed):
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path / "cache")
    lines = ["id,media,label"]
    for number in range(24):
        (tmp_path / f"{number // 3}.mp4").write_bytes(bytes(10 + number))
        lines.append(f"r{number},{number // 3}.mp4,{number % 4}")
    (tmp_path / "clips.csv").write_text("\n".join(lines) + "\n")
    convert("manifest", tmp_path / "clips.csv", tmp_path / "shards", embed_media=embed)
    found = load_data(DataArguments(dataset="shards", dataset_dir=str(tmp_path / "shards"))).splits
    expected = load_data(DataArguments(dataset="manifest", data_file=str(tmp_path / "clips.csv"))).splits
    assert {name: rows["id"][:] for name, rows in found.items()} == {n: rows["id"][:] for n, rows in expected.items()}
    assert len(found["validation"]) == 3


def test_clips_inside_the_rows_are_opened_one_after_the_other():
    """Not all of them read into memory first."""
    clips = [{"path": f"{number}.mp4", "bytes": bytes([number]) * 2**20} for number in range(60)]
    features = Features({"id": Value("string"), "media": Video(decode=False), "label": Value("float32")})
    table = Dataset.from_dict(
        {"id": [str(number) for number in range(60)], "media": clips, "label": [0.0] * 60}, features=features
    )
    del clips
    args = DataArguments(dataset="shards", dataset_dir="here")
    tracemalloc.start()
    with pytest.raises(ValueError, match="60 of 60 clips of train cannot be read"):
        prepare(DatasetDict(train=table), {"vision": "media"}, args, None)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 40 * 2**20


@pytest.mark.parametrize("through_shards", [False, True])
def test_transcripts_in_place_of_another_tokenizers_ids(tmp_path, monkeypatch, caplog, through_shards):
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path / "cache")
    path = make_mmsa(tmp_path, clips=(4, 2, 2))
    train_tokenizer(["some words"] * 2, 100, 64).save_pretrained(tmp_path / "bert")
    place: dict[str, Any] = {"dataset": "mmsa", "data_file": str(path)}
    if through_shards:
        convert("mmsa", path, tmp_path / "shards")
        place = {"dataset": "shards", "dataset_dir": str(tmp_path / "shards")}
    model_args = ModelArguments(text_model_name_or_path=str(tmp_path / "bert"), modalities=["text", "audio"])
    for text, column in (("text_bert", "input_ids"), ("raw", "text")):
        caplog.clear()
        args = DataArguments(mmsa_text=text, **place)
        data = load_data(args)
        columns = modality_columns(filled_columns(data.splits), model_args.modalities, raw=model_args.backbones)
        assert columns["text"] == column
        processor = build_processor(model_args, args, data, columns)
        assert ("another tokenizer made them" in caplog.text) == (text == "text_bert")
    item = prepare(data.splits, columns, args, processor)["train"][0]
    assert item["input_ids"][0] == processor.tokenizer.cls_token_id


def test_memory_for_clips_is_shared_by_the_splits(clips, monkeypatch):
    opened: list[Any] = []
    read = module.load_media
    monkeypatch.setattr(module, "load_media", lambda *path, **options: opened.append(path) or read(*path, **options))
    good = rows_of([clips[0], clips[3]])
    item = made(good, ["vision"], check_media=False)[2]["train"][0]
    size = sum(value.nbytes for value in item.values() if isinstance(value, torch.Tensor)) / 2**30
    for room, expected in ((4.5, 0), (2.5, 2)):
        splits = made(good, ["vision"], check_media=False, cache_gb=room * size)[2]
        for _ in range(2):
            opened.clear()
            for part in splits.values():
                list(map(part.__getitem__, range(2)))
        assert len(opened) == expected


def test_features_are_read_once_as_far_as_there_is_room():
    values = np.random.default_rng(0).normal(size=(6, 5, 3)).astype(np.float32)
    rows = Dataset.from_dict({"pose_features": values.tolist(), "label": [0.0] * 6})
    size = values[0].nbytes / 2**30
    for room, kept in ((0, 0), (2.5, 2), (6.5, 6)):
        part = ClipRows(rows, {"pose": "pose_features"}, None, cache_gb=room * size)
        assert [part[row]["pose_features"].dtype for row in range(6)] == ["float32"] * 6
        part.rows = [{"pose_features": None} for _ in range(6)]  # what is asked for now is not read again
        found = [part._item(row).get("pose_features") for row in range(6)]
        assert [value is not None for value in found] == [True] * kept + [False] * (6 - kept)
        for value, expected in zip(found[:kept], values, strict=False):
            np.testing.assert_array_equal(value, expected)


def test_pictures_of_several_sizes_are_missing(tmp_path, caplog):
    paths = [tmp_path / f"{number}.png" for number in range(2)]
    for number, path in enumerate(paths):
        Picture.new("RGB", (16 + number, 16)).save(path)
    images = make_dataset(
        {"id": ["odd", "fine"], "images": [[file(p) for p in paths], [file(paths[0])] * 2], "label": [0, 1]},
        Features({"id": Value("string"), "images": List(Image(decode=False)), "label": ClassLabel(names=["a", "b"])}),
    )
    data = made(images, ["vision"])[2]
    assert not data["test"][0]["vision_attention_mask"].any()
    assert "odd cannot be read" in caplog.text and "several sizes" in caplog.text
    assert data["test"][1]["pixel_values"].shape[0] == 2


@pytest.mark.parametrize(("dataset", "name"), [("mmsa", "aligned_50.pkl"), ("utterances", "utterances.npz")])
def test_a_folder_without_the_file_says_what_was_looked_for(tmp_path, dataset, name):
    with pytest.raises(ValueError, match=f"no {name}.*--data_file"):
        load_data(DataArguments(dataset=dataset, dataset_dir=str(tmp_path)))
