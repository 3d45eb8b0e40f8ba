"""The training script as a user starts it: one process, two processes, a resumed run, features, variants."""

import json
import os
import pickle
import shutil
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from datasets import Dataset
from safetensors.torch import load_file
from transformers import AutoModelForSequenceClassification, AutoModelForTokenClassification, AutoProcessor

from clcr_hf.data.talking_faces.render import generate_talking_faces
from clcr_hf.training.arguments import ABLATIONS, DataArguments, parse_args
from clcr_hf.training.build import train_tokenizer
from clcr_hf.training.rows import ClipRows
from clcr_hf.training.run import ModelArguments, evaluate_model, main

REPO = Path(__file__).resolve().parent.parent
SCRIPT = REPO / "examples" / "run_sentiment.py"
SIZES = (8, 4, 4)
SMALL = [
    *("--num_train_epochs", "1", "--per_device_train_batch_size", "4", "--logging_steps", "1"),
    *("--hidden_size", "16", "--backbone_size", "16", "--image_size", "32", "--video_frames", "4"),
    *("--disable_tqdm", "True", "--use_cpu"),
]


@pytest.fixture(scope="module")
def corpus(tmp_path_factory) -> Path:
    return generate_talking_faces(tmp_path_factory.mktemp("corpus") / "clips", 0, *SIZES, num_workers=1)


def run(*command: str) -> str:
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false"}
    done = subprocess.run(command, cwd=REPO, env=environment, capture_output=True, text=True, timeout=900)
    assert done.returncode == 0, done.stderr[-4000:]
    return done.stdout


def launcher(name: str) -> list[str]:
    """A console script of this environment, by its module: works where the scripts are not on the path."""
    modules = {"accelerate": "accelerate.commands.accelerate_cli", "torchrun": "torch.distributed.run"}
    return [sys.executable, "-m", modules[name]]


@pytest.fixture(scope="module")
def trained(corpus, tmp_path_factory) -> Path:
    """A run of the script under `accelerate launch`."""
    folder = tmp_path_factory.mktemp("run") / "model"
    command = [*launcher("accelerate"), "launch", "--cpu", "--num_processes", "1", "--num_machines", "1"]
    command += ["--mixed_precision", "no", "--dynamo_backend", "no"]
    run(*command, str(SCRIPT), "--dataset_dir", str(corpus), "--output_dir", str(folder), *SMALL)
    return folder


def test_launched_run_saves_what_reloads(trained, corpus):
    model = AutoModelForSequenceClassification.from_pretrained(trained).eval()
    processor = AutoProcessor.from_pretrained(trained)
    batch = processor(text=["a lovely film"], media=[str(corpus / "test" / "clip_00000.mp4")], return_tensors="pt")
    with torch.no_grad():
        logits = model(**batch).logits
    assert logits.shape == (1, 1)
    assert torch.isfinite(logits).all()
    saved = load_file(trained / "model.safetensors")
    loaded = model.state_dict()
    assert saved.keys() <= loaded.keys()
    assert all(torch.equal(loaded[name], value) for name, value in saved.items())


def test_launched_run_records_itself(trained):
    record = json.loads((trained / "run.json").read_text())
    assert record["seed"] == 42
    assert record["generated"] is True
    assert record["modalities"] == ["text", "vision", "audio"]
    assert record["num_examples"] == {"train": 8, "validation": 4, "test": 4}
    assert {"torch", "transformers", "clcr-hf"} <= record["versions"].keys()
    assert "run_sentiment.py" in record["command"]
    results = json.loads((trained / "all_results.json").read_text())
    for split in ("eval", "test"):
        for name in ("mae", "corr", "acc_7", "acc_2_has0", "acc_2_non0"):
            assert results[f"{split}_{name}"] == pytest.approx(record["metrics"][f"{split}_{name}"])


def test_card_holds_the_measured_figures_and_says_generated(trained):
    from huggingface_hub import ModelCard

    card = ModelCard.load(trained / "README.md")
    metrics = json.loads((trained / "test_results.json").read_text())
    stated = {result.metric_name: result.metric_value for result in card.data.eval_results}
    assert stated["MAE"] == pytest.approx(metrics["test_mae"], abs=1e-4)
    assert stated["Acc-7"] == pytest.approx(metrics["test_acc_7"], abs=1e-4)
    assert "data is generated" in card.text
    assert card.data.library_name == "transformers"


def test_saved_model_measures_the_same_again(trained, corpus):
    data = DataArguments(
        dataset_dir=str(corpus), num_train_clips=SIZES[0], num_validation_clips=SIZES[1], num_test_clips=SIZES[2]
    )
    expected = json.loads((trained / "test_results.json").read_text())
    found = evaluate_model(str(trained), data, batch_size=3)
    assert found["mae"] == pytest.approx(expected["test_mae"], abs=1e-4)


