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
    ACTIVE_LIST,
    ANY,
    AT_BANK,
    AT_LIST,
    B_ACTIVE,
    B_READ_FROM,
    B_ROW,
    B_ROW_FROM,
    B_WORDS,
    B_WRITE_FROM,
    CH_ACTIVATING,
    CH_CLOSINGS,
    CH_KEPT,
    CH_REFRESHING,
    CH_SIZE0,
    CLOSED,
    E_ARRIVAL,
    E_BANK,
    E_COUNT,
    E_QUEUED,
    E_ROW,
    E_TURN,
    E_WRITE,
    FAR,
    L_BANK,
    L_OPEN_AT,
    L_ROW,
    L_WORDS,
    NEXT_BANK,
    OPENING,
    P_AGE,
    P_PROTECT,
    P_SLOTS,
    P_TURN,
    PROTECT_NONE,
    PROTECT_OLDER,
    PSEUDO_OF,
    WRITE_LIST,
)
from npusim.memory.controller.timing import ACT, PRE, RD, WR

Array = npt.NDArray[Any]
NOTHING = -1


@inlined
def next_bank(nodes: Array, bank: int) -> int:
    """The bank of a run's next burst: the one of the same number in the next bank group, where the map rotates them."""
    return int(nodes[bank, NEXT_BANK])


@inlined
def banks_of(runs: Array, entry: int) -> int:
    """How many banks the rest of an entry touches."""
    return int(min(runs[entry, E_COUNT], runs[entry, E_TURN]))


@kernel
def touches(params: Array, nodes: Array, runs: Array, entry: int, bank: int, row: int) -> bool:
    """Whether the rest of an entry lies in a row of a bank, among others."""
    if runs[entry, E_ROW] != row:
        return False
    mine = runs[entry, E_BANK]
    for _ in range(banks_of(runs, entry)):
        if mine == bank:
            return True
        mine = next_bank(nodes, mine)
    return False


@kernel
def protected(params: Array, nodes: Array, s: Array, runs: Array, queue: int, position: int, bank: int) -> bool:
    """Whether the open row of a bank must stay open for entries of the same queue: all, or those before `position`.

    Only entries whose next burst is a hit count: two that wait for each other's rows would wait for ever.
    """
    at, row = params[AT_LIST] + queue * params[P_SLOTS], s[params[AT_BANK] + B_WORDS * bank + B_ROW]
    last = s[CH_SIZE0 + queue]
    if params[P_PROTECT] == PROTECT_OLDER:  # those that came in the same tick count as older
        arrival = runs[s[at + L_WORDS * position], E_ARRIVAL]
        while last > position + 1 and runs[s[at + L_WORDS * (last - 1)], E_ARRIVAL] > arrival:
            last -= 1
    for i in range(last):
        place = at + L_WORDS * i
        if s[place + L_ROW] != row or i == position:
            continue
        ready = s[params[AT_BANK] + B_WORDS * s[place + L_BANK] + B_ROW] == row
        if ready and touches(params, nodes, runs, s[place], bank, row):
            return True
    return False


@kernel
def row_command(params: Array, s: Array, bank: int) -> int:
    """ACT or PRE, as a bank that has not the wanted row open needs; NOTHING while it can have neither."""
    at = params[AT_BANK] + B_WORDS * bank
    if s[at + B_ROW] == OPENING or s[at + B_ACTIVE] or s[CH_REFRESHING] == 1 + bank:
        return NOTHING
    if s[at + B_ROW] == CLOSED:
        return NOTHING if s[CH_ACTIVATING] else ACT
    return PRE


@inlined
def held(params: Array, nodes: Array, s: Array, runs: Array, queue: int, position: int, now: int) -> bool:
    """Whether an entry's hits wait because the oldest of its queue is tired and wants to close one of its banks."""
    if position == 0 or now < tired_from(params, s, runs, queue, 0):
        return False
    return _in_the_way(params, nodes, s, runs, queue, position)


@kernel
def _in_the_way(params: Array, nodes: Array, s: Array, runs: Array, queue: int, position: int) -> bool:
    """Whether the hits of an entry would put off, for ever, the precharge of a bank that the oldest one needs."""
    entry = s[params[AT_LIST] + queue * params[P_SLOTS] + L_WORDS * position]
    oldest = s[params[AT_LIST] + queue * params[P_SLOTS]]
    wanted = runs[oldest, E_BANK]
    for _ in range(banks_of(runs, oldest)):
        open_row = s[params[AT_BANK] + B_WORDS * wanted + B_ROW]
        bank = runs[entry, E_BANK]
        for _ in range(banks_of(runs, entry)):
            if bank == wanted and open_row >= 0 and open_row != runs[oldest, E_ROW]:
                return True
            bank = next_bank(nodes, bank)
        wanted = next_bank(nodes, wanted)
    return False


@inlined
def tired_from(params: Array, s: Array, runs: Array, queue: int, position: int) -> int:
    """The tick from which no row is kept open against an entry: only the oldest one gets tired."""
    if position > 0 or params[P_AGE] == FAR:
        return FAR
    return int(runs[s[params[AT_LIST] + queue * params[P_SLOTS]], E_QUEUED] + params[P_AGE])


