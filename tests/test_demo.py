"""`clcr demo`: what it reads and draws; and the page itself, served by the command and used in a real browser."""

import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
import wave
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np
import pytest
import yaml
from extract_backbones import save_whisper
from model_utils import PHRASES, RATE, save_clip_model, write_clip
from transformers import pipeline

from clcr_hf.cli.main import main
from clcr_hf.demo.app import _Uploads, build_page
from clcr_hf.demo.html import draw_answer, draw_reading, draw_timeline
from clcr_hf.demo.reading import read_clip
from clcr_hf.explain.decision import Decision, change
from clcr_hf.media import MediaError, media_duration

REPO = Path(__file__).resolve().parent.parent
SECONDS = 2.0
MAX_SECONDS, MAX_MEGABYTES = 3, 1
PATIENCE = 600  # seconds for what a busy machine may take long to start; nothing is measured by it


@pytest.fixture(scope="module")
def model(tmp_path_factory) -> str:
    return save_clip_model(tmp_path_factory.mktemp("model"))


@pytest.fixture(scope="module")
def pipe(model):
    return pipeline("multimodal-sentiment", model=model, device="cpu")


@pytest.fixture(scope="module")
def clips(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("clips")
    write_clip(folder / "good.mp4", SECONDS)
    write_clip(folder / "other.mp4", SECONDS, seed=1)
    write_clip(folder / "silent.mp4", SECONDS, sound=False)
    write_clip(folder / "long.mp4", MAX_SECONDS + 1)
    with wave.open(str(folder / "tone.wav"), "wb") as sound:
        sound.setparams((1, 2, RATE, 0, "NONE", ""))
        sound.writeframes((8000 * np.sin(np.arange(RATE) / 9)).astype("<i2").tobytes())
    (folder / "empty.mp4").touch()
    (folder / "<b>notes.mp4").write_text("not a video\n" * 50)
    (folder / "heavy.mp4").write_bytes(os.urandom((MAX_MEGABYTES << 20) + 4096))
    return folder


# --- reading ---------------------------------------------------------------------------------------------------------


def test_a_reading_leaves_each_modality_out(pipe, clips):
    path = str(clips / "good.mp4")
    reading = read_clip(pipe, path, text=PHRASES[0])
    assert reading.result == pipe({"media": path, "text": PHRASES[0]}, return_explanation=True)
    assert reading.seconds == pytest.approx(SECONDS, abs=0.2)
    assert reading.without["text"]["score"] == pytest.approx(pipe(path)["score"])
    assert reading.without["vision"]["score"] == pytest.approx(pipe({"audio": path, "text": PHRASES[0]})["score"])
    assert reading.without["audio"]["score"] == pytest.approx(pipe({"video": path, "text": PHRASES[0]})["score"])


def test_only_what_is_there_is_taken_away(pipe, clips):
    assert list(read_clip(pipe, str(clips / "silent.mp4"), text="a day").without) == ["text", "vision"]
    alone = read_clip(pipe, text="a lovely day")
    assert alone.without == {} and alone.seconds is None
    other = str(clips / "other.mp4")
    dubbed = read_clip(pipe, str(clips / "silent.mp4"), other)
    assert dubbed.without["vision"]["score"] == pytest.approx(pipe({"audio": other})["score"])


def test_nothing_to_read_and_too_much_are_refused(pipe, clips):
    with pytest.raises(ValueError, match="nothing to read"):
        read_clip(pipe, text="  ")
    with pytest.raises(ValueError, match=f"at most {MAX_SECONDS} s"):
        read_clip(pipe, str(clips / "long.mp4"), max_seconds=MAX_SECONDS)
    with pytest.raises(MediaError, match="0 bytes"):
        read_clip(pipe, str(clips / "empty.mp4"))


def test_duration_is_told_from_the_packets(clips, tmp_path):
    assert media_duration(clips / "long.mp4") == pytest.approx(MAX_SECONDS + 1, abs=0.2)
    whole = (clips / "good.mp4").read_bytes()
    at = whole.index(b"mvhd") + 4
    stated = int.from_bytes(whole[at + 16 : at + 20], "big")
    lying = whole[: at + 16] + (stated // 10).to_bytes(4, "big") + whole[at + 20 :]
    assert media_duration(lying) == pytest.approx(SECONDS, abs=0.2)
    with pytest.raises(MediaError, match="damaged"):
        media_duration(clips / "<b>notes.mp4")


# --- drawing ---------------------------------------------------------------------------------------------------------


def as_xml(html: str) -> ElementTree.Element:
    """Well-formed, or an error: nothing from outside has broken out of its place."""
    return ElementTree.fromstring(f"<page>{html}</page>")


def words(html: str) -> str:
    return " ".join(" ".join(as_xml(html).itertext()).split())


WEIGHTS = {
    "level_weights": [0.2, 0.3, 0.5],
    "modality_weights": {"text": 0.6, "audio": 0.4},
    "private_gates": {"text": 0.25, "audio": 0.75},
}
AUDIO = [{"time": 0.5, "budget": [0.1, 0.2, 0.9]}, {"time": 1.5, "budget": [0.7, 0.2, 0.3]}]


def test_drawings_tell_the_same_in_words():
    result = {"score": 1.25, "label": "positive", **WEIGHTS, "tokens": {"audio": AUDIO}}
    answer, reasons = draw_reading(Decision(result, {"audio": {"score": -0.5, "label": "neutral"}}, 2.0))
    assert "+1.25 positive" in words(answer)
    assert "Audio -0.50 neutral -1.750" in words(reasons)
    spoken = [node.get("aria-label") for node in as_xml(reasons).iter("svg")]
    assert spoken[0] == "Audio, level 1: 0.40 on average, most at 1.5 s (0.70)"
    assert spoken[2] == "Audio, level 3: 0.60 on average, most at 0.5 s (0.90)"
    assert "2.0 s" in words(reasons)


def test_the_page_says_what_each_modality_adds():
    own = {"modality_logits": {"text": 0.0, "audio": -0.75}, "joint_logits": 0.5, "logit_bias": 1.5}
    result = {"score": 1.25, "label": "positive", **WEIGHTS, "tokens": {"audio": AUDIO}}
    _, reasons = draw_reading(Decision({**result, **own}, {}, 2.0))
    assert "they are the score Audio -0.750 Joint path +0.500 Bias (no input) +1.500 Sum +1.250" in words(reasons)
    assert "adds by itself" not in draw_reading(Decision(result, {}, 2.0))[1]  # no such evidence, no section
    without = {"level_weights": [], "modality_weights": {}, "private_gates": {}, "tokens": {}, "score": 1.25}
    _, reasons = draw_reading(Decision({**result, **own, **without}, {}, 2.0))  # without a joint path
    assert "Audio -0.750" in words(reasons) and "What decided" not in reasons and "let across" not in reasons


def test_text_from_outside_stays_text():
    hostile = "<img src=x onerror=alert(1)>\"'&"
    tokens = {"text": [{"token": hostile, "budget": [0.5]}], hostile: [{"index": 0, "budget": [0.5]}]}
    weights = {"level_weights": [1.0], "modality_weights": {hostile: 1.0}, "private_gates": {hostile: 1.0}}
    result = {"label": hostile, "score": 0.5, "probabilities": {hostile: 0.5}, **weights, "tokens": tokens}
    for html in draw_reading(Decision(result, {hostile: result, "text": result}, 1.0)):
        assert not list(as_xml(html).iter("img"))
        assert hostile in "".join(as_xml(html).itertext())


def test_every_kind_of_answer_is_drawn_and_compared():
    one = {"label": "glad", "score": 0.7, "probabilities": {"glad": 0.7, "sad": 0.3}}
    other = {"label": "sad", "score": 0.6, "probabilities": {"glad": 0.4, "sad": 0.6}}
    assert words(draw_answer(one)).startswith("Answer glad") and change(one, other)[1] == pytest.approx(-0.3)
    assert "glad, sad" in words(draw_answer({**one, "labels": ["glad", "sad"]}))
    assert "none above its threshold" in words(draw_answer({**one, "labels": []}))
    several = {"scores": {"joy": 1.0, "fear": 0.5}}
    assert "+1.00" in words(draw_answer(several))
    assert change(several, {"scores": {"joy": 0.5, "fear": 1.75}}) == ("largest change of a score", 1.25)
    assert "scale" not in draw_answer({"label": "stars", "score": 4.0})
    scale = draw_answer({"label": "stars", "score": 4.0}, (1.0, 5.0))
    assert "4.00 on a scale from 1 to 5" in scale and "left:75.0%" in scale and "positive" not in scale
    sentiment = draw_answer({"label": "negative", "score": -0.5}, (-1.0, 1.0))
    assert "left:25.0%" in sentiment and "-1 negative" in sentiment and "positive +1" in sentiment
    segments = [
        {"start": index, "end": index + 1.0, "label": label, "score": 0.5, **WEIGHTS}
        for index, label in enumerate(("bark", "none"))
    ]
    assert "0.0 to 1.0 s" in words(draw_answer({"segments": segments}))
    assert change({"segments": segments}, {"segments": segments[:1] * 2})[1] == 0.5
    assert Decision({"segments": segments}).weights == WEIGHTS


def test_stretches_are_drawn_as_shares_of_the_clip():
    tokens = [{"time": time, "budget": [value]} for time, value in ((0.5, 0.2), (0.5, 0.4), (1.5, 1.0))]
    (lane,) = as_xml(draw_timeline({"vision": tokens}, 2.0)).iter("svg")
    drawn = [[float(rect.get(name)) for name in ("x", "width", "height")] for rect in lane]
    assert drawn == [[0, 498, 30], [500, 498, 100]]  # two patches of one frame are one stretch
    words_of_a_clip = [{"token": word, "budget": [0.5]} for word in PHRASES[0].split()]
    (lane,) = as_xml(draw_timeline({"text": words_of_a_clip}, 2.0)).iter("svg")
    assert [float(rect.get("x")) for rect in lane] == [0, 333.3, 666.7]


def test_an_upload_goes_when_its_last_visitor_lets_go(tmp_path):
    shared, own = tmp_path / "shared.mp4", tmp_path / "own.wav"
    shared.touch()
    own.touch()
    uploads = _Uploads()
    uploads.keep("first", str(shared), str(own))
    uploads.keep("second", str(shared), None)
    uploads.keep("first", str(shared), None)
    assert shared.exists() and not own.exists()
    uploads.keep("first")
    assert shared.exists()
    uploads.keep("second")
    assert not shared.exists()


def test_the_button_that_hears_is_there_only_with_a_recogniser(pipe):
    def buttons(page: Any) -> list[str]:
        return [block.value for block in page.blocks.values() if type(block).__name__ == "Button"]

    assert "Recognise the transcript" not in buttons(build_page(pipe))
    assert "Recognise the transcript" in buttons(build_page(pipe, recognise=lambda path: "hello"))


# --- the command and the Space ---------------------------------------------------------------------------------------


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


def start(command: list[str], port: int, folder: Path, **variables: str) -> subprocess.Popen:
    """The server as a process of its own, answering."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1", "TMPDIR": str(folder), **variables}
    log = folder.parent / "server.log"
    with log.open("w") as output:
        process = subprocess.Popen([sys.executable, *command], env=environment, stdout=output, stderr=output, cwd=REPO)
    end = time.monotonic() + PATIENCE
    while time.monotonic() < end and process.poll() is None:
        try:
            urllib.request.urlopen(f"http://127.0.0.1:{port}/", timeout=5).close()
            return process
        except OSError:
            time.sleep(0.2)
    process.kill()
    raise AssertionError(f"the server did not come up:\n{log.read_text()[-3000:]}")


def stop(process: subprocess.Popen, folder: Path) -> None:
    """Ends the server as a system does; nothing of it may stay."""
    process.send_signal(signal.SIGTERM)
    try:
        assert process.wait(30) == 0
        assert not list(folder.iterdir())
    finally:
        process.kill()


class Server:
    """A running `clcr demo`: its address, and the folder in which it keeps temporary files."""

    def __init__(self, port: int, folder: Path) -> None:
        self.port, self.folder = port, folder
        self.address = f"http://127.0.0.1:{port}"

    def uploads(self) -> list[str]:
        return sorted(path.name for path in self.folder.rglob("*") if path.is_file())


@pytest.fixture(scope="module")
def server(model, tmp_path_factory) -> Iterator[Server]:
    """Ended after the last test here, which is when `stop` checks what it leaves behind."""
    root = tmp_path_factory.mktemp("server")
    folder, port = root / "tmp", free_port()
    folder.mkdir()
    limits = ["--max-size", str(MAX_MEGABYTES), "--max-seconds", str(MAX_SECONDS)]
    whisper = ["--transcribe", save_whisper(root / "whisper")]
    command = ["-m", "clcr_hf.cli.main", "demo", "--model", model, "--port", str(port), *limits, *whisper]
    (root / "absent").mkdir()
    (root / "absent" / "matplotlib.py").write_text("raise ImportError('the demo does without')")
    process = start(command, port, folder, PYTHONPATH=str(root / "absent"))
    yield Server(port, folder)
    stop(process, folder)


def test_the_space_serves_the_page_and_names_the_tested_gradio(model, tmp_path):
    front = yaml.safe_load((REPO / "spaces/clcr/README.md").read_text().split("---\n")[1])
    assert f"gradio=={front['sdk_version']}" in (REPO / "constraints.txt").read_text().split()
    assert front["sdk"] == "gradio" and (REPO / "spaces/clcr" / front["app_file"]).is_file()
    assert len(front["short_description"]) <= 60  # the Hub refuses longer ones
    folder, port = tmp_path / "tmp", free_port()
    folder.mkdir()
    where = {"GRADIO_SERVER_PORT": str(port), "GRADIO_SERVER_NAME": "127.0.0.1"}
    stop(start(["spaces/clcr/app.py"], port, folder, CLCR_MODEL=model, **where), folder)


def test_what_the_caller_can_mend_is_one_line(model, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = str(taken.getsockname()[1])
        for arguments, words in (
            (["--model", str(tmp_path / "absent")], "absent"),
            (["--model", model, "--port", port], port),
            (["--model", model, "--max-size", "0"], "must be positive"),
        ):
            with pytest.raises(SystemExit) as ended:
                main(["demo", *arguments])
            printed = capsys.readouterr().err
            assert ended.value.code == 1 and "error:" in printed and words in printed, printed
    assert not list(tmp_path.iterdir()) and tempfile.tempdir == str(tmp_path)


def own_addresses() -> list[str]:
    """Addresses of this machine besides loopback."""
    found = {entry[4][0] for entry in socket.getaddrinfo(socket.gethostname(), None, socket.AF_INET)}
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:  # sends nothing: it asks for the route
        try:
            probe.connect(("192.0.2.1", 9))
            found.add(probe.getsockname()[0])
        except OSError:
            pass
    return sorted(address for address in found if not address.startswith("127."))


def test_other_machines_do_not_reach_it(server):
    addresses = own_addresses()
    if not addresses:
        pytest.skip("this machine has no address besides loopback")
    for address in addresses:
        with pytest.raises(OSError), socket.create_connection((address, server.port), timeout=5):
            pass


def status(request: str | urllib.request.Request) -> int:
    try:
        with urllib.request.urlopen(request, timeout=30) as answer:
            return answer.status
    except urllib.error.HTTPError as error:
        return error.code


def upload(server: Server, name: str, content: bytes) -> int:
    """Sends a file as the page does; the status of the answer."""
    head = f'--cut\r\nContent-Disposition: form-data; name="files"; filename="{name}"\r\n\r\n'.encode()
    request = urllib.request.Request(
        f"{server.address}/gradio_api/upload",
        data=head + content + b"\r\n--cut--\r\n",
        headers={"Content-Type": "multipart/form-data; boundary=cut"},
    )
    return status(request)


def test_files_of_the_server_stay_there(server, model):
    for path in ("/etc/passwd", f"{REPO}/pyproject.toml", "pyproject.toml", f"{model}/config.json"):
        assert status(f"{server.address}/gradio_api/file={path}") in (403, 404), path


def test_an_upload_over_the_limit_is_refused_and_not_kept(server, clips):
    assert upload(server, "heavy.mp4", (clips / "heavy.mp4").read_bytes()) == 413
    assert "heavy.mp4" not in server.uploads()
    assert upload(server, "light.mp4", b"x" * 1000) == 200
    assert "light.mp4" in server.uploads()  # goes with the server: no page holds it


# --- in the browser --------------------------------------------------------------------------------------------------


class Page:
    """The page in a browser of its own."""

    def __init__(self, server: Server) -> None:
        from selenium import webdriver

        options = webdriver.ChromeOptions()
        for argument in ("--headless=new", "--no-sandbox", "--disable-dev-shm-usage", "--disable-gpu"):
            options.add_argument(argument)
        options.binary_location = CHROMIUM or ""
        self.browser = webdriver.Chrome(options=options, service=webdriver.ChromeService(DRIVER))
        self.browser.set_window_size(1280, 1000)
        self.server = server
        self.open()

    def open(self) -> None:
        self.browser.get(self.server.address)
        self.wait(lambda: self.find("#read") and self.find("#answer")[0].get_attribute("aria-live"), "the page")

    def find(self, selector: str) -> list[Any]:
        return self.browser.find_elements("css selector", selector)

    def run(self, script: str) -> Any:
        return self.browser.execute_script(f"return {script}")

    def wait(self, ready: Callable[[], Any], what: str) -> Any:
        from selenium.common.exceptions import StaleElementReferenceException

        end = time.monotonic() + PATIENCE
        while time.monotonic() < end:
            try:
                if found := ready():
                    return found
            except (StaleElementReferenceException, IndexError):  # drawn anew while we looked, or not drawn yet
                pass
            time.sleep(0.1)
        raise AssertionError(f"waited in vain for {what}; the page shows: {self.find('body')[0].text[-1500:]}")

    def give(self, path: Path) -> None:
        """Chooses a clip, in place of the one before."""
        for close in self.find("#clip button[aria-label='Clear'], #clip button[title='Clear']"):
            close.click()
            self.wait(lambda: self.find("#clip input[type=file]"), "the empty clip")
        self.find("#clip input[type=file]")[0].send_keys(str(path))
        if path.stat().st_size <= MAX_MEGABYTES << 20:
            self.wait(lambda: self.find("#clip video"), "the upload")

    def write(self, text: str) -> None:
        box = self.find("#transcript textarea")[0]
        box.clear()
        box.send_keys(text)

    def read(self) -> None:
        self.find("#read")[0].click()

    def score(self) -> float:
        """The answer, once it is there."""
        found = self.wait(lambda: self.find("#answer .clcr-score"), "the answer")
        return float(found[0].text.split()[0])

    def told(self, words: str) -> str:
        """Messages, once one of them holds `words`."""
        return self.wait(lambda: next((t.text for t in self.find(".toast-body") if words in t.text), ""), words)

    def close(self) -> None:
        self.browser.quit()


CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
DRIVER = shutil.which("chromedriver")
in_browser = pytest.mark.skipif(
    not (CHROMIUM and DRIVER),
    reason="NO BROWSER: the page of `clcr demo` was not tried; install chromium and chromium-driver (Debian's names)",
)


@pytest.fixture(scope="module")
def first(server) -> Iterator[Page]:
    page = Page(server)
    yield page
    page.close()


@pytest.fixture
def page(first) -> Page:
    first.browser.set_window_size(1280, 1000)
    first.open()
    return first


@in_browser
def test_a_clip_is_read_and_explained(page, pipe, clips, tmp_path):
    page.give(clips / "good.mp4")
    page.write("a lovely day")
    page.read()
    expected = read_clip(pipe, str(clips / "good.mp4"), text="a lovely day")
    assert page.score() == pytest.approx(expected.result["score"], abs=0.011)
    reasons = page.find("#reasons")[0].text
    for name, result in expected.without.items():
        row = re.search(rf"^{name} ([+-][\d.]+) \w+ ([+-][\d.]+)", reasons, re.IGNORECASE | re.MULTILINE)
        assert row is not None, reasons
        assert float(row[1]) == pytest.approx(result["score"], abs=0.011)
        assert float(row[2]) == pytest.approx(result["score"] - expected.result["score"], abs=0.002)
    for name in ("text", "vision", "audio"):
        assert len(page.find(f".clcr-{name} svg")) == 3
        assert len(page.find(f".clcr-{name} svg:first-of-type rect")) >= 3
    for level, weight in enumerate(expected.result["level_weights"], start=1):
        assert float(re.search(rf"^level {level} ([\d.]+)", reasons, re.MULTILINE)[1]) == pytest.approx(
            weight, abs=0.002
        )
    assert "2.0 s" in reasons and "lovely" in reasons
    assert "uncertain" in page.find("body")[0].text
    page.browser.save_screenshot(str(tmp_path / "wide.png"))
    strangers = "performance.getEntriesByType('resource').map(e => e.name).filter(n => !n.startsWith(location.origin))"
    assert [name for name in page.run(strangers) if not name.startswith(("data:", "blob:"))] == []


@in_browser
def test_audio_alone_is_read(page, pipe, clips):
    page.find("#audio-part button")[0].click()
    page.wait(lambda: page.find("#audio input[type=file]"), "the place for audio")
    page.find("#audio input[type=file]")[0].send_keys(str(clips / "tone.wav"))
    page.wait(lambda: page.find("#audio [aria-label='Clear']"), "the upload")
    page.read()
    assert page.score() == pytest.approx(pipe({"audio": str(clips / "tone.wav")})["score"], abs=0.011)
    assert "one modality alone" in page.find("#reasons")[0].text
    assert not page.find(".clcr-vision, .clcr-text") and page.find(".clcr-audio svg")
    assert not page.find("#audio [aria-label='Share'], #audio [title='Share']")


@in_browser
def test_bad_files_are_told_and_the_page_goes_on(page, clips):
    for name, words in (
        ("empty.mp4", "empty.mp4 is empty (0 bytes)"),
        ("<b>notes.mp4", "cannot read bnotes.mp4"),  # gradio keeps letters and digits of a name
        ("long.mp4", f"long.mp4 lasts 4.0 s and at most {MAX_SECONDS} s are read here"),
        ("heavy.mp4", "size"),
    ):
        page.open()
        page.give(clips / name)
        page.read() if name != "heavy.mp4" else None
        message = page.told(words)
        assert str(page.server.folder) not in message and "Traceback" not in message
    assert "heavy.mp4" not in page.server.uploads()
    page.open()
    page.read()
    page.told("There is nothing to read yet")
    page.give(clips / "good.mp4")
    page.read()
    page.score()


@in_browser
def test_the_keyboard_alone_will_do(page, pipe):
    from selenium.webdriver.common.keys import Keys

    reached = []
    for _ in range(20):
        page.browser.switch_to.active_element.send_keys(Keys.TAB)
        element = page.browser.switch_to.active_element
        reached.append(element.accessible_name)
        if element.tag_name == "textarea":
            element.send_keys("a dreadful day")
        if element.get_attribute("id") == "read":
            element.send_keys(Keys.ENTER)
            break
    assert page.score() == pytest.approx(pipe({"text": "a dreadful day"})["score"], abs=0.011)
    assert all(reached)  # each control has a name
    order = [reached.index(name) for name in ("Drop a video file here to upload", "Transcript", "Read the clip")]
    assert order == sorted(order)


@in_browser
def test_a_narrow_screen_needs_no_sideways_scrolling(page, clips, tmp_path):
    size = {"width": 360, "height": 740, "deviceScaleFactor": 1, "mobile": True}
    page.browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
    try:
        page.give(clips / "good.mp4")
        page.write("a lovely day")
        page.read()
        page.score()
        assert page.run("[innerWidth, document.documentElement.scrollWidth]") == [360, 360]
        wide = "[...document.querySelectorAll('.clcr *')].filter(e => e.getBoundingClientRect().right > 360).length"
        assert page.run(wide) == 0
        page.browser.save_screenshot(str(tmp_path / "narrow.png"))
    finally:
        page.browser.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})


CONTRAST = """[...document.querySelectorAll('#read, .clcr h2, .clcr td, .clcr p, .clcr caption, .clcr span')].map(e => {
  const light = c => c.map(v => v / 255).map(v => v <= .03928 ? v / 12.92 : ((v + .055) / 1.055) ** 2.4)
    .reduce((sum, v, i) => sum + v * [.2126, .7152, .0722][i], 0);
  const rgb = c => { const k = document.createElement('canvas').getContext('2d', {willReadFrequently: true});
    k.fillStyle = c; k.fillRect(0, 0, 1, 1); return [...k.getImageData(0, 0, 1, 1).data] };
  let under = e; while (rgb(getComputedStyle(under).backgroundColor)[3] == 0) under = under.parentElement;
  const colours = [getComputedStyle(e).color, getComputedStyle(under).backgroundColor];
  const [a, b] = colours.map(c => light(rgb(c).slice(0, 3)));
  return (Math.max(a, b) + .05) / (Math.min(a, b) + .05) })"""


@in_browser
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_text_stands_out(page, scheme):
    page.browser.get(f"{page.server.address}/?__theme={scheme}")
    page.wait(lambda: page.find("#read"), "the page")
    page.write("a lovely day")
    page.read()
    page.score()
    assert page.run("document.querySelector('.dark') !== null") == (scheme == "dark")
    assert min(page.run(CONTRAST)) >= 4.5


@in_browser
def test_two_at_once_get_their_own_answers_and_a_closed_page_lets_its_clip_go(page, server, pipe, clips):
    second = Page(server)
    try:
        asked = ((page, "good.mp4", PHRASES[0]), (second, "other.mp4", PHRASES[1]))
        for one, name, text in asked:
            one.give(clips / name)
            one.write(text)
        for one, _, _ in asked:
            one.read()
        for one, name, text in asked:
            expected = pipe({"media": str(clips / name), "text": text})["score"]
            assert one.score() == pytest.approx(expected, abs=0.011)
        assert "other.mp4" in server.uploads()
    finally:
        second.close()
    page.wait(lambda: "other.mp4" not in server.uploads(), "the clip of the closed page to go")
    assert "good.mp4" in server.uploads()


@in_browser
def test_speech_is_recognised_into_the_transcript(page, server, clips):
    from clcr_hf.extract.speech import SpeechRecogniser
    from clcr_hf.media import load_audio

    page.find("#recognise")[0].click()
    page.told("There is nothing to hear yet")
    page.give(clips / "good.mp4")
    page.find("#recognise")[0].click()
    hear = SpeechRecogniser(str(server.folder.parent / "whisper"))
    expected = hear(load_audio(clips / "good.mp4", sampling_rate=hear.sampling_rate)).text
    assert expected.strip()
    page.wait(lambda: page.find("#transcript textarea")[0].get_attribute("value"), "the transcript")
    assert page.find("#transcript textarea")[0].get_attribute("value").split() == expected.split()
