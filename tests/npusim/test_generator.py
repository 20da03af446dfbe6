"""The request generator: warps, load/store unit, L1 and copy engines against figures that can be counted by hand."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from generator_fixture import BACK, BLOCK_CYCLES, HIT_CYCLES, WAY, chip
from hypothesis import given, settings
from hypothesis import strategies as st

from isa.chip import MemoryChip, memory_chip
from isa.errors import ConfigError
from isa.loader import load_chip, load_machine
from npusim.memory.caches.mshr import mshr_next
from npusim.memory.generator import patterns
from npusim.memory.generator.backend import make_backend
from npusim.memory.generator.events import event_pop, event_push
from npusim.memory.generator.l1 import (
    HIT,
    MERGED,
    MISS,
    STALL,
    L1State,
    l1_arrive,
    l1_load,
    l1_settle,
    l1_store,
    make_l1,
    sectors_of,
)
from npusim.memory.generator.layout import (
    K_BLOCKS,
    K_CHASES,
    K_HITS,
    K_LOAD_BYTES,
    K_MERGED,
    K_MISSES,
    K_READS,
    K_STORE_BYTES,
    K_WARPS,
    K_WRITES,
    W_BLOCK,
    W_LOOPS,
    W_REP,
    W_USED,
    X_BLOCK,
)
from npusim.memory.generator.patterns import OP_END, OP_LOAD, OP_LOOP, OP_STORE, OP_WAIT, Pattern, program
from npusim.memory.generator.run import Run
from npusim.memory.generator.setup import make_generator

pytestmark = pytest.mark.kernels


def start(pattern: Pattern, *changes: str, window: int = 0, limit: int = 0) -> Run:
    machine = chip(*changes)
    backend = make_backend(machine)
    assert (backend.send_cycles, backend.return_cycles) == (WAY, BACK)
    state, l1 = make_generator(machine, pattern, block_limit=limit, send_cycles=WAY, return_cycles=BACK)
    return Run(state, l1, backend, window_cycles=window)


def loads(*rows: dict[str, int], warps: int = 1, blocks: int = 1, cores: int = 1) -> Pattern:
    return Pattern(program(*rows), warps, blocks, cores)


# ---- latency


def test_a_chase_in_the_l1_takes_the_hit_latency_a_step() -> None:
    run = start(Pattern(patterns.chase(1024, 32, 1, 99).rows, 1, 1, 1, np.arange(16), 64))
    run.advance(2000)  # sixteen misses and the way to the cycle at which the timed steps begin
    before = run.state.counters[K_CHASES]
    run.advance(100 * HIT_CYCLES)
    assert run.state.counters[K_CHASES] - before == 100


def test_a_chase_beyond_the_l1_adds_the_ways_and_the_memory() -> None:
    """hit latency + way + 32 B at 1024 a cycle, within one cycle + way back + 32 B of the port within one cycle."""
    run = start(Pattern(patterns.chase(1 << 20, 32, 1, 1 << 20).rows, 1, 1, 1, np.arange(1 << 12) * 4, 64))
    run.advance(1)
    before, step = run.state.counters[K_CHASES], HIT_CYCLES + WAY + 1 + BACK
    run.advance(50 * step)
    assert run.state.counters[K_CHASES] - before == 50
    assert run.state.counters[K_HITS] == 0


def test_all_warps_of_a_block_follow_the_chain_and_share_its_misses() -> None:
    pattern = patterns.chase(1 << 16, 32, 1, 1 << 20)
    assert pattern.warps_per_block == 2 and sorted(pattern.chain) == list(range(1024))
    counters = start(pattern).advance(3000)
    assert counters[K_MISSES] == pytest.approx(counters[K_CHASES] / 2, abs=2)


def test_a_larger_buffer_is_sampled_over_its_whole_length() -> None:
    chain = patterns.chase(1 << 30, 32, 1, 1000).chain
    assert len(chain) == 1000 and chain.max() > 0.95 * (1 << 24) and chain.min() < 0.05 * (1 << 24)


def test_the_summary_names_the_busiest_links() -> None:
    """One core chases through its way of the answers: a header and 32 bytes a step, two flits."""
    network = "memory.network={topology: crossbar, flit_bytes: 32}"
    machine = load_chip("v100-pcie", ("cores=4", network)).chip
    assert isinstance(machine, MemoryChip)
    backend = make_backend(machine)
    pattern = Pattern(patterns.chase(1 << 20, 32, 1, 1 << 20).rows, 1, 1, 1, np.arange(1 << 12) * 4, 64)
    state, l1 = make_generator(machine, pattern, send_cycles=backend.send_cycles, return_cycles=backend.return_cycles)
    run = Run(state, l1, backend)
    run.advance(50_000)
    found = run.summary()
    memory, links = found["memory"], found["memory"]["network"]["links"]
    assert found["cycles"] == 50_000 and memory["reads"] > 100
    busiest = links[0]
    assert (busiest["network"], busiest["link"]) == ("answers", "router 0 > core 0")
    assert memory["reads"] - 1 <= busiest["packets"] <= memory["reads"]
    assert busiest["bytes"] == busiest["packets"] * 64 and busiest["wait_cycles"] == 0
    cycles = 50_000 * 1195 / 1380
    assert busiest["utilisation"] == pytest.approx(busiest["busy_cycles"] / cycles, rel=1e-3)
    assert memory["network"]["busiest"][0].startswith("answers, router 0 > core 0: ")
    plain = start(pattern)
    plain.advance(100)
    assert "network" not in plain.summary()["memory"]


# ---- rates


@pytest.mark.parametrize("rate", [64, 128])
def test_reads_of_the_l1_run_at_its_rate(rate: int) -> None:
    run = start(patterns.private_reads(4096, 8, 32), f"core.load_store.bytes_per_cycle={rate}")
    run.advance(2000)
    before = run.state.counters[K_LOAD_BYTES]
    run.advance(1000)
    found = (run.state.counters[K_LOAD_BYTES] - before) / 1000 / 2
    assert 0.97 * rate <= found <= rate


def test_misses_in_flight_bound_the_bandwidth() -> None:
    """Little's law: 4 lines a latency, whatever the warps would like."""
    body = {"op": OP_LOAD, "bytes": 128, "warp_stride": 1 << 20, "count": 8, "step": 128}
    run = start(loads(body, {"op": OP_LOOP}, warps=4), "core.l1.mshrs=4")
    run.advance(500)
    before = run.state.counters[K_READS]
    cycles = 20 * (HIT_CYCLES + WAY + 1 + BACK)
    run.advance(cycles)
    lines = (run.state.counters[K_READS] - before) / 128
    assert 4 * 20 * 0.95 <= lines <= 4 * 20


