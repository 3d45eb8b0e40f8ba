"""Makes small clips with ffmpeg, one for each of many pairs of container and codec, and what ffmpeg itself reads from
them: `python tests/media/make.py` writes them to `files/` and `expected.npz` beside this script.

Frame k of a clip has a white cell at place k of a grid of 6 x 4 over a background that is unlike in each corner; the
audio is a tone that rises from 100 to 900 Hz. What is expected:

- `<file>/times` float64 `(F,)`: ffprobe's best-effort time stamps, from the beginning of the file. AVI has no
  presentation times: there the first frame is shown when its packet comes, and the rest as much later as ffprobe says.
- `<file>/frames` uint8 `(F, 8, 12, 3)`: what ffmpeg shows, as means over 8 x 8 pixels.
- `<file>/wave` int16 `(samples,)`: what `ffmpeg -af aresample=async=1 -ac 1` plays, at 2,000 samples a second.
- `<file>/ends` float64 `(2,)`: where video and audio end by their packets that are not discarded; NaN without a track.
"""

import json
import shutil
import struct
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

HERE = Path(__file__).parent
FPS, COUNT, SECONDS, RATE = 12, 24, 2.0, 2000
WIDTH, HEIGHT = 96, 64
PPM = ("-f", "image2pipe", "-c:v", "ppm", "-pix_fmt", "rgb24")
FORMATS = ("-fflags", "+bitexact", "-flags:v", "+bitexact", "-flags:a", "+bitexact", "-map_metadata", "-1")

H264 = "libx264 -preset veryfast -g 12 -bf 2 -crf 28 -pix_fmt yuv420p -x264-params keyint=12:bframes=2:b-adapt=0"
H265 = "libx265 -preset fast -g 12 -crf 30 -pix_fmt yuv420p -x265-params log-level=none:keyint=12:bframes=2:b-adapt=0"
XVID = "libxvid -bf 2 -g 12 -qscale:v 6"
MPEG4 = "mpeg4 -bf 2 -g 12 -qscale:v 6"
# Name of the file: video codec and options, audio codec and options (None for no such track).
PAIRS: dict[str, tuple[str | None, str | None]] = {
    "h264_aac.mp4": (H264, "aac -b:a 48k"),
    "h264_aac_fragments.mp4": (f"{H264} -movflags frag_keyframe+empty_moov+default_base_moof", "aac -b:a 48k"),
    "h265_aac.mp4": (f"{H265} -tag:v hvc1", "aac -b:a 48k"),
    "mpeg4_mp3.mp4": (MPEG4, "libmp3lame -b:a 48k"),
    "av1_opus.mp4": ("libaom-av1 -cpu-used 8 -crf 50 -g 12 -pix_fmt yuv420p", "libopus -b:a 32k"),
    "h264_5.1.mp4": (H264, "aac -b:a 128k -ac 6"),
    "h264_alac.mov": (H264, "alac -ar 16000"),
    "prores_pcm.mov": ("prores_ks -profile:v 0 -qscale:v 60", "pcm_s16be -ar 8000 -ac 1"),
    "mjpeg_pcm.mov": ("mjpeg -qscale:v 8 -pix_fmt yuvj420p", "pcm_s16le -ar 8000"),
    "h264_opus.mkv": (H264, "libopus -b:a 32k"),
    "h265_vorbis.mkv": (H265, "libvorbis -q:a 1"),
    "h264_5.1.mkv": (H264, "ac3 -b:a 128k -ac 6"),
    "ffv1_flac.mkv": ("ffv1 -g 12", "flac -sample_fmt s16 -ar 16000"),
    "mpeg2_mp2.mkv": ("mpeg2video -bf 2 -g 12 -r 24 -qscale:v 6", "mp2 -b:a 64k"),
    "vp8_vorbis.webm": ("libvpx -crf 30 -b:v 200k -g 12", "libvorbis -q:a 1"),
    "vp9_opus.webm": ("libvpx-vp9 -crf 45 -b:v 0 -g 12 -cpu-used 8", "libopus -b:a 32k"),
    "av1_opus.webm": ("libaom-av1 -cpu-used 8 -crf 50 -g 12 -pix_fmt yuv420p", "libopus -b:a 32k"),
    "h264_mp3.avi": (H264, "libmp3lame -b:a 48k"),
    "xvid_mp3.avi": (XVID, "libmp3lame -b:a 48k"),
    "mpeg4_pcm.avi": (MPEG4, "pcm_s16le -ar 8000"),
    "mjpeg_ac3.avi": ("mjpeg -qscale:v 8 -pix_fmt yuvj420p", "ac3 -b:a 64k"),
    "ffv1_pcm.avi": ("ffv1", "pcm_s16le -ar 8000 -ac 1"),
    "h264_aac.ts": (H264, "aac -b:a 48k"),
    "h265_ac3.ts": (H265, "ac3 -b:a 64k"),
    "mpeg2_mp2.ts": ("mpeg2video -bf 2 -g 12 -r 24 -qscale:v 6", "mp2 -b:a 64k"),
    "mpeg1_mp2.mpg": ("mpeg1video -bf 2 -g 12 -r 24 -qscale:v 6", "mp2 -b:a 64k"),
    "mpeg2_ac3.vob": ("mpeg2video -bf 2 -g 12 -r 24 -qscale:v 6", "ac3 -b:a 64k"),
    "h264_aac.flv": (H264, "aac -b:a 48k"),
    "flv1_mp3.flv": ("flv -g 12 -qscale:v 6", "libmp3lame -b:a 48k -ar 44100"),
    "wmv2_wma.wmv": ("wmv2 -g 12 -qscale:v 6", "wmav2 -b:a 48k"),
    "mpeg4_wma.asf": (MPEG4, "wmav2 -b:a 48k"),
    "theora_vorbis.ogv": ("libtheora -g 12 -qscale:v 5", "libvorbis -q:a 1"),
    "gif.gif": ("gif", None),
    "pcm_s16.wav": (None, "pcm_s16le -ar 8000"),
    "pcm_f32_5.1.wav": (None, "pcm_f32le -ac 6 -ar 4000"),
    "adpcm.wav": (None, "adpcm_ms -ar 11025"),
    "pcm.w64": (None, "pcm_s16le -ar 8000"),
    "mp3.mp3": (None, "libmp3lame -b:a 48k"),
    "flac.flac": (None, "flac -sample_fmt s16 -ar 11025"),
    "aac.m4a": (None, "aac -b:a 48k"),
    "adts.aac": (None, "aac -b:a 48k"),
    "vorbis.ogg": (None, "libvorbis -q:a 1"),
    "opus.ogg": (None, "libopus -b:a 32k"),
    "flac.ogg": (None, "flac -sample_fmt s16 -ar 11025"),
    "pcm.aiff": (None, "pcm_s16be -ar 8000 -ac 1"),
    "alaw.au": (None, "pcm_alaw -ar 8000"),
    "alac.caf": (None, "alac -ar 16000"),
    "ac3.ac3": (None, "ac3 -b:a 64k"),
    "wavpack.wv": (None, "wavpack -ar 11025 -ac 1"),
    "wma.wma": (None, "wmav2 -b:a 48k"),
}


