"""From a DRAM part and a controller's options to the arrays of its channels."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from isa.errors import ConfigError
from isa.memory import Controller, DramPart
from npusim.memory.controller import layout as at
from npusim.memory.controller.timing import (
    CHANNEL,
    COMMAND_COUNT,
    GROUP,
    LEVEL_COUNT,
    PREA,
    PSEUDO,
    RD,
    REFA,
    REFB,
    WR,
    Rule,
    burst_cycles,
    constraints,
    rule_table,
    ticks_a_cycle,
)

Array = npt.NDArray[Any]
MAX_BANKS = 1024
# Commands that are never sent, by how refresh is done.
UNSENT = {at.NO_REFRESH: (PREA, REFA, REFB), at.ALL_BANK: (REFB,), at.PER_BANK: (PREA, REFA)}
MAX_BY_BANK = 62  # refreshed one by one: a mask of banks is one word


@dataclass
class Channels:
    """The controllers of some channels: `params`, `rules`, `nodes` [banks, .], `state`."""

    params: Array
    rules: Array
    nodes: Array
    state: Array


def make_channels(
    part: DramPart, options: Controller, count: int, turn: int = 1, kept: int = 0,
    omitted: frozenset[tuple[int, int]] = frozenset(),
) -> Channels:  # fmt: skip
    """Return `count` idle channels; the bursts of a run go round `turn` bank groups, and the
    first `kept` commands of each channel are kept.

    Rules from one command to another that are `omitted` do not hold. Raises ConfigError for what cannot be simulated.
    """
    _check(part, options)
    rules = [r for r in constraints(part) if (r.preceding, r.following) not in omitted]
    params = np.zeros(at.P_WORDS, np.int64)
    params[at.P_TURN], params[at.P_LOG] = turn, kept
    _fill_part(params, part)
    _fill_options(params, part, options, rules)
    table, (params[at.P_FAW], params[at.P_SIBLING]) = rule_table(
        [rule for rule in rules if _tells(rule, rules, part, int(params[at.P_REFRESH]))]
    )
    nodes = _nodes(part, turn)
    words = _place(params, int(nodes[:, :LEVEL_COUNT].max()) + 1)
    nodes[:, :LEVEL_COUNT] = params[at.AT_READY] + COMMAND_COUNT * nodes[:, :LEVEL_COUNT]
    state = np.zeros((count, words), np.int64)
    state[:, params[at.AT_READY] : params[at.AT_BANK]] = at.LONG_AGO
    banks = state[:, params[at.AT_BANK] : params[at.AT_FAW]].reshape(count, part.banks, at.B_WORDS)
    banks[:, :, at.B_ROW] = at.CLOSED
    banks[:, :, at.B_READ_FROM :] = at.LONG_AGO
    faw = state[:, params[at.AT_FAW] : params[at.AT_LIST]].reshape(count, part.pseudo_channels, at.FAW_WORDS)
    faw[:, :, 1:] = at.LONG_AGO
    state[:, [at.CH_WCK_UNTIL, at.CH_PAIR_TICK]] = at.LONG_AGO
    state[:, at.CH_ROUND] = state[:, at.CH_SHUT] = (1 << min(part.banks, MAX_BY_BANK)) - 1
    state[:, at.CH_NEXT_REFRESH] = params[at.P_REFI]
    state[:, at.CH_NEXT] = params[at.P_REFI] if params[at.P_REFRESH] else at.FAR
    return Channels(params, table, nodes, state)


def kept_commands(channels: Channels, c: int) -> Array:
    """The commands of channel `c` that were kept, in the order of their ticks: int64 [n, LOG_WORDS]."""
    first, words = int(channels.params[at.AT_LOG]), channels.state[c]
    rows = words[first : first + int(words[at.CH_LOGGED]) * at.LOG_WORDS].reshape(-1, at.LOG_WORDS)
    return np.asarray(rows[np.argsort(rows[:, 0], kind="stable")])


def _check(part: DramPart, options: Controller) -> None:
    timing = part.timing
    if part.banks > MAX_BANKS:
        raise ConfigError(
            f"memory.dram: a channel of {part.banks} banks; at most {MAX_BANKS} are simulated: use fewer "
            "pseudo_channels, stack_ids, bank_groups or banks_per_group"
        )
    if options.refresh == "per_bank" and not (timing.nRFCpb and part.banks <= MAX_BY_BANK):
        raise ConfigError(
            f"memory.controller.refresh: per_bank needs memory.dram.timing.nRFCpb and at most {MAX_BY_BANK} banks a "
            f"channel, the part has {part.banks}: use auto"
        )
    if options.write_low > options.write_high:
        raise ConfigError(
            f"memory.controller.write_low {options.write_low} is above write_high {options.write_high}: lower it"
        )
    if not options.write_when_idle and options.age_limit_ns is None:
        raise ConfigError(
            "memory.controller: with write_when_idle false and no age_limit_ns the last writes would never be written: "
            "give an age_limit_ns, such as 2000"
        )
    least = timing.nRFC + timing.nRP
    if timing.nREFI <= least:
        raise ConfigError(f"memory.dram.timing.nREFI {timing.nREFI} must be above nRFC + nRP = {least}: raise it")
    if options.refresh in ("auto", "per_bank") and timing.nRFCpb and timing.nREFI <= timing.nRFCpb + timing.nRP:
        raise ConfigError(
            f"memory.dram.timing.nREFI {timing.nREFI} must be above nRFCpb + nRP = {timing.nRFCpb + timing.nRP}: "
            "raise it"
        )
    by_bank = options.refresh in ("auto", "per_bank") and timing.nRFCpb and part.banks <= MAX_BY_BANK
    if by_bank and timing.nREFI <= part.banks * timing.nRREFD:
        raise ConfigError(
            f"memory.dram.timing.nREFI {timing.nREFI} leaves no time for {part.banks} refreshes by bank, nRREFD "
            f"{timing.nRREFD} apart: raise it, or set memory.controller.refresh to all_bank"
        )


def _tells(rule: Rule, rules: list[Rule], part: DramPart, refresh: int) -> bool:
    """Whether a rule can decide: its second command is sent, and no rule that holds wherever it does is as long."""
    if rule.following in UNSENT[refresh]:
        return False
    if rule.window > 1 or rule.sibling:
        return True
    level = PSEUDO if rule.level == CHANNEL and part.pseudo_channels == 1 else rule.level
    rivals = [r for r in rules if r[1:3] == rule[1:3] and r.window == 1 and not r.sibling and r.level <= level]
    return all((r.ticks, -r.level) <= (rule.ticks, -rule.level) for r in rivals)


def _nodes(part: DramPart, turn: int) -> Array:
    """The node of each bank at each level (numbered channel first, banks last); its next bank, its pseudo-channel."""
    pseudo, stacks, groups = part.pseudo_channels, part.stack_ids, part.bank_groups
    bank = np.arange(part.banks)
    group = bank // part.banks_per_group
    stack, channel = group // groups, np.zeros(part.banks, np.int64)
    first = np.cumsum([0, 1, pseudo, pseudo * stacks, pseudo * stacks * groups])
    levels = (channel, stack // stacks, stack, group, bank)
    following = (group // turn * turn + (group + 1) % turn) * part.banks_per_group + bank % part.banks_per_group
    columns = [*(level + start for level, start in zip(levels, first)), following, stack // stacks]
    return np.ascontiguousarray(np.stack(columns, axis=1).astype(np.int64))


def _fill_part(params: Array, part: DramPart) -> None:
    t, scale, burst = part.timing, ticks_a_cycle(part), burst_cycles(part)
    figures = {
        at.P_BANKS: part.banks, at.P_PSEUDO: part.pseudo_channels, at.P_STACKS: part.stack_ids,
        at.P_BURST_TICKS: burst * scale,
        at.P_READ_LATENCY: (t.nCL + burst) * scale, at.P_WRITE_LATENCY: (t.nCWL + burst) * scale,
        at.P_BUSES: part.command_buses, at.P_HALF: int(part.half_cycle_commands), at.P_AAD: t.nAAD * scale,
        at.P_WCK: int(part.wck_sync), at.P_WCK_READ: (t.nCL + burst + t.nWCKPST) * scale,
        at.P_WCK_WRITE: (t.nCWL + burst + t.nWCKPST) * scale, at.P_REFI: t.nREFI * scale,
    }  # fmt: skip
    for word, value in figures.items():
        params[word] = value


def _fill_options(params: Array, part: DramPart, options: Controller, rules: list[Rule]) -> None:
    tick_ps = part.tck_ps / ticks_a_cycle(part)
    protect = {"none": at.PROTECT_NONE, "older": at.PROTECT_OLDER, "all": at.PROTECT_ALL}
    refresh = {"none": at.NO_REFRESH, "all_bank": at.ALL_BANK, "per_bank": at.PER_BANK}
    kind: str = options.refresh
    if kind == "auto":
        kind = "per_bank" if part.timing.nRFCpb and part.banks <= MAX_BY_BANK else "all_bank"
    limit = options.age_limit_ns
    params[at.P_REFRESH], params[at.P_REFRESH_BLOCKS] = refresh[kind], int(options.refresh_blocks)
    params[at.P_POSTPONE] = options.refresh_postpone
    params[at.P_HIGH] = math.floor(options.write_high * options.write_queue)
    params[at.P_LOW] = max(1, math.ceil(options.write_low * options.write_queue))  # never stay with no writes
    params[at.P_HOLD] = int(not options.write_when_idle)
    params[at.P_PROTECT] = protect[options.protect_hits]
    params[at.P_AGE] = at.FAR if limit is None else math.ceil(limit * 1000 / tick_ps)
    params[at.P_COLUMN_FIRST], params[at.P_ACTIVE] = int(options.columns_first), int(options.opened_leave_queue)
    params[at.P_BATCH] = at.FAR if options.write_batch is None else math.ceil(options.write_batch * options.write_queue)
    params[at.P_WRITE_AGE] = at.FAR if options.posted_writes and options.write_when_idle else params[at.P_AGE]
    params[at.P_CLOSED] = int(options.row_policy == "closed")
    params[at.P_READ_QUEUE], params[at.P_WRITE_QUEUE] = options.read_queue, options.write_queue
    params[at.P_PLACE] = place = max(1, options.entry_bytes // part.burst_bytes)
    params[at.P_PLACE_BITS] = place.bit_length() - 1 if place & (place - 1) == 0 else -1
    params[at.P_SLOTS] = at.L_WORDS * max(options.read_queue, options.write_queue, part.banks)
    if options.write_done == "command":
        params[at.P_WRITE_LATENCY] = 0
    if kind == "per_bank":
        params[at.P_REFI] = max(1, params[at.P_REFI] // part.banks)
    _fill_train(params, part, options, rules)


def _fill_train(params: Array, part: DramPart, options: Controller, rules: list[Rule]) -> None:
    """Bursts that follow each other at the bus's rate: through the groups in turn, or in one bank."""

    def spacing(level: int) -> int:
        pairs = [(level, command, command) for command in (RD, WR)]
        return max(rule.ticks for rule in rules if rule[:3] in pairs)

    other, same = spacing(PSEUDO), max(spacing(PSEUDO), spacing(GROUP))
    turn = int(params[at.P_TURN])
    params[at.P_COLUMN_TICKS] = other if turn > 1 else same
    steady = turn * other >= same  # of one bank group alone, others would wait for the end of its train
    # Pseudo-channels share the column bus burst by burst.
    params[at.P_TRAIN] = int(options.trains and part.pseudo_channels == 1 and steady)


def _place(params: Array, nodes: int) -> int:
    """Lay out the words of a channel; return how many there are."""
    params[at.AT_READY] = at.CH_COUNT
    params[at.AT_BANK] = params[at.AT_READY] + nodes * COMMAND_COUNT
    params[at.AT_FAW] = params[at.AT_BANK] + params[at.P_BANKS] * at.B_WORDS
    params[at.AT_LIST] = params[at.AT_FAW] + params[at.P_PSEUDO] * at.FAW_WORDS
    params[at.AT_LOG] = params[at.AT_LIST] + 3 * params[at.P_SLOTS]
    words = int(params[at.AT_LOG] + params[at.P_LOG] * at.LOG_WORDS)
    return -(-words // at.LINE_WORDS) * at.LINE_WORDS
