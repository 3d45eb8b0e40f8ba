"""Runs with `--streaming True`: every row once an epoch, killed runs that end as one never stopped, the Hub, memory."""

import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from datasets import ClassLabel, Dataset, Features, List, Value
from killed_runs import REPO
from safetensors.torch import load_file
from stand_in_hub import Repository, StandInHub
from streamed_runs import train, worker

from clcr_hf.data.shards import ShardWriter, load_shards, stream_shards
from clcr_hf.training.statistics import feature_statistics, label_statistics

NEEDS_GLOO = pytest.mark.skipif(
    not dist.is_available() or not dist.is_gloo_available(), reason="needs torch.distributed with gloo"
)
ROWS = 130  # in as many row groups, of which 64 are a window
TYPES = Features(
    {
        "id": Value("string"),
        "vision_features": List(List(Value("float32"), length=7)),
        "audio_features": List(List(Value("float32"), length=5)),
        "label": Value("float32"),
    }
)
SETTINGS = {
    "num_train_epochs": 3,
    "per_device_train_batch_size": 8,  # 17 batches, the last one of two rows
    "hidden_size": 16,
    "save_strategy": "steps",
    "eval_strategy": "epoch",
    "save_steps": 4,
    "logging_steps": 5,
    "load_best_model_at_end": False,
    "calibrate": False,
    "augment_features": True,
    "disable_tqdm": True,
    "use_cpu": True,
    "report_to": "none",
    "resume_from_checkpoint": "auto",
    "streaming": True,
}
AMID_SECOND = "'epoch': '1.471'"


def make_rows(count: int, seed: int) -> list[dict]:
    draw = np.random.default_rng(seed)
    rows = []
    for number in range(count):
        steps = int(draw.integers(8, 12))
        row = {"id": f"{seed}/{number}", "label": float(number)}
        row |= {f"{n}_features": draw.normal(size=(steps, w)).astype("f4") for n, w in (("vision", 7), ("audio", 5))}
        rows.append(row)
    return rows


