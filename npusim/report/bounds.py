"""What bounds an operator: the resource that it uses for most of its time, or the latencies between its steps.

The rule in one sentence: of all resources the one in use for the largest share of the operator's cycles is the bound
if that share is at least BOUND_SHARE; else no resource limits it and it is bound by latency, which its top stall names.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from isa.machine import Machine
from npusim.record import CAUSE_ID, PipeInfo
from npusim.report.limits import Level, path_kind
from npusim.report.stalls import ARITHMETIC, BUSY, DMA, PipeGroup, pipe_class, top_cause

Array = npt.NDArray[np.int64]

BOUND_SHARE = 0.6  # a resource in use for less of the time leaves room for another limit
# fmt: off
RESOURCES = {  # what must be in use for the share that counts; the first of equals is named
    "compute":   "an arithmetic pipe is busy (padding included)",
    "memory":    "DRAM moves bytes at its peak rate, or a copy engine on DRAM works or is held up by its bandwidth",
    "host link": "the link to the host moves bytes at its peak rate, or its copy engine works",
    "on-chip":   "a path inside the chip moves bytes at its peak rate, or its copy engine or weight port works",
    "dispatch":  "the sequencer executes scalar code",
    "launch":    "the kernel is being launched",
    "sync":      "the sequencer stands at a barrier",
}
# fmt: on
BOUNDS = (*RESOURCES, "host", "latency", "none")


@dataclass(frozen=True)
class Bound:
    """The bound of an operator, the share of its cycles in which that resource is in use (0 for latency, host, none),
    and the cause for which its busiest pipe waits most (the sequencer only when nothing else works)."""

    name: str
    share: float
    stall: str


def pipe_kinds(machine: Machine, pipes: Sequence[PipeInfo], groups: Sequence[PipeGroup]) -> list[str]:
    """The resource that each pipe group is: engines and ports by the first of their paths."""
    engines = [name for name, engine in machine.core.dma.items() for _ in range(engine.count)]
    owners = dict(zip((p.index for p in pipes if pipe_class(p) == DMA), engines))
    kinds = []
    for group in groups:
        name = owners.get(group.members[0], group.pipe_class)
        paths = [p for p in machine.core.paths if p.pipe == name]
        if group.pipe_class in ARITHMETIC:
            kinds.append("compute")
        elif group.pipe_class == "scalar":
            kinds.append("dispatch")
        else:
            kinds.append(path_kind(paths[0]) if paths else "on-chip")
    return kinds


def shares(
    states: Array, moved: Array, cycles: int, groups: Sequence[PipeGroup], kinds: Sequence[str], levels: Sequence[Level]
) -> dict[str, float]:
    """The share of `cycles` in which each resource is in use; states [groups, causes], moved bytes [levels]."""
    found = dict.fromkeys(RESOURCES, 0.0)
    for row, group, kind in zip(states, groups, kinds):
        whole = cycles * group.instances
        used = int(row[BUSY]) + (int(row[CAUSE_ID["memory_bandwidth"]]) if kind == "memory" else 0)
        found[kind] = max(found[kind], used / whole)
        if group.pipe_class == "scalar":
            found["launch"] = int(row[CAUSE_ID["launch"]]) / whole
            found["sync"] = int(row[CAUSE_ID["barrier"]]) / whole
    for level, size_bytes in zip(levels, moved.tolist()):
        found[level.kind] = max(found[level.kind], size_bytes / (level.peak * cycles))
    return found


def bound(states: Array, used: dict[str, float], cycles: int, groups: Sequence[PipeGroup]) -> Bound:
    """The bound of an operator of `cycles` > 0 from its shares."""
    busy = [states[i, BUSY] / g.instances for i, g in enumerate(groups)]
    if any(n for n, g in zip(busy, groups) if g.pipe_class != "scalar"):  # what the sequencer waits for is behind these
        busy = [-1.0 if g.pipe_class == "scalar" else n for n, g in zip(busy, groups)]
    stall = top_cause(states[int(np.argmax(busy))])
    name = max(used, key=lambda key: used[key])
    if used[name] >= BOUND_SHARE:
        return Bound(name, min(1.0, used[name]), stall)
    return Bound("latency", 0.0, stall)
