"""The DRAM behind the port: requests are cut into runs, every channel's controller serves its own.

A request is answered after its last run: a read at the end of its data, a posted write when all of its runs have places
in the write queues. All that a channel decides in a tick depends on what arrived before, so the result is the same
however time is cut into windows.
"""

from __future__ import annotations

from typing import Any

import numpy.typing as npt

from npusim.jit import inlined, kernel
from npusim.memory.controller.layout import (
    AT_BANK,
    B_ROW,
    B_WORDS,
    CH_ACTIVATING,
    CH_ADMIT_FROM,
    CH_COLUMN_FROM,
    CH_FINISHED,
    CH_LAST_WRITE,
    CH_NEXT,
    CH_NEXT_REFRESH,
    CH_OWED,
    CH_REFRESHES,
    CH_REFRESHING,
    CH_ROW_FROM,
    CH_SERVED,
    CH_SIZE0,
    CH_WAIT_FIRST,
    E_ARRIVAL,
    NO_REFRESH,
    P_BANKS,
    P_HOLD,
    P_PSEUDO,
    P_REFI,
    P_REFRESH,
    PER_BANK,
    READ_LIST,
    WRITE_LIST,
)
from npusim.memory.controller.mapping import (
    M_BURST_BITS,
    M_CHUNK_BITS,
    M_RUN_BITS,
    M_TURN_BITS,
    M_UNIT_BITS,
    channel_of,
)
from npusim.memory.controller.send import fits
from npusim.memory.controller.step import step
from npusim.memory.port import (
    HEAP_SIZE,
    REQ_ADDRESS,
    REQ_BYTES,
    REQ_TAG,
    REQ_TIME_FS,
    REQ_WRITE,
    RING_HEAD,
    RING_TAIL,
    MemoryPort,
    heap_insert,
)
from npusim.memory.queues import admit, answer_finished, bin_of, close, count_latency, wait_run
from npusim.memory.state import (
    A_FINISH,
    A_FREE,
    A_LEFT,
    A_LEFT_FREE,
    A_NEXT,
    A_NEXT_FS,
    A_OPEN,
    A_ORDER,
    A_RUNS_LEFT,
    A_SEQ,
    A_SIZE,
    A_TAG,
    A_TIME_FS,
    A_UNLOADED,
    A_UNTIL,
    A_WRITE,
    BUS_FREE_FS,
    BUS_FREE_NUM,
    C_READ_BURSTS,
    C_READ_BYTES,
    C_READS,
    MAX_REQUEST_BYTES,
    P_CAPACITY,
    P_IDEAL,
    P_IDEAL_DEN,
    P_IDEAL_FS,
    P_IDEAL_LATENCY_FS,
    P_IDEAL_NUM,
    P_PIECES,
    P_POSTED,
    P_REGIONS,
    P_TICK_FS,
    MemoryState,
)

Array = npt.NDArray[Any]
FAR_FS = 1 << 62

# Status of memory_advance.
OK = 0
FULL = 1  # no room for the answers of all that was asked: drain or grow the heap, then call again
BAD_REQUEST = 2  # row `head` of the ring: size not in 1..MAX_REQUEST_BYTES, or outside the memory
CROWDED = 3  # no room in the tables of requests and runs: grow them (MemoryState.grow), then call again


