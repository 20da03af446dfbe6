"""What share of its peak a memory reaches on a pattern, read off the cycle level: no figure is typed in here."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import lru_cache
from heapq import heappop, heappush
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from isa.memory import Memory
from npusim.memory.state import Chip

if TYPE_CHECKING:
    from npusim.memory.port import MemoryPort
    from npusim.memory.state import MemoryState

Array = npt.NDArray[Any]
BYTES_A_CHANNEL = 1 << 17  # enough for a few refreshes, and for every bank many times
MAX_REQUESTS = 1 << 15
STEPS = 8  # of the share of reads
WINDOWS = 2000  # in which streams hear no answers, of a run at peak rate, at most


@dataclass(frozen=True)
class Pattern:
    """Requests at the memory's peak rate: `kind` is stream, strided or random; `stride_bytes` between requests.

    `read_share` of the requests read; reads and writes each go through a half of the memory. With `streams` requests
    come from so many clients, each in a part of its own of both halves, as fast as answers let them: each has at most
    `reads` reads and `writes` writes in flight, and what it asks for leaves in order.
    """

    kind: str = "stream"
    request_bytes: int = 512
    read_share: float = 1.0
    stride_bytes: int = 0
    streams: int = 0
    reads: int = 0
    writes: int = 0


@dataclass(frozen=True)
class _Bare:
    """A memory as a chip of its own."""

    memory: Memory
    clock_mhz: float


def efficiency(chip: Chip, pattern: Pattern) -> float:
    """Return the share of the chip's DRAM peak that the pattern reaches; 1 for the ideal model."""
    if chip.memory.model == "ideal":
        return 1.0
    steps = round(pattern.read_share * STEPS) / STEPS
    return _measured(chip.memory.model_dump_json(), chip.clock_mhz, replace(pattern, read_share=steps))


@lru_cache(maxsize=1024)
def _measured(memory_json: str, clock_mhz: float, pattern: Pattern) -> float:
    return float(measure(_Bare(Memory.model_validate_json(memory_json), clock_mhz), pattern)["efficiency"])


