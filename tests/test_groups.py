"""Metrics per group: scikit-learn's of the group's rows, whatever the labels, and told where they belong."""

import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch.distributed as dist
from datasets import ClassLabel, Dataset, Features, List, Value
from sklearn.metrics import accuracy_score, f1_score, mean_absolute_error
from transformers.trainer_utils import EvalPrediction

from clcr_hf.cli.app import main as command
from clcr_hf.data import as_dialogues
from clcr_hf.data.convert import convert
from clcr_hf.data.named import typed_rows
from clcr_hf.hub.card import write_model_card
from clcr_hf.training import main
from clcr_hf.training.arguments import DataArguments, parse_args
from clcr_hf.training.data import load_data
from clcr_hf.training.groups import NOT_SAID, by_group, check_groups, groups_of, told
from clcr_hf.training.pretraining import run_pretraining
from clcr_hf.training.run import evaluate_model, evaluation_data, metrics_function

QUICK = [
    *("--num_train_epochs", "1", "--hidden_size", "16", "--config_overrides", "num_attention_heads=2"),
    *("--baselines", "False", "--linear_evidence", "False", "--calibrate", "False", "--disable_tqdm", "True"),
    *("--use_cpu", "--report_to", "none", "--per_device_eval_batch_size", "8"),
]
PEOPLE = ("ann", "bob", "cy", "dot", None)
TASKS = {"several": "multi_label", "segments": "segments"}


def make_table(path: Path, kind: str = "classes", rows: int = 140) -> Path:
    """People in turn; of `cy` few rows are test. Rows 0 to 69 are train, 70 to 89 validation."""
    rng = np.random.default_rng(0)
    classes = rng.integers(0, 3, rows)
    gaze = [rng.normal(label, 2, (4, 3)).astype(np.float32) for label in classes]
    labels = {
        "classes": [("low", "middle", "high")[label] for label in classes],
        "scores": [float(label) + 0.5 for label in classes],
        "several": [[int(label > 0), int(label > 1)] for label in classes],
        "segments": [[("low", "middle", "high")[(label + step) % 3] for step in range(4)] for label in classes],
    }[kind]
    people = [PEOPLE[number % 5] if number % 5 != 2 or number % 3 == 0 else "ann" for number in range(rows)]
    columns = {
        "gaze_features": pa.array([list(each) for each in gaze]),
        "label": labels,
        "speaker": people,
        "score": [float(value) for value in rng.normal(size=rows)],
        "split": ["train" if n < 70 else "validation" if n < 90 else "test" for n in range(rows)],
    }
    pq.write_table(pa.table(columns), path)
    return path


def by_hand(groups, wanted, measure, true, answered):
    inside = np.array([each == wanted for each in groups])
    return measure(np.asarray(true)[inside], np.asarray(answered)[inside])


