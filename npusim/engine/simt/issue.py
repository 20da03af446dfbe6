"""A sub-core: which of its warps issues, and what the instruction sets going."""

from __future__ import annotations

from typing import Any

import numpy.typing as npt

from isa.table_simt import FMA
from npusim.engine.simt.blocks import arrive, end_warp, note
from npusim.engine.simt.coalesce import bank_cycles, coalesce
from npusim.engine.simt.layout import (
    A_AGE,
    A_DATA,
    A_GROUP,
    A_KIND,
    A_LEFT,
    A_NEXT,
    A_PC,
    A_PIECES,
    A_SUB,
    A_TAKEN,
    A_WARP,
    AT_BARRIER,
    AT_FENCE,
    AT_GROUPS,
    BARRIER_WAIT,
    BRANCHING,
    C_FREE_ACCESS,
    C_HEAD,
    C_IDLE_FROM,
    C_LENGTH,
    C_UNIT,
    DEPENDENCY,
    FAR,
    FAULT,
    FENCE_WAIT,
    GROUPS,
    IDLE,
    K_ATOMICS,
    LONG,
    LSU_FULL,
    NONE,
    NOT_SELECTED,
    O_FAULT,
    O_FAULT_PC,
    O_FAULT_WARP,
    OK,
    P_BANK_BYTES,
    P_BANKS,
    P_BRANCH,
    P_COLUMNS,
    P_CORE_WARPS,
    P_GRID,
    P_GTO,
    P_LINE,
    P_QUEUE,
    P_SCHEDULERS,
    P_SECTOR,
    PIPE_BUSY,
    PIPES,
    RUNNING,
    S_DUE,
    S_ISSUED,
    S_LAST,
    S_PIPES,
    S_QUEUED,
    SELECTED,
    SHORT,
    UNKNOWN,
    X_AGE,
    X_AT,
    X_CAUSE,
    X_COMMITTED,
    X_COMPLETE,
    X_COPIES,
    X_DEP,
    X_DEP_CAUSE,
    X_PLACE,
    X_READY,
    X_READY_CAUSE,
    X_SINCE,
    X_STATE,
    X_THERE,
    X_WANTED,
    X_WRITES,
)
from npusim.engine.simt.scoreboard import deliver, find_dependency
from npusim.engine.simt.unit import groups_there, ones, settle_groups
from npusim.jit import inlined, kernel
from npusim.units.warps.access import addresses
from npusim.units.warps.execute import execute
from npusim.units.warps.flow import branch, converge, guard, leave, scalar_step
from npusim.units.warps.layout import (
    ASYNC_COPY,
    BARRIER,
    BRANCH,
    COMMIT,
    CROSS,
    EXIT,
    FENCE,
    GLOBAL_ATOMIC,
    GLOBAL_LOAD,
    GLOBAL_STORE,
    I_BYTES,
    I_COUNT,
    I_DST,
    I_IMM,
    I_KIND,
    I_PIPE,
    MATRIX_LOAD,
    PART_OF_WARP,
    SCALAR_OP,
    SHARED_ATOMIC,
    T_MASK,
    W_ACTIVE,
    W_DEPTH,
    W_EXITED,
    W_PC,
    WAIT_GROUPS,
)

Array = npt.NDArray[Any]
CONTROL_PIPE = 7


@inlined
def queued(kind):
    """True for what goes through the load/store unit's queue."""
    return (kind >= GLOBAL_LOAD and kind <= ASYNC_COPY) or kind == MATRIX_LOAD


@inlined
def crowded(params, timing, subs, cores, c, sub, w, kind):
    """True when there is no room for a memory instruction, or for another group of copies."""
    if queued(kind):
        return subs[sub, S_QUEUED] >= params[P_QUEUE] or cores[c, C_FREE_ACCESS] == NONE
    return kind == COMMIT and timing[w, X_COMMITTED] - timing[w, X_COMPLETE] >= GROUPS - 1


