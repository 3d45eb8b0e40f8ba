"""Kinetics-Sounds from its three kinds of folder, and what goes wrong with lists of YouTube clips."""

import csv
import logging
import shutil
from pathlib import Path

import pytest
from datasets import ClassLabel, Video
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from layouts.kinetics_sounds import clip_name, make_kinetics_sounds

from clcr_hf.data import DataFormatError, load_kinetics_sounds
from clcr_hf.data.benchmarks.kinetics_sounds import KINETICS_SOUNDS_CLASSES
from clcr_hf.media import load_media


@pytest.fixture
def root(tmp_path) -> Path:
    """The layout with files that are not media: the loader does not decode."""
    folder = tmp_path / "ks"
    for split, numbers in (("train", range(9)), ("test", range(9, 12))):
        (folder / split).mkdir(parents=True)
        lines = [f"{clip_name(i)},10,{i % 3}\n" for i in numbers]
        (folder / f"my_{split}.txt").write_text("".join(lines))
        for i in numbers:
            (folder / split / f"{clip_name(i)}.mp4").write_bytes(b"clip")
    return folder


def sizes(data) -> dict[str, int]:
    return {name: len(part) for name, part in data.items()}


def labels(data) -> dict[str, int]:
    return {row["id"]: row["label"] for part in data.values() for row in part}


def test_the_generated_layout(tmp_path, caplog):
    folder = make_kinetics_sounds(tmp_path, clips=12)
    with caplog.at_level(logging.WARNING, "clcr_hf.data"):
        data = load_kinetics_sounds(folder)
    assert "3 classes; the usual lists have 31" in caplog.text
    assert len(data["test"]) == 3 and sum(sizes(data).values()) == 12
    clip = load_media(data["train"][0]["media"]["path"], num_frames=2, sampling_rate=16_000)
    assert clip.video is not None and clip.video.frames.shape == (2, 32, 32, 3) and clip.audio is not None


def test_columns_ids_and_validation(root):
    data = load_kinetics_sounds(root, validation_fraction=0.3)
    assert data["train"].features["media"] == Video(decode=False)
    assert data["train"].features["label"] == ClassLabel(names=["0", "1", "2"])
    assert data["train"].column_names == ["id", "media", "label", "youtube_id"]
    assert labels(data) == {clip_name(i): i % 3 for i in range(12)}
    for part in data.values():
        for row in part:
            assert row["youtube_id"] == row["id"][:11] and Path(row["media"]["path"]).stem == row["id"]
    assert not set(data["train"]["youtube_id"]) & set(data["validation"]["youtube_id"])
    assert sizes(load_kinetics_sounds(root, validation_fraction=0)) == {"train": 9, "test": 3}


def test_ids_hold_dashes_and_underscores(root):
    found = {row["youtube_id"] for part in load_kinetics_sounds(root).values() for row in part}
    assert {"-0000000000", "_0000000001", "0_000000003"} <= found


def test_a_list_that_gives_starts_alone(root):
    """The lists of the OGM-GE code: `<id>_<start>` without zeros."""
    for split in ("train", "test"):
        lines = (root / f"my_{split}.txt").read_text().splitlines()
        short = [f"{line[:11]}_{int(line[12:18])},10,{line.split(',')[2]}\r\n" for line in lines]
        (root / f"my_{split}.txt").write_text("".join(short), newline="")
    assert labels(load_kinetics_sounds(root)) == {clip_name(i): i % 3 for i in range(12)}


@pytest.mark.parametrize("line", ["{name} 2", "{name},2", "{name}.mp4,10,2", " {name} , 10 , 2 ", "train/{name}.mp4 2"])
def test_forms_of_a_line(root, line):
    (root / "my_train.txt").write_text("".join(line.format(name=clip_name(i)) + "\n" for i in range(9)))
    data = load_kinetics_sounds(root, label_names=["a", "b", "c"])
    assert {labels(data)[clip_name(i)] for i in range(9)} == {2}


