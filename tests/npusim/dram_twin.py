"""A slow twin of the DRAM behind the port: every channel is stepped tick by tick, every command issued on its own.

It has no arrays, no bounds, no jumps and no trains that are sent at once; timing rules (dram_rules) are looked up in
what was issued before.
"""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import dataclass, field

from dram_rules import NEVER, Command, Place, check_log, lengths, nominal_rules, scale_of, scope_of

from isa.memory import Controller, DramPart, Memory

__all__ = ["Command", "Twin", "TwinChannel", "check_log"]

@dataclass
class Run:
    """Bursts of one request in one row (of some bank groups in turn)."""

    asker: int
    arrival: int
    places: list[Place]  # of each burst that is left
    row: int
    write: bool
    span: range  # bursts of the channel that it began with
    started: bool = False
    size: int = 0  # places of a queue that it takes
    queued: int = 0

    @property
    def kind(self) -> str:
        """The column command of its bursts."""
        return "WR" if self.write else "RD"


@dataclass
class TwinChannel:
    """One channel, stepped tick by tick."""

    part: DramPart
    options: Controller
    turn: int
    counts: Counter[str]
    waiting: dict[bool, list[Run]] = field(default_factory=lambda: {False: [], True: []})
    queue: dict[bool, list[Run]] = field(default_factory=lambda: {False: [], True: []})
    rows: dict[Place, int] = field(default_factory=dict)
    opening: tuple[Run, Place, int] | None = None  # LPDDR5: between two commands of an activation, with its deadline
    committed: Run | None = None
    clock_until: int = NEVER
    last: dict[tuple[str, str, tuple[int, ...]], int] = field(default_factory=dict)
    acts: list[int] = field(default_factory=list)
    log: list[Command] = field(default_factory=list)
    writing: bool = False
    batch: int = 0  # places of writes sent while reads waited
    reads_owed: int = 0  # places of reads before writes go first again
    columns: set[int] = field(default_factory=set)  # ticks of column commands
    column_free: int = 0  # no column decision before
    wanted: bool = False  # a read waits for a write that is held back
    owed: int = 0
    due: int = 0
    refreshing: Place | None = None
    left: list[Place] = field(default_factory=list)  # banks of this round of refreshes
    answered: dict[int, list[int]] = field(default_factory=dict)
    last_write: int = 0

    def __post_init__(self) -> None:
        self.scale, self.length = scale_of(self.part), lengths(self.part)
        self.rules = nominal_rules(self.part)
        self.banks = [
            (p, s, g, b)
            for p in range(self.part.pseudo_channels) for s in range(self.part.stack_ids)
            for g in range(self.part.bank_groups) for b in range(self.part.banks_per_group)
        ]  # fmt: skip
        self.left = list(self.banks)
        kind = self.options.refresh
        if kind == "auto":
            kind = "per_bank" if self.part.timing.nRFCpb and len(self.banks) <= 62 else "all_bank"
        self.by_bank, self.refreshed = kind == "per_bank", kind != "none"
        self.interval = self.part.timing.nREFI * self.scale // (len(self.banks) if self.by_bank else 1)
        self.due = self.interval

    # ---- timing

    def allowed(self, kind: str, place: Place) -> int:
        """The first tick at which a command breaks no rule, by all that was issued before."""
        tick = NEVER
        for before, after, scope, cycles in self.rules:
            if after == kind:
                end = self.last.get((before, scope, scope_of(place, scope)), NEVER)
                tick = max(tick, end + cycles * self.scale - self.length[kind] + 1)
        if kind == "ACT" and len(self.acts) >= 4:
            tick = max(tick, self.acts[-4] + self.part.timing.nFAW * self.scale)
        if kind == "RD" and self.part.stack_ids > 1:
            others = [(place[0], s) for s in range(self.part.stack_ids) if s != place[1]]
            ends = [self.last.get(("RD", "stack", other), NEVER) for other in others]
            tick = max(tick, max(ends) + (self.part.timing.nCCD_R or 0) * self.scale - self.length[kind] + 1)
        if self.part.command_buses == 2 and kind not in ("RD", "WR"):
            tick = max(tick, self.last.get(("ACT", "channel", ()), NEVER) + 1)
        return tick

    def can(self, kind: str, place: Place, now: int) -> bool:
        """Whether a command may go out now, clock edges included."""
        if self.scale == 2 and kind not in ("PRE", "PREA") and now % 2 == 0:
            return False
        if self.scale == 2 and now % 2 == 0:
            before = [c for c in self.log if c.tick % 2 and c.kind not in ("RD", "WR")]
            if before and before[-1].tick + (3 if before[-1].kind == "ACT" else 1) == now:
                alike = before[-1].kind in ("PREA", "REFA") or kind == "PREA" or before[-1].place == place
                if before[-1].place[0] == place[0] and alike:
                    return False
        return self.allowed(kind, place) <= now

    def issue(self, kind: str, place: Place, now: int, row: int = -1) -> None:
        for scope in ("channel", "pseudo", "stack", "group", "bank"):
            key = (kind, scope, scope_of(place, scope))
            self.last[key] = max(now + self.length[kind] - 1, self.last.get(key, NEVER))
        if kind == "ACT":
            self.acts.append(now)
        self.log.append(Command(now, kind, place, row))

    # ---- a tick

    def tick(self, now: int) -> None:
        """Everything that happens in one tick."""
        self.admit(now)
        while self.refreshed and now >= self.due:
            self.owed += 1 if self.by_bank else self.part.pseudo_channels
            self.due += self.interval
        idle = not (self.urgent() or self.queue[False] or self.queue[True])
        if now >= self.interval and self.refreshed and idle and self.options.write_when_idle:
            self.writing, self.batch = True, 0  # as a refresh finds it, an idle channel takes writes first
        bus = now in self.columns
        if self.committed is not None:
            if self.can(self.committed.kind, self.committed.places[0], now):
                run, self.committed = self.committed, None
                self.burst(run, now)
            return
        if self.opening and now >= self.opening[2] and not bus:
            self.open_second()
            return
        column = bus
        if now >= self.column_free:
            column = self.send_column(now)
        if self.part.command_buses == 1 and column:
            return
        sent = self.send_row(now)
        if not sent and self.opening and not column:
            self.open_second()

    def admit(self, now: int) -> None:
        self.wanted = False
        for write in (False, True):
            places = self.options.write_queue if write else self.options.read_queue
            while self.waiting[write]:
                run = self.waiting[write][0]
                if run.arrival > now:
                    break
                run.size = -(-len(run.places) // max(1, self.options.entry_bytes // self.part.burst_bytes))
                if self.queue[write] and sum(q.size for q in self.queue[write]) + run.size > places:
                    break
                mine = set(run.span)
                queued = [set(q.span) for q in self.queue[True]]
                covered = not write and any(mine <= other for other in queued)
                if not write and not covered and any(mine & other for other in queued):
                    self.wanted = not self.options.write_when_idle
                    break
                self.waiting[write].pop(0)
                if covered:
                    self.counts["forwarded"] += 1
                    self.answered.setdefault(run.asker, []).append(now + 1)
                    continue
                self.queue[write].append(run)
                run.queued = now
                if write and self.options.posted_writes:
                    self.answered.setdefault(run.asker, []).append(now + 1)

    def burst(self, run: Run, now: int) -> None:
        """Send a run's next burst, and with it those that can follow at full rate."""
        t, bl = self.part.timing, math.ceil(self.part.burst_length / self.part.data_rate)
        short, long = max(t.nCCD_S, bl), max(t.nCCD_L, bl)
        if run.write:
            short, long = max(short, t.nCCD_S_WR or 0), max(long, t.nCCD_L_WR or 0)
        spacing = (short if self.turn > 1 else long) * self.scale
        most = max(t.nCCD_S, t.nCCD_S_WR or 0, bl), max(t.nCCD_L, t.nCCD_L_WR or 0, bl)
        trains = self.options.trains and self.part.pseudo_channels == 1 and self.turn * most[0] >= most[1]
        tick, sent = now, 0
        while True:
            self.issue(run.kind, run.places.pop(0), tick, run.row)
            self.columns.add(tick)
            sent, last = sent + 1, tick
            tick += spacing
            if not trains or not run.places:
                break
            fits = self.rows.get(run.places[0]) == run.row and self.allowed(run.kind, run.places[0]) <= tick
            if not fits:
                assert sent < self.turn, "row hits of a run follow each other at full rate"
                break
        self.column_free = last + 1
        if trains:
            self.column_free = last + (spacing if sent > 1 else bl * self.scale)
        latency = (t.nCWL if run.write else t.nCL) + bl
        if self.part.wck_sync:
            self.clock_until = max(self.clock_until, last + latency + t.nWCKPST)
        if run.places:
            return
        self.queue[run.write].remove(run)
        if run.write:
            self.batch = self.batch + run.size if self.queue[False] else 0
        else:
            self.reads_owed -= run.size
        if not self.queue[False] and not self.queue[True]:
            self.writing, self.batch = self.options.write_when_idle, 0
        end = last + latency * self.scale
        if run.write:
            self.last_write = max(self.last_write, end)
        if not (run.write and self.options.posted_writes):
            self.answered.setdefault(run.asker, []).append(end)

    # ---- choices

    def serving(self, now: int) -> list[Run]:
        """The runs that are looked at, oldest first."""
        reads, writes = len(self.queue[False]), sum(q.size for q in self.queue[True])
        if not reads and not writes:
            return []
        limited = not (self.options.posted_writes and self.options.write_when_idle)
        late = bool(self.queue[True]) and limited and now >= self.tired_from(self.queue[True][0])
        late = late or self.wanted
        if self.writing:
            limit = self.options.write_batch
            over = limit is not None and self.batch >= math.ceil(limit * self.options.write_queue)
            few = writes < max(1, math.ceil(self.options.write_low * self.options.write_queue))
            if (reads or not self.options.write_when_idle) and (over or (few and not late)):
                self.writing, self.reads_owed = False, self.batch if over else 0
        else:
            many = writes > math.floor(self.options.write_high * self.options.write_queue)
            idle = not reads and self.options.write_when_idle
            if idle or ((not reads or self.reads_owed <= 0) and (many or late)):
                self.writing, self.batch, self.reads_owed = True, 0, 0
        return self.queue[self.writing]

    def tired_from(self, run: Run) -> float:
        """When a run has waited for the age limit."""
        if self.options.age_limit_ns is None:
            return math.inf
        return run.queued + math.ceil(self.options.age_limit_ns * 1000 / (self.part.tck_ps / self.scale))

    def tired(self, run: Run, now: int) -> bool:
        """Whether a run has been the oldest of its queue for so long that no row is kept open against it."""
        return self.queue[self.writing][0] is run and now >= self.tired_from(run)

    def held(self, run: Run, now: int) -> bool:
        """Whether a run uses a bank that the oldest, which is tired, wants to close."""
        oldest = self.queue[self.writing][0]
        if oldest is run or not self.tired(oldest, now):
            return False
        closing = {p for p in oldest.places[: self.turn] if self.rows.get(p, oldest.row) != oldest.row}
        return not closing.isdisjoint(run.places[: self.turn])

    def send_column(self, now: int) -> bool:
        if self.urgent():
            return False
        for run in list(self.serving(now)):
            if self.held(run, now):
                continue
            if self.rows.get(run.places[0]) == run.row and self.can(run.kind, run.places[0], now):
                self.note(run, run.places[0])
                if self.part.wck_sync and now >= self.clock_until:
                    if self.opening and self.opening[2] <= now + 1:
                        self.open_second()
                    else:
                        self.committed = run
                    return True
                self.burst(run, now)
                return True
        return False

    def send_row(self, now: int) -> bool:
        if self.owed:
            may = self.by_bank or self.urgent() or not (self.queue[False] or self.queue[True])
            if may and (self.refresh_bank(now) if self.by_bank else self.refresh_all(now)):
                return True
            if self.urgent():
                return False
        runs = list(self.serving(now))
        for run in runs:
            for place in dict.fromkeys(run.places[: self.turn]):
                if self.open_row(run, place, now):
                    return True
        return self.options.row_policy == "closed" and self.close_unwanted(now)

    def open_row(self, run: Run, place: Place, now: int) -> bool:
        """Send what opens a run's row in one bank, if it can go out."""
        row = self.rows.get(place)
        if row == run.row or place == self.refreshing or (self.opening and self.opening[1] == place):
            return False
        if row is None:
            if self.opening or not self.can("ACT", place, now):
                return False
            self.note(run, place)
            self.issue("ACT", place, now, run.row)
            if self.part.timing.nAAD:
                self.opening = run, place, now + self.part.timing.nAAD * self.scale
            else:
                self.rows[place] = run.row
            return True
        if not self.can("PRE", place, now) or (not self.tired(run, now) and self.protected(run, place, row)):
            return False
        self.note(run, place)
        self.issue("PRE", place, now)
        del self.rows[place]
        return True

    def protected(self, run: Run, place: Place, row: int) -> bool:
        """Whether entries whose next burst is a hit want the open row."""
        if self.options.protect_hits == "none":
            return False
        queue = self.queue[self.writing]
        others = queue if self.options.protect_hits == "all" else [q for q in queue if q.arrival <= run.arrival]
        return any(
            q is not run and q.row == row and place in q.places[: self.turn] and self.rows.get(q.places[0]) == row
            for q in others
        )

    def open_second(self) -> None:
        assert self.opening is not None
        run, place, _ = self.opening
        self.rows[place], self.opening = run.row, None

    def note(self, run: Run, place: Place) -> None:
        if not run.started:
            run.started = True
            row = self.rows.get(place)
            self.counts["row_hits" if row == run.row else "row_misses" if row is None else "row_conflicts"] += 1

    # ---- refresh, closing

    def urgent(self) -> bool:
        limit = self.options.refresh_postpone * self.part.pseudo_channels
        return self.owed > 0 and not self.by_bank and (self.options.refresh_blocks or self.owed > limit)

    def refresh_all(self, now: int) -> bool:
        if self.opening:
            return False
        kind = "PREA" if self.rows else "REFA"
        if not self.can(kind, (0, -1, -1, -1), now):
            return False
        self.issue(kind, (0, -1, -1, -1), now)
        self.rows.clear()
        if kind == "REFA":
            self.owed -= 1
            self.counts["refreshes"] += 1
        return True

    def refresh_bank(self, now: int) -> bool:
        if self.refreshing is None:
            wanted = {p for w in (False, True) for q in self.queue[w] for p in q.places[: self.turn]}
            idle = [p for p in self.left if p not in wanted and not (self.opening and self.opening[1] == p)]
            idle.sort(key=lambda p: p in self.rows)  # closed ones first
            if not idle and self.owed <= self.options.refresh_postpone * len(self.banks):
                return False
            self.refreshing = idle[0] if idle else self.left[0]
        kind = "PRE" if self.refreshing in self.rows else "REFB"
        if not self.can(kind, self.refreshing, now):
            return False
        self.issue(kind, self.refreshing, now)
        if kind == "PRE":
            del self.rows[self.refreshing]
            return True
        self.left.remove(self.refreshing)
        self.left = self.left or list(self.banks)
        self.refreshing = None
        self.owed -= 1
        self.counts["refreshes"] += 1
        return True

    def close_unwanted(self, now: int) -> bool:
        for place in self.banks:
            row = self.rows.get(place)
            wanted = any(q.row == row and place in q.places[: self.turn] for w in (False, True) for q in self.queue[w])
            if row is not None and not wanted and self.can("PRE", place, now):
                self.issue("PRE", place, now)
                del self.rows[place]
                return True
        return False


def folded(value: int, base: int) -> int:
    """value + value // base + value // base^2 ..."""
    return value + folded(value // base, base) if value else 0


class Twin:
    """The whole memory behind the port, with the default map."""

    def __init__(self, memory: Memory) -> None:
        self.memory, self.part = memory, memory.dram
        t, bl = self.part.timing, math.ceil(self.part.burst_length / self.part.data_rate)
        self.turn = 1
        while self.turn < self.part.bank_groups and self.turn * max(t.nCCD_S, bl) < max(t.nCCD_L, t.nCCD_L_WR or 0, bl):
            self.turn *= 2
        self.chunk = max(1, 64 // self.part.burst_bytes)  # bursts of 64 bytes, in one bank
        if self.turn == 1 or self.chunk * self.turn * self.part.burst_bytes > memory.interleave_bytes:
            self.chunk = 1
        self.counts: Counter[str] = Counter()
        self.channels = [
            TwinChannel(self.part, memory.controller, self.turn, self.counts) for _ in range(memory.channels)
        ]
        self.asked = 0
        self.runs_of: dict[int, int] = {}

    def locate(self, burst: int) -> tuple[int, int, Place, int]:
        """(channel, burst of the channel, place, row) of a burst of the memory."""
        part = self.part
        unit, offset = divmod(burst, self.memory.interleave_bytes // part.burst_bytes)
        upper, index = divmod(unit, self.memory.channels)
        shift = folded(upper, 2 ** max(1, math.ceil(math.log2(self.memory.channels))))
        local = upper * (self.memory.interleave_bytes // part.burst_bytes) + offset
        rest, low = divmod(local // self.chunk, self.turn)
        page, _ = divmod(rest, part.page_bytes // part.burst_bytes // self.chunk)
        rest, high = divmod(page, part.bank_groups // self.turn)
        rest, bank = divmod(rest, part.banks_per_group)
        rest, stack = divmod(rest, part.stack_ids)
        row, pseudo = divmod(rest, part.pseudo_channels)
        places = part.bank_groups // self.turn * part.banks_per_group
        if places > 2:
            mixed = (bank * (part.bank_groups // self.turn) + high + folded(row, places)) % places
            bank, high = divmod(mixed, part.bank_groups // self.turn)
        return (index + shift) % self.memory.channels, local, (pseudo, stack, high * self.turn + low, bank), row

    def ask(self, time_fs: int, address: int, size: int, write: bool) -> None:
        """Take a request; requests come in the order of their times."""
        tick_fs = round(self.part.tck_ps * 1000 / scale_of(self.part))
        arrival, asker = -(-time_fs // tick_fs), self.asked
        self.asked += 1
        pieces: dict[int, list[Run]] = {}
        burst, end = address // self.part.burst_bytes, (address + size - 1) // self.part.burst_bytes + 1
        while burst < end:
            index, local, _, row = self.locate(burst)
            count = self.in_turn(burst, end, local)
            alone = self.chunk > 1 and count < self.turn * self.chunk
            if alone or self.chunk == 1:
                places = [self.locate(burst + i)[2] for i in range(count)]
            else:  # whole rounds go round the bank groups burst by burst
                places = [self.locate(burst + i % self.turn * self.chunk)[2] for i in range(count)]
            mine = pieces.setdefault(index, [])
            last = mine[-1] if mine else None
            burst += count
            follows = last and last.span.stop == local and local % (self.turn * self.columns) and not alone
            if last and follows and (self.chunk == 1 or len(last.span) >= self.turn * self.chunk):
                last.places += places
                last.span = range(last.span.start, local + count)
            else:
                mine.append(Run(asker, arrival, places, row, write, range(local, local + count)))
        for index, runs in pieces.items():
            self.channels[index].waiting[write] += runs
        self.runs_of[asker] = sum(len(runs) for runs in pieces.values())

    def in_turn(self, burst: int, end: int, local: int) -> int:
        """How many bursts from `burst` on, before `end`, make one run: whole rounds, or what is left of a chunk."""
        unit = self.memory.interleave_bytes // self.part.burst_bytes
        count = min(end - burst, unit - burst % unit, self.turn * self.columns - local % (self.turn * self.columns))
        if self.chunk == 1:
            return count
        whole = self.turn * self.chunk
        if local % whole or count < whole:
            return min(count, self.chunk - local % self.chunk)
        return count - count % whole

    @property
    def columns(self) -> int:
        """Bursts of a row of one bank."""
        return self.part.page_bytes // self.part.burst_bytes

    def run(self, ticks: int) -> None:
        """Step every channel from tick 0."""
        for channel in self.channels:
            for now in range(ticks):
                channel.tick(now)

    def answers(self) -> dict[int, int]:
        """The tick of each request's answer, by its number."""
        found: dict[int, list[int]] = {}
        for channel in self.channels:
            for asker, ticks in channel.answered.items():
                found.setdefault(asker, []).extend(ticks)
        assert {asker: len(ticks) for asker, ticks in found.items()} == self.runs_of
        return {asker: max(ticks) for asker, ticks in found.items()}
