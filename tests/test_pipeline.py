"""CLCRPipeline: every kind of input and problem, explanations, batches, saving."""

import base64
import io
import json
import math
import threading
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import datasets
import numpy as np
import pytest
import torch
from model_utils import FPS, FRAMES, RATE, clip_model, clip_processor, forget_evidence, write_clip
from PIL import Image
from transformers import (
    Wav2Vec2Config,
    Wav2Vec2FeatureExtractor,
    pipeline,
    set_seed,
)
from transformers.pipelines.pt_utils import KeyDataset

from clcr_hf import (
    CLCRConfig,
    CLCRForSequenceClassification,
    CLCRForTokenClassification,
    CLCRModel,
    CLCRPipeline,
    CLCRProcessor,
)
from clcr_hf.media import MediaError, write_video

SECONDS = 1.0
NAMES = ("text", "vision", "audio")


@pytest.fixture(scope="module")
def clip(tmp_path_factory):
    return write_clip(tmp_path_factory.mktemp("clip") / "clip.mp4", SECONDS)


@pytest.fixture(scope="module")
def processor() -> CLCRProcessor:
    return clip_processor()


def feature_pipe(head=CLCRForSequenceClassification, **fields) -> CLCRPipeline:
    """Reads features of width 4 (text) and 3 (audio)."""
    set_seed(0)
    sizes = {"text_config": {"feature_size": 4}, "audio_config": {"feature_size": 3}}
    config = CLCRConfig(hidden_size=16, num_attention_heads=2, **{"num_labels": 1, **sizes, **fields})
    return CLCRPipeline(model=head(config), processor=CLCRProcessor(), device="cpu")


def features(steps: int) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(steps)
    return {
        "text_features": rng.normal(size=(steps, 4)).astype(np.float32),
        "audio_features": rng.normal(size=(steps, 3)).astype(np.float32),
    }


@pytest.fixture(scope="module")
def pipe(processor) -> CLCRPipeline:
    return pipeline("multimodal-sentiment", model=clip_model(processor), processor=processor, device="cpu")


def test_regression_gives_score_and_label(pipe, clip):
    result = pipe({"media": clip, "text": "a lovely day"})
    assert set(result) == {"label", "score"}
    assert -3 <= result["score"] <= 3
    expected = {-1: "negative", 0: "neutral", 1: "positive"}[int(np.sign(round(result["score"])))]
    assert result["label"] == expected


@pytest.mark.parametrize(
    ("value", "score", "label"), [(-7.0, -3.0, "negative"), (0.4, 0.4, "neutral"), (0.6, 0.6, "positive")]
)
def test_score_is_kept_in_range_and_named(processor, value, score, label):
    model = clip_model(processor)
    forget_evidence(model)
    torch.nn.init.constant_(model.classifier.out_proj.bias, value)
    result = CLCRPipeline(model=model, processor=processor, device="cpu")({"text": "a day"})
    assert result["score"] == pytest.approx(score)
    assert result["label"] == label


def test_path_bytes_and_dict_agree(pipe, clip):
    from_path = pipe(clip)["score"]
    with open(clip, "rb") as file:
        assert pipe(file.read())["score"] == pytest.approx(from_path, abs=1e-6)
    assert pipe({"media": clip})["score"] == pytest.approx(from_path, abs=1e-6)
    assert pipe({"video": clip, "audio": clip})["score"] == pytest.approx(from_path, abs=1e-6)


def test_same_answer_as_model_and_processor(pipe, processor, clip):
    batch = processor(text=["a lovely day"], media=[clip], return_tensors="pt")
    with torch.no_grad():
        expected = pipe.model.eval()(**batch).logits.item()
    assert pipe({"media": clip, "text": "a lovely day"})["score"] == pytest.approx(expected, abs=1e-5)