def test_two_processes_train_one_model(corpus, tmp_path):
    command = [*launcher("torchrun"), "--nproc_per_node", "2", "--master_port", "29581"]
    said = run(*command, str(SCRIPT), "--dataset_dir", str(corpus), "--output_dir", str(tmp_path), *SMALL)
    record = json.loads((tmp_path / "run.json").read_text())
    assert record["settings"]["processes"] == 2
    assert said.count("compare: mae on test") == 1 and record["baselines"]["linear"] is None
    assert record["settings"]["batch size"] == 8
    assert AutoModelForSequenceClassification.from_pretrained(tmp_path).config.modalities == record["modalities"]


def test_resumed_run_equals_an_unbroken_one(corpus, tmp_path):
    whole, resumed = tmp_path / "whole", tmp_path / "resumed"
    arguments = ["--dataset_dir", str(corpus), *SMALL, "--num_train_epochs", "2", "--save_total_limit", "3"]
    main([*arguments, "--output_dir", str(whole)])
    shutil.copytree(whole / "checkpoint-2", resumed / "checkpoint-2")
    main([*arguments, "--output_dir", str(resumed), "--resume_from_checkpoint", "last"])
    expected, found = (load_file(folder / "checkpoint-4" / "model.safetensors") for folder in (whole, resumed))
    assert found.keys() == expected.keys()
    for name, tensor in expected.items():
        torch.testing.assert_close(found[name], tensor, rtol=0, atol=1e-6, msg=name)


def test_resume_without_a_checkpoint_is_refused(corpus, tmp_path):
    with pytest.raises(ValueError, match="no checkpoint"):
        main(["--dataset_dir", str(corpus), *SMALL, "--output_dir", str(tmp_path), "--resume_from_checkpoint", "last"])


def test_goes_on_from_a_saved_model(trained, corpus, tmp_path):
    main(
        ["--dataset_dir", str(corpus), *SMALL, "--output_dir", str(tmp_path), "--model_name_or_path", str(trained)]
        + ["--learning_rate", "0", "--backbone_learning_rate", "0", "--load_best_model_at_end", "False"]
    )
    before, after = (load_file(folder / "model.safetensors") for folder in (trained, tmp_path))
    for name, tensor in before.items():
        if "running_" not in name and "num_batches" not in name:  # batch normalisation counts without learning
            torch.testing.assert_close(after[name], tensor, msg=name)


@pytest.mark.parametrize("modalities", [["text", "audio"], ["vision"]])
def test_subsets_of_modalities(corpus, tmp_path, modalities):
    metrics = main(["--dataset_dir", str(corpus), *SMALL, "--output_dir", str(tmp_path), "--modalities", *modalities])
    assert np.isfinite(metrics["test_mae"])
    assert AutoModelForSequenceClassification.from_pretrained(tmp_path).config.modalities == modalities


# -- features -------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def mmsa_file(tmp_path_factory) -> Path:
    """A pickle in MMSA's aligned layout, of random features."""
    rng = np.random.default_rng(0)

    def split(name: str, count: int) -> dict:
        ids = np.zeros((count, 3, 50), np.float32)
        ids[:, 0, :8] = rng.integers(5, 1000, (count, 8))
        ids[:, 1, :8] = 1
        return {
            "raw_text": np.array(["words"] * count),
            "text_bert": ids,
            "text": rng.normal(size=(count, 50, 768)).astype(np.float32),
            "audio": rng.normal(size=(count, 50, 5)).astype(np.float32),
            "vision": rng.normal(size=(count, 50, 20)).astype(np.float32),
            "id": np.array([f"{name}{row}$_$1" for row in range(count)]),
            "regression_labels": rng.uniform(-3, 3, count).astype(np.float32),
            "classification_labels": np.zeros(count, np.float32),
            "annotations": np.array(["Neutral"] * count),
        }

    path = tmp_path_factory.mktemp("mmsa") / "aligned_50.pkl"
    path.write_bytes(pickle.dumps({"train": split("a", 8), "valid": split("b", 4), "test": split("c", 4)}))
    return path


@pytest.mark.parametrize("ablation", [None, *ABLATIONS])
def test_every_ablation_trains_on_an_mmsa_pickle(mmsa_file, tmp_path, ablation):
    variant = [] if ablation is None else ["--ablation", ablation]
    metrics = main(
        ["--dataset", "mmsa", "--data_file", str(mmsa_file), *SMALL, "--output_dir", str(tmp_path), *variant]
        + ["--save_strategy", "no", "--load_best_model_at_end", "False"]
    )
    assert np.isfinite(metrics["test_mae"])
    config = json.loads((tmp_path / "config.json").read_text())
    for name, value in ABLATIONS.get(ablation or "", {}).items():
        assert config[name] == value
    record = json.loads((tmp_path / "run.json").read_text())
    assert record["generated"] is False
    assert record["settings"]["variant"] == (ablation or "full")
    assert "data is generated" not in (tmp_path / "README.md").read_text()


