"""Data sets and collation: every loader returns a `datasets.DatasetDict` of train, validation and test.

| module | reads |
|---|---|
| `mmsa` | MOSI, MOSEI and SIMS pickles as the MMSA toolkit ships them, and MulT's older ones |
| `csd` | MOSI and MOSEI as the CMU-MultimodalSDK publishes them, aligned to words |
| `manifest` | a CSV, TSV, JSONL or Parquet table of clips, features or dialogues |
| `cremad` | CREMA-D: sound, videos or frames, lists |
| `ave` | AVE: videos and lists, or the ready h5 features |
| `ucf101` | UCF101: clips, lists of the three splits, optical flow |
| `kinetics_sounds` | Kinetics-Sounds: clips and lists, Kinetics' own lists, or folders of classes |
| `talking_faces` | nothing: it generates a corpus of clips with known answers |
| `utterances` | an `.npz` with one row an utterance, as one sequence a video |
| `shards` | folders that `clcr convert` and `clcr extract` wrote |
| `safe_pickle`, `safe_files` | pickles, HDF5 and `.npz` files from strangers; the loaders read through them |
| `clcr_hf.collator` | `CLCRDataCollator`, rows of any of them to one padded and masked batch |

Names are imported on first use, so that one part does not need the optional packages of another.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ..collator import CLCRDataCollator
    from .ave import iter_ave_h5, load_ave, load_ave_h5
    from .columns import DataFormatError
    from .cremad import load_cremad
    from .csd import iter_csd, load_csd, read_csd
    from .dialogues import as_dialogues
    from .kinetics_sounds import load_kinetics_sounds
    from .manifest import iter_manifest, load_manifest, open_manifest
    from .mmsa import iter_mmsa, load_mmsa
    from .safe_files import UnsafeFileError, load_npz_safely, open_h5, read_h5
    from .safe_pickle import RestrictedUnpickler, UnsafePickleError, load_pickle_safely
    from .shards import ShardWriter, load_shards, written_ids
    from .talking_faces import generate_talking_faces
    from .ucf101 import load_ucf101
    from .utterances import load_utterances

_HOMES = {
    "CLCRDataCollator": ".collator",  # at the root, where it can travel with the pipeline
    "DataFormatError": "columns",
    "RestrictedUnpickler": "safe_pickle",
    "ShardWriter": "shards",
    "UnsafeFileError": "safe_files",
    "UnsafePickleError": "safe_pickle",
    "generate_talking_faces": "talking_faces",
    "iter_ave_h5": "ave",
    "load_ave": "ave",
    "load_ave_h5": "ave",
    "iter_csd": "csd",
    "load_cremad": "cremad",
    "load_csd": "csd",
    "read_csd": "csd",
    "load_kinetics_sounds": "kinetics_sounds",
    "as_dialogues": "dialogues",
    "iter_manifest": "manifest",
    "load_manifest": "manifest",
    "open_manifest": "manifest",
    "iter_mmsa": "mmsa",
    "load_mmsa": "mmsa",
    "load_npz_safely": "safe_files",
    "load_shards": "shards",
    "open_h5": "safe_files",
    "read_h5": "safe_files",
    "written_ids": "shards",
    "load_pickle_safely": "safe_pickle",
    "load_ucf101": "ucf101",
    "load_utterances": "utterances",
}

__all__ = [
    "CLCRDataCollator",
    "DataFormatError",
    "RestrictedUnpickler",
    "ShardWriter",
    "UnsafeFileError",
    "UnsafePickleError",
    "as_dialogues",
    "generate_talking_faces",
    "iter_ave_h5",
    "iter_csd",
    "iter_manifest",
    "iter_mmsa",
    "load_ave",
    "load_ave_h5",
    "load_cremad",
    "load_csd",
    "load_kinetics_sounds",
    "load_manifest",
    "load_mmsa",
    "load_npz_safely",
    "load_pickle_safely",
    "load_shards",
    "load_ucf101",
    "load_utterances",
    "open_h5",
    "open_manifest",
    "read_csd",
    "read_h5",
    "written_ids",
]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f".{_HOMES[name]}", __name__), name)


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
