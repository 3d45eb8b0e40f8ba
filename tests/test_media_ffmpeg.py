"""Clips as ffmpeg itself reads them: small files of many pairs of container and codec, committed with what ffmpeg
says of each; and the same made anew where ffmpeg is installed. See media/make.py."""

import shutil
from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path

import numpy as np
import pytest
from media import make

from clcr_hf.media import MediaClip, load_media, track_lengths

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
