"""Pictures through torchcodec on the CPU: the same frames and times as PyAV. Decoding on a GPU is not tested here."""

import io
import sys
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from clcr_hf.media import MediaError, load_media, load_video, write_video

av = pytest.importorskip("av")


def loads() -> str:
    """Why torchcodec cannot be used here; empty where it can."""
    try:
        import torchcodec.decoders  # noqa: F401
    except (ImportError, OSError, RuntimeError) as error:
        return f"{type(error).__name__}: {str(error).splitlines()[0]}"
    return ""


needs_torchcodec = pytest.mark.skipif(bool(loads()), reason=f"TORCHCODEC ABSENT, its path is not tested: {loads()}")


def pictures(count: int) -> np.ndarray:
    blocks = np.random.default_rng(0).integers(0, 255, (count, 6, 8, 3), np.uint8)
    return blocks.repeat(8, 1).repeat(8, 2)


def uneven(path: Path) -> Path:
    with av.open(str(path), "w") as box:
        stream = box.add_stream("libx264", rate=10)
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
        stream.codec_context.time_base = Fraction(1, 1000)
        for picture, time in zip(pictures(5), [0, 33, 34, 400, 1000], strict=True):
            frame = av.VideoFrame.from_ndarray(picture, format="rgb24")
            frame.pts, frame.time_base = time, Fraction(1, 1000)
            box.mux(stream.encode(frame))
        box.mux(stream.encode())
    return path


def turned(path: Path) -> Path:
    with av.open(str(path), "w") as box:
        stream = box.add_stream("libx264", rate=10)
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
        if not hasattr(stream, "set_display_rotation"):
            pytest.skip("this PyAV cannot write a rotation")
        stream.set_display_rotation(90)
        for picture in pictures(3):
            box.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
        box.mux(stream.encode())
    return path


def late(path: Path) -> Path:
    with av.open(str(path), "w") as box:
        stream = box.add_stream("libx264", rate=25)
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
        for index, picture in enumerate(pictures(6)):
            frame = av.VideoFrame.from_ndarray(picture, format="rgb24")
            frame.pts, frame.time_base = 500 + index, Fraction(1, 25)
            box.mux(stream.encode(frame))
        box.mux(stream.encode())
    return path


MAKERS: dict[str, Any] = {
    "even.mp4": lambda path: write_video(path, pictures(20), 10, np.zeros(32_000, np.float32), 16_000),
    "thirds.mp4": lambda path: write_video(path, pictures(20), 30_000 / 1001),
    "uneven.mp4": uneven,
    "uneven.mkv": uneven,
    "turned.mp4": turned,
}
WISHES: list[dict[str, Any]] = [
    {},
    {"num_frames": 1},
    {"num_frames": 7},
    {"num_frames": 50},
    {"fps": 10},
    {"fps": 7.3},
    {"start": 0.04},
    {"start": 0.03, "end": 0.25},
    {"num_frames": 3, "start": 0.05, "end": 0.2},
]


@needs_torchcodec
@pytest.mark.parametrize("name", MAKERS)
def test_frames_and_times_are_those_of_pyav(name: str, tmp_path: Path) -> None:
    path = MAKERS[name](tmp_path / name)
    for wish in WISHES:
        expected = load_video(path, **wish)
        found = load_video(path, backend="torchcodec", **wish)
        np.testing.assert_allclose(found.timestamps, expected.timestamps, atol=1e-6, err_msg=str(wish))
        assert found.frames.dtype == np.uint8 and found.timestamps.dtype == np.float64
        assert found.frames.shape == expected.frames.shape
        # Two builds of FFmpeg may round a colour differently.
        assert np.abs(found.frames.astype(int) - expected.frames).max() <= 2, wish


@needs_torchcodec
def test_a_stream_that_starts_late_is_the_same_or_refused(tmp_path: Path) -> None:
    path = late(tmp_path / "late.ts")
    expected = load_video(path)
    assert expected.timestamps[0] == 0
    try:  # torchcodec 0.13 does not find the last frame of such a short transport stream
        found = load_video(path, backend="torchcodec")
    except MediaError as error:
        assert "try backend='pyav'" in str(error)
    else:
        np.testing.assert_allclose(found.timestamps, expected.timestamps, atol=1e-6)


@needs_torchcodec
def test_sources_and_sound(tmp_path: Path) -> None:
    path = MAKERS["even.mp4"](tmp_path / "a.mp4")
    content = path.read_bytes()
    expected = load_media(path, num_frames=4, sampling_rate=8000)
    assert expected.video is not None and expected.audio is not None
    with path.open("rb") as opened:
        for source in (str(path), path, content, bytearray(content), io.BytesIO(content), opened):
            found = load_media(source, num_frames=4, sampling_rate=8000, backend="torchcodec")
            assert found.video is not None
            np.testing.assert_array_equal(found.video.timestamps, expected.video.timestamps)
            np.testing.assert_array_equal(found.audio, expected.audio)
            assert found.sampling_rate == 8000
    mute = write_video(tmp_path / "mute.mp4", pictures(4), 10)
    assert load_media(mute, backend="torchcodec").audio is None


@needs_torchcodec
def test_errors_are_the_same(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = MAKERS["even.mp4"](tmp_path / "a.mp4")
    for share in (0.0, 0.05, 0.5, 0.95):
        cut = tmp_path / "cut.mp4"
        cut.write_bytes(path.read_bytes()[: int(share * path.stat().st_size)])
        with pytest.raises(MediaError, match=r"cut\.mp4"):
            load_video(cut, backend="torchcodec")
    with pytest.raises(MediaError, match="no video"):
        load_video(path, start=9.0, num_frames=2, backend="torchcodec")
    with pytest.raises(MediaError, match=r"no video frame from 9\.0 s to its end"):
        load_video(path, start=9.0, backend="torchcodec")
    monkeypatch.setattr("clcr_hf.media.MAX_BYTES", 3 * 48 * 64 * 3)
    with pytest.raises(MediaError, match="would give more"):
        load_video(path, backend="torchcodec")
    assert len(load_video(path, num_frames=3, backend="torchcodec")) == 3


@needs_torchcodec
@pytest.mark.skipif(torch.cuda.is_available(), reason="a GPU is there")
def test_a_gpu_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="no CUDA device"):
        load_video(MAKERS["even.mp4"](tmp_path / "a.mp4"), device="cuda")


def test_without_torchcodec_the_extra_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write_video(tmp_path / "a.mp4", pictures(2), 10)
    monkeypatch.setitem(sys.modules, "torchcodec", None)
    monkeypatch.setitem(sys.modules, "torchcodec.decoders", None)
    for wish in ({"backend": "torchcodec"}, {"device": "cuda"}):
        with pytest.raises(ImportError, match=r"clcr-hf\[gpu-media\]"):
            load_video(path, **wish)  # type: ignore[arg-type]
    assert len(load_video(path)) == 2


def test_contradictions_are_refused(tmp_path: Path) -> None:
    path = write_video(tmp_path / "a.mp4", pictures(2), 10)
    with pytest.raises(ValueError, match="PyAV decodes on the CPU"):
        load_video(path, device="cuda", backend="pyav")
    with pytest.raises(ValueError, match="auto, pyav or torchcodec"):
        load_media(path, backend="decord")  # type: ignore[arg-type]
