"""`clcr study`: what a file states is run, once, compared, and told."""

import csv
import json
import logging
import os
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
import torch
from datasets import ClassLabel, Dataset, DatasetDict, Features, List, Value
from model_utils import batch, feature_config
from scipy import stats
from sklearn.discriminant_analysis import LinearDiscriminantAnalysis
from study_runs import run_here, study_file

from clcr_hf import CLCRConfig, CLCRForPreTraining
from clcr_hf.cli.app import main
from clcr_hf.data.errors import DataFormatError
from clcr_hf.data.labels import LabelKind
from clcr_hf.study import read_study, run_study, write_report
from clcr_hf.study.changes import Change, changed
from clcr_hf.study.fusions import FUSIONS, head_of
from clcr_hf.study.others import linear_answers
from clcr_hf.study.report import compare
from clcr_hf.training.data import LoadedData


@pytest.fixture
def in_process(monkeypatch):
    """Runs without a process each; counts them."""
    return run_here(monkeypatch)


def test_a_study_is_run_once_compared_and_told(tmp_path, in_process):
    path = study_file(
        tmp_path,
        """
seeds: [0, 1]
reference: logistic regression
variants:
  clcr: {}
  transformer: {model: transformer}
  logistic regression: {model: linear}
  summed LDA: {model: lda, join: late}
missing: {pose: [1.0]}
""",
    )
    study, said = read_study(path), []
    records = run_study(study, tmp_path / "out", said.append)
    assert len(records) == 4 * 2 * 2 == len(in_process) and any("more like it" in line for line in said)
    assert run_study(study, tmp_path / "out", said.append) == records and len(in_process) == 16
    metric, rows = compare(study, records)
    found = {(row.condition, row.variant): row for row in rows}
    assert metric == "accuracy" and len(found) == 8
    # `pose` alone tells nothing of what is left without it, and linear models have no seed.
    assert found["", "logistic regression"].mean > found["pose missing 1", "logistic regression"].mean
    assert found["", "logistic regression"].spread == 0 and found["", "logistic regression"].difference is None
    page = write_report(study, records, tmp_path / "out").read_text(encoding="utf-8")
    assert "## pose missing 1" in page and "| summed LDA | 2 |" in page
    with open(tmp_path / "out" / "report.csv", encoding="utf-8", newline="") as file:
        assert len(list(csv.DictReader(file))) == 8
    assert (tmp_path / "out" / "report.png").stat().st_size > 5000
    record = next(each for each in records if each["variant"] == "clcr")
    assert record["versions"]["torch"] and record["num_examples"]["test"] == 30
    # One file of records is enough to go on elsewhere.
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "out" / "records.jsonl").rename(tmp_path / "elsewhere" / "records.jsonl")
    assert run_study(study, tmp_path / "elsewhere", said.append) == records and len(in_process) == 16
    (tmp_path / "elsewhere" / "records.jsonl").write_text('{"metrics": {}}\n', encoding="utf-8")
    with pytest.raises(DataFormatError, match="records.jsonl: line 1 is no record"):
        run_study(study, tmp_path / "elsewhere", said.append)
    # Another setting is another run.
    path.write_text(path.read_text(encoding="utf-8").replace("hidden_size: 16", "hidden_size: 8"), encoding="utf-8")
    assert not {run.folder for run in read_study(path).runs({})} & set(in_process)


def test_candidates_are_chosen_inside_the_training_rows_of_each_fold(tmp_path, in_process):
    path = study_file(
        tmp_path,
        """
seeds: [3]
folds: {column: person, number: 2}
variants:
  linear: {model: linear}
  clcr: {candidates: {rash: {learning_rate: 30.0}, sound: {learning_rate: 0.003, num_train_epochs: 6}}}
""",
    )
    text = path.read_text(encoding="utf-8").replace("baselines: false", "dataset_options: 'keep_columns=[\"person\"]'")
    path.write_text(text, encoding="utf-8")
    study = read_study(path)
    records = run_study(study, tmp_path / "out", lambda line: None)
    choices = [json.loads(file.read_text()) for file in (tmp_path / "out" / "runs").glob("*/result.json")]
    choices = [each for each in choices if each["candidate"]]
    assert len(choices) == 4 and not any(name.startswith("test_") for each in choices for name in each["metrics"])
    assert len(records) == 4 and {each["fold"] for each in records} == {0, 1}
    assert all(each["num_examples"]["test"] == 45 for each in records)
    for each in records:
        if each["variant"] == "clcr":
            same_fold = [c for c in choices if c["fold"] == each["fold"]]
            measured = {c["arguments"]["learning_rate"]: c["metrics"]["eval_accuracy"] for c in same_fold}
            assert measured[each["arguments"]["learning_rate"]] == max(measured.values()) and len(measured) == 2


