"""Synchronisation insertion: from who writes and reads each buffer to acquire / commit / wait / release points.

For a buffer with one writing stage and some reading stages, every slot has a `full` flag a reading stage and one
`free` flag. The writer waits for `free` (acquire), works, and sets `full` (commit); a reader waits for `full`, works,
and sets `free` (release). Where in the loop nest each of these stands follows from the buffer's level: an epoch is one
iteration of the loops above it. Interlocked machines need none of it, only the slot counters advance.

On machines with queues it is the pipes that wait, each for one other pipe: every pair of pipes of different stages that
touch a buffer, one of them writing, has a flag a slot, which one pipe sets and the other waits for.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Hashable, Iterable
from dataclasses import dataclass

from compiler.nest import Buffer, Nest, Placed, Ref, Stage, Stmt, SubLoop, statements
from isa.errors import CapacityError, CompileError
from isa.params import PATH_DMA, WEIGHTS_PORT, Params
from isa.program import SPACE_ID
from isa.table import BY_NAME, DMA, DRAIN, SCALAR, VECTOR

PipeId = tuple[int, int]  # class, unit


@dataclass(frozen=True)
class Wait:
    """Hold `pipe` (None: the sequencer) until flag `flag` + slot of `buffer` counts `count`; the flag may be one that
    other cores signal (`crosses`)."""

    buffer: str
    flag: int
    count: int
    pipe: PipeId | None = None
    crosses: bool = False


@dataclass(frozen=True)
class Set:
    """Let each of `pipes` add one to flag `flag` + slot of `buffer` when it has done its work so far."""

    buffer: str
    flag: int
    pipes: tuple[PipeId, ...]


@dataclass(frozen=True)
class Signal:
    """Let `pipe` signal flag `flag` + slot of `buffer` of every core that it works with, after its work so far."""

    buffer: str
    flag: int
    pipe: PipeId


@dataclass(frozen=True)
class Advance:
    """Go on to the next slot of `buffers`, which share its number, in this stage."""

    buffers: tuple[str, ...]


@dataclass(frozen=True)
class Group:
    """Buffers that go through their slots together."""

    names: tuple[str, ...]
    level: int
    slots: int


@dataclass(frozen=True)
class Item:
    """One step of a stage: what, and under which loop condition (level, pre or post)."""

    body: Stmt | SubLoop | Wait | Set | Signal | Advance
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
class Channel:
    """A buffer between cores: whose slots `pipe` fills, or reads and gives free at the start."""

    buffer: Buffer
    pipe: PipeId
    fills: bool


@dataclass(frozen=True)
class SyncPlan:
    """The stages with synchronisation in them, and the flags that do not start at zero."""

    stages: tuple[tuple[Item, ...], ...]
    credits: tuple[Credit, ...]
    flags_used: int
    channels: tuple[Channel, ...] = ()


def partners(nest: Nest, params: Params) -> int:
    """Cores of the other kind that a core of a nest's kind works with."""
    return params.machine.vector_partners if nest.kind == 0 else 1


def pipe_of(stmt: Stmt, nest: Nest, params: Params) -> PipeId:
    """The pipe (class, unit) that executes a statement on this machine; raises CompileError for an illegal path."""
    op = BY_NAME[stmt.op]
    if op.pipe == DMA or (op.pipe == DRAIN and params["drain_engine"]):
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
    group_slots: dict[int, int] = {}
    channels: list[Channel] = []
    for group in _alike(nest, params):
        users = [i for i, s in enumerate(nest.stages) if _touches(s.placed, group.names[0])]
        buffer = next(b for b in nest.buffers if b.name == group.names[0])
        if buffer.channel >= 0:
            channels.append(_insert_channel(nest, params, buffer, group, stages[users[0]]))
        elif insert is not None:
            begin = next_flag
            next_flag = insert(nest, params, group, users, stages, next_flag, credits)
            group_slots |= dict.fromkeys(range(begin, next_flag), group.slots)
        if group.slots > 1:
            for i in users:
                stages[i].append(Item(Advance(group.names), group.level, "post"))
    _check_pairs(nest, params, stages, group_slots)
    if next_flag > params["flags"]:
        raise CompileError(f"{nest.name}: needs {next_flag} flags, the machine has {params['flags']}")
    return SyncPlan(tuple(tuple(s) for s in stages), tuple(credits), next_flag, tuple(channels))


def _insert_channel(nest: Nest, params: Params, buffer: Buffer, group: Group, items: list[Item]) -> Channel:
    """Let the one pipe that fills or reads a buffer between cores wait for the others, and signal them."""
    found = [s for x in items if isinstance(x.body, (Stmt, SubLoop)) for s in statements(x.body) if
             _uses(s, buffer.name)]  # fmt: skip
    pipe, fills = pipe_of(found[0], nest, params), _uses(found[0], buffer.name, writes=True)
    wait = Wait(buffer.name, buffer.channel, partners(nest, params), pipe, crosses=True)
    _around(items, group, _users(group.names), wait, Signal(buffer.name, buffer.channel, pipe))
    return Channel(buffer, pipe, fills)


def _check_pairs(nest: Nest, params: Params, stages: list[list[Item]], slots: dict[int, int]) -> None:
    """Raise CapacityError when one pipe waits for another by more flags than the hardware has for the two."""
    limit = params.machine.core.flags_per_pair
    bodies = [item.body for items in stages for item in items]
    waiter = {body.flag: body.pipe for body in bodies if isinstance(body, Wait) and not body.crosses}
    used: Counter[tuple[PipeId, PipeId | None]] = Counter()
    for body in bodies:
        if isinstance(body, Set):
            used[body.pipes[0], waiter[body.flag]] += slots[body.flag]
    for (setter, waits), count in used.items():
        if limit and count > limit:
            raise CapacityError(f"{nest.name}: {count} flags from pipe {setter} to {waits}; there are {limit}")


