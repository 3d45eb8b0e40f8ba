"""The studies of `benchmarks/` can be read, and their tables are what `clcr train` takes."""

import sys
from pathlib import Path

import pytest

from clcr_hf.study import read_study
from clcr_hf.training.arguments import parse_args
from clcr_hf.training.data import load_data

sys.path.append(str(Path(__file__).resolve().parent.parent / "benchmarks"))

import tables

STUDIES = sorted((Path(tables.__file__).parent / "studies").glob("*.yaml"))


@pytest.mark.parametrize("path", STUDIES, ids=[path.stem for path in STUDIES])
def test_a_study_says_which_table_it_wants(path):
    study = read_study(path)
    table = Path(study.arguments["data_file"]).stem
    assert table in tables.TABLES and f"tables.py {table} tables/{table}.parquet" in path.read_text(encoding="utf-8")
    assert len(study.seeds) >= 5 and study.first == "CLCR"


@pytest.mark.parametrize("name", ["utd_mhad_prepared", "ravdess_prepared"])
def test_a_table_of_real_data_is_one_that_training_takes(name, real_data, tmp_path):
    tables.write(tables.TABLES[name](real_data), tmp_path / "table.parquet")
    data = load_data(parse_args(["--data_file", str(tmp_path / "table.parquet"), "--group_column", "person"])[1])
    people = {split: set(rows["person"]) for split, rows in data.splits.items()}
    assert set(people) == {"train", "validation", "test"}
    assert not people["train"] & people["validation"] and not people["train"] & people["test"]
    assert len(data.labels.names) == (27 if name.startswith("utd") else 8)