@pytest.mark.parametrize("kind", ["classes", "scores", "several", "segments"])
def test_a_run_and_evaluate_give_them_of_all_kinds_of_labels(tmp_path, monkeypatch, capsys, kind):
    table, folder = make_table(tmp_path / "clips.parquet", kind), tmp_path / "run"
    words = ["--data_file", str(table), "--label_column", "label", "--metrics_by", "speaker"]
    words += ["--dataset_options", f"task={TASKS[kind]}"] if kind in TASKS else []
    words += ["--batch_eval_metrics", "True"] if kind == "classes" else []
    kept = {}
    monkeypatch.setattr(
        "clcr_hf.training.groups.by_group",
        lambda measure, answers, groups, metric: (
            kept.update(answers=answers) or by_group(measure, answers, groups, metric)
        ),
    )
    metrics = main([*words, *QUICK, "--output_dir", str(folder)])
    run, said = json.loads((folder / "run.json").read_text()), capsys.readouterr().out
    assert set(run["groups"]) == {"validation", "test"}
    found = run["groups"]["test"]["speaker"]
    groups, answers = found["groups"], kept["answers"]
    speakers = pq.read_table(table)["speaker"].to_pylist()[90:]
    assert set(groups) == {"ann", "bob", "cy", "dot", NOT_SAID}
    for name, each in groups.items():
        rows = speakers.count(None if name == NOT_SAID else name)
        assert each["rows"] == rows and each["labels"] == rows * (4 if kind == "segments" else 1)
        assert each["few"] == (each["labels"] < 10)
    main_metric, measure = {
        "classes": ("accuracy", accuracy_score),
        "scores": ("mae", mean_absolute_error),
        "several": ("macro_f1", lambda true, given: f1_score(true, given, average="macro", zero_division=0)),
        "segments": ("segment_accuracy", lambda true, given: accuracy_score(true.ravel(), given.ravel())),
    }[kind]
    logits, true = np.squeeze(answers.predictions), answers.label_ids
    answered = {"scores": logits, "several": (logits > 0).astype(int)}.get(kind, logits.argmax(-1))
    for name, each in groups.items():
        own = by_hand([speaker or NOT_SAID for speaker in speakers], name, measure, true, answered)
        assert each["metrics"][main_metric] == pytest.approx(own), name
    assert metrics[f"test_{main_metric}"] == pytest.approx(measure(true, answered))
    large = {name: each["metrics"][main_metric] for name, each in groups.items() if not each["few"]}
    spread, worse = found["spread"][main_metric], max if kind == "scores" else min
    assert large[spread["worst"]] == spread["worst_value"] == worse(large.values())
    assert spread["gap"] == pytest.approx(max(large.values()) - min(large.values()))
    shown = said.partition("test by speaker")[2]
    assert "gap" in shown and ("cy *" in shown) == (kind != "segments")
    card = (folder / "README.md").read_text()
    assert "\nBy speaker, " in card and f"is worst for {found['spread'][found['metric']]['worst']}" in card
    assert f"| {NOT_SAID} |" in card and "By label" not in card
    # Measured again they are the same, and in JSON.
    again = evaluate_model(str(folder), evaluation_data(str(folder), []), batch_size=7)
    for name, each in again["groups"]["speaker"]["groups"].items():
        assert each["metrics"] == pytest.approx(groups[name]["metrics"], abs=1e-6)


def test_evaluate_prints_a_table_and_json(tmp_path, capsys):
    table, folder = make_table(tmp_path / "clips.parquet"), tmp_path / "run"
    main(["--data_file", str(table), "--label_column", "label", *QUICK, "--output_dir", str(folder)])
    assert "groups" not in json.loads((folder / "run.json").read_text())
    capsys.readouterr()
    words = ["evaluate", "--model", str(folder), "--metrics_by", "speaker"]
    for more in ([], ["--json"]):
        with pytest.raises(SystemExit) as left:
            command([*words, *more])
        assert left.value.code == 0
    text, _, found = capsys.readouterr().out.partition("\n{")
    assert "test by speaker" in text and "gap" in text and "(not said)" in text
    assert set(json.loads("{" + found)["groups"]) == {"speaker"}
    # Whatever groups are called, they fit on the card.
    run = json.loads((folder / "run.json").read_text())
    group = {"rows": 12, "labels": 12, "few": False, "metrics": {"accuracy": 0.5}}
    names = ["Undefined", "{{ x }}|<b>\n"]
    spread = {"worst": names[0], "worst_value": 0.5, "best": names[1], "best_value": 0.5, "gap": 0.0}
    made = {"metric": "accuracy", "few": 10, "groups": dict.fromkeys(names, group), "spread": {"accuracy": spread}}
    (folder / "run.json").write_text(json.dumps({**run, "groups": {"test": {"who": made}}}))
    card = write_model_card(folder).read_text()
    assert "| undefined | 12 | 0.5000 |\n| (( x ))/(b) | 12 | 0.5000 |" in card
    # Other data are not asked for the groups of those that it learned from.
    other = pq.read_table(table).drop_columns(["speaker"])
    pq.write_table(other, tmp_path / "other.parquet")
    run["data_arguments"]["metrics_by"] = ["speaker"]
    (folder / "run.json").write_text(json.dumps(run))
    assert evaluation_data(str(folder), []).metrics_by == ["speaker"]
    assert "groups" not in evaluate_model(
        str(folder), evaluation_data(str(folder), ["--data_file", str(tmp_path / "other.parquet")])
    )


