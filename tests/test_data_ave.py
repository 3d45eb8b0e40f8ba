"""AVE from videos and from the ready features: the two tasks, the lists' quirks, faults of the h5 files."""

import logging
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from layouts.ave import make_ave, make_ave_h5

from clcr_hf.data import load_ave, load_ave_h5
from clcr_hf.data.benchmarks.ave import (
    AVE_EVENTS,
    AVE_SEGMENT_CLASSES,
    BACKGROUND,
    iter_ave_h5,
    read_annotations,
    segment_labels,
)
from clcr_hf.data.columns import DataFormatError
from clcr_hf.media import load_media

h5py = pytest.importorskip("h5py")


@pytest.fixture(scope="module")
def made(tmp_path_factory) -> Path:
    return make_ave(tmp_path_factory.mktemp("ave"), quirks=True)


def lists(root: Path, train: str = "", val: str = "", test: str = "", clips: tuple[str, ...] = ()) -> Path:
    """A folder with these lists and clips that are only there, for faults that no decoder needs to see."""
    (root / "AVE").mkdir(exist_ok=True)
    for name, text in (("train", train), ("val", val), ("test", test)):
        (root / f"{name}Set.txt").write_text(text)
    for clip in clips:
        (root / "AVE" / f"{clip}.mp4").write_bytes(b"x")
    return root


# --- videos ----------------------------------------------------------------------------------------------------------


def test_segments(made):
    splits = load_ave(made)
    assert {name: len(rows) for name, rows in splits.items()} == {"train": 7, "validation": 3, "test": 3}
    rows = {row["id"]: row for part in splits.values() for row in part}
    assert len(rows) == 13
    # 12 clips: the first has a second event, and every row has only its own.
    whole, second = rows["-000_aB-cDx"], rows["-000_aB-cDx#2"]
    assert whole["labels"] == [0] * 10
    assert second["labels"] == [BACKGROUND] * 6 + [AVE_EVENTS.index("Frying (food)")] * 2 + [BACKGROUND] * 2
    assert whole["media"] == second["media"]
    names = splits["train"].features["labels"].feature.names
    assert len(names) == 29 and names[28] == "Background" and tuple(names) == AVE_SEGMENT_CLASSES
    assert "label" not in splits["train"].column_names


def test_an_event_without_length_is_background_and_its_clip_has_no_sound(made):
    row = next(row for row in load_ave(made)["train"] if row["event_start"] == row["event_end"])
    assert row["labels"] == [BACKGROUND] * 10
    clip = load_media(row["media"]["path"], num_frames=2)
    assert clip.audio is None and clip.video is not None


def test_clip_task(made):
    splits = load_ave(made, task="clip")
    feature = splits["train"].features["label"]
    assert feature.num_classes == 28 and feature.names[1] == "Male speech, man speaking"
    assert "labels" not in splits["train"].column_names
    assert splits["train"]["label"][:3] == [0, feature.str2int("Frying (food)"), 1]
    with pytest.raises(DataFormatError, match="segment or clip"):
        load_ave(made, task="clips")


def test_pictures_and_sound_agree_with_the_labels(made):
    """The generated event is a bright picture and a loud sound: seconds labelled as an event must have them."""
    row = load_ave(made)["test"][0]
    clip = load_media(row["media"]["path"], num_frames=10, sampling_rate=16_000)
    assert clip.video is not None and clip.audio is not None
    bright = clip.video.frames.max((1, 2, 3)) > 150
    loud = np.abs(clip.audio[:160_000].reshape(10, 16_000)).max(1) > 0.2
    event = np.array(row["labels"]) != BACKGROUND
    assert event.any() and not event.all()
    assert (bright == event).all() and (loud == event).all()


def test_the_folder_above_is_taken_too(made, tmp_path):
    (tmp_path / "AVE_Dataset").symlink_to(made)
    assert len(load_ave(tmp_path)["train"]) == 7
    with pytest.raises(DataFormatError, match="trainSet.txt"):
        load_ave(tmp_path / "AVE_Dataset" / "AVE")


