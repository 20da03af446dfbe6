"""A window of the generator: answers and units in the order of their cycles, up to the end of the window."""

from __future__ import annotations

from typing import Any

import numpy.typing as npt

from npusim.jit import kernel
from npusim.memory.caches.mshr import T_NEXT, mshr_next
from npusim.memory.generator.copiers import copier_answer, copier_step
from npusim.memory.generator.events import EV_CYCLE, EV_UNIT, event_pop
from npusim.memory.generator.l1 import l1_arrive, l1_settle, sectors_of
from npusim.memory.generator.layout import (
    C_IN_FREE,
    C_LOADS,
    C_STORES,
    COPY,
    F_ADDRESS,
    F_BYTES,
    F_CORE,
    F_KIND,
    F_NEXT,
    FULL,
    HELD,
    LOAD,
    N_FLIGHT,
    N_WARP,
    OK,
    P_CORES,
    P_F,
    P_LINE,
    P_PORT_RATE,
    P_Q,
    P_R,
    P_RETURN_CYCLES,
    P_SECTOR,
    P_WARPS,
    W_DATA,
    W_LOADS,
    W_PC,
    W_STATE,
    W_USED,
    WAITING,
    X_FREE_FLIGHT,
    X_FREE_TARGET,
    X_NOW,
)
from npusim.memory.generator.patterns import OP_WAIT, ROW_OP
from npusim.memory.generator.unit import unit_step, wake
from npusim.memory.generator.warps import flight_of, resume, use_oldest, warp_step
from npusim.memory.port import HEAP_SIZE, RSP_TAG, RSP_TIME_FS, heap_pop, ring_free

Array = npt.NDArray[Any]


@kernel
def generator_advance(
    params: Array, pages: Array, program: Array, chain: Array, warps: Array, cores: Array, slots: Array,
    copiers: Array, flights: Array, targets: Array, events: Array, size: Array, other: Array, counters: Array,
    geometry: Array, tags: Array, marks: Array, links: Array, sets: Array, seeds: Array, limits: Array, entries: Array,
    heads: Array, requests: Array, ring: Array, responses: Array, heap_state: Array, until: int,
) -> int:  # fmt: skip
    """Do all that is due before core cycle `until`; returns OK, or FULL when the ring has no room for a request."""
    answer = _answer_cycle(params, responses, heap_state, other[X_NOW])
    while True:
        event = events[0, EV_CYCLE] if size[0] > 0 else until
        if min(event, answer) >= until:
            break
        if answer <= event:
            other[X_NOW] = answer
            _answer(
                params, program, warps, cores, copiers, flights, targets, events, size, other, counters, geometry,
                tags, marks, links, sets, seeds, entries, heads, responses[0, RSP_TAG], answer,
            )  # fmt: skip
            heap_pop(responses, heap_state)
            answer = _answer_cycle(params, responses, heap_state, answer)
            continue
        if ring_free(requests, ring) < 1:
            return FULL
        other[X_NOW] = event
        unit = events[0, EV_UNIT]
        event_pop(events, size)
        if unit < params[P_WARPS]:
            warp_step(params, program, chain, warps, cores, slots, events, size, other, counters, unit, event)
        elif unit < params[P_WARPS] + params[P_CORES]:
            unit_step(
                params, pages, program, chain, warps, cores, flights, targets, events, size, other, counters, geometry,
                tags, marks, links, sets, limits, entries, heads, requests, ring, unit - params[P_WARPS], event,
            )  # fmt: skip
        else:
            e = unit - params[P_WARPS] - params[P_CORES]
            copier_step(params, pages, copiers, flights, events, size, other, counters, requests, ring, e, event)
    return OK


@kernel
def _answer_cycle(params: Array, responses: Array, heap_state: Array, now: int) -> int:
    """The core cycle in which the earliest answer is back, or the end of time."""
    if heap_state[HEAP_SIZE] == 0:
        return 1 << 62
    time_fs = responses[0, RSP_TIME_FS]
    q, r, f = params[P_Q], params[P_R], params[P_F]
    k = time_fs // (q + 1)  # at most the edge wanted; the remainder is small
    gap = time_fs - (k * q + (k * r) // f)
    while gap > 0:
        k += max(1, gap // (q + 1))
        gap = time_fs - (k * q + (k * r) // f)
    return int(max(now, k + params[P_RETURN_CYCLES]))


@kernel
def _answer(
    params: Array, program: Array, warps: Array, cores: Array, copiers: Array, flights: Array, targets: Array,
    events: Array, size: Array, other: Array, counters: Array, geometry: Array, tags: Array, marks: Array,
    links: Array, sets: Array, seeds: Array, entries: Array, heads: Array, flight: int, cycle: int,
) -> None:  # fmt: skip
    """A request is answered: fill the L1, hand the data to who waits, let the unit go on."""
    c, kind = flights[flight, F_CORE], flights[flight, F_KIND]
    address, size_bytes = flights[flight, F_ADDRESS], flights[flight, F_BYTES]
    flights[flight, F_NEXT] = other[X_FREE_FLIGHT]
    other[X_FREE_FLIGHT] = flight
    if kind >= COPY:
        copier_answer(params, copiers, events, size, counters, c, size_bytes, cycle)
        return
    if kind == LOAD:
        cores[c, C_LOADS] -= 1
        line, rate = address // params[P_LINE], params[P_PORT_RATE]
        there = max(cycle, cores[c, C_IN_FREE]) + (size_bytes + rate - 1) // rate
        cores[c, C_IN_FREE] = there
        sectors = sectors_of(address - line * params[P_LINE], size_bytes, params[P_SECTOR])
        entry = l1_arrive(geometry, tags, marks, links, sets, seeds, entries, heads, c, line, sectors)
        if entry >= 0:
            _hand_over(
                program, warps, cores, targets, events, size, other, counters, entries, c, entry, cycle,
                there - 1,
            )  # fmt: skip
            l1_settle(entries, heads, c, entry)
    else:
        sector = params[P_SECTOR]
        cores[c, C_STORES] -= (address % sector + size_bytes + sector - 1) // sector
    wake(params, cores, events, size, c, cycle)


@kernel
def _hand_over(
    program: Array, warps: Array, cores: Array, targets: Array, events: Array, size: Array, other: Array,
    counters: Array, entries: Array, c: int, entry: int, cycle: int, there: int,
) -> None:  # fmt: skip
    """Data are in the core at cycle `there`; warps that have all they wait for go on then."""
    target = mshr_next(entries, targets, entry)
    while target:
        w, flight = targets[target, N_WARP], targets[target, N_FLIGHT]
        targets[target, T_NEXT] = other[X_FREE_TARGET]
        other[X_FREE_TARGET] = target
        warps[w, W_LOADS] -= 1
        warps[w, W_DATA] = max(warps[w, W_DATA], there)
        if flight:
            warps[w, flight] -= 1
            warps[w, flight + 1] = max(warps[w, flight + 1], there)
            oldest = warps[w, W_STATE] == HELD and flight == flight_of(program, warps, w, warps[w, W_USED])
            if oldest and warps[w, flight] == 0:
                use_oldest(program, warps, events, size, w, cycle)
        if warps[w, W_LOADS] == 0 and warps[w, W_STATE] == WAITING:
            row = warps[w, W_PC]
            if program[row, ROW_OP] == OP_WAIT:
                warps[w, W_PC] = row + 1
            else:
                row -= 1  # a chase has moved on already
            resume(program, warps, events, size, counters, w, cycle, row)
        target = mshr_next(entries, targets, entry)
