"""`clcr convert`: every layout to shards, in little memory, through kills and changes of mind."""

import json
import os
import pickle
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from layouts.ave import make_ave, make_ave_h5
from layouts.cremad import make_cremad
from layouts.csd import make_csd
from layouts.kinetics_sounds import make_kinetics_sounds
from layouts.meld import make_meld
from layouts.mmsa import make_mmsa
from layouts.sims2 import make_sims2
from layouts.ucf101 import make_ucf101
from typer.testing import CliRunner

import clcr_hf.cli.rows  # noqa: F401  (adds the commands)
import clcr_hf.data as loaders
from clcr_hf.cli.app import app
from clcr_hf.data import load_shards, shards
from clcr_hf.data.columns import DataFormatError
from clcr_hf.data.convert import convert
from clcr_hf.data.options import read_options
from clcr_hf.data.registry import SOURCE_NAMES
from clcr_hf.data.table import manifest


@pytest.fixture(autouse=True)
def cache(tmp_path_factory, monkeypatch):
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path_factory.mktemp("cache"))


def make_utterances(root: Path) -> Path:
    path = root / "u.npz"
    text = np.random.default_rng(0).normal(size=(6, 3)).astype(np.float32)
    np.savez(
        path, text=text, label=np.arange(6) % 2, video_id=np.array(list("aabbcc")), split=["train"] * 4 + ["test"] * 2
    )
    return path


def make_table(root: Path, rows: int = 10) -> Path:
    for i in range(rows):
        (root / f"{i}.mp4").write_bytes(b"not decoded here")
    lines = [f"{i}.mp4,said {i},{i % 3},{'test' if i % 4 == 3 else 'train'}" for i in range(rows)]
    (root / "clips.csv").write_text("\n".join(["media,text,label,split", *lines]) + "\n")
    return root / "clips.csv"


LAYOUTS = {
    "mmsa": (lambda root: make_mmsa(root), {"text": "text"}),
    "csd": (lambda root: make_csd(root), {}),
    "cremad": (lambda root: make_cremad(root, clips=12), {"validation_fraction": 0.2}),
    "kinetics_sounds": (lambda root: make_kinetics_sounds(root, clips=12), {"seed": 1}),
    "ave": (lambda root: make_ave(root, clips=6), {"task": "segment"}),
    "ave_h5": (lambda root: make_ave_h5(root, clips=6), {}),
    "ucf101": (lambda root: make_ucf101(root, classes=2, groups=3), {"fold": 2}),
    "manifest": (make_table, {"validation_fraction": 0.2}),
    "utterances": (make_utterances, {}),
    "meld": (lambda root: make_meld(root), {"labels": "sentiment"}),
    "sims2": (lambda root: make_sims2(root), {"labels": "vision"}),
}


def same_rows(found, expected) -> bool:
    names = set(expected) == set(found) and all(found[k].features == expected[k].features for k in expected)
    return names and all(found[name].to_dict() == expected[name].to_dict() for name in expected)


def test_there_is_a_test_of_each_layout():
    assert set(LAYOUTS) == set(SOURCE_NAMES) - {"talking_faces", "shards", "hub"}  # hub: tests/test_data_named.py


@pytest.mark.parametrize("layout", LAYOUTS)
def test_shards_hold_what_the_loader_gives(tmp_path, layout):
    make, options = LAYOUTS[layout]
    (tmp_path / "data").mkdir()
    source = make(tmp_path / "data")
    seen: list[int] = []
    record = convert(
        layout,
        source,
        tmp_path / "out",
        options=options,
        rows_per_shard=3,
        progress=lambda done, total: seen.append(done),
    )
    expected = getattr(loaders, f"load_{layout}")(source, **options)
    found = load_shards(tmp_path / "out")
    assert same_rows(found, expected)
    assert record["rows"] == {name: len(expected[name]) for name in expected}
    assert seen == list(range(1, sum(record["rows"].values()) + 1))
    assert json.loads((tmp_path / "out" / "convert.json").read_text()) == record


def test_tables_are_streamed_in_their_own_splits(tmp_path, monkeypatch):
    source = make_table(tmp_path)
    monkeypatch.setattr(manifest, "read_manifest", None)  # not needed
    assert convert("manifest", source, tmp_path / "out")["rows"] == {"train": 8, "test": 2}


