"""`python -m clcr_hf.cli` is `clcr`."""

from .app import main

main()
