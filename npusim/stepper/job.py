"""What one dispatched instruction costs and touches."""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import product
from math import prod

from isa.cost import (
    bank_ways,
    ceil_div,
    cube_blocks,
    latency_cycles,
    load_cycles,
    pipelined_cycles,
    stream_cycles,
    vector_registers,
)
from isa.dtypes import BY_CODE as DTYPE
from isa.machine import Machine, Space, VectorUnit
from isa.params import Params
from isa.program import SPACES
from isa.table import BY_CODE, CROSS_LANE, DMA, DRAIN, MATRIX, NEXT_TILE, STATIONARY_A, WEIGHTS
from npusim.functional.operand import Operand, box, element_bytes, pieces

DRAM = SPACES.index("dram")
GATHER_SPREAD = 2654435761  # which rows a gather reads is not known without values: Knuth's multiplicative hash


@dataclass(eq=False)
class Job:
    """An instruction between dispatch and completion."""

    pc: int
    pipe: int
    number: int  # in program order
    spaces: frozenset[int] = frozenset()
    touched: tuple[tuple[int, int, int, bool], ...] = ()  # (space, low, high, writes): what the interlock sees
    occupy: int = 1
    latency: int = 0
    conflict: int = 0  # cycles of `occupy` in which banks give the rest of what they were asked for
    next_tile: bool = False
    rows: int = 0  # streamed through the array
    path: int = -1
    size_bytes: int = 0
    write: bool = False
    requests: deque[tuple[int, int]] | None = None  # (address, bytes) still to send: a memory transfer
    tile: bool = False  # a stationary tile from on chip
    sync: str = ""  # `set`, `wait` or `pbar` in the queue of a pipe; a signal is a set elsewhere
    flag: int = 0
    target: int = -1  # the core whose flag it is; -1: this one
    amount: int = 0
    waits_for: list[Job] = field(default_factory=list)
    flags: list[tuple[int, int]] = field(default_factory=list)  # (target, flag) raised on completion
    unanswered: int = 0
    sent: int = 0  # cycle in which the path has carried the last request
    started: int = 0
    done: int | None = None

    def conflicts(self, other: Job) -> bool:
        """True when both touch the same bytes and one of them writes."""
        return any(
            s == t and (w or x) and low < end and start < high
            for s, low, high, w in self.touched
            for t, start, end, x in other.touched
        )


def make_job(
    pc: int, pipe: int, number: int, op: int, flags: int, operands: list[Operand | None], params: Params
) -> Job:
    """Return the job of an instruction whose operands D, A, B, C are resolved and not empty."""
    present = [(o, i == 0) for i, o in enumerate(operands) if o is not None]
    job = Job(pc, pipe, number, frozenset(o.space for o, _ in present))
    if params["interlock"]:
        job.touched = tuple((o.space, *_span(o), writes) for o, writes in present if o.space != DRAM)
    pipe_class = BY_CODE[op].pipe
    if pipe_class in (DMA, WEIGHTS) or params.pipes[pipe].pipe_class >= DMA:
        _copy(job, op, operands, params)
    elif pipe_class == MATRIX:
        _matrix(job, flags, operands, params.machine)
    else:
        _lanes(job, op, operands, params)
    return job


def _span(operand: Operand) -> tuple[int, int]:
    boxes = [box(piece, element_bytes(operand)) for piece in pieces(operand)]
    return min(low for low, _ in boxes), max(high for _, high in boxes)


def _given(operand: Operand | None) -> Operand:
    if operand is None:
        raise ValueError("a verified instruction has its operands")
    return operand


def _matrix(job: Job, flags: int, operands: list[Operand | None], machine: Machine) -> None:
    d, a, b = _given(operands[0]), _given(operands[1]), operands[2]
    if b is not None:
        job.rows = prod(a.ext[a.rows :])
    elif flags & STATIONARY_A:
        job.rows = prod(d.ext[d.rows :])
    else:
        job.rows = prod(a.ext[: a.rows])
    matrix, kind = machine.core.matrix, DTYPE[a.dtype].name
    if matrix.dataflow == "cube":
        n = prod(_given(b).ext[_given(b).rows :])
        blocks = cube_blocks(matrix, prod(a.ext[: a.rows]), n, job.rows, kind)
        job.rows = blocks * matrix.depth(kind)
        job.occupy = stream_cycles(blocks, matrix.passes[kind]) + matrix.startup_cycles * (blocks > 0)
    else:
        job.occupy = stream_cycles(job.rows, matrix.passes[kind])
    job.latency = latency_cycles(matrix)
    job.next_tile = bool(flags & NEXT_TILE)


