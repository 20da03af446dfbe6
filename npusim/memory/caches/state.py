"""The arrays of caches, and how a machine description fills them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from isa.cache import MAX_PLRU_WAYS, Cache
from isa.errors import ConfigError
from npusim.memory.caches import lines as at

Array = npt.NDArray[Any]
PLRU_WAYS = MAX_PLRU_WAYS  # the tree of a set is one word


@dataclass
class CacheState:
    """Some caches of one geometry, as int64 arrays in the order of the first arguments of `lines.access`.

    `tags`, `marks` and `links` have one word a line, set by set and cache by cache; `sets` a row a set; `seeds` one
    word a cache.
    """

    geometry: Array
    tags: Array
    marks: Array
    links: Array
    sets: Array
    seeds: Array

    @property
    def arrays(self) -> Any:
        """All arrays in order."""
        return self.geometry, self.tags, self.marks, self.links, self.sets, self.seeds


def make_caches(cache: Cache, count: int = 1, groups: int = 1, seed: int = 1) -> CacheState:
    """Return `count` empty caches; `groups` kinds of lines share the sets. Raises ConfigError for what cannot be."""
    sectors, rest = divmod(cache.line_bytes, cache.sector_bytes)
    if rest or sectors > at.MARK_BITS:
        raise ConfigError(
            f"a cache's line_bytes {cache.line_bytes} must be 1 to {at.MARK_BITS} sectors of {cache.sector_bytes} bytes"
        )
    sets, rest = divmod(cache.size_bytes, cache.ways * cache.line_bytes)
    if rest or sets == 0:
        raise ConfigError(
            f"a cache's size_bytes {cache.size_bytes} is not a whole number of sets of {cache.ways} ways x "
            f"{cache.line_bytes} bytes"
        )
    if cache.replacement == "plru" and (cache.ways & (cache.ways - 1) or cache.ways > PLRU_WAYS):
        raise ConfigError(f"a cache of {cache.ways} ways: replacement plru needs a power of two up to {PLRU_WAYS}")
    geometry = np.zeros(at.G_WORDS, np.int64)
    geometry[at.G_SETS], geometry[at.G_WAYS] = sets, cache.ways
    geometry[at.G_POLICY] = at.POLICIES.index(cache.replacement)
    geometry[at.G_HASH] = cache.hash_sets
    geometry[at.G_SET_BITS] = -1 if sets & (sets - 1) else sets.bit_length() - 1
    geometry[at.G_GROUPS] = groups
    geometry[at.G_BACK], geometry[at.G_ALLOCATE] = cache.write == "back", cache.write_allocate
    geometry[at.G_LINE_BYTES], geometry[at.G_SECTOR_BYTES] = cache.line_bytes, cache.sector_bytes
    total = count * sets
    way = np.arange(cache.ways)
    link = (np.where(way == 0, at.NO_WAY, way - 1) << 16) | np.where(way == cache.ways - 1, at.NO_WAY, way + 1)
    rows = np.zeros((total, at.S_WORDS), np.int64)
    rows[:, at.S_LAST] = cache.ways - 1
    seeds = (np.arange(count, dtype=np.int64) * 40503 + seed * 69069 + 1) & 0x7FFFFFFF
    return CacheState(
        geometry, np.full(total * cache.ways, -1, np.int64), np.zeros(total * cache.ways, np.int64),
        np.tile(link.astype(np.int64), total), rows, seeds,
    )  # fmt: skip