def test_explanation_says_what_decided(pipe, clip):
    result = pipe({"media": clip, "text": "a lovely day"}, return_explanation=True)
    assert len(result["level_weights"]) == 3
    assert math.isclose(sum(result["level_weights"]), 1, abs_tol=1e-4)
    assert tuple(result["modality_weights"]) == NAMES
    assert math.isclose(sum(result["modality_weights"].values()), 1, abs_tol=1e-4)
    assert all(0 <= gate <= 1 for gate in result["private_gates"].values())
    tokens = result["tokens"]
    assert [token["token"] for token in tokens["text"]] == ["[CLS]", "a", "lovely", "day", "[SEP]"]
    times = [token["time"] for token in tokens["vision"]]
    assert len(times) == FRAMES and times == sorted(times) and times[-1] < SECONDS
    sounds = [token["time"] for token in tokens["audio"]]
    assert sounds == sorted(sounds) and sounds[0] > 0 and sounds[-1] < SECONDS + 0.1
    for part in tokens.values():
        for token in part:
            assert len(token["budget"]) == 3
            assert all(0 <= value <= 1 for value in token["budget"])


def test_missing_modalities_weigh_nothing(pipe):
    result = pipe({"text": "a lovely day"}, return_explanation=True)
    assert result["modality_weights"]["text"] == pytest.approx(1)
    assert result["modality_weights"]["vision"] == 0 == result["private_gates"]["audio"]
    assert set(result["tokens"]) == {"text"}


def test_batch_equals_one_by_one(pipe, clip):
    inputs = [{"media": clip, "text": "a lovely day"}, {"text": "a dreadful day"}, clip]
    alone = [pipe(value, return_explanation=True) for value in inputs]
    for size in (1, 2, 3):
        together = pipe(inputs, batch_size=size, return_explanation=True)
        assert [one["score"] for one in together] == pytest.approx([one["score"] for one in alone], abs=1e-4)
        for one, other in zip(together, alone, strict=True):
            for name, tokens in other["tokens"].items():
                assert len(one["tokens"][name]) == len(tokens)
                for found, token in zip(one["tokens"][name], tokens, strict=True):
                    assert found["budget"] == pytest.approx(token["budget"], abs=1e-4)


def test_waveform_and_frames(pipe):
    sound = np.zeros(RATE, np.float32)
    frames = np.zeros((FRAMES, 32, 32, 3), np.uint8)
    result = pipe({"video": frames, "audio": sound, "sampling_rate": RATE}, return_explanation=True)
    assert [token["index"] for token in result["tokens"]["vision"]] == list(range(FRAMES))
    halved = pipe({"audio": sound[::2], "sampling_rate": RATE // 2}, return_explanation=True)
    assert halved["tokens"]["audio"][-1]["time"] == pytest.approx(result["tokens"]["audio"][-1]["time"], abs=0.1)


def test_classes_give_probabilities(processor, clip):
    names = {0: "bad", 1: "so so", 2: "good"}
    model = clip_model(processor, num_labels=3, problem_type="single_label_classification", id2label=names)
    result = CLCRPipeline(model=model, processor=processor, device="cpu")({"media": clip, "text": "a day"})
    assert set(result["probabilities"]) == set(names.values())
    assert sum(result["probabilities"].values()) == pytest.approx(1, abs=1e-5)
    assert result["score"] == max(result["probabilities"].values()) == result["probabilities"][result["label"]]


def test_several_labels_at_once(processor):
    names = {0: "happy", 1: "sad", 2: "angry"}
    model = clip_model(processor, num_labels=3, problem_type="multi_label_classification", id2label=names)
    forget_evidence(model)
    model.classifier.out_proj.bias.data = torch.tensor([2.0, -1.0, 1.0])
    result = CLCRPipeline(model=model, processor=processor, device="cpu")({"text": "a day"})
    assert result["labels"] == ["happy", "angry"]
    assert result["label"] == "happy"


def test_features_without_any_processor_part():
    result = feature_pipe()({**features(5), "text_features": features(7)["text_features"]}, return_explanation=True)
    assert len(result["tokens"]["text"]) == 7 and len(result["tokens"]["audio"]) == 5
    listed = {name: values.tolist() for name, values in features(5).items()}  # as JSON brings them
    extra = {"text_intervals": [[0.0, 1.0]] * 5, "word_intervals": None, "id": "a"}
    assert feature_pipe()({**listed, **extra}, local_files=False) == feature_pipe()(features(5))


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (3, "a path, an address, bytes or a dict"),
        ({"smell": 1}, "smell"),
        ({}, "nothing to read"),
        ({"text": None}, "nothing to read"),
    ],
)
def test_inputs_of_another_kind_are_refused(pipe, value, message):
    with pytest.raises(ValueError, match=message):
        pipe(value)


