"""A channel's tick: refresh, then the commands that the scheduler sends; and when to look again."""

from __future__ import annotations

from typing import Any

import numpy.typing as npt

from npusim.jit import inlined, kernel
from npusim.memory.controller.choose import NOTHING, choose, choose_row
from npusim.memory.controller.commands import earliest
from npusim.memory.controller.layout import (
    ACTIVE_LIST,
    ALL_BANK,
    ANY,
    AT_LIST,
    CH_ACTIVATING,
    CH_BATCH,
    CH_COLUMN_FREE,
    CH_COLUMN_FROM,
    CH_COMMITTED,
    CH_COMMITTED_LIST,
    CH_DEADLINE,
    CH_NEXT_REFRESH,
    CH_OWED,
    CH_PLACES0,
    CH_READS_OWED,
    CH_REFRESH_FROM,
    CH_ROW_FROM,
    CH_SIZE0,
    CH_TRAIN_FIRST,
    CH_WANTED,
    CH_WRITE_MODE,
    COLUMN,
    E_BANK,
    E_QUEUED,
    E_WRITE,
    FAR,
    L_WORDS,
    NO_REFRESH,
    P_AAD,
    P_ACTIVE,
    P_BATCH,
    P_BUSES,
    P_CLOSED,
    P_COLUMN_FIRST,
    P_COLUMN_TICKS,
    P_HIGH,
    P_HOLD,
    P_LOW,
    P_PSEUDO,
    P_REFI,
    P_REFRESH,
    P_SLOTS,
    P_WRITE_AGE,
    PER_BANK,
    READ_LIST,
    ROW,
    WRITE_LIST,
)
from npusim.memory.controller.refresh import close_unwanted, may_refresh, refresh, urgent
from npusim.memory.controller.send import second_activate, send, send_columns
from npusim.memory.controller.timing import RD, WR

Array = npt.NDArray[Any]


@inlined
def write_late_from(params: Array, s: Array, runs: Array) -> int:
    """The tick from which writes have waited too long: the oldest for its answer, or a read for one of them."""
    if s[CH_WANTED]:
        return 0
    if params[P_WRITE_AGE] == FAR or s[CH_SIZE0 + WRITE_LIST] == 0:
        return FAR
    return int(runs[s[params[AT_LIST] + WRITE_LIST * params[P_SLOTS]], E_QUEUED] + params[P_WRITE_AGE])


@inlined
def update_mode(params: Array, s: Array, runs: Array, now: int) -> int:
    """Decide whether writes or reads go first, with hysteresis; return the list that does.

    While reads wait, a batch of writes has an end even if more and more come; then as many reads go. While none waits,
    writes go at once, or wait all the same (P_HOLD).
    """
    reads, writes = s[CH_SIZE0 + READ_LIST], s[CH_PLACES0 + WRITE_LIST]
    if s[CH_WRITE_MODE]:
        full = s[CH_BATCH] >= params[P_BATCH]
        few = writes < params[P_LOW] and now < write_late_from(params, s, runs)
        if (reads > 0 or params[P_HOLD]) and (full or few):
            s[CH_WRITE_MODE] = s[CH_ROW_FROM] = s[CH_COLUMN_FROM] = 0
            s[CH_READS_OWED] = s[CH_BATCH] if full else 0
    elif (reads == 0 and params[P_HOLD] == 0) or (
        (reads == 0 or s[CH_READS_OWED] <= 0) and (writes > params[P_HIGH] or now >= write_late_from(params, s, runs))
    ):
        s[CH_WRITE_MODE], s[CH_ROW_FROM], s[CH_COLUMN_FROM] = 1, 0, 0
        s[CH_BATCH] = s[CH_READS_OWED] = 0
    return WRITE_LIST if s[CH_WRITE_MODE] else READ_LIST


@inlined
def fill_slot(
    params: Array, rules: Array, nodes: Array, s: Array, runs: Array, now: int, slot: int
) -> tuple[bool, int]:
    """Send at most one command (or one train of columns) in a command slot; (sent, when to look again)."""
    due = FAR
    if params[P_ACTIVE] and slot != ROW:
        sent, due = _send_from(params, rules, nodes, s, runs, ACTIVE_LIST, now, COLUMN)
        if sent:
            return True, due
    if s[CH_OWED] > 0:
        blocked = urgent(params, s)
        if slot != COLUMN and (blocked or may_refresh(params, s)):
            sent, tick = _refresh(params, rules, nodes, s, runs, now)
            if sent:
                return True, tick
            due = min(due, tick)
        if blocked:
            return False, due
    queue = update_mode(params, s, runs, now)
    if slot == ROW and s[CH_ROW_FROM] > now:
        tick = s[CH_ROW_FROM]
    else:
        sent, tick = _send_from(params, rules, nodes, s, runs, queue, now, slot)
        if sent:
            return True, tick
    due = min(due, tick)
    if slot == ROW:
        s[CH_ROW_FROM] = tick
    elif slot == COLUMN:
        s[CH_COLUMN_FROM] = due
    if params[P_CLOSED] and slot != COLUMN:
        sent, tick = close_unwanted(params, rules, nodes, s, runs, now)
        return sent, min(due, tick)
    return False, due


