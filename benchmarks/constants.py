"""How long the search for laws is, and which numbers decide something in it.

    python benchmarks/constants.py
    python benchmarks/constants.py --double tests/test_acceptance.py tests/test_terms.py

Counts the lines of `symjax_gn/laws` and `symjax_gn/discovery` and their named numbers, and prints
each with the comment above it. With `--double` each is doubled in turn, and the first of these
tests that fails is printed beside it: one that no test notices is not known to be needed.
"""

import argparse
import ast
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parent.parent
FOLDERS = ("laws", "discovery")


def modules():
    """All modules that are counted."""
    return [path for one in FOLDERS for path in sorted((ROOT / "symjax_gn" / one).glob("*.py"))]


def numbers(path):
    """Module, name, value, line and comment of each named number."""
    text = path.read_text(encoding="utf-8")
    lines = text.splitlines()
    for node in ast.parse(text).body:
        if not isinstance(node, ast.Assign):
            continue
        pairs = [(node.targets[0], node.value)]
        if isinstance(node.targets[0], ast.Tuple) and isinstance(node.value, ast.Tuple):
            pairs = list(zip(node.targets[0].elts, node.value.elts, strict=True))
        above = []
        for line in reversed(lines[: node.lineno - 1]):
            if not line.startswith("#"):
                break
            above.insert(0, line.lstrip("# "))
        for target, value in pairs:
            if isinstance(target, ast.Name) and _is_number(value):
                name, said = target.id, ast.unparse(value)
                yield path, name, said, value, " ".join(above)


def _is_number(node):
    """Whether an expression is made of numbers, of which one is no mere name."""
    if isinstance(node, ast.Tuple):
        return bool(node.elts) and all(map(_is_number, node.elts))
    if isinstance(node, ast.Call):
        return all(map(_is_number, node.args)) and bool(node.args)
    if isinstance(node, ast.UnaryOp):
        return _is_number(node.operand)
    if isinstance(node, ast.BinOp):
        return _is_number(node.left) or _is_number(node.right)
    return isinstance(node, ast.Constant) and type(node.value) in (int, float)


def doubled(path, value, tests):
    """The first test that fails once a number is doubled; None if none does."""
    text = path.read_text(encoding="utf-8")
    lines = text.splitlines(keepends=True)
    if value.lineno != value.end_lineno or isinstance(value, ast.Tuple):
        return "not tried"
    row = lines[value.lineno - 1]
    start, end = value.col_offset, value.end_col_offset
    lines[value.lineno - 1] = f"{row[:start]}2 * ({row[start:end]}){row[end:]}"
    try:
        path.write_text("".join(lines), encoding="utf-8")
        command = [sys.executable, "-m", "pytest", "-q", "-x", *tests]
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    finally:
        path.write_text(text, encoding="utf-8")
    failed = [line for line in done.stdout.splitlines() if line.startswith("FAILED")]
    return failed[0].split()[1] if failed else None


def main():
    """Count, print the table."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--double", nargs="+", metavar="TEST", help="files of tests")
    args = parser.parse_args()
    found = [one for path in modules() for one in numbers(path)]
    lines = sum(len(path.read_text(encoding="utf-8").splitlines()) for path in modules())
    print(f"lines: {lines}; named numbers: {len(found)}\n")
    print("| module | number | value | what it decides |" + (" test |" * bool(args.double)))
    print("|---|---|---|---|" + ("---|" * bool(args.double)))
    for path, name, said, value, comment in found:
        where = path.relative_to(ROOT / "symjax_gn")
        row = f"| {where} | {name} | {said} | {comment} |"
        if args.double:
            row += f" {doubled(path, value, args.double) or 'none'} |"
        print(row, flush=True)


if __name__ == "__main__":
    main()
