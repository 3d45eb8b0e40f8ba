"""CMU-MOSI and CMU-MOSEI as the CMU-MultimodalSDK publishes them: `.csd` files, one a stream.

`csd_files` reads the files and knows the folds; `csd_rows` aligns the streams and cuts the segments; here they become
a data set.
"""

import os
from typing import Any

from datasets import DatasetDict

from ..arrow import gather_rows
from ..columns import DataFormatError
from ..source import Source, has_files
from .csd_files import (
    ComputationalSequence,
    CsdEntry,
    find_csd_files,
    read_csd,
    read_folds,
    standard_folds,
)
from .csd_rows import MOSEI_EMOTIONS, CsdRows

# The 5 of COVAREP's 74 and 20 of FACET 4.1's 47 columns that the small feature sets of CMU-MOSI keep.
COVAREP_5 = (1, 3, 6, 25, 60)
FACET_20 = (0, 2, 5, 10, 11, 12, 14, 17, 20, 21, 22, 24, 25, 29, 30, 31, 32, 36, 37, 40)


iter_csd = CsdRows


def load_csd(root: str | os.PathLike, **options: Any) -> DatasetDict:
    """CMU-MOSI or CMU-MOSEI in memory: the rows of [`CsdRows`], whose options these are."""
    rows = CsdRows(root, **options)
    found = gather_rows(rows.features, rows)
    if not found:
        raise DataFormatError(f"{root}: no segment is left; the warnings say why")
    return found


SOURCE = Source(
    "csd",
    title="CMU-MultimodalSDK sentiment",
    about="CMU-MOSI and CMU-MOSEI, the .csd files of CMU-MultimodalSDK",
    read=CsdRows,
    recognise=has_files("*.csd"),
    label_scale="sentiment",
)

__all__ = [
    "COVAREP_5",
    "FACET_20",
    "MOSEI_EMOTIONS",
    "ComputationalSequence",
    "CsdEntry",
    "CsdRows",
    "find_csd_files",
    "iter_csd",
    "load_csd",
    "read_csd",
    "read_folds",
    "standard_folds",
]
