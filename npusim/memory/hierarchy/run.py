"""Driving the hierarchy from Python: tables grow when the kernels ask for it."""

from __future__ import annotations

from npusim.memory.dram import memory_flush
from npusim.memory.hierarchy import layout as at
from npusim.memory.hierarchy.advance import hierarchy_advance
from npusim.memory.hierarchy.flush import write_dirty
from npusim.memory.hierarchy.state import HierarchyState
from npusim.memory.port import RING_HEAD, RING_LAST_FS, RING_TAIL, MemoryPort

STEP_CYCLES = 1000


def advance(state: HierarchyState, port: MemoryPort, until_fs: int) -> int:
    """Call `hierarchy_advance` until it no longer needs room, growing tables; return OK or BAD_REQUEST."""
    while True:
        status = hierarchy_advance(  # type: ignore[call-arg]
            *state.arrays, port.requests, port.ring, port.responses, port.heap_state, until_fs
        )
        if not make_room(state, port, status):
            return int(status)


def make_room(state: HierarchyState, port: MemoryPort, status: int) -> bool:
    """Grow what a status names; False when it names nothing."""
    if status == at.FULL:
        port.grow_responses()
    elif status == at.CROWDED:
        state.memory.grow()
    elif status == at.ROWS:
        state.grow()
    elif status == at.DRAM_RING:
        state.port.grow_requests()
    elif status == at.DRAM_HEAP:
        state.port.grow_responses()
    else:
        return False
    return True


def hierarchy_flush(state: HierarchyState, port: MemoryPort, write_back: bool = False) -> int:
    """Finish all requests and write what is queued, with `write_back` also all dirty lines, which become clean.

    Returns the fs of the last write's last data, as memory_flush. No request may follow with an earlier time.
    """
    if not state.params[at.H_DIRECT]:
        _finish(state, port)
        while write_back:
            done = write_dirty(
                state.caches.geometry, state.caches.tags, state.caches.marks, state.params, state.now, state.slices,
                state.wheel, state.rows, state.counters, state.port.requests, state.port.ring,
            )  # fmt: skip
            _finish(state, port)
            if done:
                break
    elif advance(state, port, int(port.ring[RING_LAST_FS]) + 1) != at.OK:
        raise ValueError("the ring holds a request that the memory cannot serve")
    answers = port if state.params[at.H_DIRECT] else state.port
    return int(memory_flush(*state.memory.arrays, answers.responses, answers.heap_state))  # type: ignore[call-arg]


def _finish(state: HierarchyState, port: MemoryPort) -> None:
    """Go on until nothing is under way."""
    until = max(int(port.ring[RING_LAST_FS]) + 1, int(state.now[at.N_CYCLE]) * int(state.params[at.H_Q] + 1))
    step = STEP_CYCLES * int(state.params[at.H_Q])
    while state.now[at.N_OPEN] or state.now[at.N_WRITES] or port.ring[RING_HEAD] < port.ring[RING_TAIL]:
        if advance(state, port, until) != at.OK:
            raise ValueError("the ring holds a request that the memory cannot serve")
        until += step
