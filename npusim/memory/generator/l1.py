"""The L1 of each core: a cache of npusim.memory.caches with a table of outstanding lines, whose targets are warps."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy.typing as npt

from isa.cache import Cache
from npusim.jit import kernel
from npusim.memory.caches import lines as at
from npusim.memory.caches import mshr
from npusim.memory.caches.lines import fill, lookup
from npusim.memory.caches.mshr import M_PENDING, MshrState, make_mshrs, mshr_close, mshr_find, mshr_miss
from npusim.memory.caches.state import CacheState, make_caches

Array = npt.NDArray[Any]

# Status of l1_load.
HIT, MERGED, MISS, STALL = 0, 1, 2, 3


@dataclass
class L1State:
    """The caches of all cores and what each has outstanding."""

    caches: CacheState
    misses: MshrState

    @property
    def arrays(self) -> Any:
        """All arrays, in the order in which the generator's kernels take them."""
        return *self.caches.arrays, *self.misses.arrays


def make_l1(cache: Cache, cores: int) -> L1State:
    """Empty caches of `cores` cores."""
    return L1State(make_caches(cache, cores), make_mshrs(cores, cache.mshrs, cache.mshr_targets))


@kernel
def sectors_of(offset: int, size_bytes: int, sector_bytes: int) -> int:
    """The sectors that bytes [offset, offset + size) of a line touch, a bit each."""
    first, last = offset // sector_bytes, (offset + size_bytes - 1) // sector_bytes
    return int((1 << (last + 1)) - (1 << first))


@kernel
def l1_load(
    geometry: Array, tags: Array, marks: Array, links: Array, sets: Array, limits: Array, entries: Array, heads: Array,
    targets: Array, c: int, line: int, wanted: int, target: int,
) -> tuple[int, int]:  # fmt: skip
    """Look sectors of a line up, and let `target` (0: there is none free) wait for what is not here.

    Returns the status and the sectors to ask for; STALL: nothing was done but the line was used.
    """
    status, missing = lookup(geometry, tags, marks, links, sets, c, line, wanted, 0, 0)
    if status == at.HIT:
        return HIT, 0
    if target == 0:
        return STALL, 0
    found, _, absent = mshr_miss(limits, entries, heads, targets, c, line, missing, target)
    if found == mshr.STALL:
        return STALL, 0
    return (MISS if found == mshr.FETCH else MERGED), int(absent)


@kernel
def l1_store(
    geometry: Array, tags: Array, marks: Array, links: Array, sets: Array, c: int, line: int, sectors: int
) -> None:
    """A store goes through without taking a place; a line that is here is used, and valid where it is written."""
    lookup(geometry, tags, marks, links, sets, c, line, sectors, sectors, 1)


@kernel
def l1_arrive(
    geometry: Array, tags: Array, marks: Array, links: Array, sets: Array, seeds: Array, entries: Array, heads: Array,
    c: int, line: int, sectors: int,
) -> int:  # fmt: skip
    """Sectors of a line are here; returns the entry of those who wait for some (`mshr_next` names them), or -1."""
    fill(geometry, tags, marks, links, sets, seeds, c, line, sectors, 0)
    entry = mshr_find(entries, heads, c, line)
    if entry >= 0:
        entries[entry, M_PENDING] &= ~sectors
    return int(entry)


@kernel
def l1_settle(entries: Array, heads: Array, c: int, entry: int) -> None:
    """Close an entry when nothing of its line is on its way any more and all who waited have been told."""
    if entries[entry, M_PENDING] == 0:
        mshr_close(entries, heads, c, entry)
