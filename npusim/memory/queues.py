"""Requests on their way through the channels: cut into runs, waiting for a place, answered after the last.

A run is what one request wants of one row (of all bank groups, where the map rotates them). A read that finds all of
its data in a queued write is answered from there; one that finds some of it waits until that is written.
"""

from __future__ import annotations

from typing import Any

import numpy.typing as npt

from npusim.jit import inlined, kernel
from npusim.memory.controller.layout import (
    AT_LIST,
    CH_ADMIT_FROM,
    CH_COLUMN_FROM,
    CH_FINISHED,
    CH_ROW_FROM,
    CH_SIZE0,
    CH_WAIT_FIRST,
    CH_WAIT_LAST,
    CH_WANTED,
    CH_WRITES_FROM,
    CH_WRITES_TO,
    E_ARRIVAL,
    E_BANK,
    E_BYTES,
    E_COUNT,
    E_DONE,
    E_LOCAL,
    E_NEXT,
    E_OWN,
    E_REGION,
    E_REQUEST,
    E_ROW,
    E_SEEN,
    E_TOTAL,
    E_TURN,
    E_WRITE,
    FAR,
    L_WORDS,
    P_BURST_TICKS,
    P_COLUMN_TICKS,
    P_HOLD,
    P_READ_LATENCY,
    P_SLOTS,
    READ_LIST,
    SEEN_CONFLICT,
    SEEN_HIT,
    SEEN_MISS,
    WRITE_LIST,
)
from npusim.memory.controller.mapping import M_CHUNK_BITS, M_RUN_BITS, locate
from npusim.memory.controller.send import append, fits
from npusim.memory.port import heap_insert
from npusim.memory.state import (
    A_FINISH,
    A_FREE,
    A_LEFT,
    A_LEFT_FREE,
    A_NEXT,
    A_OPEN,
    A_RUN_FREE,
    A_RUNS_LEFT,
    A_SEQ,
    A_TAG,
    A_TIME_FS,
    A_UNLOADED,
    BUCKETS,
    C_FORWARDED,
    C_HISTOGRAM,
    C_LATENCY_FS,
    C_SERIES_MERGED,
    C_WAIT_FS,
    FIRST_BIN_FS,
    P_CONFLICT,
    P_MISS,
    P_POSTED,
    P_TICK_FS,
)

Array = npt.NDArray[Any]


