"""Features of a study: made once by frozen backbones, for all of its runs (`python -m clcr_hf.study.features`)."""

import hashlib
import json
import os
import sys
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ..checks import did_you_mean
from ..data.folders import file_sum, read_json, write_json
from ..extract.settings import ExtractSettings

if TYPE_CHECKING:
    from .plan import Study

FOLDER, RECORD, SUMS, LOG = "features", "features.json", "sources.json", "log.txt"
SHARDS = {"dataset": "shards", "dataset_dir": f"{{study}}/{FOLDER}/{{features}}"}
_BACKBONES = ("vision", "audio", "text", "transcribe")


@dataclass(frozen=True)
class FeaturesWanted:
    """What is extracted: the clips, as `clcr extract` takes them, its settings by name, and the key of what comes out,
    empty until [`located`]."""

    source: str
    settings: Mapping[str, Any]
    key: str = ""

    @classmethod
    def read(cls, where: str, given: Mapping[str, Any]) -> "FeaturesWanted":
        """As a study's file states it; ValueError for what `clcr extract` would refuse."""
        settings = dict(given)
        source, known = settings.pop("source", None), {each.name for each in fields(ExtractSettings)}
        if not isinstance(source, str):
            raise ValueError(f"{where}: features need a source, the folder or table of clips, got {source!r}")
        unknown = [str(name) for name in settings if name not in known]
        if unknown:
            raise ValueError(f"{where}: features: {unknown[0]} means nothing{did_you_mean(unknown[0], known)}")
        try:
            ExtractSettings(**settings)
        except (TypeError, ValueError) as error:
            raise ValueError(f"{where}: features: {error}") from error
        return cls(source, settings)


def located(study: "Study", folder: Path) -> "Study":
    """The study with the place of its features in the arguments of all runs, one that is another where settings, clips
    or local backbones are others. Every file of these is read once; after that those whose size or time has changed."""
    wanted = study.features
    if wanted is None or wanted.key:
        return study
    settings = ExtractSettings(**wanted.settings)
    content = {**settings.identity(), **settings.source_options(), "limit": settings.limit}
    content["files"] = _sums(wanted.source, settings, folder)
    key = hashlib.sha256(json.dumps(content, sort_keys=True, default=str).encode()).hexdigest()[:8]
    place = SHARDS["dataset_dir"].replace("{features}", key)
    return replace(study, features=replace(wanted, key=key), arguments={**study.arguments, "dataset_dir": place})


def make_features(study: "Study", folder: Path, say: Callable[[str], None]) -> None:
    """Extracts the features of a located study where that was not done; writes what was done to `features.json`.

    Raises:
        ValueError: the extraction failed; the message has its last words.
    """
    wanted = study.features
    if wanted is None:
        return
    place = folder / FOLDER / wanted.key
    if not (place / "extract.json").exists() or (place / "extract.partial.json").exists():
        from .pool import run_module

        say(f"features of {wanted.source}: extracted into {place}")
        place.mkdir(parents=True, exist_ok=True)
        words = [wanted.source, str(place), json.dumps(dict(wanted.settings))]
        error = run_module(["clcr_hf.study.features", *words], place / LOG, threads=os.cpu_count() or 1)
        if error is not None:
            raise ValueError(f"no features: {error} (the log: {place / LOG})")
    record = read_json(place / "extract.json") or {}
    counts = record.get("counts", {})
    rows = ", ".join(f"{count} of {split}" for split, count in counts.get("rows", {}).items())
    say(f"features: {rows} rows" + (f"; {counts['failed']} clips failed, see {place}" if counts.get("failed") else ""))
    write_json(folder / RECORD, {**(read_json(folder / RECORD) or {}), wanted.key: record})


def _sums(source: str, settings: ExtractSettings, folder: Path) -> dict[str, str]:
    """SHA-256 of all files that decide about the features, by path from the source, and of what rows hold that may lie
    in further ones: texts and ready features."""
    from ..extract.sources import open_source

    files, rows = set(_files(source, settings, folder)), hashlib.sha256()
    for clip in open_source(source, **settings.source_options()):
        media = (clip.video, clip.audio, *(clip.images or ()))
        files |= {os.path.abspath(file) for file in media if isinstance(file, str) and os.path.isfile(file)}
        rows.update(repr((clip.id, clip.text)).encode())
        for value in clip.kept.values():
            rows.update(value.tobytes() if isinstance(value, np.ndarray) else b"")
    path = folder / FOLDER / SUMS
    known, found, sums = read_json(path) or {}, {}, {"rows": rows.hexdigest()}
    for file in sorted(files):
        state = os.stat(file)
        entry = known.get(file)
        if entry is None or entry[:2] != [state.st_size, state.st_mtime_ns]:
            entry = [state.st_size, state.st_mtime_ns, file_sum(file)["sha256"]]
        found[file], sums[os.path.relpath(file, source)] = entry, entry[2]
    if folder.is_dir():  # a plan leaves nothing
        write_json(path, found)
    return sums


def _files(source: str, settings: ExtractSettings, folder: Path) -> Iterator[str]:
    """Absolute paths of the files below the source and local backbones, the study's own left out."""
    for root in (source, *(getattr(settings, name) for name in _BACKBONES)):
        if root and os.path.isdir(root):
            below = (file for file in Path(root).absolute().rglob("*") if file.is_file())
            yield from (str(file) for file in below if folder.absolute() not in file.parents)
        elif root and os.path.isfile(root):
            yield os.path.abspath(root)


def main(source: str, out: str, settings: str) -> None:
    """Extracts; `settings` by name, as JSON."""
    from ..extract import extract_features

    extract_features(source, out, **json.loads(settings))


if __name__ == "__main__":
    main(*sys.argv[1:])

__all__ = ["SHARDS", "FeaturesWanted", "located", "make_features"]
