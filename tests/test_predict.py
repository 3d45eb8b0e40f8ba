"""`clcr predict`: folders, patterns and tables to a file that survives a kill; long recordings in windows; features by
path; words from subtitles and recognisers."""

import csv
import gc
import json
import os
import signal
import subprocess
import sys
import time
import tracemalloc
from pathlib import Path

import av
import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from extract_backbones import save_whisper
from hypothesis import given, settings
from hypothesis import strategies as st
from model_utils import FPS, FRAMES, PHRASES, RATE, save_clip_model, write_clip
from PIL import Image
from safetensors.numpy import save_file
from transformers import pipeline

from clcr_hf import CLCRConfig, CLCRForSequenceClassification, CLCRForTokenClassification, CLCRPipeline, CLCRProcessor
from clcr_hf.cli.device import choose_device
from clcr_hf.cli.main import main
from clcr_hf.explain.plot import draw_timeline
from clcr_hf.media import load_media, media_duration, write_video
from clcr_hf.media_windows import _WindowFrames, read_windows, window_spans
from clcr_hf.predict import PredictionFile, open_items, read_subtitles

SECONDS = 12.0
CLASSES = {0: "calm", 1: "glad", 2: "sad"}


@pytest.fixture(scope="module")
def model(tmp_path_factory) -> str:
    return save_clip_model(tmp_path_factory.mktemp("model"))


@pytest.fixture(scope="module")
def classes(tmp_path_factory) -> str:
    fields = {"num_labels": 3, "problem_type": "single_label_classification", "id2label": CLASSES}
    return save_clip_model(tmp_path_factory.mktemp("classes"), **fields)


@pytest.fixture(scope="module")
def pipe(model) -> CLCRPipeline:
    return pipeline("multimodal-sentiment", model=model, device="cpu")


@pytest.fixture(scope="module")
def clips(tmp_path_factory) -> Path:
    """Five clips, one of them in a folder below, one broken; and something that is no clip."""
    folder = tmp_path_factory.mktemp("clips")
    for number in range(4):
        write_clip(folder / f"c{number}.mp4", 1 + number / 4, seed=number)
    write_clip(folder / "below" / "c9.mp4", seed=9)
    (folder / "broken.mp4").write_text("no clip")
    (folder / "notes.txt").write_text("notes")
    return folder


@pytest.fixture(scope="module")
def talk(tmp_path_factory) -> str:
    return write_clip(tmp_path_factory.mktemp("talk") / "talk.mp4", SECONDS, seed=3)


