"""From a machine description to the arrays of the hierarchy."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from fractions import Fraction
from typing import Any

import numpy as np
import numpy.typing as npt

from isa.cache import Cache, cache_faults
from isa.errors import ConfigError
from isa.memory import Memory
from npusim.memory.caches.mshr import MshrState, make_mshrs
from npusim.memory.caches.state import CacheState, make_caches
from npusim.memory.hierarchy import layout as at
from npusim.memory.hierarchy.networks import Networks, group_table, make_networks, no_arrays
from npusim.memory.port import MemoryPort, make_port
from npusim.memory.state import MemoryState, make_memory

Array = npt.NDArray[Any]
FIRST_ROWS = 1 << 12


@dataclass(frozen=True)
class _Chip:
    memory: Memory
    clock_mhz: float


@dataclass
class HierarchyState:
    """One chip's shared cache and DRAM; `port` is the DRAM's own. All arrays are int64 and C-contiguous.

    A request's time is when it has gone `send_cycles` of the core clock from its core; an answer is in the core
    `return_cycles` after its time. Windows of a caller may be `window_cycles` long.
    """

    caches: CacheState
    mshrs: MshrState
    params: Array
    now: Array
    slices: Array
    wheel: Array
    rows: Array
    asked: Array
    far: Array
    counters: Array
    memory: MemoryState
    port: MemoryPort
    send_cycles: int
    return_cycles: int
    window_cycles: int
    networks: Networks | None = None  # between cores and slices; the latencies above come on top
    net: tuple[Array, ...] = field(default_factory=no_arrays)  # Networks.arrays, or what stands for none
    groups: Array = field(default_factory=lambda: np.zeros((1, 3), np.int64))  # cores that ask as one

    @property
    def arrays(self) -> Any:
        """All arrays in the order of the first arguments of `hierarchy_advance`."""
        return (
            *self.caches.arrays, *self.mshrs.arrays, self.params, self.now, self.slices, self.wheel, self.rows,
            self.asked, self.far, self.counters, *self.net, self.groups, *self.memory.arrays, self.port.requests,
            self.port.ring, self.port.responses, self.port.heap_state,
        )  # fmt: skip

    def grow(self) -> None:
        """Double the tables of requests and pieces; what is under way stays where it is."""
        for name, free, left in (("rows", at.N_FREE, at.N_LEFT), ("asked", at.N_ASKED_FREE, at.N_ASKED_LEFT)):
            table = getattr(self, name)
            grown = np.concatenate([table, np.zeros_like(table)])
            grown[len(table) : -1, 0] = np.arange(len(table) + 1, len(grown))
            grown[-1, 0] = self.now[free]
            self.now[free] = len(table)
            self.now[left] += len(table)
            setattr(self, name, grown)

    def summary(self) -> dict[str, int]:
        """Return the counters by name: of all slices together, and of the links between partitions."""
        found = {name: int(self.counters[word]) for name, word in at.COUNTERS.items()}
        found |= {name: int(self.slices[:, word].sum()) for name, word in at.SLICE_COUNTERS.items()}
        found["link_bytes"] = int(self.far[:, at.F_BYTES].sum())
        return found

    def network_report(self, time_fs: int) -> dict[str, Any] | None:
        """Return what the links of the networks have carried until a time (Networks.report); None without networks."""
        return None if self.networks is None else self.networks.report(time_fs)

    def slice_counters(self) -> dict[str, Array]:
        """Return what each slice did, by name."""
        return {name: self.slices[:, word].copy() for name, word in at.SLICE_COUNTERS.items()}

    def histogram(self) -> Array:
        """Return the numbers of requests by latency: bucket 2n for [2^n, 1.5 x 2^n) ns, 2n + 1 for the rest."""
        return self.counters[at.C_HISTOGRAM :].copy()


def make_hierarchy(
    memory: Memory, cores: int, clock_mhz: float, *, window_cycles: int = 0, request_cycles: int = 0,
    response_cycles: int = 0, groups: Sequence[Sequence[int]] = (), regions: Array | None = None,
) -> HierarchyState:  # fmt: skip
    """Return the idle, empty hierarchy of a chip; raises ConfigError for what cannot be simulated.

    The caller adds the latencies from and to the core (`send_cycles`, `return_cycles`); `request_cycles` and
    `response_cycles` come on top, and so does what the network takes. `window_cycles` shortens the windows inside,
    which changes no result. A read of port `cores` + n is one of the n-th of `groups`: its first core asks, one answer
    goes to all of its cores (over each link of their routes once), and is there when the last core has it. `regions`
    are those of make_memory.
    """
    if cores < 1:
        raise ConfigError(f"a hierarchy for {cores} cores: at least one is needed")
    shared = memory.l2
    params = np.zeros(at.H_OWN0 + cores, np.int64)
    params[at.H_DIRECT], params[at.H_CAPACITY], params[at.H_CORES] = shared is None, memory.capacity_bytes, cores
    send, back = memory.request_latency_cycles, memory.response_latency_cycles
    caches = shared or Cache(size_bytes=128, ways=1, hit_latency_cycles=1, bytes_per_cycle=1, mshrs=1)
    slices = banks = 1
    if shared is not None:
        slices, banks = shared.slices, shared.banks
        _fill_shared(params, memory, clock_mhz)
        params[at.H_REQUEST], params[at.H_RESPONSE] = request_cycles, response_cycles
        if window_cycles:
            params[at.H_WINDOW] = min(window_cycles, params[at.H_WINDOW])
    networks = make_networks(memory, cores, shared.clock_mhz or clock_mhz if shared is not None else clock_mhz)
    if networks is not None:
        everything = networks.requests.topology.nodes > cores + slices
        params[at.H_NET] = at.NET_ALL if everything else at.NET_CORES
        params[at.H_NET_Q], params[at.H_NET_R] = _period(networks.clock_mhz)
    params[at.H_GROUPS] = len(groups)
    coalescers = shared.coalescers if shared is not None and not groups else 0  # what goes to a group has its own way
    params[at.H_COALESCERS] = coalescers
    now = np.zeros(at.N_COUNT + coalescers * at.CO_SLOTS * at.CO_WORDS, np.int64)
    now[at.N_COUNT + at.CO_LINE :: at.CO_WORDS] = -1
    rows = np.zeros((FIRST_ROWS * (1 + slices // 256), at.R_COUNT), np.int64)
    asked = np.zeros((FIRST_ROWS, at.A_COUNT), np.int64)
    rows[1 + slices : -1, at.R_NEXT] = np.arange(2 + slices, len(rows))
    asked[1:-1, at.A_NEXT] = np.arange(2, len(asked))
    now[[at.N_FREE, at.N_LEFT]] = 1 + slices, len(rows) - 1 - slices
    now[[at.N_ASKED_FREE, at.N_ASKED_LEFT]] = 1, len(asked) - 1
    counters = np.zeros(at.C_HISTOGRAM + at.BUCKETS, np.int64)
    parts = 1 if shared is None else shared.partitions
    return HierarchyState(
        make_caches(caches, slices, parts), make_mshrs(2 * slices, caches.mshrs, caches.mshr_targets), params, now,
        np.zeros((slices, at.S_COUNT + banks), np.int64), np.zeros((at.WHEEL, at.W_COUNT), np.int64), rows, asked,
        np.zeros((parts * parts, at.F_COUNT), np.int64), counters,
        make_memory(_Chip(memory, clock_mhz), regions=regions), make_port(), send, back, send, networks,
        no_arrays() if networks is None else networks.arrays, group_table(groups, cores, memory),
    )  # fmt: skip


def _fill_shared(params: Array, memory: Memory, clock_mhz: float) -> None:
    shared = memory.l2
    assert shared is not None
    faults = list(cache_faults("memory.l2", shared))
    if faults:
        raise ConfigError("\n".join(faults))
    if memory.capacity_bytes % shared.sector_bytes:
        raise ConfigError(
            f"memory.capacity_bytes {memory.capacity_bytes} is not a whole number of sectors of "
            f"{shared.sector_bytes} bytes"
        )
    params[at.H_Q], params[at.H_R] = _period(shared.clock_mhz or clock_mhz)
    figures = {
        at.H_SLICES: shared.slices, at.H_MARGIN: at.MARGIN + (shared.mshr_targets if shared.write == "through" else 0),
        at.H_PARTS: shared.partitions, at.H_PER: shared.slices // shared.partitions,
        at.H_SHIFT: max(1, (shared.slices - 1).bit_length()), at.H_LINE: shared.line_bytes.bit_length() - 1,
        at.H_SECTOR: shared.sector_bytes.bit_length() - 1, at.H_RATE: shared.bytes_per_cycle,
        at.H_UNIT: (shared.slice_bytes // shared.line_bytes).bit_length() - 1,
        at.H_HIT: shared.hit_latency_cycles, at.H_MISS: shared.miss_latency_cycles,
        at.H_FILL: shared.fill_latency_cycles, at.H_FAR_OUT: shared.far_latency_cycles // 2,
        at.H_FAR_BACK: shared.far_latency_cycles - shared.far_latency_cycles // 2,
        at.H_FAR_RATE: shared.far_bytes_per_cycle or 0, at.H_REPLICATE: shared.replicate, at.H_CREDITS: shared.mshrs,
        at.H_WINDOW: shared.miss_latency_cycles + shared.fill_latency_cycles, at.H_BANKS: shared.banks,
    }  # fmt: skip
    for word, value in figures.items():
        params[word] = value
    cores = len(params) - at.H_OWN0
    params[at.H_OWN0 :] = [shared.partition_of(core, cores) * params[at.H_PER] for core in range(cores)]


def _period(clock_mhz: float) -> tuple[int, int]:
    """A cycle in fs and 2^-FRACTION_BITS fs: a cycle of 1 ns gains one femtosecond in a million cycles."""
    period = round(Fraction(10**12 << at.FRACTION_BITS, round(clock_mhz * 1000)))
    return period >> at.FRACTION_BITS, period & ((1 << at.FRACTION_BITS) - 1)