@pytest.mark.slow
def test_a_killed_study_goes_on_and_a_failed_run_is_named(tmp_path):
    path = study_file(tmp_path, "seeds: [0, 1, 2]\nvariants: {linear: {model: linear}}\n")
    command = [sys.executable, "-m", "clcr_hf.cli", "study", str(path), "--output-dir", str(tmp_path / "out")]
    first = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True)
    deadline = time.monotonic() + 600
    while not list((tmp_path / "out").glob("runs/*/result.json")) and time.monotonic() < deadline:
        time.sleep(0.05)
    os.killpg(first.pid, signal.SIGKILL)
    first.wait()
    done = {file: file.stat().st_mtime_ns for file in (tmp_path / "out").glob("runs/*/result.json")}
    assert 1 <= len(done) < 3
    again = subprocess.run(command, capture_output=True, text=True, timeout=600)
    assert again.returncode == 0 and f"{len(done)} of them done before" in again.stdout, again.stderr
    assert all(file.stat().st_mtime_ns == before for file, before in done.items())
    assert len(list((tmp_path / "out").glob("runs/*/result.json"))) == 3 and (tmp_path / "out/report.md").exists()
    broken = tmp_path / "broken.yaml"
    text = path.read_text(encoding="utf-8").replace("table.parquet", "absent.parquet")
    broken.write_text(text.replace("[0, 1, 2]", "[0]"), encoding="utf-8")
    failed = subprocess.run([*command[:4], str(broken), *command[5:]], capture_output=True, text=True, timeout=600)
    assert failed.returncode == 1 and "1 of 1 runs have no result" in failed.stderr and "absent" in failed.stderr
    assert len(failed.stderr.strip().splitlines()) == 1


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("variants: {}", "must name one or more"),
        ("variants: {a: {}}\nseed: [1]", "did you mean seeds"),
        ("variants: {a: {hiden_size: 3}}", "hiden_size"),
        ("variants: {a: {model: forest}}", "linear, lda, transformer"),
        ("variants: {a: {model: tcn, join: late}}", "say which with model"),
        ("variants: {a: {join: late}}", "say which with model"),
        ("variants: {a: {}}\nreference: b", "'b' is none of the variants"),
        ("variants: {a: {}}\nseeds: []", "seeds must be"),
        ("variants: {a: {}}\nfolds: {column: person}", "a number from 2"),
        ("variants: {a: {}}\nlabel_fractions: [0]", "above 0"),
        ("variants: {a: {}}\nnoise: [3]", "modalities with lists"),
        ("variants: {a: {}}\nworkers: 0", "workers"),
    ],
)
def test_a_file_that_cannot_be_is_refused_in_one_line(tmp_path, text, said):
    path = study_file(tmp_path, text)
    with pytest.raises(ValueError, match="study.yaml") as refused:
        read_study(path)
    assert said in str(refused.value) and "\n" not in str(refused.value)


def test_streamed_rows_are_not_changed(tmp_path):
    path = tmp_path / "study.yaml"
    text = (
        f"arguments: {{dataset: shards, dataset_dir: {tmp_path}, streaming: true}}\nvariants: {{a: {{}}}}\nseeds: [0]\n"
    )
    path.write_text(text, encoding="utf-8")
    assert len(read_study(path).runs({})) == 1
    for more in ("label_fractions: [0.5]", "folds: {column: person, number: 3}"):
        path.write_text(text + more, encoding="utf-8")
        with pytest.raises(ValueError, match="leave out --streaming"):
            read_study(path)


def test_the_plan_runs_nothing(tmp_path, capsys):
    path = study_file(tmp_path, "seeds: [0]\nvariants: {linear: {model: linear}, clcr: {}}\n")
    with pytest.raises(SystemExit) as left:
        main(["study", str(path), "--plan"])
    assert left.value.code == 0 and len(capsys.readouterr().out.split()) == 2
    assert {each.name for each in tmp_path.iterdir()} == {"study.yaml", "table.parquet"}


