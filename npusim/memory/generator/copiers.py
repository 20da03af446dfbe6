"""Copy engines: requests of one size at a fixed rate, in order, as long as not too many are in flight."""

from __future__ import annotations

from typing import Any

import numpy.typing as npt

from npusim.jit import kernel
from npusim.memory.generator.events import event_push
from npusim.memory.generator.layout import (
    COPY,
    E_ADDRESS,
    E_BYTES,
    E_CORE,
    E_FLIGHT,
    E_LEFT,
    E_LIMIT,
    E_MILLI,
    E_PHASE,
    E_STATE,
    E_STEP,
    E_WRITE,
    K_COPIED,
    NONE,
    P_CORES,
    P_WARPS,
    STORE,
    UNIT_BLOCKED,
    UNIT_BUSY,
    UNIT_IDLE,
    X_FREE_FLIGHT,
)
from npusim.memory.generator.unit import send

Array = npt.NDArray[Any]
MILLI = 1000


@kernel
def copier_step(
    params: Array, pages: Array, copiers: Array, flights: Array, events: Array, size: Array, other: Array,
    counters: Array, requests: Array, ring: Array, e: int, cycle: int,
) -> None:  # fmt: skip
    """Send the next request of engine `e`, or wait for an answer."""
    if copiers[e, E_LEFT] <= 0:
        copiers[e, E_STATE] = UNIT_IDLE
        return
    if copiers[e, E_FLIGHT] >= copiers[e, E_LIMIT] or other[X_FREE_FLIGHT] == NONE:
        copiers[e, E_STATE] = UNIT_BLOCKED
        return
    piece = min(copiers[e, E_BYTES], copiers[e, E_LEFT])
    kind = COPY + STORE if copiers[e, E_WRITE] else COPY
    core, address = copiers[e, E_CORE], copiers[e, E_ADDRESS]
    send(params, pages, flights, other, counters, requests, ring, cycle, core, e, kind, address, piece)
    copiers[e, E_FLIGHT] += 1
    copiers[e, E_LEFT] -= piece
    copiers[e, E_ADDRESS] += copiers[e, E_STEP]
    copiers[e, E_PHASE] += copiers[e, E_MILLI]
    wait = copiers[e, E_PHASE] // MILLI
    copiers[e, E_PHASE] -= wait * MILLI
    event_push(events, size, cycle + wait, params[P_WARPS] + params[P_CORES] + e)


@kernel
def copier_answer(
    params: Array, copiers: Array, events: Array, size: Array, counters: Array, e: int, size_bytes: int, cycle: int
) -> None:
    """A request of engine `e` is done."""
    copiers[e, E_FLIGHT] -= 1
    counters[K_COPIED] += size_bytes
    if copiers[e, E_STATE] == UNIT_BLOCKED:
        copiers[e, E_STATE] = UNIT_BUSY
        event_push(events, size, cycle, params[P_WARPS] + params[P_CORES] + e)
