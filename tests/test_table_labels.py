"""Labels of a table, cell by cell: what is a number, a class, missing, or refused; alike in every format."""

import csv
import json
import logging
from pathlib import Path
from typing import Any

import openpyxl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from datasets import ClassLabel, List, Value
from hypothesis import given, settings
from hypothesis import strategies as st

from clcr_hf.data import load_manifest, open_manifest
from clcr_hf.data.columns import DataFormatError
from clcr_hf.data.table.labels import LabelScan
from clcr_hf.data.table.values import class_word, is_almost_number, parse_list, parse_number


def scan(cells: list[Any], task: str = "auto", **options: Any):
    """What the cells are, and each as it is read."""
    looked = LabelScan("t", options.get("label_names"), task, options.get("separator"), options.get("missing", "error"))
    for number, cell in enumerate(cells, 1):
        looked.add(cell, f"row {number}")
    found = looked.finish()
    return found, [found.read(cell) for cell in cells]


def write(path: Path, table: list[dict[str, Any]]) -> Path:
    """A table in the format of its suffix."""
    if path.suffix == ".jsonl":
        path.write_text("".join(json.dumps(row) + "\n" for row in table))
    elif path.suffix == ".parquet":
        pq.write_table(pa.Table.from_pylist(table), path)
    elif path.suffix == ".xlsx":
        book = openpyxl.Workbook()
        for row in (list(table[0]), *(list(row.values()) for row in table)):
            book.active.append(row)
        book.save(path)
    else:
        with open(path, "w", newline="") as file:
            writer = csv.DictWriter(file, list(table[0]))
            writer.writeheader()
            writer.writerows(table)
    return path


def table_of(labels: list[Any], **more: list[Any]) -> list[dict[str, Any]]:
    return [
        {"text": f"line {i}", "label": label, **{name: cells[i] for name, cells in more.items()}}
        for i, label in enumerate(labels)
    ]


# -- one cell ---------------------------------------------------------------------------------------------------------


@settings(max_examples=300, deadline=None)
@given(st.floats(allow_nan=False, allow_infinity=False) | st.integers(-(2**53), 2**53))
def test_every_printed_number_parses_to_itself(number):
    for text in (repr(number), f" {number!r}\t", repr(number).replace("-", "\N{MINUS SIGN}")):
        assert parse_number(text) == number and not is_almost_number(text)
    assert parse_number(number) == number


@settings(max_examples=300, deadline=None)
@given(st.decimals(allow_nan=False, allow_infinity=False, places=3, min_value=-(10**6), max_value=10**6))
def test_numbers_of_one_value_are_one_class(number):
    words = {class_word(str(number)), class_word(f"{number:f}0"), class_word(f" {number:f} ")}
    assert len(words) == 1 and float(words.pop()) == float(number)


@settings(max_examples=300, deadline=None)
@given(st.text(max_size=12))
def test_text_is_a_number_only_where_python_and_a_spreadsheet_agree(text):
    number = parse_number(text)
    if number is not None:
        assert number == float(text.strip().replace("\N{MINUS SIGN}", "-")) and "_" not in text and "," not in text
        assert not is_almost_number(text)


@pytest.mark.parametrize("text", ["1_2", "nan", "1-2", "2020-01-01", "a1", "e5", "0x10", "", "1 + 2"])
def test_no_number_and_not_meant_for_one(text):
    assert parse_number(text) is None and not is_almost_number(text)


@pytest.mark.parametrize("text", ["1,5", "-0,5", "\N{EN DASH}1", "1.234,5", "50%", "1 000", "inf", "1e999", "١", "'3'"])
def test_meant_for_a_number(text):
    assert parse_number(text) is None and is_almost_number(text)


def test_lists_in_cells():
    assert parse_list("[1, 0]", "x") == [1, 0] and parse_list("['a', \"b\"]", "x") == ["a", "b"]
    assert parse_list("[true, false]", "x") == [True, False] and parse_list("a, b", "x") is None
    for text in ("[1. 0.]", "[a]", "[" * 5000 + "]" * 5000, "[__import__('os')]"):
        with pytest.raises(DataFormatError, match="row 2: .* is no list that can be read.*label_separator"):
            parse_list(text, "row 2")


# -- columns of labels ------------------------------------------------------------------------------------------------

numbers = st.floats(-100, 100).map(lambda x: str(round(x, 2)))
names = st.text("abcdefgh ", min_size=1, max_size=6).filter(str.strip)


@settings(max_examples=200, deadline=None)
@given(st.lists(numbers, min_size=1, max_size=8), names, st.integers(0, 7))
def test_one_odd_cell_never_turns_scores_into_classes(cells, odd, place):
    found, read = scan(cells)
    assert found.task == "regression" and read == pytest.approx([float(cell) for cell in cells])
    cells.insert(place, odd)
    with pytest.raises(DataFormatError, match=r"some labels are numbers .*row \d+"):
        scan(cells)


