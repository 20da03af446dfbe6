"""What more bandwidth would bring, against runs that have it."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from npusim import api
from npusim.report.profile import Profile
from npusim.report.what_if import BANDWIDTH, COPIES, NOTHING, OTHER, _gain, _Use, what_if

POINTS = 0.035  # of the run's time


@pytest.mark.parametrize(
    ("model", "hw", "limit"),
    [
        ("gemm:16x2048x4096", "tpu-v3", COPIES),  # the path into the cores, not the DRAM: the hint was 14 %
        ("gemm:1x4096x4096", "tpu-v3", COPIES),
        ("gemm:1024x1024x2048", "tpu-v3", NOTHING),
        ("add:2048x2048", "tpu-v3", BANDWIDTH),
        ("gemm:16x2048x4096", "tpu-v5e", BANDWIDTH),  # about half of the time
        ("gemm:2048x512x2048", "tpu-v5e", OTHER),  # the arrays are busy for 84 %
        ("gemm:1x4096x4096", "tpu-v1", BANDWIDTH),  # weights come from DRAM to the arrays' port
        ("add:2048x2048", "gemmini-16x16", BANDWIDTH),
        ("gemm:16x2048x4096", "gemmini-16x16", NOTHING),
        ("add:512x512", "tiny", BANDWIDTH),
    ],
)
def test_the_hint_is_what_a_run_with_more_bandwidth_gains(model: str, hw: str, limit: str) -> None:
    machine, _ = api.machine_for(hw)
    compilation = api.compile(model, machine)
    before = api.simulate(compilation, machine)
    hint = what_if(Profile(before))
    faster, _ = api.machine_for(hw, [f"memory.dram.tck_ps={machine.memory.dram.tck_ps / hint['bandwidth']}"])
    gain = 1 - api.simulate(compilation, faster).record.total_cycles / before.record.total_cycles
    assert 1 - hint["time_share"] == pytest.approx(gain, abs=POINTS)
    assert hint["limit"] == limit


def test_the_words_name_what_limits_instead() -> None:
    from npusim.report.memory import memory_rows, memory_summary

    summary = memory_summary(Profile(api.run("gemm:16x2048x4096", "tpu-v3")))
    assert summary is not None
    words = dict(memory_rows(summary, 64))["with 20% more bandwidth"]
    assert "less time, then copy engines limit;" in words


@given(*(st.floats(0, 1) for _ in range(5)), st.floats(0, 2), st.floats(0, 1))
def test_no_gain_beyond_bandwidth_the_wait_of_copies_or_the_time_of_others(
    dram: float, busy: float, held: float, others: float, waiting: float, in_flight: float, saved: float
) -> None:
    gain = _gain(_Use(dram, busy, held, in_flight, others), waiting, saved)
    assert 0 <= gain <= min(held, dram * saved, 2 * (1 - others) + 1e-9)
    assert gain <= _gain(_Use(dram, busy, held, 2.0, others), waiting, saved) + 1e-9
