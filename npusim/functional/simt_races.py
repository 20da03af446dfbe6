"""Happens-before between the warps of a launch: who touched each piece of memory last, and what lies between.

A warp's own accesses are ordered; those of warps of one block by the barriers between them, which number its epochs;
those of different blocks by nothing. Atomic operations do not conflict with each other. A `cpa` writes until its warp
has waited for its group: whoever touches the bytes before, also this warp, is too early, and others need a barrier
after that wait. What lies in front of a launch is ordered.

Both memories are watched in pieces: shared memory by bytes, global memory by the narrowest access of the kernel. A
piece remembers its last write, and of reads since then the latest epoch of one block and whether more than one warp
read in it: older epochs of the block are ordered before whatever comes.
"""

from __future__ import annotations

from typing import Any

import numpy.typing as npt

from npusim.jit import inlined, kernel
from npusim.units.warps.access import addresses, shared_addresses
from npusim.units.warps.layout import (
    ASYNC_COPY,
    COMMIT,
    GLOBAL_ATOMIC,
    GLOBAL_LOAD,
    GLOBAL_STORE,
    I_BYTES,
    I_COUNT,
    I_IMM,
    I_KIND,
    MATRIX_LOAD,
    SHARED_ATOMIC,
    SHARED_LOAD,
    SHARED_STORE,
    WAIT_GROUPS,
    Word,
)

Array = npt.NDArray[Any]

# A piece, int32: block + 1, epoch, warp and address of the last write (block 0: none; NO_ARRAY), whether it was
# atomic (1) or of a group of copies (2 + group); block + 1 (MANY: several), epoch, warp (ANY: several) and address of
# the reads.
(
    H_BLOCK, H_EPOCH, H_WARP, H_PC, H_HOW, H_READ_BLOCK, H_READ_EPOCH, H_READ_WARP, H_READ_PC, H_COLUMNS,
) = range(10)  # fmt: skip
PLAIN, ATOMIC, COPY = 0, 1, 2
MANY, ANY = -1, -1
NO_ARRAY = -1  # of global memory, between arrays
# What is known of a warp, int64: groups committed, groups waited for, and from G_EPOCH on the epoch of the wait for
# each of the last groups.
G_COMMITTED, G_DONE, G_EPOCH = 0, 1, 2
RING = 64
# A race: kind, address of the instruction, of the other one, block, warp, other warp, byte, 1 if in shared memory.
RACE_COLUMNS = 8
RAW, WAR, WAW, EARLY, OUTSIDE = range(5)  # EARLY: a copy is still under way; OUTSIDE: in no array

# What is watched, int64[V_WORDS]: whether anything is, log2 of a piece of global memory, epoch of the block, races
# found, races there is room for.
V_ON, V_SHIFT, V_EPOCH, V_FOUND, V_ROOM, V_WORDS = range(6)


@kernel
def watch(
    code: Array, pc: Word, w: Word, lanes: Word, block: Word, regs: Array, scalars: Array, out: Array,
    own: Array, every: Array, groups: Array, races: Array, state: Array,
) -> None:  # fmt: skip
    """Note what an instruction touches, and every race that it is part of.

    `own` are the pieces of the block's shared memory, `every` those of global memory (none: not watched).
    """
    kind, epoch = code[pc, I_KIND], state[V_EPOCH]
    if kind == COMMIT:
        groups[w, G_COMMITTED] += 1
        return
    if kind == WAIT_GROUPS:
        while groups[w, G_DONE] < groups[w, G_COMMITTED] - code[pc, I_IMM]:
            groups[w, G_EPOCH + groups[w, G_DONE] % RING] = epoch
            groups[w, G_DONE] += 1
        return
    if kind < GLOBAL_LOAD or (kind > ASYNC_COPY and kind != MATRIX_LOAD):
        return
    size, how = code[pc, I_BYTES], PLAIN
    if kind in (GLOBAL_ATOMIC, SHARED_ATOMIC):
        how = ATOMIC
    addresses(code, pc, w, lanes, regs, scalars, out)
    lanes_used = regs.shape[2]
    if kind == MATRIX_LOAD:
        lanes_used, size = 8 * code[pc, I_COUNT], 16
    writes = kind in (GLOBAL_STORE, SHARED_STORE) or how == ATOMIC
    if kind in (SHARED_LOAD, SHARED_STORE, SHARED_ATOMIC, MATRIX_LOAD):
        _touch_all(out, lanes_used, size, 0, writes, how, block, w, epoch, pc, own, groups, races, state, 1)
    else:
        _touch_all(
            out, lanes_used, size, state[V_SHIFT], writes, how, block, w, epoch, pc, every, groups, races, state, 0
        )
    if kind == ASYNC_COPY:
        shared_addresses(code, pc, w, lanes, regs, out)
        how = COPY + groups[w, G_COMMITTED]
        _touch_all(out, lanes_used, size, 0, True, how, block, w, epoch, pc, own, groups, races, state, 1)


