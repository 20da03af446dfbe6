"""Where warps go: guards, divergence and convergence, scalar instructions.

Lanes that part at a branch are kept on a stack of (where they meet, where they go on, which they are), as in Fung,
Sham, Yuan and Aamodt, "Dynamic Warp Formation and Scheduling for Efficient GPU Control Flow" (MICRO 2007) and in
GPGPU-Sim: the lanes that take the branch go first, up to where the ways meet (the immediate post-dominator), then the
others, then all together. A branch that all lanes take, or none, leaves the stack alone.

Scalar registers and the stack of loops belong to the warp: both sides of a branch that parts lanes see and change
them, one after the other. A scalar jump moves the lanes that are active at the time.
"""

# ruff: noqa: SIM109  (compiled code: a comparison is cheaper than a search in a tuple)

from __future__ import annotations

from typing import Any

import numpy.typing as npt

from npusim.jit import inlined, kernel
from npusim.units.scalar import BNZ, BR, BZ, CSR, ENDL, LOOP, MARK, NOP, scalar_value
from npusim.units.warps.layout import (
    BAD_LOOP,
    I_A,
    I_B,
    I_DST,
    I_GUARD,
    I_IMM,
    I_MEET,
    I_OP,
    L_BODY,
    L_LEFT,
    LOOP_DEPTH,
    OK,
    STACK_DEPTH,
    T_MASK,
    T_MEET,
    T_PC,
    TOO_DEEP,
    W_ACTIVE,
    W_BLOCK,
    W_DEPTH,
    W_EXITED,
    W_INDEX,
    W_LOOPS,
    W_PC,
    W_SHARED,
    W_THREADS,
    W_WARPS,
    Word,
)

Array = npt.NDArray[Any]

NOWHERE = -1  # where the lanes of a whole warp meet


@inlined
def first_lanes(count: int) -> int:
    """The mask of the first `count` lanes, 0 to 64."""
    return -1 if count >= 64 else (1 << count) - 1


@kernel
def start_warp(warps: Array, w: int, index: int, block: int, row: int, threads: int, lanes: int) -> None:
    """Let warp `w` be number `index` of a block of `threads` threads, at the start of the kernel.

    `row` is the block's row of shared memory. Lanes beyond the last thread never run. Registers are the caller's.
    """
    warps[w, W_PC], warps[w, W_DEPTH], warps[w, W_LOOPS] = 0, 0, 0
    warps[w, W_ACTIVE] = first_lanes(max(0, min(lanes, threads - index * lanes)))
    warps[w, W_EXITED] = 0
    warps[w, W_INDEX], warps[w, W_BLOCK], warps[w, W_SHARED] = index, block, row
    warps[w, W_THREADS], warps[w, W_WARPS] = threads, (threads + lanes - 1) // lanes


@inlined
def guard(code: Array, pc: Word, warps: Array, preds: Array, w: Word) -> Word:
    """The lanes that execute instruction `pc`: active ones for which the guard holds."""
    number, active = code[pc, I_GUARD], warps[w, W_ACTIVE]
    if number == 0:
        return active
    if number > 0:
        return active & preds[w, number - 1]
    return active & ~preds[w, -number - 1]


@kernel
def branch(code: Array, pc: int, warps: Array, stack: Array, preds: Array, w: int) -> int:
    """Let the lanes of the guard go to the target, the other active ones on; the caller calls `converge` after it."""
    taken = guard(code, pc, warps, preds, w)
    rest = warps[w, W_ACTIVE] & ~taken
    if taken == 0 or rest == 0:
        warps[w, W_PC] = code[pc, I_IMM] if taken else pc + 1
        return OK
    return _part(code, pc, warps, stack, w, taken, rest)


@kernel
def _part(code: Array, pc: int, warps: Array, stack: Array, w: int, taken: int, rest: int) -> int:
    meet, target, depth = code[pc, I_MEET], code[pc, I_IMM], warps[w, W_DEPTH]
    if depth + 2 > STACK_DEPTH:
        return TOO_DEEP
    if depth == 0:
        stack[w, 0, T_MEET], stack[w, 0, T_PC], stack[w, 0, T_MASK] = NOWHERE, meet, warps[w, W_ACTIVE]
        depth = 1
    elif stack[w, depth - 1, T_MEET] == meet:
        depth -= 1  # an entry below waits there already: a loop that lanes leave one by one needs no more than that
    else:
        stack[w, depth - 1, T_PC] = meet
    if pc + 1 != meet:
        stack[w, depth, T_MEET], stack[w, depth, T_PC], stack[w, depth, T_MASK] = meet, pc + 1, rest
        depth += 1
    if target != meet:
        stack[w, depth, T_MEET], stack[w, depth, T_PC], stack[w, depth, T_MASK] = meet, target, taken
        depth += 1
    _take_top(warps, stack, w, depth)
    return OK