@kernel
def memory_advance(
    params: Array, control: Array, rules: Array, nodes: Array, where: Array, state: Array, runs: Array, asked: Array,
    counters: Array, series: Array, regions: Array, requests: Array, ring: Array, responses: Array, heap: Array,
    until_fs: int,
) -> int:  # fmt: skip
    """Take in every request that arrives before `until_fs` and make the decisions due before it.

    Each request gets one response. Returns OK, FULL, BAD_REQUEST or CROWDED.
    """
    row = ring[RING_HEAD] % requests.shape[0]
    while ring[RING_HEAD] < ring[RING_TAIL]:
        time_fs = requests[row, REQ_TIME_FS]
        if time_fs >= until_fs:
            break
        if heap[HEAP_SIZE] + asked[0, A_OPEN] >= responses.shape[0]:
            if not params[P_IDEAL]:  # what is under way goes on, so that draining alone is enough
                _advance_channels(
                    params, control, rules, nodes, state, runs, asked, counters, series, regions, responses, heap,
                    time_fs,
                )  # fmt: skip
            return FULL
        address, size, write = requests[row, REQ_ADDRESS], requests[row, REQ_BYTES], requests[row, REQ_WRITE]
        if size <= 0 or size > MAX_REQUEST_BYTES or address < 0 or address + size > params[P_CAPACITY]:
            return BAD_REQUEST
        units = (size >> (where[M_BURST_BITS] + where[M_UNIT_BITS])) + 2
        if asked[0, A_LEFT_FREE] < 2 or asked[0, A_RUNS_LEFT] < units * params[P_PIECES] + 2:
            return CROWDED
        counters[C_READS + write] += 1
        counters[C_READ_BYTES + write] += size
        tag = requests[row, REQ_TAG]
        ring[RING_HEAD] += 1
        row = row + 1 if row + 1 < requests.shape[0] else 0
        asked[0, A_ORDER] += 1
        if params[P_IDEAL]:
            finish_fs, wait_fs = _serve_ideal(params, state[0], time_fs, size)
            heap_insert(responses, heap, finish_fs, asked[0, A_ORDER], tag, wait_fs)
            count_latency(counters, finish_fs - time_fs, wait_fs)
            series[write, bin_of(counters, series, finish_fs)] += size
        else:
            request = _open(params, asked, time_fs, size, write, tag)
            region = _region_of(params, regions, address)
            counters[C_READ_BURSTS + write] += _cut(where, state, runs, asked, request, address, size, write, region)
            close(params, asked, counters, series, responses, heap, request)
    if not params[P_IDEAL]:
        _advance_channels(
            params, control, rules, nodes, state, runs, asked, counters, series, regions, responses, heap, until_fs
        )
    return OK


@kernel
def _serve_ideal(params: Array, bus: Array, arrival_fs: int, size: int) -> tuple[int, int]:
    """One shared bus of constant rate; the fraction of a femtosecond is kept, so a long stream does not drift."""
    if arrival_fs > bus[BUS_FREE_FS]:
        bus[BUS_FREE_FS] = arrival_fs
        bus[BUS_FREE_NUM] = 0
    wait_fs = bus[BUS_FREE_FS] - arrival_fs
    parts = bus[BUS_FREE_NUM] + size * params[P_IDEAL_NUM]
    bus[BUS_FREE_FS] += size * params[P_IDEAL_FS] + parts // params[P_IDEAL_DEN]
    bus[BUS_FREE_NUM] = parts % params[P_IDEAL_DEN]
    finish_fs = bus[BUS_FREE_FS] + params[P_IDEAL_LATENCY_FS]
    return finish_fs + (1 if bus[BUS_FREE_NUM] > 0 else 0), wait_fs


@inlined
def _open(params: Array, asked: Array, time_fs: int, size: int, write: int, tag: int) -> int:
    """Begin a request and return its row of the table, which has room."""
    request = asked[0, A_FREE]
    asked[0, A_FREE] = asked[request, A_NEXT]
    asked[0, A_LEFT_FREE] -= 1
    asked[0, A_OPEN] += 1
    arrival = (time_fs + params[P_TICK_FS] - 1) // params[P_TICK_FS]
    asked[request, A_TIME_FS], asked[request, A_TAG] = time_fs, tag
    asked[request, A_LEFT] = 1  # until all of its runs wait
    asked[request, A_FINISH] = asked[request, A_UNLOADED] = arrival
    asked[request, A_SIZE], asked[request, A_WRITE], asked[request, A_SEQ] = size, write, asked[0, A_ORDER]
    return int(request)


