"""Where the bytes of an array lie in memory: its pages anywhere, and their granules on channels as a hash has it.

Drivers give out pages in no order that a program could know, and the hash of a GPU's addresses mixes nearly all of
their bits (FGPU, RTAS 2019, found it for V100). Both are drawn here, from a fixed seed. That channels are chosen as if
at random matters: what is in flight loads some more than others, so a stream needs much more in flight than bandwidth
times latency to keep all of them busy.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from isa.chip import MemoryChip
from npusim.jit import kernel
from npusim.memory.controller.mapping import folded

Array = npt.NDArray[Any]

# Header of the words of a placement; behind it the memory's page of each page, then a place for each granule of a
# window: rank * modules + module.
(D_PAGE_BITS, D_PAGES, D_UNIT_BITS, D_SPAN, D_CHANNELS, D_CHANNEL_BITS, D_PERIOD, D_WINDOWS, D_TABLE,
 D_COUNT) = range(10)  # fmt: skip
RANKS = 512  # granules of a module in a window: many more than a stream ever has in flight there, so it looks endless
SEED = 1


def make_placement(chip: MemoryChip) -> Array:
    """The words that `physical` needs, int64; a chip without a placement leaves all addresses as they are."""
    words = np.zeros(D_COUNT, np.int64)
    placement, memory = chip.placement, chip.memory
    if placement is None:
        return words
    random = np.random.default_rng(SEED)
    pages = random.permutation(memory.capacity_bytes // placement.page_bytes)
    span = placement.granule_bytes // memory.interleave_bytes
    modules = memory.channels // span
    module = random.permutation(np.repeat(np.arange(modules), RANKS))
    # Granules of a module keep their order, so that neighbours share a row of the DRAM.
    rank = np.empty_like(module)
    rank[np.argsort(module, kind="stable")] = np.tile(np.arange(RANKS), modules)
    figures = {
        D_PAGE_BITS: placement.page_bytes.bit_length() - 1, D_PAGES: len(pages),
        D_UNIT_BITS: memory.interleave_bytes.bit_length() - 1, D_SPAN: span, D_CHANNELS: memory.channels,
        D_CHANNEL_BITS: max(1, (memory.channels - 1).bit_length()), D_PERIOD: len(module),
        D_WINDOWS: memory.capacity_bytes // (len(module) * placement.granule_bytes), D_TABLE: D_COUNT + len(pages),
    }  # fmt: skip
    for word, value in figures.items():
        words[word] = value
    return np.concatenate([words, pages, rank * modules + module])


@kernel
def physical(places: Array, address: int) -> int:
    """The byte of the memory that an address means: one to one; what lies beyond the pages stays where it is."""
    page = address >> places[D_PAGE_BITS]
    if page >= places[D_PAGES]:
        return int(address)
    address += (places[D_COUNT + page] - page) << places[D_PAGE_BITS]
    unit, period, span = address >> places[D_UNIT_BITS], places[D_PERIOD], places[D_SPAN]
    window = unit // (period * span)
    if window >= places[D_WINDOWS]:  # the rest of a memory that is not a whole number of windows
        return int(address)
    granule = unit // span
    channels, modules = places[D_CHANNELS], places[D_CHANNELS] // span
    place = places[places[D_TABLE] + granule - window * period]
    # Windows differ by the module that they begin with.
    channel = (place + window) % modules * span + unit - granule * span
    row = window * (period // modules) + place // modules
    # The map of the channels rotates each row of units by the bits above it; here that is taken back.
    turned = (channel - folded(row, places[D_CHANNEL_BITS])) % channels
    return int(((row * channels + turned - unit) << places[D_UNIT_BITS]) + address)
