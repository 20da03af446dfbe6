"""The memory port as plain arrays: a ring of requests in time order, a heap of responses in time order.

Core kernels append requests, stamped with their arrival at the controller, in non-decreasing time. `memory_advance`
(npusim.memory.dram) consumes those before `until_fs` and pushes one response each, at or after the arrival. With
windows no longer than the request latency no response can be due before the window in which it is computed ends.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from npusim.jit import inlined, kernel

Array = npt.NDArray[Any]

# Columns of a request row (int64).
REQ_TIME_FS = 0  # arrival at the controller
REQ_PORT = 1  # the core that asks; what has no network or partitions does not read it
REQ_ADDRESS = 2  # bytes
REQ_BYTES = 3
REQ_WRITE = 4  # 1: write, 0: read
REQ_TAG = 5  # comes back with the response
REQ_COLUMNS = 6

# Ring state, int64[4]: HEAD and TAIL count rows for ever; row n lies at n % capacity.
RING_HEAD = 0  # first row not yet consumed
RING_TAIL = 1  # next row to write
RING_LAST_FS = 2  # time of the youngest row
RING_PEAK = 3  # most rows ever waiting

# Columns of a response row (int64).
RSP_TIME_FS = 0  # last data at the controller (read) or taken from the bus (write)
RSP_SEQ = 1  # breaks ties: the order of requests, or of creation
RSP_TAG = 2
RSP_WAIT_FS = 3  # part of the latency that an idle memory would not have cost
RSP_COLUMNS = 4

# Heap state, int64[2].
HEAP_SIZE = 0
HEAP_NEXT_SEQ = 1


@dataclass
class MemoryPort:
    """The four arrays between core kernels and a memory kernel; buffers are replaced when they grow."""

    requests: Array  # int64 [capacity, REQ_COLUMNS]
    ring: Array  # int64 [4]
    responses: Array  # int64 [capacity, RSP_COLUMNS]
    heap_state: Array  # int64 [2]

    def grow_requests(self) -> None:
        """Double the ring; waiting rows keep their order."""
        rows = np.arange(self.ring[RING_HEAD], self.ring[RING_TAIL])
        grown = np.zeros((2 * len(self.requests), REQ_COLUMNS), np.int64)
        grown[rows % len(grown)] = self.requests[rows % len(self.requests)]
        self.requests = grown

    def grow_responses(self) -> None:
        """Double the heap."""
        grown = np.zeros((2 * len(self.responses), RSP_COLUMNS), np.int64)
        grown[: len(self.responses)] = self.responses
        self.responses = grown


def make_port(request_capacity: int = 4096, response_capacity: int = 4096) -> MemoryPort:
    """Return an empty port with room for the given numbers of waiting requests and responses (each > 0)."""
    if request_capacity <= 0 or response_capacity <= 0:
        raise ValueError(f"port capacities {request_capacity}, {response_capacity}: both must be above 0")
    return MemoryPort(
        np.zeros((request_capacity, REQ_COLUMNS), np.int64),
        np.zeros(4, np.int64),
        np.zeros((response_capacity, RSP_COLUMNS), np.int64),
        np.zeros(2, np.int64),
    )


@kernel
def ring_free(requests: Array, ring: Array) -> int:
    """Return how many more requests fit."""
    return int(requests.shape[0] - (ring[RING_TAIL] - ring[RING_HEAD]))


@kernel
def ring_push(
    requests: Array, ring: Array, time_fs: int, port: int, address: int, size_bytes: int, write: int, tag: int
) -> bool:
    """Append a request; False, and nothing done, when the ring is full. `time_fs` must not decrease."""
    waiting = ring[RING_TAIL] - ring[RING_HEAD]
    if waiting >= requests.shape[0]:
        return False
    row = ring[RING_TAIL] % requests.shape[0]
    requests[row, REQ_TIME_FS] = time_fs
    requests[row, REQ_PORT] = port
    requests[row, REQ_ADDRESS] = address
    requests[row, REQ_BYTES] = size_bytes
    requests[row, REQ_WRITE] = write
    requests[row, REQ_TAG] = tag
    ring[RING_TAIL] += 1
    ring[RING_LAST_FS] = time_fs
    ring[RING_PEAK] = max(ring[RING_PEAK], waiting + 1)
    return True


@inlined
def _before(rows: Array, a: int, b: int) -> bool:
    if rows[a, RSP_TIME_FS] != rows[b, RSP_TIME_FS]:
        return bool(rows[a, RSP_TIME_FS] < rows[b, RSP_TIME_FS])
    return bool(rows[a, RSP_SEQ] < rows[b, RSP_SEQ])


@inlined
def _copy(rows: Array, source: int, target: int) -> None:
    for column in range(RSP_COLUMNS):
        rows[target, column] = rows[source, column]


@kernel
def heap_push(responses: Array, heap_state: Array, time_fs: int, tag: int, wait_fs: int) -> bool:
    """Add a response, after those of the same time; False, and nothing done, when the heap is full."""
    heap_state[HEAP_NEXT_SEQ] += 1
    return heap_insert(responses, heap_state, time_fs, heap_state[HEAP_NEXT_SEQ], tag, wait_fs)


@kernel
def heap_insert(responses: Array, heap_state: Array, time_fs: int, order: int, tag: int, wait_fs: int) -> bool:
    """Add a response; False, and nothing done, when the heap is full. The earliest (time, order) is row 0."""
    hole = heap_state[HEAP_SIZE]
    if hole >= responses.shape[0]:
        return False
    heap_state[HEAP_SIZE] += 1
    while hole > 0:
        parent = (hole - 1) >> 1
        later = responses[parent, RSP_TIME_FS] - time_fs
        if later < 0 or (later == 0 and responses[parent, RSP_SEQ] <= order):
            break
        _copy(responses, parent, hole)
        hole = parent
    responses[hole, RSP_TIME_FS] = time_fs
    responses[hole, RSP_SEQ] = order
    responses[hole, RSP_TAG] = tag
    responses[hole, RSP_WAIT_FS] = wait_fs
    return True


@kernel
def heap_pop(responses: Array, heap_state: Array) -> None:
    """Remove row 0, the earliest response; read it before. The heap must not be empty."""
    size = heap_state[HEAP_SIZE] - 1
    heap_state[HEAP_SIZE] = size
    hole = 0  # rows move up into it until the last one fits
    while True:
        child = 2 * hole + 1
        if child + 1 < size and _before(responses, child + 1, child):
            child += 1
        if child >= size or not _before(responses, child, size):
            break
        _copy(responses, child, hole)
        hole = child
    _copy(responses, size, hole)