@kernel
def choose(
    params: Array, nodes: Array, s: Array, runs: Array, queue: int, now: int, slot: int
) -> tuple[int, int, int, int]:
    """Return (position in the queue, command, bank, tick): the command that goes out now, or NOTHING and when to look.

    `slot`: COLUMN, or ANY.
    """
    place, due = params[AT_LIST] + queue * params[P_SLOTS], FAR
    for i in range(s[CH_SIZE0 + queue]):
        bank = s[place + L_BANK]
        at = params[AT_BANK] + B_WORDS * bank
        if s[at + B_ROW] == s[place + L_ROW]:
            command = column_of(runs, queue, s[place])
            tick = column_tick(params, nodes, s, command, at, bank, now, due)
            if tick > now:
                due = min(due, tick)
            elif not held(params, nodes, s, runs, queue, i, now):
                return i, command, bank, now
        elif slot == ANY:
            command, tick = row_tick(params, nodes, s, runs, queue, i, at, bank, now, due)
            if tick <= now:
                return i, command, bank, now
            due = min(due, tick)
        place += L_WORDS
    return NOTHING, NOTHING, NOTHING, due


@kernel
def choose_row(params: Array, nodes: Array, s: Array, runs: Array, queue: int, now: int) -> tuple[int, int, int, int]:
    """As `choose`, for a slot of row commands; notes entries whose rows are all open, and rows kept open for hits."""
    place, due = params[AT_LIST] + queue * params[P_SLOTS], FAR
    s[CH_KEPT] = 0
    for i in range(s[CH_SIZE0 + queue]):
        if s[place + L_OPEN_AT] != s[CH_CLOSINGS]:
            bank = s[place + L_BANK]
            at = params[AT_BANK] + B_WORDS * bank
            shut = s[at + B_ROW] != s[place + L_ROW]
            if shut:
                command, tick = row_tick(params, nodes, s, runs, queue, i, at, bank, now, due)
                if tick <= now:
                    return i, command, bank, now
                due = min(due, tick)
            if params[P_TURN] > 1:
                command, bank, tick, more = other_rows(params, nodes, s, runs, queue, i, now, due)
                if tick <= now:
                    return i, command, bank, now
                due, shut = min(due, tick), shut or more
            if not shut:
                s[place + L_OPEN_AT] = s[CH_CLOSINGS]
        place += L_WORDS
    return NOTHING, NOTHING, NOTHING, due


@inlined
def column_of(runs: Array, queue: int, entry: int) -> int:
    """The column command of an entry; only the active list holds reads and writes."""
    if queue == ACTIVE_LIST:
        return WR if runs[entry, E_WRITE] else RD
    return WR if queue == WRITE_LIST else RD


@inlined
def column_tick(params: Array, nodes: Array, s: Array, command: int, at: int, bank: int, now: int, due: int) -> int:
    """The first tick from `now` on that takes the column command of an entry whose row is open.

    What is known to lie at `due` or later is not worked out; so it is in the functions below.
    """
    word = at + (B_WRITE_FROM if command == WR else B_READ_FROM)
    if s[word] < due:
        s[word] = earliest(params, nodes, s, command, bank)
    tick = max(now, s[word])
    return slot_from(params, s, command, bank, 0, tick)


@inlined
def row_tick(
    params: Array, nodes: Array, s: Array, runs: Array, queue: int, position: int, at: int, bank: int, now: int,
    due: int,
) -> tuple[int, int]:  # fmt: skip
    """The command that gets an entry's row opened, and the first tick from `now` on that takes it, FAR if unknown."""
    if s[at + B_ROW_FROM] >= due:
        return NOTHING, s[at + B_ROW_FROM]
    command = row_command(params, s, bank)
    if command == NOTHING:
        return NOTHING, FAR
    s[at + B_ROW_FROM] = earliest(params, nodes, s, command, bank)
    tick = max(now, s[at + B_ROW_FROM])
    tick = slot_from(params, s, command, bank, nodes[bank, PSEUDO_OF], tick)
    if tick <= now and command == PRE and params[P_PROTECT] != PROTECT_NONE:
        tired = tired_from(params, s, runs, queue, position)
        if now < tired and protected(params, nodes, s, runs, queue, position, bank):
            s[CH_KEPT] = 1
            return NOTHING, tired
    return command, tick


@kernel
def other_rows(
    params: Array, nodes: Array, s: Array, runs: Array, queue: int, position: int, now: int, due: int
) -> tuple[int, int, int, bool]:
    """As row_tick, for the banks of an entry's later bursts: (command, bank, tick, one of their rows is not open)."""
    entry = s[params[AT_LIST] + queue * params[P_SLOTS] + L_WORDS * position]
    bank, row, shut = runs[entry, E_BANK], runs[entry, E_ROW], False
    for _ in range(1, banks_of(runs, entry)):
        bank = next_bank(nodes, bank)
        at = params[AT_BANK] + B_WORDS * bank
        if s[at + B_ROW] != row:
            shut = True
            command, tick = row_tick(params, nodes, s, runs, queue, position, at, bank, now, due)
            if tick <= now:
                return command, bank, tick, shut
            due = min(due, tick)
    return NOTHING, NOTHING, due, shut
