"""The memory behind the port: its arrays, and how a machine description fills them.

Times inside a channel are ticks (npusim.memory.controller); at the port they are femtoseconds. A tick is a whole number
of femtoseconds.
"""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from isa.memory import DramPart, Memory
from npusim.memory.controller import layout as at
from npusim.memory.controller.mapping import (
    M_BURST_BITS,
    M_CHUNK_BITS,
    M_RUN_BITS,
    M_TURN_BITS,
    M_UNIT_BITS,
    make_map,
)
from npusim.memory.controller.setup import make_channels
from npusim.memory.controller.timing import ticks_a_cycle

Array = npt.NDArray[Any]

# fmt: off
# Parameters (int64).
(P_IDEAL, P_CAPACITY, P_TICK_FS, P_POSTED,  # 1: one bus of constant rate; bytes; a tick; 1: writes answered when queued
 P_IDEAL_FS, P_IDEAL_NUM, P_IDEAL_DEN,      # ideal: fs a byte = FS + NUM / DEN
 P_IDEAL_LATENCY_FS, P_REGIONS,             # regions of the conflict map
 P_MISS, P_CONFLICT,                        # ticks that an idle bank adds to a row hit
 P_PIECES,                                  # runs of an interleave unit, at most
 P_COUNT) = range(13)

# `asked`, int64 [rows, A_WORDS]: requests that are under way. Row 0: the first free row, requests under way, the
# time of the next decision, the first free row of `runs` and how many of its rows are free, requests taken in so far,
# how many requests fit, the tick before which all is decided.
A_FREE, A_OPEN, A_NEXT_FS, A_RUN_FREE, A_RUNS_LEFT, A_ORDER, A_LEFT_FREE, A_UNTIL = range(8)
(A_NEXT, A_TIME_FS, A_TAG, A_LEFT, A_FINISH, A_UNLOADED, A_SIZE, A_WRITE, A_SEQ, A_WORDS) = range(10)
ASKED_ROWS, RUN_ROWS = 1 << 12, 1 << 14  # to begin with

BUS_FREE_FS, BUS_FREE_NUM = 0, 1  # ideal model: the bus is free at FS + NUM / DEN (channel 0's row)

# Counters (int64); the last are a histogram of request latencies: two buckets an octave of nanoseconds.
(C_READS, C_WRITES, C_READ_BYTES, C_WRITE_BYTES, C_READ_BURSTS, C_WRITE_BURSTS, C_WAIT_FS, C_LATENCY_FS,
 C_FORWARDED, C_SERIES_MERGED, C_HISTOGRAM) = range(11)
BUCKETS = 48
C_COUNT = C_HISTOGRAM + BUCKETS
# fmt: on
_COUNTER_NAMES = (
    "reads", "writes", "read_bytes", "write_bytes", "read_bursts", "write_bursts", "wait_fs", "latency_fs", "forwarded",
)  # fmt: skip
_CHANNEL_NAMES = {
    "row_hits": at.CH_HITS, "row_misses": at.CH_MISSES, "row_conflicts": at.CH_CONFLICTS, "activations": at.CH_ACTS,
    "refreshes": at.CH_REFRESHES, "turnarounds": at.CH_TURNS,
}  # fmt: skip

SERIES_BINS = 512
FIRST_BIN_FS = 1_000_000  # 1 ns; bins are merged in pairs, C_SERIES_MERGED times so far, as the run grows
MAX_REQUEST_BYTES = 1 << 20  # keeps every product of the ideal model inside int64


class Chip(Protocol):
    """What the memory needs to know of a chip."""

    @property
    def memory(self) -> Memory:
        """The memory's description."""
        ...

    @property
    def clock_mhz(self) -> float:
        """The core clock."""
        ...


