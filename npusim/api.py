"""The library's front door: `npusim.run(model, hw, ...)` and its relatives, with the names of the command line."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from math import prod
from pathlib import Path
from typing import Any

from compiler.compile import Compilation, compile_graph
from compiler.frontend import load_model
from compiler.graph import Graph
from compiler.lower.context import Choices
from compiler.passes.pipeline import Options
from isa.dtypes import DTYPES
from isa.dtypes import dtype as dtype_of
from isa.errors import CompileError, ConfigError
from isa.loader import load_machine
from isa.machine import Machine
from isa.params import resolve
from isa.program import LAUNCH_HOST, Program
from isa.table import code
from isa.verify import verify
from npusim.record import CheckResult, Result

Progress = Callable[[str, int, int], None]  # stage, done, total
FIDELITIES = ("roofline", "analytic", "cycle")
RUN_KEYS = {
    "cores": "cores to use (on chips whose cores own their DRAM channels, the same share of those)",
    "matrix_dtype": "what the array rounds floating-point operands to before it multiplies them, at that dtype's rate",
    "output_dtype": "what products that are outputs of the model are stored in, as fp32 behind fp16 operands",
    "fusion": "true or false: fuse operators into kernels",
    "tile": "HxNxC, on a cube also HxWxNxC: output rows, pixels, columns and channels (K) of a tile of products",
    "layout": "auto, channels_last or nc1hwc0: order of feature maps in memory, where the machine has fractal layouts",
    "rows": "once or reread: whether softmax and normalisations keep a row on chip or fetch it once a reduction",
}
RUN_WORDS = {
    "fusion": ("true", "false"), "rows": ("once", "reread"), "layout": ("auto", "channels_last", "nc1hwc0"),
}  # fmt: skip
INSTRUCTIONS_A_STEP = 20  # of a core, at least: a step of a loop of tiles copies, loads, multiplies and counts


def run_settings(settings: Sequence[str]) -> dict[str, str]:
    """The `run.*` settings among `key=value` settings, without their prefix; raises ConfigError for unknown ones and
    for values that no machine takes."""
    found = {}
    for setting in settings:
        key, _, value = setting.partition("=")
        if not key.startswith("run."):
            continue
        name = key[4:]
        if name not in RUN_KEYS:
            raise ConfigError(f"unknown setting {setting!r}; there are {', '.join(f'run.{k}=...' for k in RUN_KEYS)}")
        if not value:
            raise ConfigError(f"{setting!r} gives no value; {key} is {RUN_KEYS[name]}")
        if name in RUN_WORDS and value not in RUN_WORDS[name]:
            raise ConfigError(f"{setting}: {key} is {' or '.join(RUN_WORDS[name])}")
        if name == "tile":
            tile_of(value)
        if name == "output_dtype" and (value not in DTYPES or not DTYPES[value].is_float):
            floats = ", ".join(d.name for d in DTYPES.values() if d.is_float)
            raise ConfigError(f"{setting}: {key} is a floating-point format, one of {floats}")
        found[name] = value
    return found


def machine_for(hw: str, settings: Sequence[str] = ()) -> tuple[Machine, dict[str, str]]:
    """Return the machine with `key=value` settings applied, and the `run.*` settings apart from it."""
    options = run_settings(settings)
    machine = load_machine(hw, [s for s in settings if not s.startswith("run.")]).machine
    if "cores" in options:
        machine = with_cores(machine, options.pop("cores"))
    if "matrix_dtype" in options:
        machine = with_matrix_dtype(machine, options.pop("matrix_dtype"))
    return machine, options


def with_matrix_dtype(machine: Machine, name: str) -> Machine:
    """The machine whose arrays round every wider float operand to `name`; raises ConfigError if they do not take it."""
    matrix = machine.core.matrix
    if name not in matrix.passes or not dtype_of(name).is_float:
        raise ConfigError(f"run.matrix_dtype={name}: the array of {machine.name} multiplies {', '.join(matrix.passes)}")
    wider = [d.name for d in DTYPES.values() if d.is_float and d.bits > dtype_of(name).bits]
    changed = matrix.model_copy(update={
        "passes": {**matrix.passes, **dict.fromkeys(wider, matrix.passes[name])},
        "accumulate": {**matrix.accumulate, **dict.fromkeys(wider, matrix.accumulate[name])},
        "multiply_as": {**matrix.multiply_as, **dict.fromkeys(wider, name)},
    })
    return machine.model_copy(update={"core": machine.core.model_copy(update={"matrix": changed})})


def with_cores(machine: Machine, text: str) -> Machine:
    """The machine with fewer cores; private DRAM channels go with their core. Raises ConfigError for a bad number."""
    if not _is_count(text) or not 1 <= int(text) <= machine.cores:
        raise ConfigError(f"run.cores={text}: {machine.name} has {machine.cores} cores, give 1 to {machine.cores}")
    cores = int(text)
    memory = machine.memory
    if memory.private_channels:
        share: dict[str, float] = {"channels": memory.channels * cores // machine.cores,
                 "capacity_bytes": memory.capacity_bytes * cores // machine.cores}
        if memory.ideal_bytes_per_cycle is not None:
            share["ideal_bytes_per_cycle"] = memory.ideal_bytes_per_cycle * cores / machine.cores
        memory = memory.model_copy(update=share)
    if memory.network is not None and memory.network.core_nodes:
        network = memory.network.model_copy(update={"core_nodes": memory.network.core_nodes[:cores]})
        memory = memory.model_copy(update={"network": network})
    share_of = {k: g.model_copy(update={"count": max(1, g.count * cores // machine.cores)})
                for k, g in machine.other_cores.items()}  # fmt: skip
    return machine.model_copy(update={"cores": cores, "memory": memory, "other_cores": share_of})


def tile_of(text: str, machine: Machine | None = None) -> tuple[int, ...]:
    """The extents of `run.tile`; raises ConfigError for anything but three positive numbers, or four on a cube."""
    parts = text.lower().split("x")
    if len(parts) not in (3, 4) or not all(_is_count(part) and 0 < int(part) <= 1 << 31 for part in parts):
        raise ConfigError(
            f"run.tile={text}: give output rows, output columns and channels, as 256x256x512, or on a cube rows, "
            "pixels of a row, columns and channels, as 4x32x256x16"
        )
    if len(parts) == 4 and machine is not None and machine.core.matrix.dataflow != "cube":
        raise ConfigError(f"run.tile={text}: {machine.name} works on whole rows of pixels: leave the second figure out")
    return tuple(int(part) for part in parts)


def _is_count(text: str) -> bool:
    return text.isascii() and text.isdigit() and len(text) <= 18


def check_tile(compilation: Compilation, machine: Machine, tile: str) -> None:
    """Raise CompileError when `run.tile` makes more steps of a kernel than a core may execute in a launch."""
    from npusim.engine.layout import MAX_INSTRUCTIONS

    for nest in compilation.built.nests.values():
        steps = prod(-(-loop.count // loop.split) if loop.split else loop.count for loop in nest.loops)
        if steps * INSTRUCTIONS_A_STEP > MAX_INSTRUCTIONS:
            raise CompileError(
                f"run.tile={tile}: {nest.name} takes {steps} steps on a core, of at least {INSTRUCTIONS_A_STEP} "
                f"instructions each; the limit is {MAX_INSTRUCTIONS} instructions of a core in a launch: "
                "give a larger tile, or leave run.tile away"
            )


def check_dataflow(machine: Machine) -> None:
    """Raise ConfigError when weights cannot get to where the dataflow of the arrays reads them."""
    matrix, home = machine.core.matrix, machine.core.matrix.operand_space
    paths = {(p.src, p.dst) for p in machine.core.paths}
    wants = {"os": ("dram", home, "streams both operands"), "is": (home, "wfifo", "loads activations")}
    src, dst, reason = wants.get(matrix.dataflow, ("", "", ""))
    if src and (src, dst) not in paths:
        have = ", ".join(f"{p.src} to {p.dst}" for p in machine.core.paths)
        raise ConfigError(
            f"core.matrix.dataflow={matrix.dataflow}: such an array {reason} from {home}, for which {machine.name} "
            f"needs a path from {src} to {dst} (core.paths has {have}); add one, or stay with dataflow ws"
        )


def compile(  # the name users expect
    model: str | Graph,
    hw: str | Machine,
    *,
    settings: Sequence[str] = (),
    dtype: str = "",
    batch: int | None = None,
    shapes: Mapping[str, tuple[int, ...]] | None = None,
    seed: int = 0,
    calibrated: bool = False,
    skew: float = 0.0,
    dump: Callable[[str, Graph], None] | None = None,
) -> Compilation:
    """Compile a model for a chip; `calibrated` quantises with the ranges of seeded inputs (needs the weights), whose
    indices have the distribution `skew` (npusim.inputs)."""
    machine, options = machine_for(hw, settings) if isinstance(hw, str) else (hw, run_settings(settings))
    check_dataflow(machine)
    graph = load_model(model, shapes, batch) if isinstance(model, str) else model
    calibration = None
    if calibrated:
        from npusim.inputs import generate

        calibration = generate(graph, seed, skew)
    fuse = options.get("fusion", "true") != "false"
    tile = tile_of(options["tile"], machine) if "tile" in options else None
    choices = Choices(options.get("rows", "once") == "reread", tile, options.get("layout", "auto"))
    kept = options.get("output_dtype", "")
    compilation = compile_graph(graph, machine, dtype, calibration, Options(fusion=fuse), dump, choices, kept)
    if "tile" in options:
        check_tile(compilation, machine, options["tile"])
    verify(compilation.built.program, machine)
    return compilation


def run(
    model: str | Graph,
    hw: str,
    *,
    out: str | Path | None = None,
    check: bool = False,
    allow_approx: bool = False,
    settings: Sequence[str] = (),
    dtype: str = "",
    batch: int | None = None,
    shapes: Mapping[str, tuple[int, ...]] | None = None,
    seed: int = 0,
    assume: str = "uniform",
    fidelity: str = "cycle",
    trace_window: tuple[int, int] | None = None,
    caches: str = "",
    progress: Progress | None = None,
    dump: Callable[[str, Graph], None] | None = None,
) -> Result:
    """Compile a model, simulate it on a chip, and write reports into `out` if given.

    `check` also executes the program for its values and compares them with the reference (Result.check).
    `assume` is the distribution of the rows that gathers read (`uniform`, `zipf:1.2`), in the timing and in generated
    inputs. `trace_window` (start and end core cycle) limits the instructions in the trace. `caches` is what a shared
    cache holds at the start: nothing (`cold`, the default), what a run before this one left there (`warm`), or the
    `weights`, in their order, as far as they fit. Raises an NpuError of `isa.errors` for anything that a user can mend.
    """
    from npusim.inputs import skew_of

    started = time.perf_counter()
    if fidelity not in FIDELITIES:
        raise ConfigError(f"unknown fidelity {fidelity!r}; there are {', '.join(FIDELITIES)}")
    machine, options = machine_for(hw, settings)
    graph = load_model(model, shapes, batch) if isinstance(model, str) else model
    rest, skew = [f"run.{k}={v}" for k, v in options.items()], skew_of(assume)
    compilation = compile(graph, machine, settings=rest, dtype=dtype, seed=seed, calibrated=check, skew=skew, dump=dump)
    result = simulate(compilation, machine, fidelity, progress, trace_window, skew, caches)
    if check and progress is not None:
        progress("checking", 0, 1)
    checked = _check(compilation, (model, graph), machine, (seed, skew), allow_approx) if check else None
    result = replace(result, model=model if isinstance(model, str) else graph.name, check=checked,
                     wall_s=time.perf_counter() - started, extra={"batch": batch or 1})
    if out is not None:
        from npusim.report import write_reports

        write_reports(result, out)
    return result


def simulate(
    compilation: Compilation,
    machine: Machine,
    fidelity: str = "cycle",
    progress: Progress | None = None,
    trace_window: tuple[int, int] | None = None,
    skew: float = 0.0,
    caches: str = "",
) -> Result:
    """Simulate a compiled model and gather its Result; `trace_window` and `caches` are as in `run`."""
    built = compilation.built
    return simulate_program(
        built.program, machine, compilation.dtype, built.assumptions, fidelity, progress, trace_window, skew, caches
    )


CACHES = {  # the flag of the command line, and the words of the assumption
    "cold": ("--cold-caches", "is empty at the start"),
    "warm": ("--warm-caches", "holds at the start what a run before this one left there"),
    "weights": ("--resident-weights", "holds the weights at the start, in their order, as far as they fit"),
}


def _cache_contents(machine: Machine, fidelity: str, caches: str) -> tuple[str, tuple[str, ...]]:
    """What the shared cache holds at the start, and the assumption in words; raises ConfigError without a cache."""
    if caches and caches not in CACHES:
        raise ConfigError(f"unknown contents of caches {caches!r}; there are {', '.join(CACHES)}")
    if machine.memory.l2 is None and caches:
        raise ConfigError(f"{CACHES[caches][0]}: {machine.name} has no shared cache (memory.l2): leave it out")
    if fidelity != "cycle" and caches:
        raise ConfigError(f"{CACHES[caches][0]}: fidelity {fidelity} knows no contents of caches: leave it out")
    if machine.memory.l2 is None or fidelity != "cycle":
        return "cold", ()
    flag, contents = CACHES[caches or "cold"]
    return caches or "cold", (f"the {machine.memory.l2.label} {contents} ({flag})",)


def simulate_program(
    program: Program,
    machine: Machine,
    dtype: str,
    assumptions: tuple[str, ...] = (),
    fidelity: str = "cycle",
    progress: Progress | None = None,
    trace_window: tuple[int, int] | None = None,
    skew: float = 0.0,
    caches: str = "",
) -> Result:
    """Simulate a legal program and gather its Result; `dtype` is the label of its reports, `skew` as in the engine,
    `caches` as in `run`."""
    caches, assumed = _cache_contents(machine, fidelity, caches)
    assumptions = (*assumptions, *assumed)
    if fidelity == "cycle" and (program.instrs["op"] == code("cpg")).any():
        law = f"by a Zipf law of exponent {skew:g}" if skew else "evenly"
        assumptions = (*assumptions, f"gathers read rows that are spread over their tables {law} (--assume)")
    if fidelity == "cycle":
        from npusim.engine.run import run as engine

        total = len(program.launches)
        step = None if progress is None else lambda done, cycle: progress("simulating", done + 1, total)
        if progress is not None:
            progress("simulating", 0, total)
        record = engine(program, resolve(machine), progress=step, window=trace_window, skew=skew, caches=caches)
    else:
        from npusim.closed_form import estimate

        record = estimate(program, machine, fidelity)
    host = sum(int(x["cycles"]) for x in program.launches if int(x["kind"]) == LAUNCH_HOST) / machine.clock_mhz
    return Result(
        program.name, machine.name, dtype, fidelity, machine, program, record,
        assumptions=assumptions, host_us=host,
        graph_macs=sum(o.macs for o in program.operators), graph_flops=sum(o.flops for o in program.operators),
    )  # fmt: skip


def _check(
    compilation: Compilation, source: tuple[str | Graph, Graph], machine: Machine, drawn: tuple[int, float],
    allow_approx: bool,
) -> CheckResult:  # fmt: skip
    """Check a model and its graph with the inputs that `drawn` (seed and skew of the indices) generates."""
    from compiler.frontend.onnx_import import check_finite
    from npusim.check import check as compare
    from npusim.inputs import generate

    model, graph = source
    path = model if isinstance(model, str) and model.lower().endswith(".onnx") else None
    check_finite(graph)
    return compare(compilation, machine, generate(graph, *drawn), allow_approx, (path, graph))


def validate(*args: Any, **kwargs: Any) -> Any:
    """Compare with measurements; see npusim.validate."""
    from npusim.validate import validate as run_validation

    return run_validation(*args, **kwargs)
