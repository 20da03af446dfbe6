"""What the kinds that stress a chip's memory share: the chip of a row, a steady state, rates from counters."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import lru_cache
from typing import Any

import numpy.typing as npt

from isa.chip import MemoryChip
from isa.loader import load_chip
from npusim.memory.generator.backend import make_backend
from npusim.memory.generator.layout import K_READS, K_WRITES
from npusim.memory.generator.patterns import Pattern
from npusim.memory.generator.run import Run
from npusim.memory.generator.setup import Copy, make_copiers, make_generator
from npusim.validate.bench import Bench
from npusim.validate.devices import preset_of
from npusim.validate.table import Row, TableError

Array = npt.NDArray[Any]


@lru_cache(maxsize=16)
def _loaded(name: str, settings: tuple[str, ...]) -> MemoryChip:
    chip = load_chip(name, settings).chip
    if not isinstance(chip, MemoryChip) or chip.core.warps is None:
        raise TableError(f"{name} has no cores with threads, which this kind of benchmark needs; try --hw a100")
    return chip


def chip_of(row: Row, bench: Bench) -> MemoryChip:
    """The chip that a row was measured on, at the clock of its `clock_mhz` column where there is one."""
    name = preset_of(row.text("device"), bench.hw) or bench.hw
    chip = _loaded(name, bench.chip_settings)
    if not row.text("clock_mhz"):
        return chip
    return chip.model_copy(update={"clock_mhz": row.positive("clock_mhz")})


def start(chip: MemoryChip, pattern: Pattern) -> Run:
    """A generator of `pattern` in front of the chip's memory, idle and empty."""
    backend = make_backend(chip)
    state, l1 = make_generator(chip, pattern, send_cycles=backend.send_cycles, return_cycles=backend.return_cycles)
    return Run(state, l1, backend)


def start_after(chip: MemoryChip, before: Pattern | Sequence[Copy], pattern: Pattern) -> Run:
    """The same, after copies, or one block of another pattern a core, have filled the caches and come to their end."""
    backend = make_backend(chip)
    ways = {"send_cycles": backend.send_cycles, "return_cycles": backend.return_cycles}
    if isinstance(before, Pattern):
        run = Run(*make_generator(chip, before, block_limit=before.cores or chip.cores, **ways), backend)
    else:
        run = Run(*make_copiers(chip, before, **ways), backend)
    run.drain()
    state, l1 = make_generator(chip, pattern, first_cycle=run.cycle, **ways)
    run.follow(state)
    if not isinstance(before, Pattern):
        run.l1 = l1
    return run


def cache_bytes(chip: MemoryChip) -> int:
    """Bytes of the shared cache."""
    l2 = chip.memory.l2
    return l2.size_bytes * l2.slices if l2 is not None else 0


def moved(counters: Array) -> int:
    """Bytes that have crossed the ports of all cores."""
    return int(counters[K_READS] + counters[K_WRITES])


def settle(run: Run, warm: Callable[[Array], bool], cycles: tuple[int, int]) -> None:
    """Leave out the run until `warm` says that its counters show a steady state; `cycles` are those of `steady`."""
    while not warm(run.advance(_step(cycles))):
        pass


def steady(run: Run, counter: int, *, least: int, cycles: tuple[int, int]) -> tuple[int, int]:
    """Go on for at least `least` counts of a counter and `cycles[0]` cycles, at most `cycles[1]`.

    Returns those counts and cycles.
    """
    step, counters = _step(cycles), run.state.counters
    first, before = run.cycle, int(counters[counter])
    while run.cycle - first < cycles[0] or (counters[counter] - before < least and run.cycle - first < cycles[1]):
        counters = run.advance(step)
    return int(counters[counter] - before), run.cycle - first


def _step(cycles: tuple[int, int]) -> int:
    return max(1, cycles[0] // 8)


def giga_bytes_per_second(size_bytes: int, cycles: int, chip: MemoryChip) -> float:
    """A rate from bytes and core cycles."""
    return size_bytes / cycles * chip.clock_mhz * 1e6 / 1e9
