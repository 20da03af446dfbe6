"""A window of the engine of threads: answers, sub-cores and load/store units in the order of their cycles."""

from __future__ import annotations

from typing import Any

import numpy.typing as npt

from npusim.engine.simt.issue import sub_step
from npusim.engine.simt.layout import (
    A_DATA,
    A_LEFT,
    A_PIECES,
    A_TAKEN,
    C_DUE,
    C_IN_FREE,
    C_LOADS,
    C_STORES,
    C_UNIT,
    DONE,
    F_ADDRESS,
    F_AGE,
    F_BYTES,
    F_CORE,
    F_KIND,
    F_NEXT,
    F_OWNER,
    FAR,
    FILL,
    FULL,
    N_ACCESS,
    O_DONE,
    O_FREE_FLIGHT,
    O_FREE_TARGET,
    O_LAST,
    O_NOW,
    OK,
    P_CORES,
    P_F,
    P_GRID,
    P_LINE,
    P_PORT_RATE,
    P_Q,
    P_R,
    P_RETURN,
    P_RUNS,
    P_SCHEDULERS,
    P_SECTOR,
    S_DUE,
    WRITE,
)
from npusim.engine.simt.unit import complete, unblock, unit_step, written
from npusim.jit import kernel
from npusim.memory.caches.mshr import T_NEXT, mshr_next
from npusim.memory.generator.l1 import l1_arrive, l1_settle, sectors_of
from npusim.memory.port import HEAP_SIZE, RSP_TAG, RSP_TIME_FS, heap_pop, ring_free

Array = npt.NDArray[Any]


@kernel
def advance_threads(
    params: Array, code: Array, cost: Array, uses: Array, warps: Array, stack: Array, loops: Array, regs: Array,
    scalars: Array, preds: Array, shared: Array, work: Array, memory: Array, timing: Array, ready: Array, by: Array,
    subs: Array, cores: Array, queue: Array, slots: Array, accesses: Array, pieces: Array, flights: Array,
    targets: Array, pages: Array, args: Array, other: Array, counters: Array, stalls: Array, issues: Array,
    scratch: Array, geometry: Array, tags: Array, marks: Array, links: Array, sets: Array, seeds: Array,
    limits: Array, entries: Array, heads: Array, requests: Array, ring: Array, responses: Array, heap: Array,
    until: int,
) -> int:  # fmt: skip
    """Do all that is due before core cycle `until`; returns OK, DONE when the grid has ended and nothing is in flight,
    FULL when the ring may have no room for the requests of a cycle, FAULT when an executor refused an instruction."""
    answer = answer_cycle(params, responses, heap, other[O_NOW])
    while True:
        due = FAR
        for c in range(params[P_CORES]):
            due = min(due, cores[c, C_DUE])
        now = min(due, answer)
        if now >= until:
            return OK if other[O_DONE] < params[P_GRID] or in_flight(params, cores) else DONE
        if ring_free(requests, ring) < params[P_CORES] * params[P_RUNS]:
            return FULL
        other[O_NOW] = now
        while answer <= now:
            _answer(
                params, code, uses, warps, timing, ready, by, subs, cores, accesses, flights, targets, other,
                geometry, tags, marks, links, sets, seeds, entries, heads, responses[0, RSP_TAG], now,
            )  # fmt: skip
            heap_pop(responses, heap)
            answer = answer_cycle(params, responses, heap, now)
        for c in range(params[P_CORES]):
            if cores[c, C_DUE] > now:
                continue
            status = _core(
                params, code, cost, uses, warps, stack, loops, regs, scalars, preds, shared, work, memory, timing,
                ready, by, subs, cores, queue, slots, accesses, pieces, flights, targets, pages, args, other,
                counters, stalls, issues, scratch, geometry, tags, marks, links, sets, limits, entries, heads,
                requests, ring, c, now,
            )  # fmt: skip
            if status != OK:
                return status


@kernel
def _core(
    params: Array, code: Array, cost: Array, uses: Array, warps: Array, stack: Array, loops: Array, regs: Array,
    scalars: Array, preds: Array, shared: Array, work: Array, memory: Array, timing: Array, ready: Array, by: Array,
    subs: Array, cores: Array, queue: Array, slots: Array, accesses: Array, pieces: Array, flights: Array,
    targets: Array, pages: Array, args: Array, other: Array, counters: Array, stalls: Array, issues: Array,
    scratch: Array, geometry: Array, tags: Array, marks: Array, links: Array, sets: Array, limits: Array,
    entries: Array, heads: Array, requests: Array, ring: Array, c: int, now: int,
) -> int:  # fmt: skip
    """All that is due on core `c` at `now`: its sub-cores in turn, then its load/store unit."""
    first, count = c * params[P_SCHEDULERS], params[P_SCHEDULERS]
    for s in range(count):
        if subs[first + s, S_DUE] > now:
            continue
        status = sub_step(
            params, code, cost, uses, warps, stack, loops, regs, scalars, preds, shared, work, memory, timing, ready,
            by, subs, cores, queue, slots, accesses, pieces, args, other, counters, stalls, issues, scratch, c, s,
            now,
        )  # fmt: skip
        if status != OK:
            return status
    if cores[c, C_UNIT] <= now:
        unit_step(
            params, code, uses, warps, timing, ready, by, subs, cores, queue, accesses, pieces, flights, targets,
            pages, other, counters, geometry, tags, marks, links, sets, limits, entries, heads, requests, ring, c,
            now,
        )  # fmt: skip
    due = cores[c, C_UNIT]
    for s in range(count):
        due = min(due, subs[first + s, S_DUE])
    cores[c, C_DUE] = due
    return OK


