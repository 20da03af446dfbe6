"""The memory behind the port: rings, heaps, the ideal bus, and what DRAM streams reach."""

from __future__ import annotations

import functools
import itertools
from collections.abc import Iterable
from importlib.resources import files

import numpy as np
import pytest
from dram_twin import folded
from hypothesis import given, settings
from hypothesis import strategies as st

from isa.errors import ConfigError
from isa.loader import load_machine
from isa.machine import Machine
from npusim.jit import specialisations
from npusim.memory.dram import BAD_REQUEST, FULL, OK, advance, memory_advance
from npusim.memory.port import (
    HEAP_SIZE,
    RING_HEAD,
    RING_PEAK,
    RING_TAIL,
    RSP_TAG,
    RSP_TIME_FS,
    RSP_WAIT_FS,
    MemoryPort,
    heap_pop,
    heap_push,
    make_port,
    ring_free,
    ring_push,
)
from npusim.memory.state import MAX_REQUEST_BYTES, MemoryState, make_memory
from npusim.memory.writes import memory_flush

pytestmark = pytest.mark.kernels
PARTS = sorted(f.name.removesuffix(".yaml") for f in (files("configs") / "parts" / "dram").iterdir())
Row = tuple[int, int, int, int]  # time_fs, address, size, write


@functools.cache
def machine_with(*overrides: str) -> Machine:
    """tpu-v3 with other memory fields."""
    fields = ("memory.channels=8", f"memory.capacity_bytes={1 << 29}", *overrides)
    return load_machine("tpu-v3", [f"memory.{s.removeprefix('memory.')}" for s in fields]).machine


def serve(machine: Machine, rows: Iterable[Row], **options: int) -> tuple[list[tuple[int, int]], MemoryState]:
    """Serve the rows on an idle memory; return (completion, wait) in fs of each, and the memory."""
    state = make_memory(machine, **options)
    listed = list(rows)
    port = make_port(len(listed), len(listed))
    for tag, (time_fs, address, size, write) in enumerate(listed):
        assert ring_push(port.requests, port.ring, time_fs, 0, address, size, write, tag)
    assert advance(state, port, 1 << 62) == OK
    found = port.responses[np.argsort(port.responses[:, RSP_TAG])]
    assert found[:, RSP_TAG].tolist() == list(range(len(listed)))  # all answered, exactly once
    return [(int(r[RSP_TIME_FS]), int(r[RSP_WAIT_FS])) for r in found], state


def advance_once(state: MemoryState, port: MemoryPort, until_fs: int) -> int:
    return memory_advance(
        state.params, state.bank_state, state.channel_state, state.counters, state.series, state.reads,
        port.requests, port.ring, port.responses, port.heap_state, until_fs,
    )  # fmt: skip


# Port


@given(st.lists(st.tuples(st.integers(0, 5), st.integers(0, 100)), max_size=60))
@settings(deadline=None)
def test_heap_gives_responses_by_time_then_by_creation(items):
    port = make_port(1, 64)
    for time_fs, tag in items:
        assert heap_push(port.responses, port.heap_state, time_fs, tag, 0)
    popped = []
    while port.heap_state[HEAP_SIZE]:
        popped.append((int(port.responses[0, RSP_TIME_FS]), int(port.responses[0, RSP_TAG])))
        heap_pop(port.responses, port.heap_state)
    assert popped == sorted(items, key=lambda item: item[0])  # Python's sort is stable


def test_full_buffers_refuse_and_growing_keeps_what_waits():
    port = make_port(2, 2)
    pushed = [ring_push(port.requests, port.ring, t, 0, t * 64, 64, 0, t) for t in range(3)]
    assert pushed == [True, True, False]
    assert ring_free(port.requests, port.ring) == 0
    port.ring[RING_HEAD] = 1
    assert ring_push(port.requests, port.ring, 3, 0, 0, 64, 0, 3)  # wraps around
    port.grow_requests()
    assert ring_free(port.requests, port.ring) == 2
    rows = np.arange(port.ring[RING_HEAD], port.ring[RING_TAIL]) % len(port.requests)
    assert port.requests[rows, RSP_TIME_FS].tolist() == [1, 3]
    assert port.ring[RING_PEAK] == 2
    assert [heap_push(port.responses, port.heap_state, 9 - t, t, 0) for t in range(3)] == [True, True, False]
    port.grow_responses()
    assert heap_push(port.responses, port.heap_state, 0, 7, 0)
    assert port.responses[0, RSP_TAG] == 7
    with pytest.raises(ValueError, match="above 0"):
        make_port(0, 1)


