"""Bandwidth over time: no bin above the DRAM's peak, every byte in one."""

from __future__ import annotations

import io
import itertools
import json
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from isa.cost import dram_bytes_per_cycle
from npusim import api
from npusim.record import within_peak
from npusim.report.charts import timeline_chart
from npusim.report.profile import Profile
from npusim.trace import write_trace


@given(
    st.lists(st.tuples(st.integers(0, 900), st.integers(0, 900)), min_size=1, max_size=40),
    st.integers(300, 1000), st.integers(1, 299),
)  # fmt: skip
@settings(max_examples=300, deadline=None)
def test_no_bin_is_above_its_room_and_no_byte_is_lost(bins: list[tuple[int, int]], room: int, last: int) -> None:
    series, rooms = np.array(bins, np.float64).T, np.full(len(bins), room)
    rooms[-1] = last
    found = within_peak(series, rooms)
    assert found.sum(axis=1).tolist() == series.sum(axis=1).tolist() and (found >= 0).all()
    if series.sum() <= rooms.sum():
        assert (found.sum(axis=0) <= rooms).all()
    if (series.sum(axis=0) <= rooms).all():
        assert (found == series).all()


def test_what_is_too_much_was_earlier() -> None:
    found = within_peak(np.array([[5.0, 10.0, 8.0, 0.0], [0.0, 0.0, 8.0, 0.0]]), np.full(4, 12))
    assert found.tolist() == [[6.0, 11.0, 6.0, 0.0], [1.0, 1.0, 6.0, 0.0]]


@pytest.mark.parametrize(
    ("model", "hw", "settings"),
    [
        ("gemm:16x2048x4096", "tpu-v3", ()),  # single bins were up to 5 % above the peak
        ("add:2048x2048", "tpu-v3", ()),
        ("add:512x512", "gemmini-16x16", ()),
        ("gemm:64x1024x1024", "tpu-v1", ()),
        ("add:512x512", "tpu-v3", ("memory.model=ideal",)),
        ("gemm:64x1024x1024", "tpu-v3", ("memory.l2={size_bytes: 65536, slices: 16, ways: 16, hit_latency_cycles: 60, "
                                         "bytes_per_cycle: 64}",)),
    ],
)  # fmt: skip
def test_no_bin_of_a_run_is_above_the_peak(model: str, hw: str, settings: tuple[str, ...]) -> None:
    result = api.run(model, hw, settings=settings)
    record, peak = result.record, float(dram_bytes_per_cycle(result.machine))
    starts, moved = record.dram_over_time(peak)
    assert moved.sum(axis=1).tolist() == record.series.sum(axis=1).tolist()
    assert (moved.sum(axis=0) <= np.diff(starts, append=record.total_cycles) * peak).all()
    file = io.StringIO()
    write_trace(result, file)
    counters = [e for e in json.loads(file.getvalue())["traceEvents"] if e["name"] == "DRAM GB/s"]
    assert max(sum(e["args"].values()) for e in counters) <= peak * result.machine.clock_mhz / 1e3 + 0.002  # rounded
    moved_bytes = sum(sum(a["args"].values()) * 1e3 * (b["ts"] - a["ts"]) for a, b in itertools.pairwise(counters))
    assert moved_bytes == pytest.approx(record.series.sum(), rel=1e-3)
    assert "DRAM read" in timeline_chart(Profile(result))
    idle = replace(result, record=replace(record, series=np.zeros_like(record.series)))
    assert idle.record.dram_over_time(peak)[1].sum() == 0
