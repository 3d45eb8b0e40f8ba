"""`accelerate launch -m clcr_hf.extract`; see [`clcr_hf.extract.main`]."""

from . import main

main()
