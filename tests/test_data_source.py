"""The one registry of sources: what is recognised, which options are taken, and that a new one is a file and a line."""

import json
import sys
import types
from pathlib import Path

import numpy as np
import pytest
from datasets import ClassLabel, Features, Value
from layouts.ave import make_ave, make_ave_h5
from layouts.cremad import make_cremad
from layouts.csd import make_csd
from layouts.kinetics_sounds import make_kinetics_sounds
from layouts.meld import make_meld
from layouts.mmsa import make_mmsa
from layouts.sims2 import make_sims2
from layouts.ucf101 import make_ucf101

import clcr_hf.data as loaders
from clcr_hf.data import registry
from clcr_hf.data.columns import DataFormatError
from clcr_hf.data.convert import convert
from clcr_hf.data.shards import load_shards
from clcr_hf.data.source import Rows, Source, find_source, recognise
from clcr_hf.extract.sources import open_source
from clcr_hf.training.arguments import DataArguments, parse_args
from clcr_hf.training.data import load_data, recorded_arguments
from clcr_hf.training.run import evaluation_data

MAKERS = {
    "ave": lambda root: make_ave(root, clips=6),
    "ave_h5": lambda root: make_ave_h5(root, clips=6),
    "cremad": lambda root: make_cremad(root, clips=12),
    "csd": make_csd,
    "kinetics_sounds": lambda root: make_kinetics_sounds(root, clips=6),
    "meld": make_meld,
    "mmsa": make_mmsa,
    "sims2": make_sims2,
    "ucf101": lambda root: make_ucf101(root, classes=2, groups=3),
}


@pytest.fixture(autouse=True)
def cache(tmp_path_factory, monkeypatch):
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path_factory.mktemp("cache"))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("home")))


def write_table(folder: Path, name: str = "clips.csv") -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    lines = [f"some words {i},{'ab'[i % 2]},{('train', 'valid', 'test')[i % 3]}" for i in range(9)]
    (folder / name).write_text("\n".join(["text,label,split", *lines]) + "\n")
    return folder / name


# -- what is there --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", MAKERS)
def test_layouts_are_recognised_where_that_is_certain(tmp_path, name):
    place = MAKERS[name](tmp_path / "data")
    assert recognise(place) == (None if name == "kinetics_sounds" else name)


def test_tables_and_shards_are_recognised(tmp_path):
    table = write_table(tmp_path / "a")
    write_table(tmp_path / "b", "metadata.csv")
    convert("manifest", table, tmp_path / "shards")
    assert recognise(table) == recognise(tmp_path / "b") == "manifest"
    assert recognise(tmp_path / "shards") == "shards"
    assert recognise(tmp_path / "a") is None and recognise(tmp_path / "absent") is None
    (tmp_path / "shards" / "one.csd").write_bytes(b"")
    with pytest.raises(DataFormatError, match="may be shards or csd"):
        recognise(tmp_path / "shards")


@pytest.mark.parametrize("name", registry.SOURCE_NAMES)
def test_every_source_says_what_it_is(name):
    source = find_source(name)
    assert source.name == name and source.about and "\n" not in source.about
    if registry.HOMES[name].startswith("benchmarks."):
        assert callable(getattr(loaders, f"load_{name}")) and f"load_{name}" in loaders.__all__
        page = {"mmsa": "mosi", "csd": "mosi", "ave_h5": "ave"}.get(name, name)
        assert name == "utterances" or (Path(__file__).parents[1] / "docs" / "benchmarks" / f"{page}.md").is_file()


# -- options --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("cremad", {"folds": 1}, "cremad has no option 'folds'; it takes .*train_list"),
        ("cremad", {"skip_missing": "yes"}, "skip_missing='yes', but skip_missing is bool"),
        ("cremad", {"fps": True}, "fps is int"),
        ("ucf101", {"fold": "2"}, "fold is int"),
        ("mmsa", {"label_range": 3}, "label_range=3"),
        ("csd", {"columns": {"audio": ["one"]}}, None),
        ("kinetics_sounds", {"label_names": "a,b"}, "label_names='a,b'"),
    ],
)
def test_options_that_there_are_not_or_of_another_type(name, options, message):
    source = find_source(name)
    if message is None:
        return source.check(options)
    with pytest.raises(DataFormatError, match=message):
        source.check(options)


def test_options_that_fit():
    find_source("mmsa").check({"label_range": [-1, 1], "modalities": ["text"], "max_bytes": 10})
    find_source("mmsa").check({"label_range": None})
    find_source("cremad").check({"train_list": Path("a.csv"), "validation_fraction": 0, "split": "actors"})
    find_source("csd").check({"folds": {"train": ["a"]}, "files": {"labels": "x.csd"}})


# -- a new one ------------------------------------------------------------------------------------------------------


class _Numbers:
    features = Features({"id": Value("string"), "text": Value("string"), "label": ClassLabel(names=["odd", "even"])})
    total = 9

    def __init__(self, start: int):
        self.start = start

    def __iter__(self):
        for i in range(self.start, self.start + self.total):
            row = {"id": str(i), "text": f"number {i}", "label": (i + 1) % 2}
            yield ("train", "validation", "test")[i % 3], row


