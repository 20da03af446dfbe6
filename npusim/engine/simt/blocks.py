"""Blocks: who gives the next one to a core, barriers of its warps, and its end."""

from __future__ import annotations

from typing import Any

import numpy.typing as npt

from npusim.engine.simt.layout import (
    AT_BARRIER,
    B_ARRIVED,
    B_BLOCK,
    B_LEFT,
    BARRIER_WAIT,
    BRANCHING,
    C_RESIDENT,
    IDLE,
    LAUNCHING,
    NONE,
    O_AGE,
    O_BLOCK,
    O_DONE,
    O_LAST,
    P_BLOCK_CYCLES,
    P_BLOCK_WARPS,
    P_BRANCH,
    P_CORE_WARPS,
    P_GRID,
    P_GTO,
    P_NARGS,
    P_SCHEDULERS,
    P_SLOTS,
    P_THREADS,
    P_WARP_CYCLES,
    P_WARP_SIZE,
    RUNNING,
    S_LAST,
    UNKNOWN,
    X_AGE,
    X_AT,
    X_BARRIER,
    X_CAUSE,
    X_COLUMNS,
    X_PLACE,
    X_READY,
    X_READY_CAUSE,
    X_SINCE,
    X_STATE,
)
from npusim.engine.simt.scoreboard import find_dependency, wake
from npusim.jit import inlined, kernel
from npusim.units.warps.flow import start_warp
from npusim.units.warps.layout import W_PC, W_SHARED

Array = npt.NDArray[Any]


@inlined
def note(timing, stalls, w, pc, cause, cycle):
    """From `cycle` on the warp is in state `cause` at instruction `pc`; the state that it was in is counted."""
    previous, place = timing[w, X_CAUSE], timing[w, X_AT]
    if previous == cause and place == pc:
        return
    if previous != UNKNOWN:
        stalls[place, previous] += cycle - timing[w, X_SINCE]
        timing[w, X_SINCE] = cycle
    timing[w, X_CAUSE], timing[w, X_AT] = cause, pc


@kernel
def start_block(
    params: Array, uses: Array, warps: Array, regs: Array, scalars: Array, preds: Array, shared: Array, timing: Array,
    ready: Array, by: Array, subs: Array, cores: Array, slots: Array, args: Array, other: Array, c: int, slot: int,
    cycle: int,
) -> None:  # fmt: skip
    """Give the next block to a slot of core `c`, unless all have been given; its first warp may issue at `cycle`."""
    block = other[O_BLOCK]
    if block >= params[P_GRID]:
        return
    other[O_BLOCK] = block + 1
    cores[c, C_RESIDENT] += 1
    place = c * params[P_SLOTS] + slot
    count = params[P_BLOCK_WARPS]
    slots[place, B_LEFT], slots[place, B_BLOCK], slots[place, B_ARRIVED] = count, block, 0
    shared[place, :] = 0
    for i in range(count):
        w = c * params[P_CORE_WARPS] + slot * count + i
        start_warp(warps, w, i, block, place, params[P_THREADS], params[P_WARP_SIZE])
        regs[w, :, :] = 0
        scalars[w, :] = 0
        for n in range(params[P_NARGS]):
            scalars[w, n] = args[n]
        preds[w, :] = 0
        ready[w, :] = 0
        for column in range(X_COLUMNS):
            timing[w, column] = 0
        timing[w, X_STATE], timing[w, X_AGE] = RUNNING, other[O_AGE]
        other[O_AGE] += 1
        start = cycle + i * params[P_WARP_CYCLES]
        timing[w, X_READY], timing[w, X_READY_CAUSE] = start, LAUNCHING
        timing[w, X_SINCE], timing[w, X_CAUSE], timing[w, X_AT], timing[w, X_PLACE] = cycle, LAUNCHING, 0, NONE
        find_dependency(uses, warps, timing, ready, by, w)
        local = slot * count + i
        wake(subs, cores, c * params[P_SCHEDULERS] + local % params[P_SCHEDULERS], c, start)


@kernel
def arrive(
    params: Array, warps: Array, timing: Array, subs: Array, cores: Array, slots: Array, stalls: Array, c: int, w: int,
    number: int, cycle: int,
) -> None:  # fmt: skip
    """A warp is at a barrier of its block."""
    place = warps[w, W_SHARED]
    timing[w, X_STATE], timing[w, X_BARRIER] = AT_BARRIER, number
    slots[place, B_ARRIVED] += 1
    release(params, warps, timing, subs, cores, slots, stalls, c, place, cycle)


@kernel
def release(
    params: Array, warps: Array, timing: Array, subs: Array, cores: Array, slots: Array, stalls: Array, c: int,
    place: int, cycle: int,
) -> None:  # fmt: skip
    """Let the warps of a block go on when all that still run are at the same barrier."""
    if slots[place, B_ARRIVED] == 0 or slots[place, B_ARRIVED] < slots[place, B_LEFT]:
        return
    count, slot = params[P_BLOCK_WARPS], place - c * params[P_SLOTS]
    first, number = c * params[P_CORE_WARPS] + slot * count, NONE
    for w in range(first, first + count):
        if timing[w, X_STATE] == AT_BARRIER:
            if number >= 0 and number != timing[w, X_BARRIER]:
                return  # at odds, for ever: the driver will say so
            number = timing[w, X_BARRIER]
    slots[place, B_ARRIVED] = 0
    for w in range(first, first + count):
        if timing[w, X_STATE] == AT_BARRIER:
            local = w - c * params[P_CORE_WARPS]
            if timing[w, X_SINCE] <= cycle:  # else it has issued at this very cycle, and is looked at after it
                note(timing, stalls, w, timing[w, X_PLACE], BARRIER_WAIT, cycle)
                note(timing, stalls, w, warps[w, W_PC], BRANCHING, cycle + 1)
            timing[w, X_STATE], timing[w, X_PLACE] = RUNNING, NONE
            timing[w, X_READY], timing[w, X_READY_CAUSE] = cycle + params[P_BRANCH], BRANCHING
            wake(subs, cores, c * params[P_SCHEDULERS] + local % params[P_SCHEDULERS], c, cycle + params[P_BRANCH])


@kernel
def end_warp(
    params: Array, uses: Array, warps: Array, regs: Array, scalars: Array, preds: Array, shared: Array, timing: Array,
    ready: Array, by: Array, subs: Array, cores: Array, slots: Array, args: Array, other: Array, stalls: Array,
    c: int, w: int, cycle: int,
) -> None:  # fmt: skip
    """All lanes of a warp are done; with the last warp of its block, the next block takes the slot."""
    timing[w, X_STATE] = IDLE
    if params[P_GTO]:  # the warp that takes its place is not the one that issued last
        subs[c * params[P_SCHEDULERS] + (w - c * params[P_CORE_WARPS]) % params[P_SCHEDULERS], S_LAST] = NONE
    place = warps[w, W_SHARED]
    slots[place, B_LEFT] -= 1
    if slots[place, B_LEFT] > 0:
        release(params, warps, timing, subs, cores, slots, stalls, c, place, cycle)
        return
    other[O_DONE] += 1
    other[O_LAST] = cycle
    cores[c, C_RESIDENT] -= 1
    start_block(
        params, uses, warps, regs, scalars, preds, shared, timing, ready, by, subs, cores, slots, args, other, c,
        place - c * params[P_SLOTS], cycle + max(1, params[P_BLOCK_CYCLES]),
    )  # fmt: skip
