"""The load/store unit of a core: it takes memory instructions of its sub-cores in order, a piece at a time.

A piece is a line of global memory, to the L1 and the port, or all that an instruction wants of shared memory, which
takes the cycles that its banks need. What finds no room (misses in flight, stores without an answer) stops the unit
until an answer comes.
"""

from __future__ import annotations

from typing import Any

import numpy.typing as npt

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
    AT_FENCE,
    AT_GROUPS,
    C_BLOCKED,
    C_DUE,
    C_FREE_ACCESS,
    C_HEAD,
    C_IDLE_FROM,
    C_LENGTH,
    C_LOADS,
    C_STORES,
    C_UNIT,
    F_ADDRESS,
    F_AGE,
    F_BYTES,
    F_CORE,
    F_KIND,
    F_NEXT,
    F_OWNER,
    FAR,
    FILL,
    GROUPS,
    K_HITS,
    K_LOAD_SECTORS,
    K_MERGED,
    K_MISSES,
    K_PIECES,
    K_READ_BYTES,
    K_REQUESTS,
    K_SHARED_ACCESSES,
    K_SHARED_CYCLES,
    K_STALLS,
    K_STORE_SECTORS,
    LONG,
    N_ACCESS,
    NONE,
    O_FREE_FLIGHT,
    O_FREE_TARGET,
    O_LAST,
    P_CORE_WARPS,
    P_F,
    P_HIT,
    P_ISSUE,
    P_LINE,
    P_LOAD_RATE,
    P_PORT_RATE,
    P_Q,
    P_R,
    P_SCHEDULERS,
    P_SECTOR,
    P_SEND,
    P_SHARED_LATENCY,
    P_STORES,
    PASS,
    RUNNING,
    S_QUEUED,
    SHORT,
    WRITE,
    X_AGE,
    X_COMMITTED,
    X_COMPLETE,
    X_COPIED,
    X_COPIES,
    X_DEP,
    X_PLACE,
    X_READY,
    X_READY_CAUSE,
    X_STATE,
    X_THERE,
    X_WANTED,
    X_WRITES,
)
from npusim.engine.simt.scoreboard import deliver, find_dependency, is_far, wake
from npusim.jit import inlined, kernel
from npusim.memory.caches.mshr import T_NEED, T_NEXT
from npusim.memory.generator.l1 import HIT, MERGED, STALL, l1_load, l1_store
from npusim.memory.generator.physical import physical
from npusim.memory.port import ring_push
from npusim.units.warps.layout import (
    ASYNC_COPY,
    GLOBAL_ATOMIC,
    GLOBAL_LOAD,
    GLOBAL_STORE,
    I_COUNT,
    I_DST,
)

Array = npt.NDArray[Any]


@inlined
def ones(mask):
    """Number of bits set."""
    count = 0
    while mask:
        mask &= mask - 1
        count += 1
    return count


