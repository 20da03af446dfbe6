"""`npusim kernel`: run, verify and profile a hand-written kernel of threads."""

from __future__ import annotations

import json
from pathlib import Path

import click

from npusim.cli_support import Progress, stdout_console, write_folder
from npusim.cli_usage import Place, Whole


def _pairs(context: click.Context, option: click.Parameter, given: tuple[str, ...]) -> dict[str, str]:
    found: dict[str, str] = {}
    for text in given:
        name, equals, value = text.partition("=")
        if not equals or not name or not value:
            raise click.BadParameter(f"{text!r} is not NAME=VALUE")
        if name in found:
            raise click.BadParameter(f"{name} is given twice")
        found[name] = value
    return found


def _grid(context: click.Context, option: click.Parameter, given: str) -> tuple[int, int]:
    words = given.lower().split("x")
    if len(words) > 2 or not all(word.isascii() and word.isdigit() and 0 < int(word) < 1 << 31 for word in words):
        raise click.BadParameter(f"{given!r} is not a number of blocks from 1 on, as in 128 or 16x8")
    columns, rows = int(words[0]), int(words[1]) if len(words) == 2 else 1
    if columns * rows >= 1 << 31:
        raise click.BadParameter(f"{given} is {columns * rows} blocks; at most {(1 << 31) - 1}")
    return columns, rows


@click.command()
@click.argument("source", metavar="FILE.asm", type=Place(path_type=Path))
@click.option("--hw", metavar="CHIP", required=True, help="Preset of a GPU (see `npusim chips`) or YAML path.")
@click.option("--grid", metavar="G|GXxGY", required=True, callback=_grid, help="Blocks: 128, or 16x8 in rows of 16.")
@click.option("--block", type=Whole(1), required=True, help="Threads of a block.")
@click.option("--arg", "arguments", metavar="NAME=VALUE", multiple=True, callback=_pairs,
              help="A parameter: a number, rand:f32[1024], randint:0,256:i32[64], zeros:, ones:, iota:, or a .npy "
                   "file; repeatable.")  # fmt: skip
@click.option("--kernel", "name", default="", metavar="NAME", help="Of a file with several kernels.")
@click.option("--launches", type=Whole(1), default=1, show_default=True, help="Times, one after another.")
@click.option("--check", default="", metavar="SCRIPT.py:FN", help="A function that gets the arguments by name and "
              "returns the arrays that it expects; exit 1 if they differ.")  # fmt: skip
@click.option("--check-hazards", is_flag=True, help="Look for races, and for accesses outside of every array; with "
              "--check it is done anyway.")  # fmt: skip
@click.option("--no-values", is_flag=True, help="Execute only what decides time: branches, addresses, and what feeds "
              "them.")  # fmt: skip
@click.option("--set", "settings", metavar="KEY=VALUE", multiple=True, help="Override a machine field; repeatable.")
@click.option("--seed", type=Whole(0), default=0, help="Of rand and randint.  [default: 0]")
@click.option("-o", "--out", type=Place(path_type=Path), metavar="DIR", help="Write summary.json and arrays.npz here.")
@click.option("--json", "as_json", is_flag=True, help="Print the summary as JSON on stdout, nothing else.")
@click.option("-q", "--quiet", is_flag=True, help="Print errors only.")
def kernel(
    source: Path, hw: str, grid: tuple[int, int], block: int, arguments: dict[str, str], name: str, launches: int,
    check: str, check_hazards: bool, no_values: bool, settings: tuple[str, ...], seed: int, out: Path | None,
    as_json: bool, quiet: bool,
) -> None:  # fmt: skip
    """Run, verify and profile a kernel of threads, written in assembly."""
    from npusim.kernel import arrays_of, run_kernel, summary_of
    from npusim.report import threads

    with Progress(quiet or as_json, "simulating"):
        result = run_kernel(
            source, hw, grid=grid, block=block, arguments=arguments, name=name, launches=launches, check=check,
            settings=settings, seed=seed, values=not no_values, check_hazards=check_hazards,
        )  # fmt: skip
        if out is not None:
            summary = json.dumps(summary_of(result), indent=2) + "\n"
            write_folder(out, {"summary.json": summary, "arrays.npz": arrays_of(result)})
    if as_json:
        click.echo(json.dumps(summary_of(result), indent=2, allow_nan=False))
    elif not quiet:
        console = stdout_console()
        for line in threads.lines(result.record):
            console.print(line, markup=False, highlight=False, soft_wrap=True)
        for row in result.comparisons:
            verdict = "ok" if row.ok else "DIFFERS"
            text = f"check {row.name}: {verdict}, largest error {row.max_err:.3g}, allowed {row.bound:.3g}"
            console.print(text, markup=False, highlight=False)
    for hazard in result.hazards:
        click.echo(f"race: {hazard}", err=True)
    for row in result.comparisons:
        if not row.ok:
            click.echo(
                f"check failed: {row.name}{list(row.at)} is {row.got:g}, expected {row.expected:g} "
                f"(allowed {row.bound:.3g})", err=True,
            )  # fmt: skip
    if not result.ok:
        raise click.exceptions.Exit(1)
