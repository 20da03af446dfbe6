"""The pointwise kernel: a chain of element-wise operations on tiles, inputs broadcast by stride 0.

Every result is rounded to its own format, so a fused chain gives what the operators one by one give.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from compiler.kernels.tiles import (
    Grid,
    Operand,
    Streams,
    choose,
    cores_for,
    quantised,
    require_dims,
    require_operations,
    tile_limit,
)
from compiler.lower.context import NoKernel
from compiler.nest import Nest, Placed, Ref, Stage, Stmt
from isa.dtypes import dtype
from isa.machine import Machine

MAX_OPERANDS = 10  # each takes registers for its address and slots, and flags


@dataclass(frozen=True)
class Step:
    """One vector operation (without `v.`). Operand i >= 0 is input i, -1 - j the result of step j."""

    op: str
    srcs: tuple[int, ...]
    dtype: str
    scale: float = 1.0
    zero_point: int = 0
    f0: float = 0.0
    f1: float = 0.0


@dataclass(frozen=True)
class Pointwise:
    """A chain over an index space; `outputs` are (step, where its result goes), tensors `in<i>` and `out<i>`."""

    extents: tuple[int, ...]
    inputs: tuple[Operand, ...]
    steps: tuple[Step, ...]
    outputs: tuple[tuple[int, Operand], ...]


def build(spec: Pointwise, machine: Machine, budget: Mapping[str, int], name: str) -> Nest:
    """Build the nest; raises NoKernel when the machine lacks a path or operation, CapacityError when nothing fits."""
    formats = [o.dtype for o in spec.inputs] + [s.dtype for s in spec.steps]
    require_operations(machine, [s.op for s in spec.steps], formats)
    require_dims(machine, len(spec.extents))
    operands = [*spec.inputs, *(o for _, o in spec.outputs)]
    if len(operands) > MAX_OPERANDS:
        raise NoKernel(f"{name}: {len(operands)} operands in one chain, at most {MAX_OPERANDS} are possible")
    cores = cores_for(machine, spec.extents, operands)
    limit = tile_limit(machine, spec.extents, operands)

    def attempt(tiles: tuple[int, ...]) -> Nest:
        return _nest(spec, Grid(machine, spec.extents, tiles, cores), machine, name)

    return choose(attempt, spec.extents, [(i,) for i in range(len(spec.extents))], limit, machine, budget)


def _nest(spec: Pointwise, grid: Grid, machine: Machine, name: str) -> Nest:
    streams = Streams(grid, machine, name)
    values: dict[int, Ref] = {i: streams.source(f"in{i}", o) for i, o in enumerate(spec.inputs)}
    placed_at: dict[int, Ref] = {}
    for i, (j, o) in enumerate(spec.outputs):
        placed_at[-1 - j] = quantised(streams.target(f"out{i}", o), spec.steps[j].scale, spec.steps[j].zero_point)
    last = {v: j for j, step in enumerate(spec.steps) for v in step.srcs}
    free: list[str] = []
    temporaries: dict[str, int] = {}
    size_of = {j: dtype(s.dtype).size_bytes for j, s in enumerate(spec.steps)}
    everything = range(len(spec.extents))
    body: list[Placed] = []
    for j, step in enumerate(spec.steps):
        value = -1 - j
        if value not in placed_at:  # a temporary: one that is read for the last time here may be overwritten
            free += [values[v].base for v in set(step.srcs) if last[v] == j and values[v].base in temporaries]
            base = next((b for b in free if temporaries[b] == size_of[j]), f"T{len(temporaries)}")
            temporaries[base] = size_of[j]
            free = [b for b in free if b != base]
            placed_at[value] = quantised(grid.tile(base, step.dtype, everything), step.scale, step.zero_point)
        values[value] = placed_at[value]
        srcs = tuple(values[v] for v in step.srcs)
        body.append(Placed(Stmt(f"v.{step.op}", values[value], srcs, f0=step.f0, f1=step.f1), grid.depth))
    formats = {4: "fp32", 2: "bf16", 1: "int8", 8: "int64"}
    streams.buffers += [grid.buffer(b, formats[size], everything) for b, size in temporaries.items()]
    return streams.nest([Stage("compute", tuple(body))])
