"""handler.py: loaded from a release's folder without the package, behind HTTP as on Inference Endpoints."""

import base64
import json
import os
import subprocess
import sys
import threading
import urllib.error
import urllib.request
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from transformers.models.vit.image_processing_pil_vit import ViTImageProcessorPil

from clcr_hf import (
    CLCRConfig,
    CLCRFeatureExtractor,
    CLCRForSequenceClassification,
    CLCRForTokenClassification,
    CLCRPipeline,
    CLCRProcessor,
)
from clcr_hf.hub.handler import EndpointHandler
from clcr_hf.hub.publish import build_release
from clcr_hf.media import write_video
from clcr_hf.training.build import train_tokenizer

TEXT = "what a good day"


def make_release(folder: Path, head: type, **fields) -> Path:
    """A release of a small model that reads frames, sound and text."""
    tokenizer = train_tokenizer([TEXT, "what a bad day"] * 2, vocab_size=60, max_length=16)
    small = {"hidden_size": 16, "num_hidden_layers": 3, "num_attention_heads": 2, "intermediate_size": 16}
    picture = {"model_type": "resnet", "embedding_size": 4, "hidden_sizes": [4, 8, 8], "depths": [1, 1, 1]}
    config = CLCRConfig(
        text_config={
            "backbone_config": {"model_type": "bert", "vocab_size": len(tokenizer), **small},
            "source": "taps",
        },
        vision_config={"backbone_config": picture, "source": "taps"},
        audio_config={"feature_size": 65},
        hidden_size=16,
        num_attention_heads=2,
        **fields,
    )
    head(config).save_pretrained(folder / "model")
    CLCRProcessor(
        tokenizer=tokenizer,
        feature_extractor=CLCRFeatureExtractor(n_fft=128, hop_length=320),
        image_processor=ViTImageProcessorPil(size={"height": 32, "width": 32}),
        video_num_frames=4,
    ).save_pretrained(folder / "model")
    return build_release(folder / "model", folder / "release", "org/model")


@pytest.fixture(scope="module")
def clip(tmp_path_factory) -> Path:
    rng = np.random.default_rng(0)
    frames = rng.integers(0, 255, (20, 48, 64, 3), dtype=np.uint8)
    sound = rng.normal(0, 0.1, 32_000).astype(np.float32)
    return write_video(tmp_path_factory.mktemp("clip") / "clip.mp4", frames, 10, sound, 16_000)


@pytest.fixture(scope="module")
def scores(tmp_path_factory) -> Path:
    return make_release(tmp_path_factory.mktemp("scores"), CLCRForSequenceClassification, num_labels=1)


@pytest.fixture(scope="module")
def events(tmp_path_factory) -> Path:
    fields = {"num_labels": 3, "num_segments": 4, "problem_type": "single_label_classification"}
    return make_release(tmp_path_factory.mktemp("events"), CLCRForTokenClassification, **fields)


@pytest.fixture(scope="module")
def endpoint(scores, events, tmp_path_factory):
    """Address of a server in a process that has no `clcr_hf`."""
    script = Path(__file__).with_name("stand_in_endpoint.py")
    folder = tmp_path_factory.mktemp("elsewhere")
    environment = {**os.environ, "HF_HOME": str(folder), "HF_HUB_OFFLINE": "1", "CLCR_ALLOW_PRIVATE_URLS": "1"}
    command = [sys.executable, str(script), str(scores), str(events)]
    with (folder / "errors").open("w") as errors:
        process = subprocess.Popen(
            command, env=environment, cwd=folder, stdout=subprocess.PIPE, stderr=errors, text=True
        )
    try:
        port = process.stdout.readline().strip()
        assert port, (folder / "errors").read_text()[-3000:]
        yield f"http://127.0.0.1:{port}"
    finally:
        process.kill()
        process.wait()
        process.stdout.close()


@pytest.fixture(scope="module")
def address(clip):
    """The clip behind a server."""

    class Handler(SimpleHTTPRequestHandler):
        def __init__(self, *args):
            super().__init__(*args, directory=str(clip.parent))

        def log_message(self, *_):
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_address[1]}/{clip.name}"
    server.shutdown()
    server.server_close()


