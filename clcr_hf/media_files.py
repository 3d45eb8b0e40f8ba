"""Opening media files: what may be opened, which tracks count, and one plain error for all that can be wrong."""

import importlib
import io
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from typing import Any, BinaryIO

from .errors import CLCRError

MediaSource = str | os.PathLike[str] | bytes | bytearray | memoryview | BinaryIO

# Containers we open. Playlists (HLS, DASH, concat) stay out: they make FFmpeg open whatever files they name.
_FORMATS = (
    "mov,mp4,m4a,matroska,webm,avi,mpegts,mpeg,mpegvideo,flv,asf,ogg,wav,w64,mp3,aac,flac,aiff,au,caf,gif,amr,ac3,wv"
)


_LONGEST_PATH = 4096  # characters, of Linux


class MediaError(CLCRError):
    """A clip that cannot be read or holds no such track; the message names it and says what to do."""


def damaged(name: str, why: str) -> MediaError:
    return MediaError(
        f"cannot read {name}: {why}; it is damaged, cut short or no media file: "
        "play it to check, then copy or export it again"
    )


def optional(module: str, advice: str) -> ModuleType:
    """A module of a package that is not installed everywhere; ImportError with `advice` where it is absent."""
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise ImportError(advice) from error


def import_av() -> ModuleType:
    av = optional("av", "reading and writing clips needs PyAV, which is not installed: pip install av pillow")
    for part in ("error", "sidedata.sidedata"):
        importlib.import_module(f"av.{part}")
    return av


@contextmanager
def opening(source: MediaSource) -> Iterator[tuple[str, Callable[[], Any]]]:
    """The file's name, and what opens it from its beginning, as often as is asked. What PyAV meets in the file
    meanwhile is a `MediaError`."""
    av, name = import_av(), name_of(source)
    stream = openable(source, name)

    def open_container() -> Any:
        if hasattr(stream, "seek"):
            stream.seek(0)
        return av.open(stream, options={"format_whitelist": _FORMATS}, metadata_errors="replace")

    try:
        yield name, open_container
    except (av.error.FFmpegError, EOFError) as error:
        raise damaged(name, getattr(error, "strerror", None) or str(error)) from error


def seconds(stamp: int, unit: Any) -> float:
    """A stamp of a stream in seconds, correctly rounded. `unit`: its time base, a fraction.

    As `float(stamp * unit)`, but the product of fractions takes longer than decoding a packet of sound does.
    """
    return stamp * unit.numerator / unit.denominator


def tracks_of(container: Any) -> tuple[Any, Any]:
    """First video track that is not cover art, first audio track; None for one not there."""
    videos = [track for track in container.streams.video if not _is_cover(track)]
    audios = list(container.streams.audio)
    return (videos[0] if videos else None, audios[0] if audios else None)


def _is_cover(track: Any) -> bool:
    disposition = track.disposition
    return bool(disposition & type(disposition).attached_pic)


def is_format(container: Any, formats: set[str]) -> bool:
    return bool(formats & set(container.format.name.split(",")))


def openable(source: MediaSource, name: str) -> Any:
    """A path that exists, or a binary stream that can be read twice from its beginning."""
    if isinstance(source, str | os.PathLike):
        return _existing_file(source, name)
    if isinstance(source, bytes | bytearray | memoryview):
        stream: Any = io.BytesIO(bytes(source))
    elif isinstance(source, io.TextIOBase):
        raise TypeError(f"{name} gives text; open it in binary mode ('rb')")
    elif hasattr(source, "read"):
        stream = source
        if not (hasattr(stream, "seekable") and stream.seekable() and stream.tell() == 0):
            stream = io.BytesIO(stream.read())
    else:
        raise TypeError(f"a clip is a path, bytes or a binary file object, got {type(source).__name__}")
    if not stream.read(1):
        raise MediaError(f"{name} is empty (0 bytes); copy or export it again")
    return stream


def _existing_file(source: str | os.PathLike[str], name: str) -> str:
    if "://" in str(source):
        raise MediaError(f"{name} is an address, not a file; download it and give the path or the bytes")
    path = Path(source).expanduser()
    if len(name) > _LONGEST_PATH:
        raise MediaError(f"{name[:60]}... ({len(name)} characters) is no path; give the path of a media file")
    if not path.is_file():
        raise MediaError(
            f"{name} {'is a folder' if path.is_dir() else 'does not exist'}; give the path of a media file"
        )
    if path.stat().st_size == 0:
        raise MediaError(f"{name} is empty (0 bytes); copy or export it again")
    return str(path)


def name_of(source: MediaSource) -> str:
    if isinstance(source, str | os.PathLike):
        return str(source)
    if isinstance(source, bytes | bytearray | memoryview):
        return f"<{len(source)} bytes>"
    return str(getattr(source, "name", f"<{type(source).__name__}>"))
