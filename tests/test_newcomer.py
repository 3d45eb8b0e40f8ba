"""What a newcomer meets: imports, help, errors in one line, what training says. Real processes where that matters."""

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import h5py
import httpx
import numpy as np
import pyarrow as pa
import pytest
import torch
import yaml
from conftest import REPO
from huggingface_hub.errors import StrictDataclassFieldValidationError
from safetensors import SafetensorError

from clcr_hf.cli.errors import _waits_for_us, can_be_mended, one_line, told
from clcr_hf.cli.main import main
from clcr_hf.data.columns import carve_groups
from clcr_hf.data.columns import logger as data_logger
from clcr_hf.data.talking_faces.render import generate_talking_faces
from clcr_hf.training.log import CarvedSplits, short
from clcr_hf.training.run import main as train

CHECKPOINT = Path(__file__).parent / "checkpoints" / "clips"
LAUNCH = [sys.executable, "-m", "accelerate.commands.accelerate_cli", "launch", "--num_processes", "1"]
LAUNCH += ["--num_machines", "1", "--mixed_precision", "no", "--dynamo_backend", "no", "--cpu"]


def python(code: str, **environment: str) -> str:
    """What a fresh interpreter prints."""
    command = [sys.executable, "-c", code]
    done = process(command, **environment)
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout.strip()


def process(command: list[str], **environment: str) -> subprocess.CompletedProcess:
    names = {"HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1", **environment}
    variables = {key: value for key, value in os.environ.items() if key != "CLCR_TRACEBACK"} | names
    return subprocess.run(command, cwd=REPO, env=variables, capture_output=True, text=True, timeout=900)


@pytest.fixture
def clcr(monkeypatch, capsys):
    """The command inside this process: (exit code, lines of the standard error)."""

    def run(*arguments: str) -> tuple[int, list[str]]:
        monkeypatch.setattr(sys, "argv", ["clcr", *arguments])
        monkeypatch.setenv("HF_HUB_OFFLINE", "1")
        capsys.readouterr()
        with pytest.raises(SystemExit) as stop:
            main()
        return stop.value.code or 0, capsys.readouterr().err.strip().splitlines()

    return run


# -- imports --------------------------------------------------------------------------------------------------------


def test_help_and_version_import_no_torch():
    code = """
import sys
from clcr_hf.cli.main import main
for words in (["--help"], ["--version"], ["predict", "--help"], ["extract", "--help"], ["publish", "--help"]):
    try:
        main(words)
    except SystemExit as stop:
        assert not stop.code
print([name for name in ("torch", "transformers", "datasets", "numpy") if name in sys.modules])
"""
    text = python(code)
    assert text.splitlines()[-1] == "[]"
    for word in ("train", "evaluate", "predict", "extract", "convert", "explain", "publish", "demo", "clcr-hf 0."):
        assert word in text


def test_the_import_is_cheap_and_its_names_are_there():
    code = "import sys, clcr_hf; print('torch' in sys.modules, 'transformers' in sys.modules, dir(clcr_hf))"
    assert python(code).startswith("False False ")
    import clcr_hf

    for name in clcr_hf.__all__:
        assert getattr(clcr_hf, name) is not None
    with pytest.raises(AttributeError, match="CLCRNothing"):
        clcr_hf.CLCRNothing  # noqa: B018


READ = f"""
import sys
from transformers import AutoConfig, AutoFeatureExtractor, AutoModel, AutoModelForSequenceClassification
from transformers import AutoModelForTokenClassification, AutoProcessor, pipeline
import clcr_hf
folder = {str(CHECKPOINT)!r}
config = AutoConfig.from_pretrained(folder)
assert type(config) is clcr_hf.CLCRConfig
assert type(AutoModel.from_pretrained(folder)) is clcr_hf.CLCRModel
assert type(AutoModelForSequenceClassification.from_pretrained(folder)) is clcr_hf.CLCRForSequenceClassification
assert type(AutoModelForTokenClassification.from_config(config)) is clcr_hf.CLCRForTokenClassification
assert type(AutoProcessor.from_pretrained(folder)) is clcr_hf.CLCRProcessor
mapping = sys.modules["transformers.models.auto.feature_extraction_auto"].FEATURE_EXTRACTOR_MAPPING
assert AutoFeatureExtractor and mapping[type(config)] is clcr_hf.CLCRFeatureExtractor
read = pipeline("multimodal-sentiment", model=folder)
assert type(read) is clcr_hf.CLCRPipeline and "score" in read({{"text": "well"}})
print("all work")
"""


