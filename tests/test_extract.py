"""Features of clips by backbones: what they hold, and that a run can be stopped, split, and fed broken files."""

import gc
import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import fields
from pathlib import Path
from typing import Any

import av
import numpy as np
import psutil
import pytest
import torch
import transformers
from extract_backbones import save_audio, save_text, save_vision, save_whisper
from hypothesis import given, settings
from hypothesis import strategies as st
from layouts.ave import make_ave
from layouts.cremad import make_cremad

from clcr_hf import CLCRConfig, CLCRForSequenceClassification
from clcr_hf.data import CLCRDataCollator, DataFormatError
from clcr_hf.data.shards import ShardSet, load_shards, shard_files
from clcr_hf.extract import extract_features
from clcr_hf.extract.backbones import TextTokens, VisionBackbone, pool_to_rate
from clcr_hf.extract.clips import ClipReader
from clcr_hf.extract.readers import Readers
from clcr_hf.extract.rows import average_words, token_intervals, tokens_to_words, word_spans
from clcr_hf.extract.settings import ExtractSettings, flag_of, table
from clcr_hf.extract.sources import open_source
from clcr_hf.extract.speech import OpenSmile, SpeechRecogniser, tidy_transcript
from clcr_hf.media import load_audio, load_video, write_video
from clcr_hf.training.arguments import DataArguments
from clcr_hf.training.data import load_data

FPS, RATE = 8, 16_000
# A class token, and DINOv3's four registers, come before the patches.
SPECIAL_TOKENS = {"clip": 1, "siglip": 0, "dinov2": 1, "dinov3": 5, "vit": 1}


@pytest.fixture(scope="module", autouse=True)
def quiet() -> Iterator[None]:
    before = transformers.logging.get_verbosity()
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    yield
    transformers.logging.set_verbosity(before)
    transformers.logging.enable_progress_bar()


