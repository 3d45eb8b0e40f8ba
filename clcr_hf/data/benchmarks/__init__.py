"""The benchmarks as their authors distribute them, one file each."""