def run(*command: Any) -> bytes:
    done = subprocess.run([str(word) for word in command], capture_output=True)
    if done.returncode:
        raise RuntimeError(f"{' '.join(map(str, command))}: {done.stderr.decode()[-500:]}")
    return done.stdout


def ffmpeg(*words: Any) -> bytes:
    return run("ffmpeg", "-nostdin", "-v", "error", "-y", *words)


def probe(path: Path, *entries: str) -> dict[str, Any]:
    return json.loads(run("ffprobe", "-v", "error", "-of", "json", *entries, path))


# --- making files ---


def sources(folder: Path) -> tuple[Path, Path]:
    """Raw frames and a WAV of two channels, the right one lower."""
    y, x = np.mgrid[:HEIGHT, :WIDTH]
    frames = np.empty((COUNT, HEIGHT, WIDTH, 3), np.uint8)
    frames[:] = np.stack([40 + x * 1.2, 40 + y * 1.8, np.where((x > 70) & (y < 20), 200, 60)], axis=-1)
    for k in range(COUNT):
        frames[k, 16 * (k // 6) : 16 * (k // 6) + 16, 16 * (k % 6) : 16 * (k % 6) + 16] = 250
    rate = 48_000
    time = np.arange(int(SECONDS * rate)) / rate
    tone = 0.4 * np.sin(2 * np.pi * (100 * time + 200 * time**2))
    wave = np.round(32767 * np.stack([tone, tone / 2], axis=1)).astype("<i2")
    header = struct.pack("<IHHIIHH", 16, 1, 2, rate, 4 * rate, 4, 16)
    body = b"WAVEfmt " + header + b"data" + struct.pack("<I", wave.nbytes) + wave.tobytes()
    (folder / "frames.rgb").write_bytes(frames.tobytes())
    (folder / "sound.wav").write_bytes(b"RIFF" + struct.pack("<I", len(body)) + body)
    return folder / "frames.rgb", folder / "sound.wav"


def make_pair(target: Path, frames: Path, sound: Path) -> None:
    video, audio = PAIRS[target.name]
    words: list[Any] = []
    if video is not None:
        words += ["-f", "rawvideo", "-pix_fmt", "rgb24", "-s", f"{WIDTH}x{HEIGHT}", "-r", FPS, "-i", frames]
    if audio is not None:
        words += ["-i", sound]
    if video is not None:
        words += ["-c:v", *video.split(), "-threads:v", 1]
    if audio is not None:
        words += ["-c:a", *audio.split()]
        if " -ac 6" in audio:  # of the front channels the second and third are the loud and the low one
            words += ["-af", "pan=5.1|FL=c0|FR=0.1*c0|FC=c1|LFE=c0|BL=0.3*c1|BR=0.2*c0"]
    ffmpeg(*words, *FORMATS, target)


def _turned(matrix: tuple[int, int, int, int]) -> Callable[[Path, Path], None]:
    """Writes the matrix (a, b, c, d) into a copy of an MP4: pixel (x, y) is shown at (a x + c y, b x + d y)."""

    def make(source: Path, target: Path) -> None:
        content = bytearray(source.read_bytes())
        at = content.index(b"tkhd") + 4 + 40  # the first track's; version 0
        a, b, c, d = (65536 * value for value in matrix)
        tx = WIDTH if matrix[0] < 0 else HEIGHT if matrix[2] < 0 else 0
        ty = HEIGHT if matrix[3] < 0 else WIDTH if matrix[1] < 0 else 0
        content[at : at + 36] = struct.pack(">9i", a, b, 0, c, d, 0, tx * 65536, ty * 65536, 2**30)
        target.write_bytes(content)

    return make


def _ffmpeg(*words: Any, before: tuple[Any, ...] = ()) -> Callable[[Path, Path], None]:
    def make(source: Path, target: Path) -> None:
        ffmpeg(*before, "-i", source, *words, *FORMATS, target)

    return make


def _hole(first: int, last: int) -> Callable[[Path, Path], None]:
    return _ffmpeg("-c", "copy", "-bsf:a", f"noise=amount=0:drop=between(n\\,{first}\\,{last})")


def _late(track: str) -> Callable[[Path, Path], None]:
    """A copy where one track begins 0.3 s late."""

    def make(source: Path, target: Path) -> None:
        maps = ("-map", "1:v", "-map", "0:a") if track == "v" else ("-map", "0:v", "-map", "1:a")
        ffmpeg("-i", source, "-itsoffset", "0.3", "-i", source, *maps, "-c", "copy", *FORMATS, target)

    return make


UNEVEN = ("-vf", "select='not(between(mod(n,7),2,4))'", "-fps_mode", "vfr")
# Files made from another one: its name, and how.
ODD: dict[str, tuple[str, Callable[[Path, Path], None]]] = {
    "trimmed_by_edit_list.mp4": ("h264_aac.mp4", _ffmpeg("-c", "copy", before=("-ss", "0.75"))),
    "turned_90.mp4": ("mpeg4_mp3.mp4", _turned((0, 1, -1, 0))),
    "turned_180.mp4": ("mpeg4_mp3.mp4", _turned((-1, 0, 0, -1))),
    "turned_270.mp4": ("mpeg4_mp3.mp4", _turned((0, -1, 1, 0))),
    "hflip.mp4": ("mpeg4_mp3.mp4", _turned((-1, 0, 0, 1))),
    "vflip.mp4": ("mpeg4_mp3.mp4", _turned((1, 0, 0, -1))),
    "transposed.mp4": ("mpeg4_mp3.mp4", _turned((0, 1, 1, 0))),
    "transposed_back.mp4": ("mpeg4_mp3.mp4", _turned((0, -1, -1, 0))),
    "hole.mp4": ("h264_aac.mp4", _hole(30, 60)),
    "hole.mkv": ("h264_opus.mkv", _hole(30, 60)),
    "hole.ts": ("h264_aac.ts", _hole(30, 60)),
    "late_audio.mkv": ("h264_opus.mkv", _late("a")),
    "late_audio.mp4": ("h264_aac.mp4", _late("a")),
    "late_video.mp4": ("h264_aac.mp4", _late("v")),
    "late_video.ts": ("h264_aac.ts", _late("v")),
    "uneven.mkv": (
        "ffv1_flac.mkv",
        _ffmpeg(*UNEVEN, "-c:a", "copy", "-c:v", *H264.split()),
    ),
    "uneven.mp4": (
        "ffv1_flac.mkv",
        _ffmpeg(*UNEVEN, "-c:a", "aac", "-c:v", *H264.split()),
    ),
}
NAMES = [*PAIRS, *ODD]


def make(name: str, folder: Path) -> Path:
    """Makes one file, and first what it is made from, unless it is there.

    Raises:
        RuntimeError: this ffmpeg cannot make it; the message says why.
    """
    target = folder / name
    if not target.exists():
        if name in ODD:
            source, how = ODD[name]
            how(make(source, folder), target)
        else:
            raw = (folder / "frames.rgb", folder / "sound.wav")
            make_pair(target, *(raw if raw[0].exists() else sources(folder)))
    return target


# --- what ffmpeg reads ---


def read(path: Path) -> dict[str, np.ndarray]:
    """What ffmpeg and ffprobe say of a file; see the top of this module."""
    told = probe(path, "-show_entries", "format=start_time,format_name:stream=index,codec_type,width,height")
    origin = max(float(told["format"].get("start_time", 0)), 0.0)
    kinds = [stream["codec_type"] for stream in told["streams"]]
    found: dict[str, np.ndarray] = {"ends": np.array([_end(path, kind[0], origin) for kind in ("video", "audio")])}
    if "video" in kinds:
        frames = probe(path, "-select_streams", "v:0", "-show_entries", "frame=best_effort_timestamp_time")["frames"]
        times = [float(frame.get("best_effort_timestamp_time", "nan")) for frame in frames]
        for k in range(1, len(times)):
            if np.isnan(times[k]):  # as some decoders give frames where the file ends
                times[k] = 2 * times[k - 1] - times[k - 2]
            elif times[k] <= times[k - 1]:  # a stamp that is wrong: frames come in order
                times[k] = times[k - 1] + 1e-6
        found["times"] = np.array(times) - (times[0] if told["format"]["format_name"] == "avi" else origin)
        raw = ffmpeg("-i", path, "-map", "0:v:0", "-fps_mode", "passthrough", *PPM, "-")
        found["frames"] = np.stack([_means(frame) for frame in _ppm(raw)])
    if "audio" in kinds:
        # ffmpeg begins at the first stamp of all; one before zero is codec delay, of which nothing is heard.
        early = max(-float(told["format"].get("start_time", 0)), 0.0)
        filters = f"aresample=async=1:first_pts=0,atrim=start={early},aresample={RATE}"
        found["wave"] = np.frombuffer(
            ffmpeg("-i", path, "-map", "0:a:0", "-af", filters, "-ac", 1, "-f", "s16le", "-"), "<i2"
        )
    return found


def _end(path: Path, kind: str, origin: float) -> float:
    entries = ("-show_entries", "packet=pts_time,dts_time,duration_time,flags")
    packets = probe(path, "-select_streams", f"{kind}:0", *entries).get("packets", [])
    begins = [float(packet.get("pts_time", packet.get("dts_time", "nan"))) for packet in packets]
    lengths = [float(packet.get("duration_time", 0)) for packet in packets]
    longest = max(lengths, default=0) or (np.nanmax(np.diff(begins)) if len(begins) > 1 else 0)
    ends = [  # a packet that does not tell its length is as long as the longest
        begin + (length or longest)
        for packet, begin, length in zip(packets, begins, lengths, strict=True)
        if "D" not in packet["flags"]
    ]
    return float(np.nanmax(ends)) - origin if ends else float("nan")


def _ppm(raw: bytes) -> list[np.ndarray]:
    frames, at = [], 0
    while at < len(raw):
        _, size, _ = raw[at : at + 40].split(b"\n")[:3]
        width, height = map(int, size.split())
        at = raw.index(b"\n255\n", at) + 5
        frames.append(np.frombuffer(raw, np.uint8, width * height * 3, at).reshape(height, width, 3))
        at += width * height * 3
    return frames


def _means(frame: np.ndarray) -> np.ndarray:
    height, width = (side // 8 for side in frame.shape[:2])
    cells = frame[: 8 * height, : 8 * width].reshape(height, 8, width, 8, 3)
    return np.round(cells.mean((1, 3))).astype(np.uint8)


def main() -> None:
    files = HERE / "files"
    shutil.rmtree(files, ignore_errors=True)
    files.mkdir()
    expected: dict[str, np.ndarray] = {}
    with tempfile.TemporaryDirectory() as folder:
        for name in sys.argv[1:] or NAMES:
            path = make(name, Path(folder))
            shutil.copyfile(path, files / name)
            expected |= {f"{name}/{key}": value for key, value in read(path).items()}
    np.savez_compressed(HERE / "expected.npz", **expected)
    print(f"{len(NAMES)} files, {sum(file.stat().st_size for file in HERE.rglob('*')):,} bytes")


if __name__ == "__main__":
    main()
