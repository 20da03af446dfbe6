"""Reservation of one link: the step that the packet and the bandwidth model share."""

from __future__ import annotations

from npusim.jit import inlined
from npusim.memory.noc.state import CT_FLITS, CT_PACKETS, CT_WAIT, LK_FREE, Array


@inlined
def reserve(links: Array, counters: Array, link: int, ready_cycle: int, flits: int) -> int:
    """Hold a link for `flits` cycles, from `ready_cycle` or when it is free; return the head's cycle."""
    start = max(ready_cycle, links[link, LK_FREE])
    links[link, LK_FREE] = start + flits
    counters[link, CT_FLITS] += flits
    counters[link, CT_PACKETS] += 1
    counters[link, CT_WAIT] += start - ready_cycle
    return int(start)
