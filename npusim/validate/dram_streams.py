"""The request streams of the DRAM tables, made from a row's parameters: byte address and direction of each request."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from npusim.validate.table import TableError

Array = npt.NDArray[Any]
MAX_REQUESTS = 20_000_000
CHUNK = 256  # bytes
RANGE = 1 << 28  # addresses of a channel that streams wander in
MULTIPLIER, INCREMENT = 6364136223846793005, 1442695040888963407  # Knuth's 64-bit linear congruential generator


@dataclass(frozen=True)
class Stream:
    """Requests in order: byte addresses, 1 for a write, and the tick at which each is due."""

    address: Array
    write: Array
    due: Array

    @property
    def checksum(self) -> int:
        """The sum over i of (address + write) * (i + 1), modulo 2^64."""
        index = np.arange(1, len(self.address) + 1, dtype=np.uint64)
        with np.errstate(over="ignore"):
            return int(((self.address + self.write).astype(np.uint64) * index).sum(dtype=np.uint64))


@dataclass(frozen=True)
class _Shape:
    """What the formulas need: parameters by name, requests, bytes of one, channels, requests of a chunk."""

    given: Mapping[str, int]
    count: int
    size: int
    channels: int

    def of(self, name: str, default: int | None = None) -> int:
        value = self.given.get(name, default)
        least = 0 if name == "seed" else 1
        if value is None or value < least:
            raise TableError(f"column stream_params: {name} is {value}; the stream needs a number of {least} or more")
        return value

    @property
    def index(self) -> Array:
        return np.arange(self.count, dtype=np.int64)

    @property
    def in_chunk(self) -> int:
        return max(1, CHUNK // self.size)


def make_stream(kind: str, params: str, size: int, channels: int, inject: tuple[int, int]) -> Stream:
    """Return stream `kind` with `params` (`N=100;S=256`): requests of `size` bytes, `inject` (ticks, requests) a group.

    Raises TableError for an unknown stream or a parameter that is missing or too large.
    """
    if kind not in _FORMULAS:
        raise TableError(f"column stream_id: {kind!r} is not one of {', '.join(_FORMULAS)}")
    try:
        given = {key: int(value) for key, value in (item.split("=") for item in params.split(";") if item)}
    except ValueError:
        raise TableError(f"column stream_params: {params!r} is not NAME=NUMBER;...") from None
    count = given.get("N", 0)
    if not 0 < count <= MAX_REQUESTS:
        raise TableError(f"column stream_params: N is {count}; it must be 1 to {MAX_REQUESTS}")
    shape = _Shape(given, count, size, channels)
    address, write = _FORMULAS[kind](shape)
    every, group = inject
    due = shape.index // max(1, group) * every
    return Stream(address.astype(np.int64), write.astype(np.int64), due)


def draws(seed: int, count: int) -> Array:
    """Return `count` numbers of 31 bits."""
    out, state = np.empty(count, np.int64), seed
    for i in range(count):
        state = (MULTIPLIER * state + INCREMENT) & ((1 << 64) - 1)
        out[i] = state >> 33
    return out


def _reads(address: Array) -> tuple[Array, Array]:
    return address, np.zeros_like(address)


def _sequential(s: _Shape) -> tuple[Array, Array]:
    return _reads(s.index * s.size)


def _strided(s: _Shape) -> tuple[Array, Array]:
    return _reads(s.index * s.of("S") % RANGE)


def _random(s: _Shape) -> tuple[Array, Array]:
    block = s.of("B", s.size)
    return _reads(draws(s.of("seed"), s.count) % (RANGE * s.channels // block) * block)


def _random_chunks(s: _Shape) -> tuple[Array, Array]:
    chunk = s.index // s.in_chunk
    picked = draws(s.of("seed"), int(chunk[-1]) + 1)[chunk] % (RANGE * s.channels // CHUNK)
    return _reads(picked * CHUNK + s.index % s.in_chunk * s.size)


def _interleaved(s: _Shape) -> tuple[Array, Array]:
    """16 sequential streams in chunks, 30 % of which are writes."""
    chunk = s.index // s.in_chunk
    address = chunk % 16 * s.of("D") + chunk // 16 * CHUNK + s.index % s.in_chunk * s.size
    return address, draws(s.of("seed"), int(chunk[-1]) + 1)[chunk] % 10 < 3


def _turnaround(s: _Shape) -> tuple[Array, Array]:
    """32 reads, 32 writes, in two distant places."""
    batch = s.index // 32
    offset = (batch // 2 * 32 + s.index % 32) * s.size
    return np.where(batch % 2 == 0, offset, offset + (1 << 27) + 16384), batch % 2


def _tiles(s: _Shape) -> tuple[Array, Array]:
    """2-D tiles: 64 rows of 512 B at a pitch of 8 KiB, 16 tiles a band."""
    in_row = max(1, 512 // s.size)
    row, tile = s.index // in_row % 64, s.index // (64 * in_row)
    return _reads(tile // 16 * 524288 + row * 8192 + tile % 16 * 512 + s.index % in_row * s.size)


_FORMULAS: dict[str, Callable[[_Shape], tuple[Array, Array]]] = {
    "a": _sequential, "b": _sequential, "c_256": _strided, "c_row": _strided, "c_conf": _strided, "d": _random,
    "h": _random, "d256": _random_chunks, "e": _interleaved, "f": _turnaround, "g": _tiles,
}  # fmt: skip
