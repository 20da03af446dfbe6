"""Byte sets of operands: exact contiguous runs, shared by all operands that differ only in their base.

Two tiles may interleave (neighbouring column blocks of one matrix): their boxes overlap, their bytes do not. So
overlap is decided on runs, not on boxes.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from npusim.functional.operand import Operand, Piece, element_bytes, pieces

Array = npt.NDArray[Any]
MAX_RUNS = 1 << 22  # above, the enclosing box stands for the set


class Shape:
    """A byte set relative to a base: sorted disjoint runs [starts, ends) within the box [low, high)."""

    __slots__ = ("ends", "high", "low", "pieces", "size", "starts")

    def __init__(self, operand: Operand, size_bytes: int) -> None:
        self.pieces = tuple(pieces(operand._replace(base=0)))
        self.size = size_bytes
        self.starts, self.ends = merge([_runs(piece, size_bytes) for piece in self.pieces])
        self.low = int(self.starts[0]) if len(self.starts) else 0
        self.high = int(self.ends[-1]) if len(self.ends) else 0


def _runs(piece: Piece, size_bytes: int) -> tuple[Array, Array]:
    """Runs of one piece, unsorted: dimensions that continue one another are folded into the run."""
    base, length = piece.base, size_bytes
    outer: list[tuple[int, int]] = []
    for step, count in sorted((abs(s), n) for s, n in zip(piece.stride, piece.ext) if s and n > 1):
        if step <= length:
            length += step * (count - 1)
        else:
            outer.append((step, count))
    base += sum(s * (n - 1) for s, n in zip(piece.stride, piece.ext) if s < 0)
    total = 1
    for _, count in outer:
        total *= count
    if total > MAX_RUNS:
        return np.array([base]), np.array([base + length + sum(s * (n - 1) for s, n in outer)])
    starts = np.array([base], np.int64)
    for step, count in outer:
        starts = (np.arange(count, dtype=np.int64)[:, None] * step + starts).ravel()
    return starts, starts + length


def merge(runs: list[tuple[Array, Array]]) -> tuple[Array, Array]:
    """Sort runs and join those that touch."""
    if not runs:
        return np.zeros(0, np.int64), np.zeros(0, np.int64)
    starts = np.concatenate([s for s, _ in runs])
    ends = np.concatenate([e for _, e in runs])
    if len(starts) == 1:
        return starts, ends
    order = np.argsort(starts, kind="stable")
    starts, ends = starts[order], np.maximum.accumulate(ends[order])
    first = np.concatenate([[True], starts[1:] > ends[:-1]])
    last = np.concatenate([first[1:], [True]])
    return starts[first], ends[last]


def common(a: tuple[Array, Array], b: tuple[Array, Array]) -> tuple[int, int] | None:
    """Return the first byte range that two sorted run lists share, or None."""
    if len(a[0]) > len(b[0]):
        a, b = b, a
    at = np.searchsorted(b[1], a[0], side="right")
    inside = at < len(b[0])
    hit = np.zeros(len(at), bool)
    hit[inside] = b[0][at[inside]] < a[1][inside]
    if not hit.any():
        return None
    i = int(np.argmax(hit))
    j = int(at[i])
    return max(int(a[0][i]), int(b[0][j])), min(int(a[1][i]), int(b[1][j]))


class Shapes:
    """Shapes and their overlaps, each computed once."""

    def __init__(self) -> None:
        self._shapes: dict[tuple[Any, ...], Shape] = {}
        self._overlaps: dict[tuple[Shape, Shape, int], tuple[int, int] | None] = {}

    def of(self, operand: Operand) -> Shape:
        """The shape of an operand."""
        key = (operand.ext, operand.stride, operand.windows, operand.dtype)
        shape = self._shapes.get(key)
        if shape is None:
            shape = self._shapes[key] = Shape(operand, element_bytes(operand))
        return shape

    def overlap(self, a: Shape, a_base: int, b: Shape, b_base: int) -> tuple[int, int] | None:
        """The first byte range that a at a_base and b at b_base share, or None."""
        shift = b_base - a_base
        if a.high <= b.low + shift or b.high + shift <= a.low:
            return None
        key = (a, b, shift)
        if key not in self._overlaps:
            self._overlaps[key] = common((a.starts, a.ends), (b.starts + shift, b.ends + shift))
        found = self._overlaps[key]
        return None if found is None else (found[0] + a_base, found[1] + a_base)


def union(parts: list[tuple[Shape, int]]) -> tuple[Array, Array]:
    """Sorted disjoint runs of shapes placed at their bases."""
    return merge([(shape.starts + base, shape.ends + base) for shape, base in parts])
