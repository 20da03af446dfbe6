"""The whole compiler on one screen: import, number format, passes, program."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from typing import Any

import numpy.typing as npt

from compiler.build import Built, build_program
from compiler.graph import Graph
from compiler.kernels.mix import partners
from compiler.layouts import channel_block
from compiler.lower.context import Choices
from compiler.passes import dtype as dtype_pass
from compiler.passes import narrow, quantise, widen
from compiler.passes.pipeline import Options, optimise
from isa.dtypes import DTYPES
from isa.errors import CapacityError, CompileError
from isa.machine import Machine

WORTH_IT = 0.1  # of expected cycles without launches: what NC1HWC0 must save, for expectations are not finer
BLOCKED = "feature maps lie in blocks of {} channels (NC1HWC0); run.layout=channels_last is the other choice"
NOMINAL = "{} ranges are nominal; --check measures them, which may change a few instructions"
Array = npt.NDArray[Any]
Dump = Callable[[str, Graph], None]


@dataclass(frozen=True)
class Compilation:
    """What came out: the program with its constants, the graph it computes, and the graph before number formats.

    `reference` is the optimised fp32 graph: what the model means without quantisation or rounding.
    """

    built: Built
    graph: Graph
    reference: Graph
    dtype: str
    stages: tuple[str, ...] = field(default_factory=tuple)


def slow_lanes(machine: Machine) -> bool:
    """True when reductions across lanes run on a unit of their own that is slower than the vector unit."""
    core = machine.core
    if core.cross_lane is None or core.vector is None:
        return False
    rate = core.cross_lane.reduce_elements_per_cycle or core.cross_lane.elements_per_cycle
    return rate < core.vector.register_elements()


def channel_blocks(graph: Graph, machine: Machine, dtype: str, layout: str) -> tuple[tuple[int, int], ...]:
    """Ways to lay feature maps out: (channels of a block or 0, channels from which convolutions read blocks).

    With `auto` there are two where the machine has fractal layouts and the graph convolutions; of the second, those of
    less than half a block read channels last: padding would double their work. Raises CompileError for what the machine
    does not have.
    """
    block = channel_block(machine, dtype)
    if layout == "nc1hwc0":
        if not block:
            raise CompileError(f"run.layout={layout}: {machine.name} has no core.matrix.fractal_bytes, which it needs")
        return ((block, 1),)
    spatial = any(node.op in ("Conv", "ConvTranspose") for node in graph.nodes)
    return ((0, 1), (block, block // 2)) if block and spatial and layout == "auto" else ((0, 1),)


def compile_graph(
    graph: Graph,
    machine: Machine,
    dtype: str = "",
    calibration: Mapping[str, Array] | None = None,
    options: Options | None = None,
    dump: Dump | None = None,
    choices: Choices | None = None,
    output_dtype: str = "",
) -> Compilation:
    """Compile a graph for a machine.

    `dtype` is what floating-point tensors are stored in (default: the machine's); an integer dtype quantises, with the
    ranges that `calibration` inputs show (none: nominal ranges, enough for timing). `choices` go to lowering. Products
    that are outputs may keep `output_dtype`, as the accumulators have it.
    `dump(stage, graph)` sees the graph after each step. Raises CompileError.
    """
    wanted = dtype or machine.default_dtype
    if wanted not in DTYPES:
        raise CompileError(f"unknown dtype {wanted!r}; known: {', '.join(DTYPES)}")
    if wanted not in machine.core.matrix.passes:
        raise CompileError(
            f"the array of {machine.name} does not multiply {wanted}; "
            f"it offers {', '.join(machine.core.matrix.passes)}"
        )
    chosen = replace(options or Options(), slow_lanes=slow_lanes(machine), host=frozenset(machine.host.ops),
                     integer=not DTYPES[wanted].is_float, attention=partners(machine) > 0)  # fmt: skip
    ways = channel_blocks(graph, machine, wanted, (choices or Choices()).layout)
    goal = _Goal(machine, wanted, calibration, choices, output_dtype)
    if len(ways) == 1:
        return _compile(graph, goal, replace(chosen, channel_block=ways[0][0], least_channels=ways[0][1]), dump)
    return _fastest(graph, goal, [replace(chosen, channel_block=b, least_channels=n) for b, n in ways], dump)


@dataclass(frozen=True)
class _Goal:
    """What a graph is compiled for."""

    machine: Machine
    dtype: str
    calibration: Mapping[str, Array] | None
    choices: Choices | None
    output_dtype: str


def _fastest(graph: Graph, goal: _Goal, ways: Sequence[Options], dump: Dump | None) -> Compilation:
    """The first way, or one that is expected to be faster by more than expectations are off."""
    launch = goal.machine.launch_cycles

    def cost(found: tuple[Compilation, list[tuple[str, Graph]]]) -> float:
        return found[0].built.expected_cycles + launch * len(found[0].built.program.launches)

    tries = [_recorded(graph, goal, ways[0])]
    for options in ways[1:]:
        with suppress(CapacityError):  # padding may be too much
            tries.append(_recorded(graph, goal, options))
    first, least = tries[0], min(tries, key=cost)
    saved = cost(first) - cost(least)
    best, stages = least if saved > WORTH_IT * first[0].built.expected_cycles else first
    if dump is not None:
        for name, seen in stages:
            dump(name, seen)
    return best


def _recorded(graph: Graph, goal: _Goal, options: Options) -> tuple[Compilation, list[tuple[str, Graph]]]:
    """A compilation with what a dump of it would show."""
    stages: list[tuple[str, Graph]] = []
    return _compile(graph, goal, options, lambda *stage: stages.append(stage)), stages


def _compile(graph: Graph, goal: _Goal, options: Options, dump: Dump | None) -> Compilation:
    machine, wanted = goal.machine, goal.dtype
    stages = []
    optimised = graph
    for name, optimised in optimise(graph, options):
        stages.append(name)
        if dump is not None:
            dump(name, optimised)
    if DTYPES[wanted].is_float:
        typed = narrow.run(dtype_pass.run(optimised, wanted, goal.output_dtype), machine.core.matrix.multiply_as)
        typed = widen.run(typed, machine.core.vector.unpack_ops if machine.core.vector else ())
    else:
        ranges = None if goal.calibration is None else quantise.calibrate(optimised, [goal.calibration])
        typed = quantise.run(optimised, ranges)
    if dump is not None:
        dump(wanted, typed)
    built = build_program(typed, machine, graph.name, goal.choices)
    notes = [BLOCKED.format(options.channel_block)] * any(n.attrs.get("layout") == "NC1HWC0" for n in typed.nodes)
    if not DTYPES[wanted].is_float and goal.calibration is None:
        notes.append(NOMINAL.format(wanted))
    built = replace(built, assumptions=(*built.assumptions, *notes))
    return Compilation(built, typed, optimised, wanted, (*stages, wanted))
