"""CH-SIMS v2: labels of the whole and of each modality, clips without labels, wrong lists, absent files."""

import csv
from pathlib import Path

import pytest
from layouts.sims2 import make_sims2, write_meta

from clcr_hf.data import load_sims2
from clcr_hf.data.columns import DataFormatError
from clcr_hf.data.source import recognise


@pytest.fixture
def root(tmp_path) -> Path:
    return make_sims2(tmp_path / "ch-simsv2s")


def change(root: Path, row: int, **cells: str) -> None:
    with open(root / "meta.csv", encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    rows[row] |= cells
    write_meta(root, [list(each.values()) for each in rows])


def test_columns_and_counts(root):
    splits = load_sims2(root)
    assert {name: len(rows) for name, rows in splits.items()} == {"train": 6, "validation": 3, "test": 3}
    row = splits["train"][2]
    assert row["id"] == "aqgy_train_0001/0000" and row["text"] == "这是第2句"
    assert (row["label"], row["label_text"], row["label_audio"], row["label_vision"]) == (1.0, 0.5, 1.0, 0.0)
    assert (row["annotation"], row["video"]) == ("Positive", "aqgy_train_0001")
    assert Path(row["media"]["path"]) == root / "Raw" / "aqgy_train_0001" / "0000.mp4"
    assert recognise(root) == "sims2"


def test_label_of_one_modality(root):
    rows = load_sims2(root, labels="text")["train"]
    assert rows["label"][:3] == [-0.5, 0.0, 0.5] and rows["label_all"][:3] == [-1.0, 0.0, 1.0]
    with pytest.raises(DataFormatError, match="choose all, text, audio, vision"):
        load_sims2(root, labels="T")


def test_clips_without_labels(tmp_path):
    rows = load_sims2(make_sims2(tmp_path / "ch-simsv2u", labelled=False))["train"]
    assert "label" not in rows.column_names and rows["label_text"][:2] == [None, None]


def test_numbers_whose_zeros_were_lost(root):
    """As a spreadsheet writes the list anew."""
    change(root, 0, clip_id="0")
    assert Path(load_sims2(root)["train"][0]["media"]["path"]).name == "0000.mp4"


@pytest.mark.parametrize(
    ("cells", "message"),
    [
        ({"label": "1.5"}, r"line 3: label '1\.5' is no number between -1 and 1"),
        ({"label_A": "much"}, "line 3: .*'much'"),
        ({"label": "nan"}, "line 3: label 'nan'"),
        ({"mode": "later"}, "line 3: split 'later'"),
        ({"clip_id": "0000"}, "line 3: aqgy_train_0000/0000 comes twice"),
        ({"video_id": "../x"}, "line 3: .* names no clip"),
        ({"label": ""}, "1 of 12 clips have no label"),
    ],
)
def test_lists_that_are_wrong(root, cells, message):
    change(root, 1, **cells)
    with pytest.raises(DataFormatError, match=message):
        load_sims2(root)


def test_absent_files(root, tmp_path):
    (root / "Raw" / "aqgy_test_0000" / "0001.mp4").unlink()
    with pytest.raises(DataFormatError, match=r"1 of 12 files are missing: Raw/aqgy_test_0000/0001\.mp4"):
        load_sims2(root)
    assert len(load_sims2(root, skip_missing=True)["test"]) == 2
    with pytest.raises(DataFormatError, match=r"meta\.csv: cannot be read"):
        load_sims2(tmp_path)