def test_unknown_parameter_is_refused(pipe):
    with pytest.raises(ValueError, match="top_p"):
        pipe({"text": "a"}, top_p=1)


def test_unreadable_file_is_named(pipe, tmp_path):
    broken = tmp_path / "broken.mp4"
    broken.write_bytes(b"no video")
    with pytest.raises(MediaError, match="broken.mp4"):
        pipe(str(broken))


def test_saved_pipeline_reloads_by_task(pipe, clip, tmp_path):
    pipe.save_pretrained(tmp_path)
    again = pipeline("multimodal-sentiment", model=str(tmp_path), device="cpu")
    assert isinstance(again, CLCRPipeline)
    sample = {"media": clip, "text": "a lovely day"}
    assert again(sample)["score"] == pytest.approx(pipe(sample)["score"], abs=1e-6)


# -- results ----------------------------------------------------------------------------------------------------------


def test_top_k_keeps_the_likeliest_in_order(processor):
    model = clip_model(processor, num_labels=4, problem_type="single_label_classification")
    pipe = CLCRPipeline(model=model, processor=processor, device="cpu", top_k=2)
    every = pipe({"text": "a day"}, top_k=4)["probabilities"]
    assert list(every.values()) == sorted(every.values(), reverse=True) and len(every) == 4
    result = pipe({"text": "a day"})
    assert list(result["probabilities"].items()) == list(every.items())[:2]
    assert list(pipe({"text": "a day"}, top_k=9)["probabilities"]) == list(every)


def test_score_range_scales_the_labels(processor):
    model = clip_model(processor)
    forget_evidence(model)
    pipe = CLCRPipeline(model=model, processor=processor, device="cpu")

    def read(value, **options):
        torch.nn.init.constant_(model.classifier.out_proj.bias, value)
        return pipe({"text": "a day"}, **options)

    assert read(0.4)["label"] == "neutral" and read(0.4, score_range=(-1, 1))["label"] == "positive"
    assert read(-0.1, score_range=[-1, 1])["label"] == "neutral"
    assert read(9.0, score_range=(0, 5)) == {"label": "positive", "score": 5}
    assert read(1.0, score_range=(0, 5))["label"] == "negative"
    assert read(9.0, score_range=None) == {"label": "LABEL_0", "score": 9.0}


def test_an_output_with_a_name_of_its_own_is_no_sentiment(processor):
    model = clip_model(processor, id2label={0: "arousal"})
    forget_evidence(model)
    torch.nn.init.constant_(model.classifier.out_proj.bias, 7.0)
    result = CLCRPipeline(model=model, processor=processor, device="cpu")({"text": "a day"})
    assert result == {"label": "arousal", "score": 7.0}


def test_results_are_plain_json(pipe, clip):
    result = pipe({"media": clip, "text": "a lovely day"}, return_explanation=True)
    assert json.loads(json.dumps(result)) == result


# -- a label a segment ------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def localiser(processor, tmp_path_factory) -> CLCRPipeline:
    """A model with a label for each fifth of a clip, saved and loaded by task."""
    folder = tmp_path_factory.mktemp("localiser")
    names = {0: "background", 1: "bell", 2: "dog"}
    fields = {"num_labels": 3, "num_segments": 5, "id2label": names, "problem_type": "single_label_classification"}
    clip_model(processor, CLCRForTokenClassification, **fields).save_pretrained(folder)
    processor.save_pretrained(folder)
    return pipeline("multimodal-sentiment", model=str(folder), device="cpu")


