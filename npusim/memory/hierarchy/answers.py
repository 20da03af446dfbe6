"""The way back: from a home slice to the partition that asked, and from a slice to the core."""

from __future__ import annotations

from typing import Any

import numpy.typing as npt

from npusim.jit import inlined
from npusim.memory.hierarchy.clock import free_row, fs_of, schedule
from npusim.memory.hierarchy.layout import (
    A_FINISH_FS,
    A_LEFT,
    A_NEXT,
    A_ORDER,
    A_TAG,
    A_TIME_FS,
    A_WAIT_FS,
    C_HISTOGRAM,
    C_LATENCY_FS,
    C_WAIT_FS,
    CO_CYCLE,
    CO_ROW,
    H_FAR_BACK,
    H_HIT,
    H_NET,
    H_Q,
    H_RATE,
    H_RESPONSE,
    K_ACK,
    K_REPLY,
    K_RETURN,
    N_ASKED_FREE,
    N_ASKED_LEFT,
    N_OPEN,
    NET_NONE,
    R_ASKED,
    R_BYTES,
    R_FOLLOWER,
    R_KIND,
    R_OWN,
    R_SLICE,
    R_SLOT,
    R_WAIT,
    R_WRITE,
    S_OUT,
)
from npusim.memory.hierarchy.ways import cross
from npusim.memory.port import heap_insert
from npusim.memory.queues import bucket_of

Array = npt.NDArray[Any]


@inlined
def give_back(
    params: Array, now: Array, slices: Array, wheel: Array, rows: Array, asked: Array, far: Array, counters: Array,
    responses: Array, heap: Array, s: int, row: int, cycle: int,
) -> None:  # fmt: skip
    """A row has what it wanted at slice `s`: it goes to the core from its own partition, else over the link."""
    own = rows[row, R_OWN]
    write = rows[row, R_WRITE]
    if own == s:
        queued = 0 if write else _leave(params, slices, s, cycle, rows[row, R_BYTES])
        rows[row, R_WAIT] += queued * params[H_Q]
        finish(params, now, slices, wheel, rows, asked, counters, responses, heap, row, cycle + queued)
        return
    queued = cross(params, far, cycle, s, own, 0 if write else rows[row, R_BYTES])
    rows[row, R_WAIT] += queued * params[H_Q]
    rows[row, R_KIND], rows[row, R_SLICE] = K_ACK if write else K_RETURN, own
    schedule(now, wheel, rows, row, cycle + params[H_FAR_BACK] + queued)


@inlined
def _leave(params: Array, slices: Array, s: int, cycle: int, size_bytes: int) -> int:
    """Let bytes go from a slice to its cores; returns the cycles that they wait for others."""
    free = max(slices[s, S_OUT], cycle * params[H_RATE])
    slices[s, S_OUT] = free + size_bytes
    return int(free // params[H_RATE] - cycle)


@inlined
def finish(
    params: Array, now: Array, slices: Array, wheel: Array, rows: Array, asked: Array, counters: Array,
    responses: Array, heap: Array, row: int, cycle: int,
) -> None:  # fmt: skip
    """A piece leaves its own slice H_HIT cycles from now: over the network, if there is one."""
    if params[H_NET] == NET_NONE:
        deliver(params, now, rows, asked, counters, responses, heap, row, cycle + params[H_HIT])
        return
    rows[row, R_KIND] = K_REPLY
    schedule(now, wheel, rows, row, cycle + params[H_HIT])


@inlined
def deliver(
    params: Array, now: Array, rows: Array, asked: Array, counters: Array, responses: Array, heap: Array, row: int,
    cycle: int,
) -> None:  # fmt: skip
    """A piece, and those that wait for it at a coalescer, are in their cores H_RESPONSE cycles after a cycle."""
    if rows[row, R_SLOT]:
        now[rows[row, R_SLOT] + CO_ROW], now[rows[row, R_SLOT] + CO_CYCLE] = 0, cycle
    while row:
        follower = rows[row, R_FOLLOWER]
        answer(params, now, rows, asked, counters, responses, heap, row, cycle)
        row = follower


@inlined
def answer(
    params: Array, now: Array, rows: Array, asked: Array, counters: Array, responses: Array, heap: Array, row: int,
    cycle: int,
) -> None:  # fmt: skip
    """A piece is in its core H_RESPONSE cycles after a cycle; its request is answered after its last piece."""
    request, arrival = rows[row, R_ASKED], cycle + params[H_RESPONSE]
    asked[request, A_FINISH_FS] = max(asked[request, A_FINISH_FS], fs_of(params, arrival))
    asked[request, A_WAIT_FS] = max(asked[request, A_WAIT_FS], rows[row, R_WAIT])
    free_row(now, rows, row)
    asked[request, A_LEFT] -= 1
    if asked[request, A_LEFT] > 0:
        return
    finish_fs, wait_fs = asked[request, A_FINISH_FS], asked[request, A_WAIT_FS]
    heap_insert(responses, heap, finish_fs, asked[request, A_ORDER], asked[request, A_TAG], wait_fs)
    _count(counters, finish_fs - asked[request, A_TIME_FS], wait_fs)
    asked[request, A_NEXT] = now[N_ASKED_FREE]
    now[N_ASKED_FREE] = request
    now[N_ASKED_LEFT] += 1
    now[N_OPEN] -= 1


@inlined
def _count(counters: Array, latency_fs: int, wait_fs: int) -> None:
    counters[C_LATENCY_FS] += latency_fs
    counters[C_WAIT_FS] += wait_fs
    counters[C_HISTOGRAM + bucket_of(latency_fs)] += 1
