"""Folders of clips with a table: forms of the source, labels, splits, absent files."""

import csv
import json
import logging
import pickle
import tracemalloc
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from datasets import Audio, ClassLabel, Image, List, Value, Video
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.numpy import save_file

from clcr_hf import CLCRConfig, CLCRForTokenClassification
from clcr_hf.data import CLCRDataCollator, iter_manifest, load_manifest, load_shards, open_manifest
from clcr_hf.data.columns import DataFormatError, carve_groups
from clcr_hf.data.convert import convert
from clcr_hf.data.talking_faces.render import generate_talking_faces


def rows(n: int = 6, **extra) -> list[dict]:
    """n rows over the three splits; `extra` gives further columns as functions of the row number."""
    splits = ["train", "train", "train", "train", "val", "test"]
    made = [
        {"file_name": f"clips/{i}.mp4", "transcript": f"say {i}", "label": (i - 2) / 2, "split": splits[i % 6]}
        for i in range(n)
    ]
    for name, make in extra.items():
        for i, row in enumerate(made):
            row[name] = make(i)
    return made


def write(path: Path, table: list[dict], clips: bool = True) -> Path:
    """Write the table in the format of its suffix, and a file for every clip."""
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.suffix == ".jsonl":
        path.write_text("".join(json.dumps(row) + "\n" for row in table), encoding="utf-8")
    elif path.suffix == ".parquet":
        pq.write_table(pa.Table.from_pylist(table), path)
    else:
        with open(path, "w", newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(file, list(table[0]), delimiter="\t" if path.suffix == ".tsv" else ",")
            writer.writeheader()
            writer.writerows(table)
    for row in table if clips else ():
        clip = path.parent / row["file_name"]
        clip.parent.mkdir(parents=True, exist_ok=True)
        clip.write_bytes(b"clip")
    return path


def paths(part) -> set[str]:
    return {media["path"] for media in part["media"]}


@pytest.mark.parametrize("suffix", [".csv", ".tsv", ".jsonl", ".parquet"])
@pytest.mark.parametrize("whole_folder", [False, True])
def test_every_format(tmp_path, suffix, whole_folder):
    path = write(tmp_path / f"metadata{suffix}", rows())
    data = load_manifest(tmp_path if whole_folder else path)
    assert {name: len(part) for name, part in data.items()} == {"train": 4, "validation": 1, "test": 1}
    assert data["train"].column_names == ["id", "media", "text", "label"]
    row = data["validation"][0]
    media = {"path": str(tmp_path / "clips/4.mp4"), "bytes": None}
    assert row == {"id": "val/clips/4", "media": media, "text": "say 4", "label": 1.0}
    assert data["train"].features["media"] == Video(decode=False)
    assert data["train"].features["label"].dtype == "float32"


def test_a_folder_for_each_split(tmp_path):
    for split, n in (("train", 3), ("validation", 2), ("test", 1)):
        table = [
            {"file_name": f"{i}.mp4", "text": 'hm, "well"\nyes é', "label": i - 1, "latent": i * 0.5} for i in range(n)
        ]
        write(tmp_path / split / "metadata.csv", table)
    (tmp_path / "notes").mkdir()
    data = load_manifest(tmp_path)
    assert {name: len(part) for name, part in data.items()} == {"train": 3, "validation": 2, "test": 1}
    assert data["train"].column_names == ["id", "media", "text", "label"]
    assert data["test"][0]["text"] == 'hm, "well"\nyes é'
    assert data["validation"][1]["media"]["path"] == str(tmp_path / "validation" / "1.mp4")
    assert data["train"]["id"][:] == ["train/0", "train/1", "train/2"]
    kept = load_manifest(tmp_path, keep_columns=["latent"])
    assert kept["train"]["latent"][:] == ["0.0", "0.5", "1.0"]


def test_a_dict_of_tables(tmp_path):
    a = write(tmp_path / "a.csv", [{"file_name": "1.mp4", "text": "x", "label": 1}])
    b = write(tmp_path / "b.jsonl", [{"file_name": "2.mp4", "text": "y", "label": 0.5}])
    data = load_manifest({"dev": a, "test": b})
    assert data["validation"]["label"][:] == [1.0] and data["test"]["label"][:] == [0.5]
    with pytest.raises(DataFormatError, match="two tables"):
        load_manifest({"dev": a, "val": b})


def test_named_columns_and_ids(tmp_path):
    table = [{"where": f"{i}.mp4", "said": "x", "mood": i, "clip_id": f"c{i}", "file_name": "no"} for i in range(3)]
    path = write(tmp_path / "m.csv", table, clips=False)
    for i in range(3):
        (tmp_path / f"{i}.mp4").write_bytes(b"clip")
    data = load_manifest(
        path, media_column="where", text_column="said", label_column="mood", validation_fraction=0, keep_columns=()
    )
    assert list(data) == ["train"] and data["train"]["id"][:] == ["c0", "c1", "c2"]
    assert data["train"]["label"][:] == [0, 1, 2]
    with pytest.raises(DataFormatError, match="no column 'smell'; it has clip_id, file_name"):
        load_manifest(path, text_column="smell")


def test_absolute_paths_and_rows_without_a_clip(tmp_path):
    clip = tmp_path / "elsewhere" / "x.mp4"
    clip.parent.mkdir()
    clip.write_bytes(b"clip")
    table = [{"file_name": str(clip), "text": "a", "label": 1}, {"file_name": "", "text": "b", "label": 2}]
    path = write(tmp_path / "m.csv", table, clips=False)
    data = load_manifest(path, validation_fraction=0)
    assert data["train"]["media"][:] == [{"path": str(clip), "bytes": None}, None]


def test_absent_files_are_counted_and_five_are_named(tmp_path, caplog):
    path = write(tmp_path / "m.csv", rows(12))
    for i in range(8):
        (tmp_path / f"clips/{i}.mp4").unlink()
    with pytest.raises(DataFormatError, match="8 of 12 files are missing") as caught:
        load_manifest(path)
    assert str(caught.value).count(".mp4") == 5 and "4.mp4, ..." in str(caught.value)
    with caplog.at_level(logging.WARNING, "clcr_hf.data"):
        data = load_manifest(path, skip_missing=True)
    assert sum(map(len, data.values())) == 4 and "8 of 12 files" in caplog.text
    for i in range(8, 12):
        (tmp_path / f"clips/{i}.mp4").unlink()
    with pytest.raises(DataFormatError, match="12 of 12"):
        load_manifest(path, skip_missing=True)


@pytest.mark.parametrize(
    ("labels", "options", "names", "numbers"),
    [
        (["sad", "glad", "sad"], {}, ["glad", "sad"], [1, 0, 1]),
        (["sad", "glad", "sad"], {"label_names": ["sad", "glad", "calm"]}, ["sad", "glad", "calm"], [0, 1, 0]),
        ([10, 9, 10], {"task": "classification"}, ["9", "10"], [1, 0, 1]),
        ([1, 0, 1], {"label_names": ["no", "yes"]}, ["no", "yes"], [1, 0, 1]),
    ],
)
@pytest.mark.parametrize("suffix", [".csv", ".jsonl"])
def test_class_labels(tmp_path, labels, options, names, numbers, suffix):
    table = [{"file_name": f"{i}.mp4", "text": "x", "label": label} for i, label in enumerate(labels)]
    data = load_manifest(write(tmp_path / f"m{suffix}", table), validation_fraction=0, **options)
    assert data["train"].features["label"] == ClassLabel(names=names)
    assert data["train"]["label"][:] == numbers


@pytest.mark.parametrize(
    ("labels", "options", "message"),
    [
        (["sad", ""], {}, r"1 rows have no label \(first: row 2\)"),
        (["sad", "1"], {"task": "regression"}, "1 labels are not finite numbers .*'sad'"),
        (["nan", "1"], {}, r"1 rows have no label \(first: row 1: 'nan'\)"),
        (["inf", "1"], {}, r"1 labels are almost numbers \(first: row 1: 'inf'\)"),
        (["sad", "odd"], {"label_names": ["sad", "glad"]}, "label 'odd' is none of the classes sad, glad"),
        (["0", "2"], {"label_names": ["sad", "glad"]}, "label '2' is none"),
        (["inf", "0"], {"label_names": ["sad", "glad"]}, "label 'inf' is none"),
    ],
)
def test_bad_labels(tmp_path, labels, options, message):
    table = [{"file_name": f"{i}.mp4", "text": "x", "label": label} for i, label in enumerate(labels)]
    with pytest.raises(DataFormatError, match=message):
        load_manifest(write(tmp_path / "m.csv", table), validation_fraction=0, **options)


def test_validation_is_carved_by_group_and_seed(tmp_path):
    table = rows(40, speaker=lambda i: f"s{i % 8}")
    for row in table:
        del row["split"]
    path = write(tmp_path / "m.csv", table)
    options = {"group_column": "speaker", "validation_fraction": 0.25, "keep_columns": ["speaker"]}
    data = load_manifest(path, seed=1, **options)
    assert list(data) == ["train", "validation"] and len(data["validation"]) == 10
    assert not set(data["train"]["speaker"]) & set(data["validation"]["speaker"])
    again = load_manifest(path, seed=1, **options)
    assert again["validation"]["id"][:] == data["validation"]["id"][:]
    picks = {tuple(load_manifest(path, seed=seed, **options)["validation"]["speaker"]) for seed in range(6)}
    assert len(picks) > 1


def test_segments_of_one_file_stay_together(tmp_path):
    table = [{"file_name": f"{i // 2}.mp4", "text": "x", "label": i} for i in range(20)]
    data = load_manifest(write(tmp_path / "m.csv", table), validation_fraction=0.3)
    assert not paths(data["train"]) & paths(data["validation"])
    assert len(set(data["train"]["id"]) | set(data["validation"]["id"])) == 20


def test_a_given_validation_split_is_left_alone(tmp_path):
    data = load_manifest(write(tmp_path / "m.csv", rows(12)), validation_fraction=0.5)
    assert len(data["train"]) == 8 and len(data["validation"]) == 2


def test_text_only_and_unlabelled(tmp_path):
    path = write(tmp_path / "m.csv", [{"text": "x"}, {"text": "y"}], clips=False)
    with pytest.raises(DataFormatError, match="no label column"):
        load_manifest(path)
    data = load_manifest(path, require_label=False, validation_fraction=0)
    assert data["train"].column_names == ["id", "text"] and len(set(data["train"]["id"])) == 2


@pytest.mark.parametrize("suffix", [".csv", ".jsonl", ".parquet"])
def test_nothing_but_texts(tmp_path, suffix):
    path = write(tmp_path / f"m{suffix}", [{"text": "x"}, {"text": "y"}], clips=False)
    assert len(open_manifest(path, require_label=False)) == 2
    data = load_manifest(path, require_label=False, validation_fraction=0)
    assert data["train"]["text"][:] == ["x", "y"]


def fault(tmp_path: Path, content: str, name: str = "m.csv", **options) -> str:
    path = tmp_path / name
    path.write_bytes(content.encode("utf-8") if isinstance(content, str) else content)
    with pytest.raises(DataFormatError) as caught:
        load_manifest(path, **options)
    return str(caught.value)


def test_faults_are_named(tmp_path):
    assert "no rows" in fault(tmp_path, "text,label\n")
    assert "line 3" in fault(tmp_path, "text,label\na,1\nb\n")
    assert "line 2" in fault(tmp_path, "text,label\na,1,2\n")
    assert "no column of clips" in fault(tmp_path, "mood,label\na,1\n")
    assert "line 1" in fault(tmp_path, "{", "m.jsonl")
    assert "line 1: not a JSON object" in fault(tmp_path, "[1]", "m.jsonl")
    assert "not a Parquet file" in fault(tmp_path, "PAR", "m.parquet")
    assert "a table ends in" in fault(tmp_path, "x", "m.ods")
    assert "split 'later'" in fault(tmp_path, "text,label,split\na,1,later\n")
    assert "row 2 has no split" in fault(tmp_path, "text,label,split\na,1,train\nb,1,\n")
    assert "ids come twice" in fault(tmp_path, "id,text,label\na,x,1\na,y,1\n", validation_fraction=0)
    assert "all of which is one group" in fault(tmp_path, "text,label\na,1\n")
    assert "not UTF-8" in fault(tmp_path, b"text,label\n\xff,1\n")
    assert "task='guess'" in fault(tmp_path, "text,label\na,1\n", task="guess")
    with pytest.raises(DataFormatError, match="no such table"):
        load_manifest(tmp_path / "absent.csv")
    with pytest.raises(DataFormatError, match="found m.csv, m.jsonl, m.parquet"):
        load_manifest(tmp_path)


def test_one_clip_in_two_splits_is_a_leak(tmp_path):
    table = rows()
    table[5]["file_name"] = table[0]["file_name"]
    with pytest.raises(DataFormatError, match="is in both train and test"):
        load_manifest(write(tmp_path / "m.csv", table))


@settings(max_examples=60, deadline=None)
@given(st.lists(st.integers(0, 9), min_size=2), st.floats(0.01, 0.99), st.integers(0, 5))
def test_carving_keeps_groups_whole(groups, fraction, seed):
    if len(set(groups)) < 2:
        with pytest.raises(DataFormatError):
            carve_groups(groups, fraction=fraction, seed=seed)
        return
    picked = carve_groups(groups, fraction=fraction, seed=seed)
    taken = {g for g, p in zip(groups, picked, strict=True) if p}
    left = {g for g, p in zip(groups, picked, strict=True) if not p}
    assert taken and left and not taken & left
    assert picked.mean() >= fraction - 1e-9 or len(left) == 1
    order = np.random.default_rng(seed).permutation(len(groups))
    shuffled = carve_groups([groups[i] for i in order], fraction=fraction, seed=seed)
    assert (shuffled == picked[order]).all()


@settings(max_examples=60, deadline=None)
@given(st.binary(max_size=80), st.sampled_from([".csv", ".tsv", ".jsonl", ".parquet"]))
def test_noise_gives_one_error(tmp_path_factory, noise, suffix):
    path = tmp_path_factory.mktemp("noise") / f"m{suffix}"
    path.write_bytes(noise)
    with pytest.raises(DataFormatError):
        load_manifest(path)


cells = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-3, 3)
    | st.floats()
    | st.sampled_from(["", "x.npy", "a|b", "there", "[", "1"]),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(["path", "bytes", "x"]), inner, max_size=2)
    ),
    max_leaves=5,
)
names = st.sampled_from(
    ["file_name", "video", "audio", "images", "flow", "text", "label", "labels", "id", "a_features"]
)