def test_class_names(root, caplog):
    names = load_kinetics_sounds(root, label_names=["x", "y", "z", "w"])["train"].features["label"].names
    assert names == ["x", "y", "z", "w"]
    (root / "class.txt").write_text("Blowing_Nose, playing_drums ,tickling")
    assert load_kinetics_sounds(root)["train"].features["label"].names == ["blowing nose", "playing drums", "tickling"]
    (root / "class.txt").write_text("a\nb\n")
    with pytest.raises(DataFormatError, match=r"class number 2, but 2 class names"):
        load_kinetics_sounds(root)
    lines = (root / "my_train.txt").read_text() + (root / "my_test.txt").read_text()
    from_one = "".join(f"{line[:-1]}{int(line[-1]) + 1}\n" for line in lines.splitlines())
    (root / "one.txt").write_text(from_one)
    with caplog.at_level(logging.WARNING, "clcr_hf.data"):
        load_kinetics_sounds(root, train_list=root / "one.txt", class_list=None, label_names=list("abcd"))
    assert "counted from 1?" in caplog.text and "1 classes have no clips: a" in caplog.text


def kinetics_csv(path: Path, numbers, names=("bowling", "tickling", "archery"), header=True, label=True) -> None:
    columns = ["label", "youtube_id", "time_start", "time_end", "split"][0 if label else 1 :]
    with open(path, "w", newline="") as file:
        writer = csv.writer(file)
        if header:
            writer.writerow(columns)
        for i in numbers:
            name, start, end = clip_name(i)[:11], int(clip_name(i)[12:18]), int(clip_name(i)[19:])
            writer.writerow([names[i % 3], name, start, end, "train"][0 if label else 1 :])


def test_kinetics_own_lists(root):
    for name in ("my_train.txt", "my_test.txt"):
        (root / name).unlink()
    kinetics_csv(root / "train.csv", range(9))
    kinetics_csv(root / "val.csv", range(9, 12))
    kinetics_csv(root / "test.csv", range(12, 15), label=False)
    data = load_kinetics_sounds(root)
    names = data["train"].features["label"].names
    assert names == list(KINETICS_SOUNDS_CLASSES) and len(names) == 31
    found = {name: names[label] for name, label in labels(data).items()}
    assert found == {clip_name(i): ("bowling", "tickling")[i % 3] for i in range(12) if i % 3 < 2}
    assert set(data["test"]["id"]) == {clip_name(9), clip_name(10)}
    chosen = load_kinetics_sounds(root, label_names=["archery", "bowling"])
    assert set(labels(chosen).values()) == {0, 1} and len(labels(chosen)) == 8
    with pytest.raises(DataFormatError, match="no clip is of a class"):
        load_kinetics_sounds(root, label_names=["yodelling"])


def test_folders_of_classes(root):
    for name in ("my_train.txt", "my_test.txt"):
        (root / name).unlink()
    for split, target in (("train", "train"), ("test", "val")):
        for i, path in enumerate(sorted((root / split).glob("*.mp4"))):
            folder = root / "by_class" / target / ("playing_drums", "tap dancing", "archery")[i % 3]
            folder.mkdir(parents=True, exist_ok=True)
            shutil.move(path, folder)
    data = load_kinetics_sounds(root / "by_class")
    assert len(data["test"]) == 2 and sum(map(len, data.values())) == 8
    names = data["train"].features["label"].names
    assert {names[label] for label in labels(data).values()} == {"playing drums", "tap dancing"}


def test_clips_are_found_in_class_folders_and_by_split(root):
    name = clip_name(0)
    (root / "train" / "bowling").mkdir()
    (root / "train" / f"{name}.mp4").rename(root / "train" / "bowling" / f"{name}.mp4")
    (root / "test" / f"{name}.mp4").write_bytes(b"another of that name")
    (root / "train" / f"._{clip_name(1)}.mp4").write_bytes(b"macOS")
    data = load_kinetics_sounds(root, validation_fraction=0)
    row = next(row for row in data["train"] if row["id"] == name)
    assert row["media"]["path"] == str(root / "train" / "bowling" / f"{name}.mp4")


