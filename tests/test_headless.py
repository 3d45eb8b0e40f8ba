"""Models without their head: embeddings by `AutoModel` and pipeline, as docs/inference.md has them; and models that are
larger than memory."""

import re
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from model_utils import PHRASES, clip_model, clip_processor, save_clip_model, write_clip
from transformers import AutoModelForSequenceClassification, pipeline

from clcr_hf import CLCRFeaturePipeline, CLCRForTokenClassification, CLCRModel, CLCRProcessor
from clcr_hf.remote_code import add_remote_code

REPO = Path(__file__).resolve().parent.parent
TASK = "multimodal-feature-extraction"
NAMES = ["text", "vision", "audio"]
WIDTH = 16


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """A model with a head that answers something, and a clip."""
    root = tmp_path_factory.mktemp("headless")
    model = clip_model(processor := clip_processor())
    for weight in model.classifier.parameters():
        torch.nn.init.normal_(weight, std=0.3)
    for each in (model, processor):
        each.save_pretrained(root / "runs" / "talking_faces")
    write_clip(root / "clip.mp4", 2.0)
    return root


@pytest.fixture(scope="module")
def model(folder) -> str:
    return str(folder / "runs" / "talking_faces")


@pytest.fixture(scope="module")
def embed(model) -> CLCRFeaturePipeline:
    return pipeline(TASK, model=model, device="cpu")


@pytest.fixture(scope="module")
def sample(folder) -> dict[str, str]:
    return {"media": str(folder / "clip.mp4"), "text": PHRASES[0]}


def test_the_code_in_the_docs_runs_as_written(folder, embed, sample, monkeypatch):
    page = (REPO / "docs" / "inference.md").read_text(encoding="utf-8")
    section = re.search(r"^## Embeddings\n(.*?)^## ", page, re.MULTILINE | re.DOTALL)[1]
    blocks = re.findall(r"```python\n(.*?)```", section, re.DOTALL)
    monkeypatch.chdir(folder)
    found: dict = {}
    for block in blocks:
        exec(block, found)
    assert len(blocks) == 3 and found["fused"].shape == (1, 2 * WIDTH)
    assert found["by_modality"].shape == (1, 3, WIDTH) and found["by_level"].shape == (1, 3, WIDTH)
    # By hand and by the pipeline: the same.
    given = {**sample, "text": "what a lovely film"}
    read = {by: embed(given, by=by, return_tensors=True)["features"] for by in ("clip", "modality", "level", "token")}
    torch.testing.assert_close(found["fused"][0], read["clip"])
    torch.testing.assert_close(found["by_modality"][0], torch.stack([read["modality"][name] for name in NAMES]))
    torch.testing.assert_close(found["by_level"][0], read["level"])
    for name in NAMES:
        torch.testing.assert_close(found["by_token"][name][0], read["token"][name])
    assert found["features"] == embed(given)["features"]
    assert found["offloaded"].hf_device_map and found["fused_again"].allclose(found["fused"], atol=1e-5)


def test_embeddings_of_what_is_there(embed, sample):
    result = embed(sample)
    assert list(result) == ["features"] and len(result["features"]) == 2 * WIDTH
    alone = {"text": PHRASES[0]}
    assert list(embed(alone, by="modality")["features"]) == list(embed(alone, by="token")["features"]) == ["text"]
    assert np.shape(embed(alone, by="level")["features"]) == (3, WIDTH)
    # With one modality alone, the levels' embeddings weighed by the model are that modality's.
    inputs = embed.processor(text=[PHRASES[0]], return_tensors="pt")
    weights = embed.model(**inputs).level_weights[0]
    by_level = torch.tensor(embed(alone, by="level")["features"])
    torch.testing.assert_close(weights @ by_level, torch.tensor(embed(alone, by="modality")["features"]["text"]))


@pytest.mark.parametrize("by", ["clip", "modality", "token"])
def test_batches_change_nothing(embed, sample, by):
    inputs = [sample, {"text": "a day"}, {"media": sample["media"]}, {"text": "nothing", "media": "absent.mp4"}]
    found = embed(inputs, by=by, batch_size=4, on_error="skip", return_tensors=True)
    assert "absent.mp4" in found[3]["error"]
    for one, each in zip(inputs[:3], found, strict=False):
        torch.testing.assert_close(each["features"], embed(one, by=by, return_tensors=True)["features"])


