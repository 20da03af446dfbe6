"""The load/store unit of a core: it takes warps in turn, a line at a time, to the L1 and to the port.

The unit is in order: what finds no room (misses in flight, stores without an answer) stops it until an answer comes.
"""

from __future__ import annotations

from typing import Any

import numpy.typing as npt

from npusim.jit import kernel
from npusim.memory.generator.events import event_push
from npusim.memory.generator.l1 import HIT, MERGED, STALL, l1_load, l1_store, sectors_of
from npusim.memory.generator.layout import (
    C_FREE,
    C_HEAD,
    C_LOADS,
    C_STATE,
    C_STORES,
    COPY,
    F_ADDRESS,
    F_BYTES,
    F_CORE,
    F_KIND,
    F_NEXT,
    F_WAITERS,
    K_HITS,
    K_LOAD_BYTES,
    K_MERGED,
    K_MISSES,
    K_READS,
    K_STALLS,
    K_STORE_BYTES,
    LOAD,
    N_NEXT,
    N_WARP,
    NONE,
    P_F,
    P_HAS_L1,
    P_HIT_CYCLES,
    P_ISSUE_CYCLES,
    P_LINE,
    P_LOAD_RATE,
    P_LOADS,
    P_PORT_RATE,
    P_Q,
    P_R,
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
    W_DATA,
    W_LEFT,
    W_LOADS,
    W_NEXT,
    W_PC,
    W_REP,
    W_STATE,
    WAITING,
    X_FREE_FLIGHT,
    X_FREE_NODE,
)
from npusim.memory.generator.patterns import OP_CHASE, OP_STORE, ROW_COUNT, ROW_OP
from npusim.memory.generator.warps import aim, enqueue, resume
from npusim.memory.port import ring_push

Array = npt.NDArray[Any]


