"""Reading and writing clips: exact times, windows, formats, and plain errors."""

import contextlib
import io
import sys
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from clcr_hf.media import MediaError, load_audio, load_media, load_video, resample_audio, write_video

av = pytest.importorskip("av")

FPS, COUNT, RATE = 10, 20, 16_000


def tone(rate: int, seconds: float, hertz: float = 440.0) -> np.ndarray:
    return (0.5 * np.sin(2 * np.pi * hertz * np.arange(int(rate * seconds)) / rate)).astype(np.float32)


def grey_ramp() -> np.ndarray:
    """Frame k is grey of level 12 k, so a decoded frame says which one it is."""
    return np.broadcast_to((12 * np.arange(COUNT, dtype=np.uint8))[:, None, None, None], (COUNT, 48, 64, 3)).copy()


def frame_numbers(frames: np.ndarray) -> list[int]:
    return np.round(frames.mean((1, 2, 3)) / 12).astype(int).tolist()


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("media") / "clip.mp4"
    return write_video(path, grey_ramp(), FPS, tone(RATE, 2.0), RATE)


def encode_sound(path: Path, codec: str, rate: int, channels: np.ndarray) -> Path:
    with av.open(str(path), "w") as box:
        stream = box.add_stream(codec, rate=rate, layout="stereo")
        frame = av.AudioFrame.from_ndarray(channels, format="fltp", layout="stereo")
        frame.sample_rate, frame.pts = rate, 0
        box.mux(stream.encode(frame))
        box.mux(stream.encode())
    return path


# --- pictures ---


def test_all_frames_in_order_with_their_times(clip: Path) -> None:
    video = load_video(clip)
    assert video.frames.shape == (COUNT, 48, 64, 3) and video.frames.dtype == np.uint8
    assert frame_numbers(video.frames) == list(range(COUNT))
    np.testing.assert_allclose(video.timestamps, np.arange(COUNT) / FPS, atol=1e-9)
    assert video.timestamps.dtype == np.float64


def test_a_number_of_frames_is_spread_over_the_whole_clip(clip: Path) -> None:
    video = load_video(clip, num_frames=5)
    assert frame_numbers(video.frames) == [2, 6, 10, 14, 18]
    np.testing.assert_allclose(video.timestamps, [0.2, 0.6, 1.0, 1.4, 1.8], atol=1e-9)


