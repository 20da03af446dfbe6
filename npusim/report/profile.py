"""The numbers behind every report, computed once from a Result: per operator, per pipe, per memory level.

Reports draw and print; they do not compute. What they show is a sum or a quotient of `npusim.record.Record`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt

from isa.program import LAUNCH_HOST, Operator
from npusim.record import CAUSES, Result
from npusim.report import limits
from npusim.report.limits import Level
from npusim.report.stalls import (
    ARITHMETIC,
    BUSY,
    PipeGroup,
    check_states,
    group_states,
    pipe_groups,
    root_cause,
    top_cause,
)

Array = npt.NDArray[Any]

# An operator that uses at least this share of a resource is bound by it; below, what it waits for names the bound.
BOUND_SHARE = 0.5

BOUNDS = ("compute", "memory", "on-chip", "latency", "dispatch", "launch", "sync", "host", "none")
_BOUND_OF_CAUSE = {
    "busy_dma": "memory",
    "busy_weights": "on-chip",
    "busy_scalar": "dispatch",
    "busy_matrix": "compute",
    "busy_vector": "compute",
    "busy_cross_lane": "compute",
    "busy_drain": "compute",
    "memory_bandwidth": "memory",
    "port_conflict": "on-chip",
    "dispatch": "dispatch",
    "queue_full": "dispatch",
    "wait_scalar": "dispatch",
    "launch": "launch",
    "barrier": "sync",
    "host": "host",
    "none": "none",
}

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

    `bound_by`: `host` when the host runs it. Otherwise the resource with the largest share of use, if that is at
    least `BOUND_SHARE`: compute (busy share of the busiest arithmetic pipe), memory (DRAM bytes against the peak),
    on-chip (the fullest on-chip path). Otherwise no roof is near, and its busiest pipe decides: if that works at least
    `BOUND_SHARE` of the time, a copy engine means memory, a weight port on-chip, the sequencer dispatch; else the cause
    behind its waiting, followed from pipe to pipe: a busy pipe (as above, or compute), memory (bandwidth), on-chip
    (port conflict), dispatch (dispatch, queue full, wait for scalar), launch, sync (barrier), latency (all else).
    `top_stall` is the first cause of that chain.
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
        self.groups: tuple[PipeGroup, ...] = pipe_groups(result.record.pipes, result.record.states.shape[1])
        self.levels: tuple[Level, ...] = limits.levels(result.machine)
        self.launch_bytes = limits.level_bytes(result)
        self.launch_states = group_states(result.record.states, self.groups)
        self.states: Array = self.launch_states.sum(axis=0)  # [groups, causes]

    def seconds(self, cycles: float) -> float:
        """Core cycles as seconds."""
        return cycles / limits.clock_hz(self.machine)

    @cached_property
    def rows(self) -> list[OpRow]:
        """One row an operator of the program, in the program's order."""
        operators = self.result.program.operators
        chosen: list[list[int]] = [[] for _ in operators]
        for launch, operator in enumerate(self.result.program.launches["operator"].tolist()):
            if 0 <= operator < len(operators):
                chosen[operator].append(launch)
        return [self._row(operator, launches) for operator, launches in zip(operators, chosen)]

    def _row(self, operator: Operator, launches: list[int]) -> OpRow:
        span = self.result.record.launch_span[launches]
        cycles = int((span[:, 1] - span[:, 0]).sum())
        moved = self.launch_bytes[launches].sum(axis=0)
        dram = int(moved[0])
        flops = max(operator.flops, 2 * operator.macs)
        work = 2 * operator.macs or flops
        peak = limits.roof_flops_per_cycle(self.machine, operator.dtype, bool(operator.macs))
        bound, stall = self._bound(launches, cycles, moved)
        return OpRow(
            operator.name, operator.op_type, family(operator.op_type), operator.shape, operator.dtype,
            int(span[:, 0].min(initial=self.total_cycles)) if launches else 0, int(span[:, 1].max(initial=0)), cycles,
            operator.macs, flops, work, dram, {lv.key: int(b) for lv, b in zip(self.levels[1:], moved[1:])},
            work / dram if dram else None, work / (peak * cycles) if peak and cycles else 0.0, bound, stall,
            operator.approximated,
        )  # fmt: skip

    def _bound(self, launches: list[int], cycles: int, moved: Array) -> tuple[str, str]:
        if not cycles:
            return "none", "none"
        states = self.launch_states[launches].sum(axis=0)
        busy = np.array([states[i, BUSY] / g.instances for i, g in enumerate(self.groups)])
        busiest = int(busy.argmax())
        stall = top_cause(states[busiest])
        kinds = self.result.program.launches["kind"][launches]
        if bool((kinds == LAUNCH_HOST).all()):
            return "host", "host"
        arithmetic = [busy[i] for i, g in enumerate(self.groups) if g.pipe_class in ARITHMETIC]
        used = {
            "compute": max(arithmetic, default=0) / cycles,
            "memory": moved[0] / (self.levels[0].peak * cycles),
            "on-chip": max((b / (lv.peak * cycles) for lv, b in zip(self.levels, moved) if lv.on_chip), default=0),
        }
        bound = max(used, key=lambda name: float(used[name]))
        if used[bound] >= BOUND_SHARE:
            return bound, stall
        cause = root_cause(states, self.groups, busiest)
        if busy[busiest] >= BOUND_SHARE * cycles:  # a copy engine, a weight port or the sequencer
            cause = f"busy_{self.groups[busiest].pipe_class}"
        return _BOUND_OF_CAUSE.get(cause, "latency"), stall

    @cached_property
    def dtypes(self) -> list[str]:
        """The operand dtypes of operators that use the arrays, the default first."""
        used = {o.dtype for o in self.result.program.operators if o.macs and o.dtype in self.machine.core.matrix.passes}
        return sorted(used, key=lambda d: (d != self.result.dtype, d))

    @cached_property
    def utilization(self) -> dict[str, float]:
        """Share of the arrays' peak by dtype over the whole run, and `work_weighted`, their sum.

        The sum is work over the work-weighted (harmonic) mean of the peaks: sum(F_d / P_d) / time.
        """
        by_dtype = dict.fromkeys(self.dtypes, 0.0)
        cycles = self.total_cycles or 1
        for operator in self.result.program.operators:
            if operator.dtype in by_dtype:
                by_dtype[operator.dtype] += operator.macs / (self.machine.macs_per_cycle(operator.dtype) * cycles)
        return {**by_dtype, "work_weighted": sum(by_dtype.values())}

    @cached_property
    def speed_of_light(self) -> list[Share]:
        """Compute, DRAM bandwidth and each path that moved bytes, as shares of their peaks over the whole run."""
        seconds = self.seconds(self.total_cycles) or 1.0
        out = []
        for dtype in self.dtypes:
            peak = limits.flops_per_cycle(self.machine, dtype) * limits.clock_hz(self.machine)
            share = self.utilization[dtype]
            out.append(Share(f"Compute ({dtype})", share, share * peak / 1e12, peak / 1e12, "TFLOP/s"))
        for i, (level, moved) in enumerate(zip(self.levels, self.launch_bytes.sum(axis=0))):
            if moved or i == 0:
                peak = level.peak * limits.clock_hz(self.machine) / 1e9
                rate = float(moved) / seconds / 1e9
                label = f"{level.label} bandwidth" if i == 0 else level.label
                out.append(Share(label, rate / peak, rate, peak, "GB/s"))
        return out

    @cached_property
    def costliest(self) -> list[OpRow]:
        """Operators by falling cycles."""
        return sorted(self.rows, key=lambda r: -r.cycles)

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


def top_rows(rows: Sequence[OpRow], count: int) -> list[OpRow]:
    """The `count` costliest of `rows` that took any time."""
    return [r for r in sorted(rows, key=lambda r: -r.cycles)[:count] if r.cycles]
