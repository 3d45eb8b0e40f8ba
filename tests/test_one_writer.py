"""A folder has one writer: a second one gets one line and touches nothing, and a killed one leaves the way free."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from extract_backbones import save_text

from clcr_hf.cli.learn import run_script
from clcr_hf.cli.main import main
from clcr_hf.data.columns import DataFormatError
from clcr_hf.data.folders import only_writer

REFUSED = "is being written by another process"


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.fixture
def table(tmp_path) -> Path:
    path = tmp_path / "t.csv"
    path.write_text("text,label,split\n" + "".join(f"hello {i},{i % 2},train\n" for i in range(8)))
    return path


def commands(table: Path, out: Path) -> dict[str, list[str]]:
    return {
        "convert": ["convert", "manifest", str(table), str(out)],
        "extract": ["extract", str(table), str(out), "--text", str(table.parent / "bert"), "--device", "cpu"],
        "train": ["train", "--data_file", str(table), "--output_dir", str(out), "--use_cpu", "True"],
    }


@pytest.mark.parametrize("command", ["convert", "extract", "train"])
def test_a_second_writer_gets_one_line_and_touches_nothing(command, table, tmp_path, capsys):
    out = tmp_path / "out"
    out.mkdir()
    (out / "there.txt").write_text("of the first writer")
    save_text(tmp_path / "bert")
    with only_writer(out):
        before = contents(out)
        with pytest.raises(SystemExit) as stop:
            main(commands(table, out)[command])
        assert contents(out) == before
    (line,) = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error")]
    assert stop.value.code == 1 and line == f"error: {out} {REFUSED}; wait for it"


def test_the_alignment_stage_alone_is_such_a_writer(table, tmp_path, monkeypatch, capsys):
    words = [
        "run_pretraining.py",
        "--data_file",
        str(table),
        "--output_dir",
        str(tmp_path / "out"),
        "--use_cpu",
        "True",
    ]
    monkeypatch.setattr(sys, "argv", words)
    with only_writer(tmp_path / "out"), pytest.raises(SystemExit) as stop:
        run_script(pretraining=True)
    assert stop.value.code == 1 and REFUSED in capsys.readouterr().err


def test_training_holds_its_folder_from_its_data_to_its_card(table, tmp_path, monkeypatch):
    import clcr_hf.training.run as module

    out, held = tmp_path / "out", []

    def watched(real):
        def call(*arguments, **options):
            with pytest.raises(DataFormatError, match=REFUSED), only_writer(out):
                pass
            held.append(real.__name__)
            return real(*arguments, **options)

        return call

    for name in ("open_data", "write_model_card"):
        monkeypatch.setattr(module, name, watched(getattr(module, name)))
    words = ["--hidden_size", "8", "--backbone_size", "8", "--max_steps", "1", "--baselines", "False"]
    module.main([*commands(table, out)["train"][1:], *words])
    assert held == ["open_data", "write_model_card"] and not list(out.rglob("*.lock"))
    with only_writer(out):
        pass


# Holds the folder, has a child as a data loader has workers, says its id, and is killed.
HELD = """
import multiprocessing, sys, time
from clcr_hf.data.folders import only_writer
with only_writer(sys.argv[1]):
    worker = multiprocessing.get_context("fork").Process(target=time.sleep, args=(600,))
    worker.start()
    print(worker.pid, flush=True)
    time.sleep(600)
"""


def test_a_killed_writer_leaves_the_way_free(tmp_path):
    """Though a worker of it lives on."""
    process = subprocess.Popen([sys.executable, "-c", HELD, str(tmp_path / "out")], stdout=subprocess.PIPE, text=True)
    worker = int(process.stdout.readline())
    try:
        with pytest.raises(DataFormatError, match=REFUSED), only_writer(tmp_path / "out"):
            pass
        process.send_signal(signal.SIGKILL)
        process.wait()
        os.kill(worker, 0)  # it is there; it lets go of the lock as it starts, which a busy machine takes its time for
        deadline = time.monotonic() + 60
        while True:
            try:
                with only_writer(tmp_path / "out"):
                    break
            except DataFormatError:
                assert time.monotonic() < deadline
                time.sleep(0.05)
    finally:
        process.kill()
        os.kill(worker, signal.SIGKILL)
        process.stdout.close()
