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

    __slots__ = ("ends", "exact", "high", "low", "pieces", "size", "starts")

    def __init__(self, operand: Operand, size_bytes: int) -> None:
        self.pieces = tuple(pieces(operand._replace(base=0)))
        self.size = size_bytes
        runs = [_runs(piece, size_bytes) for piece in self.pieces]
        self.exact = all(exact for _, exact in runs)
        self.starts, self.ends = merge([found for found, _ in runs])
        self.low = int(self.starts[0]) if len(self.starts) else 0
        self.high = int(self.ends[-1]) if len(self.ends) else 0


def _runs(piece: Piece, size_bytes: int) -> tuple[tuple[Array, Array], bool]:
    """Runs of one piece, unsorted, and whether they are exact: dimensions that continue one another are folded."""
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
        return (np.array([base]), np.array([base + length + sum(s * (n - 1) for s, n in outer)])), False
    starts = np.array([base], np.int64)
    for step, count in outer:
        starts = (np.arange(count, dtype=np.int64)[:, None] * step + starts).ravel()
    return (starts, starts + length), True


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


def covers(a: tuple[Array, Array], b: tuple[Array, Array]) -> bool:
    """True when every byte of sorted run list b lies in sorted run list a."""
    if not len(a[0]):
        return not len(b[0])
    at = np.searchsorted(a[0], b[0], side="right") - 1
    return bool(((at >= 0) & (b[1] <= a[1][at])).all())


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


def _boxes(parts: list[tuple[Shape, Array]]) -> tuple[Array, Array]:
    """Enclosing ranges of shapes at all their bases, unsorted."""
    empty = np.zeros(0, np.int64)
    lows = np.concatenate([empty, *(bases + shape.low for shape, bases in parts)])
    return lows, np.concatenate([empty, *(bases + shape.high for shape, bases in parts)])


def _placed(parts: list[tuple[Shape, Array]]) -> tuple[Array, Array]:
    """Runs of shapes at all their bases, unsorted."""
    empty = np.zeros(0, np.int64)
    starts = np.concatenate([empty, *((bases[:, None] + shape.starts).ravel() for shape, bases in parts)])
    return starts, np.concatenate([empty, *((bases[:, None] + shape.ends).ravel() for shape, bases in parts)])


def _disjoint(runs: tuple[Array, Array]) -> bool:
    """True when no two of the runs share a byte."""
    order = np.argsort(runs[0], kind="stable")
    return bool((runs[1][order][:-1] <= runs[0][order][1:]).all())


def apart(writes: list[tuple[Shape, Array]], reads: list[tuple[Shape, Array]]) -> bool:
    """True when nothing that is written is written twice or read; shapes are given with all their bases."""
    if not writes:
        return True
    boxes = _boxes(writes)
    if not _disjoint(boxes) and not _disjoint(_placed(writes)):
        return False
    hull = merge([boxes])
    if not reads or common(hull, merge([_boxes(reads)])) is None:
        return True
    near = [(shape, bases[_meets(hull, bases + shape.low, bases + shape.high)]) for shape, bases in reads]
    return common(merge([_placed(writes)]), merge([_placed([(s, b) for s, b in near if len(b)])])) is None


def _meets(runs: tuple[Array, Array], low: Array, high: Array) -> Array:
    """Which of the ranges [low, high) share a byte with sorted runs."""
    at = np.searchsorted(runs[1], low, side="right")
    return np.asarray((at < len(runs[0])) & (runs[0][np.minimum(at, len(runs[0]) - 1)] < high))