@dataclass
class MemoryState:
    """One chip's DRAM as int64 arrays, C-contiguous, in the order of the first arguments of `memory_advance`.

    `state` [channels, words] and `control`, `rules`, `nodes`, `where` are those of npusim.memory.controller; `runs` its
    entries; `series` [2, bins] bytes read and written over time; `regions` [n, 4]: first byte of a region of the
    address space, then row hits, misses and conflicts of the runs in it.
    """

    params: Array
    control: Array
    rules: Array
    nodes: Array
    where: Array
    state: Array
    runs: Array
    asked: Array
    counters: Array
    series: Array
    regions: Array

    @property
    def arrays(self) -> Any:
        """All arrays in order."""
        return (
            self.params, self.control, self.rules, self.nodes, self.where, self.state, self.runs, self.asked,
            self.counters, self.series, self.regions,
        )  # fmt: skip

    def grow(self) -> None:
        """Double the tables of requests and runs; what is under way stays where it is."""
        header = self.asked[0].copy()
        rows, runs = len(self.asked), len(self.runs)
        self.asked = np.concatenate([self.asked, np.zeros_like(self.asked)])
        self.runs = np.concatenate([self.runs, np.zeros_like(self.runs)])
        _chain(self.asked, rows, A_NEXT, int(header[A_FREE]))
        _chain(self.runs, runs, at.E_NEXT, int(header[A_RUN_FREE]))
        self.asked[0, [A_FREE, A_RUN_FREE]] = rows, runs
        self.asked[0, A_RUNS_LEFT] += runs
        self.asked[0, A_LEFT_FREE] += rows

    def summary(self) -> dict[str, int]:
        """Return the counters by name; `busy_fs` is that of all data buses."""
        found = {name: int(self.counters[i]) for i, name in enumerate(_COUNTER_NAMES)}
        ideal = int(self.params[P_IDEAL])
        found |= {name: 0 if ideal else int(self.state[:, word].sum()) for name, word in _CHANNEL_NAMES.items()}
        found["busy_fs"] = int(self.channel_busy_fs().sum())
        return found

    def channel_busy_fs(self) -> Array:
        """Return the femtoseconds in which each channel's data bus carried data; zeros for the ideal model."""
        bursts = self.state[:, at.CH_READS] + self.state[:, at.CH_WRITES]
        return np.asarray(bursts * self.control[at.P_BURST_TICKS] * (0 if self.params[P_IDEAL] else self.tick_fs))

    def channel_counters(self) -> dict[str, Array]:
        """Return what each channel did, by name: int64, one value a channel; empty for the ideal model."""
        if self.params[P_IDEAL]:
            return {}
        burst = 1 << int(self.where[M_BURST_BITS])
        found = {name: self.state[:, word].copy() for name, word in _CHANNEL_NAMES.items()}
        found["read_bytes"] = self.state[:, at.CH_READS] * burst
        found["write_bytes"] = self.state[:, at.CH_WRITES] * burst
        found["busy_fs"] = self.channel_busy_fs()
        return found

    def refresh_fs(self, part: DramPart) -> float:
        """Return the mean time in femtoseconds for which a bank was being refreshed."""
        each = part.timing.nRFC if self.control[at.P_REFRESH] == at.ALL_BANK else (part.timing.nRFCpb or 0) / part.banks
        each /= part.pseudo_channels if self.control[at.P_REFRESH] == at.ALL_BANK else 1
        return float(self.state[:, at.CH_REFRESHES].mean() * each * ticks_a_cycle(part) * self.tick_fs)

    @property
    def tick_fs(self) -> int:
        """A tick in femtoseconds."""
        return int(self.params[P_TICK_FS])

    @property
    def series_bin_fs(self) -> int:
        """Width of one bin of `series` in femtoseconds."""
        return FIRST_BIN_FS << int(self.counters[C_SERIES_MERGED])