@settings(max_examples=120, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(st.dictionaries(names, cells, max_size=5), max_size=4), st.booleans())
def test_any_cells_load_or_give_one_error(tmp_path, table, required):
    (tmp_path / "there").write_bytes(b"file")
    path = tmp_path / "m.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in table))
    try:
        data = load_manifest(path, validation_fraction=0, require_label=required, label_separator="|")
    except DataFormatError:
        return
    assert sum(map(len, data.values())) == len(table)
    for part in data.values():
        part[:]  # every value has the type that its column states


def test_reads_the_embedded_corpus(tmp_path):
    folder = generate_talking_faces(tmp_path / "faces", num_train=2, num_validation=1, num_test=1, num_workers=1)
    data = load_manifest(folder)
    assert {name: len(part) for name, part in data.items()} == {"train": 2, "validation": 1, "test": 1}
    assert data["train"].column_names == ["id", "media", "text", "label"]
    for part in data.values():
        for row in part:
            assert Path(row["media"]["path"]).stat().st_size > 0 and row["text"] and -3 <= row["label"] <= 3


# ---------------------------------------------------------------------------------------------------------------------
# Files of several kinds


def put(folder: Path, *names: str) -> None:
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(b"file")


def reference(path: Path) -> dict:
    return {"path": str(path), "bytes": None}


