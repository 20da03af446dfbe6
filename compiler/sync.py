"""Synchronisation insertion: from who writes and reads each buffer to acquire / commit / wait / release points.

For a buffer with one writing stage and some reading stages, every slot has a `full` flag a reading stage and one
`free` flag. The writer waits for `free` (acquire), works, and sets `full` (commit); a reader waits for `full`, works,
and sets `free` (release). Where in the loop nest each of these stands follows from the buffer's level: an epoch is one
iteration of the loops above it. Interlocked machines need none of it, only the slot counters advance.

On machines with queues it is the pipes that wait, each for one other pipe: every pair of pipes of different stages that
touch a buffer, one of them writing, has a flag a slot, which one pipe sets and the other waits for.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass

from compiler.nest import Buffer, Nest, Placed, Ref, Stage, Stmt, SubLoop, statements
from isa.errors import CompileError
from isa.params import PATH_DMA, WEIGHTS_PORT, Params
from isa.program import SPACE_ID
from isa.table import BY_NAME, DMA, DRAIN, SCALAR, VECTOR

PipeId = tuple[int, int]  # class, unit


@dataclass(frozen=True)
class Wait:
    """Hold `pipe` (None: the sequencer) until flag `flag` + slot of `buffer` counts `count`."""

    buffer: str
    flag: int
    count: int
    pipe: PipeId | None = None


@dataclass(frozen=True)
class Set:
    """Let each of `pipes` add one to flag `flag` + slot of `buffer` when it has done its work so far."""

    buffer: str
    flag: int
    pipes: tuple[PipeId, ...]


@dataclass(frozen=True)
class Advance:
    """Go on to the next slot of `buffer` in this stage."""

    buffer: str


@dataclass(frozen=True)
class Item:
    """One step of a stage: what, and under which loop condition (level, pre or post)."""

    body: Stmt | SubLoop | Wait | Set | Advance
    level: int
    when: str


@dataclass(frozen=True)
class Credit:
    """Flags of a buffer's free slots: `setter` gives `count` a slot at the start, `waiter` takes them at the end."""

    flag: int
    slots: int
    count: int
    setter: PipeId = (SCALAR, 0)
    waiter: PipeId | None = None


@dataclass(frozen=True)
class SyncPlan:
    """The stages with synchronisation in them, and the flags that do not start at zero."""

    stages: tuple[tuple[Item, ...], ...]
    credits: tuple[Credit, ...]
    flags_used: int


def pipe_of(stmt: Stmt, nest: Nest, params: Params) -> PipeId:
    """The pipe (class, unit) that executes a statement on this machine; raises CompileError for an illegal path."""
    op = BY_NAME[stmt.op]
    if op.pipe == DMA or (op.pipe == DRAIN and params.machine.drain_engine is not None):
        assert stmt.dst is not None and stmt.srcs[0] is not None
        src, dst = space_of(stmt.srcs[0], nest), space_of(stmt.dst, nest)
        row = int(params.path_of[SPACE_ID[src], SPACE_ID[dst]])
        if row < 0 or params.paths[row][PATH_DMA] == WEIGHTS_PORT:
            raise CompileError(f"{nest.name}: the machine has no path {src} -> {dst} for a copy")
        return DMA + int(params.paths[row][PATH_DMA]), stmt.unit
    have = {p.pipe_class for p in params.pipes}
    if op.pipe not in have:
        if VECTOR not in have:
            raise CompileError(f"{nest.name}: the machine has no unit for {stmt.op}")
        return VECTOR, 0
    return op.pipe, stmt.unit


def space_of(ref: Ref, nest: Nest) -> str:
    """The memory space of a reference."""
    buffer = nest.buffer(ref.base)
    if buffer is not None:
        return buffer.space
    return next(t.space for t in nest.tensors if t.name == ref.base)


def plan(nest: Nest, params: Params) -> SyncPlan:
    """Derive slot counters, and on machines without interlock all flags, for a nest."""
    insert = _insert if params["vliw"] else _insert_queued if params["queues"] else None
    stages: list[list[Item]] = [[Item(p.body, p.level, p.when) for p in s.placed] for s in nest.stages]
    next_flag = 0
    credits: list[Credit] = []
    for buffer in nest.buffers:
        users = [i for i, s in enumerate(nest.stages) if _touches(s.placed, buffer.name)]
        if not users:
            continue
        writers = [i for i in users if _touches(nest.stages[i].placed, buffer.name, writes=True)]
        if not writers or writers[0] != users[0]:
            raise CompileError(f"{nest.name}: buffer {buffer.name} is read before it is written")
        if insert is not None:
            next_flag = insert(nest, params, buffer, users, stages, next_flag, credits)
        if buffer.slots > 1:
            for i in users:
                stages[i].append(Item(Advance(buffer.name), buffer.level, "post"))
    if next_flag > params["flags"]:
        raise CompileError(f"{nest.name}: needs {next_flag} flags, the machine has {params['flags']}")
    return SyncPlan(tuple(tuple(s) for s in stages), tuple(credits), next_flag)