@pytest.fixture
def command(monkeypatch, capsys, tmp_path):
    """The `clcr` command inside this process, in an empty folder: (exit code, output, errors)."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "160")

    def run(*arguments: object) -> tuple[int, str, str]:
        capsys.readouterr()
        with pytest.raises(SystemExit) as stop:
            main([str(each) for each in arguments])
        captured = capsys.readouterr()
        return int(stop.value.code or 0), captured.out, captured.err

    return run


def rows_of(path: Path) -> list[dict[str, str]]:
    with open(path, newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


# --- a folder, a pattern, a table -------------------------------------------------------------------------------------


def test_a_folder_becomes_a_table(model, pipe, clips, command, tmp_path):
    code, _, errors = command("predict", clips, "--model", model)
    assert code == 0 and "6 rows, 1 of them with an error" in errors
    found = {row["id"]: row for row in rows_of(tmp_path / "predictions.csv")}
    assert set(found) == {"c0", "c1", "c2", "c3", "below/c9", "broken"}
    for name, row in found.items():
        assert row["path"] == str(clips / f"{name}.mp4")
        if name == "broken":
            assert "broken.mp4" in row["error"] and row["score"] == row["label"] == ""
            continue
        alone = pipe(row["path"], return_explanation=True)
        assert float(row["score"]) == pytest.approx(alone["score"], abs=1e-5)
        assert row["label"] == alone["label"] and row["error"] == ""
        weights = [float(row[f"modality_weight_{part}"]) for part in ("text", "vision", "audio")]
        assert weights == pytest.approx(list(alone["modality_weights"].values()), abs=1e-5)
        levels = [float(row[f"level_weight_{level}"]) for level in (1, 2, 3)]
        assert levels == pytest.approx(alone["level_weights"], abs=1e-5)
        assert float(row["evidence_audio"]) == pytest.approx(alone["modality_logits"]["audio"], abs=1e-5)
        parts = [float(row[f"evidence_{part}"]) for part in ("text", "vision", "audio", "joint", "bias")]
        assert sum(parts) == pytest.approx(alone["score"], abs=1e-4)


def test_the_formats_hold_the_same(classes, clips, command, tmp_path):
    for name in ("a.csv", "a.jsonl", "a.parquet"):
        assert command("predict", clips / "c*.mp4", "--model", classes, "--output", name)[0] == 0
    lines = [json.loads(line) for line in (tmp_path / "a.jsonl").read_text().splitlines()]
    assert pq.read_table(tmp_path / "a.parquet").to_pylist() == lines
    for row, line in zip(rows_of(tmp_path / "a.csv"), lines, strict=True):
        assert {key: "" if value is None else str(value) for key, value in line.items()} == row
    assert [line["id"] for line in lines] == ["c0", "c1", "c2", "c3"]
    for line in lines:
        probabilities = {name: line[f"probability_{name}"] for name in CLASSES.values()}
        assert sum(probabilities.values()) == pytest.approx(1)
        assert line["label"] == max(probabilities, key=probabilities.__getitem__)
        assert line["score"] == probabilities[line["label"]]
        logs = {name: np.log(value) for name, value in probabilities.items()}
        parts = [line[f"evidence_{part}"] for part in ("text", "vision", "audio", "joint", "bias")]
        assert sum(parts) == pytest.approx(logs[line["label"]] - np.mean(list(logs.values())), abs=1e-4)


def test_a_table_gives_texts_ids_stretches_and_splits(model, pipe, clips, command, tmp_path):
    table = tmp_path / "in" / "clips.csv"
    table.parent.mkdir()
    clip = os.path.relpath(clips / "c3.mp4", table.parent)
    table.write_text(
        "id,media,text,start,end,split,label,speaker\n"
        f"one,{clip},{PHRASES[0]},,,test,1,ann\ntwo,{clip},,0.5,1.5,test,2,ann\nthree,{clip},,,,train,1,bob\n"
        f"four,{clip},,half,,test,1,bob\n"
    )
    code, _, errors = command("predict", table, "--model", model, "--split", "test", "--output", "p.jsonl")
    assert code == 0 and "columns that are not read: label, speaker" in errors
    one, two, four = (json.loads(line) for line in (tmp_path / "p.jsonl").read_text().splitlines())
    media = str(clips / "c3.mp4")
    assert (one["id"], two["id"], four["id"]) == ("one", "two", "four")
    assert one["score"] == pytest.approx(pipe({"media": media, "text": PHRASES[0]})["score"], abs=1e-5)
    assert two["score"] == pytest.approx(pipe({"media": media, "start": 0.5, "end": 1.5})["score"], abs=1e-5)
    assert "half" in four["error"] and four["score"] is None


def test_several_labels_and_segments_have_columns_of_their_own(clips, command, tmp_path):
    several = {"num_labels": 3, "problem_type": "multi_label_classification", "id2label": CLASSES}
    model = save_clip_model(tmp_path / "several", **several)
    assert command("predict", clips / "c0.mp4", "--model", model, "--output", "several.csv")[0] == 0
    (row,) = rows_of(tmp_path / "several.csv")
    likely = [name for name in CLASSES.values() if float(row[f"probability_{name}"]) > 0.5]
    assert row["labels"] == "|".join(likely)
    segments = {"num_labels": 3, "problem_type": "single_label_classification", "num_segments": 4, "id2label": CLASSES}
    model = save_clip_model(tmp_path / "segments", CLCRForTokenClassification, **segments)
    assert command("predict", clips / "c0.mp4", "--model", model, "--output", "segments.csv")[0] == 0
    rows = rows_of(tmp_path / "segments.csv")
    assert [row["segment"] for row in rows] == ["0", "1", "2", "3"]
    assert all(float(row["end"]) > float(row["start"]) and row["label"] in CLASSES.values() for row in rows)
    assert all(row["probability_calm"] for row in rows)


def test_a_timeline_is_drawn_without_a_joint_path(talk, command, tmp_path):
    model = save_clip_model(tmp_path / "own", use_joint_path=False)
    arguments = ("--window", "4s", "--output", "t.csv", "--output", "t.png")
    assert command("predict", talk, "--model", model, *arguments)[0] == 0
    assert not [name for name in rows_of(tmp_path / "t.csv")[0] if "weight" in name or "gate" in name]
    with Image.open(tmp_path / "t.png") as image:
        assert image.size[0] > image.size[1] > 300


def test_several_scores_have_parts_of_their_own_and_other_models_none(clips, command, tmp_path):
    model = save_clip_model(tmp_path / "scores", num_labels=2, problem_type="regression", id2label={0: "joy", 1: "awe"})
    assert command("predict", clips / "c0.mp4", "--model", model, "--output", "scores.csv")[0] == 0
    (row,) = rows_of(tmp_path / "scores.csv")
    for name in ("joy", "awe"):
        parts = [float(row[f"evidence_{part}_{name}"]) for part in ("text", "vision", "audio", "joint", "bias")]
        assert sum(parts) == pytest.approx(float(row[f"score_{name}"]), abs=1e-4)
    model = save_clip_model(tmp_path / "none", unimodal_evidence=False)
    assert command("predict", clips / "c0.mp4", "--model", model, "--output", "none.csv")[0] == 0
    assert not [name for name in rows_of(tmp_path / "none.csv")[0] if name.startswith("evidence")]


def test_json_lines_go_to_the_terminal_and_no_file_is_made(model, clips, command, tmp_path):
    code, text, _ = command("predict", clips / "c0.mp4", clips / "c1.mp4", "--model", model, "--json")
    assert code == 0 and [json.loads(line)["id"] for line in text.splitlines()] == ["c0", "c1"]
    assert list(tmp_path.iterdir()) == []


def test_an_error_ends_the_run_where_that_is_asked_for(model, clips, command, tmp_path):
    code, _, errors = command("predict", clips, "--model", model, "--on_error", "raise")
    assert code == 1 and "broken.mp4" in errors and "Traceback" not in errors
    assert not (tmp_path / "predictions.csv").exists()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["{clips}", "--text", "a day"], "--text is of one clip"),
        (["{clips}", "--features", "gaze=x.npy"], "--features is of one clip"),
        (["{clips}", "--subtitles", "x.srt"], "--subtitles are of one recording"),
        (["{clips}", "--output", "x.xml"], ".csv, .jsonl, .parquet"),
        (["{clips}", "--output", "x.png"], "a figure shows one recording"),
        (["{clips}", "--on_error", "ignore"], "--on_error takes skip or raise"),
        (["{clips}/z*.mp4"], "matches no clip"),
        (["{clips}/c0.mp4", "--window", "ten"], "--window takes a length such as 10s"),
        (["{clips}/c0.mp4", "--window", "1s", "--text", "a day"], "--subtitles or --transcribe"),
        (["{clips}/c0.mp4", "--features", "gaze"], "as gaze=gaze.npy"),
        (["{clips}/c0.mp4", "--features", "gaze=absent.npy"], "absent.npy is not a file"),
        (["{clips}/c0.mp4", "--language", "en"], "give --transcribe"),
        (["{clips}/c0.mp4", "--split", "test"], "--split is for a table"),
    ],
)
def test_what_does_not_go_together_is_one_line(arguments, message, clips, command):
    code, _, errors = command("predict", *(each.format(clips=clips) for each in arguments), "--model", "absent")
    assert code == 1 and message in errors and len(errors.strip().splitlines()) == 1


# --- a file that survives a kill --------------------------------------------------------------------------------------


def start(*arguments: object) -> subprocess.Popen:
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1", "NO_COLOR": "1"}
    command = [sys.executable, "-m", "clcr_hf.cli.main", *map(str, arguments)]
    return subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)


@pytest.fixture(scope="module")
def many(tmp_path_factory) -> Path:
    """A table of 120 rows, one of them broken."""
    folder = tmp_path_factory.mktemp("many")
    clip = write_clip(folder / "clip.mp4")
    lines = [f"row{number},{clip if number != 7 else 'absent.mp4'},{PHRASES[number % 2]}\n" for number in range(120)]
    (folder / "many.csv").write_text("id,media,text\n" + "".join(lines))
    return folder / "many.csv"


@pytest.mark.slow
def test_a_killed_run_is_continued_to_the_same_file(model, many, tmp_path):
    whole = tmp_path / "whole.csv"
    assert start("predict", many, "--model", model, "--output", whole).wait(600) == 0
    broken = tmp_path / "broken.csv"
    partial = Path(f"{broken}.partial")
    command = ("predict", many, "--model", model, "--output", broken)
    process = start(*command)
    while process.poll() is None and not (partial.exists() and partial.read_bytes().count(b"\n") > 3):
        time.sleep(0.01)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    assert partial.exists() and not broken.exists()
    kept = partial.read_bytes()
    with open(partial, "ab") as file:  # as if the kill had come in the middle of a line
        file.write(b'{"inputs": 8, "rows": [{"id": "row')
    process = start(*command)
    _, errors = process.communicate(timeout=600)
    assert process.returncode == 0, errors.decode()[-2000:]
    done = sum(json.loads(line)["inputs"] for line in kept.splitlines()[1:] if line.endswith(b"}"))
    assert done > 0 and f"going on after {done} clips".encode() in errors
    assert broken.read_bytes() == whole.read_bytes()
    assert not partial.exists() and not Path(f"{partial}.lock").exists()
    assert len(rows_of(broken)) == 120 and sum(row["error"] != "" for row in rows_of(broken)) == 1


def test_another_model_input_or_setting_is_refused(model, classes, clips, talk, command, tmp_path):
    output = ("--output", "p.csv")
    assert command("predict", clips / "c*.mp4", "--model", model, *output)[0] == 0
    before = (tmp_path / "p.csv").read_bytes()
    again = command("predict", clips / "c*.mp4", "--model", model, *output)
    assert again[0] == 0 and "complete already" in again[2]
    for arguments, what in (
        ((clips / "c*.mp4", "--model", classes), "another model"),
        ((clips, "--model", model), "another input"),
        ((clips / "c*.mp4", "--model", model, "--window", "1s"), "another window"),
    ):
        code, _, errors = command("predict", *arguments, *output)
        assert code == 1 and what in errors and len(errors.strip().splitlines()) == 1
    assert (tmp_path / "p.csv").read_bytes() == before
    (tmp_path / "mine.csv").write_text("my own")
    code, _, errors = command("predict", clips, "--model", model, "--output", "mine.csv")
    assert code == 1 and "no prediction of ours" in errors and (tmp_path / "mine.csv").read_text() == "my own"


def test_a_model_that_was_trained_on_is_another_model(model, clips, command, tmp_path):
    other = tmp_path / "other"
    changed = CLCRForSequenceClassification.from_pretrained(model)
    CLCRProcessor.from_pretrained(model).save_pretrained(other)
    changed.save_pretrained(other)
    assert command("predict", clips / "c0.mp4", "--model", other, "--output", "p.csv")[0] == 0
    with torch.no_grad():
        changed.classifier.out_proj.bias += 0.25
    changed.save_pretrained(other)
    code, _, errors = command("predict", clips / "c0.mp4", "--model", other, "--output", "p.csv")
    assert code == 1 and "another model" in errors


COLUMNS = {"id": str, "n": int, "x": float, "error": str, " of a class ": float}
CELLS = st.fixed_dictionaries(
    {
        "id": st.text(st.characters(exclude_categories=["Cs", "Cc"]), min_size=1, max_size=8),
        "n": st.none() | st.integers(-(2**40), 2**40),
        "x": st.none() | st.floats(allow_nan=False, allow_infinity=False),
        "error": st.none() | st.just('cannot, be "read"\n'),
        " of a class ": st.none() | st.floats(0, 1),
    }
)


@settings(max_examples=30, deadline=None)
@given(
    batches=st.lists(st.lists(CELLS, min_size=1, max_size=3), min_size=1, max_size=4),
    suffix=st.sampled_from([".csv", ".jsonl", ".parquet"]),
    data=st.data(),
)
def test_a_file_cut_anywhere_is_continued_whole(batches, suffix, data, tmp_path_factory):
    path = tmp_path_factory.mktemp("cut") / f"p{suffix}"
    partial = Path(f"{path}.partial")
    file = PredictionFile(path, {"model": "a"}, COLUMNS)
    for batch in batches:
        file.add([[row] for row in batch])
    file.close()
    whole = partial.read_bytes()
    partial.write_bytes(whole[: data.draw(st.integers(0, len(whole)))])
    file = PredictionFile(path, {"model": "a"}, COLUMNS)
    rows = [row for batch in batches for row in batch]
    assert file.done in np.cumsum([0, *map(len, batches)])
    assert list(file.rows()) == rows[: file.done]
    file.add([[row] for row in rows[file.done :]])
    assert file.finish() == {"rows": len(rows), "errors": sum(row["error"] is not None for row in rows)}
    assert list(PredictionFile(path, {"model": "a"}, COLUMNS).rows()) == rows


def test_one_process_writes_a_file(tmp_path):
    file = PredictionFile(tmp_path / "p.csv", {"model": "a"}, COLUMNS)
    with pytest.raises(ValueError, match="another process"):
        PredictionFile(tmp_path / "p.csv", {"model": "a"}, COLUMNS)
    file.close()


# --- long recordings --------------------------------------------------------------------------------------------------


@given(seconds=st.floats(0.5, 500), window=st.floats(0.3, 60), every=st.floats(0.3, 60))
def test_windows_cover_a_recording_and_end_with_it(seconds, window, every):
    spans = window_spans(seconds, window, every)
    assert spans[0][0] == 0
    for number, (begin, end) in enumerate(spans):
        assert begin == pytest.approx(number * every) and begin < end <= seconds
        assert end - begin <= window + 0.1
    if every <= window:
        assert spans[-1][1] == seconds
        assert all(after[0] <= before[1] + 1e-6 for before, after in zip(spans, spans[1:], strict=False))
    else:
        assert spans[-1][0] + every > seconds - 0.1


def test_a_window_is_that_slice_of_the_file(talk):
    spans = window_spans(media_duration(talk), 3.0, 1.3)
    for options in ({"num_frames": FRAMES}, {"fps": 3.3}):
        windows = read_windows(talk, spans, sampling_rate=8000, **options)
        for (begin, end), window in zip(spans, windows, strict=True):
            alone = load_media(talk, start=begin, end=end, sampling_rate=8000, **options)
            np.testing.assert_array_equal(window.video.frames, alone.video.frames)
            np.testing.assert_array_equal(window.video.timestamps, alone.video.timestamps)
            np.testing.assert_allclose(window.audio, alone.audio, atol=1e-5)


def test_a_long_recording_takes_no_more_memory_than_a_short_one(tmp_path):
    peaks = []
    for seconds in (20, 200):
        clip = str(write_video(tmp_path / f"{seconds}.mp4", np.zeros((seconds * 5, 64, 64, 3), np.uint8), 5))
        tracemalloc.start()
        frames = [len(window.video) for window in read_windows(clip, window_spans(seconds, 4, 2), fps=5)]
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
        assert frames == [20] * len(frames) and len(frames) == seconds / 2 - 1
    # Ten times as long: the pictures alone would be 12 MB more.
    assert peaks[1] < peaks[0] + 2**20


def test_frames_of_windows_that_are_over_are_let_go(talk):
    """At once, not when Python looks for circles of references: it goes by their number, not their size."""
    gc.collect()
    gc.disable()
    try:
        before = sum(type(each) is av.VideoFrame for each in gc.get_objects())
        for _ in read_windows(talk, window_spans(SECONDS, 2, 1), num_frames=8):
            held = sum(type(each) is av.VideoFrame for each in gc.get_objects())
            assert held - before < 2 * FPS
    finally:
        gc.enable()


def test_a_recording_is_decoded_once(talk, monkeypatch):
    decoded = []
    add = _WindowFrames.add
    monkeypatch.setattr(_WindowFrames, "add", lambda self, *given: (decoded.append(given), add(self, *given)))
    list(read_windows(talk, window_spans(SECONDS, 3, 1), num_frames=2, audio=False))
    assert SECONDS * FPS - FPS < len(decoded) <= SECONDS * FPS


WORDS = ["a", "lovely", "day", "a", "dreadful", "day"]
TIMES = [[0.5, 1.0], [1.0, 1.5], [1.5, 2.0], [7.0, 7.5], [7.5, 8.5], [8.5, 9.0]]
LIST = [{"word": word, "start": start, "end": end} for word, (start, end) in zip(WORDS, TIMES, strict=True)]


def test_windows_answer_as_stretches_of_the_file(pipe, talk):
    sample = {"media": talk, "words": WORDS, "word_intervals": TIMES}
    found = pipe(sample, window=5, every=4, return_explanation=True)
    assert found["seconds"] == pytest.approx(SECONDS, abs=0.1)
    spans = [(window["start"], window["end"]) for window in found["windows"]]
    assert spans == [(0, 5), (4, 9), (8, found["seconds"])]
    assert [window["text"] for window in found["windows"]] == ["a lovely day", "a dreadful day", "dreadful day"]
    for (start, end), window in zip(spans, found["windows"], strict=True):
        stretch = {"media": talk, "start": start, "end": end, "text": window["text"]}
        alone = pipe(stretch, return_explanation=True)
        assert window["score"] == pytest.approx(alone["score"], abs=1e-5)
        times = [token["time"] - start for token in window["tokens"]["vision"]]
        assert times == pytest.approx([token["time"] for token in alone["tokens"]["vision"]])


def test_windows_of_segments_lie_in_the_recording(talk, tmp_path):
    fields = {"num_labels": 3, "problem_type": "single_label_classification", "num_segments": 2, "id2label": CLASSES}
    model = save_clip_model(tmp_path, CLCRForTokenClassification, **fields)
    reader = pipeline("multimodal-sentiment", model=model, device="cpu")
    windows = reader({"media": talk}, window=6)["windows"]
    times = [(part["start"], part["end"]) for window in windows for part in window["segments"]]
    assert np.allclose(times, [(0, 3), (3, 6), (6, 9), (9, 12)], atol=0.1)


def test_a_window_without_anything_has_an_error_of_its_own(tmp_path, model):
    processor = CLCRProcessor.from_pretrained(model)
    processor.feature_extractor = None  # hears nothing, so that only words are left
    silent = write_clip(tmp_path / "silent.mp4", 4, sound=False)
    processor.image_processor = None
    reader = CLCRPipeline(model=CLCRForSequenceClassification.from_pretrained(model), processor=processor, device="cpu")
    windows = reader({"media": silent, "words": ["day"], "word_intervals": [[0.2, 0.4]]}, window=2)["windows"]
    assert "score" in windows[0] and "nothing in this window" in windows[1]["error"]


@pytest.mark.parametrize(
    ("sample", "options", "message"),
    [
        ({"media": "{talk}", "text": "a day"}, {"window": 5}, "--subtitles or --transcribe"),
        ({"text": "a day"}, {"window": 5}, "windows are cut of a file"),
        ({"media": "{talk}", "audio_features": np.zeros((3, 3))}, {"window": 5}, "cannot be cut into windows"),
        ({"media": "{talk}"}, {"window": -1}, "positive seconds"),
        ({"media": "{talk}"}, {"window": 5, "max_seconds": 5}, "contradict"),
        ({"media": "{talk}", "start": 50}, {"window": 5}, "the clip ends at"),
        ({"media": "{talk}", "words": ["a"]}, {"window": 5}, "go together"),
    ],
)
def test_what_cannot_be_cut_into_windows_is_said(sample, options, message, pipe, talk):
    given = {key: value.format(talk=talk) if isinstance(value, str) else value for key, value in sample.items()}
    with pytest.raises(ValueError, match=message):
        pipe(given, **options)


SRT = """1
00:00:00,500 --> 00:00:02,000
a lovely <i>day</i>

