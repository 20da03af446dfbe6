"""The shared cache in front of the DRAM: latencies in closed form, bytes conserved, bandwidth bounded."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hierarchy_fixture import (
    CORES,
    CYCLE_FS,
    FAR,
    FILL,
    HIT,
    IDEAL,
    MISS,
    PARTS,
    SHARED,
    TINY,
    Bench,
    bench,
    chip,
    home,
    idle_dram,
    rate,
    stream,
    traffic,
)
from hypothesis import given, settings
from hypothesis import strategies as st

from isa.errors import ConfigError
from npusim.memory import dram, port
from npusim.memory.hierarchy import clock, layout, run, ways
from npusim.memory.hierarchy.state import make_hierarchy
from npusim.memory.port import make_port, ring_push
from npusim.memory.state import make_memory

# ---- latency


@pytest.mark.parametrize("changes", [(), IDEAL, ("clock_mhz=1755",), ("memory.l2.clock_mhz=900.5",)])
@pytest.mark.parametrize("start_fs", [2_000_000_000, 2_000_123_457])
def test_light_load_latencies_are_those_of_the_parts(changes: tuple[str, ...], start_fs: int) -> None:
    machine, found = chip(*PARTS, *changes), bench(*PARTS, *changes)
    params = found.state.params
    addresses = {home(found.state, a) // 2: a for a in range(0, 8192, 512)}
    assert set(addresses) == {0, 1}

    def expected(time_fs: int, address: int, far: bool, miss: bool) -> int:
        cycle = clock.cycle_of(params, time_fs) + (FAR // 2 if far else 0)
        if miss:
            done = idle_dram(machine, clock.fs_of(params, cycle + MISS), address, 32)
            cycle = clock.cycle_of(params, done) + FILL
        return clock.fs_of(params, cycle + (FAR - FAR // 2 if far else 0) + HIT) - time_fs

    time_fs = start_fs
    for core, address, far in ((0, addresses[0], False), (3, addresses[0] + 32, True)):
        for miss in (True, False, False):
            assert found.latency(time_fs, core, address) == expected(time_fs, address, far and miss, miss)
            time_fs += 50_000_000_000
    # A line that the home slice has, and the other one not yet.
    assert found.latency(time_fs, 0, addresses[1] + 64) == expected(time_fs, addresses[1] + 64, True, True)
    found = bench(*PARTS, *changes)
    found.latency(time_fs, 0, addresses[0])
    time_fs += 50_000_000_000
    assert found.latency(time_fs, 3, addresses[0]) == expected(time_fs, addresses[0], True, False)
    time_fs += 50_000_000_000
    assert found.latency(time_fs, 3, addresses[0]) == expected(time_fs, addresses[0], False, False)


def test_without_copies_a_far_line_stays_far() -> None:
    found = bench(*PARTS, *IDEAL, "memory.l2.replicate=false")
    address = next(a for a in range(0, 8192, 512) if home(found.state, a) >= 2)
    latencies = [found.latency(10**9 * i, 0, address) // CYCLE_FS for i in range(1, 4)]
    assert latencies[1] == latencies[2] == HIT + FAR


def test_a_write_drops_the_other_copy() -> None:
    found = bench(*PARTS, *IDEAL)
    address = next(a for a in range(0, 8192, 512) if home(found.state, a) >= 2)
    steps = [(0, 0), (0, 0), (3, 1), (0, 0), (0, 0), (0, 1), (0, 0)]
    latencies = [found.latency(10**9 * (i + 1), core, address, 32, w) // CYCLE_FS for i, (core, w) in enumerate(steps)]
    assert latencies[1:] == [HIT, HIT, HIT + FAR, HIT, HIT + FAR, HIT + FAR]


def test_latencies_of_the_ways_come_on_top() -> None:
    plain, far = bench(*IDEAL), bench(*IDEAL, request_cycles=7, response_cycles=5)
    for i in range(1, 3):
        assert far.latency(10**9 * i, 0, 512) == plain.latency(10**9 * i, 0, 512) + 12 * CYCLE_FS


# ---- random traffic


@pytest.mark.parametrize("changes", [
    (), PARTS, ("memory.l2.write=through",), ("memory.l2.write=through", "memory.l2.write_allocate=false", *PARTS),
    ("memory.l2.replicate=false", "memory.l2.far_bytes_per_cycle=8", *PARTS), ("memory.l2.slices=3",),
    ("memory.l2.slices=6", "memory.l2.partitions=3", "memory.l2.size_bytes=6144"), ("memory.l2.mshrs=1", *PARTS),
    ("memory.l2.banks=8", *PARTS),
], ids=str)  # fmt: skip
@pytest.mark.parametrize("gap_fs", [200_000, 20_000_000])
def test_each_request_is_answered_once_and_bytes_are_conserved(changes: tuple[str, ...], gap_fs: int) -> None:
    found = bench(*TINY, *changes)
    rows = traffic(7, 1500, 40_000, gap_fs)
    answers = found.ask(rows)
    for i, row in enumerate(rows):
        assert answers[i][0] >= row[0] + (HIT - 1) * CYCLE_FS
    assert run.advance(found.state, found.port, max(a for a, _ in answers.values()) + 10**10) == layout.OK
    counts, below = found.state.summary(), found.state.memory.summary()
    assert counts["reads"] + counts["writes"] == len(rows) == found.state.histogram().sum()
    assert counts["read_bytes"] == sum(r[3] for r in rows if not r[4])
    assert counts["write_bytes"] == sum(r[3] for r in rows if r[4])
    assert counts["latency_fs"] == sum(answers[i][0] - row[0] for i, row in enumerate(rows))
    assert (counts["dram_read_bytes"], counts["dram_written_bytes"]) == (below["read_bytes"], below["write_bytes"])
    if gap_fs < 10**6:
        assert counts["stalls"] > 0


@settings(max_examples=25, deadline=None)
@given(
    seed=st.integers(0, 1000), step_fs=st.integers(100_001, 40_000_000), window=st.integers(1, 80),
    gap_fs=st.sampled_from([300_000, 3_000_000, 100_000_000]),
    parts=st.sampled_from([(), PARTS, ("memory.l2.banks=8", *PARTS), SHARED]),
    model=st.sampled_from([(), IDEAL]),
)  # fmt: skip
def test_no_cut_of_time_changes_an_answer(
    seed: int, step_fs: int, window: int, gap_fs: int, parts: Any, model: Any
) -> None:
    rows = traffic(seed, 200, 20_000, gap_fs)
    whole, cut = bench(*TINY, *parts, *model), bench(*TINY, *parts, *model, window_cycles=window)
    assert whole.ask(rows) == cut.ask(rows, step_fs)
    assert whole.state.summary() == cut.state.summary()


def test_cores_belong_to_partitions_as_they_are_listed() -> None:
    found = bench(*PARTS, "memory.l2.core_partitions=[0, 1]")
    assert home(found.state, 0) < 2
    found.ask([(0, 0, 0, 128, 0)])
    assert found.latency(10**10, 2, 0) == HIT * CYCLE_FS
    assert found.latency(2 * 10**10, 1, 0) == (HIT + FAR) * CYCLE_FS
    with pytest.raises(ConfigError, match="core_partitions: 2 is no partition of 2"):
        bench(*PARTS, "memory.l2.core_partitions=[0, 2]")


def test_answers_of_one_line_leave_one_after_the_other() -> None:
    times = sorted(time for time, _ in bench().ask([(0, core, 0, 128, 0) for core in range(CORES)]).values())
    assert np.diff(times).tolist() == [2 * CYCLE_FS] * (CORES - 1)


def test_reads_and_writes_share_the_rate_of_a_slice() -> None:
    """A write takes the place of its bytes among the answers: two cycles of 64 bytes a line."""
    found = bench()
    found.latency(0, 0, 0, 128)
    writes = (0, 0, 1, 1, 0)
    answers = found.ask([(10**10, i % CORES, 0, 128, write) for i, write in enumerate(writes)])
    after = [answers[i][0] - 10**10 - HIT * CYCLE_FS for i in range(len(writes))]
    assert after == [2 * i * CYCLE_FS for i in range(len(writes))]


def test_a_coalescer_asks_once_for_what_its_cores_read_at_the_same_time() -> None:
    found = bench("memory.l2.coalescers=2")
    rows = [(0, core, 0, size, 0) for core, size in ((0, 128), (1, 128), (2, 64), (3, 128))]
    answers = found.ask(rows)
    assert answers[0][0] == answers[2][0] and answers[1][0] == answers[3][0]
    assert found.state.summary()["bytes"] == 2 * 128 and found.state.summary()["reads"] == 4
    end = 10**10 + HIT * CYCLE_FS  # until then the answer is on its way back to the cores
    answers = found.ask([(10**10, 0, 0, 128, 0), (end - CYCLE_FS, 2, 0, 128, 0), (end, 2, 0, 128, 0)])
    assert answers[0][0] == answers[1][0] < answers[2][0]
    assert found.state.summary()["bytes"] == 4 * 128
    apart = found.ask([(2 * 10**10, 0, 0, 32, 0), (2 * 10**10, 2, 0, 64, 0)])  # the second wants more than the first
    assert found.state.summary()["bytes"] == 4 * 128 + 96 and len(apart) == 2


@pytest.mark.kernels
def test_a_few_requests_as_plain_python() -> None:
    found = bench(*TINY, *PARTS, "memory.l2.far_bytes_per_cycle=64")
    assert len(found.ask(traffic(3, 40, 2_000, 2_000_000), step_fs=200_000_000)) == 40


def test_without_a_cache_it_is_the_bare_memory() -> None:
    machine = chip()
    memory = machine.memory.model_copy(update={"l2": None})
    rows = traffic(1, 500, 100_000)
    found = Bench(make_hierarchy(memory, CORES, machine.clock_mhz), make_port(1024, 1024)).ask(rows)
    alone, bare = make_memory(machine), make_port(1024, 1024)
    for i, row in enumerate(rows):
        ring_push(bare.requests, bare.ring, *row, i)
    dram.advance(alone, bare, rows[-1][0] + 10**10)
    expected = {int(r[2]): (int(r[0]), int(r[3])) for r in bare.responses[: bare.heap_state[0]]}
    assert found == expected


def test_requests_that_cannot_be_are_refused() -> None:
    for row in ((0, 0, -4, 4, 0), (0, 0, 1 << 30, 4, 0), (0, 0, 0, 0, 0), (0, CORES, 0, 4, 0)):
        found = bench()
        ring_push(found.port.requests, found.port.ring, *row, 0)
        assert run.advance(found.state, found.port, 10**9) == layout.BAD_REQUEST
    with pytest.raises(ConfigError, match="slice_bytes"):
        bench("memory.l2.slice_bytes=192")


@pytest.mark.parametrize("changes", [(), PARTS, TINY], ids=str)
def test_a_flush_writes_every_dirty_sector_once(changes: tuple[str, ...]) -> None:
    found = bench(*changes)
    rows = [(10**9 + i * CYCLE_FS, i % CORES, i * 128, 128, 1) for i in range(600)]
    for row in rows:
        while not ring_push(found.port.requests, found.port.ring, *row, 0):
            found.port.grow_requests()
    assert run.hierarchy_flush(found.state, found.port, write_back=True) > rows[-1][0]
    assert found.port.heap_state[port.HEAP_SIZE] == len(rows)
    assert found.state.summary()["dram_written_bytes"] == 600 * 128 == found.state.memory.summary()["write_bytes"]
    run.hierarchy_flush(found.state, found.port, write_back=True)
    assert found.state.summary()["dram_written_bytes"] == 600 * 128


# ---- bandwidth


def test_hits_come_at_the_rate_of_the_slices() -> None:
    found = bench()
    found.ask(stream(256, 32768, per_cycle=1))
    before = found.state.summary()["misses"]
    rows = [(t + 10**11, *rest) for t, *rest in stream(8000, 32768)]
    assert 0.95 * 4 * 64 < rate(found, rows) <= 4 * 64
    assert found.state.summary()["misses"] == before


@pytest.mark.parametrize(
    ("banks", "sectors", "cycles"),
    [
        (1, (0, 1, 2, 3), 1),  # a sector of 32 bytes a cycle, less than the 64 that it could deliver
        (4, (0, 1, 2, 3), 1),  # each from another bank, which takes two cycles
        (4, (0, 2, 0, 2), 1),
        (4, (1, 1, 1, 1), 2),  # all from the same bank
        (8, (0, 1, 2, 3), 1),
        (8, (3, 3, 3, 3), 4),
        (8, (0, 4, 0, 4), 2),  # the line after the next lies in the same banks again
    ],
)
def test_sectors_of_one_bank_wait_for_each_other(banks: int, sectors: tuple[int, ...], cycles: int) -> None:
    """Sectors of lines that have been read before: the time between two answers is that of their banks."""
    found, count = bench(f"memory.l2.banks={banks}", "memory.l2.slices=1"), 200
    found.ask([(0, 0, 0, 512, 0)])
    start = 10**11
    rows = [(start, 0, 32 * sectors[i % 4], 32, 0) for i in range(count)]
    before = found.state.summary()["conflict_cycles"]
    times = sorted(time for time, _ in found.ask(rows).values())
    begins, free = [0], dict.fromkeys(range(banks), 0)
    for i in range(count):
        begins.append(max(begins[-1] + 1, free[sectors[i % 4] % banks]))
        free[sectors[i % 4] % banks] = begins[-1] + max(1, banks * 32 // 64)
    assert [time - times[0] for time in times] == [(begin - begins[1]) * CYCLE_FS for begin in begins[1:]]
    assert abs((begins[-1] - begins[1]) - (count - 1) * cycles) <= 1
    assert (found.state.summary()["conflict_cycles"] > before) == (cycles > 1)


@pytest.mark.parametrize("banks", [1, 2, 4, 8])
def test_banks_do_not_change_the_rate_of_whole_lines(banks: int) -> None:
    found = bench(f"memory.l2.banks={banks}")
    found.ask(stream(256, 32768, per_cycle=1))
    rows = [(t + 10**11, *rest) for t, *rest in stream(8000, 32768)]
    assert 0.95 * 4 * 64 < rate(found, rows) <= 4 * 64


def test_misses_come_at_the_rate_of_the_dram() -> None:
    found = bench("memory.l2.mshrs=256")
    peak = chip().dram_bytes_per_second / 1e9
    reached = rate(found, stream(8000, 1 << 28, per_cycle=8))
    assert 0.8 * peak < reached <= peak
    written = bench("memory.l2.mshrs=256")
    rows = stream(30_000, 1 << 28, per_cycle=8, write=1)
    kept = 4 * (16384 + 256 * 128) + 8 * 32 * 128  # bytes in lines, on the way to the DRAM and in its queues
    assert rate(written, rows) * (1 - kept / (30_000 * 128)) <= peak
    assert written.state.summary()["dram_read_bytes"] == 0  # whole sectors are not fetched


def test_a_working_set_fits_when_the_cache_is_doubled() -> None:
    span, shares = 96 * 1024, []
    for size in (16384, 32768):
        found = bench(f"memory.l2.size_bytes={size}", "memory.l2.mshrs=64")
        rows = stream(768 * 4, span, per_cycle=1)
        found.ask(rows)
        shares.append(found.state.summary()["misses"] / 768)
    assert shares[0] > 3 and shares[1] == 1.0


@pytest.mark.parametrize("changes", [("memory.l2.mshrs=64",), ("memory.l2.mshrs=64", *PARTS)], ids=str)
def test_two_cores_that_stream_share_fairly(changes: tuple[str, ...]) -> None:
    found = bench(*changes)
    half = 1 << 26
    rows = [(10**9 + i * CYCLE_FS // 16, 3 * (i & 1), (i & 1) * half + i // 2 * 128, 128, 0) for i in range(6000)]
    answers = found.ask(rows)
    middle = sorted(time for time, _ in answers.values())[len(rows) // 2]
    shares = [sum(answers[i][0] <= middle for i in range(core, len(rows), 2)) for core in range(2)]
    assert abs(shares[0] - shares[1]) < 0.05 * len(rows)


def test_the_link_between_partitions_bounds_far_hits() -> None:
    found = bench(*PARTS, "memory.l2.far_bytes_per_cycle=16", "memory.l2.replicate=false", "memory.l2.mshr_targets=1")
    far = [a for a in range(0, 32768, 128) if home(found.state, a) >= 2]
    found.ask([(10**9 + i * CYCLE_FS, 3, a, 128, 0) for i, a in enumerate(far)])
    rows = [(10**12 + i * CYCLE_FS, 0, far[i % len(far)], 128, 0) for i in range(2000)]
    assert 0.95 * 16 < rate(found, rows) <= 16


def test_equal_shares_fall_to_all_slices() -> None:
    for slices in (3, 4, 5, 80, 96):
        state = make_hierarchy(chip(f"memory.l2.slices={slices}", "memory.l2.slice_bytes=512").memory, CORES, 1000)
        homes = [ways.home_of(state.params, line)[0] for line in range(4 * slices * 64)]
        assert len(set(np.bincount(homes, minlength=slices))) == 1
        for line in range(0, 100_000, 977):
            assert ways.address_of(state.params, *ways.home_of(state.params, line)) == line * 128
