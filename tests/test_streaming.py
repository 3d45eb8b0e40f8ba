"""`--streaming`: rows of shards, and of a data set of the Hub, read where they lie."""

import pickle

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from datasets import Audio, ClassLabel, Features, Image, List, Value
from torch.utils.data import BatchSampler

from clcr_hf.data import DataFormatError, load_shards
from clcr_hf.data import streamed as streamed_module
from clcr_hf.data.shards import ShardWriter, stream_shards
from clcr_hf.data.source import find_source
from clcr_hf.training.global_batch import DealtBatches
from clcr_hf.training.stream_order import StreamOrder

FEATURES = Features(
    {
        "id": Value("string"),
        "vision_features": List(List(Value("float32"), length=3)),
        "audio_features": List(List(Value("float32"), length=2)),
        "audio_attention_mask": List(Value("bool")),
        "text": Value("string"),
        "label": ClassLabel(names=["no", "yes"]),
    }
)


def write(folder, counts, rows_per_shard=4, features=FEATURES, seed=0):
    """Shards of rows with gaps, `counts` by split."""
    draw = np.random.default_rng(seed)
    for split, count in counts.items():
        with ShardWriter(folder, split, features, rows_per_shard=rows_per_shard) as writer:
            for number in range(count):
                steps = int(draw.integers(3, 6))
                row = {
                    "id": f"{split}/{number}",
                    "vision_features": draw.normal(size=(steps, 3)).astype(np.float32),
                    "audio_features": draw.normal(size=(steps, 2)).astype(np.float32) if number % 5 else None,
                    "audio_attention_mask": np.arange(steps) > 0 if number % 5 else None,
                    "text": None,
                    "label": int(draw.integers(2)),
                }
                writer.write({name: row[name] for name in features})
    return folder


@pytest.fixture
def folder(tmp_path):
    return write(tmp_path / "shards", {"train": 23, "test": 5})


# -- rows --------------------------------------------------------------------------------------------------------------


def same(ours, theirs):
    assert len(ours) == len(theirs) and ours.column_names == theirs.column_names
    for one, other in zip(ours, theirs, strict=True):
        np.testing.assert_equal(one, other)


def test_rows_are_those_of_a_data_set_in_memory(folder):
    ours, theirs = stream_shards(folder), load_shards(folder)
    assert list(ours) == list(theirs)
    rows, expected = ours["train"], theirs["train"]
    same(rows, expected)
    assert rows.features == expected.features
    assert [rows[number]["id"] for number in (22, 0, 7, -1)] == [expected[n]["id"] for n in (22, 0, 7, -1)]
    for use in (
        lambda part: part.select_columns(["label", "id"]),
        lambda part: part.remove_columns(["text", "label"]),
        lambda part: part.select([0, 3, 4, 21]).select([1, 3]),
        lambda part: part.with_format("numpy", columns=["vision_features"], output_all_columns=True),
        lambda part: part.select(range(9)).with_format("numpy").select_columns(["audio_features", "label"]),
    ):
        same(use(rows), use(expected))
        assert use(rows).features == use(expected).features
    assert list(rows["label"]) == list(expected["label"]) and rows["label"][:] == expected["label"][:]
    assert rows["id"][5] == "train/5" and len(rows["id"]) == 23
    assert rows.filled_columns() == [name for name in FEATURES if name != "text"]
    with pytest.raises(IndexError):
        rows[23]
    with pytest.raises(ValueError, match="rise"):
        rows.select([3, 1])


def test_few_row_groups_are_in_memory_and_only_wanted_columns_are_read(folder, monkeypatch):
    monkeypatch.setattr(streamed_module, "WINDOW_GROUPS", 2)
    read = []
    inner = streamed_module.pq.ParquetFile.read_row_group
    note = lambda self, number, columns: read.append(columns) or inner(self, number, columns=columns)  # noqa: E731
    monkeypatch.setattr(streamed_module.pq.ParquetFile, "read_row_group", note)
    rows = stream_shards(folder)["train"].select_columns(["label"])
    for number in (0, 1, 2, 3, 4, 0, 5):  # two row groups
        rows[number]
    assert read == [["label"]] * 2
    for number in (8, 0):
        rows[number]
    assert len(read) == 4


def test_classes_by_folder_and_a_carved_validation_are_as_in_memory(tmp_path):
    features = Features({name: FEATURES[name] for name in ("id", "vision_features")})
    with ShardWriter(tmp_path, "train", features, rows_per_shard=4) as writer:
        for number in range(30):
            name = f"train/{('glad', 'sad', 'calm')[number % 3]}/{number}"
            writer.write({"id": name, "vision_features": np.full((2, 3), number, np.float32)})
    (tmp_path / "extract.json").write_text("{}")
    options = {"validation_fraction": 0.3}
    ours, theirs = (
        find_source("shards").open(tmp_path, streamed=streamed, **options).load() for streamed in (True, False)
    )
    assert list(ours) == list(theirs) == ["train", "validation"]
    for split in ours:
        same(ours[split], theirs[split])
        assert ours[split].features["label"] == theirs[split].features["label"]
        assert ours[split]["label"][:] == theirs[split]["label"][:]
        same(ours[split].select_columns(["vision_features"]), theirs[split].select_columns(["vision_features"]))


