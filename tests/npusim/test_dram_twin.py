"""The DRAM kernel against a slow twin that issues every command, and the twin's command log against the JEDEC rules."""

from __future__ import annotations

import functools
import itertools
from collections import Counter
from dataclasses import dataclass, field

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from isa.loader import load_machine
from isa.machine import DramPart, DramTiming, Machine
from npusim.memory.dram import OK, advance
from npusim.memory.port import HEAP_SIZE, RSP_TAG, RSP_TIME_FS, heap_pop, make_port, ring_push
from npusim.memory.state import C_MISSES, P_STEADY, make_memory

# What a strange part looks like: two bank groups whose CCD_L is above 2 x CCD_S, so no constant pace; two banks each.
ODD = DramPart(
    tck_ps=833, bus_bits=64, data_rate=2, burst_length=8, bank_groups=2, banks_per_group=2, page_bytes=1024, rows=4096,
    timing=DramTiming(nCL=9, nCWL=7, nRCDRD=11, nRCDWR=8, nRP=10, nRAS=25, nRC=37, nWR=13, nRTP=6, nCCD_S=4, nCCD_L=11,
                      nRRD_S=5, nRRD_L=9, nFAW=31, nWTR_S=3, nWTR_L=8, nRFC=70, nREFI=400),
)  # fmt: skip
Row = tuple[int, int, int, int]  # time_fs, address, size, write
PARTS = ["hbm2-2000", "hbm2e-3200", "ddr4-3200", "lpddr4x-4266", "odd"]


@functools.cache
def machine_with(part: str, channels: int, interleave_bytes: int = 256) -> Machine:
    """A shipped machine with another DRAM part behind it."""
    name = "hbm2-2000" if part == "odd" else part
    overrides = [f"memory.dram={name}", f"memory.channels={channels}", f"memory.interleave_bytes={interleave_bytes}"]
    machine = load_machine("tpu-v3", [*overrides, f"memory.capacity_bytes={1 << 27}"]).machine
    if part != "odd":
        return machine
    return machine.model_copy(update={"memory": machine.memory.model_copy(update={"dram": ODD})})


@dataclass
class Command:
    """One command of a channel: `floor` is the earliest tick that its cause (arrival, refresh due) allows."""

    tick: int
    kind: str
    group: int
    bank: int
    row: int
    floor: int


def rules(dram: DramPart) -> list[tuple[str, str, str, int]]:
    """(before, after, scope, ticks): after - before >= ticks within the same bank, group or channel."""
    t, bl = dram.timing, dram.burst_length // dram.data_rate
    found = [
        ("ACT", "RD", "bank", t.nRCDRD), ("ACT", "WR", "bank", t.nRCDWR), ("ACT", "PRE", "bank", t.nRAS),
        ("ACT", "ACT", "bank", t.nRC), ("PRE", "ACT", "bank", t.nRP), ("RD", "PRE", "bank", t.nRTP),
        ("WR", "PRE", "bank", t.nCWL + bl + t.nWR), ("ACT", "ACT", "group", t.nRRD_L),
        ("ACT", "ACT", "channel", t.nRRD_S), ("RD", "WR", "channel", t.nCL + bl + 2 - t.nCWL),
        ("WR", "RD", "channel", t.nCWL + bl + t.nWTR_S), ("WR", "RD", "group", t.nCWL + bl + t.nWTR_L),
        ("REF", "ACT", "channel", t.nRFC), ("REF", "REF", "channel", t.nRFC), ("PREA", "REF", "channel", t.nRP),
        ("ACT", "PREA", "channel", t.nRAS), ("RD", "PREA", "channel", t.nRTP),
        ("WR", "PREA", "channel", t.nCWL + bl + t.nWR),
    ]  # fmt: skip
    for before in ("RD", "WR"):
        for after in ("RD", "WR"):
            found += [(before, after, "channel", t.nCCD_S), (before, after, "group", t.nCCD_L)]
    return found


