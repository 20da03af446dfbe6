"""Cycles and femtoseconds, rows, and the events of the coming cycles."""

from __future__ import annotations

from typing import Any

import numpy.typing as npt

from npusim.jit import inlined
from npusim.memory.hierarchy.layout import (
    FAR_CYCLE,
    FRACTION_BITS,
    H_Q,
    H_R,
    N_CYCLE,
    N_EVENTS,
    N_FREE,
    N_LEFT,
    R_NEXT,
    R_TIME,
    W_BITS,
    W_FIRST,
    W_LAST,
    WHEEL,
)

Array = npt.NDArray[Any]


@inlined
def edge_fs(q: int, r: int, cycle: int) -> int:
    """The femtosecond at which a cycle of q + r / 2^FRACTION_BITS fs begins, rounded down; no division."""
    return int(cycle * q + ((cycle * r) >> FRACTION_BITS))


@inlined
def edge_after(q: int, r: int, time_fs: int) -> int:
    """The first cycle that begins at or after a time."""
    cycle = int(time_fs / (q + r / (1 << FRACTION_BITS)))  # rounded, so possibly one off
    while edge_fs(q, r, cycle) < time_fs:
        cycle += 1
    while cycle > 0 and edge_fs(q, r, cycle - 1) >= time_fs:
        cycle -= 1
    return cycle


@inlined
def fs_of(params: Array, cycle: int) -> int:
    """The femtosecond at which a cycle of the hierarchy begins."""
    return edge_fs(params[H_Q], params[H_R], cycle)


@inlined
def cycle_of(params: Array, time_fs: int) -> int:
    """The first cycle of the hierarchy that begins at or after a time."""
    return edge_after(params[H_Q], params[H_R], time_fs)


@inlined
def row_of(now: Array, rows: Array) -> int:
    """Take a free row."""
    row = now[N_FREE]
    now[N_FREE] = rows[row, R_NEXT]
    now[N_LEFT] -= 1
    return int(row)


@inlined
def free_row(now: Array, rows: Array, row: int) -> None:
    """Give a row back."""
    rows[row, R_NEXT] = now[N_FREE]
    now[N_FREE] = row
    now[N_LEFT] += 1


@inlined
def schedule(now: Array, wheel: Array, rows: Array, row: int, cycle: int) -> None:
    """Let a row's event happen at a cycle, after those of that cycle which were scheduled before."""
    rows[row, R_TIME], rows[row, R_NEXT] = cycle, 0
    place = min(cycle, now[N_CYCLE] + WHEEL - 1) & (WHEEL - 1)  # farther ones come round again
    if wheel[place, W_FIRST]:
        rows[wheel[place, W_LAST], R_NEXT] = row
    else:
        wheel[place, W_FIRST] = row
        wheel[place >> 5, W_BITS] |= 1 << (place & 31)
    wheel[place, W_LAST] = row
    now[N_EVENTS] += 1


@inlined
def next_event(now: Array, wheel: Array) -> int:
    """The cycle of the next event."""
    if now[N_EVENTS] == 0:
        return FAR_CYCLE
    cycle = now[N_CYCLE]
    place = cycle & (WHEEL - 1)
    if wheel[place, W_FIRST]:
        return int(cycle)
    word, skipped = wheel[place >> 5, W_BITS] >> (place & 31), 0
    if word == 0:
        skipped = 32 - (place & 31)
        word = wheel[((place + skipped) & (WHEEL - 1)) >> 5, W_BITS]
        while word == 0:
            skipped += 32
            word = wheel[((place + skipped) & (WHEEL - 1)) >> 5, W_BITS]
    while word & 1 == 0:
        word >>= 1
        skipped += 1
    return int(cycle + skipped)


@inlined
def take_event(now: Array, wheel: Array, rows: Array) -> int:
    """Take the first event of the present cycle, which has one; returns 0 when that one is not due yet."""
    place = now[N_CYCLE] & (WHEEL - 1)
    row = wheel[place, W_FIRST]
    wheel[place, W_FIRST] = rows[row, R_NEXT]
    if rows[row, R_NEXT] == 0:
        wheel[place >> 5, W_BITS] &= ~(1 << (place & 31))
    now[N_EVENTS] -= 1
    if rows[row, R_TIME] > now[N_CYCLE]:
        schedule(now, wheel, rows, row, rows[row, R_TIME])
        return 0
    return int(row)
