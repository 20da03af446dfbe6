"""Writing back what is dirty, a bounded number of lines at a time."""

from __future__ import annotations

from typing import Any

import numpy.typing as npt

from npusim.jit import kernel
from npusim.memory.caches.lines import G_SETS, G_WAYS, MARK_BITS, VALID_MASK
from npusim.memory.hierarchy.layout import MARGIN, N_CURSOR, N_CYCLE, N_LEFT, N_WRITES
from npusim.memory.hierarchy.ways import write_dram
from npusim.memory.port import ring_free

Array = npt.NDArray[Any]
IN_FLIGHT = 1024  # writes on their way to the DRAM


@kernel
def write_dirty(
    geometry: Array, tags: Array, marks: Array, params: Array, now: Array, slices: Array, wheel: Array, rows: Array,
    counters: Array, requests: Array, ring: Array,
) -> bool:  # fmt: skip
    """Send dirty lines to the DRAM, which stay as clean ones, until many are on their way; True after the last."""
    lines = geometry[G_SETS] * geometry[G_WAYS]
    while now[N_CURSOR] < tags.shape[0]:
        place = now[N_CURSOR]
        dirty = marks[place] >> MARK_BITS
        if dirty:
            if now[N_WRITES] >= IN_FLIGHT or min(ring_free(requests, ring), now[N_LEFT]) < MARGIN:
                return False
            s = place // lines
            write_dram(
                params, now, slices, wheel, rows, counters, requests, ring, now[N_CYCLE], s, tags[place], dirty
            )
            marks[place] &= VALID_MASK
        now[N_CURSOR] += 1
    now[N_CURSOR] = 0
    return True
