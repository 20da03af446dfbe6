"""Sending what was chosen: entries move between lists, are counted, and are done after their last burst."""

from __future__ import annotations

from typing import Any

import numpy.typing as npt

from npusim.jit import inlined, kernel
from npusim.memory.controller.choose import banks_of, next_bank
from npusim.memory.controller.commands import apply_rules, earliest, log, send_row, set_row
from npusim.memory.controller.layout import (
    ACTIVE_LIST,
    AT_BANK,
    AT_LIST,
    B_ACTIVE,
    B_READ_FROM,
    B_ROW,
    B_ROW_FROM,
    B_WORDS,
    B_WRITE_FROM,
    CH_ACTIVATED,
    CH_ACTIVATING,
    CH_ADMIT_FROM,
    CH_BATCH,
    CH_COLUMN_FREE,
    CH_COLUMN_FROM,
    CH_COMMITTED,
    CH_COMMITTED_LIST,
    CH_CONFLICTS,
    CH_DEADLINE,
    CH_FINISHED,
    CH_HITS,
    CH_KEPT,
    CH_LAST_KIND,
    CH_LAST_WRITE,
    CH_MISSES,
    CH_PLACES0,
    CH_PLACES2,
    CH_READS,
    CH_READS_OWED,
    CH_REFRESH_FROM,
    CH_REFRESHING,
    CH_ROW_FROM,
    CH_SIZE0,
    CH_SIZE2,
    CH_TRAIN_FIRST,
    CH_TURNS,
    CH_WCK_UNTIL,
    CH_WRITE_MODE,
    CH_WRITES_FROM,
    CH_WRITES_TO,
    CLOSED,
    E_ARRIVAL,
    E_BANK,
    E_COUNT,
    E_DONE,
    E_LOCAL,
    E_NEXT,
    E_QUEUED,
    E_ROW,
    E_SEEN,
    E_TOTAL,
    E_TURN,
    E_WRITE,
    L_BANK,
    L_ENTRY,
    L_OPEN_AT,
    L_ROW,
    L_WORDS,
    OPENING,
    P_AAD,
    P_ACTIVE,
    P_BATCH,
    P_BURST_TICKS,
    P_COLUMN_TICKS,
    P_HIGH,
    P_HOLD,
    P_LOG,
    P_LOW,
    P_PLACE,
    P_PLACE_BITS,
    P_READ_LATENCY,
    P_READ_QUEUE,
    P_SLOTS,
    P_TRAIN,
    P_TURN,
    P_WCK,
    P_WCK_READ,
    P_WCK_WRITE,
    P_WRITE_LATENCY,
    P_WRITE_QUEUE,
    READ_LIST,
    SEEN_CONFLICT,
    SEEN_HIT,
    SEEN_MISS,
    WRITE_LIST,
)
from npusim.memory.controller.timing import ACT, PRE, R_UPPER, RD, WR

Array = npt.NDArray[Any]


@inlined
def append(params: Array, nodes: Array, s: Array, runs: Array, queue: int, entry: int, now: int) -> None:
    """Put an entry, which `fits`, at the end of a list."""
    place = params[AT_LIST] + queue * params[P_SLOTS] + L_WORDS * s[CH_SIZE0 + queue]
    s[place + L_ENTRY], s[place + L_BANK], s[place + L_ROW] = entry, runs[entry, E_BANK], runs[entry, E_ROW]
    s[place + L_OPEN_AT] = -1
    s[CH_SIZE0 + queue] += 1
    runs[entry, E_QUEUED] = now
    runs[entry, E_TOTAL] = runs[entry, E_COUNT]
    s[CH_PLACES0 + queue] += _places(params, runs[entry, E_COUNT])
    if queue == WRITE_LIST:
        _note_write(s, runs, entry)
    if may_turn(params, s):
        s[CH_ROW_FROM] = s[CH_COLUMN_FROM] = 0
    elif queue == WRITE_LIST if s[CH_WRITE_MODE] else queue == READ_LIST:
        _expect(params, nodes, s, runs, entry)


