"""The interlock of machines that issue in order: which instructions in flight a new one must wait for.

Two instructions conflict when they touch the same bytes and one of them writes. Each pipe keeps, by space, the hull of
what its instructions in flight touch and of what they write: outside of it nothing can conflict, so most pipes are
passed over at one look. A hull grows with each instruction and is drawn again when it proves too wide.
"""

from __future__ import annotations

from isa.table import DMA
from npusim.engine.layout import (
    C_AWAITED,
    MAX_QUEUE,
    O_DEPS,
    O_INTERVAL0,
    O_INTERVALS,
    P_CLASS,
    P_FLIGHT,
    P_FLIGHT0,
    P_FLIGHT_HEAD,
    P_HEAD,
    P_HULL,
    P_LENGTH,
    P_QUEUE,
    PIPES,
    SLOTS,
    SPACE_COUNT,
)
from npusim.jit import inlined, kernel

WRITTEN = 2  # offset of the hull of writes behind the hull of all


@inlined
def in_flight(pipes, c, p, i):
    """Slot of the i-th instruction in flight on a pipe: those that have started, then those that wait."""
    started = pipes[c, p, P_FLIGHT]
    if i < started:
        return pipes[c, p, P_FLIGHT0 + (pipes[c, p, P_FLIGHT_HEAD] + i) % SLOTS]
    return pipes[c, p, P_QUEUE + (pipes[c, p, P_HEAD] + i - started) % MAX_QUEUE]


@inlined
def conflicts(ops, c, slot, other):
    """True when two instructions touch the same bytes and one of them writes."""
    for i in range(ops[c, slot, O_INTERVALS]):
        x = O_INTERVAL0 + 4 * i
        for j in range(ops[c, other, O_INTERVALS]):
            y = O_INTERVAL0 + 4 * j
            if ops[c, slot, x] != ops[c, other, y] or not (ops[c, slot, x + 3] or ops[c, other, y + 3]):
                continue
            if ops[c, slot, x + 1] < ops[c, other, y + 2] and ops[c, other, y + 1] < ops[c, slot, x + 2]:
                return True
    return False


@kernel
def near(pipes, ops, c, slot, p):
    """True when the instruction may conflict with one in flight on pipe p: what it touches lies in the pipe's hulls."""
    for i in range(ops[c, slot, O_INTERVALS]):
        x = O_INTERVAL0 + 4 * i
        hull = P_HULL + 4 * ops[c, slot, x] + (0 if ops[c, slot, x + 3] else WRITTEN)
        if ops[c, slot, x + 1] < pipes[c, p, hull + 1] and pipes[c, p, hull] < ops[c, slot, x + 2]:
            return True
    return False


@kernel
def widen(pipes, ops, c, slot, p):
    """Let the hulls of pipe p take in an instruction; a hull that ends where it starts is empty."""
    for i in range(ops[c, slot, O_INTERVALS]):
        x = O_INTERVAL0 + 4 * i
        low, high = ops[c, slot, x + 1], ops[c, slot, x + 2]
        hull = P_HULL + 4 * ops[c, slot, x]
        for at in range(hull, hull + WRITTEN * ops[c, slot, x + 3] + 1, WRITTEN):
            empty = pipes[c, p, at] == pipes[c, p, at + 1]
            pipes[c, p, at] = low if empty else min(low, pipes[c, p, at])
            pipes[c, p, at + 1] = high if empty else max(high, pipes[c, p, at + 1])


@kernel
def draw_hulls(pipes, ops, c, p):
    """Draw the hulls of pipe p around what is in flight on it now."""
    for i in range(4 * SPACE_COUNT):
        pipes[c, p, P_HULL + i] = 0
    for i in range(pipes[c, p, P_FLIGHT] + pipes[c, p, P_LENGTH]):
        widen(pipes, ops, c, in_flight(pipes, c, p, i), p)


@kernel
def conflicting(pipes, ops, c, slot, p):
    """Mask of the instructions in flight on pipe p with which this one conflicts."""
    mask = 0
    for i in range(pipes[c, p, P_FLIGHT] + pipes[c, p, P_LENGTH]):
        other = in_flight(pipes, c, p, i)
        if conflicts(ops, c, slot, other):
            mask |= 1 << other
    return mask


@kernel
def interlock(v, cores, pipes, ops, c, slot, p):
    """Note the older instructions for which one that is about to join pipe p must wait; a serial pipe keeps order."""
    mask = 0
    for other in range(1, v[PIPES]):
        if (other == p and pipes[c, p, P_CLASS] != DMA) or pipes[c, other, P_FLIGHT] + pipes[c, other, P_LENGTH] == 0:
            continue
        if near(pipes, ops, c, slot, other):
            found = conflicting(pipes, ops, c, slot, other)
            if found == 0:
                draw_hulls(pipes, ops, c, other)
            mask |= found
    ops[c, slot, O_DEPS] = mask
    cores[c, C_AWAITED] |= mask
    if pipes[c, p, P_FLIGHT] + pipes[c, p, P_LENGTH] == 0:
        draw_hulls(pipes, ops, c, p)  # of nothing
    widen(pipes, ops, c, slot, p)


@kernel
def release(v, cores, pipes, ops, c, slot):
    """An instruction has completed: nothing waits for it any more."""
    if not (cores[c, C_AWAITED] >> slot) & 1:
        return
    mask = ~(1 << slot)
    cores[c, C_AWAITED] &= mask
    for p in range(1, v[PIPES]):
        for i in range(pipes[c, p, P_LENGTH]):
            ops[c, pipes[c, p, P_QUEUE + (pipes[c, p, P_HEAD] + i) % MAX_QUEUE], O_DEPS] &= mask