def _alike(nest: Nest, params: Params) -> list[Group]:
    """The buffers; with queues, in groups that share flags and slot numbers because the same pipes use them alike."""
    found: dict[Hashable, list[Buffer]] = {}
    for buffer in nest.buffers:
        users = [s for s in nest.stages if _touches(s.placed, buffer.name)]
        if not users:
            continue
        if buffer.channel < 0 and not _touches(users[0].placed, buffer.name, writes=True):
            raise CompileError(f"{nest.name}: buffer {buffer.name} is read before it is written")
        uses = tuple((s.name, *_uses_of(s, (buffer.name,), nest, params)) for s in nest.stages)
        alone = not params["queues"] or buffer.channel >= 0
        found.setdefault(buffer.name if alone else (buffer.level, buffer.slots, uses), []).append(buffer)
    return [Group(tuple(b.name for b in alike), alike[0].level, alike[0].slots) for alike in found.values()]


def _insert(nest: Nest, params: Params, group: Group, users: list[int],
            stages: list[list[Item]], flag: int, credits: list[Credit]) -> int:
    """Insert the four points for one buffer; returns the next unused flag."""
    writer, *readers = users
    if not readers:
        return flag
    name, free = group.names[0], flag
    flag += group.slots
    write_pipes = tuple(p for p, _ in _uses_of(nest.stages[writer], group.names, nest, params))
    credit = 0
    for reader in readers:
        full = flag
        flag += group.slots
        read_pipes = tuple(p for p, _ in _uses_of(nest.stages[reader], group.names, nest, params))
        credit += len(read_pipes)
        wait, release = Wait(name, full, len(write_pipes)), Set(name, free, read_pipes)
        _around(stages[reader], group, _users(group.names), wait, release)
        _around(stages[writer], group, _users(group.names), None, Set(name, full, write_pipes))
    _around(stages[writer], group, _users(group.names), Wait(name, free, credit), None)
    credits.append(Credit(free, group.slots, credit))
    return flag


def _insert_queued(nest: Nest, params: Params, group: Group, users: list[int],
                   stages: list[list[Item]], flag: int, credits: list[Credit]) -> int:
    """Insert the waits and sets of every two pipes that meet at a group's buffers; returns the next unused flag.

    Who comes later in an epoch, by stage and in a stage by its first use, waits for who came before; the first, which
    fills the slot anew, for the last. What follows from other waits is left out.
    """
    def touches(pipe: PipeId) -> Callable[[Stmt], bool]:
        return lambda stmt: _uses(stmt, *group.names) and pipe_of(stmt, nest, params) == pipe

    uses = [(i, *use) for i in users for use in _uses_of(nest.stages[i], group.names, nest, params)]
    count = len(uses)
    after = {(i, j) for j in range(count) for i in range(j) if uses[i][2] or uses[j][2]}
    kept = {(i, j) for i, j in after if not any((i, k) in after and (k, j) in after for k in range(i + 1, j))}
    last = {(j, 0) for j in range(1, count) if not any((j, k) in after for k in range(j + 1, count))}
    for earlier, later in [*sorted(kept), *sorted(last)]:
        (before, setter, _), (behind, waiter, _) = uses[earlier], uses[later]
        if setter == waiter:
            continue
        name = group.names[0]
        _around(stages[behind], group, touches(waiter), Wait(name, flag, 1, waiter), None)
        _around(stages[before], group, touches(setter), None, Set(name, flag, (setter,)))
        if later == 0:
            credits.append(Credit(flag, group.slots, 1, setter, waiter))
        flag += group.slots
    return flag


def _around(items: list[Item], group: Group, chosen: Callable[[Stmt], bool], before: Wait | None,
            after: Set | Signal | None) -> None:
    """Put `before` ahead of the first and `after` behind the last item with a chosen statement."""
    touching = [i for i, x in enumerate(items)
                if isinstance(x.body, (Stmt, SubLoop)) and any(chosen(s) for s in statements(x.body))]
    spots = {(items[i].level, items[i].when) for i in touching}
    level = group.level
    pre = any(spot != (level, "post") for spot in spots)
    post = any(spot != (level, "pre") for spot in spots)
    if after is not None:
        items.insert(touching[-1] + 1, Item(after, level, "post" if post else "pre"))
    if before is not None:
        items.insert(touching[0], Item(before, level, "pre" if pre else "post"))


def _users(names: tuple[str, ...]) -> Callable[[Stmt], bool]:
    return lambda stmt: _uses(stmt, *names)


def _uses_of(stage: Stage, names: tuple[str, ...], nest: Nest, params: Params) -> tuple[tuple[PipeId, bool], ...]:
    """The pipes of a stage that touch the buffers, by first use, and whether they write."""
    found: dict[PipeId, bool] = {}
    for placed in stage.placed:
        for stmt in statements(placed.body):
            if _uses(stmt, *names):
                pipe = pipe_of(stmt, nest, params)
                writes = stmt.dst is not None and stmt.dst.base in names
                found[pipe] = found.get(pipe, False) or writes
    return tuple(found.items())


def _touches(placed: Iterable[Placed], name: str, writes: bool = False) -> bool:
    return any(_uses(s, name, writes=writes) for p in placed for s in statements(p.body))


def _uses(stmt: Stmt, *names: str, writes: bool = False) -> bool:
    if stmt.dst is not None and stmt.dst.base in names:
        return True
    return not writes and any(s is not None and s.base in names for s in stmt.srcs)
