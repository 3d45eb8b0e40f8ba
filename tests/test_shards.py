"""Shards: rows come back typed as written, from whole files alone, whatever interrupts the writer."""

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from datasets import Audio, ClassLabel, Features, Image, List, Value, Video
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from clcr_hf.data import arrow, shards
from clcr_hf.data.columns import DataFormatError
from clcr_hf.data.shards import (
    ShardWriter,
    count_rows,
    load_shards,
    shard_files,
    written_ids,
)

FEATURES = Features(
    {
        "id": Value("string"),
        "text": Value("string"),
        "media": Video(decode=False),
        "audio": Audio(decode=False),
        "images": List(Image(decode=False)),
        "flow": Value("string"),
        "label": ClassLabel(names=["no", "yes"]),
        "vision_features": List(List(Value("float32"), length=3)),
        "audio_features": List(List(List(Value("float32")))),
        "vision_intervals": List(List(Value("float32"), length=2)),
        "words": List(Value("string")),
        "input_ids": List(Value("int64")),
        "start": Value("float32"),
    }
)


@pytest.fixture(autouse=True)
def cache(tmp_path_factory, monkeypatch):
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path_factory.mktemp("cache"))


def row(i: int, **changes) -> dict:
    made = {
        "id": f"clip {i}",
        "text": "said",
        "media": {"path": "/a.mp4", "bytes": None},
        "audio": "/a.wav",
        "images": [{"path": "/0.jpg", "bytes": None}, {"path": None, "bytes": b"jpg"}],
        "flow": None,
        "label": i % 2,
        "vision_features": np.full((i % 4, 3), i, dtype=np.float64),
        "audio_features": np.arange(12.0).reshape(2, 3, 2),
        "vision_intervals": [[0.0, 0.5]],
        "words": ["a", "b"],
        "input_ids": np.array([1, 2, i]),
        "start": 0.5,
    }
    return {**made, **changes}


def write(folder: Path, numbers, split: str = "train", **options) -> None:
    with ShardWriter(folder, split, FEATURES, **options) as writer:
        for i in numbers:
            writer.write(row(i))


def ids(folder: Path, **options) -> list[str]:
    return [example["id"] for example in load_shards(folder, **options)["train"]]


@pytest.mark.parametrize("streaming", [False, True])
def test_round_trip(tmp_path, streaming):
    folder = tmp_path / "with [odd] *name"
    write(folder, range(10), rows_per_shard=4)
    write(folder, [10], "test")
    data = load_shards(folder, streaming=streaming)
    assert list(data) == ["train", "test"] and data["train"].features == FEATURES
    rows = list(data["train"])
    assert [example["id"] for example in rows] == [f"clip {i}" for i in range(10)]
    assert rows[3]["vision_features"] == [[3.0] * 3] * 3 and rows[4]["vision_features"] == []
    assert rows[1]["audio_features"] == np.arange(12.0).reshape(2, 3, 2).tolist()
    assert rows[1]["media"] == {"path": "/a.mp4", "bytes": None}
    assert rows[1]["audio"] == {"path": "/a.wav", "bytes": None}
    assert rows[1]["images"][1] == {"path": None, "bytes": b"jpg"}
    assert rows[1]["flow"] is None and rows[1]["label"] == 1 and rows[1]["input_ids"] == [1, 2, 1]
    names = sorted(path.name for path in (folder / "train").iterdir())
    assert names == [f"train-000-0000{i}.parquet" for i in range(3)]


def test_every_modality_may_be_absent(tmp_path):
    absent = dict.fromkeys(set(FEATURES) - {"id"})
    with ShardWriter(tmp_path, "train", FEATURES) as writer:
        writer.write(row(0, **absent))
        writer.write(row(1))
    first, second = load_shards(tmp_path)["train"]
    assert all(first[name] is None for name in absent) and second["words"] == ["a", "b"]


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.data())
def test_arrays_and_lists_give_the_same_cell(data):
    array = data.draw(
        hnp.arrays(
            data.draw(st.sampled_from(["f4", "f8", "i4", "f2"])),
            st.tuples(*[st.integers(0, 3)] * 2, st.just(2)),
            elements=st.integers(-9, 9),
        )
    )
    for feature, value in (
        (List(List(List(Value("float32")))), array),
        (List(List(List(Value("float32"), length=2))), array),
        (List(List(Value("float32"), length=2)), array.reshape(-1, 2)),
        (List(Value("int64")), array.ravel()),
    ):
        kind = Features({"x": feature}).arrow_schema.field("x").type
        expected = pa.array([value.tolist()], kind)
        assert arrow.column([value], feature, kind).equals(expected)
        if value.ndim > 1:
            assert arrow.column([list(value)], feature, kind).equals(expected)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"vision_features": np.zeros((2, 4))}, "'clip 0' of train: column 'vision_features'"),
        ({"vision_features": np.zeros(3)}, "column 'vision_features'"),
        ({"vision_features": np.zeros((1, 1, 3))}, "column 'vision_features'"),
        ({"input_ids": np.zeros((1, 3))}, "column 'input_ids'"),
        ({"label": 2}, "column 'label'"),
        ({"label": "maybe"}, "column 'label'"),
        ({"start": "soon"}, "column 'start'"),
        ({"words": 3}, "column 'words'"),
        ({"id": ""}, "non-empty"),
        ({"id": 3}, "non-empty"),
        ({"extra": 1}, "lacks or adds the columns extra"),
    ],
)
def test_wrong_rows_are_named_and_not_written(tmp_path, changes, message):
    with ShardWriter(tmp_path, "train", FEATURES) as writer:
        with pytest.raises(DataFormatError, match=message):
            writer.write(row(0, **changes))
        writer.write(row(1))
    assert ids(tmp_path) == ["clip 1"]


