"""Work is bounded by what it costs: strangers' inputs, tables of many columns, files that declare more than they hold,
configurations that cannot be built. Frames: tests/test_media_limits.py."""

import base64
import csv
import json
import subprocess
import sys
import zipfile
from pathlib import Path

import h5py
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from huggingface_hub.errors import StrictDataclassError
from model_utils import save_clip_model, write_clip
from scipy.io import savemat
from transformers import pipeline

from clcr_hf import CLCRConfig, CLCRFeatureExtractor, CLCRProcessor
from clcr_hf.data.columns import DataFormatError
from clcr_hf.data.feature_arrays import read_feature_file
from clcr_hf.data.untrusted.arrays import UnsafeFileError, open_h5, read_h5
from clcr_hf.demo.reading import read_clip
from clcr_hf.hub.handler import EndpointHandler
from clcr_hf.limits import MAX_NUMBERS, MAX_STEPS, MAX_TEXT, MAX_WINDOWS, VideoLimits
from clcr_hf.media_windows import window_spans
from clcr_hf.remote_code import remote_code_files

# --- strangers -------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def model(tmp_path_factory) -> str:
    return save_clip_model(tmp_path_factory.mktemp("model"))


@pytest.fixture(scope="module")
def doors(model):
    """What a stranger's input may reach, by name: each takes an input of the pipeline."""
    pipe, handler = pipeline("multimodal-sentiment", model=model, device="cpu"), EndpointHandler(path=model)
    return {
        "pipeline": lambda value: pipe(value, local_files=False),
        "handler": lambda value: handler({"inputs": value}),
        "handler, a list": lambda value: handler({"inputs": ["fine", value]}),
    }


def deep(depth: int):
    value: list = [1.0]
    for _ in range(depth):
        value = [value]
    return value


