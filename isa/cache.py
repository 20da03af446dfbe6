"""Caches of the machine description."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated, Literal

from pydantic import Field

from isa.schema_types import Count, Natural, Part, Positive


class Cache(Part):
    """One cache, or one slice of a sliced one: set-associative lines of sectors.

    A miss of a present line fetches the sectors that are asked for only. `mshrs` lines may be on their way at once,
    each with up to `mshr_targets` requests that wait for it.
    """

    size_bytes: Annotated[int, Field(gt=0, le=1 << 34)]
    ways: Annotated[int, Field(gt=0, le=1024)]
    line_bytes: Annotated[int, Field(gt=0, le=4096)] = 128
    sector_bytes: Annotated[int, Field(gt=0, le=4096)] = 32
    replacement: Literal["lru", "plru", "fifo", "random"] = "lru"
    write: Literal["back", "through"] = "back"
    write_allocate: bool = True
    hit_latency_cycles: Positive
    bytes_per_cycle: Positive  # of a slice
    mshrs: Count = 64
    mshr_targets: Count = 8
    hash_sets: bool = True  # index sets by XOR-folded address bits


class SharedCache(Cache):
    """A cache that all cores share: `slices` equal parts, chosen by hashed address bits, in `partitions`.

    Consecutive sectors lie in consecutive `banks` of a slice, which all together deliver `bytes_per_cycle`: a lookup a
    cycle, if the banks of its sectors are free.

    A core reaches its own partition at `hit_latency_cycles`; a line that lives in another partition costs
    `far_latency_cycles` more and is kept in both (`replicate`).
    """

    slices: Count
    banks: Annotated[int, Field(gt=0, le=1024)] = 1
    partitions: Annotated[int, Field(gt=0, le=8)] = 1
    far_latency_cycles: Natural = 0
    far_bytes_per_cycle: Positive | None = None  # of the link between two partitions, each way
    replicate: bool = True
    slice_bytes: Positive = 4096  # of consecutive addresses in one slice before hashing chooses the next
    miss_latency_cycles: Positive = 1  # from the slice to the memory controller
    fill_latency_cycles: Positive = 1  # and back
    clock_mhz: Annotated[float, Field(ge=1, le=1e5)] | None = None  # default: the core clock
    label: str = "L2"


def cache_faults(key: str, cache: Cache) -> Iterator[str]:
    """What one field of the cache described at `key` alone cannot show: each fault is "key.path: what is wrong"."""
    if cache.line_bytes % cache.sector_bytes:
        yield f"{key}.sector_bytes: {cache.sector_bytes} does not divide a line of {cache.line_bytes} bytes"
    if cache.size_bytes % (cache.ways * cache.line_bytes):
        yield (
            f"{key}.size_bytes: {cache.size_bytes} is not a whole number of sets of {cache.ways} ways x "
            f"{cache.line_bytes} bytes"
        )
    if isinstance(cache, SharedCache) and cache.slices % cache.partitions:
        yield f"{key}.slices: {cache.slices} do not divide among {cache.partitions} partitions"
