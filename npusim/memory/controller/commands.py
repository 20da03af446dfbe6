"""Commands of a channel: when one may go out, and what it changes."""

from __future__ import annotations

from typing import Any

import numpy.typing as npt

from npusim.jit import inlined, kernel
from npusim.memory.controller.layout import (
    AT_BANK,
    AT_FAW,
    AT_LOG,
    AT_READY,
    B_READ_FROM,
    B_ROW,
    B_ROW_FROM,
    B_WORDS,
    B_WRITE_FROM,
    CH_ACTS,
    CH_CLOSINGS,
    CH_COLUMN_FROM,
    CH_LOGGED,
    CH_PAIR_BANK,
    CH_PAIR_COMMAND,
    CH_PAIR_NODE,
    CH_PAIR_TICK,
    CH_PREAS,
    CH_PRES,
    CH_REFRESH_FROM,
    CH_REFRESHING,
    CH_ROW_FROM,
    CH_SHUT,
    CLOSED,
    FAW_WORDS,
    LOG_WORDS,
    LONG_AGO,
    P_AAD,
    P_BANKS,
    P_FAW,
    P_HALF,
    P_LOG,
    P_PSEUDO,
    P_REFRESH,
    P_SIBLING,
    P_STACKS,
    PER_BANK,
    PSEUDO_OF,
)
from npusim.memory.controller.timing import (
    ACT,
    BANK,
    CHANNEL,
    COMMAND_COUNT,
    GROUP,
    PRE,
    PREA,
    PSEUDO,
    R_COUNT,
    R_RULE0,
    R_WORDS,
    RD,
    REFA,
    STACK,
    WR,
)

Array = npt.NDArray[Any]


@inlined
def earliest(params: Array, nodes: Array, s: Array, command: int, bank: int) -> int:
    """The first tick at which a command to a bank breaks no rule; command slots aside."""
    tick = s[nodes[bank, BANK] + command]
    tick = max(tick, s[nodes[bank, GROUP] + command])
    tick = max(tick, s[nodes[bank, PSEUDO] + command])
    if params[P_STACKS] > 1:
        tick = max(tick, s[nodes[bank, STACK] + command])
    return int(max(tick, s[nodes[bank, CHANNEL] + command]))


@inlined
def earliest_of_all(params: Array, s: Array, command: int, pseudo: int) -> int:
    """The first tick at which a command to all banks of a pseudo-channel breaks no rule."""
    at = params[AT_READY] + command
    return int(max(s[at], s[at + COMMAND_COUNT * (1 + pseudo)]))


@inlined
def slot_from(params: Array, s: Array, command: int, bank: int, pseudo: int, tick: int) -> int:
    """The first tick from `tick` on whose clock edge takes the command (JESD238: row commands pair)."""
    if params[P_HALF] == 0:
        return tick
    if command != PRE and command != PREA:
        return tick | 1
    if tick & 1 == 0 and tick == s[CH_PAIR_TICK] and pseudo == s[CH_PAIR_NODE]:
        last = s[CH_PAIR_COMMAND]
        if last == PREA or last == REFA or command == PREA or bank == s[CH_PAIR_BANK]:
            return tick + 1
    return tick


@kernel
def apply_rules(
    params: Array, rules: Array, nodes: Array, s: Array, command: int, bank: int, now: int, first: int
) -> None:
    """Let a command that goes out `now` push back what must wait for it, by its rules from number `first` on.

    Of a command to all banks `bank` is one.
    """
    for at in range(R_RULE0 + R_WORDS * first, R_RULE0 + R_WORDS * rules[command, R_COUNT], R_WORDS):
        word = nodes[bank, rules[command, at]] + rules[command, at + 1]
        s[word] = max(s[word], now + rules[command, at + 2])
    if command == ACT:
        _count_activation(params, nodes, s, bank, now)
    elif command == RD and params[P_SIBLING] > 0:
        _tell_siblings(params, nodes, s, bank, now)


