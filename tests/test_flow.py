"""Optical flow: known translations, files, the cache and its faults."""

import logging
import os
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from datasets import Dataset, DatasetDict, Features, Value, Video
from hypothesis import given, settings
from hypothesis import strategies as st
from layouts.ucf101 import moving_picture, write_avi

import clcr_hf.data.flow
from clcr_hf.flow import add_flow, cached_flow, compute_clip_flow, compute_flow, load_flow, save_flow
from clcr_hf.media import MediaError, write_video

pytest.importorskip("cv2")


def texture(shift: tuple[int, int], frames: int = 2, side: int = 96) -> np.ndarray:
    """uint8 (F, side, side, 3): a window that leaves a large smooth texture; its content moves by `shift`."""
    rng = np.random.default_rng(7)
    whole = np.kron(rng.random((40, 40)), np.ones((6, 6)))
    for axis in (0, 1):
        whole = sum(np.roll(whole, k, axis) for k in range(-4, 5)) / 9
    whole = 255 * (whole - whole.min()) / np.ptp(whole)
    right, down = shift
    views = [whole[60 - k * down :, 60 - k * right :][:side, :side] for k in range(frames)]
    return np.stack(views).astype(np.uint8)[..., None].repeat(3, axis=3)


@pytest.fixture(scope="module")
def clip(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("clips") / "v_moving.avi"
    write_avi(path, moving_picture((2, 0), seed=1, frames=20))
    return path


# --- computing -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("method", ["farneback", "dis"])
def test_a_known_translation(method):
    flow = compute_flow(texture((3, -2), frames=3), method)
    assert flow.shape == (2, 96, 96, 2) and flow.dtype == np.float32
    for step in flow:
        np.testing.assert_allclose(np.median(step, (0, 1)), (3, -2), atol=0.3)


@settings(max_examples=10, deadline=None)
@given(right=st.integers(-4, 4), down=st.integers(-4, 4))
def test_any_small_translation(right, down):
    flow = compute_flow(texture((right, down)))[0, 12:-12, 12:-12]
    np.testing.assert_allclose(np.median(flow, (0, 1)), (right, down), atol=0.3)


@pytest.mark.parametrize("method", ["farneback", "dis"])
def test_a_still_picture_does_not_move(method):
    flow = compute_flow(texture((0, 0), frames=3), method)
    assert flow.shape == (2, 96, 96, 2) and not flow.any()
    assert not compute_flow(np.full((2, 32, 32, 3), 90, np.uint8), method).any()


@pytest.mark.parametrize(
    "frames",
    [
        np.zeros((1, 8, 8, 3), np.uint8),
        np.zeros((2, 8, 8), np.uint8),
        np.zeros((2, 8, 8, 3), np.float32),
        np.zeros((2, 0, 8, 3), np.uint8),
        [[0]],
    ],
)
def test_frames_that_are_none(frames):
    with pytest.raises(ValueError, match="frames"):
        compute_flow(frames)


def test_unknown_method_and_frames_too_small_for_one():
    with pytest.raises(ValueError, match="'farneback' or 'dis'"):
        compute_flow(np.zeros((2, 32, 32, 3), np.uint8), "tvl1")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="16 x 16"):
        compute_flow(np.zeros((2, 8, 32, 3), np.uint8), "dis")
    assert compute_flow(np.zeros((2, 1, 1, 3), np.uint8)).shape == (1, 1, 1, 2)
    assert compute_flow(np.zeros((2, 16, 16, 3), np.uint8), "dis").shape == (1, 16, 16, 2)


# --- clips -----------------------------------------------------------------------------------------------------------


def test_flow_is_between_native_neighbours_at_even_moments(clip):
    flow, times = compute_clip_flow(clip, size=None)
    assert flow.shape == (3, 48, 64, 2)
    # 20 frames at 25 a second: thirds of 0.8 s have their middles at 0.133, 0.4 and 0.667 s.
    np.testing.assert_allclose(times, [0.12, 0.4, 0.64], atol=0.041)
    np.testing.assert_allclose(np.median(flow, (0, 1, 2)), (2, 0), atol=0.2)  # 2 a frame, not 2 times the gap


