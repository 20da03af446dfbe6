"""What lies behind the memory port of an engine: the channels of a chip, with a shared cache and a network or without.

Kernels take the arrays of either as one tuple and tell by its length which they have: numba drops the branch that a
tuple cannot take, so that a machine without a shared cache compiles nothing of it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from isa.errors import SimulationError
from isa.machine import Machine
from npusim.jit import kernel
from npusim.memory.caches.lines import MARK_BITS
from npusim.memory.dram import memory_advance, memory_flush
from npusim.memory.hierarchy import layout as at
from npusim.memory.hierarchy.advance import hierarchy_advance
from npusim.memory.hierarchy.run import hierarchy_flush, make_room
from npusim.memory.hierarchy.state import HierarchyState, make_hierarchy
from npusim.memory.port import HEAP_SIZE, REQ_TIME_FS, RING_HEAD, RING_TAIL, MemoryPort, make_port, ring_push
from npusim.memory.state import A_NEXT_FS, A_OPEN, MemoryState, make_memory

Array = npt.NDArray[Any]
CHANNELS = 11  # arrays of a MemoryState; those of a HierarchyState are more
ASKED, NOW = 7, 10  # MemoryState.asked among the first, HierarchyState.now among the others
FAR_FS = at.FAR_FS
CHUNK_BYTES, PRELOADED, MICROSECOND_FS = 1 << 16, 64, 10**9  # of a preload: bytes a request, room at the port, step


@dataclass
class Backend:
    """One chip's memory: its `dram`, which is that of `shared` where there is a shared cache."""

    dram: MemoryState
    shared: HierarchyState | None

    @property
    def arrays(self) -> Any:
        """All arrays, as the kernels of this module take them."""
        return self.dram.arrays if self.shared is None else self.shared.arrays

    def make_room(self, port: MemoryPort, status: int) -> bool:
        """Grow what a status of `backend_advance` names; False when it names nothing."""
        if self.shared is not None:
            return make_room(self.shared, port, status)
        if status == at.FULL:
            port.grow_responses()
        elif status == at.CROWDED:
            self.dram.grow()
        else:
            return False
        return True

    def advance(self, port: MemoryPort, until_fs: int) -> int:
        """Call `backend_advance` until it no longer needs room; return OK or BAD_REQUEST."""
        while True:
            status = backend_advance(self.arrays, port.requests, port.ring, port.responses, port.heap_state, until_fs)
            if not self.make_room(port, status):
                return int(status)

    def drain(self, port: MemoryPort) -> None:
        """After the last request: let the writes of a shared cache that are under way get to the DRAM."""
        if self.shared is not None:
            hierarchy_flush(self.shared, port)

    @property
    def dirty_bytes(self) -> int:
        """Bytes in the shared cache that are newer than the DRAM's."""
        if self.shared is None:
            return 0
        sectors = np.bitwise_count((self.shared.caches.marks >> MARK_BITS).astype(np.uint64)).sum()
        return int(sectors) << int(self.shared.params[at.H_SECTOR])


    def preload(self, ranges: Sequence[tuple[int, int]]) -> None:
        """Read ranges of bytes (first, count) into the shared cache, in their order, until they would fill it."""
        if self.shared is None:
            return
        params, port = self.shared.params, make_port(PRELOADED, PRELOADED)
        parts, cores = int(params[at.H_PARTS]), int(params[at.H_CORES])
        askers = sorted({-(-part * cores // parts) for part in range(parts)} & set(range(cores)))
        room = self.shared.caches.marks.size << int(params[at.H_LINE])
        room //= parts if params[at.H_REPLICATE] else 1
        time_fs = 0
        for first, count in ranges:
            end = first + min(count, room)
            room -= end - first
            for begin in range(first, end, CHUNK_BYTES):
                for core in askers:
                    ring_push(port.requests, port.ring, time_fs, core, begin, min(CHUNK_BYTES, end - begin), 0, 0)
                answered = 0
                while answered < len(askers):
                    time_fs += MICROSECOND_FS
                    if self.advance(port, time_fs) != at.OK:
                        raise SimulationError(f"bytes [{begin}, {end}) of dram lie outside of it")
                    answered += int(port.heap_state[HEAP_SIZE])
                    port.heap_state[HEAP_SIZE] = 0


def make_backend(machine: Machine, regions: Array | None = None, before: Backend | None = None) -> Backend:
    """The memory of a machine, idle; `regions` as for make_memory. Raises ConfigError.

    A shared cache is empty, or takes over the lines of the one `before`, which must not be used any more.
    """
    if machine.memory.l2 is None:
        return Backend(make_memory(machine, regions=regions), None)
    shared = make_hierarchy(machine.memory, machine.all_cores, machine.clock_mhz, regions=regions)
    if before is not None and before.shared is not None:
        shared.caches = before.shared.caches
    return Backend(shared.memory, shared)


@kernel
def backend_advance(memory: Any, requests: Array, ring: Array, responses: Array, heap: Array, until_fs: int) -> int:
    """Take in all requests before a time and decide all that is due before it; a status of npusim.memory.hierarchy."""
    if len(memory) == CHANNELS:
        params, control, rules, nodes, where, state, runs, asked, counters, series, regions = memory
        return memory_advance(
            params, control, rules, nodes, where, state, runs, asked, counters, series, regions, requests, ring,
            responses, heap, until_fs,
        )  # fmt: skip
    (geometry, tags, marks, links, sets, seeds, limits, entries, heads, own, now, slices, wheel, rows, open_, far,
     counts, net, routes, out_links, out_counters, back_links, back_counters, groups, params, control, rules, nodes,
     where, state, runs, asked, counters, series, regions, m_requests, m_ring, m_responses, m_heap) = memory
    return hierarchy_advance(
        geometry, tags, marks, links, sets, seeds, limits, entries, heads, own, now, slices, wheel, rows, open_, far,
        counts, net, routes, out_links, out_counters, back_links, back_counters, groups, params, control, rules, nodes,
        where, state, runs, asked, counters, series, regions, m_requests, m_ring, m_responses, m_heap, requests, ring,
        responses, heap, until_fs,
    )  # fmt: skip


@kernel
def backend_waiting(memory: Any, ring: Array) -> bool:
    """Whether any request is under way, or waits to be taken in."""
    if ring[RING_HEAD] != ring[RING_TAIL]:
        return True
    if len(memory) == CHANNELS:
        return bool(memory[ASKED][0, A_OPEN] > 0)
    return bool(memory[NOW][at.N_OPEN] > 0)


@kernel
def backend_quiet_fs(memory: Any, requests: Array, ring: Array) -> int:
    """A time before which no answer can come that is not known yet."""
    if len(memory) == CHANNELS:
        first = memory[ASKED][0, A_NEXT_FS]
    else:  # of what is under way in a shared cache nothing is known in advance
        first = FAR_FS if memory[NOW][at.N_OPEN] == 0 else 0
    if ring[RING_HEAD] != ring[RING_TAIL]:
        first = min(first, requests[ring[RING_HEAD] % requests.shape[0], REQ_TIME_FS])
    return int(first)


@kernel
def backend_settle(memory: Any, requests: Array, ring: Array, responses: Array, heap: Array, until_fs: int) -> int:
    """Bring a shared cache to the last time of which all requests are known, so that its counters are those of that
    time however windows are cut; the channels alone have nothing under way. Returns a status as `backend_advance`."""
    if len(memory) == CHANNELS:
        return at.OK
    return backend_advance(memory, requests, ring, responses, heap, until_fs)


@kernel
def backend_flush(memory: Any, responses: Array, heap: Array) -> int:
    """Bring writes that have been answered to where they are safe; return the fs at which the last one is.

    Without a shared cache that is the DRAM. What a shared cache has taken is safe there, as all cores ask it.
    """
    if len(memory) == CHANNELS:
        params, control, rules, nodes, where, state, runs, asked, counters, series, regions = memory
        return memory_flush(
            params, control, rules, nodes, where, state, runs, asked, counters, series, regions, responses, heap
        )
    return 0
