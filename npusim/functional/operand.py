"""Operands: descriptors resolved with register values, and the memory bytes that they name.

The functional executor (values) and the hazard checker (addresses) both see memory through this module, so that a
byte that one of them touches is a byte that the other one checks.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from isa.dtypes import BY_CODE
from isa.errors import SimulationError
from isa.program import MAX_DIMS, SPACES

Array = npt.NDArray[Any]

# A window axis that may leave its range: coordinate of element (0, 0, ..), limit, and ((dimension, coefficient), ..).
Window = tuple[int, int, tuple[tuple[int, int], ...]]


class Operand(NamedTuple):
    """A resolved operand: element (i0, ..) is at `base + sum(stride[d] * i_d)` bytes of space `space`.

    `windows` lists only the axes on which some element lies outside its range and reads as the pad value.
    """

    desc: int
    space: int
    dtype: int
    rows: int
    base: int
    ext: tuple[int, ...]
    stride: tuple[int, ...]
    windows: tuple[Window, ...]


class Piece(NamedTuple):
    """A strided part of an operand with no element outside its window; `where` selects it in the operand's array."""

    base: int
    ext: tuple[int, ...]
    stride: tuple[int, ...]
    where: tuple[Any, ...]


class Resolver:
    """One descriptor, prepared so that resolving it against registers is a few additions."""

    def __init__(self, index: int, record: Any) -> None:
        n = int(record["ndim"])
        space, kind = int(record["space"]), int(record["dtype"])
        if not 0 <= n <= MAX_DIMS or not 0 <= space < len(SPACES) or kind not in BY_CODE:
            raise SimulationError(f"descriptor {index}: ndim {n}, space {space} or dtype {kind} does not exist")
        ext, stride = [int(v) for v in record["ext"][:n]], [int(v) for v in record["stride"][:n]]
        self.ext_regs = tuple((d, int(r)) for d, r in enumerate(record["ext_reg"][:n]) if r >= 0)
        self.base, self.base_reg = int(record["base"]), int(record["base_reg"])
        axes = []
        for x in range(2):
            dims = tuple((d, int(record["coef"][d])) for d in range(n) if record["axis"][d] == x)
            limit, limit_reg = int(record["limit"][x]), int(record["limit_reg"][x])
            if not dims and limit == 0 and limit_reg < 0:
                continue
            step = int(record["axis_stride"][x])
            for d, coef in dims:
                stride[d] += step * coef
            axes.append((int(record["origin"][x]), int(record["origin_reg"][x]), limit, limit_reg, step, dims))
        self.axes = tuple(axes)
        self.stride = tuple(stride)
        self.ext = tuple(ext)
        self.head = (index, space, kind, int(record["rows"]))
        used = [self.base_reg, *(r for _, r in self.ext_regs), *(r for a in axes for r in (a[1], a[3]))]
        self.registers = tuple(r for r in used if r >= 0)

    def resolve(self, regs: Sequence[int]) -> Operand:
        """Return the operand for the present register values."""
        base = self.base + regs[self.base_reg] if self.base_reg >= 0 else self.base
        ext = self.ext
        if self.ext_regs:
            sizes = list(ext)
            for d, r in self.ext_regs:
                sizes[d] = max(0, min(regs[r], sizes[d]))
            ext = tuple(sizes)
        if not self.axes:
            return Operand(*self.head, base, ext, self.stride, ())
        windows = []
        for origin, origin_reg, limit, limit_reg, step, dims in self.axes:
            start = origin + regs[origin_reg] if origin_reg >= 0 else origin
            bound = regs[limit_reg] if limit_reg >= 0 else limit
            base += step * start
            low = high = start
            for d, coef in dims:
                reach = coef * (ext[d] - 1)
                low, high = (low + reach, high) if reach < 0 else (low, high + reach)
            if low < 0 or high >= bound:
                windows.append((start, bound, dims))
        return Operand(*self.head, base, ext, self.stride, tuple(windows))