def test_a_new_benchmark_is_one_file_and_one_line(tmp_path, monkeypatch):
    module = types.ModuleType("clcr_hf.data.benchmarks.numbers")

    def read(root, *, start: int = 0):
        return _Numbers(start)

    module.SOURCE = Source(title="Numbers from {start}", about="numbers", read=read)
    monkeypatch.setitem(sys.modules, module.__name__, module)
    monkeypatch.setitem(registry.HOMES, "numbers", "benchmarks.numbers")
    data = load_data(DataArguments(dataset="numbers", dataset_dir=str(tmp_path), dataset_options="start=3"))
    assert data.title == "Numbers from 3" and data.labels.names == ["odd", "even"]
    assert data.splits["train"]["text"][:] == ["number 3", "number 6", "number 9"]
    record = convert("numbers", tmp_path, tmp_path / "out", options={"start": 3})
    assert record["rows"] == {"train": 3, "validation": 3, "test": 3}
    assert load_shards(tmp_path / "out")["test"].to_dict() == data.splits["test"].to_dict()
    clips = open_source(tmp_path, dataset="numbers", dataset_options={"start": 3})
    assert clips.total == 9 and [clip.text for clip in clips][:2] == ["number 3", "number 4"]


def test_rows_in_memory_are_the_rows_of_the_stream(tmp_path):
    for name in ("csd", "mmsa", "ave_h5"):
        rows = find_source(name).open(MAKERS[name](tmp_path / name))
        loaded = rows.load()
        seen = dict.fromkeys(loaded, 0)
        for split, row in rows:
            found = loaded[split].with_format("numpy")[seen[split]]
            seen[split] += 1
            for column, value in row.items():
                if value is None:
                    assert found[column] is None
                else:
                    np.testing.assert_array_equal(np.asarray(found[column]), np.asarray(value))
        assert seen == {split: len(part) for split, part in loaded.items()}


def test_a_row_that_does_not_fit_is_named():
    rows = [("train", {"id": str(i), "text": "words", "label": i}) for i in range(2)]
    for wrong, message in (
        ({"id": "7", "text": "words", "label": "none"}, "row '7' of train: column 'label'"),
        ({"id": "7", "text": "words"}, "lacks or adds the columns label"),
        ({"id": "7", "text": "words", "label": 1, "more": 1}, "lacks or adds the columns more"),
        ({"id": "", "text": "words", "label": 1}, "ids are non-empty strings"),
    ):
        with pytest.raises(DataFormatError, match=message):
            Rows(_Numbers.features, lambda wrong=wrong: iter([*rows, ("train", wrong)])).load()


def test_rows_of_nothing():
    with pytest.raises(DataFormatError, match="no rows"):
        Rows(_Numbers.features, lambda: iter(())).load()


# -- the arguments of a run -----------------------------------------------------------------------------------------


def test_the_kind_of_data_is_found(tmp_path):
    table = write_table(tmp_path / "a")
    assert DataArguments().dataset == "talking_faces"
    assert DataArguments(data_file=str(table)).dataset == "manifest"
    assert DataArguments(data_file="clips.unknown").dataset == "manifest"
    assert DataArguments(data_file=str(make_mmsa(tmp_path / "m"))).dataset == "mmsa"
    assert DataArguments(dataset_dir=str(make_csd(tmp_path / "c"))).dataset == "csd"
    convert("manifest", table, tmp_path / "shards")
    assert DataArguments(dataset_dir=str(tmp_path / "shards")).dataset == "shards"
    assert DataArguments(dataset_dir=str(tmp_path / "to be made")).dataset == "talking_faces"
    with pytest.raises(ValueError, match="not certain; say it with --dataset"):
        DataArguments(dataset_dir=str(tmp_path / "a"))


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"dataset": "cremad", "dataset_dir": "x", "text_column": "t"}, "cremad does not use --text_column"),
        ({"dataset": "csd", "dataset_dir": "x", "validation_fraction": 0.2}, "csd does not use --validation_fraction"),
        ({"dataset": "mmsa", "data_file": "x", "corpus_seed": 1, "standardise": False}, "--corpus_seed, --standardise"),
        ({"dataset": "ucf101", "data_file": "x"}, "does not use --data_file"),
        ({"dataset": "manifest", "data_file": "x", "dataset_dir": "y"}, "not both"),
        ({"dataset": "cremadd", "dataset_dir": "x"}, "'cremadd' is none of"),
        ({"dataset": "sims2"}, "sims2 needs --dataset_dir"),
    ],
)
def test_arguments_that_the_data_do_not_use(given, message):
    with pytest.raises(ValueError, match=message):
        DataArguments(**given)


def test_an_argument_and_an_option_that_say_two_things(tmp_path):
    args = DataArguments(
        dataset="ucf101", dataset_dir=str(tmp_path), validation_fraction=0.2, dataset_options="validation_fraction=0.3"
    )
    with pytest.raises(ValueError, match="say two things"):
        load_data(args)