def test_segments_have_times_and_labels(localiser, processor, clip):
    assert isinstance(localiser.model, CLCRForTokenClassification)
    segments = localiser({"media": clip, "text": "a day"})["segments"]
    seconds = segments[-1]["end"]
    assert seconds == pytest.approx(SECONDS, abs=0.1)
    assert [one["start"] for one in segments] == pytest.approx([index * seconds / 5 for index in range(5)])
    assert [one["end"] for one in segments[:-1]] == [one["start"] for one in segments[1:]]
    with torch.no_grad():
        logits = localiser.model(**processor(text=["a day"], media=[clip], return_tensors="pt")).logits[0]
    names = localiser.model.config.id2label
    assert [one["label"] for one in segments] == [names[index] for index in logits.argmax(-1).tolist()]
    assert [one["score"] for one in segments] == pytest.approx(logits.softmax(-1).amax(-1).tolist(), abs=1e-5)
    assert set(segments[0]) == {"start", "end", "label", "score"}


def test_segments_of_silent_clips_are_timed_by_their_frames(localiser, tmp_path):
    frames = np.random.default_rng(0).integers(0, 255, (40, 32, 32, 3), dtype=np.uint8)
    path = write_video(tmp_path / "silent.mp4", frames, 10)
    assert localiser(path)["segments"][-1]["end"] == pytest.approx(4, abs=0.2)


def test_segments_explained_and_in_batches(localiser, clip):
    inputs = [{"media": clip, "text": "a day"}, clip, {"text": "a lovely day"}]
    options = {"return_explanation": True, "top_k": 2}
    together = localiser(inputs, batch_size=3, **options)
    for value, result in zip(inputs, together, strict=True):
        alone = localiser(value, **options)
        assert len(result["segments"]) == 5 and set(result["tokens"]) == set(alone["tokens"])
        for one, other in zip(result["segments"], alone["segments"], strict=True):
            assert one["label"] == other["label"] and len(one["probabilities"]) == 2
            assert one["score"] == pytest.approx(other["score"], abs=1e-5)
            assert one["level_weights"] == pytest.approx(other["level_weights"], abs=1e-5)
            assert one["modality_weights"] == pytest.approx(other["modality_weights"], abs=1e-5)
    assert [set(one) for one in together[2]["segments"]][0] >= {"index", "label", "private_gates"}


def test_one_segment_a_step_leaves_padding_out():
    pipe = feature_pipe(CLCRForTokenClassification, num_labels=3, num_segments=None)
    inputs = [features(steps) for steps in (3, 10, 7)]
    together = pipe(inputs, batch_size=3, return_explanation=True)
    assert [len(result["segments"]) for result in together] == [3, 10, 7]
    for value, result in zip(inputs, together, strict=True):
        alone = pipe(value)["segments"]
        assert [one["index"] for one in alone] == list(range(len(alone)))
        found = [one["score"] for one in result["segments"]]
        assert found == pytest.approx([one["score"] for one in alone], abs=1e-5)


def test_tokens_are_counted_after_strides():
    """One token for four steps: of 9 steps 3, however long the others of the batch are."""
    pipe = feature_pipe(text_config={"feature_size": 4, "tcn_stride": 4}, audio_config=None)
    segmented = feature_pipe(
        CLCRForTokenClassification,
        text_config={"feature_size": 4, "tcn_stride": 4},
        audio_config=None,
        num_labels=2,
        num_segments=None,
    )
    inputs = [{"text_features": features(steps)["text_features"]} for steps in (9, 101, 4, 103)]
    for size in (1, 4):
        results = pipe(inputs, batch_size=size, return_explanation=True)
        assert [len(one["tokens"]["text"]) for one in results] == [3, 26, 1, 26]
        assert [len(one["segments"]) for one in segmented(inputs, batch_size=size)] == [3, 26, 1, 26]


def test_a_model_without_a_head_is_refused(processor, tmp_path):
    clip_model(processor, CLCRModel).save_pretrained(tmp_path)
    processor.save_pretrained(tmp_path)
    with pytest.raises(ValueError, match="no head"):
        pipeline("multimodal-sentiment", model=str(tmp_path), device="cpu")


# -- forms of media ---------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def address(clip):
    """The clip's folder behind a real server."""
    folder = str(Path(clip).parent)

    class Handler(SimpleHTTPRequestHandler):
        def __init__(self, *args):
            super().__init__(*args, directory=folder)

        def log_message(self, *_):
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_address[1]}/clip.mp4"
    server.shutdown()
    server.server_close()