@kernel
def unit_step(
    params: Array, program: Array, chain: Array, warps: Array, cores: Array, flights: Array, nodes: Array,
    events: Array, size: Array, other: Array, counters: Array, lines: Array, requests: Array, ring: Array, c: int,
    cycle: int,
) -> None:  # fmt: skip
    """Take one line of the access at the head of core `c`'s queue."""
    w = cores[c, C_HEAD]
    address, left = warps[w, W_ADDRESS], warps[w, W_LEFT]
    bytes_here = min(left, params[P_LINE] - address % params[P_LINE])
    row = warps[w, W_PC]
    store = program[row, ROW_OP] == OP_STORE
    if store:
        taken = _store(params, cores, flights, other, counters, lines, requests, ring, c, cycle, address, bytes_here)
    else:
        taken = _load(
            params, warps, cores, flights, nodes, other, counters, lines, requests, ring, c, w, cycle, address,
            bytes_here,
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
        cores[c, C_HEAD] = warps[w, W_NEXT]
        busy = max(busy, params[P_ISSUE_CYCLES])
    cores[c, C_FREE] = cycle + busy
    if cores[c, C_HEAD] == NONE:
        cores[c, C_STATE] = UNIT_IDLE
    else:
        event_push(events, size, cycle + busy, params[P_WARPS] + c)
    if left == bytes_here:
        _advance(params, program, chain, warps, cores, events, size, counters, w, cycle, row)


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
    if warps[w, W_REP] < program[row, ROW_COUNT]:
        aim(params, program, chain, warps, w)
        enqueue(warps, cores, events, size, params[P_WARPS], w, cycle + 1)
        return
    warps[w, W_PC] = row + 1
    warps[w, W_STATE] = RUNNING
    event_push(events, size, cycle + 1, w)


@kernel
def _load(
    params: Array, warps: Array, cores: Array, flights: Array, nodes: Array, other: Array, counters: Array,
    lines: Array, requests: Array, ring: Array, c: int, w: int, cycle: int, address: int, size_bytes: int,
) -> bool:  # fmt: skip
    """Look a piece of one line up, and ask for what is missing; False, and nothing done, when there is no room."""
    line = address // params[P_LINE]
    offset = address - line * params[P_LINE]
    wanted = sectors_of(offset, size_bytes, params[P_SECTOR])
    status, missing, flight = HIT, wanted, NONE
    room = cores[c, C_LOADS] < params[P_LOADS] and other[X_FREE_FLIGHT] != NONE and other[X_FREE_NODE] != NONE
    if params[P_HAS_L1]:
        status, missing, flight = l1_load(lines, c, line, wanted, other[X_FREE_FLIGHT] if room else NONE)
    elif room:
        status = MERGED + 1
    else:
        status = STALL
    if status == STALL or (status != HIT and other[X_FREE_NODE] == NONE):
        return False
    counters[K_LOAD_BYTES] += size_bytes
    if status == HIT:
        counters[K_HITS] += 1
        warps[w, W_DATA] = max(warps[w, W_DATA], cycle + params[P_HIT_CYCLES])
        return True
    if status == MERGED:
        counters[K_MERGED] += 1
    else:
        counters[K_MISSES] += 1
        cores[c, C_LOADS] += 1
        first, last = _span(missing, params[P_SECTOR])
        flight = send(
            params, flights, other, counters, requests, ring, cycle, c, LOAD, line * params[P_LINE] + first,
            last - first,
        )  # fmt: skip
    node = other[X_FREE_NODE]
    other[X_FREE_NODE] = nodes[node, N_NEXT]
    nodes[node, N_WARP] = w
    nodes[node, N_NEXT] = flights[flight, F_WAITERS]
    flights[flight, F_WAITERS] = node
    warps[w, W_LOADS] += 1
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
    params: Array, cores: Array, flights: Array, other: Array, counters: Array, lines: Array, requests: Array,
    ring: Array, c: int, cycle: int, address: int, size_bytes: int,
) -> bool:  # fmt: skip
    """Send a piece of one line on its way; False, and nothing done, when too many have no answer yet."""
    sectors = (address % params[P_SECTOR] + size_bytes + params[P_SECTOR] - 1) // params[P_SECTOR]
    if cores[c, C_STORES] + sectors > params[P_STORES] or other[X_FREE_FLIGHT] == NONE:
        return False
    if params[P_HAS_L1]:
        l1_store(lines, c, address // params[P_LINE])
    counters[K_STORE_BYTES] += size_bytes
    cores[c, C_STORES] += sectors
    send(params, flights, other, counters, requests, ring, cycle, c, STORE, address, size_bytes)
    return True


@kernel
def send(
    params: Array, flights: Array, other: Array, counters: Array, requests: Array, ring: Array, cycle: int,
    core: int, kind: int, address: int, size_bytes: int,
) -> int:  # fmt: skip
    """Put a request on the port and return its row of `flights`; the caller has seen that both have room."""
    flight = other[X_FREE_FLIGHT]
    other[X_FREE_FLIGHT] = flights[flight, F_NEXT]
    flights[flight, F_CORE] = core
    flights[flight, F_KIND] = kind
    flights[flight, F_ADDRESS] = address
    flights[flight, F_BYTES] = size_bytes
    flights[flight, F_WAITERS] = NONE
    write = 1 if kind == STORE or kind == COPY + STORE else 0
    counters[K_READS + write] += size_bytes
    # Every request leaves the core as long after its cycle, so that they are in time order at the port.
    k = cycle + params[P_SEND_CYCLES]
    time_fs = k * params[P_Q] + (k * params[P_R]) // params[P_F]
    ring_push(requests, ring, time_fs, core, address, size_bytes, write, flight)
    return int(flight)


@kernel
def wake(params: Array, cores: Array, events: Array, size: Array, c: int, cycle: int) -> None:
    """Let a unit that found no room try again."""
    if cores[c, C_STATE] == UNIT_BLOCKED:
        cores[c, C_STATE] = UNIT_BUSY
        event_push(events, size, max(cycle, cores[c, C_FREE]), params[P_WARPS] + c)
