"""Writes behind the port: when they are answered, which reads they meet, how they are gathered, and the flush."""

from __future__ import annotations

import numpy as np
import pytest
from dram_fixture import (
    CAPACITY,
    Row,
    Served,
    answers,
    changed,
    conflicting,
    kept,
    make,
    memory,
    part,
    peak,
    push,
    serve,
)
from dram_twin import Twin
from engine_fixture import finish, small_machine
from functional_fixture import Asm
from hypothesis import given, settings
from hypothesis import strategies as st

from isa.errors import ConfigError
from isa.loader import load_machine
from isa.memory import Memory
from isa.params import resolve
from npusim.memory.controller import layout as at
from npusim.memory.dram import OK, advance, memory_flush
from npusim.memory.port import make_port
from npusim.memory.queues import count_latency
from npusim.memory.state import C_COUNT, C_HISTOGRAM
from npusim.record import percentile
from npusim.stepper import step

TICK = 1_000_000  # of hbm2-2000


def two_streams(described: Memory, count: int, size: int = 512) -> list[Row]:
    """A read and a write stream in halves of the memory, alternating, offered at 1.3 times the peak."""
    pace = size / peak(described) / 1.3
    return [(int(i * pace), i // 2 * size + i % 2 * CAPACITY // 2, size, i % 2) for i in range(count)]


def share(described: Memory, rows: list[Row]) -> tuple[float, Served]:
    """Share of the peak until everything is written."""
    found = serve(described, rows)
    return sum(row[2] for row in rows) / peak(described) / found.last, found


# ---- answers


@pytest.mark.kernels
def test_a_posted_write_is_answered_a_tick_after_it_has_a_place():
    """Four places of 64 bytes: four writes go in at once; the others a tick after one before them has gone."""
    described = memory("hbm2-2000", write_queue=4, refresh="none")
    found = serve(described, [(0, i * 64, 64, 1) for i in range(7)], kept_commands=40)
    log = [c for c in kept(found.state, described.dram) if c.kind == "WR"]
    columns = [c.tick for c in log]
    # A write is two bursts in one bank, and the next one goes to the other bank.
    second = [[c.tick for c in log if c.place == place][1::2] for place in {c.place for c in log}]
    gone = sorted(tick for ticks in second for tick in ticks)[:3]
    assert found.times == [TICK] * 4 + [(tick + 2) * TICK for tick in gone]
    assert found.waits == found.times
    assert found.flushed == (columns[-1] + described.dram.timing.nCWL + 2) * TICK


@pytest.mark.kernels
@pytest.mark.parametrize("late", [0, 1, 5])
def test_a_posted_write_is_not_answered_before_it_has_arrived(late):
    described = memory("hbm2-2000", refresh="none")
    assert serve(described, [(late * TICK, 0, 64, 1)]).times == [(late + 1) * TICK]


@pytest.mark.kernels
def test_a_write_that_is_not_posted_is_answered_at_the_end_of_its_data():
    described = memory("hbm2-2000", refresh="none", posted_writes=False)
    t = described.dram.timing
    found = serve(described, [(0, 0, 32, 1), (0, 64, 32, 1)], kept_commands=20)
    columns = [c.tick for c in kept(found.state, described.dram) if c.kind == "WR"]
    assert found.times == [(c + t.nCWL + 2) * TICK for c in columns] and found.flushed == found.times[1]
    at_command = memory("hbm2-2000", refresh="none", posted_writes=False, write_done="command")
    assert serve(at_command, [(0, 0, 32, 1)]).times == [columns[0] * TICK]


@pytest.mark.kernels
def test_a_flush_writes_everything_and_answers_nobody_twice():
    described = memory("hbm2-2000", 2, write_queue=8)
    rows = [(0, i * 300, 300, 1) for i in range(12)]
    state, port = make(described), make_port(16, 16)
    push(port, rows)
    assert advance(state, port, 2 * TICK) == OK
    assert 0 < len(answers(port)) < 12
    last = memory_flush(*state.arrays, port.responses, port.heap_state)
    assert len(answers(port)) == 12 and int(state.series[1].sum()) == 12 * 300
    assert last == serve(described, rows).flushed > max(time for time, _ in answers(port).values()) - TICK
    assert memory_flush(*state.arrays, port.responses, port.heap_state) == last


# ---- reads that meet writes


@pytest.mark.kernels
@pytest.mark.parametrize(("address", "size", "meets"), [
    (0, 64, "whole"), (64, 32, "whole"), (0, 512, "part"), (0, 256, "part"), (128, 64, ""), (8192, 64, ""),
])  # fmt: skip
def test_a_read_of_queued_data_is_forwarded_whole_or_waits(address, size, meets):
    """The write of 128 bytes is queued behind a bank that is being opened; the read comes a tick later."""
    described = memory("hbm2-2000", refresh="none")
    read = (TICK, address, size, 0)
    alone = serve(described, [read]).times[0]
    found = serve(described, [(0, 0, 128, 1), read], kept_commands=40)
    if meets == "whole":
        assert found.times[1] == 2 * TICK and found.counts["forwarded"] == 1
    else:
        assert found.counts["forwarded"] == 0
        assert (found.times[1] > alone + 10 * TICK) == (meets == "part")
    log = kept(found.state, described.dram)
    columns = [c.kind for c in log if c.kind in ("RD", "WR")]
    if meets == "part":
        assert columns == ["WR"] * 4 + ["RD"] * (len(columns) - 4)
    assert found.counts["write_bytes"] == 128 and columns.count("WR") == 4


@pytest.mark.kernels
def test_a_read_that_is_not_forwarded_sees_nothing_of_what_was_written_before():
    """After the write is out, the same read goes to the bank: a row hit."""
    described = memory("hbm2-2000", refresh="none")
    found = serve(described, [(0, 0, 64, 1), (100 * TICK, 0, 64, 0)])
    assert found.counts["forwarded"] == 0 and found.counts["row_hits"] == 1


# ---- gathering


@pytest.mark.parametrize("name", ["hbm2-1760", "hbm3-6400", "ddr4-3200", "lpddr5-6400", "gddr6-14000"])
def test_more_places_turn_the_bus_less_often_and_reach_more(name):
    shares, turns = [], []
    for places in (16, 40, 128):
        described = memory(name, 2, write_queue=places)
        reached, found = share(described, two_streams(described, 3000))
        shares.append(reached)
        turns.append(found.counts["turnarounds"])
    assert turns[0] > 1.4 * turns[1] > 1.4 * 1.4 * turns[2]
    assert min(shares[1:]) > 1.04 * shares[0] and shares[2] > 0.9


@pytest.mark.kernels
def test_writes_go_first_above_the_high_mark_and_until_the_low_one():
    """Reads keep coming. With 10 places, writes begin with the ninth and stop when fewer than two are left."""
    described = memory("hbm2-2000", refresh="none", write_queue=10, read_queue=64)
    for writes, batch in ((8, 0), (9, 8)):
        rows = [(0, 1 << 20 | i * 64, 64, 0) for i in range(40)]
        rows += [(0, i * 64, 64, 1) for i in range(writes)]
        found = serve(described, rows, kept_commands=200)
        columns = [c.kind for c in sorted(kept(found.state, described.dram), key=lambda c: c.tick)]
        columns = [kind for kind in columns if kind in ("RD", "WR")]
        last_read = max(i for i, kind in enumerate(columns) if kind == "RD")
        assert 2 * batch <= columns[:last_read].count("WR") <= 2 * batch + 1  # the next run may have begun


@pytest.mark.kernels
def test_a_low_mark_of_zero_does_not_keep_reads_waiting():
    described = memory("hbm2-2000", refresh="none", write_low=0, write_queue=4)
    found = serve(described, [(0, i * 64, 64, i % 2) for i in range(20)])
    assert found.last < 1000 * TICK


@pytest.mark.kernels
def test_an_idle_channel_writes_what_it_has_and_the_next_read_hardly_waits():
    described = memory("hbm2-2000", refresh="none")
    other = conflicting(described) + 2 * part("hbm2-2000").page_bytes
    writes = [(0, i * 64, 64, 1) for i in range(4)]
    state, port = make(described), make_port(8, 8)
    push(port, writes)
    assert advance(state, port, 40 * TICK) == OK and int(state.series[1].sum()) == 256
    read = (400 * TICK, other, 32, 0)
    assert serve(described, [*writes, read]).times[-1] == serve(described, [read]).times[0]


def lone(described: Memory, pages: int) -> tuple[int, int]:
    """Ticks that a read of another row waits while row hits of `pages` rows fill the bus; and the end of all."""
    stripe, at_fs = described.dram.page_bytes * 2, 40 * TICK
    hits = [(i * 4 * TICK, i % pages * stripe + i // pages * 64 % stripe, 64, 0) for i in range(900)]
    read = (at_fs, conflicting(described), 64, 0)
    rows = sorted([*hits, read])
    found = serve(described, rows)
    return (found.times[rows.index(read)] - at_fs) // TICK, found.last // TICK


@pytest.mark.parametrize("pages", [1, 2])
def test_a_read_of_another_row_is_not_starved_by_row_hits(pages):
    """It is the oldest soon; after the age limit its row is opened, and not before. Without a limit it comes last."""
    waited, _ = lone(memory("hbm2-2000", refresh="none", read_queue=32, age_limit_ns=500), pages)
    assert 500 < waited < 500 + 150
    waited, end = lone(memory("hbm2-2000", refresh="none", read_queue=32, age_limit_ns=None), pages)
    assert waited > end - 100 > 3000


@pytest.mark.parametrize("rate", [0.5, 0.9, 1.2])
def test_a_read_is_not_starved_by_writes(rate):
    """Writes are offered at a share of the peak; one read comes in the middle."""
    described = memory("hbm2-2000", refresh="none")
    writes = [(int(i * 64 / peak(described) / rate), i * 64, 64, 1) for i in range(2000)]
    read = (2000 * TICK, CAPACITY // 2, 64, 0)
    rows = sorted([*writes, read])
    longest = 2 * 40 * 4 if rate > 1 else 0  # a batch of writes: two queues, a place is two bursts of two ticks
    assert serve(described, rows).times[rows.index(read)] - read[0] < (200 + longest) * TICK


@given(
    rows=st.lists(st.tuples(st.integers(0, 1 << 12), st.integers(1, 400), st.integers(0, 1)), min_size=1, max_size=40),
    pace=st.sampled_from([0, 2_000_000, 50_000_000]), places=st.sampled_from([1, 3, 32]), posted=st.booleans(),
)  # fmt: skip
@settings(max_examples=60, deadline=None)
def test_a_read_never_overtakes_a_write_of_its_data(rows, pace, places, posted):
    """In the log: a read burst of a place goes after every write burst of it that was asked before in an earlier tick,
    or the read was forwarded."""
    described = memory(changed(part("hbm2-2000"), nREFI=1 << 20), write_queue=places, posted_writes=posted)
    stream = [(i * pace, address, size, write) for i, (address, size, write) in enumerate(rows)]
    found = serve(described, stream, kept_commands=2000)
    twin = Twin(described)
    last_write: dict[int, int] = {}
    for i, (time_fs, address, size, write) in enumerate(stream):
        touched = range(address // 32, (address + size - 1) // 32 + 1)
        if write:
            for burst in touched:
                last_write[burst] = time_fs // TICK
        elif pace and any(last_write.get(b, -1) >= 0 for b in touched):
            assert found.times[i] > max(last_write.get(b, -1) for b in touched) * TICK
    places_written = {twin.locate(b)[2:4] for b in last_write}
    log = kept(found.state, described.dram)
    assert {(c.place, c.row) for c in log if c.kind == "WR"} == places_written
    asked = sum(len(range(a // 32, (a + n - 1) // 32 + 1)) for _, a, n, w in stream if w)
    assert sum(c.kind == "WR" for c in log) == asked


# ---- the end of a program


@pytest.mark.parametrize("posted", [False, True])
def test_a_launch_ends_when_its_writes_are_in_memory(posted):
    """A store that its path could move far above the peak of the memory takes the time of the memory."""
    store = {"queue_depth": 2, "outstanding": 64, "request_bytes": 64}
    changes = {"memory.model": "cycle", "memory.controller": {"posted_writes": posted}, "core.dma.store": store}
    machine = small_machine("inorder", **changes)
    paths = [p.model_copy(update={"bytes_per_cycle": 512.0}) for p in machine.core.paths]
    machine = machine.model_copy(update={"core": machine.core.model_copy(update={"paths": paths})})
    asm = Asm()
    for i in range(3):
        asm.op("cp", asm.d("dram", "fp32", (16, 64), i * 4096), asm.d("spm", "fp32", (16, 64), 0), unit=1)
    record = step(finish(asm, vliw=False), resolve(machine))
    assert record.dram_bytes.tolist() == [[0, 3 * 4096]]
    seconds = record.total_cycles / (machine.clock_mhz * 1e6)
    assert 0.4 < 3 * 4096 / seconds / machine.dram_bytes_per_second <= 1
    last = max(event[1] for event in record.events)
    assert (record.total_cycles > last + 10) == posted


@pytest.mark.parametrize(("field", "value"), [
    ("write_queue", 0), ("write_queue", 1025), ("write_high", 0), ("write_low", 2), ("entry_bytes", 0),
])  # fmt: skip
def test_options_have_bounds(field, value):
    with pytest.raises(ConfigError, match=field):
        load_machine("tpu-v3", [f"memory.controller.{field}={value}"])


def test_streams_of_reads_and_writes_together_come_near_the_peak():
    """Of the part of TPU v3: with gathered writes more than 90 %, in the order of arrival less than 80 %."""
    described = memory("hbm2-1760", 8)
    in_order = memory("hbm2-1760", 8, write_queue=1, read_queue=1)
    rows = two_streams(described, 6000)
    assert 0.9 <= share(described, rows)[0] <= 1
    assert share(in_order, rows)[0] < 0.8


@pytest.mark.parametrize("ns", [1, 2, 3, 4, 5, 6, 7, 8, 12, 100, 150, 1000, 16000])
def test_equal_latencies_are_reported_within_half_an_octave(ns):
    counters = np.zeros(C_COUNT, np.int64)
    for _ in range(100):
        count_latency(counters, ns * 10**6 + 1, 0)
    histogram = counters[C_HISTOGRAM:]
    octave = 1 << (ns.bit_length() - 1)
    low, high = (octave, 1.5 * octave) if 2 * ns < 3 * octave else (1.5 * octave, 2 * octave)
    low = 0 if ns == 1 else low  # the first bucket holds what is shorter, too
    assert low <= percentile(histogram, 0.5) <= percentile(histogram, 0.99) <= high


def test_a_flush_writes_at_once_what_is_held_back():
    """Half a microsecond after the last write it does not wait for their age of a second."""
    rows = [(0, 256 * i, 64, 1) for i in range(4)]
    described = memory("hbm2-2000", refresh="none", write_when_idle=False, age_limit_ns=10**9)
    state, port = make(described), make_port(8, 8)
    push(port, rows)
    assert advance(state, port, 500_000_000) == OK
    assert state.summary()["write_bursts"] == 8 and state.state[:, at.CH_WRITES].sum() == 0
    last = memory_flush(*state.arrays, port.responses, port.heap_state)
    assert state.state[:, at.CH_WRITES].sum() == 8 and 500_000_000 < last < 1_000_000_000


def test_a_read_that_waits_for_a_part_is_answered_by_a_later_write_of_all_of_it():
    """The first write holds some of the read's bytes, the second, a tick later, all of them."""
    described = memory("hbm2-2000", refresh="none")
    rows = [(0, 1 << 16, 1024, 0), (0, 0, 32, 1), (1, 0, 64, 0), (TICK + 1, 0, 64, 1)]
    found = serve(described, rows)
    assert found.counts["forwarded"] == 1 and found.times[2] == 4 * TICK
