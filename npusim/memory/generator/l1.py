"""The L1 of each core: lines of sectors, least recently used out first; a line may have sectors on their way.

Lines are int64 [cores, sets x ways + 1, columns]; the last row of a core holds its geometry and clock.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from isa.cache import Cache
from npusim.jit import kernel

Array = npt.NDArray[Any]

HIT, MERGED, MISS, STALL = 0, 1, 2, 3

L_LINE = 0  # number of the line, -1: none
L_VALID = 1  # sectors that are here, a bit each
L_COMING = 2  # sectors that are on their way
L_USED = 3  # when it was used last
L_FLIGHT = 4  # the requests that bring the sectors on their way, a column a sector
MAX_SECTORS = 8
L_COLUMNS = L_FLIGHT + MAX_SECTORS
G_SETS, G_WAYS, G_CLOCK = 0, 1, 2  # of the last row


def make_l1(cache: Cache, cores: int) -> Array:
    """Empty caches of `cores` cores."""
    sets = cache.size_bytes // (cache.ways * cache.line_bytes)
    lines = np.zeros((cores, sets * cache.ways + 1, L_COLUMNS), np.int64)
    lines[:, :, L_LINE] = -1
    lines[:, -1, G_SETS], lines[:, -1, G_WAYS], lines[:, -1, G_CLOCK] = sets, cache.ways, 0
    return lines


@kernel
def sectors_of(offset: int, size_bytes: int, sector_bytes: int) -> int:
    """The sectors that bytes [offset, offset + size) of a line touch, a bit each."""
    first, last = offset // sector_bytes, (offset + size_bytes - 1) // sector_bytes
    return int((1 << (last + 1)) - (1 << first))


@kernel
def _set_of(line: int, sets: int) -> int:
    return int((line ^ (line // sets) ^ (line // (sets * sets))) % sets)


@kernel
def _find(lines: Array, c: int, line: int, first: int, ways: int) -> int:
    for way in range(first, first + ways):
        if lines[c, way, L_LINE] == line:
            return way
    return -1


@kernel
def l1_load(lines: Array, c: int, line: int, wanted: int, flight: int) -> tuple[int, int, int]:
    """Look sectors of a line up; on a miss those not yet on their way are `flight`'s.

    Returns status, sectors to ask for, and the request to wait for: of several that bring wanted sectors, the one of
    the last sector. STALL: `flight` is -1, or every line of the set is on its way.
    """
    end = lines.shape[1] - 1
    sets, ways = lines[c, end, G_SETS], lines[c, end, G_WAYS]
    first = _set_of(line, sets) * ways
    way = _find(lines, c, line, first, ways)
    clock = lines[c, end, G_CLOCK] + 1
    lines[c, end, G_CLOCK] = clock
    if way >= 0:
        lines[c, way, L_USED] = clock
        missing = wanted & ~lines[c, way, L_VALID]
        if missing == 0:
            return HIT, 0, -1
        absent = missing & ~lines[c, way, L_COMING]
        if absent == 0:
            return MERGED, 0, int(lines[c, way, L_FLIGHT + _last(missing)])
        if flight < 0:
            return STALL, 0, -1
        _claim(lines, c, way, absent, flight)
        return MISS, int(absent), flight
    if flight < 0:
        return STALL, 0, -1
    way = _victim(lines, c, first, ways)
    if way < 0:
        return STALL, 0, -1
    lines[c, way, L_LINE] = line
    lines[c, way, L_VALID] = 0
    lines[c, way, L_COMING] = 0
    lines[c, way, L_USED] = clock
    _claim(lines, c, way, wanted, flight)
    return MISS, wanted, flight


@kernel
def _last(sectors: int) -> int:
    last = 0
    while sectors >> (last + 1):
        last += 1
    return last


@kernel
def _claim(lines: Array, c: int, way: int, sectors: int, flight: int) -> None:
    lines[c, way, L_COMING] |= sectors
    for sector in range(MAX_SECTORS):
        if (sectors >> sector) & 1:
            lines[c, way, L_FLIGHT + sector] = flight


@kernel
def _victim(lines: Array, c: int, first: int, ways: int) -> int:
    """The way that was used longest ago and has nothing on its way, or -1."""
    best = -1
    for way in range(first, first + ways):
        if lines[c, way, L_LINE] < 0:
            return way
        if lines[c, way, L_COMING] == 0 and (best < 0 or lines[c, way, L_USED] < lines[c, best, L_USED]):
            best = way
    return best


@kernel
def l1_fill(lines: Array, c: int, line: int, sectors: int) -> None:
    """Sectors of a line have arrived."""
    end = lines.shape[1] - 1
    sets, ways = lines[c, end, G_SETS], lines[c, end, G_WAYS]
    way = _find(lines, c, line, _set_of(line, sets) * ways, ways)
    if way >= 0:
        lines[c, way, L_VALID] |= sectors
        lines[c, way, L_COMING] &= ~sectors


@kernel
def l1_store(lines: Array, c: int, line: int) -> None:
    """A store goes through without taking a place; a line that is here is written too, and used."""
    end = lines.shape[1] - 1
    sets, ways = lines[c, end, G_SETS], lines[c, end, G_WAYS]
    way = _find(lines, c, line, _set_of(line, sets) * ways, ways)
    if way >= 0:
        lines[c, end, G_CLOCK] += 1
        lines[c, way, L_USED] = lines[c, end, G_CLOCK]
