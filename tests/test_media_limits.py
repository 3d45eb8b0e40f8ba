"""Odd and hostile media files: one clear error each, and memory that stays bounded whatever a header claims."""

import io
import json
import struct
import subprocess
import sys
import zlib
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from clcr_hf import media
from clcr_hf.limits import VideoLimits
from clcr_hf.media import MediaError, load_audio, load_image, load_media, load_video, media_duration, write_video
from clcr_hf.samples import read_images

av = pytest.importorskip("av")

GREY = np.full((4, 48, 64, 3), 90, np.uint8)
HUGE = struct.pack(">I", 0x7FFFFFFF)
CLAIMED = 16_000  # pixels a side: 768 MB as RGB, and no more than FFmpeg itself lets through


def patched(content: bytes, tag: bytes, offset: int, new: bytes) -> bytes:
    """`content` with `new` written `offset` bytes behind the last place of `tag`."""
    at = content.rindex(tag) + offset
    return content[:at] + new + content[at + len(new) :]


def encode(path: Path, codec: str, pixels: str, times: list[int], base: Fraction = Fraction(1, 10)) -> Path:
    """A clip of one grey picture at each of `times`, counted in `base` seconds."""
    with av.open(str(path), "w") as box:
        stream = box.add_stream(codec, rate=10)
        stream.width, stream.height, stream.pix_fmt = 64, 48, pixels
        stream.codec_context.time_base = base
        for index, time in enumerate(times):
            frame = av.VideoFrame.from_ndarray(np.full_like(GREY[0], 12 * index), format="rgb24")
            frame.pts, frame.time_base = time, base
            box.mux(stream.encode(frame))
        box.mux(stream.encode())
    return path


def wav(rate: int, seconds: float) -> bytes:
    data = bytes(2 * int(rate * seconds))
    layout = struct.pack("<IHHIIHH", 16, 1, 1, rate, 2 * rate, 2, 16)
    return (
        b"RIFF"
        + struct.pack("<I", 36 + len(data))
        + b"WAVEfmt "
        + layout
        + b"data"
        + struct.pack("<I", len(data))
        + data
    )


# --- ordinary oddities ---


def test_irregular_times_are_kept_in_every_container(tmp_path: Path) -> None:
    times = [0, 33, 34, 400, 1000]
    for name, codec, pixels in (("a.mkv", "libx264", "yuv420p"), ("a.mp4", "libx264", "yuv420p")):
        path = encode(tmp_path / name, codec, pixels, times, Fraction(1, 1000))
        clip = load_video(path)
        np.testing.assert_allclose(clip.timestamps, np.array(times) / 1000, atol=1e-6)
        levels = np.round(clip.frames.mean((1, 2, 3)) / 12).astype(int).tolist()
        assert levels == [0, 1, 2, 3, 4]
        one = load_video(path, num_frames=1, start=0.05, end=0.39)  # the third picture stays until 0.4 s
        assert one.timestamps.tolist() == pytest.approx([0.034])


def test_a_clip_that_starts_late_starts_at_zero(tmp_path: Path) -> None:
    path = encode(tmp_path / "late.ts", "libx264", "yuv420p", list(range(500, 503)))
    np.testing.assert_allclose(load_video(path).timestamps, [0, 0.1, 0.2], atol=1e-6)


def test_flash_video_is_read(tmp_path: Path) -> None:
    path = encode(tmp_path / "a.flv", "flv", "yuv420p", list(range(8)))
    assert len(load_video(path)) == 8 and load_media(path, fps=1).video is not None


def test_cover_art_is_no_video(tmp_path: Path) -> None:
    path = tmp_path / "song.mp3"
    with av.open(str(path), "w") as box:
        sound, cover = box.add_stream("libmp3lame", rate=16_000, layout="mono"), box.add_stream("mjpeg", rate=1)
        cover.width, cover.height, cover.pix_fmt = 64, 48, "yuvj420p"
        cover.disposition = av.stream.Disposition.attached_pic
        box.mux(cover.encode(av.VideoFrame.from_ndarray(GREY[0], format="rgb24")) + cover.encode())
        frame = av.AudioFrame.from_ndarray(np.zeros((1, 16_000), np.float32), format="fltp", layout="mono")
        frame.sample_rate, frame.pts = 16_000, 0
        box.mux(sound.encode(frame) + sound.encode())
    clip = load_media(path)
    assert clip.video is None and clip.audio is not None
    with pytest.raises(MediaError, match=r"song\.mp3 has no video track"):
        load_video(path)


