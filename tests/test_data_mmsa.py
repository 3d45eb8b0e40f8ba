"""MMSA pickles: what the loader makes of the two layouts, row by row or whole."""

import logging
import pickle
from pathlib import Path

import numpy as np
import pytest

import clcr_hf.data.benchmarks.mmsa as module
from clcr_hf.data import iter_mmsa, load_mmsa
from clcr_hf.data.columns import DataFormatError

# -- the loader --------------------------------------------------------------------------------------------------------

LENGTHS = {"train": [3, 5, 2], "valid": [4], "test": [1, 5]}
STEPS, AUDIO, VISION = 5, 2, 3


def mmsa(aligned: bool = True) -> dict:
    """A pickle's content in exactly MMSA's layout, sized small: text lengths as `LENGTHS`, labels in thirds."""
    rng = np.random.default_rng(0)
    content = {}
    for name, lengths in LENGTHS.items():
        n = len(lengths)
        real = np.arange(STEPS) < np.array(lengths)[:, None]
        tokens = np.stack([np.where(real, rng.integers(5, 99, (n, STEPS)), 0), real, np.zeros((n, STEPS))], axis=1)
        split = {
            "raw_text": np.array([f"{name} sentence {i}" for i in range(n)], dtype=object),
            "audio": rng.normal(size=(n, STEPS, AUDIO)) * real[..., None],
            "vision": rng.normal(size=(n, STEPS, VISION)) * real[..., None],
            "text": rng.normal(size=(n, STEPS, 4)).astype(np.float32),
            "text_bert": tokens.astype(np.float32),
            "id": [f"{name}video$_${i}" for i in range(n)],
            "annotations": ["Positive"] * n,
            "classification_labels": np.ones(n),
            "regression_labels": np.linspace(-3, 3, n + 2, dtype=np.float32)[1:-1],
        }
        if not aligned:
            split["audio"] = rng.normal(size=(n, 7, AUDIO))
            split["audio_lengths"] = [7 - i for i in range(n)]
            split["vision_lengths"] = [0] + [2] * (n - 1)
        content[name] = split
    return content


def save(tmp_path: Path, content, protocol: int = 4) -> Path:
    path = tmp_path / "data.pkl"
    path.write_bytes(pickle.dumps(content, protocol))
    return path


@pytest.mark.parametrize("protocol", [2, 4, 5])
def test_aligned(tmp_path, protocol):
    content = mmsa()
    data = load_mmsa(save(tmp_path, content, protocol))
    assert list(data) == ["train", "validation", "test"]
    assert data["train"].column_names == [
        "id",
        "text",
        "input_ids",
        "attention_mask",
        "token_type_ids",
        "vision_features",
        "audio_features",
        "label",
    ]
    for name, split in (("train", "train"), ("validation", "valid"), ("test", "test")):
        for i, length in enumerate(LENGTHS[split]):
            row, source = data[name][i], content[split]
            assert row["id"] == source["id"][i] and row["text"] == source["raw_text"][i]
            assert row["input_ids"] == source["text_bert"][i, 0, :length].tolist()
            assert row["attention_mask"] == [1] * length and row["token_type_ids"] == [0] * length
            for modality in ("vision", "audio"):
                expected = source[modality][i, :length].astype(np.float32)
                np.testing.assert_array_equal(np.asarray(row[f"{modality}_features"], dtype=np.float32), expected)
            assert row["label"] == pytest.approx(source["regression_labels"][i])
    features = data["train"].features
    assert features["label"].dtype == "float32" and features["input_ids"].feature.dtype == "int64"
    assert features["audio_features"].feature.length == AUDIO


def test_unaligned_uses_the_lengths(tmp_path):
    content = mmsa(aligned=False)
    data = load_mmsa(save(tmp_path, content), modalities=("audio", "vision"))
    assert "input_ids" not in data["train"].column_names
    assert [len(row) for row in data["train"]["audio_features"]] == [7, 6, 5]
    assert [len(row) for row in data["train"]["vision_features"]] == [0, 2, 2]
    np.testing.assert_allclose(data["test"][1]["audio_features"], content["test"]["audio"][1, :6], rtol=1e-6)


