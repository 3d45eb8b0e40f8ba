"""Features that a study extracts: once, for all of its runs, and again where what decides about them has changed."""

import os

import numpy as np
import pytest
from extract_backbones import save_vision
from study_runs import run_here

from clcr_hf.data.folders import read_json
from clcr_hf.media import write_video
from clcr_hf.study import features, located, pool, read_study, run_study

ARGUMENTS = "{num_train_epochs: 1, hidden_size: 16, config_overrides: 'num_attention_heads=2', baselines: false}"


def clip(path, seed):
    """Dark or bright, eight frames."""
    frames = np.random.default_rng(seed).integers(0, 128, (8, 16, 16, 3)) + 127 * (seed % 2)
    write_video(path, frames.astype(np.uint8), fps=8)


@pytest.fixture
def study_file(tmp_path):
    """A table of twelve clips, a backbone and a study of linear models; gives what writes the study."""
    (tmp_path / "clips").mkdir()
    lines = ["file_name,label,split,speaker"]
    for number in range(12):
        clip(tmp_path / "clips" / f"{number}.mp4", number)
        split = "train" if number < 6 else "validation" if number < 8 else "test"
        lines.append(f"{number}.mp4,{('dark', 'bright')[number % 2]},{split},s{number // 2}")
    (tmp_path / "clips" / "metadata.csv").write_text("\n".join(lines) + "\n", encoding="utf-8")
    backbone = save_vision(tmp_path / "backbone", "clip")

    def write(more="num_frames: 4", variants="{linear: {model: linear}}"):
        section = f"{{source: {tmp_path / 'clips'}, vision: {backbone}, device: cpu, {more}}}"
        text = f"features: {section}\narguments: {ARGUMENTS}\nseeds: [0, 1]\nvariants: {variants}\n"
        (tmp_path / "study.yaml").write_text(text, encoding="utf-8")
        return tmp_path / "study.yaml"

    return write


@pytest.fixture
def extractions(monkeypatch):
    """No process for runs or extractions; the list takes the folders of what was extracted."""
    run_here(monkeypatch)
    done = []

    def run_module(words, log, threads=1):
        done.append(words[2])
        features.main(*words[1:])

    monkeypatch.setattr(pool, "run_module", run_module)
    return done


def test_features_are_extracted_once_for_all_runs(study_file, extractions, tmp_path):
    def run(path, folder="out"):
        return run_study(read_study(path), tmp_path / folder, lambda line: None)

    path = study_file()
    records = run(path)
    assert len(records) == 2 and len(extractions) == 1
    assert records[0]["num_examples"] == {"train": 6, "validation": 2, "test": 4}
    assert records[0]["metrics"]["test_accuracy"] == 1.0
    assert run(path) == records and len(extractions) == 1
    kept = read_json(tmp_path / "out" / "features.json")
    assert [each["settings"]["num_frames"] for each in kept.values()] == [4]
    # Another variant reads what is there.
    assert len(run(study_file(variants="{linear: {model: linear}, clcr: {}}"))) == 4 and len(extractions) == 1
    # The records are enough to go on elsewhere.
    (tmp_path / "other").mkdir()
    (tmp_path / "out" / "records.jsonl").rename(tmp_path / "other" / "records.jsonl")
    assert run(study_file(), "other") == records and len(extractions) == 1


def test_another_argument_clip_or_backbone_is_another_extraction(study_file, extractions, tmp_path):
    def run(path):
        return run_study(read_study(path), tmp_path / "out", lambda line: None)

    names = [each["name"] for each in run(study_file())]
    others = [each["name"] for each in run(study_file("num_frames: 2"))]
    assert len(extractions) == len(set(extractions)) == 2 and not set(names) & set(others)
    assert [each["name"] for each in run(study_file())] == names and len(extractions) == 2

    def key():
        return located(read_study(study_file()), tmp_path / "out").features.key

    first = key()
    os.utime(tmp_path / "clips" / "3.mp4", (0, 0))
    assert (
        key() == located(read_study(study_file("num_frames: 4, batch_size: 2")), tmp_path / "x").features.key == first
    )
    assert not (tmp_path / "x").exists()
    clip(tmp_path / "clips" / "3.mp4", 5)
    assert (second := key()) != first
    (tmp_path / "backbone" / "preprocessor_config.json").write_text("{}", encoding="utf-8")
    assert key() not in (first, second)


def test_folds_go_by_a_column_that_is_carried_over(study_file, extractions, tmp_path):
    path = study_file("num_frames: 2, keep_columns: [speaker]")
    with open(path, "a", encoding="utf-8") as file:
        file.write("folds: {column: speaker, number: 3}\n")
    records = run_study(read_study(path), tmp_path / "out", lambda line: None)
    assert [(each["fold"], each["num_examples"]["test"]) for each in records[:3]] == [(0, 4), (1, 4), (2, 4)]
    assert len(extractions) == 1


def test_ready_features_beside_the_clips_are_read_too(study_file, extractions, tmp_path):
    table = tmp_path / "clips" / "metadata.csv"
    head, *lines = table.read_text(encoding="utf-8").splitlines()
    cells = [f"{line},gaze{number % 2}.npy" for number, line in enumerate(lines)]
    table.write_text("\n".join([f"{head},gaze_features", *cells]) + "\n", encoding="utf-8")
    for number in range(2):
        np.save(tmp_path / "clips" / f"gaze{number}.npy", np.full((3, 2), number, dtype=np.float32))
    path = study_file(variants="{gaze: {model: linear, modalities: [gaze]}, both: {model: linear}}")
    records = run_study(read_study(path), tmp_path / "out", lambda line: None)
    assert len(extractions) == 1 and {each["metrics"]["test_accuracy"] for each in records} == {1.0}
    path.write_text(path.read_text(encoding="utf-8").replace("clips,", "clips/metadata.csv,"), encoding="utf-8")
    first = located(read_study(path), tmp_path / "out").features.key
    np.save(tmp_path / "clips" / "gaze1.npy", np.full((3, 2), 7, dtype=np.float32))
    assert located(read_study(path), tmp_path / "out").features.key != first


def test_an_extraction_that_failed_is_said_in_one_line(study_file, tmp_path):
    path = study_file()
    (tmp_path / "backbone" / "config.json").write_text("{", encoding="utf-8")
    with pytest.raises(ValueError, match="no features: ") as refused:
        run_study(read_study(path), tmp_path / "out", lambda line: None)
    assert "\n" not in str(refused.value) and not list(tmp_path.glob("out/runs/*"))


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ("features: {vision: v}", "need a source"),
        ("features: {source: clips}", "nothing to extract"),
        ("features: {source: clips, vison: v}", "did you mean vision"),
        ("features: {source: clips, vision: v, fps: 0}", "fps must be positive"),
        ("features: {source: clips, vision: v}\narguments: {data_file: a.csv}", "leave out data_file"),
    ],
)
def test_features_that_cannot_be_are_refused(tmp_path, given, said):
    path = tmp_path / "study.yaml"
    path.write_text(f"{given}\nvariants: {{a: {{}}}}\n", encoding="utf-8")
    with pytest.raises(ValueError, match="study.yaml") as refused:
        read_study(path)
    assert said in str(refused.value)