2
00:00:07,000 --> 00:00:09,000
a dreadful day
"""


def test_a_timeline_as_table_json_and_figure(model, talk, command, tmp_path):
    (tmp_path / "talk.srt").write_text(SRT)
    arguments = ("predict", talk, "--model", model, "--window", "5s", "--every", "4", "--subtitles", "talk.srt")
    code, text, errors = command(*arguments)
    assert code == 0 and "read 12.0 s of talk.mp4 in 3 windows of 5 s" in errors
    assert "0.0-5.0 s" in text and "a lovely day" in text and "8.0-12.0 s" in text
    found = json.loads(command(*arguments, "--json")[1])
    assert [window["text"] for window in found["windows"]] == ["a lovely day", "a dreadful day", "dreadful day"]
    assert found["path"] == talk and found["seconds"] == pytest.approx(SECONDS, abs=0.1)
    assert command(*arguments, "--output", "t.csv", "--output", "t.png")[0] == 0
    scores = [float(row["score"]) for row in rows_of(tmp_path / "t.csv")]
    assert scores == pytest.approx([window["score"] for window in found["windows"]], abs=1e-6)
    with Image.open(tmp_path / "t.png") as image:
        assert image.width > 1000 and len(image.convert("L").resize((60, 30)).getcolors(256)) > 10
    assert command(*arguments, "--output", "t.csv", "--output", "u.png")[0] == 0  # of a table that is there already
    with Image.open(tmp_path / "u.png") as again, Image.open(tmp_path / "t.png") as image:
        assert np.array_equal(np.asarray(again), np.asarray(image))


def test_a_figure_of_classes_and_of_one_window(classes, talk, clips, command, tmp_path):
    for clip, name in ((talk, "many.svg"), (clips / "c0.mp4", "one.svg")):
        assert command("predict", clip, "--model", classes, "--window", "3s", "--output", name)[0] == 0
        assert (tmp_path / name).read_text().startswith("<?xml")
    with pytest.raises(ValueError, match="nothing to draw"):
        draw_timeline([{"start": 0.0, "end": 1.0, "error": "broken"}], tmp_path / "none.png")


def test_recordings_of_a_folder_in_windows(model, clips, command, tmp_path):
    code, _, errors = command("predict", clips, "--model", model, "--window", "1s", "--batch_size", "3")
    assert code == 0 and "of 5 recordings in 8 windows of 1 s" in errors
    rows = rows_of(tmp_path / "predictions.csv")
    assert [row["start"] for row in rows if row["id"] == "c3"] == ["0.0", "1.0"]
    assert [row["error"] != "" for row in rows if row["id"] == "broken"] == [True]


def test_gaps_between_windows_are_said(model, talk, command):
    errors = command("predict", talk, "--model", model, "--window", "1s", "--every", "4s")[2]
    assert "read 3.0 of 12.0 s of talk.mp4 in 3 windows of 1 s" in errors


def test_what_is_cut_is_said(model, talk, command, tmp_path):
    CLCRForSequenceClassification.from_pretrained(model).save_pretrained(tmp_path / "short")
    processor = CLCRProcessor.from_pretrained(model)
    processor.max_audio_seconds = 5.0
    processor.save_pretrained(tmp_path / "short")
    code, text, errors = command("predict", talk, "--model", "short", "--json")
    assert code == 0 and "talk.mp4: 5.0 of 12.0 s are read" in errors
    assert json.loads(text)["read_seconds"] == pytest.approx(5, abs=0.1)
    errors = command("predict", talk, "--model", "short", "--window", "4s")[2]
    assert "are read;" not in errors
    reader = pipeline("multimodal-sentiment", model=model, device="cpu")
    cut = reader({"media": talk}, max_seconds=3)
    assert (cut["read_seconds"], cut["seconds"]) == pytest.approx((3, SECONDS), abs=0.1)
    assert "seconds" not in reader({"media": talk, "start": 2, "end": 4}, max_seconds=3)
    longer = write_video(tmp_path / "longer.mp4", np.zeros((40, 32, 32, 3), np.uint8), 8, np.zeros(RATE), RATE)
    assert "seconds" not in reader(str(longer))  # frames after the end of the audio are not cut
    (tmp_path / "t.jsonl").write_text("".join(json.dumps({"media": talk}) + "\n" for _ in range(2)))
    assert "2 clips last longer than the 5 s that are read" in command("predict", "t.jsonl", "--model", "short")[2]


# --- words ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("a.srt", SRT),
        ("b.vtt", "WEBVTT\n\nNOTE no words\n\n" + SRT.replace(",", ".").replace("00:00:0", "00:0")),
        ("c.json", json.dumps({"words": WORDS, "word_intervals": TIMES})),
        ("d.json", json.dumps(LIST)),
        ("e.json", json.dumps({"chunks": [{"text": w, "timestamp": t} for w, t in zip(WORDS, TIMES, strict=True)]})),
        ("f.json", json.dumps({"segments": [{"words": LIST[:3]}, {"words": LIST[3:]}]})),
    ],
)
def test_subtitles_give_words_their_times(name, text, tmp_path):
    (tmp_path / name).write_text("\ufeff" + text, encoding="utf-8")
    words, times = read_subtitles(tmp_path / name)
    assert words == WORDS
    if name[2:] == "json":
        assert times.tolist() == TIMES
    else:
        assert times[:3] == pytest.approx(np.array(TIMES[:3]))
        assert times[3:, 0] == pytest.approx([7, 7 + 2 / 3, 7 + 4 / 3])


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("a.txt", "", "subtitles end in"),
        ("a.srt", "hello", "no words with times"),
        ("a.srt", "1\n00:00:05,000 --> 00:00:01,000\na day\n", "ends before it begins"),
        ("a.vtt", "1\nnow --> then\na day\n", "no times in"),
        ("a.json", "{}", "no words with times"),
        ("a.json", '{"words": ["a"], "word_intervals": []}', "1 words and 0 intervals"),
        ("a.json", '[{"word": "a", "start": 3, "end": 1}]', "lasts from"),
    ],
)
def test_subtitles_that_cannot_be_read_are_one_line(name, text, message, tmp_path):
    (tmp_path / name).write_text(text)
    with pytest.raises(ValueError, match=message) as error:
        read_subtitles(tmp_path / name)
    assert "\n" not in str(error.value)


def test_a_recogniser_gives_each_window_its_words(model, talk, clips, command, tmp_path):
    hear = save_whisper(tmp_path / "whisper")
    arguments = ("predict", "--model", model, "--transcribe", hear)
    found = json.loads(command(*arguments, talk, "--window", "6s", "--json")[1])
    plain = json.loads(command("predict", "--model", model, talk, "--window", "6s", "--json")[1])
    assert all(window["text"] for window in found["windows"]) and not any(w["text"] for w in plain["windows"])
    assert [w["score"] for w in found["windows"]] != [w["score"] for w in plain["windows"]]
    one = json.loads(command(*arguments, clips / "c1.mp4", "--json")[1])
    assert one["tokens"]["text"]
    assert command(*arguments, clips / "c1.mp4", clips / "c2.mp4", "--output", "p.jsonl")[0] == 0
    line = json.loads((tmp_path / "p.jsonl").read_text().splitlines()[0])
    assert line["score"] == pytest.approx(one["score"], abs=1e-5)


# --- features by path -------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def gazing(tmp_path_factory) -> str:
    """A model of text and gaze features."""
    folder = tmp_path_factory.mktemp("gazing")
    torch.manual_seed(0)
    sizes = {"text_config": {"feature_size": 4}, "extra_configs": {"gaze": {"feature_size": 3}}}
    config = CLCRConfig(hidden_size=16, num_attention_heads=2, num_labels=1, **sizes)
    CLCRForSequenceClassification(config).save_pretrained(folder)
    CLCRProcessor().save_pretrained(folder)
    return str(folder)


def save_features(folder: Path, values: np.ndarray) -> list[Path]:
    np.save(folder / "a.npy", values)
    np.savez(folder / "a.npz", gaze_features=values)
    save_file({"features": values}, folder / "a.safetensors")
    torch.save(torch.from_numpy(values), folder / "a.pt")
    torch.save({"gaze_features": torch.from_numpy(values), "more": torch.zeros(2)}, folder / "b.pt")
    np.savetxt(folder / "a.csv", values, delimiter=",")
    np.savetxt(folder / "b.csv", values, delimiter=",", header="x,y,z", comments="")
    return sorted(folder.glob("[ab].*"))


def test_features_by_path_are_the_features(gazing, command, tmp_path):
    values = np.random.default_rng(0).normal(size=(5, 3)).astype(np.float32)
    reader = pipeline("multimodal-sentiment", model=gazing, device="cpu")
    expected = reader({"gaze_features": values})["score"]
    files = save_features(tmp_path, values)
    assert len(files) == 7
    for path in files:
        assert reader({"gaze_features": str(path)})["score"] == pytest.approx(expected, abs=1e-6), path
        with pytest.raises(ValueError, match="not read here"):
            reader({"gaze_features": str(path)}, local_files=False)
    found = json.loads(command("predict", "--features", f"gaze={files[0]}", "--model", gazing, "--json")[1])
    assert found["score"] == pytest.approx(expected, abs=1e-6)
    code, text, _ = command("explain", "--features", f"gaze={files[0]}", "--model", gazing, "--json")
    assert code == 0 and json.loads(text)["score"] == pytest.approx(expected, abs=1e-6)
    (tmp_path / "t.csv").write_text("id,gaze_features\n" + "".join(f"{path.name},{path.name}\n" for path in files))
    assert command("predict", "t.csv", "--model", gazing, "--output", "p.jsonl")[0] == 0
    lines = [json.loads(line) for line in (tmp_path / "p.jsonl").read_text().splitlines()]
    assert [line["score"] for line in lines] == pytest.approx([expected] * 7, abs=1e-6)


class Malicious:
    def __reduce__(self):
        return (os.mkdir, ("touched",))


def test_feature_files_that_are_none_are_recorded(gazing, command, tmp_path):
    torch.save(Malicious(), tmp_path / "evil.pt")
    np.save(tmp_path / "evil.npy", np.array([Malicious()], dtype=object), allow_pickle=True)
    (tmp_path / "words.csv").write_text("x,y,z\n1,2,three\n")
    (tmp_path / "ragged.csv").write_text("1,2,3\n1,2\n")
    (tmp_path / "empty.csv").write_text("")
    np.save(tmp_path / "wide.npy", np.zeros((2, 9), np.float32))
    np.save(tmp_path / "good.npy", np.zeros((2, 3), np.float32))
    names = ["evil.pt", "evil.npy", "words.csv", "ragged.csv", "empty.csv", "wide.npy", "absent.npy", "good.npy"]
    (tmp_path / "t.csv").write_text("id,gaze_features\n" + "".join(f"{name},{name}\n" for name in names))
    code, _, errors = command("predict", "t.csv", "--model", gazing)
    assert code == 0 and "8 rows, 7 of them with an error" in errors, errors
    found = {row["id"]: row["error"] for row in rows_of(tmp_path / "predictions.csv")}
    assert not found.pop("good.npy") and all(found.values()) and not (tmp_path / "touched").exists()
    assert "'three' is no number" in found["words.csv"] and "plain tensors" in found["evil.pt"]


# --- sources and devices ----------------------------------------------------------------------------------------------


def test_items_keep_their_order_and_names(clips, tmp_path):
    assert [item.id for item in open_items([str(clips)])] == ["broken", "c0", "c1", "c2", "c3", "below/c9"]
    (tmp_path / "a.mp4").touch()
    (tmp_path / "a.wav").touch()
    assert [item.id for item in open_items([str(tmp_path)])] == ["a.mp4", "a.wav"]
    with pytest.raises(ValueError, match="given twice"):
        open_items([str(tmp_path / "a.mp4"), str(tmp_path / "a.mp4")])
    assert open_items([str(clips)]).digest == open_items([str(clips)]).digest
    assert open_items([str(clips)]).digest != open_items([str(clips / "below")]).digest


def test_devices_are_chosen_alike(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    assert choose_device(None) == "cuda" and choose_device("cuda:1") == "cuda:1" and choose_device("cpu") == "cpu"
    with pytest.raises(ValueError, match="2 GPUs"):
        choose_device("cuda:2")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: False)
    assert choose_device(None) == "cpu"
    for wrong in ("cuda", "cuda:0", "mps", "abacus"):
        with pytest.raises(ValueError, match="--device"):
            choose_device(wrong)


@pytest.mark.parametrize("command_name", ["predict", "explain", "demo", "extract"])
def test_every_command_that_runs_a_model_takes_a_device(command_name, command):
    assert "--device" in command(command_name, "--help")[1]