@pytest.mark.parametrize(
    ("columns", "expected"),
    [
        (["file_name"], {"media"}),
        (["video"], {"media"}),
        (["audio"], {"audio"}),
        (["video", "audio"], {"video", "audio"}),
        (["file_name", "audio"], {"media", "audio"}),
        (["video", "audio", "flow"], {"video", "audio", "flow"}),
        (["images", "audio"], {"images", "audio"}),
    ],
)
def test_which_column_a_file_is_for(tmp_path, columns, expected):
    table = [{**{name: f"{name}_{i}.x" for name in columns}, "label": i} for i in range(3)]
    put(tmp_path, *(value for row in table for value in row.values() if isinstance(value, str)))
    data = load_manifest(write(tmp_path / "m.csv", table, clips=False), validation_fraction=0)["train"]
    assert set(data.column_names) - {"id", "label"} == expected
    kinds = {"media": Video(decode=False), "video": Video(decode=False), "audio": Audio(decode=False)}
    for name in expected & set(kinds):
        assert data.features[name] == kinds[name]
    if "audio" in expected:
        assert data[0]["audio"] == reference(tmp_path / "audio_0.x")
    if "flow" in expected:
        assert data[0]["flow"] == str(tmp_path / "flow_0.x")


def test_a_named_media_column_is_one_file(tmp_path):
    table = [{"audio": f"{i}.wav", "label": i} for i in range(3)]
    put(tmp_path, "0.wav", "1.wav", "2.wav")
    path = write(tmp_path / "m.csv", table, clips=False)
    data = load_manifest(path, media_column="audio", validation_fraction=0)["train"]
    assert data.column_names == ["id", "media", "label"]