def test_dialogues_of_utterances(tmp_path):
    rng = np.random.default_rng(0)
    videos = np.repeat([f"v{number}" for number in range(9)], [3, 4, 5, 3, 4, 5, 3, 4, 5])
    split = np.where(np.isin(videos, ["v7", "v8"]), "test", np.where(videos == "v6", "validation", "train"))
    label = rng.integers(0, 2, len(videos))
    features = {name: rng.normal(size=(len(videos), 6)).astype(np.float32) for name in ("text", "audio", "vision")}
    np.savez(tmp_path / "features.npz", **features, label=label, video_id=videos, split=split)
    folder = tmp_path / "run"
    metrics = main(
        ["--dataset", "utterances", "--data_file", str(tmp_path / "features.npz"), *SMALL, "--output_dir", str(folder)]
    )
    assert metrics["test_segment_accuracy"] == pytest.approx(
        round(metrics["test_segment_accuracy"] * 9) / 9
    )  # of the nine utterances of the two test videos
    model = AutoModelForTokenClassification.from_pretrained(folder)
    assert model.config.num_labels == 2


def test_manifest_of_clips_with_classes(corpus, tmp_path):
    rows = [("media", "text", "label", "split")]
    for split in ("train", "validation", "test"):
        for index in range(4):
            rows.append((corpus / split / f"clip_{index:05d}.mp4", "some words", "ab"[index % 2], split))
    table = tmp_path / "clips.csv"
    table.write_text("\n".join(",".join(str(cell) for cell in row) for row in rows) + "\n")
    folder = tmp_path / "run"
    metrics = main(["--dataset", "manifest", "--data_file", str(table), *SMALL, "--output_dir", str(folder)])
    assert 0 <= metrics["test_accuracy"] <= 1
    assert AutoModelForSequenceClassification.from_pretrained(folder).config.id2label == {0: "a", 1: "b"}


def test_pretrained_backbone_weights_are_used(corpus, tmp_path):
    from transformers import BertConfig, BertModel

    backbone = tmp_path / "bert"
    tokenizer = train_tokenizer(["good film", "bad film"] * 3, 100, 32)
    tokenizer.save_pretrained(backbone)
    config = BertConfig(
        vocab_size=len(tokenizer), hidden_size=16, num_hidden_layers=3, num_attention_heads=2, intermediate_size=16
    )
    source = BertModel(config)
    source.save_pretrained(backbone)
    folder = tmp_path / "run"
    main(
        ["--dataset_dir", str(corpus), *SMALL, "--output_dir", str(folder), "--modalities", "text", "audio"]
        + ["--text_model_name_or_path", str(backbone), "--freeze_backbones", "True"]
    )
    trained = AutoModelForSequenceClassification.from_pretrained(folder)
    found = trained.get_input_embeddings().weight
    torch.testing.assert_close(found, source.get_input_embeddings().weight)


# -- parts ----------------------------------------------------------------------------------------------------------


def test_arguments_that_do_not_fit_are_refused():
    with pytest.raises(ValueError, match="data_file"):
        DataArguments(dataset="mmsa")
    with pytest.raises(ValueError, match="modalities"):
        ModelArguments(modalities=["text", "text"])
    with pytest.raises(ValueError, match="name=value"):
        ModelArguments(config_overrides="num_levels").fusion_fields()
    fields = ModelArguments(config_overrides="num_levels=2,level_mixing=full_mix").fusion_fields()
    assert fields["num_levels"] == 2 and fields["level_mixing"] == "full_mix"


def test_defaults_train_the_generated_corpus(tmp_path):
    model_args, data_args, training_args = parse_args(["--output_dir", str(tmp_path)])
    assert data_args.dataset == "talking_faces"
    assert training_args.do_train and training_args.load_best_model_at_end
    assert model_args.modalities is None
    assert training_args.early_stopping_patience > 0


def test_clips_are_decoded_once_within_the_memory_allowed(corpus):
    path = str(corpus / "test" / "clip_00000.mp4")
    rows = Dataset.from_dict({"id": ["a", "b", "c"], "media": [path] * 3, "label": [0.0] * 3})

    class Processor:
        tokenizer = image_processor = video_fps = max_audio_seconds = None
        video_num_frames = 1
        feature_extractor = SimpleNamespace(sampling_rate=8000)
        calls = 0

        def __call__(self, **inputs):
            self.calls += 1
            return {"input_values": torch.zeros(1, 10), "audio_attention_mask": torch.ones(1, 1, dtype=torch.long)}

    for room, expected in ((1.0, 3), (0.0, 6), (50 / 2**30, 5)):
        processor = Processor()
        clips = ClipRows(rows, {"audio": "media"}, processor, cache_gb=room)
        for _ in range(2):
            for index in range(3):
                assert clips[index]["input_values"].shape == (10,)
        assert processor.calls == expected


def test_trained_tokenizer_reads_unknown_words_and_cuts():
    tokenizer = train_tokenizer(["good film", "good song"] * 3, 100, 4)
    ids = tokenizer("Good film zzz", truncation=True)["input_ids"]
    assert len(ids) == 4
    assert tokenizer.convert_ids_to_tokens(ids)[0] == "[CLS]"
    assert tokenizer.convert_ids_to_tokens(tokenizer("good")["input_ids"]) == ["[CLS]", "good", "[SEP]"]