@pytest.mark.parametrize("size", [128, 256, 512])
def test_misses_in_flight_count_lines(size: int) -> None:
    """Four lines a latency, however many of them a load wants."""
    body = {"op": OP_LOAD, "bytes": size, "warp_stride": 1 << 20, "count": 8, "step": size}
    run = start(loads(body, {"op": OP_LOOP}, warps=4), "core.l1.mshrs=4", "core.load_store.bytes_per_cycle=512")
    run.advance(500)
    before = run.state.counters[K_READS]
    run.advance(20 * (HIT_CYCLES + WAY + 1 + BACK))
    assert 20 * 4 * 0.95 <= (run.state.counters[K_READS] - before) / 128 <= 20 * 4


@pytest.mark.parametrize("window", [1, 3, 7])
def test_a_window_bounds_the_loads_of_a_warp(window: int) -> None:
    """So many loads a latency and the three cycles in which the unit, the port and the sum take the oldest."""
    body = {"op": OP_LOAD, "bytes": 128, "count": 1 << 20, "step": 128, "window": window, "use": 1}
    run = start(loads(body, {"op": OP_END}))
    most = 0
    for _ in range(500):
        run.advance(1)
        most = max(most, run.state.warps[0, W_REP] - run.state.warps[0, W_USED])
    assert most == window
    before = run.state.warps[0, W_REP]
    run.advance(20 * (HIT_CYCLES + WAY + 1 + BACK + 3))
    assert window * 20 - 1 <= run.state.warps[0, W_REP] - before <= window * 20 + 1


