"""Training on shards of `clcr convert` sees what training on the data set's own files sees, row by row."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from layouts.ave import make_ave, make_ave_h5
from layouts.cremad import make_cremad
from layouts.csd import make_csd
from layouts.kinetics_sounds import make_kinetics_sounds
from layouts.mmsa import make_mmsa
from layouts.ucf101 import make_ucf101

from clcr_hf.data.convert import convert
from clcr_hf.training.arguments import DataArguments, ModelArguments
from clcr_hf.training.build import build_processor
from clcr_hf.training.data import LoadedData, load_data
from clcr_hf.training.rows import prepare
from clcr_hf.training.run import choose_columns


@pytest.fixture(autouse=True)
def cache(tmp_path_factory, monkeypatch):
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path_factory.mktemp("cache"))


def make_table(root: Path) -> Path:
    """Clips of Kinetics-Sounds in a table; two rows are of one file, some have two labels, one has none."""
    folder = make_kinetics_sounds(root / "Bär und Bör", clips=6)
    files = sorted(folder.rglob("*.mp4"))
    lines = ["id,media,text,label,split"]
    for number, file in enumerate([*files, files[0]]):
        split = "test" if number in (4, 5) else "train"
        label = ("calm", "calm|loud", "")[number % 3]
        lines.append(f"clip {number},{file.relative_to(root)},said {number},{label},{split}")
    path = root / "clips.csv"
    path.write_text("\ufeff" + "\r\n".join(lines) + "\r\n", encoding="utf-8", newline="")
    return path


# Name: what makes the data, `--dataset`, options of the loader.
CASES = {
    "mmsa": (lambda root: make_mmsa(root, clips=(3, 2, 2)), "mmsa", {}),
    "mmsa unaligned": (lambda root: make_mmsa(root, clips=(3, 2, 2), unaligned=True), "mmsa", {}),
    "csd": (lambda root: make_csd(root, videos=(3, 1, 1)), "csd", {}),
    "csd emotions": (
        lambda root: make_csd(root, dataset="mosei", videos=(3, 1, 1)),
        "csd",
        {"labels": "emotion", "columns": {"audio": [1, 3, 6, 25, 60]}},
    ),
    "cremad": (lambda root: make_cremad(root, clips=12, videos=False), "cremad", {}),
    "cremad videos": (lambda root: make_cremad(root, clips=24, images=False), "cremad", {"split": "actors"}),
    "kinetics_sounds": (lambda root: make_kinetics_sounds(root, clips=12), "kinetics_sounds", {}),
    "ave clips": (lambda root: make_ave(root, clips=12), "ave", {"task": "clip"}),
    "ave segments": (lambda root: make_ave(root, clips=12, quirks=True), "ave", {"task": "segment"}),
    "ave_h5": (lambda root: make_ave_h5(root, clips=12), "ave_h5", {}),
    "ucf101": (lambda root: make_ucf101(root, classes=2, groups=3), "ucf101", {"fold": 2}),
    "manifest": (make_table, "manifest", {"label_separator": "|"}),
}
PAIRS = [(name, False) for name in CASES if name != "ave segments"]
PAIRS += [(name, True) for name in ("cremad", "cremad videos", "kinetics_sounds", "ave segments", "ucf101", "manifest")]


def load(dataset: str, source: Path, options: str = "") -> tuple[LoadedData, DataArguments]:
    place = {"data_file": str(source)} if source.is_file() else {"dataset_dir": str(source)}
    args = DataArguments(dataset=dataset, dataset_options=options, image_size=16, video_frames=2, **place)
    return load_data(args), args


def check_same_training(direct: tuple[LoadedData, DataArguments], shards: tuple[LoadedData, DataArguments]) -> None:
    model_args = ModelArguments(vocab_size=100)
    parts = []
    for data, args in (direct, shards):
        columns = choose_columns(model_args, data)
        processor = build_processor(model_args, args, data, columns)
        segments = data.num_segments if data.labels.per_segment else None
        parts.append((data.labels, segments, columns, prepare(data.splits, columns, args, processor)))
    (*expected, rows), (*found, converted) = parts
    assert found == expected
    assert {name: len(part) for name, part in converted.items()} == {name: len(part) for name, part in rows.items()}
    for split, part in rows.items():
        assert converted[split].rows["id"][:] == part.rows["id"][:]
        for index in range(len(part)):
            check_same_item(converted[split][index], part[index])


def check_same_item(found: dict, expected: dict) -> None:
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        if isinstance(value, torch.Tensor):
            torch.testing.assert_close(found[name], value, rtol=0, atol=0, equal_nan=True)
        else:
            np.testing.assert_array_equal(found[name], value)


@pytest.mark.parametrize(("name", "embed"), PAIRS)
def test_shards_train_like_their_source(tmp_path, name, embed):
    make, dataset, options = CASES[name]
    (tmp_path / "data").mkdir()
    source = make(tmp_path / "data")
    direct = load(dataset, source, json.dumps(options))
    convert(dataset, source, tmp_path / "shards", options=options, embed_media=embed, rows_per_shard=5)
    check_same_training(direct, load("shards", tmp_path / "shards"))