@settings(max_examples=200, deadline=None)
@given(st.lists(names, min_size=2, max_size=8), numbers, st.integers(0, 7))
def test_one_odd_cell_never_turns_classes_into_scores(cells, odd, place):
    found, read = scan(cells)
    assert found.task == "classification" and found.names == tuple(sorted({cell.strip() for cell in cells}))
    assert [found.names[number] for number in read] == [cell.strip() for cell in cells]
    cells.insert(place, odd)
    with pytest.raises(DataFormatError, match=r"some labels are numbers .*row \d+"):
        scan(cells)
    assert len(scan(cells, task="classification")[0].names) == len({cell.strip() for cell in cells})


@pytest.mark.parametrize(
    ("cells", "options", "task", "read"),
    [
        (["1.5", "2.0", "\N{MINUS SIGN}0.5", " 0.25 "], {}, "regression", [1.5, 2.0, -0.5, 0.25]),
        (["happy", "happy ", "sad"], {}, "classification", [0, 0, 1]),
        (["3", "3.0", "1"], {"task": "classification"}, "classification", [1, 1, 0]),
        (["01", "1"], {"task": "classification"}, "classification", [0, 1]),
        (["1_2", "1_3", "2_1"], {}, "classification", [0, 1, 2]),
        (["[1, 0, 1]", "[0, 1, 1]"], {}, "multi_label", [[1, 0, 1], [0, 1, 1]]),
        (["[0.5, -2]", "[1, 3]"], {"task": "regression"}, "regression", [[0.5, -2], [1, 3]]),
        (["None", "none"], {"missing": "keep"}, "classification", [None, 0]),
        (["NA", "x"], {"label_names": ["NA", "x"]}, "classification", [0, 1]),
        ([[2, None], [0, 5]], {}, "segments", [[1, -100], [0, 2]]),
    ],
)
def test_right_values(cells, options, task, read):
    found, values = scan(cells, **options)
    assert found.task == task and values == read


@pytest.mark.parametrize(
    ("cells", "options", "message"),
    [
        (["1,5", "-0,5"], {}, "2 labels are almost numbers .first: row 1: '1,5'.*label_separator"),
        (["1.0", "0,5"], {}, "almost numbers .first: row 2: '0,5'"),
        (["happy", "nan", "sad"], {}, "1 rows have no label .first: row 2: 'nan'.*missing_labels='drop'"),
        (["1.5", True], {"task": "regression"}, "1 labels are not finite numbers .first: row 2: True"),
        (["1", "2"], {"label_names": ["a", "a "]}, "holds a name twice"),
        (["a", "c"], {"label_names": ["a", "b"]}, "row 2: label 'c' is none of the classes a, b"),
        (["[1, 0]", "[1]"], {"task": "multi_label"}, "labels have .1, 2. numbers .first 2 in row 1, 1 in row 2"),
        ([["a", None]], {}, "a list of classes has an empty place .row 1"),
        ([[1.5, -2.0]], {}, "must lie in .0, 1. .row 1: 1.5.; for scores say task='regression'"),
        (["1e39"], {}, "almost numbers"),
    ],
)
def test_refused_with_its_row(cells, options, message):
    with pytest.raises(DataFormatError, match=message):
        scan(cells, **options)


@pytest.mark.parametrize("suffix", [".csv", ".jsonl", ".parquet", ".xlsx"])
def test_every_format_reads_alike(tmp_path, suffix, caplog):
    def load(labels: list[Any], **options: Any):
        path = write(tmp_path / f"m{suffix}", table_of(labels))
        return load_manifest(path, validation_fraction=0, **options)["train"]

    yes = load([True, False, True])
    assert yes.features["label"] == ClassLabel(names=["False", "True"]) and yes["label"][:] == [1, 0, 1]
    assert load([3.0, 1.0, 3.0], task="classification").features["label"].names == ["1", "3"]
    with caplog.at_level(logging.WARNING, "clcr_hf.data"):
        kept = load(["a", None, "b", "n/a"], missing_labels="drop")
    assert kept["text"][:] == ["line 0", "line 2"] and "2 rows have no label (first: row 2)" in caplog.text
    with pytest.raises(DataFormatError, match="2 rows have no label"):
        load(["a", None, "b", "n/a"])
    assert load(["a", None, "b"], require_label=False)["label"][:] == [0, None, 1]
    with pytest.raises(DataFormatError, match="missing_labels='skip'"):
        load(["a"], missing_labels="skip")


def test_nan_and_none_are_never_words(tmp_path, caplog):
    path = tmp_path / "m.jsonl"
    path.write_text('{"text": NaN, "label": 1}\n{"text": "  ", "label": 2}\n{"text": "nan", "label": NaN}\n')
    with caplog.at_level(logging.WARNING, "clcr_hf.data"):
        data = load_manifest(path, validation_fraction=0, missing_labels="drop", require_label=True)["train"]
    assert not any(data["text"][:]) and len(data) == 2
    path.write_text('{"text": "nan", "label": 1}\n{"text": "so", "label": 2}\n')
    with caplog.at_level(logging.WARNING, "clcr_hf.data"):
        load_manifest(path, validation_fraction=0)
    assert "1 transcripts say nothing but 'nan'" in caplog.text