@kernel
def unit_step(
    params: Array, code: Array, uses: Array, warps: Array, timing: Array, ready: Array, by: Array, subs: Array,
    cores: Array, queue: Array, accesses: Array, pieces: Array, flights: Array, targets: Array, pages: Array,
    other: Array, counters: Array, geometry: Array, tags: Array, marks: Array, links: Array, sets: Array,
    limits: Array, entries: Array, heads: Array, requests: Array, ring: Array, c: int, cycle: int,
) -> None:  # fmt: skip
    """Take a piece of the access at the head of core `c`'s queue; one must be there."""
    a = queue[c, cores[c, C_HEAD]]
    kind, piece = accesses[a, A_KIND], accesses[a, A_TAKEN]
    busy = -1
    if kind == GLOBAL_LOAD or kind == ASYNC_COPY:
        busy = _load(
            params, cores, accesses, pieces, flights, targets, pages, other, counters, geometry, tags, marks, links,
            sets, limits, entries, heads, requests, ring, c, a, piece, cycle,
        )  # fmt: skip
    elif kind == GLOBAL_STORE:
        busy = _store(
            params, timing, cores, accesses, pieces, flights, pages, other, counters, geometry, tags, marks, links,
            sets, requests, ring, c, a, piece, cycle,
        )  # fmt: skip
    elif kind == GLOBAL_ATOMIC:
        busy = _atomic(
            params, code, timing, cores, accesses, pieces, flights, pages, other, counters, requests, ring, c, a,
            piece, cycle,
        )  # fmt: skip
    else:
        busy = pieces[a, piece, 0]
        counters[K_SHARED_ACCESSES] += 1
        counters[K_SHARED_CYCLES] += busy
        accesses[a, A_DATA] = cycle + busy - 1 + params[P_SHARED_LATENCY]
    if busy < 0:
        counters[K_STALLS] += 1
        cores[c, C_BLOCKED], cores[c, C_UNIT] = 1, FAR
        return
    counters[K_PIECES] += 1
    other[O_LAST] = cycle
    accesses[a, A_TAKEN] = piece + 1
    if piece + 1 == accesses[a, A_PIECES]:
        busy = max(busy, params[P_ISSUE])
        cores[c, C_HEAD] = (cores[c, C_HEAD] + 1) % queue.shape[1]
        cores[c, C_LENGTH] -= 1
        sub = accesses[a, A_SUB]
        subs[sub, S_QUEUED] -= 1
        wake(subs, cores, sub, c, cycle + 1)
        if accesses[a, A_LEFT] == 0:
            complete(params, code, uses, warps, timing, ready, by, subs, cores, accesses, c, a, cycle, cycle + 1)
    cores[c, C_UNIT] = cycle + busy if cores[c, C_LENGTH] > 0 else FAR
    if cores[c, C_LENGTH] == 0:
        cores[c, C_IDLE_FROM] = cycle + busy


@kernel
def complete(
    params: Array, code: Array, uses: Array, warps: Array, timing: Array, ready: Array, by: Array, subs: Array,
    cores: Array, accesses: Array, c: int, a: int, cycle: int, look: int,
) -> None:  # fmt: skip
    """All pieces of an access are done: hand its data to the warp, and give its row back.

    `look`: the cycle at which sub-cores see it, `cycle` before they had their turn in it, else the next.
    """
    w, pc, kind = accesses[a, A_WARP], accesses[a, A_PC], accesses[a, A_KIND]
    there = max(cycle + 1, accesses[a, A_DATA])
    sub = c * params[P_SCHEDULERS] + (w - c * params[P_CORE_WARPS]) % params[P_SCHEDULERS]
    if cores[c, C_FREE_ACCESS] == NONE:  # who waits for a free row
        for s in range(params[P_SCHEDULERS]):
            wake(subs, cores, c * params[P_SCHEDULERS] + s, c, look)
    accesses[a, A_NEXT], cores[c, C_FREE_ACCESS] = cores[c, C_FREE_ACCESS], a
    if accesses[a, A_AGE] != timing[w, X_AGE]:
        return  # the warp has ended, another is in its place
    if kind == ASYNC_COPY:
        group = accesses[a, A_GROUP] % GROUPS
        timing[w, X_THERE + group] = max(timing[w, X_THERE + group], there)
        timing[w, X_COPIES + group] -= 1
        settle_groups(timing, w)
        wake(subs, cores, sub, c, look)  # a commit that waits for fewer groups
        if timing[w, X_STATE] == AT_GROUPS and timing[w, X_COMMITTED] - timing[w, X_COMPLETE] <= timing[w, X_WANTED]:
            timing[w, X_STATE], timing[w, X_READY], timing[w, X_READY_CAUSE] = RUNNING, groups_there(timing, w), LONG
            wake(subs, cores, sub, c, timing[w, X_READY])
        return
    if code[pc, I_DST] < 0 or kind == GLOBAL_STORE:
        return
    cause = LONG if kind == GLOBAL_LOAD or kind == GLOBAL_ATOMIC else SHORT
    deliver(ready, by, w, code[pc, I_DST], max(1, code[pc, I_COUNT]), there, cause)
    if is_far(timing[w, X_DEP]):
        find_dependency(uses, warps, timing, ready, by, w)
        wake(subs, cores, sub, c, look)  # the cause may be another one now