def test_missing_files_of_a_table(tmp_path):
    source = make_table(tmp_path)
    (tmp_path / "5.mp4").unlink()
    (tmp_path / "8.mp4").write_bytes(b"")
    with pytest.raises(DataFormatError, match=r"2 of 10 files are missing: .*5\.mp4, .*8\.mp4 \(empty\)"):
        convert("manifest", source, tmp_path / "out")
    (tmp_path / "8.mp4").write_bytes(b"not decoded here")
    with pytest.raises(DataFormatError, match="has not finished"):
        load_shards(tmp_path / "out")
    record = convert("manifest", source, tmp_path / "other", options={"skip_missing": True})
    assert sum(record["rows"].values()) == 9
    (tmp_path / "5.mp4").write_bytes(b"found again")
    assert sum(convert("manifest", source, tmp_path / "out")["rows"].values()) == 10


def test_a_file_in_two_splits_is_refused_in_streaming_too(tmp_path):
    source = make_table(tmp_path)
    with open(source, "a") as file:
        file.write("0.mp4,said again,1,test\n")
    with pytest.raises(DataFormatError, match=r"0\.mp4 is in both train and test"):
        convert("manifest", source, tmp_path / "out")


def test_groups_of_a_table_are_kept_apart(tmp_path):
    (tmp_path / "clips.csv").write_text("text,label,who\n" + "".join(f"t{i},{i % 3},w{i // 4}\n" for i in range(16)))
    convert("manifest", tmp_path / "clips.csv", tmp_path / "out", options={"group_column": "who"})
    assert {name: len(rows) for name, rows in load_shards(tmp_path / "out").items()} == {"train": 12, "validation": 4}


def test_embedded_media_outlive_the_files(tmp_path):
    (tmp_path / "data").mkdir()
    source = make_cremad(tmp_path / "data", clips=12)
    convert("cremad", source, tmp_path / "out", embed_media=True)
    rows = [row for split in load_shards(tmp_path / "out").values() for row in split]
    for row in rows:
        assert row["audio"]["bytes"] == (source / "AudioWAV" / row["audio"]["path"]).read_bytes()
        for image in row["images"] or ():
            assert image["bytes"][:2] == b"\xff\xd8" and "/" not in image["path"]


def test_a_finished_folder_is_left_alone_and_another_task_refused(tmp_path):
    source = make_utterances(tmp_path)
    out = tmp_path / "out"
    record = convert("utterances", source, out)
    before = {path: path.stat().st_mtime_ns for path in out.rglob("*") if path.is_file()}
    (out / "convert.partial.json").write_text((out / "convert.json").read_text())  # stopped just before its end
    assert convert("utterances", source, out) == record
    assert {path: path.stat().st_mtime_ns for path in out.rglob("*") if path.is_file()} == before
    for changes in ({"options": {"standardise": True}}, {"rows_per_shard": 7}):
        with pytest.raises(DataFormatError, match="holds rows of other settings"):
            convert("utterances", source, out, **changes)
    other = tmp_path / "v.npz"
    other.write_bytes(source.read_bytes())
    with pytest.raises(DataFormatError, match="source was"):
        convert("utterances", other, out)
    (out / "convert.json").unlink()
    with pytest.raises(DataFormatError, match="did not write"):
        convert("utterances", source, out)


def test_wrong_arguments_leave_nothing(tmp_path):
    source = make_utterances(tmp_path)
    for arguments, options, message in (
        (("nothing", source), {}, "dataset 'nothing' is none of .*mmsa"),
        (("utterances", source), {"rows_per_shard": 0}, "rows_per_shard"),
        (("utterances", source), {"options": {"fold": 1}}, "no option 'fold'; it takes label"),
        (("utterances", source), {"options": {"label": "absent"}}, "no array absent"),
        (("mmsa", source), {}, "not a pickle but a zip"),
    ):
        with pytest.raises(DataFormatError, match=message):
            convert(*arguments, tmp_path / "out", **options)
        assert not (tmp_path / "out").exists()
    with pytest.raises(FileNotFoundError):
        convert("utterances", tmp_path / "absent.npz", tmp_path / "out")


