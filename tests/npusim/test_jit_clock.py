"""Clock edges: exact, monotone and without overflow up to the last femtosecond of int64."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from npusim.engine.clock import INT64_MAX, clock_parts, edge_from, edge_fs, last_edge, next_edge

CLOCKS = [1, 3, 7, 940_000, 700_000, 1_050_000, 1_333_333, 999_983, 10**6, 10**9 + 7, 10**12]


def exact(k: int, khz: int) -> int:
    return k * 10**12 // khz


@pytest.mark.parametrize("khz", CLOCKS)
def test_the_last_edge_is_exact_and_nothing_before_it_overflows(khz):
    q, r, f = clock_parts(khz)
    last = last_edge(khz)
    assert max(last * q, last * r, exact(last, khz)) <= INT64_MAX  # every intermediate product
    for k in (0, 1, 2, last // 3, last - 1, last):
        assert edge_fs(k, q, r, f) == exact(k, khz)
    over = last + 1
    assert max(over * q, over * r, exact(over, khz)) > INT64_MAX  # the bound is tight
    assert last * 10**12 // khz > 9 * 10**17 or khz > 10**6  # at least 900 s of simulated time for real clocks


@given(st.sampled_from(CLOCKS), st.data())
@settings(deadline=None)
def test_next_edge_is_the_first_at_or_after(khz, data):
    parts = clock_parts(khz)
    time_fs = data.draw(st.integers(0, min(exact(last_edge(khz), khz), INT64_MAX - 10**12)))
    k = next_edge(time_fs, *parts)
    assert exact(k, khz) >= time_fs
    assert k == 0 or exact(k - 1, khz) < time_fs


@given(st.sampled_from(CLOCKS), st.integers(0, 10**6), st.integers(0, 10**6), st.integers(0, 10**13))
@settings(deadline=None)
def test_an_edge_counted_from_a_known_one(khz, first, ahead, beyond_fs):
    parts = clock_parts(khz)
    time_fs = exact(first, khz) + beyond_fs
    known = max(0, next_edge(time_fs, *parts) - ahead)
    assert edge_from(known, time_fs, *parts) == next_edge(time_fs, *parts)
    later = next_edge(time_fs, *parts) + 1
    assert edge_from(later, time_fs, *parts) == later  # never before the edge that it counts from


@given(st.sampled_from(CLOCKS), st.integers(0, 10**6))
@settings(deadline=None)
def test_an_edge_is_its_own_next_edge_and_one_later_is_the_next(khz, k):
    parts = clock_parts(khz)
    time_fs = exact(k, khz)
    assert next_edge(time_fs, *parts) == k
    assert next_edge(time_fs + 1, *parts) == k + 1


@pytest.mark.parametrize("khz", [0, -1, 10**12 + 1])
def test_impossible_clocks_are_refused(khz):
    with pytest.raises(ValueError, match="kHz"):
        clock_parts(khz)
