"""Sectored set-associative caches on arrays: lookup, fill, invalidate; callers bring the time.

A cache is known by its number; all caches of one state have the same geometry. A line is known by its number, of which
the tag is made; the set follows from `line // groups`, so that a caller can keep apart lines of several kinds that
are equally dense. Sectors are bit masks. Least recent and first in share a list of the ways of a set, the next victim
last (a way's neighbours in one word); the tree of `plru` is one word a set.
"""

from __future__ import annotations

from typing import Any

import numpy.typing as npt

from isa.cache import MAX_SECTORS
from npusim.jit import inlined, kernel

Array = npt.NDArray[Any]

# Status of a lookup.
HIT = 0
PARTIAL = 1  # the line is here, some of its sectors are not
MISS = 2

# Geometry, int64 [G_WORDS]; G_SET_BITS is -1 where the number of sets is no power of two.
(G_SETS, G_WAYS, G_POLICY, G_HASH, G_SET_BITS, G_GROUPS, G_BACK, G_ALLOCATE, G_LINE_BYTES, G_SECTOR_BYTES,
 G_WORDS) = range(11)  # fmt: skip
LRU, PLRU, FIFO, RANDOM = range(4)
POLICIES = ("lru", "plru", "fifo", "random")

# Columns of `sets`, int64 [caches x sets, S_WORDS].
S_FIRST, S_LAST, S_TREE, S_COUNT, S_WORDS = range(5)  # ways of the list's ends; lines that are here
NO_WAY = 0xFFFF  # in a link: previous << 16 | next
MARK_BITS = MAX_SECTORS  # of `marks`: valid sectors below, dirty ones above
VALID_MASK = (1 << MARK_BITS) - 1
RECENT = 4  # ways at the head of the list that are looked at before all others


@inlined
def set_of(geometry: Array, line: int) -> int:
    """The set of a line: with `hash_sets`, all digits of its number to the base of the sets are folded into one.

    Folding by XOR, or by sums where the sets are no power of two, keeps any aligned run of lines evenly spread.
    """
    upper = line if geometry[G_GROUPS] == 1 else line // geometry[G_GROUPS]
    sets, bits = geometry[G_SETS], geometry[G_SET_BITS]
    if geometry[G_HASH] == 0:
        return int(upper & (sets - 1) if bits >= 0 else upper % sets)
    if bits == 0 or sets == 1:
        return 0
    folded = 0
    if bits > 0:
        while upper > 0:
            folded ^= upper
            upper >>= bits
        return int(folded & (sets - 1))
    while upper > 0:
        folded += upper % sets
        upper //= sets
    return int(folded % sets)


@inlined
def find(geometry: Array, tags: Array, links: Array, sets: Array, cache: int, line: int) -> tuple[int, int]:
    """The row of a line's set, and the place of the line in `tags`, or -1."""
    s = cache * geometry[G_SETS] + set_of(geometry, line)
    ways = geometry[G_WAYS]
    first = s * ways
    if ways > 2 * RECENT and geometry[G_POLICY] == LRU:
        way = sets[s, S_FIRST]
        for _ in range(RECENT):
            if tags[first + way] == line:
                return s, first + way
            way = links[first + way] & NO_WAY
    for place in range(first, first + ways):
        if tags[place] == line:
            return s, place
    return s, -1


@kernel
def lookup(
    geometry: Array, tags: Array, marks: Array, links: Array, sets: Array, cache: int, line: int, sectors: int,
    whole: int, write: int,
) -> tuple[int, int]:  # fmt: skip
    """Use `sectors` of a line; returns the status and the sectors that must be fetched first.

    A write of `whole` sectors needs none of what was in them (0 for reads). On HIT a write is done, and of a cache that
    writes back the sectors are dirty; on PARTIAL and MISS nothing changes but the order of use.
    """
    s, place = find(geometry, tags, links, sets, cache, line)
    if place < 0:
        return MISS, sectors & ~whole
    first = s * geometry[G_WAYS]
    if geometry[G_POLICY] == LRU:
        to_front(links, sets, s, first, place - first)
    elif geometry[G_POLICY] == PLRU:
        _point_away(geometry, sets, s, place - first)
    missing = sectors & ~whole & ~marks[place]
    if missing:
        return PARTIAL, int(missing)
    if write:
        marks[place] |= sectors | ((sectors << MARK_BITS) if geometry[G_BACK] else 0)
    return HIT, 0


@kernel
def peek(geometry: Array, tags: Array, marks: Array, links: Array, sets: Array, cache: int, line: int) -> int:
    """The valid sectors of a line (dirty ones above MARK_BITS), without using it."""
    _, place = find(geometry, tags, links, sets, cache, line)
    return 0 if place < 0 else int(marks[place])


