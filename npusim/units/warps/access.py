"""Addresses of lanes, and what they move between registers and memories.

A memory is a flat array of bytes that stands for addresses from 0 to its length. An access of a lane must lie in it and
be aligned to its own size. An instruction that breaks this in some lane does nothing at all.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from npusim.jit import kernel
from npusim.units.warps.layout import (
    BAD_ADDRESS,
    I_A,
    I_B,
    I_BYTES,
    I_C,
    I_COUNT,
    I_DST,
    I_FORM,
    I_IMM,
    MISALIGNED,
    OK,
    Word,
)

Array = npt.NDArray[Any]


@kernel
def addresses(code: Array, pc: Word, w: Word, lanes: Word, regs: Array, scalars: Array, out: Array) -> Word:
    """Write the byte address of each lane of an access to out[lane], -1 for lanes not in `lanes`; returns OK.

    Of a cpa it is the global address; `shared_addresses` gives the other one.
    """
    base = code[pc, I_IMM]
    if code[pc, I_A] >= 0:
        base += scalars[w, code[pc, I_A]]
    return _lane_addresses(base, code[pc, I_B], w, lanes, regs, out)


@kernel
def shared_addresses(code: Array, pc: Word, w: Word, lanes: Word, regs: Array, out: Array) -> Word:
    """Write the shared address to which each lane of a cpa copies; returns OK."""
    return _lane_addresses(0, code[pc, I_C], w, lanes, regs, out)


@kernel
def _lane_addresses(base: Word, register: Word, w: Word, lanes: Word, regs: Array, out: Array) -> Word:
    n = regs.shape[2]
    if register >= 0:
        offsets = regs[w, register]
        for i in range(n):
            out[i] = base + np.int64(offsets[i]) if lanes >> i & 1 else -1
    else:
        for i in range(n):
            out[i] = base if lanes >> i & 1 else -1
    return OK


@kernel
def in_bounds(where: Array, lanes: Word, n: Word, size: Word, limit: Word) -> Word:
    """OK when each of the lanes may access `size` bytes at its address in a memory of `limit` bytes."""
    wrong, crooked = 0, 0
    for i in range(n):
        if lanes >> i & 1:
            wrong |= where[i] < 0 or where[i] + size > limit
            crooked |= where[i] & (size - 1)
    return BAD_ADDRESS if wrong else MISALIGNED if crooked else OK


@kernel
def load(code: Array, pc: Word, w: Word, lanes: Word, regs: Array, where: Array, memory: Array) -> Word:
    """Bytes of `memory` at the addresses `where` into the destination's registers."""
    n, size, target = regs.shape[2], code[pc, I_BYTES], code[pc, I_DST]
    status = in_bounds(where, lanes, n, size, len(memory))
    if status != OK:
        return status
    if size < 4:
        _load_narrow(regs[w, target], lanes, n, where, memory, size, code[pc, I_FORM])
        return OK
    words = memory[: len(memory) & ~3].view(np.uint32)
    for k in range(code[pc, I_COUNT]):
        row = regs[w, target + k]
        for i in range(n):
            if lanes >> i & 1:
                row[i] = words[(where[i] >> 2) + k]
    return OK


@kernel
def _load_narrow(row: Array, lanes: int, n: int, where: Array, memory: Array, size: int, signed: int) -> None:
    sign = 1 << (8 * size - 1)
    for i in range(n):
        if lanes >> i & 1:
            value = np.int64(memory[where[i]])
            if size == 2:
                value |= np.int64(memory[where[i] + 1]) << 8
            row[i] = (value ^ sign) - sign & 0xFFFFFFFF if signed else value


@kernel
def store(code: Array, pc: Word, w: Word, lanes: Word, regs: Array, where: Array, memory: Array) -> Word:
    """The registers stored to `memory` at the addresses `where`, lanes in ascending order."""
    n, size, source = regs.shape[2], code[pc, I_BYTES], code[pc, I_C]
    status = in_bounds(where, lanes, n, size, len(memory))
    if status != OK:
        return status
    if size < 4:
        row = regs[w, source]
        for i in range(n):
            if lanes >> i & 1:
                memory[where[i]] = row[i] & 0xFF
                if size == 2:
                    memory[where[i] + 1] = row[i] >> 8 & 0xFF
        return OK
    words = memory[: len(memory) & ~3].view(np.uint32)
    for k in range(code[pc, I_COUNT]):
        row = regs[w, source + k]
        for i in range(n):
            if lanes >> i & 1:
                words[(where[i] >> 2) + k] = row[i]
    return OK


@kernel
def copy_across(
    code: Array, pc: Word, lanes: Word, n: Word, source: Array, target: Array, memory: Array, own: Array
) -> Word:
    """Global bytes at `source` to the block's shared memory `own` at `target` (cpa); here it happens at once."""
    size = code[pc, I_BYTES]
    status = in_bounds(source, lanes, n, size, len(memory))
    if status == OK:
        status = in_bounds(target, lanes, n, size, len(own))
    if status != OK:
        return status
    for i in range(n):
        if lanes >> i & 1:
            for k in range(size):
                own[target[i] + k] = memory[source[i] + k]
    return OK
