"""Caches and tables of outstanding lines: published miss counts, a twin with dictionaries, bounds."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from isa.cache import Cache
from isa.errors import ConfigError
from npusim.jit import kernel
from npusim.memory.caches import lines, mshr
from npusim.memory.caches.mshr import FETCH, H_FREE, H_USED, M_PENDING, MERGED, STALL, make_mshrs
from npusim.memory.caches.state import CacheState, make_caches
from tests.npusim.cache_twin import TwinCache


def cache(**fields: Any) -> Cache:
    return Cache(**({"size_bytes": 4096, "ways": 4, "hit_latency_cycles": 10, "bytes_per_cycle": 64} | fields))


@kernel
def _misses(geometry, tags, marks, links, sets, seeds, trace, wanted, missed):  # type: ignore[no-untyped-def]
    for i in range(trace.shape[0]):
        status, _, _, _, _ = lines.access(geometry, tags, marks, links, sets, seeds, 0, trace[i], wanted, 0, 0)
        missed[i] = 1 if status != lines.HIT else 0


def misses(state: CacheState, trace: Any, wanted: int = 1) -> Any:
    missed = np.zeros(len(trace), np.int64)
    _misses(*state.arrays, np.asarray(trace, np.int64), wanted, missed)
    return missed


# ---- golden counts: n = m = 512, 8 elements a line, tiles of 64, fully associative with 40 lines


def loops(tile_i: int, tile_j: int) -> Iterator[tuple[int, int]]:
    n = m = 512
    for io in range(0, n, tile_i):
        for jo in range(0, m, tile_j):
            for i in range(io, io + tile_i):
                for j in range(jo, jo + tile_j):
                    yield 0, i // 8
                    yield 1, j // 8


@pytest.mark.parametrize(
    ("tile_i", "tile_j", "a", "b"), [(512, 512, 64, 32768), (512, 64, 512, 64), (64, 64, 64, 512)],
    ids=["untiled", "j tiled", "both tiled"],
)  # fmt: skip
def test_tiling_changes_lru_misses_as_counted(tile_i: int, tile_j: int, a: int, b: int) -> None:
    trace = np.array(list(loops(tile_i, tile_j)), np.int64)
    state = make_caches(cache(size_bytes=40 * 64, ways=40, line_bytes=64))
    missed = misses(state, 2 * trace[:, 1] + trace[:, 0])
    assert Counter(trace[missed == 1, 0].tolist()) == {0: a, 1: b}


# ---- twin

accesses = st.lists(
    st.tuples(st.integers(0, 40), st.integers(1, 15), st.integers(0, 15), st.booleans(), st.integers(0, 9)),
    max_size=120,
)


@pytest.mark.kernels
@settings(max_examples=60, deadline=None)
@given(
    trace=accesses, replacement=st.sampled_from(lines.POLICIES), write=st.sampled_from(["back", "through"]),
    allocate=st.booleans(), hashed=st.booleans(),
    shape=st.sampled_from([(1, 4), (3, 4), (4, 2), (5, 1), (2, 16), (1, 32)]),
    groups=st.integers(1, 2),
)  # fmt: skip
def test_kernels_agree_with_a_twin(
    trace: Any, replacement: Any, write: Any, allocate: bool, hashed: bool, shape: tuple[int, int], groups: int
) -> None:
    sets, ways = shape
    found = cache(
        size_bytes=sets * ways * 128, ways=ways, replacement=replacement, write=write, write_allocate=allocate,
        hash_sets=hashed,
    )  # fmt: skip
    state, twin = make_caches(found, 1, groups), TwinCache(found, groups)
    for line, sectors, whole, writes, action in trace:
        if action == 0:
            got: Any = lines.invalidate(*state.arrays[:5], 0, line)
            assert got == twin.invalidate(line)
            continue
        whole = whole & sectors if writes else 0
        got = lines.access(*state.arrays, 0, line, sectors, whole, int(writes))
        assert got == twin.access(line, sectors, whole, int(writes))


@pytest.mark.parametrize("replacement", lines.POLICIES)
@pytest.mark.parametrize("shape", [(1, 32), (96, 16), (64, 16)])
def test_a_long_trace_agrees_with_the_twin(replacement: Any, shape: tuple[int, int]) -> None:
    sets, ways = shape
    found = cache(size_bytes=sets * ways * 128, ways=ways, replacement=replacement)
    trace = np.minimum(np.random.default_rng(5).geometric(1 / (sets * ways), 20000), 10 * sets * ways)
    twin = TwinCache(found)
    expected = [twin.access(int(line), 1, 0, 0)[0] != 0 for line in trace]
    assert (misses(make_caches(found), trace) == expected).all()


def test_a_thousand_ways_hold_a_thousand_lines() -> None:
    state = make_caches(cache(size_bytes=1024 * 128, ways=1024))
    trace = np.tile(np.arange(1024) * 7, 3)
    assert misses(state, trace).sum() == 1024
    assert misses(state, np.tile(np.arange(1025) * 7, 2)).sum() >= 1025  # the cyclic trace that defeats LRU


@pytest.mark.parametrize("sets", [64, 96, 80])
@pytest.mark.parametrize("pitch", [1, 2, 64, 4096])
def test_hashed_sets_hold_a_whole_run_of_lines(sets: int, pitch: int) -> None:
    state = make_caches(cache(size_bytes=sets * 4 * 128))
    trace = np.tile(np.arange(sets * 4) * pitch, 2)
    missed = misses(state, trace)
    if pitch == 1:
        assert missed.sum() == sets * 4
    else:
        assert missed.sum() < sets * 4 * 2  # without hashing, sets of a power of two miss each time


def test_what_cannot_be_a_cache_is_refused() -> None:
    for fields in ({"ways": 3}, {"sector_bytes": 48}, {"sector_bytes": 2}, {"ways": 8, "size_bytes": 7 * 128}):
        with pytest.raises(ConfigError):
            make_caches(cache(**fields))
    with pytest.raises(ConfigError, match="plru"):
        make_caches(cache(ways=3, size_bytes=3 * 128, replacement="plru"))


# ---- outstanding lines


@pytest.mark.kernels
@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.tuples(st.integers(0, 6), st.integers(1, 15), st.booleans()), max_size=80),
    st.integers(1, 4),
    st.integers(1, 3),
)
def test_every_target_is_answered_once_and_full_tables_stall(steps: Any, capacity: int, places: int) -> None:
    state, targets = make_mshrs(2, capacity, places), np.zeros((200, 2), np.int64)
    open_lines: dict[int, tuple[int, dict[int, int]]] = {}  # line: sectors on their way, targets' needs
    answered: list[int] = []
    given_out = 0

    def finish(line: int, sectors: int) -> None:
        index = int(mshr.mshr_find(state.entries, state.heads, 1, line))
        pending, needs = open_lines[line]
        pending &= ~sectors
        state.entries[index, M_PENDING] &= ~sectors
        expected = [t for t, need in needs.items() if not need & pending]
        while target := int(mshr.mshr_next(state.entries, targets, index)):
            assert target == expected.pop(0)
            answered.append(target)
            del needs[target]
        assert not expected
        open_lines[line] = pending, needs
        if not pending:
            assert not needs
            mshr.mshr_close(state.entries, state.heads, 1, index)
            del open_lines[line]

    for line, sectors, answer in steps:
        if answer:
            if line in open_lines:
                finish(line, sectors)
            continue
        status, _, fetch = mshr.mshr_miss(*state.arrays, targets, 1, line, sectors, given_out + 1)
        pending, needs = open_lines.get(line, (0, {}))
        full = len(needs) >= places if line in open_lines else len(open_lines) >= capacity
        assert (status == STALL) == full
        if not full:
            given_out += 1
            assert fetch == sectors & ~pending
            assert status == (FETCH if fetch else MERGED)
            open_lines[line] = pending | sectors, needs | {given_out: sectors}
    for line in list(open_lines):
        finish(line, 15)
    assert sorted(answered) == list(range(1, given_out + 1))
    assert state.heads[1, H_USED] == 0 and state.heads[1, H_FREE] > 0