def post(address: str, body: object, kind: str = "application/json"):
    """Status and answer."""
    content = body if isinstance(body, bytes) else json.dumps(body).encode()
    request = urllib.request.Request(address, content, {"Content-Type": kind})
    try:
        with urllib.request.urlopen(request, timeout=900) as response:
            return response.status, json.loads(response.read())
    except urllib.error.HTTPError as error:
        with error:
            return error.code, json.loads(error.read())


@pytest.fixture(scope="module")
def expected(scores, clip):
    """What the package itself answers."""
    model = CLCRForSequenceClassification.from_pretrained(scores)
    pipe = CLCRPipeline(model=model, processor=CLCRProcessor.from_pretrained(scores), device="cpu")
    return {
        "text": pipe({"text": TEXT}),
        "clip": pipe(str(clip)),
        "both": pipe({"media": str(clip), "text": TEXT}, return_explanation=True),
        "sound": pipe({"audio": str(clip)}),
    }


def same(found: dict, wanted: dict) -> bool:
    return found["label"] == wanted["label"] and found["score"] == pytest.approx(wanted["score"], abs=1e-6)


# -- over HTTP --------------------------------------------------------------------------------------------------------


def test_every_kind_of_input(endpoint, expected, clip, address):
    packed = base64.b64encode(clip.read_bytes()).decode()
    uri = f"data:video/mp4;base64,{packed}"
    inputs = [(TEXT, "text"), ({"text": TEXT}, "text"), (address, "clip"), (packed, "clip"), (uri, "clip")]
    inputs += [({"media": media}, "clip") for media in (address, packed, uri)]
    inputs += [({"video": uri, "audio": address}, "clip"), ({"audio": packed}, "sound")]
    inputs += [({"media": uri, "text": TEXT}, "both")]
    for value, name in inputs:
        status, answer = post(endpoint, {"inputs": value})
        assert status == 200 and same(answer, expected[name]), (answer, name)
    status, answer = post(endpoint, {"inputs": [value for value, _ in inputs], "parameters": {}})
    assert status == 200
    assert all(same(one, expected[name]) for one, (_, name) in zip(answer, inputs, strict=True))


@pytest.mark.parametrize("kind", ["video/mp4", "audio/mpeg"])
def test_the_file_itself_as_body(endpoint, expected, clip, kind):
    status, answer = post(endpoint, clip.read_bytes(), kind)
    assert status == 200 and same(answer, expected["clip"])
    status, answer = post(endpoint + "/?return_explanation=true&top_k=2", clip.read_bytes(), kind)
    assert status == 200 and set(answer["tokens"]) == {"vision", "audio"}


def test_explanation(endpoint, expected, clip):
    media = base64.b64encode(clip.read_bytes()).decode()
    body = {"inputs": {"media": media, "text": TEXT}, "parameters": {"return_explanation": True}}
    _, answer = post(endpoint, body)
    assert answer["modality_weights"] == pytest.approx(expected["both"]["modality_weights"], abs=1e-6)
    assert [one["token"] for one in answer["tokens"]["text"]][1] == "what"


def test_segments(endpoint, clip):
    """A model with labels for segments answers with its own head, its code loaded from its folder."""
    status, answer = post(endpoint + "/1", clip.read_bytes(), "video/mp4")
    assert status == 200 and len(answer["segments"]) == 4
    assert answer["segments"][-1]["end"] == pytest.approx(2, abs=0.1)


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ({"text": TEXT}, "inputs key"),
        ({"inputs": None}, "has the form"),
        ({"inputs": []}, "1 to 32 inputs"),
        ({"inputs": [TEXT] * 33}, "1 to 32 inputs"),
        ({"inputs": TEXT, "parameters": {"temperature": 1}}, "unknown parameters: temperature"),
        ({"inputs": TEXT, "parameters": {"local_files": True}}, "unknown parameters: local_files"),
        ({"inputs": TEXT, "parameters": [1]}, "must be an object"),
        ({"inputs": TEXT, "parameters": {"top_k": "two"}}, "top_k must be"),
        ({"inputs": TEXT, "top_k": 2}, "unknown keys of the request: top_k"),
        ({"inputs": {"smell": "x"}}, "unknown keys in inputs: smell"),
        ({"inputs": {"text": ["x"]}}, "text must be a string"),
        ({"inputs": {"text": "x" * 100_001}}, "at most 100000"),
        ({"inputs": {"media": 5}}, "media must be"),
        ({"inputs": {"media": {"path": "/etc/passwd"}}}, "media must be"),
        ({"inputs": {"video": ["/etc/passwd"]}}, "video must be"),
        ({"inputs": {"media": "/etc/passwd"}}, "base64"),
        ({"inputs": {"media": "file:///etc/passwd"}}, "base64"),
        ({"inputs": {"media": "aGVsbG8="}}, "5 bytes"),
        ({"inputs": {"images": ["x"]}}, "unknown keys in inputs: images"),
        ({"inputs": {"input_ids": [10**9]}}, "unknown keys in inputs: input_ids"),
        ({"inputs": {"vision_features": [[1.0]]}}, "vision_features"),
        ({"inputs": {"text_features": "x"}}, "text_features"),
        ({"inputs": {}}, "nothing to read"),
        ({"inputs": 5}, "must be a string"),
        ({"inputs": "http://127.0.0.1:9/clip.mp4"}, "cannot be read"),
    ],
)
def test_mistakes_are_answered_with_one_line(endpoint, body, message):
    status, answer = post(endpoint, body)
    assert status == 400 and message in answer["error"] and len(answer["error"]) < 400
    assert "\n" not in answer["error"] and "Traceback" not in answer["error"]


