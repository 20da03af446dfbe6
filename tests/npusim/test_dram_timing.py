"""Timing rules of every part from both sides, and latencies of an idle channel in closed form."""

from __future__ import annotations

import csv
from collections.abc import Iterator
from importlib.resources import files
from pathlib import Path

import pytest
from dram_fixture import PARTS, conflicting, kept, memory, part, serve, tick_fs
from dram_twin import lengths, nominal_rules, scale_of

from isa.memory import Controller, DramPart
from isa.yaml12 import load_plain
from npusim.memory.controller.commands import apply_rules, earliest, earliest_of_all
from npusim.memory.controller.layout import P_REFRESH, PER_BANK
from npusim.memory.controller.setup import Channels, make_channels
from npusim.memory.controller.timing import (
    ACT,
    BANK,
    CHANNEL,
    COMMANDS,
    LEVELS,
    PREA,
    PSEUDO,
    REFA,
    REFB,
    STACK,
    Rule,
    burst_cycles,
    constraints,
    rule_table,
)

START = 1000
GOLDEN = Path(__file__).parent.parent / "golden" / "ramulator2_timing_constraints.csv"
REFERENCE = load_plain(files("npusim.validate").joinpath("data", "ramulator2.yaml").read_text(encoding="utf-8"))


def node(dram: DramPart, bank: int, level: int) -> int:
    """Which node of a level a bank is in; banks are numbered pseudo-channel first, bank of a group last."""
    below = (dram.banks, dram.banks // dram.pseudo_channels, dram.bank_groups * dram.banks_per_group,
             dram.banks_per_group, 1)  # fmt: skip
    return bank // below[level]


def applies(rule: Rule, dram: DramPart, first: int, second: int) -> bool:
    """Whether a rule holds between commands to two banks; a window needs as many activations."""
    if rule.sibling:
        same = node(dram, first, PSEUDO) == node(dram, second, PSEUDO)
        return same and node(dram, first, STACK) != node(dram, second, STACK)
    return rule.window == 1 and node(dram, first, rule.level) == node(dram, second, rule.level)


def waits(channels: Channels, dram: DramPart, rule: Rule, first: int, second: int) -> int:
    """Ticks from the rule's first command, to one bank, to the earliest second one, to another bank."""
    s = channels.state[0].copy()
    apply_rules(channels.params, channels.rules, channels.nodes, s, rule.preceding, first, START, 0)
    if rule.following in (PREA, REFA):
        return earliest_of_all(channels.params, s, rule.following, node(dram, second, PSEUDO)) - START
    return int(earliest(channels.params, channels.nodes, s, rule.following, second)) - START


def pairs(dram: DramPart) -> Iterator[tuple[int, int]]:
    """Two banks for every way in which banks can be related."""
    seen = set()
    for first in (0, dram.banks - 1):
        for second in range(dram.banks):
            relation = (first, *(node(dram, first, level) == node(dram, second, level) for level in range(BANK + 1)))
            if relation not in seen:
                seen.add(relation)
                yield first, second


@pytest.mark.kernels
@pytest.mark.parametrize("name", [*PARTS, "odd", *REFERENCE])
def test_after_every_command_the_next_may_go_exactly_when_the_longest_rule_allows(name):
    """For all related banks and all rules; and (almost) every rule decides for some pair of banks."""
    dram = figures(name)
    all_bank, usual = (make_channels(dram, Controller(refresh=r), 1) for r in ("all_bank", "auto"))
    by_bank, decided = usual.params[P_REFRESH] == PER_BANK, set()
    rules = [r for r in constraints(dram) if r.following != REFB or by_bank]
    for rule in rules:
        for first, second in pairs(dram):
            if not applies(rule, dram, first, second):
                continue
            rivals = [r for r in rules if r[1:3] == rule[1:3] and applies(r, dram, first, second)]
            if rule.following in (PREA, REFA) or rule.preceding in (PREA, REFA):
                rivals = [r for r in rivals if r.level <= PSEUDO]
            longest = max(r.ticks for r in rivals)
            channels = all_bank if rule.following in (PREA, REFA) else usual  # none for what is never sent
            assert waits(channels, dram, rule, first, second) == longest
            if longest == rule.ticks:
                decided.add(rule)
    hidden = {r for r in rules if r.window == 1} - decided
    assert all(any(r[1:3] == h[1:3] and r.level != h.level and r.ticks >= h.ticks for r in rules) for h in hidden)


def figures(name: str) -> DramPart:
    """A shipped part, or one of the five of the golden runs."""
    return DramPart.model_validate(REFERENCE[name]) if name in REFERENCE else part(name)