@inlined
def _whole_rounds(where: Array, local: int, count: int) -> tuple[int, int]:
    """How many of the next `count` bursts make a run, and the bank groups that it goes round."""
    turn, chunk = 1 << where[M_TURN_BITS], 1 << where[M_CHUNK_BITS]
    if chunk == 1:
        return count, turn
    whole = turn * chunk - 1
    if local & whole or count <= whole:
        return min(count, chunk - (local & (chunk - 1))), 1
    return count & ~whole, turn


@inlined
def _region_of(params: Array, regions: Array, address: int) -> int:
    """The last region that begins at or before an address; the first one for what lies before all."""
    low, high = 0, params[P_REGIONS]
    while high - low > 1:
        middle = (low + high) // 2
        if regions[middle, 0] <= address:
            low = middle
        else:
            high = middle
    return low


@inlined
def _cut(
    where: Array, state: Array, runs: Array, asked: Array, request: int, address: int, size: int, write: int,
    region: int,
) -> int:
    """Let the runs of a request wait at their channels; return its bursts."""
    unit_bits, burst_bits = where[M_UNIT_BITS], where[M_BURST_BITS]
    unit_bursts, span = 1 << unit_bits, 1 << where[M_RUN_BITS]
    burst, end = address >> burst_bits, ((address + size - 1) >> burst_bits) + 1
    bursts, arrival = end - burst, asked[request, A_FINISH]
    while burst < end:
        unit, offset = burst >> unit_bits, burst & (unit_bursts - 1)
        c, upper = channel_of(where, unit)
        local = (upper << unit_bits) + offset
        count = min(min(end - burst, unit_bursts - offset), span - (local & (span - 1)))
        count, turn = _whole_rounds(where, local, count)
        piece = min(address + size, (burst + count) << burst_bits) - max(address, burst << burst_bits)
        wait_run(where, state[c], runs, asked, request, arrival, local, count, write, piece, region, turn)
        state[c, CH_NEXT] = min(state[c, CH_NEXT], arrival)
        burst += count
    return int(bursts)


@kernel
def _advance_channels(
    params: Array, control: Array, rules: Array, nodes: Array, state: Array, runs: Array, asked: Array,
    counters: Array, series: Array, regions: Array, responses: Array, heap: Array, until_fs: int,
) -> None:  # fmt: skip
    """Make every channel's decisions before a time, and note when the next one that may bring an answer is due."""
    until, due = (until_fs + params[P_TICK_FS] - 1) // params[P_TICK_FS], FAR_FS
    for c in range(state.shape[0]):
        if state[c, CH_NEXT] < until:
            _advance_channel(
                params, control, rules, nodes, state[c], runs, asked, counters, series, regions, responses, heap, until
            )
        if _awaited(params, state[c]):
            due = min(due, state[c, CH_NEXT] * params[P_TICK_FS])
    asked[0, A_NEXT_FS], asked[0, A_UNTIL] = due, max(asked[0, A_UNTIL], until)


@inlined
def _awaited(params: Array, s: Array) -> bool:
    """Whether somebody waits for an answer of a channel."""
    if s[CH_SIZE0 + READ_LIST] or s[CH_WAIT_FIRST] or s[CH_WAIT_FIRST + 1]:
        return True
    return bool(params[P_POSTED] == 0 and s[CH_SIZE0 + WRITE_LIST])


