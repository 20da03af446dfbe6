"""What the commands share: option values, errors as lines, progress, and files that appear whole or not at all."""

from __future__ import annotations

import os
import shutil
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, TypeVar

import click

from isa.errors import AssemblyError, CheckError, ConfigError, NpuError
from npusim.cli_usage import LATER_COMMANDS, is_number, usage_line

if TYPE_CHECKING:
    from rich.console import Console

    from isa.program import Program

INTERRUPTED = 130  # 128 + SIGINT
AFTER_S = 2.0  # shorter runs say nothing
TERMINAL_PERIOD_S, FILE_PERIOD_S = 0.5, 10.0
WIDTH = 120  # of tables that do not go to a terminal


Command = TypeVar("Command", bound=Callable[..., Any])


def with_options(*options: Callable[[Any], Any]) -> Callable[[Command], Command]:
    """All these options, in this order."""

    def decorate(command: Command) -> Command:
        for option in reversed(options):
            command = option(command)
        return command

    return decorate


def _flags(name: str, *flags: tuple[str, str, str]) -> Callable[[Command], Command]:
    """Flags that give one option its value, "" when none is given: --FLAG, the value and its help."""
    return with_options(*(
        click.option(flag, name, flag_value=value, callback=lambda context, option, given: given or "", help=text)
        for flag, value, text in flags
    ))  # fmt: skip


cache_contents = _flags(
    "caches",
    ("--cold-caches", "cold", "A shared cache is empty at the start (default)."),
    ("--warm-caches", "warm", "It holds what a run before this one left there."),
    ("--resident-weights", "weights", "It holds the weights, in their order, as far as they fit."),
)


class OutputError(NpuError):
    """A file or folder cannot be read or written; the message names it and the reason."""


class Group(click.Group):
    """A command group that turns an NpuError into lines on stderr and exit code 2 (1: a check failed), words that it
    does not take into one line, an interrupt into 130."""

    def make_context(self, *args: Any, **options: Any) -> click.Context:
        """Read the words up to the command; see click.Group."""
        try:
            return super().make_context(*args, **options)
        except click.UsageError as error:
            raise usage_line(error) from None

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """Find the command; see click.Group."""
        if args[0] in LATER_COMMANDS and args[0] not in self.commands:
            ctx.fail(f"the command {args[0]!r} is not in this version: it comes with {LATER_COMMANDS[args[0]]}")
        if args[0] not in self.commands and not args[0].startswith("-"):
            ctx.fail(f"no such command {args[0]!r}; there are {', '.join(sorted(self.commands))}")
        return super().resolve_command(ctx, args)

    def invoke(self, ctx: click.Context) -> Any:
        """Run the command; see click.Group."""
        try:
            return super().invoke(ctx)
        except click.UsageError as error:
            raise usage_line(error, ctx) from None
        except NpuError as error:
            click.echo(error_text(error), err=True)
            ctx.exit(1 if isinstance(error, CheckError) else 2)
        except KeyboardInterrupt:
            click.echo("npusim: interrupted", err=True)
            ctx.exit(INTERRUPTED)


