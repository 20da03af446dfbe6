"""Warps: they go through the rows of the pattern, wait for their loads, and make room for the next block."""

from __future__ import annotations

from typing import Any

import numpy.typing as npt

from npusim.jit import kernel
from npusim.memory.generator.events import event_push
from npusim.memory.generator.layout import (
    C_FREE,
    C_STATE,
    C_WAITING,
    FLIGHT_WORDS,
    FREED,
    IDLE,
    K_BLOCKS,
    K_CHASES,
    K_WAIT_CYCLES,
    K_WARPS,
    P_BLOCK_CYCLES,
    P_BLOCK_LIMIT,
    P_CHAIN_BYTES,
    P_SLOT_WARPS,
    P_WARP_CYCLES,
    P_WARPS,
    QUEUED,
    RUNNING,
    UNIT_BUSY,
    UNIT_IDLE,
    W_ADDRESS,
    W_BIT,
    W_BLOCK,
    W_CHAIN,
    W_CORE,
    W_DATA,
    W_FLIGHT,
    W_INDEX,
    W_LEFT,
    W_LOADS,
    W_LOOPS,
    W_PC,
    W_REP,
    W_SCHEDULER,
    W_SINCE,
    W_SLOT,
    W_STATE,
    W_USE,
    W_USED,
    WAITING,
    X_BLOCK,
)
from npusim.memory.generator.patterns import (
    OP_CHASE,
    OP_END,
    OP_GATHER,
    OP_LOOP,
    OP_WAIT,
    ROW_BASE,
    ROW_BLOCK_STRIDE,
    ROW_BLOCKS,
    ROW_BYTES,
    ROW_COUNT,
    ROW_OP,
    ROW_SIZE,
    ROW_STEP,
    ROW_USE,
    ROW_WARP_STRIDE,
    ROW_WINDOW,
)

Array = npt.NDArray[Any]


@kernel
def warp_step(
    params: Array, program: Array, chain: Array, warps: Array, cores: Array, slots: Array, events: Array, size: Array,
    other: Array, counters: Array, w: int, cycle: int,
) -> None:  # fmt: skip
    """Let warp `w` go on at `cycle`, up to its next memory instruction, wait or end."""
    while True:
        row = warps[w, W_PC]
        op = program[row, ROW_OP]
        if op == OP_END:
            _end_warp(params, warps, slots, events, size, other, counters, w, cycle)
            return
        if op == OP_LOOP:
            _loop(program, warps, w, row)
            continue
        if op == OP_WAIT:
            if warps[w, W_LOADS] > 0:
                warps[w, W_STATE] = WAITING
                return
            warps[w, W_PC] = row + 1
            resume(program, warps, events, size, counters, w, cycle, row)
            return
        if warps[w, W_STATE] != FREED:
            warps[w, W_REP], warps[w, W_USED] = 0, 0
        aim(params, program, chain, warps, w)
        enqueue(warps, cores, events, size, params[P_WARPS], w, cycle)
        return


@kernel
def resume(
    program: Array, warps: Array, events: Array, size: Array, counters: Array, w: int, cycle: int, row: int
) -> None:
    """Schedule a warp whose loads are back: when the last datum is there, and what it computes with it, has passed."""
    ready = max(cycle, warps[w, W_DATA])
    if program[row, ROW_OP] == OP_WAIT:
        ready += program[row, ROW_COUNT]
    else:
        counters[K_CHASES] += 1
    counters[K_WAIT_CYCLES] += ready - cycle
    warps[w, W_STATE] = RUNNING
    event_push(events, size, ready, w)


@kernel
def flight_of(program: Array, warps: Array, w: int, access: int) -> int:
    """Where a warp keeps count of an access of its row (layout.W_FLIGHT); 0 if the row has no window."""
    window = program[warps[w, W_PC], ROW_WINDOW]
    return int(W_FLIGHT + FLIGHT_WORDS * (access % window)) if window else 0


@kernel
def use_oldest(program: Array, warps: Array, events: Array, size: Array, w: int, cycle: int) -> None:
    """Let a warp go on in its row once it has used the oldest data of its window, all of which are there or known."""
    there = warps[w, flight_of(program, warps, w, warps[w, W_USED]) + 1]
    use = max(cycle, there, warps[w, W_USE] + program[warps[w, W_PC], ROW_USE])
    warps[w, W_USE], warps[w, W_STATE] = use, FREED
    warps[w, W_USED] += 1
    event_push(events, size, use + 1, w)