@inlined
def _note_write(s: Array, runs: Array, entry: int) -> None:
    """Let the bounds of what the queued writes write hold one more, which is in the list."""
    begin, end = runs[entry, E_LOCAL], runs[entry, E_LOCAL] + runs[entry, E_COUNT]
    alone = s[CH_SIZE0 + WRITE_LIST] == 1
    s[CH_WRITES_FROM] = begin if alone else min(s[CH_WRITES_FROM], begin)
    s[CH_WRITES_TO] = end if alone else max(s[CH_WRITES_TO], end)


@inlined
def may_turn(params: Array, s: Array) -> bool:
    """Whether what is queued may let reads go before writes, or the other way round, from now on."""
    reads, writes = s[CH_SIZE0 + READ_LIST], s[CH_PLACES0 + WRITE_LIST]
    if s[CH_WRITE_MODE]:
        return bool((reads > 0 or params[P_HOLD]) and (writes < params[P_LOW] or s[CH_BATCH] >= params[P_BATCH]))
    return bool(writes > params[P_HIGH] or reads == 0)


@inlined
def _expect(params: Array, nodes: Array, s: Array, runs: Array, entry: int) -> None:
    """Bring forward the ticks to look again to those at which an entry may need a command."""
    bank, row, banks = runs[entry, E_BANK], runs[entry, E_ROW], params[AT_BANK]
    if s[banks + B_WORDS * bank + B_ROW] == row:
        word = B_WRITE_FROM if runs[entry, E_WRITE] else B_READ_FROM
        s[CH_COLUMN_FROM] = min(s[CH_COLUMN_FROM], s[banks + B_WORDS * bank + word])
    for _ in range(banks_of(runs, entry)):
        at = banks + B_WORDS * bank
        if s[at + B_ROW] != row:
            s[CH_ROW_FROM] = min(s[CH_ROW_FROM], s[at + B_ROW_FROM])
        bank = next_bank(nodes, bank)


