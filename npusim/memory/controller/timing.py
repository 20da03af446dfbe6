"""Timing rules between DRAM commands, by level of the organisation, from a part's JEDEC-style figures.

A rule says: after `preceding` on a node of `level`, `following` may go to the same node `ticks` later. A tick is a
command clock, or half of one where a part uses both edges. A command of several ticks counts from its last one, as
in JESD235: nominal + (length(preceding) - 1) - (length(following) - 1). Rules follow JESD235 (HBM), JESD238 (HBM3),
JESD79-4/5 (DDR4/5), JESD250 (GDDR6) and JESD209-5 (LPDDR5) as tabled by Ramulator 2.1 (commit c5b1c3a).
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import product
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from isa.memory import DramPart

Array = npt.NDArray[Any]

COMMANDS = ("ACT", "PRE", "PREA", "RD", "WR", "REFA", "REFB")  # A: of all banks, B: of one
ACT, PRE, PREA, RD, WR, REFA, REFB = range(7)
LEVELS = ("channel", "pseudo_channel", "stack_id", "bank_group", "bank")
CHANNEL, PSEUDO, STACK, GROUP, BANK = range(5)
COMMAND_COUNT, LEVEL_COUNT = len(COMMANDS), len(LEVELS)
# A command's row of the table of rules: how many there are, how many of them at levels above the bank group; then of
# each rule the level, the command that waits, and its ticks.
R_COUNT, R_UPPER, R_RULE0 = range(3)
R_WORDS = 3


class Rule(NamedTuple):
    """After `preceding`, `following` waits `ticks`; `window` 4: after the fourth last; `sibling`: on others."""

    level: int
    preceding: int
    following: int
    ticks: int
    window: int = 1
    sibling: bool = False


def ticks_a_cycle(part: DramPart) -> int:
    """Ticks of a command clock cycle: 2 where commands may go out on both edges."""
    return 2 if part.half_cycle_commands else 1


def burst_cycles(part: DramPart) -> int:
    """Command clock cycles in which a burst holds the data bus."""
    return -(-part.burst_length // part.data_rate)


def constraints(part: DramPart) -> list[Rule]:
    """Every rule of a part that can decide anything, the longest where two say the same."""
    longest: dict[tuple[int, int, int, int, bool], Rule] = {}
    for rule in _rules(part):
        key = (rule.level, rule.preceding, rule.following, rule.window, rule.sibling)
        if rule.ticks > 0 and (key not in longest or rule.ticks > longest[key].ticks):
            longest[key] = rule
    return list(longest.values())


def _rules(part: DramPart) -> Iterator[Rule]:
    scale = ticks_a_cycle(part)
    length = dict.fromkeys(range(COMMAND_COUNT), 1)
    length[ACT] = round(part.act_cycles * scale)
    length[RD] = length[WR] = scale
    if part.command_buses == 2:
        for following in (ACT, PRE, PREA, REFA, REFB):
            yield Rule(CHANNEL, ACT, following, length[ACT])
        for preceding, following in product((RD, WR), repeat=2):
            if length[RD] > 1:  # one command a tick is no rule
                yield Rule(CHANNEL, preceding, following, length[RD])
    for level, preceding, following, cycles, window, sibling in _nominal(part):
        ticks = cycles * scale + length[preceding] - length[following]
        yield Rule(level, preceding, following, ticks if window == 1 else cycles * scale, window, sibling)


def _nominal(part: DramPart) -> Iterator[tuple[int, int, int, int, int, bool]]:
    """(level, preceding, following, cycles, window, sibling) of all rules but those of the command buses."""
    for rule in _column_rules(part):
        yield (*rule, 1, False)
    for rule in _row_rules(part):
        yield (*rule, 1, False)
    yield PSEUDO, ACT, ACT, part.timing.nFAW, 4, False
    if part.stack_ids > 1 and part.timing.nCCD_R:
        yield STACK, RD, RD, part.timing.nCCD_R, 1, True


def _column_rules(part: DramPart) -> Iterator[tuple[int, int, int, int]]:
    t, burst = part.timing, burst_cycles(part)
    read_s, read_l = max(t.nCCD_S, burst), max(t.nCCD_L, burst)
    write_s, write_l = max(t.nCCD_S_WR or read_s, burst), max(t.nCCD_L_WR or read_l, burst)
    if part.bank_groups == 1:  # all banks are of one group
        read_s, write_s = read_l, write_l
    yield PSEUDO, RD, RD, read_s
    yield PSEUDO, WR, WR, write_s
    yield PSEUDO, RD, WR, t.nRTW or t.nCL + burst + 2 - t.nCWL
    yield PSEUDO, WR, RD, t.nCWL + burst + t.nWTR_S
    yield GROUP, RD, RD, read_l
    yield GROUP, WR, WR, write_l
    yield GROUP, WR, RD, t.nCWL + (t.nBL_max or burst) + t.nWTR_L
    if part.stack_ids > 1:
        yield STACK, RD, RD, read_s
        yield STACK, WR, WR, write_s
    for level, close in ((PSEUDO, PREA), (BANK, PRE)):
        yield level, RD, close, t.nRTP
        yield level, WR, close, t.nCWL + burst + t.nWR
    yield BANK, ACT, RD, t.nRCDRD
    yield BANK, ACT, WR, t.nRCDWR


def _row_rules(part: DramPart) -> Iterator[tuple[int, int, int, int]]:
    t = part.timing
    all_closed = t.nRPab or t.nRP
    yield PSEUDO, ACT, ACT, t.nRRD_S
    yield GROUP, ACT, ACT, t.nRRD_L
    yield BANK, ACT, ACT, t.nRC
    yield PSEUDO, ACT, PREA, t.nRAS
    yield BANK, ACT, PRE, t.nRAS
    yield PSEUDO, PREA, ACT, all_closed
    yield BANK, PRE, ACT, t.nRP
    if t.nPPD:
        for preceding in (PRE, PREA):
            for following in (PRE, PREA):
                yield PSEUDO, preceding, following, t.nPPD
    yield PSEUDO, ACT, REFA, t.nRC
    yield PSEUDO, PRE, REFA, t.nRP
    yield PSEUDO, PREA, REFA, t.nRP
    for following in (ACT, PREA, REFA):
        yield PSEUDO, REFA, following, t.nRFC
    if t.nRFCpb:
        yield BANK, ACT, REFB, t.nRC
        yield BANK, PRE, REFB, t.nRP
        yield PSEUDO, PREA, REFB, all_closed
        yield BANK, REFB, ACT, t.nRFCpb
        yield BANK, REFB, REFB, t.nRFCpb
        yield PSEUDO, REFB, REFB, t.nRREFD
        yield PSEUDO, REFB, ACT, t.nRREFD if t.nRREFD_ACT is None else t.nRREFD_ACT
        yield PSEUDO, ACT, REFB, t.nRRD_S


def rule_table(rules: list[Rule]) -> tuple[Array, Array]:
    """Return the rules of each command, upper levels first (int64 [commands, R_RULE0 + R_WORDS * most]), and specials.

    Specials are int64 [2]: the ticks of the four-activation window, and of reads between stack ids.
    """
    table = np.zeros((COMMAND_COUNT, R_RULE0 + R_WORDS * len(rules)), np.int64)
    special = np.zeros(2, np.int64)
    for rule in sorted(rules, key=lambda rule: rule.level):
        if rule.window == 4:
            special[0] = rule.ticks
        elif rule.sibling:
            special[1] = rule.ticks
        else:
            row = table[rule.preceding]
            at = R_RULE0 + R_WORDS * row[R_COUNT]
            row[at : at + R_WORDS] = rule.level, rule.following, rule.ticks
            row[R_COUNT] += 1
            row[R_UPPER] += rule.level < GROUP
    return table, special
