"""First ready, first come: which command of a list of entries goes out next.

An entry needs a column command when the row of its next burst is open, else the activation of a closed bank or the
precharge of one with another row (FR-FCFS, Rixner et al., ISCA 2000). The oldest entry whose command breaks no rule
wins; while none does, the tick is returned at which the first may.
"""

from __future__ import annotations

from typing import Any

import numpy.typing as npt

from npusim.jit import inlined, kernel
from npusim.memory.controller.commands import earliest, slot_from
from npusim.memory.controller.layout import (
    AT_BANK,
    AT_LIST,
    B_ACTIVE,
    B_ROW,
    B_WORDS,
    CH_ACTIVATING,
    CH_SIZE0,
    CLOSED,
    COLUMN,
    E_ARRIVAL,
    E_BANK,
    E_COUNT,
    E_ROW,
    E_WRITE,
    FAR,
    OPENING,
    P_AGE,
    P_BANKS_A_GROUP,
    P_GROUPS,
    P_PROTECT,
    P_ROTATE,
    P_SLOTS,
    PROTECT_NONE,
    PROTECT_OLDER,
    ROW,
)
from npusim.memory.controller.timing import ACT, PRE, PSEUDO, RD, WR

Array = npt.NDArray[Any]
NOTHING = -1


@inlined
def next_bank(params: Array, bank: int) -> int:
    """The bank of the same number in the next bank group."""
    step, group_banks = params[P_BANKS_A_GROUP], params[P_BANKS_A_GROUP] * params[P_GROUPS]
    base = bank - bank % group_banks
    return int(base + (bank - base + step) % group_banks)


@inlined
def banks_of(params: Array, runs: Array, entry: int) -> int:
    """How many banks the rest of an entry touches."""
    return int(min(runs[entry, E_COUNT], params[P_GROUPS])) if params[P_ROTATE] else 1


@kernel
def touches(params: Array, runs: Array, entry: int, bank: int, row: int) -> bool:
    """Whether the rest of an entry lies in a row of a bank, among others."""
    if runs[entry, E_ROW] != row:
        return False
    mine = runs[entry, E_BANK]
    for _ in range(banks_of(params, runs, entry)):
        if mine == bank:
            return True
        mine = next_bank(params, mine)
    return False


@kernel
def protected(params: Array, s: Array, runs: Array, queue: int, position: int, bank: int) -> bool:
    """Whether the open row of a bank must stay open for entries of the same queue: all, or those before `position`."""
    at, row = params[AT_LIST] + queue * params[P_SLOTS], s[params[AT_BANK] + B_WORDS * bank + B_ROW]
    last = s[CH_SIZE0 + queue]
    if params[P_PROTECT] == PROTECT_OLDER:  # those that came in the same tick count as older
        while last > position + 1 and runs[s[at + last - 1], E_ARRIVAL] > runs[s[at + position], E_ARRIVAL]:
            last -= 1
    for i in range(last):
        if i != position and touches(params, runs, s[at + i], bank, row):
            return True
    return False


@inlined
def wanted(params: Array, s: Array, runs: Array, entry: int, bank: int, slot: int) -> int:
    """The command that an entry needs next in a bank, or NOTHING that the slot takes."""
    at = params[AT_BANK] + B_WORDS * bank
    row = s[at + B_ROW]
    if row == runs[entry, E_ROW]:
        return NOTHING if slot == ROW else (WR if runs[entry, E_WRITE] else RD)
    if slot == COLUMN or row == OPENING:
        return NOTHING
    if row == CLOSED:
        return NOTHING if s[CH_ACTIVATING] else ACT
    return NOTHING if s[at + B_ACTIVE] else PRE


@kernel
def choose(
    params: Array, nodes: Array, s: Array, runs: Array, queue: int, now: int, slot: int
) -> tuple[int, int, int, int]:
    """Return (position in the queue, command, bank, tick): the command that goes out now, or NOTHING and when to look.

    `slot`: COLUMN, ROW or ANY. Of a bank only the first entry that wants a command is looked at: the rules are the
    same for the next.
    """
    at, size, due = params[AT_LIST] + queue * params[P_SLOTS], s[CH_SIZE0 + queue], FAR
    if size > 0 and params[P_AGE] < FAR:
        tired = runs[s[at], E_ARRIVAL] + params[P_AGE]
        if now >= tired:
            size = 1
        else:
            due = tired
    seen_hits, seen_others = 0, 0
    for i in range(size):
        entry = s[at + i]
        bank = runs[entry, E_BANK]
        for _ in range(banks_of(params, runs, entry) if slot == ROW else 1):
            hit = s[params[AT_BANK] + B_WORDS * bank + B_ROW] == runs[entry, E_ROW]
            bit = 1 << (bank & 63)
            fresh = ((seen_hits if hit else seen_others) & bit) == 0
            if fresh:
                if hit:
                    seen_hits |= bit
                else:
                    seen_others |= bit
                command = wanted(params, s, runs, entry, bank, slot)
                if command != NOTHING:
                    tick = max(now, earliest(params, nodes, s, command, bank))
                    tick = slot_from(params, s, command, bank, nodes[bank, PSEUDO] - 1, tick)
                    if command == PRE and size > 1 and params[P_PROTECT] != PROTECT_NONE:
                        if tick <= now and protected(params, s, runs, queue, i, bank):
                            tick = FAR
                    if tick <= now:
                        return i, command, bank, now
                    due = min(due, tick)
            bank = next_bank(params, bank)
    return NOTHING, NOTHING, NOTHING, due
