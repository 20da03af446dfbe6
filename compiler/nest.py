"""The tile program of one kernel: a loop nest with buffers and statements in stages.

Statements say what moves and computes on tiles; nothing here knows of registers, flags or bundles. A buffer's content
changes with the loops above its `level`; a statement runs once an iteration of the loops above its own level, before
(`pre`) or after (`post`) what lies deeper. A stage is what software pipelining shifts as a whole.
"""

from __future__ import annotations

from collections.abc import Container, Iterator, Sequence
from dataclasses import dataclass, field, replace

from compiler.expr import Expr, emin, param, pos


@dataclass(frozen=True)
class Loop:
    """`total` elements in tiles of `tile`, in `split` parts for as many cores: their ranges [lo, hi) are parameters.

    0: all cores do the whole. Several loops of a nest may be split; a core then has a part of each.
    """

    name: str
    total: int
    tile: int
    split: int = 0

    @property
    def count(self) -> int:
        """Tiles over the whole range."""
        return -(-self.total // self.tile)

    @property
    def moves(self) -> bool:
        """True when a core may have another tile than the first one."""
        return self.count > 1 or self.split > 0

    @property
    def low(self) -> Expr | int:
        """First element of a core's range."""
        return param(f"lo_{self.name}") if self.split else 0

    @property
    def high(self) -> Expr | int:
        """One past the last element of a core's range."""
        return param(f"hi_{self.name}") if self.split else self.total

    @property
    def extent(self) -> Expr | int:
        """Elements in the present tile."""
        if self.tile == 1 or (not self.split and self.total % self.tile == 0):
            return self.tile
        return emin(self.high - pos(self.name), self.tile)


def depth_of(loops: Sequence[Loop], names: Container[str]) -> int:
    """Depth of the innermost moving loop among `names`: where a tile that depends on them changes."""
    return max((i + 1 for i, x in enumerate(loops) if x.name in names and x.moves), default=0)


@dataclass(frozen=True)
class Buffer:
    """Storage for one tile in a core's space; `level` loops determine its content; `slots` copies for overlap.

    `least_slots` are needed for the overlap of pipes within a stage. With a `channel` it is in memory between cores of
    two kinds, at the parameter `name`, and that is the first of the flags, one a slot, by which they signal each other.
    """

    name: str
    space: str
    dtype: str
    size_bytes: int
    level: int
    slots: int = 2
    least_slots: int = 1
    channel: int = -1


@dataclass(frozen=True)
class TensorArg:
    """A tensor that the kernel reads or writes in place; its address is the parameter `name`."""

    name: str
    space: str


@dataclass(frozen=True)
class Dim:
    """One dimension of a tile reference: extent (<= `most`), byte stride, or a coordinate (axis, coefficient)."""

    extent: Expr | int
    most: int
    stride: int
    axis: int = -1
    coef: int = 0


@dataclass(frozen=True)
class Window:
    """A bounded coordinate: elements outside [0, limit) read as padding; `stride` bytes a step."""

    origin: Expr | int
    limit: Expr | int
    stride: int


@dataclass(frozen=True)
class Ref:
    """A tile of a buffer or tensor: what one operand of an instruction covers. `offset` is in bytes."""

    base: str
    dtype: str
    dims: tuple[Dim, ...]
    offset: Expr | int = 0
    rows: int = 0
    windows: tuple[Window, ...] = ()
    pad_value: float = 0.0
    scale: float = 1.0
    zero_point: int = 0


@dataclass(frozen=True)
class Stmt:
    """One instruction on tiles. `accumulate` is the predicate of mm and reductions; `act` an activation's name."""

    op: str
    dst: Ref | None
    srcs: tuple[Ref | None, ...]
    unit: int = 0
    accumulate: Expr | int | None = None
    act: str = "none"
    f0: float = 0.0
    f1: float = 0.0
    flags: int = 0


@dataclass(frozen=True)
class SubLoop:
    """An inner loop of a stage: `var` runs from 0 in steps of `step`, `count` times."""

    var: str
    count: Expr | int
    step: int
    body: tuple[Stmt | SubLoop, ...]


@dataclass(frozen=True)
class Placed:
    """A statement (or inner loop) with its level and side."""

    body: Stmt | SubLoop
    level: int
    when: str = "pre"


@dataclass(frozen=True)
class Stage:
    """Statements that one pipelining stage runs, in order; the first stage of a nest is its load stage."""

    name: str
    placed: tuple[Placed, ...]


@dataclass(frozen=True)
class Nest:
    """A whole kernel before scheduling.

    Its `inner` innermost loops run inside a step, in the stages behind the load stage; steps are those of the others.
    A `partner` is what cores of another `kind` do in the same launch; the two meet at buffers with a channel.
    """

    name: str
    loops: tuple[Loop, ...]
    buffers: tuple[Buffer, ...]
    tensors: tuple[TensorArg, ...]
    stages: tuple[Stage, ...]
    macs_padded: int = 0
    ahead: bool = False  # the load stage leads each step, one slot further ahead, instead of ending it
    notes: tuple[str, ...] = field(default_factory=tuple)
    inner: int = 0
    kind: int = 0
    partner: Nest | None = None

    @property
    def outer_loops(self) -> tuple[Loop, ...]:
        """The loops whose iterations are steps."""
        return self.loops[: len(self.loops) - self.inner]

    def buffer(self, name: str) -> Buffer | None:
        """The buffer called `name`, or None."""
        return next((b for b in self.buffers if b.name == name), None)

    def with_slots(self, slots: dict[str, int], ahead: bool = False) -> Nest:
        """A copy whose buffers have other slot counts, and whose load stage leads or ends the step."""
        buffers = tuple(replace(b, slots=slots.get(b.name, b.slots)) for b in self.buffers)
        return replace(self, buffers=buffers, ahead=ahead)


def statements(body: Stmt | SubLoop) -> Iterator[Stmt]:
    """Yield every statement below an inner loop, or the statement itself."""
    if isinstance(body, Stmt):
        yield body
        return
    for part in body.body:
        yield from statements(part)


def dense(base: str, dtype: str, size: int, extents: tuple[tuple[Expr | int, int], ...], **fields: object) -> Ref:
    """A row-major tile: `extents` are (extent, most) pairs, `size` bytes an element, strides from `most`."""
    dims: list[Dim] = []
    stride = size
    for extent, most in reversed(extents):
        dims.append(Dim(extent, most, stride))
        stride *= most
    return Ref(base, dtype, tuple(reversed(dims)), **fields)  # type: ignore[arg-type]


def render(nest: Nest) -> str:
    """The nest as text, for dumps and tests."""
    lines = [f"nest {nest.name}"]
    lines += [f"  loop {x.name}: {x.total} by {x.tile}{f' split {x.split}' if x.split else ''}" for x in nest.loops]
    for b in nest.buffers:
        lines.append(f"  buffer {b.name}: {b.space} {b.dtype} {b.size_bytes} B x{b.slots} level {b.level}")
    lines += [f"  tensor {t.name}: {t.space}" for t in nest.tensors]
    for stage in nest.stages:
        lines.append(f"  stage {stage.name}")
        for placed in stage.placed:
            lines += _render_body(placed.body, f"    @{placed.level}{placed.when} ")
    text = "\n".join(lines) + "\n"
    return text if nest.partner is None else f"{text}with {render(nest.partner)}"


def _render_body(body: Stmt | SubLoop, indent: str) -> list[str]:
    if isinstance(body, SubLoop):
        lines = [f"{indent}for {body.var} < {body.count} step {body.step}"]
        for part in body.body:
            lines += _render_body(part, indent + "  ")
        return lines
    operands = [_render_ref(r) for r in (body.dst, *body.srcs) if r is not None]
    extra = "" if body.accumulate is None else f" acc={body.accumulate}"
    extra += "" if body.act == "none" else f" act={body.act}"
    return [f"{indent}{body.op}.{body.unit} {', '.join(operands)}{extra}"]


def _render_ref(ref: Ref) -> str:
    dims = "x".join(str(d.extent) for d in ref.dims)
    return f"{ref.base}+{ref.offset}[{dims}]:{ref.dtype}"
