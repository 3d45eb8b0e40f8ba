"""The readers of test_fuzz_readers.py under atheris, which looks for bytes that take new ways through our code:

    pip install ".[fuzz]"
    python tests/fuzz_readers.py a.pkl -max_total_time=60

The first word is one of `READERS`, what follows are options of libFuzzer; left out, one minute on at most 4 KB. Nothing
is kept but what breaks a reader, in the folder that is named then.
"""

import sys
import tempfile
from functools import partial
from pathlib import Path

import atheris

with atheris.instrument_imports(include=["clcr_hf"]):
    from bad_inputs.case import Case, verdict
    from test_fuzz_readers import READERS


def main(name: str, *options: str) -> None:
    read, whole = READERS[name]
    folder = Path(tempfile.mkdtemp(prefix="clcr-fuzz-"))
    path, corpus = folder / name, folder / "corpus"
    corpus.mkdir()
    (corpus / "whole").write_bytes(whole)

    def one(content: bytes) -> None:
        path.write_bytes(content)
        held, kind, message = verdict(Case(name, partial(read, path), may=True))
        if not held:
            raise RuntimeError(f"{name} in {folder}: {kind}: {message}")

    usual = ("-max_total_time=60", "-max_len=4096", f"-artifact_prefix={folder}/")
    atheris.Setup([sys.argv[0], *usual, *options, str(corpus)], one)
    atheris.Fuzz()


if __name__ == "__main__":
    main(*sys.argv[1:])
