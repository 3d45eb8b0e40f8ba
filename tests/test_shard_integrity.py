"""What a writer recorded of its shards is compared when they are read: nothing missing, altered or strange passes."""

import json
import shutil
from functools import partial
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from extract_backbones import save_text

from clcr_hf.cli.main import main
from clcr_hf.data import load_shards
from clcr_hf.data.columns import DataFormatError
from clcr_hf.data.convert import convert
from clcr_hf.data.shard_rows import read_shards
from clcr_hf.data.shards import check_shards, shard_files
from clcr_hf.extract import extract_features

SHARD = "train/train-000-00001.parquet"


@pytest.fixture(autouse=True)
def cache(tmp_path_factory, monkeypatch):
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path_factory.mktemp("cache"))


@pytest.fixture(scope="module")
def source(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("source") / "u.npz"
    text = np.random.default_rng(0).normal(size=(20, 40)).astype(np.float32)
    names = np.array([f"v{i}" for i in range(20)])
    np.savez(path, text=text, label=np.arange(20) % 2, video_id=names, split=["train"] * 16 + ["test"] * 4)
    return path


@pytest.fixture(scope="module")
def converted(source, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("converted") / "shards"
    convert("utterances", source, folder, rows_per_shard=4)
    return folder


@pytest.fixture
def folder(converted, tmp_path) -> Path:
    """A copy, to be damaged."""
    return Path(shutil.copytree(converted, tmp_path / "shards"))


def flip(path: Path, at: int, bit: int = 0) -> None:
    content = bytearray(path.read_bytes())
    content[at] ^= 1 << bit
    path.write_bytes(content)


def test_the_record_names_every_shard(converted):
    record = json.loads((converted / "convert.json").read_text())["shards"]
    files = [path for split in ("train", "test") for path in shard_files(converted, split)]
    assert set(record) == {path.relative_to(converted).as_posix() for path in files} and len(files) == 5
    assert [entry["rows"] for entry in record.values()] == [4] * 5
    assert all(entry["bytes"] == (converted / name).stat().st_size for name, entry in record.items())
    load_shards(converted, verify=True)


def test_every_flipped_bit_is_found_by_verification(folder):
    """At 30 places of a shard, the ends and what lies between."""
    shard = folder / SHARD
    whole = shard.read_bytes()
    for number, at in enumerate(np.linspace(0, len(whole) - 1, 30).astype(int)):
        flip(shard, at, number % 8)
        with pytest.raises(DataFormatError, match=SHARD) as error:
            check_shards(folder, verify=True)
        assert "\n" not in str(error.value)
        shard.write_bytes(whole)
    check_shards(folder, verify=True)


def test_flipped_values_are_found_without_verification(folder, monkeypatch, tmp_path):
    """Pages have checksums: no value is read that was not written."""
    shard = folder / SHARD
    whole, rows = shard.read_bytes(), load_shards(folder)["train"][:]
    chunks = pq.read_metadata(shard).row_group(0)
    ends = [chunks.column(i) for i in range(chunks.num_columns)]
    begins = [(column.dictionary_page_offset or column.data_page_offset) for column in ends]
    last = max(begin + column.total_compressed_size for begin, column in zip(begins, ends, strict=True))
    found = 0
    for number, at in enumerate(np.linspace(4, last - 1, 30).astype(int)):
        flip(shard, at, number % 8)
        monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path / f"cache {number}")
        try:
            assert load_shards(folder)["train"][:] == rows  # a bit of a header that no value depends on
        except DataFormatError as error:
            assert SHARD in str(error)
            found += 1
        shard.write_bytes(whole)
    assert found > 20


def test_sizes_and_counts_are_always_compared(folder, converted):
    shard, other = folder / SHARD, folder / "train/train-000-00002.parquet"
    whole = shard.read_bytes()

    def one_row_less():
        record = json.loads((folder / "convert.json").read_text())
        record["shards"][SHARD]["rows"] -= 1
        (folder / "convert.json").write_text(json.dumps(record))

    for damage, message in (
        (shard.unlink, "missing"),
        (lambda: shard.write_bytes(whole[:-1]), "altered, it has"),
        (lambda: shard.write_bytes(whole + b"\0"), "altered, it has"),
        (one_row_less, "altered, it has 4 rows and 3 were written"),
        (lambda: shutil.copy(other, folder / "train/train-001-00000.parquet"), "its record does not name it"),
        (lambda: shutil.rmtree(folder / "test"), "test-000-00000.parquet: missing"),
    ):
        damage()
        for read in (load_shards, read_shards, check_shards):
            with pytest.raises(DataFormatError, match=message) as error:
                read(folder)
            assert ".parquet" in str(error.value) and "\n" not in str(error.value)
        shutil.rmtree(folder)
        shutil.copytree(converted, folder)
    load_shards(folder)


def test_convert_looks_at_what_it_finished(folder, source):
    (folder / SHARD).unlink()
    with pytest.raises(DataFormatError, match=f"{SHARD}: missing.*`clcr convert` into a new folder"):
        convert("utterances", source, folder, rows_per_shard=4)


def test_ids_that_come_twice_are_refused_before_the_record(tmp_path, monkeypatch):
    from clcr_hf.data import convert as module

    table = tmp_path / "t.csv"
    table.write_text("id,text,label,split\na,hello,1,train\nb,hello,0,test\n")
    open_source = module.find_source

    def twice(name):
        source = open_source(name)

        class Twice:
            by_name, check, options = source.by_name, source.check, source.options

            @staticmethod
            def open(*arguments, **options):
                rows = source.open(*arguments, **options)
                stream = rows.stream
                rows.stream = lambda: ((split, {**row, "id": "a"}) for split, row in stream())
                return rows

        return Twice

    monkeypatch.setattr(module, "find_source", twice)
    with pytest.raises(DataFormatError, match="1 ids come twice"):
        convert("manifest", table, tmp_path / "out")
    assert not (tmp_path / "out" / "convert.json").exists()


def test_folders_of_older_versions_open(folder):
    record = json.loads((folder / "convert.json").read_text())
    del record["shards"]
    (folder / "convert.json").write_text(json.dumps(record))
    assert len(load_shards(folder)["train"]) == 16
    with pytest.raises(DataFormatError, match="no hashes to verify"):
        load_shards(folder, verify=True)


@pytest.mark.parametrize("shards", [[], 3, {SHARD: None}, {SHARD: {}}, {SHARD: {"bytes": "many", "rows": 4}}])
def test_a_damaged_record_is_one_typed_error(shards, folder):
    record = json.loads((folder / "convert.json").read_text())
    record["shards"] = {**record["shards"], **shards} if isinstance(shards, dict) else shards
    (folder / "convert.json").write_text(json.dumps(record))
    with pytest.raises(DataFormatError, match="convert.json: `shards` is not as|altered"):
        load_shards(folder)


def test_training_verifies_where_asked(folder, tmp_path, capsys):
    """A flip in the last bytes of a shard's pages; the run ends before anything is trained."""
    flip(folder / SHARD, 200)
    words = ["train", "--dataset_dir", str(folder), "--output_dir", str(tmp_path / "run"), "--use_cpu", "True"]
    with pytest.raises(SystemExit) as stop:
        main([*words, "--verify", "True"])
    (line,) = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error")]
    assert stop.value.code == 1 and f"{SHARD}: altered, its hash" in line
    assert not list((tmp_path / "run").iterdir())


# -- extraction writes into a finished folder again --------------------------------------------------------------------


@pytest.fixture
def extracted(tmp_path):
    """A folder of features, and what makes it again."""
    backbone = save_text(tmp_path / "bert")
    (tmp_path / "t.csv").write_text("id,text\n" + "".join(f"{i},hello a good one\n" for i in range(5)))
    again = partial(
        extract_features, tmp_path / "t.csv", tmp_path / "out", text=backbone, device="cpu", rows_per_shard=2
    )
    again()
    return tmp_path / "out", again


@pytest.mark.parametrize("number", [0, 2])
def test_a_shard_that_was_removed_is_extracted_anew(number, extracted, monkeypatch):
    out, again = extracted
    (out / f"train/train-000-0000{number}.parquet").unlink()
    with pytest.raises(DataFormatError, match=f"0{number}.parquet: missing"):
        load_shards(out)
    with monkeypatch.context() as patch:  # stopped after its rows were written
        patch.setattr("clcr_hf.extract.run.finish", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            again()
    again()
    assert sorted(load_shards(out, verify=True)["train"]["id"]) == list("01234")


def test_an_altered_shard_does_not_become_the_record(extracted):
    out, again = extracted
    shard = out / "train/train-000-00000.parquet"
    flip(shard, 300)
    for _ in range(2):
        with pytest.raises(DataFormatError, match="00000.parquet: altered since it was written"):
            again()
    shard.unlink()
    again()
    assert sorted(load_shards(out, verify=True)["train"]["id"]) == list("01234")
