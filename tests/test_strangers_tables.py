"""A table from elsewhere, or whose files leave the machine, reads only what lies beneath its own folder."""

import io
import json
import os
import subprocess
import sys
import zipfile
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from datasets import Features, Value, Video
from stand_in_hub import Repository, StandInHub
from typer.testing import CliRunner

import clcr_hf.cli.rows  # noqa: F401  (adds the commands)
from clcr_hf.cli.app import app
from clcr_hf.data import load_manifest, load_named, load_shards
from clcr_hf.data.columns import DataFormatError
from clcr_hf.data.convert import convert
from clcr_hf.media import MediaError, load_video

# Column, cell, and what `linked` makes for it; "{secret}" is a folder beside that of the table.
WAYS_OUT = {
    "an absolute path": ("media", "{secret}/clip.mp4"),
    "a way up": ("media", "../secret/clip.mp4"),
    "a way up in the middle": ("media", "clips/../../secret/clip.mp4"),
    "a linked file": ("media", "clips/linked.mp4"),
    "a linked folder": ("audio", "linked/clip.wav"),
    "a pattern, by a way up": ("images", "../secret/*.png"),
    "a pattern, by a linked folder": ("images", "linked/*.png"),
    "a pattern of links": ("images", "clips/*.png"),
    "an absolute pattern": ("images", "{secret}/*.png"),
    "a folder of frames": ("images", "linked"),
    "frames by name": ("images", ["own.png", "../secret/frame.png"]),
    "optical flow": ("flow", "../secret/flow.npz"),
    "features": ("gaze_features", "linked/gaze.npy"),
    "features in a text column": ("text", "../secret/gaze.npy"),
}


@pytest.fixture()
def table(tmp_path, monkeypatch):
    """Makes `set/clips.jsonl` of two rows, the second with the cell given; beside it `secret/` with a file of each
    kind, links to which are in the set."""
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path / "cache")
    folder, secret = tmp_path / "set", tmp_path / "secret"
    (folder / "clips").mkdir(parents=True)
    secret.mkdir()
    for name in ("clip.mp4", "clip.wav", "frame.png", "flow.npz"):
        (secret / name).write_bytes(b"a secret")
        (folder / f"own{Path(name).suffix}").write_bytes(b"the set's own")
    for path in (secret / "gaze.npy", folder / "own.npy"):
        np.save(path, np.ones((2, 3), np.float32))
    (folder / "clips" / "linked.mp4").symlink_to(secret / "clip.mp4")
    (folder / "clips" / "frame.png").symlink_to("../../secret/frame.png")
    (folder / "linked").symlink_to(secret, target_is_directory=True)

    def make(column, cell):
        own = "own.npy" if "features" in column or column == "text" else f"own{Path(str(cell)).suffix or '.png'}"
        own = "own.png" if column == "images" else own
        cell = cell.format(secret=secret) if isinstance(cell, str) else cell
        rows = [{"id": "a", column: own, "label": 0.5}, {"id": "b", column: cell, "label": 1.5}]
        path = folder / "clips.jsonl"
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
        return path

    return make


def bytes_below(folder):
    return b"".join(path.read_bytes() for path in Path(folder).rglob("*") if path.is_file())


@pytest.mark.parametrize("way", WAYS_OUT)
def test_no_way_leads_out_of_what_is_embedded(table, tmp_path, way):
    source = table(*WAYS_OUT[way])
    with pytest.raises(DataFormatError, match=r"row 2.* lies outside of .*media_root") as error:
        convert("manifest", source, tmp_path / "out", options={"validation_fraction": 0}, embed_media=True)
    assert "\n" not in str(error.value)
    with pytest.raises(DataFormatError, match=r"row 2.* lies outside of .*media_root"):  # streamed
        convert("manifest", source, tmp_path / "streamed", embed_media=True)
    assert b"a secret" not in bytes_below(tmp_path / "out") + bytes_below(tmp_path / "streamed")
    convert("manifest", source, tmp_path / "said", embed_media=True, media_root=tmp_path / "secret")
    assert load_shards(tmp_path / "said")["train"].num_rows == 2


@pytest.mark.parametrize("way", WAYS_OUT)
def test_a_users_own_table_reads_what_it_names(table, way):
    source = table(*WAYS_OUT[way])
    assert load_manifest(source, validation_fraction=0)["train"]["id"] == ["a", "b"]
    with pytest.raises(DataFormatError, match="row 2.* lies outside of"):
        load_manifest(source, validation_fraction=0, media_root=source.parent)
    with pytest.raises(DataFormatError, match="row 2.* lies outside of"):  # it is no absent file
        load_manifest(source, validation_fraction=0, media_root=source.parent, skip_missing=True)


def test_a_table_may_lie_behind_a_link_and_its_files_below_it_by_links_too(table, tmp_path):
    source = table("media", "clips/inner.mp4")
    (source.parent / "clips" / "inner.mp4").symlink_to(source.parent / "own.mp4")
    (tmp_path / "way").symlink_to(source.parent, target_is_directory=True)
    convert("manifest", tmp_path / "way" / source.name, tmp_path / "out", embed_media=True)
    assert bytes_below(tmp_path / "out").count(b"the set's own") >= 1


