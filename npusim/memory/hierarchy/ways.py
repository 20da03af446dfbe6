"""Where an address lives, the ways between cores, slices and partitions, and what goes to the DRAM's port."""

from __future__ import annotations

from typing import Any

import numpy.typing as npt

from npusim.jit import inlined, kernel
from npusim.memory.hierarchy.clock import fs_of, row_of, schedule
from npusim.memory.hierarchy.layout import (
    C_DRAM_READ,
    C_DRAM_WRITTEN,
    F_BYTES,
    F_FREE,
    H_FAR_RATE,
    H_LINE,
    H_MISS,
    H_NET,
    H_PARTS,
    H_PER,
    H_SECTOR,
    H_SHIFT,
    H_SLICES,
    H_UNIT,
    K_ASK,
    MASK_BITS,
    N_WRITES,
    NET_ALL,
    R_ADDRESS,
    R_BYTES,
    R_KIND,
    R_SLICE,
    R_TAG,
    R_WRITE,
    S_WRITE_BACKS,
    S_WRITES,
)
from npusim.memory.port import ring_push

Array = npt.NDArray[Any]


@inlined
def _folded(value: int, bits: int) -> int:
    total = 0
    while value > 0:
        total += value
        value >>= bits
    return total


@inlined
def home_of(params: Array, line: int) -> tuple[int, int]:
    """The home slice of a line of the address space, and its name there.

    Units of consecutive lines go round the slices; where a round begins is hashed, so that every round has one unit a
    slice: equally many lines fall to each. In a name the partition is the lowest digit: the others keep copies.
    """
    unit = line >> params[H_UNIT]
    upper = unit // params[H_SLICES]
    c = (unit - upper * params[H_SLICES] + _folded(upper, params[H_SHIFT])) % params[H_SLICES]
    name = line - ((unit - upper) << params[H_UNIT])
    return int(c), int(name if params[H_PARTS] == 1 else name * params[H_PARTS] + c // params[H_PER])


@inlined
def address_of(params: Array, home: int, name: int) -> int:
    """The first byte of a line that has a name at its home slice."""
    if params[H_PARTS] > 1:
        name //= params[H_PARTS]
    upper = name >> params[H_UNIT]
    first = (home - _folded(upper, params[H_SHIFT])) % params[H_SLICES]
    unit = upper * params[H_SLICES] + first
    return int((((unit - upper) << params[H_UNIT]) + name) << params[H_LINE])


@inlined
def cross(params: Array, far: Array, cycle: int, source: int, target: int, size_bytes: int) -> int:
    """Send bytes from one slice's partition to another's; returns the cycles that they wait for the link."""
    link = source // params[H_PER] * params[H_PARTS] + target // params[H_PER]
    far[link, F_BYTES] += size_bytes
    rate = params[H_FAR_RATE]
    if rate == 0:
        return 0
    free = max(far[link, F_FREE], cycle * rate)
    far[link, F_FREE] = free + size_bytes
    return int(free // rate - cycle)


@inlined
def _leave(
    params: Array, now: Array, wheel: Array, rows: Array, requests: Array, ring: Array, cycle: int, home: int,
    address: int, size: int, write: int, tag: int,
) -> None:  # fmt: skip
    """Send a request of a slice to the DRAM: it is there H_MISS cycles later, or first takes the network."""
    if params[H_NET] != NET_ALL:
        ring_push(requests, ring, fs_of(params, cycle + params[H_MISS]), home, address, size, write, tag)
        return
    row = row_of(now, rows)
    rows[row, R_KIND], rows[row, R_SLICE], rows[row, R_ADDRESS], rows[row, R_BYTES] = K_ASK, home, address, size
    rows[row, R_WRITE], rows[row, R_TAG] = write, tag
    schedule(now, wheel, rows, row, cycle)


@kernel
def ask_dram(
    params: Array, now: Array, wheel: Array, rows: Array, counters: Array, requests: Array, ring: Array, cycle: int,
    home: int, name: int, sectors: int, entry: int,
) -> None:  # fmt: skip
    """Read sectors of a line, each run of them in one request, for an entry of the home slice."""
    address, sector = address_of(params, home, name), 1 << params[H_SECTOR]
    while sectors:
        skip, run = _run(sectors)
        mask = ((1 << run) - 1) << skip
        _leave(
            params, now, wheel, rows, requests, ring, cycle, home, address + skip * sector, run * sector, 0,
            (entry << MASK_BITS) | mask,
        )  # fmt: skip
        counters[C_DRAM_READ] += run * sector
        sectors &= ~mask


@kernel
def write_dram(
    params: Array, now: Array, slices: Array, wheel: Array, rows: Array, counters: Array, requests: Array, ring: Array,
    cycle: int, home: int, name: int, sectors: int,
) -> None:  # fmt: skip
    """Write sectors of a line; each request holds one of the home slice's places until the DRAM answers."""
    address, sector = address_of(params, home, name), 1 << params[H_SECTOR]
    while sectors:
        skip, run = _run(sectors)
        _leave(
            params, now, wheel, rows, requests, ring, cycle, home, address + skip * sector, run * sector, 1, -1 - home
        )
        counters[C_DRAM_WRITTEN] += run * sector
        slices[home, S_WRITES] += 1
        slices[home, S_WRITE_BACKS] += 1
        now[N_WRITES] += 1
        sectors &= ~(((1 << run) - 1) << skip)


@inlined
def _run(sectors: int) -> tuple[int, int]:
    """The lowest run of sectors: first, and how many."""
    skip = 0
    while (sectors >> skip) & 1 == 0:
        skip += 1
    run = 1
    while (sectors >> (skip + run)) & 1:
        run += 1
    return skip, run
