"""Publishing and loading by name, over real HTTP on loopback, in processes of their own with empty caches."""

import hashlib
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from model_utils import batch, tiny_config
from stand_in_hub import StandInHub
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from clcr_hf import CLCRFeatureExtractor, CLCRForSequenceClassification, CLCRForTokenClassification, CLCRProcessor
from clcr_hf.hub.publish import build_release, publish
from clcr_hf.remote_code import add_remote_code, remote_code_files

NAME = "org/clcr-mosei"
# Stands for a machine without the package, where it is installed.
WITHOUT_PACKAGE = "import sys; sys.modules['clcr_hf'] = None\n"


@pytest.fixture(scope="module")
def trained(tmp_path_factory) -> Path:
    """A saved model with a processor, a batch for it and what it answers, and the record of a run."""
    folder = tmp_path_factory.mktemp("trained")
    torch.manual_seed(0)
    CLCRForSequenceClassification(tiny_config()).save_pretrained(folder)
    words = Tokenizer(models.WordLevel({"[PAD]": 0, "[UNK]": 1, "good": 2, "bad": 3}, unk_token="[UNK]"))
    words.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=words, pad_token="[PAD]", unk_token="[UNK]")
    CLCRProcessor(tokenizer=tokenizer, feature_extractor=CLCRFeatureExtractor()).save_pretrained(folder)
    inputs = batch()
    inputs.pop("labels")
    model = CLCRForSequenceClassification.from_pretrained(folder).eval()
    torch.save({"inputs": inputs, "logits": model(**inputs).logits.detach()}, folder / "expected.pt")
    record = {
        "command": "python examples/run_sentiment.py --dataset_dir /home/someone/clips",
        "seed": 0,
        "versions": {"torch": "2"},
        "dataset": "manifest",
        "generated": False,
        "modalities": ["text", "vision", "audio"],
        "problem_type": "regression",
        "num_examples": {"train": 8, "validation": 2, "test": 4},
        "settings": {"seed": 0},
        "data_arguments": {"dataset_dir": "/home/someone/clips"},
        "metrics": {"test_mae": 0.75, "test_corr": 0.5},
    }
    (folder / "run.json").write_text(json.dumps(record))
    (folder / "all_results.json").write_text(json.dumps(record["metrics"]))
    (folder / "checkpoint-1").mkdir()
    (folder / "checkpoint-1" / "optimizer.pt").write_bytes(b"state")
    (folder / "training_args.bin").write_bytes(b"pickle")
    return folder


@pytest.fixture
def hub():
    with StandInHub() as running:
        yield running


