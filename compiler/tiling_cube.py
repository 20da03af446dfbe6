"""Tile search for contractions on a cube: tiles of sums that fit L0C, of operands that fit L1, the cheapest of them.

What a tiling costs says `compiler.cube_cost`.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from functools import lru_cache
from itertools import product

from compiler.cube_cost import LETTERS, LOAD_SLOTS, Work, chip_of, fitting, reads
from compiler.kernels.contraction import Contraction, Tiling
from compiler.kernels.cube import L0_SLOTS, ceil_to
from compiler.tiling import steps_of
from isa.dtypes import dtype
from isa.errors import CapacityError
from isa.machine import Machine

DEPTHS, SPLITS = 3, 3  # of the best by a simple measure, how many are looked at


def search(
    spec: Contraction, machine: Machine, budget: Mapping[str, int], tile: tuple[int, ...] | None = None,
    cached: Collection[str] = (),
) -> Tiling:  # fmt: skip
    """Return the cheapest tiling that fits `budget` bytes by space; raises CapacityError when none does.

    `tile` (output rows, pixels of a row if it has four figures, output columns, channels) leaves only the order of the
    loops and the split to the search. Of the operands (`a`, `weight`) those `cached` were written just before.
    """
    return _search(_Key(spec, machine, tuple(sorted(budget.items())), tile, tuple(sorted(cached))))


def expected_cycles(
    spec: Contraction, tiling: Tiling, machine: Machine, budget: Mapping[str, int], cached: Collection[str] = ()
) -> float:
    """What the search takes a tiling to cost the busiest core."""
    work, slots, _ = fitting(spec, tiling, machine, chip_of(machine), budget)
    assert work is not None, "the search takes no tile that does not fit L0"
    return work.cycles(slots or LOAD_SLOTS[-1], cached)


@dataclass(frozen=True)
class _Key:
    spec: Contraction
    machine: Machine
    budget: tuple[tuple[str, int], ...]
    tile: tuple[int, ...] | None
    cached: tuple[str, ...]

    def __hash__(self) -> int:
        return hash((repr(self.spec), self.machine.name, self.budget, self.tile, self.cached))


@lru_cache(maxsize=4096)
def _search(key: _Key) -> Tiling:
    spec, machine, budget = key.spec, key.machine, dict(key.budget)
    smallest: Mapping[str, int] | None = None
    chip = chip_of(machine)
    for pixels in _row_parts(spec, machine, key.tile):
        best: tuple[float, Tiling] | None = None
        works: dict[tuple[int, ...], tuple[Work | None, int]] = {}  # what fits is the same in any order and split
        for tiling in candidates(spec, machine, budget, pixels, key.tile):
            extents = (tiling.h, tiling.n, tiling.c, tiling.acc_slots)
            if extents not in works:
                tiles, slots, need = fitting(spec, tiling, machine, chip, budget)
                works[extents] = tiles, slots
                if need and (smallest is None or sum(need.values()) < sum(smallest.values())):
                    smallest = need
            tiles, slots = works[extents]
            if tiles is None or not slots:
                continue
            work = tiles.arranged(tiling)
            if best is not None and work.product_cycles >= best[0]:
                continue
            cycles = work.cycles(slots, key.cached, math.inf if best is None else best[0])
            if best is None or cycles < best[0]:
                best = (cycles, tiling)
        if best is not None:
            return best[1]
    raise CapacityError(_refusal(spec, machine, budget, key.tile, smallest))


def _refusal(
    spec: Contraction, machine: Machine, budget: Mapping[str, int], tile: tuple[int, ...] | None,
    smallest: Mapping[str, int] | None,
) -> str:  # fmt: skip
    """What a contraction needs where nothing fits: `smallest` by space, or not even one fractal of it (None)."""
    what, remedy = "its smallest tiling", "enlarge core.spaces, or lower the resolution or batch"
    needed = _one_fractal(spec, machine) if smallest is None else smallest
    if tile is not None:
        what, remedy = f"run.tile={'x'.join(map(str, tile))}", "give a smaller run.tile, or leave it out"
    elif smallest is None:
        what, remedy = "one fractal of its sums and operands", "enlarge core.spaces"
    lacking = [f"{v} bytes of {k} ({budget[k]} are free)" for k, v in needed.items() if v > budget[k]]
    if not lacking:  # a given tile of which not even one step of K fits
        lacking = [f"more than the {budget[space]} bytes of {space}" for space in _operand_spaces(machine)]
    name = f"{spec.h}x{spec.w}x{spec.n} contraction over {spec.kh}x{spec.kw}x{spec.c}"
    return f"{name}: {what} needs {', '.join(lacking)}: {remedy}"


def _operand_spaces(machine: Machine) -> list[str]:
    matrix = machine.core.matrix
    return list(dict.fromkeys([matrix.operand_space, matrix.operand_b_space or matrix.operand_space]))


def _one_fractal(spec: Contraction, machine: Machine) -> dict[str, int]:
    """Bytes by space that one fractal of sums and, twice, one step of K of its operands take."""
    matrix = machine.core.matrix
    step = L0_SLOTS * dtype(spec.operand_dtype).size_bytes * matrix.depth(spec.operand_dtype)
    found = {matrix.acc_space: matrix.rows * matrix.cols * dtype(spec.acc_dtype).size_bytes}
    for space, span in zip((matrix.operand_space, matrix.operand_b_space), (matrix.rows, matrix.cols)):
        if space is not None:
            found[space] = found.get(space, 0) + step * span
    return found


def _row_parts(spec: Contraction, machine: Machine, tile: tuple[int, ...] | None) -> list[int]:
    """Pixels of a row in a tile: the whole row, and if that fits nowhere half of it, a quarter, in whole fractals."""
    if tile is not None:
        return [min(tile[1], spec.w) if len(tile) == 4 else spec.w]
    unit, parts = machine.core.matrix.rows, [spec.w]
    while parts[-1] > unit:
        parts.append(ceil_to(-(-parts[-1] // 2), unit))
    return parts


def candidates(
    spec: Contraction, machine: Machine, budget: Mapping[str, int], pixels: int, tile: tuple[int, ...] | None = None
) -> Iterator[Tiling]:
    """Every tiling worth a look, of so many pixels of a row, whose sums fit L0C.

    Those of a given tile differ in order, split and slots.
    """
    matrix, cores = machine.core.matrix, machine.cores
    unit = max(1, matrix.rows // pixels)
    parts = {cores, 2 * cores} if cores > 1 else set()
    heights = sorted({*steps_of(spec.h, unit), *(-(-spec.h // part) for part in parts | {3, 7})})
    columns = max(matrix.cols, spec.out.blocks.get("n", 1))
    share = ceil_to(-(-spec.n // cores), columns)
    widths = sorted({*steps_of(spec.n, columns), min(share, spec.n)})
    depths = steps_of(spec.c, matrix.depth(spec.operand_dtype))[::-1]
    if tile is not None:
        units = (1, columns if spec.out.blocks else 1, spec.a.blocks.get("c", 1))  # whole blocks
        wanted = zip((tile[0], *tile[-2:]), (spec.h, spec.n, spec.c), units)
        heights, widths, depths = ([min(ceil_to(t, unit), total)] for t, total, unit in wanted)
    acc_size, room = dtype(spec.acc_dtype).size_bytes, budget[matrix.acc_space]
    staged, size = budget[machine.staging_space], dtype(spec.a.dtype).size_bytes
    w = pixels if pixels < spec.w else 0
    shared = matrix.acc_space in (machine.staging_space, machine.scratch_space, matrix.operand_b_space)
    for h, n in product(heights, widths):
        sums = ceil_to(h * pixels, matrix.rows) * ceil_to(n, matrix.cols) * acc_size
        if sums > room and tile is None:
            continue
        counts = {"x": spec.x, "y": spec.y, "h": -(-spec.h // h), "w": -(-spec.w // pixels), "n": -(-spec.n // n)}
        taken = math.prod(reads(spec, h, pixels))
        fitting = [c for c in depths if (taken + spec.kh * spec.kw * n) * c * size <= staged] or depths[-1:]
        for c, order, split in product(fitting[:DEPTHS], _orders(counts), _splits(counts, cores)):
            for slots in ((2, 1) if shared else (2,)) if 2 * sums <= room else (1,):
                yield Tiling(h, n, c, (*order, "c"), split, slots, w)


def _orders(counts: Mapping[str, int]) -> list[tuple[str, ...]]:
    """Orders of the outer loops that differ in what is fetched again: loops of one tile stay in front."""
    moving = [k for k in LETTERS if counts[k] > 1]
    still = tuple(k for k in LETTERS if counts[k] == 1 and k != "w")  # whole rows of pixels need no loop
    found = [("x", "y", "n", "h", "w"), ("x", "y", "h", "w", "n"), ("n", "x", "y", "h", "w"), ("y", "n", "x", "h", "w")]
    return list(dict.fromkeys((*still, *(k for k in order if k in moving)) for order in found))


def _splits(counts: Mapping[str, int], cores: int) -> list[tuple[tuple[str, int], ...]]:
    """Ways to share the tiles among cores, by one loop or two; those that leave fewest tiles to the busiest core."""
    if cores == 1:
        return [()]
    shared = [k for k in LETTERS if counts[k] > 1]
    ways: list[tuple[tuple[str, int], ...]] = [((k, cores),) for k in shared]
    pairs = [(a, cores // a) for a in range(2, cores) if cores % a == 0]
    ways += [((k, a), (m, b)) for i, k in enumerate(shared) for m in shared[i + 1 :] for a, b in pairs]

    def most(way: tuple[tuple[str, int], ...]) -> int:
        parts = dict(way)
        return math.prod(-(-n // parts.get(k, 1)) for k, n in counts.items())

    return sorted(ways, key=most)[:SPLITS] or [()]