@kernel
def in_flight(params: Array, cores: Array) -> bool:
    """Whether any request of a core has no answer yet."""
    for c in range(params[P_CORES]):
        if cores[c, C_LOADS] > 0 or cores[c, C_STORES] > 0 or cores[c, C_UNIT] < FAR:
            return True
    return False


@kernel
def answer_cycle(params: Array, responses: Array, heap: Array, now: int) -> int:
    """The core cycle in which the earliest answer is back, or FAR."""
    if heap[HEAP_SIZE] == 0:
        return FAR
    time_fs = responses[0, RSP_TIME_FS]
    q, r, f = params[P_Q], params[P_R], params[P_F]
    k = time_fs // (q + 1)  # at most the edge wanted; the remainder is small
    gap = time_fs - (k * q + (k * r) // f)
    while gap > 0:
        k += max(1, gap // (q + 1))
        gap = time_fs - (k * q + (k * r) // f)
    return int(max(now, k + params[P_RETURN]))


@kernel
def _answer(
    params: Array, code: Array, uses: Array, warps: Array, timing: Array, ready: Array, by: Array, subs: Array,
    cores: Array, accesses: Array, flights: Array, targets: Array, other: Array, geometry: Array, tags: Array,
    marks: Array, links: Array, sets: Array, seeds: Array, entries: Array, heads: Array, flight: int, cycle: int,
) -> None:  # fmt: skip
    """A request is answered: fill the L1, tell who waits, let the unit go on."""
    c, kind, owner = flights[flight, F_CORE], flights[flight, F_KIND], flights[flight, F_OWNER]
    address, size = flights[flight, F_ADDRESS], flights[flight, F_BYTES]
    flights[flight, F_NEXT] = other[O_FREE_FLIGHT]
    other[O_FREE_FLIGHT], other[O_LAST] = flight, cycle
    if kind == WRITE:
        sectors = size // params[P_SECTOR]
        cores[c, C_STORES] -= sectors
        written(params, timing, subs, cores, c, owner, flights[flight, F_AGE], sectors, cycle)
        unblock(cores, c, cycle)
        return
    if kind == FILL:
        cores[c, C_LOADS] -= 1
    else:
        cores[c, C_STORES] -= size // params[P_SECTOR]
    rate = params[P_PORT_RATE]
    there = max(cycle, cores[c, C_IN_FREE]) + (size + rate - 1) // rate
    cores[c, C_IN_FREE] = there
    if kind == FILL:
        line = address // params[P_LINE]
        mask = sectors_of(address - line * params[P_LINE], size, params[P_SECTOR])
        entry = l1_arrive(geometry, tags, marks, links, sets, seeds, entries, heads, c, line, mask)
        if entry >= 0:
            target = mshr_next(entries, targets, entry)
            while target:
                a = targets[target, N_ACCESS]
                targets[target, T_NEXT] = other[O_FREE_TARGET]
                other[O_FREE_TARGET] = target
                _piece_back(params, code, uses, warps, timing, ready, by, subs, cores, accesses, c, a, there - 1, cycle)
                target = mshr_next(entries, targets, entry)
            l1_settle(entries, heads, c, entry)
    else:
        _piece_back(params, code, uses, warps, timing, ready, by, subs, cores, accesses, c, owner, there - 1, cycle)
    unblock(cores, c, cycle)


@kernel
def _piece_back(
    params: Array, code: Array, uses: Array, warps: Array, timing: Array, ready: Array, by: Array, subs: Array,
    cores: Array, accesses: Array, c: int, a: int, there: int, cycle: int,
) -> None:  # fmt: skip
    """A piece of an access is there from cycle `there` on."""
    accesses[a, A_LEFT] -= 1
    accesses[a, A_DATA] = max(accesses[a, A_DATA], there)
    if accesses[a, A_LEFT] == 0 and accesses[a, A_TAKEN] == accesses[a, A_PIECES]:
        complete(params, code, uses, warps, timing, ready, by, subs, cores, accesses, c, a, cycle, cycle)
