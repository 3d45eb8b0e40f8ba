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
| `untrusted` | pickles, HDF5 and `.npz` files from strangers; the loaders read through them |
| `clcr_hf.collator` | `CLCRDataCollator`, rows of any of them to one padded and masked batch |

Names are imported on first use, so that one part does not need the optional packages of another.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ..collator import CLCRDataCollator
    from .benchmarks.ave import iter_ave_h5, load_ave, load_ave_h5
    from .benchmarks.cremad import load_cremad
    from .benchmarks.csd import iter_csd, load_csd, read_csd
    from .benchmarks.kinetics_sounds import load_kinetics_sounds
    from .benchmarks.mmsa import iter_mmsa, load_mmsa
    from .benchmarks.ucf101 import load_ucf101
    from .benchmarks.utterances import load_utterances
    from .columns import DataFormatError
    from .dialogues import as_dialogues
    from .shards import ShardWriter, load_shards, written_ids
    from .table.manifest import iter_manifest, load_manifest, open_manifest
    from .talking_faces.render import generate_talking_faces
    from .untrusted.arrays import UnsafeFileError, load_npz_safely, open_h5, read_h5
    from .untrusted.pickled_values import UnsafePickleError
    from .untrusted.pickles import RestrictedUnpickler, load_pickle_safely

_HOMES = {
    "CLCRDataCollator": ".collator",  # at the root, where it can travel with the pipeline
    "DataFormatError": "columns",
    "RestrictedUnpickler": "untrusted.pickles",
    "ShardWriter": "shards",
    "UnsafeFileError": "untrusted.arrays",
    "UnsafePickleError": "untrusted.pickled_values",
    "generate_talking_faces": "talking_faces",
    "iter_ave_h5": "benchmarks.ave",
    "load_ave": "benchmarks.ave",
    "load_ave_h5": "benchmarks.ave",
    "iter_csd": "benchmarks.csd",
    "load_cremad": "benchmarks.cremad",
    "load_csd": "benchmarks.csd",
    "read_csd": "benchmarks.csd",
    "load_kinetics_sounds": "benchmarks.kinetics_sounds",
    "as_dialogues": "dialogues",
    "iter_manifest": "table.manifest",
    "load_manifest": "table.manifest",
    "open_manifest": "table.manifest",
    "iter_mmsa": "benchmarks.mmsa",
    "load_mmsa": "benchmarks.mmsa",
    "load_npz_safely": "untrusted.arrays",
    "load_shards": "shards",
    "open_h5": "untrusted.arrays",
    "read_h5": "untrusted.arrays",
    "written_ids": "shards",
    "load_pickle_safely": "untrusted.pickles",
    "load_ucf101": "benchmarks.ucf101",
    "load_utterances": "benchmarks.utterances",
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
