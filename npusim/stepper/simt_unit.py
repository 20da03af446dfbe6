"""The load/store unit of the slow executor of threads: accesses in a queue, the L1, requests and their answers."""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from isa.cache import Cache
from isa.simt_machine import SimtMachine
from npusim.memory.caches import lines
from npusim.memory.caches.state import CacheState
from npusim.memory.generator.backend import Hierarchy
from npusim.memory.generator.physical import make_pages, physical
from npusim.memory.generator.setup import clock_of
from npusim.memory.port import HEAP_SIZE, RSP_TAG, RSP_TIME_FS, heap_pop, ring_push
from npusim.units.warps import layout as at

if TYPE_CHECKING:
    from npusim.stepper.simt import Warp

Array = npt.NDArray[Any]
NEVER = 1 << 60
ROWS = 128  # accesses of a core under way at once


def bits(mask: int) -> list[int]:
    """The places of the bits that are set, ascending."""
    return [n for n in range(64) if mask >> n & 1]


@dataclass(eq=False)
class Access:
    """A memory instruction under way. `pieces` of global memory are (line, sectors), of shared memory (cycles, 0)."""

    warp: Warp
    pc: int
    kind: int
    sub: int  # the sub-core that it is from
    pieces: list[tuple[int, int]]
    returns: bool  # a register, or a group of copies, waits for its data
    registers: list[int]  # rows of the scoreboard
    taken: int = 0
    flying: int = 0  # pieces whose sectors are on their way
    data: int = 0  # when all data known so far are there
    done: int = NEVER  # when it is done; known once the last piece is


@dataclass(eq=False)
class Miss:
    """A line on its way: sectors that were asked for, and who waits for which of them."""

    pending: int = 0
    targets: list[tuple[Access, int]] = field(default_factory=list)


@dataclass(eq=False)
class Request:
    """A request in flight; `access` waits for it, or `warp` for the end of its store."""

    core: int
    kind: str  # "fill", "past" the L1, "write"
    address: int
    size: int
    access: Access | None
    warp: Warp


class Port:
    """What lies behind the cores: it stamps requests, and says which answers are back."""

    def __init__(self, machine: SimtMachine, backend: Hierarchy) -> None:
        assert machine.core.l1 is not None
        self.backend, self.pages = backend, make_pages(machine)
        self.q, self.r, self.f = clock_of(machine)
        self.send_cycles = machine.core.l1.hit_latency_cycles + backend.send_cycles
        self.flying: dict[int, Request] = {}
        self.tags = 0

    def fs(self, cycle: int) -> int:
        """The time of a cycle of the core clock."""
        return cycle * self.q + cycle * self.r // self.f

    def send(self, request: Request, now: int) -> None:
        """Put a request on its way."""
        self.tags += 1
        self.flying[self.tags] = request
        port, place = self.backend.port, int(physical(self.pages, request.address))
        row = (self.fs(now + self.send_cycles), request.core, place, request.size, int(request.kind == "write"))
        while not ring_push(port.requests, port.ring, *row, self.tags):
            port.grow_requests()

    def back(self, now: int) -> Iterator[Request]:
        """The requests whose answers are in the core at cycle `now`."""
        port = self.backend.port
        while port.heap_state[HEAP_SIZE]:
            time, tag = int(port.responses[0, RSP_TIME_FS]), int(port.responses[0, RSP_TAG])
            # A clock edge of the core at or after the answer, then the way into the core.
            if self.fs(now - self.backend.return_cycles) < time:
                return
            heap_pop(port.responses, port.heap_state)
            yield self.flying.pop(tag)

    def advance(self, now: int) -> None:
        """Let the memory decide all that cycle `now` has asked for."""
        self.backend.advance(self.fs(now + 1 + self.send_cycles))