@kernel
def _merge_bins(counters: Array, series: Array, time_fs: int) -> None:
    """Merge bins in pairs until a time lies within the last."""
    bins = series.shape[1]
    while time_fs >= (FIRST_BIN_FS << counters[C_SERIES_MERGED]) * bins:
        for kind in range(2):
            for i in range(bins // 2):
                series[kind, i] = series[kind, 2 * i] + series[kind, 2 * i + 1]
            series[kind, bins // 2 :] = 0
        counters[C_SERIES_MERGED] += 1


@inlined
def bin_of(counters: Array, series: Array, time_fs: int) -> int:
    """The bin of the time series that a time lies in."""
    first = time_fs // FIRST_BIN_FS
    if first >> counters[C_SERIES_MERGED] >= series.shape[1]:
        _merge_bins(counters, series, time_fs)
    return int(first >> counters[C_SERIES_MERGED])


@inlined
def record_run(counters: Array, series: Array, begin_fs: int, end_fs: int, size: int, write: int) -> None:
    """Add the bytes of a run to the time series, evenly over the time that they were on the bus."""
    last = bin_of(counters, series, end_fs)  # the series now reaches to the end
    width = FIRST_BIN_FS << counters[C_SERIES_MERGED]
    while begin_fs < last * width:
        first = begin_fs // width
        edge = (first + 1) * width
        part = size * (edge - begin_fs) // (end_fs - begin_fs)
        series[write, first] += part
        begin_fs, size = edge, size - part
    series[write, last] += size


@inlined
def bucket_of(latency_fs: int) -> int:
    """The bucket of a latency (npusim.record.percentile): 2n for [2^n, 1.5 x 2^n) ns, 2n + 1 for the rest."""
    ns, bucket = latency_fs // 1_000_000, 0
    while ns >= 4:
        ns >>= 1
        bucket += 2
    return int(min(BUCKETS - 1, bucket + (ns if ns > 1 else 0)))


@inlined
def count_latency(counters: Array, latency_fs: int, wait_fs: int) -> None:
    """Add a request to the sums and to the histogram."""
    counters[C_LATENCY_FS] += latency_fs
    counters[C_WAIT_FS] += wait_fs
    counters[C_HISTOGRAM + bucket_of(latency_fs)] += 1


@inlined
def wait_run(
    where: Array, s: Array, runs: Array, asked: Array, request: int, arrival: int, local: int, count: int, write: int,
    size: int, region: int, turn: int,
) -> None:  # fmt: skip
    """Put a run of a request among those that wait for a place; one that goes on where the last ended extends it."""
    last = s[CH_WAIT_LAST + write] - 1
    own = count
    if last >= 0 and runs[last, E_REQUEST] == request:
        own += runs[last, E_OWN]
        inside = local & ((1 << where[M_RUN_BITS]) - 1)
        if where[M_CHUNK_BITS] and (turn == 1 or runs[last, E_TURN] == 1):
            inside = 0
        if inside and runs[last, E_LOCAL] + runs[last, E_COUNT] == local:
            runs[last, E_COUNT] += count
            runs[last, E_BYTES] += size
            runs[last, E_OWN] = own
            return
    run = asked[0, A_RUN_FREE]
    asked[0, A_RUN_FREE] = runs[run, E_NEXT]
    asked[0, A_RUNS_LEFT] -= 1
    bank, row, _ = locate(where, local)
    runs[run, E_NEXT], runs[run, E_ARRIVAL] = 0, arrival
    runs[run, E_BANK], runs[run, E_ROW] = bank, row
    runs[run, E_LOCAL], runs[run, E_COUNT] = local, count
    runs[run, E_WRITE], runs[run, E_REQUEST] = write, request
    runs[run, E_SEEN], runs[run, E_BYTES], runs[run, E_OWN] = 0, size, own
    runs[run, E_REGION], runs[run, E_TURN] = region, turn
    asked[request, A_LEFT] += 1
    if last < 0:
        s[CH_WAIT_FIRST + write] = 1 + run
        s[CH_ADMIT_FROM] = min(s[CH_ADMIT_FROM], arrival)
    else:
        runs[last, E_NEXT] = 1 + run
    s[CH_WAIT_LAST + write] = 1 + run


@inlined
def admit(
    params: Array, control: Array, nodes: Array, s: Array, runs: Array, asked: Array, counters: Array, series: Array,
    responses: Array, heap: Array, now: int,
) -> int:  # fmt: skip
    """Give places to the runs that have arrived; return the tick at which the next one could get one."""
    due, blocked = FAR, False
    s[CH_WANTED] = 0
    for write in range(2):
        while s[CH_WAIT_FIRST + write]:
            run = s[CH_WAIT_FIRST + write] - 1
            if runs[run, E_ARRIVAL] > now:  # also of a full queue: there may be room by then
                due = min(due, runs[run, E_ARRIVAL])
                break
            if not fits(control, s, runs, write, run):
                break
            overlap = 0 if write or s[CH_SIZE0 + WRITE_LIST] == 0 else _queued_write(control, s, runs, run)
            if overlap == 1:
                blocked = True
                if control[P_HOLD]:
                    s[CH_WANTED], s[CH_ROW_FROM], s[CH_COLUMN_FROM] = 1, 0, 0
                break
            s[CH_WAIT_FIRST + write] = runs[run, E_NEXT]
            if runs[run, E_NEXT] == 0:
                s[CH_WAIT_LAST + write] = 0
            if overlap == 2:
                _forward(s, runs, counters, run, now)
                continue
            append(control, nodes, s, runs, WRITE_LIST if write else READ_LIST, run, now)
            if write and blocked:  # it may hold all that the read before wants
                due = now + 1
            if write and params[P_POSTED]:
                request = runs[run, E_REQUEST]
                asked[request, A_FINISH] = max(asked[request, A_FINISH], now + 1)
                close(params, asked, counters, series, responses, heap, request)
                runs[run, E_REQUEST] = 0
    return due


@kernel
def _queued_write(control: Array, s: Array, runs: Array, run: int) -> int:
    """Whether a read's data lie in a queued write: 0 not at all, 1 in part, 2 all of them in one."""
    place, first = control[AT_LIST] + WRITE_LIST * control[P_SLOTS], runs[run, E_LOCAL]
    end, found = first + runs[run, E_COUNT], 0
    if first >= s[CH_WRITES_TO] or end <= s[CH_WRITES_FROM]:
        return 0
    for i in range(s[CH_SIZE0 + WRITE_LIST]):
        write = s[place + L_WORDS * i]
        begin = runs[write, E_LOCAL]
        if begin < end and first < begin + runs[write, E_TOTAL]:
            if begin <= first and end <= begin + runs[write, E_TOTAL]:
                return 2
            found = 1
    return found


@inlined
def _forward(s: Array, runs: Array, counters: Array, run: int, now: int) -> None:
    runs[run, E_DONE], runs[run, E_SEEN] = now + 1, SEEN_HIT
    runs[run, E_NEXT] = s[CH_FINISHED]
    s[CH_FINISHED] = 1 + run
    counters[C_FORWARDED] += 1


@inlined
def answer_finished(
    params: Array, control: Array, s: Array, runs: Array, asked: Array, counters: Array, series: Array,
    regions: Array, responses: Array, heap: Array,
) -> None:  # fmt: skip
    """Count the runs that are done, free them, and answer the requests whose last they were."""
    while s[CH_FINISHED]:
        run = s[CH_FINISHED] - 1
        s[CH_FINISHED] = runs[run, E_NEXT]
        regions[runs[run, E_REGION], runs[run, E_SEEN]] += 1
        request, done = runs[run, E_REQUEST], runs[run, E_DONE]
        long = (runs[run, E_TOTAL] - 1) * control[P_COLUMN_TICKS] + control[P_BURST_TICKS]
        begin = max(done - long, 0) if runs[run, E_COUNT] == 0 else done  # a read out of a queue was on no bus
        tick_fs = params[P_TICK_FS]
        record_run(
            counters, series, begin * tick_fs, done * tick_fs, runs[run, E_BYTES], 1 if runs[run, E_WRITE] else 0
        )
        if request > 0:
            extra = 0
            if runs[run, E_SEEN] == SEEN_MISS:
                extra = params[P_MISS]
            elif runs[run, E_SEEN] == SEEN_CONFLICT:
                extra = params[P_CONFLICT]
            # Alone, this run would wait only for its row and for its own request's bursts.
            alone = runs[run, E_ARRIVAL] + extra + (runs[run, E_OWN] - 1) * control[P_COLUMN_TICKS]
            alone += control[P_READ_LATENCY]
            asked[request, A_UNLOADED] = max(asked[request, A_UNLOADED], alone)
            asked[request, A_FINISH] = max(asked[request, A_FINISH], done)
            close(params, asked, counters, series, responses, heap, request)
        runs[run, E_NEXT] = asked[0, A_RUN_FREE]
        asked[0, A_RUN_FREE] = run
        asked[0, A_RUNS_LEFT] += 1


@inlined
def close(
    params: Array, asked: Array, counters: Array, series: Array, responses: Array, heap: Array, request: int
) -> None:
    """Count a run of the request as over, or its cutting; answer it after the last."""
    asked[request, A_LEFT] -= 1
    if asked[request, A_LEFT] > 0:
        return
    tick_fs = params[P_TICK_FS]
    finish_fs = asked[request, A_FINISH] * tick_fs
    wait_fs = max(0, asked[request, A_FINISH] - asked[request, A_UNLOADED]) * tick_fs
    heap_insert(responses, heap, finish_fs, asked[request, A_SEQ], asked[request, A_TAG], wait_fs)
    count_latency(counters, finish_fs - asked[request, A_TIME_FS], wait_fs)
    asked[request, A_NEXT] = asked[0, A_FREE]
    asked[0, A_FREE] = request
    asked[0, A_LEFT_FREE] += 1
    asked[0, A_OPEN] -= 1
