"""Nothing grows: long work by pipeline, training, endpoint and demo. `make soak` runs it, a plain `pytest` does not.

Each is warmed up, then goes on, and the resident memory of its last fifth is compared with that of its first one, by
medians.
"""

import base64
import json
import os
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
import uuid
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import Any

import psutil
import pytest
from model_utils import PHRASES, save_clip_model, write_clip
from test_demo import free_port, start

from clcr_hf.hub.publish import build_release

pytestmark = [pytest.mark.slow, pytest.mark.soak]
CLIENTS, WARM_UP, GROWTH = 50, 60.0, 0.05
SECONDS = float(os.environ.get("CLCR_SOAK_SECONDS", 60))
PATIENCE = 600
HERE = Path(__file__).parent


def assert_steady(name: str, resident: list[int], report: Any) -> None:
    size = len(resident) // 5
    assert size >= 5
    fifths = [median(resident[start : start + size]) for start in range(0, 5 * size, size)]
    first, last = fifths[0], fifths[-1]
    course = ", ".join(f"{each / 1e6:.1f}" for each in fifths)
    report(f"{name}: {course} MB, {last / first - 1:+.1%}")
    assert last <= first * (1 + GROWTH)


@pytest.fixture
def report(capsys) -> Callable[[str], None]:
    def say(text: str) -> None:
        with capsys.disabled():
            print("\nsoak:", text, flush=True)

    return say


@pytest.mark.parametrize("work", ["pipeline", "training"])
def test_one_process(work, tmp_path, report):
    done = subprocess.run(
        [sys.executable, str(HERE / "soak_runs.py"), work, str(tmp_path)], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr[-3000:]
    assert_steady(work, json.loads(done.stdout.splitlines()[-1]), report)


@pytest.fixture(scope="module")
def model(tmp_path_factory) -> str:
    return save_clip_model(tmp_path_factory.mktemp("model"))


def besiege(pid: int, ask: Callable[[int, int], str], report: Any, name: str) -> list[int]:
    """Clients that ask again and again; the server's resident bytes, once a second, after the warm-up."""
    over, answers = threading.Event(), Counter[str]()

    def client(number: int) -> None:
        turn = 0
        while not over.is_set():
            answers[ask(number, turn)] += 1
            turn += 1

    threads = [threading.Thread(target=client, args=(number,), daemon=True) for number in range(CLIENTS)]
    for thread in threads:
        thread.start()
    server, resident = psutil.Process(pid), []
    time.sleep(WARM_UP)
    for _ in range(int(SECONDS)):
        time.sleep(1)
        resident.append(server.memory_info().rss)
    over.set()
    for thread in threads:
        thread.join(PATIENCE)
    report(f"{name}: {dict(answers)}")
    assert server.is_running() and answers["answer"] >= CLIENTS
    assert set(answers) <= {"answer", "refused", "full"}
    return resident


def post(address: str, content: bytes, kind: str) -> tuple[int, bytes]:
    request = urllib.request.Request(address, content, {"Content-Type": kind})
    try:
        with urllib.request.urlopen(request, timeout=PATIENCE) as answer:
            return answer.status, answer.read()
    except urllib.error.HTTPError as error:
        with error:
            return error.code, error.read()


def test_clients_of_the_endpoint(model, tmp_path, report):
    release = build_release(Path(model), tmp_path / "release", "org/model")
    clips = [Path(write_clip(tmp_path / f"{seed}.mp4", seed=seed)).read_bytes() for seed in range(3)]
    packed = [base64.b64encode(clip).decode() for clip in clips]
    environment = {**os.environ, "HF_HOME": str(tmp_path), "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"}
    command = [sys.executable, str(HERE / "stand_in_endpoint.py"), str(release)]
    server = subprocess.Popen(command, env=environment, cwd=tmp_path, stdout=subprocess.PIPE, text=True)
    assert server.stdout is not None
    try:
        address = f"http://127.0.0.1:{server.stdout.readline().strip()}"

        def ask(number: int, turn: int) -> str:
            clip = packed[(number + turn) % len(packed)]
            bodies = [{"text": PHRASES[turn % 2]}, {"media": clip, "text": PHRASES[0]}, clip, {"media": "aGVsbG8="}]
            kind = turn % len(bodies)
            status, content = post(address, json.dumps({"inputs": bodies[kind]}).encode(), "application/json")
            assert status == (400 if kind == 3 else 200), content
            return "refused" if kind == 3 else "answer"

        assert_steady("endpoint", besiege(server.pid, ask, report, "endpoint"), report)
    finally:
        server.kill()
        server.wait()
        server.stdout.close()


class Visitor:
    """What the browser does with the page: uploads a clip, presses the button, and waits for the answer."""

    def __init__(self, address: str, clips: list[bytes]) -> None:
        self.address, self.clips = f"{address}/gradio_api", clips
        with urllib.request.urlopen(f"{address}/config", timeout=PATIENCE) as answer:
            functions = json.load(answer)["dependencies"]
        self.read = next(each["id"] for each in functions if len(each["inputs"]) == 3 and len(each["outputs"]) == 2)

    def upload(self, clip: bytes) -> str:
        line = uuid.uuid4().hex
        head = f'--{line}\r\nContent-Disposition: form-data; name="files"; filename="clip.mp4"\r\n\r\n'.encode()
        body = head + clip + f"\r\n--{line}--\r\n".encode()
        status, content = post(f"{self.address}/upload", body, f"multipart/form-data; boundary={line}")
        assert status == 200, content
        return json.loads(content)[0]

    def ask(self, number: int, turn: int) -> str:
        clip, session = None, uuid.uuid4().hex
        if turn % 2 == 0:
            path = self.upload(self.clips[(number + turn) % len(self.clips)])
            clip = {"path": path, "meta": {"_type": "gradio.FileData"}}
        given = {"data": [clip, None, PHRASES[turn % 2]], "fn_index": self.read, "session_hash": session}
        status, content = post(f"{self.address}/queue/join", json.dumps(given).encode(), "application/json")
        if status != 200:
            return "full"
        stream = f"{self.address}/queue/data?session_hash={session}"
        with urllib.request.urlopen(stream, timeout=PATIENCE) as events:
            for line in events:
                event = json.loads(line[5:]) if line.startswith(b"data:") else {}
                if event.get("msg") == "process_completed":
                    return "answer" if event["success"] else "refused"
        return "lost"


def test_clients_of_the_demo(model, tmp_path, report):
    folder, port = tmp_path / "tmp", free_port()
    folder.mkdir()
    clips = [Path(write_clip(tmp_path / f"{seed}.mp4", seed=seed)).read_bytes() for seed in range(3)]
    command = ["-m", "clcr_hf.cli.main", "demo", "--model", model, "--port", str(port)]
    server = start(command, port, folder)
    try:
        visitor = Visitor(f"http://127.0.0.1:{port}", clips)
        assert_steady("demo", besiege(server.pid, visitor.ask, report, "demo"), report)
    finally:
        server.kill()
        server.wait()
