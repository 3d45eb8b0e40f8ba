"""Runs that are killed, stopped and started again: which checkpoint they go on from, and that the end is the same.

"The same" is to the bit: weights, and the optimiser's state at the last step.
"""

import json
import os
import random
import shutil
import signal
import subprocess
import time
from pathlib import Path

import pytest
import torch
from killed_runs import write_table
from safetensors.torch import load_file
from test_trainer import make_trainer
from transformers import Trainer, TrainerCallback

from clcr_hf.training.checkpoints import MARK, fault, find_checkpoint, finish, rotate
from clcr_hf.training.stopping import StopSignals, TrainingStopped

STEPS = 24  # of the run: 3 passes over 32 rows in batches of 4
SETTINGS = {
    "num_train_epochs": 3,
    "per_device_train_batch_size": 4,
    "hidden_size": 16,
    "save_strategy": "steps",
    "eval_strategy": "steps",
    "save_steps": 4,
    "save_total_limit": 3,  # the newest, the one before it, and the best
    "eval_steps": 4,
    "logging_steps": 5,
    "load_best_model_at_end": False,
    "do_predict": False,
    "baselines": False,
    "calibrate": False,
    "disable_tqdm": True,
    "use_cpu": True,
    "resume_from_checkpoint": "auto",
}
# What draws random numbers beside the model.
DRAWING = {"augment_features": True, "train_sampling_strategy": "group_by_length"}
SECOND_PASS = "'epoch': '1.25'"  # in the log, amid the second of three passes over the rows
WORKERS = {"dataloader_num_workers": 2, "dataloader_persistent_workers": True}


