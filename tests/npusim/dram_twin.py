"""A slow twin of the DRAM kernel that issues every command, and a checker of its command log against JEDEC rules."""

from __future__ import annotations

import itertools
import math
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field

from isa.machine import Machine
from isa.memory import DramPart


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
class Queued:
    """A run that waits to be written."""

    tick: int  # accepted
    column: int  # first burst of the row of all bank groups
    count: int
    bank: int
    row: int


@dataclass
class Waiting:
    """A run that waits to be read, for request number `asker`."""

    arrival: int
    column: int
    count: int
    bank: int
    row: int
    asker: int


@dataclass
class TwinChannel:
    """One channel: the last time of every command in every scope, and the open rows. No closed form anywhere."""

    dram: DramPart
    places: int  # of the write queue
    choice: int  # reads among which is chosen
    counts: Counter[str]
    last: dict[tuple[str, str, int, int], int] = field(default_factory=dict)
    open_rows: dict[tuple[int, int], int] = field(default_factory=dict)
    acts: list[int] = field(default_factory=list)
    log: list[Command] = field(default_factory=list)
    queue: list[Queued] = field(default_factory=list)
    reads: list[Waiting] = field(default_factory=list)  # in the order of arrival
    passed: int = 0  # reads that went past the oldest one
    released: list[int] = field(default_factory=list)  # last column command of every queued run, in order
    accepted: int = 0
    last_column: int = -(10**9)
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

    def refresh(self, now: int) -> None:
        while now >= self.due:
            floor = self.due
            if self.open_rows:
                self.issue("PREA", -1, -1, -1, floor)
                self.open_rows.clear()
            self.issue("REF", -1, -1, -1, floor)
            self.due += self.dram.timing.nREFI
            self.counts["refreshes"] += 1

    def burst(self, arrival: int, group: int, bank: int, row: int, write: bool) -> None:
        state = self.open_rows.get((group, bank))
        if state == row:
            self.counts["row_hits"] += 1
        else:
            self.counts["row_misses" if state is None else "row_conflicts"] += 1
            if state is not None:
                self.issue("PRE", group, bank, -1, arrival)
            self.issue("ACT", group, bank, row, arrival)
            self.open_rows[group, bank] = row
        self.last_column = self.issue("WR" if write else "RD", group, bank, row, arrival)

    def run(self, arrival: int, column: int, count: int, bank: int, row: int, write: bool) -> int:
        """Serve a run without interruption; return its last column command."""
        self.refresh(max(arrival, self.last_column))
        for burst in range(column, column + count):
            self.burst(arrival, burst % self.dram.bank_groups, bank, row, write)
        return self.last_column

    def ask(self, read: Waiting, done: dict[int, int]) -> None:
        """Queue a read that arrives now."""
        self.decide(read.arrival, done)
        if not self.reads:
            self.use_gap(read.arrival)
            self.passed = 0
        self.reads.append(read)

    def decide(self, until: int, done: dict[int, int]) -> None:
        """Read what is chosen before tick `until`; `done` receives each asker's last column command."""
        while self.reads:
            now = max(self.last_column, self.reads[0].arrival)
            if now >= until:
                return
            self.refresh(now)
            here = [r for r in self.reads[: self.choice] if r.arrival <= now]
            hits = [r for r in here if self.open_rows.get((r.column % self.dram.bank_groups, r.bank)) == r.row]
            capped = 2 * self.passed >= self.choice
            chosen = self.reads[0] if capped or not hits else hits[0]
            self.passed = 0 if chosen is self.reads[0] else self.passed + 1
            self.reads = [r for r in self.reads if r is not chosen]
            done[chosen.asker] = max(done.get(chosen.asker, -(10**9)), self.read(chosen, now))

    def read(self, read: Waiting, now: int) -> int:
        """Serve a read after what it must not overtake; return its last column command."""
        same_row = [q for q in self.queue if (q.bank, q.row) == (read.bank, read.row)]
        wanted = set(range(read.column, read.column + read.count))
        if wanted & {q.column + i for q in same_row for i in range(q.count)}:
            self.drain(len(self.queue), now)
        return self.run(read.arrival, read.column, read.count, read.bank, read.row, False)

    def post(self, arrival: int, column: int, count: int, bank: int, row: int) -> int:
        """Queue a write; return when it has a place."""
        if not self.reads:
            self.use_gap(arrival)
        tick = arrival if self.accepted < self.places else max(arrival, self.released[self.accepted - self.places])
        self.queue.append(Queued(tick, column, count, bank, row))
        self.accepted += 1
        if len(self.queue) >= max(1, self.places * 4 // 5):
            self.drain(len(self.queue) - self.places // 5, tick)
        return tick

    def use_gap(self, until: int) -> None:
        if until - self.last_column > self.room():
            self.drain(len(self.queue), self.last_column, until)

    def room(self) -> int:
        """The longest that a run takes beside its bursts: every rule at its worst, one after the other."""
        t, bl = self.dram.timing, self.dram.burst_length // self.dram.data_rate
        groups = self.dram.bank_groups
        precharged = max(t.nRAS, t.nRTP, t.nCWL + bl + t.nWR) + t.nRP
        activated = max(t.nRC, precharged) + groups * max(t.nRRD_L, t.nRRD_S) + (1 + groups // 4) * t.nFAW
        to_write = max(t.nCL + bl + 2 - t.nCWL, self.pace()[0])
        return activated + t.nRCDWR + to_write + t.nCWL + bl + max(t.nWTR_L, t.nWTR_S)

    def pace(self) -> tuple[int, int]:
        """Ticks between columns: other bank group, same bank group."""
        t = self.dram.timing
        short = max(t.nCCD_S, self.dram.burst_length // self.dram.data_rate)
        long = max(t.nCCD_L, short)
        return (long if self.dram.bank_groups == 1 else short), long

    def drain(self, count: int, now: int, until: int | None = None) -> None:
        """Write the `count` oldest, row by row; with `until`, only what surely ends before."""
        batch, self.queue = self.queue[:count], self.queue[count:]
        place = (-1, -1)
        while batch:
            chosen = next((q for q in batch if (q.bank, q.row) == place), batch[0])
            batch.remove(chosen)
            batch.insert(0, chosen)
            floor = max(now, chosen.tick)
            if until is not None:
                begin = max(floor, self.last_column)
                self.refresh(begin)
                begin = max(begin, self.last.get(("REF", "channel", -1, -1), -(10**9)) + self.dram.timing.nRFC)
                if begin + self.room() + chosen.count * self.pace()[1] > until:
                    break
            batch.pop(0)
            place = chosen.bank, chosen.row
            self.released.append(self.run(floor, chosen.column, chosen.count, chosen.bank, chosen.row, True))
        self.queue = batch + self.queue


def folded(value: int, base: int) -> int:
    """value + value // base + value // base^2 ..."""
    return value + folded(value // base, base) if value else 0


class Twin:
    """The whole memory, a burst at a time."""

    def __init__(self, machine: Machine, rotate: bool = False) -> None:
        self.rotate = rotate
        self.memory, self.dram = machine.memory, machine.memory.dram
        self.counts: Counter[str] = Counter()
        self.channels = [
            TwinChannel(self.dram, self.memory.write_queue_runs, self.memory.read_queue_runs, self.counts)
            for _ in range(self.memory.channels)
        ]
        self.last_column: dict[int, int] = {}  # of every queued read
        self.asked = 0

    def locate(self, burst: int) -> tuple[int, int, int, int, int]:
        """(unit, channel, bank, row, column) of a burst."""
        dram = self.dram
        unit, offset = divmod(burst, self.memory.interleave_bytes // dram.burst_bytes)
        upper, index = divmod(unit, self.memory.channels)
        page = dram.page_bytes // dram.burst_bytes * dram.bank_groups
        rest, column = divmod(upper * (self.memory.interleave_bytes // dram.burst_bytes) + offset, page)
        row, bank = divmod(rest, dram.banks_per_group)
        bank = (bank + folded(row, dram.banks_per_group)) % dram.banks_per_group if dram.banks_per_group > 2 else bank
        shift = folded(upper, 2 ** max(1, math.ceil(math.log2(self.memory.channels)))) if self.rotate else 0
        return unit, (index + shift) % self.memory.channels, bank, row, column

    def serve(self, time_fs: int, address: int, size: int, write: bool) -> Callable[[], int]:
        """Take a request; the function that is returned knows the time of its answer in fs, reads after `flush`."""
        dram = self.dram
        tck_fs = round(dram.tck_ps * 1000)
        arrival = -(-time_fs // tck_fs)
        bursts = range(address // dram.burst_bytes, (address + size - 1) // dram.burst_bytes + 1)
        latency = (dram.timing.nCWL if write else dram.timing.nCL) + dram.burst_length // dram.data_rate
        queued, finish, asker = self.memory.write_queue_runs > 0, arrival, self.asked
        posted, self.asked = write and queued, asker + 1
        for (_, index, bank, row), group in itertools.groupby(map(self.locate, bursts), key=lambda where: where[:4]):
            columns = [where[4] for where in group]  # a run: bursts in one unit and one row are not interrupted
            channel, run = self.channels[index], (arrival, columns[0], len(columns), bank, row)
            if queued and not write:
                channel.ask(Waiting(*run, asker), self.last_column)
                continue
            if posted:
                channel.decide(arrival, self.last_column)
            finish = max(finish, channel.post(*run) if posted else channel.run(*run, write))
        if queued and not write:
            return lambda: (self.last_column[asker] + latency) * tck_fs
        return lambda: (finish + (1 if posted else latency)) * tck_fs

    def flush(self) -> int:
        """Read and write all that is queued; return the time of the last write's last data in fs."""
        for channel in self.channels:
            channel.decide(1 << 60, self.last_column)
            channel.drain(len(channel.queue), channel.last_column)
        writes = [c.tick for channel in self.channels for c in channel.log if c.kind == "WR"]
        after = self.dram.timing.nCWL + self.dram.burst_length // self.dram.data_rate
        return (max(writes) + after) * round(self.dram.tck_ps * 1000) if writes else 0


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
