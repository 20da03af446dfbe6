"""The flit model from Python: packets in, deliveries out, buffers that grow on the way."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from isa.errors import DeadlockError
from npusim.memory.noc.flit import flit_advance
from npusim.memory.noc.flit_state import (
    CK_NOW,
    CK_PACKETS,
    DEADLOCK,
    DELIVERIES_FULL,
    PACKETS_FULL,
    RING_HEAD,
    RING_TAIL,
    TX_FLITS,
    TX_SOURCE,
    TX_TARGET,
    TX_TIME,
    TX_WORDS,
    FlitState,
)
from npusim.memory.noc.state import Array


def push_packets(state: FlitState, rows: npt.ArrayLike) -> None:
    """Append packets (time_cycle, source, target, flits, tag), in the order of their times."""
    table = np.asarray(rows, np.int64).reshape(-1, TX_WORDS)
    nodes = state.network.topology.nodes
    bad = (table[:, [TX_SOURCE, TX_TARGET]] < 0).any(1) | (table[:, [TX_SOURCE, TX_TARGET]] >= nodes).any(1)
    bad |= (table[:, TX_FLITS] <= 0) | (np.diff(table[:, TX_TIME], prepend=0) < 0)
    if bad.any():
        row = int(np.flatnonzero(bad)[0])
        raise ValueError(
            f"packet {row}, {table[row].tolist()}: nodes are 0 to {nodes - 1}, flits above 0, times must not decrease"
        )
    while len(state.requests) - (state.ring[RING_TAIL] - state.ring[RING_HEAD]) < len(table):
        state.grow_requests()
    state.requests[(state.ring[RING_TAIL] + np.arange(len(table))) % len(state.requests)] = table
    state.ring[RING_TAIL] += len(table)


def advance(state: FlitState, until_cycle: int) -> int:
    """Decide every cycle before `until_cycle`; returns the last status of the kernel, OK or DEADLOCK."""
    while True:
        status: int = flit_advance(*state.arrays, until_cycle)  # type: ignore[call-arg]
        if status == PACKETS_FULL:
            state.grow_packets()
        elif status == DELIVERIES_FULL:
            state.grow_deliveries()
        else:
            return status


def run_flits(state: FlitState, until_cycle: int) -> Array:
    """Advance and take what was delivered: rows (time_cycle, tag). Raises DeadlockError when nothing moves any more."""
    if advance(state, until_cycle) == DEADLOCK:
        raise DeadlockError(
            f"network: {int(state.clock[CK_PACKETS])} packets wait for one another from cycle "
            f"{int(state.clock[CK_NOW])} on"
        )
    rows = np.arange(state.done[RING_HEAD], state.done[RING_TAIL])
    state.done[RING_HEAD] = state.done[RING_TAIL]
    found: Array = state.deliveries[rows % len(state.deliveries)]
    return found
