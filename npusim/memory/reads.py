"""Read queues: a channel serves row hits first, so that streams that share it do not close each other's rows.

Policy (FR-FCFS with a cap, Rixner et al., ISCA 2000). A channel decides when its last column command has gone out: of
the `read_queue_runs` oldest runs that have arrived, it takes the oldest that finds its row open, else the oldest; after
half as many runs went past the oldest one, that is taken. A decision is made only when all that arrived before it is
known, so the result does not depend on how time is cut into windows. Runs and requests live in one table of rows.
"""

from __future__ import annotations

from typing import Any

import numpy.typing as npt

from npusim.jit import kernel
from npusim.memory.commands import record, refresh, serve_run
from npusim.memory.port import heap_push
from npusim.memory.state import (
    B_ROW,
    C_LATENCY_FS,
    C_WAIT_FS,
    CH_LAST_COLUMN,
    CH_NEXT_REFRESH,
    CH_PENDING,
    CH_READ_FIRST,
    CH_READ_LAST,
    CH_READ_PASSED,
    P_BANKS,
    P_BL,
    P_CCD_S,
    P_CL,
    P_GROUPS,
    P_READ_RUNS,
    P_TCK_FS,
    R_ARRIVAL,
    R_BANK,
    R_BURSTS,
    R_COLUMN,
    R_FINISH,
    R_FREE,
    R_LEFT,
    R_NEXT,
    R_NEXT_FS,
    R_OWN,
    R_REQUEST,
    R_REQUESTS,
    R_ROW,
    R_RUNS,
    R_SIZE,
    R_TAG,
    R_TIME_FS,
    R_UNLOADED,
)
from npusim.memory.writes import before_read, use_gap

Array = npt.NDArray[Any]
NONE = -1
FAR_FS = 1 << 62


@kernel
def open_request(reads: Array, arrival_fs: int, arrival: int, tag: int, size: int) -> int:
    """Begin a read request and return its row of the table, or NONE when the table is full."""
    request = reads[0, R_FREE]
    if request == NONE:
        return NONE
    reads[0, R_FREE] = reads[request, R_NEXT]
    reads[0, R_REQUESTS] += 1
    reads[request, R_TAG] = tag
    reads[request, R_TIME_FS] = arrival_fs
    reads[request, R_LEFT] = 1  # until all of its runs are queued
    reads[request, R_FINISH] = arrival
    reads[request, R_UNLOADED] = arrival
    reads[request, R_SIZE] = size
    return int(request)


@kernel
def queue_read(
    params: Array,
    banks: Array,
    state: Array,
    counters: Array,
    series: Array,
    reads: Array,
    responses: Array,
    heap: Array,
    c: int,
    arrival: int,
    column: int,
    count: int,
    bank: int,
    row: int,
    own: int,
    request: int,
) -> bool:
    """Queue a run of a request; `own` bursts of it lie in the channel before. False when the table is full."""
    serve_reads(params, banks, state, counters, series, reads, responses, heap, c, arrival)
    if state[c, CH_READ_FIRST] == NONE and state[c, CH_PENDING] > 0:
        use_gap(params, banks, state, counters, series, c, arrival)
    run = reads[0, R_FREE]
    if run == NONE:
        return False
    reads[0, R_FREE] = reads[run, R_NEXT]
    reads[0, R_RUNS] += 1
    reads[run, R_NEXT] = NONE
    reads[run, R_ARRIVAL] = arrival
    reads[run, R_COLUMN] = column
    reads[run, R_BURSTS] = count
    reads[run, R_BANK] = bank
    reads[run, R_ROW] = row
    reads[run, R_OWN] = own
    reads[run, R_REQUEST] = request
    reads[request, R_LEFT] += 1
    if state[c, CH_READ_FIRST] == NONE:
        state[c, CH_READ_FIRST] = run
        state[c, CH_READ_PASSED] = 0
    else:
        reads[state[c, CH_READ_LAST], R_NEXT] = run
    state[c, CH_READ_LAST] = run
    return True


@kernel
def serve_all(
    params: Array,
    banks: Array,
    state: Array,
    counters: Array,
    series: Array,
    reads: Array,
    responses: Array,
    heap: Array,
    until: int,
) -> None:
    """Make every channel's decisions before tick `until`, and note when the next one is due."""
    due = FAR_FS
    if reads[0, R_RUNS] > 0:
        for c in range(state.shape[0]):
            if state[c, CH_READ_FIRST] != NONE:
                serve_reads(params, banks, state, counters, series, reads, responses, heap, c, until)
                if state[c, CH_READ_FIRST] != NONE:
                    due = min(due, _decision(state, reads, c) * params[P_TCK_FS])
    reads[0, R_NEXT_FS] = due