def test_names_of_labels_that_the_data_do_not_have(tmp_path):
    with pytest.raises(ValueError, match="--class_names names several labels"):
        load_data(DataArguments(data_file=str(write_table(tmp_path)), class_names=["x", "y"]))


def test_defaults_of_a_script_stay_with_its_data_set(tmp_path):
    """As examples/run_emotion.py has them."""
    own = {"dataset": "cremad", "audio_preset": "cremad", "output_dir": "runs/cremad"}
    _, data, training = parse_args(["--dataset_dir", "CREMA-D", "--use_cpu"], **own)
    assert (data.dataset, data.audio_preset, training.output_dir) == ("cremad", "cremad", "runs/cremad")
    table = str(write_table(tmp_path))
    for words in (["--dataset", "manifest", "--data_file", table], ["--data_file", table]):
        _, data, training = parse_args([*words, "--use_cpu"], **own)
        assert (data.dataset, data.audio_preset, training.output_dir) == ("manifest", None, "runs/manifest")
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text("dataset: meld\naudio_preset: ave\n")
    _, data, training = parse_args([str(recipe), "--dataset-dir", "MELD", "--use_cpu"], **own)
    assert (data.dataset, data.audio_preset, training.output_dir) == ("meld", "ave", "runs/meld")
    _, data, training = parse_args([str(recipe), "--dataset_dir", "x", "--output_dir", "here", "--use_cpu"], **own)
    assert training.output_dir == "here"


# -- found again from anywhere --------------------------------------------------------------------------------------


def save_run(folder: Path, **arguments) -> str:
    folder.mkdir(exist_ok=True)
    (folder / "run.json").write_text(json.dumps({"data_arguments": arguments, "metrics": {}}))
    return str(folder)


def test_paths_of_a_run_are_found_from_another_folder(tmp_path, monkeypatch):
    write_table(tmp_path)
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path)
    args = DataArguments(data_file="clips.csv", flow_cache_dir="flow")
    run = save_run(tmp_path / "run", **recorded_arguments(args))
    expected = load_data(args).splits
    monkeypatch.chdir(tmp_path / "elsewhere")
    found = evaluation_data(run, [])
    assert found.flow_cache_dir == str(tmp_path / "flow")
    assert load_data(found).splits["test"].to_dict() == expected["test"].to_dict()


def test_paths_in_the_options_are_kept_whole_too(tmp_path, monkeypatch):
    root = make_cremad(tmp_path / "data", clips=12)
    (tmp_path / "mine.csv").write_text((root / "train.csv").read_text())
    monkeypatch.chdir(tmp_path)
    options = "train_list=mine.csv,split=lists,validation_fraction=0"
    args = DataArguments(dataset="cremad", dataset_dir="data", dataset_options=options)
    kept = recorded_arguments(args)
    assert json.loads(kept["dataset_options"])["train_list"] == str(tmp_path / "mine.csv")
    assert kept["dataset_dir"] == str(tmp_path / "data")
    monkeypatch.chdir("/")
    found = load_data(evaluation_data(save_run(tmp_path / "run", **kept), []))
    assert set(found.splits) == {"train"}


def test_clips_are_not_generated_unasked(tmp_path):
    gone = {"dataset": "talking_faces", "dataset_dir": str(tmp_path / "gone"), "num_train_clips": 8}
    with pytest.raises(ValueError, match="gone.* are not there; say where"):
        evaluation_data(save_run(tmp_path / "run", **gone), [])
    (tmp_path / "gone").mkdir()  # emptied
    with pytest.raises(ValueError, match="are not there"):
        evaluation_data(save_run(tmp_path / "run", **gone), [])
    old = {"dataset": "talking_faces", "dataset_dir": None, "num_train_clips": 8}
    with pytest.raises(ValueError, match="talking_faces-v1-0-8.* are not there"):
        evaluation_data(save_run(tmp_path / "run", **old), [])
    (tmp_path / "bare").mkdir()
    with pytest.raises(ValueError, match="does not say which data"):
        evaluation_data(str(tmp_path / "bare"), [])
    assert not list((tmp_path / "gone").iterdir())


def test_other_data_than_a_models_own(tmp_path):
    own = {"dataset": "talking_faces", "dataset_dir": str(tmp_path / "gone"), "num_train_clips": 8, "video_frames": 4}
    run = save_run(tmp_path / "run", **own)
    table = str(write_table(tmp_path))
    found = evaluation_data(run, ["--data_file", table])
    assert (found.dataset, found.data_file, found.num_train_clips) == ("manifest", table, 1000)
    assert evaluation_data(run, ["--dataset", "talking_faces", "--dataset_dir", "new"]).video_frames == 4
    unused = save_run(tmp_path / "run", dataset="manifest", data_file=table, num_train_clips=8)
    assert evaluation_data(unused, []).dataset == "manifest"  # as version 0.1 recorded it