@pytest.fixture(scope="module")
def table(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("table") / "rows.parquet"
    return write_table(path, lambda rng: [str(each) for each in rng.integers(0, 2, 48)])


@pytest.fixture(scope="module")
def run(forge, table):
    """Starts the script on the table: `run(folder, **settings and fate)`."""

    def start(folder: Path, ranks: int = 1, fate: dict | None = None, **settings) -> tuple[list[int], str]:
        words = [f"--{name}={value}" for name, value in (SETTINGS | settings).items()]
        return forge(f"--data_file={table}", f"--output_dir={folder}", *words, ranks=ranks, **(fate or {}))

    return start


@pytest.fixture(scope="module")
def unbroken(run, tmp_path_factory):
    """The folder of a run that nothing stopped, made once for each choice of settings."""
    made: dict[str, Path] = {}

    def find(ranks: int = 1, **settings) -> Path:
        key = json.dumps([ranks, settings])
        if key not in made:
            folder = tmp_path_factory.mktemp("unbroken") / "run"
            codes, said = run(folder, ranks, **settings)
            assert set(codes) == {0}, said
            made[key] = folder
        return made[key]

    return find


def assert_same_end(folder: Path, expected: Path) -> None:
    """Both runs ended with the same weights and the same last checkpoint."""
    last = Path(find_checkpoint(expected, "last", _ranks(expected))).name
    assert Path(find_checkpoint(folder, "last", _ranks(expected))).name == last
    for name in ("model.safetensors", f"{last}/model.safetensors"):
        ours, theirs = load_file(folder / name), load_file(expected / name)
        assert ours.keys() == theirs.keys()
        assert not [each for each in theirs if not torch.equal(ours[each], theirs[each])], name
    ours, theirs = (torch.load(each / last / "optimizer.pt", weights_only=True)["state"] for each in (folder, expected))
    for key, state in theirs.items():
        assert all(torch.equal(ours[key][name], value) for name, value in state.items())


def _ranks(folder: Path) -> int:
    return json.loads(next(folder.glob(f"checkpoint-*/{MARK}")).read_text())["processes"]


def _whole(folder: Path, ranks: int = 1) -> list[str]:
    return [each.name for each in folder.glob("checkpoint-*") if fault(each, ranks) is None]


def errors(said: str) -> list[str]:
    return [line for line in said.splitlines() if line.startswith("error")]


# -- kills -------------------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_killed_while_a_checkpoint_is_written(run, unbroken, tmp_path):
    """At 24 of the writes to the third checkpoint: files opened, renamed, half written."""
    expected = unbroken()
    torn = 0
    for number in range(1, 25):
        folder = tmp_path / str(number)
        codes, said = run(folder, fate={"write": ("checkpoint-12", number)})
        assert codes == [-signal.SIGKILL], f"write {number}: {said}"
        assert "checkpoint-8" in _whole(folder)
        half = (folder / "checkpoint-12").exists() and "checkpoint-12" not in _whole(folder)
        torn += half
        codes, said = run(folder)
        assert codes == [0], said
        assert said.count("checkpoint-12 is not whole and is passed over") == half
        assert_same_end(folder, expected)
        shutil.rmtree(folder)
    assert torn >= 20


@pytest.mark.slow
def test_killed_at_any_time(run, unbroken, tmp_path):
    """Twice before a run may go to its end, wherever it is, until twelve kills have hit one."""
    expected, chance, killed = unbroken(), random.Random(0), 0
    begun = time.monotonic()
    run(tmp_path / "measured")
    lasts = time.monotonic() - begun
    for number in range(60):
        folder = tmp_path / str(number)
        for fate in ({"after": chance.uniform(0, lasts)}, {"after": chance.uniform(0, lasts)}, None):
            codes, said = run(folder, fate=fate)
            killed += codes == [-signal.SIGKILL]
            assert codes == [0] or fate is not None, said
        assert_same_end(folder, expected)
        if killed >= 12:
            return
    raise AssertionError(f"{killed} of 120 kills hit a run")


@pytest.mark.slow
def test_one_of_two_ranks_is_killed(run, unbroken, tmp_path):
    expected = unbroken(2, save_steps=2, eval_steps=2)
    fates = [
        {"write": ("rng_state_1", 1), "rank": 1},
        {"write": ("rng_state_1", 2), "rank": 1},
        {"write": ("checkpoint-6", 6), "rank": 0},
        {"write": ("checkpoint-6", 12), "rank": 0},
        {"at_log": "'epoch': '1.5'"},
    ]
    for number, fate in enumerate(fates):
        folder = tmp_path / str(number)
        codes, said = run(folder, 2, fate, save_steps=2, eval_steps=2)
        assert -signal.SIGKILL in codes and 0 not in codes, said
        codes, said = run(folder, 2, save_steps=2, eval_steps=2)
        assert codes == [0, 0], said
        assert_same_end(folder, expected)


def test_killed_before_any_checkpoint_was_whole(run, unbroken, tmp_path):
    codes, _ = run(tmp_path / "run", fate={"write": ("checkpoint-4", 5)})
    assert codes == [-signal.SIGKILL] and _whole(tmp_path / "run") == []
    codes, said = run(tmp_path / "run", resume_from_checkpoint="last")
    assert codes == [1]
    assert errors(said)[0].startswith("error: --resume_from_checkpoint last: there is no whole checkpoint in ")
    codes, said = run(tmp_path / "run")
    assert codes == [0] and "passed over" in said
    assert_same_end(tmp_path / "run", unbroken())


@pytest.fixture
def small_disk(tmp_path):
    """A file system of 2 MB."""
    disk = tmp_path / "disk"
    disk.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=2m", "tmpfs", str(disk)], capture_output=True)
    if mounted.returncode:
        pytest.skip(f"DISK FULL IS NOT CHECKED: no tmpfs can be mounted here ({mounted.stderr.decode().strip()})")
    yield disk
    subprocess.run(["umount", "-l", str(disk)], check=True)


@pytest.mark.parametrize("room", [30_000, 150_000, 300_000])  # what is left for the third: weights, optimiser, the rest
def test_the_disk_is_full(run, unbroken, small_disk, room):
    folder = small_disk / "run"
    run(folder, fate={"write": ("checkpoint-12", 1)})
    free = os.statvfs(small_disk)
    ballast = small_disk / "ballast"
    ballast.write_bytes(bytes(free.f_bavail * free.f_frsize - room))
    codes, said = run(folder)
    assert codes == [1], said
    assert len(errors(said)) == 1 and "checkpoint-12 could not be written" in errors(said)[0], said
    assert "Traceback" not in said
    assert "checkpoint-8" in _whole(folder)
    ballast.unlink()
    codes, said = run(folder)
    assert codes == [0], said
    assert_same_end(folder, unbroken())


# -- which checkpoint --------------------------------------------------------------------------------------------------


@pytest.fixture
def two(unbroken, tmp_path) -> Path:
    """A copy of the run; its last checkpoints are 20 and 24."""
    folder = tmp_path / "two"
    shutil.copytree(unbroken(), folder)
    assert {"checkpoint-20", "checkpoint-24"} <= set(_whole(folder))
    return folder


PARTS = ["model.safetensors", "optimizer.pt", "scheduler.pt", "rng_state.pth", "trainer_state.json"]


@pytest.mark.parametrize("marked", [True, False])
@pytest.mark.parametrize("part", PARTS)
def test_a_part_that_is_missing_or_cut_is_named(two, caplog, part, marked):
    newest = two / "checkpoint-24"
    if not marked:
        (newest / MARK).unlink()
    assert find_checkpoint(two, "last") == str(newest)
    os.truncate(newest / part, (newest / part).stat().st_size - 10)
    with pytest.raises(ValueError, match=f"{part} .*; no run can go on from it"):
        find_checkpoint(two, str(newest))
    (newest / part).unlink()
    with pytest.raises(ValueError, match=f"{part} is missing"):
        find_checkpoint(two, str(newest))
    caplog.clear()
    assert find_checkpoint(two, "last") == find_checkpoint(two, "auto") == str(two / "checkpoint-20")
    told = f"{newest} is not whole and is passed over: {part} is missing"
    assert [record.getMessage() for record in caplog.records] == [told, told]


def test_a_named_checkpoint_without_a_part_is_refused_in_one_line(run, two):
    (two / "checkpoint-24" / "optimizer.pt").unlink()
    codes, said = run(two, resume_from_checkpoint=two / "checkpoint-24")
    assert codes == [1]
    assert said.strip().splitlines() == [
        f"error: --resume_from_checkpoint {two}/checkpoint-24: optimizer.pt is missing; no run can go on from it"
    ]


def test_where_there_is_none(tmp_path):
    assert find_checkpoint(tmp_path / "new", "auto") is None
    with pytest.raises(ValueError, match="there is no checkpoint in"):
        find_checkpoint(tmp_path / "new", "last")
    with pytest.raises(ValueError, match="there is no such folder"):
        find_checkpoint(tmp_path, str(tmp_path / "checkpoint-3"))


def test_a_trainer_in_python_passes_over_what_is_not_whole(tmp_path, caplog):
    make_trainer(tmp_path).train()
    (tmp_path / "checkpoint-6" / "scheduler.pt").unlink()
    trainer = make_trainer(tmp_path)
    trainer.train(resume_from_checkpoint=True)
    assert "checkpoint-6 is not whole and is passed over: scheduler.pt is missing" in caplog.text
    assert set(_whole(tmp_path)) == {"checkpoint-3", "checkpoint-6"}


def test_what_goes_to_the_hub_on_the_way_is_whole(tmp_path, monkeypatch):
    sent = []
    monkeypatch.setattr(Trainer, "_push_from_checkpoint", lambda self, folder: sent.append((folder, fault(folder))))
    monkeypatch.setattr(Trainer, "_finish_current_push", lambda self: None)
    trainer = make_trainer(tmp_path)
    trainer.args.push_to_hub = True
    trainer.train()
    assert sent == [(str(tmp_path / name), None) for name in ("checkpoint-3", "checkpoint-6")]


def test_a_run_that_starts_anew_beside_checkpoints_says_so(two, caplog):
    assert find_checkpoint(two, None) is None
    assert "holds checkpoint-24 of an earlier run" in caplog.text


def test_a_rank_whose_random_state_is_missing_is_named(unbroken, tmp_path):
    shutil.copytree(unbroken(2, save_steps=2, eval_steps=2), tmp_path / "run")
    for newest in (tmp_path / "run").glob("checkpoint-*"):
        (newest / MARK).unlink()
        assert fault(newest, 2) is None
        (newest / "rng_state_1.pth").unlink()
        assert fault(newest, 2) == "rng_state_1.pth is missing"


def test_another_number_of_processes_goes_on_and_is_said(two, caplog):
    assert find_checkpoint(two, "last", 2) == str(two / "checkpoint-24")
    assert "was written by 1 processes and goes on in 2" in caplog.text


def test_rotation_keeps_the_new_one_the_best_one_and_no_torn_ones(tmp_path):
    for age, step in enumerate((30, 40, 4, 8, 12, 16)):  # 30 and 40 of an earlier run
        folder = tmp_path / f"checkpoint-{step}"
        folder.mkdir()
        (folder / "optimizer.pt").write_bytes(b"state")
        finish(folder, 1)
        os.utime(folder, (age, age))
    (tmp_path / "checkpoint-12" / MARK).write_text('{"files": null}')
    rotate(tmp_path / "checkpoint-16", 3, str(tmp_path / "checkpoint-30"))
    assert {each.name for each in tmp_path.iterdir()} == {"checkpoint-16", "checkpoint-30", "checkpoint-8"}
    rotate(tmp_path / "checkpoint-16", 1, None)
    assert {each.name for each in tmp_path.iterdir()} == {"checkpoint-16"}


# -- signals -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "settings"),
    [
        ("SIGTERM", {}),
        ("SIGUSR1", DRAWING),
        ("SIGINT", DRAWING | WORKERS),
        ("SIGTERM", DRAWING | WORKERS | {"gradient_accumulation_steps": 2}),
        ("SIGTERM", {"save_strategy": "epoch", "eval_strategy": "epoch"}),
        ("SIGTERM", {"load_best_model_at_end": True, "early_stopping_patience": 2}),
    ],
)
def test_a_signal_saves_and_ends_the_run(run, unbroken, tmp_path, name, settings):
    folder, number = tmp_path / "run", signal.Signals[name]
    # To the whole group, as a scheduler or a terminal does it: workers of the data loader get it too.
    codes, said = run(folder, fate={"at_log": SECOND_PASS, "signal": number, "group": True}, **settings)
    assert codes == [128 + number], said
    lines = [line for line in said.splitlines() if line.startswith("stopped by")]
    step = int(find_checkpoint(folder, "last").rpartition("-")[2])
    assert lines == [
        f"stopped by {name} after step {step}: checkpoint-{step} is saved, "
        "--resume_from_checkpoint auto goes on from it"
    ], said
    assert step < STEPS
    assert "Traceback" not in said and "KeyboardInterrupt" not in said
    assert not {"model.safetensors", "run.json", "README.md", "all_results.json"} & set(os.listdir(folder))
    codes, said = run(folder, **settings)
    assert codes == [0], said
    assert_same_end(folder, unbroken(**settings))


