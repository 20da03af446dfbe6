"""The hierarchy behind the port: requests, answers of the DRAM, events of slices and packets in the order of cycles.

Within a cycle the DRAM's answers come first, then requests, then what was scheduled. A request to the DRAM is stamped
H_MISS cycles after its cause, an answer is felt H_FILL cycles after its time: so for a window of their sum all answers
are known before it begins, and results do not depend on where windows or calls are cut.
"""

from __future__ import annotations

from typing import Any

import numpy.typing as npt

from npusim.jit import inlined, kernel
from npusim.memory import dram
from npusim.memory.dram import memory_advance
from npusim.memory.hierarchy.answers import finish
from npusim.memory.hierarchy.clock import cycle_of, fs_of, next_event, take_event
from npusim.memory.hierarchy.fills import came_in, dram_answer, far_answer
from npusim.memory.hierarchy.intake import take_request
from npusim.memory.hierarchy.layout import (
    DRAM_HEAP,
    DRAM_RING,
    FAR_CYCLE,
    H_DIRECT,
    H_FILL,
    H_MARGIN,
    H_NET,
    H_REQUEST,
    H_WINDOW,
    K_ACK,
    K_ARRIVE,
    K_REMOTE,
    K_RETURN,
    K_WAKE,
    N_CYCLE,
    N_LEFT,
    NET_ALL,
    OK,
    R_KIND,
    ROWS,
)
from npusim.memory.hierarchy.network import dram_answer_leaves, network_event
from npusim.memory.hierarchy.slices import arrive, serve_next
from npusim.memory.port import HEAP_SIZE, REQ_TIME_FS, RING_HEAD, RING_TAIL, RSP_TIME_FS, ring_free
from npusim.memory.state import A_NEXT_FS

Array = npt.NDArray[Any]


@kernel
def hierarchy_advance(
    geometry: Array, tags: Array, marks: Array, links: Array, sets: Array, seeds: Array, limits: Array, entries: Array,
    heads: Array, params: Array, now: Array, slices: Array, wheel: Array, rows: Array, asked: Array, far: Array,
    counters: Array, net: Array, routes: Array, out_links: Array, out_counters: Array, back_links: Array,
    back_counters: Array, groups: Array, m_params: Array, m_control: Array, m_rules: Array, m_nodes: Array,
    m_where: Array, m_state: Array, m_runs: Array, m_asked: Array, m_counters: Array, m_series: Array,
    m_regions: Array, m_requests: Array, m_ring: Array, m_responses: Array, m_heap: Array, requests: Array,
    ring: Array, responses: Array, heap: Array, until_fs: int,
) -> int:  # fmt: skip
    """Take in every request before `until_fs` and do all that is due before it; returns OK or what is missing.

    No request may arrive later with a time before `until_fs`. A status other than OK can be cured and the call be
    repeated, but for BAD_REQUEST.
    """
    if params[H_DIRECT]:
        return memory_advance(
            m_params, m_control, m_rules, m_nodes, m_where, m_state, m_runs, m_asked, m_counters, m_series, m_regions,
            requests, ring, responses, heap, until_fs,
        )  # fmt: skip
    until = cycle_of(params, until_fs) + params[H_REQUEST]
    while now[N_CYCLE] < until:
        place = ring[RING_HEAD] % requests.shape[0]
        begin = min(next_event(now, wheel), _request_cycle(params, requests, ring, place))
        begin = min(begin, _answer_cycle(params, m_responses, m_heap))
        pending_fs = _dram_next_fs(m_asked, m_requests, m_ring)
        begin = min(begin, _felt(params, pending_fs))
        if begin >= until:
            now[N_CYCLE] = until
            break
        now[N_CYCLE] = max(now[N_CYCLE], begin)
        end = min(until, now[N_CYCLE] + params[H_WINDOW])
        dram_fs = fs_of(params, max(0, end - params[H_FILL]))
        if pending_fs < dram_fs:
            status = memory_advance(
                m_params, m_control, m_rules, m_nodes, m_where, m_state, m_runs, m_asked, m_counters, m_series,
                m_regions, m_requests, m_ring, m_responses, m_heap, dram_fs,
            )  # fmt: skip
            if status != dram.OK:
                return DRAM_HEAP if status == dram.FULL else status
        status = _window(
            geometry, tags, marks, links, sets, seeds, limits, entries, heads, params, now, slices, wheel, rows, asked,
            far, counters, net, routes, out_links, out_counters, back_links, back_counters, groups, m_where, m_requests,
            m_ring, m_responses, m_heap, requests, ring, responses, heap, end,
        )  # fmt: skip
        if status != OK:
            return status
        now[N_CYCLE] = end
    return OK


@inlined
def _request_cycle(params: Array, requests: Array, ring: Array, place: int) -> int:
    """When the first request of the ring, in row `place`, can reach a slice."""
    if ring[RING_HEAD] >= ring[RING_TAIL]:
        return FAR_CYCLE
    return int(cycle_of(params, requests[place, REQ_TIME_FS]) + params[H_REQUEST])


@inlined
def _felt(params: Array, time_fs: int) -> int:
    """When an answer of the DRAM is in its slice."""
    return FAR_CYCLE if time_fs >= 1 << 61 else int(cycle_of(params, time_fs) + params[H_FILL])


