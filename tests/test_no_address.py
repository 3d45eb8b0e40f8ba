"""No address is reached that nobody named: training, saving, loading and reading on a machine that is online."""

import os
import subprocess
import sys
from pathlib import Path

from model_utils import PHRASES, save_clip_model, write_clip

REPO = Path(__file__).resolve().parent.parent
# Python tells of every look-up of a name and every connection, whatever library makes it.
WATCH = """
import sys

def watch(event, details):
    if event in ("socket.getaddrinfo", "socket.gethostbyname", "socket.connect", "socket.sendto"):
        address = details[-1] if event in ("socket.connect", "socket.sendto") else details
        if isinstance(address, tuple):  # else a socket of this machine's own kind
            print("ADDRESS", event, address, flush=True)

sys.addaudithook(watch)
"""
WORK = """
import socket
model, clip, table, folder = sys.argv[1:]
import clcr_hf
from transformers import pipeline

read = pipeline("multimodal-sentiment", model=model, device="cpu")
read({"media": clip, "text": "a lovely day"}, return_explanation=True)

from clcr_hf.cli.main import main as clcr
from clcr_hf.training import main
main([
    "--data_file", table, "--output_dir", folder, "--num_train_epochs", "1", "--hidden_size", "16", "--use_cpu",
    "--min_steps", "0", "--disable_tqdm", "True",
])
try:
    clcr(["predict", clip, "--model", folder, "--text", "a lovely day"])
except SystemExit as ended:
    assert not ended.code
print("DONE", flush=True)
try:
    socket.getaddrinfo("clcr.invalid", 80)  # that the watch sees
except OSError:
    pass
"""


def test_nothing_is_asked_that_nobody_named(tmp_path):
    clips = [write_clip(tmp_path / f"{seed}.mp4", seed=seed) for seed in range(4)]
    rows = [f"{clip},{PHRASES[number % 2]},{number % 2}.5" for number, clip in enumerate(clips)]
    splits = ["train", "train", "train", "validation"]
    table = tmp_path / "clips.csv"
    lines = ["media,text,label,split", *(f"{row},{split}" for row, split in zip(rows, splits, strict=True))]
    table.write_text("\n".join(lines) + "\n")
    online = {name: value for name, value in os.environ.items() if not name.endswith("_OFFLINE")}
    online |= {"HF_HOME": str(tmp_path / "home"), "PYTHONPATH": str(REPO), "OMP_NUM_THREADS": "1"}
    arguments = [save_clip_model(tmp_path / "model"), clips[0], str(table), str(tmp_path / "run")]
    done = subprocess.run(
        [sys.executable, "-c", WATCH + WORK, *arguments], env=online, capture_output=True, text=True, timeout=600
    )
    assert done.returncode == 0, done.stderr[-3000:]
    asked = [line for line in done.stdout.splitlines() if line.startswith(("ADDRESS", "DONE"))]
    assert asked[0] == "DONE" and len(asked) == 2 and "clcr.invalid" in asked[1]