@dataclass
class TwinChannel:
    """One channel: the last time of every command in every scope, and the open rows. No closed form anywhere."""

    dram: DramPart
    last: dict[tuple[str, str, int, int], int] = field(default_factory=dict)
    open_rows: dict[tuple[int, int], int] = field(default_factory=dict)
    acts: list[int] = field(default_factory=list)
    log: list[Command] = field(default_factory=list)
    last_column: int = 0
    due: int = 0

    def __post_init__(self) -> None:
        self.due = self.dram.timing.nREFI
        self.rules = rules(self.dram)

    def issue(self, kind: str, group: int, bank: int, row: int, floor: int) -> int:
        tick = floor
        scopes = {"bank": (group, bank), "group": (group, -1), "channel": (-1, -1)}
        for before, after, scope, ticks in self.rules:
            if after == kind:
                tick = max(tick, self.last.get((before, scope, *scopes[scope]), -(10**9)) + ticks)
        if kind == "ACT" and len(self.acts) >= 4:
            tick = max(tick, self.acts[-4] + self.dram.timing.nFAW)
        for scope, where in scopes.items():
            key = (kind, scope, *where)
            self.last[key] = max(tick, self.last.get(key, tick))
        if kind == "ACT":
            self.acts.append(tick)
        self.log.append(Command(tick, kind, group, bank, row, floor))
        return tick

    def refresh(self, now: int, counts: Counter[str]) -> None:
        while now >= self.due:
            floor = self.due
            if self.open_rows:
                self.issue("PREA", -1, -1, -1, floor)
                self.open_rows.clear()
            self.issue("REF", -1, -1, -1, floor)
            self.due += self.dram.timing.nREFI
            counts["refreshes"] += 1

    def burst(self, arrival: int, group: int, bank: int, row: int, write: bool, counts: Counter[str]) -> int:
        state = self.open_rows.get((group, bank))
        if state == row:
            counts["row_hits"] += 1
        else:
            counts["row_misses" if state is None else "row_conflicts"] += 1
            if state is not None:
                self.issue("PRE", group, bank, -1, arrival)
            self.issue("ACT", group, bank, row, arrival)
            self.open_rows[group, bank] = row
        self.last_column = self.issue("WR" if write else "RD", group, bank, row, arrival)
        return self.last_column


