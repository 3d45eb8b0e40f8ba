"""The studies of `benchmarks/` can be read, and their tables are what `clcr train` takes."""

import sys
from pathlib import Path

import numpy as np
import pytest

from clcr_hf.study import read_study
from clcr_hf.training.arguments import parse_args
from clcr_hf.training.data import load_data

sys.path.append(str(Path(__file__).resolve().parent.parent / "benchmarks"))

import planted_task
import tables

STUDIES = sorted((Path(tables.__file__).parent / "studies").glob("*.yaml"))


@pytest.mark.parametrize("path", STUDIES, ids=[path.stem for path in STUDIES])
def test_a_study_says_which_table_it_wants(path):
    study = read_study(path)
    assert len(study.seeds) >= 5 and study.first == "CLCR"
    if study.arguments.get("dataset") == "talking_faces":  # which training makes
        return
    source = study.arguments["data_file"] if study.features is None else study.features.source
    name = Path(source).stem
    table = name.removesuffix("_{seed}")
    known = tables.TABLES if name == table else tables.GENERATED
    said = path.read_text(encoding="utf-8").replace('"', "")
    assert table in known and f"tables.py {table} tables/{name}.parquet" in said


@pytest.mark.parametrize("name", ["utd_mhad_prepared", "ravdess_prepared"])
def test_a_table_of_real_data_is_one_that_training_takes(name, real_data, tmp_path):
    tables.write(tables.TABLES[name](real_data), tmp_path / "table.parquet")
    data = load_data(parse_args(["--data_file", str(tmp_path / "table.parquet"), "--group_column", "person"])[1])
    people = {split: set(rows["person"]) for split, rows in data.splits.items()}
    assert set(people) == {"train", "validation", "test"}
    assert not people["train"] & people["validation"] and not people["train"] & people["test"]
    assert len(data.labels.names) == (27 if name.startswith("utd") else 8)


def test_videos_of_mosi_come_with_a_label_an_utterance(real_data, tmp_path):
    tables.write(tables.mosi_videos_prepared(real_data), tmp_path / "table.parquet")
    words = ["--dataset_options", "task=segments", "--validation_fraction", "0"]
    data = load_data(parse_args(["--data_file", str(tmp_path / "table.parquet"), *words])[1])
    assert {name: len(rows) for name, rows in data.splits.items()} == {"train": 62, "test": 31}
    assert data.labels.per_segment and data.labels.names == ["negative", "positive"]
    assert sum(map(len, data.splits["test"]["labels"])) == 752
    for row in data.splits["test"]:
        assert len(row["labels"]) == len(row["text_features"]) == len(row["vision_features"])


def test_planted_tokens_come_to_training_with_their_levels(tmp_path):
    tables.write(tables.planted_tokens(3, 20, (5, 6)), tmp_path / "table.parquet")
    data = load_data(parse_args(["--data_file", str(tmp_path / "table.parquet")])[1])
    samples = planted_task.generate(3, (20, 5, 6))
    for name, part in zip(("train", "validation", "test"), samples, strict=True):
        rows = data.splits[name]
        np.testing.assert_array_equal(np.array(rows["audio_features"][:]), part.features["audio"])
        np.testing.assert_allclose(rows["label"], part.labels)
    assert data.labels.problem_type == "regression" and data.labels.label_scale is None
