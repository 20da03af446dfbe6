"""Kind `stream`: bandwidth of streaming kernels by occupancy, as gpu-benches' gpu-stream measures it.

Every thread handles one element of arrays of 1 GiB; two blocks are resident on a core. A steady part of the run is
simulated: what is left out are the first blocks.
"""

from __future__ import annotations

from typing import Any

import numpy.typing as npt

from isa.chip import MemoryChip
from npusim.memory.generator import patterns
from npusim.memory.generator.layout import K_WARPS
from npusim.validate.bench import Bench
from npusim.validate.memory_run import cache_bytes, chip_of, giga_bytes_per_second, moved, settle, start, steady
from npusim.validate.summary import Outcome
from npusim.validate.table import Column, Row, TableError

Array = npt.NDArray[Any]
NEEDS_HW = True
COLUMNS = (
    Column("device", required=False),
    Column("kernel"),
    Column("block_size"),
    Column("total_threads", required=False),
    Column("occupancy_pct"),
    Column("gb_per_s"),
)
COUNTED = {"init": 1, "read": 1, "scale": 2, "triad": 3, "3pt": 2, "5pt": 2}  # arrays whose bytes the benchmark counts
MAX_BLOCK = 1024
CYCLES = (12_000, 60_000)  # of the steady part
BYTES = 24 << 20  # moved in the steady part, unless that takes too long: more than channels are uneven over
FILLED = 200  # per cent of the shared cache that the stream has moved before


def name_of(row: Row) -> str:
    """The row in words."""
    return f"{row.text('kernel')} blocks of {row.text('block_size')} at {row.text('occupancy_pct')} %"


def blocks_of(row: Row, chip: MemoryChip, block: int) -> int:
    """Blocks resident on a core, from the occupancy in per cent of the threads that it has room for."""
    assert chip.core.warps is not None  # chip_of has looked
    room = chip.core.warps.resident * chip.core.warps.size
    blocks = round(row.positive("occupancy_pct") / 100 * room / block)
    if blocks < 1:
        raise TableError(
            f"column occupancy_pct: {row.text('occupancy_pct')} % of {room} threads is less than half a block of "
            f"{block}: give a smaller block_size"
        )
    return blocks


def measure(row: Row, bench: Bench) -> Outcome:
    """Simulate the kernel of a row."""
    kernel, block = row.text("kernel").lower(), row.integer("block_size")
    if kernel not in COUNTED:
        raise TableError(f"column kernel: {kernel!r} is not one of {', '.join(COUNTED)}")
    if block > MAX_BLOCK:
        raise TableError(f"column block_size: {block} is more than {MAX_BLOCK}")
    measured, chip = row.positive("gb_per_s"), chip_of(row, bench)
    assert chip.core.warps is not None  # chip_of has looked
    pattern = patterns.stream(kernel, block, blocks_of(row, chip, block), chip.core.warps.size)
    run = start(chip, pattern)
    of_warp = 8 * block // pattern.warps_per_block * COUNTED[kernel]
    # Steady: every block of the start has been replaced, and the shared cache holds nothing but this stream.
    resident = pattern.warps_per_block * pattern.blocks_per_core * chip.cores
    filled = cache_bytes(chip) * FILLED // 100

    def warm(counters: Array) -> bool:
        return bool(counters[K_WARPS] >= 2 * resident and moved(counters) >= filled)

    settle(run, warm, CYCLES)
    warps, cycles = steady(run, K_WARPS, least=BYTES // of_warp, cycles=CYCLES)
    simulated = giga_bytes_per_second(warps * of_warp, cycles, chip)
    return Outcome(measured, simulated, "GB/s", roofline=chip.dram_bytes_per_second / 1e9)