def run(code: str, environment: dict[str, str]) -> str:
    """Standard output of a fresh Python process; its error output when it fails."""
    done = subprocess.run(
        [sys.executable, "-c", code], env={**os.environ, **environment}, capture_output=True, text=True, timeout=900
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout


def send(trained: Path, hub: StandInHub, cache: Path, options: str = "") -> str:
    code = f"from clcr_hf.hub.publish import publish; print(publish({str(trained)!r}, {NAME!r}{options}))"
    return run(code, hub.environment(cache))


def compare(trained: Path, head: str = "AutoModelForSequenceClassification", options: str = "") -> str:
    """Code that loads the model by name and compares its answers bit by bit."""
    return f"""
import torch
from transformers import {head}
expected = torch.load({str(trained / "expected.pt")!r})
model = {head}.from_pretrained({NAME!r}{options}).eval()
assert torch.equal(model(**expected["inputs"]).logits, expected["logits"])
print(type(model).__module__)
"""


# -- what is sent ----------------------------------------------------------------------------------------------------


def test_a_release_holds_all_and_only_what_is_meant(trained, tmp_path):
    release = build_release(trained, tmp_path / "release", NAME)
    found = {path.name for path in release.iterdir()}
    assert {"config.json", "model.safetensors", "processor_config.json", "tokenizer.json", "README.md"} <= found
    assert {"handler.py", "requirements.txt", "run.json", "all_results.json"} <= found
    assert {path.name for path in remote_code_files()} <= found
    assert not found & {"training_args.bin", "checkpoint-1", "expected.pt"}
    assert "/home/someone" not in "".join(path.read_text(errors="ignore") for path in release.iterdir())
    assert NAME in (release / "README.md").read_text() and "0.7500" in (release / "README.md").read_text()
    for name in ("modeling_clcr.py", "ops.py"):  # the package's own files, byte for byte
        source = next(path for path in remote_code_files() if path.name == name)
        assert (release / name).read_bytes() == source.read_bytes()


def test_large_weights_are_cut_into_shards(trained, tmp_path):
    release = build_release(trained, tmp_path, NAME, max_shard_size="50KB")
    assert (release / "model.safetensors.index.json").is_file() and len(list(release.glob("model-*.safetensors"))) > 2
    whole = CLCRForSequenceClassification.from_pretrained(trained).state_dict()
    again = CLCRForSequenceClassification.from_pretrained(release).state_dict()
    assert all(torch.equal(whole[name], again[name]) for name in whole)


def test_auto_map_names_every_auto_class(trained, tmp_path):
    release = build_release(trained, tmp_path, NAME)
    named = json.loads((release / "config.json").read_text())["auto_map"]
    heads = {"AutoModelForSequenceClassification", "AutoModelForTokenClassification"}
    assert {"AutoConfig", "AutoModel", "AutoProcessor"} | heads <= set(named)
    assert "AutoProcessor" in json.loads((release / "processor_config.json").read_text())["auto_map"]
    before = {path.name: path.read_bytes() for path in release.iterdir()}
    add_remote_code(release)  # again: nothing changes
    assert {path.name: path.read_bytes() for path in release.iterdir()} == before


def test_unfit_folders_are_refused_before_anything_is_sent(trained, tmp_path, hub):
    with pytest.raises(FileNotFoundError, match="config.json"):
        publish(tmp_path, NAME)
    (tmp_path / "config.json").write_text('{"model_type": "bert"}')
    with pytest.raises(FileNotFoundError, match="processor_config.json"):
        publish(tmp_path, NAME)
    (tmp_path / "processor_config.json").write_text("{}")
    with pytest.raises(ValueError, match="'bert'"):
        publish(tmp_path, NAME)
    assert hub.requests == []


@pytest.mark.parametrize(
    ("name", "linked"),
    [
        ("all_results.json", "all_results.json"),
        ("chat_template.jinja", "chat_template.jinja"),
        ("README.md", "README.md"),
        ("model.safetensors", "model.safetensors"),
        ("examples/clip.mp4", "examples/clip.mp4"),
        ("examples/clip.mp4", "examples"),
        (".eval_results/results.yaml", ".eval_results"),
    ],
)
def test_links_to_files_elsewhere_are_not_sent(trained, tmp_path, hub, name, linked):
    secret, folder = tmp_path / "secret", tmp_path / "run"
    shutil.copytree(trained, folder, ignore=shutil.ignore_patterns("expected.pt"))
    (secret / name).parent.mkdir(parents=True)
    source = folder / name
    (secret / name).write_bytes(source.read_bytes() if source.is_file() else b"{}")
    source.unlink(missing_ok=True)
    (folder / linked).parent.mkdir(exist_ok=True)
    (folder / linked).symlink_to(secret / linked)
    (folder / "card.json").write_text(json.dumps({"examples": [{"title": "x", "file": "examples/clip.mp4"}]}))
    for send_it in (publish, lambda *given: build_release(folder, tmp_path / "refused", NAME)):
        with pytest.raises(ValueError, match=rf"^run, {name}: .* by a link to .*secret.*--media_root[^\n]*$"):
            send_it(folder, NAME)
    assert hub.requests == [] and not (tmp_path / "refused").exists()
    assert (build_release(folder, tmp_path / "said", NAME, media_root=secret) / "config.json").is_file()


@pytest.mark.parametrize("file", ["/etc/hostname", "../secret.mp4", "examples/../../secret.mp4", "examples/*.mp4"])
def test_examples_are_named_by_files_of_their_folder(trained, tmp_path, file):
    folder = tmp_path / "run"
    shutil.copytree(trained, folder)
    (folder / "examples").mkdir()
    (folder / "examples" / "other.mp4").write_bytes(b"a secret")
    (tmp_path / "secret.mp4").write_bytes(b"a secret")
    (folder / "card.json").write_text(json.dumps({"examples": [{"title": "x", "file": file}]}))
    try:
        build_release(folder, tmp_path / "release", NAME)
    except ValueError as error:
        assert "must lie in examples/" in str(error)
    assert not list((tmp_path / "release").rglob("*.mp4"))


def test_weights_that_do_not_fill_the_model_are_refused(trained, tmp_path):
    from safetensors.torch import load_file, save_file

    for path in trained.iterdir():
        if path.is_file():
            (tmp_path / path.name).write_bytes(path.read_bytes())
    weights = load_file(tmp_path / "model.safetensors")
    weights.pop("classifier.out_proj.weight")
    save_file(weights, tmp_path / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(ValueError, match="classifier.out_proj.weight"):
        build_release(tmp_path, tmp_path / "release", NAME)


# -- over HTTP -------------------------------------------------------------------------------------------------------


def test_weights_that_are_not_those_of_the_run_are_refused(trained, tmp_path):
    """A release keeps the record of its own files, and can be published again."""
    release = build_release(trained, tmp_path / "release", NAME)
    build_release(release, tmp_path / "again", NAME)
    file = release / "model.safetensors"
    whole = file.read_bytes()
    file.write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
    with pytest.raises(ValueError, match="model.safetensors: altered since its training"):
        build_release(release, tmp_path / "altered", NAME)
    assert not (tmp_path / "altered").exists()
    file.unlink()
    with pytest.raises(ValueError, match="model.safetensors: missing since its training"):
        build_release(release, tmp_path / "altered", NAME)


def test_publish_then_load_by_name_with_and_without_the_package(trained, hub, tmp_path):
    assert "/commit/" in send(trained, hub, tmp_path / "sender")
    with_package = "import clcr_hf\n" + compare(trained)
    assert run(with_package, hub.environment(tmp_path / "one", signed_in=False)).strip() == "clcr_hf.modeling_clcr"
    without = WITHOUT_PACKAGE + compare(trained, options=", trust_remote_code=True")
    assert "transformers_modules" in run(without, hub.environment(tmp_path / "two", signed_in=False))


def test_every_auto_class_loads_without_the_package(trained, hub, tmp_path):
    send(trained, hub, tmp_path / "sender")
    code = (
        WITHOUT_PACKAGE
        + f"""
from transformers import *
options = dict(trust_remote_code=True)
print(type(AutoConfig.from_pretrained({NAME!r}, **options)).__name__)
print(type(AutoModel.from_pretrained({NAME!r}, **options)).__name__)
print(type(AutoModelForTokenClassification.from_pretrained({NAME!r}, **options)).__name__)
processor = AutoProcessor.from_pretrained({NAME!r}, **options)
print(type(processor).__name__, type(processor.feature_extractor).__name__, type(processor.tokenizer).__name__)
print(type(AutoFeatureExtractor.from_pretrained({NAME!r}, **options)).__name__)
print(type(pipeline("multimodal-sentiment", model={NAME!r}, **options)).__name__)
"""
    )
    out = run(code, hub.environment(tmp_path / "reader")).split()
    wanted = ["CLCRConfig", "CLCRModel", "CLCRForTokenClassification", "CLCRProcessor", "CLCRFeatureExtractor"]
    assert out[:5] == wanted and out[6:] == ["CLCRFeatureExtractor", "CLCRPipeline"]


def test_the_pipeline_needs_no_trust_with_the_package(trained, hub, tmp_path):
    send(trained, hub, tmp_path / "sender")
    code = f"import clcr_hf; from transformers import pipeline; p = pipeline('multimodal-sentiment', model={NAME!r})\n"
    assert "clcr_hf.pipeline_clcr" in run(code + "print(type(p).__module__)", hub.environment(tmp_path / "reader"))


def test_push_to_hub_of_model_and_processor_sends_the_code(trained, hub, tmp_path):
    code = f"""
from clcr_hf import CLCRForSequenceClassification, CLCRProcessor
CLCRForSequenceClassification.from_pretrained({str(trained)!r}).push_to_hub({NAME!r})
CLCRProcessor.from_pretrained({str(trained)!r}).push_to_hub({NAME!r})
"""
    run(code, hub.environment(tmp_path / "sender"))
    without = WITHOUT_PACKAGE + compare(trained, options=", trust_remote_code=True")
    without += "from transformers import AutoProcessor\n"
    without += f"AutoProcessor.from_pretrained({NAME!r}, trust_remote_code=True)"
    assert "transformers_modules" in run(without, hub.environment(tmp_path / "reader"))


def test_the_trainer_sends_the_code_too(hub, tmp_path):
    code = f"""
import sys
sys.path.insert(0, {str(Path(__file__).parent)!r})
import torch
from model_utils import batch, feature_config
from clcr_hf import CLCRForSequenceClassification, CLCRProcessor, CLCRTrainer, CLCRTrainingArguments
rows = batch(text=False)
rows = [{{key: value[index] for key, value in rows.items()}} for index in range(6)]
args = CLCRTrainingArguments(
    {str(tmp_path / "run")!r}, max_steps=1, push_to_hub=True, hub_model_id={NAME!r}, use_cpu=True, report_to="none"
)
trainer = CLCRTrainer(
    CLCRForSequenceClassification(feature_config()), args, train_dataset=rows, processing_class=CLCRProcessor()
)
trainer.train()
print(trainer.push_to_hub())
"""
    assert "/commit/" in run(code, hub.environment(tmp_path / "sender"))
    files = hub.repositories[NAME].resolve("main")[1]
    assert {"model.safetensors", "modeling_clcr.py", "processor_config.json", "handler.py"} <= set(files)


def test_a_model_loaded_by_its_own_code_can_be_published_again(trained, hub, tmp_path):
    send(trained, hub, tmp_path / "sender")
    code = (
        WITHOUT_PACKAGE
        + f"""
from transformers import AutoModelForSequenceClassification
model = AutoModelForSequenceClassification.from_pretrained({NAME!r}, trust_remote_code=True)
model.push_to_hub("org/copy")
"""
    )
    run(code, hub.environment(tmp_path / "reader"))
    files = hub.repositories["org/copy"].resolve("main")[1]
    assert {"modeling_clcr.py", "ops.py", "remote_code.py", "model.safetensors"} <= set(files)


def test_private_repository(trained, hub, tmp_path):
    send(trained, hub, tmp_path / "sender", ", private=True")
    code = "import clcr_hf\n" + compare(trained)
    run(code, hub.environment(tmp_path / "member"))
    with pytest.raises(AssertionError, match="(?i)private or gated|not a valid model identifier|401"):
        run(code, hub.environment(tmp_path / "stranger", signed_in=False))


def test_revisions_are_pinned(trained, hub, tmp_path):
    send(trained, hub, tmp_path / "sender")
    first = hub.repositories[NAME].refs["main"]
    torch.manual_seed(1)
    changed = tmp_path / "changed"
    CLCRForSequenceClassification(tiny_config()).save_pretrained(changed)
    CLCRProcessor.from_pretrained(trained).save_pretrained(changed)
    send(changed, hub, tmp_path / "sender")
    assert hub.repositories[NAME].refs["main"] != first
    pinned = "import clcr_hf\n" + compare(trained, options=f", revision={first!r}")
    run(pinned, hub.environment(tmp_path / "reader"))
    with pytest.raises(AssertionError, match="AssertionError"):
        run("import clcr_hf\n" + compare(trained), hub.environment(tmp_path / "reader"))


def test_an_interrupted_download_goes_on(trained, hub, tmp_path):
    send(trained, hub, tmp_path / "sender")
    hub.break_after = 100_000
    run("import clcr_hf\n" + compare(trained), hub.environment(tmp_path / "reader"))
    assert hub.break_after is None  # it did break, and what came in the end was whole
    # What the client has written before the break (it writes by 10 MB) is not asked for again.
    content = os.urandom(25_000_000)
    hub.repositories[NAME].commit({"large.bin": hub.add_blob(content)}, "main")
    hub.break_after = 15_000_000
    code = f"""
import hashlib, huggingface_hub
path = huggingface_hub.hf_hub_download({NAME!r}, "large.bin")
assert hashlib.sha256(open(path, "rb").read()).hexdigest() == {hashlib.sha256(content).hexdigest()!r}
"""
    run(code, hub.environment(tmp_path / "reader"))
    assert hub.break_after is None and any(wanted != "bytes=0-" for wanted in hub.ranges)


def test_offline_from_the_cache(trained, hub, tmp_path):
    send(trained, hub, tmp_path / "sender")
    code = WITHOUT_PACKAGE + compare(trained, options=", trust_remote_code=True")
    run(code, hub.environment(tmp_path / "reader"))
    count = len(hub.requests)
    run(code, {**hub.environment(tmp_path / "reader"), "HF_HUB_OFFLINE": "1"})
    assert len(hub.requests) == count
    with pytest.raises(AssertionError, match="(?i)offline|cached files"):
        run(code, {**hub.environment(tmp_path / "empty"), "HF_HUB_OFFLINE": "1"})


def test_foreign_code_runs_only_with_trust(trained, hub, tmp_path):
    release = build_release(trained, tmp_path / "release", NAME)
    canary = tmp_path / "canary"
    for name in ("configuration_clcr.py", "modeling_clcr.py", "processing_clcr.py", "pipeline_clcr.py"):
        (release / name).write_text(f"open({str(canary)!r}, 'w').close()\n" + (release / name).read_text())
    local = f"""
from transformers import AutoConfig, AutoModel, AutoProcessor
import clcr_hf
for kind in (AutoConfig, AutoModel, AutoProcessor):
    kind.from_pretrained({str(release)!r})
"""
    run(local, hub.environment(tmp_path / "cache"))  # the installed package answers, the folder's code is not touched
    refused = (
        WITHOUT_PACKAGE
        + f"""
from transformers import AutoConfig, AutoModel, AutoProcessor
for kind in (AutoConfig, AutoModel, AutoProcessor):
    try:
        kind.from_pretrained({str(release)!r}, trust_remote_code=False)
    except (ValueError, OSError) as error:
        continue
    raise SystemExit("foreign code was accepted")
"""
    )
    run(refused, hub.environment(tmp_path / "cache"))
    assert not canary.exists()


def test_token_classification_is_published_with_its_head(hub, tmp_path):
    model = CLCRForTokenClassification(tiny_config(num_labels=4, num_segments=5))
    model.save_pretrained(tmp_path / "model")
    CLCRProcessor().save_pretrained(tmp_path / "model")
    release = build_release(tmp_path / "model", tmp_path / "release", NAME)
    assert json.loads((release / "config.json").read_text())["architectures"] == ["CLCRForTokenClassification"]


def test_command_line(trained, hub, tmp_path):
    command = [sys.executable, "-m", "clcr_hf.cli.main", "publish"]
    environment = {**os.environ, **hub.environment(tmp_path / "cache")}
    done = subprocess.run([*command, trained, NAME, "--private"], env=environment, capture_output=True, text=True)
    assert done.returncode == 0 and "/commit/" in done.stdout, done.stderr
    assert hub.repositories[NAME].private and "model.safetensors" in hub.repositories[NAME].resolve("main")[1]
    done = subprocess.run([*command, tmp_path, NAME], env=environment, capture_output=True, text=True)
    assert done.returncode == 1 and done.stderr.startswith("error:") and done.stderr.count("\n") == 1