def test_several_scores_in_columns_or_lists(tmp_path):
    ratings = {"calm": [1, 5, 2.5], "warm": [0.5, 2, 3]}
    path = write(tmp_path / "m.csv", table_of(["x"] * 3, **ratings))
    data = load_manifest(path, validation_fraction=0, label_columns=["calm", "warm"])["train"]
    assert data.features["label"] == List(Value("float32"), length=2)
    assert data["label"][:] == [[1, 0.5], [5, 2], [2.5, 3]]
    assert open_manifest(path, label_columns=["calm", "warm"]).label_names == ("calm", "warm")
    with pytest.raises(DataFormatError, match="no column 'cold'"):
        load_manifest(path, label_columns=["calm", "cold"])
    with pytest.raises(DataFormatError, match="row 1: 'x' is neither"):
        load_manifest(path, label_columns=["calm", "label"])
    path = write(tmp_path / "b.csv", table_of(["x"] * 2, a=[0, 1], b=[1, 1]))
    with pytest.raises(DataFormatError, match="say task='multi_label'"):
        load_manifest(path, label_columns=["a", "b"])
    flags = load_manifest(path, label_columns=["a", "b"], task="multi_label", validation_fraction=0)["train"]
    assert flags["label"][:] == [[0, 1], [1, 1]]
    path = write(tmp_path / "c.csv", table_of(["x"] * 2, a=[0.5, ""], b=[1, 1]))
    with pytest.raises(DataFormatError, match="1 rows have no label .first: row 2"):
        load_manifest(path, label_columns=["a", "b"])
    left = load_manifest(path, label_columns=["a", "b"], missing_labels="drop", validation_fraction=0)["train"]
    assert left["label"][:] == [[0.5, 1]]


# -- columns ----------------------------------------------------------------------------------------------------------


def test_a_column_without_a_name_is_nobodys(tmp_path, caplog):
    """pandas writes its index so."""
    (tmp_path / "a.csv").write_text(",text,label\n0,fine day,1.0\n1,bad day,-1.0\n2,so so,0.0\n")
    with caplog.at_level(logging.WARNING, "clcr_hf.data"):
        data = load_manifest(tmp_path / "a.csv", validation_fraction=0)
    assert data["train"]["label"][:] == [1.0, -1.0, 0.0] and "not used: (no name)" in caplog.text
    assert data["train"]["id"][:] == ["row#1", "row#2", "row#3"]  # nor their ids
    (tmp_path / "b.csv").write_text(",text,label\ntrain,fine day,1.0\ntrain,bad day,-1.0\ntest,so so,0.0\n")
    assert {name: len(part) for name, part in load_manifest(tmp_path / "b.csv", validation_fraction=0).items()} == {
        "train": 3
    }


def test_columns_that_are_not_used_are_named_once(tmp_path, caplog):
    path = write(tmp_path / "m.csv", table_of([1, 2], mood=["a", "b"], kept=["c", "d"], score=[3, 4]))
    with caplog.at_level(logging.WARNING, "clcr_hf.data"):
        for _ in range(2):
            load_manifest(path, validation_fraction=0, keep_columns=["kept"])
    said = [line for line in caplog.messages if "not used" in line]
    assert said == [f"{path}: columns that are not used: mood, score"]


def test_cells_that_name_features_are_features(tmp_path):
    import numpy as np

    for i in range(2):
        np.save(tmp_path / f"{i}.npy", np.full((3, 2), i, np.float32))
    table = [{"text": f"{i}.npy", "vision": f"{i}.npy", "audio": f"{i}.npy", "label": i} for i in range(2)]
    data = load_manifest(write(tmp_path / "m.csv", table), validation_fraction=0)["train"]
    assert set(data.column_names) == {"id", "label", "text_features", "vision_features", "audio_features"}
    assert data[1]["text_features"] == [[1, 1]] * 3
    table[0]["text"] = "hello there"
    with pytest.raises(DataFormatError, match=r"row 2, text: '1.npy' names features"):
        load_manifest(write(tmp_path / "m.csv", table))
    both = [{"audio": "0.npy", "audio_features": "0.npy", "label": 1}]
    with pytest.raises(DataFormatError, match="'audio' and 'audio_features' both name features"):
        load_manifest(write(tmp_path / "m.csv", both))


def test_workbooks(tmp_path):
    path = write(tmp_path / "m.xlsx", table_of([0.5, 2]))
    assert load_manifest(tmp_path, validation_fraction=0)["train"]["label"][:] == [0.5, 2.0]
    book = openpyxl.load_workbook(path)
    book.create_sheet("more").append(["a"])
    book.save(path)
    with pytest.raises(DataFormatError, match="several sheets hold cells .'Sheet', 'more'.; keep one"):
        load_manifest(path)
    path.write_bytes(b"PK no workbook")
    with pytest.raises(DataFormatError, match="not an .xlsx workbook"):
        load_manifest(path)