@kernel
def _touch_all(
    out: Array, lanes: Word, size: Word, shift: Word, writes: bool, how: Word, block: Word, w: Word, epoch: Word,
    pc: Word, pieces: Array, groups: Array, races: Array, state: Array, shared: Word,
) -> None:  # fmt: skip
    """Touch the pieces of every lane's access; -1 is no access."""
    for lane in range(lanes):
        if out[lane] < 0:
            continue
        first, last = out[lane] >> shift, (out[lane] + size - 1) >> shift
        for piece in range(first, min(last + 1, len(pieces))):
            row = pieces[piece]
            kind, other_pc, other = _conflict(row, writes, how, block, w, epoch, pc, groups)
            if kind >= 0:
                _report(races, state, kind, pc, other_pc, block, w, other, piece << shift, shared)
            if kind == OUTSIDE:
                continue
            if writes:
                row[H_BLOCK], row[H_EPOCH], row[H_WARP], row[H_PC], row[H_HOW] = block + 1, epoch, w, pc, how
                row[H_READ_BLOCK] = 0
            else:
                _note_read(row, block, w, epoch, pc)


@inlined
def _note_read(row: Array, block: Word, w: Word, epoch: Word, pc: Word) -> None:
    """An access that only reads."""
    if row[H_READ_BLOCK] == 0 or (row[H_READ_BLOCK] == block + 1 and epoch > row[H_READ_EPOCH]):
        row[H_READ_BLOCK], row[H_READ_EPOCH], row[H_READ_WARP], row[H_READ_PC] = block + 1, epoch, w, pc
    elif row[H_READ_BLOCK] != block + 1:
        row[H_READ_BLOCK] = MANY
    elif row[H_READ_WARP] != w:
        row[H_READ_WARP] = ANY


@kernel
def _conflict(
    row: Array, writes: bool, how: Word, block: Word, w: Word, epoch: Word, pc: Word, groups: Array
) -> tuple[Word, Word, Word]:
    """(kind, address, warp) of what an access races with; kind -1: nothing."""
    before = row[H_BLOCK]
    if before == NO_ARRAY:
        return OUTSIDE, pc, w
    if before != 0:
        by, when, copy = row[H_WARP], row[H_EPOCH], row[H_HOW] - COPY
        if copy >= 0 and before == block + 1:
            if copy >= groups[by, G_DONE]:
                return EARLY, row[H_PC], by
            when = groups[by, G_EPOCH + copy % RING]
        both = how == ATOMIC and row[H_HOW] == ATOMIC
        if not both and (before != block + 1 or (by != w and when == epoch)):
            return WAW if writes else RAW, row[H_PC], by
    if writes:
        read = row[H_READ_BLOCK]
        apart = read == block + 1 and (row[H_READ_EPOCH] < epoch or row[H_READ_WARP] == w)
        if read != 0 and not apart:
            return WAR, row[H_READ_PC], row[H_READ_WARP]
    return -1, 0, 0


@kernel
def _report(
    races: Array, state: Array, kind: Word, pc: Word, other_pc: Word, block: Word, w: Word, other: Word, byte: Word,
    shared: Word,
) -> None:  # fmt: skip
    """Keep a race of two instructions once."""
    for i in range(state[V_FOUND]):
        if races[i, 0] == kind and races[i, 1] == pc and races[i, 2] == other_pc:
            return
    if state[V_FOUND] < state[V_ROOM]:
        i = state[V_FOUND]
        races[i, 0], races[i, 1], races[i, 2], races[i, 3] = kind, pc, other_pc, block
        races[i, 4], races[i, 5], races[i, 6], races[i, 7] = w, other, byte, shared
        state[V_FOUND] += 1