def _rows(count: int, seed: int = 0) -> Dataset:
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, 3, count)
    features = {"label": ClassLabel(names=["a", "b", "c"]), "who": Value("string")}
    features |= {"gaze_features": List(List(Value("float32")))}
    columns = {"gaze_features": [rng.normal(label, 1, (6, 2)).tolist() for label in labels], "label": labels.tolist()}
    return Dataset.from_dict({**columns, "who": [f"w{n % 7}" for n in range(count)]}, Features(features))


def test_changes_do_what_they_say():
    def data():
        return LoadedData(DatasetDict(train=_rows(210), test=_rows(70, 1)), "rows")

    fewer = changed(data(), Change("label_fractions", None, 0.1), None, None, 0).splits
    assert len(fewer["train"]) in range(20, 25) and set(fewer["train"]["label"]) == {0, 1, 2}
    assert len(fewer["test"]) == 70
    gone = changed(data(), Change("missing", "gaze", 0.5), None, None, 0).splits
    share = np.mean([value is None for value in gone["train"]["gaze_features"]])
    assert 0.4 < share < 0.6
    loud = changed(data(), Change("noise", "gaze", -20.0), None, None, 0).splits
    ratio = np.std(np.concatenate(loud["test"]["gaze_features"])) / np.std(
        np.concatenate(_rows(70, 1)["gaze_features"])
    )
    assert ratio == pytest.approx(10, rel=0.1)
    seen = []
    for fold in range(3):
        parts = changed(data(), Change(), fold, {"column": "who", "number": 3}, 0).splits
        people = [set(parts[name]["who"]) for name in ("train", "validation", "test")]
        assert not people[0] & people[1] and not people[2] & (people[0] | people[1])
        assert sum(map(len, parts.values())) == 280
        seen += list(people[2])
    assert sorted(seen) == [f"w{n}" for n in range(7)]
    with pytest.raises(ValueError, match="no column pose_features"):
        changed(data(), Change("missing", "pose", 0.5), None, None, 0)


class Mine(torch.nn.Module):
    """A user's own fusion."""

    def __init__(self, config):
        super().__init__()
        self.map = torch.nn.Linear(config.hidden_size, config.hidden_size)

    def forward(self, tokens, mask):
        return self.map(tokens)


@pytest.mark.parametrize("name", [*FUSIONS, "test_study:Mine"])
def test_another_fusion_reads_all_modalities_and_no_padding(name):
    config = feature_config(unimodal_evidence=False, lambda_intra=0.0, lambda_inter=0.0)
    torch.manual_seed(0)
    model = head_of(name)(config).eval()
    inputs = batch(text=False)
    inputs["audio_attention_mask"][0, 2:], inputs["vision_attention_mask"][1] = 0, 0
    logits = model(**inputs).logits
    other = {key: value.clone() for key, value in inputs.items()}
    other["audio_features"][0, 2:], other["vision_features"][1] = 7.0, 7.0
    torch.testing.assert_close(model(**other).logits, logits)
    for modality in ("audio", "vision"):
        moved = {**inputs, f"{modality}_features": inputs[f"{modality}_features"].square()}
        assert not torch.allclose(model(**moved).logits[2:], logits[2:])
    model.train()(**inputs).loss.backward()
    fusion = dict(model.clcr.fusion.named_parameters())
    assert fusion and all(each.grad is not None and each.grad.any() for each in fusion.values())
    names = [key for key, _ in model.named_parameters()]
    assert not any("exchange" in key or "aggregation" in key for key in names)


def test_of_layers_tapped_another_fusion_reads_all_levels():
    taps = {f"{name}_config": {"feature_size": 4, "source": "taps"} for name in ("vision", "audio")}
    config = CLCRConfig(text_config=None, **taps, hidden_size=16, num_labels=1, evidence="agreement")
    torch.manual_seed(0)
    model = head_of("transformer")(config).eval()
    inputs = {f"{name}_features": torch.randn(4, 3, 5, 4) for name in ("vision", "audio")}
    logits = model(**inputs).logits
    for level in range(3):
        changed = {**inputs, "audio_features": inputs["audio_features"].clone()}
        changed["audio_features"][:, level] = changed["audio_features"][:, level].square()
        assert not torch.allclose(model(**changed).logits, logits)


