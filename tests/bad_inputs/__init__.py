"""Bad inputs at every public door, a file for each group of doors; `tests/test_bad_inputs.py` runs them."""
