"""Caches of the machine description."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated, Literal

from pydantic import Field

from isa.schema_types import Count, Part, Positive

Cycles = Annotated[int, Field(gt=0, le=1_000_000)]  # far beyond any chip, and a run still ends


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
    hit_latency_cycles: Cycles
    bytes_per_cycle: Positive  # of a slice
    mshrs: Count = 64
    mshr_targets: Count = 8
    hash_sets: bool = True  # index sets by XOR-folded address bits


class SharedCache(Cache):
    """A cache that all cores share: `slices` equal parts of `size_bytes` each, chosen by hashed address bits, in
    `partitions`.

    Consecutive sectors lie in consecutive `banks` of a slice, which all together deliver `bytes_per_cycle`: a lookup a
    cycle, if the banks of its sectors are free.

    A core reaches its own partition at `hit_latency_cycles`; a line that lives in another partition costs
    `far_latency_cycles` more and is kept in both (`replicate`). Cores belong to partitions as `core_partitions` says,
    again and again, or without it in equal shares of consecutive cores. Cores share `coalescers` in turn: a read that
    finds another of the same sectors under way there waits for its answer and asks no slice.
    """

    slices: Count
    banks: Annotated[int, Field(gt=0, le=1024)] = 1
    partitions: Annotated[int, Field(gt=0, le=8)] = 1
    coalescers: Annotated[int, Field(ge=0, le=4096)] = 0
    core_partitions: list[Annotated[int, Field(ge=0, lt=8)]] = Field(default_factory=list)
    far_latency_cycles: Annotated[int, Field(ge=0, le=1_000_000)] = 0
    far_bytes_per_cycle: Positive | None = None  # of the link between two partitions, each way
    replicate: bool = True
    slice_bytes: Positive = 4096  # of consecutive addresses in one slice before hashing chooses the next
    miss_latency_cycles: Cycles = 1  # from the slice to the memory controller
    fill_latency_cycles: Cycles = 1  # and back
    clock_mhz: Annotated[float, Field(ge=1, le=1e5)] | None = None  # default: the core clock
    label: str = "L2"

    def partition_of(self, core: int, cores: int) -> int:
        """The partition that a core, of so many, is attached to."""
        if self.core_partitions:
            return self.core_partitions[core % len(self.core_partitions)]
        return core * self.partitions // cores


MAX_SECTORS, MAX_PLRU_WAYS = 31, 32  # bits of the words that npusim.memory.caches keeps


def cache_faults(key: str, cache: Cache) -> Iterator[str]:
    """What one field of the cache described at `key` alone cannot show: each fault is "key.path: what is wrong"."""
    for name in ("line_bytes", "sector_bytes"):
        value = getattr(cache, name)
        if value & (value - 1):
            yield f"{key}.{name}: {value} is not a power of two: set {key}.{name} to {1 << value.bit_length() - 1}"
    if cache.line_bytes % cache.sector_bytes:
        yield (
            f"{key}.sector_bytes: {cache.sector_bytes} does not divide a line of {cache.line_bytes} bytes: set "
            f"{key}.sector_bytes to {cache.line_bytes} or a part of it"
        )
    elif cache.line_bytes // cache.sector_bytes > MAX_SECTORS:
        yield (
            f"{key}.sector_bytes: a line of {cache.line_bytes} bytes has {cache.line_bytes // cache.sector_bytes} "
            f"sectors of {cache.sector_bytes}, more than {MAX_SECTORS}: set {key}.sector_bytes to more"
        )
    if cache.size_bytes % (cache.ways * cache.line_bytes):
        yield (
            f"{key}.size_bytes: {cache.size_bytes} is not a whole number of sets of {cache.ways} ways x "
            f"{cache.line_bytes} bytes: set {key}.size_bytes to a multiple of {cache.ways * cache.line_bytes}"
        )
    if cache.replacement == "plru" and (cache.ways & (cache.ways - 1) or cache.ways > MAX_PLRU_WAYS):
        yield (
            f"{key}.ways: plru needs a power of two of at most {MAX_PLRU_WAYS} ways, not {cache.ways}: set {key}.ways, "
            f"or {key}.replacement to lru"
        )
    if isinstance(cache, SharedCache):
        if cache.slices % cache.partitions:
            yield (
                f"{key}.slices: {cache.slices} do not divide among {cache.partitions} partitions: set {key}.slices to "
                f"a multiple of {cache.partitions}"
            )
        for partition in cache.core_partitions:
            if partition >= cache.partitions:
                yield (
                    f"{key}.core_partitions: {partition} is no partition of {cache.partitions}, which count from 0: "
                    f"set {key}.partitions to {partition + 1}, or leave {partition} out"
                )
        if cache.slice_bytes & (cache.slice_bytes - 1) or cache.slice_bytes < cache.line_bytes:
            yield (
                f"{key}.slice_bytes: {cache.slice_bytes} is not a power of two of at least a line of "
                f"{cache.line_bytes} bytes: set {key}.slice_bytes to {max(4096, cache.line_bytes)}"
            )
