"""The row kernel: reductions, softmax and normalisations, as short programs on rows of any shape.

A program works on values of the tile's shape (upper case, and x, scale, bias) and on one number a row (lower case),
in fp32; `out` is either. Reductions across lanes run on the cross-lane unit in stages of their own, so that units
overlap over tiles. Rows too long for the scratchpad are read once a reduction and once for the result: an extra loop
counts the passes, and in each of them the operations of the others have no elements.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

from compiler.expr import Expr, binary, pos
from compiler.kernels.tiles import (
    Grid,
    Operand,
    Streams,
    choose,
    cores_for,
    narrowed,
    require_dims,
    require_operations,
    tile_limit,
)
from compiler.nest import Dim, Nest, Placed, Ref, Stage, Stmt
from isa.errors import CapacityError
from isa.machine import Machine

REDUCTIONS = ("sum", "max", "min", "prod")


@dataclass(frozen=True)
class RowOp:
    """One operation of a row program: a reduction, or a vector operation (without `v.`)."""

    op: str
    dst: str
    srcs: tuple[str, ...]
    f0: float = 0.0
    f1: float = 0.0


@dataclass(frozen=True)
class Rows:
    """A program over rows: `reduced` marks the dimensions of a row; scale and bias repeat by stride 0."""

    program: tuple[RowOp, ...]
    extents: tuple[int, ...]
    reduced: tuple[bool, ...]
    x: Operand
    out: Operand
    scale: Operand | None = None
    bias: Operand | None = None
    acc_dtype: str = "fp32"
    reread: bool = False  # fetch a row anew for each reduction even when it would fit

    @property
    def passes(self) -> int:
        """Times that a row which does not fit is read: once a reduction, and once for a result of its own shape."""
        whole = any(s and r for s, r in zip(self.out.strides, self.reduced))
        return sum(o.op in REDUCTIONS for o in self.program) + whole


def reduction(op: str, count: int) -> tuple[RowOp, ...]:
    """The program of an ONNX Reduce operator over `count` elements a row; raises KeyError for an unknown one."""
    before = {"ReduceL1": "abs", "ReduceL2": "square", "ReduceSumSquare": "square"}.get(op)
    names = {"ReduceMax": "max", "ReduceMin": "min", "ReduceProd": "prod"}
    known = ("ReduceSum", "ReduceMean", "ReduceL1", "ReduceL2", "ReduceSumSquare", "ReduceLogSum")
    join = names[op] if op not in known else "sum"
    after = {"ReduceMean": RowOp("muls", "out", ("s",), 1.0 / count), "ReduceL2": RowOp("sqrt", "out", ("s",)),
             "ReduceLogSum": RowOp("log", "out", ("s",))}.get(op, RowOp("copy", "out", ("s",)))  # fmt: skip
    first = (RowOp(before, "T", ("x",)),) if before else ()
    return (*first, RowOp(join, "s", ("T" if before else "x",)), after)


# x is shifted by its largest element, so that no exponential overflows.
_SHIFT = (RowOp("max", "m", ("x",)), RowOp("sub", "T", ("x", "m")))
SOFTMAX = (*_SHIFT, RowOp("exp", "T", ("T",)), RowOp("sum", "s", ("T",)), RowOp("recip", "s", ("s",)),
           RowOp("mul", "out", ("T", "s")))  # fmt: skip
LOG_SOFTMAX = (*_SHIFT, RowOp("exp", "E", ("T",)), RowOp("sum", "s", ("E",)), RowOp("log", "s", ("s",)),
               RowOp("sub", "out", ("T", "s")))  # fmt: skip
LOG_SUM_EXP = (*_SHIFT, RowOp("exp", "T", ("T",)), RowOp("sum", "s", ("T",)), RowOp("log", "s", ("s",)),
               RowOp("add", "out", ("s", "m")))  # fmt: skip


def layer_norm(count: int, epsilon: float, scale: bool, bias: bool) -> tuple[RowOp, ...]:
    """(x - mean) / sqrt(variance + epsilon) * scale + bias over rows of `count`."""
    ops = [RowOp("sum", "m", ("x",)), RowOp("muls", "m", ("m",), 1.0 / count), RowOp("sub", "T", ("x", "m")),
           RowOp("square", "Q", ("T",)), RowOp("sum", "v", ("Q",)), RowOp("affine", "v", ("v",), 1.0 / count, epsilon),
           RowOp("rsqrt", "v", ("v",)), RowOp("mul", "T", ("T", "v"))]  # fmt: skip
    return _scaled(ops, scale, bias)


def rms_norm(count: int, epsilon: float, scale: bool) -> tuple[RowOp, ...]:
    """x / sqrt(mean of squares + epsilon) * scale over rows of `count`."""
    ops = [RowOp("square", "T", ("x",)), RowOp("sum", "v", ("T",)), RowOp("affine", "v", ("v",), 1.0 / count, epsilon),
           RowOp("rsqrt", "v", ("v",)), RowOp("mul", "Y", ("x", "v"))]  # fmt: skip
    return _scaled(ops, scale, False)


def _scaled(ops: list[RowOp], scale: bool, bias: bool) -> tuple[RowOp, ...]:
    value = ops[-1].dst
    ops += [RowOp("mul", value, (value, "scale"))] * scale + [RowOp("add", value, (value, "bias"))] * bias
    return (*ops[:-1], replace(ops[-1], dst="out"))


def build(spec: Rows, machine: Machine, budget: Mapping[str, int], name: str) -> Nest:
    """Build the nest; raises NoKernel when the machine lacks a path or operation, CapacityError when nothing fits."""
    operands = [o for o in (spec.x, spec.out, spec.scale, spec.bias) if o is not None]
    require_dims(machine, len(spec.extents) + 1)
    cores = cores_for(machine, spec.extents, operands)
    limit = tile_limit(machine, spec.extents, operands)
    kept = [(i,) for i, r in enumerate(spec.reduced) if not r]
    rest = [(i,) for i, r in enumerate(spec.reduced) if r]
    once = _Builder(spec, machine, name, cores, lanes=spec.reduced[-1], passes=1)
    groups = kept + rest if spec.passes == 1 else kept
    if spec.passes == 1 or not spec.reread:
        try:
            return choose(once.build, spec.extents, groups, limit, machine, budget)
        except CapacityError:
            if spec.passes == 1:
                raise
    again = _Builder(spec, machine, name, cores, lanes=False, passes=spec.passes)
    return choose(again.build, spec.extents, kept + rest, limit, machine, budget)


class _Builder:
    """One way to build the nest: reductions across lanes or not, with one pass over the data or several."""

    def __init__(self, spec: Rows, machine: Machine, name: str, cores: int, lanes: bool, passes: int) -> None:
        self.s, self.machine, self.name, self.cores = spec, machine, name, cores
        self.prefix = "l" if lanes else "r"
        self.apart = lanes and machine.core.cross_lane is not None
        self.passes = passes
        formats = [o.dtype for o in (spec.x, spec.out, spec.scale, spec.bias) if o is not None]
        names = [self.prefix + o.op if o.op in REDUCTIONS else o.op for o in spec.program]
        require_operations(machine, names, [*formats, spec.acc_dtype])

    def build(self, tiles: tuple[int, ...]) -> Nest:
        s, rank = self.s, len(self.s.extents)
        kept = [i for i in range(rank) if not s.reduced[i]]
        rest = [i for i in range(rank) if s.reduced[i]]
        several = self.passes > 1
        pass_dim = [rank] * several
        extents, tiles = ((*s.extents, self.passes), (*tiles, 1)) if several else (s.extents, tiles)
        self.grid = Grid(self.machine, extents, tiles, self.cores, [*kept, *pass_dim, *rest], [*rest, *pass_dim])
        self.kept, self.rest, self.everything = kept, rest, range(rank)
        self.row_level = self.grid.level([*kept, *pass_dim])
        self.streams = Streams(self.grid, self.machine, self.name)
        self.values = {"x": self.streams.source("x", self._operand(s.x), anew=pass_dim)}
        for letter, operand in (("scale", s.scale), ("bias", s.bias)):
            if operand is not None:
                self.values[letter] = self.streams.source(letter, self._operand(operand))
        out = self.streams.target("out", self._operand(s.out))
        self.values["out"] = out
        self.out_whole = any(a and r for a, r in zip(s.out.strides, s.reduced))
        self._temporaries()
        stages: list[Stage] = []
        for placed, crosses in self._statements():
            label = "across" if crosses else "compute"
            if stages and stages[-1].name.rstrip("0123456789") == label:
                stages[-1] = Stage(stages[-1].name, (*stages[-1].placed, placed))
            else:
                stages.append(Stage(f"{label}{len(stages)}", (placed,)))
        if several and self.streams.stores and self.out_whole:
            self.streams.stores = [self._guarded(p, self.passes - 1) for p in self.streams.stores]
        return self.streams.nest(stages)

    def _operand(self, operand: Operand) -> Operand:
        return replace(operand, strides=(*operand.strides, 0)) if self.passes > 1 else operand

    def _temporaries(self) -> None:
        for name in dict.fromkeys(o.dst for o in self.s.program if o.dst != "out"):
            dims = self.everything if self._whole(name) else self.kept
            kind = "fp32" if self._whole(name) else self.s.acc_dtype
            self.values[name] = self.grid.tile(name.upper(), kind, dims)
            self.streams.buffers.append(self.grid.buffer(name.upper(), kind, dims))

    def _whole(self, name: str) -> bool:
        """True for a value of the tile's shape."""
        return self.out_whole if name == "out" else name in ("x", "scale", "bias") or name.isupper()

    def _statements(self) -> list[tuple[Placed, bool]]:
        """Every operation where it belongs, and whether it runs on the cross-lane unit."""
        if self.passes == 1:
            return [(self._statement(o), self.apart and o.op in REDUCTIONS) for o in self.s.program]
        found: list[tuple[Placed, bool]] = []
        ends = [i for i, o in enumerate(self.s.program) if o.op in REDUCTIONS]
        ends += [len(self.s.program) - 1] * (len(ends) < self.passes)
        for number, end in enumerate(ends):
            first = ends[number - 1] + 1 if number else 0
            ahead = [o for o in self.s.program[first:end] if not self._whole(o.dst)]  # on what the last pass found
            found += [(self._guarded(self._statement(o), number - 1), False) for o in ahead]
            found += [(self._guarded(self._statement(o), number), False) for o in self._slice(end)]
        if not self.out_whole:
            behind = self.s.program[ends[-1] + 1 :]
            found += [(self._guarded(self._statement(o), len(ends) - 1), False) for o in behind]
        return found

    def _slice(self, end: int) -> list[RowOp]:
        """Operation `end` and what computes its operands of the tile's shape from x again."""
        needed, found = set(self.s.program[end].srcs), [self.s.program[end]]
        for op in reversed(self.s.program[:end]):
            if op.dst in needed and self._whole(op.dst):
                needed = (needed - {op.dst}) | set(op.srcs)
                found.insert(0, op)
        return found

    def _statement(self, op: RowOp) -> Placed:
        dst = self.values[op.dst]
        srcs = tuple(self.values[v] for v in op.srcs)
        if op.op in REDUCTIONS:
            accumulate: Expr | int = 0
            for i in self.rest:
                accumulate = self.grid.start(i) + accumulate
            stmt = Stmt(f"v.{self.prefix}{op.op}", dst, srcs, accumulate=accumulate if accumulate != 0 else None)
            return Placed(stmt, self.grid.depth)
        if self._whole(op.dst):
            return Placed(Stmt(f"v.{op.op}", dst, srcs, f0=op.f0, f1=op.f1), self.grid.depth)
        row = tuple(narrowed(v, self.rest) for v in (dst, *srcs))
        return Placed(Stmt(f"v.{op.op}", row[0], row[1:], f0=op.f0, f1=op.f1), self.row_level, "post")

    def _guarded(self, placed: Placed, number: int) -> Placed:
        """The statement with elements in pass `number` only."""
        stmt = placed.body
        assert isinstance(stmt, Stmt) and stmt.dst is not None
        here = binary("eq", pos(f"d{len(self.s.extents)}"), number)
        refs = [self._limited(r, here) for r in (stmt.dst, *stmt.srcs) if r is not None]
        return replace(placed, body=replace(stmt, dst=refs[0], srcs=tuple(refs[1:])))

    @staticmethod
    def _limited(ref: Ref, here: Expr | int) -> Ref:
        first = ref.dims[0]
        return replace(ref, dims=(Dim(binary("mul", first.extent, here), first.most, first.stride), *ref.dims[1:]))