def error_text(error: NpuError) -> str:
    """One line; faults of a machine or of assembly text keep a line each."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()] or [type(error).__name__]
    apart = isinstance(error, (ConfigError, AssemblyError, CheckError))
    return "\n".join(f"npusim: {line}" for line in lines) if apart else f"npusim: {'; '.join(lines)}"


def shape_options(ctx: click.Context, param: click.Parameter, values: tuple[str, ...]) -> dict[str, tuple[int, ...]]:
    """`NAME=1x3x224x224`, repeatable, as {name: extents}."""
    found = {}
    for value in values:
        name, equals, text = value.rpartition("=")
        parts = text.split("x")
        if not equals or not name or not all(is_number(p) and int(p) for p in parts):
            raise click.BadParameter(f"{value!r} is not NAME=1x3x224x224 with positive extents", ctx, param)
        found[name] = tuple(int(p) for p in parts)
    return found


def window_option(ctx: click.Context, param: click.Parameter, value: str | None) -> tuple[int, int] | None:
    """`START:END` in core cycles as a pair."""
    if value is None:
        return None
    parts = value.split(":")
    if len(parts) != 2 or not all(map(is_number, parts)) or int(parts[0]) >= int(parts[1]):
        raise click.BadParameter(f"{value!r} is not START:END in core cycles, START below END", ctx, param)
    return int(parts[0]), int(parts[1])


def stdout_console() -> Console:
    """A console on stdout; tables keep their width when it is a file."""
    from rich.console import Console

    return Console(width=None if sys.stdout.isatty() else WIDTH, highlight=False)


class Progress:
    """Says on stderr, from two seconds on, what is going on and about how long it will still take.

    A thread does the talking, so that one long step (kernels that compile, one long launch) is announced too.
    """

    def __init__(self, quiet: bool, stage: str = "compiling") -> None:
        self.quiet, self.stage, self.done, self.total = quiet, stage, 0, 0
        self.started = self.stage_started = time.monotonic()
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._talk, daemon=True)

    def __call__(self, stage: str, done: int, total: int) -> None:
        """`done` of `total` steps of `stage` are finished."""
        if stage != self.stage:
            self.stage_started = time.monotonic()
        self.stage, self.done, self.total = stage, done, total

    def __enter__(self) -> Progress:
        if not self.quiet:
            self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stop.set()
        if self._thread.is_alive():
            self._thread.join()

    def text(self) -> str:
        """What there is to say now."""
        now = time.monotonic()
        if self.stage == "simulating" and not self.done and kernels_are_cold():
            return f"compiling kernels (first run only), {now - self.started:.0f} s"
        parts = [self.stage]
        if self.total > 1:
            parts[0] += f" {self.done}/{self.total}"
        parts.append(f"{now - self.started:.0f} s")
        if self.done and self.total > self.done:
            left = (now - self.stage_started) * (self.total - self.done) / self.done
            parts.append(f"about {left:.0f} s left")
        return ", ".join(parts)

    def _talk(self) -> None:
        terminal = sys.stderr.isatty()
        said = False
        wait = AFTER_S
        while not self._stop.wait(wait):
            wait = TERMINAL_PERIOD_S if terminal else FILE_PERIOD_S
            click.echo(f"\r\x1b[K{self.text()}" if terminal else self.text(), err=True, nl=not terminal)
            said = True
        if said and terminal:
            click.echo("\r\x1b[K", err=True, nl=False)


def kernels_are_cold() -> bool:
    """True while the directory of compiled kernels that this process uses lacks the engine's main loop."""
    folder = os.environ.get("NUMBA_CACHE_DIR")
    return folder is not None and next(Path(folder).glob("**/*run_launch*.nbc"), None) is None


def read_text(path: Path, limit_bytes: int = 1 << 28) -> str:
    """The text of a file; raises OutputError when it cannot be read as UTF-8 of at most `limit_bytes`."""
    try:
        if path.stat().st_size > limit_bytes:
            raise OutputError(f"{path}: larger than the limit of {limit_bytes} bytes")
        return path.read_text(encoding="utf-8")
    except OSError as error:
        raise OutputError(f"{path}: cannot be read: {error.strerror or error}") from None
    except UnicodeDecodeError as error:
        raise OutputError(f"{path}: not UTF-8 text (byte {error.start})") from None


@contextmanager
def output(target: Path) -> Iterator[None]:
    """Turn an OSError inside into an OutputError that names `target`."""
    try:
        yield
    except OSError as error:
        reason = error.strerror or str(error)
        raise OutputError(f"cannot write {target}: {reason}; nothing was changed there, name another place") from None


def write_text(path: Path, text: str) -> None:
    """Write one file, beside its place first and then renamed; raises OutputError."""
    with output(path):
        handle, beside = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
        try:
            with os.fdopen(handle, "w", encoding="utf-8") as file:
                file.write(text)
            os.chmod(beside, 0o644)
            os.replace(beside, path)
        except BaseException:
            os.unlink(beside)
            raise


def write_folder(folder: Path, files: Mapping[str, str | bytes]) -> None:
    """Write files of text or bytes into `folder`, made when absent; none is placed before all are written.

    Raises OutputError.
    """
    with output(folder):
        new = not folder.exists()
        folder.mkdir(parents=True, exist_ok=True)
        staged = Path(tempfile.mkdtemp(prefix=".npusim-", dir=folder))
        try:
            for name, content in files.items():
                (staged / name).write_bytes(content if isinstance(content, bytes) else content.encode("utf-8"))
            for name in files:
                os.replace(staged / name, folder / name)
        except BaseException:
            shutil.rmtree(staged, ignore_errors=True)
            if new:
                shutil.rmtree(folder, ignore_errors=True)
            raise
        staged.rmdir()


def write_program(path: Path, program: Program) -> None:
    """Write a program: as assembly text when the name ends in .asm, else in binary; raises OutputError."""
    if path.suffix.lower() == ".asm":
        from isa.disasm import disassemble

        write_text(path, disassemble(program))
        return
    from isa.binary import save

    with output(path):
        save(program, path)
