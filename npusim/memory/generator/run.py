"""Running a generator against a memory, window by window: no answer can be due before its window ends."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from isa.errors import SimulationError
from npusim.memory.generator.advance import generator_advance
from npusim.memory.generator.backend import Hierarchy
from npusim.memory.generator.l1 import L1State
from npusim.memory.generator.layout import (
    C_LOADS,
    C_STORES,
    E_FLIGHT,
    OK,
    P_F,
    P_Q,
    P_R,
    P_RETURN_CYCLES,
    P_SEND_CYCLES,
    GeneratorState,
)

Array = npt.NDArray[Any]
PATIENCE = 1000  # steps without any change that make a run stuck


@dataclass
class Run:
    """A generator in front of a memory, advanced together; `cycle` is the core cycle that both have reached."""

    state: GeneratorState
    l1: L1State
    backend: Hierarchy
    cycle: int = 0
    window_cycles: int = 0  # shortens the windows, which changes no result; 0: as long as they may be

    def advance(self, cycles: int) -> Array:
        """Go on for so many core cycles; returns a copy of the counters (layout.K_*)."""
        end, params = self.cycle + cycles, self.state.params
        # No answer is due in the window of its request: it comes after the request's time, which is SEND cycles on.
        window = max(1, int(params[P_SEND_CYCLES] + params[P_RETURN_CYCLES]) - 1)
        if self.window_cycles:
            window = min(window, self.window_cycles)
        while self.cycle < end:
            until = min(end, self.cycle + window)
            self._window(until)
            self.backend.advance(self._fs(until + int(params[P_SEND_CYCLES])))
            self.cycle = until
        return np.array(self.state.counters)

    def drain(self, step: int = 200) -> None:
        """Go on until all blocks are done and nothing is in flight; raises SimulationError when nothing moves."""
        idle = 0
        while self._busy():
            before = self.state.counters.copy()
            idle = 0 if (self.advance(step) != before).any() else idle + 1
            if idle > PATIENCE:
                raise SimulationError(f"cycle {self.cycle}: requests wait, and none has been answered for long")

    def _busy(self) -> bool:
        state = self.state
        flying = state.cores[:, [C_LOADS, C_STORES]].any() or state.copiers[:, E_FLIGHT].any()
        return bool(flying or state.size[0])

    def summary(self) -> dict[str, Any]:
        """What the run has done so far: `cycles` of the core clock, and what its `memory` has."""
        return {"cycles": self.cycle, "memory": self.backend.summary(self._fs(self.cycle))}

    def follow(self, state: GeneratorState) -> None:
        """Let another generator, which starts at this run's cycle, take the place of this one; the caches stay."""
        self.state = state

    def _fs(self, cycle: int) -> int:
        q, r, f = (int(self.state.params[at]) for at in (P_Q, P_R, P_F))
        return cycle * q + (cycle * r) // f

    def _window(self, until: int) -> None:
        port, state = self.backend.port, self.state
        while True:
            status = generator_advance(  # type: ignore[call-arg]
                state.params, state.pages, state.program, state.chain, state.warps, state.cores, state.slots,
                state.copiers, state.flights, state.targets, state.events, state.size, state.other, state.counters,
                *self.l1.arrays, port.requests, port.ring, port.responses, port.heap_state, until,
            )  # fmt: skip
            if status == OK:
                return
            port.grow_requests()