def test_what_is_no_clip_at_all(tmp_path: Path) -> None:
    text, empty = tmp_path / "words.mp4", tmp_path / "empty.mp4"
    text.write_text("These are words, not pictures.\n" * 50)
    empty.touch()
    (tmp_path / "folder.mp4").mkdir()
    cases = {
        text: "no media file",
        empty: "0 bytes",
        tmp_path / "folder.mp4": "is a folder",
        tmp_path / "none.mp4": "does not exist",
    }
    for path, why in cases.items():
        for load in (load_media, load_video, lambda each: load_audio(each, sampling_rate=16_000)):
            with pytest.raises(MediaError, match=rf"{path.name}.*{why}"):
                load(path)
    for address in ("http://example.org/a.mp4", "file:///etc/passwd", "rtsp://example.org/a", "concat:a.mp4|b.mp4"):
        with pytest.raises(MediaError, match="is an address|does not exist"):
            load_media(address)


# --- headers that claim more than there is ---


def giant_gif() -> bytes:
    side = struct.pack("<HH", CLAIMED, CLAIMED)
    return b"GIF89a" + side + b"\x80\0\0" + bytes(6) + b",\0\0\0\0" + side + b"\0\x02\x02D\x01\0;"


def hostile_files(folder: Path) -> dict[str, dict[str, float]]:
    """Writes the files; the arguments of `load_media` for each."""
    mp4 = write_video(folder / "honest.mp4", GREY, 10, np.zeros(8000, np.float32), 16_000).read_bytes()
    jpegs = encode(folder / "honest.avi", "mjpeg", "yuvj420p", [0, 1, 2]).read_bytes()
    raw = encode(folder / "raw.avi", "rawvideo", "bgr24", [0]).read_bytes()
    size, jpeg_size = struct.pack("<II", CLAIMED, CLAIMED), struct.pack(">HH", CLAIMED, CLAIMED)
    contents: dict[str, bytes] = {
        "giant.gif": giant_gif(),
        "giant_raw.avi": patched(raw, b"strf", 12, size),
        "giant_jpegs.avi": patched(patched(jpegs, b"strf", 12, size), b"\xff\xc0", 5, jpeg_size),
        "giant_last_jpeg.avi": patched(jpegs, b"\xff\xc0", 5, jpeg_size),
        "giant_avc1.mp4": patched(mp4, b"avc1", 28, struct.pack(">HH", 65_535, 65_535)),
        "many_samples.mp4": patched(mp4, b"stsz", 8, struct.pack(">II", 1, 0x05FFFFFF)),
        "many_sizes.mp4": patched(mp4, b"stsz", 12, HUGE),
        "many_times.mp4": patched(mp4, b"stts", 12, HUGE),
        "giant_box.mp4": patched(mp4, b"stco", -4, HUGE),
        "endless.mp4": patched(mp4, b"mvhd", 20, HUGE),
        "slow.avi": patched(jpegs, b"strh", 28, struct.pack("<II", 0xFFFFFF, 1)),
        "slow_sound.wav": wav(1, 200_000),
    }
    for name, content in contents.items():
        (folder / name).write_bytes(content)
    times = [0, 100, 2_000_000_000]
    encode(folder / "gap.mkv", "libx264", "yuv420p", times, Fraction(1, 1000))
    return {name: {"fps": 25, "sampling_rate": 16_000} for name in (*contents, "gap.mkv")}


READ_ALL = """
import json, resource, sys
from pathlib import Path
from clcr_hf.media import MediaError, load_media
folder, jobs = Path(sys.argv[1]), json.loads(sys.argv[2])
resource.setrlimit(resource.RLIMIT_AS, (8 * 2**30, 8 * 2**30))
peak = lambda: resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
load_media(folder / "honest.mp4")
before, found = peak(), {}
for name, options in jobs.items():
    try:
        load_media(folder / name, **options)
        found[name] = ""
    except MediaError as error:
        found[name] = str(error)
print(json.dumps([peak() - before, found]))
"""