def pieces(operand: Operand) -> Iterator[Piece]:
    """Yield the strided parts of an operand that lie inside its windows; nothing when an extent is 0."""
    if 0 not in operand.ext:
        everything = tuple(slice(None) for _ in operand.ext)
        yield from _split(operand.base, operand.ext, operand.stride, operand.windows, everything)


def _split(
    base: int, ext: tuple[int, ...], stride: tuple[int, ...], windows: tuple[Window, ...], where: tuple[Any, ...]
) -> Iterator[Piece]:
    """Fix the dimensions that share an axis one index at a time (kernel rows of an im2col), then cut each axis."""
    for start, limit, dims in windows:
        moving = [(ext[d], d, coef) for d, coef in dims if ext[d] > 1 and coef]
        if not moving and not 0 <= start < limit:
            return
        if len(moving) < 2:
            continue
        count, d, _ = min(moving)
        narrow = (*ext[:d], 1, *ext[d + 1 :])
        for i in range(count):
            fixed = tuple((s + _coef(ds, d) * i, m, ds) for s, m, ds in windows)
            chosen = (*where[:d], slice(i, i + 1), *where[d + 1 :])
            yield from _split(base + stride[d] * i, narrow, stride, fixed, chosen)
        return
    sizes, selected = list(ext), list(where)
    for start, limit, dims in windows:
        for d, coef in dims:
            if ext[d] > 1 and coef:
                first, stop = _inside(start, coef, limit, ext[d])
                if stop <= first:
                    return
                base += stride[d] * first
                sizes[d], selected[d] = stop - first, slice(first, stop)
    yield Piece(base, tuple(sizes), stride, tuple(selected))


def _coef(dims: tuple[tuple[int, int], ...], d: int) -> int:
    return next((c for dim, c in dims if dim == d), 0)


def _inside(start: int, coef: int, limit: int, count: int) -> tuple[int, int]:
    """Return the range of i in [0, count) for which 0 <= start + coef * i < limit."""
    if coef < 0:
        start, coef = limit - 1 - start, -coef
    return max(0, -(start // coef)), min(count, (limit - 1 - start) // coef + 1)


def box(piece: Piece, size_bytes: int) -> tuple[int, int]:
    """Return the byte range [low, high) that a piece of elements of `size_bytes` spans."""
    low = high = piece.base
    for count, step in zip(piece.ext, piece.stride):
        if step < 0:
            low += step * (count - 1)
        else:
            high += step * (count - 1)
    return low, high + size_bytes


def element_bytes(operand: Operand) -> int:
    """Storage bytes of one element of the operand."""
    return BY_CODE[operand.dtype].size_bytes


def check_bounds(operand: Operand, letter: str, space_bytes: int, declared_bytes: int | None = None) -> list[Piece]:
    """Return the operand's pieces; raises SimulationError when one leaves its space, or what its kernel declares."""
    found = list(pieces(operand))
    for piece in found:
        low, high = box(piece, element_bytes(operand))
        if low < 0 or high > space_bytes:
            raise SimulationError(
                f"operand {letter} touches bytes [{low}, {high}) of {SPACES[operand.space]}, which has {space_bytes}"
            )
        if declared_bytes is not None and high > declared_bytes:
            raise SimulationError(f"operand {letter} {undeclared(operand.space, low, high, declared_bytes)}")
    return found


def undeclared(space: int, low: int, high: int, declared_bytes: int) -> str:
    """What is wrong with bytes that a kernel touches beyond those that it declares."""
    name = SPACES[space]
    return (
        f"touches bytes [{low}, {high}) of {name}, of which its kernel declares {declared_bytes}: "
        f"let .kernel say {name}={high} or more"
    )


def view(memory: Array, piece: Piece, kind: np.dtype[Any]) -> Array:
    """Return a piece as a numpy view of `memory` (uint8); unaligned elements are legal."""
    if min(piece.stride, default=0) >= 0:
        return np.ndarray(piece.ext, kind, memory, piece.base, piece.stride)
    flat = np.ndarray((), kind, memory, piece.base)
    return np.lib.stride_tricks.as_strided(flat, piece.ext, piece.stride)
