"""Where the pages of arrays lie: a driver gives them out in no order that a program could know.

What arrays have in common in their addresses, such as a distance of a power of two, does not show in channels and banks
beyond a page. The order is drawn from a fixed seed.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from isa.chip import MemoryChip
from npusim.jit import kernel

Array = npt.NDArray[Any]

D_BITS, D_PAGES, D_COUNT = range(3)  # header of the words of `physical`: log2 of a page, pages; then the place of each
SEED = 5


def make_pages(chip: MemoryChip) -> Array:
    """The words that `physical` needs, int64; of a chip without pages, those that leave all addresses as they are."""
    if chip.page_bytes is None:
        return np.zeros(D_COUNT, np.int64)
    pages = np.random.default_rng(SEED).permutation(chip.memory.capacity_bytes // chip.page_bytes)
    return np.concatenate([[chip.page_bytes.bit_length() - 1, len(pages)], pages]).astype(np.int64)


@kernel
def physical(pages: Array, address: int) -> int:
    """The byte of the memory that an address means: one to one; what lies beyond the pages stays where it is."""
    page = address >> pages[D_BITS]
    if page >= pages[D_PAGES]:
        return int(address)
    return int(address + ((pages[D_COUNT + page] - page) << pages[D_BITS]))
