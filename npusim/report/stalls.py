"""Where the cycles of the pipes went: pipes grouped by label, and the causes of their waiting.

The engine accounts for every cycle of every pipe; here that is verified once, then only summed.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from isa.errors import SimulationError
from isa.params import resolve
from isa.table import PIPE_CLASS_NAMES
from npusim.record import CAUSE_ID, CAUSES, PipeInfo, Result

Array = npt.NDArray[Any]
BUSY, DRAINED = CAUSE_ID["busy"], CAUSE_ID["drained"]
ARITHMETIC = ("matrix", "vector", "cross_lane", "drain")
DMA = "dma"


@dataclass(frozen=True)
class PipeGroup:
    """Pipes of one kind: label, class name, indices into `Record.states`, instances on the whole chip."""

    label: str
    pipe_class: str
    members: tuple[int, ...]
    instances: int


def pipe_class(pipe: PipeInfo) -> str:
    """The class name of a pipe; every copy engine is `dma`, whatever its own name."""
    return pipe.pipe_class if pipe.pipe_class in PIPE_CLASS_NAMES else DMA


def pipe_groups(pipes: Sequence[PipeInfo], cores: Sequence[int]) -> tuple[PipeGroup, ...]:
    """Group pipes whose labels differ in the unit number only (MXU0, MXU1 become MXU), in pipe order.

    `cores` says how many cores have each pipe.
    """
    stems: dict[tuple[str, str], list[PipeInfo]] = {}
    for pipe in pipes:
        stems.setdefault((pipe.pipe_class, pipe.label.removesuffix(str(pipe.unit))), []).append(pipe)
    groups: dict[tuple[str, str], list[PipeInfo]] = {}
    for (kind, stem), members in stems.items():
        label = stem if len(members) > 1 and stem else members[0].label
        groups.setdefault((label, kind), []).extend(members)
    labels = [label for label, _ in groups]
    return tuple(
        PipeGroup(
            label if labels.count(label) == 1 else f"{label} ({kind})",
            pipe_class(members[0]),
            tuple(p.index for p in members),
            sum(int(cores[p.index]) for p in members),
        )
        for (label, kind), members in groups.items()
    )


def check_states(result: Result) -> None:
    """Raise SimulationError unless the states of each pipe of each core that has it sum to `total_cycles`."""
    record = result.record
    sums = record.states.sum(axis=(0, 3))  # [cores, pipes]
    wrong = np.argwhere(sums != record.total_cycles * resolve(result.machine).present)
    if len(wrong):
        core, pipe = (int(i) for i in wrong[0])
        raise SimulationError(
            f"core {core}, pipe {record.pipes[pipe].label}: its states sum to {int(sums[core, pipe])} cycles, the run "
            f"took {record.total_cycles}; {len(wrong)} pipe(s) differ. This is a fault of the engine's accounting"
        )


def group_states(states: Array, groups: Sequence[PipeGroup]) -> Array:
    """Sum states [n, cores, pipes, causes] over cores and the pipes of each group: [n, groups, causes]."""
    by_pipe = states.sum(axis=1)
    out = np.zeros((len(states), len(groups), len(CAUSES)), np.int64)
    for i, group in enumerate(groups):
        out[:, i] = by_pipe[:, list(group.members)].sum(axis=1)
    return out


def top_cause(states: Array) -> str:
    """The cause in states [causes] with most cycles, not counting busy and drained; `none` without such a cycle."""
    waiting = np.array(states, np.int64)
    waiting[[BUSY, DRAINED]] = 0
    best = int(waiting.argmax())
    return CAUSES[best] if waiting[best] > 0 else "none"


def percentages(values: Sequence[float] | Array, digits: int = 1) -> list[float]:
    """Shares in % rounded to `digits` so that they sum to exactly 100 (largest remainder); all 0 for an empty sum."""
    total = float(sum(values))
    if total <= 0:
        return [0.0] * len(values)
    unit = 10**digits
    exact = [100 * unit * float(v) / total for v in values]
    floors = [int(x) for x in exact]
    by_remainder = sorted(range(len(exact)), key=lambda i: (floors[i] - exact[i], i))
    for i in by_remainder[: 100 * unit - sum(floors)]:
        floors[i] += 1
    return [x / unit for x in floors]
