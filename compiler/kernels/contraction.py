"""The contraction kernel: every convolution and matrix product, dense, grouped or batched, as one nest.

O[x, y, h, w, n] = act(sum over kh, kw, c of A[x, y, h*s + kh*d - p, ., c] * W[x, y, kh, kw, c, n] + bias[n]).
A matrix product has one tap and w = 1; x and y are batch, head or group. Convolution is an implicit GEMM: the array
reads its operand through a window of the feature map in the scratchpad, so no im2col buffer exists (K of one pass is a
block of taps x channels that fits the array's rows).
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

from compiler.expr import Expr, emax, emin, pos
from compiler.kernels.dataflow import Axis, Span, axes_of, products
from compiler.nest import Buffer, Dim, Loop, Nest, Placed, Ref, Stage, Stmt, TensorArg, dense, depth_of
from isa.dtypes import dtype
from isa.machine import Machine, MatrixUnit


@dataclass(frozen=True)
class Operand:
    """How one operand lies in memory: its space, dtype and element strides by loop letter (absent: 0).

    A capital letter is the stride of the tile's origin where it differs from that inside the tile (blocked weights).
    A tile reaches over several blocks of a letter that `blocks` cuts into so many elements: NC1HWC0, FRACTAL_Z.
    """

    space: str
    dtype: str
    strides: dict[str, int]
    scale: float = 1.0
    zero_point: int = 0
    blocks: dict[str, int] = field(default_factory=dict)

    def letters(self, inner: str) -> str:
        """The loops that choose the operand's tile: x and y where they move it, and the `inner` ones."""
        return "".join(k for k in "xy" if self.strides.get(k)) + inner

    def bytes_of(self, letter: str) -> int:
        """Stride of a letter in bytes."""
        return self.strides.get(letter, 0) * dtype(self.dtype).size_bytes

    def dims(self, axes: Iterable[Axis]) -> tuple[Dim, ...]:
        """Dimensions of a tile in place."""
        size = dtype(self.dtype).size_bytes
        return tuple(Dim(x.extent, x.most, x.stride(self.strides) * size) for x in axes)

    def origin_bytes(self, letter: str) -> int:
        """Stride of a letter in bytes from one tile's origin to the next one's, an element of the letter."""
        return self.strides.get(letter.upper(), self.strides.get(letter, 0)) * dtype(self.dtype).size_bytes


@dataclass(frozen=True)
class Epilogue:
    """What happens on the way out: bias and channel scales (fp32 vectors), an activation, then vector operations.

    `after` holds (op, f0, f1, operand index or -1): element-wise operations on the drained tile, in order;
    `operands` are tensors of the output's shape or broadcast along it (strides by letter x, y, h, w, n).
    """

    bias: bool = False
    scales: bool = False
    act: str = "none"
    f0: float = 0.0
    f1: float = 0.0
    after: tuple[tuple[str, float, float, int], ...] = ()
    operands: tuple[Operand, ...] = ()
    vector_y: int = 0  # elements from one y (group) to the next in bias and scales; 0: all share them
    mid_dtype: str = ""  # of the tile before the last operation; empty: the output's
    mid_scales: tuple[float, ...] = ()  # scale of the tile after the drain and after each operation (quantised tiles)

    @property
    def gated(self) -> bool:
        """True when an operation is x * sigmoid(f0 x), which needs a tile for its gate."""
        return any(op == "swish" for op, *_ in self.after)


@dataclass(frozen=True)
class Contraction:
    """The closed description of one contraction: extents, window, operands. Equal ones share one kernel."""

    x: int
    y: int
    h: int
    w: int
    n: int
    c: int
    kh: int
    kw: int
    in_h: int
    in_w: int
    stride: tuple[int, int]
    pad: tuple[int, int]  # top, left
    dilation: tuple[int, int]
    a: Operand
    weight: Operand
    out: Operand
    operand_dtype: str  # what the array multiplies
    acc_dtype: str
    epilogue: Epilogue = field(default_factory=Epilogue)

    @property
    def macs(self) -> int:
        """MACs of the operator."""
        return self.x * self.y * self.h * self.w * self.n * self.c * self.kh * self.kw


@dataclass(frozen=True)
class Tiling:
    """A point of the search space: tile extents, loop order (outermost first, c last), loops split over cores.

    `split` names loops with the parts that they are cut into. `acc_slots`: tiles of sums at a time; with one, a cube
    waits until its last tile is drained. `w`: columns of pixels; 0: whole rows, and no such loop.
    """

    h: int
    n: int
    c: int
    order: tuple[str, ...]
    split: tuple[tuple[str, int], ...] = ()
    acc_slots: int = 2
    w: int = 0