@kernel
def held_until(
    params: Array, code: Array, warps: Array, timing: Array, subs: Array, cores: Array, c: int, sub: int, w: int,
    cycle: int,
) -> tuple[int, int]:  # fmt: skip
    """(cycle, cause): why a warp cannot issue at `cycle`, and until when that is so (FAR if only an event can tell);
    `cycle` itself when it can."""
    pc = warps[w, W_PC]
    if timing[w, X_READY] > cycle:
        return timing[w, X_READY], timing[w, X_READY_CAUSE]
    if timing[w, X_DEP] > cycle:
        return timing[w, X_DEP], timing[w, X_DEP_CAUSE]
    free = subs[sub, S_PIPES + code[pc, I_PIPE] - FMA]
    if free > cycle:
        return free, PIPE_BUSY
    kind = code[pc, I_KIND]
    if kind >= GLOBAL_LOAD and crowded(params, timing, subs, cores, c, sub, w, kind):
        return FAR, LSU_FULL
    return cycle, NOT_SELECTED


@kernel
def choose(
    params: Array, code: Array, warps: Array, timing: Array, subs: Array, cores: Array, stalls: Array, c: int, s: int,
    cycle: int,
) -> tuple[int, int]:  # fmt: skip
    """The warp that sub-core `s` issues at `cycle` (-1: none), and when another could."""
    schedulers, base = params[P_SCHEDULERS], c * params[P_CORE_WARPS]
    sub = c * schedulers + s
    last, found, soonest = subs[sub, S_LAST], -1, FAR
    best = 0
    for local in range(s, params[P_CORE_WARPS], schedulers):
        w = base + local
        state = timing[w, X_STATE]
        if state != RUNNING:
            if state != IDLE:
                cause = BARRIER_WAIT if state == AT_BARRIER else FENCE_WAIT if state == AT_FENCE else LONG
                note(timing, stalls, w, timing[w, X_PLACE], cause, cycle)
            continue
        pc = warps[w, W_PC]
        when, cause = held_until(params, code, warps, timing, subs, cores, c, sub, w, cycle)
        if when > cycle:
            at_wait = timing[w, X_READY] > cycle and timing[w, X_PLACE] != NONE
            note(timing, stalls, w, timing[w, X_PLACE] if at_wait else pc, cause, cycle)
            soonest = min(soonest, when)
            continue
        note(timing, stalls, w, pc, NOT_SELECTED, cycle)
        soonest = min(soonest, cycle + 1)
        if params[P_GTO]:
            rank = -1 if w == last else timing[w, X_AGE]
        else:
            rank = (w - last - 1) % params[P_CORE_WARPS]
        if found < 0 or rank < best:
            found, best = w, rank
    return found, soonest


@kernel
def sub_step(
    params: Array, code: Array, cost: Array, uses: Array, warps: Array, stack: Array, loops: Array, regs: Array,
    scalars: Array, preds: Array, shared: Array, work: Array, memory: Array, timing: Array, ready: Array, by: Array,
    subs: Array, cores: Array, queue: Array, slots: Array, accesses: Array, pieces: Array, args: Array, other: Array,
    counters: Array, stalls: Array, issues: Array, scratch: Array, c: int, s: int, cycle: int,
) -> int:  # fmt: skip
    """Let a sub-core issue at most one instruction at `cycle`, and find when it acts next; returns OK or FAULT."""
    sub = c * params[P_SCHEDULERS] + s
    w, soonest = choose(params, code, warps, timing, subs, cores, stalls, c, s, cycle)
    subs[sub, S_DUE] = soonest
    if w < 0:
        return OK
    pc = warps[w, W_PC]
    if timing[w, X_CAUSE] != UNKNOWN:
        stalls[timing[w, X_AT], timing[w, X_CAUSE]] += cycle - timing[w, X_SINCE]
    stalls[pc, SELECTED] += 1
    timing[w, X_CAUSE], timing[w, X_SINCE] = UNKNOWN, cycle + 1
    subs[sub, S_DUE] = cycle + 1
    subs[sub, S_LAST] = w
    subs[sub, S_ISSUED] += 1
    pipe = code[pc, I_PIPE] - FMA
    subs[sub, S_PIPES + pipe] = cycle + cost[pc, 0]
    subs[sub, S_PIPES + PIPES + pipe] += cost[pc, 0]
    timing[w, X_READY], timing[w, X_READY_CAUSE], timing[w, X_PLACE] = cycle + 1, DEPENDENCY, NONE
    lanes = guard(code, pc, warps, preds, w)
    issues[pc, 0] += 1
    issues[pc, 1] += ones(lanes)
    kind = code[pc, I_KIND]
    if kind == SCALAR_OP or kind == BRANCH or kind == EXIT:
        status = _control(
            params, code, cost, uses, warps, stack, loops, regs, scalars, preds, shared, timing, ready, by, subs,
            cores, slots, args, other, stalls, c, w, pc, kind, cycle,
        )  # fmt: skip
    else:
        status = _act(
            params, code, cost, warps, stack, regs, scalars, preds, shared, work, memory, timing, ready, by, subs,
            cores, queue, slots, accesses, pieces, other, counters, stalls, scratch, c, sub, w, pc, kind, lanes, cycle,
        )  # fmt: skip
        warps[w, W_PC] = pc + 1
        converge(warps, stack, w)
    if status != OK:
        other[O_FAULT], other[O_FAULT_WARP], other[O_FAULT_PC] = status, w, pc
        return FAULT
    if timing[w, X_STATE] != IDLE:
        find_dependency(uses, warps, timing, ready, by, w)
    return OK


