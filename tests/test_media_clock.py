"""A clip's own clock: order of frames, edit lists, display matrices, holes, late tracks, files put end to end."""

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from media import make

from clcr_hf.media import VideoClip, load_audio, load_media, load_video, media_duration, track_lengths, write_video

av = pytest.importorskip("av")

FILES = make.HERE / "files"
FPS, COUNT, RATE = make.FPS, make.COUNT, 16_000


def numbers(frames: np.ndarray) -> list[int]:
    """Which frames of make.py these are: the number of the grid's cell that is white."""
    cells = frames[:, : make.HEIGHT, : make.WIDTH].reshape(len(frames), 4, 16, 6, 16, 3).astype(float)
    return (255 - cells[:, :, 4:12, :, 4:12].min((2, 4, 5))).reshape(len(frames), -1).argmin(1).tolist()


@pytest.mark.parametrize("name", ["h264_mp3.avi", "xvid_mp3.avi", "mpeg4_pcm.avi", "mpeg4_wma.asf", "h264_opus.mkv"])
def test_frames_with_b_frames_come_in_order(name: str) -> None:
    clip = load_video(FILES / name)
    count = len(clip)  # libxvid does not give back the last of its frames
    assert COUNT - 2 <= count <= COUNT and numbers(clip.frames) == list(range(count))
    np.testing.assert_allclose(np.diff(clip.timestamps), 1 / FPS, atol=1.1e-3)
    every = load_video(FILES / name, num_frames=count)
    assert numbers(every.frames) == list(range(count)) and len(every.distinct()) == count
    eight = load_video(FILES / name, num_frames=8)
    assert numbers(eight.frames) == [int((k + 0.5) * count / 8) for k in range(8)]
    if name.endswith("avi"):  # the others' first frame comes some milliseconds after the first of the audio
        assert numbers(load_video(FILES / name, fps=FPS).frames) == list(range(count))
    shown = np.flatnonzero((clip.timestamps >= 0.49) & (clip.timestamps < 1.01))
    assert len(shown) >= 6 and numbers(load_video(FILES / name, start=0.49, end=1.01).frames) == shown.tolist()


@given(moments=st.lists(st.sampled_from([0.0, 0.04, 0.5, 1.0, 1.04, 3.0]), min_size=1, max_size=12))
def test_distinct_keeps_the_order(moments: list[float]) -> None:
    frames = np.array(moments)[:, None, None, None] * np.ones((1, 1, 1, 3))
    once = VideoClip(frames, np.array(moments)).distinct()
    assert once.timestamps.tolist() == list(dict.fromkeys(moments))
    assert once.frames[:, 0, 0, 0].tolist() == once.timestamps.tolist()


def test_what_an_edit_list_takes_out_counts_for_nothing() -> None:
    path = FILES / "trimmed_by_edit_list.mp4"  # from 0.75 s on
    assert track_lengths(path) == pytest.approx((1.25, 1.25), abs=0.03)
    clip = load_media(path, sampling_rate=RATE)
    assert clip.video is not None and clip.audio is not None
    assert clip.duration == media_duration(path) == pytest.approx(1.25, abs=0.03)
    assert numbers(clip.video.frames) == list(range(9, COUNT))
    assert numbers(load_video(path, num_frames=5).frames) == [10, 13, 16, 19, 22]
    assert len(load_video(path, fps=4)) == 5
    assert load_media(path, start=0.5).duration == pytest.approx(0.75, abs=0.03)
    assert load_media(path, end=0.5).duration == 0.5
    whole = load_audio(FILES / "h264_aac.mp4", sampling_rate=RATE)[round(0.75 * RATE) :]
    np.testing.assert_allclose(clip.audio[1000:16_000], whole[1000:16_000], atol=0.03)


TURNS = {  # what `ffmpeg -vf` would do, in NumPy
    "hflip": lambda image: image[:, ::-1],
    "vflip": lambda image: image[::-1],
    "turned_90": lambda image: np.rot90(image, -1),
    "turned_180": lambda image: np.rot90(image, 2),
    "turned_270": lambda image: np.rot90(image, 1),
    "transposed": lambda image: image.transpose(1, 0, 2),
    "transposed_back": lambda image: np.rot90(image, 2).transpose(1, 0, 2),
}


@pytest.mark.parametrize("name", TURNS)
def test_display_matrices_turn_and_mirror(name: str) -> None:
    stored = load_video(FILES / "mpeg4_mp3.mp4", num_frames=3).frames
    shown = load_video(FILES / f"{name}.mp4", num_frames=3).frames
    assert shown.flags.c_contiguous
    np.testing.assert_array_equal(shown, np.stack([TURNS[name](image) for image in stored]))