@pytest.mark.kernels
@pytest.mark.parametrize("name", [*PARTS, "odd", *REFERENCE])
def test_a_fifth_activation_waits_for_the_window_of_four(name):
    dram = figures(name)
    channels = make_channels(dram, Controller(), 1)
    window = dram.timing.nFAW * scale_of(dram)
    s, now, sent = channels.state[0].copy(), START, []
    step = dram.banks_per_group if dram.bank_groups > 1 else 1
    free = next(b for b in range(dram.banks) if b not in [i * step % dram.banks for i in range(4)])
    for i in range(4):
        bank = i * step % (dram.banks // dram.pseudo_channels // dram.stack_ids)
        now = max(now, earliest(channels.params, channels.nodes, s, ACT, bank))
        apply_rules(channels.params, channels.rules, channels.nodes, s, ACT, bank, now, 0)
        sent.append(now)
        if i < 3:  # fewer than four do not meet the window
            assert s[channels.nodes[bank, PSEUDO] + ACT] < START + window or i + 1 == 4
    assert earliest(channels.params, channels.nodes, s, ACT, free) >= sent[0] + window
    assert s[channels.nodes[0, PSEUDO] + ACT] == max(sent[0] + window, sent[3] + dram.timing.nRRD_S * scale_of(dram))


@pytest.mark.parametrize("name", [*PARTS, "odd", *REFERENCE])
def test_rules_equal_those_that_were_written_down_twice(name):
    """From the last tick of one command to the last of the other: nominal cycles of the twin's own list."""
    dram, length = figures(name), lengths(figures(name))
    scopes = {"pseudo": "pseudo_channel", "group": "bank_group", "stack": "stack_id"}
    theirs: dict[tuple[str, str, str], int] = {}
    for before, after, scope, cycles in nominal_rules(dram):
        key = (scopes.get(scope, scope), before, after)
        ticks = cycles * scale_of(dram) + length[before] - length[after]
        if cycles and ticks > 0:
            theirs[key] = max(ticks, theirs.get(key, 0))
    mine = {
        (LEVELS[r.level], COMMANDS[r.preceding], COMMANDS[r.following]): r.ticks
        for r in constraints(dram) if r.level not in (CHANNEL, STACK) and r.window == 1
    }  # fmt: skip
    assert mine == theirs
    window, sibling = rule_table(constraints(dram))[1]
    assert window == dram.timing.nFAW * scale_of(dram)
    assert sibling == (dram.timing.nCCD_R or 0) * scale_of(dram) * (dram.stack_ids > 1)


# ---- the golden table

NAMES = {"PREpb": "PRE", "PREab": "PREA", "REFab": "REFA", "ACT1": "ACT"}
Golden = tuple[str, str, str, int, int, int]


# What the golden table has and the rules here lack, and the reverse.
RANK = "two ranks, of which there is one here"
CAS = "a CAS is a tick of its own before a column, no command of the rules"
IMPLIED = "the rank's own rule is as long"
CLOSED = "no such command can follow: after the refresh of all banks no row is open"
MISSING: dict[str, dict[tuple[str, str, str, int], str]] = {
    "HBM2": {}, "HBM3": {},
    "DDR4": {("Channel", "RD", "RD", 0): IMPLIED, ("Channel", "WR", "WR", 0): IMPLIED, ("Rank", "RD", "RD", 1): RANK,
             ("Rank", "RD", "WR", 1): RANK, ("Rank", "WR", "RD", 1): RANK},
    "GDDR6": {("Channel", "REFA", "PRE", 0): CLOSED, ("Channel", "REFA", "RD", 0): CLOSED,
              ("Channel", "REFA", "WR", 0): CLOSED},
    "LPDDR5": {("Bank", "CAS_RD", "RD", 0): CAS, ("Bank", "CAS_WR", "WR", 0): CAS, ("Channel", "RD", "RD", 0): IMPLIED,
               ("Channel", "WR", "WR", 0): IMPLIED, ("Rank", "RD", "RD", 1): RANK, ("Rank", "RD", "WR", 1): RANK,
               ("Rank", "WR", "RD", 1): RANK},
}  # fmt: skip
BUS = "refreshes of one bank, which the golden runs have not, are row commands too"
AGAIN = "a second refresh waits for the first, as an activation does"
LACKING = "the source lacks the rule from a precharge to a refresh of all banks; the golden runs are made without"
EXTRA: dict[str, dict[tuple[str, str, str, int], str]] = {
    "HBM2": {("Channel", "ACT", "REFB", 0): BUS, ("PseudoChannel", "REFA", "REFA", 0): AGAIN},
    "HBM3": {("Channel", "ACT", "REFB", 0): BUS, ("PseudoChannel", "REFA", "REFA", 0): AGAIN},
    "DDR4": {("Rank", "REFA", "REFA", 0): AGAIN}, "GDDR6": {("Channel", "PRE", "REFA", 0): LACKING}, "LPDDR5": {},
}  # fmt: skip


def golden_rows(kind: str) -> set[Golden]:
    with GOLDEN.open(encoding="utf-8", newline="") as file:
        return {
            (r["level"], NAMES.get(r["preceding"], r["preceding"]), NAMES.get(r["following"], r["following"]),
             int(r["latency_ticks"]), int(r["window"]), int(r["sibling"]))
            for r in csv.DictReader(file) if r["dram"] == kind
        }  # fmt: skip


def own_rows(kind: str) -> set[Golden]:
    pseudo = {"GDDR6": "Channel"}.get(kind, "PseudoChannel" if "HBM" in kind else "Rank")
    level = ("Channel", pseudo, "Sid", "BankGroup", "Bank")
    return {
        (level[r.level], COMMANDS[r.preceding], COMMANDS[r.following], r.ticks, r.window, int(r.sibling))
        for r in constraints(figures(kind))
    }  # fmt: skip


@pytest.mark.parametrize("kind", REFERENCE)
def test_rules_are_the_golden_ones_but_for_those_listed(kind):
    """To the tick: a row with another number would be missing and extra at once."""
    golden, own = golden_rows(kind), own_rows(kind)
    assert {(*row[:3], row[5]) for row in golden - own} == set(MISSING[kind])
    assert {(*row[:3], row[5]) for row in own - golden} == set(EXTRA[kind])
    assert len(golden & own) >= 26
    for row in golden - own:
        if MISSING[kind][(*row[:3], row[5])] == IMPLIED:
            assert ("Rank", *row[1:]) in own


# ---- an idle channel


def edge(dram: DramPart, tick: int) -> int:
    """The first tick that takes a column command or an activation."""
    return tick | 1 if dram.half_cycle_commands else tick


def latencies(dram: DramPart, write: int) -> tuple[int, int, int]:
    """Ticks of miss, hit and conflict in a channel that does nothing else, from an even tick on."""
    t, scale, length = dram.timing, scale_of(dram), lengths(dram)
    rcd = (t.nRCDWR if write else t.nRCDRD) * scale + length["ACT"] - length["RD"]
    data = (t.nCWL if write else t.nCL) * scale + burst_cycles(dram) * scale
    clock = 1 if dram.wck_sync else 0  # a CAS starts the data clock
    closed = t.nRP * scale + length["PRE"] - length["ACT"]
    hit, act = edge(dram, 0), edge(dram, 0)
    miss, conflict = edge(dram, act + rcd), edge(dram, edge(dram, closed) + rcd)
    return miss + clock + data, hit + clock + data, conflict + clock + data


@pytest.mark.kernels
@pytest.mark.parametrize("write", [0, 1])
@pytest.mark.parametrize("name", [*PARTS, "odd"])
def test_latencies_of_an_idle_channel_are_those_of_the_closed_form(name, write):
    """Miss, hit, conflict, each long after the other; a write is answered at the end of its data."""
    dram = part(name)
    described = memory(dram, refresh="none", posted_writes=False)
    gap = 2000 * tick_fs(described)
    addresses = (0, 0, conflicting(described))
    rows = [(i * gap, address, dram.burst_bytes, write) for i, address in enumerate(addresses)]
    found = serve(described, rows)
    assert [found.times[i] - i * gap for i in range(3)] == [x * tick_fs(described) for x in latencies(dram, write)]
    assert [found.counts[name] for name in ("row_misses", "row_hits", "row_conflicts")] == [1, 1, 1]
    assert max(found.waits) <= 3 * tick_fs(described)  # clock edges and the length of commands


@pytest.mark.kernels
def test_an_arrival_between_two_ticks_waits_for_the_second():
    described = memory("hbm2-2000", refresh="none")
    times = [serve(described, [(t, 0, 32, 0)]).times[0] for t in (0, 1, 999_999, 1_000_000, 1_000_001)]
    assert [t - times[0] for t in times] == [0, 1_000_000, 1_000_000, 1_000_000, 2_000_000]


def test_lpddr5_starts_its_data_clock_only_after_a_pause():
    """Column to column: while the clock runs nothing is added; one tick after it stopped, a CAS is."""
    dram = part("lpddr5-6400")
    described, t = memory(dram, refresh="none"), dram.timing
    tick = tick_fs(described)
    first = serve(described, [(0, 0, 32, 0)]).times[0] // tick - t.nCL - burst_cycles(dram)
    stops = first + t.nCL + burst_cycles(dram) + t.nWCKPST
    for arrival, cas in ((stops - 1, 0), (stops, 1)):
        found = serve(described, [(0, 0, 32, 0), (arrival * tick, 32, 32, 0)])
        assert found.times[1] // tick == arrival + cas + t.nCL + burst_cycles(dram)


def test_the_second_command_of_an_activation_holds_back_other_activations_at_most_so_long():
    """Of two activations at once the second is at least nRRD_S later and the first row opens within nAAD."""
    dram = part("lpddr5-6400")
    described = memory(dram, refresh="none")
    found = serve(described, [(0, 0, 32, 0), (0, dram.page_bytes * 2, 32, 0)], kept_commands=20)
    acts = [c.tick for c in kept(found.state, dram) if c.kind == "ACT"]
    assert len(acts) == 2 and dram.timing.nRRD_S <= acts[1] - acts[0] <= dram.timing.nAAD + 1
