"""Operations behind a cube on cores of another kind, in the same launch: tiles go through a workspace in memory.

A cube core drains a tile into a slot of its workspace, which stays in the shared cache, and signals its vector cores;
each takes its share of the rows, works on them in tiles that fit its buffer, and signals back. Cube and vector cores
walk over the same tiles, so the one works on the next while the others finish the last.
"""

from __future__ import annotations

from compiler.expr import Expr, emax, emin, pos
from compiler.kernels.contraction import Contraction, Operand, TileBuilder, Tiling
from compiler.nest import Buffer, Dim, Loop, Nest, Placed, Ref, Stage, Stmt, TensorArg, dense
from isa.dtypes import dtype
from isa.machine import Machine

SLOTS = 2  # of the workspace: one is filled while the other is read
ALIGN_BYTES = 512
TILE_SLOTS = 3  # of a tile in the vector cores' buffer, at most
ROWS = "r"  # the loop over a vector core's rows of a tile


def partners(machine: Machine) -> int:
    """Vector cores of each cube core; 0 where the two cannot work on one launch."""
    able = machine.drain_engine is not None and machine.core.cross_flags >= SLOTS
    return machine.vector_partners if able else 0


def slot_bytes(spec: Contraction, tiling: Tiling) -> int:
    """Bytes of a tile in the workspace."""
    kind = spec.epilogue.mid_dtype or spec.out.dtype
    size = min(tiling.h, spec.h) * (tiling.w or spec.w) * min(tiling.n, spec.n) * dtype(kind).size_bytes
    return -(-size // ALIGN_BYTES) * ALIGN_BYTES


def workspace(b: TileBuilder, level: int) -> tuple[Buffer, Ref]:
    """The workspace, which changes at `level`, and the tile or rows of results in it, in the order of the output."""
    spec = b.s
    kind = spec.epilogue.mid_dtype or spec.out.dtype
    size, block = dtype(kind).size_bytes, spec.out.blocks.get("n", 0)
    rows, pixel = min(b.t.h, spec.h), (block or min(b.t.n, spec.n)) * size
    row = b.most["w"] * pixel
    strides = {"h": row, "w": pixel, "n": size} | ({"N": rows * b.most["w"] * size} if block else {})
    scales = spec.epilogue.mid_scales or (spec.out.scale,)
    dims = tuple(Dim(x.extent, x.most, x.stride(strides)) for x in b.out_axes())
    tile = Ref("mid", kind, dims, b.first_row * strides["h"], scale=scales[0])
    return Buffer("mid", "dram", kind, slot_bytes(spec, b.t), level, SLOTS, channel=0), tile


def rows_at_once(spec: Contraction, tiling: Tiling, machine: Machine) -> int:
    """Rows of a tile that a vector core works on at a time: as many as fit its buffer; 0 when not even one does."""
    epilogue, room_bytes = spec.epilogue, machine.core.spaces[machine.scratch_space].size_bytes
    middle = dtype(epilogue.mid_dtype or spec.out.dtype).size_bytes
    sizes = [middle, dtype(spec.out.dtype).size_bytes, *(dtype(o.dtype).size_bytes for o in epilogue.operands)]
    row = (tiling.w or spec.w) * min(tiling.n, spec.n) * (TILE_SLOTS * sum(sizes) + 4 * epilogue.gated)
    spare = ALIGN_BYTES * TILE_SLOTS * (len(sizes) + 1)
    share = -(-min(tiling.h, spec.h) // partners(machine))
    return min(share, max(0, room_bytes - spare) // row)


def build(spec: Contraction, tiling: Tiling, machine: Machine, name: str, rows: int) -> Nest:
    """Build what the vector cores of a contraction do, `rows` of a tile at a time."""
    return _Epilogue(spec, tiling, machine, name, rows).build()


class _Epilogue(TileBuilder):
    """The tiles of a contraction, without its channels, and the rows of each that a vector core takes."""

    def __init__(self, spec: Contraction, tiling: Tiling, machine: Machine, name: str, rows: int) -> None:
        super().__init__(spec, tiling, machine, name)
        self.first_row = pos(ROWS)
        self.tile_level = super().level("xyhwn")
        count = partners(machine)
        share = -(-self.most["h"] // (count * rows)) * rows
        self.loops = (*(x for x in self.loops if x.name != "c"), Loop(ROWS, share * count, rows, count))
        self.extent["h"] = emax(emin(self.extent["h"] - pos(ROWS), rows), 0)
        self.most["h"] = rows

    def level(self, letters: str | tuple[str, ...]) -> int:
        """What depends on the rows of a tile changes with a core's share of them."""
        return len(self.loops) if "h" in letters else super().level(letters)

    def origin(self, operand: Operand, letters: str) -> Expr | int:
        """Byte offset of the present rows."""
        start = super().origin(operand, letters)
        return pos(ROWS) * operand.origin_bytes("h") + start if "h" in letters else start

    def build(self) -> Nest:
        self.buffers, self.loads = [], []
        s, e, level = self.s, self.s.epilogue, len(self.loops)
        space, source = workspace(self, self.tile_level)
        self.buffers.append(space)
        extents, _, target = self.results()
        scales = e.mid_scales or (s.out.scale,) * (len(e.after) + 1)
        drained = dense("D", space.dtype, dtype(space.dtype).size_bytes, extents, scale=scales[0])
        final = dense("O", s.out.dtype, self.out_size, extents, scale=s.out.scale, zero_point=s.out.zero_point)
        for ref in (drained, final):
            room = self.most["h"] * self.most["w"] * self.most["n"] * dtype(ref.dtype).size_bytes
            self.buffers.append(Buffer(ref.base, self.scratch, ref.dtype, room, level, least_slots=2))
        self.loads.append(Placed(Stmt("cp", drained, (source,)), level))
        work = self._after(drained, final, extents, level, scales)
        store = Placed(Stmt("cp", target, (final,)), level, "post")
        tensors = [TensorArg("out", s.out.space), TensorArg("mid", "dram")]
        tensors += [TensorArg(f"e{i}", o.space) for i, o in enumerate(e.operands)]
        stages = (Stage("load", tuple(self.loads)), Stage("work", (*work, store)))
        return Nest(self.name, self.loops, tuple(self.buffers), tuple(tensors), stages, kind=1)