def test_one_bad_input_of_a_list(endpoint, expected):
    inputs = [TEXT, {"media": "aGVsbG8="}, TEXT]
    assert post(endpoint, {"inputs": inputs})[0] == 400
    status, answer = post(endpoint, {"inputs": inputs, "parameters": {"on_error": "skip"}})
    assert status == 200 and set(answer[1]) == {"error"}
    assert same(answer[0], expected["text"]) and same(answer[2], expected["text"])


def test_broken_bodies_do_not_end_the_server(endpoint, expected):
    for content, kind in (
        (b"{", "application/json"),
        (b"", "video/mp4"),
        (b"not a clip", "video/mp4"),
        (b"x", "text/css"),
    ):
        status, answer = post(endpoint, content, kind)
        assert status == 400 and answer["error"]
    assert same(post(endpoint, {"inputs": TEXT})[1], expected["text"])


def test_several_at_once(endpoint, expected, clip):
    media = base64.b64encode(clip.read_bytes()).decode()
    answers: list[tuple[int, dict]] = []

    def ask():
        answers.append(post(endpoint, {"inputs": {"media": media, "text": TEXT}}))

    threads = [threading.Thread(target=ask) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(answers) == 6
    assert all(status == 200 and same(answer, expected["both"]) for status, answer in answers)


# -- inside this process ----------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def handler(scores, tmp_path_factory):
    return EndpointHandler(path=str(scores))


def test_addresses_of_the_server_are_refused(handler, address):
    with pytest.raises(ValueError, match="private network"):
        handler({"inputs": address})


def test_bytes_in_a_dict(handler, clip, expected):
    assert same(handler({"inputs": {"media": clip.read_bytes()}}), expected["clip"])


def test_limits_of_size(handler, clip, monkeypatch):
    monkeypatch.setattr(EndpointHandler, "limits", {"max_bytes": 1000})
    for media in (base64.b64encode(clip.read_bytes()).decode(), clip.read_bytes()):
        for inputs in ({"media": media}, media, [{"text": "fine"}, {"audio": media}]):
            with pytest.raises(ValueError, match="more than 1000 bytes|at most 1000 are read"):
                handler({"inputs": inputs})


_VALUES = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=True)
    | st.text(max_size=20)
    | st.binary(max_size=20),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=6,
)
_SAMPLES = st.dictionaries(
    st.sampled_from(["text", "media", "video", "audio", "vision_features", "audio_features", "id"]), _VALUES, max_size=3
)
_BODIES = st.fixed_dictionaries(
    {"inputs": _VALUES | _SAMPLES | st.lists(_SAMPLES, max_size=3)},
    optional={"parameters": st.dictionaries(st.sampled_from(["top_k", "on_error", "return_explanation"]), _VALUES)},
)


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(body=_BODIES)
def test_any_request_gives_json_or_a_value_error(handler, body):
    try:
        answer = handler(body)
    except ValueError as error:
        assert str(error)
    else:
        json.dumps(answer, allow_nan=False)
