"""Memories that are asked every cycle: one bus of constant rate, or the DRAM kernel behind a window of one cycle."""

from __future__ import annotations

import heapq
from fractions import Fraction
from typing import Any, Protocol

from isa.errors import SimulationError
from isa.machine import Machine
from npusim.memory.state import ideal_fs_per_byte

Answer = tuple[int, int, Any, bool]  # time in fs, order, who asked, had to wait


class Memory(Protocol):
    """Takes requests as they arrive, in order; `serve` answers those that arrived before a time."""

    def ask(self, time_fs: int, core: int, address: int, size_bytes: int, write: bool, who: Any) -> None:
        """A request of a core reaches the memory at `time_fs`."""

    def serve(self, until_fs: int) -> list[Answer]:
        """Answers of the requests that arrived before `until_fs`."""

    def flush(self, until_fs: int) -> int:
        """The time at which the last write is in memory; all requests have been answered, none comes before a time."""

    def moved_bytes(self) -> tuple[int, int]:
        """Bytes read from and written to DRAM so far."""
        ...


class IdealMemory:
    """One shared bus: bytes take their time, nothing else does."""

    def __init__(self, machine: Machine) -> None:
        self._fs_per_byte = ideal_fs_per_byte(machine)
        self._capacity = machine.memory.capacity_bytes
        self._free = Fraction(0)
        self._asked: list[tuple[int, int, int, Any]] = []
        self._count = 0
        self._moved = [0, 0]

    def ask(self, time_fs: int, core: int, address: int, size_bytes: int, write: bool, who: Any) -> None:
        """A request of a core reaches the memory at `time_fs`."""
        if address < 0 or address + size_bytes > self._capacity:
            raise SimulationError(f"a request touches byte {address} of dram, which has {self._capacity}")
        self._asked.append((time_fs, self._count, size_bytes, who))
        self._moved[write] += size_bytes
        self._count += 1

    def serve(self, until_fs: int) -> list[Answer]:
        """Answers of the requests that arrived before `until_fs`."""
        answers: list[Answer] = []
        while self._asked and self._asked[0][0] < until_fs:
            arrival, order, size_bytes, who = self._asked.pop(0)
            waits = int(self._free) > arrival
            self._free = max(self._free, Fraction(arrival)) + size_bytes * self._fs_per_byte
            answers.append((-(-self._free.numerator // self._free.denominator), order, who, waits))
        return answers

    def flush(self, until_fs: int) -> int:
        """A write is answered when it is in memory."""
        return 0

    def moved_bytes(self) -> tuple[int, int]:
        """Bytes read from and written to DRAM so far."""
        return self._moved[0], self._moved[1]


class DramMemory:
    """The kernels of the DRAM, or of the shared cache before it, as a black box."""

    def __init__(self, machine: Machine) -> None:
        from npusim.memory.backend import make_backend
        from npusim.memory.port import make_port

        self._backend = make_backend(machine)
        self._port = make_port()
        port = self._port
        self._cells = (port.requests, port.ring, port.responses, port.heap_state)
        self._who: list[Any] = []

    def ask(self, time_fs: int, core: int, address: int, size_bytes: int, write: bool, who: Any) -> None:
        """A request of a core reaches the memory at `time_fs`."""
        from npusim.memory.port import ring_push

        self._who.append(who)
        if not ring_push(*self._cells[:2], time_fs, core, address, size_bytes, int(write), len(self._who) - 1):
            raise SimulationError("over 4096 requests wait; the stepper is for small programs")

    def serve(self, until_fs: int) -> list[Answer]:
        """Answers of the requests that arrived before `until_fs`."""
        from npusim.memory.port import heap_pop

        responses, heap_state = self._cells[2:]
        if self._backend.advance(self._port, until_fs) != 0:
            raise SimulationError("a request lies outside of dram")
        answers: list[Answer] = []
        while heap_state[0]:
            time_fs, order, tag, wait_fs = (int(x) for x in responses[0])
            answers.append((time_fs, order, self._who[tag], wait_fs > 0))
            heap_pop(responses, heap_state)
        return answers

    def flush(self, until_fs: int) -> int:
        """The time at which the last write is in memory; all requests have been answered, none comes before a time."""
        from npusim.memory.backend import backend_flush

        if self._backend.shared is not None:
            self._backend.advance(self._port, until_fs)
        return backend_flush(self._backend.arrays, *self._cells[2:])

    def moved_bytes(self) -> tuple[int, int]:
        """Bytes read from and written to DRAM so far."""
        totals = self._backend.dram.summary()
        return totals["read_bytes"], totals["write_bytes"]


class Port:
    """Carries requests to the memory and answers back, each with its latency in core cycles."""

    def __init__(self, machine: Machine) -> None:
        ideal = machine.memory.model == "ideal" and machine.memory.l2 is None
        self._memory: Memory = IdealMemory(machine) if ideal else DramMemory(machine)
        self._khz = round(machine.clock_mhz * 1000)
        self._there, self._back = machine.memory.request_latency_cycles, machine.memory.response_latency_cycles
        self._coming: list[Answer] = []

    def _edge_fs(self, cycle: int) -> int:
        return cycle * 10**12 // self._khz

    def ask(self, cycle: int, core: int, address: int, size_bytes: int, write: bool, who: Any) -> None:
        """A core sends a request in `cycle`."""
        self._memory.ask(self._edge_fs(cycle + self._there), core, address, size_bytes, write, who)

    def moved_bytes(self) -> tuple[int, int]:
        """Bytes read from and written to DRAM so far."""
        return self._memory.moved_bytes()

    def flushed(self, cycle: int) -> int:
        """The first cycle in which all writes are in memory, of a launch whose cores have ended at `cycle`."""
        return -(-self._memory.flush(self._edge_fs(cycle + self._there)) * self._khz // 10**12)

    def answers(self, cycle: int) -> list[tuple[Any, bool]]:
        """(who asked, had to wait) of every answer that reaches its core in `cycle`."""
        for answer in self._memory.serve(self._edge_fs(cycle)):
            heapq.heappush(self._coming, answer)
        found = []
        while self._coming and -(-self._coming[0][0] * self._khz // 10**12) + self._back <= cycle:
            _, _, who, waited = heapq.heappop(self._coming)
            found.append((who, waited))
        return found
