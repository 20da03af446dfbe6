"""The gather kernel: rows of a table by index, fetched straight from memory (embeddings)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

from compiler.kernels.tiles import (
    Grid,
    Operand,
    Streams,
    choose,
    cores_for,
    require_operations,
    require_path,
    tile_limit,
)
from compiler.lower.context import NoKernel
from compiler.nest import Dim, Nest, Placed, Ref, Stage, Stmt, TensorArg
from isa.machine import Machine

_WRAP = ("clip", "muls", "add")


@dataclass(frozen=True)
class Gather:
    """out [b, n, c] = table [b, rows, c] at row index [n]; strides of all three over (b, n or rows, c).

    With `wraps` an index below 0 counts from the end, which the ISA's gather does not know: the vector unit adds rows.
    """

    extents: tuple[int, int, int]
    rows: int
    table: Operand
    index: Operand
    out: Operand
    wraps: bool = False


def build(spec: Gather, machine: Machine, budget: Mapping[str, int], name: str) -> Nest:
    """Build the nest; raises NoKernel when the machine lacks a path, CapacityError when not even one element fits."""
    require_path(machine, spec.table.space, machine.scratch_space)
    if spec.index.dtype not in ("int32", "int64"):
        raise NoKernel(f"{machine.name}: row indices are int32 or int64, not {spec.index.dtype}")
    if spec.wraps:
        require_operations(machine, _WRAP, [spec.index.dtype])
    operands = [spec.index, spec.out]
    cores = 1 if spec.table.space == machine.scratch_space else cores_for(machine, spec.extents, operands)
    b, n, c = spec.extents
    limit = tile_limit(machine, (n, c), [replace(spec.out, strides=spec.out.strides[1:])])

    def attempt(tiles: tuple[int, ...]) -> Nest:
        return _nest(spec, Grid(machine, (b, n, c), (1, *tiles), cores), machine, name)

    return choose(attempt, (n, c), [(0,), (1,)], limit, machine, budget)


def _nest(spec: Gather, grid: Grid, machine: Machine, name: str) -> Nest:
    """Load indices, gather their rows into the scratchpad, store."""
    streams = Streams(grid, machine, name)
    index = streams.source("index", spec.index)
    out = streams.target("out", spec.out)
    streams.tensors.append(TensorArg("table", spec.table.space))
    first, _, inner = (s * spec.table.size_bytes for s in spec.table.strides)
    _, wide = out.dims[1:]
    offset = grid.start(0) * first + grid.start(2) * inner
    stride = spec.table.strides[1] * spec.table.size_bytes
    dims = (Dim(spec.rows, spec.rows, stride), Dim(wide.extent, wide.most, inner))
    table = Ref("table", spec.table.dtype, dims, offset)
    index = replace(index, dims=index.dims[1:2])
    stages = []
    if spec.wraps:
        index, wrap = _wrapped(spec, streams, index)
        stages.append(wrap)
    gather = Stmt("cpg", replace(out, dims=out.dims[1:]), (table, index))
    return streams.nest([*stages, Stage("gather", (Placed(gather, grid.depth),))])


def _wrapped(spec: Gather, streams: Streams, index: Ref) -> tuple[Ref, Stage]:
    """index - rows * clip(index, -1, 0), exact for tables of up to 2^24 rows."""
    grid, kind = streams.grid, spec.index.dtype
    row = grid.tile("ROW", kind, (1,))
    row = replace(row, dims=row.dims[1:2])
    buffer = grid.buffer("ROW", kind, (1,))
    streams.buffers.append(buffer)
    work = (Stmt("v.clip", row, (index,), f0=-1.0), Stmt("v.muls", row, (row,), f0=float(-spec.rows)),
            Stmt("v.add", row, (index, row)))  # fmt: skip
    return row, Stage("wrap", tuple(Placed(s, buffer.level) for s in work))