@pytest.fixture(scope="module")
def shards(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("data") / "shards"
    for split, count in (("train", ROWS), ("validation", 12), ("test", 9)):
        with ShardWriter(folder, split, TYPES, rows_per_shard=1) as writer:
            for row in make_rows(count, len(split)):
                writer.write(row)
    (folder / "convert.json").write_text("{}")
    return folder


# -- every row once ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("workers", [0, 2])
def test_one_process_learns_from_every_row_once(shards, tmp_path, workers):
    seen = train(str(shards), str(tmp_path), 8, workers)
    assert [sorted(seen[epoch]) for epoch in (0, 1)] == [list(range(ROWS))] * 2
    assert seen[0] != seen[1] != sorted(seen[1])
    again = train(str(shards), str(tmp_path), 8, workers)
    assert again == seen


@pytest.mark.slow
@NEEDS_GLOO
@pytest.mark.starts_at_zero
def test_two_processes_share_the_rows(shards, tmp_path):
    """The last batch has two rows of eight; the order is another one with workers."""
    mp.spawn(worker, args=(2, str(shards), str(tmp_path), 4, [0, 2]), nprocs=2)
    for one, other in zip(*(torch.load(tmp_path / f"{rank}.pt") for rank in (0, 1)), strict=True):
        for epoch in (0, 1):
            assert len(one[epoch]) == len(other[epoch]) == ROWS // 2
            assert sorted(one[epoch] + other[epoch]) == list(range(ROWS))


def test_statistics_are_those_of_rows_in_memory(shards):
    ours, theirs = stream_shards(shards)["train"], load_shards(shards)["train"]
    columns = {"vision": "vision_features", "audio": "audio_features"}
    found, expected = feature_statistics(ours, columns), feature_statistics(theirs, columns)
    np.testing.assert_equal(found, expected)
    found, expected = label_statistics(ours), label_statistics(theirs)
    assert found.keys() == expected.keys() and all(found[name] == pytest.approx(expected[name]) for name in found)


# -- killed runs -------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def run(forge, shards):
    def start(folder: Path, ranks: int = 1, fate: dict | None = None, **settings) -> tuple[list[int], str]:
        words = [f"--{name}={value}" for name, value in (SETTINGS | settings).items()]
        return forge(f"--dataset_dir={shards}", f"--output_dir={folder}", *words, ranks=ranks, **(fate or {}))

    return start


@pytest.mark.parametrize(
    ("ranks", "workers", "number"),
    [(1, 0, signal.SIGKILL), (1, 2, signal.SIGTERM), pytest.param(2, 2, signal.SIGKILL, marks=NEEDS_GLOO)],
)
def test_a_run_stopped_amid_an_epoch_ends_as_one_never_stopped(run, forge, tmp_path, ranks, workers, number):
    settings = {"dataloader_num_workers": workers, "per_device_train_batch_size": 8 // ranks}
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    codes, said = run(whole, ranks, **settings)
    assert set(codes) == {0}, said
    codes, said = run(broken, ranks, {"at_log": AMID_SECOND, "signal": number}, **settings)
    assert 0 not in codes and AMID_SECOND in said, said
    assert not (broken / "model.safetensors").exists()
    codes, said = run(broken, ranks, **settings)
    assert set(codes) == {0}, said
    ours, theirs = (load_file(folder / "model.safetensors") for folder in (broken, whole))
    assert ours.keys() == theirs.keys()
    assert not [name for name in theirs if not torch.equal(ours[name], theirs[name])]
    figures = [json.loads((folder / "run.json").read_text())["metrics"] for folder in (broken, whole)]
    assert figures[0]["test_mae"] == figures[1]["test_mae"]
    assert not list((forge.scratch / "cache").rglob("*.arrow"))  # no second copy


def test_what_else_reads_the_rows_does_so(run, tmp_path):
    """The alignment stage, baselines, shares, calibration, limits, and measuring the model later."""
    from clcr_hf.training.run import evaluate_model, evaluation_data

    settings = {"pretrain_epochs": 1, "evidence": "agreement", "baselines": True, "calibrate": True, "max_steps": 3}
    folder = tmp_path / "run"
    codes, said = run(folder, **settings, max_train_samples=100, verify=False)
    assert codes == [0] and "compare: mae on test" in said and "shares:" in said, said
    entry = json.loads((folder / "run.json").read_text())
    assert entry["num_examples"] == {"train": 100, "validation": 12, "test": 9}
    assert entry["metrics"]["pretrain_samples"] == 100 and entry["data_arguments"]["streaming"] is True
    found = evaluate_model(str(folder), evaluation_data(str(folder), []))
    assert found["mae"] == pytest.approx(entry["metrics"]["test_mae"])


def test_other_workers_are_told_that_they_go_on_otherwise(run, tmp_path):
    codes, said = run(tmp_path / "run", max_steps=20, do_predict=False, baselines=False)
    assert codes == [0], said
    codes, said = run(tmp_path / "run", max_steps=21, dataloader_num_workers=2, do_predict=False, baselines=False)
    assert codes == [0] and "the rest of this epoch is streamed in another order" in said


# -- the Hub -----------------------------------------------------------------------------------------------------------

CLASSES = ClassLabel(names=["bad", "good"])


@pytest.fixture(scope="module")
def hub(tmp_path_factory):
    with StandInHub() as hub:
        folder, draw = tmp_path_factory.mktemp("repository"), np.random.default_rng(0)
        types = Features({"gaze_features": List(List(Value("float32"))), "sentence": Value("string"), "label": CLASSES})
        repository = hub.repositories["org/clips"] = Repository("org/clips")
        blobs = {}
        for split, count in (("train", 40), ("test", 6)):
            columns = {
                "gaze_features": [draw.normal(size=(3, 4)).tolist() for _ in range(count)],
                "sentence": ["good" if k % 2 else "bad" for k in range(count)],
                "label": [k % 2 for k in range(count)],
            }
            path = folder / f"{split}.parquet"
            Dataset.from_dict(columns, features=types).to_parquet(path, batch_size=8)
            blobs[f"data/{split}-00000-of-00001.parquet"] = hub.add_blob(path.read_bytes())
        repository.commit(blobs, "main")
        films = hub.repositories["org/table"] = Repository("org/table")
        films.commit({"train.csv": hub.add_blob(b"text,label\na,0\nb,1\n")}, "main")
        yield hub


def clcr(hub, tmp_path, *words: str) -> subprocess.CompletedProcess:
    environment = (
        os.environ | hub.environment(tmp_path / "cache") | {"HF_DATASETS_OFFLINE": "0", "PYTHONPATH": str(REPO)}
    )
    command = [sys.executable, "-m", "clcr_hf.cli", "train", *words]
    return subprocess.run(command, capture_output=True, text=True, env=environment, cwd=tmp_path)


def test_a_data_set_of_the_hub_is_streamed(hub, tmp_path):
    words = "--dataset_name org/clips --streaming True --max_steps 8 --hidden_size 16 --backbone_size 16 --use_cpu"
    words += " --per_device_train_batch_size 8 --report_to none --output_dir run --dataloader_num_workers 2"
    done = clcr(hub, tmp_path, *words.split())
    assert done.returncode == 0, done.stderr[-3000:]
    entry = json.loads((tmp_path / "run" / "run.json").read_text())
    assert sum(entry["num_examples"][name] for name in ("train", "validation")) == 40
    assert entry["metrics"]["test_samples"] == 6 and set(entry["modalities"]) == {"text", "gaze"}
    kept = [path for path in (tmp_path / "cache").rglob("*") if path.is_file()]
    assert not [path for path in kept if path.suffix == ".arrow" or path.read_bytes()[:4] == b"PAR1"]
    assert any("resolve" in each and "parquet" in each for each in hub.requests) and hub.ranges


def test_what_is_no_parquet_is_not_streamed(hub, tmp_path):
    done = clcr(hub, tmp_path, "--dataset_name", "org/table", "--streaming", "True", "--output_dir", "run")
    assert done.returncode == 1 and "error: org/table: Parquet is streamed" in done.stderr, done.stderr
    assert "Traceback" not in done.stderr


# -- refusals ----------------------------------------------------------------------------------------------------------


def test_a_damaged_shard_ends_a_run_in_one_line(run, shards, tmp_path):
    copy = shutil.copytree(shards, tmp_path / "shards")
    path = copy / "train" / "train-000-00077.parquet"
    content = bytearray(path.read_bytes())
    content[300] ^= 4
    path.write_bytes(content)
    for workers in (0, 2):
        words = {"dataset_dir": copy, "dataloader_num_workers": workers, "feature_norm": "none"}
        codes, said = run(tmp_path / f"run{workers}", **words, baselines=False)
        told = [line for line in said.splitlines() if line.startswith("error")]
        assert codes == [1] and len(told) == 1 and "train-000-00077.parquet: cannot be read" in told[0], said


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"dialogue_column": "id"}, "dialogues are put together in memory; leave out --streaming"),
        ({"compute_flow": True}, "--compute_flow keeps the flow of all rows"),
        ({"train_sampling_strategy": "group_by_length"}, "are shuffled where they lie"),
    ],
)
def test_what_cannot_be_streamed_is_one_line(run, tmp_path, settings, message):
    codes, said = run(tmp_path / "run", **settings)
    told = [line for line in said.splitlines() if line.startswith("error")]
    assert codes == [1] and len(told) == 1 and message in told[0], said


def test_a_table_is_not_streamed():
    from clcr_hf.training.arguments import DataArguments

    with pytest.raises(ValueError, match="--dataset manifest does not use --streaming"):
        DataArguments(data_file="rows.csv", streaming=True)
