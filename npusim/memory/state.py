"""The memory's arrays: where every parameter, state word and counter lies, and how a Machine fills them.

Times inside the arrays are ticks of the DRAM command clock, whose period is a whole number of femtoseconds.
"""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction
from typing import Any

import numpy as np
import numpy.typing as npt

from isa.errors import ConfigError
from isa.machine import Machine
from isa.memory import DramPart

Array = npt.NDArray[Any]

# Parameters (int64). Timing in ticks, JEDEC names; sums that every command needs are formed once.
# fmt: off
(P_IDEAL, P_CAPACITY, P_TCK_FS, P_CHANNELS, P_ROTATE, P_GROUPS, P_BANKS,
 # log2 of: bytes a burst; bursts an interleave unit; bursts a row of all bank groups; banks a group
 P_BURST_BITS, P_UNIT_BITS, P_SPAN_BITS, P_BANK_BITS,
 P_CL, P_CWL, P_BL, P_RCDRD, P_RCDWR, P_RP, P_RAS, P_RC, P_RTP, P_CCD_S, P_CCD_L, P_RRD_S, P_RRD_L, P_FAW,
 P_RTW,     # read command to write command: CL + BL + 2 - CWL (JESD79-4, two ticks of bus turn-around)
 P_WTR_S, P_WTR_L,  # write command to read command, other / same bank group: CWL + BL + WTR
 P_WTP,     # write command to precharge: CWL + BL + WR
 P_RFC, P_REFI,
 P_STEADY,  # 1 when row hits of one run follow each other every CCD_S without exception
 P_IDEAL_FS, P_IDEAL_NUM, P_IDEAL_DEN,  # ideal: fs a byte = FS + NUM / DEN
 P_IDEAL_LATENCY_FS,
 P_QUEUE_RUNS, P_QUEUE_HIGH, P_QUEUE_LOW,  # places of a channel's write queue, and its watermarks
 P_WRITE_ROOM,  # a queued run takes at most this much and a CCD_L a burst, until a read may follow
 P_READ_RUNS,  # runs of a channel among which reads are chosen
 P_COUNT) = range(42)

# Bank state, int64 [channels, groups * banks, 3]; bank b of group g is row g * banks + b.
B_ROW, B_ACT_READY, B_PRE_READY, B_COUNT = range(4)  # open row or -1; earliest next ACT; earliest PRE

# Channel state, int64 [channels, CH_COUNT + groups * G_COUNT + places * Q_WORDS].
(CH_LAST_COLUMN, CH_LAST_READ, CH_LAST_WRITE, CH_LAST_ACT, CH_NEXT_REFRESH, CH_REFRESH_DONE, CH_BUSY,
 CH_HEAD, CH_PENDING,  # write queue, a ring: its oldest place, places taken
 CH_READ_FIRST, CH_READ_LAST, CH_READ_PASSED,  # read queue: rows of `reads` or -1; runs that went past the first one
 CH_FAW_SLOT, CH_FAW) = range(14)  # CH_FAW: times of the last four ACTs, four words
CH_COUNT = CH_FAW + 4
G_LAST_COLUMN, G_LAST_WRITE, G_LAST_ACT, G_COUNT = range(4)
# A place of the write queue. Q_TICK: when its run was accepted; once that is written, when the place fell free.
Q_TICK, Q_COLUMN, Q_BURSTS, Q_BANK, Q_ROW, Q_BYTES, Q_WORDS = range(7)

# `reads`, int64 [rows, R_WORDS]. Row 0: the first free row or -1, runs and requests in the table, and the time of the
# next decision. Others are a run that waits, a request, or free (R_NEXT: the next free row).
R_FREE, R_RUNS, R_REQUESTS, R_NEXT_FS = range(4)
R_NEXT, R_ARRIVAL, R_COLUMN, R_BURSTS, R_BANK, R_ROW, R_OWN, R_REQUEST, R_WORDS = range(9)
R_TIME_FS, R_TAG, R_LEFT, R_FINISH, R_UNLOADED, R_SIZE = range(1, 7)
READ_ROWS = 1 << 15

CH_FREE_FS, CH_FREE_NUM = 0, 1  # ideal model: the bus is free at FS + NUM / DEN (channel 0's row)

# Counters (int64).
(C_READS, C_WRITES, C_READ_BYTES, C_WRITE_BYTES, C_READ_BURSTS, C_WRITE_BURSTS, C_HITS, C_MISSES, C_CONFLICTS,
 C_REFRESHES, C_WAIT_FS, C_LATENCY_FS, C_SERIES_BIN_FS, C_COUNT) = range(14)