@pytest.mark.parametrize(
    ("column", "said"),
    [
        ("speeker", "did you mean speaker"),
        ("label", "no group"),
        ("score", "it has 120 values in test, more than 100"),
    ],
)
def test_columns_that_cannot_be_are_refused_before_work(tmp_path, column, said):
    table = make_table(tmp_path / "clips.parquet", rows=210)
    with pytest.raises(ValueError) as refused:
        main(
            [
                "--data_file",
                str(table),
                "--label_column",
                "label",
                "--metrics_by",
                column,
                *QUICK,
                "--output_dir",
                str(tmp_path / "run"),
            ]
        )
    assert said in str(refused.value) and "\n" not in str(refused.value)
    assert not list((tmp_path / "run").glob("*.json"))


def test_a_column_of_rows_that_no_loader_picks_is_named_too():
    rows = Dataset.from_dict({"id": ["a", "b"], "language": ["en", "de"]})
    check_groups({"test": rows}, ["language"], ["validation", "test"])
    with pytest.raises(ValueError, match="did you mean language"):
        check_groups({"test": rows}, ["langauge"], ["validation", "test"])
    listed = Dataset.from_dict({"label": [0, 1], "speaker": [["x", "y"], ["z"]]})
    with pytest.raises(ValueError, match="not a label for each item"):
        check_groups({"test": listed}, ["speaker"], ["test"])


def test_the_alignment_stage_has_nothing_to_measure(tmp_path):
    words = ["--data_file", str(make_table(tmp_path / "clips.parquet")), "--metrics_by", "speaker"]
    with pytest.raises(ValueError, match="measures nothing"):
        run_pretraining(*parse_args([*words, *QUICK, "--output_dir", str(tmp_path / "run")]))


def test_groups_go_by_the_words_of_people():
    types = {
        "kind": ClassLabel(names=["x", "y"]),
        "age": Value("float64"),
        "old": Value("bool"),
        "who": Value("string"),
    }
    columns = {
        "kind": [0, 1, -1],
        "age": [3.0, None, float("nan")],
        "old": [True, False, None],
        "who": ["a ", "", None],
    }
    rows = Dataset.from_dict(columns, Features(types))
    assert groups_of(rows, "kind") == ["x", "y", NOT_SAID]
    assert groups_of(rows, "age") == ["3", NOT_SAID, NOT_SAID]
    assert groups_of(rows, "old") == ["True", "False", NOT_SAID]
    assert groups_of(rows, "who") == ["a", NOT_SAID, NOT_SAID]


def test_turns_of_a_dialogue_have_a_speaker_each():
    """Utterances that no speaker said, that have no label, and rows of several lengths."""
    rng, turns = np.random.default_rng(1), [3, 5, 4]
    speakers = [[("ann", "bob", "")[int(rng.integers(3))] for _ in range(count)] for count in turns]
    labels = np.full((3, 5), -100)
    for row, count in enumerate(turns):
        labels[row, :count] = rng.integers(0, 3, count)
    labels[1, 2] = -100
    logits = rng.normal(size=(3, 5, 3)).astype(np.float32)
    types = Features({"speaker": List(Value("string"))})
    groups = groups_of(Dataset.from_dict({"speaker": speakers}, types), "speaker")
    measure = metrics_function("single_label_classification", True)
    found = by_group(measure, EvalPrediction(logits, labels), groups, "segment_accuracy")["groups"]
    assert sum(each["labels"] for each in found.values()) == sum(turns) - 1
    for name, each in found.items():
        places = [
            (row, at)
            for row, count in enumerate(turns)
            for at in range(count)
            if (speakers[row][at] or NOT_SAID) == name and labels[row, at] >= 0
        ]
        true, given = zip(*((labels[place], logits[place].argmax()) for place in places), strict=True)
        assert each["labels"] == len(places) and each["metrics"]["segment_accuracy"] == accuracy_score(true, given)
        assert each["metrics"]["segment_macro_f1"] == pytest.approx(f1_score(true, given, average="macro"))
    types = {"id": Value("string"), "dialogue": Value("string"), "speaker": Value("string")}
    types |= {"label": ClassLabel(names=["a", "b"]), "gaze_features": List(List(Value("float32"), length=2))}
    rows = {"id": list("pqr"), "dialogue": list("xyx"), "speaker": ["ann", None, "bob"], "label": [0, 1, 1]}
    rows["gaze_features"] = [[[0.0, 1.0]]] * 3
    talks = as_dialogues(
        {"test": Dataset.from_dict(rows, Features(types))}, dialogue_column="dialogue", keep_columns=["speaker"]
    )
    assert talks["test"]["speaker"][:] == [["ann", "bob"], [None]]
    check_groups(talks, ["speaker"], ["test"])
    with pytest.raises(ValueError, match="no column 'speeker'"):
        as_dialogues(
            {"test": Dataset.from_dict(rows, Features(types))}, dialogue_column="dialogue", keep_columns=["speeker"]
        )


