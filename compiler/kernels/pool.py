"""The window kernel: max and sum over a sliding window, and padding, which is a window of one element.

The feature map is [b, h, w, c]: channel-last as it stands, channel-first with b = N*C and c = 1. A tile loads the rows
and columns that its windows reach; what lies beyond the border reads as the pad value and is never fetched.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

from compiler.expr import Expr, emax, emin, pos
from compiler.kernels.tiles import (
    Grid,
    Operand,
    Streams,
    choose,
    cores_for,
    quantised,
    require_operations,
    require_path,
    tile_limit,
)
from compiler.nest import Buffer, Dim, Nest, Placed, Ref, Stage, Stmt, TensorArg, Window, dense
from isa.machine import Machine


@dataclass(frozen=True)
class Pool:
    """One pool over x [b, h, w, c], giving out [b, *outputs, c]; `begins` are the leading pads (negative: crop).

    `op` is max, sum or copy (window 1 x 1). `pad_value` is in stored units. Sums are multiplied by `factor`, or by the
    tensor `counts` [*outputs] where the number of real elements under the window varies.
    """

    extents: tuple[int, int, int, int]
    outputs: tuple[int, int]
    kernel: tuple[int, int]
    strides: tuple[int, int]
    dilations: tuple[int, int]
    begins: tuple[int, int]
    op: str
    x: Operand
    out: Operand
    pad_value: float = 0.0
    factor: float = 1.0
    counts: Operand | None = None


@dataclass(frozen=True)
class _Reach:
    """What a tile of outputs needs along one axis: first input index, how many (at most), and the first coordinate."""

    low: Expr | int
    count: Expr | int
    most: int
    origin: Expr | int


def build(spec: Pool, machine: Machine, budget: Mapping[str, int], name: str) -> Nest:
    """Build the nest; raises NoKernel when the machine lacks a path or operation, CapacityError when nothing fits."""
    operations = {"max": ["rmax"], "copy": ["copy"], "sum": ["rsum", "muls" if spec.counts is None else "mul"]}[spec.op]
    require_operations(machine, operations, [spec.x.dtype, spec.out.dtype] + ["fp32"] * (spec.op == "sum"))
    b, _, _, c = spec.extents
    space = (b, *spec.outputs, c)
    operands = [spec.x, spec.out]
    cores = cores_for(machine, space, operands)
    limit = tile_limit(machine, space, operands)

    def attempt(tiles: tuple[int, ...]) -> Nest:
        return _Builder(spec, Grid(machine, space, tiles, cores), machine, name).build()

    return choose(attempt, space, [(0,), (1, 2), (3,)], limit, machine, budget)


class _Builder:
    def __init__(self, spec: Pool, grid: Grid, machine: Machine, name: str) -> None:
        self.s, self.grid, self.machine = spec, grid, machine
        self.streams = Streams(grid, machine, name)
        self.reach = [self._reach(axis) for axis in (0, 1)]

    def _reach(self, axis: int) -> _Reach:
        s, i = self.s, axis + 1
        extent, stride, begin = s.extents[i], s.strides[axis], s.begins[axis]
        span = (s.kernel[axis] - 1) * s.dilations[axis] + 1
        if not self.grid.moves(i):
            count = min(extent, max(1, (s.outputs[axis] - 1) * stride + span - begin))
            return _Reach(0, count, count, -begin)
        start = pos(f"d{i}") * stride - begin
        low = emax(start, 0) if begin > 0 else start
        stop = (pos(f"d{i}") + self.grid.extent(i) - 1) * stride + (span - begin)
        most = min(extent, (self.grid.tiles[i] - 1) * stride + span)
        return _Reach(low, emax(emin(stop, extent) - low, 0), most, start - low if begin > 0 else 0)

    def build(self) -> Nest:
        s, grid = self.s, self.grid
        x = self._windowed(self._input())
        out = self.streams.target("out", s.out)
        if s.op == "copy":
            work = [Stmt("v.copy", out, (x,))]
        elif s.op == "max":
            work = [Stmt("v.rmax", self._reduced(out), (x,))]
        else:
            total = grid.tile("SUM", "fp32", range(4))
            self.streams.buffers.append(grid.buffer("SUM", "fp32", range(4)))
            work = [Stmt("v.rsum", self._reduced(total), (x,))]
            if s.counts is None:
                work.append(Stmt("v.muls", out, (total,), f0=s.factor))
            else:
                work.append(Stmt("v.mul", out, (total, self.streams.source("counts", s.counts))))
        return self.streams.nest([Stage("compute", tuple(Placed(w, grid.depth) for w in work))])

    def _input(self) -> Ref:
        """The part of x that the tile needs, as [b, h, w, c]: in place from its first element, or loaded."""
        s, grid, streams = self.s, self.grid, self.streams
        size = s.x.size_bytes
        streams.tensors.append(TensorArg("x", s.x.space))
        h, w = self.reach
        outer, inner = ((grid.extent(i), grid.tiles[i]) for i in (0, 3))
        extents = (outer, (h.count, h.most), (w.count, w.most), inner)
        offset: Expr | int = 0
        for first, stride in zip((grid.start(0), h.low, w.low, grid.start(3)), s.x.strides):
            offset = first * (stride * size) + offset
        dims = tuple(Dim(e, m, stride * size) for (e, m), stride in zip(extents, s.x.strides))
        here = Ref("x", s.x.dtype, dims, offset, scale=s.x.scale, zero_point=s.x.zero_point)
        if s.x.space == grid.scratch:
            return here
        require_path(self.machine, s.x.space, grid.scratch)
        order = sorted(range(4), key=lambda i: -s.x.strides[i])  # as stored, so that the copy moves long runs
        tile = dense("X", s.x.dtype, size, tuple(extents[i] for i in order))
        room = tile.dims[0].stride * tile.dims[0].most
        buffer = Buffer("X", grid.scratch, s.x.dtype, room, grid.level(range(4)))
        streams.buffers.append(buffer)
        source = replace(here, dims=tuple(dims[i] for i in order))
        streams.loads.append(Placed(Stmt("cp", tile, (source,)), buffer.level))
        tile = replace(tile, dims=tuple(tile.dims[order.index(i)] for i in range(4)))
        return quantised(tile, s.x.scale, s.x.zero_point)

    def _windowed(self, x: Ref) -> Ref:
        """The input by output position and tap: [b, oh, ow, kh, kw, c]; without taps for a copy."""
        s, grid = self.s, self.grid
        b, h, w, c = x.dims
        windows, dims, taps = [], [], []
        for axis, (source, reach) in enumerate(zip((h, w), self.reach)):
            out = (grid.extent(axis + 1), grid.tiles[axis + 1])
            stride, dilation, k = s.strides[axis], s.dilations[axis], s.kernel[axis]
            if self._inside():
                dims.append(Dim(*out, source.stride * stride))
                taps.append(Dim(k, k, source.stride * dilation))
            else:
                windows.append(Window(reach.origin, reach.count, source.stride))
                dims.append(Dim(*out, 0, axis, stride))
                taps.append(Dim(k, k, 0, axis, dilation))
        middle = dims if s.op == "copy" else [*dims, *taps]
        return Ref(x.base, x.dtype, (b, *middle, c), x.offset, windows=tuple(windows), pad_value=s.pad_value,
                   scale=x.scale, zero_point=x.zero_point)  # fmt: skip

    def _inside(self) -> bool:
        """True when no window reaches beyond the border, so that plain strides do."""
        s = self.s
        ends = [(o - 1) * t + (k - 1) * d for o, t, k, d in zip(s.outputs, s.strides, s.kernel, s.dilations)]
        return s.begins == (0, 0) and all(end < extent for end, extent in zip(ends, s.extents[1:3]))

    def _reduced(self, out: Ref) -> Ref:
        """The result with the taps as reduced dimensions."""
        taps = tuple(Dim(k, k, 0) for k in self.s.kernel)
        return Ref(out.base, out.dtype, (*out.dims[:3], *taps, out.dims[3]), out.offset, scale=out.scale,
                   zero_point=out.zero_point)  # fmt: skip
