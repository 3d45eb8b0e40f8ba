"""CMU-MultimodalSDK sequences: reading, alignment to words, folds, and what becomes of files that do not fit."""

import csv
import difflib
import json
import logging
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from layouts.csd import OUTSIDE, WORD, make_csd, write_csd
from layouts.mmsa import make_mmsa

from clcr_hf.data import CLCRDataCollator, load_mmsa
from clcr_hf.data.alignment import average_over, overlapping
from clcr_hf.data.benchmarks.csd import (
    COVAREP_5,
    FACET_20,
    MOSEI_EMOTIONS,
    iter_csd,
    load_csd,
)
from clcr_hf.data.benchmarks.csd_files import find_csd_files, read_csd, read_folds, standard_folds
from clcr_hf.data.columns import DataFormatError
from clcr_hf.data.untrusted.arrays import UnsafeFileError

FOLDS = standard_folds("mosi")
FIRST, BLIND, NOISY = FOLDS["train"][:3]


@pytest.fixture(scope="module")
def mosi(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_csd(tmp_path_factory.mktemp("mosi"))


@pytest.fixture(scope="module")
def mosei(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_csd(tmp_path_factory.mktemp("mosei"), dataset="mosei")


def rows_by_id(data: Any) -> dict[str, dict[str, Any]]:
    return {row["id"]: row for split in data.values() for row in split}


# -- alignment ---------------------------------------------------------------------------------------------------------

# Eighths of a second add and compare exactly; everything may touch, repeat, be reversed or empty.
interval_lists = st.lists(st.tuples(st.integers(0, 24), st.integers(0, 24)), max_size=9).map(
    lambda pairs: np.array(pairs, dtype=np.float64).reshape(-1, 2) / 8
)


def naive_average(words: np.ndarray, times: np.ndarray, frames: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    means, counts = np.zeros((len(words), frames.shape[1])), np.zeros(len(words), int)
    for i, (start, end) in enumerate(words):
        hits = [
            frame
            for (begin, stop), frame in zip(times, frames, strict=True)
            if end > start and stop > begin and min(end, stop) - max(start, begin) > 1e-5
        ]
        if hits:
            means[i], counts[i] = np.mean(hits, axis=0), len(hits)
    return means, counts


@settings(max_examples=150, deadline=None)
@given(interval_lists, interval_lists, st.integers(0, 2**31))
def test_averages_are_those_of_a_loop(words, times, seed):
    frames = np.random.default_rng(seed).normal(size=(len(times), 2))
    means, counts = average_over(words, times, frames)
    expected_means, expected_counts = naive_average(words, times, frames)
    np.testing.assert_array_equal(counts, expected_counts)
    np.testing.assert_allclose(means, expected_means, atol=1e-6)
    for start, end in words:
        hits = [i for i, (a, b) in enumerate(times) if end > start and b > a and min(end, b) > max(start, a)]
        assert overlapping(start, end, times).tolist() == hits


def test_a_huge_frame_spoils_no_other_word():
    frames = np.array([[1e30], [1.0], [3.0]], dtype=np.float32)
    times = np.array([[0, 1], [1, 2], [2, 3]], dtype=float)
    means, _ = average_over(np.array([[0, 1], [1, 3]], dtype=float), times, frames)
    assert means[1, 0] == 2.0


def test_intervals_that_are_not_finite_match_nothing():
    times = np.array([[0, 1], [np.nan, 2], [1, np.inf]])
    means, counts = average_over(np.array([[0, 3], [np.nan, 1]]), times, np.ones((3, 1)))
    assert counts.tolist() == [1, 0] and means.tolist() == [[1], [0]]
    with pytest.raises(ValueError, match="2 intervals for 3 frames"):
        average_over(np.zeros((1, 2)), np.zeros((2, 2)), np.zeros((3, 1)))


# -- one file ----------------------------------------------------------------------------------------------------------


def test_read_csd(mosi):
    with read_csd(mosi / "CMU_MOSI_Opinion_Labels.csd") as labels:
        assert labels.root_name == "Opinion Segment Labels" and len(labels) == 8 and FIRST in labels
        assert labels.metadata == {
            "root name": "Opinion Segment Labels",
            "md5": None,
            "computational sequence version": 1.0,
        }
        entry = labels[FIRST]
        assert entry.features.shape == (6, 1) and entry.intervals.dtype == np.float64
        with pytest.raises(KeyError):
            labels["nobody"]
    with read_csd(mosi / "CMU_MOSI_ModifiedTimestampedWords.csd") as words:
        assert words.metadata["creator"] == "asdf"  # no JSON
        assert words[FIRST].features[3] == "sp" and words[FIRST].features.shape == (24,)


@pytest.mark.parametrize("kind", ["S", "vlen str", "vlen bytes", "flat"])
def test_words_in_every_form_that_hdf5_has(tmp_path, kind):
    words = ["naïve", "sp", "it's"]
    data: Any = np.array([w.encode() for w in words])[:, None]
    if kind == "flat":
        data = data[:, 0]
    elif kind != "S":
        text = kind == "vlen str"
        data = np.array([w if text else w.encode() for w in words], dtype=object)[:, None]
        data = data.astype(h5py.string_dtype() if text else h5py.special_dtype(vlen=bytes))
    path = write_csd(tmp_path / "w.csd", "words", {"v": (data, np.zeros((3, 2)))})
    with read_csd(path) as sequence:
        assert sequence["v"].features.tolist() == words


def test_files_of_another_shape_are_refused(tmp_path):
    with pytest.raises(FileNotFoundError):
        read_csd(tmp_path / "none.csd")
    (tmp_path / "empty.csd").write_bytes(b"")
    with pytest.raises(DataFormatError, match="not a readable HDF5"):
        read_csd(tmp_path / "empty.csd")
    with h5py.File(tmp_path / "two.csd", "w") as file:
        file.create_group("a/data"), file.create_group("b/data")
    with pytest.raises(DataFormatError, match="one root group that holds 'data'; the file has 'a', 'b'"):
        read_csd(tmp_path / "two.csd")
    with h5py.File(tmp_path / "flat.csd", "w") as file:
        file["a"] = [1]
    with pytest.raises(DataFormatError, match="one root group"):
        read_csd(tmp_path / "flat.csd")


# -- folds -------------------------------------------------------------------------------------------------------------


def test_standard_folds():
    for dataset, sizes in (("mosi", [52, 10, 31]), ("mosei", [2249, 300, 678])):
        folds = standard_folds(dataset)
        assert list(folds) == ["train", "validation", "test"] and [len(v) for v in folds.values()] == sizes
        assert len({video for videos in folds.values() for video in videos}) == sum(sizes)
    with pytest.raises(DataFormatError, match="pom"):
        standard_folds("pom")


def test_folds_from_files(tmp_path):
    (tmp_path / "folds.json").write_text(json.dumps({"train": ["a"], "dev": ["b"]}))
    (tmp_path / "folds.csv").write_text("video_id,text,mode\na,x,train\na,y,train\nb,z,valid\n")
    for name in ("folds.json", "folds.csv"):
        assert read_folds(tmp_path / name) == {"a": "train", "b": "validation"}
    with pytest.raises(DataFormatError, match="1 videos are in two splits: a"):
        read_folds({"train": ["a"], "test": ["a"]})
    with pytest.raises(DataFormatError, match="'practice'"):
        read_folds({"practice": ["a"]})
    for text in ("", "a,b\n1,2\n"):
        (tmp_path / "bad.csv").write_text(text)
        with pytest.raises(DataFormatError, match="no folds can be read"):
            read_folds(tmp_path / "bad.csv")


# -- the folder --------------------------------------------------------------------------------------------------------


def test_mosi_aligned_to_words(mosi):
    data = load_csd(mosi)
    assert {name: len(split) for name, split in data.items()} == {"train": 13, "validation": 6, "test": 6}
    assert set(data["test"]["video"]) == set(FOLDS["test"][:2])
    features = data["train"].features
    assert features["vision_features"].feature.length == 47 and features["audio_features"].feature.length == 74
    assert features["label"].dtype == "float32" and features["word_intervals"].feature.length == 2
    row = data["validation"][1]
    assert row["id"].endswith("[1]") and row["text"] == " ".join(row["words"]) and len(row["words"]) == 6
    video = row["video"]
    with (
        read_csd(mosi / "CMU_MOSI_ModifiedTimestampedWords.csd") as words,
        read_csd(mosi / "CMU_MOSI_COVAREP.csd") as covarep,
    ):
        spoken, times = words[video]
        inside = [i for i, (a, b) in enumerate(times) if b > row["start"] and a < row["end"] and spoken[i] != "sp"]
        assert row["words"] == spoken[inside].tolist()
        np.testing.assert_allclose(row["word_intervals"], times[inside], rtol=1e-6)
        expected, _ = naive_average(times[inside], covarep[video].intervals, covarep[video].features)
    np.testing.assert_allclose(row["audio_features"], expected, atol=1e-5)
    assert row["audio_attention_mask"] == [1] * 6


def test_pauses_can_be_kept(mosi):
    kept, dropped = rows_by_id(load_csd(mosi, keep_pauses=True)), rows_by_id(load_csd(mosi))
    for name, row in dropped.items():
        assert kept[name]["words"].count("sp") == 2
        assert [word for word in kept[name]["words"] if word != "sp"] == row["words"]
        assert len(kept[name]["audio_features"]) == 8


def test_quirks_are_counted_and_named(mosi, caplog):
    with caplog.at_level(logging.WARNING, "clcr_hf.data"):
        data = rows_by_id(load_csd(mosi))
    for text in (
        f"segments without length, left out: 1 ({FIRST}[3])",
        f"segments that repeat an interval of their video, kept: 1 ({FIRST})",
        f"segments without a word, left out: 1 ({FIRST}[5])",
        f"segments without vision, kept: 3 ({BLIND}[0], {BLIND}[1], {BLIND}[2])",
        f"non-finite values of audio, set to 0: 3 ({NOISY})",
    ):
        assert text in caplog.text
    assert {name for name in data if name.startswith(FIRST)} == {f"{FIRST}[{i}]" for i in (0, 1, 2, 4)}
    assert data[f"{FIRST}[4]"]["words"] == data[f"{FIRST}[0]"]["words"]
    assert data[f"{BLIND}[0]"]["vision_features"] is None and data[f"{BLIND}[0]"]["vision_attention_mask"] is None
    noisy = data[f"{NOISY}[0]"]
    assert np.isfinite(noisy["audio_features"]).all()
    assert noisy["vision_attention_mask"] == [1, 0, 1, 1, 1, 1] and not np.any(noisy["vision_features"][1])


def test_infinite_frames_count_as_zero_in_the_mean(tmp_path):
    root = make_csd(tmp_path)
    video = FOLDS["test"][0]
    with h5py.File(root / "CMU_MOSI_COVAREP.csd", "r+") as file:
        features = file[f"COVAREP/data/{video}/features"]
        features[:, 4] = 2.0
        features[50, 4] = -np.inf  # the first of the first word's 25
    row = rows_by_id(load_csd(root))[f"{video}[0]"]
    assert row["audio_features"][0][4] == pytest.approx(2 * 24 / 25) and row["audio_features"][1][4] == 2.0


def test_unaligned_streams_keep_their_times(mosi, caplog):
    with caplog.at_level(logging.WARNING, "clcr_hf.data"):
        data = rows_by_id(load_csd(mosi, align="none"))
    assert f"segments without text, kept: 1 ({FIRST}[5])" in caplog.text
    silent = data[f"{FIRST}[5]"]
    assert silent["words"] == [] and silent["text"] == "" and len(silent["audio_features"]) == 100
    row = data[f"{FIRST}[1]"]
    assert len(row["audio_features"]) == 200 and len(row["vision_features"]) == 60  # 100 and 30 a second
    times = np.array(row["audio_intervals"])
    assert times.shape == (200, 2)
    assert times[0, 1] > row["start"] and times[-1, 0] < row["end"]
    assert "audio_attention_mask" not in row


def test_a_word_on_the_border_is_in_both_segments(tmp_path):
    root = make_csd(tmp_path, videos=(1, 1, 1), segments=2)
    with h5py.File(root / "CMU_MOSI_Opinion_Labels.csd", "r+") as file:
        times = file[f"Opinion Segment Labels/data/{FIRST}/intervals"]
        times[0, 1] = times[1, 0] = 0.5 + 1.5 * WORD  # in the middle of the second word
    data = rows_by_id(load_csd(root))
    assert len(data[f"{FIRST}[0]"]["words"]) == 2
    assert data[f"{FIRST}[0]"]["words"][1] == data[f"{FIRST}[1]"]["words"][0]


def test_modalities_vectors_and_columns(mosi):
    data = load_csd(mosi, modalities=("text", "audio"), text="vectors", columns={"audio": COVAREP_5})
    row, full = data["test"][0], load_csd(mosi)["test"][0]
    assert "vision_features" not in row and np.shape(row["text_features"]) == (6, 300)
    np.testing.assert_array_equal(np.array(row["audio_features"]), np.array(full["audio_features"])[:, list(COVAREP_5)])
    assert np.shape(load_csd(mosi, columns={"vision": FACET_20})["test"][0]["vision_features"]) == (6, 20)
    only = load_csd(mosi, modalities=("audio",))["test"][0]
    assert "text" not in only and "words" not in only and np.shape(only["audio_features"]) == (6, 74)
    with pytest.raises(DataFormatError, match="audio has 74 features"):
        load_csd(mosi, columns={"audio": [74]})
    with pytest.raises(DataFormatError, match="no features of 'text'"):
        load_csd(mosi, columns={"text": [0]})


def test_word_vectors_alone_are_text_and_clock(tmp_path):
    root = make_csd(tmp_path, videos=(1, 1, 1))
    (root / "CMU_MOSI_ModifiedTimestampedWords.csd").unlink()
    row = load_csd(root)["test"][0]
    assert "words" not in row and np.shape(row["text_features"]) == np.shape(row["audio_features"])[:1] + (300,)
    with read_csd(root / "CMU_MOSI_TimestampedWordVectors_1.1.csd") as vectors:
        np.testing.assert_array_equal(np.float32(row["text_features"]), vectors[row["video"]].features[:8])


def test_missing_drop(mosi, caplog):
    with caplog.at_level(logging.WARNING, "clcr_hf.data"):
        data = load_csd(mosi, missing="drop")
    assert "segments without vision, left out: 3" in caplog.text
    assert len(data["train"]) == 10 and all(row["vision_features"] is not None for row in data["train"])


def test_mosei_sentiment_and_emotions(mosei, caplog):
    with caplog.at_level(logging.WARNING, "clcr_hf.data"):
        sentiment = rows_by_id(load_csd(mosei))
    assert f"videos in no fold, left out: 1 ({OUTSIDE})" in caplog.text
    emotion = rows_by_id(load_csd(mosei, labels="emotion"))
    assert emotion.keys() == sentiment.keys() and min(row["start"] for row in sentiment.values()) < 0
    with read_csd(mosei / "CMU_MOSEI_Labels.csd") as labels:
        for name, row in emotion.items():
            values = labels[row["video"]].features[int(name.split("[")[1][:-1])]
            assert row["label"] == (values[1:] > 0).astype(float).tolist() and len(row["label"]) == len(MOSEI_EMOTIONS)
            assert sentiment[name]["label"] == pytest.approx(values[0])
    assert np.any([row["label"] for row in emotion.values()])


def test_the_older_label_files_of_mosei(tmp_path):
    root = make_csd(tmp_path, dataset="mosei", videos=(1, 1, 1))
    new = {kind: rows_by_id(load_csd(root, labels=kind)) for kind in ("sentiment", "emotion")}
    with read_csd(root / "CMU_MOSEI_Labels.csd") as labels:
        old = {name: labels[name] for name in labels}
    (root / "CMU_MOSEI_Labels.csd").unlink()
    for file, title, part in (
        ("LabelsSentiment", "Sentiment Labels", slice(0, 1)),
        ("LabelsEmotions", "x", slice(1, 7)),
    ):
        write_csd(root / f"CMU_MOSEI_{file}.csd", title, {n: (f[:, part], t) for n, (f, t) in old.items()})
    for kind in ("sentiment", "emotion"):
        again = rows_by_id(load_csd(root, labels=kind))
        assert {name: row["label"] for name, row in again.items()} == {n: r["label"] for n, r in new[kind].items()}


def test_streaming_gives_the_same_rows_twice(mosi):
    rows = iter_csd(mosi, align="none")
    first, second = list(rows), list(rows)
    loaded = rows_by_id(load_csd(mosi, align="none"))
    assert rows.num_segments == 26 and len(first) == len(second) == len(loaded) == 26
    assert list(first[0][1]) == list(rows.features)
    for split, row in first:
        assert row["video"] in FOLDS[split]
        for name, value in loaded[row["id"]].items():
            if isinstance(row[name], np.ndarray):
                np.testing.assert_array_equal(np.array(value, row[name].dtype).reshape(row[name].shape), row[name])
            else:
                assert value == row[name]


def test_rows_go_through_the_collator(mosi):
    data = load_csd(mosi)["train"]
    batch = CLCRDataCollator()(list(data))
    assert batch["audio_features"].shape == (13, 6, 74) and batch["labels"].shape == (13,)
    blind = [i for i, name in enumerate(data["id"]) if name.startswith(BLIND)]
    assert batch["vision_attention_mask"][blind].sum() == 0


# -- which file is which -----------------------------------------------------------------------------------------------


def test_files_are_found_by_name_and_by_root(tmp_path):
    root = make_csd(tmp_path / "csd", videos=(1, 1, 1))
    (root / "acoustic").mkdir()
    (root / "CMU_MOSI_COVAREP.csd").rename(root / "acoustic" / "sound.csd")  # known by its root group alone
    with read_csd(root / "CMU_MOSI_Visual_Facet_41.csd") as facet:
        content = {name: facet[name] for name in facet}
    write_csd(root / "CMU_MOSI_Visual_Facet_42.csd", "x", {n: (f[:, :35], t) for n, (f, t) in content.items()})
    write_csd(root / "CMU_MOSI_TimestampedPhones.csd", "phones", {})
    (root / "notes.csd").write_text("no HDF5")
    files = find_csd_files(root)
    assert {role: path.name for role, path in files.items()} == {
        "labels": "CMU_MOSI_Opinion_Labels.csd",
        "words": "CMU_MOSI_ModifiedTimestampedWords.csd",
        "word_vectors": "CMU_MOSI_TimestampedWordVectors_1.1.csd",
        "vision": "CMU_MOSI_Visual_Facet_42.csd",
        "audio": "sound.csd",
    }
    assert load_csd(root)["test"].features["vision_features"].feature.length == 35
    chosen = load_csd(root, files={"vision": "CMU_MOSI_Visual_Facet_41.csd"})
    assert chosen["test"].features["vision_features"].feature.length == 47
    with pytest.raises(DataFormatError, match="unknown part 'smell'.*no such file"):
        find_csd_files(root, files={"smell": "x.csd"})


def test_both_data_sets_in_one_folder(tmp_path):
    make_csd(tmp_path, videos=(1, 1, 1))
    make_csd(tmp_path, dataset="mosei", videos=(1, 1, 1))
    with pytest.raises(DataFormatError, match="dataset="):
        load_csd(tmp_path)
    for name in ("mosi", "mosei"):
        assert set(load_csd(tmp_path, dataset=name)["test"]["video"]) == {standard_folds(name)["test"][0]}


def test_what_is_not_there_is_named(tmp_path, mosi):
    with pytest.raises(DataFormatError, match="no such folder"):
        load_csd(tmp_path / "none")
    with pytest.raises(DataFormatError, match="no file of sentiment labels.*no file of words to align to"):
        load_csd(tmp_path)
    with pytest.raises(DataFormatError, match="no file of emotion labels"):
        load_csd(mosi, labels="emotion")
    root = make_csd(tmp_path, videos=(1, 1, 1))
    (root / "CMU_MOSI_COVAREP.csd").unlink()
    with pytest.raises(DataFormatError, match="no file for audio"):
        load_csd(root, modalities=("audio",))
    with pytest.raises(DataFormatError, match="choose from text, vision, audio"):
        load_csd(root, modalities=("smell",))
    for option in ("dataset", "text", "labels", "align", "missing"):
        with pytest.raises(DataFormatError, match=f"{option}='x'"):
            load_csd(root, **{option: "x"})


def test_other_folds(mosi):
    data = load_csd(mosi, folds={"train": [FIRST], "test": [BLIND, "unseen"]})
    assert {name: set(split["video"]) for name, split in data.items()} == {"train": {FIRST}, "test": {BLIND}}
    with pytest.raises(DataFormatError, match=r"none of the 8 labelled videos .* is in a fold"):
        load_csd(mosi, folds={"train": ["unseen"]})
    with pytest.raises(DataFormatError, match="is in a fold"):
        load_csd(mosi, folds={"test": []})


def test_a_folder_aligned_before(tmp_path, mosi):
    # What the SDK deploys after its own alignment: every file with one entry a segment, `video[3]`.
    rows = rows_by_id(load_csd(mosi, missing="drop"))
    times = {name: np.float64(row["word_intervals"]) for name, row in rows.items()}
    write_csd(
        tmp_path / "labels.csd",
        "Opinion Segment Labels",
        {n: (np.float32([[r["label"]]]), [[r["start"], r["end"]]]) for n, r in rows.items()},
    )
    write_csd(
        tmp_path / "words.csd", "words", {n: (np.array(r["words"], "S")[:, None], times[n]) for n, r in rows.items()}
    )
    write_csd(
        tmp_path / "audio.csd", "COVAREP", {n: (np.float32(r["audio_features"]), times[n]) for n, r in rows.items()}
    )
    again = rows_by_id(load_csd(tmp_path))
    assert again.keys() == rows.keys()
    for name, row in again.items():
        assert row["words"] == rows[name]["words"] and row["label"] == rows[name]["label"]
        np.testing.assert_allclose(row["audio_features"], rows[name]["audio_features"], rtol=1e-6)


# -- damaged files -----------------------------------------------------------------------------------------------------


def replace(path: Path, name: str, data: Any) -> None:
    with h5py.File(path, "r+") as file:
        del file[name]
        if data is not None:
            file[name] = data


DAMAGE = {
    r"rows of features for 12 intervals": ("features", np.zeros((9, 74)), np.zeros((12, 2))),
    r"43 features where most entries have 74": ("features", np.zeros((9, 43)), np.zeros((9, 2))),
    r"intervals are float64 \(9,\)": ("features", np.zeros((9, 74)), np.zeros(9)),
    r"features are float64 \(9,\); wanted numbers": ("features", np.zeros(9), np.zeros((9, 2))),
    r"features are \|S1 .* wanted numbers": ("features", np.full((9, 74), b"x"), np.zeros((9, 2))),
    r"has no features": ("features", None, np.zeros((9, 2))),
}


@pytest.mark.parametrize("message", DAMAGE)
def test_damaged_entries_are_named_or_taken_for_missing(tmp_path, caplog, message):
    root = make_csd(tmp_path, videos=(1, 1, 2))
    video = FOLDS["test"][0]
    _, features, intervals = DAMAGE[message]
    for part, data in (("features", features), ("intervals", intervals)):
        replace(root / "CMU_MOSI_COVAREP.csd", f"COVAREP/data/{video}/{part}", data)
    with pytest.raises(DataFormatError, match=f"{video}.*{message}.*skip_damaged"):
        load_csd(root)
    with caplog.at_level(logging.WARNING, "clcr_hf.data"):
        data = rows_by_id(load_csd(root, skip_damaged=True))
    assert "damaged entries, taken for missing: 1" in caplog.text
    assert data[f"{video}[0]"]["audio_features"] is None and data[f"{FIRST}[0]"]["audio_features"] is not None


LABEL_FAULTS = {
    r"1 labels lie outside \(-3.0, 3.0\), e.g. 3.5": [[3.5], [0]],
    r"1 labels are not finite": [[np.nan], [0]],
    r"labels are float32 \(2, 2\); sentiment wants 1 or 7 numbers a segment": [[0, 0], [0, 0]],
    r"3 labels, but intervals \(2, 2\)": [[0], [0], [0]],
}


@pytest.mark.parametrize("message", LABEL_FAULTS)
def test_label_faults(tmp_path, message):
    root = make_csd(tmp_path, videos=(1, 1, 1), segments=2)
    video = FOLDS["test"][0]
    name = f"Opinion Segment Labels/data/{video}/features"
    replace(root / "CMU_MOSI_Opinion_Labels.csd", name, np.array(LABEL_FAULTS[message], np.float32))
    with pytest.raises(DataFormatError, match=f"{video}: {message}"):
        load_csd(root)
    if "outside" in message:
        assert load_csd(root, label_range=None)["test"]["label"][0] == 3.5


def test_reversed_and_unknown_times_are_left_out(tmp_path, caplog):
    root = make_csd(tmp_path, videos=(1, 1, 1))
    video = FOLDS["test"][0]
    with h5py.File(root / "CMU_MOSI_COVAREP.csd", "r+") as file:
        file[f"COVAREP/data/{video}/intervals"][:3] = [[2, 1], [np.nan, 1], [1, 1]]
    with h5py.File(root / "CMU_MOSI_ModifiedTimestampedWords.csd", "r+") as file:
        file[f"CMU_MOSI_ModifiedTimestampedWords/data/{video}/intervals"][1] = [1, 0.75]
    with caplog.at_level(logging.WARNING, "clcr_hf.data"):
        data = rows_by_id(load_csd(root))
    assert f"frames of audio without length, left out: 3 ({video})" in caplog.text
    assert f"words without length, left out: 1 ({video})" in caplog.text
    assert len(data[f"{video}[0]"]["words"]) == 5


@pytest.mark.parametrize("shape", [(0,), (0, 74)])
def test_an_empty_entry_is_as_if_absent(tmp_path, shape):
    root = make_csd(tmp_path, videos=(1, 1, 2))
    video = FOLDS["test"][0]
    replace(root / "CMU_MOSI_COVAREP.csd", f"COVAREP/data/{video}/features", np.zeros(shape))
    replace(root / "CMU_MOSI_COVAREP.csd", f"COVAREP/data/{video}/intervals", np.zeros((0, 2)))
    replace(root / "CMU_MOSI_Opinion_Labels.csd", f"Opinion Segment Labels/data/{FIRST}/features", np.zeros(0))
    replace(root / "CMU_MOSI_Opinion_Labels.csd", f"Opinion Segment Labels/data/{FIRST}/intervals", np.zeros(0))
    data = load_csd(root)
    assert list(data) == ["validation", "test"]
    absent = [row["video"] for row in data["test"] if row["audio_features"] is None]
    assert absent == [video] * 3


def test_a_segment_that_comes_twice(tmp_path):
    root = make_csd(tmp_path, videos=(1, 1, 1))
    with h5py.File(root / "CMU_MOSI_Opinion_Labels.csd", "r+") as file:
        group = file.create_group(f"Opinion Segment Labels/data/{FIRST}[1]")
        group["features"], group["intervals"] = np.zeros((1, 1)), np.array([[0.0, 1.0]])
    with pytest.raises(DataFormatError, match=rf"1 segments come twice: {FIRST}\[1\]"):
        load_csd(root)


def test_links_out_of_the_file_are_refused(tmp_path):
    root = make_csd(tmp_path, videos=(1, 1, 1))
    secret = tmp_path / "secret.h5"
    with h5py.File(secret, "w") as file:
        file["x"] = np.zeros((9, 74))
    replace(root / "CMU_MOSI_COVAREP.csd", f"COVAREP/data/{FIRST}/features", h5py.ExternalLink(secret, "x"))
    for skip in (False, True):
        with pytest.raises(UnsafeFileError):
            load_csd(root, skip_damaged=skip)


def test_a_size_beyond_the_limit_is_refused(mosi):
    with pytest.raises(UnsafeFileError, match="more than"):
        load_csd(mosi, max_bytes=10_000)


# -- the generated MMSA pickles ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("dataset", ["mosi", "mosei"])
@pytest.mark.parametrize("unaligned", [False, True])
def test_generated_mmsa_pickles_load(tmp_path, dataset, unaligned):
    data = load_mmsa(make_mmsa(tmp_path, dataset=dataset, unaligned=unaligned))
    assert [len(split) for split in data.values()] == [8, 4, 4]
    audio, vision = (5, 20) if dataset == "mosi" else (74, 35)
    row = data["train"][0]
    assert np.shape(row["audio_features"])[1] == audio and np.shape(row["vision_features"])[1] == vision
    assert len(row["input_ids"]) == 50 and row["input_ids"][0] == 101 and data["train"][7]["id"].endswith("_xls")


# -- the real files ----------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def real_mosi(real_data: Path) -> Path:
    folder = real_data / "csd"
    if not (folder / "CMU_MOSI_Opinion_Labels.csd").is_file():
        pytest.skip(f"REAL DATA ABSENT: {folder}/CMU_MOSI_Opinion_Labels.csd")
    return folder


def test_real_mosi(real_mosi, real_data, caplog):
    rows = iter_csd(real_mosi)
    with read_csd(real_mosi / "CMU_MOSI_Opinion_Labels.csd") as labels:
        assert len(labels) == 93 and sum(len(labels[name].features) for name in labels) == 2199
        counts = {
            split: sum(len(labels[video].features) for video in videos)
            for split, videos in standard_folds("mosi").items()
        }
    assert counts == {"train": 1284, "validation": 229, "test": 686}
    with caplog.at_level(logging.WARNING, "clcr_hf.data"):
        data = load_csd(real_mosi)
    # One segment of the published file has no length; which is why the SDK's users count 1283.
    assert "segments without length, left out: 1 (2WGyTLYerpo[43])" in caplog.text and rows.num_segments == 2198
    assert {name: len(split) for name, split in data.items()} == {"train": 1283, "validation": 229, "test": 686}
    loaded = rows_by_id(data)
    with open(real_data / "mosi-utterances" / "transcripts.csv", newline="") as file:
        manual = {f"{row['video_id']}[{int(row['utterance']) - 1}]": row for row in csv.DictReader(file)}
    assert len(manual) == 2199 and manual.keys() - loaded.keys() == {"2WGyTLYerpo[43]"}
    found = wanted = 0
    for name, row in loaded.items():
        assert row["label"] == pytest.approx(float(manual[name]["score"]), abs=1e-4)
        assert row["start"] == pytest.approx(float(manual[name]["start"]), abs=2e-3)
        words = manual[name]["text"].split()
        matcher = difflib.SequenceMatcher(None, row["words"], words, autojunk=False)
        found += sum(block.size for block in matcher.get_matching_blocks())
        wanted += len(words)
    assert found / wanted > 0.9


def test_real_folds_agree_with_the_other_copies(real_data):
    table = np.load(real_data / "mosi-utterances" / "features.npz")
    assert read_folds(standard_folds("mosi")) == read_folds(
        {split: table["video_id"][table["split_sdk"] == split].tolist() for split in ("train", "valid", "test")}
    )
    sentences = read_folds(real_data / "mosei-text" / "label.csv")
    ours = read_folds(standard_folds("mosei"))
    assert sentences.items() <= ours.items() and len(ours.keys() - sentences.keys()) == 10


def test_files_in_a_linked_folder_are_found_and_a_circle_of_links_ends(mosi, tmp_path):
    folder = tmp_path / "Bär und Bör"
    folder.mkdir()
    (folder / "streams").symlink_to(mosi)
    (folder / "up").symlink_to(folder)
    assert find_csd_files(folder).keys() == find_csd_files(mosi).keys()
    found, expected = load_csd(folder), load_csd(mosi)
    assert {name: rows["id"][:] for name, rows in found.items()} == {n: rows["id"][:] for n, rows in expected.items()}
