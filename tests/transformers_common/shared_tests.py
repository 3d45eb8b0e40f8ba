"""transformers' own shared tests: `ModelTesterMixin`, `ConfigTester`, `ProcessorTesterMixin`.

They are not part of the installed package. They lie in the folder `tests/` of its source distribution, which is
fetched with pip once a version and kept in a cache outside the repository; see README.md beside this file.
"""

import importlib.util
import os
import re
import subprocess
import sys
import tarfile
import tempfile
import unittest
import warnings
from collections.abc import Callable
from contextlib import contextmanager
from fnmatch import fnmatchcase
from pathlib import Path
from types import ModuleType
from unittest import mock

import pytest
import transformers
from filelock import FileLock
from stubs import STUBS

VERSION = transformers.__version__
FOLDER_VARIABLE = "CLCR_TRANSFORMERS_TESTS"
PACKAGE = "transformers_shared_tests"
DOWNLOAD_SECONDS = 600


def tests_folder() -> Path:
    """Folder that holds `test_modeling_common.py` and the like; `FileNotFoundError` says why there is none."""
    given = os.environ.get(FOLDER_VARIABLE)
    if given:
        if not (Path(given) / "test_modeling_common.py").is_file():
            raise FileNotFoundError(f"{FOLDER_VARIABLE}={given} holds no test_modeling_common.py")
        return Path(given)
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "clcr-hf"
    folder, failure = cache / f"transformers-{VERSION}-tests", cache / f"transformers-{VERSION}-tests.failed"
    # Workers of one pytest-xdist run must collect the same tests: the first to come fetches, the others wait, and a
    # failure holds for the whole of that run.
    run = os.environ.get("PYTEST_XDIST_TESTRUNUID", str(os.getpid()))
    cache.mkdir(parents=True, exist_ok=True)
    with FileLock(cache / f"transformers-{VERSION}-tests.lock"):
        if folder.is_dir():
            return folder
        told, _, reason = failure.read_text().partition("\n") if failure.is_file() else ("", "", "")
        if told != run:
            reason = fetch(folder)
            if not reason:
                failure.unlink(missing_ok=True)
                return folder
            failure.write_text(f"{run}\n{reason}")
    raise FileNotFoundError(reason)


def fetch(folder: Path) -> str:
    """Fetch the source distribution and leave its `tests/` at `folder`, in one step; why not, if that failed."""
    # pip builds the metadata of what it downloads, in a clean environment of its own that needs setuptools from the
    # index; only transformers itself must come as source.
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--retries", "1", "--timeout", "30"]
    command += ["--no-deps", "--no-binary", "transformers"]
    with tempfile.TemporaryDirectory(dir=folder.parent) as work:
        try:
            done = subprocess.run(
                [*command, "--dest", work, f"transformers=={VERSION}"],
                capture_output=True,
                text=True,
                timeout=DOWNLOAD_SECONDS,
            )
        except (OSError, subprocess.TimeoutExpired) as error:
            return f"pip download transformers=={VERSION}: {error}"
        archives = list(Path(work).glob("transformers-*.tar.gz"))
        if done.returncode or not archives:
            last = (done.stderr.strip().splitlines() or ["no archive came"])[-1]
            return f"pip download transformers=={VERSION} failed: {last}"
        return unpack(archives[0], folder)


def unpack(archive: Path, folder: Path) -> str:
    """Put the Python files of the archive's `tests/` at `folder`; why not, if there are none."""
    wanted = re.compile(r"[^/]+/tests/([^/]+\.py)")
    with tempfile.TemporaryDirectory(dir=folder.parent) as work, tarfile.open(archive) as source:
        made = Path(work) / "tests"
        made.mkdir()
        for member in source:
            match = wanted.fullmatch(member.name)
            content = source.extractfile(member) if match and member.isfile() else None
            if match and content is not None:
                (made / match[1]).write_bytes(content.read())
        if not (made / "test_modeling_common.py").is_file():
            return f"{archive.name} holds no tests/test_modeling_common.py"
        made.rename(folder)
    return ""


@contextmanager
def _stand_ins():
    """What the shared files import beside themselves, for as long as they are imported."""
    modules = {}
    for name, content in STUBS.items():
        module = ModuleType(name)
        vars(module).update(content)
        modules[name] = module
        if name.startswith(f"{PACKAGE}."):
            parent = name.rpartition(".")[0]
            modules.setdefault(parent, ModuleType(parent)).__path__ = []
    # `test_configuration_common` imports transformers once more from a checkout around it; the installed one will do.
    direct_import = mock.patch("transformers.utils.direct_transformers_import", lambda *_: transformers)
    sys.modules.update(modules)
    try:
        with direct_import:
            yield
    finally:
        for name in modules:  # and nothing else: what the files imported beside them stays imported
            del sys.modules[name]


def load(name: str) -> ModuleType:
    """Module `name` of the shared tests. Where they cannot be had, skips the test module that asks, and warns."""
    full_name = f"{PACKAGE}.{name}"
    if full_name in sys.modules:
        return sys.modules[full_name]
    try:
        folder = tests_folder()
    except FileNotFoundError as error:
        reason = f"TRANSFORMERS' SHARED TESTS DID NOT RUN: {error}. Set {FOLDER_VARIABLE} to a folder that has them."
        warnings.warn(reason, stacklevel=2)
        pytest.skip(reason, allow_module_level=True)
    package = sys.modules.setdefault(PACKAGE, ModuleType(PACKAGE))
    package.__path__ = [str(folder)]
    spec = importlib.util.spec_from_file_location(full_name, folder / f"{name}.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    search_path = list(sys.path)
    with _stand_ins():
        spec.loader.exec_module(module)
    sys.path[:] = search_path  # the files add folders of a checkout to it
    sys.modules[full_name] = module
    return module


def skipping(reasons: dict[str, str]) -> Callable[[type], type]:
    """Class decorator: skip the inherited tests that a pattern (`fnmatch`) of `reasons` fits, for its reason. A test
    that skips itself for any other reason fails: nothing is left out unnoticed."""

    def refuse(self: unittest.TestCase, reason: str) -> None:
        self.fail(f"skipped itself, and no reason is written down in the test class: {reason}")

    def decorate(cls: type) -> type:
        for test in [name for name in dir(cls) if name.startswith("test_") and callable(getattr(cls, name))]:
            reason = next((reason for pattern, reason in reasons.items() if fnmatchcase(test, pattern)), None)
            if reason is not None:
                setattr(cls, test, unittest.skip(reason)(lambda self: None))
        cls.skipTest = refuse
        return cls

    return decorate


def only(*patterns: str) -> Callable[[type], type]:
    """Class decorator: of the inherited tests keep those that a pattern (`fnmatch`) fits, and no others."""

    def decorate(cls: type) -> type:
        for test in [name for name in dir(cls) if name.startswith("test_") and callable(getattr(cls, name))]:
            if not any(fnmatchcase(test, pattern) for pattern in patterns):
                setattr(cls, test, None)
        return cls

    return decorate
