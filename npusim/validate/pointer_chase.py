"""Kind `pointer_chase`: cycles of one dependent load by buffer size, as gpu-benches' gpu-latency measures them.

One block of 64 threads follows a random cycle through all elements of the buffer, 64 bytes apart. The caches are
filled by the elements of the cycle that come before the part that is timed.
"""

from __future__ import annotations

from isa.chip import MemoryChip
from npusim.memory.generator import patterns
from npusim.memory.generator.layout import K_CHASES
from npusim.memory.generator.patterns import CHASE_BYTES
from npusim.validate.bench import Bench
from npusim.validate.memory_run import chip_of, settle, start_after, steady
from npusim.validate.summary import Outcome
from npusim.validate.table import Column, Row, TableError

NEEDS_HW = True
COLUMNS = (
    Column("device", required=False),
    Column("clock_mhz", required=False),
    Column("buffer_kib"),
    Column("latency_cycles", required=False),
    Column("latency_ns", required=False),
)
SEED = 1
STEPS = 2000  # timed
CYCLES = (1_000, 1 << 40)  # of the steady part


def name_of(row: Row) -> str:
    """The row in words."""
    return f"chase through {row.text('buffer_kib')} KiB"


def measured_cycles(row: Row, chip: MemoryChip) -> float:
    """The latency of a row in core cycles, from either column."""
    if row.text("latency_cycles"):
        return row.positive("latency_cycles")
    if not row.text("latency_ns"):
        raise TableError("a row needs latency_cycles or latency_ns; both are empty or missing")
    return row.positive("latency_ns") * chip.clock_mhz / 1000


def most_elements(chip: MemoryChip) -> int:
    """Elements that are enough to fill every cache twice: of a larger buffer no more are looked at."""
    memory, l1 = chip.memory, chip.core.l1
    caches = (memory.l2.size_bytes * memory.l2.slices if memory.l2 else 0) + (l1.size_bytes if l1 else 0)
    return max(1 << 16, 4 * caches // CHASE_BYTES)


def measure(row: Row, bench: Bench) -> Outcome:
    """Simulate the chase of a row."""
    chip = chip_of(row, bench)
    size = row.integer("buffer_kib") << 10
    if size > chip.memory.capacity_bytes:
        raise TableError(f"column buffer_kib: {size} bytes are more than the chip's {chip.memory.capacity_bytes}")
    measured = measured_cycles(row, chip)
    assert chip.core.warps is not None  # chip_of has looked
    pattern = patterns.chase(size, chip.core.warps.size, SEED, most_elements(chip))
    run = start_after(chip, patterns.gather(pattern.chain), pattern)
    fetched = STEPS * pattern.warps_per_block
    settle(run, lambda counters: True, CYCLES)
    chases, cycles = steady(run, K_CHASES, least=fetched, cycles=CYCLES)
    simulated = cycles / (chases / pattern.warps_per_block)
    ns = measured * 1000 / chip.clock_mhz
    return Outcome(measured, simulated, "cycles", ns / 1000, roofline=32 / _bytes_per_cycle(chip))


def _bytes_per_cycle(chip: MemoryChip) -> float:
    return chip.dram_bytes_per_second / (chip.clock_mhz * 1e6)