def test_a_linked_table_in_a_folder_is_no_part_of_it(table, tmp_path):
    source = table("media", "own.mp4")
    source.rename(tmp_path / "private.jsonl")
    (source.parent / "metadata.jsonl").symlink_to(tmp_path / "private.jsonl")
    with pytest.raises(DataFormatError, match=r"metadata.jsonl lies outside of .* by a link to .*private.jsonl"):
        convert("manifest", source.parent, tmp_path / "out", embed_media=True)
    assert load_manifest(source.parent, validation_fraction=0)["train"].num_rows == 2


def test_shards_from_elsewhere_embed_only_what_lies_in_them(table, tmp_path):
    convert("manifest", table("media", "{secret}/clip.mp4"), tmp_path / "shards")
    with pytest.raises(DataFormatError, match="train, row 'a': .* lies outside of .*shards"):
        convert("shards", tmp_path / "shards", tmp_path / "out", embed_media=True)
    convert("shards", tmp_path / "shards", tmp_path / "said", embed_media=True, media_root=tmp_path)
    assert load_shards(tmp_path / "said")["train"][1]["media"]["bytes"] == b"a secret"


def test_the_command_says_it_in_one_line(table, tmp_path):
    words = ["convert", "manifest", str(table("media", "../secret/clip.mp4")), str(tmp_path / "out"), "--embed-media"]
    done = CliRunner().invoke(app, words)
    assert done.exit_code != 0 and "lies outside of" in str(done.exception)
    assert CliRunner().invoke(app, [*words, "--media_root", str(tmp_path / "secret")]).exit_code == 0


def test_media_root_where_nothing_uses_it_is_an_error(tmp_path):
    with pytest.raises(DataFormatError, match="cremad has no option 'media_root'"):
        convert("cremad", tmp_path, tmp_path / "out", media_root=tmp_path)


# --- training --------------------------------------------------------------------------------------------------------


def test_training_on_a_table_of_ones_own_and_on_a_strangers(tmp_path):
    from clcr_hf.training import main

    (tmp_path / "set").mkdir()
    (tmp_path / "far").mkdir()
    rng = np.random.default_rng(0)
    lines = ["id,gaze_features,label,split"]
    for number in range(12):
        np.save(tmp_path / "far" / f"{number}.npy", rng.normal(size=(3, 4)).astype(np.float32))
        lines.append(f"{number},{tmp_path}/far/{number}.npy,{number / 6},{'test' if number > 9 else 'train'}")
    source = tmp_path / "set" / "clips.csv"
    source.write_text("\n".join(lines) + "\n")
    words = f"--data_file {source} --max_steps 1 --hidden_size 16 --report_to none --use_cpu --output_dir"
    assert main([*words.split(), str(tmp_path / "own")])["test_samples"] == 2
    with pytest.raises(DataFormatError, match=r"clips.csv, row 1, gaze_features: .*far/0.npy lies outside of"):
        main([*words.split(), str(tmp_path / "refused"), "--media_root", str(source.parent)])
    assert main([*words.split(), str(tmp_path / "said"), "--media_root", str(tmp_path / "far")])["test_samples"] == 2


# --- by name ---------------------------------------------------------------------------------------------------------


@pytest.fixture()
def video_folder(table, tmp_path):
    """`videofolder` of a linked clip beside an own one, with a table."""
    folder = tmp_path / "named"
    folder.mkdir()
    (folder / "a.mp4").write_bytes(b"the set's own")
    (folder / "b.mp4").symlink_to(tmp_path / "secret" / "clip.mp4")
    (folder / "metadata.csv").write_text("file_name,text,score\na.mp4,x,0.5\nb.mp4,y,1\n")
    return folder


def test_a_local_folder_by_name_is_a_users_own_until_its_files_leave(video_folder, tmp_path):
    options = {"data_dir": str(video_folder), "validation_fraction": 0}
    for name, given in (("videofolder", options), (str(video_folder), {"validation_fraction": 0})):
        assert load_named(name, **given).load()["train"].num_rows == 2
        with pytest.raises(DataFormatError, match=r"row 'train.*/b', media: .* by a link to .*secret"):
            load_named(name, **given, media_root=video_folder)
        with pytest.raises(DataFormatError, match=r"row 'train.*/b': .* by a link to .*secret"):
            convert("hub", name, tmp_path / f"out{len(given)}", options=given, embed_media=True)
        convert("hub", name, tmp_path / f"said{len(given)}", options=given, embed_media=True, media_root=tmp_path)
        assert load_shards(tmp_path / f"said{len(given)}")["train"][1]["media"]["bytes"] == b"a secret"


@pytest.mark.parametrize("cell", ["../secret/clip.mp4", "{secret}/clip.mp4", "file://{secret}/clip.mp4"])
def test_an_archive_names_nothing_outside_of_itself(table, tmp_path, cell):
    table("media", "own.mp4")
    folder = tmp_path / "packed"
    folder.mkdir()
    with zipfile.ZipFile(folder / "clips.zip", "w") as archive:
        archive.writestr("a.mp4", b"its own")
        archive.writestr("metadata.csv", f"file_name,text,score\na.mp4,x,0\n{cell},y,1\n".format(secret=tmp_path))
    with pytest.raises(DataFormatError, match="cannot be loaded"):
        load_named("videofolder", data_dir=str(folder), validation_fraction=0)


