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

    def ask(self, time_fs: int, address: int, size_bytes: int, write: bool, who: Any) -> None:
        """A request reaches the controller at `time_fs`."""

    def serve(self, until_fs: int) -> list[Answer]:
        """Answers of the requests that arrived before `until_fs`."""

    def flush(self) -> int:
        """The time at which the last write is in memory; all requests have been answered."""


class IdealMemory:
    """One shared bus: bytes take their time, nothing else does."""

    def __init__(self, machine: Machine) -> None:
        self._fs_per_byte = ideal_fs_per_byte(machine)
        self._capacity = machine.memory.capacity_bytes
        self._free = Fraction(0)
        self._asked: list[tuple[int, int, int, Any]] = []
        self._count = 0

    def ask(self, time_fs: int, address: int, size_bytes: int, write: bool, who: Any) -> None:
        """A request reaches the controller at `time_fs`."""
        if address < 0 or address + size_bytes > self._capacity:
            raise SimulationError(f"a request touches byte {address} of dram, which has {self._capacity}")
        self._asked.append((time_fs, self._count, size_bytes, who))
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

    def flush(self) -> int:
        """A write is answered when it is in memory."""
        return 0


class DramMemory:
    """The DRAM kernel as a black box."""

    def __init__(self, machine: Machine) -> None:
        from npusim.memory.port import make_port
        from npusim.memory.state import make_memory

        self._state = make_memory(machine)
        self._port = make_port()
        port = self._port
        self._cells = (port.requests, port.ring, port.responses, port.heap_state)
        self._who: list[Any] = []

    def ask(self, time_fs: int, address: int, size_bytes: int, write: bool, who: Any) -> None:
        """A request reaches the controller at `time_fs`."""
        from npusim.memory.port import ring_push

        self._who.append(who)
        if not ring_push(*self._cells[:2], time_fs, 0, address, size_bytes, int(write), len(self._who) - 1):
            raise SimulationError("over 4096 requests wait; the stepper is for small programs")

    def serve(self, until_fs: int) -> list[Answer]:
        """Answers of the requests that arrived before `until_fs`."""
        from npusim.memory.dram import advance
        from npusim.memory.port import heap_pop

        responses, heap_state = self._cells[2:]
        if advance(self._state, self._port, until_fs) != 0:
            raise SimulationError("a request lies outside of dram")
        answers: list[Answer] = []
        while heap_state[0]:
            time_fs, order, tag, wait_fs = (int(x) for x in responses[0])
            answers.append((time_fs, order, self._who[tag], wait_fs > 0))
            heap_pop(responses, heap_state)
        return answers

    def flush(self) -> int:
        """The time at which the last write is in memory; all requests have been answered."""
        from npusim.memory.dram import memory_flush

        return memory_flush(*self._state.arrays, *self._cells[2:])  # type: ignore[call-arg]


class Port:
    """Carries requests to the memory and answers back, each with its latency in core cycles."""

    def __init__(self, machine: Machine) -> None:
        self._memory: Memory = IdealMemory(machine) if machine.memory.model == "ideal" else DramMemory(machine)
        self._khz = round(machine.clock_mhz * 1000)
        self._there, self._back = machine.memory.request_latency_cycles, machine.memory.response_latency_cycles
        self._coming: list[Answer] = []
        self.moved_bytes = [0, 0]  # read, written

    def _edge_fs(self, cycle: int) -> int:
        return cycle * 10**12 // self._khz

    def ask(self, cycle: int, address: int, size_bytes: int, write: bool, who: Any) -> None:
        """A core sends a request in `cycle`."""
        self._memory.ask(self._edge_fs(cycle + self._there), address, size_bytes, write, who)
        self.moved_bytes[write] += size_bytes

    def flushed(self) -> int:
        """The first cycle in which all writes are in memory."""
        return -(-self._memory.flush() * self._khz // 10**12)

    def answers(self, cycle: int) -> list[tuple[Any, bool]]:
        """(who asked, had to wait) of every answer that reaches its core in `cycle`."""
        for answer in self._memory.serve(self._edge_fs(cycle)):
            heapq.heappush(self._coming, answer)
        found = []
        while self._coming and -(-self._coming[0][0] * self._khz // 10**12) + self._back <= cycle:
            _, _, who, waited = heapq.heappop(self._coming)
            found.append((who, waited))
        return found
