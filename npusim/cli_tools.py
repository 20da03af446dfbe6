"""The commands around a run: program text, presets, what is supported, validation, warming up."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import click

from npusim.cli_support import Group, Progress, cache_contents, stdout_console, write_program, write_text
from npusim.cli_usage import Place, Whole

_out_file = click.option("-o", "--out", type=Place(path_type=Path), metavar="FILE", help="Write here.")


def _table(columns: Sequence[str], rows: Iterable[Sequence[str]]) -> None:
    from rich.table import Table
    from rich.text import Text

    table = Table(box=None, pad_edge=False, header_style="bold")
    for column in columns:
        table.add_column(column, overflow="fold")
    for row in rows:
        table.add_row(*(Text(cell) for cell in row))
    stdout_console().print(table)


@click.command()
@click.argument("source", metavar="FILE.asm", type=Place(path_type=Path))
@click.option("-o", "--out", type=Place(path_type=Path), metavar="PROG", required=True, help="The binary program.")
@click.option("--hw", metavar="CHIP", default="", help="Also verify the program for this chip.")
def asm(source: Path, out: Path, hw: str) -> None:
    """Assemble a program: text to binary."""
    from isa.loader import load_machine
    from isa.verify import verify
    from npusim.programs import read_program

    program = read_program(source)
    if hw:
        verify(program, load_machine(hw).machine)
    write_program(out, program)
    click.echo(f"{out}: {len(program.instrs)} instructions, {len(program.kernels)} kernel(s)")


@click.command()
@click.argument("program", metavar="PROG", type=Place(path_type=Path))
@_out_file
def disasm(program: Path, out: Path | None) -> None:
    """Disassemble a program: binary to text, on stdout or into FILE."""
    from isa.disasm import disassemble
    from npusim.programs import read_program

    text = disassemble(read_program(program))
    if out is not None:
        write_text(out, text)
    else:
        click.echo(text, nl=not text.endswith("\n"))


@click.group(cls=Group, invoke_without_command=True)
@click.pass_context
def chips(ctx: click.Context) -> None:
    """Show the presets: list (default), show CHIP, schema."""
    if ctx.invoked_subcommand is None:
        ctx.invoke(chips_list)


@chips.command("list")
def chips_list() -> None:
    """List the presets."""
    from isa.loader import list_chips

    _table(("chip", "description"), list_chips())


@chips.command("show")
@click.argument("chip")
@click.option("--set", "settings", metavar="KEY=VALUE", multiple=True, help="Override a field; repeatable.")
@click.option("--json", "as_json", is_flag=True, help="Print the resolved machine as JSON.")
def chips_show(chip: str, settings: tuple[str, ...], as_json: bool) -> None:
    """Show one chip resolved, with the source of every number."""
    from isa.loader import load_chip
    from isa.machine import Machine
    from npusim.report.limits import operation

    loaded = load_chip(chip, settings)
    machine = loaded.chip
    if as_json:
        click.echo(json.dumps(machine.model_dump(), indent=2))
        return
    click.echo(f"{machine.name}: {machine.description}")
    peak = "only its memory is modelled so far"
    if isinstance(machine, Machine):
        tera = machine.macs_per_cycle(machine.default_dtype) * machine.clock_mhz * 2e-6
        peak = f"{machine.default_dtype}: {tera:.4g} T{operation(machine.default_dtype)}/s"
    click.echo(f"issue {machine.issue}, {machine.all_cores} core(s), {machine.clock_mhz:g} MHz, {peak}, "
               f"{machine.dram_bytes_per_second / 1e9:.4g} GB/s\n")  # fmt: skip
    rows = ((key, f"{p.value:g}" if isinstance(p.value, float) else str(p.value), p.confidence, p.source)
            for key, p in sorted(loaded.provenance.items()))  # fmt: skip
    _table(("key", "value", "confidence", "source"), rows)


@chips.command("schema")
@click.option("--memory-only", is_flag=True, help="Of a chip of which only the memory is described.")
def chips_schema(memory_only: bool) -> None:
    """Print the JSON Schema of a machine file, for editors."""
    from isa.chip import MemoryChip
    from isa.machine import Machine
    from isa.schema import machine_schema

    click.echo(json.dumps(machine_schema(MemoryChip if memory_only else Machine), indent=2))


@click.command()
def ops() -> None:
    """List the operators that the compiler supports."""
    import compiler.lower  # noqa: F401  (registers the kernels)
    from compiler.lower.context import RULES
    from compiler.ops import OPS

    rows = ((n, OPS[n].op_class, "kernel" if n in RULES else _without_kernel(OPS[n].op_class)) for n in sorted(OPS))
    _table(("operator", "class", "on a chip"), rows)


def _without_kernel(op_class: str) -> str:
    return "no work" if op_class == "metadata" else "rewritten by a pass, left to the host, or estimated"


@click.command()
def models() -> None:
    """List the built-in models."""
    from compiler.zoo import names

    _table(("model", "description"), names())


@click.command()
@click.option("--quiet", "-q", is_flag=True, help="Print errors only.")
def warmup(quiet: bool) -> None:
    """Compile all kernels of the engine, once for this version of npusim and numba."""
    from npusim import api
    from npusim.kernel import run_sample

    steps: list[tuple[str, Callable[[], object]]] = [
        *((chip, partial(api.run, "gemm:8x8x8", chip)) for chip in ("tiny", "tpu-v3")),
        ("gpu-tiny", partial(run_sample, "gpu-tiny")),
    ]
    for chip, step in steps:
        started = time.perf_counter()
        step()
        if not quiet:
            click.echo(f"{chip}: {time.perf_counter() - started:.1f} s")


@click.command()
@click.option("--hw", metavar="CHIP", help="Preset name or YAML path; optional for --kind systolic.")
@click.option("--table", metavar="NAME", help="One of the shipped tables; default: all of them.")
@click.option("--kind", metavar="KIND", help="What the rows of --csv are: gemm, conv, vector, systolic, ...")
@click.option("--csv", type=Place(path_type=Path), metavar="FILE", help="Your measurements.")
@click.option("--rows", type=Whole(1), metavar="N", help="Take N rows spread evenly over a table.")
@click.option("--timing", default="", metavar="WORD", help="What the times of --csv cover: kernel, graph or eager.")
@cache_contents
@click.option("--set", "settings", metavar="KEY=VALUE", multiple=True, help="Override a machine field; repeatable.")
@_out_file
@click.option("--json", "as_json", is_flag=True, help="Print the summary as JSON on stdout, nothing else.")
@click.option("-q", "--quiet", is_flag=True, help="Print errors only.")
def validate(as_json: bool, quiet: bool, **options: Any) -> None:
    """Compare with measurements: the shipped tables, or --csv FILE of a --kind; exit 1 when a row cannot be run."""
    from npusim import api
    from npusim.validate import text_lines

    with Progress(quiet, "validating") as progress:
        summary = api.validate(progress=progress, **options)
    if as_json:
        click.echo(json.dumps(summary.as_dict(), indent=2, allow_nan=False))
    elif not quiet:
        for line in text_lines(summary):
            click.echo(line)
        for key, value in summary.as_dict().items():
            if not isinstance(value, (dict, list)):
                click.echo(f"{key}: {value:.2f}" if isinstance(value, float) else f"{key}: {value}")
    if summary.failed:
        raise click.exceptions.Exit(1)


TOOLS = (asm, disasm, chips, ops, models, validate, warmup)