def test_what_lies_in_an_archive_is_an_address_and_is_not_opened(table, tmp_path):
    folder = tmp_path / "packed"
    folder.mkdir()
    with zipfile.ZipFile(folder / "clips.zip", "w") as archive:
        link = zipfile.ZipInfo("linked.mp4")
        link.create_system, link.external_attr = 3, 0o120777 << 16
        archive.writestr(link, str(tmp_path / "secret" / "clip.mp4"))
        archive.writestr("metadata.csv", "file_name,text,score\nlinked.mp4,x,0\n")
    found = load_named("videofolder", data_dir=str(folder), validation_fraction=0).load()["train"]
    assert found.features["media"] == Video(decode=False) and found[0]["media"]["bytes"] is None
    with pytest.raises(MediaError, match="is an address, not a file"):
        load_video(found[0]["media"]["path"])
    assert not os.path.exists(found[0]["media"]["path"])


# --- of the Hub ------------------------------------------------------------------------------------------------------

LOAD = """
import json, sys
from clcr_hf.data import DataFormatError, load_named
from clcr_hf.data.convert import convert
name, root, out, options = *sys.argv[1:4], json.loads(sys.argv[4])
try:
    rows = load_named(name, validation_fraction=0, **options).load()
    paths = [row["media"]["path"] for row in rows["train"]]
    convert("hub", name, out, options={"validation_fraction": 0}, embed_media=True, media_root=root or None)
    print(json.dumps(paths))
except DataFormatError as error:
    print(error)
"""


@pytest.fixture(scope="module")
def hub():
    with StandInHub() as running:
        yield running


def offer(hub, name, files):
    repository = hub.repositories[name] = Repository(name)
    repository.commit({path: hub.add_blob(content) for path, content in files.items()}, "main")


def load(hub, tmp_path, name, root="", cwd=None, **options):
    """What a fresh process with an empty cache says of a data set of the Hub."""
    environment = os.environ | hub.environment(tmp_path / "home") | {"HF_DATASETS_OFFLINE": "0"}
    command = [sys.executable, "-c", LOAD, name, root, str(tmp_path / "out"), json.dumps(options)]
    done = subprocess.run(command, capture_output=True, text=True, env=environment, cwd=cwd or tmp_path, timeout=600)
    assert done.returncode == 0, done.stderr[-2000:]
    return done.stdout.strip()


def parquet_of(*paths):
    """A Parquet file whose Video column names files by their paths."""
    features = Features({"clip": Video(), "label": Value("float32")})
    schema = features.arrow_schema
    cells = [{"bytes": None, "path": path} for path in paths]
    columns = [pa.array(cells, schema.field("clip").type), pa.array([0.5] * len(paths), pa.float32())]
    stream = io.BytesIO()
    pq.write_table(pa.Table.from_arrays(columns, schema=schema), stream)
    return stream.getvalue()


@pytest.mark.parametrize("way", ["{secret}/clip.mp4", "../secret/clip.mp4", "linked/clip.mp4"])
def test_a_table_of_the_hub_names_no_file_of_this_machine(table, hub, tmp_path, way):
    table("media", "own.mp4")
    way = way.format(secret=tmp_path / "secret")
    offer(hub, "org/names", {"train.parquet": parquet_of(way)})
    told = load(hub, tmp_path, "org/names", cwd=tmp_path / "set")
    assert "org/names: train, row 'train/" in told and "lies outside of" in told and "\n" not in told
    assert not (tmp_path / "out").exists()
    streamed = load(hub, tmp_path, "org/names", cwd=tmp_path / "set", streamed=True)
    assert "org/names: train, row " in streamed and "lies outside of" in streamed and "\n" not in streamed
    secret = str(tmp_path / "secret")
    assert json.loads(load(hub, tmp_path, "org/names", secret, tmp_path / "set", media_root=secret)) == [way]


def test_a_videofolder_of_the_hub_loads_and_embeds_as_ever(hub, tmp_path):
    offer(hub, "org/own", {"a.mp4": b"its own", "metadata.csv": b"file_name,text,score\na.mp4,x,0.5\n"})
    (path,) = json.loads(load(hub, tmp_path, "org/own"))
    assert os.path.realpath(path).startswith(str(tmp_path / "home"))
    assert load_shards(tmp_path / "out")["train"][0]["media"] == {"path": "a.mp4", "bytes": b"its own"}


def test_a_videofolder_of_the_hub_does_not_lead_up(table, hub, tmp_path):
    table("media", "own.mp4")
    line = f"file_name,text,score\na.mp4,x,0.5\n{tmp_path}/secret/clip.mp4,y,1\n"
    offer(hub, "org/up", {"a.mp4": b"its own", "metadata.csv": line.encode()})
    told = load(hub, tmp_path, "org/up")
    assert told.startswith("org/up: the data set cannot be loaded: ") and "\n" not in told
