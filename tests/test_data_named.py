"""Data sets by name: columns told by their types, splits by their names; of local folders and of the Hub."""

import json
import logging
import os
import subprocess
import sys

import numpy as np
import pyarrow as pa
import pytest
from datasets import Audio, ClassLabel, Dataset, DatasetDict, Features, Image, List, Value, Video
from stand_in_hub import Repository, StandInHub

from clcr_hf.data.columns import DataFormatError
from clcr_hf.data.labels import is_multi_label, label_kind
from clcr_hf.data.named import load_named, typed_rows
from clcr_hf.data.source import find_source

CLASSES = ClassLabel(names=["sad", "happy", "angry"])
MEDIA = {"path": "a.mp4", "bytes": b"not decoded here"}


def made(rows, splits=("train", "validation", "test"), **types):
    """Each split with the same `rows`, of these types."""
    features = Features(types)
    schema = features.arrow_schema  # by Arrow: `datasets` itself wants torchcodec to take a sound
    arrays = [pa.array([row[name] for row in rows], schema.field(name).type) for name in types]
    return DatasetDict({split: Dataset(pa.Table.from_arrays(arrays, schema=schema)) for split in splits})


def rows_of(*rows, **types):
    return made(list(rows), **types)


def test_columns_are_told_by_their_types():
    data = rows_of(
        {"clip": MEDIA, "speech": MEDIA, "sentence": "well", "emotion": 1, "id": 7},
        {"clip": None, "speech": None, "sentence": None, "emotion": -1, "id": 8},
        clip=Video(),
        speech=Audio(),
        sentence=Value("large_string"),
        emotion=CLASSES,
        id=Value("int64"),
    )
    rows = typed_rows(data, label_column="emotion", missing_labels="keep")
    assert list(rows.features) == ["id", "video", "audio", "text", "label"]
    assert rows.features["video"] == Video(decode=False) and rows.features["audio"] == Audio(decode=False)
    assert rows.features["label"].names == ["sad", "happy", "angry"]
    assert list(rows.load()) == ["train", "validation", "test"]
    first, second = rows.load()["test"]
    assert first == {"id": "7", "video": MEDIA, "audio": MEDIA, "text": "well", "label": 1}
    assert second == {"id": "8", "video": None, "audio": None, "text": None, "label": None}


def test_a_video_alone_is_both_frames_and_sound():
    data = rows_of({"video": MEDIA, "label": 0.5}, {"video": MEDIA, "label": -1}, video=Video(), label=Value("float64"))
    rows = typed_rows(data)
    assert list(rows.features) == ["id", "media", "label"] and rows.features["label"].dtype == "float32"
    assert rows.load()["train"]["id"] == ["train/a", "train/a#2"]


@pytest.mark.parametrize("many", [False, True])
def test_an_image_is_a_clip_of_one_frame(many):
    picture = {"path": "a.png", "bytes": b"x"}
    given = [picture, picture] if many else picture
    kind = List(Image()) if many else Image()
    rows = typed_rows(rows_of({"image": given, "label": 0}, {"image": None, "label": 1}, image=kind, label=CLASSES))
    assert rows.features["images"] == List(Image(decode=False))
    assert rows.load()["train"]["images"][:] == [[picture] * (1 + many), None]


def test_features_texts_and_start_and_end():
    data = rows_of(
        {"gaze_features": [[1.0, 2.0], [3.0, float("nan")]], "text": "a", "label": "x", "from": 1, "to": 2.5},
        {"gaze_features": [[1.0, 2.0]], "text": "b", "label": "y", "from": 0, "to": 4},
        {"gaze_features": [], "text": "c", "label": "x", "from": 0, "to": 4},
        **{"gaze_features": List(List(Value("float64"))), "text": Value("string"), "label": Value("string")},
        **{"from": Value("int64"), "to": Value("float32")},
    )
    rows = typed_rows(data, start_column="from", end_column="to")
    part = rows.load()["train"]
    assert rows.features["label"].names == ["x", "y"] and part["label"][:] == [0, 1, 0]
    assert part["gaze_features"][:] == [[[1, 2], [3, 0]], [[1, 2]], None]
    assert part["start"][:] == [1, 0, 0] and part["end"][:] == [2.5, 4, 4]


def test_several_labels_keep_their_names():
    data = rows_of(
        {"text": "a", "labels": [0, 2]},
        {"text": "b", "labels": []},
        {"text": "c", "labels": [1]},
        text=Value("string"),
        labels=List(CLASSES),
    )
    rows = typed_rows(data)
    assert rows.label_names == ("sad", "happy", "angry") and is_multi_label(rows.load())
    assert rows.load()["train"]["label"][:] == [[1, 0, 1], [0, 0, 0], [0, 1, 0]]
    assert label_kind(rows.load(), rows.label_names).names == ["sad", "happy", "angry"]