def test_a_warp_with_a_full_window_waits_for_its_oldest_load() -> None:
    """Six hits behind a miss are sent and back long before it; the eighth load follows it."""
    others = {"op": OP_LOAD, "base": 128, "bytes": 128, "count": 7, "step": 128}
    body = {"op": OP_LOAD, "bytes": 128, "count": 64, "step": 128, "size": 1024, "window": 7, "use": 1}
    run = start(loads(others, {"op": OP_WAIT}, body, {"op": OP_END}))
    while run.state.counters[K_MISSES] < 8:
        run.advance(1)
    run.advance(HIT_CYCLES + WAY + BACK)
    assert run.state.counters[K_HITS] == 6 and run.state.warps[0, W_USED] == 0
    run.advance(8)
    assert run.state.counters[K_HITS] > 7 and run.state.warps[0, W_USED] > 1


@pytest.mark.parametrize("use", [4, 8])
def test_data_are_used_one_after_the_other(use: int) -> None:
    """Hits come faster than a chain of sums takes them, in the row and after its last load."""
    body = {"op": OP_LOAD, "bytes": 128, "count": 32, "step": 128, "size": 1024, "window": 7, "use": use}
    run = start(loads(body, {"op": OP_WAIT}, {"op": OP_LOOP}))
    run.advance(1000)
    before = run.state.counters[K_LOAD_BYTES]
    run.advance(10_000)
    found = (run.state.counters[K_LOAD_BYTES] - before) / 128
    assert 10_000 / (use + 1 + HIT_CYCLES / 32) * 0.9 <= found <= 10_000 / use


# Few misses in flight, of which eight warps want 64 at once.
CROWDED = {"op": OP_LOAD, "bytes": 128, "warp_stride": 1 << 20, "count": 8, "step": 128}


@pytest.mark.parametrize("schedulers", [1, 2, 4, 8])
def test_warps_of_a_core_are_equally_fast(schedulers: int) -> None:
    """Each scheduler sends its warps in the order in which they came; 4000 cycles let 680 misses pass, of 64 a loop."""
    changes = ("core.l1.mshrs=8", f"core.warps.schedulers={schedulers}")
    run = start(loads(CROWDED, {"op": OP_WAIT}, {"op": OP_LOOP}, warps=8), *changes)
    run.advance(4000)
    loops = run.state.warps[:, W_LOOPS]
    assert loops.min() >= 9 and np.ptp(loops) <= 1


def test_schedulers_have_turns() -> None:
    """Two warps share the turns of the first scheduler, so each gets half of what those of the others get."""
    run = start(loads(CROWDED, {"op": OP_LOOP}, warps=5), "core.l1.mshrs=8", "core.warps.schedulers=4")
    run.advance(20_000)
    loops = run.state.warps[:, W_LOOPS]
    assert loops[[1, 2, 3]] == pytest.approx(2 * loops[0], rel=0.1) and loops[4] == pytest.approx(loops[0], abs=1)


def test_blocks_of_a_core_end_in_the_order_in_which_they_began() -> None:
    rows = (CROWDED, {"op": OP_WAIT}, {"op": OP_LOOP, "count": 20}, {"op": OP_END})
    run = start(loads(*rows, warps=4, blocks=2), "core.l1.mshrs=8")
    while run.state.counters[K_BLOCKS] < 8:
        run.advance(20)
        assert np.ptp(run.state.warps[:, W_BLOCK]) <= 1


