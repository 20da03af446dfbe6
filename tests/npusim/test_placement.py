"""Where arrays lie: every byte has its own place, pages lie anywhere, granules on modules chosen as if at random."""

from __future__ import annotations

import functools

import numpy as np
import numpy.typing as npt
import pytest

from isa.chip import MemoryChip
from isa.errors import ConfigError
from isa.loader import load_chip
from npusim.memory.controller.mapping import locate_all, make_map
from npusim.memory.generator.physical import D_COUNT, RANKS, make_placement, physical

pytestmark = pytest.mark.kernels
UNIT, GRANULE, PAGE, CHANNELS = 512, 1024, 2 << 20, 12
MODULES = CHANNELS * UNIT // GRANULE
WINDOW = RANKS * MODULES * GRANULE  # 3 MiB: not a whole number of pages
PAGES = 8  # 16 MiB: five windows and a rest


@functools.cache
def small(*changes: str) -> MemoryChip:
    fields = (f"memory.channels={CHANNELS}", f"memory.l2.slices={CHANNELS}", f"memory.capacity_bytes={PAGES * PAGE}")
    found = load_chip("v100", (*fields, *changes)).chip
    assert isinstance(found, MemoryChip)
    return found


@functools.cache
def places_of_units() -> npt.NDArray[np.int64]:
    places = make_placement(small())
    return np.array([physical(places, unit * UNIT) for unit in range(PAGES * PAGE // UNIT)])


def channels_of(addresses: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
    memory = small().memory
    where = make_map(memory.dram, memory.channels, memory.interleave_bytes, memory.controller.mapping, "rotate")
    channel, bank, row = (np.zeros(len(addresses), np.int64) for _ in range(3))
    locate_all(where, addresses, channel, bank, row)
    return channel


def test_every_unit_has_a_place_of_its_own() -> None:
    assert sorted(places_of_units()) == list(range(0, PAGES * PAGE, UNIT))


def test_bytes_of_a_unit_stay_together_and_what_lies_beyond_the_pages_stays() -> None:
    places = make_placement(small())
    assert physical(places, 5 * UNIT + 17) == physical(places, 5 * UNIT) + 17
    assert physical(places, PAGES * PAGE - 1) < PAGES * PAGE
    assert physical(places, PAGES * PAGE) == PAGES * PAGE


def test_without_a_placement_addresses_stay() -> None:
    places = make_placement(small("placement=null"))
    assert [physical(places, address) for address in (0, 5000, 1 << 40)] == [0, 5000, 1 << 40]


def test_a_granule_lies_in_the_channels_of_one_module() -> None:
    channel = channels_of(places_of_units())
    whole = places_of_units() < PAGES * PAGE // WINDOW * WINDOW
    first, second = channel[0::2][whole[0::2]], channel[1::2][whole[0::2]]
    assert (first % 2 == 0).all() and (second == first + 1).all()


def test_channels_are_even_over_a_window_and_uneven_over_what_is_in_flight() -> None:
    addresses = places_of_units()
    channel = channels_of(addresses)
    window = addresses // WINDOW
    for number in range(PAGES * PAGE // WINDOW):
        assert set(np.bincount(channel[window == number])) == {RANKS}
    in_flight = np.bincount(channel[: 40 * CHANNELS], minlength=CHANNELS)
    assert in_flight.sum() == 40 * CHANNELS and in_flight.max() - in_flight.min() >= 8  # in turn: 40 each


def test_windows_begin_with_different_modules() -> None:
    """Arrays whose pages lie a window apart do not meet on the same channels all the way."""
    places = make_placement(small("placement.page_bytes=8388608", "memory.capacity_bytes=16777216"))
    pages = [int(places[D_COUNT + page]) for page in range(2)]
    assert sorted(pages) == [0, 1]
    inside = np.arange(0, WINDOW, GRANULE)
    first, second = (
        channels_of(np.array([physical(places, pages.index(0) * (8 << 20) + window * WINDOW + x) for x in inside]))
        for window in (0, 1)
    )
    assert set((second - first) % CHANNELS) == {GRANULE // UNIT}


def test_granules_of_a_module_keep_their_order_in_a_page() -> None:
    """Neighbours in a channel are neighbours in the array, so that streams find rows open."""
    addresses = places_of_units()[: PAGE // UNIT]
    channel = channels_of(addresses)
    for c in range(CHANNELS):
        rows = addresses[channel == c] // (UNIT * CHANNELS)
        assert (np.diff(rows) > 0).all() and (np.diff(rows) == 1).mean() > 0.99


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ("placement.page_bytes=3145728", r"placement.page_bytes: 3145728 is not a power of two"),
        ("placement.page_bytes=33554432", r"of at most memory.capacity_bytes 16777216"),
        ("placement.granule_bytes=768", r"placement.granule_bytes: 768 is not a whole number of .* 512"),
        ("placement.granule_bytes=4096", r"divides the 12 channels: use 512"),
        ("placement.page_bytes=512", r"placement.granule_bytes: 1024 is more than placement.page_bytes 512"),
        ("memory.interleave_bytes=1536", r"memory.interleave_bytes: 1536 is not a power of two"),
    ],
)
def test_what_cannot_be_placed(change: str, reason: str) -> None:
    with pytest.raises(ConfigError, match=reason):
        small(change)