@kernel
def settle_groups(timing: Array, w: int) -> None:
    """Groups of copies are complete in their order."""
    while timing[w, X_COMPLETE] < timing[w, X_COMMITTED] and timing[w, X_COPIES + timing[w, X_COMPLETE] % GROUPS] == 0:
        group = timing[w, X_COMPLETE] % GROUPS
        timing[w, X_COPIED] = timing[w, X_THERE + group] = max(timing[w, X_COPIED], timing[w, X_THERE + group])
        timing[w, X_COMPLETE] += 1


@inlined
def groups_there(timing, w):
    """When the data are there of all groups but the X_WANTED youngest, none of which may lack an answer."""
    youngest = timing[w, X_COMMITTED] - timing[w, X_WANTED] - 1
    if youngest < 0 or timing[w, X_WANTED] >= GROUPS - 1:
        return 0
    return timing[w, X_THERE + youngest % GROUPS]


@kernel
def written(
    params: Array, timing: Array, subs: Array, cores: Array, c: int, w: int, age: int, sectors: int, cycle: int
) -> None:
    """Sectors of a store of warp `w` are answered."""
    if age != timing[w, X_AGE]:
        return
    timing[w, X_WRITES] -= sectors
    if timing[w, X_WRITES] == 0 and timing[w, X_STATE] == AT_FENCE:
        timing[w, X_STATE], timing[w, X_PLACE], timing[w, X_READY] = RUNNING, NONE, cycle
        sub = c * params[P_SCHEDULERS] + (w - c * params[P_CORE_WARPS]) % params[P_SCHEDULERS]
        wake(subs, cores, sub, c, cycle)