def test_a_signal_to_one_rank_stops_both(run, unbroken, tmp_path):
    settings = {"save_steps": 2, "eval_steps": 2, **DRAWING}
    fate = {"at_log": SECOND_PASS, "signal": signal.SIGTERM}
    codes, said = run(tmp_path / "run", 2, fate, logging_steps=5, **settings)
    assert codes == [143, 143], said
    assert said.count("stopped by SIGTERM after step") == 1
    codes, said = run(tmp_path / "run", 2, logging_steps=5, **settings)
    assert codes == [0, 0], said
    assert_same_end(tmp_path / "run", unbroken(2, logging_steps=5, **settings))


def test_a_signal_in_the_alignment_stage_leaves_no_checkpoint(run, unbroken, tmp_path):
    settings = {"evidence": "agreement", "pretrain_epochs": 4}
    codes, said = run(tmp_path / "run", fate={"at_log": "{'loss'", "signal": signal.SIGTERM}, **settings)
    assert codes == [143] and "the alignment stage begins anew" in said, said
    assert not list((tmp_path / "run").glob("checkpoint-*"))
    codes, said = run(tmp_path / "run", **settings)
    assert codes == [0], said
    assert_same_end(tmp_path / "run", unbroken(**settings))


def test_a_second_interrupt_does_not_wait_and_other_signals_do():
    before = signal.getsignal(signal.SIGTERM)
    with pytest.raises(TrainingStopped), StopSignals() as signals:
        os.kill(os.getpid(), signal.SIGTERM)
        os.kill(os.getpid(), signal.SIGTERM)
        assert signals.agreed() == signal.SIGTERM
        raise TrainingStopped(signals.agreed())
    with pytest.raises(KeyboardInterrupt), StopSignals() as signals:
        os.kill(os.getpid(), signal.SIGINT)
        assert signals.agreed() == signal.SIGINT
        os.kill(os.getpid(), signal.SIGINT)
        raise AssertionError("the second one was held back")
    assert signal.getsignal(signal.SIGTERM) is before


