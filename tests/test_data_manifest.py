"""Folders of clips with a table: forms of the source, labels, splits, absent files."""

import csv
import json
import logging
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from datasets import ClassLabel, Video
from hypothesis import given, settings
from hypothesis import strategies as st

from clcr_hf.data import load_manifest
from clcr_hf.data.columns import DataFormatError, carve_groups
from clcr_hf.data.talking_faces import generate_talking_faces


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
        (["nan", "1"], {}, "1 labels are not finite"),
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
    assert "a table ends in" in fault(tmp_path, "x", "m.xlsx")
    assert "split 'later'" in fault(tmp_path, "text,label,split\na,1,later\n")
    assert "row 2 has no split" in fault(tmp_path, "text,label,split\na,1,train\nb,1,\n")
    assert "ids come twice" in fault(tmp_path, "id,text,label\na,x,1\na,y,1\n", validation_fraction=0)
    assert "fewer than two groups" in fault(tmp_path, "text,label\na,1\n")
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


def test_reads_the_embedded_corpus(tmp_path):
    folder = generate_talking_faces(tmp_path / "faces", num_train=2, num_validation=1, num_test=1, num_workers=1)
    data = load_manifest(folder)
    assert {name: len(part) for name, part in data.items()} == {"train": 2, "validation": 1, "test": 1}
    assert data["train"].column_names == ["id", "media", "text", "label"]
    for part in data.values():
        for row in part:
            assert Path(row["media"]["path"]).stat().st_size > 0 and row["text"] and -3 <= row["label"] <= 3
