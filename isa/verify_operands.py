"""What operands a machine accepts: descriptors, and the rules of each operation group (see docs/architecture.md)."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from isa.dtypes import BY_CODE as DTYPE
from isa.machine import CHIP_SPACES, Machine
from isa.params import pipe_list
from isa.program import MAX_DIMS, NO_OPERAND, SPACES, Program
from isa.table import (
    ACTIVATIONS,
    CROSS_LANE,
    DMA,
    DRAIN,
    MATRIX,
    NEXT_TILE,
    PIPE_CLASS_NAMES,
    SCALAR,
    STATIONARY_A,
    VECTOR,
    WEIGHTS,
    Op,
)

UNBOUNDED = 1 << 62


@dataclass(frozen=True)
class Operand:
    """A descriptor in words: extents are the static maxima, `fixed` tells which no register changes."""

    letter: str
    space: str
    dtype: str
    ext: tuple[int, ...]
    fixed: tuple[bool, ...]
    rows: int
    stride: tuple[int, ...] = ()
    windowed: bool = False

    @property
    def innermost(self) -> int:
        """The dimension whose elements lie closest together; -1 when there is one element."""
        moving = [(abs(s), -i) for i, (e, s) in enumerate(zip(self.ext, self.stride)) if e > 1 and s]
        return -min(moving)[1] if moving else -1

    @property
    def height(self) -> int:
        """Matrix rows: the leading dimensions flattened."""
        return _product(self.ext[: self.rows])

    @property
    def width(self) -> int:
        """Matrix columns: the other dimensions flattened."""
        return _product(self.ext[self.rows :])

    @property
    def static(self) -> bool:
        """True when no extent depends on a register."""
        return all(self.fixed)


@dataclass(frozen=True)
class Use:
    """What one instruction asks for; operands by letter D, A, B, C, absent ones missing."""

    op: Op
    flags: int
    unit: int
    imm: int
    pipe_class: int  # of `set`
    operands: dict[str, Operand]


def space_sizes(machine: Machine) -> dict[str, int]:
    """Bytes of every space that programs may name."""
    sizes = {name: space.size_bytes for name, space in machine.core.spaces.items()}
    return sizes | {"dram": machine.memory.capacity_bytes, "host": UNBOUNDED}


def descriptor_faults(program: Program, machine: Machine) -> dict[int, list[str]]:
    """Faults of each descriptor by index; descriptors without one are absent."""
    sizes = space_sizes(machine)
    found = {i: list(_descriptor(record, machine, sizes)) for i, record in enumerate(program.descs)}
    return {i: faults for i, faults in found.items() if faults}


def operand(program: Program, index: int, letter: str) -> Operand:
    """Return a descriptor (one without faults) in words."""
    record = program.descs[index]
    n = int(record["ndim"])
    return Operand(
        letter, SPACES[int(record["space"])], DTYPE[int(record["dtype"])].name, tuple(record["ext"][:n].tolist()),
        tuple(r < 0 for r in record["ext_reg"][:n].tolist()), int(record["rows"]),
        tuple(record["stride"][:n].tolist()), bool((record["axis"][:n] >= 0).any()),
    )  # fmt: skip


def use_faults(use: Use, machine: Machine) -> Iterator[str]:
    """Yield what is wrong with an instruction whose operands are all there and sound."""
    yield from _unit(use, machine)
    yield from _flags(use, machine)
    if use.op.group == "copy":
        yield from _copy(use, machine)
    elif use.op.pipe == WEIGHTS:
        yield from _load_weights(use, machine)
    elif use.op.pipe == MATRIX:
        yield from _matrix(use, machine)
    elif use.op.pipe in (VECTOR, CROSS_LANE, DRAIN):
        yield from _vector(use, machine)


def _product(extents: tuple[int, ...]) -> int:
    result = 1
    for extent in extents:
        result *= extent
    return result


# Descriptors


def _descriptor(record: Any, machine: Machine, sizes: dict[str, int]) -> Iterator[str]:
    space, kind, n, rows = (int(record[name]) for name in ("space", "dtype", "ndim", "rows"))
    if not 0 <= space < len(SPACES) or SPACES[space] not in sizes:
        name = SPACES[space] if 0 <= space < len(SPACES) else space
        yield f"space {name} does not exist on {machine.name}; there are {', '.join(sorted(sizes))}"
        return
    if kind not in DTYPE or not 0 <= n <= MAX_DIMS:
        yield f"dtype {kind} or ndim {n} does not exist; dtypes are 0..{max(DTYPE)}, dimensions 0..{MAX_DIMS}"
        return
    if not 0 <= rows <= n:
        yield f"rows is {rows}; it counts leading dimensions, of which there are {n}"
    if n and int(record["ext"][:n].min()) < 0:
        yield f"extents {record['ext'][:n].tolist()} must not be negative"
        return
    registers = machine.core.scalar.registers
    used = _registers(record, n)
    if not all(-1 <= r < registers for r in used):
        yield f"names register {max(used, key=abs)}; there are r0..r{registers - 1}"
    if any(not -1 <= x <= 1 for x in record["axis"][:n].tolist()):
        yield f"axes {record['axis'][:n].tolist()} must be -1 (none), 0 or 1"
        return
    if all(r < 0 for r in used):
        yield from _range(record, n, SPACES[space], sizes[SPACES[space]], machine)


def _range(record: Any, n: int, space: str, size: int, machine: Machine) -> Iterator[str]:
    """An operand that no register moves must lie in its space and be aligned."""
    touched = static_bytes(record)
    if touched is None:
        return
    low, high = touched
    if low < 0 or high > size:
        yield f"covers bytes [{low}, {high}) of {space}, which has {size}"
    align = machine.core.spaces[space].align_bytes if space in machine.core.spaces else 1
    if int(record["base"]) % align:
        yield f"base {int(record['base'])} is not a multiple of {align} (core.spaces.{space}.align_bytes)"


def _registers(record: Any, n: int) -> list[int]:
    """Registers that move or cut an operand of n dimensions; -1: none."""
    where = [*record["ext_reg"][:n].tolist(), *record["origin_reg"].tolist(), *record["limit_reg"].tolist()]
    return [record["base_reg"].item(), *where]


def static_bytes(record: Any) -> tuple[int, int] | None:
    """Bytes [low, high) that an operand lies within; None when registers decide, or when it has no elements."""
    n = int(record["ndim"])
    ext = record["ext"][:n].tolist()
    if 0 in ext or any(r >= 0 for r in _registers(record, n)):
        return None
    span = _span(record, ext)
    return None if span is None else (span[0], span[1] + DTYPE[int(record["dtype"])].size_bytes)


def _span(record: Any, ext: list[int]) -> tuple[int, int] | None:
    """First and last element address of a static operand; None when windows leave nothing to fetch."""
    low = high = int(record["base"])
    stride, axis, coef = (record[name].tolist() for name in ("stride", "axis", "coef"))
    for d, extent in enumerate(ext):
        reach = stride[d] * (extent - 1)
        low, high = low + min(0, reach), high + max(0, reach)
    for x in range(2):
        dims = [d for d in range(len(ext)) if axis[d] == x]
        limit, step = int(record["limit"][x]), int(record["axis_stride"][x])
        if not dims and limit == 0:
            continue
        reaches = [coef[d] * (ext[d] - 1) for d in dims]
        origin = int(record["origin"][x])
        first = max(0, origin + sum(min(0, r) for r in reaches))
        last = min(limit - 1, origin + sum(max(0, r) for r in reaches))
        if last < first:
            return None
        low, high = low + min(step * first, step * last), high + max(step * first, step * last)
    return low, high


# Units and flags


def _unit(use: Use, machine: Machine) -> Iterator[str]:
    if use.op.name in ("set", "wait", "pbar", "signal", "await"):
        yield from _sync_pipe(use, machine)
    elif use.op.pipe in (WEIGHTS, MATRIX):
        count = machine.core.matrix.count
        if not 0 <= use.unit < count:
            yield f"unit {use.unit} does not exist; core.matrix.count is {count}"
    elif use.op.pipe == DMA:
        if use.unit < 0:
            yield f"unit {use.unit} is negative; unit u runs on instance u modulo the engine's count"
    elif use.unit != 0:
        yield f"unit {use.unit} is given, but {use.op.name} has no choice of unit"


def _sync_pipe(use: Use, machine: Machine) -> Iterator[str]:
    if use.op.name in ("wait", "await") and use.pipe_class == NO_OPERAND:
        return
    if use.op.name not in ("set", "signal") and machine.issue != "queues" and use.pipe_class != SCALAR:
        why = f"on {machine.name} the sequencer waits: leave out the pipe"
        yield f"only a machine with `issue: queues` holds a pipe; {why}"
    pipes = {(p.pipe_class, p.unit) for p in pipe_list(machine)}
    if machine.core.vector is not None:  # it does the work of units that the machine lacks
        pipes |= {(CROSS_LANE, 0), (DRAIN, 0)}
    unit = use.unit if use.pipe_class < DMA or use.unit < 0 else 0  # DMA units count modulo their number
    if (use.pipe_class, unit) not in pipes:
        name = PIPE_CLASS_NAMES[use.pipe_class] if 0 <= use.pipe_class < DMA else f"dma{use.pipe_class - DMA}"
        yield f"pipe {name} unit {use.unit} does not exist on {machine.name}"


def _flags(use: Use, machine: Machine) -> Iterator[str]:
    dataflow = machine.core.matrix.dataflow
    if use.flags & NEXT_TILE and use.op.pipe != MATRIX:
        yield "suffix .next belongs to mm"
    if use.flags & STATIONARY_A and use.op.pipe not in (MATRIX, WEIGHTS):
        yield "suffix .sta belongs to mm and ldw"
    elif use.op.pipe in (MATRIX, WEIGHTS) and bool(use.flags & STATIONARY_A) != (dataflow == "is"):
        yield f"suffix .sta stands if and only if core.matrix.dataflow is 'is'; it is {dataflow!r}"


# Operations


def _copy(use: Use, machine: Machine) -> Iterator[str]:
    a, d = use.operands["A"], use.operands["D"]
    path = machine.path(a.space, d.space)
    if path is None or path.pipe == "weights":
        legal = ", ".join(f"{p.src}->{p.dst}" for p in machine.core.paths if p.pipe != "weights")
        yield f"no path {a.space}->{d.space} for a copy; {machine.name} has {legal}"
    elif path.converts is not None:
        offered = ", ".join(path.converts) or "nothing"
        for what, why in _conversions(use):
            if what not in path.converts:
                yield f"{why}; the path {a.space}->{d.space} of {machine.name} converts {offered} (core.paths.converts)"
    if use.op.name == "cp":
        yield from _same_shape(use)
    elif use.operands["B"].dtype not in ("int32", "int64"):
        yield f"operand B holds row indices: int32 or int64, not {use.operands['B'].dtype}"


def _conversions(use: Use) -> Iterator[tuple[str, str]]:
    """What a copy changes on the way, and in words."""
    a, d = use.operands["A"], use.operands["D"]
    if a.dtype != d.dtype:
        yield "cast", f"A is {a.dtype}, D is {d.dtype}: a copy that casts"
    if a.windowed or d.windowed:
        yield "window", "a copy through a window, which pads"
    if use.op.name == "cpg":
        yield "gather", "a copy that gathers"
    elif not a.windowed and -1 not in (a.innermost, d.innermost) and a.innermost != d.innermost:
        yield "transpose", f"dimension {a.innermost} of A and {d.innermost} of D are innermost: a copy that transposes"


def _same_shape(use: Use) -> Iterator[str]:
    d = use.operands["D"]
    for letter, x in use.operands.items():
        comparable = zip(d.ext, x.ext, d.fixed, x.fixed)
        if len(x.ext) != len(d.ext) or any(m != n and p and q for m, n, p, q in comparable):
            yield f"operand {letter} has extents {list(x.ext)}, D has {list(d.ext)}; broadcast by stride 0"


def _load_weights(use: Use, machine: Machine) -> Iterator[str]:
    matrix, a = machine.core.matrix, use.operands["A"]
    if matrix.streams_both:
        yield f"core.matrix.dataflow is {matrix.dataflow!r}, which has no weight FIFO; give mm both operands"
        return
    if machine.path(a.space, "wfifo") is None:
        legal = ", ".join(f"{p.src}->{p.dst}" for p in machine.core.paths if p.pipe == "weights")
        yield f"no path {a.space}->wfifo for weights; {machine.name} has {legal}"
    yield from _operand_dtype(a, machine)
    k, n = (a.height, a.width) if matrix.dataflow == "ws" else (a.width, a.height)
    yield from _fits("the tile", k, n, ("K", "N") if matrix.dataflow == "ws" else ("K", "M"), machine)


def _operand_dtype(x: Operand, machine: Machine) -> Iterator[str]:
    passes = machine.core.matrix.passes
    if x.dtype not in passes:
        yield f"operand {x.letter} is {x.dtype}; the array takes {', '.join(passes)} (core.matrix.passes)"


def _fits(what: str, rows: int, cols: int, names: tuple[str, str], machine: Machine) -> Iterator[str]:
    matrix = machine.core.matrix
    if rows > matrix.rows:
        yield f"{what} has {names[0]} = {rows}, the array {matrix.rows} rows; cut {names[0]} into tiles"
    if cols > matrix.cols:
        yield f"{what} has {names[1]} = {cols}, the array {matrix.cols} columns; cut {names[1]} into tiles"


def _matrix(use: Use, machine: Machine) -> Iterator[str]:
    matrix = machine.core.matrix
    a, d, b = use.operands["A"], use.operands["D"], use.operands.get("B")
    if (b is not None) != matrix.streams_both:
        yield f"operand B stands if and only if core.matrix.dataflow is 'os' or 'cube'; it is {matrix.dataflow!r}"
        return
    if use.flags & NEXT_TILE and matrix.streams_both:
        yield f"suffix .next: core.matrix.dataflow is {matrix.dataflow!r}, which has no weight FIFO"
    for x in (a, b):
        if x is not None:
            field = "operand_b_space" if x is b and matrix.operand_b_space is not None else "operand_space"
            space = getattr(matrix, field)
            if x.space != space:
                yield f"operand {x.letter} is in {x.space}; mm reads {space} (core.matrix.{field})"
            yield from _operand_dtype(x, machine)
    if d.space != matrix.acc_space:
        yield f"operand D is in {d.space}; mm accumulates in {matrix.acc_space} (core.matrix.acc_space)"
    wanted = matrix.accumulate.get(a.dtype)
    if wanted is not None and d.dtype != wanted:
        yield f"operand D is {d.dtype}; {a.dtype} products accumulate in {wanted} (core.matrix.accumulate)"
    yield from _matrix_sizes(a, d, b, machine)


def _matrix_sizes(a: Operand, d: Operand, b: Operand | None, machine: Machine) -> Iterator[str]:
    """Operand sizes against the array, then against each other where no register changes them."""
    static = a.static and d.static and (b is None or b.static)
    if b is not None:  # A [m, k], B [k, n]; os: D stays in the array
        if machine.core.matrix.dataflow == "os":
            yield from _fits("D", d.height, d.width, ("M", "N"), machine)
        agree = a.height == d.height and b.width == d.width and a.width == b.height
        shapes = f"A is {a.height} x {a.width}, B is {b.height} x {b.width}"
    elif machine.core.matrix.dataflow == "ws":  # A [m, k], tile [k, n]
        yield from _fits("mm", a.width, d.width, ("K", "N"), machine)
        agree, shapes = a.height == d.height, f"A has {a.height} rows"
    else:  # is: A [k, n], tile [k, m]
        yield from _fits("mm", a.height, d.height, ("K", "M"), machine)
        agree, shapes = a.width == d.width, f"A has {a.width} columns"
    if static and not agree:
        yield f"{shapes}, D is {d.height} x {d.width}"


def _vector(use: Use, machine: Machine) -> Iterator[str]:
    core, op = machine.core, use.op
    own = {VECTOR: core.vector, CROSS_LANE: core.cross_lane, DRAIN: core.drain}[op.pipe]
    if own is None and core.vector is None:
        yield f"{machine.name} has no unit for {op.name}: neither {PIPE_CLASS_NAMES[op.pipe]} nor vector"
        return
    spaces = ", ".join(sorted(set(core.spaces) - {"wfifo"}))
    for x in use.operands.values():
        if op.pipe == DRAIN and x.letter == "D" and x.space == "dram" and machine.drain_engine is not None:
            continue
        if x.space in CHIP_SPACES or x.space == "wfifo":
            yield f"operand {x.letter} is in {x.space}; {op.name} works on {spaces}"
    yield from _same_shape(use)
    if op.pipe == DRAIN:
        yield from _drain(use, machine)
    elif core.vector is not None and core.vector.operations and op.name[2:] not in core.vector.operations:
        yield f"{op.name} is not offered; core.vector.operations has {', '.join(core.vector.operations)}"
    drained = op.pipe == DRAIN and (core.drain or machine.drain_engine) is not None
    if core.vector is not None and core.vector.dtypes and not drained:
        for x in use.operands.values():
            if x.dtype not in core.vector.dtypes:
                yield f"operand {x.letter} is {x.dtype}; core.vector.dtypes has {', '.join(core.vector.dtypes)}"


def _drain(use: Use, machine: Machine) -> Iterator[str]:
    core, a = machine.core, use.operands["A"]
    if a.dtype not in ("int32", "fp32"):
        yield f"operand A is {a.dtype}; fix reads int32 or fp32 sums"
    unit = core.drain or machine.drain_engine
    if unit is not None and a.space != core.matrix.acc_space:
        yield f"operand A is in {a.space}; {unit.label} drains {core.matrix.acc_space} (core.matrix.acc_space)"
    if core.drain is None and unit is not None and machine.path(a.space, use.operands["D"].space) is None:
        yield f"no path {a.space}->{use.operands['D'].space} for the results of fix"
    for letter, kinds in (("B", ("fp32", "int32")), ("C", ("fp32",))):
        x = use.operands.get(letter)
        if x is not None and x.dtype not in kinds:
            yield f"operand {letter} is {x.dtype}; it must be {' or '.join(kinds)}"
    activation = ACTIVATIONS[use.imm]
    offered = machine.drain_activations
    if activation != "none" and offered is not None and activation not in offered:
        where = "core.vector.operations" if unit is None else (
            "core.drain.activations" if core.drain is not None else f"activations of {unit.label}")
        yield f"activation {activation} is not offered; {where} has {', '.join(offered) or 'nothing'}"


