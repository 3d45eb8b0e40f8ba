"""What decided an answer: modalities left out, means over a data set, pictures, and the commands that write them."""

import json
import os
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from huggingface_hub import ModelCard
from hypothesis import given, settings
from hypothesis import strategies as st
from model_utils import TINY_BERT, clip_processor, feature_config
from PIL import Image
from transformers import pipeline, set_seed

from clcr_hf import CLCRConfig, CLCRForSequenceClassification, CLCRForTokenClassification, CLCRPipeline, CLCRProcessor
from clcr_hf.cli.main import main
from clcr_hf.data.talking_faces.render import generate_talking_faces
from clcr_hf.explain.decision import BIAS, JOINT, Decision, change, evidence, explain, leave_out, token_spans
from clcr_hf.explain.plot import draw_decision, draw_mean_weights
from clcr_hf.hub.card import write_model_card
from clcr_hf.hub.means import add_example, build_card_figures, mean_weights
from clcr_hf.hub.publish import build_release
from clcr_hf.media import write_video

NAMES = ("text", "vision", "audio")


@pytest.fixture(scope="module")
def corpus(tmp_path_factory) -> Path:
    return generate_talking_faces(tmp_path_factory.mktemp("corpus") / "clips", 0, 4, 2, 3, num_workers=1)


@pytest.fixture(scope="module")
def clip(corpus) -> str:
    return str(corpus / "test" / "clip_00000.mp4")


@pytest.fixture(scope="module")
def processor() -> CLCRProcessor:
    return clip_processor()


def make_pipe(processor: CLCRProcessor, head: Any = CLCRForSequenceClassification, **fields: Any) -> CLCRPipeline:
    """Untrained, but with weights large enough that every modality counts."""
    set_seed(0)
    vision = {"model_type": "resnet", "embedding_size": 4, "hidden_sizes": [4, 8, 8, 8], "depths": [1, 1, 1, 1]}
    config = CLCRConfig(
        text_config={"backbone_config": {**TINY_BERT, "initializer_range": 0.2}, "source": "taps"},
        vision_config={"backbone_config": {**vision, "layer_type": "basic"}, "source": "tcn"},
        audio_config={"feature_size": 32, "tcn_stride": 4},
        hidden_size=16,
        **{"num_labels": 1, **fields},
    )
    model = head(config)
    for weight in model.classifier.parameters():
        torch.nn.init.normal_(weight, std=0.1)
    return CLCRPipeline(model=model, processor=processor, device="cpu")


@pytest.fixture(scope="module")
def pipe(processor) -> CLCRPipeline:
    return make_pipe(processor)


@pytest.fixture(scope="module")
def decision(pipe, clip) -> Decision:
    return explain(pipe, {"media": clip, "text": "a lovely day"})


@pytest.fixture(scope="module")
def trained(pipe, corpus, tmp_path_factory) -> Path:
    """A folder as training leaves it, with the record of a run on `corpus`."""
    folder = tmp_path_factory.mktemp("trained")
    pipe.save_pretrained(folder)
    record = {
        "command": "clcr train",
        "seed": 0,
        "versions": {"torch": "2"},
        "dataset": "talking_faces",
        "generated": True,
        "modalities": list(NAMES),
        "problem_type": "regression",
        "num_examples": {"train": 4, "validation": 2, "test": 3},
        "settings": {},
        "data_arguments": {"dataset": "talking_faces", "dataset_dir": str(corpus)},
        "metrics": {"test_mae": 1.5},
    }
    (folder / "run.json").write_text(json.dumps(record))
    return folder


@pytest.fixture
def command(monkeypatch, capsys):
    """The `clcr` command inside this process: (exit code, output, errors)."""

    def run(*arguments: str) -> tuple[int, str, str]:
        capsys.readouterr()
        monkeypatch.setattr(sys, "argv", ["clcr", *arguments])
        with pytest.raises(SystemExit) as stop:
            main()
        captured = capsys.readouterr()
        return int(stop.value.code or 0), captured.out, captured.err

    return run


# -- one decision ------------------------------------------------------------------------------------------------------


def test_each_modality_is_left_out_once(decision, pipe, clip):
    parts = {"text": {"text": "a lovely day"}, "vision": {"video": clip}, "audio": {"audio": clip}}
    assert set(decision.without) == set(NAMES)
    for gone, found in decision.without.items():
        given = {key: value for name, part in parts.items() if name != gone for key, value in part.items()}
        alone = pipe(given, return_explanation=True)
        assert found["score"] == pytest.approx(alone["score"], abs=1e-5)
        assert alone["modality_weights"][gone] == 0
        assert decision.changes[gone] == pytest.approx(found["score"] - decision.result["score"])
    assert len({round(value, 6) for value in decision.changes.values()}) == 3


