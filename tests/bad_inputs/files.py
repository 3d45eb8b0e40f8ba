"""Ways in which a file can be broken."""

from collections.abc import Iterator
from pathlib import Path

NOISE = bytes(range(256)) * 8


def broken(whole: bytes) -> dict[str, bytes]:
    """A file's content, damaged in ways that no reader may take for the file."""
    half = len(whole) // 2
    return {
        "empty": b"",
        "one byte": whole[:1],
        "header alone": whole[:16],
        "first half": whole[:half],
        "second half": whole[half:],
        "noise": NOISE,
        "zeros": bytes(4096),
        "HTML": b"<!DOCTYPE html><html><body>404 Not Found</body></html>\n",
        "LFS pointer": b"version https://git-lfs.github.com/spec/v1\noid sha256:" + b"0" * 64 + b"\nsize 123\n",
        "noise inside": whole[: half // 2] + NOISE[: max(16, half // 2)] + whole[half:],
    }


def broken_files(folder: Path, name: str, whole: bytes) -> Iterator[tuple[str, Path]]:
    """Such files, each in a folder of its own under the name `name`; and a folder, and nothing, in the file's place."""
    for what, content in broken(whole).items():
        place = folder / what.replace(" ", "_") / name
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_bytes(content)
        yield what, place
    place = folder / "folder" / name
    place.mkdir(parents=True, exist_ok=True)
    yield "a folder", place
    yield "absent", folder / "absent" / name