def test_without_two_large_groups_none_is_the_worst():
    measure = metrics_function("single_label_classification", False)
    answers = EvalPrediction(np.eye(2, dtype=np.float32)[[0, 1] * 8], np.array([0, 1] * 7 + [1, 0]))
    found = by_group(measure, answers, ["a"] * 12 + ["b"] * 4, "accuracy")
    assert found["groups"]["a"]["metrics"]["accuracy"] == 1 and found["groups"]["b"]["few"]
    assert list(found["groups"]) == ["b", "a"] and found["spread"] == {}
    assert "no worst group" in told({"who": found}, "test")


def test_sets_by_name_keep_the_column_and_tables_need_not_be_told_twice(tmp_path):
    rows = Dataset.from_dict({"text": list("abcd"), "label": [0, 1, 0, 1], "dialect": list("xyxy")})
    found = typed_rows({"train": rows, "test": rows}, keep_columns=["dialect"], task="classification").load()
    assert found["test"]["dialect"][:] == list("xyxy")
    table = make_table(tmp_path / "clips.parquet")
    for more in (None, 'keep_columns=["score"]', 'keep_columns=["speaker"]'):
        given = DataArguments(data_file=str(table), label_column="label", metrics_by=["speaker"], dataset_options=more)
        splits = load_data(given).splits
        assert "speaker" in splits["test"].column_names
        assert ("score" in splits["test"].column_names) == ("score" in (more or ""))


@pytest.mark.slow
def test_streamed_rows_are_measured_in_their_order(tmp_path):
    table, folder = make_table(tmp_path / "clips.parquet"), tmp_path / "run"
    options = {"keep_columns": ["speaker"], "label_column": "label"}
    convert("manifest", table, tmp_path / "shards", options=options)
    words = ["--dataset", "shards", "--dataset_dir", str(tmp_path / "shards"), "--metrics_by", "speaker"]
    found = {}
    for streaming in ("False", "True"):
        main([*words, *QUICK, "--streaming", streaming, "--max_steps", "1", "--output_dir", str(folder)])
        data = evaluation_data(str(folder), [])
        assert data.streaming == (streaming == "True")
        found[streaming] = json.loads((folder / "run.json").read_text())["groups"]["test"]["speaker"]
        again = evaluate_model(str(folder), data)["groups"]["speaker"]
        data.streaming = streaming == "False"
        other = evaluate_model(str(folder), data)["groups"]["speaker"]
        assert again == other
    sizes = [{name: each["rows"] for name, each in sorted(part["groups"].items())} for part in found.values()]
    assert sizes[0] == sizes[1]


@pytest.mark.slow
@pytest.mark.skipif(not dist.is_gloo_available(), reason="wants gloo")
def test_two_processes_measure_the_same(tmp_path, forge):
    """49 test rows over two processes in batches of 8: the last batch is one row, and nobody counts twice."""
    words = ["--data_file", str(make_table(tmp_path / "clips.parquet", rows=139)), "--label_column", "label"]
    words += ["--metrics_by", "speaker", "--learning_rate", "0", "--max_steps", "1", *QUICK]
    found = []
    for ranks in (1, 2):
        folder = tmp_path / f"run{ranks}"
        codes, said = forge(*words, "--output_dir", str(folder), ranks=ranks)
        assert set(codes) == {0} and said.count("test by speaker") == 1, said
        found.append(json.loads((folder / "run.json").read_text())["groups"]["test"]["speaker"]["groups"])
    assert sum(each["rows"] for each in found[1].values()) == 49
    for name, each in found[0].items():
        assert found[1][name]["rows"] == each["rows"]
        assert found[1][name]["metrics"] == pytest.approx(each["metrics"], abs=1e-4)
