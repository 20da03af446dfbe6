"""A small chip with a shared cache, its hierarchy behind a port, and requests for it."""

from __future__ import annotations

import functools
from dataclasses import dataclass
from typing import Any

import numpy as np

from isa.chip import MemoryChip
from isa.loader import load_chip
from npusim.memory import dram, port
from npusim.memory.hierarchy import layout, run, ways
from npusim.memory.hierarchy.state import HierarchyState, make_hierarchy
from npusim.memory.port import MemoryPort, heap_pop, make_port, ring_push
from npusim.memory.state import make_memory

HIT, MISS, FILL, FAR, CORES = 20, 30, 25, 41, 4
CYCLE_FS = 1_000_000


@functools.cache
def chip(*changes: str) -> MemoryChip:
    """A small chip at 1 GHz: four slices of 16 KiB in front of eight channels, which take turns."""
    fields = (
        "clock_mhz=1000", f"cores={CORES}", "memory.channels=8", "memory.capacity_bytes=1073741824",
        "memory.l2.clock_mhz=1000", "memory.interleave_bytes=256", "memory.l2.slice_bytes=256",
        "memory.controller={hashing: rotate}",
        "memory.l2.slices=4", "memory.l2.size_bytes=16384", "memory.l2.ways=16",
        f"memory.l2.hit_latency_cycles={HIT}",
        f"memory.l2.miss_latency_cycles={MISS}", f"memory.l2.fill_latency_cycles={FILL}",
        "memory.l2.bytes_per_cycle=64",
        f"memory.l2.far_latency_cycles={FAR}", "memory.l2.mshrs=16", "memory.l2.mshr_targets=4",
    )  # fmt: skip
    found = load_chip("v100", (*fields, *changes)).chip
    assert isinstance(found, MemoryChip)
    return found


IDEAL = ("memory.model=ideal", "memory.ideal_bytes_per_cycle=256")
PARTS = ("memory.l2.partitions=2",)
SHARED = (*PARTS, "memory.l2.coalescers=2", "memory.l2.core_partitions=[1, 0, 0]")
TINY = ("memory.l2.mshrs=2", "memory.l2.mshr_targets=2", "memory.l2.size_bytes=4096", "memory.l2.ways=4")


@dataclass
class Bench:
    """A hierarchy and its port."""

    state: HierarchyState
    port: MemoryPort

    def ask(self, rows: Any, step_fs: int = 10_000_000, limit_fs: int = 10**13) -> dict[int, tuple[int, int]]:
        """Send rows of (time, core, address, bytes, write) and run until all are answered; the answers by row.

        Every answer is taken only once its time is over, and none may come earlier than it is known.
        """
        found: dict[int, tuple[int, int]] = {}
        until, sent = int(rows[0][0]) // step_fs * step_fs, 0
        while len(found) < len(rows):
            until += step_fs
            while sent < len(rows) and rows[sent][0] < until:
                if not ring_push(self.port.requests, self.port.ring, *(int(word) for word in rows[sent]), sent):
                    self.port.grow_requests()
                    continue
                sent += 1
            assert run.advance(self.state, self.port, until) == layout.OK
            while self.port.heap_state[port.HEAP_SIZE] and self.port.responses[0, port.RSP_TIME_FS] < until:
                time_fs, _, tag, wait_fs = (int(word) for word in self.port.responses[0])
                heap_pop(self.port.responses, self.port.heap_state)
                assert tag not in found
                found[tag] = time_fs, wait_fs
            assert until < rows[-1][0] + limit_fs, f"{len(rows) - len(found)} of {len(rows)} requests have no answer"
        return found

    def latency(self, time_fs: int, core: int, address: int, size: int = 32, write: int = 0) -> int:
        return self.ask([(time_fs, core, address, size, write)])[0][0] - time_fs


def bench(*changes: str, **options: Any) -> Bench:
    machine = chip(*changes)
    return Bench(make_hierarchy(machine.memory, CORES, machine.clock_mhz, **options), make_port(64, 64))


def home(state: HierarchyState, address: int) -> int:
    found, _ = ways.home_of(state.params, address // 128)
    return int(found)


def idle_dram(machine: MemoryChip, time_fs: int, address: int, size: int) -> int:
    """When a DRAM of its own answers."""
    memory, alone = make_memory(machine), make_port()
    ring_push(alone.requests, alone.ring, time_fs, 0, address, size, 0, 0)
    dram.advance(memory, alone, time_fs + 10**9)
    return int(alone.responses[0, port.RSP_TIME_FS])


def traffic(seed: int, count: int, span: int, gap_fs: int = 3_000_000, size: int = 300) -> list[tuple[int, ...]]:
    draw = np.random.default_rng(seed)
    time_fs = 10**9 + np.cumsum(draw.integers(0, gap_fs, count))
    address, length = draw.integers(0, span, count) * 4, draw.integers(1, size // 4, count) * 4
    write = draw.random(count) < 0.4
    return list(
        zip(
            time_fs.tolist(),
            draw.integers(0, CORES, count).tolist(),
            address.tolist(),
            length.tolist(),
            write.astype(int).tolist(),
        )
    )


def stream(count: int, span_bytes: int, size: int = 128, per_cycle: int = 4, cores: int = CORES, write: int = 0) -> Any:
    """Lines one after the other, round and round `span_bytes`, `per_cycle` requests a cycle."""
    return [(10**9 + i * CYCLE_FS // per_cycle, i % cores, i * size % span_bytes, size, write) for i in range(count)]


def rate(found: Bench, rows: Any) -> float:
    """Bytes a cycle from the first request to the last answer."""
    answers = found.ask(rows)
    return float(sum(r[3] for r in rows) * CYCLE_FS / (max(a for a, _ in answers.values()) - rows[0][0]))
