"""CREMA-D from its folders and lists: columns, splits, and the faults of real copies."""

import logging
from pathlib import Path

import pytest
from datasets import Audio, ClassLabel, Image, List, Video
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from layouts.cremad import EMOTIONS, clip_names, make_cremad, write_wav

from clcr_hf.data import DataFormatError, load_cremad
from clcr_hf.media import load_audio, load_video


@pytest.fixture
def root(tmp_path) -> Path:
    return make_cremad(tmp_path / "cremad", clips=24)


def ids(data) -> dict[str, list[str]]:
    return {name: part["id"][:] for name, part in data.items()}


def add_line(path: Path, line: str) -> None:
    path.write_text(path.read_text() + line, newline="")


def test_columns_and_lists(root):
    data = load_cremad(root)
    test = [line.split(",")[0] for line in (root / "test.csv").read_text().splitlines()]
    assert ids(data)["test"] == test
    assert sum(map(len, data.values())) == 24 and list(data) == ["train", "validation", "test"]
    assert not set(data["train"]["actor"]) & set(data["validation"]["actor"])
    features = data["train"].features
    assert features["label"] == ClassLabel(names=["NEU", "HAP", "SAD", "FEA", "DIS", "ANG"])
    assert features["audio"] == Audio(decode=False) and features["images"] == List(Image(decode=False))
    for row in data["train"]:
        actor, sentence, emotion, level = row["id"].split("_")
        assert (row["actor"], row["sentence"], row["level"]) == (actor, sentence, level)
        assert row["label"] == EMOTIONS.index(emotion)
        assert row["audio"]["path"] == str(root / "AudioWAV" / f"{row['id']}.wav")
        assert [Path(image["path"]).name for image in row["images"]] == ["00000.jpg", "00001.jpg"]


def test_paths_are_absolute(root, monkeypatch):
    monkeypatch.chdir(root.parent)
    row = load_cremad("cremad")["train"][0]
    assert Path(row["audio"]["path"]).is_absolute() and Path(row["images"][0]["path"]).is_absolute()
    assert load_cremad("cremad")["train"][:] == load_cremad(root)["train"][:]


def test_the_layout_is_real_media(root):
    row = load_cremad(root, frames="video")["train"][0]
    assert row["video"]["path"].endswith(".flv")
    assert load_video(row["video"]["path"]).frames.shape == (12, 32, 32, 3)
    assert abs(load_audio(row["audio"]["path"], sampling_rate=16_000)).max() > 0.2


def test_videos_where_there_are_no_frames(tmp_path):
    data = load_cremad(make_cremad(tmp_path, clips=12, images=False))
    assert data["train"].features["video"] == Video(decode=False) and "images" not in data["train"].features
    with pytest.raises(DataFormatError, match="no folder Image-01-FPS"):
        load_cremad(tmp_path, frames="images")
    with pytest.raises(DataFormatError, match="frames='gif'"):
        load_cremad(tmp_path, frames="gif")


def test_named_lists_and_a_validation_list(root):
    lines = (root / "train.csv").read_text().splitlines(keepends=True)
    (root / "a.txt").write_text("".join(lines[:10]))
    (root / "b.txt").write_text("".join(lines[10:15]))
    data = load_cremad(root, train_list=root / "a.txt", validation_list=root / "b.txt", test_list=root / "test.csv")
    assert {name: len(part) for name, part in data.items()} == {"train": 10, "validation": 5, "test": 4}
    assert list(load_cremad(root, validation_fraction=0)) == ["train", "test"]


