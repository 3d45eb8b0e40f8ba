"""`python -m bad_inputs GROUP FOLDER`: a line of JSON before each case, and one after it."""

import json
import resource
import sys
from importlib import import_module
from pathlib import Path

from .case import verdict

MEMORY = 3 * 2**30  # bytes of addresses beyond what the libraries take


def _say(**what: object) -> None:
    print("\x1e" + json.dumps(what, default=str), file=sys.__stdout__, flush=True)


def _bound_memory() -> None:
    taken = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    hard = resource.getrlimit(resource.RLIMIT_AS)[1]
    resource.setrlimit(resource.RLIMIT_AS, (taken + MEMORY, hard))


def main(group: str, folder: str) -> None:
    module = import_module(f"{__package__}.{group}")
    wanted, seen = sys.argv[3:], set()
    cases = module.cases(Path(folder))
    bounded = False
    for case in cases:
        if case.name in seen:
            raise ValueError(f"two cases are called {case.name!r}")
        seen.add(case.name)
        if wanted and not any(word in case.name for word in wanted):
            continue
        if not bounded and Path("/proc/self/statm").exists():
            _bound_memory()
            bounded = True
        _say(begin=case.name)
        held, kind, message = verdict(case)
        _say(case=case.name, held=held, kind=kind, message=message)
    _say(done=len(seen))


if __name__ == "__main__":
    main(*sys.argv[1:3])
