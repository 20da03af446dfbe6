"""Kind `cache_bandwidth`: bytes that reach the cores a second by data set, as gpu-benches measures them.

`private_l1` (gpu-cache): a block of 256 threads a core, and all blocks read the same data over and over, from the
start in step. The kernel ends with its slowest core, so the rate is that of the slowest times all cores. Where data
are a little larger than an L1, which may keep some, the whole kernel is simulated, in fewer sweeps.

`shared_l2` (gpu-l2-cache): blocks of 1024 threads read `kb_per_block` each, out of a data set that they share. So many
blocks run one after the other that cores are no longer in step: blocks, given out in order, start evenly spread. The
bytes of a block a core pass before the steady part, and more in it.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt

from isa.chip import REQUEST_LIMIT, Copier, MemoryChip
from npusim.memory.generator import patterns
from npusim.memory.generator.layout import K_BLOCKS, K_LOAD_BYTES, P_BLOCK_LIMIT, W_LOOPS, W_REP
from npusim.memory.generator.patterns import ROW_BYTES, ROW_COUNT, Pattern
from npusim.memory.generator.run import Run
from npusim.memory.generator.setup import Copy
from npusim.validate.bench import Bench
from npusim.validate.memory_run import cache_bytes, chip_of, giga_bytes_per_second, settle, start_after, steady
from npusim.validate.summary import Outcome
from npusim.validate.table import Column, Row, TableError

Array = npt.NDArray[Any]
NEEDS_HW = True
COLUMNS = (
    Column("device", required=False),
    Column("test"),
    Column("kb_per_block", required=False),
    Column("data_set_kb"),
    Column("effective_gb_per_s"),
)
TESTS = ("private_l1", "shared_l2")
# Bytes of a thread's load (`dtype` of the two programs): double on NVIDIA, whose smallest data set, one load of 256
# threads, is 2 KiB in the tables; gpu-cache has had float since. AMD: float4.
ELEMENT = {32: {"private_l1": 8, "shared_l2": 8}, 64: {"private_l1": 16, "shared_l2": 16}}
CYCLES = (8_000, 40_000)  # of the steady part
BLOCK_CYCLES = 200_000  # of it, at most, where whole blocks pass
LEAST_BYTES = 24 << 20
KEPT = 2  # L1s: of a larger data set nothing is kept
SWEEPS = 24  # of a whole kernel, the first not timed
WHOLE_STEP = 250  # cycles
FILLER = Copier(request_bytes=REQUEST_LIMIT, outstanding=64, bytes_per_cycle=1024, direction="read")


def name_of(row: Row) -> str:
    """The row in words."""
    return f"{row.text('test')} {row.text('data_set_kb')} KiB"


def pattern_of(row: Row, chip: MemoryChip) -> Pattern:
    """What the threads of a row's test read."""
    test, size = row.text("test"), row.integer("data_set_kb") << 10
    if test not in TESTS:
        raise TableError(f"column test: {test!r} is not one of {', '.join(TESTS)}")
    if size > chip.memory.capacity_bytes:
        raise TableError(f"column data_set_kb: {size} bytes are more than the chip's {chip.memory.capacity_bytes}")
    warps = chip.core.warps
    assert warps is not None  # chip_of has looked
    element = ELEMENT.get(warps.size, ELEMENT[32])[test]
    if test == "private_l1":
        return patterns.private_reads(size, element, warps.size, sweeps=SWEEPS if in_part(size, chip) else 0)
    block = row.integer("kb_per_block") << 10
    return patterns.shared_reads(block, size, element, warps.size, warps.resident)


def in_part(size: int, chip: MemoryChip) -> bool:
    """Whether an L1 is too small for the data, but may keep some."""
    l1 = chip.core.l1
    return l1 is not None and l1.size_bytes < size < KEPT * l1.size_bytes