@inlined
def _advance_channel(
    params: Array, control: Array, rules: Array, nodes: Array, s: Array, runs: Array, asked: Array, counters: Array,
    series: Array, regions: Array, responses: Array, heap: Array, until: int,
) -> None:  # fmt: skip
    """Let a channel do what is due before tick `until`."""
    now = s[CH_NEXT]
    while now < until:
        arrival = s[CH_ADMIT_FROM]
        if arrival <= now:
            arrival = admit(params, control, nodes, s, runs, asked, counters, series, responses, heap, now)
            s[CH_ADMIT_FROM] = arrival
        due = step(control, rules, nodes, s, runs, now)
        if s[CH_FINISHED]:
            answer_finished(params, control, s, runs, asked, counters, series, regions, responses, heap)
        if s[CH_ADMIT_FROM] == 0 and _place_free(control, s, runs, now):  # an entry has left its queue
            due = now + 1
        now = max(now + 1, min(due, arrival))
        if control[P_REFRESH] != NO_REFRESH and now == s[CH_NEXT_REFRESH]:
            skip_idle(control, s, min(until, arrival))
            now = min(s[CH_NEXT_REFRESH], arrival)
    s[CH_NEXT] = now


@inlined
def _place_free(control: Array, s: Array, runs: Array, now: int) -> bool:
    """Whether a run that has arrived could get the place that another has left."""
    for write in range(2):
        run = s[CH_WAIT_FIRST + write] - 1
        if run >= 0 and runs[run, E_ARRIVAL] <= now and fits(control, s, runs, write, run):
            return True
    return False


@kernel
def skip_idle(control: Array, s: Array, target: int) -> None:
    """Pass over whole rounds of refreshes of a channel that has nothing else to do before tick `target`.

    The last round before `target` is left: its commands leave the same state as all of them.
    """
    if s[CH_OWED] or s[CH_REFRESHING] or s[CH_ACTIVATING] or s[CH_SIZE0] + s[CH_SIZE0 + 1] + s[CH_SIZE0 + 2]:
        return
    refreshes = control[P_BANKS] if control[P_REFRESH] == PER_BANK else control[P_PSEUDO]
    interval = control[P_REFI] * (control[P_BANKS] if control[P_REFRESH] == PER_BANK else 1)
    rounds = (target - s[CH_NEXT_REFRESH]) // interval - 2
    if rounds <= 0:
        return
    for bank in range(control[P_BANKS]):
        if s[control[AT_BANK] + B_WORDS * bank + B_ROW] >= 0:
            return  # rows that are open are closed by the next refreshes
    s[CH_NEXT_REFRESH] += rounds * interval
    s[CH_REFRESHES] += rounds * refreshes
    if control[P_REFRESH] != PER_BANK:
        s[CH_SERVED] += rounds * refreshes


@kernel
def memory_flush(
    params: Array, control: Array, rules: Array, nodes: Array, where: Array, state: Array, runs: Array, asked: Array,
    counters: Array, series: Array, regions: Array, responses: Array, heap: Array,
) -> int:  # fmt: skip
    """Write all that is queued, also what was held back; return the fs of the last write's last data.

    0 without writes or with `ideal`.
    """
    last = 0
    if params[P_IDEAL]:
        return last
    held, control[P_HOLD] = control[P_HOLD], 0
    for c in range(state.shape[0]):
        s = state[c]
        if held and s[CH_SIZE0 + WRITE_LIST]:
            s[CH_NEXT] = min(s[CH_NEXT], asked[0, A_UNTIL])
            s[CH_ROW_FROM] = s[CH_COLUMN_FROM] = 0
        while s[CH_SIZE0 + WRITE_LIST] or s[CH_WAIT_FIRST + 1]:
            _advance_channel(
                params, control, rules, nodes, s, runs, asked, counters, series, regions, responses, heap,
                s[CH_NEXT] + 1,
            )  # fmt: skip
        last = max(last, s[CH_LAST_WRITE])
    control[P_HOLD] = held
    return int(last * params[P_TICK_FS])


def advance(state: MemoryState, port: MemoryPort, until_fs: int) -> int:
    """Call `memory_advance` until it no longer needs room, growing tables; return OK or BAD_REQUEST."""
    while True:
        status = memory_advance(  # type: ignore[call-arg]
            *state.arrays, port.requests, port.ring, port.responses, port.heap_state, until_fs
        )
        if status == FULL:
            port.grow_responses()
        elif status == CROWDED:
            state.grow()
        else:
            return int(status)
