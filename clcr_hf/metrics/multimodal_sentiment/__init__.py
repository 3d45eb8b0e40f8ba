"""An `evaluate` module; see the script beside this file."""