def test_absent_and_empty_clips(root, caplog):
    (root / "train" / f"{clip_name(0)}.mp4").unlink()
    (root / "train" / f"{clip_name(3)}.mp4").write_bytes(b"")
    with pytest.raises(DataFormatError, match="2 of 12 files are missing") as caught:
        load_kinetics_sounds(root)
    assert clip_name(0) in str(caught.value) and "(empty)" in str(caught.value)
    with caplog.at_level(logging.WARNING, "clcr_hf.data"):
        data = load_kinetics_sounds(root, skip_missing=True)
    assert sum(sizes(data).values()) == 10 and "2 of 12" in caplog.text
    shutil.rmtree(root / "train")
    shutil.rmtree(root / "test")
    with pytest.raises(DataFormatError, match="12 of 12"):
        load_kinetics_sounds(root, skip_missing=True)


def test_lists_that_are_wrong(root, caplog):
    train = (root / "my_train.txt").read_text()
    for line, message in [
        ("only a name\n", "line 10"),
        (f"{clip_name(20)},10,bowling\n", "line 10"),
        (f"{clip_name(20)},10,-1\n", "line 10"),
        (f"{clip_name(0)},10,2\n", f"line 10: {clip_name(0)} is 2 here and 0 above"),
        (f"{clip_name(9)},10,0\n", "1 clips are in two splits"),
    ]:
        (root / "my_train.txt").write_text(train + line)
        with pytest.raises(DataFormatError, match=message):
            load_kinetics_sounds(root)
    (root / "my_train.txt").write_text(train + train.splitlines()[0] + "\n")
    with caplog.at_level(logging.WARNING, "clcr_hf.data"):
        assert sum(sizes(load_kinetics_sounds(root)).values()) == 12
    assert "1 clips are listed twice" in caplog.text
    same_video = f"{clip_name(9)[:11]}_000500_000510"
    (root / "train" / f"{same_video}.mp4").write_bytes(b"clip")
    (root / "my_train.txt").write_text(train + f"{same_video},10,0\n")
    with caplog.at_level(logging.WARNING, "clcr_hf.data"):
        load_kinetics_sounds(root)
    assert "cut from videos of another split" in caplog.text
    for name in ("my_train.txt", "my_test.txt"):
        (root / name).unlink()
    with pytest.raises(DataFormatError, match="no list of training clips"):
        load_kinetics_sounds(root)
    with pytest.raises(DataFormatError, match="no such folder"):
        load_kinetics_sounds(root / "nowhere")


video_ids = st.text(st.sampled_from("abcXYZ0123456789-_"), min_size=11, max_size=11)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(st.tuples(video_ids, st.integers(0, 900_000)), min_size=2, max_size=8, unique=True), st.booleans())
def test_any_id_comes_back(tmp_path, clips, short):
    shutil.rmtree(tmp_path / "ks", ignore_errors=True)
    (tmp_path / "ks").mkdir()
    lines = []
    for i, (name, start) in enumerate(clips):
        (tmp_path / "ks" / f"{name}_{start:06d}_{start + 10:06d}.mp4").write_bytes(b"clip")
        lines.append(f"{name}_{start},10,{i % 2}\n" if short else f"{name}_{start:06d}_{start + 10:06d},10,{i % 2}\n")
    (tmp_path / "ks" / "my_train.txt").write_text("".join(lines))
    data = load_kinetics_sounds(tmp_path / "ks", validation_fraction=0)
    assert data["train"]["youtube_id"][:] == [name for name, _ in clips]
    assert data["train"]["label"][:] == [i % 2 for i in range(len(clips))]


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.binary(max_size=60))
def test_noise_as_a_list_gives_one_error(tmp_path, noise):
    (tmp_path / "my_train.txt").write_bytes(noise)
    with pytest.raises(DataFormatError):
        load_kinetics_sounds(tmp_path)


def test_clips_in_a_linked_folder_are_found(tmp_path):
    store = make_kinetics_sounds(tmp_path / "store", clips=12)
    folder = tmp_path / "KS"
    folder.mkdir()
    for name in ("my_train.txt", "my_test.txt"):
        (folder / name).write_bytes((store / name).read_bytes())
    for name in ("train", "test"):
        (folder / name).symlink_to(store / name)
    (folder / "train" / "up").symlink_to(folder)
    found, expected = load_kinetics_sounds(folder), load_kinetics_sounds(store)
    assert {name: rows["id"][:] for name, rows in found.items()} == {n: rows["id"][:] for n, rows in expected.items()}
