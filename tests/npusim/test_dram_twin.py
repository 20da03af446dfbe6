"""The DRAM kernel against a slow twin that issues every command, and the twin's command log against the JEDEC rules."""

from __future__ import annotations

import functools
from typing import Any

import numpy as np
import pytest
from dram_twin import Command, Twin, check_log
from hypothesis import given, settings
from hypothesis import strategies as st

from isa.loader import load_machine
from isa.machine import Machine
from isa.memory import DramPart, DramTiming
from npusim.memory.dram import OK, advance
from npusim.memory.port import HEAP_SIZE, RSP_TAG, RSP_TIME_FS, heap_pop, make_port, ring_push
from npusim.memory.state import C_MISSES, P_STEADY, MemoryState, make_memory
from npusim.memory.writes import memory_flush

# What a strange part looks like: two bank groups whose CCD_L is above 2 x CCD_S, so no constant pace; two banks each.
ODD = DramPart(
    tck_ps=833, bus_bits=64, data_rate=2, burst_length=8, bank_groups=2, banks_per_group=2, page_bytes=1024, rows=4096,
    timing=DramTiming(nCL=9, nCWL=7, nRCDRD=11, nRCDWR=8, nRP=10, nRAS=25, nRC=37, nWR=13, nRTP=6, nCCD_S=4, nCCD_L=11,
                      nRRD_S=5, nRRD_L=9, nFAW=31, nWTR_S=3, nWTR_L=8, nRFC=70, nREFI=400),
)  # fmt: skip
Row = tuple[int, int, int, int]  # time_fs, address, size, write
PARTS = ["hbm2-2000", "hbm2e-3200", "ddr4-3200", "lpddr4x-4266", "odd"]


@functools.cache
def machine_with(part: str, channels: int, interleave_bytes: int = 256, runs: int = 32, choice: int = 32) -> Machine:
    """A shipped machine with another DRAM part behind it."""
    name = "hbm2-2000" if part == "odd" else part
    overrides = [f"memory.dram={name}", f"memory.channels={channels}", f"memory.interleave_bytes={interleave_bytes}"]
    overrides += [f"memory.write_queue_runs={runs}", f"memory.read_queue_runs={choice}"]
    machine = load_machine("tpu-v3", [*overrides, f"memory.capacity_bytes={1 << 27}"]).machine
    if part != "odd":
        return machine
    return machine.model_copy(update={"memory": machine.memory.model_copy(update={"dram": ODD})})


def run_both(
    machine: Machine, stream: list[Row], rotate: bool = False
) -> tuple[list[int], list[int], Twin, dict[str, int]]:
    """Serve the rows by kernel and twin, and flush; return the times of both, the twin and the kernel's counters."""
    state, port = make_memory(machine, rotate), make_port(len(stream), 8)  # the heap must grow on the way
    for tag, (time_fs, address, size, write) in enumerate(stream):
        assert ring_push(port.requests, port.ring, time_fs, 0, address, size, write, tag)
    assert advance(state, port, 1 << 62) == OK
    kernel = [-1] * len(stream)
    while port.heap_state[HEAP_SIZE]:
        tag = int(port.responses[0, RSP_TAG])
        assert kernel[tag] == -1  # answered once
        kernel[tag] = int(port.responses[0, RSP_TIME_FS])
        heap_pop(port.responses, port.heap_state)
    kernel.append(memory_flush(*arrays(state)))
    twin = Twin(machine, rotate)
    answers = [twin.serve(*row) for row in stream]
    flushed = twin.flush()
    return kernel, [*(answer() for answer in answers), flushed], twin, state.summary()


def arrays(state: MemoryState) -> tuple[Any, ...]:
    """What every kernel takes first."""
    return state.params, state.bank_state, state.channel_state, state.counters, state.series


@st.composite
def streams(draw: st.DrawFn) -> list[Row]:
    """Random requests over a small footprint, so that rows conflict: bursts of arrivals, gaps, long idle times."""
    count = draw(st.integers(1, 40))
    base = draw(st.sampled_from([1 << 12, 1 << 15, 1 << 18, 1 << 24]))
    gap = draw(st.sampled_from([0, 3_000_000, 60_000_000, 9_000_000_000]))
    time, rows = 0, []
    for _ in range(count):
        time += draw(st.integers(0, gap))
        address = draw(st.integers(0, base))
        size = draw(st.sampled_from([1, 32, 64, 100, 256, 512, 777, 5000]))
        rows.append((time, address, size, draw(st.integers(0, 1))))
    return rows


@pytest.mark.parametrize("part", PARTS)
@given(
    stream=streams(),
    channels=st.sampled_from([1, 2, 3, 8]),
    interleave=st.sampled_from([64, 256, 4096]),
    rotate=st.booleans(),
    runs=st.sampled_from([0, 1, 2, 5, 32]),
    choice=st.sampled_from([1, 2, 3, 8, 32]),
)
@settings(max_examples=40, deadline=None)
def test_kernel_equals_twin_and_twin_obeys_the_timing_rules(part, stream, channels, interleave, rotate, runs, choice):
    machine = machine_with(part, channels, interleave, runs, choice)
    kernel, twin_times, twin, counters = run_both(machine, stream, rotate)
    assert kernel == twin_times
    assert {k: counters[k] for k in ("row_hits", "row_misses", "row_conflicts", "refreshes")} == {
        k: twin.counts[k] for k in ("row_hits", "row_misses", "row_conflicts", "refreshes")
    }
    for channel in twin.channels:
        check_log(channel.log, machine.memory.dram)


def test_long_mixed_stream_over_many_refreshes():
    machine = machine_with("hbm2-2000", 2)
    rng = np.random.default_rng(5)
    times = np.cumsum(rng.integers(0, 40_000_000, 400))
    stream = [
        (int(t), int(rng.integers(0, 1 << 16)), int(rng.integers(1, 600)), int(rng.random() < 0.3)) for t in times
    ]  # fmt: skip
    kernel, twin_times, twin, counters = run_both(machine, stream)
    assert kernel == twin_times
    assert counters["refreshes"] == twin.counts["refreshes"] > 2
    for channel in twin.channels:
        check_log(channel.log, machine.memory.dram)


def test_checker_sees_a_command_one_tick_early_and_one_tick_late():
    machine = machine_with("ddr4-3200", 1)
    _, _, twin, _ = run_both(machine, [(0, 0, 512, 0), (0, 1 << 20, 512, 1), (0, 0, 64, 0)])
    dram, log = machine.memory.dram, twin.channels[0].log
    check_log(log, dram)
    for shift in (-1, 1):
        for i in range(len(log)):
            moved = [Command(**vars(c)) for c in log]
            moved[i].tick += shift
            with pytest.raises(AssertionError):
                check_log(moved, dram)


@pytest.mark.parametrize("part", [p for p in PARTS if p != "odd"])
def test_row_hits_in_one_step_equal_burst_by_burst(part):
    machine = machine_with(part, 2, 4096)
    results = []
    for steady in (1, 0):
        state, port = make_memory(machine), make_port(64, 64)
        assert state.params[P_STEADY] == 1
        state.params[P_STEADY] = steady
        rng = np.random.default_rng(1)
        for tag in range(40):
            size = int(rng.integers(1, 4096))
            ring_push(port.requests, port.ring, tag * 10**7, 0, int(rng.integers(0, 1 << 18)), size, tag % 3 == 0, tag)
        assert advance(state, port, 1 << 62) == OK
        results.append((port.responses[:40].tolist(), state.bank_state.tolist(), state.channel_state.tolist()))
        assert state.counters[C_MISSES] > 0
    assert results[0] == results[1]
