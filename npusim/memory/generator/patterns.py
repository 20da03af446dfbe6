"""What the threads of a benchmark do to memory, as a table: a short program that every warp runs.

Rows are int64; a warp goes through them from the top. Addresses are affine in block, warp, repetition and loop count:

    address = base + (block % blocks * block_stride + warp * warp_stride + (loop * count + i) * step) % size

for the i-th of `count` accesses of a row, each `bytes` long over the whole warp; `blocks` or `size` of 0: no wrap.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[Any]

# What a row does.
OP_LOAD = 0  # loads, which the warp does not wait for
OP_STORE = 1  # stores, which nobody waits for
OP_WAIT = 2  # until all loads of the warp are back, and ROW_COUNT cycles more
OP_CHASE = 3  # a load of the next element of the chain; the warp waits for it
OP_LOOP = 4  # back to row ROW_BASE, ROW_COUNT times (0: for ever)
OP_END = 5  # the warp is done
OP_GATHER = 6  # a load of the next element of the chain, which the warp does not wait for

# Columns of a row.
ROW_OP = 0
ROW_BASE = 1  # bytes
ROW_BYTES = 2
ROW_BLOCKS = 3
ROW_BLOCK_STRIDE = 4
ROW_WARP_STRIDE = 5
ROW_COUNT = 6
ROW_STEP = 7
ROW_SIZE = 8
ROW_WINDOW = 9  # accesses in flight: before a further one the warp uses the oldest data; 0: as many as there are
ROW_USE = 10  # cycles between two uses; a wait must follow a row with a window
ROW_COLUMNS = 11

ARRAY_PAGE = 2 << 20  # bytes: arrays begin at pages of the device's memory


@dataclass(frozen=True)
class Pattern:
    """The program of every warp, the blocks it comes in, and the chain that chases follow (element numbers)."""

    rows: Array
    warps_per_block: int
    blocks_per_core: int  # resident at once
    cores: int = 0  # that take part; 0: all
    chain: Array = field(default_factory=lambda: np.zeros(1, np.int64))
    chain_bytes: int = 64  # between two elements
    phases: int = 1  # the first blocks begin at so many accesses of row 0, the first one farthest on, as in a long run


def program(*rows: dict[str, int]) -> Array:
    """Rows from their named columns (`op=..., base=...`)."""
    names = (
        "op", "base", "bytes", "blocks", "block_stride", "warp_stride", "count", "step", "size", "window", "use",
    )  # fmt: skip
    table = np.zeros((len(rows), ROW_COLUMNS), np.int64)
    for i, row in enumerate(rows):
        unknown = set(row) - set(names)
        if unknown:
            named = ", ".join(sorted(unknown))
            raise ValueError(f"row {i} of a pattern: no column {named}; there are {', '.join(names)}")
        table[i] = [row.get(name, 1 if name == "count" and row["op"] in (OP_LOAD, OP_STORE) else 0) for name in names]
    return table


# Streams of gpu-stream: arrays read (with their offsets in elements) and written, and cycles from the last operand to
# the store: double-precision operations in a row, 8 cycles each on V100 (isa sheet), 6 on A100.
STREAMS: dict[str, tuple[tuple[tuple[int, int], ...], bool, int]] = {
    "init": ((), True, 0),
    "read": (((0, 0),), False, 1),
    "scale": (((0, 0),), True, 1),
    "triad": (((0, 0), (1, 0)), True, 1),
    "3pt": (((0, -1), (0, 0), (0, 1)), True, 3),
    "5pt": (((0, -2), (0, -1), (0, 0), (0, 1), (0, 2)), True, 5),
}
STREAM_ELEMENTS = (128 << 20) + 2  # of each array, doubles
FLOAT64_CYCLES = 8


def stream(kernel: str, block_size: int, blocks_per_core: int, warp_size: int) -> Pattern:
    """One element a thread of arrays of 1 GiB: `init`, `read`, `scale`, `triad`, `3pt`, `5pt` of gpu-stream."""
    reads, writes, operations = STREAMS[kernel]
    array = -(-STREAM_ELEMENTS * 8 // ARRAY_PAGE) * ARRAY_PAGE
    place = {"bytes": 8 * warp_size, "block_stride": 8 * block_size, "warp_stride": 8 * warp_size}
    rows = [{"op": OP_LOAD, "base": array * (1 + which) + 8 * offset, **place} for which, offset in reads]
    if reads:
        rows.append({"op": OP_WAIT, "count": operations * FLOAT64_CYCLES})
    if writes:
        rows.append({"op": OP_STORE, "base": 0, **place})
    rows.append({"op": OP_END})
    return Pattern(program(*rows), -(-block_size // warp_size), blocks_per_core)


CACHE_BLOCK = 256  # threads a block of gpu-cache
L2_BLOCK = 1024  # and of gpu-l2-cache
# What NVRTC 11.8 and 12.9 make of both kernels for sm_70, sm_80 and sm_90: a thread sends so many loads, and then one
# for each that it has added, the oldest first. gpu-cache adds the last of UNROLL before it sends the next; sweeps of
# less than 128 KiB are unrolled whole, with a window of nine, which an L1 that holds them does not tell. Of a larger
# one, what is over by UNROLL is read first, in a turn of its own: left out. gpu-l2-cache has all its loads in one row.
# Both take 32 registers a thread. AMD's code has not been looked at and is taken to be the same.
UNROLL = 32
WINDOW = 7
L2_WINDOW = 10


def private_reads(size_bytes: int, element_bytes: int, warp_size: int, *, sweeps: int = 0) -> Pattern:
    """One block of 256 threads a core, all of which read the same bytes so many times (gpu-cache; 0: for ever)."""
    step = CACHE_BLOCK * element_bytes
    loops = -(-sweeps * size_bytes // (step * UNROLL))
    rows = program(
        {"op": OP_LOAD, "bytes": warp_size * element_bytes, "warp_stride": warp_size * element_bytes, "count": UNROLL,
         "step": step, "size": size_bytes, "window": WINDOW, "use": FLOAT64_CYCLES},
        {"op": OP_WAIT, "count": FLOAT64_CYCLES},
        {"op": OP_LOOP, "base": 0, "count": loops},
        {"op": OP_END},
    )  # fmt: skip
    return Pattern(rows, CACHE_BLOCK // warp_size, 1)


def shared_reads(block_bytes: int, data_bytes: int, element_bytes: int, warp_size: int, resident: int) -> Pattern:
    """Blocks of 1024 threads that read `block_bytes` each, out of `data_bytes` that they share (gpu-l2-cache).

    A core of `resident` warps holds as many blocks as have room: two, to which 65536 registers give 32 a thread.
    """
    step = L2_BLOCK * element_bytes
    loads, runs = max(1, block_bytes // step), max(1, data_bytes // block_bytes)
    place = {"bytes": warp_size * element_bytes, "warp_stride": warp_size * element_bytes, "blocks": runs}
    rows = program(
        {"op": OP_LOAD, "block_stride": step, "count": loads, "step": step * runs, "window": L2_WINDOW,
         "use": FLOAT64_CYCLES, **place},
        {"op": OP_WAIT, "count": FLOAT64_CYCLES},
        {"op": OP_END},
    )  # fmt: skip
    warps = L2_BLOCK // warp_size
    return Pattern(rows, warps, max(1, resident // warps), phases=loads)


CHASE_BYTES = 64  # between elements of gpu-latency: 8 pointers of 8 bytes
CHASE_THREADS = 64


def chase(size_bytes: int, warp_size: int, seed: int, most: int) -> Pattern:
    """A random cycle through all elements of a buffer, followed by one block on one core (gpu-latency).

    Of a buffer of more than `most` elements, the chain holds that many, drawn over the whole buffer.
    """
    elements = max(1, size_bytes // CHASE_BYTES)
    random = np.random.default_rng(seed)
    chain = random.permutation(elements) if elements <= most else random.integers(0, elements, most)
    rows = program({"op": OP_CHASE, "bytes": 8}, {"op": OP_LOOP, "base": 0})
    return Pattern(rows, max(1, CHASE_THREADS // warp_size), 1, 1, chain.astype(np.int64), CHASE_BYTES)


def gather(chain: Array) -> Pattern:
    """One warp on one core that loads all elements of a chain once, in order, as fast as it can: it fills caches."""
    rows = program({"op": OP_GATHER, "bytes": 8, "count": len(chain)}, {"op": OP_WAIT}, {"op": OP_END})
    return Pattern(rows, 1, 1, 1, chain, CHASE_BYTES)
