"""Running a generator against a memory, window by window: no answer can be due before its window ends."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from npusim.memory.generator.advance import generator_advance
from npusim.memory.generator.backend import Backend
from npusim.memory.generator.layout import C_LOADS, C_STORES, OK, P_F, P_Q, P_R, P_SEND_CYCLES, GeneratorState

Array = npt.NDArray[Any]


@dataclass
class Run:
    """A generator in front of a memory, advanced together; `cycle` is the core cycle that both have reached."""

    state: GeneratorState
    lines: Array
    backend: Backend
    cycle: int = 0

    def advance(self, cycles: int) -> Array:
        """Go on for so many core cycles; returns a copy of the counters (layout.K_*)."""
        end = self.cycle + cycles
        while self.cycle < end:
            until = min(end, self.cycle + self.backend.window_cycles)
            self._window(until)
            self.backend.advance(self._fs(until + int(self.state.params[P_SEND_CYCLES])))
            self.cycle = until
        return np.array(self.state.counters)

    def drain(self, step: int = 200, limit: int = 1 << 40) -> None:
        """Go on until all blocks are done and nothing is in flight."""
        while self.cycle < limit:
            self.advance(step)
            busy = self.state.cores[:, C_LOADS].any() or self.state.cores[:, C_STORES].any() or self.state.size[0]
            if not busy:
                return

    def follow(self, state: GeneratorState) -> None:
        """Let another generator, which starts at this run's cycle, take the place of this one; the caches stay."""
        self.state = state

    def _fs(self, cycle: int) -> int:
        q, r, f = (int(self.state.params[at]) for at in (P_Q, P_R, P_F))
        return cycle * q + (cycle * r) // f

    def _window(self, until: int) -> None:
        port, state = self.backend.port, self.state
        while True:
            status = generator_advance(
                state.params, state.program, state.chain, state.warps, state.cores, state.slots, state.copiers,
                state.flights, state.nodes, state.events, state.size, state.other, state.counters, self.lines,
                port.requests, port.ring, port.responses, port.heap_state, until,
            )  # fmt: skip
            if status == OK:
                return
            port.grow_requests()
