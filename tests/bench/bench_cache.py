"""CPU time of a hit and of a miss of the shared cache, 128 bytes each, and of the bare kernels of a cache.

python tests/bench/bench_cache.py [chip ...] [key=value ...]
"""

from __future__ import annotations

import sys
import time
from typing import Any

import numpy as np
import numpy.typing as npt

from isa.chip import MemoryChip
from isa.loader import load_chip
from npusim.jit import kernel
from npusim.memory import dram, port
from npusim.memory.caches import lines
from npusim.memory.caches.state import make_caches
from npusim.memory.hierarchy import run
from npusim.memory.hierarchy.state import make_hierarchy
from npusim.memory.port import HEAP_SIZE, REQ_COLUMNS, MemoryPort, heap_pop, make_port, ring_push
from npusim.memory.state import make_memory

Array = npt.NDArray[Any]
LINES = 1 << 19
KERNELS = (  # label, ways, sets, lines that are used
    ("hit of 16 ways", 16, 512, 8000), ("miss of 16 ways", 16, 512, 1 << 30),
    ("hit of 1024 ways", 1024, 1, 1000), ("miss of 1024 ways", 1024, 1, 1 << 30),
)  # fmt: skip


@kernel
def send(requests: Array, ring: Array, rows: Array, first: int, last: int) -> None:
    """Put rows into the ring."""
    for i in range(first, last):
        row = rows[i]
        ring_push(requests, ring, row[0], row[1], row[2], row[3], row[4], row[5])


@kernel
def drop(responses: Array, heap: Array, until_fs: int) -> None:
    """Take the answers before a time."""
    while heap[HEAP_SIZE] > 0 and responses[0, 0] < until_fs:
        heap_pop(responses, heap)


@kernel
def touch(geometry: Array, tags: Array, marks: Array, links: Array, sets: Array, seeds: Array, trace: Array) -> int:
    """Accesses one after the other; how many missed."""
    missed = 0
    for i in range(trace.shape[0]):
        status, _, _, _, _ = lines.access(geometry, tags, marks, links, sets, seeds, 0, trace[i], 15, 0, 0)
        missed += status != lines.HIT
    return missed


def requests_of(chip: MemoryChip, addresses: Array, gap_fs: float, start_fs: int, write: int = 0) -> Array:
    """Requests of 128 bytes, one every `gap_fs`, from all cores in turn."""
    rows = np.zeros((len(addresses), REQ_COLUMNS), np.int64)
    order = np.arange(len(addresses))
    rows[:, port.REQ_TIME_FS] = start_fs + (order * gap_fs).astype(np.int64)
    rows[:, port.REQ_PORT], rows[:, port.REQ_ADDRESS] = order % chip.cores, addresses
    rows[:, port.REQ_BYTES], rows[:, port.REQ_WRITE], rows[:, port.REQ_TAG] = 128, write, order
    return rows


def drive(advance: Any, door: MemoryPort, rows: Array, window_fs: int) -> float:
    """Send rows window by window; returns the CPU seconds of the memory alone."""
    ends = np.arange(rows[0, 0] + window_fs, rows[-1, 0] + window_fs, window_fs)
    cuts = np.searchsorted(rows[:, 0], ends)
    first, seconds = 0, 0.0
    for end, last in zip([*ends.tolist(), int(rows[-1, 0]) + 10**10], [*cuts.tolist(), len(rows)]):
        send(door.requests, door.ring, rows, first, last)
        first = last
        begin = time.process_time()
        advance(end)
        seconds += time.process_time() - begin
        drop(door.responses, door.heap_state, end)
    assert door.heap_state[HEAP_SIZE] == 0 and door.ring[port.RING_HEAD] == door.ring[port.RING_TAIL]
    return seconds


def main(name: str, settings: tuple[str, ...]) -> None:
    """Print ns a request."""
    chip = load_chip(name, settings).chip
    assert isinstance(chip, MemoryChip) and chip.memory.l2 is not None
    l2, cycle_fs = chip.memory.l2, 1e9 / chip.clock_mhz
    window_fs = int(100 * cycle_fs)
    state, door = make_hierarchy(chip.memory, chip.cores, chip.clock_mhz), make_port(1 << 17, 1 << 17)

    def step(until_fs: int) -> None:
        assert run.advance(state, door, until_fs) == run.at.OK

    size = l2.size_bytes * l2.slices // 4 // max(1, l2.partitions)
    hot = np.arange(LINES) * 128 % size
    slice_gap = 128 / l2.bytes_per_cycle / l2.slices * cycle_fs
    dram_gap = 128 / chip.dram_bytes_per_second * 1e15
    drive(step, door, requests_of(chip, np.arange(size // 128 * 4) * 128 % size, 2 * dram_gap, 10**9), window_fs)
    for load in (0.8, 0.2):
        start = (int(door.ring[port.RING_LAST_FS]) // 10**11 + 1) * 10**11
        before = state.summary()
        seconds = drive(step, door, requests_of(chip, hot, slice_gap / load, start), window_fs)
        after = state.summary()
        share = (after["hits"] - before["hits"]) / LINES
        print(f"{name}: hit at {load:.0%} of the slices' rate: {seconds / LINES * 1e9:.0f} ns (hits {share:.3f})")
    for kind, write in (("read", 0), ("write", 1)):
        start = (int(door.ring[port.RING_LAST_FS]) // 10**11 + 1) * 10**11
        rows = requests_of(chip, (1 << 28) + np.arange(LINES) * 128, dram_gap / 0.8, start, write)
        before = state.summary()["misses"]
        seconds = drive(step, door, rows, window_fs)
        missed = (state.summary()["misses"] - before) / LINES
        memory, alone = make_memory(chip), make_port(1 << 17, 1 << 17)

        def bare(until_fs: int, memory: Any = memory, alone: MemoryPort = alone) -> None:
            assert dram.advance(memory, alone, until_fs) == dram.OK

        rest = drive(bare, alone, rows, window_fs)
        print(
            f"{name}: {kind} miss at 80% of the DRAM's rate: {seconds / LINES * 1e9:.0f} ns, of which a bare DRAM "
            f"takes {rest / LINES * 1e9:.0f} (misses {missed:.3f})"
        )
    rng = np.random.default_rng(1)
    for label, ways, sets, span in KERNELS:
        cache = make_caches(l2.model_copy(update={"ways": ways, "size_bytes": ways * sets * l2.line_bytes}))
        trace = rng.integers(0, span, LINES)
        touch(*cache.arrays, trace)  # type: ignore[call-arg]
        begin = time.process_time()
        touch(*cache.arrays, trace)  # type: ignore[call-arg]
        print(f"{label}: {(time.process_time() - begin) / LINES * 1e9:.0f} ns")


if __name__ == "__main__":
    changes = tuple(word for word in sys.argv[1:] if "=" in word)
    for chip_name in [word for word in sys.argv[1:] if "=" not in word] or ("v100", "h100"):
        main(chip_name, changes)