def test_images_as_list_folder_pattern_or_file(tmp_path):
    put(tmp_path, *(f"{folder}/frame_{i}.jpg" for folder in "abc" for i in (10, 2, 1)))
    cells = [["a/frame_2.jpg", "a/frame_1.jpg"], "b", "c/frame_1*.jpg", "a/frame_10.jpg", None, []]
    table = [{"images": cell, "text": "x", "label": i} for i, cell in enumerate(cells)]
    data = load_manifest(write(tmp_path / "m.jsonl", table, clips=False), validation_fraction=0)["train"]
    assert data.features["images"] == List(Image(decode=False))
    found = [images and [Path(image["path"]).name for image in images] for images in data["images"]]
    assert found == [
        ["frame_2.jpg", "frame_1.jpg"],
        ["frame_1.jpg", "frame_2.jpg", "frame_10.jpg"],
        ["frame_1.jpg", "frame_10.jpg"],
        ["frame_10.jpg"],
        None,
        None,
    ]
    table[0]["images"] = "c/none*.jpg"
    with pytest.raises(DataFormatError, match=r"1 of 6 files are missing: .*none\*\.jpg"):
        load_manifest(write(tmp_path / "m.jsonl", table, clips=False))


def test_files_inside_parquet(tmp_path):
    """Data sets pushed to the Hub hold the files themselves."""
    table = [{"audio": {"bytes": b"RIFF", "path": f"{i}.wav"}, "label": i} for i in range(3)]
    data = load_manifest(write(tmp_path / "m.parquet", table, clips=False), validation_fraction=0)["train"]
    assert data[1]["audio"] == {"bytes": b"RIFF", "path": "1.wav"} and data[1]["id"] == "1"