def test_flow_is_in_pixels_of_the_scaled_frames(clip):
    short, _ = compute_clip_flow(clip, size=96)
    assert short.shape == (3, 96, 128, 2)
    np.testing.assert_allclose(np.median(short, (0, 1, 2)), (4, 0), atol=0.4)
    exact, _ = compute_clip_flow(clip, size=(24, 64))
    assert exact.shape == (3, 24, 64, 2)


def test_flow_is_cut(clip):
    cut, _ = compute_clip_flow(clip, size=None, max_displacement=1.5)
    assert np.abs(cut).max() == 1.5
    free, _ = compute_clip_flow(clip, size=None, max_displacement=None)
    np.testing.assert_array_equal(cut, np.clip(free, -1.5, 1.5))


def test_mp4_of_few_frames_a_second(tmp_path):
    path = write_video(tmp_path / "slow.mp4", texture((3, -2), frames=4), fps=1)
    flow, times = compute_clip_flow(path, num_frames=4, size=None)
    np.testing.assert_allclose(np.median(flow, (1, 2)), [(3, -2)] * 4, atol=0.3)
    np.testing.assert_allclose(times, [0, 1, 2, 2], atol=0.01)  # the last frame has no next: the step that leads to it


def test_a_clip_of_one_frame_does_not_move(tmp_path):
    path = write_video(tmp_path / "one.mp4", texture((0, 0), frames=1), fps=25)
    flow, times = compute_clip_flow(path, size=None)
    assert flow.shape == (3, 96, 96, 2) and not flow.any() and not times.any()


@pytest.mark.parametrize("options", [{"size": 0}, {"size": (8, 8, 8)}, {"size": 8.5}, {"max_displacement": 0}])
def test_options_out_of_range(clip, options):
    with pytest.raises((ValueError, TypeError)):
        compute_clip_flow(clip, **options)


# --- files -----------------------------------------------------------------------------------------------------------


@settings(max_examples=20, deadline=None)
@given(frames=st.integers(1, 3), height=st.integers(1, 6), width=st.integers(1, 6), seed=st.integers(0, 99))
def test_files_keep_flow(tmp_path_factory, frames, height, width, seed):
    flow = np.random.default_rng(seed).uniform(-20, 20, (frames, height, width, 2)).astype(np.float32)
    path = save_flow(tmp_path_factory.mktemp("flow") / "deep" / "a.npz", flow, np.arange(frames) / 25)
    read = load_flow(path)
    assert read.shape == (frames, 2, height, width) and read.dtype == np.float32 and read.flags.c_contiguous
    np.testing.assert_allclose(read.transpose(0, 2, 3, 1), flow, atol=0.01)
    with np.load(path) as arrays:
        assert arrays["flow"].dtype == np.float16 and arrays["flow"].shape == flow.shape
        assert arrays["timestamps"].dtype == np.float64 and arrays["timestamps"].tolist() == [
            step / 25 for step in range(frames)
        ]
    assert os.listdir(path.parent) == ["a.npz"]


@pytest.mark.parametrize(
    ("flow", "times"),
    [
        (np.zeros((2, 4, 4, 3)), np.zeros(2)),
        (np.zeros((2, 4, 4, 2)), np.zeros(3)),
        (np.full((1, 2, 2, 2), np.nan), np.zeros(1)),
        (np.full((1, 2, 2, 2), 1e6), np.zeros(1)),
        (np.zeros((1, 2, 2, 2)), np.full(1, np.inf)),
    ],
)
def test_flow_that_cannot_be_kept(tmp_path, flow, times):
    with pytest.raises(ValueError, match="flow"):
        save_flow(tmp_path / "a.npz", flow, times)
    assert not list(tmp_path.iterdir())


class Touch:
    """Writes a file when it is unpickled."""

    def __init__(self, path: Path):
        self.path = path

    def __reduce__(self):
        return (Path.touch, (self.path,))


