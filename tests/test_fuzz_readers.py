"""Readers of strangers' files on any bytes, and on whole files of which some bytes were changed: each answers, or says
in one typed line why not."""

import io
import json
import pickle
from functools import partial
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from bad_inputs.case import Case, verdict
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.numpy import save

from clcr_hf.data import DataFormatError, load_npz_safely, load_pickle_safely
from clcr_hf.data.feature_arrays import read_feature_file
from clcr_hf.data.table.read import Table, read_rows
from clcr_hf.media import load_flow
from clcr_hf.predict.subtitles import read_subtitles
from clcr_hf.training.arguments import read_recipe

ARRAY = np.arange(6, dtype=np.float32).reshape(3, 2)


def saved(write) -> bytes:
    target = io.BytesIO()
    write(target)
    return target.getvalue()


def rows(path: Path) -> list:
    return [len(row) for row in read_rows(Table(path))]


def features(path: Path) -> tuple:
    return read_feature_file(path, "features").shape


FLOW = {"flow": np.ones((2, 3, 4, 2), np.float16), "timestamps": np.array([0.0, 0.5])}
TABLE = pa.table({"id": ["a", "b"], "text": ["a day", "b"], "label": [0.5, 1.0]})
READERS = {
    "f.npy": (features, saved(lambda file: np.save(file, ARRAY))),
    "f.npz": (features, saved(lambda file: np.savez(file, features=ARRAY))),
    "f.pt": (features, saved(lambda file: torch.save(torch.ones(2, 2), file))),
    "f.safetensors": (features, save({"features": ARRAY})),
    "f.csv": (features, b"a,b\n1.5,2.5\n3.5,4.5\n"),
    "a.npz": (lambda path: len(load_npz_safely(path)), saved(lambda file: np.savez(file, a=ARRAY))),
    "flow.npz": (lambda path: load_flow(path).shape, saved(lambda file: np.savez(file, **FLOW))),
    "a.pkl": (lambda path: type(load_pickle_safely(path)).__name__, pickle.dumps({"a": ARRAY, "b": ["x", 1]})),
    "t.csv": (rows, b'id,text,label\na,"b, c",1\nd,e,0\n'),
    "t.jsonl": (rows, b'{"id": "a", "label": 1}\n{"id": "b", "label": [1, 2]}\n'),
    "t.parquet": (rows, saved(lambda file: pq.write_table(TABLE, file))),
    "s.srt": (lambda path: len(read_subtitles(path)[0]), b"1\n00:00:00,000 --> 00:00:01,000\na lovely day\n"),
    "s.json": (
        lambda path: len(read_subtitles(path)[0]),
        json.dumps({"words": ["a"], "word_intervals": [[0, 1]]}).encode(),
    ),
    "r.yaml": (lambda path: len(read_recipe(str(path))), b"seed: 1\nmodalities: [text, audio]\n"),
}
changes = st.lists(st.tuples(st.integers(0, 10**6), st.binary(max_size=6)), min_size=1, max_size=4)
some = partial(settings, deadline=None, suppress_health_check=list(HealthCheck))


def check(name: str, folder: Path, content: bytes) -> None:
    path = folder / name
    path.write_bytes(content)
    held, kind, message = verdict(Case(name, partial(READERS[name][0], path), may=True))
    assert held, f"{kind}: {message}"


@pytest.mark.parametrize("name", READERS)
@some(max_examples=40)
@given(content=st.binary(max_size=300))
def test_any_bytes(name, tmp_path, content):
    check(name, tmp_path, content)


@pytest.mark.parametrize("name", READERS)
@some(max_examples=60)
@given(changed=changes)
def test_a_whole_file_changed(name, tmp_path, changed):
    content = READERS[name][1]
    for place, new in changed:
        place %= len(content) + 1
        content = content[:place] + new + content[place + len(new) :]
    check(name, tmp_path, content)


def test_an_archive_that_names_a_second_disk(tmp_path):
    """Python's `zipfile.is_zipfile` raises there."""
    content = READERS["f.pt"][1]
    place = content.rindex(b"PK\x06\x07") + 4  # where the end of a large archive is looked for: the number of its disk
    check("f.pt", tmp_path, content[:place] + b"\x01" + content[place + 1 :])


def test_a_name_in_an_archive_that_is_no_utf_8(tmp_path):
    """Found by tests/fuzz_readers.py."""
    content = READERS["f.npz"][1].replace(b"features.npy", b"features\xa4npy")
    flags = content.rindex(b"PK\x01\x02") + 9
    check("f.npz", tmp_path, content[:flags] + b"\x08" + content[flags + 1 :])
    with pytest.raises(DataFormatError, match="not a readable .npz"):
        features(tmp_path / "f.npz")