def test_a_signal_after_the_last_step_is_not_lost():
    told = []
    before = signal.signal(signal.SIGTERM, lambda number, frame: told.append(number))
    try:
        with StopSignals():
            os.kill(os.getpid(), signal.SIGTERM)
            assert told == []
        assert told == [signal.SIGTERM]
    finally:
        signal.signal(signal.SIGTERM, before)


@pytest.mark.parametrize(
    "settings", [{"max_steps": 10, "save_steps": 5}, {"load_best_model_at_end": True, "early_stopping_patience": 2}]
)
def test_a_run_that_was_over_learns_no_more(run, unbroken, tmp_path, settings):
    """One that was killed after its last step, before what follows training was done."""
    expected = unbroken(**settings)
    shutil.copytree(expected, tmp_path / "run", ignore=shutil.ignore_patterns("model.safetensors", "run.json"))
    for weights in expected.glob("checkpoint-*/model.safetensors"):
        shutil.copy2(weights, tmp_path / "run" / weights.parent.name)
    codes, said = run(tmp_path / "run", **settings)
    assert codes == [0], said
    assert_same_end(tmp_path / "run", expected)


# -- what is not finite ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("settings", [{}, {"eval_strategy": "no"}, {"logging_steps": 1000}, {"save_strategy": "no"}])
def test_a_loss_that_is_not_finite_stops_the_run(run, tmp_path, settings):
    codes, said = run(tmp_path / "run", fate={"poison": (10, "intra")}, **settings)
    assert codes == [1], said
    assert len(errors(said)) == 1, said
    assert errors(said)[0].startswith("error: step 10: the loss is not finite, 'intra' the first of its parts.")
    assert "Traceback" not in said
    saves = settings.get("save_strategy") != "no"
    assert sorted(_whole(tmp_path / "run")) == (["checkpoint-4", "checkpoint-8"] if saves else [])
    assert "model.safetensors" not in os.listdir(tmp_path / "run")
    for weights in (tmp_path / "run").glob("checkpoint-*/model.safetensors"):
        assert all(value.isfinite().all() for value in load_file(weights).values())