@pytest.mark.parametrize(
    "first",
    [
        "import clcr_hf",
        "import transformers.modeling_utils, clcr_hf",
        "from clcr_hf.modeling_clcr import CLCRModel",
        "import clcr_hf; from transformers.models.bert.modeling_bert import BertModel",
        "from clcr_hf import CLCRTrainer",
    ],
)
def test_a_bare_import_registers_with_every_auto_class(first):
    assert python(f"{first}\n{READ}") == "all work"


# -- errors ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("words", [["--num_train_epochs", "abc"], ["--learning_rat", "1"], ["--dataset_dir", "/none"]])
def test_an_error_under_accelerate_is_one_line(words):
    done = process([*LAUNCH, "examples/run_emotion.py", *words])
    assert done.returncode != 0
    lines = done.stderr.strip().splitlines()
    assert (
        len(lines) == 1
        and lines[0].startswith("error: ")
        and words[0].lstrip("-")[:4] in done.stderr
        or "/none" in lines[0]
    )


def test_a_programming_error_keeps_its_traceback_under_accelerate(tmp_path):
    script = tmp_path / "script.py"
    script.write_text("from clcr_hf.cli.errors import one_line\nwith one_line():\n    None.missing\n")
    done = process([*LAUNCH, str(script)], PYTHONPATH=str(REPO))
    assert done.returncode != 0 and "AttributeError" in done.stderr and "Traceback" in done.stderr


def test_only_a_launcher_that_waits_for_this_process_is_ended(monkeypatch):
    monkeypatch.setattr(sys, "argv", ["run.py", "--seed", "1"])
    monkeypatch.delenv("LOCAL_RANK", raising=False)
    launched = ["python", "/bin/accelerate", "launch", "--num_processes", "1", "run.py", "--seed", "1"]
    assert _waits_for_us(launched)
    assert _waits_for_us(["python", "/bin/accelerate-launch", "run.py", "--seed", "1"])
    assert not _waits_for_us([*launched[:3], "--quiet", *launched[3:]])
    assert not _waits_for_us([*launched[:-1], "2"])
    assert not _waits_for_us(["bash"]) and not _waits_for_us(["python", "run.py", "--seed", "1"])
    monkeypatch.setenv("LOCAL_RANK", "0")
    assert not _waits_for_us(launched)


def _raised(function, *arguments, **named) -> Exception:
    try:
        function(*arguments, **named)
    except Exception as error:
        return error
    raise AssertionError("nothing was raised")


