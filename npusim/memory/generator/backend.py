"""What lies behind the port of a generator: the caches and channels of a chip, or its channels alone."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from isa.chip import MemoryChip
from isa.errors import SimulationError
from npusim.memory import dram
from npusim.memory.port import MemoryPort, make_port
from npusim.memory.state import MemoryState, make_memory


class Backend(Protocol):
    """The whole memory of a chip.

    A request is stamped `send_cycles` after it leaves the core, an answer is in the core `return_cycles` after its
    time; both at the core clock. `window_cycles` is the longest window.
    """

    port: MemoryPort
    send_cycles: int
    return_cycles: int
    window_cycles: int

    def advance(self, until_fs: int) -> None:
        """Take in all requests before a time and decide all that is due before it."""
        ...


@dataclass
class DramBackend:
    """Channels alone, without caches: the way to them takes the latencies of the machine description."""

    memory: MemoryState
    port: MemoryPort
    send_cycles: int
    return_cycles: int
    window_cycles: int

    def advance(self, until_fs: int) -> None:
        """See Backend."""
        if dram.advance(self.memory, self.port, until_fs) != dram.OK:
            raise SimulationError(f"a request before {until_fs} fs lies outside of the memory")


def make_backend(chip: MemoryChip) -> Backend:
    """The memory of a chip, idle and empty."""
    memory = chip.memory
    return DramBackend(
        make_memory(chip), make_port(), memory.request_latency_cycles, memory.response_latency_cycles,
        memory.request_latency_cycles,
    )  # fmt: skip
