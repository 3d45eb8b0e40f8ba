"""A published model where transformers and torch are installed, but not this package: in a real environment."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from conftest import REPO
from stand_in_hub import StandInHub
from transformers.models.vit.image_processing_pil_vit import ViTImageProcessorPil

from clcr_hf import CLCRConfig, CLCRFeatureExtractor, CLCRForSequenceClassification, CLCRProcessor
from clcr_hf.media import write_video
from clcr_hf.training.build import train_tokenizer

NAME = "org/clcr-mosei"
# Reads a clip by the published name; the handler too where the package is absent. Prints results as JSON.
READ = """
import importlib.util, json, sys
trust = {trust}
if trust:
    assert importlib.util.find_spec("clcr_hf") is None, "the package is installed here"
else:
    import clcr_hf
import torch
from transformers import pipeline
torch.set_num_threads(1)
read = pipeline("multimodal-sentiment", model="org/clcr-mosei", device="cpu", trust_remote_code=trust)
sample = {{"media": sys.argv[1], "text": "what a good day"}}
results = [read(sample, return_explanation=True)]
if trust:
    from huggingface_hub import snapshot_download
    sys.path.insert(0, snapshot_download("org/clcr-mosei"))
    import base64
    from handler import EndpointHandler
    clip = base64.b64encode(open(sys.argv[1], "rb").read()).decode()
    handler = EndpointHandler(path=sys.path[0])
    results.append(handler({{"inputs": {{"media": clip, "text": "what a good day"}}}}))
print("RESULT " + json.dumps(results))
"""


@pytest.fixture(scope="module")
def clean_python(tmp_path_factory) -> Path:
    """Interpreter of a new environment with torch, transformers and what reads clips."""
    folder = tmp_path_factory.mktemp("clean") / "venv"
    subprocess.run([sys.executable, "-m", "venv", folder], check=True)
    python = folder / "bin" / "python"
    wanted = ["torch", "transformers", "av", "pillow"]
    command = [python, "-m", "pip", "install", "-q", "-c", REPO / "constraints.txt", *wanted]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        pytest.skip(f"NO CLEAN ENVIRONMENT: pip could not install {wanted}: {done.stderr[-300:]}")
    return python


@pytest.fixture(scope="module")
def model(tmp_path_factory) -> Path:
    """A model of random weights that reads frames, sound and text."""
    folder = tmp_path_factory.mktemp("model")
    tokenizer = train_tokenizer(["what a good day", "what a bad day"] * 2, vocab_size=60, max_length=16)
    small = {"hidden_size": 32, "num_hidden_layers": 3, "num_attention_heads": 2, "intermediate_size": 32}
    config = CLCRConfig(
        text_config={
            "backbone_config": {"model_type": "bert", "vocab_size": len(tokenizer), **small},
            "source": "taps",
        },
        vision_config={
            "backbone_config": {
                "model_type": "resnet",
                "embedding_size": 8,
                "hidden_sizes": [8, 16, 16],
                "depths": [1, 1, 1],
            },
            "source": "taps",
        },
        audio_config={"feature_size": 65},
        hidden_size=32,
        num_labels=1,
    )
    CLCRForSequenceClassification(config).save_pretrained(folder)
    CLCRProcessor(
        tokenizer=tokenizer,
        feature_extractor=CLCRFeatureExtractor(n_fft=128, hop_length=320),
        image_processor=ViTImageProcessorPil(size={"height": 32, "width": 32}),
        video_num_frames=4,
    ).save_pretrained(folder)
    return folder


@pytest.mark.slow
def test_published_loaded_and_run_where_the_package_is_absent(model, clean_python, tmp_path):
    generator = np.random.default_rng(0)
    frames = generator.integers(0, 255, (20, 48, 64, 3), dtype=np.uint8)
    sound = generator.normal(0, 0.1, 32_000).astype(np.float32)
    write_video(tmp_path / "clip.mp4", frames, fps=10, audio=sound, sampling_rate=16_000)

    def process(python: object, code: str, cache: str, signed_in: bool) -> str:
        environment = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
        environment |= {**hub.environment(tmp_path / cache, signed_in), "OMP_NUM_THREADS": "1"}
        command = [str(python), "-c", code, str(tmp_path / "clip.mp4")]
        done = subprocess.run(command, env=environment, cwd=tmp_path, capture_output=True, text=True, timeout=600)
        assert done.returncode == 0, done.stderr[-3000:]
        return done.stdout

    with StandInHub() as hub:
        publish = f"from clcr_hf.hub.publish import publish; publish({str(model)!r}, {NAME!r})"
        process(sys.executable, publish, "sender", True)
        there = process(clean_python, READ.format(trust=True), "empty", False)
        here = process(sys.executable, READ.format(trust=False), "also empty", False)
    (theirs, by_handler), (ours,) = (
        json.loads(next(line for line in out.splitlines() if line.startswith("RESULT "))[7:]) for out in (there, here)
    )
    assert theirs == ours  # every number to the bit
    assert by_handler["score"] == ours["score"] and set(ours["tokens"]) == {"text", "vision", "audio"}
