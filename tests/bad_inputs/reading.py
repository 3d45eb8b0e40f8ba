"""Readers of files: tables, arrays, media, subtitles, records of runs."""

import io
import json
import pickle
import sys
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from safetensors.numpy import save

from clcr_hf.data import load_manifest, load_npz_safely, load_pickle_safely
from clcr_hf.data.feature_arrays import read_feature_file
from clcr_hf.hub.run_folder import read_card_options, read_run
from clcr_hf.media import load_audio, load_flow, load_image, load_video, media_duration
from clcr_hf.predict.sources import open_items
from clcr_hf.predict.subtitles import read_subtitles
from clcr_hf.training.arguments import read_recipe

from .case import Case, each
from .files import broken_files

sys.path.insert(0, str(Path(__file__).parents[1]))
from model_utils import write_clip  # noqa: E402

_ROWS = [{"id": f"r{i}", "text": f"word {i}", "label": i % 2, "split": "train"} for i in range(6)]


def _csv(rows: list[dict[str, Any]], sep: str = ",") -> bytes:
    lines = [sep.join(rows[0])] + [sep.join(map(str, row.values())) for row in rows]
    return ("\n".join(lines) + "\n").encode()


def _parquet(rows: list[dict[str, Any]]) -> bytes:
    target = io.BytesIO()
    pq.write_table(pa.Table.from_pylist(rows), target)
    return target.getvalue()


def _whole_files(folder: Path) -> Iterator[tuple[str, bytes, Callable[[Path], Any]]]:
    """A name, the whole file, and its reader."""
    array, target = np.ones((3, 2), np.float32), io.BytesIO()

    def saved(write: Callable[[io.BytesIO], Any]) -> bytes:
        target.seek(0), target.truncate()
        write(target)
        return target.getvalue()

    features = partial(read_feature_file, name="features")
    jsonl = "\n".join(map(json.dumps, _ROWS)).encode()
    for reader in (load_manifest, lambda path: list(open_items([str(path)]))):
        yield "t.csv", _csv(_ROWS), reader
        yield "t.tsv", _csv(_ROWS, "\t"), reader
        yield "t.jsonl", jsonl, reader
        yield "t.parquet", _parquet(_ROWS), reader
        yield "t.xlsx", b"PK\x03\x04" + bytes(400), reader
    yield "f.npy", saved(lambda file: np.save(file, array)), features
    yield "f.npz", saved(lambda file: np.savez(file, features=array)), features
    yield "f.pt", saved(lambda file: torch.save(torch.ones(3, 2), file)), features
    yield "f.safetensors", save({"features": array}), features
    yield "f.csv", b"a,b\n1.5,2.5\n3.55,4.5\n", features
    yield "f.mat", b"MATLAB 5.0 MAT-file" + bytes(200), features
    yield "a.npz", saved(lambda file: np.savez(file, a=array)), load_npz_safely
    yield "a.pkl", pickle.dumps({"a": array}), load_pickle_safely
    yield "flow.npz", saved(lambda file: np.savez(file, flow=np.ones((2, 2, 4, 4)))), load_flow
    clip = Path(write_clip(folder / "whole.mp4")).read_bytes()
    for read in (load_video, partial(load_audio, sampling_rate=16000), media_duration):
        yield "c.mp4", clip, read
    yield "w.wav", b"RIFF" + bytes(200), partial(load_audio, sampling_rate=16000)
    yield "i.png", b"\x89PNG\r\n\x1a\n" + bytes(200), load_image
    yield "s.srt", b"1\n00:00:00,000 --> 00:00:01,000\na lovely day\n", read_subtitles
    yield "s.vtt", b"WEBVTT\n\n00:00.000 --> 00:01.000\na lovely day\n", read_subtitles
    yield "s.json", b'{"words": ["a"], "word_intervals": [[0, 1]]}', read_subtitles
    yield "run.json", b'{"metrics": {}, "settings": {"seed": 1}}', lambda path: read_run(path.parent)
    yield "card.json", b'{"license": "mit"}', lambda path: _options(path)
    yield "recipe.yaml", b"seed: 1\n", lambda path: read_recipe(str(path))
    yield "recipe.json", b'{"seed": 1, "num_train_epochs": 2}', lambda path: read_recipe(str(path))


def _options(path: Path) -> Any:
    if not path.exists():
        raise FileNotFoundError(f"{path} may be left out")
    return read_card_options(path.parent)