def test_missing_and_empty_videos_are_counted_and_named(tmp_path, caplog):
    root = lists(
        tmp_path, "Bark&abc&good&0&10\nCat&gone&good&0&3\n", "Cat&empty&good&1&2\n", "Cat&d&good&1&2\n", ("abc", "d")
    )
    (root / "AVE" / "empty.mp4").touch()
    with pytest.raises(DataFormatError, match=r"2 of 4 files are missing: gone.mp4, empty.mp4 \(empty\)"):
        load_ave(root)
    with caplog.at_level(logging.WARNING):
        splits = load_ave(root, skip_missing=True)
    assert splits["train"]["id"] == ["abc"] and "validation" not in splits
    assert "2 of 4" in caplog.text


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        ("Church Bells&abc&good&0&10", "none of AVE's 28"),
        ("Bark&abc&good&0", "4 fields"),
        ("Bark&ab&c&good&0&3", "6 fields"),
        ("Bark&abc&good&two&3", "two"),
        ("Bark&abc&good&5&3", "no stretch"),
        ("Bark&abc&good&-1&3", "no stretch"),
        ("Bark&abc&good&nan&3", "no stretch"),
        ("Bark&abc&good&0&inf", "no stretch"),
        ("Bark&abc&good&11&12", "no stretch"),
        ("Bark&../../etc/x&good&0&3", "no video id"),
        ("Bark&&good&0&3", "no video id"),
    ],
)
def test_unreadable_lines_are_numbered(tmp_path, line, reason):
    root = lists(tmp_path, f"Bark&ok&good&0&1\n\n{line}\n", clips=("ok",))
    with pytest.raises(DataFormatError, match=f"line 3: .*{reason}"):
        load_ave(root)


def test_header_byte_order_mark_spaces_and_late_ends(tmp_path, caplog):
    path = tmp_path / "Annotations.txt"
    header = "Category&VideoID&Quality&StartTime&EndTime"
    path.write_bytes(f"\ufeff{header}\r\nBark & -a_b & good & 2.5 & 12\r\n\r\nCat&c&bad&0&1".encode())
    with caplog.at_level(logging.WARNING):
        bark, cat = read_annotations(path)
    assert bark == (2, "-a_b", 2.5, 12.0) and cat.video == "c"
    assert "1 events end after" in caplog.text and "1 rows have a quality other than good" in caplog.text


def test_one_annotation_in_two_lists_is_an_error_and_one_video_a_warning(tmp_path, caplog):
    root = lists(tmp_path, "Bark&a&good&0&3\n", "Cat&a&good&0&3\n", "Cat&b&good&0&1\n", ("a", "b"))
    with caplog.at_level(logging.WARNING):
        splits = load_ave(root)
    assert splits["validation"]["id"] == ["a#2"]
    assert "1 videos are in two splits" in caplog.text
    lists(root, "Bark&a&good&0&3\n", "Cat&b&good&0&1\n", "Bark&a&good&0&3\n")
    with pytest.raises(DataFormatError, match=r"a \(Bark\) in train and test"):
        load_ave(root)


def test_a_repeated_line_is_kept_and_reported(tmp_path, caplog):
    root = lists(tmp_path, "Bark&a&good&0&3\n" * 2, "Cat&b&good&0&1\n", "Cat&c&good&0&1\n", ("a", "b", "c"))
    with caplog.at_level(logging.WARNING):
        assert load_ave(root)["train"]["id"] == ["a", "a#2"]
    assert "1 lines repeat" in caplog.text


def test_no_list(tmp_path):
    root = lists(tmp_path, "Bark&a&good&0&3\n", clips=("a",))
    (root / "valSet.txt").unlink()
    with pytest.raises(DataFormatError, match="valSet.txt: no such list"):
        load_ave(root)


@given(start=st.integers(0, 10), length=st.integers(0, 10), event=st.integers(0, 27))
def test_whole_seconds_are_labelled_as_the_data_set_says(start, length, event):
    end = min(start + length, 10)
    expected = [event if start <= i < end else BACKGROUND for i in range(10)]
    assert segment_labels(start, end, event) == expected


@given(start=st.floats(0, 10), length=st.floats(0, 20))
def test_parts_of_seconds_go_by_the_second_s_middle(start, length):
    marked = [i for i, label in enumerate(segment_labels(start, start + length, 3)) if label == 3]
    assert marked == list(range(marked[0], marked[-1] + 1)) if marked else True
    assert all(start <= i + 0.5 < start + length for i in marked)
    covered = sum(max(0.0, min(i + 1, start + length) - max(i, start)) for i in range(10))
    assert abs(len(marked) - covered) <= 1


@settings(max_examples=60, deadline=None)
@given(text=st.text(alphabet="&Barkgod019.-\n\r x", max_size=60))
def test_any_text_is_read_or_refused(tmp_path_factory, text):
    path = tmp_path_factory.mktemp("lines") / "list.txt"
    path.write_text(text, newline="")
    try:
        rows = read_annotations(path)
    except DataFormatError:
        return
    assert all(0 <= row.start <= row.end and row.video for row in rows)