def test_more_frames_than_there_are_repeats_some(clip: Path) -> None:
    assert frame_numbers(load_video(clip, num_frames=40).frames) == [k // 2 for k in range(40)]


def test_rate_takes_the_frame_on_screen(clip: Path) -> None:
    assert frame_numbers(load_video(clip, fps=4).frames) == [0, 2, 5, 7, 10, 12, 15, 17]
    assert frame_numbers(load_video(clip, fps=FPS).frames) == list(range(COUNT))


def test_window_of_pictures(clip: Path) -> None:
    video = load_video(clip, start=1.0, end=1.5)
    assert frame_numbers(video.frames) == [10, 11, 12, 13, 14]
    assert frame_numbers(load_video(clip, num_frames=2, start=1.0).frames) == [12, 17]


@settings(max_examples=25, deadline=None)
@given(num_frames=st.integers(1, 50), begin=st.floats(0, 1.8), length=st.floats(0.11, 3))
def test_sampled_frames_lie_in_the_window_in_order(clip: Path, num_frames: int, begin: float, length: float) -> None:
    video = load_video(clip, num_frames=num_frames, start=begin, end=begin + length)
    assert len(video) == num_frames
    assert (np.diff(video.timestamps) >= 0).all()
    # The frame on screen at `start` may have come up to one frame earlier.
    assert begin - 1 / FPS - 1e-6 <= video.timestamps[0] and video.timestamps[-1] < begin + length
    assert frame_numbers(video.frames) == np.round(video.timestamps * FPS).astype(int).tolist()


def test_uneven_frame_times_are_reported_as_they_are(tmp_path: Path) -> None:
    path, times = tmp_path / "uneven.mp4", [0, 1, 2, 10, 19]
    with av.open(str(path), "w") as box:
        stream = box.add_stream("libx264", rate=10)
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
        for picture, time in zip(grey_ramp(), times, strict=False):
            frame = av.VideoFrame.from_ndarray(picture, format="rgb24")
            frame.pts, frame.time_base = time, Fraction(1, 10)
            box.mux(stream.encode(frame))
        box.mux(stream.encode())
    np.testing.assert_allclose(load_video(path).timestamps, np.array(times) / 10, atol=1e-6)
    assert frame_numbers(load_video(path, fps=2).frames)[:3] == [0, 2, 3]


def test_rotation_in_the_file_is_undone(tmp_path: Path) -> None:
    path = tmp_path / "rotated.mp4"
    stored = np.zeros((48, 64, 3), np.uint8)
    stored[:24] = 255
    with av.open(str(path), "w") as box:
        stream = box.add_stream("libx264", rate=10)
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
        if not hasattr(stream, "set_display_rotation"):
            pytest.skip("this PyAV cannot write a rotation")
        stream.set_display_rotation(90)
        for _ in range(3):
            box.mux(stream.encode(av.VideoFrame.from_ndarray(stored, format="rgb24")))
        box.mux(stream.encode())
    picture = load_video(path).frames[0]
    assert picture.shape == (64, 48, 3)
    assert picture[:, :20].mean() > 230 and picture[:, -20:].mean() < 25  # turned counter-clockwise: top goes left


# --- sound ---


def test_sound_of_a_clip(clip: Path) -> None:
    wave = load_audio(clip, sampling_rate=RATE)
    assert wave.dtype == np.float32 and wave.ndim == 1 and abs(wave.size - 2 * RATE) <= 1024
    np.testing.assert_allclose(wave[2000:30000], tone(RATE, 2.0)[2000:30000], atol=0.05)


def test_sound_is_resampled_and_cut(clip: Path) -> None:
    wave = load_audio(clip, sampling_rate=8000, start=0.5, end=1.5)
    assert wave.shape == (8000,)
    np.testing.assert_allclose(wave[50:-50], tone(8000, 2.0)[4050:11950], atol=0.02)


@pytest.mark.parametrize(
    ("name", "codec", "rate"),
    [
        ("a.wav", "pcm_s16le", 22050),
        ("a.flac", "flac", 44100),
        ("a.mp3", "libmp3lame", 44100),
        ("a.ogg", "libopus", 48000),
        ("a.webm", "libopus", 48000),
        ("a.m4a", "aac", 44100),
    ],
)
def test_sound_formats(tmp_path: Path, name: str, codec: str, rate: int) -> None:
    left = tone(rate, 1.0)
    path = encode_sound(tmp_path / name, codec, rate, np.stack([left, np.zeros_like(left)]))
    wave = load_audio(path, sampling_rate=RATE)
    np.testing.assert_allclose(wave[1000:15000], tone(RATE, 1.0)[1000:15000] / 2, atol=0.03)
    both = load_audio(path, sampling_rate=RATE, mono=False)
    assert both.shape == (2, wave.size)
    np.testing.assert_allclose(both.mean(0), wave, atol=1e-5)
    part = load_audio(path, sampling_rate=RATE, start=0.6, end=0.8)
    np.testing.assert_allclose(part, wave[9600:12800], atol=0.01)
    assert load_media(path).sampling_rate == rate and load_media(path).video is None


# --- both, and kinds of source ---


def test_path_text_bytes_and_files_give_the_same(clip: Path) -> None:
    content = clip.read_bytes()
    whole = load_media(clip, num_frames=4, sampling_rate=8000)
    with clip.open("rb") as opened:
        for source in (str(clip), content, io.BytesIO(content), bytearray(content), opened):
            other = load_media(source, num_frames=4, sampling_rate=8000)
            assert whole.video is not None and other.video is not None
            np.testing.assert_array_equal(other.video.frames, whole.video.frames)
            np.testing.assert_array_equal(other.audio, whole.audio)
    assert whole.sampling_rate == 8000


def test_stream_that_cannot_seek_is_read(clip: Path) -> None:
    class Pipe(io.RawIOBase):
        def __init__(self, content: bytes):
            self.content = io.BytesIO(content)

        def read(self, size: int = -1) -> bytes:
            return self.content.read(size)

        def seekable(self) -> bool:
            return False

    assert len(load_video(Pipe(clip.read_bytes()))) == COUNT  # type: ignore[arg-type]


def test_missing_tracks(clip: Path, tmp_path: Path) -> None:
    silent = write_video(tmp_path / "silent.mp4", grey_ramp(), FPS)
    assert load_media(silent).audio is None and load_media(silent).sampling_rate is None
    with pytest.raises(MediaError, match=r"silent\.mp4 has no audio track"):
        load_audio(silent, sampling_rate=RATE)
    sound = encode_sound(tmp_path / "sound.wav", "pcm_s16le", RATE, np.stack([tone(RATE, 0.5)] * 2))
    assert load_media(sound).video is None
    with pytest.raises(MediaError, match=r"sound\.wav has no video track"):
        load_video(sound)


# --- errors ---


@pytest.mark.parametrize("share", [0.0, 0.001, 0.05, 0.3, 0.7, 0.99])
def test_cut_files_are_refused_by_name(clip: Path, tmp_path: Path, share: float) -> None:
    content = clip.read_bytes()
    path = tmp_path / "cut.mp4"
    path.write_bytes(content[: int(share * len(content))])
    with pytest.raises(MediaError, match=r"cut\.mp4.*(copy|export)"):
        load_media(path)


@settings(max_examples=40, deadline=None)
@given(garbage=st.binary(max_size=2000))
def test_garbage_is_refused(garbage: bytes) -> None:
    with pytest.raises(MediaError):
        load_media(garbage)


@settings(max_examples=40, deadline=None)
@given(data=st.data())
def test_damaged_clips_give_a_clip_or_a_media_error(clip: Path, data: st.DataObject) -> None:
    content = bytearray(clip.read_bytes())
    for _ in range(data.draw(st.integers(1, 20))):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    with contextlib.suppress(MediaError):
        assert load_media(bytes(content), num_frames=3) is not None


def test_a_track_of_an_unknown_codec_is_one_error(clip: Path) -> None:
    unknown = clip.read_bytes().replace(b"mp4a", b"zzzz").replace(b"esds", b"zzzz")
    for load in (load_media, lambda source: load_audio(source, sampling_rate=RATE)):
        with pytest.raises(MediaError, match="unknown codec"):
            load(unknown)
    assert len(load_video(unknown)) == COUNT


def test_other_mistakes(clip: Path, tmp_path: Path) -> None:
    with pytest.raises(MediaError, match="does not exist"):
        load_media(tmp_path / "none.mp4")
    with pytest.raises(MediaError, match="is a folder"):
        load_media(tmp_path)
    with pytest.raises(MediaError, match="download"):
        load_media("https://example.org/clip.mp4")
    with pytest.raises(MediaError, match="no video"):
        load_video(clip, num_frames=3, start=5.0)
    with pytest.raises(TypeError, match="path, bytes"):
        load_media(3)  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="binary"):
        load_media(io.StringIO("words"))  # type: ignore[arg-type]
    for wrong in ({"num_frames": 0}, {"fps": 0}, {"num_frames": 2, "fps": 2}, {"start": -1}, {"start": 1, "end": 1}):
        with pytest.raises(ValueError, match="must|not both"):
            load_video(clip, **wrong)  # type: ignore[arg-type]