def test_one_modality_alone_cannot_be_left_out(pipe):
    decision = explain(pipe, {"text": "a lovely day"})
    assert decision.without == {} and decision.seconds is None


def test_a_track_that_a_clip_lacks_is_not_asked_for(pipe, tmp_path):
    silent = str(write_video(tmp_path / "silent.mp4", np.zeros((8, 16, 16, 3), np.uint8), 8))
    decision = explain(pipe, {"media": silent, "text": "a day"})
    assert set(decision.without) == {"text", "vision"}
    assert decision.without["vision"]["score"] == pytest.approx(pipe({"text": "a day"})["score"])


def test_a_decision_is_plain_json(decision):
    found = json.loads(json.dumps(decision.to_dict()))
    assert found["seconds"] == pytest.approx(decision.seconds)
    assert found["without"]["text"]["change"] == pytest.approx(decision.changes["text"])
    assert sum(found["level_weights"]) == pytest.approx(1, abs=1e-5)
    assert {"label", "score", "tokens", "modality_weights", "private_gates"} <= found.keys()


@pytest.mark.parametrize("sample, modality, rest", [
    ({"media": "a.mp4", "text": "x"}, "text", {"media": "a.mp4"}),
    ({"media": "a.mp4", "text": "x"}, "vision", {"text": "x", "audio": "a.mp4"}),
    ({"media": "a.mp4"}, "audio", {"video": "a.mp4"}),
    ({"media": "a.mp4", "audio": "b.wav"}, "vision", {"audio": "b.wav"}),
    ({"media": "a.mp4", "audio": "b.wav"}, "audio", {"video": "a.mp4"}),
    ({"media": "a.mp4", "images": ["p.png"]}, "audio", {"images": ["p.png"]}),
    ({"video": "a.mp4", "flow": "f.npz"}, "flow", {"video": "a.mp4"}),
    ({"audio": "a.wav", "sampling_rate": 8000, "text": "x"}, "audio", {"text": "x"}),
    ({"input_ids": [1], "attention_mask": [1], "vision_features": [[1]]}, "text", {"vision_features": [[1]]}),
    ({"gaze_features": [[1]], "gaze_attention_mask": [1], "text": "x"}, "gaze", {"text": "x"}),
])  # fmt: skip
def test_leaving_out_keeps_all_else(sample, modality, rest):
    before = dict(sample)
    assert leave_out(sample, modality) == rest
    assert sample == before


@pytest.mark.parametrize("full, other, expected", [
    ({"score": 1.0, "label": "positive"}, {"score": -0.5, "label": "negative"}, -1.5),
    ({"label": "a", "score": 0.7, "probabilities": {"a": 0.7, "b": 0.3}},
     {"label": "b", "score": 0.6, "probabilities": {"a": 0.4, "b": 0.6}}, -0.3),
    ({"scores": {"x": 1.0, "y": 0.0}}, {"scores": {"x": 1.2, "y": -0.9}}, -0.9),
    ({"segments": [{"label": "a"}, {"label": "b"}]}, {"segments": [{"label": "a"}, {"label": "a"}]}, 0.5),
])  # fmt: skip
def test_what_changes_is_measured_by_the_kind_of_answer(full, other, expected):
    assert change(full, other)[1] == pytest.approx(expected)


def test_segments_and_several_labels_are_explained(processor, clip, tmp_path):
    pipe = make_pipe(processor, CLCRForTokenClassification, num_labels=3, num_segments=4)
    decision = explain(pipe, {"media": clip, "text": "a day"})
    assert set(decision.without) == set(NAMES) and all(0 <= value <= 1 for value in decision.changes.values())
    means = np.mean([part["level_weights"] for part in decision.result["segments"]], axis=0)
    assert decision.weights["level_weights"] == pytest.approx(means.tolist())
    check_picture(draw_decision(decision, tmp_path / "segments.png"))
    several = make_pipe(processor, num_labels=3, problem_type="multi_label_classification")
    check_picture(draw_decision(explain(several, {"media": clip, "text": "a day"}), tmp_path / "labels.png"))


