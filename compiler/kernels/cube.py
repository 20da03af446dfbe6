"""The contraction on a cube: tiles wait in L1, blocks of them are fed to L0A and L0B, the cube adds up in L0C.

Blocks are innermost loops of the nest over taps and channels, and L0A and L0B are double-buffered like every other
buffer. A convolution's block leaves L1 through a window of the feature map, padding included (img2col on the way): the
map is fetched once, and no im2col buffer exists.
"""

from __future__ import annotations

from dataclasses import replace
from itertools import product

from compiler.expr import Expr, emax, emin, pos
from compiler.kernels import mix
from compiler.kernels.contraction import Contraction, TileBuilder, Tiling
from compiler.kernels.dataflow import Block, Span, result_operand, row_operand, weight_operand
from compiler.nest import Buffer, Loop, Nest, Placed, Ref, Stage, Stmt, TensorArg, dense
from isa.dtypes import dtype
from isa.machine import Machine

L0_SLOTS = 2
OUT_SLOTS = 2  # of a tile between drain, vector unit and store
BLOCK_LOOPS = ("th", "tw", "cs")  # taps high, taps wide, channels of a block


def ceil_to(value: int, unit: int) -> int:
    """The next multiple of `unit`."""
    return -(-value // unit) * unit


def is_fed(machine: Machine) -> bool:
    """Whether blocks go from L1 into buffers of the cube's own, or the cube reads where tiles are loaded to."""
    return machine.staging_space != machine.core.matrix.operand_space


def feed_block(spec: Contraction, tiling: Tiling, machine: Machine) -> tuple[int, int, int] | None:
    """(taps high, taps wide, channels) of what is fed at a time: the most that fits L0A and L0B twice, evened out.

    None when not even one step of the cube's depth fits. Without buffers of its own a cube takes a tile at a time.
    """
    matrix = machine.core.matrix
    if not is_fed(machine):
        return spec.kh, spec.kw, min(tiling.c, spec.c)
    size, depth = dtype(spec.operand_dtype).size_bytes, matrix.depth(spec.operand_dtype)
    rows = ceil_to(min(tiling.h, spec.h) * (tiling.w or spec.w), matrix.rows)
    cols = ceil_to(min(tiling.n, spec.n), matrix.cols)
    rooms = [machine.core.spaces[s].size_bytes // (L0_SLOTS * size * span) for s, span in (
        (matrix.operand_space, rows), (matrix.operand_b_space or matrix.operand_space, cols))]
    most = min(rooms) // depth * depth
    channels = min(tiling.c, spec.c)
    if most < depth:
        return None
    if most < channels:
        return 1, 1, ceil_to(_even(channels, most), depth)  # whole blocks of channels, which are no deeper
    if most < channels * spec.kw:
        return 1, _even(spec.kw, most // channels), channels
    return _even(spec.kh, most // (channels * spec.kw)), spec.kw, channels


def _even(total: int, most: int) -> int:
    """Parts of at most `most`, as equal as can be."""
    return -(-total // -(-total // most))


def build(spec: Contraction, tiling: Tiling, machine: Machine, name: str) -> Nest:
    """Build the nest of a contraction on a cube under a tiling."""
    nest = _CubeBuilder(spec, tiling, machine, name).build()
    if machine.drain_engine is None or not spec.epilogue.after:
        return nest
    rows = mix.rows_at_once(spec, tiling, machine)
    tensors = (*(t for t in nest.tensors if t.name[0] != "e" and t.name != "out"), TensorArg("mid", "dram"))
    return replace(nest, tensors=tensors, partner=mix.build(spec, tiling, machine, name, rows))


class _CubeBuilder(TileBuilder):
    """A contraction whose blocks are fed from L1."""

    def __init__(self, spec: Contraction, tiling: Tiling, machine: Machine, name: str) -> None:
        super().__init__(spec, tiling, machine, name)
        if machine.drain_engine is not None:
            self.vector_space = machine.staging_space
        if not is_fed(machine):
            self.weight_space = machine.core.matrix.operand_b_space or machine.staging_space
        block = feed_block(spec, tiling, machine)
        assert block is not None, "the search takes no tile that does not fit L0"
        self.block = dict(zip(BLOCK_LOOPS, block))
        totals = (spec.kh, spec.kw, self.most["c"])
        self.loops += tuple(Loop(k, total, self.block[k]) for k, total in zip(BLOCK_LOOPS, totals))

    def work(self, a: Ref, weight: Ref) -> list[Stage]:
        """Feed a block of both operands, multiply it."""
        s, spans = self.s, self._spans()
        assert s.operand_dtype == s.a.dtype
        earlier: Expr | int = pos("c")
        for loop in BLOCK_LOOPS:
            earlier = earlier + pos(loop)
        sources = row_operand(self, a, spans), weight_operand(self, weight, spans)
        if not is_fed(self.machine):
            multiply = Stmt("mm", result_operand(self, spans), sources, accumulate=earlier)
            return [Stage("compute", (Placed(multiply, len(self.loops)),))]
        left = self._fed("L0A", sources[0], ("x", "y", "h", "w", "c"))
        right = self._fed("L0B", sources[1], ("x", "y", "c", "n"))
        feed = zip((left, right), sources)
        placed = [Placed(Stmt("cp", to, (source,)), self._buffer(to.base).level) for to, source in feed]
        multiply = Stmt("mm", result_operand(self, spans), (left, right), accumulate=earlier)
        return [Stage("feed", tuple(placed)), Stage("compute", (Placed(multiply, len(self.loops)),))]

    def _drain(self, level: int) -> list[Stage]:
        """The way out: straight to DRAM where a copy engine drains, else as on other machines.

        What is left to do there goes through a workspace to vector cores (compiler.kernels.mix).
        """
        if self.machine.drain_engine is None:
            return super()._drain(level)
        e = self.s.epilogue
        _, acc, target = self.results()
        if e.after:
            space, target = mix.workspace(self, level)
            self.buffers.append(space)
        vectors = [self._vector(k, p) for k, p in (("bias", e.bias), ("scales", e.scales))]
        fix = Stmt("fix", target, (acc, *vectors), act=e.act, f0=e.f0, f1=e.f1)
        return [Stage("drain", (Placed(fix, level, "post"),))]

    def nest(self, tensors: tuple[TensorArg, ...], stages: list[Stage]) -> Nest:
        """The whole kernel: loads a tile ahead of everything else, which the queues of the pipes overlap."""
        work = Stage("work", tuple(placed for stage in stages[1:] for placed in stage.placed))
        least = {"L0A": L0_SLOTS, "L0B": L0_SLOTS, "acc": self.t.acc_slots, "O": OUT_SLOTS, "D": OUT_SLOTS}
        buffers = tuple(replace(b, least_slots=least.get(b.name, 1)) for b in self.buffers)
        return Nest(self.name, self.loops, buffers, tensors, (stages[0], work), self.padded_macs(),
                    inner=len(BLOCK_LOOPS))  # fmt: skip

    def _buffer(self, name: str) -> Buffer:
        return next(b for b in self.buffers if b.name == name)

    def _spans(self) -> Block:
        """The present block: all rows and columns of the tile, a range of taps and channels."""
        def part(loop: str, total: Expr | int, most: int) -> Span:
            block = self.block[loop]
            if not isinstance(total, int):
                return Span(pos(loop), emax(emin(total - pos(loop), block), 0), block)
            start = pos(loop) if block < most else 0
            return Span(start, block if total % block == 0 else emin(total - pos(loop), block), block)

        s = self.s
        return {
            "h": self.span("h"), "w": self.span("w"), "n": self.span("n"), "kh": part("th", s.kh, s.kh),
            "kw": part("tw", s.kw, s.kw), "c": part("cs", self.extent["c"], self.most["c"]),
        }

    def _fed(self, name: str, source: Ref, letters: tuple[str, ...]) -> Ref:
        """The place of a block in L0A or L0B, the same matrix as `source`; whole fractals take room."""
        extents, rows = tuple((d.extent, d.most) for d in source.dims), source.rows
        matrix, kind = self.machine.core.matrix, self.s.operand_dtype
        size, depth = dtype(kind).size_bytes, matrix.depth(kind)
        outer = inner = 1
        for i, (_, most) in enumerate(extents):
            outer, inner = (outer * most, inner) if i < rows else (outer, inner * most)
        units = (matrix.rows, depth) if name == "L0A" else (depth, matrix.cols)
        space = matrix.operand_space if name == "L0A" else matrix.operand_b_space or matrix.operand_space
        room = ceil_to(outer, units[0]) * ceil_to(inner, units[1]) * size
        self.buffers.append(Buffer(name, space, kind, room, self.level((*letters, *BLOCK_LOOPS))))
        return dense(name, kind, size, extents, rows=rows)

    def padded_macs(self) -> int:
        """MACs of the cube, empty rows, columns and depth of its blocks included."""
        s, matrix = self.s, self.machine.core.matrix
        depth = matrix.depth(s.operand_dtype)
        high, wide = ([min(self.most[k], total - lo) for lo in range(0, total, self.most[k])]
                      for k, total in (("h", s.h), ("w", s.w)))  # fmt: skip
        m = sum(-(-rows * columns // matrix.rows) for rows in high for columns in wide)
        n = sum(-(-min(self.most["n"], s.n - lo) // matrix.cols) for lo in range(0, s.n, self.most["n"]))
        down, along, channels = (self.block[k] for k in BLOCK_LOOPS)
        taps = list(product((min(down, s.kh - i) for i in range(0, s.kh, down)),
                            (min(along, s.kw - j) for j in range(0, s.kw, along))))  # fmt: skip
        k = 0
        for lo in range(0, s.c, self.most["c"]):
            tile = min(self.most["c"], s.c - lo)
            k += sum(-(-i * j * min(channels, tile - at) // depth) for i, j in taps for at in range(0, tile, channels))
        return s.x * s.y * m * n * k * matrix.rows * matrix.cols * depth