def test_a_full_heap_loses_nothing():
    machine = machine_with("write_queue_runs=0")  # served in order, so there is always something to drain
    rows = [(t * 1000, t * 512, 512, 0) for t in range(20)]
    state, port = make_memory(machine), make_port(20, 3)
    for tag, row in enumerate(rows):
        ring_push(port.requests, port.ring, row[0], 0, *row[1:], tag)
    found = {}
    while True:
        status = advance_once(state, port, 1 << 62)
        while port.heap_state[HEAP_SIZE]:
            found[int(port.responses[0, RSP_TAG])] = int(port.responses[0, RSP_TIME_FS])
            heap_pop(port.responses, port.heap_state)
        if status == OK:
            break
        assert status == FULL
    assert [found[i] for i in range(20)] == [time for time, _ in serve(machine, rows)[0]]


def test_reads_that_wait_take_their_places_in_the_heap():
    machine = machine_with("channels=1")
    state, port = make_memory(machine), make_port(20, 3)
    for tag in range(4):
        ring_push(port.requests, port.ring, 0, 0, tag * 512, 512, 0, tag)
    assert advance_once(state, port, 1) == FULL and port.ring[RING_HEAD] == 3 and port.heap_state[HEAP_SIZE] == 0
    assert advance(state, port, 1 << 62) == OK and port.heap_state[HEAP_SIZE] == 4


def test_windows_of_any_length_give_the_same_and_stop_before_their_end():
    machine = machine_with()
    rows = [(t * 700_000, (t * 7919) % 4096 * 64, 300, t % 2) for t in range(50)]
    whole, _ = serve(machine, rows)
    state, port = make_memory(machine), make_port(64, 64)
    for tag, row in enumerate(rows):
        ring_push(port.requests, port.ring, row[0], 0, *row[1:], tag)
    for until in range(0, 36_000_000, 100_000):
        assert advance_once(state, port, until) == OK
        assert port.ring[RING_HEAD] == sum(row[0] < until for row in rows)
    assert advance_once(state, port, 1 << 62) == OK  # decisions that came later
    found = port.responses[:50][np.argsort(port.responses[:50, RSP_TAG])]
    assert found[:, RSP_TIME_FS].tolist() == [time for time, _ in whole]
    assert specialisations(memory_advance) == 1


# DRAM


def sequential(machine: Machine, count: int, size: int = 512, write: int = 0) -> list[Row]:
    """A stream offered at 1.3 times the peak: always enough in flight."""
    pace = size / machine.dram_bytes_per_second * 1e15 / 1.3
    return [(int(i * pace), i * size, size, write) for i in range(count)]


