"""Build small programs and machines by hand, for the tests of the functional executor and the hazard checker."""

from __future__ import annotations

from typing import Any

import numpy as np

from isa.dtypes import DTYPES, dtype
from isa.machine import Machine
from isa.memory import DramTiming
from isa.program import DESC, INSTR, LAUNCH, Kernel, Operator, Program, Tensor, descriptor, instruction
from isa.table import code

DRAM_BYTES = 1 << 24


def machine(dataflow: str = "ws", issue: str = "vliw", cores: int = 1, drain: bool = False) -> Machine:
    """A test machine: 2 matrix units, vector, cross-lane, a load and a store engine, a second load engine."""
    timing = dict.fromkeys(DramTiming.model_fields, 4) | {"nRC": 8, "nREFI": 1000, "nCCD_S": 2}
    dram = {"tck_ps": 1000, "bus_bits": 64, "data_rate": 2, "burst_length": 4, "bank_groups": 1, "banks_per_group": 4,
            "page_bytes": 1024, "rows": 8192, "timing": timing}  # fmt: skip
    core: dict[str, Any] = {
        "spaces": {"spm": {"size_bytes": 65536}, "acc": {"size_bytes": 32768}, "wfifo": {"size_bytes": 65536}},
        "matrix": {"count": 2, "rows": 16, "cols": 16, "dataflow": dataflow, "weight_fifo_tiles": 2,
                   "passes": dict.fromkeys(DTYPES, 1.0),
                   "accumulate": {k: "fp32" if v.is_float else "int32" for k, v in DTYPES.items()}},
        "vector": {"lanes": 8},
        "cross_lane": {"elements_per_cycle": 8, "latency_cycles": 4},
        "dma": {"load": {"count": 2}, "store": {}},
        "paths": [
            {"src": s, "dst": d, "pipe": p, "bytes_per_cycle": 8}
            for s, d, p in (("dram", "spm", "load"), ("spm", "dram", "store"), ("spm", "spm", "load"),
                            ("spm", "wfifo", "weights"), ("dram", "dram", "store"))
        ],
    }
    if issue == "vliw":
        core["bundle"] = {"scalar": 2, "dma": 2, "vector": 1, "matrix": 1}
    if drain:
        core["drain"] = {"elements_per_cycle": 8, "latency_cycles": 4, "activations": []}
    return Machine.model_validate(
        {"name": "test", "issue": issue, "default_dtype": "fp32", "clock_mhz": 1000, "cores": cores, "core": core,
         "memory": {"dram": dram, "channels": 1, "capacity_bytes": DRAM_BYTES}}
    )


def packed(ext: tuple[int, ...], kind: str) -> tuple[int, ...]:
    """Row-major byte strides."""
    strides, step = [], dtype(kind).size_bytes
    for count in reversed(ext):
        strides.append(step)
        step *= count
    return tuple(reversed(strides))


class Asm:
    """One kernel under construction."""

    def __init__(self) -> None:
        self.instrs: list[Any] = []
        self.descs: list[Any] = []
        self.tensors: list[Tensor] = []
        self.top = 0

    def put(self, name: str, **fields: Any) -> int:
        """Append an instruction; returns its index."""
        self.instrs.append(instruction(code(name), **fields))
        return len(self.instrs) - 1

    def op(self, name: str, *descs: int | None, **fields: Any) -> int:
        """Append a data instruction with operands D, A, B, C."""
        names = dict(zip(("dst", "a", "b", "c"), descs))
        return self.put(name, **{k: v for k, v in names.items() if v is not None}, **fields)

    def d(self, space: str, kind: str, ext: tuple[int, ...], base: int = 0, stride: Any = None, **fields: Any) -> int:
        """Add a descriptor (packed unless strides are given); returns its index."""
        self.descs.append(descriptor(space, dtype(kind).code, ext, stride or packed(ext, kind), base=base, **fields))
        return len(self.descs) - 1

    def tensor(self, name: str, shape: tuple[int, ...], kind: str, role: str, **fields: Any) -> int:
        """Place a tensor in DRAM; returns its address."""
        address = self.top
        self.tensors.append(Tensor(name, "dram", address, shape, kind, role, **fields))
        self.top += -(-int(np.prod(shape)) * dtype(kind).size_bytes // 64) * 64
        return address

    def program(self, args: list[list[int]] | None = None, launches: int = 1, cores: int = 1) -> Program:
        """The program: `launches` runs of the kernel; args[launch] is shared by all cores."""
        if not self.instrs or self.instrs[-1]["op"] != code("halt"):
            self.put("halt")
        args = args or [[] for _ in range(launches)]
        nargs, rows = len(args[0]), np.zeros(len(args), LAUNCH)
        flat: list[int] = []
        for row, values in zip(rows, args):
            row["grid"], row["nargs"], row["args"], row["host_op"] = cores, nargs, len(flat), -1
            flat += values * cores
        outputs = tuple(t.name for t in self.tensors if t.role == "output")
        operator = Operator("test", "Test", (), (), "fp32", 0, 0, 0, outputs=outputs)
        kernel = Kernel("k", 0, len(self.instrs), tuple(f"p{i}" for i in range(nargs)))
        descs = np.array(self.descs, DESC) if self.descs else np.zeros(0, DESC)
        return Program("test", "test", np.array(self.instrs, INSTR), descs, (kernel,), rows,
                       np.array(flat, np.int64), tuple(self.tensors), (operator,))  # fmt: skip


def no_host(*_: Any) -> Any:
    """A host function for programs without host operators."""
    raise AssertionError("no host operator expected")
