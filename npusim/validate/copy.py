"""Kind `copy`: measured times of copies from DRAM into an on-chip memory."""

from __future__ import annotations

import numpy as np

from isa.dtypes import dtype as dtype_of
from isa.machine import Machine
from isa.program import DESC, INSTR, LAUNCH, Kernel, Program, descriptor, instruction
from isa.table import STOP, code
from isa.verify import verify
from npusim.validate.bench import Bench
from npusim.validate.summary import Outcome
from npusim.validate.table import Column, Row, TableError

NEEDS_HW = True
COLUMNS = (
    Column("rows"),
    Column("cols"),
    Column("dtype", ("dtype_in",)),
    Column("time_us", ("copy_done_us",)),
)
MAX_BYTES = 1 << 32
CHUNK_BYTES = 1 << 16


def name_of(row: Row) -> str:
    """The row in words."""
    return f"copy {row.text('rows')}x{row.text('cols')} {row.text('dtype')}"


def copy_program(machine: Machine, size_bytes: int) -> Program:
    """Return a program in which the cores take turns to copy chunks of `size_bytes` from DRAM.

    The chunks land in the same place over and over: only the transfer is looked at.
    """
    path = next((p for p in machine.core.paths if p.src == "dram" and p.pipe != "weights" and p.dst != "host"), None)
    if path is None:
        raise TableError(f"{machine.name} has no path from dram into a core's memory")
    chunk = max(1, min(CHUNK_BYTES, machine.core.spaces[path.dst].size_bytes // 2))
    turn = chunk * machine.cores
    rounds = -(-size_bytes // turn)
    kind = dtype_of("int8").code
    # r0: address, r1: bytes left, r2: chunks
    move = {"ext_reg": [1], "rows": 0}
    descs = [
        descriptor(path.dst, kind, (chunk,), (1,), **move),
        descriptor("dram", kind, (chunk,), (1,), base_reg=0, **move),
    ]
    lines = [
        instruction(code("loop"), a=2, imm=5),
        instruction(code("cp"), dst=0, a=1),
        instruction(code("addi"), dst=0, a=0, imm=turn),
        instruction(code("addi"), dst=1, a=1, imm=-turn),
        instruction(code("endl")),
        instruction(code("halt")),
    ]
    instrs = np.array(lines, INSTR)
    instrs["flags"] |= STOP if machine.issue == "vliw" else 0
    args = [(core * chunk, max(0, size_bytes - core * chunk), rounds) for core in range(machine.cores)]
    launch = np.zeros(1, LAUNCH)
    launch["grid"], launch["nargs"], launch["operator"] = machine.cores, 3, -1
    kernel = Kernel("copy", 0, len(lines), ("address", "bytes", "chunks"))
    return Program(
        "copy", machine.name, instrs, np.array(descs, DESC), (kernel,), launch, np.array(args, np.int64).reshape(-1),
        (), (),
    )  # fmt: skip


def measure(row: Row, bench: Bench) -> Outcome:
    """Simulate the copy, spread over all cores."""
    from npusim import api

    dtype = bench.dtype_of(row)
    size = row.integer("rows") * row.integer("cols") * dtype_of(dtype).size_bytes
    measured, limit = row.positive("time_us"), min(MAX_BYTES, bench.chip.memory.capacity_bytes)
    if size > limit:
        raise TableError(f"a copy of {size} bytes; at most {limit}")
    program = copy_program(bench.chip, size)
    verify(program, bench.chip)
    return bench.outcome_us(measured, api.simulate_program(program, bench.chip, dtype), row, 0, size)