def test_playlists_are_not_followed(clip: Path, tmp_path: Path) -> None:
    playlist = tmp_path / "list.m3u8"
    playlist.write_text(f"#EXTM3U\n#EXT-X-TARGETDURATION:2\n#EXTINF:2,\n{clip}\n#EXT-X-ENDLIST\n")
    with pytest.raises(MediaError, match="list.m3u8"):
        load_media(playlist)


def test_without_pyav_the_extra_is_named(clip: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "av", None)
    with pytest.raises(ImportError, match="pip install av pillow"):
        load_media(clip)


# --- resampling ---


@settings(max_examples=30, deadline=None)
@given(
    rates=st.tuples(st.sampled_from([8000, 16000, 22050, 44100, 48000]), st.sampled_from([8000, 16000, 24000, 44100])),
    seconds=st.floats(0.05, 0.6),
)
def test_resampling_keeps_a_tone(rates: tuple[int, int], seconds: float) -> None:
    before, after = rates
    wave = tone(before, seconds)
    out = resample_audio(wave, before, after)
    assert out.dtype == np.float32 and out.size == round(wave.size * after / before)
    expected = 0.5 * np.sin(2 * np.pi * 440 * np.arange(out.size) / after)
    edge = after // 100
    np.testing.assert_allclose(out[edge:-edge], expected[edge:-edge], atol=5e-3)