# fmt: on
_COUNTER_NAMES = (
    "reads", "writes", "read_bytes", "write_bytes", "read_bursts", "write_bursts", "row_hits", "row_misses",
    "row_conflicts", "refreshes", "wait_fs", "latency_fs",
)  # fmt: skip

SERIES_BINS = 512
FIRST_BIN_FS = 1_000_000  # 1 ns; doubles as the run grows
MAX_REQUEST_BYTES = 1 << 20  # keeps every product of the ideal model inside int64
_LONG_AGO = -(1 << 40)  # "never happened" for last-command times, in ticks


@dataclass
class MemoryState:
    """One chip's DRAM: `params`, `bank_state`, `channel_state`, `counters`, `series` [2, bins] bytes and `reads`.

    All int64 and C-contiguous, in the order of the first arguments of `memory_advance`.
    """

    params: Array
    bank_state: Array
    channel_state: Array
    counters: Array
    series: Array
    reads: Array

    def summary(self) -> dict[str, int]:
        """Return the counters by name; `activations` and `busy_fs` (data bus, all channels) are derived."""
        found = {name: int(self.counters[i]) for i, name in enumerate(_COUNTER_NAMES)}
        found["activations"] = found["row_misses"] + found["row_conflicts"]
        found["busy_fs"] = int(self.channel_busy_fs().sum())
        return found

    def channel_busy_fs(self) -> Array:
        """Return the femtoseconds in which each channel's data bus carried data; zeros for the ideal model."""
        return np.asarray(self.channel_state[:, CH_BUSY] * (0 if self.params[P_IDEAL] else self.params[P_TCK_FS]))

    @property
    def series_bin_fs(self) -> int:
        """Width of one bin of `series` in femtoseconds."""
        return int(self.counters[C_SERIES_BIN_FS])