def test_every_form_of_a_file_gives_the_same(pipe, clip, address, monkeypatch):
    monkeypatch.setenv("CLCR_ALLOW_PRIVATE_URLS", "1")
    content = Path(clip).read_bytes()
    packed = base64.b64encode(content).decode()
    expected = pipe(clip)["score"]
    uri = f"data:video/mp4;base64,{packed}"
    forms = [Path(clip), content, bytearray(content), io.BytesIO(content), address, uri, packed]
    forms += [{"path": "gone.mp4", "bytes": content}, {"path": clip, "bytes": None}]
    for form in forms:
        assert pipe(form)["score"] == expected
        if hasattr(form, "seek"):
            form.seek(0)
        assert pipe({"media": form})["score"] == expected
    for form in (content, address, uri, packed):
        assert pipe(form, local_files=False)["score"] == expected
    assert pipe({"video": uri, "audio": address}, local_files=False)["score"] == expected


def test_addresses_of_this_machine_are_refused_by_default(pipe, address):
    with pytest.raises(ValueError, match="private network"):
        pipe(address)


def test_pictures_and_decoded_sound_of_datasets(pipe):
    frames = np.random.default_rng(0).integers(0, 255, (FRAMES, 32, 32, 3), dtype=np.uint8)
    sound = np.sin(np.arange(RATE) / 20).astype(np.float32)
    expected = pipe({"video": frames, "audio": sound})["score"]
    row = {"images": list(frames), "audio": {"array": sound, "sampling_rate": RATE}, "id": "x", "label": 1.0}
    assert pipe(row)["score"] == expected
    assert pipe({"video": frames, "audio": sound.tolist()}, local_files=False)["score"] == pytest.approx(expected)


def test_frames_by_the_second_as_the_processor_takes_them(processor, clip):
    often = CLCRProcessor(
        tokenizer=processor.tokenizer,
        feature_extractor=processor.feature_extractor,
        image_processor=processor.image_processor,
        video_num_frames=None,
        video_fps=2 * FPS,
    )
    pipe = CLCRPipeline(model=clip_model(processor), processor=often, device="cpu")
    with torch.no_grad():
        expected = pipe.model(**often(media=[clip], return_tensors="pt")).logits.item()
    assert pipe(clip)["score"] == pytest.approx(expected, abs=1e-5)


def test_only_the_beginning_is_read(pipe, clip, tmp_path):
    result = pipe(clip, max_seconds=0.5, return_explanation=True)
    assert 0.2 < result["tokens"]["vision"][-1]["time"] < 0.5 and result["tokens"]["audio"][-1]["time"] < 0.55
    assert pipe(clip, max_seconds=60)["score"] == pipe(clip)["score"]


def test_blank_text_is_missing(pipe, clip):
    assert pipe({"media": clip, "text": "  "}) == pipe({"media": clip, "text": None}) == pipe(clip)


def test_what_the_model_does_not_read_is_passed_over(pipe):
    text = {"text": "a lovely day"}
    assert pipe({**text, "flow_features": np.ones((3, 2)), "text_features": np.ones((3, 2)), "words": ["a"]}) == pipe(
        text
    )
    with pytest.raises(ValueError, match="which reads text, audio"):
        feature_pipe()({"text": "a lovely day"})


def test_token_ids_are_an_input(pipe, processor):
    encoded = processor.tokenizer("a lovely day")
    row = {"input_ids": encoded["input_ids"], "attention_mask": encoded["attention_mask"], "text": "a lovely day"}
    assert pipe(row)["score"] == pytest.approx(pipe({"text": "a lovely day"})["score"], abs=1e-6)