def test_resampling_removes_what_does_not_fit() -> None:
    high = tone(48000, 0.5, hertz=7000)
    assert np.abs(resample_audio(high, 48000, 8000)[100:-100]).max() < 0.01


def test_channels_and_integer_samples() -> None:
    wave = tone(RATE, 0.1)
    stereo = np.stack([wave, np.zeros_like(wave)])
    for array in (stereo, stereo.T):
        np.testing.assert_allclose(resample_audio(array, RATE, RATE), wave / 2, atol=1e-6)
    pcm = np.round(wave * 32768).astype(np.int16)
    np.testing.assert_allclose(resample_audio(pcm, RATE, RATE), wave, atol=1e-4)
    bytes_ = np.round(wave * 128 + 128).astype(np.uint8)
    np.testing.assert_allclose(resample_audio(bytes_, RATE, RATE), wave, atol=1e-2)
    assert resample_audio(np.zeros(0, np.float32), RATE, 8000).shape == (0,)


def test_resampling_refuses_what_is_no_waveform() -> None:
    with pytest.raises(ValueError, match="NaN"):
        resample_audio(np.array([0.0, np.nan]), RATE, 8000)
    with pytest.raises(ValueError, match="samples"):
        resample_audio(np.zeros((2, 3, 4)), RATE, 8000)
    with pytest.raises(ValueError, match="sampling_rate"):
        resample_audio(np.zeros(4), RATE, 0)
    with pytest.raises(ValueError, match="floats"):
        resample_audio(np.zeros(4, bool), RATE, 8000)


# --- writing ---


def test_same_clip_same_bytes(clip: Path, tmp_path: Path) -> None:
    again = write_video(tmp_path / "again.mp4", grey_ramp(), FPS, tone(RATE, 2.0), RATE)
    assert again.read_bytes() == clip.read_bytes()
    noise = np.random.default_rng(0).integers(0, 255, (COUNT, 64, 64, 3), np.uint8)
    assert len({write_video(tmp_path / "noise.mp4", noise, FPS).read_bytes() for _ in range(8)}) == 1


def test_odd_sizes_are_made_even(tmp_path: Path) -> None:
    path = write_video(tmp_path / "deep" / "odd.mp4", np.full((3, 47, 63, 3), 90, np.uint8), 12.5)
    video = load_video(path)
    assert video.frames.shape == (3, 48, 64, 3)
    np.testing.assert_allclose(video.timestamps, np.arange(3) / 12.5, atol=1e-4)


def test_a_failed_write_leaves_the_old_file_and_nothing_else(tmp_path: Path) -> None:
    path = tmp_path / "clip.mp4"
    path.write_bytes(b"old")
    with pytest.raises(MediaError, match="cannot write"):
        write_video(path, grey_ramp(), FPS, tone(RATE, 0.1), 12345)
    with pytest.raises(ValueError, match="uint8"):
        write_video(path, grey_ramp() / 255.0, FPS)
    with pytest.raises(ValueError, match="sampling_rate"):
        write_video(path, grey_ramp(), FPS, tone(RATE, 0.1))
    assert [item.name for item in tmp_path.iterdir()] == ["clip.mp4"] and path.read_bytes() == b"old"
