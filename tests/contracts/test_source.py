"""What holds for every source file: sizes, no unfinished work, no trace of the machine that it was written on."""

from __future__ import annotations

import ast
import re
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PACKAGES = ("isa", "compiler", "npusim", "configs", "traces")
SOURCES = sorted(p for name in (*PACKAGES, "tests") for p in (ROOT / name).rglob("*.py"))
FILE_LINES, FUNCTION_LINES = 500, 60
# Split, so that this file does not match itself.
UNFINISHED = re.compile("|".join(("TO" + "DO", "FIX" + "ME", "XX" + "X", "NotImplemented" + "Error")))
PLACES = (r"/wo" + r"rk/", r"/ro" + r"ot/", r"/ho" + r"me/\w", r"/opt/ve" + r"nv", r"/tm" + r"p/\w")
MACHINE_PATH = re.compile("|".join(PLACES))
TEXT = (".py", ".md", ".toml", ".yaml", ".yml", ".asm", ".csv", ".j2", ".css", ".json", "")


def name_of(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


def is_table(path: Path) -> bool:
    """A module that is one table of data (isa/table.py) may be longer than other files."""
    return name_of(path) == "isa/table.py"


def too_long(tree: ast.AST, limit: int) -> list[str]:
    """Functions longer than `limit` lines, with their length."""
    functions = [n for n in ast.walk(tree) if isinstance(n, (ast.FunctionDef, ast.AsyncFunctionDef))]
    sizes = [(f.name, (f.end_lineno or f.lineno) - f.lineno + 1) for f in functions]
    return [f"{name}: {size} lines" for name, size in sizes if size > limit]


def text_files() -> list[Path]:
    """Every text file that is, or is about to be, part of the project."""
    names = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard", "-z"],
        cwd=ROOT, capture_output=True, text=True, check=False,
    ).stdout.split("\0")  # fmt: skip
    found = [ROOT / n for n in names if n] or [p for p in ROOT.rglob("*") if ".git" not in p.parts]
    return [p for p in found if p.is_file() and p.suffix in TEXT]


@pytest.mark.parametrize("path", SOURCES, ids=name_of)
def test_sizes(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    lines = text.count("\n")
    assert lines <= FILE_LINES or is_table(path), f"{name_of(path)}: {lines} lines, the ceiling is {FILE_LINES}"
    found = too_long(ast.parse(text), FUNCTION_LINES)
    assert not found, f"{name_of(path)}: the ceiling is {FUNCTION_LINES} lines: {found}"


def test_the_ceiling_of_functions_is_exact() -> None:
    body = "def f():\n" + "    x = 1\n" * 4
    assert too_long(ast.parse(body), 5) == [] and too_long(ast.parse(body), 4) == ["f: 5 lines"]


@pytest.mark.parametrize("path", SOURCES, ids=name_of)
def test_nothing_is_left_unfinished(path: Path) -> None:
    assert not UNFINISHED.findall(path.read_text(encoding="utf-8"))


def test_no_file_names_a_place_on_one_machine() -> None:
    texts = {name_of(p): p.read_text(encoding="utf-8", errors="replace") for p in text_files()}
    assert not {name: found[0] for name, text in texts.items() if (found := MACHINE_PATH.search(text))}


@pytest.mark.parametrize("path", [p for p in SOURCES if "tests" not in p.relative_to(ROOT).parts], ids=name_of)
def test_public_names_have_a_docstring(path: Path) -> None:
    tree = ast.parse(path.read_text(encoding="utf-8"))
    kinds = (ast.FunctionDef, ast.ClassDef)
    public = [n for n in tree.body if isinstance(n, kinds) and not n.name.startswith("_")]
    bare = [n.name for n in public if not ast.get_docstring(n)]
    assert not bare, f"{name_of(path)}: no docstring on {bare}"
    assert not tree.body or ast.get_docstring(tree), f"{name_of(path)}: no docstring of the module"


def test_nobody_evaluates_text_or_unpickles() -> None:
    """Files from users are hostile: nothing is eval'ed, exec'ed or unpickled."""
    banned = {"eval", "exec", "__import__"}
    found = []
    for path in (p for p in SOURCES if "tests" not in p.relative_to(ROOT).parts):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in banned:
                found.append(f"{name_of(path)}:{node.lineno}")
            if isinstance(node, ast.Import) and any(a.name in ("pickle", "marshal", "shelve") for a in node.names):
                found.append(f"{name_of(path)}:{node.lineno}")
    assert not found