def read_in_a_child(folder: Path, jobs: dict[str, dict[str, float]], code: str = READ_ALL) -> tuple[float, dict]:
    """MiB that a process of its own takes to read these files, after an honest one, and the error of each."""
    command = [sys.executable, "-c", code, str(folder), json.dumps(jobs)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=900)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


def test_memory_stays_bounded_whatever_a_header_claims(tmp_path: Path) -> None:
    growth, found = read_in_a_child(tmp_path, hostile_files(tmp_path))
    assert growth < 200, f"{growth:.0f} MiB more were taken"
    for name in ("giant.gif", "giant_raw.avi"):
        assert "claims frames of 16000 x 16000" in found[name], found[name]
    for name in ("slow.avi", "gap.mkv", "slow_sound.wav"):
        assert "would give more than 4 GiB" in found[name], found[name]
    assert all(name in message for name, message in found.items() if message)


# --- frames that are truly large ---


def plain_clip(path: Path, width: int, height: int, frames: int) -> Path:
    """A clip of one grey: large frames in few bytes."""
    with av.open(str(path), "w") as box:
        stream = box.add_stream("libx264", rate=25, options={"preset": "ultrafast"})
        stream.width, stream.height, stream.pix_fmt = width, height, "yuv420p"
        frame = av.VideoFrame(width, height, "yuv420p")
        for plane in frame.planes:
            plane.update(b"Z" * plane.buffer_size)
        for index in range(frames):
            frame.pts, frame.time_base = index, Fraction(1, 25)
            box.mux(stream.encode(frame))
        box.mux(stream.encode())
    return path


@pytest.mark.parametrize(("width", "height", "told"), [(8000, 8000, "8000 x 8000, more than"), (4096, 2304, "")])
def test_a_small_file_of_large_frames_costs_little(width: int, height: int, told: str, tmp_path: Path) -> None:
    write_video(tmp_path / "honest.mp4", GREY, 10)
    path = plain_clip(tmp_path / "large.mp4", width, height, 16)
    assert path.stat().st_size < 200_000
    growth, found = read_in_a_child(tmp_path, {"large.mp4": {"num_frames": 16}})
    assert growth < 400, f"{growth:.0f} MiB more were taken"
    assert told in found["large.mp4"] and "\n" not in found["large.mp4"] and bool(told) == bool(found["large.mp4"])


def full_frames(path: Path) -> np.ndarray:
    """All frames at their own size, by PyAV alone."""
    with av.open(str(path)) as box:
        return np.stack([frame.to_ndarray(format="rgb24") for frame in box.decode(video=0)])


def pattern_clip(path: Path, width: int, height: int, frames: int) -> Path:
    rows, columns = np.mgrid[:height, :width]
    pictures = [np.stack([rows + 9 * k, columns, rows + columns], -1) % 256 for k in range(frames)]
    return write_video(path, np.array(pictures, np.uint8), 10)


@pytest.mark.parametrize(
    ("width", "height", "frames"), [(64, 48, 12), (1920, 1080, 8), (1080, 1920, 3), (3840, 2160, 2)]
)
def test_frames_of_ordinary_clips_are_what_the_decoder_gives(
    width: int, height: int, frames: int, tmp_path: Path
) -> None:
    path = pattern_clip(tmp_path / "a.mp4", width, height, frames)
    assert np.array_equal(load_video(path, num_frames=frames).frames, full_frames(path))
    if width * height <= 1920 * 1080:  # whatever their number
        assert np.array_equal(load_video(path).frames, full_frames(path))