@kernel
def _load(
    params: Array, cores: Array, accesses: Array, pieces: Array, flights: Array, targets: Array, pages: Array,
    other: Array, counters: Array, geometry: Array, tags: Array, marks: Array, links: Array, sets: Array,
    limits: Array, entries: Array, heads: Array, requests: Array, ring: Array, c: int, a: int, piece: int, cycle: int,
) -> int:  # fmt: skip
    """Look sectors of a line up, and ask for what is missing; the cycles taken, or -1 when there is no room."""
    line, wanted = pieces[a, piece, 0], pieces[a, piece, 1]
    target = other[O_FREE_TARGET]
    following = targets[target, T_NEXT]
    status, absent = l1_load(
        geometry, tags, marks, links, sets, limits, entries, heads, targets, c, line, wanted, target
    )
    if status == STALL:
        return -1
    sectors = ones(wanted)
    counters[K_LOAD_SECTORS] += sectors
    busy = max(1, sectors * params[P_SECTOR] // params[P_LOAD_RATE])
    if status == HIT:
        counters[K_HITS] += sectors
        accesses[a, A_DATA] = max(accesses[a, A_DATA], cycle + params[P_HIT])
        return int(busy)
    other[O_FREE_TARGET] = following
    targets[target, N_ACCESS] = a
    accesses[a, A_LEFT] += 1
    missing, asked = ones(targets[target, T_NEED]), ones(absent)
    counters[K_MISSES] += asked
    counters[K_MERGED] += missing - asked
    counters[K_HITS] += sectors - missing
    if missing < sectors:
        accesses[a, A_DATA] = max(accesses[a, A_DATA], cycle + params[P_HIT])
    if status == MERGED:
        return int(busy)
    cores[c, C_LOADS] += request(
        params, flights, pages, other, counters, requests, ring, cycle, c, FILL, a, 0, line, absent
    )
    return int(busy)


@kernel
def _take_stores(params: Array, cores: Array, counters: Array, c: int, touched: int) -> int:
    """Count sectors that are to be answered; the cycles that they take, or -1 when too many have no answer yet."""
    sectors = ones(touched)
    if cores[c, C_STORES] + sectors > params[P_STORES]:
        return -1
    counters[K_STORE_SECTORS] += sectors
    cores[c, C_STORES] += sectors
    return int(max(1, sectors * params[P_SECTOR] // params[P_PORT_RATE]))


@kernel
def _store(
    params: Array, timing: Array, cores: Array, accesses: Array, pieces: Array, flights: Array, pages: Array,
    other: Array, counters: Array, geometry: Array, tags: Array, marks: Array, links: Array, sets: Array,
    requests: Array, ring: Array, c: int, a: int, piece: int, cycle: int,
) -> int:  # fmt: skip
    """Send sectors of a line on their way; the cycles taken, or -1 when too many have no answer yet."""
    line, touched = pieces[a, piece, 0], pieces[a, piece, 1]
    cycles = _take_stores(params, cores, counters, c, touched)
    if cycles < 0:
        return -1
    l1_store(geometry, tags, marks, links, sets, c, line, touched)
    w, age = accesses[a, A_WARP], accesses[a, A_AGE]
    request(params, flights, pages, other, counters, requests, ring, cycle, c, WRITE, w, age, line, touched)
    return cycles


@kernel
def _atomic(
    params: Array, code: Array, timing: Array, cores: Array, accesses: Array, pieces: Array, flights: Array,
    pages: Array, other: Array, counters: Array, requests: Array, ring: Array, c: int, a: int, piece: int, cycle: int,
) -> int:  # fmt: skip
    """Send an atomic operation past the L1: a read if its old value is wanted, a write if not."""
    line, touched = pieces[a, piece, 0], pieces[a, piece, 1]
    cycles = _take_stores(params, cores, counters, c, touched)
    if cycles < 0:
        return -1
    if code[accesses[a, A_PC], I_DST] >= 0:
        accesses[a, A_LEFT] += request(
            params, flights, pages, other, counters, requests, ring, cycle, c, PASS, a, 0, line, touched
        )
    else:
        w, age = accesses[a, A_WARP], accesses[a, A_AGE]
        request(params, flights, pages, other, counters, requests, ring, cycle, c, WRITE, w, age, line, touched)
    return cycles


@kernel
def request(
    params: Array, flights: Array, pages: Array, other: Array, counters: Array, requests: Array, ring: Array,
    cycle: int, c: int, kind: int, owner: int, age: int, line: int, sectors: int,
) -> int:  # fmt: skip
    """Put requests for sectors of a line on the port, one for each run of them; returns how many."""
    count, first, sector = 0, 0, params[P_SECTOR]
    while sectors >> first:
        if (sectors >> first) & 1 == 0:
            first += 1
            continue
        end = first + 1
        while (sectors >> end) & 1:
            end += 1
        begin = line * params[P_LINE] + first * sector
        send(
            params, flights, pages, other, counters, requests, ring, cycle, c, kind, owner, age, begin,
            (end - first) * sector,
        )  # fmt: skip
        first = end
        count += 1
    return count


@kernel
def send(
    params: Array, flights: Array, pages: Array, other: Array, counters: Array, requests: Array, ring: Array,
    cycle: int, c: int, kind: int, owner: int, age: int, address: int, size_bytes: int,
) -> None:  # fmt: skip
    """Put a request of core `c` on the port; the caller has seen that there is room."""
    flight = other[O_FREE_FLIGHT]
    other[O_FREE_FLIGHT] = flights[flight, F_NEXT]
    flights[flight, F_CORE], flights[flight, F_KIND], flights[flight, F_OWNER] = c, kind, owner
    flights[flight, F_AGE], flights[flight, F_ADDRESS], flights[flight, F_BYTES] = age, address, size_bytes
    write = 1 if kind == WRITE else 0
    counters[K_READ_BYTES + write] += size_bytes
    counters[K_REQUESTS] += 1
    # Every request leaves the core as long after its cycle, so that they are in time order at the port.
    k = cycle + params[P_SEND]
    time_fs = k * params[P_Q] + (k * params[P_R]) // params[P_F]
    ring_push(requests, ring, time_fs, c, physical(pages, address), size_bytes, write, flight)


@inlined
def unblock(cores, c, cycle):
    """Let a unit that found no room try again."""
    if cores[c, C_BLOCKED]:
        cores[c, C_BLOCKED] = 0
        cores[c, C_UNIT] = cycle
        cores[c, C_DUE] = min(cores[c, C_DUE], cycle)
