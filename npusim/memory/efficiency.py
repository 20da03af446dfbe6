"""What share of its peak a memory reaches on a pattern, read off the cycle level: no figure is typed in here."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
import numpy.typing as npt

from isa.memory import Memory
from npusim.memory.state import Chip

Array = npt.NDArray[Any]
BYTES_A_CHANNEL = 1 << 17  # enough for a few refreshes, and for every bank many times
MAX_REQUESTS = 1 << 15
STEPS = 8  # of the share of reads


@dataclass(frozen=True)
class Pattern:
    """Requests at the memory's peak rate: `kind` is stream, strided or random; `stride_bytes` between requests.

    `read_share` of the requests read; reads and writes each go through a half of the memory.
    """

    kind: str = "stream"
    request_bytes: int = 512
    read_share: float = 1.0
    stride_bytes: int = 0


@dataclass(frozen=True)
class _Bare:
    """A memory as a chip of its own."""

    memory: Memory
    clock_mhz: float


def efficiency(chip: Chip, pattern: Pattern) -> float:
    """Return the share of the chip's DRAM peak that the pattern reaches; 1 for the ideal model."""
    if chip.memory.model == "ideal":
        return 1.0
    steps = round(pattern.read_share * STEPS) / STEPS
    plain = Pattern(pattern.kind, pattern.request_bytes, steps, pattern.stride_bytes)
    return _measured(chip.memory.model_dump_json(), chip.clock_mhz, plain)


@lru_cache(maxsize=1024)
def _measured(memory_json: str, clock_mhz: float, pattern: Pattern) -> float:
    return float(measure(_Bare(Memory.model_validate_json(memory_json), clock_mhz), pattern)["efficiency"])


def measure(chip: Chip, pattern: Pattern) -> dict[str, Any]:
    """Run a pattern; return `efficiency`, `row_hit_rate`, `latency_ns` (mean) and the counters of the run."""
    from npusim.memory.dram import advance, memory_flush
    from npusim.memory.port import (
        REQ_ADDRESS,
        REQ_BYTES,
        REQ_TAG,
        REQ_TIME_FS,
        REQ_WRITE,
        RING_TAIL,
        RSP_TIME_FS,
        make_port,
    )
    from npusim.memory.state import make_memory

    memory = chip.memory
    peak = memory.channels * memory.dram.channel_bytes_per_second
    count = min(MAX_REQUESTS, max(256, memory.channels * BYTES_A_CHANNEL // pattern.request_bytes))
    state, port = make_memory(chip), make_port(count, count)
    address, write = _requests(memory, pattern, count)
    rows = port.requests
    rows[:, REQ_TIME_FS] = (np.arange(count) * (pattern.request_bytes / peak * 1e15)).astype(np.int64)
    rows[:, REQ_ADDRESS], rows[:, REQ_BYTES], rows[:, REQ_WRITE] = address, pattern.request_bytes, write
    rows[:, REQ_TAG] = np.arange(count)
    port.ring[RING_TAIL] = count
    advance(state, port, 1 << 60)
    flushed = memory_flush(*state.arrays, port.responses, port.heap_state)  # type: ignore[call-arg]
    end_fs = max(int(port.responses[:count, RSP_TIME_FS].max()), flushed)
    found = state.summary()
    runs = max(1, found["row_hits"] + found["row_misses"] + found["row_conflicts"])
    return {
        **found, "efficiency": count * pattern.request_bytes / (end_fs * 1e-15) / peak,
        "row_hit_rate": found["row_hits"] / runs, "latency_ns": found["latency_fs"] / count * 1e-6,
    }  # fmt: skip


def _requests(memory: Memory, pattern: Pattern, count: int) -> tuple[Array, Array]:
    """Addresses and directions; reads and writes are spread evenly, each in its own half of the memory."""
    index = np.arange(count, dtype=np.int64)
    write = (np.floor((index + 1) * (1 - pattern.read_share)) > np.floor(index * (1 - pattern.read_share))).astype(int)
    place = np.where(write == 1, np.cumsum(write) - 1, np.cumsum(1 - write) - 1)
    half = memory.capacity_bytes // 2 // pattern.request_bytes
    if pattern.kind == "random":
        place = np.random.default_rng(1).integers(0, half, count)
    step = pattern.request_bytes if pattern.kind != "strided" else pattern.stride_bytes
    offset = place * step % (half * pattern.request_bytes)
    return offset + write * half * pattern.request_bytes, write.astype(np.int64)