def make_memory(machine: Machine, rotate_channels: bool = False, ideal_latency_fs: int = 0) -> MemoryState:
    """Return the idle memory of `machine`; raises ConfigError when its organisation cannot be mapped.

    `rotate_channels` shifts the channel of every round of units, so that power-of-two pitches spread.
    `ideal_latency_fs` is added by `model: ideal` to every request; the port's own latencies are the engine's.
    """
    memory, dram = machine.memory, machine.memory.dram
    ideal = memory.model == "ideal"
    _check(memory.interleave_bytes, dram)
    params = np.zeros(P_COUNT, np.int64)
    params[P_IDEAL] = ideal
    params[P_CAPACITY] = memory.capacity_bytes
    params[P_CHANNELS] = memory.channels
    params[P_ROTATE] = max(1, (memory.channels - 1).bit_length()) if rotate_channels else 0
    params[P_UNIT_BITS] = _log2(memory.interleave_bytes // dram.burst_bytes)
    runs = memory.write_queue_runs
    params[P_QUEUE_RUNS], params[P_QUEUE_HIGH], params[P_QUEUE_LOW] = runs, max(1, runs * 4 // 5), runs // 5
    params[P_READ_RUNS] = memory.read_queue_runs
    _fill_part(params, dram)
    per_byte = ideal_fs_per_byte(machine)
    params[P_IDEAL_FS], rest = divmod(per_byte.numerator, per_byte.denominator)
    params[P_IDEAL_NUM], params[P_IDEAL_DEN] = rest, per_byte.denominator
    params[P_IDEAL_LATENCY_FS] = ideal_latency_fs

    banks = np.zeros((memory.channels, dram.bank_groups * dram.banks_per_group, B_COUNT), np.int64)
    banks[:, :, B_ROW] = -1
    words = CH_COUNT + dram.bank_groups * G_COUNT + memory.write_queue_runs * Q_WORDS
    channels = np.full((memory.channels, words), 0 if ideal else _LONG_AGO, np.int64)
    channels[:, [CH_BUSY, CH_FAW_SLOT, CH_REFRESH_DONE, CH_HEAD, CH_PENDING, CH_READ_PASSED]] = 0
    channels[:, [CH_READ_FIRST, CH_READ_LAST]] = -1
    channels[:, CH_NEXT_REFRESH] = dram.timing.nREFI
    counters = np.zeros(C_COUNT, np.int64)
    counters[C_SERIES_BIN_FS] = FIRST_BIN_FS
    return MemoryState(params, banks, channels, counters, np.zeros((2, SERIES_BINS), np.int64), _empty_reads())


def _empty_reads() -> Array:
    """A table of reads in which every row but the first is free."""
    reads = np.zeros((READ_ROWS, R_WORDS), np.int64)
    reads[1:, R_NEXT] = np.arange(2, READ_ROWS + 1)
    reads[-1, R_NEXT] = -1
    reads[0, [R_FREE, R_NEXT_FS]] = 1, 1 << 62
    return reads


def ideal_fs_per_byte(machine: Machine) -> Fraction:
    """Return the femtoseconds that one byte takes on the ideal model's bus, as an exact quotient."""
    memory, dram = machine.memory, machine.memory.dram
    if memory.ideal_bytes_per_cycle is not None:
        bytes_per_cycle = Fraction(str(memory.ideal_bytes_per_cycle))
        per_byte = Fraction(10**12, round(machine.clock_mhz * 1000)) / bytes_per_cycle
    else:
        per_byte = Fraction(round(dram.tck_ps * 1000) * 8, memory.channels * dram.bus_bits * dram.data_rate)
    return per_byte.limit_denominator(1 << 40)  # exact for every sensible figure; bounds the kernel's products


def _log2(value: int) -> int:
    return value.bit_length() - 1


def _check(interleave_bytes: int, dram: DramPart) -> None:
    """Address fields are cut out by shifts, as in every real part: all of their sizes are powers of two."""
    timing, burst = dram.timing, dram.burst_bytes
    sizes = {
        "bus_bits x burst_length / 8, the burst,": burst, "bank_groups": dram.bank_groups,
        "banks_per_group": dram.banks_per_group, "page_bytes": dram.page_bytes, "interleave_bytes": interleave_bytes,
    }  # fmt: skip
    for name, value in sizes.items():
        if value <= 0 or value & (value - 1):
            raise ConfigError(f"memory: {name} is {value}; it must be a power of two")
    for name in ("page_bytes", "interleave_bytes"):
        if sizes[name] < burst:
            raise ConfigError(f"memory: {name} {sizes[name]} must hold at least one burst, {burst} bytes")
    least = timing.nRFC + timing.nRP
    if timing.nREFI <= least:
        raise ConfigError(f"memory.dram.timing.nREFI {timing.nREFI} must be above nRFC + nRP = {least}: raise it")


def _fill_part(params: Array, dram: DramPart) -> None:
    t = dram.timing
    burst_ticks = -(-dram.burst_length // dram.data_rate)
    ccd_s = max(t.nCCD_S, burst_ticks)  # the data bus cannot take bursts faster than it carries them
    ccd_l = max(t.nCCD_L, ccd_s)
    if dram.bank_groups == 1:
        ccd_s = ccd_l
    params[P_TCK_FS] = round(dram.tck_ps * 1000)
    params[P_GROUPS], params[P_BANKS] = dram.bank_groups, dram.banks_per_group
    params[P_BURST_BITS], params[P_BANK_BITS] = _log2(dram.burst_bytes), _log2(dram.banks_per_group)
    params[P_SPAN_BITS] = _log2(dram.bank_groups * dram.page_bytes // dram.burst_bytes)
    params[P_CL], params[P_CWL], params[P_BL] = t.nCL, t.nCWL, burst_ticks
    params[P_RCDRD], params[P_RCDWR], params[P_RP] = t.nRCDRD, t.nRCDWR, t.nRP
    params[P_RAS], params[P_RC], params[P_RTP] = t.nRAS, t.nRC, t.nRTP
    params[P_CCD_S], params[P_CCD_L] = ccd_s, ccd_l
    params[P_RRD_S], params[P_RRD_L], params[P_FAW] = t.nRRD_S, max(t.nRRD_L, t.nRRD_S), t.nFAW
    params[P_RTW] = max(t.nCL + burst_ticks + 2 - t.nCWL, ccd_s)
    params[P_WTR_S] = t.nCWL + burst_ticks + t.nWTR_S
    params[P_WTR_L] = t.nCWL + burst_ticks + max(t.nWTR_L, t.nWTR_S)
    params[P_WTP] = t.nCWL + burst_ticks + t.nWR
    params[P_RFC], params[P_REFI] = t.nRFC, t.nREFI
    # Worst case: precharge, a full set of activations within FAW, turn to write, and the turn back to read.
    row = max(t.nRC, max(params[P_WTP], t.nRAS, t.nRTP) + t.nRP) + t.nRCDWR + dram.bank_groups * params[P_RRD_L]
    window = (1 + dram.bank_groups // 4) * t.nFAW
    params[P_WRITE_ROOM] = row + window + params[P_RTW] + params[P_WTR_L]
    # Bursts of a run rotate through the bank groups: the same group comes round after groups * CCD_S.
    params[P_STEADY] = dram.bank_groups * ccd_s >= ccd_l
