"""Requests of the port, cut into lines and sent to their slices."""

from __future__ import annotations

from typing import Any

import numpy.typing as npt

from npusim.jit import inlined
from npusim.memory.hierarchy.answers import answer
from npusim.memory.hierarchy.clock import row_of, schedule
from npusim.memory.hierarchy.layout import (
    A_FINISH_FS,
    A_LEFT,
    A_NEXT,
    A_ORDER,
    A_PORT,
    A_TAG,
    A_TIME_FS,
    A_WAIT_FS,
    BAD_REQUEST,
    C_READ_BYTES,
    C_READS,
    CO_CYCLE,
    CO_LINE,
    CO_ROW,
    CO_SECTORS,
    CO_SLOTS,
    CO_WORDS,
    FULL,
    GR_CORES,
    H_CAPACITY,
    H_COALESCERS,
    H_CORES,
    H_GROUPS,
    H_LINE,
    H_MARGIN,
    H_NET,
    H_OWN0,
    H_PARTS,
    H_PER,
    H_SECTOR,
    K_ARRIVE,
    N_ASKED_FREE,
    N_ASKED_LEFT,
    N_COUNT,
    N_CYCLE,
    N_LEFT,
    N_OPEN,
    N_ORDER,
    NET_NONE,
    OK,
    R_ASKED,
    R_BYTES,
    R_FOLLOWER,
    R_HOME,
    R_KIND,
    R_LINE,
    R_OWN,
    R_SECTORS,
    R_SLICE,
    R_SLOT,
    R_WAIT,
    R_WHOLE,
    R_WRITE,
    ROWS,
)
from npusim.memory.hierarchy.network import travel
from npusim.memory.hierarchy.slices import arrive
from npusim.memory.hierarchy.ways import home_of
from npusim.memory.noc.state import P_SLICE_BASE
from npusim.memory.port import (
    HEAP_SIZE,
    REQ_ADDRESS,
    REQ_BYTES,
    REQ_PORT,
    REQ_TAG,
    REQ_TIME_FS,
    REQ_WRITE,
    RING_HEAD,
)
from npusim.memory.state import MAX_REQUEST_BYTES

Array = npt.NDArray[Any]


@inlined
def take_request(
    params: Array, now: Array, slices: Array, wheel: Array, rows: Array, asked: Array, counters: Array, net: Array,
    routes: Array, out_links: Array, out_counters: Array, groups: Array, requests: Array, ring: Array,
    responses: Array, heap: Array, place: int,
) -> int:  # fmt: skip
    """Cut the first request of the ring, in row `place`, into lines and send each to its slice."""
    address, size, write = requests[place, REQ_ADDRESS], requests[place, REQ_BYTES], requests[place, REQ_WRITE]
    port = requests[place, REQ_PORT]
    if size <= 0 or size > MAX_REQUEST_BYTES or address < 0 or address + size > params[H_CAPACITY]:
        return BAD_REQUEST
    if port < 0 or port >= params[H_CORES] + (0 if write else params[H_GROUPS]):
        return BAD_REQUEST
    core = port if port < params[H_CORES] else groups[port - params[H_CORES], GR_CORES]  # a group's first core asks
    if heap[HEAP_SIZE] + now[N_OPEN] >= responses.shape[0]:
        return FULL
    if now[N_LEFT] < (size >> params[H_LINE]) + 2 + params[H_MARGIN] or now[N_ASKED_LEFT] < 1:
        return ROWS
    ring[RING_HEAD] += 1
    counters[C_READS + write] += 1
    counters[C_READ_BYTES + write] += size
    request = now[N_ASKED_FREE]
    now[N_ASKED_FREE] = asked[request, A_NEXT]
    now[N_ASKED_LEFT] -= 1
    now[N_OPEN] += 1
    now[N_ORDER] += 1
    asked[request, A_TIME_FS], asked[request, A_TAG] = requests[place, REQ_TIME_FS], requests[place, REQ_TAG]
    asked[request, A_ORDER], asked[request, A_PORT] = now[N_ORDER], port
    asked[request, A_FINISH_FS] = asked[request, A_WAIT_FS] = 0
    bits = params[H_LINE]
    first, last = address >> bits, (address + size - 1) >> bits
    asked[request, A_LEFT] = last - first + 1
    for line in range(first, last + 1):
        begin = max(address - (line << bits), 0)
        end = min(address + size - (line << bits), 1 << bits)
        row = _piece(params, now, rows, request, line, begin, end, write, core)
        if write or params[H_COALESCERS] == 0 or not _follows(
            params, now, rows, asked, counters, responses, heap, row, line, core
        ):  # fmt: skip
            _send(
                params, now, slices, wheel, rows, net, routes, out_links, out_counters, row, core,
                end - begin if write else 0,
            )  # fmt: skip
    return OK


