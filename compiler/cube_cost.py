"""What a tiling costs on a cube: the time of the core that has most to do, and the bytes that it needs.

The pipes overlap: the slowest of cube, feed (L1 -> L0), drain, epilogue, stores and the sequencer's own work, then what
the loads add, by where a tile comes from in which iteration, and what no pipe can hide before and after it.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from copy import copy
from dataclasses import dataclass

from compiler.kernels import mix
from compiler.kernels.contraction import Contraction, Tiling
from compiler.kernels.cube import OUT_SLOTS, ceil_to, feed_block, is_fed
from compiler.tiling import bus_bytes
from isa.cost import dram_bytes_per_cycle, shared_bytes_per_cycle
from isa.dtypes import dtype
from isa.errors import CapacityError
from isa.machine import Machine

BLOCK_CYCLES = 20  # scalar work of one block, as the code generator emits it
STEP_CYCLES = 60  # and of one step of the loop over tiles
LOAD_SLOTS = (3, 2)  # of tiles in L1 that change: with three, loads lead the step (compiler.codegen)
DRAM_SHARE = 0.9  # of its peak, to streams
MISS_NS = 60  # of a DRAM access, about: activation, column access, burst
KEPT, LOST = 0.75, 1.25  # bytes touched, as a share of the shared cache, of which all are found again, and none
QUEUED = 0.15  # of the loads' time: what the array waits where they are hidden, since requests queue
LETTERS = "xyhwn"  # of the loops over tiles of results
INPUTS = ("a", "weight")


def reads(spec: Contraction, h: int, w: int) -> tuple[int, int]:
    """Rows and columns of the feature map that a tile of `h` rows of `w` pixels reads, at most."""
    high = min((h - 1) * spec.stride[0] + (spec.kh - 1) * spec.dilation[0] + 1, spec.in_h)
    wide = min((w - 1) * spec.stride[1] + (spec.kw - 1) * spec.dilation[1] + 1, spec.in_w)
    return high, wide if w < spec.w else spec.in_w


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
class Chip:
    """What the cost asks of a machine, looked up once."""

    load: _Way
    out: _Way
    feeds: tuple[_Way | None, _Way | None]
    behind: tuple[_Way | None, _Way | None]  # of the vector cores
    chip_rate: float  # bytes a cycle from the shared cache, or DRAM without one, to all cores
    latency: float  # of the same
    dram_latency: float
    slice_cycles: float  # of a request at its slice of the cache
    dram_rate: float
    cache_bytes: int  # 0 without a shared cache
    sector_bytes: int
    drains_itself: bool


def chip_of(machine: Machine) -> Chip:
    """Raises CapacityError when tiles cannot get to the array and back."""
    matrix, staging = machine.core.matrix, machine.staging_space
    drains = machine.drain_engine is not None
    shared, dram_rate = machine.memory.l2, DRAM_SHARE * float(dram_bytes_per_cycle(machine))
    rate = dram_rate if shared is None else float(shared_bytes_per_cycle(machine))
    size = 0 if shared is None else shared.size_bytes * shared.slices
    sector = machine.memory.dram.burst_bytes if shared is None else shared.sector_bytes
    load = _way(machine, "dram", staging)
    out = _way(machine, matrix.acc_space if drains else machine.scratch_space, "dram")
    if load is None or out is None:
        raise CapacityError(f"{machine.name}: no path from dram to {staging}, or none back")
    feeds = (_way(machine, staging, matrix.operand_space), _way(machine, staging, matrix.operand_b_space or ""))
    request = 0.0 if shared is None else load.request_bytes * shared.slices / rate
    behind = (_way(machine, "dram", machine.scratch_space), _way(machine, machine.scratch_space, "dram"))
    return Chip(load, out, feeds, behind, rate, *_round_trips(machine), request, dram_rate, size, sector, drains)


def _way(machine: Machine, src: str, dst: str) -> _Way | None:
    path = machine.path(src, dst)
    if path is None:
        return None
    engine = machine.core.dma[path.pipe]
    return _Way(path.bytes_per_cycle, engine.startup_cycles, engine.outstanding, engine.request_bytes)


def _round_trips(machine: Machine) -> tuple[float, float]:
    """Cycles from a request to its answer, out of the shared cache if there is one, and out of DRAM."""
    memory, shared = machine.memory, machine.memory.l2
    way = float(memory.request_latency_cycles + memory.response_latency_cycles)
    miss = way + MISS_NS * machine.clock_mhz * 1e-3
    if shared is None:
        return miss, miss
    clock = machine.clock_mhz / (shared.clock_mhz or machine.clock_mhz)
    passed = shared.miss_latency_cycles + shared.fill_latency_cycles
    return way + shared.hit_latency_cycles * clock, miss + passed * clock


def fitting(
    spec: Contraction, tiling: Tiling, machine: Machine, chip: Chip, budget: Mapping[str, int]
) -> tuple[Work | None, int, Mapping[str, int]]:
    """A tiling's cost, if L0 takes its tiles, how many of each fit (0: not even two), and their bytes by space."""
    block = feed_block(spec, tiling, machine)
    if block is None:
        return None, 0, {}
    work = Work(spec, tiling, machine, chip, block)
    needs = [(slots, work.need(slots)) for slots in LOAD_SLOTS]
    for slots, need in needs:
        if all(size <= budget[space] for space, size in need.items()):
            return work, slots, need
    return work, 0, needs[-1][1]


