"""`clcr study`: many runs from one file, and what they say when compared.

`plan.py` reads the file and lists the runs, `features.py` extracts what they read where the file says so, `one.py` does
one of them, `changes.py` makes of the data what it asks for, `others.py` and `fusions.py` have the models that CLCR is
compared with, `pool.py` does all runs, `report.py` compares them.
"""

from .features import located
from .plan import Study, read_study
from .pool import run_study
from .report import write_report

__all__ = ["Study", "located", "read_study", "run_study", "write_report"]