@kernel
def fill(
    geometry: Array, tags: Array, marks: Array, links: Array, sets: Array, seeds: Array, cache: int, line: int,
    sectors: int, dirty: int,
) -> tuple[int, int]:  # fmt: skip
    """Put sectors of a line in, some of them dirty; returns the line that had to leave and its dirty sectors, or -1."""
    s, place = find(geometry, tags, links, sets, cache, line)
    marked = sectors | (dirty << MARK_BITS)
    if place >= 0:
        marks[place] |= marked
        return -1, 0
    first = s * geometry[G_WAYS]
    way = _victim(geometry, tags, sets, seeds, cache, s, first)
    place = first + way
    victim, lost = tags[place], marks[place] >> MARK_BITS
    if victim < 0:
        sets[s, S_COUNT] += 1
    tags[place], marks[place] = line, marked
    if geometry[G_POLICY] == PLRU:
        _point_away(geometry, sets, s, way)
    elif geometry[G_POLICY] != RANDOM:
        to_front(links, sets, s, first, way)
    return int(victim), int(lost)


@kernel
def invalidate(geometry: Array, tags: Array, marks: Array, links: Array, sets: Array, cache: int, line: int) -> int:
    """Drop a line; returns the sectors that were dirty."""
    s, place = find(geometry, tags, links, sets, cache, line)
    if place < 0:
        return 0
    first = s * geometry[G_WAYS]
    lost = marks[place] >> MARK_BITS
    tags[place], marks[place] = -1, 0
    sets[s, S_COUNT] -= 1
    if geometry[G_POLICY] == LRU or geometry[G_POLICY] == FIFO:
        _to_back(links, sets, s, first, place - first)
    return int(lost)


@kernel
def access(
    geometry: Array, tags: Array, marks: Array, links: Array, sets: Array, seeds: Array, cache: int, line: int,
    sectors: int, whole: int, write: int,
) -> tuple[int, int, int, int, int]:  # fmt: skip
    """A whole access that takes no time: lookup, and on a miss what it fetches is filled at once.

    Returns the status, the sectors that were fetched, the line that left (or -1) and its dirty sectors, and the sectors
    that were written to the memory below.
    """
    status, missing = lookup(geometry, tags, marks, links, sets, cache, line, sectors, whole, write)
    passed = sectors if write and geometry[G_BACK] == 0 else 0
    if status == HIT:
        return status, 0, -1, 0, passed
    if write and status == MISS and geometry[G_ALLOCATE] == 0:
        return status, 0, -1, 0, sectors
    kept = missing | (sectors if write else 0)
    dirty = sectors if write and geometry[G_BACK] else 0
    victim, lost = fill(geometry, tags, marks, links, sets, seeds, cache, line, kept, dirty)
    return status, missing, victim, lost, passed


@inlined
def _unlink(links: Array, sets: Array, s: int, first: int, way: int) -> None:
    before, after = links[first + way] >> 16, links[first + way] & NO_WAY
    if before == NO_WAY:
        sets[s, S_FIRST] = after
    else:
        links[first + before] = (links[first + before] & ~NO_WAY) | after
    if after == NO_WAY:
        sets[s, S_LAST] = before
    else:
        links[first + after] = (links[first + after] & NO_WAY) | (before << 16)


@inlined
def to_front(links: Array, sets: Array, s: int, first: int, way: int) -> None:
    """Make a way the last to be replaced."""
    head = sets[s, S_FIRST]
    if head == way:
        return
    _unlink(links, sets, s, first, way)
    links[first + way] = (NO_WAY << 16) | head
    links[first + head] = (links[first + head] & NO_WAY) | (way << 16)
    sets[s, S_FIRST] = way


@inlined
def _to_back(links: Array, sets: Array, s: int, first: int, way: int) -> None:
    tail = sets[s, S_LAST]
    if tail == way:
        return
    _unlink(links, sets, s, first, way)
    links[first + way] = (tail << 16) | NO_WAY
    links[first + tail] = (links[first + tail] & ~NO_WAY) | way
    sets[s, S_LAST] = way


@inlined
def _point_away(geometry: Array, sets: Array, s: int, way: int) -> None:
    """Let every node on the way from the root to a leaf point to its other half; bit n is node n, the root node 1."""
    tree, node, half = sets[s, S_TREE], 1, geometry[G_WAYS] >> 1
    while half:
        right = 1 if way & half else 0
        tree = tree & ~(1 << node) if right else tree | (1 << node)
        node = 2 * node + right
        half >>= 1
    sets[s, S_TREE] = tree


@inlined
def _victim(geometry: Array, tags: Array, sets: Array, seeds: Array, cache: int, s: int, first: int) -> int:
    """The way that is replaced next: an empty one, if there is any."""
    policy, ways = geometry[G_POLICY], geometry[G_WAYS]
    if policy == LRU or policy == FIFO:
        return int(sets[s, S_LAST])  # empty ways are at the end of the list
    if sets[s, S_COUNT] < ways:
        for way in range(ways):
            if tags[first + way] < 0:
                return int(way)
    if policy == RANDOM:
        # The generator of the C standard's example; its low bits are weak.
        seeds[cache] = (seeds[cache] * 1103515245 + 12345) & 0x7FFFFFFF
        return int((seeds[cache] >> 12) % ways)
    node = 1
    while node < ways:
        node = 2 * node + ((sets[s, S_TREE] >> node) & 1)
    return int(node - ways)