def test_large_frames_of_many_are_scaled_as_they_are_decoded(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    path = pattern_clip(tmp_path / "a.mp4", 64, 48, 6)
    full = full_frames(path)
    monkeypatch.setattr("clcr_hf.limits._FULL_PIXELS", 32 * 24)
    monkeypatch.setattr("clcr_hf.limits._KEPT_BYTES", 3 * 64 * 48 * 3)
    for wanted in ({}, {"num_frames": 24}):
        clip = load_video(path, **wanted)
        assert clip.frames.shape == (wanted.get("num_frames", 6), 24, 32, 3)
    means = full.reshape(6, 24, 2, 32, 2, 3).mean((2, 4))
    assert np.abs(load_video(path).frames - means).mean() < 3  # of 255; the same moments, shown smaller
    assert load_video(path, num_frames=3).frames.shape == (3, 48, 64, 3)  # three of them fit
    assert load_video(path, num_frames=6).frames.shape == (6, 33, 45, 3)


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "TIFF"])
def test_large_pictures_of_many_are_scaled_and_stay_upright(
    kind: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    rows, columns = np.mgrid[:48, :64]
    picture, exif = np.stack([5 * rows, 3 * columns, rows], -1).astype(np.uint8), Image.Exif()
    exif[0x0112] = 6  # to be turned clockwise
    stream = io.BytesIO()
    Image.fromarray(picture).save(stream, kind, exif=exif)
    monkeypatch.setattr("clcr_hf.limits._FULL_PIXELS", 32 * 24)
    monkeypatch.setattr("clcr_hf.limits._KEPT_BYTES", 3 * 64 * 48 * 3)
    files = [stream.getvalue()] * 6
    one, found = load_image(files[0]), read_images(files, "images").frames
    assert one.shape == (64, 48, 3) and found.shape == (6, 45, 33, 3)
    smaller = np.array(Image.fromarray(one).resize((33, 45), Image.Resampling.BOX), np.float32)
    assert np.abs(found - smaller).max() < 12


def test_what_decoding_costs_is_known_before_it_begins(tmp_path: Path) -> None:
    path = write_video(tmp_path / "a.mp4", GREY, 10)
    assert load_media(path, limits=VideoLimits(64 * 48, 5 * 64 * 48)).video is not None
    with pytest.raises(MediaError, match=r"a.mp4 has 5 packets of 64 x 48 to decode, more than .* pixels together"):
        load_media(path, limits=VideoLimits(64 * 48, 5 * 64 * 48 - 1))
    with pytest.raises(MediaError, match="64 x 48, more than 3071 pixels"):
        media_duration(path, VideoLimits(64 * 48 - 1, 10**9))
    assert load_media(path, end=0.15, limits=VideoLimits(64 * 48, 4 * 64 * 48 - 1)).video is not None


def test_many_large_pictures_cost_no_more_than_one(tmp_path: Path) -> None:
    write_video(tmp_path / "honest.mp4", GREY, 10)
    Image.new("RGB", (9000, 9000)).save(tmp_path / "large.png")
    code = READ_ALL.replace("load_media(folder / name, **options)", "read_images([folder / name] * 16, name)")
    code = "from clcr_hf.samples import read_images\n" + code
    growth, found = read_in_a_child(tmp_path, {"large.png": {}}, code)
    assert growth < 600 and not found["large.png"], (growth, found)  # one of them is 232 MiB


@pytest.mark.parametrize("channels", [1, 2, 6, 8, 9, 32])
def test_sounds_of_many_channels(channels: int, tmp_path: Path) -> None:
    """Eight and more are no harder than two: PyAV's planes of them cannot be read without a crash of the process."""
    data = np.tile(np.arange(channels, dtype="<i2") * 512, (1600, 1))
    layout = struct.pack("<IHHIIHH", 16, 1, channels, 16_000, 32_000 * channels, 2 * channels, 16)
    body = b"WAVEfmt " + layout + b"data" + struct.pack("<I", data.nbytes) + data.tobytes()
    path = tmp_path / "many.wav"
    path.write_bytes(b"RIFF" + struct.pack("<I", len(body)) + body)
    sound = load_audio(path, sampling_rate=16_000, mono=False)
    assert sound.shape == (channels, 1600) and sound.dtype == np.float32
    np.testing.assert_allclose(sound.T * 32_768, data, atol=1e-3)
    # Of 5.1 (left, right, centre, bass, back) and 7.1, FFmpeg mixes the front louder and leaves out the bass.
    known = {6: [0.5**0.5] * 2 + [1, 0, 0.5, 0.5], 8: [0.5**0.5] * 2 + [1, 0] + [0.5] * 4}
    weights = np.array(known.get(channels, [1] * channels))
    mixed = data @ (weights / weights.sum())
    np.testing.assert_allclose(load_audio(path, sampling_rate=16_000) * 32_768, mixed, atol=1e-2)
    assert load_audio(path, sampling_rate=8000).shape == (800,)


def test_limits_can_be_lowered(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    path = write_video(tmp_path / "a.mp4", GREY, 10, np.zeros(8000, np.float32), 16_000)
    monkeypatch.setattr(media, "MAX_BYTES", 3 * GREY[0].nbytes)
    assert len(load_video(path, num_frames=3)) == 3
    for load in (lambda: load_video(path), lambda: load_video(path, num_frames=4)):
        with pytest.raises(MediaError, match=r"a\.mp4 would give more than .* GiB of frames"):
            load()
    assert load_audio(path, sampling_rate=8000, end=0.4).shape == (3200,)
    with pytest.raises(MediaError, match="of audio"):
        load_audio(path, sampling_rate=48_000)
    monkeypatch.setattr(media, "MAX_PIXELS", 48 * 64 - 1)
    with pytest.raises(MediaError, match="64 x 48"):
        load_video(path)
    assert load_audio(path, sampling_rate=8000, end=0.4).size  # its pictures are not touched


# --- still pictures ---


def png_that_claims(width: int, height: int) -> bytes:
    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(bytes(100))) + chunk(b"IEND", b"")
    )


