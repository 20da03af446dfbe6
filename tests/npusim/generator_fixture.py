"""A small chip for the tests of the request generator, whose figures can be counted by hand."""

from __future__ import annotations

import functools

from isa.chip import MemoryChip
from isa.loader import load_chip

HIT_CYCLES, WAY, BACK, BLOCK_CYCLES = 20, 15, 10, 50


@functools.cache
def chip(*changes: str) -> MemoryChip:
    """Two cores of four warps at 1 GHz in front of an ideal memory of 1024 bytes a cycle."""
    fields = (
        "clock_mhz=1000", "cores=2", "core.warps.resident=8", "core.warps.blocks=4", "core.warps.warp_cycles=0",
        f"core.warps.block_cycles={BLOCK_CYCLES}", "core.l1.size_bytes=8192", "core.l1.ways=4", "core.l1.mshrs=64",
        f"core.l1.hit_latency_cycles={HIT_CYCLES}", "memory.model=ideal", "memory.l2=null",
        "memory.ideal_bytes_per_cycle=1024",
        f"memory.request_latency_cycles={WAY}", f"memory.response_latency_cycles={BACK}",
    )  # fmt: skip
    found = load_chip("v100", (*fields, *changes)).chip
    assert isinstance(found, MemoryChip)
    return found
