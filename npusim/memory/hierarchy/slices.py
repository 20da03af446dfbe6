"""A slice serves one lookup after the other, from the queue of its cores and from that of other partitions in turn."""

from __future__ import annotations

from typing import Any

import numpy.typing as npt

from npusim.jit import inlined, kernel
from npusim.memory.caches import lines
from npusim.memory.caches.lines import G_ALLOCATE, G_BACK
from npusim.memory.caches.mshr import M_MARK, MERGED, STALL, mshr_find, mshr_miss
from npusim.memory.hierarchy.answers import finish, give_back
from npusim.memory.hierarchy.clock import row_of, schedule
from npusim.memory.hierarchy.layout import (
    ENTRY_DROP,
    FAR_CYCLE,
    H_BANKS,
    H_CREDITS,
    H_FAR_OUT,
    H_LINE,
    H_PARTS,
    H_PER,
    H_Q,
    H_RATE,
    H_SECTOR,
    K_REMOTE,
    R_ASKED,
    R_BYTES,
    R_ENTRY,
    R_HOME,
    R_KIND,
    R_LINE,
    R_NEXT,
    R_OWN,
    R_SECTORS,
    R_SINCE,
    R_SLICE,
    R_WAIT,
    R_WHOLE,
    R_WRITE,
    S_AWAKE,
    S_BANK0,
    S_BLOCKED,
    S_BUSY,
    S_BYTES,
    S_CONFLICT_CYCLES,
    S_FAR,
    S_FIRST0,
    S_HITS,
    S_LAST0,
    S_MERGED,
    S_MISSES,
    S_OUT,
    S_RATE_FREE,
    S_SINCE,
    S_STALL_CYCLES,
    S_STALLS,
    S_TURN,
    S_WRITES,
)
from npusim.memory.hierarchy.ways import ask_dram, cross, write_dram

Array = npt.NDArray[Any]


@inlined
def arrive(now: Array, slices: Array, wheel: Array, rows: Array, row: int, queue: int, cycle: int) -> None:
    """A row joins a queue of its slice; an idle slice, or one whose other queue is blocked, looks at it."""
    s = rows[row, R_SLICE]
    rows[row, R_NEXT], rows[row, R_SINCE] = 0, cycle
    first = slices[s, S_FIRST0 + queue] == 0
    if first:
        slices[s, S_FIRST0 + queue] = row
    else:
        rows[slices[s, S_LAST0 + queue], R_NEXT] = row
    slices[s, S_LAST0 + queue] = row
    if first:
        wake(now, slices, wheel, rows, s, cycle)


@inlined
def wake(now: Array, slices: Array, wheel: Array, rows: Array, s: int, cycle: int) -> None:
    """Let a slice look at its queues as soon as it is free, if it is not going to anyway."""
    if slices[s, S_AWAKE]:
        return
    if slices[s, S_BLOCKED]:
        slices[s, S_BLOCKED] = 0
        slices[s, S_STALL_CYCLES] += cycle - slices[s, S_SINCE]
    if slices[s, S_FIRST0] or slices[s, S_FIRST0 + 1]:
        slices[s, S_AWAKE] = 1
        schedule(now, wheel, rows, 1 + s, max(cycle, slices[s, S_BUSY]))


