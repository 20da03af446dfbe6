"""The numbers behind every report, computed once from a Result: per operator, per pipe, per memory level.

Reports draw and print; they do not compute. What they show is a sum or a quotient of `npusim.record.Record`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy.typing as npt

from isa.params import resolve
from isa.program import LAUNCH_HOST
from npusim.record import CAUSES, Result
from npusim.report import bounds, limits
from npusim.report.alike import common_name, group_alike
from npusim.report.limits import Level
from npusim.report.stalls import PipeGroup, check_states, group_states, pipe_groups
from npusim.report.text import percent, size

Array = npt.NDArray[Any]
OVERFETCH_SHOWN = 1.05  # bytes on the bus for a byte asked for: from here on reports say so

# Families for colours and markers, by what an operator's name contains; the first match counts.
FAMILIES = ("convolution", "matrix product", "attention", "normalise, reduce", "element-wise", "data movement")
_FAMILY_WORDS = (
    ("convolution", ("conv",)),
    ("attention", ("attention", "sdpa")),
    ("matrix product", ("matmul", "gemm", "einsum", "lstm", "gru", "rnn")),
    ("normalise, reduce", ("norm", "softmax", "reduce", "pool", "argmax", "topk", "cumsum", "lrn")),
    (
        "data movement",
        ("transpose", "reshape", "gather", "concat", "slice", "split", "pad", "expand", "tile", "resize", "copy",
         "scatter", "space", "squeeze", "flatten", "identity"),
    ),
)  # fmt: skip


@dataclass(frozen=True)
class OpRow:
    """One operator of a run.

    Times in core cycles; `macs` and `flops` without padding (two FLOP a MAC); `level_bytes` by `limits.Level.key`
    without DRAM. `work_flops` is what the operator's roof is about: two FLOP a MAC against the arrays or, without
    MACs, `flops` against the vector units. `arithmetic_intensity` is work_flops per DRAM byte, None without DRAM
    traffic; `utilization` is work_flops over the peak for the dtype.

    Work that the host does has no `utilization` (0): it says nothing about the chip.

    `bound_by` and `bound_share`: `host` when the host runs the operator, else by the rule of `npusim.report.bounds`:
    the resource that is in use for the largest share of its cycles, when that is at least `BOUND_SHARE`, else
    `latency`. `top_stall` is the cause for which its busiest pipe waits most. `count` is the number of operators that
    the row sums up: 1 but in `Profile.kind_rows`.
    """

    name: str
    op_type: str
    family: str
    shape: tuple[int, ...]
    dtype: str
    start_cycle: int
    end_cycle: int
    cycles: int
    macs: int
    flops: int
    work_flops: int
    dram_bytes: int
    level_bytes: dict[str, int]
    arithmetic_intensity: float | None
    utilization: float
    bound_by: str
    top_stall: str
    approximated: bool
    bound_share: float = 0.0
    count: int = 1

    @property
    def on_host(self) -> bool:
        """Whether the host does the work."""
        return self.bound_by == "host"


@dataclass(frozen=True)
class Share:
    """One line of the speed-of-light block: what is used, its share of the peak, achieved and peak in `unit`."""

    label: str
    share: float
    achieved: float
    peak: float
    unit: str


def family(op_type: str) -> str:
    """The family of an operator type, one of FAMILIES."""
    word = op_type.lower()
    return next((name for name, parts in _FAMILY_WORDS if any(p in word for p in parts)), "element-wise")


class Profile:
    """All derived numbers of one run; raises SimulationError when the pipes' states do not sum to the run's cycles."""

    def __init__(self, result: Result) -> None:
        check_states(result)
        self.result = result
        self.machine = result.machine
        self.total_cycles = result.record.total_cycles
        self.groups: tuple[PipeGroup, ...] = pipe_groups(
            result.record.pipes, resolve(result.machine).present.sum(axis=0).tolist())
        self.levels: tuple[Level, ...] = limits.levels(result)
        self.launch_bytes = limits.level_bytes(result)
        self.launch_states = group_states(result.record.states, self.groups)
        self.states: Array = self.launch_states.sum(axis=0)  # [groups, causes]
        self.pipe_kinds = bounds.pipe_kinds(result.machine, result.record.pipes, self.groups)
        self.operation = limits.operation(result.dtype)  # FLOP, or OP of integers

    def seconds(self, cycles: float) -> float:
        """Core cycles as seconds."""
        return cycles / limits.clock_hz(self.machine)

    @cached_property
    def launches_of(self) -> list[list[int]]:
        """The launches of every operator."""
        chosen: list[list[int]] = [[] for _ in self.result.program.operators]
        for launch, operator in enumerate(self.result.program.launches["operator"].tolist()):
            if 0 <= operator < len(chosen):
                chosen[operator].append(launch)
        return chosen

    @cached_property
    def rows(self) -> list[OpRow]:
        """One row an operator of the program, in the program's order."""
        return [self._row([i]) for i in range(len(self.result.program.operators))]

    @cached_property
    def kinds(self) -> list[list[int]]:
        """Operators that do the same, as indices into `rows`: the costliest kind and its costliest member first."""
        return group_alike(self.rows)

    @cached_property
    def kind_rows(self) -> list[OpRow]:
        """One row a kind, in the order of `kinds`: sums, rates of the sums, and a name for all."""
        return [self.rows[members[0]] if len(members) == 1 else self._row(members) for members in self.kinds]

    def _row(self, members: Sequence[int]) -> OpRow:
        """The row of one operator, or of several that do the same."""
        operator = self.result.program.operators[members[0]]
        launches = [launch for i in members for launch in self.launches_of[i]]
        span = self.result.record.launch_span[launches]
        cycles = int((span[:, 1] - span[:, 0]).sum())
        moved = self.launch_bytes[launches].sum(axis=0)
        dram, count = int(moved[0]), len(members)
        flops = max(operator.flops, 2 * operator.macs) * count
        work = 2 * operator.macs * count or flops
        peak = limits.roof_flops_per_cycle(self.machine, operator.dtype, bool(operator.macs))
        bound = self._bound(launches, cycles, moved)
        on_chip = peak and cycles and bound.name != "host"
        return OpRow(
            common_name([self.result.program.operators[i].name for i in sorted(members)]), operator.op_type,
            family(operator.op_type), operator.shape, operator.dtype,
            int(span[:, 0].min(initial=self.total_cycles)) if launches else 0, int(span[:, 1].max(initial=0)), cycles,
            operator.macs * count, flops, work, dram, {lv.key: int(b) for lv, b in zip(self.levels[1:], moved[1:])},
            work / dram if dram else None, work / (peak * cycles) if on_chip else 0.0, bound.name, bound.stall,
            operator.approximated, bound.share, count,
        )  # fmt: skip

    def _bound(self, launches: list[int], cycles: int, moved: Array) -> bounds.Bound:
        if not cycles:
            return bounds.Bound("none", 0.0, "none")
        if bool((self.result.program.launches["kind"][launches] == LAUNCH_HOST).all()):
            return bounds.Bound("host", 0.0, "host")
        states = self.launch_states[launches].sum(axis=0)
        used = bounds.shares(states, moved, cycles, self.groups, self.pipe_kinds, self.levels)
        return bounds.bound(states, used, cycles, self.groups)

    @cached_property
    def dtypes(self) -> list[str]:
        """The operand dtypes of operators that use the arrays, the default first."""
        used = {r.dtype for r in self.rows if r.macs and not r.on_host and r.dtype in self.machine.core.matrix.passes}
        return sorted(used, key=lambda d: (d != self.result.dtype, d))

    @cached_property
    def utilization(self) -> dict[str, float]:
        """Share of the arrays' peak by dtype over the whole run, and `work_weighted`, their sum.

        The sum is work over the work-weighted (harmonic) mean of the peaks: sum(F_d / P_d) / time. MACs that the host
        does are not in it (`host_macs`).
        """
        by_dtype = dict.fromkeys(self.dtypes, 0.0)
        cycles = self.total_cycles or 1
        for row in self.rows:
            if row.dtype in by_dtype and not row.on_host:
                by_dtype[row.dtype] += row.macs / (self.machine.macs_per_cycle(row.dtype) * cycles)
        return {**by_dtype, "work_weighted": sum(by_dtype.values())}

    @cached_property
    def host_macs(self) -> int:
        """MACs of the model that the host does."""
        return sum(row.macs for row in self.rows if row.on_host)

    @cached_property
    def host_bytes(self) -> int:
        """Bytes over the link to the host, both ways: by copy engines and for operators that the host runs."""
        return sum(int(n) for lv, n in zip(self.levels, self.launch_bytes.sum(axis=0)) if lv.kind == "host link")

    @cached_property
    def dram_bus_bytes(self) -> int | None:
        """Bytes of all bursts on the DRAM buses, asked for or not; None without bursts (ideal memory, closed forms)."""
        counters, memory = self.result.record.dram_counters, self.machine.memory
        if memory.model == "ideal" or not {"read_bursts", "write_bursts"} <= counters.keys():
            return None
        return (counters["read_bursts"] + counters["write_bursts"]) * memory.dram.burst_bytes

    @cached_property
    def overfetch(self) -> str:
        """A sentence when the bursts carry over 5 % more bytes than were asked for, else ''."""
        payload, bus = int(self.result.record.dram_bytes.sum()), self.dram_bus_bytes
        if bus is None or bus <= OVERFETCH_SHOWN * payload:
            return ""
        more = f", {percent(bus / payload - 1)} more" if payload else ""
        burst = self.machine.memory.dram.burst_bytes
        return f"{size(bus)} in bursts of {burst} B for {size(payload)} of data{more}"

    @cached_property
    def speed_of_light(self) -> list[Share]:
        """Compute, DRAM bandwidth and each path that moved bytes, as shares of their peaks over the whole run."""
        seconds = self.seconds(self.total_cycles) or 1.0
        out = []
        for dtype in self.dtypes:
            peak = limits.flops_per_cycle(self.machine, dtype) * limits.clock_hz(self.machine)
            share, (prefix, scale) = self.utilization[dtype], ("T", 1e12) if peak >= 1e11 else ("G", 1e9)
            unit = f"{prefix}{limits.operation(dtype)}/s"
            out.append(Share(f"Compute ({dtype})", share, share * peak / scale, peak / scale, unit))
        for i, (level, moved) in enumerate(zip(self.levels, self.launch_bytes.sum(axis=0))):
            if moved or i == 0:
                peak = level.peak * limits.clock_hz(self.machine) / 1e9
                rate = float(moved) / seconds / 1e9
                label = f"{level.label} bandwidth" if i == 0 else level.label
                out.append(Share(label, rate / peak, rate, peak, "GB/s"))
        return out

    def roof_cycles(self, row: OpRow) -> float:
        """The fewest cycles that an operator's own work and bytes allow: the largest of its roofs."""
        peak = limits.roof_flops_per_cycle(self.machine, row.dtype, bool(row.macs))
        moved = (row.dram_bytes, *row.level_bytes.values())
        return max(row.work_flops / peak if peak else 0.0, *(b / lv.peak for b, lv in zip(moved, self.levels)))

    def causes(self, group: int) -> list[tuple[str, int]]:
        """Causes of a pipe group with any cycles: busy first, then by falling cycles."""
        pairs = [(name, int(n)) for name, n in zip(CAUSES, self.states[group]) if n]
        return sorted(pairs, key=lambda p: (p[0] != "busy", -p[1]))

    def bound_cycles(self) -> list[tuple[str, int]]:
        """Cycles of the operators by what bounds them, falling."""
        totals: dict[str, int] = {}
        for row in self.rows:
            totals[row.bound_by] = totals.get(row.bound_by, 0) + row.cycles
        return sorted(totals.items(), key=lambda p: -p[1])
