"""Kernels of the functional executor of threads: blocks one after another, the warps of a block in turn.

A warp goes on until it is done, at a barrier, or has had its turn; what warps do between barriers has no order that a
program may rely on, and turns only keep one that waits for another from waiting forever.
"""

from __future__ import annotations

from typing import Any

import numpy.typing as npt

from npusim.functional.simt_races import G_EPOCH, V_EPOCH, V_ON, watch
from npusim.jit import inlined, kernel
from npusim.units.warps.execute import execute
from npusim.units.warps.flow import branch, converge, guard, leave, scalar_step, start_warp
from npusim.units.warps.layout import (
    BARRIER,
    BRANCH,
    EXIT,
    I_IMM,
    I_KIND,
    OK,
    PART_OF_WARP,
    SCALAR_OP,
    T_MASK,
    W_ACTIVE,
    W_DEPTH,
    W_EXITED,
    W_PC,
    WORK_ADDRESS,
    Word,
)

Array = npt.NDArray[Any]

# Progress of a launch: block that runs, has it begun, blocks, threads of one, instructions that the call may still
# execute; the warp that failed and another one, with whom it disagrees.
P_BLOCK, P_BEGUN, P_BLOCKS, P_THREADS, P_LEFT, P_WARP, P_OTHER, P_COLUMNS, P_WORDS = range(9)

# Statuses besides those of layout.
PAUSED, AT_ODDS = 100, 101
TURN = 1 << 16  # instructions of a warp before others have their turn


@kernel
def _begin(
    args: Array, warps: Array, regs: Array, scalars: Array, preds: Array, shared: Array, progress: Array, own: Array,
    groups: Array, watched: Array,
) -> None:  # fmt: skip
    """Put a block at its start: arguments in the first scalar registers, everything else 0."""
    regs[:] = 0
    scalars[:] = 0
    preds[:] = 0
    shared[:] = 0
    if watched[V_ON]:
        own[:] = 0
        groups[:, :G_EPOCH] = 0
        watched[V_EPOCH] = 0
    for w in range(len(warps)):
        start_warp(warps, w, w, progress[P_BLOCK], 0, progress[P_THREADS], regs.shape[2])
        for i in range(len(args)):
            scalars[w, i] = args[i]
    progress[P_BEGUN] = 1


@kernel
def run_block(
    code: Array, args: Array, warps: Array, stack: Array, loops: Array, regs: Array, scalars: Array, preds: Array,
    shared: Array, work: Array, memory: Array, progress: Array, own: Array, every: Array, groups: Array, races: Array,
    watched: Array,
) -> Word:  # fmt: skip
    """Run block P_BLOCK until it has ended (OK), P_LEFT is used up (PAUSED; call again) or an instruction fails."""
    if not progress[P_BEGUN]:
        _begin(args, warps, regs, scalars, preds, shared, progress, own, groups, watched)
    while True:
        under_way, at_barrier = False, False
        for w in range(len(warps)):
            status = _turn(
                code, w, warps, stack, loops, regs, scalars, preds, shared, work, memory, progress, own, every, groups,
                races, watched,
            )  # fmt: skip
            if status != OK:
                progress[P_WARP] = w
                return status
            if warps[w, W_ACTIVE] != 0:
                waits = code[warps[w, W_PC], I_KIND] == BARRIER
                at_barrier |= waits
                under_way |= not waits
        if under_way:
            continue
        watched[V_EPOCH] += 1
        status = _release(code, warps, stack, progress) if at_barrier else OK
        if status != OK or not at_barrier:
            return status


@kernel
def _turn(
    code: Array, w: int, warps: Array, stack: Array, loops: Array, regs: Array, scalars: Array, preds: Array,
    shared: Array, work: Array, memory: Array, progress: Array, own: Array, every: Array, groups: Array, races: Array,
    watched: Array,
) -> Word:  # fmt: skip
    """Let a warp go on to a barrier or its end, for a turn at most; W_PC stays at an instruction that fails."""
    for _ in range(TURN):
        pc = warps[w, W_PC]
        if warps[w, W_ACTIVE] == 0:
            return OK
        kind = code[pc, I_KIND]
        if kind == BARRIER:
            alive = stack[w, 0, T_MASK] & ~warps[w, W_EXITED] if warps[w, W_DEPTH] else warps[w, W_ACTIVE]
            return OK if alive == warps[w, W_ACTIVE] else PART_OF_WARP
        if progress[P_LEFT] <= 0:
            return PAUSED
        progress[P_LEFT] -= 1
        if kind != SCALAR_OP and kind != BRANCH and kind != EXIT:
            lanes = guard(code, pc, warps, preds, w)
            if watched[V_ON]:
                watch(
                    code, pc, w, lanes, progress[P_BLOCK], regs, scalars, work[WORK_ADDRESS:], own, every, groups,
                    races, watched,
                )  # fmt: skip
            status = execute(code, pc, w, lanes, warps, regs, scalars, preds, shared, memory, work)
            warps[w, W_PC] += status == OK
        else:
            status = _control(code, pc, w, warps, stack, loops, scalars, preds, progress)
        if status != OK:
            return status
        converge(warps, stack, w)
    return OK


@inlined
def _control(
    code: Array, pc: int, w: int, warps: Array, stack: Array, loops: Array, scalars: Array, preds: Array,
    progress: Array,
) -> Word:  # fmt: skip
    """Execute a scalar instruction, a branch or an exit."""
    kind = code[pc, I_KIND]
    if kind == SCALAR_OP:
        following = scalar_step(code, pc, warps, loops, scalars, progress[P_BLOCKS], progress[P_COLUMNS], w)
        if following < 0:
            return -following
        warps[w, W_PC] = following
        return OK
    if kind == EXIT:
        leave(code, pc, warps, preds, w)
        return OK
    return branch(code, pc, warps, stack, preds, w)


@kernel
def _release(code: Array, warps: Array, stack: Array, progress: Array) -> Word:
    """Let the warps that wait go on, all of them at the same barrier; AT_ODDS when they are not."""
    first = -1
    for w in range(len(warps)):
        if warps[w, W_ACTIVE] == 0:
            continue
        if first < 0:
            first = w
        elif code[warps[w, W_PC], I_IMM] != code[warps[first, W_PC], I_IMM]:
            progress[P_WARP], progress[P_OTHER] = w, first
            return AT_ODDS
    for w in range(len(warps)):
        if warps[w, W_ACTIVE] != 0:
            warps[w, W_PC] += 1
            converge(warps, stack, w)
    return OK