def tap_block(spec: Contraction, matrix: MatrixUnit, c_tile: int) -> tuple[int, int, int]:
    """(taps high, taps wide, channels) of one pass: the block of the window that fills the array's rows best."""
    rows = matrix.rows
    if c_tile > rows or spec.c > matrix.tap_merge_channels:
        return 1, 1, min(rows, c_tile)
    best, best_passes = (1, 1), spec.kh * spec.kw
    for gh in range(1, spec.kh + 1):
        for gw in range(1, spec.kw + 1):
            passes = -(-spec.kh // gh) * -(-spec.kw // gw)
            if gh * gw * c_tile <= rows and passes < best_passes:
                best, best_passes = (gh, gw), passes
    return (*best, c_tile)


def unit_grid(machine: Machine, n_tile: int) -> tuple[int, int]:
    """(units along n, units along rows): arrays share the columns first, then the rows."""
    count = machine.core.matrix.count
    along_n = 1
    while along_n * 2 <= count and count % (along_n * 2) == 0 and along_n * machine.core.matrix.cols < n_tile:
        along_n *= 2
    return along_n, count // along_n if machine.core.matrix.share_rows else 1


def build(spec: Contraction, tiling: Tiling, machine: Machine, name: str) -> Nest:
    """Build the nest of a contraction on a systolic array under a tiling."""
    return TileBuilder(spec, tiling, machine, name).build()


class TileBuilder:
    """Names and expressions that the parts of one nest share."""

    def __init__(self, spec: Contraction, tiling: Tiling, machine: Machine, name: str) -> None:
        self.s, self.t, self.machine, self.name = spec, tiling, machine, name
        self.scratch = machine.scratch_space
        self.first_row: Expr | int = 0  # of the tile, that is worked on
        self.vector_space = self.scratch  # of bias and scales
        self.weight_space = machine.staging_space
        tiles = {"x": 1, "y": 1, "h": tiling.h, "w": tiling.w, "n": tiling.n, "c": tiling.c}
        totals = {"x": spec.x, "y": spec.y, "h": spec.h, "w": spec.w, "n": spec.n, "c": spec.c}
        parts = dict(tiling.split)
        self.loops = tuple(Loop(k, totals[k], min(tiles[k], totals[k]), parts.get(k, 0)) for k in tiling.order)
        self.most = {"w": spec.w} | {x.name: x.tile for x in self.loops}
        self.extent: dict[str, Expr | int] = {"w": spec.w, **{x.name: x.extent for x in self.loops}}
        self.acc_size = dtype(spec.acc_dtype).size_bytes
        self.out_size = dtype(spec.out.dtype).size_bytes
        self.acc_row = self.most["n"] * self.acc_size
        self.units_n, self.units_h = unit_grid(machine, self.most["n"])
        self.tap_block = tap_block(spec, machine.core.matrix, self.most["c"])
        self.read = {"h": self._reach("h"), "w": self._reach("w") if tiling.w else Span(0, spec.in_w, spec.in_w)}

    def _reach(self, letter: str) -> Span:
        """The rows (h) or columns (w) of the feature map that the present tile reads."""
        s, axis = self.s, "hw".index(letter)
        stride, pad, taps = s.stride[axis], s.pad[axis], ((s.kh, s.kw)[axis] - 1) * s.dilation[axis] + 1
        results, total = (s.h, s.w)[axis], (s.in_h, s.in_w)[axis]
        most = min((self.most[letter] - 1) * stride + taps, total)
        start = pos(letter) * stride - pad
        low = emax(start, 0) if pad else start
        if taps == 1 and stride == 1 and not pad and results <= total:
            return Span(low, self.extent[letter], most)
        if not any(x.moves for x in self.loops if x.name == letter):
            end = (results - 1) * stride + taps - pad
            return Span(0, min(total, max(0, end)), min(total, max(1, end)))
        stop = (pos(letter) + self.extent[letter] - 1) * stride + (taps - pad)
        return Span(low, emax(emin(stop, total) - low, 0), most)

    def level(self, letters: str | tuple[str, ...]) -> int:
        """Depth of the innermost moving loop among `letters`: where a tile that depends on them changes."""
        return depth_of(self.loops, letters)

    def origin(self, operand: Operand, letters: str) -> Expr | int:
        """Byte offset of the present tile's first element."""
        total: Expr | int = 0
        for letter in letters:
            if operand.origin_bytes(letter) and any(x.name == letter for x in self.loops):
                total = pos(letter) * operand.origin_bytes(letter) + total
        return total

    def build(self) -> Nest:
        self.buffers: list[Buffer] = []
        self.loads: list[Placed] = []
        a = self._input()
        weight = self._weights()
        acc_level = self.level("xyhwn")
        acc_bytes = self.most["h"] * self.most["w"] * self.acc_row
        self.buffers.append(Buffer("acc", self.machine.core.matrix.acc_space, self.s.acc_dtype, acc_bytes, acc_level))
        stages = [*self.work(a, weight), *self._drain(acc_level)]
        named = (("a", self.s.a), ("weight", self.s.weight), ("out", self.s.out))
        tensors = [TensorArg(name, operand.space) for name, operand in named]
        for letter, present in (("bias", self.s.epilogue.bias), ("scales", self.s.epilogue.scales)):
            if present:
                tensors.append(TensorArg(letter, self.vector_home))
        tensors += [TensorArg(f"e{i}", o.space) for i, o in enumerate(self.s.epilogue.operands)]
        return self.nest(tuple(tensors), [Stage("load", tuple(self.loads)), *stages])

    def work(self, a: Ref, weight: Ref) -> list[Stage]:
        """The stages that turn tiles into sums."""
        return [Stage("compute", (Placed(products(self, a, weight), len(self.loops), "pre"),))]

    def nest(self, tensors: tuple[TensorArg, ...], stages: list[Stage]) -> Nest:
        """The whole kernel."""
        return Nest(self.name, self.loops, tuple(self.buffers), tensors, tuple(stages), self.padded_macs())

    def padded_macs(self) -> int:
        """MACs of the array, idle rows and columns included."""
        s, matrix = self.s, self.machine.core.matrix
        gh, gw, gc = tap_block(s, matrix, min(self.most["c"], s.c))
        passes = -(-s.kh // gh) * -(-s.kw // gw)
        c_blocks = sum(-(-min(self.most["c"], s.c - lo) // gc) for lo in range(0, s.c, self.most["c"]))
        n_blocks = sum(-(-min(self.most["n"], s.n - lo) // matrix.cols) for lo in range(0, s.n, self.most["n"]))
        return s.x * s.y * s.h * s.w * passes * c_blocks * n_blocks * matrix.rows * matrix.cols

    @property
    def vector_home(self) -> str:
        """Where bias and scale vectors live: DRAM when a copy engine reaches it, else the host."""
        return "dram" if self.machine.path("dram", self.vector_space) else "host"

    # Operands

    def _input(self) -> Ref:
        """The feature map (or matrix A): its tile in the scratchpad, loaded unless it lives there."""
        s = self.s
        size = dtype(s.a.dtype).size_bytes
        rows, columns = self.read["h"], self.read["w"]
        row_start = self.origin(s.a, "xyc")
        if s.a.strides.get("h"):
            row_start = rows.start * s.a.bytes_of("h") + row_start
        row_start = columns.start * s.a.bytes_of("w") + row_start
        space = self.machine.staging_space
        if s.a.space == space:
            self.a_strides = {x: s.a.bytes_of(x) for x in "hwc"}
            return Ref("a", s.a.dtype, (), row_start)
        spans = {k: Span(0, read.extent, read.most) for k, read in self.read.items()} | {"c": self.span("c")}
        order = sorted("hwc", key=lambda x: -s.a.strides.get(x, 0))  # as stored, so that the copy moves long runs
        axes = axes_of(order, spans, s.a.blocks)
        tile = dense("A", s.a.dtype, size, _extents(axes))
        self.a_strides = _tile_strides(axes, tile)
        level = self.level(s.a.letters("hwc"))
        self.buffers.append(Buffer("A", space, s.a.dtype, rows.most * columns.most * self.most["c"] * size, level))
        self.loads.append(Placed(Stmt("cp", tile, (Ref("a", s.a.dtype, s.a.dims(axes), row_start),)), level))
        return Ref("A", s.a.dtype, ())

    def _weights(self) -> Ref:
        """The weight tile [kh, kw, c, n] in the scratchpad, or in place where the weight port reads DRAM itself."""
        s = self.s
        offset = self.origin(s.weight, "xycn")
        direct = self.machine.path(s.weight.space, "wfifo") is not None
        letters = ("kh", "kw", "c", "n")
        if direct:
            self.w_strides = {x: s.weight.bytes_of(x) for x in letters} | {"N": s.weight.origin_bytes("n")}
            return Ref("weight", s.weight.dtype, (), offset)
        size = dtype(s.weight.dtype).size_bytes
        level = self.level(s.weight.letters("cn"))
        if s.weight.strides.get("c", 0) == 1 and s.weight.strides.get("n", 0) != 1:
            letters = ("kh", "kw", "n", "c")  # as stored, so that the copy moves long runs; it is read transposed
        spans = {"kh": Span(0, s.kh, s.kh), "kw": Span(0, s.kw, s.kw), "c": self.span("c"), "n": self.span("n")}
        axes = axes_of(letters, spans, s.weight.blocks)
        tile = dense("W", s.weight.dtype, size, _extents(axes))
        self.w_strides = _tile_strides(axes, tile)
        room = s.kh * s.kw * self.most["c"] * self.most["n"] * size
        self.buffers.append(Buffer("W", self.weight_space, s.weight.dtype, room, level))
        source = Ref("weight", s.weight.dtype, s.weight.dims(axes), offset)
        self.loads.append(Placed(Stmt("cp", tile, (source,)), level))
        return Ref("W", s.weight.dtype, ())

    # The way out

    def span(self, letter: str) -> Span:
        """The present tile's range of a letter."""
        return Span(0, self.extent[letter], self.most[letter])

    def out_axes(self) -> list[Axis]:
        """Dimensions of a tile of results, as the output has them."""
        return axes_of("hwn", {k: self.span(k) for k in "hwn"}, self.s.out.blocks)

    def results(self) -> tuple[tuple[tuple[Expr | int, int], ...], Ref, Ref]:
        """(extents, sums, place in the output) of the present tile of results."""
        out, axes = self.s.out, self.out_axes()
        strides = {"h": self.most["w"] * self.acc_row, "w": self.acc_row, "n": self.acc_size}
        sums = Ref("acc", self.s.acc_dtype, tuple(Dim(x.extent, x.most, x.stride(strides)) for x in axes))
        target = Ref("out", out.dtype, out.dims(axes), self.origin(out, "xyhwn"), scale=out.scale,
                     zero_point=out.zero_point)  # fmt: skip
        return _extents(axes), sums, target

    def _drain(self, level: int) -> list[Stage]:
        s, e = self.s, self.s.epilogue
        out_direct = s.out.space == self.scratch
        extents, acc, target = self.results()
        tile_bytes = self.most["h"] * self.most["w"] * self.most["n"] * self.out_size
        if not out_direct or e.after:
            self.buffers.append(Buffer("O", self.scratch, s.out.dtype, tile_bytes, level))
        final = dense("O", s.out.dtype, self.out_size, extents, scale=s.out.scale, zero_point=s.out.zero_point)
        scales = e.mid_scales or (s.out.scale,) * (len(e.after) + 1)
        vectors = [self._vector(k, p) for k, p in (("bias", e.bias), ("scales", e.scales))]
        middle = e.mid_dtype or s.out.dtype
        separate = bool(e.after) and (self.machine.core.drain is not None or middle != s.out.dtype)
        first_dst = dense("D" if separate else "O", middle, dtype(middle).size_bytes, extents, scale=scales[0])
        if separate:
            size = tile_bytes // self.out_size * dtype(middle).size_bytes
            self.buffers.append(Buffer("D", self.scratch, middle, size, level))
        if out_direct and not e.after:
            first_dst = target
        fix = Stmt("fix", first_dst, (acc, *vectors), act=e.act, f0=e.f0, f1=e.f1)
        stages = [Stage("drain", (Placed(fix, level, "post"),))]
        after = self._after(first_dst, final if not out_direct else target, extents, level, scales)
        if separate:
            stages.append(Stage("epilogue", after))
        elif after:
            stages = [Stage("drain", (*stages[0].placed, *after))]
        if not out_direct:
            stages.append(Stage("store", (Placed(Stmt("cp", target, (final,)), level, "post"),)))
        return stages

    def _vector(self, name: str, present: bool) -> Ref | None:
        """A per-column fp32 vector in the scratchpad, broadcast over rows."""
        if not present:
            return None
        step = self.s.epilogue.vector_y
        level = self.level("yn" if step else "n")
        most = self.most["n"]
        extents = ((self.extent["n"], most),)
        self.buffers.append(Buffer(name.upper(), self.vector_space, "fp32", most * 4, level))
        source = Ref(name, "fp32", (Dim(*extents[0], 4),), pos("y") * (4 * step) + pos("n") * 4)
        self.loads.append(Placed(Stmt("cp", dense(name.upper(), "fp32", 4, extents), (source,)), level))
        dims = tuple(Dim(x.extent, x.most, x.stride({"n": 4})) for x in self.out_axes())
        return Ref(name.upper(), "fp32", dims)

    def _after(self, src: Ref, final: Ref, extents: tuple[tuple[Expr | int, int], ...], level: int,
               scales: tuple[float, ...]) -> tuple[Placed, ...]:
        """Element-wise operations on the drained tile; each result is rounded, as the operator it stands for."""
        placed: list[Placed] = []
        e = self.s.epilogue
        for i, (op, f0, f1, index) in enumerate(e.after):
            last = i == len(e.after) - 1
            middle = e.mid_dtype or self.s.out.dtype
            home = "O" if middle == self.s.out.dtype else "D"
            base = dense(home, middle, dtype(middle).size_bytes, extents, scale=scales[i + 1])
            dst = final if last else base
            srcs: tuple[Ref | None, ...] = (src,)
            if index >= 0:
                srcs = (src, self._epilogue_operand(index, extents, level))
            if op == "swish":
                op, f0, srcs = "mul", 0.0, (src, self._gate(src, f0, extents, level, placed))
            placed.append(Placed(Stmt(f"v.{op}", dst, srcs, f0=f0, f1=f1), level, "post"))
            src = base if not last else dst
        return tuple(placed)

    def _gate(self, src: Ref, alpha: float, extents: tuple[tuple[Expr | int, int], ...], level: int,
              placed: list[Placed]) -> Ref:
        """sigmoid(alpha src) in fp32, in a tile of its own."""
        gate = dense("G", "fp32", 4, extents)
        if all(b.name != gate.base for b in self.buffers):
            room = self.most["h"] * self.most["w"] * self.most["n"] * 4
            self.buffers.append(Buffer("G", self.scratch, "fp32", room, level))
        if alpha != 1.0:
            placed.append(Placed(Stmt("v.muls", gate, (src,), f0=alpha), level, "post"))
            src = gate
        placed.append(Placed(Stmt("v.sigmoid", gate, (src,)), level, "post"))
        return gate

    def _epilogue_operand(self, index: int, extents: tuple[tuple[Expr | int, int], ...], level: int) -> Ref:
        operand = self.s.epilogue.operands[index]
        size, axes = dtype(operand.dtype).size_bytes, self.out_axes()
        source = Ref(f"e{index}", operand.dtype, operand.dims(axes), self.origin(operand, "xyhwn"),
                     scale=operand.scale, zero_point=operand.zero_point)  # fmt: skip
        if operand.space == self.scratch:
            return source
        moving = [(x, m) if d.stride else (1, 1) for (x, m), d in zip(extents, source.dims)]
        count = 1
        for _, most in moving:
            count *= most
        self.buffers.append(Buffer(f"E{index}", self.scratch, operand.dtype, count * size, level))
        tile = dense(
            f"E{index}", operand.dtype, size, tuple(moving), scale=operand.scale, zero_point=operand.zero_point
        )
        compact = Ref(source.base, source.dtype, tuple(
            Dim(x, m, d.stride) for (x, m), d in zip(moving, source.dims)), source.offset)
        self.loads.append(Placed(Stmt("cp", tile, (compact,)), level))
        dims = tuple(
            Dim(x, m, d.stride if o.stride else 0) for (x, m), d, o in zip(extents, tile.dims, source.dims)
        )
        return Ref(tile.base, tile.dtype, dims, 0, scale=operand.scale, zero_point=operand.zero_point)


def _extents(axes: Iterable[Axis]) -> tuple[tuple[Expr | int, int], ...]:
    return tuple((x.extent, x.most) for x in axes)


def _tile_strides(axes: Iterable[Axis], tile: Ref) -> dict[str, int]:
    """Byte strides of a dense tile by letter; a capital letter's is that from block to block, an element."""
    return {x.letter if x.step == 1 else x.letter.upper(): d.stride // x.step for x, d in zip(axes, tile.dims)}