@pytest.mark.parametrize("place", ["media", "video", "audio", "flow", "images"])
def test_without_local_files_no_file_is_opened(pipe, clip, place, tmp_path):
    """Whatever stands where a path could, each form is an error: a clip and a picture that would be read."""
    picture, flow = tmp_path / "picture.png", tmp_path / "flow.npz"
    Image.fromarray(np.full((32, 32, 3), 90, np.uint8)).save(picture)
    np.savez(flow, flow=np.zeros((2, 8, 8, 2), np.float16), timestamps=np.arange(2.0))
    for path in (clip, str(picture), str(flow)):
        forms = [path, Path(path), [path], [[path]], {"path": path}, {"path": path, "bytes": None}, {"array": path}]
        forms += [{"array": [path]}, [{"path": path}], np.array(path), np.array([path]), "file://" + path]
        for form in forms:
            with pytest.raises(ValueError):
                pipe({place: [form] if place == "images" else form, "text": "a day"}, local_files=False)
        sound = {"array": [0.1] * 4000, "sampling_rate": RATE}
        assert pipe({"audio": {**sound, "path": path}}, local_files=False) == pipe({"audio": sound})
    with pytest.raises(ValueError, match="token ids"):
        pipe({"input_ids": [10**9]}, local_files=False)
    assert pipe(clip, local_files=False) == pipe({"text": clip})  # text, for all we know


# -- lists and streams ------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def table(clip):
    texts = ["a lovely day", "a dreadful day", "", "a day"]
    rows = {"id": list("abcd"), "media": [clip, None, clip, None], "text": texts, "label": [1.0, -1.0, 0.5, 0.0]}
    return datasets.Dataset.from_dict(rows).cast_column("media", datasets.Video(decode=False))


@pytest.mark.parametrize("size", [1, 3])
def test_streams_of_every_kind_give_the_same(pipe, table, size):
    expected = [pipe(row)["score"] for row in table]
    streams = [table, table.to_iterable_dataset(), table.to_iterable_dataset().with_format("torch"), iter(list(table))]
    streams += [(row for row in table), KeyDataset([{"row": row} for row in table], "row")]
    for stream in streams:
        results = pipe(stream, batch_size=size)
        assert not isinstance(results, list)
        assert [one["score"] for one in results] == pytest.approx(expected, abs=1e-5)
    assert [one["score"] for one in pipe(tuple(table), batch_size=size)] == pytest.approx(expected, abs=1e-5)


def test_columns_alone(pipe, table):
    clips = table.select([0, 2])
    for column in (clips["media"], KeyDataset(clips, "media")):
        assert [one["score"] for one in pipe(column)] == [pipe(clips[0]["media"])["score"]] * 2


def test_streams_are_read_as_they_are_asked_for(pipe):
    read = []

    def rows():
        for index in range(100):
            read.append(index)
            yield {"text": "a day"}

    results = pipe(rows(), batch_size=2)
    assert read == []
    next(results)
    assert len(read) <= 4


def test_processes_that_read_ahead(pipe, table):
    expected = [pipe(row)["score"] for row in table]
    found = pipe(table, num_workers=2, batch_size=2)
    assert [one["score"] for one in found] == pytest.approx(expected, abs=1e-5)


def test_nothing_to_do(pipe):
    assert pipe([]) == [] and list(pipe(iter(()))) == []


@pytest.mark.parametrize("size", [1, 2, 5])
def test_a_bad_input_fails_alone(pipe, clip, tmp_path, size):
    broken = tmp_path / "broken.mp4"
    broken.write_bytes(b"no video")
    inputs = [{"text": "a day"}, str(broken), clip, {"smell": 1}, {"media": clip, "text": "a lovely day"}]
    results = pipe(inputs, batch_size=size, on_error="skip")
    assert [set(one) for one in results] == [{"label", "score"}, {"error"}] * 2 + [{"label", "score"}]
    assert "broken.mp4" in results[1]["error"] and "smell" in results[3]["error"]
    for place in (0, 2, 4):
        assert results[place]["score"] == pytest.approx(pipe(inputs[place])["score"], abs=1e-5)
    assert set(pipe(str(broken), on_error="skip")) == {"error"}
    with pytest.raises(MediaError, match="broken.mp4"):
        pipe(inputs, batch_size=size)