def test_empty_files_count_as_missing(tmp_path):
    path = write(tmp_path / "m.csv", rows(12))
    (tmp_path / "clips/3.mp4").write_bytes(b"")
    with pytest.raises(DataFormatError, match=r"1 of 12 .*3\.mp4 \(empty\)"):
        load_manifest(path)


# ---------------------------------------------------------------------------------------------------------------------
# Features


def save_features(path: Path, array: np.ndarray) -> None:
    if path.suffix == ".npy":
        np.save(path, array)
    elif path.suffix == ".npz":
        np.savez(path, vision_features=array, other=np.zeros(3))
    else:
        save_file({"features": array}, path)


@pytest.mark.parametrize("suffix", [".npy", ".npz", ".safetensors"])
def test_features_in_files(tmp_path, suffix):
    rng = np.random.default_rng(0)
    arrays = [rng.standard_normal((i + 1, 4)).astype(np.float32) for i in range(4)]
    for i, array in enumerate(arrays):
        save_features(tmp_path / f"{i}{suffix}", array)
    table = [{"vision_features": f"{i}{suffix}", "label": i} for i in range(4)]
    table.append({"vision_features": "", "label": 9})
    data = load_manifest(write(tmp_path / "m.csv", table, clips=False), validation_fraction=0)["train"]
    assert data.features["vision_features"] == List(List(Value("float32"), length=4))
    for found, array in zip(data["vision_features"], [*arrays, None], strict=True):
        assert found is None if array is None else np.array_equal(np.float32(found), array)
    (tmp_path / f"0{suffix}").unlink()
    with pytest.raises(DataFormatError, match="1 of 5 files are missing"):
        load_manifest(tmp_path / "m.csv")
    (tmp_path / f"0{suffix}").write_bytes(b"not an array, at any length that a header might have" * 3)
    with pytest.raises(DataFormatError, match=f"0{suffix}"):
        load_manifest(tmp_path / "m.csv")


@pytest.mark.parametrize("suffix", [".jsonl", ".parquet"])
@pytest.mark.parametrize("shape", [(3,), (2, 3), (4, 2, 3)])
def test_features_in_the_table(tmp_path, suffix, shape):
    rng = np.random.default_rng(0)
    arrays = [rng.standard_normal(shape).astype(np.float32) for _ in range(3)]
    table = [{"text_features": array.tolist(), "label": i} for i, array in enumerate(arrays)]
    table.append({"text_features": None, "label": 9})
    data = load_manifest(write(tmp_path / f"m{suffix}", table, clips=False), validation_fraction=0)["train"]
    for found, array in zip(data["text_features"], arrays, strict=False):
        assert np.array_equal(np.float32(found), array.reshape(1, 3) if array.ndim == 1 else array)
    assert data[3]["text_features"] is None
    batch = CLCRDataCollator()([data[i] for i in range(4)])
    assert batch["text_features"].shape == (4, *((1, 3) if len(shape) == 1 else shape))
    assert batch["text_attention_mask"][3].sum() == 0