def _insert(nest: Nest, params: Params, buffer: Buffer, users: list[int],
            stages: list[list[Item]], flag: int, credits: list[Credit]) -> int:
    """Insert the four points for one buffer; returns the next unused flag."""
    writer, *readers = users
    if not readers:
        return flag
    free = flag
    flag += buffer.slots
    write_pipes = _pipes(nest.stages[writer], buffer.name, nest, params)
    credit = 0
    for reader in readers:
        full = flag
        flag += buffer.slots
        read_pipes = _pipes(nest.stages[reader], buffer.name, nest, params)
        credit += len(read_pipes)
        _around(stages[reader], buffer, Wait(buffer.name, full, len(write_pipes)), Set(buffer.name, free, read_pipes))
        _around(stages[writer], buffer, None, Set(buffer.name, full, write_pipes))
    _around(stages[writer], buffer, Wait(buffer.name, free, credit), None)
    credits.append(Credit(free, buffer.slots, credit))
    return flag


def _insert_queued(nest: Nest, params: Params, buffer: Buffer, users: list[int],
                   stages: list[list[Item]], flag: int, credits: list[Credit]) -> int:
    """Insert the waits and sets of every two pipes that meet at one buffer; returns the next unused flag.

    Who comes later in an epoch, by stage and in a stage by its first use, waits for who came before; the first, which
    fills the slot anew, for all others.
    """
    def touches(pipe: PipeId) -> Callable[[Stmt], bool]:
        return lambda stmt: _uses(stmt, buffer.name) and pipe_of(stmt, nest, params) == pipe

    def writes(stage: int, pipe: PipeId) -> bool:
        found = [s for p in nest.stages[stage].placed for s in statements(p.body) if touches(pipe)(s)]
        return any(s.dst is not None and s.dst.base == buffer.name for s in found)

    uses = [(stage, pipe) for stage in users for pipe in _pipes(nest.stages[stage], buffer.name, nest, params)]
    written = [writes(*use) for use in uses]
    pairs = [(i, j) for j in range(len(uses)) for i in range(j) if written[i] or written[j]]
    for earlier, later in [*pairs, *((j, 0) for j in range(1, len(uses)))]:
        (before, setter), (behind, waiter) = uses[earlier], uses[later]
        if setter == waiter:
            continue
        _around(stages[behind], buffer, Wait(buffer.name, flag, 1, waiter), None, touches(waiter))
        _around(stages[before], buffer, None, Set(buffer.name, flag, (setter,)), touches(setter))
        if later == 0:
            credits.append(Credit(flag, buffer.slots, 1, setter, waiter))
        flag += buffer.slots
    return flag


def _around(items: list[Item], buffer: Buffer, before: Wait | None, after: Set | None,
            chosen: Callable[[Stmt], bool] | None = None) -> None:
    """Put `before` ahead of the first and `after` behind the last item that touches the buffer (and is `chosen`)."""
    def meant(stmt: Stmt) -> bool:
        return chosen(stmt) if chosen is not None else _uses(stmt, buffer.name)

    touching = [i for i, x in enumerate(items)
                if isinstance(x.body, (Stmt, SubLoop)) and any(meant(s) for s in statements(x.body))]
    spots = {(items[i].level, items[i].when) for i in touching}
    level = buffer.level
    pre = any(spot != (level, "post") for spot in spots)
    post = any(spot != (level, "pre") for spot in spots)
    if after is not None:
        items.insert(touching[-1] + 1, Item(after, level, "post" if post else "pre"))
    if before is not None:
        items.insert(touching[0], Item(before, level, "pre" if pre else "post"))


def _pipes(stage: Stage, name: str, nest: Nest, params: Params) -> tuple[PipeId, ...]:
    found: dict[PipeId, None] = {}
    for placed in stage.placed:
        for stmt in statements(placed.body):
            if _uses(stmt, name):
                found[pipe_of(stmt, nest, params)] = None
    return tuple(found)


def _touches(placed: Iterable[Placed], name: str, writes: bool = False) -> bool:
    return any(_uses(p.body, name, writes) for p in placed)


def _uses(body: Stmt | SubLoop, name: str, writes: bool = False) -> bool:
    for stmt in statements(body):
        if stmt.dst is not None and stmt.dst.base == name:
            return True
        if not writes and any(s is not None and s.base == name for s in stmt.srcs):
            return True
    return False
