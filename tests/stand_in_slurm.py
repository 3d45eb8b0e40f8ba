"""What `srun` and `scontrol` do for `examples/slurm/train.sbatch`: `stand_in_slurm.py srun ...`.

`srun` starts the command once a rank, here; with STAND_IN_SIGNAL it sends that signal to all of them when the path
STAND_IN_WHEN is there; it returns the highest exit code. `scontrol` writes what it is asked to STAND_IN_LOG and says
that the job is in the state STAND_IN_STATE.
"""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path


def srun(words: list[str]) -> int:
    """Runs the command that follows the options, in STAND_IN_RANKS processes."""
    while words[0].startswith("--"):
        words = words[1:]
    ranks = int(os.environ.get("STAND_IN_RANKS", "1"))
    each = {"SLURM_NTASKS": str(ranks), "SLURM_NTASKS_PER_NODE": str(ranks)}
    tasks = [
        subprocess.Popen(words, env={**os.environ, **each, "SLURM_PROCID": str(rank), "SLURM_LOCALID": str(rank)})
        for rank in range(ranks)
    ]
    asked = os.environ.get("STAND_IN_SIGNAL")
    while asked and any(task.poll() is None for task in tasks):
        if Path(os.environ["STAND_IN_WHEN"]).exists():
            for task in tasks:
                task.send_signal(getattr(signal, asked))
            break
        time.sleep(0.05)
    codes = [task.wait() for task in tasks]
    return max(code if code >= 0 else 128 - code for code in codes)


def scontrol(words: list[str]) -> int:
    """Notes the order, and answers as far as the script asks."""
    with open(os.environ["STAND_IN_LOG"], "a", encoding="utf-8") as log:
        log.write(" ".join(words) + "\n")
    if words[:2] == ["show", "hostnames"]:
        print("127.0.0.1\nelsewhere")
    elif words[:2] == ["show", "job"]:
        print(f"JobId={words[2]} JobState={os.environ.get('STAND_IN_STATE', 'RUNNING')} Reason=None")
    return 0


if __name__ == "__main__":
    sys.exit({"srun": srun, "scontrol": scontrol}[sys.argv[1]](sys.argv[2:]))
