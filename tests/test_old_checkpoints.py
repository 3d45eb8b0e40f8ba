"""Models that version 0.1 saved load, and answer as they did."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import AutoModelForSequenceClassification, AutoModelForTokenClassification, AutoProcessor
from transformers import pipeline as build_pipeline

import clcr_hf  # noqa: F401  (registers with the Auto classes)

FOLDER = Path(__file__).parent / "checkpoints"
HEADS = {
    "clips": AutoModelForSequenceClassification,
    "classes": AutoModelForSequenceClassification,
    "segments": AutoModelForTokenClassification,
}
# Other processors round otherwise in the last bits; a changed formula shows far above this.
CLOSE = {"rtol": 2e-5, "atol": 2e-6}


def _stored(name: str, file: str) -> dict[str, np.ndarray]:
    with np.load(FOLDER / name / file, allow_pickle=False) as content:
        return dict(content)


def _batch(name: str, folder: Path) -> dict[str, torch.Tensor]:
    given = _stored(name, "inputs.npz")
    if name != "clips":
        return {key: torch.from_numpy(value) for key, value in given.items()}
    processor = AutoProcessor.from_pretrained(folder)
    return processor(
        text=[str(given["text"]), None],
        videos=[given["frames"], given["frames"]],
        audio=[given["wave"], None],
        sampling_rate=16_000,
    )


def _check(name: str, folder: Path) -> None:
    model = HEADS[name].from_pretrained(folder).eval()
    with torch.no_grad():
        outputs = model(**_batch(name, folder))
    for key, expected in _stored(name, "answers.npz").items():
        if key.startswith("budget_"):
            _, level, modality = key.split("_")
            found = outputs.token_budgets[int(level)][modality]
        else:
            found = outputs[key]
        np.testing.assert_allclose(found.numpy(), expected, err_msg=f"{name}: {key}", **CLOSE)


@pytest.mark.parametrize("name", HEADS)
def test_answers_as_it_did(name):
    _check(name, FOLDER / name)


@pytest.mark.parametrize("name", HEADS)
def test_saved_again_it_answers_as_it_did(name, tmp_path):
    HEADS[name].from_pretrained(FOLDER / name).save_pretrained(tmp_path)
    AutoProcessor.from_pretrained(FOLDER / name).save_pretrained(tmp_path)
    _check(name, tmp_path)


def test_pipeline_says_what_it_said():
    given = _stored("clips", "inputs.npz")
    said = json.loads((FOLDER / "clips" / "pipeline.json").read_text(encoding="utf-8"))
    pipe = build_pipeline("multimodal-sentiment", model=str(FOLDER / "clips"), device="cpu")
    audio = {"array": given["wave"], "sampling_rate": 16_000}
    found = pipe({"text": str(given["text"]), "video": given["frames"], "audio": audio}, return_explanation=True)
    assert found["label"] == said["label"]
    assert found["score"] == pytest.approx(said["score"], rel=1e-4)
    for name in ("level_weights", "modality_weights", "private_gates"):
        assert found[name] == pytest.approx(said[name], rel=1e-4)
    assert {name: len(tokens) for name, tokens in found["tokens"].items()} == {
        name: len(tokens) for name, tokens in said["tokens"].items()
    }
