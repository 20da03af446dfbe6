"""The controllers against a slow twin that is stepped tick by tick, and their commands against the rules."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from dram_fixture import PARTS, Row, answers, changed, conflicting, kept, make, memory, part, push, tick_fs
from dram_twin import Command, Twin, check_log, lengths, nominal_rules, scale_of, scope_of
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from isa.memory import DramPart, Memory
from npusim.memory.dram import OK, advance
from npusim.memory.port import make_port
from npusim.memory.state import MemoryState

COUNTED = ("row_hits", "row_misses", "row_conflicts", "refreshes", "forwarded")
REFRESHES = {"REFA", "REFB"}
SETTLE = 50  # ticks after the last command
QUICK = [Phase.explicit, Phase.reuse, Phase.generate]  # shrinking with a twin takes minutes
CHECKED = 120  # commands of a log whose rules are checked pair by pair


def drained(twin: Twin, rows: list[Row]) -> int:
    """Step the twin until it has nothing left to do; return the number of ticks."""
    now, after = 0, rows[-1][0] // tick_fs(twin.memory) + 2
    while now < after:
        for channel in twin.channels:
            channel.tick(now)
            if channel.queue[False] or channel.queue[True] or channel.waiting[False] or channel.waiting[True]:
                after = max(after, now + SETTLE)
        now += 1
    return now


def run_both(described: Memory, rows: list[Row]) -> tuple[MemoryState, Twin]:
    """Serve the rows by kernel and twin: the same commands, answers and counters; return both."""
    state, port, twin = make(described, kept_commands=6000), make_port(len(rows), 8), Twin(described)
    push(port, rows)
    for row in rows:
        twin.ask(row[0], row[1], row[2], bool(row[3]))
    ticks = drained(twin, rows)
    assert advance(state, port, ticks * tick_fs(described)) == OK
    missing = [c for i, channel in enumerate(twin.channels) for c in lost(kept(state, described.dram, i), channel.log)]
    assert {k: v[0] // tick_fs(described) for k, v in answers(port).items()} == twin.answers()
    counts = state.summary()
    assert {name: counts[name] for name in COUNTED} == {name: twin.counts[name] for name in COUNTED}
    refreshes = [c for i in range(described.channels) for c in kept(state, described.dram, i) if c.kind in REFRESHES]
    assert len(missing) == counts["refreshes"] - len(refreshes)  # rounds that an idle channel passed over
    return state, twin


def lost(mine: list[Command], others: list[Command]) -> list[Command]:
    """The refreshes of `others` that `mine` lacks; whatever else differs is an error."""
    only = set(others) - set(mine)
    assert len(set(mine)) == len(mine) and not set(mine) - set(others)
    assert {c.kind for c in only} <= REFRESHES
    return list(only)


@st.composite
def requests(draw: st.DrawFn, most: int = 24) -> list[Row]:
    """Random requests over a small footprint, so that rows conflict: crowds, gaps, rewriting what was read."""
    base = draw(st.sampled_from([1 << 11, 1 << 14, 1 << 18, 1 << 22]))
    gap = draw(st.sampled_from([0, 3_000, 1_000_000, 50_000_000]))
    writes = draw(st.sampled_from([0, 3, 9]))
    random = np.random.default_rng(draw(st.integers(0, 1 << 32)))
    count, time_fs, rows = draw(st.integers(1, most)), 0, []
    for _ in range(count):
        time_fs += int(random.integers(0, 10)) * int(random.random() < 0.5) * gap
        address = int(random.integers(0, base)) if random.random() < 0.7 else int(random.integers(0, 8)) * 256
        size = int(random.choice([1, 32, 64, 100, 300, 512, 1500, 5000], p=[0.15] * 6 + [0.07, 0.03]))
        rows.append((time_fs, address, size, int(random.integers(0, 10) < writes)))
    return rows


OPTIONS = st.fixed_dictionaries({}, optional={
    "read_queue": st.sampled_from([1, 2, 4, 8]), "write_queue": st.sampled_from([1, 2, 4, 8]),
    "write_high": st.sampled_from([0.5, 1]), "write_low": st.sampled_from([0, 0.5]),
    "write_batch": st.sampled_from([None, 0.5, 2]),
    "protect_hits": st.sampled_from(["none", "older", "all"]), "age_limit_ns": st.sampled_from([None, 50, 200]),
    "row_policy": st.sampled_from(["open", "closed"]), "refresh": st.sampled_from(["auto", "all_bank", "none"]),
    "refresh_postpone": st.sampled_from([0, 1, 8]), "refresh_blocks": st.booleans(), "posted_writes": st.booleans(),
    "write_when_idle": st.booleans(),
})  # fmt: skip


def often_refreshed(dram: DramPart) -> DramPart:
    """The part with intervals between refreshes that are short against a test, yet leave time for requests."""
    t = dram.timing
    return changed(dram, nREFI=max(t.nRFC + 200, 2 * dram.banks * t.nRREFD))


@pytest.mark.parametrize("name", [*PARTS, "odd"])
@given(
    rows=requests(), options=OPTIONS, channels=st.sampled_from([1, 2, 3]),
    interleave=st.sampled_from([64, 128, 256, 1024]), often=st.booleans(),
)  # fmt: skip
@settings(max_examples=5, deadline=None, phases=QUICK, suppress_health_check=list(HealthCheck))
def test_kernel_equals_twin_and_both_obey_the_rules(name, rows, options, channels, interleave, often):
    """Command for command, answer for answer, counter for counter, for any options."""
    if not options.get("write_when_idle", True) and options.get("age_limit_ns", 50) is None:
        options = options | {"age_limit_ns": 200}
    dram = often_refreshed(part(name)) if often else part(name)
    state, _ = run_both(memory(dram, channels, max(interleave, dram.burst_bytes), **options), rows)
    for c in range(channels):
        check_log(kept(state, dram, c)[:CHECKED], dram)


@pytest.mark.kernels
@pytest.mark.parametrize("name", ["hbm2-1760", "hbm3-6400", "ddr5-4800", "lpddr5-6400", "odd"])
def test_a_few_requests_of_everything_equal_the_twin(name):
    """Reads and writes that conflict, forward and wait, over some refreshes; small, for kernels as plain Python."""
    dram = often_refreshed(part(name))
    rows = [(0, 0, 600, 1), (1, 0, 64, 0), (9, 512, 300, 0), (9, 1 << 16, 700, 0), (5000, 1 << 16, 64, 1),
            (6000, 3 << 15, 900, 0), (1_500_000_000, 64, 64, 0)]  # fmt: skip
    state, twin = run_both(memory(dram), rows)
    assert twin.counts["forwarded"] == 1 and twin.counts["refreshes"] > 0
    check_log(kept(state, dram)[:CHECKED], dram)


@pytest.mark.parametrize("name", [*PARTS, "odd"])
def test_row_hits_in_one_step_equal_burst_by_burst(name):
    """Requests of many rows: what the kernel sends as trains, the twin sends one command at a time."""
    random = np.random.default_rng(1)
    sizes = [1 << 14, *random.integers(1, 1 << 13, 7)]
    rows = [(i * 10**6, int(random.integers(0, 1 << 20)), int(size), i % 3 // 2) for i, size in enumerate(sizes)]
    _, twin = run_both(memory(name, 2, 4096, refresh="none"), rows)
    columns = [c for channel in twin.channels for c in channel.log if c.kind in ("RD", "WR")]
    assert len(columns) > 4 * len([c for channel in twin.channels for c in channel.log if c.kind == "ACT"])


@pytest.mark.parametrize("name", ["hbm3-6400", "gddr6-14000", "lpddr5-6400", "ddr4-3200"])
def test_a_long_mixed_log_over_many_refreshes_obeys_the_rules(name):
    dram, random = often_refreshed(part(name)), np.random.default_rng(5)
    times = np.cumsum(random.integers(0, 60_000_000, 90))
    rows = [(int(t), int(random.integers(0, 1 << 16)), int(random.integers(1, 200)), int(random.random() < 0.3))
            for t in times]  # fmt: skip
    state, twin = run_both(memory(dram), rows)
    assert twin.counts["refreshes"] > 3
    closing = "PRE" if twin.channels[0].by_bank else "PREA"
    assert {c.kind for c in twin.channels[0].log} >= {"ACT", "RD", "WR", closing}
    check_log(kept(state, dram), dram)


def tight(log: list[Command], dram: DramPart) -> list[int]:
    """The commands that a rule allowed no tick earlier."""
    length, scale, found = lengths(dram), scale_of(dram), set()
    for i, c in enumerate(log):
        for before, after, scope, cycles in nominal_rules(dram):
            for other in log[:i] if after == c.kind else []:
                ends = c.tick + length[c.kind] - other.tick - length[before]
                same = other.kind == before and scope_of(other.place, scope) == scope_of(c.place, scope)
                if same and cycles and ends == cycles * scale:
                    found.add(i)
    return sorted(found)


@pytest.mark.parametrize("name", ["hbm2-1760", "hbm3-6400", "ddr4-3200", "lpddr5-6400", "gddr6-14000", "odd"])
def test_the_checker_refuses_every_command_one_tick_early(name):
    dram = changed(part(name), nREFI=max(3 * part(name).timing.nRFC, 2 * part(name).banks * part(name).timing.nRREFD))
    rows = [(0, 0, 512, 0), (0, 1 << 20, 512, 1), (0, 0, 64, 0), (0, 1 << 16, 64, 1), (2_000_000_000, 0, 32, 0)]
    state, _ = run_both(memory(dram), rows)
    log = kept(state, dram)
    check_log(log, dram)
    bound = tight(log, dram)
    assert {log[i].kind for i in bound} >= {"ACT", "RD", "WR"} and len(bound) > 10
    for i in bound:
        early = [replace(c, tick=c.tick - (k == i)) for k, c in enumerate(log)]
        with pytest.raises(AssertionError):
            check_log(early, dram)


@pytest.mark.parametrize("lost", ["ACT", "PRE", "RD"])
def test_the_checker_refuses_commands_that_the_banks_state_forbids(lost):
    """Without its activation a read has no row; without its precharge an activation finds another; reads may go."""
    dram = part("ddr4-3200")
    described = memory(dram, refresh="none")
    state, _ = run_both(described, [(0, 0, 64, 0), (10**9, conflicting(described), 64, 0), (2 * 10**9, 0, 64, 0)])
    log = kept(state, dram)
    assert [c.kind for c in log].count("PRE") >= 1
    first = next(i for i, c in enumerate(log) if c.kind == lost)
    shorter = log[:first] + log[first + 1 :]
    if lost == "RD":
        check_log(shorter, dram)
    else:
        with pytest.raises((AssertionError, KeyError)):
            check_log(shorter, dram)