@inlined
def _places(params: Array, bursts: int) -> int:
    """The places of a queue that some bursts take."""
    bits, more = params[P_PLACE_BITS], bursts + params[P_PLACE] - 1
    return int(more >> bits if bits >= 0 else more // params[P_PLACE])


@inlined
def fits(params: Array, s: Array, runs: Array, queue: int, entry: int) -> bool:
    """Whether a queue has room for an entry's places. One that is larger than the queue has it alone."""
    places = params[P_WRITE_QUEUE] if queue == WRITE_LIST else params[P_READ_QUEUE]
    wanted = _places(params, runs[entry, E_COUNT])
    return bool(s[CH_SIZE0 + queue] == 0 or s[CH_PLACES0 + queue] + wanted <= places)


@inlined
def remove(params: Array, s: Array, runs: Array, queue: int, position: int) -> None:
    """Take an entry out of a list; the others keep their order."""
    at, size = params[AT_LIST] + queue * params[P_SLOTS], s[CH_SIZE0 + queue] - 1
    places = _places(params, runs[s[at + L_WORDS * position], E_TOTAL])
    s[CH_SIZE0 + queue] = size
    s[CH_PLACES0 + queue] -= places
    if queue == WRITE_LIST:
        s[CH_BATCH] = s[CH_BATCH] + places if s[CH_SIZE0 + READ_LIST] else 0
    elif queue == READ_LIST:
        s[CH_READS_OWED] -= places
    s[CH_COLUMN_FROM] = s[CH_ADMIT_FROM] = 0
    if s[CH_KEPT] or may_turn(params, s):
        s[CH_ROW_FROM] = 0
    for word in range(at + L_WORDS * position, at + L_WORDS * size):
        s[word] = s[word + L_WORDS]


@inlined
def _classify(params: Array, s: Array, runs: Array, entry: int, bank: int) -> None:
    """Count a request by the state in which its first command finds its bank."""
    row = s[params[AT_BANK] + B_WORDS * bank + B_ROW]
    if row == runs[entry, E_ROW]:
        runs[entry, E_SEEN] = SEEN_HIT
        s[CH_HITS] += 1
    elif row == CLOSED:
        runs[entry, E_SEEN] = SEEN_MISS
        s[CH_MISSES] += 1
    else:
        runs[entry, E_SEEN] = SEEN_CONFLICT
        s[CH_CONFLICTS] += 1


@inlined
def send(
    params: Array, rules: Array, nodes: Array, s: Array, runs: Array, queue: int, position: int, command: int,
    bank: int, now: int,
) -> None:  # fmt: skip
    """Send the command that was chosen for an entry."""
    entry = s[params[AT_LIST] + queue * params[P_SLOTS] + L_WORDS * position]
    if runs[entry, E_SEEN] == 0:
        _classify(params, s, runs, entry, bank)
    if command == PRE:
        send_row(params, rules, nodes, s, PRE, bank, CLOSED, now)
    elif command == ACT:
        send_row(params, rules, nodes, s, ACT, bank, runs[entry, E_ROW], now)
        if params[P_AAD]:
            set_row(params, nodes, s, bank, OPENING)
            s[CH_ACTIVATING], s[CH_DEADLINE], s[CH_ACTIVATED] = 1 + entry, now + params[P_AAD], bank
        if params[P_ACTIVE]:
            remove(params, s, runs, queue, position)
            if params[P_AAD] == 0:
                _activated(params, s, runs, entry, bank)
    elif params[P_WCK] and now >= s[CH_WCK_UNTIL]:
        if s[CH_ACTIVATING] and s[CH_DEADLINE] <= now + 1:
            second_activate(params, nodes, s, runs)
        else:  # this tick sends CAS; the column follows
            s[CH_COMMITTED], s[CH_COMMITTED_LIST] = 1 + entry, queue
    else:
        send_columns(params, rules, nodes, s, runs, queue, position, command, now)


@inlined
def _activated(params: Array, s: Array, runs: Array, entry: int, bank: int) -> None:
    """Put an entry into the active list, which is in the order of arrival, as the others are."""
    first, i = params[AT_LIST] + ACTIVE_LIST * params[P_SLOTS], s[CH_SIZE2]
    while i > 0 and runs[s[first + L_WORDS * (i - 1)], E_ARRIVAL] > runs[entry, E_ARRIVAL]:
        i -= 1
        for word in range(first + L_WORDS * i, first + L_WORDS * (i + 1)):
            s[word + L_WORDS] = s[word]
    place = first + L_WORDS * i
    s[place + L_ENTRY], s[place + L_BANK], s[place + L_ROW] = entry, bank, runs[entry, E_ROW]
    s[CH_SIZE2] += 1
    s[CH_PLACES2] += _places(params, runs[entry, E_TOTAL])
    s[CH_COLUMN_FROM] = 0
    s[params[AT_BANK] + B_WORDS * bank + B_ACTIVE] += 1


@kernel
def second_activate(params: Array, nodes: Array, s: Array, runs: Array) -> None:
    """Send the second command of an activation (LPDDR5): the row is open."""
    entry, bank = s[CH_ACTIVATING] - 1, s[CH_ACTIVATED]
    s[CH_ACTIVATING] = 0
    set_row(params, nodes, s, bank, runs[entry, E_ROW])
    if params[P_ACTIVE]:
        _activated(params, s, runs, entry, bank)


@inlined
def send_columns(
    params: Array, rules: Array, nodes: Array, s: Array, runs: Array, queue: int, position: int, command: int, now: int
) -> None:
    """Send the next burst of an entry, and with it the row hits that follow at full rate."""
    entry = s[params[AT_LIST] + queue * params[P_SLOTS] + L_WORDS * position]
    count, bank, turn = runs[entry, E_COUNT], runs[entry, E_BANK], runs[entry, E_TURN]
    if params[P_TRAIN] and count > 1:
        bursts = _train_length(params, nodes, s, command, bank, runs[entry, E_ROW], now, count, turn)
    else:
        bursts = 1
    spacing = params[P_COLUMN_TICKS]
    if params[P_LOG]:
        at = bank
        for i in range(bursts):
            log(params, s, command, at, runs[entry, E_ROW], now + i * spacing)
            at = next_bank(nodes, at) if turn > 1 else at
    traces = min(bursts, turn)  # of each bank only the last burst leaves one
    for _ in range((bursts - traces) & (turn - 1)):
        bank = next_bank(nodes, bank)
    last = now + (bursts - 1) * spacing
    for i in range(traces):
        first = 0 if i == traces - 1 else rules[command, R_UPPER]  # of what the groups share only the last one counts
        apply_rules(params, rules, nodes, s, command, bank, last - (traces - 1 - i) * spacing, first)
        bank = next_bank(nodes, bank) if turn > 1 else bank
    left = count - bursts
    _count_columns(params, s, command, bursts, now, last)
    runs[entry, E_COUNT], runs[entry, E_BANK] = left, bank
    s[params[AT_LIST] + queue * params[P_SLOTS] + L_WORDS * position + L_BANK] = bank
    if s[CH_REFRESHING] == 0:  # a bank may be free for one now
        s[CH_REFRESH_FROM] = 0
    if s[CH_KEPT] or queue == ACTIVE_LIST:
        s[CH_ROW_FROM] = 0
    if left == 0:
        remove(params, s, runs, queue, position)
        if queue == ACTIVE_LIST:
            s[params[AT_BANK] + B_WORDS * bank + B_ACTIVE] -= 1
        _finish(params, s, runs, entry, command, last)


@kernel
def _train_length(
    params: Array, nodes: Array, s: Array, command: int, bank: int, row: int, now: int, count: int, turn: int
) -> int:
    """How many bursts of an entry can follow each other at full rate from `now` on, of which the first one can go."""
    if turn < params[P_TURN]:
        return 1  # one bank group alone is slower
    for i in range(1, min(count, turn)):
        bank = next_bank(nodes, bank)
        if s[params[AT_BANK] + B_WORDS * bank + B_ROW] != row:
            return i
        if earliest(params, nodes, s, command, bank) > now + i * params[P_COLUMN_TICKS]:
            return i
    return count


@inlined
def _count_columns(params: Array, s: Array, command: int, bursts: int, first: int, last: int) -> None:
    s[CH_READS if command == RD else CH_READS + 1] += bursts
    s[CH_TURNS] += 1 if s[CH_LAST_KIND] != command else 0
    s[CH_LAST_KIND] = command
    if params[P_TRAIN]:  # another bank group may follow a single burst sooner than this one's next
        s[CH_COLUMN_FREE] = last + (params[P_COLUMN_TICKS] if last > first else params[P_BURST_TICKS])
    else:
        s[CH_COLUMN_FREE] = last + 1
    s[CH_TRAIN_FIRST] = first
    if params[P_WCK]:
        keep = params[P_WCK_READ] if command == RD else params[P_WCK_WRITE]
        s[CH_WCK_UNTIL] = max(s[CH_WCK_UNTIL], last + keep)


@inlined
def _finish(params: Array, s: Array, runs: Array, entry: int, command: int, last: int) -> None:
    """Note when an entry is done, and chain it to those that are to be answered."""
    if command == WR:
        runs[entry, E_DONE] = last + params[P_WRITE_LATENCY]
        s[CH_LAST_WRITE] = max(s[CH_LAST_WRITE], runs[entry, E_DONE])
    else:
        runs[entry, E_DONE] = last + params[P_READ_LATENCY]
    runs[entry, E_NEXT] = s[CH_FINISHED]
    s[CH_FINISHED] = 1 + entry

