"""MELD: lists of three splits, dialogues, the two clips that the release lacks, characters that came in wrong."""

import csv
from pathlib import Path

import pytest
from layouts.meld import make_meld, write_list

from clcr_hf.data import as_dialogues, load_meld
from clcr_hf.data.benchmarks.meld import MELD_EMOTIONS, MELD_SENTIMENTS
from clcr_hf.data.columns import DataFormatError
from clcr_hf.data.source import recognise
from clcr_hf.media import load_video


@pytest.fixture
def root(tmp_path) -> Path:
    return make_meld(tmp_path / "MELD.Raw")


def rows_of(path: Path) -> list[list[str]]:
    with open(path, encoding="utf-8", newline="") as file:
        return list(csv.reader(file))[1:]


def test_columns_and_counts(root):
    splits = load_meld(root)
    assert {name: len(rows) for name, rows in splits.items()} == {"train": 9, "validation": 6, "test": 6}
    assert splits["train"].features["label"].names == list(MELD_EMOTIONS)
    row = splits["validation"][4]
    assert row["id"] == "validation/dia1_utt1" and row["dialogue"] == "validation/dia1" and row["utterance"] == 1
    assert row["text"] == "It’s joy, number 1"  # the list has U+0092
    assert MELD_EMOTIONS[row["label"]] == "joy" and row["sentiment"] == "positive"
    assert (row["speaker"], row["season"], row["episode"]) == ("Ross", "4", "7")
    assert (row["episode_start"], row["episode_end"]) == ("00:01:01,125", "0:01:02,250")
    assert Path(row["media"]["path"]) == root / "dev_splits_complete" / "dia1_utt1.mp4"
    assert load_video(row["media"]["path"]).frames.shape[1:] == (32, 32, 3)
    assert recognise(root) == recognise(root.parent) == "meld"


def test_sentiment_and_a_folder_for_each_split(root, tmp_path):
    splits = load_meld(make_meld(tmp_path / "nested", nested=True), labels="sentiment")
    expected = load_meld(root.parent, labels="sentiment")
    assert splits["test"].features["label"].names == list(MELD_SENTIMENTS)
    assert splits["test"]["label"][:] == expected["test"]["label"][:] and splits["test"]["emotion"][0] == "neutral"
    with pytest.raises(DataFormatError, match="choose emotion or sentiment"):
        load_meld(root, labels="mood")


def test_the_clips_that_the_release_lacks_are_told_of_and_their_texts_kept(root, caplog):
    listed = rows_of(root / "dev_sent_emo.csv")
    listed.append([*listed[0][:5], "110", "7", *listed[0][7:]])
    write_list(root / "dev_sent_emo.csv", listed)
    train = rows_of(root / "train_sent_emo.csv")
    train.append([*train[0][:5], "125", "3", *train[0][7:]])
    write_list(root / "train_sent_emo.csv", train)
    (root / "train_splits" / "dia125_utt3.mp4").write_bytes(b"does not decode")
    splits = load_meld(root)
    assert splits["validation"][-1]["media"] is None and splits["validation"][-1]["text"]
    assert splits["train"][-1]["media"] is None
    assert "train/dia125_utt3, validation/dia110_utt7" in caplog.text


def test_absent_clips(root, caplog):
    (root / "train_splits" / "dia0_utt1.mp4").unlink()
    (root / "output_repeated_splits_test" / "dia1_utt2.mp4").write_bytes(b"")
    message = r"2 of 21 files are missing: train_splits/dia0_utt1.mp4, output.*/dia1_utt2.mp4 \(empty\)"
    with pytest.raises(DataFormatError, match=message):
        load_meld(root)
    splits = load_meld(root, skip_missing=True)
    assert {name: len(rows) for name, rows in splits.items()} == {"train": 8, "validation": 6, "test": 5}


@pytest.mark.parametrize(
    ("column", "value", "message"),
    [
        (3, "glad", "line 3: emotion 'glad' is none of neutral"),
        (5, "one", "line 3: .*'one'"),
        (6, "0", "line 3: train/dia0_utt0 comes twice"),
    ],
)
def test_lists_that_are_wrong(root, column, value, message):
    listed = rows_of(root / "train_sent_emo.csv")
    listed[1][column] = value
    write_list(root / "train_sent_emo.csv", listed)
    with pytest.raises(DataFormatError, match=message):
        load_meld(root)


def test_folders_that_are_something_else(root, tmp_path):
    with pytest.raises(DataFormatError, match=r"no train_sent_emo\.csv"):
        load_meld(tmp_path / "nothing")
    (root / "test_sent_emo.csv").write_text("Utterance,Speaker\nhello,Ross\n")
    with pytest.raises(DataFormatError, match="no column Emotion"):
        load_meld(root)


def test_utterances_become_dialogues(root):
    """Once they have features, as `clcr extract` gives them."""
    splits = load_meld(root)
    for name, rows in splits.items():
        splits[name] = rows.add_column("text_features", [[[float(i), 1.0]] for i in range(len(rows))])
    from datasets import List, Value

    kind = List(List(Value("float32"), length=2))
    splits = splits.map(lambda row: row).cast_column("text_features", kind)
    talks = as_dialogues(splits, dialogue_column="dialogue", turn_column="utterance")
    assert talks["train"]["id"][:] == ["train/dia0", "train/dia1", "train/dia2"]
    assert [len(labels) for labels in talks["train"]["labels"]] == [3, 3, 3]