# What is damaged may still be what the format allows: half a table of text, noise in the middle of a clip.
_MAY_TEXT = ("first half", "second half", "one byte", "header alone", "HTML", "LFS pointer", "noise inside", "empty")
_MAY_CLIP = ("noise inside", "first half")
_TEXTUAL = (".csv", ".tsv", ".srt", ".vtt", ".yaml", ".jsonl")

_TABLES: dict[str, bytes] = {
    "no rows": b"id,text,label\n",
    "no label": b"id,text\na,b\n",
    "no text": b"id,label\na,1\n",
    "two labels": b"id,text,label,label\na,b,1,2\n",
    "ragged": b"id,text,label\na,b,1,2\n",
    "same ids": b"id,text,label\na,b,1\na,c,0\n",
    "label NaN": b"id,text,label\na,b,nan\nb,c,0.5\n",
    "label infinite": b"id,text,label\na,b,inf\nb,c,0.5\n",
    "unknown split": b"id,text,label,split\na,b,1,learn\nb,c,0,learn\n",
    "not UTF-8": b"id,text,label\na,\xff\xfe\xfa,1\n",
    "UTF-16": "id,text,label\na,b,1\n".encode("utf-16"),
    "NUL": b"id,text,label\na,\x00b,1\n",
    "open quote": b'id,text,label\na,"b,1\n',
    "media absent": b"id,media,label\na,no_such.mp4,1\nb,no_such.mp4,0\n",
    "media a folder": b"id,media,label\na,.,1\nb,.,0\n",
    "features absent": b"id,gaze_features,label\na,no_such.npy,1\nb,no_such.npy,0\n",
    "features words": b'id,gaze_features,label\na,"[[""x""]]",1\nb,"[[1]]",0\n',
    "start after end": b"id,media,start,end,label\na,x.mp4,2,1,1\nb,x.mp4,2,1,0\n",
    "start word": b"id,media,start,label\na,x.mp4,one,1\nb,x.mp4,two,0\n",
    "start NaN": b"id,media,start,label\na,x.mp4,nan,1\nb,x.mp4,nan,0\n",
    "header of numbers": b"1,2,3\n4,5,6\n",
    "header empty names": b",,\na,b,1\n",
}
_OPTIONS: dict[str, dict[str, Any]] = {
    "label column": {"label_column": "no_such"},
    "text column": {"text_column": "no_such"},
    "task": {"task": "guess"},
    "label names": {"label_names": ["a"]},
    "fraction": {"validation_fraction": 1.5},
    "fraction NaN": {"validation_fraction": float("nan")},
    "fraction negative": {"validation_fraction": -0.5},
    "missing labels": {"missing_labels": "guess"},
    "unknown": {"no_such": 1},
    "group column": {"group_column": "no_such"},
    "seed word": {"seed": "x"},
}
_RECIPES = {"a list": b"- 1\n", "a word": b"seed", "tabs": b"a:\n\t- b\n", "tag": b"!!python/object:os.system x\n"}
_RECORDS = {"a list": b"[1]", "null": b"null", "a word": b'"x"', "NaN": b"[NaN]"}


def cases(folder: Path) -> Iterator[Case]:
    for number, (name, whole, read) in enumerate(_whole_files(folder)):
        suffix = Path(name).suffix
        for what, path in broken_files(folder / str(number), name, whole):
            may = suffix in _TEXTUAL and what in _MAY_TEXT
            may |= suffix in (".mp4", ".pt", ".npy") and what in _MAY_CLIP
            yield Case(f"{number} {name}: {what}", partial(read, path), may)
    for name, content in _TABLES.items():
        path = folder / f"table_{name.replace(' ', '_')}.csv"
        path.write_bytes(content)
        yield Case(f"table: {name}", partial(load_manifest, path))
    good = folder / "good.csv"
    good.write_bytes(_csv(_ROWS))
    yield from each("load_manifest", _OPTIONS, lambda value: load_manifest(good, **value))
    for name, content in _RECIPES.items():
        path = folder / f"recipe_{name.replace(' ', '_')}.yaml"
        path.write_bytes(content)
        yield Case(f"recipe: {name}", partial(read_recipe, str(path)))
    for name, content in _RECORDS.items():
        place = folder / f"record_{name.replace(' ', '_')}"
        place.mkdir()
        (place / "run.json").write_bytes(content)
        yield Case(f"run.json holds {name}", partial(read_run, place))
