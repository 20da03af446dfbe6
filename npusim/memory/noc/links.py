"""Reservation of one link: behind all packets, or in the first gap between those that are still to come."""

from __future__ import annotations

from npusim.jit import inlined, kernel
from npusim.memory.noc.state import CALENDAR_BLOCKS, CT_FLITS, CT_PACKETS, CT_WAIT, LK_CALENDAR, LK_FREE, Array

FULL = (1 << 32) - 1


@inlined
def reserve(links: Array, counters: Array, link: int, ready_cycle: int, flits: int) -> int:
    """Hold a link for `flits` cycles behind all packets, which come in order; return the first of the cycles."""
    start = max(ready_cycle, links[link, LK_FREE])
    links[link, LK_FREE] = start + flits
    counters[link, CT_FLITS] += flits
    counters[link, CT_PACKETS] += 1
    counters[link, CT_WAIT] += start - ready_cycle
    return int(start)


@kernel
def reserve_gap(links: Array, counters: Array, link: int, ready_cycle: int, flits: int) -> int:
    """Hold a link for the first `flits` cycles in a row, from `ready_cycle` on, that are free; return the first.

    Packets ask hops in advance, so a link's free time alone would shut out whoever asks later and comes earlier: on a
    ring the waste feeds on itself. The calendar reaches CALENDAR_BLOCKS * 32 cycles; what lies before it is taken.
    """
    start = cycle = ready_cycle
    while cycle < start + flits:
        block = cycle >> 5
        newest = links[link, LK_CALENDAR + 2 * (block & (CALENDAR_BLOCKS - 1))]
        if newest > block:
            start = cycle = (newest + 1 - CALENDAR_BLOCKS) << 5
            continue
        taken = _taken(links, link, block)
        if taken == FULL:
            start = cycle = (block + 1) << 5
            continue
        here = min(start + flits - cycle, 32 - (cycle & 31))
        clash = (taken >> (cycle & 31)) & ((1 << here) - 1)
        if clash == 0:
            cycle += here
            continue
        start = cycle = cycle + _bits(clash)
    cycle = start
    while cycle < start + flits:
        here = min(start + flits - cycle, 32 - (cycle & 31))
        place = LK_CALENDAR + 2 * ((cycle >> 5) & (CALENDAR_BLOCKS - 1))
        taken = _taken(links, link, cycle >> 5)
        links[link, place] = cycle >> 5
        links[link, place + 1] = taken | (((1 << here) - 1) << (cycle & 31))
        cycle += here
    counters[link, CT_FLITS] += flits
    counters[link, CT_PACKETS] += 1
    counters[link, CT_WAIT] += start - ready_cycle
    return int(start)


@inlined
def _taken(links: Array, link: int, block: int) -> int:
    """Return the taken cycles of a block, one bit each; none when its place still holds an older block."""
    place = LK_CALENDAR + 2 * (block & (CALENDAR_BLOCKS - 1))
    return int(links[link, place + 1]) if links[link, place] == block else 0


@inlined
def _bits(value: int) -> int:
    """Return the length of a number of at most 32 bits."""
    length = 0
    for step in (16, 8, 4, 2, 1):
        if value >> step > 0:
            value >>= step
            length += step
    return length + value
