"""What a simulation of threads leaves behind: counters by launch, that every report of them is drawn from."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy.typing as npt

from isa.occupancy import Occupancy
from isa.program import Program
from isa.simt_machine import SimtMachine

Array = npt.NDArray[Any]

# Why a warp does not issue, or that it does. Names are those that profilers of GPUs use.
WARP_CAUSES = (
    "selected", "not_selected", "long_scoreboard", "short_scoreboard", "dependency", "pipe_throttle", "lsu_throttle",
    "barrier", "membar", "branch", "launch",
)  # fmt: skip
SIMT_COUNTERS = (
    "load_sectors", "store_sectors", "l1_hit_sectors", "l1_miss_sectors", "l1_merged_sectors", "unit_stalls",
    "read_bytes", "write_bytes", "requests", "pieces", "shared_accesses", "shared_cycles", "atomic_lanes",
)  # fmt: skip


@dataclass(frozen=True)
class LaunchRecord:
    """One launch of a kernel.

    Cycles `start` to `end` of the core clock, launch cost first. `stalls` int64 [instructions, WARP_CAUSES]: cycles of
    resident warps by the instruction that they were at; `issues` int64 [instructions, 2]: times issued, lanes active;
    `pipe_busy` int64 [cores, schedulers, pipes]; `issued` int64 [cores, schedulers]; `counters` by SIMT_COUNTERS;
    `dram_bytes` read and written; `l2` counters of the shared cache.
    """

    kernel: str
    grid: int
    block: int
    start: int
    end: int
    occupancy: Occupancy
    stalls: Array
    issues: Array
    pipe_busy: Array
    issued: Array
    counters: Mapping[str, int]
    dram_bytes: tuple[int, int]
    l2: Mapping[str, int]

    @property
    def cycles(self) -> int:
        """Core cycles of the launch, its cost included."""
        return self.end - self.start


@dataclass(frozen=True)
class SimtRecord:
    """A whole simulation: a record a launch, and what it cost to make."""

    machine: SimtMachine
    program: Program
    launches: tuple[LaunchRecord, ...]
    total_cycles: int
    engine_cpu_s: float
