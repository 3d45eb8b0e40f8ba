"""Lines of code of a package: no blank lines, no comments, no docstrings.

    python .ci/count_code.py [FOLDER] [--by-file]      # default: clcr_hf
"""

import ast
import io
import sys
import tokenize
from pathlib import Path

_NO_CODE = {
    tokenize.COMMENT,
    tokenize.NL,
    tokenize.NEWLINE,
    tokenize.INDENT,
    tokenize.DEDENT,
    tokenize.ENDMARKER,
    tokenize.ENCODING,
}


def code_lines(path: Path) -> int:
    """Lines of a Python file that hold code."""
    source = path.read_text(encoding="utf-8")
    lines: set[int] = set()
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        if token.type not in _NO_CODE:
            lines |= set(range(token.start[0], token.end[0] + 1))
    for node in ast.walk(ast.parse(source)):
        documented = isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef)
        if documented and ast.get_docstring(node, clean=False) is not None:
            lines -= set(range(node.body[0].lineno, (node.body[0].end_lineno or 0) + 1))
    return len(lines)


def main() -> None:
    words = [word for word in sys.argv[1:] if not word.startswith("--")]
    files = sorted(Path(words[0] if words else "clcr_hf").rglob("*.py"))
    counts = {path: code_lines(path) for path in files}
    if "--by-file" in sys.argv:
        for path, count in counts.items():
            print(f"{count:6} {path}")
    print(f"{sum(counts.values()):6} lines of code in {len(files)} files")


if __name__ == "__main__":
    main()