@kernel
def _control(
    params: Array, code: Array, cost: Array, uses: Array, warps: Array, stack: Array, loops: Array, regs: Array,
    scalars: Array, preds: Array, shared: Array, timing: Array, ready: Array, by: Array, subs: Array, cores: Array,
    slots: Array, args: Array, other: Array, stalls: Array, c: int, w: int, pc: int, kind: int, cycle: int,
) -> int:  # fmt: skip
    """Scalar instructions, branches and exits: what decides where the warp goes on."""
    jumped = kind != SCALAR_OP
    if kind == SCALAR_OP:
        following = scalar_step(code, pc, warps, loops, scalars, params[P_GRID], params[P_COLUMNS], w)
        if following < 0:
            return int(-following)
        jumped = following != pc + 1
        warps[w, W_PC] = following
        if code[pc, I_DST] >= 0:
            deliver(ready, by, w, 256 + code[pc, I_DST], 1, cycle + cost[pc, 1], DEPENDENCY)
        converge(warps, stack, w)
    elif kind == BRANCH:
        status = branch(code, pc, warps, stack, preds, w)
        if status != OK:
            return status
        converge(warps, stack, w)
    else:
        leave(code, pc, warps, preds, w)
        converge(warps, stack, w)
        if warps[w, W_ACTIVE] == 0:
            end_warp(
                params, uses, warps, regs, scalars, preds, shared, timing, ready, by, subs, cores, slots, args, other,
                stalls, c, w, cycle,
            )  # fmt: skip
            return OK
    if jumped:
        timing[w, X_READY], timing[w, X_READY_CAUSE] = cycle + params[P_BRANCH], BRANCHING
    return OK


@kernel
def _act(
    params: Array, code: Array, cost: Array, warps: Array, stack: Array, regs: Array, scalars: Array, preds: Array,
    shared: Array, work: Array, memory: Array, timing: Array, ready: Array, by: Array, subs: Array, cores: Array,
    queue: Array, slots: Array, accesses: Array, pieces: Array, other: Array, counters: Array, stalls: Array,
    scratch: Array, c: int, sub: int, w: int, pc: int, kind: int, lanes: int, cycle: int,
) -> int:  # fmt: skip
    """Instructions of lanes, memory and synchronisation; returns OK or what an executor refused."""
    if kind == BARRIER:
        whole = stack[w, 0, T_MASK] & ~warps[w, W_EXITED] if warps[w, W_DEPTH] else warps[w, W_ACTIVE]
        if warps[w, W_ACTIVE] != whole:
            return PART_OF_WARP
        timing[w, X_PLACE] = pc
        arrive(params, warps, timing, subs, cores, slots, stalls, c, w, code[pc, I_IMM], cycle)
        return OK
    if kind == FENCE:
        if timing[w, X_WRITES] > 0:
            timing[w, X_STATE], timing[w, X_PLACE] = AT_FENCE, pc
        return OK
    if kind == COMMIT:
        timing[w, X_COMMITTED] += 1
        timing[w, X_COPIES + timing[w, X_COMMITTED] % GROUPS] = timing[w, X_THERE + timing[w, X_COMMITTED] % GROUPS] = 0
        settle_groups(timing, w)
        return OK
    if kind == WAIT_GROUPS:
        timing[w, X_WANTED], timing[w, X_PLACE] = code[pc, I_IMM], pc
        if timing[w, X_COMMITTED] - timing[w, X_COMPLETE] > code[pc, I_IMM]:
            timing[w, X_STATE] = AT_GROUPS
        else:
            timing[w, X_READY], timing[w, X_READY_CAUSE] = max(cycle + 1, groups_there(timing, w)), LONG
        return OK
    if lanes == 0:
        return OK
    if queued(kind):
        _enqueue(
            params, code, warps, regs, scalars, timing, ready, by, subs, cores, queue, accesses, pieces, counters,
            scratch, c, sub, w, pc, kind, lanes, cycle,
        )  # fmt: skip
    elif code[pc, I_DST] >= 0:
        cause = SHORT if kind == CROSS else DEPENDENCY
        deliver(ready, by, w, cost[pc, 2], max(1, code[pc, I_COUNT]), cycle + cost[pc, 1], cause)
    if cost[pc, 3] == 0:
        return OK
    return int(execute(code, pc, w, lanes, warps, regs, scalars, preds, shared, memory, work))


