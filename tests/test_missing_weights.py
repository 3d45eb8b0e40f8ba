"""Weights that are not in a model's files are an error that names them, at every door; never a random score."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from extract_backbones import save_audio, save_text
from safetensors.torch import load_file, save_file
from transformers import AutoModel, AutoModelForSequenceClassification, pipeline

from clcr_hf import CLCRForPreTraining, CLCRForSequenceClassification, CLCRForTokenClassification, CLCRModel
from clcr_hf.cli.main import main
from clcr_hf.export import load_for_export
from clcr_hf.extract.speech import SpeechRecogniser
from clcr_hf.hub.handler import EndpointHandler
from clcr_hf.hub.publish import build_release
from clcr_hf.training import load_model

SAVED = Path(__file__).parent / "checkpoints" / "clips"
LACKS = r"its files lack \d+ weights \((clcr|classifier|aggregation)\."


def change(folder: Path, how) -> Path:
    """Writes the weights of a folder anew, by what `how` gives for a name: another name, or None."""
    file = folder / "model.safetensors"
    weights = {new: value for name, value in load_file(file).items() if (new := how(name)) is not None}
    save_file(weights, file, metadata={"format": "pt"})
    return folder


def copy(tmp_path: Path) -> Path:
    return Path(shutil.copytree(SAVED, tmp_path / "model"))


CHANGES = {
    "another prefix": lambda name: f"wrapped.{name}",
    "one left out": lambda name: None if name == "clcr.aggregation.query.weight" else name,
}


@pytest.fixture(params=CHANGES)
def broken(request, tmp_path) -> Path:
    folder = change(copy(tmp_path), CHANGES[request.param])
    record = {"dataset": "manifest", "data_arguments": {}, "metrics": {}, "modalities": ["text"], "settings": {}}
    (folder / "run.json").write_text(json.dumps(record))
    return folder


# -- doors -------------------------------------------------------------------------------------------------------------

COMMANDS = {
    "predict": "predict --text hello --model {model} --device cpu",
    "explain": "explain --text hello --model {model} --device cpu",
    "demo": "demo --model {model} --device cpu",
    "evaluate": "evaluate --model {model} --dataset manifest --data_file {table}",
    "export": "export {model} {out}/model.onnx",
    "publish": "publish {model} org/name --to-folder {out}",
    "card": "card {model}",
}


@pytest.mark.parametrize("door", COMMANDS)
def test_commands_say_so_in_one_line(door, broken, tmp_path, capsys):
    if door == "demo":
        pytest.importorskip("gradio")
    if door == "export":
        pytest.importorskip("onnx")
    table = tmp_path / "t.csv"
    table.write_text("text,label\nhello,1\n")
    words = COMMANDS[door].format(model=broken, table=table, out=tmp_path / "out").split()
    with pytest.raises(SystemExit) as stop:
        main(words)
    captured = capsys.readouterr()
    assert stop.value.code == 1 and not captured.out
    (line,) = [line for line in captured.err.splitlines() if line.startswith("error")]
    assert "its files lack" in line and "clcr.aggregation." in line + captured.err and "Traceback" not in captured.err
    assert not (broken / "README.md").exists()


DOORS = {
    "load_model": load_model,
    "export": load_for_export,
    "release": lambda folder: build_release(folder, folder.parent / "release", "org/name"),
    "pipeline": lambda folder: pipeline("multimodal-sentiment", model=str(folder), device="cpu"),
    "embeddings": lambda folder: pipeline("multimodal-feature-extraction", model=str(folder), device="cpu"),
    "handler": EndpointHandler,
    "its class": CLCRForSequenceClassification.from_pretrained,
    "another head": CLCRForTokenClassification.from_pretrained,
    "the alignment stage": CLCRForPreTraining.from_pretrained,
    "AutoModel": AutoModel.from_pretrained,
    "AutoModelForSequenceClassification": AutoModelForSequenceClassification.from_pretrained,
    "a new head": lambda folder: CLCRForSequenceClassification.from_pretrained(
        folder, num_labels=5, ignore_mismatched_sizes=True
    ),
}


@pytest.mark.parametrize("door", DOORS)
def test_python_says_so(door, broken):
    with pytest.raises(ValueError, match=LACKS):
        DOORS[door](broken)


def test_a_handler_without_the_package_says_so(tmp_path):
    release = build_release(SAVED, tmp_path / "release", "org/name")
    change(release, CHANGES["one left out"])
    code = f"import sys; sys.modules['clcr_hf'] = None; sys.path.insert(0, {str(release)!r})\n"
    code += f"from handler import EndpointHandler; EndpointHandler({str(release)!r})"
    environment = {**os.environ, "HF_HOME": str(tmp_path / "home")}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, timeout=600)
    assert done.returncode != 0 and "its files lack 1 weights (clcr.aggregation.query.weight)" in done.stderr


def test_a_head_is_new_only_where_no_weight_of_it_is_there(tmp_path):
    """The bare model and the alignment stage have no head; a saved head that lost its weights is none."""
    CLCRModel.from_pretrained(SAVED).save_pretrained(tmp_path / "bare")
    CLCRForSequenceClassification.from_pretrained(tmp_path / "bare")
    folder = change(copy(tmp_path), lambda name: None if name.startswith("classifier.") else name)
    CLCRModel.from_pretrained(folder)
    with pytest.raises(ValueError, match="lack .* weights .classifier"):
        CLCRForSequenceClassification.from_pretrained(folder)
    folder = change(tmp_path / "model", lambda name: name)
    _, report = CLCRForSequenceClassification.from_pretrained(folder, output_loading_info=True)
    assert all(name.startswith("classifier.") for name in report["missing_keys"])  # who asks for the report gets it


# -- backbones ---------------------------------------------------------------------------------------------------------


def test_extraction_refuses_a_backbone_that_lacks_weights(tmp_path, capsys):
    folder = Path(save_text(tmp_path / "bert"))
    change(folder, lambda name: None if "layer.1.output.dense" in name else name)
    (tmp_path / "t.csv").write_text("text\nhello\n")
    with pytest.raises(SystemExit) as stop:
        main(["extract", str(tmp_path / "t.csv"), str(tmp_path / "out"), "--text", str(folder), "--device", "cpu"])
    captured = capsys.readouterr()
    assert stop.value.code == 1 and not (tmp_path / "out").exists()
    assert "its files lack 2 weights (encoder.layer.1.output.dense.bias, " in captured.err


def test_speech_recognition_refuses_a_model_that_was_never_taught_to_spell(tmp_path):
    with pytest.raises(ValueError, match=r"lack 2 weights \(lm_head.bias, lm_head.weight\)"):
        SpeechRecogniser(save_audio(tmp_path / "wave", "wav2vec2"))


def test_the_command_shows_what_transformers_reports_of_weights(tmp_path):
    """In a process of its own: the report is a line of the log, not part of an error."""
    folder = change(copy(tmp_path), lambda name: name)
    extra = load_file(folder / "model.safetensors") | {"clcr.of_nobody": torch.zeros(1)}
    save_file(extra, folder / "model.safetensors", metadata={"format": "pt"})
    words = ["predict", "--text", "hello", "--model", str(folder), "--device", "cpu", "--json"]
    done = subprocess.run([sys.executable, "-m", "clcr_hf.cli", *words], capture_output=True, text=True, timeout=600)
    assert done.returncode == 0 and "score" in json.loads(done.stdout)
    assert "clcr.of_nobody" in done.stderr and "UNEXPECTED" in done.stderr


# -- names that wrappers write -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("prefix", ["module.", "_orig_mod.", "module._orig_mod.", "_orig_mod.module."])
def test_prefixes_of_wrappers_are_taken_off(prefix, tmp_path):
    whole = load_file(SAVED / "model.safetensors")
    folder = change(copy(tmp_path), lambda name: prefix + name)
    for door in ("load_model", "its class", "AutoModel", "AutoModelForSequenceClassification", "the alignment stage"):
        found = DOORS[door](folder).state_dict()
        named = {name if name in whole else f"clcr.{name}": value for name, value in found.items()}
        assert named and all(torch.equal(value, whole[name]) for name, value in named.items())
    model = load_model(folder)
    for original in (False, True):
        model.save_pretrained(tmp_path / "again", save_original_format=original)
        assert all(
            torch.equal(value, whole[name]) for name, value in load_model(tmp_path / "again").state_dict().items()
        )


def test_backbones_too(tmp_path):
    folder = save_text(tmp_path / "bert")
    config = {"hidden_size": 16, "num_attention_heads": 2}
    whole = CLCRModel.from_backbones({"text": folder}, **config).hierarchy.encoders["text"].reader.state_dict()
    change(Path(folder), lambda name: f"module.{name}")
    found = CLCRModel.from_backbones({"text": folder}, **config).hierarchy.encoders["text"].reader.state_dict()
    assert whole and all(torch.equal(found[name], value) for name, value in whole.items())
