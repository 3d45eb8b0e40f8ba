"""`backend="onnx"`: the pipeline, the handler and a release with a graph in the place of the PyTorch model."""

import json
import logging
import os
import shutil
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from model_utils import clip_processor, feature_config
from stand_in_hub import StandInHub
from transformers import pipeline

from clcr_hf import (
    CLCRConfig,
    CLCRFeatureExtractor,
    CLCRForSequenceClassification,
    CLCRForTokenClassification,
    CLCRPipeline,
    CLCRPreTrainedModel,
    CLCRProcessor,
)
from clcr_hf.cli.main import main
from clcr_hf.export.onnx import export_onnx
from clcr_hf.hub import handler as handler_module
from clcr_hf.hub.handler import EndpointHandler
from clcr_hf.hub.publish import build_release
from clcr_hf.onnx_graph import GRAPH_FILE

pytestmark = pytest.mark.skipif(
    any(find_spec(name) is None for name in ("onnx", "onnxscript", "onnxruntime")),
    reason='serving by ONNX is not tested: pip install ".[export]"',
)
TASK, CLOSE = "multimodal-sentiment", 1e-4


def moved(model: Any, seed: int = 0) -> Any:
    """The model away from its start values, where some of its answers are zero."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for value in model.parameters():
            value.add_(0.05 * torch.rand(value.shape, generator=generator))
    return model.eval()


def saved(folder: Path, head: Any = CLCRForSequenceClassification, graph: bool = True, **fields: Any) -> Path:
    """A model of short TCNs on features of width 7 (vision) and 5 (audio), its processor, and its graph."""
    short = {"tcn_dilations": [[1], [2]]}
    parts = {"vision_config": {"feature_size": 7, **short}, "audio_config": {"feature_size": 5, **short}}
    torch.manual_seed(0)
    config = feature_config(**{"num_levels": 2, "hidden_size": 16, "num_attention_heads": 2, **parts, **fields})
    moved(head(config)).save_pretrained(folder)
    CLCRProcessor(feature_extractor=CLCRFeatureExtractor()).save_pretrained(folder)
    if graph:
        export_onnx(folder, folder / GRAPH_FILE)
    return folder


def sample(steps: int, audio_steps: int | None = None) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(steps)
    shapes = {"vision_features": (steps, 7), "audio_features": (audio_steps or steps + 2, 5)}
    return {name: rng.normal(size=shape).astype(np.float32) for name, shape in shapes.items()}


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    names = {0: "sad", 1: "calm", 2: "glad"}
    fields = {
        "id2label": names,
        "num_labels": 3,
        "problem_type": "single_label_classification",
        "logit_temperature": 1.5,
    }
    return saved(tmp_path_factory.mktemp("model") / "served", **fields)


@pytest.fixture(scope="module")
def hearing(folder, tmp_path_factory) -> Path:
    """The same model; its graph, by the command, takes audio alone."""
    target = Path(shutil.copytree(folder, tmp_path_factory.mktemp("hearing") / "served"))
    (target / GRAPH_FILE).unlink()
    with pytest.raises(FileNotFoundError, match=r"has no model\.onnx"):
        build_release(target, target / "release", "org/name", graph=True)
    run_command("export", str(target), "--modalities", "audio")
    return target


def run_command(*words: str) -> None:
    with pytest.raises(SystemExit) as stopped:
        main(list(words))
    assert stopped.value.code == 0


@pytest.fixture
def copy(folder, tmp_path) -> Path:
    return Path(shutil.copytree(folder, tmp_path / "copy"))


def flat(value: Any, name: str = "") -> dict[str, Any]:
    """Leaves of a result by their paths."""
    if isinstance(value, dict):
        return {key: leaf for part, each in value.items() for key, leaf in flat(each, f"{name}/{part}").items()}
    if isinstance(value, list):
        return {key: leaf for place, each in enumerate(value) for key, leaf in flat(each, f"{name}/{place}").items()}
    return {name: value}


def assert_same(found: Any, wanted: Any) -> None:
    found, wanted = flat(found), flat(wanted)
    assert found.keys() == wanted.keys()
    for name, value in wanted.items():
        same = found[name] == (pytest.approx(value, abs=CLOSE) if isinstance(value, float) else value)
        assert same, (name, found[name], value)


def both(folder: Path) -> tuple[CLCRPipeline, CLCRPipeline]:
    return pipeline(TASK, model=str(folder), backend="onnx"), pipeline(TASK, model=str(folder), device="cpu")


# -- the same answers --------------------------------------------------------------------------------------------------


def test_answers_and_explanations_are_those_of_the_model(folder, monkeypatch):
    """One input, batches of several lengths with modalities missing, and a stream; PyTorch computes nothing."""
    samples = [sample(9), sample(4, 21), {"vision_features": sample(3)["vision_features"]}, sample(1)]
    graph, model = both(folder)
    wanted = [model(each, return_explanation=True) for each in samples]
    monkeypatch.setattr(CLCRPreTrainedModel, "__call__", None)
    for each, want in zip(samples, wanted, strict=True):
        assert_same(graph(each, return_explanation=True), want)
    assert set(wanted[0]) >= {"level_weights", "modality_weights", "private_gates", "modality_logits", "joint_logits"}
    assert len(wanted[1]["tokens"]["audio"]) == 21 and "audio" not in wanted[2]["tokens"]
    for batch_size in (2, 4):
        assert_same(graph(samples, batch_size=batch_size, return_explanation=True), wanted)
    assert_same(list(graph(iter(samples), top_k=1))[1], {**graph(samples[1], top_k=1)})


@pytest.mark.slow
def test_a_label_a_step(tmp_path):
    """All modalities are as long then, and so is what stands for a missing one."""
    graph, model = both(saved(tmp_path, CLCRForTokenClassification, num_labels=3))
    samples = [sample(9, 9), {"audio_features": sample(8, 8)["audio_features"]}, sample(5, 5)]
    for each in samples:
        assert_same(graph(each, return_explanation=True), model(each, return_explanation=True))
    assert_same(graph(samples, batch_size=3), model(samples, batch_size=3))
    with pytest.raises(ValueError, match="labels each step, so all modalities must have as many, got"):
        graph(sample(9, 4))


def test_a_model_without_a_joint_path(tmp_path):
    graph, model = both(saved(tmp_path, use_joint_path=False, num_labels=1))
    want = model(sample(6), return_explanation=True)
    assert_same(graph(sample(6), return_explanation=True), want)
    assert want["tokens"] == {}


@pytest.mark.slow
def test_a_clip_with_text(tmp_path):
    """Raw input of three modalities: words, frames and a waveform, of one padded batch."""
    from model_utils import clip_model, write_clip

    processor = clip_processor()
    moved(clip_model(processor)).save_pretrained(tmp_path / "model")
    processor.save_pretrained(tmp_path / "model")
    export_onnx(tmp_path / "model", tmp_path / "model" / GRAPH_FILE)
    clip = str(write_clip(tmp_path / "clip.mp4", 1.0))
    graph, model = both(tmp_path / "model")
    samples = [{"media": clip, "text": "a good day"}, {"media": clip}, {"text": "a day"}]
    assert_same(graph(samples, batch_size=3, return_explanation=True), model(samples, return_explanation=True))


# -- what is refused ---------------------------------------------------------------------------------------------------


def test_a_modality_that_was_not_exported(hearing):
    graph, model = both(hearing)
    alone = {"audio_features": sample(4)["audio_features"]}
    assert_same(graph(alone, return_explanation=True), model(alone, return_explanation=True))
    with pytest.raises(ValueError, match=r"^model\.onnx was exported without vision: leave it out"):
        graph(sample(4))
    (one, two) = graph([sample(4), alone], on_error="skip")
    assert "without vision" in one["error"] and "label" in two


def test_what_no_graph_has(folder, tmp_path):
    graph = pipeline(TASK, model=str(folder), backend="onnx")
    with pytest.raises(ValueError, match=r"^model\.onnx has no attentions: use backend='torch'"):
        graph.model(**{"vision_features": torch.zeros(1, 3, 7)}, output_attentions=True)
    with pytest.raises(ValueError, match="a graph has no weights to save"):
        graph.save_pretrained(tmp_path)
    with pytest.raises(ValueError, match="CLCRFeaturePipeline has the backend torch, got 'onnx'"):
        pipeline("multimodal-feature-extraction", model=str(folder), backend="onnx", device="cpu")
    with pytest.raises(ValueError, match="has the backend torch or onnx, got 'tensorrt'"):
        pipeline(TASK, model=str(folder), backend="tensorrt")
    with pytest.raises(ValueError, match="runs on the CPU, got device='cuda:0'"):
        CLCRPipeline(model=graph.model, processor=graph.processor, backend="onnx", device="cuda:0")


def test_a_graph_that_is_not_there(copy, monkeypatch):
    (copy / GRAPH_FILE).unlink()
    with pytest.raises(FileNotFoundError, match=r"has no model\.onnx: write it by `clcr export`"):
        pipeline(TASK, model=str(copy), backend="onnx")
    model = CLCRForSequenceClassification(CLCRConfig.from_pretrained(copy))
    with pytest.raises(FileNotFoundError, match="not loaded from a folder has no"):
        CLCRPipeline(model=model, processor=CLCRProcessor(), backend="onnx")
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    shutil.copyfile(copy / "config.json", copy / GRAPH_FILE)
    with pytest.raises(ImportError, match="not installed: pip install onnxruntime"):
        pipeline(TASK, model=str(copy), backend="onnx")


def test_a_file_that_is_no_graph(copy):
    (copy / GRAPH_FILE).write_text("{}")
    with pytest.raises(ValueError, match="onnxruntime cannot load it") as error:
        pipeline(TASK, model=str(copy), backend="onnx")
    assert "\n" not in str(error.value)


def test_a_graph_of_other_weights_or_settings(copy):
    """Another weight, another setting, other kinds of numbers, the fusion alone; a copy in shards is the same."""
    model = CLCRForSequenceClassification.from_pretrained(copy)
    model.save_pretrained(copy, max_shard_size="20KB")
    (copy / "model.safetensors").unlink()
    assert "label" in pipeline(TASK, model=str(copy), backend="onnx")(sample(3))
    with pytest.raises(ValueError, match="of float32 weights, and these are bfloat16: leave `dtype` out"):
        pipeline(TASK, model=str(copy), backend="onnx", dtype=torch.bfloat16)
    settings = json.loads((copy / "config.json").read_text())
    (copy / "config.json").write_text(json.dumps({**settings, "own_share": 0.25}))
    with pytest.raises(ValueError, match=r"made with other settings \(own_share\): export it again"):
        pipeline(TASK, model=str(copy), backend="onnx")
    (copy / "config.json").write_text(json.dumps(settings))
    with torch.no_grad():
        model.classifier.out_proj.bias += 1e-6
    model.save_pretrained(copy, max_shard_size="20KB")
    with pytest.raises(ValueError, match="made of other weights than those beside it: export it again"):
        pipeline(TASK, model=str(copy), backend="onnx")
    with pytest.raises(ValueError, match="made of other weights"):
        build_release(copy, copy / "release", "org/name", graph=True)


# -- the command, a release, the handler -------------------------------------------------------------------------------


def test_from_the_command_to_the_handler(hearing, tmp_path, monkeypatch, caplog):
    """`clcr export` puts the graph where it is found, `clcr publish --graph` takes it along, the handler answers by it,
    and by PyTorch without onnxruntime."""
    release = tmp_path / "release"
    run_command("publish", str(hearing), "org/name", "--graph", "--to-folder", str(release))
    assert (release / GRAPH_FILE).read_bytes() == (hearing / GRAPH_FILE).read_bytes()
    assert "onnxruntime" in (release / "requirements.txt").read_text()
    body: dict[str, Any] = {"inputs": {"audio_features": sample(5)["audio_features"].tolist()}}
    body["parameters"] = {"return_explanation": True}
    caplog.set_level(logging.INFO)
    served = EndpointHandler(str(release))
    assert served.backend == "onnx" and "answers come from onnx on cpu" in caplog.text
    monkeypatch.setattr(handler_module, "find_spec", lambda name: None)
    plain = EndpointHandler(str(release))
    assert plain.backend == "torch" and "onnxruntime, which model.onnx needs, is not installed" in caplog.text
    assert_same(served(body), plain(body))
    assert handler_module.GRAPH_FILE == GRAPH_FILE


def test_a_graph_on_the_hub(folder, tmp_path):
    """By name, and again from the cache without the network."""
    answer = (
        "import clcr_hf, numpy as np\nfrom transformers import pipeline\n"
        f"pipe = pipeline({TASK!r}, model='org/served', backend='onnx')\n"
        "print(pipe.model.graph.path, pipe({'audio_features': np.ones((3, 5), np.float32)})['label'])"
    )
    send = f"from clcr_hf.hub.publish import publish\npublish({str(folder)!r}, 'org/served', graph=True)\n"
    with StandInHub() as hub:
        environment = {**os.environ, **hub.environment(tmp_path / "cache")}
        for code, more in ((send + answer, {}), (answer, {"HF_HUB_OFFLINE": "1"})):
            command = [sys.executable, "-c", code]
            done = subprocess.run(command, capture_output=True, text=True, env={**environment, **more}, cwd=tmp_path)
            assert done.returncode == 0, done.stderr[-3000:]
            path, label = done.stdout.split()
            assert path.endswith(GRAPH_FILE) and str(tmp_path / "cache") in path and label in ("sad", "calm", "glad")


def test_a_release_serves_its_graph_without_the_package(folder, tmp_path):
    """The code that travels is enough."""
    release = build_release(folder, tmp_path / "release", "org/name", graph=True)
    code = (
        "import sys; sys.modules['clcr_hf'] = None; sys.path.insert(0, sys.argv[1])\n"
        "from handler import EndpointHandler\n"
        "served = EndpointHandler(sys.argv[1])\n"
        "print(served.backend, served({'inputs': {'audio_features': [[1.0] * 5] * 3}})['label'])"
    )
    done = subprocess.run([sys.executable, "-c", code, str(release)], capture_output=True, text=True, cwd=tmp_path)
    assert done.returncode == 0, done.stderr[-3000:]
    assert done.stdout.split()[0] == "onnx"