@kernel
def _enqueue(
    params: Array, code: Array, warps: Array, regs: Array, scalars: Array, timing: Array, ready: Array, by: Array,
    subs: Array, cores: Array, queue: Array, accesses: Array, pieces: Array, counters: Array, scratch: Array, c: int,
    sub: int, w: int, pc: int, kind: int, lanes: int, cycle: int,
) -> None:  # fmt: skip
    """Put a memory instruction into the queue of the load/store unit, cut into pieces."""
    a = cores[c, C_FREE_ACCESS]
    cores[c, C_FREE_ACCESS] = accesses[a, A_NEXT]
    addresses(code, pc, w, lanes, regs, scalars, scratch)
    size = code[pc, I_BYTES]
    if kind == GLOBAL_LOAD or kind == GLOBAL_STORE or kind == GLOBAL_ATOMIC or kind == ASYNC_COPY:
        count = coalesce(scratch, lanes, size, params[P_LINE], params[P_SECTOR], pieces[a])
    else:
        same = 1 if kind == SHARED_ATOMIC else 0
        rows = lanes & ((1 << 8 * code[pc, I_COUNT]) - 1) if kind == MATRIX_LOAD else lanes  # one row a lane
        count = 1
        pieces[a, 0, 0] = bank_cycles(
            scratch, rows, size, params[P_BANKS], params[P_BANK_BYTES], same, scratch[64:]
        )
    if kind == GLOBAL_STORE or (kind == GLOBAL_ATOMIC and code[pc, I_DST] < 0):
        for i in range(count):
            timing[w, X_WRITES] += ones(pieces[a, i, 1])
    if kind == GLOBAL_ATOMIC or kind == SHARED_ATOMIC:
        counters[K_ATOMICS] += ones(lanes)
    accesses[a, A_WARP], accesses[a, A_PC], accesses[a, A_KIND] = w, pc, kind
    accesses[a, A_PIECES], accesses[a, A_TAKEN], accesses[a, A_LEFT], accesses[a, A_DATA] = count, 0, 0, 0
    accesses[a, A_SUB], accesses[a, A_AGE] = sub, timing[w, X_AGE]
    if kind == ASYNC_COPY:
        group = timing[w, X_COMMITTED]
        accesses[a, A_GROUP] = group
        timing[w, X_COPIES + group % GROUPS] += 1
    elif code[pc, I_DST] >= 0:
        cause = LONG if kind == GLOBAL_LOAD or kind == GLOBAL_ATOMIC else SHORT
        deliver(ready, by, w, code[pc, I_DST], max(1, code[pc, I_COUNT]), FAR, cause)
    subs[sub, S_QUEUED] += 1
    tail = (cores[c, C_HEAD] + cores[c, C_LENGTH]) % queue.shape[1]
    queue[c, tail] = a
    cores[c, C_LENGTH] += 1
    if cores[c, C_LENGTH] == 1:
        cores[c, C_UNIT] = max(cycle, cores[c, C_IDLE_FROM])
