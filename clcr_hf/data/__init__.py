"""Data sets and collation: every loader returns a `datasets.DatasetDict` of train, validation and test.

`load_<name>` is there for each data set of `registry.HOMES`; `source.find_source(name)` says what it reads and which
options it takes. Beside them:

| module | |
|---|---|
| `source` | what a source of rows is; `benchmarks`, `table`, `talking_faces` and `shard_rows` hold them |
| `named` | `load_named`, data sets of the Hub and local folders, whatever their columns are called |
| `convert`, `shards`, `folders` | rows as Parquet shards, written by one writer, resumed, read back |
| `untrusted` | pickles, HDF5 and `.npz` files from strangers; the loaders read through them |
| `clcr_hf.collator` | `CLCRDataCollator`, rows of any of them to one padded and masked batch |

Names are imported on first use, so that one part does not need the optional packages of another.
"""

from importlib import import_module
from typing import Any

from .registry import HOMES

# Names by the module that they come from.
_NAMES = {
    ".collator": ("CLCRDataCollator",),  # at the root, where it can travel with the pipeline
    "benchmarks.ave": ("iter_ave_h5",),
    "benchmarks.csd": ("iter_csd",),
    "benchmarks.csd_files": ("read_csd",),
    "benchmarks.mmsa": ("iter_mmsa",),
    "columns": ("DataFormatError",),
    "dialogues": ("as_dialogues",),
    "named": ("load_named", "typed_rows"),
    "shards": ("ShardWriter", "load_shards", "written_ids"),
    "table.manifest": ("iter_manifest", "load_manifest", "open_manifest"),
    "talking_faces": ("generate_talking_faces",),
    "untrusted.arrays": ("UnsafeFileError", "load_npz_safely", "open_h5", "read_h5"),
    "untrusted.pickled_values": ("UnsafePickleError",),
    "untrusted.pickles": ("RestrictedUnpickler", "load_pickle_safely"),
}
_MODULES = {name: module.partition(":")[0] for module, names in _NAMES.items() for name in names}
_MODULES |= {f"load_{name}": home.partition(":")[0] for name, home in HOMES.items() if home.startswith("benchmarks.")}

__all__ = sorted(_MODULES)  # noqa: PLE0605


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f".{_MODULES[name]}", __name__), name)


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
