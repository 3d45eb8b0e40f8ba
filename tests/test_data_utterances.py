"""Utterance archives: sequences by video, order, splits, standardising, and the real CMU-MOSI file."""

import logging
from pathlib import Path

import numpy as np
import pytest

from clcr_hf.data import load_utterances
from clcr_hf.data.columns import DataFormatError


def arrays(**changes) -> dict[str, np.ndarray]:
    """Seven utterances of four videos, out of order; features tell their row."""
    made = {
        "text": np.arange(14, dtype=np.float32).reshape(7, 2),
        "audio": np.arange(7, dtype=np.float64)[:, None] * 10,
        "label": np.array([0, 1, 0, 1, 1, 0, 1]),
        "score": np.linspace(-3, 3, 7, dtype=np.float32),
        "video_id": np.array(["b", "a", "b", "a", "c", "d", "b"]),
        "utterance": np.array([2, 1, 10, 0, 0, 0, 1]),
        "start": np.array([9.0, 1, 3, 0, 0, 0, 6]),
        "split": np.array(["train", "train", "train", "train", "test", "train", "train"]),
    }
    made.update(changes)
    return {key: value for key, value in made.items() if value is not None}


def save(tmp_path: Path, **changes) -> Path:
    path = tmp_path / "u.npz"
    np.savez(path, **arrays(**changes))
    return path


def test_one_example_a_video_in_order(tmp_path):
    data = load_utterances(save(tmp_path))
    assert list(data) == ["train", "test"]
    assert data["train"].column_names == ["id", "rows", "text_features", "audio_features", "labels"]
    by_id = {row["id"]: row for row in data["train"]}
    assert list(by_id) == ["b", "a", "d"]
    assert by_id["b"]["rows"] == [6, 0, 2] and by_id["a"]["rows"] == [3, 1]  # by number, not by text or start
    assert by_id["b"]["audio_features"] == [[60.0], [0.0], [20.0]]
    assert by_id["b"]["text_features"] == [[12.0, 13.0], [0.0, 1.0], [4.0, 5.0]]
    assert by_id["b"]["labels"] == [1, 0, 0]
    assert data["test"][0]["id"] == "c" and data["test"][0]["labels"] == [1]
    assert data["train"].features["labels"].feature.dtype == "int64"
    assert data["train"].features["text_features"].feature.length == 2


def test_order_label_and_modalities_can_be_named(tmp_path):
    path = save(tmp_path)
    data = load_utterances(path, order_column="start", label="score", modalities=["audio"])
    row = next(row for row in data["train"] if row["id"] == "b")
    assert row["rows"] == [2, 6, 0] and "text_features" not in row
    np.testing.assert_allclose(row["labels"], [-1, 3, -3])
    assert data["train"].features["labels"].feature.dtype == "float32"


def test_file_order_without_an_order_array_and_no_split(tmp_path):
    data = load_utterances(save(tmp_path, utterance=None, start=None, split=None), split_column=None)
    assert list(data) == ["train"] and data["train"][0]["rows"] == [0, 2, 6]


def test_validation_videos(tmp_path):
    path = save(tmp_path)
    data = load_utterances(path, num_validation_videos=1, seed=3)
    assert len(data["validation"]) == 1 and len(data["train"]) == 2 and data["test"]["id"][:] == ["c"]
    assert load_utterances(path, num_validation_videos=1, seed=3)["validation"]["id"][:] == data["validation"]["id"][:]
    assert len({load_utterances(path, num_validation_videos=1, seed=s)["validation"]["id"][0] for s in range(9)}) > 1
    assert sum(map(len, load_utterances(path, validation_fraction=0.5)["validation"]["labels"])) >= 3
    with pytest.raises(DataFormatError, match="cannot take 3 groups"):
        load_utterances(path, num_validation_videos=3)


def test_standardised_on_training_rows_alone(tmp_path):
    audio = np.array([1.0, 3, 1, 3, 100, 5, -100])[:, None] * [1.0, 0.0] + [0.0, 7.0]
    splits = np.array(["train"] * 4 + ["test", "val", "train"])
    path = save(tmp_path, audio=audio, split=splits, video_id=np.array(list("baba") + ["c", "d", "b"]))
    data = load_utterances(path, standardise=True)
    train = np.concatenate([np.asarray(x) for x in data["train"]["audio_features"]])
    np.testing.assert_allclose(train.mean(0), 0, atol=1e-6)
    np.testing.assert_allclose(train.std(0), [1, 0], atol=1e-6)
    known = np.array([1.0, 3, 1, 3, -100])
    expected = (100 - known.mean()) / known.std()
    np.testing.assert_allclose(data["test"]["audio_features"][0], [[expected, 0]], rtol=1e-5)
    # A carved validation video leaves the statistics too.
    carved = load_utterances(save(tmp_path), num_validation_videos=1, standardise=True)
    train = np.concatenate([np.asarray(x) for x in carved["train"]["audio_features"]])
    np.testing.assert_allclose(train.mean(0), 0, atol=1e-6)


