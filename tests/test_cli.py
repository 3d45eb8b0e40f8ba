"""The `clcr` command in processes of its own: train, evaluate, predict on a generated clip."""

import json
import os
import subprocess
import sys
import threading
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from clcr_hf import CLCRConfig, CLCRForTokenClassification, CLCRProcessor
from clcr_hf.cli.main import main
from clcr_hf.data.talking_faces.render import generate_talking_faces

SIZES = ("--num_train_clips", "4", "--num_validation_clips", "2", "--num_test_clips", "2")


class _Quiet(SimpleHTTPRequestHandler):
    def log_message(self, *_):
        pass


def clcr(*arguments: str, check: bool = True) -> subprocess.CompletedProcess:
    """The command as a process of its own."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1", "NO_COLOR": "1"}
    command = [sys.executable, "-m", "clcr_hf.cli.main", *arguments]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=900)
    assert not check or done.returncode == 0, done.stderr[-4000:]
    return done


@pytest.fixture
def inside(monkeypatch, capsys):
    """The command inside this process, which spares the imports: (exit code, output, errors)."""

    def run(*arguments: str) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["clcr", *arguments])
        monkeypatch.setenv("COLUMNS", "100")
        capsys.readouterr()
        with pytest.raises(SystemExit) as stop:
            main()
        captured = capsys.readouterr()
        return stop.value.code or 0, captured.out, captured.err

    return run


@pytest.fixture(scope="module")
def corpus(tmp_path_factory) -> Path:
    return generate_talking_faces(tmp_path_factory.mktemp("corpus") / "clips", 0, 4, 2, 2, num_workers=1)


@pytest.fixture(scope="module")
def model(corpus, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("model") / "model"
    small = ["--hidden_size", "16", "--backbone_size", "16", "--image_size", "32", "--video_frames", "4"]
    quick = ["--num_train_epochs", "1", "--per_device_train_batch_size", "4", "--disable_tqdm", "True", "--use_cpu"]
    clcr("train", "--dataset_dir", str(corpus), "--output_dir", str(folder), *SIZES, *small, *quick)
    return folder


@pytest.fixture(scope="module")
def clip(corpus) -> str:
    return str(corpus / "test" / "clip_00000.mp4")


def test_predict_as_json(model, clip):
    done = clcr("predict", clip, "--text", "what a lovely film", "--model", str(model), "--json")
    result = json.loads(done.stdout)
    assert -3 <= result["score"] <= 3
    assert result["label"] in ("negative", "neutral", "positive")
    assert len(result["level_weights"]) == 3
    assert set(result["modality_weights"]) == {"text", "vision", "audio"}
    assert "lovely" in "".join(token["token"].removeprefix("##") for token in result["tokens"]["text"])
    assert len(result["tokens"]["vision"]) == 4


def test_predict_for_people(model, clip, inside):
    code, text, _ = inside("predict", clip, "--text", "what a lovely film", "--model", str(model), "--top", "2")
    assert code == 0
    for word in ("score", "label", "level 3", "text", "vision", "audio"):
        assert word in text
    assert text.count("most exchanged tokens") == 3
    assert "most exchanged tokens" not in inside("predict", clip, "--model", str(model), "--top", "0")[1]


def test_predict_from_text_alone(model, inside):
    result = json.loads(inside("predict", "--text", "a dull day", "--model", str(model), "--json")[1])
    assert result["modality_weights"]["vision"] == 0


def test_predict_from_an_address(model, clip, inside, monkeypatch):
    folder = partial(_Quiet, directory=str(Path(clip).parent))
    with ThreadingHTTPServer(("127.0.0.1", 0), folder) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        arguments = ("--model", str(model), "--device", "cpu", "--json")
        address = f"http://127.0.0.1:{server.server_address[1]}/{Path(clip).name}"
        code, _, errors = inside("predict", address, *arguments)
        assert code == 1 and "private network" in errors
        monkeypatch.setenv("CLCR_ALLOW_PRIVATE_URLS", "1")
        found = json.loads(inside("predict", address, *arguments)[1])
        server.shutdown()
    assert found == json.loads(inside("predict", clip, *arguments)[1])


def test_predict_prints_segments(model, clip, inside, tmp_path):
    names = {0: "bell", 1: "dog"}
    changes = {"num_segments": 4, "num_labels": 2, "id2label": names, "problem_type": "single_label_classification"}
    CLCRForTokenClassification(CLCRConfig.from_pretrained(model, **changes)).save_pretrained(tmp_path)
    CLCRProcessor.from_pretrained(model).save_pretrained(tmp_path)
    arguments = ("predict", clip, "--model", str(tmp_path))
    segments = json.loads(inside(*arguments, "--json")[1])["segments"]
    code, text, _ = inside(*arguments, "--top", "1")
    assert code == 0 and len(segments) == 4
    for one in segments:
        assert f"{one['start']:.2f}-{one['end']:.2f} s" in text and f"{one['score']:.3f}" in text
    assert "bell" in text or "dog" in text


def test_evaluate_matches_the_run(model, corpus, inside):
    _, text, _ = inside("evaluate", "--model", str(model), "--dataset-dir", str(corpus), "--json")
    found = json.loads(text)
    expected = json.loads((model / "test_results.json").read_text())
    assert found["mae"] == pytest.approx(expected["test_mae"], abs=1e-4)
    _, table, _ = inside("evaluate", "--model", str(model), "--dataset-dir", str(corpus), "--split", "validation")
    assert "mae" in table and "validation" in table


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["predict", "absent.mp4"], "absent.mp4 is not a file"),
        (["predict"], "nothing to read"),
        (["predict", "--text", "a", "--device", "abacus"], "--device takes cpu"),
        (["predict", "--text", "a", "--model", "/nonexistent/model"], "/nonexistent/model"),
        (["evaluate", "--model", "x", "--dataset", "mmsa"], "x does not exist"),
    ],
)
def test_mistakes_are_one_line(arguments, message, inside):
    code, _, errors = inside(*arguments)
    assert code == 1
    assert message in errors
    assert len(errors.strip().splitlines()) == 1


def test_evaluate_asks_for_the_file_of_its_data(model, inside):
    code, _, errors = inside("evaluate", "--model", str(model), "--dataset", "mmsa")
    assert code == 1 and "--data_file" in errors


def test_a_mistake_ends_the_process_without_a_traceback():
    done = clcr("predict", "absent.mp4", check=False)
    assert done.returncode == 1
    assert "error: absent.mp4" in done.stderr
    assert "Traceback" not in done.stderr


def test_help_lists_the_commands(inside):
    text = inside("--help")[1]
    for command in ("train", "evaluate", "predict"):
        assert command in text
    assert "--backbone_learning_rate" in inside("train", "--help")[1]