@pytest.mark.parametrize("options", [{}, {"missing_labels": "drop", "id_column": "name"}])
def test_a_named_data_set_is_as_in_memory(tmp_path, monkeypatch, capsys, options):
    monkeypatch.setenv("HF_DATASETS_OFFLINE", "1")
    rows = {
        "name": [f"r{k}" for k in range(25)],
        "clip": [{"path": f"{k}.mp4", "bytes": b"%d" % k} for k in range(25)],
        "picture": [{"path": None, "bytes": b"p%d" % k} if k % 4 else None for k in range(25)],
        "gaze_features": [np.full((1 + k % 3, 2), k).tolist() if k % 6 else None for k in range(25)],
        "sentence": [f"word {k}" if k % 7 else None for k in range(25)],
        "mood": [k % 3 - (k == 9 and bool(options)) for k in range(25)],
        "from": [k / 2 for k in range(25)],
    }
    kinds = {
        "name": Value("string"),
        "clip": Audio(),
        "picture": Image(),
        "gaze_features": List(List(Value("float64"))),
        "sentence": Value("large_string"),
        "mood": ClassLabel(names=["a", "b", "c"]),
        "from": Value("int64"),
    }
    schema = Features(kinds).arrow_schema
    table = pa.Table.from_arrays([pa.array(rows[n], schema.field(n).type) for n in kinds], schema=schema)
    for split, part in (("train", table), ("test", table.slice(20))):
        path = tmp_path / "set" / "data" / f"{split}-00000-of-00001.parquet"
        path.parent.mkdir(parents=True, exist_ok=True)
        pq.write_table(part, path, row_group_size=4)
    options = {"label_column": "mood", "start_column": "from", **options}
    ours, theirs = (
        find_source("hub").open(tmp_path / "set", streamed=streamed, **options) for streamed in (True, False)
    )
    assert ours.features == theirs.features and ours.total == theirs.total
    capsys.readouterr()
    list(ours)
    assert capsys.readouterr().err == ""  # such as a progress bar for each row group
    ours, theirs = ours.load(), theirs.load()
    assert len(set(ours["train"]["id"])) == len(ours["train"])
    again = pickle.loads(pickle.dumps(ours["train"]))  # as it comes to a worker that is not forked
    assert again[3] == ours["train"][3]
    for split in theirs:
        assert len(ours[split]) == len(theirs[split])
        for one, other in zip(ours[split], theirs[split], strict=True):
            if "id_column" not in options:  # by number here, by file there
                assert one.pop("id").startswith(f"{split}/row#") and other.pop("id")
            assert one == other
        assert ours[split].select_columns(["text"])[2] == theirs[split].select_columns(["text"])[2]
    assert (
        len({row["id"] for row in find_source("hub").open(tmp_path / "set", streamed=True, **options).load()["test"]})
        == 5
    )


# -- order -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("window", [1, 3, 64])
@pytest.mark.parametrize("workers", [0, 2, 3])
@pytest.mark.parametrize("processes", [1, 2, 4])
def test_every_row_comes_once_an_epoch(tmp_path, monkeypatch, processes, workers, window):
    monkeypatch.setattr(streamed_module, "WINDOW_GROUPS", window)
    rows = stream_shards(write(tmp_path, {"train": 61}))["train"]
    for count in (61, 60, 33, 3, 1):
        order = StreamOrder(rows.select(range(count)), 4, processes, workers, 7)
        epochs = []
        for epoch in (0, 1, 0):
            order.set_epoch(epoch)
            parts = [list(order.batches(process)) for process in range(processes)]
            assert len({len(part) for part in parts}) == 1
            for together in list(zip(*parts, strict=True))[:-1]:
                assert [len(part) for part in together] == [4] * processes
            last = [len(part[-1]) for part in parts]
            assert max(last) - min(last) <= 1 and last == sorted(last, reverse=True)
            flat = [row for together in zip(*parts, strict=True) for part in together for row in part]
            assert sorted(flat) == list(range(count)) and list(order) == flat
            epochs.append(flat)
            for drops in (False, True):
                dealt = [DealtBatches(BatchSampler(order, 4, drops), processes, each) for each in range(processes)]
                for each, part in zip(dealt, parts, strict=True):
                    found = list(each)
                    assert len(found) == len(each) == (count // (4 * processes) if drops else len(part))
                    assert all(one == other for one, other in zip(found, part, strict=False) if other)
                    assert each.ends_idle == (not drops and not part[-1])
        assert epochs[0] == epochs[2] and (count < 30 or epochs[0] != epochs[1])


def test_each_worker_reads_its_own_part(tmp_path, monkeypatch):
    monkeypatch.setattr(streamed_module, "WINDOW_GROUPS", 2)
    rows = stream_shards(write(tmp_path, {"train": 200}))["train"]
    order, groups = StreamOrder(rows, 5, 2, 2, 0), []
    for process in range(2):
        batches = list(order.batches(process))
        for worker in range(2):
            groups.append({row // 4 for batch in batches[worker::2] for row in batch})
    assert sum(map(len, groups)) <= 50 + 2 * 4  # of 50 row groups; a window on a border is read by both sides


# -- damage, refusals --------------------------------------------------------------------------------------------------


def damage(path):
    content = bytearray(path.read_bytes())
    content[300] ^= 4
    path.write_bytes(content)


def test_a_damaged_page_is_named(folder):
    path = folder / "train" / "train-000-00002.parquet"
    damage(path)
    rows = stream_shards(folder)["train"]
    assert rows[0]["id"] == "train/0"
    with pytest.raises(DataFormatError, match="train-000-00002.parquet: cannot be read .*It is damaged"):
        list(rows)
    with pytest.raises(DataFormatError, match="train-000-00002.parquet: damaged") as told:
        list(load_shards(folder, streaming=True)["train"])
    assert "\n" not in str(told.value)