@inlined
def _answer_cycle(params: Array, answers: Array, answer_heap: Array) -> int:
    return FAR_CYCLE if answer_heap[HEAP_SIZE] == 0 else _felt(params, answers[0, RSP_TIME_FS])


@inlined
def _dram_next_fs(m_asked: Array, m_requests: Array, m_ring: Array) -> int:
    """A time before which the DRAM can give no answer that it has not given yet."""
    next_fs = m_asked[0, A_NEXT_FS]
    if m_ring[RING_HEAD] < m_ring[RING_TAIL]:
        next_fs = min(next_fs, m_requests[m_ring[RING_HEAD] % m_requests.shape[0], REQ_TIME_FS])
    return int(next_fs)


@kernel
def _window(
    geometry: Array, tags: Array, marks: Array, links: Array, sets: Array, seeds: Array, limits: Array, entries: Array,
    heads: Array, params: Array, now: Array, slices: Array, wheel: Array, rows: Array, asked: Array, far: Array,
    counters: Array, net: Array, routes: Array, out_links: Array, out_counters: Array, back_links: Array,
    back_counters: Array, groups: Array, m_where: Array, m_requests: Array, m_ring: Array, m_responses: Array,
    m_heap: Array, requests: Array, ring: Array, responses: Array, heap: Array, end: int,
) -> int:  # fmt: skip
    """Do everything before cycle `end`, for which all answers of the DRAM are known."""
    place = ring[RING_HEAD] % requests.shape[0]
    request = _request_cycle(params, requests, ring, place)
    answer = _answer_cycle(params, m_responses, m_heap)
    while True:
        cycle = min(request, min(answer, next_event(now, wheel)))
        if cycle >= end:
            return OK
        now[N_CYCLE] = cycle
        if now[N_LEFT] < params[H_MARGIN]:
            return ROWS
        if ring_free(m_requests, m_ring) < params[H_MARGIN]:
            return DRAM_RING
        entry, sectors, wait_fs = -1, 0, 0
        if answer == cycle:
            if params[H_NET] == NET_ALL:
                dram_answer_leaves(
                    params, now, wheel, rows, limits, entries, net, routes, back_links, back_counters, m_where,
                    m_responses, m_heap, cycle,
                )  # fmt: skip
            else:
                entry, sectors, wait_fs = dram_answer(now, slices, wheel, rows, m_responses, m_heap, cycle)
            answer = _answer_cycle(params, m_responses, m_heap)
        elif request == cycle:
            status = take_request(
                params, now, slices, wheel, rows, asked, counters, net, routes, out_links, out_counters, groups,
                requests, ring, responses, heap, place,
            )  # fmt: skip
            if status != OK:
                return status
            place = place + 1 if place + 1 < requests.shape[0] else 0
            request = _request_cycle(params, requests, ring, place)
        else:
            row = take_event(now, wheel, rows)
            if row and rows[row, R_KIND] == K_RETURN:
                entry, sectors, wait_fs = far_answer(now, rows, row)
            elif row:
                _event(
                    geometry, tags, marks, links, sets, seeds, limits, entries, heads, params, now, slices, wheel,
                    rows, asked, far, counters, net, routes, out_links, out_counters, back_links, back_counters,
                    groups, m_where, m_requests, m_ring, responses, heap, row, cycle,
                )  # fmt: skip
        if entry >= 0:
            came_in(
                geometry, tags, marks, links, sets, seeds, limits, entries, heads, params, now, slices, wheel, rows,
                asked, far, counters, m_requests, m_ring, responses, heap, entry, sectors, wait_fs, cycle,
            )  # fmt: skip


@inlined
def _event(
    geometry: Array, tags: Array, marks: Array, links: Array, sets: Array, seeds: Array, limits: Array, entries: Array,
    heads: Array, params: Array, now: Array, slices: Array, wheel: Array, rows: Array, asked: Array, far: Array,
    counters: Array, net: Array, routes: Array, out_links: Array, out_counters: Array, back_links: Array,
    back_counters: Array, groups: Array, m_where: Array, m_requests: Array, m_ring: Array, responses: Array,
    heap: Array, row: int, cycle: int,
) -> None:  # fmt: skip
    kind = rows[row, R_KIND]
    if kind == K_WAKE:
        serve_next(
            geometry, tags, marks, links, sets, seeds, limits, entries, heads, params, now, slices, wheel, rows, asked,
            far, counters, m_requests, m_ring, responses, heap, row - 1, cycle,
        )  # fmt: skip
    elif kind == K_ARRIVE:
        arrive(now, slices, wheel, rows, row, 0, cycle)
    elif kind == K_REMOTE:
        arrive(now, slices, wheel, rows, row, 1, cycle)
    elif kind == K_ACK:
        finish(params, now, slices, wheel, rows, asked, counters, responses, heap, row, cycle)
    else:
        network_event(
            params, now, slices, wheel, rows, asked, counters, net, routes, out_links, out_counters, back_links,
            back_counters, groups, m_where, m_requests, m_ring, responses, heap, row, cycle,
        )  # fmt: skip
