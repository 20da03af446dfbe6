"""The whole compiler on one screen: import, number format, passes, program."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import numpy.typing as npt

from compiler.build import Built, build_program
from compiler.graph import Graph
from compiler.kernels.mix import partners
from compiler.lower.context import Choices
from compiler.passes import dtype as dtype_pass
from compiler.passes import narrow, quantise, widen
from compiler.passes.pipeline import Options, optimise
from isa.dtypes import DTYPES
from isa.errors import CompileError
from isa.machine import Machine

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
    stages = []
    optimised = graph
    chosen = replace(options or Options(), slow_lanes=slow_lanes(machine), host=frozenset(machine.host.ops),
                     integer=not DTYPES[wanted].is_float, attention=partners(machine) > 0)  # fmt: skip
    for name, optimised in optimise(graph, chosen):
        stages.append(name)
        if dump is not None:
            dump(name, optimised)
    if DTYPES[wanted].is_float:
        typed = narrow.run(dtype_pass.run(optimised, wanted, output_dtype), machine.core.matrix.multiply_as)
        typed = widen.run(typed, machine.core.vector.unpack_ops if machine.core.vector else ())
    else:
        ranges = None if calibration is None else quantise.calibrate(optimised, [calibration])
        typed = quantise.run(optimised, ranges)
    if dump is not None:
        dump(wanted, typed)
    built = build_program(typed, machine, graph.name, choices)
    if not DTYPES[wanted].is_float and calibration is None:
        built = replace(built, assumptions=(*built.assumptions, NOMINAL.format(wanted)))
    return Compilation(built, typed, optimised, wanted, (*stages, wanted))
