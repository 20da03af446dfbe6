"""The documentation's commands: every one parses, and those marked `<!-- test -->` are run with their output shown."""

from __future__ import annotations

import re
import shlex
from collections.abc import Callable
from pathlib import Path

import click
import pytest
from click.testing import Result

ROOT = Path(__file__).resolve().parents[2]
PAGES = [p for p in (ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))) if p.exists()]
BLOCK = re.compile(r"(<!-- test -->\n+)?```(\w*)\n(.*?)```", re.DOTALL)
LINK = re.compile(r"\]\(([^)#:\s]+)(?:#[^)]*)?\)")
Cli = Callable[..., Result]


def blocks(page: Path) -> list[tuple[bool, str]]:
    """(marked for running, text) of the console and sh blocks of a page."""
    found = BLOCK.findall(page.read_text(encoding="utf-8"))
    return [(bool(mark), text) for mark, kind, text in found if kind in ("console", "sh", "bash")]


HERE = re.compile(r"^\$ cat > (\S+) <<'(\w+)'\n(.*?)^\2\n", re.DOTALL | re.MULTILINE)


def commands(text: str) -> list[tuple[list[str], str]]:
    """(arguments, output shown below) of each `$ npusim ...` line; `&&` splits a line."""
    found: list[tuple[list[str], str]] = []
    for line in HERE.sub("", text).splitlines(keepends=True):
        if line.startswith("$ "):
            parts = [p.strip() for p in line[2:].split("&&")]
            found += [(shlex.split(p, comments=True)[1:], "") for p in parts if p.startswith("npusim ")]
        elif found:
            found[-1] = (found[-1][0], found[-1][1] + line)
    return found


ALL = [(page, args) for page in PAGES for _, text in blocks(page) for args, _ in commands(text)]
MARKED = [(page, i, text) for page in PAGES for i, (mark, text) in enumerate(blocks(page)) if mark]


@pytest.mark.parametrize(("page", "args"), ALL, ids=[f"{p.name}-{' '.join(a)}"[:60] for p, a in ALL])
def test_commands_parse(page: Path, args: list[str]) -> None:
    """Options and arguments are those of the command line, without running it."""
    from npusim.cli import main

    group: click.Group = main
    name, rest = args[0], args[1:]
    if name.startswith("-"):
        return
    command = group.commands[name]
    while isinstance(command, click.Group) and rest and not rest[0].startswith("-"):
        command, rest = command.commands[rest[0]], rest[1:]
    command.make_context(name, list(rest), resilient_parsing=False)


@pytest.mark.parametrize(("page", "index", "text"), MARKED, ids=[f"{p.name}-{i}" for p, i, _ in MARKED])
def test_marked_blocks_run_and_print_what_they_show(
    page: Path, index: int, text: str, cli: Cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A line of `...` in the shown output stands for any lines; the rest must appear in this order."""
    monkeypatch.chdir(tmp_path)
    for name, _, content in HERE.findall(text):
        (tmp_path / name).write_text(content, encoding="utf-8")
    for args, shown in commands(text):
        result = cli(*args)
        assert result.exit_code == 0, result.output
        printed = [line.rstrip() for line in result.stdout.splitlines()]
        at = 0
        for line in (x.rstrip() for x in shown.splitlines()):
            if line and line != "...":
                assert line in printed[at:], f"{page.name}: npusim {' '.join(args)} does not print {line!r}"
                at += printed[at:].index(line) + 1


def test_there_are_examples_to_run() -> None:
    assert MARKED and {page.name for page, _ in ALL} >= {"README.md", "user-guide.md"}


@pytest.mark.parametrize("page", PAGES, ids=lambda p: p.name)
def test_links_and_pictures_exist(page: Path) -> None:
    targets = LINK.findall(page.read_text(encoding="utf-8"))
    missing = [t for t in targets if not (page.parent / t).exists()]
    assert not missing


def test_the_table_of_chips_is_complete() -> None:
    from isa.loader import list_machines

    text = (ROOT / "README.md").read_text(encoding="utf-8")
    assert all(f"`{name}`" in text for name, _ in list_machines())