@pytest.mark.parametrize(("size", "least", "most"), [(7168, 0.9, 1), (9216, 0, 0.1)])
def test_an_l1_keeps_what_fits(size: int, least: float, most: float) -> None:
    """Seven eighths of an L1 are found but for the first time; of nine eighths, swept in step, nothing is."""
    changes = ("core.l1.size_bytes=8192", "core.l1.ways=64", "core.l1.mshrs=4", "core.warps.schedulers=8")
    body = {"op": OP_LOAD, "bytes": 128, "warp_stride": 128, "count": 4, "step": 1024, "size": size}
    run = start(loads(body, {"op": OP_WAIT}, {"op": OP_LOOP, "count": 90}, {"op": OP_END}, warps=8), *changes, limit=1)
    run.drain()
    counters = run.state.counters
    assert counters[K_LOAD_BYTES] == 8 * 90 * 4 * 128
    assert least <= counters[K_HITS] / (counters[K_LOAD_BYTES] / 128) <= most


@pytest.mark.parametrize(("stores", "lines"), [(4, 1), (8, 2)])
def test_stores_without_an_answer_bound_the_bandwidth(stores: int, lines: int) -> None:
    body = {"op": OP_STORE, "bytes": 128, "warp_stride": 1 << 20, "count": 8, "step": 128}
    run = start(loads(body, {"op": OP_LOOP}, warps=2), f"core.load_store.stores={stores}")
    run.advance(500)
    before, latency = run.state.counters[K_WRITES], HIT_CYCLES + WAY + 1 + BACK
    run.advance(20 * latency)
    assert lines * 20 * 0.9 <= (run.state.counters[K_WRITES] - before) / 128 <= lines * 20


def test_the_port_of_a_core_bounds_what_comes_in() -> None:
    body = {"op": OP_LOAD, "bytes": 128, "warp_stride": 1 << 20, "count": 8, "step": 128}
    wait = {"op": OP_WAIT}
    run = start(loads(body, wait, {"op": OP_LOOP}, warps=8), "core.load_store.port_bytes_per_cycle=16")
    run.advance(1000)
    before = run.state.counters[K_LOAD_BYTES]
    run.advance(20_000)
    assert 15.5 <= (run.state.counters[K_LOAD_BYTES] - before) / 20_000 <= 16.3


def test_a_block_is_replaced_block_cycles_after_it_ends() -> None:
    """One block of one warp that stores one line: issue, the unit's two cycles at the port rate, replacement."""
    run = start(loads({"op": OP_STORE, "bytes": 128}, {"op": OP_END}), limit=0)
    counters = run.advance(100 * (BLOCK_CYCLES + 1))
    assert counters[K_BLOCKS] == 100 and counters[K_STORE_BYTES] in (100 * 128, 101 * 128)


def test_blocks_are_given_out_once_and_up_to_the_limit() -> None:
    run = start(patterns.stream("scale", 64, 2, 32), limit=37)
    counters = run.advance(20_000)
    assert (counters[K_BLOCKS], counters[K_WARPS], run.state.other[X_BLOCK]) == (37, 74, 37)
    assert counters[K_STORE_BYTES] == counters[K_LOAD_BYTES] == 37 * 64 * 8 == counters[K_READS] == counters[K_WRITES]


@pytest.mark.parametrize(("kernel", "reads", "writes"), [("init", 0, 1), ("read", 1, 0), ("triad", 2, 1)])
def test_streams_move_every_byte_of_their_arrays_once(kernel: str, reads: int, writes: int) -> None:
    counters = start(patterns.stream(kernel, 128, 2, 32), limit=50).advance(20_000)
    moved = 50 * 128 * 8
    assert (counters[K_READS], counters[K_WRITES]) == (reads * moved, writes * moved)


@pytest.mark.parametrize(("kernel", "loads_a_thread"), [("3pt", 3), ("5pt", 5)])
def test_stencils_share_their_neighbours_through_the_l1(kernel: str, loads_a_thread: int) -> None:
    counters = start(patterns.stream(kernel, 128, 2, 32), "cores=1", limit=50).advance(40_000)
    moved = 50 * 128 * 8
    assert counters[K_LOAD_BYTES] == loads_a_thread * moved
    assert moved <= counters[K_READS] <= 1.15 * moved  # a sector more at either end, where it is not here any more
    assert counters[K_MERGED] + counters[K_HITS] > counters[K_MISSES]