@pytest.mark.parametrize("fields", [
    {},
    {"num_labels": 3, "problem_type": "regression"},
    {"num_labels": 3, "problem_type": "single_label_classification"},
    {"num_labels": 3, "problem_type": "multi_label_classification"},
    {"num_labels": 3, "problem_type": "single_label_classification", "num_segments": 2},
])  # fmt: skip
def test_the_parts_add_up_to_the_answer(processor, clip, fields):
    head = CLCRForTokenClassification if "num_segments" in fields else CLCRForSequenceClassification
    whole = make_pipe(processor, head, **fields)(clip, return_explanation=True, top_k=3, score_range=None)
    found = []
    for part in whole.get("segments", [whole]):
        what, parts = evidence(part)
        assert set(parts) == {"vision", "audio", JOINT, BIAS}  # there is no text
        logs = {name: np.log(value) for name, value in part.get("probabilities", {}).items()}
        if "scores" in part:
            expected = part["scores"][what.removeprefix("score ")]
        elif "labels" in part:
            expected = logs[part["label"]] - np.log1p(-part["score"])
        else:
            expected = logs[part["label"]] - np.mean(list(logs.values())) if logs else part["score"]
        assert sum(parts.values()) == pytest.approx(expected, abs=1e-4)
        found.append(sum(parts.values()))
    assert sum(evidence(whole)[1].values()) == pytest.approx(np.mean(found))


def test_a_model_without_own_evidence_shows_none(processor, decision, clip, tmp_path):
    pipe = make_pipe(processor, unimodal_evidence=False)
    other = explain(pipe, {"media": clip, "text": "a lovely day"})
    assert other.evidence == ("", {}) and "evidence" not in mean_weights([other.result])
    drawn = [check_picture(draw_decision(each, tmp_path / "a.png", "clip")) for each in (decision, other)]
    assert drawn[1].shape[0] < drawn[0].shape[0]  # a row of bars less


@pytest.mark.parametrize("head, fields", [
    (CLCRForSequenceClassification, {}),
    (CLCRForTokenClassification, {"num_labels": 3, "problem_type": "single_label_classification", "num_segments": 2}),
])  # fmt: skip
def test_a_model_without_a_joint_path_is_explained(processor, clip, tmp_path, command, head, fields):
    pipe = make_pipe(processor, head, use_joint_path=False, **fields)
    decision = explain(pipe, {"media": clip, "text": "a lovely day"})
    assert set(decision.without) == set(NAMES) and JOINT not in decision.evidence[1]
    check_picture(draw_decision(decision, tmp_path / "a.png"))
    draw_mean_weights({"split": "test", **mean_weights([decision.result])}, tmp_path / "means.png")
    pipe.save_pretrained(tmp_path / "model")
    code, out, errors = command("predict", clip, "--model", str(tmp_path / "model"))
    assert code == 0, errors
    assert ("bias (no input)" in out) == (not fields)


def test_features_are_explained_by_their_steps(tmp_path):
    set_seed(0)
    config = feature_config(extra_configs={"gaze": {"feature_size": 3}})
    pipe = CLCRPipeline(model=CLCRForSequenceClassification(config), processor=CLCRProcessor(), device="cpu")
    steps = {"vision_features": np.ones((6, 7)), "audio_features": np.ones((4, 5)), "gaze_features": np.ones((3, 3))}
    decision = explain(pipe, steps)
    assert set(decision.without) == {"vision", "audio", "gaze"} and decision.seconds is None
    check_picture(draw_decision(decision, tmp_path / "features.png"))


# -- pictures ----------------------------------------------------------------------------------------------------------


def check_picture(path: Path) -> np.ndarray:
    """A picture that is there, large enough to read and not blank."""
    with Image.open(path) as image:
        pixels = np.asarray(image.convert("RGB"))
    assert min(pixels.shape[:2]) > 300 and len(np.unique(pixels[::3, ::3].astype(int) @ (1, 256, 65536))) > 50
    assert [each.name for each in path.parent.iterdir() if ".tmp" in each.name] == []
    return pixels


def test_the_picture_shows_the_decision(decision, pipe, clip, tmp_path):
    first = check_picture(draw_decision(decision, tmp_path / "a.png", "clip.mp4"))
    silent = check_picture(draw_decision(explain(pipe, {"video": clip}), tmp_path / "c.png", "clip.mp4"))
    assert silent.shape[0] < first.shape[0]  # fewer strips


def test_words_are_drawn_as_they_are(pipe, tmp_path, recwarn):
    text = r"it cost $5 and $6_ \frac { [CLS] " + "very " * 30
    decision = explain(pipe, {"text": text})
    path = draw_decision(decision, tmp_path / "words.svg", text)
    assert path.read_text().startswith("<?xml")
    assert not [warning for warning in recwarn if "layout" in str(warning.message)]


