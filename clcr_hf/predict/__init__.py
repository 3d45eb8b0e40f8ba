"""`clcr predict`: many clips, tables and long recordings to a table of predictions.

`request.py` says what is asked, `sources.py` what is read, `run.py` reads it batch by batch, `output.py` writes a table
that survives a kill, `subtitles.py` gives words their times.
"""

from .output import PredictionFile
from .request import Request
from .run import Predictor
from .sources import open_items
from .subtitles import read_subtitles

__all__ = ["PredictionFile", "Predictor", "Request", "open_items", "read_subtitles"]