def test_actors_apart(root, caplog):
    data = load_cremad(root, split="actors", test_fraction=0.25, validation_fraction=0.25, seed=3)
    actors = {name: set(part["actor"]) for name, part in data.items()}
    assert set(actors) == {"train", "validation", "test"} and sum(map(len, actors.values())) == 4
    assert ids(data) == ids(load_cremad(root, split="actors", test_fraction=0.25, validation_fraction=0.25, seed=3))
    seen = {
        tuple(load_cremad(root, split="actors", test_fraction=0.25, seed=seed)["test"]["actor"]) for seed in range(6)
    }
    assert len(seen) > 1
    for name in ("train.csv", "test.csv"):
        (root / name).unlink()
    with caplog.at_level(logging.WARNING, "clcr_hf.data"):
        alone = load_cremad(root, test_fraction=0.25, validation_fraction=0.25, seed=3)
    assert "not the split that papers report" in caplog.text and sum(map(len, alone.values())) == 24
    with pytest.raises(DataFormatError, match="no train.csv"):
        load_cremad(root, split="lists")


def test_crlf_spaces_header_and_byte_order_mark(root):
    plain = ids(load_cremad(root))
    for name in ("train.csv", "test.csv"):
        lines = (root / name).read_text().splitlines()
        text = "\ufefffile,emotion\r\n" + "".join(f"{line.replace(',', ' , ')}  \r\n\r\n" for line in lines)
        (root / name).write_text(text, encoding="utf-8", newline="")
    assert ids(load_cremad(root)) == plain


def test_lists_that_are_wrong(root):
    train = (root / "train.csv").read_text()
    for line, message in [
        ("1001_DFA_ANG\n", "line 21: '1001_DFA_ANG' is not of the form"),
        ("1001_DFA_ANG_XX,JOY\n", "line 21: 'JOY' is none of NEU HAP"),
        ("1001_DFA_ANG_XX\n", "line 21"),
        (train.splitlines()[0].split(",")[0] + ",ANG\n", "line 21: .* is ANG here"),
    ]:
        (root / "train.csv").write_text(train + line)
        with pytest.raises(DataFormatError, match=message):
            load_cremad(root)
    (root / "train.csv").write_text(train + (root / "test.csv").read_text().splitlines()[0])
    with pytest.raises(DataFormatError, match="1 clips are in two lists"):
        load_cremad(root)
    (root / "train.csv").write_text("clip,emotion\n")
    with pytest.raises(DataFormatError, match="no clips"):
        load_cremad(root)
    (root / "train.csv").unlink()
    with pytest.raises(DataFormatError, match="none of train"):
        load_cremad(root)
    with pytest.raises(DataFormatError, match="no such list"):
        load_cremad(root, train_list=root / "absent.csv")


def test_a_line_twice_counts_once(root, caplog):
    add_line(root / "train.csv", (root / "train.csv").read_text().splitlines()[0] + "\n")
    with caplog.at_level(logging.WARNING, "clcr_hf.data"):
        data = load_cremad(root)
    assert sum(map(len, data.values())) == 24 and "1 clips are listed twice" in caplog.text


def test_the_list_beats_the_name(root, caplog):
    lines = (root / "test.csv").read_text().splitlines()
    name = lines[0].split(",")[0]
    (root / "test.csv").write_text("\n".join([f"{name},ANG", *lines[1:]]))
    with caplog.at_level(logging.WARNING, "clcr_hf.data"):
        data = load_cremad(root)
    assert data["test"][0]["label"] == 5 and f"{name} as ANG" in caplog.text


def test_absent_and_empty_files(root, caplog):
    names = sorted(clip_names(24))
    (root / "AudioWAV" / f"{names[0]}.wav").unlink()
    (root / "AudioWAV" / f"{names[1]}.wav").write_bytes(b"")
    (root / "AudioWAV" / f"{names[2]}.wav").write_text("version https://git-lfs.github.com/spec/v1\noid sha256:0\n")
    for image in (root / "Image-01-FPS" / names[3]).iterdir():
        image.write_bytes(b"")
    with pytest.raises(DataFormatError, match="4 of 24 files are missing") as caught:
        load_cremad(root)
    message = str(caught.value)
    assert "(empty)" in message and "(a Git LFS pointer)" in message and "(no frames)" in message
    with caplog.at_level(logging.WARNING, "clcr_hf.data"):
        data = load_cremad(root, skip_missing=True)
    assert sum(map(len, data.values())) == 20 and "4 of 24" in caplog.text
    assert not set(names[:4]) & set(sum(ids(data).values(), []))
    add_line(root / "test.csv", "1077_TSI_HAP_XX,HAP\n")
    with pytest.raises(DataFormatError, match=r"5 of 25 .*1077_TSI_HAP_XX\.wav"):
        load_cremad(root)