def roof(size: int, chip: MemoryChip, test: str) -> float:
    """Bytes a cycle of the nearest level that holds the data: the plain roofline."""
    l1, l2, unit = chip.core.l1, chip.memory.l2, chip.core.load_store
    assert unit is not None  # chip_of has looked
    if test == "private_l1" and l1 is not None and size <= l1.size_bytes:
        return float(unit.bytes_per_cycle * chip.cores)
    if l2 is not None and size <= l2.size_bytes * l2.slices:
        return float(min(l2.slices * l2.bytes_per_cycle, unit.port_bytes_per_cycle * chip.cores))
    return chip.dram_bytes_per_second / (chip.clock_mhz * 1e6)


def filled(chip: MemoryChip, size: int, pattern: Pattern) -> Run:
    """A generator of `pattern`, once every partition of the shared cache has read the last data that it can hold."""
    l2 = chip.memory.l2
    partitions = [0] if l2 is None else [l2.partition_of(core, chip.cores) for core in range(chip.cores)]
    swept = min(size, cache_bytes(chip) * 5 // 4)
    copies = [Copy(partitions.index(p), FILLER, size - swept, swept) for p in sorted(set(partitions))]
    return start_after(chip, copies, pattern)


def warmed(size: int, chip: MemoryChip, pattern: Pattern) -> Callable[[Array], bool]:
    """The L1 of every core has seen the data once, or as much as it holds; the first blocks are over."""
    l1 = chip.core.l1
    once = min(size, l1.size_bytes if l1 is not None else 0) * (pattern.cores or chip.cores)
    return lambda counters: bool(counters[K_LOAD_BYTES] >= 2 * once)


def whole(run: Run, once_bytes: int, blocks: int) -> tuple[int, int]:
    """Run so many blocks to their end; returns bytes and cycles after the first `once_bytes`, which find empty L1s."""
    run.state.params[P_BLOCK_LIMIT] = blocks
    counters = run.advance(WHOLE_STEP)
    while counters[K_LOAD_BYTES] < once_bytes:
        counters = run.advance(WHOLE_STEP)
    first, before = run.cycle, counters[K_LOAD_BYTES]
    while counters[K_BLOCKS] < blocks:
        counters = run.advance(WHOLE_STEP)
    return int(counters[K_LOAD_BYTES] - before), run.cycle - first


def loads_of(run: Run) -> Array:
    """Bytes that each core has asked for, of a pattern that loads in its first row alone, for ever."""
    (count, size), warps = run.state.program[0, [ROW_COUNT, ROW_BYTES]], run.state.warps
    loads = warps[:, W_LOOPS] * count + warps[:, W_REP]
    return np.asarray(loads.reshape(len(run.state.cores), -1).sum(axis=1) * size)


def measure(row: Row, bench: Bench) -> Outcome:
    """Simulate the reads of a row."""
    chip = chip_of(row, bench)
    measured, pattern = row.positive("effective_gb_per_s"), pattern_of(row, chip)
    size = row.integer("data_set_kb") << 10
    run, private = filled(chip, size, pattern), row.text("test") == "private_l1"
    if private and in_part(size, chip):
        loaded, cycles = whole(run, size * chip.cores, chip.cores)
    elif private:
        settle(run, warmed(size, chip, pattern), CYCLES)
        before = loads_of(run)
        _, cycles = steady(run, K_LOAD_BYTES, least=LEAST_BYTES, cycles=CYCLES)
        loaded = int((loads_of(run) - before).min()) * chip.cores
    else:
        blocks = (row.integer("kb_per_block") << 10) * pattern.blocks_per_core * chip.cores
        settle(run, lambda counters: bool(counters[K_LOAD_BYTES] >= blocks), CYCLES)
        loaded, cycles = steady(run, K_LOAD_BYTES, least=blocks, cycles=(CYCLES[0], BLOCK_CYCLES))
    simulated = giga_bytes_per_second(loaded, cycles, chip)
    peak = giga_bytes_per_second(int(1000 * roof(size, chip, row.text("test"))), 1000, chip)
    return Outcome(measured, simulated, "GB/s", roofline=peak)