# --- features --------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def features(tmp_path_factory) -> Path:
    return make_ave_h5(tmp_path_factory.mktemp("ave_h5"))


def copy_of(folder: Path, to: Path) -> Path:
    for path in folder.iterdir():
        (to / path.name).write_bytes(path.read_bytes())
    return to


def change(path: Path, key: str, edit) -> None:
    """Rewrite a dataset with what `edit` makes of it."""
    with h5py.File(path, "r+") as file:
        values = edit(file[key][:])
        del file[key]
        file[key] = values


def test_features(features):
    splits = load_ave_h5(features)
    assert {name: len(rows) for name, rows in splits.items()} == {"train": 6, "validation": 3, "test": 3}
    with h5py.File(features / "visual_feature.h5") as file:
        visual = file["avadataset"][:]
    with h5py.File(features / "audio_feature.h5") as file:
        audio = file["avadataset"][:]
    row = splits["train"].with_format("numpy")[1]
    assert row["id"] == "00001_-001_aB-cDx"
    np.testing.assert_allclose(row["vision_features"], visual[1].mean((1, 2)), rtol=1e-5)
    np.testing.assert_array_equal(row["audio_features"], audio[1])
    assert row["labels"].tolist() == [28, 28, 1, 1, 1, 1, 1, 28, 28, 28]
    assert splits["validation"]["id"][0].startswith("00006_")


def test_tokens_keep_the_cells_in_order(features):
    row = load_ave_h5(features, visual="tokens")["test"].with_format("numpy")[0]
    with h5py.File(features / "visual_feature.h5") as file:
        visual = file["avadataset"][9]
    assert row["vision_features"].shape == (490, 512)
    np.testing.assert_array_equal(row["vision_features"][49 * 3 + 7 * 2 + 5], visual[3, 2, 5])


def test_the_iterator_gives_the_same_rows(features):
    splits = load_ave_h5(features)
    rows = list(iter_ave_h5(features))
    assert [split for split, _ in rows] == ["train"] * 6 + ["validation"] * 3 + ["test"] * 3
    assert [row["id"] for _, row in rows] == [row["id"] for part in splits.values() for row in part]
    assert rows[0][1]["vision_features"].shape == (10, 512)


def test_doubles_and_compression(features, tmp_path):
    """The real visual file holds doubles; a repacked one may be compressed."""
    folder = copy_of(features, tmp_path)
    with h5py.File(folder / "visual_feature.h5", "r+") as file:
        values = file["avadataset"][:].astype(np.float64)
        del file["avadataset"]
        file.create_dataset(
            "avadataset", data=values, chunks=(1, 10, 7, 7, 512), compression="gzip", compression_opts=1
        )
    first, second = (load_ave_h5(place)["train"].with_format("numpy")[0] for place in (features, folder))
    np.testing.assert_allclose(first["vision_features"], second["vision_features"], rtol=1e-5)


def test_features_that_are_not_finite_become_zero_and_are_reported(features, tmp_path, caplog):
    folder = copy_of(features, tmp_path)

    def spoil(values: np.ndarray) -> np.ndarray:
        values[0, 2, 5], values[0, 3, 6], values[8, 0, 0] = np.nan, -np.inf, np.inf
        return values

    change(folder / "audio_feature.h5", "avadataset", spoil)
    with caplog.at_level(logging.WARNING):
        splits = load_ave_h5(folder)
    audio = splits["train"].with_format("numpy")[0]["audio_features"]
    assert audio[2, 5] == audio[3, 6] == 0 and np.isfinite(audio).all()
    assert "3 values of audio_features are NaN or infinite" in caplog.text


@pytest.mark.parametrize("name", ["visual_feature.h5", "audio_feature.h5", "labels.h5"])
def test_wrong_shapes(features, tmp_path, name):
    folder = copy_of(features, tmp_path)
    change(folder / name, "avadataset", lambda values: values[:, :9])
    with pytest.raises(DataFormatError, match=f"{name} is"):
        load_ave_h5(folder)


def test_different_numbers_of_rows(features, tmp_path):
    folder = copy_of(features, tmp_path)
    change(folder / "audio_feature.h5", "avadataset", lambda values: values[:-1])
    with pytest.raises(DataFormatError, match=r"audio_feature.h5 is \(11, 10, 128\), not \(12, 10, 128\)"):
        load_ave_h5(folder)