@pytest.mark.parametrize("part", PARTS)
def test_sequential_reads_reach_85_percent_and_random_sectors_stay_far_below(part):
    machine = machine_with(f"dram={part}")
    peak_fs_per_byte = 1e15 / machine.dram_bytes_per_second
    rows = sequential(machine, 20_000)
    last = max(time for time, _ in serve(machine, rows)[0])
    share = 20_000 * 512 * peak_fs_per_byte / last
    assert 0.85 <= share <= 1.0
    rng = np.random.default_rng(3)
    addresses = rng.integers(0, machine.memory.capacity_bytes // 32, 20_000) * 32
    last = max(time for time, _ in serve(machine, [(0, int(a), 32, 0) for a in addresses])[0])
    assert 20_000 * 32 * peak_fs_per_byte / last < 0.45 * share


@pytest.mark.parametrize("part", PARTS)
@pytest.mark.parametrize("write", [0, 1])
def test_an_idle_memory_makes_nobody_wait(part, write):
    """Miss, hit, then conflict, each long after the other: the latency is exactly that of the part, no wait."""
    machine = machine_with(f"dram={part}", "write_queue_runs=0")
    dram, timing = machine.memory.dram, machine.memory.dram.timing
    tck_fs = round(dram.tck_ps * 1000)
    lap = dram.page_bytes * dram.bank_groups * dram.banks_per_group * machine.memory.channels
    same = next(row for row in itertools.count(1) if folded(row, dram.banks_per_group) % dram.banks_per_group == 0)
    conflict = lap * (same if dram.banks_per_group > 2 else 1)  # the rotation by rows comes back to the same bank
    rows = [(t * 200 * tck_fs, address, 32, write) for t, address in enumerate((0, 32, conflict))]
    got, state = serve(machine, rows)
    rcd, cl = (timing.nRCDWR, timing.nCWL) if write else (timing.nRCDRD, timing.nCL)
    data = cl + dram.burst_length // dram.data_rate
    second = data if dram.burst_bytes > 32 or dram.bank_groups == 1 else rcd + data  # else: next bank group, a miss
    assert [time - row[0] for (time, _), row in zip(got, rows)] == [
        (rcd + data) * tck_fs, second * tck_fs, (timing.nRP + rcd + data) * tck_fs
    ]  # fmt: skip
    assert [wait for _, wait in got] == [0, 0, 0]
    assert state.summary()["row_conflicts"] == 1


def test_wait_is_what_the_others_cost():
    machine = machine_with("channels=1")
    size = 256
    alone, _ = serve(machine, [(0, 0, size, 0)])
    crowd, _ = serve(machine, [(0, i * size, size, 0) for i in range(32)])
    assert alone[0][1] == 0 and crowd[0] == alone[0]
    waits = [wait for _, wait in crowd]
    assert all(a < b for a, b in itertools.pairwise(waits[:16]))  # one page; the next one's ACT hides behind it
    burst_fs = size // 32 * 2 * 1_136_000
    assert waits[-1] == pytest.approx(31 * burst_fs, rel=0.05)


def test_arrival_between_ticks_waits_for_the_next_edge():
    machine = machine_with("dram=hbm2-2000")
    times = [serve(machine, [(t, 0, 32, 0)])[0][0][0] for t in (0, 1, 999_999, 1_000_000, 1_000_001)]
    assert [t - times[0] for t in times] == [0, 1_000_000, 1_000_000, 1_000_000, 2_000_000]


def test_refresh_stops_a_channel_for_trfc_and_idle_time_catches_up_at_once():
    machine = machine_with("dram=hbm2-2000", "channels=1")
    tick = 1_000_000
    quiet, _ = serve(machine, [(3899 * tick, 0, 32, 0)])
    hit_by_it, state = serve(machine, [(3900 * tick, 0, 32, 0)])
    assert quiet[0] == ((3899 + 14 + 14 + 2) * tick, 0)
    assert hit_by_it[0] == ((3900 + 350 + 14 + 14 + 2) * tick, 350 * tick)
    assert state.summary()["refreshes"] == 1
    long_after, state = serve(machine, [((10**6 * 3900 + 1000) * tick, 0, 32, 0)])
    assert long_after[0][1] == 0
    assert state.summary()["refreshes"] == 10**6


def test_counters_and_series_add_up():
    machine = machine_with()
    rows = [(i * 5_000, (i * 40503) % (1 << 20), 1 + i % 700, int(i % 3 == 0)) for i in range(3000)]
    answers, state = serve(machine, rows)
    last = memory_flush(state.params, state.bank_state, state.channel_state, state.counters, state.series)
    last = max(last, *(time for time, _ in answers))
    total = state.summary()
    assert total["reads"] + total["writes"] == 3000
    assert total["read_bytes"] == sum(r[2] for r in rows if not r[3])
    assert total["write_bytes"] == sum(r[2] for r in rows if r[3])
    bursts = sum((r[1] + r[2] - 1) // 32 - r[1] // 32 + 1 for r in rows)
    assert total["read_bursts"] + total["write_bursts"] == bursts
    assert total["row_hits"] + total["row_misses"] + total["row_conflicts"] == bursts
    assert total["busy_fs"] == bursts * 2 * 1_136_000
    assert state.series.sum(axis=1).tolist() == [total["read_bytes"], total["write_bytes"]]
    width = state.series_bin_fs // 1_000_000
    assert width > 1 and width & (width - 1) == 0  # doubled on the way
    assert state.series_bin_fs * 256 <= last < state.series_bin_fs * 512


def test_rotated_channels_spread_a_power_of_two_pitch():
    machine = machine_with()
    rows = [(0, i * 2048, 256, 0) for i in range(512)]  # 8 channels x 256 bytes: all in one channel
    plain = max(time for time, _ in serve(machine, rows)[0])
    rotated = max(time for time, _ in serve(machine, rows, rotate_channels=True)[0])
    assert rotated * 6 < plain


COUNT = 1024  # requests


def share_of_streams(count, *overrides):
    """Share of the peak of `count` sequential streams that take turns, in rows far apart."""
    machine = machine_with(*overrides)
    rows = [(0, i // count * 512 + i % count * 40503 * 512, 512, 0) for i in range(COUNT)]
    last = max(time for time, _ in serve(machine, rows, rotate_channels=True)[0])
    return COUNT * 512 / machine.dram_bytes_per_second * 1e15 / last


@pytest.mark.parametrize("count", [2, 3, 4, 6])
def test_row_hits_first_keeps_the_bandwidth_of_streams_that_share_channels(count):
    """In order they close each other's rows; among 32 runs there are enough of one row to pay for opening it."""
    alone = share_of_streams(1)
    assert share_of_streams(count) > 0.85 * alone
    assert share_of_streams(count, "read_queue_runs=1") < 0.8 * share_of_streams(count)


def test_a_read_is_passed_by_half_of_the_queue_at_most():
    """Row hits arrive without end; a read of another row of the bank goes after 16 of them, not after all."""
    machine = machine_with("channels=1")
    other = next(r for r in itertools.count(1) if folded(r, 4) % 4 == 0) * 4 * 8192
    rows = [(0, 0, 256, 0), (1, other, 256, 0), *((2, 256 * i, 256, 0) for i in range(1, 32))]
    times = [time for time, _ in serve(machine, rows)[0]]
    assert sum(time < times[1] for time in times) == 16
    in_order = [time for time, _ in serve(machine_with("channels=1", "read_queue_runs=1"), rows)[0]]
    assert in_order == sorted(in_order)


@pytest.mark.parametrize("distance_bits", range(20, 28))
def test_two_streams_at_a_power_of_two_distance_do_not_meet_in_one_bank(distance_bits):
    machine = machine_with()
    alone = [(0, i * 512, 512, 0) for i in range(512)]
    both = [(0, (i // 2) * 512 + (i % 2 << distance_bits), 512, 0) for i in range(512)]
    streams = [max(time for time, _ in serve(machine, rows, rotate_channels=True)[0]) for rows in (alone, both)]
    assert streams[1] < 1.35 * streams[0]


@pytest.mark.parametrize(("address", "size", "status"), [
    (0, 1, OK), (0, 0, BAD_REQUEST), (-1, 4, BAD_REQUEST), ((1 << 29) - 4, 4, OK), ((1 << 29) - 4, 5, BAD_REQUEST),
    (0, MAX_REQUEST_BYTES, OK), (0, MAX_REQUEST_BYTES + 1, BAD_REQUEST),
])  # fmt: skip
def test_requests_outside_the_memory_are_refused_in_place(address, size, status):
    state, port = make_memory(machine_with()), make_port(4, 4)
    ring_push(port.requests, port.ring, 0, 0, address, size, 0, 0)
    assert advance(state, port, 1 << 62) == status
    assert port.ring[RING_HEAD] == (status == OK)
    assert port.heap_state[HEAP_SIZE] == (status == OK)


@pytest.mark.parametrize(("change", "message"), [
    ({"banks_per_group": 3}, "banks_per_group is 3"), ({"page_bytes": 16}, "at least one burst"),
    ({"bus_bits": 24}, "must be a power of two"),
])  # fmt: skip
def test_organisations_that_cannot_be_mapped_are_refused(change, message):
    machine = machine_with()
    dram = machine.memory.dram.model_copy(update=change)
    broken = machine.model_copy(update={"memory": machine.memory.model_copy(update={"dram": dram})})
    with pytest.raises(ConfigError, match=message):
        make_memory(broken)


def test_refresh_that_never_ends_is_refused():
    machine = machine_with()
    dram = machine.memory.dram
    least = dram.timing.nRFC + dram.timing.nRP
    for interval, legal in ((least, False), (least + 1, True)):
        part = dram.model_copy(update={"timing": dram.timing.model_copy(update={"nREFI": interval})})
        changed = machine.model_copy(update={"memory": machine.memory.model_copy(update={"dram": part})})
        if legal:
            make_memory(changed)
        else:
            with pytest.raises(ConfigError, match="nREFI"):
                make_memory(changed)


# Ideal model


def test_ideal_bus_is_exact_and_does_not_drift():
    """42.7 bytes a cycle at 940 MHz: after n back-to-back requests exactly ceil(n * bytes * fs per byte)."""
    machine = machine_with("model=ideal", "ideal_bytes_per_cycle=42.7")
    count, size = 5000, 333
    got, state = serve(machine, [(0, 0, size, i % 2) for i in range(count)], ideal_latency_fs=7)
    per_byte_num, per_byte_den = 10**12 * 10, 940_000 * 427
    for i, (time, _) in enumerate(got):
        assert time == -(-(i + 1) * size * per_byte_num // per_byte_den) + 7
    assert got[0][1] == 0
    assert state.summary()["busy_fs"] == 0


def test_ideal_default_bandwidth_is_the_peak_of_the_part_and_idle_requests_do_not_wait():
    machine = machine_with("model=ideal", "dram=hbm2-2000")  # 8 channels x 16 bytes a 1 ns tick
    got, _ = serve(machine, [(0, 0, 1280, 0), (10**9, 0, 1280, 0), (10**9 + 5_000_000, 64, 1280, 1)])
    assert got == [(10_000_000, 0), (10**9 + 10_000_000, 0), (10**9 + 20_000_000, 5_000_000)]
