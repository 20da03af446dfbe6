"""The command line: every command is one call of the library and the printing of what it returns.

Exit codes: 0 done, 1 a check or a comparison with measurements failed, 2 something that the user can mend, 130
interrupted. Modules are imported inside the commands, so that `npusim --help` answers at once.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from npusim import __version__
from npusim.cli_kernel import kernel as _kernel
from npusim.cli_support import (
    Group,
    Progress,
    cache_contents,
    shape_options,
    stdout_console,
    window_option,
    with_options,
    write_folder,
    write_program,
)
from npusim.cli_tools import TOOLS
from npusim.cli_usage import Place, Whole

if TYPE_CHECKING:
    from npusim.record import CheckResult, Result

FIDELITIES = ("roofline", "analytic", "cycle")  # as npusim.api.FIDELITIES, which --help does not import


@click.group(cls=Group, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110})
@click.version_option(__version__, prog_name="npusim")
def main() -> None:
    """Simulate AI accelerators cycle by cycle.

    MODEL is an .onnx file, a zoo model such as resnet50 or gemm:512x512x512 (`npusim models`), a graph in npusim's
    own .yaml or .npu text, or a SCALE-Sim topology .csv. CHIP is a preset (`npusim chips`) or the path of a YAML file.
    """


_hw = click.option("--hw", metavar="CHIP", required=True, help="Preset name (see `npusim chips`) or YAML path.")
_settings = click.option(
    "--set", "settings", metavar="KEY=VALUE", multiple=True,
    help="Override a machine field (core.matrix.rows=64) or a run field (run.cores=1); repeatable.",
)  # fmt: skip
_model_options = with_options(
    click.option("--batch", type=Whole(1), help="Batch size."),
    click.option("--shape", "shapes", metavar="NAME=1x3x224x224", multiple=True, callback=shape_options,
                 help="Shape of an input of an .onnx model; repeatable."),
    click.option("--dtype", default="", metavar="DTYPE", help="fp32, bf16, int8, ...; default: the chip's."),
)  # fmt: skip
_seed = click.option("--seed", type=Whole(0), default=0, help="Of generated inputs.  [default: 0]")
_assume = click.option(
    "--assume", default="uniform", show_default=True, metavar="LAW",
    help="Rows that gathers read, and indices among generated inputs: uniform or zipf:EXPONENT.",
)  # fmt: skip
_out = click.option("-o", "--out", type=Place(path_type=Path), metavar="DIR",
                    help="Write summary.json, ops.csv, roofline, trace.json and report.html here.")  # fmt: skip
_window = click.option("--trace-window", metavar="START:END", callback=window_option,
                       help="Core cycles of which trace.json holds every instruction.")  # fmt: skip


_json = click.option("--json", "as_json", is_flag=True, help="Print the summary as JSON on stdout, nothing else.")
_quiet = click.option("-q", "--quiet", is_flag=True, help="Print errors only.")
_exact = click.option("--exact", is_flag=True, help="Extrapolate nothing: in this version every run is exact anyway.")
_fidelity = click.option("--fidelity", type=click.Choice(FIDELITIES), default="cycle", show_default=True,
                         help="roofline and analytic are closed forms.")  # fmt: skip


@main.command()
@click.argument("model")
@with_options(_hw, _out)
@click.option("--check", is_flag=True, help="Execute the program for its values too, compare them with the reference, "
              "and prove its synchronisation; exit 1 on a mismatch.")  # fmt: skip
@click.option("--allow-approx", is_flag=True, help="With --check: accept operators that were estimated, not executed.")
@with_options(_settings, _model_options, _seed, _assume, cache_contents, _fidelity, _exact, _window, _json, _quiet)
def run(model: str, hw: str, out: Path | None, check: bool, allow_approx: bool, exact: bool, as_json: bool, quiet: bool,
        **options: Any) -> None:  # fmt: skip
    """Compile MODEL, simulate it on CHIP and report."""
    from npusim import api

    with Progress(quiet) as progress:
        result = api.run(model, hw, out=out, check=check, allow_approx=allow_approx, progress=progress, **options)
    _present(result, out, as_json, quiet)
    _judge(result, allow_approx)


@main.command()
@click.argument("model")
@_hw
@click.option("-o", "--out", "program_path", type=Place(path_type=Path), metavar="PROG", required=True,
              help="The program file: assembly text when the name ends in .asm, else binary.")  # fmt: skip
@click.option("--dump", type=Place(path_type=Path), metavar="DIR",
              help="Write the graph after each pass, the tile programs and the assembly here.")  # fmt: skip
@with_options(_settings, _model_options, _seed, _quiet)
def compile(model: str, program_path: Path, dump: Path | None, quiet: bool, **options: Any) -> None:
    """Compile MODEL for CHIP into a program file."""
    from compiler.text import print_graph
    from isa.disasm import disassemble
    from npusim import api

    graphs: dict[str, str] = {}

    def keep(stage: str, graph: Any) -> None:
        graphs[f"{len(graphs):02d}_{stage}.npu"] = print_graph(graph)

    with Progress(quiet):
        built = api.compile(model, dump=keep if dump else None, **options).built
        if dump is not None:
            texts = {"tiles.txt": built.dump() + "\n", "program.asm": disassemble(built.program)}
            write_folder(dump, {**graphs, **texts})
        write_program(program_path, built.program)
    if not quiet:
        program = built.program
        click.echo(
            f"{program_path}: {len(program.kernels)} kernel(s), {len(program.instrs)} instructions, "
            f"{len(program.launches)} launch(es), {program.memory_bytes.get('dram', 0):,} bytes of DRAM"
        )
        for assumption in built.assumptions:
            click.echo(f"assumed: {assumption}")
        overrides = [setting for setting in options["settings"] if not setting.startswith("run.")]
        if overrides:
            click.echo(f"the file names its machine only: give `npusim sim` the same --set {' --set '.join(overrides)}")


@main.command()
@click.argument("program", metavar="PROG")
@click.option("--hw", metavar="CHIP", default="", help="Preset name or YAML path; default: the program's machine.")
@click.option("--inputs", type=Place(path_type=Path), metavar="X.npz",
              help="Stored values by tensor name: inputs, weights, and expected outputs for --check.")  # fmt: skip
@click.option("--check", is_flag=True, help="Execute for values (what --inputs lacks is seeded), compare the outputs "
              "that --inputs gives, and prove the synchronisation; exit 1 on a fault.")  # fmt: skip
@click.option("--check-hazards", is_flag=True, help="Prove the synchronisation only; exit 1 on a fault.")
@click.option("--redundant-waits", is_flag=True, help="List the waits that no access needs; nothing is simulated.")
@with_options(_out, _settings, _seed, _assume, cache_contents, _exact, _window, _json, _quiet)
def sim(
    program: str, hw: str, out: Path | None, exact: bool, as_json: bool, quiet: bool, redundant_waits: bool,
    **options: Any,
) -> None:  # fmt: skip
    """Simulate PROG, a program in binary form or assembly text."""
    from npusim import programs

    if redundant_waits:
        for line in programs.redundant(program, hw, options["settings"]):
            click.echo(line)
        return
    with Progress(quiet, "reading") as progress:
        result = programs.sim(program, hw, out=out, progress=progress, **options)
    _present(result, out, as_json, quiet)
    if options["check"] and result.check is not None and not quiet:
        click.echo(_compared(result.check), err=True)
    _judge(result, True)


@main.command()
@click.argument("target", metavar="DIR|MODEL")
@click.option("--hw", metavar="CHIP", default="", help="For a MODEL: preset name or YAML path.")
@with_options(_settings, _model_options, _seed, _quiet)
def profile(target: str, hw: str, quiet: bool, **options: Any) -> None:
    """Show the profiler's view of a saved run (its DIR), or of a new run of MODEL: speed of light, bounds, stalls,
    memory chart, hot spots."""
    from npusim import report

    if Path(target).is_dir():
        report.profile_saved(Path(target), stdout_console())
        return
    if not hw:
        raise click.UsageError(f"{target!r} is no folder of a run; to profile a model, give its chip with --hw")
    from npusim import api

    with Progress(quiet) as progress:
        result = api.run(target, hw, progress=progress, **options)
    report.profile_view(result, stdout_console())


@main.command()
@click.argument("before", metavar="A", type=Place(path_type=Path))
@click.argument("after", metavar="B", type=Place(path_type=Path))
def compare(before: Path, after: Path) -> None:
    """Compare two runs, the folders A and B: what moved, by how much, why."""
    from npusim import report

    report.compare(before, after, stdout_console())


def _present(result: Result, out: Path | None, as_json: bool, quiet: bool) -> None:
    """Print a result: JSON, or the report of the terminal with the files written."""
    from npusim import report
    from npusim.report.files import NAMES

    if as_json:
        click.echo(json.dumps(report.summary(result), indent=2, allow_nan=False))
    elif not quiet:
        report.terminal(result, stdout_console(), [out / name for name in NAMES] if out is not None else [])


def _judge(result: Result, allow_approx: bool) -> None:
    """Exit 1, with what failed on stderr, when a check was made and failed."""
    check = result.check
    if check is None or check.ok:
        return
    for line in _failures(check, result, allow_approx):
        click.echo(line, err=True)
    raise click.exceptions.Exit(1)


def _compared(check: CheckResult) -> str:
    """What `sim --check` compared and what it could not, in one line."""
    missing = ", ".join(check.not_compared)
    if not check.outputs:
        return (
            f"NOTHING WAS COMPARED: the program was executed, but --inputs gives no expected values of {missing}"
            if missing else "NOTHING WAS COMPARED: the program has no outputs"
        )  # fmt: skip
    text = f"compared with the values that --inputs gives: {', '.join(check.outputs)}"
    return text + (f"; executed but not compared, because --inputs gives no values: {missing}" if missing else "")


def _failures(check: CheckResult, result: Result, allow_approx: bool) -> list[str]:
    bad = [r for r in check.rows if not r["ok"]]
    compared = f"{len(bad)} of {len(check.rows)} comparisons differ, " if check.rows else ""
    lines = [f"check failed: {compared}{len(check.hazards)} hazard(s)"]
    lines += [f"  {r['name']} ({r['op']}): error {r['max_err']:.3g}, bound {r['bound']:.3g}, {r['worst']}" for r in bad]
    lines += [f"  hazard: {message}" for message in check.hazards]
    if not bad and not check.hazards and not allow_approx:
        names = [o.name for o in result.program.operators if o.approximated]
        listed = ", ".join(names[:10]) + (" ..." if len(names) > 10 else "")
        lines.append(f"  executed: {100 * check.executed_share:.1f} % of the work; estimated: {listed}")
        lines.append("  --allow-approx accepts that")
    return lines


for _command in (_kernel, *TOOLS):
    main.add_command(_command)
