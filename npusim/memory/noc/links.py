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
    count(counters, link, start - ready_cycle, flits)
    return int(start)


@kernel
def reserve_gap(links: Array, counters: Array, link: int, ready_cycle: int, flits: int) -> int:
    """Hold a link for the first `flits` cycles in a row, from `ready_cycle` on, that are free; return the first.

    Packets ask hops in advance, so a link's free time alone would shut out whoever asks later and comes earlier: on a
    ring the waste feeds on itself. The calendar reaches CALENDAR_BLOCKS * 32 cycles; what lies before it is taken.
    """
    start = find_gap(links, link, link, ready_cycle, flits)
    take_gap(links, link, start, flits)
    count(counters, link, start - ready_cycle, flits)
    return int(start)


@inlined
def count(counters: Array, link: int, wait_cycles: int, flits: int) -> None:
    """Add a packet to the counters of a link."""
    counters[link, CT_FLITS] += flits
    counters[link, CT_PACKETS] += 1
    counters[link, CT_WAIT] += wait_cycles


@inlined
def find_gap(links: Array, link: int, other: int, ready_cycle: int, flits: int) -> int:
    """Return the first of the next `flits` cycles in a row that the calendars of two links (or one) have free."""
    block, first = ready_cycle >> 5, ready_cycle & 31
    clash = (_taken(links, link, block) | _taken(links, other, block)) >> first
    if first + flits <= 32 and clash & ((1 << flits) - 1) == 0:
        return ready_cycle
    return _search(links, link, other, ready_cycle, flits)


@kernel
def _search(links: Array, link: int, other: int, ready_cycle: int, flits: int) -> int:
    start = cycle = ready_cycle
    while cycle < start + flits:
        block = cycle >> 5
        taken = _taken(links, link, block) | _taken(links, other, block)
        if taken == FULL:
            start = cycle = _behind(links, link, other, block) << 5
            continue
        here = min(start + flits - cycle, 32 - (cycle & 31))
        clash = (taken >> (cycle & 31)) & ((1 << here) - 1)
        if clash == 0:
            cycle += here
            continue
        start = cycle = cycle + _bits(clash)
    return int(start)


@inlined
def _taken(links: Array, link: int, block: int) -> int:
    """Return the taken cycles of a block, one bit each: all of one that the calendar has left behind."""
    place = LK_CALENDAR + 2 * (block & (CALENDAR_BLOCKS - 1))
    if links[link, place] == block:
        return int(links[link, place + 1])
    return 0 if links[link, place] < block else FULL


@kernel
def _behind(links: Array, link: int, other: int, block: int) -> int:
    """Return the block to go on with after a full one: the next, or the first that a calendar still holds."""
    place = LK_CALENDAR + 2 * (block & (CALENDAR_BLOCKS - 1))
    newest = max(links[link, place], links[other, place])
    return int(max(block, newest - CALENDAR_BLOCKS) + 1)


@inlined
def take_gap(links: Array, link: int, start: int, flits: int) -> None:
    """Mark cycles as taken."""
    here = min(flits, 32 - (start & 31))
    _mark(links, link, start, here)
    while here < flits:
        more = min(flits - here, 32)
        _mark(links, link, start + here, more)
        here += more


@inlined
def _mark(links: Array, link: int, cycle: int, flits: int) -> None:
    """Mark cycles of one block as taken."""
    block = cycle >> 5
    place = LK_CALENDAR + 2 * (block & (CALENDAR_BLOCKS - 1))
    taken = ((1 << flits) - 1) << (cycle & 31)
    if links[link, place] == block:
        taken |= links[link, place + 1]
    links[link, place] = block
    links[link, place + 1] = taken


@inlined
def _bits(value: int) -> int:
    """Return the length of a number of at most 32 bits."""
    length = 0
    for step in (16, 8, 4, 2, 1):
        if value >> step > 0:
            value >>= step
            length += step
    return length + value