@pytest.mark.parametrize("size", [1, 3])
def test_an_input_that_the_model_refuses_fails_alone(size):
    pipe = feature_pipe()
    inputs = [features(3), {"text_features": np.ones((3, 9))}, features(5)]
    results = pipe(inputs, batch_size=size, on_error="skip")
    assert "text_features" in results[1]["error"] and set(results[1]) == {"error"}
    assert [results[0]["score"], results[2]["score"]] == pytest.approx(
        [pipe(inputs[0])["score"], pipe(inputs[2])["score"]], abs=1e-5
    )
    with pytest.raises(ValueError, match="text_features"):
        pipe(inputs, batch_size=size)


@pytest.mark.parametrize("norm", ["group", "layer"])
def test_padding_reaches_nobody(norm):
    """wav2vec 2.0 base normalises over time, padding included: such sounds share a pass only with their like."""
    set_seed(0)
    backbone = Wav2Vec2Config(
        hidden_size=16,
        num_hidden_layers=3,
        num_attention_heads=2,
        intermediate_size=16,
        conv_dim=(8, 8),
        conv_stride=(5, 4),
        conv_kernel=(10, 8),
        num_feat_extract_layers=2,
        feat_extract_norm=norm,
        do_stable_layer_norm=norm == "layer",
        num_conv_pos_embeddings=16,
        num_conv_pos_embedding_groups=4,
    )
    config = CLCRConfig(
        text_config={"feature_size": 4},
        audio_config={"backbone_config": backbone, "source": "taps"},
        hidden_size=16,
        num_attention_heads=2,
        num_labels=1,
    )
    processor = CLCRProcessor(feature_extractor=Wav2Vec2FeatureExtractor(return_attention_mask=True))
    pipe = CLCRPipeline(model=CLCRForSequenceClassification(config), processor=processor, device="cpu")
    rng = np.random.default_rng(0)
    inputs = [{"audio": rng.normal(0, 0.1, count).astype(np.float32)} for count in (1600, 3200, 1600, 2500)]
    inputs.insert(1, {"text_features": features(3)["text_features"]})
    alone = [pipe(value)["score"] for value in inputs]
    assert [one["score"] for one in pipe(inputs, batch_size=5)] == pytest.approx(alone, abs=1e-5)


def test_half_precision(processor, clip):
    pipe = CLCRPipeline(model=clip_model(processor), processor=processor, device="cpu")
    exact = pipe({"media": clip, "text": "a day"})["score"]
    pipe.model.to(torch.bfloat16)
    assert pipe({"media": clip, "text": "a day"}, return_explanation=True)["score"] == pytest.approx(exact, abs=0.1)


def test_several_threads_at_once(pipe, clip):
    expected = [pipe({"media": clip, "text": "a day " * count})["score"] for count in range(1, 5)]
    found = {}

    def read(count):
        found[count] = pipe({"media": clip, "text": "a day " * count})["score"]

    threads = [threading.Thread(target=read, args=(count,)) for count in range(1, 5)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [found[count] for count in range(1, 5)] == expected


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"top_k": 0}, "top_k must be a whole number"),
        ({"top_k": True}, "top_k"),
        ({"return_explanation": 1}, "true or false"),
        ({"on_error": "ignore"}, "'raise' or 'skip'"),
        ({"score_range": [3, -3]}, "rising"),
        ({"score_range": "wide"}, "rising"),
        ({"timeout": -1}, "positive number of seconds"),
        ({"max_seconds": float("inf")}, "positive"),
        ({"local_files": None}, "true or false"),
    ],
)
def test_parameters_are_checked(pipe, given, message):
    with pytest.raises(ValueError, match=message):
        pipe({"text": "a day"}, **given)


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ("nowhere.mp4", "'nowhere.mp4' does not exist"),
        ("x" * 10_000, r"\(10000 characters\) does not exist|characters"),
        ({"media": "data:video/mp4;base64,%%%"}, "base64"),
        ({"media": 5}, "cannot be read"),
        ({"media": b""}, "empty"),
        ({"media": {"url": "x"}}, "path and bytes"),
        ({"text": 5}, "pass a str"),
        ({"text_features": "abc"}, "text_features|nothing in the input"),
        (np.zeros(3), "got ndarray"),
    ],
)
def test_what_cannot_be_read_is_one_value_error(pipe, value, message):
    with pytest.raises(ValueError, match=message) as problem:
        pipe(value)
    assert len(str(problem.value)) < 400