@kernel
def _loop(program: Array, warps: Array, w: int, row: int) -> None:
    warps[w, W_LOOPS] += 1
    again = program[row, ROW_COUNT] == 0 or warps[w, W_LOOPS] < program[row, ROW_COUNT]
    warps[w, W_PC] = program[row, ROW_BASE] if again else row + 1
    if not again:
        warps[w, W_LOOPS] = 0


@kernel
def aim(params: Array, program: Array, chain: Array, warps: Array, w: int) -> None:
    """Set the address and the bytes of the access that a warp does next."""
    row = warps[w, W_PC]
    warps[w, W_LEFT] = program[row, ROW_BYTES]
    flight = flight_of(program, warps, w, warps[w, W_REP])
    if flight:
        warps[w, flight], warps[w, flight + 1] = 0, 0
    if program[row, ROW_OP] == OP_CHASE or program[row, ROW_OP] == OP_GATHER:
        place = warps[w, W_CHAIN]
        warps[w, W_ADDRESS] = program[row, ROW_BASE] + chain[place] * params[P_CHAIN_BYTES]
        warps[w, W_CHAIN] = (place + 1) % chain.shape[0]
        return
    block = warps[w, W_BLOCK]
    if program[row, ROW_BLOCKS] > 0:
        block %= program[row, ROW_BLOCKS]
    at = block * program[row, ROW_BLOCK_STRIDE] + warps[w, W_INDEX] * program[row, ROW_WARP_STRIDE]
    at += (warps[w, W_LOOPS] * program[row, ROW_COUNT] + warps[w, W_REP]) * program[row, ROW_STEP]
    if program[row, ROW_SIZE] > 0:
        at %= program[row, ROW_SIZE]
    warps[w, W_ADDRESS] = program[row, ROW_BASE] + at


@kernel
def enqueue(warps: Array, cores: Array, events: Array, size: Array, first_unit: int, w: int, cycle: int) -> None:
    """Let a warp's access wait for the load/store unit of its core."""
    c = warps[w, W_CORE]
    warps[w, W_STATE], warps[w, W_SINCE] = QUEUED, cycle
    cores[c, C_WAITING + warps[w, W_SCHEDULER]] |= warps[w, W_BIT]
    if cores[c, C_STATE] == UNIT_IDLE:
        cores[c, C_STATE] = UNIT_BUSY
        event_push(events, size, max(cycle, cores[c, C_FREE]), first_unit + c)


@kernel
def _end_warp(
    params: Array, warps: Array, slots: Array, events: Array, size: Array, other: Array, counters: Array, w: int,
    cycle: int,
) -> None:  # fmt: skip
    """A warp is done; with the last of its block, the next block takes the slot."""
    slot = warps[w, W_SLOT]
    warps[w, W_STATE] = IDLE
    counters[K_WARPS] += 1
    slots[slot] -= 1
    if slots[slot] > 0:
        return
    counters[K_BLOCKS] += 1
    start_block(params, warps, slots, events, size, other, slot, cycle + params[P_BLOCK_CYCLES])


@kernel
def start_block(
    params: Array, warps: Array, slots: Array, events: Array, size: Array, other: Array, slot: int, cycle: int
) -> None:
    """Give the next block to a slot, unless all have been given; its first warp starts at `cycle`."""
    block = other[X_BLOCK]
    if params[P_BLOCK_LIMIT] > 0 and block >= params[P_BLOCK_LIMIT]:
        return
    other[X_BLOCK] = block + 1
    slots[slot] = params[P_SLOT_WARPS]
    for i in range(params[P_SLOT_WARPS]):
        w = slot * params[P_SLOT_WARPS] + i
        warps[w, W_STATE] = RUNNING
        warps[w, W_PC] = 0
        warps[w, W_BLOCK] = block
        warps[w, W_LOADS] = 0
        warps[w, W_LOOPS] = 0
        warps[w, W_REP] = 0
        event_push(events, size, cycle + i * params[P_WARP_CYCLES], w)
