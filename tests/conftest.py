"""What every test may use."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import hypothesis
import pytest
from click.testing import CliRunner, Result

from npusim import __version__

Cli = Callable[..., Result]
PROGRESS = re.compile("(compiling kernels|simulating|validating|checking)[ ,]")  # a cold cache makes any run slow

# In CI the same examples every time, so that a change is judged by what it changes; elsewhere new ones each run.
hypothesis.settings.register_profile("ci", derandomize=True)
if os.environ.get("CI"):
    hypothesis.settings.load_profile("ci")


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--update-golden", action="store_true", help="write expected outputs anew instead of comparing")


@pytest.fixture
def golden(request: pytest.FixtureRequest) -> Callable[[Path, dict[str, Any]], None]:
    """Compare an object with the JSON file that holds the expected one, or write that with --update-golden.

    `npusim_version` is kept beside the figures, for who asks where they are from, and not compared.
    """

    def compare(path: Path, found: dict[str, Any]) -> None:
        if request.config.getoption("--update-golden"):
            path.write_text(json.dumps({"npusim_version": __version__, **found}, indent=2) + "\n", encoding="utf-8")
            return
        expected = json.loads(path.read_text(encoding="utf-8"))
        del expected["npusim_version"]
        assert found == expected, f"{path.name} differs; if that is meant, run pytest --update-golden and read the diff"

    return compare


@pytest.fixture
def cli() -> Cli:
    """Run the command line in this process; a bug shows as its own exception, not as an exit code."""
    from npusim.cli import main

    def run(*args: object) -> Result:
        return CliRunner().invoke(main, [str(a) for a in args], catch_exceptions=False)

    return run


@pytest.fixture
def fails(cli: Cli) -> Callable[..., str]:
    """Run a command that the user got wrong: exit code 2, nothing on stdout; return the one line on stderr."""

    def run(*args: object) -> str:
        result = cli(*args)
        assert result.exit_code == 2, result.output
        assert result.stdout == ""
        lines = [x for x in result.stderr.splitlines() if not PROGRESS.match(x)]
        assert len(lines) == 1 and lines[0].startswith("npusim: "), result.stderr
        return lines[0]

    return run
