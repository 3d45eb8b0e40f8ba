"""Rows that a second process reads while the first one trains: the same rows, and nothing said twice or lost."""

import json
import logging
import os
import signal
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

import clcr_hf.samples as module
from clcr_hf.media import MediaError, write_video
from clcr_hf.training.arguments import DataArguments, ModelArguments
from clcr_hf.training.build import build_processor
from clcr_hf.training.data import load_data
from clcr_hf.training.read_ahead import ReadAhead, read_ahead
from clcr_hf.training.rows import ClipRows, prepare
from clcr_hf.training.run import choose_columns

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="rows are read ahead on Linux alone")
CLIPS = 12


@pytest.fixture(scope="module")
def table(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Clips of half a second with a label, the last four for validation; numbers 1 and 9 are no video."""
    folder, rng = tmp_path_factory.mktemp("clips"), np.random.default_rng(0)
    lines = ["id,media,text,label,split"]
    for number in range(CLIPS):
        frames = rng.integers(0, 255, (8, 24, 32, 3), dtype=np.uint8)
        path = write_video(folder / f"{number}.mp4", frames, 16, rng.normal(0, 0.1, 8000).astype(np.float32), 16_000)
        if number in (1, 9):
            path.write_bytes(b"this is no video" * 20)
        lines.append(f"clip{number},{path.name},one two,{number % 3},{'train' if number < 8 else 'validation'}")
    (folder / "rows.csv").write_text("\n".join(lines))
    return folder / "rows.csv"


def rows_of(table: Path, **options: Any) -> dict[str, ClipRows]:
    torch.manual_seed(0)
    args = DataArguments(dataset="manifest", data_file=str(table), image_size=16, video_frames=4, **options)
    model_args = ModelArguments(modalities=["text", "vision", "audio"])
    data = load_data(args, model_args.modalities)
    columns = choose_columns(model_args, data)
    return prepare(data.splits, columns, args, build_processor(model_args, args, data, columns))


def items(splits: dict[str, ClipRows]) -> list[dict[str, Any]]:
    for rows in splits.values():
        rows.set_epoch(1)
    return [rows[index] for rows in splits.values() for index in range(len(rows))]


def read_to_the_end(ahead: ReadAhead) -> None:
    ahead._process.join(60)
    assert ahead._process.exitcode == 0
    ahead._thread.join(60)


def assert_same(ours: list[dict[str, Any]], theirs: list[dict[str, Any]]) -> None:
    assert len(ours) == len(theirs)
    for one, other in zip(ours, theirs, strict=True):
        assert one.keys() == other.keys()
        for name, value in other.items():
            assert type(one[name]) is type(value), name
            same = torch.equal(one[name], value) if isinstance(value, torch.Tensor) else one[name] == value
            assert same, name


@pytest.mark.parametrize("augment", [False, True])
def test_the_rows_are_the_same_and_are_decoded_by_the_other_process(table, augment, monkeypatch):
    expected, splits = items(rows_of(table, augment=augment)), rows_of(table, augment=augment)
    read, opened = module.load_media, []
    with ReadAhead(list(splits.values())) as ahead:
        read_to_the_end(ahead)
        monkeypatch.setattr(module, "load_media", lambda *path, **how: opened.append(path) or read(*path, **how))
        assert_same(items(splits), expected)
    assert len(opened) == 2  # those that cannot be read


def test_rows_are_the_same_while_it_reads_and_after_it_died(table):
    expected = items(rows_of(table))
    for killed in (False, True):
        splits = rows_of(table)
        with ReadAhead(list(splits.values())) as ahead:
            if killed:
                os.kill(ahead._process.pid, signal.SIGKILL)
            assert_same(items(splits), expected)
        assert not ahead._process.is_alive()


def test_what_cannot_be_read_is_said_once(table, caplog):
    splits = rows_of(table)
    with ReadAhead(list(splits.values())) as ahead, caplog.at_level(logging.WARNING, "clcr_hf.data"):
        read_to_the_end(ahead)
        assert not caplog.records
        for _ in range(2):
            items(splits)
    assert [caplog.text.count(f"clip {name} cannot be read") for name in ("clip1", "clip9")] == [1, 1]
    assert splits["train"].unreadable == {"clip1"} and splits["validation"].unreadable == {"clip9"}


def test_strict_media_stops_at_the_row(table):
    splits = rows_of(table, strict_media=True, check_media=False)
    with ReadAhead(list(splits.values())) as ahead:
        read_to_the_end(ahead)
        assert len(splits["train"][0]) > 2
        with pytest.raises(MediaError):
            splits["train"][1]


def test_no_more_is_kept_than_there_is_room_for(table):
    size = sum(value.nbytes for value in items(rows_of(table))[0].values() if isinstance(value, torch.Tensor))
    splits = rows_of(table, cache_gb=4.5 * size / 2**30)  # room for three rows of training, and one of validation
    with ReadAhead(list(splits.values())) as ahead:
        read_to_the_end(ahead)
        items(splits)
    for rows, least, room in zip(splits.values(), (3, 1), (3 * size, 1.5 * size), strict=True):
        assert len(rows._kept) >= least
        assert sum(map(rows.size_of, rows._kept.values())) <= room


def test_where_it_is_of_no_use_no_process_begins(table, monkeypatch):
    splits = list(rows_of(table).values())
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {0, 1})
    with read_ahead(splits, processes=1, workers=0) as begun:
        assert isinstance(begun, ReadAhead)
    none = [(splits, 2, 0), (splits, 1, 1), (list(rows_of(table, cache_gb=0).values()), 1, 0), ([], 1, 0)]
    for case in none:
        with read_ahead(*case) as begun:
            assert begun is None
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {0})
    with read_ahead(splits, processes=1, workers=0) as begun:
        assert begun is None


@pytest.mark.slow
def test_a_run_killed_in_its_first_pass_goes_on_exactly(forge, table, tmp_path):
    """One that was not stopped, and read on one core; and one that was killed twice while rows were read ahead."""
    words = [
        *("--dataset=manifest", f"--data_file={table}", "--num_train_epochs=2", "--per_device_train_batch_size=2"),
        *("--save_strategy=steps", "--save_steps=1", "--eval_strategy=epoch", "--load_best_model_at_end=False"),
        *("--image_size=16", "--video_frames=4", "--hidden_size=16", "--backbone_size=16", "--augment=True"),
        *("--disable_tqdm=True", "--use_cpu=True", "--resume_from_checkpoint=auto", "--label_scale=none"),
    ]
    codes, said = forge(*words, f"--output_dir={tmp_path / 'whole'}", "--dataloader_num_workers=1")
    assert codes == [0], said
    for checkpoint in ("checkpoint-2", "checkpoint-3"):
        codes, said = forge(*words, f"--output_dir={tmp_path / 'killed'}", write=(checkpoint, 3))
        assert codes == [-signal.SIGKILL], said
    codes, said = forge(*words, f"--output_dir={tmp_path / 'killed'}")
    assert codes == [0], said
    ours, theirs = (load_file(tmp_path / name / "model.safetensors") for name in ("killed", "whole"))
    assert not [name for name in theirs if not torch.equal(ours[name], theirs[name])]
    figures = [
        json.loads((tmp_path / name / "eval_results.json").read_text())["eval_mae"] for name in ("killed", "whole")
    ]
    assert figures[0] == figures[1]


def test_the_process_ends_with_the_run(table):
    """With one that is killed, too: its folder is free at once."""
    splits = list(rows_of(table).values())
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        os.write(writer, str(ReadAhead(splits)._process.pid).encode())
        signal.pause()
    helper = int(os.read(reader, 20))
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    until = time.monotonic() + 20
    while time.monotonic() < until:
        try:
            state = Path(f"/proc/{helper}/stat").read_text().rpartition(")")[2].split()[0]
        except FileNotFoundError:
            return
        if state == "Z":
            return
        time.sleep(0.05)
    raise AssertionError("the process that reads ahead lives on")