def test_text_embeddings(tmp_path):
    content = mmsa()
    data = load_mmsa(save(tmp_path, content), text="text")
    assert "input_ids" not in data["train"].column_names
    assert [len(row) for row in data["train"]["text_features"]] == LENGTHS["train"]
    np.testing.assert_array_equal(data["test"][1]["text_features"], content["test"]["text"][1])


def test_no_real_frame_is_lost_where_the_text_mask_is_shorter(tmp_path):
    content = mmsa()
    content["train"]["audio"][0, 4] = 1.0  # text of this row ends at 3
    data = load_mmsa(save(tmp_path, content))
    assert [len(row) for row in data["train"]["audio_features"]] == [5, 5, 2]
    assert [len(row) for row in data["train"]["vision_features"]] == [3, 5, 2]


def test_non_finite_values_become_zero_and_are_counted(tmp_path, caplog):
    content = mmsa()
    content["train"]["audio"][1, 0, 0] = -np.inf
    content["train"]["audio"][1, 1, 1] = np.nan
    content["train"]["audio"][2, 0, 0] = 1e300  # infinite in float32
    with caplog.at_level(logging.WARNING, "clcr_hf.data"):
        data = load_mmsa(save(tmp_path, content))
    audio = np.asarray(data["train"][1]["audio_features"])
    assert audio[0, 0] == 0 and audio[1, 1] == 0 and np.isfinite(audio).all() and audio[0, 1] != 0
    assert "3 non-finite values of audio" in caplog.text


def test_mult_layout(tmp_path):
    rng = np.random.default_rng(1)
    content = {}
    for name, n in (("train", 3), ("valid", 2), ("test", 2)):
        audio = rng.normal(size=(n, 4, 2)) + 5
        audio[0, :2] = 0  # padded in front
        content[name] = {
            "text": rng.normal(size=(n, 4, 3)) + 5,
            "vision": rng.normal(size=(n, 4, 2)) + 5,
            "audio": audio,
            "labels": rng.uniform(-3, 3, (n, 1, 2)),
            "id": np.array([[f"{name}{i}", "0.5", "1.5"] for i in range(n)]),
        }
    path = save(tmp_path, content)
    data = load_mmsa(path, text="text", label_index=1)
    assert data["train"][0]["id"] == "train0$_$0.5$_$1.5"
    assert [len(row) for row in data["train"]["audio_features"]] == [2, 4, 4]
    np.testing.assert_allclose(data["train"][0]["audio_features"], content["train"]["audio"][0, 2:], rtol=1e-6)
    np.testing.assert_allclose(data["test"]["label"], content["test"]["labels"][:, 0, 1], rtol=1e-6)
    with pytest.raises(DataFormatError, match="no field 'text_bert'"):
        load_mmsa(path)
    with pytest.raises(DataFormatError, match="label_index is 2"):
        load_mmsa(path, text="text", label_index=2)


def broken(change) -> dict:
    content = mmsa()
    change(content)
    return content


FAULTS = {
    "ids come twice": lambda c: c["train"].update(id=["a", "a", "b"]),
    "ids of split 'test' are also in 'train'": lambda c: c["test"].update(id=["trainvideo$_$0", "x"]),
    r"audio is float64 \(3, 5\)": lambda c: c["train"].update(audio=np.zeros((3, 5))),
    r"vision is .* wanted 3 axes of numbers and 3 rows": lambda c: c["train"].update(vision=np.zeros((2, 5, 3))),
    "audio_features differs in width": lambda c: c["test"].update(audio=np.ones((2, 5, 9))),
    r"1 labels lie outside \(-3.0, 3.0\) \(first: row 2, 3.5\)": lambda c: c["train"].update(
        regression_labels=np.array([0, 1, 3.5])
    ),
    "2 labels are not finite": lambda c: c["train"].update(regression_labels=np.array([0, np.nan, np.inf])),
    "id has 3 rows": lambda c: c["train"].update(regression_labels=np.zeros(2)),
    r"no split validation among the keys": lambda c: c.pop("valid"),
    "no field 'id'": lambda c: c["train"].pop("id"),
    "no field 'vision'": lambda c: c["valid"].pop("vision"),
    "no field 'regression_labels' or 'labels'": lambda c: c["valid"].pop("regression_labels"),
    "raw_text has 1 rows": lambda c: c["train"].update(raw_text=["x"]),
    r"wanted \(N, 3, T\)": lambda c: c["train"].update(text_bert=np.zeros((3, 2, 5))),
    "something else than token ids": lambda c: c["train"].update(text_bert=np.full((3, 3, 5), 0.5)),
    "audio_lengths reach 9": lambda c: c["train"].update(audio_lengths=[9, 1, 1]),
}


