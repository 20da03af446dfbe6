"""Machines and programs for the tests of the engine, and the comparison with the stepper."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from functional_fixture import Asm

from isa.dtypes import DTYPES
from isa.errors import DeadlockError
from isa.machine import Machine
from isa.memory import DramTiming
from isa.params import Params, resolve
from isa.program import Program
from isa.table import DMA, STOP
from npusim.engine.run import run
from npusim.record import CAUSES, Record
from npusim.stepper import Stepped, step

LOAD, STORE = DMA, DMA + 1  # pipe classes of the engines, as `set` names them
ALL_OPS = {"exp": 2.5, "div": 3}


def small_machine(issue: str = "vliw", **changes: Any) -> Machine:
    """A machine on which a few cycles matter; `changes` by dotted key (`core.matrix.rows`, `memory.model`)."""
    timing = dict.fromkeys(DramTiming.model_fields, 3) | {"nRC": 6, "nRAS": 3, "nREFI": 400, "nRFC": 20, "nCCD_S": 2}
    tree: dict[str, Any] = {
        "name": "small", "issue": issue, "default_dtype": "fp32", "clock_mhz": 700, "cores": 1, "launch_cycles": 7,
        "core": {
            "scalar": {"slots": 2, "registers": 32, "cycles": 1},
            "window": 12,
            "flags": 16,
            "spaces": {"spm": {"size_bytes": 8192}, "acc": {"size_bytes": 4096}, "wfifo": {"size_bytes": 4096}},
            "matrix": {"count": 2, "rows": 4, "cols": 4, "weight_fifo_tiles": 2, "queue_depth": 3,
                       "weight_request_bytes": 32, "weight_outstanding": 2,
                       "passes": {k: 1.5 if k == "fp32" else 1 for k in DTYPES},
                       "accumulate": {k: "fp32" if v.is_float else "int32" for k, v in DTYPES.items()}},
            "vector": {"lanes": 4, "sublanes": 2, "load_ports": 1, "latency_cycles": 2, "queue_depth": 3,
                       "op_cycles": ALL_OPS},
            "cross_lane": {"elements_per_cycle": 4, "latency_cycles": 5, "queue_depth": 2},
            "drain": {"elements_per_cycle": 3, "latency_cycles": 2, "activations": ["relu"], "queue_depth": 2},
            "dma": {"load": {"count": 2, "queue_depth": 3, "outstanding": 3, "request_bytes": 64, "startup_cycles": 5},
                    "store": {"queue_depth": 2, "outstanding": 2, "request_bytes": 32}},
            "paths": [
                {"src": s, "dst": d, "pipe": p, "bytes_per_cycle": rate, "latency_cycles": latency}
                for s, d, p, rate, latency in (
                    ("dram", "spm", "load", 16, 1), ("spm", "dram", "store", 8, 0), ("spm", "spm", "load", 32, 3),
                    ("spm", "wfifo", "weights", 16, 1), ("dram", "wfifo", "weights", 16, 0),
                )
            ],
        },
        "memory": {
            "dram": {"tck_ps": 1250, "bus_bits": 64, "data_rate": 2, "burst_length": 4, "bank_groups": 2,
                     "banks_per_group": 2, "page_bytes": 512, "rows": 4096, "timing": timing},
            "channels": 2, "capacity_bytes": 1 << 20, "interleave_bytes": 64, "model": "ideal",
            "request_latency_cycles": 4, "response_latency_cycles": 3, "ideal_bytes_per_cycle": 24.5,
        },
    }  # fmt: skip
    if issue == "vliw":
        tree["core"]["bundle"] = {"scalar": 3, "vector": 2, "matrix": 2, "dma": 2, "misc": 3}
    for key, value in changes.items():
        *path, last = key.split(".")
        part = tree
        for name in path:
            part = part[name]
        part[last] = value
    return Machine.model_validate(tree)


def finish(asm: Asm, vliw: bool = True, **launch: Any) -> Program:
    """The program of `asm`; on a vliw machine each instruction is its own bundle but for those listed in `asm.open`."""
    program = asm.program(**launch)
    if vliw:
        program.instrs["flags"] |= STOP
    for index in getattr(asm, "open", ()):
        program.instrs["flags"][index] ^= STOP
    return program


def both(program: Program, machine: Machine) -> tuple[Record, Stepped, Params]:
    """Run engine and stepper; assert that they agree in every number."""
    params = resolve(machine)
    try:
        record = run(program, params)
    except DeadlockError:
        with pytest.raises(DeadlockError):
            step(program, params)
        raise
    stepped = step(program, params)
    assert_equal(record, stepped)
    return record, stepped, params


def assert_equal(record: Record, stepped: Stepped) -> None:
    """Engine and stepper agree: cycles, states by pipe and cause, bytes, MACs, instructions, every event."""
    found = sorted(tuple(int(row[n]) for n in record.events.dtype.names) for row in record.events)
    assert found == stepped.events
    assert record.total_cycles == stepped.total_cycles
    for name in ("launch_span", "path_bytes", "dram_bytes", "macs", "issued"):
        np.testing.assert_array_equal(getattr(record, name), getattr(stepped, name), err_msg=name)
    differences = [
        f"launch {where[0]} core {where[1]} {record.pipes[where[2]].label} {CAUSES[where[3]]}: "
        f"engine {record.states[tuple(where)]}, stepper {stepped.states[tuple(where)]}"
        for where in np.argwhere(record.states != stepped.states)
    ]
    assert not differences, "\n".join(differences)
    assert_conserved(record)


def assert_conserved(record: Record) -> None:
    """Every cycle of every pipe instance is in exactly one state."""
    spans = record.launch_span[:, 1] - record.launch_span[:, 0]
    assert (record.states >= 0).all()
    assert (record.states.sum(axis=3) == spans[:, None, None]).all()
    assert record.total_cycles == record.launch_span[-1, 1]
