"""Weights that are not in a model's files are an error that names them, at every door; never a random score."""

import shutil
from pathlib import Path

import pytest
from safetensors.torch import load_file, save_file
from transformers import pipeline

import clcr_hf  # noqa: F401  (registers the pipeline)
from clcr_hf.cli.main import main
from clcr_hf.export import load_for_export
from clcr_hf.hub.publish import build_release
from clcr_hf.training import load_model

SAVED = Path(__file__).parent / "checkpoints" / "clips"
CHANGES = {
    "_orig_mod.": lambda weights: {f"_orig_mod.{name}": value for name, value in weights.items()},
    "module.": lambda weights: {f"module.{name}": value for name, value in weights.items()},
    "a third left out": lambda weights: dict(list(weights.items())[::3] + list(weights.items())[1::3]),
}


@pytest.fixture(params=CHANGES)
def broken(request, tmp_path) -> Path:
    folder = tmp_path / "model"
    shutil.copytree(SAVED, folder)
    weights = CHANGES[request.param](load_file(folder / "model.safetensors"))
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    return folder


def test_the_command_says_so_in_one_line(broken, capsys):
    with pytest.raises(SystemExit) as stop:
        main(["predict", "--text", "a lovely day", "--model", str(broken), "--device", "cpu"])
    captured = capsys.readouterr()
    assert stop.value.code == 1 and not captured.out
    (line,) = [line for line in captured.err.splitlines() if line.startswith("error")]
    assert "its files lack" in line and "(first: classifier." in line and "Traceback" not in captured.err


def test_python_says_so(broken, tmp_path):
    for door in (load_model, load_for_export, lambda path: build_release(path, tmp_path / "release", "org/name")):
        with pytest.raises(ValueError, match="lack .* weights"):
            door(broken)
    with pytest.raises(ValueError, match="lack .* weights"):
        pipeline("multimodal-sentiment", model=str(broken), device="cpu")
