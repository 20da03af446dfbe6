"""The machine under test: it compiles a graph, simulates it, and says how long the measured way of timing would see."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from isa.cost import dram_bytes_per_cycle, macs_per_cycle
from isa.machine import Machine
from npusim.record import CAUSES, Record, Result
from npusim.validate.summary import BUSY_SUFFIX, Outcome
from npusim.validate.table import Row, TableError

if TYPE_CHECKING:
    from compiler.graph import Graph

# What a time covers: the kernels alone; whole launches back to back; launches one by one, with the host's call.
TIMINGS = ("kernel", "graph", "eager")
DTYPE_NAMES = {
    "f16": "fp16", "float16": "fp16", "half": "fp16", "bfloat16": "bf16", "f32": "fp32", "float32": "fp32",
    "float": "fp32", "s8": "int8", "i8": "int8", "fp8": "fp8_e4m3",
}  # fmt: skip
SHOWN_STALLS = 4
BUSY = CAUSES.index("busy")
# Busy columns that name what a pipe does, by the label of the pipe that does it.
DONE_BY = {"l1tol0extract": "MTE1", "gmtol1load": "MTE2", "store": "FIXP"}  # without signs between the words
# A copy engine's own counter runs while it waits for the memory, or for what is written where it reads.
COPYING = [CAUSES.index(name) for name in ("busy", "memory_bandwidth", "memory_latency", "port_conflict")]


@dataclass(frozen=True)
class Bench:
    """A machine, `run.*` settings left to the compiler, a dtype that replaces the rows' own, a way of timing, and what
    a shared cache holds at the start.

    Kinds that need no programs get the chip's name, or file, and its settings instead of a machine.
    """

    machine: Machine | None
    settings: tuple[str, ...] = ()
    dtype: str = ""
    timing: str = "kernel"
    caches: str = ""
    hw: str = ""
    chip_settings: tuple[str, ...] = ()

    @property
    def chip(self) -> Machine:
        """The machine; kinds that need one are not started without."""
        if self.machine is None:
            raise TableError("this kind needs a chip: give --hw")
        return self.machine

    def dtype_of(self, row: Row) -> str:
        """What the row's tensors are stored in, by the names of isa.dtypes."""
        name = self.dtype or row.text("dtype", self.chip.default_dtype).lower()
        return DTYPE_NAMES.get(name, name)

    def run(self, graph: str | Graph, dtype: str) -> Result:
        """Compile and simulate a graph, or a zoo model by name."""
        from npusim import api

        compilation = api.compile(graph, self.chip, settings=self.settings, dtype=dtype)
        return api.simulate(compilation, self.chip, caches=self.caches)

    def cycles(self, result: Result) -> int:
        """The cycles that the way of timing sees."""
        launches = len(result.program.launches)
        cycles = result.record.total_cycles
        if self.timing == "kernel":
            return cycles - launches * self.chip.launch_cycles
        if self.timing == "eager":
            return cycles + round(launches * self.chip.host.op_latency_us * self.chip.clock_mhz)
        return cycles

    def outcome_us(self, measured_us: float, result: Result, row: Row, macs: int, size_bytes: int) -> Outcome:
        """Judge a row measured in microseconds, with its roofline of `macs` and `size_bytes`."""
        roofline = self.roofline(result.dtype, macs, size_bytes)
        clock = self.chip.clock_mhz
        cost = 0.0 if self.timing == "kernel" else self.chip.launch_cycles / clock
        return Outcome(
            measured_us, self.cycles(result) / clock, "us", measured_us, roofline / clock,
            busy_fractions(row, result), len(result.program.launches), cost, stalls_of(result.record),
        )  # fmt: skip

    def roofline(self, dtype: str, macs: int, size_bytes: int) -> float:
        """Core cycles at the chip's peaks: the baseline that a simulator must beat."""
        compute = macs / macs_per_cycle(self.chip, dtype) if macs else 0
        return float(max(compute, size_bytes / dram_bytes_per_cycle(self.chip)))


def stalls_of(record: Record) -> str:
    """The longest states of each pipe that did something (`MXU0: busy 61%, wait_dma 30%`), over cores and launches."""
    states = record.states.sum(axis=(0, 1))
    texts = []
    for pipe in record.pipes:
        if not states[pipe.index, BUSY]:
            continue
        total = max(1, int(states[pipe.index].sum()))
        order = np.argsort(-states[pipe.index], kind="stable")[:SHOWN_STALLS]
        parts = [f"{CAUSES[c]} {100 * states[pipe.index, c] / total:.0f}%" for c in order if states[pipe.index, c]]
        texts.append(f"{pipe.label}: {', '.join(parts)}")
    return " | ".join(texts)


def busy_fractions(row: Row, result: Result) -> dict[str, tuple[float, float]]:
    """Columns `*_busy_frac` beside the busy share of the pipes whose label begins with what stands before.

    Of cores of several kinds those of the first count; copy engines are busy while they wait for the memory, or for
    a port of one, too.
    """
    found: dict[str, tuple[float, float]] = {}
    record = result.record
    states = record.states[:, : result.machine.cores].sum(axis=(0, 1))
    for header, cell in row.raw.items():
        stem = "".join(c for c in header.lower().removesuffix(BUSY_SUFFIX) if c.isalnum())
        pipes = [p for p in record.pipes if p.label == DONE_BY.get(stem)] or [
            p for p in record.pipes if _letters(p.label) and stem.startswith(_letters(p.label))]
        if not header.lower().endswith(BUSY_SUFFIX) or not pipes or not cell.strip():
            continue
        busy = sum(states[p.index, COPYING if p.pipe_class == "dma" else BUSY].sum() for p in pipes)
        found[header] = (_share(header, cell), float(busy / max(1, states[[p.index for p in pipes]].sum())))
    return found


def _share(header: str, cell: str) -> float:
    try:
        share = float(cell)
    except ValueError:
        raise TableError(f"column {header}: {cell!r} is not a number") from None
    if not 0 <= share <= 1:
        raise TableError(f"column {header}: {cell} is no share of a time: give one from 0 to 1")
    return share


def _letters(text: str) -> str:
    return "".join(c for c in text.lower() if c.isalnum()).rstrip("0123456789")


def shape_of(text: str, name: str) -> tuple[int, ...]:
    """A shape written `128x512`; raises TableError."""
    parts = text.lower().split("x")
    if not all(part.isdigit() and 0 < int(part) <= 1 << 24 for part in parts) or len(parts) > 6:
        raise TableError(f"column {name}: {text!r} is not a shape of up to 6 extents joined by 'x'")
    return tuple(int(part) for part in parts)


def product(extents: Sequence[int]) -> int:
    """Product of extents."""
    result = 1
    for extent in extents:
        result *= extent
    return result
