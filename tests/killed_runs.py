"""Runs of the training script that a test can kill, each a process of its own.

The imports take longer than a small run. So `Forge` starts this file once, and it forks a process for each run: that
one calls what the scripts in `examples/` call, and is killed by a real SIGKILL, of its own at a chosen write or from
outside.
"""

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

REPO = Path(__file__).resolve().parent.parent
WAIT = 600.0


def write_table(path: Path, labels: Callable[[Any], list[Any]]) -> Path:
    """A small table of two modalities to train on; `labels`: of its 48 rows, by the generator given."""
    import numpy as np
    from datasets import Dataset

    rng = np.random.default_rng(0)
    columns = {
        "audio_features": [rng.normal(size=(8 + row % 4, 3)).tolist() for row in range(48)],
        "vision_features": [rng.normal(size=(9 + row % 3, 4)).tolist() for row in range(48)],
        "label": labels(rng),
        "split": ["train"] * 32 + ["validation"] * 16,
    }
    Dataset.from_dict(columns).to_parquet(path)
    return path


class Forge:
    """`forge(words, ...)` runs the script and returns the exit codes of its ranks, and what they said."""

    def __init__(self, scratch: Path) -> None:
        self.scratch, self.count = scratch, 0
        # PYTHONPATH: the same package as the tests', whatever is installed.
        environment = {**os.environ, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false"}
        environment |= {"PYTHONPATH": str(REPO), "HF_DATASETS_CACHE": str(scratch / "cache")}
        self.process = subprocess.Popen(
            [sys.executable, __file__], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment
        )

    def __call__(self, *words: str, ranks: int = 1, **fate: Any) -> tuple[list[int], str]:
        """
        Args:
            words: the command line.
            write: `(text, number)`: rank `rank` (0) dies at the so-manieth write to a path that holds `text`.
            after: seconds after which the last rank is sent `signal`.
            signal: SIGKILL if left out.
            at_log: send it when the log holds this text, in place of `after`.
            group: send it to the process group, workers of data loaders and all.
            poison: `(step, part)`: a part of the loss that is NaN in one step.
        """
        self.count += 1
        log = self.scratch / f"run_{self.count}.log"
        assert self.process.stdin is not None and self.process.stdout is not None
        self.process.stdin.write(json.dumps({"words": words, "ranks": ranks, "log": str(log), **fate}) + "\n")
        self.process.stdin.flush()
        return json.loads(self.process.stdout.readline()), log.read_text()

    def close(self) -> None:
        assert self.process.stdin is not None
        self.process.stdin.close()
        self.process.wait(WAIT)


# -- in the process that forks ----------------------------------------------------------------------------------------


def serve() -> None:
    import clcr_hf.cli.learn
    import clcr_hf.training.run  # noqa: F401  (what every run needs is imported once)

    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    for line in sys.stdin:
        order = json.loads(line)
        children = start(order)
        answers.write(json.dumps(finish(children, order)) + "\n")
        answers.flush()


def start(order: dict[str, Any]) -> list[int]:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    children = []
    for rank in range(order["ranks"]):
        child = os.fork()
        if child == 0:
            try:
                live(order, rank, port)
            except SystemExit as error:
                code = error.code if isinstance(error.code, int) else 0 if error.code is None else 1
            except BaseException:
                import traceback

                traceback.print_exc()
                code = 1
            else:
                code = 0
            sys.stderr.flush()
            os._exit(code)
        children.append(child)
    return children


def live(order: dict[str, Any], rank: int, port: int) -> None:
    os.setpgid(0, 0)
    log = os.open(order["log"], os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    null = os.open(os.devnull, os.O_RDONLY)
    for end, target in ((null, 0), (log, 1), (log, 2)):
        os.dup2(end, target)
    if order["ranks"] > 1:
        os.environ.update(RANK=str(rank), LOCAL_RANK=str(rank), WORLD_SIZE=str(order["ranks"]))
        os.environ.update(LOCAL_WORLD_SIZE=str(order["ranks"]), MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port))
    if "write" in order and rank == order.get("rank", 0):
        die_at_write(*order["write"])
    if "poison" in order:
        poison(*order["poison"])
    from clcr_hf.cli.learn import run_script

    sys.argv = ["run_sentiment.py", *order["words"]]
    run_script()


def finish(children: list[int], order: dict[str, Any]) -> list[int]:
    """Waits for all, and does to the last one what was ordered. Where one was killed the others follow, as launchers
    do it."""
    begun, codes, sent = time.monotonic(), {}, "after" not in order and "at_log" not in order
    while len(codes) < len(children):
        for child in children:
            if child not in codes:
                done, status = os.waitpid(child, os.WNOHANG)
                if done:
                    codes[child] = os.waitstatus_to_exitcode(status)
        passed = time.monotonic() - begun
        if not sent and children[-1] not in codes and _due(order, passed):
            sent, number = True, order.get("signal", signal.SIGKILL)
            (os.killpg if order.get("group") else os.kill)(children[-1], number)
        if -signal.SIGKILL in codes.values() or passed > WAIT:
            for child in set(children) - codes.keys():
                os.kill(child, signal.SIGKILL)
        time.sleep(0.01)
    return [codes[child] for child in children]


def _due(order: dict[str, Any], passed: float) -> bool:
    if "after" in order:
        return passed > order["after"]
    return os.path.exists(order["log"]) and order["at_log"] in Path(order["log"]).read_text()


def die_at_write(text: str, number: int) -> None:
    """SIGKILL at one of the writes to a path that holds `text`: opened, renamed or removed files, and halves of those
    that libraries write."""
    import safetensors.torch
    import torch
    import transformers.modeling_utils as modeling

    seen = 0

    def count(path: Any, half: bool = False) -> None:
        nonlocal seen
        if text in str(path):
            seen += 1
            if seen == number:
                if half:
                    os.truncate(path, os.path.getsize(path) // 2)
                os.kill(os.getpid(), signal.SIGKILL)

    def watch(event: str, args: tuple[Any, ...]) -> None:
        writes = event == "open" and isinstance(args[1], str) and set(args[1]) & set("wa+")
        if writes or event in ("os.rename", "os.remove", "os.mkdir", "os.rmdir"):
            count(args[0])

    def halved(write: Any, place: int) -> Any:
        def writing(*args: Any, **kwargs: Any) -> None:
            count(args[place])
            write(*args, **kwargs)
            count(args[place], half=True)

        return writing

    torch.save = halved(torch.save, 1)
    modeling.safe_save_file = halved(modeling.safe_save_file, 1)
    safetensors.torch.save_file = halved(safetensors.torch.save_file, 1)
    sys.addaudithook(watch)


def poison(step: int, part: str) -> None:
    """NaN in one part of the loss of one step; its gradient is lost too."""
    from clcr_hf.training.trainer import CLCRTrainer

    inner = CLCRTrainer.compute_loss

    def compute_loss(self: Any, model: Any, inputs: Any, *args: Any, **kwargs: Any) -> Any:
        if model.training and self.state.global_step + 1 == step:
            base = self.accelerator.unwrap_model(model)
            forward = base.forward

            def broken(*values: Any, **named: Any) -> Any:
                outputs = forward(*values, **named)
                outputs["loss_components"][part] = outputs["loss_components"][part] * float("nan")
                outputs["loss"] = sum(outputs["loss_components"].values())
                return outputs

            base.forward = broken
            try:
                return inner(self, model, inputs, *args, **kwargs)
            finally:
                base.forward = forward
        return inner(self, model, inputs, *args, **kwargs)

    CLCRTrainer.compute_loss = compute_loss  # type: ignore[method-assign]


if __name__ == "__main__":
    serve()
