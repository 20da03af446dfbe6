"""Attention in one launch on cores of two kinds: softmax(scale Q K^T) V without the scores ever being whole.

Cube cores make the scores of a tile of queries and a block of keys, and the product of its weights with the values;
vector cores keep for each query the largest score, the sum of weights and the output so far, and rescale them when a
block brings a larger score (online softmax: Milakov and Gimelshein 2018; Dao et al., FlashAttention, 2022). Scores,
weights and partial outputs go through workspaces of a few slots that stay in the shared cache. The way of a block from
core to core and back takes longer than the work on it, so scores are made some blocks ahead of values.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from itertools import product

from compiler.expr import Expr, binary, emax, emin, param, pos
from compiler.kernels import mix
from compiler.kernels.contraction import Operand
from compiler.nest import Buffer, Dim, Loop, Nest, Placed, Ref, Stage, Stmt, TensorArg, dense, depth_of
from isa.dtypes import dtype
from isa.machine import Machine

Value = Expr | int
SCORES, WEIGHTS, PARTIAL = ("scores", "weights", "partial")  # the workspaces, in the order of their flags
ROWS, PART = mix.ROWS, "p"
MOST_STAGES = 14  # registers of the sequencer hold a position for each
SLOTS = 3  # of each workspace
CROSS_FLAGS = 3 * SLOTS  # of a core
AHEAD = 2  # blocks whose scores are made before the values of the first of them
LOADS = 3  # slots of tiles of K and V in L1, at most
TILES = 3  # slots of a tile in a vector core's buffer, at most


@dataclass(frozen=True)
class Attention:
    """Extents, operands with element strides by letter: q (x y h c), k (x y n c), v (x y n e), out (x y h e)."""

    x: int
    y: int
    h: int
    n: int
    c: int
    e: int
    scale: float
    acc_dtype: str
    q: Operand
    k: Operand
    v: Operand
    out: Operand


@dataclass(frozen=True)
class Tile:
    """Queries and keys of a block, keys that the cube takes at a time, rows that a vector core does at a time, and the
    loops shared by cores."""

    h: int
    n: int
    part: int
    rows: int
    split: tuple[tuple[str, int], ...]


@dataclass
class _Shape:
    """Loops and extents that both kinds of cores walk over."""

    s: Attention
    t: Tile
    machine: Machine
    name: str
    loops: tuple[Loop, ...] = ()
    buffers: list[Buffer] = field(default_factory=list)

    def __post_init__(self) -> None:
        totals = {"x": self.s.x, "y": self.s.y, "h": self.s.h, "n": self.s.n}
        tiles = {"x": 1, "y": 1, "h": self.t.h, "n": self.t.n}
        parts = dict(self.t.split)
        self.loops = tuple(Loop(k, totals[k], min(tiles[k], totals[k]), parts.get(k, 0)) for k in "xyhn")
        self.most = {"h": self.loops[2].tile, "n": self.loops[3].tile, "c": self.s.c, "e": self.s.e}
        self.most["p"] = min(self.t.part, self.most["n"])
        self.extent: dict[str, Value] = {"c": self.s.c, "e": self.s.e}
        self.extent |= {x.name: x.extent for x in self.loops[2:]}
        last = emin(self.extent["n"] - pos(PART), self.most["p"])
        whole = isinstance(self.extent["n"], int) and self.most["n"] % self.most["p"] == 0
        self.extent["p"] = self.most["p"] if whole else emax(last, 0)
        self.size = dtype(self.s.q.dtype).size_bytes
        self.acc_size = dtype(self.s.acc_dtype).size_bytes

    def level(self, letters: str) -> int:
        """Depth of the innermost moving loop among `letters`."""
        return depth_of(self.loops, letters)

    def origin(self, operand: Operand, letters: str) -> Value:
        """Byte offset of the present tile's first element."""
        total: Value = 0
        for letter in letters:
            if operand.bytes_of(letter):
                total = pos(letter) * operand.bytes_of(letter) + total
        return total

    def pair(self, letters: str) -> tuple[tuple[Value, int], ...]:
        """(extent, most) of each letter."""
        return tuple((self.extent[k], self.most[k]) for k in letters)

    def workspace(self, name: str, letters: str, kind: str, level: int) -> Ref:
        """A tile between the two kinds of cores."""
        size = dtype(kind).size_bytes
        room = self.most[letters[0]] * self.most[letters[1]] * size
        room = -(-room // mix.ALIGN_BYTES) * mix.ALIGN_BYTES
        channel = SLOTS * (SCORES, WEIGHTS, PARTIAL).index(name)
        self.buffers.append(Buffer(name, "dram", kind, room, level, SLOTS, channel=channel))
        rows, columns = self.pair(letters)
        return Ref(name, kind, (Dim(*rows, self.most[letters[1]] * size), Dim(*columns, size)))

    def buffer(self, name: str, space: str, kind: str, elements: int, level: int, least: int = 1) -> None:
        """Room for a tile."""
        room = elements * dtype(kind).size_bytes
        self.buffers.append(Buffer(name, space, kind, room, level, least_slots=least))


def _gap(steps: int) -> tuple[Stage, ...]:
    """Stages without statements: what follows works so many steps later."""
    return tuple(Stage(f"ahead{i}", ()) for i in range(steps))


def workspace_bytes(s: Attention, t: Tile) -> dict[str, int]:
    """Bytes of each workspace of a cube core."""
    shapes = {SCORES: (t.n, dtype(s.acc_dtype)), WEIGHTS: (t.n, dtype(s.q.dtype)), PARTIAL: (s.e, dtype(s.acc_dtype))}
    align = mix.ALIGN_BYTES
    return {k: SLOTS * (-(-t.h * w * d.size_bytes // align) * align) for k, (w, d) in shapes.items()}


def build(s: Attention, t: Tile, machine: Machine, name: str) -> Nest:
    """Build the nest of both kinds of cores."""
    return replace(_cube(_Shape(s, t, machine, name)), partner=_Vector(_Shape(s, t, machine, name)).nest())


def _cube(b: _Shape) -> Nest:
    """Scores of a block, part by part, and some steps behind them the product of its weights with the values."""
    s, matrix, size = b.s, b.machine.core.matrix, b.size
    staging, right = b.machine.staging_space, matrix.operand_b_space or matrix.operand_space
    b.loops = (*b.loops, Loop(PART, b.most["n"], b.most["p"]))
    inner, block_level, tile = b.level("xyhnp"), b.level("xyhn"), b.level("xyh")
    loads, fed = [], {}
    for name, operand, letters, level in (("Q", s.q, "hc", tile), ("K", s.k, "pc", inner), ("V", s.v, "pe", inner)):
        extents = b.pair(letters)
        kept = dense(name, operand.dtype, size, extents)
        stored = letters.replace("p", "n")
        start = b.origin(operand, "xy" + stored[0])
        if letters[0] == "p":
            start = pos(PART) * operand.bytes_of("n") + start
        source = Ref(name.lower(), operand.dtype, tuple(
            Dim(*e, operand.bytes_of(k)) for e, k in zip(extents, stored)), start)
        b.buffer(name, staging, operand.dtype, b.most[letters[0]] * b.most[letters[1]], level)
        loads.append(Placed(Stmt("cp", kept, (source,)), level))
        fed[name] = kept
    scores = b.workspace(SCORES, "hn", s.acc_dtype, block_level)
    weights = b.workspace(WEIGHTS, "hn", s.q.dtype, block_level)
    partial = b.workspace(PARTIAL, "he", s.acc_dtype, block_level)
    column = replace(scores.dims[1], extent=b.extent["p"], most=b.most["p"])
    scores = replace(scores, dims=(scores.dims[0], column), offset=pos(PART) * column.stride)

    def block(name: str, space: str, source: Ref, rows: tuple[Value, int], cols: tuple[Value, int],
              level: int) -> tuple[Ref, Placed]:
        """A matrix in L0, and its feed."""
        held = dense(name, source.dtype, size, (rows, cols), rows=1)
        b.buffer(name, space, source.dtype, _whole(rows[1], matrix.rows) * _whole(cols[1], matrix.rows), level)
        return held, Placed(Stmt("cp", held, (source,)), level)

    (high, width), depth, out = b.pair("hp"), b.pair("c")[0], b.pair("e")[0]
    turned = replace(fed["K"], dims=fed["K"].dims[::-1])
    q, feed_q = block("QA", matrix.operand_space, fed["Q"], high, depth, tile)
    k, feed_k = block("KB", right, turned, depth, width, inner)
    kept = dense("P", s.q.dtype, size, b.pair("hn"))
    some = Dim(*width, kept.dims[1].stride)
    some_p = replace(kept, dims=(kept.dims[0], some), offset=pos(PART) * some.stride)
    p, feed_p = block("PA", matrix.operand_space, some_p, high, width, inner)
    v, feed_v = block("VB", right, fed["V"], width, out, inner)
    b.buffer("P", staging, s.q.dtype, b.most["h"] * b.most["n"], block_level, least=2)
    sums = {n: dense(n, s.acc_dtype, b.acc_size, b.pair(k), rows=1) for n, k in (("S", "hp"), ("O", "he"))}
    for name, letters, level in (("S", "hp", inner), ("O", "he", block_level)):
        elements = _whole(b.most[letters[0]], matrix.rows) * _whole(b.most[letters[1]], matrix.cols)
        b.buffer(name, matrix.acc_space, s.acc_dtype, elements, level)
    score = (
        feed_q, feed_k, Placed(Stmt("mm", sums["S"], (q, k)), inner), Placed(Stmt("fix", scores, (sums["S"],)), inner),
    )  # fmt: skip
    value = (
        Placed(Stmt("cp", kept, (weights,)), block_level), feed_p, feed_v,
        Placed(Stmt("mm", sums["O"], (p, v), accumulate=pos(PART)), inner),
        Placed(Stmt("fix", partial, (sums["O"],)), block_level, "post"),
    )  # fmt: skip
    tensors = tuple(TensorArg(n, o.space) for n, o in (("q", s.q), ("k", s.k), ("v", s.v)))
    tensors += tuple(TensorArg(n, "dram") for n in (SCORES, WEIGHTS, PARTIAL))
    fetch = Stage("fetch", (loads.pop(),))  # values, only when they are needed
    between = AHEAD * b.loops[-1].count - 2  # a step is a part of a block
    stages = (Stage("load", tuple(loads)), Stage("score", score), *_gap(between), fetch, Stage("value", value))
    return Nest(b.name, b.loops, tuple(b.buffers), tensors, stages, macs_padded=_padded(s, b.t, b.machine))


def _padded(s: Attention, t: Tile, machine: Machine) -> int:
    """MACs of the cube in both products, empty rows and columns of its blocks included."""
    matrix = machine.core.matrix
    depth = matrix.depth(s.q.dtype)
    heights = [min(t.h, s.h - lo) for lo in range(0, s.h, t.h)]
    widths = [min(t.n, s.n - lo) for lo in range(0, s.n, t.n)]
    rows = sum(_whole(h, matrix.rows) for h in heights)
    scores = sum(_whole(w, matrix.cols) for w in widths) * _whole(s.c, depth)
    values = sum(_whole(w, depth) for w in widths) * _whole(s.e, matrix.cols)
    return s.x * s.y * rows * (scores + values)


def _whole(value: int, unit: int) -> int:
    return -(-value // unit) * unit


class _Vector:
    """Online softmax of a core's rows of every block, and the output, rescaled and summed up."""

    def __init__(self, b: _Shape) -> None:
        self.b, self.s, count = b, b.s, mix.partners(b.machine)
        self.share = -(-b.most["h"] // (count * b.t.rows)) * b.t.rows
        self.tile_level, self.block_level = b.level("xyh"), b.level("xyhn")
        b.loops = (*b.loops, Loop(ROWS, self.share * count, b.t.rows, count))
        b.extent["h"] = emax(emin(b.extent["h"] - pos(ROWS), b.t.rows), 0)
        s = b.s
        shared = ((SCORES, "hn", s.acc_dtype), (WEIGHTS, "hn", s.q.dtype), (PARTIAL, "he", s.acc_dtype))
        self.spaces = {name: self._shared(name, letters, kind) for name, letters, kind in shared}
        b.most["h"] = b.t.rows
        self.wide, self.out = b.pair("hn"), b.pair("he")
        self.scores, self.weights = self._tile("S", "fp32", self.wide), self._tile("P", s.q.dtype, self.wide)
        self.partial, self.result = self._tile("T", "fp32", self.out), self._tile("Y", s.out.dtype, self.out)
        self.mine = pos(ROWS) - param(f"lo_{ROWS}")  # the first of the present rows among those of the core
        self.largest, self.sum, self.before = (self._number(n, self.tile_level) for n in "MLB")
        self.factor = self._number("R", self.block_level)  # by which a block rescales what was before
        b.buffer("A", b.machine.scratch_space, "fp32", self.share * s.e, self.tile_level)
        columns = Dim(*self.out[1], 4)
        self.total = Ref("A", "fp32", (Dim(*self.out[0], 4 * s.e), columns), self.mine * (4 * s.e))

    def _shared(self, name: str, letters: str, kind: str) -> Ref:
        """The present rows in a workspace."""
        tile = self.b.workspace(name, letters, kind, self.block_level)
        rows = replace(tile.dims[0], most=self.b.t.rows)
        return replace(tile, dims=(rows, tile.dims[1]), offset=pos(ROWS) * rows.stride)

    def _tile(self, name: str, kind: str, extents: tuple[tuple[Value, int], ...]) -> Ref:
        """The present rows in the core's buffer."""
        b = self.b
        b.buffer(name, b.machine.scratch_space, kind, extents[0][1] * extents[1][1], len(b.loops), least=2)
        return dense(name, kind, dtype(kind).size_bytes, extents)

    def _number(self, name: str, level: int) -> Ref:
        """A number for each of the core's rows, of which the present ones."""
        self.b.buffer(name, self.b.machine.scratch_space, "fp32", self.share, level)
        return Ref(name, "fp32", (Dim(*self.wide[0], 4), Dim(1, 1, 4)), self.mine * 4)

    def softmax(self) -> list[Stmt]:
        """Weights of the block relative to the largest score so far, and their sum."""
        later, (_, columns) = emin(pos("n"), 1), self.wide
        return [
            _when(later, "v.copy", self.before, self.largest),
            Stmt("v.lmax", _spread(self.largest, columns), (self.scores,), accumulate=pos("n")),
            _when(later, "v.sub", self.factor, self.before, self.largest),
            _when(later, "v.muls", self.factor, self.factor, f0=self.s.scale),
            _when(later, "v.exp", self.factor, self.factor),
            Stmt("v.sub", self.scores, (self.scores, _spread(self.largest, columns))),
            Stmt("v.muls", self.scores, (self.scores,), f0=self.s.scale),
            Stmt("v.exp", self.weights, (self.scores,)),
            _when(later, "v.mul", self.sum, self.sum, self.factor),
            Stmt("v.lsum", _spread(self.sum, columns), (self.weights,), accumulate=pos("n")),
            Stmt("cp", self.spaces[WEIGHTS], (self.weights,)),
        ]

    def update(self) -> list[Stmt]:
        """The output so far, rescaled, and with the block's; behind the last block it is divided by the sum."""
        later, first, (_, columns) = emin(pos("n"), 1), binary("eq", pos("n"), 0), self.out
        keys = self.b.loops[3]
        final = Expr("gt", (pos("n"), keys.total - keys.tile - 1)) if keys.count > 1 else 1
        return [
            Stmt("cp", self.partial, (self.spaces[PARTIAL],)),
            _when(later, "v.mul", self.total, self.total, _spread(self.factor, columns)),
            _when(later, "v.add", self.total, self.total, self.partial),
            _when(first, "v.copy", self.total, self.partial),
            _when(final, "v.div", self.result, self.total, _spread(self.sum, columns)),
            _when(final, "cp", _target(self.b), self.result),
        ]

    def nest(self) -> Nest:
        """The whole: a step is so many rows of a block, and updates come some blocks behind."""
        b, level = self.b, len(self.b.loops)
        tensors = (*(TensorArg(n, "dram") for n in (SCORES, WEIGHTS, PARTIAL)), TensorArg("out", self.s.out.space))
        stages = (
            Stage("load", (Placed(Stmt("cp", self.scores, (self.spaces[SCORES],)), level),)),
            Stage("softmax", tuple(Placed(stmt, level, "post") for stmt in self.softmax())),
            *_gap(AHEAD * (self.share // b.t.rows) - 1),
            Stage("update", tuple(Placed(stmt, level, "post") for stmt in self.update())),
        )
        return Nest(b.name, b.loops, tuple(b.buffers), tensors, stages, kind=1)


def _spread(number: Ref, columns: tuple[Value, int]) -> Ref:
    """A number a row, for all columns."""
    return replace(number, dims=(number.dims[0], Dim(*columns, 0)))


def _target(b: _Shape) -> Ref:
    """The present rows of the output."""
    out = b.s.out
    dims = tuple(Dim(*e, out.bytes_of(k)) for e, k in zip(b.pair("he"), "he"))
    start = pos(ROWS) * out.bytes_of("h") + b.origin(out, "xyh")
    return Ref("out", out.dtype, dims, start)


def _when(condition: Value, op: str, dst: Ref, *srcs: Ref, f0: float = 0.0) -> Stmt:
    """A statement that has elements only where a condition is 1."""
    def limited(ref: Ref) -> Ref:
        first = ref.dims[0]
        return replace(ref, dims=(replace(first, extent=binary("mul", first.extent, condition)), *ref.dims[1:]))

    return Stmt(op, limited(dst), tuple(limited(r) for r in srcs), f0=f0)


# The choice of tiles


def candidates(s: Attention, machine: Machine) -> Iterator[Tile]:
    """Tiles that fit all buffers of both kinds of cores."""
    matrix, spaces, count = machine.core.matrix, machine.core.spaces, mix.partners(machine)
    size, acc = dtype(s.q.dtype).size_bytes, dtype(s.acc_dtype).size_bytes
    c, e = _whole(s.c, matrix.rows), _whole(s.e, matrix.rows)
    right = matrix.operand_b_space or matrix.operand_space
    widths = sorted({min(_whole(s.n, matrix.rows), w) for w in (1024, 512, 256, 128, 64, 32, 16)}, reverse=True)
    heights = sorted({min(_whole(s.h, matrix.rows), w) for w in (256, 128, 64, 32, 16)}, reverse=True)
    for h, n, part in product(heights, widths, widths):
        staged = size * (2 * h * c + LOADS * part * (c + e) + 2 * h * n)
        fits = {
            matrix.operand_space: size * h * (c + part), right: size * part * (c + e),
            matrix.acc_space: acc * h * (part + e), machine.staging_space: staged + 4096,
        }  # fmt: skip
        if part > n or any(need > spaces[space].size_bytes for space, need in fits.items()):
            continue
        share = -(-h // count)
        state = 4 * share * (s.e + 8 * MOST_STAGES)
        row = 4 * TILES * n + 2 * (size * n + 4 * s.e + dtype(s.out.dtype).size_bytes * s.e)
        rows = min(share, max(0, spaces[machine.scratch_space].size_bytes - state - 8192) // row)
        if rows and AHEAD * max(-(-share // rows), n // part) <= MOST_STAGES - 3:
            for split in splits(s, h, machine.cores):
                yield Tile(h, n, part, rows, split)


def splits(s: Attention, h: int, cores: int) -> list[tuple[tuple[str, int], ...]]:
    """Ways to share heads and tiles of queries among cores."""
    counts = {"x": s.x, "y": s.y, "h": -(-s.h // h)}
    moving = [k for k in counts if counts[k] > 1]
    if cores == 1 or not moving:
        return [()]
    ways: list[tuple[tuple[str, int], ...]] = [((k, cores),) for k in moving]
    ways += [((k, a), (m, cores // a)) for i, k in enumerate(moving) for m in moving[i + 1 :]
             for a in range(2, cores) if cores % a == 0]  # fmt: skip
    return ways


def search(s: Attention, machine: Machine) -> Tile | None:
    """The cheapest tile by the slowest pipe of a step and the steps of the busiest core; None when none fits."""
    return min(candidates(s, machine), key=lambda t: _cycles(s, t, machine), default=None)


def _cycles(s: Attention, t: Tile, machine: Machine) -> float:
    matrix, vector, count = machine.core.matrix, machine.core.vector, mix.partners(machine)
    size, acc = dtype(s.q.dtype).size_bytes, dtype(s.acc_dtype).size_bytes
    steps = 1.0
    parts = dict(t.split)
    for letter, total in (("x", s.x), ("y", s.y), ("h", -(-s.h // t.h))):
        steps *= -(-total // parts.get(letter, 1))
    steps *= -(-s.n // t.n)
    h, n = _whole(t.h, matrix.rows), _whole(t.n, matrix.cols)
    cube = 2 * h * n * max(s.c, s.e) / (matrix.rows * matrix.cols * matrix.depth(s.q.dtype))
    drain, load = machine.path(matrix.acc_space, "dram"), machine.path("dram", machine.staging_space)
    near = machine.path("dram", machine.scratch_space)
    assert vector is not None and drain is not None and load is not None and near is not None
    lanes = vector.register_elements()
    parts_a_block = -(-t.n // t.part)
    pipes = (
        cube + 60 * parts_a_block, acc * h * (n + s.e) / drain.bytes_per_cycle + 300 * (parts_a_block + 1),
        size * n * (s.c + s.e + h) / load.bytes_per_cycle,
        acc * h * (n + s.e) / count / near.bytes_per_cycle,
        h / count / lanes * (8 * n + 5 * s.e),
    )  # fmt: skip
    way = sum(pipes) + 8 * machine.memory.request_latency_cycles  # of a block, from core to core and back
    return steps * max(*pipes, way / (AHEAD + 1)) + way