def test_an_unknown_format_leaves_nothing_behind(decision, tmp_path):
    with pytest.raises(ValueError, match="mp3"):
        draw_decision(decision, tmp_path / "a.mp3")
    assert not list(tmp_path.iterdir())


def test_stretches_of_time_fill_the_clip():
    tokens = [{"time": time, "budget": [time, 1.0]} for time in (0.0, 0.0, 1.0, 2.0)]
    tokens[1]["budget"] = [0.5, 0.0]  # a second patch of the first frame
    edges, values = token_spans(tokens, 4.0)
    assert edges.tolist() == [0.0, 0.5, 1.5, 4.0]
    assert values.tolist() == [[0.25, 0.5], [1.0, 1.0], [2.0, 1.0]]
    assert token_spans(tokens, None)[0].tolist() == [0.0, 0.5, 1.5, 2.5]
    assert token_spans(tokens[:1], 1.5)[0].tolist() == [0.0, 1.5]


@settings(max_examples=60, deadline=None)
@given(
    times=st.lists(st.floats(0, 12), min_size=1, max_size=20),
    seconds=st.one_of(st.none(), st.floats(0.1, 10)),
)
def test_stretches_cover_the_clip_in_order(times, seconds):
    edges, values = token_spans([{"time": time, "budget": [0.25, 0.75]} for time in times], seconds)
    assert edges[0] == 0 and (np.diff(edges) >= 0).all()
    assert edges[-1] == seconds if seconds else edges[-1] > 0
    assert values.shape == (len(edges) - 1, 2) and np.allclose(values, [0.25, 0.75])


def test_tokens_without_a_moment_are_spread_evenly():
    edges, values = token_spans([{"token": "a", "budget": [0.1]}, {"token": "b", "budget": [0.9]}], 5.0)
    assert edges.tolist() == [0, 1, 2] and values.tolist() == [[0.1], [0.9]]