def test_rows_without_a_label_are_refused_or_left_out():
    data = rows_of({"text": "a", "label": 0}, {"text": "b", "label": -1}, text=Value("string"), label=CLASSES)
    with pytest.raises(DataFormatError, match=r"3 rows have no label \(first: train, row 2, label\)"):
        typed_rows(data)
    assert [len(part) for part in typed_rows(data, missing_labels="drop").load().values()] == [1, 1, 1]


TEXT = {"text": "a", "label": 0}
TYPES = {"text": Value("string"), "label": CLASSES}


@pytest.mark.parametrize(
    ("more", "types", "message"),
    [
        (
            {"v": MEDIA, "w": MEDIA},
            {"v": Video(), "w": Video()},
            "columns v and w all hold video; say which with media_",
        ),
        (
            {"v": MEDIA, "i": MEDIA},
            {"v": Video(), "i": Image()},
            r"v \(video\) and i \(images\) may both be what is seen",
        ),
        ({"sentence": "b"}, {"sentence": Value("string")}, "it may be text or sentence; say which with text_column"),
        ({"score": 1.0}, {"score": Value("float32")}, "it may be label or score; say which with label_column"),
        ({"id": 1, "clip_id": 1}, {"id": Value("int8"), "clip_id": Value("int8")}, "id or clip_id; .* id_column"),
        ({"id": 1}, {"id": Value("int8")}, "ids of 'id' come twice in train"),
    ],
)
def test_what_may_be_two_things_is_refused(more, types, message):
    row = TEXT | more
    with pytest.raises(DataFormatError, match=message):
        typed_rows(rows_of(row, row, **TYPES, **types))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"text_column": "words"}, "no column 'words'; it has label, text"),
        ({"media_column": "text"}, "'text' holds no video, audio or images, but text .string., label"),
        ({"start_column": "text"}, "'text' holds no seconds"),
        ({"text_column": "label"}, "'label' holds no texts"),
        ({"group_column": "who"}, "no column 'who'"),
        ({"splits": {"train": "all"}}, "names 'all'; give some of train, validation, test as some of train, "),
    ],
)
def test_what_is_named_must_be_there(options, message):
    with pytest.raises(DataFormatError, match=message):
        typed_rows(rows_of(TEXT, TEXT, **TYPES), **options)


def test_media_column_says_which():
    row = TEXT | {"v": MEDIA, "w": None, "i": MEDIA}
    data = rows_of(row, row, **TYPES, v=Video(), w=Video(), i=Image())
    assert typed_rows(data, media_column="v").load()["train"]["media"][0] == MEDIA
    assert "images" not in typed_rows(data, media_column="v").features


def test_unused_columns_and_splits_are_named_once(caplog):
    row = TEXT | {"speaker": "s", "note": "n"}
    data = made([row, row], ("train", "dev", "test", "extra"), **TYPES, speaker=Value("string"), note=Value("string"))
    with caplog.at_level(logging.WARNING):
        rows = typed_rows(data, name="org/set")
    assert caplog.messages == [
        "org/set: splits that are not used: extra",
        "org/set: columns that are not used: speaker, note",
    ]
    assert list(rows.load()) == ["train", "validation", "test"]


def test_split_names():
    data = made([TEXT] * 2, ("valid", "dev", "train"), **TYPES)
    with pytest.raises(DataFormatError, match="splits valid and dev both mean validation"):
        typed_rows(data)
    assert list(typed_rows(data, splits={"train": "train", "validation": "dev"}).load()) == ["train", "validation"]
    with pytest.raises(DataFormatError, match="which of its splits all is train"):
        typed_rows(made([TEXT], ("all",), **TYPES))
    rows = typed_rows(made([TEXT] * 10, ("all",), **TYPES), splits={"train": "all"})
    assert {split: len(part) for split, part in rows.load().items()} == {"train": 9, "validation": 1}


def test_validation_is_carved_by_whole_groups():
    rows = [TEXT | {"speaker": f"s{k % 5}", "id": k} for k in range(40)]
    data = made(rows, ("train", "test"), **TYPES, speaker=Value("string"), id=Value("int64"))
    parts = typed_rows(data, group_column="speaker", validation_fraction=0.2).load()
    speakers = {split: {int(number) % 5 for number in part["id"]} for split, part in parts.items()}
    assert len(parts["validation"]) == 8 and not speakers["train"] & speakers["validation"]