class Unit:
    """The load/store unit of a core, with its L1."""

    def __init__(
        self, core: int, machine: SimtMachine, l1: Cache, cache: CacheState, port: Port, counters: Counter[str]
    ) -> None:
        assert machine.core.load_store is not None
        self.core, self.port, self.counters = core, port, counters
        self.l1, self.shared, self.unit = l1, machine.core.shared, machine.core.load_store
        self.cache = cache  # of all cores
        self.queue: deque[Access] = deque()
        self.rows = 0
        self.free = 0  # when the unit may take the next piece
        self.blocked = False
        self.misses: dict[int, Miss] = {}
        self.stores = 0  # sectors of stores and atomics that are not answered
        self.in_free = 0  # when the port into the core is free

    def queued(self, sub: int) -> int:
        """Memory instructions of a sub-core in the queue."""
        return sum(access.sub == sub for access in self.queue)

    # A cycle

    def step(self, now: int) -> None:
        """Take a piece, if there is one and the unit is free."""
        if not self.queue or now < self.free or self.blocked:
            return
        access = self.queue[0]
        cycles = self._take(access, now)
        if cycles is None:
            self.counters["unit_stalls"] += 1
            self.blocked = True
            return
        self.counters["pieces"] += 1
        access.taken += 1
        if access.taken == len(access.pieces):
            self.queue.popleft()
            cycles = max(cycles, self.unit.issue_cycles)
        self.free = now + cycles
        self._settle(access, now)

    def answer(self, request: Request, now: int) -> None:
        """A request of this core is answered."""
        self.blocked = False
        if request.kind == "write":
            self.stores -= self._sectors(request)
            request.warp.writes -= self._sectors(request)
            return
        self.in_free = max(now, self.in_free) + -(-request.size // self.unit.port_bytes_per_cycle)
        there = self.in_free - 1
        if request.access is not None:
            self.stores -= self._sectors(request)
            self._arrived(request.access, there, now)
            return
        line, offset = divmod(request.address, self.l1.line_bytes)
        sectors = (1 << self._sectors(request)) - 1 << offset // self.l1.sector_bytes
        lines.fill(*self.cache.arrays, self.core, line, sectors, 0)  # type: ignore[call-arg]
        miss = self.misses[line]
        miss.pending &= ~sectors
        for target in [target for target in miss.targets if not target[1] & miss.pending]:
            miss.targets.remove(target)
            self._arrived(target[0], there, now)
        if not miss.pending:
            del self.misses[line]

    def _sectors(self, request: Request) -> int:
        return request.size // self.l1.sector_bytes

    def _arrived(self, access: Access, there: int, now: int) -> None:
        access.flying -= 1
        access.data = max(access.data, there)
        self._settle(access, now)

    def _settle(self, access: Access, now: int) -> None:
        """Once the last piece is known, the access is done."""
        if access.taken < len(access.pieces) or access.flying:
            return
        self.rows -= 1
        if access.returns:
            access.done = max(access.data, now + 1)
            for row in access.registers:
                access.warp.ready[row] = (access.done, access.warp.ready[row][1])

    # Pieces

    def _take(self, access: Access, now: int) -> int | None:
        """Take the next piece; the cycles that it takes, or None without room for it."""
        first, second = access.pieces[access.taken]
        if access.kind in (at.SHARED_LOAD, at.SHARED_STORE, at.SHARED_ATOMIC, at.MATRIX_LOAD):
            access.data = now + first - 1 + self.shared.latency_cycles
            self.counters["shared_accesses"] += 1
            self.counters["shared_cycles"] += first
            return first
        size = len(bits(second)) * self.l1.sector_bytes
        if access.kind in (at.GLOBAL_LOAD, at.ASYNC_COPY):
            found = self._load(access, first, second, now)
            return max(1, size // self.unit.bytes_per_cycle) if found else None
        found = self._write(access, first, second, now)
        return max(1, size // self.unit.port_bytes_per_cycle) if found else None

    def _load(self, access: Access, line: int, wanted: int, now: int) -> bool:
        cache = self.cache
        _, missing = lines.lookup(
            cache.geometry, cache.tags, cache.marks, cache.links, cache.sets, self.core, line, wanted, 0, 0)
        missing = int(missing)
        if missing:
            miss = self.misses.get(line)
            if miss is None and len(self.misses) >= self.l1.mshrs:
                return False
            if miss is not None and len(miss.targets) >= self.l1.mshr_targets:
                return False
            miss = self.misses.setdefault(line, Miss())
            absent = missing & ~miss.pending
            miss.pending |= missing
            miss.targets.append((access, missing))
            access.flying += 1
            self._send("fill", line, absent, None, access.warp, now)
            self.counters["l1_miss_sectors"] += len(bits(absent))
            self.counters["l1_merged_sectors"] += len(bits(missing & ~absent))
        here = wanted & ~missing
        if here:
            access.data = max(access.data, now + self.l1.hit_latency_cycles)
        self.counters["l1_hit_sectors"] += len(bits(here))
        self.counters["load_sectors"] += len(bits(wanted))
        return True

    def _write(self, access: Access, line: int, sectors: int, now: int) -> bool:
        count, cache = len(bits(sectors)), self.cache
        if self.stores + count > self.unit.stores:
            return False
        self.stores += count
        self.counters["store_sectors"] += count
        if access.kind == at.GLOBAL_STORE:
            arrays = cache.geometry, cache.tags, cache.marks, cache.links, cache.sets
            lines.lookup(*arrays, self.core, line, sectors, sectors, 1)
        if access.returns:
            access.flying += self._send("past", line, sectors, access, access.warp, now)
        else:
            self._send("write", line, sectors, None, access.warp, now)
        return True

    def _send(self, kind: str, line: int, sectors: int, access: Access | None, warp: Warp, now: int) -> int:
        """Ask for, or write, the sectors of a mask, a request for each run of them; returns how many."""
        size, begins = self.l1.sector_bytes, bits(sectors & ~(sectors << 1))
        for begin in begins:
            count = next(n for n in range(1, 65) if not sectors >> begin + n & 1)
            address = line * self.l1.line_bytes + begin * size
            self.port.send(Request(self.core, kind, address, count * size, access, warp), now)
            self.counters["write_bytes" if kind == "write" else "read_bytes"] += count * size
            self.counters["requests"] += 1
        return len(begins)


def global_pieces(where: list[int], size: int, l1: Cache) -> list[tuple[int, int]]:
    """Lines with the sectors that accesses of `size` bytes touch, in the order of lanes; -1: the lane has none."""
    found: dict[int, int] = {}
    for address in where:
        if address >= 0:
            line, offset = divmod(address, l1.line_bytes)
            touched = range(offset // l1.sector_bytes, (offset + size - 1) // l1.sector_bytes + 1)
            found[line] = found.get(line, 0) | sum(1 << n for n in touched)
    return list(found.items())


def shared_cycles(where: list[int], size: int, machine: SimtMachine, each: bool) -> int:
    """Cycles that the banks need for accesses of `size` bytes; `each`: equal words count again (atomics)."""
    shared = machine.core.shared
    together, total = shared.banks * shared.bank_bytes // max(size, shared.bank_bytes), 0
    for first in range(0, len(where), together):
        words: list[int] = []
        for address in where[first : first + together]:
            if address >= 0:
                words += range(address // shared.bank_bytes, (address + size - 1) // shared.bank_bytes + 1)
        asked = Counter(word % shared.banks for word in (words if each else set(words)))
        total += max(asked.values(), default=0)
    return max(1, total)


def pieces_of(code: Array, pc: int, where: Array, machine: SimtMachine, l1: Cache) -> list[tuple[int, int]]:
    """The pieces of the access of a warp whose lanes have the addresses `where`."""
    kind, size, count = int(code[pc, at.I_KIND]), int(code[pc, at.I_BYTES]), int(code[pc, at.I_COUNT])
    addresses = np.asarray(where).tolist()
    if kind in (at.GLOBAL_LOAD, at.GLOBAL_STORE, at.GLOBAL_ATOMIC, at.ASYNC_COPY):
        return global_pieces(addresses, size, l1)
    if kind == at.MATRIX_LOAD:
        addresses = addresses[: 8 * count]
    return [(shared_cycles(addresses, size, machine, kind == at.SHARED_ATOMIC), 0)]
