"""What a simulation leaves behind: counters, events and the Result that every report reads.

Reports see nothing else, so a figure in a report is always a sum or a quotient of what stands here.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from isa.machine import Machine
from isa.program import Program

if TYPE_CHECKING:
    from npusim.report import OpRow

Array = npt.NDArray[Any]

# Every cycle of a pipe is in one of these states. wait_X: an operand or flag that a pipe of class X, or
# another core, will deliver.
CAUSES = (
    "busy", "wait_scalar", "wait_weights", "wait_matrix", "wait_vector", "wait_cross_lane", "wait_drain", "wait_dma",
    "wait_core", "queue_full", "memory_bandwidth", "memory_latency", "port_conflict", "dispatch", "barrier", "launch",
    "host", "drained",
)
CAUSE_ID = {name: i for i, name in enumerate(CAUSES)}

# One executed instruction (instruction level, inside the trace window), times in core cycles.
EVENT = np.dtype([
    ("start", "i8"), ("end", "i8"), ("core", "i4"), ("pipe", "i4"), ("launch", "i4"), ("instr", "i4"),
])
# A `wait` or `await` that held the sequencer (pipe 0) or a pipe from start to end, and the instruction whose completion
# raised the flag.
WAIT = np.dtype([*EVENT.descr, ("by_pipe", "i4"), ("by_start", "i8"), ("by_instr", "i4"), ("by_core", "i4")])


@dataclass(frozen=True)
class PipeInfo:
    """One pipe of a core: its index in `Record.states`, class name, unit number and display label."""

    index: int
    pipe_class: str
    unit: int
    label: str


def percentile(histogram: Array, share: float) -> float:
    """The latency in ns below which `share` of the requests lie, evenly spread within their bucket.

    `histogram` counts requests: bucket 2n for [2^n, 1.5 x 2^n) ns and 2n + 1 for the rest of the octave.
    """
    total = int(histogram.sum())
    if total == 0:
        return 0.0
    upto = np.cumsum(histogram)
    bucket = int(np.searchsorted(upto, share * total))
    octave = float(2 ** (bucket // 2))
    first = (1.5 * octave if bucket % 2 else octave) if bucket else 0.0
    end, count = (2.0 if bucket % 2 else 1.5) * octave, int(histogram[bucket])
    return first + (end - first) * (share * total - (int(upto[bucket]) - count)) / count


@dataclass(frozen=True)
class SharedRecord:
    """What the shared cache and the network before it did in one simulation.

    `size_bytes` is that of all slices; `totals` and, one value a slice, `slices` are counters by name (lookups that
    hit, missed or merged with a miss under way; fills, write-backs, bytes); `histogram` counts latencies of requests at
    the cores' port as `percentile` takes them; `dirty_bytes` were newer than the DRAM's at the end; `network` is the
    report of npusim.memory.hierarchy.
    """

    size_bytes: int
    totals: Mapping[str, int]
    slices: Mapping[str, Array]
    histogram: Array
    dirty_bytes: int
    network: Mapping[str, Any] | None


@dataclass(frozen=True)
class MemoryRecord:
    """What the DRAM did in one simulation, and the `shared` cache before it, if there is one.

    `channels` int64 by counter name, one value a channel; `histogram` counts request latencies (`percentile`);
    `regions` (tensor, row hits, misses, conflicts) by the tensor that a run's request begins in; `refresh_fs` the mean
    time a bank was being refreshed.
    """

    channels: Mapping[str, Array]
    latency_ns: float
    wait_ns: float
    histogram: Array
    regions: tuple[tuple[str, int, int, int], ...]
    refresh_fs: float
    shared: SharedRecord | None = None


@dataclass(frozen=True)
class Record:
    """The raw record of one simulation.

    `states` is int64 [launches, cores, pipes, len(CAUSES)] in core cycles; `launch_span` int64 [launches, 2] start and
    end cycle; `path_bytes` int64 [launches, paths] bytes moved over each `machine.core.paths` entry; `dram_bytes` int64
    [launches, 2] read and written; `macs` int64 [launches] executed by the arrays, padding included; `issued` int64
    [launches, 8] instructions by pipe class; `dram_counters` names the memory kernel's totals (row hits, ...);
    `series` float64 [2, bins] DRAM bytes read and written per bin of `series_bin_cycles`, as the memory notes them: a
    bin may hold a few per cent more than the DRAM's peak (`dram_over_time`).
    """

    pipes: tuple[PipeInfo, ...]
    total_cycles: int
    states: Array
    launch_span: Array
    path_bytes: Array
    dram_bytes: Array
    macs: Array
    issued: Array
    dram_counters: Mapping[str, int]
    series: Array
    series_bin_cycles: float
    events: Array  # EVENT
    events_dropped: int
    engine_cpu_s: float
    waits: Array = field(default_factory=lambda: np.zeros(0, WAIT))  # machines with flags, inside the trace window
    memory: MemoryRecord | None = None  # None: ideal memory, closed forms

    def dram_over_time(self, peak: float) -> tuple[Array, Array]:
        """The core cycle at which each bin of `series` starts, and bytes read and written in it [2, bins], none above
        `peak` bytes a cycle.

        The last bin ends with the run; less than half a bin there is taken with the bin before it.
        """
        width = self.series_bin_cycles
        if width <= 0 or self.total_cycles <= 0:
            return np.zeros(0), np.zeros((2, 0))
        count = min(int(np.ceil(self.total_cycles / width)), self.series.shape[1])
        starts = np.arange(count) * width
        if count > 1 and self.total_cycles - starts[-1] < width / 2:
            starts = starts[:-1]
        moved = np.add.reduceat(self.series, np.arange(len(starts)), axis=1)
        return starts, within_peak(moved, np.floor(np.diff(starts, append=self.total_cycles) * peak))


def within_peak(series: Array, room: Array) -> Array:
    """Series [2, bins] of whole bytes with at most `room` [bins] in a bin, what is too much in the bins before.

    The memory notes a run of bursts as if they had followed each other up to its end; where they had not, some were
    earlier, so that is where bytes beyond a bin's room belong. All bytes read and all written are kept; only where the
    bins before have no room, as for reads that were answered out of a write queue and on no bus, the next ones take
    them, and the last one what nobody has room for.
    """
    found = np.asarray(series, np.float64).round().astype(np.int64)
    bins = found.shape[1]
    for order in (range(bins - 1, 0, -1), range(bins - 1)):
        step = -1 if order.step < 0 else 1
        for i in order:
            total = int(found[:, i].sum())
            over = total - int(room[i])
            if over > 0:
                read = over * int(found[0, i]) // total
                found[:, i] -= (read, over - read)
                found[:, i + step] += (read, over - read)
    return found.astype(np.float64)


@dataclass(frozen=True)
class CheckResult:
    """Outcome of --check: `rows` has one entry an operator (name, max_err, bound, ok)."""

    ok: bool
    max_err: float
    bound: float
    executed_share: float
    outputs: Mapping[str, float]  # output name -> distance to the fp32 reference (max abs)
    hazards: tuple[str, ...] = ()
    rows: tuple[Mapping[str, Any], ...] = ()
    not_compared: tuple[str, ...] = ()  # outputs of a program file for which no expected values were given


@dataclass(frozen=True)
class Result:
    """One run, complete: what `npusim.run` returns and every report is drawn from."""

    model: str
    hw: str
    dtype: str
    fidelity: str
    machine: Machine
    program: Program
    record: Record
    assumptions: tuple[str, ...] = ()
    check: CheckResult | None = None
    wall_s: float = 0.0
    host_us: float = 0.0
    extrapolated_share: float = 0.0
    graph_macs: int = 0  # without padding
    graph_flops: int = 0
    extra: Mapping[str, Any] = field(default_factory=dict)

    @property
    def summary(self) -> dict[str, Any]:
        """What `summary.json` holds; raises SimulationError when the record does not add up."""
        from npusim.report import summary

        return summary(self)

    @property
    def operators(self) -> list[OpRow]:
        """The rows of `ops.csv`; raises as `summary`."""
        from npusim.report import operator_rows

        return operator_rows(self)
