"""Write queues: what mixed streams reach, when writes are posted, drained and flushed, and in which order."""

from __future__ import annotations

import functools
from typing import Any

import numpy as np
import pytest
from dram_twin import Twin
from engine_fixture import both, finish, small_machine
from functional_fixture import Asm
from hypothesis import given, settings
from hypothesis import strategies as st

from isa.errors import ConfigError
from isa.loader import load_machine
from isa.machine import Machine
from npusim.memory.dram import OK, advance
from npusim.memory.port import RSP_TAG, RSP_TIME_FS, RSP_WAIT_FS, make_port, ring_push
from npusim.memory.state import MemoryState, make_memory
from npusim.memory.writes import memory_flush

pytestmark = pytest.mark.kernels
Row = tuple[int, int, int, int]  # time_fs, address, size, write


@functools.cache
def machine_with(*overrides: str, hw: str = "tpu-v3") -> Machine:
    """A shipped machine with other memory fields."""
    return load_machine(hw, [f"memory.{s}" for s in (f"capacity_bytes={1 << 28}", *overrides)]).machine


def cells(state: MemoryState) -> tuple[Any, ...]:
    """What every kernel takes first."""
    return state.params, state.bank_state, state.channel_state, state.counters, state.series


def serve(machine: Machine, rows: list[Row]) -> tuple[list[int], list[int], int, MemoryState]:
    """Serve the rows; return completions, waits, the end of the last write (flushed) in fs, and the memory."""
    state, port = make_memory(machine), make_port(len(rows), len(rows))
    for tag, (time_fs, address, size, write) in enumerate(rows):
        assert ring_push(port.requests, port.ring, time_fs, 0, address, size, write, tag)
    assert advance(state, port, 1 << 62) == OK
    found = port.responses[np.argsort(port.responses[:, RSP_TAG])]
    assert found[:, RSP_TAG].tolist() == list(range(len(rows)))  # all answered, exactly once
    times, waits = found[:, RSP_TIME_FS].tolist(), found[:, RSP_WAIT_FS].tolist()
    return times, waits, memory_flush(*cells(state)), state


