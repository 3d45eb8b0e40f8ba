"""UCF101: lists of the splits, validation by groups, the class that is written in two ways, absent files."""

import logging
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from layouts.ucf101 import make_ucf101

from clcr_hf.data import load_ucf101
from clcr_hf.data.columns import DataFormatError
from clcr_hf.data.flow import add_flow, load_flow
from clcr_hf.media import load_video


@pytest.fixture(scope="module")
def made(tmp_path_factory) -> Path:
    return make_ucf101(tmp_path_factory.mktemp("ucf"))


def hollow(root: Path, classes: int = 2, groups: int = 4) -> Path:
    """The layout with files of one byte: enough where nothing is decoded."""
    names = [f"Class{i}" for i in range(1, classes + 1)]
    lists = root / "ucfTrainTestlist"
    lists.mkdir(parents=True)
    (lists / "classInd.txt").write_text("".join(f"{i} {name}\n" for i, name in enumerate(names, 1)))
    train, test = [], []
    for i, name in enumerate(names, 1):
        (root / "UCF-101" / name).mkdir(parents=True)
        for group in range(1, groups + 1):
            file = f"{name}/v_{name}_g{group:02d}_c01.avi"
            (root / "UCF-101" / file).write_bytes(b"x")
            (test if group == 1 else train).append(file if group == 1 else f"{file} {i}")
    (lists / "trainlist01.txt").write_text("\n".join(train) + "\n")
    (lists / "testlist01.txt").write_text("\n".join(test) + "\n")
    return root


def append(root: Path, name: str, line: str) -> None:
    with open(root / "ucfTrainTestlist" / name, "a") as file:
        file.write(line + "\n")


def test_columns_and_counts(made):
    splits = load_ucf101(made)
    assert {name: len(rows) for name, rows in splits.items()} == {"train": 12, "validation": 6, "test": 6}
    rows = [row for part in splits.values() for row in part]
    assert len({row["id"] for row in rows}) == 24
    names = splits["train"].features["label"].names
    assert names == ["ApplyEyeMakeup", "HandstandPushups", "YoYo"]
    for row in rows:
        path = Path(row["video"]["path"])
        assert path.is_file() and path.is_absolute() and path.stem == row["id"]
        assert path.parent.name == names[row["label"]]
        assert f"_{row['group']}_" in row["id"] and row["flow"] is None


def test_clips_decode(made):
    clip = load_video(load_ucf101(made)["test"][0]["video"]["path"], num_frames=3)
    assert clip.frames.shape == (3, 48, 64, 3)


def test_folds_take_their_own_lists(made):
    test = {fold: set(load_ucf101(made, fold=fold)["test"]["group"]) for fold in (1, 2, 3)}
    assert test == {1: {"g01"}, 2: {"g02"}, 3: {"g03"}}
    with pytest.raises(DataFormatError, match="splits 1, 2 and 3"):
        load_ucf101(made, fold=4)