def test_another_fusion_has_the_alignment_stage():
    model = head_of("transformer")(feature_config(evidence="agreement")).train()
    inputs = batch(text=False)
    assert {"task", "alignment"} <= model(**inputs).loss_components.keys()
    CLCRForPreTraining.around(model)(**inputs).loss.backward()
    assert model.clcr.to_shared.grad.any()
    with pytest.raises(ValueError, match="alignment_coef"):
        CLCRForPreTraining.around(head_of("transformer")(feature_config()).train())(**inputs)


def test_the_seed_may_stand_in_an_argument(tmp_path):
    path = tmp_path / "study.yaml"
    path.write_text("arguments: {data_file: 'worlds/{seed}.csv'}\nvariants: {a: {}}\nseeds: [3, 5]\n", encoding="utf-8")
    found = [(run.seed, run.arguments["data_file"]) for run in read_study(path).runs({})]
    assert found == [(3, "worlds/3.csv"), (5, "worlds/5.csv")]


def test_fusions_that_are_none():
    for name in ("forest", "no_such_module:X", "test_study:Absent"):
        with pytest.raises(ValueError, match=name.partition(":")[0]):
            head_of(name)


def test_lda_is_that_of_scikit_learn():
    labels = LabelKind("single_label_classification", ["a", "b", "c"], False)
    splits = {"train": _rows(150), "test": _rows(60, 1)}
    found = linear_answers("lda", "joint", splits, {"gaze": "gaze_features"}, labels)["test"]
    vectors = {}
    for name, rows in splits.items():
        steps = np.array(rows["gaze_features"])
        vectors[name] = np.concatenate((steps.mean(1), steps.std(1), steps.max(1)), axis=1)
    answers = []
    for shrinkage in (0.01, 0.03, 0.1, 0.3, 0.5, 0.7, 0.9):
        model = LinearDiscriminantAnalysis(solver="lsqr", shrinkage=shrinkage)
        scale = vectors["train"].mean(0), vectors["train"].std(0)
        model.fit((vectors["train"] - scale[0]) / scale[1], splits["train"]["label"])
        answers.append(model.decision_function((vectors["test"] - scale[0]) / scale[1]))
    own = found.predictions - found.predictions.mean(1, keepdims=True)
    gaps = [np.abs(own - (each - each.mean(1, keepdims=True))).max() for each in answers]
    assert min(gaps) < 1e-3
    with pytest.raises(ValueError, match="tell classes"):
        linear_answers("lda", "joint", splits, {"gaze": "gaze_features"}, LabelKind("regression", None, False))


def test_intervals_are_corrected_for_comparisons_and_for_overlapping_folds(tmp_path):
    path = study_file(tmp_path, "seeds: [0, 1, 2]\nvariants: {a: {}, b: {}, c: {}}\n")
    study, values = read_study(path), {"a": [0.5, 0.6, 0.7], "b": [0.6, 0.75, 0.75], "c": [0.5, 0.6, 0.7]}

    def record(variant, seed, fold=None):
        change = {"kind": "", "modality": None, "value": 0.0}
        sizes = {"train": 80, "test": 20}
        metrics = {"test_accuracy": values[variant][seed]}
        own = {"variant": variant, "seed": seed, "fold": fold, "change": change, "num_examples": sizes}
        return {**own, "metrics": metrics, "metric": "accuracy", "seconds": 1.0, "versions": {}}

    records = [record(variant, seed) for variant in values for seed in range(3)]
    rows = {row.variant: row for row in compare(study, records)[1]}
    gaps = np.array([0.1, 0.15, 0.05])
    expected = stats.t.ppf(1 - 0.05 / 2 / 2, 2) * gaps.std(ddof=1) / np.sqrt(3)
    assert rows["b"].difference == pytest.approx(0.1) and rows["b"].margin == pytest.approx(expected)
    assert rows["c"].difference == 0 and np.isnan(rows["c"].margin)  # all alike: that says nothing of chance
    path = study_file(tmp_path, "seeds: [0, 1, 2]\nfolds: {column: p, number: 2}\nvariants: {a: {}, b: {}, c: {}}\n")
    folded = compare(read_study(path), [record(v, s, 0) for v in values for s in range(3)])[1]
    wider = {row.variant: row for row in folded}["b"].margin
    assert wider == pytest.approx(expected * np.sqrt((1 / 3 + 20 / 80) * 3))


@pytest.fixture(autouse=True)
def quiet():
    logging.getLogger("clcr_hf.data").setLevel(logging.ERROR)
    yield
    logging.getLogger("clcr_hf.data").setLevel(logging.NOTSET)