def _lanes(job: Job, op: int, operands: list[Operand | None], params: Params) -> None:
    """Vector, cross-lane and drain; the vector unit stands in for the other two where the machine lacks them."""
    core, d, a = params.machine.core, _given(operands[0]), _given(operands[1])
    kind = BY_CODE[op]
    if kind.pipe == CROSS_LANE and core.cross_lane is not None:
        unit = core.cross_lane
        rate = unit.elements_per_cycle
        if kind.name != "v.transpose" and unit.reduce_elements_per_cycle is not None:
            rate = unit.reduce_elements_per_cycle
        job.occupy, job.latency = pipelined_cycles(prod(a.ext), rate, 0), unit.latency_cycles
    elif kind.pipe == DRAIN and core.drain is not None:
        job.occupy = pipelined_cycles(prod(d.ext), core.drain.elements_per_cycle, 0)
        job.latency = core.drain.latency_cycles
    elif core.vector is not None:
        job.occupy, job.conflict = _vector(params.machine, kind.name.removeprefix("v."), kind.lanes, d, operands[1:])
        job.latency = core.vector.latency_cycles


def _vector(
    machine: Machine, name: str, lanes: str, d: Operand, sources: list[Operand | None]
) -> tuple[int, int]:
    """Cycles, and those of them that conflicts of banks cost."""
    vector, a = machine.core.vector, _given(sources[0])
    assert vector is not None
    stored = _once(d) if lanes == "reduce" else d  # each result is stored once
    loads = {"binary": 2, "ternary": 3}.get(lanes, 1)
    read = [_given(source) for source in sources[:loads]]
    widest = max(element_bytes(o) for o in (d, *read))
    work, stores = _registers(vector, a if lanes == "reduce" else d, widest), _registers(vector, stored, widest)
    unpacked = [vector.unpack_ops.get(DTYPE[source.dtype].name, 0) for source in read]
    each = round(vector.op_cycles.get(name, 1) * 1000) + sum(round(ops * 1000) for ops in unpacked)
    packed = round(vector.pack_ops.get(DTYPE[d.dtype].name, 0) * 1000)
    alu = ceil_div(work * each + stores * packed, 1000 * vector.alus)
    plain = max(1, alu, ceil_div(work * loads, vector.load_ports), ceil_div(stores, vector.store_ports))
    touched = (*(_once(o) for o in read), stored)
    more = [_registers(vector, o, widest) * (_ways(machine, vector, o, widest) - 1) for o in touched]
    load = ceil_div(work * loads + sum(more[:-1]), vector.load_ports)
    moving = [(o, o is stored) for o in touched if o.space == a.space and _registers(vector, o, widest) >= work]
    ways = _shared_ways(machine, vector, moving, widest)
    banks = work * ways if ways > 1 else 0
    cycles = max(plain, load, ceil_div(stores + more[-1], vector.store_ports), banks)
    return cycles, cycles - plain