# ---- the same result, however it is run


@pytest.mark.parametrize("kernel", ["triad", "3pt"])
def test_a_window_of_one_cycle_gives_the_same(kernel: str) -> None:
    found = [start(patterns.stream(kernel, 96, 2, 32), window=window, limit=40).advance(3000) for window in (1, 7, 0)]
    assert found[0].tolist() == found[1].tolist() == found[2].tolist()
    assert found[0][K_BLOCKS] == 40


def test_a_run_in_pieces_is_the_same_run() -> None:
    whole = start(patterns.private_reads(16384, 4, 32)).advance(1500)
    pieces = start(patterns.private_reads(16384, 4, 32))
    for cycles in (1, 99, 400, 1000):
        last = pieces.advance(cycles)
    assert last.tolist() == whole.tolist()


def test_what_does_not_fit_a_core_is_refused() -> None:
    with pytest.raises(ConfigError, match="4 blocks of 32 warps on 2 cores; a core has room for 4 blocks and 8 warps"):
        start(patterns.stream("read", 1024, 4, 32))
    with pytest.raises(ConfigError, match="63 warps on a core of 1 schedulers; at most 62 each: give more schedulers"):
        start(
            Pattern(patterns.stream("read", 32, 1, 32).rows, 63, 1), "core.warps.resident=64", "core.warps.schedulers=1"
        )
    with pytest.raises(ConfigError, match="have no warps"):
        machine = memory_chip(load_machine("ascend-910b1").machine)
        make_generator(machine, patterns.stream("read", 32, 1, 32))


# ---- patterns


def addresses(pattern: Pattern, block: int, warp: int, loops: int) -> list[int]:
    """The formula of patterns.py, row by row, in Python."""
    found = []
    for loop in range(loops):
        for op, base, _, blocks, block_stride, warp_stride, count, step, size, *_ in pattern.rows.tolist():
            if op in (OP_LOAD, OP_STORE):
                for i in range(count):
                    at = (block % blocks if blocks else block) * block_stride + warp * warp_stride
                    at += (loop * count + i) * step
                    found.append(base + (at % size if size else at))
    return found


def test_shared_reads_interleave_the_blocks_of_a_run() -> None:
    """Index of gpu-l2-cache: threads x run x i + (block mod run) x threads + thread, doubles; 64 loads a thread."""
    pattern = patterns.shared_reads(512 << 10, 3 * 512 << 10, 8, 32, 64)
    assert (pattern.warps_per_block, pattern.blocks_per_core) == (32, 2)
    for block, warp in ((0, 0), (1, 5), (5, 31)):
        wanted = [8 * (1024 * 3 * i + block % 3 * 1024 + 32 * warp) for i in range(64)]
        assert addresses(pattern, block, warp, 1) == wanted


def test_private_reads_go_round_the_data_of_all_blocks() -> None:
    pattern = patterns.private_reads(4096, 8, 32)
    assert addresses(pattern, 7, 3, 1) == [(3 * 256 + i * 2048) % 4096 for i in range(32)]


def test_private_reads_end_after_their_sweeps() -> None:
    counters = start(patterns.private_reads(8192, 8, 32, sweeps=8), "core.warps.resident=8", limit=2).advance(4000)
    assert counters[K_BLOCKS] == 2 and counters[K_LOAD_BYTES] == 2 * 8 * 8192


def test_private_reads_begin_at_so_many_places() -> None:
    """Blocks are given out in order, so the first one is farthest on."""
    machine = chip()
    state, _ = make_generator(machine, replace(patterns.private_reads(1 << 20, 8, 32), phases=32))
    assert state.warps[:, W_REP].tolist() == [16] * 8 + [0] * 8