def make_memory(
    chip: Chip, ideal_latency_fs: int = 0, regions: Array | None = None, kept_commands: int = 0
) -> MemoryState:
    """Return the idle memory of a chip; raises ConfigError when its organisation cannot be mapped.

    `ideal_latency_fs` is added by `model: ideal` to every request; the port's own latencies are the engine's. `regions`
    are the first bytes, ascending, of the parts of the address space that row conflicts are counted by. Of each channel
    the first `kept_commands` commands are kept.
    """
    memory = chip.memory
    part, options = memory.dram, memory.controller
    where = make_map(part, memory.channels, memory.interleave_bytes, options)
    if options.opened_leave_queue or not options.trains:
        where[[M_TURN_BITS, M_CHUNK_BITS, M_RUN_BITS]] = 0  # every burst is an entry of its own
    channels = make_channels(part, options, memory.channels, turn=1 << int(where[M_TURN_BITS]), kept=kept_commands)
    params = _params(chip, ideal_latency_fs)
    pieces = 1 << max(0, int(where[M_UNIT_BITS] - where[M_RUN_BITS]))
    most = MAX_REQUEST_BYTES >> int(where[M_BURST_BITS] + where[M_RUN_BITS])  # of what one request can want
    params[P_PIECES] = min(pieces, most + 1)
    if where[M_CHUNK_BITS]:
        params[P_PIECES] += 2 << int(where[M_TURN_BITS])  # chunks before and after the whole rounds
    starts = np.zeros(1, np.int64) if regions is None or not len(regions) else np.asarray(regions, np.int64)
    params[P_REGIONS] = len(starts)
    counters = np.zeros(C_COUNT, np.int64)
    asked, runs = np.zeros((ASKED_ROWS, A_WORDS), np.int64), np.zeros((RUN_ROWS, at.E_WORDS), np.int64)
    _chain(asked, 1, A_NEXT, 0)
    _chain(runs, 1, at.E_NEXT, 0)
    asked[0, :A_WORDS] = 0
    asked[0, [A_FREE, A_RUN_FREE, A_RUNS_LEFT, A_LEFT_FREE]] = 1, 1, RUN_ROWS - 1, ASKED_ROWS - 1
    asked[0, A_NEXT_FS] = 1 << 62
    state = channels.state
    if memory.model == "ideal":
        state[:, [BUS_FREE_FS, BUS_FREE_NUM]] = 0
    return MemoryState(
        params, channels.params, channels.rules, channels.nodes, where, state, runs, asked, counters,
        np.zeros((2, SERIES_BINS), np.int64), np.column_stack([starts, np.zeros((len(starts), 3), np.int64)]),
    )  # fmt: skip


def _chain(table: Array, first: int, word: int, end: int) -> None:
    """Link the rows from `first` on into a list of free rows that goes on at row `end` (0: nowhere)."""
    table[first:-1, word] = np.arange(first + 1, len(table))
    table[-1, word] = end


def _params(chip: Chip, ideal_latency_fs: int) -> Array:
    memory = chip.memory
    scale, timing = ticks_a_cycle(memory.dram), memory.dram.timing
    params = np.zeros(P_COUNT, np.int64)
    params[P_IDEAL] = memory.model == "ideal"
    params[P_CAPACITY] = memory.capacity_bytes
    params[P_TICK_FS] = round(memory.dram.tck_ps * 1000 / scale)
    params[P_POSTED] = memory.controller.posted_writes
    params[P_MISS] = timing.nRCDRD * scale
    params[P_CONFLICT] = (timing.nRP + timing.nRCDRD) * scale
    per_byte = ideal_fs_per_byte(chip)
    params[P_IDEAL_FS], rest = divmod(per_byte.numerator, per_byte.denominator)
    params[P_IDEAL_NUM], params[P_IDEAL_DEN] = rest, per_byte.denominator
    params[P_IDEAL_LATENCY_FS] = ideal_latency_fs
    return params


def ideal_fs_per_byte(chip: Chip) -> Fraction:
    """Return the femtoseconds that one byte takes on the ideal model's bus, as an exact quotient."""
    memory, dram = chip.memory, chip.memory.dram
    if memory.ideal_bytes_per_cycle is not None:
        bytes_per_cycle = Fraction(str(memory.ideal_bytes_per_cycle))
        per_byte = Fraction(10**12, round(chip.clock_mhz * 1000)) / bytes_per_cycle
    else:
        bits = memory.channels * dram.pseudo_channels * dram.bus_bits * dram.data_rate
        per_byte = Fraction(round(dram.tck_ps * 1000) * 8, bits)
    return per_byte.limit_denominator(1 << 40)  # exact for every sensible figure; bounds the kernel's products
