"""Where the code may live and who may import whom, read from the source. CONTRIBUTING.md says it in words."""

import ast
import re
import sys
from collections.abc import Iterator
from contextlib import suppress
from importlib.metadata import PackageNotFoundError, packages_distributions, requires
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from clcr_hf.remote_code import remote_code_files

PACKAGE = Path(__file__).resolve().parents[1] / "clcr_hf"
FOLDERS = {"cli", "data", "demo", "explain", "export", "extract", "hub", "metrics", "predict", "study", "training"}
# Old paths that go with version 0.2, one line each.
SHIMS = {"convert", "flow", "publish"}
LONG_FILES = {"ops.py", "modeling_clcr.py"}
LONGEST_FILE, LONGEST_FUNCTION = 600, 50

# (who, never imports, except): modules by the start of their name below `clcr_hf`.
NEVER = [
    ("data", {"training", "extract", "hub", "cli", "demo", "explain", "export", "predict"}),
    ("explain", {"hub", "training", "extract", "cli", "demo", "export", "predict"}),
    ("hub", {"training", "extract", "cli", "demo", "predict"}),
    ("extract", {"training", "hub", "demo", "predict"}),
    ("training", {"extract", "demo", "predict", "study"}),
    ("study", {"hub", "cli", "demo", "explain", "export", "predict"}),
    ("predict", {"training", "hub", "cli", "demo", "export"}),
]


def _files() -> list[Path]:
    return sorted(PACKAGE.rglob("*.py"))


def _module(path: Path) -> str:
    parts = path.relative_to(PACKAGE).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def _imports(path: Path, top_level: bool = False) -> Iterator[tuple[int, str]]:
    """Line and module, below `clcr_hf`, of each import of the package in a file."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    package = list(path.relative_to(PACKAGE).parent.parts)
    for node in tree.body if top_level else ast.walk(tree):
        if isinstance(node, ast.Import):
            for name in node.names:
                if name.name.split(".")[0] == "clcr_hf":
                    yield node.lineno, name.name.removeprefix("clcr_hf").lstrip(".")
        elif isinstance(node, ast.ImportFrom):
            base = (node.module or "").split(".") if node.module else []
            if node.level:
                base = package[: len(package) - node.level + 1] + base
            elif base[:1] == ["clcr_hf"]:
                base = base[1:]
            else:
                continue
            for name in node.names:
                yield node.lineno, ".".join([*base, name.name])


def _in(module: str, folder: str) -> bool:
    return module == folder or module.startswith(folder + ".")


def _broken(who: str, banned: set[str], allowed: tuple[str, ...] = ()) -> list[str]:
    return [
        f"{path.relative_to(PACKAGE)}:{line} imports {module}"
        for path in _files()
        if _in(_module(path), who) and _module(path) not in allowed
        for line, module in _imports(path)
        if any(_in(module, folder) for folder in banned)
    ]


def test_root_holds_what_travels_and_nothing_else():
    found = {path.stem for path in PACKAGE.glob("*.py")} - SHIMS
    assert found == {path.stem for path in remote_code_files()} | {"__init__"}
    for name in SHIMS:
        assert len(ast.parse((PACKAGE / f"{name}.py").read_text(encoding="utf-8")).body) == 2


def test_root_imports_no_folder():
    """When imported; a function may, with a word to who lacks the package."""
    broken = [
        f"{path.name}:{line} imports {module}"
        for path in remote_code_files()
        for line, module in _imports(PACKAGE / path.name, top_level=True)
        if module.split(".")[0] in FOLDERS
    ]
    assert not broken


@pytest.mark.parametrize(("who", "banned"), NEVER)
def test_folders_keep_apart(who, banned):
    assert not _broken(who, banned)


def test_readers_of_untrusted_files_stand_alone():
    broken = [
        each
        for each in _broken("data.untrusted", {"data", "training", "extract", "hub", "cli"})
        if " data.untrusted" not in each and " data.errors" not in each
    ]
    assert not broken


def test_only_the_command_imports_the_command():
    broken = [
        f"{path.relative_to(PACKAGE)}:{line} imports {module}"
        for path in _files()
        if not _in(_module(path), "cli") and _module(path) != "extract.__main__"
        for line, module in _imports(path)
        if _in(module, "cli")
    ]
    assert not broken


def test_files_can_be_read_in_one_sitting():
    lengths = {str(path.relative_to(PACKAGE)): len(path.read_text(encoding="utf-8").splitlines()) for path in _files()}
    assert not {name: n for name, n in lengths.items() if n > LONGEST_FILE and name not in LONG_FILES}


def test_functions_can_be_read_at_a_glance():
    """Lines of the body, without the docstring."""
    long = {}
    for path in _files():
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                continue
            body = node.body[1:] if ast.get_docstring(node) is not None and len(node.body) > 1 else node.body
            length = (node.end_lineno or 0) - body[0].lineno + 1
            if length > LONGEST_FUNCTION:
                long[f"{path.relative_to(PACKAGE)}:{node.lineno} {node.name}"] = length
    assert not long


def test_what_security_promises_is_held_by_tests_that_exist():
    repository = PACKAGE.parent
    rows = [line for line in (repository / "SECURITY.md").read_text("utf-8").splitlines() if "`tests/" in line]
    assert len(rows) >= 10
    for row in rows:
        files = re.findall(r"`(tests/\w+\.py)`", row)
        source = "\n".join((repository / file).read_text("utf-8") for file in files)
        missing = [name for name in re.findall(r"`(test_\w+)`", row) if f"def {name}(" not in source]
        assert files and not missing, missing


def _brought(name: str, extras: set[str], found: set[str]) -> set[str]:
    """The distributions that an installation brings along, with what these need in turn."""
    for text in requires(name) or ():
        need = Requirement(text)
        wanted = need.marker is None or any(need.marker.evaluate({"extra": extra}) for extra in {"", *extras})
        own = canonicalize_name(need.name)
        if wanted and own not in found:
            found.add(own)
            with suppress(PackageNotFoundError):  # of another platform
                _brought(need.name, set(need.extras), found)
    return found


def test_what_is_imported_at_once_is_what_the_readme_installs():
    """Developers have more: a library that only they have must be imported inside the function that needs it."""
    there = _brought("clcr-hf", {"train", "explain"}, set())
    homes, missing = packages_distributions(), set()
    for path in _files():
        for node in ast.parse(path.read_text(encoding="utf-8")).body:
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            names += [node.module] if isinstance(node, ast.ImportFrom) and not node.level and node.module else []
            for top in {name.partition(".")[0] for name in names} - set(sys.stdlib_module_names) - {"clcr_hf"}:
                if not there & set(map(canonicalize_name, homes.get(top, [top]))):
                    missing.add(f"{path.relative_to(PACKAGE)} imports {top}")
    assert not missing
