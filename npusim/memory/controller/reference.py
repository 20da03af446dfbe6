"""Streams that are pushed into the controllers as Ramulator 2.1 is driven: in order, with head-of-line blocking."""

from __future__ import annotations

from typing import Any

import numpy.typing as npt

from npusim.jit import kernel
from npusim.memory.controller.layout import (
    CH_ACTIVATING,
    CH_NEXT,
    CH_SIZE0,
    E_ARRIVAL,
    E_WRITE,
    READ_LIST,
    WRITE_LIST,
)
from npusim.memory.controller.send import append, fits
from npusim.memory.controller.step import step

Array = npt.NDArray[Any]


@kernel
def inject(
    params: Array, nodes: Array, state: Array, runs: Array, channel_of: Array, due: Array, i: int, clock: int
) -> int:
    """Push requests from `i` on until one is not due or its queue is full; return the first that was not pushed."""
    while i < runs.shape[0] and due[i] <= clock:
        s = state[channel_of[i]]
        queue = WRITE_LIST if runs[i, E_WRITE] else READ_LIST
        if not fits(params, s, runs, queue, i):
            break
        runs[i, E_ARRIVAL] = clock
        append(params, nodes, s, runs, queue, i, clock)
        s[CH_NEXT] = clock + 1
        i += 1
    return i


@kernel
def run_stream(
    params: Array, rules: Array, nodes: Array, state: Array, runs: Array, channel_of: Array, due: Array, until: int
) -> int:
    """Run until all requests are done, or clock `until`; returns the clock.

    Row i of `runs` is request i. Before each tick, requests that are due are pushed; then the clock goes on by one and
    every channel has its tick.
    """
    clock, i, channels = 0, 0, state.shape[0]
    while clock < until:
        i = inject(params, nodes, state, runs, channel_of, due, i, clock)
        upcoming, waiting = 1 << 60, 0
        for c in range(channels):
            s = state[c]
            if s[CH_NEXT] <= clock + 1:
                s[CH_NEXT] = step(params, rules, nodes, s, runs, clock + 1)
            upcoming = min(upcoming, s[CH_NEXT])
            waiting += s[CH_SIZE0] + s[CH_SIZE0 + 1] + s[CH_SIZE0 + 2] + s[CH_ACTIVATING]
        if i == runs.shape[0] and waiting == 0:
            return clock + 1
        if i < runs.shape[0]:
            if due[i] > clock:
                upcoming = min(upcoming, due[i] + 1)
            elif fits(params, state[channel_of[i]], runs, WRITE_LIST if runs[i, E_WRITE] else READ_LIST, i):
                upcoming = clock + 2  # the place that it waited for is free
        clock = max(clock + 1, upcoming - 1)
    return clock
