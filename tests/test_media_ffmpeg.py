"""Clips as ffmpeg itself reads them: small files of many pairs of container and codec, committed with what ffmpeg
says of each; and the same made anew where ffmpeg is installed. See media/make.py."""

import shutil
from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from media import make

from clcr_hf.media import MediaClip, load_audio, load_media, load_video, track_lengths
from clcr_hf.media_windows import read_windows, window_spans

pytest.importorskip("av")

FILES = make.HERE / "files"
MADE = sorted(path.name for path in FILES.iterdir())
AFTER_ALL = 0.13  # seconds by which ffmpeg may tell another end: a packet, or a frame whose length is told nowhere


@lru_cache
def expected() -> dict[str, dict[str, np.ndarray]]:
    found: dict[str, dict[str, np.ndarray]] = {}
    with np.load(make.HERE / "expected.npz") as arrays:
        for key in arrays.files:
            name, kind = key.split("/")
            found.setdefault(name, {})[kind] = arrays[key]
    return found


@lru_cache
def whole(name: str) -> MediaClip:
    return load_media(FILES / name)


def compare(path: Path, told: Mapping[str, np.ndarray]) -> None:
    clip = load_media(path, sampling_rate=make.RATE)
    assert (clip.video is None, clip.audio is None) == ("frames" not in told, "wave" not in told)
    for found, end in zip(track_lengths(path), told["ends"], strict=True):
        assert (found is None and np.isnan(end)) or abs(found - end) < AFTER_ALL, (found, end)
    assert abs(clip.duration - np.nanmax(told["ends"])) < AFTER_ALL
    if clip.video is not None:
        means = np.stack([make._means(frame) for frame in clip.video.frames])
        assert means.shape == told["frames"].shape
        difference = np.abs(means.astype(int) - told["frames"]).mean((1, 2, 3))
        assert difference.max() < 4, difference.round(1)
        np.testing.assert_allclose(clip.video.timestamps, told["times"], atol=0.0011)
        assert (np.diff(clip.video.timestamps) > 0).all()
    if clip.audio is not None:
        wave = told["wave"] / 32768
        assert abs(clip.audio.size - wave.size) < AFTER_ALL * make.RATE, (clip.audio.size, wave.size)
        size = min(clip.audio.size, wave.size) - 100
        error = np.abs(clip.audio[:size] - wave[:size])
        assert np.sqrt((error**2).mean()) < 0.02 * np.sqrt((wave**2).mean()), error.reshape(-1)[:: size // 20].round(3)


def test_there_are_many_pairs() -> None:
    assert set(MADE) == set(expected()) == set(make.NAMES)
    pairs = {(name.split(".")[-1], *make.PAIRS[name]) for name in make.PAIRS}
    assert len(pairs) >= 45 and sum(path.stat().st_size for path in make.HERE.rglob("*")) < 3_000_000


@pytest.mark.parametrize("name", MADE)
def test_committed_files_read_as_ffmpeg_reads_them(name: str) -> None:
    compare(FILES / name, expected()[name])


@pytest.mark.parametrize("name", make.NAMES)
def test_files_made_now_read_as_ffmpeg_reads_them(name: str, tmp_path_factory: pytest.TempPathFactory) -> None:
    if shutil.which("ffmpeg") is None:
        pytest.skip("NOT COMPARED WITH FFMPEG: it is not installed; the committed files are compared all the same")
    folder = tmp_path_factory.getbasetemp() / "made_by_ffmpeg"
    folder.mkdir(exist_ok=True)
    try:
        path = make.make(name, folder)
    except RuntimeError as error:
        pytest.skip(f"NOT COMPARED WITH FFMPEG: this one cannot make {name} ({error})")
    compare(path, make.read(path))


# --- properties ---


@settings(max_examples=80, deadline=None)
@given(name=st.sampled_from(MADE), begin=st.floats(0, 1.9), length=st.floats(0.01, 1.5) | st.none())
def test_a_window_is_that_part_of_the_whole(name: str, begin: float, length: float | None) -> None:
    clip, end = whole(name), None if length is None else begin + length
    if clip.video is not None:
        shown = clip.video.timestamps >= begin
        shown &= clip.video.timestamps < (np.inf if end is None else end)
        if shown.any():
            part = load_video(FILES / name, start=begin, end=end)
            np.testing.assert_array_equal(part.timestamps, clip.video.timestamps[shown])
            np.testing.assert_array_equal(part.frames, clip.video.frames[shown])
    if clip.audio is not None and clip.sampling_rate is not None:
        for rate in (clip.sampling_rate, 16_000):
            all_of_it = clip.audio if rate == clip.sampling_rate else resampled(name, rate)
            wanted = all_of_it[round(begin * rate) : None if end is None else round(end * rate)]
            np.testing.assert_array_equal(load_audio(FILES / name, sampling_rate=rate, start=begin, end=end), wanted)


@lru_cache
def resampled(name: str, rate: int) -> np.ndarray:
    return load_audio(FILES / name, sampling_rate=rate)


@settings(max_examples=80, deadline=None)
@given(
    name=st.sampled_from([name for name in MADE if "frames" in expected()[name]]),
    wanted=st.integers(1, 60) | st.floats(0.5, 40.0),
    begin=st.just(0.0) | st.floats(0, 0.9),
    length=st.none() | st.floats(0.2, 1.5),
)
@example(name="xvid_mp3.avi", wanted=1, begin=0.0, length=None)  # 25 packets, 22 frames
def test_of_each_moment_the_frame_on_screen(name: str, wanted: int | float, begin: float, length: float | None) -> None:
    every = whole(name).video
    assert every is not None
    end = track_lengths(FILES / name)[0] if length is None else begin + length
    assert end is not None
    how = {"num_frames": wanted} if isinstance(wanted, int) else {"fps": wanted}
    clip = load_video(FILES / name, start=begin, end=None if length is None else end, **how)  # type: ignore[arg-type]
    assert (np.diff(clip.timestamps) >= 0).all()
    places = np.searchsorted(every.timestamps, clip.timestamps)
    np.testing.assert_array_equal(every.timestamps[places], clip.timestamps)
    np.testing.assert_array_equal(every.frames[places], clip.frames)
    if isinstance(wanted, int):
        end = min(end, track_lengths(FILES / name)[0] or 0.0)
        if name.endswith(".avi"):  # packets may bring no frame: the video ends where its last frame does
            end = min(end, float(every.timestamps[-1] + np.diff(every.timestamps).max()))
        moments = begin + (np.arange(wanted) + 0.5) * (end - begin) / wanted
        first, last = (
            np.maximum(np.searchsorted(every.timestamps, moments + shift, side="right") - 1, 0) for shift in (0, 1.1e-3)
        )
        assert ((first <= places) & (places <= last)).all(), (first, places)
    once = clip.distinct()
    assert once.timestamps.tolist() == sorted(set(clip.timestamps.tolist()))


@pytest.mark.parametrize("name", MADE)
def test_windows_read_in_one_go_are_those_parts_too(name: str) -> None:
    clip = whole(name)
    how = {"num_frames": 3, "sampling_rate": 16_000}
    spans = window_spans(clip.duration, 0.7, 0.4)
    for (start, end), window in zip(spans, read_windows(FILES / name, spans, **how), strict=True):
        if window.audio is not None:
            wanted = resampled(name, 16_000)[round(start * 16_000) : round(end * 16_000)]
            np.testing.assert_array_equal(window.audio, wanted)
        if window.video is not None:
            alone = load_video(FILES / name, num_frames=3, start=start, end=end)
            np.testing.assert_array_equal(window.video.timestamps, alone.timestamps)
            np.testing.assert_array_equal(window.video.frames, alone.frames)
        assert (window.audio is not None) >= (clip.audio is not None and start < clip.duration - 0.3)
