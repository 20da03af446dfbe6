"""The load/store unit of a core: it takes accesses of warps, a line at a time, to the L1 and to the port.

The schedulers of a core have turns; each sends its waiting warps in the order in which they came, as a queue of memory
instructions does. So the warps of a core are equally fast, and blocks end in the order in which they began.

What finds no room (misses in flight, stores without an answer) stops the unit until an answer comes; then the unit
chooses anew.
"""

from __future__ import annotations

from typing import Any

import numpy.typing as npt

from npusim.jit import kernel
from npusim.memory.caches.mshr import T_NEXT
from npusim.memory.generator.events import event_push
from npusim.memory.generator.l1 import HIT, MERGED, STALL, l1_load, l1_store, sectors_of
from npusim.memory.generator.layout import (
    C_FREE,
    C_LOADS,
    C_STATE,
    C_STORES,
    C_TURN,
    C_WAITING,
    COPY,
    F_ADDRESS,
    F_BYTES,
    F_CORE,
    F_KIND,
    F_NEXT,
    HELD,
    K_HITS,
    K_LOAD_BYTES,
    K_MERGED,
    K_MISSES,
    K_READS,
    K_STALLS,
    K_STORE_BYTES,
    LOAD,
    N_FLIGHT,
    N_WARP,
    NONE,
    P_CORE_WARPS,
    P_F,
    P_HIT_CYCLES,
    P_ISSUE_CYCLES,
    P_LINE,
    P_LOAD_RATE,
    P_LOADS,
    P_PORT_RATE,
    P_Q,
    P_R,
    P_SCHEDULERS,
    P_SECTOR,
    P_SEND_CYCLES,
    P_STORES,
    P_WARPS,
    RUNNING,
    STORE,
    UNIT_BLOCKED,
    UNIT_BUSY,
    UNIT_IDLE,
    W_ADDRESS,
    W_BIT,
    W_DATA,
    W_LEFT,
    W_LOADS,
    W_PC,
    W_REP,
    W_SCHEDULER,
    W_SINCE,
    W_STATE,
    W_USE,
    W_USED,
    WAITING,
    X_FREE_FLIGHT,
    X_FREE_TARGET,
)
from npusim.memory.generator.patterns import OP_CHASE, OP_STORE, ROW_COUNT, ROW_OP, ROW_USE, ROW_WINDOW
from npusim.memory.generator.physical import physical
from npusim.memory.generator.warps import aim, enqueue, flight_of, resume, use_oldest
from npusim.memory.port import ring_push

Array = npt.NDArray[Any]


@kernel
def unit_step(
    params: Array, pages: Array, program: Array, chain: Array, warps: Array, cores: Array, flights: Array,
    targets: Array, events: Array, size: Array, other: Array, counters: Array, geometry: Array, tags: Array,
    marks: Array, links: Array, sets: Array, limits: Array, entries: Array, heads: Array, requests: Array, ring: Array,
    c: int, cycle: int,
) -> None:  # fmt: skip
    """Take one line of an access of a warp that waits on core `c`; one must."""
    w = _next_warp(params, warps, cores, c)
    address, left = warps[w, W_ADDRESS], warps[w, W_LEFT]
    bytes_here = min(left, params[P_LINE] - address % params[P_LINE])
    row = warps[w, W_PC]
    store = program[row, ROW_OP] == OP_STORE
    if store:
        taken = _store(
            params, pages, cores, flights, other, counters, geometry, tags, marks, links, sets, requests, ring, c,
            cycle, address, bytes_here,
        )  # fmt: skip
    else:
        taken = _load(
            params, pages, warps, cores, flights, targets, other, counters, geometry, tags, marks, links, sets, limits,
            entries, heads, requests, ring, c, w, cycle, address, bytes_here,
            flight_of(program, warps, w, warps[w, W_REP]),
        )  # fmt: skip
    if not taken:
        counters[K_STALLS] += 1
        cores[c, C_STATE] = UNIT_BLOCKED
        return
    rate = params[P_PORT_RATE] if store else params[P_LOAD_RATE]
    busy = (bytes_here + rate - 1) // rate
    warps[w, W_ADDRESS] = address + bytes_here
    warps[w, W_LEFT] = left - bytes_here
    if left == bytes_here:
        scheduler = warps[w, W_SCHEDULER]
        cores[c, C_WAITING + scheduler] &= ~warps[w, W_BIT]
        cores[c, C_TURN] = scheduler + 1 if scheduler + 1 < params[P_SCHEDULERS] else 0
        busy = max(busy, params[P_ISSUE_CYCLES])
    cores[c, C_FREE] = cycle + busy
    if not _any_waits(params, cores, c):
        cores[c, C_STATE] = UNIT_IDLE
    else:
        event_push(events, size, cycle + busy, params[P_WARPS] + c)
    if left == bytes_here:
        _advance(params, program, chain, warps, cores, events, size, counters, w, cycle, row)