def _damaged_hdf5(folder: Path) -> Exception:
    path = folder / "a.h5"
    with h5py.File(path, "w") as file:
        file.create_dataset("a", data=np.arange(9000), chunks=(1000,), compression="gzip")
    content = bytearray(path.read_bytes())
    content[len(content) // 2 :] = b"\x01" * (len(content) - len(content) // 2)
    path.write_bytes(content)

    def read() -> None:
        with h5py.File(path) as file:
            file["a"][:]

    return _raised(read)


def test_errors_of_libraries_at_the_edge_can_be_mended(tmp_path):
    errors = [
        _damaged_hdf5(tmp_path),
        SafetensorError("incomplete metadata"),
        StrictDataclassFieldValidationError(field="a", cause=TypeError("b")),
        _raised(lambda: b"\xff".decode()),
        _raised(yaml.safe_load, "a: ["),
        pa.ArrowNotImplementedError("no such codec"),
        httpx.ConnectError("no route"),
        OverflowError("too large"),
        torch.OutOfMemoryError("CUDA out of memory"),
    ]
    for error in errors:
        assert can_be_mended(error), repr(error)
        assert told(error) and "\n" not in told(error)


@pytest.mark.parametrize(
    "error", [TypeError("a"), AttributeError("a"), KeyError("a"), IndexError("a"), RuntimeError("a"), AssertionError()]
)
def test_programming_errors_keep_their_traceback(error):
    assert not can_be_mended(error)
    with pytest.raises(type(error)), one_line():
        raise error


def test_the_traceback_is_there_for_who_asks(monkeypatch):
    monkeypatch.setenv("CLCR_TRACEBACK", "1")
    with pytest.raises(ValueError, match="why"), one_line():
        raise ValueError("why")


def test_messages_of_many_lines_and_of_workers_become_one():
    assert told(ValueError("a\n\n  b")) == "a b"
    assert told(OSError()) == "OSError"
    worker = "Caught MediaError in DataLoader worker process 0.\nOriginal Traceback (most recent call last):\n  x\n"
    assert told(ValueError(worker + "clcr_hf.media.MediaError: a.mp4 cannot be read\n")) == "a.mp4 cannot be read"


@pytest.mark.parametrize(
    "words",
    [
        ["predict", "--text", "a", "--model", "{}"],
        ["evaluate", "--model", "{}"],
        ["explain", "--text", "a", "--model", "{}"],
        ["demo", "--model", "{}"],
        ["export", "{}", "a.onnx"],
        ["publish", "{}", "org/name"],
        ["card", "{}"],
    ],
)
@pytest.mark.parametrize("name", ["runs/xyz", "/nowhere/xyz", "xyz"])
def test_a_missing_model_is_said_to_be_missing(clcr, words, name):
    code, lines = clcr(*(word.format(name) for word in words))
    assert code == 1
    assert len(lines) == 1 and f"{name} does not exist" in lines[0]


def test_half_a_download_is_one_line(clcr, tmp_path):
    folder = shutil.copytree(CHECKPOINT, tmp_path / "model")
    weights = folder / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[: weights.stat().st_size // 2])
    for words in (["predict", "--text", "a", "--model", str(folder)], ["publish", str(folder), "org/name"]):
        code, lines = clcr(*words)
        assert code == 1 and len(lines) == 1
        assert str(weights) in lines[0] and "half a download" in lines[0]


@pytest.mark.slow
def test_a_network_that_cannot_be_reached_is_one_line():
    command = [sys.executable, "-m", "clcr_hf.cli.main", "predict", "--text", "a", "--model", "org/name"]
    done = process(command, HF_HUB_OFFLINE="0", HF_ENDPOINT="http://127.0.0.1:9")
    assert done.returncode == 1
    lines = done.stderr.strip().splitlines()
    assert len(lines) == 1 and "org/name does not exist here" in lines[0] and "connection" in lines[0]


# -- training -------------------------------------------------------------------------------------------------------


def test_help_of_training_is_grouped(capsys):
    with pytest.raises(SystemExit):
        train(["--help"])
    text = capsys.readouterr().out
    places = [text.index(f"\n{name}") for name in ("data:", "model:", "training:", "more of training")]
    assert places == sorted(places)
    data, model, training, more = (text[start:end] for start, end in zip(places, [*places[1:], len(text)], strict=True))
    assert "--dataset_dir" in data and "--data_file" in data
    assert "--model_name_or_path" in model and "--modalities" in model
    assert "--num_train_epochs" in training and "--backbone_learning_rate" in training
    assert "--ddp_backend" in more and "--ddp_backend" not in training
    assert "--dataset-dir" not in text  # one spelling each


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--learning_rat", "1"], "did you mean --learning_rate"),
        (["--num_train_epochs", "abc"], "invalid float value: 'abc'"),
        (["--image_backbone", "huge"], "invalid choice: 'huge'"),
    ],
)
def test_wrong_arguments_of_training_are_named(words, message):
    with pytest.raises(ValueError, match=message):
        train(words)