@kernel
def serve_reads(
    params: Array,
    banks: Array,
    state: Array,
    counters: Array,
    series: Array,
    reads: Array,
    responses: Array,
    heap: Array,
    c: int,
    until: int,
) -> None:
    """Make channel c's decisions before tick `until`."""
    while state[c, CH_READ_FIRST] != NONE:
        now = _decision(state, reads, c)
        if now >= until:
            return
        if now >= state[c, CH_NEXT_REFRESH]:  # it closes the rows among which is chosen
            refresh(params, banks, state, counters, c, now)
        before, run = _choose(params, banks, state, reads, c, now)
        _unlink(state, reads, c, before, run)
        _serve(params, banks, state, counters, series, reads, c, run, now)
        close(params, counters, series, reads, responses, heap, reads[run, R_REQUEST])
        reads[run, R_NEXT] = reads[0, R_FREE]
        reads[0, R_FREE] = run
        reads[0, R_RUNS] -= 1


@kernel
def _decision(state: Array, reads: Array, c: int) -> int:
    """Return the tick at which channel c, which has runs to read, takes the next one."""
    return int(max(state[c, CH_LAST_COLUMN], reads[state[c, CH_READ_FIRST], R_ARRIVAL]))


@kernel
def _choose(params: Array, banks: Array, state: Array, reads: Array, c: int, now: int) -> tuple[int, int]:
    """Return the run that is served in tick `now`, after the one that stands before it in the queue (NONE: first)."""
    first = state[c, CH_READ_FIRST]
    if 2 * state[c, CH_READ_PASSED] >= params[P_READ_RUNS]:
        return NONE, first
    before, run = NONE, first
    for _ in range(params[P_READ_RUNS]):
        group = reads[run, R_COLUMN] & (params[P_GROUPS] - 1)
        if banks[c, group * params[P_BANKS] + reads[run, R_BANK], B_ROW] == reads[run, R_ROW]:
            return before, run
        before, run = run, reads[run, R_NEXT]
        if run == NONE or reads[run, R_ARRIVAL] > now:
            break
    return NONE, first


@kernel
def _unlink(state: Array, reads: Array, c: int, before: int, run: int) -> None:
    after = reads[run, R_NEXT]
    if before == NONE:
        state[c, CH_READ_FIRST] = after
        state[c, CH_READ_PASSED] = 0
    else:
        reads[before, R_NEXT] = after
        state[c, CH_READ_PASSED] += 1
    if after == NONE:
        state[c, CH_READ_LAST] = before


@kernel
def _serve(
    params: Array, banks: Array, state: Array, counters: Array, series: Array, reads: Array, c: int, run: int, now: int
) -> None:
    """Read a run; rows are opened from its arrival on, columns go out in the order of the decisions."""
    arrival, column, count = reads[run, R_ARRIVAL], reads[run, R_COLUMN], reads[run, R_BURSTS]
    bank, row, request = reads[run, R_BANK], reads[run, R_ROW], reads[run, R_REQUEST]
    if state[c, CH_PENDING] > 0:
        before_read(params, banks, state, counters, series, c, now, column, count, bank, row)
    group = column & (params[P_GROUPS] - 1)
    last, extra = serve_run(params, banks, state, counters, c, arrival, group, count, bank, row, 0)
    reads[request, R_FINISH] = max(reads[request, R_FINISH], last)
    # Without others in the way this run would wait only for the request's own earlier bursts in the channel.
    alone = arrival + extra + (reads[run, R_OWN] - 1) * params[P_CCD_S]
    reads[request, R_UNLOADED] = max(reads[request, R_UNLOADED], alone)


@kernel
def close(
    params: Array, counters: Array, series: Array, reads: Array, responses: Array, heap: Array, request: int
) -> None:
    """Count a run of the request as read, or its queueing as over; answer it after the last."""
    reads[request, R_LEFT] -= 1
    if reads[request, R_LEFT] > 0:
        return
    finish, tck_fs = reads[request, R_FINISH], params[P_TCK_FS]
    finish_fs = (finish + params[P_CL] + params[P_BL]) * tck_fs
    wait_fs = max(0, finish - reads[request, R_UNLOADED]) * tck_fs
    heap_push(responses, heap, finish_fs, reads[request, R_TAG], wait_fs)
    counters[C_WAIT_FS] += wait_fs
    counters[C_LATENCY_FS] += finish_fs - reads[request, R_TIME_FS]
    record(counters, series, finish_fs, reads[request, R_SIZE], 0)
    reads[request, R_NEXT] = reads[0, R_FREE]
    reads[0, R_FREE] = request
    reads[0, R_REQUESTS] -= 1
