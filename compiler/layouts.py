"""Orders in which elements of a tensor lie in memory: plain (ND), and the fractal orders of machines with a cube.

A fractal is the block of a matrix that a cube takes at a time: `rows` x `cols` elements, a row of it being C0 elements
(`core.matrix.fractal_bytes`). In names of matrix orders the first letter says how fractals follow each other, the
second how elements do inside of one: Z by rows, N by columns. What does not fill whole fractals is padded with zeros.
Orders and examples: AISystem course, Ascend data layout; names as in CANN.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import gcd, lcm, prod

import numpy as np

from compiler.graph import Array
from isa.dtypes import dtype as dtype_of
from isa.machine import Machine

FRACTAL_ROWS = 16


@dataclass(frozen=True)
class Fractal:
    """The block: rows (H0, N0) and elements of a row (W0, C0)."""

    cols: int
    rows: int = FRACTAL_ROWS


# Axes as a graph has them, and as they are stored: 1 counts blocks of an axis, 0 the elements of a block.
# fmt: off
ORDERS: dict[str, tuple[tuple[str, ...], tuple[str, ...]]] = {
    "ND":        ((),                     ()),
    "NZ":        (("h", "w"),             ("w1", "h1", "h0", "w0")),              # results, and what follows products
    "ZZ":        (("h", "w"),             ("h1", "w1", "h0", "w0")),              # left operands in L0A
    "ZN":        (("h", "w"),             ("h1", "w1", "w0", "h0")),              # right operands in L0B
    "NC1HWC0":   (("n", "h", "w", "c"),   ("n", "c1", "h", "w", "c0")),           # feature maps, from channels-last
    "FRACTAL_Z": (("kh", "kw", "c", "n"), ("c1", "kh", "kw", "n1", "n0", "c0")),  # filters, of [kh, kw, C, N]
}
# fmt: on
_BY_ROWS = ("h", "n")  # axes whose blocks are a fractal's rows; all others are cut by its columns
_MERGED = {"FRACTAL_Z": 3}  # leading stored axes that count as one


def channel_block(machine: Machine, dtype: str) -> int:
    """C0 of a dtype: 16 for fp16, 32 for int8; 0 on machines without fractal layouts."""
    return machine.core.matrix.fractal_bytes // dtype_of(dtype).size_bytes


def stored_shape(order: str, shape: tuple[int, ...], fractal: Fractal) -> tuple[int, ...]:
    """Shape of a stored tensor; axes in front of those that the order names stay."""
    lead, extents = _extents(order, shape, fractal)
    full = tuple(extents[axis] for axis in ORDERS[order][1])
    merged = _MERGED.get(order, 0)
    return (*lead, prod(full[:merged]), *full[merged:]) if merged else (*lead, *full)


def store(order: str, values: Array, fractal: Fractal) -> Array:
    """The elements as they are stored, padding included."""
    stored = ORDERS[order][1]
    lead, extents = _extents(order, values.shape, fractal)
    split = _split(order)
    room = [prod(extents[axis] for axis in parts) for parts in split]
    padding = [(0, 0)] * len(lead) + [(0, r - e) for r, e in zip(room, values.shape[len(lead) :])]
    parts = [axis for axes in split for axis in axes]
    whole = np.pad(values, padding).reshape(*lead, *(extents[axis] for axis in parts))
    places = [len(lead) + parts.index(axis) for axis in stored]
    turned = whole.transpose(*range(len(lead)), *places)
    return np.ascontiguousarray(turned).reshape(stored_shape(order, values.shape, fractal))


def load(order: str, values: Array, shape: tuple[int, ...], fractal: Fractal) -> Array:
    """The tensor of `shape` back from its stored elements, without padding."""
    stored = ORDERS[order][1]
    lead, extents = _extents(order, shape, fractal)
    split = _split(order)
    parts = [axis for axes in split for axis in axes]
    whole = values.reshape(*lead, *(extents[axis] for axis in stored))
    turned = whole.transpose(*range(len(lead)), *(len(lead) + stored.index(axis) for axis in parts))
    room = [prod(extents[axis] for axis in axes) for axes in split]
    kept = tuple(slice(0, extent) for extent in shape)
    return np.ascontiguousarray(turned.reshape(*lead, *room)[kept])


def merged_groups(groups: int, per_group: int, per_out: int, c0: int) -> int:
    """Groups of a convolution whose channels fill whole blocks on both sides; 0 where others would be among them.

    The last groups may be missing: their channels are what fills the last block.
    """
    merged = lcm(c0 // gcd(c0, per_group), c0 // gcd(c0, per_out))
    count = -(-groups // merged) * merged
    fits = all(count * each == -(-groups * each // c0) * c0 for each in (per_group, per_out))
    return merged if fits else 0


def blow_up(order: str, shape: tuple[int, ...], fractal: Fractal) -> float:
    """Stored bytes over the tensor's own: 5.33 for NC1HWC0 of 3 channels in fp16."""
    return prod(stored_shape(order, shape, fractal)) / prod(shape)


def _split(order: str) -> list[tuple[str, ...]]:
    """The stored axes behind each axis of the graph, blocks first."""
    logical, stored = ORDERS[order]
    return [(f"{axis}1", f"{axis}0") if f"{axis}0" in stored else (axis,) for axis in logical]


def _extents(order: str, shape: tuple[int, ...], fractal: Fractal) -> tuple[tuple[int, ...], dict[str, int]]:
    """(axes in front, extent of every stored axis)."""
    logical = ORDERS[order][0]
    lead = shape[: len(shape) - len(logical)]
    found: dict[str, int] = {}
    for axis, parts, extent in zip(logical, _split(order), shape[len(lead) :]):
        if len(parts) == 1:
            found[axis] = extent
            continue
        block = fractal.rows if axis in _BY_ROWS else fractal.cols
        found |= {parts[0]: -(-extent // block), parts[1]: block}
    return lead, found