def measure(chip: Chip, pattern: Pattern) -> dict[str, Any]:
    """Run a pattern; return `efficiency`, `row_hit_rate`, `latency_ns` (mean) and the counters of the run."""
    from npusim.memory.dram import memory_flush
    from npusim.memory.port import make_port
    from npusim.memory.state import make_memory

    memory = chip.memory
    peak = memory.channels * memory.dram.channel_bytes_per_second
    count = min(MAX_REQUESTS, max(256, memory.channels * BYTES_A_CHANNEL // pattern.request_bytes))
    state, port = make_memory(chip), make_port(count, count)
    asked, pace_fs = _requests(memory, pattern, count), pattern.request_bytes / peak * 1e15
    if pattern.streams:
        end_fs = _answered_fs(chip, pace_fs, pattern, state, port, asked)
    else:
        end_fs = _all_at_once_fs(pace_fs, pattern, state, port, asked)
    flushed = memory_flush(*state.arrays, port.responses, port.heap_state)  # type: ignore[call-arg]
    end_fs = max(end_fs, flushed)
    found = state.summary()
    runs = max(1, found["row_hits"] + found["row_misses"] + found["row_conflicts"])
    return {
        **found, "efficiency": count * pattern.request_bytes / (end_fs * 1e-15) / peak,
        "row_hit_rate": found["row_hits"] / runs, "latency_ns": found["latency_fs"] / count * 1e-6,
    }  # fmt: skip


def _push(port: MemoryPort, pattern: Pattern, times: Any, asked: tuple[Array, Array], tags: Array) -> None:
    """Put requests, in the order of their times, into the ring, which has room for all of a run."""
    from npusim.memory.port import REQ_ADDRESS, REQ_BYTES, REQ_TAG, REQ_TIME_FS, REQ_WRITE, RING_TAIL

    first = int(port.ring[RING_TAIL])
    rows = port.requests[first : first + len(tags)]
    rows[:, REQ_TIME_FS], rows[:, REQ_TAG], rows[:, REQ_BYTES] = times, tags, pattern.request_bytes
    rows[:, REQ_ADDRESS], rows[:, REQ_WRITE] = asked[0][tags], asked[1][tags]
    port.ring[RING_TAIL] = first + len(tags)


def _all_at_once_fs(
    pace_fs: float, pattern: Pattern, state: MemoryState, port: MemoryPort, asked: tuple[Array, Array]
) -> int:
    """Ask at a constant pace, whatever the answers; return the time of the last one."""
    from npusim.memory.dram import advance
    from npusim.memory.port import RSP_TIME_FS

    tags = np.arange(len(asked[0]))
    _push(port, pattern, (tags * pace_fs).astype(np.int64), asked, tags)
    advance(state, port, 1 << 60)
    return int(port.responses[: len(tags), RSP_TIME_FS].max())


def _answered_fs(
    chip: Chip, pace_fs: float, pattern: Pattern, state: MemoryState, port: MemoryPort, asked: tuple[Array, Array]
) -> int:
    """Let streams ask as fast as answers let them; return the time of the last one.

    An answer that is on its way for as long as a window cannot call forth a request within it, so windows change
    nothing unless that way is very short beside the run.
    """
    from npusim.memory.dram import advance
    from npusim.memory.port import HEAP_SIZE, RSP_TAG, RSP_TIME_FS

    memory, count, kinds = chip.memory, len(asked[0]), asked[1].tolist()
    way = round((memory.request_latency_cycles + memory.response_latency_cycles) / chip.clock_mhz * 1e9)
    window = max(way, int(pace_fs * count) // WINDOWS, 1)
    places = [[[0] * pattern.reads, [0] * pattern.writes] for _ in range(pattern.streams)]  # when each is free: heaps
    following, left_at = list(range(pattern.streams)), [0] * pattern.streams
    now = last = answered = 0
    while answered < count:
        batch = []
        for s, free in enumerate(places):
            while following[s] < count and (heap := free[kinds[following[s]]]):
                time = max(left_at[s], heap[0])
                if time >= now + window:
                    break
                heappop(heap)
                batch.append((time, following[s]))
                left_at[s], following[s] = time, following[s] + pattern.streams
        if batch:
            times, tags = np.array(sorted(batch)).T
            _push(port, pattern, times, asked, tags)
        now += window
        advance(state, port, now)
        found = port.responses[: int(port.heap_state[HEAP_SIZE])]
        for time, tag in zip(found[:, RSP_TIME_FS].tolist(), found[:, RSP_TAG].tolist()):
            heappush(places[tag % pattern.streams][kinds[tag]], max(time + way, now))
            last = max(last, time)
        answered += len(found)
        port.heap_state[HEAP_SIZE] = 0
    return last


def _requests(memory: Memory, pattern: Pattern, count: int) -> tuple[Array, Array]:
    """Addresses and directions; reads and writes are spread evenly, each in its own half of the memory. Streams take
    turns in the list."""
    streams = max(1, pattern.streams)
    index = np.arange(count, dtype=np.int64) // streams
    stream = np.arange(count, dtype=np.int64) % streams
    write = (np.floor((index + 1) * (1 - pattern.read_share)) > np.floor(index * (1 - pattern.read_share))).astype(int)
    own = write[stream == 0]
    place = np.where(own == 1, np.cumsum(own) - 1, np.cumsum(1 - own) - 1)[index]
    half = memory.capacity_bytes // 2 // pattern.request_bytes
    if pattern.kind == "random":
        place = np.random.default_rng(1).integers(0, half, count)
    step = pattern.request_bytes if pattern.kind != "strided" else pattern.stride_bytes
    part = half // streams * pattern.request_bytes
    offset = stream * part + place * step % max(part, pattern.request_bytes)
    return offset + write * half * pattern.request_bytes, write.astype(np.int64)