@pytest.mark.parametrize("size", [(10_000, 10_000), (40_000, 40_000), (2**31 - 1, 2**31 - 1)])
def test_a_picture_bomb_is_refused_before_it_opens(size: tuple[int, int], recwarn: pytest.WarningsRecorder) -> None:
    with pytest.raises(MediaError, match="claims|damaged"):
        load_image(png_that_claims(*size))
    assert not recwarn.list


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "BMP", "WEBP", "GIF", "TIFF", "PPM"])
def test_pictures_of_each_kind(kind: str, tmp_path: Path) -> None:
    image = Image.fromarray(np.full((6, 8, 3), (200, 100, 50), np.uint8))
    path = tmp_path / "picture"
    image.save(path, kind)
    for source in (path, str(path), path.read_bytes(), io.BytesIO(path.read_bytes())):
        array = load_image(source)
        assert array.shape == (6, 8, 3) and array.dtype == np.uint8
        assert np.abs(array.astype(int) - (200, 100, 50)).max() < 12


def test_pictures_come_upright_and_in_colour(tmp_path: Path) -> None:
    picture = np.zeros((6, 8, 3), np.uint8)
    picture[:3] = 255
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned clockwise
    Image.fromarray(picture).save(tmp_path / "turned.png", exif=exif)
    turned = load_image(tmp_path / "turned.png")
    assert turned.shape == (8, 6, 3) and turned[:, -3:].min() == 255 and turned[:, :3].max() == 0
    for mode in ("L", "P", "1", "RGBA", "CMYK"):
        path = tmp_path / f"{mode}.tiff"
        Image.fromarray(picture).convert(mode).save(path)
        assert load_image(path).shape == (6, 8, 3)


def good_png() -> bytes:
    stream = io.BytesIO()
    Image.fromarray(np.random.default_rng(0).integers(0, 255, (20, 20, 3), np.uint8)).save(stream, "PNG")
    return stream.getvalue()


@pytest.mark.parametrize(
    "broken",
    [
        lambda: good_png()[:40],
        lambda: good_png()[:-200],
        lambda: patched(good_png(), b"IDAT", 6, b"\xff" * 9),
        lambda: b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 10 10\nshowpage\n",
        lambda: b"not a picture",
    ],
)
def test_broken_pictures_are_refused(broken: Callable[[], bytes], tmp_path: Path) -> None:
    path = tmp_path / "broken.png"
    path.write_bytes(broken())
    with pytest.raises(MediaError, match=r"broken\.png.*(copy|export)"):
        load_image(path)


def test_missing_pictures_are_refused(tmp_path: Path) -> None:
    (tmp_path / "empty.jpg").touch()
    for name, why in (("none.jpg", "does not exist"), ("empty.jpg", "0 bytes"), ("", "is a folder")):
        with pytest.raises(MediaError, match=why):
            load_image(tmp_path / name)
    with pytest.raises(MediaError, match="download"):
        load_image("https://example.org/a.jpg")
