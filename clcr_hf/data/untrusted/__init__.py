"""Pickles, arrays and HDF5 files from strangers, read without running anything in them."""