@pytest.mark.parametrize("message", FAULTS)
def test_faults_are_named(tmp_path, message):
    with pytest.raises(DataFormatError, match=message):
        load_mmsa(save(tmp_path, broken(FAULTS[message])))


def test_all_faults_come_in_one_error(tmp_path):
    content = mmsa()
    content["train"]["id"] = ["a", "a", "b"]
    content["test"]["regression_labels"] = np.array([9.0, 0.0])
    with pytest.raises(DataFormatError, match="ids come twice") as caught:
        load_mmsa(save(tmp_path, content))
    assert "1 labels lie outside" in str(caught.value)


def test_other_label_ranges(tmp_path):
    content = broken(lambda c: c["train"].update(regression_labels=np.array([0, 1, 3.5])))
    path = save(tmp_path, content)
    assert load_mmsa(path, label_range=None)["train"]["label"][2] == 3.5
    with pytest.raises(DataFormatError, match="text='bert'"):
        load_mmsa(path, text="bert")
    with pytest.raises(DataFormatError, match="modalities"):
        load_mmsa(path, modalities=("smell",))


def test_not_a_dict_of_splits(tmp_path):
    with pytest.raises(DataFormatError, match="holds a list"):
        load_mmsa(save(tmp_path, [1]))


@pytest.mark.parametrize("aligned", [True, False])
@pytest.mark.parametrize("block_bytes", [1, 400, 2**24])
def test_rows_one_by_one_are_the_rows_of_the_whole(tmp_path, monkeypatch, aligned, block_bytes):
    content = mmsa(aligned)
    content["train"]["audio"][1, 0, 0] = np.nan
    path = save(tmp_path, content)
    whole = load_mmsa(path, text="text" if aligned else "text_bert")
    monkeypatch.setattr(module, "_BLOCK_BYTES", block_bytes)
    rows = iter_mmsa(path, text="text" if aligned else "text_bert")
    assert rows.features == whole["train"].features and rows.counts == {name: len(whole[name]) for name in whole}
    for _ in range(2):  # it can be gone through again
        for (split, row), (name, example) in zip(rows, ((n, e) for n in whole for e in whole[n]), strict=True):
            assert split == name and list(row) == list(example)
            assert {key: value.tolist() if hasattr(value, "tolist") else value for key, value in row.items()} == example
    again = load_mmsa(path, text="text" if aligned else "text_bert")
    assert all(again[name].to_dict() == whole[name].to_dict() for name in whole)


def test_large_arrays_are_cleaned_without_a_copy_of_the_whole(tmp_path):
    content = mmsa(aligned=False)
    content["train"]["audio"] = np.ones((3, 40_000, AUDIO))
    content["train"]["audio"][2, 39_999, 1] = -np.inf
    content["train"]["audio_lengths"] = [40_000, 1, 40_000]
    rows = [row for split, row in iter_mmsa(save(tmp_path, content)) if split == "train"]
    assert [len(row["audio_features"]) for row in rows] == [40_000, 1, 40_000]
    assert rows[2]["audio_features"][-1].tolist() == [1, 0]


def laughs() -> list:
    nested: list = [1.0]
    for _ in range(40):
        nested = [nested] * 10
    return nested


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("audio", laughs(), "audio is object"),
        ("regression_labels", laughs(), "regression_labels has shape"),
        ("raw_text", [laughs()] * 3, "raw_text does not hold texts"),
        ("id", [laughs()] * 3, "a list where a text is wanted"),
        ("id", [["x" * 900, "y" * 900]] * 3, "more than 1000 characters"),
        ("raw_text", ["x" * 2**20] * 3, "characters"),
        ("audio", np.zeros((3, 2**40, 0)), "no axis but the first"),
    ],
)
def test_parts_shared_without_end_are_refused_at_once(tmp_path, monkeypatch, key, value, message):
    monkeypatch.setattr(module, "_MOST_CHARACTERS", 2**21)
    with pytest.raises(DataFormatError, match=message):
        load_mmsa(save(tmp_path, broken(lambda c: c["train"].update({key: value}))))