def test_features_of_two_widths_are_refused():
    data = rows_of(
        {"x_features": [[1.0]], "label": 0},
        {"x_features": [[1.0, 2.0]], "label": 0},
        x_features=List(List(Value("float32"))),
        label=CLASSES,
    )
    with pytest.raises(DataFormatError, match=r"train, row 2, x_features: features of shape \(1, 2\)"):
        typed_rows(data)


# --- folders ---------------------------------------------------------------------------------------------------------


@pytest.fixture()
def own_cache(tmp_path, monkeypatch):
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path / "cache")
    return tmp_path


def touch(folder, *names):
    for name in names:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(name.encode())


def test_a_videofolder_by_its_builder_and_by_its_path(own_cache):
    folder = own_cache / "clips"
    touch(folder, "train/happy/a.mp4", "train/happy/c.mp4", "train/sad/b.mp4", "train/sad/d.mp4", "test/sad/e.mp4")
    touch(folder, "test/happy/f.mp4")
    by_builder = load_named("videofolder", data_dir=str(folder), validation_fraction=0)
    by_path = find_source("hub").open(folder, validation_fraction=0)
    assert by_path.title == str(folder) and by_builder.title == str(folder)
    for rows in (by_builder, by_path):
        assert list(rows.features) == ["id", "media", "label"] and rows.features["label"].names == ["happy", "sad"]
        part = rows.load()["test"]
        assert {row["media"]["path"]: row["label"] for row in part} == {
            str(folder / "test/happy/f.mp4"): 0,
            str(folder / "test/sad/e.mp4"): 1,
        }
        assert rows.total == 6 and len(list(rows)) == 6


def test_an_audiofolder_with_metadata(own_cache):
    folder = own_cache / "sounds"
    touch(folder, "a.wav", "b.wav")
    (folder / "metadata.csv").write_text("file_name,transcription,score\na.wav,yes,0.5\nb.wav,no,-2\n")
    rows = load_named("audiofolder", data_dir=str(folder), validation_fraction=0)
    assert list(rows.features) == ["id", "audio", "text", "label"]
    assert rows.load()["train"]["text"][:] == ["yes", "no"] and rows.load()["train"]["label"][:] == [0.5, -2]


def test_an_imagefolder(own_cache):
    from PIL import Image as Pictures

    folder = own_cache / "faces"
    for name in ("train/happy/a.png", "train/sad/b.png"):
        (folder / name).parent.mkdir(parents=True)
        Pictures.new("RGB", (4, 4)).save(folder / name)
    rows = load_named("imagefolder", data_dir=str(folder), validation_fraction=0)
    assert rows.load()["train"]["images"][0][0]["path"] == str(folder / "train/happy/a.png")


def test_what_is_not_there_is_one_line(own_cache):
    with pytest.raises(DataFormatError, match="^[^\n]*/none: the data set cannot be loaded: [^\n]*$"):
        load_named(str(own_cache / "none"))
    touch(own_cache / "empty", "readme.txt")
    with pytest.raises(DataFormatError, match="cannot be loaded"):
        load_named("videofolder", data_dir=str(own_cache / "nowhere"))


# --- training, conversion --------------------------------------------------------------------------------------------


def write_parquet(folder, features=True):
    """Two splits of texts, features and labels, as a data set's repository holds them."""
    rng = np.random.default_rng(0)
    for split, count in (("train", 12), ("test", 6)):
        rows = [
            {"sentence": "good" if k % 2 else "bad", "gaze_features": rng.normal(size=(3, 4)).tolist(), "label": k % 2}
            for k in range(count)
        ]
        types = {"sentence": Value("string"), "gaze_features": List(List(Value("float32"))), "label": CLASSES}
        path = folder / "data" / f"{split}-00000-of-00001.parquet"
        path.parent.mkdir(parents=True, exist_ok=True)
        made(rows, (split,), **types)[split].to_parquet(path)
    return folder


def test_training_evaluation_and_conversion_by_name(own_cache, monkeypatch):
    from clcr_hf.data import load_shards
    from clcr_hf.data.convert import convert
    from clcr_hf.training import evaluate_model, main
    from clcr_hf.training.run import evaluation_data

    folder = write_parquet(own_cache / "set")
    monkeypatch.chdir(own_cache)
    run = own_cache / "run"
    words = f"--dataset_name set --output_dir {run} --max_steps 1 --hidden_size 16 --backbone_size 16 --report_to none"
    metrics = main([*words.split(), "--use_cpu", "--modalities", "text"])
    assert metrics["test_samples"] == 6
    recorded = json.loads((run / "run.json").read_text())["data_arguments"]
    assert recorded["dataset"] == "hub" and recorded["dataset_name"] == str(folder)
    monkeypatch.chdir("/")
    again = evaluate_model(str(run), evaluation_data(str(run), []))
    assert again["accuracy"] == pytest.approx(metrics["test_accuracy"])
    convert("hub", folder, own_cache / "shards", options={"validation_fraction": 0})
    assert load_shards(own_cache / "shards")["test"]["text"][0] == "bad"


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"dataset_name": "a", "dataset": "mmsa"}, "--dataset_name says which data set it is"),
        ({"dataset_name": "a", "data_file": "b"}, "--dataset_name says which data set it is"),
        ({"dataset": "hub"}, "--dataset hub needs --dataset_name"),
        ({"dataset_config_name": "b"}, "talking_faces does not use --dataset_config_name"),
        ({"dataset_name": "a", "turn_column": "b"}, "hub does not use --turn_column"),
    ],
)
def test_arguments_that_do_not_go_together(given, message):
    from clcr_hf.training.arguments import DataArguments

    with pytest.raises(ValueError, match=message):
        DataArguments(**given)