def test_features_that_are_not_finite_or_of_two_widths(tmp_path, caplog):
    table = [{"audio_features": [[1.0, float("-inf")], [float("nan"), 2.0]], "label": 0} for _ in range(2)]
    path = write(tmp_path / "m.jsonl", table, clips=False)
    with caplog.at_level(logging.WARNING, "clcr_hf.data"):
        data = load_manifest(path, validation_fraction=0)
    assert data["train"][0]["audio_features"] == [[1.0, 0.0], [0.0, 2.0]]
    assert "4 NaN or infinite values in audio_features" in caplog.text
    for wrong, message in [
        ([[1.0, 2.0, 3.0]], r"row 2, audio_features: .*\(1, 3\).* width 2"),
        ([[[1.0, 2.0]]], "row 2, audio_features"),
        ([[1.0, 2.0], [3.0]], "row 2, audio_features: features must be numbers in lists of equal lengths"),
        ({"a": 1}, "row 2, audio_features"),
    ]:
        table[1]["audio_features"] = wrong
        with pytest.raises(DataFormatError, match=message):
            load_manifest(write(tmp_path / "m.jsonl", table, clips=False))
    with pytest.raises(DataFormatError, match="no row has audio_features"):
        load_manifest(write(tmp_path / "e.jsonl", [{"audio_features": [], "label": 1}], clips=False))


def test_hostile_feature_files_run_nothing(tmp_path):
    class Bomb:
        def __reduce__(self):
            return (Path.touch, (tmp_path / "ran",))

    np.save(tmp_path / "a.npy", np.array([Bomb()], dtype=object), allow_pickle=True)
    np.savez(tmp_path / "a.npz", features=np.array([Bomb()], dtype=object))
    header = b"\x93NUMPY\x01\x00" + (118).to_bytes(2, "little")
    huge = b"{'descr': '<f8', 'fortran_order': False, 'shape': (1000000000000, 8), }"
    (tmp_path / "huge.npy").write_bytes(header + huge.ljust(117) + b"\n" + b"0" * 64)
    (tmp_path / "a.pkl").write_bytes(pickle.dumps(Bomb()))
    for name in ("a.npy", "a.npz", "huge.npy", "a.pkl"):
        path = write(tmp_path / "m.csv", [{"audio_features": name, "label": 1}], clips=False)
        with pytest.raises(DataFormatError, match=name):
            load_manifest(path, validation_fraction=0)
    assert not (tmp_path / "ran").exists()


# ---------------------------------------------------------------------------------------------------------------------
# Labels beyond one class


@pytest.mark.parametrize(
    ("cells", "options", "expected"),
    [
        ([["a"], ["b", "a"], []], {}, [[1, 0], [1, 1], [0, 0]]),
        (["b|a", " a ", ""], {"label_separator": "|"}, [[1, 1], [1, 0], [0, 0]]),
        (["b", "a", ""], {"label_separator": "|", "label_names": ["c", "b", "a"]}, [[0, 1, 0], [0, 0, 1], [0, 0, 0]]),
        ([[1, 0], [0, 0], [1, 1]], {}, [[1, 0], [0, 0], [1, 1]]),
        ([[0.5, 0], [0, 0], [1, 1]], {"label_names": ["x", "y"]}, [[0.5, 0], [0, 0], [1, 1]]),
    ],
)
def test_multi_label(tmp_path, cells, options, expected):
    table = [{"text": "x", "label": cell} for cell in cells]
    path = write(tmp_path / "m.jsonl", table, clips=False)
    data = load_manifest(path, validation_fraction=0, **options)["train"]
    assert data.features["label"] == List(Value("float32"), length=len(expected[0]))
    assert data["label"][:] == expected
    manifest = open_manifest(path, **options)
    names = options.get("label_names", ["a", "b"] if isinstance(cells[0], str) or cells[0] == ["a"] else None)
    assert manifest.label_names == (None if names is None else tuple(names))


def test_segments(tmp_path):
    table = [{"audio_features": [[1.0], [2.0], [3.0]], "labels": [2, 0, -100]} for _ in range(2)]
    path = write(tmp_path / "m.parquet", table, clips=False)
    data = load_manifest(path, validation_fraction=0)["train"]
    assert data.features["labels"] == List(ClassLabel(names=["0", "2"])) and data[0]["labels"] == [1, 0, -100]
    convert("manifest", path, tmp_path / "shards")
    assert next(iter(load_shards(tmp_path / "shards", streaming=True)["train"]))["labels"] == [1, 0, -100]
    table = [{"text": "x", "labels": ["hi", "ho"]}, {"text": "x", "labels": ["ho"]}]
    path = write(tmp_path / "m.jsonl", table, clips=False)
    data = load_manifest(path, validation_fraction=0, task="segments", label_names=["ho", "hi"])["train"]
    assert data["labels"][:] == [[1, 0], [0]]