@kernel
def _count_activation(params: Array, nodes: Array, s: Array, bank: int, now: int) -> None:
    pseudo = nodes[bank, PSEUDO_OF]
    at = params[AT_FAW] + FAW_WORDS * pseudo
    slot = s[at]
    s[at + 1 + slot] = now
    s[at] = (slot + 1) & 3
    word = nodes[bank, PSEUDO] + ACT
    s[word] = max(s[word], s[at + 1 + s[at]] + params[P_FAW])


@kernel
def _tell_siblings(params: Array, nodes: Array, s: Array, bank: int, now: int) -> None:
    mine, stacks = nodes[bank, STACK], params[P_STACKS]
    first = 1 + params[P_PSEUDO] + nodes[bank, PSEUDO_OF] * stacks
    for stack in range(first, first + stacks):
        at = params[AT_READY] + COMMAND_COUNT * stack
        if at != mine:
            s[at + RD] = max(s[at + RD], now + params[P_SIBLING])


@inlined
def log(params: Array, s: Array, command: int, bank: int, row: int, now: int) -> None:
    """Keep a command, if commands are kept and there is room."""
    if s[CH_LOGGED] < params[P_LOG]:
        at = params[AT_LOG] + LOG_WORDS * s[CH_LOGGED]
        s[at], s[at + 1], s[at + 2], s[at + 3] = now, command, bank, row
        s[CH_LOGGED] += 1


@inlined
def note_pair(s: Array, command: int, bank: int, pseudo: int, now: int) -> None:
    """Remember a row command of a rising edge: which falling edge lies in it."""
    if now & 1:
        s[CH_PAIR_TICK] = now + (3 if command == ACT else 1)
        s[CH_PAIR_NODE] = pseudo
        s[CH_PAIR_COMMAND] = command
        s[CH_PAIR_BANK] = bank


@inlined
def set_row(params: Array, nodes: Array, s: Array, bank: int, row: int) -> None:
    """Change the row that a bank has open; what was known of its next commands is void."""
    at = params[AT_BANK] + B_WORDS * bank
    s[at + B_ROW] = row
    s[CH_ROW_FROM] = 0
    if s[CH_REFRESHING] == 1 + bank or params[P_AAD]:  # other commands only put a refresh off
        s[CH_REFRESH_FROM] = 0
    if params[P_REFRESH] == PER_BANK:
        s[CH_SHUT] = s[CH_SHUT] | (1 << bank) if row == CLOSED else s[CH_SHUT] & ~(1 << bank)
    if row < 0:
        s[CH_CLOSINGS] += row == CLOSED
        s[CH_COLUMN_FROM] = 0
    else:  # it takes columns from some tick on; nothing changes for those of other banks
        ready = nodes[bank, BANK]
        s[CH_COLUMN_FROM] = min(s[CH_COLUMN_FROM], min(s[ready + RD], s[ready + WR]))
    s[at + B_READ_FROM] = s[at + B_WRITE_FROM] = s[at + B_ROW_FROM] = LONG_AGO


@kernel
def send_row(params: Array, rules: Array, nodes: Array, s: Array, command: int, bank: int, row: int, now: int) -> None:
    """Send ACT (opening `row`) or PRE to a bank."""
    apply_rules(params, rules, nodes, s, command, bank, now, 0)
    log(params, s, command, bank, row, now)
    if params[P_HALF]:
        note_pair(s, command, bank, nodes[bank, PSEUDO_OF], now)
    set_row(params, nodes, s, bank, row)
    s[CH_ACTS if command == ACT else CH_PRES] += 1


@kernel
def send_to_all(params: Array, rules: Array, nodes: Array, s: Array, command: int, pseudo: int, now: int) -> None:
    """Send PREA or REFA to a pseudo-channel."""
    bank = pseudo * (params[P_BANKS] // params[P_PSEUDO])
    apply_rules(params, rules, nodes, s, command, bank, now, 0)
    log(params, s, command, bank, 0, now)
    if params[P_HALF]:
        note_pair(s, command, -1, pseudo, now)
    if command == PREA:
        s[CH_PREAS] += 1
        for other in range(bank, bank + params[P_BANKS] // params[P_PSEUDO]):
            set_row(params, nodes, s, other, CLOSED)


__all__ = ["CHANNEL", "WR", "apply_rules", "earliest", "earliest_of_all", "send_row", "send_to_all", "slot_from"]