def test_dataset_dir_is_what_a_builder_reads():
    from clcr_hf.training.arguments import DataArguments

    args = DataArguments(dataset_name="videofolder", dataset_dir="clips", dataset_config_name="c")
    assert (args.dataset, args.source) == ("hub", "videofolder")
    options = args.loader_options()
    assert options.pop("data_dir") == "clips" and options.pop("config_name") == "c"
    find_source("hub").check(options)


# --- the Hub ---------------------------------------------------------------------------------------------------------

LOAD = """
import json, sys
from clcr_hf.data import DataFormatError, load_named
try:
    rows = load_named(sys.argv[1], validation_fraction=0, **json.loads(sys.argv[2]))
except DataFormatError as error:
    print(error)
else:
    parts = {name: list(part) for name, part in rows.load().items()}
    print(json.dumps([rows.title, list(rows.features), parts], default=lambda value: value.decode()))
"""


@pytest.fixture(scope="module")
def hub(tmp_path_factory):
    with StandInHub() as hub:
        folder = tmp_path_factory.mktemp("repository")
        for config, word in (("english", "good"), ("german", "gut")):
            rows = [{"clip": {"path": f"{k}.mp4", "bytes": b"%d" % k}, "text": word, "label": k % 2} for k in range(4)]
            for split in ("train", "validation", "test"):
                path = folder / config / f"{split}.parquet"
                path.parent.mkdir(exist_ok=True)
                part = made(rows, (split,), clip=Video(), text=Value("string"), label=CLASSES)[split]
                part.to_parquet(path)
        patterns = {
            name: [{"split": split, "path": f"{name}/{split}*"} for split in ("train", "validation", "test")]
            for name in ("english", "german")
        }
        card = {"configs": [{"config_name": name, "data_files": paths} for name, paths in patterns.items()]}
        (folder / "README.md").write_text(f"---\n{json.dumps(card)}\n---\n")
        files = {str(path.relative_to(folder)): path for path in folder.rglob("*.*")}
        for private in (False, True):
            repository = Repository(f"org/{'private' if private else 'clips'}", private)
            hub.repositories[repository.name] = repository
            blobs = {name: hub.add_blob(path.read_bytes()) for name, path in files.items()}
            repository.commit(blobs, "main")
            repository.refs["v1"] = repository.refs["main"]
        yield hub


def load(hub, tmp_path, name, signed_in=True, **options):
    """What a fresh process gets of the Hub."""
    environment = os.environ | hub.environment(tmp_path, signed_in) | {"HF_DATASETS_OFFLINE": "0"}
    command = [sys.executable, "-c", LOAD, name, json.dumps(options)]
    done = subprocess.run(command, capture_output=True, text=True, env=environment)
    assert done.returncode == 0, done.stderr[-2000:]
    return done.stdout.strip()


def test_a_data_set_of_the_hub(hub, tmp_path):
    title, columns, parts = json.loads(load(hub, tmp_path, "org/clips", config_name="german", revision="v1"))
    assert title == "org/clips" and columns == ["id", "media", "text", "label"]
    assert list(parts) == ["train", "validation", "test"]
    assert parts["test"][3] == {"id": "test/3", "media": {"bytes": "3", "path": "3.mp4"}, "text": "gut", "label": 1}
    told = load(hub, tmp_path, "org/clips")
    assert "\n" not in told and "english" in told and "german" in told


def test_what_the_hub_does_not_show_is_one_line(hub, tmp_path):
    for name, options in (("org/none", {}), ("org/private", {"signed_in": False}), ("org/clips", {"revision": "v9"})):
        told = load(hub, tmp_path, name, **options)
        assert told.startswith(f"{name}: the data set cannot be loaded: ") and "\n" not in told
    assert json.loads(load(hub, tmp_path, "org/private", config_name="english"))[0] == "org/private"