def test_files_that_are_no_flow(tmp_path):
    good = save_flow(tmp_path / "good.npz", np.zeros((1, 2, 2, 2)), np.zeros(1)).read_bytes()
    path = tmp_path / "bad.npz"
    for content in (b"", b"text", good[: len(good) // 2], good.replace(b"'<f2'", b"'<f9'")):
        path.write_bytes(content)
        with pytest.raises(MediaError, match="bad.npz"):
            load_flow(path)
    for arrays in (
        {"flow": np.zeros((1, 2, 2, 2))},
        {"flow": np.zeros((2, 2, 2)), "timestamps": np.zeros(1)},
        {"flow": np.zeros((1, 2, 2, 2), int), "timestamps": np.zeros(1)},
        {"flow": np.full((1, 2, 2, 2), np.inf), "timestamps": np.zeros(1)},
        {"flow": np.zeros((1, 2, 2, 2)), "timestamps": np.zeros(2)},
        {"flow": np.array([Touch(tmp_path / "ran")], dtype=object), "timestamps": np.zeros(1)},
    ):
        np.savez(path, **arrays)
        with pytest.raises(MediaError, match="bad.npz"):
            load_flow(path)
    assert not (tmp_path / "ran").exists()
    with pytest.raises(MediaError):
        load_flow(tmp_path / "absent.npz")


def test_a_file_that_unpacks_to_too_much_is_refused(tmp_path, monkeypatch):
    path = tmp_path / "bomb.npz"
    np.savez_compressed(path, flow=np.zeros((1, 2**9, 2**9, 2), np.float16), timestamps=np.zeros(1))
    assert path.stat().st_size < 2**14 and load_flow(path).shape == (1, 2, 2**9, 2**9)
    monkeypatch.setattr("clcr_hf.media.MAX_FLOW_BYTES", 2**20)
    with pytest.raises(MediaError, match="unpacks to"):
        load_flow(path)


# --- the cache -------------------------------------------------------------------------------------------------------


def test_files_are_used_again(clip, tmp_path):
    path = cached_flow(clip, tmp_path, size=None)
    before = path.stat().st_mtime_ns
    assert path.name.startswith("v_moving-") and path.suffix == ".npz"
    assert cached_flow(str(clip), str(tmp_path), size=None) == path
    assert path.stat().st_mtime_ns == before
    np.testing.assert_allclose(load_flow(path), compute_clip_flow(clip, size=None)[0].transpose(0, 3, 1, 2), atol=0.01)


def test_other_options_and_changed_clips_have_their_own_files(clip, tmp_path):
    copy = tmp_path / "v.avi"
    copy.write_bytes(clip.read_bytes())
    cache = tmp_path / "cache"
    options = [{}, {"num_frames": 2}, {"size": 24}, {"size": None, "method": "dis"}, {"max_displacement": None}]
    paths = [cached_flow(copy, cache, **({"size": None} | option)) for option in options]
    os.utime(copy, ns=(1, 1))
    paths.append(cached_flow(copy, cache, size=None))
    assert len(set(paths)) == len(os.listdir(cache)) == 6


@pytest.mark.parametrize(
    "damage", [lambda data: b"", lambda data: data[:-40], lambda data: data[:300] + bytes(400) + data[700:]]
)
def test_a_damaged_file_is_made_again(clip, tmp_path, caplog, damage):
    path = cached_flow(clip, tmp_path, size=None)
    whole = path.read_bytes()
    path.write_bytes(damage(whole))
    with caplog.at_level(logging.WARNING):
        assert cached_flow(clip, tmp_path, size=None) == path
    assert "computed again" in caplog.text
    assert path.read_bytes() == whole


def test_clips_that_do_not_decode_leave_nothing(tmp_path):
    bad = tmp_path / "bad.avi"
    bad.write_bytes(b"RIFF" + bytes(200))
    cache = tmp_path / "cache"
    with pytest.raises(MediaError, match="bad.avi"):
        cached_flow(bad, cache)
    with pytest.raises(MediaError, match="gone.avi"):
        cached_flow(tmp_path / "gone.avi", cache)
    assert not cache.exists()


def test_several_at_once(clip, tmp_path):
    """Another process and four threads on one clip and one folder: one file, whole, and no drafts."""
    code = "import sys; from clcr_hf.flow import cached_flow; print(cached_flow(*sys.argv[1:], size=None))"
    other = subprocess.Popen([sys.executable, "-c", code, clip, tmp_path], stdout=subprocess.PIPE, text=True)
    with ThreadPoolExecutor(4) as pool:
        paths = set(pool.map(lambda _: cached_flow(clip, tmp_path, size=None), range(8)))
    paths.add(Path(other.communicate(timeout=900)[0].strip()))
    assert len(paths) == 1 and os.listdir(tmp_path) == [paths.pop().name]


# --- data sets -------------------------------------------------------------------------------------------------------


def rows(paths: list[str | None], **extra: list) -> DatasetDict:
    clips = [None if path is None else {"path": path, "bytes": None} for path in paths]
    types = {"video": Video(decode=False)} | {name: Value("string") for name in extra}
    return DatasetDict(train=Dataset.from_dict({"video": clips, **extra}, features=Features(types)))


def test_a_data_set_gets_its_flow(clip, tmp_path, caplog):
    bad = tmp_path / "bad.avi"
    bad.write_bytes(b"no clip")
    splits = rows([str(clip), str(bad), None, str(clip)], flow=[None, None, None, "mine.npz"])
    with caplog.at_level(logging.WARNING):
        made = add_flow(splits, tmp_path / "cache", size=None, num_workers=2)
    flows = made["train"]["flow"]
    assert load_flow(flows[0]).shape == (3, 2, 48, 64)
    assert flows[1:] == [None, None, "mine.npz"]
    assert "1 clips have no flow" in caplog.text and "bad.avi" in caplog.text
    assert made["train"].features["flow"] == Value("string")
    assert splits["train"]["flow"][0] is None  # the rows given are left as they were


def test_processes_divide_the_clips(clip, tmp_path, monkeypatch):
    """Two of them, as threads: each clip is computed once, and both know of all."""
    clips = [tmp_path / f"{'long' * 50 if i == 2 else 'clip'}{i}.avi" for i in range(5)]
    for path in clips[:4]:
        path.write_bytes(clip.read_bytes())
    clips[4].write_bytes(b"no clip")
    computed: list[str] = []
    home = clcr_hf.data.flow
    compute = home.compute_clip_flow
    monkeypatch.setattr(home, "compute_clip_flow", lambda path, **how: computed.append(path) or compute(path, **how))
    splits = rows([*map(str, clips), str(clips[0])])
    barrier = threading.Barrier(2, timeout=900)
    with ThreadPoolExecutor(2) as pool:
        call = lambda number: add_flow(splits, tmp_path / "c", size=None, share=(number, 2), wait=barrier.wait)  # noqa: E731
        one, two = pool.map(call, range(2))
    assert sorted(computed) == sorted(map(str, clips))
    flows = one["train"]["flow"][:]
    assert flows == two["train"]["flow"][:]
    assert flows[4] is None and flows[5] == flows[0] and all(Path(path).is_file() for path in flows[:4])


def test_several_processes_must_wait_for_each_other(clip, tmp_path):
    with pytest.raises(ValueError, match="wait"):
        add_flow(rows([str(clip)]), tmp_path, share=(0, 2))


def test_data_sets_without_paths(tmp_path):
    with pytest.raises(ValueError, match="no column video or media"):
        add_flow(DatasetDict(train=Dataset.from_dict({"id": ["a"]})), tmp_path)
    inside = Dataset.from_dict({"video": [{"path": None, "bytes": b"x"}]}, features=Features(video=Video(decode=False)))
    with pytest.raises(ValueError, match="bytes"):
        add_flow(DatasetDict(train=inside), tmp_path)
