"""Flags: those that a core's own pipes raise, and those that other cores signal, which are on their way for a while."""

from __future__ import annotations

from isa.params import INDEX
from npusim.engine.layout import (
    C_FLAGS,
    C_SIGNAL0,
    C_SIGNAL_HEAD,
    C_SIGNALS,
    FAR,
    K_SIGNALLED,
    K_STATUS,
    MAX_SIGNALS,
    RAISED_COLUMNS,
    SIGNAL_COLUMNS,
)
from npusim.jit import inlined, kernel

FLAGS, CROSS_FLAGS, SIGNAL_CYCLES = INDEX["flags"], INDEX["cross_flags"], INDEX["signal_cycles"]
FULL = -1  # State.clock[K_STATUS] when more signals are on their way to a core than the ring holds


@inlined
def flag_count(v):
    """Flags of a core: its own first, then those that other cores signal."""
    return v[FLAGS] + v[CROSS_FLAGS]


@inlined
def away(v, target, flag):
    """How a slot notes a signal of `flag` to core `target` among the flags that its completion raises."""
    return -1 - (target * flag_count(v) + flag)


@inlined
def raised_at(v, flag):
    """Column where a core keeps who raised a flag last."""
    return C_FLAGS + 2 * flag_count(v) + RAISED_COLUMNS * flag


@kernel
def raise_flag(v, cores, clock, c, flag, p, start, instr, now):
    """The completion of instruction `instr` of pipe p raises a flag of core c, or signals one of another (`away`)."""
    if flag >= 0:
        cores[c, C_FLAGS + 2 * flag] += 1
        at = raised_at(v, flag)
        cores[c, at], cores[c, at + 1], cores[c, at + 2], cores[c, at + 3] = p, start, instr, c
        return
    target, wanted = divmod(-1 - flag, flag_count(v))
    if cores[target, C_SIGNALS] >= MAX_SIGNALS:
        clock[K_STATUS] = FULL
        return
    place = (cores[target, C_SIGNAL_HEAD] + cores[target, C_SIGNALS]) % MAX_SIGNALS
    at = C_SIGNAL0 + SIGNAL_COLUMNS * place
    cores[target, C_SIGNALS] += 1
    cores[target, at], cores[target, at + 1] = now + v[SIGNAL_CYCLES], wanted
    cores[target, at + 2], cores[target, at + 3], cores[target, at + 4], cores[target, at + 5] = p, start, instr, c
    clock[K_SIGNALLED] = 1


@inlined
def signal_due(cores, c):
    """When the next signal reaches core c."""
    if cores[c, C_SIGNALS] == 0:
        return FAR
    return cores[c, C_SIGNAL0 + SIGNAL_COLUMNS * cores[c, C_SIGNAL_HEAD]]


@kernel
def take_signals(v, cores, c, now):
    """Raise the flags whose signals have reached core c; returns True when there are any."""
    changed = False
    while signal_due(cores, c) <= now:
        first = C_SIGNAL0 + SIGNAL_COLUMNS * cores[c, C_SIGNAL_HEAD]
        flag = cores[c, first + 1]
        cores[c, C_FLAGS + 2 * flag] += 1
        for i in range(RAISED_COLUMNS):
            cores[c, raised_at(v, flag) + i] = cores[c, first + 2 + i]
        cores[c, C_SIGNAL_HEAD] = (cores[c, C_SIGNAL_HEAD] + 1) % MAX_SIGNALS
        cores[c, C_SIGNALS] -= 1
        changed = True
    return changed
