"""Outstanding lines and who waits for them: bounded tables with a hash over lines, targets in chains.

A target is a row of the caller's table `targets`, whose first columns are T_NEXT and T_NEED. An entry stays until all
sectors that were asked for are in; a target is answered as soon as its own are.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from npusim.jit import inlined, kernel

Array = npt.NDArray[Any]

# Status of mshr_miss.
MERGED = 0  # all sectors are on their way
FETCH = 1  # some have to be fetched
STALL = 2  # no free entry, or the line has no place for a target: nothing done

# Columns of `entries`, int64 [tables x capacity, M_WORDS]; rows are named 1 + index where 0 means none.
(M_LINE, M_PENDING, M_FIRST, M_LAST, M_TARGETS, M_CHAIN, M_MARK, M_WORDS) = range(8)  # M_MARK: the caller's
# Words of a row of `heads`, int64 [tables, H_BUCKET + buckets].
H_FREE, H_USED, H_PEAK, H_BUCKET = range(4)
# First columns of a caller's targets.
T_NEXT, T_NEED = 0, 1


@dataclass
class MshrState:
    """Tables of outstanding lines; `limits`: entries a table, targets an entry."""

    limits: Array
    entries: Array
    heads: Array

    @property
    def arrays(self) -> Any:
        """All arrays in order."""
        return self.limits, self.entries, self.heads


def make_mshrs(tables: int, capacity: int, targets: int) -> MshrState:
    """Return empty tables."""
    entries = np.zeros((tables, capacity, M_WORDS), np.int64)
    entries[:, :, M_LINE] = -1
    index = np.arange(tables * capacity).reshape(tables, capacity)
    entries[:, :-1, M_CHAIN] = 1 + index[:, 1:]
    buckets = 1 << (2 * capacity - 1).bit_length()
    heads = np.zeros((tables, H_BUCKET + buckets), np.int64)
    heads[:, H_FREE] = 1 + index[:, 0]
    return MshrState(np.array([capacity, targets], np.int64), entries.reshape(-1, M_WORDS), heads)


@inlined
def _bucket(heads: Array, line: int) -> int:
    return int(H_BUCKET + ((line ^ (line >> 7) ^ (line >> 15)) & (heads.shape[1] - H_BUCKET - 1)))


@kernel
def mshr_find(entries: Array, heads: Array, table: int, line: int) -> int:
    """The index of a line's entry, or -1."""
    entry = heads[table, _bucket(heads, line)]
    while entry > 0 and entries[entry - 1, M_LINE] != line:
        entry = entries[entry - 1, M_CHAIN]
    return int(entry - 1)


@kernel
def mshr_miss(
    limits: Array, entries: Array, heads: Array, targets: Array, table: int, line: int, missing: int, target: int
) -> tuple[int, int, int]:
    """Let a target wait for sectors of a line; returns the status, the entry's index and the sectors to fetch."""
    index = mshr_find(entries, heads, table, line)
    if index < 0:
        if heads[table, H_FREE] == 0:
            return STALL, -1, 0
        index = _open(entries, heads, table, line)
    elif entries[index, M_TARGETS] >= limits[1]:
        return STALL, index, 0
    targets[target, T_NEXT], targets[target, T_NEED] = 0, missing
    if entries[index, M_FIRST]:
        targets[entries[index, M_LAST], T_NEXT] = target
    else:
        entries[index, M_FIRST] = target
    entries[index, M_LAST] = target
    entries[index, M_TARGETS] += 1
    fetch = missing & ~entries[index, M_PENDING]
    entries[index, M_PENDING] |= missing
    return FETCH if fetch else MERGED, index, int(fetch)


@inlined
def _open(entries: Array, heads: Array, table: int, line: int) -> int:
    index = heads[table, H_FREE] - 1
    heads[table, H_FREE] = entries[index, M_CHAIN]
    heads[table, H_USED] += 1
    heads[table, H_PEAK] = max(heads[table, H_PEAK], heads[table, H_USED])
    bucket = _bucket(heads, line)
    entries[index, M_LINE], entries[index, M_PENDING], entries[index, M_TARGETS] = line, 0, 0
    entries[index, M_FIRST], entries[index, M_LAST], entries[index, M_MARK] = 0, 0, 0
    entries[index, M_CHAIN] = heads[table, bucket]
    heads[table, bucket] = 1 + index
    return int(index)


@kernel
def mshr_next(entries: Array, targets: Array, index: int) -> int:
    """Take out the first target whose sectors are all in; 0 when there is none."""
    before, target = 0, entries[index, M_FIRST]
    while target and targets[target, T_NEED] & entries[index, M_PENDING]:
        before, target = target, targets[target, T_NEXT]
    if target == 0:
        return 0
    if before:
        targets[before, T_NEXT] = targets[target, T_NEXT]
    else:
        entries[index, M_FIRST] = targets[target, T_NEXT]
    if entries[index, M_LAST] == target:
        entries[index, M_LAST] = before
    entries[index, M_TARGETS] -= 1
    return int(target)


@kernel
def mshr_close(entries: Array, heads: Array, table: int, index: int) -> None:
    """Free the entry of a line of which nothing is on its way any more."""
    bucket = _bucket(heads, entries[index, M_LINE])
    before, entry = 0, heads[table, bucket]
    while entry - 1 != index:
        before, entry = entry, entries[entry - 1, M_CHAIN]
    if before:
        entries[before - 1, M_CHAIN] = entries[index, M_CHAIN]
    else:
        heads[table, bucket] = entries[index, M_CHAIN]
    entries[index, M_LINE], entries[index, M_CHAIN] = -1, heads[table, H_FREE]
    heads[table, H_FREE] = 1 + index
    heads[table, H_USED] -= 1