@pytest.mark.parametrize(
    ("split", "order", "reason"),
    [
        ("test", [9, 10, 12], "below 12"),
        ("test", [-1], "below 12"),
        ("val", [0.5], "whole"),
        ("val", [np.nan], "whole"),
        ("test", [3], "row 3 is in train and in test"),
        ("val", [6, 6], "row 6 is in validation and in validation"),
        ("val", [[6]], "row numbers"),
    ],
)
def test_faults_of_the_orders(features, tmp_path, split, order, reason):
    folder = copy_of(features, tmp_path)
    change(folder / f"{split}_order.h5", "order", lambda _: np.array(order))
    with pytest.raises(DataFormatError, match=reason):
        load_ave_h5(folder)


def test_orders_may_be_whole_floats(features, tmp_path):
    folder = copy_of(features, tmp_path)
    change(folder / "test_order.h5", "order", lambda values: values.astype(np.float64))
    assert load_ave_h5(folder)["test"]["id"] == load_ave_h5(features)["test"]["id"]


def test_seconds_with_two_classes_or_none(features, tmp_path, caplog):
    folder = copy_of(features, tmp_path)

    def spoil(values: np.ndarray) -> np.ndarray:
        values[1, 3, 20] = 1  # beside class 1
        values[2, 9] = 0
        return values

    change(folder / "labels.h5", "avadataset", spoil)
    with pytest.raises(DataFormatError, match="row 1, second 3: 2 classes; row 2, second 9: 0 classes"):
        load_ave_h5(folder)
    with caplog.at_level(logging.WARNING):
        labels = load_ave_h5(folder, settle_labels=True)["train"]["labels"]
    assert labels[1][3] == 1 and labels[2][9] == BACKGROUND
    assert "1 seconds have several classes and 1 none" in caplog.text


def test_labels_that_are_no_marks(features, tmp_path):
    folder = copy_of(features, tmp_path)
    change(folder / "labels.h5", "avadataset", lambda values: values * 0.5)
    with pytest.raises(DataFormatError, match="other than 0 and 1"):
        load_ave_h5(folder, settle_labels=True)


def test_other_label_files(features, tmp_path):
    folder = copy_of(features, tmp_path)
    (folder / "labels.h5").rename(folder / "right_labels.h5")
    assert load_ave_h5(folder)["train"]["labels"] == load_ave_h5(features)["train"]["labels"]
    (folder / "right_labels.h5").rename(folder / "mine.h5")
    with pytest.raises(DataFormatError, match="no labels.h5"):
        load_ave_h5(folder)
    assert len(load_ave_h5(folder, labels_file="mine.h5")["test"]) == 3


def test_ids_without_a_fitting_list(features, tmp_path, caplog):
    folder = copy_of(features, tmp_path)
    with open(folder / "Annotations.txt", "a") as file:
        file.write("Bark&one_more&good&0&10\n")
    with caplog.at_level(logging.WARNING):
        assert load_ave_h5(folder)["test"]["id"] == ["00009", "00010", "00011"]
    assert "13 lines for 12 rows" in caplog.text
    (folder / "Annotations.txt").unlink()
    assert load_ave_h5(folder)["test"]["id"] == ["00009", "00010", "00011"]


def test_absent_files_and_keys(features, tmp_path):
    folder = copy_of(features, tmp_path / "data" if (tmp_path / "data").mkdir() is None else tmp_path)
    assert len(load_ave_h5(tmp_path)["train"]) == 6  # the folder above `data`
    with pytest.raises(DataFormatError, match="mean or tokens"):
        load_ave_h5(folder, visual="all")
    with h5py.File(folder / "audio_feature.h5", "r+") as file:
        file.move("avadataset", "dataset")
    with pytest.raises(DataFormatError, match="no dataset 'avadataset'; it has dataset"):
        load_ave_h5(folder)
    (folder / "audio_feature.h5").unlink()
    with pytest.raises(DataFormatError, match="audio_feature.h5: no such file"):
        load_ave_h5(folder)
    (folder / "visual_feature.h5").unlink()
    with pytest.raises(DataFormatError, match="no visual_feature.h5"):
        load_ave_h5(folder)


def test_a_link_out_of_the_file_is_refused(features, tmp_path):
    folder = copy_of(features, tmp_path)
    with h5py.File(folder / "audio_feature.h5", "r+") as file:
        del file["avadataset"]
        file["avadataset"] = h5py.ExternalLink(str(features / "audio_feature.h5"), "avadataset")
    with pytest.raises(DataFormatError, match="not followed"):
        load_ave_h5(folder)


def test_an_empty_list_is_an_error(tmp_path):
    root = make_ave(tmp_path, clips=3)
    (root / "valSet.txt").write_text("Category&VideoID&Quality&StartTime&EndTime\n")
    with pytest.raises(DataFormatError, match=r"valSet\.txt: the list has no annotations"):
        load_ave(root)