class Work:
    """The terms of one tiling's cost, for the core that has most to do."""

    def __init__(
        self, spec: Contraction, tiling: Tiling, machine: Machine, chip: Chip, block: tuple[int, int, int]
    ) -> None:  # fmt: skip
        self.s, self.machine, self.chip, self.block = spec, machine, chip, block
        totals: dict[str, int] = {k: getattr(spec, k) for k in (*LETTERS, "c")}
        wanted = {"x": 1, "y": 1, "h": tiling.h, "w": tiling.w or spec.w, "n": tiling.n, "c": tiling.c}
        tiles = {k: min(wanted[k], totals[k]) for k in totals}
        self.tiles, self.counts = tiles, {k: -(-totals[k] // tiles[k]) for k in totals}
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
        self.bytes = {
            "a": self.high * self.wide * tiles["c"] * size["a"],
            "weight": spec.kh * spec.kw * tiles["c"] * tiles["n"] * size["weight"],
            "out": self.pixels * tiles["n"] * size["out"],
        }
        whole = math.prod(totals[k] for k in self.letters["a"] if k in "xyc") * spec.in_h * spec.in_w * size["a"]
        tiled = math.prod(self.counts[k] for k in self.letters["a"])
        self.fresh = {**self.bytes, "a": min(self.bytes["a"], whole / tiled)}  # of a tile, without its neighbours' rows
        self._arrange(tiling)

    def arranged(self, tiling: Tiling) -> Work:
        """The same tiles in the order and the split of another tiling."""
        other = copy(self)
        other._arrange(tiling)
        return other

    def _arrange(self, tiling: Tiling) -> None:
        self.t, self.mine, self.parts = tiling, dict(self.counts), {}  # tiles of the core that has most; parts of loops
        for letter, parts in tiling.split:
            self.mine[letter] = -(-self.counts[letter] // parts)
            self.parts[letter] = -(-self.counts[letter] // self.mine[letter])
        self.active = math.prod(self.parts.values())  # cores that have any
        self.steps = math.prod(self.mine.values())
        self.product_cycles = self.steps * self.blocks * self.block_cycles  # of the array, on the busiest core

    def cycles(self, load_slots: int, cached: Collection[str] = (), limit: float = math.inf) -> float:
        """Cycles of the core with most work; some number not below `limit` if they are not."""
        spec, matrix, chip = self.s, self.matrix, self.chip
        moving = [k for k in self.t.order if self.counts[k] > 1]
        loads = {name: self._fetches(moving, letters) for name, letters in self.letters.items()}
        high, wide, channels = self.block
        fed = high * wide * channels * self.size["a"]
        feed = sum(
            way.startup + span * fed / way.rate
            for way, span in zip(chip.feeds, (self.rows * matrix.rows, self.cols * matrix.cols)) if way is not None
        ) * is_fed(self.machine)
        moved = {k: self._away(k, chip.latency) for k in self.bytes}
        ways = self._way_out(loads["out"], moved["out"])
        serial = 0.0 if self.t.acc_slots > 1 else ways["drain"]
        steps = self.steps * self.blocks
        scalar = steps * BLOCK_CYCLES + self.steps * STEP_CYCLES
        stored = loads["out"] * moved["out"]
        busiest = max(self.product_cycles + serial, steps * feed, *ways.values(), stored, scalar)
        again = [self._visible(moved[k], chip.latency, load_slots) for k in INPUTS]
        load = sum(loads[k] * cycles for k, cycles in zip(INPUTS, again))
        least = max(busiest, load) + QUEUED * load
        if least >= limit:
            return least
        first = [self._visible(*self._missing(k), load_slots) for k in INPUTS]
        dram = [self.fresh[k] * self.places(k) / chip.dram_rate for k in INPUTS]
        epilogue = len(spec.epilogue.operands) * loads["out"] * moved["out"] / self.steps
        fetched = Loads(self, first, again, dram, (epilogue, self._written()))
        start = tuple(self._lost(self._whole(k)) if k in cached else 1.0 for k in INPUTS)
        late = fetched.late(start, busiest / self.steps)
        late += self._ragged(loads["weight"], max(moved["weight"], busiest / self.steps))
        ends = fetched.cycles(start) + moved["out"] + chip.latency + feed + ways["drain"] / max(1, loads["out"])
        return float(busiest + QUEUED * load + late + ends)

    def _visible(self, moved: float, latency: float, load_slots: int) -> float:
        """Cycles between tiles of an operand at best: those of the copy, or its round trip by copies that are kept."""
        return max(moved, (latency + moved) / load_slots)

    def _missing(self, name: str) -> tuple[float, float]:
        """Cycles of the copy of a tile that the shared cache has not got, and of its latency.

        Cores that ask for the same one after the other wait for each other at its slice.
        """
        latency = self.chip.dram_latency + self.active / self.places(name) * self.chip.slice_cycles
        return self._away(name, latency), latency

    def _ragged(self, loads: int, hidden: float) -> float:
        """Cycles that the last tiles of weights cost a core: of each row they take a part, which is a request."""
        edge, chip = self.s.n % self.tiles["n"], self.chip
        if not edge or self.s.weight.blocks:
            return 0.0
        run, size = edge * self.size["weight"], self.bytes["weight"] // self.tiles["n"] * edge
        first, again = (chip.load.cycles(size, run, chip.chip_rate / self.active, latency)
                        for latency in (chip.dram_latency, chip.latency))
        times = loads / self.mine["n"] - self.mine["c"]
        return self.mine["c"] * max(0.0, first - hidden) + times * max(0.0, again - hidden)

    def _written(self) -> float:
        """Cycles a step of DRAM with results: parts of sectors that it completes, what a full cache writes back."""
        results, sector = self._whole("out"), self.chip.sector_bytes
        size = min(results, max(0.0, sum(self._whole(k) for k in self.letters) - self.chip.cache_bytes))
        run, row = (n * self.size["out"] for n in (self.tiles["n"], self.s.out.strides.get("w", self.s.n)))
        if run < row and (run % sector or row % sector) and not self.s.out.blocks:
            size += results / run * sector
        return size / self.chip.dram_rate / self.steps

    def _whole(self, name: str) -> float:
        """Bytes of an operand."""
        return self.fresh[name] * math.prod(self.counts[k] for k in self.letters[name])

    def _lost(self, touched: float) -> float:
        """The share of so many bytes that the shared cache no longer has when they are touched again."""
        if not self.chip.cache_bytes:
            return 1.0
        return min(1.0, max(0.0, (touched / self.chip.cache_bytes - KEPT) / (LOST - KEPT)))

    def lost_meanwhile(self, outside: Sequence[str], inside: Sequence[str]) -> float:
        """The share that is lost of what all cores touch in an iteration of the last of the loops `outside`."""
        touched = 0.0
        for name, letters in self.letters.items():
            tiles = math.prod(self.counts[k] for k in inside if k in letters)
            touched += self.fresh[name] * tiles * math.prod(self.parts.get(k, 1) for k in outside if k in letters)
        return self._lost(touched)

    def places(self, name: str) -> int:
        """Tiles of an operand that DRAM delivers at a time: different ones, where the cores share a cache."""
        if not self.chip.cache_bytes:
            return self.active
        return math.prod(n for k, n in self.parts.items() if k in self.letters[name])

    def _fetches(self, moving: Sequence[str], letters: str) -> int:
        """How often the busiest core takes a tile; a loop that is shared out counts as moving even if it has one."""
        times = fetches = 1
        for letter in moving:
            times *= self.mine[letter]
            if letter in letters:
                fetches = times
        return fetches

    def need(self, load_slots: int) -> dict[str, int]:
        """Bytes by space, as the builder will ask for them."""
        spec, machine, matrix = self.s, self.machine, self.machine.core.matrix
        changes = {name: any(self.counts[k] > 1 for k in letters) for name, letters in self.letters.items()}
        slots = {k: load_slots if changes[k] else 1 for k in INPUTS}
        staged = {k: slots[k] * ceil_to(self.bytes[k], 512) for k in slots}
        weights = machine.staging_space if is_fed(machine) else matrix.operand_b_space or machine.staging_space
        outs = OUT_SLOTS if changes["out"] else 1
        sums = ceil_to(self.pixels, matrix.rows) * ceil_to(self.tiles["n"], matrix.cols)
        acc = sums * dtype(spec.acc_dtype).size_bytes * (self.t.acc_slots if changes["out"] else 1)
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

    def _away(self, name: str, latency: float) -> float:
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
        return way.cycles(size, run, self.chip.chip_rate / self.active, latency)

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
        moved = zip(self.chip.behind, (middle + sum(operands), self.size["out"]))
        share = elements / max(1, mix.partners(machine))
        work = (len(epilogue.after) + 2 * epilogue.gated) * share / lanes
        return max(work, *(share * size / way.rate for way, size in moved if way is not None))


class Loads:
    """The loads of a loop nest: what comes from DRAM and when, and for how long the array waits for it.

    An operand comes from DRAM until a loop that it does not depend on has gone round, then out of the shared cache, as
    far as what is touched meanwhile fits it: the first iteration of a loop differs from its others. A source is the
    share of a tile that comes from DRAM, negative where a step loads none.
    """

    def __init__(self, work: Work, first: Sequence[float], again: Sequence[float], dram: Sequence[float],
                 other: tuple[float, float]) -> None:  # fmt: skip
        self.work, self.copies, self.other = work, tuple(zip(first, again, dram)), other
        self.loops = [k for k in work.t.order if work.mine[k] > 1 or work.parts.get(k, 1) > 1]
        self.depth = [max((i + 1 for i, x in enumerate(self.loops) if x in work.letters[k]), default=0) for k in INPUTS]

    def late(self, sources: tuple[float, ...], step: float) -> float:
        """Cycles that loads add to steps of so many cycles, but for the first: they are no more than a step ahead."""
        return self._late(0, sources, step) - max(0.0, self.cycles(sources) - step)

    def cycles(self, sources: tuple[float, ...]) -> float:
        """Cycles of a step's loads: of the engine, or of DRAM, which serves another core meanwhile."""
        engine, dram = self.other
        for source, (first, again, size) in zip(sources, self.copies):
            if source >= 0:
                engine += source * first + (1 - source) * again
                dram += source * size
        return max(engine, dram)

    def _late(self, level: int, sources: tuple[float, ...], step: float) -> float:
        """The same of the loops from `level` on, the first step included."""
        while level < len(self.loops) and self.work.mine[self.loops[level]] == 1:
            level += 1
        if level == len(self.loops):
            return max(0.0, self.cycles(sources) - step)
        times, later = self.work.mine[self.loops[level]] - 1, self.later(level, sources)
        if later == sources:
            return (times + 1) * self._late(level + 1, sources, step)
        return self._late(level + 1, sources, step) + times * self._late(level + 1, later, step)

    def later(self, level: int, sources: tuple[float, ...]) -> tuple[float, ...]:
        """Where tiles come from after the first iteration of a loop."""
        lost = self.work.lost_meanwhile(self.loops[: level + 1], self.loops[level + 1 :])
        found = []
        for name, depth, source in zip(INPUTS, self.depth, sources):
            again = lost if self.loops[level] not in self.work.letters[name] else source
            found.append(again if level < depth else -1.0)
        return tuple(found)