@inlined
def serve_next(
    geometry: Array, tags: Array, marks: Array, links: Array, sets: Array, seeds: Array, limits: Array, entries: Array,
    heads: Array, params: Array, now: Array, slices: Array, wheel: Array, rows: Array, asked: Array, far: Array,
    counters: Array, requests: Array, ring: Array, responses: Array, heap: Array, s: int, cycle: int,
) -> None:  # fmt: skip
    """Serve one row of a slice's queues, and wake again when the next can follow; block when none can go on."""
    slices[s, S_AWAKE] = 0
    turn, conflict = slices[s, S_TURN], FAR_CYCLE
    for i in range(2):
        queue = turn ^ i
        row = slices[s, S_FIRST0 + queue]
        if row == 0:
            continue
        if params[H_BANKS] > 1:
            free = _banks_free(params, slices, s, rows[row, R_LINE], rows[row, R_SECTORS])
            if free > cycle:
                conflict = min(conflict, free)
                continue
        after, since = rows[row, R_NEXT], rows[row, R_SINCE]
        size, line, sectors = rows[row, R_BYTES], rows[row, R_LINE], rows[row, R_SECTORS]
        write = rows[row, R_WRITE]
        if write and params[H_BANKS] == 1 and slices[s, S_OUT] >= (cycle + 1) * params[H_RATE]:
            # Answers that leave have the port of the data; no lookup passes the write, or it might wait for ever.
            slices[s, S_AWAKE] = 1
            schedule(now, wheel, rows, 1 + s, slices[s, S_OUT] // params[H_RATE])
            return
        if not _serve(
            geometry, tags, marks, links, sets, seeds, limits, entries, heads, params, now, slices, wheel, rows,
            asked, far, counters, requests, ring, responses, heap, s, row, cycle, (cycle - since) * params[H_Q],
        ):  # fmt: skip
            continue
        slices[s, S_FIRST0 + queue] = after
        slices[s, S_TURN] = 1 - queue
        slices[s, S_BYTES] += size
        if params[H_BANKS] > 1:
            _take_banks(params, slices, s, line, sectors, cycle)
            rate_free = max(slices[s, S_RATE_FREE], cycle) * params[H_RATE] + size
            slices[s, S_RATE_FREE] = (rate_free + params[H_RATE] - 1) // params[H_RATE]
            cycle += 1
        elif write:
            slices[s, S_OUT] = max(slices[s, S_OUT], cycle * params[H_RATE]) + size
            cycle = max(cycle + 1, slices[s, S_OUT] // params[H_RATE])
        else:
            cycle += 1
        slices[s, S_BUSY] = cycle
        wake(now, slices, wheel, rows, s, cycle)
        return
    if conflict < FAR_CYCLE:
        slices[s, S_AWAKE] = 1
        slices[s, S_CONFLICT_CYCLES] += conflict - min(conflict, max(cycle, slices[s, S_RATE_FREE]))
        schedule(now, wheel, rows, 1 + s, conflict)
        return
    if slices[s, S_FIRST0] or slices[s, S_FIRST0 + 1]:
        slices[s, S_BLOCKED], slices[s, S_SINCE] = 1, cycle
        slices[s, S_STALLS] += 1


@inlined
def _banks_free(params: Array, slices: Array, s: int, line: int, sectors: int) -> int:
    """The cycle from which all banks that hold sectors of a line are free."""
    bank, free = line << (params[H_LINE] - params[H_SECTOR]), 0
    while sectors:
        if sectors & 1:
            free = max(free, slices[s, S_BANK0 + bank % params[H_BANKS]])
        sectors >>= 1
        bank += 1
    return int(free)


@inlined
def _take_banks(params: Array, slices: Array, s: int, line: int, sectors: int, cycle: int) -> None:
    """Occupy the banks of a line's sectors, one sector after the other in each; all banks together have the rate."""
    per_line, each = 1 << (params[H_LINE] - params[H_SECTOR]), params[H_BANKS] << params[H_SECTOR]
    bank = line * per_line
    for i in range(min(params[H_BANKS], per_line)):
        count = 0
        for j in range(i, per_line, params[H_BANKS]):
            count += (sectors >> j) & 1
        if count:
            place = S_BANK0 + (bank + i) % params[H_BANKS]
            slices[s, place] = cycle + (count * each + params[H_RATE] - 1) // params[H_RATE]


@inlined
def _serve(
    geometry: Array, tags: Array, marks: Array, links: Array, sets: Array, seeds: Array, limits: Array, entries: Array,
    heads: Array, params: Array, now: Array, slices: Array, wheel: Array, rows: Array, asked: Array, far: Array,
    counters: Array, requests: Array, ring: Array, responses: Array, heap: Array, s: int, row: int, cycle: int,
    wait_fs: int,
) -> bool:  # fmt: skip
    """Do a row's lookup; False, and nothing done, when it has to wait for a place."""
    line, sectors, home = rows[row, R_LINE], rows[row, R_SECTORS], rows[row, R_HOME]
    if rows[row, R_WRITE]:
        rows[row, R_WAIT] += wait_fs
        if home == s:
            if not write_home(
                geometry, tags, marks, links, sets, seeds, limits, entries, heads, params, now, slices, wheel, rows,
                asked, far, counters, requests, ring, responses, heap, s, row, cycle,
            ):  # fmt: skip
                rows[row, R_WAIT] -= wait_fs
                return False
        else:
            lines.invalidate(geometry, tags, marks, links, sets, s, line)
            slices[s, S_FAR] += 1
            _go_home(params, now, slices, wheel, rows, far, row, s, home, rows[row, R_BYTES], cycle)
        return True
    status, missing = lines.lookup(geometry, tags, marks, links, sets, s, line, sectors, 0, 0)
    if status == lines.HIT:
        slices[s, S_HITS] += 1
        rows[row, R_WAIT] += wait_fs
        give_back(params, now, slices, wheel, rows, asked, far, counters, responses, heap, s, row, cycle)
        return True
    table = 2 * s + (1 if home != s else 0)
    status, entry, fetch = mshr_miss(limits, entries, heads, rows, table, line, missing, row)
    if status == STALL:
        return False
    rows[row, R_WAIT] += wait_fs
    if status == MERGED:
        slices[s, S_MERGED] += 1
        return True
    slices[s, S_MISSES] += 1
    if home == s:
        ask_dram(params, now, wheel, rows, counters, requests, ring, cycle, s, line, fetch, entry)
        return True
    slices[s, S_FAR] += 1
    message = row_of(now, rows)
    rows[message, R_LINE], rows[message, R_SECTORS], rows[message, R_WRITE] = line, fetch, 0
    rows[message, R_OWN], rows[message, R_HOME], rows[message, R_ENTRY] = s, home, entry
    rows[message, R_BYTES], rows[message, R_WAIT], rows[message, R_ASKED] = _bytes(params, fetch), 0, 0
    _go_home(params, now, slices, wheel, rows, far, message, s, home, 0, cycle)
    return True


@inlined
def _bytes(params: Array, sectors: int) -> int:
    count = 0
    while sectors:
        count += sectors & 1
        sectors >>= 1
    return int(count << params[H_SECTOR])


@inlined
def _go_home(
    params: Array, now: Array, slices: Array, wheel: Array, rows: Array, far: Array, row: int, s: int, home: int,
    size_bytes: int, cycle: int,
) -> None:  # fmt: skip
    """Send a row to its home slice, with data when it writes."""
    queued = cross(params, far, cycle, s, home, size_bytes)
    rows[row, R_KIND], rows[row, R_SLICE] = K_REMOTE, home
    rows[row, R_WAIT] += queued * params[H_Q]
    schedule(now, wheel, rows, row, cycle + params[H_FAR_OUT] + queued)


@inlined
def write_home(
    geometry: Array, tags: Array, marks: Array, links: Array, sets: Array, seeds: Array, limits: Array, entries: Array,
    heads: Array, params: Array, now: Array, slices: Array, wheel: Array, rows: Array, asked: Array, far: Array,
    counters: Array, requests: Array, ring: Array, responses: Array, heap: Array, s: int, row: int, cycle: int,
) -> bool:  # fmt: skip
    """Write at the home slice; sectors that are written in part are fetched first, if the cache takes them in."""
    if slices[s, S_WRITES] >= params[H_CREDITS]:
        return False  # a line that leaves, or what is written through, needs a place on the way to the DRAM
    line, sectors, whole = rows[row, R_LINE], rows[row, R_SECTORS], rows[row, R_WHOLE]
    status, missing = lines.lookup(geometry, tags, marks, links, sets, s, line, sectors, whole, 1)
    passed = sectors if geometry[G_BACK] == 0 else 0
    if status == lines.HIT:
        slices[s, S_HITS] += 1
    elif status == lines.MISS and geometry[G_ALLOCATE] == 0:
        slices[s, S_MISSES] += 1
        passed = sectors
    elif missing:
        status, entry, fetch = mshr_miss(limits, entries, heads, rows, 2 * s, line, missing, row)
        if status == STALL:
            return False
        slices[s, S_MERGED if status == MERGED else S_MISSES] += 1
        ask_dram(params, now, wheel, rows, counters, requests, ring, cycle, s, line, fetch, entry)
        return True
    else:
        slices[s, S_MISSES] += 1
        take_in(
            geometry, tags, marks, links, sets, seeds, params, now, slices, wheel, rows, counters, requests, ring, s,
            line, sectors, sectors if geometry[G_BACK] else 0, cycle,
        )  # fmt: skip
    written(
        geometry, tags, marks, links, sets, entries, heads, params, now, slices, wheel, rows, asked, far, counters,
        requests, ring, responses, heap, s, row, passed, cycle,
    )  # fmt: skip
    return True


@inlined
def take_in(
    geometry: Array, tags: Array, marks: Array, links: Array, sets: Array, seeds: Array, params: Array, now: Array,
    slices: Array, wheel: Array, rows: Array, counters: Array, requests: Array, ring: Array, s: int, line: int,
    sectors: int, dirty: int, cycle: int,
) -> None:  # fmt: skip
    """Put sectors into a slice; what is dirty of the line that leaves goes to the DRAM."""
    victim, lost = lines.fill(geometry, tags, marks, links, sets, seeds, s, line, sectors, dirty)
    if lost:
        write_dram(params, now, slices, wheel, rows, counters, requests, ring, cycle, s, victim, lost)


@kernel
def written(
    geometry: Array, tags: Array, marks: Array, links: Array, sets: Array, entries: Array, heads: Array, params: Array,
    now: Array, slices: Array, wheel: Array, rows: Array, asked: Array, far: Array, counters: Array, requests: Array,
    ring: Array, responses: Array, heap: Array, s: int, row: int, passed: int, cycle: int,
) -> None:  # fmt: skip
    """A write is done at its home slice: copies elsewhere go, what is `passed` goes to the DRAM, it is answered."""
    line = rows[row, R_LINE]
    for other in range(s % params[H_PER], params[H_PARTS] * params[H_PER], params[H_PER]):
        if other == s:
            continue
        lines.invalidate(geometry, tags, marks, links, sets, other, line)
        entry = mshr_find(entries, heads, 2 * other + 1, line)
        if entry >= 0:
            entries[entry, M_MARK] |= ENTRY_DROP
    if passed:
        write_dram(params, now, slices, wheel, rows, counters, requests, ring, cycle, s, line, passed)
    if rows[row, R_OWN] == s:
        finish(params, now, slices, wheel, rows, asked, counters, responses, heap, row, cycle)
    else:
        give_back(params, now, slices, wheel, rows, asked, far, counters, responses, heap, s, row, cycle)