@pytest.mark.parametrize(
    ("cells", "options", "message"),
    [
        ([["a"], "b"], {}, "some labels are lists and others are not"),
        (["a", "b"], {"task": "multi_label"}, "wants a list in every row"),
        ([["a"], ["b"]], {"task": "classification"}, "the labels are lists"),
        ([["a"], ["b"]], {"label_names": ["a"]}, "label 'b' is none of the classes a"),
        ([[1, 0], [1]], {"task": "multi_label"}, "labels have \\[1, 2\\] numbers"),
        ([[1, 0], [3, 0]], {"task": "multi_label"}, "must lie in \\[0, 1\\]"),
        ([[1, 0], [1, 1]], {"label_names": ["a", "b", "c"]}, "3 classes are named"),
    ],
)
def test_bad_lists_of_labels(tmp_path, cells, options, message):
    path = write(tmp_path / "m.jsonl", [{"text": "x", "label": cell} for cell in cells], clips=False)
    with pytest.raises(DataFormatError, match=message):
        load_manifest(path, validation_fraction=0, **options)


def test_some_rows_without_a_label(tmp_path):
    path = write(tmp_path / "m.csv", [{"text": "x", "label": "sad"}, {"text": "y", "label": ""}], clips=False)
    data = load_manifest(path, require_label=False, validation_fraction=0)
    assert data["train"]["label"][:] == [0, None]


# ---------------------------------------------------------------------------------------------------------------------
# Dialogues


def utterances(n: int = 12) -> list[dict]:
    """Four dialogues of three utterances, listed with their turns in reverse."""
    return [
        {
            "id": f"u{i}",
            "dialogue": f"d{i % 4}",
            "turn": 10 - i // 4,
            "label": ["calm", "cross"][i % 2],
            "text": f"say {i}",
            "text_features": [float(i), 1.0],
            "audio_features": [[float(i)], [float(i + 2)]],
        }
        for i in range(n)
    ]


@pytest.mark.parametrize("suffix", [".jsonl", ".parquet"])
def test_dialogues(tmp_path, suffix):
    table = utterances()
    table[0]["audio_features"], table[4]["label"] = None, None
    path = write(tmp_path / f"m{suffix}", table, clips=False)
    data = load_manifest(path, dialogue_column="dialogue", turn_column="turn", validation_fraction=0.25)
    assert {name: len(part) for name, part in data.items()} == {"train": 3, "validation": 1}
    row = next(row for part in data.values() for row in part if row["id"] == "d0")
    assert row["utterance_ids"] == ["u8", "u4", "u0"] and row["texts"] == ["say 8", "say 4", "say 0"]
    assert row["text_features"] == [[8.0, 1.0], [4.0, 1.0], [0.0, 1.0]]
    assert row["audio_features"] == [[9.0], [5.0], [0.0]] and row["audio_attention_mask"] == [1, 1, 0]
    assert row["labels"] == [0, -100, 0]
    assert data["train"].features["labels"] == List(ClassLabel(names=["calm", "cross"]))
    unsorted = load_manifest(path, dialogue_column="dialogue", validation_fraction=0)["train"]
    assert unsorted[0]["utterance_ids"] == ["u0", "u4", "u8"]


def test_a_model_learns_from_dialogues(tmp_path):
    table = utterances()
    table[4]["audio_features"] = table[5]["label"] = None
    path = write(tmp_path / "m.jsonl", table, clips=False)
    data = load_manifest(path, dialogue_column="dialogue", turn_column="turn", validation_fraction=0)["train"]
    batch = CLCRDataCollator()([data[i] for i in range(4)])
    config = CLCRConfig(text_config={"feature_size": 2}, audio_config={"feature_size": 1}, hidden_size=16, num_labels=2)
    output = CLCRForTokenClassification(config)(**batch)
    output.loss.backward()
    assert output.logits.shape == (4, 3, 2) and output.loss > 0


