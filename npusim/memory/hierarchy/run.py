"""Driving the hierarchy from Python: tables grow when the kernels ask for it."""

from __future__ import annotations

from npusim.memory.hierarchy import layout as at
from npusim.memory.hierarchy.advance import hierarchy_advance
from npusim.memory.hierarchy.state import HierarchyState
from npusim.memory.port import MemoryPort


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
