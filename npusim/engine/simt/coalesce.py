"""From the addresses of lanes to what the load/store unit does: lines and sectors, or cycles at the banks."""

from __future__ import annotations

from typing import Any

import numpy.typing as npt

from npusim.jit import kernel

Array = npt.NDArray[Any]


@kernel
def coalesce(addresses: Array, lanes: int, size: int, line_bytes: int, sector_bytes: int, pieces: Array) -> int:
    """Write (line, mask of sectors) of every line that some lane touches, in the order of lanes; returns how many.

    Accesses of a lane are aligned to their `size`, so none crosses a line.
    """
    count, lane, left = 0, 0, lanes
    while left:
        if left & 1:
            address = addresses[lane]
            line = address // line_bytes
            first = (address - line * line_bytes) // sector_bytes
            last = (address - line * line_bytes + size - 1) // sector_bytes
            sectors = (1 << (last + 1)) - (1 << first)
            at = count - 1
            while at >= 0 and pieces[at, 0] != line:
                at -= 1
            if at < 0:
                pieces[count, 0], pieces[count, 1] = line, sectors
                count += 1
            else:
                pieces[at, 1] |= sectors
        left = (left >> 1) & 0x7FFFFFFFFFFFFFFF
        lane += 1
    return count


@kernel
def bank_cycles(
    addresses: Array, lanes: int, size: int, banks: int, bank_bytes: int, same: int, words: Array
) -> int:
    """Cycles that the banks of shared memory need for an access of `size` bytes a lane.

    As many lanes as fill all banks go at once: 32 of 4 bytes, 16 of 8, 8 of 16 (CUDA C++ programming guide, shared
    memory). Lanes that want the same word share it, unless `same` (atomics): then they follow one another. `words` is
    scratch of at least 64 + banks words.
    """
    group = max(1, banks * bank_bytes // max(size, bank_bytes))
    width = max(1, size // bank_bytes)
    total, lane = 0, 0
    while lane < 64 and (lanes >> lane) != 0:
        part = (lanes >> lane) & ((1 << group) - 1) if group < 64 else lanes
        total += _group_cycles(addresses, part, lane, width, banks, bank_bytes, same, words)
        if group >= 63:
            break
        lane += group
    return max(1, total)


@kernel
def _group_cycles(
    addresses: Array, part: int, lane: int, width: int, banks: int, bank_bytes: int, same: int, words: Array
) -> int:
    """The most words that one bank is asked for by the lanes of `part`, counted from `lane`."""
    if part == 0:
        return 0
    seen = 0
    for b in range(banks):
        words[64 + b] = 0
    worst = 0
    while part and lane < 64:  # a mask of 64 lanes is negative and keeps its sign
        if part & 1:
            for i in range(width):
                word = addresses[lane] // bank_bytes + i
                known = False
                if not same:
                    for j in range(seen):
                        if words[j] == word:
                            known = True
                            break
                if not known:
                    if seen < 64:
                        words[seen] = word
                        seen += 1
                    bank = 64 + word % banks
                    words[bank] += 1
                    worst = max(worst, words[bank])
        part >>= 1
        lane += 1
    return worst
