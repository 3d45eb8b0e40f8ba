"""Loaders of benchmarks: broken layouts, files that are damaged, options that there are not."""

import shutil
import sys
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

from clcr_hf.data.registry import SOURCE_NAMES
from clcr_hf.data.source import find_source

from .case import Case
from .files import broken

sys.path.insert(0, str(Path(__file__).parents[1]))
from layouts.ave import make_ave, make_ave_h5  # noqa: E402
from layouts.cremad import make_cremad  # noqa: E402
from layouts.csd import make_csd  # noqa: E402
from layouts.kinetics_sounds import make_kinetics_sounds  # noqa: E402
from layouts.meld import make_meld  # noqa: E402
from layouts.mmsa import make_mmsa  # noqa: E402
from layouts.sims2 import make_sims2  # noqa: E402
from layouts.ucf101 import make_ucf101  # noqa: E402

_LAYOUTS = {
    "mmsa": make_mmsa,
    "csd": make_csd,
    "ave": partial(make_ave, clips=6),
    "ave_h5": partial(make_ave_h5, clips=6),
    "cremad": partial(make_cremad, clips=12),
    "kinetics_sounds": partial(make_kinetics_sounds, clips=12),
    "ucf101": partial(make_ucf101, classes=2, groups=3),
    "meld": make_meld,
    "sims2": make_sims2,
}
_OPTIONS: dict[str, Any] = {"no_such": 1, "seed": "x", "fold": 99, "validation_fraction": 2.0, "skip_missing": "yes"}
# Lists of words may be cut anywhere; a file that the loader does not need may be anything.
_DAMAGES = ("empty", "first half", "noise", "HTML", "LFS pointer")


def cases(folder: Path) -> Iterator[Case]:
    for name in SOURCE_NAMES:
        source = find_source(name)
        for option, value in _OPTIONS.items():
            yield Case(f"{name}: {option}={value!r}", partial(_option, source, folder, option, value))
        if name in ("talking_faces", "hub"):
            continue
        for what in ("absent", "empty folder", "empty file", "None"):
            yield Case(f"{name}: {what}", partial(_open, name, _place(folder / f"{name}_{what}", what)))
    for name, make in _LAYOUTS.items():
        whole = folder / name
        whole.mkdir(exist_ok=True)
        found = Path(make(whole))
        lists = [path for path in sorted(whole.rglob("*")) if path.is_file() and path.suffix not in _CLIPS]
        for path in lists[:4]:
            content = path.read_bytes()
            for what in _DAMAGES:
                damaged = partial(_damaged, name, whole, found, path.relative_to(whole), broken(content)[what])
                may = what == "first half" or path.name in _NOT_NEEDED
                yield Case(f"{name}: {path.relative_to(whole)} {what}", damaged, may)
            absent = partial(_damaged, name, whole, found, path, None)
            yield Case(
                f"{name}: {path.relative_to(whole)} absent", absent, path.name in (*_NOT_NEEDED, *_MAY_BE_ABSENT)
            )
    empty = folder / "hub_empty"
    empty.mkdir(exist_ok=True)
    # No path from here that the tests do not own: what lies there may be data, which is then read.
    for name in ("", "a/b/c", "no-such-org/no-such-data", f"{empty}/../hub_empty", "/dev/null", "a\0b"):
        yield Case(f"hub: {name!r}", partial(_open, "hub", name))


# Without these the loader reads the rest, of the split or fold that is asked for.
_NOT_NEEDED = ("CMU_MOSI_TimestampedWordVectors_1.1.csd", "Annotations.txt", "testlist02.txt", "testlist03.txt")
_MAY_BE_ABSENT = (
    *("CMU_MOSI_COVAREP.csd", "CMU_MOSI_ModifiedTimestampedWords.csd"),
    *("test.csv", "my_test.txt"),
)
_CLIPS = (".mp4", ".avi", ".flv", ".wav", ".jpg", ".png")


def _place(path: Path, what: str) -> Path | None:
    if what == "empty folder":
        path.mkdir()
    elif what == "empty file":
        path.write_bytes(b"")
    return None if what == "None" else path


def _open(name: str, path: Any) -> Any:
    return _counts(find_source(name).open(path))


def _counts(rows: Any) -> dict[str, int]:
    return {split: len(rows) for split, rows in rows.load().items()}


def _option(source: Any, folder: Path, option: str, value: Any) -> Any:
    """An option that does not exist, or whose value is none that it takes: refused before anything is read."""
    known = source.options
    if option not in known and option != "no_such":
        raise OSError(f"{source.name} has no option {option} to test")
    source.check({option: value})
    return _counts(source.open(folder / "absent", **{option: value}))


def _damaged(name: str, whole: Path, found: Path, path: Path, content: bytes | None) -> Any:
    copy = whole.with_name(f"{whole.name}_damaged")
    shutil.rmtree(copy, ignore_errors=True)
    shutil.copytree(whole, copy)
    target = copy / (path.relative_to(whole) if path.is_absolute() else path)
    target.unlink()
    if content is not None:
        target.write_bytes(content)
    return _counts(find_source(name).open(copy / found.relative_to(whole)))
