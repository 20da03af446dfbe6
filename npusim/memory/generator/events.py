"""What happens next: a heap of units by the cycle at which each wants to act; a unit has one entry at most.

Equal cycles go by the number of the unit, so the order is the same on every machine. Entries are (cycle, unit).
"""

from __future__ import annotations

from typing import Any

import numpy.typing as npt

from npusim.jit import kernel

Array = npt.NDArray[Any]

EV_CYCLE = 0
EV_UNIT = 1
EV_COLUMNS = 2


@kernel
def event_push(events: Array, size: Array, cycle: int, unit: int) -> None:
    """Add an entry; `events` has a row for every unit and `size` (int64[1]) counts those in use."""
    child = size[0]
    size[0] += 1
    while child > 0:
        parent = (child - 1) // 2
        if events[parent, EV_CYCLE] < cycle or (events[parent, EV_CYCLE] == cycle and events[parent, EV_UNIT] < unit):
            break
        events[child, EV_CYCLE] = events[parent, EV_CYCLE]
        events[child, EV_UNIT] = events[parent, EV_UNIT]
        child = parent
    events[child, EV_CYCLE] = cycle
    events[child, EV_UNIT] = unit


@kernel
def event_pop(events: Array, size: Array) -> None:
    """Remove row 0, the earliest entry; read it before. The heap must not be empty."""
    last = size[0] - 1
    size[0] = last
    cycle, unit = events[last, EV_CYCLE], events[last, EV_UNIT]
    hole = 0
    while True:
        child = 2 * hole + 1
        if child >= last:
            break
        if child + 1 < last and _earlier(events, child + 1, child):
            child += 1
        if cycle < events[child, EV_CYCLE] or (cycle == events[child, EV_CYCLE] and unit < events[child, EV_UNIT]):
            break
        events[hole, EV_CYCLE] = events[child, EV_CYCLE]
        events[hole, EV_UNIT] = events[child, EV_UNIT]
        hole = child
    events[hole, EV_CYCLE] = cycle
    events[hole, EV_UNIT] = unit


@kernel
def _earlier(events: Array, a: int, b: int) -> bool:
    if events[a, EV_CYCLE] != events[b, EV_CYCLE]:
        return bool(events[a, EV_CYCLE] < events[b, EV_CYCLE])
    return bool(events[a, EV_UNIT] < events[b, EV_UNIT])