def test_training_says_what_it_does_and_logs_briefly(tmp_path, capsys):
    rng = np.random.default_rng(0)
    videos = np.repeat([f"v{number}" for number in range(12)], 2)
    split = np.where(np.isin(videos, ["v10", "v11"]), "test", "train")
    features = {name: rng.normal(size=(24, 6)).astype(np.float32) for name in ("text", "audio")}
    np.savez(tmp_path / "a.npz", **features, label=rng.integers(0, 2, 24), video_id=videos, split=split)
    folder = tmp_path / "run"
    words = ["--data_file", str(tmp_path / "a.npz"), "--dataset", "utterances", "--output_dir", str(folder)]
    words += ["--num_train_epochs", "1", "--logging_steps", "1", "--per_device_train_batch_size", "4", "--use_cpu"]
    train([*words, "--hidden_size", "16", "--disable_tqdm", "True", "--dataset_options", "validation_fraction=0.2"])
    text = capsys.readouterr().out
    lines = text.splitlines()
    assert "train 8, validation 2, test 2" in lines[0]  # dialogues
    assert "validation is 4 of the 20 rows of train" in lines[1]
    assert "text from text_features, audio from audio_features" in lines[2]
    parameters = sum(each.numel() for each in _weights(folder))
    assert any(line.startswith("model:") and f"{parameters:,}" in line for line in lines)
    assert any(line.startswith("device:") and "cpu" in line for line in lines)
    assert any(line.startswith("output:") and str(folder) in line for line in lines)
    first = next(line for line in lines if line.startswith("{'loss'"))
    assert set(eval(first)) <= {"loss", "loss_task", "learning_rate", "epoch"}
    measured = next(line for line in lines if line.startswith("{'eval_loss'"))
    assert set(eval(measured)) == {"eval_loss", "eval_segment_accuracy", "epoch"}
    history = json.loads((folder / "trainer_state.json").read_text())["log_history"]
    assert {"grad_norm", "loss_intra", "participation_1"} <= set(history[0])
    assert any(line.startswith("saved:") and str(folder) in line for line in lines[-3:])
    assert f"clcr evaluate --model {folder}" in lines[-1] and "clcr predict" in lines[-2]


def _weights(folder: Path) -> list[torch.Tensor]:
    from clcr_hf import CLCRForTokenClassification

    return list(CLCRForTokenClassification.from_pretrained(folder).parameters())


def test_python_of_the_readme_runs_as_written(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    generate_talking_faces("runs/clips", 0, 20, 4, 4, num_workers=1)
    words = ["--dataset_dir", "runs/clips", "--num_train_epochs", "1", "--use_cpu", "--disable_tqdm", "True"]
    train([*words, "--hidden_size", "16", "--backbone_size", "16", "--image_size", "32", "--video_frames", "4"])
    blocks = re.findall(r"```python\n(.*?)```", (REPO / "README.md").read_text(encoding="utf-8"), re.DOTALL)
    assert len(blocks) >= 4
    names: dict[str, object] = {}
    for block in blocks:
        exec(block.split("# pretrained transformers backbones")[0], names)  # those come from the Hub
    assert (tmp_path / "runs" / "more" / "model.safetensors").is_file()


def test_what_loaders_say_is_heard_while_splits_are_gathered(caplog):
    with CarvedSplits() as carved:
        picked = carve_groups(["a", "a", "b", "c"], fraction=0.3, split="test")
        data_logger.warning("a clip is absent")
        data_logger.info("only for who asks")
    carve_groups(["a", "b"], fraction=0.5)
    assert carved.found["test"].startswith(f"test is {picked.sum()} of the 4 rows of train") and len(carved.found) == 1
    assert [record.getMessage() for record in caplog.records] == ["a clip is absent"]


def test_short_logs():
    logs = {"loss": 1.0, "grad_norm": 2.0, "loss_task": 1.0, "slack_1": 0.0, "learning_rate": 0.1, "epoch": 1.0}
    assert set(short(logs, "mae")) == {"loss", "loss_task", "learning_rate", "epoch"}
    assert short({"eval_loss": 1.0, "eval_mae": 0.5, "eval_corr": 0.1}, "mae") == {"eval_loss": 1.0, "eval_mae": 0.5}
    assert short({"train_runtime": 1.0}, None) == {"train_runtime": 1.0}
