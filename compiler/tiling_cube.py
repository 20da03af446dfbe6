"""Tile search for contractions on a cube: tiles of sums that fit L0C, of operands that fit L1, the cheapest of them.

The cost is that of pipes which overlap: the slowest of cube, feed (L1 -> L0), copies from DRAM, drain, epilogue, stores
and the sequencer's own work, and before and after it what no pipe can hide.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import lru_cache
from itertools import product

from compiler.kernels import mix
from compiler.kernels.contraction import Contraction, Tiling
from compiler.kernels.cube import OUT_SLOTS, ceil_to, feed_block, is_fed
from compiler.tiling import DRAM_EFFICIENCY, bus_bytes, loads_of, steps_of
from isa.cost import shared_bytes_per_cycle
from isa.dtypes import dtype
from isa.errors import CapacityError
from isa.machine import Machine

BLOCK_CYCLES = 20  # scalar work of one block, as the code generator emits it
STEP_CYCLES = 60  # and of one step of the loop over tiles
LOAD_SLOTS = (3, 2)  # of tiles in L1 that change: with three, loads lead the step (compiler.codegen)
MISS_NS = 60  # of a DRAM access, about: activation, column access, burst
LETTERS = "xyhwn"  # of the loops over tiles of results
DEPTHS, SPLITS = 2, 3  # of the best by a simple measure, how many are looked at


def search(
    spec: Contraction, machine: Machine, budget: Mapping[str, int], tile: tuple[int, ...] | None = None
) -> Tiling:
    """Return the cheapest tiling that fits `budget` bytes by space; raises CapacityError when none does.

    `tile` (output rows, pixels of a row if it has four figures, output columns, channels) leaves only the order of the
    loops and the split to the search.
    """
    return _search(_Key(spec, machine, tuple(sorted(budget.items())), tile))


def expected_cycles(spec: Contraction, tiling: Tiling, machine: Machine, budget: Mapping[str, int]) -> float:
    """What the search takes a tiling to cost the busiest core."""
    block = feed_block(spec, tiling, machine)
    assert block is not None, "the search takes no tile that does not fit L0"
    work = _Work(spec, tiling, machine, _chip(machine), block)
    fitting = [s for s in LOAD_SLOTS if all(size <= budget[space] for space, size in work.need(s).items())]
    return work.cycles(fitting[0] if fitting else LOAD_SLOTS[-1])


@dataclass(frozen=True)
class _Key:
    spec: Contraction
    machine: Machine
    budget: tuple[tuple[str, int], ...]
    tile: tuple[int, ...] | None

    def __hash__(self) -> int:
        return hash((repr(self.spec), self.machine.name, self.budget, self.tile))


@lru_cache(maxsize=4096)
def _search(key: _Key) -> Tiling:
    spec, machine, budget = key.spec, key.machine, dict(key.budget)
    smallest: Mapping[str, int] | None = None
    chip = _chip(machine)
    for pixels in _row_parts(spec, machine, key.tile):
        best: tuple[float, Tiling] | None = None
        for tiling in candidates(spec, machine, budget, pixels, key.tile):
            block = feed_block(spec, tiling, machine)
            if block is None:
                continue
            work = _Work(spec, tiling, machine, chip, block)
            if best is not None and work.product_cycles >= best[0]:
                continue
            for slots in LOAD_SLOTS:
                need = work.need(slots)
                if smallest is None or sum(need.values()) < sum(smallest.values()):
                    smallest = need
                if all(size <= budget[space] for space, size in need.items()):
                    cycles = work.cycles(slots)
                    if best is None or cycles < best[0]:
                        best = (cycles, tiling)
                    break
        if best is not None:
            return best[1]
    matrix = machine.core.matrix
    what = f"{spec.h}x{spec.w}x{spec.n} contraction over {spec.kh}x{spec.kw}x{spec.c}"
    if smallest is None:
        raise CapacityError(
            f"{what}: not even one fractal of K of the smallest tile fits {matrix.operand_space} or "
            f"{matrix.operand_b_space} twice: enlarge core.spaces, or give a smaller run.tile"
        )
    lacking = ", ".join(f"{v} bytes of {k} ({budget[k]} are free)" for k, v in smallest.items() if v > budget[k])
    remedy = "enlarge core.spaces, or lower the resolution or batch"
    raise CapacityError(f"{what}: its smallest tiling needs {lacking}: {remedy}")


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


def reads(spec: Contraction, h: int, w: int) -> tuple[int, int]:
    """Rows and columns of the feature map that a tile of `h` rows of `w` pixels reads, at most."""
    high = min((h - 1) * spec.stride[0] + (spec.kh - 1) * spec.dilation[0] + 1, spec.in_h)
    wide = min((w - 1) * spec.stride[1] + (spec.kw - 1) * spec.dilation[1] + 1, spec.in_w)
    return high, wide if w < spec.w else spec.in_w


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


@dataclass(frozen=True)
class _Way:
    """A path as the cost sees it: bytes a cycle, start-up, requests in flight and their size."""

    rate: float
    startup: int
    outstanding: int
    request_bytes: int

    def cycles(self, size_bytes: int, run_bytes: int, share: float, latency: float) -> float:
        """Cycles of a copy in runs of `run_bytes`, at most at the rate `share`."""
        flying = self.outstanding * min(run_bytes, self.request_bytes) / latency
        return self.startup + size_bytes / min(share, self.rate, flying)


@dataclass(frozen=True)
class _Chip:
    """What the cost asks of a machine, looked up once."""

    load: _Way
    out: _Way
    feeds: tuple[_Way | None, _Way | None]
    chip_rate: float  # bytes a cycle from DRAM, or the shared cache, to all cores
    latency: float
    drains_itself: bool


def _chip(machine: Machine) -> _Chip:
    """Raises CapacityError when tiles cannot get to the array and back."""
    matrix, staging = machine.core.matrix, machine.staging_space
    drains = machine.drain_engine is not None
    rate = DRAM_EFFICIENCY * machine.dram_bytes_per_second / (machine.clock_mhz * 1e6)
    if machine.memory.l2 is not None:
        rate = float(shared_bytes_per_cycle(machine))
    load = _way(machine, "dram", staging)
    out = _way(machine, matrix.acc_space if drains else machine.scratch_space, "dram")
    if load is None or out is None:
        raise CapacityError(f"{machine.name}: no path from dram to {staging}, or none back")
    feeds = (_way(machine, staging, matrix.operand_space), _way(machine, staging, matrix.operand_b_space or ""))
    return _Chip(load, out, feeds, rate, _round_trip(machine), drains)


def _way(machine: Machine, src: str, dst: str) -> _Way | None:
    path = machine.path(src, dst)
    if path is None:
        return None
    engine = machine.core.dma[path.pipe]
    return _Way(path.bytes_per_cycle, engine.startup_cycles, engine.outstanding, engine.request_bytes)


class _Work:
    """The terms of one tiling's cost."""

    def __init__(
        self, spec: Contraction, tiling: Tiling, machine: Machine, chip: _Chip, block: tuple[int, int, int]
    ) -> None:  # fmt: skip
        self.s, self.t, self.machine, self.chip, self.block = spec, tiling, machine, chip, block
        totals = {k: getattr(spec, k) for k in (*LETTERS, "c")}
        wanted = {"x": 1, "y": 1, "h": tiling.h, "w": tiling.w or spec.w, "n": tiling.n, "c": tiling.c}
        tiles = {k: min(wanted[k], totals[k]) for k in totals}
        self.tiles, self.counts = tiles, {k: -(-totals[k] // tiles[k]) for k in totals}
        self.mine, self.active = dict(self.counts), 1  # tiles of the core that has most, cores that have any
        for letter, parts in tiling.split:
            self.mine[letter] = -(-self.counts[letter] // parts)
            self.active *= -(-self.counts[letter] // self.mine[letter])
        self.letters = {"a": spec.a.letters("hwc"), "weight": spec.weight.letters("cn"), "out": LETTERS}
        self.pixels = tiles["h"] * tiles["w"]
        self.high, self.wide = reads(spec, tiles["h"], tiles["w"])
        size = {k: dtype(getattr(spec, k).dtype).size_bytes for k in self.letters}
        self.size = size
        self.matrix = machine.core.matrix
        self.rows = -(-self.pixels // self.matrix.rows)
        self.cols = -(-tiles["n"] // self.matrix.cols)
        high, wide, channels = block
        self.blocks = -(-spec.kh // high) * -(-spec.kw // wide) * -(-tiles["c"] // channels)
        k_blocks = -(-high * wide * channels // self.matrix.depth(spec.operand_dtype))
        products = self.rows * self.cols * k_blocks * self.matrix.passes[spec.operand_dtype]
        self.block_cycles = self.matrix.startup_cycles + products
        self.steps = math.prod(self.mine.values())
        self.product_cycles = self.steps * self.blocks * self.block_cycles  # of the array, on the busiest core
        self.bytes = {
            "a": self.high * self.wide * tiles["c"] * size["a"],
            "weight": spec.kh * spec.kw * tiles["c"] * tiles["n"] * size["weight"],
            "out": self.pixels * tiles["n"] * size["out"],
        }

    def cycles(self, load_slots: int) -> float:
        """Cycles of the core with most work."""
        spec, matrix, chip = self.s, self.matrix, self.chip
        loads = {name: self._fetches(letters) for name, letters in self.letters.items()}
        high, wide, channels = self.block
        fed = high * wide * channels * self.size["a"]
        feed = sum(
            way.startup + span * fed / way.rate
            for way, span in zip(chip.feeds, (self.rows * matrix.rows, self.cols * matrix.cols)) if way is not None
        ) * is_fed(self.machine)
        moved = {k: self._away(k) for k in self.bytes}
        extra, latency = len(spec.epilogue.operands), chip.latency
        load = sum(loads[k] * max(moved[k], (latency + moved[k]) / load_slots) for k in ("a", "weight"))
        load += extra * loads["out"] * moved["out"]
        ways = self._way_out(loads["out"], moved["out"])
        serial = 0.0 if self.t.acc_slots > 1 else ways["drain"]
        steps = self.steps * self.blocks
        scalar = steps * BLOCK_CYCLES + self.steps * STEP_CYCLES
        stored = loads["out"] * moved["out"]
        busiest = max(self.product_cycles + serial, steps * feed, load, *ways.values(), stored, scalar)
        ends = sum(moved.values()) + latency + feed + ways["drain"] / max(1, loads["out"])
        return float(busiest + ends)

    def _fetches(self, letters: str) -> int:
        """How often the busiest core takes a tile; a loop that is shared out counts as moving even if it has one."""
        moving = [k for k in self.t.order if self.counts[k] > 1]
        depth = max((i + 1 for i, k in enumerate(moving) if k in letters), default=0)
        return math.prod(self.mine[k] for k in moving[:depth])

    def need(self, load_slots: int) -> dict[str, int]:
        """Bytes by space, as the builder will ask for them."""
        spec, machine, matrix = self.s, self.machine, self.machine.core.matrix
        changes = {name: loads_of(letters, self.t.order, self.counts) for name, letters in self.letters.items()}
        slots = {k: load_slots if changes[k] > 1 else 1 for k in ("a", "weight")}
        staged = {k: slots[k] * ceil_to(self.bytes[k], 512) for k in slots}
        weights = machine.staging_space if is_fed(machine) else matrix.operand_b_space or machine.staging_space
        outs = OUT_SLOTS if changes["out"] > 1 else 1
        sums = ceil_to(self.pixels, matrix.rows) * ceil_to(self.tiles["n"], matrix.cols)
        acc = sums * dtype(spec.acc_dtype).size_bytes * (self.t.acc_slots if changes["out"] > 1 else 1)
        vectors = 8 * self.tiles["n"] * 4 * load_slots + 1024
        found: Counter[str] = Counter()
        found[machine.staging_space] += staged["a"]
        found[weights] += staged["weight"]
        found[matrix.acc_space] += acc
        if self.chip.drains_itself:
            found[machine.staging_space] += vectors
            return found
        extra = len(spec.epilogue.operands)
        tile, epilogue = self.bytes["out"], spec.epilogue
        middle = dtype(epilogue.mid_dtype or spec.out.dtype).size_bytes
        elements = tile // self.size["out"]
        out = outs * tile + vectors
        out += load_slots * extra * tile + outs * elements * middle * bool(epilogue.after)
        out += 2 * elements * 4 * epilogue.gated
        found[machine.scratch_space] += out
        return found

    def _away(self, name: str) -> float:
        """Cycles of the copy of one tile between DRAM and the core; short rows leave fewer bytes in flight."""
        cols, total = {"a": ("c", self.s.c), "out": ("n", self.s.n)}.get(name, ("", 0))
        size = run = self.bytes[name]
        operand = getattr(self.s, name)
        total = operand.strides.get("w", total) if cols else 0  # of a pixel, all groups
        block = operand.blocks.get(cols, 0)
        if block:  # rows of pixels follow each other in every block of channels
            run = size // (self.tiles[cols] // block)
            if self.t.w:  # but not where a tile has part of them
                run //= self.high if name == "a" else self.tiles["h"]
        elif cols and self.tiles[cols] < total:
            size = bus_bytes(size, self.tiles[cols], total, self.size[name], self.machine)
            run = self.tiles[cols] * self.size[name]
        way = self.chip.out if name == "out" else self.chip.load
        return way.cycles(size, run, self.chip.chip_rate / self.active, self.chip.latency)

    def _way_out(self, tiles: int, stored: float) -> dict[str, float]:
        """Cycles of the drain and of the operations behind it."""
        machine, epilogue = self.machine, self.s.epilogue
        elements = self.pixels * self.tiles["n"]
        drain, vector = machine.core.drain, machine.core.vector
        lanes = vector.register_elements() if vector else 1
        if self.chip.drains_itself:
            return {"drain": tiles * stored, "epilogue": tiles * self._behind(elements, lanes)}
        rate = drain.elements_per_cycle if drain is not None else lanes
        after = len(epilogue.after) + 2 * epilogue.gated
        return {"drain": tiles * elements / rate, "epilogue": tiles * after * elements / lanes}


    def _behind(self, elements: int, lanes: int) -> float:
        """Cycles of the vector cores with a tile that they take over, each its share of the rows."""
        epilogue, machine = self.s.epilogue, self.machine
        if not epilogue.after:
            return 0.0
        operands = [dtype(o.dtype).size_bytes for o in epilogue.operands]
        middle = dtype(epilogue.mid_dtype or self.s.out.dtype).size_bytes
        ways = (_way(machine, "dram", machine.scratch_space), _way(machine, machine.scratch_space, "dram"))
        moved = zip(ways, (middle + sum(operands), self.size["out"]))
        share = elements / max(1, mix.partners(machine))
        work = (len(epilogue.after) + 2 * epilogue.gated) * share / lanes
        return max(work, *(share * size / way.rate for way, size in moved if way is not None))


def _round_trip(machine: Machine) -> float:
    """Cycles from a request to its answer, out of the shared cache if there is one."""
    memory = machine.memory
    cycles = float(memory.request_latency_cycles + memory.response_latency_cycles)
    if memory.l2 is not None:
        return cycles + memory.l2.hit_latency_cycles * machine.clock_mhz / (memory.l2.clock_mhz or machine.clock_mhz)
    return cycles + MISS_NS * machine.clock_mhz * 1e-3