class Twin:
    """The whole memory, a burst at a time."""

    def __init__(self, machine: Machine, rotate: bool = False) -> None:
        self.rotate = rotate
        self.memory, self.dram = machine.memory, machine.memory.dram
        self.channels = [TwinChannel(self.dram) for _ in range(self.memory.channels)]
        self.counts: Counter[str] = Counter()

    def serve(self, time_fs: int, address: int, size: int, write: bool) -> int:
        """Return the completion time in fs."""
        dram = self.dram
        tck_fs = round(dram.tck_ps * 1000)
        arrival = -(-time_fs // tck_fs)
        unit_bursts = self.memory.interleave_bytes // dram.burst_bytes
        page = dram.page_bytes // dram.burst_bytes
        finish, run = 0, None
        for burst in range(address // dram.burst_bytes, (address + size - 1) // dram.burst_bytes + 1):
            unit, offset = divmod(burst, unit_bursts)
            upper, index = divmod(unit, self.memory.channels)
            rest, group = divmod(upper * unit_bursts + offset, dram.bank_groups)
            rest, _column = divmod(rest, page)
            row, bank = divmod(rest, dram.banks_per_group)
            bank = (bank + row) % dram.banks_per_group if dram.banks_per_group > 2 else bank
            channel = self.channels[(index + upper * self.rotate) % self.memory.channels]
            if run != (unit, bank, row):  # a run of bursts in one unit and one row is not interrupted
                channel.refresh(max(arrival, channel.last_column), self.counts)
                run = (unit, bank, row)
            finish = max(finish, channel.burst(arrival, group, bank, row, write, self.counts))
        latency = (dram.timing.nCWL if write else dram.timing.nCL) + dram.burst_length // dram.data_rate
        return (finish + latency) * tck_fs


def check_log(log: list[Command], dram: DramPart) -> None:
    """Replay one channel: every command legal in its bank's state, and issued exactly when the rules first allow."""
    for i, command in enumerate(log):
        assert command.tick == earliest(log[:i], command, dram), command
    check_states(log, dram)


def earliest(before: list[Command], command: Command, dram: DramPart) -> int:
    """The first tick at which the commands issued before leave room for this one, by brute force."""
    places = {
        "channel": lambda c: True,
        "group": lambda c: c.group == command.group,
        "bank": lambda c: (c.group, c.bank) == (command.group, command.bank),
    }
    tick = command.floor
    for first, after, scope, ticks in rules(dram):
        if after == command.kind:
            tick = max([tick, *(c.tick + ticks for c in before if c.kind == first and places[scope](c))])
    acts = sorted(c.tick for c in before if c.kind == "ACT")
    return max(tick, acts[-4] + dram.timing.nFAW) if command.kind == "ACT" and len(acts) >= 4 else tick


def check_states(log: list[Command], dram: DramPart) -> None:
    """In order of time: rows open and closed as commands need, one data bus, refreshes neither early nor too late."""
    timing = dram.timing
    rows: dict[tuple[int, int], int] = {}
    bus: list[tuple[int, int]] = []
    refreshed: list[int] = []
    for c in sorted(log, key=lambda c: c.tick):
        if c.kind == "ACT":
            assert (c.group, c.bank) not in rows
            rows[c.group, c.bank] = c.row
        elif c.kind == "PRE":
            del rows[c.group, c.bank]
        elif c.kind == "PREA":
            rows.clear()
        elif c.kind == "REF":
            assert not rows
            refreshed.append(c.tick)
        else:
            assert rows[c.group, c.bank] == c.row
            start = c.tick + (timing.nCL if c.kind == "RD" else timing.nCWL)
            bus.append((start, start + dram.burst_length // dram.data_rate))
    for (_, end), (start, _) in itertools.pairwise(bus):
        assert start >= end
    for i, tick in enumerate(refreshed):
        assert (i + 1) * timing.nREFI <= tick <= (i + 9) * timing.nREFI  # at most eight postponed (JESD79-4)


def run_both(
    machine: Machine, stream: list[Row], rotate: bool = False
) -> tuple[list[int], list[int], Twin, dict[str, int]]:
    """Serve the rows by kernel and twin; return the completion times of both, the twin and the kernel's counters."""
    state, port = make_memory(machine, rotate), make_port(len(stream), 8)  # the heap must grow on the way
    for tag, (time_fs, address, size, write) in enumerate(stream):
        assert ring_push(port.requests, port.ring, time_fs, 0, address, size, write, tag)
    assert advance(state, port, 1 << 62) == OK
    kernel = [-1] * len(stream)
    while port.heap_state[HEAP_SIZE]:
        tag = int(port.responses[0, RSP_TAG])
        assert kernel[tag] == -1  # answered once
        kernel[tag] = int(port.responses[0, RSP_TIME_FS])
        heap_pop(port.responses, port.heap_state)
    twin = Twin(machine, rotate)
    return kernel, [twin.serve(*row) for row in stream], twin, state.summary()


@st.composite
def streams(draw: st.DrawFn) -> list[Row]:
    """Random requests over a small footprint, so that rows conflict: bursts of arrivals, gaps, long idle times."""
    count = draw(st.integers(1, 40))
    base = draw(st.sampled_from([1 << 12, 1 << 15, 1 << 18, 1 << 24]))
    gap = draw(st.sampled_from([0, 3_000_000, 60_000_000, 9_000_000_000]))
    time, rows = 0, []
    for _ in range(count):
        time += draw(st.integers(0, gap))
        address = draw(st.integers(0, base))
        size = draw(st.sampled_from([1, 32, 64, 100, 256, 512, 777, 5000]))
        rows.append((time, address, size, draw(st.integers(0, 1))))
    return rows


@pytest.mark.parametrize("part", PARTS)
@given(
    stream=streams(),
    channels=st.sampled_from([1, 2, 3, 8]),
    interleave=st.sampled_from([64, 256, 4096]),
    rotate=st.booleans(),
)
@settings(max_examples=20, deadline=None)
def test_kernel_equals_twin_and_twin_obeys_the_timing_rules(part, stream, channels, interleave, rotate):
    machine = machine_with(part, channels, interleave)
    kernel, twin_times, twin, counters = run_both(machine, stream, rotate)
    assert kernel == twin_times
    assert {k: counters[k] for k in ("row_hits", "row_misses", "row_conflicts", "refreshes")} == {
        k: twin.counts[k] for k in ("row_hits", "row_misses", "row_conflicts", "refreshes")
    }
    for channel in twin.channels:
        check_log(channel.log, machine.memory.dram)


def test_long_mixed_stream_over_many_refreshes():
    machine = machine_with("hbm2-2000", 2)
    rng = np.random.default_rng(5)
    times = np.cumsum(rng.integers(0, 40_000_000, 400))
    stream = [
        (int(t), int(rng.integers(0, 1 << 16)), int(rng.integers(1, 600)), int(rng.random() < 0.3)) for t in times
    ]  # fmt: skip
    kernel, twin_times, twin, counters = run_both(machine, stream)
    assert kernel == twin_times
    assert counters["refreshes"] == twin.counts["refreshes"] > 2
    for channel in twin.channels:
        check_log(channel.log, machine.memory.dram)


def test_checker_sees_a_command_one_tick_early_and_one_tick_late():
    machine = machine_with("ddr4-3200", 1)
    _, _, twin, _ = run_both(machine, [(0, 0, 512, 0), (0, 1 << 20, 512, 1), (0, 0, 64, 0)])
    dram, log = machine.memory.dram, twin.channels[0].log
    check_log(log, dram)
    for shift in (-1, 1):
        for i in range(len(log)):
            moved = [Command(**vars(c)) for c in log]
            moved[i].tick += shift
            with pytest.raises(AssertionError):
                check_log(moved, dram)


@pytest.mark.parametrize("part", [p for p in PARTS if p != "odd"])
def test_row_hits_in_one_step_equal_burst_by_burst(part):
    machine = machine_with(part, 2, 4096)
    results = []
    for steady in (1, 0):
        state, port = make_memory(machine), make_port(64, 64)
        assert state.params[P_STEADY] == 1
        state.params[P_STEADY] = steady
        rng = np.random.default_rng(1)
        for tag in range(40):
            size = int(rng.integers(1, 4096))
            ring_push(port.requests, port.ring, tag * 10**7, 0, int(rng.integers(0, 1 << 18)), size, tag % 3 == 0, tag)
        assert advance(state, port, 1 << 62) == OK
        results.append((port.responses[:40].tolist(), state.bank_state.tolist(), state.channel_state.tolist()))
        assert state.counters[C_MISSES] > 0
    assert results[0] == results[1]