@pytest.fixture(scope="module")
def clips(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Four clips of 2.0, 2.5, 3.0 and 3.5 s."""
    folder = tmp_path_factory.mktemp("clips")
    for index in range(4):
        make_clip(folder / f"c{index}.mp4", seconds=2.0 + index / 2, seed=index)
    return folder


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """The backbones that most tests use."""
    folder = tmp_path_factory.mktemp("models")
    return {
        "vision": save_vision(folder / "clip", "clip"),
        "audio": save_audio(folder / "wav2vec2", "wav2vec2"),
        "text": save_text(folder / "bert"),
        "whisper": save_whisper(folder / "whisper"),
    }


def make_clip(path: Path, seconds: float = 2.0, seed: int = 0, sound: bool = True) -> Path:
    rng = np.random.default_rng(seed)
    frames = rng.integers(0, 255, (round(seconds * FPS), 24, 32, 3), dtype=np.uint8)
    wave = 0.1 * rng.standard_normal(round(seconds * RATE)).astype(np.float32)
    return write_video(path, frames, FPS, wave if sound else None, RATE if sound else None)


def extract(source: Any, out: Path, **options: Any) -> dict[str, Any]:
    return extract_features(source, out, **{"device": "cpu", "num_workers": 0, **options})


def rows_of(out: Path, split: str = "train") -> dict[str, dict[str, Any]]:
    """Rows by id, sequences of numbers as arrays."""
    data = load_shards(out)[split].with_format("numpy")
    return {str(row["id"]): row for row in data}


def hidden_states(model: Any, **inputs: Any) -> list[torch.Tensor]:
    with torch.no_grad():
        output = model.eval()(**inputs, output_hidden_states=True)
    return [*output.hidden_states[1:-1], output.last_hidden_state]


# --- what the features are -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", [*SPECIAL_TOKENS, "resnet", "videomae", "vivit"])
def test_frames_as_by_hand(kind: str, clips: Path, tmp_path: Path) -> None:
    """Mean over the patches of each frame, at the three layers of the tiny backbones."""
    folder = save_vision(tmp_path / kind, kind)
    extract(clips, tmp_path / "out", vision=folder, num_frames=4)
    row = rows_of(tmp_path / "out")["c1"]
    video = load_video(clips / "c1.mp4", num_frames=4)
    if kind in ("videomae", "vivit"):
        processor = transformers.VideoMAEImageProcessor.from_pretrained(folder)
    elif kind == "dinov3":
        mean, std = [0.485, 0.456, 0.406], [0.229, 0.224, 0.225]
        processor = transformers.ViTImageProcessor(
            size={"height": 16, "width": 16}, image_mean=mean, image_std=std, resample=2
        )
    else:
        processor = transformers.AutoImageProcessor.from_pretrained(folder)
    pixels = processor(list(video.frames), return_tensors="pt", input_data_format="channels_last")["pixel_values"]
    name = {"clip": "CLIPVisionModel", "siglip": "SiglipVisionModel"}.get(kind, "AutoModel")
    model = getattr(transformers, name).from_pretrained(folder)
    states = hidden_states(model, pixel_values=pixels)
    begins = video.timestamps
    if kind == "resnet":
        taps = [torch.nn.functional.pad(state.mean(dim=(2, 3)), (0, 24 - state.shape[1])) for state in states[-3:]]
        wanted = torch.stack(taps)
    elif kind in SPECIAL_TOKENS:
        wanted = torch.stack([state[:, SPECIAL_TOKENS[kind] :].mean(dim=1) for state in states])
    else:  # two tokens of time, of four patches each
        wanted = torch.stack([state[0, -8:].reshape(2, 4, 16).mean(dim=1) for state in states])
        begins = begins[::2]
    torch.testing.assert_close(torch.from_numpy(row["vision_features"]), wanted, atol=2e-5, rtol=1e-4)
    intervals = np.stack([begins, [*begins[1:], 2.5]], axis=1)
    np.testing.assert_allclose(row["vision_intervals"], intervals, atol=1e-3)


@pytest.mark.parametrize("kind", ["wav2vec2", "hubert", "wavlm", "whisper", "ast"])
def test_sound_as_by_hand(kind: str, clips: Path, tmp_path: Path) -> None:
    """Five tokens a second, each the mean of what the backbone gives in its 0.2 s."""
    folder = save_audio(tmp_path / kind, kind)
    short = tmp_path / "short"
    make_clip(short / "c.mp4", seconds=1.125)
    extract(short, tmp_path / "out", audio=folder)
    extract(short, tmp_path / "raw", audio=folder, audio_rate=None, taps="last")
    wave = load_audio(short / "c.mp4", sampling_rate=RATE)
    extractor = transformers.AutoFeatureExtractor.from_pretrained(folder)
    values = extractor(wave, sampling_rate=RATE, return_tensors="pt")
    model = transformers.AutoModel.from_pretrained(folder)
    model = model.get_encoder() if kind == "whisper" else model
    states = hidden_states(model, **{key: values[key] for key in values if key != "attention_mask"})
    if kind == "ast":  # two rows of frequency, behind two special tokens
        states = [state[:, 2:].reshape(1, 2, -1, 16).mean(dim=1) for state in states]
    taps = torch.stack([state[0] for state in states]).numpy()
    step = 0.1 if kind == "ast" else 0.02
    middles = step * (np.arange(taps.shape[1]) + 0.5)
    taps, middles = taps[:, middles < len(wave) / RATE], middles[middles < len(wave) / RATE]
    numbers = np.floor(middles / 0.2 + 1e-9).astype(int)
    wanted = np.stack([taps[:, numbers == number].mean(axis=1) for number in np.unique(numbers)], axis=1)
    row = rows_of(tmp_path / "out")["c"]
    np.testing.assert_allclose(row["audio_features"], wanted, atol=2e-5)
    np.testing.assert_allclose(row["audio_intervals"][:, 0], 0.2 * np.unique(numbers), atol=1e-6)
    np.testing.assert_allclose(row["audio_intervals"][-1, 1], min(len(wave) / RATE, 0.2 * (numbers[-1] + 1)), atol=1e-6)
    raw = rows_of(tmp_path / "raw")["c"]
    np.testing.assert_allclose(raw["audio_features"], taps[-1], atol=2e-5)
    np.testing.assert_allclose(raw["audio_intervals"][:, 0], middles - step / 2, atol=1e-6)


@pytest.mark.parametrize("kind", ["bert", "roberta", "modernbert"])
def test_text_as_by_hand(kind: str, tmp_path: Path) -> None:
    folder = save_text(tmp_path / kind, kind)
    long = " ".join(["good"] * 20)
    table = tmp_path / "texts.jsonl"
    rows = [{"id": "a", "text": "hello world"}, {"id": "b", "text": long}, {"id": "c", "text": ""}]
    table.write_text("".join(json.dumps(row) + "\n" for row in rows))
    record = extract(table, tmp_path / "out", text=folder)
    assert record["counts"] == {"rows": {"train": 2}, "failed": 1, "lacking": {"TextTruncated": 1}}
    found = rows_of(tmp_path / "out")
    ids = torch.tensor([[2, 4, 5, 6, 3]])  # [CLS] hello wor ##ld [SEP]
    model = transformers.AutoModel.from_pretrained(folder)
    wanted = torch.stack([state[0] for state in hidden_states(model, input_ids=ids)])
    torch.testing.assert_close(torch.from_numpy(found["a"]["text_features"]), wanted, atol=2e-5, rtol=1e-4)
    assert found["b"]["text_features"].shape == (3, 12, 16)


def test_long_sound_in_windows(models: dict[str, str], clips: Path, tmp_path: Path) -> None:
    """Windows of 1 s; the last one reaches back to be as long as the others, and gives what they had not."""
    extract(clips, tmp_path / "out", audio=models["audio"], window_seconds=1.0)
    row = rows_of(tmp_path / "out")["c1"]
    wave = load_audio(clips / "c1.mp4", sampling_rate=RATE)
    assert len(wave) > 2.5 * RATE - 1
    np.testing.assert_allclose(row["audio_intervals"][:, 0], 0.2 * np.arange(len(row["audio_intervals"])), atol=1e-6)
    sound = tmp_path / "middle"
    sound.mkdir()
    write_wave(sound / "m.wav", wave[RATE : 2 * RATE])
    extract(sound, tmp_path / "one", audio=models["audio"])
    middle = rows_of(tmp_path / "one")["m"]["audio_features"]
    np.testing.assert_allclose(row["audio_features"][:, 5:10], middle, atol=1e-3)  # 16-bit sound
    reader = ClipReader(Readers(smile=SmileStub()), ExtractSettings(opensmile=True, window_seconds=1.0))
    pieces = [reader.load(piece) for piece in reader.plan(next(iter(open_source(clips))))]
    assert [len(piece.smile[0]) for piece in pieces if piece.smile] == [RATE, RATE]
    assert [piece.offset for piece in pieces] == [0.0, 1.0]


class SmileStub(OpenSmile):
    """Gives the sound back as it came."""

    def __init__(self) -> None:
        self.width = 1

    def __call__(self, wave: np.ndarray) -> tuple[np.ndarray, float]:
        return wave[:, None], 1 / RATE


def write_wave(path: Path, wave: np.ndarray) -> None:
    import wave as wav

    with wav.open(str(path), "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(RATE)
        file.writeframes((wave * 32767).astype("<i2").tobytes())


def test_long_video_in_stretches(
    models: dict[str, str], clips: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Three frames at a time give the same as all at once."""
    extract(clips, tmp_path / "whole", vision=models["vision"], fps=4)
    monkeypatch.setattr("clcr_hf.extract.clips._FRAMES_AT_ONCE", 3)
    extract(clips, tmp_path / "parts", vision=models["vision"], fps=4, batch_size=5, num_workers=3)
    whole, parts = rows_of(tmp_path / "whole"), rows_of(tmp_path / "parts")
    for name, row in whole.items():
        assert row["vision_features"].shape[1] == 4 * (2.0 + int(name[1]) / 2)
        np.testing.assert_allclose(parts[name]["vision_features"], row["vision_features"], atol=1e-5)
        np.testing.assert_allclose(parts[name]["vision_intervals"], row["vision_intervals"], atol=1e-5)


def test_tracks_of_unequal_length(models: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Matroska states one length for all: frames and sound are read as far as each goes."""
    folder = tmp_path / "clips"
    frames = np.random.default_rng(0).integers(0, 255, (8, 24, 32, 3), dtype=np.uint8)
    wave = 0.1 * np.random.default_rng(0).standard_normal(3 * RATE)
    write_video(tmp_path / "both.mp4", frames, FPS, wave, RATE)
    folder.mkdir()
    with av.open(str(tmp_path / "both.mp4")) as source, av.open(str(folder / "both.mkv"), "w") as target:
        streams = {stream.index: target.add_stream_from_template(stream) for stream in source.streams}
        for packet in source.demux():
            if packet.dts is not None:
                packet.stream = streams[packet.stream.index]
                target.mux(packet)
    monkeypatch.setattr("clcr_hf.extract.clips._FRAMES_AT_ONCE", 4)
    options = {"vision": models["vision"], "audio": models["audio"], "fps": 8, "window_seconds": 1}
    assert extract(folder, tmp_path / "out", **options)["counts"] == {"rows": {"train": 1}, "failed": 0, "lacking": {}}
    row = rows_of(tmp_path / "out")["both"]
    # The sound's encoder delay, which Matroska keeps, shifts the frames.
    assert row["vision_intervals"][-1, 1] == pytest.approx(1.0, abs=0.08)
    assert row["audio_intervals"][-1, 1] == pytest.approx(3.0, abs=0.08)


def test_stretch_of_a_file(models: dict[str, str], clips: Path, tmp_path: Path) -> None:
    """A table's start and end cut clips out of a video; their times count from their own start."""
    table = tmp_path / "cuts.csv"
    table.write_text(f"id,file_name,start,end\na,{clips}/c3.mp4,0.5,1.5\nb,{clips}/c3.mp4,1.5,\n")
    extract(table, tmp_path / "out", vision=models["vision"], audio=models["audio"], fps=8, token_grid=2)
    rows = rows_of(tmp_path / "out")
    video = load_video(clips / "c3.mp4", fps=8, start=0.5, end=1.5)
    assert rows["a"]["vision_features"].shape == (3, 4 * len(video), 16)
    np.testing.assert_allclose(rows["a"]["vision_intervals"][::4, 0], video.timestamps - 0.5, atol=1e-6)
    assert rows["a"]["audio_intervals"][-1, 1] == pytest.approx(1.0)
    assert rows["b"]["vision_intervals"][-1, 1] == pytest.approx(2.0, abs=0.01)


@settings(deadline=None)
@given(
    st.integers(1, 200),
    st.sampled_from([0.02, 0.05, 0.1]),
    st.sampled_from([2.0, 5.0, 7.0]),
    st.floats(0.01, 1.0),
)
def test_pooling_covers_time_once(tokens: int, step: float, rate: float, share: float) -> None:
    """Tokens lie on the grid in order without overlap, none beyond the sound, and keep the mean of what they pool."""
    taps = np.random.default_rng(0).standard_normal((2, tokens, 3)).astype(np.float32)
    used = max(1, round(tokens * share))
    end = used * step
    pooled, times = pool_to_rate(taps, step, rate, begin=0.0, keep=0.0, end=end)
    assert pooled.shape[1] == len(times) > 0
    assert (times[1:, 0] >= times[:-1, 1] - 1e-9).all() and times[-1, 1] <= end + 1e-9
    np.testing.assert_allclose(times[:, 0] * rate, np.round(times[:, 0] * rate), atol=1e-6)
    counts = np.diff([*np.searchsorted(step * (np.arange(used) + 0.5), times[:, 0] - 1e-6), used])
    np.testing.assert_allclose((pooled * counts[:, None]).sum(axis=1), taps[:, :used].sum(axis=1), atol=1e-3)


# --- speech ----------------------------------------------------------------------------------------------------------


def test_recognised_words_and_alignment(models: dict[str, str], clips: Path, tmp_path: Path) -> None:
    """Clips without text get the recogniser's, with its words' times; aligned, every modality has a token a word."""
    options = {name: models[name] for name in ("vision", "audio", "text")}
    options |= {"transcribe": models["whisper"], "language": "en"}
    extract(clips, tmp_path / "out", align="words", **options)
    rows = rows_of(tmp_path / "out")
    heard = SpeechRecogniser(models["whisper"], language="en")(load_audio(clips / "c0.mp4", sampling_rate=RATE))
    assert rows["c0"]["text"] == heard.text and list(rows["c0"]["words"]) == heard.words != []
    for name, row in rows.items():
        words = row["word_intervals"]
        assert (words[:, 0] <= words[:, 1]).all() and words.max() <= 2.1 + int(name[1]) / 2
        for modality in ("vision", "audio", "text"):
            assert row[f"{modality}_features"].shape == (3, len(words), 16)
            np.testing.assert_array_equal(row[f"{modality}_intervals"], words)


def test_own_words_win(models: dict[str, str], clips: Path, tmp_path: Path) -> None:
    """A transcript of the table is not recognised anew; token times come from its words."""
    table = tmp_path / "t.jsonl"
    row = {"id": "a", "file_name": f"{clips}/c0.mp4", "text": "Hello, world", "words": ["hello", "world"]}
    table.write_text(json.dumps({**row, "word_intervals": [[0.25, 0.5], [0.75, 1.5]]}))
    extract(table, tmp_path / "out", text=models["text"], transcribe=models["whisper"])
    found = rows_of(tmp_path / "out")["a"]
    assert found["text"] == "Hello, world" and list(found["words"]) == ["hello", "world"]
    # [CLS] [UNK] , wor ##ld [SEP]: "Hello" is no word of the vocabulary
    wanted = [[0.25, 0.25], [0.25, 0.5], [0.5, 0.5], [0.75, 1.5], [0.75, 1.5], [1.5, 1.5]]
    np.testing.assert_allclose(found["text_intervals"], wanted)


def test_words_in_text() -> None:
    assert word_spans("Hello, World! hello", ["hello", "world", "Hello"]).tolist() == [[0, 5], [7, 12], [14, 19]]
    assert word_spans("one two", ["two", "one"]) is None
    spans = np.array([[0, 5], [6, 11]])
    tokens = TextTokens(
        np.arange(4, dtype=np.float32).reshape(1, 4, 1), np.array([[-1, -1], [0, 5], [6, 9], [9, 11]]), False
    )
    assert tokens_to_words(tokens, spans).ravel().tolist() == [1.0, 2.5]
    times = token_intervals(tokens, spans, np.array([[0.0, 1.0], [2.0, 3.0]]))
    assert times.tolist() == [[0, 0], [0, 1], [2, 3], [2, 3]]


def test_average_over_words() -> None:
    taps = np.arange(4, dtype=np.float32).reshape(1, 4, 1)
    frames = np.array([[0.0, 1.0], [1.0, 2.0], [2.0, 3.0], [3.0, 4.0]])
    words = np.array([[0.5, 1.5], [3.0, 3.0], [9.0, 9.5]])  # the second takes no time, the third lies behind
    assert average_words(taps, frames, words).ravel().tolist() == [0.5, 2.0, 3.0]


def test_transcript_times_are_mended() -> None:
    """Open ends, times beyond the sound, and blanks."""
    chunks = [
        {"text": " so", "timestamp": (0.1, None)},
        {"text": " ", "timestamp": (0.2, 0.3)},
        {"text": " it", "timestamp": (0.5, 0.4)},
        {"text": " is", "timestamp": (1.9, 2.5)},
        {"text": " .", "timestamp": (None, None)},
    ]
    found = tidy_transcript({"text": " so it is.", "chunks": chunks}, 2.0)
    assert found.text == "so it is." and found.words == ["so", "it", "is", "."]
    np.testing.assert_allclose(found.intervals, [[0.1, 0.5], [0.5, 0.5], [1.9, 2.0], [2.0, 2.0]])


def test_ctc_recogniser(tmp_path: Path) -> None:
    """Word times of a wav2vec2 that spells, in pieces where the sound is long."""
    letters = ["<pad>", "<s>", "</s>", "<unk>", "|", *"abcdefghij"]
    (tmp_path / "vocab.json").write_text(json.dumps({letter: index for index, letter in enumerate(letters)}))
    tokenizer = transformers.Wav2Vec2CTCTokenizer(str(tmp_path / "vocab.json"))
    from extract_backbones import WAVES

    torch.manual_seed(0)
    model = transformers.Wav2Vec2ForCTC(transformers.Wav2Vec2Config(**WAVES, vocab_size=len(letters), pad_token_id=0))
    for part in (tokenizer, model, transformers.Wav2Vec2FeatureExtractor()):
        part.save_pretrained(tmp_path / "ctc")
    wave = np.random.default_rng(0).standard_normal(2 * RATE).astype(np.float32)
    found = SpeechRecogniser(str(tmp_path / "ctc"))(wave)
    assert found.words == found.text.split() != []
    assert (found.intervals[:, 0] <= found.intervals[:, 1]).all() and found.intervals.max() <= 2.0


@pytest.mark.parametrize("level,width", [("lld", 25), ("functionals", 88)])
def test_opensmile(level: str, width: int, clips: Path, models: dict[str, str], tmp_path: Path) -> None:
    """eGeMAPS is the audio, or stands beside an audio backbone under its own name."""
    opensmile = pytest.importorskip("opensmile", reason="OPENSMILE ABSENT: pip install '.[opensmile]'")
    extract(clips, tmp_path / "alone", opensmile=level, audio_rate=None)
    extract(clips, tmp_path / "beside", opensmile=level, audio=models["audio"])
    row = rows_of(tmp_path / "alone")["c0"]
    wave = load_audio(clips / "c0.mp4", sampling_rate=RATE)
    name = "LowLevelDescriptors" if level == "lld" else "Functionals"
    smile = opensmile.Smile(opensmile.FeatureSet.eGeMAPSv02, getattr(opensmile.FeatureLevel, name))
    if level == "lld":
        wanted = smile.process_signal(wave, RATE).to_numpy()
        np.testing.assert_allclose(row["audio_intervals"][:, 0], 0.01 * np.arange(len(wanted)), atol=1e-5)
    else:
        wanted = smile.process_signal(wave[:RATE], RATE).to_numpy()
    np.testing.assert_allclose(row["audio_features"][: len(wanted)], wanted, rtol=1e-4, atol=1e-4)
    beside = rows_of(tmp_path / "beside")["c0"]
    assert beside["egemaps_features"].shape[1] == width and beside["audio_features"].shape[2] == 16


def test_opensmile_absent(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "opensmile", None)
    with pytest.raises(ImportError, match=r"opensmile.*clone.*not commercial"):
        OpenSmile()


# --- sources ---------------------------------------------------------------------------------------------------------


def test_folder(tmp_path: Path) -> None:
    """Splits by folder, clips that share a name, files to pass over; nothing is opened."""
    for name in ("b.mp4", "a/x.MKV", "val/y.wav", "val/y.mp4", ".hidden.mp4", "notes.txt", "test/z.webm"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    found = [(clip.id, clip.split, clip.video is None) for clip in open_source(tmp_path)]
    assert found == [
        ("a/x", "train", False),
        ("b", "train", False),
        ("test/z", "test", False),
        ("val/y.mp4", "validation", False),
        ("val/y.wav", "validation", True),
    ]
    with pytest.raises(DataFormatError, match="holds no clips"):
        list(open_source(tmp_path / "nothing" if (tmp_path / "nothing").mkdir() else tmp_path / "nothing"))
    with pytest.raises(DataFormatError, match="neither a folder nor a table"):
        open_source(tmp_path / "absent")
    with pytest.raises(DataFormatError, match="dataset 'cremat' is none of .*cremad"):
        open_source(tmp_path, dataset="cremat")


def test_layout(models: dict[str, str], tmp_path: Path) -> None:
    """A benchmark's own folder, with frames as pictures; its labels and further columns are carried over."""
    root = make_cremad(tmp_path / "cremad", clips=24)
    record = extract(root, tmp_path / "out", dataset="cremad", audio=models["audio"], vision=models["vision"], limit=6)
    rows = load_shards(tmp_path / "out")["train"]
    assert record["counts"]["rows"] == {"train": 6}
    assert rows.features["label"].names == ["NEU", "HAP", "SAD", "FEA", "DIS", "ANG"]
    assert {"actor", "sentence", "vision_features", "audio_features"} <= set(rows.column_names)
    assert all(row["vision_features"] is not None for row in rows)


def test_names_of_several_labels_reach_training(models: dict[str, str], tmp_path: Path) -> None:
    """A column of 0s and 1s cannot hold them."""
    table, out = tmp_path / "clips.csv", tmp_path / "out"
    rows = [f"t{index},good,{'glad|moved' if index % 2 else 'sad'}" for index in range(4)]
    table.write_text("\n".join(["id,text,label", *rows]))
    record = extract(table, out, text=models["text"], label_separator="|")
    assert record["label_names"] == ["glad", "moved", "sad"]
    found = load_data(DataArguments(dataset="shards", dataset_dir=str(out), validation_fraction=0))
    assert found.labels.names == record["label_names"]
    assert found.splits["train"]["label"][:2] == [[0, 0, 1], [1, 1, 0]]
    with pytest.raises(DataFormatError, match="label_names was"):
        extract(table, out, text=models["text"], label_separator="|", label_names=["sad", "moved", "glad"])


def test_layout_of_segments(models: dict[str, str], tmp_path: Path) -> None:
    """AVE: videos, a label a segment, and a `start` and `end` of the event, which do not cut the clip."""
    root = make_ave(tmp_path / "ave", clips=6)
    extract(root, tmp_path / "out", dataset="ave", audio=models["audio"], vision=models["vision"], num_frames=2)
    for split in load_shards(tmp_path / "out").values():
        for row in split:
            assert len(row["labels"]) == 10 and {"event_start", "event_end"} <= set(row)
            seconds = load_video(row["path"]).timestamps[-1]
            assert row["vision_intervals"][-1][1] == pytest.approx(seconds, abs=0.6)


def test_table_of_100_000_clips_stays_out_of_memory(tmp_path: Path) -> None:
    """Rows of 15 MB are read with little in memory but the ids."""
    table = tmp_path / "long.csv"
    with open(table, "w") as file:
        file.write("id,file_name,text,label,split\n")
        for index in range(100_000):
            file.write(f"{index},folder/{index}.mp4,{'some words of a long transcript ' * 4},{index % 7},train\n")
    source = open_source(table, task="classification")
    gc.collect()
    memory = psutil.Process().memory_info
    before, peak, labels = memory().rss, 0, []
    for index, clip in enumerate(source):
        labels.append(clip.kept["label"])
        if index % 5000 == 0:
            peak = max(peak, memory().rss - before)
    assert source.total == len(labels) == 100_000 and sum(labels) == sum(index % 7 for index in range(100_000))
    assert table.stat().st_size > 14e6 and peak < 12e6


# --- a run that goes wrong -------------------------------------------------------------------------------------------


def test_broken_files_are_listed(models: dict[str, str], clips: Path, tmp_path: Path) -> None:
    """Skipped, listed, left alone in the next run, tried again when asked; a mute clip has a row without sound."""
    folder, out = tmp_path / "clips", tmp_path / "out"
    shutil.copytree(clips, folder)
    (folder / "empty.mp4").touch()
    (folder / "noise.mp4").write_bytes(os.urandom(5000))
    whole = (clips / "c0.mp4").read_bytes()
    (folder / "short.mp4").write_bytes(whole[: len(whole) // 2])
    make_clip(folder / "mute.mp4", sound=False)
    options = {"vision": models["vision"], "audio": models["audio"]}
    record = extract(folder, out, num_workers=2, **options)
    assert record["counts"] == {"rows": {"train": 5}, "failed": 3, "lacking": {"NoAudio": 1}}
    lines = [json.loads(line) for line in (out / "failures-000.jsonl").read_text().splitlines()]
    failed = {line["id"]: line for line in lines if not line["written"]}
    assert set(failed) == {"empty", "noise", "short"} and "0 bytes" in failed["empty"]["message"]
    assert all(line["path"] == str(folder / f"{name}.mp4") and line["error"] for name, line in failed.items())
    mute = load_shards(out)["train"].filter(lambda row: row["id"] == "mute")[0]
    assert mute["audio_features"] is None and mute["vision_features"] is not None

    (folder / "empty.mp4").write_bytes(whole)
    assert extract(folder, out, **options)["counts"]["rows"] == {"train": 5}
    again = extract(folder, out, retry_failed=True, **options)
    assert again["counts"] == {"rows": {"train": 6}, "failed": 2, "lacking": {"NoAudio": 1}}
    assert '"id": "empty"' not in (out / "failures-000.jsonl").read_text()


def test_one_clip_at_fault_in_a_batch(
    models: dict[str, str], clips: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A pass that fails is taken apart: the clip at fault is listed, its neighbours are kept."""
    read = VisionBackbone.read

    def refuse_24_frames(self: Any, pixels: Any, num_frames: Any, batch_size: int) -> Any:
        if 24 in num_frames:
            raise RuntimeError("the 24 frames of c2")
        return read(self, pixels, num_frames, batch_size)

    monkeypatch.setattr(VisionBackbone, "read", refuse_24_frames)
    record = extract(clips, tmp_path / "out", vision=models["vision"], fps=8, batch_size=200)
    assert record["counts"] == {"rows": {"train": 3}, "failed": 1, "lacking": {}}
    assert json.loads((tmp_path / "out" / "failures-000.jsonl").read_text())["id"] == "c2"


@pytest.mark.parametrize("error", [torch.cuda.OutOfMemoryError("full"), MemoryError("full"), OSError(28, "full")])
def test_a_full_device_or_disk_ends_the_run(
    error: Exception, models: dict[str, str], clips: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is not written down as a fault of every clip."""
    place = (ShardSet, "write") if isinstance(error, OSError) else (VisionBackbone, "read")

    def refuse(*_: Any) -> None:
        raise error

    monkeypatch.setattr(*place, refuse)
    with pytest.raises(type(error), match="full"):
        extract(clips, tmp_path / "out", vision=models["vision"])
    assert (tmp_path / "out" / "failures-000.jsonl").read_text() == ""
    monkeypatch.undo()
    assert extract(clips, tmp_path / "out", vision=models["vision"])["counts"]["rows"] == {"train": 4}


def test_a_setting_at_fault_ends_the_run(models: dict[str, str], tmp_path: Path) -> None:
    """Words are to be aligned and no row has any: 20 rows are enough to see it."""
    table = tmp_path / "t.csv"
    table.write_text("text\n" + "good\n" * 50)
    with pytest.raises(DataFormatError, match="first 20 clips all failed alike .*no words with times"):
        extract(table, tmp_path / "out", text=models["text"], align="words")
    assert len((tmp_path / "out" / "failures-000.jsonl").read_text().splitlines()) == 20


# Takes the clips, the folder of the features and the options as JSON, and kills itself at the fourth row.
KILLED = """
import json, os, signal, sys
from clcr_hf.data.shards import ShardSet
from clcr_hf.extract import extract_features
write, seen = ShardSet.write, []
def write_three(self, split, row):
    if len(seen) == 3:
        os.kill(os.getpid(), signal.SIGKILL)
    seen.append(row["id"])
    write(self, split, row)
ShardSet.write = write_three
extract_features(sys.argv[1], sys.argv[2], **json.loads(sys.argv[3]))
"""


@pytest.mark.parametrize("killed", [False, True], ids=["interrupted", "killed"])
def test_stopped_and_resumed(
    killed: bool, models: dict[str, str], clips: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Complete shards stay, the rest is done anew, and the rows are those of a run in one go."""
    options = {"vision": models["vision"], "audio": models["audio"], "rows_per_shard": 2}
    extract(clips, tmp_path / "whole", **options)
    write = ShardSet.write
    seen: list[str] = []

    def write_three(self: ShardSet, split: str, row: Any) -> None:
        if len(seen) == 3:
            raise KeyboardInterrupt
        seen.append(row["id"])
        write(self, split, row)

    if killed:
        words = json.dumps({**options, "batch_size": 1, "device": "cpu", "num_workers": 0})
        child = subprocess.run([sys.executable, "-c", KILLED, str(clips), str(tmp_path / "out"), words], timeout=900)
        assert child.returncode == -signal.SIGKILL
    else:
        monkeypatch.setattr(ShardSet, "write", write_three)
        with pytest.raises(KeyboardInterrupt):
            extract(clips, tmp_path / "out", batch_size=1, **options)
    monkeypatch.undo()
    kept = {path: path.read_bytes() for path in shard_files(tmp_path / "out", "train")}
    assert len(kept) == (1 if killed else 2)
    with pytest.raises(DataFormatError, match="has not finished"):
        load_shards(tmp_path / "out")
    record = extract(clips, tmp_path / "out", num_workers=2, **options)
    assert record["counts"]["rows"] == {"train": 4}
    assert all(path.read_bytes() == content for path, content in kept.items())
    assert_same_rows(rows_of(tmp_path / "out"), rows_of(tmp_path / "whole"))


def assert_same_rows(found: dict[str, dict[str, Any]], wanted: dict[str, dict[str, Any]]) -> None:
    assert found.keys() == wanted.keys()
    for name, row in wanted.items():
        for column, value in row.items():
            if isinstance(value, np.ndarray) and value.dtype.kind == "f":
                np.testing.assert_allclose(found[name][column], value, atol=1e-5)
            else:
                assert np.array_equal(found[name][column], value)


def test_other_settings_are_refused(models: dict[str, str], clips: Path, tmp_path: Path) -> None:
    extract(clips, tmp_path / "out", vision=models["vision"], num_frames=2)
    with pytest.raises(DataFormatError, match="num_frames was 2, now 3"):
        extract(clips, tmp_path / "out", vision=models["vision"], num_frames=3)
    with pytest.raises(DataFormatError, match="source was"):
        extract(tmp_path, tmp_path / "out", vision=models["vision"], num_frames=2)
    for wrong in ({}, {"vision": models["vision"], "fps": 1, "num_frames": 2}, {"vision": "x", "align": "frames"}):
        with pytest.raises(ValueError):
            extract(clips, tmp_path / "other", **wrong)
    with pytest.raises(ValueError, match=r"must lie in 0\.\.3"):
        extract(clips, tmp_path / "other", vision=models["vision"], taps=[1, 2, 7])
    assert not (tmp_path / "other").exists()


def test_two_processes(models: dict[str, str], clips: Path, tmp_path: Path) -> None:
    """Two real processes share the clips; one process finds nothing left to do, and the rows are the same."""
    folder = tmp_path / "clips"
    shutil.copytree(clips, folder)
    (folder / "empty.mp4").touch()
    words = [str(folder), str(tmp_path / "two"), "--vision", models["vision"], "--num-frames", "4"]
    launch = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]
    run = subprocess.run(
        [*launch, "-m", "clcr_hf.extract", *words, "--device", "cpu", "--num-workers", "0"],
        capture_output=True,
        text=True,
        timeout=900,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    assert run.returncode == 0, run.stderr
    files = {path.name for path in shard_files(tmp_path / "two", "train")}
    assert files == {"train-000-00000.parquet", "train-001-00000.parquet"}
    before = rows_of(tmp_path / "two")
    record = extract(folder, tmp_path / "two", vision=models["vision"], num_frames=4, taps="early-middle-late")
    assert record["counts"] == {"rows": {"train": 4}, "failed": 1, "lacking": {}}
    assert {path.name for path in shard_files(tmp_path / "two", "train")} == files
    extract(clips, tmp_path / "one", vision=models["vision"], num_frames=4)
    wanted = rows_of(tmp_path / "one")
    for rows in (before, wanted):
        for row in rows.values():
            row.pop("path")
    assert_same_rows(before, wanted)


# --- from clips to a model -------------------------------------------------------------------------------------------


def test_from_a_folder_of_clips_to_training(
    models: dict[str, str], clips: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """mp4 files and a table of labels, the command, the shards, and a training step of a model that reads the taps."""
    from clcr_hf.cli.main import main

    folder = tmp_path / "clips"
    shutil.copytree(clips, folder)
    lines = [f"c{index}.mp4,{'sad' if index % 2 else 'glad'},{'it was good'}" for index in range(4)]
    (folder / "metadata.csv").write_text("\n".join(["file_name,label,text", *lines]))
    command = ["extract", str(folder), str(tmp_path / "out"), "--device", "cpu", "--json", "--num-frames", "4"]
    with pytest.raises(SystemExit) as leave:
        main([*command, *(word for name in ("vision", "audio", "text") for word in (f"--{name}", models[name]))])
    assert leave.value.code == 0
    assert json.loads(capsys.readouterr().out)["counts"]["rows"] == {"train": 4}
    rows = load_shards(tmp_path / "out")["train"]
    assert rows.features["label"].names == ["glad", "sad"]
    taps = {f"{name}_config": {"feature_size": 16, "source": "taps"} for name in ("text", "vision", "audio")}
    model = CLCRForSequenceClassification(CLCRConfig(**taps, hidden_size=16, num_labels=2))
    batch = CLCRDataCollator()(list(rows.with_format("numpy")))
    assert batch["vision_features"].shape == (4, 3, 4, 16) and batch["labels"].tolist() == [0, 1, 0, 1]
    before = [parameter.clone() for parameter in model.parameters()]
    loss = model(**batch).loss
    loss.backward()
    torch.optim.SGD(model.parameters(), lr=0.1).step()
    assert torch.isfinite(loss)
    assert any(not torch.equal(old, new) for old, new in zip(before, model.parameters(), strict=True))


# --- settings --------------------------------------------------------------------------------------------------------


def test_every_setting_is_an_option_of_the_command_and_a_row_of_the_docs(tmp_path: Path) -> None:
    from typer.main import get_command

    import clcr_hf.cli.rows  # noqa: F401  (adds the commands)
    from clcr_hf.cli.app import app

    options = {word for each in get_command(app).commands["extract"].params for word in each.opts}  # type: ignore[attr-defined]
    assert {flag_of(each) for each in fields(ExtractSettings)} <= options
    docs = Path(__file__).resolve().parents[1] / "docs" / "extract.md"
    assert table() in docs.read_text(encoding="utf-8")


def test_words_of_the_command_are_settings() -> None:
    words = {each.name: each.default for each in fields(ExtractSettings)} | {"keep_columns": None}
    given = {"vision": "x", "taps": "4,8", "audio_rate": 0.0, "label_names": "sad,glad", "dataset_options": "fold=2"}
    found = ExtractSettings.from_words(**words | given)
    assert (found.taps, found.audio_rate, found.label_names) == ([4, 8], None, ["sad", "glad"])
    assert found.dataset_options == {"fold": 2} and found.keep_columns == ()
    assert ExtractSettings(opensmile="functionals") == ExtractSettings(opensmile=True, opensmile_level="functionals")
    assert ExtractSettings(opensmile=True).identity()["opensmile"] == "lld"
    with pytest.raises(ValueError, match="limit must be positive"):
        ExtractSettings(vision="x", limit=0)
    with pytest.raises(TypeError, match="layout"):
        ExtractSettings(vision="x", layout="cremad")


@pytest.mark.parametrize(
    ("name", "given", "message"),
    [
        ("clips", {"label_column": "mood"}, "a folder of clips does not use label_column"),
        ("clips.csv", {"split": "test"}, "a table does not use split"),
        ("clips", {"dataset": "cremad", "task": "regression"}, "the data set cremad does not use task"),
        ("clips", {"dataset_options": {"fold": 1}}, "a folder of clips does not use dataset_options"),
    ],
)
def test_options_that_a_source_does_not_use(tmp_path: Path, name: str, given: dict[str, Any], message: str) -> None:
    (tmp_path / "clips").mkdir()
    (tmp_path / "clips.csv").write_text("text,label\nhello,1\n")
    with pytest.raises(ValueError, match=message):
        open_source(tmp_path / name, **given)
