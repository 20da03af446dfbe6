"""What the command line says of words that it does not take: one line each, with the limit and the remedy.

Also the values that several commands share, and the names that are planned but not in this version.
"""

from __future__ import annotations

from typing import Any

import click
from click.exceptions import NoArgsIsHelpError

WARPS, DEVICES = "SIMT machines", "several devices"
LATER_OPTIONS = {
    "--sample-waves": WARPS, "--devices": DEVICES, "--parallel": DEVICES, "--phase": "models that generate",
    "--kv-len": "models that generate",
}  # fmt: skip
LATER_COMMANDS: dict[str, str] = {}


class UsageLine(click.ClickException):
    """A usage error as one line on stderr; exit code 2."""

    exit_code = 2

    def show(self, file: Any = None) -> None:
        """Print the line."""
        click.echo(f"npusim: {self.message}", file=file, err=True)


def usage_line(error: click.UsageError, group: click.Context | None = None) -> click.ClickException:
    """The error of a command (of `group`, when it is not known otherwise) as one line; a bare command group, which
    asks for its help, stays as it is."""
    if isinstance(error, NoArgsIsHelpError):
        return error
    names: list[str] = []
    context = error.ctx
    if context is None and group is not None:
        context, names = group, [group.invoked_subcommand or ""]
    while context is not None and context.parent is not None:
        names.insert(0, context.info_name or "")
        context = context.parent
    text = " ".join(_text(error).split()).rstrip(".")
    return UsageLine(f"{text}; see `{' '.join(('npusim', *names, '--help'))}`")


def _text(error: click.UsageError) -> str:
    if isinstance(error, click.MissingParameter) and error.param is not None:
        return _missing(error.param, error.ctx)
    if isinstance(error, click.BadParameter) and error.param is not None:
        return f"{_name(error.param, error.ctx)}: {error.message}"
    if isinstance(error, click.NoSuchOption) and error.option_name in LATER_OPTIONS:
        return f"{error.option_name} is not in this version: it comes with {LATER_OPTIONS[error.option_name]}"
    return error.format_message()


def _missing(param: click.Parameter, context: click.Context | None) -> str:
    if not isinstance(param, click.Option):
        return f"{_name(param, context)} is missing"
    return f"{_name(param, context)} is missing: give {param.opts[0]} {param.metavar or ''}: {param.help or ''}"


def _name(param: click.Parameter, context: click.Context | None) -> str:
    if isinstance(param, click.Option):
        return " / ".join(param.opts)
    return param.make_metavar(context) if context is not None else param.human_readable_name


class Whole(click.IntRange):
    """A whole number of at least `least`, and of 18 digits at most."""

    name = "integer"

    def __init__(self, least: int) -> None:
        super().__init__(min=least)
        self.least = least

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int:
        """The number of a text; fails with the limit."""
        text = str(value)
        if not is_number(text.removeprefix("-")) or int(text) < self.least:
            self.fail(f"{text!r} is not a whole number of at least {self.least} (18 digits at most)", param, ctx)
        return int(text)


def is_number(text: str) -> bool:
    """True for one to 18 decimal digits."""
    return text.isascii() and text.isdigit() and len(text) <= 18


class Place(click.Path):
    """The path of a file or folder; '' is none (it would mean the folder of the caller)."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """The path; fails when it is empty."""
        if value == "":
            self.fail("'' names no file or folder: name one ('.' is the current folder), or leave it away", param, ctx)
        return super().convert(value, param, ctx)
