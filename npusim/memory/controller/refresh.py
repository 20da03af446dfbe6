"""Refresh of all banks at once or bank by bank, and rows that are closed because nobody wants them.

A refresh that is due waits while entries do, up to the number that may be owed (JESD79-4: eight intervals); then it
comes first. Bank by bank, those without entries are taken before others of the round (Chang et al., HPCA 2014).
"""

from __future__ import annotations

from typing import Any

import numpy.typing as npt

from npusim.jit import inlined, kernel
from npusim.memory.controller.choose import banks_of, next_bank, touches
from npusim.memory.controller.commands import (
    apply_rules,
    earliest,
    earliest_of_all,
    log,
    send_row,
    send_to_all,
    slot_from,
)
from npusim.memory.controller.layout import (
    ALL_BANK,
    AT_BANK,
    AT_LIST,
    B_ACTIVE,
    B_ROW,
    B_WORDS,
    CH_ACTIVATING,
    CH_OWED,
    CH_REFRESH_FROM,
    CH_REFRESHES,
    CH_REFRESHING,
    CH_ROUND,
    CH_ROW_FROM,
    CH_SERVED,
    CH_SHUT,
    CH_SIZE0,
    CLOSED,
    E_BANK,
    FAR,
    L_WORDS,
    OPENING,
    P_BANKS,
    P_POSTPONE,
    P_PSEUDO,
    P_REFRESH,
    P_REFRESH_BLOCKS,
    P_SLOTS,
    PSEUDO_OF,
    READ_LIST,
    WRITE_LIST,
)
from npusim.memory.controller.timing import PRE, PREA, REFA, REFB

Array = npt.NDArray[Any]


@inlined
def urgent(params: Array, s: Array) -> bool:
    """Whether nothing else may begin before an owed refresh of all banks."""
    if params[P_REFRESH] != ALL_BANK:
        return False
    return bool(params[P_REFRESH_BLOCKS] or s[CH_OWED] > params[P_POSTPONE] * params[P_PSEUDO])


@inlined
def may_refresh(params: Array, s: Array) -> bool:
    """Whether an owed refresh may be made although it could wait."""
    if params[P_REFRESH] == ALL_BANK:
        return bool(s[CH_SIZE0 + READ_LIST] + s[CH_SIZE0 + WRITE_LIST] == 0)
    return True


@inlined
def refresh(params: Array, rules: Array, nodes: Array, s: Array, runs: Array, now: int) -> tuple[bool, int]:
    """Bring an owed refresh forward by a command; (sent, when to look again)."""
    if params[P_REFRESH] == ALL_BANK:
        return refresh_all(params, rules, nodes, s, now)
    return refresh_bank(params, rules, nodes, s, runs, now)


@kernel
def refresh_all(params: Array, rules: Array, nodes: Array, s: Array, now: int) -> tuple[bool, int]:
    """Close and refresh the next pseudo-channel that is owed a refresh."""
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
        s[CH_REFRESHES] += 1
    return True, now + 1


@kernel
def refresh_bank(params: Array, rules: Array, nodes: Array, s: Array, runs: Array, now: int) -> tuple[bool, int]:
    """Close and refresh a bank that is owed a refresh; none if all that are left have entries and may wait."""
    if s[CH_REFRESHING] == 0:
        bank = _idle_bank(params, nodes, s, runs)
        if bank < 0:
            if s[CH_OWED] <= params[P_POSTPONE] * params[P_BANKS]:
                return False, FAR
            bank = 0
            while (s[CH_ROUND] >> bank) & 1 == 0:
                bank += 1
            if s[params[AT_BANK] + B_WORDS * bank + B_ACTIVE] or s[params[AT_BANK] + B_WORDS * bank + B_ROW] == OPENING:
                return False, FAR  # its column comes first, and is looked for
        s[CH_REFRESHING] = 1 + bank
    bank = s[CH_REFRESHING] - 1
    command = REFB if s[params[AT_BANK] + B_WORDS * bank + B_ROW] == CLOSED else PRE
    tick = max(now, earliest(params, nodes, s, command, bank))
    tick = slot_from(params, s, command, bank, nodes[bank, PSEUDO_OF], tick)
    if tick > now:
        return False, tick
    if command == PRE:
        send_row(params, rules, nodes, s, PRE, bank, CLOSED, now)
        return True, now + 1
    apply_rules(params, rules, nodes, s, REFB, bank, now, 0)
    log(params, s, REFB, bank, 0, now)
    s[CH_REFRESHING] = s[CH_ROW_FROM] = s[CH_REFRESH_FROM] = 0
    s[CH_OWED] -= 1
    s[CH_REFRESHES] += 1
    s[CH_ROUND] &= ~(1 << bank)
    if s[CH_ROUND] == 0:
        s[CH_ROUND] = round_of(params[P_BANKS])
    return True, now + 1


@inlined
def round_of(banks: int) -> int:
    """The mask of all banks; there are at most 63."""
    return (1 << banks) - 1


@kernel
def _idle_bank(params: Array, nodes: Array, s: Array, runs: Array) -> int:
    """A bank of the round for which no entry waits, those without an open row first; -1: there is none."""
    idle = s[CH_ROUND]
    for queue in range(2):
        place = params[AT_LIST] + queue * params[P_SLOTS]
        for i in range(s[CH_SIZE0 + queue]):
            entry = s[place + L_WORDS * i]
            bank = runs[entry, E_BANK]
            for _ in range(banks_of(runs, entry)):
                idle &= ~(1 << bank)
                bank = next_bank(nodes, bank)
            if idle == 0:
                return -1
    bank = _first_free(params, s, idle & s[CH_SHUT])
    return bank if bank >= 0 else _first_free(params, s, idle & ~s[CH_SHUT])


@inlined
def _first_free(params: Array, s: Array, banks: int) -> int:
    """The first bank of a mask that neither opens a row nor has one for the active list; -1: there is none."""
    bank = 0
    while banks >> bank:
        at = params[AT_BANK] + B_WORDS * bank
        if (banks >> bank) & 1 and s[at + B_ACTIVE] == 0 and s[at + B_ROW] != OPENING:
            return bank
        bank += 1
    return -1


@kernel
def close_unwanted(params: Array, rules: Array, nodes: Array, s: Array, runs: Array, now: int) -> tuple[bool, int]:
    """Precharge a bank whose open row no entry wants; (sent, when to look again)."""
    due = FAR
    for bank in range(params[P_BANKS]):
        row = s[params[AT_BANK] + B_WORDS * bank + B_ROW]
        if row < 0 or _wanted(params, nodes, s, runs, bank, row):
            continue
        tick = max(now, earliest(params, nodes, s, PRE, bank))
        tick = slot_from(params, s, PRE, bank, nodes[bank, PSEUDO_OF], tick)
        if tick <= now:
            send_row(params, rules, nodes, s, PRE, bank, CLOSED, now)
            return True, now + 1
        due = min(due, tick)
    return False, due


@kernel
def _wanted(params: Array, nodes: Array, s: Array, runs: Array, bank: int, row: int) -> bool:
    for queue in range(3):
        place = params[AT_LIST] + queue * params[P_SLOTS]
        for i in range(s[CH_SIZE0 + queue]):
            if touches(params, nodes, runs, s[place + L_WORDS * i], bank, row):
                return True
    return False
