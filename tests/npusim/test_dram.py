"""The memory behind the port: rings, heaps, windows, tables that grow, bounds on bandwidth, and the ideal bus."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import pytest
from dram_fixture import (
    CAPACITY,
    FAR_FS,
    PARTS,
    Row,
    answers,
    changed,
    make,
    memory,
    part,
    peak,
    push,
    serve,
    tick_fs,
)
from hypothesis import given, settings
from hypothesis import strategies as st

from isa.errors import ConfigError
from isa.memory import Memory
from npusim.jit import specialisations
from npusim.memory import state as state_module
from npusim.memory.controller import layout as at
from npusim.memory.dram import BAD_REQUEST, CROWDED, FULL, OK, advance, memory_advance, memory_flush
from npusim.memory.port import (
    HEAP_SIZE,
    RING_HEAD,
    RING_PEAK,
    RSP_TAG,
    RSP_TIME_FS,
    MemoryPort,
    heap_pop,
    heap_push,
    make_port,
    ring_free,
    ring_push,
)
from npusim.memory.state import A_NEXT_FS, MAX_REQUEST_BYTES, MemoryState
from npusim.validate.dram import ramulator2, run_stream
from npusim.validate.dram_streams import make_stream


def advance_once(state: MemoryState, port: MemoryPort, until_fs: int) -> int:
    return memory_advance(*state.arrays, port.requests, port.ring, port.responses, port.heap_state, until_fs)


def mixed(count: int, seed: int = 1, pace_fs: int = 3_000_000, most: int = 900) -> list[Row]:
    """Random reads and writes over 16 KiB."""
    random = np.random.default_rng(seed)
    gaps = random.integers(0, 2 * pace_fs + 1, count)
    return [
        (int(t), int(random.integers(0, 1 << 14)), int(random.integers(1, most)), int(random.random() < 0.4))
        for t in np.cumsum(gaps)
    ]


# ---- port


@pytest.mark.kernels
@given(st.lists(st.tuples(st.integers(0, 5), st.integers(0, 100)), max_size=60))
@settings(deadline=None, max_examples=30)
def test_heap_gives_responses_by_time_then_by_creation(items):
    port = make_port(1, 64)
    for time_fs, tag in items:
        assert heap_push(port.responses, port.heap_state, time_fs, tag, 0)
    popped = []
    while port.heap_state[HEAP_SIZE]:
        popped.append((int(port.responses[0, RSP_TIME_FS]), int(port.responses[0, RSP_TAG])))
        heap_pop(port.responses, port.heap_state)
    assert popped == sorted(items, key=lambda item: item[0])  # Python's sort is stable


@pytest.mark.kernels
def test_full_buffers_refuse_and_growing_keeps_what_waits():
    port = make_port(2, 2)
    pushed = [ring_push(port.requests, port.ring, t, 0, t * 64, 64, 0, t) for t in range(3)]
    assert pushed == [True, True, False]
    assert ring_free(port.requests, port.ring) == 0
    port.ring[RING_HEAD] = 1
    assert ring_push(port.requests, port.ring, 3, 0, 0, 64, 0, 3)  # wraps around
    port.grow_requests()
    assert ring_free(port.requests, port.ring) == 2
    rows = np.arange(port.ring[RING_HEAD], port.ring[RING_HEAD] + 2) % len(port.requests)
    assert port.requests[rows, RSP_TIME_FS].tolist() == [1, 3]
    assert port.ring[RING_PEAK] == 2
    assert [heap_push(port.responses, port.heap_state, 9 - t, t, 0) for t in range(3)] == [True, True, False]
    port.grow_responses()
    assert heap_push(port.responses, port.heap_state, 0, 7, 0)
    assert port.responses[0, RSP_TAG] == 7
    with pytest.raises(ValueError, match="above 0"):
        make_port(0, 1)


@pytest.mark.kernels
def test_a_full_heap_stops_and_loses_nothing():
    """Answers that are drained make room; where all places are those of requests under way, the heap must grow."""
    described, rows = memory("hbm2-1760", 2), mixed(20, pace_fs=10_000_000)
    state, port, found, seen = make(described), make_port(20, 3), {}, set()
    push(port, rows)
    for until in range(0, rows[-1][0] + 10**9, 100_000_000):
        seen.add(status := advance_once(state, port, until))
        assert port.heap_state[HEAP_SIZE] + state.asked[0, state_module.A_OPEN] <= len(port.responses)
        if status == FULL and not port.heap_state[HEAP_SIZE]:
            port.grow_responses()
        while port.heap_state[HEAP_SIZE]:
            found[int(port.responses[0, RSP_TAG])] = int(port.responses[0, RSP_TIME_FS])
            heap_pop(port.responses, port.heap_state)
    assert seen == {OK, FULL} and [found[i] for i in range(20)] == serve(described, rows).times


@pytest.mark.kernels
def test_a_heap_that_grows_in_time_changes_nothing():
    described, rows = memory("hbm2-1760", 2), mixed(20)
    state, port = make(described), make_port(20, 1)
    push(port, rows)
    assert advance_once(state, port, FAR_FS) == FULL and port.ring[RING_HEAD] == 1
    assert advance(state, port, FAR_FS) == OK and len(port.responses) == 32
    assert [v[0] for _, v in sorted(answers(port).items())] == serve(described, rows).times


@pytest.mark.kernels
@pytest.mark.parametrize("word", ["ASKED_ROWS", "RUN_ROWS"])
def test_tables_that_grow_change_nothing(word, monkeypatch):
    described, rows = memory("hbm2-1760", 2), mixed(30, pace_fs=1000)
    wide = serve(described, rows)
    monkeypatch.setattr(state_module, word, 8)
    state, port = make(described), make_port(30, 30)
    push(port, rows)
    before = len(state.asked), len(state.runs)
    until = rows[-1][0] + FAR_FS // 1000
    assert advance_once(state, port, until) == CROWDED
    assert advance(state, port, until) == OK
    assert (len(state.asked), len(state.runs)) > before
    assert [v[0] for _, v in sorted(answers(port).items())] == wide.times
    memory_flush(*state.arrays, port.responses, port.heap_state)
    assert state.summary() == wide.counts


# ---- windows


@pytest.mark.parametrize("name", ["hbm2-1760", "hbm3-6400", "ddr4-3200", "lpddr5-6400"])
@given(
    seed=st.integers(0, 1 << 30), pace=st.sampled_from([0, 1_000_000, 20_000_000]),
    window=st.sampled_from([200_000, 700_001, 30_000_000]), queue=st.sampled_from([1, 3, 64]),
)  # fmt: skip
@settings(deadline=None, max_examples=8)
def test_windows_of_any_length_give_the_same(name, seed, pace, window, queue):
    """Answers and counters do not depend on where time is cut, and no answer comes before the promised time.

    Only what happens before the cut is decided; `A_NEXT_FS` is the earliest time at which there is something to do.
    """
    described = memory(name, 2, read_queue=queue, write_queue=queue, posted_writes=bool(seed % 2))
    rows = mixed(24, seed, pace)
    whole = serve(described, rows)
    state, port, random, until = make(described), make_port(64, 64), np.random.default_rng(seed), 0
    push(port, rows)
    while port.heap_state[HEAP_SIZE] < len(rows):
        until += int(random.integers(1, 2 * window + 1))
        assert advance_once(state, port, until) == OK
        assert port.ring[RING_HEAD] == sum(row[0] < until for row in rows)
        answered, promised = int(port.heap_state[HEAP_SIZE]), int(state.asked[0, A_NEXT_FS])
        if promised < FAR_FS and (port.ring[RING_HEAD] == len(rows) or rows[port.ring[RING_HEAD]][0] >= promised):
            assert advance_once(state, port, max(until, promised)) == OK
            assert port.heap_state[HEAP_SIZE] == answered
            until = max(until, promised)
    assert [v for _, v in sorted(answers(port).items())] == list(zip(whole.times, whole.waits))
    advance_once(state, port, rows[-1][0] + FAR_FS // 1000)
    memory_flush(*state.arrays, port.responses, port.heap_state)
    assert state.summary() == whole.counts


@pytest.mark.kernels
def test_a_cut_inside_of_everything_gives_the_same():
    """A small case, cut at every tick."""
    described, rows = memory("hbm2-1760"), mixed(8, seed=3)
    whole = serve(described, rows)
    state, port = make(described), make_port(64, 64)
    push(port, rows)
    for until in range(0, max(whole.times), tick_fs(described)):
        assert advance_once(state, port, until) == OK
        assert all(time >= row[0] for (time, _), row in zip(answers(port).values(), rows))
    assert advance_once(state, port, FAR_FS) == OK
    assert [v[0] for _, v in sorted(answers(port).items())] == whole.times


def test_one_compilation_serves_all():
    for name in ("hbm2-1760", "hbm3-6400"):
        for model in ("cycle", "ideal"):
            serve(memory(name, 2, model=model), mixed(5))
    assert specialisations(memory_advance) <= 1


@pytest.mark.parametrize("queue", [1, 2])
def test_a_request_that_arrives_while_the_queue_is_full_is_seen_when_it_arrives(queue):
    """It is known before (windows are longer), and the place becomes free in the same tick or just before."""
    described = memory("hbm2-1760", refresh="none", read_queue=queue)
    first = [(0, i * 64, 64, 0) for i in range(queue + 1)]
    done = serve(described, first).times[-1]
    for arrival in range(done - 30 * tick_fs(described), done + 3 * tick_fs(described), tick_fs(described)):
        last = serve(described, [*first, (arrival, 0, 32, 0)]).times[-1]
        assert last <= max(done, arrival) + 25 * tick_fs(described)


# ---- bounds


@pytest.mark.parametrize("name", PARTS)
def test_sequential_reads_come_near_the_peak_and_random_bursts_stay_far_below(name):
    described = memory(name, 4)
    pace = 512 / peak(described) / 1.3
    rows = [(int(i * pace), i * 512, 512, 0) for i in range(6000)]
    share = 6000 * 512 / peak(described) / serve(described, rows).last
    assert 0.85 <= share <= 1.0
    random = np.random.default_rng(3).integers(0, CAPACITY // 64, 3000) * 64
    last = serve(described, [(0, int(a), 32, 0) for a in random]).last
    assert 3000 * 32 / peak(described) / last < 0.55 * share


@given(
    name=st.sampled_from(PARTS), pace=st.sampled_from([0, 2_000_000, 50_000_000]), seed=st.integers(0, 1 << 30),
    queue=st.sampled_from([1, 3, 32]),
)  # fmt: skip
@settings(max_examples=60, deadline=None)
def test_every_byte_moves_once_and_never_above_the_peak(name, pace, seed, queue):
    described, rows = memory(name, 2, read_queue=queue, write_queue=queue), mixed(60, seed, pace)
    found = serve(described, rows)
    total = found.counts
    asked = [sum(row[2] for row in rows if row[3] == write) for write in (0, 1)]
    assert found.state.series.sum(axis=1).tolist() == asked == [total["read_bytes"], total["write_bytes"]]
    carried = int(sum(found.state.channel_counters()["read_bytes"] + found.state.channel_counters()["write_bytes"]))
    assert carried <= (total["read_bursts"] + total["write_bursts"]) * described.dram.burst_bytes
    assert total["forwarded"] > 0 or carried == (total["read_bursts"] + total["write_bursts"]) * part(name).burst_bytes
    assert carried / peak(described) <= found.last
    assert all(time > row[0] for time, row in zip(found.times, rows))
    assert all(0 <= wait <= time - row[0] for wait, time, row in zip(found.waits, found.times, rows))
    assert memory_flush(*found.state.arrays, found.port.responses, found.port.heap_state) == found.flushed
    assert found.port.heap_state[HEAP_SIZE] == 60


def test_wait_is_what_the_others_cost():
    described = memory("hbm2-1760", refresh="none")
    alone = serve(described, [(0, 0, 256, 0)])
    crowd = serve(described, [(0, i * 256, 256, 0) for i in range(32)])
    assert alone.waits[0] <= 4 * tick_fs(described) and crowd.times[0] == alone.times[0]
    assert all(a < b for a, b in itertools.pairwise(crowd.waits))
    assert crowd.waits[-1] == pytest.approx(31 * 256 / peak(described), rel=0.05)


@pytest.mark.kernels
def test_counters_and_series_add_up():
    described = memory("ddr4-3200", 3)
    rows = [(i * 20_000_000, (i * 40503) % (1 << 16), 1 + i % 700, int(i % 3 == 0)) for i in range(60)]
    found = serve(described, rows, regions=np.array([0, 1 << 12, 1 << 15]))
    total = found.counts
    assert total["reads"] + total["writes"] == 60 and total["writes"] == 20
    bursts = sum((r[1] + r[2] - 1) // 64 - r[1] // 64 + 1 for r in rows)
    assert total["read_bursts"] + total["write_bursts"] == bursts
    runs = total["row_hits"] + total["row_misses"] + total["row_conflicts"]
    assert found.state.regions[:, 1:].sum() == runs + total["forwarded"]
    assert (found.state.regions[:, 1:].sum(axis=1) > 0).all()
    sums = found.state.channel_counters()
    assert all(int(sums[name].sum()) == total[name] for name in ("row_hits", "activations", "refreshes", "busy_fs"))
    assert total["busy_fs"] == int((sums["read_bytes"] + sums["write_bytes"]).sum()) // 64 * 4 * tick_fs(described)
    latencies = sum(time - row[0] for time, row in zip(found.times, rows))
    assert (total["latency_fs"], total["wait_fs"]) == (latencies, sum(found.waits))
    assert int(found.state.counters[state_module.C_HISTOGRAM :].sum()) == 60
    width = found.state.series_bin_fs // 1_000_000
    assert width > 1 and width & (width - 1) == 0  # doubled on the way


# ---- refusals


@pytest.mark.kernels
@pytest.mark.parametrize(("address", "size", "status"), [
    (0, 1, OK), (0, 0, BAD_REQUEST), (-1, 4, BAD_REQUEST), (CAPACITY - 4, 4, OK), (CAPACITY - 4, 5, BAD_REQUEST),
    (0, 4096, OK), (0, MAX_REQUEST_BYTES + 1, BAD_REQUEST),
])  # fmt: skip
def test_requests_outside_the_memory_are_refused_in_place(address, size, status):
    state, port = make(memory("hbm2-1760", 8)), make_port(4, 4)
    ring_push(port.requests, port.ring, 0, 0, address, size, 0, 0)
    assert advance(state, port, FAR_FS) == status
    assert port.ring[RING_HEAD] == port.heap_state[HEAP_SIZE] == (status == OK)


def test_the_largest_request_is_served():
    assert serve(memory("hbm2-1760", 8), [(0, 0, MAX_REQUEST_BYTES, 0)]).counts["read_bytes"] == MAX_REQUEST_BYTES


def other(**fields: Any) -> Memory:
    return memory(part("hbm2-1760").model_copy(update=fields), 8)


@pytest.mark.parametrize(("described", "message"), [
    (other(banks_per_group=3), "banks_per_group is 3"), (other(page_bytes=16), "page_bytes over the bytes of a burst"),
    (other(bus_bits=24), "must be a power of two"), (other(bank_groups=64, banks_per_group=64), "at most 1024"),
    (memory("hbm2-1760", interleave=96), "interleave_bytes over the bytes of a burst is 3"),
    (memory("ddr4-3200", refresh="per_bank"), "per_bank needs memory.dram.timing.nRFCpb.*: use auto"),
    (memory("ddr4-3200", write_low=0.9), "write_low 0.9 is above write_high 0.8: lower it"),
])  # fmt: skip
def test_organisations_that_cannot_be_simulated_are_refused_with_the_remedy(described, message):
    with pytest.raises(ConfigError, match=message):
        make(described)


def test_a_refresh_that_never_ends_is_refused():
    dram = part("ddr4-3200")
    least = dram.timing.nRFC + dram.timing.nRP
    make(memory(changed(dram, nREFI=least + 1)))
    with pytest.raises(ConfigError, match=f"nREFI {least} must be above nRFC . nRP = {least}: raise it"):
        make(memory(changed(dram, nREFI=least)))


# ---- ideal model


@pytest.mark.kernels
def test_ideal_bus_is_exact_and_does_not_drift():
    """42.7 bytes a cycle of 1 GHz: after n back-to-back requests exactly ceil(n * bytes * fs per byte)."""
    described = memory("hbm2-1760", 8, model="ideal", ideal_bytes_per_cycle=42.7)
    found = serve(described, [(0, 0, 333, i % 2) for i in range(500)], ideal_latency_fs=7)
    for i, time in enumerate(found.times):
        assert time == -(-(i + 1) * 333 * 10**7 // 427) + 7
    assert found.waits[0] == 0
    assert found.counts["busy_fs"] == found.flushed == 0 and found.state.channel_counters() == {}


@pytest.mark.kernels
def test_ideal_default_bandwidth_is_the_peak_of_the_part_and_idle_requests_do_not_wait():
    described = memory("hbm2-2000", 8, model="ideal")  # 8 channels x 16 bytes a 1 ns tick
    found = serve(described, [(0, 0, 1280, 0), (10**9, 0, 1280, 0), (10**9 + 5_000_000, 64, 1280, 1)])
    assert found.times == [10_000_000, 10**9 + 10_000_000, 10**9 + 20_000_000]
    assert found.waits == [0, 0, 5_000_000]


def test_an_idle_memory_has_nothing_to_do_but_refresh():
    state, port = make(memory("ddr4-3200")), make_port(1, 1)
    assert advance(state, port, 10**12) == OK
    assert state.asked[0, A_NEXT_FS] >= FAR_FS and state.state[0, at.CH_SIZE0] == 0


# ---- any options

ANYTHING = st.fixed_dictionaries({
    "read_queue": st.sampled_from([1, 2, 8, 64]), "write_queue": st.sampled_from([1, 3, 32]),
    "entry_bytes": st.sampled_from([1, 64, 65536]), "write_high": st.sampled_from([0.5, 1]),
    "write_batch": st.sampled_from([None, 0.01, 2]), "protect_hits": st.sampled_from(["none", "all"]),
    "age_limit_ns": st.sampled_from([None, 1, 2000]), "columns_first": st.booleans(), "trains": st.booleans(),
    "opened_leave_queue": st.booleans(), "row_policy": st.sampled_from(["open", "closed"]),
    "refresh": st.sampled_from(["auto", "all_bank", "none"]), "refresh_postpone": st.sampled_from([0, 8]),
    "refresh_blocks": st.booleans(), "posted_writes": st.booleans(), "hashing": st.sampled_from(["none", "xor"]),
})  # fmt: skip


@pytest.mark.parametrize("name", ["hbm2-1760", "ddr4-3200", "lpddr5-6400"])
@given(options=ANYTHING, seed=st.integers(0, 1 << 20), pace_fs=st.sampled_from([0, 3_000_000, 100_000_000]))
@settings(max_examples=30, deadline=None)
def test_whatever_the_options_everything_is_answered_and_windows_change_nothing(name, options, seed, pace_fs):
    described, rows = memory(name, 2, **options), mixed(60, seed, pace_fs)
    whole = serve(described, rows)
    state, port = make(described), make_port(60, 60)
    push(port, rows)
    end = rows[-1][0] + FAR_FS // 100_000
    for until in np.linspace(0, end, 40, dtype=np.int64).tolist():
        assert advance(state, port, until) == OK
    assert advance(state, port, rows[-1][0] + FAR_FS // 1000) == OK
    found = answers(port)
    assert [found[i][0] for i in range(60)] == whole.times


def test_streams_pass_queues_of_one_place():
    """Head-of-line blocking: the next request goes in when the place is free, although nothing else happens then."""
    part_of, stream = part("hbm2-2000"), make_stream("a", "N=200", 32, 1, (0, 1))
    ticks = [
        run_stream(part_of, ramulator2(read_queue=places, write_queue=places, refresh="none"), 1, 256, stream)["cycles"]
        for places in (1, 2)
    ]
    assert ticks[1] < ticks[0] < 40 * 200
