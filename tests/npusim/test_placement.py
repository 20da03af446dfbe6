"""Where arrays lie: pages anywhere in the memory, granules on modules of channels as if chosen at random."""

from __future__ import annotations

import functools

import numpy as np
import numpy.typing as npt
import pytest

from isa.chip import MemoryChip
from isa.errors import ConfigError
from isa.loader import load_chip
from isa.memory import Controller
from npusim.memory.controller.mapping import channel_of, make_map
from npusim.memory.generator.physical import make_pages, physical

pytestmark = pytest.mark.kernels
UNIT, GRANULE, PAGE, CHANNELS = 512, 1024, 2 << 20, 12
RANKS = 512  # so many granules of a module in a window that it looks endless
SPAN = GRANULE // UNIT
WINDOW = RANKS * CHANNELS  # units
PAGES = 8


@functools.cache
def small(*changes: str) -> MemoryChip:
    fields = (f"memory.channels={CHANNELS}", f"memory.l2.slices={CHANNELS}", f"memory.capacity_bytes={PAGES * PAGE}")
    found = load_chip("v100", (*fields, *changes)).chip
    assert isinstance(found, MemoryChip)
    return found


@functools.cache
def channels() -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """Channel, and number in it, of the units of three windows."""
    dram = small().memory.dram
    options = Controller(hashing="random", granule_bytes=GRANULE, window_granules=RANKS)
    where = make_map(dram, CHANNELS, UNIT, options)
    places = np.array([channel_of(where, unit) for unit in range(3 * WINDOW)])
    return places[:, 0], places[:, 1]


# ---- pages


def test_every_page_has_a_place_of_its_own_and_not_that_of_its_number() -> None:
    words = make_pages(small())
    found = [physical(words, page * PAGE) for page in range(PAGES)]
    assert sorted(found) == [page * PAGE for page in range(PAGES)] and found != sorted(found)


def test_pages_stay_whole_and_what_lies_beyond_them_stays() -> None:
    words = make_pages(small())
    assert physical(words, 3 * PAGE + 777) == physical(words, 3 * PAGE) + 777
    assert physical(words, 4 * PAGE - 1) == physical(words, 3 * PAGE) + PAGE - 1
    assert physical(words, PAGES * PAGE - 1) < PAGES * PAGE
    assert physical(words, PAGES * PAGE) == PAGES * PAGE


def test_without_pages_addresses_stay() -> None:
    words = make_pages(small("page_bytes=null"))
    assert [physical(words, address) for address in (0, 5000, 1 << 40)] == [0, 5000, 1 << 40]


@pytest.mark.parametrize("page", [3 << 20, 32 << 20])
def test_pages_are_powers_of_two_that_fit(page: int) -> None:
    with pytest.raises(ConfigError, match=f"page_bytes: {page} is not a power of two of at most .* 16777216: use"):
        small(f"page_bytes={page}")


# ---- channels drawn at random


def test_every_unit_has_a_place_of_its_own() -> None:
    channel, number = channels()
    assert sorted(number * CHANNELS + channel) == list(range(3 * WINDOW))


def test_a_granule_lies_in_the_channels_of_one_module() -> None:
    channel, number = channels()
    assert (channel[0::SPAN] % SPAN == 0).all() and (channel[1::SPAN] == channel[0::SPAN] + 1).all()
    assert (number[1::SPAN] == number[0::SPAN]).all()


def test_channels_are_even_over_a_window_and_uneven_over_what_is_in_flight() -> None:
    channel, _ = channels()
    for window in range(3):
        assert set(np.bincount(channel[window * WINDOW : (window + 1) * WINDOW])) == {RANKS}
    in_flight = np.bincount(channel[: 40 * CHANNELS], minlength=CHANNELS)
    assert in_flight.max() - in_flight.min() >= 8  # channels in turn: 40 each


def test_a_channel_keeps_the_order_of_its_units() -> None:
    """Neighbours in a channel are neighbours in the array, so that streams find rows open."""
    channel, number = channels()
    assert all((np.diff(number[channel == c]) == 1).all() for c in range(CHANNELS))


def test_windows_differ() -> None:
    channel, _ = channels()
    assert set((channel[WINDOW : 2 * WINDOW] - channel[:WINDOW]) % CHANNELS) == {SPAN}


@pytest.mark.parametrize(("granule", "count"), [(768, 12), (256, 12), (4096, 12)])
def test_granules_are_units_that_divide_the_channels(granule: int, count: int) -> None:
    with pytest.raises(ConfigError, match=f"granule_bytes: {granule} .* {UNIT} that divides the {count} channels: use"):
        make_map(small().memory.dram, count, UNIT, Controller(hashing="random", granule_bytes=granule))