@settings(max_examples=20, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(seed=st.integers(0, 1000), fraction=st.floats(0.05, 0.9))
def test_validation_takes_whole_groups_with_every_class(made, seed, fraction):
    splits = load_ucf101(made, seed=seed, validation_fraction=fraction)
    groups = {name: set(rows["group"]) for name, rows in splits.items()}
    assert not groups["train"] & groups["validation"] and groups["train"] and groups["validation"]
    assert set(splits["validation"]["label"]) == set(splits["train"]["label"]) == {0, 1, 2}
    assert splits["validation"]["id"] == load_ucf101(made, seed=seed, validation_fraction=fraction)["validation"]["id"]


def test_no_validation(made):
    splits = load_ucf101(made, validation_fraction=0)
    assert "validation" not in splits and len(splits["train"]) == 18


def test_files_are_found_in_either_spelling(tmp_path):
    """The real lists say `HandstandPushups/v_HandStandPushups_...`; copies have renamed files or folder."""
    root = make_ucf101(tmp_path, classes=2)
    paths = [row["video"]["path"] for part in load_ucf101(root).values() for row in part]
    assert sum("v_HandStandPushups" in path for path in paths) == 8
    folder = root / "UCF-101" / "HandstandPushups"
    for path in sorted(folder.iterdir()):
        path.rename(folder / path.name.replace("HandStand", "Handstand"))
    folder.rename(folder.with_name("HandStandPushups"))
    paths = [row["video"]["path"] for part in load_ucf101(root).values() for row in part]
    assert sum("HandStandPushups/v_HandstandPushups" in path for path in paths) == 8
    assert all(Path(path).is_file() for path in paths)


def test_other_places(tmp_path):
    root = hollow(tmp_path / "a")
    (root / "UCF-101").rename(root / "UCF101")
    nested = root / "UCF101TrainTestSplits-RecognitionTask"
    nested.mkdir()
    (root / "ucfTrainTestlist").rename(nested / "ucfTrainTestlist")
    assert len(load_ucf101(root)["test"]) == 2
    with pytest.raises(DataFormatError, match="no classInd.txt"):
        load_ucf101(tmp_path)


def test_missing_and_empty_clips(tmp_path, caplog):
    root = hollow(tmp_path)
    (root / "UCF-101/Class1/v_Class1_g02_c01.avi").unlink()
    (root / "UCF-101/Class2/v_Class2_g01_c01.avi").write_bytes(b"")
    with pytest.raises(DataFormatError, match=r"2 of 8 files are missing: .*g02_c01.avi, .*g01_c01.avi \(empty\)"):
        load_ucf101(root)
    with caplog.at_level(logging.WARNING):
        splits = load_ucf101(root, skip_missing=True)
    assert sum(map(len, splits.values())) == 6 and "2 of 8" in caplog.text


@pytest.mark.parametrize(
    ("name", "line", "reason"),
    [
        ("trainlist01.txt", "Class1/v_Class1_g09_c01.avi 2", "line 7: 2 is not the number of Class1, which is 1"),
        ("trainlist01.txt", "Class1/v_Class1_g09_c01.avi one", "line 7: one is not the number"),
        ("trainlist01.txt", "Class1/v_Class1_g09_c01.avi", "line 7: .* is not of the form"),
        ("trainlist01.txt", "Class1/v_Class1_g09_c01.avi 1 1", "line 7: .* is not of the form"),
        ("trainlist01.txt", "Class1/clip.avi 1", "line 7: .* is not of the form"),
        ("trainlist01.txt", "Class9/v_Class9_g09_c01.avi 9", "line 7: 'Class9' is no class"),
        ("trainlist01.txt", "Class1/v_Class2_g09_c01.avi 1", "line 7: .* named after another class"),
        ("trainlist01.txt", "v_Class1_g09_c01.avi 1", "line 7: '' is no class"),
        ("trainlist01.txt", "Class1/v_Class1_g02_c01.avi 1", "line 7: v_Class1_g02_c01 comes twice"),
        ("testlist01.txt", "Class2/v_Class2_g01_c01.avi", "line 3: v_Class2_g01_c01 comes twice"),
        ("testlist01.txt", "Class1/v_Class1_g02_c01.avi", "1 test clips are of a group that is also in train"),
        ("testlist01.txt", "Class1/v_Class1_g02_c07.avi", "1 test clips are of a group that is also in train"),
        ("classInd.txt", "4 Class4", "line 3: .* is not `3 <class>`"),
        ("classInd.txt", "3 class1", "not distinct"),
    ],
)
def test_faults_of_the_lists(tmp_path, name, line, reason):
    root = hollow(tmp_path)
    append(root, name, line)
    with pytest.raises(DataFormatError, match=reason):
        load_ucf101(root)


def test_no_list(tmp_path):
    with pytest.raises(DataFormatError, match="trainlist02.txt: no such list"):
        load_ucf101(hollow(tmp_path), fold=2)


def test_windows_lists_and_numbers_in_the_test_list(tmp_path):
    root = hollow(tmp_path)
    for path in (root / "ucfTrainTestlist").iterdir():
        path.write_bytes(path.read_bytes().replace(b"\n", b"\r\n").replace(b"/", b"\\"))
    append(root, "testlist01.txt", "")
    assert len(load_ucf101(root)["test"]) == 2


def test_flow_tells_the_classes_apart(made, tmp_path):
    """Files made by `add_flow` and given by folder are the same column; the class is the way the picture moves."""
    computed = add_flow(load_ucf101(made), tmp_path / "cache", size=None)
    ways = {0: (0, 2), 1: (0, -2), 2: (2, 0)}
    for row in [row for part in computed.values() for row in part]:
        middle = load_flow(row["flow"])[:, :, 8:-8, 8:-8]
        right, down = (float(abs(middle[:, k].mean() - ways[row["label"]][k])) for k in (0, 1))
        assert right < 0.5 and down < 0.5
        folder = tmp_path / "flow" / Path(row["video"]["path"]).parent.name if row["label"] else tmp_path / "flow"
        folder.mkdir(parents=True, exist_ok=True)
        (folder / f"{row['id']}.npz").write_bytes(Path(row["flow"]).read_bytes())
    given_by_folder = load_ucf101(made, flow=tmp_path / "flow")
    assert [len(rows) for rows in given_by_folder.values()] == [12, 6, 6]
    row = given_by_folder["test"][0]
    assert Path(row["flow"]).stem == row["id"] and load_flow(row["flow"]).shape == (3, 2, 48, 64)
    # Rows that have a file keep it.
    assert add_flow(given_by_folder, tmp_path / "unused")["test"]["flow"] == given_by_folder["test"]["flow"]
    assert not (tmp_path / "unused").exists()


def test_missing_flow(made, tmp_path):
    with pytest.raises(DataFormatError, match="24 of 24 files are missing: v_ApplyEyeMakeup_g02_c01.npz"):
        load_ucf101(made, flow=tmp_path)
    (tmp_path / "v_YoYo_g01_c01.npz").write_bytes(b"x")
    (tmp_path / "v_YoYo_g02_c01.npz").write_bytes(b"x")
    splits = load_ucf101(made, flow=tmp_path, skip_missing=True, validation_fraction=0)
    assert splits["train"]["id"] == ["v_YoYo_g02_c01"] and splits["test"]["id"] == ["v_YoYo_g01_c01"]


def test_an_empty_list_is_an_error(tmp_path):
    root = make_ucf101(tmp_path, classes=2, groups=3)
    (root / "ucfTrainTestlist" / "testlist01.txt").write_text("\n")
    with pytest.raises(DataFormatError, match=r"testlist01\.txt: the list has no clips"):
        load_ucf101(root)