def _shared_ways(machine: Machine, vector: VectorUnit, moving: list[tuple[Operand, bool]], widest_bytes: int) -> int:
    """Cycles in which banks give and take one register of each operand (True: it is written) of an instruction."""
    space = machine.core.spaces.get(SPACES[moving[0][0].space]) if moving else None
    if space is None or space.bank_groups == 0:
        return 1
    groups, size = space.bank_groups, space.bank_size_bytes
    reads: Counter[int] = Counter()
    writes: Counter[int] = Counter()
    banks: Counter[tuple[int, int]] = Counter()  # group and number in it
    written: set[tuple[int, int]] = set()
    for operand, writes_it in moving:
        around = operand.base // (groups * size) if size else 0
        blocks, together, stride = _register(space, vector, operand, widest_bytes)
        for row, block in product(range(together), range(blocks)):
            group = ((operand.base + row * stride) // space.bank_bytes + block) % groups
            (writes if writes_it else reads)[group] += 1
            banks[group, around] += 1
            if writes_it:
                written.add((group, around))
    both = [banks[bank] for bank in written] if size else []
    return max(*reads.values(), *writes.values(), *both, 1)


def _once(operand: Operand) -> Operand:
    """The operand without what it repeats."""
    return operand._replace(ext=tuple(1 if s == 0 else n for n, s in zip(operand.ext, operand.stride)))


def _registers(vector: VectorUnit, operand: Operand, widest_bytes: int) -> int:
    run, outer = _runs(operand)
    return vector_registers(vector, prod(operand.ext[:outer]), run, widest_bytes)


def _ways(machine: Machine, vector: VectorUnit, operand: Operand, widest_bytes: int) -> int:
    """Cycles in which the banks of the operand's space give or take one of its registers."""
    space = machine.core.spaces.get(SPACES[operand.space])
    if space is None:
        return 1
    return bank_ways(*_register(space, vector, operand, widest_bytes), space.bank_groups, space.bank_bytes)


def _register(space: Space, vector: VectorUnit, operand: Operand, widest_bytes: int) -> tuple[int, int, int]:
    """(adjacent blocks of a row, rows, bytes from row to row) of an operand's first register."""
    run, outer = _runs(operand)
    row, size = vector.row_elements(widest_bytes), element_bytes(operand)
    whole = row * vector.sublanes
    blocks = ceil_div(min(run, whole) * size, space.bank_bytes)
    far = [(n, s) for n, s in zip(operand.ext[:outer], operand.stride[:outer]) if n > 1]
    if not far or run >= whole:
        return blocks, 1, 0
    count, stride = far[-1]
    return blocks, min(count, max(1, vector.sublanes // ceil_div(run, row))), stride


def _runs(operand: Operand) -> tuple[int, int]:
    """(elements of a contiguous run, dimensions outside of it)."""
    run, outer = 1, len(operand.ext)
    while outer and (operand.ext[outer - 1] == 1 or operand.stride[outer - 1] == run * element_bytes(operand)):
        outer -= 1
        run *= operand.ext[outer]
    return run, outer


def _copy(job: Job, op: int, operands: list[Operand | None], params: Params) -> None:
    """A copy or tile load: its memory side decides its bytes, else its source."""
    d, a = operands[0], _given(operands[1])
    job.write = d is not None and d.space == DRAM
    far = _given(d) if job.write else a
    gather = BY_CODE[op].name == "cpg" and not job.write
    size = prod(_given(d).ext if gather else far.ext) * element_bytes(far)
    to = SPACES.index("wfifo") if d is None else d.space
    job.path, job.size_bytes = int(params.path_of[a.space, to]), size
    path = params.machine.core.paths[job.path]
    job.occupy, job.latency = pipelined_cycles(size, path.bytes_per_cycle, 0), path.latency_cycles
    if DRAM not in (far.space, a.space):
        job.tile = d is None
        if job.tile:
            job.occupy = max(job.occupy, load_cycles(params.machine.core.matrix))
        else:
            job.occupy += params.machine.core.dma[path.pipe].startup_cycles
        return
    if d is None:
        limit = params.machine.core.matrix.weight_request_bytes
    else:
        limit = params.machine.core.dma[path.pipe].request_bytes
    stretches = _rows(far, _given(d).ext[0], size) if gather else _stretches(far)
    job.requests = deque(piece for start, length in stretches for piece in _cut(start, length, limit))


def _rows(table: Operand, rows: int, size: int) -> Iterator[tuple[int, int]]:
    for i in range(rows):
        yield table.base + i * GATHER_SPREAD % table.ext[0] * table.stride[0], size // rows


def _stretches(operand: Operand) -> Iterator[tuple[int, int]]:
    """Contiguous byte ranges of an operand in index order."""
    run, outer = _runs(operand)
    for index in product(*(range(n) for n in operand.ext[:outer])):
        yield operand.base + sum(i * s for i, s in zip(index, operand.stride)), run * element_bytes(operand)


def _cut(start: int, length: int, limit: int) -> Iterator[tuple[int, int]]:
    """Requests that do not cross a multiple of `limit`."""
    end = start + length
    while start < end:
        stop = min(end, (start // limit + 1) * limit)
        yield start, stop - start
        start = stop
