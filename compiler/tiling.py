"""Tile search for contractions: a small space, a closed-form cost, the best point that fits.

The cost is the classic overlap of a tiled pipeline: the slowest of array, DRAM traffic and drain, plus what cannot
overlap (the first tile's load and the last tile's way out).
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import lru_cache
from itertools import product

from compiler.kernels.contraction import Contraction, Operand, Tiling, tap_block, unit_grid
from isa.dtypes import dtype
from isa.errors import CapacityError
from isa.machine import Machine

DRAIN_LAG_SLOTS = 2
EPILOGUE_SLOTS = 3
DRAM_EFFICIENCY = 0.8  # of the peak, for planning: refresh, turn-arounds and row changes of tiled streams
STEP_CYCLES = 60  # scalar work of one step of the loop, as the code generator emits it


@dataclass(frozen=True)
class Cost:
    """Estimated cycles of one core, bytes over DRAM of the whole chip, bytes of scratchpad and accumulators."""

    cycles: float
    dram_bytes: int
    spm_bytes: int
    acc_bytes: int


# Of tiles that change: three let loads lead the step (compiler.codegen), two must do in small memories.
LOAD_SLOTS = (3, 2)


def search(
    spec: Contraction, machine: Machine, budget: Mapping[str, int], tile: tuple[int, ...] | None = None
) -> Tiling:
    """Return the cheapest tiling that fits `budget` bytes by space; raises CapacityError when none does.

    `tile` (output rows, output columns, channels) leaves only the order of the loops and the split to the search.
    """
    for slots in LOAD_SLOTS:
        try:
            return _search(_Key(spec, machine, tuple(sorted(budget.items())), slots, tile))
        except CapacityError:
            if slots == LOAD_SLOTS[-1]:
                raise
    raise AssertionError("LOAD_SLOTS is not empty")


@dataclass(frozen=True)
class _Key:
    spec: Contraction
    machine: Machine
    budget: tuple[tuple[str, int], ...]
    load_slots: int
    tile: tuple[int, ...] | None

    def __hash__(self) -> int:
        return hash((repr(self.spec), self.machine.name, self.budget, self.load_slots, self.tile))


@lru_cache(maxsize=4096)
def _search(key: _Key) -> Tiling:
    spec, machine, budget = key.spec, key.machine, dict(key.budget)
    best: tuple[float, Tiling] | None = None
    smallest: Cost | None = None
    for tiling in candidates(spec, machine, key.tile):
        cost = estimate(spec, tiling, machine, key.load_slots)
        if smallest is None or cost.spm_bytes + cost.acc_bytes < smallest.spm_bytes + smallest.acc_bytes:
            smallest = cost
        if not _fits(cost, machine, budget):
            continue
        if best is None or cost.cycles < best[0]:
            best = (cost.cycles, tiling)
    if best is None:
        assert smallest is not None
        raise CapacityError(
            f"{spec.h}x{spec.w}x{spec.n} contraction over {spec.kh}x{spec.kw}x{spec.c}: its "
            f"{'smallest tiling' if key.tile is None else 'tile'} needs "
            f"{_bytes_text(smallest, machine, budget)}: enlarge core.spaces, or lower the resolution or batch"
        )
    return best[1]


def _bytes_text(cost: Cost, machine: Machine, budget: Mapping[str, int]) -> str:
    """What a tiling needs, and what the machine has for it."""
    acc = machine.core.matrix.acc_space
    if acc == "spm":
        need = f"{cost.spm_bytes + cost.acc_bytes} bytes of spm, {cost.acc_bytes} of them for accumulators"
        return f"{need}; {machine.name} has {budget['spm']} for kernels"
    need = f"{cost.spm_bytes} bytes of spm and {cost.acc_bytes} of {acc}"
    return f"{need}; {machine.name} has {budget['spm']} and {budget[acc]} for kernels"


def _fits(cost: Cost, machine: Machine, budget: Mapping[str, int]) -> bool:
    acc_space = machine.core.matrix.acc_space
    if acc_space == "spm":
        return cost.spm_bytes + cost.acc_bytes <= budget["spm"]
    return cost.spm_bytes <= budget["spm"] and cost.acc_bytes <= budget[acc_space]


def steps_of(total: int, unit: int) -> list[int]:
    """Tile extents to try: the unit times powers of two, and the whole."""
    tiles = {total}
    tile = unit
    while tile < total:
        tiles.add(tile)
        tile *= 2
    return sorted(tiles)


def candidates(spec: Contraction, machine: Machine, tile: tuple[int, ...] | None = None) -> Iterator[Tiling]:
    """Every tiling worth a look; those of a given tile differ in the order and the split of their loops."""
    matrix = machine.core.matrix
    splits = ["", *(k for k in ("x", "y", "h", "n") if getattr(spec, k) > 1 and machine.cores > 1)]
    parts = {3, 7, 14} | ({machine.cores, 2 * machine.cores, 4 * machine.cores} if machine.cores > 1 else set())
    heights = sorted({*steps_of(spec.h, 1), *(-(-spec.h // part) for part in parts)})
    blocks = -(-spec.n // matrix.cols)
    share = -(-blocks // machine.cores) * matrix.cols  # of whole array widths
    widths = sorted({*steps_of(spec.n, matrix.cols), min(share, spec.n)})
    batch = "".join(k for k in "xy")
    orders = {(*batch, "n", "h"), (*batch, "h", "n"), ("n", *batch, "h"), ("y", "n", "x", "h")}
    if spec.h == 1 or spec.n <= matrix.cols:
        orders = {(*batch, "n", "h"), ("n", *batch, "h")}
    extents: Iterable[tuple[int, int, int]] = product(heights, widths, steps_of(spec.c, matrix.rows))
    if tile is not None:
        extents = [(min(tile[0], spec.h), min(tile[1], spec.n), min(tile[2], spec.c))]
    for h, n, c in extents:
        for order in sorted(orders):
            for split in splits:
                yield Tiling(h, n, c, (*order, "c"), ((split, machine.cores),) if split else ())


def estimate(spec: Contraction, tiling: Tiling, machine: Machine, load_slots: int = 2) -> Cost:
    """Closed-form cost of a tiling; `load_slots` copies of tiles that change are kept.

    Cores that share the split loop each fetch what does not depend on it.
    """
    totals = {"x": spec.x, "y": spec.y, "h": spec.h, "n": spec.n, "c": spec.c}
    tiles = {"x": 1, "y": 1, "h": min(tiling.h, spec.h), "n": min(tiling.n, spec.n), "c": min(tiling.c, spec.c)}
    counts = {k: -(-totals[k] // tiles[k]) for k in totals}
    mine = dict(counts)  # tiles of the core that has most
    active = 1
    for letter, parts in tiling.split:
        mine[letter] = -(-counts[letter] // parts)
        active *= -(-counts[letter] // mine[letter])
    uses = {"a": spec.a.letters("hc"), "weight": spec.weight.letters("cn"), "out": "xyhn"}
    loads = {name: loads_of(letters, tiling.order, mine) for name, letters in uses.items()}
    changes = {name: loads_of(letters, tiling.order, counts) for name, letters in uses.items()}
    size = {"a": dtype(spec.a.dtype).size_bytes, "weight": dtype(spec.weight.dtype).size_bytes,
            "out": dtype(spec.out.dtype).size_bytes}
    in_rows = min((tiles["h"] - 1) * spec.stride[0] + (spec.kh - 1) * spec.dilation[0] + 1, spec.in_h)
    a_tile = in_rows * spec.in_w * tiles["c"] * size["a"]
    w_tile = spec.kh * spec.kw * tiles["c"] * tiles["n"] * size["weight"]
    o_tile = tiles["h"] * spec.w * tiles["n"] * size["out"]
    traffic = {"a": loads["a"] * a_tile, "weight": loads["weight"] * w_tile, "out": loads["out"] * o_tile}
    extra = len(spec.epilogue.operands)
    dram = sum(v for k, v in traffic.items() if getattr(spec, k).space == "dram") + extra * traffic["out"]
    in_runs = bus_bytes(a_tile, tiles["c"], spec.c, size["a"], machine)
    out_runs = bus_bytes(o_tile, tiles["n"], spec.n, size["out"], machine)
    moved = {"a": in_runs, "weight": w_tile * _buffered(spec, machine), "out": out_runs * (1 + extra)}
    away = {k: v / _rate(getattr(spec, k).space, machine, active) for k, v in moved.items()}
    compute = _array_cycles(spec, tiles, counts, machine) / math.prod(counts.values()) + STEP_CYCLES
    moves = {k: (loads[k], away[k]) for k in away}
    total = _pipeline(compute, moves, math.prod(mine.values()), (_latency(spec, machine), load_slots))
    drain = _drain_cycles(spec, machine) * math.prod(mine.values()) / math.prod(counts.values())
    cycles = max(total, drain) + sum(away.values())
    spm = _slots(changes["a"], load_slots) * a_tile * (spec.a.space != "spm")
    spm += _slots(changes["weight"], load_slots) * w_tile * _buffered(spec, machine)
    kept = spec.out.space != "spm" or bool(spec.epilogue.after)
    spm += _slots(changes["out"], DRAIN_LAG_SLOTS) * o_tile * kept
    spm += (EPILOGUE_SLOTS + load_slots - 2) * extra * o_tile + 8 * tiles["n"] * 4
    middle = dtype(spec.epilogue.mid_dtype or spec.out.dtype).size_bytes
    separate = bool(spec.epilogue.after) and (machine.core.drain is not None or middle != size["out"])
    spm += DRAIN_LAG_SLOTS * o_tile * middle // size["out"] * separate + 1024
    acc = _slots(changes["out"], DRAIN_LAG_SLOTS) * tiles["h"] * spec.w * tiles["n"] * dtype(spec.acc_dtype).size_bytes
    return Cost(cycles, int(dram * active), int(spm), int(acc + 256))


def bus_bytes(tile_bytes: int, cols: int, total: int, size: int, machine: Machine) -> int:
    """Bytes that DRAM moves for a tile of rows of `cols` elements out of `total`: part of a row takes whole bursts."""
    if cols >= total:
        return tile_bytes
    burst = machine.memory.dram.burst_bytes
    return tile_bytes // (cols * size) * -(-cols * size // burst) * burst


def _rate(space: str, machine: Machine, active: int) -> float:
    """Bytes a cycle between a core and where an operand lies, shared by `active` cores; endless when it is on chip."""
    path = machine.path(space, "spm")
    if space == "host":
        return path.bytes_per_cycle / active if path else math.inf
    if space == "dram":
        chip = DRAM_EFFICIENCY * machine.dram_bytes_per_second / (machine.clock_mhz * 1e6)
        return min(chip / active, path.bytes_per_cycle if path else math.inf)
    return math.inf


def _latency(spec: Contraction, machine: Machine) -> int:
    """Cycles from asking for a tile to the last result of its use, beside the transfer and the work."""
    away = any(o.space == "dram" for o in (spec.a, spec.weight))
    memory = machine.memory.request_latency_cycles + machine.memory.response_latency_cycles
    paths = [p.latency_cycles for p in machine.core.paths if p.src in ("dram", "host") and p.pipe != "weights"]
    return away * memory + max(paths, default=0) + machine.core.matrix.rows + machine.core.matrix.cols


def _pipeline(
    compute: float, moves: Mapping[str, tuple[int, float]], steps: int, buffering: tuple[int, int] = (0, 2)
) -> float:
    """Cycles of `steps` steps of which each overlaps its work with the tiles of the next one.

    `buffering` is a latency and the copies that are kept of a tile: a copy is filled again when its use is over, so
    that many steps take at least the latency, the transfer and the work of one.

    `moves` gives, by operand, in how many steps it moves a tile and how long that takes. Loops nest, so the steps that
    move a rarely changing tile move the others too: those steps take the sum of the transfers, if that is longer.
    """
    cycles, done = 0.0, 0
    waiting = sorted(moves.values())
    for i, (count, _) in enumerate(waiting):
        together = sum(time for _, time in waiting[i:])
        latency, slots = buffering
        cycles += (count - done) * max(compute, together, (latency + together + compute) / slots)
        done = count
    return cycles + (steps - done) * compute


def loads_of(letters: str, order: tuple[str, ...], counts: dict[str, int]) -> int:
    """How often a tile that depends on `letters` is fetched: every loop down to the innermost that it depends on."""
    moving = [k for k in order if counts[k] > 1]
    depth = max((i + 1 for i, k in enumerate(moving) if k in letters), default=0)
    times = 1
    for k in moving[:depth]:
        times *= counts[k]
    return times


def _slots(loads: int, most: int = 2) -> int:
    return most if loads > 1 else 1


def _buffered(spec: Contraction, machine: Machine) -> bool:
    return machine.path(spec.weight.space, "wfifo") is None


def _array_cycles(spec: Contraction, tiles: dict[str, int], counts: dict[str, int], machine: Machine) -> float:
    matrix = machine.core.matrix
    if matrix.dataflow != "ws":
        return _other_dataflow(spec, tiles, counts, machine)
    gh, gw, gc = tap_block(spec, matrix, tiles["c"])
    units_n, units_h = unit_grid(machine, tiles["n"])
    passes = -(-spec.kh // gh) * -(-spec.kw // gw) * -(-tiles["c"] // gc) * counts["c"]
    blocks = -(-tiles["n"] // (matrix.cols * units_n)) * counts["n"]
    rows = -(-tiles["h"] // units_h) * spec.w
    load = _tile_load(spec.weight, machine)
    stream = max(rows * matrix.passes.get(spec.operand_dtype, 1.0), load)
    return spec.x * spec.y * counts["h"] * blocks * passes * stream


def _tile_load(held: Operand, machine: Machine) -> float:
    """Cycles in which the array gets the tile that it holds: its own pace, or that of the way from where it lies."""
    matrix = machine.core.matrix
    load = matrix.rows if matrix.weight_load_cycles is None else matrix.weight_load_cycles
    direct = machine.path(held.space, "wfifo")
    path = direct or machine.path("spm", "wfifo")
    rate = path.bytes_per_cycle if path else math.inf
    if direct and held.space == "dram":
        rate = min(rate, machine.dram_bytes_per_second / (machine.clock_mhz * 1e6))
    return max(load, matrix.rows * matrix.cols * dtype(held.dtype).size_bytes / rate)


def _other_dataflow(spec: Contraction, tiles: dict[str, int], counts: dict[str, int], machine: Machine) -> float:
    """Array cycles of output- and input-stationary order: blocks of results or of the feature map, in sequence."""
    matrix = machine.core.matrix
    rate = matrix.passes.get(spec.operand_dtype, 1.0)
    units_n, units_h = unit_grid(machine, tiles["n"])
    rows = -(-tiles["h"] // units_h) * spec.w
    outer = spec.x * spec.y * counts["h"] * counts["n"] * counts["c"]
    if matrix.dataflow == "os":
        blocks = -(-rows // matrix.rows) * -(-tiles["n"] // (matrix.cols * units_n))
        fill = 0 if matrix.fold_overlap else matrix.rows + matrix.cols
        return outer * blocks * (spec.kh * spec.kw * tiles["c"] * rate + fill)
    gh, gw, gc = tap_block(spec, matrix, tiles["c"])
    passes = -(-spec.kh // gh) * -(-spec.kw // gw) * -(-tiles["c"] // gc)
    load = _tile_load(spec.a, machine)
    return outer * passes * -(-rows // matrix.cols) * max(tiles["n"] * rate, load)


def _drain_cycles(spec: Contraction, machine: Machine) -> float:
    elements = spec.x * spec.y * spec.h * spec.w * spec.n * (1 + len(spec.epilogue.after))
    if machine.core.drain is not None:
        return elements / machine.core.drain.elements_per_cycle
    vector = machine.core.vector
    return elements / vector.register_elements() if vector else 0.0
