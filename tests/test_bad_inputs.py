"""Bad inputs at every public door: each ends in one typed line or in a right result (see `tests/bad_inputs`).

A group of doors runs in a process of its own, whose memory and whose time for each case are bounded: what ends that
process, or hangs it, is a failure of the case that was begun.
"""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

TESTS = Path(__file__).parent
# Groups, and how many cases each holds at least.
GROUPS = {
    "settings": 240,
    "processing": 150,
    "forward": 360,
    "serving": 220,
    "reading": 400,
    "benchmarks": 250,
    "checkpoints": 120,
    "commands": 200,
}


def run_group(group: str, folder: Path) -> tuple[list[dict], str | None, str]:
    """Verdicts on the cases of a group, the case at which its process ended too early, and what that said."""
    environment = {**os.environ, "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1", "TOKENIZERS_PARALLELISM": "false"}
    environment |= {"COLUMNS": "200", "NO_COLOR": "1"}
    command = [sys.executable, "-m", "bad_inputs", group, str(folder)]
    done = subprocess.run(
        command, env=environment, cwd=TESTS, capture_output=True, text=True, errors="replace", timeout=1800
    )
    said = [json.loads(part.partition("\n")[0]) for part in done.stdout.split("\x1e")[1:]]
    begun = [line["begin"] for line in said if "begin" in line]
    ended = any("done" in line for line in said)
    return [line for line in said if "case" in line], None if ended else (begun or ["its start"])[-1], done.stderr


@pytest.mark.parametrize("group", GROUPS)
def test_every_bad_input_is_told_in_one_line(group, tmp_path):
    verdicts, fatal, said = run_group(group, tmp_path)
    assert fatal is None, f"the process ended at {fatal!r}: {said[-2000:]}"
    wrong = [f"{each['case']}: {each['kind']}: {each['message'][:200]}" for each in verdicts if not each["held"]]
    assert not wrong, "\n".join(wrong)
    assert len(verdicts) >= GROUPS[group]


def test_a_table_of_hundreds():
    assert sum(GROUPS.values()) >= 600


def verdicts_of(source: str, folder: Path) -> tuple[list[dict], str | None]:
    """Of a group that is written here."""
    (folder / "bad_inputs").mkdir()
    for file in (TESTS / "bad_inputs").glob("*.py"):
        (folder / "bad_inputs" / file.name).write_text(file.read_text())
    (folder / "bad_inputs" / "mine.py").write_text("from .case import Case\n" + source)
    command = [sys.executable, "-m", "bad_inputs", "mine", str(folder)]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=600)
    said = [json.loads(part.partition("\n")[0]) for part in done.stdout.split("\x1e")[1:]]
    begun = [line["begin"] for line in said if "begin" in line]
    ended = any("done" in line for line in said)
    return [line for line in said if "case" in line], None if ended else begun[-1]


def test_what_does_not_hold_is_found(tmp_path):
    """A library's own error, an answer in silence, two lines, numbers that are none, too much memory."""
    verdicts, fatal = verdicts_of(
        "import json\n"
        "def two_lines():\n    raise FileNotFoundError('no such file\\nand more')\n"
        "def cases(folder):\n"
        "    yield Case('raw', lambda: json.loads('x'))\n"
        "    yield Case('silent', lambda: 7)\n"
        "    yield Case('lines', two_lines)\n"
        "    yield Case('NaN', lambda: {'score': float('nan')}, may=True)\n"
        "    yield Case('memory', lambda: len(bytearray(2**36)))\n"
        "    yield Case('right', lambda: {'score': 1.0}, may=True)\n",
        tmp_path,
    )
    assert fatal is None
    assert [each["case"] for each in verdicts if each["held"]] == ["right"] and len(verdicts) == 6


def test_the_end_of_the_process_names_its_case(tmp_path):
    verdicts, fatal = verdicts_of(
        "import os\ndef cases(folder):\n    yield Case('a', lambda: 1)\n    yield Case('b', lambda: os._exit(3))\n",
        tmp_path,
    )
    assert [each["case"] for each in verdicts] == ["a"] and fatal == "b"