def test_a_recording_is_embedded_window_by_window(embed, sample):
    found = embed({"media": sample["media"]}, window=1.0)["windows"]
    assert [(each["start"], len(each["features"])) for each in found] == [(0.0, 2 * WIDTH), (1.0, 2 * WIDTH)]
    assert found[0]["features"] != found[1]["features"]


def test_what_does_not_fit_is_said(embed, sample, tmp_path):
    with pytest.raises(ValueError, match="by must be one of clip, modality, level, token"):
        embed(sample, by="word")
    with pytest.raises(ValueError, match="CLCRFeaturePipeline has no parameter"):
        embed(sample, return_explanation=True)
    without = save_clip_model(tmp_path, use_joint_path=False)
    with pytest.raises(ValueError, match="use_joint_path"):
        pipeline(TASK, model=without)
    with pytest.raises(ValueError, match="whole clips"):
        CLCRFeaturePipeline(model=CLCRModel(embed.model.config, per_segment=True), processor=embed.processor)


def test_models_of_segments_and_of_the_hub_are_embedded_too(model, embed, sample, tmp_path):
    segments = save_clip_model(tmp_path / "segments", CLCRForTokenClassification, num_labels=3, num_segments=2)
    assert len(pipeline(TASK, model=segments, device="cpu")(sample)["features"]) == 2 * WIDTH
    published = shutil.copytree(model, tmp_path / "published")
    add_remote_code(published)
    assert pipeline(TASK, model=str(published), device="cpu")(sample) == embed(sample)


# -- larger than memory ------------------------------------------------------------------------------------------------

PARTS = ("clcr.hierarchy", "clcr.dropout", "clcr.exchange", "clcr.aggregation", "classifier")


@pytest.mark.parametrize(
    "device_map",
    [{"": "disk"}, "auto", *(dict.fromkeys(PARTS, "cpu") | {part: "disk"} for part in PARTS if part != "clcr.dropout")],
    ids=str,
)
def test_offloaded_weights_answer_alike(model, sample, tmp_path, device_map):
    whole = AutoModelForSequenceClassification.from_pretrained(model).eval()
    room = {"max_memory": {"cpu": whole.get_memory_footprint() // 2}} if device_map == "auto" else {}
    offloaded = AutoModelForSequenceClassification.from_pretrained(
        model, device_map=device_map, offload_folder=tmp_path, **room
    ).eval()
    assert "disk" in offloaded.hf_device_map.values()
    inputs = CLCRProcessor.from_pretrained(model)(media=[sample["media"]], text=[sample["text"]], return_tensors="pt")
    with torch.no_grad():
        expected, found = whole(**inputs), offloaded(**inputs)
    assert expected.logits.abs() > 0.01
    for name in ("logits", "modality_logits", "joint_logits", "level_weights", "private_gates"):
        torch.testing.assert_close(found[name], expected[name])
    torch.testing.assert_close(offloaded.logit_bias(), whole.logit_bias())


def test_an_offloaded_model_serves_in_pipelines(model, embed, sample, tmp_path):
    # The first part's device is taken by transformers' pipelines for theirs.
    head = {"classifier": "cpu", "clcr": "disk"}
    bare = {"dropout": "cpu", "hierarchy": "disk", "exchange": "disk", "aggregation": "disk"}
    expected = pipeline("multimodal-sentiment", model=model, device="cpu")(sample, return_explanation=True)
    answers = pipeline(
        "multimodal-sentiment", model=model, device_map=head, model_kwargs={"offload_folder": str(tmp_path)}
    )
    found = answers(sample, return_explanation=True)
    assert next(answers.model.clcr.exchange.parameters()).is_meta
    assert found["score"] == pytest.approx(expected["score"], abs=1e-5)
    assert found["logit_bias"] == pytest.approx(expected["logit_bias"], abs=1e-6)
    again = pipeline(TASK, model=model, device_map=bare, model_kwargs={"offload_folder": str(tmp_path)})
    assert next(again.model.exchange.parameters()).is_meta
    assert again(sample)["features"] == pytest.approx(embed(sample)["features"], abs=1e-5)