def test_a_loss_that_is_not_finite_in_the_last_step_stops_the_run(run, tmp_path):
    codes, said = run(tmp_path / "run", fate={"poison": (STEPS, "inter")}, logging_steps=1000, save_steps=1000)
    assert codes == [1] and f"error: step {STEPS}: the loss is not finite, 'inter' the first" in said, said
    assert "model.safetensors" not in os.listdir(tmp_path / "run")


def test_ranks_stop_together(run, tmp_path):
    codes, said = run(tmp_path / "run", 2, fate={"poison": (5, "task")})
    assert codes == [1, 1], said
    assert len(errors(said)) == 2
    assert all("step 5: the loss is not finite, 'task' the first of its parts" in line for line in errors(said))


class _Breaks(TrainerCallback):
    """Breaks a weight in one optimiser step, so that no loss can show it before the next."""

    def __init__(self, step: int) -> None:
        self.step = step

    def on_optimizer_step(self, args, state, control, model=None, **kwargs):
        if state.global_step + 1 == self.step:
            with torch.no_grad():
                model.classifier.out_proj.weight[0, 0] = float("inf")


@pytest.mark.parametrize(("step", "kept"), [(3, []), (6, ["checkpoint-3"])])
def test_weights_that_are_not_finite_are_not_saved(tmp_path, step, kept):
    trainer = make_trainer(tmp_path)  # saves at steps 3 and 6, the last
    trainer.add_callback(_Breaks(step))
    with pytest.raises(
        FloatingPointError, match=f"step {step}: the weights are not finite, classifier.out_proj.weight"
    ):
        trainer.train()
    assert _whole(tmp_path) == kept


def test_a_loss_on_validation_that_is_not_finite_stops_the_run(tmp_path):
    trainer = make_trainer(tmp_path, eval_strategy="epoch")
    trainer.eval_dataset[0]["label"] = float("nan")
    with pytest.raises(FloatingPointError, match="step 3: the loss on validation is not finite"):
        trainer.train()
    assert _whole(tmp_path) == []


def test_the_log_does_not_hide_a_loss_that_is_not_finite(tmp_path):
    assert make_trainer(tmp_path).args.logging_nan_inf_filter is False