LONG = "a" * (MAX_TEXT + 1)
TOO_MUCH = {
    "a text": ({"text": LONG}, f"text has {MAX_TEXT + 1} characters; at most {MAX_TEXT} are read"),
    "a bare string": (LONG, f"text has {MAX_TEXT + 1} characters; at most {MAX_TEXT} are read"),
    "a bare string of many words": ("a day " * MAX_TEXT, "characters; at most"),
    "steps": ({"vision_features": [[0.5]] * (MAX_STEPS + 1)}, f"vision_features has {MAX_STEPS + 1} steps; at most"),
    "steps of levels": ({"audio_features": [[[0.5]] * (MAX_STEPS + 1)] * 3}, "audio_features has .* steps; at most"),
    "numbers": ({"vision_features": [[0.5] * 1000] * (MAX_NUMBERS // 1000 + 1)}, "vision_features holds more than"),
    "one long row": ({"vision_features": [0.5] * (MAX_NUMBERS + 1)}, f"more than {MAX_NUMBERS} numbers"),
    "lists in lists": ({"vision_features": deep(50)}, "vision_features has lists nested deeper than 8"),
    "lists beyond recursion": ({"vision_features": deep(100_000)}, "vision_features has lists nested deeper than 8"),
}


@pytest.mark.parametrize("door", ["pipeline", "handler", "handler, a list"])
@pytest.mark.parametrize("kind", TOO_MUCH)
def test_strangers_are_bounded_alike_at_each_door(doors, door, kind):
    value, message = TOO_MUCH[kind]
    with pytest.raises(ValueError, match=message) as error:
        doors[door](value)
    assert "\n" not in str(error.value) and len(str(error.value)) < 300


@pytest.mark.parametrize("door", ["pipeline", "handler"])
def test_what_is_large_and_within_the_limits_is_read(doors, door):
    assert "score" in doors[door]({"text": "a day " * (MAX_TEXT // 6)}) and "score" in doors[door]("a" * MAX_TEXT)


def test_a_sound_in_numbers_is_bounded(doors):
    with pytest.raises(ValueError, match=f"audio holds more than {MAX_NUMBERS} numbers"):
        doors["pipeline"]({"audio": [0.0] * (MAX_NUMBERS + 1)})
    with pytest.raises(ValueError, match=f"audio holds more than {MAX_NUMBERS} numbers"):
        doors["pipeline"]({"audio": {"array": [0.0] * (MAX_NUMBERS + 1), "sampling_rate": 16_000}})


def test_an_array_is_bounded_by_its_bytes(model):
    pipe = pipeline("multimodal-sentiment", model=model, device="cpu")
    frames = np.zeros((4, 64, 64, 3), np.uint8)
    assert "score" in pipe({"video": frames}, local_files=False, max_bytes=frames.nbytes)
    for key, value in (("video", frames), ("images", list(frames)), ("vision_features", frames[0].astype(np.float64))):
        with pytest.raises(ValueError, match=rf"{key} has \d+ bytes; at most 49000 are read"):
            pipe({key: value}, local_files=False, max_bytes=49_000)


def test_many_unknown_keys_make_no_long_answer(doors):
    for door in ("pipeline", "handler"):
        with pytest.raises(ValueError, match="unknown") as error:
            doors[door]({f"{'k' * 1000}{number}": 1 for number in range(10_000)})
        assert len(str(error.value)) < 600


def test_the_demo_checks_on_its_own_side(model, tmp_path, monkeypatch):
    pipe = pipeline("multimodal-sentiment", model=model, device="cpu")
    with pytest.raises(ValueError, match=f"the transcript has {MAX_TEXT + 1} characters; at most {MAX_TEXT}"):
        read_clip(pipe, text=LONG)
    clip = write_clip(tmp_path / "a.mp4")
    assert read_clip(pipe, clip).result["score"] is not None
    monkeypatch.setattr("clcr_hf.demo.reading.STRANGERS", VideoLimits(100, 10**9))
    with pytest.raises(ValueError, match=r"a.mp4 claims frames of .* more than 100 pixels"):
        read_clip(pipe, clip)


@pytest.mark.parametrize("limits", [VideoLimits(100, 10**9), VideoLimits(10**6, 5000)])
def test_strangers_videos_have_limits_of_their_own(doors, tmp_path, monkeypatch, limits):
    clip = Path(write_clip(tmp_path / "a.mp4")).read_bytes()
    monkeypatch.setattr("clcr_hf.pipeline_inputs.STRANGERS", limits)
    for door in ("pipeline", "handler"):
        media = base64.b64encode(clip).decode() if door == "handler" else clip
        with pytest.raises(ValueError, match="more than 100 pixels|to decode, more than 5e.03 pixels"):
            doors[door]({"media": media})


def test_the_limits_travel_with_a_published_model():
    assert "limits.py" in {path.name for path in remote_code_files()}


def test_windows_are_counted_before_they_are_made():
    with pytest.raises(ValueError, match=f"more than {MAX_WINDOWS} "):
        window_spans(600.0, 1.0, 1e-9)
    assert len(window_spans(600.0, 1.0, 0.5)) > 1000


# --- tables ----------------------------------------------------------------------------------------------------------

READ = """
import sys
from clcr_hf.data import load_manifest
rows = load_manifest(sys.argv[1], validation_fraction=0)["train"]
print(len(rows), len(rows.column_names))
"""


def write_wide(path: Path, names: list[str], cell: object) -> Path:
    """A table of three rows with a text, a label and these columns."""
    rows = [{"text": "a", "label": str(0.5 + row), **dict.fromkeys(names, cell)} for row in range(3)]
    if path.suffix == ".parquet":
        pq.write_table(pa.Table.from_pylist(rows), path)
    elif path.suffix == ".jsonl":
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    else:
        with open(path, "w", newline="") as file:
            writer = csv.DictWriter(file, list(rows[0]), delimiter="\t" if path.suffix == ".tsv" else ",")
            writer.writeheader()
            writer.writerows(rows)
    return path


def read_in_a_child(path: Path) -> tuple[str, str]:
    """What a process of its own says; time that grows with the square of the columns would be hours."""
    done = subprocess.run([sys.executable, "-c", READ, str(path)], capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr[-2000:]
    return done.stdout.strip(), done.stderr


@pytest.mark.parametrize("suffix", [".csv", ".tsv", ".jsonl", ".parquet"])
def test_a_table_of_many_columns(suffix, tmp_path):
    count = 100_000 if suffix == ".parquet" else 500_000
    found, told = read_in_a_child(write_wide(tmp_path / f"wide{suffix}", [f"c{k}" for k in range(count)], "x"))
    assert found == "3 3" and f"and {count - 50} more" in told and len(told) < 10_000


def test_a_table_of_many_features(tmp_path):
    np.save(tmp_path / "a.npy", np.ones((2, 1), np.float32))
    names = [f"m{k}_features" for k in range(5000)]
    assert read_in_a_child(write_wide(tmp_path / "wide.csv", names, "a.npy"))[0] == "3 5003"


def test_many_columns_of_one_name_make_one_short_line(tmp_path):
    path = tmp_path / "twice.csv"
    path.write_text(",".join(f"c{k % 50_000}" for k in range(100_000)) + "\n")
    with pytest.raises(DataFormatError, match=r"two columns are called 'c0', .*, \.\.\.$"):
        from clcr_hf.data import load_manifest

        load_manifest(path)


# --- files that declare more than they hold --------------------------------------------------------------------------


def test_hdf5_that_stores_nothing_of_what_it_declares(tmp_path):
    path = tmp_path / "empty.h5"
    with h5py.File(path, "w") as file:
        file.create_dataset("whole", shape=(2**30,), dtype="f4")
        file.create_dataset("chunks", shape=(2**30,), dtype="f4", chunks=(2**10,))
        file.create_dataset("small", shape=(2**10,), dtype="f4")
        for number in range(20):
            file.create_dataset(f"many/{number}", shape=(2**24,), dtype="f4")
    assert path.stat().st_size < 100_000
    with open_h5(path) as file:
        for name in ("whole", "chunks", *(f"many/{number}" for number in range(20))):
            with pytest.raises(UnsafeFileError, match=rf"{name} declares .* bytes, of which the file stores 0"):
                read_h5(file[name])
            with pytest.raises(UnsafeFileError, match=f"{name} declares"):
                read_h5(file[name], rows=slice(0, 10))
        assert read_h5(file["small"]).sum() == 0


def test_hdf5_that_unpacks_to_what_fills_the_memory(tmp_path):
    path = tmp_path / "packed.h5"
    with h5py.File(path, "w") as file:
        data = file.create_dataset("a", shape=(2**27,), dtype="f4", chunks=(2**20,), compression="gzip")
        for start in range(0, 2**27, 2**20):
            data[start : start + 2**20] = np.zeros(2**20, np.float32)
    assert path.stat().st_size < 2**29 / 100
    with open_h5(path) as file, pytest.raises(UnsafeFileError, match="unpack to .* made to fill the memory"):
        read_h5(file["a"])
    with open_h5(path) as file:
        assert len(read_h5(file["a"], rows=slice(0, 100))) == 100


def test_matlab_that_unpacks_to_what_fills_the_memory(tmp_path):
    savemat(tmp_path / "packed.mat", {"a": np.zeros((6000, 6000))}, do_compression=True)
    with pytest.raises(DataFormatError, match="made to fill the memory"):
        read_feature_file(tmp_path / "packed.mat", "a")


def test_tensors_that_are_larger_than_their_file(tmp_path):
    torch.save(torch.zeros(1).expand(2**28), tmp_path / "expanded.pt")
    torch.save(torch.zeros(2**26 + 2**20), tmp_path / "stored.pt")
    with zipfile.ZipFile(tmp_path / "stored.pt") as plain, zipfile.ZipFile(tmp_path / "packed.pt", "w") as packed:
        for entry in plain.infolist():
            packed.writestr(entry.filename, plain.read(entry), zipfile.ZIP_DEFLATED)
    for name in ("expanded.pt", "packed.pt"):
        assert (tmp_path / name).stat().st_size < 2**20
        with pytest.raises(UnsafeFileError, match="made to fill the memory"):
            read_feature_file(tmp_path / name, "x_features")
    assert len(read_feature_file(tmp_path / "stored.pt", "x_features")) == 2**26 + 2**20


# --- configurations --------------------------------------------------------------------------------------------------

BILLION = 10**9
FEATURES = {"feature_size": 4}
BERT = {"model_type": "bert"}
CANNOT_BE_BUILT = [
    {"num_levels": 10**6},
    *({name: BILLION} for name in ("hidden_size", "num_attention_heads", "shared_rank", "private_rank")),
    *({name: BILLION} for name in ("num_segments", "alignment_negatives", "num_labels")),
    {"id2label": {number: str(number) for number in range(10**6)}},
    *({"vision_config": {**FEATURES, name: BILLION + 1}} for name in ("feature_size", "token_grid", "tcn_channels")),
    *({"vision_config": {**FEATURES, name: BILLION + 1}} for name in ("tcn_kernel_size", "tcn_stride")),
    {"vision_config": {**FEATURES, "tcn_dilations": [[BILLION]] * 3}},
    {"vision_config": {**FEATURES, "tcn_dilations": [[1] * 10**5] * 3}},
    {"vision_config": {**FEATURES, "taps": list(range(10**5))}},
    *(
        {"text_config": {"source": "taps", "backbone_config": {**BERT, name: BILLION}}}
        for name in ("hidden_size", "num_hidden_layers", "num_attention_heads", "vocab_size", "intermediate_size")
    ),
    {"vision_config": {"backbone_config": {"model_type": "resnet", "depths": [BILLION], "hidden_sizes": [4]}}},
    {"extra_configs": {f"m{number}": FEATURES for number in range(1000)}},
]


@pytest.mark.parametrize("fields", CANNOT_BE_BUILT, ids=lambda fields: str(fields)[:60])
def test_a_configuration_that_cannot_be_built_is_refused_at_once(fields):
    with pytest.raises((ValueError, StrictDataclassError), match="at most|must not exceed") as error:
        CLCRConfig(**fields)
    assert len(str(error.value)) < 400


@pytest.mark.parametrize("fields", [{"n_fft": BILLION}, {"sampling_rate": BILLION}, {"duration": 1e9}])
def test_spectrograms_that_cannot_be_made_are_refused(fields):
    with pytest.raises(ValueError, match="at most|is more than"):
        CLCRFeatureExtractor(**fields)


def test_flow_of_a_size_that_cannot_be_is_refused():
    with pytest.raises(ValueError, match="up to 16384"):
        CLCRProcessor(flow_size=BILLION)