def test_without_matplotlib_the_error_says_what_to_install(decision, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    with pytest.raises(ImportError, match=r"\[explain\]"):
        draw_decision(decision, tmp_path / "a.png")


# -- means for the card ------------------------------------------------------------------------------------------------


def result(levels: list[float], text: float, vision: float) -> dict[str, Any]:
    tokens = {name: [{"index": 0, "budget": [1.0]}] if weight else [] for name, weight in
              (("text", text), ("vision", vision))}  # fmt: skip
    gates = {"text": text / 2, "vision": vision / 2}
    return {"level_weights": levels, "modality_weights": {"text": text, "vision": vision}, "private_gates": gates,
            "tokens": tokens}  # fmt: skip


def test_means_are_of_the_examples_that_have_the_modality():
    results = [result([0.2, 0.8], 0.6, 0.4), {"error": "damaged"}, result([0.4, 0.6], 1.0, 0.0)]
    found = mean_weights(results)
    assert found["rows"] == 2
    assert [value["mean"] for value in found["level_weights"]] == pytest.approx([0.3, 0.7])
    assert [value["std"] for value in found["level_weights"]] == pytest.approx([0.1, 0.1])
    assert found["modality_weights"]["text"]["mean"] == pytest.approx(0.8)
    assert found["modality_weights"]["vision"] == pytest.approx({"mean": 0.4, "std": 0.0})
    assert found["private_gates"]["vision"]["mean"] == pytest.approx(0.2)
    with pytest.raises(ValueError, match="no result"):
        mean_weights([{"error": "damaged"}])


def test_means_are_drawn(tmp_path):
    found = mean_weights([result([0.2, 0.8], 0.6, 0.4), result([0.4, 0.6], 0.5, 0.5)])
    check_picture(draw_mean_weights({"split": "test", **found}, tmp_path / "means.png"))


def test_the_card_shows_how_the_model_decides_on_its_own_data(trained, pipe, corpus, tmp_path, command):
    assert "how_it_decides.png" not in write_model_card(trained).read_text()
    assert command("card", str(trained), "--pictures", "--limit", "2")[0] == 0
    check_picture(trained / "how_it_decides.png")
    measured = json.loads((trained / "how_it_decides.json").read_text())
    table = (corpus / "test" / "metadata.csv").read_text().splitlines()
    texts = [dict(zip(table[0].split(","), line.split(","), strict=True))["text"] for line in table[1:]]
    rows = [{"media": str(corpus / "test" / f"clip_0000{n}.mp4"), "text": texts[n]} for n in (0, 2)]
    expected = mean_weights(pipe(rows, return_explanation=True))  # the first and the last of three, by hand
    assert measured["rows"] == 2 and measured["split"] == "test"
    for kind in ("modality_weights", "private_gates"):
        for name in NAMES:
            assert measured[kind][name] == pytest.approx(expected[kind][name], abs=1e-4)
    card = write_model_card(trained).read_text()
    assert "](how_it_decides.png)" in card and "over 2 examples of the test split" in card
    assert f"| level 1 | {measured['level_weights'][0]['mean']:.3f} ±" in card
    sizes = np.abs([evidence(each)[1]["audio"] for each in pipe(rows, return_explanation=True)])
    assert f"| audio, size of what it adds to the answer | {sizes.mean():.3f} ± {sizes.std():.3f} |" in card
    assert "their sizes above\nare of the score" in card
    release = build_release(trained, tmp_path, "org/faces")
    assert (release / "how_it_decides.png").read_bytes() == (trained / "how_it_decides.png").read_bytes()
    assert "](how_it_decides.png)" in (release / "README.md").read_text()
    record = json.loads((release / "run.json").read_text())
    (release / "run.json").write_text(json.dumps({**record, "metrics": {"test_mae": 1.4}}))  # trained again
    assert "how_it_decides.png" not in write_model_card(release).read_text()


def test_means_of_clips_of_ones_own(trained, clip, command):
    found = build_card_figures(trained, [{"text": "a day"}, {"media": "absent.mp4"}, clip], split="mine")
    assert found["rows"] == 2 and found["split"] == "mine"
    code, _, errors = command("card", str(trained), "--pictures", "--split", "tset")
    assert code == 1 and "no split 'tset'" in errors


def test_an_example_holds_what_the_model_said(trained, pipe, clip):
    example = add_example(trained, clip, "a lovely day")
    answer = pipe({"media": clip, "text": "a lovely day"})
    assert example["output"] == [{"label": answer["label"], "score": pytest.approx(answer["score"], abs=1e-3)}]
    assert (trained / example["file"]).read_bytes() == Path(clip).read_bytes()
    add_example(trained, clip, "a dreadful day")  # of the same title: in the place of the other
    widget = ModelCard.load(write_model_card(trained, "org/faces")).data.widget
    assert [entry["text"] for entry in widget] == ["a dreadful day"]
    assert widget[0]["src"].endswith("/org/faces/resolve/main/examples/clip_00000.mp4")


# -- commands ----------------------------------------------------------------------------------------------------------


def test_clcr_explain(trained, clip, command, tmp_path):
    path = tmp_path / "picture.png"
    code, out, _ = command("explain", clip, "--text", "a lovely day", "--model", str(trained), "--output", str(path))
    assert (code, out.strip()) == (0, str(path))
    check_picture(path)
    os.remove(path)
    code, out, _ = command("explain", clip, "--model", str(trained), "--json")
    found = json.loads(out)
    assert code == 0 and set(found["without"]) == {"vision", "audio"} and not list(tmp_path.iterdir())
    total = sum(found["modality_logits"].values()) + found["joint_logits"] + found["logit_bias"]
    assert found["modality_logits"]["text"] == 0 and min(max(total, -3), 3) == pytest.approx(found["score"], abs=1e-5)
    code, out, errors = command("explain", "absent.mp4", "--model", str(trained))
    assert (code, out) == (1, "") and errors.strip() == "error: absent.mp4 is not a file"


def test_clcr_card(trained, command):
    code, out, _ = command("card", str(trained), "--model-id", "org/faces", "--license", "cc-by-4.0", "--pictures",
                           "--limit", "1", "--text", "a lovely day")  # fmt: skip
    card = ModelCard.load(out.strip())
    assert code == 0 and card.data.license == "cc-by-4.0" and "over 1 example of the test split" in card.text
    assert [entry["text"] for entry in card.data.widget][-1] == "a lovely day"
    code, _, errors = command("card", str(trained), "--benchmark", "imagenet")
    assert code == 1 and "benchmark must be one of" in errors
    code, _, errors = command("card", str(trained.parent))
    assert code == 1 and "run.json" in errors


def test_the_saved_model_explains_alike(trained, decision, clip):
    again = explain(pipeline("multimodal-sentiment", model=str(trained), device="cpu"), {
        "media": clip, "text": "a lovely day"
    })  # fmt: skip
    assert again.changes == pytest.approx(decision.changes, abs=1e-4)
