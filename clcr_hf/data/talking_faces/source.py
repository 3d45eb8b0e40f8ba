"""The generated corpus as a source of rows."""

import os
from dataclasses import fields
from pathlib import Path

from ..columns import DataFormatError
from ..folders import read_json
from ..source import Rows, Source, has_files
from ..table.manifest import load_manifest
from .factors import GENERATOR_VERSION, MARKER, Latents
from .render import generate_talking_faces


def corpus_folder(
    root: str | os.PathLike | None = None,
    *,
    num_train_clips: int = 1000,
    num_validation_clips: int = 100,
    num_test_clips: int = 200,
    corpus_seed: int = 0,
) -> Path:
    """Where a corpus lies: `root`, or a folder in the cache that is named by seed and sizes."""
    if root is not None:
        return Path(root)
    numbers = (corpus_seed, num_train_clips, num_validation_clips, num_test_clips)
    cache = Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "clcr_hf"
    return cache / f"talking_faces-v{GENERATOR_VERSION}-{'-'.join(map(str, numbers))}"


def open_corpus(root: str | os.PathLike | None = None, **sizes: int) -> Rows:
    """Rows of a corpus; `root` is taken as it is when it holds one, and what is absent is made and kept."""
    folder = corpus_folder(root, **sizes)
    names = ("corpus_seed", "num_train_clips", "num_validation_clips", "num_test_clips")
    usual = {name: SOURCE.options[name].default for name in names}
    recipe = read_json(folder / MARKER) if root is not None else None
    if recipe is None:
        generate_talking_faces(folder, *(usual | sizes).values())
    else:
        was = dict(zip(names, (recipe.get("seed"), *recipe.get("sizes", {}).values()), strict=True))
        for name, new in sizes.items():
            if new not in (usual[name], was[name]):
                raise DataFormatError(f"{folder} holds a corpus of {name}={was[name]}, not {new}; name another folder")
    # What else the table holds is true of a clip, and known to no model.
    parts = ("part_text", "part_audio", "part_vision", "part_interaction")
    factors = [each.name for each in fields(Latents)]
    return Rows.of(load_manifest(folder, ignore_columns=[*parts, *factors]))


SOURCE = Source(
    title="talking faces (generated)",
    about="generated clips with known answers; made when absent",
    read=open_corpus,
    parameters_of=(corpus_folder,),
    label_scale="sentiment",
    label_range=(-3.0, 3.0),
    recognise=has_files(MARKER),
    generated=True,
)