@kernel
def _take_top(warps: Array, stack: Array, w: int, depth: int) -> None:
    """Go on with the top entry of a stack of `depth` entries; without one the warp is done."""
    warps[w, W_DEPTH] = depth
    if depth == 0:
        warps[w, W_ACTIVE] = 0
        return
    warps[w, W_PC] = stack[w, depth - 1, T_PC]
    warps[w, W_ACTIVE] = stack[w, depth - 1, T_MASK] & ~warps[w, W_EXITED]


@kernel
def leave(code: Array, pc: int, warps: Array, preds: Array, w: int) -> None:
    """End the lanes of the guard (exit, halt) and go on with the others; the caller calls `converge` after it."""
    gone = guard(code, pc, warps, preds, w)
    warps[w, W_EXITED] |= gone
    warps[w, W_ACTIVE] &= ~gone
    warps[w, W_PC] = pc + 1


@inlined
def converge(warps: Array, stack: Array, w: int) -> None:
    """Pop what has come to where it meets, or has no lanes left; a warp with no active lane after it is done.

    To be called whenever W_PC or W_ACTIVE has changed.
    """
    depth = warps[w, W_DEPTH]
    while depth > 0 and (warps[w, W_ACTIVE] == 0 or warps[w, W_PC] == stack[w, depth - 1, T_MEET]):
        depth -= 1
        _take_top(warps, stack, w, depth)


@inlined
def scalar_step(
    code: Array, pc: Word, warps: Array, loops: Array, scalars: Array, blocks: Word, columns: Word, w: Word
) -> Word:
    """Execute a scalar instruction of warp `w`; return the next address, or minus a status.

    `blocks` is the number of blocks of the launch, in rows of `columns`. Registers wrap at 64 bits.
    """
    op = code[pc, I_OP]
    if op == BR or op == BZ or op == BNZ or op == LOOP or op == ENDL:
        return _jump(code, pc, warps, loops, scalars, w)
    if op == NOP or op == MARK:
        return pc + 1
    target, a, b = code[pc, I_DST], code[pc, I_A], code[pc, I_B]
    if op == CSR:
        scalars[w, target] = _special(warps, code[pc, I_IMM], blocks, columns, w)
    else:
        x, y = scalars[w, a] if a >= 0 else 0, scalars[w, b] if b >= 0 else 0
        scalars[w, target] = scalar_value(op, x, y, code[pc, I_IMM])
    return pc + 1


@kernel
def _special(warps: Array, number: Word, blocks: Word, columns: Word, w: Word) -> Word:
    """Special register: 0 block, 1 blocks of the launch, 2 kind of the core (0), 3 warps and 4 threads of a block.

    5 and 6 are the block's column and row in the grid.
    """
    if number == 0:
        return warps[w, W_BLOCK]
    if number == 1:
        return blocks
    if number == 3:
        return warps[w, W_WARPS]
    if number == 4:
        return warps[w, W_THREADS]
    if number == 5:
        return warps[w, W_BLOCK] % columns
    if number == 6:
        return warps[w, W_BLOCK] // columns
    return 0


@kernel
def _jump(code: Array, pc: Word, warps: Array, loops: Array, scalars: Array, w: Word) -> Word:
    op = code[pc, I_OP]
    if op == ENDL:
        return _end_of_loop(pc, warps, loops, w)
    count = scalars[w, code[pc, I_A]] if op != BR else 0
    if op == LOOP:
        if count <= 0:
            return code[pc, I_IMM]
        depth = warps[w, W_LOOPS]
        if depth == LOOP_DEPTH:
            return -BAD_LOOP
        loops[w, depth, L_BODY], loops[w, depth, L_LEFT] = pc + 1, count - 1
        warps[w, W_LOOPS] = depth + 1
        return pc + 1
    if op == BR or (count == 0) == (op == BZ):
        return code[pc, I_IMM]
    return pc + 1


@kernel
def _end_of_loop(pc: Word, warps: Array, loops: Array, w: Word) -> Word:
    depth = warps[w, W_LOOPS]
    if depth == 0:
        return -BAD_LOOP
    if loops[w, depth - 1, L_LEFT] > 0:
        loops[w, depth - 1, L_LEFT] -= 1
        return loops[w, depth - 1, L_BODY]
    warps[w, W_LOOPS] = depth - 1
    return pc + 1
