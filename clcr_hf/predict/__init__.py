"""`clcr predict`: many clips, tables and long recordings to a table of predictions.

`sources.py` says what is read, `run.py` reads it batch by batch, `output.py` writes a table that survives a kill,
`subtitles.py` gives words their times.
"""

from .output import PredictionFile, RowList, column_types, model_digest, result_rows
from .run import Predictor
from .sources import Item, Items, open_items
from .subtitles import read_subtitles

__all__ = [
    "Item",
    "Items",
    "PredictionFile",
    "Predictor",
    "RowList",
    "column_types",
    "model_digest",
    "open_items",
    "read_subtitles",
    "result_rows",
]