def test_a_source_that_changed_is_noticed(tmp_path, monkeypatch):
    source = make_table(tmp_path)
    rows = shards.ShardWriter.write

    def stop(self, row):
        if row["text"] == "said 8":
            raise KeyboardInterrupt
        rows(self, row)

    monkeypatch.setattr(shards.ShardWriter, "write", stop)
    with pytest.raises(KeyboardInterrupt):
        convert("manifest", source, tmp_path / "out", rows_per_shard=2)
    monkeypatch.undo()
    text = source.read_text()
    source.write_text(text.replace("0.mp4,said 0,0,train\n", ""))
    with pytest.raises(DataFormatError, match="it changed"):
        convert("manifest", source, tmp_path / "out", rows_per_shard=2)
    source.write_text("\n".join(text.splitlines()[:3]) + "\n")
    with pytest.raises(DataFormatError, match="more rows than"):
        convert("manifest", source, tmp_path / "out", rows_per_shard=2)
    source.write_text(text)
    convert("manifest", source, tmp_path / "out", rows_per_shard=2)
    convert("manifest", source, tmp_path / "whole", rows_per_shard=2)
    assert same_rows(load_shards(tmp_path / "out"), load_shards(tmp_path / "whole"))


def test_a_folder_has_one_writer(tmp_path):
    source = make_table(tmp_path)
    refused = []

    def second(done, total):
        if not refused:
            with pytest.raises(DataFormatError, match="being written by another process") as error:
                convert("manifest", source, tmp_path / "out")
            refused.append(error)

    convert("manifest", source, tmp_path / "out", progress=second)
    assert refused and {path.name for path in (tmp_path / "out").iterdir()} == {"train", "test", "convert.json"}


def test_a_folder_of_version_01_is_known(tmp_path):
    """It calls the data set a layout, and the kind of shard was a choice."""
    source = make_utterances(tmp_path)
    record = convert("utterances", source, tmp_path / "out")
    old = {"layout": record.pop("dataset"), "format": "parquet", **record}
    (tmp_path / "out" / "convert.json").write_text(json.dumps(old))
    assert convert("utterances", source, tmp_path / "out")["rows"] == record["rows"]


# -- in a process of its own -------------------------------------------------------------------------------------------

# Peak of the memory that is the process's own or mapped, above what imports take, while it converts.
SCRIPT = """
import resource, sys
from clcr_hf.data.convert import convert
import clcr_hf.data.benchmarks.mmsa, clcr_hf.data.benchmarks.ave, h5py, datasets, pyarrow.parquet
import time
def peak():
    return next(int(line.split()[1]) for line in open("/proc/self/status") if line.startswith("VmHWM")) * 1024
before = peak()
delay = float(sys.argv[4])
convert(*sys.argv[1:4], progress=lambda done, total: time.sleep(delay), rows_per_shard=16)
print(peak() - before)
"""


def run(*arguments: object, **options) -> subprocess.Popen:
    words = [sys.executable, "-c", SCRIPT, *map(str, arguments)]
    return subprocess.Popen(words, stdout=subprocess.PIPE, text=True, **options)


def test_killed_and_started_again(tmp_path):
    (tmp_path / "data").mkdir()
    source = make_mmsa(tmp_path / "data", clips=(40, 20, 20))
    out = tmp_path / "out"
    process = run("mmsa", source, out, 0.02)
    deadline = time.monotonic() + 900
    while not list(out.glob("*/*.parquet")) and time.monotonic() < deadline:
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert process.returncode == -signal.SIGKILL and list(out.glob("*/*.parquet"))
    with pytest.raises(DataFormatError, match="has not finished"):
        load_shards(out)
    convert("mmsa", source, out, rows_per_shard=16)
    convert("mmsa", source, tmp_path / "whole", rows_per_shard=16)
    files = {path.relative_to(out): path.read_bytes() for path in out.glob("*/*")}
    whole = tmp_path / "whole"
    assert files == {path.relative_to(whole): path.read_bytes() for path in whole.glob("*/*")}


