"""What lies behind the port of a generator: the shared cache, if there is one, and the channels of a chip."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from isa.chip import MemoryChip
from isa.errors import SimulationError
from npusim.memory.hierarchy import layout
from npusim.memory.hierarchy.run import advance
from npusim.memory.hierarchy.state import HierarchyState, make_hierarchy
from npusim.memory.port import MemoryPort, make_port


@dataclass
class Hierarchy:
    """Shared cache and channels of a chip (npusim.memory.hierarchy), and their port.

    A request is stamped `send_cycles` after it leaves the core, an answer is in the core `return_cycles` after its
    time; both at the core clock. No answer comes before the time of its request.
    """

    state: HierarchyState
    port: MemoryPort
    send_cycles: int
    return_cycles: int

    def advance(self, until_fs: int) -> None:
        """Take in all requests before a time and decide all that is due before it."""
        status = advance(self.state, self.port, until_fs)
        if status != layout.OK:
            raise SimulationError(f"a request before {until_fs} fs lies outside of the memory, or of the cores")

    def summary(self, time_fs: int) -> dict[str, Any]:
        """What the memory has done until a time: counters of the shared cache, and of the `network` if there is one."""
        network = self.state.network_report(time_fs)
        return {**self.state.summary(), **({} if network is None else {"network": network})}


def make_backend(chip: MemoryChip, groups: Sequence[Sequence[int]] = ()) -> Hierarchy:
    """The memory of a chip, idle and empty; core `chip.all_cores` + n is the n-th group of cores (make_hierarchy)."""
    state = make_hierarchy(chip.memory, chip.all_cores, chip.clock_mhz, groups=groups)
    return Hierarchy(state, make_port(1 << 14, 1 << 14), state.send_cycles, state.return_cycles)