@pytest.mark.parametrize("name", ["hole.mp4", "hole.mkv", "hole.ts"])
def test_a_hole_is_silent_and_what_follows_is_heard_when_it_is_due(name: str) -> None:
    full = {"hole.mp4": "h264_aac.mp4", "hole.mkv": "h264_opus.mkv", "hole.ts": "h264_aac.ts"}[name]
    whole, holed = (load_audio(FILES / each, sampling_rate=RATE) for each in (full, name))
    assert abs(whole.size - holed.size) < 0.1 * RATE
    quiet = np.abs(holed).reshape(-1)[: 2 * RATE]
    loud = np.flatnonzero(quiet > 1e-3)
    at = int(np.diff(loud).argmax())
    begin, end = loud[at] / RATE, loud[at + 1] / RATE
    assert 0.55 < end - begin < 0.75  # 31 packets
    after = slice(round(end * RATE) + 800, min(whole.size, holed.size) - 800)
    if name != "hole.mkv":  # there ffmpeg moved all by the codec's delay when it made the hole
        np.testing.assert_allclose(holed[after], whole[after], atol=0.03)
    for start in (0.3, begin + 0.1, end + 0.1):
        part = load_audio(FILES / name, sampling_rate=RATE, start=start)
        np.testing.assert_array_equal(part, holed[round(start * RATE) :])


@pytest.mark.parametrize("jitter", [0, 9])
def test_rounded_and_trembling_stamps_put_no_silence_in(jitter: int, tmp_path: Path) -> None:
    """Matroska rounds to 1 ms, and recorders stamp packets when they come: neither is a hole."""
    path, rng = tmp_path / "a.mkv", np.random.default_rng(0)
    wave = (0.4 * np.sin(2 * np.pi * 300 * np.arange(3 * 44_100) / 44_100)).astype(np.float32)
    with av.open(str(path), "w") as box:
        stream = box.add_stream("pcm_s16le", rate=44_100, layout="mono")
        for begin in range(0, wave.size, 441):
            pcm = np.round(32767 * wave[None, begin : begin + 441]).astype(np.int16)
            frame = av.AudioFrame.from_ndarray(pcm, format="s16", layout="mono")
            frame.sample_rate, frame.pts = 44_100, begin
            for packet in stream.encode(frame):
                packet.pts = packet.dts = begin + int(rng.integers(0, jitter + 1)) * 44 * (begin > 0)
                box.mux(packet)
    read = load_audio(path, sampling_rate=44_100)
    np.testing.assert_allclose(read, wave, atol=1e-4)


def test_tracks_of_other_lengths_and_beginnings(tmp_path: Path) -> None:
    frames = np.zeros((30, 32, 32, 3), np.uint8)
    path = write_video(tmp_path / "a.mp4", frames, 10, 0.1 * np.ones(RATE, np.float32), RATE)  # 3 s seen, 1 s heard
    clip = load_media(path)
    assert clip.duration == pytest.approx(3.0, abs=0.01) and media_duration(path) == clip.duration
    assert load_media(path, num_frames=2, start=0.5, end=1.5).duration == 1.0
    assert load_media(path, num_frames=2, start=2.5, end=9).duration == pytest.approx(0.5, abs=0.01)
    wave = load_audio(FILES / "late_audio.mp4", sampling_rate=RATE)
    assert not wave[: round(0.27 * RATE)].any() and np.abs(wave[round(0.35 * RATE) :][:800]).max() > 0.1
    assert load_video(FILES / "late_video.mp4").timestamps[0] == pytest.approx(0.3, abs=0.01)


def test_files_put_end_to_end_go_on(tmp_path: Path) -> None:
    """Transport streams may be: the stamps of the second begin anew."""
    path = tmp_path / "both.ts"
    one = (FILES / "h264_aac.ts").read_bytes()
    path.write_bytes(one + one)
    clip = load_media(path, sampling_rate=RATE)
    assert clip.video is not None and clip.audio is not None
    assert numbers(clip.video.frames) == 2 * list(range(COUNT))
    assert (np.diff(clip.video.timestamps) > 0).all() and clip.video.timestamps[-1] == pytest.approx(4, abs=0.2)
    assert clip.duration == pytest.approx(4, abs=0.2) and clip.audio.size == pytest.approx(4 * RATE, abs=0.2 * RATE)
    assert numbers(load_video(path, num_frames=4).frames) == pytest.approx([6, 18, 6, 18], abs=1)


def test_the_loudspeakers_of_5_1() -> None:
    """The mix of `ffmpeg -ac 1` to 16 bits: front 1, centre and back in their shares, nothing of the low one."""
    channels = load_audio(FILES / "pcm_f32_5.1.wav", sampling_rate=4000, mono=False)
    weights = np.array([0.5**0.5, 0.5**0.5, 1, 0, 0.5, 0.5])
    mono = load_audio(FILES / "pcm_f32_5.1.wav", sampling_rate=4000)
    assert channels.shape == (6, mono.size)
    np.testing.assert_allclose(mono, weights @ channels / weights.sum(), atol=1e-6)