@inlined
def _piece(
    params: Array, now: Array, rows: Array, request: int, line: int, begin: int, end: int, write: int, core: int
) -> int:
    """A row for the piece of a request that lies in bytes [begin, end) of a line."""
    home, name = home_of(params, line)
    own = home
    if params[H_PARTS] > 1:
        own = params[H_OWN0 + core] + home % params[H_PER]
    bits = params[H_SECTOR]
    first, last = begin >> bits, (end - 1) >> bits
    sectors = (1 << (last + 1)) - (1 << first)
    whole = 0
    if write:  # sectors of which every byte is written
        whole = (1 << (end >> bits)) - 1
        whole &= ~((1 << ((begin + (1 << bits) - 1) >> bits)) - 1)
    row = row_of(now, rows)
    rows[row, R_KIND], rows[row, R_LINE], rows[row, R_SECTORS], rows[row, R_WHOLE] = K_ARRIVE, name, sectors, whole
    rows[row, R_WRITE], rows[row, R_SLICE], rows[row, R_HOME], rows[row, R_OWN] = write, own, home, own
    rows[row, R_ASKED], rows[row, R_WAIT], rows[row, R_SLOT], rows[row, R_FOLLOWER] = request, 0, 0, 0
    rows[row, R_BYTES] = (last - first + 1) << bits
    return int(row)


@inlined
def _follows(
    params: Array, now: Array, rows: Array, asked: Array, counters: Array, responses: Array, heap: Array, row: int,
    line: int, core: int,
) -> bool:  # fmt: skip
    """Whether the coalescer of a core has a read of the same sectors under way, which brings the answer of this too.

    Else this is the one that others follow. An answer on its way back to the cores can still be shared.
    """
    slot = N_COUNT + (core % params[H_COALESCERS] * CO_SLOTS + line % CO_SLOTS) * CO_WORDS
    leader, sectors = now[slot + CO_ROW], rows[row, R_SECTORS]
    if now[slot + CO_LINE] == line and sectors & ~now[slot + CO_SECTORS] == 0:
        if leader:
            rows[row, R_FOLLOWER] = rows[leader, R_FOLLOWER]
            rows[leader, R_FOLLOWER] = row
            return True
        if now[slot + CO_CYCLE] > now[N_CYCLE]:
            answer(params, now, rows, asked, counters, responses, heap, row, now[slot + CO_CYCLE])
            return True
    if leader:
        rows[leader, R_SLOT] = 0
    now[slot + CO_LINE], now[slot + CO_SECTORS], now[slot + CO_ROW] = line, sectors, row
    rows[row, R_SLOT] = slot
    return False


@inlined
def _send(
    params: Array, now: Array, slices: Array, wheel: Array, rows: Array, net: Array, routes: Array, out_links: Array,
    out_counters: Array, row: int, core: int, data_bytes: int,
) -> None:  # fmt: skip
    """Send a piece to the slice of its own partition."""
    if params[H_NET] == NET_NONE:
        arrive(now, slices, wheel, rows, row, 0, now[N_CYCLE])
        return
    arrival, rows[row, R_WAIT] = travel(
        params, net, routes, out_links, out_counters, now[N_CYCLE], core, net[P_SLICE_BASE] + rows[row, R_OWN],
        data_bytes,
    )  # fmt: skip
    schedule(now, wheel, rows, row, arrival)
