"""The copy kernels: any strided rearrangement of a tensor, and zero insertion.

A rearrangement is an index space with a stride of source and result per dimension: transposes, slices, parts of a
concatenation, repeats (source stride 0). As long as the innermost run stays contiguous, copy engines alone do it;
otherwise tiles are loaded in the source's order, permuted in the scratchpad, and stored in the result's order, so that
both sides of memory see long runs.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

from compiler.expr import emin
from compiler.kernels.tiles import (
    Grid,
    Operand,
    Streams,
    choose,
    cores_for,
    require_dims,
    require_operations,
    require_path,
    tile_limit,
)
from compiler.nest import Buffer, Dim, Nest, Placed, Ref, Stage, Stmt, TensorArg, Window, dense
from isa.machine import Machine

RUN_BYTES = 64  # a copy with shorter runs wastes most of each DRAM burst


@dataclass(frozen=True)
class Move:
    """Copy `src` to `dst`, tensors `x` and `out`; dimensions in the order in which they lie in `dst`."""

    extents: tuple[int, ...]
    src: Operand
    dst: Operand


@dataclass(frozen=True)
class Dilate:
    """Zero insertion: out [b, (h-1)*sh+1, (w-1)*sw+1, c] holds x [b, h, w, c] every `strides` = (sh, sw) places."""

    extents: tuple[int, int, int, int]
    strides: tuple[int, int]
    x: Operand
    out: Operand


def build(spec: Move, machine: Machine, budget: Mapping[str, int], name: str) -> Nest:
    """Build the nest; raises NoKernel when the machine lacks a path or operation, CapacityError when nothing fits."""
    require_dims(machine, len(spec.extents))
    src, dst = spec.src, spec.dst
    limit = tile_limit(machine, spec.extents, [src, dst])
    cores = cores_for(machine, spec.extents, [src, dst])
    permutes = _permutes(spec, machine)

    def attempt(tiles: tuple[int, ...]) -> Nest:
        grid = Grid(machine, spec.extents, tiles, cores)
        return _permute(spec, grid, machine, name) if permutes else _copy(spec, grid, machine, name)

    rank = len(spec.extents)
    depth = list(range(rank))
    if permutes:  # what is innermost on neither side shrinks first, what is innermost on one last
        place = {i: at for at, i in enumerate(_order(src))}
        depth = [max(i, place[i]) for i in range(rank)]
    groups = [[i for i in range(rank) if depth[i] == d] for d in sorted(set(depth))]
    return choose(attempt, spec.extents, groups, limit, machine, budget)


def _order(operand: Operand) -> tuple[int, ...]:
    """Dimensions from the longest stride to the shortest."""
    return tuple(sorted(range(len(operand.strides)), key=lambda i: -abs(operand.strides[i])))


def _permutes(spec: Move, machine: Machine) -> bool:
    """True when a tile must be rearranged or converted in the scratchpad by the vector or cross-lane unit."""
    src, dst = spec.src, spec.dst
    if (src.dtype, src.scale, src.zero_point) != (dst.dtype, dst.scale, dst.zero_point):
        return True
    if machine.core.vector is None or src.dtype == "fp64":
        return False
    last = len(spec.extents) - 1
    run_bytes = spec.extents[last] * src.size_bytes
    whole = src.strides[last] == 0 or (src.strides[last] == 1 and run_bytes >= RUN_BYTES)
    moving = [i for i in _order(src) if src.strides[i]]
    return not whole and moving != sorted(moving)


def _copy(spec: Move, grid: Grid, machine: Machine, name: str) -> Nest:
    """Copy engines alone: straight along a path if there is one, else through the scratchpad."""
    src, dst = spec.src, spec.dst
    path = machine.path(src.space, dst.space)
    streams = Streams(grid, machine, name)
    if path is not None and path.pipe != "weights":
        streams.tensors += [TensorArg("x", src.space), TensorArg("out", dst.space)]
        copy = Stmt("cp", grid.view("out", dst), (grid.view("x", src),))
        return streams.nest([Stage("copy", (Placed(copy, grid.depth),))])
    if src.space == dst.space == grid.scratch:
        return _permute(spec, grid, machine, name)
    x = streams.source("x", src)
    require_path(machine, grid.scratch, dst.space)
    streams.tensors.append(TensorArg("out", dst.space))
    streams.stores.append(Placed(Stmt("cp", grid.view("out", dst), (x,)), grid.depth))
    return streams.nest([])


def _permute(spec: Move, grid: Grid, machine: Machine, name: str) -> Nest:
    """Load in the source's order, permute (or convert) in the scratchpad, store in the result's order."""
    src, dst = spec.src, spec.dst
    moves = src.strides != dst.strides and _order(src) != _order(dst)
    operation = "transpose" if moves and src.dtype == dst.dtype else "copy"
    require_operations(machine, [operation], [src.dtype, dst.dtype])
    streams = Streams(grid, machine, name)
    x = streams.source("x", src, _order(src))
    out = streams.target("out", dst)
    return streams.nest([Stage("permute", (Placed(Stmt(f"v.{operation}", out, (x,)), grid.depth),))])


def build_dilate(spec: Dilate, machine: Machine, budget: Mapping[str, int], name: str) -> Nest:
    """Build the nest of a zero insertion; errors as `build`."""
    require_operations(machine, ["copy"], [spec.x.dtype])
    b, h, w, c = spec.extents
    wide = (w - 1) * spec.strides[1] + 1
    cores = cores_for(machine, spec.extents, [spec.x, spec.out])
    limit = max(1, tile_limit(machine, (b, h * spec.strides[0], wide, c), [spec.out]) // spec.strides[0])

    def attempt(tiles: tuple[int, ...]) -> Nest:
        return _dilated(spec, Grid(machine, spec.extents, (tiles[0], tiles[1], w, tiles[2]), cores), machine, name)

    return choose(attempt, (b, h, c), [(0,), (1,), (2,)], limit // wide + 1, machine, budget)


def _dilated(spec: Dilate, grid: Grid, machine: Machine, name: str) -> Nest:
    """A tile of input rows and the output rows that begin with them; the last row has no zeros after it."""
    streams = Streams(grid, machine, name)
    x = streams.source("x", spec.x)
    (sh, sw), size = spec.strides, spec.out.size_bytes
    tall, wide = (spec.extents[1] - 1) * sh + 1, (spec.extents[2] - 1) * sw + 1
    rows = emin(tall - grid.start(1) * sh, grid.extent(1) * sh)
    most = min(tall, grid.tiles[1] * sh)
    extents = ((grid.extent(0), grid.tiles[0]), (rows, most), (wide, wide), (grid.extent(3), grid.tiles[3]))
    here = grid.start(1) * (sh * spec.out.strides[1] * size)
    for i in (0, 3):
        here = grid.start(i) * (spec.out.strides[i] * size) + here
    view = Ref("out", spec.out.dtype, tuple(Dim(e, m, s * size) for (e, m), s in zip(extents, spec.out.strides)), here)
    out = view
    streams.tensors.append(TensorArg("out", spec.out.space))
    if spec.out.space != grid.scratch:
        require_path(machine, grid.scratch, spec.out.space)
        out = dense("OUT", spec.out.dtype, size, extents)
        buffer = Buffer("OUT", grid.scratch, spec.out.dtype, out.dims[0].stride * grid.tiles[0], grid.level(range(4)))
        streams.buffers.append(buffer)
        streams.stores.append(Placed(Stmt("cp", view, (out,)), buffer.level))
    nothing = Ref(x.base, x.dtype, tuple(Dim(e, m, 0, 0) for e, m in extents), x.offset, windows=(Window(0, 0, 0),),
                  pad_value=spec.x.zero_point)  # fmt: skip
    strides = [d.stride for d in out.dims]
    places = Ref(out.base, out.dtype, tuple(
        Dim(d.extent, d.most, s * k) for d, s, k in zip(x.dims, strides, (1, sh, sw, 1))), out.offset)  # fmt: skip
    work = (Stmt("v.copy", out, (nothing,)), Stmt("v.copy", places, (replace(x, scale=1.0, zero_point=0),)))
    return streams.nest([Stage("spread", tuple(Placed(s, grid.depth) for s in work))])
