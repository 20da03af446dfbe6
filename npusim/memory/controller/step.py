"""A channel's tick: refresh, then the commands that the scheduler sends; and when to look again."""

from __future__ import annotations

from typing import Any

import numpy.typing as npt

from npusim.jit import inlined, kernel
from npusim.memory.controller.choose import NOTHING, choose
from npusim.memory.controller.commands import earliest, earliest_of_all, send_to_all, slot_from
from npusim.memory.controller.layout import (
    ACTIVE_LIST,
    ANY,
    AT_BANK,
    AT_LIST,
    B_ACTIVE,
    B_ROW,
    B_WORDS,
    CH_ACTIVATING,
    CH_COLUMN_FREE,
    CH_COMMITTED,
    CH_COMMITTED_LIST,
    CH_DEADLINE,
    CH_NEXT_REFRESH,
    CH_OWED,
    CH_SERVED,
    CH_SIZE0,
    CH_TRAIN_FIRST,
    CH_WRITE_MODE,
    COLUMN,
    E_BANK,
    E_WRITE,
    FAR,
    L_WORDS,
    P_AAD,
    P_ACTIVE,
    P_BANKS,
    P_BUSES,
    P_COLUMN_FIRST,
    P_COLUMN_TICKS,
    P_HIGH,
    P_LOW,
    P_PSEUDO,
    P_REFI,
    P_REFRESH,
    P_REFRESH_BLOCKS,
    P_SLOTS,
    P_WCK,
    READ_LIST,
    ROW,
    WRITE_LIST,
)
from npusim.memory.controller.send import second_activate, send, send_columns
from npusim.memory.controller.timing import PREA, RD, REFA, WR

Array = npt.NDArray[Any]


@inlined
def update_mode(params: Array, s: Array) -> int:
    """Decide whether writes or reads go first, with hysteresis; return the list that does."""
    reads, writes = s[CH_SIZE0 + READ_LIST], s[CH_SIZE0 + WRITE_LIST]
    if s[CH_WRITE_MODE]:
        if writes < params[P_LOW] and reads > 0:
            s[CH_WRITE_MODE] = 0
    elif writes > params[P_HIGH] or reads == 0:
        s[CH_WRITE_MODE] = 1
    return WRITE_LIST if s[CH_WRITE_MODE] else READ_LIST


@kernel
def refresh_all(params: Array, rules: Array, nodes: Array, s: Array, now: int) -> tuple[bool, int]:
    """Close and refresh the next pseudo-channel that is owed a refresh; (sent, when to look again)."""
    pseudo = s[CH_SERVED] % params[P_PSEUDO]
    a_pseudo = params[P_BANKS] // params[P_PSEUDO]
    command = REFA
    for bank in range(pseudo * a_pseudo, (pseudo + 1) * a_pseudo):
        at = params[AT_BANK] + B_WORDS * bank
        if s[at + B_ACTIVE] > 0:
            return False, FAR  # its column comes first, and is looked for
        if s[at + B_ROW] >= 0:
            command = PREA
    if s[CH_ACTIVATING]:
        return False, FAR
    tick = max(now, earliest_of_all(params, s, command, pseudo))
    tick = slot_from(params, s, command, -1, pseudo, tick)
    if tick > now:
        return False, tick
    send_to_all(params, rules, nodes, s, command, pseudo, now)
    if command == REFA:
        s[CH_SERVED] += 1
        s[CH_OWED] -= 1
    return True, now + 1


@kernel
def fill_slot(
    params: Array, rules: Array, nodes: Array, s: Array, runs: Array, now: int, slot: int
) -> tuple[bool, int]:
    """Send at most one command (or one train of columns) in a command slot; (sent, when to look again)."""
    due = FAR
    if params[P_ACTIVE] and slot != ROW:
        position, command, bank, due = choose(params, nodes, s, runs, ACTIVE_LIST, now, COLUMN)
        if position != NOTHING:
            send(params, rules, nodes, s, runs, ACTIVE_LIST, position, command, bank, now)
            return True, now + 1
    if s[CH_OWED] > 0 and slot != COLUMN:
        sent, tick = refresh_all(params, rules, nodes, s, now)
        if sent:
            return True, tick
        due = min(due, tick)
    if s[CH_OWED] > 0 and params[P_REFRESH_BLOCKS]:
        return False, due
    queue = update_mode(params, s)
    position, command, bank, tick = choose(params, nodes, s, runs, queue, now, slot)
    if position != NOTHING:
        send(params, rules, nodes, s, runs, queue, position, command, bank, now)
        return True, now + 1
    return False, min(due, tick)


@kernel
def _follow_cas(params: Array, rules: Array, nodes: Array, s: Array, runs: Array, now: int) -> int:
    """Send the column that a CAS was sent for; return when to look again."""
    entry, queue = s[CH_COMMITTED] - 1, s[CH_COMMITTED_LIST]
    command = WR if runs[entry, E_WRITE] else RD
    tick = earliest(params, nodes, s, command, runs[entry, E_BANK])
    if tick > now:
        return int(tick)
    position, at = 0, params[AT_LIST] + queue * params[P_SLOTS]
    while s[at + L_WORDS * position] != entry:
        position += 1
    s[CH_COMMITTED] = 0
    send_columns(params, rules, nodes, s, runs, queue, position, command, now)
    return now + 1


@inlined
def in_train(params: Array, s: Array, now: int) -> bool:
    """Whether a burst of the running train takes the shared bus in this tick."""
    return bool(now < s[CH_COLUMN_FREE] and (now - s[CH_TRAIN_FIRST]) % params[P_COLUMN_TICKS] == 0)


@kernel
def step(params: Array, rules: Array, nodes: Array, s: Array, runs: Array, now: int) -> int:
    """Do all that a channel does in tick `now`; return the next tick in which it may do something, arrivals apart."""
    if params[P_REFRESH] and now >= s[CH_NEXT_REFRESH]:
        s[CH_OWED] += params[P_PSEUDO]
        s[CH_NEXT_REFRESH] += params[P_REFI]
    due = s[CH_NEXT_REFRESH] if params[P_REFRESH] else FAR
    if params[P_BUSES] == 2 or params[P_COLUMN_FIRST]:
        return int(min(due, _two_slots(params, rules, nodes, s, runs, now)))
    if s[CH_COMMITTED]:
        return int(min(due, _follow_cas(params, rules, nodes, s, runs, now)))
    if params[P_AAD] and s[CH_ACTIVATING] and now >= s[CH_DEADLINE]:
        second_activate(params, s, runs)
        return now + 1
    sent, tick = fill_slot(params, rules, nodes, s, runs, now, ANY)
    if params[P_AAD] and not sent and s[CH_ACTIVATING]:
        second_activate(params, s, runs)
        return now + 1
    return int(min(due, tick))


@inlined
def _two_slots(params: Array, rules: Array, nodes: Array, s: Array, runs: Array, now: int) -> int:
    """Columns and rows have buses of their own, or columns come first."""
    due = s[CH_COLUMN_FREE]
    sent = False
    if now >= due:
        sent, due = fill_slot(params, rules, nodes, s, runs, now, COLUMN)
    if params[P_BUSES] == 1 and (sent or in_train(params, s, now)):
        return now + 1
    _, tick = fill_slot(params, rules, nodes, s, runs, now, ROW)
    return min(due, tick)


__all__ = ["P_WCK", "step"]