@kernel
def _next_warp(params: Array, warps: Array, cores: Array, c: int) -> int:
    """The warp that has waited longest at the next scheduler that has one."""
    schedulers, s = params[P_SCHEDULERS], cores[c, C_TURN]
    while cores[c, C_WAITING + s] == 0:
        s = s + 1 if s + 1 < schedulers else 0
    waiting, w, first = cores[c, C_WAITING + s], c * params[P_CORE_WARPS] + s, -1
    while waiting:
        if waiting & 1 and (first < 0 or warps[w, W_SINCE] < warps[first, W_SINCE]):
            first = w
        waiting >>= 1
        w += schedulers
    return int(first)


@kernel
def _any_waits(params: Array, cores: Array, c: int) -> bool:
    waiting = 0
    for s in range(params[P_SCHEDULERS]):
        waiting |= cores[c, C_WAITING + s]
    return bool(waiting != 0)


@kernel
def _advance(
    params: Array, program: Array, chain: Array, warps: Array, cores: Array, events: Array, size: Array,
    counters: Array, w: int, cycle: int, row: int,
) -> None:  # fmt: skip
    """After a whole access: the next of its row, the wait of a chase, or the next row."""
    if program[row, ROW_OP] == OP_CHASE:
        warps[w, W_PC] = row + 1
        if warps[w, W_LOADS] > 0:
            warps[w, W_STATE] = WAITING
        else:
            resume(program, warps, events, size, counters, w, cycle, row)
        return
    warps[w, W_REP] += 1
    count, window, used = program[row, ROW_COUNT], program[row, ROW_WINDOW], warps[w, W_USED]
    if warps[w, W_REP] < count:
        if window == 0 or warps[w, W_REP] - used < window:
            aim(params, program, chain, warps, w)
            enqueue(warps, cores, events, size, params[P_WARPS], w, cycle + 1)
        elif warps[w, flight_of(program, warps, w, used)] == 0:
            use_oldest(program, warps, events, size, w, cycle)
        else:
            warps[w, W_STATE] = HELD
        return
    if window:  # the rest is used one after the other, too
        warps[w, W_DATA] = max(warps[w, W_DATA], warps[w, W_USE] + (count - used) * program[row, ROW_USE])
    warps[w, W_PC] = row + 1
    warps[w, W_STATE] = RUNNING
    event_push(events, size, cycle + 1, w)


