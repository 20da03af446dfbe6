"""What the kernels that stream tensors through the scratchpad share: index spaces in tiles, operands, tile sizes.

A kernel has an index space of a few dimensions. Each dimension is a loop over tiles; an operand gives, per dimension,
an element stride (0: broadcast). Operands that live in the scratchpad are used in place, all others pass through a
buffer there.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

from compiler.codegen import pipeline_slots, slot_bytes
from compiler.expr import Expr, pos
from compiler.lower.context import NoKernel
from compiler.nest import Buffer, Dim, Loop, Nest, Placed, Ref, Stage, Stmt, TensorArg
from isa.dtypes import dtype
from isa.errors import CapacityError
from isa.machine import Machine
from isa.program import MAX_DIMS

STEP_CYCLES = 64  # of the sequencer a step, beside a copy engine's start-up
LEAST_ELEMENTS = 256  # of a tile: below it, a step costs more than its data


@dataclass(frozen=True)
class Operand:
    """How a tensor is read or written: space, dtype, element stride by dimension of the index space, quantisation."""

    space: str
    dtype: str
    strides: tuple[int, ...]
    scale: float = 1.0
    zero_point: int = 0

    @property
    def size_bytes(self) -> int:
        """Bytes of one element."""
        return dtype(self.dtype).size_bytes

    def used_bytes(self, extents: Sequence[int]) -> int:
        """Bytes that the operand moves for the whole index space."""
        return math.prod(e for e, s in zip(extents, self.strides) if s) * self.size_bytes


def cores_for(machine: Machine, extents: Sequence[int], operands: Sequence[Operand]) -> int:
    """Cores that share an index space: one when tensors lie in its scratchpad, or when all are too small to share."""
    largest = max((o.used_bytes(extents) for o in operands), default=0)
    alone = any(o.space == machine.scratch_space for o in operands) or largest < machine.share_from_bytes
    return 1 if alone else machine.vector_cores


class Grid:
    """The loops of one kernel: dimension i is loop `d<i>`; `order` nests them (default: as they stand)."""

    def __init__(
        self, machine: Machine, extents: Sequence[int], tiles: Sequence[int], cores: int = 1,
        order: Sequence[int] | None = None, fixed: Sequence[int] = (),
    ) -> None:  # fmt: skip
        self.scratch = machine.scratch_space
        self.extents, self.tiles = tuple(extents), tuple(tiles)
        self.order = tuple(range(len(extents)) if order is None else order)
        counts = {i: -(-extents[i] // tiles[i]) for i in self.order if i not in fixed}
        enough = [i for i, n in counts.items() if n >= cores]
        split = enough[0] if enough else max(counts, key=lambda i: counts[i], default=-1)
        shared = split if cores > 1 and counts.get(split, 1) > 1 else -1
        self.loops = tuple(Loop(f"d{i}", extents[i], tiles[i], cores * (i == shared)) for i in self.order)
        self.depth = self.level(range(len(extents)))

    def moves(self, i: int) -> bool:
        """True when dimension i has more than one tile."""
        return self.tiles[i] < self.extents[i]

    def level(self, dims: Sequence[int]) -> int:
        """Depth of the innermost moving loop among `dims`: where what depends on them changes."""
        return max((at + 1 for at, i in enumerate(self.order) if i in dims and self.moves(i)), default=0)

    def start(self, i: int) -> Expr | int:
        """First index of the present tile."""
        return pos(f"d{i}") if self.moves(i) else 0

    def extent(self, i: int) -> Expr | int:
        """Indices in the present tile."""
        return self.loops[self.order.index(i)].extent

    def view(self, base: str, operand: Operand) -> Ref:
        """The present tile of a tensor, in place; a dimension with stride 0 keeps its extent."""
        offset: Expr | int = 0
        for i, stride in enumerate(operand.strides):
            if stride:
                offset = self.start(i) * (stride * operand.size_bytes) + offset
        dims = tuple(Dim(self.extent(i), self.tiles[i], s * operand.size_bytes) for i, s in enumerate(operand.strides))
        return Ref(base, operand.dtype, dims, offset, scale=operand.scale, zero_point=operand.zero_point)

    def tile(self, base: str, kind: str, dims: Sequence[int], layout: Sequence[int] | None = None) -> Ref:
        """A dense tile over `dims` in a buffer, broadcast along the others; `layout` is its order in memory."""
        strides, step = [0] * len(self.tiles), dtype(kind).size_bytes
        for i in reversed(range(len(self.tiles)) if layout is None else layout):
            if i in dims:
                strides[i] = step
                step *= self.tiles[i]
        return Ref(base, kind, tuple(Dim(self.extent(i), self.tiles[i], s) for i, s in enumerate(strides)))

    def buffer(self, name: str, kind: str, dims: Sequence[int]) -> Buffer:
        """Storage for such a tile."""
        size = math.prod(self.tiles[i] for i in dims) * dtype(kind).size_bytes
        return Buffer(name, self.scratch, kind, size, self.level(dims))


def quantised(ref: Ref, scale: float, zero_point: int) -> Ref:
    """The same reference with scale and zero point."""
    return replace(ref, scale=scale, zero_point=zero_point)


def narrowed(ref: Ref, dims: Sequence[int]) -> Ref:
    """The same reference with extent 1 along `dims`."""
    return replace(ref, dims=tuple(Dim(1, 1, 0) if i in dims else d for i, d in enumerate(ref.dims)))


class Streams:
    """The operands of one nest under construction: tensors, buffers, what the load and the store stage do."""

    def __init__(self, grid: Grid, machine: Machine, name: str) -> None:
        self.grid, self.machine, self.name = grid, machine, name
        self.tensors: list[TensorArg] = []
        self.buffers: list[Buffer] = []
        self.loads: list[Placed] = []
        self.stores: list[Placed] = []

    def source(
        self, tensor: str, operand: Operand, layout: Sequence[int] | None = None, anew: Sequence[int] = ()
    ) -> Ref:
        """Where the kernel reads an operand: in place, or in a buffer that the load stage fills.

        `layout` is the order of the tile's dimensions in the buffer, and that in which the copy walks them. The tile
        is fetched again whenever a loop of the dimensions `anew` moves, too.
        """
        self.tensors.append(TensorArg(tensor, operand.space))
        here = self.grid.view(tensor, operand)
        if operand.space == self.grid.scratch:
            return here
        require_path(self.machine, operand.space, self.grid.scratch)
        dims = [i for i, s in enumerate(operand.strides) if s]
        still = [i for i, s in enumerate(operand.strides) if not s]
        buffer = self.grid.buffer(tensor.upper(), operand.dtype, dims)
        buffer = replace(buffer, level=max(buffer.level, self.grid.level(list(anew))))
        self.buffers.append(buffer)
        tile = self.grid.tile(buffer.name, operand.dtype, dims, layout)
        ends = [_ordered(narrowed(ref, still), layout) for ref in (tile, here)]
        self.loads.append(Placed(Stmt("cp", ends[0], (ends[1],)), buffer.level))
        return quantised(tile, operand.scale, operand.zero_point)

    def target(self, tensor: str, operand: Operand) -> Ref:
        """Where the kernel writes a result: in place, or in a buffer that the store stage empties."""
        self.tensors.append(TensorArg(tensor, operand.space))
        here = self.grid.view(tensor, operand)
        still = [i for i, s in enumerate(operand.strides) if not s]
        if operand.space == self.grid.scratch:
            return narrowed(here, still)
        require_path(self.machine, self.grid.scratch, operand.space)
        dims = [i for i, s in enumerate(operand.strides) if s]
        buffer = self.grid.buffer(tensor.upper(), operand.dtype, dims)
        self.buffers.append(buffer)
        tile = narrowed(self.grid.tile(buffer.name, operand.dtype, dims), still)
        store = Stmt("cp", narrowed(here, still), (tile,))
        self.stores.append(Placed(store, buffer.level, "post"))
        return quantised(tile, operand.scale, operand.zero_point)

    def nest(self, stages: Sequence[Stage]) -> Nest:
        """The nest: load, the given stages, store."""
        found = [Stage("load", tuple(self.loads)), *stages, Stage("store", tuple(self.stores))]
        kept = tuple(s for s in found if s.placed)
        return Nest(self.name, self.grid.loops, tuple(self.buffers), tuple(self.tensors), kept)


def _ordered(ref: Ref, order: Sequence[int] | None) -> Ref:
    return ref if order is None else replace(ref, dims=tuple(ref.dims[i] for i in order))


# What the machine offers


def require_path(machine: Machine, src: str, dst: str) -> None:
    """Raise NoKernel unless a copy engine goes from `src` to `dst`."""
    path = machine.path(src, dst)
    if path is None or path.pipe == "weights":
        raise NoKernel(f"{machine.name} has no path {src} -> {dst} for a copy")


def require_operations(machine: Machine, operations: Sequence[str], dtypes: Sequence[str]) -> None:
    """Raise NoKernel unless the vector unit has these operations (without `v.`) and dtypes."""
    vector = machine.core.vector
    if vector is None:
        raise NoKernel(f"{machine.name} has no vector unit, which {', '.join(sorted(set(operations)))} would need")
    for what, wanted, offered in (("operation", operations, vector.operations), ("dtype", dtypes, vector.dtypes)):
        missing = sorted(set(wanted) - set(offered)) if offered else []
        if missing:
            raise NoKernel(f"the vector unit of {machine.name} lacks {what} {', '.join(missing)}")


def require_dims(machine: Machine, dims: int) -> None:
    """Raise NoKernel when an operand would need more dimensions than a descriptor has."""
    if dims > MAX_DIMS:
        raise NoKernel(f"{machine.name}: {dims} dimensions that cannot be merged; a descriptor has {MAX_DIMS}")


# Tile sizes


def tile_limit(machine: Machine, extents: Sequence[int], operands: Sequence[Operand]) -> int:
    """Elements a tile may have so that copies overlap with work.

    With n tiles a core, start-up costs n s and filling the pipeline about 2 T / n (T: cycles of all copies, s: of one
    start-up); the sum is least at n = sqrt(2 T / s).
    """
    total = math.prod(extents)
    moved = sum(o.used_bytes(extents) for o in operands if o.space != machine.scratch_space)
    rate = max((p.bytes_per_cycle for p in machine.core.paths if p.pipe != "weights"), default=1.0)
    startup = max((e.startup_cycles for e in machine.core.dma.values()), default=0) + STEP_CYCLES
    steps = max(1, round(math.sqrt(2 * moved / rate / machine.vector_cores / startup))) if moved else 1
    return max(LEAST_ELEMENTS, -(-total // (steps * machine.vector_cores)))


def choose(
    build: Callable[[tuple[int, ...]], Nest],
    extents: Sequence[int],
    groups: Sequence[Sequence[int]],
    limit: int,
    machine: Machine,
    budget: Mapping[str, int],
) -> Nest:
    """Build the nest with the largest tiles of at most `limit` elements that fit `budget`, the bytes free by space.

    `groups` says which dimensions shrink first; those of one group shrink together. Raises CapacityError when not even
    the smallest tile fits.
    """
    tiles = [max(1, e) for e in extents]
    free = budget[machine.scratch_space]

    def fits(candidate: Sequence[int]) -> bool:
        return math.prod(candidate) <= limit and _scratch(build(tuple(candidate)), machine) <= free

    for group in groups:
        if fits(tiles):
            break
        if len(group) == 1:
            tiles[group[0]] = _largest(fits, tiles, group[0], machine.vector_cores)
            continue
        while not fits(tiles) and any(tiles[i] > 1 for i in group):
            widest = max(group, key=lambda i: tiles[i])
            tiles[widest] = -(-tiles[widest] // 2)
    nest = build(tuple(tiles))
    need = _scratch(nest, machine)
    if need > free:
        raise CapacityError(
            f"kernel {nest.name}: its smallest tile {tuple(tiles)} of {tuple(extents)} needs {need} bytes of "
            f"{machine.scratch_space}, {free} are free"
        )
    return nest.with_slots(pipeline_slots(nest))


def _largest(fits: Callable[[Sequence[int]], bool], tiles: Sequence[int], at: int, cores: int) -> int:
    """Largest tile of one dimension that fits, evened out over a multiple of `cores` tiles and rounded to lanes."""

    def ok(size: int) -> bool:
        return fits([size if i == at else t for i, t in enumerate(tiles)])

    total, low, high = tiles[at], 1, tiles[at]
    while high - low > 1:  # ok(low) or low == 1; not ok(high)
        middle = (low + high) // 2
        low, high = (middle, high) if ok(middle) else (low, middle)
    rounds = -(-total // (low * cores))
    count = rounds * cores
    even = min(low, -(-total // count))
    rounded = -(-even // 64) * 64
    return rounded if even > 64 and ok(rounded) else even


def _scratch(nest: Nest, machine: Machine) -> int:
    slots = pipeline_slots(nest)
    scratch = machine.scratch_space
    align = max(machine.core.spaces[scratch].align_bytes, 64)
    return sum(slot_bytes(b, align) * slots[b.name] for b in nest.buffers if b.space == scratch)


def collapse(extents: Sequence[int], *strides: Sequence[int]) -> tuple[tuple[int, ...], list[tuple[int, ...]]]:
    """Drop dimensions of extent 1 and merge neighbours wherever all operands (rows of `strides`) step evenly.

    Returns the extents (at least one) and the strides of each operand.
    """
    sizes: list[int] = []
    steps: list[list[int]] = [[] for _ in strides]
    for i, extent in enumerate(extents):
        if extent == 1:
            continue
        if sizes and all(row[-1] == s[i] * extent for row, s in zip(steps, strides)):
            sizes[-1] *= extent
            for row, s in zip(steps, strides):
                row[-1] = s[i]
            continue
        sizes.append(extent)
        for row, s in zip(steps, strides):
            row.append(s[i])
    if not sizes:
        return (1,), [(1,) for _ in strides]
    return tuple(sizes), [tuple(row) for row in steps]
