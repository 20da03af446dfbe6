"""What each instruction of a kernel costs and which registers it touches, as tables. Here units convert."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import numpy.typing as npt

from isa.cache import Cache
from isa.errors import ConfigError
from isa.program import Kernel, Program
from isa.simt_machine import SimtMachine
from isa.table import BY_CODE, Op
from isa.table_simt import FMA, GUARD, GUARD_MASK, GUARD_SHIFT, IMMEDIATE, MMA_SHAPES, SIMT_PIPES, UNIFORM
from npusim.engine.simt.layout import LANE_ROW, PRED_ROW, SCALAR_ROW, USES
from npusim.units.warps.layout import I_COUNT

Array = npt.NDArray[Any]

PIPE_NAMES = {number: name for name, number in SIMT_PIPES.items()}
_FIELD = {"d": "dst", "a": "a", "b": "b", "c": "c"}


def cost_table(program: Program, kernel: Kernel, machine: SimtMachine) -> Array:
    """int64 [n, 4] by instruction of the kernel: interval and latency in cycles, row of the destination or -1, 1 (to
    be executed)."""
    rows = np.full((kernel.end - kernel.start, 4), -1, np.int64)
    rows[:, 3] = 1
    for i, record in enumerate(program.instrs[kernel.start : kernel.end]):
        op = BY_CODE[int(record["op"])]
        rows[i, :2] = _cost(op, machine)
        fields = [word.rstrip("?") for word in op.fields.split()]
        for kind, first in (("v", LANE_ROW), ("r", SCALAR_ROW), ("p", PRED_ROW)):
            if f"{kind}d" in fields and record["dst"] >= 0:
                rows[i, 2] = first + int(record["dst"])
    return rows


def pipe_of(op: Op, machine: SimtMachine) -> int:
    """The pipe class that an operation takes on a machine."""
    own = machine.core.operations.get(op.name)
    if own is not None and own.pipe is not None:
        return SIMT_PIPES[own.pipe]
    return op.pipe if op.pipe >= FMA else UNIFORM


def _cost(op: Op, machine: SimtMachine) -> tuple[int, int]:
    core = machine.core
    if op.name in MMA_SHAPES:
        found = core.mma.get(op.name)
        if found is None:
            raise ConfigError(f"{machine.name}: has no {op.name} (core.mma)")
        return found.interval_cycles, found.latency_cycles
    pipe = core.pipes[PIPE_NAMES[pipe_of(op, machine)]]
    own = core.operations.get(op.name)
    interval = pipe.interval_cycles if own is None or own.interval_cycles is None else own.interval_cycles
    latency = pipe.latency_cycles if own is None or own.latency_cycles is None else own.latency_cycles
    return interval, latency


def uses_table(program: Program, kernel: Kernel, code: Array) -> Array:
    """int64 [n, 2 USES]: runs (first, count) of scoreboard rows that each instruction reads or writes."""
    table = np.zeros((kernel.end - kernel.start, 2 * USES), np.int64)
    for i, record in enumerate(program.instrs[kernel.start : kernel.end]):
        runs = list(_uses(record, int(code[i, I_COUNT])))
        for n, (first, count) in enumerate(runs):
            table[i, 2 * n : 2 * n + 2] = first, count
    return table


def _uses(record: Any, count: int) -> Iterator[tuple[int, int]]:
    op = BY_CODE[int(record["op"])]
    if int(record["flags"]) & GUARD:
        yield PRED_ROW + ((int(record["flags"]) & GUARD_MASK) >> GUARD_SHIFT), 1
    shape = MMA_SHAPES.get(op.name)
    for word in op.fields.split():
        kind = word.rstrip("?")
        if len(kind) != 2 or kind[0] not in "vrps" or kind[1] not in _FIELD:
            continue
        value = int(record[_FIELD[kind[1]]])
        if value < 0 or (kind[0] == "s" and value >= IMMEDIATE):
            continue
        if kind[0] == "v":
            wide = {"a": 5, "b": 6, "c": 7, "d": 7}[kind[1]]
            data = kind == "vd" or (kind == "vc" and not op.name.startswith("cpa."))
            length = int(shape[wide]) if shape else max(1, count) if data else 1
            yield LANE_ROW + value, length
        else:
            yield {"r": SCALAR_ROW, "p": PRED_ROW, "s": 0}[kind[0]] + value, 1


def l1_of(machine: SimtMachine, carveout_bytes: int) -> Cache:
    """The L1 that shared memory leaves, in whole ways."""
    l1, unified = machine.core.l1, machine.core.shared.unified_bytes
    assert l1 is not None
    if not unified:
        return l1
    way = l1.size_bytes // l1.ways
    ways = max(1, min(l1.size_bytes, unified - carveout_bytes) // way)
    return l1.model_copy(update={"ways": ways, "size_bytes": ways * way})