def test_non_finite_values_are_counted(tmp_path, caplog):
    text = arrays()["text"].copy()
    text[0, 0], text[1, 1] = np.nan, -np.inf
    with caplog.at_level(logging.WARNING, "clcr_hf.data"):
        data = load_utterances(save(tmp_path, text=text))
    assert "2 non-finite values of text" in caplog.text
    assert next(row for row in data["train"] if row["id"] == "b")["text_features"][1] == [0.0, 1.0]


@pytest.mark.parametrize(
    ("changes", "options", "message"),
    [
        ({"label": None}, {}, "no array label; it has text, audio"),
        ({}, {"modalities": ["text", "smell"]}, "no array smell"),
        ({"label": np.zeros(6)}, {}, "7"),
        ({"label": np.array([np.nan] + [0.0] * 6)}, {}, "1 labels are not finite"),
        ({"label": np.array(list("abcdefg"))}, {}, "labels are <U1"),
        ({"text": np.zeros(7)}, {"modalities": ["text"]}, r"modality 'text' is float64 \(7,\)"),
        ({"text": None, "audio": None}, {}, "no modality"),
        ({"split": np.array(["train"] * 6 + ["test"])}, {}, "video 'b' is in both test and train"),
        ({"split": np.array(["soon"] * 7)}, {}, "split 'soon'"),
        ({"video_id": np.array([["x"]] * 7)}, {}, r"group array has shape \(7, 1\)"),
        ({"text": np.array([[1], [{}]] + [[0]] * 5, dtype=object)}, {}, "array 'text' .*never unpickled"),
        ({"video_id": np.array(["a"] * 7, dtype=object)}, {}, "never unpickled"),
    ],
)
def test_faults_are_named(tmp_path, changes, options, message):
    with pytest.raises(DataFormatError, match=message):
        load_utterances(save(tmp_path, **changes), **options)


def test_object_arrays_run_nothing(tmp_path):
    sentinel = tmp_path / "sentinel"

    class Gadget:
        def __reduce__(self):
            return (open, (str(sentinel), "w"))

    with pytest.raises(DataFormatError):
        load_utterances(save(tmp_path, extra=np.array([Gadget()], dtype=object)), modalities=["extra"])
    assert not sentinel.exists()


def test_not_an_archive(tmp_path):
    for name, content in (("a.npz", b"PK\x03\x04broken"), ("b.npz", b""), ("c.npz", b"\x80\x04N.")):
        (tmp_path / name).write_bytes(content)
        with pytest.raises(DataFormatError, match="not a readable"):
            load_utterances(tmp_path / name)
    np.save(tmp_path / "d.npy", np.zeros(3))
    with pytest.raises(DataFormatError, match="single array"):
        load_utterances(tmp_path / "d.npy")
    with pytest.raises(FileNotFoundError):
        load_utterances(tmp_path / "absent.npz")


def test_real_mosi(real_data):
    path = real_data / "mosi-utterances" / "features.npz"
    data = load_utterances(path, num_validation_videos=10, seed=0)
    assert {name: len(part) for name, part in data.items()} == {"train": 52, "validation": 10, "test": 31}
    rows = np.concatenate([np.asarray(x) for part in data.values() for x in part["rows"]])
    assert sorted(rows) == list(range(2199))
    assert sum(map(len, data["test"]["labels"])) == 752
    first = data["train"][0]
    assert np.asarray(first["text_features"]).shape == (len(first["labels"]), 100)
    assert np.asarray(first["audio_features"]).shape[1] == 73
    with np.load(path, allow_pickle=False) as archive:
        assert (np.diff(archive["utterance"][first["rows"]]) > 0).all()
        assert set(archive["video_id"][first["rows"]]) == {first["id"]}
        np.testing.assert_array_equal(archive["label"][first["rows"]], first["labels"])
        np.testing.assert_array_equal(archive["audio"][first["rows"]], np.float32(first["audio_features"]))
    scores = load_utterances(path, label="score", split_column="split_sdk")
    assert {name: sum(map(len, part["labels"])) for name, part in scores.items()} == {
        "train": 1284,
        "validation": 229,
        "test": 686,
    }