@inlined
def _refresh(params: Array, rules: Array, nodes: Array, s: Array, runs: Array, now: int) -> tuple[bool, int]:
    """Bring an owed refresh forward, unless it is known that nothing can be done yet; (sent, when to look again)."""
    if s[CH_REFRESH_FROM] > now:
        return False, s[CH_REFRESH_FROM]
    sent, tick = refresh(params, rules, nodes, s, runs, now)
    if not sent and params[P_REFRESH] == PER_BANK:
        s[CH_REFRESH_FROM] = tick
    return sent, tick


@inlined
def _send_from(
    params: Array, rules: Array, nodes: Array, s: Array, runs: Array, queue: int, now: int, slot: int
) -> tuple[bool, int]:
    if slot == ROW:
        position, command, bank, due = choose_row(params, nodes, s, runs, queue, now)
    else:
        position, command, bank, due = choose(params, nodes, s, runs, queue, now, slot)
    if position == NOTHING:
        return False, due
    send(params, rules, nodes, s, runs, queue, position, command, bank, now)
    return True, now + 1


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
    if now >= s[CH_COLUMN_FREE]:
        return False
    since = now - s[CH_TRAIN_FIRST]
    if since < params[P_COLUMN_TICKS]:  # of most trains nothing is left behind their first burst
        return bool(since == 0)
    return bool(since % params[P_COLUMN_TICKS] == 0)


@inlined
def count_refreshes(params: Array, s: Array, now: int) -> int:
    """Owe the refreshes whose time has come; return the tick of the next."""
    if params[P_REFRESH] == NO_REFRESH:
        return FAR
    while now >= s[CH_NEXT_REFRESH]:
        s[CH_OWED] += params[P_PSEUDO] if params[P_REFRESH] == ALL_BANK else 1
        s[CH_NEXT_REFRESH] += params[P_REFI]
        s[CH_REFRESH_FROM] = 0
    return int(s[CH_NEXT_REFRESH])


@inlined
def step(params: Array, rules: Array, nodes: Array, s: Array, runs: Array, now: int) -> int:
    """Do all that a channel does in tick `now`; return the next tick in which it may do something, arrivals apart."""
    due = count_refreshes(params, s, now)
    if params[P_WRITE_AGE] != FAR and (s[CH_WRITE_MODE] == 0 or params[P_HOLD]):
        late = write_late_from(params, s, runs)
        if late <= now:
            s[CH_ROW_FROM] = s[CH_COLUMN_FROM] = 0
        else:
            due = min(due, late)
    if s[CH_COMMITTED]:
        return int(min(due, _follow_cas(params, rules, nodes, s, runs, now)))
    if params[P_AAD] and s[CH_ACTIVATING] and now >= s[CH_DEADLINE] and not in_train(params, s, now):
        second_activate(params, nodes, s, runs)
        return now + 1
    if params[P_BUSES] == 2 or params[P_COLUMN_FIRST]:
        sent, tick = _two_slots(params, rules, nodes, s, runs, now)
    else:
        sent, tick = fill_slot(params, rules, nodes, s, runs, now, ANY)
    if params[P_AAD] and not sent and s[CH_ACTIVATING] and not in_train(params, s, now):
        second_activate(params, nodes, s, runs)
        return now + 1
    if params[P_AAD] and s[CH_ACTIVATING]:  # the second command of an activation waits for a place on the bus
        return now + 1
    return int(min(due, tick))


@inlined
def _two_slots(params: Array, rules: Array, nodes: Array, s: Array, runs: Array, now: int) -> tuple[bool, int]:
    """Columns and rows have buses of their own, or columns come first; (a shared bus is taken, when to look)."""
    due, sent = max(s[CH_COLUMN_FREE], s[CH_COLUMN_FROM]), False
    if now >= due:
        sent, due = fill_slot(params, rules, nodes, s, runs, now, COLUMN)
        if sent:
            due = max(now + 1, s[CH_COLUMN_FREE])
            if not _waiting(s):
                s[CH_ROW_FROM] = s[CH_COLUMN_FROM] = due = FAR
                s[CH_WRITE_MODE], s[CH_BATCH] = 1 - params[P_HOLD], 0  # an idle channel takes writes first
    look = now if params[P_CLOSED] else s[CH_ROW_FROM]
    if s[CH_OWED]:
        look = min(look, s[CH_REFRESH_FROM]) if params[P_REFRESH] == PER_BANK else now
    if params[P_BUSES] == 1 and (sent or in_train(params, s, now)):
        return True, max(now + 1, min(due, look))
    if look > now:
        return False, min(due, look)
    sent, tick = fill_slot(params, rules, nodes, s, runs, now, ROW)
    return sent, min(due, tick)


@inlined
def _waiting(s: Array) -> bool:
    return bool(s[CH_SIZE0] + s[CH_SIZE0 + 1] + s[CH_SIZE0 + 2] > 0)