def test_dialogues_of_taps(tmp_path):
    table = utterances(4)
    for i, row in enumerate(table):
        row["audio_features"] = [[[float(i)], [float(i) + 1]], [[10.0], [20.0]]]
        row["dialogue"] = "one"
        row["turn"] = i
    path = write(tmp_path / "m.parquet", table, clips=False)
    data = load_manifest(path, dialogue_column="dialogue", turn_column="turn", validation_fraction=0)["train"]
    assert data[0]["audio_features"] == [[[0.5], [1.5], [2.5], [3.5]], [[15.0]] * 4]


def test_dialogues_that_are_wrong(tmp_path):
    def fails(table: list[dict], message: str, **options) -> None:
        path = write(tmp_path / "m.jsonl", table, clips=False)
        with pytest.raises(DataFormatError, match=message):
            load_manifest(path, dialogue_column="dialogue", validation_fraction=0, **options)

    table = utterances()
    table[0]["turn"] = 8
    fails(table, "dialogue d0 has turns that are not numbers, or one turn twice", turn_column="turn")
    fails([{**row, "split": "train" if i else "test"} for i, row in enumerate(utterances())], "dialogue d0 is in")
    fails([{"dialogue": "d", "text": "x", "label": "a"}], "extract them first")
    fails([{**row, "label": 0.5} for row in utterances()], "need classes as labels")
    fails(utterances(), "no column 'order'", turn_column="order")


# ---------------------------------------------------------------------------------------------------------------------
# Streaming


@pytest.mark.parametrize("suffix", [".csv", ".jsonl", ".parquet"])
def test_rows_one_at_a_time(tmp_path, suffix):
    path = write(tmp_path / f"m{suffix}", rows(12, speaker=lambda i: f"s{i}"), clips=False)  # no file is there
    found = list(iter_manifest(path, keep_columns=["speaker"]))
    assert len(found) == 12
    assert found[4] == {
        "id": "val/clips/4",
        "media": reference(tmp_path / "clips/4.mp4"),
        "text": "say 4",
        "label": 1.0,
        "speaker": "s4",
        "split": "validation",
    }
    manifest = open_manifest(path, keep_columns=["speaker"])
    assert len(manifest) == 12 and list(manifest.features) == ["id", "media", "text", "label", "speaker"]
    assert [row["id"] for row in manifest] == [row["id"] for row in manifest.rows()]
    assert manifest.dataset(found[:3])["speaker"][:] == ["s0", "s1", "s2"]


@pytest.mark.parametrize("suffix", [".csv", ".jsonl", ".parquet"])
def test_a_long_table_does_not_sit_in_memory(tmp_path, suffix):
    path = tmp_path / f"m{suffix}"
    long = "word " * 200
    table = [{"id": str(i), "file_name": f"{i}.mp4", "text": long, "label": i % 7} for i in range(10_000)]
    write(path, table, clips=False)
    del table
    tracemalloc.start()
    count = sum(1 for _ in iter_manifest(path))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert count == 10_000 and peak < 4 * 2**20  # the text alone is 10 MB


def test_faults_show_before_the_first_row(tmp_path):
    table = rows(6, clip_id=lambda i: f"c{i % 5}")
    with pytest.raises(DataFormatError, match=r"1 ids come twice \(first: 'c0'\)"):
        iter_manifest(write(tmp_path / "m.csv", table))
    table[5]["clip_id"] = ""
    with pytest.raises(DataFormatError, match="row 6 has no clip_id"):
        iter_manifest(write(tmp_path / "m.csv", table))


def test_patterns_in_a_folder_whose_name_looks_like_one(tmp_path, monkeypatch):
    folder = tmp_path / "my clips [v1]*"
    (folder / "frames").mkdir(parents=True)
    for number in (10, 2):
        (folder / "frames" / f"{number}.jpg").write_bytes(b"a picture")
    (folder / "clips.csv").write_text("images,label\nframes/*.jpg,1\n")
    monkeypatch.chdir(folder)
    for source in (folder / "clips.csv", "clips.csv"):
        (row,) = load_manifest(source, validation_fraction=0)["train"]
        assert [image["path"] for image in row["images"]] == [str(folder / "frames" / f"{n}.jpg") for n in (2, 10)]


def test_two_columns_of_one_name(tmp_path):
    assert "two columns are called 'label'" in fault(tmp_path, "text,label, label\na,1,2\n")
    table = pa.table([["a"], [1.0], [2.0]], names=["text", "label", "label"])
    pq.write_table(table, tmp_path / "m.parquet")
    with pytest.raises(DataFormatError, match="two columns are called 'label'"):
        load_manifest(tmp_path / "m.parquet")