def test_wrong_arguments(tmp_path):
    for split, features, options in (
        ("all", FEATURES, {}),
        ("train", Features({"x": Value("string")}), {}),
        ("train", Features({"id": Value("int64")}), {}),
        ("train", FEATURES, {"rank": -1}),
        ("train", FEATURES, {"rows_per_shard": 0}),
    ):
        with pytest.raises(DataFormatError):
            ShardWriter(tmp_path / "new", split, features, **options)
    assert not (tmp_path / "new").exists()


def test_a_second_writer_goes_on(tmp_path):
    write(tmp_path, range(3), rows_per_shard=2)
    write(tmp_path, range(3, 6), rows_per_shard=2)
    write(tmp_path, range(6, 8), rank=1)
    assert ids(tmp_path) == [f"clip {i}" for i in range(8)]
    assert written_ids(tmp_path, "train") == {f"clip {i}" for i in range(8)} and count_rows(tmp_path, "train") == 8
    assert written_ids(tmp_path, "test") == set() and written_ids(tmp_path / "absent", "train") == set()
    with pytest.raises(DataFormatError, match="other column types"):
        ShardWriter(tmp_path, "train", Features({"id": Value("string")}))


def test_only_whole_shards_count(tmp_path):
    writer = ShardWriter(tmp_path, "train", FEATURES, rows_per_shard=2)
    for i in range(3):
        writer.write(row(i))
    writer._write_group()  # as when the process is killed in the middle of a shard
    del writer
    assert (tmp_path / "train" / "train-000-00001.parquet.tmp").exists()
    assert written_ids(tmp_path, "train") == {"clip 0", "clip 1"} and len(ids(tmp_path)) == 2
    with ShardWriter(tmp_path, "train", FEATURES, rank=1) as other:
        assert (tmp_path / "train" / "train-000-00001.parquet.tmp").exists()  # another's work is left alone
        other.write(row(9))
    write(tmp_path, [2])
    assert sorted(ids(tmp_path)) == ["clip 0", "clip 1", "clip 2", "clip 9"]
    assert not list((tmp_path / "train").glob("*.tmp"))


def test_an_exception_keeps_the_rows_before_it(tmp_path):
    with pytest.raises(KeyboardInterrupt), ShardWriter(tmp_path, "train", FEATURES) as writer:
        writer.write(row(0))
        raise KeyboardInterrupt
    assert ids(tmp_path) == ["clip 0"]


def test_a_failed_write_gives_up_its_shard(tmp_path, monkeypatch):
    real, calls = shards.pq.ParquetWriter.write_table, []

    def fail(self, table):
        calls.append(table)
        if len(calls) == 2:
            real(self, table)
            raise OSError("No space left on device")
        real(self, table)

    monkeypatch.setattr(shards.pq.ParquetWriter, "write_table", fail)
    with pytest.raises(OSError, match="No space"):
        write(tmp_path, range(5), rows_per_shard=2)
    assert ids(tmp_path) == ["clip 0", "clip 1"]
    write(tmp_path, range(2, 5), rows_per_shard=2)
    assert ids(tmp_path) == [f"clip {i}" for i in range(5)] and not list(tmp_path.rglob("*.tmp"))


def test_large_rows_are_written_in_groups(tmp_path, monkeypatch):
    monkeypatch.setattr(shards, "_GROUP_BYTES", 10_000)
    big = np.random.default_rng(0).normal(size=(200, 3)).astype(np.float32)
    with ShardWriter(tmp_path, "train", FEATURES) as writer:
        for i in range(40):
            writer.write(row(i, vision_features=big))
            assert writer._bytes < 10_000
    (file,) = shard_files(tmp_path, "train")
    assert pq.read_metadata(file).num_row_groups > 5
    np.testing.assert_array_equal(np.asarray(load_shards(tmp_path)["train"][39]["vision_features"], np.float32), big)


def test_unfinished_and_damaged_folders(tmp_path):
    with pytest.raises(FileNotFoundError):
        load_shards(tmp_path / "absent")
    with pytest.raises(DataFormatError, match="no shards"):
        load_shards(tmp_path)
    write(tmp_path, range(2))
    mark = tmp_path / "extract.partial.json"
    mark.write_text("{}")
    with pytest.raises(DataFormatError, match="`clcr extract` has not finished"):
        load_shards(tmp_path)
    mark.unlink()
    write(tmp_path, [1], "test")
    with pytest.raises(DataFormatError, match=r"1 ids come twice \(first: 'clip 1'\)"):
        load_shards(tmp_path)
    (file,) = shard_files(tmp_path, "test")
    file.write_bytes(b"PAR1 not really")
    for read in (load_shards, lambda folder: written_ids(folder, "test")):
        with pytest.raises(DataFormatError, match="test-000-00000.parquet"):
            read(tmp_path)
    pq.write_table(pa.table({"id": ["x"]}), file)
    with pytest.raises(DataFormatError, match="column types"):
        load_shards(tmp_path)


def test_splits_of_other_types_are_refused(tmp_path):
    write(tmp_path, range(2))
    with ShardWriter(tmp_path, "test", Features({"id": Value("string")})) as writer:
        writer.write({"id": "x"})
    with pytest.raises(DataFormatError, match="other column types than wanted"):
        load_shards(tmp_path)


def test_safetensors_of_version_01_are_named(tmp_path):
    (tmp_path / "train").mkdir()
    (tmp_path / "train" / "train-000-00000.safetensors").write_bytes(b"")
    with pytest.raises(DataFormatError, match="of version 0.1, convert anew"):
        load_shards(tmp_path)