def two_streams(machine: Machine, count: int, size: int = 512, writes: tuple[int, ...] = (0, 1)) -> list[Row]:
    """Sequential streams in halves of the memory, alternating, offered at 1.3 times the peak."""
    pace = size / machine.dram_bytes_per_second * 1e15 / 1.3
    half = machine.memory.capacity_bytes // 2
    return [
        (int(i * pace), i // 2 * size + i % 2 * half, size, writes[i % 2]) for i in range(count)
    ]  # fmt: skip


def share_of_peak(machine: Machine, rows: list[Row]) -> float:
    times, _, flushed, _ = serve(machine, rows)
    return sum(row[2] for row in rows) / machine.dram_bytes_per_second * 1e15 / max(*times, flushed)


@pytest.mark.parametrize(("hw", "part"), [
    ("tpu-v3", ""), ("tpu-v4", ""), ("tpu-v3", "ddr4-3200"), ("tpu-v3", "lpddr4x-4266"),
])  # fmt: skip
def test_a_read_and_a_write_stream_together_reach_80_percent_and_in_order_less_than_two_thirds(hw, part):
    extra = (f"dram={part}", "channels=8") if part else ()
    queued, in_order = (machine_with(*extra, f"write_queue_runs={runs}", hw=hw) for runs in (32, 0))
    rows = two_streams(queued, 20_000)
    assert 0.8 <= share_of_peak(queued, rows) <= 1
    assert share_of_peak(in_order, rows) < 2 / 3


def test_more_places_turn_the_bus_less_often():
    shares = [
        share_of_peak(machine := machine_with("channels=4", f"write_queue_runs={runs}"), two_streams(machine, 4000))
        for runs in (1, 4, 16, 64)
    ]
    assert shares == sorted(shares)
    assert shares[-1] > 1.08 * shares[0]


def test_a_posted_write_is_answered_after_a_tick_until_there_is_no_place():
    """Ten places, the high mark at eight: then six are written, and the eleventh waits for the first of them."""
    machine = machine_with("dram=hbm2-2000", "channels=1", "write_queue_runs=10")
    tick = 1_000_000
    times, waits, flushed, state = serve(machine, [(0, i * 256, 256, 1) for i in range(12)])
    first = machine.memory.dram.timing.nRCDWR + 7 * 2 + (4 - 1) * (machine.memory.dram.timing.nRRD_S - 2)
    assert times[:10] == [tick] * 10 and waits[:10] == [0] * 10
    assert times[10] == waits[10] + tick and times[11] == times[10] + 8 * 2 * tick  # a run of eight bursts later
    assert abs(waits[10] - first * tick) <= 2 * tick
    assert flushed > times[11]
    assert state.summary()["write_bursts"] == state.summary()["row_hits"] + state.summary()["row_misses"] == 12 * 8


@pytest.mark.parametrize(("address", "waits"), [(0, True), (224, True), (256, False), (8192, False)])
def test_a_read_waits_for_queued_writes_only_if_it_reads_what_they_write(address, waits):
    machine = machine_with("dram=hbm2-2000", "channels=1")
    read = (1_000_000, address, 32, 0)
    alone = serve(machine, [read])[0][0]
    times, found, _, state = serve(machine, [(0, 0, 256, 1), read])
    assert (times[1] > alone) == waits == (found[1] > 0)
    assert state.summary()["write_bytes"] == 256


def test_a_gap_is_used_for_writes_and_costs_the_next_read_nothing():
    """Short gaps leave the writes queued, long ones do not; the read after either is as fast as alone."""
    machine = machine_with("dram=hbm2-2000", "channels=1")
    tick = 1_000_000
    seen = set()
    for gap in range(0, 700, 20):
        far = 2 * 8192  # another bank
        rows = [(0, i * 256, 256, 1) for i in range(10)] + [(gap * tick, far, 32, 0)]
        alone = serve(machine, rows[-1:])[0][0]
        state, port = make_memory(machine), make_port(16, 16)
        for tag, row in enumerate(rows):
            ring_push(port.requests, port.ring, row[0], 0, *row[1:], tag)
        assert advance(state, port, 1 << 62) == OK
        answers = {int(r[RSP_TAG]): int(r[RSP_TIME_FS]) for r in port.responses[:11]}
        assert answers[10] == alone
        written = int(state.series[1].sum()) // 256
        assert written >= max(seen, default=0)
        seen.add(written)
    assert min(seen) == 0 and max(seen) == 10 and len(seen) > 5


@pytest.mark.parametrize("part", ["hbm2-2000", "ddr4-3200", "lpddr4x-4266"])
def test_a_gap_is_long_enough_from_one_tick_on(part):
    machine = machine_with(f"dram={part}", "channels=1")
    channel = Twin(machine).channels[0]
    least = channel.room() + 256 // machine.memory.dram.burst_bytes * channel.pace()[1]
    for gap in (least - 1, least):
        state, port = make_memory(machine), make_port()
        for tag, (tick, write) in enumerate(((0, 1), (gap, 0))):
            time_fs = tick * round(machine.memory.dram.tck_ps * 1000)
            ring_push(port.requests, port.ring, time_fs, 0, (1 - write) << 20, 256, write, tag)
        assert advance(state, port, 1 << 62) == OK
        assert int(state.series[1].sum()) == (256 if gap == least else 0)


def test_a_lone_write_is_not_starved_by_a_stream_of_row_hits():
    """A write to another row stands first in its batch: it is written before the second batch begins."""
    machine = machine_with("dram=hbm2-2000", "channels=1", "write_queue_runs=10")
    other = 1 << 20
    twin = Twin(machine)
    for i, address in enumerate([0, 256, 512, other, *range(768, 768 + 30 * 256, 256)]):
        twin.serve(i, address, 256, True)
    writes = [(c.bank, c.row) for c in twin.channels[0].log if c.kind == "WR"]
    lone = next(i for i, place in enumerate(writes) if place != writes[0])
    assert lone == 5 * 8  # last of the first batch of six runs: its row mates went first
    assert len(writes) > 2 * 6 * 8


@given(
    rows=st.lists(st.tuples(st.integers(0, 1 << 14), st.integers(1, 900), st.integers(0, 1)), min_size=1, max_size=80),
    pace=st.sampled_from([0, 2_000_000, 50_000_000]),
    runs=st.sampled_from([0, 1, 3, 32]),
)
@settings(max_examples=60, deadline=None)
def test_every_byte_is_written_once_and_never_above_the_peak(rows, pace, runs):
    machine = machine_with("dram=ddr4-3200", "channels=2", f"write_queue_runs={runs}")
    stream = [(i * pace, *row) for i, row in enumerate(rows)]
    times, _, flushed, state = serve(machine, stream)
    total = state.summary()
    asked = [sum(row[2] for row in stream if row[3] == write) for write in (0, 1)]
    assert state.series.sum(axis=1).tolist() == asked == [total["read_bytes"], total["write_bytes"]]
    bursts = total["read_bursts"] + total["write_bursts"]
    assert bursts == total["row_hits"] + total["row_misses"] + total["row_conflicts"]
    assert bursts * 64 / machine.dram_bytes_per_second * 1e15 <= max(*times, flushed)
    assert all(time > row[0] for time, row in zip(times, stream))
    assert memory_flush(*cells(state)) == flushed  # nothing left


@pytest.mark.parametrize("runs", [-1, 1025])
def test_queue_sizes_have_bounds(runs):
    with pytest.raises(ConfigError, match="write_queue_runs"):
        machine_with(f"write_queue_runs={runs}")


@pytest.mark.parametrize("runs", [0, 32])
def test_a_launch_ends_when_its_writes_are_in_memory(runs):
    """A store that its path could move far above the peak of the memory takes the time of the memory."""
    store = {"queue_depth": 2, "outstanding": 64, "request_bytes": 64}
    changes = {"memory.model": "cycle", "memory.write_queue_runs": runs, "core.dma.store": store}
    machine = small_machine("inorder", **changes)
    paths = [p.model_copy(update={"bytes_per_cycle": 512.0}) for p in machine.core.paths]
    machine = machine.model_copy(update={"core": machine.core.model_copy(update={"paths": paths})})
    asm = Asm()
    for i in range(3):
        asm.op("cp", asm.d("dram", "fp32", (16, 64), i * 4096), asm.d("spm", "fp32", (16, 64), 0), unit=1)
    record, _, _ = both(finish(asm, vliw=False), machine)
    assert record.dram_bytes.tolist() == [[0, 3 * 4096]]
    seconds = record.total_cycles / (machine.clock_mhz * 1e6)
    assert 0.5 < 3 * 4096 / seconds / machine.dram_bytes_per_second <= 2 / 3  # nCCD 3 for bursts of 2 ticks
    last = max(int(row["end"]) for row in record.events)
    assert (record.total_cycles > last + 10) == (runs > 0)