def big_pickle(path: Path) -> None:
    rng = np.random.default_rng(0)

    def split(name: str, n: int) -> dict:
        return {
            "id": [f"{name}$_${i}" for i in range(n)],
            "raw_text": np.array(["x"] * n, dtype=object),
            "text": rng.random((n, 50, 20), dtype=np.float32),
            "audio": np.tile(rng.random((10, 500, 40)), (n // 10, 1, 1)),
            "vision": np.tile(rng.random((10, 500, 35), dtype=np.float32), (n // 10, 1, 1)),
            "regression_labels": np.zeros(n, dtype=np.float32),
        }

    with open(path, "wb") as file:
        pickle.dump({"train": split("a", 700), "valid": split("b", 50), "test": split("c", 100)}, file, protocol=4)


def big_h5(root: Path) -> None:
    import h5py

    source = make_ave_h5(root, clips=4)
    clips = 200
    labels = np.zeros((clips, 10, 29), dtype=np.int64)
    labels[:, :, 28] = 1
    rng = np.random.default_rng(0)
    with h5py.File(source / "visual_feature.h5", "w") as file:
        visual = file.create_dataset("avadataset", (clips, 10, 7, 7, 512), dtype="f4")
        for i in range(clips):
            visual[i] = rng.random((10, 7, 7, 512), dtype=np.float32)
    for name, value in (("audio_feature", np.zeros((clips, 10, 128), np.float32)), ("labels", labels)):
        with h5py.File(source / f"{name}.h5", "w") as file:
            file["avadataset"] = value
    for path in source.glob("*.txt"):
        path.unlink()
    orders = {"train_order": np.arange(160), "val_order": np.arange(160, 180), "test_order": np.arange(180, 200)}
    for name, value in orders.items():
        with h5py.File(source / f"{name}.h5", "w") as file:
            file["order"] = value


@pytest.mark.skipif(not os.path.exists("/proc/self/status"), reason="reads the peak of memory from /proc")
@pytest.mark.parametrize("layout", ["mmsa", "ave_h5"])
def test_memory_does_not_grow_with_the_data(tmp_path, layout):
    if layout == "mmsa":
        source = tmp_path / "big.pkl"
        big_pickle(source)
        size = source.stat().st_size
        script = SCRIPT.replace("convert(*sys.argv[1:4],", "convert(*sys.argv[1:4], options={'text': 'text'},")
    else:
        source = tmp_path / "h5"
        big_h5(source)
        size = (source / "visual_feature.h5").stat().st_size
        script = SCRIPT.replace("convert(*sys.argv[1:4],", "convert(*sys.argv[1:4], options={'visual': 'tokens'},")
    assert size > 180e6
    words = [sys.executable, "-c", script, layout, str(source), str(tmp_path / "out"), "0"]
    result = subprocess.run(words, capture_output=True, text=True, check=True)
    assert int(result.stdout) < 0.5 * size


# -- the command -------------------------------------------------------------------------------------------------------


def test_command(tmp_path):
    source = make_utterances(tmp_path)
    out = tmp_path / "out"
    result = CliRunner().invoke(
        app, ["convert", "utterances", str(source), str(out), "--dataset_options", "num_validation_videos=1"]
    )
    assert result.exit_code == 0, result.output
    assert "train 1, validation 1, test 1" in result.output
    again = CliRunner().invoke(
        app, ["convert", "utterances", str(source), str(out), "--dataset-options", "num_validation_videos=1", "--json"]
    )
    assert json.loads(again.stdout)["rows"] == {"train": 1, "validation": 1, "test": 1}
    wrong = CliRunner().invoke(app, ["convert", "utterances", str(source), str(out)])
    assert wrong.exit_code == 1 and "other settings" in str(wrong.exception)


def test_options_are_json_or_text():
    text = "fold=2,a=[1, 2],text=text_bert,skip=true,name=x=y,none=null,names=b,c,joint=False,no=None"
    assert read_options(text, "--dataset_options") == {
        "fold": 2,
        "a": [1, 2],
        "text": "text_bert",
        "skip": True,
        "name": "x=y",
        "none": None,
        "names": "b,c",
        "joint": False,
        "no": None,
    }
    for wrong in ("fold", "=1", "a=1,a=2"):
        with pytest.raises(ValueError, match="--dataset_options wants name=value"):
            read_options(wrong, "--dataset_options")