@kernel
def _load(
    params: Array, pages: Array, warps: Array, cores: Array, flights: Array, targets: Array, other: Array,
    counters: Array, geometry: Array, tags: Array, marks: Array, links: Array, sets: Array, limits: Array,
    entries: Array, heads: Array, requests: Array, ring: Array, c: int, w: int, cycle: int, address: int,
    size_bytes: int, flight: int,
) -> bool:  # fmt: skip
    """Look a piece of one line up, and ask for what is missing; False, and nothing done, when there is no room."""
    line = address // params[P_LINE]
    wanted = sectors_of(address - line * params[P_LINE], size_bytes, params[P_SECTOR])
    target = other[X_FREE_TARGET]
    if cores[c, C_LOADS] >= params[P_LOADS] or other[X_FREE_FLIGHT] == NONE:
        target = 0
    following = targets[target, T_NEXT]
    status, absent = l1_load(
        geometry, tags, marks, links, sets, limits, entries, heads, targets, c, line, wanted, target
    )
    if status == STALL:
        return False
    counters[K_LOAD_BYTES] += size_bytes
    if status == HIT:
        counters[K_HITS] += 1
        there = cycle + params[P_HIT_CYCLES]
        warps[w, W_DATA] = max(warps[w, W_DATA], there)
        if flight:
            warps[w, flight + 1] = max(warps[w, flight + 1], there)
        return True
    other[X_FREE_TARGET] = following
    targets[target, N_WARP], targets[target, N_FLIGHT] = w, flight
    if flight:
        warps[w, flight] += 1
    warps[w, W_LOADS] += 1
    if status == MERGED:
        counters[K_MERGED] += 1
        return True
    counters[K_MISSES] += 1
    cores[c, C_LOADS] += 1
    first, last = _span(absent, params[P_SECTOR])
    begin = line * params[P_LINE] + first
    send(params, pages, flights, other, counters, requests, ring, cycle, c, c, LOAD, begin, last - first)
    return True


@kernel
def _span(sectors: int, sector_bytes: int) -> tuple[int, int]:
    """First byte and end of the run that holds all sectors of a mask."""
    first, end = 0, 0
    while not (sectors >> first) & 1:
        first += 1
    while sectors >> end:
        end += 1
    return first * sector_bytes, end * sector_bytes


@kernel
def _store(
    params: Array, pages: Array, cores: Array, flights: Array, other: Array, counters: Array, geometry: Array,
    tags: Array, marks: Array, links: Array, sets: Array, requests: Array, ring: Array, c: int, cycle: int,
    address: int, size_bytes: int,
) -> bool:  # fmt: skip
    """Send a piece of one line on its way; False, and nothing done, when too many have no answer yet."""
    sector, line = params[P_SECTOR], address // params[P_LINE]
    sectors = (address % sector + size_bytes + sector - 1) // sector
    if cores[c, C_STORES] + sectors > params[P_STORES] or other[X_FREE_FLIGHT] == NONE:
        return False
    touched = sectors_of(address - line * params[P_LINE], size_bytes, sector)
    l1_store(geometry, tags, marks, links, sets, c, line, touched)
    counters[K_STORE_BYTES] += size_bytes
    cores[c, C_STORES] += sectors
    send(params, pages, flights, other, counters, requests, ring, cycle, c, c, STORE, address, size_bytes)
    return True


@kernel
def send(
    params: Array, pages: Array, flights: Array, other: Array, counters: Array, requests: Array, ring: Array,
    cycle: int, core: int, owner: int, kind: int, address: int, size_bytes: int,
) -> int:  # fmt: skip
    """Put a request of a core on the port and return its row of `flights`, which belongs to the `owner`: the core, or
    one of its copy engines. The caller has seen that both have room."""
    flight = other[X_FREE_FLIGHT]
    other[X_FREE_FLIGHT] = flights[flight, F_NEXT]
    flights[flight, F_CORE] = owner
    flights[flight, F_KIND] = kind
    flights[flight, F_ADDRESS] = address
    flights[flight, F_BYTES] = size_bytes
    write = 1 if kind == STORE or kind == COPY + STORE else 0
    counters[K_READS + write] += size_bytes
    # Every request leaves the core as long after its cycle, so that they are in time order at the port.
    k = cycle + params[P_SEND_CYCLES]
    time_fs = k * params[P_Q] + (k * params[P_R]) // params[P_F]
    ring_push(requests, ring, time_fs, core, physical(pages, address), size_bytes, write, flight)
    return int(flight)


@kernel
def wake(params: Array, cores: Array, events: Array, size: Array, c: int, cycle: int) -> None:
    """Let a unit that found no room try again."""
    if cores[c, C_STATE] == UNIT_BLOCKED:
        cores[c, C_STATE] = UNIT_BUSY
        event_push(events, size, max(cycle, cores[c, C_FREE]), params[P_WARPS] + c)