def test_rows_know_their_columns() -> None:
    with pytest.raises(ValueError, match="no column bites; there are op, base"):
        program({"op": OP_LOAD, "bites": 1})


# ---- parts


@settings(max_examples=30, deadline=None)
@given(st.lists(st.integers(0, 20), min_size=1, max_size=30))
def test_events_come_by_cycle_and_then_by_unit(cycles: list[int]) -> None:
    events, size = np.zeros((len(cycles) + 1, 2), np.int64), np.zeros(1, np.int64)
    for unit, cycle in enumerate(cycles):
        event_push(events, size, cycle, unit)
    found = []
    while size[0]:
        found.append(tuple(events[0].tolist()))
        event_pop(events, size)
    assert found == sorted((cycle, unit) for unit, cycle in enumerate(cycles))


class SmallL1:
    """Caches of two cores, of one set of two ways, with two outstanding lines of two targets each."""

    def __init__(self, *changes: str) -> None:
        geometry = ("core.l1.size_bytes=256", "core.l1.ways=2", "core.l1.mshrs=2", "core.l1.mshr_targets=2")
        cache = chip(*geometry, *changes).core.l1
        assert cache is not None
        self.state: L1State = make_l1(cache, 2)
        self.targets = np.zeros((20, 3), np.int64)

    def load(self, line: int, wanted: int, target: int, core: int = 0) -> tuple[int, int]:
        c, m = self.state.caches, self.state.misses
        found = l1_load(
            c.geometry, c.tags, c.marks, c.links, c.sets, *m.arrays, self.targets, core, line, wanted, target
        )  # fmt: skip
        return tuple(found)

    def arrive(self, line: int, sectors: int, core: int = 0) -> list[int]:
        """The targets that have all they want now."""
        m = self.state.misses
        entry = l1_arrive(*self.state.caches.arrays, m.entries, m.heads, core, line, sectors)
        told = []
        while entry >= 0 and (target := mshr_next(m.entries, self.targets, entry)):
            told.append(target)
        if entry >= 0:
            l1_settle(m.entries, m.heads, core, entry)
        return told


def test_sectors_of_bytes() -> None:
    found = [sectors_of(offset, size, 32) for offset, size in ((0, 1), (31, 2), (96, 32), (0, 128))]
    assert found == [1, 3, 8, 15]


def test_a_line_comes_sector_by_sector_and_everyone_waits_for_his_own() -> None:
    l1 = SmallL1()
    assert l1.load(5, 0b0011, 7) == (MISS, 0b0011)
    assert l1.load(5, 0b0110, 8) == (MISS, 0b0100)
    assert l1.load(5, 0b0001, 9) == (STALL, 0)  # an entry has two targets
    assert l1.load(5, 0b0001, 0) == (STALL, 0)  # there is none free
    assert l1.arrive(5, 0b0011) == [7]
    assert l1.load(5, 0b0001, 9) == (HIT, 0)
    assert l1.load(5, 0b0101, 9) == (MERGED, 0)
    assert l1.load(5, 0b0001, 10, core=1) == (MISS, 0b0001)  # the other core's cache
    assert l1.arrive(5, 0b0100) == [8, 9]
    assert l1.arrive(5, 0b1000) == []  # nobody asked


def test_lines_on_their_way_are_bounded_and_the_line_used_longest_ago_leaves() -> None:
    l1 = SmallL1()
    assert l1.load(1, 1, 1)[0] == MISS and l1.load(2, 1, 2)[0] == MISS
    assert l1.load(3, 1, 3)[0] == STALL
    assert (l1.arrive(1, 1), l1.arrive(2, 1)) == ([1], [2])
    caches = l1.state.caches
    l1_store(caches.geometry, caches.tags, caches.marks, caches.links, caches.sets, 0, 1, 2)  # writing is using
    assert l1.load(3, 1, 3)[0] == MISS and l1.arrive(3, 1) == [3]
    assert l1.load(1, 3, 4)[0] == HIT  # what was written is valid
    assert l1.load(2, 1, 5)[0] == MISS