def test_a_header_without_samples_is_no_sound(root, caplog):
    name = load_cremad(root)["test"]["id"][1]
    write_wav(root / "AudioWAV" / f"{name}.wav", [])
    with caplog.at_level(logging.WARNING, "clcr_hf.data"):
        data = load_cremad(root)
    assert data["test"][1]["audio"] is None and data["test"][1]["images"]
    assert f"1 audio files hold a header and no samples; their audio is None: {name}" in caplog.text


def test_known_faults_are_named(root, caplog):
    old = load_cremad(root)["test"]["id"][0]
    new = "1076_MTI_SAD_XX"
    (root / "AudioWAV" / f"{old}.wav").rename(root / "AudioWAV" / f"{new}.wav")
    (root / "Image-01-FPS" / old).rename(root / "Image-01-FPS" / new)
    (root / "test.csv").write_text((root / "test.csv").read_text().replace(f"{old},{old[9:12]}", f"{new},SAD"))
    with caplog.at_level(logging.WARNING, "clcr_hf.data"):
        assert new in load_cremad(root)["test"]["id"][:]
    assert "1076_MTI_SAD_XX (no audio)" in caplog.text


def test_a_level_x_on_disk_is_xx(root):
    name = next(name for name in clip_names(24) if name.endswith("XX"))
    (root / "AudioWAV" / f"{name}.wav").rename(root / "AudioWAV" / f"{name[:-1]}.wav")
    data = load_cremad(root)
    row = next(row for part in data.values() for row in part if row["id"] == name)
    assert row["audio"]["path"].endswith("_X.wav") and row["level"] == "XX"


def test_frames_are_in_the_order_of_their_numbers(root):
    name = load_cremad(root)["test"]["id"][0]
    folder = root / "Image-01-FPS" / name
    content = (folder / "00000.jpg").read_bytes()
    for image in folder.iterdir():
        image.unlink()
    for file in ("frame_10.jpg", "frame_2.jpg", "frame_1.jpg", "._frame_1.jpg", "notes.txt"):
        (folder / file).write_bytes(content)
    images = load_cremad(root)["test"][0]["images"]
    assert [Path(image["path"]).name for image in images] == ["frame_1.jpg", "frame_2.jpg", "frame_10.jpg"]


def test_strange_names_without_lists_are_passed_over(root, caplog):
    for name in ("train.csv", "test.csv"):
        (root / name).unlink()
    write_wav(root / "AudioWAV" / "notes.wav", [0.0] * 400)
    write_wav(root / "AudioWAV" / "1001_DFA_JOY_XX.wav", [0.0] * 400)
    with caplog.at_level(logging.WARNING, "clcr_hf.data"):
        assert sum(map(len, load_cremad(root).values())) == 24
    assert "2 names are not those of CREMA-D" in caplog.text
    with pytest.raises(DataFormatError, match="no folder AudioWAV"):
        load_cremad(root / "AudioWAV")


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.binary(max_size=60))
def test_noise_as_a_list_gives_one_error(tmp_path, noise):
    if not (tmp_path / "AudioWAV").is_dir():
        make_cremad(tmp_path, clips=6, lists=False)
    (tmp_path / "train.csv").write_bytes(noise)
    with pytest.raises(DataFormatError):
        load_cremad(tmp_path)
