"""Answers of the DRAM and of other partitions: sectors come in, and all whose sectors are in are answered."""

from __future__ import annotations

from typing import Any

import numpy.typing as npt

from npusim.jit import inlined
from npusim.memory.caches.lines import G_BACK
from npusim.memory.caches.mshr import M_LINE, M_MARK, M_PENDING, mshr_close, mshr_next
from npusim.memory.hierarchy.answers import give_back
from npusim.memory.hierarchy.clock import free_row
from npusim.memory.hierarchy.layout import (
    ENTRY_DROP,
    H_REPLICATE,
    MASK_BITS,
    N_LAST_FS,
    N_WRITES,
    R_ENTRY,
    R_SECTORS,
    R_WAIT,
    R_WRITE,
    S_FILLS,
    S_WRITES,
)
from npusim.memory.hierarchy.slices import take_in, wake, written
from npusim.memory.port import RSP_TAG, RSP_TIME_FS, RSP_WAIT_FS, heap_pop

Array = npt.NDArray[Any]


@inlined
def dram_answer(
    now: Array, slices: Array, wheel: Array, rows: Array, answers: Array, answer_heap: Array, cycle: int
) -> tuple[int, int, int]:
    """Take the DRAM's first answer: the entry, its sectors that have come and their wait; entry -1 for a write."""
    tag, wait_fs = answers[0, RSP_TAG], answers[0, RSP_WAIT_FS]
    now[N_LAST_FS] = max(now[N_LAST_FS], answers[0, RSP_TIME_FS])
    heap_pop(answers, answer_heap)
    if tag < 0:
        dram_written(now, slices, wheel, rows, -1 - tag, cycle)
        return -1, 0, 0
    return tag >> MASK_BITS, tag & ((1 << MASK_BITS) - 1), wait_fs


@inlined
def dram_written(now: Array, slices: Array, wheel: Array, rows: Array, s: int, cycle: int) -> None:
    """A place of slice `s` on the way to the DRAM is free again."""
    slices[s, S_WRITES] -= 1
    now[N_WRITES] -= 1
    wake(now, slices, wheel, rows, s, cycle)


@inlined
def far_answer(now: Array, rows: Array, row: int) -> tuple[int, int, int]:
    """A message is back from the home slice, or from the controller, with sectors for an entry: as dram_answer."""
    entry, sectors, wait_fs = rows[row, R_ENTRY], rows[row, R_SECTORS], rows[row, R_WAIT]
    free_row(now, rows, row)
    return entry, sectors, wait_fs


@inlined
def came_in(
    geometry: Array, tags: Array, marks: Array, links: Array, sets: Array, seeds: Array, limits: Array, entries: Array,
    heads: Array, params: Array, now: Array, slices: Array, wheel: Array, rows: Array, asked: Array, far: Array,
    counters: Array, requests: Array, ring: Array, responses: Array, heap: Array, entry: int, sectors: int,
    wait_fs: int, cycle: int,
) -> None:  # fmt: skip
    """Keep sectors of an entry's line and answer all who waited for no others."""
    table, line = entry // limits[0], entries[entry, M_LINE]
    s, is_far = table >> 1, table & 1
    slices[s, S_FILLS] += 1
    if is_far == 0 or (params[H_REPLICATE] and entries[entry, M_MARK] & ENTRY_DROP == 0):
        take_in(
            geometry, tags, marks, links, sets, seeds, params, now, slices, wheel, rows, counters, requests, ring, s,
            line, sectors, 0, cycle,
        )  # fmt: skip
    entries[entry, M_PENDING] &= ~sectors
    while True:
        target = mshr_next(entries, rows, entry)
        if target == 0:
            break
        rows[target, R_WAIT] += wait_fs
        if rows[target, R_WRITE] == 0:
            give_back(params, now, slices, wheel, rows, asked, far, counters, responses, heap, s, target, cycle)
            continue
        wanted, passed, dirty = rows[target, R_SECTORS], 0, rows[target, R_SECTORS]
        if geometry[G_BACK] == 0:
            passed, dirty = wanted, 0
        take_in(
            geometry, tags, marks, links, sets, seeds, params, now, slices, wheel, rows, counters, requests, ring, s,
            line, wanted, dirty, cycle,
        )  # fmt: skip
        written(
            geometry, tags, marks, links, sets, entries, heads, params, now, slices, wheel, rows, asked, far, counters,
            requests, ring, responses, heap, s, target, passed, cycle,
        )  # fmt: skip
    if entries[entry, M_PENDING] == 0:
        mshr_close(entries, heads, table, entry)
    wake(now, slices, wheel, rows, s, cycle)
